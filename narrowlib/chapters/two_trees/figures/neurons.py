"""Figures of neurons: their scores, norms and weights."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure

from narrowlib.chapters.style import GREY, PALETTE, current_axes, keep_data, label_ends

_SMALLEST_BITS = 1e-4  # what a logarithmic scale of scores shows as nothing
_POSITIVE, _NEGATIVE = "#0b5cad", "#c0261b"  # of weights
_FAINT = 0.03  # of the largest weight of a layer; what is smaller is not drawn
_MANY_LINES = 500  # from here on lines are drawn as pixels, and none is dashed


def plot_neuron_scores(scores: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Heat map of ablation scores, a row per task and a column per neuron, on a logarithmic scale.

    The scale runs from pale to dark, so that a figure turned over for a dark page runs from dark to bright.
    Neurons are ordered by which tree of tasks they serve more: those of one tree on the left, of the other on the
    right, shared ones between.

    Parameters
    ----------
    scores : DataFrame
        ``neuron``, ``task``, ``tree``, ``score`` (bits), of one layer of one network.
    """
    ax = current_axes(ax)
    keep_data(ax, scores[["neuron", "task", "tree", "score"]])
    tasks = scores.drop_duplicates("task").sort_values("tree", kind="stable")["task"]  # each tree a block of rows
    table = scores.pivot(index="task", columns="neuron", values="score").loc[tasks]
    strongest = scores.groupby(["neuron", "tree"], sort=False)["score"].max().unstack("tree")
    first, second = (strongest[tree] for tree in scores["tree"].unique())
    order = ((first - second) / (first + second + _SMALLEST_BITS)).sort_values(ascending=False, kind="stable").index
    shown = table[order].clip(lower=_SMALLEST_BITS)
    norm = LogNorm(_SMALLEST_BITS, max(1.0, shown.to_numpy().max()))
    mesh = ax.pcolormesh(shown.to_numpy(), cmap="mako_r", norm=norm, rasterized=True)
    ax.figure.colorbar(mesh, ax=ax, label="ablation score (bits)", pad=0.01)
    ax.set_yticks([row + 0.5 for row in range(len(shown))], shown.index, fontsize=9)
    ax.set(ylim=(len(shown), 0), ylabel="task", xlabel="neurons, ordered by the tree they serve")
    ax.set_xticks([])
    ax.grid(False)
    return ax


