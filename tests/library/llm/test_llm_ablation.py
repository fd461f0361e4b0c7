"""Losses without a unit, against setting its weights to zero and running everything again."""

import pytest
import torch
from tiny_llamas import TINY, tiny_llama, token_ids

from narrowlib.llm import ablation as llm_ablation
from narrowlib.llm.ablation import ablation_losses
from narrowlib.llm.losses import next_token_loss
from narrowlib.llm.units import llama_units
from narrowlib.pruning import ablated
from narrowlib.units import Slice, UnitGroup

BATCHES = [token_ids(2, 9, seed=0), token_ids(2, 9, seed=1)]


@torch.no_grad()
def losses_by_hand(model, groups, units, batches):
    def mean_loss():
        total = sum(next_token_loss(model(input_ids=ids).logits, ids, reduction="sum") for ids in batches)
        return total / sum(ids[:, 1:].numel() for ids in batches)

    losses = {group.name: [] for group in groups}
    for group in groups:
        for unit in units[group.name]:
            mask = torch.arange(group.n_units) != unit
            with ablated(model, [group], {group.name: mask}):
                losses[group.name].append(mean_loss())
    return mean_loss(), {name: torch.stack(values) for name, values in losses.items()}


def values_of(model):
    """Rows of the values: units that are neither neurons nor residual dimensions."""
    values = {i: model.model.layers[i].self_attn.v_proj for i in (1, 2)}
    return tuple(
        UnitGroup(f"values {i}", each.out_features, [Slice(f"model.layers.{i}.self_attn.v_proj.weight", 0)])
        for i, each in values.items()
    )


@pytest.mark.parametrize("kind", ["neurons", "residual", "values", "heads", "layers"])
@pytest.mark.parametrize("family", TINY)
def test_ablation_is_exact(family, kind, monkeypatch):
    """In double precision to its rounding, however many units and words go at a time."""
    monkeypatch.setattr(llm_ablation, "VOCABULARY_AT_ONCE", 25)  # of 61 words
    monkeypatch.setattr(llm_ablation, "LOGITS_BYTES", {"cpu": 4 * 25 * 7})
    model = tiny_llama(family, dtype=torch.float64)
    groups = values_of(model) if kind == "values" else llama_units(model, kind)
    units = {group.name: torch.tensor(sorted({0, group.n_units // 2, group.n_units - 1})).flip(0) for group in groups}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    expected_loss, expected = losses_by_hand(model, groups, units, BATCHES)
    for n_tokens in (1, 2 * 18):
        loss, losses = ablation_losses(model, groups, BATCHES, units, tokens_per_forward=n_tokens, progress=False)
        torch.testing.assert_close(loss, expected_loss, rtol=1e-12, atol=0)
        for name, values in expected.items():
            torch.testing.assert_close(losses[name], values, rtol=1e-12, atol=0)
            assert (losses[name] - loss).abs().max() > 1e-4  # there is something to be seen
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_sampled_units_in_their_order():
    model = tiny_llama("llama, tied")
    groups = llama_units(model, "neurons")
    _, every = ablation_losses(model, groups, BATCHES, progress=False)
    which = {"layers.0.neurons": torch.tensor([7, 3]), "layers.1.neurons": torch.tensor([], dtype=torch.long)}
    model.train()
    _, some = ablation_losses(model, groups, BATCHES, which, progress=False)
    assert model.training
    torch.testing.assert_close(some["layers.0.neurons"], every["layers.0.neurons"][[7, 3]])
    assert len(some["layers.1.neurons"]) == 0 and len(some["layers.2.neurons"]) == 24


def test_bad_input_is_refused():
    model = tiny_llama("llama, tied")
    groups = llama_units(model, "neurons")
    with pytest.raises(ValueError, match=r"units of 'layers.0.neurons' is \[24\]; .* from 0 to 23"):
        ablation_losses(model, groups, BATCHES, {"layers.0.neurons": torch.tensor([24])})
    with pytest.raises(ValueError, match=r"units names 'layers.99.neurons'; it must name some of layers.0.neurons"):
        ablation_losses(model, groups, BATCHES, {"layers.99.neurons": torch.tensor([0])})
    with pytest.raises(ValueError, match="batches is empty"):
        ablation_losses(model, groups, [], progress=False)
    with pytest.raises(ValueError, match="not among the tensors"):
        ablation_losses(model, [UnitGroup("x", 24, [Slice("model.nowhere", 0)])], BATCHES)
