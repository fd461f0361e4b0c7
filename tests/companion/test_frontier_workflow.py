"""Every training of the chapter llm-frontier as a job of its own: what is planned, and with which resources."""

import os
import re
import stat
import subprocess
import sys
import threading
from collections import Counter

import pytest
from companion import __main__ as companion
from companion import record, with_gpus
from trees import ROOT

from narrowlib.chapters.frontier.config import METHODS, Config, runs_of

SLURM = ROOT / "workflow" / "profiles" / "slurm"


def planned(tmp_path, *config):
    """A dry run with the profile of the cluster, its executor apart, which needs a plugin."""
    command = [sys.executable, "-m", "snakemake", "-s", "workflow/frontier.smk", "--workflow-profile", SLURM, "-n"]
    command += ["--executor", "local", "--cores", "4", "--config", "profile=smoke", f"folder={tmp_path / 'results'}"]
    command += ["set=" + f"checkpoints={tmp_path / 'kept'}", *config, "--printshellcmds"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def test_every_training_is_a_job_with_a_gpu_of_its_own(tmp_path):
    out = planned(tmp_path, "gpus=2")
    jobs = Counter(re.findall(r"^(?:local)?rule (\w+):", out, flags=re.M))
    assert jobs == {"prepare": 1, "train": 8, "collect": 1}  # two sizes of four methods
    runs = set(re.findall(r"wildcards: run=(\S+)", out))
    assert len(runs) == 8 and {"scratch-1", "pruned-distilled-80-80"} <= runs
    trainings = [part for part in re.split(r"\n\n+", out) if "rule train:" in part]
    assert len(trainings) == 8 and all("gpu=2" in part for part in trainings)
    commands = [line for line in out.splitlines() if "--piece" in line]
    assert sum("torch.distributed.run --standalone --nproc-per-node=2" in line for line in commands) == 8
    assert sum("--piece prepare" in line for line in commands) == 1


def test_the_paper_profile_asks_for_five_sizes_of_each_way_and_tens_of_millions_of_tokens():
    config = Config.from_parameters(record.all_parameters("llm-frontier", "paper", ""))
    counted = Counter(run.method for run in runs_of(config))
    assert set(counted) == set(METHODS) and min(counted.values()) >= 5
    assert config.n_steps * config.batch_size * config.block_length >= 19e6


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nonlocality", "--piece", "train"], "piece is 'train'; the record of nonlocality is not made in pieces"),
        (["hierarchy", "--piece", "train"], "piece is 'train'; it must be one of learning-curves, depth-curves"),
        (["llm-frontier", "--piece", "x"], "piece is 'x'; it must be one of prepare, scratch-1"),
    ],
)
def test_unknown_pieces_are_refused_in_one_sentence(monkeypatch, capsys, tmp_path, arguments, says):
    options = ["--profile", "smoke", "--set", f"checkpoints={tmp_path}"]
    assert companion.main(["record", *arguments, *(options if "llm" in arguments[0] else [])]) == 2
    assert says in capsys.readouterr().err


def test_jobs_on_one_machine_get_gpus_of_their_own(tmp_path):
    there = ["0", "1", "2"]
    first = with_gpus.claimed(2, there, tmp_path, 0.01)
    assert list(first) == ["0", "1"]
    found, done = [], threading.Event()

    def second():
        found.append(with_gpus.claimed(2, there, tmp_path, 0.01))
        done.set()

    thread = threading.Thread(target=second, daemon=True)
    thread.start()
    assert not done.wait(0.2)  # one is free, and that one is not kept from others meanwhile
    first["0"].release()
    assert done.wait(10) and list(found[0]) == ["0", "2"]
    with pytest.raises(ValueError, match="gpus is 4; it must be at most 3"):
        with_gpus.claimed(4, there, tmp_path, 0.01)


@pytest.mark.parametrize(("given", "seen"), [(None, "0"), ("5", "5"), ("4,5", "4")])
def test_a_command_sees_the_gpus_it_got(given, seen, tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr(with_gpus, "LOCKS", tmp_path)
    tell = "import os, sys; print(os.environ['CUDA_VISIBLE_DEVICES']); sys.exit(3)"
    assert companion.main(["with-gpus", "1", sys.executable, "-c", tell]) == 3
    assert capfd.readouterr().out.strip() == seen


def test_the_papers_own_settings_are_a_profile_away():
    """Michaud, Parker-Sartori and Tegmark (2025), section 5."""
    config = Config.from_parameters(record.all_parameters("llm-frontier", "llama", ""))
    assert config.model == "meta-llama/Llama-3.2-1B" and config.source == "codeparrot/github-code"
    assert config.n_steps * config.batch_size * config.block_length == 20_000 * 65_536
    values = record.all_parameters("llm-pruning", "llama", "")
    assert {
        "lasso_steps": 70_000,
        "lasso_rate": 2e-6,
        "learning_rate": 5e-5,
        "n_warmup": 1_000,
    }.items() <= values.items()


def test_locks_of_gpus_are_for_all_users(tmp_path):
    before = os.umask(0o077)
    try:
        held = with_gpus.claimed(1, ["0"], tmp_path / "gpus", 0.01)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "gpus").stat().st_mode) == 0o1777
    assert stat.S_IMODE((tmp_path / "gpus" / "0.lock").stat().st_mode) == 0o666
    held["0"].release()
