"""Comparisons of settings by their times to learn, with intervals, and the sentences that follow from them."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from narrowlib import intervals
from narrowlib.chapters.censored import HOLDS, compare, spent
from narrowlib.texts import counted

LEAST_SHARES = 3  # to fit a law to
PAIRS = {  # what is asked, and the two kinds of runs that answer; the first is expected to learn sooner
    "composite learned sooner alongside its own parts than alongside other tasks of the same size": (
        ("hardness", "its own parts"),
        ("hardness", "other parts"),
    ),
    "composite learned sooner alongside its own parts than alone": (
        ("hardness", "its own parts"),
        ("hardness", "alone"),
    ),
    "composite learned sooner with all of its parts than with all but one": (
        ("which", "all"),
        ("which", "all but one"),
    ),
    "composite learned sooner interleaved with its parts than after them": (
        ("curriculum", "interleaved"),
        ("curriculum", "parts first, then the whole"),
    ),
    "composite learned sooner interleaved from the start than when it comes first": (
        ("curriculum", "interleaved"),
        ("curriculum", "whole first, then all"),
    ),
}


def learning_summary(times: pd.DataFrame) -> pd.DataFrame:
    """How many runs learned, and when, per setting and task.

    Returns
    -------
    DataFrame
        ``question``, ``setting``, ``task``, ``n_bits``, ``has_parts``, ``atomic_share``, ``learned``, ``n_seeds``,
        ``median`` (samples; infinite when fewer than half of the runs learned) and ``mean_spent``, see
        `narrowlib.chapters.censored.spent`.
    """
    keys = ["question", "setting", "task", "n_bits", "has_parts", "atomic_share"]
    grouped = times.assign(spent=spent(times), all=times["samples"].fillna(np.inf)).groupby(
        keys, sort=False, dropna=False
    )
    return grouped.agg(
        learned=("samples", "count"),
        n_seeds=("samples", "size"),
        median=("all", "median"),
        mean_spent=("spent", "mean"),
    ).reset_index()


def answers(times: pd.DataFrame) -> pd.DataFrame:
    """The questions of the chapter, each a comparison that was specified before its runs.

    Returns
    -------
    DataFrame
        Indexed by ``question`` in words; columns as `narrowlib.chapters.censored.compare` returns them.
    """
    runs = dict(iter(times.groupby(["question", "setting"])))
    rows = {said: compare(runs[first], runs[second]) for said, (first, second) in PAIRS.items()}
    for name, runs in times[times["question"] == "equal bits"].groupby("setting", sort=False):
        composite, other = runs[runs["has_parts"]], runs[~runs["has_parts"]]
        said = f"composite of {name} learned sooner than a parity of as many bits, in the same network"
        rows[said] = compare(composite, other, paired=True)
    return pd.DataFrame(rows).T.rename_axis("question")


def law_of_breadth(times: pd.DataFrame) -> dict[str, float]:
    r"""Exponent of a power law between samples to learn and the share of composite samples, if there is one.

    .. math:: T \propto (1 - s)^{-a}

    for the shares s of atomic samples at which every run learned; a least-squares fit of logarithms, its 95% interval
    by bootstrap over runs.

    Returns
    -------
    dict
        ``exponent``, ``low``, ``high`` (NaN with fewer than `LEAST_SHARES` shares), ``n_shares``, and the share
        with the fewest samples spent, ``best_share``.
    """
    runs = times[times["question"] == "share"]
    best = runs.assign(spent=spent(runs)).groupby("atomic_share")["spent"].mean().idxmin()
    learned = runs.groupby("atomic_share")["samples"].transform(lambda samples: samples.notna().all())
    used = runs[learned & (runs["atomic_share"] < 1)]
    n_shares = used["atomic_share"].nunique()
    found = {"exponent": np.nan, "low": np.nan, "high": np.nan, "n_shares": n_shares, "best_share": best}
    if n_shares < LEAST_SHARES:
        return found
    table = np.log(used.pivot(index="seed", columns="atomic_share", values="samples"))
    slopes = np.polyfit(-np.log1p(-table.columns.to_numpy(dtype=float)), table.to_numpy().T, 1)[0]  # of every seed
    exponent, low, high = intervals.mean(slopes)
    return found | {"exponent": exponent, "low": low, "high": high}


def breadth_map(times: pd.DataFrame) -> pd.DataFrame:
    """Broad against narrow training at every point of the map.

    Returns
    -------
    DataFrame
        ``subset_size``, ``n_subtasks``, ``n_task_bits``, ``learned_broad``, ``learned_narrow``, ``n_seeds``, and
        ``ratio``, samples spent by narrow runs over those of broad ones; above 1 breadth pays.
    """
    runs = times[times["question"] == "map"]
    about = runs["setting"].str.extract(r"(?P<data>\w+), (?P<subset_size>\d+) (?P<n_subtasks>\d+) (?P<n_task_bits>\d+)")
    table = pd.concat([about, runs["samples"], spent(runs).rename("spent")], axis=1)
    keys = ["subset_size", "n_subtasks", "n_task_bits"]
    table[keys] = table[keys].astype(int)
    wide = (
        table.groupby([*keys, "data"])
        .agg(learned=("samples", "count"), n=("spent", "size"), spent=("spent", "mean"))
        .unstack("data")
    )
    found = pd.DataFrame({f"learned_{data}": wide["learned", data] for data in ("broad", "narrow")})
    found["n_seeds"] = wide["n", "broad"]
    found["ratio"] = wide["spent", "narrow"] / wide["spent", "broad"]
    return found.reset_index()


def only_harder(found: pd.DataFrame) -> str:
    """Whether composites are only harder tasks, by the equal-bits comparisons in `answers`, as a sentence."""
    same = found[found.index.str.startswith("composite of")]
    held = same[same["verdict"] == HOLDS]
    told = (
        f"Is a composite merely harder? In {len(held)} of {len(same)} comparisons of equal bits, it is learned sooner "
        f"than a parity without trained parts"
    )
    if held.empty:
        return f"{told}."
    told += f", by a factor of at least {held['low'].min():.1f} (the smallest lower bound). "
    is_all = len(held) == len(same)
    return told + ("The number of bits alone does not explain this." if is_all else "In the others, this is not shown.")


def law_said(law: Mapping[str, float]) -> list[str]:
    """The result of `law_of_breadth` in sentences."""
    best = f"The fewest samples are spent with {law['best_share']:.0%} atomic samples."
    n_shares, low, high = law["n_shares"], -law["high"], -law["low"]
    if n_shares < LEAST_SHARES:
        some = f"at only {counted(n_shares, 'share')}" if n_shares else "at no share"
        return [best, f"No power law can be fitted: every run learned {some}."]
    interval = "no interval from one run" if math.isnan(low) else f"95% interval {low:.2f} to {high:.2f}"
    return [
        best,
        f"At the {n_shares} shares where every run learned, the number of samples scales as the composite's share to "
        f"the power {-law['exponent']:.2f} ({interval})"
        + ("; the interval contains 0, so no power law is seen." if low <= 0 <= high else "."),
    ]


def map_said(table: pd.DataFrame) -> list[str]:
    """Where breadth pays in `breadth_map`, a sentence for every number of task bits."""
    known = table[(table["learned_broad"] > 0) | (table["learned_narrow"] > 0)]
    return [
        f"{bits} task bits: broad training spends fewer samples at {(some['ratio'] > 1).sum()} of {len(some)} points, "
        f"narrow training at {(some['ratio'] < 1).sum()}."
        for bits, some in known.groupby("n_task_bits")
    ]
