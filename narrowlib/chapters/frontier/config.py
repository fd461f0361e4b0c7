"""Settings and runs of the experiment on the frontier."""

from dataclasses import dataclass
from decimal import Decimal

from pydantic import Field

from narrowlib.chapters.language.config import TextConfig, Trained
from narrowlib.chapters.pages import Page
from narrowlib.llm.distillation import Distillation
from narrowlib.llm.settings import LLMTrainingConfig, micro_batch
from narrowlib.settings import Count, NotNegative, Numbers, Pairs, Positive, Rate, Share, Weight, Whole

METHODS = ("scratch", "distilled", "pruned", "pruned, distilled")
PREPARATION = "prepare"  # name of the piece that all runs need
AT_ONCE = 8  # blocks at most through a model in training


class Config(Page, Trained, TextConfig):
    """Parameters of the chapter; the defaults are those of the record on the default model."""

    shown_only = ("target_loss",)

    students: Numbers[Count] = Field(
        (2, 3, 4, 5, 6), description="attention heads of the students, which set their width and depth"
    )
    sparsities: Pairs[Share] = Field(
        ((0.5, 0.2), (0.5, 0.5), (0.8, 0.5), (0.8, 0.8), (0.9, 0.9)),
        description="shares of neurons/residual dimensions cut before recovery",
    )
    n_steps: Count = Field(300, description="training steps of every network")
    batch_size: Count = Field(64, description="blocks in each training step")
    n_warmup: Whole = Field(30, description="warm-up steps, over which the step size rises")
    student_rate: Rate = Field(1e-3, description="step size of AdamW for students")
    recovery_rate: Rate = Field(3e-4, description="step size of AdamW after pruning")
    temperature: Positive = Field(2.0, description="temperature of teacher and student")
    hard_weight: Weight = Field(0.5, description="weight of the next token in the distillation loss")
    n_kept: Count = Field(32, description="teacher probabilities kept per token")
    evaluate_every: Count = Field(10, description="steps between measurements of the held-out loss")
    n_seeds: int = Field(1, ge=1, le=1_000, description="runs of every network, each with its own weights and order")
    target_loss: NotNegative = Field(0.0, description="target loss in nats; 0 for the lowest that every method reaches")

    @property
    def distillation(self) -> Distillation:
        """Weights of the distillation loss."""
        return Distillation(self.temperature, self.hard_weight)

    def training(self, learning_rate: float, seed: int = 0) -> LLMTrainingConfig:
        """One configuration for all methods, except for the step size; the seed determines the order of the blocks."""
        names = ("n_steps", "n_warmup", "batch_size", "precision", "compiled", "evaluate_every")
        return LLMTrainingConfig(
            **{name: getattr(self, name) for name in names},
            learning_rate=learning_rate,
            seed=seed,
            schedule="cosine",
            micro_batch_size=micro_batch(self.batch_size, AT_ONCE),
            weight_decay=0.01,
            record_every=1,
            checkpoint_every=100,
        )


@dataclass(frozen=True)
class Run:
    """One network, made in one way.

    Parameters
    ----------
    method : str
        One of `METHODS`.
    size : int or (float, float)
        Heads of a student, or sparsities of neurons and residual dimensions.
    seed : int
        Of the order of the blocks, and of the weights of a student.
    """

    method: str
    size: int | tuple[float, float]
    seed: int = 0

    @property
    def name(self) -> str:
        """A name that is valid for files."""
        shares = () if isinstance(self.size, int) else self.size
        percents = [f"{(100 * Decimal(str(each))).normalize():f}" for each in shares]  # exact: no two have one name
        size = "-".join(percents) or self.size
        repeat = f"-seed-{self.seed}" if self.seed else ""
        return f"{self.method.replace(', ', '-')}-{size}{repeat}".replace(".", "_")

    @property
    def is_taught(self) -> bool:
        """Whether the loss includes a teacher."""
        return self.method.endswith("distilled")


def runs_of(config: Config) -> tuple[Run, ...]:
    """Every run of the experiment, by seed, method and then size."""
    sizes = {method: config.students if method in METHODS[:2] else config.sparsities for method in METHODS}
    return tuple(Run(method, size, n) for n in range(config.n_seeds) for method in METHODS for size in sizes[method])


def pieces(config: Config) -> tuple[str, ...]:
    """Names of the pieces of the work: the part that all runs share, then every run."""
    return (PREPARATION, *(run.name for run in runs_of(config)))
