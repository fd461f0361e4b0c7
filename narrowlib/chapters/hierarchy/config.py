"""Settings of the chapter hierarchy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pydantic import Field

from narrowlib.chapters.censored import CONVERGED_BITS
from narrowlib.chapters.pages import Page
from narrowlib.cmsp import CMSP, broad_tasks
from narrowlib.settings import AutoPrecision, Rate, Settings, part
from narrowlib.stacks.training import TrainingConfig

N_CLASSES = 2
N_RECORDS = 200  # points of a learning curve, at most


@dataclass(frozen=True)
class Setting:
    """One kind of run: what it is trained on, its shape, and for how long."""

    name: str
    problem: CMSP
    sizes: tuple[int, ...]
    training: TrainingConfig


class HierarchyConfig(Settings):
    """Settings of the hierarchy experiment; the defaults are the paper's.

    With ``leave_below`` above 0, a run stops training once its loss on every task has been below so many bits
    for a whole record.  That saves the work after convergence; a run that would have come back up is not seen.
    """

    n_subtasks: int = Field(4, ge=2, le=12, description="sub-tasks; the composite combines all of them")
    subset_size: int = Field(4, ge=1, le=16, description="task bits of each sub-task")
    n_task_bits: int = Field(64, ge=1, le=1_024, description="task bits in total")
    n_seeds: int = Field(40, ge=1, le=1_000, description="runs of every setting, each with its own weights and samples")
    width: int = Field(128, ge=2, le=65_536, description="neurons in a hidden layer")
    batch_size: int = Field(2_000, ge=1, le=1_000_000, description="samples of each task in a training step")
    n_steps: int = Field(
        200_000, ge=1, le=100_000_000, description="training steps on broad data; narrow runs take more"
    )
    learning_rate: Rate = Field(1e-3, description="step size of Adam")
    precision: AutoPrecision = Field("float32", description="precision of matrix products")
    leave_below: float = Field(
        0.0, ge=0, lt=CONVERGED_BITS, description="loss in bits; a run below it on every task stops; 0 for never"
    )

    @part
    def problem(self) -> CMSP:
        """Every atomic task and the composite of them all."""
        return CMSP(self.n_subtasks, self.subset_size, self.n_task_bits, broad_tasks(self.n_subtasks))

    @property
    def easier(self) -> HierarchyConfig:
        """The same on an easier task and for four times the runs, of which more learn the composite.

        Half as many bits per sub-task and in total, batches of a quarter and a third of the steps.
        """
        subset_size = max(1, self.subset_size // 2)
        return self.replace(
            subset_size=subset_size,
            n_task_bits=max(self.n_task_bits // 2, self.n_subtasks * subset_size),
            batch_size=-(-self.batch_size // 4),
            n_steps=-(-self.n_steps // 3),
            n_seeds=min(4 * self.n_seeds, 1_000),
        )

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The four kinds of runs that the claims compare."""
        broad = self.problem
        narrow = broad.only(broad.tasks[-1])
        deep = (broad.n_inputs, self.width, self.width, N_CLASSES)
        shallow = (broad.n_inputs, self.width, N_CLASSES)
        wide = (broad.n_inputs, matched_width(deep), N_CLASSES)
        return (
            Setting("broad, depth 3", broad, deep, self._training(self.n_steps)),
            Setting("narrow, depth 3", narrow, deep, self._training(self.n_steps * broad.n_tasks)),
            Setting("broad, depth 2", broad, shallow, self._training(self.n_steps)),
            Setting("broad, depth 2, wide", broad, wide, self._training(self.n_steps)),
        )

    def _training(self, n_steps: int) -> TrainingConfig:
        return self.build(TrainingConfig, n_steps=n_steps, record_every=-(-n_steps // N_RECORDS))


class Config(Page, HierarchyConfig):
    """Parameters of the page."""

    @part
    def experiment(self) -> HierarchyConfig:
        """The settings that the runs depend on."""
        return self.build(HierarchyConfig)


def matched_width(sizes: Sequence[int]) -> int:
    """Width at which a network of one hidden layer has as many parameters as ``sizes``, as nearly as possible.

    Examples
    --------
    >>> matched_width((68, 128, 128, 2))
    361
    """
    n_parameters = sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(sizes))
    n_in, n_out = sizes[0], sizes[-1]
    return max(1, round((n_parameters - n_out) / (n_in + 1 + n_out)))
