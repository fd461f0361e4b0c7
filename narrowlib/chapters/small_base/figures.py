"""Figures of the page on the small base model."""

import pandas as pd
from matplotlib.axes import Axes

from narrowlib.chapters.style import GREY, PALETTE, current_axes, keep_data, label_ends, plain_ticks


def plot_skill_losses(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Loss per skill of the small base model and of the trigram model, joined by a line.

    Parameters
    ----------
    table : DataFrame
        See `narrowlib.chapters.small_base.outcomes.against_trigram`.
    """
    ax = current_axes(ax)
    ours, trigram = table.columns[:2]
    keep_data(ax, table.reset_index())
    rows = range(len(table))
    ax.hlines(rows, table[ours], table[trigram], color=GREY, linewidth=1.5)
    for name, colour in ((ours, PALETTE[0]), (trigram, GREY)):
        ax.plot(table[name], rows, "o", color=colour)
        ax.annotate(name, (table[name].iloc[0], -0.35), ha="center", fontsize=9, color=colour, annotation_clip=False)
    ax.set_yticks(rows, table.index)
    ax.set(xlabel="held-out loss (nats per token)", ylim=(len(table) - 0.5, -0.6))
    ax.margins(x=0.1)  # room for the names
    ax.grid(axis="y", visible=False)
    return ax


def plot_curve(curve: pd.DataFrame, *, n_parameters: int, ax: Axes | None = None) -> Axes:
    """Held-out loss, the mean over skills, against tokens of training per parameter; the end is the scaling point.

    Parameters
    ----------
    curve : DataFrame
        ``tokens``, ``split``, ``loss`` (nats per token).
    n_parameters : int
    """
    ax = current_axes(ax)
    held_out = curve[(curve["split"] == "held out") & (curve["tokens"] > 0)].sort_values("tokens")
    held_out = held_out.assign(tokens_per_parameter=held_out["tokens"] / n_parameters)
    keep_data(ax, held_out[["tokens", "tokens_per_parameter", "loss"]])
    colour, last = PALETTE[0], held_out.iloc[-1]
    ax.plot(held_out["tokens_per_parameter"], held_out["loss"], color=colour)
    ax.plot(last["tokens_per_parameter"], last["loss"], "o", color=colour)
    says = f"{last['loss']:.2f} nats with\n{n_parameters / 1e6:.1f}M parameters,\n{last['tokens'] / 1e6:.1f}M tokens"
    ax.set(xscale="log", xlabel="training tokens per parameter", ylabel="held-out loss (nats per token)")
    plain_ticks(ax.xaxis)
    label_ends(ax, [(last["tokens_per_parameter"], last["loss"], says, colour)])
    return ax
