"""Grade notebooks of students: put the teacher's checks back, run everything, and count points.

It decides as nbgrader does.  A notebook runs with the rights of whoever grades it; grade what you do not trust in a
container, or with nbgrader and its own precautions.
"""

from __future__ import annotations

import argparse
import copy
import csv
import io
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from companion import chapters, course, plainly

GRADES = course.FOLDER / "grades.csv"
SECONDS_PER_CELL = 900


@dataclass(frozen=True)
class Grade:
    """Points of one exercise; None where a person has to read the answer."""

    exercise: str
    points: float | None
    of: float


def graded_cells(notebook: Any) -> list[Any]:
    """Cells that are worth points."""
    return [cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("grade")]


def with_checks(submitted: Any, teachers: Any) -> Any:
    """The submitted notebook with every locked cell as the teacher has it, the hidden checks included.

    Raises
    ------
    ValueError
        When a cell that is graded is gone from the submitted notebook.
    """
    originals = {cell.metadata["nbgrader"]["grade_id"]: cell for cell in teachers.cells if "nbgrader" in cell.metadata}
    restored, seen = copy.deepcopy(submitted), set()
    for cell in restored.cells:
        about = cell.metadata.get("nbgrader")
        original = originals.get(about["grade_id"]) if about else None
        if original is None:
            continue
        seen.add(about["grade_id"])
        if original.metadata["nbgrader"]["locked"]:
            cell.source = original.source
        cell.metadata["nbgrader"] = {**original.metadata["nbgrader"], "checksum": about.get("checksum")}
    missing = [cell.metadata["nbgrader"]["grade_id"] for cell in graded_cells(teachers)]
    if missing := [name for name in missing if name not in seen]:
        raise ValueError(f"the submitted notebook lacks the cell {missing[0]!r}")
    return restored


def run(notebook: Any, folder: Path) -> Any:
    """The notebook executed to its end; a cell that fails stops nothing."""
    from nbclient import NotebookClient

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(chapters.ROOT), before]))
    os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        resources = {"metadata": {"path": str(folder)}}
        client = NotebookClient(notebook, timeout=SECONDS_PER_CELL, allow_errors=True, resources=resources)
        client.startup_timeout = 120
        return client.execute()
    finally:
        os.environ["PYTHONPATH"] = before or ""


def grades(executed: Any) -> list[Grade]:
    """Points of an executed notebook, decided as nbgrader does."""
    found = []
    for cell in graded_cells(executed):
        about = cell.metadata["nbgrader"]
        points: float | None
        if about["solution"]:  # answered in words: untouched is worth nothing, the rest is read by a person
            points = 0.0 if about.get("checksum") == course.checksum(cell) else None
        else:
            failed = any(output.output_type == "error" for output in cell.outputs)
            points = 0.0 if failed else float(about["points"])
        found.append(Grade(about["grade_id"].rsplit("-", 1)[0], points, float(about["points"])))
    return found


def grade(submission: Path, teachers: Path) -> list[Grade]:
    """Run and grade one submitted notebook."""
    submitted = nbformat.read(submission, as_version=4)
    restored = with_checks(submitted, nbformat.read(teachers, as_version=4))
    with tempfile.TemporaryDirectory() as folder:
        return grades(run(restored, Path(folder)))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds submissions, named as the chapters: ANYTHING/hierarchy.ipynb")
    asked = parser.parse_args(arguments)
    rows, wrong = [], 0
    for path in sorted(asked.folder.rglob("*.ipynb")):
        teachers = course.FOLDER / "instructor" / path.name
        if not teachers.is_file():
            print(f"{path}: make course has written no {path.name}", file=sys.stderr)
            wrong = 1
            continue
        try:
            found = grade(path, teachers)
        except (ValueError, nbformat.reader.NotJSONError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            wrong = 1
            continue
        rows += [[str(path.relative_to(asked.folder)), row.exercise, row.points, row.of] for row in found]
        decided = sum(row.points for row in found if row.points is not None)
        open_points = sum(row.of for row in found if row.points is None)
        print(f"{path}: {decided:g} of {sum(row.of for row in found):g} points, {open_points:g} to be read by a person")
    if not rows:
        print(f"FOLDER is {str(asked.folder)!r}; no notebook of this course lies there", file=sys.stderr)
        return 2
    table = io.StringIO()
    csv.writer(table).writerows([["notebook", "exercise", "points", "of"], *rows])
    chapters.write_if_changed(GRADES, table.getvalue())
    print(os.path.relpath(GRADES))
    return wrong


if __name__ == "__main__":
    sys.exit(plainly.run(main))
