"""The rules that turn numbers into verdicts."""

import math
from pathlib import Path

import pytest

from narrowlib.claims import assess, load_claims, satisfies, verdict

BOOK = Path(__file__).parents[1] / "book"


@pytest.mark.parametrize(
    ("value", "rule", "holds"),
    [(1, "> 1", False), (1, ">= 1", True), (0.5, "< 1", True), (2, "<= 1", False), (float("nan"), "> 0", False)],
)
def test_rules(value, rule, holds):
    assert satisfies(value, rule) is holds


@pytest.mark.parametrize("rule", ["= 1", "about 1", ""])
def test_unknown_rules_are_refused(rule):
    with pytest.raises(ValueError, match="it must be one of <, <=, >, >="):
        satisfies(1, rule)


@pytest.mark.parametrize(
    ("broad", "narrow", "expected"), [(0.9, 0.0, "reproduced"), (0.9, 0.5, "partly"), (0.1, 0.5, "not")]
)
def test_verdicts(broad, narrow, expected):
    table = assess("H2", {"broad_converged": broad, "narrow_converged": narrow})
    assert verdict(table) == expected
    assert table["paper"].tolist() == [0.675, 0.0]


def test_a_composite_that_is_never_learned_does_not_count():
    table = assess("H1", {"composite_last": 0.0, "composite_after_atomics": float("nan")})
    assert verdict(table) == "not"


def test_wrong_names_are_refused():
    with pytest.raises(ValueError, match="claim is 'H9'; it must be one of H1"):
        assess("H9", {})
    with pytest.raises(ValueError, match="claim H1 is about"):
        assess("H1", {"ratio": 1.0})


def test_claims_file_is_complete():
    for name, claim in load_claims().items():
        assert set(claim) == {"chapter", "where", "statement", "quantities"}, name
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


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"claims.yaml is not where it should be"):
        load_claims(tmp_path / "claims.yaml")
