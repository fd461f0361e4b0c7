"""Render the staged book, strictly, and put beside it what is published with it.

A page with a warning is not read again by the next build, so what was read is forgotten when there is one.  A page that
was half written when a build was killed looks new, so all that a killed build rendered is forgotten.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from companion import chapters, finish, plainly

DOCTREES = chapters.BUILD / ".doctrees"
MARK = chapters.BUILD / "rendering"  # is there while this runs, and after a kill
LOG = chapters.BUILD / "render.log"


def run_jupyter_book() -> int:
    """Render; the pages of the library are made from this checkout, whichever is installed."""
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", "_build/stage", "--path-output", "."]
    path = os.pathsep.join(filter(None, [".", os.environ.get("PYTHONPATH")]))
    with LOG.open("w", encoding="utf-8") as log:
        strict = ["-n", "-W", "--keep-going", "-q"]
        environment = {**os.environ, "PYTHONPATH": path}
        return subprocess.run([*command, *strict], cwd=chapters.ROOT, stdout=log, env=environment).returncode


def main() -> int:
    if MARK.exists():
        shutil.rmtree(DOCTREES, ignore_errors=True)
        shutil.rmtree(finish.HTML, ignore_errors=True)
    MARK.touch()
    try:
        if run_jupyter_book():
            shutil.rmtree(DOCTREES, ignore_errors=True)
            return 1
        return finish.main()
    finally:
        MARK.unlink()


if __name__ == "__main__":
    sys.exit(plainly.run(main))
