"""How the loss of pruned language models would scale: what was measured at any size, on one axis with the paper."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from narrowlib.chapters.frontier.outcomes import HELD_OUT

PAPER = "the paper"
_N_EXTENDED = 20  # points of an extrapolation


def scaling_points(records: Mapping[str, pd.DataFrame], base: str, *, until: float, variant: str) -> pd.DataFrame:
    r"""Remaining loss increase after a cut against training tokens per parameter, with an extrapolation.

    Parameters
    ----------
    records : mapping of str to DataFrame
        Of one base model, see `narrowlib.chapters.language.llm_pruning.tables`: ``recovery``, and ``lasso``, which
        holds the loss of the whole model.
    base : str
        Name of that model.
    until : float
        Tokens per parameter up to which the curves are extrapolated.
    variant : str
        The score whose cuts count.

    Returns
    -------
    DataFrame
        ``base``, ``cut`` (shares of neurons and residual dimensions), ``n_parameters`` (left by the cut),
        ``tokens_per_parameter`` (of those), ``gap`` (held-out loss less that of the
        whole model, nats per token), ``measured``.

    Notes
    -----
    The extrapolation is the power law :math:`g = a\,t^{-b}` through the later half of the readings, by least
    squares in the logarithms.  A curve that does not fall there, or is below the whole model, has none.
    """
    recovery, lasso = records["recovery"], records["lasso"]
    whole = lasso.loc[lasso["strength"].isna() & (lasso["sparsity"] == 0), "loss"].item()
    trained = (recovery["split"] == HELD_OUT) & (recovery["tokens"] > 0)
    rows, parts = recovery[trained & (recovery["variant"] == variant)], []
    for (neurons, residual), curve in rows.groupby(["neuron_sparsity", "residual_sparsity"]):
        curve = curve.sort_values("tokens")
        size = int(curve["n_parameters"].iloc[0])
        spent, gaps = curve["tokens"].to_numpy() / size, curve["loss"].to_numpy() - whole
        about = {"base": base, "cut": f"{neurons:.0%}/{residual:.0%}", "n_parameters": size}
        further = np.geomspace(spent[-1], until, _N_EXTENDED) if until > spent[-1] else np.array([])
        for at, values, measured in ((spent, gaps, True), (further, _extended(spent, gaps, further), False)):
            frame = pd.DataFrame({"tokens_per_parameter": at, "gap": values})
            parts.append(frame.dropna().assign(**about, measured=measured))
    return pd.concat(parts, ignore_index=True)


def papers_gaps(points: Mapping[str, Sequence[Sequence[float]]], loss: float, whole: float) -> pd.DataFrame:
    """The paper's pruned networks, trained until they reach a loss, in the form of `scaling_points`.

    Parameters
    ----------
    points : mapping
        (parameters, tokens) by method.
    loss, whole : float
        The loss that they reach, and that of the model before the cut, nats per token.
    """
    table = pd.DataFrame(points["pruned"], columns=["n_parameters", "tokens"])
    spent = table["tokens"] / table["n_parameters"]
    about = {"base": PAPER, "cut": "", "gap": loss - whole, "measured": True}
    return table.drop(columns="tokens").assign(tokens_per_parameter=spent, **about)


def scaling_said(points: pd.DataFrame, gap: float) -> list[str]:
    """How near every base model's cuts come to a gap, measured and extrapolated, in sentences.

    Parameters
    ----------
    points : DataFrame
        See `scaling_points`, of several base models one below the other.
    gap : float
        In nats per token.
    """
    told = []
    for (base, cut), rows in points[points["base"] != PAPER].groupby(["base", "cut"], sort=False):
        rows = rows.sort_values("tokens_per_parameter")
        run, further = rows[rows["measured"]], rows[~rows["measured"]]
        last = run.iloc[-1]
        where = "above" if last["gap"] >= 0 else "below"
        start = f"{base}, cut by {cut}: {abs(last['gap']):.2f} nats per token {where} the whole model after "
        start += f"{last['tokens_per_parameter']:.2g} tokens per parameter"
        reached, would = (each.loc[each["gap"] <= gap, "tokens_per_parameter"] for each in (run, further))
        if len(reached):
            end = f"; first within the paper's {gap:.2f} after {reached.iloc[0]:.2g}."
        elif len(would):
            end = f"; its power law, not measured, comes within the paper's {gap:.2f} after {would.iloc[0]:.2g}."
        else:
            end = f"; not within the paper's {gap:.2f}"
            end += f", nor is its power law by {further['tokens_per_parameter'].iloc[-1]:.2g}." if len(further) else "."
        told.append(start + end)
    return told


def _extended(spent: np.ndarray, gaps: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The power law through the later half of the readings, at other places; NaN where there is none."""
    later = slice(len(spent) // 2, None)
    spent, gaps = spent[later], gaps[later]
    if len(spent) < 2 or gaps.min() <= 0:
        return np.full_like(at, np.nan)
    slope, height = np.polyfit(np.log(spent), np.log(gaps), 1)
    return np.exp(height + slope * np.log(at)) if slope < 0 else np.full_like(at, np.nan)
