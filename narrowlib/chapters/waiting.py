"""Figures of times until something is learned, with runs that never learn it."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from scipy.stats import CensoredData, ecdf

from narrowlib.chapters.censored import spent
from narrowlib.chapters.style import current_axes, keep_data, plain_ticks

TICKS = [digit * 10**power for power in range(3, 10) for digit in (1, 2, 5)]
LABEL_DISTANCE = 0.085  # of two labels at the ends of lines, in shares of runs


def plot_waiting(times: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Share of runs that have learned the composite against samples seen: Kaplan-Meier curves, one per setting.

    Parameters
    ----------
    times : DataFrame
        ``setting``, ``seed``, ``samples`` (NaN: not learned), ``budget``.
    """
    ax = current_axes(ax)
    keep_data(ax, times[["setting", "seed", "samples", "budget"]])
    palette, end, start = sns.color_palette("colorblind"), times["budget"].max(), times["samples"].min() / 2
    ends: list[tuple[float, str, int]] = []
    for number, (name, runs) in enumerate(times.groupby("setting", sort=False)):
        data = CensoredData.right_censored(spent(runs), runs["samples"].isna())
        learned = ecdf(data).cdf
        last = learned.probabilities[-1]
        x, y = [start, *learned.quantiles, end], [0.0, *learned.probabilities, last]
        ax.step(x, y, where="post", color=palette[number], linewidth=2.2)
        ends.append((last, f"{name} ({runs['samples'].count()} of {len(runs)})", number))
    height = -1.0
    for last, label, number in sorted(ends):  # labels at the ends of the lines, none on top of another
        height = max(last, height + LABEL_DISTANCE)
        ax.annotate(label, (end, height), (6, 0), textcoords="offset points", color=palette[number], va="center")
    ax.set(xscale="log", ylim=(-0.03, 1.03), xlabel="samples seen (all tasks)", ylabel="runs that have learned it")
    plain_ticks(ax.xaxis, TICKS)
    return ax
