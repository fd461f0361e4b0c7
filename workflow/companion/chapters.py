"""The chapters of the book: their code, their parameters, and the key that says when they are stale.

Everything that the workflow knows about a chapter is here; the other scripts act on it.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from companion import BUILD, ROOT
from companion.plainly import Refusal
from narrowlib.store.files import replacing, visible_files

BOOK = ROOT / "book"
KEY_LENGTH = 16


def repository() -> str:
    """Address of the repository: what REPOSITORY says, or `_config.yml`; empty when neither does."""
    named = os.environ.get("REPOSITORY", "")
    if not named:
        config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8")) or {}
        named = (config.get("repository") or {}).get("url") or ""
    return named.removesuffix("/").removesuffix(".git")


def contents() -> dict[str, Any]:
    """The table of contents, without the chapters that CHAPTERS does not name where it names some.

    Raises
    ------
    Refusal
        When CHAPTERS or the file names what there is not.
    """
    found = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    every = [found["root"], *_files(found)]
    if missing := [page for page in every if not (ROOT / f"{page}.md").is_file()]:
        raise Refusal(f"_toc.yml names {missing[0]!r}; there is no {missing[0]}.md")
    wanted = set(os.environ.get("CHAPTERS", "").replace(",", " ").split())
    known = [page.removeprefix("book/") for page in every if _holds_code(page)]
    if unknown := sorted(wanted - set(known)):
        raise Refusal(f"CHAPTERS holds {unknown[0]!r}; it must hold some of {', '.join(known)}")
    return _without(found, {f"book/{name}" for name in known if wanted and name not in wanted})


def _without(node: Any, left_out: set[str]) -> Any:
    """Contents without some pages, nor parts that hold nothing without them."""
    if isinstance(node, dict):
        kept = {name: _without(value, left_out) for name, value in node.items()}
        return {name: value for name, value in kept.items() if value != []}
    if isinstance(node, list):
        kept = [_without(each, left_out) for each in node if each.get("file") not in left_out]
        return [each for each in kept if {"file", "glob", "chapters", "sections"} & set(each)]
    return node


def pages() -> list[str]:
    """Every page of the table of contents, ``book/hierarchy`` and so on, in reading order."""
    found = contents()
    return [found["root"], *_files(found)]


def _files(node: Any) -> Iterator[str]:
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    if isinstance(node, dict) and "file" in node:
        yield node["file"]
    for child in children:
        yield from _files(child)


def names() -> list[str]:
    """Pages that hold code: what can be executed, by name without the folder ``book``."""
    return [page.removeprefix("book/") for page in pages() if _holds_code(page)]


def _holds_code(page: str) -> bool:
    return "{code-cell}" in (ROOT / f"{page}.md").read_text(encoding="utf-8")


def source_path(chapter: str) -> Path:
    """The MyST notebook of a chapter."""
    return BOOK / f"{chapter}.md"


@cache
def read_notebook(chapter: str) -> Any:
    """The chapter as a notebook without outputs, its cell ids made from their position."""
    import jupytext

    notebook = jupytext.read(source_path(chapter))
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"{chapter.replace('/', '-')}-{number}"
    return notebook


def code_cells(chapter: str) -> list[Any]:
    """The chapter's code cells."""
    return [cell for cell in read_notebook(chapter).cells if cell.cell_type == "code"]


@cache
def _import_graph() -> Any:
    import grimp

    return grimp.build_graph("narrowlib", cache_dir=None)


def modules(chapter: str) -> list[str]:
    """Modules of narrowlib that the chapter's code imports, directly or through others."""
    direct = set()
    for cell in code_cells(chapter):
        try:
            tree = ast.parse(without_magics(cell.source))
        except SyntaxError:
            continue  # to be reported where the cell is executed, with its number
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                direct.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                direct.add(node.module)
                direct.update(f"{node.module}.{alias.name}" for alias in node.names)
    if not any(name.partition(".")[0] == "narrowlib" for name in direct):
        return []
    graph = _import_graph()
    direct &= graph.modules
    upstream = set().union(*(graph.find_upstream_modules(module) for module in direct))
    found = direct | upstream
    parents = {name.rpartition(".")[0] for name in found if "." in name}
    return sorted(found | parents)


def without_magics(source: str) -> str:
    return "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines())


def claims() -> dict[str, Any]:
    """The claims of the book by their id; none without the file."""
    file = BOOK / "claims.yaml"
    return (file.is_file() and yaml.safe_load(file.read_text(encoding="utf-8"))) or {}


def key(chapter: str, values: Mapping[str, Any]) -> str:
    """What an execution depends on, as a hash: equal keys, equal results.

    It covers the code cells, the parameters, the modules of narrowlib that they import, the lock file,
    the claims of the chapter and its recorded results.  Prose is not in it: a sentence may change
    without a cell being executed.
    """
    code = modules(chapter)
    recorded = [chapter] + ["small-base"] * ("narrowlib.llm.small_base" in code)  # whose weights it may load
    records = [file for name in recorded for file in visible_files(ROOT / "results" / "paper" / name, "*.*")]
    depends_on = {
        "cells": [[cell.source, sorted(cell.metadata.get("tags", []))] for cell in code_cells(chapter)],
        "parameters": dict(values),
        "modules": {name: digest(module_path(name)) for name in code},
        "constraints": digest(ROOT / "constraints.txt"),
        "claims": {name: claim for name, claim in claims().items() if claim["chapter"] == chapter},
        "records": {str(path.relative_to(ROOT)): digest(path) for path in records},
    }
    canonical = json.dumps(depends_on, sort_keys=True, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:KEY_LENGTH]


def module_path(module: str) -> Path:
    """The file of a module or package."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def digest(path: Path) -> str:
    """The sha256 sum of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def executed_path(chapter: str, values: Mapping[str, Any]) -> Path:
    """Where the executed notebook of a chapter with these parameters lies."""
    return BUILD / "executed" / chapter / f"{key(chapter, values)}.ipynb"


def write_if_changed(path: Path, content: str | bytes) -> bool:
    """Write a file, whole or not at all, unless it already holds this; True when written."""
    content = content.encode() if isinstance(content, str) else content
    if path.is_file() and path.read_bytes() == content:
        return False
    with replacing(path) as new:
        new.write_bytes(content)
    return True
