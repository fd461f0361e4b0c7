"""The hierarchy experiment: its settings, its table, and the measures taken from it."""

import math

import numpy as np
import pandas as pd
import pytest

from narrowlib.chapters.hierarchy import experiment as hierarchy
from narrowlib.chapters.hierarchy.config import Config, HierarchyConfig, matched_width
from narrowlib.chapters.hierarchy.experiment import (
    compare_counts,
    converged_runs,
    counted_runs,
    final_losses,
    learning_curves,
    samples_to_learn,
    tables,
)
from narrowlib.chapters.hierarchy.outcomes import breadth_said, chance_to_tell, composite_times, depth_said, order_said

TINY = HierarchyConfig(
    n_subtasks=2, subset_size=2, n_task_bits=6, n_seeds=3, width=16, batch_size=16, n_steps=40, learning_rate=1e-2
)


@pytest.fixture(scope="module")
def curves():
    return learning_curves(TINY, device="cpu", progress=False)


def test_defaults_are_the_papers():
    deep, narrow, shallow, wide = HierarchyConfig().settings
    assert deep.sizes == narrow.sizes == (68, 128, 128, 2)
    assert (shallow.sizes, wide.sizes) == ((68, 128, 2), (68, 361, 2))
    assert deep.problem.task_names == ("{0}", "{1}", "{2}", "{3}", "{0,1,2,3}")
    assert narrow.problem.task_names == ("{0,1,2,3}",)
    assert (deep.training.n_steps, narrow.training.n_steps) == (200_000, 1_000_000)
    assert (deep.training.learning_rate, deep.training.eps) == (1e-3, 1e-5)
    assert matched_width((68, 128, 128, 2)) == 361


def test_table_has_one_row_per_setting_seed_record_and_task(curves):
    keys = ["setting", "seed", "step", "task"]
    assert not curves.duplicated(keys).any()
    assert curves.groupby("setting")["seed"].nunique().eq(3).all()
    broad, narrow = (curves[curves["data"] == data] for data in ("broad", "narrow"))
    assert set(broad["task"]) == {"{0}", "{1}", "{0,1}"} and set(narrow["task"]) == {"{0,1}"}
    assert narrow["n_samples"].max() == broad["n_samples"].max()  # as many samples in total
    assert narrow["n_composite_samples"].max() == 3 * broad["n_composite_samples"].max()
    assert curves["loss"].between(0, 5).all()
    assert set(curves.loc[curves["task"] == "{0,1}", "kind"]) == {"composite"}


def test_depth_is_asked_again_on_an_easier_task_with_more_runs():
    config = Config(**TINY.to_parameters(), device="cpu")
    (curves,) = tables(config, piece="depth-curves", progress=False).values()
    assert set(curves["task"]) == {"{0,1}"} and set(curves["data"]) == {"broad"} and curves["depth"].nunique() == 2
    assert curves.groupby("setting")["seed"].nunique().tolist() == [12, 12, 12]
    easier = HierarchyConfig().easier
    assert (easier.subset_size, easier.n_task_bits, easier.n_seeds) == (2, 32, 160)
    assert TINY.easier.n_task_bits == 3 and TINY.replace(subset_size=1, n_task_bits=2).easier.n_task_bits == 2
    said = depth_said(curves).splitlines()
    assert len(said) == 3 and all("of 12 runs learn the composite" in line for line in said[:2])
    assert said[2] == "Depth is not shown to help on this task."
    late = curves["step"] > curves["step"].max() / 2
    learned = curves.assign(loss=1.0 - (late | (curves["depth"] == 3)))
    assert depth_said(learned).endswith("Depth helps on this task.")
    with pytest.raises(ValueError, match="piece is 'depth'; it must be one of learning-curves, depth-curves"):
        tables(config, piece="depth")


def test_runs_that_have_learned_everything_leave_and_count_as_converged():
    easy = TINY.replace(subset_size=1, n_task_bits=4, n_seeds=2, width=32, batch_size=64, n_steps=600)
    whole = learning_curves(easy, device="cpu", progress=False)
    short = learning_curves(easy.replace(leave_below=0.02), device="cpu", progress=False)
    assert len(short) < len(whole) and short["loss"].notna().all()
    keys = ["setting", "seed", "step", "task"]
    together = short.merge(whole, on=keys, suffixes=("", "_whole"))
    np.testing.assert_allclose(together["loss"], together["loss_whole"], rtol=1e-3, atol=1e-4)
    assert len(together) == len(short)
    last = short[short["step"] == short.groupby(["setting", "seed"])["step"].transform("max")]
    assert (last.groupby(["setting", "seed"])["loss"].max() < 0.02).any()
    pd.testing.assert_frame_equal(converged_runs(short), converged_runs(whole))


def test_a_seed_does_not_depend_on_how_seeds_are_chunked(curves, monkeypatch):
    monkeypatch.setattr(hierarchy, "runs_per_chunk", lambda *_: 1)
    one_by_one = learning_curves(TINY, device="cpu", progress=False)
    keys = ["setting", "seed", "step", "task"]
    both = curves.merge(one_by_one, on=keys, validate="one_to_one")
    assert len(both) == len(curves)
    np.testing.assert_allclose(both["loss_x"], both["loss_y"], rtol=1e-3, atol=1e-3)


