"""Whether a record holds enough to decide on a claim: the conditions that ``book/claims.yaml`` states before a run."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

MEASURES = ("setting", "product", "distinct", "most", "items")


def check_conditions(conditions: Any, where: str) -> None:
    """Raise ValueError unless what decides a claim is a list of conditions that `amount` accepts."""
    if not isinstance(conditions, list):
        raise ValueError(f"decided_by of {where} is {conditions!r}; it must be a list of conditions")
    for each in conditions:
        if not isinstance(each, dict) or not isinstance(each.get("what"), str):
            raise ValueError(f"a condition of {where} has no what; it must be a text")
        if isinstance(each.get("least"), bool) or not isinstance(each.get("least"), int | float):
            raise ValueError(f"least of {each['what']!r} of {where} is {each.get('least')!r}; it must be a number")
        if sum(name in each for name in MEASURES) != 1:
            raise ValueError(f"{each['what']!r} of {where} must be measured by one of {', '.join(MEASURES)}")


def amount(condition: Mapping[str, Any], frame: pd.DataFrame, config: Mapping[str, Any]) -> float:
    """How much a record has of the quantity in a condition; 0 if it lacks the setting or a column.

    A column that the table lacks has one distinct value: nothing tells rows apart.

    Parameters
    ----------
    condition : mapping
        One of these says where it is read: ``setting``, a parameter of the run; ``product``, the product of several;
        ``distinct``, a column of the table, how many values of it there are; ``most``, a column, its largest value;
        ``items``, a column of lists, how many each holds.  With ``per``, a list of columns: in the group that has
        least of it.  With ``where``, in the rows for which that expression is true.  A product or the largest value is
        taken as a multiple of the column ``over``, if that is named.
    frame : DataFrame
    config : mapping
    """
    settings = condition.get("product") or [condition[name] for name in ("setting",) if name in condition]
    if settings:
        values = [config.get(name, 0) for name in settings]
        over = frame.get(condition.get("over"), pd.Series([1.0])).max()
        return math.prod(value if isinstance(value, int | float) else 0.0 for value in values) / over
    if condition.get("distinct") not in {None, *frame.columns}:
        return float(len(frame) > 0)  # all rows are of one
    column = next(condition[name] for name in MEASURES if name in condition)
    per, over = condition.get("per", []), condition.get("over")
    if {column, *per, *([over] if over else [])} - set(frame.columns):
        return 0.0
    rows = frame.query(condition["where"]) if "where" in condition else frame
    values = rows[column]
    if "items" in condition:
        lengths = values.dropna().map(len)
        return float(lengths.min()) if len(lengths) else 0.0
    values = values / rows[over] if over else values
    grouped = values.groupby([rows[name] for name in per], dropna=False) if per else None
    what = "nunique" if "distinct" in condition else "max"
    found = getattr(values, what)() if grouped is None else getattr(grouped, what)().min()
    return 0.0 if pd.isna(found) else float(found)


def shortfalls(conditions: Sequence[Mapping[str, Any]], frame: pd.DataFrame, config: Mapping[str, Any]) -> list[str]:
    """What a record lacks to decide, in words: for each condition that is not met what there is and what is needed."""
    found = []
    for condition in conditions:
        there = amount(condition, frame, config)
        if there < condition["least"]:
            found.append(f"{condition['what']}: {there:,.4g} of {condition['least']:,g}")
    return found
