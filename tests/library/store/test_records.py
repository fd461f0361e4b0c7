"""Records come back as they were, or not at all."""

import json
import os
import shutil
from functools import partial

import pandas as pd
import pytest
from trees import git_in

from narrowlib.store import records
from narrowlib.store.provenance import git_state, provenance
from narrowlib.store.records import BadRecordError, Record, load, save


@pytest.fixture
def record():
    frame = pd.DataFrame({"seed": [0, 1], "loss": [0.25, 1.0], "task": ["{0}", "{0,1}"]})
    return Record("curves", frame, {"n_steps": 10, "learning_rate": 1e-3}, provenance("cpu"))


def test_round_trip(record, tmp_path):
    save(record, tmp_path)
    back = load("curves", tmp_path)
    pd.testing.assert_frame_equal(back.frame, record.frame)
    assert (back.config, back.provenance) == (record.config, record.provenance)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.json", "curves.parquet"]


def test_equal_records_are_equal_files(record, tmp_path):
    for folder in ("one", "two"):
        save(record, tmp_path / folder)
    for name in ("curves.json", "curves.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "harm", "says"),
    [
        ("curves.json", None, "incomplete: .*curves.json is missing"),
        ("curves.parquet", None, "incomplete: .*curves.parquet is missing"),
        ("curves.parquet", lambda content: content[:-7], "is not the table described in"),
        ("curves.json", lambda content: b"{", "is damaged"),
        ("curves.json", lambda content: b"{}", "is damaged"),
    ],
)
def test_a_harmed_record_is_refused(record, tmp_path, name, harm, says):
    save(record, tmp_path)
    (tmp_path / name).write_bytes(harm((tmp_path / name).read_bytes())) if harm else (tmp_path / name).unlink()
    with pytest.raises(BadRecordError, match=says):
        load("curves", tmp_path)


def test_names_stay_in_their_folder(record):
    with pytest.raises(ValueError, match=r"name is '\.\./curves'; it must consist of letters"):
        Record("../curves", record.frame)


def test_provenance_is_json_and_says_where():
    about = provenance("cpu")
    assert json.loads(json.dumps(about)) == about
    assert set(about) == {"commit", "dirty", "device", "n_threads", "python", "torch", "platform", "time"}
    assert about["device"] and about["n_threads"] >= 1


def test_the_commit_is_that_of_this_checkout_only(tmp_path, monkeypatch):
    """A tarball unpacked inside another repository must not take that repository's commit for its own."""
    git = partial(git_in, tmp_path)
    nothing, ours = {"commit": None, "dirty": None}, tmp_path / "narrowlib" / "__init__.py"
    for folder in ("unpacked", "narrowlib"):
        (tmp_path / folder).mkdir()
    ours.write_text("1")
    (tmp_path / "theirs").write_text("1")
    assert git_state(tmp_path) == nothing
    git("init")
    git("add", "theirs")
    git("commit", "-m", "first")
    assert git_state(tmp_path) == nothing  # unpacked into the root of another repository
    git("add", "narrowlib")
    git("commit", "-m", "second")
    assert len(git_state(tmp_path)["commit"]) == 40 and git_state(tmp_path)["dirty"] is False
    ours.write_text("2")
    assert git_state(tmp_path)["dirty"] is True
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))  # as a hook of another repository has it
    assert git_state(tmp_path / "unpacked") == nothing
    monkeypatch.delenv("GIT_DIR")
    for path, code in (("", ""), (str(tmp_path), "#!/bin/sh\nexit 1\n")):  # no git, and one that is not set up
        (tmp_path / "git").write_text(code)
        (tmp_path / "git").chmod(0o755)
        monkeypatch.setenv("PATH", path)
        assert git_state(tmp_path) == nothing and provenance("cpu")["commit"] is None


@pytest.mark.parametrize("kind", ["shallow", "linked", "\u00fcber uns", "of another owner"])
def test_a_checkout_of_any_kind_knows_its_commit(tmp_path, monkeypatch, kind):
    first, other = tmp_path / "first", tmp_path / kind
    (first / "narrowlib").mkdir(parents=True)
    (first / "narrowlib" / "__init__.py").write_text("")
    git_in(first, "init")
    git_in(first, "add", "narrowlib")
    git_in(first, "commit", "-m", "one")
    git_in(first, "commit", "--allow-empty", "-m", "two")
    git_in(first, *(("worktree", "add") if kind == "linked" else ("clone", "--depth", "1", first.as_uri())), other)
    if kind == "of another owner":
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "git").write_text(
            f'#!/bin/sh\nGIT_TEST_ASSUME_DIFFERENT_OWNER=1 {shutil.which("git")} "$@"\n'
        )
        (tmp_path / "bin" / "git").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert git_state(other) == git_state(first) and len(git_state(first)["commit"]) == 40


def test_origin_names_what_made_a_record_and_where_it_departs():
    made = {
        "device": "a GPU",
        "commit": "0123456789abcdef",
        "dirty": True,
        "note": "some rows were left out later",
        "departures": {"n_seeds": {"here": 5, "paper": 40}},
    }
    table = records.origin(Record("table", pd.DataFrame(), provenance=made))["this record"]
    assert (table["device"], table["commit"]) == ("a GPU", "0123456789ab with uncommitted changes")
    assert table["n_seeds"] == "5 instead of 40" and table["note"] == "some rows were left out later"
