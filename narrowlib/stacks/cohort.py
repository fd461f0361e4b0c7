"""Training until a goal is reached: runs that are done leave their stack and cost nothing from then on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from narrowlib.stacks.gradients import StackGradient, clip_gradients_, cross_entropy
from narrowlib.stacks.networks import MLPStack
from narrowlib.stacks.training import make_generators

Loss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # of logits and the numbers of the rows they belong to
OPTIMISERS = {  # and what each remembers of a parameter
    "adam": (torch.optim.Adam, ("exp_avg", "exp_avg_sq")),
    "sgd": (torch.optim.SGD, ("momentum_buffer",)),
}
CPU_STATE_BYTES = 24 * 2**20  # parameters, gradients and moments that still sit in a desktop's caches
GPU_STATE_SHARE = 0.4  # of the device's memory; the rest is data, samples and workspace
BLOCK_BYTES = 16 * 2**20  # activations of one block of held-out samples, on a CPU
GPU_BLOCK_BYTES = 2**30  # the same on a GPU, where each pass over the weights should do much at once


@dataclass(frozen=True)
class StepConfig:
    """One optimiser step.

    Parameters
    ----------
    batch_size : int
        Samples of each run.
    optimiser : {"adam", "sgd"}
    momentum : float
        Of SGD, from 0 up to 1.
    weight_decay : float
        Weight of the squared norm of the parameters, times one half, in the loss.
    max_norm : float, optional
        Longer gradients are scaled down to this norm.
    """

    batch_size: int
    optimiser: str = "adam"
    momentum: float = 0.9
    weight_decay: float = 0.0
    max_norm: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.batch_size, bool) or not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size!r}; it must be a whole number of at least 1")
        if self.optimiser not in OPTIMISERS:
            raise ValueError(f"optimiser is {self.optimiser!r}; it must be one of {', '.join(OPTIMISERS)}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum!r}; it must be a number from 0 up to 1")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay is {self.weight_decay!r}; it must be a number of at least 0")
        if self.max_norm is not None and not self.max_norm > 0:
            raise ValueError(f"max_norm is {self.max_norm!r}; it must be a positive number")

    def make_optimiser(self, groups: list[dict[str, object]]) -> torch.optim.Optimizer:
        """The optimiser of parameter groups that name their own learning rate."""
        more = {"momentum": self.momentum} if self.optimiser == "sgd" else {}
        return OPTIMISERS[self.optimiser][0](groups, lr=1.0, weight_decay=self.weight_decay, fused=True, **more)


@dataclass(frozen=True)
class Goal:
    """When a run is done.

    Parameters
    ----------
    inputs : Tensor, shape (n, n_inputs)
        Held-out samples.
    labels : Tensor, int64, shape (n,)
    accuracy : float
        A run is done when it classifies this share of them; above 1 means never.
    check_every : int
        Training samples between two looks at them.
    """

    inputs: Tensor
    labels: Tensor
    accuracy: float
    check_every: int

    def __post_init__(self) -> None:
        if isinstance(self.check_every, bool) or not isinstance(self.check_every, int) or self.check_every < 1:
            raise ValueError(f"check_every is {self.check_every!r}; it must be a whole number of at least 1")
        if not self.accuracy > 0:
            raise ValueError(f"accuracy is {self.accuracy!r}; it must be a positive number")


class Cohort:
    """A stack in training, its optimiser and its order of samples; runs can leave it, and it can be cut narrower.

    Parameters
    ----------
    stack : MLPStack
        Trained in place until runs leave; ``stack`` is the present one.
    inputs : Tensor, shape (n_rows, n_inputs)
        Training samples, the same for every run.
    generators : sequence of torch.Generator
        One per run, for the order of its samples: every epoch another, all rows once but for a last short batch.
    learning_rates : sequence of float
        One per run.
    config : StepConfig

    Attributes
    ----------
    runs : list of int
        Numbers of the runs that are still there, counted as they were at the start.
    n_points : int
        Training samples that each of them has seen.
    """

    def __init__(
        self,
        stack: MLPStack,
        inputs: Tensor,
        generators: Sequence[torch.Generator],
        learning_rates: Sequence[float],
        config: StepConfig,
    ) -> None:
        if not len(generators) == len(learning_rates) == stack.n_runs:
            raise ValueError(
                f"there are {stack.n_runs} runs, {len(generators)} generators and {len(learning_rates)} learning "
                f"rates; there must be as many of each"
            )
        if config.batch_size > len(inputs):
            raise ValueError(f"batch_size is {config.batch_size}; it must be at most {len(inputs)}, the samples")
        self.inputs, self.config, self.n_points, self.n_steps = inputs, config, 0, 0
        self.runs, self._generators, self._rates = list(range(stack.n_runs)), list(generators), list(learning_rates)
        self._order = torch.empty(stack.n_runs, 0, dtype=torch.int64, device=inputs.device)
        self._position = 0
        memories = OPTIMISERS[config.optimiser][1]
        values = {name: parameter.detach() for name, parameter in stack.named_parameters()}
        moments = {memory: {name: torch.zeros_like(v) for name, v in values.items()} for memory in memories}
        self._bind(stack, moments)

    @property
    def state(self) -> dict[str, dict[str, Tensor]]:
        """Everything that has the shape of the parameters, by kind and name: ``value`` and what the optimiser keeps."""
        return {"value": {name: p.detach() for name, p in self.stack.named_parameters()}, **self._moments}

    def step(self, loss: Loss, penalty: Callable[[], None] | None = None) -> None:
        """Train every run on one batch; ``penalty`` may add to the gradients before they are clipped."""
        rows = self._draw()  # (runs, batch)
        self._gradient_of.loss = loss
        self._gradient_of(self.inputs[rows], rows)
        if penalty is not None:
            penalty()
        if self.config.max_norm is not None:
            clip_gradients_(self.stack, self.config.max_norm)
        self._optimiser.step()
        self.n_steps += 1
        self.n_points += self.config.batch_size

    def keep(self, positions: Sequence[int]) -> None:
        """Go on with the runs at these places of `runs` only."""
        chosen = torch.tensor(positions, dtype=torch.int64, device=self.inputs.device)
        self.runs, self._generators, self._rates = (
            [values[p] for p in positions] for values in (self.runs, self._generators, self._rates)
        )
        self._order = self._order[chosen]
        if positions:
            self.load({kind: {name: t[chosen] for name, t in tensors.items()} for kind, tensors in self.state.items()})

    def load(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Go on with another `state`, of as many runs; hidden layers may have another width."""
        values, moments = state["value"], {kind: dict(state[kind]) for kind in self._moments}
        stack = MLPStack.from_state(values)
        if stack.n_runs != len(self.runs):
            raise ValueError(f"state holds {stack.n_runs} runs; it must hold {len(self.runs)}")
        self._bind(stack, moments)

    def _bind(self, stack: MLPStack, moments: dict[str, dict[str, Tensor]]) -> None:
        """Give the optimiser a view of every range of runs that share a learning rate."""
        self.stack, self._moments = stack, moments
        self._gradient_of = StackGradient(stack, self.config.batch_size)
        groups, remembered = [], []
        for start, stop in _equal_ranges(self._rates):
            views = []
            for name, parameter in stack.named_parameters():
                view = nn.Parameter(parameter.detach()[start:stop])
                view.grad = parameter.grad[start:stop]
                views.append(view)
                remembered.append((view, {kind: values[name][start:stop] for kind, values in moments.items()}))
            groups.append({"params": views, "lr": self._rates[start]})
        self._optimiser = self.config.make_optimiser(groups)
        for view, values in remembered:
            steps = {"step": torch.tensor(float(self.n_steps), device=view.device)} if "exp_avg" in values else {}
            self._optimiser.state[view] = {**steps, **values}

    def _draw(self) -> Tensor:
        size = self.config.batch_size
        if self._position + size > self._order.shape[1]:
            n, device = len(self.inputs), self.inputs.device
            self._order = torch.stack([torch.randperm(n, generator=g, device=device) for g in self._generators])
            self._position = 0
        self._position += size
        return self._order[:, self._position - size : self._position]


