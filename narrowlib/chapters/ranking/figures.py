"""Figures of the chapter ranking."""

import pandas as pd
from matplotlib.axes import Axes

from narrowlib.chapters.style import GREY, PALETTE, current_axes, keep_data, label_ends, plain_ticks

LOUD = ("attribution", "index", "from scratch")  # the lines that the question is about


def plot_ways(best: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Samples spent until the goal against neurons kept: mean and range over repeats, a line per way.

    Parameters
    ----------
    best : DataFrame
        ``way``, ``neurons``, ``spent``; see `narrowlib.chapters.ranking.outcomes.at_best_rate`.
    """
    ax = current_axes(ax)
    keep_data(ax, best[["way", "neurons", "seed", "learning_rate", "spent"]])
    colours = iter(PALETTE)
    table = best.groupby(["way", "neurons"], sort=False)["spent"].agg(["mean", "min", "max"])
    ends = []
    for way, each in table.groupby("way", sort=False):
        each = each.droplevel("way").sort_index()
        colour = next(colours) if way in LOUD else GREY
        ax.plot(each.index, each["mean"], "o-", color=colour, linewidth=2.2 if way in LOUD else 1.1, markersize=4)
        if way in LOUD:
            ax.fill_between(each.index, each["min"], each["max"], color=colour, alpha=0.15, linewidth=0)
        ends.append((each.index[0], each["mean"].iloc[0], way, colour))
    ax.set(xscale="log", yscale="log", xlabel="neurons kept", ylabel="samples until 97% accuracy")
    plain_ticks(ax.xaxis, sorted(best["neurons"].unique()))
    plain_ticks(ax.yaxis)
    label_ends(ax, ends, side="left")
    ax.yaxis.tick_right()
    ax.yaxis.set_label_position("right")
    ax.spines["left"].set_visible(False)
    ax.spines["right"].set_visible(True)
    return ax


def plot_shares(shares: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Share of attribution's head start that each other way has, with its 95% interval.

    Parameters
    ----------
    shares : DataFrame
        See `narrowlib.chapters.ranking.outcomes.shares_explained`.
    """
    ax = current_axes(ax)
    keep_data(ax, shares)
    rows = range(len(shares))
    errors = [shares["share"] - shares["low"], shares["high"] - shares["share"]]
    ax.errorbar(shares["share"], rows, xerr=errors, fmt="o", capsize=3, color=PALETTE[0])
    for value, label in ((0.0, "random weights"), (1.0, "attribution")):
        ax.axvline(value, color=GREY, linewidth=1.0, linestyle=(0, (1, 1.5)), zorder=0)
        ax.annotate(label, (value, -0.75), ha="center", fontsize=9, color=GREY, annotation_clip=False)
    ax.set_yticks(rows, shares["way"])
    ax.set(xlabel="share of the head start", ylim=(len(shares) - 0.5, -0.5))
    ax.grid(axis="y", visible=False)
    return ax
