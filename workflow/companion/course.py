"""Make student and teacher notebooks from the chapters, with the metadata that nbgrader reads.

The teacher's notebook holds every solution and every check between nbgrader's markers; the student's notebook is the
same without the text between the markers.  Both are made from the chapter's source, so no solution is ever rendered
first.  With a seed, given values and the chapter's parameter ``seed`` differ from the book's, see `companion.variants`.
"""

import argparse
import copy
import os
from typing import Any

from companion import chapters, exercises, myst, notebooks, parameters, variants
from companion.locks import one_at_a_time
from companion.plainly import Refusal
from narrowlib.texts import counted

FOLDER = chapters.BUILD / "course"
LOCK = "course"  # of who writes it and who grades by it
PROFILE = "course"  # what a student's notebook is run with; the defaults where no such file is
SCHEMA = 3  # of nbgrader's metadata
PARAMETERS = "parameters"  # the locked cell of them
SOLUTION = ("### BEGIN SOLUTION", "### END SOLUTION")
HIDDEN = ("### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS")
CODE_STUB = "# your code"
TEXT_STUB = "*Your answer, in words.*"
INSTRUCTIONS = """# Before you begin

- Run the notebook from the top; this takes about a minute. The exercises follow: {points}{minutes}.
- Where a cell says `= None  # your answer`, replace `None`, or add code below that sets the name. The next cell checks
  only that there is an answer. Whether it is right is checked in grading, with the parameters given here. An answer is
  a number, a text, or a list of these.
- Where a cell says *{stub}*, write your answer there. A person reads it.
- Do not add or remove cells of an exercise. Before you hand in, restart the kernel, run everything, and save.

Answers: {checked} checked by code, {written} read by a person. Scale: {values}.
"""
CONFIG = """# Settings of nbgrader for this course; see "For teachers" in the book.
c = get_config()
c.CourseDirectory.course_id = "narrow-ai"
c.ClearSolutions.code_stub = {{"python": {code!r}}}
c.ClearSolutions.text_stub = {text!r}
c.ExecutePreprocessor.timeout = 600
"""


def metadata(grade_id: str, *, solution: bool = False, locked: bool = False, points: int = 0) -> dict[str, Any]:
    """What nbgrader reads of a cell; one with points is graded."""
    found = {
        "schema_version": SCHEMA,
        "grade_id": grade_id,
        "grade": points > 0,
        "solution": solution,
        "locked": locked,
        "task": False,
    }
    return {**found, "points": points} if points else found


def marked(cell: Any, **nbgrader: Any) -> Any:
    """A cell with nbgrader's metadata and an id that lasts."""
    cell.metadata["nbgrader"] = metadata(**nbgrader)
    return cell


def between(marks: tuple[str, str], text: str) -> str:
    """Text between two marks, each on a line."""
    return f"{marks[0]}\n{text}\n{marks[1]}"


def teachers_cells(exercise: exercises.Exercise, chapter: str) -> list[Any]:
    """An exercise as the teacher has it."""
    label = exercise.label
    heading = myst.exercise_heading(myst.Directive("exercise", exercise.title, {"label": label}, ""), chapter)
    asked = [myst.plain_all(exercise.question, chapter), *(myst.plain(hint, chapter) for hint in exercise.hints)]
    question = myst.markdown_cell(heading + _worth(exercise) + "\n\n".join(asked), label)
    cells = [marked(question, grade_id=label, locked=True)]
    words = myst.plain_all(exercise.words if exercise.is_checked else exercise.solution, chapter)
    name = f"{label}-words-answer" if exercise.is_checked else f"{label}-answer"
    in_words = exercise.points - exercise.points_in_code
    text = marked(myst.markdown_cell(between(SOLUTION, words), name), grade_id=name, points=in_words, solution=True)
    if not exercise.is_checked:
        return [*cells, text]
    in_code = "" if exercise.asks_for_words else _commented(words)
    source = f"{exercise.answer.source}\n{between(SOLUTION, exercise.code + in_code)}"
    answer = myst.code_cell(source, f"{label}-answer")
    answered = "\n".join(f'assert {name} is not None, "no answer yet"' for name in exercise.names)
    again = [variants.given_lines(exercise.answer.source), exercise.check.source]  # a student may have changed them
    hidden = between(HIDDEN, "\n".join(filter(None, again)))
    check = myst.code_cell(f"{answered}\n{hidden}", f"{label}-check")
    return [
        *cells,
        marked(answer, grade_id=f"{label}-answer", solution=True),
        marked(check, grade_id=f"{label}-check", points=exercise.points_in_code, locked=True),
        *([text] if exercise.asks_for_words else []),
    ]


