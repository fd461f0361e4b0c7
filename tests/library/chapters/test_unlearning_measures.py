"""What answers say on claim U1: intervals, levels and wins by hand, and the paper's own table."""

import numpy as np
import pandas as pd
import pytest

from narrowlib.chapters.unlearning import experiment
from narrowlib.chapters.unlearning.config import Config
from narrowlib.chapters.unlearning.measures import (
    accuracies,
    arrows,
    clear_wins,
    interval,
    paper_table,
    tokens_to_relearn,
    unlearning_measures,
)
from narrowlib.claims import load_claims


def answers_of(**rates):
    """Answers to 100 facts; by method and sparsity, the number of right ones before, between and after."""
    rows = []
    for name, right in rates.items():
        method, _, percent = name.partition("_")
        for step, n_right in enumerate(right):
            about = {"method": method, "sparsity": int(percent or 0) / 100, "step": step, "tokens": 64 * step}
            rows += [
                {**about, "prompt": f"p{fact}", "cloze": fact < n_right, "choice": fact < n_right, "loss": 1.0}
                for fact in range(100)
            ]
    return pd.DataFrame(rows)


ANSWERS = answers_of(base=(60, 70, 85), random_30=(0, 20, 30), attribution_30=(20, 30, 60), random_80=(0, 25, 30),
                     attribution_80=(3, 28, 31))  # fmt: skip


def test_accuracies_have_intervals_around_them():
    table = accuracies(ANSWERS).query("measure == 'cloze'").set_index(["method", "sparsity"])
    row = table.loc[("attribution", 0.3)]
    assert (row["before"], row["after"], row["n_facts"]) == (0.2, 0.6, 100)
    normal = 1.96 * np.sqrt(0.6 * 0.4 / 100)
    assert row["after_low"] == pytest.approx(0.6 - normal, abs=0.02)
    assert row["after_high"] == pytest.approx(0.6 + normal, abs=0.02)
    assert interval(np.zeros(10)) == (0.0, 0.0)


def test_a_win_is_clear_only_beyond_the_interval():
    wins = clear_wins(ANSWERS).set_index(["sparsity", "measure"])["winner"]
    assert wins[0.3].tolist() == ["random", "random"] and wins[0.8].isna().all()
    alone = clear_wins(ANSWERS[ANSWERS["method"] != "random"])
    assert alone["winner"].isna().all()  # no contest


def test_measures_by_hand():
    measures = unlearning_measures(ANSWERS)
    assert measures["left"].value == pytest.approx((0.03 / 0.6 + (0.03 - 0.25) / (0.6 - 0.25)) / 2)
    regained = (0.305 / 0.85 + (0.305 - 0.25) / (0.85 - 0.25)) / 2
    before = (0.015 / 0.6 + (0.015 - 0.25) / (0.6 - 0.25)) / 2
    assert measures["regained"].value == pytest.approx(regained)
    assert measures["brought_back"].value == pytest.approx(regained - before)
    assert measures["largest_win"] == (1.0, 0.5, 1.0)  # random is always lowest, and clearly at 30%


def test_tokens_to_a_level():
    table = tokens_to_relearn(ANSWERS, 0.5, "choice").set_index(["method", "sparsity"])
    assert table.loc[("base", 0.0), "tokens"] == 0
    assert table.loc[("attribution", 0.3), "tokens"] == 128  # 0.25 + 0.5 * 0.35 is first passed after two steps
    assert np.isnan(table.loc[("random", 0.8), "tokens"]) and table["seen"].eq(128).all()
    with pytest.raises(ValueError, match="level is 2; it must be a number from 0 to 1"):
        tokens_to_relearn(ANSWERS, 2)
    with pytest.raises(ValueError, match="measure is 'loss'; it must be one of cloze, choice"):
        tokens_to_relearn(ANSWERS, 0.5, "loss")


def test_the_claim_has_the_values_of_the_papers_table():
    table, quantities = paper_table(), load_claims()["U1"]["quantities"]
    assert len(table) == 10 * 5
    known = {}
    for end in ("before", "after"):
        above = table.assign(above=table[end] - 0.25 * (table["benchmark"] != "CounterFact"))
        by_model = above.pivot(index=["method", "sparsity"], columns="benchmark", values="above")
        base = by_model.loc[("base", 0.0)]
        known[end] = (by_model.query("sparsity == 0.8") / base.where(base > 0)).mean(axis=1)
    assert quantities["left"]["paper"] == pytest.approx(known["before"].max(), abs=0.0005)
    assert quantities["regained"]["paper"] == pytest.approx(known["after"].mean(), abs=0.0005)
    back = known["after"].mean() - known["before"].mean()
    assert quantities["brought_back"]["paper"] == pytest.approx(back, abs=0.0005)
    after = table.query("sparsity > 0").pivot(index=["sparsity", "benchmark"], columns="method", values="after")
    lowest = after.eq(after.min(axis=1), axis=0)
    wins = lowest[lowest.sum(axis=1) == 1].sum()
    assert [wins.max(), len(after)] == quantities["largest_win"]["count"]


def test_arrows_keep_the_order_of_methods():
    table = arrows(paper_table(), "benchmark")
    assert table.columns[0] == "CounterFact" and table.index[0] == ("base", 0.0) and table.index[-1] == ("lasso", 0.8)
    assert table.loc[("attribution", 0.3), "ARC-Easy"] == "0.355\N{NO-BREAK SPACE}→\N{NO-BREAK SPACE}0.688"


def test_models_of_near_sparsities_are_kept_apart(tmp_path, monkeypatch):
    def answered(self, method, sparsity):
        return {"answers": pd.DataFrame({"method": [method], "sparsity": [sparsity]})}

    monkeypatch.setattr(experiment._Study, "answered", answered)
    config = Config(sparsities=(0.5, 0.501, 0.5010001), methods=("random",), checkpoints=str(tmp_path))
    found = experiment.tables(config, progress=False)["answers"]
    assert found["sparsity"].tolist() == [sparsity for _, sparsity in config.runs()]
