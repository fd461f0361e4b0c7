"""Figures of the narrow digit classifiers."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from narrowlib.chapters.style import GREY, METHODS, PALETTE, current_axes, in_order, keep_data, label_ends, plain_ticks


def plot_fronts(best: pd.DataFrame, front: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Training samples against neurons kept, a marker per size with the range over repeats; a line along each frontier.

    Parameters
    ----------
    best : DataFrame
        ``method``, ``neurons``, ``points``, ``low``, ``high``, ``reached``: sizes that do not reach the goal in half of
        the repeats are shown hollow, at the samples that they used up.
    front : DataFrame
        ``method``, ``neurons``, ``points``: the sizes on each method's Pareto front.
    """
    ax = current_axes(ax)
    keep_data(ax, best[["method", "neurons", "points", "low", "high", "reached"]])
    ends = []
    for method in in_order(best["method"]):
        rows = best[best["method"] == method].sort_values("neurons")
        name, colour, marker, dashes = METHODS[method]
        errors = [rows["points"] - rows["low"], rows["high"] - rows["points"]]
        ax.errorbar(
            rows["neurons"],
            rows["points"],
            yerr=errors,
            fmt="none",
            ecolor=colour,
            elinewidth=1.2,
            capsize=3,
            alpha=0.6,
        )
        for reached, some in rows.groupby("reached"):
            face = colour if reached else "white"
            ax.plot(some["neurons"], some["points"], marker, color=colour, mfc=face, markersize=7, zorder=3)
        line = front[front["method"] == method].sort_values("neurons")
        ax.plot(line["neurons"], line["points"], linestyle=dashes, color=colour, linewidth=1.8)
        ends.append((rows["neurons"].iloc[-1], rows["points"].iloc[-1], name, colour))
    ax.set(xscale="log", yscale="log", xlabel="neurons kept, both hidden layers", ylabel="training samples to the goal")
    plain_ticks(ax.xaxis, sorted(best["neurons"].unique()))
    plain_ticks(ax.yaxis)
    if not best["reached"].all():
        ax.text(0.01, 0.01, "hollow: goal missed in most repeats", transform=ax.transAxes, fontsize=8, color=GREY)
    label_ends(ax, ends)
    return ax


def plot_shrinking(paths: pd.DataFrame, ends: pd.DataFrame, *, goal: float, ax: Axes | None = None) -> Axes:
    """Accuracy against neurons left while runs are pruned in training, and where they end without the penalty.

    Parameters
    ----------
    paths : DataFrame
        ``strength``, ``learning_rate``, ``repeat``, ``points``, ``neurons``, ``accuracy``; a line per run, its dashes
        and colour by strength.
    ends : DataFrame
        ``neurons``, ``accuracy``: a triangle each, filled where the goal is reached.
    goal : float
        Accuracy that ends a run, drawn as a line.
    """
    ax = current_axes(ax)
    keep_data(ax, paths[["strength", "learning_rate", "repeat", "points", "neurons", "accuracy"]])
    strengths = sorted(paths["strength"].unique())
    colours = dict(zip(strengths, sns.color_palette("mako_r", len(strengths) + 2)[1:-1], strict=True))
    dashes = ["-", (0, (4, 1.5)), (0, (1, 1.5)), (0, (6, 1.5, 1, 1.5))]
    for number, strength in enumerate(strengths):
        runs = paths[paths["strength"] == strength].groupby(["learning_rate", "repeat"])
        for place, (_, run) in enumerate(runs):
            run = run.sort_values("points")
            label = f"{strength:g}" if place == 0 else None
            style = {"linestyle": dashes[number % len(dashes)], "color": colours[strength], "label": label}
            ax.plot(run["neurons"], run["accuracy"], linewidth=1.1, alpha=0.9, **style)
    green = PALETTE[2]
    for reached, some in ends.groupby(ends["accuracy"] >= goal):
        face = green if reached else "white"
        label = "after recovery" if reached else "after recovery, goal missed"
        ax.plot(some["neurons"], some["accuracy"], "^", color=green, mfc=face, markersize=6, label=label, zorder=3)
    ax.axhline(goal, color=GREY, linewidth=1.0, linestyle=(0, (1, 1.5)), zorder=0)
    ax.set(xscale="log", xlabel="neurons left, both hidden layers", ylabel="accuracy on even digits")
    ax.invert_xaxis()
    plain_ticks(ax.xaxis, sorted({*ends["neurons"], paths["neurons"].max()}))
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), title=r"strength $\lambda$")
    return ax


