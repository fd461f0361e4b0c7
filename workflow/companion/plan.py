"""What a profile's book consists of: which executed notebook each chapter needs, and the sums of all sources."""

import json
import sys
from pathlib import Path
from typing import Any

from companion import chapters, differences, parameters
from narrowlib.store.files import visible_files

FILE = chapters.BUILD / "plan.json"
MEMORY_MB = {None: 1_600, "tiny": 1_200, "small": 1_600, "default": 4_000}  # None: a chapter without a language model
RENDERED = (
    ("", "*.yml"),
    ("", "constraints.txt"),
    ("book", "**/*.*"),
    ("narrowlib", "**/*.py"),
    ("workflow", "**/*.py"),
)


def make_plan(profile: str) -> dict[str, Any]:
    """The plan of a profile, also written to ``_build/plan.json`` when it differs from the one there.

    It holds ``profile``; ``repository``, its address; ``executed``, the path of every chapter's executed notebook;
    ``sources``, the sums of every file that the pages are made from, docstrings and this workflow included.
    """
    executed = {}
    differences.differences()  # what is wrong with it is said before anything runs
    for chapter in chapters.names():
        path = chapters.executed_path(chapter, parameters.of_profile(chapter, profile))
        _remove_if_damaged(path)
        executed[chapter] = path.relative_to(chapters.ROOT).as_posix()
    found = {path for folder, pattern in RENDERED for path in visible_files(chapters.ROOT / folder, pattern)}
    sources = {
        path.relative_to(chapters.ROOT).as_posix(): chapters.digest(path)
        for path in sorted(found)
        if path.suffix != ".pyc"
    }
    plan = {"profile": profile, "repository": chapters.repository(), "executed": executed, "sources": sources}
    chapters.write_if_changed(FILE, json.dumps(plan, indent=1))
    return plan


def memory_mb(chapter: str, profile: str) -> int:
    """Megabytes of memory that a chapter needs at most, as measured, by the model that its parameters name."""
    values = {**parameters.quick(chapter), **parameters.of_profile(chapter, profile)}
    return MEMORY_MB.get(values.get("model"), MEMORY_MB["default"])


def read_plan() -> dict[str, Any]:
    """The plan that was made last; without any chapter where there is none."""
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {"executed": {}}


def _remove_if_damaged(path: Path) -> None:
    """An executed notebook that cannot be read counts as not there."""
    if not path.is_file():
        return
    try:
        notebook = json.loads(path.read_bytes())
        is_whole = bool(notebook["cells"]) and "duration" in notebook["metadata"]["papermill"]
    except (ValueError, KeyError, TypeError):
        is_whole = False
    if not is_whole:
        print(f"{path.relative_to(chapters.ROOT)} is damaged; its chapter will be executed again", file=sys.stderr)
        path.unlink()
