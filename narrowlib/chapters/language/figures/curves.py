"""Figures of narrowed language models."""

from __future__ import annotations

import math

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from narrowlib.chapters.style import GREY, current_axes, keep_data


def plot_llm_pruning(curves: pd.DataFrame, *, unit: str = "neurons", ax: Axes | None = None) -> Axes:
    """Loss of a language model on one skill against sparsity, a line per score, with standard errors.

    Parameters
    ----------
    curves : DataFrame
        ``variant``, ``sparsity``, ``loss`` and ``standard_error`` (nats per token).
    unit : str
        What is removed, for the axis.
    """
    ax = current_axes(ax)
    keep_data(ax, curves[["variant", "sparsity", "loss", "standard_error"]])
    _plot_lines_with_errors(curves, "variant", "loss", ax)
    ax.set(xlabel=f"share of {unit} removed", ylabel="held-out loss (nats per token)")
    ax.legend(title="ranked by", fontsize=9, title_fontsize=9)
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
    _plot_lines_with_errors(curves, "skill", "rise", ax)
    ax.set(xlabel="share of neurons removed", ylabel="rise of the held-out loss\n(nats per token)")
    ax.legend(title="skill", fontsize=9, title_fontsize=9)
    return ax


def plot_recovery(recovery: pd.DataFrame, *, base: float | None = None, ax: Axes | None = None) -> Axes:
    """Loss of pruned language models while they are trained, a line per score and pair of sparsities.

    Parameters
    ----------
    recovery : DataFrame
        ``variant``, ``neuron_sparsity``, ``residual_sparsity``, ``tokens``, ``loss`` (nats per token).
    base : float, optional
        Loss of the whole model, drawn as a line.
    """
    ax = current_axes(ax)
    keep_data(ax, recovery[["variant", "neuron_sparsity", "residual_sparsity", "tokens", "loss"]])
    palette, markers = sns.color_palette("colorblind"), "os^Dv<>P"
    colours = {name: palette[number] for number, name in enumerate(recovery["variant"].unique())}
    dashes = dict(zip(colours, ("-", (0, (6, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))))
    pairs = ["neuron_sparsity", "residual_sparsity"]
    for number, ((neurons, residual), of_pair) in enumerate(recovery.groupby(pairs)):
        for variant, rows in of_pair.groupby("variant", sort=False):
            label = f"{variant}, {neurons:.0%} of neurons"
            label += f" and {residual:.0%} of dimensions" if residual else ""
            look = {"color": colours[variant], "marker": markers[number % len(markers)], "markersize": 5}
            look["linestyle"] = dashes.get(variant, "-")
            ax.plot(rows["tokens"], rows["loss"], label=label, **look)
    if base is not None:
        ax.axhline(base, color=GREY, linestyle="--", linewidth=1.0, label="whole model, before")
    ax.set(xlabel="training tokens after pruning", ylabel="held-out loss (nats per token)")
    ax.legend(fontsize=9)
    return ax


def _plot_lines_with_errors(frame: pd.DataFrame, hue: str, y: str, ax: Axes) -> None:
    palette, markers = sns.color_palette("colorblind"), "os^Dv<>P"
    for number, (name, rows) in enumerate(frame.groupby(hue, sort=False)):
        look = {"color": palette[number % len(palette)], "marker": markers[number % len(markers)], "markersize": 5}
        rows = rows.sort_values("sparsity")
        ax.errorbar(rows["sparsity"], rows[y], yerr=rows["standard_error"].fillna(0), capsize=2, label=name, **look)


_MARKERS = "os^Dv<>P"


def plot_lasso_curves(curves: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Loss of a language model on one skill against sparsity, a line per strength of the group lasso.

    Parameters
    ----------
    curves : DataFrame
        ``strength`` (not a number for the model as it was, 0 for training without a penalty), ``sparsity``, ``loss``
        and ``standard_error`` (nats per token).
    """
    ax = current_axes(ax)
    keep_data(ax, curves[["strength", "sparsity", "loss", "standard_error"]])
    for (strength, rows), look in zip(_by_strength(curves), _looks(curves), strict=True):
        rows = rows.sort_values("sparsity")
        errors = rows["standard_error"].fillna(0)
        ax.errorbar(rows["sparsity"], rows["loss"], yerr=errors, capsize=2, label=_label(strength), **look)
    ax.set(xlabel="share of neurons removed", ylabel="held-out loss (nats per token)")
    ax.legend(title="group lasso", fontsize=9, title_fontsize=9)
    return ax


def plot_lasso_recovery(recovery: pd.DataFrame, *, base: float | None = None, ax: Axes | None = None) -> Axes:
    """Loss of pruned language models while they are trained, a line per strength of the group lasso before the cut.

    Parameters
    ----------
    recovery : DataFrame
        ``strength`` (not a number for the model as it was, 0 for training without a penalty), ``tokens`` and ``loss``
        (nats per token).
    base : float, optional
        Loss of the whole model, drawn as a line.
    """
    ax = current_axes(ax)
    keep_data(ax, recovery[["strength", "tokens", "loss"]])
    for (strength, rows), look in zip(_by_strength(recovery), _looks(recovery), strict=True):
        rows = rows.sort_values("tokens")
        ax.plot(rows["tokens"], rows["loss"], label=_label(strength), **look)
    if base is not None:
        ax.axhline(base, color=GREY, linestyle=":", linewidth=1.0, label="whole model, before")
    ax.set(xlabel="training tokens after pruning", ylabel="held-out loss (nats per token)")
    ax.legend(title="group lasso before", fontsize=9, title_fontsize=9)
    return ax


def _by_strength(frame: pd.DataFrame) -> list[tuple[float, pd.DataFrame]]:
    """The model as it was first, then in the order of the strengths."""
    return sorted(frame.groupby("strength", dropna=False), key=lambda item: (not math.isnan(item[0]), item[0]))


def _looks(frame: pd.DataFrame) -> list[dict]:
    """A colour and a marker each; the model as it was is dashed."""
    palette = sns.color_palette("colorblind")
    return [
        {
            "color": palette[number % len(palette)],
            "marker": _MARKERS[number % len(_MARKERS)],
            "markersize": 5,
            "linestyle": "--" if math.isnan(strength) else "-",
        }
        for number, (strength, _) in enumerate(_by_strength(frame))
    ]


def _label(strength: float) -> str:
    if math.isnan(strength):
        return "none"
    return f"$\\lambda$ = {strength:g}" + ("" if strength else " (training alone)")
