"""The quantities of claims H1, H2 and H3, with intervals over runs; see ``claims.yaml``."""

import math

import numpy as np
import pandas as pd
from scipy.stats import fisher_exact

from narrowlib.chapters.censored import CONVERGED_BITS, LEARNED_BITS
from narrowlib.chapters.hierarchy.experiment import converged_runs, final_losses, samples_to_learn
from narrowlib.chapters.style import short_number
from narrowlib.intervals import Interval, median, share, sooner
from narrowlib.texts import counted

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


def composite_times(curves: pd.DataFrame) -> pd.DataFrame:
    """Steps and samples until each run first has a loss below `LEARNED_BITS` on the composite.

    Returns
    -------
    DataFrame
        One row per ``setting`` and ``seed``: ``step`` and ``samples`` (of all tasks), NaN for a run that had not
        learned it at the end; ``budget``, the samples of a whole run of its setting.
    """
    composite = curves[curves["kind"] == "composite"]
    by_run = composite[composite["loss"] < LEARNED_BITS].groupby(["setting", "seed"], sort=False)
    learned = by_run[["step", "n_samples"]].min().rename(columns={"n_samples": "samples"})
    runs = pd.MultiIndex.from_frame(composite[["setting", "seed"]].drop_duplicates())
    times = learned.reindex(runs).reset_index()
    return times.assign(budget=times["setting"].map(composite.groupby("setting")["n_samples"].max()))


def chance_to_tell(n_runs: int, shares: tuple[float, float]) -> float:
    r"""How often `narrowlib.intervals.sooner` finds a difference between groups with the given chances of learning.

    Times to learn are drawn with a constant chance of the end per step, :math:`T = \ln(1 - u) / \ln(1 - p)` in units of
    the whole training, and are censored at 1.

    Parameters
    ----------
    n_runs : int
        Of each group.
    shares : (float, float)
        Chance p of either group to have learned at the end.
    """
    draws = np.random.default_rng(0).random((200, 2, n_runs))
    times = np.log1p(-draws) / np.log1p(-np.array(shares))[:, None]
    times[times > 1] = math.nan
    return float(np.mean([sooner(*each, until=1.0).low > 0 for each in times]))


def order_said(curves: pd.DataFrame) -> str:
    """The basis of the verdict on H1, in a sentence."""
    ratio = samples_to_learn(curves)["ratio"]
    samples = short_number(float(curves.loc[curves["setting"] == DEEP, "n_samples"].max()))
    n_learned, n_last = ratio.count(), (ratio > 1).sum()
    last = f"; in {n_last} of these {n_learned}, the composite comes last" if n_learned else ""
    others = " The other runs count against H1." if n_learned < len(ratio) else ""
    return f"Order: {n_learned} of {len(ratio)} runs learn every task within {samples} samples{last}.{others}"


def breadth_said(curves: pd.DataFrame) -> str:
    """The basis of the verdict on H2, in a sentence."""
    counts = converged_runs(curves).set_index("setting").loc[[DEEP, NARROW], ["converged", "n_seeds"]]
    (broad, n_broad), (narrow, n_narrow) = counts.to_numpy().tolist()
    p_value = fisher_exact([[broad, n_broad - broad], [narrow, n_narrow - narrow]]).pvalue
    seen = curves.groupby("setting")["n_composite_samples"].max()
    return (
        f"Breadth: {broad} of {n_broad} broad runs and {narrow} of {n_narrow} narrow runs converge on the composite. "
        f"Narrow runs see {seen[NARROW] / seen[DEEP]:.0f} times as many samples of it (Fisher's exact test of equal "
        f"convergence rates: p = {p_value:.2g})."
    )


def depth_said(curves: pd.DataFrame, papers: pd.DataFrame | None = None) -> str:
    """What curves show on depth: log-rank statistics, and the power of so many runs at the paper's task.

    Parameters
    ----------
    curves : DataFrame
    papers : DataFrame, optional
        The paper's counts, see `narrowlib.chapters.hierarchy.experiment.counted_runs`; without them, how many runs of
        each shape learn the composite, and how soon, is told instead.
    """
    found, learned = depth_outcome(curves), composite_times(curves).groupby("setting")["step"]
    n_runs, parts = len(learned.get_group(DEEP)), []
    for name, setting in SHALLOW.items():
        value = found[name]
        part = (
            f"Depth 3 against {setting.removeprefix('broad, ')}: log-rank statistic {value.value:.1f} "
            f"[{value.low:.1f}, {value.high:.1f}]."
        )
        if papers is None:
            counts, medians = (
                [reduced[each] for each in (DEEP, setting)] for reduced in (learned.count(), learned.median())
            )
            part += (
                f" {counts[0]} and {counts[1]} of {counted(n_runs, 'run')} learn the composite, in a median of "
                f"{medians[0]:,.0f} and {medians[1]:,.0f} steps."
            )
        else:
            theirs = papers.set_index("setting")
            n_theirs, chances = int(theirs.loc[DEEP, "n_seeds"]), tuple(theirs.loc[[DEEP, setting], "share"])
            told, told_theirs = (chance_to_tell(n, chances) for n in (n_runs, n_theirs))
            part += (
                f" At the paper's convergence rates, {chances[0]:.0%} and {chances[1]:.0%}, {told:.0%} of records with "
                f"{counted(n_runs, 'run')} of each setting would detect the difference, and {told_theirs:.0%} of those "
                f"with {n_theirs}."
            )
        parts.append(part)
    if papers is None:
        helps = all(value.low > 0 for value in found.values())
        parts.append(f"Depth {'helps' if helps else 'is not shown to help'} on this task.")
    return "\n".join(parts)


def outcome(curves: pd.DataFrame) -> dict[str, dict[str, Interval]]:
    """The quantities of the three claims, by claim, from the learning curves."""
    return {"H1": order_outcome(curves), "H2": breadth_outcome(curves), "H3": depth_outcome(curves)}
