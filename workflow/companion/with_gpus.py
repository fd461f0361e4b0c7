"""Run a command on GPUs that nobody else of this workflow uses: ``with_gpus.py N command ...``.

A scheduler such as Slurm gives every job its GPUs and says so in CUDA_VISIBLE_DEVICES.  Snakemake alone only counts
them; here every GPU of the machine has a lock that is held for as long as the command runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from filelock import FileLock, Timeout

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
    ValueError
        When there are fewer.
    """
    if n_wanted > len(there):
        raise ValueError(f"gpus is {n_wanted}; it must be at most {len(there)}, as many as there are here")
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        held: dict[str, FileLock] = {}
        for name in there:
            lock = FileLock(folder / f"{name}.lock")
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


def main() -> int:
    n_wanted, command = int(sys.argv[1]), sys.argv[2:]
    there = gpus()
    if not there or (VARIABLE in os.environ and len(there) == n_wanted):  # on a CPU, or given to this job
        return subprocess.call(command)
    try:
        held = claimed(n_wanted, there, LOCKS, PAUSE)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        return subprocess.call(command, env=os.environ | {VARIABLE: ",".join(held)})
    finally:
        for lock in held.values():
            lock.release()


if __name__ == "__main__":
    sys.exit(main())
