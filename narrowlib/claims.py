"""What the paper found, and whether what was found here agrees: the rules of ``book/claims.yaml``, applied."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

_PACKAGE = Path(__file__).resolve().parent
_PLACES = (_PACKAGE.parent / "book" / "claims.yaml", _PACKAGE / "_book" / "claims.yaml")  # checkout, wheel
_COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def load_claims(path: str | Path | None = None) -> dict[str, dict[str, Any]]:
    """The claims by their id, as ``claims.yaml`` describes them.

    Parameters
    ----------
    path : path, optional
        Another file of the same form; by default the book's own.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    """
    candidates = _PLACES if path is None else (Path(path),)
    for candidate in candidates:
        if candidate.is_file():
            return yaml.safe_load(candidate.read_text(encoding="utf-8"))
    raise FileNotFoundError(f"claims.yaml is not where it should be: {candidates[0]}")


def assess(
    claim: str, ours: Mapping[str, float], *, claims: Mapping[str, dict[str, Any]] | None = None
) -> pd.DataFrame:
    """Compare our values with the paper's and with the rule that says when the claim holds.

    Parameters
    ----------
    claim : str
        Id of the claim, ``"H2"``.
    ours : mapping
        A value for every quantity that the claim names, no more and no less.
    claims : mapping, optional
        By default those of the book.

    Returns
    -------
    DataFrame
        One row per quantity: ``quantity`` (in words), ``paper``, ``ours``, ``rule``, ``holds``.

    Raises
    ------
    ValueError
        When the claim is unknown, or the quantities are not the ones it names.
    """
    claims = load_claims() if claims is None else claims
    if claim not in claims:
        raise ValueError(f"claim is {claim!r}; it must be one of {', '.join(claims)}")
    quantities = claims[claim]["quantities"]
    if set(ours) != set(quantities):
        raise ValueError(f"ours holds {sorted(ours)}; claim {claim} is about {sorted(quantities)}")
    rows = [
        {
            "quantity": about["what"],
            "paper": about["paper"],
            "ours": float(ours[name]),
            "rule": about["holds"],
            "holds": satisfies(float(ours[name]), about["holds"]),
        }
        for name, about in quantities.items()
    ]
    return pd.DataFrame(rows)


def satisfies(value: float, rule: str) -> bool:
    """Whether a value obeys a rule such as ``"> 0.5"``."""
    comparison, _, bound = rule.partition(" ")
    if comparison not in _COMPARE:
        raise ValueError(f"rule is {rule!r}; it must be one of {', '.join(_COMPARE)}, a space, and a number")
    return bool(_COMPARE[comparison](value, float(bound)))


def verdict(table: pd.DataFrame) -> str:
    """``"reproduced"`` when every quantity of `assess` obeys its rule, ``"partly"`` when some do, else ``"not"``."""
    if table["holds"].all():
        return "reproduced"
    return "partly" if table["holds"].any() else "not"