def _equal_ranges(values: Sequence[float]) -> Iterator[tuple[int, int]]:
    start = 0
    for stop in range(1, len(values) + 1):
        if stop == len(values) or values[stop] != values[start]:
            yield start, stop
            start = stop


def recover(
    stack: MLPStack,
    inputs: Tensor,
    loss: Loss,
    goal: Goal,
    config: StepConfig,
    *,
    learning_rates: Sequence[float],
    seeds: Sequence[int],
    max_points: Sequence[int],
    progress: bool = True,
    description: str = "recover",
) -> pd.DataFrame:
    """Train every run in place until it reaches the goal, or its samples are used up.

    A run that is done leaves, with the parameters it has then, and the others go on without paying for it.  On the
    CPU few runs train at a time, so that what a step touches stays in the caches.

    Parameters
    ----------
    stack : MLPStack
    inputs : Tensor, shape (n_rows, n_inputs)
        Training samples.
    loss : callable
        From logits (n_runs, batch, n_classes) and the numbers of their rows (n_runs, batch) to per-sample losses and
        their gradient in the logits; see `labelled`.
    goal : Goal
        Looked at before the first step and from then on after every ``goal.check_every`` samples.
    config : StepConfig
    learning_rates : sequence of float
        One per run.
    seeds : sequence of int
        One per run, of the order of its samples.
    max_points : sequence of int
        Training samples that each run may see; it stops at the last look before.
    progress : bool
        Show a progress bar.
    description : str
        Its label.

    Returns
    -------
    DataFrame
        One row per run and look: ``run``, ``points`` (training samples seen by then), ``accuracy``.  The last of each
        run says how it ended.
    """
    device, rows, n_between = stack.weights[0].device, [], steps_between(goal, config)
    values = {name: parameter.detach() for name, parameter in stack.named_parameters()}
    with tqdm(total=stack.n_runs, desc=description, unit="run", disable=not progress) as bar:
        for chunk in run_chunks(stack, range(stack.n_runs)):
            part = MLPStack.from_state({name: tensor[chunk].clone() for name, tensor in values.items()})
            generators = make_generators([seeds[run] for run in chunk], device)
            cohort = Cohort(part, inputs, generators, [learning_rates[run] for run in chunk], config)
            while cohort.runs:
                found = accuracies(cohort.stack, goal.inputs, goal.labels).tolist()
                rows += [(chunk[run], cohort.n_points, share) for run, share in zip(cohort.runs, found, strict=True)]
                is_done = [
                    share >= goal.accuracy or cohort.n_points + n_between * config.batch_size > max_points[chunk[run]]
                    for run, share in zip(cohort.runs, found, strict=True)
                ]
                if any(is_done):
                    for name, tensor in cohort.state["value"].items():
                        for place, run in enumerate(cohort.runs):
                            if is_done[place]:
                                values[name][chunk[run]] = tensor[place]
                    bar.update(sum(is_done))
                    cohort.keep([place for place, done in enumerate(is_done) if not done])
                for _ in range(n_between if cohort.runs else 0):
                    cohort.step(loss)
    return pd.DataFrame(rows, columns=["run", "points", "accuracy"])


