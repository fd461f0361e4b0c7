"""Figures of the chapter hierarchy: how tasks are learned."""

import pandas as pd
from matplotlib.axes import Axes
from scipy.stats import CensoredData, ecdf

from narrowlib.chapters.censored import CONVERGED_BITS, spent
from narrowlib.chapters.style import (
    CHANCE_BITS,
    GREY,
    PALETTE,
    current_axes,
    draw_chance,
    keep_data,
    label_ends,
    plain_ticks,
)


def plot_task_curves(curves: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Loss of one run on every task against samples seen; atomic tasks dashed, composites solid and black.

    Each is named above the place at which it first falls below half a bit, a dotted line.

    Parameters
    ----------
    curves : DataFrame
        ``n_samples``, ``loss`` (bits), ``task``, ``kind`` (atomic or composite), of one run.
    """
    ax = current_axes(ax)
    keep_data(ax, curves[["task", "kind", "n_samples", "loss"]])
    kinds = curves.drop_duplicates("task").set_index("task")["kind"]
    atomic = [task for task, kind in kinds.items() if kind == "atomic"]
    palette = dict(zip(atomic, PALETTE[: len(atomic)], strict=True))
    ends = []
    for task, frame in curves.groupby("task", sort=False):
        is_atomic = kinds[task] == "atomic"
        falls = frame.sort_values("n_samples").loc[lambda rows: rows["loss"] < CHANCE_BITS / 2, "n_samples"]
        at = falls.iloc[0] if len(falls) else frame["n_samples"].max()
        ends.append((at, 1.1, f"{task}, {kinds[task]}", palette[task] if is_atomic else "black"))
        ax.plot(
            frame["n_samples"],
            frame["loss"],
            color=palette[task] if is_atomic else "black",
            linestyle=(0, (4, 1.5)) if is_atomic else "-",
            linewidth=1.8 if is_atomic else 2.4,
            label=f"{task}, {kinds[task]}",
        )
    draw_chance(ax)
    ax.axhline(CHANCE_BITS / 2, color=GREY, linewidth=1.0, linestyle=(0, (1, 1.5)), zorder=0)
    ax.set(xscale="log", xlabel="samples seen (all tasks)", ylabel="loss (bits)", ylim=(-0.04, None))
    plain_ticks(ax.xaxis)
    label_ends(ax, ends, side="top")  # each where it falls below half a bit
    return ax


def plot_composite_curves(curves: pd.DataFrame, *, x: str = "n_samples", ax: Axes | None = None) -> Axes:
    """Loss on the composite, one line per run; broad runs solid, narrow runs dashed, named where they end.

    The loss below which a run counts as converged is drawn as a line.

    Parameters
    ----------
    curves : DataFrame
        ``seed``, ``data`` (broad or narrow), ``loss`` (bits), and the column named by ``x``.
    x : {"n_samples", "n_composite_samples"}
        What is on the horizontal axis.
    """
    ax = current_axes(ax)
    keep_data(ax, curves[["data", "seed", x, "loss"]])
    styles = {"broad": (PALETTE[0], "-"), "narrow": (PALETTE[3], (0, (4, 1.5)))}
    labels = {"n_samples": "samples seen (all tasks)", "n_composite_samples": "composite samples seen"}
    ax.set(xscale="log", xlabel=labels[x], ylabel="loss on the composite (bits)")
    several, ends = curves["data"].nunique() > 1, []
    for data, runs in curves.groupby("data", sort=False):
        colour, dashes = styles[data]
        by_seed = [run.sort_values(x) for _, run in runs.groupby("seed")]
        for run in by_seed:
            ax.plot(run[x], run["loss"], color=colour, linestyle=dashes, linewidth=1.5, alpha=0.85, zorder=3)
        last = pd.concat(run.tail(1) for run in by_seed)
        if several:
            ends.append(
                (
                    last[x].max(),
                    last["loss"].quantile(0.5, interpolation="lower"),
                    f"{data},\n{len(by_seed)} runs",
                    colour,
                )
            )
    ax.set_ylim(-0.06, max(1.1, curves["loss"].max() + 0.03))
    plain_ticks(ax.xaxis)
    draw_chance(ax)
    ax.axhline(CONVERGED_BITS, color=GREY, linewidth=1.0, linestyle=(0, (1, 1.5)))
    place = {"xytext": (2, 3), "textcoords": "offset points", "fontsize": 8, "color": GREY}
    ax.annotate("converged below", (0, CONVERGED_BITS), xycoords=("axes fraction", "data"), **place)
    if ends:
        label_ends(ax, ends)
    return ax


def plot_converged(table: pd.DataFrame, *, paper: pd.DataFrame | None = None, ax: Axes | None = None) -> Axes:
    """Share of runs that converge, with its 95% interval, a row per setting; the paper's beside it.

    Parameters
    ----------
    table : DataFrame
        ``setting``, ``share``, ``low``, ``high``, ``converged``, ``n_seeds``.
    paper : DataFrame, optional
        The same of the paper.
    """
    ax = current_axes(ax)
    keep_data(
        ax, table if paper is None else pd.concat({"here": table, "the paper": paper}, names=["of"]).reset_index("of")
    )
    _plot_shares(table, 0, ax=ax, fmt="o", color=PALETTE[0], label="here, 95% interval")
    notes = [f"{row.converged} of {row.n_seeds}" for row in table.itertuples()]
    if paper is not None:
        same_rows = table[["setting"]].merge(paper, on="setting", how="left", validate="one_to_one")
        style = {"fmt": "D", "mfc": "white", "color": PALETTE[1]}
        _plot_shares(same_rows, 0.25, ax=ax, label="the paper, 95% interval", **style)
        told = same_rows.dropna(subset="share")
        for row, note in zip(told.index, (f"{k:.0f} of {n:.0f}" for k, n in zip(told["converged"], told["n_seeds"]))):
            notes[row] += f"\n{note} (paper)"
    for row, note in enumerate(notes):
        ax.text(1.06, row + 0.12 * note.count("\n"), note, va="center", fontsize=10)
    ax.set_yticks(range(len(table)), table["setting"])
    ax.set(xlim=(-0.03, 1.03), xlabel="share of runs that converge", ylim=(len(table) - 0.5, -0.5))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return ax


def plot_waiting(times: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Share of runs that have learned the composite against samples seen: Kaplan-Meier curves, one per setting.

    Parameters
    ----------
    times : DataFrame
        ``setting``, ``seed``, ``samples`` (NaN: not learned), ``budget``.
    """
    ax = current_axes(ax)
    keep_data(ax, times[["setting", "seed", "samples", "budget"]])
    end, start = times["budget"].max(), times["samples"].min() / 2
    ends = []
    for number, (name, runs) in enumerate(times.groupby("setting", sort=False)):
        data = CensoredData.right_censored(spent(runs), runs["samples"].isna())
        learned = ecdf(data).cdf
        last = learned.probabilities[-1]
        x, y = [start, *learned.quantiles, end], [0.0, *learned.probabilities, last]
        ax.step(x, y, where="post", color=PALETTE[number], linewidth=2.2)
        ends.append((end, last, f"{name} ({runs['samples'].count()} of {len(runs)})", PALETTE[number]))
    ax.set(xscale="log", ylim=(-0.03, 1.03), xlabel="samples seen (all tasks)", ylabel="share of runs that learned")
    plain_ticks(ax.xaxis)
    label_ends(ax, ends)
    return ax


def _plot_shares(table: pd.DataFrame, below: float, *, ax: Axes, **style: object) -> None:
    errors = [table["share"] - table["low"], table["high"] - table["share"]]
    rows = [row + below for row in range(len(table))]
    ax.errorbar(table["share"], rows, xerr=errors, markersize=6, capsize=3, **style)
