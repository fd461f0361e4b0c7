"""Masks by rank, models that come back bit for bit, and slices that compute what the masks do."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from narrowlib.pruning import ablated, apply_masks, count_removed, keep_masks, slice_state
from narrowlib.scores import random_scores
from narrowlib.stacks.networks import MLPStack
from narrowlib.stacks.training import make_generators
from narrowlib.units import Slice, UnitGroup

N_RUNS = 3


@pytest.fixture
def stack():
    return MLPStack((5, 8, 6, 2), make_generators(range(N_RUNS), "cpu"))


def masks_of(stack, sparsity, **options):
    return keep_masks(random_scores(stack.units, torch.Generator().manual_seed(0), stack.n_runs), sparsity, **options)


@given(st.integers(1, 5000), st.integers(0, 100))
def test_rounding_is_exact_for_every_percentage(n_units, percent):
    off = Fraction(percent * n_units, 100) - count_removed(n_units, percent / 100)
    assert Fraction(-1, 2) <= off < Fraction(1, 2)


def test_lowest_go_first_over_all_layers_or_in_each():
    scores = {"a": torch.tensor([5.0, 1.0, 4.0, 6.0]), "b": torch.tensor([2.0, 9.0, 8.0, 7.0])}
    together = keep_masks(scores, 0.375)
    assert together["a"].tolist() == [True, False, False, True]
    assert together["b"].tolist() == [False, True, True, True]
    each = keep_masks(scores, 0.5, scope="per_layer")
    assert each["a"].tolist() == [True, False, False, True]
    assert each["b"].tolist() == [False, True, True, False]


@given(st.integers(0, 7), st.integers(0, 5))
def test_counts_are_kept_as_they_are_asked_for(n_a, n_b):
    generator = torch.Generator().manual_seed(0)
    scores = {"a": torch.rand(2, 7, generator=generator), "b": torch.rand(2, 5, generator=generator)}
    together = keep_masks(scores, n_kept=n_a + n_b)
    assert sum(mask.sum(1) for mask in together.values()).tolist() == [n_a + n_b] * 2
    each = keep_masks(scores, n_kept={"a": n_a, "b": n_b})
    assert [mask.sum(1).tolist() for mask in each.values()] == [[n_a] * 2, [n_b] * 2]
    for name, mask in keep_masks(scores, n_kept=n_b, scope="per_layer").items():
        assert mask.sum(1).tolist() == [n_b] * 2
        assert (scores[name].where(mask, 0).sort(1).values == scores[name].sort(1).values).sum(1).ge(n_b).all()


@pytest.mark.parametrize("n_kept", [0, 1, 3, 4])
def test_any_number_is_kept_of_scores_that_are_tied_or_infinite(n_kept):
    for scores in (torch.zeros(4), torch.tensor([float("inf"), -float("inf"), float("inf"), 0.0])):
        (mask,) = keep_masks({"a": scores}, n_kept=n_kept).values()
        assert mask.sum() == n_kept
        assert n_kept in (0, 4) or scores[mask].min() >= scores[~mask].max()


def test_of_equal_scores_the_earlier_goes_first():
    masks = keep_masks({"a": torch.ones(300), "b": torch.tensor([0.0, 1.0])}, 100 / 302)
    assert not masks["a"][:99].any() and masks["a"][99:].all()
    assert masks["b"].tolist() == [False, True]
    signed = keep_masks({"a": torch.tensor([0.0, -0.0, 1.0])}, 1 / 3)
    assert signed["a"].tolist() == [False, True, True]


def test_every_run_ranks_its_own():
    scores = {"a": torch.tensor([[1.0, 2.0], [4.0, 3.0]]), "b": torch.tensor([[3.0, 4.0], [2.0, 1.0]])}
    masks = keep_masks(scores, 0.5)
    assert masks["a"].tolist() == [[False, False], [True, True]]
    alone = keep_masks({name: values[1] for name, values in scores.items()}, 0.5)
    assert all(torch.equal(alone[name], masks[name][1]) for name in scores)


@pytest.mark.parametrize(
    ("scores", "options", "says"),
    [
        ({"a": torch.tensor([1.0, float("nan")])}, {}, "'a' hold 1 NaN"),
        ({"a": [1.0, 2.0]}, {}, "'a' are \\[1.0, 2.0\\]; they must be a tensor with one number per unit"),
        ({"a": torch.tensor(1.0)}, {}, "'a' are .*; they must be a tensor"),
        ({"a": torch.tensor([1j])}, {}, "'a' are .*; they must be a tensor"),
        ({"a": torch.ones(2)}, {"n_kept": 1}, "exactly one of them"),
        ({"a": torch.ones(2)}, {"sparsity": None}, "exactly one of them"),
        ({"a": torch.ones(2)}, {"sparsity": None, "n_kept": 3}, "n_kept is 3; .* from 0 to 2"),
        ({"a": torch.ones(2)}, {"sparsity": None, "n_kept": {"b": 1}}, "must name the groups"),
    ],
)
def test_bad_scores_are_refused(scores, options, says):
    with pytest.raises(ValueError, match=says):
        keep_masks(scores, **{"sparsity": 0.5, **options})


def test_ablation_gives_every_bit_back(stack):
    with torch.no_grad():
        stack.weights[0][0, 0, 0] = -0.0
        stack.weights[1][0, 0, 0] = float("nan")
    before = {name: values.clone().view(torch.int32) for name, values in stack.state_dict().items()}
    masks = masks_of(stack, 0.5)
    with pytest.raises(KeyError), ablated(stack, stack.units, masks) as model:
        assert model is stack
        for layer, group in enumerate(stack.units):
            removed = ~masks[group.name]
            assert not stack.weights[layer].mT[removed].any() and not stack.biases[layer][:, 0][removed].any()
            assert not stack.weights[layer + 1][removed].any()  # a NaN goes, too
        raise KeyError
    assert all(torch.equal(before[name], values.view(torch.int32)) for name, values in stack.state_dict().items())


def test_masks_hold_gradients_and_parameters_of_removed_units(stack):
    masks = masks_of(stack, 0.5)
    parameters = dict(stack.named_parameters())
    apply_masks(stack.units, parameters, masks)
    optimiser = torch.optim.Adam(stack.parameters())
    stack(torch.randn(N_RUNS, 10, 5, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    apply_masks(stack.units, {name: p.grad for name, p in parameters.items()}, masks)
    optimiser.step()
    after = {name: p.detach().clone() for name, p in parameters.items()}
    apply_masks(stack.units, parameters, masks)
    assert all(torch.equal(after[name], p) for name, p in parameters.items())


@torch.no_grad()
@pytest.mark.parametrize("sparsity", [0, 0.3, 0.6])
def test_masked_equals_sliced(stack, sparsity):
    masks = masks_of(stack, sparsity, scope="per_layer")
    kept = [int(masks[group.name][0].sum()) for group in stack.units]
    before = {name: values.clone() for name, values in stack.state_dict().items()}
    small = MLPStack((5, *kept, 2), make_generators(range(N_RUNS), "cpu"))
    small.load_state_dict(slice_state(stack.state_dict(), stack.units, masks))
    x = torch.randn(N_RUNS, 40, 5, generator=torch.Generator().manual_seed(0))
    with ablated(stack, stack.units, masks):
        torch.testing.assert_close(small(x), stack(x))
    assert all(torch.equal(before[name], values) for name, values in stack.state_dict().items())
    if sparsity:
        assert not torch.equal(masks["hidden 1"][0], masks["hidden 1"][1])  # the runs keep different neurons


def test_runs_that_keep_different_numbers_are_not_sliced(stack):
    masks = {group.name: torch.ones(N_RUNS, group.n_units, dtype=torch.bool) for group in stack.units}
    masks["hidden 2"][1, 0] = False
    with pytest.raises(ValueError, match=r"the runs keep \[6, 5, 6\] units of 'hidden 2'.* equally many"):
        slice_state(stack.state_dict(), stack.units, masks)


def test_masks_that_do_not_fit_are_refused(stack):
    parameters, masks = dict(stack.named_parameters()), masks_of(stack, 0.5)
    with pytest.raises(ValueError, match="they must be of"):
        apply_masks(stack.units[:1], parameters, masks)
    with pytest.raises(ValueError, match=r"must be bool of \(3, 8\)"):
        apply_masks(stack.units, parameters, masks | {"hidden 1": masks["hidden 1"][0]})
    with pytest.raises(ValueError, match="must be bool"):
        apply_masks(stack.units, parameters, masks | {"hidden 1": masks["hidden 1"].float()})


@pytest.mark.parametrize("runs", [(), (2,)])
def test_blocks_are_masked_and_cut_out_whole(runs):
    generator = torch.Generator().manual_seed(0)
    n = len(runs)
    group = UnitGroup("heads", 3, (Slice("query", n, 4), Slice("output", n + 1, 4)), n)
    state = {"query": torch.randn(*runs, 12, 5, generator=generator), "output": torch.randn(*runs, 6, 12)}
    keep = torch.tensor([True, False, True]).expand(*runs, 3)
    rows = [0, 1, 2, 3, 8, 9, 10, 11]
    cut = slice_state(state, [group], {"heads": keep})
    assert torch.equal(cut["query"], state["query"][..., rows, :])
    assert torch.equal(cut["output"], state["output"][..., rows])
    apply_masks([group], state, {"heads": keep})
    assert not state["query"][..., 4:8, :].any() and not state["output"][..., 4:8].any()
    assert state["query"][..., rows, :].all() and state["output"][..., rows].all()
