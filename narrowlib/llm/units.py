"""What can be pruned in a language model of the Llama architecture, and what it then counts.

A residual dimension, an MLP neuron, an attention head and a whole layer are units like any other: scores, masks and
penalties reach them through `narrowlib.units` alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from narrowlib.units import Slice, UnitGroup

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FAMILIES = {"llama": "Llama (SmolLM2 too)", "mistral": "Mistral", "qwen2": "Qwen2"}  # by model_type of the config
COUNTS = ("kept", "stored")


def check_family(model_type: str) -> None:
    """Raise a ValueError unless models of this ``model_type`` are supported."""
    if model_type not in FAMILIES:
        raise ValueError(
            f"the model is of the family {model_type!r}; supported are the families {', '.join(FAMILIES.values())}"
        )


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
        Of a supported family; see `FAMILIES`.
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
    check_family(model.config.model_type)
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
    groups = checked_groups(model, masks)
    removed = removed_layers(groups, masks)
    kept = kept_counts(model, masks, removed, widest=counted == "stored")
    shapes = {
        name: list(parameter.shape)
        for name, parameter in model.named_parameters()
        if not name.startswith(tuple(f"model.layers.{layer}." for layer in removed))
    }
    for group, n_kept in kept.items():
        for each in group.slices:
            if each.parameter in shapes:
                shapes[each.parameter][each.axis] = n_kept * each.block
    return sum(math.prod(shape) for shape in shapes.values())


def checked_groups(model: PreTrainedModel, masks: Mapping[str, Tensor]) -> tuple[UnitGroup, ...]:
    """The groups that masks name, after a look at the masks.

    Raises
    ------
    ValueError
        When a mask does not fit its group, or keeps nothing: no unit of a layer, no dimension, no layer.
    """
    groups = units_named(model, masks)
    gone = tuple(f"layers.{layer}." for layer in removed_layers(groups, masks))
    for group in groups:
        mask = masks[group.name]
        if mask.dtype != torch.bool or tuple(mask.shape) != (group.n_units,):
            raise ValueError(
                f"mask of {group.name!r} is {mask.dtype} of shape {tuple(mask.shape)}; it must be bool of "
                f"({group.n_units},)"
            )
        if not is_layer(group) and not mask.any() and not group.name.startswith(gone):
            raise ValueError(
                f"mask of {group.name!r} keeps none of {group.n_units} units; it must keep at least one, or the layer "
                f"be removed as a whole"
            )
    if len(removed_layers(groups, masks)) == len(model.model.layers):
        raise ValueError(f"masks remove all of {len(model.model.layers)} layers; at least one must be kept")
    return groups


def removed_layers(groups: Iterable[UnitGroup], masks: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Numbers of the layers that masks remove as a whole, ascending."""
    return tuple(
        int(group.name.split(".")[1]) for group in groups if is_layer(group) and not bool(masks[group.name].all())
    )


def kept_counts(
    model: PreTrainedModel, masks: Mapping[str, Tensor], removed: Iterable[int], *, widest: bool
) -> dict[UnitGroup, int]:
    """Units that every group of residual dimensions, neurons and heads keeps, removed layers left out.

    Parameters
    ----------
    model : PreTrainedModel
    masks : mapping of str to Tensor
    removed : iterable of int
        Layers that are no longer there.
    widest : bool
        Count every layer's neurons and heads as many as the layer that keeps the most.
    """
    gone = tuple(f"layers.{layer}." for layer in removed)
    counts: dict[UnitGroup, int] = {}
    for kind in ("residual", "neurons", "heads"):
        groups = [group for group in llama_units(model, kind) if not group.name.startswith(gone)]
        kept = {group: int(masks[group.name].sum()) if group.name in masks else group.n_units for group in groups}
        counts |= dict.fromkeys(kept, max(kept.values())) if widest else kept
    return counts


def is_layer(group: UnitGroup) -> bool:
    """Whether a group of a Llama is a whole layer."""
    return group.name.startswith("layers.") and group.name.count(".") == 1


