"""What is read from the curves: crossings, frontiers, the measures of the claim, by hand."""

import math

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from narrowlib.chapters.frontier import (
    common_target,
    fixed_target,
    frontier,
    frontier_measures,
    frontiers,
    plot_frontier,
    plot_frontiers,
    plot_gains,
    plot_learning_curves,
    spaced_targets,
    teacher_gains,
)
from narrowlib.chapters.frontier.figures import short_number
from narrowlib.chapters.frontier.outcomes import size_ratios, smoothed

RUNS = {  # method, parameters: losses after 0, 100, 200 tokens
    ("pruned", 10): (4.0, 2.0, 1.0),
    ("pruned", 20): (2.0, 1.5, 0.5),
    ("scratch", 15): (6.0, 4.0, 2.0),
    ("scratch", 40): (6.0, 3.0, 1.5),
    ("distilled", 15): (6.0, 5.0, 4.0),
    ("distilled", 5): (6.0, 5.0, 1.8),
    ("pruned, distilled", 10): (4.0, 1.5, 0.75),
}


@pytest.fixture
def records():
    rows = [
        (method, f"{method}-{size}", size, split, tokens, loss, 2 * tokens, loss)
        for (method, size), losses in RUNS.items()
        for split in ("held out", "train")
        for tokens, loss in zip((0, 100, 200), losses, strict=True)
    ]
    columns = ["method", "run", "n_parameters", "split", "tokens", "loss", "seconds", "smoothed"]
    return pd.DataFrame(rows, columns=columns)


def test_crossings_by_hand(records):
    points = frontier(records, 1.75).set_index("run")
    expected = {"pruned-10": 125.0, "pruned-20": 50.0, "scratch-40": 100 + 100 * 1.25 / 1.5}
    for run, tokens in expected.items():
        assert points.loc[run, "tokens"] == pytest.approx(tokens)
    assert not points.loc["scratch-15", "reached"] and math.isnan(points.loc["scratch-15", "tokens"])
    assert points.loc["scratch-15", "seen"] == 200
    assert frontier(records, 2.5).set_index("run").loc["pruned-20", "tokens"] == 0  # there before any training
    assert frontier(records, 1.75, spent="seconds").set_index("run").loc["pruned-10", "seconds"] == 250.0


def test_an_easier_loss_is_never_dearer(records):
    targets = [4.0, 3.0, 2.0, 1.75, 1.0]
    table = frontiers(records, targets)
    assert table["target_loss"].unique().tolist() == targets
    by_run = table.pivot(index="run", columns="target_loss", values="tokens")[targets]
    steps = by_run.diff(axis=1).stack().dropna()
    assert len(steps) > 10 and (steps >= 0).all()
    alone = frontier(records, 2.0)
    pd.testing.assert_frame_equal(
        table[table["target_loss"] == 2.0].drop(columns="target_loss").reset_index(drop=True), alone
    )


def test_the_frontier_leaves_out_what_is_larger_and_dearer(records):
    points = frontier(records, 2.0).set_index("run")
    assert points.loc["pruned-10", "on_frontier"] and points.loc["pruned-20", "on_frontier"]  # smaller, or cheaper
    dearer = records.assign(n_parameters=records["n_parameters"].replace({20: 5}))
    points = frontier(dearer, 2.0).set_index("run")
    assert points.loc["pruned-20", "on_frontier"] and not points.loc["pruned-10", "on_frontier"]


def test_of_equal_sizes_the_cheapest_run_counts(records):
    again = records[records["run"] == "pruned-10"].assign(run="pruned-10-again", loss=lambda rows: rows["loss"] - 0.5)
    points = frontier(pd.concat([records, again]), 1.75)
    assert points.query("method == 'pruned' and n_parameters == 10")["run"].tolist() == ["pruned-10-again"]


