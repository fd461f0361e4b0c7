"""The rules that turn numbers into verdicts."""

import json
import math
import re

import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from trees import ROOT

from narrowlib.claims import (
    MEDIA_TYPE,
    READ,
    Assessment,
    assess,
    assess_all,
    is_near,
    load_claims,
    reasons,
    satisfies,
    verdict,
)
from narrowlib.intervals import Interval
from narrowlib.store.records import Record

BOOK = ROOT / "book"


ENOUGH = Record(
    "curves", pd.DataFrame({"setting": ["a"] * 20, "seed": range(20)}), {"n_steps": 200_000}, {"device": "a GPU"}
)
FEW = Record("curves", ENOUGH.frame.head(4), {"n_steps": 1_000}, ENOUGH.provenance)
BROAD, NARROW = Interval(0.7, 0.5, 0.8), Interval(0.0, 0.0, 0.15)


def h2(broad=BROAD, narrow=NARROW, record=None):
    return assess("H2", {"broad_converged": broad, "narrow_converged": narrow}, record=record)


@pytest.mark.parametrize(
    ("broad", "narrow", "expected"),
    [
        (BROAD, NARROW, "reproduced"),
        (BROAD, Interval(0.1, 0.0, 0.4), "in part"),  # the interval reaches over the bound
        (Interval(0.98, 0.95, 1.0), NARROW, "in part"),  # far from the paper's 27 of 40, with a tolerance of 0.2
        (Interval(0.1, 0.0, 0.3), Interval(0.3, 0.1, 0.5), "not reproduced"),
        (0.7, 0.0, "not reproduced"),  # numbers without intervals show nothing
        (Interval(math.nan), NARROW, "undecided at this scale"),
    ],
)
def test_a_record_that_has_what_decides(broad, narrow, expected):
    assert verdict(h2(broad, narrow, ENOUGH)) == expected


def test_less_than_what_decides_decides_nothing():
    table = h2(record=FEW)
    assert verdict(table) == "undecided at this scale" and table["holds"].all()
    assert reasons(table) == ["H2: runs of each setting: 4 of 10; steps of broad training: 1,000 of 60,000"]
    departing = Record("curves", ENOUGH.frame, ENOUGH.config, {"departures": {"width": {"here": 64, "paper": 128}}})
    far = Interval(0.98, 0.95, 1.0)
    assert verdict(h2(far, record=departing)) == verdict(h2(far, record=ENOUGH)) == "in part"  # no softer test


def test_a_page_shows_a_direction():
    assert verdict(h2(0.9, 0.0)) == "direction seen" and verdict(h2(0.9, 0.5)) == "direction not seen"
    assert verdict(h2(0.9, math.nan)) == "direction not seen"
    assert reasons(h2()) == [] and h2()["paper"].tolist() == [0.675, 0.0]


def test_what_only_records_measure_is_asked_of_no_page():
    quantity = {"what": "share", "paper": math.nan, "holds": "> 0.5", "tolerance": math.nan}
    claims = {"X1": {"quantities": {"there": quantity, "costly": quantity | {"only": "records"}}}}
    there, both = {"there": 0.9}, dict.fromkeys(("there", "costly"), Interval(0.9, 0.8, 1.0))
    assert verdict(assess("X1", there, claims=claims)) == "direction seen"
    assert verdict(assess("X1", both | {"costly": 0.1}, claims=claims)) == "direction not seen"
    assert verdict(assess("X1", both, record=ENOUGH, claims=claims)) == "reproduced"
    with pytest.raises(ValueError, match="claim X1 is about"):
        assess("X1", there, record=ENOUGH, claims=claims)


def test_near():
    assert is_near(Interval(math.nan), 0.5, 1.0) is False  # nothing measured is not near
    assert is_near(Interval(0.5), math.nan, math.nan) is None  # the paper has no value
    assert is_near(Interval(0.2, 0.1, 0.4), 0.5, 0.1) is True and is_near(Interval(0.2, 0.1, 0.3), 0.5, 0.1) is False


def shown(table):
    return DisplayFormatter().format(table)[0]


