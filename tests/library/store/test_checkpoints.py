"""A training that is killed goes on to the same end, bit for bit."""

import plain_networks
import pytest
import torch

from narrowlib.store import unfinished
from narrowlib.store.unfinished import Checkpoint


class KilledError(Exception):
    pass


@pytest.fixture
def always_save(monkeypatch):
    monkeypatch.setattr(unfinished, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr("os.fsync", lambda handle: None)  # what a kill leaves does not depend on it


def kill_at(patch, step):
    """Make training stop right after it was saved at this step."""
    save = Checkpoint.save

    def save_and_die(self, tensors, about=None):
        save(self, tensors, about)
        if about["n_steps"] == step:
            raise KilledError

    patch.setattr(Checkpoint, "save", save_and_die)


def killed(monkeypatch, step, work, *arguments, **options):
    with monkeypatch.context() as patch:
        kill_at(patch, step)
        with pytest.raises(KilledError):
            work(*arguments, **options)


def count_steps(monkeypatch):
    steps, step = [], torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self, *given: steps.append(1) or step(self, *given))
    return steps


def assert_same(first, second):
    assert torch.equal(first[0].nan_to_num(-1), second[0].nan_to_num(-1))
    assert all(torch.equal(a, b) for a, b in zip(first[1].parameters(), second[1].parameters(), strict=True))


def some_leave(record):
    return torch.arange(len(record)).remainder(2) == 0


def all_leave(record):
    return torch.ones(len(record), dtype=torch.bool)


@pytest.mark.parametrize(
    ("leave", "at", "left_over"), [(None, 40, 20), (some_leave, 20, 40), (some_leave, 40, 20), (all_leave, 20, 0)]
)
def test_resumed_is_uninterrupted_whoever_has_left(tmp_path, monkeypatch, always_save, leave, at, left_over):
    path = tmp_path / "run.safetensors"
    whole = plain_networks.train((0, 1, 2), leave=leave)
    killed(monkeypatch, at, plain_networks.train, (0, 1, 2), leave=leave, checkpoint=Checkpoint(path))
    assert path.is_file()
    steps = count_steps(monkeypatch)
    assert_same(plain_networks.train((0, 1, 2), leave=leave, checkpoint=Checkpoint(path)), whole)
    assert len(steps) == left_over  # of 60: finished work is not done again
    assert not path.exists()


def test_a_checkpoint_of_other_tensors_starts_anew(tmp_path, monkeypatch, always_save):
    """Of this training by its name, but not by what it holds."""
    path = tmp_path / "run.safetensors"
    killed(monkeypatch, 40, plain_networks.train, (0, 1), checkpoint=Checkpoint(path))
    save_under_its_name(path)
    steps = count_steps(monkeypatch)
    again = plain_networks.train((0, 1), checkpoint=Checkpoint(path))
    assert len(steps) == 60
    assert_same(again, plain_networks.train((0, 1)))


def save_under_its_name(path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, framework="pt") as file:
        about = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    save_file({name: tensor.flatten()[:1].clone() for name, tensor in tensors.items()}, path, about)
