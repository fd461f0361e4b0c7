"""Devices that are there, and torchvision beside any build of torch."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from narrowlib import devices, machine
from narrowlib.devices import pick_device

IMPORT = """
from narrowlib import devices
devices.prepare_torchvision()
devices.prepare_torchvision()
import torch, torchvision, torchvision.datasets
from narrowlib.data.digits import _mirrors
assert _mirrors()
assert hasattr(torch.ops.torchvision, "nms")
assert bool(devices._declared) != torchvision.extension._has_ops()
"""


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
def test_import_works_in_a_fresh_process():
    subprocess.run([sys.executable, "-c", IMPORT], check=True)


def test_nothing_happens_where_it_is_not_installed(monkeypatch):
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(devices.importlib, "import_module", lambda name: pytest.fail("imported"))
    monkeypatch.setattr(devices, "_declared", [])
    devices.prepare_torchvision()


def test_another_error_is_not_hidden(monkeypatch):
    def broken(name):
        raise RuntimeError("something else")

    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(devices.importlib, "import_module", broken)
    monkeypatch.setattr(devices, "_declared", [])
    with pytest.raises(RuntimeError, match="something else"):
        devices.prepare_torchvision()


def test_devices(monkeypatch):
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="device is 'tpu'; it must be one of auto, cpu, cuda"):
        pick_device("tpu")
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        assert pick_device("auto") == torch.device("cpu")
        with pytest.raises(ValueError, match="torch finds no GPU"):
            pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "3")  # each process of several has its own
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda", 3)


@pytest.mark.parametrize(
    ("told", "group", "files"),
    [
        ("0::/jobs/one", "jobs", {"memory.max": "3000", "memory.current": "2500", "memory.stat": "inactive_file 500"}),
        ("0::/", ".", {"memory.max": "1000", "memory.current": "0", "memory.stat": ""}),
        (
            "4:memory:/one\n0::/",
            "memory/one",
            {
                "memory.limit_in_bytes": "2000",
                "memory.usage_in_bytes": "1500",
                "memory.stat": "total_inactive_file 500",
            },
        ),
    ],
)
def test_memory_is_that_which_a_container_or_a_job_leaves(tmp_path, told, group, files):
    (tmp_path / "process").write_text(told)
    top = tmp_path / "groups"
    (top / group).mkdir(parents=True)
    for name, content in files.items():
        (top / group / name).write_text(content)
    assert machine.free_memory(top, tmp_path / "process") == 1_000
    (top / group / next(iter(files))).write_text("max")
    assert machine.free_memory(top, tmp_path / "process") > 10**6


@pytest.mark.parametrize(
    ("asked", "n"),
    [("all", len(os.sched_getaffinity(0))), ("3", 3), (1, 1), ("08", 8)]
    + [(wrong, 0) for wrong in ("0", "-1", "many", "", "2.5", "1_0", "\u00b2", True, "10000", "9" * 5_000)],
)
def test_threads_are_a_number_or_all(asked, n):
    if n:
        assert machine.count_threads(asked) == n
    else:
        with pytest.raises(ValueError, match=f"CORES is {asked!r}; it must be all, or a whole number"):
            machine.count_threads(asked, "CORES")
