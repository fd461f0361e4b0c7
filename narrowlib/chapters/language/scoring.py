"""Claim L4: how much loss pruning adds to a language model, by the score that ranks the units."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from narrowlib.chapters.language.config import KINDS
from narrowlib.intervals import Interval, bootstrap, correlation
from narrowlib.llm.ablation import ablation_losses
from narrowlib.llm.losses import block_losses
from narrowlib.llm.scores import VARIANTS, score_units
from narrowlib.llm.units import llama_units, n_parameters_of
from narrowlib.pruning import ablated, keep_masks
from narrowlib.scores import ablation_scores, agreement
from narrowlib.units import UnitGroup

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

SAMPLE_SEED = 0  # of the units that are ablated

# Blocks go through the model one by one here, where "absolute per batch" would be "absolute per sequence".
LEFT_OUT = ("absolute per batch", "absolute per sequence", "signed activation", "absolute activation per batch")
COMPARED = tuple(variant for variant in VARIANTS if variant not in LEFT_OUT)  # each differs much from its neighbours

Scores = Mapping[str, Mapping[str, Tensor]]  # by variant, then by group


class Batches:
    """Blocks in order as tensors of token ids, (batch_size, block_length); can be iterated several times."""

    def __init__(self, blocks: Dataset, batch_size: int = 1) -> None:
        self.blocks, self.batch_size = blocks, batch_size

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, len(self.blocks), self.batch_size):
            yield torch.tensor(self.blocks[start : start + self.batch_size]["input_ids"])


def unit_scores(
    model: PreTrainedModel,
    blocks: Dataset,
    *,
    kinds: Sequence[str] = KINDS,
    variants: Sequence[str] = COMPARED,
    batch_size: int = 1,
    progress: bool = True,
) -> dict[str, Scores]:
    """Scores of all units of these kinds, by kind, variant and group, in one pass over the blocks."""
    groups = {kind: llama_units(model, kind) for kind in kinds}
    together = [group for each in groups.values() for group in each]
    scores = score_units(model, together, Batches(blocks, batch_size), variants=variants, progress=progress)
    return {
        kind: {variant: {group.name: scores[variant][group.name] for group in each} for variant in variants}
        for kind, each in groups.items()
    }


def sparsity_curves(
    model: PreTrainedModel,
    kind: str,
    scores: Scores,
    sparsities: Sequence[float],
    held_out: Mapping[str, Dataset],
    *,
    batch_size: int = 4,
    progress: bool = True,
) -> pd.DataFrame:
    """Loss on held-out blocks of every skill while ever more units of one kind are removed, by each variant of score.

    Units of all layers are ranked together.

    Returns
    -------
    DataFrame
        One row per variant, sparsity and skill: ``kind``, ``variant``, ``sparsity``, ``n_parameters`` (kept),
        ``skill``, ``loss`` and ``standard_error`` in nats per token, ``block_losses`` (a list, of every block).

    Raises
    ------
    ValueError
        For a sparsity that is not from 0 to below 1.

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), Fig 5 left.
    """
    for sparsity in sparsities:
        check_sparsity("sparsities", sparsity)
    groups = llama_units(model, kind)
    asked = {"batch_size": batch_size, "progress": progress}
    whole = skill_losses(model, held_out, **asked)
    frames = []
    for variant, by_group in scores.items():
        for sparsity in sparsities:
            losses, n_parameters = whole, n_parameters_of(model)
            if sparsity:
                masks = keep_masks(by_group, sparsity)
                n_parameters -= _n_removed(groups, masks, dict(model.named_parameters()))
                with ablated(model, groups, masks):
                    losses = skill_losses(model, held_out, **asked)
            about = {"kind": kind, "variant": variant, "sparsity": sparsity, "n_parameters": n_parameters}
            frames.append(losses.assign(**about))
    return pd.concat(frames, ignore_index=True)


def skill_losses(model: PreTrainedModel, held_out: Mapping[str, Dataset], **how: Any) -> pd.DataFrame:
    """Loss on blocks of each skill: ``skill``, ``loss``, ``standard_error``, ``block_losses``."""
    rows = []
    for skill, blocks in held_out.items():
        losses = block_losses(model, blocks, description=skill, **how).double()
        error = losses.std().item() / len(losses) ** 0.5 if len(losses) > 1 else math.nan
        found = {"loss": losses.mean().item(), "standard_error": error, "block_losses": losses.tolist()}
        rows.append({"skill": skill, **found})
    return pd.DataFrame(rows)


def check_sparsity(name: str, sparsity: float) -> None:
    """Raise ValueError when a share of units to remove is not from 0 to below 1."""
    if isinstance(sparsity, bool) or not isinstance(sparsity, (int, float)) or not 0 <= sparsity < 1:
        raise ValueError(f"{name} is or holds {sparsity!r}; it must be from 0 to below 1")


def _n_removed(groups: Sequence[UnitGroup], masks: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> int:
    """Parameters of removed units of one kind, each counted once; a layer may lose all of them."""
    removed = 0
    for group in groups:
        share = 1 - masks[group.name].float().mean().item()
        removed += sum(parameters[each.parameter].numel() for each in group.slices) * share
    return round(removed)


def ablation_table(
    model: PreTrainedModel, kind: str, scores: Scores, blocks: Dataset, *, n_ablated: int = 500, progress: bool = True
) -> pd.DataFrame:
    """Ablation scores of sampled units beside every variant of the score.

    Parameters
    ----------
    model : PreTrainedModel
    kind : {"neurons", "residual"}
    scores : mapping
        See `unit_scores`.
    blocks : Dataset
        What units are ablated on.
    n_ablated : int
        Units that are sampled, uniformly over all layers; all when there are fewer.
    progress : bool

    Returns
    -------
    DataFrame
        One row per unit: ``kind``, ``group``, ``unit``, ``ablation`` (change of the loss in nats, its size), and a
        column for every variant.

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), Fig 11.
    """
    groups = llama_units(model, kind)
    places = [(group.name, unit) for group in groups for unit in range(group.n_units)]
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(SAMPLE_SEED)).tolist()
    sampled: dict[str, list[int]] = {}
    for number in sorted(order[:n_ablated]):
        sampled.setdefault(places[number][0], []).append(places[number][1])
    units = {name: torch.tensor(numbers) for name, numbers in sampled.items()}
    chosen = [group for group in groups if group.name in units]
    loss, without = ablation_losses(model, chosen, Batches(blocks), units, progress=progress)
    frames = []
    for name, values in ablation_scores(loss, without).items():
        frame = pd.DataFrame(
            {"kind": kind, "group": name, "unit": units[name].numpy(), "ablation": values.cpu().numpy()}
        )
        for variant, by_group in scores.items():
            frame[variant] = by_group[name].cpu()[units[name]].numpy()
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def agreements(table: pd.DataFrame) -> pd.DataFrame:
    """How well each variant of the score approximates ablation, by kind of unit.

    Parameters
    ----------
    table : DataFrame
        See `ablation_table`.

    Returns
    -------
    DataFrame
        One row per kind and variant: ``pearson``, ``pearson_log`` (of logarithms), ``spearman``, ``n_units``.
    """
    rows = []
    for kind, units in table.groupby("kind", sort=False):
        for variant in units.columns.intersection(VARIANTS, sort=False):
            columns = (torch.tensor(units[name].to_numpy()) for name in (variant, "ablation"))
            rows.append({"kind": kind, "variant": variant, **agreement(*columns)._asdict(), "n_units": len(units)})
    return pd.DataFrame(rows)


def proxy_measures(table: pd.DataFrame, *, variant: str = "signed") -> dict[str, Interval]:
    """How well one variant of the score approximates ablation, and how much better for neurons: claim L4.

    Parameters
    ----------
    table : DataFrame
        See `ablation_table`, of both kinds.
    variant : str

    Returns
    -------
    dict
        With intervals over units, ``neurons`` and ``neurons_log``: Pearson's r with ablation, raw and between
        logarithms (of the units in which both are positive).  ``exceed_log``: the second less the same of
        residual dimensions.
    """
    pairs = {kind: units[[variant, "ablation"]].to_numpy(float).T for kind, units in table.groupby("kind")}
    logs = {kind: np.log(pair[:, (pair > 0).all(0)]) for kind, pair in pairs.items()}
    neurons, residual = KINDS
    return {
        "neurons": bootstrap(correlation, pairs[neurons]),
        "neurons_log": bootstrap(correlation, logs[neurons]),
        "exceed_log": bootstrap(
            lambda one, other: correlation(one) - correlation(other), logs[neurons], logs[residual]
        ),
    }
