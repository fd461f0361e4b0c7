"""Whole or not at all: what is written, and that everything is written so."""

import errno
import os
import stat
import time
from pathlib import Path

import pytest
import torch
from faults import full_disk, read_only
from filelock import Timeout
from safetensors import SafetensorError
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from narrowlib.store import files
from narrowlib.store.downloads import UnavailableError, made
from narrowlib.store.files import inside, replacing


def test_a_file_and_a_folder_take_the_place_of_another(tmp_path):
    for content in ("old", "new"):
        with replacing(tmp_path / "deep" / "file") as temporary:
            temporary.write_text(content)
        with replacing(tmp_path / "deep" / "folder") as temporary:
            temporary.mkdir()
            (temporary / content).write_text("")
    assert (tmp_path / "deep" / "file").read_text() == "new"
    assert [path.name for path in (tmp_path / "deep" / "folder").iterdir()] == ["new"]
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["file", "folder"]


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file": "old"}


def test_it_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(os, "fsync", lambda handle: names.append(str(Path(f"/proc/self/fd/{handle}").readlink())))
    with replacing(tmp_path / "file") as temporary:
        temporary.write_text("new")
        monkeypatch.setattr(Path, "replace", lambda path, target: names.append("renamed"))
    assert names == [str(temporary), "renamed"]


def writes_bytes(path):
    path.write_bytes(bytes(9_999))


def writes_tensors(path):
    save_file({"w": torch.zeros(9_999)}, path)


def writes_a_folder(path):
    (path / "deep").mkdir(parents=True)
    writes_tensors(path / "deep" / "weights")
    writes_bytes(path / "config")


def writes_a_tokenizer(path):
    Tokenizer(WordLevel({f"w{number}": number for number in range(999)}, "w0")).save(str(path))


WRITERS = [writes_bytes, writes_tensors, writes_a_folder, writes_a_tokenizer]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_who_may_read_a_file_is_what_the_user_has_set_whatever_wrote_it(tmp_path, write, umask):
    """Users of one cache read each other's weights; those of a user with umask 077 stay private."""
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "kept") as temporary:
            write(temporary)
        with files.lock_of(tmp_path / "lock"):
            assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o666
    finally:
        os.umask(before)
    kept = [path for path in (tmp_path / "kept", *(tmp_path / "kept").rglob("*")) if path.is_file()]
    assert kept and {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o666 & ~umask}


@pytest.mark.parametrize("write", WRITERS)
def test_a_full_disk_is_an_error_of_the_system_whatever_wrote(tmp_path, write):
    (tmp_path / "kept").write_text("old")
    with full_disk(999), pytest.raises(OSError, match="File too large") as caught, replacing(tmp_path / "kept") as path:
        write(path)
    assert caught.value.errno == errno.EFBIG
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"kept": "old"}


@pytest.mark.parametrize("error", [ValueError("(os error 28)"), SafetensorError("header"), UnavailableError("a host")])
def test_other_errors_stay_what_they_are(tmp_path, error):
    with pytest.raises(type(error)) as caught, replacing(tmp_path / "kept"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_in_a_file_system_those_of_the_machine_serve(tmp_path, monkeypatch, code):
    import fcntl

    real, temporary = fcntl.flock, tmp_path / "machine"
    temporary.mkdir()

    def flock(file, how):
        where = Path(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}").readlink()
        if temporary not in where.parents:
            raise OSError(code, os.strerror(code))
        return real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    files._has_locks.cache_clear()
    first, second, other = (files.lock_of(tmp_path / name, timeout=0) for name in ("a.lock", "a.lock", "b.lock"))
    files._has_locks.cache_clear()
    with first, other, pytest.raises(Timeout):
        second.acquire()
    with second:
        assert not list(tmp_path.glob("*.lock"))


HIDDEN = [".ipynb_checkpoints/curves.json", ".DS_Store", "deep/.git/x.json", ".#lock", ".nfs0001.x"]
BACKUPS = ["curves.json~", "#curves.json#", "Thumbs.db", "deep/desktop.ini"]


@pytest.mark.parametrize("stray", [*HIDDEN, *BACKUPS])
def test_hidden_files_and_backups_do_not_count(tmp_path, stray):
    (tmp_path / stray).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / stray).write_text("")
    (tmp_path / "curves.json").write_text("")
    (tmp_path / "folder.d").mkdir()
    assert files.visible_files(tmp_path) == files.visible_files(tmp_path, "*.*") == [tmp_path / "curves.json"]


@pytest.mark.parametrize("name", ["../up", "a/../../up", "/tmp/absolute", "..", "link/up"])
def test_a_name_that_leads_out_of_its_folder_is_refused(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match=f"name is {name!r}; it must lie in the folder"):
        inside(tmp_path / "folder", name)
    assert inside(tmp_path / "folder", "a/../b.py") == tmp_path / "folder" / "a" / ".." / "b.py"


def test_what_a_killed_run_left_is_removed_a_day_later(tmp_path):
    left, fresh, other = (tmp_path / name for name in (".file.abc.part", ".file.def.part", ".other.abc.part"))
    long_ago = time.time() - files.SECONDS_TO_WRITE - 1
    for folder in (left, fresh, other):
        folder.mkdir()
        (folder / "half").write_text("half")
    for folder in (left, other):
        os.utime(folder, (long_ago, long_ago))
    with replacing(tmp_path / "file") as temporary:
        temporary.write_text("new")
    assert not left.exists() and fresh.exists() and other.exists()


def test_a_cache_that_can_only_be_read_serves_what_it_holds_and_names_what_it_lacks(tmp_path):
    made(tmp_path / "tokens" / "there", lambda path: path.write_text("content"))
    with read_only(tmp_path):
        assert made(tmp_path / "tokens" / "there", lambda path: pytest.fail("made")).read_text() == "content"
        with pytest.raises(UnavailableError, match=r"tokens cannot be written \(.*\); set NARROWLIB_CACHE to a folder"):
            made(tmp_path / "tokens" / "lacking", lambda path: path.write_text(""))
        with pytest.raises(UnavailableError, match="models cannot be written"):
            made(tmp_path / "models" / "lacking", lambda path: path.write_text(""))
