"""`make book` killed at random moments, in a project of three tiny chapters."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bs4 import BeautifulSoup

from reliability.kills import N_KILLS, changed, identity
from tests.trees import environment_of, executed, make_tiny_project

COMMAND = [sys.executable, "-m", "companion", "book", "--cores", "2"]


def builds(n_kills: int = N_KILLS) -> list[dict[str, object]]:
    """Kills, executed chapters that were there at a kill, those of them executed again, and sites that differ."""
    chance, kept, repeated, different, n_ends, n_done = random.Random(0), 0, 0, 0, 0, 0  # noqa: S311 (not for secrets)
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name, "tree")
        make_tiny_project(tree)
        fresh = shutil.copytree(tree, Path(name, "fresh"))
        began = time.monotonic()
        subprocess.run(COMMAND, cwd=tree, env=environment_of(tree), check=True, capture_output=True)
        seconds, expected = time.monotonic() - began, site(tree)
        while n_done < n_kills:
            again, finished = shutil.copytree(fresh, Path(name, f"round-{n_ends}")), {}
            while n_done < n_kills and kill(again, chance.uniform(0, seconds)):
                n_done += 1
                repeated += changed(finished)
                finished = {path: identity(path) for path in executed(again)}
                kept = max(kept, len(finished))
            subprocess.run(COMMAND, cwd=again, env=environment_of(again), check=True, capture_output=True)
            repeated += changed(finished)
            different += site(again) != expected
            n_ends += 1
            shutil.rmtree(again)
    return [
        {
            "kills": n_done,
            "builds to the end": n_ends,
            "most chapters executed at a kill": kept,
            "executed chapters executed again": repeated,
            "sites that differ": different,
        }
    ]


def kill(tree: Path, after: float) -> bool:
    """Start a build and kill it, with all that it started, after so many seconds; False when it was through before."""
    with (tree / "log").open("ab") as log:
        build = subprocess.Popen(
            COMMAND, cwd=tree, env=environment_of(tree), stdout=log, stderr=log, start_new_session=True
        )
    time.sleep(after)
    if build.poll() is None:
        os.killpg(build.pid, signal.SIGKILL)
        build.wait()
    elif build.returncode:
        raise RuntimeError(f"a build ended with {build.returncode}, see {tree / 'log'}")
    return build.returncode == -signal.SIGKILL


def site(tree: Path) -> dict[str, str]:
    """Text of every page, without how it was made, and the sizes of all other files that do not tell that either."""
    html, found = tree / "_build" / "html", {}
    for path in sorted(path for path in html.rglob("*") if path.is_file()):
        name = path.relative_to(html).as_posix()
        if path.suffix == ".html":
            page = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
            for block in page.select("details"):
                block.decompose()
            text = re.sub(r"\d\d\d\d-\d\d-\d\d[ T][\d:]+( UTC)?|[\d.]+ s\b|[\d.]+ [MG]B", "", page.get_text(" "))
            found[name] = " ".join(text.split())
        else:
            found[name] = "" if path.suffix in {".json", ".js", ".inv", ".ipynb"} else str(path.stat().st_size)
    return found
