"""Coursework: full marks for the teacher's notebooks, none for the student's, and no solution in what students get."""

import re
import subprocess
import sys

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from companion import chapters, course, exercises, grade, myst, parameters
from companion.plainly import Refusal
from trees import ROOT

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
    prose = [cell.source for cell in chapters.read_notebook(chapter).cells if cell.cell_type != "code"]
    rest += [piece.text for text in prose for piece in myst.pieces(text) if isinstance(piece, myst.Prose)]
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


@pytest.mark.parametrize("chapter", COURSE)
def test_students_notebook_carries_no_output_and_says_what_to_do(chapter, notebooks):
    _, students = notebooks[chapter]
    assert all(not cell.outputs for cell in students.cells if cell.cell_type == "code")
    assert "Before you begin" in students.cells[0].source and "install" in students.cells[1].metadata["tags"]
    nbformat.validate(students)
    ids = [cell.metadata["nbgrader"]["grade_id"] for cell in students.cells if "nbgrader" in cell.metadata]
    assert len(ids) == len(set(ids)) and all(re.fullmatch(r"[\w-]+", name) for name in ids)


FORMS = {  # by exercise, answers that are right and that are wrong; names of the page and of its solution may be used
    "ex-methods-sets": (
        ["635376, 4.9e14", "'635,376', '4.9 × 10^14'", "635376.0, n_sets_composite"],
        ["635376, 4.8e14", "64**4, 64**16", "635375, 4.9e14", "6.4e5, 4.9e14"],
    ),
    "ex-methods-cancel": (
        ["[-2, 1.0]", "('2/3', '-1/3')", "(2e-3, -1e-3)"],
        ["(0, 0)", "(1, -1)", "(2, 1)", "(2, -1, 0)", "(2, True)"],
    ),
    "ex-methods-square": (["0.71", "'5/7'", "'71%'"], ["0.72", "0.83", "0.6", "2.14"]),
    "ex-hierarchy-signal": (
        ["[round(c, 3) for c in correlations]", "tuple(map(str, correlations))", "torch.tensor(correlations)"],
        ["(0, 0, 1)", "(0.0, 0.0, 1.0)", "correlations[:2]", "[-c for c in correlations]", "[*correlations[:2], True]"],
    ),
    "ex-hierarchy-haystack": (
        ["f'{times_as_many:.3g}'", "round(times_as_many, 1)", "torch.tensor(times_as_many)"],
        ["1.01 * times_as_many", "1 / times_as_many", "n_subtasks"],
    ),
    "ex-nonlocality-control": (
        ["round(control_accuracy, 3)", "f'{control_accuracy:.1%}'", "str(control_accuracy)"],
        ["0.5", "0.51234", "control_accuracy + 0.01"],
    ),
    "ex-nonlocality-chance": (["1 / 3", "'1/3'", "0.33"], ["0.25", "0.5", "0.34", "33"]),
    "ex-nonlocality-twice": (
        ["2, signed_score", "2.0001, f'{signed_score:.4g}'", "'2.00', str(signed_score)"],
        ["1, signed_score", "4, signed_score", "2, 1.01 * signed_score", "2, signed_score / 2"],
    ),
    "ex-group-lasso-control": (
        [
            "round(unlearned_without_penalty, 2), round(regained_without_penalty, 2)",
            "f'{unlearned_without_penalty:.0%}', regained_without_penalty",
            "str(unlearned_without_penalty), str(regained_without_penalty)",
        ],
        ["0, 0", "unlearned_without_penalty, 0.5", "unlearned_without_penalty + 0.02, regained_without_penalty"],
    ),
    "ex-group-lasso-size": (["535", "535.0", "'535'"], ["525", "1997", "534.6"]),
    "ex-group-lasso-steps": (["500", "501", "'500'"], ["450", "500.4", "5"]),
    "ex-mnist-bill": (
        ["float(teacher_points)", "str(teacher_points)", "f'{teacher_points:,}'"],
        ["1.01 * teacher_points", "n_networks * teacher_points", "config.teacher_epochs"],
    ),
    "ex-mnist-hidden": (
        ["round(head_start, 3)", "str(head_start)", "float(head_start)"],
        ["head_start + 0.01", "-head_start - 0.002", "known[pruned_by] + 0.01"],
    ),
    "ex-llm-cost": (
        [
            "float(neuron_parameters), residual_parameters",
            "str(neuron_parameters), f'{residual_parameters:,}'",
            "f'{neuron_parameters}.0', residual_parameters",
        ],
        ["2 * neuron_parameters / 3, residual_parameters", "neuron_parameters, residual_parameters + 1", "3, 1"],
    ),
    "ex-llm-layers": (
        [
            "emptiest_layer, round(share_lost, 2)",
            "float(emptiest_layer), f'{share_lost:.0%}'",
            "emptiest_layer, str(share_lost)",
        ],
        [
            "-1, share_lost",
            "emptiest_layer, share_lost + 0.02",
            "emptiest_layer, 0",
            "emptiest_layer + 0.5, share_lost",
        ],
    ),
    "ex-llm-exact": (
        ["1e-4, f'{largest:.2g}'", "'1e-4', largest", "1e-6, round(largest, 3)"],
        ["0, 0", "-1e-6, largest", "1e-6, 1.2 * largest", "1e-6, 0", "0.1, largest"],
    ),
    "ex-llm-norms": (["round(factor, 5)", "str(factor)", "f'{factor:.3%}'"], ["1", "1 / factor", "factor + 1e-4"]),
    "ex-frontier-read": (
        ["f' {cheapest_run} '", "cheapest_run.upper()", "str(cheapest_run)"],
        ["'pruned'", "0", "cheapest_run + '1'"],
    ),
    "ex-frontier-bytes": (["3840.0", "'3,840'", "'3.84e3'"], ["3662", "3.84e9", "1280"]),
    "ex-frontier-lag": (["69.0", "'69'", "69"], ["68.97", "68", "70", "100"]),
    "ex-unlearning-chance": (
        ["float(f'{chance_error:.2g}')", "str(chance_error)", "f'{chance_error:.2%}'"],
        ["-chance_error", "1.05 * chance_error", "chance_error**2", "0.25"],
    ),
    "ex-unlearning-wins": (["float(n_wins)", "str(n_wins)", "n_wins + 1e-12"], ["n_wins + 1", "n_wins - 0.3", "15"]),
    "ex-unlearning-category": (
        ["survivor.upper(), round(its_share, 2)", "survivor, f'{its_share:.0%}'", "f'{survivor} ', str(its_share)"],
        ["survivor, its_share - 0.02", "'nature', its_share", "0, its_share"],
    ),
    "ex-lasso-map-own": (
        ["round(held_back, 2), round(gained, 2)", "str(held_back), str(gained)", "f'{held_back:.1%}', gained"],
        ["held_back + 0.02, gained", "held_back, gained - 0.02", "held_back + 1, gained + 1"],
    ),
    "ex-breadth-missing": (
        ["float(bits_left)", "str(bits_left)", "f' {bits_left}.0'"],
        ["bits_left + 1", "3 * bits_left", "bits_left - 0.5"],
    ),
    "ex-small-count": (
        ["parameters", "str(parameters)", "f'{parameters:,}'"],
        ["parameters + 1", "config.vocab_size", "0.99 * parameters"],
    ),
    "ex-recipe-rounding": (
        ["float(dimensions_left)", "str(dimensions_left)", "f'{dimensions_left:,}'"],
        ["dimensions_left + 1", "dimensions_left + 0.4", "-dimensions_left"],
    ),
    "ex-recipe-embedding": (
        ["float(f'{embedding_share:.2g}')", "str(embedding_share)", "f'{embedding_share:.1%}'"],
        ["1.1 * embedding_share", "embedding_share / words_kept", "0.9 * embedding_share"],
    ),
    "ex-recipe-behind": (
        [
            "round(behind, 2), round(lowest_loss, 2)",
            "str(behind), lowest_loss",
            "f'{behind:.2f}', f'{lowest_loss:.2f}'",
        ],
        ["0, 0", "behind + 0.02, lowest_loss", "behind, lowest_loss - 0.02"],
    ),
}
NEVER = ("True", "False", "-12345.678", "float('nan')", "object()", "'no idea'", "[]")  # wrong everywhere


