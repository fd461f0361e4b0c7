"""What belongs to a unit is summed once, and a group that does not fit is refused in a sentence."""

import pytest
import torch

from narrowlib.units import Slice, UnitGroup, check, spread, unit_norms, unit_sums

IN_OUT = (Slice("up", 0), Slice("down", 1))


@pytest.mark.parametrize("runs", [(), (2,)])
def test_values_of_units_are_spread_along_their_blocks(runs):
    """Three heads of size 4, in the columns of a tensor; fuzzing compares sums with what belongs to each unit."""
    n = len(runs)
    group = UnitGroup("heads", 3, (Slice("output", n + 1, 4),), n)
    along = spread(group, torch.arange(3.0).expand(*runs, 3), torch.ones(*runs, 6, 12), n + 1)
    assert along.shape == (*runs, 1, 12)
    assert along.flatten()[:12].tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_half_precision_is_summed_in_full():
    group = UnitGroup("neurons", 1, (Slice("w", 0),))
    ones = torch.ones(1, 4099, dtype=torch.bfloat16)
    assert unit_sums(group, {"w": ones}).item() == 4099
    assert unit_norms(group, {"w": ones}).item() == pytest.approx(4099**0.5)


def test_norm_has_gradient_zero_at_zero():
    w = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    norms = unit_norms(UnitGroup("rows", 2, (Slice("w", 0),)), {"w": w})
    norms.sum().backward()
    assert norms.tolist() == [0, 5]
    torch.testing.assert_close(w.grad, torch.tensor([[0.0, 0.0], [0.6, 0.8]]))


@pytest.mark.parametrize(
    ("slices", "n_run_axes", "shapes", "says"),
    [
        (IN_OUT, 0, {"up": (3, 5)}, "names down, which is not among the tensors"),
        (IN_OUT, 0, {"up": (3, 5), "down": (3, 4)}, r"\(3, 4\); .* needs 3 units along its axis 1"),
        (IN_OUT, 0, {"up": (3, 5), "down": (3,)}, "along its axis 1"),
        ((Slice("a", 1), Slice("b", 1)), 1, {"a": (2, 3), "b": (1, 3)}, "differ in their number of runs"),
        ((Slice("w", 0, 4),), 0, {"w": (11,)}, "needs 3 units of 4 each along its axis 0"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(slices, n_run_axes, shapes, says):
    with pytest.raises(ValueError, match=says):
        check(UnitGroup("g", 3, slices, n_run_axes), {name: torch.ones(shape) for name, shape in shapes.items()})
