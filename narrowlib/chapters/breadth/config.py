"""Settings of the chapter breadth, and the runs that its questions compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from pydantic import Field, model_validator

from narrowlib.chapters.pages import Page
from narrowlib.cmsp import CMSP, broad_tasks
from narrowlib.settings import AutoPrecision, Count, Numbers, Rate, Settings, Share, part

PARTS = 16  # of a batch that holds every task equally: parts of each task
N_RECORDS = 100  # points of a learning curve
FIRST = 0.25  # of the steps of an explicit curriculum, its first phase
EQUAL = ((2, 2), (3, 2))  # sub-tasks and task bits of each, of composites compared with parities of as many bits


@dataclass(frozen=True)
class Phase:
    """A part of training: how many parts of a batch are of each task of the problem, and for how many steps."""

    parts: tuple[int, ...]
    n_steps: int


@dataclass(frozen=True)
class Setting:
    """One kind of run.

    Parameters
    ----------
    question : str
        What it is compared for: ``"hardness"``, ``"equal bits"``, ``"share"``, ``"which"``, ``"curriculum"`` or
        ``"map"``.
    name : str
    problem : CMSP
    phases : tuple of Phase
    watched : tuple of tuple of int
        Tasks whose time to learn is measured.  A run that has learned them leaves.
    """

    question: str
    name: str
    problem: CMSP
    phases: tuple[Phase, ...]
    watched: tuple[tuple[int, ...], ...]


class BreadthConfig(Settings):
    """Settings of the experiments; the defaults are those of the record."""

    n_subtasks: int = Field(3, ge=2, le=6, description="sub-tasks; the composite combines all of them")
    subset_size: int = Field(3, ge=1, le=8, description="task bits of each sub-task")
    n_task_bits: int = Field(24, ge=4, le=1_024, description="task bits in total")
    n_seeds: int = Field(20, ge=2, le=1_000, description="runs of every setting, each with its own weights and samples")
    width: int = Field(64, ge=2, le=65_536, description="neurons in each of two hidden layers")
    batch_size: int = Field(128, ge=PARTS, le=1_000_000, description="samples of each task in an equal mixture")
    n_steps: Count = Field(8_000, description="largest number of training steps")
    learning_rate: Rate = Field(5e-3, description="step size of Adam")
    shares: Numbers[Share] = Field(
        (0.0, 0.06, 0.12, 0.25, 0.5, 0.75, 0.88, 0.94), description="shares of atomic samples in the batches"
    )
    map_sizes: Numbers[Count] = Field((1, 2, 3, 4), description="task bits of each sub-task in the map")
    map_subtasks: Numbers[Count] = Field((2, 3, 4), description="sub-tasks of the composite in the map")
    map_bits: Numbers[Count] = Field((12, 18, 24), description="task bits in total in the map")
    map_seeds: int = Field(5, ge=1, le=1_000, description="runs at every point of the map")
    precision: AutoPrecision = Field("float32", description="precision of matrix products")

    @model_validator(mode="after")
    def _bits_suffice(self) -> BreadthConfig:
        needed = 2 * self.n_subtasks * self.subset_size  # of the composite, and of a parity as hard
        if self.n_task_bits < needed:
            raise ValueError(
                f"n_task_bits is {self.n_task_bits}; twice {self.n_subtasks} sub-tasks of {self.subset_size} bits need "
                f"at least {needed}"
            )
        return self

    @property
    def composite(self) -> tuple[int, ...]:
        """The composite task of all sub-tasks."""
        return tuple(range(self.n_subtasks))

    def settings(self) -> Iterator[Setting]:
        """Every kind of run, by question."""
        yield from self._hardness()
        yield from self._equal_bits()
        yield from self._shares()
        yield from self._curricula()
        yield from self._map()

    def _hardness(self) -> Iterator[Setting]:
        m, whole = self.n_subtasks, self.composite
        kinds = {"its own parts": range(m), "other parts": range(m, 2 * m), "alone": range(0)}
        for name, atomic in kinds.items():
            yield self._mixed("hardness", name, [(i,) for i in atomic], whole)

    def _equal_bits(self) -> Iterator[Setting]:
        for m, k in dict.fromkeys((*EQUAL, (self.n_subtasks, self.subset_size))):
            if 2 * m * k <= self.n_task_bits:
                problem, twin = CMSP(2 * m, k, self.n_task_bits, [range(m)]), tuple(range(m, 2 * m))
                tasks = [*broad_tasks(m), twin]
                parts = (PARTS,) * len(tasks)
                phases = (Phase(parts, self.n_steps),)
                yield Setting("equal bits", f"{m} of {k} bits", problem.only(*tasks), phases, (tasks[-2], twin))

    def _shares(self) -> Iterator[Setting]:
        m = self.n_subtasks
        atomics = [(i,) for i in range(m)]
        for share in self.shares:
            each = round(share * PARTS * (m + 1) / m)
            yield self._mixed("share", f"{share:g}", atomics if each else [], self.composite, each)
        for name, some in (("all", atomics), ("all but one", atomics[:-1]), ("one", atomics[:1])):
            yield self._mixed("which", name, some, self.composite, round(PARTS * m / len(some)))

    def _curricula(self) -> Iterator[Setting]:
        tasks, n = broad_tasks(self.n_subtasks), self.n_subtasks
        mixed, parts, whole = (PARTS,) * (n + 1), self._spread([1] * n + [0]), self._spread([0] * n + [1])
        first = max(1, round(FIRST * self.n_steps))
        orders = {
            "interleaved": [(mixed, self.n_steps)],
            "parts first, then the whole": [(parts, first), (whole, self.n_steps - first)],
            "parts first, then all": [(parts, first), (mixed, self.n_steps - first)],
            "whole first, then all": [(whole, first), (mixed, self.n_steps - first)],
        }
        problem = self._problem(tasks)
        for name, phases in orders.items():
            yield Setting("curriculum", name, problem, tuple(Phase(*p) for p in phases if p[1]), (tasks[-1],))

    def _map(self) -> Iterator[Setting]:
        for k, m, n in product(self.map_sizes, self.map_subtasks, self.map_bits):
            if m * k <= n:
                for name, tasks in (("broad", broad_tasks(m)), ("narrow", broad_tasks(m)[-1:])):
                    parts = (PARTS * (m + 1) // len(tasks),) * len(tasks)  # as many samples in each step
                    phases = (Phase(parts, self.n_steps),)
                    yield Setting("map", f"{name}, {k} {m} {n}", CMSP(m, k, n, tasks), phases, tasks[-1:])

    def _mixed(
        self, question: str, name: str, atomics: Sequence[tuple[int, ...]], whole: tuple[int, ...], each: int = PARTS
    ) -> Setting:
        """Batches of one size: ``each`` parts of every atomic task, and the rest of the composite."""
        total = PARTS * (self.n_subtasks + 1)
        parts = (*(each for _ in atomics), max(1, total - each * len(atomics)))
        return Setting(question, name, self._problem([*atomics, whole]), (Phase(parts, self.n_steps),), (whole,))

    def _problem(self, tasks: Sequence[Sequence[int]]) -> CMSP:
        """A control bit and a set of task bits for every sub-task, and for as many others."""
        return CMSP(2 * self.n_subtasks, self.subset_size, self.n_task_bits, tuple(map(tuple, tasks)))

    def _spread(self, weights: Sequence[int]) -> tuple[int, ...]:
        """The parts of a whole batch, spread evenly over the tasks with weight 1."""
        total = PARTS * (self.n_subtasks + 1)
        return tuple(weight * round(total / sum(weights)) for weight in weights)


class Config(Page, BreadthConfig):
    """Parameters of the page."""

    @part
    def experiment(self) -> BreadthConfig:
        """The settings that the runs depend on."""
        return self.build(BreadthConfig)
