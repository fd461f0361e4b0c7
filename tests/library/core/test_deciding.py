"""What a record holds of what decides a claim."""

import pandas as pd
import pytest

from narrowlib.deciding import amount, check_conditions, shortfalls

FRAME = pd.DataFrame(
    {
        "method": ["a", "a", "a", "b"],
        "seed": [0, 1, 1, 0],
        "tokens": [10, 20, 30, 40],
        "size": [10, 10, 10, 10],
        "losses": [[1, 2], None, [1, 2, 3], [1, 2]],
    }
)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"setting": "n_steps"}, 5),
        ({"setting": "unknown"}, 0),
        ({"product": ["n_steps", "batch_size"], "over": "size"}, 1.5),
        ({"distinct": "seed"}, 2),
        ({"distinct": "seed", "per": ["method"]}, 1),  # b has one
        ({"distinct": "seed", "where": "method == 'a'"}, 2),
        ({"distinct": "repeat"}, 1),  # nothing tells the rows apart
        ({"most": "tokens", "per": ["method"], "over": "size"}, 3),
        ({"most": "unknown"}, 0),
        ({"items": "losses"}, 2),
        ({"items": "unknown"}, 0),
    ],
)
def test_amounts(condition, expected):
    assert amount(condition, FRAME, {"n_steps": 5, "batch_size": 3}) == expected


def test_shortfalls_name_both_amounts():
    conditions = [{"what": "runs", "least": 3, "distinct": "seed"}, {"what": "tokens", "least": 40, "most": "tokens"}]
    assert shortfalls(conditions, FRAME, {}) == ["runs: 2 of 3"]


@pytest.mark.parametrize(
    ("conditions", "told"),
    [
        (None, "it must be a list"),
        ([{"least": 3}], "has no what; it must be a text"),
        ([{"what": "runs", "least": "3"}], "it must be a number"),
        ([{"what": "runs", "least": 3}], "must be measured by one of"),
        ([{"what": "runs", "least": 3, "most": "a", "setting": "b"}], "must be measured by one of"),
    ],
)
def test_conditions_are_checked(conditions, told):
    with pytest.raises(ValueError, match=told):
        check_conditions(conditions, "claim 'H1'")
