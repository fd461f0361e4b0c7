"""Figures in which a reader moves something: what the page is given for ``book/_static/interactive.js`` to draw.

A cell says in its metadata, as ``interactive``, which columns of its figure's data are shown: ``x`` and ``y``;
``series``, a line each; ``slider``, the column that is moved along; optionally ``error``, the half length of bars.
When the slider is the column of x, all lines stand and their values at that x are told; else the lines of the slider's
value stand out, the others are faint.  ``labels`` names the axes and the slider, with units; ``scales`` sets an axis
to ``log``.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from html import escape
from typing import Any

from companion.collect import Figure

COLUMNS = ("x", "y", "series", "slider")  # that a figure has to name; error is optional
MORE = ("error", "labels", "scales")
LABELLED = ("x", "y", "slider")
PENDING = ["status"]  # the columns of a figure that waits for its record


def block(figure: Figure) -> str:
    """An element that holds what is drawn, as json; empty for a figure that is not interactive, or is pending.

    It is hidden, and stays so on paper and without scripts: the figure itself is there.

    Raises
    ------
    ValueError
        When the cell asks for something that its data does not hold.
    """
    if not figure.interactive:
        return ""
    told = drawn(figure)
    if told is None:
        return ""
    text = json.dumps(told, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<div class="interactive-figure" data-figure="{escape(figure.name)}" hidden>'
        f'<script type="application/json">{text}</script></div>'
    )


def drawn(figure: Figure) -> dict[str, Any] | None:
    """What the script draws.

    Returns
    -------
    dict or None
        ``labels``, ``scales``; ``cursor``, whether the slider moves along x; ``slider`` and ``series``, their values;
        ``points``, lists of the number of the slider's value, the number of the series, x, y and, where there is one,
        the error.  None for a figure that waits for its record.

    Raises
    ------
    ValueError
        See `block`.
    """
    asked = _checked(figure)
    rows = list(csv.DictReader(io.StringIO(figure.contents.get("csv", b"").decode())))
    held = list(rows[0]) if rows else []
    if held == PENDING:
        return None
    for key in (*COLUMNS, *(("error",) if "error" in asked else ())):
        if asked[key] not in held:
            raise ValueError(f"{figure.name} is interactive by {asked[key]!r}; it must be one of {', '.join(held)}")
    named = [asked[key] for key in ("slider", "x", "y")]
    whole = [row for row in rows if all(_is_number(row[column]) for column in named)]
    slider = sorted({float(row[asked["slider"]]) for row in whole})
    series = list(dict.fromkeys(row[asked["series"]] for row in whole))
    if len(slider) < 2:
        raise ValueError(f"{figure.name} is interactive by {asked['slider']!r}, which has {len(slider)} value(s)")
    places = {value: number for number, value in enumerate(slider)}
    numbers = ("x", "y", "error") if "error" in asked else ("x", "y")
    return {
        "labels": {key: asked.get("labels", {}).get(key, asked[key]) for key in LABELLED},
        "scales": {key: asked.get("scales", {}).get(key, "linear") for key in ("x", "y")},
        "cursor": asked["slider"] == asked["x"],
        "slider": slider,
        "series": series,
        "points": [
            [places[float(row[asked["slider"]])], series.index(row[asked["series"]])]
            + [float(row[asked[key]]) if _is_number(row[asked[key]]) else None for key in numbers]
            for row in whole
        ],
    }


def _checked(figure: Figure) -> Mapping[str, Any]:
    """What the cell asks for, when its form is right."""
    asked = figure.interactive or {}
    missing, unknown = set(COLUMNS) - set(asked), set(asked) - {*COLUMNS, *MORE}
    if missing or unknown:
        wrong = ", ".join(sorted(missing or unknown))
        raise ValueError(
            f"the interactive figure {figure.name} {'lacks' if missing else 'has an unknown'} {wrong}; it must name "
            f"{', '.join(COLUMNS)} and may name {', '.join(MORE)}"
        )
    for key, legal in (("labels", LABELLED), ("scales", ("x", "y"))):
        if not set(asked.get(key, {})) <= set(legal):
            raise ValueError(f"{key} of the interactive figure {figure.name} may name {', '.join(legal)}")
    for axis, scale in asked.get("scales", {}).items():
        if scale not in ("linear", "log"):
            raise ValueError(f"the scale of {axis} in {figure.name} is {scale!r}; it must be linear or log")
    return asked


def _is_number(text: str | None) -> bool:
    try:
        return math.isfinite(float(text or ""))
    except ValueError:
        return False
