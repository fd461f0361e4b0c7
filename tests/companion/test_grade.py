"""A class of submissions of every kind, graded in one run: a row each, with the points that it has earned."""

import contextlib
import copy
import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from io import StringIO

import nbformat
import pytest
from companion import __main__ as companion
from companion import answers, chapters, course, feedback, grade, locks, submissions

pytest.importorskip("nbgrader")
SETS, CANCEL, SQUARE = (f"ex-methods-{name}" for name in ("sets", "cancel", "square"))
RIGHT = {
    SETS: "import math\nn_sets_atomic, n_sets_composite = math.comb(64, 4), math.comb(64, 16)",
    CANCEL: "gradient = (1, -0.5)",
    SQUARE: "shrinking_factor = 1 / 1.4",
}
EQUAL = "class Equal(float):\n    __eq__ = __lt__ = lambda *_: True\n    __hash__ = float.__hash__\n"
TRICKS = {
    "assertions": "import builtins\nbuiltins.AssertionError = type('A', (), {})\nn_sets_atomic = n_sets_composite = 1",
    "hook": "get_ipython().set_custom_exc((Exception,), lambda *_, **__: None)\nn_sets_atomic = n_sets_composite = 1",
    "equal": f"{EQUAL}n_sets_atomic = n_sets_composite = Equal(1)",
    "functions": "import math\nmath.comb = lambda *_: 1\nn_sets_atomic = n_sets_composite = 1",
    "shadows": "print = list = dict = str = None\nn_sets_atomic, n_sets_composite = 635376, 488526937079580",
    "process": "import os\nos._exit(0)",
    "loop": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "output": "print('x' * 10**7)\nfor i in range(20000): print(i)\n" + RIGHT[SETS],
    "parent": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
    "given": "n_positions = k = m = 1\nn_sets_atomic = n_sets_composite = 1",
    "object": "n_sets_atomic = n_sets_composite = object()",
}


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    """The course of one chapter, in a folder of its own; the student's notebook cut to its exercises."""
    with pytest.MonkeyPatch.context() as patched:
        folder = tmp_path_factory.mktemp("course")
        patched.setattr(course, "FOLDER", folder)
        course.write_course(["methods"], "smoke")
        notebook = nbformat.read(folder / "student" / "methods.ipynb", as_version=4)
        notebook.cells = [cell for cell in notebook.cells if "nbgrader" in cell.metadata]
        yield notebook


def cell_of(notebook, name):
    return next(cell for cell in notebook.cells if submissions.name_of(cell) == name)


def answered(students, **changes):
    """A notebook with the right answers but for the changes."""
    notebook = copy.deepcopy(students)
    for label, source in {**RIGHT, **changes}.items():
        cell_of(notebook, f"{label}-answer").source = source
    return notebook


