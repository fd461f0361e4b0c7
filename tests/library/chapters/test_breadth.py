"""Chapter breadth: what its settings differ in, and rules that data without an effect do not pass."""

import numpy as np
import pandas as pd
import pytest
import torch

from narrowlib.chapters.breadth import (
    Config,
    answers,
    breadth_map,
    experiment,
    law_of_breadth,
    learning_summary,
    said,
    tables,
)
from narrowlib.chapters.breadth.config import BreadthConfig
from narrowlib.chapters.breadth.outcomes import law_said, map_said, only_harder
from narrowlib.chapters.censored import compare
from narrowlib.cmsp import CMSP, CMSPSampler, parity_labels

TINY = {
    "n_subtasks": 2, "subset_size": 1, "n_task_bits": 4, "n_seeds": 2, "width": 16, "batch_size": 32, "n_steps": 150,
    "learning_rate": 0.01, "shares": "0 0.5", "map_sizes": "1", "map_subtasks": "2", "map_bits": "4", "map_seeds": 2,
}  # fmt: skip


def times_of(samples, budget=1000.0):
    """Times to learn of as many runs; NaN for those that did not."""
    return pd.DataFrame({"seed": range(len(samples)), "samples": samples, "budget": budget})


def test_batches_hold_as_many_parts_of_every_task_as_asked():
    problem = CMSP(2, 2, 6, [(0,), (1,), (0, 1)])
    sampler = CMSPSampler(problem, 5, parts=(2, 0, 3))
    x, labels = sampler([torch.Generator().manual_seed(0)])
    assert x.shape == (1, 5, 5, 8) and labels.shape == (1, 5, 5)
    assert sampler.task_of_part().tolist() == [0, 0, 2, 2, 2]
    assert x[0, :, :, :2].flatten(0, 1).unique(dim=0).tolist() == [[1, 0], [1, 1]]
    assert torch.equal(parity_labels(x, problem), labels.long())
    plain, equal = (CMSPSampler(problem, 5, parts=parts) for parts in (None, (1, 1, 1)))
    for one, other in zip(*(each([torch.Generator().manual_seed(1)]) for each in (plain, equal)), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match=r"parts is \(0, 0, 0\); it must hold counts of 3 tasks"):
        CMSPSampler(problem, 5, parts=(0, 0, 0))


def test_settings_of_a_question_differ_in_what_is_beside_the_composite_alone():
    settings = [each for each in BreadthConfig().settings() if each.question == "hardness"]
    totals = {sum(phase.parts) for each in settings for phase in each.phases}
    assert len(totals) == 1 and len({each.watched for each in settings}) == 1
    owned = {each.name: {i for task in each.problem.tasks if len(task) == 1 for i in task} for each in settings}
    assert owned == {"its own parts": {0, 1, 2}, "other parts": {3, 4, 5}, "alone": set()}
    for each in (each for each in BreadthConfig().settings() if each.question == "equal bits"):
        composite, other = each.watched
        sizes = {len(each.problem.positions(task)) for task in (composite, other)}
        assert len(sizes) == 1 and len(composite) == len(other) and not set(composite) & set(other)
        assert {(i,) for i in composite} < set(each.problem.tasks)
        assert not {(i,) for i in other} & set(each.problem.tasks)
    for each in (each for each in BreadthConfig().settings() if each.question == "share"):
        (phase,) = each.phases
        assert sum(phase.parts[:-1]) / sum(phase.parts) == pytest.approx(float(each.name), abs=0.04)


def test_easy_tasks_are_learned_and_the_tables_hold_every_run(monkeypatch):
    trained, phase_of = [], experiment.train_stack
    monkeypatch.setattr(experiment, "train_stack", lambda *a, **k: trained.append(a[1]) or phase_of(*a, **k))
    config = Config(**TINY, device="cpu")
    table = tables(config, progress=False)["times-to-learn"]
    kinds = {(each.problem, each.phases, each.watched, each.question == "map") for each in config.experiment.settings()}
    assert len(trained) == sum(len(phases) for _, phases, *_ in kinds)
    again = ["its own parts", "interleaved", "all"]  # of three questions, trained once
    assert table[table["setting"].isin(again)].groupby("seed")["samples"].nunique().eq(1).all()
    assert set(table["question"]) == {"hardness", "equal bits", "share", "which", "curriculum", "map"}
    per_setting = table.groupby(["question", "setting", "task"]).size()
    assert (per_setting == 2).all()
    assert table["samples"].notna().mean() > 0.5
    assert (table["samples"].dropna() <= table["budget"][table["samples"].notna()]).all()
    late = table.query("setting == 'parts first, then the whole'").dropna()
    assert (late["samples"] > 0.25 * late["budget"]).all()  # not before it is in the data
    assert len(answers(table)) == 5 + table.query("question == 'equal bits'")["setting"].nunique()
    assert learning_summary(table)["n_seeds"].sum() == len(table)
    assert breadth_map(table)["n_seeds"].tolist() == [2]
    again = tables(config, progress=False)["times-to-learn"]
    pd.testing.assert_frame_equal(table, again)


