"""Networks that fail, files that are damaged, memory that is not there: one sentence, and nothing lost."""

import gzip
import hashlib
import io
import os
import subprocess
import sys
import time
import zipfile

import pytest
from faults import send, server
from trees import ROOT

from narrowlib.data import digits
from narrowlib.store import downloads
from narrowlib.store.downloads import Archive, UnavailableError, fetch


def wheel(n_bytes=60_000):
    """A wheel that pip takes, of about that size."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("tiny/__init__.py", "#" * n_bytes)
        file.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        file.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr("tiny-1.0.dist-info/RECORD", "")
    return packed.getvalue()


@pytest.fixture
def pip(monkeypatch):
    """pip knows no index but the one that a test names."""
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("CONFIG_FILE", "/dev/null"), ("RESUME_RETRIES", "0"), ("RETRIES", "0"), ("NO_INPUT", "1")):
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return lambda address: monkeypatch.setenv("PIP_INDEX_URL", f"{address}/simple")


def test_an_interrupted_download_is_said_and_the_next_one_completes(cache, pip):
    content = wheel()
    archive = Archive("pypi", "tiny", "1.0", "tiny-1.0-py3-none-any.whl", hashlib.sha256(content).hexdigest())
    is_cut = [True]

    def answer(handler):
        if handler.path.endswith(".whl"):
            send(handler, content[:30_000] if is_cut[0] else content, promised=len(content), kind="application/zip")
        else:
            send(handler, f'<a href="/{archive.filename}">{archive.filename}</a>'.encode())

    with server(answer) as address:
        pip(address)
        with pytest.raises(UnavailableError) as caught:
            fetch(archive)
        assert "tiny 1.0 cannot be fetched from pypi" in str(caught.value) and "\n" not in str(caught.value)
        assert not [path for path in (cache / "archives").iterdir() if not path.name.endswith(".lock")]
        is_cut[0] = False
        assert fetch(archive).read_bytes() == content


def test_an_index_that_never_ends_is_given_up(cache, monkeypatch):
    monkeypatch.setattr(downloads, "SECONDS_TO_FETCH", 0.3)
    monkeypatch.setitem(downloads._COMMANDS, "pypi", lambda archive, folder: ["sleep", "60"])
    with pytest.raises(UnavailableError, match="no answer within"):
        fetch(Archive("pypi", "tiny", "1.0", "tiny-1.0-py3-none-any.whl", "0" * 64))


def trickle(handler):
    send(handler, b"", promised=10_000)
    for _ in range(100):
        handler.wfile.write(b".")
        time.sleep(0.05)


@pytest.mark.parametrize(
    "answer",
    [
        trickle,
        lambda handler: send(handler, gzip.compress(bytes(999))[:-9], promised=9_999),
        lambda handler: handler.send_error(503),
        lambda handler: handler.wfile.write(b"not http\r\n\r\n"),
    ],
    ids=["slow", "cut short", "overloaded", "not http"],
)
def test_a_mirror_that_fails_is_passed_over(monkeypatch, answer):
    monkeypatch.setattr(digits, "FILE_SECONDS", 0.3)
    monkeypatch.setattr(digits, "MIRROR_SECONDS", 1)
    with server(answer) as address:
        started = time.monotonic()
        assert digits._download(f"{address}/file.gz") in (None, b"")
        assert time.monotonic() - started < 5


OUT_OF_MEMORY = """
import resource, sys
from companion import __main__ as companion, record
from pathlib import Path
record.recorded()  # what it imports is no part of what it needs
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 300_000_000,) * 2)
settings = ["--set", "n_seeds=40 width=4096 batch_size=16"]
sys.exit(companion.main(["record", "hierarchy", "--profile", "smoke", "--folder", sys.argv[1], *settings]))
"""


def test_too_little_memory_is_one_sentence(tmp_path):
    command = [sys.executable, "-c", OUT_OF_MEMORY, str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # libgomp ends a process in which no thread can be started
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("there is not enough memory; ")
    assert not list(tmp_path.iterdir())