def head_dim_of(model: PreTrainedModel) -> int:
    """Size of an attention head, whether or not the config says it."""
    return model.model.layers[0].self_attn.head_dim


def is_tied(model: PreTrainedModel) -> bool:
    """Whether the head is the embedding."""
    return model.lm_head.weight is model.model.embed_tokens.weight


def _neurons(model: PreTrainedModel) -> tuple[UnitGroup, ...]:
    groups = []
    for i, layer in enumerate(model.model.layers):
        rows = [*_rows(f"model.layers.{i}.mlp.gate_proj", layer.mlp.gate_proj)]
        rows += _rows(f"model.layers.{i}.mlp.up_proj", layer.mlp.up_proj)
        slices = (*rows, Slice(f"model.layers.{i}.mlp.down_proj.weight", 1))
        groups.append(UnitGroup(f"layers.{i}.neurons", layer.mlp.gate_proj.weight.shape[0], slices))
    return tuple(groups)


def _residual(model: PreTrainedModel) -> tuple[UnitGroup, ...]:
    slices = [Slice("model.embed_tokens.weight", 1), Slice("model.norm.weight", 0)]
    for i, layer in enumerate(model.model.layers):
        prefix = f"model.layers.{i}"
        slices += [Slice(f"{prefix}.{norm}.weight", 0) for norm in ("input_layernorm", "post_attention_layernorm")]
        slices += [Slice(f"{prefix}.self_attn.{name}.weight", 1) for name in ("q_proj", "k_proj", "v_proj")]
        slices += [Slice(f"{prefix}.mlp.{name}.weight", 1) for name in ("gate_proj", "up_proj")]
        slices += _rows(f"{prefix}.self_attn.o_proj", layer.self_attn.o_proj)
        slices += _rows(f"{prefix}.mlp.down_proj", layer.mlp.down_proj)
    if not is_tied(model):
        slices.append(Slice("lm_head.weight", 1))
    return (UnitGroup("residual", model.model.embed_tokens.weight.shape[1], tuple(slices)),)


def _heads(model: PreTrainedModel) -> tuple[UnitGroup, ...]:
    config, size = model.config, head_dim_of(model)
    n_units = config.num_key_value_heads
    shared = config.num_attention_heads // n_units  # query heads of a key-value head
    groups = []
    for i, layer in enumerate(model.model.layers):
        prefix, attention = f"model.layers.{i}.self_attn", layer.self_attn
        slices = _rows(f"{prefix}.q_proj", attention.q_proj, block=shared * size)
        slices += _rows(f"{prefix}.k_proj", attention.k_proj, block=size)
        slices += _rows(f"{prefix}.v_proj", attention.v_proj, block=size)
        slices.append(Slice(f"{prefix}.o_proj.weight", 1, shared * size))
        groups.append(UnitGroup(f"layers.{i}.heads", n_units, tuple(slices)))
    return tuple(groups)


def _layers(model: PreTrainedModel) -> tuple[UnitGroup, ...]:
    size = model.config.hidden_size
    groups = []
    for i, layer in enumerate(model.model.layers):
        slices = _rows(f"model.layers.{i}.self_attn.o_proj", layer.self_attn.o_proj, block=size)
        slices += _rows(f"model.layers.{i}.mlp.down_proj", layer.mlp.down_proj, block=size)
        groups.append(UnitGroup(f"layers.{i}", 1, tuple(slices)))
    return tuple(groups)


def _rows(name: str, linear: nn.Linear, block: int = 1) -> list[Slice]:
    """Rows of a projection, with its bias where it has one."""
    names = [f"{name}.weight"] if linear.bias is None else [f"{name}.weight", f"{name}.bias"]
    return [Slice(name, 0, block) for name in names]


_UNITS: dict[str, Callable[[PreTrainedModel], tuple[UnitGroup, ...]]] = {
    "residual": _residual,
    "neurons": _neurons,
    "heads": _heads,
    "layers": _layers,
}