def test_an_effect_holds_its_opposite_does_not_and_few_runs_decide_nothing():
    fast, slow = times_of([100.0, 120, 90, 110, 130]), times_of([np.nan, 900, np.nan, 800, np.nan])
    found = compare(fast, slow)
    assert found["verdict"] == "holds" and found["low"] > 5 and found["log_rank"] > 2.58
    assert compare(slow, fast)["verdict"] == "does not hold"
    assert compare(fast, fast)["verdict"] == "undecided"
    assert compare(fast[:4], slow[:4])["verdict"] == "undecided"
    never = times_of([np.nan] * 6)
    assert compare(never, never)["verdict"] == "undecided" and compare(never, never)["ratio"] == 1
    assert "at least" in said(pd.Series(found, name="learned sooner here than there"))
    assert "at most" in said(pd.Series(compare(slow, fast), name="learned sooner there than here"))
    both = said(pd.Series(compare(slow, slow), name="learned sooner here than there"))
    assert "spends 1.0 times" in both  # where neither kind always learns, the ratio is no bound
    assert "nan" not in said(pd.Series(compare(fast[:1], fast[:1]), name="learned sooner here than there"))


@pytest.mark.parametrize("paired", [False, True])
def test_data_without_an_effect_rarely_hold(paired):
    """Of 300 draws from one distribution, censored at the budget: at most 5% beyond chance."""
    rng = np.random.default_rng(0)
    holds = 0
    for _ in range(300):
        drawn = rng.lognormal(6.4, 0.6, (2, 20))
        first, second = (times_of(np.where(times < 1000, times, np.nan)) for times in drawn)
        holds += compare(first, second, paired=paired)["verdict"] == "holds"
    assert holds <= 0.05 * 300


def test_a_law_is_found_where_there_is_one():
    rows = [
        {"question": "share", "seed": seed, "atomic_share": share, "samples": 50 * (1 + seed / 10) / (1 - share) ** 0.5}
        for share in (0.0, 0.25, 0.5, 0.75)
        for seed in range(6)
    ]
    law = law_of_breadth(pd.DataFrame(rows).assign(budget=1000.0))
    assert law["exponent"] == pytest.approx(0.5) and law["best_share"] == 0 and law["n_shares"] == 4
    few = pd.DataFrame(rows[:12]).assign(budget=1000.0)
    assert np.isnan(law_of_breadth(few)["exponent"])


def test_sentences_say_what_the_numbers_say():
    verdicts = {
        "composite of 9 bits": ("holds", 4.0),
        "composite of 12 bits": ("undecided", 0.9),
        "another": ("no", 0.1),
    }
    found = pd.DataFrame(verdicts, index=["verdict", "low"]).T
    assert only_harder(found).endswith("at least 4.0 (the smallest lower bound). In the others, this is not shown.")
    assert only_harder(found[1:]).endswith(
        "In 0 of 1 comparisons of equal bits, it is learned sooner than a parity without trained parts."
    )
    assert "explain" not in only_harder(found[2:])  # nothing was compared
    assert "In 1 of 1" in only_harder(found[:1]) and only_harder(found[:1]).endswith("does not explain this.")
    law = {"best_share": 0.25, "n_shares": 5, "exponent": 0.5, "low": 0.25, "high": 0.75}
    assert law_said(law)[1].endswith("to the power -0.50 (95% interval -0.75 to -0.25).")
    assert law_said(law | {"low": -0.1})[1].endswith("the interval contains 0, so no power law is seen.")
    assert law_said(law | {"low": np.nan, "high": np.nan})[1].endswith("-0.50 (no interval from one run).")
    few = law_said(law | {"n_shares": 1})[1]
    assert few == "No power law can be fitted: every run learned at only 1 share."
    table = pd.DataFrame({"n_task_bits": [8, 8, 8], "ratio": [2.0, 0.5, 1.0], "learned_broad": [1, 1, 0]})
    (line,) = map_said(table.assign(learned_narrow=[1, 1, 0]))
    assert line == "8 task bits: broad training spends fewer samples at 1 of 2 points, narrow training at 1."


def test_too_few_task_bits_for_a_parity_as_hard_are_refused():
    with pytest.raises(ValueError, match="n_task_bits is 17; twice 3 sub-tasks of 3 bits need at least 18"):
        BreadthConfig(n_task_bits=17)
