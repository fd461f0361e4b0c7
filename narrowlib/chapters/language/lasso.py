"""Claims L1, L2: effect of a group lasso on the neurons of a language model, and whether it pays."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from narrowlib.chapters.language.config import RANKED_BY, LLMPruningConfig
from narrowlib.chapters.language.recovery import block_values, ends_of, recovery_curves, unfinished_in
from narrowlib.chapters.language.scoring import Scores, sparsity_curves, unit_scores
from narrowlib.intervals import Interval, bootstrap, least, mean
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

    copied.load_state_dict(store.keep(f"group lasso {strength}", train, inputs=[model, config, strength]))
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
        name = f"recovery after {strength}"
        curves = recovery_curves(model, tokenizer, scores, *asked, name=name, **where)
        parts.append(curves.assign(strength=strength))
    return pd.concat(parts, ignore_index=True)


def strength_tables(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    strengths: Sequence[float],
    sparsities: Sequence[float],
    sparsity: float,
    config: LLMPruningConfig,
    *,
    store: Kept | None = None,
    progress: bool = True,
) -> dict[str, pd.DataFrame]:
    """`strength_curves` and `strength_recovery` of a model and of copies of it trained under a group lasso.

    What is measured at one strength is kept by itself, whichever others are asked for: nothing of it is trained again,
    not even where the trained copy is gone.

    Parameters
    ----------
    model, tokenizer, config, progress
        See `regularised`.
    strengths : sequence of float
        `BEFORE` stands for the model as it is.
    sparsities, sparsity
        Of the curves, and of the cut before recovery.
    store : Kept, optional
        Its settings name the model and both sparsities.

    Returns
    -------
    dict of str to DataFrame
        ``lasso``: the curves.  ``lasso-recovery``: the recovery.
    """
    store = store or Kept(None, None)
    where, blocks = {"store": store, "progress": progress}, config.held_out(tokenizer)

    def measured(strength: float) -> dict[str, pd.DataFrame]:
        if math.isnan(strength):
            asked = {"kinds": ("neurons",), "variants": (RANKED_BY,), "progress": progress}
            trained = Trained(strength, model, unit_scores(model, config.score_blocks(tokenizer), **asked))
        else:
            trained = regularised(model, tokenizer, strength, config, **where)
        curves = strength_curves([trained], sparsities, blocks, progress=progress)
        recovery = strength_recovery([trained], tokenizer, sparsity, config, **where)
        return {"lasso": curves, "lasso-recovery": recovery}

    found = [store.keep(f"strength {each}", partial(measured, each), inputs=[model, config]) for each in strengths]
    return {name: pd.concat([each[name] for each in found], ignore_index=True) for name in found[0]}


def flat_sparsity(sparsities: Sequence[float], losses: Sequence[float]) -> float:
    """Sparsity up to which a pruning curve stays flat: where its loss first lies `FLAT` above that at its start.

    Between two points the curve is a straight line.

    Parameters
    ----------
    sparsities : sequence of float
        Increasing, the first 0.
    losses : sequence of float
        In nats.

    Returns
    -------
    float
        The highest sparsity when the loss never rises so far.
    """
    limit = losses[0] + FLAT
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


def flatness_measures(curves: pd.DataFrame) -> dict[str, Interval]:
    """How far pruning curves stay flat after a group lasso, and before: claim L1.

    The strength is chosen on every second block and measured on the others, so that the best of several is not best by
    luck.

    Parameters
    ----------
    curves : DataFrame
        See `strength_curves`; of the model as it was, and of at least one with a positive strength.

    Returns
    -------
    dict
        With intervals over blocks, ``flat``: `flat_sparsity` of the model whose curve is flat the longest, among those
        with a positive strength.  ``flat_gain``: that less the same of the model as it was, on the same blocks.
        ``beyond_control``: that less the same of the model trained as long with strength 0; NaN without one.
    """
    by_strength = dict(list(curves.sort_values("sparsity").groupby("strength", dropna=False)))
    sparsities = np.array(sorted(curves["sparsity"].unique()))
    losses = {key: np.stack([block_values(row) for _, row in rows.iterrows()]) for key, rows in by_strength.items()}
    before = next(each for key, each in losses.items() if math.isnan(key))
    regularised = [each for key, each in losses.items() if key > 0]

    def flat(drawn: np.ndarray) -> np.ndarray:  # (sparsity, ..., block) -> (...)
        means = drawn.mean(-1)
        each = [flat_sparsity(sparsities.tolist(), column) for column in means.reshape(len(means), -1).T.tolist()]
        return np.array(each).reshape(means.shape[1:])

    best = halves(max(regularised, key=lambda each: flat(halves(each)[0])))[1]

    def gain(over: np.ndarray) -> Interval:
        both = np.concatenate([best, halves(over)[1]])
        return bootstrap(lambda drawn: flat(drawn[: len(best)]) - flat(drawn[len(best) :]), both)

    control = gain(losses[0.0]) if 0.0 in losses else Interval(math.nan)
    return {"flat": bootstrap(flat, best), "flat_gain": gain(before), "beyond_control": control}


def flatness_said(curves: pd.DataFrame) -> str:
    """In a sentence, how far the curves of `strength_curves` stay flat: the best strength, the control, the base."""
    flat = flat_sparsities(curves)
    best = flat[flat.index > 0].idxmax()
    told = [f"A penalty of strength {best:g} keeps the curve flat up to a share of {flat[best]:.2f}"]
    if 0.0 in flat.index:
        told.append(f"training without a penalty up to {flat[0.0]:.2f}")
    return ", ".join([*told, f"the base model up to {flat[flat.index.isna()].iloc[0]:.2f}."])


def halves(losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every second block and the others, along the last axis; the same block twice where there is one."""
    return (losses[..., ::2], losses[..., 1::2]) if losses.shape[-1] > 1 else (losses, losses)


