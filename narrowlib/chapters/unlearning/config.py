"""Settings of the experiment on unlearning."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from narrowlib.chapters.language.config import RANKED_BY, LLMPruningConfig, Trained
from narrowlib.chapters.language.names import ModelName
from narrowlib.chapters.pages import Page
from narrowlib.llm.settings import PAPER_GROUP_LASSO, Benchmarks, LLMTrainingConfig, micro_batch
from narrowlib.settings import Count, NotNegative, Numbers, Part, Rate, Whole, Words, part

BASE = "base"
SCORE_OF = {"random": "random", "attribution": RANKED_BY, "lasso": RANKED_BY}  # by method, what ranks the neurons
CONTROLS = ("python", "scratch")  # the whole model trained on Python; a pruned model's shape, without its weights
METHODS = (*SCORE_OF, *CONTROLS)
PYTHON_RATE, SCRATCH_RATE = 2e-4, 5e-4  # step sizes on Python: from trained weights, from random ones


class Config(Page, Trained):
    """Parameters of the chapter; the defaults are those of the record on the default model.

    Of the methods, three prune neurons; ``"python"`` is the whole model trained on Python as the pruned ones are, and
    ``"scratch"`` has random weights in the shape of a pruned model.
    """

    shown_only = ("benchmarks",)

    model: ModelName = Field("default", description="default, tiny (random), a local folder, or a name on the hub")
    block_length: Annotated[int, Field(ge=2, le=131_072)] = Field(1_024, description="tokens per block of code")
    n_score_blocks: Count = Field(1_024, description="blocks for the scores")
    n_held_out_blocks: Count = Field(64, description="held-out blocks of every skill for the losses")
    facts_per_category: Whole = Field(0, description="facts per category in each half; 0 for all")
    methods: Words[Literal[METHODS]] = Field(METHODS, description="three pruning methods and two controls")
    sparsities: Numbers[Part] = Field((0.3, 0.63, 0.8), description="shares of the neurons to cut")
    python_steps: Whole = Field(250, description="training steps on Python after the cut; 0 for none")
    python_batch_size: Count = Field(64, description="blocks per step on Python, with and without group lasso")
    lasso_steps: Count = Field(1_000, description="group-lasso steps, if lasso is among the methods")
    lasso_strength: NotNegative = Field(3e-4, description="lambda, weight of the group-lasso penalty")
    relearning_steps: Count = Field(200, description="training steps on facts")
    relearning_batch_size: Count = Field(8, description="blocks of 64 tokens in each step on facts")
    relearning_rates: Numbers[Rate] = Field(
        (1e-5, 3e-5, 1e-4, 3e-4, 1e-3),
        description="step sizes of AdamW on facts; of several, held-back training facts choose the best",
    )
    rate_steps: Count = Field(50, description="training steps to choose among several step sizes")
    n_records: Count = Field(20, description="measurements of each model during relearning")
    benchmarks: Benchmarks = Field("", description="tasks of lm-eval for the whole model, such as arc_easy")

    @property
    def per_category(self) -> int | None:
        """See `narrowlib.data.facts.facts`."""
        return self.facts_per_category or None

    @part
    def pruning(self) -> LLMPruningConfig:
        """Model, blocks, and how the group lasso is run before the cut."""
        lasso = self._on_python(self.lasso_steps, PAPER_GROUP_LASSO.learning_rate)
        return self.build(LLMPruningConfig, lasso=lasso)

    @part
    def python(self) -> LLMTrainingConfig | None:
        """Training on Python between cut and test."""
        return self._on_python(self.python_steps, PYTHON_RATE) if self.python_steps else None

    @part
    def scratch(self) -> LLMTrainingConfig | None:
        """The same training from random weights."""
        more = {"schedule": "cosine", "weight_decay": 0.01}
        return self._on_python(self.python_steps, SCRATCH_RATE, **more) if self.python_steps else None

    @part
    def relearning(self) -> LLMTrainingConfig:
        """Training on the facts of the half ``"train"``, with the first of the step sizes."""
        return LLMTrainingConfig(
            n_steps=self.relearning_steps,
            learning_rate=self.relearning_rates[0],
            n_warmup=0,
            schedule="constant",
            **self._batches(self.relearning_batch_size),
            record_every=max(1, self.relearning_steps // self.n_records),
        )

    def runs(self) -> Iterator[tuple[str, float]]:
        """Method and sparsity of every model, the base model first."""
        yield BASE, 0.0
        for method in self.methods:
            for sparsity in (0.0,) if method == "python" else self.sparsities:
                yield method, sparsity

    def _on_python(self, n_steps: int, learning_rate: float, **more: Any) -> LLMTrainingConfig:
        steps = {"n_steps": n_steps, "n_warmup": n_steps // 10, "learning_rate": learning_rate}
        return LLMTrainingConfig(**steps, **self._batches(self.python_batch_size), **more)

    def _batches(self, batch_size: int) -> dict[str, Any]:
        return {
            "batch_size": batch_size,
            "micro_batch_size": micro_batch(batch_size),
            "precision": self.precision,
            "compiled": self.compiled,
        }
