"""Figures of the frontier: what every way to a small language model spends."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from narrowlib.chapters.style import GREY, current_axes, keep_data

_METHODS = {  # place in the palette, marker, dashes, words
    "scratch": (7, "s", (0, (1, 1.5)), "from scratch"),
    "distilled": (1, "D", (0, (4, 1.5)), "distilled"),
    "pruned": (0, "o", "-", "pruned, trained on"),
    "pruned, distilled": (2, "^", (0, (6, 1.5, 1, 1.5)), "pruned, distilled into"),
}
_AXES = {
    "n_parameters": "parameters",
    "tokens": "training tokens to the loss",
    "flops_per_token": "operations per token of the finished model",
    "training_flops": "operations of training to the loss",
    "seconds_per_token": "seconds per token of the finished model",
    "seconds": "seconds of training to the loss",
}


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
        ax.annotate("base", (0.99, base), xycoords=("axes fraction", "data"), fontsize=8, color=GREY, ha="right")
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
    paper: Mapping[str, list] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """What every method spends to bring its networks to one loss, both axes logarithmic; a line along each frontier.

    Parameters
    ----------
    points : DataFrame
        See `narrowlib.chapters.frontier.outcomes.frontier`.  Sizes that do not reach the loss are not drawn.
    x, y : str
        Columns of size and of what is spent.
    paper : mapping of str to list of (parameters, tokens), optional
        The paper's points by method, drawn hollow.

    Notes
    -----
    A network that is at the loss before any training stands at zero: the axis is linear below the least that others
    spend.
    """
    ax = current_axes(ax)
    drawn = points[points["reached"]]
    keep_data(ax, drawn[[name for name in ("target_loss", "method", x, y, "on_frontier") if name in drawn]])
    for method, (place, marker, dashes, words) in _METHODS.items():
        rows = drawn[drawn["method"] == method].sort_values(x)
        colour = sns.color_palette("colorblind")[place]
        front = rows[rows["on_frontier"]]
        if method in set(points["method"]):
            ax.plot(front[x], front[y], color=colour, linestyle=dashes, linewidth=1.6)
            ax.plot(rows[x], rows[y], marker, color=colour, markersize=6)
            missed = int((~points.loc[points["method"] == method, "reached"]).sum())
            label = words + (f" ({missed} not there)" if missed else "")
            ax.plot([], [], color=colour, linestyle=dashes, marker=marker, markersize=6, label=label)
        theirs = (paper or {}).get(method, [])
        if theirs:
            label = f"{words}, the paper"
            ax.plot(*zip(*sorted(theirs), strict=True), marker, color=colour, mfc="white", markersize=6, label=label)
    _scale(ax, drawn, x, y, [tokens for points in (paper or {}).values() for _, tokens in points])
    ax.set(xlabel=_AXES[x], ylabel=_AXES[y])
    ax.legend(fontsize=8)
    return ax


def plot_frontiers(points: pd.DataFrame, *, x: str = "n_parameters", y: str = "tokens") -> Figure:
    """`plot_frontier` for every loss of a table, side by side on the same axes.

    Parameters
    ----------
    points : DataFrame
        See `narrowlib.chapters.frontier.outcomes.frontiers`.
    x, y : str
    """
    targets = sorted(points["target_loss"].unique(), reverse=True)
    n_rows = -(-len(targets) // 2)
    figure, axes = plt.subplots(n_rows, 2, figsize=(8.4, 3.3 * n_rows), sharex=True, squeeze=False)
    panels = [plot_frontier(points[points["target_loss"] == target], x=x, y=y, ax=ax)
              for target, ax in zip(targets, axes.flat)]  # fmt: skip
    for ax in axes.flat[len(targets) :]:
        ax.set_axis_off()
    highest = max(ax.get_ylim()[1] for ax in panels)
    for ax, target in zip(panels, targets, strict=True):
        ax.set_title(f"{target:.2f} nats", fontsize=10)
        _scale(ax, points[points["reached"]], x, y)
        ax.set_ylim(top=highest)
    return figure


def plot_gains(gains: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """What a teacher takes off the last held-out loss of pruned networks, against their size.

    Parameters
    ----------
    gains : DataFrame
        See `narrowlib.chapters.frontier.outcomes.teacher_gains`.
    """
    ax = current_axes(ax)
    keep_data(ax, gains)
    ax.plot(gains["n_parameters"], gains["gain"], marker="o")
    ax.axhline(0.0, color=GREY, linewidth=1.0)
    ax.set(xscale="log", xlabel="parameters", ylabel="gain by a teacher\n(nats per token)")
    _short_ticks(ax.xaxis)
    return ax


def short_number(value: float) -> str:
    """A large number in three characters or so: 1.2M, 34k."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}"


def _scale(ax: Axes, drawn: pd.DataFrame, x: str, y: str, others: Sequence[float] = ()) -> None:
    """Logarithmic axes; where nothing was spent, zero is a place of its own at the foot.  ``others`` have room too."""
    ax.set_xscale("log")
    _short_ticks(ax.xaxis)
    spent = drawn[y]
    positive = spent[spent > 0]
    if len(positive) == len(spent):
        ax.set_yscale("log")
        _short_ticks(ax.yaxis)
        return
    least = math.floor(math.log10(positive.min())) if len(positive) else 0
    ax.set_yscale("symlog", linthresh=10.0**least, linscale=0.5)
    ax.set_ylim(0, 1.5 * max([*positive, *others], default=1.0))
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
