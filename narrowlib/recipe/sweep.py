"""Several narrowings of one model that differ in sparsity, and the result of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from narrowlib.recipe.narrowing import run
from narrowlib.recipe.report import Report, svg_of
from narrowlib.recipe.settings import FIGURE, HOW_MUCH, TABLE, RecipeConfig
from narrowlib.store.files import at_home, is_stray, replacing

_FOLDER = "sparsity-"  # and the number as it is: no two share one


def configs_of(values: dict[str, Any], sparsities: str | Sequence[float]) -> list[RecipeConfig]:
    """The settings of every narrowing, checked.

    Parameters
    ----------
    values : dict
        Of `narrowlib.recipe.settings.RecipeConfig`, without what says how much is cut.
    sparsities : str or sequence of float
        Such as ``"25%,50%,75%"``; each is the share that goes of every kind of unit.

    Raises
    ------
    ValueError
        For illegal settings, fewer than two sparsities, or one that is there twice.
    """
    if given := [name for name in HOW_MUCH if values.get(name) not in (None, (), "")]:
        raise ValueError(f"{given[0]} is {values[given[0]]!r}; it must be left out, since sparsities are given")
    wanted = sparsities.replace(",", " ").split() if isinstance(sparsities, str) else list(sparsities)
    found = [RecipeConfig(**{**values, "sparsity": each}) for each in wanted]
    if len({config.sparsity for config in found}) < max(2, len(wanted)) or any(len(c.sparsity) > 1 for c in found):
        raise ValueError(f"sparsities is {sparsities!r}; it must hold at least two different numbers")
    return sorted(found, key=lambda config: config.sparsity)


def sweep(configs: Sequence[RecipeConfig], out: str | Path, *, progress: bool = True) -> pd.DataFrame:
    """Narrow with every configuration, each into its own folder, and write a table and a figure of all results.

    What is finished is not repeated: after a kill the same call continues, and further sparsities can be added.

    Parameters
    ----------
    configs : sequence of RecipeConfig
        See `configs_of`.
    out : path
        For ``sparsity-0.5`` and so on, ``sweep.csv`` and ``sweep.svg``.
    progress : bool
        Show progress bars.

    Returns
    -------
    DataFrame
        A row for the uncut model and one for every narrowing: ``sparsity``, ``parameters``, ``bytes``, ``read`` and
        ``write`` (tokens per second), ``loss on keep``, ``loss on lose`` where something may be lost (nats per token),
        and ``accuracy on ...`` for every task.
    """
    out = at_home(out).absolute()
    names = {f"{_FOLDER}{config.sparsity[0]}": config for config in configs}
    if out.exists() and (not out.is_dir() or any(not _is_of_sweep(path.name) for path in out.iterdir())):
        raise ValueError(f"out is {str(out)!r}, which holds other files; it must be a new folder, or that of a sweep")
    reports = [run(config, out / name, progress=progress) for name, config in names.items()]
    rows = [_row(reports[0], "before", 0.0)]
    rows += [_row(report, "after", config.sparsity[0]) for report, config in zip(reports, configs, strict=True)]
    table = pd.DataFrame(rows)
    with replacing(out / TABLE) as temporary:
        table.to_csv(temporary, index=False)
    with replacing(out / FIGURE) as temporary:
        temporary.write_text(_drawn(table), encoding="utf-8")
    return table


def _is_of_sweep(name: str) -> bool:
    return (
        name in (TABLE, FIGURE)
        or is_stray(Path(name))
        or name.removeprefix(".").startswith((_FOLDER, *(f"{TABLE}.", f"{FIGURE}.")))
    )


def _row(report: Report, when: str, sparsity: float) -> dict[str, Any]:
    shape, speed = report.numbers["shape"][when], report.numbers["speed"][when]
    row = {"sparsity": sparsity, "parameters": shape["parameters"], "bytes": shape["bytes"], **speed}
    row |= {f"loss on {text}": losses[when] for text, losses in report.losses.iterrows()}
    return row | {f"accuracy on {task}": found[when] for task, found in report.accuracies.iterrows()}


def _drawn(table: pd.DataFrame) -> str:
    """Losses against parameters, a line for each text, as svg."""
    figure = Figure(figsize=(6, 3.8), layout="constrained")
    ax = figure.add_subplot()
    for column in (name for name in table if name.startswith("loss on ")):
        ax.plot(table["parameters"] / 1e6, table[column], "o-", label=column.removeprefix("loss on "))
    for _, row in table.iterrows():
        name = f"{row['sparsity']:.0%}" if row["sparsity"] else "uncut"
        ax.annotate(name, (row["parameters"] / 1e6, row["loss on keep"]), xytext=(0, -14), textcoords="offset points",
                    ha="center", fontsize=8)  # fmt: skip
    ax.margins(y=0.15)
    ax.set(xlabel="parameters (millions)", ylabel="held-out loss (nats per token)")
    ax.legend(frameon=False, title="text")
    ax.grid(alpha=0.4)
    return svg_of(figure)
