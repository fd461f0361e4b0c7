"""Claims M1 and M2: pruning while training, with a group lasso that empties neurons until few enough are left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from narrowlib.chapters.mnist.config import SEEDS, MnistConfig, Outcome, even_goal, recover_to_goal
from narrowlib.data.digits import Digits
from narrowlib.penalties import group_lasso_gradients_, group_norms
from narrowlib.pruning import apply_masks, slice_state
from narrowlib.stacks.cohort import run_chunks
from narrowlib.stacks.networks import MLPStack, accuracies
from narrowlib.stacks.training import labelled

METHOD = "group lasso"
STEPS_BETWEEN_CUTS = 10  # neurons are dropped, and targets noticed, every so many steps
WORTH_NARROWING = 0.8  # of the width: when no run of a stack keeps more, dropped neurons are cut out of its tensors


@dataclass(frozen=True)
class Shrunk:
    """A run at the moment when it has come down to a target.

    Parameters
    ----------
    case : int
        Which strength, learning rate and repeat.
    target : int
        Neurons that are left.
    points : int
        Training samples seen by then.
    state : dict of str to Tensor
        The parameters, the dropped neurons cut out; a stack of one.
    """

    case: int
    target: int
    points: int
    state: dict[str, Tensor]


def prune_while_training(
    config: MnistConfig, teacher: MLPStack, even: Digits, *, progress: bool = True
) -> tuple[Outcome, pd.DataFrame]:
    r"""Shrink the teacher with a group lasso to every target, and train what is left without the penalty.

    .. math:: \min_\theta\ L_\text{even}(\theta) + \lambda \sum_u \lVert\theta_u\rVert_2

    A neuron whose norm has fallen below ``config.lasso.dropped_below`` is dropped, the smallest first and never
    more than down to the next target.  Runs that differ in their target only are one run up to the larger target:
    there it is copied, and the copy goes on without the penalty, with a fresh optimiser.

    Returns
    -------
    Outcome
        Runs that do not come down to a target within the samples have no row.
    DataFrame
        Accuracy while pruning and afterwards: ``strength``, ``learning_rate``, ``repeat``, ``target`` (0 while
        pruning, before targets part the runs), ``points``, ``neurons``, ``accuracy`` (on the even test digits).

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), Fig 4.
    """
    cases = list(product(config.lasso.strengths, config.lasso.method.learning_rates, range(config.n_repeats)))
    shrunk, path = shrink(config, teacher, even, cases, progress=progress)
    frames, networks = [], {}
    for target in config.lasso.method.neurons:
        there = [each for each in shrunk if each.target == target]
        if there:
            stack = MLPStack.from_state(padded([each.state for each in there]))
            labels = [cases[each.case][1:] for each in there]
            n_before, loss = [each.points for each in there], labelled(even.train_labels)
            step = config.lasso.method.step
            ends = recover_to_goal(METHOD, config, step, even, stack, loss, labels, n_before, target, progress)
            networks[target] = stack
            frames.append(ends.assign(strength=[cases[each.case][0] for each in there]))
    columns = ["learning_rate", "repeat", "method", "neurons", "points", "accuracy", "reached", "strength"]
    runs = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)
    return Outcome(runs, networks), path


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
                    shrunk.append(Shrunk(chunk[each.case], each.target, each.points, each.state))
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
        seeds = [SEEDS[METHOD] + config.first_seed + repeat for _, _, repeat in cases]
        rates, step, stack = [rate for _, rate, _ in cases], config.lasso.method.step, MLPStack.from_state(state)
        loss = labelled(even.train_labels)
        self.stack: MLPStack | None = None  # that the penalty is of
        self.cohort = step.cohort(stack, even.train_images, loss, rates, seeds, penalty=self._penalty)
        self.is_left = {group.name: torch.ones(len(cases), group.n_units, dtype=torch.bool, device=self.device)
                        for group in teacher.units}  # fmt: skip
        self.targets = [sorted(config.lasso.method.neurons, reverse=True) for _ in cases]

    def run(self, bar: tqdm):
        """Yield a `Shrunk` for every run and target, and a row for every run and look."""
        goal, step = even_goal(self.config, self.even), self.config.lasso.method.step
        n_between = -(-goal.steps_between(step) // STEPS_BETWEEN_CUTS)  # cuts from one look to the next
        cohort, n_cuts = self.cohort, 0
        while cohort.runs:
            if n_cuts % n_between == 0:
                yield from self._look()
            n_cuts += 1
            if cohort.stack is not self.stack:  # a graph goes on reading these tensors
                self.stack = cohort.stack
                strength = torch.tensor([self.cases[run][0] for run in cohort.runs], device=self.device)
                self.penalised = self.stack.units, dict(self.stack.named_parameters()), strength
            cohort.run(STEPS_BETWEEN_CUTS)
            yield from self._cut()
            is_over = self._n_points() + STEPS_BETWEEN_CUTS * step.batch_size > self.config.max_points
            is_done = [is_over or not self.targets[run] for run in cohort.runs]
            if any(is_done):
                bar.update(sum(is_done))
                cohort.leave(is_done)
                going_on = [not done for done in is_done]
                self.is_left = {name: mask[going_on] for name, mask in self.is_left.items()}
            self._narrow()

    def _penalty(self) -> None:
        group_lasso_gradients_(*self.penalised)

    def _n_points(self) -> int:
        return self.cohort.n_steps * self.config.lasso.method.step.batch_size

    def _look(self):
        found = accuracies(self.cohort.stack, self.even.test_images, self.even.test_labels).tolist()
        counts = sum(mask.sum(1) for mask in self.is_left.values()).tolist()
        for run, accuracy, count in zip(self.cohort.runs, found, counts, strict=True):
            yield (*self.cases[run], self._n_points(), count, accuracy)

    def _cut(self):
        """Drop neurons of small norm, of every run no more than down to its next target."""
        cohort = self.cohort
        norms = group_norms(cohort.stack.units, {n: p.detach() for n, p in cohort.stack.named_parameters()})
        sizes = [mask.shape[1] for mask in self.is_left.values()]
        norms, is_left = torch.cat(list(norms.values()), 1), torch.cat(list(self.is_left.values()), 1)
        next_target = torch.tensor([self.targets[run][0] for run in cohort.runs], device=self.device)
        wanted = (is_left & (norms >= self.config.lasso.dropped_below)).sum(1)
        n_left = torch.maximum(wanted, torch.minimum(next_target, is_left.sum(1)))
        order = norms.where(is_left, -1.0).argsort(dim=1, descending=True, stable=True)
        is_left = order.argsort(1) < n_left[:, None]
        self.is_left = dict(zip(self.is_left, is_left.split(sizes, 1), strict=True))
        for tensors in cohort.state.values():  # without moments, a neuron of zeros stays one
            apply_masks(cohort.stack.units, tensors, self.is_left)
        for place, (run, count) in enumerate(zip(list(cohort.runs), n_left.tolist(), strict=True)):
            if count <= self.targets[run][0]:
                yield Shrunk(run, self.targets[run].pop(0), self._n_points(), self._state_of(place))

    def _state_of(self, place: int) -> dict[str, Tensor]:
        values = {name: t[place : place + 1] for name, t in self.cohort.state["value"].items()}
        masks = {name: mask[place : place + 1] for name, mask in self.is_left.items()}
        return {name: t.clone() for name, t in slice_state(values, self.cohort.stack.units, masks).items()}

    def _narrow(self) -> None:
        """Cut neurons out of the tensors that no longer do anything in any run."""
        widest = [int(mask.sum(1).max()) if len(mask) else 0 for mask in self.is_left.values()]
        widths = [mask.shape[1] for mask in self.is_left.values()]
        if not self.cohort.runs or all(w > WORTH_NARROWING * width for w, width in zip(widest, widths, strict=True)):
            return
        kept = {
            name: mask.float().argsort(dim=1, descending=True, stable=True).argsort(1) < max(1, width)
            for (name, mask), width in zip(self.is_left.items(), widest, strict=True)
        }
        self.cohort.narrow(kept)
        self.is_left = {name: mask[kept[name]].reshape(len(mask), -1) for name, mask in self.is_left.items()}


def padded(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Stacks of different widths as one, filled up with neurons of zeros, which change nothing and stay as they are."""
    together = {}
    for name in states[0]:
        tensors = [state[name] for state in states]
        shape = [max(tensor.shape[axis] for tensor in tensors) for axis in (1, 2)]
        whole = tensors[0].new_zeros(len(states), *shape)
        for row, tensor in zip(whole, tensors, strict=True):
            row[: tensor.shape[1], : tensor.shape[2]] = tensor[0]
        together[name] = whole
    return together
