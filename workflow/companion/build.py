"""Build the book with a profile: one build at a time in a tree, and a report at the end."""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
from typing import Any

import nbformat

from companion import chapters, parameters, plainly, site
from companion.execute import threads_of
from companion.locks import one_at_a_time
from companion.plan import make_plan, memory_mb


class NotBuiltError(plainly.Refusal):
    """A book that was not built."""

    exit_code = 1


def planned(profile: str) -> dict[str, Any]:
    """The plan of a profile; a NotBuiltError when a source cannot be read."""
    try:
        return make_plan(profile)
    except (plainly.Refusal, OSError):
        raise  # what was asked for, or the machine
    except Exception as error:  # a source: its author needs to know which, and why
        raise NotBuiltError(f"the book cannot be planned: {type(error).__name__}: {error}") from error


def run_snakemake(profile: str, cores: str, memory: int) -> None:
    """Execute what is stale and make the site; locks of our own stand in for that of Snakemake.

    Notebooks are put in place whole, so what a killed build left is never incomplete.  Chapters run side by side as
    far as there are cores, and so many megabytes of memory.  A NotBuiltError when a job failed.
    """
    command = [sys.executable, "-m", "snakemake", "--cores", cores, "--nolock"]
    command += ["--resources", "gpu=1", f"memory={memory}"]
    command += ["--rerun-triggers", "input", "--ignore-incomplete", "--logger", "companion"]
    command += ["--config", f"profile={profile}", f"memory={memory}"]
    own = {name: value for name, value in os.environ.items() if not name.startswith("SNAKEMAKE")}  # a user's cluster
    if subprocess.run(command, cwd=chapters.ROOT, env=own).returncode:
        raise NotBuiltError("the book was not built; see the errors above")


def megabytes(asked: str) -> int:
    """Megabytes of memory that the chapters may take together; what is free for 0 gigabytes."""
    from narrowlib.machine import free_memory

    try:
        found = float(asked)
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise plainly.Refusal(f"MEMORY is {asked!r}; it must be a number of gigabytes, or 0 for what is free")
    return max(1, round(found * 1000)) if found else free_memory() // 10**6


def tell_what_does_not_fit(plan: dict[str, Any], memory: int) -> None:
    """Name chapters that are to be executed and need more memory than there is."""
    for chapter, path in plan["executed"].items():
        needed = memory_mb(chapter, plan["profile"])
        if needed > memory and not (chapters.ROOT / path).is_file():
            told = f"{chapter} needs about {needed / 1000:.1f} GB of memory; {memory / 1000:.1f} GB are available"
            print(f"{told}; it runs alone, and the system may kill it", file=sys.stderr)


def report(plan: dict[str, Any]) -> None:
    """Say how long each chapter took and where the site is."""
    width = max(map(len, plan["executed"]), default=0)
    print(f"\nchapters, profile {plan['profile']}")
    for chapter, path in plan["executed"].items():
        seconds = nbformat.read(chapters.ROOT / path, as_version=4).metadata["papermill"]["duration"]
        print(f"  {chapter:<{width}}  {seconds:7.1f} s")
    print(f"site: {os.path.relpath(site.HTML / 'index.html')}")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default=parameters.QUICK, help="smoke, quick or paper")
    parser.add_argument("--cores", default="all", help="number of cores to use, or all")
    parser.add_argument("--memory", default="0", help="GB for all chapters together; 0 for the free memory")
    asked = parser.parse_args(arguments)
    cores, memory = str(threads_of(asked.cores, "CORES")), megabytes(asked.memory)
    with one_at_a_time("build", "another build runs in this tree; waiting for it"):
        plan = planned(asked.profile)
        tell_what_does_not_fit(plan, memory)
        run_snakemake(asked.profile, cores, memory)
        report(plan)
    return 0
