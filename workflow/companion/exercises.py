"""The exercises of a chapter, read from its one source: question, answer cell, check cell, solution.

A checked exercise is an ``exercise`` directive, a cell tagged ``exercise`` that sets the reader's names to None, a
cell tagged ``check`` that asserts on them, and a ``solution`` directive whose Python blocks, run in the answer cell's
place, set those names.  Hints, admonitions of the class ``hint``, stand below the question.  An exercise without the
two cells is answered in words; one of the class ``words`` asks for both.
Classes ``points-3`` and ``minutes-20`` say what it is worth and how long it takes.
An answer cell may begin with given values, which vary where its metadata has ``variants``, see `companion.variants`.
"""

from __future__ import annotations

import ast
import copy
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from companion import chapters, myst, notebooks, variants
from companion.plainly import Refusal

LABEL = re.compile(r"[A-Za-z0-9_-]{1,50}")  # what names of cells and of nbgrader hold
AMOUNTS = re.compile(r"\b(points|minutes)-(\d+)\b")  # among the classes of an exercise


@dataclass(frozen=True)
class Exercise:
    """One exercise; ``answer`` and ``check`` are its cells, None where it is answered in words.

    Its points are those of code and words together, by default one for each; minutes are what to expect.
    """

    label: str
    title: str
    question: str
    solution: str = ""
    answer: Any = None
    check: Any = None
    asks_for_words: bool = False
    minutes: int | None = None
    given_points: int | None = None
    hints: tuple[myst.Directive, ...] = ()

    @property
    def points(self) -> int:
        """What code and words are worth together."""
        return self.given_points or 1 + (self.is_checked and self.asks_for_words)

    @property
    def points_in_code(self) -> int:
        """What is given by the check: all but one point for words."""
        return self.points - self.asks_for_words if self.is_checked else 0

    @property
    def is_checked(self) -> bool:
        """Whether code decides."""
        return self.check is not None

    @property
    def names(self) -> list[str]:
        """The variables that the reader sets."""
        return unanswered(self.answer.source) if self.is_checked else []

    @property
    def variants(self) -> dict[str, list[Any]]:
        """Legal values of what is given, by name; empty where the exercise is the same in every course."""
        return self.answer.metadata.get(variants.KEY, {}) if self.is_checked else {}

    def with_values(self, values: Mapping[str, Any]) -> Exercise:
        """The exercise with other given values in its answer cell."""
        if not values:
            return self
        answer = copy.deepcopy(self.answer)
        answer.source = notebooks.with_values(answer.source, values)
        return replace(self, answer=answer)

    @property
    def code(self) -> str:
        """The Python blocks of the solution, one after another."""
        blocks = [piece.code for piece in myst.pieces(self.solution) if _is_python(piece)]
        return "\n\n".join(textwrap.dedent(block).strip() for block in blocks)

    @property
    def words(self) -> str:
        """The solution without its Python blocks."""
        left = [piece for piece in myst.pieces(self.solution) if not _is_python(piece)]
        return "\n\n".join(piece.text if isinstance(piece, myst.Prose | myst.Block) else piece.body for piece in left)


def _is_python(piece: myst.Piece) -> bool:
    return isinstance(piece, myst.Block) and piece.language in ("python", "py", "ipython3")


def unanswered(source: str) -> list[str]:
    """Names that a cell sets to None, in order."""
    found = []
    for line in ast.parse(source).body:
        if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant) and line.value.value is None:
            found += [target.id for target in line.targets if isinstance(target, ast.Name)]
    return found


def has_tag(cell: Any, tag: str) -> bool:
    """Whether a cell carries a tag."""
    return tag in cell.metadata.get("tags", [])


