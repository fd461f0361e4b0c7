"""Check readers' answers to exercises, at the precision that a question asks for.

A check cell states one verdict per condition and hands them to `judge`:

>>> judge(number("4.9e14", 488526937079580, "order does not count", digits=2))
right
>>> judge(number(None, 69, "whole steps"))
no answer yet

A verdict is None without an answer, empty when it is right, and else a hint.
"""

import contextlib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np

from narrowlib.texts import counted

_POWER = re.compile(r"\s*[×x*·]\s*10\s*(?:\^|\*\*)\s*")
_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:[,_\s'’]\d{3})+(?!\d)")  # which "0,333" is not
_ROUNDING = 1e-9  # relative: what arithmetic in double precision may add
Verdict = str | None


def judge(*verdicts: Verdict) -> None:
    """Print ``right``, or ``no answer yet`` if something is not answered.

    Raises
    ------
    AssertionError
        With the first hint, when an answer is not right.
    """
    if None in verdicts:
        print("no answer yet")
        return
    if wrong := [hint for hint in verdicts if hint]:
        raise AssertionError(wrong[0])
    print("right")


def number(answer: Any, right: float, hint: str, *, digits: int | None = None, places: int | None = None) -> Verdict:
    r"""Verdict on one number.

    An answer :math:`a` is right when it rounds to the right value :math:`r` at the precision asked for,
    :math:`|a - r| \le \tau`, with

    .. math::

        \tau = \tfrac12 \cdot 10^{\lfloor \log_{10} |r| \rfloor + 1 - d}
        \quad \text{for } d \text{ significant digits}, \qquad
        \tau = \tfrac12 \cdot 10^{-p} \quad \text{for } p \text{ decimal places},

    the smaller of both where both are asked for, and :math:`a = r` for a whole number, where neither is; rounding of
    double precision, a part in :math:`10^9`, is added.

    Parameters
    ----------
    answer : number or str
        Also of numpy or torch, a list that holds one, and texts such as ``"1/3"``, ``"33%"``, ``"4.9e14"``,
        ``"635,376"``.  Truth values, infinities and what is no number are wrong.
    right : float
    hint : str
        What helps and does not tell the answer.
    digits, places : int, optional
        Significant digits, and decimal places, that the question asks for.
    """
    if answer is None:
        return None
    found = as_number(answer)
    if found is None:
        return f"{answer!r} is not a number"
    limits = [0.5 * 10.0**-places] if places is not None else []
    if digits is not None:
        limits.append(0.5 * 10.0 ** (math.floor(math.log10(abs(right))) + 1 - digits) if right else 0.0)
    return "" if abs(found - right) <= min(limits, default=0.0) + _ROUNDING * abs(right) else hint


def numbers(
    answers: Any, right: Sequence[float], hint: str, *, digits: int | None = None, places: int | None = None
) -> Verdict:
    """Verdict on several numbers in order; each is judged by `number`."""
    if answers is None:
        return None
    given = list(answers) if isinstance(answers, Iterable) and not isinstance(answers, str | dict) else []
    if len(given) != len(right):
        return f"the answer must be {counted(len(right), 'number')}"
    told = [number(one, value, hint, digits=digits, places=places) for one, value in zip(given, right)]
    return "the answer must be numbers" if None in told else next(filter(None, told), "")


def text(answer: Any, right: Iterable[str], hint: str) -> Verdict:
    """Verdict on a name: any name in ``right`` counts, regardless of case and surrounding spaces."""
    if answer is None:
        return None
    return "" if isinstance(answer, str) and _plain(answer) in map(_plain, right) else hint


def rule(answers: Sequence[Any], holds: Callable[..., Any], hint: str) -> Verdict:
    """Verdict by a condition.

    Parameters
    ----------
    answers : sequence
        Numbers, or lists of them.
    holds : callable
        Takes each answer as an array of floats, of no dimension for one number, and says whether it is right.
    hint : str
    """
    if any(answer is None for answer in answers):
        return None
    read = [as_number(one) if _is_single(one) else [as_number(part) for part in one] for one in answers]
    if any(None in one if isinstance(one, list) else one is None for one in read):
        return "the answer must be numbers"
    with contextlib.suppress(ValueError, IndexError):  # lists of lengths that do not go together
        return "" if holds(*map(np.array, read)) else hint
    return hint


def as_number(answer: Any) -> float | None:
    """A finite number as a float, see `number` for what can be read; None for all else."""
    if hasattr(answer, "item") and getattr(answer, "size", 1) != 0:  # of numpy or torch
        try:
            answer = answer.item()
        except (ValueError, RuntimeError):  # of several values
            return None
    while isinstance(answer, list | tuple) and len(answer) == 1:  # what a course makes of an array
        (answer,) = answer
    if isinstance(answer, str):
        plain = _POWER.sub("e", answer.strip().replace("\u2212", "-"))
        plain = _THOUSANDS.sub(lambda found: re.sub(r"\D", "", found[0]), plain)
        percent, plain = plain.endswith("%"), plain.removesuffix("%").strip()
        try:
            parts = [float(part) for part in plain.split("/")]
            answer = parts[0] if len(parts) == 1 else parts[0] / parts[1] if len(parts) == 2 else math.nan
        except (ValueError, ZeroDivisionError):
            return None
        answer = answer / 100 if percent else answer
    is_real = isinstance(answer, int | float | Fraction | Decimal) and not isinstance(answer, bool)
    try:
        return float(answer) if is_real and math.isfinite(answer) else None
    except OverflowError:
        return None


def _is_single(answer: Any) -> bool:
    return isinstance(answer, str | dict) or not isinstance(answer, Iterable) or getattr(answer, "ndim", 1) == 0


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold()
