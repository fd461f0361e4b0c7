"""Runs of `make record` in processes of their own, forked so that the imports are paid for once."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from companion import __main__ as companion

from narrowlib.chapters.two_trees import group_lasso

# What no profile makes small: these tables have the paper's sparsities and pairs at every scale.
group_lasso.tables = partial(group_lasso.tables, sparsities=(0.0, 0.5, 0.9))
SMALLER = {"llm-scores": "sparsities='0 0.5'", "llm-pruning": "sparsities='0 0.5' pairs=0.5/0.2"}

MEASURED = ("seconds", "seconds_per_token", "joules")  # columns that tell what a run cost


def start(work: Callable[[], int], log: Path) -> int:
    """Fork a process that does ``work`` with its output in ``log``, and exits with what that returns; its id."""
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        with log.open("ab", buffering=0) as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        code = work()
    finally:
        os._exit(code)


def exit_code(process: int) -> int:
    """Wait for a process; negative for the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def is_running(process: int) -> bool:
    """Whether a child has not come to its end; it is left to be waited for."""
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, process, options) is None


def start_record(chapter: str, folder: Path, *, n_threads: int = 1, more: str = "") -> int:
    """Record a chapter at smoke scale into ``folder``, with a checkpoint at every record; the id of the process.

    ``more`` are settings that replace those of the profile.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def work() -> int:
        import torch

        torch.set_num_threads(n_threads)
        settings = f"checkpoints={folder / 'left'} {SMALLER.get(chapter, '')} {more}"
        options = ["--profile", "smoke", "--set", settings, "--save-every", "0", "--folder", str(folder)]
        return companion.main(["record", chapter, *options])

    return start(work, folder / "log")


def run_record(chapter: str, folder: Path, *, n_threads: int = 1, more: str = "") -> float:
    """Record a chapter to its end; the seconds that took."""
    began = time.monotonic()
    code = exit_code(start_record(chapter, folder, n_threads=n_threads, more=more))
    if code:
        said = (folder / "log").read_text(errors="replace").splitlines()
        raise RuntimeError(f"recording {chapter} ended with {code}: {said[-1] if said else 'without a word'}")
    return time.monotonic() - began


def computed(work: Callable[[], Any], log: Path) -> Any:
    """What ``work`` returns, anything that json holds, computed in a forked process."""
    answer = log.with_suffix(".json")

    def write() -> int:
        answer.write_text(json.dumps(work()))
        return 0

    if exit_code(start(write, log)):
        raise RuntimeError(log.read_text(errors="replace").splitlines()[-1])
    return json.loads(answer.read_text())


def tables(chapter: str, folder: Path) -> dict[str, str]:
    """The sha256 sum of every table that was recorded; of one in which something is measured, without that."""
    return {path.stem: sum_of_results(path) for path in sorted((folder / chapter).glob("*.parquet"))}


def sum_of_results(path: Path) -> str:
    """The sha256 sum of a table, or of its columns as text where others, of time and energy, differ in every run."""
    import pandas as pd

    frame = pd.read_parquet(path)
    measured = frame.columns.intersection(MEASURED)
    if measured.empty:
        return sum_of(path)
    return hashlib.sha256(frame.drop(columns=measured).to_csv().encode()).hexdigest()


def sum_of(path: Path) -> str:
    """The sha256 sum of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
