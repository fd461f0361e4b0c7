"""The style of every figure of the book, and the table of data that each figure keeps."""

import math
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backend_bases import RendererBase
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, Locator, NullLocator
from matplotlib.transforms import Affine2D
from scipy.optimize import isotonic_regression

MEDIA_TYPE = "text/csv"
DIGITS = 6  # significant ones of a number in the table
MAX_BYTES = 1_500_000  # of the table; above, rows are left out at equal distances
_KEPT: WeakKeyDictionary[Axes, list[pd.DataFrame]] = WeakKeyDictionary()
CHANCE_BITS = 1.0  # loss of a fair guess between two labels
GREY = "#6b6b6b"
LETTER_WIDTH = 0.65  # of a digit, in sizes of the font
TURNED = 40  # degrees, of words above an axis


class Look(NamedTuple):
    """How a method is drawn, and what it is called, in every figure."""

    name: str
    colour: tuple[float, float, float]
    marker: str
    dashes: Any


# Seaborn's colorblind hues, dark enough for words on white (a contrast of 4.5 and more); book.css has the first six and
# the grey for figures that move.
PALETTE = [
    to_rgb(f"#{colour}")
    for colour in ["0173b2", "a86400", "02835f", "c44e00", "a3548f", "8a5a33", "7a4fc4", "6b6b6b", "333333", "2b7c95"]
]
METHODS = {  # ways to a narrow network, in the order of every figure, by the name that tables have for them
    method: Look(name, PALETTE[place], marker, dashes)
    for method, name, place, marker, dashes in (
        ("attribution", "attribution", 0, "o", "-"),
        ("pruned", "pruned", 0, "o", "-"),
        ("pruned, distilled", "pruned, distilled", 4, "P", (0, (6, 1.5, 1, 1.5))),
        ("group lasso", "group lasso", 2, "^", (0, (6, 1.5, 1, 1.5))),
        ("lasso", "group lasso", 2, "^", (0, (6, 1.5, 1, 1.5))),
        ("distillation", "distilled", 1, "D", (0, (4, 1.5))),
        ("distilled", "distilled", 1, "D", (0, (4, 1.5))),
        ("from scratch", "from scratch", 7, "s", (0, (1, 1.5))),
        ("scratch", "from scratch", 7, "s", (0, (1, 1.5))),
        ("random", "random", 3, "v", (0, (2, 1.5))),
        ("python", "not pruned, trained on Python", 5, "X", "-"),
        ("base", "whole model", 8, "*", (0, (1, 1.5))),
        ("teacher", "teacher", 8, "*", (0, (1, 1.5))),
    )
}


def in_order(methods: Iterable[str]) -> list[str]:
    """Methods in the order of every figure."""
    return sorted(set(methods), key=list(METHODS).index)


def book_theme() -> None:
    """Set the look of every figure and table: one palette, vector output with a bitmap beside it.

    Output is reproducible to the byte: no date is written into a figure, and identifiers in the vector
    graphic are hashes of what they name.  Beside every figure stands its data, see
    `narrowlib.chapters.style.keep_data`.  Settings of the user in a ``matplotlibrc`` do not count.
    """
    plt.rcdefaults()
    sns.set_theme(
        context="notebook",
        style="ticks",
        palette=PALETTE,
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
    """Placeholder for a figure whose record is pending."""
    figure, ax = plt.subplots(figsize=(7.4, 1.2))
    keep_data(ax, pd.DataFrame({"status": ["pending"]}))
    ax.text(0.5, 0.5, "pending: no record of a run at the paper's scale yet", ha="center", va="center", color=GREY)
    ax.set_axis_off()
    return figure


def current_axes(ax: Axes | None) -> Axes:
    """The axes given, or those that pyplot draws on."""
    return plt.gca() if ax is None else ax


class Apart(Locator):
    """Of some values, those whose numbers do not crowd each other, on a logarithmic axis as long as it is drawn."""

    def __init__(self, values: Iterable[float], size: float) -> None:
        self.values, self.size = sorted(values), size

    def __call__(self) -> list[float]:
        """Numbers within the limits that the axis has now, each as soon as there is room."""
        low, high = sorted(self.axis.get_view_interval())
        ax, is_wide = self.axis.axes, self.axis.axis_name == "x"  # on x, numbers stand side by side
        points = 72 / ax.figure.dpi * (ax.bbox.width if is_wide else ax.bbox.height) / math.log(high / low)
        shown: list[float] = []
        for value in self.values:
            n_letters = (len(_written(shown[-1])) + len(_written(value))) / 2 if shown and is_wide else 1
            needed = self.size * (LETTER_WIDTH * n_letters + 0.4)
            if low <= value <= high and (not shown or points * math.log(value / shown[-1]) >= needed):
                shown.append(value)
        return shown


def plain_ticks(axis: Axis, values: Iterable[float] | None = None) -> None:
    """Numbers on a logarithmic axis, in full below a million, and only those that do not crowd each other.

    Parameters
    ----------
    axis : Axis
    values : iterable of float, optional
        Numbers to choose from; powers of ten, 2 and 5 times those if none are given.
    """
    if values is None:
        values = [digit * 10**power for power in range(15) for digit in (1, 2, 5)]
    size = axis.get_ticklabels()[0].get_size() if axis.get_ticklabels() else plt.rcParams["font.size"]
    axis.set_major_locator(Apart(values, size))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _written(value)))
    axis.set_minor_locator(NullLocator())


