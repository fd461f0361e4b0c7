"""The group lasso by hand, against autograd, and its proximal step against what makes it one."""

import pytest
import torch

from narrowlib.penalties import (
    exact_prox_group_lasso,
    group_lasso,
    group_lasso_gradients_,
    group_norms,
    prox_group_lasso,
)
from narrowlib.stacks.networks import MLPStack
from narrowlib.stacks.training import make_generators
from narrowlib.units import Slice, UnitGroup

ROWS = UnitGroup("rows", 2, (Slice("w", 0),))
N_RUNS = 3


@pytest.fixture
def stack():
    stack = MLPStack((5, 8, 6, 2), make_generators(range(N_RUNS), "cpu")).double()
    with torch.no_grad():  # a neuron that is gone
        stack.weights[0][0, :, 1], stack.biases[0][0, 0, 1], stack.weights[1][0, 1] = 0, 0, 0
    return stack


def test_penalty_by_hand(stack):
    w = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    assert group_norms([ROWS], {"w": w})["rows"].tolist() == [5, 2]
    assert group_lasso([ROWS], {"w": w}).item() == 7
    norms = group_norms(stack.units, dict(stack.named_parameters()))
    penalty = group_lasso(stack.units, dict(stack.named_parameters()))
    assert penalty.shape == (N_RUNS,) and norms["hidden 2"].shape == (N_RUNS, 6)
    torch.testing.assert_close(penalty, norms["hidden 1"].sum(1) + norms["hidden 2"].sum(1))
    assert norms["hidden 1"][0, 1] == 0


@pytest.mark.parametrize("strength", [0.3, torch.tensor([0.1, 0.2, 0.3], dtype=torch.double)])
def test_gradients_are_those_of_autograd(stack, strength):
    parameters = dict(stack.named_parameters())
    (strength * group_lasso(stack.units, parameters)).sum().backward()
    expected = {name: p.grad for name, p in parameters.items()}
    assert expected.pop("biases.2") is None  # the output's biases belong to no neuron
    for p in parameters.values():
        p.grad = torch.ones_like(p)
    parameters["weights.0"].grad = None
    group_lasso_gradients_(stack.units, parameters, strength)
    for name, gradient in expected.items():
        added = parameters[name].grad - int(name != "weights.0")
        torch.testing.assert_close(added, gradient)
        assert added.isfinite().all()
    assert (parameters["biases.2"].grad == 1).all()


@pytest.mark.parametrize("runs", [(), (2,)])
def test_gradients_where_a_parameter_stands_twice(runs):
    group = UnitGroup("residual", 4, [Slice("w", len(runs)), Slice("w", len(runs) + 2)], len(runs))
    w = torch.randn(*runs, 4, 3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (0.5 * group_lasso([group], {"w": w})).sum().backward()
    expected, w.grad = w.grad, None
    group_lasso_gradients_([group], {"w": w}, 0.5)
    torch.testing.assert_close(w.grad, expected)


@pytest.mark.parametrize("threshold", [0.0, 0.9])
def test_prox_of_one_group_meets_its_optimality_condition(stack, threshold):
    """theta - theta_0 + tau theta / norm = 0 where a unit stays, norm of theta_0 at most tau where it goes."""
    group = stack.units[0]
    start = {name: p.detach().clone() for name, p in stack.named_parameters()}
    moved = {name: values.clone() for name, values in start.items()}
    prox_group_lasso([group], moved, threshold)
    norms = {when: group_norms([group], tensors)["hidden 1"] for when, tensors in (("0", start), ("1", moved))}
    is_gone = norms["1"] == 0
    assert is_gone[0, 1] and (norms["0"][is_gone] <= threshold).all()
    assert threshold == 0 or 1 < is_gone.sum() < is_gone.numel()
    for name, axis in (("weights.0", 2), ("biases.0", 2), ("weights.1", 1)):
        values, before = moved[name].movedim(axis, 1), start[name].movedim(axis, 1)  # (runs, units, rest)
        direction = values / norms["1"].clamp(min=1e-30)[..., None]
        residual = values - before + threshold * direction
        assert residual[~is_gone].abs().max() < 1e-12
        assert (values[is_gone] == 0).all()
    assert torch.equal(moved["weights.2"], start["weights.2"])


def objective(stack, start, moved, threshold):
    distance = sum((moved[name] - start[name]).square().flatten(1).sum(1) for name in start)
    return distance / 2 + threshold * group_lasso(stack.units, moved)


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.3])
def test_exact_prox_is_the_minimum(stack, threshold):
    """theta - theta_0 + tau (sum of theta / norm over the units it is in) = 0 where all of them stay."""
    start = {name: p.detach().clone() for name, p in stack.named_parameters()}
    exact = exact_prox_group_lasso(stack.units, start, threshold)
    norms = group_norms(stack.units, exact)
    first, second = (norms[name][..., None] for name in ("hidden 1", "hidden 2"))  # (runs, units, 1)
    w = exact["weights.1"]
    stays = (first > 0) & (second > 0).mT
    assert stays.any()
    pull = w / first.clamp(min=1e-30) + w / second.clamp(min=1e-30).mT
    residual = w - start["weights.1"] + threshold * pull
    assert residual[stays].abs().max() < 1e-8
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        near = {
            name: values + 1e-3 * torch.randn(values.shape, generator=generator, dtype=torch.double)
            for name, values in exact.items()
        }
        assert (objective(stack, start, near, threshold) > objective(stack, start, exact, threshold)).all()


def test_exact_prox_of_one_group_is_the_block_threshold(stack):
    start = {name: p.detach().clone() for name, p in stack.named_parameters()}
    exact = exact_prox_group_lasso(stack.units[:1], start, 0.3)
    prox_group_lasso(stack.units[:1], start, 0.3)
    for name, values in start.items():
        torch.testing.assert_close(exact[name], values)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), torch.tensor([0.1, -0.1])])
def test_negative_pressure_is_refused(value):
    w = torch.ones(2, 2)
    with pytest.raises(ValueError, match=r"strength is .*at least 0"):
        group_lasso_gradients_([ROWS], {"w": w}, value)
    with pytest.raises(ValueError, match=r"threshold is .*at least 0"):
        prox_group_lasso([ROWS], {"w": w}, value)


def test_prox_where_a_parameter_stands_twice():
    group = UnitGroup("residual", 2, (Slice("w", 0), Slice("w", 1)))
    w = torch.tensor([[2.0, 1.0], [1.0, 0.0]])
    factors = 1 - 0.5 / torch.tensor([6**0.5, 2**0.5])
    expected = w * torch.tensor([[factors[0], factors.prod()], [factors.prod(), factors[1]]])
    prox_group_lasso([group], {"w": w}, 0.5)
    torch.testing.assert_close(w, expected)
