"""The chapters of the book: their code, their parameters, and the key that says when they are stale.

Everything that the workflow knows about a chapter is here; the other scripts act on it.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import io
import json
import operator
import os
import re
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from companion.plainly import Refusal
from narrowlib.store.files import replacing

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "_build"
BOOK = ROOT / "book"
PROFILES = BOOK / "profiles"
DEFAULT_PROFILE = "quick"  # the defaults of the parameters cells; has no file
KEY_LENGTH = 16
PARSERS = {"int": int, "float": float, "str": str, "bool": lambda text: {"true": True, "false": False}[text.lower()]}
# At the end of a comment: [low, high], (low, high] or [low, high), or {one, another}.
_LEGAL = re.compile(r"(\[[^\[\]{},]+,[^\[\]{},]+[\])]|\([^\[\]{},]+,[^\[\]{},]+\]|\{[^{}]*\})\s*$")
KINDS = {"int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false"}


class ParameterError(Refusal):
    """A parameter that a chapter does not have, or a value that it does not take."""


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: ``name: type = default  # meaning [low, high]`` or ``{one, another}``."""

    name: str
    type: str
    default: Any
    meaning: str
    legal: str

    def parse(self, value: Any, others: Mapping[str, Any] | None = None) -> Any:
        """The value as its declared type, checked; text is read as that type.

        Parameters
        ----------
        value : object
        others : mapping, optional
            Values of the parameters that the range names, where it does.

        Raises
        ------
        ParameterError
            In one sentence, with the value and what is legal.
        """
        parsed = self.convert(value)
        if not self._is_legal(parsed, others or {}):
            raise ParameterError(f"{self.name} is {parsed!r}; it must be {self.describe()}")
        return parsed

    def describe(self) -> str:
        """What is legal, in words: ``a whole number in [1, 1000]``."""
        if self.legal.startswith("{"):
            return f"one of {self.legal[1:-1]}"
        return f"{KINDS[self.type]} in {self.legal}" if self.legal else KINDS[self.type]

    def convert(self, value: Any) -> Any:
        """The value as its declared type, its range not yet checked."""
        wrong = ParameterError(f"{self.name} is {value!r}; it must be {self.describe()}")
        if isinstance(value, str):
            try:
                return PARSERS[self.type](value)
            except (ValueError, KeyError):
                raise wrong from None
        if type(value).__name__ == self.type:
            return value
        if self.type == "float" and type(value) is int:
            return float(value)
        raise wrong

    def _is_legal(self, value: Any, others: Mapping[str, Any]) -> bool:
        if self.legal.startswith("{"):
            return str(value) in [choice.strip() for choice in self.legal[1:-1].split(",")]
        if not self.legal:
            return True
        low, high = (_arithmetic(bound, others) for bound in self.legal[1:-1].split(","))
        above = value >= low if self.legal[0] == "[" else value > low
        below = value <= high if self.legal[-1] == "]" else value < high
        return above and below


