"""Scores against what they stand for: setting to zero, shrinking, and sums by hand."""

import math

import pytest
import torch

from narrowlib.pruning import ablated
from narrowlib.scores import (
    ablation_scores,
    activation_gradient_scores,
    agreement,
    attribution_scores,
    random_scores,
    weight_norm_scores,
)
from narrowlib.stacks.gradients import cross_entropy
from narrowlib.stacks.networks import MLPStack, losses_without_neurons
from narrowlib.stacks.training import make_generators
from narrowlib.units import Slice, UnitGroup

N_RUNS, N_SAMPLES = 2, 60


@pytest.fixture
def stack():
    return MLPStack((5, 7, 6, 2), make_generators(range(N_RUNS), "cpu")).double()


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N_RUNS, N_SAMPLES, 5, generator=generator).double()
    return x, torch.randint(2, (N_RUNS, N_SAMPLES), generator=generator)


def mean_losses(stack, x, labels):
    """In double precision, by torch's own cross entropy."""
    losses = torch.nn.functional.cross_entropy(stack(x).flatten(0, 1), labels.flatten(), reduction="none")
    return losses.view_as(labels).mean(1)


def gradients_of(stack, x, labels):
    names, parameters = zip(*stack.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(mean_losses(stack, x, labels).sum(), parameters), strict=True))


@torch.no_grad()
def test_ablation_scores_are_those_of_zeroing_and_rerunning(stack, data):
    stack = stack.float()
    x, labels = data[0].float(), data[1]
    before = [parameter.clone() for parameter in stack.parameters()]
    loss = cross_entropy(stack(x), labels)[0].mean(1)
    scores = ablation_scores(loss, losses_without_neurons(stack, x, labels, cross_entropy))
    for group in stack.units:
        for unit in range(group.n_units):
            mask = torch.ones(N_RUNS, group.n_units, dtype=torch.bool)
            mask[:, unit] = False
            with ablated(stack, [group], {group.name: mask}):
                without = cross_entropy(stack(x), labels)[0].mean(1)
            torch.testing.assert_close(scores[group.name][:, unit], (without - loss).abs(), rtol=1e-4, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(before, stack.parameters(), strict=True))
    assert max(score.max() for score in scores.values()) > 1e-3


def test_signed_attribution_is_the_slope_of_shrinking_a_unit(stack, data):
    epsilon = 1e-6
    gradient = gradients_of(stack, *data)
    scores = attribution_scores(stack.units, dict(stack.named_parameters()), [gradient])
    with torch.no_grad():
        loss = mean_losses(stack, *data)
        for layer, group in enumerate(stack.units):
            for unit in range(group.n_units):
                weights = [stack.weights[layer][:, :, unit], stack.biases[layer][:, :, unit]]
                weights.append(stack.weights[layer + 1][:, unit])
                saved = [weight.clone() for weight in weights]
                for weight in weights:
                    weight.mul_(1 - epsilon)
                slope = (mean_losses(stack, *data) - loss) / epsilon
                for weight, values in zip(weights, saved, strict=True):
                    weight.copy_(values)
                torch.testing.assert_close(scores[group.name][:, unit], slope.abs(), rtol=1e-4, atol=1e-7)


def test_attribution_variants_by_hand():
    group = UnitGroup("rows", 2, (Slice("w", 0),))
    w = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    batches = [{"w": torch.tensor([[2.0, -1.0], [1.0, 1.0]])}, {"w": torch.tensor([[0.0, 1.0], [-1.0, -1.0]])}]
    signed = attribution_scores([group], {"w": w}, batches)["rows"]
    per_weight = attribution_scores([group], {"w": w}, iter(batches), variant="per_weight")["rows"]
    assert signed.tolist() == [abs(2 - 2 + 0 + 2) / 2, abs(3 - 1 - 3 + 1) / 2]
    assert per_weight.tolist() == [(2 + 2 + 0 + 2) / 2, (3 + 1 + 3 + 1) / 2]


def test_activation_gradient_by_hand():
    a, g = {"h": torch.tensor([[1.0, 2.0], [3.0, 0.0]])}, {"h": torch.tensor([[2.0, 1.0], [-1.0, 5.0]])}
    assert activation_gradient_scores(a, g)["h"].tolist() == [2.5, 1]
    assert activation_gradient_scores(a, g, absolute="outside")["h"].tolist() == [0.5, 1]
    stacked = activation_gradient_scores({"h": a["h"][None].repeat(3, 1, 1)}, {"h": g["h"][None].repeat(3, 1, 1)})
    assert stacked["h"].shape == (3, 2)


def test_weight_norms_and_random_scores(stack):
    norms = weight_norm_scores(stack.units, dict(stack.named_parameters()))
    by_hand = stack.weights[0][1, :, 3].square().sum() + stack.biases[0][1, 0, 3] ** 2
    by_hand = by_hand + stack.weights[1][1, 3].square().sum()
    torch.testing.assert_close(norms["hidden 1"][1, 3], by_hand.sqrt().detach())
    draws = [random_scores(stack.units, torch.Generator().manual_seed(seed), N_RUNS) for seed in (0, 0, 1)]
    assert draws[0]["hidden 2"].shape == (N_RUNS, 6)
    assert torch.equal(draws[0]["hidden 1"], draws[1]["hidden 1"])
    assert not torch.equal(draws[0]["hidden 1"], draws[2]["hidden 1"])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda g, p: attribution_scores([g], p, [p], variant="abs"), "signed, per_weight"),
        (lambda g, p: attribution_scores([g], p, p), "one per batch"),
        (lambda g, p: attribution_scores([g], p, []), "at least one batch"),
        (lambda g, p: attribution_scores([g], p, [{}]), "names w"),
        (lambda g, p: activation_gradient_scores(p, p, absolute="both"), "inside, outside"),
        (lambda g, p: activation_gradient_scores(p, {"w": p["w"][:1]}), "must be the same"),
        (lambda g, p: ablation_scores(torch.ones(3), p), "axis of units"),
        (lambda g, p: random_scores([g], torch.Generator(), 2), "None, for one model"),
    ],
)
def test_wrong_arguments_are_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call(UnitGroup("rows", 2, (Slice("w", 0),)), {"w": torch.ones(2, 2)})


def test_agreement():
    x = torch.tensor([0.0, 1.0, 10.0, 100.0])
    same = agreement(x, 3 * x)
    assert same == pytest.approx((1, 1, 1))
    power = agreement({"a": x[:2], "b": x[2:]}, {"b": x[2:] ** 3, "a": x[:2] ** 3})
    assert power.pearson < 0.999 and power.pearson_log == pytest.approx(1) and power.spearman == pytest.approx(1)
    assert agreement(x, -x + 100).spearman == pytest.approx(-1)
    assert math.isnan(agreement(x, torch.ones(4)).pearson)
    with pytest.raises(ValueError, match="attribution has 4 units, ablation 3"):
        agreement(x, x[:3])
    with pytest.raises(ValueError, match="they must be the same"):
        agreement({"a": x}, {"b": x})
