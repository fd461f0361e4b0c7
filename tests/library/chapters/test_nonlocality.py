"""The nonlocality experiment: scores, sharing, pruning with recovery, and the measures taken from them."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from narrowlib.chapters.two_trees import curves as recovery
from narrowlib.chapters.two_trees import networks as two_trees
from narrowlib.chapters.two_trees import nonlocality
from narrowlib.chapters.two_trees.attribution import agreement, neuron_attributions, paired
from narrowlib.chapters.two_trees.config import OTHER, RECORDED_SPARSITIES, WANTED, NonlocalityConfig, spaced_widths
from narrowlib.chapters.two_trees.curves import cut_out, kept_sparsity, learned, pruning_curves
from narrowlib.chapters.two_trees.networks import SCORE_SEED, copies, held_out, train_networks
from narrowlib.chapters.two_trees.nonlocality import (
    limits_of,
    neuron_scores,
    predicted_said,
    predictors,
    pruning_outcome,
    recovery_by_sharing,
    sharing,
    tables,
)
from narrowlib.cmsp import task_name
from narrowlib.pruning import ablated, keep_masks
from narrowlib.scores import random_scores
from narrowlib.stacks.gradients import cross_entropy
from narrowlib.units import unit_norms

TINY = {"subset_size": 1, "n_task_bits": 6, "n_seeds": 2}
TRAINED = {**TINY, "batch_size": 64, "n_steps": 400, "learning_rate": 1e-2, "n_samples": 200}
CONFIG = NonlocalityConfig(**TRAINED, recovery_steps=60, recovery_batch_size=64, recovery_learning_rate=1e-2)
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
    assert RECORDED_SPARSITIES[:2] == (0.0, 0.01) and RECORDED_SPARSITIES[-1] == 0.98 and len(RECORDED_SPARSITIES) == 99
    assert nonlocality.Config().widths == [32, 64, 128, 256, 512, 1024, 2048] and spaced_widths(8, 8, 3) == [8]
    assert problem.task_names == ("{0}", "{1}", "{2}", "{3}", "{4}", "{5}", "{0,1,2}", "{3,4,5}")


def test_scores_are_those_of_zeroing_a_neuron(networks):
    """One neuron of one network, by hand."""
    scores = neuron_scores(networks, CONFIG)
    assert len(scores) == 2 * 2 * 16 * 8 and (scores["score"] >= 0).all()
    x, labels = held_out(CONFIG, WANTED, SCORE_SEED, range(2), torch.device("cpu"))
    without = copies(networks, range(2))
    with torch.no_grad():
        without.weights[0][1, :, 5] = without.biases[0][1, 0, 5] = without.weights[1][1, 5] = 0
        losses = [cross_entropy(each(x), labels)[0].mean(1)[1] for each in (networks, without)]
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


@pytest.fixture
def masks(networks):
    """The two networks keep different numbers of units in each layer."""
    scores = random_scores(networks.units, torch.Generator().manual_seed(0), networks.n_runs)
    scores["hidden 1"][0] += 1
    return keep_masks(scores, 0.6)


def test_networks_that_are_cut_out_compute_the_same(networks, masks):
    assert masks["hidden 1"].sum(1).unique().numel() > 1
    small = cut_out(networks, [0, 1], masks)
    x = torch.rand(2, 50, networks.sizes[0], generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), ablated(networks, networks.units, masks):
        torch.testing.assert_close(small(x), networks(x))
    assert small.sizes[1:3] == tuple(mask.sum(1).max() for mask in masks.values())


def test_units_that_fill_up_stay_zero_under_training(networks, masks):
    small = cut_out(networks, [0, 1], masks)
    is_filled = {group.name: unit_norms(group, dict(small.named_parameters())) == 0 for group in small.units}
    assert all(is_filled[name].any() for name in masks)  # else there is nothing to see
    before = small.weights[1].clone()
    generators = recovery.make_generators([0, 1], "cpu")
    draw = two_trees.sampler(CONFIG, CONFIG.problem.only(OTHER), 64, torch.device("cpu"))
    recovery.train_stack(small, draw, generators, CONFIG.recovery, progress=False)
    assert not torch.equal(small.weights[1], before)
    for group in small.units:
        norms = unit_norms(group, dict(small.named_parameters()))
        assert torch.equal(norms == 0, is_filled[group.name])


def test_a_layer_may_lose_all_its_units(networks):
    masks = {"hidden 1": torch.zeros(2, 16, dtype=torch.bool), "hidden 2": torch.ones(2, 16, dtype=torch.bool)}
    assert cut_out(networks, [0, 1], masks).sizes == (networks.sizes[0], 1, 16, 2)


def test_networks_of_like_size_train_together(monkeypatch):
    """Sparsities as in the chapter: no network is padded by more than a third, narrow ones are all together."""
    sparsities = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
    scores = {name: torch.rand(3, 128, generator=torch.Generator().manual_seed(0)) for name in ("a", "b")}
    masks = [keep_masks(scores, sparsity) for sparsity in sparsities]
    parts = list(recovery._of_like_size((24, 128, 128, 2), masks, range(10)))
    assert [number for numbers, _ in parts for number in numbers] == list(range(10))
    assert len(parts) < 8
    for numbers, sizes in parts:
        for number in numbers:
            kept = sum(int(mask.sum(1).max()) for mask in masks[number].values())
            assert sum(sizes[1:3]) <= max(recovery.NARROW, recovery.PADDING * kept)


def test_without_recovery_networks_are_only_cut(networks, curves):
    cut = pruning_curves(networks, CONFIG, SPARSITIES, recover=[], progress=False)
    assert set(cut["stage"]) == {"pruned"}
    both = cut.merge(curves, on=["width", "seed", "sparsity", "task", "stage"], validate="one_to_one")
    assert len(both) == len(cut) and (both["loss_x"] == both["loss_y"]).all()
    one = pruning_curves(networks, CONFIG, SPARSITIES, recover=[OTHER], progress=False)
    assert set(one.query("stage == 'recovered'")["task"]) == {"{3,4,5}"}


def test_networks_are_left_alone_and_chunks_do_not_matter(networks, curves, monkeypatch):
    before = [parameter.clone() for parameter in networks.parameters()]
    monkeypatch.setattr(recovery, "runs_per_chunk", lambda *_: 1)
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


@pytest.mark.parametrize(
    ("accuracies", "highest"),
    [([1.0, 0.98, 0.5], 0.5), ([1.0, 0.5, 1.0], 0.1), ([0.5, 1.0, 1.0], np.nan), ([1.0, 1.0, 1.0], 0.9)],
)
def test_kept_means_at_all_sparsities_below(accuracies, highest):
    about = {"width": 8, "seed": 0, "sparsity": [0.1, 0.5, 0.9], "task": task_name(WANTED), "stage": "recovered"}
    (row,) = kept_sparsity(pd.DataFrame(about | {"accuracy": accuracies}), stage="recovered").itertuples()
    np.testing.assert_equal(row.sparsity, highest)


def test_outcome_is_of_networks_that_had_the_skill():
    """Three networks: one keeps the wanted composite, one never had it, one never had the other."""
    rows = []
    for width, seed, wanted, other in ((8, 0, 1.0, 1.0), (8, 1, 0.6, 1.0), (16, 0, 1.0, 0.6)):
        for sparsity in (0.0, 0.5):
            for task, whole in ((WANTED, wanted), (OTHER, other)):
                for stage in ("pruned", "recovered"):
                    lost = task == OTHER and stage == "pruned" and sparsity
                    rows.append((width, seed, sparsity, task_name(task), stage, 0.5 if lost else whole))
    columns = ["width", "seed", "sparsity", "task", "stage", "accuracy"]
    curves = pd.DataFrame(rows, columns=columns)
    assert learned(curves)[["learned_wanted", "learned_other"]].to_numpy().tolist() == [
        [True, True],
        [False, True],
        [True, False],
    ]
    found = pruning_outcome(curves, {8: 0.25, 32: 1.0})
    values = {name: each.value for name, each in found.items()}
    assert values == {"kept_less_paper": 0.25, "wider_keeps_more": 0, "regained_at_limit": 1, "recovery_area": 1}
    assert math.isnan(pruning_outcome(curves, {32: 1.0})["kept_less_paper"].value)  # no width is the paper's
    with pytest.raises(ValueError, match=r"begin at a sparsity of 0\.5; they must begin at 0"):
        pruning_outcome(curves[curves["sparsity"] > 0], {})


def test_the_limit_is_the_networks_own():
    """The wanted composite is kept down to 0.2; what the other comes back to beyond that does not count."""
    cuts = (0.0, 0.1, 0.2, 0.3, 0.4)
    values = {(WANTED, "recovered"): (1, 1, 1, 0.9, 1), (OTHER, "recovered"): (1, 0.9, 0.8, 0.5, 1)}
    values |= {(task, "pruned"): (1, 0.5, 0.5, 0.5, 0.5) for task in (WANTED, OTHER)}
    rows = [
        (8, 0, cut, task_name(task), stage, accuracy)
        for (task, stage), accuracies in values.items()
        for cut, accuracy in zip(cuts, accuracies, strict=True)
    ]
    curves = pd.DataFrame(rows, columns=["width", "seed", "sparsity", "task", "stage", "accuracy"])
    limit = limits_of(curves).iloc[0]
    assert (limit["sparsity"], limit["other"]) == (0.2, 0.8) and limit["area"] == pytest.approx(0.8)


def shared_and_regained(effect):
    """Networks of two widths; the more neurons one shares, the more of the other composite comes back, or by chance."""
    rng, curves, scores = np.random.default_rng(0), [], []
    for width in (16, 32):
        for seed in range(8):
            n_shared = int(rng.integers(1, 10))
            back = n_shared / 10 if effect else rng.random()
            for cut in (0.0, 0.1, 0.2, 0.3):
                after = {WANTED: 1.0, OTHER: 1.0 if cut == 0 else 0.5 + back * (0.5 - cut)}
                for task, accuracy in after.items():
                    whole = 1.0 if cut == 0 else 0.5
                    curves += [(width, seed, cut, task_name(task), stage, value)
                               for stage, value in (("pruned", whole), ("recovered", accuracy))]  # fmt: skip
            for neuron in range(10):
                scores += [(width, seed, "hidden 1", neuron, "A", 1.0)]
                scores += [(width, seed, "hidden 1", neuron, "B", float(neuron < n_shared))]
    return (
        pd.DataFrame(curves, columns=["width", "seed", "sparsity", "task", "stage", "accuracy"]),
        pd.DataFrame(scores, columns=["width", "seed", "layer", "neuron", "tree", "score"]),
    )


def test_sharing_predicts_recovery_where_it_does():
    with_effect, without = (recovery_by_sharing(*shared_and_regained(effect)) for effect in (True, False))
    assert len(with_effect) == 16 and with_effect["with_depth"].tolist() == pytest.approx([-1] * 16)
    assert predictors(with_effect)["sharing"].low > 0.9
    found = predictors(without)["sharing"]
    assert found.low < 0 < found.high
    sharing_said, depth_said = predicted_said(without).split("\n")
    assert "undecided" in sharing_said and "the larger it is, the less comes back" in depth_said
    assert "the larger it is, the more comes back" in predicted_said(with_effect)


def test_attribution_is_that_of_a_finite_difference(networks):
    """Signed: twice the slope of the loss in a factor on the neuron's activation, here on its outgoing weights."""
    found = neuron_attributions(networks, CONFIG).query("task == '{0,1,2}' and seed == 0 and variant == 'signed'")
    x, labels = held_out(CONFIG, WANTED, SCORE_SEED, range(2), torch.device("cpu"))
    for neuron in (0, 3, 9):
        losses = []
        for factor in (0.999, 1.001):
            scaled = copies(networks, [0, 1]).double()
            with torch.no_grad():
                scaled.weights[1][0, neuron] *= factor
                logits = scaled(x.double())
            losses.append(torch.nn.functional.cross_entropy(logits[0], labels[0].long()).item())
        slope = (losses[1] - losses[0]) / 0.002 / np.log(2)
        score = found.query("layer == 'hidden 1' and neuron == @neuron")["score"].item()
        assert score == pytest.approx(2 * abs(slope), rel=1e-2, abs=1e-7)