def class_of(students):
    """Names of files, what is in each, and the points or a word of the reason."""
    tricks = {name: answered(students, **{SETS: source}) for name, source in TRICKS.items()}
    right = answered(students)
    changed = {name: copy.deepcopy(right) for name in ("markdown", "kernel", "lost", "twice", "ids", "bare", "other")}
    changed["markdown"].cells = [
        nbformat.v4.new_markdown_cell(cell.source, metadata=cell.metadata)
        if "check" in submissions.name_of(cell)
        else cell
        for cell in right.cells
    ]
    changed["kernel"].metadata["kernelspec"] = {"name": "julia-1.9", "display_name": "Julia", "language": "julia"}
    changed["lost"].cells = [
        cell for cell in right.cells if submissions.name_of(cell) not in (f"{SETS}-check", f"{CANCEL}-answer")
    ]
    changed["twice"].cells = [*right.cells, *copy.deepcopy(right.cells)]
    for cell in changed["ids"].cells:
        cell.metadata, cell["id"] = nbformat.from_dict({}), cell.id
    changed["bare"].cells = [nbformat.v4.new_code_cell(source) for source in RIGHT.values()]
    changed["other"].metadata, changed["other"].cells = nbformat.from_dict({}), [nbformat.v4.new_code_cell("x = 1")]
    tagged = answered(students, **{SETS: "n_sets_atomic = n_sets_composite = 1"})
    for cell in tagged.cells:
        cell.metadata.update(tags=["skip-execution", "raises-exception"])
        cell.source = cell.source if "answer" in submissions.name_of(cell) else "pass"
    written = nbformat.writes(right)
    three = {
        "cells": [{"cell_type": "code", "source": 3, "metadata": []}],
        "metadata": {},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return {
        "ada/methods.ipynb": (written, 3),
        "ada/methods (1).ipynb": (nbformat.writes(students), 0),
        "tagged/a.ipynb": (nbformat.writes(tagged), 2),
        **{f"{name}/methods.ipynb": (nbformat.writes(notebook), 2) for name, notebook in tricks.items()},
        **{f"{name}/methods.ipynb": (nbformat.writes(notebook), 3) for name, notebook in changed.items()},
        "shadows/methods.ipynb": (nbformat.writes(tricks["shadows"]), 3),
        "output/methods.ipynb": (nbformat.writes(tricks["output"]), 3),
        "parent/methods.ipynb": (nbformat.writes(tricks["parent"]), 0),
        "lost/methods.ipynb": (nbformat.writes(changed["lost"]), 2),
        "other/methods.ipynb": (nbformat.writes(changed["other"]), "no exercise"),
        "bom/methods.ipynb": (("\ufeff" + written).encode("utf-16-le"), 3),
        "latin/methods.ipynb": (written.replace("order", "\u00e9").encode("latin-1") + b"\xe9", "cannot read"),
        "empty/methods.ipynb": ("", "empty"),
        "json/methods.ipynb": (written[:-40], "cannot read"),
        "deep/methods.ipynb": ("[" * 100_000, "cannot read"),
        "list/methods.ipynb": ("[1, 2]", "cannot read"),
        "types/methods.ipynb": (json.dumps(three), "cannot read"),
        "future/methods.ipynb": (written.replace('"nbformat": 4', '"nbformat": 9'), "cannot read"),
        "zip/methods.zip": ("PK", "*.zip"),
        "py/methods.py": ("x = 1", "*.py"),
    }


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@me", "\t=1", "'=1", "''-1", "'quoted", "\uff1d1", "Zoë", "ada"])
def test_a_name_that_a_spreadsheet_would_compute_is_a_text_in_tables_and_itself_when_they_are_read(tmp_path, name):
    row = {"student": name, "notebook": f"{name}/a.ipynb", "exercise": "ex", "points": 2.0}
    grade.write_table(tmp_path / "marks.csv", row, [row])
    with (tmp_path / "marks.csv").open(newline="", encoding="utf-8") as file:
        (written,) = csv.DictReader(file)
    assert written["student"][:1] not in ("=", "+", "-", "@", "\t", "\uff1d") and written["points"] == "2.0"
    assert grade.read_table(tmp_path / "marks.csv", row) == [row | {"points": "2.0"}]


@pytest.mark.parametrize("main", [grade.main, course.main], ids=["grade", "course"])
def test_two_that_write_or_grade_a_course_wait_for_each_other(tmp_path, monkeypatch, main):
    monkeypatch.setattr(chapters, "BUILD", tmp_path)
    monkeypatch.setattr(grade, "grade", lambda asked: done.append(1) or 0)
    monkeypatch.setattr(course, "write_course", lambda *asked: done.append(1) or [])
    said, done = StringIO(), []
    monkeypatch.setattr(sys, "stderr", said)
    with locks.one_at_a_time(course.LOCK, ""):
        other = threading.Thread(target=main, args=([],))
        other.start()
        while not said.getvalue():
            time.sleep(0.01)
        assert said.getvalue() == "another process is writing or grading the course; waiting for it\n" and not done
    other.join(60)
    assert done == [1]


@pytest.mark.book
@pytest.mark.parametrize("half", [0, 1])  # two processes take one each
def test_a_class_of_every_kind(students, tmp_path, monkeypatch, capsys, half):
    shutil.rmtree(course.FOLDER / "feedback", ignore_errors=True)  # of the other half
    handed_in = dict(list(class_of(students).items())[half::2])
    for name, (text, _) in handed_in.items():
        path = tmp_path / "submitted" / name  # of nbgrader's own course folder
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    (tmp_path / "submitted" / "ada" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "submitted" / "ada" / ".ipynb_checkpoints" / "methods-checkpoint.ipynb").write_text("")
    (tmp_path / "submitted" / "absent").mkdir()
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    monkeypatch.setattr(grade, "GRADES", course.FOLDER / "grades.csv")
    monkeypatch.setattr(grade, "EXERCISES", course.FOLDER / "exercises.csv")
    assert grade.main([str(tmp_path), "--seconds-per-cell", "5"]) == 0
    rows = {row["notebook"].removeprefix("submitted/"): row for row in csv.DictReader(grade.GRADES.open())}
    assert set(rows) == {*handed_in, "absent"} and "nothing" in rows["absent"]["reason"]
    found = {name: rows[name]["points"] and float(rows[name]["points"]) for name in handed_in}
    assert found == {name: "" if isinstance(points, str) else points for name, (_, points) in handed_in.items()}
    said = {name: rows[name]["reason"] for name, (_, points) in handed_in.items() if isinstance(points, str)}
    assert all(handed_in[name][1] in reason for name, reason in said.items()), said
    pages = {str(page.relative_to(course.FOLDER / "feedback")) for page in (course.FOLDER / "feedback").rglob("*.html")}
    assert pages == {f"submitted/{name}.html" for name in rows}
    assert capsys.readouterr().out.count("\n") == len(rows) + 1
    reasons = {(row["student"], row["exercise"]): row["reason"] for row in csv.DictReader(grade.EXERCISES.open())}
    for name, word in (("hook", "order does not count"), ("object", "object")):
        assert word in reasons.get((name, SETS), word)  # in one of the halves


@pytest.fixture
def to_read(tmp_path, monkeypatch):
    """The tables of one student with answers that wait for a person, and a lock that no other test holds."""
    monkeypatch.setattr(chapters, "BUILD", tmp_path)
    for name in ("GRADES", "EXERCISES", "MARKS"):
        monkeypatch.setattr(grade, name, tmp_path / f"{name.lower()}.csv")
    row = submissions.Row("ada", "ada.ipynb", "methods", points=1.0, of=3.0, to_read=2.0)
    grades = [grade.Grade(name, points, 1.0) for name, points in (("a", 1.0), ("a-words", None), ("b", None))]
    table = [{"student": "ada", "notebook": "ada.ipynb", **dataclasses.asdict(one)} for one in grades]
    grade.write_tables([dataclasses.asdict(row)], table, {})


@pytest.mark.usefixtures("to_read")
def test_marks_of_a_person_are_merged():
    text = grade.EXERCISES.read_text()
    grade.MARKS.write_text(text.replace("a-words,,", "a-words,0.5,").replace("a,1.0,", "a,0,"))
    assert companion.main(["grade"]) == 0
    (counted,) = csv.DictReader(grade.GRADES.open())
    assert (counted["points"], counted["of"], counted["to_read"]) == ("1.5", "3.0", "1.0")
    grade.MARKS.write_text(text.replace("a-words,,", "a-words,0.25,").replace("b,,", "b,1,"))  # thought better of it
    assert companion.main(["grade"]) == 0
    (counted,) = csv.DictReader(grade.GRADES.open())
    assert (counted["points"], counted["to_read"]) == ("2.25", "0.0")
    grade.MARKS.write_text(text)
    assert companion.main(["grade"]) == 0
    (counted,) = csv.DictReader(grade.GRADES.open())
    assert (counted["points"], counted["to_read"]) == ("1.0", "2.0")


MARKED = "student,notebook,exercise,points,of,reason\nada,ada.ipynb,a,1.0,1.0,\nada,ada.ipynb,a-words,0.5,1.0,\n"
SAVED = {  # how a spreadsheet may have saved it
    "mark": MARKED.encode("utf-8-sig"),
    "semicolons and decimal commas": MARKED.replace(",", ";").replace(".0", ",0").replace("0.5", "0,5").encode(),
    "tabs in UTF-16": MARKED.replace(",", "\t").encode("utf-16"),
    "other capitals, order and columns": b"Points,Student,NOTEBOOK,exercise,note\r\n0.5,ada,ada.ipynb,a-words,x\r\n",
    "an empty line, and one twice": (MARKED + "\n,,,,,\n" + MARKED.splitlines()[2] + "\n").encode(),
}
REFUSED = {
    "from 0 to 1": MARKED.replace("0.5", "2"),
    "ada ada.ipynb a-words; it must be a number": MARKED.replace("0.5", "half"),
    "in 'of', which is '01. Jan'": MARKED.replace("0.5,1.0", "0.5,01. Jan"),
    "0.5 in another line": MARKED + "ada,ada.ipynb,a-words,1,1.0,\n",
    "no column 'points'": MARKED.replace("points", "marks"),
    "not in UTF-8": MARKED.replace("ada,", "j\u00fcrgen,").encode("latin-1"),
}


@pytest.mark.parametrize("how", SAVED)
@pytest.mark.usefixtures("to_read")
def test_marks_are_read_as_spreadsheets_save_them(how, capsys):
    grade.MARKS.write_bytes(SAVED[how])
    assert companion.main(["grade"]) == 0
    (counted,) = csv.DictReader(grade.GRADES.open())
    assert (counted["points"], counted["to_read"]) == ("1.5", "1.0") and not capsys.readouterr().err


@pytest.mark.parametrize("why", REFUSED)
@pytest.mark.usefixtures("to_read")
def test_marks_that_cannot_be_read_are_refused_in_a_sentence(why, capsys):
    before, text = grade.GRADES.read_text(), REFUSED[why]
    grade.MARKS.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert companion.main(["grade"]) == 2 and grade.GRADES.read_text() == before
    said = capsys.readouterr().err
    assert why in said and said.count("\n") == 1


@pytest.mark.usefixtures("to_read")
def test_marks_of_nobody_are_told(capsys):
    grade.MARKS.write_text(MARKED.replace("ada,", "7,"))
    assert companion.main(["grade"]) == 0
    assert "points to 7 ada.ipynb a and to 1 more; there is no such answer" in capsys.readouterr().err


@pytest.mark.usefixtures("to_read")
def test_tables_hold_any_text():
    (row,) = grade.read_table(grade.GRADES, grade.OF_GRADES)
    grade.write_table(grade.GRADES, grade.OF_GRADES, [{**row, "reason": "half of a pair: \ud800", "comment": "late"}])
    (read,) = grade.read_table(grade.GRADES, grade.OF_GRADES)
    assert read == {**row, "reason": "half of a pair: \\ud800"}


def test_feedback_holds_no_check_and_no_script(students):
    notebook = submissions.assembled(answered(students, **{SQUARE: "shrinking_factor = 2"}), students)
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("<script>alert(1)</script>"))
    shown = feedback.page(notebook, submissions.Row("ada", "methods.ipynb", reason="too late"))
    assert "too late" in shown and "shrinking_factor" in shown
    assert "alert(1)</script>" not in shown and "minimise distance" not in shown


