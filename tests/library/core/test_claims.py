"""The rules that turn numbers into verdicts."""

import json
import math

import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from trees import ROOT

from narrowlib.claims import MEDIA_TYPE, Assessment, assess, assess_all, is_near, load_claims, satisfies, verdict
from narrowlib.store.records import Record

BOOK = ROOT / "book"


@pytest.mark.parametrize(
    ("broad", "narrow", "expected"), [(0.9, 0.0, "reproduced"), (0.9, 0.5, "partly"), (0.1, 0.5, "not")]
)
def test_verdicts(broad, narrow, expected):
    table = assess("H2", {"broad_converged": broad, "narrow_converged": narrow})
    assert verdict(table) == expected
    assert table["paper"].tolist() == [0.675, 0.0]
    never = assess("H1", {"composite_last": 0.0, "composite_after_atomics": float("nan")})  # no composite was learned
    assert verdict(never) == "not"


RECORD = Record("curves", pd.DataFrame(), provenance={"device": "a GPU", "departures": {}})


@pytest.mark.parametrize(
    ("broad", "near", "expected"), [(0.7, True, "reproduced"), (0.95, False, "partly"), (0.4, False, "partly")]
)
def test_at_the_papers_scale_values_have_to_be_near(broad, near, expected):
    """The paper has 27 of 40, with a tolerance of 0.2."""
    table = assess("H2", {"broad_converged": broad, "narrow_converged": 0.0}, record=RECORD)
    assert table["near"].tolist() == [near, True] and verdict(table) == expected
    assert verdict(assess("H2", {"broad_converged": broad, "narrow_converged": 0.0})) in ("reproduced", "partly")


def test_near():
    assert is_near(math.nan, 0.5, 1.0) is False  # nothing measured is not near
    assert is_near(0.5, math.nan, math.nan) is None  # the paper has no value
    table = assess("N1", {"shared_neurons": 0.5}, record=RECORD)
    assert table["near"].tolist() == [None] and verdict(table) == "reproduced"


def shown(table):
    return DisplayFormatter().format(table)[0]


def test_notebooks_keep_what_was_assessed():
    h2 = assess("H2", {"broad_converged": 0.9, "narrow_converged": math.nan})
    (found,) = json.loads(json.dumps(shown(h2)[MEDIA_TYPE], allow_nan=False))
    assert found["claim"] == "H2" and found["scale"] == "this page" and found["record"] is None
    assert found["verdict"] == verdict(h2) == "partly"
    assert found["quantities"]["broad_converged"] == {"ours": 0.9, "holds": True}
    assert found["quantities"]["narrow_converged"] == {"ours": None, "holds": False}
    assert {"text/html", "text/plain"} <= set(shown(h2))  # the table, as ever


def test_several_claims_in_one_table():
    values = {"H2": {"broad_converged": 0.7, "narrow_converged": 0.0}, "N1": {"shared_neurons": 0.0}}
    table = assess_all(values, record=RECORD)
    assert table.index.tolist() == ["H2", "H2", "N1"]
    found = shown(table)[MEDIA_TYPE]
    assert [(claim["claim"], claim["scale"], claim["verdict"]) for claim in found] == [
        ("H2", "paper", "reproduced"),
        ("N1", "paper", "not"),
    ]
    assert found[0]["record"] == RECORD.provenance
    assert {claim: verdict(rows) for claim, rows in table.groupby(level="claim")} == {"H2": "reproduced", "N1": "not"}


def test_what_is_made_of_an_assessment_is_a_plain_table():
    table = assess("N1", {"shared_neurons": 0.5})
    assert isinstance(table, Assessment)
    for made in (table[table["holds"]], table.round(1), pd.concat([table, table]), table.copy()):
        assert not isinstance(made, Assessment) and MEDIA_TYPE not in shown(made)


def test_wrong_names_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"claims.yaml is not where it should be"):
        load_claims(tmp_path / "claims.yaml")
    with pytest.raises(ValueError, match="claim is 'H9'; it must be one of H1"):
        assess("H9", {})
    with pytest.raises(ValueError, match="claim H1 is about"):
        assess("H1", {"ratio": 1.0})


def test_claims_file_is_complete():
    for name, claim in load_claims().items():
        assert set(claim) - {"points"} == {"chapter", "where", "statement", "quantities"}, name
        assert (BOOK / f"{claim['chapter']}.md").is_file()
        for about in claim["quantities"].values():
            assert {"what", "paper", "source", "holds", "tolerance"} <= set(about)
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
    for name, converged in (("depth_3_minus_depth_2", 19), ("depth_3_minus_depth_2_wide", 16)):
        assert h3[name]["count"] == [converged, 40]
        assert h3[name]["paper"] == pytest.approx((27 - converged) / 40)


def test_a_table_shows_neither_row_numbers_nor_nan():
    shown = assess("N1", {"shared_neurons": 0.5})._repr_html_()
    assert "<th></th>" not in shown and "NaN" not in shown and "\N{EN DASH}" in shown and "0.5" in shown
    by_claim = assess_all({"N1": {"shared_neurons": 0.5}})._repr_html_()
    assert "<th>N1</th>" in by_claim
