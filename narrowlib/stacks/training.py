"""The training loop of stacks: one optimiser step moves every run at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor
from tqdm.auto import tqdm

from narrowlib.settings import Count, Positive, Precision, Settings
from narrowlib.stacks.gradients import LossAndGradient, cross_entropy
from narrowlib.stacks.networks import MLPStack
from narrowlib.stacks.steps import DrawBatch, Sampler, StackSteps
from narrowlib.store.checkpoints import Checkpoint

BITS_PER_NAT = 1 / math.log(2)

CPU_CHUNK_BYTES = 16 * 2**20  # buffers of one step that still sit in a laptop's caches
GPU_CHUNK_SHARE = 0.5  # of the device's memory; the rest is samples, optimiser state and workspace


class TrainingConfig(Settings):
    """How a stack is trained."""

    n_steps: Count = Field(description="optimiser steps")
    learning_rate: Positive = Field(1e-3, description="step size of Adam")
    eps: Positive = Field(1e-5, description="added to the denominator of Adam; the default is the paper's")
    record_every: Count = Field(100, description="steps between two records, each the mean loss of those steps")
    precision: Precision = Field("float32", description="of matrix products and activations; parameters are float32")


def make_generators(seeds: Sequence[int], device: str | torch.device) -> list[torch.Generator]:
    """One seeded generator per run, on ``device``."""
    return [torch.Generator(device=device).manual_seed(seed) for seed in seeds]


def train_stack(
    stack: MLPStack,
    draw_batch: DrawBatch | Sampler,
    generators: Sequence[torch.Generator],
    config: TrainingConfig,
    *,
    loss: LossAndGradient = cross_entropy,
    penalty: Callable[[], None] | None = None,
    constraint: Callable[[], None] | None = None,
    leave: Callable[[Tensor], Tensor] | None = None,
    checkpoint: Path | None = None,
    progress: bool = True,
    description: str = "train",
) -> Tensor:
    """Train every run of a stack with Adam, each on its own batches.

    The loss of a run is the mean over its tasks of the mean over their samples.  Runs share no
    parameter, so the gradient of the summed loss is the gradient of each.

    Parameters
    ----------
    stack : MLPStack
        Trained in place.
    draw_batch : callable or Sampler
        From the generators to inputs (n_runs, n_tasks, batch, n_inputs) and labels (n_runs, n_tasks, batch),
        fresh at every call.  A `narrowlib.stacks.steps.Sampler` lets a GPU take many steps at a time.
    generators : sequence of torch.Generator
        One per run; the only source of randomness.
    config : TrainingConfig
    loss : callable
        Per-sample losses and their gradient in the logits, see `narrowlib.stacks.gradients.cross_entropy`.
    penalty : callable, optional
        Called after every gradient; adds a penalty's gradient to the ``grad`` of the parameters.
    constraint : callable, optional
        Called after every step; changes the parameters in place, to hold removed units at zero or to take a proximal
        step.
    leave : callable, optional
        From a record (n_runs, n_tasks) to whether each run is done, bool (n_runs).  A run that is done trains no
        more, and costs nothing.  Not together with a penalty or constraint, which know the whole stack.
    checkpoint : Path, optional
        File to leave off in about once a minute.  When it is there and was left by a run of the same shape and
        configuration, training goes on from it, to the same result bit for bit.  It is removed at the end.
    progress : bool
        Show a progress bar.
    description : str
        Its label.

    Returns
    -------
    Tensor, float32, shape (n_records, n_runs, n_tasks), on the CPU
        Training loss in nats, every record a mean over ``config.record_every`` steps (the last one over
        what is left); NaN for a run that has left.  Samples are never reused, so this is also the loss on held-out
        data.

    Raises
    ------
    ValueError
        When runs may leave and there is a penalty or constraint.
    """
    if leave is not None and (penalty or constraint):
        raise ValueError("leave is given together with a penalty or constraint; runs can leave only without them")
    hooks = {"precision": config.precision, "loss": loss, "penalty": penalty, "constraint": constraint}
    crew = _Crew(stack, generators, config)
    store = None if checkpoint is None else Checkpoint(checkpoint, stack, crew.optimiser, generators, config)
    step, records = crew.resume(store)
    n_present = steps = None
    with tqdm(total=config.n_steps, initial=step, desc=description, unit="step", disable=not progress) as bar:
        while step < config.n_steps and crew.n_present:
            if n_present != crew.n_present:
                n_present, steps = crew.n_present, StackSteps(*crew.members(), draw_batch, **hooks)
            n_steps = min(config.record_every, config.n_steps - step)
            records.append(crew.in_place(steps.run(n_steps) / n_steps))
            step += n_steps
            bar.update(n_steps)
            if leave is not None:
                crew.dismiss(leave(records[-1]))
            if store is not None:
                store.save_if_due(step, records, crew.order)
    crew.bring_back()
    if store is not None:
        store.remove()
    absent = [torch.full_like(records[-1], torch.nan)] * (len(record_steps(config)) - len(records))
    return torch.stack(records + absent).cpu()


class _Crew:
    """The runs of a stack that still train.  They lie first in memory, so that the others cost nothing.

    Parameters
    ----------
    stack : MLPStack
    generators : sequence of torch.Generator
    config : TrainingConfig

    Attributes
    ----------
    optimiser : torch.optim.Adam
        Of all runs: it holds the moments, also of those that have left.
    order : list of list of int
        Numbers of the runs that still train and of the others, as they lie in memory.
    """

    def __init__(self, stack: MLPStack, generators: Sequence[torch.Generator], config: TrainingConfig) -> None:
        self.stack, self.generators, self.config = stack, generators, config
        self.order = [list(range(stack.n_runs)), []]
        self.optimiser = self._adam(stack)
        for parameter in stack.parameters():
            zeros = torch.zeros_like(parameter, requires_grad=False)
            step = torch.zeros((), device=parameter.device)
            self.optimiser.state[parameter] = {"step": step, "exp_avg": zeros, "exp_avg_sq": zeros.clone()}

    @property
    def n_present(self) -> int:
        """How many runs still train."""
        return len(self.order[0])

    def members(self) -> tuple[MLPStack, torch.optim.Adam, list[torch.Generator]]:
        """Those that still train, in the memory of the whole stack: what `StackSteps` needs of them."""
        present, gone = self.order
        if not gone:  # the stack itself: a penalty or constraint looks at its parameters
            return self.stack, self.optimiser, list(self.generators)
        part = self.stack.first(len(present))
        optimiser = self._adam(part)
        for parameter, whole in zip(part.parameters(), self.stack.parameters(), strict=True):
            state = self.optimiser.state[whole]
            moments = {name: state[name][: len(present)] for name in ("exp_avg", "exp_avg_sq")}
            optimiser.state[parameter] = {"step": state["step"], **moments}
        return part, optimiser, [self.generators[run] for run in present]

    def in_place(self, losses: Tensor) -> Tensor:
        """A record of all runs in their own places, NaN where one has left: (n_runs, n_tasks)."""
        record = losses.new_full((self.stack.n_runs, losses.shape[1]), torch.nan)
        record[self.order[0]] = losses
        return record

    def dismiss(self, is_done: Tensor) -> None:
        """Let the runs go that are done; bool, (n_runs)."""
        present, gone = self.order
        done = [run for run in present if is_done[run]]
        if done:
            stay = [run for run in present if run not in done]
            self._move([present.index(run) for run in stay + done])
            self.order = [stay, done + gone]

    def bring_back(self) -> None:
        """Put every run back in its own place."""
        order = self.order[0] + self.order[1]
        self._move([order.index(run) for run in range(len(order))])
        self.order = [list(range(len(order))), []]

    def resume(self, store: Checkpoint | None) -> tuple[int, list[Tensor]]:
        """Where to go on from, with everything put back: the step and the records so far."""
        step, records, order = (0, [], None) if store is None else store.resume()
        self.order = order or self.order
        return step, records

    @torch.no_grad()
    def _move(self, source: list[int]) -> None:
        """Place i of the first ones takes what lay at ``source[i]``."""
        if source != list(range(len(source))):
            for parameter in self.stack.parameters():
                state = self.optimiser.state[parameter]
                for tensor in (parameter, state["exp_avg"], state["exp_avg_sq"]):
                    tensor[: len(source)] = tensor[source]

    def _adam(self, stack: MLPStack) -> torch.optim.Adam:
        config, on_gpu = self.config, stack.weights[0].is_cuda
        settings = {"lr": config.learning_rate, "eps": config.eps, "fused": True, "capturable": on_gpu}
        return torch.optim.Adam(stack.parameters(), **settings)


def record_steps(config: TrainingConfig) -> list[int]:
    """Steps at which `train_stack` records, in order."""
    steps = list(range(config.record_every, config.n_steps + 1, config.record_every))
    return steps if steps and steps[-1] == config.n_steps else [*steps, config.n_steps]


def runs_per_chunk(sizes: Sequence[int], samples_per_step: int, device: torch.device) -> int:
    """How many runs of this shape to train side by side; at least 1.

    On the CPU as many as keep one step's buffers in the caches, on a GPU as many as fit into half of its memory.

    Raises
    ------
    ValueError
        When the buffers of a single run do not fit on the GPU.
    """
    bytes_per_run = 4 * 2 * samples_per_step * sum(sizes)  # activations and their gradients
    if device.type != "cuda":
        return max(1, CPU_CHUNK_BYTES // bytes_per_run)
    budget = int(GPU_CHUNK_SHARE * torch.cuda.get_device_properties(device).total_memory)
    if bytes_per_run > budget:
        raise ValueError(
            f"sizes is {tuple(sizes)} with {samples_per_step} samples per step; one run needs "
            f"{bytes_per_run / 2**30:.1f} GiB, and the GPU has {budget / 2**30:.1f} GiB for it"
        )
    return budget // bytes_per_run
