r"""Export a narrowed language model so that any tool can load it: removed units are cut out exactly.

Removing residual dimensions changes the mean inside every RMSNorm.  With :math:`r` the share of dimensions that is
kept, scaling the norm's weight by :math:`r^{-1/2}` and its epsilon by :math:`1/r` makes up for it:

.. math::
    \frac{w}{\sqrt r} \cdot \frac{x}{\sqrt{\frac{1}{rd} \sum_i x_i^2 + \frac{\epsilon}{r}}}
    = w \cdot \frac{x}{\sqrt{\frac1d \sum_i x_i^2 + \epsilon}}
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from narrowlib.llm.cards import model_card
from narrowlib.llm.families import family_of
from narrowlib.llm.models import LanguageModel, silenced
from narrowlib.llm.units import (
    checked_groups,
    head_dim_of,
    is_layer,
    is_tied,
    kept_counts,
    removed_layers,
)
from narrowlib.pruning import slice_state
from narrowlib.store.files import replacing
from narrowlib.units import UnitGroup

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

WIDTHS = ("uniform", "padded")
WIDTH_MULTIPLE = 64  # blocks of 32 weights in Q8_0, tiles of tensor cores; rows of 256 are what k-quants want
_WIDTHS_AT_LEAST = 4  # to choose from where no multiple is asked for


def round_hidden_size(model: PreTrainedModel, wished: float, *, n_heads: int | None = None) -> int:
    """The possible number of residual dimensions nearest to a requested one.

    Of Llama and Gemma, transformers refuses a hidden size that is no multiple of the number of attention heads, see
    `narrowlib.llm.families.Family`; the size of a head stands in the config by itself.  With n the result,
    ``keep_masks(scores, n_kept=n)`` keeps as many.

    Parameters
    ----------
    model : PreTrainedModel
    wished : float
        Dimensions to keep, above 0 and at most those of the model.
    n_heads : int, optional
        Query heads of the narrowed model; those of the model by default.

    Returns
    -------
    int
        A multiple of what the family demands; of two equally near ones the larger.

    Raises
    ------
    ValueError
        For a wish out of range.
    """
    hidden, n_heads = model.config.hidden_size, n_heads or model.config.num_attention_heads
    if not 0 < wished <= hidden:
        raise ValueError(f"wished is {wished!r}; it must be a number above 0 and at most {hidden}")
    return round_width(hidden, wished, needs=width_divisor(model, n_heads), multiple_of=1)


def width_divisor(model: PreTrainedModel, n_heads: int) -> int:
    """What the residual dimensions of a checkpoint of this family, with so many query heads, must be divisible by."""
    return n_heads if family_of(model).width_of_heads else 1


def round_width(size: int, wished: float, *, needs: int = 1, multiple_of: int | None = None) -> int:
    """The multiple of two numbers nearest to a requested width, at least one step and at most the size.

    Parameters
    ----------
    size : int
        Width before the cut.
    wished : float
        Units to keep.
    needs : int
        What the width must always be divisible by.
    multiple_of : int, optional
        What quantised formats and GPUs want it to be divisible by.  None for `WIDTH_MULTIPLE`, or the largest part of
        it, divided by a power of 2, with which there are at least four widths to choose from.

    Raises
    ------
    ValueError
        When no width up to the size is such a multiple.
    """
    if multiple_of is None:
        parts = (WIDTH_MULTIPLE >> shift for shift in range(WIDTH_MULTIPLE.bit_length()))
        multiple_of = next((part for part in parts if math.lcm(needs, part) * _WIDTHS_AT_LEAST <= size), 1)
    step = math.lcm(needs, multiple_of)
    if step > size:
        raise ValueError(
            f"multiple_of is {multiple_of}; with widths divisible by {needs}, this leaves multiples of {step}, but the "
            f"model has only {size}; use a smaller one"
        )
    return min(max(1, int(wished / step + 0.5)), size // step) * step


@torch.no_grad()
def sliced(model: PreTrainedModel, masks: Mapping[str, Tensor], *, widths: str = "uniform") -> PreTrainedModel:
    """A new, smaller model of the same class that computes what the masked model computes.

    Parameters
    ----------
    model : PreTrainedModel
        Not changed; removed units need not be zero in it.
    masks : mapping of str to Tensor, bool, shape (n_units,)
        By group, of any kinds; see `narrowlib.llm.units.llama_units`.  Groups without a mask are kept whole.
    widths : {"uniform", "padded"}
        A config knows one number of neurons and of heads for all layers.  ``"uniform"`` needs masks that keep equally
        many in every layer; ``"padded"`` fills layers with zeros up to the widest, which computes the same.

    Returns
    -------
    PreTrainedModel
        On the device and in the dtypes of the model, with memory of its own.

    Raises
    ------
    ValueError
        When the masks do not fit the model, keep nothing of a layer, keep a number of residual dimensions that is no
        multiple of the number of heads, or keep unequal numbers with ``widths="uniform"``.

    Notes
    -----
    Equal to float32 rounding.  In bfloat16 the scaled norm weights are rounded once more, unless the share of kept
    dimensions is a power of 4.
    """
    groups = checked_groups(model, masks)
    config = _narrowed_config(model, masks, widths)
    state = _narrowed_state(model, groups, masks)
    with torch.device("meta"):  # no weights are drawn, and none take memory, only to be thrown away
        narrowed = type(model)(config)
    for module in narrowed.modules():  # buffers such as frequencies are in no state
        there = {name: buffer for name, buffer in module._buffers.items() if buffer is not None and buffer.is_meta}
        module._buffers |= {name: torch.empty_like(b, device=model.device) for name, b in there.items()}
        if there:
            narrowed._init_weights(module)
    narrowed.load_state_dict(state, strict=False, assign=True)
    narrowed.tie_weights()
    missing = [name for name, tensor in narrowed.state_dict().items() if tensor.is_meta]
    if missing:
        raise RuntimeError(f"the sliced model lacks {', '.join(missing)}")
    narrowed.generation_config = copy.deepcopy(model.generation_config)
    return narrowed.train(model.training)


def export_vanilla(
    language_model: LanguageModel,
    masks: Mapping[str, Tensor],
    folder: str | Path,
    *,
    widths: str = "uniform",
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write the sliced model as a plain checkpoint that ``AutoModelForCausalLM.from_pretrained(folder)`` loads.

    Parameters
    ----------
    language_model : LanguageModel
        Model and tokenizer, as `narrowlib.llm.models.load_causal_lm` gives them.
    masks, widths
        See `sliced`.
    folder : path
        Must not exist, or be empty.
    about : mapping of str to Any, optional
        What the narrowing costs, for the model card: ``{"loss on Python before, nats": 2.27, ...}``.

    Returns
    -------
    Path
        The folder: weights as safetensors, config, generation config, tokenizer, and README.md, all or nothing.

    Raises
    ------
    ValueError
        As `sliced`, or for a folder that holds something.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"folder is {str(folder)!r}, which already exists; it must be a new or empty folder")
    narrowed = sliced(language_model.model, masks, widths=widths)
    with replacing(folder) as temporary:
        with silenced():
            narrowed.save_pretrained(temporary)
            language_model.tokenizer.save_pretrained(temporary)
        card = model_card(language_model, narrowed, masks, about or {})
        (temporary / "README.md").write_text(card, encoding="utf-8")
        for path in filter(Path.is_file, temporary.iterdir()):  # further templates lie in a folder
            path.chmod(0o644)  # safetensors leaves its files to their owner alone
    return folder


def _narrowed_config(model: PreTrainedModel, masks: Mapping[str, Tensor], widths: str) -> PreTrainedConfig:
    if widths not in WIDTHS:
        raise ValueError(f"widths is {widths!r}; it must be one of {', '.join(WIDTHS)}")
    removed = removed_layers(masks)
    by_kind: dict[str, list[int]] = {"residual": [], "neurons": [], "heads": []}
    for group, n_kept in kept_counts(model, masks, widest=False).items():
        by_kind[group.name.split(".")[-1]].append(n_kept)
    for kind, kept in by_kind.items():
        if widths == "uniform" and min(kept) < max(kept):
            raise ValueError(
                f"widths is 'uniform', but masks keep from {min(kept)} to {max(kept)} {kind} per layer; rank with "
                f"scope='per_layer', or use widths='padded'"
            )
    config = copy.deepcopy(model.config)
    hidden, n_groups = by_kind["residual"][0], max(by_kind["heads"])
    n_heads = n_groups * (config.num_attention_heads // config.num_key_value_heads)
    if hidden % width_divisor(model, n_heads):
        nearest = round_hidden_size(model, hidden, n_heads=n_heads)
        raise ValueError(
            f"masks keep {hidden} residual dimensions and {n_heads} heads; the dimensions must be a multiple of the "
            f"heads, such as {nearest} (see round_hidden_size)"
        )
    config.rms_norm_eps = config.rms_norm_eps * config.hidden_size / hidden
    config.head_dim = head_dim_of(model)  # no longer hidden_size / num_attention_heads
    config.num_attention_heads, config.num_key_value_heads = n_heads, n_groups
    config.hidden_size, config.intermediate_size = hidden, max(by_kind["neurons"])
    config.num_hidden_layers -= len(removed)
    for name in family_of(model).per_layer:  # which layers look through a window, or have no positions
        if (entries := getattr(config, name, None)) is not None:
            setattr(config, name, [entry for i, entry in enumerate(entries) if i not in removed])
    config.tie_word_embeddings = is_tied(model)
    config.dtype = model.model.embed_tokens.weight.dtype
    return config


def _narrowed_state(
    model: PreTrainedModel, groups: tuple[UnitGroup, ...], masks: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    removed = removed_layers(masks)
    gone = tuple(f"layers.{layer}." for layer in removed)
    whole = dict(model.named_parameters())  # a tied head only once
    groups = tuple(group for group in groups if not is_layer(group.name))
    state = slice_state(whole, groups, {group.name: masks[group.name] for group in groups})
    state = {name: tensor for name, tensor in state.items() if not name.removeprefix("model.").startswith(gone)}
    kept, widest = (kept_counts(model, masks, widest=each) for each in (False, True))
    for group, n_units in widest.items():
        for each in group.slices:
            if each.parameter in state:
                state[each.parameter] = padded(state[each.parameter], each.axis, (n_units - kept[group]) * each.block)
    share = next(iter(widest.values())) / model.config.hidden_size  # the residual stream comes first
    share_of_heads = (
        max(n for group, n in widest.items() if group.name.endswith("heads")) / model.config.num_key_value_heads
    )
    fold_means(state, model, share, share_of_heads)
    left = [i for i in range(len(model.model.layers)) if i not in removed]
    numbers = {str(i): str(number) for number, i in enumerate(left)}
    return {_renumbered(name, numbers): _own(tensor, whole.get(name)) for name, tensor in state.items()}


def fold_means(state: dict[str, Tensor], model: PreTrainedModel, share: float, share_of_heads: float) -> None:
    """Compensate in place for means over fewer dimensions, see the module docstring.

    Norms of heads share the epsilon, which residual dimensions change: what they read is scaled along.
    """
    family, norms = family_of(model), {"model.norm.weight": share**-0.5}
    scaled: dict[str, float] = {}
    if family.scales_embedding and share != 1:
        scaled["model.embed_tokens.weight"] = share**-0.5
        norms["model.norm.weight"] *= share**0.5 if is_tied(model) else 1
    of_heads = share_of_heads if family.head_norms == "all" else 1.0
    for i in range(len(model.model.layers)):
        prefix = f"model.layers.{i}"
        norms |= {f"{prefix}.{norm}.weight": share**-0.5 for norm in family.norms}
        if family.head_norms:
            for each in "qk":
                norms[f"{prefix}.self_attn.{each}_norm.weight"] = of_heads**-0.5
                for kind in ("weight", "bias"):
                    scaled[f"{prefix}.self_attn.{each}_proj.{kind}"] = (of_heads / share) ** 0.5
    for factors, offset in ((norms, family.norm_offset), (scaled, 0.0)):
        for name, factor in factors.items():
            if name in state and factor != 1:
                tensor = state[name]
                state[name] = ((tensor.float() + offset) * factor - offset).to(tensor.dtype)


def padded(tensor: Tensor, axis: int, n_zeros: int) -> Tensor:
    """A tensor padded with this many zeros at the end of an axis."""
    return tensor if not n_zeros else F.pad(tensor, [0, 0] * (tensor.ndim - 1 - axis) + [0, n_zeros])


def _renumbered(name: str, numbers: Mapping[str, str]) -> str:
    parts = name.split(".")
    if parts[:2] == ["model", "layers"]:
        parts[2] = numbers[parts[2]]
    return ".".join(parts)


def _own(tensor: Tensor, original: Tensor | None) -> Tensor:
    """A tensor that shares nothing with the model it came from."""
    tensor = tensor.detach()
    return tensor.clone() if original is not None and tensor.data_ptr() == original.data_ptr() else tensor.contiguous()
