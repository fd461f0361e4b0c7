"""Figure of the chapter methods: what samples look like."""

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from narrowlib.chapters.style import GREY, PALETTE, current_axes, keep_data

_PALE = "#ededed"


def plot_samples(samples: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Inputs of a task as rows of bits, the bits that count marked, the label at the end of the row.

    Parameters
    ----------
    samples : DataFrame
        ``sample`` (row), ``position`` (column), ``bit``, ``role`` (control, a sub-task's name, or unused),
        ``counted`` (whether the bit enters the label), ``task``, ``label``.
    """
    ax = current_axes(ax)
    keep_data(ax, samples)
    roles = [role for role in samples["role"].unique() if role not in ("control", "unused")]
    colours = dict(zip(roles, PALETTE[: len(roles)], strict=True))
    n_columns = int(samples["position"].max()) + 1
    for cell in samples.itertuples():
        colour = colours.get(cell.role, GREY)
        fill = colour if cell.bit and (cell.counted or cell.role == "control") else _PALE
        edge = colour if cell.counted or cell.role == "control" else "white"
        ax.add_patch(Rectangle((cell.position + 0.08, cell.sample + 0.08), 0.84, 0.84, fc=fill, ec=edge, lw=1.2))
        strong = cell.counted or cell.role == "control"
        ink = "white" if cell.bit and strong else ("black" if strong else "#8a8a8a")
        ax.text(cell.position + 0.5, cell.sample + 0.53, cell.bit, ha="center", va="center", fontsize=7, color=ink)
    rows = samples.drop_duplicates("sample")
    for row in rows.itertuples():
        ax.text(n_columns + 0.4, row.sample + 0.53, f"label {row.label}", va="center", fontsize=9)
    ax.set(xlim=(0, n_columns + 3), ylim=(rows["sample"].max() + 1, 0))
    ax.set_yticks(rows["sample"] + 0.5, rows["task"], fontsize=9)
    spans = samples[samples["role"] != "unused"].groupby("role", sort=False)["position"].agg(["min", "max"])
    for role, (first, last) in spans.iterrows():
        colour = colours.get(role, GREY)
        ax.text((first + last + 1) / 2, -0.25, role, ha="center", va="bottom", fontsize=8, color=colour)
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.grid(False)
    sns.despine(ax=ax, left=True, bottom=True)
    ax.set_ylabel("task of the sample")
    return ax
