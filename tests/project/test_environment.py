"""Environments that cannot be used, as `make environment` finds them: made anew, or named before anything runs."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest
from trees import ROOT

# A Python that makes environments in an instant, and is as old, or as bare, as a test says.
STUB = """#!/bin/bash
if [ "$1 $2" = "-m venv" ]; then mkdir -p .venv/bin && cp "$0" .venv/bin/python && touch made; exit; fi
case "$2" in *pip*) exit {without_pip};; esac
code="$2"; shift 2
exec {python} -c "import sys; sys.version_info = {version}; $code" "$@"
"""


@pytest.fixture
def tree(tmp_path):
    """A folder with the Makefile, without an environment."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def stub(path, version=(3, 11, 0), without_pip=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(STUB.format(python=shlex.quote(sys.executable), version=version, without_pip=without_pip))
    path.chmod(0o755)
    return path


def make(tree, *words, **own):
    left_out = ("VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "MAKEFLAGS", "MAKELEVEL")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    command = ["make", f"PYTHON={stub(tree / 'python')}", *words]
    return subprocess.run(command, cwd=tree, env={**environment, **own}, capture_output=True, text=True)


@pytest.mark.parametrize("left", [".installing", "bin/activate", "a file in its place", "a link to nowhere"])
def test_a_half_made_environment_is_made_anew(tree, left):
    if left == ".installing":  # killed while packages were installed
        stub(tree / ".venv" / "bin" / "python")
    if left == "a file in its place":
        (tree / ".venv").write_text("")
    elif left == "a link to nowhere":
        (tree / ".venv").symlink_to(tree / "nowhere")
    else:
        (tree / ".venv" / left).parent.mkdir(parents=True, exist_ok=True)
        (tree / ".venv" / left).write_text("")
    done = make(tree, "environment")
    assert done.returncode == 0 and (tree / "made").exists(), done.stderr
    assert (".venv is half-made; it is made anew" in done.stderr) == (left != "a link to nowhere")
    (tree / "made").unlink()
    assert make(tree, "environment").returncode == 0 and not (tree / "made").exists()


@pytest.mark.parametrize("flags", ["-eu -o pipefail -c", "-c"])  # "-c" is all that GNU make 3.81 passes
@pytest.mark.parametrize("version", [(3, 9, 18), (3, 10, 0)])
def test_an_old_python_makes_no_environment(tree, flags, version):
    old = stub(tree / "old", version)
    done = make(tree, "environment", f"PYTHON={old}", f".SHELLFLAGS={flags}")
    assert done.returncode and "it must be 3.11 or newer" in done.stderr and not (tree / ".venv").exists()


@pytest.mark.parametrize(
    ("faults", "says"),
    [
        (None, "has no Python that works; deactivate it or make it anew"),
        ({"version": (3, 9, 18)}, "it must be 3.11 or newer"),
        ({"without_pip": 1}, "has no pip that works; "),
    ],
)
def test_what_an_active_environment_lacks_is_named(tree, faults, says):
    active = tree / "active \u00fc"  # whose name the shell could misread
    active.mkdir()
    if faults is not None:
        stub(active / "bin" / "python", **faults)
    done = make(tree, "run", VIRTUAL_ENV=str(active))
    assert done.returncode and says in done.stderr and "network" not in done.stderr
    assert not (tree / ".venv").exists()
