"""Pruning: masks by rank, masks kept during training, and units removed from the model."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import ROUND_HALF_UP, Decimal
from numbers import Real

import torch
from torch import Tensor, nn

from narrowlib.units import Slice, UnitGroup, check, spread

SCOPES = ("all", "per_layer")


def count_removed(n_units: int, sparsity: float) -> int:
    """Number of units that a sparsity removes, ``n_units * sparsity`` rounded as by hand: 14 of 200 at 0.07.

    Halves are rounded up.  The product is taken of the decimal that is written, not of its binary neighbour.

    Raises
    ------
    ValueError
        For a sparsity outside 0 to 1.
    """
    if isinstance(sparsity, bool) or not isinstance(sparsity, Real) or not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity is {sparsity!r}; it must be a number from 0 to 1")
    exact = Decimal(repr(float(sparsity))) * n_units
    return int(exact.to_integral_value(ROUND_HALF_UP))


def keep_masks(
    scores: Mapping[str, Tensor],
    sparsity: float | None = None,
    *,
    n_kept: int | Mapping[str, int] | None = None,
    scope: str = "all",
) -> dict[str, Tensor]:
    """Masks that remove the units of lowest score, by share or to a count; every run ranks its own units.

    Of equal scores the earlier unit goes first: groups in the order of ``scores``, units in their order.

    Parameters
    ----------
    scores : mapping of str to Tensor, shape (n_units,) or (n_runs, n_units)
        By group, all with as many runs.
    sparsity : float, optional
        Share of units to remove, from 0 to 1; see `count_removed` for how it is rounded.
    n_kept : int or mapping of str to int, optional
        Units to keep, in place of a sparsity: of all groups together, or of each with the scope "per_layer" or when
        given by group.
    scope : {"all", "per_layer"}
        Rank the units of all groups together, or remove the same share of each group.

    Returns
    -------
    dict of str to Tensor, bool, shape of the scores
        True where a unit is kept.

    Raises
    ------
    ValueError
        For a sparsity outside 0 to 1, more units to keep than there are, both or neither of the two, an unknown scope,
        no scores, or scores that are not a number.
    """
    if (sparsity is None) == (n_kept is None):
        raise ValueError(f"sparsity is {sparsity!r} and n_kept is {n_kept!r}; exactly one of them must be given")
    if scope not in SCOPES:
        raise ValueError(f"scope is {scope!r}; it must be one of {', '.join(SCOPES)}")
    if not scores:
        raise ValueError("scores is empty; it must hold at least one group")
    for name, values in scores.items():
        if not isinstance(values, Tensor) or not values.ndim or values.is_complex():
            raise ValueError(f"scores of {name!r} are {values!r}; they must be a tensor with one number per unit")
        if values.isnan().any():
            raise ValueError(f"scores of {name!r} hold {int(values.isnan().sum())} NaN; every unit must have a number")
    if scope == "per_layer" or isinstance(n_kept, Mapping):
        counts = n_kept if isinstance(n_kept, Mapping) else dict.fromkeys(scores, n_kept)
        if set(counts) != set(scores):
            raise ValueError(f"n_kept names {sorted(counts)}; it must name the groups of scores, {sorted(scores)}")
        return {name: _keep_highest(values, sparsity, counts[name]) for name, values in scores.items()}
    if len({values.shape[:-1] for values in scores.values()}) > 1:
        shapes = {name: tuple(values.shape) for name, values in scores.items()}
        raise ValueError(f"scores have shapes {shapes}; all groups must have the same number of runs")
    kept = _keep_highest(torch.cat(list(scores.values()), dim=-1), sparsity, n_kept)
    return dict(zip(scores, kept.split([values.shape[-1] for values in scores.values()], dim=-1), strict=True))


def _keep_highest(scores: Tensor, sparsity: float | None, n_kept: int | None) -> Tensor:
    n_units = scores.shape[-1]
    if n_kept is None:
        n_kept = n_units - count_removed(n_units, sparsity)
    elif isinstance(n_kept, bool) or not isinstance(n_kept, int) or not 0 <= n_kept <= n_units:
        raise ValueError(f"n_kept is {n_kept!r}; it must be a whole number from 0 to {n_units}, the number of units")
    lowest = scores.argsort(dim=-1, stable=True)[..., : n_units - n_kept]
    return torch.ones_like(scores, dtype=torch.bool).scatter_(-1, lowest, False)


@torch.no_grad()
def apply_masks(groups: Sequence[UnitGroup], tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    """Set everything that belongs to removed units to zero, in place: parameters after an optimiser step, or gradients.

    Parameters
    ----------
    groups : sequence of UnitGroup
    tensors : mapping of str to Tensor
    masks : mapping of str to Tensor, bool, shape (n_units,) or (n_runs, n_units)
        One for each of the groups, as `keep_masks` makes them.

    Raises
    ------
    ValueError
        When tensors or masks do not fit the groups.
    """
    _check(groups, tensors, masks)
    for group in groups:
        for each in group.slices:
            tensor = tensors[each.parameter]
            mask = masks[group.name].to(tensor.device)
            tensor.masked_fill_(~spread(group, mask, tensor, each.axis), 0)


@contextmanager
def ablated(model: nn.Module, groups: Sequence[UnitGroup], masks: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """The model with removed units at zero inside ``with``; the groups' parameters are restored exactly afterwards.

    Parameters
    ----------
    model : nn.Module
        Changed in place; a copy of the parameters that the groups name is held meanwhile.
    groups, masks
        See `apply_masks`.

    Yields
    ------
    nn.Module
        The same model.
    """
    parameters = dict(model.named_parameters())
    _check(groups, parameters, masks)
    names = {each.parameter for group in groups for each in group.slices}
    saved = {name: parameters[name].detach().clone() for name in names}
    try:
        apply_masks(groups, parameters, masks)
        yield model
    finally:
        with torch.no_grad():
            for name, values in saved.items():
                parameters[name].copy_(values)


@torch.no_grad()
def slice_state(
    state_dict: Mapping[str, Tensor], groups: Sequence[UnitGroup], masks: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Parameters with the removed units cut out, for a smaller model.

    Exact for units that compute nothing once they are zero, such as neurons behind a ReLU.

    Parameters
    ----------
    state_dict : mapping of str to Tensor
        Left as it is.
    groups, masks
        See `apply_masks`.  Runs may keep different units, but equally many.

    Returns
    -------
    dict of str to Tensor
        New tensors where a group names them, the others as they were.

    Raises
    ------
    ValueError
        When the runs of a group keep different numbers of units, or something does not fit.
    """
    _check(groups, state_dict, masks)
    state = dict(state_dict)
    for group in groups:
        kept = _kept_units(group, masks[group.name])
        for each in group.slices:
            state[each.parameter] = _take(state[each.parameter], group, kept, each)
    return state


