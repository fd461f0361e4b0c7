"""The device of a run, its fast precision, and torchvision beside a CPU build of torch."""

from __future__ import annotations

import importlib
import importlib.util
from typing import get_args

import torch

from narrowlib.settings import AutoPrecision, Device

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []  # a library that is collected takes its operators with it


def pick_device(device: str) -> torch.device:
    """The device of this name: ``"auto"`` is the GPU if there is one, otherwise the CPU.

    Under ``torchrun`` the GPU is each process's own.

    Raises
    ------
    ValueError
        When the name is unknown, or the device is missing.
    """
    if device not in get_args(Device):
        raise ValueError(f"device is {device!r}; it must be one of {', '.join(get_args(Device))}")
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise ValueError("device is 'cuda', but torch finds no GPU; use auto or cpu")
    if device == "cpu" or not has_gpu:
        return torch.device("cpu")
    rank = torch.distributed.get_node_local_rank(fallback_rank=-1) if torch.distributed.is_available() else -1
    return torch.device("cuda", rank) if rank >= 0 else torch.device("cuda")


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The type in which matrix products are computed; see `is_bfloat16` for the precisions.

    Raises
    ------
    ValueError
        For an unknown precision.
    """
    if precision not in get_args(AutoPrecision):
        raise ValueError(f"precision is {precision!r}; it must be one of {', '.join(get_args(AutoPrecision))}")
    return torch.bfloat16 if is_bfloat16(precision, device) else torch.float32


def is_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether matrix products are to be in bfloat16.

    Parameters
    ----------
    precision : {"auto", "float32", "bfloat16"}
        With ``"auto"``, where the device has instructions for them: a processor without emulates bfloat16, tens of
        times slower than float32.
    device : torch.device
    """
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def prepare_torchvision() -> None:
    """Make ``import torchvision`` work if it is installed; call this before the import.

    Where its own operators load, nothing is declared.
    """
    if _declared or importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for schema in SCHEMAS:
            library.define(schema)
        _declared.append(library)
        importlib.import_module("torchvision")
