"""Estimate of a narrowing: sizes, tokens, memory, and time from the measured speed of this machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd
import torch

from narrowlib.devices import is_bfloat16
from narrowlib.llm.export import sliced, width_divisor
from narrowlib.llm.gguf_files import BLOCK, filled_widths
from narrowlib.llm.losses import next_token_loss
from narrowlib.llm.models import check_model
from narrowlib.llm.units import n_parameters_of
from narrowlib.recipe import cut
from narrowlib.recipe.intake import Mixture, Texts, blocks_needed, check_sources, counts_of, texts_of
from narrowlib.recipe.measured import losses_of, median_seconds
from narrowlib.recipe.settings import N_RECORDS, TRAINED_AT_ONCE, RecipeConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BYTES_TRAINED = 16  # per parameter: weight, gradient and two moments of AdamW, in float32
_BYTES_HELD = 4
_BYTES_ON_DISK = 36  # per trained parameter: two checkpoints of three floats each while one is written, three models
_SHOWN = 5  # names of what was left out, of each reason
_LOGITS = 3  # copies of the logits that a training step holds, in float32


def estimate(config: RecipeConfig) -> pd.DataFrame:
    """What to expect of `narrowlib.recipe.narrowing.run` with these settings; nothing is written but token blocks.

    Rates are of one training step's forward and backward pass over a block, and of one forward pass, each timed once
    after a warm-up on the model as it is and on one cut to the end of the way.  The loss on one held-out block of every
    text must be finite.

    Returns
    -------
    DataFrame
        One column, ``expected``: parameters before and after, documents' tokens for training and how often they are
        seen, how many of them count where there are chats, memory and disk in GB, seconds of every step and of all.

    Raises
    ------
    ValueError
        As `narrowlib.recipe.narrowing.run`.
    """
    check_sources(config)
    check_model(config.model, block_length=config.block_length)
    texts = texts_of(config)
    language_model, shares = cut.load_model(config)
    whole = language_model.model
    counts = cut.counts_by_round(whole, shares, config.rounds, config.multiple_of)[-1]
    masks = cut.first_masks(whole, counts)
    small = sliced(whole, masks)
    n_trained = config.n_trained
    blocks = blocks_needed(texts, config, language_model.tokenizer, progress=False)
    n_there = {place: len(each) * config.block_length for place, each in blocks.items()}
    first = {name: each.select([0]) for (name, split), each in blocks.items() if split == "held-out"}
    losses_of(whole, first, "before")
    counted = {place: found for place, each in blocks.items() if (found := counts_of(each))}
    n_read = sum(n for (_, split), n in n_there.items() if split == "held-out")
    seconds = _seconds(config, whole, small, n_select=n_there["keep", "select"], n_read=n_read)
    rows = {
        **{row: value for name, text in texts.items() for row, value in _taken(name, text).items()},
        "parameters before": n_parameters_of(whole),
        "parameters after": n_parameters_of(small),
        "parameters after, without rounding of widths": cut.n_parameters_at(whole, shares, multiple_of=1),
        **_widths(whole, counts, shares),
        **({"GGUF": _of_gguf(small, config.gguf)} if config.gguf else {}),
        "training tokens": n_trained,
        "distinct training tokens": min(n_trained, n_there["keep", "train"]),
        "held-out tokens for losses": n_read,
        **{
            f"tokens that count, {name}, {split}": f"{n_counted} of {n}; in chats, only the answers"
            for (name, split), (n_counted, n) in counted.items()
        },
        "memory, GB": round(_memory(config, whole, small) / 1e9, 1),
        "temporary disk space, GB": round(disk_needed(config, n_parameters_of(whole), n_parameters_of(small)) / 1e9, 1),
        **{f"seconds, {name}": round(value) for name, value in seconds.items()},
        "seconds, total": round(sum(seconds.values())),
    }
    return pd.DataFrame({"expected": pd.Series(rows, dtype=object)})


def _taken(name: str, text: Texts | Mixture) -> dict[str, str]:
    """How many documents were taken, and what was left out and why."""
    rows = {}
    if text.n_documents:
        rows[f"documents, {name}"] = f"{sum(text.n_documents.values())}, {_splits(text.n_documents)}"
    for reason, names in text.left_out.items():
        shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        rows[f"left out of {name}, {reason}"] = f"{len(names)}: {shown}"
    return rows


def _splits(n_documents: Mapping[str, int]) -> str:
    return f"{n_documents['select']} for selection, {n_documents['held-out']} held out"


def _widths(whole: PreTrainedModel, counts: Mapping[str, int], shares: Mapping[str, float]) -> dict[str, str]:
    """What is kept of every kind that is cut, and the sparsity that it is, beside what was asked for."""
    config = whole.config
    sizes = {"neurons": config.intermediate_size, "heads": config.num_key_value_heads, "residual": config.hidden_size}
    n_heads = counts["heads"] * (config.num_attention_heads // config.num_key_value_heads)
    demanded = f"; a multiple of {n_heads} heads, as transformers requires"
    why = {"residual": demanded} if width_divisor(whole, n_heads) > 1 else {}
    named = {"neurons": "neurons per layer", "heads": "key-value heads per layer", "residual": "residual dimensions"}
    return {
        named[kind]: f"{counts[kind]} of {size}, {1 - counts[kind] / size:.1%} cut, {shares.get(kind, 0):.1%} requested"
        + why.get(kind, "")
        for kind, size in sizes.items()
        if counts[kind] < size or shares.get(kind)
    }


def _of_gguf(small: PreTrainedModel, weights: str) -> str:
    """Which widths are filled up in a GGUF file."""
    filled = filled_widths(small, weights)
    widths = [
        f"{size} {kind} to {width} (rows of Q8_0 are blocks of {BLOCK})" for kind, (size, width) in filled.items()
    ]
    return f"{weights}, {'padded with zeros: ' + ', '.join(widths) if widths else 'widths unchanged'}"


def disk_needed(config: RecipeConfig, n_whole: int, n_small: int) -> int:
    """Bytes on disk that the steps need at most, for a model with so many parameters before and after."""
    return _BYTES_ON_DISK * (n_whole if config.trains_whole else n_small)


def _memory(config: RecipeConfig, whole: PreTrainedModel, small: PreTrainedModel) -> float:
    trained = _BYTES_TRAINED * n_parameters_of(whole if config.trains_whole else small)
    n_logits = math.gcd(config.batch_size, TRAINED_AT_ONCE) * config.block_length * whole.config.vocab_size
    return trained + (_BYTES_HELD * n_parameters_of(whole) + _LOGITS * 4 * n_logits) * (1 + (config.distillation > 0))


def _seconds(
    config: RecipeConfig, whole: PreTrainedModel, small: PreTrainedModel, *, n_select: int, n_read: int
) -> dict[str, float]:
    """Of every kind of step."""
    rates = {"whole": _rates(whole, config), "small": _rates(small, config)}

    def training(which: str, n_tokens: int) -> float:
        n_steps = config.training(n_tokens).n_steps
        each = rates[which]
        steps = n_steps * (config.batch_size * config.block_length * each["train"] + each["step"])
        return steps + (N_RECORDS + 1) * n_select * each["read"]

    seconds = {"losses before and after": n_read * (rates["whole"]["read"] + rates["small"]["read"])}
    for name, n_tokens in (("fine-tuning", config.finetune_tokens), ("group lasso", config.lasso_tokens)):
        if n_tokens:
            seconds[name] = training("whole", n_tokens)
    n_scored = config.score_tokens * config.rounds * (2 if config.lose_weight else 1)
    seconds["scores"] = n_scored * rates["whole"]["train"]
    if config.refit != "off":
        seconds["refit"] = config.rounds * 3 * config.score_tokens * rates["whole"]["read"]  # passes of both models
    if config.recovery_tokens:
        per_round = config.recovery_tokens // config.rounds
        seconds["recovery"] = config.rounds * training("small", per_round)
        if config.distillation:
            seconds["recovery"] += config.recovery_tokens * rates["whole"]["read"]
    return seconds


def _rates(model: PreTrainedModel, config: RecipeConfig) -> dict[str, float]:
    """Seconds per token of training and of reading, and per optimiser step."""
    ids = torch.arange(config.block_length, device=model.device)[None] % model.config.vocab_size
    is_low = is_bfloat16(config.precision, model.device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)

    def read() -> None:
        with torch.no_grad():
            model.base_model(input_ids=ids, use_cache=False)

    def train() -> None:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=is_low):
            logits = model(input_ids=ids, use_cache=False).logits
        next_token_loss(logits, ids, reduction="sum").backward()

    seconds = {"read": read, "train": train, "step": optimiser.step}
    seconds = {name: median_seconds(call, model.device, repeats=1) for name, call in seconds.items()}
    model.zero_grad()
    return {name: each / (1 if name == "step" else config.block_length) for name, each in seconds.items()}
