"""The figure of the chapter lasso-map: strength against steps, a panel for each width."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from narrowlib.chapters.style import PALETTE, keep_data, plot_pending

MARKS = {"comes back": "x", "undecided": "d", "stays away": "o"}  # of the other composite
GAP = 0.3  # between the control and the penalties
DARK = 0.5  # share of neurons from which on a field is dark


def plot_fields(table: pd.DataFrame | None) -> Figure:
    """Sparsity that is kept without recovery as colour, the fate of the other composite as a mark.

    A frame is drawn around the fields where both claims hold.  The control stands apart on the left.

    Parameters
    ----------
    table : DataFrame or None
        See `narrowlib.chapters.lasso_map.outcomes.fields`.  None: a record that is pending.
    """
    if table is None:
        return plot_pending()
    widths, steps = sorted(table["width"].unique()), sorted(table["steps"].unique())
    strengths = sorted(table["strength"].unique())
    places = {strength: number + GAP * (strength > 0) for number, strength in enumerate(strengths)}
    size = max(5.0, 2.0 + 0.31 * len(strengths) * len(widths)), 1.6 + 0.36 * len(steps)
    figure, axes = plt.subplots(1, len(widths), figsize=size, sharex=True, sharey=True, squeeze=False)
    colours = plt.cm.ScalarMappable(plt.Normalize(0, 1), sns.color_palette("mako_r", as_cmap=True))
    for ax, width in zip(axes[0], widths, strict=True):
        some = table[table["width"] == width]
        keep_data(ax, some)
        for field in some.itertuples():
            x, y = places[field.strength], steps.index(field.steps)
            ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=colours.to_rgba(field.kept), linewidth=0))
            colour = "white" if field.kept > DARK else "black"
            ax.plot(x, y, MARKS[field.other], color=colour, markersize=6, markeredgewidth=1.4, mfc="none")
            if field.both:
                frame = {"fill": False, "edgecolor": PALETTE[1], "linewidth": 2.6, "zorder": 3}
                ax.add_patch(Rectangle((x - 0.43, y - 0.43), 0.86, 0.86, **frame))
        ax.set_title(f"width {width}", fontsize=10)
        ax.set_xticks(list(places.values()), ["none", *(f"{strength:g}" for strength in strengths[1:])], rotation=60)
        ax.set_yticks(range(len(steps)), [f"{n:,}" for n in steps])
        ax.set(xlim=(-0.6, places[strengths[-1]] + 0.6), ylim=(-0.6, len(steps) - 0.4), aspect="equal")
        ax.grid(False)
        sns.despine(ax=ax, left=True, bottom=True)
    axes[0, 0].set_ylabel("training steps")
    axes[0, len(widths) // 2].set_xlabel(r"penalty strength $\lambda$")
    figure.colorbar(colours, ax=axes[0].tolist(), label="sparsity kept\nwithout recovery", shrink=0.9)
    look = {"color": "black", "linestyle": "", "mfc": "none", "markeredgewidth": 1.4}
    marks = [Line2D([], [], marker=marker, label=f"other composite: {word}", **look) for word, marker in MARKS.items()]
    both = Rectangle((0, 0), 1, 1, fill=False, edgecolor=PALETTE[1], linewidth=2.6, label="both claims hold")
    figure.legend(handles=[*marks, both], loc="outside lower center", ncols=2, fontsize=9)
    return figure
