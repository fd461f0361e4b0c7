"""Whole or not at all: what is written, and that everything is written so."""

import errno
import os
import time
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import plain_networks
import pytest
from faults import full_disk, read_only

from narrowlib.store import files, unfinished
from narrowlib.store.downloads import UnavailableError, made
from narrowlib.store.files import inside, replacing
from narrowlib.store.records import Record, load, save
from narrowlib.store.unfinished import Checkpoint

ROOT = Path(__file__).parents[1]


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


def save_record(folder, value):
    frame = pd.DataFrame({"value": [float(value)] * 3, "text": [f"{i}" * 3000 for i in range(3)]})
    save(Record("table", frame, {"long": [value] * 800}), folder)


def save_made(folder, value):
    (folder / "made").unlink(missing_ok=True)
    made(folder / "made", lambda path: path.write_text(str(value) * 9_000))


@pytest.mark.parametrize("write", [save_record, save_made])
def test_a_full_disk_is_an_error_that_loses_nothing(tmp_path, write):
    save_record(tmp_path, 1)
    save_made(tmp_path, 1)
    with full_disk(2_000), pytest.raises((OSError, UnavailableError)) as caught:
        write(tmp_path, 2)
    cause = caught.value if isinstance(caught.value, OSError) else caught.value.__cause__
    assert cause.errno == errno.EFBIG and "\n" not in str(caught.value)
    assert load("table", tmp_path).frame["value"].tolist() == [1.0] * 3
    assert not [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")]
    write(tmp_path, 2)  # and with space again, all is well


def test_training_on_a_full_disk_stops_and_goes_on_from_the_last_checkpoint(tmp_path, monkeypatch):
    path, saved, save, resume = tmp_path / "run.safetensors", [], Checkpoint.save, Checkpoint.resume

    def save_once(self, tensors, about=None):
        saved.append(about["n_steps"])
        with full_disk(1_000) if len(saved) == 2 else nullcontext():
            save(self, tensors, about)

    def remember(self, *run):
        found = resume(self, *run)
        saved.append(("resumed", found and found[1]["n_steps"]))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(unfinished, "SECONDS_BETWEEN", 0.0)
        patch.setattr(os, "fsync", lambda handle: None)
        patch.setattr(Checkpoint, "save", save_once)
        with pytest.raises(Exception, match="too large"):
            plain_networks.train((0, 1), checkpoint=Checkpoint(path))
    monkeypatch.setattr(Checkpoint, "resume", remember)
    ours, whole = plain_networks.train((0, 1), checkpoint=Checkpoint(path)), plain_networks.train((0, 1))
    assert saved == [20, 40, ("resumed", 20), ("resumed", None)]
    assert ours[0].equal(whole[0])


def test_a_cache_that_can_only_be_read_serves_what_it_holds_and_names_what_it_lacks(tmp_path):
    made(tmp_path / "tokens" / "there", lambda path: path.write_text("content"))
    with read_only(tmp_path):
        assert made(tmp_path / "tokens" / "there", lambda path: pytest.fail("made")).read_text() == "content"
        with pytest.raises(UnavailableError, match=r"tokens cannot be written \(.*\); set NARROWLIB_CACHE to a folder"):
            made(tmp_path / "tokens" / "lacking", lambda path: path.write_text(""))
        with pytest.raises(UnavailableError, match="models cannot be written"):
            made(tmp_path / "models" / "lacking", lambda path: path.write_text(""))
