"""Files and folders that are written whole or not at all.

Everything that the library keeps goes through `replacing`: it is written under another name, through to the disk, and
then renamed.  A run that is killed, or a machine that loses its power, leaves what was there before or what is new,
never a half.
"""

import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError

_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # what some network file systems answer
_STRAY = re.compile(r"\..*|#.*#|.*~|~\$.*|.*\.sw[a-p]|(eh)?thumbs\.db|desktop\.ini|icon\r|__macosx", re.I)
_OF_THE_SYSTEM = re.compile(r"\(os error (\d+)\)")  # as libraries in Rust tell it
SECONDS_TO_WRITE = 86_400.0  # what a killed run left half-written is older than that when it is removed


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path for a file or a folder, which replaces ``path`` when the block succeeds.

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
        When the folder cannot be written or the disk is full, whatever the library that wrote raises then; ``path`` is
        then as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}."
    _remove_abandoned(path.parent, prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=".part", dir=path.parent))
    try:
        temporary = folder / path.name
        with _told_by_errno(path):
            yield temporary
        _write_through(temporary, _mode_of(folder / f"{path.name}.new"))
        if path.is_dir():
            path.rename(folder / f"{path.name}.old")  # a folder takes no other's place in one step
        temporary.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _told_by_errno(path: Path) -> Iterator[None]:
    """Raise what safetensors and tokenizers tell of the system in words, as ``(os error 28)``, as an `OSError`."""
    try:
        yield
    except Exception as error:
        said = _OF_THE_SYSTEM.search(str(error)) if type(error) in (Exception, SafetensorError) else None
        if said is None:
            raise
        raise OSError(int(said[1]), os.strerror(int(said[1])), str(path)) from error


def lock_of(path: str | Path, timeout: float = -1) -> FileLock:
    """The lock of this path, to be acquired; it is released when the process that holds it ends.

    Every user who can reach its folder may acquire it: a cache may be shared.

    On a file system without locks it lies in the temporary folder of the machine, under a hash of the path, and holds
    among the processes of this machine only.

    Parameters
    ----------
    path : path
        Of the lock file; its folder is not made.
    timeout : float
        Seconds to wait; -1 for as long as it takes.
    """
    path = Path(path)
    if path.parent.is_dir() and not _has_locks(path.parent):
        name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:16]
        path = Path(tempfile.gettempdir(), f"narrowlib-locks-{os.getuid()}", f"{name}.lock")
        path.parent.mkdir(mode=0o700, exist_ok=True)
    return FileLock(path, timeout, 0o666)


@cache
def _has_locks(folder: Path) -> bool:
    """Whether the file system of a folder has locks, as far as may be tried."""
    with suppress(ImportError):
        import fcntl

        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # others are said where the lock is acquired
            return error.errno not in _WITHOUT_LOCKS
    return True


def at_home(path: str | Path) -> Path:
    """A path with a home folder in the place of ``~``; as it is where this is only the beginning of a name."""
    with suppress(RuntimeError):  # there is no user of this name
        return Path(path).expanduser()
    return Path(path)


def visible_files(folder: str | Path, pattern: str = "**/*") -> list[Path]:
    """Files of a folder in the order of their names, without those that `is_stray` names."""
    found = (path for path in Path(folder).glob(pattern) if path.is_file())
    return sorted(path for path in found if not is_stray(path.relative_to(folder)))


def named_in(source: bytes, files: Iterable[Path]) -> list[Path]:
    """Those files, except code, whose names occur in quotes in a source."""
    return [path for path in files if not path.suffix.startswith(".py") and f'"{path.name}"'.encode() in source]


def is_stray(path: Path) -> bool:
    """Whether a file, or a folder on the way to it, is hidden or left there by an editor or a file manager.

    Such as ``.ipynb_checkpoints/curves.json``, ``.nfs01``, ``curves.json~``, ``#curves.json#``, ``curves.json.swp``,
    ``~$curves.xlsx`` and ``Thumbs.db``.
    """
    return any(_STRAY.fullmatch(part) for part in path.parts)


def sha256_of(path: str | Path) -> str:
    """Checksum of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inside(folder: str | Path, name: str) -> Path:
    """The path of a name in a folder, for names from an archive.

    Raises
    ------
    ValueError
        When the name leads out of the folder.
    """
    path = Path(folder, name)
    if not path.resolve().is_relative_to(Path(folder).resolve()):
        raise ValueError(f"name is {name!r}; it must lie in the folder {str(folder)!r}")
    return path


def _write_through(path: Path, mode: int) -> None:
    """Have a file, or every file of a folder, on the disk and not only in memory, and open to whom ``mode`` says."""
    for file in path.rglob("*") if path.is_dir() else (path,):
        if file.is_file():
            with file.open("rb+") as opened:
                has = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
                if mode & ~has:  # safetensors opens its files to their owner alone
                    os.fchmod(opened.fileno(), has | mode)
                os.fsync(opened.fileno())


def _mode_of(new: Path) -> int:
    """The mode of a new file: what the user's umask leaves, asked without changing it."""
    new.touch()
    return stat.S_IMODE(new.stat().st_mode)


def _remove_abandoned(folder: Path, prefix: str) -> None:
    """Remove what runs that were killed left of this path."""
    for left in folder.iterdir():
        if left.name.startswith(prefix) and left.name.endswith(".part"):
            with suppress(FileNotFoundError):  # its run has just come to its end
                if time.time() - left.stat().st_mtime > SECONDS_TO_WRITE:
                    shutil.rmtree(left, ignore_errors=True)
