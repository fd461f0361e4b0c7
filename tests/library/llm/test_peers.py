"""The pruning methods that the benchmark compares with ours, on a tiny model."""

import pytest
import torch
from tiny_llamas import tiny_llama, token_ids

from benchmarks.prune_peers import METHODS, sizes_of
from narrowlib.llm.losses import next_token_loss
from narrowlib.llm.units import llama_units
from narrowlib.pruning import keep_masks
from narrowlib.units import unit_sums

BLOCKS = token_ids(6, 16)


CUTS = [(name, kind) for name in METHODS for kind in ("neurons", "residual") if (name, kind) != ("flap", "residual")]


@pytest.mark.parametrize(("name", "kind"), CUTS)
def test_all_cut_as_much_and_leave_the_model_as_it_was(name, kind):
    model, as_was = (tiny_llama("llama, tied", seed=1) for _ in range(2))
    cut = METHODS[name](model, kind, 0.5, BLOCKS[:4], BLOCKS[4:])
    assert all(map(torch.equal, model.parameters(), as_was.parameters()))
    assert not any(parameter.grad is not None for parameter in model.parameters())
    n_kept = sizes_of(model, kind, 0.5)[1]
    for layer in cut.model.layers:
        norms = layer.input_layernorm, layer.post_attention_layernorm
        sizes = {len(layer.mlp.up_proj.weight)} if kind == "neurons" else {len(each.weight) for each in norms}
        assert sizes == {n_kept}
    loss = next_token_loss(cut(input_ids=BLOCKS).logits, BLOCKS)
    assert loss.isfinite() and loss != next_token_loss(model(input_ids=BLOCKS).logits, BLOCKS)


def test_torch_pruning_ranks_neurons_by_weights_times_gradients():
    """Sum over the two rows and the column of a neuron of |weight x gradient|; FLAP and others rank otherwise."""
    model = tiny_llama("llama, tied", seed=1)
    next_token_loss(model(input_ids=BLOCKS[:4]).logits, BLOCKS[:4], reduction="sum").backward()
    weights = {name: each.detach() for name, each in model.named_parameters()}
    gradients = {name: each.grad for name, each in model.named_parameters()}
    groups = llama_units(model, "neurons")
    scores = {group.name: unit_sums(group, weights, gradients, of=lambda w, d: (w * d).abs()) for group in groups}
    masks = keep_masks(scores, n_kept=sizes_of(model, "neurons", 0.5)[1], scope="per_layer")
    model.zero_grad()
    cut = METHODS["torch-pruning"](model, "neurons", 0.5, BLOCKS[:4], BLOCKS[4:])
    for group, whole, part in zip(groups, model.model.layers, cut.model.layers, strict=True):
        assert torch.equal(part.mlp.down_proj.weight, whole.mlp.down_proj.weight[:, masks[group.name]])
