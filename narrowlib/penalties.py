"""The group lasso, a penalty that makes networks prunable, by subgradient or proximal step."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from narrowlib.units import UnitGroup, check, spread, unit_norms

CACHED_NUMBERS = 2**18  # of a tensor whose squares are made and summed before they leave a processor's cache


def group_norms(groups: Sequence[UnitGroup], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""Norm of every unit, :math:`\lVert\theta_u\rVert_2`: (n_units,) or (n_runs, n_units) by group.

    Differentiable, with gradient 0 at a unit of zeros.
    """
    return {group.name: unit_norms(group, parameters) for group in groups}


def group_lasso(groups: Sequence[UnitGroup], parameters: Mapping[str, Tensor]) -> Tensor:
    r"""Group lasso penalty of every run.

    .. math:: R(\theta) = \sum_u \lVert\theta_u\rVert_2

    A neuron's :math:`\theta_u` is its in-weights, bias and out-weights.

    Parameters
    ----------
    groups : sequence of UnitGroup
    parameters : mapping of str to Tensor

    Returns
    -------
    Tensor, shape () or (n_runs,)
        Differentiable, with gradient 0 at a unit of zeros.

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), section 4; Yuan and Lin (2006).
    """
    return sum(norms.sum(-1) for norms in group_norms(groups, parameters).values())


@torch.no_grad()
def group_lasso_gradients_(
    groups: Sequence[UnitGroup], parameters: Mapping[str, Tensor], strength: float | Tensor
) -> None:
    r"""Add the gradient of ``strength * group_lasso`` to the ``grad`` of the parameters, without a graph.

    .. math:: g_j \mathrel{+}= \lambda \sum_{u \ni j} \frac{\theta_j}{\lVert\theta_u\rVert_2}

    Units of zeros add nothing.

    Parameters
    ----------
    groups : sequence of UnitGroup
    parameters : mapping of str to Tensor
        A ``grad`` that is None counts as zero.
    strength : float, or Tensor of shape (n_runs,)
        Lambda, at least 0; one for all runs, or one each.

    Raises
    ------
    ValueError
        For a negative strength, or parameters that do not fit the groups.
    """
    strength = _per_unit("strength", strength)
    for group in groups:
        norms = _norms(group, parameters)
        weights = torch.where(norms > 0, strength / norms, 0)
        for name, axes in group.axes.items():
            theta = parameters[name]
            if theta.grad is None:
                theta.grad = torch.zeros_like(theta)
            for axis in axes:
                theta.grad.addcmul_(theta, spread(group, weights, theta, axis).to(theta.dtype))
            if len(axes) == 2:  # what lies at (i, i) belongs to unit i once
                grad, values = (tensor.diagonal(dim1=axes[0], dim2=axes[1]) for tensor in (theta.grad, theta))
                grad.addcmul_(values, spread(group, weights, values, values.ndim - 1).to(theta.dtype), value=-1)


@torch.no_grad()
def prox_group_lasso(groups: Sequence[UnitGroup], parameters: Mapping[str, Tensor], threshold: float | Tensor) -> None:
    r"""Block soft threshold of every unit, in place; units at or below the threshold become exact zeros.

    .. math:: \theta_u \leftarrow \max\Big(0,\ 1 - \frac{\tau}{\lVert\theta_u\rVert_2}\Big)\, \theta_u

    For one group whose units share nothing this is the proximal step, the minimiser of
    :math:`\tfrac12\lVert\theta - \theta_0\rVert^2 + \tau R(\theta)`.  Groups are taken one after the other, each with
    the norms that the ones before it left.  Hidden layers next to each other share the weights between them, and for
    them this is **not** the exact proximal step of the sum, which has no closed form: shared weights shrink twice and
    the result depends on the order of the groups.  For small thresholds the difference is of second order in
    :math:`\tau`.

    Parameters
    ----------
    groups : sequence of UnitGroup
    parameters : mapping of str to Tensor
    threshold : float, or Tensor of shape (n_runs,)
        Tau, at least 0; learning rate times strength.

    Raises
    ------
    ValueError
        For a negative threshold, or parameters that do not fit the groups.

    Notes
    -----
    Source: Yuan and Lin (2006); Parikh and Boyd (2014), section 6.5.4.
    """
    threshold = _per_unit("threshold", threshold)
    for group in groups:
        norms = unit_norms(group, parameters)
        factors = torch.where(norms > threshold, 1 - threshold / norms, 0)
        for name, axes in group.axes.items():
            theta = parameters[name]
            diagonal = theta.diagonal(dim1=axes[0], dim2=axes[1]) if len(axes) == 2 else None
            once = diagonal * spread(group, factors, diagonal, diagonal.ndim - 1) if len(axes) == 2 else None
            for axis in axes:
                theta.mul_(spread(group, factors, theta, axis).to(theta.dtype))
            if diagonal is not None:  # what lies at (i, i) belongs to unit i once
                diagonal.copy_(once)


