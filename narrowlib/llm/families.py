r"""Families of language models, each as a short description of how it differs from Llama.

All have the modules ``model.embed_tokens``, ``model.layers.{i}.self_attn.{q,k,v,o}_proj``,
``model.layers.{i}.mlp.{gate,up,down}_proj``, ``model.norm`` and ``lm_head``.  What may differ is which norms a layer
has and how a norm writes its weight, whether heads have norms of their own, whether the embedding is scaled with the
width, what is done to the logits, and which settings of the config are lists with an entry per layer.  Phi-3 fuses
projections and has nothing else of its own: it is loaded as a Mistral with the same weights.

To add a family, describe it in `FAMILIES` and add a tiny configuration to ``tests/tiny_llamas.py``: the tests then hold
masked, sliced, exported and reloaded model equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel

_BEFORE = ("input_layernorm", "post_attention_layernorm")
_AFTER = ("post_attention_layernorm", "post_feedforward_layernorm")
_FOUR = (*_BEFORE, "pre_feedforward_layernorm", "post_feedforward_layernorm")


@dataclass(frozen=True)
class Family:
    """How a family differs from Llama.

    Parameters
    ----------
    name : str
        For people.
    norms : tuple of str
        Norms of a layer that see residual dimensions, before or after attention and MLP.
    head_norms : {"", "each", "all"}
        Whether ``self_attn.q_norm`` and ``k_norm`` are there, over every head or over all heads together.
    norm_offset : float
        A norm multiplies by its weight and this: 1 where it is written as 1 + w.
    scales_embedding : bool
        Whether embeddings are multiplied by the root of the number of residual dimensions.
    per_layer : tuple of str
        Lists of the config with an entry per layer.
    width_of_heads : bool
        Whether transformers loads no checkpoint whose residual dimensions are no multiple of its heads.
    loaded_as : str
        The family of the same computation without fused projections, see `unfused`.
    """

    name: str
    norms: tuple[str, ...] = _BEFORE
    head_norms: str = ""
    norm_offset: float = 0.0
    scales_embedding: bool = False
    per_layer: tuple[str, ...] = ("layer_types",)
    width_of_heads: bool = False
    loaded_as: str = ""


_GEMMA: dict[str, Any] = {"norms": _FOUR, "norm_offset": 1.0, "scales_embedding": True, "width_of_heads": True}
FAMILIES = {  # by model_type of the config
    "llama": Family("Llama (SmolLM2 too)", width_of_heads=True),
    "mistral": Family("Mistral"),
    "ministral": Family("Ministral"),
    "qwen2": Family("Qwen2"),
    "qwen3": Family("Qwen3", head_norms="each"),
    "gemma2": Family("Gemma 2", **_GEMMA),
    "gemma3_text": Family("Gemma 3 (its models for text alone)", head_norms="each", **_GEMMA),
    "smollm3": Family("SmolLM3", per_layer=("layer_types", "no_rope_layers")),
    "olmo2": Family("OLMo 2", norms=_AFTER, head_norms="all"),
    "granite": Family("Granite"),
    "phi3": Family("Phi-3", loaded_as="mistral"),
}


def check_family(model_type: str) -> None:
    """Raise a ValueError unless models of this ``model_type`` are supported."""
    if model_type not in FAMILIES:
        names = ", ".join(family.name for family in FAMILIES.values())
        raise ValueError(f"the model is of the family {model_type!r}; it must be one of {names}")


def family_of(model: PreTrainedModel) -> Family:
    """The description of a model's family; ValueError if there is none, or if projections are fused."""
    check_family(model.config.model_type)
    family = FAMILIES[model.config.model_type]
    if family.loaded_as:
        raise ValueError(
            f"the projections of {family.name} are fused; convert the model to a {family.loaded_as} with unfused(model)"
        )
    return family


def norm_offset_of(model: nn.Module) -> float:
    """Offset that the norms of a model add to their weight, see `Family`; 0 for models of unknown families."""
    family = FAMILIES.get(getattr(getattr(model, "config", None), "model_type", ""))
    return family.norm_offset if family else 0.0


def norm_after_mlp(layer: nn.Module) -> nn.Module | None:
    """The norm between a layer's MLP and the residual stream, in families that have one."""
    return getattr(layer, "post_feedforward_layernorm", None)


@torch.no_grad()
def unfused(model: PreTrainedModel) -> PreTrainedModel:
    """The same model with separate projections for query, key, value, gate and up; most models are returned unchanged.

    Raises
    ------
    ValueError
        When positions turn only a part of each head (Phi-4 mini), for which Mistral has no setting.
    """
    import transformers

    config = model.config
    family = FAMILIES[config.model_type]
    if not family.loaded_as:
        return model
    values = {name: value for name, value in config.to_dict().items() if name not in ("model_type", "architectures")}
    values["rope_parameters"] = rope = dict(config.rope_parameters)
    if rope.pop("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError(
            f"this {family.name} applies rotary embeddings to a part of each head; they must apply to the whole head"
        )
    size = config.hidden_size // config.num_attention_heads
    new = transformers.AutoConfig.for_model(family.loaded_as, **{**values, "head_dim": size})
    rows = {
        "self_attn.qkv_proj": {"self_attn.q_proj": config.num_attention_heads * size}
        | dict.fromkeys(("self_attn.k_proj", "self_attn.v_proj"), config.num_key_value_heads * size),
        "mlp.gate_up_proj": dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), config.intermediate_size),
    }
    state = model.state_dict()
    for i in range(config.num_hidden_layers):
        for fused, parts in rows.items():
            weight = state.pop(f"model.layers.{i}.{fused}.weight")
            for name, part in zip(parts, weight.split(list(parts.values())), strict=True):
                state[f"model.layers.{i}.{name}.weight"] = part.clone()
    with model.device:
        plain = transformers.AutoModelForCausalLM.from_config(new, dtype=model.dtype)
    plain.load_state_dict(state)
    plain.generation_config = model.generation_config
    return plain.train(model.training)


def logits_from(config: PreTrainedConfig) -> Callable[[Tensor], Tensor]:
    """The function that turns the outputs of a model's head into logits: divided (Granite) or capped (Gemma 2)."""
    scaling, cap = getattr(config, "logits_scaling", None), getattr(config, "final_logit_softcapping", None)

    def finished(outputs: Tensor) -> Tensor:
        outputs = outputs if scaling is None else outputs / scaling
        return outputs if cap is None else torch.tanh(outputs / cap) * cap

    return finished
