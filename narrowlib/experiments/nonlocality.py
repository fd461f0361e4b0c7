"""Claims N1 and N2: whether skills are local, and what pruning keeps and loses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from narrowlib.cmsp import CMSP, sample_batch, task_name
from narrowlib.gradients import cross_entropy
from narrowlib.models import MLPStack, losses_without_neurons
from narrowlib.pruning import apply_masks, keep_masks
from narrowlib.scores import ablation_scores
from narrowlib.training import BITS_PER_NAT, TrainingConfig, make_generators, pick_device, runs_per_chunk, train_stack

N_CLASSES = 2
WANTED, OTHER = (0, 1, 2), (3, 4, 5)  # the composites of the two trees
KEPT_ACCURACY = 0.98  # from here on a skill counts as kept
LOST_ACCURACY, REGAINED_ACCURACY = 0.75, 0.9  # below the first a skill counts as lost, from the second on as back
SCORE_SEED, EVALUATION_SEED, RECOVERY_SEED = 10_000_000, 20_000_000, 30_000_000  # apart from those of the networks


@dataclass(frozen=True)
class NonlocalityConfig:
    """Settings of the nonlocality experiment; the defaults are the paper's."""

    subset_size: int = 3
    n_task_bits: int = 18
    n_seeds: int = 5
    batch_size: int = 2_000  # samples per task and step
    n_steps: int = 20_000
    learning_rate: float = 1e-3
    n_samples: int = 2_000  # for scores, and for every accuracy
    recovery_steps: int = 1_000
    recovery_batch_size: int = 5_000
    recovery_learning_rate: float = 1e-3
    first_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_seeds", "batch_size", "n_samples", "recovery_batch_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
        _ = self.problem, self.training, self.recovery  # these check the rest

    @property
    def problem(self) -> CMSP:
        """Six sub-tasks in two trees: three atomic tasks each, and their composite."""
        return CMSP(6, self.subset_size, self.n_task_bits, (*((i,) for i in range(6)), WANTED, OTHER))

    @property
    def training(self) -> TrainingConfig:
        """Training on all tasks."""
        return TrainingConfig(self.n_steps, self.learning_rate, record_every=self.n_steps)

    @property
    def recovery(self) -> TrainingConfig:
        """Training on one task after pruning."""
        return TrainingConfig(self.recovery_steps, self.recovery_learning_rate, record_every=self.recovery_steps)

    @property
    def seeds(self) -> range:
        """Seeds of the networks."""
        return range(self.first_seed, self.first_seed + self.n_seeds)


def train_networks(config: NonlocalityConfig, width: int, *, device: str = "auto", progress: bool = True) -> MLPStack:
    """Networks of depth 3, one per seed, trained on all eight tasks at once."""
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise ValueError(f"width is {width!r}; it must be a whole number of at least 1")
    generators = make_generators(config.seeds, pick_device(device))
    stack = MLPStack((config.problem.n_inputs, width, width, N_CLASSES), generators)
    draw_batch = partial(sample_batch, config.problem, config.batch_size)
    description = f"train, width {width}"
    train_stack(stack, draw_batch, generators, config.training, progress=progress, description=description)
    return stack


def neuron_scores(stack: MLPStack, config: NonlocalityConfig) -> pd.DataFrame:
    """Ablation score of every neuron on every task.

    Returns
    -------
    DataFrame
        One row per seed, layer, neuron and task: ``seed``, ``layer`` (hidden 1 or hidden 2), ``neuron``, ``task``,
        ``tree`` (of the task: that of the wanted composite, or the other), ``score`` in bits.

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), Fig 8 and 9.
    """
    problem = config.problem
    frames = []
    for task in problem.tasks:
        for layer, scores in _ablation(stack, config, task).items():
            index = pd.MultiIndex.from_product([config.seeds, range(scores.shape[1])], names=["seed", "neuron"])
            frame = pd.DataFrame({"score": scores.flatten().cpu().numpy() * BITS_PER_NAT}, index=index).reset_index()
            frames.append(frame.assign(layer=layer, task=task_name(task), tree=_tree(task)))
    return pd.concat(frames, ignore_index=True)


