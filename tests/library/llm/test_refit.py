"""Refit of cut models: the closed form, what it lowers, and every family and kind of unit."""

import pytest
import torch
from tiny_llamas import TINY, random_masks, tiny_llama, token_ids

from narrowlib.llm.export import sliced
from narrowlib.llm.refit import refit
from narrowlib.llm.units import llama_units

BLOCKS = token_ids(6, 24, seed=3)
N_KEPT = {"neurons": 14, "heads": 1, "residual": 24}
READERS = {"neurons": "mlp.down_proj", "heads": "self_attn.o_proj", "residual": "self_attn.q_proj"}


def inputs_of(model, name, ids):
    """What a linear layer reads and puts out: (tokens, features)."""
    seen = []
    handle = model.get_submodule(name).register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    with torch.no_grad():
        model(input_ids=ids)
    handle.remove()
    return (each.flatten(0, 1).double() for each in seen[0])


@pytest.mark.parametrize("family", ["llama, tied", "llama, biases"])
def test_down_projections_have_the_closed_form(family):
    model = tiny_llama(family)
    masks = random_masks(llama_units(model, "neurons"), 14)
    cut = sliced(model, masks)
    before = {name: p.detach().clone() for name, p in cut.named_parameters()}
    refit(cut, model, masks, BLOCKS, ridge=0.05, progress=False)
    for layer in range(3):
        x, _ = inputs_of(model, f"model.layers.{layer}.mlp.down_proj", BLOCKS)
        kept, gram = masks[f"layers.{layer}.neurons"], x.T @ x
        weight = model.model.layers[layer].mlp.down_proj.weight.detach().double()
        part, d = gram[kept][:, kept], 0.05 * gram.diagonal()[kept].mean()
        expected = (weight @ gram[:, kept] + d * weight[:, kept]) @ torch.linalg.inv(part + d * torch.eye(14))
        found = cut.model.layers[layer].mlp.down_proj.weight.detach().double()
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert {name for name, p in cut.named_parameters() if not torch.equal(p, before[name])} == {
        f"model.layers.{layer}.mlp.down_proj.weight" for layer in range(3)
    }


@pytest.mark.parametrize(("kind", "reader"), READERS.items())
@pytest.mark.parametrize("family", TINY)
def test_outputs_of_the_first_layer_come_nearer_to_those_of_the_whole_model(family, kind, reader):
    model = tiny_llama(family)
    masks = random_masks(llama_units(model, kind), N_KEPT[kind])
    whole = {name: p.detach().clone() for name, p in model.named_parameters()}

    def error(cut):
        (_, ours), (_, theirs) = (inputs_of(each, f"model.layers.0.{reader}", BLOCKS) for each in (cut, model))
        return (ours - theirs).square().mean().item()

    cut = sliced(model, masks)
    plain = error(cut)
    refit(cut, model, masks, BLOCKS, progress=False)
    assert error(cut) < 0.9 * plain
    assert all(torch.equal(p, whole[name]) for name, p in model.named_parameters())
    modules = [*cut.modules(), *model.modules()]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def test_kinds_together_and_layers_that_went():
    model = tiny_llama(dtype=torch.bfloat16)
    masks = random_masks([*llama_units(model, "neurons"), *llama_units(model, "residual")], 20)
    masks["layers.1"] = torch.zeros(1, dtype=torch.bool)
    cut = sliced(model, masks)
    before = [layer.mlp.gate_proj.weight.clone() for layer in cut.model.layers]
    refit(cut, model, masks, BLOCKS[:5], progress=False)  # batches of two sizes
    assert cut.dtype == torch.bfloat16 and len(cut.model.layers) == 2
    assert all(
        not torch.equal(layer.mlp.gate_proj.weight, old) for layer, old in zip(cut.model.layers, before, strict=True)
    )
    assert all(p.isfinite().all() for p in cut.parameters())


def test_a_large_ridge_leaves_the_weights_and_nothing_cut_changes_nothing():
    model = tiny_llama()
    for masks, ridge in (({}, 0.01), (random_masks(llama_units(model, "neurons"), 14), 1e9)):
        cut = sliced(model, masks)
        before = [p.detach().clone() for p in cut.parameters()]
        refit(cut, model, masks, BLOCKS, ridge=ridge, progress=False)
        for ours, old in zip(cut.parameters(), before, strict=True):
            torch.testing.assert_close(ours, old, rtol=1e-5, atol=1e-6)


def test_bad_input_is_refused():
    model = tiny_llama()
    masks = random_masks(llama_units(model, "neurons"), 14)
    with pytest.raises(ValueError, match="ridge is 0; it must be a number above 0"):
        refit(sliced(model, masks), model, masks, BLOCKS, ridge=0)
    with pytest.raises(ValueError, match="blocks is empty"):
        refit(sliced(model, masks), model, masks, BLOCKS[:0])
    with pytest.raises(ValueError, match="narrowed has 3 layers; masks leave 2 of whole"):
        refit(sliced(model, masks), model, masks | {"layers.0": torch.zeros(1, dtype=torch.bool)}, BLOCKS)


def test_inputs_too_large_for_sums_of_squares_are_refused():
    model = tiny_llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1e25)
    masks = random_masks(llama_units(model, "neurons"), 14)
    with pytest.raises(ValueError, match=r"inputs of mlp\.down_proj of layer 1 are too large for a refit"):
        refit(sliced(model, masks), model, masks, BLOCKS, progress=False)
