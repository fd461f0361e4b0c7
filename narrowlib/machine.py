"""Main memory and threads that this process may use, whatever limits them."""

import math
import os
import re
import time
from contextlib import suppress
from pathlib import Path

_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def free_memory(control_groups: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes of main memory that are still available, by the limits of machine, container or job, and process.

    Parameters
    ----------
    control_groups : Path
        Where Linux tells what groups of processes, such as those of a container or of a job of Slurm, may take.
    process : Path
        What tells the groups of this process.
    """
    import psutil

    found = [psutil.virtual_memory().available]
    with suppress(ImportError):
        import resource

        limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
        found += [limit for limit in limits if limit != resource.RLIM_INFINITY]
    lines = process.read_text(encoding="utf-8").splitlines() if process.is_file() else []
    for _, controllers, own in (line.split(":", 2) for line in lines):
        if controllers in ("", "memory"):  # of version 2, of version 1
            top = control_groups / controllers
            names = ("memory.max", "memory.current") if not controllers else _VERSION_1
            group = top / own.lstrip("/")
            found += [_left_in(each, *names) for each in (group, *group.parents) if each.is_relative_to(top)]
    return max(0, int(min(found)))


def count_threads(asked: str | int, name: str = "threads") -> int:
    """Number of CPU threads to compute with: a number, or ``"all"`` for one per core that this process may use.

    Results are equal to the bit for one number of threads; between numbers sums are taken in another order.

    Raises
    ------
    ValueError
        For anything else; ``name`` is what was asked for, such as cores.
    """
    if asked == "all":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not re.fullmatch("0*[1-9][0-9]{0,3}", str(asked)):
        raise ValueError(f"{name} is {asked!r}; it must be all, or a whole number from 1 to 9999")
    return int(asked)


def reference_seconds() -> float:
    """Speed of this machine: seconds for a fixed piece of work with torch's threads, the fastest of five."""
    import torch

    square = torch.ones(1_024, 1_024)

    def work() -> float:
        started = time.perf_counter()
        for _ in range(4):
            (square @ square).tanh_()
        return time.perf_counter() - started

    return min(work() for _ in range(5))


def _left_in(group: Path, limit: str, used: str) -> float:
    """What a group of processes may still take, its files in memory not counted; no bound where none is told."""
    try:
        most = float((group / limit).read_text(encoding="ascii"))  # or "max"
        told = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        files = int(told.get("total_inactive_file", told.get("inactive_file", 0)))
        return most - float((group / used).read_text(encoding="ascii")) + files
    except (OSError, ValueError):
        return math.inf
