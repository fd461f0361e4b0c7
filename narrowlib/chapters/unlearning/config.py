"""Settings of the experiment on unlearning, and the settings from the parameters of its chapter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from narrowlib.chapters.language.config import RANKED_BY, LLMPruningConfig
from narrowlib.chapters.mnist.config import numbers
from narrowlib.llm.settings import PAPER_GROUP_LASSO, LLMTrainingConfig

BASE = "base"
PRUNING = {"random": "random", "attribution": RANKED_BY, "lasso": RANKED_BY}  # by method, the score that ranks neurons
CONTROLS = ("python", "scratch")  # the whole model trained on Python; a pruned model's shape, without its weights
METHODS = (*PRUNING, *CONTROLS)
SPARSITIES = (0.3, 0.63, 0.8)  # the paper's
PAPER_PYTHON = LLMTrainingConfig(n_steps=250, learning_rate=2e-4, n_warmup=25)
PAPER_SCRATCH = LLMTrainingConfig(n_steps=250, learning_rate=5e-4, n_warmup=25, schedule="cosine", weight_decay=0.01)
PAPER_RELEARNING = LLMTrainingConfig(
    n_steps=200, learning_rate=1e-4, n_warmup=0, schedule="constant", batch_size=8, record_every=10
)


@dataclass(frozen=True)
class UnlearningConfig:
    """Settings of the experiment.

    Parameters
    ----------
    pruning : LLMPruningConfig
        Model, blocks, and how the group lasso is run before the cut.
    methods : tuple of str
        Of `METHODS`: three ways to prune neurons, and two controls, ``"python"``, the whole model trained on Python as
        the pruned ones are, and ``"scratch"``, random weights in the shape of a pruned model.
    sparsities : tuple of float
        Shares of neurons that are cut out.
    strength : float
        Of the group lasso.
    python : LLMTrainingConfig, optional
        Training on Python between cut and test; by default none.
    scratch : LLMTrainingConfig, optional
        The same for random weights.
    relearning : LLMTrainingConfig
        Training on the facts of the half ``"train"``.
    per_category : int, optional
        See `narrowlib.data.facts.facts`.
    """

    pruning: LLMPruningConfig = field(default_factory=LLMPruningConfig)
    methods: tuple[str, ...] = METHODS
    sparsities: tuple[float, ...] = SPARSITIES
    strength: float = 3e-4
    python: LLMTrainingConfig | None = PAPER_PYTHON
    scratch: LLMTrainingConfig | None = PAPER_SCRATCH
    relearning: LLMTrainingConfig = PAPER_RELEARNING
    per_category: int | None = None

    def __post_init__(self) -> None:
        for method in self.methods:
            if method not in METHODS:
                raise ValueError(f"methods holds {method!r}; it must hold some of {', '.join(METHODS)}")
        for sparsity in self.sparsities:
            if not 0 < sparsity < 1:
                raise ValueError(f"sparsities holds {sparsity!r}; it must hold numbers between 0 and 1")

    def runs(self) -> Iterator[tuple[str, float]]:
        """Method and sparsity of every model, the base model first."""
        yield BASE, 0.0
        for method in self.methods:
            for sparsity in (0.0,) if method == "python" else self.sparsities:
                yield method, sparsity


def unlearning_config(
    *,
    methods: str,
    sparsities: str,
    python_steps: int,
    lasso_steps: int,
    lasso_strength: float,
    relearning_steps: int,
    relearning_batch_size: int,
    relearning_rate: float,
    python_batch_size: int = 64,
    python_rate: float = PAPER_PYTHON.learning_rate,
    scratch_rate: float = PAPER_SCRATCH.learning_rate,
    precision: str = "bfloat16",
    n_records: int = 20,
    facts_per_category: int = 0,
    **blocks: Any,
) -> UnlearningConfig:
    """The settings from the chapter's parameters, which say each in a word or a number.

    Parameters
    ----------
    methods, sparsities : str
        Words and numbers with spaces between them: ``"random attribution"``, ``"0.3 0.8"``.
    python_steps, lasso_steps : int
        Of training on Python after the cut, and of the group lasso before it; no Python with 0.
    python_batch_size : int
        Blocks per step of both.
    lasso_strength, python_rate, scratch_rate, relearning_steps, relearning_batch_size, relearning_rate, precision
        See `UnlearningConfig` and `narrowlib.llm.settings.LLMTrainingConfig`.
    n_records : int
        How often a model is asked while it learns facts again, beside before it.
    facts_per_category : int
        0 for all.
    **blocks
        ``model``, ``block_length``, ``n_score_blocks`` and ``n_held_out_blocks`` of
        `narrowlib.chapters.language.config.LLMPruningConfig`.

    Raises
    ------
    ValueError
        For what these do not allow.
    """
    micro = {"batch_size": python_batch_size, "micro_batch_size": min(8, python_batch_size), "precision": precision}
    python = scratch = None
    if python_steps:
        steps = {"n_steps": python_steps, "n_warmup": python_steps // 10, **micro}
        python = PAPER_PYTHON.replace(learning_rate=python_rate, **steps)
        scratch = PAPER_SCRATCH.replace(learning_rate=scratch_rate, **steps)
    lasso = PAPER_GROUP_LASSO.replace(n_steps=lasso_steps, n_warmup=lasso_steps // 10, **micro)
    relearning = PAPER_RELEARNING.replace(
        n_steps=relearning_steps,
        batch_size=relearning_batch_size,
        micro_batch_size=min(8, relearning_batch_size),
        learning_rate=relearning_rate,
        precision=precision,
        record_every=max(1, relearning_steps // n_records),
    )
    return UnlearningConfig(
        pruning=LLMPruningConfig(lasso=lasso, **blocks),
        methods=tuple(methods.split()),
        sparsities=numbers(sparsities, float),
        strength=lasso_strength,
        python=python,
        scratch=scratch,
        relearning=relearning,
        per_category=facts_per_category or None,
    )
