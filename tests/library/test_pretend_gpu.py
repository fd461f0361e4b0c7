"""What runs on a GPU, run on a pretended one: every number, every wait of the host, every captured graph."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


@pytest.mark.skipif(torch.version.cuda is not None, reason="this build of torch is for real GPUs")
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="needs g++, or the compiler of CXX")
def test_on_a_pretended_gpu():
    """In a process of its own, since torch asks for its devices once."""
    paths = os.pathsep.join([str(HERE.parents[1]), str(HERE.parent), str(HERE)])
    given = {
        **os.environ,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": os.pathsep.join([paths, os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, str(HERE / "pretend_gpu.py"), str(HERE / "on_pretended_gpu.py")]
    run = subprocess.run(command, capture_output=True, text=True, env=given)
    assert run.returncode == 0, run.stdout[-4_000:] + run.stderr[-2_000:]
