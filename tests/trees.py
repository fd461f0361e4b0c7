"""Trees to build in: a copy of the project at smoke scale, and a project of three tiny chapters."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://github.com/owner/book"  # where the books of the tests live
TRANSIENT = ("_build", ".venv", ".git", ".snakemake", "*_cache", "__pycache__", ".hypothesis")

SOURCE = """---
jupytext:
  text_representation: {{extension: .md, format_name: myst}}
kernelspec: {{display_name: Python 3, language: python, name: python3}}
---
# {name}

A sentence.

```{{code-cell}} python
:tags: [parameters]
n: int = 4  # a number
```

```{{code-cell}} python
{code}
```
"""
CHAPTERS = {
    "first": "from narrowlib.upper import doubled\nprint('value', doubled(n))",
    "second": "import narrowlib.lower\nprint('value', narrowlib.lower.ONE + n)",
    "third": "print('value', n)",
}
MODULES = {
    "lower": "ONE = 1\n",
    "upper": "from narrowlib.lower import ONE\n\n\ndef doubled(n):\n    return (ONE + ONE) * n\n",
}


def make_tiny_project(tree: Path) -> None:
    """A project of three tiny chapters and a page without code, with the workflow of this checkout."""
    shutil.copytree(ROOT / "workflow", tree / "workflow", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "narrowlib", tree / "narrowlib", ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "book").mkdir()
    for folder, files, ending in (("book", CHAPTERS, "md"), ("narrowlib", MODULES, "py")):
        for name, content in files.items():
            (tree / folder / f"{name}.{ending}").write_text(
                SOURCE.format(name=name, code=content) if ending == "md" else content
            )
    (tree / "book" / "welcome.md").write_text("# Welcome\n\nA page without code.\n")
    (tree / "book" / "profiles" / "paper").mkdir(parents=True)
    (tree / "book" / "profiles" / "paper" / "second.yaml").write_text("n: 5\n")
    (tree / "book" / "_static").mkdir()
    (tree / "book" / "_static" / "book.css").write_text("")
    (tree / "_toc.yml").write_text(
        "format: jb-book\nroot: book/welcome\nchapters:\n" + "".join(f"  - file: book/{name}\n" for name in CHAPTERS)
    )
    (tree / "_config.yml").write_text(
        'title: Tiny\nexecute: {execute_notebooks: "off"}\nonly_build_toc_files: true\n'
        "sphinx: {config: {html_static_path: [book/_static]}}\n"
    )
    (tree / "constraints.txt").write_text("torch==2.13.0\n")


def make_book(tree: Path, profile: str = "quick") -> subprocess.CompletedProcess[str]:
    """What `make book` calls, in another tree."""
    return command(tree, "book", "--profile", profile, "--cores", "2")


def command(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of the companion, in another tree."""
    called = [sys.executable, "-m", "companion", *arguments]
    return subprocess.run(called, cwd=tree, capture_output=True, text=True, env=environment_of(tree))


def environment_of(tree: Path) -> dict[str, str]:
    """Environment in which the library and the workflow are those of a tree, whichever are installed."""
    code = os.pathsep.join([str(tree), str(tree / "workflow")])
    return {**os.environ, "REPOSITORY": REPOSITORY, "PYTHONPATH": code}


def git_in(folder: Path, *words: str) -> str:
    """What git says in a folder, as somebody who commits."""
    settings = ("user.name=t", "user.email=t@localhost", "init.defaultBranch=main", "protocol.file.allow=always")
    options = [word for setting in settings for word in ("-c", setting)]
    command = ["git", "-C", str(folder), *options, *map(str, words)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def executed(tree: Path) -> set[Path]:
    """Executed notebooks of a tree, by path."""
    return set((tree / "_build" / "executed").rglob("*.ipynb"))
