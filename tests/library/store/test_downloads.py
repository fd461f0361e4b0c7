"""Fetching: verified, whole or not at all, and a clear sentence when it cannot be."""

import errno
import hashlib
import os
from pathlib import Path

import pytest

from narrowlib.store import downloads
from narrowlib.store.downloads import Archive, UnavailableError, fetch

CONTENT = b"what the archive holds"
ARCHIVE = Archive("pypi", "a-package", "1.0", "a_package-1.0-py3-none-any.whl", hashlib.sha256(CONTENT).hexdigest())


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


@pytest.mark.parametrize("code", [errno.EACCES, errno.ESTALE, errno.EIO])
def test_a_cache_that_cannot_be_looked_into_is_named_with_a_remedy(cache, monkeypatch, code):
    """That of another user with umask 077, or on a network file system that is gone."""

    def refuse(path, **_):
        raise OSError(code, os.strerror(code), str(path))

    for name in ("exists", "is_file"):
        monkeypatch.setattr(Path, name, refuse)
    for use in (lambda: fetch(ARCHIVE), lambda: downloads.made(cache / "archives" / "tokens", pytest.fail)):
        with pytest.raises(
            UnavailableError, match=rf"archives cannot be written \({os.strerror(code)}\); set NARROWLIB_C"
        ):
            use()


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
