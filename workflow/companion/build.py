"""Build the book of a profile: one build at a time in a tree, and a report at the end."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from typing import Any

import nbformat

from companion import chapters, parameters, plainly, site
from companion.locks import one_at_a_time
from companion.plan import make_plan


class NotBuiltError(plainly.Refusal):
    """A book that was not built."""

    exit_code = 1


def planned(profile: str) -> dict[str, Any]:
    """The plan of a profile.

    Raises
    ------
    NotBuiltError
        When a source cannot be read.
    """
    try:
        return make_plan(profile)
    except (parameters.ParameterError, OSError):
        raise  # what was asked for, or the machine
    except Exception as error:  # a source: its author needs to know which, and why
        raise NotBuiltError(f"the book cannot be planned: {type(error).__name__}: {error}") from error


def run_snakemake(profile: str, cores: str) -> None:
    """Execute what is stale and make the site; locks of our own stand in for that of Snakemake.

    Raises
    ------
    NotBuiltError
        When a job failed.
    """
    command = [sys.executable, "-m", "snakemake", "--cores", cores, "--resources", "gpu=1", "--nolock"]
    command += ["--rerun-triggers", "input", "--rerun-incomplete", "--logger", "companion"]
    if subprocess.run([*command, "--config", f"profile={profile}"], cwd=chapters.ROOT).returncode:
        raise NotBuiltError("the book was not built; what went wrong stands above")


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
    parser.add_argument("--cores", default="all", help="how many to use")
    asked = parser.parse_args(arguments)
    with one_at_a_time("build", "another build runs in this tree; waiting for it"):
        plan = planned(asked.profile)
        run_snakemake(asked.profile, asked.cores)
        report(plan)
    return 0