def of_another_form(kind, notebook):
    """A notebook as other tools and hands may have left it, in JSON."""
    if kind == "format 3":
        return nbformat.v3.writes_json(nbformat.convert(notebook, 3))
    written = json.loads(nbformat.writes(notebook))
    if kind == "format 4.2":
        written["nbformat_minor"] = 2
        for cell in written["cells"]:
            del cell["id"]
    elif kind == "one id":
        for cell in written["cells"]:
            cell["id"] = "same"
    elif kind == "other cells":
        kinds = ("heading", "raw", "mystery")
        written["cells"] += [{"cell_type": name, "level": 1, "source": ["a", "b"], "metadata": {}} for name in kinds]
    elif kind == "two kernels":
        written["metadata"]["kernelspec"] = [{"name": "python3"}, {"name": "ir"}]
    return json.dumps(written)


@pytest.mark.parametrize("kind", ["format 3", "format 4.2", "one id", "other cells", "two kernels"])
def test_a_notebook_of_another_form_is_put_back_into_the_course(students, tmp_path, kind):
    (tmp_path / "a.ipynb").write_text(of_another_form(kind, answered(students)))
    assembled = submissions.assembled(submissions.read(tmp_path / "a.ipynb"), students)
    nbformat.validate(assembled)
    known = submissions.known_cells(assembled)
    assert [known[f"{label}-answer"].source for label in RIGHT] == list(RIGHT.values())
    assert {f"{label}-check" for label in RIGHT} < set(known)


