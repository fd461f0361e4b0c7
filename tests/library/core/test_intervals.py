"""Intervals: their values by hand, their coverage, and what has none."""

import math

import numpy as np
import pytest

from narrowlib.intervals import Interval, bootstrap, largest, least, mean, median, share, share_above, sooner


def test_values_and_bounds():
    found = mean(np.arange(100.0))
    assert found.value == 49.5 and found.low == pytest.approx(49.5 - 1.96 * 2.9, abs=0.4)
    assert median([1, 2, 9]).value == 2 and mean([2, 2, 2]) == (2, 2, 2)
    assert share([True] * 10)[:2] == pytest.approx((1, 0.722), abs=1e-3)
    assert math.isnan(mean([]).value) and math.isnan(share([]).value) and math.isnan(mean([1.0]).low)


@pytest.mark.parametrize("values", [[math.nan, 1, 1], [0, 0, math.nan], [None, 1]])
def test_what_holds_a_nan_has_no_value(values):
    for of in (mean, median, share):
        assert all(map(math.isnan, of(values)))


def test_few_values_are_covered_as_often_as_is_said():
    rng = np.random.default_rng(0)
    found = [mean(rng.normal(size=6)) for _ in range(400)]
    assert np.mean([each.low <= 0 <= each.high for each in found]) == pytest.approx(0.95, abs=0.03)


def test_rows_of_one_sample_are_resampled_together():
    pairs = np.stack([np.arange(20.0), np.arange(20.0) + 1])
    assert bootstrap(lambda drawn: (drawn[1] - drawn[0]).mean(-1), pairs) == (1, 1, 1)


def test_sooner_is_the_log_rank_statistic():
    """By hand: of the ends at 1 and 2, 1/2 and 2/3 are expected in the second group, which has none."""
    assert sooner([1, 2], [3, 4], until=9).value == pytest.approx((1 / 2 + 2 / 3) / math.sqrt(1 / 4 + 2 / 9))
    early, never = [1, 2, 3, 4, 5], [math.nan] * 5
    assert sooner(early, never, until=9).low > 0 and sooner(never, early, until=9).high < 0
    assert sooner(never, never, until=9).value == sooner([1.0], [1.0], until=9).value == 0
    assert math.isnan(sooner(never, never, until=9).low)


def test_together():
    two = [Interval(2, 1.5, 3), Interval(1.2, 0.8, 4)]
    assert least(two) == (1.2, 0.8, 3) and largest(two) == (2, 1.5, 4)
    assert share_above(two) == (1, 0.5, 1) and share_above([Interval(2)]).value == 1
    unknown = Interval(math.nan)
    assert math.isnan(share_above([*two, unknown]).value) and math.isnan(least([*two, unknown]).value)
    assert math.isnan(share_above([]).value) and math.isnan(least([]).value)
