"""Figures of the frontier: what every way to a small language model spends."""

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from narrowlib.chapters.style import GREY, METHODS, PALETTE, current_axes, in_order, keep_data, label_ends, short_number

_AXES = {  # words, and by what a column is multiplied
    "n_parameters": ("parameters", 1),
    "tokens": ("training tokens to target", 1),
    "flops_per_token": ("operations per token of the final model", 1),
    "training_flops": ("training operations to target", 1),
    "seconds_per_token": ("microseconds per token of the final model", 1e6),
    "seconds": ("training seconds to target", 1),
}
MOST_PANELS = 4


def plot_learning_curves(
    records: pd.DataFrame, *, smooth: bool = False, base: float | None = None, ax: Axes | None = None
) -> Axes:
    """Held-out loss against tokens, a line per run, darker for more parameters.

    Parameters
    ----------
    records : DataFrame
        Of one method: ``run``, ``n_parameters``, ``tokens``, ``split``, ``loss`` and ``smoothed`` (nats per token).
    smooth : bool
        Draw the loss on training blocks, smoothed, and behind it as it was, in place of the held-out loss.
    base : float, optional
        Held-out loss of the base model, drawn as a line.
    """
    ax = current_axes(ax)
    rows = records[records["split"] == ("train" if smooth else "held out")]
    keep_data(ax, rows[["run", "n_parameters", "tokens", "loss", *(["smoothed"] if smooth else [])]])
    sizes = sorted(rows["n_parameters"].unique())
    palette = sns.color_palette("flare", len(sizes))
    dashes = ["-", (0, (4, 1.5)), (0, (1, 1.5)), (0, (6, 1.5, 1, 1.5))]
    for number, size in enumerate(sizes):
        look = {"color": palette[number], "linestyle": dashes[number % len(dashes)]}
        for which, (_, curve) in enumerate(rows[rows["n_parameters"] == size].groupby("run")):
            if smooth:
                ax.plot(curve["tokens"], curve["loss"], color=palette[number], alpha=0.25, linewidth=0.6)
            name = None if which else short_number(size)
            ax.plot(curve["tokens"], curve["smoothed" if smooth else "loss"], label=name, **look)
    if base is not None:
        ax.axhline(base, color=GREY, linestyle="--", linewidth=1.0)
        place = {"xytext": (0, 3), "textcoords": "offset points", "ha": "right", "va": "bottom"}
        ax.annotate("base", (0.99, base), xycoords=("axes fraction", "data"), fontsize=8, color=GREY, **place)
    ax.xaxis.set_major_locator(plt.MaxNLocator(4))
    ax.xaxis.set_major_formatter(lambda value, _: short_number(value))
    ax.set(xlabel="training tokens", ylabel=f"{'training' if smooth else 'held-out'} loss (nats per token)")
    ax.legend(title="parameters", fontsize=8, title_fontsize=8)
    return ax