def test_a_notebook_of_another_seed_is_refused_and_one_that_says_nothing_is_not(students):
    submissions.check_seed(students, students)
    seeded, silent = copy.deepcopy(students), copy.deepcopy(students)
    seeded.metadata["narrowlib"]["seed"] = 7
    silent.metadata = nbformat.from_dict({})
    submissions.check_seed(silent, seeded)
    with pytest.raises(ValueError, match="handed out without a seed, but the course was last made with SEED=7"):
        submissions.check_seed(students, seeded)


def test_answers_leave_as_plain_data():
    from fractions import Fraction

    import numpy as np
    import torch

    given = [np.float64(1), torch.tensor([1, 2]), (True, "a"), Fraction(1, 2), {"a": np.arange(2)}]
    assert answers.plain(given) == [1.0, [1, 2], [True, "a"], 0.5, {"a": [0, 1]}]
    with pytest.raises(TypeError, match="of type object"):
        answers.plain([object()])


def test_an_answer_that_is_too_long_costs_no_other(tmp_path, monkeypatch):
    names = {
        "long": list(range(10**6)),
        "digits": 10**5000,
        "own": type("Own", (), {"tolist": lambda _: 1 / 0})(),
        "x": 1,
    }
    for name, value in names.items():
        monkeypatch.setattr(sys.modules["__main__"], name, value, raising=False)
        answers.show(str(tmp_path / "answers"), name, [name])
    found = dict(map(json.loads, (tmp_path / "answers").read_text().splitlines()))
    assert found.pop("x") == {"x": 1} and all(
        isinstance(why, str) and why.startswith(name) for name, why in found.items()
    )
    assert "longer than 1,000,000 characters" in found["long"] and len(found) == 3


