"""Publish what accompanies the site: the notebooks branch, and archives with their checksums in a release.

The jobs that run this may write to the repository, so it needs nothing but the standard library and ghp-import.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from companion import BUILD, ROOT
from companion.plainly import Refusal

NOTEBOOKS = BUILD / "notebooks"
RELEASE = BUILD / "release"
SUMS = "SHA256SUMS"
PACKED = {"site": "html", "notebooks": "notebooks", "course-student": "course/student"}  # archive: folder of _build
BRANCH = "notebooks"
RECORDS = "results/paper"
WHO = {"GIT_COMMITTER_NAME": "make branch", "GIT_COMMITTER_EMAIL": "noreply@localhost"}
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the time of every file in an archive: equal contents, equal bytes


def git(*words: str) -> str:
    """Output of a git command in the repository."""
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise Refusal(f"git {words[0]} failed: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout.strip()


def push_branch(remote: str = "origin") -> str:
    """Commit `_build/notebooks` on top of the branch of notebooks and push it; the commit, or nothing if it is there.

    The checkout and its index stay as they are.
    """
    if not list(NOTEBOOKS.rglob("*.ipynb")):
        raise Refusal(f"{NOTEBOOKS.relative_to(ROOT)} holds no notebooks; run make notebooks first")
    there, ours = f"refs/remotes/{remote}/{BRANCH}", f"refs/heads/{BRANCH}"
    is_there = bool(git("ls-remote", remote, ours))
    if is_there:
        git("fetch", "--quiet", remote, f"+{ours}:{there}")
    command = [sys.executable, "-m", "ghp_import", "--branch", BRANCH, "--remote", remote]
    command += ["--message", f"Notebooks of {git('rev-parse', 'HEAD')[:12]}", str(NOTEBOOKS)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **WHO}, check=True)
    if is_there and git("rev-parse", f"{ours}^{{tree}}") == git("rev-parse", f"{there}^{{tree}}"):
        return ""
    git("push", "--quiet", remote, f"{ours}:{ours}")
    return git("rev-parse", ours)


def pack(folder: Path, archive: Path) -> None:
    """Put a folder into a zip file, the same bytes for the same contents."""
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(f"{archive.stem}/{path.relative_to(folder).as_posix()}", LONG_AGO)
            entry.external_attr = 0o644 << 16
            packed.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)


def digest(path: Path) -> str:
    """The sha256 sum of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_archives() -> list[Path]:
    """Pack what is there of `PACKED`, and write the checksums beside it."""
    if missing := [folder for folder in PACKED.values() if not (BUILD / folder).is_dir()]:
        raise Refusal(f"_build/{missing[0]} does not exist; run make book notebooks course first")
    RELEASE.mkdir(parents=True, exist_ok=True)
    (RELEASE / SUMS).unlink(missing_ok=True)  # what stands beside the sums is whole
    written = [RELEASE / f"{name}.zip" for name in PACKED]
    for archive, folder in zip(written, PACKED.values(), strict=True):
        pack(BUILD / folder, archive)
    about = BUILD / "html" / "provenance.json"
    if about.is_file():
        written.append(RELEASE / about.name)
        shutil.copyfile(about, written[-1])
    unfinished = RELEASE / f".{SUMS}"
    unfinished.write_text("".join(f"{digest(path)}  {path.name}\n" for path in written), encoding="utf-8")
    unfinished.replace(RELEASE / SUMS)
    return [*written, RELEASE / SUMS]


def whole_archives() -> list[str]:
    """What the checksums name, and they themselves; nothing where `write_archives` did not come to its end."""
    sums = RELEASE / SUMS
    if not sums.is_file():
        return []
    named = dict(reversed(line.split("  ")) for line in sums.read_text(encoding="utf-8").splitlines())
    for name, expected in named.items():
        if not (RELEASE / name).is_file() or digest(RELEASE / name) != expected:
            raise Refusal(f"{name} is not the file that {SUMS} names; run make archive again")
    return [*(str(RELEASE / name) for name in sorted(named)), str(sums)]


def branch(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Push the notebooks to the notebooks branch.")
    parser.add_argument("--remote", default="origin")
    print(push_branch(parser.parse_args(arguments).remote) or "the notebooks branch is up to date")
    return 0


def push_records(remote: str = "origin") -> str:
    """Commit the records that differ to a branch and push it; its name, or nothing where none differs."""
    if not git("status", "--porcelain", "--", RECORDS):
        return ""
    head = git("rev-parse", "HEAD")[:12]
    name = f"records-{head}"
    git("checkout", "--quiet", "-B", name)
    git("add", "--", RECORDS)
    who = [f"user.name={WHO['GIT_COMMITTER_NAME']}", f"user.email={WHO['GIT_COMMITTER_EMAIL']}"]
    git("-c", who[0], "-c", who[1], "commit", "--quiet", "-m", f"Records made on a GPU by {head}", "--", RECORDS)
    git("push", "--quiet", "--force", remote, f"refs/heads/{name}:refs/heads/{name}")
    return name


def propose(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Open a pull request with the records that have changed, using gh.")
    parser.add_argument("--remote", default="origin")
    name = push_records(parser.parse_args(arguments).remote)
    if not name:
        print("no record has changed")
        return 0
    if subprocess.run(["gh", "pr", "view", name], cwd=ROOT, capture_output=True).returncode == 0:
        return 0  # it shows what was pushed
    return subprocess.run(["gh", "pr", "create", "--head", name, "--fill"], cwd=ROOT).returncode


def archive(arguments: list[str]) -> int:
    argparse.ArgumentParser(description="Pack the site and the notebooks.").parse_args(arguments)
    print(*(os.path.relpath(path) for path in write_archives()), sep="\n")
    return 0


def release(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Publish a release of a tag with the archives, using gh.")
    parser.add_argument("--tag", default="")
    tag, files = parser.parse_args(arguments).tag, whole_archives()
    if not tag or not files:
        raise Refusal("TAG names the release and make archive makes its files; one of them is missing")
    command = ["gh", "release", "create", tag, "--verify-tag", "--generate-notes", *files]
    return subprocess.run(command, cwd=ROOT).returncode
