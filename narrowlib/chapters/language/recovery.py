"""Claim L5: pruned language models that are trained on, and how they come back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from narrowlib.chapters.language.config import RANKED_BY, WANTED_SKILL, LLMPruningConfig
from narrowlib.chapters.language.scoring import Scores, check_sparsity
from narrowlib.intervals import Interval, bootstrap, largest, least, mean
from narrowlib.llm.export import round_hidden_size, sliced
from narrowlib.llm.losses import block_losses
from narrowlib.llm.training import recover
from narrowlib.llm.units import n_parameters_of
from narrowlib.pruning import keep_masks
from narrowlib.store.kept import Kept

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def narrowed(
    model: PreTrainedModel,
    scores: Mapping[str, Scores],
    variant: str,
    neuron_sparsity: float,
    residual_sparsity: float = 0.0,
) -> PreTrainedModel:
    """The model without the neurons and residual dimensions that score lowest, cut out.

    Neurons are ranked within their layer, so that all layers stay equally wide; residual dimensions are rounded to what
    a checkpoint can have.

    Raises
    ------
    ValueError
        For a sparsity that is not from 0 to below 1.
    """
    check_sparsity("neuron_sparsity", neuron_sparsity)
    check_sparsity("residual_sparsity", residual_sparsity)
    masks = keep_masks(scores["neurons"][variant], neuron_sparsity, scope="per_layer")
    if residual_sparsity:
        hidden = model.config.hidden_size
        n_kept = round_hidden_size(model, hidden * (1 - residual_sparsity))
        masks |= keep_masks(scores["residual"][variant], 1 - n_kept / hidden)
    return sliced(model, masks)


def recovery_curves(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    scores: Mapping[str, Scores],
    variants: Sequence[str],
    pairs: Sequence[tuple[float, float]],
    config: LLMPruningConfig,
    *,
    store: Kept | None = None,
    name: str = "recovery",
    progress: bool = True,
) -> pd.DataFrame:
    """Prune neurons and residual dimensions, then train on the wanted skill.

    Parameters
    ----------
    model : PreTrainedModel
        Left as it is.
    tokenizer : PreTrainedTokenizerBase
    scores : mapping
        By kind, see `narrowlib.chapters.language.scoring.unit_scores`.
    variants : sequence of str
        Scores to prune by, such as ``("signed", "random")``.
    pairs : sequence of (float, float)
        Sparsities of neurons and of residual dimensions.
    config : LLMPruningConfig
    store : Kept, optional
        Keeps the curve of every trained model.
    name : str
        Under which the store tells them from those of other calls.
    progress : bool

    Returns
    -------
    DataFrame
        One row per variant, pair and record: ``variant``, ``neuron_sparsity``, ``residual_sparsity``,
        ``n_parameters``, ``step``, ``tokens``, ``split`` (train or held out), ``loss`` in nats, ``block_losses`` (a
        list of every held-out block, at the first and the last record).

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), Fig 5 right and Fig 13.
    """
    store = store or Kept(None, None)
    blocks = config.training_blocks(tokenizer, config.recovery)
    held_out = config.held_out(tokenizer)[WANTED_SKILL]
    frames = []
    for neurons, residual in pairs:
        for variant in variants:
            small = narrowed(model, scores, variant, neurons, residual)
            how = {"held_out": held_out, "progress": progress}
            train = partial(_regain, small, blocks, config.recovery, store=store, **how)
            run = f"{name} {variant} {neurons} {residual}"
            curve = store.keep(run, train, inputs=[small, config])
            about = {"variant": variant, "neuron_sparsity": neurons, "residual_sparsity": residual}
            frames.append(curve.assign(**about, n_parameters=n_parameters_of(small)))
    return pd.concat(frames, ignore_index=True)


def _regain(model: PreTrainedModel, *what: Any, held_out: Any, store: Kept, progress: bool) -> pd.DataFrame:
    """`recover`, with the losses of single held-out blocks before and after it."""
    before = block_losses(model, held_out, progress=progress)
    curve = recover(model, *what, held_out=held_out, checkpoint=unfinished_in(store), progress=progress)
    after = block_losses(model, held_out, progress=progress)
    places = curve.index[curve["split"] == "held out"]
    curve["block_losses"] = pd.Series(dtype=object)
    for place, losses in ((places[0], before), (places[-1], after)):
        curve.at[place, "block_losses"] = losses.double().tolist()
    return curve


def unfinished_in(store: Kept) -> Path | None:
    """The folder in which trainings of the result that is being computed leave off; None when nothing is kept."""
    path = store.checkpoint("training").path
    return path and path.parent


def recovery_measures(recovery: pd.DataFrame) -> dict[str, Interval]:
    """How far pruning by attribution is ahead of pruning at random, right after it and at the end of training.

    Parameters
    ----------
    recovery : DataFrame
        See `recovery_curves`, of the variants `RANKED_BY` and ``"random"``.

    Returns
    -------
    dict
        ``ahead_at_once``: loss of random less that of attribution before the first step, in nats, the least over the
        pairs of sparsities.  ``gap_left``: share of that lead that is left at the end, the largest over the pairs.
        Intervals are over held-out blocks, paired; without losses of single blocks there are none.
    """
    leads, gaps = [], []
    for _, rows in recovery.groupby(["neuron_sparsity", "residual_sparsity"]):
        first, last = (ends_of(rows, "variant", end) for end in ("first", "last"))
        lead, left = (each["random"] - each[RANKED_BY] for each in (first, last))
        leads.append(mean(lead))
        gaps.append(bootstrap(lambda both: both[1].mean(-1) / both[0].mean(-1), np.stack([lead, left])))
    return {"ahead_at_once": least(leads), "gap_left": largest(gaps)}


def score_leads(recovery: pd.DataFrame) -> pd.DataFrame:
    """How far every score is ahead of random pruning, right after the cut and after the same recovery.

    Parameters
    ----------
    recovery : DataFrame
        See `recovery_curves`, of ``"random"`` and others.

    Returns
    -------
    DataFrame
        Indexed by ``neurons``, ``residual`` (the sparsities) and ``ranked by``: ``at once``, ``after`` in nats, each
        with ``low`` and ``high`` (bootstrap over held-out blocks, paired).
    """
    rows = {}
    for pair, of_pair in recovery.groupby(["neuron_sparsity", "residual_sparsity"]):
        ends = {"at once": ends_of(of_pair, "variant", "first"), "after": ends_of(of_pair, "variant", "last")}
        for variant in ends["after"]:
            if variant != "random":
                leads = {end: mean(losses["random"] - losses[variant]) for end, losses in ends.items()}
                rows[(*pair, variant)] = {
                    f"{end}{bound}": value
                    for end, lead in leads.items()
                    for bound, value in zip(("", ", low", ", high"), lead, strict=True)
                }
    return pd.DataFrame(rows).T.rename_axis(["neurons", "residual", "ranked by"])


def leads_said(leads: pd.DataFrame) -> list[str]:
    """In sentences, at how many cuts every score keeps a lead over random pruning after recovery.

    A lead counts when its whole interval is above zero; without losses of single blocks there is none.
    """
    told = []
    for variant, rows in leads.groupby("ranked by"):
        if rows["after, low"].isna().all():
            told.append(f"{variant}: no losses of individual blocks, so no intervals that tell a lead from chance.")
            continue
        first, left = ((rows[f"{end}, low"] > 0).sum() for end in ("at once", "after"))
        most = rows["after"].max()
        largest = f"; the largest lead is then {most:.2f} nats per token" if left else ""
        told.append(
            f"{variant}: ahead of random pruning at {first} of {len(rows)} cuts right after pruning, and at {left} "
            f"after recovery{largest}."
        )
    return told


def ends_of(recovery: pd.DataFrame, by: str, end: str) -> dict[Any, np.ndarray]:
    """Held-out losses of every model before training (``end="first"``) or after it (``"last"``), of each block.

    Where they were not kept, the mean over the blocks stands for them.
    """
    held_out = recovery[recovery["split"] == "held out"].sort_values("step")
    place = 0 if end == "first" else -1
    return {key: block_values(rows.iloc[place]) for key, rows in held_out.groupby(by, dropna=False)}


def block_values(row: pd.Series) -> np.ndarray:
    """Losses of single blocks of a row, or else its mean loss alone."""
    values = row.get("block_losses")
    return np.array([row["loss"]] if values is None or np.ndim(values) == 0 else values, float)


@torch.no_grad()
def completions(
    models: Mapping[str, PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    n_tokens: int = 24,
) -> pd.DataFrame:
    """How each model goes on from the same prompts, always with the likeliest next token.

    Returns
    -------
    DataFrame
        One row per prompt, one column per model.
    """
    rows = []
    for prompt in prompts:
        row = {"prompt": prompt}
        for name, model in models.items():
            ids = tokenizer(prompt, return_tensors="pt").input_ids.to(model.device)
            options = {"max_new_tokens": n_tokens, "do_sample": False, "pad_token_id": tokenizer.eos_token_id}
            written = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
            row[name] = tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
        rows.append(row)
    return pd.DataFrame(rows)
