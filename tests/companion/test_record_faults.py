"""Faults while recording a chapter or cleaning up: a sentence, an exit code, and the same command goes on."""

import errno
import os
import signal
import time
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import pytest
from companion import __main__ as companion
from companion import clean_cache, plainly
from faults import full_disk, read_only

from narrowlib.store import downloads, records, unfinished


@pytest.fixture
def command(tmp_path, monkeypatch):
    """`make record CHAPTER=hierarchy`, at smoke scale, with checkpoints; its exit code."""

    def run(left="left", kept="kept", save_every="60"):
        settings = f"n_seeds=1 checkpoints={tmp_path / left}"
        options = ["--profile", "smoke", "--set", settings, "--save-every", save_every]
        return companion.main(["record", "hierarchy", *options, "--folder", str(tmp_path / kept)])

    monkeypatch.setattr(unfinished, "SECONDS_BETWEEN", 60.0)  # what --save-every changes comes back
    return run


@pytest.mark.parametrize("save_every", ["60", "0"])  # seconds; what is too large then is a result, or a checkpoint
def test_recording_on_a_full_disk_says_so_and_goes_on_with_space(command, tmp_path, capsys, save_every):
    with full_disk(1_000):
        assert command(save_every=save_every) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "File too large; no finished result is lost" in said
    assert command() == 0
    assert records.load("learning-curves", tmp_path / "kept" / "hierarchy").config["n_seeds"] == 1


@pytest.mark.parametrize(
    ("owner", "operation", "n_before"),
    [(pd.DataFrame, "to_parquet", 0), (pd.DataFrame, "to_parquet", 1), (os, "fsync", 3), (Path, "replace", 2)],
)
def test_a_quota_that_is_used_up_within_a_record_leaves_the_old_one(
    command, tmp_path, monkeypatch, capsys, owner, operation, n_before
):
    """From the write, the flush or the renaming on, whichever comes after so many that succeed."""
    assert command("elsewhere", "expected") == 0
    record = records.Record("learning-curves", pd.DataFrame({"loss": [1.0]}))
    old = records.save(record, tmp_path / "kept" / "hierarchy")
    do, calls = getattr(owner, operation), []

    def refused(*arguments, **named):
        calls.append(1)
        if len(calls) > n_before:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return do(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(owner, operation, refused)
        assert command() == 1
    assert "Disk quota exceeded; no finished result is lost" in capsys.readouterr().err
    assert records.load(old.stem, old.parent).frame["loss"].tolist() == [1.0]
    assert {path.name for path in old.parent.iterdir()} == {"learning-curves.json", "learning-curves.parquet"}
    assert command() == 0
    assert old.read_bytes() == (tmp_path / "expected" / "hierarchy" / old.name).read_bytes()


@pytest.mark.parametrize("kind", ["read-only", "a file"])
def test_a_folder_that_cannot_be_written_is_named_before_anything_is_computed(command, tmp_path, capsys, kind):
    kept = tmp_path / "kept"
    kept.mkdir() if kind == "read-only" else kept.write_text("")
    with read_only(kept) if kind == "read-only" else nullcontext():
        assert command() == 1
    assert f"'{kept / 'hierarchy'}': " in capsys.readouterr().err and not (tmp_path / "left").exists()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(28, "No space left on device", "file"), "'file': No space left on device"),
        (PermissionError(13, "Permission denied"), "Permission denied; no finished result is lost"),
        (MemoryError(), "there is not enough memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"), "memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), "there is not enough memory"),
    ],
)
def test_faults_of_the_machine_are_sentences(error, says, capsys):
    def main():
        raise error

    assert plainly.run(main) == 1
    assert says in capsys.readouterr().err


def test_a_fault_of_the_program_is_not_hidden():
    with pytest.raises(RuntimeError, match="a bug"):
        plainly.run(lambda: (_ for _ in ()).throw(RuntimeError("a bug")))


def test_a_stopped_command_says_how_to_go_on(capsys):
    assert plainly.run(lambda: (_ for _ in ()).throw(KeyboardInterrupt)) == 130
    assert capsys.readouterr().err == "stopped; the same command continues from what is finished\n"


def test_sigterm_may_come_again_while_the_first_is_passed_on(monkeypatch, capsys):
    """As to what is told by its parent and by the system."""
    n_asked = []

    def children(*_, **__):
        n_asked.append(1)
        if len(n_asked) < 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return []

    monkeypatch.setattr("psutil.Process.children", children)
    assert plainly.run(lambda: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(9)) == 143
    assert n_asked == [1] and capsys.readouterr().err.startswith("stopped; ")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_clean_cache_frees_what_is_the_librarys_and_nothing_else(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(downloads.CACHE_VARIABLE, str(tmp_path / "cache"))
    assert clean_cache.main([]) == 0
    assert capsys.readouterr().out == f"nothing is kept in {tmp_path / 'cache'}\n"
    for name, n_bytes in (("archives/a.whl", 2_000_000), ("models/m/weights", 500_000), ("of-the-user/letter", 7)):
        (tmp_path / "cache" / name).parent.mkdir(parents=True)
        (tmp_path / "cache" / name).write_bytes(bytes(n_bytes))
    assert clean_cache.main([]) == 0
    said = capsys.readouterr().out
    assert "archives      1 files        2.0 MB" in said and "2.5 MB freed" in said
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["of-the-user"]
