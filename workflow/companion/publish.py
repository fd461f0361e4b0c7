"""What is published beside the site: the branch of notebooks, and archives with their checksums.

`branch` commits the folder of notebooks to its own branch and pushes it; `archive` packs site, notebooks and student
notebooks; `release` attaches the archives to a release of the repository.  Only the standard library is needed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "_build"
NOTEBOOKS = BUILD / "notebooks"
RELEASE = BUILD / "release"
SUMS = "SHA256SUMS"
PACKED = {"site": "html", "notebooks": "notebooks", "course-student": "course/student"}  # archive: folder of _build
BRANCH = "notebooks"
AUTHOR = {
    "GIT_AUTHOR_NAME": "make branch",
    "GIT_AUTHOR_EMAIL": "noreply@localhost",
    "GIT_COMMITTER_NAME": "make branch",
    "GIT_COMMITTER_EMAIL": "noreply@localhost",
}
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the time of every file in an archive: equal contents, equal bytes


class NotReadyError(RuntimeError):
    """Something that has to be made first."""


def git(*words: str, **environment: str) -> str:
    """Output of a git command in the repository."""
    settings = {**os.environ, **environment}
    done = subprocess.run(["git", *words], cwd=ROOT, env=settings, capture_output=True, text=True)
    if done.returncode:
        raise NotReadyError(f"git {words[0]} failed: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout.strip()


def push_branch(remote: str = "origin") -> str:
    """Commit `_build/notebooks` on top of the branch of notebooks and push it; returns the commit, or nothing.

    The checkout and its index stay as they are.
    """
    if not list(NOTEBOOKS.rglob("*.ipynb")):
        raise NotReadyError(f"{NOTEBOOKS.relative_to(ROOT)} holds no notebook; run make notebooks first")
    with tempfile.TemporaryDirectory() as folder:
        own = {"GIT_INDEX_FILE": str(Path(folder, "index")), "GIT_WORK_TREE": str(NOTEBOOKS)}
        own["GIT_DIR"] = git("rev-parse", "--absolute-git-dir")
        subprocess.run(["git", "add", "--all", "--force", "."], cwd=NOTEBOOKS, env={**os.environ, **own}, check=True)
        tree = git("write-tree", **own)
    last = git("ls-remote", remote, f"refs/heads/{BRANCH}").partition("\t")[0]
    if last:
        git("fetch", "--quiet", remote, last)
        if git("rev-parse", f"{last}^{{tree}}") == tree:
            return ""
    source = git("rev-parse", "HEAD")
    parent = ["-p", last] if last else []
    commit = git("commit-tree", tree, *parent, "-m", f"Notebooks of {source[:12]}", **AUTHOR)
    git("push", "--quiet", remote, f"{commit}:refs/heads/{BRANCH}")
    return commit


def pack(folder: Path, archive: Path) -> None:
    """Put a folder into a zip file, the same bytes for the same contents."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(f"{archive.stem}/{path.relative_to(folder).as_posix()}", LONG_AGO)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(entry, path.read_bytes())


def write_archives() -> list[Path]:
    """Pack what is there of `PACKED`, and write the checksums beside it."""
    RELEASE.mkdir(parents=True, exist_ok=True)
    (RELEASE / SUMS).unlink(missing_ok=True)  # what stands beside the sums is whole
    written = []
    for name, folder in PACKED.items():
        if not (BUILD / folder).is_dir():
            raise NotReadyError(f"_build/{folder} is not there; run make book notebooks course first")
        pack(BUILD / folder, RELEASE / f"{name}.zip")
        written.append(RELEASE / f"{name}.zip")
    for extra in (BUILD / "html" / "provenance.json",):
        if extra.is_file():
            (RELEASE / extra.name).write_bytes(extra.read_bytes())
            written.append(RELEASE / extra.name)
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in written]
    part = RELEASE / f".{SUMS}"
    part.write_text("".join(sums), encoding="utf-8")
    part.replace(RELEASE / SUMS)
    return [*written, RELEASE / SUMS]


def whole_archives() -> list[str]:
    """What the checksums name, and they themselves; nothing where `write_archives` did not come to its end."""
    sums = RELEASE / SUMS
    if not sums.is_file():
        return []
    named = dict(reversed(line.split("  ")) for line in sums.read_text(encoding="utf-8").splitlines())
    for name, expected in named.items():
        path = RELEASE / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise NotReadyError(f"{name} is not the file that {SUMS} names; run make archive again")
    return [*(str(RELEASE / name) for name in sorted(named)), str(sums)]


def release(tag: str) -> None:
    """Make a release of a tag with the archives, by the command line tool of the host."""
    files = whole_archives()
    if not tag or not files:
        raise NotReadyError("TAG names the release and make archive makes its files; one of them is missing")
    subprocess.run(["gh", "release", "create", tag, "--verify-tag", "--generate-notes", *files], cwd=ROOT, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["branch", "archive", "release"])
    parser.add_argument("--remote", default="origin")
    parser.add_argument("--tag", default="")
    asked = parser.parse_args()
    try:
        if asked.what == "branch":
            print(push_branch(asked.remote) or "the branch of notebooks is as it should be")
        elif asked.what == "archive":
            print(*(os.path.relpath(path) for path in write_archives()), sep="\n")
        else:
            release(asked.tag)
    except NotReadyError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
