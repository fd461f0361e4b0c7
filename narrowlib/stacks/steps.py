"""Optimiser steps of a stack, many at a time: on a GPU they are captured once and replayed as one graph."""

import warnings
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from narrowlib.stacks.gradients import LossAndGradient, StackGradient, clip_gradients_, cross_entropy
from narrowlib.stacks.networks import MLPStack

STEPS_PER_GRAPH = 16  # enough that the host's work on one replay, a draw per run, no longer counts

DrawBatch = Callable[[Sequence[torch.Generator]], tuple[Tensor, Tensor]]


@runtime_checkable
class Sampler(Protocol):
    """Draws batches with randomness separated from arithmetic, see `narrowlib.cmsp.CMSPSampler`."""

    def draw(self, n_steps: int, generators: Sequence[torch.Generator]) -> Tensor:
        """Random draws of the generators for the next steps: (n_runs, n_steps, ...)."""

    def assemble(self, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels of one step, by tensor operations alone, without random numbers."""

    def __call__(self, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        """Inputs and labels of the next step."""


class EpochSampler:
    """Draws batches of fixed samples: every run has its own order, another one in every epoch.

    An epoch shows every row once, except those of a last short batch.  Runs may leave between two calls.

    Parameters
    ----------
    inputs : Tensor, shape (n_rows, n_inputs)
        The same for every run.
    batch_size : int
        Samples per run and step.
    """

    def __init__(self, inputs: Tensor, batch_size: int) -> None:
        if batch_size > len(inputs):
            raise ValueError(f"batch_size is {batch_size}; it must be at most {len(inputs)}, the number of samples")
        self.inputs, self.batch_size = inputs, batch_size
        self._order, self._position, self._generators = torch.empty(0, 0), 0, []

    def __call__(self, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        """Inputs (n_runs, 1, batch, n_inputs) and, as labels, the numbers of their rows (n_runs, 1, batch)."""
        return self.assemble(self._rows(generators))

    def draw(self, n_steps: int, generators: Sequence[torch.Generator]) -> Tensor:
        """Rows of the next steps: int64 (n_runs, n_steps, batch)."""
        return torch.stack([self._rows(generators) for _ in range(n_steps)], dim=1)

    def assemble(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels of one step."""
        return self.inputs[rows[:, None]], rows[:, None]

    def _rows(self, generators: Sequence[torch.Generator]) -> Tensor:
        if self._generators != generators:
            if self._generators:
                self._order = self._order[[self._generators.index(generator) for generator in generators]]
            self._generators = list(generators)
        start, self._position = self._position, self._position + self.batch_size
        if self._position > self._order.shape[1]:
            n, device = len(self.inputs), self.inputs.device
            self._order = torch.stack([torch.randperm(n, generator=g, device=device) for g in generators])
            start, self._position = 0, self.batch_size
        return self._order[:, start : self._position]


class StackSteps:
    """Steps of one stack with one optimiser.

    On a GPU, `STEPS_PER_GRAPH` steps are one CUDA graph, or where records are shorter the steps of some whole records:
    kernels of a few microseconds are then not launched one by one.  That needs a `Sampler`, and a loss, penalty and
    constraint that are tensor operations alone and read the same tensors at every step: they are called while the
    graph is captured and not again.  Where a step cannot be captured a warning says so, and every step is
    launched by itself.

    Parameters
    ----------
    stack : MLPStack
    optimiser : torch.optim.Optimizer
        Of the stack's parameters.
    generators : sequence of torch.Generator
        One per run.
    draw_batch : callable or Sampler
        From the generators to inputs (n_runs, n_tasks, batch, n_inputs) and labels (n_runs, n_tasks, batch).
    precision, loss
        See `narrowlib.stacks.gradients.StackGradient`.
    max_norm : float, optional
        The gradient of every run is scaled down to this norm, after the penalty.
    penalty, constraint : callable, optional
        Called after every gradient, and after every step.
    """

    def __init__(
        self,
        stack: MLPStack,
        optimiser: torch.optim.Optimizer,
        generators: Sequence[torch.Generator],
        draw_batch: DrawBatch | Sampler,
        *,
        precision: str = "float32",
        loss: LossAndGradient = cross_entropy,
        max_norm: float | None = None,
        penalty: Callable[[], None] | None = None,
        constraint: Callable[[], None] | None = None,
    ) -> None:
        self.stack, self.optimiser, self.draw_batch, self.generators = stack, optimiser, draw_batch, generators
        self.precision, self.loss, self.max_norm = precision, loss, max_norm
        self.penalty, self.constraint = penalty, constraint
        self.can_capture = stack.weights[0].is_cuda and isinstance(draw_batch, Sampler)
        self._gradient = self._total = self._drawn = self._replay = None
        self._n_records, self._sums = 0, []  # of one graph, where it holds whole records

    def run(self, n_steps: int, n_records: int = 1) -> Tensor:
        """Take this many steps for each record; every run's mean loss on each task, summed over the steps of a record.

        Records of fewer steps than a graph share one, see `records_per_graph`.

        Returns
        -------
        Tensor, float32, shape (n_records, n_runs, n_tasks)
        """
        records, n_whole = [], min(n_records, records_per_graph(n_steps))
        if self._drawn is None and n_steps < STEPS_PER_GRAPH:
            self._n_records = n_whole  # the first call says what the graph holds
        fits = self._drawn is None or self._drawn.shape[1] == n_steps * n_whole
        if self.can_capture and self._n_records == n_whole and fits:
            while n_records - len(records) >= n_whole:
                self._portion(n_steps * n_whole)
                records += torch.stack(self._sums)
        while len(records) < n_records:
            records.append(self._record(n_steps))
        return torch.stack(records)

    def _record(self, n_steps: int) -> Tensor:
        if self._total is not None:
            self._total.zero_()
        if self.can_capture and not self._n_records:
            for _ in range(n_steps // STEPS_PER_GRAPH):
                self._portion(STEPS_PER_GRAPH)
            n_steps %= STEPS_PER_GRAPH
        for _ in range(n_steps):
            self._step(*self.draw_batch(self.generators))
        return self._total.clone()

    def _portion(self, n_steps: int) -> None:
        """The steps of a graph: the first time one by one, which warms everything up, then captured and replayed."""
        drawn = self.draw_batch.draw(n_steps, self.generators)
        if self._drawn is None:
            self._drawn = drawn
            self._steps_of_portion()
            return
        self._drawn.copy_(drawn)
        if self._replay is None:
            self._replay = self._captured()
        self._replay()

    def _captured(self) -> Callable[[], None]:
        try:
            return capture(self._steps_of_portion)
        except RuntimeError as error:
            warnings.warn(
                f"steps are launched one by one, since they cannot be captured as a CUDA graph: {error}", stacklevel=2
            )
            return self._steps_of_portion

    def _steps_of_portion(self) -> None:
        n_steps, sums = self._drawn.shape[1], []
        for number in range(n_steps):
            is_new = self._n_records and number % (n_steps // self._n_records) == 0
            if is_new and self._total is not None:
                self._total.zero_()
            self._step(*self.draw_batch.assemble(self._drawn[:, number]))
            if self._n_records and (number + 1) % (n_steps // self._n_records) == 0:
                sums.append(self._total.clone())
        self._sums = sums

    def _step(self, x: Tensor, labels: Tensor) -> None:
        if self._gradient is None:
            n_samples = labels[0].numel()
            self._gradient = StackGradient(self.stack, n_samples, loss=self.loss, precision=self.precision)
            self._total = torch.zeros(labels.shape[:2], device=labels.device)
        losses = self._gradient(x.flatten(1, 2), labels.flatten(1)).view_as(labels).mean(-1)  # (runs, tasks)
        if self.penalty is not None:
            self.penalty()
        if self.max_norm is not None:
            clip_gradients_(self.stack, self.max_norm)
        self.optimiser.step()
        if self.constraint is not None:
            self.constraint()
        self._total += losses


def records_per_graph(n_steps: int) -> int:
    """How many records of this many steps share a CUDA graph; 1 if a record fills one."""
    return -(-STEPS_PER_GRAPH // n_steps)


def capture(work: Callable[[], None]) -> Callable[[], None]:
    """A CUDA graph of ``work``, which must have been done once before; call it to do the work again.

    Capturing does nothing of the work itself.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    torch.cuda.synchronize()
    try:
        with torch.cuda.graph(graph):
            work()
    finally:
        torch.cuda.set_stream(stream)  # a capture that fails leaves its own stream behind
    return graph.replay
