"""Grade submitted notebooks: one row for every file, with its points or the reason why there are none.

nbgrader makes the students' notebooks, computes points and renders the feedback.  Unlike in its autograder, no check
enters a process that a student's code controls: a notebook runs in its own process (`companion.answers`), only
plain answers return from it, and the kernel that ran the teacher's notebook checks them.
"""

import argparse
import contextlib
import copy
import csv
import io
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import nbformat

from companion import answers, chapters, course, exercises, feedback, myst, submissions, surroundings
from companion.locks import one_at_a_time
from companion.plainly import Refusal
from companion.submissions import MOST_BYTES, Row, checks, graded_cells, known_cells, label_of, one_line, read
from narrowlib.store.downloads import CACHE_VARIABLE, cache_folder
from narrowlib.store.files import visible_files
from narrowlib.texts import read_text

GRADES, EXERCISES = course.FOLDER / "grades.csv", course.FOLDER / "exercises.csv"
MARKS = course.FOLDER / "marks.csv"  # points that a person gave, in the columns of exercises.csv
KEY = ("student", "notebook", "exercise")
NO_ANSWER = "no answer yet"
N_LOOKS = 100  # for what a notebook has left running
FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff0b\uff0d\uff1d\uff20]")  # how what a spreadsheet computes begins
BY_A_PERSON = "read by a person"  # the reason of points out of `MARKS`
ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",  # teacher's and students' notebooks compute the same
    "JUPYTER_PREFER_ENV_PATH": "1",
    "OMP_NUM_THREADS": "2",
    "TQDM_DISABLE": "1",
}
SHOW = "__import__('companion.answers', fromlist=['show']).show({path!r}, {label!r}, {names!r})"
KEEP = "globals().setdefault('__states__', {{}})[{label!r}] = dict(globals())"
CHECK = """exec(compile({check!r}, "check", "exec", optimize=0),
    {{**__states__[{label!r}], **__import__("json").loads({values!r})}})"""
IMAGE = "narrowlib-grade"
DOCKERFILE = f"""FROM python:{sys.version_info.major}.{sys.version_info.minor}-slim
COPY pyproject.toml constraints.txt README.md LICENSE /narrow/
COPY narrowlib/__init__.py /narrow/narrowlib/
COPY book/claims.yaml /narrow/book/
COPY results/paper /narrow/results/paper
RUN pip install --no-cache-dir --constraint /narrow/constraints.txt '/narrow[book]'
"""
IN_CONTAINER = 'cp -rs /cache /tmp/cache && find /tmp/cache -name "*.lock" -delete && exec python "$@"'


@dataclass(frozen=True)
class Grade:
    """Points of one exercise; None where a person has to read the answer."""

    exercise: str
    points: float | None
    of: float
    reason: str = ""


OF_GRADES = tuple(field.name for field in fields(Row))
OF_EXERCISES = ("student", "notebook", *(field.name for field in fields(Grade)))


class Reference:
    """The kernel that ran the teacher's notebook; it checks an answer by the state at its exercise."""

    def __init__(self, teachers: Any, seconds: float) -> None:
        from nbclient import NotebookClient

        notebook = copy.deepcopy(teachers)
        self.checks = {label: cell.source for label, cell in checks(notebook).items()}
        for label, cell in checks(notebook).items():
            cell.source = KEEP.format(label=label)
        self.client = NotebookClient(notebook, timeout=seconds, startup_timeout=120, shutdown_kernel="immediate")
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.client.setup_kernel())
            for number, cell in enumerate(notebook.cells):
                self.client.execute_cell(cell, number)
            self.close = stack.pop_all().close

    def wrong_with(self, label: str, values: dict[str, Any]) -> str:
        """Why an answer is not right; empty when it is."""
        from nbclient.exceptions import CellExecutionError

        source = CHECK.format(check=self.checks[label], label=label, values=json.dumps(values))
        try:
            self.client.execute_cell(nbformat.v4.new_code_cell(source), 0)
        except CellExecutionError as error:
            return error.evalue or error.ename if error.ename == "AssertionError" else f"{error.ename}: {error.evalue}"
        return ""


