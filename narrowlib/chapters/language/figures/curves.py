"""Figures of narrowed language models."""

import math
from itertools import pairwise

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from narrowlib.chapters.style import GREY, METHODS, PALETTE, current_axes, keep_data, label_ends, token_axis

LOUD = {"absolute per token": 0, "signed": 1, "random": 3}  # scores that the question is about: places in the palette
_HIGHEST = 1.0  # rise that is shown


def plot_llm_pruning(curves: pd.DataFrame, *, unit: str = "neurons", ax: Axes | None = None) -> Axes:
    """Loss of a language model on one skill against sparsity, a line per score; three in colour, the others grey.

    Parameters
    ----------
    curves : DataFrame
        ``variant``, ``sparsity``, ``loss`` and ``standard_error`` (nats per token).
    unit : str
        What is removed, for the axis.
    """
    ax = current_axes(ax)
    keep_data(ax, curves[["variant", "sparsity", "loss", "standard_error"]])
    ends = []
    for name, rows in curves.groupby("variant", sort=False):
        rows = rows.sort_values("sparsity")
        is_loud = name in LOUD
        colour = PALETTE[LOUD[name]] if is_loud else GREY
        style = {"color": colour, "linewidth": 2.4 if is_loud else 1.0, "zorder": 3 if is_loud else 2}
        ax.plot(rows["sparsity"], rows["loss"], **style)
        low, high = (rows["loss"] + sign * rows["standard_error"].fillna(0) for sign in (-1, 1))
        if is_loud:
            ax.fill_between(rows["sparsity"], low, high, color=colour, alpha=0.15, linewidth=0)
        ends.append((rows["sparsity"].iloc[-1], rows["loss"].iloc[-1], name, colour))
    ax.set(xlabel=f"share of {unit} removed", ylabel="held-out loss (nats per token)")
    label_ends(ax, ends, size=8.5)
    return ax


