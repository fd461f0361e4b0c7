"""Build the book of a profile: one build at a time in a tree, errors in plain words, and a report at the end."""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import nbformat

from companion import chapters, finish, plainly
from companion.plan import make_plan

HTML = chapters.BUILD / "html"
SECONDS_TO_EXECUTE = 86_400.0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default=chapters.DEFAULT_PROFILE, help="smoke, quick or paper")
    parser.add_argument("--cores", default="all", help="how many to use")
    return parser.parse_args()


@contextmanager
def one_at_a_time() -> Iterator[int]:
    """Wait for another build in this tree to end; the lock of one that was killed is gone with it.

    Yields the lock's file descriptor: a process that inherits it holds the lock too.
    """
    chapters.BUILD.mkdir(exist_ok=True)
    with (chapters.BUILD / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another build runs in this tree; waiting for it", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def forget_incomplete_site() -> None:
    """Where a page, a static file or what lies beside the pages is gone, the whole site counts as not there."""
    wanted = [HTML / f"{page}.html" for page in chapters.pages()] + [HTML / "_static" / "book.css"]
    wanted += [HTML / path.relative_to(finish.BESIDE) for path in finish.BESIDE.rglob("*") if path.is_file()]
    if not all(path.is_file() for path in wanted):
        (HTML / "index.html").unlink(missing_ok=True)


def remove_unfinished() -> None:
    """Remove what runs that were killed, more than a day ago, left half-written."""
    for left in chapters.BUILD.rglob(f"{chapters.UNFINISHED}*"):
        if time.time() - left.stat().st_mtime > SECONDS_TO_EXECUTE:
            shutil.rmtree(left, ignore_errors=True)


def run_snakemake(profile: str, cores: str, lock: int) -> int:
    """Execute, stage and render what is stale, under the lock of this process, which its own would only repeat.

    Should this process alone be killed, the next build waits for what it started.
    """
    command = [sys.executable, "-m", "snakemake", "--cores", cores, "--resources", "gpu=1", "--nolock"]
    command += ["--rerun-triggers", "mtime", "--rerun-incomplete", "--quiet", "all", "--config", f"profile={profile}"]
    return subprocess.run(command, cwd=chapters.ROOT, pass_fds=[lock]).returncode


def report(plan: dict[str, Any]) -> None:
    """Say how long each chapter took and where the site is."""
    width = max(map(len, plan["executed"]), default=0)
    print(f"\nchapters, profile {plan['profile']}")
    for chapter, path in plan["executed"].items():
        seconds = nbformat.read(chapters.ROOT / path, as_version=4).metadata["papermill"]["duration"]
        print(f"  {chapter:<{width}}  {seconds:7.1f} s")
    print(f"site: {os.path.relpath(HTML / 'index.html')}")


def main() -> int:
    asked = arguments()
    with one_at_a_time() as lock:
        try:
            plan = make_plan(asked.profile)
        except chapters.ParameterError as error:
            print(error, file=sys.stderr)
            return 2
        except OSError:
            raise  # of the machine
        except Exception as error:  # a source that cannot be read: its author needs to know which, and why
            print(f"the book cannot be planned: {type(error).__name__}: {error}", file=sys.stderr)
            return 1
        forget_incomplete_site()
        remove_unfinished()
        if run_snakemake(asked.profile, asked.cores, lock):
            print("the book was not built; what went wrong stands above", file=sys.stderr)
            return 1
        report(plan)
    return 0


if __name__ == "__main__":
    sys.exit(plainly.run(main))
