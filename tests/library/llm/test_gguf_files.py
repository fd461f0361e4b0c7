"""GGUF: read back by transformers it is the same model, filled up or not, and what cannot be written is refused."""

import copy
import re

import gguf
import pytest
import torch
from tiny_llamas import tiny_llama, tiny_tokenizer, tiny_tokens, word_pieces

from narrowlib.llm import gguf_files
from narrowlib.llm.gguf_files import write_gguf
from narrowlib.llm.models import LanguageModel, silenced

FAMILIES = ["llama, tied", "llama, untied", "llama, all heads of their own", "mistral", "qwen2", "qwen3"]


def written(model, tmp_path, weights, tokenizer=None):
    about = write_gguf(
        LanguageModel(model, tokenizer or word_pieces(), "tiny"), tmp_path / "model.gguf", weights=weights
    )
    return about, gguf.GGUFReader(tmp_path / "model.gguf")


def read_back(model, tmp_path, **sizes):
    """By the reader of transformers, with what it does not take from the file, the sizes of heads."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config, cls = copy.deepcopy(model.config), type(model)
    if config.model_type == "mistral":  # which a file calls llama; the same within the window
        values = {
            name: value for name, value in config.to_dict().items() if name not in ("model_type", "architectures")
        }
        config, cls = LlamaConfig(**values), LlamaForCausalLM
    for name, value in sizes.items():
        setattr(config, name, value)
    with silenced():
        return cls.from_pretrained(tmp_path, config=config, gguf_file="model.gguf", dtype=torch.float32)


@torch.no_grad()
def distance(one, other, tokens):
    one, other = (model(tokens).logits.log_softmax(-1) for model in (one, other))
    return (one - other).abs().max().item()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("weights", "tolerance"), [("f32", 1e-4), ("f16", 0.3), ("bf16", 2.0)])
def test_what_is_written_is_the_model(family, weights, tolerance, tmp_path):
    model = tiny_llama(family)
    about, _ = written(model, tmp_path, weights)
    assert about["filled"] == {} and about["bytes"] == (tmp_path / "model.gguf").stat().st_size
    assert distance(read_back(model, tmp_path), model, tiny_tokens(model, n_tokens=5)) < tolerance


@pytest.mark.parametrize("family", FAMILIES)
def test_widths_are_filled_up_with_zeros_that_change_nothing(family, tmp_path, monkeypatch):
    model = tiny_llama(family, hidden_size=40, intermediate_size=50, head_dim=8)
    filled = gguf_files.filled_widths(model, "q8_0")
    assert filled == {"residual": (40, 64), "neurons": (50, 64)} and gguf_files.filled_widths(model, "f16") == {}
    monkeypatch.setattr(gguf_files, "filled_widths", lambda *_: filled)  # without rounding to 8 bits
    _, file = written(model, tmp_path, "f32")
    field = next(name for name in file.fields if name.endswith("rms_epsilon"))
    sizes = {"hidden_size": 64, "intermediate_size": 64, "rms_norm_eps": file.fields[field].contents()}
    assert distance(read_back(model, tmp_path, **sizes), model, tiny_tokens(model, n_tokens=5)) < 1e-4


def test_eight_bits(tmp_path):
    model = tiny_llama(intermediate_size=40, head_dim=6)
    about, file = written(model, tmp_path, "q8_0")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in file.tensors}
    assert about["filled"] == {"neurons": (40, 64)}
    assert about["float16"] == [f"model.layers.{i}.self_attn.o_proj.weight" for i in range(3)]  # 4 heads of 6
    assert {kinds["token_embd.weight"], kinds["blk.0.ffn_down.weight"]} == {"Q8_0"}
    assert (kinds["blk.0.attn_output.weight"], kinds["blk.0.attn_norm.weight"]) == ("F16", "F32")
    embedding = next(tensor for tensor in file.tensors if tensor.name == "token_embd.weight")
    read = torch.from_numpy(gguf.quants.dequantize(embedding.data, embedding.tensor_type))
    steps = model.model.embed_tokens.weight.abs().amax(-1, keepdim=True) / 127
    assert ((read - model.model.embed_tokens.weight).abs() <= 0.57 * steps).all()


def test_the_tokenizer_and_scaled_positions_are_in_it(tmp_path):
    tokenizer = word_pieces()
    tokenizer.chat_template = "{{ messages }}"
    model = tiny_llama("llama, scaled rope")
    _, file = written(model, tmp_path, "f16", tokenizer)
    found = {name.removeprefix("tokenizer.ggml."): field.contents() for name, field in file.fields.items()}
    assert (found["model"], found["pre"], found["tokenizer.chat_template"]) == ("gpt2", "smollm", "{{ messages }}")
    assert len(found["tokens"]) == len(found["token_type"]) == 61 and found["merges"]
    end = tokenizer.eos_token_id
    assert found["eos_token_id"] == end and found["token_type"][end] == 3 and found["add_bos_token"] is False
    factors = next(tensor.data for tensor in file.tensors if tensor.name == "rope_freqs.weight")
    usual = 1e4 ** -(torch.arange(0, 8, 2) / 8)
    torch.testing.assert_close(usual / torch.tensor(factors), model.model.rotary_emb.inv_freq)


def test_templates_by_name_are_in_it_and_no_token_beyond_the_embedding(tmp_path):
    tokenizer = word_pieces()
    tokenizer.chat_template = {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
    tokenizer.add_special_tokens({"pad_token": "<pad>"})  # which the model has no row for
    _, file = written(tiny_llama(vocab_size=len(tokenizer) - 1), tmp_path, "f16", tokenizer)
    found = {name.removeprefix("tokenizer."): field.contents() for name, field in file.fields.items()}
    assert (found["chat_template"], found["chat_template.tool_use"]) == ("{{ messages }}", "{{ tools }}")
    assert "ggml.padding_token_id" not in found and "ggml.eos_token_id" in found


@pytest.mark.parametrize(
    ("family", "tokenizer", "says"),
    [
        ("granite", word_pieces, "the model is of the family 'granite'; gguf supports llama, mistral, qwen2, qwen3"),
        ("qwen3, biases", word_pieces, "the model is a qwen3 with biases"),
        ("llama, tied", tiny_tokenizer, "it must be a byte-level BPE tokenizer that splits text as GPT-2"),
    ],
)
def test_what_cannot_be_written_is_refused(family, tokenizer, says, tmp_path):
    with pytest.raises(ValueError, match=re.escape(says)):
        write_gguf(LanguageModel(tiny_llama(family), tokenizer(), "tiny"), tmp_path / "model.gguf")
    assert list(tmp_path.iterdir()) == []
