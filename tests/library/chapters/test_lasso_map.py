"""Chapter lasso-map: what is trained once, fields by hand, and a verdict that data without an effect do not pass."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from plain_networks import noted_trainings

from narrowlib import intervals
from narrowlib.chapters.lasso_map import Config, by_width, fields, fields_said, plot_fields, tables, width_said
from narrowlib.chapters.style import figure_data
from narrowlib.chapters.two_trees import curves, lasso_training, networks

PAGE = {
    "subset_size": 1, "n_task_bits": 6, "n_seeds": 2, "batch_size": 8, "n_steps": 3, "n_samples": 20,
    "recovery_steps": 2, "recovery_batch_size": 8, "narrow_width": 4, "wide_width": 6, "n_widths": 2,
    "precision": "float32", "device": "cpu",
}  # fmt: skip
MAP = {"strengths": "0 1e-2", "steps": "4 2", "lasso_batch_size": 8, "sparsities": "0.5"}
STRENGTHS = (0.0, 1e-3, 3e-3, 1e-2)


def drawn(kept, regained, n_seeds=6, steps=(1_000,), width=64):
    """A sweep of networks whose measures are drawn by strength."""
    rows = [
        (width, n, strength, seed, kept(strength), regained(strength))
        for n in steps
        for strength in STRENGTHS
        for seed in range(n_seeds)
    ]
    return pd.DataFrame(rows, columns=["width", "steps", "strength", "seed", "sparsity", "regained"])


def works(rng):
    """From 3e-3 on both claims hold, and 1e-2 is too strong."""
    kept = {0.0: 0.2, 1e-3: 0.6, 3e-3: 0.9, 1e-2: 0.3}
    back = {0.0: 0.98, 1e-3: 0.8, 3e-3: 0.51, 1e-2: 0.5}
    return drawn(lambda s: kept[s] + rng.normal(0, 0.02), lambda s: back[s] + rng.normal(0, 0.01))


def test_networks_are_trained_once_with_every_strength_and_resumed(tmp_path, monkeypatch):
    trained = noted_trainings(monkeypatch, curves, lasso_training, networks)
    config = Config(**PAGE, **MAP, checkpoints=str(tmp_path))
    found = tables(config, progress=False)["map"]
    counts = Counter(description.split()[0] for description in trained)
    assert counts["group"] == counts["train,"] == counts["recover"] / 2 > 0
    assert len(found) == 2**4 and not found.duplicated(["width", "steps", "strength", "seed"]).any()
    assert found["steps"].unique().tolist() == [2, 4] and found["width"].unique().tolist() == [4, 6]
    trained.clear()
    pd.testing.assert_frame_equal(tables(config, progress=False)["map"], found)
    assert not trained


@pytest.mark.parametrize("strengths", ["1e-3 1e-2", "0"])
def test_a_map_without_control_or_penalty_is_refused(strengths):
    with pytest.raises(ValueError, match=r"strengths is '.*'; it must hold 0, the control, and a number above it"):
        Config(strengths=strengths)


def test_fields_by_hand():
    table = fields(works(np.random.default_rng(0))).set_index("strength")
    assert table["other"].tolist() == ["comes back", "comes back", "stays away", "stays away"]
    assert table["both"].tolist() == [False, False, True, False] and table["n_back"].tolist() == [6, 6, 0, 0]
    (told,) = fields_said(table.reset_index())
    assert told == (
        "Width 64: both claims hold in 1 of 3 fields with a penalty; the fewest steps are 1,000, at strength "
        "0.003. Without a penalty, after 1,000 steps, the other composite comes back in 6 of 6 networks."
    )


def test_a_penalty_that_works_holds_one_that_does_not_fails_and_few_networks_decide_nothing():
    sweep = works(np.random.default_rng(0))
    (row,) = by_width(sweep).to_dict("records")
    assert row["verdict"] == "holds" and row["strengths"] == [3e-3] and row["control"] == pytest.approx(0.98, abs=0.02)
    assert width_said(pd.Series(row)).startswith(
        "Width 64: holds, from 6 networks. At the strength that the other networks choose (0.003)"
    )
    short = sweep.assign(sparsity=sweep["sparsity"].clip(upper=0.7))
    assert by_width(short)["verdict"].tolist() == ["does not hold"]
    assert by_width(sweep[sweep["seed"] < 4])["verdict"].tolist() == ["undecided"]


def test_no_network_is_judged_at_a_strength_that_it_chose():
    """One network alone is best at the weakest penalty; it is read where the others are best."""
    sweep = works(np.random.default_rng(0))
    is_odd = (sweep["seed"] == 0) & (sweep["strength"] == 1e-3)
    odd = sweep.assign(sparsity=sweep["sparsity"].mask(is_odd, 9.0), regained=sweep["regained"].mask(is_odd, 0.5))
    assert by_width(odd)["kept_high"].item() < 1


def without_an_effect(rng, kind):
    """Of the penalty on what is kept; on what comes back, which lies at its bound; or of anything on the latter."""
    same, noise = rng.uniform(0.75, 0.9, 6), lambda: rng.normal(0, 0.02)
    if kind == "kept":
        seeds = iter(np.tile(same, len(STRENGTHS)))
        return drawn(lambda s: next(seeds) + noise(), lambda s: 0.51 if s else 0.98)
    kept = {0.0: 0.2}
    bound = 0.55 if kind == "regained" else 0.5
    return drawn(
        lambda s: kept.get(s, 0.9) + noise(), lambda s: bound + (0.4 if not s and kind == "regained" else noise())
    )


@pytest.mark.parametrize("kind", ["kept", "regained", "control"])
def test_data_without_an_effect_rarely_hold(kind, monkeypatch):
    monkeypatch.setattr(intervals, "_RESAMPLES", 400)
    verdicts = [by_width(without_an_effect(np.random.default_rng(n), kind))["verdict"].item() for n in range(100)]
    assert verdicts.count("holds") <= 5


def test_data_with_an_effect_hold(monkeypatch):
    monkeypatch.setattr(intervals, "_RESAMPLES", 400)
    assert all(by_width(works(np.random.default_rng(n)))["verdict"].item() == "holds" for n in range(10))


def test_the_figure_has_a_panel_for_each_width_a_mark_in_every_field_and_frames_where_both_hold():
    rng = np.random.default_rng(0)
    table = fields(pd.concat([works(rng), works(rng).assign(width=128)]))
    figure = plot_fields(table)
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert [ax.get_title() for ax in panels] == ["width 64", "width 128"]
    for ax in panels:
        assert [line.get_marker() for line in ax.get_lines()] == ["x", "x", "o", "o"]
        assert sum(not patch.get_fill() for patch in ax.patches) == 1
        assert [label.get_text() for label in ax.get_xticklabels()] == ["none", "0.001", "0.003", "0.01"]
    assert len(figure_data(figure)) == len(table)
    assert "pending" in plot_fields(None).axes[0].texts[0].get_text()