def test_reasons_are_one_line_that_a_file_takes():
    said = submissions.one_line("half of a pair: \ud800\nand " + "x" * 10**6)
    assert said.startswith("half of a pair: \\ud800 and xxx") and len(said) < 1000 and said.encode()


def started(folder, source):
    """What runs a source for a folder, as `Grader.execute` starts it."""
    (folder / "source.py").write_text(source)
    return subprocess.Popen([sys.executable, "-S", folder / "source.py"], env={**os.environ, "IPYTHONDIR": str(folder)})


RESPAWNS = """import os, time
end = time.monotonic() + 60
while time.monotonic() < end:  # every process starts the next and ends
    if os.fork():
        os._exit(0)
    time.sleep(0.02)
"""


@pytest.mark.skipif(os.name != "posix", reason="it forks")
@pytest.mark.parametrize("source", ["import time\ntime.sleep(60)", RESPAWNS])
def test_what_a_notebook_leaves_running_is_ended(tmp_path, source):
    import psutil

    first = started(tmp_path, source)
    time.sleep(0.5)
    grade.end_all(tmp_path)
    first.wait(10)
    time.sleep(0.2)
    left = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            left += [process] if process.environ().get("IPYTHONDIR") == str(tmp_path) else []
    time.sleep(0.5)  # one that was killed may still have been on its way out
    assert not [process for process in left if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_pipe_in_the_place_of_the_answers_is_not_read(students, monkeypatch):
    def leave_a_pipe(_, folder):
        (folder / "notebook.ipynb").unlink()
        for name in (answers.ANSWERS, answers.NOTEBOOK):
            os.mkfifo(folder / name)
        return "ended early"

    monkeypatch.setattr(grade.Grader, "execute", leave_a_pipe)
    grader = grade.Grader(1, 1, [])
    assert grader.run(copy.deepcopy(students), grader.names("methods")) == ({}, "ended early")


def test_the_teachers_notebook_is_no_copy_that_an_editor_keeps(students):
    folder = course.FOLDER / "instructor" / ".ipynb_checkpoints"
    folder.mkdir()
    shutil.copy(course.FOLDER / "instructor" / "methods.ipynb", folder / "methods-checkpoint.ipynb")
    assert list(grade.Grader(1, 1, []).teachers) == ["methods"]
    shutil.rmtree(folder)


def test_every_folder_has_a_row(tmp_path, monkeypatch):
    for name in ("ada/closed", "eve", "far"):
        (tmp_path / "class" / name).mkdir(parents=True)
    (tmp_path / "class" / "linked").symlink_to(tmp_path / "class" / "far", target_is_directory=True)
    closed, scandir = str(tmp_path / "class" / "eve"), os.scandir

    def refuse(path):
        if os.fspath(path) == closed:
            raise PermissionError(13, "Permission denied", closed)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(os, "access", lambda path, _: os.fspath(path) != closed)
    rows = dict(submissions.files_in(tmp_path / "class"))
    why = {"ada": "nothing was handed in", "far": "nothing", "linked": "a link", "eve": "cannot be opened"}
    assert set(rows) == set(why)
    for student, words in why.items():
        with pytest.raises(ValueError, match=words):
            submissions.read(rows[student])


def test_pictures_in_answers_are_kept_and_one_that_is_lost_stops_no_page(students):
    name = next(
        submissions.name_of(cell)
        for cell in students.cells
        if cell.cell_type == "markdown" and not cell.metadata["nbgrader"]["locked"]
    )
    notebook = answered(students)
    cell = cell_of(notebook, name)
    cell.source = "see ![a](attachment:a.png) and ![b](attachment:lost.png)"
    cell.attachments = {"a.png": {"image/png": "aGVsbG8="}, "odd": 3}
    assembled = submissions.assembled(notebook, students)
    assert cell_of(assembled, name).attachments == {"a.png": {"image/png": "aGVsbG8="}}
    shown = feedback.page(assembled, submissions.Row("ada", "methods.ipynb"))
    assert "data:image/png;base64,aGVsbG8=" in shown and "lost.png" in shown


def test_container_says_what_is_missing(tmp_path):
    command = [sys.executable, "-m", "companion", "grade", str(tmp_path), "--container"]
    result = subprocess.run(command, env={**os.environ, "PATH": ""}, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (2, "--container needs docker or podman; neither is running here\n")
