"""Equal seeds, equal bytes; and how far results move with the number of threads."""

from __future__ import annotations

import tempfile
from pathlib import Path

from reliability import children

MANY_THREADS = 2  # the chapters' own number is 2, so that 1 and 2 are compared
LARGER = {  # settings at which tensors are large enough to be shared out among threads
    "hierarchy": "n_seeds=2 width=128 batch_size=500 n_steps=60",
    "nonlocality": "narrow_width=64 wide_width=128 batch_size=1000 n_steps=60",
}


def sameness(chapters: list[str]) -> list[dict[str, object]]:
    """Per chapter: tables, those that differ between two runs, and what another number of threads changes."""
    rows = [sameness_of(chapter) for chapter in chapters]
    return rows + [sameness_of(chapter, LARGER[chapter]) for chapter in chapters if chapter in LARGER]


def sameness_of(chapter: str, more: str = "") -> dict[str, object]:
    """Record a chapter three times: twice alike, once with more threads."""
    with tempfile.TemporaryDirectory() as name:
        one, again, threads = Path(name, "one"), Path(name, "again"), Path(name, "threads")
        for folder, n_threads in ((one, 1), (again, 1), (threads, MANY_THREADS)):
            children.run_record(chapter, folder, n_threads=n_threads, more=more)
        first, second, third = (children.tables(chapter, folder) for folder in (one, again, threads))
        far = children.computed(lambda: farthest(one / chapter, threads / chapter), Path(name, "compared.log"))
    return {
        "chapter": f"{chapter}, larger" if more else chapter,
        "tables": len(first),
        "tables that differ between two runs": sum(second.get(table) != total for table, total in first.items()),
        f"tables that differ between 1 and {MANY_THREADS} threads": sum(
            third.get(table) != total for table, total in first.items()
        ),
        "largest difference, as a share of the column's largest value": far,
    }


def farthest(one: Path, other: Path) -> float:
    """The largest difference in any column of numbers, as a share of the largest value there; 1 for other texts."""
    import pandas as pd

    most = 0.0
    for path in one.glob("*.parquet"):
        ours, theirs = pd.read_parquet(path), pd.read_parquet(other / path.name)
        for name in ours.columns.difference(children.MEASURED):
            if pd.api.types.is_float_dtype(ours[name]):
                largest = ours[name].abs().max()
                apart = (ours[name] - theirs[name]).abs().max()
                most = max(most, float(apart / largest) if apart > 0 else 0.0)
            elif not ours[name].equals(theirs[name]):
                most = max(most, 1.0)
    return most
