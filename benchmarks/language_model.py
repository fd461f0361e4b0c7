"""The language model that benchmarks run on: the book's default."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from narrowlib.llm.models import load_causal_lm
from narrowlib.store.provenance import provenance


def default_model(device: torch.device, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The default model, in evaluation mode; where it cannot be had, an error says why in a sentence."""
    return load_causal_lm(dtype=dtype, device=device.type).model


def random_blocks(model: nn.Module, shape: tuple[int, int], *, seed: int = 0) -> Tensor:
    """Random tokens, since how fast a model is does not depend on what it reads: (sequences, tokens)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.config.vocab_size, shape, generator=generator).to(model.device)


def name_of(model: nn.Module) -> str:
    """What the last column but one says."""
    return f"{provenance(model.device)['device']}, {str(model.dtype).removeprefix('torch.')}"
