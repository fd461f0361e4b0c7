"""The masked, the sliced and the exported model compute the same."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from tiny_llamas import TINY, logits_masked, plain_llama, random_masks, tiny_llama, tiny_tokenizer, tiny_tokens
from torch.nn import functional as F

from narrowlib.llm.export import export_vanilla, round_hidden_size, sliced
from narrowlib.llm.models import LanguageModel, load_causal_lm
from narrowlib.llm.units import llama_units, n_parameters_of, units_named
from narrowlib.pruning import ablated, apply_masks, keep_masks
from narrowlib.scores import random_scores

SAME = {"rtol": 0, "atol": 2e-4}  # on logits of scale 10


def masks_of_all_kinds(model):
    """Half of the dimensions and of the neurons, half of the heads, and all of the layer in the middle."""
    masks = random_masks(llama_units(model, "residual"), 16) | random_masks(llama_units(model, "neurons"), 12)
    masks |= random_masks(llama_units(model, "heads"), model.config.num_key_value_heads // 2)
    return masks | {"layers.1": torch.tensor([False])}


def uneven_masks(model):
    """Ranked over all layers at once: every layer keeps another number of neurons and of heads."""
    neurons = keep_masks(random_scores(llama_units(model, "neurons"), torch.Generator().manual_seed(0)), 0.4)
    assert len({int(mask.sum()) for mask in neurons.values()}) > 1
    heads = {"layers.0.heads": torch.arange(model.config.num_key_value_heads) < 1}
    return neurons | heads | random_masks(llama_units(model, "residual"), 24)


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize(("make", "widths"), [(masks_of_all_kinds, "uniform"), (uneven_masks, "padded")])
def test_masked_equals_sliced_equals_exported(family, make, widths, tmp_path):
    from transformers import AutoModelForCausalLM

    model = tiny_llama(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    masks, tokens = make(model), tiny_tokens(model)
    expected = logits_masked(model, masks, tokens)
    with torch.no_grad():
        assert (model(tokens).logits - expected).abs().max() > 1
        narrowed = sliced(model, masks, widths=widths)
        torch.testing.assert_close(narrowed(tokens).logits, expected, **SAME)
        folder = export_vanilla(LanguageModel(model, tiny_tokenizer(), "tiny"), masks, tmp_path / "out", widths=widths)
        loaded = load_causal_lm(folder, device="cpu")
        for each in (loaded.model, AutoModelForCausalLM.from_pretrained(folder)):  # ours, and anyone's
            torch.testing.assert_close(each(tokens).logits, expected, **SAME)
        if make is masks_of_all_kinds:  # in bfloat16 to what it rounds in the uncut model too
            low = copy.deepcopy(model).bfloat16()
            rounded = logits_masked(low, masks, tokens).float()
            difference = (sliced(low, masks)(tokens).logits.float() - rounded).abs().mean()
            assert difference < 0.06 * expected.std()
    assert type(narrowed) is type(loaded.model) is type(model)
    assert n_parameters_of(narrowed) == n_parameters_of(model, masks, counted="stored")
    assert n_parameters_of(narrowed) >= n_parameters_of(model, masks)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


ELSEWHERE = """
import json, sys
from pathlib import Path

sys.modules |= {"narrowlib": None, "torchvision": None}  # neither can be imported

import torch
from transformers import AutoModelForCausalLM

found = {}
for folder in Path(sys.argv[1]).iterdir():
    given = torch.load(folder / "given.pt")
    for dtype in (torch.float32, torch.bfloat16):
        model, about = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
        assert not any(about.values()), (folder.name, about)
        with torch.no_grad():
            difference = model(given["tokens"]).logits.float() - given["logits"]
        found[folder.name] = *found.get(folder.name, ()), difference.abs().mean().item() / given["logits"].std().item()