def steps_between(goal: Goal, config: StepConfig) -> int:
    """Steps from one look at the held-out samples to the next."""
    return max(1, round(goal.check_every / config.batch_size))


def labelled(labels: Tensor, loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = cross_entropy) -> Loss:
    """A loss of logits and labels as one of logits and rows, where ``labels`` are those of all rows."""
    return lambda logits, rows: loss(logits, labels[rows])


def accuracies(stack: MLPStack, inputs: Tensor, labels: Tensor, classes: Sequence[int] | None = None) -> Tensor:
    """Share of samples that each run classifies as labelled: (n_runs,).  See `predictions` for ``classes``."""
    return (predictions(stack, inputs, classes) == labels).float().mean(1)


@torch.no_grad()
def predictions(stack: MLPStack, inputs: Tensor, classes: Sequence[int] | None = None) -> Tensor:
    """Class of the highest logit, of each run on the same samples: (n_runs, n).

    With ``classes`` no other answer is open.
    """
    answers = torch.tensor(range(stack.sizes[-1]) if classes is None else classes, device=inputs.device)
    block_bytes = GPU_BLOCK_BYTES if inputs.is_cuda else BLOCK_BYTES
    n_block = max(1, block_bytes // (4 * stack.n_runs * max(stack.sizes)))
    found = [
        answers[stack(block.expand(stack.n_runs, -1, -1))[..., answers].argmax(-1)] for block in inputs.split(n_block)
    ]
    return torch.cat(found, dim=1)


def run_chunks(stack: MLPStack, runs: Sequence[int]) -> Iterator[list[int]]:
    """The runs in parts that are trained side by side; several where memory bandwidth or memory makes that faster."""
    device = stack.weights[0].device
    budget = CPU_STATE_BYTES
    if device.type == "cuda":
        budget = int(GPU_STATE_SHARE * torch.cuda.get_device_properties(device).total_memory)
    size = max(1, budget // (4 * 4 * stack.n_parameters))  # parameters, gradients and two moments
    return (list(runs[start : start + size]) for start in range(0, len(runs), size))
