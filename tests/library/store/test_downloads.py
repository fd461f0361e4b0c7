"""Fetching: verified, whole or not at all, and a clear sentence when it cannot be."""

import hashlib
import io
import tarfile
import zipfile

import pytest

from narrowlib.store import downloads
from narrowlib.store.downloads import Archive, UnavailableError, fetch, made, members

CONTENT = b"what the archive holds"
ARCHIVE = Archive("pypi", "a-package", "1.0", "a_package-1.0-py3-none-any.whl", hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(downloads.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def index_that_serves(content, monkeypatch, archive=ARCHIVE):
    """Puts a command in pip's place that leaves ``content``; returns the list of its calls."""
    calls = []

    def command(archive, folder):
        calls.append(archive)
        write = f"import pathlib; pathlib.Path({archive.filename!r}).write_bytes({content!r})"
        return ["python", "-c", write]

    monkeypatch.setitem(downloads._COMMANDS, archive.index, command)
    return calls


def test_an_archive_is_fetched_once_and_again_when_it_is_damaged(cache, monkeypatch):
    calls = index_that_serves(CONTENT, monkeypatch)
    assert fetch(ARCHIVE).read_bytes() == CONTENT
    assert fetch(ARCHIVE) == cache / "archives" / ARCHIVE.filename
    assert len(calls) == 1
    fetch(ARCHIVE).write_bytes(CONTENT[:5])  # damaged
    assert fetch(ARCHIVE).read_bytes() == CONTENT
    assert len(calls) == 2


def test_an_archive_with_another_sum_is_refused_and_not_kept(cache, monkeypatch):
    index_that_serves(b"something else", monkeypatch)
    with pytest.raises(UnavailableError, match="sha256"):
        fetch(ARCHIVE)
    assert [path.name for path in (cache / "archives").iterdir() if not path.name.endswith(".lock")] == []


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["python", "-c", "import sys; sys.exit('ERROR: no route to host')"], "no route to host"),
        (["no-such-tool"], "'no-such-tool' was not found"),
    ],
)
def test_a_failure_says_why_and_where_to_put_the_file(cache, monkeypatch, command, reason):
    monkeypatch.setitem(downloads._COMMANDS, "pypi", lambda archive, folder: command)
    with pytest.raises(UnavailableError) as caught:
        fetch(ARCHIVE)
    for part in ("a-package 1.0", reason, ARCHIVE.filename, str(cache)):
        assert part in str(caught.value)


def test_what_fails_half_way_leaves_nothing(tmp_path):
    def make(path):
        path.mkdir()
        (path / "half").write_text("half")
        raise KeyboardInterrupt

    target = tmp_path / "folder" / "made"
    with pytest.raises(KeyboardInterrupt):
        made(target, make)
    assert not target.exists()
    assert made(target, lambda path: path.write_text("whole")).read_text() == "whole"
    assert made(target, lambda path: pytest.fail("made twice")) == target


def test_a_file_in_the_place_of_the_cache_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match=r"file/folder cannot be written.*NARROWLIB_CACHE"):
        made(tmp_path / "file" / "folder" / "made", lambda path: path.write_text(""))


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_members_are_read_in_order_and_never_unpacked(tmp_path, kind):
    path = tmp_path / "archive"
    names = ["b.py", "a.py", "c.txt", "../outside.py"]
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as packed:
            for name in names:
                packed.writestr(name, name)
    else:
        with tarfile.open(path, "w:gz") as packed:
            for name in names:
                about = tarfile.TarInfo(name)
                about.size = len(name)
                packed.addfile(about, io.BytesIO(name.encode()))
    found = list(members(path, lambda name: name.endswith(".py")))
    assert found == [(name, name.encode()) for name in sorted(names) if name.endswith(".py")]
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]