class Grader:
    """Grades one file after another, with a `Reference` for each chapter."""

    def __init__(self, seconds_per_cell: float, seconds: float, contained: list[str]) -> None:
        folder = course.FOLDER / "instructor"
        files = visible_files(folder, "**/*.ipynb")
        found = {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}
        self.teachers = {chapter: nbformat.read(path, as_version=4) for chapter, path in found.items()}
        self.students = {chapter: course.students_notebook(teachers) for chapter, teachers in self.teachers.items()}
        self.seconds_per_cell, self.seconds, self.contained = seconds_per_cell, seconds, contained
        self.references: dict[str, Reference | Exception] = {}

    def grade(self, row: Row, path: Path) -> tuple[list[Grade], Any]:
        """Fill in the row of a file; returns the grades of its exercises and the notebook that ran."""
        submitted = read(path)
        row.chapter = submissions.chapter_of(submitted, self.students)
        submissions.check_seed(submitted, self.students[row.chapter])
        notebook = submissions.assembled(submitted, self.students[row.chapter])
        answered, row.reason = self.run(notebook, self.names(row.chapter))
        grades = [self.decide(cell, row.chapter, answered) for cell in graded_cells(notebook)]
        row.points = sum((grade.points for grade in grades if grade.points is not None), 0.0)
        row.of = sum(grade.of for grade in grades)
        row.to_read = sum((grade.of for grade in grades if grade.points is None), 0.0)
        return grades, notebook

    def names(self, chapter: str) -> dict[str, list[str]]:
        """What each exercise asks to set."""
        known = known_cells(self.students[chapter])
        return {name: exercises.unanswered(known[f"{name}-answer"].source) for name in checks(self.students[chapter])}

    def run(self, notebook: Any, names: dict[str, list[str]]) -> tuple[dict[str, Any], str]:
        """The answers of a notebook, run in another process, and what went wrong; its outputs are filled in."""
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            folder, asking = Path(temporary).resolve(), copy.deepcopy(notebook)
            path = folder / answers.ANSWERS
            for label, cell in checks(asking).items():
                cell.source = SHOW.format(path=str(path), label=label, names=names[label])
            again = "\n".join(cell.source for cell in checks(asking).values())  # for a check before its answer
            asking.cells.append(myst.code_cell(again, "again"))
            nbformat.write(asking, folder / answers.NOTEBOOK)
            reason, answered = self.execute(folder), {}
            with contextlib.suppress(Exception):  # what lies in the folder may be anything
                is_whole = path.is_file() and path.stat().st_size < MOST_BYTES  # no pipe, whose end never comes
                lines = path.read_text(encoding="utf-8") if is_whole else ""
                for label, values in map(json.loads, lines.splitlines()):
                    if isinstance(values, str) or None not in values.values():
                        answered.setdefault(label, values)
            with contextlib.suppress(Exception):
                for cell, ran in zip(notebook.cells, read(folder / answers.NOTEBOOK).cells):
                    cell.update({"outputs": ran.outputs} if cell.cell_type == "code" else {})
        return answered, reason

    def execute(self, folder: Path) -> str:
        """Run the notebook in a folder, and end all that it has started; returns what went wrong."""
        command = [sys.executable, "-m", "companion.answers", str(folder), str(self.seconds_per_cell)]
        name = f"{IMAGE}-{folder.name}"
        if self.contained:
            where = [f"--name={name}", f"--volume={folder}:{folder}", f"--workdir={folder}", IMAGE]
            command = [*self.contained, *where, "sh", "-c", IN_CONTAINER, "sh", *command[1:]]
        own = {"PYTHONPATH": f"{chapters.ROOT}{os.pathsep}{chapters.ROOT / 'workflow'}", "IPYTHONDIR": str(folder)}
        with tempfile.TemporaryFile() as log:
            said = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            process = subprocess.Popen(command, cwd=folder, env={**os.environ, **own}, **said)
            try:
                code = process.wait(self.seconds)
                log.seek(max(0, log.seek(0, os.SEEK_END) - 300))
                last = log.read().decode(errors="replace").strip().splitlines()[-1:]
                return f"the process that ran it ended early with code {code} ({' '.join(last)})" if code else ""
            except subprocess.TimeoutExpired:
                return f"it did not finish within {self.seconds:g} seconds"
            finally:
                if self.contained:
                    subprocess.run([self.contained[0], "kill", name], capture_output=True)
                end_all(folder)
                process.wait()

    def decide(self, cell: Any, chapter: str, answered: dict[str, Any]) -> Grade:
        """The grade of a cell, by nbgrader's rule: untouched is worth nothing, nor is a check that fails."""
        from nbgrader.utils import determine_grade

        reason = ""
        if cell.cell_type == "code":
            reason = one_line(self.wrong_with(chapter, label_of(cell), answered.get(label_of(cell), NO_ANSWER)))
            said = {"ename": "Not right", "evalue": reason, "traceback": [reason]}
            cell.outputs = [nbformat.v4.new_output("error", **said)] if reason else []
        points, of = determine_grade(cell)
        return Grade(label_of(cell), points, of, NO_ANSWER if points == 0 and not reason else reason)

    def wrong_with(self, chapter: str, label: str, values: Any) -> str:
        """Why an answer is not right; empty when it is."""
        if isinstance(values, str):
            return values
        if chapter not in self.references:
            try:
                self.references[chapter] = Reference(self.teachers[chapter], self.seconds)
            except Exception as error:
                self.references[chapter] = RuntimeError(f"the teacher's notebook does not run: {error}")
        reference = self.references[chapter]
        if isinstance(reference, Exception):
            raise reference
        try:
            return reference.wrong_with(label, {name: values[name] for name in self.names(chapter)[label]})
        except Exception as error:  # the answer took the kernel down, or its check does not end
            self.references.pop(chapter).close()
            return f"its check did not finish: {type(error).__name__}"