def _tree(task: Sequence[int]) -> str:
    return task_name(WANTED if set(task) <= set(WANTED) else OTHER)


def _ablation(stack: MLPStack, config: NonlocalityConfig, task: Sequence[int]) -> dict[str, Tensor]:
    x, labels = _held_out(config, task, SCORE_SEED, range(stack.n_runs), stack.weights[0].device)
    with torch.no_grad():
        loss = cross_entropy(stack(x), labels)[0].mean(1)
    return ablation_scores(loss, losses_without_neurons(stack, x, labels, cross_entropy))


def _held_out(
    config: NonlocalityConfig, task: Sequence[int], seed: int, runs: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Samples of one task, the same for the same run: (runs, samples, inputs) and (runs, samples)."""
    generators = make_generators([seed + config.first_seed + run for run in runs], device)
    x, labels = sample_batch(config.problem.only(task), config.n_samples, generators)
    return x[:, 0], labels[:, 0]


def sharing(scores: pd.DataFrame, thresholds: Sequence[float]) -> pd.DataFrame:
    """Share of neurons that matter to both trees, among those that matter to any.

    A neuron matters to a tree when its score on one of the tree's tasks exceeds the threshold.

    Parameters
    ----------
    scores : DataFrame
        See `neuron_scores`.
    thresholds : sequence of float
        In bits.

    Returns
    -------
    DataFrame
        One row per threshold, seed and layer: ``threshold``, ``seed``, ``layer``, ``n_matter``, ``share`` (NaN when
        no neuron matters).
    """
    strongest = scores.groupby(["seed", "layer", "neuron", "tree"])["score"].max().unstack("tree")
    frames = []
    for threshold in thresholds:
        n_trees = (strongest > threshold).sum(axis=1)
        counts = n_trees.groupby(["seed", "layer"]).agg(
            n_matter=lambda n: (n > 0).sum(), n_both=lambda n: (n == 2).sum()
        )
        share = counts["n_both"] / counts["n_matter"].where(counts["n_matter"] > 0)
        frames.append(counts.assign(threshold=threshold, share=share).reset_index())
    return pd.concat(frames, ignore_index=True).drop(columns="n_both")


def pruning_curves(
    stack: MLPStack, config: NonlocalityConfig, sparsities: Sequence[float], *, progress: bool = True
) -> pd.DataFrame:
    """Prune by the ablation scores of the wanted composite, then recover each composite from the same pruned start.

    Units of both hidden layers are ranked together, for every network by itself.  All recovery runs train side by
    side, with the removed units held at zero.

    Parameters
    ----------
    stack : MLPStack
        Trained networks; left as they are.
    config : NonlocalityConfig
    sparsities : sequence of float
        Shares of units removed, each at least 0 and below 1.
    progress : bool
        Show progress bars.

    Returns
    -------
    DataFrame
        One row per seed, sparsity, task and stage: ``width``, ``seed``, ``sparsity``, ``task`` (of the two
        composites), ``stage`` (pruned, or recovered: trained on that task), ``accuracy`` and ``loss`` (bits) on
        samples that neither scores nor training have seen.

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), Fig 3 left and Fig 10.
    """
    if not sparsities or not all(0 <= sparsity < 1 for sparsity in sparsities):
        raise ValueError(f"sparsities is {list(sparsities)}; each must be at least 0 and below 1")
    scores = _ablation(stack, config, WANTED)
    masks = [keep_masks(scores, sparsity) for sparsity in sparsities]
    device = stack.weights[0].device
    chunk = runs_per_chunk(stack.sizes, config.recovery_batch_size, device)
    cases = [(run, number) for run in range(stack.n_runs) for number in range(len(sparsities))]
    rows = []
    for start in range(0, len(cases), chunk):
        chunk_cases = cases[start : start + chunk]
        chunk_masks = {name: torch.stack([masks[k][name][run] for run, k in chunk_cases]) for name in scores}
        for row in _prune_and_recover(stack, config, chunk_cases, chunk_masks, progress):
            rows.append({"width": stack.sizes[1], "sparsity": sparsities[row.pop("number")], **row})
    return pd.DataFrame(rows)


def _prune_and_recover(
    stack: MLPStack,
    config: NonlocalityConfig,
    cases: Sequence[tuple[int, int]],
    masks: Mapping[str, Tensor],
    progress: bool,
) -> Iterator[dict[str, object]]:
    """Rows of one chunk of (network, number of the sparsity)."""
    runs = [run for run, _ in cases]
    pruned = copies(stack, runs)
    parameters = dict(pruned.named_parameters())
    hold = partial(apply_masks, pruned.units, parameters, masks)
    hold()
    start = {name: value.clone() for name, value in pruned.state_dict().items()}
    for number, task in enumerate((WANTED, OTHER)):
        pruned.load_state_dict(start)
        yield from _evaluated(pruned, config, task, cases, "pruned")
        seeds = [RECOVERY_SEED + 10_000 * (config.first_seed + run) + 10 * k + number for run, k in cases]
        generators = make_generators(seeds, stack.weights[0].device)
        draw_batch = partial(sample_batch, config.problem.only(task), config.recovery_batch_size)
        description = f"recover {task_name(task)}, width {stack.sizes[1]}"
        train_stack(
            pruned,
            draw_batch,
            generators,
            config.recovery,
            constraint=hold,
            progress=progress,
            description=description,
        )
        yield from _evaluated(pruned, config, task, cases, "recovered")


def copies(stack: MLPStack, runs: Sequence[int]) -> MLPStack:
    """A stack of copies of these runs, one may stand in it several times."""
    device = stack.weights[0].device
    copies = MLPStack(stack.sizes, make_generators([0] * len(runs), device))
    with torch.no_grad():
        for copy, original in zip(copies.parameters(), stack.parameters(), strict=True):
            copy.copy_(original[list(runs)])
    return copies


@torch.no_grad()
def _evaluated(
    stack: MLPStack, config: NonlocalityConfig, task: Sequence[int], cases: Sequence[tuple[int, int]], stage: str
) -> Iterator[dict[str, object]]:
    x, labels = _held_out(config, task, EVALUATION_SEED, [run for run, _ in cases], stack.weights[0].device)
    logits = stack(x)
    losses = cross_entropy(logits, labels)[0].mean(1) * BITS_PER_NAT
    accuracies = (logits.argmax(-1) == labels).float().mean(1)
    for (run, number), accuracy, loss in zip(cases, accuracies.tolist(), losses.tolist(), strict=True):
        seed = config.first_seed + run
        about = {"seed": seed, "number": number, "task": task_name(task), "stage": stage}
        yield {**about, "accuracy": accuracy, "loss": loss}


def kept_sparsity(curves: pd.DataFrame, *, stage: str, accuracy: float = KEPT_ACCURACY) -> pd.DataFrame:
    """How far each network can be pruned with the wanted composite kept, at this sparsity and all below it.

    Returns
    -------
    DataFrame
        One row per ``width`` and ``seed``: ``sparsity``, the highest, NaN when the skill is not kept at the lowest.
    """
    wanted = curves[(curves["task"] == task_name(WANTED)) & (curves["stage"] == stage)].sort_values("sparsity")
    is_kept = (wanted["accuracy"] >= accuracy).groupby([wanted["width"], wanted["seed"]]).cummin()
    highest = wanted["sparsity"].where(is_kept.astype(bool)).groupby([wanted["width"], wanted["seed"]]).max()
    return highest.reset_index()


def regained(curves: pd.DataFrame) -> pd.DataFrame:
    """In which networks the other composite comes back.

    That is: at some sparsity pruning takes its accuracy below `LOST_ACCURACY`, and recovery training on it brings it
    to `REGAINED_ACCURACY` or more.

    Returns
    -------
    DataFrame
        One row per ``width`` and ``seed``: ``regained``.
    """
    other = curves[curves["task"] == task_name(OTHER)]
    table = other.pivot(index=["width", "seed", "sparsity"], columns="stage", values="accuracy")
    comes_back = (table["pruned"] < LOST_ACCURACY) & (table["recovered"] >= REGAINED_ACCURACY)
    return comes_back.groupby(["width", "seed"]).any().rename("regained").reset_index()
