"""Where a training run leaves off, so that the same command goes on after a kill."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from narrowlib.store.files import replacing

SECONDS_BETWEEN = 60.0
SECONDS_TO_SAVE = 3.0  # what takes longer to save is saved less often, in proportion
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # what Adam remembers of a parameter


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
    """One file that holds all of a training run: parameters, optimiser, generators, and what was recorded.

    It is written under a temporary name and then renamed, and names the run it belongs to; a file that is damaged
    or of another run is not used.

    Parameters
    ----------
    path : Path
    model : Module
    optimiser : torch.optim.Adam
        Of that model's parameters.
    generators : sequence of torch.Generator
    config : Settings
        Anything that the run depends on beside the shapes of the model.
    """

    def __init__(
        self,
        path: Path,
        model: nn.Module,
        optimiser: torch.optim.Adam,
        generators: Sequence[torch.Generator],
        config: Any,
    ) -> None:
        self.path, self.model, self.optimiser, self.generators = Path(path), model, optimiser, generators
        shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
        seeds = [generator.initial_seed() for generator in generators]
        self.run = json.dumps({"config": dict(config), "shapes": shapes, "seeds": seeds}, sort_keys=True)
        self._saved_at, self._took = time.monotonic(), 0.0

    def save_if_due(self, step: int, records: Sequence[Tensor], about: Any = None) -> None:
        """Save when the last time is long enough ago, also in view of how long that took."""
        if time.monotonic() - self._saved_at >= SECONDS_BETWEEN * max(1.0, self._took / SECONDS_TO_SAVE):
            self.save(step, records, about)

    def save(self, step: int, records: Sequence[Tensor], about: Any = None) -> None:
        """Write everything.

        Parameters
        ----------
        step : int
        records : sequence of Tensor
            Of equal shapes, one for each record so far.
        about : optional
            What else the run needs to go on; anything that json holds.
        """
        began = time.monotonic()
        tensors = {"records": torch.stack(list(records))}
        for name, parameter in self.model.named_parameters():
            tensors[f"parameter.{name}"] = parameter.detach()
            for moment in _MOMENTS:
                tensors[f"{moment}.{name}"] = self.optimiser.state[parameter][moment]
        for number, generator in enumerate(self.generators):
            tensors[f"generator.{number}"] = generator.get_state()
        described = {"run": self.run, "step": str(step), "about": json.dumps(about)}
        with replacing(self.path) as temporary:
            save_file({name: tensor.cpu() for name, tensor in tensors.items()}, temporary, described)
        self._saved_at = time.monotonic()
        self._took = self._saved_at - began

    def resume(self) -> tuple[int, list[Tensor], Any]:
        """Put everything back as it was saved.

        Returns
        -------
        step : int
            To go on from; 0 when there is nothing to go on from.
        records : list of Tensor
        about
            As it was given to `save`.
        """
        try:
            with safe_open(self.path, framework="pt") as file:
                described = file.metadata() or {}
                if described.get("run") != self.run:
                    return 0, [], None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (OSError, SafetensorError):
            return 0, [], None
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(tensors[f"parameter.{name}"])
                moments = {moment: tensors[f"{moment}.{name}"].to(parameter.device) for moment in _MOMENTS}
                self.optimiser.state[parameter] = moments
        for number, generator in enumerate(self.generators):
            generator.set_state(tensors[f"generator.{number}"])
        device = next(self.model.parameters()).device
        return int(described["step"]), list(tensors["records"].to(device)), json.loads(described["about"])

    def remove(self) -> None:
        """Delete the file, when the run is over."""
        self.path.unlink(missing_ok=True)
