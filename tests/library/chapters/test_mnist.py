"""The MNIST comparison on drawn digits: grids, counts, what is kept, and the tables that decide the claims."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from drawn_digits import drawn_digits
from torch.nn import functional as F

from narrowlib.chapters.mnist.config import (
    EVEN,
    Config,
    LassoConfig,
    MethodConfig,
    MnistConfig,
    TeacherConfig,
    even_goal,
)
from narrowlib.chapters.mnist.decisions import front_outcome, shrinking_outcome, tuned_runs, tuned_said
from narrowlib.chapters.mnist.experiment import compare
from narrowlib.chapters.mnist.lasso import padded, prune_while_training
from narrowlib.chapters.mnist.methods import attribution, train_teacher
from narrowlib.chapters.mnist.outcomes import (
    best_networks,
    best_settings,
    dominance,
    forgetting,
    mistakes,
    pareto_front,
)
from narrowlib.chapters.mnist.tuning import tuned_rivals
from narrowlib.stacks.networks import MLPStack, accuracies
from narrowlib.stacks.training import StepConfig, make_generators

STEP, CLIPPED = StepConfig(batch_size=8), StepConfig(batch_size=8, max_norm=1.0)
SGD = StepConfig(batch_size=8, optimiser="sgd")
CONFIG = MnistConfig(
    teacher=TeacherConfig(width=16, n_epochs=8, learning_rate=3e-3, dropout=0.05, batch_size=20, enough=0.995),
    scratch=MethodConfig(neurons=(8, 16), learning_rates=1e-2, step=STEP, n_repeats=2, max_points=2_500),
    distillation=MethodConfig(neurons=16, learning_rates=(1e-2, 3e-2), step=SGD, n_repeats=2, max_points=2_500),
    attribution=MethodConfig(neurons=(8, 16), learning_rates=1e-2, step=STEP, n_repeats=2, max_points=2_500),
    lasso=LassoConfig(
        method=MethodConfig(neurons=(8, 12), learning_rates=2e-2, step=CLIPPED, n_repeats=2, max_points=2_500),
        strengths=(0.05, 0.1)),
    goal=0.9, tuned_rates=(1e-2,), relearning_points=400, relearning_rate=1e-2,
)  # fmt: skip
LASSO = CONFIG.lasso.method


@pytest.fixture(scope="module")
def digits():
    return drawn_digits(1_600, 400)


@pytest.fixture(scope="module")
def comparison(digits):
    return compare(CONFIG, digits, progress=False)


def test_defaults_are_the_papers():
    config = Config().comparison
    assert (config.teacher.width, config.teacher.dropout, config.teacher.weight_decay) == (1_200, 0.2, 1e-4)
    assert (config.temperature, config.hard_weight, config.distillation.step.batch_size) == (20, 0.1, 64)
    assert config.goal == 0.97 and config.teacher.patience == 2
    methods = (config.scratch, config.distillation, config.attribution, config.lasso.method)
    assert [method.n_repeats for method in methods] == [50, 10, 10, 10]
    assert [method.step.batch_size for method in methods] == [64, 64, 16, 16]
    assert [method.step.max_norm for method in methods] == [None, None, 1, 1]
    assert [method.checks_per_epoch for method in methods] == [16, 8, 16, 16]
    assert [method.max_points for method in methods] == [20 * 29_492] * 2 + [50_000] * 2
    assert len(config.lasso.strengths) * len(config.lasso.method.learning_rates) == 42
    with pytest.raises(ValueError, match="pruned_neurons holds 1200; it must be at most the teacher's 400"):
        Config(teacher_width=200)


def test_goal_is_looked_at_sixteen_times_an_epoch(digits):
    even = digits.only(EVEN)
    goal = even_goal(CONFIG, CONFIG.scratch, even)
    assert goal.check_every == len(even.train_labels) // 16 and goal.accuracy == 0.9
    assert set(goal.labels.tolist()) == set(EVEN)


def test_teacher_learns_all_digits_and_does_so_again(digits, comparison):
    assert accuracies(comparison.teacher, digits.test_images, digits.test_labels).item() > 0.95
    again = train_teacher(CONFIG.teacher, digits, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), comparison.teacher.parameters(), strict=True))


def test_every_method_has_its_whole_grid(comparison):
    runs = comparison.runs
    counts = runs.groupby("method").size()
    assert counts[["from scratch", "distillation", "attribution"]].tolist() == [2 * 2] * 3
    assert counts["group lasso"] == 2 * 2 * 2  # strengths, repeats, targets; those that never come down too
    assert (runs["points"] <= 2_500).all() and "network" not in runs
    assert (runs["reached"] == (runs["accuracy"] >= CONFIG.goal)).all() and runs["reached"].mean() > 0.7
    assert runs.loc[runs["method"] == "group lasso", "strength"].notna().all()


def test_networks_are_those_of_the_table(digits, comparison):
    even = digits.only(EVEN)
    for method, outcome in comparison.outcomes.items():
        for neurons, stack in outcome.networks.items():
            rows = outcome.runs[(outcome.runs["neurons"] == neurons) & (outcome.runs["network"] >= 0)]
            assert sorted(rows["network"]) == list(range(stack.n_runs))
            found = accuracies(stack, even.test_images, even.test_labels)[rows["network"].tolist()].tolist()
            assert found == pytest.approx(rows["accuracy"].tolist())
            kept = sum((weight != 0).any(1).sum(1) for weight in list(stack.weights)[:-1])
            assert (kept == neurons).all() or (method == "group lasso" and (kept <= neurons).all())


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


def test_group_lasso_comes_down_to_every_target(comparison):
    runs, paths = comparison.outcomes["group lasso"].runs, comparison.paths
    assert set(runs["neurons"]) == {8, 12}
    for _, path in paths.groupby(["strength", "learning_rate", "repeat"]):
        assert path["neurons"].iloc[0] == 32 and (path["neurons"].diff().dropna() <= 0).all()
    came_down = runs.dropna(subset="accuracy").groupby("neurons").size()
    assert (came_down > 0).all()


def test_narrowing_the_tensors_changes_nothing(digits, comparison, monkeypatch):
    even = digits.only(EVEN)
    config = CONFIG.replace(lasso=CONFIG.lasso.replace(strengths=0.1, method=LASSO.replace(max_points=1_500)))
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


def test_a_kept_comparison_is_the_same(digits, tmp_path, monkeypatch):
    short = {name: getattr(CONFIG, name).replace(max_points=400) for name in ("scratch", "distillation", "attribution")}
    small = CONFIG.replace(**short, lasso=CONFIG.lasso.replace(method=LASSO.replace(max_points=400)))
    whole = compare(small, digits, checkpoints=tmp_path, progress=False)
    for function in ("lasso.shrink", "methods.train_teacher"):
        monkeypatch.setattr(f"narrowlib.chapters.mnist.{function}", None)
    for function in ("from_scratch", "distil", "prune_by_attribution"):
        monkeypatch.setattr(f"narrowlib.chapters.mnist.experiment.{function}", None)
    again = compare(small, digits, checkpoints=tmp_path, progress=False)
    pd.testing.assert_frame_equal(again.runs, whole.runs)
    pd.testing.assert_frame_equal(again.paths, whole.paths)
    for name, outcome in whole.outcomes.items():
        for neurons, stack in outcome.networks.items():
            for a, b in zip(stack.parameters(), again.outcomes[name].networks[neurons].parameters(), strict=True):
                assert torch.equal(a, b)


def test_forgetting_measures_before_and_after(digits, comparison):
    stack = comparison.outcomes["attribution"].networks[8]
    before = [parameter.clone() for parameter in stack.parameters()]
    table = forgetting(CONFIG, comparison.teacher, comparison.outcomes, digits, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, stack.parameters(), strict=True))
    assert set(table["stage"]) == {"narrowed", "relearned"} and set(table["method"]) >= {"teacher", "attribution"}
    odd = table.pivot_table(index="method", columns="stage", values="odd")
    assert odd.loc["teacher", "narrowed"] > 0.9
    assert odd.loc["from scratch", "narrowed"] < 0.05  # never told that there are such digits
    assert odd.loc["attribution", "relearned"] > odd.loc["attribution", "narrowed"] + 0.2


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


def test_best_setting_reaches_in_half_of_the_repeats_and_is_fast():
    settings = ((0.1, (10, None, None)), (0.2, (400, 600, 500)), (0.3, (700, 800, 700)), (0.4, (700, 10, None)))
    (row,) = best_settings(runs(*(("attribution", 8, *each) for each in settings))).to_dict("records")
    assert (row["learning_rate"], row["points"], row["low"], row["high"]) == (0.2, 500, 400, 600)
    assert row["reached"] and row["n_repeats"] == 3
    (row,) = best_settings(runs(("attribution", 8, *settings[0]))).to_dict("records")
    assert not row["reached"] and row["points"] == (10 + 900 + 900) / 3


def test_front_keeps_what_no_other_size_beats():
    sizes = ((8, 900), (16, 400), (32, 500), (64, 300))
    front = pareto_front(best_settings(runs(*(("attribution", n, 0.1, (p, p)) for n, p in sizes))))
    assert front["neurons"].tolist() == [8, 16, 64]
    missed = best_settings(runs(("attribution", 8, 0.1, (1, None, None)), ("attribution", 16, 0.1, (300, 300, 9))))
    assert pareto_front(missed)["neurons"].tolist() == [16]


def test_dominance_asks_for_no_more_neurons_and_fewer_samples():
    table = [
        ("attribution", 16, 300, 300),
        ("group lasso", 32, 100, 100),
        ("from scratch", 8, 800, 800),  # smaller than any pruned network
        ("from scratch", 16, 600, 600),
        ("distillation", 16, 200, 200),  # faster than the pruned one of this size
        ("distillation", 64, 200, 200),
        ("distillation", 128, None, None),
    ]
    found = dominance(best_settings(runs(*((method, n, 0.1, points) for method, n, *points in table))))
    found = found.set_index(["method", "neurons"]).sort_index()
    assert found.index.tolist() == [
        ("distillation", 16),
        ("distillation", 64),
        ("from scratch", 8),
        ("from scratch", 16),
    ]
    assert found["dominated"].tolist() == [False, True, False, True]
    assert found["ratio"].tolist() == [pytest.approx(2 / 3), 2, 0, 2]
    assert found.loc[("distillation", 64), "pruned_by"] == "group lasso"


def test_regained_targets():
    table = runs(("group lasso", 8, 0.1, (10, None, 10, None)), ("group lasso", 16, 0.1, (10, 10, 10, 10)))
    found = shrinking_outcome(table, 64)  # the second and fourth repeat count
    assert found["least_regained"].value == 0 and found["smallest_share"].value == 0.25
    assert math.isnan(shrinking_outcome(table, 64, "attribution")["smallest_share"].value)


def test_a_setting_is_measured_on_repeats_that_did_not_choose_it():
    table = runs(("attribution", 8, 0.1, (1, 50, 1, 50)), ("attribution", 8, 0.2, (9, 9, 9, 9)))
    assert tuned_runs(table)["points"].tolist() == [50, 50]  # 0.1 is better where it is chosen
    with_rival = pd.concat([table, runs(("from scratch", 8, 0.1, (100, 100, 100, 100)))])
    assert front_outcome(with_rival)["samples_ratio"].value == 2


def test_runs_that_never_come_down_miss(digits, comparison):
    config = CONFIG.replace(lasso=CONFIG.lasso.replace(strengths=1e-9, method=LASSO.replace(max_points=300)))
    outcome, _ = prune_while_training(config, comparison.teacher, digits.only(EVEN), progress=False)
    assert len(outcome.runs) == 2 * 2 and not outcome.runs["reached"].any() and (outcome.runs["points"] == 300).all()
    assert best_networks(outcome) == [] and not best_settings(outcome.runs)["reached"].any()


def test_rivals_are_chosen_in_some_repeats_and_measured_in_others(digits, comparison):
    tuned = tuned_rivals(CONFIG, comparison.teacher, digits.only(EVEN), progress=False)
    assert (tuned["n_tried"] == 6).all() and (tuned["points"] <= 2_500).all()
    assert tuned.groupby("method")["neurons"].unique().map(sorted).to_dict() == {
        "distillation": [16],
        "from scratch": [8, 16],
    }
    counts = tuned.groupby(["method", "neurons"]).nunique()
    assert (counts["repeat"] == 2).all() and (counts["setting"] == 1).all()


def test_tuned_rivals_are_compared_in_the_place_of_the_others():
    table = runs(("attribution", 8, 0.1, (50, 50, 50, 50)), ("from scratch", 8, 0.1, (100, 100, 100, 100)))
    found = front_outcome(table, runs(("from scratch", 8, 0.3, (25, 25))))
    assert (found["samples_ratio"].value, found["tuned_ratio"].value) == (2, 0.5)
    assert (found["dominated"].value, found["tuned_dominated"].value) == (1, 0)


def test_sentence_on_tuned_rivals_tells_what_is_left_of_the_lead():
    table = runs(("attribution", 8, 0.1, (50, 50, 50, 50)), ("from scratch", 8, 0.1, (100, 100, 100, 100)))
    assert tuned_said(table, None).startswith("The rivals have not been tuned yet")
    said = tuned_said(table, runs(("from scratch", 8, 0.3, (25, 25))).assign(n_tried=42))
    assert "tuned over 42 settings" in said and "fewer samples at 0% of their sizes" in said
    assert "0.50 (0.50 to 0.50), against 2.00" in said
