"""The MNIST comparison on drawn digits: grids, counts, what is kept, and the tables that decide the claims."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from narrowlib.chapters.mnist import experiment as mnist
from narrowlib.chapters.mnist.config import (
    EVEN,
    LassoConfig,
    MethodConfig,
    MnistConfig,
    TeacherConfig,
    even_goal,
    numbers,
)
from narrowlib.chapters.mnist.experiment import Comparison, compare
from narrowlib.chapters.mnist.lasso import padded, prune_while_training
from narrowlib.chapters.mnist.methods import attribution, prune_by_attribution, train_teacher
from narrowlib.chapters.mnist.outcomes import (
    best_networks,
    best_settings,
    dominance,
    forgetting,
    mistakes,
    pareto_front,
    share_regained,
    smallest_regained,
)
from narrowlib.data.digits import Digits
from narrowlib.stacks.networks import MLPStack, accuracies
from narrowlib.stacks.training import StepConfig, make_generators

STEP = StepConfig(batch_size=8)
CONFIG = MnistConfig(
    teacher=TeacherConfig(width=16, n_epochs=8, learning_rate=3e-3, dropout=0.05, batch_size=20, enough=0.995),
    scratch=MethodConfig((8, 16), (1e-2,), STEP),
    distillation=MethodConfig((16,), (1e-2, 3e-2), StepConfig(batch_size=8, optimiser="sgd")),
    attribution=MethodConfig((8, 16), (1e-2,), STEP),
    lasso=LassoConfig(MethodConfig((8, 12), (2e-2,), StepConfig(batch_size=8, max_norm=1.0)), (0.05, 0.1)),
    goal=0.9,
    max_points=2_500,
    n_repeats=2,
    relearning_points=400,
    relearning_rate=1e-2,
)


@pytest.fixture(scope="module")
def digits():
    """Ten fixed pictures with noise: easy, but not at first sight."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(10, 784, generator=generator)

    def draw(n):
        labels = torch.randint(0, 10, (n,), generator=generator)
        return (pictures[labels] + torch.rand(n, 784, generator=generator)) / 2, labels

    return Digits(*draw(1_600), *draw(400))


@pytest.fixture(scope="module")
def comparison(digits):
    return compare(CONFIG, digits, progress=False)


def test_defaults_are_the_papers():
    config = MnistConfig()
    assert (config.teacher.width, config.teacher.dropout, config.teacher.weight_decay) == (1_200, 0.2, 1e-4)
    assert config.lasso.strengths == (1e-3, 3e-3, 4e-3, 5e-3, 6.5e-3, 8e-3) and len(config.lasso.method.neurons) == 5
    assert config.attribution.learning_rates == (4e-4, 1e-3, 3e-3, 6e-3) and {600, 190, 24} <= {
        *config.attribution.neurons
    }
    assert (config.temperature, config.hard_weight, config.distillation.step.batch_size) == (20, 0.1, 64)
    assert (config.goal, config.max_points, config.n_repeats) == (0.97, 50_000, 10)


def test_goal_is_looked_at_sixteen_times_an_epoch(digits):
    even = digits.only(EVEN)
    goal = even_goal(CONFIG, even)
    assert goal.check_every == len(even.train_labels) // 16 and goal.accuracy == 0.9
    assert set(goal.labels.tolist()) == set(EVEN)


def test_teacher_learns_all_digits_and_does_so_again(digits, comparison):
    assert accuracies(comparison.teacher, digits.test_images, digits.test_labels).item() > 0.95
    again = train_teacher(CONFIG.teacher, digits, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), comparison.teacher.parameters(), strict=True))


def test_every_method_has_its_whole_grid(comparison):
    runs = comparison.runs
    counts = runs.groupby("method").size()
    assert counts[["from scratch", "distillation", "attribution"]].to_dict() == {
        "from scratch": 2 * 2,
        "distillation": 2 * 2,
        "attribution": 2 * 2,
    }
    assert (runs["points"] <= CONFIG.max_points).all()
    assert (runs["reached"] == (runs["accuracy"] >= CONFIG.goal)).all() and runs["reached"].mean() > 0.7
    assert runs.loc[runs["method"] == "group lasso", "strength"].notna().all()


def test_networks_are_those_of_the_table(digits, comparison):
    even = digits.only(EVEN)
    for outcome in comparison.outcomes.values():
        for neurons, stack in outcome.networks.items():
            rows = outcome.runs[outcome.runs["neurons"] == neurons]
            found = accuracies(stack, even.test_images, even.test_labels).tolist()
            assert found == pytest.approx(rows["accuracy"].tolist())
            kept = sum((weight != 0).any(1).sum(1) for weight in list(stack.weights)[:-1])
            assert kept.tolist() == [neurons] * stack.n_runs


