"""The group lasso experiment: what it trains, what it leaves alone, and its tables."""

import numpy as np
import pandas as pd
import pytest
import torch
from plain_networks import noted_trainings

from narrowlib.chapters.two_trees import config, group_lasso, lasso_training, nonlocality
from narrowlib.chapters.two_trees import curves as recovery
from narrowlib.chapters.two_trees import networks as two_trees
from narrowlib.chapters.two_trees.config import METHODS, OTHER, WANTED, GroupLassoConfig, NonlocalityConfig
from narrowlib.chapters.two_trees.group_lasso import (
    STATES,
    lasso_outcome,
    network_edges,
    prox_gap,
    regained_said,
    strength_sweep,
    tables,
)
from narrowlib.chapters.two_trees.lasso_training import regularise, regularised_after
from narrowlib.chapters.two_trees.networks import ablation, train_networks
from narrowlib.cmsp import task_name
from narrowlib.penalties import group_norms
from narrowlib.pruning import ablated, keep_masks

TINY = {"subset_size": 1, "n_task_bits": 6, "n_seeds": 2}
CONFIG = NonlocalityConfig(**TINY, batch_size=64, n_steps=400, learning_rate=1e-2, n_samples=200, recovery_steps=20)
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


def test_norms_are_those_of_the_step_they_name(networks, monkeypatch):
    """Every 10 of 25 steps: the log is written at every step, and the rest after the last interval is dropped."""
    monkeypatch.setattr(config, "N_NORMS", 2)
    ends = {
        steps: norms_of(regularise(networks, CONFIG, LASSO.replace(n_steps=steps), progress=False)[0])
        for steps in (12, 24)
    }
    _, norms = regularise(networks, CONFIG, LASSO.replace(n_steps=25), progress=False)
    assert norms["step"].unique().tolist() == [0, 12, 24]
    for step, layers in ends.items():
        for layer, values in layers.items():
            found = norms[(norms["layer"] == layer) & (norms["step"] == step)].sort_values(["seed", "neuron"])["norm"]
            np.testing.assert_allclose(found, values.detach().flatten(), rtol=1e-4)


