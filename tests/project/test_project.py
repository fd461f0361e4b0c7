"""What the project's files say of each other."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from trees import ROOT

import narrowlib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def name_of(requirement):
    return re.split(r"[<>=!~;\[ ]", requirement)[0].lower().replace("_", "-")


@pytest.fixture(scope="module")
def constraints():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all("==" in pin for pin in pins)
    return {name_of(pin): pin.split("==")[1] for pin in pins}


def test_import_arrows():
    """The contracts of pyproject.toml: who may import whom."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_importing_the_library_is_light():
    code = "import sys, narrowlib.cmsp, narrowlib.stacks.networks, narrowlib.store.records; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {"transformers", "datasets", "lm_eval", "seaborn"} & set(loaded.split())


def test_every_requirement_is_pinned(constraints):
    extras = PROJECT["optional-dependencies"]
    for requirement in [*PROJECT["dependencies"], *(line for extra in extras.values() for line in extra)]:
        if name_of(requirement) != PROJECT["name"]:  # an extra may take in another one
            assert name_of(requirement) in constraints, requirement
    assert (constraints["torch"], constraints["torchvision"]) == ("2.13.0", "0.28.0")
    assert constraints["jupyter-book"].startswith("1.")
    assert constraints["soupsieve"].startswith("2.")  # see there


def test_conda_environment_installs_the_same():
    """environment.yml and `make test` install the same extras from the same lock."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    make = subprocess.run(["make", "--dry-run", "test"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert pip == ["--constraint constraints.txt", "--editable .[book,test]"]
    assert "--constraint constraints.txt --editable '.[book,test]'" in make
    python = next(entry for entry in environment["dependencies"] if str(entry).startswith("python="))
    assert PROJECT["requires-python"] == f">={python.removeprefix('python=')}"


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == narrowlib.__version__


def test_documents_name_commands_that_exist(targets):
    for document in ("README.md", "CONTRIBUTING.md", "book/intro.md"):
        for words in re.findall(r"(?:^|`)make ([a-z ]+)", (ROOT / document).read_text(), flags=re.M):
            assert set(words.split()) <= targets, document
