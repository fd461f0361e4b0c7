"""Compositional multitask sparse parity (CMSP): the synthetic task of the book.

An input is ``n_subtasks`` control bits followed by ``n_task_bits`` task bits.  Sub-task ``i`` owns
``subset_size`` task-bit positions; no position has two owners.  The label of an input is the parity of
the task bits owned by the sub-tasks whose control bits are on.  A task is the set of control bits that
are on: *atomic* with one, *composite* with several.

Source: Michaud, Parker-Sartori and Tegmark (2025), section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

WORD_BITS = 64  # task bits are drawn 64 at a time, as one integer
_BYTE_VALUES = 256


@dataclass(frozen=True)
class CMSP:
    """A compositional multitask sparse parity problem.

    Parameters
    ----------
    n_subtasks : int
        Number m of control bits, and of sub-tasks; at least 1.
    subset_size : int
        Number k of task bits that each sub-task owns; at least 1.
    n_task_bits : int
        Number n of task bits; at least ``n_subtasks * subset_size``.
    tasks : sequence of sequences of int
        The tasks in the data, each the set of sub-tasks that are on: ``[[0], [1], [0, 1]]`` is two
        atomic tasks and their composite.
    subsets : sequence of sequences of int, optional
        Task-bit positions of every sub-task, pairwise disjoint.  By default sub-task ``i`` owns the
        positions ``i * subset_size`` to ``(i + 1) * subset_size - 1``.

    Raises
    ------
    ValueError
        When a number is out of range, a task names a sub-task that does not exist, or two sub-tasks
        share a position.

    Examples
    --------
    >>> problem = CMSP(n_subtasks=2, subset_size=3, n_task_bits=10, tasks=[[0], [1], [0, 1]])
    >>> problem.positions((0, 1))
    (0, 1, 2, 3, 4, 5)
    >>> problem.n_inputs
    12
    """

    n_subtasks: int
    subset_size: int
    n_task_bits: int
    tasks: tuple[tuple[int, ...], ...]
    subsets: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        for name in ("n_subtasks", "subset_size", "n_task_bits"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
        if self.n_task_bits < self.n_subtasks * self.subset_size:
            raise ValueError(
                f"n_task_bits is {self.n_task_bits}; {self.n_subtasks} sub-tasks of {self.subset_size} bits "
                f"need at least {self.n_subtasks * self.subset_size}"
            )
        object.__setattr__(self, "subsets", self._checked_subsets())
        object.__setattr__(self, "tasks", self._checked_tasks())

    def _checked_subsets(self) -> tuple[tuple[int, ...], ...]:
        k = self.subset_size
        if self.subsets is None:
            return tuple(tuple(range(i * k, (i + 1) * k)) for i in range(self.n_subtasks))
        subsets = tuple(tuple(sorted(subset)) for subset in self.subsets)
        if len(subsets) != self.n_subtasks or any(len(set(subset)) != k for subset in subsets):
            raise ValueError(f"subsets is {subsets}; it must hold {self.n_subtasks} sets of {k} different positions")
        owned = [position for subset in subsets for position in subset]
        if len(set(owned)) != len(owned):
            raise ValueError(f"subsets is {subsets}; the sets must be disjoint")
        if not all(0 <= position < self.n_task_bits for position in owned):
            raise ValueError(f"subsets is {subsets}; positions must be from 0 to {self.n_task_bits - 1}")
        return subsets

    def _checked_tasks(self) -> tuple[tuple[int, ...], ...]:
        tasks = tuple(tuple(sorted(task)) for task in self.tasks)
        if not tasks:
            raise ValueError("tasks is empty; it must name at least one task")
        for task in tasks:
            if not task or len(set(task)) != len(task) or not all(0 <= i < self.n_subtasks for i in task):
                raise ValueError(
                    f"tasks holds {task}; a task is a set of one or more sub-tasks between 0 and {self.n_subtasks - 1}"
                )
        if len(set(tasks)) != len(tasks):
            raise ValueError(f"tasks is {tasks}; each task may occur only once")
        return tasks

    @property
    def n_inputs(self) -> int:
        """Width of an input: control bits and task bits together."""
        return self.n_subtasks + self.n_task_bits

    @property
    def n_tasks(self) -> int:
        """Number of tasks in the data."""
        return len(self.tasks)

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names in set notation, in the order of ``tasks``: ``("{0}", "{0,1}")``."""
        return tuple(task_name(task) for task in self.tasks)

    @cached_property
    def control_bits(self) -> Tensor:
        """Control bits of every task, float32 of shape (n_tasks, n_subtasks)."""
        control = torch.zeros(self.n_tasks, self.n_subtasks)
        for row, task in enumerate(self.tasks):
            control[row, list(task)] = 1.0
        return control

    @cached_property
    def parity_masks(self) -> Tensor:
        """Positions that count in every task, as the bits of words: int64 of shape (n_tasks, n_words)."""
        masks = torch.zeros(self.n_tasks, self.n_words, dtype=torch.int64)
        for row, task in enumerate(self.tasks):
            for position in self.positions(task):
                word, bit = divmod(position, WORD_BITS)
                masks[row, word] |= (1 << bit) - (1 << WORD_BITS if bit == WORD_BITS - 1 else 0)  # the sign bit
        return masks

    @property
    def n_words(self) -> int:
        """Number of 64-bit words that hold a sample's task bits."""
        return -(-self.n_task_bits // WORD_BITS)

    def positions(self, task: Sequence[int]) -> tuple[int, ...]:
        """Task-bit positions whose parity is the label of ``task``."""
        return tuple(sorted(position for i in task for position in self.subsets[i]))

    def only(self, *tasks: Sequence[int]) -> CMSP:
        """The same problem with only these tasks in the data: ``problem.only((0, 1))`` is narrow."""
        return CMSP(self.n_subtasks, self.subset_size, self.n_task_bits, tasks, self.subsets)


def task_name(task: Sequence[int]) -> str:
    """Name of a task in set notation: ``task_name((0, 1)) == "{0,1}"``."""
    return "{" + ",".join(str(i) for i in sorted(task)) + "}"


def broad_tasks(n_subtasks: int) -> tuple[tuple[int, ...], ...]:
    """Every atomic task and the composite of them all, the broad distribution of the paper's Fig 2."""
    return (*((i,) for i in range(n_subtasks)), tuple(range(n_subtasks)))


def parity_labels(x: Tensor, problem: CMSP) -> Tensor:
    r"""Labels of inputs, straight from the definition.

    .. math:: y = \Big(\sum_{i:\,c_i = 1}\ \sum_{j \in S_i} b_j\Big) \bmod 2

    Parameters
    ----------
    x : Tensor, shape (..., n_inputs)
        Inputs of zeros and ones: control bits c, then task bits b.
    problem : CMSP
        Says which positions :math:`S_i` sub-task i owns.

    Returns
    -------
    Tensor, int64, shape (...)
        0 or 1.
    """
    control, bits = x[..., : problem.n_subtasks], x[..., problem.n_subtasks :]
    owner = torch.zeros(problem.n_subtasks, problem.n_task_bits, device=x.device, dtype=x.dtype)
    for i, subset in enumerate(problem.subsets):
        owner[i, list(subset)] = 1
    counted = (control @ owner) * bits
    return counted.sum(-1).long() % 2


@dataclass(frozen=True)
class CMSPSampler:
    """Draws batches of a problem, for several runs at once and any number of steps ahead.

    Randomness and arithmetic are apart: `draw` asks the generators, `assemble` makes a batch of what they gave.  So a
    GPU can be handed many steps in one go.

    Parameters
    ----------
    problem : CMSP
        The problem; without ``parts``, all its ``tasks`` get the same number of samples.
    batch_size : int
        Samples B per task, or per part; at least 1.
    dtype : torch.dtype
        Of the inputs; zeros and ones are exact in all of them.
    parts : tuple of int, optional
        For every task how many parts of a batch it has; 0 for none.  What has the shape (..., n_tasks, ...) without it
        then has one place per part, in the order of the tasks.
    """

    problem: CMSP
    batch_size: int
    dtype: torch.dtype = torch.float32
    parts: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.batch_size, bool) or not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size!r}; it must be a whole number of at least 1")
        n_tasks, parts = self.problem.n_tasks, self.parts
        if parts is not None and (len(parts) != n_tasks or min(parts) < 0 or not any(parts)):
            raise ValueError(f"parts is {parts}; it must hold counts of {n_tasks} tasks, at least one above 0")

    @property
    def n_parts(self) -> int:
        """Number of parts of a batch, each of one task."""
        return self.problem.n_tasks if self.parts is None else sum(self.parts)

    def task_of_part(self) -> Tensor:
        """Numbers of the tasks of all parts: int64 (n_parts)."""
        counts = torch.ones(self.n_parts, dtype=torch.int64) if self.parts is None else torch.tensor(self.parts)
        return torch.repeat_interleave(counts)

    def draw(self, n_steps: int, generators: Sequence[torch.Generator]) -> Tensor:
        """Task bits of the next steps, 64 in a word: int64 (n_runs, n_steps, n_tasks, batch_size, n_words).

        Each run draws from its own generator, so what a run sees does not depend on its neighbours.
        """
        shape = (n_steps, self.n_parts, self.batch_size, self.problem.n_words)
        return torch.stack([draw_words(shape, generator) for generator in generators])

    def assemble(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels of one step: (n_runs, n_tasks, batch_size, n_inputs) and (n_runs, n_tasks, batch_size)."""
        control, masks = _constants(self, words.device)
        bits = unpack_bits(words, self.dtype)[..., : self.problem.n_task_bits]
        return torch.cat([control.expand(*bits.shape[:-1], -1), bits], dim=-1), word_parity(words & masks)

    def __call__(self, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        """The next batch."""
        return self.assemble(self.draw(1, generators)[:, 0])


@cache
def _constants(sampler: CMSPSampler, device: torch.device) -> tuple[Tensor, Tensor]:
    """Control bits (n_parts, 1, n_subtasks) and parity masks (n_parts, 1, n_words), on the device."""
    problem, tasks = sampler.problem, sampler.task_of_part()
    return problem.control_bits[tasks, None].to(device, sampler.dtype), problem.parity_masks[tasks, None].to(device)


def sample_batch(
    problem: CMSP, batch_size: int, generators: Sequence[torch.Generator], *, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Draw uniform samples of every task, for several independent runs at once.

    Parameters
    ----------
    problem : CMSP
        The problem; its ``tasks`` all get the same number of samples.
    batch_size : int
        Samples B per task.
    generators : sequence of torch.Generator
        One per run, all on the device where the samples are wanted.
    dtype : torch.dtype
        Of the inputs.

    Returns
    -------
    x : Tensor, shape (n_runs, n_tasks, batch_size, n_inputs)
        Control bits, then task bits.
    y : Tensor, float32, shape (n_runs, n_tasks, batch_size)
        Labels, 0 or 1.
    """
    return CMSPSampler(problem, batch_size, dtype)(generators)


def draw_words(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform 64-bit integers from ``generator``, on its device."""
    words = torch.empty(shape, dtype=torch.int64, device=generator.device)
    return words.random_(-(2**63), None, generator=generator)


def unpack_bits(words: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Bits of 64-bit words, lowest first: int64 (..., n_words) to (..., 64 * n_words)."""
    octets = words.view(torch.uint8).int()  # (..., 8 * n_words), lowest byte first
    return torch.nn.functional.embedding(octets, _bits_of_bytes(words.device, dtype)).flatten(-2)


@cache
def _bits_of_bytes(device: torch.device, dtype: torch.dtype) -> Tensor:
    values = torch.arange(_BYTE_VALUES, device=device)
    return ((values[:, None] >> torch.arange(8, device=device)) & 1).to(dtype)  # (256, 8)


def word_parity(words: Tensor) -> Tensor:
    """Parity of the bits in the last dimension: int64 (..., n_words) to float32 (...)."""
    folded = words[..., 0].clone()
    for column in range(1, words.shape[-1]):
        folded ^= words[..., column]
    for shift in (32, 16, 8, 4, 2, 1):
        folded ^= folded >> shift  # the lowest bit stays right: a signed shift only fills from the top
    return (folded & 1).float()
