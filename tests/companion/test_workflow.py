"""What is executed again, and what is not: keys of a project of three tiny chapters, and a few real builds of it."""

import json
import os
import py_compile
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from itertools import pairwise
from unittest.mock import MagicMock

import psutil
import pytest
from companion import build, chapters, execute, plainly, serve, site, surroundings
from faults import full_disk, read_only
from trees import CHAPTERS, environment_of, executed, make_book, make_tiny_project

KEYS = """
import json, sys
from pathlib import Path
from companion import chapters, parameters

def keys():
    for function in (*vars(chapters).values(), *vars(parameters).values()):
        getattr(function, "cache_clear", int)()
    return {name: chapters.key(name, parameters.of_profile(name, "quick")) for name in chapters.names()}

found = [keys(), {name: chapters.key(name, parameters.of_profile(name, "paper")) for name in chapters.names()}]
for file, old, new in json.loads(sys.argv[1]):
    text = Path(file).read_text() if old else ""
    assert old in text
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(text.replace(old, new, 1) if old else new)
    found.append(keys())
print(json.dumps(found))
"""
PLAN = "from companion import plan; plan.make_plan('quick')"
COMMAND = [sys.executable, "-m", "companion"]
ODD = "it's {a} $b \u00fc"  # of the folders that are built in


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A built tree; tests take a copy of it."""
    tree = tmp_path_factory.mktemp("workflow") / f"built {ODD}"
    make_tiny_project(tree)
    result = make_book(tree)
    assert result.returncode == 0, result.stderr
    return tree


@pytest.fixture
def tree(built, tmp_path):
    return shutil.copytree(built, tmp_path / f"tree {ODD}", symlinks=True)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def page(tree, name):
    return (tree / "_build" / "html" / "book" / f"{name}.html").read_text()


def run(tree, *words, **own):
    environment = {**environment_of(tree), **own}
    return subprocess.run([*COMMAND, *words], cwd=tree, env=environment, capture_output=True, text=True)


def started(tree, *words):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*COMMAND, *words], cwd=tree, env=environment_of(tree), start_new_session=True, **pipes)


def python(tree, *words):
    return subprocess.run(
        [sys.executable, "-c", *words], cwd=tree, env=environment_of(tree), capture_output=True, text=True
    )


CLAIM = """X1:
  {chapter: third, where: there, statement: so, decided_by: [], quantities: {q: {what: it, paper: 1, tolerance: 1,
   holds: "> 0"}}}
