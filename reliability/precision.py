"""Outcomes of small networks in bfloat16 against float32: the same seeds, tasks and samples in either."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from narrowlib.chapters.two_trees.config import OTHER, WANTED, GroupLassoConfig, NonlocalityConfig
from narrowlib.chapters.two_trees.curves import kept_sparsity, pruning_curves
from narrowlib.chapters.two_trees.lasso_training import regularise
from narrowlib.chapters.two_trees.networks import train_networks
from narrowlib.cmsp import task_name
from narrowlib.intervals import mean

WIDTH = 48
SPARSITIES = tuple(percent / 100 for percent in range(0, 100, 5))
CONFIG = NonlocalityConfig(subset_size=2, n_task_bits=12, n_seeds=8, batch_size=200, n_steps=1_500, learning_rate=5e-3,
                           n_samples=1_000, recovery_steps=60, recovery_batch_size=200)  # fmt: skip
LASSO = GroupLassoConfig(strength=3e-3, n_steps=1_000, batch_size=200, learning_rate=5e-3)


def precision() -> list[dict[str, object]]:
    """Per outcome of a network: its mean in either precision, and the paired difference with its interval."""
    both = [dict(outcomes(CONFIG.replace(precision=name))) for name in ("float32", "bfloat16")]
    rows = []
    for what, ours in both[0].items():
        theirs = both[1][what]
        apart = mean(theirs - ours)
        rows.append({"outcome": what, "networks": len(ours), "float32": float(ours.mean()),
                     "bfloat16": float(theirs.mean()), "difference": apart.value, "low": apart.low, "high": apart.high,
                     })  # fmt: skip
    return rows


def outcomes(config: NonlocalityConfig) -> Iterator[tuple[str, pd.Series]]:
    """What the claims of both chapters are about, one value for each network."""
    before = train_networks(config, WIDTH, device="cpu", progress=False)
    after, _ = regularise(before, config, LASSO, progress=False)
    for chapter, stack, stage in (("nonlocality", before, "recovered"), ("group-lasso", after, "pruned")):
        curves = pruning_curves(stack, config, SPARSITIES, progress=False)
        whole = curves.query("sparsity == 0 and stage == 'pruned'").set_index("seed")
        for name, task in (("wanted", WANTED), ("other", OTHER)):
            yield (
                f"{chapter}: accuracy on the {name} composite",
                whole[whole["task"] == task_name(task)]["accuracy"],
            )
        kept = kept_sparsity(curves, stage=stage).fillna({"sparsity": 0.0}).set_index("seed")["sparsity"]
        yield f"{chapter}: deepest cut that keeps the wanted composite, {stage}", kept
        other = curves[(curves["stage"] == "recovered") & (curves["task"] == task_name(OTHER))]
        regained = other[other["sparsity"] > 0].groupby("seed")["accuracy"].mean()
        yield f"{chapter}: accuracy on the other composite after recovery, mean over all cuts", regained