def test_measures_by_hand(records):
    """At 1.9 nats: pruned 10 needs 110 and pruned 20 needs 20 tokens; of the rivals, 15 and 15 do not get there."""
    measures = frontier_measures(records, 1.9)
    # scratch 40: 173.3 against 20, which counts as the first reading, 100; scratch 15, distilled 15: more than 200
    # against 110; distilled 5: none is so small
    assert measures["dominated"].value == 3 / 4
    assert sorted(size_ratios(records, 1.9)["value"]) == pytest.approx(
        [0, 173.33 / 100, 200 / 110, 200 / 110], rel=1e-3
    )
    at_once = frontier_measures(records, 3.0)  # against 100, the first reading: 100, 150, and 200 without getting there
    assert at_once["tokens_ratio"].value == pytest.approx(1.25)  # and 0 of a rival smaller than any pruned network
    nothing = frontier_measures(records, 0.1)
    assert math.isnan(nothing["dominated"].value) and math.isnan(nothing["tokens_ratio"].value)
    assert math.isnan(frontier_measures(records, fixed_target(records, [0.1]))["dominated"].value)
    assert fixed_target(records, [0.1, 3.0, 4.0]) == 3.0
    worse = records.replace({"method": {"pruned": "scratch", "scratch": "pruned"}})
    assert frontier_measures(worse, 1.75)["dominated"].value < 1


def test_targets(records):
    assert common_target(records) == 1.8  # of the lowest 0.5, 1.5 and 1.8
    targets = spaced_targets(records, 3)
    assert targets == sorted(targets, reverse=True) and len(targets) == 3
    assert frontier(records, targets[0])["reached"].sum() > frontier(records, targets[-1])["reached"].sum() > 0
    with pytest.raises(ValueError, match="records hold no held-out loss of distilled"):
        common_target(records[records["method"] != "distilled"])


def test_teacher_gains(records):
    gains = teacher_gains(records)
    assert gains[["n_parameters", "gain"]].values.tolist() == [[10, 0.25]]


def test_running_mean():
    assert smoothed(pd.Series([1.0, 0.0, 0.0]), 0.5).tolist() == [1.0, 0.5, 0.25]
    with pytest.raises(ValueError, match="weight is 0"):
        smoothed(pd.Series([1.0]), 0)


def test_bad_questions_are_refused(records):
    with pytest.raises(ValueError, match="target_loss is nan"):
        frontier(records, math.nan)
    with pytest.raises(ValueError, match="records hold no loss of the split 'test'"):
        frontier(records, 1.0, split="test")


def drawn(ax):
    marks = [line for line in ax.get_lines() if line.get_linestyle() == "None" and len(line.get_xdata())]
    return {(x, y) for line in marks for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)}


def test_figures_show_what_was_reached_and_say_what_was_not(records):
    points = frontier(records, 2.0)
    ax = plot_frontier(points, ax=plt.figure().gca())
    spent = points["tokens"].fillna(points["seen"])
    assert drawn(ax) == set(zip(points["n_parameters"], spent, strict=True))
    hollow = [line for line in ax.get_lines() if line.get_markerfacecolor() == "none"]
    assert sum(len(line.get_xdata()) for line in hollow) == (~points["reached"]).sum() > 0
    assert {text.get_text() for text in ax.texts} >= {"distilled", "pruned"}
    assert ax.get_yscale() == "symlog"  # one network is there before any training
    low, high = ax.get_ylim()
    assert all(low <= tokens < high for _, tokens in drawn(ax))
    figure = plot_frontiers(frontiers(records, [3.0, 1.75]))
    assert [ax.get_title() for ax in figure.axes] == ["3.00 nats", "1.75 nats"]
    assert len({ax.get_ylim() for ax in figure.axes}) == 1


def test_curves_of_one_method(records):
    rows = records[records["method"] == "pruned"]
    ax = plot_learning_curves(rows, base=1.0, ax=plt.figure().gca())
    lines = {line.get_label(): list(line.get_ydata()) for line in ax.get_lines()}
    assert lines["10"] == [4.0, 2.0, 1.0] and lines["20"] == [2.0, 1.5, 0.5]
    smooth = plot_learning_curves(rows, smooth=True, ax=plt.figure().gca())
    assert len(smooth.get_lines()) == 4
    several = pd.concat(
        [records.assign(seed=seed, loss=records["loss"] + seed * records["tokens"] / 1e3) for seed in (0, 1)]
    )
    for table, has_interval in ((records, False), (several, True)):
        gains = teacher_gains(table)
        assert gains["low"].notna().all() == has_interval
        marks = [line for line in plot_gains(gains, ax=plt.figure().gca()).get_lines() if line.get_marker() == "P"]
        shown = [(line.get_markerfacecolor() == "white", *line.get_xdata()) for line in marks if len(line.get_xdata())]
        assert shown == [(not has_interval, 0.25)]
    assert [short_number(value) for value in (35, 164_160, 1.2e6, 6e9)] == ["35", "164k", "1.2M", "6B"]
