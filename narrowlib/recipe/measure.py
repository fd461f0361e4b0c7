"""Size and speed of a language model, and its loss on what is kept and what may be lost."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from narrowlib.llm.losses import loss_per_skill
from narrowlib.llm.units import n_parameters_of

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

N_READ, N_WRITTEN = 128, 16  # tokens
_REPEATS = 3


def losses_of(
    model: PreTrainedModel, held_out: Mapping[str, Dataset], *, progress: bool = True
) -> list[dict[str, Any]]:
    """Loss on the held-out blocks of every text, as rows: see `narrowlib.llm.losses.loss_per_skill`."""
    table = loss_per_skill(model, held_out, batch_size=4, progress=progress)
    rows = table.rename(columns={"skill": "text"}).to_dict("records")
    return [{name: None if value != value else value for name, value in row.items()} for row in rows]  # json has no NaN


def shape_of(model: PreTrainedModel) -> dict[str, int]:
    """Parameters, bytes of the weights, and how wide and deep a model is."""
    config, n_parameters = model.config, n_parameters_of(model)
    return {
        "parameters": n_parameters,
        "bytes": n_parameters * model.dtype.itemsize,
        "layers": config.num_hidden_layers,
        "neurons per layer": config.intermediate_size,
        "residual dimensions": config.hidden_size,
        "query heads per layer": config.num_attention_heads,
        "key-value heads per layer": config.num_key_value_heads,
    }


@torch.no_grad()
def speed_of(model: PreTrainedModel) -> dict[str, float]:
    """Tokens per second that a model reads, `N_READ` at once, and writes one by one, `N_WRITTEN` of them.

    Each is the median of three runs after one that is not counted.
    """
    longest = min(N_READ, model.config.max_position_embeddings - N_WRITTEN)
    ids = torch.arange(longest, device=model.device)[None] % model.config.vocab_size
    prompt = ids[:, : min(16, longest)]
    options = {"max_new_tokens": N_WRITTEN, "min_new_tokens": N_WRITTEN, "do_sample": False, "pad_token_id": 0}
    options["attention_mask"] = torch.ones_like(prompt)
    return {
        "read": longest / _median_seconds(lambda: model(input_ids=ids, use_cache=False), model.device),
        "write": N_WRITTEN / _median_seconds(lambda: model.generate(prompt, **options), model.device),
    }


def _median_seconds(call: Callable[[], Any], device: torch.device) -> float:
    seconds = []
    for _ in range(_REPEATS + 1):
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])
