"""How pruned language models would scale: distances to the whole model, and where a power law would go."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from narrowlib.chapters.frontier import PAPER, load_claims, papers_gaps, plot_scaling, scaling_points, scaling_said

WHOLE, SIZE = 2.0, 1_000


def records(gap, n_parameters=SIZE):
    tokens = np.array([0, 10, 20, 40, 80, 160])
    with np.errstate(divide="ignore"):
        loss = WHOLE + gap(tokens / n_parameters)
    about = {"variant": "ours", "neuron_sparsity": 0.5, "residual_sparsity": 0.2, "n_parameters": n_parameters}
    held_out = pd.DataFrame({"split": "held out", "tokens": tokens, "loss": loss, **about})
    other = held_out.assign(variant="random", loss=9.0)
    lasso = pd.DataFrame({"strength": [np.nan, np.nan, 0.0], "sparsity": [0.0, 0.5, 0.0], "loss": [WHOLE, 7.0, 1.0]})
    return {"recovery": pd.concat([held_out, held_out.assign(split="train", loss=0.0), other]), "lasso": lasso}


def test_a_power_law_is_measured_and_goes_on():
    points = scaling_points(records(lambda spent: 0.5 * spent**-0.25), "base", until=10.0, variant="ours")
    assert np.allclose(points["gap"], 0.5 * points["tokens_per_parameter"] ** -0.25)
    measured, further = points[points["measured"]], points[~points["measured"]]
    assert measured["tokens_per_parameter"].tolist() == [0.01, 0.02, 0.04, 0.08, 0.16]
    assert further["tokens_per_parameter"].iloc[[0, -1]].tolist() == pytest.approx([0.16, 10.0])
    assert set(points["cut"]) == {"50%/20%"}


@pytest.mark.parametrize(
    ("gap", "why"), [(lambda spent: 1 + spent, "rises"), (lambda spent: 0.05 - spent, "comes below the whole model")]
)
def test_what_does_not_fall_as_a_power_law_is_not_extrapolated(gap, why):
    points = scaling_points(records(gap), "base", until=10.0, variant="ours")
    assert points["measured"].all(), why


def test_what_was_run_for_longer_than_asked_is_not_extrapolated():
    assert scaling_points(records(lambda spent: spent**-0.5), "base", until=0.1, variant="ours")["measured"].all()


@pytest.mark.parametrize(
    ("height", "said"),
    [
        (0.02, "first within the paper's 0.38 after 0.01."),
        (0.5, "its power law, not measured, comes within the paper's 0.38 after"),
        (50.0, "not within the paper's 0.38, nor is its power law by 10."),
    ],
)
def test_the_sentence_tells_measured_from_extrapolated(height, said):
    points = scaling_points(records(lambda spent: height * spent**-0.25), "base", until=10.0, variant="ours")
    (sentence,) = scaling_said(points, 0.38)
    assert said in sentence


def test_the_papers_networks_stand_at_the_loss_that_they_were_trained_to():
    l3 = load_claims()["L3"]
    theirs = papers_gaps(l3["points"], l3["targets"][0], l3["base_loss"])
    assert theirs["gap"].tolist() == pytest.approx([0.38] * 6)
    assert theirs["tokens_per_parameter"].iloc[0] == pytest.approx(76.0 / 667.0)


def test_the_figure_draws_what_is_extrapolated_otherwise():
    ours = scaling_points(records(lambda spent: spent**-0.5), "base", until=10.0, variant="ours")
    l3 = load_claims()["L3"]
    theirs = papers_gaps(l3["points"], l3["targets"][0], l3["base_loss"])
    _, ax = plt.subplots()
    plot_scaling(pd.concat([ours, theirs], ignore_index=True), paper=PAPER, ax=ax)
    whole, dotted, squares = ax.lines
    assert whole.get_linestyle() == "-" and dotted.get_linestyle() != "-"
    assert max(whole.get_xdata()) == pytest.approx(min(dotted.get_xdata()))
    assert squares.get_marker() == "s" and len(squares.get_xdata()) == 6
    plt.close("all")
