"""Units that can be pruned in a language model built like Llama (`narrowlib.llm.families`), and parameter counts.

A residual dimension, an MLP neuron, an attention head and a whole layer are units like any other: scores, masks and
penalties reach them through `narrowlib.units` alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from narrowlib.llm.families import family_of
from narrowlib.units import Slice, UnitGroup

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COUNTS = ("kept", "stored")


def llama_units(model: PreTrainedModel, kind: str) -> tuple[UnitGroup, ...]:
    """Groups of units of one kind, in the order of the layers.

    ``"neurons"``
        One group ``layers.{i}.neurons`` per layer: row of the gate and up projections, column of the down projection.
    ``"residual"``
        One group ``residual``: column of the embedding, every norm weight, column of what reads the residual stream
        (query, key, value, gate, up), row of what writes to it (output, down), column of an untied head.
    ``"heads"``
        One group ``layers.{i}.heads`` per layer: rows of query, key and value, columns of the output projection.
        Where query heads share keys and values (grouped-query attention), the unit is the key-value head with all of
        its query heads: a query head alone would leave its key and value behind, and a checkpoint can only say one
        number of query heads per key-value head.
    ``"layers"``
        One group ``layers.{i}`` of a single unit per layer: all of its output and down projections, with which the
        layer adds nothing to the residual stream.

    Biases belong to the units of their rows.

    Parameters
    ----------
    model : PreTrainedModel
        Of a supported family; see `narrowlib.llm.families`.
    kind : {"neurons", "residual", "heads", "layers"}

    Returns
    -------
    tuple of UnitGroup

    Raises
    ------
    ValueError
        For an unknown kind, a family that is not supported, or weights kept in a quantised form.

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), section 5, for neurons and residual dimensions.
    """
    if kind not in _UNITS:
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(_UNITS)}")
    family_of(model)
    if getattr(model, "is_quantized", False) or not model.model.embed_tokens.weight.is_floating_point():
        raise ValueError("the weights are quantised; load the model in float32 or bfloat16 to prune it")
    return _UNITS[kind](model)


def units_named(model: PreTrainedModel, names: Iterable[str]) -> tuple[UnitGroup, ...]:
    """The groups of these names, in the order of `llama_units`, kinds as they stand there.

    Raises
    ------
    ValueError
        When the model has no group of a name.
    """
    names = list(names)
    groups = {group.name: group for kind in _UNITS for group in llama_units(model, kind)}
    unknown = [name for name in names if name not in groups]
    if unknown:
        raise ValueError(
            f"the model has no group {unknown[0]!r}; its groups are residual, and layers.{{i}}, "
            f"layers.{{i}}.neurons and layers.{{i}}.heads for i from 0 to {len(model.model.layers) - 1}"
        )
    return tuple(group for name, group in groups.items() if name in names)


def n_parameters_of(model: PreTrainedModel, masks: Mapping[str, Tensor] | None = None, *, counted: str = "kept") -> int:
    """Number of parameters of a model without the units that masks remove.

    Parameters
    ----------
    model : PreTrainedModel
        It may lie on the device ``meta``, without weights.
    masks : mapping of str to Tensor, bool, shape (n_units,)
        By group, of any kinds; groups without a mask are whole.  None for the whole model.
    counted : {"kept", "stored"}
        ``"kept"`` as in the paper: all that belongs to no removed unit, columns of the embedding included, tied
        weights once.  ``"stored"`` as the file of `narrowlib.llm.export.export_vanilla` holds them with
        ``widths="padded"``: every layer as wide as the widest.  Where layers are equally wide the two are equal.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        For another ``counted``, or masks that do not fit the model.
    """
    if counted not in COUNTS:
        raise ValueError(f"counted is {counted!r}; it must be one of {', '.join(COUNTS)}")
    masks = masks or {}
    checked_groups(model, masks)
    kept = kept_counts(model, masks, widest=counted == "stored")
    gone = tuple(f"model.layers.{layer}." for layer in removed_layers(masks))
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters() if not name.startswith(gone)}
    for group, n_kept in kept.items():
        for each in group.slices:
            if each.parameter in shapes:
                shapes[each.parameter][each.axis] = n_kept * each.block
    return sum(math.prod(shape) for shape in shapes.values())


def checked_groups(model: PreTrainedModel, masks: Mapping[str, Tensor]) -> tuple[UnitGroup, ...]:
    """The groups that masks name, after checking the masks.

    Raises
    ------
    ValueError
        When a mask does not fit its group, or keeps nothing: no unit of a layer, no dimension, no layer.
    """
    groups = units_named(model, masks)
    removed = removed_layers(masks)
    gone = tuple(f"layers.{layer}." for layer in removed)
    for group in groups:
        mask = masks[group.name]
        if mask.dtype != torch.bool or tuple(mask.shape) != (group.n_units,):
            raise ValueError(
                f"mask of {group.name!r} is {mask.dtype} of shape {tuple(mask.shape)}; it must be bool of "
                f"({group.n_units},)"
            )
        if not is_layer(group.name) and not mask.any() and not group.name.startswith(gone):
            raise ValueError(
                f"mask of {group.name!r} keeps none of {group.n_units} units; it must keep at least one, or the whole "
                f"layer must be removed"
            )
    if len(removed) == len(model.model.layers):
        raise ValueError(f"masks remove all of {len(model.model.layers)} layers; at least one must be kept")
    return groups


def removed_layers(masks: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Numbers of the layers that masks remove as a whole, ascending."""
    return tuple(sorted(int(name.split(".")[1]) for name in masks if is_layer(name) and not bool(masks[name].all())))


