"""Where both claims on the group lasso hold, against the control without a penalty."""

import math
from collections.abc import Mapping
from functools import cache

import pandas as pd

from narrowlib.chapters.censored import FAILS, HOLDS, LEAST_RUNS, UNDECIDED
from narrowlib.claims import load_claims, satisfies
from narrowlib.intervals import Interval, mean, median
from narrowlib.texts import counted

OTHER = {HOLDS: "stays away", FAILS: "comes back", UNDECIDED: "undecided"}  # the other composite
NETWORK = ["width", "steps", "seed"]


@cache
def rules() -> dict[str, str]:
    """The rules of G1 and G2, with gains measured against the control.

    ``kept``, sparsity without recovery, and ``gain``, how much that is above the control's; ``regained``, accuracy on
    the other composite after recovery, and ``held_back``, how much that is below the control's, by the rule of a gain.
    """
    g1, g2 = (load_claims()[claim]["quantities"] for claim in ("G1", "G2"))
    kept, gain = g1["lasso_kept_sparsity"]["holds"], g1["lasso_gain"]["holds"]
    return {"kept": kept, "gain": gain, "regained": g2["other_accuracy"]["holds"], "held_back": gain}


def fields(sweep: pd.DataFrame) -> pd.DataFrame:
    """Every cell of the map, from `narrowlib.chapters.lasso_map.experiment.strength_map`.

    Returns
    -------
    DataFrame
        ``width``, ``steps``, ``strength``, ``kept`` (median over networks), ``regained`` (mean), ``n_back`` of
        ``n_networks`` in which the other composite comes back, ``other`` (one of `OTHER`, by the interval of
        ``regained``), and ``both``: whether the intervals of all `rules` say so in this field alone.
    """
    rows, rule = [], rules()["regained"]
    for (width, steps, strength), runs in with_control(sweep).groupby(["width", "steps", "strength"]):
        found = measures(runs)
        values = {name: found[name].value for name in ("kept", "regained")}
        values |= {"n_back": sum(not satisfies(value, rule) for value in runs["regained"]), "n_networks": len(runs)}
        other = OTHER[_verdict({"regained": found["regained"]}, len(runs))]
        is_both = _verdict(found, len(runs)) == HOLDS
        rows.append({"width": width, "steps": steps, "strength": strength, **values, "other": other, "both": is_both})
    return pd.DataFrame(rows)


def by_width(sweep: pd.DataFrame) -> pd.DataFrame:
    """Whether both claims hold for every width at a strength chosen for it, after the most steps.

    Each network is read at the strength that the *other* networks of its width choose: of those at which their mean
    ``regained`` obeys its rule, the one that keeps the largest mean sparsity; where none does, the one that regains
    least.  So no network is judged at a strength that was chosen by it.

    Returns
    -------
    DataFrame
        One row per ``width``: each of `rules` with its interval (``kept``, ``kept_low``, ``kept_high`` and so on),
        ``strengths`` chosen, in order of size, ``control`` (mean accuracy that the other composite regains there),
        ``n_networks``, and ``verdict``: ``"holds"`` when every interval obeys its rule, ``"does not hold"`` when one
        lies outside altogether, ``"undecided"`` otherwise or with fewer than
        ``narrowlib.chapters.censored.LEAST_RUNS`` networks.
    """
    rows, last = [], with_control(sweep[sweep["steps"] == sweep["steps"].max()])
    for width, runs in last[last["strength"] > 0].groupby("width"):
        chosen = {seed: _best(runs[runs["seed"] != seed]) for seed in runs["seed"].unique()}
        own = runs[runs["strength"] == runs["seed"].map(chosen)]
        found = measures(own)
        row = {"width": width, "verdict": _verdict(found, len(own)), "n_networks": len(own)}
        for name, each in found.items():
            row |= {name: each.value, f"{name}_low": each.low, f"{name}_high": each.high}
        rows.append(row | {"strengths": sorted(own["strength"].unique()), "control": own["control_regained"].mean()})
    return pd.DataFrame(rows)


def with_control(sweep: pd.DataFrame) -> pd.DataFrame:
    """Every row beside the result of the same network without a penalty, after as many steps."""
    control = sweep[sweep["strength"] == 0].set_index(NETWORK)[["sparsity", "regained"]]
    return sweep.join(control.add_prefix("control_"), on=NETWORK)


def measures(runs: pd.DataFrame) -> dict[str, Interval]:
    """The quantities of `rules`, of networks with their control, with intervals over networks."""
    return {
        "kept": median(runs["sparsity"]),
        "gain": median(runs["sparsity"] - runs["control_sparsity"]),
        "regained": mean(runs["regained"]),
        "held_back": mean(runs["control_regained"] - runs["regained"]),
    }


def _best(others: pd.DataFrame) -> float:
    """The strength that these networks choose; the weakest where there are none."""
    means = others.groupby("strength")[["sparsity", "regained"]].mean()
    obeys = means["regained"].map(lambda value: satisfies(value, rules()["regained"]))
    return means["sparsity"].where(obeys).idxmax() if obeys.any() else means["regained"].idxmin()


def _verdict(found: Mapping[str, Interval], n_networks: int) -> str:
    if n_networks < LEAST_RUNS:
        return UNDECIDED
    obeyed = [[satisfies(bound, rules()[name]) for bound in each[1:]] for name, each in found.items()]
    if all(map(all, obeyed)):
        return HOLDS
    return UNDECIDED if all(map(any, obeyed)) else FAILS


def rules_said() -> str:
    """The rules of the verdict, in sentences."""
    rule = rules()
    return (
        f"The rules are those of G1 and G2: sparsity kept {rule['kept']}, accuracy regained {rule['regained']}. "
        f"Against the control, network by network: gain in sparsity {rule['gain']}, reduction in regained accuracy "
        f"{rule['held_back']}. With fewer than {LEAST_RUNS} networks, the verdict is undecided."
    )


def width_said(row: pd.Series) -> str:
    """A row of `by_width` as a sentence: its verdict, the strengths, and the quantities with their intervals."""
    told = {}
    for name in rules():
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        told[name] = f"{row[name]:.2f}" + ("" if math.isnan(low) else f" (95% interval {low:.2f} to {high:.2f})")
    strengths = " or ".join(map("{:g}".format, row["strengths"]))
    return (
        f"Width {row['width']}: {row['verdict']}, from {counted(row['n_networks'], 'network')}. At the strength that "
        f"the other networks choose ({strengths}), the wanted composite is kept without recovery up to a sparsity of "
        f"{told['kept']}; the gain over no penalty is {told['gain']}. Recovery brings the accuracy on the other "
        f"composite to {told['regained']}; without a penalty, to {row['control']:.2f}."
    )


def fields_said(table: pd.DataFrame) -> list[str]:
    """What `fields` shows, for every width: where both claims hold, and what the control does after the most steps."""
    told = []
    for width, some in table.groupby("width"):
        penalised, both = some[some["strength"] > 0], some[some["both"]]
        control = some[some["strength"] == 0].sort_values("steps").iloc[-1]
        where = f"Width {width}: both claims hold in {len(both)} of {len(penalised)} fields with a penalty"
        if len(both):
            steps = both["steps"].min()
            at = ", ".join(f"{strength:g}" for strength in both[both["steps"] == steps]["strength"])
            where += f"; the fewest steps are {steps:,}, at strength {at}"
        told.append(
            f"{where}. Without a penalty, after {control['steps']:,} steps, the other composite comes back in "
            f"{control['n_back']} of {control['n_networks']} networks."
        )
    return told
