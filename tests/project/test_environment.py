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
case "$2" in pip) env > "$0.had"; exit {install};; *pip*) exit {without_pip};; esac
code="$2"; shift 2
exec {python} -c "import sys; sys.version_info = {version}; $code" "$@"
"""


@pytest.fixture
def tree(tmp_path):
    """A folder with the Makefile, without an environment."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def stub(path, version=(3, 11, 0), without_pip=0, install=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    own = {"version": version, "without_pip": without_pip, "install": install}
    path.write_text(STUB.format(python=shlex.quote(sys.executable), **own))
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
    assert (".venv is incomplete; it is created anew" in done.stderr) == (left != "a link to nowhere")
    (tree / "made").unlink()
    assert make(tree, "environment").returncode == 0 and not (tree / "made").exists()


@pytest.mark.parametrize("flags", ["-eu -o pipefail -c", "-c"])  # "-c" is all that GNU make 3.81 passes
@pytest.mark.parametrize("version", [(3, 9, 18), (3, 10, 0)])
def test_an_old_python_makes_no_environment(tree, flags, version):
    old = stub(tree / "old", version)
    done = make(tree, "environment", f"PYTHON={old}", f".SHELLFLAGS={flags}")
    assert done.returncode and "it must be 3.11 or newer" in done.stderr and not (tree / ".venv").exists()


@pytest.mark.parametrize("version", [(3, 13, 1), (3, 20, 0), (4, 0, 0)])
def test_a_newer_python_makes_one(tree, version):
    done = make(tree, "environment", f"PYTHON={stub(tree / 'newer', version)}")
    assert done.returncode == 0 and (tree / "made").exists(), done.stderr


@pytest.mark.parametrize("flags", ["-eu -o pipefail -c", "-c"])
def test_a_recipe_stops_where_pip_fails(tree, flags):
    active = stub(tree / "active" / "bin" / "python", install=1).parents[1]
    done = make(tree, "run", f".SHELLFLAGS={flags}", VIRTUAL_ENV=str(active))
    assert done.returncode and done.stderr.count("the packages could not be installed") == 1
    assert "companion" not in done.stderr and not list(active.glob(".*"))  # neither a stamp, nor half-made


@pytest.mark.parametrize(
    "own",
    [
        {"PIP_USER": "1"},
        {"PIP_TARGET": "/nowhere", "PIP_PREFIX": "/nowhere", "PIP_ROOT": "/nowhere"},
        {"PYTHONPATH": "/nowhere", "PYTHONOPTIMIZE": "2", "PYTHONNOUSERSITE": ""},
    ],
)
def test_packages_go_into_the_environment_wherever_the_user_has_others_go(tree, own):
    active = stub(tree / "active" / "bin" / "python").parents[1]
    make(tree, "run", VIRTUAL_ENV=str(active), **own)
    had = dict(line.partition("=")[::2] for line in (active / "bin" / "python.had").read_text().splitlines())
    assert had["PIP_USER"] == "0" and not own.keys() & (had.keys() - {"PIP_USER"})
    assert [path.name for path in active.glob(".*")] == [".narrowlib-book"]


@pytest.mark.parametrize(
    ("faults", "says"),
    [
        (None, "has no working Python; deactivate it or create it anew"),
        ({"version": (3, 9, 18)}, "it must be 3.11 or newer"),
        ({"without_pip": 1}, "has no working pip; "),
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
