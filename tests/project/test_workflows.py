"""The workflows: legal, pinned, with no more rights than they need, and made of make targets."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from companion import __main__ as companion
from companion import with_gpus
from trees import ROOT

FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
WRITES = {"gpu/propose", "publish/pages", "publish/notebooks", "publish/release"}  # jobs that may write anything


def load(path):
    workflow = yaml.safe_load(path.read_text())
    workflow["on"] = workflow.pop(True)  # YAML 1.1 reads the key as a truth value
    return workflow


def steps(path):
    return [step for job in load(path)["jobs"].values() for step in job["steps"]]


def test_legal_by_the_schema():
    beside = Path(sys.executable).with_name("check-jsonschema")
    command = str(beside) if beside.is_file() else shutil.which("check-jsonschema")
    if command is None:
        pytest.skip("check-jsonschema is not installed (extra test)")
    arguments = [command, "--builtin-schema", "vendor.github-workflows", *map(str, FILES)]
    result = subprocess.run(arguments, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_actions_are_pinned_by_commit_with_their_version_beside(path):
    lines = re.findall(r"uses: (.*)", path.read_text())
    assert len(lines) == sum("uses" in step for step in steps(path))
    assert all(re.fullmatch(r"actions/[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line) for line in lines), lines


def test_one_commit_per_action():
    pins = {line for path in FILES for line in re.findall(r"uses: (actions/[\w-]+)(?:/\w+)?@(\w+)", path.read_text())}
    assert len(pins) == len({name for name, _ in pins})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_commands_are_make_targets(path, targets):
    commands = [step["run"] for step in steps(path) if "run" in step]
    assert commands
    for command in commands:
        make, *words = shlex.split(command)
        assert make == "make" and {word for word in words if "=" not in word} <= targets, command
        assert "${{" not in command  # what others write never becomes part of a command


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_rights_are_the_least(path):
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        writes = [right for right, level in job.get("permissions", {}).items() if level == "write"]
        assert bool(writes) == (f"{path.stem}/{name}" in WRITES), name
        assert job["timeout-minutes"] > 0
        checkouts = [step for step in job["steps"] if "checkout@" in step.get("uses", "")]
        keeps = f"{path.stem}/{name}" in {"publish/notebooks", "gpu/propose"}  # pushes with what checkout leaves
        assert all(step.get("with", {}).get("persist-credentials", True) is keeps for step in checkouts), name


def test_gpu_runs_weekly_on_demand_and_by_label_of_this_repository_only():
    workflow = load(ROOT / ".github" / "workflows" / "gpu.yml")
    assert set(workflow["on"]) == {"schedule", "workflow_dispatch", "pull_request"}
    assert workflow["on"]["pull_request"] == {"types": ["labeled"]}
    assert "head.repo.full_name == github.repository" in workflow["jobs"]["paper"]["if"]


def test_a_failed_step_stops_no_other_and_nothing_long_runs_without_a_gpu():
    """What was left off with is restored before it is saved again."""
    about = load(ROOT / ".github" / "workflows" / "gpu.yml")["jobs"]["paper"]["steps"]
    (first,) = (number for number, step in enumerate(about) if step.get("id") == "gpu")
    assert about[first]["run"] == "make gpu" and about[first + 1]["run"].startswith("make gpu-queue")
    for step in about[first + 2 :]:
        what, when = step.get("run", step.get("uses", "")), step.get("if", "")
        assert "always()" in when or "!cancelled()" in when, what
        if what.startswith(("make records", "make book", "actions/cache")):
            assert "steps.gpu.outcome == 'success'" in when, what


def test_make_gpu_stops_where_there_is_none(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert companion.main(["gpu"]) == 2
    assert capsys.readouterr().err.startswith("torch finds no usable GPU")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a GPU")
    monkeypatch.setattr(with_gpus, "try_compilation", lambda: print("compiled"))
    monkeypatch.setattr(with_gpus, "driver_version", lambda: "580.65.06")
    monkeypatch.setattr("torch.version.cuda", "13.0")
    assert companion.main(["gpu"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("a GPU torch ") and "driver 580.65.06" in said and said.endswith("compiled\n")
    monkeypatch.setattr(with_gpus, "driver_version", lambda: "570.86.10")
    assert companion.main(["gpu"]) == 2
    assert "the driver is 570.86.10" in (refused := capsys.readouterr().err) and "needs R580 or newer" in refused
