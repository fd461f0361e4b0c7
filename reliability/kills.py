"""Experiments killed at random moments: what is finished stays, and the end is that of a run that was left alone."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

from narrowlib.store import kept
from reliability import children

N_KILLS = 20


def kills(chapters: list[str], n_kills: int = N_KILLS) -> list[dict[str, object]]:
    """Per chapter: kills, pieces that were finished when a kill came, those of them made again, tables that differ."""
    return [killed_chapter(chapter, n_kills) for chapter in chapters]


def killed_chapter(chapter: str, n_kills: int) -> dict[str, object]:
    """Kill the recording of a chapter ``n_kills`` times, going on each time, from nothing once it is through."""
    chance, n_kept, repeated, different, n_ends, n_done = random.Random(chapter), 0, 0, 0, 0, 0  # noqa: S311 (not for secrets)
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name, "whole")
        seconds = children.run_record(chapter, whole)
        expected = children.tables(chapter, whole)
        while n_done < n_kills:
            folder, finished = Path(name, f"round-{n_ends}"), {}
            while n_done < n_kills and kill(chapter, folder, chance.uniform(0, seconds)):
                n_done += 1
                repeated += changed(finished)
                finished = finished_pieces(folder)
                n_kept = max(n_kept, len(finished))
            children.run_record(chapter, folder)
            repeated += changed(finished)
            different += sum(children.tables(chapter, folder).get(table) != total for table, total in expected.items())
            n_ends += 1
            shutil.rmtree(folder)
    return {
        "chapter": chapter,
        "kills": n_done,
        "runs to the end": n_ends,
        "most pieces finished at a kill": n_kept,
        "finished pieces made again": repeated,
        "tables": len(expected),
        "tables that differ": different,
    }


def kill(chapter: str, folder: Path, after: float) -> bool:
    """Start recording and kill it after so many seconds; False when it was through before."""
    process = children.start_record(chapter, folder)
    time.sleep(after)
    if was_killed := children.is_running(process):
        os.kill(process, signal.SIGKILL)
    code = children.exit_code(process)
    if not was_killed and code:
        raise RuntimeError(f"recording {chapter} ended with {code}, see {folder / 'log'}")
    return code == -signal.SIGKILL


def finished_pieces(folder: Path) -> dict[Path, tuple[int, int]]:
    """Files of the finished results of `narrowlib.store.kept`, and what tells whether they have been written again."""
    found = {}
    for about in (folder / "left").rglob(kept.ABOUT):
        if not any(part.endswith(".part") for part in about.parts):  # a result that was being written
            files = json.loads(about.read_text())["files"]
            found |= {path: identity(path) for path in (about, *(about.parent / name for name in files))}
    return found


def identity(path: Path) -> tuple[int, int]:
    """A file written again has another one."""
    return path.stat().st_ino, path.stat().st_mtime_ns


def changed(before: dict[Path, tuple[int, int]]) -> int:
    """How many of these files are gone or written again."""
    return sum(not path.exists() or identity(path) != was for path, was in before.items())
