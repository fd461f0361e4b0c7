"""Layers and losses of a language model as compiled code, for as long as it trains."""

import importlib.util
import os
import re
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from torch._inductor.runtime.cache_dir_utils import cache_dir

from narrowlib.devices import is_bfloat16

Function = TypeVar("Function", bound=Callable)

_COMPILERS = {"cpu": ("CXX", "g++", "clang++"), "cuda": ("CC", "gcc", "clang")}
FUSED_FROM = 1_024  # tokens of a block: below, torch's fused attention in bfloat16 is slower on a CPU than the formula
N_VERSIONS = 64  # of one layer's code: batches of other shapes, training and evaluation
N_SHAPES = 8  # of models whose code is kept
_compiled_for: set[tuple] = set()  # names, shapes, types and device of their parameters


@contextmanager
def compiled_layers(model: nn.Module, compiled: bool = True) -> Iterator[Callable[[Function], Function]]:
    """Run the decoder layers of a model as compiled code inside ``with``, and as before afterwards.

    The layers of a model are alike, so that one compilation serves all of them, and those of the next model of the
    same shapes: seconds, where compiling the whole model takes minutes.

    Parameters
    ----------
    model : PreTrainedModel
        A causal language model with its layers in ``model.model.layers``.
    compiled : bool
        False leaves everything as it is.

    Yields
    ------
    callable
        Compiles a function, such as a loss.

    Raises
    ------
    ValueError
        When code for the model's device cannot be compiled here.

    Notes
    -----
    Source: ``torch.compile``; its manual calls this regional compilation.
    """
    if not compiled:
        yield lambda function: function
        return
    check_compiler(next(model.parameters()).device)
    layers = model.model.layers
    _forget_too_many_shapes(model)
    try:
        for layer in layers:
            layer.compile(dynamic=False)
        with torch._dynamo.config.patch(recompile_limit=N_VERSIONS):
            yield lambda function: torch.compile(function, dynamic=False)
    finally:
        for layer in layers:
            layer._compiled_call_impl = None


@contextmanager
def written_attention(model: nn.Module, n_tokens: int, precision: str) -> Iterator[None]:
    """Attention as its formula inside ``with``, where compiled code for that is faster than torch's fused kernel.

    On a CPU in bfloat16 the backward pass of the fused kernel takes a quarter of a training step at blocks of 256
    tokens; the formula, in memory of (heads, tokens, tokens), makes the step a fifth shorter.

    Parameters
    ----------
    model : PreTrainedModel
    n_tokens : int
        Of a block.
    precision : str
        Of matrix products, as in the settings of a training.
    """
    device, was = next(model.parameters()).device, model.config._attn_implementation
    if device.type != "cpu" or n_tokens >= FUSED_FROM or was != "sdpa" or not is_bfloat16(precision, device):
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(was)


def _forget_too_many_shapes(model: nn.Module) -> None:
    """Code for a model serves the next ones of its shapes; that for too many others would count against a limit."""
    shapes = tuple((name, p.shape, p.dtype, p.device) for name, p in model.named_parameters())
    if shapes not in _compiled_for and len(_compiled_for) >= N_SHAPES:
        torch.compiler.reset()
        _compiled_for.clear()
    _compiled_for.add(shapes)


def is_removed(error: Exception) -> bool:
    """Whether an error of compiled code named a file that a killed run left half-written; it is gone then."""
    found = re.search(r"(/\S+\.so): (file too short|invalid ELF header)", str(error))
    if found is None or not Path(found[1]).resolve().is_relative_to(Path(cache_dir()).resolve()):
        return False
    Path(found[1]).unlink(missing_ok=True)
    return True


def check_compiler(device: torch.device) -> None:
    """Raise ValueError if ``torch.compile`` finds no compiler for this device."""
    variable, *names = _COMPILERS[device.type]
    asked = os.environ.get(variable, "")
    lacking = None
    if not any(map(shutil.which, asked.split()[:1] or names)):
        found = f"{variable} is {asked!r}, which does not exist" if asked else "none was found"
        lacking = f"a compiler ({', '.join(names)} or what {variable} names), but {found}"
    elif not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        lacking = "the headers of Python (Python.h, in packages such as python3-dev), but none were found"
    elif device.type == "cuda" and importlib.util.find_spec("triton") is None:
        lacking = "the package triton on a GPU, but it is not installed"
    if lacking:
        raise ValueError(f"compiled is True, which needs {lacking}; install what is missing or set compiled to false")
