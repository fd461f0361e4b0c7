"""Values given in checked exercises, and what a course's seed makes of them.

An answer cell may begin with lines ``name = literal``, and its metadata ``variants`` may list, by name, the values that
can stand there.  The book shows those written; a course with a seed draws others.  Question, check and solution use the
names alone, so all three follow.
"""

import ast
import hashlib
import re
from collections.abc import Mapping
from typing import Any

from companion.parameters import ParameterError

KEY = "variants"  # in the metadata of an answer cell
PARAMETER = "seed"  # of a chapter; a course sets it to its own
SEEDS = range(1, 1_000_001)  # what the chapters' own seeds take; 0 is the book's


class VariantError(ValueError):
    """Variants that do not belong to the given values of their cell."""


def read_seed(text: str | None) -> int | None:
    """A course's seed as a user has typed it; None without one, a ParameterError for what is no seed."""
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) not in SEEDS:
        legal = f"a whole number from {SEEDS[0]} to {SEEDS[-1]}, or be left out for the values of the book"
        raise ParameterError(f"SEED is {text!r}; it must be {legal}")
    return int(text)


def given(source: str) -> dict[str, Any]:
    """Values of the lines ``name = literal`` that a cell begins with; None is no value."""
    found: dict[str, Any] = {}
    for line in ast.parse(source).body:
        try:
            (target,), value = line.targets, ast.literal_eval(line.value)  # type: ignore[attr-defined]
        except (AttributeError, ValueError):
            break
        if not isinstance(target, ast.Name) or value is None:
            break
        found[target.id] = value
    return found


def given_lines(source: str) -> str:
    """The lines that state a cell's given values, as they stand there."""
    lines = ast.parse(source).body[: len(given(source))]
    return "\n".join(source.splitlines()[: lines[-1].end_lineno]) if lines else ""


def check_variants(source: str, variants: Any) -> None:
    """See that every variant is one of a given value, and that there is a choice; a VariantError where not."""
    values = given(source)
    if not isinstance(variants, Mapping) or not all(isinstance(each, list) for each in variants.values()):
        raise VariantError(f"variants is {variants!r}; it must hold lists of values by name")
    for name, legal in variants.items():
        if name not in values:
            raise VariantError(f"variants names {name!r}; its answer cell must begin with a line {name} = literal")
        if other := [value for value in legal if _kind(value) != _kind(values[name])]:
            raise VariantError(f"{name} is {values[name]!r} and has the variant {other[0]!r} of another type")
        if values[name] not in legal:
            raise VariantError(f"{name} is {values[name]!r}; it must be one of its variants {legal!r}")
        if all(value == values[name] for value in legal):
            raise VariantError(f"{name} has only the variant {values[name]!r}; it must have at least two")


def _kind(value: Any) -> Any:
    """The type of a value, and of what a list holds."""
    return [_kind(each) for each in value] if isinstance(value, list) else type(value)


def drawn(seed: int, chapter: str, label: str, source: str, variants: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Values of an exercise in a course, none of them that of the book; the same for the same seed everywhere."""
    values, chosen = given(source), {}
    for name, legal in variants.items():
        others = [value for value in legal if value != values[name]]
        digest = hashlib.sha256(f"{seed}/{chapter}/{label}/{name}".encode()).digest()
        chosen[name] = others[int.from_bytes(digest) % len(others)]
    return chosen