def _take(tensor: Tensor, group: UnitGroup, kept: Tensor, each: Slice) -> Tensor:
    indices = kept  # (runs?, kept)
    if each.block > 1:  # every index of a unit's block
        indices = (kept[..., None] * each.block + torch.arange(each.block, device=kept.device)).flatten(-2)
    indices = indices.to(tensor.device)
    if not group.n_run_axes:
        return tensor.index_select(each.axis, indices)
    shape = [*tensor.shape[: group.n_run_axes], *[1] * (tensor.ndim - group.n_run_axes)]
    shape[each.axis] = indices.shape[-1]
    return tensor.take_along_dim(indices.reshape(shape), each.axis)


def _kept_units(group: UnitGroup, mask: Tensor) -> Tensor:
    """Ascending indices of kept units: (n_kept,) or (n_runs, n_kept)."""
    counts = mask.sum(-1)
    if counts.unique().numel() > 1:
        raise ValueError(
            f"the runs keep {counts.tolist()} units of {group.name!r}; to be cut out of a stack they must keep equally "
            f"many: rank per layer, or slice each run alone"
        )
    return mask.nonzero()[:, -1].reshape(*mask.shape[:-1], -1)


def _check(groups: Sequence[UnitGroup], tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    if {group.name for group in groups} != set(masks):
        raise ValueError(f"masks are of {sorted(masks)}; they must be of {sorted(group.name for group in groups)}")
    for group in groups:
        check(group, tensors)
        mask = masks[group.name]
        shape = (*tensors[group.slices[0].parameter].shape[: group.n_run_axes], group.n_units)
        if mask.dtype != torch.bool or tuple(mask.shape) != shape:
            raise ValueError(
                f"mask of {group.name!r} is {mask.dtype} of shape {tuple(mask.shape)}; it must be bool of {shape}"
            )
