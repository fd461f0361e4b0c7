"""Measures for claim U1 from the answers of narrowed models, with intervals, and the paper's table."""

from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from narrowlib.chapters.unlearning.config import BASE, SCORE_OF
from narrowlib.data.facts import CHANCE
from narrowlib.intervals import Interval, bootstrap
from narrowlib.texts import load_yaml

MEASURES = ("cloze", "choice")
CHANCE_OF = {"cloze": 0.0, "choice": CHANCE}
RUN = ["method", "sparsity"]
_PAPER = Path(__file__).with_name("paper.yaml")
_RESAMPLES, _SEED = 2_000, 0


def paper_table() -> pd.DataFrame:
    """The paper's accuracies before and after fine-tuning on each benchmark.

    Returns
    -------
    DataFrame
        One row per method, sparsity and benchmark: ``method``, ``sparsity``, ``benchmark``, ``before``, ``after``.

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), the table on unlearning.
    """
    table = load_yaml(_PAPER)
    return pd.DataFrame(
        [
            {"method": row["method"], "sparsity": row["sparsity"], "benchmark": name, "before": before, "after": after}
            for row in table["rows"]
            for name, before, after in zip(table["benchmarks"], row["before"], row["after"], strict=True)
        ]
    )


def arrows(table: pd.DataFrame, columns: str) -> pd.DataFrame:
    """Accuracies in the paper's form: a row per method and sparsity, in each column ``before → after``.

    Parameters
    ----------
    table : DataFrame
        ``method``, ``sparsity``, ``before``, ``after``, and a column that names the columns.
    columns : str
        Its name.
    """
    unbroken = "\N{NO-BREAK SPACE}→\N{NO-BREAK SPACE}"
    cells = [f"{before:.3f}{unbroken}{after:.3f}" for before, after in zip(table["before"], table["after"])]
    shown = table[[*RUN, columns]].assign(cell=cells).set_index([*RUN, columns])["cell"].unstack(columns)
    order = table[RUN].drop_duplicates()
    return shown.loc[list(order.itertuples(index=False, name=None)), list(table[columns].unique())]