def plot_skills(curves: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Rise of a language model's loss against sparsity, a line per skill, with standard errors.

    Parameters
    ----------
    curves : DataFrame
        ``skill``, ``sparsity``, ``loss`` and ``standard_error`` (nats per token); the rise is counted from the lowest
        sparsity.
    """
    ax = current_axes(ax)
    start = curves.sort_values("sparsity").groupby("skill")["loss"].transform("first")
    curves = curves.assign(rise=curves["loss"] - start)
    keep_data(ax, curves[["skill", "sparsity", "loss", "rise", "standard_error"]])
    ends = []
    for (skill, rows), colour, marker in zip(curves.groupby("skill", sort=False), PALETTE, "os^Dv<>P"):
        rows = rows.sort_values("sparsity")
        bars = {"yerr": rows["standard_error"].fillna(0), "capsize": 2, "marker": marker, "markersize": 5}
        ax.errorbar(rows["sparsity"], rows["rise"], color=colour, **bars)
        ends.append((rows["sparsity"].iloc[-1], rows["rise"].iloc[-1], skill, colour))
    ax.set(xlabel="share of neurons removed", ylabel="rise in held-out loss\n(nats per token)")
    label_ends(ax, ends)
    return ax


def plot_recovery(
    recovery: pd.DataFrame,
    *,
    base: float | None = None,
    needed: float | None = None,
    named: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Loss of pruned language models while they are trained, a line per score and pair of sparsities.

    Parameters
    ----------
    recovery : DataFrame
        ``variant``, ``neuron_sparsity``, ``residual_sparsity``, ``tokens``, ``loss`` (nats per token),
        ``n_parameters``.
    base : float, optional
        Loss of the whole model, drawn as a line.
    needed : float, optional
        Tokens per parameter that a decision needs: what was not run of them is shaded.
    named : bool
        Whether lines are named where they end; several panels are better served by one legend.
    """
    ax = current_axes(ax)
    keep_data(ax, recovery[["variant", "neuron_sparsity", "residual_sparsity", "tokens", "loss"]])
    places = token_axis(ax, recovery["tokens"], needed and needed * recovery["n_parameters"].max())
    pairs = ["neuron_sparsity", "residual_sparsity"]
    several, ends = len(recovery.drop_duplicates(pairs)) > 1, []
    for number, ((neurons, residual), of_pair) in enumerate(recovery.groupby(pairs)):
        for variant, rows in of_pair.groupby("variant", sort=False):
            rows = rows.sort_values("tokens")
            colour = PALETTE[LOUD.get(variant, 7)]
            marker = "os^Dv<>P"[number % 8]
            label = variant + (f", {neurons:.0%}" if several else "")
            label += f"/{residual:.0%}" if several and residual else ""
            ax.plot(rows["tokens"].map(places), rows["loss"], color=colour, marker=marker, markersize=4, label=label)
            ends.append((rows["tokens"].map(places).iloc[-1], rows["loss"].iloc[-1], label, colour))
    _finish_recovery(ax, base, ends if named else [])
    return ax


def _finish_recovery(ax: Axes, base: float | None, ends: list) -> None:
    """Axes of a recovery: lines are named where they end, within what was not run."""
    if base is not None:
        ax.axhline(base, color=GREY, linestyle=(0, (1, 1.5)), linewidth=1.2)
        words = {"xytext": (-3, 3), "textcoords": "offset points", "ha": "right", "va": "bottom"}
        ax.annotate("whole model", (1, base), xycoords=("axes fraction", "data"), fontsize=8, color=GREY, **words)
    ax.set(xlabel="training tokens after pruning", ylabel="held-out loss (nats per token)")
    label_ends(ax, ends, size=8.5)


def plot_lasso_curves(curves: pd.DataFrame, *, flat: float, ax: Axes | None = None) -> Axes:
    """Rise of a language model's loss against sparsity, a line per strength of the group lasso, up to 1 nat.

    The threshold below which a curve counts as flat is drawn, with a dot where each line leaves it.

    Parameters
    ----------
    curves : DataFrame
        ``strength`` (not a number for the model as it was, 0 for training without a penalty), ``sparsity``, ``loss``
        and ``standard_error`` (nats per token).
    flat : float
        Rise below which a curve counts as flat, nats per token.
    """
    ax = current_axes(ax)
    kept, above, beside = [], [], []
    for strength, rows in _by_strength(curves):
        rows = rows.sort_values("sparsity")
        rows = rows.assign(rise=rows["loss"] - rows["loss"].iloc[0])
        kept.append(rows)
        colour, dashes = _look(strength, curves)
        ax.plot(rows["sparsity"], rows["rise"], color=colour, linestyle=dashes, linewidth=2)
        leaves = _crossing(rows, flat)
        ax.plot([leaves], [flat], "o", color=colour, markersize=6, zorder=4)
        out = _crossing(rows, _HIGHEST)
        if out == out:
            above.append((out, _HIGHEST, _label(strength), colour))
        else:
            beside.append((rows["sparsity"].iloc[-1], rows["rise"].iloc[-1], _label(strength), colour))
    keep_data(ax, pd.concat(kept)[["strength", "sparsity", "loss", "rise", "standard_error"]])
    ax.axhline(flat, color=GREY, linewidth=1.0, linestyle=(0, (1, 1.5)))
    beside.append((ax.get_xlim()[1], flat, f"flat below\n{flat:g} nats", GREY))
    ax.set(ylim=(-0.08, _HIGHEST), xlabel="share of neurons removed", ylabel="rise in held-out loss\n(nats per token)")
    label_ends(ax, above, side="top")
    label_ends(ax, beside)
    return ax


def _crossing(rows: pd.DataFrame, height: float) -> float:
    """Sparsity at which a curve first rises above a height; not a number where it stays below."""
    for one, other in pairwise(rows.itertuples()):
        if one.rise <= height < other.rise:
            return one.sparsity + (height - one.rise) / (other.rise - one.rise) * (other.sparsity - one.sparsity)
    return math.nan


def plot_lasso_recovery(
    recovery: pd.DataFrame, *, base: float | None = None, needed: float | None = None, ax: Axes | None = None
) -> Axes:
    """Loss of pruned language models while they are trained, a line per strength of the group lasso before the cut.

    Parameters
    ----------
    recovery : DataFrame
        ``strength`` (not a number for the model as it was, 0 for training without a penalty), ``tokens``, ``loss``
        (nats per token), ``n_parameters``.
    base, needed : float, optional
        See `plot_recovery`.
    """
    ax = current_axes(ax)
    keep_data(ax, recovery[["strength", "tokens", "loss"]])
    places = token_axis(ax, recovery["tokens"], needed and needed * recovery["n_parameters"].max())
    ends = []
    for strength, rows in _by_strength(recovery):
        rows = rows.sort_values("tokens")
        colour, dashes = _look(strength, recovery)
        at = rows["tokens"].map(places)
        ax.plot(at, rows["loss"], color=colour, linestyle=dashes, linewidth=1.8, marker="o", markersize=3)
        ends.append((at.iloc[-1], rows["loss"].iloc[-1], _label(strength), colour))
    _finish_recovery(ax, base, ends)
    return ax


def _by_strength(frame: pd.DataFrame) -> list[tuple[float, pd.DataFrame]]:
    """The model as it was first, then in the order of the strengths."""
    return sorted(frame.groupby("strength", dropna=False), key=lambda item: (not math.isnan(item[0]), item[0]))


def _look(strength: float, frame: pd.DataFrame) -> tuple[object, object]:
    """Colour and dashes of a strength: darker for stronger; the control grey, the model as it was dashed."""
    if math.isnan(strength):
        return METHODS["pruned"].colour, (0, (4, 1.5))
    strengths = sorted(frame.loc[frame["strength"] > 0, "strength"].unique())
    if not strength:
        return GREY, "-"
    return sns.color_palette("crest", len(strengths))[strengths.index(strength)], "-"


def _label(strength: float) -> str:
    if math.isnan(strength):
        return "base model"
    return f"$\\lambda$ = {strength:g}" if strength else "trained, no penalty"
