"""Chapter nonlocality, claims N1 and N2: whether skills are local, and what pruning keeps and loses."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from scipy.stats import hypergeom

from narrowlib.chapters.style import book_theme, plot_pending
from narrowlib.chapters.two_trees.attribution import agreement, neuron_attributions, paired
from narrowlib.chapters.two_trees.config import OTHER, RECORDED_SPARSITIES, WANTED, NonlocalityConfig
from narrowlib.chapters.two_trees.config import NonlocalityPage as Config
from narrowlib.chapters.two_trees.curves import REGAINED_ACCURACY, kept_sparsity, learned, pruning_curves
from narrowlib.chapters.two_trees.figures.curves import plot_pruning_panels
from narrowlib.chapters.two_trees.figures.neurons import (
    plot_agreement,
    plot_neuron_scores,
    plot_recovery_by_sharing,
    plot_sharing,
)
from narrowlib.chapters.two_trees.networks import ablation, neuron_table, pieces, store_for, train_networks
from narrowlib.claims import assess, load_claims, reasons, verdict
from narrowlib.cmsp import task_name
from narrowlib.devices import pick_device
from narrowlib.intervals import Interval, bootstrap, correlation, mean, share
from narrowlib.stacks.networks import MLPStack
from narrowlib.store.kept import Kept
from narrowlib.store.records import origin, paper_record, provenance
from narrowlib.texts import counted

THRESHOLDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)  # bits; see `sharing`
RECORDED_WIDTHS = (32, 64, 128, 256)  # of which the score of every single neuron is recorded


def neuron_scores(stack: MLPStack, config: NonlocalityConfig) -> pd.DataFrame:
    """Ablation score of every neuron on every task.

    Returns
    -------
    DataFrame
        One row per seed, layer, neuron and task: ``seed``, ``layer`` (hidden 1 or hidden 2), ``neuron``, ``task``,
        ``tree`` (of the task: that of the wanted composite, or the other), ``score`` in bits.

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), Fig 8 and 9.
    """
    frames = [neuron_table(ablation(stack, config, task), config, task) for task in config.problem.tasks]
    return pd.concat(frames, ignore_index=True)


def sharing(scores: pd.DataFrame, thresholds: Sequence[float]) -> pd.DataFrame:
    """Share of neurons that matter to both trees, among those that matter to any.

    A neuron matters to a tree when its score on one of the tree's tasks exceeds the threshold.

    Parameters
    ----------
    scores : DataFrame
        See `neuron_scores`.
    thresholds : sequence of float
        In bits.

    Returns
    -------
    DataFrame
        One row per threshold, seed and layer: ``threshold``, ``seed``, ``layer``, ``n_matter``, ``share`` (NaN when
        no neuron matters).
    """
    strongest = scores.groupby(["seed", "layer", "neuron", "tree"])["score"].max().unstack("tree")
    frames = []
    for threshold in thresholds:
        n_trees = (strongest > threshold).sum(axis=1)
        counts = n_trees.groupby(["seed", "layer"]).agg(
            n_matter=lambda n: (n > 0).sum(), n_both=lambda n: (n == 2).sum()
        )
        share = counts["n_both"] / counts["n_matter"].where(counts["n_matter"] > 0)
        frames.append(counts.assign(threshold=threshold, share=share).reset_index())
    return pd.concat(frames, ignore_index=True).drop(columns="n_both")


def sharing_outcome(scores: pd.DataFrame, threshold: float = 0.01) -> dict[str, Interval]:
    """The quantities of claim N1, with intervals over networks; see ``claims.yaml``.

    Parameters
    ----------
    scores : DataFrame
        See `neuron_scores`; with ``width`` where there are several.
    threshold : float
        In bits.

    Returns
    -------
    dict
        ``shared_neurons``: see `sharing`, mean over layers.  ``above_permuted``: that less the share to expect when the
        neurons of a layer are permuted between the two trees, so that nothing but how many matter is left.
    """
    matters = scores.groupby(["width"] * ("width" in scores) + ["seed", "layer", "neuron", "tree"])["score"].max()
    matters = (matters > threshold).unstack("tree")
    rows = []
    for (*network, layer), neurons in matters.groupby(level=list(range(matters.index.nlevels - 1))):
        first, second = neurons.to_numpy().T
        either = int((first | second).sum())
        if either:
            shared = (first & second).sum() / either
            expected = _shared_by_chance(len(first), int(first.sum()), int(second.sum()))
            rows.append({"network": str(network), "layer": layer, "shared": shared, "above": shared - expected})
    by_network = pd.DataFrame(rows, columns=["network", "layer", "shared", "above"]).groupby("network")
    means = by_network[["shared", "above"]].mean()
    return {"shared_neurons": mean(means["shared"]), "above_permuted": mean(means["above"])}


def _shared_by_chance(n: int, n_first: int, n_second: int) -> float:
    """Mean share of n neurons in both of two random sets among those in either."""
    both = np.arange(max(0, n_first + n_second - n), min(n_first, n_second) + 1)
    chances = hypergeom(n, n_first, n_second).pmf(both)
    return float((chances * both / (n_first + n_second - both)).sum())


def pruning_outcome(curves: pd.DataFrame, paper: Mapping[int, float]) -> dict[str, Interval]:
    """The quantities of claim N2, with intervals over networks; see ``claims.yaml``.

    Networks that have not learned a composite say nothing about pruning and are left out.  The *limit* of a network is
    the deepest cut that, after recovery, keeps the wanted composite.

    Parameters
    ----------
    curves : DataFrame
        See `narrowlib.chapters.two_trees.curves.pruning_curves`, of several widths, from a sparsity of 0 on.
    paper : mapping of int to float
        By width, the limit in the paper.

    Returns
    -------
    dict
        ``kept_less_paper``: limit less the paper's of the same width, mean; without a value where no width is the
        same.  ``wider_keeps_more``: slope of the limit over the logarithm of the width to base 2.
        ``regained_at_limit``: share of networks in which the other composite comes back there
        (`REGAINED_ACCURACY`).  ``recovery_area``: mean of 2 accuracy - 1 on the other composite after recovery, over
        the cuts up to the limit.
    """
    limits = limits_of(curves)
    kept, both = limits[limits["learned_wanted"]], limits[limits["learned_wanted"] & limits["learned_other"]]
    same = kept[kept["width"].isin(list(paper))]
    widths = np.log2(kept["width"].to_numpy(float))
    return {
        "kept_less_paper": mean(same["sparsity"] - same["width"].map(dict(paper)).astype(float)),
        "wider_keeps_more": bootstrap(_slope, np.stack([widths, kept["sparsity"].to_numpy(float)])),
        "regained_at_limit": share(both["other"] >= REGAINED_ACCURACY),
        "recovery_area": mean(both["area"]),
    }


def _slope(points: np.ndarray) -> np.ndarray:
    x, y = points - points.mean(-1, keepdims=True)
    return (x * y).sum(-1) / (x * x).sum(-1)


def limits_of(curves: pd.DataFrame) -> pd.DataFrame:
    """The pruning limit of each network, and how much of the other composite comes back there and before it.

    Returns
    -------
    DataFrame
        One row per ``width`` and ``seed``: ``sparsity`` (of the limit, 0 where no cut keeps the wanted composite),
        ``other`` (accuracy on the other composite at the limit, after recovery on it), ``area`` (mean of 2 accuracy -
        1 over the cuts up to there), ``learned_wanted``, ``learned_other``.
    """
    keys = ["width", "seed"]
    limits = kept_sparsity(curves, stage="recovered").fillna({"sparsity": 0.0}).merge(learned(curves), on=keys)
    other = curves[(curves["task"] == task_name(OTHER)) & (curves["stage"] == "recovered")]
    joined = other.merge(limits.rename(columns={"sparsity": "limit"}), on=keys)
    until = joined[joined["sparsity"] <= joined["limit"]].sort_values("sparsity").groupby(keys)["accuracy"]
    found = pd.DataFrame({"other": until.last(), "area": until.mean() * 2 - 1}).reset_index()
    return limits.merge(found, on=keys, how="left")


def recovery_by_sharing(curves: pd.DataFrame, scores: pd.DataFrame, threshold: float = 0.01) -> pd.DataFrame:
    """How many neurons a network shares between the trees, and what recovery brings back of the other composite.

    Parameters
    ----------
    curves, scores : DataFrame
        See `narrowlib.chapters.two_trees.curves.pruning_curves` and `neuron_scores`, both with ``width``.
    threshold : float
        In bits, see `sharing`.

    Returns
    -------
    DataFrame
        One row per network that has learned both composites: ``width``, ``seed``, ``sharing`` (mean over layers),
        ``area`` (see `limits_of`), ``with_depth`` (Spearman correlation of sparsity and accuracy on the other composite
        after recovery, over the cuts up to the limit; NaN where that accuracy is the same at all of them).
    """
    keys, limits = ["width", "seed"], limits_of(curves)
    both = limits[limits["learned_wanted"] & limits["learned_other"]]
    shares = [sharing(some, [threshold]).assign(width=width) for width, some in scores.groupby("width")]
    found = pd.concat(shares).groupby(keys)["share"].mean().rename("sharing").reset_index()
    other = curves[(curves["task"] == task_name(OTHER)) & (curves["stage"] == "recovered")]
    other = other.merge(both[[*keys, "sparsity"]].rename(columns={"sparsity": "limit"}), on=keys)
    until = other[other["sparsity"] <= other["limit"]]
    depth = {key: some["sparsity"].corr(some["accuracy"], "spearman") for key, some in until.groupby(keys)}
    along = pd.Series(depth, name="with_depth").rename_axis(keys).reset_index()
    return both[[*keys, "area"]].merge(found, on=keys).merge(along, on=keys)[[*keys, "sharing", "area", "with_depth"]]


def predictors(networks: pd.DataFrame) -> dict[str, Interval]:
    """Whether sharing, or the depth of the cut, predicts what comes back, from `recovery_by_sharing`.

    Returns
    -------
    dict
        ``sharing``: correlation of the ranks of sharing and area, each within its width, over networks.  ``depth``:
        mean over networks of their correlation with depth.
    """
    ranks = networks.groupby("width")[["sharing", "area"]].rank()
    ranks -= ranks.groupby(networks["width"]).transform("mean")
    return {"sharing": bootstrap(correlation, ranks.to_numpy(float).T), "depth": mean(networks["with_depth"].dropna())}


def predicted_said(networks: pd.DataFrame) -> str:
    """The answers of `predictors`, a sentence each."""
    told = {"sharing": "Share of neurons that serve both trees", "depth": "Depth of the cut"}
    n_networks = {"sharing": len(networks), "depth": networks["with_depth"].count()}
    sentences = []
    for name, found in predictors(networks).items():
        is_sure = found.low > 0 or found.high < 0
        more = "more" if found.value > 0 else "less"
        how = (
            f"the larger it is, the {more} comes back"
            if is_sure
            else "whether it predicts how much comes back is undecided"
        )
        sentences.append(
            f"{told[name]}: {how} (rank correlation {found.value:.2f}, 95% interval {found.low:.2f} to "
            f"{found.high:.2f}, {counted(n_networks[name], 'network')})."
        )
    return "\n".join(sentences)


def tables(
    config: Config, *, sparsities: Sequence[float] = RECORDED_SPARSITIES, progress: bool = True
) -> dict[str, pd.DataFrame]:
    """The tables that the book records of a run; finished pieces (a few seeds, one width) go to ``config.checkpoints``.

    Returns
    -------
    dict of str to DataFrame
        ``curves`` (see `narrowlib.chapters.two_trees.curves.pruning_curves`), ``shares`` (see `sharing`), ``agreement``
        (see `narrowlib.chapters.two_trees.attribution.agreement`), all of every width; ``scores`` (see
        `neuron_scores`) and ``attributions`` (on the wanted composite alone) of the widths in `RECORDED_WIDTHS`, all
        with a column ``width``.
    """
    experiment, device = config.experiment, config.device
    store = store_for(config.checkpoints, experiment, device)
    parts: dict[str, list[pd.DataFrame]] = {}
    for width in config.widths:
        for piece in pieces(experiment, width, pick_device(device)):
            networks = train_networks(piece, width, device=device, store=store, progress=progress)
            found = _score_tables(networks, piece, store)
            found["curves"] = pruning_curves(networks, piece, sparsities, store=store, progress=progress)
            for name, table in found.items():
                parts.setdefault(name, []).append(table.assign(width=width))
    return {name: pd.concat(frames, ignore_index=True) for name, frames in parts.items()}


def _score_tables(networks: MLPStack, config: NonlocalityConfig, store: Kept) -> dict[str, pd.DataFrame]:
    """What is told of the neurons, kept as one table each."""
    width, seeds = networks.sizes[1], config.seeds
    which = f"{width}-{seeds[0]}-{seeds[-1]}"
    scores = store.keep(f"scores-{which}", partial(neuron_scores, networks, config), inputs=networks)
    compute = partial(neuron_attributions, networks, config)
    attributions = store.keep(f"attributions-{which}", compute, inputs=networks)
    found = {"shares": sharing(scores, THRESHOLDS), "agreement": agreement(scores, attributions)}
    if width in RECORDED_WIDTHS:
        found["scores"] = scores
        found["attributions"] = attributions[attributions["task"] == task_name(WANTED)]
    return found
