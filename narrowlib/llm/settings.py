"""Settings of language-model training and names of scores, importable without torch."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo

from narrowlib.settings import AutoPrecision, Count, NotNegative, Settings, Whole
from narrowlib.store.downloads import UnavailableError

FROM_TOKENS = ("signed", "absolute per batch", "absolute per sequence", "absolute per token")
FROM_READS = ("signed activation", "absolute activation per batch", "absolute activation per token")
FORWARD_ONLY = ("activation norm", "wanda")
FROM_WEIGHTS = ("absolute per weight", "weights times mean absolute gradient")
WITHOUT_DATA = ("weight norm", "random")
VARIANTS = (*FROM_TOKENS, *FROM_READS, *FORWARD_ONLY, *FROM_WEIGHTS, *WITHOUT_DATA)  # see `narrowlib.llm.scores`


def _benchmarks(value: str, info: ValidationInfo) -> str:
    if value.split():
        from narrowlib.llm.harness import known_tasks

        try:
            unknown = sorted(set(value.split()) - known_tasks())
        except UnavailableError as error:
            raise ValueError(f"{info.field_name} is {value!r}, but {error}") from None
        if unknown:
            raise ValueError(f"{info.field_name} holds {unknown[0]!r}; it must hold names of tasks of lm-eval")
    return value


Benchmarks = Annotated[str, AfterValidator(_benchmarks)]  # names of tasks of lm-eval, with spaces between


class LLMTrainingConfig(Settings):
    """How a language model is trained; the defaults are the paper's for recovery."""

    n_steps: Count = Field(20_000, description="optimiser steps")
    learning_rate: NotNegative = Field(5e-5, description="highest step size of AdamW")
    n_warmup: Whole = Field(1_000, description="warm-up steps, over which the step size rises from 0")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="schedule of the step size after the warm-up; linear and cosine end at 0"
    )
    batch_size: Count = Field(64, description="token blocks per optimiser step, over all processes")
    micro_batch_size: Count = Field(
        8, description="largest number of blocks per forward pass in one process; gradients are summed over a step"
    )
    weight_decay: NotNegative = Field(0.0, description="weight decay of AdamW")
    max_grad_norm: NotNegative = Field(1.0, description="norm at which gradients are clipped; 0: never")
    precision: AutoPrecision = Field(
        "bfloat16", description="precision of matrix products; parameters, optimiser and loss are float32"
    )
    compiled: bool = Field(
        False, description="compile layers and losses first, which takes as long as some tens of steps"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the order of the blocks")
    record_every: Count = Field(100, description="steps between records")
    evaluate_every: Whole = Field(0, description="steps between records of the held-out loss; 0 for every record")
    checkpoint_every: Count = Field(500, description="steps between checkpoints")


def micro_batch(batch_size: int, most: int = 8) -> int:
    """The largest number of blocks, up to ``most``, that divides a batch."""
    return max(n for n in range(1, most + 1) if batch_size % n == 0)


PAPER_RECOVERY = LLMTrainingConfig()
PAPER_GROUP_LASSO = LLMTrainingConfig(n_steps=70_000, learning_rate=2e-6, batch_size=108, micro_batch_size=18)
