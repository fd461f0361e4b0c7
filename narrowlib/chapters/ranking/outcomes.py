"""Results of the runs: every ranking against attribution, and the share of the head start that each explains."""

import numpy as np
import pandas as pd

from narrowlib import intervals
from narrowlib.chapters.censored import LEAST_RUNS, compare, spent

REFERENCE, SCRATCH = "attribution", "from scratch"


def at_best_rate(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of every way and size at the step size that needs the fewest samples."""
    table = runs.assign(spent=spent(runs))
    mean = table.groupby(["way", "neurons", "learning_rate"])["spent"].mean()
    best = mean.groupby(["way", "neurons"]).idxmin().tolist()
    keys = pd.MultiIndex.from_frame(table[["way", "neurons", "learning_rate"]])
    return table[keys.isin(best)]


def per_repeat(runs: pd.DataFrame) -> pd.DataFrame:
    """Samples that every repeat spent, summed over the sizes: a column per way."""
    best = at_best_rate(runs)
    return best.pivot_table(index="seed", columns="way", values="spent", aggfunc="sum", sort=False)


def against_attribution(runs: pd.DataFrame) -> pd.DataFrame:
    """How many times as many samples each way spends as attribution, and whether that is more.

    Returns
    -------
    DataFrame
        Indexed by ``way``; columns as `narrowlib.chapters.censored.compare` returns them, over all sizes together, with
        repeats paired; a verdict of ``"holds"`` says that attribution spends fewer.
    """
    best = at_best_rate(runs)
    reached = best.groupby("way")["samples"].agg(["count", "size"])
    table = per_repeat(runs)
    whole = {way: pd.DataFrame({"seed": table.index, "samples": table[way].array, "budget": np.inf}) for way in table}
    rows = {}
    for way in (name for name in table if name != REFERENCE):
        counts = {"learned_first": reached.loc[REFERENCE, "count"], "n_first": reached.loc[REFERENCE, "size"]}
        counts |= {"learned_second": reached.loc[way, "count"], "n_second": reached.loc[way, "size"]}
        rows[way] = compare(whole[REFERENCE], whole[way], paired=True) | counts
    return pd.DataFrame(rows).T.rename_axis("way")


def shares_explained(runs: pd.DataFrame) -> pd.DataFrame:
    r"""The share of attribution's head start over random weights that another way has too.

    .. math:: \text{share} = \frac{\bar T_\text{scratch} - \bar T_\text{way}}
        {\bar T_\text{scratch} - \bar T_\text{best}}

    with means over repeats of the samples spent over all sizes, attribution as the best, and a 95% interval by
    bootstrap over repeats.

    Returns
    -------
    DataFrame
        ``way``, ``share``, ``low``, ``high``; all missing with fewer than `LEAST_RUNS` repeats.
    """
    table, rows = per_repeat(runs), []
    for way in (name for name in table if name not in (REFERENCE, SCRATCH)):
        found = intervals.bootstrap(_share, table[[SCRATCH, way, REFERENCE]].to_numpy(dtype=float).T)
        rows.append((way, *(found if len(table) >= LEAST_RUNS else intervals.Interval(np.nan))))
    return pd.DataFrame(rows, columns=["way", "share", "low", "high"])


def _share(rows: np.ndarray) -> np.ndarray:
    scratch, way, best = rows.mean(-1)
    return (scratch - way) / (scratch - best)


def head_start_said(shares: pd.DataFrame) -> list[str]:
    """The result of `shares_explained` in sentences."""
    table = shares.set_index("way")[["share", "low", "high"]]
    if table["share"].isna().all():
        return [f"With fewer than {LEAST_RUNS} repeats, no share of the head start is estimated."]
    blind, norms, first = table.loc["random"], table.loc["from scratch, teacher's norms"], table["share"].idxmax()
    low, high = norms["low"], norms["high"]
    told = "is part of" if low > 0 else "alone is a handicap, not part of" if high < 0 else "is not shown to be part of"
    added = f" The ranking adds {1 - blind['share']:.0%}." if blind["share"] < 1 else ""
    return [
        f"Neurons taken at random from the teacher have {_with_interval(blind)} of the head start: this much is "
        f"inherited.{added}",
        f"The largest share is that of {first}: {_with_interval(table.loc[first])}.",
        f"Random weights with the teacher's norms have {_with_interval(norms)} of it: the scale of the weights {told} "
        "what is inherited.",
    ]


def _with_interval(row: pd.Series) -> str:
    return f"{row['share']:.0%} (95% interval {row['low']:.0%} to {row['high']:.0%})"