def plot_frontier(
    points: pd.DataFrame,
    *,
    x: str = "n_parameters",
    y: str = "tokens",
    like: pd.DataFrame | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The cost of reaching one loss against size, by method, both axes logarithmic; a line along each frontier.

    A size that does not reach the loss is an open triangle at what it has spent: it needs more.

    Parameters
    ----------
    points : DataFrame
        See `narrowlib.chapters.frontier.outcomes.frontier`.
    x, y : str
        Columns of size and of what is spent.
    like : DataFrame, optional
        Points that the axes have room for, instead of those that are drawn.

    Notes
    -----
    A network that is at the loss before any training stands at zero: the axis is linear below the least that others
    spend.
    """
    ax = current_axes(ax)
    drawn = _with_spent(points, y)
    keep_data(ax, drawn[[name for name in ("target_loss", "method", x, y, "reached", "on_frontier") if name in drawn]])
    factors = {column: _AXES[column][1] for column in (x, y)}
    drawn, room = (frame.assign(**{column: frame[column] * factor for column, factor in factors.items()})
                   for frame in (drawn, drawn if like is None else _with_spent(like, y)))  # fmt: skip
    ends = []
    for number, method in enumerate(in_order(points["method"])):
        rows, how = drawn[drawn["method"] == method].sort_values(x), METHODS[method]
        there, missed, front = rows[rows["reached"]], rows[~rows["reached"]], rows[rows["on_frontier"]]
        ax.plot(front[x], front[y], color=how.colour, linestyle=how.dashes, linewidth=1.8)
        ax.plot(there[x], there[y], how.marker, color=how.colour, markersize=6)
        ax.plot(missed[x], missed[y], "^", color=how.colour, mfc="none", markersize=5 + 2 * number)
        last = (there if len(there) else rows).iloc[-1]
        ends.append((last[x], last[y], how.name, how.colour))
    _scale(ax, room, x, y)
    ax.set(xlabel=_AXES[x][0], ylabel=_AXES[y][0])
    furthest = drawn[x].max()
    label_ends(ax, [(furthest, *rest) for _, *rest in ends])
    return ax


def plot_frontiers(points: pd.DataFrame, *, x: str = "n_parameters", y: str = "tokens") -> Figure:
    """`plot_frontier` for the losses of a table, side by side on the same axes; of many losses only some are drawn.

    Parameters
    ----------
    points : DataFrame
        See `narrowlib.chapters.frontier.outcomes.frontiers`.
    x, y : str
    """
    targets = sorted(points["target_loss"].unique(), reverse=True)
    n = min(MOST_PANELS, len(targets))
    shown = [targets[round(number * (len(targets) - 1) / max(1, n - 1))] for number in range(n)]
    n_rows = -(-n // 2)
    figure, axes = plt.subplots(n_rows, 2, figsize=(9.6, 3.3 * n_rows), sharex=True, squeeze=False)
    like = points[points["target_loss"].isin(shown)]
    panels = [plot_frontier(points[points["target_loss"] == target], x=x, y=y, like=like, ax=ax)
              for target, ax in zip(shown, axes.flat)]  # fmt: skip
    for ax in axes.flat[n:]:
        ax.set_axis_off()
    others = _with_spent(points[~points["target_loss"].isin(shown)], y)
    keep_data(panels[0], others[["target_loss", "method", x, y, "reached", "on_frontier"]])
    for ax, target in zip(panels, shown, strict=True):
        ax.set_title(f"{target:.2f} nats", fontsize=10)
        ax.label_outer()
    return figure


def plot_gains(gains: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Reduction of the last held-out loss of pruned networks by a teacher: a row per size, with its interval.

    Parameters
    ----------
    gains : DataFrame
        See `narrowlib.chapters.frontier.outcomes.teacher_gains`; without an interval, of one run each, open.
    """
    ax = current_axes(ax)
    keep_data(ax, gains)
    how, rows = METHODS["pruned, distilled"], range(len(gains))
    known = gains["low"].notna()
    errors = [(gains["gain"] - gains["low"]).fillna(0), (gains["high"] - gains["gain"]).fillna(0)]
    ax.errorbar(gains["gain"], rows, xerr=errors, fmt="none", ecolor=how.colour, capsize=3)
    for has, face in ((True, how.colour), (False, "white")):
        some = [row for row in rows if known.iloc[row] == has]
        ax.plot(gains["gain"].iloc[some], some, how.marker, color=how.colour, mfc=face, markersize=8)
    ax.axvline(0.0, color=GREY, linewidth=1.2)
    reach = 1.25 * max(gains[["gain", "low", "high"]].abs().max(axis=None), 1e-3)
    ax.set(xlim=(-reach, reach), ylim=(len(gains) - 0.5, -0.9), xlabel="loss saved by the teacher (nats per token)")
    ax.set_yticks(rows, [short_number(size) for size in gains["n_parameters"]])
    ax.set_ylabel("parameters")
    for at, words in ((0.02, "\u2190 the teacher harms"), (0.98, "the teacher helps \u2192")):
        ha = "left" if at < 0.5 else "right"
        ax.text(at, 0.98, words, transform=ax.transAxes, ha=ha, va="top", fontsize=9, color=GREY)
    ax.grid(axis="y", visible=False)
    return ax


def plot_scaling(points: pd.DataFrame, *, paper: str, ax: Axes | None = None) -> Axes:
    """How far pruned networks are from the whole model against training tokens per parameter, both axes logarithmic.

    A colour for each base model, whole lines for what was measured, dotted ones for what is extrapolated; the paper's
    networks are squares.

    Parameters
    ----------
    points : DataFrame
        See `narrowlib.chapters.frontier.scaling.scaling_points`, of several base models.
    paper : str
        The base whose points have no curve.
    """
    ax = current_axes(ax)
    keep_data(ax, points)
    ax.set(xscale="log", yscale="log")
    ends = []
    for number, (base, of_base) in enumerate(points[points["base"] != paper].groupby("base", sort=False)):
        colour = PALETTE[number]
        for cut, rows in of_base.groupby("cut", sort=False):
            rows = rows.sort_values("tokens_per_parameter")
            for measured, look in ((True, "-"), (False, (0, (1, 1.5)))):
                some = rows[(rows["measured"] == measured) & (rows["gap"] > 0)]
                width = 2.2 if measured else 1.2
                ax.plot(some["tokens_per_parameter"], some["gap"], linestyle=look, color=colour, linewidth=width)
            last = rows[rows["gap"] > 0].iloc[-1:]
            ends += [(x, y, f"{base}, {cut}", colour) for x, y in zip(last["tokens_per_parameter"], last["gap"])]
    theirs = points[points["base"] == paper]
    ax.plot(theirs["tokens_per_parameter"], theirs["gap"], "s", color="black", mfc="none", markersize=6)
    if len(theirs):
        furthest = theirs.loc[theirs["tokens_per_parameter"].idxmax()]
        ends.append((furthest["tokens_per_parameter"], furthest["gap"], paper, "black"))
    for axis in (ax.xaxis, ax.yaxis):
        _short_ticks(axis)
    ax.set(
        xlabel="training tokens per remaining parameter",
        ylabel="excess held-out loss over the\nwhole model (nats per token)",
    )
    label_ends(ax, [(ax.get_xlim()[1], *rest) for _, *rest in ends], size=8.5)
    return ax


def _with_spent(points: pd.DataFrame, y: str) -> pd.DataFrame:
    """Points with all that was spent where the loss was not reached."""
    return points.assign(**{y: points[y].fillna(points["seen"])})


def _scale(ax: Axes, room: pd.DataFrame, x: str, y: str) -> None:
    """Logarithmic axes with room for points; where nothing was spent, zero is a place of its own at the foot."""
    ax.set_xscale("log")
    ax.set_xlim(room[x].min() / 1.3, room[x].max() * 1.3)
    _short_ticks(ax.xaxis)
    positive = room.loc[room[y] > 0, y]
    least, most = positive.min(), positive.max()
    if len(positive) == len(room):
        ax.set_yscale("log")
        ax.set_ylim(least / 1.5, most * 1.5)
        _short_ticks(ax.yaxis)
        return
    least = math.floor(math.log10(least)) if len(positive) else 0
    ax.set_yscale("symlog", linthresh=10.0**least, linscale=0.5)
    ax.set_ylim(0, 1.5 * (most if len(positive) else 1.0))
    _short_ticks(ax.yaxis, [0, *(10.0**power for power in range(least, least + 8))])


def _short_ticks(axis: Axis, values: Sequence[float] = ()) -> None:
    """Numbers in short on a logarithmic axis: powers of ten, on a short axis 2 and 5 times those as well."""
    if not values:
        low, high = sorted(axis.get_view_interval())
        steps = (1, 2, 5) if high / low < 50 else (1,)
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        values = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
    axis.set_major_locator(FixedLocator(values))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axis.set_minor_locator(NullLocator())
