"""Units that can be pruned, as slices of a model's parameters.

A unit is a neuron of a hidden layer, a residual dimension, a head.  Scores, pruning and penalties know a model only
through its groups of units, so each of them is written once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Slice:
    """Index i along ``axis`` of the named parameter belongs to unit i; with ``block``, block i of consecutive indices.

    Parameters
    ----------
    parameter : str
        Name in the model's ``state_dict``.
    axis : int
        Counted from the front, run axes included; at least 0.
    block : int
        Consecutive indices of one unit: the size of an attention head; at least 1.

    Raises
    ------
    ValueError
        For an empty name, a negative axis or a block of less than 1.
    """

    parameter: str
    axis: int
    block: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.parameter, str) or not self.parameter:
            raise ValueError(f"parameter is {self.parameter!r}; it must be the name of a parameter")
        _check_whole(f"axis of {self.parameter}", self.axis, 0)
        _check_whole(f"block of {self.parameter}", self.block, 1)


@dataclass(frozen=True)
class UnitGroup:
    """Units of one kind, and the parameters that belong to each.

    A weight between two hidden layers belongs to units of two groups.  A parameter may stand in one group twice, on
    different axes, in blocks of 1; the entry at (i, i) then belongs to unit i once.

    Parameters
    ----------
    name : str
        Key of scores and masks: ``"hidden 1"``.
    n_units : int
        At least 1.
    slices : sequence of Slice
        What belongs to the units, at least one.
    n_run_axes : {0, 1}
        1 for a stack of independent networks, whose parameters all lead with the run; 0 for one model.

    Raises
    ------
    ValueError
        When a number is out of range, a slice is repeated or lies on a run axis, or blocks meet on two axes.
    """

    name: str
    n_units: int
    slices: tuple[Slice, ...]
    n_run_axes: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"name is {self.name!r}; it must be the name of a group")
        _check_whole(f"n_units of {self.name!r}", self.n_units, 1)
        if isinstance(self.n_run_axes, bool) or self.n_run_axes not in (0, 1):
            raise ValueError(f"n_run_axes of {self.name!r} is {self.n_run_axes!r}; it must be 0 or 1")
        if not isinstance(self.slices, Sequence) or not all(isinstance(each, Slice) for each in self.slices):
            raise ValueError(f"slices of {self.name!r} is {self.slices!r}; it must be a sequence of Slice")
        object.__setattr__(self, "slices", tuple(self.slices))
        if not self.slices:
            raise ValueError(f"slices of {self.name!r} is empty; a group needs at least one")
        for parameter, axes in self.axes.items():
            if len(set(axes)) != len(axes) or len(axes) > 2:
                raise ValueError(f"{self.name!r} has {parameter} on axes {axes}; up to two different ones are allowed")
        for each in self.slices:
            where = f"of {each.parameter} in {self.name!r} is"
            if each.axis < self.n_run_axes:
                raise ValueError(f"axis {where} {each.axis}; it must be at least n_run_axes, {self.n_run_axes}")
            if each.block > 1 and len(self.axes[each.parameter]) > 1:
                raise ValueError(f"block {where} {each.block}; on two axes it must be 1")

    @property
    def axes(self) -> dict[str, tuple[int, ...]]:
        """Axes of every parameter of the group, one or two each."""
        axes: dict[str, tuple[int, ...]] = {}
        for each in self.slices:
            axes[each.parameter] = (*axes.get(each.parameter, ()), each.axis)
        return axes


def _check_whole(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {least}")


def check(group: UnitGroup, tensors: Mapping[str, Tensor]) -> None:
    """Raise a ValueError unless the tensors have every parameter of the group, with all units along its axis."""
    runs = {}
    for each in group.slices:
        tensor = tensors.get(each.parameter)
        if tensor is None:
            raise ValueError(f"group {group.name!r} names {each.parameter}, which is not among the tensors")
        if each.axis >= tensor.ndim or tensor.shape[each.axis] != group.n_units * each.block:
            blocks = f" of {each.block} each" if each.block > 1 else ""
            raise ValueError(
                f"{each.parameter} has shape {tuple(tensor.shape)}; group {group.name!r} needs {group.n_units} units"
                f"{blocks} along its axis {each.axis}"
            )
        runs[each.parameter] = tuple(tensor.shape[: group.n_run_axes])
    if len(set(runs.values())) > 1:
        raise ValueError(f"parameters of group {group.name!r} differ in their number of runs: {runs}")


def spread(group: UnitGroup, values: Tensor, tensor: Tensor, axis: int) -> Tensor:
    """One value per unit, (n_runs?, n_units), shaped to broadcast along ``axis`` of a parameter.

    Where units are blocks of that axis, the value of a unit stands at each index of its block.
    """
    block = tensor.shape[axis] // group.n_units
    if block > 1:
        values = values.repeat_interleave(block, dim=-1)
    shape = [size if i < group.n_run_axes or i == axis else 1 for i, size in enumerate(tensor.shape)]
    return values.reshape(shape)


def unit_sums(
    group: UnitGroup, *tensors: Mapping[str, Tensor], of: Callable[..., Tensor] = lambda tensor: tensor
) -> Tensor:
    r"""Sum over everything that belongs to each unit, the basis of norms and attributions.

    .. math:: s_u = \sum_{j \in u} f(a_j, b_j, \dots)

    Parameters
    ----------
    group : UnitGroup
    *tensors : mapping of str to Tensor
        One or more, such as the parameters, or the parameters and their gradients.
    of : callable
        The elementwise function f, from one tensor of each mapping; the tensor itself by default.  Its arguments are
        in float32 at least.  It sees one parameter at a time, so that no second model is held.

    Returns
    -------
    Tensor, shape (n_units,) or (n_runs, n_units)
        Differentiable.

    Raises
    ------
    ValueError
        See `check`.
    """
    for mapping in tensors:
        check(group, mapping)
    total = None
    for parameter, axes in group.axes.items():
        values = of(*(_in_full(mapping[parameter]) for mapping in tensors))
        parts = [_sums_along(group, values, axis) for axis in axes]
        if len(axes) == 2:  # what lies at (i, i) was counted twice
            diagonal = values.diagonal(dim1=axes[0], dim2=axes[1])
            parts.append(-_sums_along(group, diagonal, diagonal.ndim - 1))
        total = sum(parts) if total is None else total + sum(parts)
    return total


def unit_norms(group: UnitGroup, tensors: Mapping[str, Tensor]) -> Tensor:
    r"""Euclidean norm of everything that belongs to each unit, :math:`\lVert\theta_u\rVert_2`.

    Returns
    -------
    Tensor, shape (n_units,) or (n_runs, n_units)
        Differentiable; the gradient at a unit of zeros is 0.
    """
    squares = unit_sums(group, tensors, of=torch.square)
    is_positive = squares > 0
    return torch.where(is_positive, torch.where(is_positive, squares, 1).sqrt(), 0)


def _in_full(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _sums_along(group: UnitGroup, values: Tensor, axis: int) -> Tensor:
    """Sum over the other axes, and over the block of each unit: (n_runs?, n_units)."""
    rest = [i for i in range(group.n_run_axes, values.ndim) if i != axis]
    sums = values.sum(rest) if rest else values
    return sums if sums.shape[-1] == group.n_units else sums.unflatten(-1, (group.n_units, -1)).sum(-1)