def end_all(folder: Path) -> None:
    """End what runs for a folder; looks again as long as it finds something, which may have started more meanwhile."""
    import psutil

    for _ in range(N_LOOKS):
        found = []
        for other in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if other.environ().get("IPYTHONDIR") == str(folder):
                    other.suspend()
                    found.append(other)
        for other in found:
            with contextlib.suppress(psutil.Error, OSError):
                other.kill()
        if not found:
            return


def container() -> list[str]:
    """The words that run a command in docker or podman, without network and with limits; builds the image."""
    engine = next((name for name in ("docker", "podman") if _succeeds([name, "info"])), None)
    if engine is None:
        raise Refusal("--container needs docker or podman; neither is running here")
    build = [engine, "build", f"--tag={IMAGE}", "--file=-", str(chapters.ROOT)]
    if subprocess.run(build, input=DOCKERFILE, text=True, env={**os.environ, "DOCKER_BUILDKIT": "1"}).returncode:
        raise Refusal(f"{engine} could not build the image {IMAGE}; see its output above")
    cache_folder().mkdir(parents=True, exist_ok=True)
    shared = {f"/narrow/{name}": chapters.ROOT / name for name in ("narrowlib", "workflow", "results")}
    shared["/cache"] = cache_folder()
    inside = {**ENVIRONMENT, "HOME": "/tmp", CACHE_VARIABLE: "/tmp/cache", "PYTHONPATH": "/narrow:/narrow/workflow"}  # noqa: S108 (inside the container)
    words = [engine, "run", "--rm", "--network=none", "--memory=4g", "--cpus=2", "--pids-limit=512", "--cap-drop=ALL"]
    words += ["--security-opt=no-new-privileges"]
    words += [f"--user={os.getuid()}:{os.getgid()}"] if hasattr(os, "getuid") else []  # not on Windows
    words += ["--userns=keep-id"] if engine == "podman" else []
    words += [f"--env={name}={value}" for name, value in inside.items()]
    return words + [f"--volume={there}:{at}:ro" for at, there in shared.items()]


def _succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def write_table(path: Path, columns: Iterable[str], rows: list[dict[str, Any]]) -> None:
    """Write rows separated by commas, whole or not at all; what a person has added to the columns is left out.

    A text that a spreadsheet would compute, such as the name ``=1+1``, has an apostrophe before it, which `read_table`
    takes away.
    """
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, columns, extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: f"'{cell}" if FORMULA.match(str(cell)) else cell for name, cell in row.items()})
    chapters.write_if_changed(path, table.getvalue().encode(errors="backslashreplace"))