"""
EDITS = [
    ("book/first.md", "A sentence.", "Another sentence.", set()),
    ("book/welcome.md", "A page", "Another page", set()),
    ("book/third.md", "print('value', n)", "print('value', 10 * n)", {"third"}),
    ("narrowlib/upper.py", "(ONE + ONE)", "(ONE + ONE + ONE)", {"first"}),
    ("narrowlib/lower.py", "ONE = 1", "ONE = 2", {"first", "second"}),  # first imports it through upper
    ("narrowlib/__init__.py", "__version__", "# a comment\n__version__", {"first", "second"}),
    ("narrowlib/claims.py", "\n", "\n\n", set()),  # of which no chapter here knows
    ("constraints.txt", "2.13.0", "2.14.0", set(CHAPTERS)),
    ("book/claims.yaml", "", CLAIM, {"third"}),
    ("book/third.md", "10 * n", "10 * n)  # (data/numbers.csv", {"third"}),
    ("book/data/numbers.csv", "", "1", {"third"}),
    ("book/data/numbers.csv", "1", "2", {"third"}),
    ("book/data/picture.png", "", "in a folder that the cells name", {"third"}),
    ("book/dat/picture.png", "", "in no such folder", set()),
    ("book/deep/er/numbers.parquet", "", "whose stem they name", {"third"}),
    ("book/picture.png", "", "of no chapter", set()),
    ("book/data/.DS_Store", "", "hidden", set()),
    ("book/data/Thumbs.db", "", "of Windows", set()),
    ("book/data/numbers.csv~", "", "a backup", set()),
    ("book/data/numbers.csv.swp", "", "of vim", set()),
    ("book/data/.ipynb_checkpoints/numbers.csv", "", "hidden", set()),
    ("narrowlib/lower.py", "ONE = 2", 'ONE = 2  # "beside.yaml", "far.npz"', {"first", "second"}),
    ("narrowlib/beside.yaml", "", "a: 1", {"first", "second"}),
    ("book/deep/far.npz", "", "1", {"first", "second"}),
    ("narrowlib/other.yaml", "", "a: 1", set()),
    ("results/paper/second/curves.json", "", "{}", {"second"}),
    ("results/paper/second/.DS_Store", "", "hidden", set()),
    ("results/paper/second/.ipynb_checkpoints/curves.json", "", "hidden", set()),
    ("results/paper/second/curves.json~", "", "a backup", set()),
    ("results/paper/second/Thumbs.db", "", "of Windows", set()),
    ("results/paper/second/.nfs0001.x", "", "removed while it was open", set()),
    ("narrowlib/.ipynb_checkpoints/upper-checkpoint.py", "", "ONE = = 1", set()),
    ("narrowlib/upper.py~", "", "ONE = = 1", set()),
    ("book/.ipynb_checkpoints/first-checkpoint.md", "", "# hidden", set()),
]


def test_a_key_changes_with_all_that_a_chapter_depends_on_and_nothing_else(tmp_path):
    make_tiny_project(tmp_path)
    done = python(tmp_path, KEYS, json.dumps([edit[:3] for edit in EDITS]))
    assert done.returncode == 0, done.stderr
    before, paper, *after = json.loads(done.stdout)
    assert {name for name in CHAPTERS if before[name] != paper[name]} == {"second"}  # the profile's
    for (file, _, _, stale), found in zip(EDITS, after, strict=True):
        assert {name for name in CHAPTERS if found[name] != before[name]} == stale, file
        before = found


def test_first_build_executes_every_chapter_and_the_second_does_nothing(tree):
    assert {path.parent.name for path in executed(tree)} == set(CHAPTERS)
    for name, value in (("first", 8), ("second", 5), ("third", 4)):
        assert f"value {value}" in page(tree, name)
    assert not any(str(tree.parent) in path.read_text() for path in executed(tree))
    files = {path: path.stat().st_mtime_ns for path in (tree / "_build" / "html").rglob("*") if path.is_file()}
    for path in [*(tree / "book").glob("*.md"), *(tree / "narrowlib").glob("*.py"), tree / "constraints.txt"]:
        path.touch()
    assert make_book(tree).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_sentences_are_rendered_whatever_the_clock_says_and_removed_pages_are_gone(tree):
    ahead = time.time() + 1e6
    for path in (tree / "_build").rglob("*"):
        os.utime(path, (ahead, ahead))
    edit(tree / "book" / "first.md", "A sentence.", "Another sentence.")
    edit(tree / "_toc.yml", "  - file: book/third\n", "")
    before = executed(tree)
    (tree / "_build" / "html" / "book" / "second.html").unlink()  # lost, and made again
    result = make_book(tree)
    assert result.returncode == 0 and executed(tree) == before, result.stderr
    assert "Another sentence." in page(tree, "first") and "value 8" in page(tree, "first")
    assert "A sentence." in page(tree, "second")
    assert not list((tree / "_build" / "stage").rglob("third*")) and not list(
        (tree / "_build/html").rglob("third.html")
    )


def test_failures_are_named_and_the_last_good_site_stays(tree):
    edit(tree / "book" / "third.md", "print('value', n)", "print('before')\nraise RuntimeError('no such thing')")
    old_page = page(tree, "third")
    result = make_book(tree)
    assert result.returncode == 1 and "the book was not built" in result.stderr
    assert "chapter third, cell 3 of 3: RuntimeError: no such thing" in result.stderr
    partial = json.loads((tree / "_build" / "failed" / "third.ipynb").read_text())
    assert any("before" in str(cell.get("outputs")) for cell in partial["cells"])
    assert page(tree, "third") == old_page
    for code, says in (("import os; os._exit(9)", "Kernel died; was there"), ("print('value' n)", "SyntaxError")):
        edit(tree / "book" / "third.md", "raise RuntimeError('no such thing')", code)
        result = run(tree, "run", "third")
        assert result.returncode == 1 and f"chapter third, cell 3 of 3: {says}" in result.stderr
        edit(tree / "book" / "third.md", code, "raise RuntimeError('no such thing')")


@pytest.mark.parametrize("says", ["Kernel died before replying to kernel_info", "Kernel didn't respond in 120 seconds"])
def test_a_kernel_that_does_not_start_is_told_as_one_that_dies(says, tmp_path, monkeypatch):
    def fail(source, done, **_):
        shutil.copy(source, done)
        raise RuntimeError(says)

    monkeypatch.setattr("papermill.execute_notebook", fail)
    monkeypatch.setattr(execute.surroundings, "leave_personal_settings", lambda folder: None)
    monkeypatch.setattr(execute, "compile_by_content", lambda chapter: None)
    monkeypatch.setattr(chapters, "BUILD", tmp_path / "_build")
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(
        plainly.Refusal, match=f"chapter methods, before its first cell: {says}; was there enough memory"
    ):
        execute.execute("methods", {}, tmp_path / "methods.ipynb", 1)
    assert (tmp_path / "_build" / "failed" / "methods.ipynb").is_file() and not (tmp_path / "methods.ipynb").exists()


def test_a_site_with_a_fault_is_never_finished(tree):
    lost = "A sentence. <a href='lost.html'>lost</a>", "a link has no target: book/first.html: lost.html"
    before = "A sentence."
    for text, says in [("See {ref}`nowhere`.", "nowhere")] * 2 + [lost]:
        edit(tree / "book" / "first.md", before, text)
        python(tree, PLAN)
        result = run(tree, "site")  # the second time must not pass because the page was read by the first
        assert result.returncode == 1 and says in result.stdout + result.stderr
        before = text


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("narrowlib/lower.py", "ONE = = 1", "the book cannot be planned: "),
        ("book/claims.yaml", "H1: [", "'book/claims.yaml' cannot be read: "),
        ("workflow/Snakefile", "rule site:\n    output: 1 +", "SyntaxError"),
        ("_build", "a file in its place", "_build"),
    ],
)
def test_what_cannot_be_built_is_said(tmp_path, file, content, says):
    make_tiny_project(tmp_path)
    (tmp_path / file).write_text(content)
    result = make_book(tmp_path)
    assert result.returncode in (1, 2) and says in result.stderr and "Traceback" not in result.stderr


def test_damaged_results_count_as_lost(tree):
    for chapter, content in zip(CHAPTERS, (b"{}", b"", b'{"cells": ['), strict=True):
        (path,) = (tree / "_build" / "executed" / chapter).glob("*.ipynb")
        path.write_bytes(content)
    said = python(tree, PLAN).stderr
    assert said.count("is damaged; its chapter will be executed again") == 3 and not executed(tree)


def test_many_runs_do_not_push_out_the_books_own(tree):
    (own,) = executed(tree) & set((tree / "_build" / "executed" / "third").glob("*"))
    for n in range(10):
        shutil.copy(own, own.with_name(f"{n:016x}.ipynb"))
    os.utime(own, (0, 0))
    assert run(tree, "run", "third", "--set", "n=5").returncode == 0
    assert own.exists() and len(list(own.parent.glob("*.ipynb"))) <= 9


def test_builds_wait_for_each_other_and_for_what_a_killed_one_started(tree):
    edit(tree / "book" / "third.md", "print('value', n)", "import time; time.sleep(6); print('value', 79)")
    first = started(tree, "book")
    while "[third] cell 3" not in first.stderr.readline():
        pass
    second = started(tree, "book")
    assert "another build runs in this tree; waiting for it" in second.stderr.readline()
    os.kill(first.pid, signal.SIGKILL)  # and not what it started
    said = second.communicate()[1]
    assert second.returncode == 0 and "[third]" not in said  # executed by what was left, and not again
    assert "value 79" in page(tree, "third")


def test_what_a_killed_build_had_begun_and_was_finished_without_it_is_not_executed_again(tree):
    before = executed(tree)
    edit(tree / "book" / "third.md", "print('value', n)", "import time; time.sleep(4); print('value', 80)")
    first = started(tree, "book")
    while "[third] cell 3" not in first.stderr.readline():
        pass
    (snakemake,) = (
        child for child in psutil.Process(first.pid).children(recursive=True) if "snakemake" in child.cmdline()
    )
    for killed in (snakemake.pid, first.pid):  # so that nobody notes the end of the chapter
        os.kill(killed, signal.SIGKILL)
    while executed(tree) == before:
        time.sleep(0.1)
    second = make_book(tree)
    assert second.returncode == 0 and "[third]" not in second.stderr
    assert "value 80" in page(tree, "third")


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ({"HOME": "{home}"}, ""),
        ({"MATPLOTLIBRC": "{home}/.config/matplotlib", "IPYTHONDIR": "{home}/.ipython", "MPLBACKEND": "pdf"}, ""),
        (
            {"PYTHONSTARTUP": "{home}/.ipython/profile_default/startup/own.py", "PYTHONPATH": "{tree}/workflow:{home}"},
            "",
        ),
        ({"PYTHONOPTIMIZE": "2", "PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "7", "MKL_NUM_THREADS": "7"}, ""),
        ({"HOME": "/dev/null"}, "HOME is '/dev/null', which cannot be written"),
        ({"XDG_CACHE_HOME": "{home}/own.py/cache", "TMPDIR": "/dev/null/none"}, "XDG_CACHE_HOME is"),
    ],
)
def test_chapters_compute_the_same_whatever_the_user_has_set_and_wherever_home_is(tmp_path, own, says):
    make_tiny_project(tmp_path / "tree")
    code = (
        "import matplotlib, narrowlib, os, sys\n"
        "print(matplotlib.rcParams['text.usetex'], matplotlib.get_backend()[-6:])\n"
        "print(n, __debug__, 'own' in sys.modules, *(os.environ[f'{of}_NUM_THREADS'] for of in ('OMP', 'MKL')))"
    )
    edit(tmp_path / "tree" / "book" / "third.md", "print('value', n)", code)
    home = tmp_path / "home"
    for file, text in (
        (".config/matplotlib/matplotlibrc", "text.usetex: True\n"),
        (".ipython/profile_default/startup/own.py", "n = 99\nprint = 1\n"),
        ("own.py", ""),
        ("matplotlib.py", "raise SystemExit"),
    ):
        (home / file).parent.mkdir(parents=True, exist_ok=True)
        (home / file).write_text(text)
    own = {name: value.format(home=home, tree=tmp_path / "tree") for name, value in own.items()}
    result = run(tmp_path / "tree", "run", "third", **own)
    assert result.returncode == 0 and says in result.stderr, result.stderr
    (notebook,) = executed(tmp_path / "tree")
    outputs = [output for cell in json.loads(notebook.read_text())["cells"] for output in cell.get("outputs", [])]
    assert "".join(outputs[0]["text"]) == "False inline\n4 True False 1 1\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--cores 0", "CORES is '0'; it must be all, or a whole number"),
        ("--cores=-1", "CORES is '-1'"),
        ("--cores 1.5", "CORES is '1.5'"),
        ("--memory 6GB", "MEMORY is '6GB'; it must be a number of gigabytes"),
        ("--memory nan", "MEMORY is 'nan'"),
        ("--memory=-1", "MEMORY is '-1'"),
        ("--memory inf", "MEMORY is 'inf'"),
    ],
)
def test_cores_and_memory_that_are_none_are_named_before_anything_is_planned(words, says, monkeypatch):
    monkeypatch.setattr(build, "planned", lambda profile: pytest.fail("planned"))
    with pytest.raises(plainly.Refusal, match=says):
        build.main(words.split())


def test_folders_on_a_full_disk_are_left_for_those_of_the_build(tmp_path, monkeypatch, capsys):
    names = ("HOME", "XDG_CACHE_HOME", "TMPDIR")
    own = dict.fromkeys(names, str(tmp_path))
    monkeypatch.setattr(os, "environ", own)
    monkeypatch.setattr(surroundings, "BUILD", tmp_path / "_build")
    monkeypatch.setattr("tempfile.tempdir", None)
    surroundings.use_folders()
    assert not capsys.readouterr().err and set(own.values()) == {str(tmp_path)}
    with full_disk(2**19):
        surroundings.use_folders()
    assert own["HOME"] == own["XDG_CACHE_HOME"] != own["TMPDIR"] and str(tmp_path) not in own.values()
    said = capsys.readouterr().err
    assert all(f"{name} is {str(tmp_path)!r}, which cannot be written or is full" in said for name in names)


@pytest.mark.parametrize("folder", ["moved", f"moved {ODD}"])
def test_an_environment_that_was_moved_renders_too(tmp_path, monkeypatch, folder):
    """Scripts beside its Python name the folder that they were installed in."""
    moved = tmp_path / folder / "bin" / "python"
    moved.parent.mkdir(parents=True)
    moved.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    moved.chmod(0o755)
    (moved.parent / "jupyter-book").write_text("#!/where/it/was/bin/python\n")
    (moved.parent / "jupyter-book").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(moved))
    monkeypatch.setattr(site, "LOG", tmp_path / "log")
    assert site.render("--help") == 0 and "Usage: " in (tmp_path / "log").read_text()


@pytest.mark.parametrize("words", [("run", "third"), ("book",)])
def test_a_checkout_that_can_only_be_read_is_named(tmp_path, words):
    make_tiny_project(tmp_path)
    with read_only(tmp_path):
        result = run(tmp_path, *words)
    assert result.returncode == 1 and f"'{tmp_path / '_build'}" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("name", ["SNAKEMAKE_PROFILE", "SNAKEMAKE_OUTPUT_CACHE"])
def test_what_a_user_has_set_for_snakemake_does_not_count(name, monkeypatch):
    monkeypatch.setenv(name, "/no/such/folder")
    given = []
    monkeypatch.setattr(
        build.subprocess, "run", lambda command, **how: given.append(how["env"]) or MagicMock(returncode=0)
    )
    build.run_snakemake("quick", "1", 1_000)
    assert given and name not in given[0] and "PATH" in given[0]


@pytest.mark.parametrize("port", [None, 70_000, -1, "http", "80.5", ""])
def test_a_port_that_cannot_be_had_is_named_before_anything_is_built(port):
    with socket.socket() as other:
        other.bind((serve.HOST, 0))
        other.listen()
        taken = other.getsockname()[1] if port is None else port
        with pytest.raises(plainly.Refusal, match=f"PORT is {taken}, "):
            serve.bound(taken)


def test_chapters_run_side_by_side_only_where_there_is_memory_for_both(tree):
    code = "import time\nbegan = time.time(); time.sleep(1); print('ran', began, time.time())"
    for name in CHAPTERS:
        edit(tree / "book" / f"{name}.md", CHAPTERS[name].splitlines()[-1], code)
    result = run(tree, "book", "--cores", "8", "--memory", "1.5")
    assert result.returncode == 0 and result.stderr.count("it runs alone") == len(CHAPTERS), result.stderr
    ran = sorted(tuple(map(float, page(tree, name).partition("ran ")[2].split()[:2])) for name in CHAPTERS)
    assert all(end < began for (_, end), (began, _) in pairwise(ran))


@pytest.mark.parametrize("words", [("run", "third"), ("book",)])
def test_what_is_told_to_end_ends_with_all_that_it_started(tree, words):
    code = "import os, time\nprint(os.getpid(), file=open('pid', 'w'))\ntime.sleep(99)"
    edit(tree / "book" / "third.md", "print('value', n)", code)
    process = started(tree, *words)
    while process.poll() is None and not ((tree / "pid").exists() and (tree / "pid").read_text()):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 143 and "stopped; the same command continues from what is finished" in said
    assert not psutil.pid_exists(int((tree / "pid").read_text()))


def test_a_module_that_was_edited_is_run_whatever_its_time_stamp_says(tmp_path):
    make_tiny_project(tmp_path)
    module = tmp_path / "narrowlib" / "lower.py"
    py_compile.compile(str(module))  # as importing it does
    times = module.stat()
    edit(module, "ONE = 1", "ONE = 3")
    os.utime(module, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert run(tmp_path, "run", "second").returncode == 0
    (notebook,) = executed(tmp_path)
    assert "value 7" in notebook.read_text()
