"""The device of a run, the way to it, its fast precision, and torchvision beside a CPU build of torch."""

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import torch
from torch import Tensor

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


@contextmanager
def tensor_cores(device: torch.device) -> Iterator[None]:
    """Inside ``with``, a GPU rounds what enters float32 matrix products to TF32; their sums stay float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if device.type == "cuda" else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def fast_width(n_units: int, most: int, device: torch.device) -> int:
    """Units of a layer that holds so many and zeros: on a GPU a multiple of 8, as its tensor cores take, or ``most``.

    Examples
    --------
    >>> fast_width(9, 32, torch.device("cuda")), fast_width(9, 12, torch.device("cuda"))
    (16, 12)
    """
    return min(most, -(-n_units // 8) * 8) if device.type == "cuda" else n_units


def moved(values: Tensor, device: torch.device) -> Tensor:
    """The values on a device; the host goes on while they are copied to a GPU."""
    if device.type == "cuda" and not values.is_cuda:
        values = values.pin_memory()
    return values.to(device, non_blocking=device.type == "cuda")


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
