"""Write self-contained notebooks: for download, for the branch that Colab and Binder open, and for courses.

They use plain Markdown, and their first cell installs the commit that they are of if it is missing.
"""

import argparse
import ast
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

import nbformat

from companion import chapters, collect, myst
from companion.plan import read_plan
from narrowlib.store.provenance import git_state

FOLDER = chapters.BUILD / "notebooks"
PACKAGE = "narrowlib"
NOT_OF_CHAPTERS = ("book", "pdf", "test", "bench", "lint", "course", "cluster", "evaluate")  # the last only on request
BINDER = """#!/usr/bin/env bash
# Binder has no GPU: torch without CUDA, in the versions of the book.
set -euo pipefail
uv pip install --python "$(command -v python)" --torch-backend cpu --constraint "{lock}" "{requirement}"
"""
IS_THERE = """# Installs, or asks for, $missing and what this notebook needs, where something is missing.
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path


def is_there():
    library = find_spec("narrowlib")
    source = Path(library.origin).read_text(encoding="utf-8") if library and library.origin else ""
    return '__version__ = "$version"' in source and all(map(find_spec, $packages))


"""
INSTALL = """def install():
    import re
    import tempfile
    from importlib.metadata import distributions
    from urllib.request import urlopen

    lock = urlopen("$lock").read().decode()
    torch = next((each.version for each in distributions(name="torch")), None) or "0"
    if [int(part) for part in re.findall(r"\\d+", torch)[:2]] >= $least:  # new enough: it stays
        lock = re.sub("(?m)^torch(vision)?==.*", "", lock) + f"torch=={torch}\\n"
    path = Path(tempfile.mkdtemp(), "constraints.txt")
    path.write_text(lock, encoding="utf-8")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--constraint", str(path), "$requirement"]
    subprocess.run(command, capture_output=True, text=True, check=True)


if not is_there():
    try:
        install()
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]
        raise SystemExit(f"$missing could not be installed: {said}") from None
"""
REFUSE = """if not is_there():
    raise SystemExit(
        "$missing or a package of this chapter is missing; get the folder of the book from "
        "whoever gave you this notebook, and run in it: pip install -c constraints.txt -e '$folder'"
    )
"""
SHOWN = ("text/plain", "text/html", "text/markdown", "text/latex", "image/png", "image/svg+xml")


def version() -> str:
    """The release that this checkout is, or becomes."""
    source = (chapters.ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"', source, re.MULTILINE)
    return found.group(1) if found else "0"


@cache
def commit() -> str:
    """What notebooks install: the commit of this checkout, or the release outside of one."""
    return git_state(chapters.ROOT)["commit"] or f"v{version()}"


def _project() -> dict[str, Any]:
    path = chapters.ROOT / "pyproject.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))["project"] if path.is_file() else {}


def extras(chapter: str) -> dict[str, list[str]]:
    """Extras of the package that the chapter's modules import from, in alphabetical order, with these imports."""
    imported: set[str] = set()
    for module in chapters.modules(chapter):
        for node in ast.walk(ast.parse(chapters.module_path(module).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    imported.discard(PACKAGE)
    found = {
        name: sorted({re.split(r"[<>=!~;\[ ]", requirement)[0].replace("-", "_") for requirement in own} & imported)
        for name, own in sorted(_project().get("optional-dependencies", {}).items())
        if name not in NOT_OF_CHAPTERS
    }
    return {name: own for name, own in found.items() if own}


def _requirement(wanted: Iterable[str]) -> str:
    """What pip installs: this commit with some of the package's extras; empty when the repository is not known."""
    address, named = chapters.repository(), ",".join(sorted(wanted))
    return f"{PACKAGE}{f'[{named}]' if named else ''} @ {address}/archive/{commit()}.tar.gz" if address else ""


def _lock() -> str:
    """Address of the versions that go with `_requirement`."""
    return f"{chapters.repository()}/raw/{commit()}/constraints.txt"


def install_cell(chapter: str) -> Any:
    """The first code cell: installs the commit of the notebook if the library in its version, or a package that the
    chapter needs, is missing.  Without a repository it says where to install from.
    """
    wanted = extras(chapter)
    least = next((line[7:] for line in _project().get("dependencies", ()) if line.startswith("torch>=")), "0")
    source = Template(f"{IS_THERE}{INSTALL if chapters.repository() else REFUSE}").substitute(
        missing=f"{PACKAGE} {version()}",
        version=version(),
        packages=sorted(set().union(*wanted.values())),
        lock=_lock(),
        least=[int(part) for part in least.split(".")],
        requirement=_requirement(wanted),
        folder=f".[{','.join(wanted)}]" if wanted else ".",
    )
    return myst.code_cell(source.rstrip(), "install", tags=["install"])


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
{package} {version} (`{commit}`) if it is missing.
"""


def branch_files(executed: Mapping[str, str]) -> dict[str, str]:
    """The content of the branch of notebooks by path; of chapters whose results are there, with outputs too."""
    files = {"README.md": README.format(package=PACKAGE, version=version(), commit=commit())}
    needed: set[str] = set()
    for chapter in chapters.names():
        files[f"book/{chapter}.ipynb"] = as_text(clean_notebook(chapter))
        needed.update(extras(chapter))
        result = chapters.ROOT / executed.get(chapter, "missing")
        if result.is_file():
            notebook = executed_notebook(chapter, collect.woven(chapter, result))
            files[f"executed/{chapter}.ipynb"] = as_text(notebook)
    if chapters.repository():
        files["binder/requirements.txt"] = "ipykernel\nuv\n"
        files["binder/postBuild"] = BINDER.format(lock=_lock(), requirement=_requirement(needed))
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
