"""The engine that trains many networks at once: finished runs leave, and the remaining ones can be cut narrower."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from narrowlib.devices import moved
from narrowlib.pruning import slice_state
from narrowlib.stacks.networks import MLPStack
from narrowlib.stacks.steps import DrawBatch, Sampler, StackSteps

OPTIMISERS = {  # and what each remembers of a parameter
    "adam": (torch.optim.Adam, ("exp_avg", "exp_avg_sq")),
    "sgd": (torch.optim.SGD, ("momentum_buffer",)),
}
CPU_STATE_BYTES = 24 * 2**20  # parameters, gradients and moments that still sit in a desktop's caches
GPU_STATE_SHARE = 0.4  # of the device's memory; the rest is data, samples and workspace
CPU_STEP_BYTES = 16 * 2**20  # buffers of one step that still sit in a laptop's caches
GPU_STEP_SHARE = 0.5  # of the device's memory; the rest is samples, optimiser state and workspace


class Cohort:
    """Runs in training: a stack, the optimiser state, and every run's generator and learning rate.

    Runs that still train lie first in the memory of the whole stack, so that those that have left cost nothing.

    Parameters
    ----------
    stack : MLPStack
        Trained in place.
    draw_batch : callable or Sampler
        See `narrowlib.stacks.steps.StackSteps`.
    generators : sequence of torch.Generator
        One per run; the only source of randomness.
    learning_rates : sequence of float
        One per run.
    optimiser : {"adam", "sgd"}
    settings : mapping of str to Any, optional
        Of the optimiser, beside the learning rate, as torch names them.
    moments : mapping of str to mapping of str to Tensor, optional
        What an optimiser remembers from earlier training, shaped as the parameters: by kind, then by name, as in
        `state`; nothing by default.  They are changed in place.
    steps_before : sequence of int, optional
        Steps of that training, one number per run; Adam's bias correction counts them.
    **options
        ``precision``, ``loss``, ``max_norm``, ``penalty``, ``constraint``; see `narrowlib.stacks.steps.StackSteps`.

    Attributes
    ----------
    runs : list of int
        Numbers of the runs that still train, counted as they were at the start.
    stack : MLPStack
        Of these runs, in their order.
    n_steps : int
        Steps that each of them has taken.
    """

    def __init__(
        self,
        stack: MLPStack,
        draw_batch: DrawBatch | Sampler,
        generators: Sequence[torch.Generator],
        learning_rates: Sequence[float],
        optimiser: str = "adam",
        settings: Mapping[str, Any] | None = None,
        *,
        moments: Mapping[str, Mapping[str, Tensor]] | None = None,
        steps_before: Sequence[int] | None = None,
        **options: Any,
    ) -> None:
        if not len(generators) == len(learning_rates) == stack.n_runs:
            raise ValueError(
                f"there are {stack.n_runs} runs, {len(generators)} generators and {len(learning_rates)} learning "
                f"rates; there must be the same number of each"
            )
        self.runs, self._left, self.n_steps = list(range(stack.n_runs)), [], 0
        self._draw_batch, self._generators, self._rates = draw_batch, list(generators), list(learning_rates)
        self._optimiser, self._settings, self._options = optimiser, dict(settings or {}), options
        self._whole = stack
        values, kinds = _values(stack), OPTIMISERS[optimiser][1]
        zeros = {kind: {name: torch.zeros_like(v) for name, v in values.items()} for kind in kinds}
        self._moments = {kind: dict((moments or zeros)[kind]) for kind in kinds}
        self._steps_before = list(steps_before or [0] * stack.n_runs)
        self._bind()

    @property
    def state(self) -> dict[str, dict[str, Tensor]]:
        """Parameters and moments of the runs that still train, by name; ``value`` holds the parameters.

        The tensors are those that are trained; they may be changed in place.
        """
        n = len(self.runs)
        return {kind: {name: t[:n] for name, t in tensors.items()} for kind, tensors in self._state().items()}

    def run(self, n_steps: int) -> Tensor:
        """Take this many steps and return every run's mean loss on each task over them: (len(runs), n_tasks)."""
        return self.records(n_steps, 1)[0]

    def records(self, n_steps: int, n_records: int) -> Tensor:
        """Call `run` this many times in a row: (n_records, len(runs), n_tasks)."""
        self.n_steps += n_steps * n_records
        return self._steps.run(n_steps, n_records) / n_steps

    def leave(self, is_done: Sequence[bool]) -> None:
        """Let runs go, with the parameters they have now; one value for each of `runs`."""
        places = range(len(self.runs))
        stay, go = ([place for place in places if bool(is_done[place]) is done] for done in (False, True))
        if go:
            self._move(stay + go)
            self.runs, gone = ([self.runs[place] for place in some] for some in (stay, go))
            self._left = gone + self._left
            if self.runs:
                self._bind()

    def narrow(self, masks: Mapping[str, Tensor]) -> None:
        """Cut units out of the runs that still train, see `narrowlib.pruning.slice_state`; the others are forgotten."""
        state = {kind: slice_state(tensors, self.stack.units, masks) for kind, tensors in self.state.items()}
        self._whole, self._moments, self._left = MLPStack.from_state(state.pop("value")), state, []
        self._bind()

    def bring_back(self) -> None:
        """Put every run back in its own place in the stack, when training is over."""
        order = self.runs + self._left
        self.runs, self._left = sorted(order), []
        self._move([order.index(run) for run in self.runs])

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that training continues from: tensors by name, and the rest as json stores it."""
        tensors = {f"{kind}.{name}": t for kind, values in self._state().items() for name, t in values.items()}
        tensors |= {f"generator.{run}": generator.get_state() for run, generator in enumerate(self._generators)}
        return tensors, {"n_steps": self.n_steps, "runs": self.runs, "left": self._left}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> bool:
        """Continue from what `saved` returned for such a cohort; return False and change nothing if it does not fit."""
        mine, _ = self.saved()
        if {name: t.shape for name, t in mine.items()} != {name: t.shape for name, t in tensors.items()}:
            return False
        for kind, values in self._state().items():
            for name, tensor in values.items():
                tensor.copy_(tensors[f"{kind}.{name}"])
        for run, generator in enumerate(self._generators):
            generator.set_state(tensors[f"generator.{run}"])
        self.n_steps, self.runs, self._left = about["n_steps"], about["runs"], about["left"]
        if self.runs:
            self._bind()
        return True

    def _state(self) -> dict[str, dict[str, Tensor]]:
        return {"value": _values(self._whole), **self._moments}

    @torch.no_grad()
    def _move(self, source: list[int]) -> None:
        """Place i of the first ones takes what lay at ``source[i]``."""
        if source != list(range(len(source))):
            places = moved(torch.tensor(source), self._whole.weights[0].device)
            for tensors in self._state().values():
                for tensor in tensors.values():
                    tensor[: len(source)] = tensor[places]

    def _bind(self) -> None:
        """Give the optimiser a view of every range of runs that share rate and age, and start its steps."""
        n, whole = len(self.runs), self._whole
        self.stack = whole if n == whole.n_runs else whole.first(n)  # a penalty or constraint knows the whole stack
        for part, parameter in zip(self.stack.parameters(), whole.parameters(), strict=True):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            part.grad = parameter.grad[:n]
        groups, moments, ages = [], {}, {}
        alike = groupby(range(n), key=lambda place: self._rate_and_age(self.runs[place]))
        for (rate, age), places in alike:
            equal = list(places)
            some = slice(equal[0], equal[-1] + 1)
            groups.append({"params": [], "lr": rate})
            for name, parameter in self.stack.named_parameters():
                view = nn.Parameter(parameter.detach()[some])
                view.grad = parameter.grad[some]
                groups[-1]["params"].append(view)
                moments[view] = {kind: tensors[name][some] for kind, tensors in self._moments.items()}
                ages[view] = age
        optimiser = self._new_optimiser(groups)
        optimiser.state.update(moments)
        if self._optimiser == "adam":
            for view, remembered in moments.items():
                remembered["step"] = torch.full((), float(ages[view]), device=view.device)
        generators = [self._generators[run] for run in self.runs]
        self._steps = StackSteps(self.stack, optimiser, generators, self._draw_batch, **self._options)

    def _rate_and_age(self, run: int) -> tuple[float, int]:
        return self._rates[run], self._steps_before[run] + self.n_steps

    def _new_optimiser(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        more = {"capturable": self._whole.weights[0].is_cuda} if self._optimiser == "adam" else {}
        return OPTIMISERS[self._optimiser][0](groups, lr=1.0, fused=True, **self._settings, **more)


def _values(stack: MLPStack) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in stack.named_parameters()}


def run_chunks(stack: MLPStack, runs: Sequence[int]) -> Iterator[list[int]]:
    """The runs in chunks trained side by side; several chunks where memory or its bandwidth makes that faster."""
    budget = _budget(stack.weights[0].device, CPU_STATE_BYTES, GPU_STATE_SHARE)
    size = max(1, budget // (4 * 4 * stack.n_parameters))  # parameters, gradients and two moments
    return (list(runs[start : start + size]) for start in range(0, len(runs), size))


def runs_per_chunk(
    sizes: Sequence[int], samples_per_step: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> int:
    """How many runs of this shape to train side by side; at least 1.

    On the CPU as many as keep one step's buffers, which are of ``dtype``, in the caches; but one per thread while those
    take at most four times as much, since products of several runs are shared out by run.  On a GPU as many as fit into
    half of its memory.

    Raises
    ------
    ValueError
        When the buffers of a single run do not fit on the GPU.
    """
    bytes_per_run = dtype.itemsize * 2 * samples_per_step * sum(sizes)  # activations and their gradients
    budget = _budget(device, CPU_STEP_BYTES, GPU_STEP_SHARE)
    if device.type == "cuda" and bytes_per_run > budget:
        raise ValueError(
            f"sizes is {tuple(sizes)} with {samples_per_step} samples per step; one run needs "
            f"{bytes_per_run / 2**30:.1f} GiB, and the GPU has {budget / 2**30:.1f} GiB for it"
        )
    one_per_thread = 0 if device.type == "cuda" else min(torch.get_num_threads(), 4 * budget // bytes_per_run)
    return max(1, budget // bytes_per_run, one_per_thread)


def _budget(device: torch.device, cpu_bytes: int, gpu_share: float) -> int:
    if device.type != "cuda":
        return cpu_bytes
    return int(gpu_share * torch.cuda.get_device_properties(device).total_memory)
