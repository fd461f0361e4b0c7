"""The quantities of claims H1, H2 and H3, with intervals over runs; see ``claims.yaml``."""

from __future__ import annotations

import math

import pandas as pd

from narrowlib.chapters.hierarchy.config import CONVERGED_BITS
from narrowlib.chapters.hierarchy.experiment import LEARNED_BITS, final_losses, samples_to_learn
from narrowlib.intervals import Interval, median, share, sooner

DEEP, NARROW = "broad, depth 3", "narrow, depth 3"
SHALLOW = {"sooner_than_shallow": "broad, depth 2", "sooner_than_wide": "broad, depth 2, wide"}


def order_outcome(curves: pd.DataFrame) -> dict[str, Interval]:
    """H1: whether the composite is learned last, and how much later (median of the runs that learn both)."""
    ratio = samples_to_learn(curves)["ratio"]
    return {"composite_last": share(ratio > 1), "composite_after_atomics": median(ratio.dropna())}


def breadth_outcome(curves: pd.DataFrame) -> dict[str, Interval]:
    """H2: shares of runs that end below `CONVERGED_BITS` on the composite."""
    converged = final_losses(curves).set_index("setting")["loss"] < CONVERGED_BITS
    named = {"broad_converged": DEEP, "narrow_converged": NARROW}
    return {name: share(converged.loc[[setting]]) for name, setting in named.items()}


def depth_outcome(curves: pd.DataFrame) -> dict[str, Interval]:
    """H3: how much sooner depth 3 learns the composite than each network of depth 2, by the log-rank test."""
    times, until = composite_times(curves), float(curves.loc[curves["data"] == "broad", "step"].max())
    deep = times[times["setting"] == DEEP]["step"]
    return {
        name: sooner(deep, times[times["setting"] == setting]["step"], until=until) for name, setting in SHALLOW.items()
    }


def composite_times(curves: pd.DataFrame, threshold: float = LEARNED_BITS) -> pd.DataFrame:
    """Steps until each run first has a loss below ``threshold`` bits on the composite.

    Returns
    -------
    DataFrame
        One row per ``setting`` and ``seed``: ``step``, NaN for a run that had not learned it at the end.
    """
    composite = curves[curves["kind"] == "composite"]
    steps = composite["step"].where(composite["loss"] < threshold, math.nan)
    return steps.groupby([composite["setting"], composite["seed"]], sort=False).min().reset_index()


def outcome(curves: pd.DataFrame) -> dict[str, dict[str, Interval]]:
    """The quantities of the three claims, by claim, from the learning curves."""
    return {"H1": order_outcome(curves), "H2": breadth_outcome(curves), "H3": depth_outcome(curves)}
