"""The chapters of the book: their code, their parameters, and the key that says when they are stale.

Everything that the workflow knows about a chapter is here; the other scripts act on it.
"""

import ast
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from companion import BUILD, ROOT
from companion.plainly import Refusal
from narrowlib.store.files import named_in, replacing, visible_files
from narrowlib.texts import load_yaml, read_text

BOOK = ROOT / "book"
KEY_LENGTH = 16
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}  # of every notebook
MADE = "book/appendix/api/"  # where pages are made when the book is laid out, see `companion.api`
NO_DATA = re.compile(r"(_|profiles/).*|.*\.(md|ipynb|bib)|(claims|differences)\.yaml")  # of what lies in the book
_WORD = re.compile(r"\w+")
_REPOSITORY = re.compile(
    r"(?:\w+://)?(?:[^/@]+@)?(?:www\.)?(?P<host>[\w.-]+)(?::\d+)?[/:](?P<path>[\w.-]+/[\w.-]+?)(?:\.git)?/*", re.A
)


def refused(read: Callable[..., Any], path: Path, *more: Any, **how: Any) -> Any:
    """What a function reads from a file of the book; what is wrong with it is refused by its name in the tree."""
    try:
        return read(path, *more, **how)
    except ValueError as error:
        raise Refusal(str(error).replace(f"{ROOT}{os.sep}", "")) from None


def text_of(path: Path) -> str:
    """The text of a file of the book."""
    return refused(read_text, path)


def configuration() -> dict[str, Any]:
    """What ``_config.yml`` holds, with the address of the repository, which is empty when nothing says it.

    Refused when REPOSITORY, or the file where that is not set, names no repository on GitHub.
    """
    config = refused(load_yaml, ROOT / "_config.yml", truths=True)
    about = config.get("repository") or {}
    if not isinstance(about, dict):
        raise Refusal(f"repository in _config.yml is {about!r}; it must hold url and branch")
    named = os.environ.get("REPOSITORY", "")
    where, named = ("REPOSITORY", named) if named else ("the url of repository in _config.yml", about.get("url") or "")
    return {**config, "repository": {**about, "url": _address(str(named).strip(), where)}}


def repository() -> str:
    """Address of the repository, see `configuration`."""
    return configuration()["repository"]["url"]


def _address(named: str, where: str) -> str:
    found = _REPOSITORY.fullmatch(named)
    server = urlsplit(os.environ.get("GITHUB_SERVER_URL", "")).hostname  # of an enterprise, in its workflows
    if found and found["host"].lower() in ("github.com", server):
        return f"https://{found['host'].lower()}/{found['path']}"
    if named:
        shown = re.sub(r"(?<=//)[^/@]+@", "", named)  # without a password, which no log should hold
        raise Refusal(f"{where} is {shown!r}; it must be on GitHub, such as https://github.com/OWNER/NAME, or empty")
    return ""


def contents() -> dict[str, Any]:
    """The table of contents, without the chapters that CHAPTERS does not name where it names some.

    Refused when CHAPTERS or the file names what there is not.
    """
    found = _without(refused(load_yaml, ROOT / "_toc.yml"), set())
    every, patterns = _listed(found)
    for page in every:
        if not page.startswith("book/") or not (ROOT / f"{page}.md").is_file():
            lacks = f"there is no {page}.md" if page.startswith("book/") else "it must begin with book/"
            raise Refusal(f"_toc.yml names {page!r}; {lacks}")
    if unknown := [pattern for pattern in patterns if not pattern.startswith(MADE)]:
        raise Refusal(f"_toc.yml holds glob: {unknown[0]}; it must name pages one by one, with file:")
    wanted = set(os.environ.get("CHAPTERS", "").replace(",", " ").split())
    known = [page.removeprefix("book/") for page in every if _holds_code(page)]
    if unknown := sorted(wanted - set(known)):
        raise Refusal(f"CHAPTERS holds {unknown[0]!r}; it must hold some of {', '.join(known)}")
    return _without(found, {f"book/{name}" for name in known if wanted and name not in wanted})


def _without(node: Any, left_out: set[str]) -> Any:
    """Contents without some pages, nor parts that hold nothing, without them or as they are written."""
    if isinstance(node, dict):
        kept = {name: _without(value, left_out) for name, value in node.items()}
        return {name: value for name, value in kept.items() if value not in ([], None)}
    if isinstance(node, list):
        kept = [(each, _without(each, left_out)) for each in node if f"{_file(each)}" not in left_out]
        return [new for each, new in kept if _file(each) or not isinstance(each, dict) or len(new) == len(each)]
    return node


