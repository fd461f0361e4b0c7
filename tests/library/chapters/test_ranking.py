"""Chapter ranking: what every way starts from, and the shares that its runs explain."""

import numpy as np
import pandas as pd
import pytest
import torch
from drawn_digits import drawn_digits

from narrowlib.chapters.mnist.methods import train_teacher
from narrowlib.chapters.ranking import Config, against_attribution, at_best_rate, points_to_goal, shares_explained
from narrowlib.chapters.ranking.experiment import NORMS, RANKINGS, SCRATCH, WAYS, scores_of, starts
from narrowlib.chapters.ranking.outcomes import head_start_said

CONFIG = Config(teacher_width=12, teacher_epochs=3, neurons="8", rates="1e-2", n_repeats=2, max_points=1_500)


@pytest.fixture(scope="module")
def digits():
    return drawn_digits(1_200, 200)


@pytest.fixture(scope="module")
def teacher(digits):
    return train_teacher(CONFIG.comparison.teacher, digits, progress=False)


def test_every_ranking_scores_every_neuron_of_every_repeat(digits, teacher):
    config, even = CONFIG.comparison, digits.only((0, 2, 4, 6, 8))
    scores = {name: scores_of(name, config, teacher, even) for name in RANKINGS}
    for each in scores.values():
        assert {group: values.shape for group, values in each.items()} == {g.name: (2, 12) for g in teacher.units}
    assert (scores["index"]["hidden 1"].diff(dim=1) > 0).all()
    assert torch.equal(scores["weight norm"]["hidden 1"][0], scores["weight norm"]["hidden 1"][1])
    for name in ("random", "attribution", "wrong labels", "activation norm"):
        assert not torch.equal(scores[name]["hidden 1"][0], scores[name]["hidden 1"][1])  # other samples, other draws
    assert not torch.equal(scores["attribution"]["hidden 2"], scores["wrong labels"]["hidden 2"])


def test_starts_are_parts_of_the_teacher_or_random_weights_of_its_norms(digits, teacher):
    even = digits.only((0, 2, 4, 6, 8))
    made = {way: start(8) for way, start, _ in starts(CONFIG.comparison, teacher, even)}
    assert tuple(made) == WAYS and {stack.sizes for stack in made.values()} == {(784, 4, 4, 10)}
    assert torch.equal(made["index"].weights[0][0], teacher.weights[0][0, :, -4:])  # as equal scores are sorted
    for ours, theirs, plain in zip(*(made[way].parameters() for way in (NORMS, "attribution", SCRATCH)), strict=True):
        assert torch.allclose(ours.flatten(1).norm(dim=1), theirs.flatten(1).norm(dim=1))
        ratio = ours / plain
        assert torch.allclose(ratio, ratio[:, :1, :1].expand_as(ratio), rtol=1e-4)


def test_samples_of_scores_are_counted_and_runs_that_miss_have_none(digits):
    runs = points_to_goal(CONFIG, digits, progress=False)
    assert runs.groupby("way", sort=False).size().to_dict() == dict.fromkeys(WAYS, 2)
    scored = runs[runs["way"] == "attribution"].dropna()
    assert (scored["samples"] >= 480).all() and len(scored)
    assert (runs["samples"].notna() == (runs["accuracy"] >= 0.97)).all()


SAMPLES = {"attribution": 1_000, "random": 2_000, "from scratch": 5_000}


def runs_of(samples):
    """Runs at two sizes and step sizes: the second step size always costs twice as much."""
    rows = [
        (way, neurons, rate, seed, value * factor + 10 * seed, 50_000.0)
        for way, value in samples.items()
        for neurons in (50, 100)
        for rate, factor in ((1e-3, 1), (3e-3, 2))
        for seed in range(5)
    ]
    return pd.DataFrame(rows, columns=["way", "neurons", "learning_rate", "seed", "samples", "budget"])


def test_shares_and_ratios_at_the_best_step_size():
    runs = runs_of(SAMPLES)
    assert at_best_rate(runs)["learning_rate"].unique().tolist() == [1e-3]
    shares = shares_explained(runs).set_index("way")
    assert shares.loc["random", "share"] == pytest.approx(0.75) and shares.loc["random", "low"] > 0.7
    against = against_attribution(runs)
    assert against.loc["random", "ratio"] == pytest.approx(2, rel=0.05) and against.loc["random", "verdict"] == "holds"
    told = head_start_said(shares_explained(runs_of({**SAMPLES, "from scratch, teacher's norms": 6_000})))
    assert "have 75% (95% interval" in told[0] and told[0].endswith("The ranking adds 25%.")
    assert "alone is a handicap" in told[2]
    few = runs[runs["seed"] < 4]
    assert head_start_said(shares_explained(few)) == [
        "With fewer than 5 repeats, no share of the head start is estimated."
    ]
    assert np.isnan(shares_explained(few)["share"]).all() and (against_attribution(few)["verdict"] == "undecided").all()
