"""torchvision can be imported beside any build of torch, and is left alone where its own operators load."""

import importlib.util
import subprocess
import sys

import pytest

from narrowlib import devices as torchvision_import

IMPORT = """
from narrowlib import devices as torchvision_import
torchvision_import.prepare_torchvision()
torchvision_import.prepare_torchvision()
import torch, torchvision, torchvision.datasets
from narrowlib.data.digits import _mirrors
assert _mirrors()
assert hasattr(torch.ops.torchvision, "nms")
assert bool(torchvision_import._declared) != torchvision.extension._has_ops()
"""


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
def test_import_works_in_a_fresh_process():
    subprocess.run([sys.executable, "-c", IMPORT], check=True)


def test_nothing_happens_where_it_is_not_installed(monkeypatch):
    monkeypatch.setattr(torchvision_import.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(torchvision_import.importlib, "import_module", lambda name: pytest.fail("imported"))
    monkeypatch.setattr(torchvision_import, "_declared", [])
    torchvision_import.prepare_torchvision()


def test_another_error_is_not_hidden(monkeypatch):
    def broken(name):
        raise RuntimeError("something else")

    monkeypatch.setattr(torchvision_import.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(torchvision_import.importlib, "import_module", broken)
    monkeypatch.setattr(torchvision_import, "_declared", [])
    with pytest.raises(RuntimeError, match="something else"):
        torchvision_import.prepare_torchvision()
