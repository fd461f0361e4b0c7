"""Run the benchmarks, print a table, and write ``_build/bench.json``: ``python -m benchmarks [--smoke] [name ...]``."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from benchmarks import harness
from benchmarks.cmsp_train import cmsp_train, cmsp_train_flops, cmsp_train_narrow, cmsp_train_runs
from benchmarks.group_lasso_overhead import group_lasso_overhead
from benchmarks.llm_scores import llm_ablation, llm_attribution
from benchmarks.llm_sliced import llm_sliced
from benchmarks.llm_train import llm_train
from benchmarks.mlp_ablation import mlp_ablation
from benchmarks.mnist_grid import mnist_grid
from benchmarks.prune_peers import prune_peers
from narrowlib.store.downloads import UnavailableError

BENCHMARKS = {
    "cmsp-train": cmsp_train,
    "cmsp-train-narrow": cmsp_train_narrow,
    "cmsp-train-runs": cmsp_train_runs,
    "cmsp-train-flops": cmsp_train_flops,
    "mlp-ablation": mlp_ablation,
    "llm-sliced": llm_sliced,
    "llm-train": llm_train,
    "llm-ablation": llm_ablation,
    "llm-attribution": llm_attribution,
    "group-lasso-overhead": group_lasso_overhead,
    "mnist-grid": mnist_grid,
    "prune-peers": prune_peers,
}
OUTPUT = Path(__file__).parents[1] / "_build" / "bench.json"


def benchmark_of(name: str) -> str | None:
    """The benchmark of this name, or the one that has a row of it: ``llm-sliced`` for ``llm-sliced-0.5-0.5``."""
    fitting = [known for known in BENCHMARKS if name == known or name.startswith(f"{known}-")]
    return max(fitting, key=len, default=None)


def main(arguments: list[str]) -> int:
    """Run the named benchmarks, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0].split(":")[0])
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(BENCHMARKS)}; all if none is given")
    parser.add_argument("--smoke", action="store_true", help="small sizes, to see that they run; speeds mean nothing")
    asked = parser.parse_args(arguments)
    harness.is_smoke = asked.smoke
    found = {name: benchmark_of(name) for name in asked.names}
    unknown = [name for name, benchmark in found.items() if benchmark is None]
    if unknown:
        print(f"ONLY is {unknown[0]!r}; it must be one of {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    try:
        rows = [asdict(row) for name in dict.fromkeys(found.values()) or BENCHMARKS for row in BENCHMARKS[name]()]
    except UnavailableError as error:  # a model or data that cannot be had
        print(error, file=sys.stderr)
        return 1
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3g}".format))
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
