"""Intervals that claims are decided on: by bootstrap over runs, blocks or facts; of shares; and the log-rank test."""

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import CensoredData, DegenerateDataWarning, binomtest, logrank, norm, t
from scipy.stats import bootstrap as scipy_bootstrap

CONFIDENCE = 0.95
_RESAMPLES, _SEED, _BATCH = 2_000, 0, 250


class Interval(NamedTuple):
    """A value with lower and upper bounds at a stated confidence; the bounds are NaN if nothing is known."""

    value: float
    low: float = math.nan
    high: float = math.nan


def bootstrap(statistic: Callable[..., Any], *samples: Any, confidence: float = CONFIDENCE) -> Interval:
    """Percentile bootstrap interval of a statistic, the same in every run.

    The percentiles are moved outwards as far as Student's quantiles lie beyond those of a normal distribution, since
    those of few values are too narrow (Hesterberg 2015, "expanded percentile").

    Parameters
    ----------
    statistic : callable
        Of as many arrays as there are samples; it takes them with leading axes and reduces their last one.
    *samples : array_like, shape (..., n)
        What is resampled stands along the last axis, every sample apart from the others.  Values that belong together
        (pairs) are rows of one sample.
    confidence : float

    Returns
    -------
    Interval
        Without bounds where a sample holds fewer than two values; without a value where one is empty.
    """
    arrays = [np.asarray(sample, float) for sample in samples]
    lengths = [array.shape[-1] for array in arrays]
    if min(lengths) == 0:
        return Interval(math.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(statistic(*arrays))
    if min(lengths) < 2 or not math.isfinite(value):
        return Interval(value)

    def of_places(*places: np.ndarray, axis: int = -1) -> Any:
        return statistic(*(array[..., where] for array, where in zip(arrays, places, strict=True)))

    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # all values alike: an interval of no width
        found = scipy_bootstrap(
            [np.arange(n) for n in lengths],
            of_places,
            n_resamples=_RESAMPLES,
            batch=_BATCH,
            vectorized=True,
            confidence_level=confidence,
            method="percentile",
            rng=np.random.default_rng(_SEED),
        )
    drawn = found.bootstrap_distribution
    n = min(lengths)
    tail = norm.sf(math.sqrt(n / (n - 1)) * t.ppf((1 + confidence) / 2, n - 1))
    low, high = np.nanquantile(drawn, [tail, 1 - tail]) if np.isfinite(drawn).any() else (math.nan, math.nan)
    return Interval(value, float(low), float(high))


def mean(values: Any) -> Interval:
    """Mean, with its bootstrap interval."""
    return bootstrap(lambda drawn: drawn.mean(-1), values)


def median(values: Any) -> Interval:
    """Median, with its bootstrap interval."""
    return bootstrap(lambda drawn: np.median(drawn, axis=-1), values)


def correlation(pairs: np.ndarray) -> np.ndarray:
    """Pearson's r of two rows, (2, ..., n) to (...), for `bootstrap`."""
    x, y = pairs - pairs.mean(-1, keepdims=True)
    return (x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1))


def share(are: Any, confidence: float = CONFIDENCE) -> Interval:
    """Share of true values, with its Wilson interval; undefined if one of the values is NaN."""
    are = np.asarray(are, float)
    if not are.size or np.isnan(are).any():
        return Interval(math.nan)
    n_true = int((are != 0).sum())
    bounds = binomtest(n_true, are.size).proportion_ci(confidence, "wilson")
    return Interval(n_true / are.size, float(bounds.low), float(bounds.high))


def least(intervals: list[Interval]) -> Interval:
    """The smallest value, lower and upper bound of several intervals: all of them exceed what this one exceeds."""
    return _of_columns(np.min, intervals)


def sooner(times: Any, than: Any, *, until: float, confidence: float = CONFIDENCE) -> Interval:
    r"""How much sooner one group reaches a goal than another: the log-rank statistic, in standard deviations.

    .. math:: Z = (E - O) / \sqrt{V}

    of the observed and expected ends of the second group, so positive where the first is sooner; in large groups
    normal, and 0 in the mean when both have the same chance of the end at all times.

    Parameters
    ----------
    times, than : array_like
        Times to the end; NaN where it was not reached within ``until``.
    until : float
        How long all were observed.
    confidence : float
        Of the interval, Z plus and minus a normal quantile.

    Returns
    -------
    Interval
        0 without bounds when nobody reached the end, or all did at once.
    """
    groups = [np.asarray(group, float) for group in (times, than)]
    if not all(group.size for group in groups):
        return Interval(math.nan)
    censored = [CensoredData(uncensored=g[~np.isnan(g)], right=np.full(int(np.isnan(g).sum()), until)) for g in groups]
    with np.errstate(invalid="ignore"):
        z = float(logrank(*censored).statistic)
    if math.isnan(z):
        return Interval(0.0)
    width = float(norm.ppf((1 + confidence) / 2))
    return Interval(z, z - width, z + width)


def largest(intervals: list[Interval]) -> Interval:
    """The largest value, lower bound and upper bound of several intervals."""
    return _of_columns(np.max, intervals)


def share_above(intervals: list[Interval], bound: float = 1.0) -> Interval:
    """Share of values above a bound: at least those whose whole interval is, at most those with a part of it above.

    Nothing where a value is NaN.
    """
    if not intervals or any(math.isnan(each.value) for each in intervals):
        return Interval(math.nan)
    columns = np.array(intervals)
    shares = (columns > bound).mean(0)
    return Interval(float(shares[0])) if np.isnan(columns).any() else Interval(*map(float, shares))


def _of_columns(reduce: Callable[[Any], Any], intervals: list[Interval]) -> Interval:
    columns = zip(*intervals, strict=True)
    return Interval(*(float(reduce(column)) for column in columns)) if intervals else Interval(math.nan)
