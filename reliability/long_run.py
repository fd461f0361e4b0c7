"""The smoke book built again and again in one tree: memory of every chapter, sizes of the build and the cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from narrowlib.store.downloads import cache_folder
from tests.trees import ROOT, TRANSIENT

N_BUILDS = 10


def long_run(chapters: list[str], n_builds: int = N_BUILDS) -> list[dict[str, object]]:
    """Per chapter: peak memory in the first build and the most in any later one; then the sizes of folders."""
    peaks: dict[str, list[int]] = {chapter: [] for chapter in chapters}
    sizes: dict[str, list[int]] = {"_build": [], "cache": []}
    with tempfile.TemporaryDirectory() as name:
        tree = shutil.copytree(ROOT, Path(name, "tree"), ignore=shutil.ignore_patterns(*TRANSIENT))
        for _ in range(n_builds):
            for chapter in chapters:
                peaks[chapter].append(executed_again(tree, chapter))
            sizes["_build"].append(bytes_in(tree / "_build"))
            sizes["cache"].append(bytes_in(cache_folder()))
    about = {f"peak memory of {chapter}": values for chapter, values in peaks.items()}
    about |= {f"size of {folder}": values for folder, values in sizes.items()}
    return [
        {"what": what, "runs": len(values), "first, MB": values[0] / 1e6, "most later, MB": max(values[1:]) / 1e6}
        for what, values in about.items()
    ]


def executed_again(tree: Path, chapter: str) -> int:
    """Execute a chapter at smoke scale once more; the most bytes that its kernel held."""
    command = [sys.executable, "-m", "companion", "run", chapter, "--profile", "smoke", "--again"]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True, env=environment)
    notebook = json.loads((tree / done.stdout.splitlines()[-1]).read_text(encoding="utf-8"))
    return notebook["metadata"]["narrowlib"]["peak_memory_bytes"]


def bytes_in(folder: Path) -> int:
    """Size of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
