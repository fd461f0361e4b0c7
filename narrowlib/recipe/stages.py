"""Steps that are done once: what each leaves behind lies in a folder named by all that came before it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from tqdm.auto import tqdm

from narrowlib.store.downloads import UnavailableError, replacing
from narrowlib.store.records import digest_of

Result = dict[str, Any]  # what json holds
_ABOUT = "result.json"
_REMEDY = "make room or choose another folder; the same command goes on from where this one stopped"


class Stages:
    """Finished steps of one narrowing, in a folder.

    A step is done when its folder has its name: it is written under another name and then renamed.  The name holds a
    digest of all that the narrowing depends on, so that other settings make other folders.

    Parameters
    ----------
    folder : Path
    origin : Any
        What all steps depend on; what json holds.
    progress : bool
        Show a progress bar, by step.
    n_expected : int
        Steps that there will be at most.
    """

    def __init__(self, folder: Path, origin: Any, *, progress: bool = True, n_expected: int = 1) -> None:
        self.folder, self.key, self.n_steps = folder, digest_of(origin), 0
        self.bar = tqdm(total=n_expected, unit="step", disable=not progress)

    def step(self, name: str, work: Callable[[Path], Result]) -> tuple[Path, Result]:
        """The folder of a step and its result, read when it was done before.

        Parameters
        ----------
        name : str
        work : callable
            Gets a new folder to leave files in, and returns numbers.

        Raises
        ------
        UnavailableError
            When the folder cannot be written.
        """
        self.n_steps += 1
        self.bar.set_description(name)
        path = self.folder / f"{self.n_steps:02d}-{name}-{self.key}"
        if not path.is_dir():
            started = time.monotonic()
            with writing(path) as temporary:
                temporary.mkdir()
                result = {**work(temporary), "seconds": time.monotonic() - started}
                (temporary / _ABOUT).write_text(json.dumps(result), encoding="utf-8")
        self.bar.update()
        return path, json.loads((path / _ABOUT).read_text(encoding="utf-8"))

    @property
    def scratch(self) -> Path:
        """Folder where a training may leave off."""
        return self.folder / "unfinished"


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` that takes its place when the block succeeds; a full disk is told in one sentence."""
    try:
        with replacing(path, remedy=_REMEDY) as temporary:
            yield temporary
    except SafetensorError as error:  # how its writer says that the disk is full
        raise UnavailableError(f"{path.parent} cannot be written ({error}); {_REMEDY}") from error


@contextmanager
def workplace(out: Path) -> Iterator[Path]:
    """The hidden folder beside ``out`` in which steps are kept, for one process at a time.

    It is removed when nothing was finished in it.

    Raises
    ------
    UnavailableError
        When it cannot be written, or another process has it.
    """
    folder = out.parent / f".{out.name}.unfinished"
    lock = FileLock(folder.with_name(f"{folder.name}.lock"), timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise UnavailableError(f"out is {str(out)!r}, on which another process is at work; wait for it") from error
    except OSError as error:
        raise UnavailableError(f"out is {str(out)!r}, which cannot be written: {error.strerror or error}") from error
    try:
        yield folder
    finally:
        if not any(folder.glob("[0-9]*")):
            shutil.rmtree(folder, ignore_errors=True)
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
