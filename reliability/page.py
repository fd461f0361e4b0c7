"""The tables of RELIABILITY.md, made from ``results/reliability.json``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.fuzzing import CASES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "RELIABILITY.md"
FOUND = ROOT / "results" / "reliability.json"


def read() -> dict[str, Any]:
    """What was found so far, by check."""
    return json.loads(FOUND.read_text(encoding="utf-8")) if FOUND.is_file() else {}


def table(about: dict[str, Any]) -> str:
    """The rows of a check as a table, and what it was run on."""
    rows, made = about["rows"], about["made"]
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|---" + "|---:" * (len(names) - 1) + "|"]
    lines += ["| " + " | ".join(shown(row[name]) for name in names) + " |" for row in rows]
    where = f"{made['device']}, Python {made['python']}, torch {made['torch']}, {made['time'][:10]}"
    return "\n".join([*lines, "", f"Last run on {where}, in {made['seconds']:,} s."])


def chapters_of(check: str) -> list[str]:
    """The chapters that a check has rows for."""
    from companion import record

    if check == "long-run":
        return record.chapters.names()
    return list(record.recorded()) if check in ("kills", "sameness", "roofline") else []


def not_run(check: str, about: dict[str, Any]) -> list[str]:
    """The chapters of a check that have no row yet."""
    told = {word for row in about["rows"] for word in str(next(iter(row.values()))).replace(",", "").split()}
    return [chapter for chapter in chapters_of(check) if chapter not in told]


def shown(value: Any) -> str:
    """A number or a name as it stands in a table."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def filled(text: str, found: dict[str, Any]) -> str:
    """The page with the tables of what was found; what was not run is said to be so."""

    def block(asked: re.Match[str]) -> str:
        name = asked[1]
        content = table(found[name]) if name in found else f"Not run yet: `make reliability ONLY={name}`."
        if name in found and (left := not_run(name, found[name])):
            content += f"\nNot run yet for {', '.join(left)}."
        if name == "fuzz":
            rows = [f"| {kind} | {n_cases} |" for kind, n_cases in CASES.items()]
            content = "\n".join(["| input | cases |", "|---|---:|", *rows, f"| all | {sum(CASES.values())} |"])
        return f"<!-- {name} -->\n{content}\n<!-- end -->"

    return re.sub(r"<!-- ([a-z-]+) -->\n.*?<!-- end -->", block, text, flags=re.DOTALL)


def write(found: dict[str, Any]) -> None:
    """Keep what was found, and put it into the page."""
    FOUND.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")