def _written(value: float) -> str:
    return f"{value:,.0f}" if value < 1e6 else short_number(value)


def label_ends(
    ax: Axes, ends: Iterable[tuple[float, float, str, Any]], *, side: str = "right", size: float = 9
) -> None:
    """Words at the ends of lines, each in its line's colour, none on top of another, all beside the axis.

    Parameters
    ----------
    ax : Axes
        Whose limits are set.
    ends : iterable of (x, y, words, colour)
    side : {"right", "left", "top"}
        Of the ends at which the words stand; those at the top are turned.
    size : float
        Of the letters, in points.
    """
    is_top = side == "top"
    along = int(not is_top)  # words are moved along this axis
    ends = list(ends)
    anchors = ax.get_xaxis_transform() if is_top else ax.transData

    def place(number: int, renderer: RendererBase) -> Affine2D:
        """Where words stand, with the limits and the layout that the figure has when it is drawn."""
        points = anchors.transform([(x, 1.0 if is_top else y) for x, y, *_ in ends])
        order = np.argsort(points[:, along], kind="stable")
        apart = 1.3 * size / (math.sin(math.radians(TURNED)) if is_top else 1)
        heights = renderer.points_to_pixels(apart) * np.array([1 + end[2].count("\n") for end in ends])[order]
        steps = np.cumsum(heights) - (heights + heights[0]) / 2
        low, high = ax.bbox.get_points()[:, along] + (0 if is_top else np.array([heights[0], -heights[-1]]) / 2)
        near = isotonic_regression(points[order, along] - steps).x.clip(low, max(low, high - steps[-1]))
        points[order, along] = near + steps  # as near as they can be, along the axis
        points[:, 1 - along] += renderer.points_to_pixels({"top": 2, "right": 6, "left": -6}[side])
        return Affine2D().translate(*points[number])

    turned = {"rotation": TURNED, "ha": "left", "va": "bottom", "rotation_mode": "anchor"}
    beside = {"ha": "left" if side == "right" else "right", "va": "center"}
    for number, (x, y, words, colour) in enumerate(ends):
        style = {"color": colour, "fontsize": size, "annotation_clip": False, **(turned if is_top else beside)}
        ax.annotate(words, (x, y), (0, 0), textcoords=partial(place, number), **style)


def short_number(value: float) -> str:
    """A large number in three characters or so: 1.2M, 34k."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}"


def token_axis(ax: Axes, tokens: pd.Series, needed: float | None = None) -> dict[float, float]:
    """A logarithmic axis of training tokens with a place for none; what was not run is shaded.

    Parameters
    ----------
    ax : Axes
    tokens : Series
        Of all readings, 0 among them or not.
    needed : float, optional
        Tokens that a decision needs.

    Returns
    -------
    dict of float to float
        Where each number of tokens stands: ``tokens.map(places)``.
    """
    first, last = tokens[tokens > 0].min(), tokens.max()
    zero = first / 2.5
    ax.set_xscale("log")
    end = max(last, needed or 0) * 1.05
    ax.set_xlim(zero / 1.3, end)
    if needed and needed > last:
        ax.axvspan(last, end, color=GREY, alpha=0.13, linewidth=0, zorder=0)
        words = f"not run: a decision\nneeds {short_number(needed)} tokens"
        ax.text(math.sqrt(last * end), 0.96, words, transform=ax.get_xaxis_transform(), ha="center", va="top",
                fontsize=8, color=GREY)  # fmt: skip
    wanted = [step * 10.0**power for power in range(1, 13) for step in ((1,) if end / first > 50 else (1, 2, 5))]
    ticks = [tick for tick in wanted if first <= tick <= end] or [first, last]
    ax.set_xticks([zero, *ticks], ["0", *map(short_number, ticks)])
    ax.xaxis.set_minor_locator(NullLocator())
    return {value: value if value > 0 else zero for value in tokens.unique()}


def draw_chance(ax: Axes) -> None:
    """A labelled line at the loss of a random guess between two labels."""
    ax.axhline(CHANCE_BITS, color=GREY, linewidth=1.0, zorder=0)
    place = {"xytext": (0, 3), "textcoords": "offset points", "ha": "left", "va": "bottom"}
    ax.annotate("chance", (0.005, CHANCE_BITS), xycoords=("axes fraction", "data"), fontsize=8, color=GREY, **place)


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
