"""Files and folders that are written whole or not at all.

Everything that the library keeps goes through `replacing`: it is written under another name, through to the disk, and
then renamed.  A run that is killed, or a machine that loses its power, leaves what was there before or what is new,
never a half.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SECONDS_TO_WRITE = 86_400.0  # what a killed run left half-written is older than that when it is removed


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path to write a file or a folder at, which takes the place of ``path`` when the block succeeds.

    Parameters
    ----------
    path : path
        Its folder is created when it is missing.

    Yields
    ------
    Path
        With the same name, in a temporary folder beside ``path``; nothing is there yet.

    Raises
    ------
    OSError
        When the folder cannot be written or the disk is full; ``path`` is then as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}."
    _remove_abandoned(path.parent, prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=".part", dir=path.parent))
    try:
        temporary = folder / path.name
        yield temporary
        _write_through(temporary)
        if path.is_dir():
            path.rename(folder / f"{path.name}.old")  # a folder takes no other's place in one step
        temporary.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sha256_of(path: str | Path) -> str:
    """Checksum of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inside(folder: str | Path, name: str) -> Path:
    """The path of a name in a folder, for names out of an archive.

    Raises
    ------
    ValueError
        When the name leads out of the folder.
    """
    path = Path(folder, name)
    if not path.resolve().is_relative_to(Path(folder).resolve()):
        raise ValueError(f"name is {name!r}; it must lie in the folder {str(folder)!r}")
    return path


def _write_through(path: Path) -> None:
    """Have a file, or every file of a folder, on the disk and not only in memory."""
    for file in path.rglob("*") if path.is_dir() else (path,):
        if file.is_file():
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())


def _remove_abandoned(folder: Path, prefix: str) -> None:
    """Remove what runs that were killed left of this path."""
    for left in folder.iterdir():
        if left.name.startswith(prefix) and left.name.endswith(".part"):
            with suppress(FileNotFoundError):  # its run has just come to its end
                if time.time() - left.stat().st_mtime > SECONDS_TO_WRITE:
                    shutil.rmtree(left, ignore_errors=True)
