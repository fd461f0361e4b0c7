"""Provenance of a result: commit, versions, device, time."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

REPOSITORY = Path(__file__).resolve().parents[2]


def provenance(device: str | torch.device = "auto") -> dict[str, Any]:
    """The provenance of a result that is being made.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda"} or torch.device
        What the run used; ``"auto"`` is the GPU when there is one.

    Returns
    -------
    dict
        ``commit`` and ``dirty``, see `git_state`; ``device``, ``n_threads``, ``python``, ``torch``, ``platform``,
        ``time`` (UTC, to the second).
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    is_gpu = torch.device(device).type == "cuda"
    return {
        **git_state(),
        "device": torch.cuda.get_device_name(device) if is_gpu else processor_name(),
        "n_threads": None if is_gpu else torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def git_state(root: Path = REPOSITORY) -> dict[str, Any]:
    """The commit of a checkout.

    Parameters
    ----------
    root : Path
        The top folder of the checkout.  A folder somewhere inside another repository is no checkout of ours, nor is the
        top folder of one that does not track this library.

    Returns
    -------
    dict
        ``commit``, and ``dirty``: whether tracked files have uncommitted changes.  Both are None outside a checkout.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve() or not _git(root, "ls-files", "narrowlib/__init__.py"):
        return {"commit": None, "dirty": None}
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"commit": _git(root, "rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


def processor_name() -> str:
    """The model of this machine's processor, if the system states it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(root: Path, *arguments: str) -> str | None:
    named = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # a hook names its own
    trusted = f"safe.directory={root.resolve()}"  # whoever owns the checkout: the code that runs here is from it
    command = ["git", "-C", str(root), "-c", trusted, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True, env=named)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
