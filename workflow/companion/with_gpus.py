"""Run a command on GPUs that nobody else of this workflow uses: ``with-gpus N COMMAND ...``.

A scheduler such as Slurm gives every job its GPUs and says so in CUDA_VISIBLE_DEVICES.  Snakemake alone only counts
them; here every GPU of the machine has a lock that is held for as long as the command runs.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from filelock import FileLock, Timeout

from companion.plainly import Refusal
from narrowlib.store.files import lock_of

VARIABLE = "CUDA_VISIBLE_DEVICES"
LOCKS = Path(tempfile.gettempdir()) / "narrowlib-gpus"
PAUSE = 1.0  # seconds between two looks for a free one


def gpus() -> list[str]:
    """Names of the GPUs that this process may use."""
    if VARIABLE in os.environ:
        return [name for name in os.environ[VARIABLE].split(",") if name]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def claimed(n_wanted: int, there: list[str], folder: Path, pause: float) -> dict[str, FileLock]:
    """Held locks of so many GPUs, by their names; waits until they are free.

    Raises
    ------
    Refusal
        When there are fewer.
    """
    if n_wanted > len(there):
        raise Refusal(f"gpus is {n_wanted}; it must be at most {len(there)}, as many as there are here")
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        held: dict[str, FileLock] = {}
        for name in there:
            lock = lock_of(folder / f"{name}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            held[name] = lock
            if len(held) == n_wanted:
                return held
        for lock in held.values():  # too few: another may need just these
            lock.release()
        time.sleep(pause)


def main(arguments: list[str]) -> int:
    n_wanted, command, there = int(arguments[0]), arguments[1:], gpus()
    if not there or (VARIABLE in os.environ and len(there) == n_wanted):  # on a CPU, or given to this job
        return subprocess.call(command)
    with ExitStack() as stack:
        held = claimed(n_wanted, there, LOCKS, PAUSE)
        for lock in held.values():
            stack.callback(lock.release)
        return subprocess.call(command, env=os.environ | {VARIABLE: ",".join(held)})


def name_gpu(_: list[str]) -> int:
    """Say which GPU torch uses, or that there is none."""
    import torch

    if not torch.cuda.is_available():
        raise Refusal("there is no GPU that torch can use")
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    return 0
