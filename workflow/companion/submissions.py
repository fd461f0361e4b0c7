"""What students handed in: its files, the notebooks in them, and each notebook put back into the form of the course."""

import copy
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from companion import course, myst
from narrowlib.store.files import is_stray

MOST_BYTES = 50_000_000  # of a notebook, and of the answers in it
MOST_OF_A_REASON = 500  # characters


@dataclass
class Row:
    """One file that was handed in, as the table has it."""

    student: str
    notebook: str
    chapter: str = ""
    points: float | None = None
    of: float | None = None
    to_read: float | None = None
    reason: str = ""


def files_in(folder: Path) -> Iterator[tuple[str, Path]]:
    """Student and path of every file; an empty folder counts as one.

    The folder holds STUDENT/.../*.ipynb, STUDENT.ipynb, or nbgrader's folder ``submitted``.
    """
    root = folder / "submitted" if (folder / "submitted").is_dir() else folder
    closed: list[OSError] = []
    for at, inner, files in os.walk(root, onerror=closed.append):
        inner[:] = sorted(name for name in inner if not name.startswith((".", "__")))
        where = Path(at).relative_to(root).parts
        files += [name for name in inner if Path(at, name).is_symlink()]  # where nobody follows
        handed_in = sorted(name for name in files if not is_stray(Path(name)) and name != "timestamp.txt")
        yield from ((where[0] if where else Path(name).stem, Path(at, name)) for name in handed_in)
        if where and not inner and not handed_in:
            yield where[0], Path(at)
    for path in (Path(error.filename) for error in closed):
        if where := path.relative_to(root).parts:
            yield where[0], path


def read(path: Path) -> Any:
    """A notebook that was handed in; a ValueError of one sentence when it is none."""
    if path.is_symlink():
        raise ValueError("a link or a special file is not a notebook")
    if path.is_dir():
        raise ValueError("nothing was handed in" if os.access(path, os.R_OK | os.X_OK) else "it cannot be opened")
    if path.suffix.lower() != ".ipynb":
        raise ValueError(f"a file named *{path.suffix} is not a notebook")
    if not path.is_file():
        raise ValueError("a link or a special file is not a notebook")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"the file is larger than {MOST_BYTES // 10**6} MB")
    if not (data := path.read_bytes()).strip():
        raise ValueError("the file is empty")
    try:
        with warnings.catch_warnings(action="ignore"):  # a cell that was copied has its id twice
            notebook = nbformat.reads(json.dumps(json.loads(data)), as_version=4)
        for cell in notebook.cells:
            cell.update(source="".join(cell.source), metadata=nbformat.from_dict({**cell.metadata}))
    except Exception as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise ValueError(f"Jupyter cannot read it as a notebook of format 4 ({said})") from None
    return notebook


def name_of(cell: Any) -> Any:
    """What the course calls a cell: its name for nbgrader, or its id where a tool has removed that."""
    about = cell.metadata.get("nbgrader")
    name = about.get("grade_id") if isinstance(about, dict) else None
    return name if isinstance(name, str) else cell.get("id")


def known_cells(notebook: Any) -> dict[str, Any]:
    """Cells that the course knows by name."""
    return {name_of(cell): cell for cell in notebook.cells if "nbgrader" in cell.metadata}


def graded_cells(notebook: Any) -> list[Any]:
    """Cells that are worth points."""
    return [cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("grade")]


def checks(notebook: Any) -> dict[str, Any]:
    """Cells that check an answer, by exercise."""
    return {label_of(cell): cell for cell in graded_cells(notebook) if cell.cell_type == "code"}


def label_of(cell: Any) -> str:
    """The exercise that a graded cell belongs to."""
    return name_of(cell).rsplit("-", 1)[0]


def chapter_of(notebook: Any, students: dict[str, Any]) -> str:
    """The chapter whose exercises a notebook holds, whatever its file is called."""
    names = {name_of(cell) for cell in notebook.cells} - {course.PARAMETERS}
    shared = {chapter: len(names & set(known_cells(known))) for chapter, known in students.items()}
    best = max(shared, key=shared.__getitem__)
    said = notebook.metadata.get("narrowlib")
    said = said.get("chapter") if isinstance(said, dict) else None
    if not shared[best] and said not in list(students):
        raise ValueError("it holds no exercise of the course")
    return best if shared[best] else said


def pictures(cell: Any) -> Any:
    """What was dropped into a cell of text, by name, as far as it is of the form that notebooks have."""
    found = cell.get("attachments")
    found = found if isinstance(found, dict) else {}
    return nbformat.from_dict(
        {
            name: data
            for name, data in found.items()
            if isinstance(data, dict) and data and all(isinstance(content, str) for content in data.values())
        }
    )


def one_line(reason: str) -> str:
    """A reason as a table holds it, whatever was written into it: one line, not too long, that any file takes."""
    text = " ".join(reason.encode(errors="backslashreplace").decode().split())
    return text if len(text) <= MOST_OF_A_REASON else f"{text[:MOST_OF_A_REASON]}…"


def check_seed(submitted: Any, students: Any) -> None:
    """See that a notebook was handed out with the values of the course that grades it; one that says nothing passes."""
    said, here = (notebook.metadata.get("narrowlib") for notebook in (submitted, students))
    seeds = [about.get("seed") for about in (said, here) if isinstance(about, dict)]
    if len(seeds) == 2 and seeds[0] != seeds[1]:
        told = ["without a seed" if seed is None else f"with SEED={seed}" for seed in seeds]
        raise ValueError(f"it was handed out {told[0]}, but the course was last made {told[1]}")


def assembled(submitted: Any, students: Any) -> Any:
    """The student's sources in the course's cells: each of these once, with the course's metadata, locked ones whole.

    A check that is gone stands after its answer; the cell of parameters stands at the top.
    """
    known, cells, placed = known_cells(students), [], set()
    sources: dict[Any, list[Any]] = {}
    for cell in submitted.cells:
        sources.setdefault(name_of(cell), []).append(cell)

    def put_written(own: Any) -> None:
        cells[-1].source = own.source
        if cells[-1].cell_type == "markdown" and (shown := pictures(own)):
            cells[-1].attachments = shown

    def put(name: Any) -> None:
        if name in known and name not in placed:
            placed.add(name)
            cells.append(copy.deepcopy(known[name]))
            if not known[name].metadata["nbgrader"]["locked"]:
                stub = known[name].source
                written = [own for own in sources.get(name, []) if own.source.strip() not in ("", stub.strip())]
                if written:
                    put_written(written[0])

    put(course.PARAMETERS)
    for cell in submitted.cells:
        name = name_of(cell)
        if name not in known or (name in placed and not known[name].metadata["nbgrader"]["locked"]):
            make = myst.code_cell if cell.cell_type == "code" else myst.markdown_cell
            cells.append(make("", "own"))
            put_written(cell)
        put(name)
        check = f"{name}".removesuffix("answer") + "check"
        if check not in sources:
            put(check)
    for cell in graded_cells(students):
        put(name_of(cell))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    return nbformat.v4.new_notebook(cells=cells, metadata=students.metadata)
