"""The frontier of parameters and tokens, for any loss to be reached, from the curves of finished runs.

A curve is the rows of one ``run`` in a table of records (`narrowlib.chapters.frontier.experiment`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from narrowlib.intervals import Interval, mean, share_above

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
    """The cost (such as tokens) at which every method brings every size of network to a loss.

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
        raise ValueError(f"records hold no {loss} of the split {split!r}; they must hold these curves")
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
    """`frontier` for several losses, concatenated, with the column ``target_loss``.

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


def papers_points(points: Mapping[str, Sequence[Sequence[float]]]) -> pd.DataFrame:
    """Points of the paper, (parameters, tokens) by method, in the form of `frontier`."""
    rows = [(method, *point) for method, some in points.items() for point in some]
    table = pd.DataFrame(rows, columns=["method", "n_parameters", "tokens"])
    return table.assign(seen=table["tokens"], reached=True, on_frontier=True)


def common_target(records: pd.DataFrame) -> float:
    """The lowest held-out loss that every method reaches with at least one of its networks."""
    lowest = _held_out(records, WAYS).groupby("method")["loss"].min()
    return float(lowest.max())


def spaced_targets(records: pd.DataFrame, n: int) -> list[float]:
    """Losses in descending order, from one that nearly all runs reach to one that few reach.

    Parameters
    ----------
    records : DataFrame
    n : int
        How many, at least 2.

    Returns
    -------
    list of float
        Evenly spaced from the third quartile of the lowest losses of all runs to the lowest of all with a tenth of that
        distance added.
    """
    if n < 2:
        raise ValueError(f"n is {n}; it must be at least 2")
    lowest = _held_out(records, WAYS).groupby("run")["loss"].min()
    easy, hard = lowest.quantile(0.75), lowest.min()
    return np.linspace(easy, hard + 0.1 * (easy - hard), n).tolist()


def fixed_target(records: pd.DataFrame, targets: Sequence[float]) -> float:
    """The lowest of some losses, fixed beforehand, that every method reaches; NaN when there is none."""
    common = common_target(records)
    return min((float(target) for target in targets if target >= common), default=math.nan)


def size_ratios(records: pd.DataFrame, target_loss: float) -> pd.DataFrame:
    """Tokens of every network from scratch or distilled as a multiple of those of the cheapest pruned one of no more
    parameters, at one loss.

    A rival that runs out of tokens counts with those that it has seen, where a pruned network was there sooner: a lower
    bound.  A pruned network that is there before training counts as if it were at the first reading.

    Parameters
    ----------
    records : DataFrame
        With a column ``seed`` where every run was made several times.
    target_loss : float
        In nats per token.

    Returns
    -------
    DataFrame
        One row per ``method`` and ``n_parameters`` that can be compared: ``value`` (geometric mean over seeds),
        ``low``, ``high`` (bootstrap over seeds, NaN with one).  0 where no pruned network of the size gets there.
    """
    seeds = records["seed"] if "seed" in records else pd.Series(0, records.index)
    found: dict[tuple[str, int], list[float]] = {}
    for _, rows in records.groupby(seeds):
        for key, ratio in _ratios(rows, target_loss):
            found.setdefault(key, []).append(ratio)
    rows = []
    for (method, size), ratios in found.items():
        logs = np.log(ratios) if min(ratios) > 0 else None
        each = Interval(0.0, 0.0, 0.0) if logs is None else Interval(*np.exp(mean(logs)))
        rows.append({"method": method, "n_parameters": size, **each._asdict()})
    return pd.DataFrame(rows, columns=["method", "n_parameters", *Interval._fields])


def _ratios(records: pd.DataFrame, target_loss: float) -> Iterator[tuple[tuple[str, int], float]]:
    points = frontier(records, target_loss)
    pruned = points[(points["method"] == PRUNED) & points["reached"]]
    soonest = records.loc[(records["split"] == HELD_OUT) & (records["tokens"] > 0), "tokens"].min()
    for rival in points[points["method"].isin(RIVALS)].itertuples():
        tokens = rival.tokens if rival.reached else rival.seen
        cheapest = pruned.loc[pruned["n_parameters"] <= rival.n_parameters, "tokens"].min()  # NaN without any
        if rival.reached or cheapest < tokens:
            ratio = 0.0 if math.isnan(cheapest) else tokens / max(cheapest, soonest)
            yield (rival.method, int(rival.n_parameters)), ratio


def frontier_measures(records: pd.DataFrame, target_loss: float) -> dict[str, Interval]:
    """How far pruning leads training from scratch and distillation at one loss: claim L3.

    Parameters
    ----------
    records : DataFrame
    target_loss : float
        In nats per token, see `fixed_target`; NaN when no target is reached by every way.

    Returns
    -------
    dict
        ``dominated``: share of the rivals' networks that a pruned network of no more parameters beats in tokens, see
        `size_ratios`; its bounds count whole intervals.  ``tokens_ratio``: the median of those ratios, its bounds
        the medians of their bounds.  Without a value when there is nothing to compare.
    """
    if math.isnan(target_loss):
        return dict.fromkeys(("dominated", "tokens_ratio"), Interval(math.nan))
    ratios = size_ratios(records, target_loss)[list(Interval._fields)]
    middle = ratios.median(skipna=False)
    return {
        "dominated": share_above([Interval(*row) for row in ratios.itertuples(index=False)]),
        "tokens_ratio": Interval(*map(float, middle)),
    }


def teacher_gains(records: pd.DataFrame) -> pd.DataFrame:
    """What a teacher adds to pruned networks: the last held-out loss of those of one size, trained alone and with a
    teacher, the mean over seeds.

    Returns
    -------
    DataFrame
        One row per size: ``n_parameters``, the two losses under the names of the methods, ``gain`` in nats, and its
        95% interval ``low``, ``high`` over seeds (NaN with one).
    """
    alone, taught = PRUNED, "pruned, distilled"
    rows = _held_out(records, (alone, taught)).sort_values("tokens")
    if "seed" not in rows:
        rows = rows.assign(seed=0)
    last = rows.groupby(["n_parameters", "seed", "method"])["loss"].last().unstack("method")[[alone, taught]].dropna()
    found = []
    for size, losses in last.groupby(level="n_parameters"):
        gain = mean((losses[alone] - losses[taught]).tolist())
        found.append({"n_parameters": size, **losses.mean(), "gain": gain.value, "low": gain.low, "high": gain.high})
    return pd.DataFrame(found, columns=["n_parameters", alone, taught, "gain", "low", "high"])


def _held_out(records: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    rows = records[(records["split"] == HELD_OUT) & records["method"].isin(methods)]
    missing = sorted(set(methods) - set(rows["method"]))
    if missing:
        raise ValueError(f"records hold no held-out loss of {', '.join(missing)}; they must hold one for every method")
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
