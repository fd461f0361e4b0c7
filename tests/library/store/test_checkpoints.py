"""A run that is killed goes on to the same end, bit for bit."""

import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import test_training
import torch

from narrowlib.chapters.hierarchy import experiment as hierarchy
from narrowlib.chapters.hierarchy.experiment import HierarchyConfig, learning_curves
from narrowlib.stacks import training
from narrowlib.stacks.networks import MLPStack
from narrowlib.stacks.training import TrainingConfig, make_generators
from narrowlib.store import checkpoints

TINY = HierarchyConfig(
    n_subtasks=2, subset_size=2, n_task_bits=6, n_seeds=3, width=16, batch_size=16, n_steps=40, learning_rate=1e-2
)


class KilledError(Exception):
    pass


@pytest.fixture
def always_save(monkeypatch):
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr("os.fsync", lambda handle: None)  # what a kill leaves does not depend on it


def kill_at(monkeypatch, step):
    """Make training stop right after the record of this step."""
    save = checkpoints.Checkpoint.save

    def save_and_die(self, at, records, about=None):
        save(self, at, records, about)
        if at == step:
            raise KilledError

    monkeypatch.setattr(checkpoints.Checkpoint, "save", save_and_die)


def assert_same(first, second):
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(a, b) for a, b in zip(first[1].parameters(), second[1].parameters(), strict=True))


def test_what_takes_long_to_save_is_saved_less_often(tmp_path, monkeypatch):
    stack, generators = MLPStack((2, 3, 2), make_generators([0], "cpu")), make_generators([1], "cpu")
    store = checkpoints.Checkpoint(tmp_path / "run", stack, None, generators, TrainingConfig(n_steps=1))
    now, saved = [1000.0], []
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(store, "save", lambda *about: saved.append(now[0]))
    for took, due in ((0.0, 60.0), (3.0, 60.0), (30.0, 600.0)):
        store._saved_at, store._took = now[0], took
        for wait in (due - 1, 1):
            now[0] += wait
            store.save_if_due(0, [])
    assert saved == [1060.0, 1120.0, 1720.0]


def test_resumed_is_uninterrupted(tmp_path, monkeypatch, always_save):
    path = tmp_path / "run.safetensors"
    whole = test_training.train((0, 1))
    with monkeypatch.context() as patch:
        kill_at(patch, 40)
        with pytest.raises(KilledError):
            test_training.train((0, 1), checkpoint=path)
    assert path.is_file()
    steps = []
    monkeypatch.setattr(training.torch.optim.Adam, "step", counted(training.torch.optim.Adam.step, steps))
    assert_same(test_training.train((0, 1), checkpoint=path), whole)
    assert len(steps) == 20  # of 60: finished work is not done again
    assert not path.exists()


def first_run_leaves(record):
    return torch.arange(record.shape[0]) == 0


@pytest.mark.parametrize("at", [20, 40])
def test_resumed_is_uninterrupted_also_when_a_run_has_left(tmp_path, monkeypatch, always_save, at):
    path = tmp_path / "run.safetensors"
    whole = test_training.train((0, 1, 2), leave=first_run_leaves)
    with monkeypatch.context() as patch:
        kill_at(patch, at)
        with pytest.raises(KilledError):
            test_training.train((0, 1, 2), leave=first_run_leaves, checkpoint=path)
    resumed = test_training.train((0, 1, 2), leave=first_run_leaves, checkpoint=path)
    assert torch.equal(resumed[0].nan_to_num(-1), whole[0].nan_to_num(-1))
    assert all(torch.equal(a, b) for a, b in zip(resumed[1].parameters(), whole[1].parameters(), strict=True))


def counted(step, calls):
    def wrapper(self, *arguments, **named):
        calls.append(1)
        return step(self, *arguments, **named)

    return wrapper


@pytest.mark.parametrize("harm", ["truncated", "empty", "another seed", "other settings", "other text"])
def test_useless_checkpoint_is_ignored(tmp_path, monkeypatch, always_save, harm):
    path = tmp_path / "run.safetensors"
    seeds, more = (
        ((5, 6), {}) if harm == "another seed" else ((0, 1), {"n_steps": 61} if harm == "other settings" else {})
    )
    with monkeypatch.context() as patch:
        kill_at(patch, 40)
        with pytest.raises(KilledError):
            test_training.train(seeds, checkpoint=path, **more)
    content = path.read_bytes()
    path.write_bytes({"truncated": content[:-9], "empty": b"", "other text": b"hello" * 99}.get(harm, content))
    assert_same(test_training.train((0, 1), checkpoint=path), test_training.train((0, 1)))


