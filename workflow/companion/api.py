"""Pages of the library, one per public module, from its docstrings; and which of it a chapter uses."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

from companion import chapters

INDEX = "book/appendix/api"  # the page above them; without it in the table of contents there are none
PACKAGE = "narrowlib"
PAGE = """# `{name}`

```{{eval-rst}}
.. automodule:: {module}
   :members:
   :member-order: bysource
```
"""


def modules() -> list[str]:
    """Public modules of the library, those of a folder after the others."""
    files = sorted((chapters.ROOT / PACKAGE).rglob("*.py"), key=lambda path: (len(path.parts), path.name))
    parts = [path.relative_to(chapters.ROOT).with_suffix("").parts for path in files if path.name != "__init__.py"]
    return [".".join(names) for names in parts if not any(name.startswith("_") for name in names)]


def page_of(module: str) -> str:
    """The page of a module."""
    return f"{INDEX}/{short(module).replace('.', '-')}"


def short(module: str) -> str:
    """A module's name without that of the library, which all of them share."""
    return module.removeprefix(f"{PACKAGE}.")


@cache
def pages() -> dict[str, str]:
    """The pages in Markdown by name; none when the table of contents does not name the page above them."""
    if INDEX not in chapters.pages():
        return {}
    return {page_of(module): PAGE.format(name=short(module), module=module) for module in modules()}


def listing() -> str:
    """A table in Markdown of the modules, each with the first sentence of its docstring."""
    lines = ["| module | what it holds |", "|---|---|"]
    for module in modules():
        first = (ast.get_docstring(_tree(module)) or "").partition("\n\n")[0]
        lines.append(
            f"| {{doc}}`{module} </{page_of(module)}>` | {' '.join(first.split()).replace('|', chr(92) + '|')} |"
        )
    return "\n".join(lines)


def with_pages(contents: dict[str, Any]) -> dict[str, Any]:
    """The table of contents with the modules' pages below theirs."""
    below = [{"file": page} for page in pages()]

    def grown(node: Any) -> Any:
        if isinstance(node, list):
            return [grown(child) for child in node]
        if isinstance(node, dict):
            more = {"sections": below} if below and node.get("file") == INDEX else {}
            return {key: grown(child) for key, child in node.items()} | more
        return node

    return grown(contents)


def used(source: str) -> str:
    """Links in Markdown to the functions and classes of the library that a cell imports by name; empty without any."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return ""
    links = [
        f"{{py:obj}}`~{node.module}.{alias.name}`"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == PACKAGE
        for alias in node.names
        if alias.name in defined(node.module)
    ]
    return "From the library: " + ", ".join(links) + "." if links and pages() else ""


def defined(module: str) -> set[str]:
    """Public functions and classes that a module defines."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in _tree(module).body if isinstance(node, kinds) and not node.name.startswith("_")}


@cache
def _tree(module: str) -> ast.Module:
    path = chapters.ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(Path(file).read_text(encoding="utf-8"))
