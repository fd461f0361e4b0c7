"""Prune networks by their scores on the wanted composite and train the rest: what is kept, and what comes back."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from narrowlib.chapters.two_trees.config import OTHER, WANTED, NonlocalityConfig
from narrowlib.chapters.two_trees.networks import (
    EVALUATION_SEED,
    NOT_KEPT,
    RECOVERY_SEED,
    ablation,
    copies,
    held_out,
    sampler,
)
from narrowlib.cmsp import task_name
from narrowlib.devices import fast_width
from narrowlib.pruning import apply_masks, keep_masks, slice_state
from narrowlib.stacks.cohort import runs_per_chunk
from narrowlib.stacks.gradients import cross_entropy
from narrowlib.stacks.networks import MLPStack
from narrowlib.stacks.training import BITS_PER_NAT, make_generators, train_stack
from narrowlib.store.digests import digest_of
from narrowlib.store.kept import Kept

KEPT_ACCURACY = 0.98  # from here on a skill counts as kept
REGAINED_ACCURACY = 0.9  # from which on a skill counts as back
PADDING = 4 / 3  # how much wider than it needs to be a pruned network may be made, to train beside wider ones
NARROW = 32  # neurons in all up to which a network is never worth training apart


def pruning_curves(
    stack: MLPStack,
    config: NonlocalityConfig,
    sparsities: Sequence[float],
    *,
    recover: Sequence[Sequence[int]] = (WANTED, OTHER),
    store: Kept = NOT_KEPT,
    progress: bool = True,
) -> pd.DataFrame:
    """Prune by the ablation scores of the wanted composite, then recover each composite from the same pruned start.

    Units of both hidden layers are ranked together, for every network by itself.  Recovery runs train side by side,
    as networks from which the removed units have been cut out.

    Parameters
    ----------
    stack : MLPStack
        Trained networks; left as they are.
    config : NonlocalityConfig
    sparsities : sequence of float
        Shares of units removed, each at least 0 and below 1.
    recover : sequence of tasks
        Composites to recover, of the two; without any, networks are pruned and measured only.
    store : Kept, optional
        Where finished parts are kept and unfinished ones leave off, see
        `narrowlib.chapters.two_trees.networks.store_for`.
    progress : bool
        Show progress bars.

    Returns
    -------
    DataFrame
        One row per seed, sparsity, task and stage: ``width``, ``seed``, ``sparsity``, ``task`` (of the two
        composites), ``stage`` (pruned, or recovered: trained on that task), ``accuracy`` and ``loss`` (bits) on
        samples that neither scores nor training have seen.

    Raises
    ------
    ValueError
        When a sparsity is out of range.

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), Fig 3 left and Fig 10.
    """
    if not sparsities or not all(0 <= sparsity < 1 for sparsity in sparsities):
        raise ValueError(f"sparsities is {list(sparsities)}; each must be at least 0 and below 1")
    wanted_scores = ablation(stack, config, WANTED)
    masks = [keep_masks(wanted_scores, sparsity) for sparsity in sparsities]
    device = stack.weights[0].device
    order = sorted(range(len(sparsities)), key=sparsities.__getitem__)
    frames = []
    for numbers, sizes in _of_like_size(stack.sizes, masks, order):
        cases = [(run, number) for number in numbers for run in range(stack.n_runs)]
        chunk = runs_per_chunk(sizes, config.recovery_batch_size, device) if recover else len(cases)
        for start in range(0, len(cases), chunk):
            some = cases[start : start + chunk]
            which = digest_of(sparsities, recover, some)
            name = f"curves-{stack.sizes[1]}-{config.seeds[0]}-{config.seeds[-1]}-{which}"
            compute = partial(_measure, stack, config, masks, some, recover, store, progress)
            frames.append(store.keep(name, compute, inputs=stack))
    frame = pd.concat(frames, ignore_index=True)
    frame.insert(0, "sparsity", [sparsities[number] for number in frame.pop("number")])
    frame.insert(0, "width", stack.sizes[1])
    return frame.sort_values(["seed", "sparsity", "task", "stage"], ignore_index=True)


def _of_like_size(
    sizes: Sequence[int], masks: Sequence[Mapping[str, Tensor]], order: Sequence[int]
) -> Iterator[tuple[list[int], tuple[int, ...]]]:
    """Numbers of sparsities whose pruned networks are near in size, and the sizes that hold them all.

    A hidden layer has as many neurons as the network that keeps most of it; the others are filled up.
    """
    widths = {number: [max(1, int(mask.sum(1).max())) for mask in masks[number].values()] for number in order}
    numbers: list[int] = []
    for number in order:
        if numbers and sum(widths[numbers[0]]) > max(NARROW, PADDING * sum(widths[number])):
            yield numbers, _around(sizes, [widths[other] for other in numbers])
            numbers = []
        numbers.append(number)
    yield numbers, _around(sizes, [widths[other] for other in numbers])


def _around(sizes: Sequence[int], widths: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return (sizes[0], *map(max, zip(*widths, strict=True)), sizes[-1])


def _measure(
    stack: MLPStack,
    config: NonlocalityConfig,
    masks: Sequence[Mapping[str, Tensor]],
    cases: Sequence[tuple[int, int]],
    recover: Sequence[Sequence[int]],
    store: Kept,
    progress: bool,
) -> pd.DataFrame:
    """Rows of some cases, each a network and the number of a sparsity."""
    runs = [run for run, _ in cases]
    case_masks = {name: torch.stack([masks[number][name][run] for run, number in cases]) for name in masks[0]}
    pruned = cut_out(stack, runs, case_masks)
    start = {name: value.clone() for name, value in pruned.state_dict().items()}
    rows: list[dict[str, object]] = []
    device = stack.weights[0].device
    for number, task in enumerate((WANTED, OTHER)):
        pruned.load_state_dict(start)
        rows += _evaluated(pruned, config, task, cases, "pruned")
        if task not in recover:
            continue
        seeds = [RECOVERY_SEED + 10_000 * (config.first_seed + run) + 10 * k + number for run, k in cases]
        train_stack(
            pruned,
            sampler(config, config.problem.only(task), config.recovery_batch_size, device),
            make_generators(seeds, device),
            config.recovery,
            checkpoint=store.checkpoint(f"recovery-{number}"),
            progress=progress,
            description=f"recover {task_name(task)}, width {stack.sizes[1]}",
        )
        rows += _evaluated(pruned, config, task, cases, "recovered")
    return pd.DataFrame(rows)


def cut_out(stack: MLPStack, runs: Sequence[int], masks: Mapping[str, Tensor]) -> MLPStack:
    """Copies of these runs without the units that their masks remove.

    Runs that keep fewer units of a layer than another are filled up with removed ones.  All that belongs to those is
    zero, and training leaves it so: behind the ReLU nothing comes out of them, and no gradient gets in.

    Parameters
    ----------
    stack : MLPStack
    runs : sequence of int
        One may stand in it several times.
    masks : mapping of str to Tensor, bool, shape (len(runs), n_units)
    """
    pruned = copies(stack, runs)
    apply_masks(pruned.units, dict(pruned.named_parameters()), masks)
    filled = {name: _equally_many(mask) for name, mask in masks.items()}
    return MLPStack.from_state(slice_state(pruned.state_dict(), pruned.units, filled))


def _equally_many(mask: Tensor) -> Tensor:
    """The mask with as many units in every run as in the fullest, or some more, and at least one."""
    n_units = fast_width(max(1, int(mask.sum(1).max())), mask.shape[1], mask.device)
    first = mask.int().argsort(dim=1, descending=True, stable=True)[:, :n_units]  # kept ones, then others
    return torch.zeros_like(mask).scatter_(1, first, True)


@torch.no_grad()
def _evaluated(
    stack: MLPStack, config: NonlocalityConfig, task: Sequence[int], cases: Sequence[tuple[int, int]], stage: str
) -> Iterator[dict[str, object]]:
    x, labels = held_out(config, task, EVALUATION_SEED, [run for run, _ in cases], stack.weights[0].device)
    logits = stack(x)
    losses = cross_entropy(logits, labels)[0].mean(1) * BITS_PER_NAT
    accuracies = (logits.argmax(-1) == labels).float().mean(1)
    for (run, number), accuracy, loss in zip(cases, accuracies.tolist(), losses.tolist(), strict=True):
        seed = config.first_seed + run
        about = {"seed": seed, "number": number, "task": task_name(task), "stage": stage}
        yield {**about, "accuracy": accuracy, "loss": loss}


def kept_sparsity(curves: pd.DataFrame, *, stage: str) -> pd.DataFrame:
    """Highest sparsity at which each network keeps the wanted composite, there and at all lower sparsities.

    Returns
    -------
    DataFrame
        One row per ``width`` and ``seed``: ``sparsity``, the highest, NaN when the skill is not kept at the lowest.
    """
    wanted = curves[(curves["task"] == task_name(WANTED)) & (curves["stage"] == stage)].sort_values("sparsity")
    is_kept = (wanted["accuracy"] >= KEPT_ACCURACY).groupby([wanted["width"], wanted["seed"]]).cummin()
    highest = wanted["sparsity"].where(is_kept.astype(bool)).groupby([wanted["width"], wanted["seed"]]).max()
    return highest.reset_index()


def learned(curves: pd.DataFrame) -> pd.DataFrame:
    """Which networks have learned each composite before pruning, from curves that begin at a sparsity of 0.

    Returns
    -------
    DataFrame
        One row per ``width`` and ``seed``: ``learned_wanted``, ``learned_other``.

    Raises
    ------
    ValueError
        When there is no row with a sparsity of 0.
    """
    whole = curves[(curves["sparsity"] == 0) & (curves["stage"] == "pruned")]
    if whole.empty:
        raise ValueError(f"curves begin at a sparsity of {curves['sparsity'].min()}; they must begin at 0")
    table = whole.pivot(index=["width", "seed"], columns="task", values="accuracy") >= KEPT_ACCURACY
    names = {task_name(WANTED): "learned_wanted", task_name(OTHER): "learned_other"}
    return table.rename(columns=names).rename_axis(columns=None).reset_index()