def test_samples_for_scores_count(digits, comparison):
    points = comparison.outcomes["attribution"].runs["points"]
    between = round(len(digits.only(EVEN).train_labels) // 16 / 8) * 8  # whole steps from one look to the next
    assert ((points - 30 * 8) % between == 0).all() and points.min() >= 30 * 8


def test_attribution_is_activation_times_gradient(digits, comparison):
    even, teacher = digits.only(EVEN), comparison.teacher
    scores = attribution(teacher, even, 40, [7])
    (generator,) = make_generators([7], "cpu")
    rows = torch.randperm(len(even.train_labels), generator=generator)[:40]
    weights, biases = ([p[0].detach() for p in parameters] for parameters in (teacher.weights, teacher.biases))
    first = (even.train_images[rows] @ weights[0] + biases[0]).relu().requires_grad_()
    second = (first @ weights[1] + biases[1]).relu()
    loss = F.cross_entropy(second @ weights[2] + biases[2], even.train_labels[rows], reduction="sum")
    for name, hidden in (("hidden 1", first), ("hidden 2", second)):
        (gradient,) = torch.autograd.grad(loss, hidden, retain_graph=True)
        torch.testing.assert_close(scores[name][0], (hidden * gradient).abs().mean(0), rtol=1e-4, atol=1e-7)


def test_cut_networks_have_equal_layers(digits, comparison):
    outcome = prune_by_attribution(replace(CONFIG, max_points=300), comparison.teacher, digits.only(EVEN))
    assert {n: stack.sizes[1:3] for n, stack in outcome.networks.items()} == {8: (4, 4), 16: (8, 8)}


def test_group_lasso_comes_down_to_every_target(comparison):
    runs, paths = comparison.outcomes["group lasso"].runs, comparison.paths
    assert set(runs["neurons"]) == {8, 12}
    for _, path in paths.groupby(["strength", "learning_rate", "repeat"]):
        assert path["neurons"].iloc[0] == 32 and (path["neurons"].diff().dropna() <= 0).all()
        assert path["neurons"].min() >= 8
    both = runs.pivot(index=["strength", "repeat"], columns="neurons", values="points").dropna()
    assert len(both)


def test_narrowing_the_tensors_changes_nothing(digits, comparison, monkeypatch):
    even = digits.only(EVEN)
    config = replace(CONFIG, lasso=replace(CONFIG.lasso, strengths=(0.1,)), max_points=1_500)
    narrowed, _ = prune_while_training(config, comparison.teacher, even, progress=False)
    monkeypatch.setattr("narrowlib.chapters.mnist.lasso.WORTH_NARROWING", 0.0)
    whole, _ = prune_while_training(config, comparison.teacher, even, progress=False)
    assert narrowed.runs["points"].tolist() == whole.runs["points"].tolist()
    np.testing.assert_allclose(narrowed.runs["accuracy"], whole.runs["accuracy"], atol=0.02)


def test_padding_adds_neurons_that_do_nothing():
    stacks = [MLPStack((5, a, b, 3), make_generators([a], "cpu")) for a, b in ((2, 4), (3, 1))]
    together = MLPStack.from_state(padded([stack.state_dict() for stack in stacks]))
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    assert together.sizes == (5, 3, 4, 3)
    for run, stack in enumerate(stacks):
        torch.testing.assert_close(together(x.expand(2, -1, -1))[run], stack(x[None])[0])


def test_a_killed_comparison_goes_on_where_it_was(digits, tmp_path, monkeypatch):
    small = replace(CONFIG, max_points=400)
    whole = compare(small, digits, progress=False)

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mnist, "prune_by_attribution", killed)
        with pytest.raises(KeyboardInterrupt):
            compare(small, digits, checkpoints=tmp_path, progress=False)
    for function in ("train_teacher", "from_scratch", "distil"):
        monkeypatch.setattr(mnist, function, lambda *_, **__: pytest.fail("finished work was done again"))
    resumed = compare(small, digits, checkpoints=tmp_path, progress=False)
    pd.testing.assert_frame_equal(resumed.runs, whole.runs)
    pd.testing.assert_frame_equal(resumed.paths, whole.paths)
    for name, outcome in whole.outcomes.items():
        for neurons, stack in outcome.networks.items():
            for a, b in zip(stack.parameters(), resumed.outcomes[name].networks[neurons].parameters(), strict=True):
                torch.testing.assert_close(a, b)


def test_forgetting_measures_before_and_after(digits, comparison):
    table = forgetting(CONFIG, comparison.teacher, comparison.outcomes, digits, progress=False)
    assert set(table["stage"]) == {"narrowed", "relearned"} and set(table["method"]) >= {"teacher", "attribution"}
    odd = table.pivot_table(index="method", columns="stage", values="odd")
    assert odd.loc["teacher", "narrowed"] > 0.9
    assert odd.loc["from scratch", "narrowed"] < 0.05  # never told that there are such digits
    assert odd.loc["attribution", "relearned"] > odd.loc["attribution", "narrowed"] + 0.2


def test_forgetting_leaves_the_networks_alone(digits, comparison):
    stack = comparison.outcomes["attribution"].networks[8]
    before = [parameter.clone() for parameter in stack.parameters()]
    forgetting(CONFIG, comparison.teacher, {"attribution": comparison.outcomes["attribution"]}, digits, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, stack.parameters(), strict=True))


