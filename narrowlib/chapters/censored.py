"""Compare times to reach a goal between two kinds of runs, including runs that never reach it."""

import math

import numpy as np
import pandas as pd

from narrowlib import intervals

CONVERGED_BITS = 0.1  # loss on the composite below which a run counts as converged (the paper's)
LEARNED_BITS = 0.5  # loss below which a task counts as learned: half way between chance and perfect
LEAST_RUNS = 5  # of each kind; with fewer nothing is decided
HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"


def spent(times: pd.DataFrame) -> pd.Series:
    """Samples that each run spent: until it had learned the task, or all of its budget."""
    return times["samples"].fillna(times["budget"])


def compare(first: pd.DataFrame, second: pd.DataFrame, *, paired: bool = False) -> dict[str, float | str]:
    r"""Whether runs of one kind reach the goal with fewer samples than runs of another.

    .. math:: \text{ratio} = \frac{\sum_r \min(T^{(2)}_r, B) / R_2}{\sum_r \min(T^{(1)}_r, B) / R_1}

    Every run trains for the same number of samples B, so censoring is at B alone and the mean of the samples spent is
    the restricted mean time to learn.  Where runs of the second setting alone do not learn, the ratio is a lower bound.

    Parameters
    ----------
    first, second : DataFrame
        ``samples`` (NaN: not reached), ``budget`` and ``seed`` of every run.
    paired : bool
        Rows with the same seed belong to the same network.

    Returns
    -------
    dict
        ``ratio``; ``low`` and ``high``, its 95% interval by bootstrap over runs; ``log_rank``, how much sooner the
        first are in standard deviations, see `narrowlib.intervals.sooner` (NaN when paired); ``learned_first``,
        ``learned_second``, ``n_first``, ``n_second``; ``verdict``: ``"holds"`` when the interval of the ratio lies
        above 1 and that of the log-rank statistic above 0, ``"does not hold"`` when the ratio's lies below 1,
        ``"undecided"`` otherwise or with fewer than `LEAST_RUNS` runs.
    """
    one, two = (each.sort_values("seed") for each in (first, second))
    ours = [spent(each).to_numpy(dtype=float) for each in (one, two)]
    samples = [np.stack(ours)] if paired else ours  # values of one network are resampled together
    ratio = intervals.bootstrap((lambda both: _ratio(*both)) if paired else _ratio, *samples)
    z = None if paired else intervals.sooner(one["samples"], two["samples"], until=one["budget"].max())
    counts = {"n_first": len(one), "n_second": len(two)}
    counts |= {"learned_first": int(one["samples"].count()), "learned_second": int(two["samples"].count())}
    verdict = UNDECIDED
    if min(len(one), len(two)) >= LEAST_RUNS and ratio.low > 1 and (paired or z.low > 0):
        verdict = HOLDS
    elif min(len(one), len(two)) >= LEAST_RUNS and ratio.high < 1:
        verdict = FAILS
    return {
        "ratio": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
        "log_rank": np.nan if paired else z.value,
        **counts,
        "verdict": verdict,
    }


def _ratio(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return second.mean(-1) / first.mean(-1)


def said(answer: pd.Series) -> str:
    """A row of a table of comparisons as a sentence: its verdict, the ratio with its interval, and the counts."""
    all_learned = [answer[f"learned_{one}"] == answer[f"n_{one}"] for one in ("first", "second")]
    takes = {
        (True, True): "takes {:.1f} times as many samples",
        (True, False): "takes at least {:.1f} times as many samples",
        (False, True): "takes at most {:.1f} times as many samples",
        (False, False): "spends {:.1f} times as many samples",
    }[tuple(map(bool, all_learned))].format(answer["ratio"])
    learned = [f"{answer[f'learned_{one}']} of {answer[f'n_{one}']}" for one in ("first", "second")]
    interval = "" if math.isnan(answer["low"]) else f" (95% interval {answer['low']:.1f} to {answer['high']:.1f})"
    question = f"{answer.name[0].upper()}{answer.name[1:]}"
    return (
        f"{question}: {answer['verdict']}. The latter {takes}{interval}; within the budget, {learned[0]} runs learn, "
        f"against {learned[1]}."
    )
