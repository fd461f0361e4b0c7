"""Units of a Llama are what they say: removing one in the weights is removing it in the computation."""

import pytest
import torch
from tiny_llamas import TINY, as_transformers_makes_it, logits_masked, random_masks, tiny_llama, tiny_tokens

from narrowlib.devices import prepare_torchvision
from narrowlib.llm.families import check_family, family_of, unfused
from narrowlib.llm.units import llama_units, n_parameters_of, units_named
from narrowlib.pruning import ablated
from narrowlib.units import check

KINDS = ("neurons", "residual", "heads", "layers")


@pytest.fixture(params=TINY)
def model(request):
    return tiny_llama(request.param)


@torch.no_grad()
def logits_hooked(model, module, hook, tokens, *, on_input=False):
    """Logits with a hook on what one module gets or gives."""
    register = module.register_forward_pre_hook if on_input else module.register_forward_hook
    handle = register(hook)
    try:
        return model(tokens).logits
    finally:
        handle.remove()


def test_groups_fit_every_family(model):
    parameters = dict(model.named_parameters())
    for kind in KINDS:
        groups = llama_units(model, kind)
        for group in groups:
            check(group, parameters)
        assert len(groups) == (1 if kind == "residual" else 3)
    assert [group.name for group in llama_units(model, "neurons")] == [f"layers.{i}.neurons" for i in range(3)]
    assert [group.name for group in llama_units(model, "heads")] == [f"layers.{i}.heads" for i in range(3)]
    assert [group.name for group in llama_units(model, "layers")] == [f"layers.{i}" for i in range(3)]
    assert {group.n_units for group in llama_units(model, "layers")} == {1}
    assert llama_units(model, "residual")[0].name == "residual"


def test_every_parameter_that_touches_the_residual_stream_is_in_it(model):
    """All but the biases of what reads it, norms of heads and a tied head have the hidden size as an axis."""
    (group,) = llama_units(model, "residual")
    outside = set(dict(model.named_parameters())) - set(group.axes)
    readers = ("q_proj.bias", "k_proj.bias", "v_proj.bias", "gate_proj.bias", "up_proj.bias")
    assert all(name.endswith((*readers, "q_norm.weight", "k_norm.weight")) for name in outside)


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize(("kind", "reader"), [("neurons", "mlp.down_proj"), ("heads", "self_attn.o_proj")])
def test_a_unit_masked_gives_nothing(model, kind, layer, reader):
    """A neuron its activation; a key-value head what its query heads hand to the output projection side by side."""
    if kind == "heads" and family_of(model).head_norms == "all":
        pytest.skip("a norm over all heads: without one head the others differ")
    tokens, group = tiny_tokens(model), llama_units(model, kind)[layer]
    masks, reads = random_masks([group], group.n_units * 5 // 6), model.model.layers[layer].get_submodule(reader)
    keep = masks[group.name].repeat_interleave(reads.in_features // group.n_units).float()
    assert 0 < keep.sum() < len(keep)
    by_hand = logits_hooked(model, reads, lambda _, given: given[0] * keep, tokens, on_input=True)
    torch.testing.assert_close(logits_masked(model, masks, tokens), by_hand, rtol=0, atol=1e-4)


def test_a_layer_masked_is_a_layer_passed_by(model):
    tokens = tiny_tokens(model)
    by_hand = logits_hooked(model, model.model.layers[1], lambda module, given, _: given[0], tokens)
    masked = logits_masked(model, {"layers.1": torch.tensor([False])}, tokens)
    torch.testing.assert_close(masked, by_hand, rtol=0, atol=1e-4)


def test_a_residual_dimension_masked_is_zero_throughout(model):
    tokens = tiny_tokens(model)
    masks = random_masks(llama_units(model, "residual"), 20)
    with torch.no_grad(), ablated(model, units_named(model, masks), masks):
        states = model(tokens, output_hidden_states=True).hidden_states
    for state in states:
        assert not state[..., ~masks["residual"]].any() and state[..., masks["residual"]].all()


def test_groups_by_name():
    model = tiny_llama()
    names = ["layers.2.heads", "residual", "layers.0"]
    assert [group.name for group in units_named(model, names)] == ["residual", "layers.2.heads", "layers.0"]
    with pytest.raises(ValueError, match=r"no group 'layers.3.heads'.*i from 0 to 2"):
        units_named(model, ["layers.3.heads"])


def test_stored_counts_the_zeros_that_fill_up():
    model = tiny_llama()
    masks = random_masks(llama_units(model, "neurons"), 10)
    masks["layers.0.neurons"] = torch.arange(24) < 14
    per_neuron = 3 * 32
    assert n_parameters_of(model) - n_parameters_of(model, masks) == (10 + 14 + 14) * per_neuron
    assert n_parameters_of(model) - n_parameters_of(model, masks, counted="stored") == 3 * 10 * per_neuron


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda model: llama_units(model, "rows"), r"kind is 'rows'; it must be one of"),
        (lambda model: n_parameters_of(model, counted="twice"), r"counted is 'twice'; .* kept, stored"),
        (
            lambda model: n_parameters_of(model, {"residual": torch.ones(32)}),
            r"torch.float32 .* must be bool of \(32,\)",
        ),
        (lambda model: n_parameters_of(model, {"residual": torch.ones(31) > 0}), r"shape \(31,\); it must be bool"),
        (lambda model: n_parameters_of(model, {"layers.1.neurons": torch.zeros(24) > 0}), "keeps none of 24 units"),
        (
            lambda model: n_parameters_of(model, {f"layers.{i}": torch.tensor([False]) for i in range(3)}),
            "remove all of 3 layers",
        ),
        (lambda model: check_family("gpt2"), r"family 'gpt2'; it must be one of Llama .*, Mistral, .*Gemma 2"),
        (lambda model: check_family("qwen3_moe"), r"family 'qwen3_moe'; it must be one of Llama"),
    ],
)
def test_bad_input_is_refused(ask, says):
    with pytest.raises(ValueError, match=says):
        ask(tiny_llama())


