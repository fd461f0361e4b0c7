"""Where a training run leaves off, so that the same command goes on after a kill."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from narrowlib.store.files import replacing
from narrowlib.store.records import is_first_process

SECONDS_BETWEEN = 60.0
SECONDS_TO_SAVE = 3.0  # what takes longer to save is saved less often, in proportion


def digest_of(*values: Any) -> str:
    """Short name of a run: a hash of everything that it depends on.

    Parameters
    ----------
    *values : Any
        Modules, mappings, sequences and tensors, which are gone through, and anything whose ``repr`` tells it apart.
        Of a tensor of numbers some thousand values count, evenly spaced.
    """
    seen = hashlib.sha256()
    _absorb(seen, values)
    return seen.hexdigest()[:16]


def _absorb(seen: hashlib._Hash, value: Any) -> None:
    if isinstance(value, nn.Module):
        value = dict(value.named_parameters())
    if is_dataclass(value):
        value = asdict(value)
    if isinstance(value, Mapping):
        value = [part for name in sorted(value) for part in (name, value[name])]
    if isinstance(value, Tensor):
        every = 1 if value.dtype == torch.bool else max(1, value.numel() // 1024)
        sample = value.detach().flatten()[::every].double().cpu()
        seen.update(f"{tuple(value.shape)}".encode() + sample.numpy().tobytes())
    elif isinstance(value, (list, tuple)):
        seen.update(f"{len(value)}:".encode())
        for part in value:
            _absorb(seen, part)
    else:
        seen.update(f"{value!r};".encode())


class Checkpoint:
    """One file that a training leaves off in and goes on from, to the same bits.

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
        """The tensors, on the CPU, and the rest, as they were saved; None when there is nothing to go on from.

        Parameters
        ----------
        *run : Any
            Everything that the training depends on, see `digest_of`: configuration, parameters, generators, kind of
            device.  What another run left, or what is damaged, is not used.
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
        """Whether the last time is long enough ago, also in view of how long saving took."""
        wait = SECONDS_BETWEEN * max(1.0, self._took / SECONDS_TO_SAVE)
        return self.path is not None and time.monotonic() - self._saved_at >= wait

    def save(self, tensors: Mapping[str, Tensor], about: Any = None) -> None:
        """Write everything, in the first of several processes; ``about`` is what json holds."""
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


def on_their_own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, each in memory of its own, as safetensors wants them."""
    own: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        moved = tensor.detach().cpu().contiguous()
        own[name] = moved.clone() if moved.untyped_storage().data_ptr() in seen else moved
        seen.add(moved.untyped_storage().data_ptr())
    return own
