"""Networks of the Llama architecture with random weights, in several sizes below a base model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from narrowlib.devices import prepare_torchvision
from narrowlib.llm.units import head_dim_of, is_tied, n_parameters_of

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedModel

MLP_RATIO = 4  # of the MLP's width to that of the residual stream


def student_config(base: PreTrainedModel, n_heads: int) -> LlamaConfig:
    r"""The shape of a student with ``n_heads`` attention heads.

    .. math:: d = n\,d_\text{head}, \qquad d_\text{mlp} = 4d, \qquad
              \text{layers} = \max(1, \operatorname{round}(\text{layers}_\text{base}\, n / n_\text{base}))

    Width and depth shrink together, as in the paper's ladder, and every head has its own keys and values.  The ratio of
    depth to width is that of the base model; the paper's students are twice as deep.

    Parameters
    ----------
    base : PreTrainedModel
        Of a supported family; gives vocabulary, head size, and whether embeddings are tied.
    n_heads : int
        At least 1.

    Raises
    ------
    ValueError
        When ``n_heads`` is not a whole number of at least 1.

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), section 5: hidden sizes 256 to 2,048 with heads of 64.
    """
    if isinstance(n_heads, bool) or not isinstance(n_heads, int) or n_heads < 1:
        raise ValueError(f"n_heads is {n_heads!r}; it must be a whole number of at least 1")
    prepare_torchvision()
    from transformers import LlamaConfig

    config = base.config
    hidden = n_heads * head_dim_of(base)
    return LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=hidden,
        intermediate_size=MLP_RATIO * hidden,
        num_hidden_layers=max(1, round(config.num_hidden_layers * n_heads / config.num_attention_heads)),
        num_attention_heads=n_heads,
        num_key_value_heads=n_heads,
        max_position_embeddings=config.max_position_embeddings,
        rope_parameters=config.rope_parameters,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        tie_word_embeddings=is_tied(base),
    )


def n_parameters_of_student(base: PreTrainedModel, n_heads: int) -> int:
    """Number of parameters of a student, without creating one."""
    config = student_config(base, n_heads)
    from transformers import LlamaForCausalLM

    with torch.device("meta"):
        return n_parameters_of(LlamaForCausalLM(config))


def new_student(base: PreTrainedModel, n_heads: int, *, seed: int = 0) -> PreTrainedModel:
    """A student with random weights, on the device of the base model; see `student_config`.

    Parameters
    ----------
    base : PreTrainedModel
    n_heads : int
    seed : int
        Of the weights.

    Returns
    -------
    PreTrainedModel
        In float32 and in evaluation mode.
    """
    config = student_config(base, n_heads)
    from transformers import LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).to(base.device).eval()
