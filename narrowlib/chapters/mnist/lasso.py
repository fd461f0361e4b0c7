"""Claims M1 and M2: pruning while training, with a group lasso that empties neurons until few enough are left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress, product

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from narrowlib.chapters.mnist.config import MnistConfig, Outcome, even_goal, recover_to_goal
from narrowlib.chapters.mnist.outcomes import best_settings
from narrowlib.data.digits import Digits
from narrowlib.devices import fast_width
from narrowlib.penalties import group_lasso_gradients_, group_norms
from narrowlib.pruning import apply_masks, slice_state
from narrowlib.stacks.cohort import run_chunks
from narrowlib.stacks.networks import MLPStack, accuracies
from narrowlib.stacks.training import labelled
from narrowlib.units import UnitGroup

METHOD = "group lasso"
WORTH_NARROWING = 0.8  # of the width: when no run of a stack keeps more, dropped neurons are cut out of its tensors


@dataclass(frozen=True)
class Shrunk:
    """A run at the check at which it has shrunk to a target.

    Parameters
    ----------
    case : int
        Which strength, learning rate and repeat.
    target : int
        Neurons to keep at most.
    n_steps : int
        Training steps taken by then.
    state : dict of str to dict of str to Tensor
        ``value``, the parameters, and what the optimiser remembers of them, the dropped neurons cut out; of one run.
    """

    case: int
    target: int
    n_steps: int
    state: dict[str, dict[str, Tensor]]


def prune_while_training(
    config: MnistConfig, teacher: MLPStack, even: Digits, *, progress: bool = True
) -> tuple[Outcome, pd.DataFrame]:
    r"""Shrink the teacher with a group lasso to every target, then train the rest without the penalty.

    .. math:: \min_\theta\ L_\text{even}(\theta) + \lambda \sum_u \lVert\theta_u\rVert_2

    The group of a neuron is its in- and out-weights, without the bias.  At every look at the test digits the neurons
    whose norm is below ``config.lasso.dropped_below`` are dropped, so that a run may come down below its target.  Runs
    that differ in their target only are one run up to the larger target: there it is copied, and the copy goes on
    without the penalty, with the optimiser as it is.

    Returns
    -------
    Outcome
        Of the networks, those of the best step size of every strength are kept.
    DataFrame
        Accuracy while pruning, see `shrink`.

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), Fig 4.
    """
    method, frames, paths = config.lasso.method, [], []
    networks: dict[int, list[MLPStack]] = {target: [] for target in method.neurons}
    for strength in config.lasso.strengths:  # one after the other, since every target of every run is a network
        cases = list(product([strength], method.learning_rates, range(method.n_repeats)))
        shrunk, path = shrink(config, teacher, even, cases, progress=progress)
        paths.append(path)
        for target in method.neurons:
            there = [each for each in shrunk if each.target == target]
            runs, stack = _recovered(config, even, cases, there, target, progress)
            runs["network"] = _kept_places(runs, sum(each.n_runs for each in networks[target]))
            frames.append(runs.assign(strength=strength))
            if stack is not None:
                networks[target].append(_of_runs(stack, runs["network"] >= 0))
    whole = {
        target: MLPStack.from_state(padded([_state(stack, run) for stack in stacks for run in range(stack.n_runs)]))
        for target, stacks in networks.items()
        if stacks
    }
    return Outcome(pd.concat(frames, ignore_index=True), whole), pd.concat(paths, ignore_index=True)


def _recovered(
    config: MnistConfig,
    even: Digits,
    cases: Sequence[tuple[float, float, int]],
    there: Sequence[Shrunk],
    target: int,
    progress: bool,
) -> tuple[pd.DataFrame, MLPStack | None]:
    """How the cases end that came down to a target, and those that did not; and the networks of the former."""
    method = config.lasso.method
    there = sorted(there, key=lambda each: (cases[each.case][1], each.n_steps))  # alike for the optimiser
    missing = sorted(set(range(len(cases))) - {each.case for each in there})
    lost = pd.DataFrame([cases[case][1:] for case in missing], columns=["learning_rate", "repeat"]).assign(
        method=METHOD, neurons=target, points=method.max_points, accuracy=math.nan, reached=False, network=-1
    )
    if not there:
        return lost, None
    states = {kind: padded([each.state[kind] for each in there]) for kind in there[0].state}
    stack, n_steps = MLPStack.from_state(states.pop("value")), [each.n_steps for each in there]
    labels, n_before = [cases[each.case][1:] for each in there], [n * method.step.batch_size for n in n_steps]
    about = {"moments": states, "steps_before": n_steps}
    loss = labelled(even.train_labels)
    ends = recover_to_goal(METHOD, config, method, even, stack, loss, labels, n_before, target, progress, **about)
    return pd.concat([ends, lost], ignore_index=True) if len(lost) else ends, stack


def _kept_places(runs: pd.DataFrame, n_before: int) -> pd.Series:
    """Places of the networks of the best step size, after so many others; -1 for all others."""
    (best,) = best_settings(runs.assign(strength=math.nan)).itertuples()
    is_kept = (runs["learning_rate"] == best.learning_rate) & (runs["network"] >= 0)
    return (n_before + is_kept.cumsum() - 1).where(is_kept, -1)


def _of_runs(stack: MLPStack, is_kept: pd.Series) -> MLPStack:
    """The runs of a stack that are kept; the last rows have none."""
    places = [place for place, kept in enumerate(is_kept[: stack.n_runs]) if kept]
    return MLPStack.from_state({name: tensor.detach()[places] for name, tensor in stack.state_dict().items()})


def _state(stack: MLPStack, run: int) -> dict[str, Tensor]:
    return {name: tensor.detach()[run : run + 1] for name, tensor in stack.state_dict().items()}


def shrink(
    config: MnistConfig,
    teacher: MLPStack,
    even: Digits,
    cases: Sequence[tuple[float, float, int]],
    *,
    progress: bool = True,
) -> tuple[list[Shrunk], pd.DataFrame]:
    """Train copies of the teacher with the penalty, one per (strength, learning rate, repeat), down to every target.

    Cases that are likely to shrink about as fast are trained side by side, so that their tensors can be cut soon.

    Returns
    -------
    list of Shrunk
        In the order of the cases, then of falling targets.
    DataFrame
        ``strength``, ``learning_rate``, ``repeat``, ``points``, ``neurons``, ``accuracy``, at every look.
    """
    shrunk, rows = [], []
    by_speed = sorted(range(len(cases)), key=lambda case: (cases[case][0], cases[case][1]), reverse=True)
    with tqdm(total=len(cases), desc="group lasso, shrinking", unit="run", disable=not progress) as bar:
        for chunk in run_chunks(teacher, by_speed):
            for each in _Shrinking(config, teacher, even, [cases[case] for case in chunk]).run(bar):
                if isinstance(each, Shrunk):
                    shrunk.append(replace(each, case=chunk[each.case]))
                else:
                    rows.append(each)
    shrunk.sort(key=lambda each: (each.case, -each.target))
    return shrunk, pd.DataFrame(rows, columns=["strength", "learning_rate", "repeat", "points", "neurons", "accuracy"])


class _Shrinking:
    """Some runs on their way down."""

    def __init__(
        self,
        config: MnistConfig,
        teacher: MLPStack,
        even: Digits,
        cases: Sequence[tuple[float, float, int]],
    ) -> None:
        self.config, self.even, self.cases = config, even, cases
        self.device = teacher.weights[0].device
        state = {name: t.detach().repeat(len(cases), 1, 1) for name, t in teacher.state_dict().items()}
        of_repeat = config.seeds(METHOD, config.lasso.method.n_repeats)
        seeds = [of_repeat[repeat] for _, _, repeat in cases]
        rates, step, stack = [rate for _, rate, _ in cases], config.lasso.method.step, MLPStack.from_state(state)
        loss = labelled(even.train_labels)
        self.stack: MLPStack | None = None  # that the penalty is of
        self.cohort = step.cohort(stack, even.train_images, loss, rates, seeds, penalty=self._penalty)
        self.is_left = {group.name: torch.ones(len(cases), group.n_units, dtype=torch.bool, device=self.device)
                        for group in teacher.units}  # fmt: skip
        self.targets = [sorted(config.lasso.method.neurons, reverse=True) for _ in cases]

    def run(self, bar: tqdm):
        """Yield a `Shrunk` for every run and target, and a row for every run and look."""
        method, cohort = self.config.lasso.method, self.cohort
        n_between = even_goal(self.config, method, self.even).steps_between(method.step)
        found = self._look()
        while cohort.runs:
            yield from self._rows(found)
            if cohort.stack is not self.stack:  # a graph goes on reading these tensors
                self.stack = cohort.stack
                strength = torch.tensor([self.cases[run][0] for run in cohort.runs], device=self.device)
                self.penalised = without_biases(self.stack), dict(self.stack.named_parameters()), strength
            cohort.run(n_between)
            self._cut()
            found = self._look()
            yield from self._arrived()
            is_over = self._n_points() + n_between * method.step.batch_size > method.max_points
            is_done = [is_over or not self.targets[run] for run in cohort.runs]
            bar.update(sum(is_done))
            if any(is_done):
                cohort.leave(is_done)
                going_on = [not done for done in is_done]
                self.is_left = {name: mask[going_on] for name, mask in self.is_left.items()}
                found, *self.counts = (list(compress(each, going_on)) for each in (found, *self.counts))
            self._narrow()

    def _penalty(self) -> None:
        group_lasso_gradients_(*self.penalised)

    def _n_points(self) -> int:
        return self.cohort.n_steps * self.config.lasso.method.step.batch_size

    def _look(self) -> list[float]:
        """Accuracies; they and the numbers of neurons left, by layer, are read from the device at once."""
        accuracy = accuracies(self.cohort.stack, self.even.test_images, self.even.test_labels)
        *self.counts, found = torch.stack([*(mask.sum(1) for mask in self.is_left.values()), accuracy]).tolist()
        self.counts = [list(map(int, layer)) for layer in self.counts]
        return found

    def _rows(self, found: Sequence[float]):
        for run, accuracy, *count in zip(self.cohort.runs, found, *self.counts, strict=True):
            yield (*self.cases[run], self._n_points(), sum(count), accuracy)

    def _cut(self) -> None:
        """Drop neurons of small norm, but never the last one of a layer."""
        cohort = self.cohort
        parameters = {name: parameter.detach() for name, parameter in cohort.stack.named_parameters()}
        for name, norms in group_norms(without_biases(cohort.stack), parameters).items():
            norms = norms.where(self.is_left[name], -1.0)
            self.is_left[name] = (norms >= self.config.lasso.dropped_below) | (norms == norms.amax(1, keepdim=True))
        for tensors in cohort.state.values():  # without moments, a neuron of zeros stays one
            apply_masks(cohort.stack.units, tensors, self.is_left)

    def _arrived(self):
        for place, (run, *count) in enumerate(zip(list(self.cohort.runs), *self.counts, strict=True)):
            while self.targets[run] and sum(count) <= self.targets[run][0]:
                yield Shrunk(run, self.targets[run].pop(0), self.cohort.n_steps, self._state_of(place))

    def _state_of(self, place: int) -> dict[str, dict[str, Tensor]]:
        masks = {name: mask[place : place + 1] for name, mask in self.is_left.items()}
        units, found = self.cohort.stack.units, {}
        for kind, tensors in self.cohort.state.items():
            own = {name: tensor[place : place + 1] for name, tensor in tensors.items()}
            found[kind] = {name: tensor.clone() for name, tensor in slice_state(own, units, masks).items()}
        return found

    def _narrow(self) -> None:
        """Cut neurons out of the tensors that no longer do anything in any run."""
        widths = [mask.shape[1] for mask in self.is_left.values()]
        counts = [max([1, *layer]) for layer in self.counts]
        widest = [fast_width(count, width, self.device) for count, width in zip(counts, widths, strict=True)]
        if not self.cohort.runs or all(w > WORTH_NARROWING * width for w, width in zip(widest, widths, strict=True)):
            return
        kept = {
            name: mask.float().argsort(dim=1, descending=True, stable=True).argsort(1) < width
            for (name, mask), width in zip(self.is_left.items(), widest, strict=True)
        }
        self.cohort.narrow(kept)
        self.is_left = {name: mask[kept[name]].reshape(len(mask), -1) for name, mask in self.is_left.items()}


def without_biases(stack: MLPStack) -> list[UnitGroup]:
    """The hidden neurons of a stack, each with its in- and out-weights only."""
    return [
        replace(group, slices=[each for each in group.slices if not each.parameter.startswith("biases")])
        for group in stack.units
    ]


def padded(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Stacks of different widths as one, padded with neurons of zeros, which change nothing and stay zero."""
    together = {}
    for name in states[0]:
        tensors = [state[name] for state in states]
        shape = [max(tensor.shape[axis] for tensor in tensors) for axis in (1, 2)]
        whole = tensors[0].new_zeros(len(states), *shape)
        for row, tensor in zip(whole, tensors, strict=True):
            row[: tensor.shape[1], : tensor.shape[2]] = tensor[0]
        together[name] = whole
    return together
