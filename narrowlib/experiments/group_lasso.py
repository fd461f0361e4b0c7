"""Claims G1 and G2: group lasso on the wanted skill makes a network prunable, and the other skill stays away."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch

from narrowlib.cmsp import sample_batch, task_name
from narrowlib.experiments.nonlocality import (
    OTHER,
    WANTED,
    NonlocalityConfig,
    copies,
    kept_sparsity,
    pruning_curves,
)
from narrowlib.models import MLPStack
from narrowlib.penalties import group_lasso_gradients_, group_norms
from narrowlib.training import TrainingConfig, make_generators, train_stack

N_RECORDS = 50  # of the norms while training
LASSO_SEED = 40_000_000  # apart from the seeds of networks, scores, evaluation and recovery


@dataclass(frozen=True)
class GroupLassoConfig:
    """How trained networks are regularised; the defaults are the paper's."""

    strength: float = 1e-3
    n_steps: int = 10_000
    batch_size: int = 2_000
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if isinstance(self.strength, bool) or not 0 <= self.strength < math.inf:
            raise ValueError(f"strength is {self.strength!r}; it must be a number of at least 0")
        if isinstance(self.batch_size, bool) or not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size!r}; it must be a whole number of at least 1")
        _ = self.training  # checks the rest

    @property
    def training(self) -> TrainingConfig:
        """Training on the wanted composite."""
        return TrainingConfig(self.n_steps, self.learning_rate, record_every=self.n_steps)


def regularise(
    stack: MLPStack,
    config: NonlocalityConfig,
    lasso: GroupLassoConfig,
    *,
    strengths: Sequence[float] | None = None,
    progress: bool = True,
) -> tuple[MLPStack, pd.DataFrame]:
    r"""Train on the wanted composite alone, with a penalty on the norm of every neuron's weights.

    .. math:: \min_\theta\ L_{\{0, 1, 2\}}(\theta) + \lambda \sum_u \lVert\theta_u\rVert_2

    A neuron's :math:`\theta_u` is its in-weights, bias and out-weights.  The penalty enters through its subgradient,
    as in the paper; Adam rescales it together with the gradient of the loss.

    Parameters
    ----------
    stack : MLPStack
        Trained networks; left as they are.
    config : NonlocalityConfig
        With which they were trained.
    lasso : GroupLassoConfig
    strengths : sequence of float, optional
        One for each network, in place of ``lasso.strength``.
    progress : bool
        Show a progress bar.

    Returns
    -------
    MLPStack
        The regularised networks.
    DataFrame
        Norm of every neuron while training: ``step``, ``seed``, ``layer``, ``neuron``, ``norm``.

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), Fig 3.
    """
    device = stack.weights[0].device
    regularised = copies(stack, range(stack.n_runs))
    groups, parameters = regularised.units, dict(regularised.named_parameters())
    given = [lasso.strength] * stack.n_runs if strengths is None else list(strengths)
    if len(given) != stack.n_runs:
        raise ValueError(f"strengths holds {len(given)} values; there are {stack.n_runs} networks")
    strength = torch.tensor(given, device=device)
    every, norms, step = max(1, lasso.n_steps // N_RECORDS), [_norms(regularised, config, 0)], 0

    def record() -> None:
        nonlocal step
        step += 1
        if step % every == 0:
            norms.append(_norms(regularised, config, step))

    seeds = [LASSO_SEED + config.first_seed + run for run in range(stack.n_runs)]
    train_stack(
        regularised,
        partial(sample_batch, config.problem.only(WANTED), lasso.batch_size),
        make_generators(seeds, device),
        lasso.training,
        penalty=lambda: group_lasso_gradients_(groups, parameters, strength),
        constraint=record,
        progress=progress,
        description=f"group lasso, width {stack.sizes[1]}",
    )
    return regularised, pd.concat(norms, ignore_index=True)


@torch.no_grad()
def _norms(stack: MLPStack, config: NonlocalityConfig, step: int) -> pd.DataFrame:
    frames = []
    for layer, values in group_norms(stack.units, dict(stack.named_parameters())).items():
        seeds = range(config.first_seed, config.first_seed + stack.n_runs)
        index = pd.MultiIndex.from_product([seeds, range(values.shape[1])], names=["seed", "neuron"])
        frame = pd.DataFrame({"norm": values.flatten().cpu().numpy()}, index=index).reset_index()
        frames.append(frame.assign(step=step, layer=layer))
    return pd.concat(frames, ignore_index=True)


def strength_sweep(
    stack: MLPStack,
    config: NonlocalityConfig,
    lasso: GroupLassoConfig,
    strengths: Sequence[float],
    sparsities: Sequence[float],
    *,
    progress: bool = True,
) -> pd.DataFrame:
    """What the strength of the penalty does to a network: how far it can be pruned, and what it still can.

    Every network is regularised with every strength, all of them side by side.

    Returns
    -------
    DataFrame
        One row per strength and seed: ``strength``, ``seed``, ``sparsity`` (the highest without recovery at which the
        wanted composite is kept, NaN when at none), ``wanted`` (its accuracy before pruning), ``regained`` (highest
        accuracy on the other composite after recovery, over the sparsities).
    """
    runs = [run for _ in strengths for run in range(stack.n_runs)]
    labels = [(strength, config.first_seed + run) for strength in strengths for run in range(stack.n_runs)]
    many = copies(stack, runs)
    regularised, _ = regularise(many, config, lasso, strengths=[strength for strength, _ in labels], progress=progress)
    curves = pruning_curves(regularised, config, [0.0, *sparsities], progress=progress)
    kept = kept_sparsity(curves, stage="pruned").set_index("seed")["sparsity"]
    whole = curves.query("sparsity == 0 and stage == 'pruned'").set_index(["task", "seed"])["accuracy"]
    other = curves[(curves["task"] == task_name(OTHER)) & (curves["stage"] == "recovered") & (curves["sparsity"] > 0)]
    regained = other.groupby("seed")["accuracy"].max()
    rows = []
    for number, (strength, seed) in enumerate(labels):
        run = config.first_seed + number
        wanted = whole[task_name(WANTED), run]
        rows.append((strength, seed, kept[run], wanted, regained[run]))
    return pd.DataFrame(rows, columns=["strength", "seed", "sparsity", "wanted", "regained"])