def test_notebooks_keep_what_was_assessed():
    (found,) = json.loads(json.dumps(shown(h2(narrow=Interval(math.nan)))[MEDIA_TYPE], allow_nan=False))
    assert (found["claim"], found["scale"], found["record"]) == ("H2", "this page", None)
    assert found["verdict"] == "direction not seen"
    broad = {"ours": 0.7, "low": 0.5, "high": 0.8, "direction": True, "holds": True, "near": True}
    assert found["quantities"]["broad_converged"] == broad
    assert found["quantities"]["narrow_converged"]["ours"] is None
    assert {"text/html", "text/plain"} <= set(shown(h2()))  # the table, as ever


def test_several_claims_in_one_table():
    values = {"H2": {"broad_converged": BROAD, "narrow_converged": NARROW}, "N1": dict.fromkeys(N1, 0.5)}
    table = assess_all(values, record=ENOUGH)
    assert table.index.tolist() == ["H2", "H2", "N1", "N1"]
    found = shown(table)[MEDIA_TYPE]
    assert [(each["scale"], each["verdict"]) for each in found] == [
        ("record", "reproduced"),
        ("record", "undecided at this scale"),
    ]
    assert found[0]["record"] == {"name": "curves", "device": "a GPU"}
    assert (verdict(table, "H2"), verdict(table, "N1")) == ("reproduced", "undecided at this scale")
    with pytest.raises(ValueError, match="claim is None; it must be one of H2, N1"):
        verdict(table)


N1 = ("shared_neurons", "above_permuted")


def test_what_is_made_of_an_assessment_is_a_plain_table():
    table = assess("N1", dict.fromkeys(N1, 0.5))
    assert isinstance(table, Assessment)
    for made in (table[table["holds"]], table.round(1), pd.concat([table, table]), table.copy()):
        assert not isinstance(made, Assessment) and MEDIA_TYPE not in shown(made)


def test_wrong_names_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"claims.yaml does not exist"):
        load_claims(tmp_path / "claims.yaml")
    (tmp_path / "twice.yaml").write_text("A1: {}\nA1: {}\n")
    with pytest.raises(ValueError, match=r"twice.yaml' cannot be read: it holds 'A1' more than once"):
        load_claims(tmp_path / "twice.yaml")
    with pytest.raises(ValueError, match="claim is 'H9'; it must be one of H1"):
        assess("H9", {})
    with pytest.raises(ValueError, match="claim H1 is about"):
        assess("H1", {"ratio": 1.0})


def test_claims_file_is_complete():
    for name, claim in load_claims().items():
        parts = {"chapter", "where", "statement", "decided_by", "quantities"}
        assert set(claim) - {"points", "targets", "base_loss", "limits", "ja"} == parts and claim["decided_by"], name
        assert (BOOK / f"{claim['chapter']}.md").is_file()
        for about in claim["quantities"].values():
            assert {"what", "paper", "source", "interval", "holds", "tolerance"} <= set(about)
            assert math.isnan(about["paper"]) or about["read"] in READ, name
            assert math.isnan(about["paper"]) or satisfies(about["paper"], about["holds"]), (
                f"{name}: the paper's own value breaks the rule"
            )


def test_shares_agree_with_counts():
    """PAPER: 27 of 40, 0 of 40, 19 of 40, 16 of 40."""
    claims = load_claims()
    h2, h3 = claims["H2"]["quantities"], claims["H3"]["quantities"]
    deep = h2["broad_converged"]["count"]
    assert deep == [27, 40] and h2["broad_converged"]["paper"] == 27 / 40
    assert h2["narrow_converged"]["count"] == [0, 40]
    assert h3["sooner_than_shallow"]["count"] == [19, 40] and h3["sooner_than_wide"]["count"] == [16, 40]


def test_a_table_shows_neither_row_numbers_nor_nan():
    shown = assess("N1", dict.fromkeys(N1, 0.5))._repr_html_()
    assert "<th></th>" not in shown and "NaN" not in shown and "\N{EN DASH}" in shown and "0.5" in shown
    by_claim = assess_all({"N1": dict.fromkeys(N1, 0.5)})._repr_html_()
    assert "<th>N1</th>" in by_claim


def test_words_of_a_quantity_stand_alone():
    """Chips and figures show one without those before it."""
    pointing = re.compile(r"^that\b|^those\b|^the same\b|\bthose need\b")
    quantities = [one for about in load_claims().values() for one in about["quantities"].values()]
    assert not [one["what"] for one in quantities if pointing.search(one["what"])]