def _arithmetic(text: str, names: Mapping[str, Any]) -> float:
    """A bound: a number, or a product or sum of numbers and parameters."""
    operations = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}

    def value(node: ast.expr) -> float:
        if isinstance(node, ast.BinOp) and type(node.op) in operations:
            return operations[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -value(node.operand)
        if isinstance(node, ast.Name) and node.id in names:
            return names[node.id]
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            return node.value
        raise SyntaxError(f"a bound is a number, or a sum or product of numbers and parameters, not {text.strip()!r}")

    return value(ast.parse(text.strip(), mode="eval").body)


def repository() -> str:
    """Address of the repository: what REPOSITORY says, or `_config.yml`; empty when neither does."""
    named = os.environ.get("REPOSITORY", "")
    if not named:
        config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8")) or {}
        named = (config.get("repository") or {}).get("url") or ""
    return named.removesuffix("/").removesuffix(".git")


def pages() -> list[str]:
    """Every page of the table of contents, ``book/hierarchy`` and so on, in reading order."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [contents["root"], *_files(contents)]


def _files(node: Any) -> Iterator[str]:
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    if isinstance(node, dict) and "file" in node:
        yield node["file"]
    for child in children:
        yield from _files(child)


def names() -> list[str]:
    """Pages that hold code: what can be executed, by name without the folder ``book``."""
    found = [page.removeprefix("book/") for page in pages() if (ROOT / f"{page}.md").is_file()]
    return [name for name in found if "{code-cell}" in source_path(name).read_text(encoding="utf-8")]


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


def parameters(chapter: str) -> dict[str, Parameter]:
    """What the chapter's parameters cell declares; empty when it has none."""
    cells = [cell.source for cell in code_cells(chapter) if "parameters" in cell.metadata.get("tags", [])]
    return parse_parameters(cells[0]) if cells else {}


def parse_parameters(source: str) -> dict[str, Parameter]:
    """Read the declarations of a parameters cell."""
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    declared = {}
    for line in ast.parse(source).body:
        if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name) or line.value is None:
            what = ast.unparse(line)
            raise SyntaxError(f"a parameters cell holds lines of the form 'name: type = value', not {what!r}")
        if ast.unparse(line.annotation) not in KINDS:
            raise SyntaxError(f"a parameter's type is one of {', '.join(KINDS)}, not {ast.unparse(line.annotation)!r}")
        comment = comments.get(line.end_lineno, "")
        legal = _LEGAL.search(comment)
        name = line.target.id
        declared[name] = Parameter(
            name=name,
            type=ast.unparse(line.annotation),
            default=ast.literal_eval(line.value),
            meaning=comment[: legal.start()].strip() if legal else comment,
            legal=legal.group().strip() if legal else "",
        )
    return declared


def check_parameters(chapter: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as their declared types.

    Raises
    ------
    ParameterError
        For the first name that the chapter does not have, or value that it does not take.
    """
    declared = parameters(chapter)
    for name in values:
        if name not in declared:
            near = difflib.get_close_matches(name, declared, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ParameterError(f"{chapter} has no parameter {name!r}; {hint}it has {', '.join(declared) or 'none'}")
    given = {name: declared[name].convert(value) for name, value in values.items()}
    everything = {name: given.get(name, parameter.default) for name, parameter in declared.items()}
    for name, value in everything.items():  # those not given too: their ranges may depend on the others
        declared[name].parse(value, everything)
    return given


def profile_names() -> list[str]:
    """Names of the profiles: the defaults, and a file each."""
    return [DEFAULT_PROFILE, *sorted(path.stem for path in PROFILES.glob("*.yaml"))]


def profile_parameters(chapter: str, profile: str) -> dict[str, Any]:
    """What a profile sets for a chapter, checked.

    Raises
    ------
    ParameterError
        When there is no such profile, or it sets what the chapter does not take.
    """
    if profile not in profile_names():
        raise ParameterError(f"PROFILE is {profile!r}; it must be one of {', '.join(profile_names())}")
    if profile == DEFAULT_PROFILE:
        return {}
    file = PROFILES / f"{profile}.yaml"
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, ValueError) as error:  # an impossible date is a ValueError
        raise ParameterError(f"{file.name} is no YAML: {' '.join(str(error).split())}") from None
    given = settings.get(chapter) or {} if isinstance(settings, dict) else settings
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
        raise ParameterError(f"{file.name} holds {given!r} for {chapter}; it must hold values by the parameter's name")
    return check_parameters(chapter, given)


@cache
def _import_graph() -> Any:
    import grimp

    return grimp.build_graph("narrowlib", cache_dir=None)


def modules(chapter: str) -> list[str]:
    """Modules of narrowlib that the chapter's code imports, directly or through others."""
    direct = set()
    for cell in code_cells(chapter):
        try:
            tree = ast.parse(_without_magics(cell.source))
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


def _without_magics(source: str) -> str:
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
    records = ROOT / "results" / "paper" / chapter
    depends_on = {
        "cells": [[cell.source, sorted(cell.metadata.get("tags", []))] for cell in code_cells(chapter)],
        "parameters": dict(values),
        "modules": {name: digest(module_path(name)) for name in modules(chapter)},
        "constraints": digest(ROOT / "constraints.txt"),
        "claims": {name: claim for name, claim in claims().items() if claim["chapter"] == chapter},
        "records": {path.name: digest(path) for path in sorted(records.glob("*"))},
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
