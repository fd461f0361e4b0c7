"""What a benchmark is: a function that returns rows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

is_smoke = False  # whether sizes are such that benchmarks only show that they run


def size_of(device: torch.device) -> str:
    """Whose sizes a benchmark takes: cpu, cuda or smoke."""
    return "smoke" if is_smoke else device.type


@dataclass(frozen=True)
class Row:
    """One line of ``_build/bench.json``; ``ratio`` says how many times better ours is."""

    name: str
    ours: float
    baseline: float
    unit: str
    ratio: float
    device: str
    repeats: int


def seconds_of(run: Callable[..., object], *arguments: object) -> float:
    """Seconds of one call: by events of the GPU where there is one, else by the clock."""
    if not torch.cuda.is_available():
        started = time.perf_counter()
        run(*arguments)
        return time.perf_counter() - started
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    run(*arguments)
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1000


def measure_side_by_side(
    ours: Callable[[], object],
    baseline: Callable[[], object],
    *,
    repeats: int = 5,
    seconds: Callable[[Callable[[], object]], float] = seconds_of,
) -> tuple[float, float, float]:
    """Median seconds of both and the median of the ratios baseline / ours, taken in turns after one warm-up each.

    Turns make the ratio robust: a slow spell of the machine meets both.  ``seconds`` times one call.
    """
    taken = {ours: [], baseline: []}
    for repeat in range(2 if is_smoke else repeats + 1):
        for run in (ours, baseline):
            elapsed = seconds(run)
            if repeat:
                taken[run].append(elapsed)
    ratios = [slow / fast for fast, slow in zip(taken[ours], taken[baseline], strict=True)]
    return statistics.median(taken[ours]), statistics.median(taken[baseline]), statistics.median(ratios)
