"""A GPU that is not there: tensors of the device cuda:0 whose numbers lie in main memory, on a CPU build of torch.

Every operation is done, so values are real, and everything that a GPU refuses is refused: tensors of two devices in one
operation, a generator of another device, numpy of a tensor on the device.  Every time the host waits for the device is
noted with the line that asked.  A CUDA graph is captured as a list of operations that replays on the same memory;
within a capture waiting, copying from the host and drawing random numbers raise, as they do on a GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import math
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

_GUARD = """
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace {
using c10::Device, c10::DeviceType;
struct Guard final : c10::impl::NoOpDeviceGuardImpl<DeviceType::CUDA> {
  Device getDevice() const override { return {DeviceType::CUDA, 0}; }
  Device exchangeDevice(Device) const override { return {DeviceType::CUDA, 0}; }
  c10::Stream getStream(Device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, {DeviceType::CUDA, 0});
  }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
} guard;
c10::impl::DeviceGuardImplRegistrar registrar(DeviceType::CUDA, &guard);
struct CUDAHooks : at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  bool isBuilt() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
};
}
namespace at { using namespace detail; REGISTER_CUDA_HOOKS(CUDAHooks); }
"""


def _load_guard() -> None:
    """What the autograd engine and C++ code ask about the device, before torch has asked; compiled once, 3 s."""
    if "torch" in sys.modules:
        raise RuntimeError("torch is there already; the pretended GPU must be imported first, in a process of its own")
    root = Path(importlib.util.find_spec("torch").origin).parent
    version = (root / "version.py").read_text()
    if "cuda: Optional[str] = None" not in version:
        raise SystemExit("the pretended GPU needs a CPU build of torch")
    digest = hashlib.sha256((version + _GUARD).encode()).hexdigest()[:16]
    library = Path(tempfile.gettempdir()) / f"pretended-gpu-{os.getuid()}" / f"{digest}.so"
    libraries = [root / "lib" / name for name in ("libc10.so", "libtorch_cpu.so")]
    if not library.is_file():
        library.parent.mkdir(exist_ok=True)
        source, made = library.with_suffix(".cpp"), library.with_suffix(f".{os.getpid()}")
        source.write_text(_GUARD)
        flags = ["-std=c++20", "-O0", "-fPIC", "-shared", f"-I{root / 'include'}", *map(str, libraries)]
        subprocess.run([os.environ.get("CXX", "g++"), str(source), "-o", str(made), *flags], check=True)
        made.replace(library)
    for path in (*libraries, library):
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


_load_guard()

import torch  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)
# Operations after which the host needs to know something of the device: a size or a value.
_SIZES_FROM_VALUES = {
    aten.nonzero.default, aten.masked_select.default, aten._unique2.default, aten.unique_dim.default,
    aten.unique_consecutive.default, aten.repeat_interleave.Tensor, aten.bincount.default, aten.equal.default,
    aten._local_scalar_dense.default, aten._linalg_check_errors.default,
}  # fmt: skip


class OnGPU(torch.Tensor):
    """A tensor of the device cuda:0; ``elem`` holds its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, elem):
        made = torch.Tensor._make_wrapper_subclass(
            cls, elem.size(), strides=elem.stride(), storage_offset=elem.storage_offset(), dtype=elem.dtype,
            layout=elem.layout, device=CUDA, requires_grad=False,
        )  # fmt: skip
        made.elem = elem
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        current = GPU.current
        if current is None:
            raise RuntimeError(f"{func} of a tensor of a pretended GPU that is gone")
        return current.__torch_dispatch__(func, types, args, kwargs or {})

    def data_ptr(self):
        return self.elem.data_ptr()

    def untyped_storage(self):
        return self.elem.untyped_storage()

    def numpy(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def __array__(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def tolist(self):
        return self.cpu().tolist()

    def __repr__(self, **_):
        return f"OnGPU({self.elem!r})"

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            with torch.no_grad():
                copy = self.detach().clone()
            if isinstance(self, torch.nn.Parameter):
                copy = torch.nn.Parameter(copy, self.requires_grad)
            else:
                copy.requires_grad_(self.requires_grad)
            memo[id(self)] = copy
        return memo[id(self)]


class Generator(torch._C.Generator):
    """A generator that says which device it is of."""

    places: ClassVar[dict] = {}  # by address of what torch itself passes around

    def __new__(cls, device="cpu"):
        made = super().__new__(cls, "cpu")
        made.where = Generator.places[made._cdata] = torch.device(device)
        return made

    @property
    def device(self):
        return self.where


class Event:
    """A moment of the stream, which here is the host's."""

    def __init__(self, **_):
        self.at = math.nan

    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        torch.cuda.synchronize()

    def elapsed_time(self, later):
        return 1000 * (later.at - self.at)


class GPU(TorchDispatchMode):
    """The mode under which device cuda is there.

    Attributes
    ----------
    waits : Counter
        By (operation, line of the project): how often the host waited.
    """

    current: GPU | None = None

    def __init__(self, project: str = "narrowlib") -> None:
        super().__init__()
        self.project, self.waits = project, Counter()
        self.tape: list | None = None  # of the capture that is under way
        self.saved: dict = {}
        self.n_captures = self.n_replays = 0
        self._patches = contextlib.ExitStack()

    def __enter__(self):
        GPU.current = self
        self._patch()
        torch.__future__.set_swap_module_params_on_conversion(True)
        torch._C._set_only_lift_cpu_tensors(True)  # a list becomes a tensor of the host first, as with FakeTensorMode
        return super().__enter__()

    def __exit__(self, *error):
        result = super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(False)
        torch.__future__.set_swap_module_params_on_conversion(False)
        self._patches.close()
        GPU.current = None
        return result

    def _patch(self):
        from unittest import mock

        stream = SimpleNamespace(is_capturing=lambda: self.tape is not None)
        properties = SimpleNamespace(
            total_memory=80 * 2**30, uuid="pretended", name="pretended", major=9, minor=0, multi_processor_count=132
        )
        names = {
            "torch.cuda.is_available": lambda: True, "torch.cuda._lazy_init": lambda: None,
            "torch.cuda.device_count": lambda: 1, "torch.cuda.current_device": lambda: 0,
            "torch.cuda.set_device": lambda *_: None, "torch.cuda.get_device_properties": lambda *_: properties,
            "torch.cuda.get_device_name": lambda *_: "a pretended GPU", "torch.cuda.is_initialized": lambda: True,
            "torch.cuda.mem_get_info": lambda *_: (70 * 2**30, 80 * 2**30), "torch.cuda.synchronize": self._synchronize,
            "torch.cuda.current_stream": lambda *_: stream, "torch.cuda.set_stream": lambda *_: None,
            "torch.cuda.is_bf16_supported": lambda *_, **__: True, "torch.cuda.manual_seed_all": lambda *_: None,
            "torch.cuda.empty_cache": lambda: None,
            "torch.cuda.get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8),
            "torch.cuda.set_rng_state": lambda *_: None, "torch.cuda.get_device_capability": lambda *_: (9, 0),
            "torch.cuda.max_memory_reserved": lambda *_: 0, "torch.cuda.memory_allocated": lambda *_: 0,
            "torch.cuda.reset_peak_memory_stats": lambda *_: None, "torch.cuda.max_memory_allocated": lambda *_: 1,
            "torch.cuda.is_current_stream_capturing": lambda: self.tape is not None,
            "torch.cuda.Event": Event, "torch.cuda.CUDAGraph": Graph,
            "torch.cuda.graph": functools.partial(_capture, self), "torch.Generator": Generator,
            "torch.Tensor.pin_memory": lambda tensor, *_: tensor,
            "torch.accelerator.current_stream": lambda *_: stream,
            "torch.accelerator.current_accelerator": lambda *_, **__: torch.device("cuda"),
        }  # fmt: skip
        for name, value in names.items():
            place, _, attribute = name.rpartition(".")
            owner = functools.reduce(getattr, place.split(".")[1:], torch)
            self._patches.enter_context(mock.patch.object(owner, attribute, value))

    def _synchronize(self, *_):
        self._wait("synchronize")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        tensors = [each for each in _leaves((args, *kwargs.values())) if isinstance(each, torch.Tensor)]
        ours = [each for each in tensors if isinstance(each, OnGPU)]
        asked = kwargs.get("device")
        is_move = func in (aten._to_copy.default, aten.copy_.default)
        to_gpu = (asked is not None and torch.device(asked).type == "cuda") or (
            asked is None and bool(ours) and func is not aten.copy_.default
        )
        if not ours and not to_gpu:
            return func(*args, **kwargs)
        self._check(func, args, kwargs, tensors, ours, to_gpu, is_move)
        if to_gpu and "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        found = self._do(func, _mapped(_bare, args), {name: _mapped(_bare, each) for name, each in kwargs.items()})
        if func is aten.copy_.default:
            return args[0]
        if func is aten._local_scalar_dense.default:
            return found
        goes_home = asked is not None and not to_gpu
        if goes_home:
            return found
        written = {id(_bare(each)): each for each in _mutated(func, args, kwargs)}  # what was written to is returned
        return _mapped(_wrapped(written), found)

    def _check(self, func, args, kwargs, tensors, ours, to_gpu, is_move):
        generator = kwargs.get("generator")
        if generator is not None:
            where = Generator.places.get(generator._cdata, torch.device("cpu")).type
            if where != "cuda":
                raise RuntimeError(f"Expected a 'cuda' device type for generator but found {where!r}: {func}")
            if self.tape is not None:
                raise RuntimeError("a generator that is not registered with the graph is used while capturing")
        elsewhere = [each for each in tensors if not (isinstance(each, OnGPU) or each.is_meta)]
        if is_move:
            source, target = (args[1], args[0]) if func is aten.copy_.default else (args[0], None)
            from_gpu = isinstance(source, OnGPU)
            onto_gpu = isinstance(target, OnGPU) if target is not None else to_gpu
            if not source.numel():
                return
            if from_gpu and not onto_gpu:
                self._wait(f"{func} to the host")
            elif onto_gpu and not from_gpu and not kwargs.get("non_blocking"):
                self._wait(f"{func} from the host")
            return
        if func in (aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default, aten.index_put.default):
            indices = [each for each in args[1] if each is not None]
            if any(each.dtype in (torch.bool, torch.uint8) for each in indices):
                self._wait(f"{func} by a mask")
            if any(not isinstance(each, OnGPU) for each in indices):
                self._wait(f"{func} by places from the host")
            elsewhere = [each for each in elsewhere if not any(each is index for index in indices) and each.ndim]
        if func in _SIZES_FROM_VALUES and ours:
            self._wait(str(func))
        for each in elsewhere:
            is_pointwise = torch.Tag.pointwise in func.tags or func in (aten.where.self,)
            if each.ndim == 0 and (is_pointwise or func in (aten.fill_.Tensor, aten.masked_fill_.Tensor)):
                continue
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found cuda:0 and cpu: {func} "
                f"{[(tuple(t.shape), t.device.type) for t in tensors]} at {self._line()}"
            )

    def _wait(self, what):
        if self.tape is not None:
            raise RuntimeError(f"operation not permitted when stream is capturing: {what} at {self._line()}")
        self.waits[what, self._line()] += 1

    def _line(self):
        frame, inner = sys._getframe(1), ""
        while frame is not None:
            path = frame.f_code.co_filename
            if f"/{self.project}/" in path:
                return f"{path.rpartition(f'/{self.project}/')[2]}:{frame.f_lineno}{inner}"
            for package in ("transformers", "accelerate"):
                if f"/{package}/" in path and not inner:
                    inner = f" in {package}/{path.rpartition(f'/{package}/')[2]}:{frame.f_lineno}"
            frame = frame.f_back
        return f"elsewhere{inner}"

    def _do(self, func, args, kwargs):
        if self.tape is None:
            return func(*args, **kwargs)
        mutated = list(_mutated(func, args, kwargs))
        for each in mutated:
            storage = each.untyped_storage()
            if storage.data_ptr() not in self.saved:
                self.saved[storage.data_ptr()] = (storage, storage.clone())
        found = func(*args, **kwargs)
        if not _is_view(func):
            self.tape.append((func, args, kwargs, found, bool(mutated)))
        return found


class Graph:
    """What `torch.cuda.CUDAGraph` is here: operations, done again on the same memory."""

    def __init__(self, keep_graph=False):
        self.gpu, self.tape = GPU.current, []

    def replay(self):
        self.gpu.n_replays += 1
        with torch._C._DisableTorchDispatch(), torch.no_grad():
            for func, args, kwargs, found, is_mutating in self.tape:
                again = func(*args, **kwargs)
                if not is_mutating:
                    for old, new in zip(_leaves([found]), _leaves([again])):
                        if isinstance(old, torch.Tensor):
                            old.copy_(new)


@contextlib.contextmanager
def _capture(gpu, graph, **_):
    gpu.tape, gpu.saved = [], {}
    try:
        yield
        graph.tape, gpu.n_captures = gpu.tape, gpu.n_captures + 1
    finally:
        gpu.tape = None
        for storage, before in gpu.saved.values():  # capturing does nothing of the work
            storage.copy_(before)
        gpu.saved = {}


def _wrapped(written):
    def wrap(value):
        if not isinstance(value, torch.Tensor):
            return value
        return written[id(value)] if id(value) in written else OnGPU(value)

    return wrap


def _bare(value):
    if isinstance(value, OnGPU):
        return value.elem
    return value


@functools.cache
def _is_view(func):
    returns = func._schema.returns
    aliases = [each.alias_info for each in returns]
    is_mutable = any(each.alias_info is not None and each.alias_info.is_write for each in func._schema.arguments)
    return bool(aliases) and not is_mutable and all(each is not None for each in aliases)


@functools.cache
def _written_to(func):
    """Places and names of the arguments that an operation writes to."""
    found = ((number, argument.name, argument.alias_info) for number, argument in enumerate(func._schema.arguments))
    return [(number, name) for number, name, alias in found if alias is not None and alias.is_write]


def _mutated(func, args, kwargs):
    for number, name in _written_to(func):
        value = args[number] if number < len(args) else kwargs.get(name)
        yield from (each for each in _leaves([value]) if isinstance(each, torch.Tensor))


def _leaves(values):
    for each in values:
        if isinstance(each, (list, tuple)):
            yield from _leaves(each)
        else:
            yield each


def _mapped(change, value):
    return type(value)([_mapped(change, each) for each in value]) if type(value) in (list, tuple) else change(value)


def main(arguments: list[str]) -> int:
    """Tests, named as pytest names them, or ``-m MODULE ARGUMENTS`` as Python takes it, on the GPU."""
    import warnings

    from narrowlib.llm import loop  # noqa: F401 (what accelerate imports must see the real torch.cuda)

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if arguments[0] == "-m":
        sys.path[0], sys.argv = str(Path.cwd()), arguments[1:]
        with GPU() as gpu:
            try:
                runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
            finally:
                print(gpu.n_captures, "captures", gpu.n_replays, "replays", gpu.waits.total(), "waits, most often of")
                print(*(f"{n:7} {what} at {line}" for (what, line), n in gpu.waits.most_common(20)), sep="\n")
        return 0
    import pytest

    options = "-p no:unraisableexception -p no:cacheprovider -o addopts= -q --tb=short --durations=5"
    return pytest.main([*options.split(), *arguments])


if __name__ == "__main__":
    sys.modules["pretend_gpu"] = sys.modules["__main__"]
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main(sys.argv[1:]))
