"""The frontier of parameters and tokens, for any loss to be reached, from the curves of finished runs.

A curve is the rows of one ``run`` in a table of records (`narrowlib.chapters.frontier.experiment`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

SMOOTHING = 0.01  # weight of the newest loss in the running mean, the paper's
PRUNED = "pruned"
RIVALS = ("scratch", "distilled")
WAYS = (PRUNED, *RIVALS)
HELD_OUT = "held out"


def smoothed(losses: pd.Series, weight: float = SMOOTHING) -> pd.Series:
    r"""Running mean of a curve, as the paper smooths its losses.

    .. math:: s_0 = x_0, \qquad s_t = (1 - \alpha)\, s_{t-1} + \alpha\, x_t

    Parameters
    ----------
    losses : Series
        One loss per step.
    weight : float
        Alpha, above 0 and at most 1.
    """
    if not 0 < weight <= 1:
        raise ValueError(f"weight is {weight!r}; it must be above 0 and at most 1")
    return losses.ewm(alpha=weight, adjust=False).mean()


def frontier(
    records: pd.DataFrame,
    target_loss: float,
    *,
    size: str = "n_parameters",
    spent: str = "tokens",
    loss: str = "loss",
    split: str = HELD_OUT,
) -> pd.DataFrame:
    """What every method spends to bring every size of network to a loss.

    Parameters
    ----------
    records : DataFrame
        Curves of runs: ``method``, ``run``, ``split``, and the columns that are named here.
    target_loss : float
        In nats per token.
    size : str
        Column of what the finished model costs: ``"n_parameters"``, ``"flops_per_token"`` or ``"seconds_per_token"``.
    spent : str
        Column of what training has cost until then: ``"tokens"``, ``"training_flops"`` or ``"seconds"``.
    loss : {"loss", "smoothed"}
        Column that has to come down to the target; the smoothed one is there for ``split="train"``.
    split : {"held out", "train"}

    Returns
    -------
    DataFrame
        One row per method and size, the cheapest run of each: ``method``, ``run``, ``size``, ``spent`` (interpolated
        between the two records around the target; NaN when it is not reached), ``reached``, ``seen`` (what was spent
        in all), ``on_frontier`` (no run of the method is smaller or equal and cheaper or equal).  The columns of size
        and of what is spent have the names that were asked for.

    Raises
    ------
    ValueError
        When the target is not a number, or the records have no such curves.

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), Fig 6.
    """
    if not math.isfinite(target_loss):
        raise ValueError(f"target_loss is {target_loss!r}; it must be a finite number of nats")
    curves = records[(records["split"] == split) & records[loss].notna()]
    if curves.empty:
        raise ValueError(f"records hold no {loss} of the split {split!r}; they must hold the curves to be read")
    rows = []
    for (method, run), curve in curves.groupby(["method", "run"], sort=False):
        curve = curve.sort_values("tokens")
        cost = _first_crossing(curve[spent].to_numpy(float), curve[loss].to_numpy(float), target_loss)
        rows.append(
            {"method": method, "run": run, size: curve[size].iloc[0], spent: cost, "seen": curve[spent].iloc[-1]}
        )
    table = pd.DataFrame(rows)
    cheapest = table.sort_values(spent, kind="stable").drop_duplicates(["method", size])
    table = cheapest.sort_index().reset_index(drop=True)
    table["reached"] = table[spent].notna()
    table["on_frontier"] = [
        row["reached"] and not _is_beaten(row, table[table["method"] == row["method"]], size, spent)
        for _, row in table.iterrows()
    ]
    return table


def frontiers(records: pd.DataFrame, targets: Sequence[float], **options: str) -> pd.DataFrame:
    """`frontier` for several losses, one below the other, with the column ``target_loss``.

    Parameters
    ----------
    records : DataFrame
    targets : sequence of float
        In nats per token.
    **options
        Of `frontier`.
    """
    return pd.concat(
        [frontier(records, float(target), **options).assign(target_loss=float(target)) for target in targets],
        ignore_index=True,
    )


def common_target(records: pd.DataFrame, methods: Sequence[str] = WAYS) -> float:
    """The lowest held-out loss that every method reaches with at least one of its networks."""
    lowest = _held_out(records, methods).groupby("method")["loss"].min()
    return float(lowest.max())


def spaced_targets(records: pd.DataFrame, n: int = 4, methods: Sequence[str] = WAYS) -> list[float]:
    """Losses from one that nearly all runs reach to one that few do, descending.

    Parameters
    ----------
    records : DataFrame
    n : int
        How many, at least 2.
    methods : sequence of str
        Whose curves count.

    Returns
    -------
    list of float
        Evenly spaced from the third quartile of the lowest losses of all runs to the lowest of all with a tenth of that
        distance added.
    """
    if n < 2:
        raise ValueError(f"n is {n}; it must be at least 2")
    lowest = _held_out(records, methods).groupby("run")["loss"].min()
    easy, hard = lowest.quantile(0.75), lowest.min()
    return np.linspace(easy, hard + 0.1 * (easy - hard), n).tolist()


def frontier_measures(records: pd.DataFrame, target_loss: float) -> dict[str, float]:
    """How far pruning is ahead of its rivals, training from scratch and distillation, at one loss.

    Parameters
    ----------
    records : DataFrame
    target_loss : float
        In nats per token.

    Returns
    -------
    dict
        ``dominated``: of the rivals' networks that reach the loss, or run out of tokens while a pruned network of no
        more parameters reached it with fewer, the share that a pruned network of no more parameters beats in tokens.
        ``tokens_ratio``: tokens that these rivals need, or have seen without getting there, as a multiple of those that
        the pruned network needs, the median; a lower bound where a rival did not get there.  A pruned network that is
        there before training counts as if it were at the first reading.  Both NaN when there is nothing to compare.
    """
    points = frontier(records, target_loss)
    pruned = points[(points["method"] == PRUNED) & points["reached"]]
    soonest = records.loc[(records["split"] == HELD_OUT) & (records["tokens"] > 0), "tokens"].min()
    beaten, ratios = [], []
    for rival in points[points["method"].isin(RIVALS)].itertuples():
        tokens = rival.tokens if rival.reached else rival.seen
        cheapest = pruned.loc[pruned["n_parameters"] <= rival.n_parameters, "tokens"].min()  # NaN without any
        is_beaten = bool(cheapest < tokens)
        if rival.reached or is_beaten:
            beaten.append(is_beaten)
        if is_beaten or (rival.reached and not math.isnan(cheapest)):
            ratios.append(tokens / max(cheapest, soonest))
    return {
        "dominated": float(np.mean(beaten)) if beaten else math.nan,
        "tokens_ratio": float(np.median(ratios)) if ratios else math.nan,
    }


def teacher_gains(records: pd.DataFrame, *, alone: str = PRUNED, taught: str = "pruned, distilled") -> pd.DataFrame:
    """What a teacher adds: the last held-out loss of networks of one size, trained alone and with a teacher.

    Parameters
    ----------
    records : DataFrame
    alone, taught : str
        Two methods with the same sizes.

    Returns
    -------
    DataFrame
        One row per size: ``n_parameters``, the two losses under the names of the methods, ``gain`` in nats.
    """
    last = _held_out(records, (alone, taught)).sort_values("tokens").groupby(["n_parameters", "method"])["loss"].last()
    table = last.unstack("method")[[alone, taught]].dropna()
    return table.assign(gain=table[alone] - table[taught]).rename_axis(columns=None).reset_index()


def _held_out(records: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    rows = records[(records["split"] == HELD_OUT) & records["method"].isin(methods)]
    missing = sorted(set(methods) - set(rows["method"]))
    if missing:
        raise ValueError(f"records hold no held-out loss of {', '.join(missing)}; they must hold one of every method")
    return rows


def _first_crossing(spent: np.ndarray, losses: np.ndarray, target: float) -> float:
    """Where a curve first comes down to the target, linear between two records; NaN when it does not."""
    below = np.flatnonzero(losses <= target)
    if not len(below):
        return math.nan
    last = below[0]
    if last == 0:
        return float(spent[0])
    share = (losses[last - 1] - target) / (losses[last - 1] - losses[last])
    return float(spent[last - 1] + share * (spent[last] - spent[last - 1]))


def _is_beaten(row: pd.Series, others: pd.DataFrame, size: str, spent: str) -> bool:
    no_worse = (others[size] <= row[size]) & (others[spent] <= row[spent])
    better = (others[size] < row[size]) | (others[spent] < row[spent])
    return bool((no_worse & better).any())