def test_every_checked_exercise_has_three_right_and_three_wrong_forms():
    checked = {one.label for chapter in COURSE for one in exercises.read_exercises(chapter) if one.is_checked}
    assert set(FORMS) == checked
    assert all(len(forms) >= 3 for both in FORMS.values() for forms in both)


@pytest.mark.book
@pytest.mark.parametrize("chapter", COURSE)
def test_no_wrong_answer_passes_and_no_right_one_fails(chapter, capsys):
    """All cells of the chapter at smoke scale in this process; at each check, answers of every form and variant."""
    plt.close("all")  # of a chapter that failed
    checked = {one.check.id: one for one in exercises.read_exercises(chapter) if one.is_checked}
    names = {"__name__": "__main__", "display": lambda *_: None}
    for cell in chapters.code_cells(chapter):
        if cell.id in checked:
            exercise = checked.pop(cell.id)
            right, wrong = FORMS[exercise.label]
            solved = dict(names)
            exec(exercise.code, solved)
            asked = f"{', '.join(exercise.names)} = "
            same = asked.removesuffix(" = ")
            for form in (same, *right):
                assert said_of(cell, solved, asked + form, capsys) == "right", form
            for form in wrong:
                assert said_of(cell, solved, asked + form, capsys) == "wrong", form
            for form in NEVER:
                assert said_of(cell, solved, f"{' = '.join(exercise.names)} = {form}", capsys) == "wrong", form
            for variant in one_change_each(exercise):
                other = dict(names)
                exec(f"{variant.answer.source}\n{variant.code}", other)
                assert said_of(cell, other, "", capsys) == "right", variant.answer.source
                book = {name: solved[name] for name in exercise.names}
                if is_far([solved[name] for name in exercise.names], [other[name] for name in exercise.names]):
                    assert said_of(cell, other | book, "", capsys) == "wrong", variant.answer.source
        exec(chapters.without_magics(cell.source), names)
        if exercises.has_tag(cell, "check"):
            assert capsys.readouterr().out == "no answer yet\n"
        if exercises.has_tag(cell, "parameters"):
            names |= parameters.of_profile(chapter, "smoke") | {"device": "cpu"}
        capsys.readouterr()
    plt.close("all")
    assert not checked


