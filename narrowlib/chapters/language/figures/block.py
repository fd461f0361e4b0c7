"""Drawings of the units that the experiments cut."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from narrowlib.chapters.style import GREY, PALETTE, current_axes, keep_data

_WIDTH, _HEIGHT = 20.0, 8.6
_STREAM = (0.5, 1.7, 7)  # of the residual stream: bottom, top, lines
_SHOWN_LINE = 4  # of these, the one that is the coloured residual dimension
_BASE = 3.6  # where matrices stand
_MATRICES = {  # left edge, width (what is read), height (what is written), label
    "q": (2.0, 1.6, 1.6, "$W_q$"),
    "k": (3.9, 1.6, 0.8, "$W_k$"),
    "v": (5.8, 1.6, 0.8, "$W_v$"),
    "o": (8.5, 1.6, 1.6, "$W_o$"),
    "gate": (12.0, 1.6, 3.4, "$W_\\mathrm{gate}$"),
    "up": (13.9, 1.6, 3.4, "$W_\\mathrm{up}$"),
    "down": (16.6, 2.8, 1.6, "$W_\\mathrm{down}$"),
}
_FLOW = (("v", "o"), ("up", "down"))  # what the first gives, with those to its left, the second reads
_NORMS = (0.9, 10.9)  # centres of the two norms
_PLACES = {  # unit: where it starts and how much it takes of an axis, and its hatching
    "neuron": (0.62, 0.09, "////"),
    "residual dimension": (0.3, 0.09, ""),
    "head": (0.5, 0.25, "...."),
}
_PARTS = (  # unit, matrix, row or column
    *(("head", name, "row") for name in "qkv"),
    ("head", "o", "column"),
    ("neuron", "gate", "row"),
    ("neuron", "up", "row"),
    ("neuron", "down", "column"),
    *(("residual dimension", name, "column") for name in ("q", "k", "v", "gate", "up")),
    ("residual dimension", "o", "row"),
    ("residual dimension", "down", "row"),
)


def plot_llama_block(*, n_neurons: int, n_residual: int, n_heads: int, n_layers: int, ax: Axes | None = None) -> Axes:
    """One block of a Llama, and the part of every matrix that a unit of each kind owns.

    Parameters
    ----------
    n_neurons : int
        MLP neurons of a layer.
    n_residual : int
        Dimensions of the residual stream.
    n_heads : int
        Attention heads of a layer.
    n_layers : int

    Notes
    -----
    Rows and columns are those of the matrices as they multiply: a column is read, a row written.  Sizes are not to
    scale.
    """
    ax = current_axes(ax)
    counts = {
        "neuron": f"{n_neurons:,} in a layer",
        "residual dimension": f"{n_residual:,}",
        "head": f"{n_heads:,} in a layer",
        "layer": f"{n_layers:,}",
    }
    owned = pd.DataFrame(_PARTS, columns=["unit", "matrix", "part"])
    keep_data(ax, owned.assign(units=owned["unit"].map(counts)))
    colours = dict(zip(_PLACES, PALETTE))
    _draw_stream(ax, colours["residual dimension"])
    for left, width, height, label in _MATRICES.values():
        ax.add_patch(Rectangle((left, _BASE), width, height, facecolor="none", edgecolor=GREY, linewidth=1.0))
        ax.text(left + width / 2, _BASE - 0.2, label, ha="center", va="top", fontsize=10)
    for unit, matrix, part in _PARTS:
        _draw_part(ax, unit, matrix, part, colours[unit])
    outline = {"edgecolor": "black", "facecolor": "none", "linestyle": (0, (5, 2)), "linewidth": 1.2}
    ax.add_patch(Rectangle((0.2, 2.5), _WIDTH - 0.4, _HEIGHT - 2.7, **outline))
    handles = [
        Patch(facecolor=colours[unit], hatch=hatch, edgecolor="black", linewidth=0.5, label=f"{unit} ({counts[unit]})")
        for unit, (_, _, hatch) in _PLACES.items()
    ]
    handles.append(Line2D([], [], color="black", linestyle=(0, (5, 2)), label=f"layer ({counts['layer']})"))
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2, fontsize=9)
    ax.set(xlim=(0, _WIDTH), ylim=(0, _HEIGHT))
    ax.set_axis_off()
    return ax


def _draw_stream(ax: Axes, colour: tuple) -> None:
    """The residual stream, one line for a dimension, and how attention and MLP read from it and write to it."""
    bottom, top, n_lines = _STREAM
    for number in range(n_lines):
        y = bottom + (top - bottom) * number / (n_lines - 1)
        look = {"color": colour, "linewidth": 3.0} if number == _SHOWN_LINE else {"color": GREY, "linewidth": 0.8}
        ax.plot([0.2, _WIDTH - 0.2], [y, y], **look)
    ax.text(_WIDTH / 2, bottom - 0.15, "residual stream", ha="center", va="top", fontsize=9)
    for centre in _NORMS:
        _draw_arrow(ax, (centre, top), (centre, _BASE + 0.05))
        ax.text(centre, _BASE + 0.1, "norm", ha="center", va="bottom", fontsize=9)
    for source, target in _FLOW:
        left, width, _, _ = _MATRICES[source]
        _draw_arrow(ax, (left + width + 0.1, _BASE + 0.4), (_MATRICES[target][0] - 0.1, _BASE + 0.4))
        left, width, _, _ = _MATRICES[target]
        _draw_arrow(ax, (left + width - 0.1, _BASE - 0.1), (left + width - 0.1, top))
        ax.text(left + width + 0.05, top + 0.05, "+", ha="left", va="bottom", fontsize=12)
    for name, words in (("q", "attention"), ("gate", "MLP")):
        ax.text(_MATRICES[name][0], _HEIGHT - 0.45, words, ha="left", va="top", fontsize=10, fontweight="bold")


def _draw_arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "black", "shrinkA": 0, "shrinkB": 0})


def _draw_part(ax: Axes, unit: str, matrix: str, part: str, colour: tuple) -> None:
    left, width, height, _ = _MATRICES[matrix]
    start, share, hatch = _PLACES[unit]
    is_row = part == "row"
    if is_row:
        corner, size = (left, _BASE + height * (1 - start - share)), (width, height * share)
    else:
        corner, size = (left + width * start, _BASE), (width * share, height)
    ax.add_patch(Rectangle(corner, *size, facecolor=colour, hatch=hatch, edgecolor="black", linewidth=0.5, alpha=0.9))
