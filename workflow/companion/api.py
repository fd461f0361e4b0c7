"""Pages of the library, one per public module, from its docstrings; and which of it a chapter uses.

The pages are a directive of autodoc each.  Autosummary, which writes such pages, does it when Sphinx has begun: too
late for the table of contents of Jupyter Book, which leaves out every page that was not there before.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from companion import chapters
from narrowlib.store.files import visible_files

INDEX = chapters.MADE.rstrip("/")  # the page above them; without it in the table of contents there are none
PACKAGE = "narrowlib"
PAGE = """% made from {digest}

# `{name}`

```{{eval-rst}}
.. automodule:: {module}
   :members:
   :member-order: bysource
```
"""


@cache
def modules() -> dict[str, Path]:
    """Files of the public modules of the library, those of a folder after the others."""
    files = sorted(visible_files(chapters.ROOT / PACKAGE, "**/*.py"), key=lambda path: (len(path.parts), path.name))
    named = {".".join(path.relative_to(chapters.ROOT).with_suffix("").parts): path for path in files}
    return {module: path for module, path in named.items() if "._" not in module}


def page_of(module: str) -> str:
    """The page of a module."""
    return f"{INDEX}/{_short(module).replace('.', '-')}"


def _short(module: str) -> str:
    return module.removeprefix(f"{PACKAGE}.")  # which all of them share


@cache
def pages() -> dict[str, str]:
    """The pages in Markdown by name, each with the sum of its module; none without the page above them."""
    if INDEX not in chapters.pages():
        return {}
    return {
        page_of(module): PAGE.format(name=_short(module), module=module, digest=chapters.digest(path))
        for module, path in modules().items()
    }


def listing() -> str:
    """A table in Markdown of the modules, each with the first sentence of its docstring."""
    lines = ["| module | what it holds |", "|---|---|"]
    for module in modules():
        first = " ".join((ast.get_docstring(_tree(module)) or "").partition("\n\n")[0].split()).replace("|", "\\|")
        lines.append(f"| {{doc}}`{_short(module)} </{page_of(module)}>` | {first} |")
    return "\n".join(lines)


def used(source: str) -> str:
    """Links in Markdown to the functions and classes of the library that a cell imports by name; empty without any."""
    try:
        imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    except SyntaxError:
        return ""
    asked = [(node.module or "", alias.name) for node in imports for alias in node.names]
    links = [f"{{py:obj}}`~{home}.{name}`" for module, name in asked if (home := home_of(module, name))]
    return f":::{{container}} library\nFrom the library: {', '.join(links)}.\n:::" if links and pages() else ""


def home_of(module: str, name: str) -> str:
    """The module that defines what another one, or a package, offers by name; empty for what has no page."""
    if module.partition(".")[0] != PACKAGE:
        return ""
    if name in defined(module):
        return module if module in modules() else ""
    imports = [node for node in _tree(module).body if isinstance(node, ast.ImportFrom)]
    homes = [node.module or "" for node in imports if name in [alias.name for alias in node.names]]
    return home_of(homes[0], name) if homes else ""


def defined(module: str) -> set[str]:
    """Public functions and classes that a module defines."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in _tree(module).body if isinstance(node, kinds) and not node.name.startswith("_")}


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(chapters.module_path(module).read_text(encoding="utf-8"))
