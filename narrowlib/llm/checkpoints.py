"""Where a training of a language model leaves off: one file of safetensors, with json in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from narrowlib.store.checkpoints import digest_of
from narrowlib.store.files import replacing
from narrowlib.store.records import is_first_process


class Checkpoint:
    """One file that a training leaves off in and goes on from, to the same bits.

    Parameters
    ----------
    path : path or None
        With None nothing is saved.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.path, self._run = Path(path) if path else None, ""

    def resume(self, *run: Any) -> tuple[dict[str, Tensor], Any] | None:
        """The tensors, on the CPU, and the rest, as they were saved; None when there is nothing to go on from.

        Parameters
        ----------
        *run : Any
            Everything that the training depends on.  What another run left, or what is damaged, is not used.
        """
        self._run = digest_of(*run)
        with suppress(OSError, SafetensorError, ValueError, KeyError, TypeError):
            if self.path is not None and self.path.is_file():
                with safe_open(self.path, framework="pt") as file:
                    if file.metadata()["run"] == self._run:
                        about = json.loads(file.metadata()["about"])
                        return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
        return None

    def save(self, tensors: Mapping[str, Tensor], about: Any = None) -> None:
        """Write everything, in the first of several processes; ``about`` is what json holds."""
        if self.path is None or not is_first_process():
            return
        with replacing(self.path) as temporary:
            own = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
            save_file(own, temporary, {"run": self._run, "about": json.dumps(about)})

    def remove(self) -> None:
        """Delete the file, when the training is over."""
        if self.path is not None and is_first_process():
            self.path.unlink(missing_ok=True)
