"""Run once and keep: results are reused as long as their settings and their code are the same.

A result lies in ``FOLDER/MODULE/NAME/KEY``.  The key digests the settings, the kind of device, the version of torch and
the *import closure* of the function that computes it: its module and every module of the same package that this
imports, directly or through others.  A result is written whole or not at all, with the checksums of its files; a
damaged one is computed again.  Trainings inside it leave off in ``KEY.unfinished``, beside the time spent so far.
"""

import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from narrowlib.store.digests import closure_of, described, digest_of, module_of, sources
from narrowlib.store.files import lock_of, replacing, sha256_of, visible_files
from narrowlib.store.records import are_several, is_first_process
from narrowlib.store.unfinished import CLOCKS, Checkpoint, Clock, counted, on_their_own

SECONDS_STALE = 7 * 86_400.0  # results of other code and other settings are removed when older
ABOUT = "kept.json"
_ENTRY = re.compile(r"\.?([0-9a-f]{12})-([0-9a-f]{12})(.*)")  # a result, or with an ending what belongs to it
T = TypeVar("T")


class Kept:
    """Results that are computed once and kept in a folder.

    Parameters
    ----------
    folder : path or None
        With None or an empty text nothing is kept: everything is computed.
    settings : Any
        What every result depends on, see `narrowlib.store.digests.digest_of`.
    device : torch.device or str, optional
        Results of other kinds of device are others; tensors are returned on this one (without it, on the CPU).

    Examples
    --------
    >>> store = Kept("", {"n_seeds": 2})
    >>> store.keep("losses", lambda: {"mean": 0.5})
    {'mean': 0.5}
    """

    def __init__(self, folder: str | Path | None, settings: Any, *, device: torch.device | str | None = None) -> None:
        self.folder = Path(folder) if folder else None
        self.settings, self.device = settings, torch.device("cpu" if device is None else device)
        self._kind = None if device is None else self.device.type
        self._unfinished: list[Path] = []  # folders of the results that are being computed, the outermost first
        self._seconds: dict[Path, float] = {}
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        if self.folder:
            sources(__name__.partition(".")[0])  # as it is now, not as it is edited while this process runs

    @property
    def seconds(self) -> float:
        """Seconds that the results returned so far took, including calls that were killed and results within them."""
        return sum(self._seconds.values())

    def keep(self, name: str, compute: Callable[[], T], *, inputs: Any = None) -> T:
        """The result of ``compute``, read from the folder if it is there.

        Parameters
        ----------
        name : str
            Tells the results of one module apart.
        compute : callable
            Returns a DataFrame, a mapping of tensors by name, what json holds, or a mapping of these by text or number.
            A DataFrame loses its index.
        inputs : Any, optional
            What it also depends on and the settings do not say, such as networks made before; see
            `narrowlib.store.digests.digest_of`.
        """
        if self.folder is None:
            return compute()
        path, about = self._done(name, compute, lambda folder: _write(compute(), folder / "result"), inputs)
        return _read(about["result"], path, self.device)

    def folder_of(
        self, name: str, work: Callable[[Path], Mapping[str, Any]], *, inputs: Any = None
    ) -> tuple[Path, dict[str, Any]]:
        """A folder of files and its numbers, read if the work was done before.

        Parameters
        ----------
        name, inputs
            See `keep`.
        work : callable
            Gets a new folder to leave files in, and returns what json holds.

        Returns
        -------
        folder : Path
            Removed together with this object when nothing is kept.
        numbers : dict
            What the work returned, and its ``seconds``.
        """
        if self.folder is None:
            self._scratch = self._scratch or tempfile.TemporaryDirectory()
            path, started = Path(tempfile.mkdtemp(dir=self._scratch.name)), time.monotonic()
            return path, {**work(path), "seconds": time.monotonic() - started}
        path, about = self._done(name, work, work, inputs)
        return path, {**about["result"], "seconds": about["seconds"]}

    def checkpoint(self, name: str) -> Checkpoint:
        """The checkpoint of a training inside the result being computed; it has no file if nothing is kept.

        Parameters
        ----------
        name : str
            Tells the trainings of one result apart.
        """
        if self.folder is None:
            return Checkpoint(None)
        if not self._unfinished:
            raise RuntimeError(f"the checkpoint {name!r} is asked for while no result is being computed")
        return Checkpoint(self._unfinished[-1] / f"{_slug(name)}.safetensors")

    def _done(self, *asked: Any) -> tuple[Path, dict[str, Any]]:
        """The folder of a result, which is there then, and what is written about it; see `_found`."""
        with (CLOCKS[-1] if CLOCKS else Clock()).elsewhere() as parts:
            path, about = self._found(*asked)
            parts[path] = about["seconds"]
        return path, about

    def _found(
        self, name: str, function: Callable[..., Any], work: Callable[[Path], Any], inputs: Any
    ) -> tuple[Path, dict[str, Any]]:
        modules = closure_of(function)
        code = digest_of(modules, torch.__version__, inputs)[:12]
        path = self.folder / module_of(function) / _slug(name)
        path /= f"{digest_of(name, self.settings, self._kind)[:12]}-{code}"
        unfinished = path.with_name(f"{path.name}.unfinished")
        about = None if are_several() else _about(path)
        if about is None:
            with _one_at_a_time(path):
                _wait_for_all()  # the first process has the lock: all find the same
                about = _about(path)
                _wait_for_all()
                if about is None:
                    made_from = {"name": name, "settings": described(self.settings), "inputs": described(inputs)}
                    made_from |= {"device": self._kind, "torch": torch.__version__, "modules": modules}
                    self._make(path, unfinished, work, made_from)
                    _wait_for_all()
                    about = json.loads((path / ABOUT).read_text(encoding="utf-8"))
        if is_first_process() and unfinished.is_dir():  # its run was killed between two removals
            shutil.rmtree(unfinished, ignore_errors=True)
        if not self._unfinished:
            self._seconds[path] = about["seconds"]
        return path, about

    def _make(self, path: Path, unfinished: Path, work: Callable[[Path], Any], made_from: dict[str, Any]) -> None:
        self._unfinished.append(unfinished)
        try:
            with ExitStack() as stack:
                if not is_first_process():
                    work(Path(stack.enter_context(tempfile.TemporaryDirectory())))
                    return
                clock = stack.enter_context(counted(unfinished / "seconds"))
                temporary = stack.enter_context(replacing(path))
                temporary.mkdir()
                about = {**made_from, "result": work(temporary), "files": _checksums(temporary)}
                about["seconds"] = clock.seconds
                (temporary / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
            _prune(path)
        finally:
            self._unfinished.pop()


def outdated_results(folder: str | Path) -> list[Path]:
    """Results in a folder of `Kept` from another torch or other code of this library, and damaged old ones."""
    package, now = __name__.partition(".")[0], time.time()
    current, outdated = sources(package)[1], []
    for path in Path(folder).glob("*/*/*"):
        if not path.is_dir() or not _ENTRY.fullmatch(path.name):
            continue
        if (about := _about(path)) is None:  # unfinished ones too
            is_outdated = now - path.stat().st_mtime > SECONDS_STALE
        else:
            ours = {name: code for name, code in about["modules"].items() if name.partition(".")[0] == package}
            is_outdated = about["torch"] != torch.__version__ or not ours.items() <= current.items()
        if is_outdated:
            outdated.append(path)
    return outdated


def _about(path: Path) -> dict[str, Any] | None:
    """What is written about a result; None when it is missing or damaged."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        about = json.loads((path / ABOUT).read_text(encoding="utf-8"))
        if all(sha256_of(path / file) == checksum for file, checksum in about["files"].items()):
            float(about["seconds"]), about["result"]
            return about
    return None


def _write(value: Any, path: Path) -> dict[str, Any]:
    """Leave a result in files whose names begin with ``path``; returns what json has to hold of it."""
    if isinstance(value, pd.DataFrame):
        value.to_parquet(f"{path}.parquet", index=False, compression="zstd")
        return {"table": f"{path.name}.parquet"}
    if isinstance(value, Mapping) and value and all(isinstance(part, Tensor) for part in value.values()):
        save_file(on_their_own(value), f"{path}.safetensors")
        return {"tensors": [f"{path.name}.safetensors", list(value)]}
    if isinstance(value, Mapping):
        parts = enumerate(value.items())
        return {"parts": [[name, _write(part, path.with_name(f"{path.name}-{n}"))] for n, (name, part) in parts]}
    json.dumps(value)
    return {"json": value}


def _read(held: dict[str, Any], path: Path, device: torch.device) -> Any:
    ((kind, value),) = held.items()
    if kind == "table":
        return pd.read_parquet(path / value)
    if kind == "tensors":
        tensors = load_file(path / value[0], device=str(device))
        return {name: tensors[name] for name in value[1]}
    return {name: _read(part, path, device) for name, part in value} if kind == "parts" else value


def _prune(path: Path) -> None:
    """Remove what this result supersedes: unfinished work, the same of other code, old ones of other code."""
    settings, code = path.name.split("-")
    for other in path.parent.iterdir():
        if not (found := _ENTRY.fullmatch(other.name)):
            continue
        with suppress(OSError):  # another process has just removed it
            is_ours, is_old = found[1] == settings, time.time() - other.stat().st_mtime > SECONDS_STALE
            is_left_behind = is_ours and found[3] not in ("", ".lock")
            if is_left_behind if found[2] == code else (is_ours or is_old):
                shutil.rmtree(other, ignore_errors=True) if other.is_dir() else other.unlink()


def _one_at_a_time(path: Path) -> AbstractContextManager[Any]:
    """Only one process, or the first of several that belong together, makes a result; others wait for it."""
    if not is_first_process():
        return nullcontext()
    path.parent.mkdir(parents=True, exist_ok=True)
    return lock_of(path.with_name(f".{path.name}.lock"))


def _wait_for_all() -> None:
    if are_several():
        torch.distributed.barrier()


def _checksums(folder: Path) -> dict[str, str]:
    """By name, of what was left in a folder; hidden files do not count."""
    return {str(path.relative_to(folder)): sha256_of(path) for path in visible_files(folder)}


def _slug(name: str) -> str:
    return re.sub(r"[^\w.]+", "-", name).strip("-.") or "result"
