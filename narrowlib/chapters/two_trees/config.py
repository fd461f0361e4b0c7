"""Settings of the chapters nonlocality and group-lasso."""

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from narrowlib.chapters.pages import Page
from narrowlib.cmsp import CMSP
from narrowlib.settings import AutoPrecision, NotNegative, Rate, Seed, Settings, part
from narrowlib.stacks.training import TrainingConfig

WANTED, OTHER = (0, 1, 2), (3, 4, 5)  # the composites of the two trees
N_RECORDS = 200  # of a training run, at most; a run is saved and shows progress between them
N_NORMS = 50  # records of the norms while training with group lasso
RECORDED_SPARSITIES = tuple(percent / 100 for percent in range(99))  # the paper's 98, and the whole network
Method = Literal["subgradient", "proximal"]
METHODS = get_args(Method)


class _Networks(Settings):
    """How networks are trained on two trees of tasks, scored, and recovered."""

    subset_size: int = Field(3, ge=1, le=16, description="task bits of each of the six sub-tasks")
    n_task_bits: int = Field(18, ge=6, le=1_024, description="task bits in total")
    n_seeds: int = Field(5, ge=1, le=1_000, description="networks of each width")
    batch_size: int = Field(2_000, ge=1, le=1_000_000, description="samples of each task in a training step")
    n_steps: int = Field(20_000, ge=1, le=100_000_000, description="training steps on all tasks")
    learning_rate: Rate = Field(1e-3, description="step size of Adam in training")
    n_samples: int = Field(2_000, ge=1, le=1_000_000, description="samples for scores and for every accuracy")
    recovery_steps: int = Field(1_000, ge=1, le=10_000_000, description="training steps after pruning")
    recovery_batch_size: int = Field(5_000, ge=1, le=1_000_000, description="samples in a step after pruning")
    precision: AutoPrecision = Field("float32", description="precision of matrix products in training")

    @part
    def problem(self) -> CMSP:
        """Six sub-tasks in two trees: three atomic tasks each, and their composite."""
        return CMSP(6, self.subset_size, self.n_task_bits, (*((i,) for i in range(6)), WANTED, OTHER))


class NonlocalityConfig(_Networks):
    """Settings of networks, scores and recovery; the defaults are the paper's."""

    recovery_learning_rate: Rate = Field(1e-3, description="step size of Adam after pruning")
    first_seed: Seed = Field(0, description="seed of the first network")

    @property
    def training(self) -> TrainingConfig:
        """Training on all tasks."""
        return self.build(TrainingConfig, record_every=-(-self.n_steps // N_RECORDS))

    @property
    def recovery(self) -> TrainingConfig:
        """Training on one task after pruning."""
        names = {"n_steps": "recovery_steps", "learning_rate": "recovery_learning_rate"}
        return self.build(TrainingConfig, names, record_every=-(-self.recovery_steps // N_RECORDS))

    @property
    def seeds(self) -> range:
        """Seeds of the networks."""
        return range(self.first_seed, self.first_seed + self.n_seeds)


class GroupLassoConfig(Settings):
    """How trained networks are regularised; the defaults are the paper's."""

    strength: NotNegative = Field(1e-3, description="lambda, weight of the penalty")
    n_steps: int = Field(10_000, ge=1, description="training steps with the penalty")
    batch_size: int = Field(2_000, ge=1, description="samples in a step with the penalty")
    learning_rate: Rate = Field(1e-3, description="step size of Adam with the penalty")
    method: Method = Field("subgradient", description="how the penalty is applied")

    @property
    def training(self) -> TrainingConfig:
        """Training on the wanted composite."""
        return self.build(TrainingConfig, record_every=max(1, self.n_steps // N_NORMS))


class NonlocalityPage(Page, _Networks):
    """Parameters of the page nonlocality."""

    narrow_width: int = Field(32, ge=2, le=65_536, description="neurons in a hidden layer of the narrowest networks")
    wide_width: int = Field(2_048, ge=2, le=65_536, description="neurons in a hidden layer of the widest networks")
    n_widths: int = Field(7, ge=2, le=12, description="number of widths, with equal ratios")

    @model_validator(mode="after")
    def _widths_in_order(self) -> Self:
        if self.wide_width < self.narrow_width:
            raise ValueError(f"wide_width is {self.wide_width}; it must be at least narrow_width, {self.narrow_width}")
        return self

    @property
    def widths(self) -> list[int]:
        """Widths from the narrowest to the widest."""
        return spaced_widths(self.narrow_width, self.wide_width, self.n_widths)

    @part
    def experiment(self) -> NonlocalityConfig:
        """Networks, scores and recovery."""
        return self.build(NonlocalityConfig)


class GroupLassoPage(NonlocalityPage):
    """Parameters of the page group-lasso; the widths from narrow to wide are those of its record, beside ``width``."""

    width: int = Field(256, ge=2, le=65_536, description="neurons in a hidden layer")
    lasso_strength: float = Field(1e-3, ge=0, le=1_000, description="lambda, weight of the penalty")
    lasso_steps: int = Field(10_000, ge=1, le=100_000_000, description="training steps with the penalty")
    lasso_batch_size: int = Field(2_000, ge=1, le=1_000_000, description="samples in a step with the penalty")
    lasso_rate: Rate = Field(1e-3, description="step size of Adam with the penalty")
    n_swept: int = Field(5, ge=1, description="number of networks trained with every strength")

    @model_validator(mode="after")
    def _swept_are_networks(self) -> Self:
        if self.n_swept > self.n_seeds:
            raise ValueError(f"n_swept is {self.n_swept}; it must be at most n_seeds, {self.n_seeds}")
        return self

    @part
    def lasso(self) -> GroupLassoConfig:
        """Training with the penalty."""
        names = {"strength": "lasso_strength", "n_steps": "lasso_steps", "batch_size": "lasso_batch_size"}
        return self.build(GroupLassoConfig, {**names, "learning_rate": "lasso_rate"})


def spaced_widths(narrowest: int, widest: int, n_widths: int) -> list[int]:
    """Widths with equal ratios between them, rounded to whole numbers, without duplicates.

    Examples
    --------
    >>> spaced_widths(32, 256, 4)
    [32, 64, 128, 256]
    """
    steps = max(1, n_widths - 1)
    return sorted({round(narrowest * (widest / narrowest) ** (step / steps)) for step in range(steps + 1)})