def _file(entry: Any) -> Any:
    return entry.get("file") if isinstance(entry, dict) else None


def pages() -> list[str]:
    """Every page of the table of contents, ``book/hierarchy`` and so on, in reading order."""
    return _listed(contents())[0]


def _listed(contents: dict[str, Any]) -> tuple[list[str], set[str]]:
    """The pages of a table of contents in reading order, and its patterns, as Jupyter Book reads it."""
    from sphinx_external_toc.parsing import parse_toc_data

    try:
        site = parse_toc_data(contents)
    except Exception as error:  # not all of what it raises is its own
        raise Refusal(f"_toc.yml is not a table of contents: {error}") from None
    return list(site), site.globs()


def names() -> list[str]:
    """Pages that hold code: what can be executed, by name without the folder ``book``."""
    return [page.removeprefix("book/") for page in pages() if _holds_code(page)]


def _holds_code(page: str) -> bool:
    return "{code-cell}" in text_of(ROOT / f"{page}.md")


def source_path(chapter: str) -> Path:
    """The MyST notebook of a chapter."""
    return BOOK / f"{chapter}.md"


@cache
def read_notebook(chapter: str) -> Any:
    """The chapter as a notebook without outputs, its cell ids made from their position, its kernel that of the book.

    Refused when it is no MyST notebook, or one of another language.
    """
    import jupytext

    path, name = source_path(chapter), f"book/{chapter}.md"
    text = text_of(path)
    try:
        notebook = jupytext.reads(text, {"extension": path.suffix})
    except Exception as error:  # of YAML in its header or in a cell
        raise Refusal(f"{name} cannot be read as a MyST notebook: {' '.join(str(error).split())}") from None
    said = notebook.metadata.get("kernelspec", {}).get("language")
    for language in filter(None, [said, *re.findall(r"^```+\{code-cell\} *(\S+)", text, re.M)]):
        if not re.fullmatch(r"i?python\d?", language, re.I):
            raise Refusal(f"{name} holds code in {language!r}; it must be in Python, the only kernel of this book")
    notebook.metadata["kernelspec"] = KERNEL.copy()
    for number, cell in enumerate(notebook.cells):
        cell["id"] = cell_id(chapter, number)
    return notebook


def cell_id(chapter: str, what: Any) -> str:
    """A cell's id in the notebook of a chapter, whatever its page is called."""
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', chapter)[-40:]}-{what}"


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
    from narrowlib.claims import load_claims

    file = BOOK / "claims.yaml"
    return refused(load_claims, file) if file.is_file() else {}


def key(chapter: str, values: Mapping[str, Any]) -> str:
    """What an execution depends on, as a hash: equal keys, equal results.

    It covers the code cells, the parameters, the modules of narrowlib that they import, `data_files`, the lock file,
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
        "data": {path.relative_to(ROOT).as_posix(): digest(path) for path in data_files(chapter)},
        "constraints": digest(ROOT / "constraints.txt"),
        "claims": {name: claim for name, claim in claims().items() if claim["chapter"] == chapter},
        "records": {path.relative_to(ROOT).as_posix(): digest(path) for path in records},
    }
    canonical = json.dumps(depends_on, sort_keys=True, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:KEY_LENGTH]


def data_files(chapter: str) -> list[Path]:
    """Files of the book and of the library that the chapter may read.

    A module reads what lies beside it, or in the book, and has its name in quotes.  A cell may put names together, so
    of the book all counts of which the cells hold the ending, the stem or a folder.
    """
    inside = [path for path in visible_files(BOOK) if not NO_DATA.fullmatch(path.relative_to(BOOK).as_posix())]
    held = set().union(*(_WORD.findall(cell.source) for cell in code_cells(chapter)))
    found = set()
    for path in inside:
        names = (path.suffix or path.name, path.stem, *path.relative_to(BOOK).parts[:-1])
        found |= {path} if any(held.issuperset(_WORD.findall(name)) for name in names) else set()
    for file in map(module_path, modules(chapter)):
        found.update(named_in(file.read_bytes(), [*visible_files(file.parent, "*"), *inside]))
    return sorted(found)


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
