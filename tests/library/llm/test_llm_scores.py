"""Attribution scores of language models against gradients of weights, finite differences and their definitions."""

import gc
import weakref
from itertools import pairwise

import pytest
import torch
from tiny_llamas import TINY, tiny_llama, token_ids

from narrowlib.llm.losses import next_token_loss
from narrowlib.llm.scores import FORWARD_ONLY, FROM_READS, VARIANTS, score_units
from narrowlib.llm.units import llama_units
from narrowlib.pruning import apply_masks
from narrowlib.scores import attribution_scores
from narrowlib.units import Slice, UnitGroup, unit_sums

FROM_GRADIENTS = {"signed": "signed", "absolute per weight": "per_weight"}
KINDS = ("neurons", "residual", "heads", "layers")
BATCHES = [token_ids(3, 9, seed=0), token_ids(3, 9, seed=1)]


def mean_loss(model, ids):
    return next_token_loss(model(input_ids=ids).logits, ids)


def gradients_of(model, ids):
    model.zero_grad()
    mean_loss(model, ids).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.fixture
def model():
    return tiny_llama("llama, tied", dtype=torch.float64)


every_family = pytest.mark.parametrize("family", TINY)


@every_family
@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_gradients_of_weights(family, kind):
    """Without a gradient of weights the same sums come out; tied embeddings count at both places."""
    model = tiny_llama(family, dtype=torch.float64)
    groups = llama_units(model, kind)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    gradients = [gradients_of(model, ids) for ids in BATCHES]
    ours = score_units(model, groups, BATCHES, variants=tuple(FROM_GRADIENTS), progress=False)
    for variant, name in FROM_GRADIENTS.items():
        for group, expected in attribution_scores(groups, parameters, gradients, variant=name).items():
            torch.testing.assert_close(ours[variant][group].double(), expected, rtol=2e-5, atol=2e-6)
    per_batch = score_units(model, groups, BATCHES, variants=["absolute per batch"], progress=False)
    for group in groups:
        expected = sum(unit_sums(group, parameters, g, of=torch.mul).abs() for g in gradients) / len(gradients)
        torch.testing.assert_close(per_batch["absolute per batch"][group.name].double(), expected, rtol=2e-5, atol=2e-6)
    mean = {
        name: sum(g[name].abs() for g in gradients) / len(gradients) for name in parameters
    }  # as in the paper's code
    name = "weights times mean absolute gradient"
    found = score_units(model, groups, BATCHES, variants=[name], progress=False)[name]
    for group in groups:
        expected = unit_sums(group, parameters, mean, of=torch.mul).abs()
        torch.testing.assert_close(found[group.name].double(), expected, rtol=2e-5, atol=2e-6)


@every_family
@pytest.mark.parametrize("kind", KINDS)
def test_signed_is_the_change_of_the_loss_when_a_unit_shrinks(family, kind):
    """A central difference along the unit's own weights."""
    if family.startswith("gemma2"):
        pytest.skip("attention with a cap takes its softmax in float32, too coarse for differences of small steps")
    model = tiny_llama(family, dtype=torch.float64)
    groups = llama_units(model, kind)
    signed = score_units(model, groups, BATCHES[:1], progress=False)["signed"]
    parameters, step = dict(model.named_parameters()), 1e-5
    for group in groups[:2]:
        for unit in {0, group.n_units - 1}:
            mask = torch.ones(group.n_units, dtype=torch.bool)
            mask[unit] = False
            saved = {name: p.detach().clone() for name, p in parameters.items()}
            apply_masks([group], parameters, {group.name: mask})
            without = {name: p.detach().clone() for name, p in parameters.items()}
            losses = []
            with torch.no_grad():
                for sign in (1, -1):
                    for name, p in parameters.items():
                        p.copy_(saved[name] + sign * step * (saved[name] - without[name]))
                    losses.append(mean_loss(model, BATCHES[0]))
                for name, p in parameters.items():
                    p.copy_(saved[name])
            slope = (losses[0] - losses[1]) / (2 * step)
            torch.testing.assert_close(signed[group.name][unit].double(), slope.abs(), rtol=1e-4, atol=1e-6)