def _norms(group: UnitGroup, parameters: Mapping[str, Tensor]) -> Tensor:
    """Norms as `unit_norms` gives them, without a copy of each parameter's squares, which would cost as much again."""
    if any(len(axes) == 2 for axes in group.axes.values()):
        return unit_norms(group, parameters)
    check(group, parameters)
    squares = 0
    for name, (axis,) in group.axes.items():
        theta = parameters[name].to(torch.promote_types(parameters[name].dtype, torch.float32))
        along = _squares_along(theta, axis, group.n_run_axes)
        is_split = along.shape[-1] != group.n_units  # a unit is a block of indices, such as a head
        squares = squares + (along.unflatten(-1, (group.n_units, -1)).sum(-1) if is_split else along)
    return squares.sqrt()


def _squares_along(theta: Tensor, axis: int, n_run_axes: int) -> Tensor:
    """Sum of squares over every axis but those of the runs and this one."""
    rest = [i for i in range(n_run_axes, theta.ndim) if i != axis]
    if not rest:
        return theta.square()
    if theta.device.type == "cpu" and len(rest) == 1 and axis == theta.ndim - 1:  # there a norm takes ten times as long
        n_rows = max(1, CACHED_NUMBERS * theta.shape[rest[0]] // max(1, theta.numel()))
        return sum(rows.square().sum(rest[0]) for rows in theta.split(n_rows, dim=rest[0]))
    return torch.linalg.vector_norm(theta, dim=rest).square()


def exact_prox_group_lasso(
    groups: Sequence[UnitGroup],
    parameters: Mapping[str, Tensor],
    threshold: float | Tensor,
    *,
    n_sweeps: int = 1_000,
    tolerance: float = 1e-10,
) -> dict[str, Tensor]:
    r"""Proximal step of the whole penalty, also where groups share parameters, by Dykstra's scheme.

    .. math:: \arg\min_\theta\ \tfrac12\lVert\theta - \theta_0\rVert^2 + \tau R(\theta)

    Block soft thresholds of the groups in turn, each of a point to which is added back what the group's last threshold
    took away.  That takes many sweeps where `prox_group_lasso` takes one; it is here to measure what one costs.

    Parameters
    ----------
    groups : sequence of UnitGroup
        In none of them a parameter may stand twice.
    parameters : mapping of str to Tensor
        Left as they are; float64 for a small tolerance.
    threshold : float, or Tensor of shape (n_runs,)
        Tau, at least 0.
    n_sweeps : int
        At most.
    tolerance : float
        Sweeps end when no parameter moves by more than this.

    Returns
    -------
    dict of str to Tensor

    Raises
    ------
    ValueError
        For a negative threshold, or parameters that do not fit the groups.

    Notes
    -----
    Source: Bauschke and Combettes (2008), "A Dykstra-like algorithm for two monotone operators".
    """
    names = {each.parameter for group in groups for each in group.slices}
    values = {name: tensor.detach().clone() for name, tensor in parameters.items()}
    taken = [{name: torch.zeros_like(values[name]) for name in names} for _ in groups]
    for _ in range(n_sweeps):
        before = {name: values[name].clone() for name in names}
        for group, correction in zip(groups, taken, strict=True):
            for name in names:
                values[name] += correction[name]
                correction[name] = values[name].clone()
            prox_group_lasso([group], values, threshold)
            for name in names:
                correction[name] -= values[name]
        if max((values[name] - before[name]).abs().max() for name in names) <= tolerance:
            break
    return values


def _per_unit(name: str, value: float | Tensor) -> float | Tensor:
    is_tensor = isinstance(value, Tensor)
    if is_tensor and value.is_cuda:  # to look at it would make the host wait, at every step
        return value.unsqueeze(-1) if value.ndim else value
    if not bool(((value >= 0) & value.isfinite()).all() if is_tensor else 0 <= value < float("inf")):
        raise ValueError(f"{name} is {value!r}; it must be a number of at least 0")
    return value.unsqueeze(-1) if is_tensor and value.ndim else value
