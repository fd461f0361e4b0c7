"""Claims H1, H2, H3: which tasks a network learns first, which need breadth, and whether depth helps."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from scipy.stats import binomtest, fisher_exact

from narrowlib.chapters.censored import CONVERGED_BITS, LEARNED_BITS
from narrowlib.chapters.hierarchy.config import Config, HierarchyConfig, Setting
from narrowlib.chapters.pages import chosen_pieces
from narrowlib.cmsp import CMSPSampler
from narrowlib.devices import pick_device, pick_dtype
from narrowlib.stacks.cohort import runs_per_chunk
from narrowlib.stacks.networks import MLPStack
from narrowlib.stacks.training import BITS_PER_NAT, make_generators, record_steps, train_stack
from narrowlib.store.kept import Kept

FINAL_SHARE = 0.02  # of the training steps, the last ones: what a run has come to is its mean loss over them
SIGNIFICANT = 0.05  # probability below which two counts are held to differ


def learning_curves(
    config: HierarchyConfig, *, device: str = "auto", checkpoints: str | Path = "", progress: bool = True
) -> pd.DataFrame:
    """Loss on every task while training, for the four settings of the claims and every seed.

    Broad runs see ``batch_size`` fresh samples of every task at each step.  Narrow runs see
    ``batch_size`` samples of the composite, for as many times more steps as there are tasks: at their end
    they have seen as many samples in total as a broad run, and that many times more of the composite.
    The same seed starts from the same weights in every setting of the same shape.

    Parameters
    ----------
    config : HierarchyConfig
    device : {"auto", "cpu", "cuda"}
    checkpoints : path, optional
        Folder to leave off in: finished runs are kept there and unfinished ones saved about once a minute.  The
        same call of the same code goes on from them after a kill, to the same table.  Empty: nothing is kept.
    progress : bool
        Show one progress bar per setting and chunk of seeds.

    Returns
    -------
    DataFrame
        One row per setting, seed, record and task: ``setting``, ``data`` (broad or narrow), ``depth``,
        ``width``, ``n_parameters``, ``seed``, ``step``, ``n_samples`` (all tasks), ``n_composite_samples``,
        ``task``, ``kind`` (atomic or composite), ``loss`` in bits.

    Notes
    -----
    Source: Michaud, Parker-Sartori and Tegmark (2025), Fig 2 and 7.
    """
    return _curves(config, config.settings, device, checkpoints, progress)


def depth_curves(
    config: HierarchyConfig, *, device: str = "auto", checkpoints: str | Path = "", progress: bool = True
) -> pd.DataFrame:
    """Loss on the composite under broad data for the three shapes of networks, on the easier task of ``config``.

    Parameters, and columns of the result, are those of `learning_curves`.
    """
    easier = config.easier
    broad = [setting for setting in easier.settings if setting.problem.n_tasks > 1]
    curves = _curves(easier, broad, device, checkpoints, progress)
    return curves[curves["kind"] == "composite"].reset_index(drop=True)


def _curves(
    config: HierarchyConfig, settings: Sequence[Setting], device: str, checkpoints: str | Path, progress: bool
) -> pd.DataFrame:
    where = pick_device(device)
    store = Kept(checkpoints, config, device=where)
    frames = []
    for setting in settings:
        chunks = []
        for seeds in _chunks(setting, config, where):
            name = re.sub(r"\W+", "-", f"{setting.name}-{seeds[0]}-{seeds[-1]}")
            chunks.append(store.keep(name, partial(_train, setting, config, seeds, where, store, progress)))
        frames.append(pd.concat(chunks).sort_values(["step", "seed"], kind="stable"))  # however they were chunked
    return pd.concat(frames, ignore_index=True)


def tables(config: Config, *, piece: str = "", progress: bool = True) -> dict[str, pd.DataFrame]:
    """The tables that the book records of a run, or the one of ``piece``.

    Returns
    -------
    dict of str to DataFrame
        ``learning-curves``, see `learning_curves`, and ``depth-curves``, see `depth_curves`.
    """
    asked = {"device": config.device, "checkpoints": config.checkpoints, "progress": progress}
    makers = {"learning-curves": learning_curves, "depth-curves": depth_curves}
    return {name: makers[name](config.experiment, **asked) for name in chosen_pieces(makers, piece)}


def _chunks(setting: Setting, config: HierarchyConfig, device: torch.device) -> Iterator[range]:
    """The seeds, in ranges that are trained side by side."""
    dtype = pick_dtype(config.precision, device)
    chunk = runs_per_chunk(setting.sizes, setting.problem.n_tasks * config.batch_size, device, dtype)
    seeds = range(config.n_seeds)
    return (seeds[start : start + chunk] for start in range(0, len(seeds), chunk))


def _train(
    setting: Setting, config: HierarchyConfig, seeds: range, device: torch.device, store: Kept, progress: bool
) -> pd.DataFrame:
    generators = make_generators(seeds, device)
    stack = MLPStack(setting.sizes, generators)
    losses = train_stack(
        stack,
        CMSPSampler(setting.problem, config.batch_size, pick_dtype(config.precision, device)),
        generators,
        setting.training,
        leave=partial(_is_learned, config.leave_below / BITS_PER_NAT) if config.leave_below else None,
        checkpoint=store.checkpoint("training"),
        progress=progress,
        description=f"{setting.name}, seeds {seeds[0]} to {seeds[-1]}",
    )
    return _tidy(losses * BITS_PER_NAT, setting, stack, seeds, config.batch_size)


def _is_learned(nats: float, record: torch.Tensor) -> torch.Tensor:
    return (record < nats).all(1)


def _tidy(bits: torch.Tensor, setting: Setting, stack: MLPStack, seeds: Sequence[int], batch_size: int) -> pd.DataFrame:
    problem = setting.problem
    index = pd.MultiIndex.from_product(
        [record_steps(setting.training), seeds, problem.task_names], names=["step", "seed", "task"]
    )
    frame = pd.DataFrame({"loss": bits.numpy().ravel()}, index=index).reset_index()
    frame = frame.dropna(subset="loss")  # of runs that have left
    kinds = {name: "atomic" if len(task) == 1 else "composite" for name, task in zip(problem.task_names, problem.tasks)}
    return frame.assign(
        setting=setting.name,
        data="broad" if problem.n_tasks > 1 else "narrow",
        depth=stack.depth,
        width=setting.sizes[1],
        n_parameters=stack.n_parameters,
        n_samples=frame["step"] * batch_size * problem.n_tasks,
        n_composite_samples=frame["step"] * batch_size,
        kind=frame["task"].map(kinds),
    )


def converged_runs(curves: pd.DataFrame) -> pd.DataFrame:
    """How many runs of every setting end with a loss on the composite below `CONVERGED_BITS`.

    Returns
    -------
    DataFrame
        One row per setting, in the order of ``curves``: ``setting``, ``n_parameters``, ``converged``,
        ``n_seeds``, ``share``, and the 95% Wilson interval of the share, ``low`` and ``high``.
    """
    final = final_losses(curves)
    grouped = final.groupby("setting", sort=False)
    table = grouped.agg(
        n_parameters=("n_parameters", "first"),
        converged=("loss", lambda loss: int((loss < CONVERGED_BITS).sum())),
        n_seeds=("loss", "size"),
    )
    return _with_shares(table.reset_index())


def counted_runs(counts: Mapping[str, Sequence[int]]) -> pd.DataFrame:
    """Counts from elsewhere, such as the paper's, in the form of `converged_runs`.

    Parameters
    ----------
    counts : mapping of str to (int, int)
        By setting: runs that converged, and runs in all.

    Returns
    -------
    DataFrame
        ``setting``, ``converged``, ``n_seeds``, ``share``, ``low``, ``high``.
    """
    rows = [(setting, converged, n_seeds) for setting, (converged, n_seeds) in counts.items()]
    return _with_shares(pd.DataFrame(rows, columns=["setting", "converged", "n_seeds"]))


def _with_shares(table: pd.DataFrame) -> pd.DataFrame:
    """With the share of runs that converged and its 95% Wilson interval."""
    intervals = [binomtest(k, n).proportion_ci(method="wilson") for k, n in zip(table["converged"], table["n_seeds"])]
    return table.assign(
        share=table["converged"] / table["n_seeds"],
        low=[interval.low for interval in intervals],
        high=[interval.high for interval in intervals],
    )


def compare_counts(ours: pd.DataFrame, paper: pd.DataFrame) -> pd.DataFrame:
    """Whether two counts of converged runs are compatible with the same probability of converging.

    Parameters
    ----------
    ours, paper : DataFrame
        See `converged_runs` and `counted_runs`; with the same settings.

    Returns
    -------
    DataFrame
        One row per setting: ``setting``, ``ours`` and ``paper`` (as "k of n"), ``p_value`` of Fisher's exact test that
        both have the same chance, and ``agree``, whether that is not rejected at 5%.
    """
    both = ours.merge(paper, on="setting", suffixes=("_ours", "_paper"), validate="one_to_one")
    p_values = []
    for row in both.itertuples():
        counts = [(row.converged_ours, row.n_seeds_ours), (row.converged_paper, row.n_seeds_paper)]
        p_values.append(float(fisher_exact([[k, n - k] for k, n in counts]).pvalue))
    told = {
        name: [f"{k} of {n}" for k, n in zip(both[f"converged_{name}"], both[f"n_seeds_{name}"])]
        for name in ("ours", "paper")
    }
    table = pd.DataFrame({"setting": both["setting"], **told, "p_value": p_values})
    return table.assign(agree=table["p_value"] >= SIGNIFICANT)


def final_losses(curves: pd.DataFrame) -> pd.DataFrame:
    """Mean loss of every run on the composite over the last `FINAL_SHARE` of its steps: a row per setting and seed."""
    composite = curves[curves["kind"] == "composite"]
    n_steps = composite.groupby(["setting", "seed"])["step"].transform("max")
    last = composite[composite["step"] > (1 - FINAL_SHARE) * n_steps]
    grouped = last.groupby(["setting", "seed"], sort=False)
    return grouped.agg(n_parameters=("n_parameters", "first"), loss=("loss", "mean")).reset_index()


def samples_to_learn(curves: pd.DataFrame) -> pd.DataFrame:
    """Samples that every broad run of depth 3 had seen when it had learned each task.

    A task counts as learned from the first record with a loss below `LEARNED_BITS`.

    Returns
    -------
    DataFrame
        One row per seed: ``last_atomic`` and ``composite`` in samples of all tasks (NaN when not all atomic
        tasks, or not the composite, were learned), ``ratio`` of the second to the first.
    """
    broad = curves[curves["setting"] == "broad, depth 3"]
    learned = broad[broad["loss"] < LEARNED_BITS].groupby(["seed", "task", "kind"])["n_samples"].min()
    every_task = pd.MultiIndex.from_frame(broad[["seed", "task", "kind"]].drop_duplicates())
    last = learned.reindex(every_task).groupby(["seed", "kind"]).agg(lambda times: times.max(skipna=False))
    table = last.unstack("kind").rename(columns={"atomic": "last_atomic"}).rename_axis(columns=None)
    table = table[["last_atomic", "composite"]].reset_index()
    return table.assign(ratio=table["composite"] / table["last_atomic"])
