"""How many cases are made up for each kind of input: at least 5,000 in all, in some twenty seconds."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

CASES = {
    "parameters of every chapter, one by one and together": 2_000,
    "files of profiles": 400,
    "files of claims": 400,
    "rules of claims": 400,
    "records": 400,
    "pins of packages": 400,
    "slices and groups of units": 800,
    "masks": 600,
    "settings of narrow, typed and in a file": 1_000,
    "documents for narrow": 800,
}


def fuzzed(kind: str, *, parts: int = 1) -> settings:
    """Settings of a test that takes its share of the cases of a kind; the same cases every time."""
    return settings(
        max_examples=-(-CASES[kind] // parts),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
