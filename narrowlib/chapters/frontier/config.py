"""Settings and runs of the experiment on the frontier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from narrowlib.chapters.frontier.small_base import SmallBaseConfig
from narrowlib.chapters.language.config import LLMPruningConfig
from narrowlib.data.tokens import PACKAGES
from narrowlib.llm.distillation import Distillation
from narrowlib.llm.settings import LLMTrainingConfig

METHODS = ("scratch", "distilled", "pruned", "pruned, distilled")
PAPER_HEADS = (2, 3, 4, 5, 6)
PAPER_PAIRS = ((0.5, 0.2), (0.5, 0.5), (0.8, 0.5), (0.8, 0.8), (0.9, 0.9))
PREPARATION = "prepare"  # name of the piece that all runs need


@dataclass(frozen=True)
class FrontierConfig:
    """Settings of the experiment; the defaults are those of the record at the paper's scale.

    Parameters
    ----------
    model : str
        ``"small"`` for one that is trained here (`narrowlib.chapters.frontier.small_base`), else see
        `narrowlib.llm.models.load_causal_lm`; the paper's is ``"meta-llama/Llama-3.2-1B"``.
    base_steps : int
        Training steps of the small one.
    block_length, n_score_blocks, n_held_out_blocks, source
        See `narrowlib.chapters.language.config.LLMPruningConfig`.
    student_heads : sequence of int
        Sizes of the students, see `narrowlib.llm.students.student_config`.
    pairs : sequence of (float, float)
        Sparsities of neurons and residual dimensions of the pruned networks.
    n_steps, batch_size, micro_batch_size, n_warmup, weight_decay, precision, compiled, seed
        Of every run, see `narrowlib.llm.settings.LLMTrainingConfig`; the learning rate then falls as a cosine.
    student_rate, recovery_rate : float
        Learning rates from random weights, and after pruning.
    temperature, hard_weight : float
        See `narrowlib.llm.distillation.Distillation`.
    n_kept : int
        Probabilities of the teacher that are kept per token.
    evaluate_every : int
        Steps between two readings of the held-out loss.
    """

    model: str = "default"
    base_steps: int = SmallBaseConfig.n_steps
    block_length: int = 1_024
    n_score_blocks: int = 1_024
    n_held_out_blocks: int = 64
    source: str = PACKAGES
    student_heads: Sequence[int] = PAPER_HEADS
    pairs: Sequence[tuple[float, float]] = PAPER_PAIRS
    n_steps: int = 300
    batch_size: int = 64
    micro_batch_size: int = 8
    n_warmup: int = 30
    student_rate: float = 1e-3
    recovery_rate: float = 3e-4
    weight_decay: float = 0.01
    temperature: float = 2.0
    hard_weight: float = 0.5
    n_kept: int = 32
    precision: str = "bfloat16"
    compiled: bool = False
    evaluate_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("student_heads", "pairs"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; it must hold at least one size")
        for neurons, residual in self.pairs:
            if not (0 <= neurons < 1 and 0 <= residual < 1):
                raise ValueError(f"pairs holds ({neurons}, {residual}); sparsities must be from 0 to below 1")

    @property
    def pruning(self) -> LLMPruningConfig:
        """How blocks are chosen."""
        names = ("model", "block_length", "n_score_blocks", "n_held_out_blocks", "source")
        return LLMPruningConfig(**{name: getattr(self, name) for name in names})

    @property
    def distillation(self) -> Distillation:
        """Weights of the distillation loss."""
        return Distillation(self.temperature, self.hard_weight)

    def training(self, learning_rate: float) -> LLMTrainingConfig:
        """One configuration for all ways, but for the step size."""
        return LLMTrainingConfig(
            n_steps=self.n_steps,
            learning_rate=learning_rate,
            n_warmup=self.n_warmup,
            schedule="cosine",
            batch_size=self.batch_size,
            micro_batch_size=min(self.micro_batch_size, self.batch_size),
            weight_decay=self.weight_decay,
            precision=self.precision,
            compiled=self.compiled,
            seed=self.seed,
            record_every=1,
            evaluate_every=self.evaluate_every,
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
    """

    method: str
    size: int | tuple[float, float]

    @property
    def name(self) -> str:
        """A name that files can have."""
        size = self.size if isinstance(self.size, int) else "-".join(f"{100 * each:g}" for each in self.size)
        return f"{self.method.replace(', ', '-')}-{size}".replace(".", "_")

    @property
    def is_taught(self) -> bool:
        """Whether a teacher joins the loss."""
        return self.method.endswith("distilled")


def runs_of(config: FrontierConfig) -> tuple[Run, ...]:
    """Every run of the experiment, by method and then size."""
    students_, pruned = METHODS[:2], METHODS[2:]
    of_students = [Run(method, size) for method in students_ for size in config.student_heads]
    return (*of_students, *(Run(method, tuple(pair)) for method in pruned for pair in config.pairs))


def parse_pairs(text: str) -> tuple[tuple[float, float], ...]:
    """Pairs of sparsities out of a text such as ``"0.5/0.2 0.8/0.5"``."""
    try:
        pairs = [tuple(float(part) for part in pair.split("/")) for pair in text.split()]
    except ValueError:
        pairs = []
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"pairs is {text!r}; it must be like '0.5/0.2 0.8/0.5': neurons/residual dimensions")
    return tuple(pairs)


def pieces(config: FrontierConfig) -> tuple[str, ...]:
    """Names of the pieces of the work: what all runs share, then every run."""
    return (PREPARATION, *(run.name for run in runs_of(config)))
