"""Figures of what is left after pruning a small network."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from narrowlib.chapters.style import GREY, PALETTE, current_axes, keep_data, plot_pending


def plot_pruning_curves(curves: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    r"""Accuracy on one task against sparsity: median and range over networks, right after pruning and after recovery.

    What recovery brings back, the gap between the two medians, is hatched.

    The axis is that of :math:`-\log_{10}(1 - s)`: equal steps divide the units that are left by equal factors.

    Parameters
    ----------
    curves : DataFrame
        ``seed``, ``sparsity``, ``stage`` (pruned or recovered), ``accuracy``, of one task and width.
    """
    ax = current_axes(ax)
    keep_data(ax, curves[["seed", "sparsity", "stage", "accuracy"]])
    styles = {
        "pruned": (PALETTE[1], (0, (4, 1.5)), "right after pruning"),
        "recovered": (PALETTE[0], "-", "after recovery"),
    }
    middles = {}
    for stage, runs in curves.groupby("stage", sort=False):
        colour, dashes, label = styles[stage]
        each = runs.groupby("sparsity")["accuracy"].agg(["median", "min", "max"])
        ax.fill_between(each.index, each["min"], each["max"], color=colour, alpha=0.18, linewidth=0)
        ax.plot(each.index, each["median"], color=colour, linestyle=dashes, linewidth=2, label=label)
        middles[stage] = each["median"]
    if len(middles) > 1:
        low, high = (middles[stage].reindex(sorted(set(curves["sparsity"]))) for stage in styles)
        gap = {"facecolor": "none", "edgecolor": GREY, "hatch": "////", "alpha": 0.45, "linewidth": 0, "zorder": 0}
        ax.fill_between(low.index, low, high, where=high > low, label="what recovery brings back", **gap)
    ax.axhline(0.5, color=GREY, linewidth=1.0, zorder=0)
    ax.annotate("chance", (0.0, 0.5), xytext=(2, -3), textcoords="offset points", va="top", fontsize=8, color=GREY)
    ax.set_xscale("function", functions=(lambda s: -np.log10(1 - np.minimum(s, 0.9999)), lambda u: 1 - 10.0**-u))
    ticks = [s for s in (0.0, 0.5, 0.8, 0.9, 0.95, 0.98) if s <= curves["sparsity"].max()]
    ax.set_xticks(ticks, [f"{s:g}" for s in ticks])
    ax.set(xlim=(0, 1 - 0.85 * (1 - curves["sparsity"].max())), ylim=(0.4, 1.03), xlabel="sparsity", ylabel="accuracy")
    return ax


def plot_pruning_panels(curves: pd.DataFrame | None, *, by: str) -> Figure:
    """`plot_pruning_curves` in small multiples: the tasks against the values of a column.

    Parameters
    ----------
    curves : DataFrame or None
        ``task``, the column named by ``by``, and what `plot_pruning_curves` shows.  None: a run that is pending.
    by : str
        ``"width"`` or ``"state"``: a column of panels for each value, or a row where they are more than four.
    """
    if curves is None:
        return plot_pending()
    tasks, values = list(curves["task"].unique()), list(curves[by].unique())
    is_tall = len(values) > 4
    n_rows, n_columns = (len(values), len(tasks)) if is_tall else (len(tasks), len(values))
    shape = {"nrows": n_rows, "ncols": n_columns, "sharex": True, "sharey": True, "squeeze": False}
    figure, axes = plt.subplots(figsize=(7.6, 0.6 + (1.5 if is_tall else 2.2) * n_rows), **shape)
    for ax, (value, task) in zip(
        axes.flat if is_tall else axes.T.flat, ((value, task) for value in values for task in tasks), strict=True
    ):
        plot_pruning_curves(curves[(curves["task"] == task) & (curves[by] == value)], ax=ax)
        ax.set_title(f"{task}, {value if isinstance(value, str) else f'{by} {value}'}", fontsize=10)
        ax.label_outer()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    return figure


def plot_strengths(sweep: pd.DataFrame, *, y: str, ax: Axes | None = None) -> Axes:
    """A measure against the strength of the group lasso: a dot per network, and their mean, by method.

    A strength of 0, the control, stands apart on the left, since the axis is logarithmic.

    Parameters
    ----------
    sweep : DataFrame
        ``method``, ``strength``, and the column named by ``y``, a row per network.
    y : str
        What is on the vertical axis.
    """
    ax = current_axes(ax)
    keep_data(ax, sweep[["method", "strength", y]])
    styles = {"subgradient": (PALETTE[0], "o", "-"), "proximal": (PALETTE[1], "s", (0, (4, 1.5)))}
    zero_at = sweep.loc[sweep["strength"] > 0, "strength"].min() / 10
    for method, frame in sweep.groupby("method", sort=False):
        colour, marker, dashes = styles[method]
        at = frame["strength"].where(frame["strength"] > 0, zero_at)
        ax.plot(at, frame[y], marker, color=colour, alpha=0.4, markersize=5, label=f"{method}, each network")
        mean = frame[frame["strength"] > 0].groupby("strength")[y].mean()
        ax.plot(mean.index, mean, linestyle=dashes, color=colour, linewidth=1.6, label=f"{method}, mean")
    ax.set(xscale="log", xlabel=r"strength $\lambda$", ylim=(-0.03, 1.03))
    if (sweep["strength"] == 0).any():
        powers = np.arange(np.ceil(np.log10(zero_at) + 0.5), np.floor(np.log10(sweep["strength"].max())) + 1)
        step = -(-len(powers) // 4)
        shown = powers[::-step]
        ax.set_xticks([zero_at, *10.0**shown], ["0", *(f"$10^{{{power:.0f}}}$" for power in shown)])
        ax.minorticks_off()
    return ax


_MARKERS = "o^sDv<>P"


def plot_strength_curves(curves: pd.DataFrame) -> Figure:
    """Mean accuracy against sparsity, a line for each strength of the group lasso.

    On the left the wanted composite right after pruning, on the right the other one after recovery.

    Parameters
    ----------
    curves : DataFrame
        ``strength``, ``sparsity``, ``task``, ``stage`` (pruned or recovered), ``accuracy``; the task that is never
        recovered is the wanted one.
    """
    recovered = curves[curves["stage"] == "recovered"]
    other = recovered["task"].unique()
    pruned = curves[(curves["stage"] == "pruned") & ~curves["task"].isin(other)]
    measures = {"wanted, right after pruning": pruned, "other, after recovery": recovered}
    means = pd.concat(
        frame.groupby(["strength", "sparsity"], as_index=False)["accuracy"].mean().assign(measure=measure)
        for measure, frame in measures.items()
    )
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 3.5), sharex=True, sharey=True)
    keep_data(axes[0], means[["measure", "strength", "sparsity", "accuracy"]])
    strengths = sorted(means["strength"].unique())
    colours = dict(zip(strengths, sns.color_palette("flare", len(strengths)), strict=True))
    for ax, measure in zip(axes, measures, strict=True):
        for number, (strength, line) in enumerate(means[means["measure"] == measure].groupby("strength")):
            look = {"color": colours[strength], "marker": _MARKERS[number % len(_MARKERS)], "markersize": 5}
            dashes = "-" if strength else (0, (4, 1.5))
            ax.plot(line["sparsity"], line["accuracy"], linestyle=dashes, label=f"{strength:g}", **look)
        ax.axhline(0.5, color=GREY, linewidth=1.0, zorder=0)
        ax.set_title(measure, fontsize=10)
        ax.set(xlabel="sparsity", ylabel="accuracy", ylim=(0.4, 1.03))
        ax.label_outer()
    lines = axes[0].get_legend_handles_labels()
    figure.legend(*lines, title=r"strength $\lambda$", loc="outside lower center", ncols=len(strengths))
    return figure
