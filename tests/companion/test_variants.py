"""Variants of exercises: a seed changes what is given, solutions and checks follow, and other answers are wrong."""

import ast
import builtins
import itertools

import nbformat
import pytest
from companion import __main__ as companion
from companion import chapters, course, exercises, parameters, variants
from test_course import assert_refused

CHECKED = {
    one.label: (chapter, one)
    for chapter in chapters.names()
    for one in exercises.read_exercises(chapter)
    if one.is_checked
}
VARIED = [label for label, (_, one) in CHECKED.items() if one.variants]


def names_of(source):
    """Names that a source uses, and those that it sets."""
    used, known = set(), set(dir(builtins))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else known).add(node.id)
        elif isinstance(node, ast.alias):
            known.add(node.asname or node.name)
        elif isinstance(node, ast.arg):
            known.add(node.arg)
    return used, known


def needs_its_page(label):
    """Whether solution or check use more of the chapter than its imports, parameters and configuration."""
    chapter, exercise = CHECKED[label]
    used, known = names_of("\n".join((exercise.answer.source, exercise.code, exercise.check.source)))
    lines = [line for cell in chapters.code_cells(chapter) for line in ast.parse(cell.source).body]
    imported = [line for line in lines if isinstance(line, ast.ImportFrom)]
    page = set.union(*(names_of(ast.unparse(line))[1] for line in imported)) | set(parameters.quick(chapter))
    return bool(used - known - page - {"config"})


def page_of(chapter):
    """What the first cells of a chapter define."""
    module, quick = parameters.page_module(chapter), parameters.quick(chapter)
    return {**vars(module), **quick, "config": module.Config.from_parameters(quick)}


ALONE = [label for label in VARIED if not needs_its_page(label)]


def every_variant(exercise):
    """The exercise with each choice of its given values, and whether all of them differ from the book's."""
    book = variants.given(exercise.answer.source)
    for values in itertools.product(*exercise.variants.values()):
        chosen = dict(zip(exercise.variants, values))
        yield exercise.with_values(chosen), all(value != book[name] for name, value in chosen.items())


def solved(exercise, page):
    names = dict(page)
    exec(exercise.answer.source, names)
    exec(exercise.code, names)
    return names


def is_right(check, names):
    try:
        exec(check, dict(names))
    except AssertionError:
        return False
    return True


def test_all_but_a_few_checked_exercises_vary():
    assert len(VARIED) >= len(CHECKED) - 3 and len(ALONE) >= 10


@pytest.mark.parametrize("label", ALONE)
def test_every_variant_is_solved_and_the_books_answer_fails_where_a_course_draws(label):
    chapter, exercise = CHECKED[label]
    page = page_of(chapter)
    solution = solved(exercise, page)
    book = {name: solution[name] for name in exercise.names}
    n_drawn = 0
    for variant, may_be_drawn in every_variant(exercise):
        own = solved(variant, page)
        assert is_right(variant.check.source, own), variant.answer.source
        if may_be_drawn:
            assert not is_right(variant.check.source, own | book), variant.answer.source
        n_drawn += may_be_drawn
    assert n_drawn


@pytest.mark.parametrize("label", VARIED)
def test_a_question_names_what_is_given(label):
    exercise = CHECKED[label][1]
    told = exercise.question.split("`")
    assert "below" in exercise.question or all(any(name in part.split() for part in told) for name in exercise.variants)


@pytest.mark.parametrize("label", VARIED)
def test_a_seed_draws_other_values_and_always_the_same(label):
    chapter, exercise = CHECKED[label]
    book = variants.given(exercise.answer.source)
    drawn = [
        variants.drawn(seed, chapter, label, exercise.answer.source, exercise.variants) for seed in (*range(1, 40), 1)
    ]
    assert drawn[0] == drawn[-1]
    for name, legal in exercise.variants.items():
        found = [values[name] for values in drawn]
        assert book[name] not in found and all(value in found for value in legal if value != book[name])


def test_draws_are_the_same_on_every_machine():
    source, legal = "n = 1\nm = 1.0", {"n": list(range(100)), "m": [1.0, 2.0]}
    assert variants.drawn(7, "methods", "ex-a", source, legal) == {"n": 40, "m": 2.0}


def cell_of(notebook, name):
    return next(cell for cell in notebook.cells if cell.get("id") == name)