def _worth(exercise: exercises.Exercise) -> str:
    """``*3 points, about 20 minutes*``, and an empty line."""
    return f"*{counted(exercise.points, 'point')}{_about(exercise.minutes)}*\n\n"


def _about(minutes: int | None) -> str:
    return f", about {counted(minutes, 'minute')}" if minutes else ""


def _commented(words: str) -> str:
    lines = [f"# {line}".rstrip() for line in words.splitlines()]
    return "\n".join(["", "", *lines]) if lines else ""


def exercises_of(chapter: str, seed: int | None) -> list[exercises.Exercise]:
    """The exercises of a chapter, with the values that a course of this seed gives."""
    found = exercises.read_exercises(chapter)
    if seed is None:
        return found
    return [
        one.with_values(variants.drawn(seed, chapter, one.label, one.answer.source, one.variants))
        if one.variants
        else one
        for one in found
    ]


def parameters_of(chapter: str, profile: str, seed: int | None) -> dict[str, Any]:
    """What a course sets in a chapter: the profile's values, and the seed where the chapter has one."""
    values = parameters.of_profile(chapter, profile)
    if seed is not None and variants.PARAMETER in parameters.quick(chapter):
        values |= parameters.checked(chapter, {variants.PARAMETER: seed})
    return values


def teachers_notebook(chapter: str, profile: str, seed: int | None = None) -> Any:
    """A chapter with its exercises, their solutions and their checks."""
    found = exercises_of(chapter, seed)
    values = parameters_of(chapter, profile, seed)
    instructions = _instructions(found, values) + _given_values(chapter, found, seed)
    cells = [myst.markdown_cell(instructions, "instructions"), notebooks.install_cell(chapter)]
    for cell in chapters.read_notebook(chapter).cells:
        if cell.cell_type != "code":
            cells += _prose_and_exercises(cell, chapter, {exercise.label: exercise for exercise in found})
        elif "parameters" in cell.metadata.get("tags", []):
            source = notebooks.with_values(cell.source, values)
            given = myst.code_cell(source, PARAMETERS, tags=["parameters"])
            cells.append(marked(given, grade_id=PARAMETERS, locked=True))
        elif not exercises.has_tag(cell, "exercise") and not exercises.has_tag(cell, "check"):
            cells += myst.plain_cells([cell], chapter)
    notebook = notebooks.notebook_of(cells)
    notebook.metadata["narrowlib"] = {"chapter": chapter, **({} if seed is None else {"seed": seed})}
    return notebook


def _prose_and_exercises(cell: Any, chapter: str, found: dict[str, exercises.Exercise]) -> list[Any]:
    cells = []
    for number, piece in enumerate(myst.pieces(cell.source)):
        if isinstance(piece, myst.Directive) and piece.name == "exercise":
            cells += teachers_cells(found[piece.options["label"]], chapter)
        elif not myst.is_hint(piece) and not (isinstance(piece, myst.Directive) and piece.name == "solution"):
            text = myst.plain(piece, chapter)
            cells += [myst.markdown_cell(text, f"{cell['id']}-{number}")] if text.strip() else []
    return cells


def _instructions(found: list[exercises.Exercise], values: dict[str, Any]) -> str:
    checked = sum(exercise.is_checked for exercise in found)
    written = sum(exercise.asks_for_words or not exercise.is_checked for exercise in found)
    text = INSTRUCTIONS.format(
        points=counted(sum(exercise.points for exercise in found), "point"),
        minutes=_about(sum(exercise.minutes or 0 for exercise in found)),
        stub=TEXT_STUB.strip("*"),
        checked=checked,
        written=written,
        values=", ".join(f"`{name}={value!r}`" for name, value in values.items()) or "the defaults of the book",
    )
    return text.rstrip()


