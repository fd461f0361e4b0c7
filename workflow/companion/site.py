"""Make the site from the executed notebooks: lay out the pages, render them strictly, add what is published.

Whether there is anything to do is decided by content: the key of a site is a hash of the plan and of the executed
notebooks, and it is written when everything else is.  So a site without a key is one that was not finished, or has
lost a file, and is rendered from nothing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from companion import chapters, finish, plainly, stage
from companion.locks import one_at_a_time
from companion.plan import FILE, read_plan

HTML = chapters.BUILD / "html"
DOCTREES = chapters.BUILD / ".doctrees"
KEY = chapters.BUILD / "site.key"
LOG = chapters.BUILD / "render.log"
JUPYTER_BOOK = "from jupyter_book.cli.main import main; main()"  # its script knows only where it was installed


class NotRenderedError(plainly.Refusal):
    """Pages with a warning, or links that lead nowhere."""

    exit_code = 1


def key_of(plan: dict[str, Any]) -> str:
    """A hash of all that the site depends on."""
    executed = [chapters.digest(chapters.ROOT / path) for path in plan["executed"].values()]
    return hashlib.sha256("".join([FILE.read_text(encoding="utf-8"), *executed]).encode()).hexdigest()


def is_whole(site: Path = HTML) -> bool:
    """Whether every page, the style sheet, and all that lies beside the pages is there."""
    wanted = [site / f"{page}.html" for page in [*chapters.pages(), "index"]] + [site / "_static" / "book.css"]
    wanted += [site / path.relative_to(stage.BESIDE) for path in stage.BESIDE.rglob("*") if path.is_file()]
    return all(path.is_file() for path in wanted)


def forget(changed: set[Path]) -> None:
    """Have the pages that changed read again, whatever the time stamps say, or all when what they share did."""
    for path in (path.relative_to(stage.STAGE) for path in changed):
        if path.suffix in (".md", ".ipynb"):
            (DOCTREES / path).with_suffix(".doctree").unlink(missing_ok=True)
        elif stage.FIGURES not in path.as_posix():  # the names of those change with them
            shutil.rmtree(DOCTREES, ignore_errors=True)


def render(*more: str, output: str = ".") -> int:
    """Run Jupyter Book; the pages of the library are made from this checkout, whichever is installed."""
    command = [sys.executable, "-c", JUPYTER_BOOK, "build", "_build/stage", "--path-output", output]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [".", os.environ.get("PYTHONPATH")]))}
    with LOG.open("w", encoding="utf-8") as log:
        return subprocess.run([*command, *more], cwd=chapters.ROOT, stdout=log, env=environment).returncode


def main(_: list[str]) -> int:
    with one_at_a_time("site", "another process is building the site; waiting for it"):
        plan = read_plan()
        key = key_of(plan)
        is_finished = KEY.is_file() and is_whole()
        if is_finished and KEY.read_text(encoding="utf-8") == key:
            return 0
        KEY.unlink(missing_ok=True)
        if not is_finished:
            shutil.rmtree(DOCTREES, ignore_errors=True)
        try:
            forget(stage.lay_out(plan))
        except ValueError as error:  # what a page asks for or mentions, and is not there
            raise NotRenderedError(f"the book cannot be laid out: {error}") from error
        if render("-n", "-W", "--keep-going", "-q"):
            raise NotRenderedError("a page has a warning; see above")
        if broken := finish.finish():
            raise NotRenderedError("\n".join(f"a link has no target: {link}" for link in broken))
        chapters.write_if_changed(KEY, key)
    return 0
