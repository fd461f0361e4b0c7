"""What is published tells nothing of the machine it was made on, and holds no secret."""

import getpass
import os
import re
import socket
import sys
from pathlib import Path

import pytest
from trees import ROOT

TEXTS = {".html", ".ipynb", ".json", ".csv", ".svg", ".md", ".yml", ".yaml", ".txt", ".bib", ".inv"}
SECRETS = {
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "a token of GitHub": r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{60,})",
    "a token of Hugging Face": r"\bhf_[A-Za-z]{34}\b",
    "a key of AWS": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a token of PyPI": r"\bpypi-AgEIcHlwaS5vcmc[\w-]{50,}",
    "a token of Slack": r"\bxox[abprs]-[\w-]{10,}",
    "a key of an API": r"\bsk-[A-Za-z0-9_-]{32,}",
    "a password in an address": r"https?://[^\s/:@\"'<>]+:[^\s/:@\"'<>]+@",
}
PATHS = r"(?<![\w.])/(?:home|Users|root|tmp|var/folders|mnt|private|workspaces)/[\w.-]+"
PATHS += r"|[A-Z]:\\Users\\\w+|site-packages/"
OF_OTHERS = "_static/mathjax/"  # in the site as it was published
TOO_COMMON = {"root", "runner", "user", "admin", "localhost", "ubuntu", "docker", "build", "book", "main", "work"}
SECRET_VARIABLE = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|CREDENTIAL", re.IGNORECASE)


def machine():
    """Names of this machine, and values of its secret variables, that stand in no text by chance."""
    names = {getpass.getuser(), socket.gethostname(), socket.gethostname().partition(".")[0]}
    found = {name: "a name of the machine" for name in names if len(name) > 3 and name.lower() not in TOO_COMMON}
    values = {value for name, value in os.environ.items() if SECRET_VARIABLE.search(name) and len(value) >= 8}
    found |= dict.fromkeys(values, "the value of a secret variable")
    folders = {str(ROOT), str(Path.home()), sys.prefix, sys.base_prefix}
    return found | {folder: "a folder of the machine" for folder in folders if len(folder) > 5}


def leaks(text):
    """What a text tells that it should not."""
    found = [f"{what}: {match[0][:60]}" for what, pattern in SECRETS.items() for match in re.finditer(pattern, text)]
    found += [f"a path of the machine: {match[0]}" for match in re.finditer(PATHS, text)]
    for word, what in machine().items():
        if word in text and re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text):
            found.append(what)
    return found


def scanned(folder):
    """Leaks by file, of every text in a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in TEXTS and path.is_file()]
    files = [path for path in files if OF_OTHERS not in path.as_posix()]
    assert files, folder
    found = {path.relative_to(folder).as_posix(): leaks(path.read_text(errors="replace")) for path in files}
    return {name: told for name, told in found.items() if told}


@pytest.mark.parametrize("folder", ["html", "executed", "beside"])
def test_what_is_made_of_the_book_tells_nothing(smoke_book, folder):
    assert scanned(smoke_book / "_build" / folder) == {}


def test_what_is_committed_of_results_tells_nothing():
    assert scanned(ROOT / "results") == {}


@pytest.mark.parametrize(
    "text",
    [
        "token = ghp_" + "a1B2" * 9,
        "hf_" + "aB" * 17,
        "AKIA" + "A1" * 8,
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "https://someone:password@example.org/",
        'File "/home/someone/book/narrowlib/cmsp.py", line 3',
        "read /tmp/abc/x",
        "C:\\Users\\someone",
        f"at {ROOT}/narrowlib",
    ],
)
def test_the_scan_sees_what_it_is_for(text):
    assert leaks(text)


def test_the_scan_sees_this_machine(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "lab-machine-7.example.org")
    monkeypatch.setenv("SOME_API_KEY", "correct horse battery")
    assert leaks("made on lab-machine-7") and leaks("key: correct horse battery.")
    assert not leaks("A sentence of the book, about /tmp and machines, see https://example.org/a:b and a/home/page.")
