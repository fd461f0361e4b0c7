"""How a language model is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass

SCHEDULES = ("linear", "cosine", "constant")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class LLMTrainingConfig:
    """How a language model is trained; the defaults are the paper's for recovery.

    Parameters
    ----------
    n_steps : int
        Optimiser steps.
    learning_rate : float
        Of AdamW, at its highest.
    n_warmup : int
        Steps over which it rises from 0.
    schedule : {"linear", "cosine", "constant"}
        How it goes on from there, to 0 at the end but for the last.
    batch_size : int
        Token blocks per optimiser step, over all processes.
    micro_batch_size : int
        At most so many go through the model at once in one process; gradients are summed up to the whole batch.
    weight_decay : float
        Of AdamW.
    max_grad_norm : float
        Gradients are scaled down to this norm; 0 for as they are.
    precision : {"bfloat16", "float32"}
        Of matrix products; parameters, optimiser and loss are float32.
    compiled : bool
        Layers and losses are compiled first (`narrowlib.llm.compilation`), which takes about as long as some tens of
        steps. Made for GPUs.
    seed : int
        Of the order of the blocks.
    record_every : int
        Steps between two records.
    evaluate_every : int
        Steps between two records of the held-out loss; 0 for at every record.
    checkpoint_every : int
        Steps between two checkpoints.
    """

    n_steps: int = 20_000
    learning_rate: float = 5e-5
    n_warmup: int = 1_000
    schedule: str = "linear"
    batch_size: int = 64
    micro_batch_size: int = 8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    precision: str = "bfloat16"
    compiled: bool = False
    seed: int = 0
    record_every: int = 100
    evaluate_every: int = 0
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        least = {"n_steps": 1, "batch_size": 1, "micro_batch_size": 1, "record_every": 1, "checkpoint_every": 1}
        for name, lowest in (least | {"n_warmup": 0, "evaluate_every": 0, "seed": 0}).items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {lowest}")
        for name in ("learning_rate", "weight_decay", "max_grad_norm"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value!r}; it must be a number of at least 0")
        if not isinstance(self.compiled, bool):
            raise ValueError(f"compiled is {self.compiled!r}; it must be True or False")
        for name, legal in (("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, name) not in legal:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(legal)}")


PAPER_RECOVERY = LLMTrainingConfig()
PAPER_GROUP_LASSO = LLMTrainingConfig(n_steps=70_000, learning_rate=2e-6, batch_size=108, micro_batch_size=18)
