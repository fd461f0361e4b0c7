"""Language models load from a folder, a package or the hub, or say in a sentence why they do not."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_llamas import TINY, logits_masked, random_masks, tiny_llama, tiny_tokenizer, tiny_tokens

from narrowlib.data.tokens import end_of_text
from narrowlib.llm import models as llm
from narrowlib.llm.export import export_vanilla
from narrowlib.llm.models import check_model, load_causal_lm
from narrowlib.llm.units import llama_units, n_parameters_of
from narrowlib.store.downloads import UnavailableError


def saved(folder, family="llama, tied"):
    model = tiny_llama(family)
    with llm.silenced():
        model.save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def default():
    try:
        return load_causal_lm(device="cpu")
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("family", TINY)
def test_a_folder_of_each_family(family, tmp_path):
    model = saved(tmp_path, family)
    loaded = load_causal_lm(tmp_path, device="cpu")
    assert loaded.name == str(tmp_path) and not loaded.model.training
    tokens = tiny_tokens(model)
    torch.testing.assert_close(loaded.model(tokens).logits, model(tokens).logits, rtol=0, atol=1e-5)


def test_the_tiny_one_needs_no_network_and_is_always_the_same(tmp_path, monkeypatch):
    losses, text = [], "import numpy\n# na\u00efve"
    for cache in ("one", "two"):
        monkeypatch.setenv("NARROWLIB_CACHE", str(tmp_path / cache))
        monkeypatch.setattr("narrowlib.store.downloads.fetch", None)
        loaded = load_causal_lm("tiny", device="cpu")
        ids = loaded.tokenizer(text, return_tensors="pt").input_ids
        assert ids.shape[1] == len(text.encode()) and loaded.tokenizer.decode(ids[0]) == text  # a token is a byte
        losses.append(loaded.model(input_ids=ids, labels=ids).loss.item())
    assert losses[0] == losses[1] and 4 < losses[0] < 8  # a guess among 257 costs 5.5 nats
    assert loaded.model.num_parameters() < 50_000 and loaded.name == "tiny"


def test_a_damaged_copy_of_its_own_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("NARROWLIB_CACHE", str(tmp_path))
    whole = [parameter.clone() for parameter in load_causal_lm("tiny", device="cpu").model.parameters()]
    (weights,) = tmp_path.rglob("model.safetensors")
    weights.write_bytes(weights.read_bytes()[:100])
    again = load_causal_lm("tiny", device="cpu").model
    assert all(map(torch.equal, whole, again.parameters()))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_hidden_layers": 2}, "has weights that do not belong to the model of its config.json"),
        ({"num_hidden_layers": 0}, "has 0 layers in its config.json"),
        ({"hidden_size": 64}, "the shapes of its weights do not match its config.json"),
        ({"hidden_act": "nope"}, "KeyError"),
        ({"hidden_size": "wide"}, "hidden_size"),
    ],
)
def test_a_config_of_another_model_is_told_in_a_sentence(changes, says, tmp_path):
    saved(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UnavailableError, match=says) as told:
        load_causal_lm(tmp_path, device="cpu")
    assert "\n" not in str(told.value)


def test_loading_is_silent_and_leaves_transformers_as_it_was(tmp_path, capfd):
    from transformers.utils import logging

    saved(tmp_path)
    capfd.readouterr()
    before = logging.is_progress_bar_enabled(), logging.get_verbosity()
    load_causal_lm(tmp_path)
    assert capfd.readouterr() == ("", "")
    assert (logging.is_progress_bar_enabled(), logging.get_verbosity()) == before
    load_causal_lm(tmp_path, progress=True)
    assert "Loading weights" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dtype": torch.int8}, r"dtype is torch.int8; it must be one of torch.float32"),
        ({"dtype": "float32"}, r"dtype is 'float32'"),
        ({"device": "tpu"}, r"device is 'tpu'"),
    ],
)
def test_bad_arguments_are_refused(options, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        load_causal_lm(tmp_path, **options)


@pytest.mark.parametrize(
    "config", [{"model_type": "gpt2"}, {"model_type": "of_its_own", "auto_map": {"AutoConfig": "x.Y"}}]
)
def test_another_family_is_refused(config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"it must be one of Llama \(SmolLM2 too\), Mistral, "):
        load_causal_lm(tmp_path)


@pytest.mark.parametrize("told", [{"quant_method": "gptq", "bits": 4}, {"quant_method": "no such"}, {}])
def test_a_quantised_model_is_refused_before_a_weight_is_read(told, tmp_path):
    saved(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": told}))
    method = re.escape(repr(told.get("quant_method")))
    with pytest.raises(ValueError, match=rf"is quantised \(quant_method {method}\); use the model"):
        check_model(str(tmp_path))


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "~/nowhere", "a/b/c", "", "no-owner"])
def test_what_is_neither_folder_nor_name_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnavailableError, match=r"neither a folder nor|no config.json"):
        load_causal_lm(name)


def test_a_hub_out_of_reach_names_what_was_tried_and_what_works(monkeypatch):
    import transformers

    def unreachable(source, **options):
        assert source == "meta-llama/Llama-3.2-1B"
        raise OSError("We couldn't connect to the hub\nto load the files")

    monkeypatch.setattr(transformers.PreTrainedConfig, "get_config_dict", unreachable)
    with pytest.raises(UnavailableError) as caught:
        load_causal_lm("meta-llama/Llama-3.2-1B")
    for part in ("'meta-llama/Llama-3.2-1B'", "couldn't connect", "local folder", "config.json"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-100])


def without(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def nothing_but(name):
    return lambda folder: [path.unlink() for path in folder.iterdir()] and (folder / name).write_text("{}")


SHARDS = ("model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors")
INDEX = "model.safetensors.index.json"
BROKEN = {
    "adapter": (nothing_but("adapter_config.json"), "it has no config.json; adapter_config.json is a PEFT adapter"),
    "adapter too": (lambda folder: (folder / "adapter_config.json").write_text("{}"), "adapter_config.json is a PEFT"),
    "gguf": (nothing_but("model-q8.gguf"), "it has no config.json; model-q8.gguf is for llama.cpp"),
    "no shard": (without(SHARDS[1]), f"it has no {SHARDS[1]}, which {INDEX} names"),
    "shard cut short": (lambda folder: cut_short(folder / SHARDS[0]), f"{SHARDS[0]} is damaged or truncated"),
    "empty shard": (lambda folder: (folder / SHARDS[0]).write_bytes(b""), f"{SHARDS[0]} is damaged or truncated"),
    "no index": (without(INDEX), "it has no model.safetensors"),
    "empty index": (lambda folder: (folder / INDEX).write_text("[]"), f"{INDEX} names no weights"),
    "index cut short": (lambda folder: cut_short(folder / INDEX), f"{INDEX} is not JSON"),
    "no tokenizer": (without("tokenizer.json"), "it has no readable tokenizer, such as tokenizer.json"),
    "tokenizer cut short": (lambda folder: cut_short(folder / "tokenizer.json"), "tokenizer.json is not JSON"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_folder_that_lacks_something_is_refused_by_the_name_of_a_file(case, tmp_path):
    change, says = BROKEN[case]
    with llm.silenced():
        tiny_llama().save_pretrained(tmp_path, max_shard_size="30KB")
        tiny_tokenizer().save_pretrained(tmp_path)
    check_model(str(tmp_path))
    change(tmp_path)
    for refuses in (check_model, load_causal_lm):  # before a weight is read, too
        with pytest.raises(UnavailableError, match=re.escape(says)) as told:
            refuses(str(tmp_path))
        assert str(tmp_path) in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize("value", [float("nan"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused(value, tmp_path):
    model = tiny_llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = value
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(
        UnavailableError, match=r"NaN or infinite in float32, such as model\.layers\.1\.\S+ \(1 in total\)"
    ):
        load_causal_lm(tmp_path)


def test_weights_too_large_for_a_dtype_are_refused_in_it(tmp_path):
    model = saved(tmp_path)
    with torch.no_grad():
        model.model.norm.weight[0] = 1e5
    model.save_pretrained(tmp_path)
    assert load_causal_lm(tmp_path, dtype=torch.bfloat16)
    with pytest.raises(UnavailableError, match=r"in float16, such as model\.norm\.weight \(1 in total\)"):
        load_causal_lm(tmp_path, dtype=torch.float16)


def test_missing_weights_are_not_drawn_at_random(tmp_path):
    saved(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        UnavailableError, match=r"lacks weights such as model.layers.1.mlp.up_proj.weight \(1 in total\)"
    ):
        load_causal_lm(tmp_path)


@pytest.mark.parametrize(("dtype", "n_bytes"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_a_model_larger_than_the_memory_is_refused(dtype, n_bytes, tmp_path, monkeypatch):
    needed = n_parameters_of(saved(tmp_path)) * n_bytes
    monkeypatch.setattr(llm, "_free_bytes", lambda device: needed)
    load_causal_lm(tmp_path, dtype=dtype)
    monkeypatch.setattr(llm, "_free_bytes", lambda device: needed - 1)
    with pytest.raises(MemoryError, match=r"for its weights in (float32|bfloat16), but 0.0 GB are free"):
        load_causal_lm(tmp_path, dtype=dtype)


def test_default_completes_sensibly(default):
    prompt = default.tokenizer("The capital of France is", return_tensors="pt")
    completed = default.model.generate(**prompt, max_new_tokens=2, do_sample=False)
    assert "Paris" in default.tokenizer.decode(completed[0])


def test_default_exports_exactly(default, tmp_path):
    """Half of the dimensions and of the neurons: 1e-3 on logits of scale 35."""
    masks = random_masks(llama_units(default.model, "residual"), 288)
    masks |= random_masks(llama_units(default.model, "neurons"), 768)
    tokens = default.tokenizer("def fibonacci(n):\n    if n < 2:\n", return_tensors="pt")["input_ids"]
    expected = logits_masked(default.model, masks, tokens)
    with torch.no_grad():
        folder = export_vanilla(default, masks, tmp_path / "out")
        loaded = load_causal_lm(folder, device="cpu")
        exported = loaded.model
        assert exported.config.hidden_size == 288 and exported.config.intermediate_size == 768
        torch.testing.assert_close(exported(tokens).logits, expected, rtol=0, atol=1e-3)
    assert loaded.tokenizer("  x = [1, 23]\n") == default.tokenizer("  x = [1, 23]\n")
    assert loaded.tokenizer.chat_template == default.tokenizer.chat_template
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("tokens", "block_length", "says"),
    [
        ([], 65, "block_length is 65; it must be at most 64, the positions"),
        (["w61"], 8, "has tokens without an embedding (1 in total), first 'w61' with id 61"),
        (["<|endoftext|>"], 8, "in total), first '<|endoftext|>'"),
        (["<pad>"], 64, None),  # added for batches, as for Llama 2; no text holds it
    ],
)
def test_texts_that_a_model_cannot_take_are_refused_when_it_is_loaded(tmp_path, tokens, block_length, says):
    tiny_llama(eos_token_id=[1, 0]).save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(tokens, special_tokens=tokens[:1] != ["w61"])
    tokenizer.save_pretrained(tmp_path)
    if says:
        with pytest.raises(ValueError, match=re.escape(says)):
            load_causal_lm(tmp_path, block_length=block_length)
    else:
        loaded = load_causal_lm(tmp_path, block_length=block_length)
        assert end_of_text(loaded.tokenizer) == 1


def test_where_a_model_comes_from_is_what_its_card_says(tmp_path, monkeypatch):
    default = llm.origin_of("default")
    assert default["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct" and default["license"] == "apache-2.0"
    assert llm.origin_of("tiny") == {} == llm.origin_of(str(tmp_path))
    card = tmp_path / "README.md"
    for text, said in (
        ("---\nlicense: mit\nbase_model: o/whole\n---\n# It\n", {"base_model": "o/whole", "license": "mit"}),
        ("---\nlicense: [mit, other]\n---\n", {}),
        ("---\nlicense: [\n---\n", {}),
        ("# No metadata\n", {}),
        ("\xff", {}),
    ):
        card.write_bytes(text.encode("latin-1"))
        assert llm.origin_of(str(tmp_path)) == said
    card.unlink()
    asked = []
    monkeypatch.setattr("huggingface_hub.ModelCard.load", asked.append)
    monkeypatch.chdir(tmp_path.parent)
    assert llm.origin_of(tmp_path.name) == {} and not asked  # nor on the hub, under the name of the folder
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert llm.origin_of("owner/model") == {"base_model": "owner/model"}
