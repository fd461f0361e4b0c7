"""A sliced language model against the masked one that it equals: tokens per second, and what its FLOPs promise."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.harness import Row, measure_side_by_side, size_of
from benchmarks.language_model import default_model, name_of, random_blocks
from narrowlib.devices import pick_device
from narrowlib.llm.costs import flops_per_token
from narrowlib.llm.export import round_hidden_size, sliced
from narrowlib.llm.losses import one_text_per_block
from narrowlib.llm.units import llama_units, units_named
from narrowlib.pruning import ablated, keep_masks
from narrowlib.scores import random_scores

SPARSITIES = ((0.5, 0.5), (0.8, 0.5))  # of neurons and of residual dimensions, as in the paper
N_TOKENS = {"cpu": (2, 256), "cuda": (16, 1024), "smoke": (2, 16)}  # sequences and their length
DTYPES = {"cpu": torch.float32, "cuda": torch.bfloat16}
REPEATS = 5


def llm_sliced() -> list[Row]:
    """The default model with half of its residual dimensions and half, or a fifth, of its neurons, chosen at random.

    The second row of each says how much of the speed-up that the FLOPs promise is there: ours is the measured speed-up,
    the baseline the promised one.
    """
    device = pick_device("auto")
    model, generator = default_model(device, DTYPES[device.type]).model, torch.Generator().manual_seed(0)
    tokens = random_blocks(model, N_TOKENS[size_of(device)])
    return [row for neurons, residual in SPARSITIES for row in _rows(model, tokens, neurons, residual, generator)]


@torch.no_grad()
def _rows(
    model: torch.nn.Module, tokens: Tensor, neurons: float, residual: float, generator: torch.Generator
) -> list[Row]:
    masks = keep_masks(random_scores(llama_units(model, "neurons"), generator), neurons, scope="per_layer")
    n_kept = round_hidden_size(model, (1 - residual) * model.config.hidden_size)
    stream = random_scores(llama_units(model, "residual"), generator)
    masks |= keep_masks(stream, 1 - n_kept / model.config.hidden_size)
    masks = {name: mask.to(tokens.device) for name, mask in masks.items()}
    narrowed = sliced(model, masks)
    with one_text_per_block(), ablated(model, units_named(model, masks), masks):
        ours, baseline, ratio = measure_side_by_side(
            lambda: narrowed(tokens, use_cache=False), lambda: model(tokens, use_cache=False), repeats=REPEATS
        )
    promised = flops_per_token(model, tokens.shape[1]) / flops_per_token(narrowed, tokens.shape[1])
    name, n_tokens, device = f"llm-sliced-{neurons}-{residual}", tokens.numel(), name_of(model)
    return [
        Row(name, n_tokens / ours, n_tokens / baseline, "tokens/s", ratio, device, REPEATS),
        Row(f"{name}-of-flops", ratio, promised, "times faster", ratio / promised, device, REPEATS),
    ]
