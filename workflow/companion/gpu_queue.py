"""Run the GPU tasks in order of value on a GPU that is available for some minutes: ``gpu-queue --minutes 25``.

Every step is a separate process and ends within ten minutes; a step that is not done by then is stopped, and continues
from its checkpoints in the next round.  A step that failed does not stop the others.  The output to bring back is small
and in one folder: records, benchmarks, the end of each step's output, and ``queue.json``, which lists the finished
steps by their command and code, so that a later run starts with the remaining ones.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from companion import chapters
from companion.parameters import PAPER, profile_names
from companion.plainly import Refusal, group_of
from companion.record import recorded
from narrowlib.store.digests import digest_of, sources

FOLDER = chapters.BUILD / "gpu-queue"
STEP_SECONDS, LEAST_SECONDS, LOG_CHARACTERS = 600.0, 10.0, 20_000


@dataclass(frozen=True)
class Step:
    """One thing to do: its name, and what Python is called with."""

    name: str
    arguments: tuple[str, ...]


def queue(folder: Path, profile: str, device: str) -> Iterator[Step]:
    """Every step, the most valuable first: records of language models, which take the longest, come last."""
    from benchmarks.__main__ import BENCHMARKS

    here = f"device={device} checkpoints={shlex.quote(str(chapters.BUILD / 'checkpoints'))}"
    yield Step("tests", ("-m", "pytest", "-q", "-p", "no:xdist", "-o", "addopts=", "-m", "gpu", "tests/library"))

    def record(kind: str, chapter: str, profile: str) -> Step:
        options = ("--profile", profile, "--set", here, "--save-every", "30", "--folder", str(folder / kind))
        return Step(f"{kind} {chapter}", ("-m", "companion", "record", chapter, *options))

    known = recorded()
    for chapter in known:
        yield record("smoke", chapter, "smoke")
    smoke = ("--smoke",) if profile == "smoke" else ()
    for name in BENCHMARKS:
        yield Step(f"bench {name}", ("-m", "benchmarks", *smoke, name))
    for chapter in sorted(known, key=lambda chapter: "model" in known[chapter].Config.model_fields):
        yield record("record", chapter, profile)


def done(path: Path) -> dict[str, str]:
    """Keys of the finished steps, by name."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["done"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--minutes", type=float, default=25.0, help="minutes for all steps together")
    add("--only", nargs="*", default=[], help="only steps whose names begin with these words, such as: tests smoke")
    add("--profile", default=PAPER, help="profile of the records; smoke to try out the queue")
    add("--device", default="cuda", help="cuda, or cpu to try out the queue")
    add("--folder", type=Path, default=FOLDER, help="folder for the output to bring back")
    add("--launcher", default=shlex.quote(sys.executable), help="Python; or tests/library/pretend_gpu.py to try it out")
    asked = parser.parse_args(arguments)
    if not 0 < asked.minutes < float("inf"):
        raise Refusal(f"MINUTES is {asked.minutes}; it must be a number above 0")
    if asked.profile not in profile_names():
        raise Refusal(f"PROFILE is {asked.profile!r}; it must be one of {', '.join(profile_names())}")
    steps = list(queue(asked.folder.absolute(), asked.profile, asked.device))
    for start in asked.only:
        if not any(step.name.startswith(start) for step in steps):
            raise Refusal(f"ONLY is {start!r}; a step begins with one of {', '.join(step.name for step in steps)}")
    steps = [step for step in steps if not asked.only or step.name.startswith(tuple(asked.only))]
    return run(steps, asked.folder, 60 * asked.minutes, shlex.split(asked.launcher))


def run(steps: list[Step], folder: Path, seconds: float, launcher: list[str]) -> int:
    """Take the steps that are not done, as far as the time goes, and say what is left; 1 when a step failed."""
    end, state = time.monotonic() + seconds, folder / "queue.json"
    finished, ended, code = done(state), {}, sources("narrowlib")[1]
    keys = {step.name: digest_of(step.arguments, code) for step in steps}
    folder.mkdir(parents=True, exist_ok=True)
    for step in steps:
        left = end - time.monotonic()
        if finished.get(step.name) == keys[step.name] or left < min(LEAST_SECONDS, seconds / 2):
            continue
        began = time.monotonic()
        ended[step.name] = outcome = _taken(
            [*launcher, *step.arguments], folder / f"{step.name}.log", min(STEP_SECONDS, left)
        )
        print(f"{outcome:8} {time.monotonic() - began:6.1f} s  {step.name}", flush=True)
        if outcome == "done":
            finished[step.name] = keys[step.name]
            _bring_back(step, folder)
        chapters.write_if_changed(state, json.dumps({"done": finished, "ended": ended}, indent=1))
    left = [step.name for step in steps if finished.get(step.name) != keys[step.name]]
    print(f"left: {', '.join(left)}; the same command continues" if left else "nothing is left")
    return int("failed" in ended.values())


def _taken(command: list[str], log: Path, seconds: float) -> str:
    """How a process of its own ended: done, failed, or stopped when its time was over."""
    with (
        log.open("w+", encoding="utf-8", errors="replace") as out,
        group_of(command, stdout=out, stderr=subprocess.STDOUT, cwd=chapters.ROOT) as process,
    ):
        try:
            outcome = "failed" if process.wait(seconds) else "done"
        except subprocess.TimeoutExpired:  # it is killed; its checkpoints are whole
            outcome = "stopped"
    log.write_text(log.read_text(encoding="utf-8", errors="replace")[-LOG_CHARACTERS:], encoding="utf-8")
    return outcome


def _bring_back(step: Step, folder: Path) -> None:
    kind, _, name = step.name.partition(" ")
    found = chapters.BUILD / "bench.json"
    if kind == "bench" and found.is_file():
        (folder / f"bench-{name}.json").write_bytes(found.read_bytes())