def accuracies(answers: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of every model before and after it learned facts again, with 95% bootstrap intervals over the facts.

    Parameters
    ----------
    answers : DataFrame
        See `narrowlib.chapters.unlearning.experiment.tables`.

    Returns
    -------
    DataFrame
        One row per model and measure: ``method``, ``sparsity``, ``measure`` (cloze or choice), ``before``,
        ``before_low``, ``before_high``, ``after``, ``after_low``, ``after_high``, ``n_facts``.
    """
    rows = []
    for (method, sparsity), run in answers.groupby(RUN, sort=False):
        ends = {"before": run[run["step"] == run["step"].min()], "after": run[run["step"] == run["step"].max()]}
        for measure in MEASURES:
            row = {"method": method, "sparsity": sparsity, "measure": measure}
            for when, some in ends.items():
                outcomes = some[measure].to_numpy(float)
                low, high = interval(outcomes)
                row |= {when: outcomes.mean(), f"{when}_low": low, f"{when}_high": high, "n_facts": len(outcomes)}
            rows.append(row)
    return pd.DataFrame(rows)


def relearning_curves(answers: pd.DataFrame) -> pd.DataFrame:
    """Share of right answers, and mean loss, of every model against the tokens it has learned facts from.

    Returns
    -------
    DataFrame
        One row per model and record: ``method``, ``sparsity``, ``tokens``, ``cloze``, ``choice``, ``loss`` (nats).
    """
    return answers.groupby([*RUN, "tokens"], sort=False)[[*MEASURES, "loss"]].mean().reset_index()


def tokens_to_relearn(answers: pd.DataFrame, level: float = 0.5, measure: str = "choice") -> pd.DataFrame:
    r"""Tokens after which a model reaches a level again: a measure of how deep its unlearning is.

    The level is a share of what the base model knew above chance, :math:`a \ge c + \ell (a_\text{base} - c)`, where the
    chance c is 1/4 for a choice and 0 for a cloze.

    Parameters
    ----------
    answers : DataFrame
        See `narrowlib.chapters.unlearning.experiment.tables`; with the base model.
    level : float
        The share, 0 to 1.
    measure : {"choice", "cloze"}

    Returns
    -------
    DataFrame
        One row per model: ``method``, ``sparsity``, ``tokens`` at the first record that reaches the level (NaN when
        none does), ``seen`` in all.

    Raises
    ------
    ValueError
        For a level outside 0 to 1 or an unknown measure.
    """
    if not 0 <= level <= 1:
        raise ValueError(f"level is {level!r}; it must be a number from 0 to 1")
    if measure not in MEASURES:
        raise ValueError(f"measure is {measure!r}; it must be one of {', '.join(MEASURES)}")
    chance = CHANCE_OF[measure]
    curves = relearning_curves(answers)
    known = curves.loc[(curves["method"] == BASE) & (curves["tokens"] == 0), measure].item()
    rows = []
    for (method, sparsity), curve in curves.groupby(RUN, sort=False):
        reached = curve.loc[curve[measure] >= chance + level * (known - chance), "tokens"]
        rows.append({"method": method, "sparsity": sparsity, "tokens": reached.min(), "seen": curve["tokens"].max()})
    return pd.DataFrame(rows)


def clear_wins(answers: pd.DataFrame) -> pd.DataFrame:
    """Which way of pruning unlearned most, by sparsity and measure, and whether that is clear.

    A method wins clearly when after learning again its accuracy is lower than that of each other one, and the 95%
    bootstrap interval of every such difference, taken fact by fact, leaves out 0.

    Returns
    -------
    DataFrame
        One row per sparsity and measure: ``sparsity``, ``measure``, ``winner`` (None when none is clear).
    """
    last = answers[answers["step"] == answers.groupby(RUN)["step"].transform("max")]
    last = last[last["method"].isin(SCORE_OF)]
    rows = []
    for sparsity, measure in product(sorted(last["sparsity"].unique()), MEASURES):
        table = last[last["sparsity"] == sparsity].pivot(index="prompt", columns="method", values=measure).astype(float)
        winners = [
            method
            for method in table
            if all(interval((table[other] - table[method]).to_numpy())[0] > 0 for other in table.columns.drop(method))
        ]
        is_contest = table.shape[1] > 1
        rows.append(
            {"sparsity": sparsity, "measure": measure, "winner": winners[0] if winners and is_contest else None}
        )
    return pd.DataFrame(rows)


def unlearning_measures(answers: pd.DataFrame) -> dict[str, Interval]:
    """The quantities of claim U1 over all measures, above chance level, with paired intervals over facts.

    What a model knows is its accuracy above chance as a share of the whole model's, the mean of the measures in which
    the whole model is above chance.

    Parameters
    ----------
    answers : DataFrame
        See `narrowlib.chapters.unlearning.experiment.tables`; with the base model and ways of pruning.

    Returns
    -------
    dict
        At the highest sparsity: ``left``, what is known right after the cut, the highest of the methods.
        ``regained``: what is known after learning again, of what the base model then knows, mean of the methods.
        ``brought_back``: that less the mean of the methods right after the cut.  At all sparsities ``largest_win``:
        share of sparsities and measures at which one and the same method has the lowest accuracy after learning again;
        at least those at which it is lowest beyond chance, see `clear_wins`.
    """
    methods = answers[answers["method"].isin(SCORE_OF)]
    top = methods[methods["sparsity"] == methods["sparsity"].max()]
    found = {BASE: answers[answers["method"] == BASE], **dict(list(top.groupby("method")))}
    right = np.stack([_right(rows) for rows in found.values()])  # (model, end, measure, fact)
    left, regained, back = (partial(_known, what=what) for what in ("left", "regained", "brought_back"))
    clear = clear_wins(answers)["winner"]
    lowest = _lowest(methods).value_counts().max() / len(clear)
    clearly = clear.value_counts().max() / len(clear) if clear.notna().any() else 0.0
    return {
        "left": bootstrap(left, right),
        "regained": bootstrap(regained, right),
        "brought_back": bootstrap(back, right),
        "largest_win": Interval(float(lowest), float(clearly), float(lowest)),
    }


def _right(rows: pd.DataFrame) -> np.ndarray:
    """Which facts a model had right at both ends, in the order of the prompts: (2, measure, fact)."""
    ends = [rows[rows["step"] == step].sort_values("prompt") for step in (rows["step"].min(), rows["step"].max())]
    return np.stack([end[list(MEASURES)].to_numpy(float).T for end in ends])


def _known(right: np.ndarray, what: str) -> np.ndarray:
    """One quantity of `unlearning_measures` from what is right, (model, end, measure, ..., fact); the base first."""
    chance = np.array([CHANCE_OF[measure] for measure in MEASURES]).reshape(-1, *[1] * (right.ndim - 4))
    above = right.mean(-1) - chance  # (model, end, measure, ...)
    base = np.where(above[0] > 0, above[0], np.nan)
    shares = above[1:] / base
    n_known = np.isfinite(shares).sum(2)  # of the measures; without any, nothing can be told
    known = np.nansum(shares, axis=2) / np.where(n_known, n_known, np.nan)  # (method, end, ...)
    by = {"left": known[:, 0].max(0), "regained": known[:, 1].mean(0)}
    return by["regained"] - known[:, 0].mean(0) if what == "brought_back" else by[what]


def _lowest(methods: pd.DataFrame) -> pd.Series:
    """The method with the lowest accuracy after learning again, by sparsity and measure; left out where two are."""
    last = methods[methods["step"] == methods.groupby(RUN)["step"].transform("max")]
    table = last.groupby([*RUN])[list(MEASURES)].mean().stack().unstack("method")
    alone = table.eq(table.min(axis=1), axis=0).sum(axis=1) == 1
    return table[alone].idxmin(axis=1)


def interval(values: np.ndarray) -> tuple[float, float]:
    """The 95% bootstrap interval of a mean: percentiles over resampled facts, the same in every run."""
    drawn = np.random.default_rng(_SEED).integers(len(values), size=(_RESAMPLES, len(values)))
    low, high = np.percentile(values[drawn].mean(1), [2.5, 97.5])
    return float(low), float(high)
