"""Figures in which a reader moves something: what the page is given for ``book/_static/interactive.js`` to draw.

A cell says in its metadata, as ``interactive``, what moves.  Without a ``kind`` it is a chart, and names columns of its
figure's data: ``x`` and ``y``; ``series``, a line each; ``slider``, the column that is moved along; optionally
``error``, the half length of bars, ``reached``, false where a mark is open, and ``tree``, the column that tells atomic
tasks from composite ones, which are drawn as a tree beside the chart.  When the slider is the column of x, all lines
stand and their values at that x are told; else the lines of the slider's value stand out, the others are faint.
``labels`` names the axes and the slider, with units; ``scales`` sets an axis to ``log``.

Of the other kinds the data have fixed columns: ``bits`` shows a sample whose bits can be flipped, ``network`` a drawn
network that is pruned by a slider, ``digits`` pictures for every value of the slider.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from companion.collect import PENDING, Figure

COLUMNS = ("x", "y", "series", "slider")  # that a chart has to name
EXTRA = ("error", "reached", "tree")  # columns that it may name
MORE = (*EXTRA, "labels", "scales")
LABELLED = ("x", "y", "slider")
LEVELS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # of ink or of a weight's size, a letter each
ZERO = 17  # the letter of a weight of zero; those of negative ones stand before it
Rows = list[dict[str, str]]


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
        ``kind``, and of a chart ``labels``, ``scales``; ``cursor``, whether the slider moves along x; ``slider`` and
        ``series``, their values; ``places`` of the series in the palette and their ``marks``; ``points``, lists of the
        number of the slider's value, the number of the series, x, y and, where there is one, the error; ``open``, the
        numbers of points that were not reached.  None for a figure that waits for its record.

    Raises
    ------
    ValueError
        See `block`.
    """
    rows = list(csv.DictReader(io.StringIO(figure.contents.get("csv", b"").decode())))
    if rows and list(rows[0]) == PENDING:
        return None
    asked = dict(figure.interactive or {})
    kind = asked.pop("kind", "chart")
    if kind not in KINDS:
        raise ValueError(f"the kind of {figure.name} is {kind!r}; it must be one of {', '.join(KINDS)}")
    return {"kind": kind, **KINDS[kind](figure, asked, rows)}


def _chart(figure: Figure, asked: dict[str, Any], rows: Rows) -> dict[str, Any]:
    _check(figure, asked)
    held = list(rows[0]) if rows else []
    for key in (*COLUMNS, *(key for key in EXTRA if key in asked)):
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
    composite = {row[asked["series"]] for row in whole if row.get(asked.get("tree")) == "composite"}
    names, palette, marks = _looks(series)
    return {
        "labels": {key: asked.get("labels", {}).get(key, asked[key]) for key in LABELLED},
        "scales": {key: asked.get("scales", {}).get(key, "linear") for key in ("x", "y")},
        "cursor": asked["slider"] == asked["x"],
        "slider": slider,
        "series": names,
        "places": [INK if name in composite else place for name, place in zip(series, palette, strict=True)],
        "marks": marks,
        "tree": [name in composite for name in series] if "tree" in asked else None,
        "points": [
            [places[float(row[asked["slider"]])], series.index(row[asked["series"]])]
            + [float(row[asked[key]]) if _is_number(row[asked[key]]) else None for key in numbers]
            for row in whole
        ],
        "open": [number for number, row in enumerate(whole) if row.get(asked.get("reached")) == "False"],
    }


MARKS = "os^DvPX*"  # that the script can draw
INK = 9  # in place of a colour of the palette: that of the text


def _looks(series: list[str]) -> tuple[list[str], list[int], list[int]]:
    """Names, places in the palette and marks, as in the figure itself: those of methods are the same everywhere."""
    from narrowlib.chapters.style import METHODS, PALETTE

    if all(name in METHODS for name in series):
        looks = [METHODS[name] for name in series]
        return (
            [look.name for look in looks],
            [PALETTE.index(look.colour) for look in looks],
            [MARKS.index(look.marker) for look in looks],
        )
    numbers = range(len(series))
    return series, [number % 6 for number in numbers], [number % len(MARKS) for number in numbers]


def _bits(figure: Figure, asked: dict[str, Any], rows: Rows) -> dict[str, Any]:
    last = [row for row in rows if row["sample"] == rows[-1]["sample"]]
    subtasks: dict[str, list[int]] = {}
    for row in last:
        if row["role"] not in ("control", "unused"):
            subtasks.setdefault(row["role"], []).append(int(row["position"]))
    return {
        "bits": [int(row["bit"]) for row in last],
        "roles": [row["role"] for row in last],
        "subtasks": dict(sorted(subtasks.items())),
    }


def _network(figure: Figure, asked: dict[str, Any], rows: Rows) -> dict[str, Any]:
    drawings = [name for name in dict.fromkeys(row["panel"] for row in rows) if "first weights" not in name]
    states = []
    for name in drawings:
        own = [row for row in rows if row["panel"] == name]
        layers = []
        for layer in sorted({row["layer"] for row in own}, key=float):
            weights = {(int(float(r["source"])), int(float(r["target"]))): float(r["weight"])
                       for r in own if r["layer"] == layer}  # fmt: skip
            most = max(map(abs, weights.values())) or 1.0
            shape = [1 + max(pair[side] for pair in weights) for side in (0, 1)]
            pairs = ((source, target) for source in range(shape[0]) for target in range(shape[1]))
            text = "".join(LEVELS[ZERO + round(weights[pair] / most * ZERO)] for pair in pairs)
            layers.append({"shape": shape, "most": most, "weights": text})
        first = {int(float(row["source"])): row["group"] for row in own if float(row["layer"]) == 0}
        states.append({"name": name.split(": ", 1)[-1], "groups": [first[n] for n in sorted(first)], "layers": layers})
    return {"states": states}


def _digits(figure: Figure, asked: dict[str, Any], rows: Rows) -> dict[str, Any]:
    found: dict[float, dict[str, Any]] = {}
    for row in rows:
        of_size = found.setdefault(float(row[asked["slider"]]), {})
        about = of_size.setdefault(row["picture"], {"label": row["label"], "predicted": row["predicted"], "ink": {}})
        about["ink"][int(float(row["row"])), int(float(row["column"]))] = LEVELS[round(float(row["ink"]) * 35)]
    sizes = sorted(found)
    for pictures in found.values():
        for about in pictures.values():
            about["ink"] = "".join(about["ink"][place] for place in sorted(about["ink"]))
    return {"label": asked["label"], "slider": sizes, "pictures": [list(found[size].values()) for size in sizes]}


KINDS: dict[str, Callable[[Figure, dict[str, Any], Rows], dict[str, Any]]] = {
    "chart": _chart,
    "bits": _bits,
    "network": _network,
    "digits": _digits,
}


def _check(figure: Figure, asked: Mapping[str, Any]) -> None:
    """Refuse a chart that is asked for in the wrong form."""
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


def _is_number(text: str | None) -> bool:
    try:
        return math.isfinite(float(text or ""))
    except ValueError:
        return False
