"""Write self-contained notebooks: for download, for the branch that Colab and Binder open, and for courses.

They use plain Markdown, and their first cell installs the release that they belong to if it is missing.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import nbformat

from companion import chapters, collect, myst
from companion.plan import read_plan

FOLDER = chapters.BUILD / "notebooks"
PACKAGE = "narrowlib"
SHOWN = ("text/plain", "text/html", "text/markdown", "text/latex", "image/png", "image/svg+xml")


def version() -> str:
    """The release that this checkout is, or becomes."""
    source = (chapters.ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"', source, re.MULTILINE)
    return found.group(1) if found else "0"


def extras(chapter: str) -> list[str]:
    """Extras of the package that the chapter's modules import from, in alphabetical order."""
    path = chapters.ROOT / "pyproject.toml"
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"] if path.is_file() else {}
    imported = set()
    for module in chapters.modules(chapter):
        for node in ast.walk(ast.parse(chapters.module_path(module).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    for_chapters = {
        name: {re.split(r"[<>=!~;\[ ]", requirement)[0].replace("-", "_") for requirement in requirements}
        for name, requirements in project.get("optional-dependencies", {}).items()
        if name not in ("book", "pdf", "test", "bench", "lint", "course", "cluster")
    }
    return sorted(name for name, packages in for_chapters.items() if (packages - {PACKAGE}) & imported)


def _requirement(wanted: Iterable[str]) -> str:
    """What pip installs: this release with some of its extras; empty when the repository is not known."""
    address, named = chapters.repository(), ",".join(sorted(wanted))
    archive = f"{address}/archive/refs/tags/v{version()}.tar.gz"
    return f"{PACKAGE}{f'[{named}]' if named else ''} @ {archive}" if address else ""


def install_cell(chapter: str) -> Any:
    """The first code cell: installs the pinned release where the library is missing."""
    wanted = _requirement(extras(chapter))
    refused = f'raise SystemExit("install {PACKAGE} {version()} first: pip install -e . in its checkout")'
    lines = [
        "# Installs the release of this notebook if it is missing.",
        "import importlib.util",
        "",
        f'if importlib.util.find_spec("{PACKAGE}") is None:',
        "    " + (f'%pip install --quiet "{wanted}"' if wanted else refused),
    ]
    return myst.code_cell("\n".join(lines), "install", tags=["install"])


def notebook_of(cells: list[Any]) -> Any:
    """Cells as a notebook with a kernel that Jupyter, Colab and papermill find."""
    metadata = {"kernelspec": chapters.KERNEL.copy(), "language_info": {"name": "python"}}
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def clean_notebook(chapter: str) -> Any:
    """A chapter without outputs, to be run."""
    return notebook_of([install_cell(chapter), *myst.plain_cells(chapters.read_notebook(chapter).cells, chapter)])


def executed_notebook(chapter: str, woven: Any) -> Any:
    """A chapter with its outputs, from the cells of its page."""
    cells = myst.plain_cells(woven.cells, chapter)
    for cell in cells:
        if cell.cell_type == "code":
            cell.outputs = [_shown(output) for output in cell.outputs if _shown(output)]
    return notebook_of([install_cell(chapter), *cells])


def _shown(output: Any) -> Any | None:
    """An output in the forms that every viewer shows, one form of a picture; None when it has no such form."""
    if "data" not in output:
        return output
    kinds = [kind for kind in output.data if kind in SHOWN]
    if "image/png" in kinds:
        kinds = [kind for kind in kinds if kind != "image/svg+xml"]  # the same picture again
    data = {kind: output.data[kind] for kind in kinds}
    return nbformat.from_dict({**output, "data": data}) if data else None


def with_values(source: str, values: Mapping[str, Any]) -> str:
    """A cell with other values in its lines ``name: type = value`` and ``name = value``; comments stay in place."""
    lines = source.splitlines()
    for line in reversed(ast.parse(source).body):
        target = line.targets[0] if isinstance(line, ast.Assign) else getattr(line, "target", None)
        if isinstance(target, ast.Name) and line.value is not None and target.id in values:
            row, start, end = line.value.lineno - 1, line.value.col_offset, line.value.end_col_offset
            value = values[target.id]
            new = json.dumps(value) if isinstance(value, str) else repr(value)
            pad = " " * max(0, (end - start) - len(new))
            lines[row] = lines[row][:start] + new + pad + lines[row][end:]
    return "\n".join(line.rstrip() for line in lines)


def as_text(notebook: Any) -> str:
    """A notebook as it is written to a file, checked against its format."""
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"


def write(path: Path, notebook: Any) -> None:
    """Write a notebook, see `as_text`."""
    chapters.write_if_changed(path, as_text(notebook))


README = """# Notebooks of the book

Made from the main branch by `make notebooks`; edits here are lost. `book/` holds the chapters without outputs,
`executed/` the same with the outputs of the book. The first cell of each notebook installs
{package} {version} if it is missing.
"""


def branch_files(executed: Mapping[str, str]) -> dict[str, str]:
    """The content of the branch of notebooks by path; of chapters whose results are there, with outputs too."""
    files = {"README.md": README.format(package=PACKAGE, version=version())}
    needed: set[str] = set()
    for chapter in chapters.names():
        files[f"book/{chapter}.ipynb"] = as_text(clean_notebook(chapter))
        needed.update(extras(chapter))
        result = chapters.ROOT / executed.get(chapter, "missing")
        if result.is_file():
            notebook = executed_notebook(chapter, collect.woven(chapter, result))
            files[f"executed/{chapter}.ipynb"] = as_text(notebook)
    if chapters.repository():
        files["binder/requirements.txt"] = f"{_requirement(needed)}\nipykernel\n"
        files["binder/runtime.txt"] = "python-3.11\n"
    return files


def main(arguments: list[str]) -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(arguments)
    files = {FOLDER / name: text for name, text in branch_files(read_plan()["executed"]).items()}
    for path in FOLDER.rglob("*"):
        if path.is_file() and path not in files:
            path.unlink()
    for path, text in files.items():
        chapters.write_if_changed(path, text)
    print(os.path.relpath(FOLDER))
    return 0