def test_the_papers_networks_have_the_papers_sizes():
    """Michaud, Parker-Sartori and Tegmark (2025), Fig 6: millions left of Llama-3.2-1B, counted without weights."""
    prepare_torchvision()
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=128_256, hidden_size=2_048, intermediate_size=8_192, num_hidden_layers=16,
                num_attention_heads=32, num_key_value_heads=8, head_dim=64, tie_word_embeddings=True,
            )
        )  # fmt: skip
    assert n_parameters_of(model) == 1_235_814_400
    sizes = {(0.5, 0.2): 667, (0.5, 0.5): 417, (0.8, 0.5): 296, (0.9, 0.5): 256, (0.95, 0.5): 235, (0.8, 0.8): 118}
    for (neurons, residual), millions in sizes.items():
        groups, shares = (*llama_units(model, "neurons"), *llama_units(model, "residual")), {}
        for group in groups:
            sparsity = residual if group.name == "residual" else neurons
            shares[group.name] = torch.arange(group.n_units) >= int(group.n_units * sparsity)  # as the paper rounds
        assert round(n_parameters_of(model, shares) / 1e6) == millions


@pytest.mark.parametrize("family", ["phi3", "phi3, long"])
def test_fused_projections_are_split(family):
    torch.manual_seed(0)
    fused = as_transformers_makes_it(family, initializer_range=0.3)
    tokens = tiny_tokens(fused, n_tokens=30)
    with pytest.raises(ValueError, match="the projections of Phi-3 are fused"):
        llama_units(fused, "neurons")
    with torch.no_grad():
        torch.testing.assert_close(unfused(fused)(tokens).logits, fused(tokens).logits, rtol=1e-4, atol=1e-4)
    fused.config.rope_parameters["partial_rotary_factor"] = 0.75
    with pytest.raises(ValueError, match="a part of each head"):
        unfused(fused)