def plot_sharing(shares: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Share of neurons that matter to both trees against the threshold; a line per width and layer, mean over seeds.

    Parameters
    ----------
    shares : DataFrame
        ``width``, ``layer``, ``seed``, ``threshold`` (bits), ``share``.
    """
    ax = current_axes(ax)
    by = ["width", "layer", "threshold"]
    means = shares.groupby(by)["share"].agg(share="mean", standard_error="sem").reset_index()
    means["line"] = "width " + means["width"].astype(str) + ", " + means["layer"]
    keep_data(ax, means[["line", *by, "share", "standard_error"]])
    layers, widths, ends = sorted(means["layer"].unique()), sorted(means["width"].unique()), []
    for (width, layer), rows in means.groupby(["width", "layer"]):
        colour = PALETTE[layers.index(layer)]
        look = {"color": colour, "marker": "os^Dv"[widths.index(width) % 5], "markersize": 5, "capsize": 2}
        ax.errorbar(rows["threshold"], rows["share"], yerr=rows["standard_error"].fillna(0), **look)
        known = rows.dropna(subset="share")
        if len(known):
            ends.append((known["threshold"].iloc[-1], known["share"].iloc[-1], known["line"].iloc[-1], colour))
    ax.set(xscale="log", xlabel="threshold: a neuron matters above it (bits)", ylim=(-0.03, 1.03))
    ax.set_ylabel("share that matters to both trees,\namong neurons that matter")
    label_ends(ax, ends)
    return ax


def plot_recovery_by_sharing(networks: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """What recovery brings back of the other composite against the share of neurons in both trees; a mark per network.

    Parameters
    ----------
    networks : DataFrame
        ``width``, ``sharing``, ``area``.
    """
    ax = current_axes(ax)
    keep_data(ax, networks[["width", "seed", "sharing", "area"]])
    widths = networks["width"].astype(str)
    sns.scatterplot(networks, x="sharing", y="area", hue=widths, style=widths, s=60, ax=ax)
    ax.axhline(0, color=GREY, linewidth=1.0)
    ax.set(
        xlabel="share of neurons that matter to both trees", ylabel="regained on the other composite", ylim=(-0.05, 1)
    )
    ax.legend(title="width", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def plot_agreement(scores: pd.DataFrame, *, unit: str = "bits", ax: Axes | None = None) -> Axes:
    """Attribution score of every unit against its ablation score, both logarithmic, with the line of equality.

    Units with a score of zero have no place on the axes and are left out.

    Parameters
    ----------
    scores : DataFrame
        ``layer``, ``ablation`` and ``attribution``, of one task and one variant of attribution.
    unit : str
        Of the scores.
    """
    ax = current_axes(ax)
    keep_data(ax, scores[["layer", "ablation", "attribution"]])
    shown = scores[(scores["ablation"] > 0) & (scores["attribution"] > 0)]
    for number, (layer, frame) in enumerate(shown.groupby("layer")):
        look = {"color": PALETTE[number], "marker": "o^"[number % 2], "alpha": 0.7, "markersize": 4}
        ax.plot(frame["ablation"], frame["attribution"], linestyle="", markeredgewidth=0, label=layer, **look)
    if len(shown):
        sides = shown[["ablation", "attribution"]]
        ends = np.array([sides.to_numpy().min() / 2, sides.to_numpy().max() * 2])
        ax.plot(ends, ends, color=GREY, linewidth=1.0, zorder=0)
    ax.set(xscale="log", yscale="log", xlabel=f"ablation score ({unit})", ylabel=f"attribution score ({unit})")
    return ax


def plot_network(edges: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """A network as lines between its units: inputs at the bottom, by sub-task, outputs at the top.

    Blue lines are positive weights, red ones negative, and dashed where there is room; the wider and darker, the
    larger, as a share of the largest of its layer.  Weights under a thirtieth of that are not drawn.  Hidden neurons
    stand above the units that they are most tied to.

    Parameters
    ----------
    edges : DataFrame
        ``layer`` (of weights, from 0), ``source``, ``target``, ``weight``, ``group`` (of an input: whom it belongs
        to; inputs of a group lie side by side).
    """
    ax = current_axes(ax)
    keep_data(ax, edges[["layer", "source", "target", "weight", "group"]])
    inputs = edges[edges["layer"] == 0].drop_duplicates("source").sort_values("source").set_index("source")["group"]
    gaps = (inputs != inputs.shift()).cumsum() - 1
    at = pd.Series(np.arange(len(inputs)) + 1.2 * gaps.to_numpy(), inputs.index, dtype=float)
    places = [at / max(at.max(), 1)]
    n_layers = int(edges["layer"].max()) + 1
    for layer, frame in edges.groupby("layer"):
        size = frame["weight"].abs() / max(frame["weight"].abs().max(), 1e-30)
        below = frame["source"].map(places[-1])
        centre = (below * size**2).groupby(frame["target"]).sum() / (size**2).groupby(frame["target"]).sum()
        order = centre.index if layer == n_layers - 1 else centre.sort_values(kind="stable").index
        places.append(pd.Series((np.arange(len(order)) + 0.5) / len(order), order))
        drawn = frame.assign(size=size, below=below, above=frame["target"].map(places[-1]))
        _draw_weights(drawn[size > _FAINT].sort_values("size"), layer, ax)
    for level, place in enumerate(places):
        ax.plot(place, [level] * len(place), "o", color="black", markersize=min(4.5, 160 / len(place)), zorder=3)
    for _, members in at.groupby(gaps):
        ax.text(members.mean() / max(at.max(), 1), -0.12, inputs[members.index[0]], ha="center", va="top", fontsize=8)
    names = ["inputs", *(f"hidden {level}\n{len(places[level])} neurons" for level in range(1, n_layers)), "labels"]
    ax.set_yticks(range(n_layers + 1), names, fontsize=8)
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.35, n_layers + 0.1), xticks=[])
    ax.tick_params(length=0)
    ax.grid(False)
    sns.despine(ax=ax, left=True, bottom=True)
    return ax


def draw_first_weights(edges: pd.DataFrame, ax: Axes) -> Axes:
    """Heat map of the sizes of the weights from inputs to the first hidden layer, neurons sorted by what they read.

    Parameters
    ----------
    edges : DataFrame
        See `plot_network`.
    """
    first = edges[edges["layer"] == 0]
    groups = first.drop_duplicates("source").sort_values("source")["group"].reset_index(drop=True)
    table = first.pivot(index="target", columns="source", values="weight").abs()
    table = table / max(table.to_numpy().max(), 1e-30)
    centre = (table**2 * np.arange(table.shape[1])).sum(axis=1) / (table**2).sum(axis=1)
    shown = table.loc[centre.sort_values(kind="stable").index]
    ax.pcolormesh(shown.to_numpy(), cmap="mako_r", vmin=0, vmax=1, rasterized=True)
    starts = groups.index[groups != groups.shift()].tolist()
    for start, end in zip(starts, [*starts[1:], len(groups)]):
        ax.axvline(start, color="white", linewidth=1.5)
        ax.text((start + end) / 2, -0.01, groups[start], transform=ax.get_xaxis_transform(), **_BELOW)
    ax.set(xticks=[], yticks=[], ylabel=f"{len(shown)} neurons, sorted")
    ax.grid(False)
    return ax


_BELOW = {"ha": "center", "va": "top", "fontsize": 8}


def plot_networks(states: Mapping[str, pd.DataFrame]) -> Figure:
    """`plot_network` of several states of a network, each with the heat map of its first weights beside it.

    Parameters
    ----------
    states : mapping of str to DataFrame
        ``edges`` by the title that they get.
    """
    shape = {"squeeze": False, "gridspec_kw": {"width_ratios": [1.7, 1]}}
    figure, axes = plt.subplots(len(states), 2, figsize=(9.4, 3.3 * len(states)), **shape)
    for (drawn, mapped), (title, edges) in zip(axes, states.items(), strict=True):
        plot_network(edges, ax=drawn).set_title(title, fontsize=10)
        draw_first_weights(edges, mapped).set_title("magnitude of input weights", fontsize=10)
    return figure


def _draw_weights(edges: pd.DataFrame, level: int, ax: Axes) -> None:
    """Lines from one level to the next; as pixels where they are many, which vectors would only make heavy."""
    lines = [((edge.below, level), (edge.above, level + 1)) for edge in edges.itertuples()]
    is_crowded, is_positive = len(lines) > _MANY_LINES, (edges["weight"] > 0).to_numpy()
    colours = np.where(is_positive[:, None], to_rgb(_POSITIVE), to_rgb(_NEGATIVE))
    look = {"colors": np.column_stack([colours, edges["size"]]), "linewidths": 0.3 + 1.7 * edges["size"]}
    dashes = ["-" if positive or is_crowded else (0, (5, 1)) for positive in is_positive]
    ax.add_collection(LineCollection(lines, linestyles=dashes, rasterized=is_crowded, zorder=1, **look))


def plot_norms(norms: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Norm of every neuron's weights against training steps, a line per neuron.

    Parameters
    ----------
    norms : DataFrame
        ``step``, ``neuron``, ``norm``, of one layer of one network.
    """
    ax = current_axes(ax)
    keep_data(ax, norms[["step", "neuron", "norm"]])
    for _, neuron in norms.groupby("neuron"):
        ax.plot(neuron["step"], neuron["norm"], color=PALETTE[0], linewidth=0.8, alpha=0.5)
    ax.set(yscale="log", xlabel="group-lasso training steps", ylabel="norm of a neuron's weights")
    return ax