def test_readings_of_one_training_are_trainings_of_so_many_steps(networks):
    given = [0.0, 1e-2]
    after = regularised_after(networks, CONFIG, LASSO, [5, 12], strengths=given, progress=False)
    for steps, found in zip((5, 12), after, strict=True):
        alone, _ = regularise(networks, CONFIG, LASSO.replace(n_steps=steps), strengths=given, progress=False)
        for a, b in zip(found.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(a, b)


def test_proximal_method_makes_exact_zeros(networks):
    """By its own steps: Adam on the loss, then the threshold; a strength of zero is training alone."""
    proximal = LASSO.replace(method="proximal", n_steps=200)
    free, _ = regularise(networks, CONFIG, proximal, strengths=[0.0, 0.0], progress=False)
    plain, _ = regularise(networks, CONFIG, LASSO.replace(n_steps=200), strengths=[0.0, 0.0], progress=False)
    for a, b in zip(free.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)
    shrunk, _ = regularise(networks, CONFIG, proximal, strengths=[3.0, 100.0], progress=False)
    zeros = sum((norms == 0).sum(1) for norms in norms_of(shrunk).values())
    assert 0 < zeros[0] < 32 and zeros[1] == 32


def test_sweep_has_a_row_per_strength_and_network(networks):
    sweep, curves = strength_sweep(networks, CONFIG, LASSO, [0.0, 10.0], [0.5], progress=False)
    assert sweep[["strength", "seed"]].to_numpy().tolist() == [[0, 0], [0, 1], [10, 0], [10, 1]]
    too_strong = sweep[sweep["strength"] == 10.0]
    assert (sweep.query("strength == 0")["wanted"] > 0.9).all()
    assert (too_strong["wanted"] < 0.7).all() and (too_strong["sparsity"] == 0).all()  # nothing is left to keep
    assert (sweep["zeros"] == 0).all() and (sweep["method"] == "subgradient").all()
    keys = ["strength", "seed"]
    wanted = curves.query("sparsity == 0 and task == @task_name(@WANTED)").set_index(keys)["accuracy"]
    assert wanted.to_dict() == sweep.set_index(keys)["wanted"].to_dict()
    regained = curves.query("stage == 'recovered'").groupby(keys)["accuracy"].max()
    assert regained.to_dict() == sweep.set_index(keys)["regained"].to_dict()
    proximal = LASSO.replace(method="proximal", n_steps=20)
    zeros = strength_sweep(networks, CONFIG, proximal, [0.0, 1e3], [0.5], progress=False).networks["zeros"]
    assert zeros.tolist() == [0, 0, 1, 1]


def test_gap_of_the_sweep_falls_with_the_threshold(networks):
    gaps = prox_gap(networks, [1e-2, 1e-1]).set_index(["threshold", "run"])
    assert (gaps > 0).all(axis=None) and (gaps < 0.1).all(axis=None)
    small, large = gaps.loc[1e-2], gaps.loc[1e-1]
    assert (small["distance"] < large["distance"] / 5).all()  # first order
    assert (small["excess"] < large["excess"] / 25).all()  # second order


def test_edges_are_the_pruned_network(networks):
    """The drawing's table, put together again, computes what the pruned network does."""
    edges = network_edges(networks, CONFIG, 1, 0.5)
    masks = keep_masks(ablation(networks, CONFIG, WANTED), 0.5)
    kept = [int(mask[1].sum()) for mask in masks.values()]
    shapes = edges.groupby("layer")[["source", "target"]].nunique()
    assert shapes.to_numpy().tolist() == [[12, kept[0]], kept, [kept[1], 2]]
    owners = edges[edges["layer"] == 0].drop_duplicates("source")["group"].tolist()
    assert owners == ["control"] * 6 + ["{0}", "{1}", "{2}", "{3}", "{4}", "{5}"]
    matrices = [frame.pivot(index="source", columns="target", values="weight") for _, frame in edges.groupby("layer")]
    first, second = (networks.biases[layer][1, 0][mask[1]] for layer, mask in enumerate(masks.values()))
    x = torch.rand(2, 30, 12, generator=torch.Generator().manual_seed(0))
    w = [torch.tensor(matrix.to_numpy()) for matrix in matrices]
    with torch.no_grad(), ablated(networks, networks.units, masks):
        by_hand = ((x[1] @ w[0] + first).relu() @ w[1] + second).relu() @ w[2] + networks.biases[2][1]
        torch.testing.assert_close(by_hand, networks(x)[1])


def made_up_curves(accuracies):
    """Accuracy right after pruning on the wanted composite, and recovered on the other, by state and sparsity."""
    rows = []
    for state, (wanted, other) in zip(STATES, accuracies, strict=True):
        for task, stage, values in ((WANTED, "pruned", wanted), (OTHER, "recovered", other)):
            for sparsity, accuracy in zip((0.1, 0.5, 0.9), values, strict=True):
                rows.append((8, 0, sparsity, task_name(task), stage, accuracy, state))
    return pd.DataFrame(rows, columns=["width", "seed", "sparsity", "task", "stage", "accuracy", "state"])


def test_outcome_by_hand():
    curves = made_up_curves([([0.9, 0.5, 0.5], [1.0, 1.0, 0.5]), ([1.0, 1.0, 0.98], [0.5, 0.56, 0.5])])
    found = lasso_outcome(curves)
    assert {name: each.value for name, each in found["G1"].items()} == {"lasso_kept_sparsity": 0.9, "lasso_gain": 0.9}
    assert found["G2"]["other_accuracy"].value == 0.56
    assert regained_said(curves).endswith("in 0 of 1 networks; in 1 it comes back, to 0.56.")
    assert regained_said(curves.assign(accuracy=0.5)).endswith("in 1 of 1 networks.")


PAGE = {**TINY, "batch_size": 8, "n_steps": 3, "n_samples": 20, "recovery_steps": 3, "device": "cpu"}
PAGE |= {"narrow_width": 4, "wide_width": 6, "n_widths": 2}
LASSO_OF_PAGE = {"lasso_strength": 1e-2, "lasso_steps": 4, "lasso_batch_size": 8, "n_swept": 1, "width": 6}
SMALL = group_lasso.Config(**PAGE, **LASSO_OF_PAGE)
TABLES = {"sparsities": (0.5,), "progress": False}


@pytest.fixture(scope="module")
def recorded():
    return tables(SMALL, **TABLES)


def test_tables_hold_both_states_of_every_network(recorded):
    assert set(recorded) == {"curves", "sweep", "gaps", "edges"}
    curves = recorded["curves"]
    assert len(curves) == 2 * 2 * 2 * 2 * 2 and set(curves["state"]) == set(STATES)
    assert set(recorded["sweep"]["method"]) == set(METHODS)
    assert set(recorded["edges"]["state"]) == set(STATES) and recorded["edges"]["sparsity"].isin([0, 0.5]).all()


def test_one_network_is_drawn_however_the_seeds_are_shared_out(monkeypatch, recorded):
    one_by_one = [SMALL.experiment.replace(first_seed=seed, n_seeds=1) for seed in range(2)]
    monkeypatch.setattr(group_lasso, "pieces", lambda *_: one_by_one)
    found = tables(SMALL.replace(narrow_width=6), **TABLES)
    assert set(found["curves"]["seed"]) == set(found["sweep"]["seed"]) == {0, 1}
    keys = ["state", "layer", "source", "target"]
    assert not found["edges"].duplicated(keys).any() and len(found["edges"]) == len(recorded["edges"])


def test_networks_and_their_curves_are_shared_with_nonlocality(tmp_path, monkeypatch):
    page = nonlocality.Config(**PAGE, checkpoints=str(tmp_path))
    nonlocality.tables(page, **TABLES)
    trained = noted_trainings(monkeypatch, lasso_training, recovery, two_trees)
    tables(SMALL.replace(checkpoints=str(tmp_path), n_seeds=2), **TABLES)
    assert trained and not any(description.startswith("train") for description in trained)
