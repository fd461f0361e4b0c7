"""A stack is its members, side by side."""

import copy

import pytest
import torch
from plain_networks import as_sequential

from narrowlib.stacks.gradients import cross_entropy
from narrowlib.stacks.networks import MLPStack, losses_without_neurons
from narrowlib.stacks.training import make_generators


@pytest.mark.parametrize("sizes", [(5, 2), (6, 8, 2), (6, 8, 4, 3)])
def test_forward_is_that_of_plain_networks(sizes):
    stack = MLPStack(sizes, make_generators(range(3), "cpu"))
    x = torch.randn(3, 11, sizes[0], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for run in range(3):
            torch.testing.assert_close(stack(x)[run], as_sequential(stack, run)(x[run]))
    assert stack.depth == len(sizes) - 1


def test_member_starts_as_it_would_alone():
    together = MLPStack((6, 8, 2), make_generators((5, 9), "cpu"))
    alone = MLPStack((6, 8, 2), make_generators((9,), "cpu"))
    for a, b in zip(together.parameters(), alone.parameters(), strict=True):
        assert torch.equal(a[1], b[0])
        assert not torch.equal(a[0], a[1])


def test_parameter_counts_are_the_papers():
    generators = make_generators((0,), "cpu")
    counts = [MLPStack(sizes, generators).n_parameters for sizes in ((68, 128, 128, 2), (68, 128, 2), (68, 361, 2))]
    assert counts == [25_602, 9_090, 25_633]  # PAPER: Fig 2 and 7
    stack = MLPStack((68, 128, 2), generators)
    assert sum(p.numel() for p in stack.parameters()) == stack.n_parameters * stack.n_runs


def test_initial_weights_fill_the_range_of_their_layer():
    stack = MLPStack((400, 100, 2), make_generators(range(4), "cpu"))
    for weight, fan_in in zip(stack.weights, (400, 100), strict=True):
        assert weight.abs().max() <= fan_in**-0.5
        assert weight.std().item() == pytest.approx(fan_in**-0.5 / 3**0.5, rel=0.05)


@pytest.mark.parametrize(
    ("sizes", "seeds", "says"),
    [((4,), (0,), "at least two widths"), ((4, 0, 2), (0,), "at least 1"), ((4, 2), (), "one generator per run")],
)
def test_bad_shapes_are_refused(sizes, seeds, says):
    with pytest.raises(ValueError, match=says):
        MLPStack(sizes, make_generators(seeds, "cpu"))


@torch.no_grad()
@pytest.mark.parametrize("many_at_once", [False, True])  # as on a CPU, as on a GPU
@pytest.mark.parametrize("sizes", [(6, 8, 2), (6, 8, 7, 3), (6, 8, 7, 5, 2)])
def test_losses_without_neurons_are_those_of_zeroing(sizes, many_at_once, monkeypatch):
    monkeypatch.setattr("narrowlib.stacks.networks._takes_many", lambda device: many_at_once)
    monkeypatch.setattr("narrowlib.stacks.networks.CPU_BLOCK_BYTES", 4 * 8 * 7)  # 7 samples, few neurons at once
    stack = MLPStack(sizes, make_generators(range(2), "cpu"))
    stack.biases[0][0, 0, 3] = -100  # a neuron that is never active
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 50, 6, generator=generator)
    labels = torch.randint(sizes[-1], (2, 50), generator=generator)
    without = losses_without_neurons(stack, x, labels, cross_entropy)
    assert list(without) == [group.name for group in stack.units]
    for layer, losses in enumerate(without.values()):
        assert losses.shape == (2, sizes[layer + 1])
        for neuron in range(sizes[layer + 1]):
            zeroed = copy.deepcopy(stack)
            zeroed.weights[layer][:, :, neuron] = 0
            zeroed.biases[layer][:, :, neuron] = 0
            zeroed.weights[layer + 1][:, neuron] = 0
            torch.testing.assert_close(losses[:, neuron], cross_entropy(zeroed(x), labels)[0].mean(1))


def test_losses_without_neurons_names_wrong_shapes():
    stack = MLPStack((6, 8, 2), make_generators(range(2), "cpu"))
    with pytest.raises(ValueError, match=r"x has shape \(2, 0, 6\).* with at least one sample"):
        losses_without_neurons(stack, torch.ones(2, 0, 6), torch.ones(2, 0), cross_entropy)
    with pytest.raises(ValueError, match=r"x has shape \(1, 5, 6\).* must be \(2, n_samples, 6\)"):
        losses_without_neurons(stack, torch.ones(1, 5, 6), torch.ones(1, 5), cross_entropy)
