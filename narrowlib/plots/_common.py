"""What the modules of figures share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

CHANCE_BITS = 1.0  # loss of a fair guess between two labels
GREY = "#6b6b6b"
LETTER_WIDTH = 0.65  # of a digit, in sizes of the font


def current_axes(ax: Axes | None) -> Axes:
    """The axes given, or those that pyplot draws on."""
    return plt.gca() if ax is None else ax


def plain_ticks(axis: Axis, values: Sequence[float]) -> None:
    """Numbers in full on a logarithmic axis, and only those that do not crowd each other."""
    low, high = sorted(axis.get_view_interval())
    is_wide = axis.axis_name == "x"  # there, numbers stand side by side
    box, figure = axis.axes.get_position(), axis.axes.figure
    length = 72 * (box.width * figure.get_figwidth() if is_wide else box.height * figure.get_figheight())  # points
    points = length / math.log(high / low)
    size = axis.get_ticklabels()[0].get_size() if axis.get_ticklabels() else plt.rcParams["font.size"]
    shown: list[float] = []
    for value in values:
        if not low <= value <= high:
            continue
        if shown:
            n_letters = (len(f"{shown[-1]:,.0f}") + len(f"{value:,.0f}")) / 2 if is_wide else 1
            if points * math.log(value / shown[-1]) < size * (LETTER_WIDTH * n_letters + 0.4):
                continue
        shown.append(value)
    axis.set_major_locator(FixedLocator(shown))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.set_minor_locator(NullLocator())


def draw_chance(ax: Axes) -> None:
    """A line at the loss of a fair guess between two labels, and its name."""
    ax.axhline(CHANCE_BITS, color=GREY, linewidth=1.0, zorder=0)
    place = {"xytext": (0, 3), "textcoords": "offset points", "ha": "right", "va": "bottom"}
    ax.annotate("chance", (0.995, CHANCE_BITS), xycoords=("axes fraction", "data"), fontsize=8, color=GREY, **place)
