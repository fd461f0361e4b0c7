"""The look of every figure of the book, and the table that each figure keeps of what it shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

MEDIA_TYPE = "text/csv"
DIGITS = 6  # significant ones of a number in the table
MAX_BYTES = 1_000_000  # of the table; above, rows are left out at equal distances
_KEPT: WeakKeyDictionary[Axes, list[pd.DataFrame]] = WeakKeyDictionary()
CHANCE_BITS = 1.0  # loss of a fair guess between two labels
GREY = "#6b6b6b"
LETTER_WIDTH = 0.65  # of a digit, in sizes of the font


def book_theme() -> None:
    """Set the look of every figure and table: seaborn's colorblind palette, vector output with a bitmap beside it.

    Output is reproducible to the byte: no date is written into a figure, and identifiers in the vector
    graphic are hashes of what they name.  Beside every figure stands its data, see
    `narrowlib.chapters.style.keep_data`.  Settings of the user in a ``matplotlibrc`` do not count.
    """
    plt.rcdefaults()
    sns.set_theme(
        context="notebook",
        style="ticks",
        palette="colorblind",
        rc={
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.4,
            "figure.figsize": (7.0, 3.6),
            "figure.constrained_layout.use": True,
            "legend.frameon": False,
            "savefig.dpi": 144,
            "svg.hashsalt": "narrowlib",
        },
    )
    pd.set_option("display.max_colwidth", None, "display.precision", 3)
    try:
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:  # outside a notebook there is nothing to set
        return
    set_matplotlib_formats("svg", "png", metadata={"Date": None})
    publish_data()


def plot_pending() -> Figure:
    """What stands in the place of a figure whose record is still to be made."""
    figure, ax = plt.subplots(figsize=(7.4, 1.2))
    keep_data(ax, pd.DataFrame({"status": ["pending"]}))
    ax.text(0.5, 0.5, "pending: no record of a run at the paper's scale yet", ha="center", va="center", color=GREY)
    ax.set_axis_off()
    return figure


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


def keep_data(ax: Axes, frame: pd.DataFrame) -> None:
    """Keep the table that is drawn into an Axes.

    Parameters
    ----------
    ax : Axes
    frame : DataFrame
        The columns that are shown.  Several tables of one Axes are put one below the other.
    """
    _KEPT.setdefault(ax, []).append(frame.copy())


def figure_data(figure: Figure) -> pd.DataFrame:
    """Everything that `keep_data` was given for a figure, in one table.

    Where several Axes hold data, the column ``panel`` comes first: the number of the Axes, from 1, and its title.
    """
    panels = {ax: pd.concat(_KEPT[ax], ignore_index=True) for ax in figure.axes if ax in _KEPT}
    if len(panels) < 2:
        return next(iter(panels.values()), pd.DataFrame())
    named = []
    for number, (ax, frame) in enumerate(panels.items(), start=1):
        title = " ".join(ax.get_title().split())
        named.append(frame.assign(panel=f"{number}: {title}" if title else str(number)))
    together = pd.concat(named, ignore_index=True)
    return together[["panel", *(column for column in together if column != "panel")]]


def as_csv(frame: pd.DataFrame) -> tuple[str, int]:
    """A table as csv of a bounded size.

    Returns
    -------
    str
        Numbers have `DIGITS` significant digits.
    int
        Which rows it holds: every one (1), every second (2) and so on.
    """
    number_format = f"%.{DIGITS}g"
    text, every = frame.to_csv(index=False, float_format=number_format, lineterminator="\n"), 1
    while len(text) > MAX_BYTES:
        every = max(every + 1, math.ceil(every * len(text) / MAX_BYTES))
        text = frame.iloc[::every].to_csv(index=False, float_format=number_format, lineterminator="\n")
    return text, every


def publish_data() -> None:
    """Let the notebook that runs, where one does, show every figure with its table as csv."""
    try:
        from IPython import get_ipython
    except ImportError:
        return
    shell = get_ipython()
    if shell is not None:
        shell.display_formatter.mimebundle_formatter.for_type(Figure, _with_data)


def _with_data(figure: Figure) -> tuple[dict[str, Any], dict[str, Any]]:
    frame = figure_data(figure)
    if frame.empty:
        return {}, {}
    text, every = as_csv(frame)
    return {MEDIA_TYPE: text}, {MEDIA_TYPE: {"rows": len(frame), "every": every}}
