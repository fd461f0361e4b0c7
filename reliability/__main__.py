"""Run the long checks and put their figures into RELIABILITY.md: ``python -m reliability [name ...]``."""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial

from reliability import page

CHECKS = ("kills", "builds", "sameness", "long-run", "precision", "roofline")


def main() -> int:
    """Run the named checks, or all; 1 when one of them found what should not be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(CHECKS)}; all if none is given")
    parser.add_argument("--chapters", nargs="*", default=[], help="names of chapters; all if none is given")
    parser.add_argument("--kills", type=int, default=20, help="number of kills, of every chapter and of the build")
    asked = parser.parse_args()
    if unknown := [name for name in asked.names if name not in CHECKS]:
        print(f"ONLY is {unknown[0]!r}; it must be one of {', '.join(CHECKS)}", file=sys.stderr)
        return 2
    bad = []
    for name in asked.names or CHECKS:
        began = time.monotonic()
        rows = run(name, asked.chapters, asked.kills)
        found = page.read()  # now: another check may have come to its end meanwhile
        found[name] = {"made": made(time.monotonic() - began), "rows": merged(found.get(name), rows)}
        page.write(found)
        print(page.table(found[name]))
        bad += [row for row in rows if any(row.get(fault) for fault in FAULTS)]
    return 1 if bad else 0


FAULTS = (
    "finished pieces made again", "tables that differ", "executed chapters executed again", "sites that differ",
    "tables that differ between two runs",
)  # fmt: skip


def run(name: str, chapters: list[str], n_kills: int) -> list[dict[str, object]]:
    """The rows of one check."""
    if name == "builds":
        from reliability.builds import builds

        return builds(n_kills)
    if name == "precision":
        from reliability.precision import precision

        return precision()
    from reliability.kills import kills
    from reliability.long_run import long_run
    from reliability.roofline import roofline
    from reliability.sameness import sameness

    chapters = chapters or page.chapters_of(name)
    checks = {"sameness": sameness, "long-run": long_run, "roofline": roofline}
    return (checks | {"kills": partial(kills, n_kills=n_kills)})[name](chapters)


def merged(before: dict | None, rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Rows found now in the place of the earlier ones of the same chapters."""
    by_key = {next(iter(row.values())): row for row in (before or {"rows": []})["rows"]}
    same = {key: row for key, row in by_key.items() if row.keys() == rows[0].keys() and isinstance(key, str)}
    return list((same | {next(iter(row.values())): row for row in rows}).values())


def made(seconds: float) -> dict[str, object]:
    """What a check was run on."""
    from narrowlib.store.provenance import provenance

    here = provenance("cpu")
    return {name: here[name] for name in ("commit", "device", "python", "torch", "time")} | {"seconds": round(seconds)}


if __name__ == "__main__":
    sys.exit(main())
