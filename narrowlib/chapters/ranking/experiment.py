"""Beyond the paper: how much of a pruned network's head start is the ranking, and how much the trained teacher."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from narrowlib.chapters.mnist.config import EVEN, SCORE_BATCHES, MnistConfig
from narrowlib.chapters.mnist.methods import (
    attribution,
    cut_by,
    hidden_activations,
    kept_teacher,
    random_networks,
    recovered,
)
from narrowlib.chapters.ranking.config import Config
from narrowlib.data.digits import Digits, mnist_digits
from narrowlib.devices import pick_device
from narrowlib.penalties import group_norms
from narrowlib.stacks.networks import MLPStack
from narrowlib.stacks.training import make_generators
from narrowlib.store.kept import Kept

SCORED = ("attribution", "wrong labels", "activation norm")  # rankings that look at samples
RANKINGS = (*SCORED, "weight norm", "random", "index")
SCRATCH, NORMS = "from scratch", "from scratch, teacher's norms"
WAYS = (*RANKINGS, NORMS, SCRATCH)


def points_to_goal(config: Config, digits: Digits, *, progress: bool = True) -> pd.DataFrame:
    """Training samples until 97% accuracy on the even test digits, for one teacher cut by several rankings.

    Parameters
    ----------
    config : narrowlib.chapters.ranking.config.Config
    digits : Digits
        All ten.
    progress : bool
        Show progress bars.

    Returns
    -------
    DataFrame
        One row per run: ``way`` (one of `WAYS`), ``neurons``, ``learning_rate``, ``seed``, ``samples`` (those of scores
        counted; NaN when the goal was not reached), ``budget``, ``accuracy`` at the end.
    """
    asked, even = config.comparison, digits.only(EVEN)
    store = Kept(config.checkpoints, config.to_parameters(), device=digits.train_images.device)
    teacher = kept_teacher(asked.teacher, digits, store, progress=progress)
    data = [digits.train_images, digits.train_labels]
    frames = []
    for way, start, n_before in starts(asked, teacher, even):
        run = partial(_runs, asked, even, start, n_before, progress)
        frames.append(store.keep(way, run, inputs=[data, teacher]).assign(way=way))
    return pd.concat(frames, ignore_index=True)


def tables(config: Config, *, progress: bool = True) -> dict[str, pd.DataFrame]:
    """The tables that the book records of a run, see `points_to_goal`."""
    digits = mnist_digits(pick_device(config.device))
    return {"points-to-goal": points_to_goal(config, digits, progress=progress)}


def starts(
    config: MnistConfig, teacher: MLPStack, even: Digits
) -> Iterator[tuple[str, Callable[[int], MLPStack], int]]:
    """Every way, with the function that makes its networks of a given size, and the samples that this has seen."""
    method, best = config.attribution, None
    n_scored = SCORE_BATCHES * method.step.batch_size
    for name in RANKINGS:
        start = partial(cut_by, scores_of(name, config, teacher, even), teacher, method.n_repeats)
        best = best or start
        yield name, start, n_scored if name in SCORED else 0
    scratch = partial(random_networks, config.seeds(SCRATCH, method.n_repeats), even)
    yield NORMS, lambda neurons: with_norms_of(best(neurons), scratch(neurons)), 0
    yield SCRATCH, scratch, 0


def scores_of(name: str, config: MnistConfig, teacher: MLPStack, even: Digits) -> dict[str, Tensor]:
    """Scores of the teacher's neurons under one of the `RANKINGS`, (n_repeats, n_units) by the names of its units.

    Attribution and activation norm look at as many samples as the paper's attribution.  With wrong labels, attribution
    is computed for another even digit than the one that is shown.  By index, the last neurons of a layer are kept: that
    is what the sort of equal scores in the paper's code comes to, see the appendix.
    """
    n_repeats, n_scored = config.attribution.n_repeats, SCORE_BATCHES * config.attribution.step.batch_size
    seeds = config.seeds("attribution", n_repeats)
    if name == "attribution":
        return attribution(teacher, even, n_scored, seeds)
    if name == "wrong labels":
        return attribution(teacher, replace(even, train_labels=(even.train_labels + 2) % 10), n_scored, seeds)
    rows = n_repeats, -1
    if name == "weight norm":
        norms = group_norms(teacher.units, {n: p.detach() for n, p in teacher.named_parameters()})
        return {group: values.expand(rows) for group, values in norms.items()}
    if name == "index":
        return {g.name: torch.arange(g.n_units, dtype=torch.float32).expand(rows) for g in teacher.units}
    generators = make_generators(seeds, even.train_images.device)
    if name == "random":
        drawn = {g.name: [torch.rand(g.n_units, generator=each, device=each.device) for each in generators]
                 for g in teacher.units}  # fmt: skip
        return {group: torch.stack(values) for group, values in drawn.items()}
    n_rows, found = len(even.train_labels), []
    for each in generators:
        images = even.train_images[torch.randperm(n_rows, generator=each, device=each.device)[:n_scored]]
        found.append([hidden.norm(dim=1)[0].detach() for hidden in hidden_activations(teacher, images[None])])
    return {g.name: torch.stack([each[layer] for each in found]) for layer, g in enumerate(teacher.units)}


@torch.no_grad()
def with_norms_of(source: MLPStack, stack: MLPStack) -> MLPStack:
    """The stack, every weight matrix and bias scaled to the Frobenius norm that it has in ``source``."""
    for ours, theirs in zip(stack.parameters(), source.parameters(), strict=True):
        ours *= (theirs.flatten(1).norm(dim=1) / ours.flatten(1).norm(dim=1))[:, None, None]
    return stack


def _runs(
    config: MnistConfig, even: Digits, start: Callable[[int], MLPStack], n_before: int, progress: bool
) -> pd.DataFrame:
    method = config.attribution
    runs = recovered("attribution", config, method, even, start, n_before=n_before, progress=progress).runs
    runs = runs.rename(columns={"repeat": "seed"}).assign(samples=runs["points"].where(runs["reached"]))
    columns = ["neurons", "learning_rate", "seed", "samples", "accuracy"]
    return runs[columns].assign(budget=float(method.max_points))