def test_only_tokens_that_count_are_in_the_loss(model):
    groups, ids, labels = llama_units(model, "neurons"), token_ids(2, 9), torch.full((2, 9), -100)
    labels[0, 4:] = ids[0, 4:]
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    ours = score_units(model, groups, [(ids, labels)], variants=(*FROM_GRADIENTS, "wanda"), progress=False)
    whole = score_units(model, groups, [ids], variants=["wanda"], progress=False)
    model.zero_grad()
    next_token_loss(model(input_ids=ids).logits, labels).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for variant, name in FROM_GRADIENTS.items():
        for group, expected in attribution_scores(groups, parameters, [gradients], variant=name).items():
            torch.testing.assert_close(ours[variant][group].double(), expected, rtol=2e-5, atol=2e-6)
    for group in groups:  # without a loss all tokens matter
        assert torch.equal(ours["wanda"][group.name], whole["wanda"][group.name])
    with pytest.raises(ValueError, match="batches is empty; it must hold at least one batch of two or more tokens"):
        score_units(model, groups, [(ids, torch.full_like(ids, -100))], progress=False)


def test_per_token_and_per_sequence(model):
    """Each sequence alone gives its share; each token's comes from the definition with activations of one layer."""
    group = llama_units(model, "neurons")[1]
    variants = ["signed", "absolute per sequence", "absolute per token", *FROM_READS, *FORWARD_ONLY]
    ours = score_units(model, [group], BATCHES, variants=variants, progress=False)
    alone = [
        score_units(model, [group], [ids[None]], progress=False)["signed"][group.name]
        for batch in BATCHES
        for ids in batch
    ]
    expected = torch.stack(alone).mean(0)
    torch.testing.assert_close(ours["absolute per sequence"][group.name], expected, rtol=1e-4, atol=1e-7)
    kept = {}

    def keep(module, inputs, output):
        kept[module] = inputs[0], output
        inputs[0].retain_grad(), output.retain_grad()

    mlp = model.model.layers[1].mlp
    hooks = [module.register_forward_hook(keep) for module in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)]
    total, signed_activation, per_batch, per_token, squares, n = 0, 0, 0, 0, 0, 0
    for ids in BATCHES:
        next_token_loss(model(input_ids=ids).logits, ids, reduction="sum").backward()
        h = kept[mlp.down_proj][0]
        shares = sum(y * y.grad for y in (kept[mlp.gate_proj][1], kept[mlp.up_proj][1])) + h * h.grad
        total = total + shares.abs().sum((0, 1))
        signed_activation = signed_activation + (h * h.grad).sum((0, 1))
        per_batch = per_batch + (h * h.grad).sum((0, 1)).abs()
        per_token = per_token + (h * h.grad).abs().sum((0, 1))
        squares, n = squares + h.square().sum((0, 1)), n + ids.shape[0] * (ids.shape[1] - 1)
    for hook in hooks:
        hook.remove()
    for variant, expected in [
        ("absolute per token", total / n),
        ("signed activation", (signed_activation / n).abs()),
        ("absolute activation per batch", per_batch / n),
        ("absolute activation per token", per_token / n),
        ("activation norm", rms := (squares / sum(ids.numel() for ids in BATCHES)).sqrt()),
        ("wanda", rms * mlp.down_proj.weight.abs().sum(0)),
    ]:
        torch.testing.assert_close(ours[variant][group.name].double(), expected.detach(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["neurons", "residual"])
def test_chain_of_absolute_values_and_a_model_left_as_it_was(model, kind):
    groups = llama_units(model, kind)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.train()
    model.model.norm.weight.requires_grad_(False)
    model.model.norm.weight.grad = torch.ones_like(model.model.norm.weight)
    scores = score_units(model, groups, BATCHES, variants=VARIANTS, progress=False)
    assert list(scores) == list(VARIANTS)
    names = ("signed", "absolute per batch", "absolute per sequence", "absolute per token")
    for group in groups:
        chain = [scores[name][group.name] for name in names]
        for less, more in pairwise(chain):
            assert (less <= more * (1 + 1e-5)).all() and (less < more).any()
        assert all(values[group.name].shape == (group.n_units,) for values in scores.values())
        assert (scores["absolute per weight"][group.name] >= scores["absolute per batch"][group.name] * 0.999).all()
    assert (
        model.training
        and not model.model.norm.weight.requires_grad
        and model.model.layers[0].mlp.up_proj.weight.requires_grad
    )
    assert (model.model.norm.weight.grad == 1).all()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None for name, p in model.named_parameters() if name != "model.norm.weight")


