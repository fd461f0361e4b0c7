"""The group lasso experiment: what it trains, what it leaves alone, and its tables."""

import numpy as np
import pytest
import torch

from narrowlib.experiments.group_lasso import GroupLassoConfig, regularise, strength_sweep
from narrowlib.experiments.nonlocality import NonlocalityConfig, train_networks
from narrowlib.penalties import group_norms

CONFIG = NonlocalityConfig(
    1, 6, n_seeds=2, batch_size=64, n_steps=400, learning_rate=1e-2, n_samples=200, recovery_steps=20
)
LASSO = GroupLassoConfig(strength=1e-2, n_steps=300, batch_size=64, learning_rate=3e-3)


@pytest.fixture(scope="module")
def networks():
    return train_networks(CONFIG, 16, device="cpu", progress=False)


def norms_of(stack):
    return group_norms(stack.units, dict(stack.named_parameters()))


def test_defaults_are_the_papers():
    lasso = GroupLassoConfig()
    assert (lasso.strength, lasso.n_steps, lasso.learning_rate) == (1e-3, 10_000, 1e-3)


def test_penalty_shrinks_neurons_and_leaves_the_start_alone(networks):
    before = [parameter.clone() for parameter in networks.parameters()]
    regularised, norms = regularise(networks, CONFIG, LASSO, progress=False)
    free, _ = regularise(networks, CONFIG, LASSO, strengths=[0.0, 0.0], progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, networks.parameters(), strict=True))
    for layer, values in norms_of(regularised).items():
        assert (values < 0.05).sum() > (norms_of(free)[layer] < 0.05).sum()
        recorded = norms.query("layer == @layer and step == 300").sort_values(["seed", "neuron"])["norm"]
        np.testing.assert_allclose(recorded, values.detach().flatten(), rtol=1e-5)
    assert norms["step"].min() == 0 and norms["step"].nunique() == 51


def test_each_network_has_its_own_strength(networks):
    mixed, _ = regularise(networks, CONFIG, LASSO, strengths=[0.0, 1e-2], progress=False)
    same, _ = regularise(networks, CONFIG, LASSO, strengths=[1e-2, 1e-2], progress=False)
    torch.testing.assert_close(mixed.weights[0][1], same.weights[0][1])
    assert not torch.allclose(mixed.weights[0][0], same.weights[0][0])
    with pytest.raises(ValueError, match="strengths holds 1 values; there are 2 networks"):
        regularise(networks, CONFIG, LASSO, strengths=[0.1], progress=False)


def test_sweep_has_a_row_per_strength_and_network(networks):
    sweep = strength_sweep(networks, CONFIG, LASSO, [0.0, 10.0], [0.5], progress=False)
    assert sweep[["strength", "seed"]].to_numpy().tolist() == [[0, 0], [0, 1], [10, 0], [10, 1]]
    too_strong = sweep[sweep["strength"] == 10.0]
    assert (sweep.query("strength == 0")["wanted"] > 0.9).all()
    assert (too_strong["wanted"] < 0.7).all() and too_strong["sparsity"].isna().all()  # nothing is left to keep


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"strength": -1.0}, "strength is -1.0"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"n_steps": 0}, "n_steps is 0"),
    ],
)
def test_bad_settings_are_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        GroupLassoConfig(**changes)
