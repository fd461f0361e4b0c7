"""The language model that benchmarks run on: the book's default."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks import harness
from narrowlib.llm.models import DEFAULT_NAME, LanguageModel, load_causal_lm
from narrowlib.llm.tiny import NAME as TINY_NAME
from narrowlib.store.provenance import provenance


def default_model(device: torch.device, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """The default model, or the tiny one for a trial; where it cannot be had, an error says why in a sentence."""
    return load_causal_lm(TINY_NAME if harness.is_smoke else DEFAULT_NAME, dtype=dtype, device=device.type)


def random_blocks(model: nn.Module, shape: tuple[int, int], *, seed: int = 0) -> Tensor:
    """Random tokens, since how fast a model is does not depend on what it reads: (sequences, tokens)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.config.vocab_size, shape, generator=generator).to(model.device)


def name_of(model: nn.Module) -> str:
    """What the last column but one says."""
    return f"{provenance(model.device)['device']}, {str(model.dtype).removeprefix('torch.')}"
