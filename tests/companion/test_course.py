"""Coursework: full marks for the teacher's notebooks, none for the student's, and no solution in what students get."""

import re
import subprocess
import sys

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import pytest
from companion import chapters, course, exercises, grade, myst, parameters
from trees import ROOT

matplotlib.use("Agg")
COURSE = [chapter for chapter in chapters.names() if exercises.read_exercises(chapter)]
DISTINCT = 24  # characters that make a piece of a solution recognisable


@pytest.fixture(scope="module")
def notebooks():
    """Teacher's and student's notebook of every chapter, at smoke scale."""
    made = {chapter: course.teachers_notebook(chapter, "smoke") for chapter in COURSE}
    return {chapter: (teachers, course.students_notebook(teachers)) for chapter, teachers in made.items()}


def words(text):
    return " ".join(re.sub(r"[^\w.=()\\]+", " ", text).split())


def fragments(text):
    """Recognisable pieces of a text: its lines, and runs of six words."""
    lines = {words(line) for line in text.splitlines()}
    run = words(text).split()
    return {
        piece for piece in lines | {" ".join(run[i : i + 6]) for i in range(len(run) - 5)} if len(piece) >= DISTINCT
    }


def test_every_chapter_has_exercises():
    in_the_book = [chapter for chapter in chapters.names() if not chapter.startswith("appendix/")]
    missing = [chapter for chapter in in_the_book if not exercises.read_exercises(chapter)]
    assert missing == []


def test_a_third_of_the_exercises_at_least_is_checked_by_code():
    everything = [exercise for chapter in COURSE for exercise in exercises.read_exercises(chapter)]
    assert 3 * sum(exercise.is_checked for exercise in everything) >= len(everything)


@pytest.mark.parametrize("chapter", COURSE)
def test_no_solution_reaches_a_student(chapter, notebooks):
    teachers, students = notebooks[chapter]
    written = nbformat.writes(students)
    assert not any(mark in written for mark in (*course.SOLUTION, *course.HIDDEN, "<summary>Solution"))
    found = exercises.read_exercises(chapter)
    rest = [cell.source for cell in chapters.code_cells(chapter) if not exercises.has_tag(cell, "check")]
    rest += [piece.text for cell in prose_cells(chapter) for piece in myst.pieces(cell.source) if is_prose(piece)]
    rest += [exercise.question for exercise in found]
    public = words("\n".join(rest))
    seen = words("\n".join(cell.source for cell in students.cells))
    n_fragments = 0
    for exercise in found:
        check = exercise.check.source if exercise.is_checked else ""
        secret = fragments(exercise.solution) | fragments(myst.plain_all(exercise.solution, chapter)) | fragments(check)
        secret = {piece for piece in secret if piece not in public}
        n_fragments += len(secret)
        assert not [piece for piece in secret if piece in seen], exercise.label
    assert n_fragments > 20
    assert all(piece in words("\n".join(cell.source for cell in teachers.cells)) for piece in (sorted(secret)[:1]))


def prose_cells(chapter):
    return [cell for cell in chapters.read_notebook(chapter).cells if cell.cell_type != "code"]


def is_prose(piece):
    return isinstance(piece, myst.Prose)


@pytest.mark.parametrize("chapter", COURSE)
def test_students_notebook_carries_no_output_and_says_what_to_do(chapter, notebooks):
    _, students = notebooks[chapter]
    assert all(not cell.outputs for cell in students.cells if cell.cell_type == "code")
    assert "Before you begin" in students.cells[0].source and "install" in students.cells[1].metadata["tags"]
    nbformat.validate(students)
    ids = [cell.metadata["nbgrader"]["grade_id"] for cell in students.cells if "nbgrader" in cell.metadata]
    assert len(ids) == len(set(ids)) and all(re.fullmatch(r"[\w-]+", name) for name in ids)


NONSENSE = -12345.678


@pytest.mark.book
@pytest.mark.parametrize("chapter", COURSE)
def test_a_check_passes_the_solution_and_nothing_else(chapter, capsys):
    """All cells of the chapter at smoke scale in this process; at each check no answer, nonsense, the solution."""
    checked = {one.check.id: one for one in exercises.read_exercises(chapter) if one.is_checked}
    names = {"__name__": "__main__", "display": lambda *_: None}
    for cell in chapters.code_cells(chapter):
        if cell.id in checked:
            exercise = checked.pop(cell.id)
            with pytest.raises((AssertionError, LookupError, TypeError)):
                exec(cell.source, names | dict.fromkeys(exercise.names, NONSENSE))
            solved = dict(names)
            exec(exercise.code, solved)
            exec(cell.source, solved)
            capsys.readouterr()
        exec(chapters.without_magics(cell.source), names)
        if exercises.has_tag(cell, "check"):
            assert capsys.readouterr().out == "no answer yet\n"
        if exercises.has_tag(cell, "parameters"):
            names |= parameters.of_profile(chapter, "smoke") | {"device": "cpu"}
    plt.close("all")
    assert not checked


@pytest.mark.book
def test_the_teachers_notebook_gets_full_marks(notebooks, tmp_path, monkeypatch):
    """Every point that code can give, through the engine of `make grade`."""
    chapter, path = "hierarchy", tmp_path / "teachers.ipynb"
    monkeypatch.setattr(course, "FOLDER", tmp_path / "course")
    teachers = nbformat.from_dict(notebooks[chapter][0])
    chapters.write_if_changed(course.FOLDER / "instructor" / f"{chapter}.ipynb", nbformat.writes(teachers))
    nbformat.write(teachers, path)
    row = grade.Row("teacher", "teacher")
    marks, ran = grade.Grader(600, 1800, []).grade(row, path)
    errors = [output for cell in ran.cells for output in cell.get("outputs", []) if output.output_type == "error"]
    assert row.reason == "" and not errors
    expected = [(one.label, 1.0 if one.is_checked else None) for one in exercises.read_exercises(chapter)]
    assert [(mark.exercise, mark.points) for mark in marks] == expected


BROKEN = {
    "needs a label": "```{exercise} One\nText\n```",
    "has no solution": "```{exercise} One\n:label: a\nText\n```",
    "belongs to no exercise": "```{solution} b\nText\n```",
}


@pytest.mark.parametrize("says", BROKEN)
def test_exercises_of_another_form_are_refused(says, monkeypatch):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(BROKEN[says])])
    monkeypatch.setattr(chapters, "read_notebook", lambda _: notebook)
    with pytest.raises(exercises.ExerciseError, match=says):
        exercises.read_exercises("broken")


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        (["exercise", "x = None"], "only one of the cells"),
        (["exercise", "x = 3", "check", "assert x"], "sets no name to None"),
        (["exercise", "x = None", "check", "assert x"], "does not set x"),
    ],
)
def test_checked_exercises_of_another_form_are_refused(cells, says, monkeypatch):
    text = "```{exercise} One\n:label: a\nText\n```"
    solution = "````{solution} a\n```python\ny = 3\n```\n````"
    code = [nbformat.v4.new_code_cell(source, metadata={"tags": [tag]}) for tag, source in zip(cells[::2], cells[1::2])]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell(text), *code, nbformat.v4.new_markdown_cell(solution)]
    )
    monkeypatch.setattr(chapters, "read_notebook", lambda _: notebook)
    with pytest.raises(exercises.ExerciseError, match=says):
        exercises.read_exercises("broken")


def test_command_refuses_what_is_no_chapter():
    command = [sys.executable, "-m", "companion", "course", "methodz"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.startswith("CHAPTERS holds 'methodz'; it must hold some of ")
