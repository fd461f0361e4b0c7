"""What is measured on a model of ``narrow``: losses on held-out documents, size, speed, and samples."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from narrowlib.llm.losses import loss_per_skill
from narrowlib.llm.models import LanguageModel
from narrowlib.llm.units import n_parameters_of

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

N_READ, N_WRITTEN = 128, 16  # tokens by which speed is measured
N_TURNS = 5
N_PROMPT, N_CONTINUED = 32, 32  # tokens of a sample


def losses_of(
    model: PreTrainedModel, held_out: Mapping[str, Dataset], when: str, *, progress: bool = False
) -> list[dict[str, Any]]:
    """Loss on the held-out blocks of every text, as rows: see `narrowlib.llm.losses.loss_per_skill`.

    Raises
    ------
    ValueError
        Where a loss is NaN or infinite.
    """
    table = loss_per_skill(model, held_out, batch_size=4, progress=progress).rename(columns={"skill": "text"})
    for text, loss in zip(table["text"], table["loss"], strict=True):
        check_finite(loss, f"held-out documents of {text}, {when}")
    rows = table.to_dict("records")
    return [{name: value if _is_told(value) else None for name, value in row.items()} for row in rows]


def _is_told(value: Any) -> bool:
    """Whether json has the value: not of a standard error over one block, nor of a perplexity beyond all numbers."""
    return not isinstance(value, float) or math.isfinite(value)


def check_finite(loss: float, documents: str) -> float:
    """A loss, or a ValueError where it is NaN or infinite, with which no other could be compared."""
    if not math.isfinite(loss):
        raise ValueError(
            f"the loss on {documents}, is {loss}; it must be finite: leave out documents that the model cannot read, "
            "or use another model, a smaller cut, no refit, or a dtype with a larger range"
        )
    return loss


def shape_of(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, int]:
    """Parameters, bytes of the weights when written in a dtype, and width and depth of a model."""
    config, n_parameters = model.config, n_parameters_of(model)
    return {
        "parameters": n_parameters,
        "bytes": n_parameters * dtype.itemsize,
        "layers": config.num_hidden_layers,
        "neurons per layer": config.intermediate_size,
        "residual dimensions": config.hidden_size,
        "query heads per layer": config.num_attention_heads,
        "key-value heads per layer": config.num_key_value_heads,
    }


@torch.no_grad()
def samples_of(
    models: Mapping[str, LanguageModel], held_out: Mapping[str, Dataset], n_samples: int
) -> list[dict[str, str]]:
    """Greedy continuations of held-out text by models: `N_CONTINUED` tokens after `N_PROMPT`.

    Returns
    -------
    list of dict
        A row for each text and number: ``text``, ``prompt``, and by model what it wrote.
    """
    rows = []
    for text, blocks in held_out.items():
        for ids in blocks[:n_samples]["input_ids"] if n_samples else []:
            row = {"text": text}
            for name, language_model in models.items():
                model, tokenizer = language_model.model, language_model.tokenizer
                prompt = torch.as_tensor(ids[:N_PROMPT], device=model.device)[None]
                written = _written(model, prompt, max_new_tokens=N_CONTINUED)[0]
                row["prompt"] = tokenizer.decode(prompt[0])
                row[name] = tokenizer.decode(written[prompt.shape[1] :])
            rows.append(row)
    return rows


@torch.no_grad()
def speeds_of(models: Mapping[str, PreTrainedModel]) -> dict[str, dict[str, dict[str, Any]]]:
    """Tokens per second that models read, `N_READ` at once, and write one by one, `N_WRITTEN` of them.

    The models take turns, after one that does not count, so that what else the machine does slows all alike.

    Returns
    -------
    dict
        ``speed``: medians, by model and by ``read`` and ``write``; ``speed range``: the slowest and the fastest.
    """
    seconds: dict[tuple[str, str], list[float]] = {}
    n_tokens = {"read": N_READ, "write": N_WRITTEN}
    for _ in range(N_TURNS + 1):
        for name, model in models.items():
            longest = n_tokens["read"] = min(N_READ, model.config.max_position_embeddings - N_WRITTEN)
            ids = torch.arange(longest, device=model.device)[None] % model.config.vocab_size
            prompt = ids[:, : min(16, longest)]
            write = partial(_written, model, prompt, max_new_tokens=N_WRITTEN, min_new_tokens=N_WRITTEN)
            read = partial(model, input_ids=ids, use_cache=False)
            for what, call in (("read", read), ("write", write)):
                seconds.setdefault((name, what), []).append(_timed(call, model.device))
    speeds = {key: sorted(n_tokens[key[1]] / each for each in taken[1:]) for key, taken in seconds.items()}
    of = {name: {what: speeds[name, what] for what in n_tokens} for name in models}
    return {
        "speed": {name: {what: statistics.median(each) for what, each in rates.items()} for name, rates in of.items()},
        "speed range": {
            name: {what: [each[0], each[-1]] for what, each in rates.items()} for name, rates in of.items()
        },
    }


def _written(model: PreTrainedModel, prompt: torch.Tensor, **options: int) -> torch.Tensor:
    """A prompt and how a model goes on, the likeliest token each time, whatever its generation config says."""
    from transformers import GenerationConfig

    own = model.generation_config
    plain = GenerationConfig(do_sample=False, eos_token_id=own.eos_token_id, pad_token_id=0, **options)
    try:
        model.generation_config = plain  # what this leaves open would else be taken from its own
        return model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=plain)
    finally:
        model.generation_config = own


def median_seconds(call: Callable[[], Any], device: torch.device, *, repeats: int = 3) -> float:
    """Median time of several calls, after one uncounted warm-up call."""
    return statistics.median([_timed(call, device) for _ in range(repeats + 1)][1:])


def _timed(call: Callable[[], Any], device: torch.device) -> float:
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
