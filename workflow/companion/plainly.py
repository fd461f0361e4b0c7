"""Errors in plain words: what a user asked for and cannot have, and what the machine cannot do."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

NO_MEMORY = ("can't allocate memory", "out of memory", "bad_alloc")  # torch raises RuntimeError for it
# A shell becomes the command; beside it waits one that kills the group when nobody holds the other end of its stdin.
_GUARDED = """
exec 3<&0
{ trap "" TERM INT HUP; cat <&3 >/dev/null; kill -9 -$$; } &
exec "$@" 3<&- </dev/null
"""


class Refusal(ValueError):
    """Something that cannot be done, said in one sentence to whoever asked for it."""

    exit_code = 2


class Terminated(KeyboardInterrupt):
    """SIGTERM, as Slurm and other systems send it before they kill."""


def _terminate(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one comes where the whole group is told
    with contextlib.suppress(ImportError):  # without any package, what was started is git or gh
        import psutil

        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.terminate()
    raise Terminated


def run(main: Callable[[], int]) -> int:
    """Exit code of a command: that of ``main``, or another with one sentence on stderr where it cannot be done.

    On SIGTERM all that the command has started ends with it.
    """
    earlier = signal.signal(signal.SIGTERM, _terminate)
    try:
        return main()
    except Refusal as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except (OSError, MemoryError, RuntimeError) as error:
        said = sentence(error)
        if said is None:
            raise
        print(said, file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print("stopped; the same command continues from what is finished", file=sys.stderr)
        return 143 if isinstance(error, Terminated) else 130
    finally:
        signal.signal(signal.SIGTERM, earlier)


@contextlib.contextmanager
def group_of(command: list[str], **options: Any) -> Iterator[subprocess.Popen]:
    """A command in a process group of its own, killed at the end of ``with`` or of this process, SIGKILL included."""
    guarded = ["sh", "-c", _GUARDED, "sh", *command]
    process = subprocess.Popen(guarded, stdin=subprocess.PIPE, start_new_session=True, **options)
    try:
        yield process
    finally:
        process.stdin.close()
        process.wait()


def sentence(error: Exception) -> str | None:
    """What the machine could not do; None for an error that is not the machine's."""
    if isinstance(error, OSError) and error.errno is not None:
        place = f"{os.fspath(error.filename)!r}: " if error.filename else ""
        return f"{place}{os.strerror(error.errno)}; no finished result is lost, and the same command continues"
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in NO_MEMORY):
        return "there is not enough memory; a smaller batch, width or model needs less (see the chapter's parameters)"
    return None
