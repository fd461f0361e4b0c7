"""How much a unit matters: scores by group name, higher for units to keep."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

from narrowlib.units import UnitGroup, unit_norms, unit_sums

ATTRIBUTION_VARIANTS = {
    "signed": lambda theta, gradient: -theta * gradient,
    "per_weight": lambda theta, gradient: (theta * gradient).abs(),
}
PLACES_OF_ABSOLUTE = ("inside", "outside")


class Agreement(NamedTuple):
    """Correlation of two scores of the same units, each from -1 to 1."""

    pearson: float
    pearson_log: float
    spearman: float


def ablation_scores(loss: Tensor, losses_without: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""Change of the loss when a unit is set to zero.

    .. math:: s_u = \lvert L(\theta_u = 0) - L(\theta) \rvert

    Parameters
    ----------
    loss : Tensor, shape () or (n_runs,)
        Mean loss of the whole model.
    losses_without : mapping of str to Tensor, shape (n_units,) or (n_runs, n_units)
        Mean loss on the same samples without each unit, by group, see
        `narrowlib.stacks.networks.losses_without_neurons`.

    Returns
    -------
    dict of str to Tensor, shape (n_units,) or (n_runs, n_units)

    Raises
    ------
    ValueError
        When the runs differ in number.

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), section 4.
    """
    for name, losses in losses_without.items():
        if losses.shape[:-1] != loss.shape:
            raise ValueError(
                f"losses_without of {name!r} has shape {tuple(losses.shape)}, loss {tuple(loss.shape)}; it must be "
                f"that of loss and one axis of units"
            )
    return {name: (losses - loss.unsqueeze(-1)).abs() for name, losses in losses_without.items()}


@torch.no_grad()
def attribution_scores(
    groups: Sequence[UnitGroup],
    parameters: Mapping[str, Tensor],
    gradients: Iterable[Mapping[str, Tensor]],
    *,
    variant: str = "signed",
) -> dict[str, Tensor]:
    r"""First-order estimate of the ablation score, from gradients of B batches.

    .. math::
        \text{signed:}\quad s_u = \Big\lvert \frac1B \sum_b \sum_{j \in u} -\theta_j\, g_{b,j} \Big\rvert \qquad
        \text{per\_weight:}\quad s_u = \frac1B \sum_b \sum_{j \in u} \lvert \theta_j\, g_{b,j} \rvert

    Setting a unit to zero moves the loss by about :math:`-\theta_u \cdot g_u`, whose size is the signed score.  Both
    are linear in the batch, so batches are summed up one at a time: an iterable that makes them as it goes is enough.

    Parameters
    ----------
    groups : sequence of UnitGroup
    parameters : mapping of str to Tensor
    gradients : iterable of mappings of str to Tensor
        Gradient of the mean loss of each batch, by parameter.
    variant : {"signed", "per_weight"}

    Returns
    -------
    dict of str to Tensor, shape (n_units,) or (n_runs, n_units)

    Raises
    ------
    ValueError
        For an unknown variant, no batch, or one mapping in place of an iterable of them.

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), section 5; signed is their Fig 11, per_weight Fig 5 and 6.
    """
    if variant not in ATTRIBUTION_VARIANTS:
        raise ValueError(f"variant is {variant!r}; it must be one of {', '.join(ATTRIBUTION_VARIANTS)}")
    if isinstance(gradients, Mapping):
        raise ValueError("gradients is one mapping; it must be an iterable of them, one per batch: [gradients]")
    totals: dict[str, Tensor] = {}
    n_batches = 0
    for batch in gradients:
        for group in groups:
            sums = unit_sums(group, parameters, batch, of=ATTRIBUTION_VARIANTS[variant])
            totals[group.name] = totals[group.name] + sums if n_batches else sums
        n_batches += 1
    if not n_batches:
        raise ValueError("gradients is empty; it must hold at least one batch")
    return {name: (total / n_batches).abs() for name, total in totals.items()}