def plot_forgetting(table: pd.DataFrame, *, y: str, ax: Axes | None = None) -> Axes:
    """Accuracy on odd digits against neurons kept, mean and range over networks, a line per method.

    Parameters
    ----------
    table : DataFrame
        ``method``, ``neurons``, and the column named by ``y``; the method "teacher" becomes a level line.
    y : str
        Which accuracy is on the vertical axis.
    """
    ax = current_axes(ax)
    keep_data(ax, table[["method", "neurons", y]])
    is_teacher = table["method"] == "teacher"
    for method in in_order(table.loc[~is_teacher, "method"]):
        rows, (name, colour, marker, dashes) = table[table["method"] == method], METHODS[method]
        odd = rows.groupby("neurons")[y].agg(["mean", "min", "max"])
        errors = [odd["mean"] - odd["min"], odd["max"] - odd["mean"]]
        style = {"color": colour, "marker": marker, "linestyle": dashes, "capsize": 3, "markersize": 6}
        ax.errorbar(odd.index, odd["mean"], yerr=errors, label=name, linewidth=1.6, **style)
    for teacher in table.loc[is_teacher, y]:
        ax.axhline(teacher, color=GREY, linewidth=1.2, linestyle=(0, (1, 1.5)), label="teacher")
    ax.set(xscale="log", ylim=(-0.03, 1.03), xlabel="neurons kept", ylabel="accuracy on odd digits")
    plain_ticks(ax.xaxis, sorted(table.loc[~is_teacher, "neurons"].unique()))
    return ax


def plot_forgetting_panels(table: pd.DataFrame) -> Figure:
    """`plot_forgetting` of networks as they were narrowed, among odd answers only, and after a short relearning.

    Parameters
    ----------
    table : DataFrame
        ``stage`` (narrowed or relearned), ``method``, ``neurons``, ``odd`` and ``among_odd``.
    """
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 3.6), sharey=True)
    panels = (
        ("narrowed", "among_odd", "as narrowed, odd outputs only"),
        ("relearned", "odd", "after brief relearning"),
    )
    for ax, (stage, y, title) in zip(axes, panels, strict=True):
        plot_forgetting(table[table["stage"] == stage], y=y, ax=ax)
        ax.set_title(title, fontsize=10)
        ax.label_outer()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def plot_digits(pixels: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Digits that networks misclassify, a row per size, with the true digit and the network's answer below each.

    Parameters
    ----------
    pixels : DataFrame
        ``neurons``, ``picture``, ``row``, ``column``, ``ink`` (0 to 1), ``label``, ``predicted``.
    """
    ax = current_axes(ax)
    keep_data(ax, pixels[["neurons", "picture", "row", "column", "ink", "label", "predicted"]])
    side = int(pixels["row"].max()) + 1 if len(pixels) else 1
    tall, sizes = side + 16, sorted(pixels["neurons"].unique())
    for (neurons, number), rows in pixels.groupby(["neurons", "picture"]):
        left, top = number * (side + 3), sizes.index(neurons) * tall
        picture = rows.pivot(index="row", columns="column", values="ink")
        place = (left, left + side, top + side, top)
        ax.imshow(picture, cmap="Greys", vmin=0, vmax=1, extent=place, interpolation="nearest")
        words = f"true {rows['label'].iloc[0]}\npred. {rows['predicted'].iloc[0]}"
        ax.text(left + side / 2, top + side + 2, words, ha="center", va="top", fontsize=8)
    for row, neurons in enumerate(sizes):
        ax.text(-4, row * tall + side / 2, f"{neurons} neurons", ha="right", va="center", fontsize=9)
    n_pictures = int(pixels["picture"].max()) + 1 if len(pixels) else 1
    ax.set(xlim=(-1, n_pictures * (side + 3) - 2), ylim=(max(1, len(sizes)) * tall, -1), aspect="equal")
    ax.set_axis_off()
    return ax
