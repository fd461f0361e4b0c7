"""Beyond the paper: how many samples a composite task takes, by the tasks it is learned together with."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from narrowlib.chapters.breadth.config import N_RECORDS, PARTS, BreadthConfig, Config, Setting
from narrowlib.chapters.censored import LEARNED_BITS
from narrowlib.cmsp import CMSPSampler, task_name
from narrowlib.devices import pick_device, pick_dtype
from narrowlib.stacks.cohort import runs_per_chunk
from narrowlib.stacks.networks import MLPStack
from narrowlib.stacks.training import BITS_PER_NAT, TrainingConfig, make_generators, record_steps, train_stack
from narrowlib.store.kept import Kept

N_CLASSES = 2


def times_to_learn(
    config: BreadthConfig, *, device: str = "auto", checkpoints: str | Path = "", progress: bool = True
) -> pd.DataFrame:
    """Samples that every run of every setting takes to learn its composite.

    A task counts as learned at the first record with a mean loss below `LEARNED_BITS`.  In all settings of a question
    a step sees as many samples, whatever they are of, and the same seed starts from the same weights where the
    networks have one shape.  Runs that several questions compare are trained once.

    Parameters
    ----------
    config : BreadthConfig
    device : {"auto", "cpu", "cuda"}
    checkpoints : path, optional
        Folder to keep the results of each setting in, and to resume from; empty: nothing is kept.
    progress : bool
        Show a progress bar per setting and chunk of seeds.

    Returns
    -------
    DataFrame
        One row per setting, seed and watched task: ``question``, ``setting``, ``seed``, ``task``, ``n_bits`` whose
        parity it is, ``has_parts`` (its sub-tasks are in the data too), ``atomic_share`` of the samples (NaN where it
        changes), ``samples`` (of all tasks) and ``composite_samples`` seen when it was learned, both NaN when it never
        was, and ``budget``, the samples seen at the end.
    """
    where = pick_device(device)
    store = Kept(checkpoints, config, device=where)
    frames, done = [], {}
    for setting in config.settings():
        n_seeds = config.map_seeds if setting.question == "map" else config.n_seeds
        runs = (setting.problem, setting.phases, setting.watched, n_seeds)
        if runs not in done:
            parts = []
            for seeds in _chunks(setting, config, range(n_seeds), where):
                name = re.sub(r"\W+", "-", f"{setting.question}-{setting.name}-{seeds[0]}-{seeds[-1]}")
                parts.append(store.keep(name, partial(_times, setting, config, seeds, where, store, progress)))
            done[runs] = pd.concat(parts, ignore_index=True)
        frames.append(done[runs].assign(question=setting.question, setting=setting.name))
    return pd.concat(frames, ignore_index=True)


def tables(config: Config, *, progress: bool = True) -> dict[str, pd.DataFrame]:
    """The tables that the book records of a run, see `times_to_learn`."""
    where = {"device": config.device, "checkpoints": config.checkpoints}
    return {"times-to-learn": times_to_learn(config.experiment, **where, progress=progress)}


def _sizes(setting: Setting, config: BreadthConfig) -> tuple[int, ...]:
    return (setting.problem.n_inputs, config.width, config.width, N_CLASSES)


def _chunks(setting: Setting, config: BreadthConfig, seeds: range, device: torch.device) -> list[range]:
    """The seeds, in ranges that are trained side by side."""
    n_samples = max(sum(phase.parts) for phase in setting.phases) * (config.batch_size // PARTS)
    size = runs_per_chunk(_sizes(setting, config), n_samples, device, pick_dtype(config.precision, device))
    return [seeds[start : start + size] for start in range(0, len(seeds), size)]


def _times(
    setting: Setting, config: BreadthConfig, seeds: range, device: torch.device, store: Kept, progress: bool
) -> pd.DataFrame:
    generators = make_generators(seeds, device)
    stack = MLPStack(_sizes(setting, config), generators)
    size, total = config.batch_size // PARTS, sum(phase.n_steps for phase in setting.phases)
    rows: dict[tuple[int, int], tuple[float, float]] = {}
    seen = seen_composite = 0
    for number, phase in enumerate(setting.phases):
        sampler = CMSPSampler(setting.problem, size, pick_dtype(config.precision, device), phase.parts)
        training = config.build(TrainingConfig, n_steps=phase.n_steps, record_every=max(1, total // N_RECORDS))
        watched = [setting.problem.tasks.index(task) for task in setting.watched]
        losses = train_stack(
            stack,
            sampler,
            generators,
            training,
            leave=partial(_are_learned, sampler, watched) if all(phase.parts[task] for task in watched) else None,
            checkpoint=store.checkpoint(f"training-{number}"),
            progress=progress,
            description=f"{setting.question}: {setting.name}, seeds {seeds[0]} to {seeds[-1]}",
        )
        steps = torch.tensor(record_steps(training))
        for task in (task for task in watched if phase.parts[task]):
            is_learned = _bits(sampler, losses, task) < LEARNED_BITS  # (n_records, n_runs)
            for run in is_learned.any(0).nonzero()[:, 0].tolist():
                step = int(steps[is_learned[:, run].int().argmax()])
                at = (seen + step * size * sum(phase.parts), seen_composite + step * size * phase.parts[task])
                rows.setdefault((run, task), at)
        seen += phase.n_steps * size * sum(phase.parts)
        seen_composite += phase.n_steps * size * phase.parts[watched[0]]
    return _table(setting, seeds, rows, seen)


def _bits(sampler: CMSPSampler, losses: Tensor, task: int) -> Tensor:
    """Mean loss on a task in bits: (..., n_parts) to (...); NaN for runs that have left."""
    return losses[..., sampler.task_of_part().to(losses.device) == task].mean(-1) * BITS_PER_NAT


def _are_learned(sampler: CMSPSampler, watched: Sequence[int], record: Tensor) -> Tensor:
    return torch.stack([_bits(sampler, record, task) < LEARNED_BITS for task in watched]).all(0)


def _table(
    setting: Setting, seeds: range, rows: dict[tuple[int, int], tuple[float, float]], budget: int
) -> pd.DataFrame:
    problem, never = setting.problem, (float("nan"), float("nan"))
    counts = [dict(zip(problem.tasks, phase.parts, strict=True)) for phase in setting.phases]
    shares = {sum(n for task, n in each.items() if len(task) == 1) / sum(each.values()) for each in counts}
    share = shares.pop() if len(shares) == 1 else float("nan")
    found = []
    for run, seed in enumerate(seeds):
        for task in setting.watched:
            samples, composite = rows.get((run, problem.tasks.index(task)), never)
            found.append(
                {
                    "question": setting.question,
                    "setting": setting.name,
                    "seed": seed,
                    "task": task_name(task),
                    "n_bits": len(problem.positions(task)),
                    "has_parts": all((i,) in problem.tasks for i in task),
                    "atomic_share": share,
                    "samples": samples,
                    "composite_samples": composite,
                    "budget": budget,
                }
            )
    return pd.DataFrame(found)