@torch.no_grad()
def activation_gradient_scores(
    activations: Mapping[str, Tensor], gradients: Mapping[str, Tensor], *, absolute: str = "inside"
) -> dict[str, Tensor]:
    r"""Activation times gradient of every neuron, over N samples.

    .. math::
        \text{inside:}\quad s_u = \frac1N \sum_n \lvert a_{n,u}\, \partial L_n / \partial a_{n,u} \rvert \qquad
        \text{outside:}\quad s_u = \Big\lvert \frac1N \sum_n a_{n,u}\, \partial L_n / \partial a_{n,u} \Big\rvert

    Parameters
    ----------
    activations, gradients : mapping of str to Tensor, shape (n_samples, n_units) or (n_runs, n_samples, n_units)
        By group.  The gradient of a sample is that of its own loss: not divided by the number of samples.
    absolute : {"inside", "outside"}
        Where the absolute value stands, in the mean over samples or around it.

    Returns
    -------
    dict of str to Tensor, shape (n_units,) or (n_runs, n_units)

    Raises
    ------
    ValueError
        For another value of ``absolute``, or when groups or shapes of the two differ.

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), Fig 4.
    """
    if absolute not in PLACES_OF_ABSOLUTE:
        raise ValueError(f"absolute is {absolute!r}; it must be one of {', '.join(PLACES_OF_ABSOLUTE)}")
    shapes, others = ({name: tuple(t.shape) for name, t in each.items()} for each in (activations, gradients))
    if shapes != others:
        raise ValueError(f"activations have shapes {shapes}, gradients {others}; they must be the same")
    scores = {}
    for name, activation in activations.items():
        product = activation.float() * gradients[name].float()  # (runs?, samples, units)
        scores[name] = product.abs().mean(-2) if absolute == "inside" else product.mean(-2).abs()
    return scores


@torch.no_grad()
def weight_norm_scores(groups: Sequence[UnitGroup], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Euclidean norm of each unit's weights: (n_units,) or (n_runs, n_units) by group."""
    return {group.name: unit_norms(group, parameters) for group in groups}


def random_scores(
    groups: Sequence[UnitGroup], generator: torch.Generator, n_runs: int | None = None
) -> dict[str, Tensor]:
    """Uniform random scores in [0, 1), as a baseline.

    Parameters
    ----------
    groups : sequence of UnitGroup
    generator : torch.Generator
        The scores are on its device.
    n_runs : int, optional
        Needed for the groups of a stack, and only for them.

    Returns
    -------
    dict of str to Tensor, shape (n_units,) or (n_runs, n_units)

    Raises
    ------
    ValueError
        When ``n_runs`` does not fit the groups.
    """
    for group in groups:
        if (n_runs is not None) != bool(group.n_run_axes):
            needs = "a number, for a stack" if group.n_run_axes else "None, for one model"
            raise ValueError(f"n_runs is {n_runs!r}; with group {group.name!r} it must be {needs}")
    runs = () if n_runs is None else (n_runs,)
    device = generator.device
    return {group.name: torch.rand((*runs, group.n_units), generator=generator, device=device) for group in groups}


def agreement(attribution: Mapping[str, Tensor] | Tensor, ablation: Mapping[str, Tensor] | Tensor) -> Agreement:
    """How well attribution approximates ablation: Pearson's r of the scores and of their logarithms, Spearman's rho.

    Parameters
    ----------
    attribution, ablation : Tensor, or mapping of str to Tensor of the same keys
        Scores of the same units, at least 0.  Units with a score of exactly 0 have no logarithm and are left out of
        the second number.

    Returns
    -------
    Agreement
        NaN where one side does not vary.

    Raises
    ------
    ValueError
        When the two differ in units, or hold fewer than three.

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), Fig 11.
    """
    if isinstance(attribution, Mapping) and isinstance(ablation, Mapping):
        if attribution.keys() != ablation.keys():
            raise ValueError(
                f"attribution has the groups {sorted(attribution)}, ablation {sorted(ablation)}; they must be the same"
            )
        attribution, ablation = (torch.cat([side[name] for name in attribution]) for side in (attribution, ablation))
    x, y = (side.detach().double().flatten().cpu().numpy() for side in (attribution, ablation))
    if len(x) != len(y) or len(x) < 3:
        raise ValueError(
            f"attribution has {len(x)} units, ablation {len(y)}; they must have the same number, at least 3"
        )
    both = (x > 0) & (y > 0)
    logs = _correlation(pearsonr, np.log(x[both]), np.log(y[both]))
    return Agreement(_correlation(pearsonr, x, y), logs, _correlation(spearmanr, x, y))


def _correlation(of: Callable, x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 3 or x.min() == x.max() or y.min() == y.max():
        return math.nan
    return float(of(x, y).statistic)