def test_no_gradient_of_a_weight_is_made(model, monkeypatch):
    """But for the per-weight variant, no parameter takes part in the backward pass."""
    seen = []
    original = torch.Tensor.backward
    monkeypatch.setattr(
        torch.Tensor,
        "backward",
        lambda loss: (seen.append([p.requires_grad for p in model.parameters()]), original(loss))[1],
    )
    score_units(model, llama_units(model, "residual"), BATCHES, progress=False)
    assert len(seen) == 2 and not any(map(any, seen))


@pytest.mark.parametrize("kind", KINDS[:3])
def test_scores_of_a_forward_pass_need_neither_loss_nor_backward(model, kind, monkeypatch):
    groups, names = llama_units(model, kind), ["wanda", "activation norm"]
    expected = score_units(model, groups, BATCHES, variants=["signed", *names], progress=False)
    monkeypatch.setattr(torch.Tensor, "backward", None)
    found = score_units(model, groups, BATCHES, variants=names, progress=False)
    for variant in names:
        for group in groups:
            torch.testing.assert_close(found[variant][group.name], expected[variant][group.name])


def test_biases_belong_where_the_group_says():
    """A bias of the rows is left out of the weights' share and counted when the group names it."""
    model = tiny_llama("qwen2", dtype=torch.float64)
    name = "model.layers.0.self_attn.v_proj"
    parts = {"weight": (Slice(f"{name}.weight", 0),), "bias": (Slice(f"{name}.bias", 0),)}
    parts["both"] = parts["weight"] + parts["bias"]
    gradients = gradients_of(model, BATCHES[0])
    parameters = {key: p.detach() for key, p in model.named_parameters()}
    for part, slices in parts.items():
        group = UnitGroup(part, 16, slices)
        ours = score_units(model, [group], BATCHES[:1], progress=False)["signed"][part]
        expected = unit_sums(group, parameters, gradients, of=torch.mul).abs()
        torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-7)


def test_bad_input_is_refused(model):
    groups = llama_units(model, "neurons")
    with pytest.raises(ValueError, match=r"variants is \['loud'\]; it must be .*absolute per token"):
        score_units(model, groups, BATCHES, variants=["loud"])
    with pytest.raises(ValueError, match="variants is 'signed'"):
        score_units(model, groups, BATCHES, variants="signed")
    with pytest.raises(ValueError, match="batches is empty"):
        score_units(model, groups, [], progress=False)
    with pytest.raises(ValueError, match="not among the tensors"):
        score_units(model, [UnitGroup("x", 24, [Slice("model.nowhere", 0)])], BATCHES)
    rows = UnitGroup("rows", 24, [Slice("model.layers.0.mlp.up_proj.weight", 0)])
    with pytest.raises(ValueError, match="no column reads them"):
        score_units(model, [rows], BATCHES, variants=["activation norm"], progress=False)
    vocabulary = UnitGroup("tokens", 61, [Slice("model.embed_tokens.weight", 0)])
    with pytest.raises(ValueError, match="axis 0 of the weight of a Embedding"):
        score_units(model, [vocabulary], BATCHES, progress=False)


def test_no_batch_is_kept(model):
    """What layers put out is freed when its batch is done, or a large model would fill the memory."""
    outputs = []
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
            module.register_forward_hook(lambda _module, _inputs, output: outputs.append(weakref.ref(output)))
    score_units(model, llama_units(model, "residual"), BATCHES, variants=["signed"], progress=False)
    gc.collect()
    assert outputs and not [output for output in outputs if output() is not None]