def _given_values(chapter: str, found: list[exercises.Exercise], seed: int | None) -> str:
    """A paragraph of the instructions on what a seed has changed; empty without a seed."""
    if seed is None:
        return ""
    said = [f"{_as_code(one)} ({myst.numbers(chapter).find(one.label)})" for one in found if one.variants]
    return f"\n\nVariant {seed} of this course{', checked with ' if said else ''}{'; '.join(said)}."


def _as_code(exercise: exercises.Exercise) -> str:
    values = variants.given(exercise.answer.source)
    return ", ".join(f"`{name} = {values[name]!r}`" for name in exercise.variants)


def students_notebook(teachers: Any) -> Any:
    """The teacher's notebook without solutions and hidden checks, as nbgrader makes it."""
    from nbgrader import preprocessors

    notebook = copy.deepcopy(teachers)
    clear = preprocessors.ClearSolutions(code_stub={"python": CODE_STUB}, text_stub=TEXT_STUB)
    for step in (clear, preprocessors.ClearHiddenTests(), preprocessors.ComputeChecksums()):
        notebook, _ = step.preprocess(notebook, {})
    return notebook


def course_profile() -> str:
    """The profile of courses where there is one, else the defaults."""
    return PROFILE if PROFILE in parameters.profile_names() else parameters.QUICK


def write_course(wanted: list[str], profile: str, seed: int | None = None) -> list[str]:
    """Write both sets for the chapters that have exercises; returns their names."""
    written = []
    for chapter in wanted:
        if not exercises.read_exercises(chapter):
            continue
        teachers = teachers_notebook(chapter, profile, seed)
        notebooks.write(FOLDER / "instructor" / f"{chapter}.ipynb", teachers)
        notebooks.write(FOLDER / "student" / f"{chapter}.ipynb", students_notebook(teachers))
        written.append(chapter)
    config = CONFIG.format(code=CODE_STUB, text=TEXT_STUB)
    chapters.write_if_changed(FOLDER / "nbgrader_config.py", config)
    for path in [*(FOLDER / "instructor").rglob("*.ipynb"), *(FOLDER / "student").rglob("*.ipynb")]:
        if path.relative_to(FOLDER).with_suffix("").as_posix().partition("/")[2] not in written:
            path.unlink()  # of a chapter that is gone, or not wanted this time
    return written


def what_varies(written: list[str], seed: int | None) -> str:
    """One line on which exercises and chapters depend on the seed."""
    checked = [one for chapter in written for one in exercises.read_exercises(chapter) if one.is_checked]
    same = [one.label for one in checked if not one.variants]
    seeded = [chapter for chapter in written if variants.PARAMETER in parameters.quick(chapter)]
    values = "the book's values" if seed is None else f"values of seed {seed}"
    said = [f"{values}; {len(checked) - len(same)} of {len(checked)} checked exercises vary with SEED"]
    said += [f"not {', '.join(same)}"] if same else []
    said += [f"the data also vary in {', '.join(seeded)}"] if seeded else []
    return "; ".join(said)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chapters", nargs="*", help="names of chapters; by default all")
    parser.add_argument("--profile", default=course_profile(), help="scale of the notebooks")
    about = f"seed of given values that differ from the book's: {variants.SEEDS[0]} to {variants.SEEDS[-1]}"
    parser.add_argument("--seed", help=about)
    asked = parser.parse_args(arguments)
    seed = variants.read_seed(asked.seed)
    if unknown := [name for name in asked.chapters if name not in chapters.names()]:
        raise Refusal(f"CHAPTERS holds {unknown[0]!r}; it must hold some of {', '.join(chapters.names())}")
    with one_at_a_time(LOCK, "another process is writing or grading the course; waiting for it"):
        written = write_course(asked.chapters or chapters.names(), asked.profile, seed)
    print(f"{os.path.relpath(FOLDER)}: {', '.join(written)}")
    print(what_varies(written, seed))
    return 0
