"""Figures of what narrowed language models know and relearn."""

import pandas as pd
from matplotlib.axes import Axes

from narrowlib.chapters.style import GREY, METHODS, current_axes, keep_data, label_ends


def plot_before_after(accuracies: pd.DataFrame, *, chance: float = 0.0, ax: Axes | None = None) -> Axes:
    """Accuracy of every model before and after it learned facts again, with intervals.

    Parameters
    ----------
    accuracies : DataFrame
        Of one measure: ``method``, ``sparsity``, ``before``, ``after``, each of these with ``_low`` and ``_high``.
    chance : float
        Accuracy of a blind guess, drawn as a line.
    """
    ax = current_axes(ax)
    whens = {"before": ("o", "white", -0.13), "after": ("D", None, 0.13)}
    keep_data(ax, accuracies[["method", "sparsity", *(f"{w}{end}" for w in whens for end in ("", "_low", "_high"))]])
    for place, row in enumerate(accuracies.itertuples(index=False)):
        colour = METHODS[row.method].colour
        for when, (marker, face, shift) in whens.items():
            value, low, high = (getattr(row, f"{when}{end}") for end in ("", "_low", "_high"))
            style = {"color": colour, "marker": marker, "mfc": face or colour, "markersize": 6, "capsize": 2}
            ax.errorbar(value, place + shift, xerr=[[value - low], [high - value]], **style)
    for when, (marker, face, _) in whens.items():
        ax.plot([], [], color=GREY, marker=marker, mfc=face or GREY, markersize=6, label=f"{when} relearning")
    if chance:
        ax.axvline(chance, color=GREY, linestyle=":", linewidth=1.0)
        label_ends(ax, [(chance, 1, "chance", GREY)], side="top", size=8)
    ax.set_yticks(range(len(accuracies)), [_name(row.method, row.sparsity) for row in accuracies.itertuples()])
    ax.invert_yaxis()
    ax.set(xlabel="accuracy on test facts", xlim=(-0.03, 1.03))
    if not ax.figure.legends:  # one for all panels
        ax.figure.legend(*ax.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=2)
    return ax


def plot_relearning(curves: pd.DataFrame, *, chance: float = 0.0, ax: Axes | None = None) -> Axes:
    """Accuracy on facts that are not trained on against the tokens of facts that are, a line per model.

    Parameters
    ----------
    curves : DataFrame
        ``method``, ``sparsity``, ``tokens`` and ``choice``, the accuracy.
    chance : float
        Accuracy of a blind guess, drawn as a line.
    """
    ax = current_axes(ax)
    keep_data(ax, curves[["method", "sparsity", "tokens", "choice"]])
    sparsities, markers = sorted(curves["sparsity"].unique()), "os^Dv<>P"
    ends = []
    for (method, sparsity), curve in curves.groupby(["method", "sparsity"], sort=False):
        marker = markers[sparsities.index(sparsity) % len(markers)]
        ax.plot(curve["tokens"], curve["choice"], color=METHODS[method].colour, marker=marker, markersize=5)
        end = curve.iloc[-1]
        ends.append((end["tokens"], end["choice"], _name(method, sparsity), METHODS[method].colour))
    if chance:
        ax.hlines(chance, 0, ends[0][0], color=GREY, linestyle=":", linewidth=1.0)
        ends.append((ends[0][0], chance, "chance", GREY))
    ax.set(xlabel="training tokens of facts", ylabel="accuracy on test facts", ylim=(-0.03, 1.03))
    label_ends(ax, ends, size=8)
    return ax


def _name(method: str, sparsity: float) -> str:
    return METHODS[method].name + (f", {sparsity:.0%}" if sparsity else "")
