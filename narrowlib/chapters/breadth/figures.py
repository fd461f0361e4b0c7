"""Figures of the chapter breadth: when runs learn, and where breadth pays."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from narrowlib.chapters.style import GREY, PALETTE, current_axes, keep_data, plain_ticks


def plot_times(times: pd.DataFrame, labels: pd.Series, *, ax: Axes | None = None) -> Axes:
    """Samples that each run took, a row per label; a run that did not learn is an open triangle at its budget.

    Parameters
    ----------
    times : DataFrame
        ``samples``, ``budget``.
    labels : Series
        Row of every run, with the index of ``times``; rows stand in the order of first appearance.
    """
    ax = current_axes(ax)
    keep_data(ax, times[["samples", "budget"]].assign(row=labels))
    names = list(dict.fromkeys(labels))
    for row, name in enumerate(names):
        runs = times[labels == name]
        jitter = np.linspace(-0.18, 0.18, len(runs))
        learned = runs["samples"].notna().to_numpy()
        ax.plot(runs["samples"][learned], row + jitter[learned], "o", color=PALETTE[0], markersize=4.5, alpha=0.75)
        ax.plot(runs["budget"][~learned], row + jitter[~learned], ">", color=PALETTE[3], markersize=6, mfc="none")
        middle = runs["samples"].fillna(np.inf).median()
        if np.isfinite(middle):
            ax.plot([middle] * 2, [row - 0.34, row + 0.34], color="black", linewidth=2.2)
        ax.text(
            1.02, row, f"{learned.sum()} of {len(runs)}", transform=ax.get_yaxis_transform(), va="center", fontsize=10
        )
    ax.set_yticks(range(len(names)), names)
    ax.set(xscale="log", xlabel="samples seen until learned (all tasks)", ylim=(len(names) - 0.45, -0.55))
    plain_ticks(ax.xaxis)
    ax.grid(axis="y", visible=False)
    return ax


def plot_map(table: pd.DataFrame) -> Figure:
    """Where breadth pays: samples spent by narrow runs over those of broad ones, a panel per number of task bits.

    Parameters
    ----------
    table : DataFrame
        See `narrowlib.chapters.breadth.outcomes.breadth_map`.
    """
    import matplotlib.pyplot as plt

    bits = sorted(table["n_task_bits"].unique())
    fig, axes = plt.subplots(1, len(bits), figsize=(7.6, 3.0), sharex=True, sharey=True, squeeze=False)
    sizes, subtasks = (sorted(table[name].unique()) for name in ("subset_size", "n_subtasks"))
    limit = max(0.1, np.abs(np.log10(table["ratio"])).max())
    for ax, n in zip(axes[0], bits, strict=True):
        some = table[table["n_task_bits"] == n]
        keep_data(ax, some)
        grid = np.log10(some.pivot(index="n_subtasks", columns="subset_size", values="ratio"))
        grid = grid.reindex(index=subtasks, columns=sizes)
        mesh = ax.imshow(grid, cmap="RdBu", norm=TwoSlopeNorm(0, -limit, limit), origin="lower", aspect="auto")
        ax.set_facecolor("#dddddd")
        for each in some.itertuples():
            place = sizes.index(each.subset_size), subtasks.index(each.n_subtasks)
            learned = f"{each.learned_broad}/{each.n_seeds}\n{each.learned_narrow}/{each.n_seeds}"
            dark = abs(np.log10(each.ratio)) > 0.6 * limit
            ax.annotate(learned, place, ha="center", va="center", fontsize=9, color="white" if dark else "black")
        ax.set(title=f"{n} task bits", xticks=range(len(sizes)), yticks=range(len(subtasks)))
        ax.set_xticklabels(sizes), ax.set_yticklabels(subtasks)
        ax.grid(visible=False)
    axes[0, 0].set_ylabel("sub-tasks m")
    fig.supxlabel("bits per sub-task k", fontsize=11)
    bar = fig.colorbar(mesh, ax=axes[0].tolist(), format=lambda value, _: f"{10**value:.2g}x", shrink=0.9)
    bar.set_label("samples, narrow / broad", color=GREY)
    return fig