def test_nothing_is_saved_before_it_is_due(tmp_path):
    path = tmp_path / "run.safetensors"
    test_training.train((0,), checkpoint=path)
    assert not list(tmp_path.iterdir())


def test_experiment_resumes_to_the_same_table(tmp_path, monkeypatch, always_save):
    monkeypatch.setattr(hierarchy, "runs_per_chunk", lambda *_: 2)
    whole = learning_curves(TINY, device="cpu", progress=False)
    with monkeypatch.context() as patch:
        kill_at(patch, 80)  # in the narrow runs, after the first setting is done
        with pytest.raises(KilledError):
            learning_curves(TINY, device="cpu", checkpoints=tmp_path, progress=False)
    (folder,) = tmp_path.iterdir()
    assert len(list(folder.glob("*.parquet"))) == 2 and len(list(folder.glob("*.safetensors"))) == 1
    trained = []
    monkeypatch.setattr(hierarchy, "_train", counted_name(hierarchy._train, trained))
    resumed = learning_curves(TINY, device="cpu", checkpoints=tmp_path, progress=False)
    pd.testing.assert_frame_equal(resumed, whole)
    assert trained == ["narrow, depth 3"] * 2 + ["broad, depth 2"] * 2 + ["broad, depth 2, wide"] * 2


def counted_name(train, names):
    def wrapper(setting, *arguments):
        names.append(setting.name)
        return train(setting, *arguments)

    return wrapper


@pytest.mark.parametrize("changes", [{"learning_rate": 1e-3}, {"batch_size": 64}, {"n_task_bits": 7, "subset_size": 3}])
def test_other_settings_do_not_go_on_from_these(tmp_path, monkeypatch, always_save, changes):
    """Neither from finished runs nor from one that was killed half way."""
    other = TINY.replace(**changes)
    with monkeypatch.context() as patch:
        kill_at(patch, 80)
        with pytest.raises(KilledError):
            learning_curves(TINY, device="cpu", checkpoints=tmp_path, progress=False)
    mixed = learning_curves(other, device="cpu", checkpoints=tmp_path, progress=False)
    pd.testing.assert_frame_equal(mixed, learning_curves(other, device="cpu", progress=False))


def test_real_kill(tmp_path):
    """SIGKILL in the middle, then the same command again."""
    code = (
        "import sys; from narrowlib import checkpoints; checkpoints.SECONDS_BETWEEN = 0.05\n"
        "from narrowlib.chapters.hierarchy.experiment import HierarchyConfig, learning_curves\n"
        "config = HierarchyConfig(n_subtasks=2, subset_size=2, n_task_bits=6, n_seeds=2, width=16, batch_size=16,"
        " n_steps=int(sys.argv[2]))\n"
        "learning_curves(config, device='cpu', checkpoints=sys.argv[1], progress=False).to_parquet(sys.argv[3])"
    )

    def command(folder):
        return [sys.executable, "-c", code, tmp_path / folder, "400", tmp_path / f"{folder}.parquet"]

    process = subprocess.Popen(command("killed"))
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("killed/*/*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    for folder in ("killed", "whole"):
        subprocess.run(command(folder), check=True)
    assert (tmp_path / "killed.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_digest_tells_runs_apart():
    weights, mask = torch.arange(6.0).view(2, 3), torch.ones(5000, dtype=torch.bool)
    other = mask.clone()
    other[4999] = False
    runs = [
        checkpoints.digest_of({"a": weights}, None),
        checkpoints.digest_of({"a": weights + 1}, None),
        checkpoints.digest_of({"b": weights}, None),
        checkpoints.digest_of({"a": weights.view(3, 2)}, None),
        checkpoints.digest_of({"a": weights}, 0.1),
        checkpoints.digest_of(mask),
        checkpoints.digest_of(other),
    ]
    assert len(set(runs)) == len(runs)
    assert checkpoints.digest_of({"a": weights.clone(), "b": 1}) == checkpoints.digest_of({"b": 1, "a": weights})