@pytest.mark.parametrize("chapter", sorted({CHECKED[label][0] for label in VARIED}))
def test_a_seed_changes_given_values_the_parameter_seed_and_what_the_top_says_alone(chapter):
    public, seeded = (course.teachers_notebook(chapter, "smoke", seed) for seed in (None, 7))
    assert nbformat.writes(seeded) == nbformat.writes(course.teachers_notebook(chapter, "smoke", 7))
    varied = [label for label in VARIED if CHECKED[label][0] == chapter]
    changed = {new.id for old, new in zip(public.cells, seeded.cells, strict=True) if old.source != new.source}
    expected = {f"{label}-{part}" for label in varied for part in ("answer", "check")} | {"instructions"}
    has_seed = "seed" in parameters.quick(chapter)
    assert changed == expected | ({"parameters"} if has_seed else set())
    assert "Variant 7 of this course, checked with `" in seeded.cells[0].source
    assert ("`seed=7`" in seeded.cells[0].source) == has_seed
    students = course.students_notebook(seeded)
    for label in varied:
        answer = cell_of(students, f"{label}-answer").source
        assert answer.startswith(variants.given_lines(cell_of(seeded, f"{label}-answer").source))
        assert all(f"`{name} = {variants.given(answer)[name]!r}`" in students.cells[0].source for name in given(label))
        assert variants.given_lines(answer) not in cell_of(students, f"{label}-check").source


def given(label):
    return CHECKED[label][1].variants


@pytest.mark.parametrize("seed", [None, 7])
def test_a_student_who_changes_what_is_given_is_graded_by_what_was_given(seed):
    notebook = course.teachers_notebook("methods", "smoke", seed)
    check = cell_of(notebook, "ex-methods-sets-check").source
    names = {}
    exec(cell_of(notebook, "ex-methods-sets-answer").source, names)
    assert is_right(check, names)
    assert not is_right(check, {"n_positions": 1, "k": 1, "m": 1, "n_sets_atomic": 1, "n_sets_composite": 1})


@pytest.mark.parametrize("seed", ["", "-3", "0", "1.5", "seven", "1000001", "７", "1_000", "1" * 5000])
def test_what_is_no_seed_is_refused_before_anything_is_written(seed, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(course, "FOLDER", tmp_path / "course")
    assert companion.main(["course", f"--seed={seed}", "methods"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"SEED is {seed!r}; it must be a whole number from 1 to 1000000") and told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_command_says_how_many_exercises_vary(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(course, "FOLDER", tmp_path / "course")
    assert course.main(["--seed=7", "methods", "ranking"]) == 0
    told = capsys.readouterr().out.splitlines()[-1]
    assert told == "values of seed 7; 3 of 3 checked exercises vary with SEED; the data also vary in methods"


BROKEN = {  # an answer cell, its variants, and what is said
    "it must hold lists": ("n = 1\nx = None", [1, 2]),
    "it must hold lists of values": ("n = 1\nx = None", {"n": 3}),
    "must begin with a line m = literal": ("n = 1\nx = None", {"m": [1, 2]}),
    "must begin with a line n = literal": ("x = None\nn = 1", {"n": [1, 2]}),
    "must begin with a line k = literal": ("k = 1 + 1\nx = None", {"k": [1, 2]}),
    "has the variant '1e-3' of another type": ("n = 0.01\nx = None", {"n": [0.01, "1e-3"]}),
    r"has the variant \[1, 2\] of another type": ("n = [1.0, 2.0]\nx = None", {"n": [[1.0, 2.0], [1, 2]]}),
    "it must be one of its variants": ("n = 1\nx = None", {"n": [2, 3]}),
    "it must have at least two": ("n = 1\nx = None", {"n": [1, 1]}),
    "sets n, a given value": ("n = 1\nx = None", {"n": [1, 2]}, "x = n\nn = 3"),
    "n is a given value, and another cell uses the name": ("n = 1\nx = None", {"n": [1, 2]}, "x = n", "print(n)"),
}


@pytest.mark.parametrize("says", BROKEN)
def test_variants_of_another_form_are_refused(says, monkeypatch):
    answer, legal, *rest = BROKEN[says]
    solution, other = *rest, *("x = 1", "pass")[len(rest) :]
    cells = [
        nbformat.v4.new_markdown_cell("```{exercise} One\n:label: a\nText\n```"),
        nbformat.v4.new_code_cell(answer, metadata={"tags": ["exercise"], "variants": legal}),
        nbformat.v4.new_code_cell("assert x == n", metadata={"tags": ["check"]}),
        nbformat.v4.new_markdown_cell(f"````{{solution}} a\n```python\n{solution}\n```\n````"),
        nbformat.v4.new_code_cell(other),
    ]
    assert_refused(monkeypatch, says, *cells)


def test_variants_of_another_cell_are_refused(monkeypatch):
    cell = nbformat.v4.new_code_cell("n = 1", metadata={"variants": {"n": [1, 2]}})
    assert_refused(monkeypatch, "a cell that is not tagged exercise has variants", cell)
