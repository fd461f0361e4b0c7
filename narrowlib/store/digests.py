"""Digests of what a result depends on: values by their content, code by its import closure."""

import dataclasses
import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import grimp
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from narrowlib.store.files import named_in, visible_files

LENGTH = 16


def digest_of(*values: Any) -> str:
    """A hash of values by their content, see `described`."""
    return _hash(json.dumps([described(value) for value in values], sort_keys=True).encode())


def described(value: Any) -> Any:
    """A value as json stores it, with hashes in place of long content.

    Parameters
    ----------
    value : Any
        What json holds, paths, types, functions, dataclasses, pydantic models, arrays, tables, modules, generators
        (their seed), and mappings, sequences and sets of these.  Of a tensor of numbers some thousand values count,
        evenly spaced.

    Raises
    ------
    TypeError
        For a value of which only the address in memory is known.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (Path, torch.device, torch.dtype)):
        return str(value)
    if isinstance(value, (Tensor, np.ndarray)):
        return _of_tensor(torch.as_tensor(value))
    if isinstance(value, pd.DataFrame):
        rows = pd.util.hash_pandas_object(value, index=False).to_numpy()
        return f"table {[*map(str, value.columns)]} {_hash(rows.tobytes())}"
    if isinstance(value, torch.Generator):
        return f"generator {value.initial_seed()}"
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (set, frozenset)):
        return sorted((described(part) for part in value), key=json.dumps)
    if isinstance(value, partial):
        return described([value.func, value.args, value.keywords])
    if isinstance(value, (list, tuple, range)):
        return [described(part) for part in value]
    if isinstance(value, nn.Module):
        value = value.state_dict()
    elif hasattr(type(value), "model_fields"):
        value = {name: getattr(value, name) for name in type(value).model_fields}
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): described(part) for name, part in value.items()}
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    if " at 0x" in (text := repr(value)):
        raise TypeError(f"a setting is {text}; it must be a value with readable content")
    return text


def closure_of(function: Callable[..., Any]) -> dict[str, str]:
    """The code that a function can reach, as digests of modules by their name.

    These are the module of the function and all that it imports of the same package, directly or through others, each
    with the data files beside it that its text names in quotes.  Imports for type checkers only do not count.  Of code
    outside a package its own module counts; of code without a file, such as the cell of a notebook, the function.
    A package is read once in a process, so later edits, which the process does not run either, do not count.
    """
    name = module_of(function)
    package = sys.modules.get(name.partition(".")[0])
    if hasattr(package, "__path__") and getattr(package, "__file__", None):
        graph, digests = sources(package.__name__)
        if name in graph.modules:
            return {module: digests[module] for module in sorted({name, *graph.find_upstream_modules(name)})}
    digests = {name: _of_lone_module(name, _innermost(function))}
    for named in _named_of_library(_innermost(function)):
        digests |= closure_of(named)
    return digests


def module_of(function: Callable[..., Any]) -> str:
    """The module in which a function was written; that of its class for a bound method or a callable object.

    Raises
    ------
    TypeError
        When it has none.
    """
    function = _innermost(function)
    owner = getattr(function, "__self__", None)
    owner = function if not hasattr(function, "__qualname__") else owner
    name = function.__module__ if owner is None or isinstance(owner, type) else type(owner).__module__
    if name == "__main__" and sys.modules[name].__spec__ is not None:
        return sys.modules[name].__spec__.name  # python -m
    if name in (None, "builtins"):
        raise TypeError(f"compute is {function!r}; it must be a function defined in a module")
    return name


@cache
def sources(package: str) -> tuple[grimp.ImportGraph, dict[str, str]]:
    """The import graph of a package that was imported, and the digest of each of its modules."""
    graph = grimp.build_graph(package, cache_dir=None, exclude_type_checking_imports=True)
    root = Path(sys.modules[package].__file__).parent
    return graph, {module: _of_module(root.joinpath(*module.split(".")[1:])) for module in graph.modules}


def _of_module(path: Path) -> str:
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    source = file.read_bytes()
    return _hash(source, *(data.read_bytes() for data in named_in(source, visible_files(file.parent, "*"))))


def _of_lone_module(name: str, function: Callable[..., Any]) -> str:
    file = getattr(sys.modules.get(name), "__file__", None)
    if file and Path(file).is_file():
        return _hash(Path(file).read_bytes())
    try:
        return _hash(inspect.getsource(function).encode())
    except (OSError, TypeError):  # typed at a prompt
        code = function.__code__
        return _hash(code.co_code, repr(code.co_names).encode(), repr(code.co_consts).encode())


def _named_of_library(function: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    code, names = getattr(function, "__code__", None), getattr(function, "__globals__", {})
    for value in [names.get(name) for name in code.co_names] if code else []:
        module = getattr(value, "__module__", None)
        if callable(value) and isinstance(module, str) and module.partition(".")[0] == __name__.partition(".")[0]:
            yield value


def _innermost(function: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(function, partial):
        function = function.func
    return function


def _of_tensor(tensor: Tensor) -> str:
    every = 1 if tensor.dtype == torch.bool else max(1, tensor.numel() // 1024)
    sample = tensor.detach().flatten()[::every].double().cpu()
    return f"{tensor.dtype} {tuple(tensor.shape)} {_hash(sample.numpy().tobytes())}"


def _hash(*parts: bytes) -> str:
    seen = hashlib.sha256()
    for part in parts:
        seen.update(f"{len(part)}:".encode() + part)
    return seen.hexdigest()[:LENGTH]