def one_change_each(exercise):
    """The exercise with each of its variants of one given value, the others as in the book."""
    for name, legal in exercise.variants.items():
        yield from (exercise.with_values({name: value}) for value in legal)


def is_far(first, second):
    """Whether answers differ by more than any question lets round away; texts count where there is nothing else."""
    pairs = list(zip(first, second))
    values = [(np.array(one, float), np.array(two, float)) for one, two in pairs if not isinstance(one, str)]
    return any((abs(one - two) > 0.01 * (1 + abs(one))).any() for one, two in values) if values else first != second


def said_of(check, names, answer, capsys):
    """What a check says of an answer."""
    names = dict(names)
    exec(answer, names)
    capsys.readouterr()
    try:
        exec(check.source, names)
    except AssertionError as error:
        return "wrong" if str(error) else "no hint"
    return capsys.readouterr().out.strip()


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
    expected = []
    for one in exercises.read_exercises(chapter):
        expected += [(one.label, one.points_in_code if one.is_checked else None)]
        expected += [(f"{one.label}-words", None)] if one.is_checked and one.asks_for_words else []
    assert [(mark.exercise, mark.points) for mark in marks] == expected


BROKEN = {
    "the label of exercise 'One' is ''; it must be unique": "```{exercise} One\nText\n```",
    "is 'ex a:b'; it must be unique, of letters": "```{exercise} One\n:label: ex a:b\nText\n```",
    "has no solution": "```{exercise} One\n:label: a\nText\n```",
    "belongs to no exercise": "```{solution} b\nText\n```",
    "is not between a question and its answer": "```{admonition} First hint\n:class: dropdown hint\nText\n```",
    "is worth 0 points; it must be at least 1": (
        "```{exercise} One\n:label: a\n:class: points-0\nText\n```\n\n```{solution} a\nText\n```"
    ),
}


@pytest.mark.parametrize("chapter", chapters.names())
def test_points_are_shared_between_code_and_words_and_told_with_the_minutes(chapter):
    cells = course.teachers_notebook(chapter, "smoke").cells
    worth = [cell.metadata.get("nbgrader", {}).get("points", 0) for cell in cells]
    found = exercises.read_exercises(chapter)
    assert sum(worth) == sum(one.points for one in found)
    assert f"{sum(worth)} points, about {sum(one.minutes for one in found)} minutes" in cells[0].source or not found
    for one in found:
        said = f"{one.points} point{'s' * (one.points > 1)}, about {one.minutes} minutes"
        assert any(f"*{said}*" in cell.source for cell in cells), said


@pytest.mark.parametrize("chapter", COURSE)
def test_a_checked_exercise_has_two_folded_hints_below_its_question(chapter, notebooks):
    cells = {cell.id: cell.source for cell in notebooks[chapter][1].cells}
    for one in exercises.read_exercises(chapter):
        wanted = ["First hint", "Second hint"] if one.is_checked else []
        assert [hint.argument for hint in one.hints] == wanted, one.label
        assert re.findall(r"<details>\n<summary>(.+)</summary>", cells[one.label]) == wanted, one.label
        others = [source for name, source in cells.items() if name != one.label]
        assert not any(myst.plain(hint, chapter) in source for hint in one.hints for source in others), one.label


def assert_refused(monkeypatch, says, *cells):
    monkeypatch.setattr(chapters, "read_notebook", lambda _: nbformat.v4.new_notebook(cells=list(cells)))
    with pytest.raises(Refusal, match=says):
        exercises.read_exercises("broken")


@pytest.mark.parametrize("says", BROKEN)
def test_exercises_of_another_form_are_refused(says, monkeypatch):
    assert_refused(monkeypatch, says, nbformat.v4.new_markdown_cell(BROKEN[says]))


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
    assert_refused(
        monkeypatch, says, nbformat.v4.new_markdown_cell(text), *code, nbformat.v4.new_markdown_cell(solution)
    )


def test_command_refuses_what_is_no_chapter():
    command = [sys.executable, "-m", "companion", "course", "methodz"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.startswith("CHAPTERS holds 'methodz'; it must hold some of ")
