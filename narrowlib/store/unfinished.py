"""Unfinished runs: checkpoints of interrupted runs, and when to stop a run that has diverged."""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from narrowlib.store.digests import digest_of
from narrowlib.store.files import replacing
from narrowlib.store.records import is_first_process

SECONDS_BETWEEN = 60.0  # two checkpoints of a training
SECONDS_TO_SAVE = 3.0  # what takes longer to save is saved less often, in proportion
SECONDS_UNTOLD = 10.0  # of the time of a run, the last ones that a kill may lose


class DivergedError(ValueError):
    """Raised when the loss of a training is no longer a number."""


def check_loss(losses: Tensor | float, step: int, learning_rate: float) -> None:
    """Stop a training that has diverged; later steps would be wasted, and its result would look like a valid one.

    Parameters
    ----------
    losses : Tensor or float
        One loss, or those of runs (n_runs, ...).
    step : int
        Steps taken so far.
    learning_rate : float

    Raises
    ------
    DivergedError
        When a loss is NaN or infinite.
    """
    wrong = ~torch.as_tensor(losses).isfinite()
    if wrong.any():
        runs = wrong.flatten(1).any(1).nonzero()[:, 0].tolist() if wrong.ndim > 1 else []
        of_runs = f" of {len(runs)} of {len(wrong)} runs, first run {runs[0]}," if runs else ""
        raise DivergedError(
            f"the loss{of_runs} is not a finite number after {step:,} steps; training has diverged with learning_rate "
            f"{learning_rate:g} (a smaller one, or float32 instead of bfloat16, may keep it finite), or began with "
            f"weights or data that are not finite"
        )


def not_finite(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> list[str]:
    """Names of tensors with a number that is NaN or infinite, as they are or rounded to a dtype."""
    ends = {name: torch.stack(torch.aminmax(tensor.detach())) for name, tensor in tensors.items() if tensor.numel()}
    return [name for name, each in ends.items() if not each.to(dtype or each.dtype).isfinite().all()]


class Checkpoint:
    """One file from which a training continues, to bit-identical results.

    A training asks `resume` once, and then ``if checkpoint.is_due(): checkpoint.save(...)`` after its steps.

    Parameters
    ----------
    path : path or None
        With None nothing is saved.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.path, self._run = Path(path) if path else None, ""
        self._saved_at, self._took = time.monotonic(), 0.0

    def resume(self, *run: Any) -> tuple[dict[str, Tensor], Any] | None:
        """The saved tensors, on the CPU, and the rest; None if there is nothing to continue from.

        Parameters
        ----------
        *run : Any
            Everything that the training depends on, see `narrowlib.store.digests.digest_of`: configuration,
            parameters, generators, kind of device.  What another run left, or what is damaged, is not used.
        """
        self._run = digest_of(*run)
        with suppress(OSError, SafetensorError, ValueError, KeyError, TypeError):
            if self.path is not None and self.path.is_file():
                with safe_open(self.path, framework="pt") as file:
                    if file.metadata()["run"] == self._run:
                        about = json.loads(file.metadata()["about"])
                        return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
        return None

    def is_due(self) -> bool:
        """Whether the last save is long enough ago, also compared with the time that saving takes."""
        wait = SECONDS_BETWEEN * max(1.0, self._took / SECONDS_TO_SAVE)
        return self.path is not None and time.monotonic() - self._saved_at >= wait

    def save(self, tensors: Mapping[str, Tensor], about: Any = None) -> None:
        """Write everything, in the first of several processes; ``about`` is stored as json."""
        if self.path is None or not is_first_process():
            return
        began = time.monotonic()
        with replacing(self.path) as temporary:
            save_file(on_their_own(tensors), temporary, {"run": self._run, "about": json.dumps(about)})
        self._saved_at = time.monotonic()
        self._took = self._saved_at - began

    def remove(self) -> None:
        """Delete the file, when the training is over."""
        if self.path is not None and is_first_process():
            self.path.unlink(missing_ok=True)


class Clock:
    """Seconds spent on a result in all calls; those of the results it is made of count once, however they came."""

    def __init__(self, earlier: float = 0.0) -> None:
        self._own, self._since = earlier, time.monotonic()
        self._is_elsewhere = False
        self.parts: dict[Path, float] = {}

    @property
    def own(self) -> float:
        """Seconds without those of the parts."""
        return self._own if self._is_elsewhere else self._own + time.monotonic() - self._since

    @property
    def seconds(self) -> float:
        """Seconds with those of the parts."""
        return self.own + sum(self.parts.values())

    @contextmanager
    def elsewhere(self) -> Iterator[dict[Path, float]]:
        """Stand still while a part is made or read; yields the seconds of all parts."""
        self._own, self._is_elsewhere = self.own, True
        try:
            yield self.parts
        finally:
            self._since, self._is_elsewhere = time.monotonic(), False


CLOCKS: list[Clock] = []  # of the results that are being made, the outermost first


@contextmanager
def counted(path: Path) -> Iterator[Clock]:
    """A clock that goes on from the file of earlier calls, which is updated every few seconds."""
    try:
        earlier = float(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        earlier = 0.0
    clock, is_over = Clock(earlier), threading.Event()

    def leave() -> None:
        with suppress(OSError), replacing(path) as temporary:
            temporary.write_text(f"{clock.own}", encoding="utf-8")

    def leave_now_and_then() -> None:
        while not is_over.wait(SECONDS_UNTOLD):
            leave()

    thread = threading.Thread(target=leave_now_and_then, daemon=True)
    thread.start()
    CLOCKS.append(clock)
    try:
        yield clock
    except BaseException:
        leave()
        raise
    finally:
        CLOCKS.pop()
        is_over.set()
        thread.join()


def on_their_own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, each in its own memory, as safetensors requires."""
    own: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        moved = tensor.detach().cpu().contiguous()
        own[name] = moved.clone() if moved.untyped_storage().data_ptr() in seen else moved
        seen.add(moved.untyped_storage().data_ptr())
    return own
