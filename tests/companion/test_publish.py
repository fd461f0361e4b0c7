"""The branch of notebooks, in a repository made for it, and archives that are the same for the same contents."""

import hashlib
import os
import subprocess
import sys
import zipfile

import pytest
from companion import publish
from companion.plainly import Refusal
from trees import git_in

ROOT = publish.ROOT


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A checkout with an origin, and the folders that are published."""
    git_in(tmp_path, "init", "--bare", "origin")
    git_in(tmp_path, "clone", "--quiet", "origin", "tree")
    tree = tmp_path / "tree"
    (tree / ".gitignore").write_text("_build/\n*.ipynb\n")
    git_in(tree, "add", ".")
    git_in(tree, "commit", "--quiet", "-m", "first")
    for name in ("notebooks/book/one.ipynb", "html/index.html", "course/student/one.ipynb"):
        path = tree / "_build" / name
        path.parent.mkdir(parents=True)
        path.write_text(name)
    for name, path in (("ROOT", ""), ("BUILD", "_build"), ("NOTEBOOKS", "_build/notebooks"), ("RELEASE", "_build/out")):
        monkeypatch.setattr(publish, name, tree / path)
    return tree


def test_branch_is_pushed_once_per_change_and_the_checkout_stays(tree):
    first = publish.push_branch()
    assert git_in(tree, "ls-tree", "-r", "--name-only", first) == "book/one.ipynb"
    assert git_in(tree, "status", "--short") == "" and git_in(tree, "branch", "--show-current") == "main"
    assert publish.push_branch() == ""  # nothing has changed
    (tree / "_build" / "notebooks" / "book" / "one.ipynb").write_text("other")
    second = publish.push_branch()
    assert git_in(tree, "ls-remote", "origin", "refs/heads/notebooks").startswith(second)
    assert git_in(tree, "rev-parse", f"{second}^") == first


def test_records_that_differ_are_pushed_to_a_branch_of_their_own(tree):
    assert publish.push_records() == ""
    for name in ("results/paper/hierarchy/curves.json", "other.txt"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("found")
    name = publish.push_records()
    assert git_in(tree, "ls-remote", "origin", f"refs/heads/{name}")
    assert git_in(tree, "show", "--name-only", "--format=", name) == "results/paper/hierarchy/curves.json"
    assert publish.push_records() == ""


def test_archives_are_reproducible_and_their_sums_are_right(tree):
    written = publish.write_archives()
    before = {path.name: path.read_bytes() for path in written}
    assert set(before) == {"site.zip", "notebooks.zip", "course-student.zip", "SHA256SUMS"}
    for path in (tree / "_build" / "html").iterdir():
        path.touch()
    assert {path.name: path.read_bytes() for path in publish.write_archives()} == before
    for line in before["SHA256SUMS"].decode().splitlines():
        total, name = line.split("  ")
        assert hashlib.sha256(before[name]).hexdigest() == total
    with zipfile.ZipFile(written[0]) as packed:
        assert packed.namelist() == ["site/index.html"]


def test_archives_that_were_cut_off_are_not_released(tree, monkeypatch):
    assert publish.whole_archives() == []
    written = publish.write_archives()
    assert sorted(publish.whole_archives()) == sorted(map(str, written))
    written[0].write_bytes(written[0].read_bytes()[:-5])
    with pytest.raises(Refusal, match="run make archive again"):
        publish.release(["--tag", "v1"])
    monkeypatch.setattr(publish, "pack", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        publish.write_archives()
    assert publish.whole_archives() == []


def test_missing_folders_are_said(tree, monkeypatch):
    monkeypatch.setattr(publish, "PACKED", {"site": "nowhere"})
    with pytest.raises(Refusal, match="run make book"):
        publish.write_archives()


@pytest.mark.parametrize("command", ["branch", "archive", "release", "propose"])
def test_nothing_but_the_standard_library_is_needed(command):
    bare = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    words = [sys.executable, "-S", "-m", "companion", command, "--help"]  # -S: without site-packages
    done = subprocess.run(words, cwd=ROOT, env={**bare, "PYTHONPATH": "workflow"}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