def test_best_networks_are_those_of_the_best_setting(comparison):
    for outcome in comparison.outcomes.values():
        for neurons, repeats, stack in best_networks(outcome):
            assert stack.n_runs == len(repeats) and neurons in outcome.networks


def test_mistakes_are_wrong(digits, comparison):
    found = mistakes(comparison.outcomes["attribution"].networks[8], digits, 5)
    assert found["picture"].nunique() == 5 and len(found) == 5 * 784
    assert (found["label"] != found["predicted"]).all()
    one = found[found["picture"] == 0].sort_values(["row", "column"])["ink"].to_numpy()
    assert (np.abs(digits.test_images.numpy() - one).max(1) < 1e-6).any()


def runs(*rows):
    """Rows of (method, neurons, learning rate, points of each repeat); None for one that missed the goal."""
    table = []
    for method, neurons, rate, points in rows:
        for repeat, n in enumerate(points):
            about = {"method": method, "neurons": neurons, "learning_rate": rate, "strength": math.nan}
            table.append({**about, "repeat": repeat, "points": n or 900, "reached": n is not None})
    return pd.DataFrame(table)


def test_best_setting_reaches_first_and_is_fast_second():
    best = best_settings(
        runs(
            ("attribution", 8, 0.1, (10, None)),
            ("attribution", 8, 0.2, (400, 600)),
            ("attribution", 8, 0.3, (700, 800)),
        )
    )
    (row,) = best.to_dict("records")
    assert (row["learning_rate"], row["points"], row["low"], row["high"]) == (0.2, 500, 400, 600)
    assert row["reached"] and row["n_repeats"] == 2


def test_front_keeps_what_no_other_size_beats():
    best = best_settings(
        runs(*(("attribution", n, 0.1, (p, p)) for n, p in ((8, 900), (16, 400), (32, 500), (64, 300))))
    )
    assert pareto_front(best)["neurons"].tolist() == [8, 16, 64]
    missed = best_settings(runs(("attribution", 8, 0.1, (100, None)), ("attribution", 16, 0.1, (300, 300))))
    assert pareto_front(missed)["neurons"].tolist() == [16]


def test_dominance_asks_for_no_more_neurons_and_fewer_samples():
    table = dominance(
        best_settings(
            runs(
                ("attribution", 16, 0.1, (300, 300)),
                ("group lasso", 32, 0.1, (100, 100)),
                ("from scratch", 8, 0.1, (800, 800)),  # smaller than any pruned network
                ("from scratch", 16, 0.1, (600, 600)),
                ("distillation", 16, 0.1, (200, 200)),  # faster than the pruned one of this size
                ("distillation", 64, 0.1, (200, 200)),
                ("distillation", 128, 0.1, (200, None)),
            )
        )
    ).set_index(["method", "neurons"])
    assert table["dominated"].to_dict() == {
        ("distillation", 16): False,
        ("distillation", 64): True,
        ("from scratch", 8): False,
        ("from scratch", 16): True,
    }
    assert table["ratio"].to_dict() == {
        ("distillation", 16): pytest.approx(2 / 3),
        ("distillation", 64): 2,
        ("from scratch", 8): 0,
        ("from scratch", 16): 2,
    }
    assert table.loc[("distillation", 64), "pruned_by"] == "group lasso"


def test_regained_targets():
    best = best_settings(runs(("group lasso", 8, 0.1, (None, 10)), ("group lasso", 16, 0.1, (10, 10))))
    assert share_regained(best, [8, 16]) == 0.5 and smallest_regained(best, 64) == 0.25
    assert math.isnan(smallest_regained(best, 64, "attribution"))


def test_a_method_without_a_run_does_not_stop_the_tables(comparison):
    empty = replace(comparison.outcomes["group lasso"], runs=comparison.runs.iloc[:0], networks={})
    some = Comparison(comparison.teacher, {**comparison.outcomes, "group lasso": empty}, comparison.paths)
    assert set(best_settings(some.runs)["method"]) == {"from scratch", "distillation", "attribution"}
    assert best_networks(empty) == []


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: TeacherConfig(width=0), "width is 0"),
        (lambda: MethodConfig((7,), (0.1,), STEP), "neurons holds 7; every one must be an even whole number"),
        (lambda: MethodConfig((8,), (), STEP), r"learning_rates is \(\)"),
        (lambda: LassoConfig(strengths=(-1.0,)), r"strengths is \(-1.0,\)"),
        (lambda: LassoConfig(dropped_below=0.0), "dropped_below is 0.0"),
        (lambda: MnistConfig(n_repeats=0), "n_repeats is 0"),
        (lambda: MnistConfig(teacher=TeacherConfig(width=8)), "the teacher has 16 to keep some of"),
        (lambda: numbers("8 x"), r"numbers is '8 x'; it must hold numbers \(int\)"),
        (lambda: numbers(""), "numbers is ''"),
    ],
)
def test_bad_settings_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_numbers_are_read():
    assert numbers("8 16") == (8, 16) and numbers("1e-3 2", float) == (1e-3, 2.0)