def made_up(losses_by_seed, setting="broad, depth 3"):
    """Curves with given composite losses; the atomic tasks are learned at the second record."""
    rows = []
    for seed, losses in enumerate(losses_by_seed):
        for step, loss in enumerate(losses, start=1):
            for task, kind, value in (("{0}", "atomic", 1.0 if step < 2 else 0.0), ("{0,1}", "composite", loss)):
                rows.append((setting, 100, seed, step, 10 * step, task, kind, value))
    return pd.DataFrame(rows, columns=["setting", "n_parameters", "seed", "step", "n_samples", "task", "kind", "loss"])


def test_convergence_is_the_mean_of_the_last_steps():
    falling = [1.0] * 98 + [0.05, 0.05]  # the last 2% of 100 steps
    spike_at_end = [0.01] * 99 + [0.5]
    just_not = [1.0] * 98 + [0.1, 0.1]
    curves = made_up([falling, spike_at_end, just_not])
    assert final_losses(curves)["loss"].tolist() == [0.05, pytest.approx(0.255), 0.1]
    (row,) = converged_runs(curves).itertuples()
    assert (row.converged, row.n_seeds) == (1, 3)  # 0.1 is not below 0.1
    assert row.low < row.share < row.high


def test_order_of_learning():
    table = samples_to_learn(made_up([[1.0, 1.0, 0.4], [1.0, 0.4, 0.0], [1.0, 1.0, 1.0]]))
    assert table["last_atomic"].tolist() == [20, 20, 20]
    np.testing.assert_equal(table["composite"].tolist(), [30, 20, np.nan])
    np.testing.assert_equal(table["ratio"].tolist(), [1.5, 1.0, np.nan])


def test_unlearned_atomic_task_is_not_overlooked():
    curves = made_up([[0.0, 0.0, 0.0]])
    never = curves[curves["task"] == "{0}"].assign(task="{1}", loss=1.0)
    assert samples_to_learn(pd.concat([curves, never]))["last_atomic"].isna().all()


def test_counts_are_compared_by_fishers_exact_test():
    ours = counted_runs({"a": (5, 5), "b": (5, 5), "c": (0, 5)})
    paper = counted_runs({"c": (0, 40), "b": (2, 40), "a": (27, 40)})
    table = compare_counts(ours, paper).set_index("setting")
    assert table.loc["a", ["ours", "paper"]].tolist() == ["5 of 5", "27 of 40"]
    assert table["agree"].to_dict() == {"a": True, "b": False, "c": True}
    ways = math.comb(7, 5) / math.comb(45, 5)  # that all of ours are among the seven successes
    assert table.loc["b", "p_value"] == pytest.approx(ways)
    assert table.loc["c", "p_value"] == 1


def test_time_to_learn_is_that_of_the_first_record_below_half_a_bit(curves):
    some = curves[curves["step"].isin(sorted(curves["step"].unique())[:3])].copy()
    some["loss"] = 1.0
    early = (some["setting"] == "broad, depth 3") & (some["seed"] == 1) & (some["kind"] == "composite")
    second, third = some.loc[early].sort_values("step").index[1:3]
    some.loc[[second, third], "loss"] = [0.4, 0.3]
    times = composite_times(some).set_index(["setting", "seed"])
    assert times["step"].count() == 1 and times.loc[("broad, depth 3", 1), "step"] == some.loc[second, "step"]
    assert times.loc[("broad, depth 3", 1), "samples"] == some.loc[second, "n_samples"]
    assert times["budget"].to_dict() == some.groupby(["setting", "seed"])["n_samples"].max().to_dict()


def test_a_record_tells_equal_chances_apart_seldom_and_others_the_more_often_the_larger_it_is():
    assert chance_to_tell(10, (0.6, 0.6)) < 0.06
    assert chance_to_tell(20, (0.95, 0.02)) > 0.99
    few, many = (chance_to_tell(n, (0.675, 0.4)) for n in (10, 80))
    assert 0.1 < few < 0.5 < many


def test_what_a_record_can_tell_of_depth_is_said(curves):
    papers = counted_runs({"broad, depth 3": (27, 40), "broad, depth 2": (19, 40), "broad, depth 2, wide": (16, 40)})
    lines = depth_said(curves, papers).splitlines()
    assert len(lines) == 2 and all("of records with 3 runs of each setting would detect" in line for line in lines)
    assert "68% and 48%" in lines[0] and "against depth 2, wide: log-rank statistic" in lines[1]


def test_what_stands_behind_order_and_breadth_is_said(curves):
    some = curves.assign(loss=1.0)
    deep = some["setting"] == "broad, depth 3"
    learned = deep & (some["seed"] == 0) & (some["step"] > some["step"].min() * (1 + (some["kind"] == "composite")))
    some.loc[learned, "loss"] = 0.0
    assert order_said(some).startswith("Order: 1 of 3 runs learn every task within")
    assert order_said(some).endswith("in 1 of these 1, the composite comes last. The other runs count against H1.")
    assert order_said(curves.assign(loss=1.0)).startswith("Order: 0 of 3 runs learn every task within")
    assert "these" not in order_said(curves.assign(loss=1.0))
    assert "counts" not in order_said(curves.assign(loss=0.0)) and "3 of 3" in order_said(curves.assign(loss=0.0))
    said = breadth_said(some)
    assert "1 of 3 broad runs and 0 of 3 narrow runs converge on the composite. Narrow runs see 3 times" in said
    assert "p = 1)" in said
