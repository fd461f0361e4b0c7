"""Times until something is reached, with runs that never reach it: how two kinds of runs compare."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import CensoredData, bootstrap, logrank

LEAST_RUNS = 5  # of each kind; with fewer nothing is decided
CONFIDENCE = 0.95
N_RESAMPLES = 2_000
HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"


def spent(times: pd.DataFrame) -> pd.Series:
    """Samples that each run spent: until it had learned the task, or all of its budget."""
    return times["samples"].fillna(times["budget"])


def compare(first: pd.DataFrame, second: pd.DataFrame, *, paired: bool = False) -> dict[str, float | str]:
    r"""Whether runs of one kind get there with fewer samples than those of another.

    .. math:: \text{ratio} = \frac{\sum_r \min(T^{(2)}_r, B) / R_2}{\sum_r \min(T^{(1)}_r, B) / R_1}

    Every run trains for the same number of samples B, so censoring is at B alone and the mean of the samples spent is
    the restricted mean time to learn.  Where runs of the second setting do not learn, the ratio is a lower bound.

    Parameters
    ----------
    first, second : DataFrame
        ``samples`` (NaN: not reached), ``budget`` and ``seed`` of every run.
    paired : bool
        Rows with the same seed belong to the same network.

    Returns
    -------
    dict
        ``ratio``; ``low`` and ``high``, its 95% interval by bootstrap over runs; ``p_value`` of the log-rank test (NaN
        when paired); ``learned_first``, ``learned_second``, ``n_first``, ``n_second``; ``verdict``: ``"holds"`` when
        the interval lies above 1 and the log-rank test rejects equal times at 5%, ``"does not hold"`` when it lies
        below 1, ``"undecided"`` otherwise or with fewer than `LEAST_RUNS` runs.
    """
    one, two = (each.sort_values("seed") for each in (first, second))
    ours = [spent(each).to_numpy(dtype=float) for each in (one, two)]
    ratio = ours[1].mean() / ours[0].mean()
    counts = {"n_first": len(one), "n_second": len(two)}
    counts |= {"learned_first": int(one["samples"].count()), "learned_second": int(two["samples"].count())}
    low, high = _interval(*ours, paired=paired) if min(map(len, ours)) > 1 else (np.nan, np.nan)
    p_value = np.nan if paired else _log_rank(one, two)
    is_enough = min(len(one), len(two)) >= LEAST_RUNS
    verdict = UNDECIDED
    if is_enough and low > 1 and not p_value > 1 - CONFIDENCE:
        verdict = HOLDS
    elif is_enough and high < 1:
        verdict = FAILS
    return {"ratio": ratio, "low": low, "high": high, "p_value": p_value, **counts, "verdict": verdict}


def _interval(first: np.ndarray, second: np.ndarray, *, paired: bool) -> tuple[float, float]:
    if np.ptp(first) == 0 and np.ptp(second) == 0:  # nothing varies; there is nothing to resample
        return second.mean() / first.mean(), second.mean() / first.mean()
    found = bootstrap(
        (first, second),
        lambda a, b, axis: b.mean(axis) / a.mean(axis),
        paired=paired,
        vectorized=True,
        confidence_level=CONFIDENCE,
        n_resamples=N_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _log_rank(first: pd.DataFrame, second: pd.DataFrame) -> float:
    """Probability of times that differ at least as much when both settings have the same distribution."""
    if not first["samples"].count() + second["samples"].count():
        return 1.0  # no run learned
    data = [CensoredData.right_censored(spent(each), each["samples"].isna()) for each in (first, second)]
    return float(logrank(*data).pvalue)


def said(answer: pd.Series) -> str:
    """A row of a table of comparisons as a sentence: its verdict, the ratio with its interval, and the counts."""
    bound = "at least " if answer["learned_second"] < answer["n_second"] else ""
    learned = [f"{answer[f'learned_{one}']} of {answer[f'n_{one}']}" for one in ("first", "second")]
    return (
        f"{answer.name[0].upper()}{answer.name[1:]}: {answer['verdict']}. The other takes {bound}{answer['ratio']:.1f} "
        f"times as many samples (95% interval {answer['low']:.1f} to {answer['high']:.1f}); {learned[0]} runs against "
        f"{learned[1]} get there within the budget."
    )
