"""Training on the wanted composite with a group lasso: how networks come to keep it in few neurons."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from narrowlib.chapters.two_trees.config import WANTED, GroupLassoConfig, NonlocalityConfig
from narrowlib.chapters.two_trees.networks import copies, sampler
from narrowlib.penalties import group_lasso_gradients_, group_norms, prox_group_lasso
from narrowlib.stacks.networks import MLPStack
from narrowlib.stacks.training import TrainingConfig, make_generators, train_stack

LASSO_SEED = 40_000_000  # apart from the seeds of networks, scores, evaluation and recovery


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

    A neuron's :math:`\theta_u` is its in-weights, bias and out-weights.  By default the penalty enters through its
    subgradient, as in the paper; Adam rescales it together with the gradient of the loss.  With the method "proximal"
    Adam sees the loss alone, and after each of its steps every neuron's norm shrinks by the learning rate times
    :math:`\lambda`, see `narrowlib.penalties.prox_group_lasso` for what that leaves out.

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

    Raises
    ------
    ValueError
        When there are not as many strengths as networks, or one is negative.

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), Fig 3.
    """
    device = stack.weights[0].device
    given = [lasso.strength] * stack.n_runs if strengths is None else list(strengths)
    if len(given) != stack.n_runs or not all(0 <= strength < math.inf for strength in given):
        raise ValueError(
            f"strengths is {given}, for {stack.n_runs} networks; it must hold a number of at least 0 for each"
        )
    strength = torch.tensor(given, device=device)
    regularised = copies(stack, range(stack.n_runs))
    groups, parameters = regularised.units, dict(regularised.named_parameters())
    norms = _NormLog(regularised, lasso.training)
    is_proximal = lasso.method == "proximal"

    def after_step() -> None:
        if is_proximal:
            prox_group_lasso(groups, parameters, lasso.learning_rate * strength)
        norms.write()

    seeds = [LASSO_SEED + config.first_seed + run for run in range(stack.n_runs)]
    train_stack(
        regularised,
        sampler(config, config.problem.only(WANTED), lasso.batch_size, device),
        make_generators(seeds, device),
        lasso.training.replace(precision=config.precision),
        penalty=None if is_proximal else lambda: group_lasso_gradients_(groups, parameters, strength),
        constraint=after_step,
        progress=progress,
        description=f"group lasso, {lasso.method}, width {stack.sizes[1]}",
    )
    return regularised, norms.table(config.seeds.start)


class _NormLog:
    """Norms of all neurons every so many steps, written by tensor operations alone: a GPU may replay them.

    Every step writes; what stays in a place is the last that was written there.
    """

    def __init__(self, stack: MLPStack, training: TrainingConfig) -> None:
        self.groups, self.parameters = stack.units, dict(stack.named_parameters())
        self.every, n_places = training.record_every, training.n_steps // training.record_every + 2
        start = self._norms()
        self.step = torch.zeros(1, dtype=torch.int64, device=stack.weights[0].device)
        self.values = {name: norms.new_zeros(n_places, *norms.shape) for name, norms in start.items()}
        for name, norms in start.items():
            self.values[name][0] = norms

    @torch.no_grad()
    def _norms(self) -> dict[str, Tensor]:
        return group_norms(self.groups, self.parameters)

    def write(self) -> None:
        """Note the norms after one more step."""
        self.step += 1
        place = (self.step + self.every - 1) // self.every
        for name, norms in self._norms().items():
            self.values[name].index_copy_(0, place, norms[None])

    def table(self, first_seed: int) -> pd.DataFrame:
        """One row per step, seed, layer and neuron."""
        frames = []
        for layer, values in self.values.items():
            values = values[:-1].cpu()  # the last place holds steps that are no full interval
            steps, seeds = (
                range(0, len(values) * self.every, self.every),
                range(first_seed, first_seed + values.shape[1]),
            )
            index = pd.MultiIndex.from_product([steps, seeds, range(values.shape[2])], names=["step", "seed", "neuron"])
            frames.append(
                pd.DataFrame({"norm": values.flatten().numpy()}, index=index).reset_index().assign(layer=layer)
            )
        return pd.concat(frames, ignore_index=True)
