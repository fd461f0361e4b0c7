"""Figures of a narrowed model of one's own."""

import pandas as pd
from matplotlib.axes import Axes

from narrowlib.chapters.style import GREY, METHODS, PALETTE, current_axes, keep_data, label_ends


def plot_budget(curves: pd.DataFrame, *, base: float, ax: Axes | None = None) -> Axes:
    """Held-out loss on what is kept against training tokens, a line for each way to begin.

    Parameters
    ----------
    curves : DataFrame
        ``start``, ``tokens`` and ``loss`` (nats per token).
    base : float
        Loss of the whole model, drawn as a line.
    """
    ax = current_axes(ax)
    keep_data(ax, curves[["start", "tokens", "loss"]])
    ends = [(curves["tokens"].max(), base, "whole model, before", GREY)]
    for start, rows in curves.groupby("start", sort=False):
        look, end = METHODS["pruned" if start == "narrowed" else start], rows.iloc[-1]
        ax.plot(rows["tokens"], rows["loss"], color=look.colour, marker=look.marker, markersize=5)
        ends.append((end["tokens"], end["loss"], look.name, look.colour))
    ax.hlines(base, 0, ends[0][0], color=GREY, linestyle="--", linewidth=1.0)
    ax.set(xlabel="training tokens", ylabel="held-out loss on what is kept\n(nats per token)")
    label_ends(ax, ends)
    return ax


def plot_kept_and_lost(losses: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Held-out loss on every text before and after, two bars each.

    Parameters
    ----------
    losses : DataFrame
        By text; columns ``before`` and ``after`` (nats per token).
    """
    ax = current_axes(ax)
    rows = losses[["before", "after"]].rename_axis(index="text").reset_index()
    keep_data(ax, rows)
    for shift, when, colour, hatch in ((-0.2, "before", GREY, ""), (0.2, "after", PALETTE[0], "//")):
        places = [number + shift for number in range(len(rows))]
        bars = ax.bar(places, rows[when], width=0.38, label=when, color=colour, hatch=hatch, edgecolor="white")
        ax.bar_label(bars, fmt="%.2f", fontsize=9, padding=2)
    ax.set_xticks(range(len(rows)), rows["text"])
    ax.set(xlabel="text", ylabel="held-out loss (nats per token)")
    ax.margins(y=0.12)  # room for the numbers
    ax.grid(axis="x", visible=False)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)
    return ax