def overtaking_measures(recovery: pd.DataFrame) -> dict[str, Interval]:
    """Whether the base model, pruned and trained on, starts behind the group-lasso models and ends ahead: claim L2.

    Parameters
    ----------
    recovery : DataFrame
        See `strength_recovery`; of the model as it was, and of at least one with a positive strength.

    Returns
    -------
    dict
        With intervals over paired blocks, ``behind_at_start``: loss of the base model less that of the best group-lasso
        model right after the cut, in nats; which is best is read on every second block, the difference on the others.
        ``ahead_at_end``: loss of a group-lasso model less that of the base model after the last step, the least over
        the strengths.
    """
    first, last = (ends_of(recovery, "strength", end) for end in ("first", "last"))
    base_first, base_last = (next(v for key, v in each.items() if math.isnan(key)) for each in (first, last))
    best = min((each for key, each in first.items() if key > 0), key=lambda each: halves(each)[0].mean())
    ahead = [mean(each - base_last) for key, each in last.items() if key > 0]
    return {"behind_at_start": mean(halves(base_first - best)[1]), "ahead_at_end": least(ahead)}


def crossing_step(recovery: pd.DataFrame) -> float:
    """The first step from which on the held-out loss of the base model lies below that of every group-lasso model.

    Parameters
    ----------
    recovery : DataFrame
        See `strength_recovery`.

    Returns
    -------
    float
        NaN where it never does.
    """
    held_out = recovery[recovery["split"] == "held out"]
    table = held_out.pivot(index="step", columns="strength", values="loss").sort_index()
    base, others = table.loc[:, table.columns.isna()].iloc[:, 0], table.loc[:, table.columns > 0]
    is_below = (base < others.min(axis=1))[::-1].cummin()[::-1]
    return float(is_below.index[is_below].min()) if is_below.any() else math.nan


def overtaking_said(recovery: pd.DataFrame) -> str:
    """In a sentence, when the pruned base model overtakes every group-lasso model, or how far behind it ends."""
    step, last = crossing_step(recovery), recovery["step"].max()
    if not math.isnan(step):
        return f"From step {step:.0f} of {last} on, the base model lies below every group-lasso model."
    ends = {key: values.mean() for key, values in ends_of(recovery, "strength", "last").items()}
    behind = next(v for key, v in ends.items() if math.isnan(key)) - min(v for key, v in ends.items() if key > 0)
    return f"After {last} steps, the base model is still {behind:.2f} nats behind the best group-lasso model."
