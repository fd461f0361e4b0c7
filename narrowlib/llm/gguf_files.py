"""Write a checkpoint as one GGUF file, which llama.cpp and programs built on it load.

Rows of ``Q8_0`` are blocks of 32 weights.  Where the number of residual dimensions or neurons is no multiple of 32, it
is filled up with zeros: neurons that write nothing, and dimensions that nothing is written to.  That changes the mean
in every norm, which is made up for as in `narrowlib.llm.export`, so that the same is computed.

llama.cpp turns pairs of neighbours in the heads of Llama and Mistral where transformers turns halves: rows of the
query and key projections are put in that order.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from narrowlib.llm.export import fold_means, padded
from narrowlib.llm.models import LanguageModel
from narrowlib.llm.units import head_dim_of, llama_units
from narrowlib.store.files import replacing

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TYPES = ("f32", "f16", "bf16", "q8_0")  # of the matrices
BLOCK = 32  # weights with one scale in Q8_0
_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}  # names of llama.cpp
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {  # llama.cpp's names of expressions that split texts before pairs are merged
    _CONTRACTIONS + r"\p{N}{1,3}" + _REST: "llama-bpe",
    _CONTRACTIONS + r"\p{N}" + _REST: "qwen2",
}
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # types of tokens


def check_gguf(language_model: LanguageModel) -> None:
    """Raise a ValueError for what `write_gguf` cannot write."""
    model = language_model.model
    config, rope = model.config, model.config.rope_parameters
    kind = config.model_type
    if kind not in _ARCHITECTURES:
        raise ValueError(f"the model is of the family {kind!r}; gguf supports {', '.join(_ARCHITECTURES)}")
    turns = ("default", "linear", "llama3") if _ARCHITECTURES[kind] == "llama" else ("default",)
    if (found := rope.get("rope_type", "default")) not in turns:
        raise ValueError(f"rope_type of the model is {found!r}; for {kind}, gguf supports {', '.join(turns)}")
    if kind == "qwen3" and any(name.endswith("bias") for name, _ in model.named_parameters()):
        raise ValueError("the model is a qwen3 with biases, which llama.cpp does not support")
    _split_of(language_model.tokenizer)


def filled_widths(model: PreTrainedModel, weights: str) -> dict[str, tuple[int, int]]:
    """Widths (residual dimensions, neurons) that are padded with zeros: the number present and the number written."""
    config, block = model.config, BLOCK if weights == "q8_0" else 1
    sizes = {"residual": config.hidden_size, "neurons": config.intermediate_size}
    return {kind: (size, -(-size // block) * block) for kind, size in sizes.items() if size % block}


def write_gguf(language_model: LanguageModel, file: str | Path, *, weights: str = "q8_0") -> dict[str, Any]:
    """Write a model and its tokenizer as GGUF.

    Parameters
    ----------
    language_model : LanguageModel
        Of the families Llama, Mistral, Qwen2 or Qwen3, with a byte-level BPE tokenizer.
    file : path
        Replaced if it is there.
    weights : {"f32", "f16", "bf16", "q8_0"}
        Of matrices; vectors are float32.  With ``"q8_0"``, matrices whose rows are no multiple of 32 long are float16.

    Returns
    -------
    dict
        ``bytes`` of the file; ``filled``, see `filled_widths`; ``float16``, names of matrices that are not ``Q8_0``.

    Raises
    ------
    ValueError
        For another type, family, kind of positions or tokenizer.
    """
    import gguf

    if weights not in TYPES:
        raise ValueError(f"weights is {weights!r}; it must be one of {', '.join(TYPES)}")
    check_gguf(language_model)
    model, file = language_model.model, Path(file)
    filled = filled_widths(model, weights)
    state, epsilon = _filled_state(model, filled)
    architecture = _ARCHITECTURES[model.config.model_type]
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, architecture.upper()), model.config.num_hidden_layers)
    in_float16 = []
    with replacing(file) as temporary:
        writer = gguf.GGUFWriter(temporary, architecture)
        _write_shape(writer, language_model, weights, filled, epsilon)
        _write_tokenizer(writer, language_model.tokenizer, model.get_input_embeddings().num_embeddings)
        for name, tensor in state.items():
            if architecture == "llama" and name.split(".")[-2] in ("q_proj", "k_proj"):
                tensor = _pairs_of_neighbours(tensor, head_dim_of(model))
            kind = "f32" if tensor.ndim == 1 else weights
            if kind == "q8_0" and tensor.shape[-1] % BLOCK:
                kind = "f16"
                in_float16.append(name)
            kind = getattr(gguf.GGMLQuantizationType, kind.upper())
            written = names.get_name(name, try_suffixes=(".weight", ".bias"))
            writer.add_tensor(written, gguf.quants.quantize(tensor.float().numpy(), kind), raw_dtype=kind)
        if (factors := _factors_of_frequencies(model)) is not None:
            writer.add_tensor("rope_freqs.weight", factors.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return {"bytes": file.stat().st_size, "filled": filled, "float16": in_float16}


@torch.no_grad()
def _filled_state(model: PreTrainedModel, filled: dict[str, tuple[int, int]]) -> tuple[dict[str, Tensor], float]:
    """Parameters with zeros up to the widths that are written, and the epsilon of norms that goes with them."""
    state = {name: parameter.detach().cpu().float() for name, parameter in model.named_parameters()}
    for kind, (size, width) in filled.items():
        for group in llama_units(model, kind):
            for each in group.slices:
                if each.parameter in state:
                    state[each.parameter] = padded(state[each.parameter], each.axis, (width - size) * each.block)
    size, width = filled.get("residual", (1, 1))
    fold_means(state, model, width / size, 1.0)
    return state, model.config.rms_norm_eps * size / width


def _pairs_of_neighbours(rows: Tensor, size: int) -> Tensor:
    """Rows of heads of a size, first and second half of each in turns."""
    return rows.unflatten(0, (-1, 2, size // 2)).transpose(1, 2).flatten(0, 2).contiguous()


def _factors_of_frequencies(model: PreTrainedModel) -> Tensor | None:
    """What llama.cpp divides frequencies by, (head size / 2,); None where they are as they begin."""
    rope = model.config.rope_parameters
    if rope.get("rope_type", "default") == "default":
        return None
    size = head_dim_of(model)
    usual = rope["rope_theta"] ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
    return (usual / model.model.rotary_emb.inv_freq.cpu().double()).float()


def _write_shape(
    writer: GGUFWriter, language_model: LanguageModel, weights: str, filled: dict[str, tuple[int, int]], epsilon: float
) -> None:
    import gguf

    model = language_model.model
    config, head_dim = model.config, head_dim_of(model)
    windows = [config.sliding_window] if getattr(config, "sliding_window", None) else []  # within it nothing differs
    kind = "ALL_F32" if weights == "f32" else f"MOSTLY_{weights.upper()}"
    writer.add_name(Path(language_model.name).name)
    writer.add_file_type(gguf.LlamaFileType[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(min([config.max_position_embeddings, *windows]))
    writer.add_embedding_length(filled.get("residual", (0, config.hidden_size))[1])
    writer.add_feed_forward_length(filled.get("neurons", (0, config.intermediate_size))[1])
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(epsilon)
    writer.add_vocab_size(model.get_input_embeddings().num_embeddings)


def _write_tokenizer(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, n_rows: int) -> None:
    import gguf

    by_number = {number: token for token, number in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    types = {number: _CONTROL if each.special else _USER_DEFINED for number, each in added.items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_split_of(tokenizer))
    writer.add_token_list([by_number.get(i, f"[PAD{i}]") for i in range(n_rows)])
    writer.add_token_types([types.get(i, _NORMAL if i in by_number else _UNUSED) for i in range(n_rows)])
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        special = gguf.SpecialVocab(folder, load_merges=True, n_vocab=n_rows)
    numbers = {kind: getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "unk", "pad")}
    special.special_token_ids |= {
        kind: number for kind, number in numbers.items() if number is not None and number < n_rows
    }
    first = tokenizer("a")["input_ids"][:1]
    special.add_special_token["bos"] = tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id]
    template = tokenizer.chat_template or None
    is_one = not isinstance(template, dict)  # otherwise by name
    special.chat_template = template if is_one else [{"name": n, "template": each} for n, each in template.items()]
    special.add_to_gguf(writer, quiet=True)


def _split_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """llama.cpp's name of how a byte-level tokenizer splits texts before it merges; ValueError for other tokenizers."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    about = json.loads(backend.to_str()) if backend is not None else {"model": {}}
    splits = about.get("pre_tokenizer") or {}
    splits = splits.get("pretokenizers", [splits])
    name = None
    if about["model"].get("type") == "BPE" and about["model"]["merges"] and splits[-1].get("type") == "ByteLevel":
        *before, last = splits
        kinds = [each["type"] for each in before]
        if last["use_regex"] and not last["add_prefix_space"]:
            is_by_digit = kinds == ["Digits"] and before[0]["individual_digits"]
            name = "gpt-2" if not kinds else "smollm" if is_by_digit else None
        elif kinds == ["Split"]:
            name = _SPLITS.get(before[0]["pattern"].get("Regex"))
    if name is None:
        raise ValueError(
            "gguf does not support the tokenizer; it must be a byte-level BPE tokenizer that splits text as "
            "GPT-2, SmolLM, Llama 3 or Qwen2 do"
        )
    return name
