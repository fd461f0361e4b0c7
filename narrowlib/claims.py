"""The paper's claims, and whether our results agree, by the rules of ``book/claims.yaml``."""

import math
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from narrowlib.deciding import check_conditions, shortfalls
from narrowlib.intervals import Interval
from narrowlib.settings import read_yaml

_PACKAGE = Path(__file__).resolve().parent
_PLACES = (_PACKAGE.parent / "book" / "claims.yaml", _PACKAGE / "_book" / "claims.yaml")  # checkout, wheel
_COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
RECORDS = "records"  # where alone a quantity is measured that a page has no time for
READ = ("pixels", "outputs", "table", "scripts")  # how a value of the paper was read
REPRODUCED, IN_PART, NOT_REPRODUCED = "reproduced", "in part", "not reproduced"  # of a record that decides
UNDECIDED = "undecided at this scale"  # of a record that does not
SEEN, NOT_SEEN = "direction seen", "direction not seen"  # of the run of a page
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
        When it is not YAML, holds a name twice, or a claim in it lacks a part or holds an illegal value.
    """
    candidates = _PLACES if path is None else (Path(path),)
    for candidate in candidates:
        if candidate.is_file():
            claims = read_yaml(candidate)
            _check(claims, candidate)
            return claims
    raise FileNotFoundError(f"claims.yaml does not exist: {candidates[0]}")


def _check(claims: Any, path: Path) -> None:
    if not isinstance(claims, dict) or not claims:
        raise ValueError(f"{path} holds {type(claims).__name__}; it must hold claims by id")
    for claim, about in claims.items():
        where = f"claim {claim!r} in {path}"
        for name in ("chapter", "where", "statement"):
            if not isinstance(about, dict) or not isinstance(about.get(name), str):
                raise ValueError(f"{where} has no {name}; it must be a text")
        if not isinstance(about.get("quantities"), dict) or not about["quantities"]:
            raise ValueError(f"{where} has no quantities; it must have at least one")
        check_conditions(about.get("decided_by"), where)
        for quantity, each in about["quantities"].items():
            _check_quantity(each, f"{quantity!r} of {where}")


def _check_quantity(about: Any, where: str) -> None:
    if not isinstance(about, dict) or not isinstance(about.get("what"), str):
        raise ValueError(f"{where} does not say what it is; what must be a text")
    for name in ("paper", "tolerance"):
        value = about.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} of {where} is {value!r}; it must be a number, or .nan for none")
    if about.get("read", READ[0]) not in READ:
        raise ValueError(f"read of {where} is {about['read']!r}; it must be one of {', '.join(READ)}")
    if about.get("only", RECORDS) != RECORDS:
        raise ValueError(f"only of {where} is {about['only']!r}; it must be {RECORDS}, or absent")
    try:
        _parsed(about.get("holds", ""))
    except ValueError as error:
        raise ValueError(f"holds of {where}: {error}") from None


def assess(
    claim: str,
    ours: Mapping[str, Interval | float],
    *,
    record: Any = None,
    claims: Mapping[str, dict[str, Any]] | None = None,
) -> Assessment:
    """Compare our values with the rules that state when the claim holds.

    Parameters
    ----------
    claim : str
        Id of the claim, ``"H2"``.
    ours : mapping
        For every quantity that the claim names, no more and no less, its value with an interval, see
        `narrowlib.intervals`.  A number alone has no interval.  The run of a page may leave out what only records
        measure.
    record : Record, optional
        The record that the values come from, see `narrowlib.store.records.paper_record`; without one they are of this
        run.
    claims : mapping, optional
        By default those of the book.

    Returns
    -------
    Assessment
        A table with one row per quantity: ``quantity`` (in words), ``paper``, ``ours``, ``low``, ``high``, ``rule``,
        ``direction`` (whether the value obeys the rule), ``holds`` (whether all of the interval does), and ``near``
        (whether the interval reaches to within the tolerance of the paper's value; None where the paper has none).

    Raises
    ------
    ValueError
        When the claim is unknown, or the quantities are not the ones it names.
    """
    claims = load_claims() if claims is None else claims
    if claim not in claims:
        raise ValueError(f"claim is {claim!r}; it must be one of {', '.join(claims)}")
    named = claims[claim]["quantities"]
    optional = {name for name, about in named.items() if record is None and about.get("only") == RECORDS}
    if not set(named) - optional <= set(ours) <= set(named):
        raise ValueError(f"ours holds {sorted(ours)}; claim {claim} is about {sorted(named)}")
    quantities = {name: about for name, about in named.items() if name in ours}
    rows = [_row(about, ours[name]) for name, about in quantities.items()]
    reasons = []
    if record is not None:
        reasons = shortfalls(claims[claim].get("decided_by", ()), record.frame, record.config)
        reasons += [f"a value of: {row['quantity']}" for row in rows if math.isnan(row["ours"])]
    table = pd.DataFrame(rows)
    direction = SEEN if table["direction"].all() else NOT_SEEN
    found = {
        "claim": claim,
        "scale": "this page" if record is None else "record",
        "verdict": direction if record is None else UNDECIDED if reasons else _decided(table),
        "reasons": reasons,
        "quantities": {
            name: {key: json_value(row[key]) for key in ("ours", "low", "high", "direction", "holds", "near")}
            for name, row in zip(quantities, rows, strict=True)
        },
        "record": None if record is None else {"name": record.name, **record.provenance},
    }
    return Assessment(table, [found])


def _row(about: Mapping[str, Any], ours: Interval | float) -> dict[str, Any]:
    value, low, high = map(float, ours if isinstance(ours, tuple) else Interval(ours))
    rule, paper, tolerance = about["holds"], about["paper"], about["tolerance"]
    row = {"quantity": about["what"], "paper": paper, "ours": value, "low": low, "high": high, "rule": rule}
    row["direction"] = satisfies(value, rule)
    row["holds"] = row["direction"] and satisfies(low, rule) and satisfies(high, rule)
    return row | {"near": is_near(Interval(value, low, high), paper, tolerance)}


def assess_all(
    ours: Mapping[str, Mapping[str, Interval | float]],
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


def verdict(assessed: Assessment, claim: str | None = None) -> str:
    """The result of `assess` in a word.

    Parameters
    ----------
    assessed : Assessment
    claim : str, optional
        Of which claim, where several were assessed.

    Returns
    -------
    str
        Of a record that has what ``decided_by`` asks for: ``"reproduced"`` when the interval of every quantity obeys
        its rule and none is far from the paper's value; ``"in part"`` when some obey; else ``"not reproduced"``.  Of
        another record: ``"undecided at this scale"``.  Of the run of a page: ``"direction seen"`` when every value
        obeys its rule, else ``"direction not seen"``.

    Raises
    ------
    ValueError
        When the claim was not assessed, or several were and none is named.
    """
    found = {each["claim"]: each["verdict"] for each in assessed.judged}
    if claim is None and len(found) == 1:
        return next(iter(found.values()))
    if claim not in found:
        raise ValueError(f"claim is {claim!r}; it must be one of {', '.join(found)}")
    return found[claim]


def reasons(assessed: Assessment) -> list[str]:
    """What records lack to decide the assessed claims: a sentence for each undecided claim."""
    return [f"{each['claim']}: {'; '.join(each['reasons'])}" for each in assessed.judged if each["reasons"]]


def _decided(table: pd.DataFrame) -> str:
    if table["holds"].all() and not any(near is False for near in table["near"]):
        return REPRODUCED
    return IN_PART if table["holds"].any() else NOT_REPRODUCED


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


def is_near(ours: Interval, paper: float, tolerance: float) -> bool | None:
    """Whether our interval reaches to within the tolerance of the paper's value; None where the paper has no value."""
    if math.isnan(paper) or math.isnan(tolerance):
        return None
    low, high = (ours.value if math.isnan(bound) else bound for bound in ours[1:])
    return bool(low <= paper + tolerance and high >= paper - tolerance)


def json_value(value: Any) -> Any:
    """A value as json stores it; a number that is not finite becomes None."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
