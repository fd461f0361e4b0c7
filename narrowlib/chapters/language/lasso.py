"""Claims L1, L2: what a group lasso on its neurons does to a language model, and whether it pays."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
from torch import Tensor

from narrowlib.chapters.language.config import RANKED_BY, LLMPruningConfig
from narrowlib.chapters.language.recovery import recovery_curves, unfinished_in
from narrowlib.chapters.language.scoring import Scores, sparsity_curves, unit_scores
from narrowlib.llm.training import train_group_lasso
from narrowlib.llm.units import llama_units
from narrowlib.store.kept import Kept

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FLAT = 0.1  # nats that a flat pruning curve may rise


class Trained(NamedTuple):
    """A language model after a group lasso, and the scores of its neurons.

    ``strength`` is that of the group lasso: 0 for as much training without a penalty, `BEFORE` for none of it.
    """

    strength: float
    model: PreTrainedModel
    scores: Mapping[str, Scores]


def regularised(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    strength: float,
    config: LLMPruningConfig,
    *,
    store: Kept | None = None,
    progress: bool = True,
) -> Trained:
    """A copy of the model, trained on the wanted skill under a group lasso on its neurons, and scored again.

    Parameters
    ----------
    model : PreTrainedModel
        Not changed.
    tokenizer : PreTrainedTokenizerBase
    strength : float
        Lambda of the group lasso, at least 0.
    config : LLMPruningConfig
        ``lasso`` says how the copy is trained.
    store : Kept, optional
        Keeps the trained copy.
    progress : bool

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), section 5 and Fig 5.
    """
    store, copied = store or Kept(None, None), copy.deepcopy(model)

    def train() -> dict[str, Tensor]:
        blocks = config.training_blocks(tokenizer, config.lasso)
        how = {"groups": llama_units(copied, "neurons"), "strength": strength, "progress": progress}
        train_group_lasso(copied, blocks, config.lasso, checkpoint=unfinished_in(store), **how)
        return copied.state_dict()

    copied.load_state_dict(store.keep(f"group lasso {strength:g}", train, inputs=[model, config, strength]))
    asked = {"kinds": ("neurons",), "variants": (RANKED_BY,), "progress": progress}
    return Trained(strength, copied, unit_scores(copied, config.score_blocks(tokenizer), **asked))


def strength_curves(
    models: Sequence[Trained], sparsities: Sequence[float], held_out: Mapping[str, Dataset], *, progress: bool = True
) -> pd.DataFrame:
    """Loss while ever more neurons are removed, of every model.

    Returns
    -------
    DataFrame
        `narrowlib.chapters.language.scoring.sparsity_curves` with a column ``strength``.

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), Fig 5 left.
    """
    parts = []
    for strength, model, scores in models:
        ranked = {RANKED_BY: scores["neurons"][RANKED_BY]}
        curves = sparsity_curves(model, "neurons", ranked, sparsities, held_out, progress=progress)
        parts.append(curves.assign(strength=strength))
    return pd.concat(parts, ignore_index=True)


def strength_recovery(
    models: Sequence[Trained],
    tokenizer: PreTrainedTokenizerBase,
    sparsity: float,
    config: LLMPruningConfig,
    *,
    store: Kept | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Prune the same share of neurons of every model, then train on the wanted skill without a penalty.

    Returns
    -------
    DataFrame
        `narrowlib.chapters.language.recovery.recovery_curves` with a column ``strength``.

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), Fig 5 right.
    """
    asked, where = ((RANKED_BY,), [(sparsity, 0.0)], config), {"store": store, "progress": progress}
    parts = []
    for strength, model, scores in models:
        name = f"recovery after {strength:g}"
        curves = recovery_curves(model, tokenizer, scores, *asked, name=name, **where)
        parts.append(curves.assign(strength=strength))
    return pd.concat(parts, ignore_index=True)


def flat_sparsity(sparsities: Sequence[float], losses: Sequence[float], *, rise: float = FLAT) -> float:
    """Sparsity up to which a pruning curve stays flat: where its loss first lies ``rise`` above that at its start.

    Between two points the curve is a straight line.

    Parameters
    ----------
    sparsities : sequence of float
        Increasing, the first 0.
    losses : sequence of float
        In nats.
    rise : float
        In nats, positive.

    Returns
    -------
    float
        The highest sparsity when the loss never rises so far.
    """
    limit = losses[0] + rise
    for left in range(len(losses) - 1):
        low, high = losses[left : left + 2]
        if not high <= limit:  # a loss that is not a number has risen
            share = (limit - low) / (high - low) if math.isfinite(high) else 0.0
            return sparsities[left] + share * (sparsities[left + 1] - sparsities[left])
    return sparsities[-1]


def flat_sparsities(curves: pd.DataFrame) -> pd.Series:
    """`flat_sparsity` of every model.

    Parameters
    ----------
    curves : DataFrame
        See `strength_curves`, of one skill.

    Returns
    -------
    Series
        By ``strength``, `BEFORE` last.
    """
    by_strength = curves.sort_values("sparsity").groupby("strength", dropna=False)
    flat = {strength: flat_sparsity(rows["sparsity"].tolist(), rows["loss"].tolist()) for strength, rows in by_strength}
    return pd.Series(flat, name="flat up to").rename_axis("strength")


def flatness_measures(curves: pd.DataFrame) -> dict[str, float]:
    """How far pruning curves stay flat after a group lasso, and before.

    Parameters
    ----------
    curves : DataFrame
        See `strength_curves`; of the model as it was, and of at least one with a positive strength.

    Returns
    -------
    dict
        ``flat``: `flat_sparsity` of the model whose curve is flat the longest, among those with a positive strength.
        ``flat_gain``: that less the same of the model as it was.
    """
    flat = flat_sparsities(curves)
    best, before = flat[flat.index > 0].max(), flat[flat.index.isna()].item()
    return {"flat": float(best), "flat_gain": float(best - before)}


def overtaking_measures(recovery: pd.DataFrame) -> dict[str, float]:
    """Whether the base model, pruned and trained on, starts behind the group-lasso models and ends ahead of them.

    Parameters
    ----------
    recovery : DataFrame
        See `strength_recovery`; of the model as it was, and of at least one with a positive strength.

    Returns
    -------
    dict
        ``behind_at_start``: loss of the base model less that of the best group-lasso model right after the cut, in
        nats.  ``ahead_at_end``: loss of the best group-lasso model less that of the base model after the last step.
    """
    held_out = recovery[recovery["split"] == "held out"].sort_values("step")
    by_strength = held_out.groupby("strength", dropna=False)["loss"]
    first, last = by_strength.first(), by_strength.last()
    (base_first, lasso_first), (base_last, lasso_last) = (
        (losses[losses.index.isna()].item(), losses[losses.index > 0].min()) for losses in (first, last)
    )
    return {"behind_at_start": float(base_first - lasso_first), "ahead_at_end": float(lasso_last - base_last)}
