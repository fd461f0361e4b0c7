"""Record every chapter, one after another, after an estimate of how long it takes on this machine.

The estimate for a chapter is the time of its record, if one was made with the same parameters, scaled by how much
slower this machine is at a fixed piece of work.  A chapter that fails does not stop the others, and the same command
continues after an interruption.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Collection

from companion import record
from companion.plainly import Refusal
from narrowlib import machine
from narrowlib.devices import pick_device
from narrowlib.store import records

Seconds = float | None  # None where no record tells


def main(arguments: list[str]) -> int:
    asked = record.options(__doc__.splitlines()[0]).parse_args(arguments)
    record.use_threads(asked.threads)
    here = machine.reference_seconds()
    times = {chapter: expected(chapter, asked, here) for chapter in record.recorded()}
    width = max(map(len, times))
    for chapter, seconds in times.items():
        print(f"  {chapter:<{width}}  {in_words(seconds)}")
    print(f"all chapters: {total(times.values())}", flush=True)
    codes = []
    for number, chapter in enumerate(times, 1):
        left = list(times.values())[number - 1 :]
        print(f"[{number} of {len(times)}] {chapter}; until all is done: {total(left)}", flush=True)
        codes.append(subprocess.call([sys.executable, "-m", "companion", "record", chapter, *arguments]))
    return next(filter(None, codes), 0)


def expected(chapter: str, asked: argparse.Namespace, here: float) -> Seconds:
    """Seconds that the record of a chapter takes where the reference work takes ``here`` seconds.

    Of pieces that lie in the checkpoints already nothing is known: with them it takes less.
    """
    try:
        values = record.all_parameters(chapter, asked.profile, asked.overrides)
        config = record.configuration(record.recorded()[chapter], values)
    except (ValueError, Refusal):
        return None  # the record itself says why
    wanted = json.loads(json.dumps(record.what(config)))
    is_gpu = pick_device(config.device).type == "cuda"
    for path in sorted((records.PAPER_RESULTS / chapter).glob("*.json")):
        kept = records.load(path.stem, path.parent)
        made = kept.provenance
        is_same = kept.config and all(wanted.get(name) == value for name, value in kept.config.items())
        if is_same and "seconds" in made and (made.get("n_threads") is None) == is_gpu:
            return made["seconds"] * (1 if is_gpu else here / made.get("reference_seconds", here))
    return None


def total(times: Collection[Seconds]) -> str:
    """The sum of several times, in words; a lower bound where one is not known."""
    known = [seconds for seconds in times if seconds is not None]
    return f"{'at least ' if len(known) < len(times) else ''}{in_words(sum(known))}"


def in_words(seconds: Seconds) -> str:
    """``2 h 05 min``, or that it is not known."""
    if seconds is None:
        return "not known: no record was made with these parameters"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"