def kept_counts(model: PreTrainedModel, masks: Mapping[str, Tensor], *, widest: bool) -> dict[UnitGroup, int]:
    """Units that every group of residual dimensions, neurons and heads keeps, removed layers left out.

    With ``widest``, neurons and heads of every layer count as many as in the layer that keeps the most.
    """
    gone = tuple(f"layers.{layer}." for layer in removed_layers(masks))
    counts: dict[UnitGroup, int] = {}
    for kind in ("residual", "neurons", "heads"):
        groups = [group for group in llama_units(model, kind) if not group.name.startswith(gone)]
        kept = {group: int(masks[group.name].sum()) if group.name in masks else group.n_units for group in groups}
        counts |= dict.fromkeys(kept, max(kept.values())) if widest else kept
    return counts


def is_layer(name: str) -> bool:
    """Whether the group of this name is a whole layer."""
    return name.startswith("layers.") and name.count(".") == 1


def head_dim_of(model: PreTrainedModel) -> int:
    """Size of an attention head, whether or not the config states it."""
    return model.model.layers[0].self_attn.head_dim


def is_tied(model: PreTrainedModel) -> bool:
    """Whether the output head shares its weights with the embedding."""
    return model.lm_head.weight is model.model.embed_tokens.weight


def _neurons(model: PreTrainedModel) -> tuple[UnitGroup, ...]:
    return tuple(
        UnitGroup(
            f"layers.{i}.neurons",
            layer.mlp.gate_proj.weight.shape[0],
            (*_rows(model, i, "mlp.gate_proj", "mlp.up_proj"), Slice(f"model.layers.{i}.mlp.down_proj.weight", 1)),
        )
        for i, layer in enumerate(model.model.layers)
    )


def _residual(model: PreTrainedModel) -> tuple[UnitGroup, ...]:
    norms = family_of(model).norms
    slices = [Slice("model.embed_tokens.weight", 1), Slice("model.norm.weight", 0)]
    readers = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
    for i in range(len(model.model.layers)):
        prefix = f"model.layers.{i}"
        slices += [Slice(f"{prefix}.{norm}.weight", 0) for norm in norms]
        slices += [Slice(f"{prefix}.{name}.weight", 1) for name in readers]
        slices += _rows(model, i, "self_attn.o_proj", "mlp.down_proj")
    if not is_tied(model):
        slices.append(Slice("lm_head.weight", 1))
    return (UnitGroup("residual", model.model.embed_tokens.weight.shape[1], tuple(slices)),)


def _heads(model: PreTrainedModel) -> tuple[UnitGroup, ...]:
    size, n_units = head_dim_of(model), model.config.num_key_value_heads
    queries = model.config.num_attention_heads // n_units * size  # rows of the query heads of a key-value head
    groups = []
    for i in range(len(model.model.layers)):
        slices = _rows(model, i, "self_attn.q_proj", block=queries)
        slices += _rows(model, i, "self_attn.k_proj", "self_attn.v_proj", block=size)
        slices.append(Slice(f"model.layers.{i}.self_attn.o_proj.weight", 1, queries))
        if family_of(model).head_norms == "all":
            slices.append(Slice(f"model.layers.{i}.self_attn.q_norm.weight", 0, queries))
            slices.append(Slice(f"model.layers.{i}.self_attn.k_norm.weight", 0, size))
        groups.append(UnitGroup(f"layers.{i}.heads", n_units, tuple(slices)))
    return tuple(groups)


def _layers(model: PreTrainedModel) -> tuple[UnitGroup, ...]:
    size = model.config.hidden_size
    return tuple(
        UnitGroup(f"layers.{i}", 1, tuple(_rows(model, i, "self_attn.o_proj", "mlp.down_proj", block=size)))
        for i in range(len(model.model.layers))
    )


def _rows(model: PreTrainedModel, layer: int, *projections: str, block: int = 1) -> list[Slice]:
    """Rows of projections of a layer, each with its bias where it has one."""
    names = [f"model.layers.{layer}.{projection}" for projection in projections]
    kinds = {name: ("weight", "bias")[: 1 + (model.get_submodule(name).bias is not None)] for name in names}
    return [Slice(f"{name}.{kind}", 0, block) for name in names for kind in kinds[name]]


_UNITS: dict[str, Callable[[PreTrainedModel], tuple[UnitGroup, ...]]] = {
    "residual": _residual,
    "neurons": _neurons,
    "heads": _heads,
    "layers": _layers,
}
