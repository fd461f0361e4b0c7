"""The training loop of stacks: one optimiser step moves every run at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from narrowlib.checkpoints import Checkpoint
from narrowlib.gradients import PRECISIONS, LossAndGradient, StackGradient, cross_entropy
from narrowlib.models import MLPStack

BITS_PER_NAT = 1 / math.log(2)

DrawBatch = Callable[[Sequence[torch.Generator]], tuple[Tensor, Tensor]]
CPU_CHUNK_BYTES = 16 * 2**20  # buffers of one step that still sit in a laptop's caches
GPU_CHUNK_SHARE = 0.5  # of the device's memory; the rest is samples, optimiser state and workspace


@dataclass(frozen=True)
class TrainingConfig:
    """How a stack is trained.

    Parameters
    ----------
    n_steps : int
        Optimiser steps.
    learning_rate : float
        Adam step size.
    eps : float
        Added to Adam's denominator; 1e-5 in the paper.
    record_every : int
        Steps between two records; a record is the mean loss of the steps since the last one.
    precision : {"float32", "bfloat16"}
        Of matrix products and activations; parameters and optimiser are float32.
    """

    n_steps: int
    learning_rate: float = 1e-3
    eps: float = 1e-5
    record_every: int = 100
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name in ("n_steps", "record_every"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
        for name in ("learning_rate", "eps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise ValueError(f"{name} is {value!r}; it must be a positive number")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; it must be one of {', '.join(PRECISIONS)}")


def pick_device(device: str) -> torch.device:
    """The device of a name: ``"auto"`` is the GPU when there is one, the CPU otherwise.

    Raises
    ------
    ValueError
        When the name is unknown, or the device is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device is {device!r}; it must be one of auto, cpu, cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but torch finds no GPU; use auto or cpu")
    return torch.device(device)


def make_generators(seeds: Sequence[int], device: str | torch.device) -> list[torch.Generator]:
    """One seeded generator per run, on ``device``."""
    return [torch.Generator(device=device).manual_seed(seed) for seed in seeds]


def train_stack(
    stack: MLPStack,
    draw_batch: DrawBatch,
    generators: Sequence[torch.Generator],
    config: TrainingConfig,
    *,
    loss: LossAndGradient = cross_entropy,
    penalty: Callable[[], None] | None = None,
    constraint: Callable[[], None] | None = None,
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
    draw_batch : callable
        From the generators to inputs (n_runs, n_tasks, batch, n_inputs) and labels (n_runs, n_tasks, batch),
        fresh at every call.
    generators : sequence of torch.Generator
        One per run; the only source of randomness.
    config : TrainingConfig
    loss : callable
        Per-sample losses and their gradient in the logits, see `narrowlib.gradients.cross_entropy`.
    penalty : callable, optional
        Called after every gradient; adds a penalty's gradient to the ``grad`` of the parameters.
    constraint : callable, optional
        Called after every step; changes the parameters in place, to hold removed units at zero or to take a proximal
        step.
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
        what is left).  Samples are never reused, so this is also the loss on held-out data.
    """
    optimiser = torch.optim.Adam(stack.parameters(), lr=config.learning_rate, eps=config.eps, fused=True)
    store = None if checkpoint is None else Checkpoint(checkpoint, stack, optimiser, generators, config)
    step, records = (0, []) if store is None else store.resume()
    gradient_of = total = None
    n_summed = 0
    with tqdm(total=config.n_steps, initial=step, desc=description, unit="step", disable=not progress) as bar:
        while step < config.n_steps:
            x, labels = draw_batch(generators)
            if gradient_of is None:
                gradient_of = StackGradient(stack, labels[0].numel(), loss=loss, precision=config.precision)
            losses = gradient_of(x.flatten(1, 2), labels.flatten(1)).view_as(labels).mean(-1)  # (runs, tasks)
            if penalty is not None:
                penalty()
            optimiser.step()
            if constraint is not None:
                constraint()
            total = losses if total is None else total + losses
            step, n_summed = step + 1, n_summed + 1
            if step % config.record_every == 0 or step == config.n_steps:
                records.append(total / n_summed)
                bar.update(n_summed)
                total, n_summed = None, 0
                if store is not None:
                    store.save_if_due(step, records)
    if store is not None:
        store.remove()
    return torch.stack(records).cpu()


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