def test_agreement_by_hand():
    about = {"seed": 0, "layer": "hidden 1", "neuron": range(4), "task": "{0}"}
    scores = pd.DataFrame({**about, "score": [0.0, 1.0, 10.0, 100.0]})
    attributions = pd.DataFrame({**about, "score": [5.0, 1.0, 100.0, 10_000.0], "variant": "signed"})
    (row,) = agreement(scores, attributions).itertuples()
    assert (row.n_neurons, row.n_positive) == (4, 3)
    assert row.pearson_log == pytest.approx(1)  # a power law
    assert row.spearman == pytest.approx(0.8)  # ranks 1 2 3 4 and 2 1 3 4
    assert row.pearson == pytest.approx(np.corrcoef(scores["score"], attributions["score"])[0, 1])
    assert paired(scores, attributions)["attribution"].tolist() == attributions["score"].tolist()


def test_agreement_has_a_row_per_network_task_and_variant(networks):
    scores, attributions = neuron_scores(networks, CONFIG), neuron_attributions(networks, CONFIG)
    table = agreement(scores.assign(width=16), attributions.assign(width=16))
    assert not table.duplicated(["width", "seed", "task", "variant"]).any() and len(table) == 2 * 8 * 3
    assert (table["n_neurons"] == 32).all()


QUICK = nonlocality.Config(
    **TINY,
    batch_size=8,
    n_steps=3,
    n_samples=20,
    recovery_steps=3,
    narrow_width=4,
    wide_width=6,
    n_widths=2,
    device="cpu",
)
TABLES = {"sparsities": (0.0, 0.5), "progress": False}


def test_tables_hold_every_width_and_seed():
    found = tables(QUICK, **TABLES)
    assert set(found) == {"curves", "shares", "agreement"}  # no neuron of a width that is not among the recorded ones
    for table in found.values():
        assert table.groupby("width")["seed"].nunique().to_dict() == {4: 2, 6: 2}
    assert len(found["curves"]) == 2 * 2 * 2 * 2 * 2
    assert "scores" in tables(QUICK.replace(narrow_width=32, wide_width=32), **TABLES)


@pytest.mark.parametrize("sparsities", [[], [1.0], [-0.1], [0.5, float("nan")]])
def test_bad_sparsities_are_refused(networks, sparsities):
    with pytest.raises(ValueError, match="each must be at least 0 and below 1"):
        pruning_curves(networks, CONFIG, sparsities, progress=False)
