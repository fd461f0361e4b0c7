"""How many cases are made up for each kind of input: at least 5,000 in all, in less than a minute of one core."""

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

CASES = {
    "parameters of every chapter, one by one and together": 2_000,
    "files of profiles": 400,
    "files of claims": 400,
    "rules of claims": 400,
    "records": 400,
    "notebooks that were handed in": 400,
    "pins of packages": 400,
    "slices and groups of units": 800,
    "masks": 600,
    "settings of narrow, typed and in a file": 1_000,
    "documents for narrow": 800,
}

# What YAML 1.1 reads otherwise than it stands there, and what other programs write for a number.
ODD_NUMBERS = st.sampled_from(
    "010 0x10 0o17 0b11 1_000 1__0 1_ _1 12:30 12:30:15 1e3 1E3 1e-400 .5 5. +3 -0 1.0 3.0e0 1e400 yes on ~ .inf .nan "
    "2020-01-01 !!int|010 &a|3 *a <<  '7' 7% 7k 7,5 7/5 \u0663 1e99999".replace("|", " ").split(" ")
) | st.text("0123456789_.:e+-/, %", min_size=1, max_size=6)


def fuzzed(kind: str, *, parts: int = 1) -> settings:
    """Settings of a test that takes its share of the cases of a kind; the same cases every time."""
    return settings(
        max_examples=-(-CASES[kind] // parts),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A deep copy with what lies at a path of keys replaced."""
    changed = copy.deepcopy(value)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return changed


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of keys to everything in nested mappings and lists."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield (*path, key)
        yield from paths(inner, (*path, key))
