"""Training on the wanted composite with a group lasso: how networks come to keep it in few neurons."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from narrowlib.chapters.two_trees.config import WANTED, GroupLassoConfig, NonlocalityConfig
from narrowlib.chapters.two_trees.networks import copies, sampler
from narrowlib.penalties import group_lasso_gradients_, group_norms, prox_group_lasso
from narrowlib.stacks.networks import MLPStack
from narrowlib.stacks.training import make_generators, train_stack

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
    steps = range(0, lasso.n_steps + 1, lasso.training.record_every)
    regularised, norms = _train(stack, config, lasso, strengths, steps, _norms, progress)
    return regularised, _norm_table(norms, steps, config.first_seed)


def regularised_after(
    stack: MLPStack,
    config: NonlocalityConfig,
    lasso: GroupLassoConfig,
    steps: Sequence[int],
    *,
    strengths: Sequence[float] | None = None,
    progress: bool = True,
) -> list[MLPStack]:
    """The networks after each of several numbers of steps of one training, the same that `regularise` trains.

    Parameters
    ----------
    stack, config, lasso, strengths, progress
        See `regularise`; ``lasso.n_steps`` does not count.
    steps : sequence of int
        In rising order.
    """
    training = lasso.replace(n_steps=steps[-1])
    _, values = _train(stack, config, training, strengths, steps, _weights, progress)
    return [
        MLPStack.from_state({name: tensor[place] for name, tensor in values.items()}) for place in range(len(steps))
    ]


def _train(
    stack: MLPStack,
    config: NonlocalityConfig,
    lasso: GroupLassoConfig,
    strengths: Sequence[float] | None,
    steps: Sequence[int],
    measure: Callable[[MLPStack], dict[str, Tensor]],
    progress: bool,
) -> tuple[MLPStack, dict[str, Tensor]]:
    """The regularised networks, and what ``measure`` says of them after each of ``steps``: (len(steps), ...)."""
    device = stack.weights[0].device
    given = [lasso.strength] * stack.n_runs if strengths is None else list(strengths)
    if len(given) != stack.n_runs or not all(0 <= strength < math.inf for strength in given):
        raise ValueError(
            f"strengths is {given}, for {stack.n_runs} networks; it must hold a number of at least 0 for each"
        )
    strength = torch.tensor(given, device=device)
    regularised = copies(stack, range(stack.n_runs))
    groups, parameters = regularised.units, dict(regularised.named_parameters())
    log = _Log(partial(measure, regularised), steps, device)
    is_proximal = lasso.method == "proximal"

    def after_step() -> None:
        if is_proximal:
            prox_group_lasso(groups, parameters, lasso.learning_rate * strength)
        log.write()

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
    return regularised, {name: values[: len(steps)] for name, values in log.values.items()}


@torch.no_grad()
def _norms(stack: MLPStack) -> dict[str, Tensor]:
    return group_norms(stack.units, dict(stack.named_parameters()))


def _weights(stack: MLPStack) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in stack.named_parameters()}


class _Log:
    """What is measured after some of the steps, written by tensor operations alone: a GPU may replay them.

    Every step writes; what stays in a place is the last that was written there.  The place after the last is of steps
    that nobody asks for.
    """

    def __init__(self, measure: Callable[[], dict[str, Tensor]], steps: Sequence[int], device: torch.device) -> None:
        self.measure, self.steps = measure, torch.tensor(list(steps), device=device)
        self.step = torch.zeros(1, dtype=torch.int64, device=device)
        self.values = {name: v.repeat(len(steps) + 1, *[1] * v.ndim) for name, v in self.measure().items()}

    def write(self) -> None:
        """Note what is measured after one more step."""
        self.step += 1
        place = (self.steps < self.step).sum(0, keepdim=True)
        for name, values in self.measure().items():
            self.values[name].index_copy_(0, place, values[None])


def _norm_table(norms: dict[str, Tensor], steps: Sequence[int], first_seed: int) -> pd.DataFrame:
    """One row per step, seed, layer and neuron."""
    frames = []
    for layer, values in norms.items():
        values = values.cpu()
        seeds = range(first_seed, first_seed + values.shape[1])
        index = pd.MultiIndex.from_product([steps, seeds, range(values.shape[2])], names=["step", "seed", "neuron"])
        frames.append(pd.DataFrame({"norm": values.flatten().numpy()}, index=index).reset_index().assign(layer=layer))
    return pd.concat(frames, ignore_index=True)
