"""Claims N1 and N2: whether skills are local, and what pruning keeps and loses."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from narrowlib.chapters.two_trees.attribution import agreement, neuron_attributions
from narrowlib.chapters.two_trees.curves import kept_sparsity, learned, pruning_curves, regained
from narrowlib.chapters.two_trees.networks import (
    WANTED,
    NonlocalityConfig,
    ablation,
    neuron_table,
    pieces,
    store_for,
    train_networks,
)
from narrowlib.cmsp import task_name
from narrowlib.devices import pick_device
from narrowlib.stacks.networks import MLPStack
from narrowlib.store.kept import Kept

THRESHOLDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)  # bits; see `sharing`
PAPER_WIDTHS = (32, 64, 128, 256, 512, 1024, 2048)
PAPER_SPARSITIES = tuple(percent / 100 for percent in range(99))  # the paper's 98, and the whole network
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


def pruning_outcome(curves: pd.DataFrame) -> dict[str, float]:
    """The quantities of claim N2, from curves of several widths that begin at a sparsity of 0; see ``claims.yaml``.

    Networks that have not learned a composite say nothing about pruning: how far the wanted one is kept is a median
    over the networks that have it before pruning, and whether the other comes back a mean over those that have that.
    """
    kept = kept_sparsity(curves, stage="recovered").merge(learned(curves))
    by_width = kept[kept["learned_wanted"]].fillna({"sparsity": 0}).groupby("width")["sparsity"].median()
    comes_back = regained(curves).merge(learned(curves))
    return {
        "kept_sparsity": by_width.get(curves["width"].max(), float("nan")),
        "wider_keeps_more": by_width.get(curves["width"].max(), float("nan"))
        - by_width.get(curves["width"].min(), float("nan")),
        "regained_share": comes_back[comes_back["learned_other"]]["regained"].mean(),
    }


def paper_tables(
    config: NonlocalityConfig | None = None,
    widths: Sequence[int] = PAPER_WIDTHS,
    sparsities: Sequence[float] = PAPER_SPARSITIES,
    *,
    device: str = "auto",
    checkpoints: str | Path = "",
    progress: bool = True,
) -> dict[str, pd.DataFrame]:
    """Everything that the chapter shows at the paper's scale.

    Parameters
    ----------
    config : NonlocalityConfig, optional
        The paper's by default.
    widths : sequence of int
    sparsities : sequence of float
    device : {"auto", "cpu", "cuda"}
    checkpoints : path, optional
        Folder to leave off in: finished pieces, each some seeds of one width, are kept there, and unfinished ones
        leave off about once a minute.  The same call of the same code goes on from them after a kill.
    progress : bool
        Show progress bars.

    Returns
    -------
    dict of str to DataFrame
        ``curves`` (see `narrowlib.chapters.two_trees.curves.pruning_curves`), ``shares`` (see `sharing`), ``agreement``
        (see `narrowlib.chapters.two_trees.attribution.agreement`), all of every
        width; ``scores`` (see `neuron_scores`) and ``attributions`` (on the wanted composite alone) of the widths in
        `RECORDED_WIDTHS`, all with a column ``width``.
    """
    config = NonlocalityConfig() if config is None else config
    where = pick_device(device)
    store = store_for(checkpoints, config, device)
    parts: dict[str, list[pd.DataFrame]] = {}
    for width in widths:
        for piece in pieces(config, width, where):
            networks = train_networks(piece, width, device=device, store=store, progress=progress)
            tables = _score_tables(networks, piece, store)
            tables["curves"] = pruning_curves(networks, piece, sparsities, store=store, progress=progress)
            for name, table in tables.items():
                parts.setdefault(name, []).append(table.assign(width=width))
    return {name: pd.concat(tables, ignore_index=True) for name, tables in parts.items()}


def _score_tables(networks: MLPStack, config: NonlocalityConfig, store: Kept) -> dict[str, pd.DataFrame]:
    """What is told of the neurons, kept as one table each."""
    width, seeds = networks.sizes[1], config.seeds
    which = f"{width}-{seeds[0]}-{seeds[-1]}"
    scores = store.keep(f"scores-{which}", partial(neuron_scores, networks, config), inputs=networks)
    compute = partial(neuron_attributions, networks, config)
    attributions = store.keep(f"attributions-{which}", compute, inputs=networks)
    tables = {"shares": sharing(scores, THRESHOLDS), "agreement": agreement(scores, attributions)}
    if width in RECORDED_WIDTHS:
        tables["scores"] = scores
        tables["attributions"] = attributions[attributions["task"] == task_name(WANTED)]
    return tables
