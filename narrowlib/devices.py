"""The device that a run is on, and an import of torchvision beside a CPU build of torch."""

from __future__ import annotations

import importlib
import importlib.util

import torch

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []  # a library that is collected takes its operators with it


def pick_device(device: str) -> torch.device:
    """The device of a name: ``"auto"`` is the GPU when there is one, the CPU otherwise.

    Under ``torchrun`` the GPU is each process's own.

    Raises
    ------
    ValueError
        When the name is unknown, or the device is missing.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is {device!r}; it must be one of auto, cpu, cuda")
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise ValueError("device is 'cuda', but torch finds no GPU; use auto or cpu")
    if device == "cpu" or not has_gpu:
        return torch.device("cpu")
    rank = torch.distributed.get_node_local_rank(fallback_rank=-1) if torch.distributed.is_available() else -1
    return torch.device("cuda", rank) if rank >= 0 else torch.device("cuda")


def prepare_torchvision() -> None:
    """Make ``import torchvision`` work, where it is installed; to be called before what imports it.

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
