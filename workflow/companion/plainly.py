"""Errors of the machine in plain words: a full disk, no memory, a folder that cannot be written."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

NO_MEMORY = ("can't allocate memory", "out of memory", "bad_alloc")  # torch raises RuntimeError for it


def run(main: Callable[[], int]) -> int:
    """Exit code of a script: that of ``main``, or 1 with one sentence on stderr where the machine failed it."""
    try:
        return main()
    except (OSError, MemoryError, RuntimeError) as error:
        said = sentence(error)
        if said is None:
            raise
        print(said, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from what is finished", file=sys.stderr)
        return 130


def sentence(error: Exception) -> str | None:
    """What the machine could not do; None for an error that is not the machine's."""
    if isinstance(error, OSError) and error.errno is not None:
        place = f"{os.fspath(error.filename)!r}: " if error.filename else ""
        return f"{place}{os.strerror(error.errno)}; nothing that was finished is lost, and the same command goes on"
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in NO_MEMORY):
        return "there is not enough memory; a smaller batch, width or model needs less (see the chapter's parameters)"
    return None
