"""The nonlocality experiment: scores, sharing, pruning with recovery, and the measures taken from them."""

import numpy as np
import pandas as pd
import pytest
import torch

from narrowlib.experiments import nonlocality
from narrowlib.experiments.nonlocality import (
    OTHER,
    WANTED,
    NonlocalityConfig,
    kept_sparsity,
    neuron_scores,
    pruning_curves,
    regained,
    sharing,
    train_networks,
)

TINY = NonlocalityConfig(1, 6, n_seeds=2, batch_size=64, n_steps=400, learning_rate=1e-2, n_samples=200)
SHORT = {"recovery_steps": 60, "recovery_batch_size": 64, "recovery_learning_rate": 1e-2}
CONFIG = NonlocalityConfig(**{**vars(TINY), **SHORT})
SPARSITIES = [0.0, 0.5, 0.9]


@pytest.fixture(scope="module")
def networks():
    return train_networks(CONFIG, 16, device="cpu", progress=False)


@pytest.fixture(scope="module")
def curves(networks):
    return pruning_curves(networks, CONFIG, SPARSITIES, progress=False)


def test_defaults_are_the_papers():
    problem = NonlocalityConfig().problem
    assert (problem.n_subtasks, problem.subset_size, problem.n_task_bits) == (6, 3, 18)
    assert problem.task_names == ("{0}", "{1}", "{2}", "{3}", "{4}", "{5}", "{0,1,2}", "{3,4,5}")


def test_scores_are_those_of_zeroing_a_neuron(networks):
    """One neuron of one network, by hand."""
    scores = neuron_scores(networks, CONFIG)
    assert len(scores) == 2 * 2 * 16 * 8 and (scores["score"] >= 0).all()
    x, labels = nonlocality._held_out(CONFIG, WANTED, nonlocality.SCORE_SEED, range(2), torch.device("cpu"))
    without = nonlocality.copies(networks, range(2))
    with torch.no_grad():
        without.weights[0][1, :, 5] = without.biases[0][1, 0, 5] = without.weights[1][1, 5] = 0
        losses = [nonlocality.cross_entropy(each(x), labels)[0].mean(1)[1] for each in (networks, without)]
    found = scores.query("seed == 1 and layer == 'hidden 1' and neuron == 5 and task == '{0,1,2}'")["score"].item()
    assert found == pytest.approx(abs(losses[1] - losses[0]).item() / np.log(2), rel=1e-3, abs=1e-6)


def test_pruning_nothing_costs_nothing(networks, curves):
    whole = curves.query("sparsity == 0 and stage == 'pruned'")
    assert len(whole) == 4 and (whole["accuracy"] > 0.95).all()


def test_table_is_complete_and_recovery_helps(curves):
    assert not curves.duplicated(["width", "seed", "sparsity", "task", "stage"]).any()
    assert len(curves) == 2 * 3 * 2 * 2
    loss = curves.query("task == '{0,1,2}' and sparsity == 0.5").groupby("stage")["loss"].mean()
    assert loss["recovered"] < loss["pruned"]


def test_removed_units_stay_removed(networks, monkeypatch):
    """After recovery, as many hidden units as were removed still hold nothing but zeros."""
    ends = []
    train = nonlocality.train_stack

    def train_and_look(stack, *arguments, **named):
        train(stack, *arguments, **named)
        weights, biases = stack.weights, stack.biases
        for layer in (0, 1):
            owned = weights[layer].abs().sum(1) + biases[layer].abs()[:, 0] + weights[layer + 1].abs().sum(2)
            ends.append((owned == 0).sum(1))

    monkeypatch.setattr(nonlocality, "train_stack", train_and_look)
    pruning_curves(networks, CONFIG, [0.5], progress=False)
    for first, second in zip(ends[::2], ends[1::2], strict=True):
        assert (first + second).tolist() == [16, 16]  # half of 32


def test_networks_are_left_alone_and_chunks_do_not_matter(networks, curves, monkeypatch):
    before = [parameter.clone() for parameter in networks.parameters()]
    monkeypatch.setattr(nonlocality, "runs_per_chunk", lambda *_: 1)
    one_by_one = pruning_curves(networks, CONFIG, SPARSITIES, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, networks.parameters(), strict=True))
    keys = ["seed", "sparsity", "task", "stage"]
    both = curves.merge(one_by_one, on=keys, validate="one_to_one")
    assert len(both) == len(curves)
    np.testing.assert_allclose(both["loss_x"], both["loss_y"], rtol=1e-2, atol=1e-2)


def test_sharing_by_hand():
    rows = [("hidden 1", 0, 0.5, 0.0), ("hidden 1", 1, 0.5, 0.02), ("hidden 1", 2, 0.0, 0.0), ("hidden 1", 3, 0.3, 0.4)]
    scores = pd.DataFrame(
        [(0, layer, n, tree, score) for layer, n, a, b in rows for tree, score in (("A", a), ("B", b))],
        columns=["seed", "layer", "neuron", "tree", "score"],
    )
    table = sharing(scores, [0.01, 0.1, 1.0])
    assert table["n_matter"].tolist() == [3, 3, 0]
    np.testing.assert_allclose(table["share"], [2 / 3, 1 / 3, np.nan])


def made_up(accuracies, task=WANTED, stage="recovered"):
    sparsities = [0.1, 0.5, 0.9]
    return pd.DataFrame(
        {"width": 8, "seed": 0, "sparsity": sparsities, "task": nonlocality.task_name(task), "stage": stage}
        | {"accuracy": accuracies}
    )


@pytest.mark.parametrize(
    ("accuracies", "highest"),
    [([1.0, 0.98, 0.5], 0.5), ([1.0, 0.5, 1.0], 0.1), ([0.5, 1.0, 1.0], np.nan), ([1.0, 1.0, 1.0], 0.9)],
)
def test_kept_means_at_all_sparsities_below(accuracies, highest):
    (row,) = kept_sparsity(made_up(accuracies), stage="recovered").itertuples()
    np.testing.assert_equal(row.sparsity, highest)


@pytest.mark.parametrize(
    ("pruned", "recovered", "expected"),
    [
        ([1.0, 0.5, 0.5], [1.0, 0.95, 0.5], True),
        ([0.8, 0.5, 0.5], [1.0, 0.8, 0.5], False),  # where it was lost it did not come back
        ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5], False),
    ],
)
def test_regained_means_lost_and_back(pruned, recovered, expected):
    curves = pd.concat([made_up(pruned, OTHER, "pruned"), made_up(recovered, OTHER, "recovered")])
    assert regained(curves)["regained"].tolist() == [expected]


@pytest.mark.parametrize("sparsities", [[], [1.0], [-0.1], [0.5, float("nan")]])
def test_bad_sparsities_are_refused(networks, sparsities):
    with pytest.raises(ValueError, match="each must be at least 0 and below 1"):
        pruning_curves(networks, CONFIG, sparsities, progress=False)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"n_seeds": 0}, "n_seeds is 0"),
        ({"n_task_bits": 5}, "n_task_bits is 5"),
        ({"recovery_steps": 0}, "n_steps is 0"),
    ],
)
def test_bad_settings_are_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        NonlocalityConfig(**{**vars(CONFIG), **changes})
