"""The quantities of claims M1 and M2, with intervals over repeats; see ``claims.yaml``.

Every method is tuned on every second repeat and measured on the others: the best of forty settings looks better than
the best of one on the repeats that it was chosen by.
"""

import math

import numpy as np
import pandas as pd

from narrowlib.chapters.mnist.outcomes import PRUNING_METHODS, best_settings
from narrowlib.intervals import Interval, bootstrap, share, share_above
from narrowlib.texts import counted

_SETTING = ["method", "neurons", "strength", "learning_rate"]


def tuned_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs of the best setting of every method and size, chosen by every second repeat, in the other repeats.

    With a single repeat they are those of that repeat.
    """
    repeats = sorted(runs["repeat"].unique())
    chosen_by = runs[runs["repeat"].isin(repeats[::2])]
    measured = runs[runs["repeat"].isin(repeats[1::2] or repeats)]
    best = best_settings(chosen_by)[_SETTING]
    return measured.merge(best, on=_SETTING)  # pandas joins NaN, of methods without a strength, to NaN


def size_ratios(runs: pd.DataFrame, rivals: pd.DataFrame | None = None) -> pd.DataFrame:
    """Samples of every network from scratch or distilled as a multiple of those of a pruned one of no more neurons.

    A size counts as reached when at least half of its repeats come to the goal, as in the paper.

    Parameters
    ----------
    runs : DataFrame
        See `narrowlib.chapters.mnist.config.Outcome`.
    rivals : DataFrame, optional
        Runs from scratch and distilled that stand in the place of those in ``runs``, such as those of
        `narrowlib.chapters.mnist.tuning.tuned_rivals`; no setting was chosen by any of them.

    Returns
    -------
    DataFrame
        One row per rival and size that is reached: ``method``, ``neurons``, ``pruned_by``, ``pruned_neurons`` (of all
        that are reached and no larger, the one with the fewest samples in the repeats by which settings are chosen),
        ``value``, ``low``, ``high`` (ratio of means; 0 without such a network).
    """
    repeats = sorted(runs["repeat"].unique())
    chosen = best_settings(runs[runs["repeat"].isin(repeats[::2])])
    order = chosen[chosen["method"].isin(PRUNING_METHODS)].sort_values(["points", "neurons"])
    measured = tuned_runs(runs)
    if rivals is not None:
        measured = pd.concat([measured[measured["method"].isin(PRUNING_METHODS)], rivals])
    sizes = {key: rows for key, rows in measured.groupby(["method", "neurons"]) if rows["reached"].mean() >= 0.5}
    found = []
    for (method, neurons), rival in sizes.items():
        if method in PRUNING_METHODS:
            continue
        smaller = [
            key for key in zip(order["method"], order["neurons"], strict=True) if key in sizes and key[1] <= neurons
        ]
        about = {"method": method, "neurons": neurons, "pruned_by": None, "pruned_neurons": math.nan}
        ratio = Interval(0.0, 0.0, 0.0)
        if smaller:
            about |= dict(zip(("pruned_by", "pruned_neurons"), smaller[0], strict=True))
            ratio = bootstrap(_ratio, rival["points"], sizes[smaller[0]]["points"])
        found.append(about | ratio._asdict())
    columns = ["method", "neurons", "pruned_by", "pruned_neurons", *Interval._fields]
    return pd.DataFrame(found, columns=columns)


def _ratio(rival: np.ndarray, pruned: np.ndarray) -> np.ndarray:
    return rival.mean(-1) / np.maximum(pruned.mean(-1), 1)


def front_outcome(runs: pd.DataFrame, rivals: pd.DataFrame | None = None) -> dict[str, Interval]:
    """M1: share of the rivals' sizes that a pruned network beats, and the median of the ratios of `size_ratios`.

    With tuned ``rivals`` also ``tuned_dominated`` and ``tuned_ratio``, the same against those.  The interval of the
    median is that of the medians of bounds, so at least as wide as needed.
    """
    found = {}
    for prefix, others in (("", None), ("tuned_", rivals)):
        if others is not None or not prefix:
            bounds = size_ratios(runs, others)[list(Interval._fields)]
            found[f"{prefix}dominated"] = share_above([Interval(*row) for row in bounds.itertuples(index=False)])
            middle = Interval(*map(float, bounds.median(skipna=False)))
            found[f"{prefix}ratio" if prefix else "samples_ratio"] = middle
    return found


def tuned_said(runs: pd.DataFrame, rivals: pd.DataFrame | None) -> str:
    """One sentence on how much of the lead of pruning remains when the rivals are tuned as well."""
    if rivals is None:
        return "The rivals have not been tuned yet: this record has each at the paper's single setting."
    found, n_tried = front_outcome(runs, rivals), int(rivals["n_tried"].max())
    dominated, ratio = found["tuned_dominated"], found["tuned_ratio"]
    return (
        f"With rivals tuned over {counted(n_tried, 'setting')}, a pruned network with no more neurons needs fewer "
        f"samples at {dominated.value:.0%} of their sizes (95% interval {dominated.low:.0%} to {dominated.high:.0%}); "
        f"the median ratio is {ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f}), against "
        f"{found['samples_ratio'].value:.2f} without tuning."
    )


def shrinking_outcome(runs: pd.DataFrame, n_neurons: int, method: str = "group lasso") -> dict[str, Interval]:
    """M2: how surely the target that is hardest for a method is reached, and the smallest that is, of the teacher.

    Parameters
    ----------
    runs : DataFrame
    n_neurons : int
        Of the teacher.
    method : str

    Returns
    -------
    dict
        ``least_regained``: share of the repeats that come to the goal, at the target where it is least.
        ``smallest_share``: the smallest target that at least half of the repeats reach, as a share of the teacher's
        neurons; its bounds are the smallest that any may reach and that surely half do, by the intervals of the shares.
    """
    tuned = tuned_runs(runs)
    of_method = tuned[tuned["method"] == method]
    shares = {int(n): share(rows["reached"]) for n, rows in of_method.groupby("neurons")}

    def smallest(field: str) -> float:
        there = [n for n, found in shares.items() if getattr(found, field) >= 0.5]
        return min(there) / n_neurons if there else math.nan

    hardest = min(shares.values(), default=Interval(math.nan))
    return {"least_regained": hardest, "smallest_share": Interval(smallest("value"), smallest("high"), smallest("low"))}