def read_exercises(chapter: str) -> list[Exercise]:
    """The exercises of a chapter in reading order; refused when a part is missing or belongs to none."""
    found: dict[str, Exercise] = {}
    last = ""
    for cell in chapters.read_notebook(chapter).cells:
        if variants.KEY in cell.metadata and not has_tag(cell, "exercise"):
            raise Refusal(f"{chapter}: a cell that is not tagged exercise has {variants.KEY}")
        for tag, part in (("exercise", "answer"), ("check", "check")):
            if cell.cell_type == "code" and has_tag(cell, tag):
                if not last or getattr(found[last], part) is not None:
                    raise Refusal(f"{chapter}: a cell tagged {tag} follows no exercise without one")
                found[last] = replace(found[last], **{part: cell})
        if cell.cell_type != "code":
            for piece in myst.pieces(cell.source):
                if isinstance(piece, myst.Directive) and piece.name == "exercise":
                    last = piece.options.get("label", "")
                    if not LABEL.fullmatch(last) or last in found:
                        legal = "it must be unique, of letters, digits, - and _"
                        raise Refusal(f"{chapter}: the label of exercise {piece.argument!r} is {last!r}; {legal}")
                    found[last] = _begun(last, piece)
                elif myst.is_hint(piece):
                    if not last or found[last].answer is not None or found[last].solution:
                        raise Refusal(f"{chapter}: {piece.argument!r} is not between a question and its answer")
                    found[last] = replace(found[last], hints=(*found[last].hints, piece))
                elif isinstance(piece, myst.Directive) and piece.name == "solution":
                    if piece.argument not in found:
                        raise Refusal(f"{chapter}: solution {piece.argument!r} belongs to no exercise before it")
                    found[piece.argument] = replace(found[piece.argument], solution=piece.body)
    for exercise in found.values():
        _check_form(chapter, exercise)
        if exercise.is_checked:
            _check_given(chapter, exercise)
    return list(found.values())


def _begun(label: str, directive: myst.Directive) -> Exercise:
    """An exercise as its directive has it."""
    classes = directive.options.get("class", "")
    amounts = {name: int(number) for name, number in AMOUNTS.findall(classes)}
    return Exercise(
        label,
        directive.argument,
        directive.body,
        asks_for_words="words" in classes.split(),
        minutes=amounts.get("minutes"),
        given_points=amounts.get("points"),
    )


def _check_form(chapter: str, exercise: Exercise) -> None:
    where = f"{chapter}: {exercise.label}"
    if not exercise.solution:
        raise Refusal(f"{where} has no solution")
    if (exercise.answer is None) != (exercise.check is None):
        raise Refusal(f"{where} has only one of the cells tagged exercise and check; it needs both or none")
    least = 1 + (exercise.is_checked and exercise.asks_for_words)
    if exercise.points < least or exercise.given_points == 0:
        raise Refusal(f"{where} is worth {exercise.given_points} points; it must be at least {least}")
    if not exercise.is_checked:
        return
    if not exercise.names:
        raise Refusal(f"{where}: its answer cell sets no name to None")
    assigned = {node.id for node in ast.walk(ast.parse(exercise.code)) if _is_stored(node)}
    if missing := [name for name in exercise.names if name not in assigned]:
        raise Refusal(f"{where}: its solution does not set {', '.join(missing)}")


def _check_given(chapter: str, exercise: Exercise) -> None:
    """Given values belong to their exercise alone: its solution leaves them, and no other cell knows their names."""
    where, source = f"{chapter}: {exercise.label}", exercise.answer.source
    try:
        variants.check_variants(source, exercise.answer.metadata.get(variants.KEY, {}))
    except variants.VariantError as error:
        raise Refusal(f"{where}: {error}") from None
    given = set(variants.given(source))
    changed = {node.id for part in (exercise.code, exercise.check.source) for node in _names(part) if _is_stored(node)}
    if changed := sorted(given & changed):
        raise Refusal(f"{where}: its solution or check sets {changed[0]}, a given value")
    others = [cell for cell in chapters.code_cells(chapter) if cell.id not in (exercise.answer.id, exercise.check.id)]
    used = {node.id for cell in others for node in _names(cell.source)}
    if shared := sorted(given & used):
        raise Refusal(f"{where}: {shared[0]} is a given value, and another cell uses the name")


def _names(source: str) -> list[ast.Name]:
    tree = ast.parse(chapters.without_magics(source))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Name)]


def _is_stored(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
