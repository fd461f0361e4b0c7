"""Where a training run leaves off, so that the same command goes on after a kill."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

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
