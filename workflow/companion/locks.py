"""One process at a time: locks that wait, say so, and are gone with the process that held them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import Timeout

from companion import chapters
from narrowlib.store.files import lock_of


@contextmanager
def one_at_a_time(name: str, waiting: str) -> Iterator[None]:
    """Hold the lock of this name in this tree; ``waiting`` is said, once, when another process holds it."""
    path = chapters.BUILD / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = lock_of(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(waiting, file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
