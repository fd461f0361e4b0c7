"""Networks that have learned two trees of tasks: what nonlocality and the group lasso are shown on."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from narrowlib.chapters.two_trees.config import OTHER, WANTED, NonlocalityConfig
from narrowlib.cmsp import CMSP, CMSPSampler, sample_batch, task_name
from narrowlib.devices import pick_device, pick_dtype
from narrowlib.scores import ablation_scores
from narrowlib.stacks.cohort import runs_per_chunk
from narrowlib.stacks.gradients import cross_entropy
from narrowlib.stacks.networks import MLPStack, losses_without_neurons
from narrowlib.stacks.training import BITS_PER_NAT, make_generators, train_stack
from narrowlib.store.kept import Kept

N_CLASSES = 2
NOT_KEPT = Kept(None, None)
SCORE_SEED, EVALUATION_SEED, RECOVERY_SEED = 10_000_000, 20_000_000, 30_000_000  # apart from those of the networks


def sampler(config: NonlocalityConfig, problem: CMSP, batch_size: int, device: torch.device) -> CMSPSampler:
    """Draws batches of a problem, in the precision of matrix products in training on a device."""
    return CMSPSampler(problem, batch_size, pick_dtype(config.precision, device))


def train_networks(
    config: NonlocalityConfig, width: int, *, device: str = "auto", store: Kept = NOT_KEPT, progress: bool = True
) -> MLPStack:
    """Networks of depth 3, one per seed, trained on all eight tasks at once.

    Parameters
    ----------
    config : NonlocalityConfig
    width : int
        Of both hidden layers; at least 1.
    device : {"auto", "cpu", "cuda"}
    store : Kept, optional
        Where trained networks are kept and unfinished ones leave off, see `store_for`.
    progress : bool
        Show a progress bar.

    Raises
    ------
    ValueError
        For a width or a device that is not legal.
    """
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise ValueError(f"width is {width!r}; it must be a whole number of at least 1")

    def train() -> dict[str, Tensor]:
        where = pick_device(device)
        generators = make_generators(config.seeds, where)
        stack = MLPStack((config.problem.n_inputs, width, width, N_CLASSES), generators)
        train_stack(
            stack,
            sampler(config, config.problem, config.batch_size, where),
            generators,
            config.training,
            checkpoint=store.checkpoint("training"),
            progress=progress,
            description=f"train, width {width}",
        )
        return stack.state_dict()

    return MLPStack.from_state(store.keep(f"networks-{width}-{config.seeds[0]}-{config.seeds[-1]}", train))


def store_for(checkpoints: str | Path, config: NonlocalityConfig, device: str, *more: object) -> Kept:
    """Store for the results of these settings and ``more``; seeds are in the names only, so that pieces are shared."""
    settings = {name: value for name, value in config if name not in ("first_seed", "n_seeds")}
    return Kept(checkpoints, [settings, *more], device=pick_device(device))


def pieces(config: NonlocalityConfig, width: int, device: torch.device) -> Iterator[NonlocalityConfig]:
    """The same settings, split into groups of seeds that are trained side by side."""
    sizes = (config.problem.n_inputs, width, width, N_CLASSES)
    dtype = pick_dtype(config.precision, device)
    chunk = runs_per_chunk(sizes, config.problem.n_tasks * config.batch_size, device, dtype)
    for start in range(0, config.n_seeds, chunk):
        n_seeds = min(chunk, config.n_seeds - start)
        yield config.replace(first_seed=config.first_seed + start, n_seeds=n_seeds)


def held_out(
    config: NonlocalityConfig, task: Sequence[int], seed: int, runs: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Samples of one task, the same for the same run: (runs, samples, inputs) and (runs, samples)."""
    generators = make_generators([seed + config.first_seed + run for run in runs], device)
    x, labels = sample_batch(config.problem.only(task), config.n_samples, generators)
    return x[:, 0], labels[:, 0]


def ablation(stack: MLPStack, config: NonlocalityConfig, task: Sequence[int]) -> dict[str, Tensor]:
    """Ablation scores of every neuron on one task, in nats: (n_runs, n_units) by layer."""
    x, labels = held_out(config, task, SCORE_SEED, range(stack.n_runs), stack.weights[0].device)
    with torch.no_grad():
        loss = cross_entropy(stack(x), labels)[0].mean(1)
    return ablation_scores(loss, losses_without_neurons(stack, x, labels, cross_entropy))


def neuron_table(scores: Mapping[str, Tensor], config: NonlocalityConfig, task: Sequence[int]) -> pd.DataFrame:
    """Scores in nats as a tidy table in bits: ``seed``, ``neuron``, ``score``, ``layer``, ``task``, ``tree``."""
    frames = []
    for layer, values in scores.items():
        index = pd.MultiIndex.from_product([config.seeds, range(values.shape[1])], names=["seed", "neuron"])
        bits = values.detach().flatten().cpu().numpy() * BITS_PER_NAT
        frames.append(pd.DataFrame({"score": bits}, index=index).reset_index().assign(layer=layer))
    tree = task_name(WANTED if set(task) <= set(WANTED) else OTHER)
    return pd.concat(frames, ignore_index=True).assign(task=task_name(task), tree=tree)


def copies(stack: MLPStack, runs: Sequence[int]) -> MLPStack:
    """A stack of copies of these runs; a run may occur several times."""
    return MLPStack.from_state({name: values[list(runs)] for name, values in stack.state_dict().items()})