print(json.dumps(found))
"""


def test_every_family_is_loaded_by_transformers_alone(tmp_path):
    """From a folder as transformers saves it to one that another process loads, in which there is no narrowlib."""
    for family in TINY:
        model = plain_llama(family)
        tokens = tiny_tokens(model)
        model.save_pretrained(tmp_path / "whole" / family)
        tiny_tokenizer().save_pretrained(tmp_path / "whole" / family)
        loaded = load_causal_lm(tmp_path / "whole" / family, device="cpu")
        with torch.no_grad():
            torch.testing.assert_close(loaded.model(tokens).logits, model(tokens).logits, **SAME)
        masks = masks_of_all_kinds(loaded.model)
        folder = export_vanilla(loaded, masks, tmp_path / "narrowed" / family)
        torch.save({"tokens": tokens, "logits": logits_masked(loaded.model, masks, tokens)}, folder / "given.pt")
    command = [sys.executable, "-I", "-c", ELSEWHERE, str(tmp_path / "narrowed")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() == TINY.keys()
    assert {family for family, (whole, low) in found.items() if whole > 1e-5 or low > 0.1} == set()


@pytest.mark.parametrize("part", ["epsilon", "weights"])
def test_the_fold_into_the_norms_is_needed(part):
    """Either half of it left out is seen, so the tests above hold both."""
    model = tiny_llama()
    masks, tokens = random_masks(llama_units(model, "residual"), 16), tiny_tokens(model)
    narrowed = sliced(model, masks)
    for name, module in narrowed.named_modules():
        if name.endswith("norm"):
            if part == "epsilon":
                assert module.variance_epsilon == 2 * model.config.rms_norm_eps
                module.variance_epsilon = model.config.rms_norm_eps
            else:
                module.weight.data *= 0.5**0.5
    with torch.no_grad():
        assert (narrowed(tokens).logits - logits_masked(model, masks, tokens)).abs().max() > 0.01


def test_a_model_pruned_in_place_exports_the_same():
    model = tiny_llama()
    masks = masks_of_all_kinds(model)
    before = sliced(model, masks)
    apply_masks(units_named(model, masks), dict(model.named_parameters()), masks)
    after = sliced(model, masks)
    for one, other in zip(before.parameters(), after.parameters(), strict=True):
        assert torch.equal(one, other)


def test_generation_with_a_cache_is_the_same():
    model = tiny_llama("mistral")
    masks, tokens = masks_of_all_kinds(model), tiny_tokens(model)
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 1}
    with ablated(model, units_named(model, masks), masks):
        expected = model.generate(tokens, **options)
    assert torch.equal(sliced(model, masks).generate(tokens, **options), expected)


def test_gradients_are_those_of_the_kept_weights():
    """A sliced model trains as the masked one does: the same loss, the same gradient where weights are kept."""
    model = tiny_llama("llama, untied")
    masks, tokens = random_masks(llama_units(model, "neurons"), 12), tiny_tokens(model)
    narrowed = sliced(model, masks)
    assert all(parameter.requires_grad for parameter in narrowed.parameters())
    with ablated(model, units_named(model, masks), masks):
        for each in (model, narrowed):
            logits = each(tokens).logits.float()
            F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    kept = masks["layers.1.neurons"]
    one, other = (each.model.layers[1].mlp.down_proj.weight.grad for each in (model, narrowed))
    torch.testing.assert_close(one[:, kept], other, rtol=1e-4, atol=1e-6)


def test_bfloat16(tmp_path):
    """The same to what bfloat16 holds; a quarter of the dimensions scales the norms by 2, which is exact."""
    model = tiny_llama().bfloat16()
    masks, tokens = random_masks(llama_units(model, "residual"), 8), tiny_tokens(model)
    expected = logits_masked(model, masks, tokens).float()
    folder = export_vanilla(LanguageModel(model, tiny_tokenizer(), "tiny"), masks, tmp_path / "out")
    loaded = load_causal_lm(folder, dtype=torch.bfloat16, device="cpu").model
    assert loaded.dtype == sliced(model, masks).dtype == torch.bfloat16
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    difference = (loaded(tokens).logits.float() - expected).abs().mean()
    assert difference < 0.02 * expected.std()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu(dtype):
    model = tiny_llama().to("cuda", dtype)
    masks, tokens = masks_of_all_kinds(model), tiny_tokens(model).cuda()
    narrowed = sliced(model, masks)  # masks may lie elsewhere
    assert {parameter.device for parameter in narrowed.parameters()} == {model.device}
    expected = logits_masked(model, masks, tokens).float()
    difference = (narrowed(tokens).logits.float() - expected).abs().mean()
    assert difference < (0.05 if dtype == torch.bfloat16 else 1e-4) * expected.std()


def test_what_a_checkpoint_holds(tmp_path):
    model = tiny_llama()
    folder = export_vanilla(
        LanguageModel(model, tiny_tokenizer(), str(tmp_path / "base")),
        masks_of_all_kinds(model),
        tmp_path / "deep" / "out",
        about={"loss on Python before, nats": 2.27},
    )
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("model.safetensors", "config.json", "generation_config.json", "README.md"),
        *("tokenizer.json", "tokenizer_config.json"),
    }
    config = json.loads((folder / "config.json").read_text())
    assert {name: config[name] for name in ("hidden_size", "head_dim", "intermediate_size", "num_hidden_layers")} == {
        "hidden_size": 16,
        "head_dim": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 2,
    }
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (2, 1)
    card = (folder / "README.md").read_text()
    for line in ("| residual dimensions | 32 | 16 |", "| layers | 3 | 2 |", "- loss on Python before, nats: 2.27"):
        assert line in card
    for path in folder.glob("*.json"):
        assert str(tmp_path) not in path.read_text()
    assert str(tmp_path) not in card
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    assert all(path.stat().st_mode & 0o044 for path in folder.iterdir())


def test_templates_by_name_can_be_read_by_others(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
    folder = export_vanilla(LanguageModel(tiny_llama(), tokenizer, "tiny"), {}, tmp_path / "out")
    assert load_causal_lm(folder).tokenizer.chat_template == tokenizer.chat_template
    assert all(path.stat().st_mode & (0o055 if path.is_dir() else 0o044) for path in folder.rglob("*"))
    assert all(path.stat().st_mode & 0o111 for path in folder.rglob("*") if path.is_dir())


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "note").write_text("mine")
    model = tiny_llama()
    for folder in (tmp_path, tmp_path / "note"):
        with pytest.raises(ValueError, match="must be a new or empty folder"):
            export_vanilla(LanguageModel(model, tiny_tokenizer(), "tiny"), {}, folder)
    assert (tmp_path / "note").read_text() == "mine"


def test_an_export_that_fails_leaves_nothing(tmp_path):
    class Broken:
        def save_pretrained(self, folder):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_vanilla(LanguageModel(tiny_llama(), Broken(), "tiny"), {}, tmp_path / "out")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("masks", "options", "says"),
    [
        ({"residual": torch.arange(32) < 17}, {}, r"17 residual dimensions and 4 heads; .* such as 16"),
        ({"layers.0.neurons": torch.arange(24) < 9}, {}, r"from 9 to 24 neurons per layer; .* widths='padded'"),
        ({"layers.2.heads": torch.arange(2) < 1}, {}, r"from 1 to 2 heads per layer"),
        ({}, {"widths": "wide"}, r"widths is 'wide'; it must be one of uniform, padded"),
        ({"layers.0.neurons": torch.zeros(24) > 0}, {}, r"keeps none of 24 units"),
        ({"layers.9.neurons": torch.ones(24) > 0}, {}, r"no group 'layers.9.neurons'"),
    ],
)
def test_bad_input_is_refused(masks, options, says):
    with pytest.raises(ValueError, match=says):
        sliced(tiny_llama(), masks, **options)


@pytest.mark.parametrize(
    ("wished", "n_heads", "expected"),
    [(16, None, 16), (17.9, None, 16), (18, None, 20), (0.1, None, 4), (32, None, 32), (31, 3, 30), (32, 3, 30)],
)
def test_hidden_sizes_are_rounded_to_heads(wished, n_heads, expected):
    model = tiny_llama()
    assert round_hidden_size(model, wished, n_heads=n_heads) == expected
    kept = keep_masks({"residual": torch.rand(32, generator=torch.Generator().manual_seed(0))}, n_kept=expected)
    assert int(kept["residual"].sum()) == expected


def test_a_sliced_model_shares_no_memory():
    model = tiny_llama()
    narrowed = sliced(model, random_masks(llama_units(model, "neurons"), 12))
    held = {parameter.data_ptr() for parameter in model.parameters()}
    assert not held & {parameter.data_ptr() for parameter in narrowed.parameters()}
    assert narrowed.lm_head.weight is narrowed.model.embed_tokens.weight
