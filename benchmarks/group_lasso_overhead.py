"""What the group lasso adds to a training step of a language model."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.harness import Row, measure_side_by_side, size_of
from benchmarks.language_model import default_model, name_of, random_blocks
from narrowlib.devices import pick_device
from narrowlib.llm.losses import one_text_per_block
from narrowlib.llm.units import llama_units
from narrowlib.penalties import group_lasso_gradients_

# Sequences and their length, of one step; the paper's have 108 sequences, with the same penalty.
N_TOKENS = {"cpu": (4, 256), "cuda": (16, 1024), "smoke": (2, 16)}
STRENGTH = 3e-4
REPEATS = 5


def group_lasso_overhead() -> list[Row]:
    """Seconds of a step of AdamW with the penalty on all neurons, and without.

    The ratio is the step without over the step with: at least 0.91 for at most 10 percent more.
    """
    device = pick_device("auto")
    model = default_model(device).model.train()
    ids = random_blocks(model, N_TOKENS[size_of(device)])
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    penalty = partial(group_lasso_gradients_, llama_units(model, "neurons"), dict(model.named_parameters()), STRENGTH)
    with one_text_per_block():
        measured = measure_side_by_side(
            lambda: step(model, optimiser, ids, penalty), lambda: step(model, optimiser, ids, None), repeats=REPEATS
        )
    return [Row("group-lasso-overhead", *measured[:2], "s per step", measured[2], name_of(model), REPEATS)]


def step(model: nn.Module, optimiser: torch.optim.Optimizer, ids: Tensor, penalty: partial | None) -> None:
    """One step; in bfloat16 on a GPU, as in training."""
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=ids.device.type == "cuda"):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    if penalty is not None:
        penalty()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad()
