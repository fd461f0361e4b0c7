"""What the paper found, and whether what was found here agrees: the rules of ``book/claims.yaml``, applied."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import yaml

_PACKAGE = Path(__file__).resolve().parent
_PLACES = (_PACKAGE.parent / "book" / "claims.yaml", _PACKAGE / "_book" / "claims.yaml")  # checkout, wheel
_COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
MEDIA_TYPE = "application/vnd.narrowlib.claims+json"  # beside the table, where a notebook shows an assessment


class Assessment(pd.DataFrame):
    """The table of `assess`.  A notebook that shows it also keeps it as data, from which the scorecard is made.

    What is made of it, by selecting, sorting or joining, is a plain table again.
    """

    _metadata: ClassVar[list[str]] = ["judged"]

    def __init__(self, rows: Any, judged: Sequence[Mapping[str, Any]], **more: Any) -> None:
        super().__init__(rows, **more)
        self.judged = list(judged)

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame

    def _repr_html_(self) -> str:
        """The table, its rows numbered by nothing, with a dash where the paper has no value."""
        return self.to_html(index=self.index.name is not None, na_rep="\N{EN DASH}", notebook=True)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {MEDIA_TYPE: self.judged}


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
    ValueError
        When it is not YAML, or a claim in it lacks a part or holds an illegal value.
    """
    candidates = _PLACES if path is None else (Path(path),)
    for candidate in candidates:
        if candidate.is_file():
            try:
                claims = yaml.safe_load(candidate.read_text(encoding="utf-8"))
            except (yaml.YAMLError, ValueError) as error:  # an impossible date is a ValueError
                raise ValueError(f"{candidate} is not valid YAML: {' '.join(str(error).split())}") from error
            _check(claims, candidate)
            return claims
    raise FileNotFoundError(f"claims.yaml is not where it should be: {candidates[0]}")


def _check(claims: Any, path: Path) -> None:
    if not isinstance(claims, dict) or not claims:
        raise ValueError(f"{path} holds {type(claims).__name__}; it must hold claims by their id")
    for claim, about in claims.items():
        where = f"claim {claim!r} in {path}"
        for name in ("chapter", "where", "statement"):
            if not isinstance(about, dict) or not isinstance(about.get(name), str):
                raise ValueError(f"{where} has no {name}; it must be a text")
        if not isinstance(about.get("quantities"), dict) or not about["quantities"]:
            raise ValueError(f"{where} has no quantities; it must have at least one")
        for quantity, each in about["quantities"].items():
            _check_quantity(each, f"{quantity!r} of {where}")


def _check_quantity(about: Any, where: str) -> None:
    if not isinstance(about, dict) or not isinstance(about.get("what"), str):
        raise ValueError(f"{where} does not say what it is; what must be a text")
    for name in ("paper", "tolerance"):
        value = about.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} of {where} is {value!r}; it must be a number, or .nan for none")
    try:
        _parsed(about.get("holds", ""))
    except ValueError as error:
        raise ValueError(f"holds of {where}: {error}") from None


def assess(
    claim: str, ours: Mapping[str, float], *, record: Any = None, claims: Mapping[str, dict[str, Any]] | None = None
) -> Assessment:
    """Compare our values with the paper's and with the rule that says when the claim holds.

    Parameters
    ----------
    claim : str
        Id of the claim, ``"H2"``.
    ours : mapping
        A value for every quantity that the claim names, no more and no less.
    record : Record, optional
        The record that the values come from, see `narrowlib.store.records.paper_record`; without one they are of this
        run. At the paper's scale, when the record departs from it in nothing, a value has to be near the paper's own as
        well.
    claims : mapping, optional
        By default those of the book.

    Returns
    -------
    Assessment
        A table with one row per quantity: ``quantity`` (in words), ``paper``, ``ours``, ``rule``, ``holds``; at the
        paper's scale also ``tolerance`` and ``near``, whether ours is that near to the paper's (None where the paper
        has no value).

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
    rows, is_full = [], record is not None and not record.provenance.get("departures")
    for name, about in quantities.items():
        value, rule = float(ours[name]), about["holds"]
        row = {"quantity": about["what"], "paper": about["paper"], "ours": value, "rule": rule}
        row["holds"] = satisfies(value, rule)
        if is_full:
            row |= {"tolerance": about["tolerance"], "near": is_near(value, about["paper"], about["tolerance"])}
        rows.append(row)
    found = {
        "claim": claim,
        "scale": "this page" if record is None else "paper",
        "verdict": verdict(pd.DataFrame(rows)),
        "quantities": {
            name: {key: _json_value(row[key]) for key in ("ours", "holds", "near") if key in row}
            for name, row in zip(quantities, rows, strict=True)
        },
        "record": None if record is None else dict(record.provenance),
    }
    return Assessment(rows, [found])


def assess_all(
    ours: Mapping[str, Mapping[str, float]],
    *,
    record: Any = None,
    claims: Mapping[str, dict[str, Any]] | None = None,
) -> Assessment:
    """Several claims by `assess`, in one table whose index names the claim.

    Parameters
    ----------
    ours : mapping
        By claim, its values.
    record, claims
        As in `assess`.
    """
    tables = {claim: assess(claim, values, record=record, claims=claims) for claim, values in ours.items()}
    rows = pd.concat(tables, names=["claim", None]).droplevel(1)
    return Assessment(rows, [found for table in tables.values() for found in table.judged])


def satisfies(value: float, rule: str) -> bool:
    """Whether a value obeys a rule such as ``"> 0.5"``."""
    comparison, bound = _parsed(rule)
    return bool(_COMPARE[comparison](value, bound))


def _parsed(rule: str) -> tuple[str, float]:
    """The comparison of a rule and its number."""
    comparison, _, bound = rule.partition(" ") if isinstance(rule, str) else ("", "", "")
    try:
        number = float(bound)
    except ValueError:
        number = math.nan
    if comparison not in _COMPARE or math.isnan(number):
        raise ValueError(f"rule is {rule!r}; it must be one of {', '.join(_COMPARE)}, a space, and a number")
    return comparison, number


def is_near(ours: float, paper: float, tolerance: float) -> bool | None:
    """Whether our value is within the tolerance of the paper's; None where the paper has no value."""
    if math.isnan(paper) or math.isnan(tolerance):
        return None
    return bool(abs(ours - paper) <= tolerance)


def verdict(table: pd.DataFrame) -> str:
    """What `assess` found, in a word.

    Returns
    -------
    str
        ``"reproduced"`` when every quantity obeys its rule and, at the paper's scale, none is far from the paper's
        value; ``"partly"`` when some obey their rules; else ``"not"``.
    """
    far = "near" in table and any(near is False for near in table["near"])
    if table["holds"].all() and not far:
        return "reproduced"
    return "partly" if table["holds"].any() else "not"


def _json_value(value: Any) -> Any:
    """A value as json holds it: what is not a number is None."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