def read_table(path: Path, columns: Iterable[str]) -> list[dict[str, Any]]:
    """The rows of such a table, also as spreadsheets save it, with semicolons or tabs; none without the file.

    Refused when it is neither UTF-8 nor UTF-16, or has not all of the columns.
    """
    if not path.is_file():
        return []
    try:
        text = read_text(path, newline="")
    except ValueError as error:
        raise Refusal(f"{error}; save it from a spreadsheet as 'CSV UTF-8'") from None
    separator = max(",;\t", key=text.partition("\n")[0].count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    head = [name.strip().lower() for name in next(lines, [])]
    if missing := [name for name in columns if name not in head]:
        raise Refusal(f"{path.name} has no column {missing[0]!r}; its first line must name {', '.join(columns)}")
    rows = [[cell[1:] if cell[:1] == "'" and FORMULA.match(cell) else cell for cell in line] for line in lines]
    return [{**dict.fromkeys(head, ""), **dict(zip(head, row))} for row in rows if any(row)]


def number(text: Any) -> float:
    """A number as the tables hold it, with a decimal comma too; not one, where it is none."""
    try:
        return float(str(text).replace(",", "."))
    except ValueError:
        return math.nan


def read_marks() -> dict[tuple[str, ...], float]:
    """Points that a person gave, by student, notebook and exercise.

    Refused when they are no number between 0 and those that the answer is worth, or two for one answer.
    """
    found: dict[tuple[str, ...], float] = {}
    for row in read_table(MARKS, (*KEY, "points")):
        if row["points"].strip():
            key, points, most = tuple(row[name] for name in KEY), number(row["points"]), number(row.get("of") or 1)
            what = f"{MARKS.name} gives {row['points']!r} points for {' '.join(key)}"
            if not 0 <= points <= most:
                legal = f"from 0 to {most:g}" if most >= 0 else f"from 0 to the points in 'of', which is {row['of']!r}"
                raise Refusal(f"{what}; it must be a number {legal}")
            if found.setdefault(key, points) != points:
                raise Refusal(f"{what}, and {found[key]:g} in another line; it must be one number")
    return found


def merge(rows: list[dict[str, Any]], table: list[dict[str, Any]], marks: dict[tuple[str, ...], float]) -> None:
    """Fill in the points of answers that a person has read, and count again."""
    for row in rows:
        own = [grade for grade in table if (grade["student"], grade["notebook"]) == (row["student"], row["notebook"])]
        for grade in own:
            if grade["points"] in (None, "") or grade["reason"] == BY_A_PERSON:
                given = marks.get(tuple(grade[name] for name in KEY))
                grade.update(points=given, reason="" if given is None else BY_A_PERSON)
        known = [grade for grade in own if grade["points"] not in (None, "")]
        if own:
            row["points"] = sum(number(grade["points"]) for grade in known)
            row["to_read"] = sum(number(grade["of"]) for grade in own) - sum(number(grade["of"]) for grade in known)


def write_tables(rows: list[dict[str, Any]], table: list[dict[str, Any]], marks: dict[tuple[str, ...], float]) -> None:
    """Write both tables, with the points that a person gave."""
    merge(rows, table, marks)
    write_table(GRADES, OF_GRADES, rows)
    write_table(EXERCISES, OF_EXERCISES, table)


def tell_unused(table: list[dict[str, Any]], marks: dict[tuple[str, ...], float]) -> None:
    """Say which points of a person are for no answer, such as those of a student ``007`` that a spreadsheet calls 7."""
    if lost := sorted(set(marks) - {tuple(grade[name] for name in KEY) for grade in table}):
        others = f" and to {len(lost) - 1} more" if len(lost) > 1 else ""
        print(f"{MARKS.name} gives points to {' '.join(lost[0])}{others}; there is no such answer", file=sys.stderr)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    about = "STUDENT/*.ipynb, STUDENT.ipynb, or nbgrader's folder submitted; by default, only add marks.csv"
    parser.add_argument("folder", type=Path, nargs="?", help=about)
    parser.add_argument("--container", action="store_true", help="run notebooks in docker or podman, without network")
    parser.add_argument("--seconds-per-cell", type=float, default=300, help="time limit for one cell")
    parser.add_argument("--seconds", type=float, default=1800, help="time limit for one notebook")
    asked = parser.parse_args([word for word in arguments if word])
    with one_at_a_time(course.LOCK, "another process is writing or grading the course; waiting for it"):
        return grade(asked)


def grade(asked: argparse.Namespace) -> int:
    """Grade what is asked for, or only take up the marks of a person; the exit code."""
    marks = read_marks()
    if asked.folder is None and MARKS.is_file() and GRADES.is_file():
        table = read_table(EXERCISES, OF_EXERCISES)
        write_tables(read_table(GRADES, OF_GRADES), table, marks)
        tell_unused(table, marks)
        print(os.path.relpath(GRADES))
        return 0
    if asked.folder is None:
        raise Refusal("FOLDER is missing; it must hold the students' submissions")
    surroundings.leave_personal_settings(chapters.BUILD / "jupyter")
    os.environ.update(ENVIRONMENT)
    grader = Grader(asked.seconds_per_cell, asked.seconds, container() if asked.container else [])
    pages = feedback.Pages()
    if not grader.teachers:
        raise Refusal("there is no course to grade by; run make course first")
    rows: list[dict[str, Any]] = []
    table: list[dict[str, Any]] = []
    for student, path in submissions.files_in(asked.folder):
        names = (student, path.relative_to(asked.folder).as_posix())
        named = [os.fsencode(name).decode(errors="backslashreplace") for name in names]
        row, grades, notebook = Row(*named), [], nbformat.v4.new_notebook()
        try:
            grades, notebook = grader.grade(row, path)
        except Exception as error:
            row.reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        row.reason = one_line(row.reason)
        row.reason = "; ".join(filter(None, (row.reason, pages.write(notebook, row))))
        rows.append(asdict(row))
        table += [{"student": row.student, "notebook": row.notebook, **asdict(grade)} for grade in grades]
        write_tables(rows, table, marks)
        points = f"{row.points:g} of {row.of:g} points, {row.to_read:g} to be read" if row.of else "no points"
        print(f"{row.notebook}: {points}{row.reason and f' ({row.reason})'}", flush=True)
    pages.close()
    if not rows:
        raise Refusal(f"FOLDER is {str(asked.folder)!r}; it must hold the students' submissions")
    tell_unused(table, marks)
    print(os.path.relpath(GRADES))
    return 0
