"""What is executed again, and what is not, in a project of three tiny chapters."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from trees import CHAPTERS, environment_of, executed, make_book, make_tiny_project


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A built tree; tests take a copy of it."""
    tree = tmp_path_factory.mktemp("workflow") / "built"
    make_tiny_project(tree)
    result = make_book(tree)
    assert result.returncode == 0, result.stderr
    return tree


@pytest.fixture
def tree(built, tmp_path):
    copy = tmp_path / "tree"
    shutil.copytree(built, copy, symlinks=True)
    return copy


def rebuilt(tree, profile="quick"):
    """Chapters that a build executes."""
    before = executed(tree)
    result = make_book(tree, profile)
    assert result.returncode == 0, result.stderr
    return {path.parent.name for path in executed(tree) - before}


def edit(path: Path, old: str, new: str):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def page(tree, name):
    return (tree / "_build" / "html" / "book" / f"{name}.html").read_text()


def test_first_build_executes_every_chapter_with_code(built):
    assert {path.parent.name for path in executed(built)} == set(CHAPTERS)
    for name, value in (("first", 8), ("second", 5), ("third", 4)):
        assert f"value {value}" in page(built, name)
    assert "url=book/welcome.html" in (built / "_build" / "html" / "index.html").read_text()


def test_unchanged_build_does_nothing(tree):
    index = tree / "_build" / "html" / "index.html"
    before = index.stat().st_mtime_ns
    assert rebuilt(tree) == set()
    assert index.stat().st_mtime_ns == before


def test_touched_files_are_not_changed_files(tree):
    for path in [*(tree / "book").glob("*.md"), *(tree / "narrowlib").glob("*.py"), tree / "constraints.txt"]:
        path.touch()
    assert rebuilt(tree) == set()


def test_edited_sentence_is_rendered_without_executing_a_cell(tree):
    edit(tree / "book" / "first.md", "A sentence.", "Another sentence.")
    assert rebuilt(tree) == set()
    assert "Another sentence." in page(tree, "first") and "value 8" in page(tree, "first")
    assert "A sentence." in page(tree, "second")


def test_edited_code_executes_its_chapter(tree):
    edit(tree / "book" / "third.md", "print('value', n)", "print('value', 10 * n)")
    assert rebuilt(tree) == {"third"}
    assert "value 40" in page(tree, "third")


@pytest.mark.parametrize(
    ("module", "old", "new", "stale"),
    [
        ("upper", "(ONE + ONE)", "(ONE + ONE + ONE)", {"first"}),
        ("lower", "ONE = 1", "ONE = 2", {"first", "second"}),  # first imports it through upper
        ("__init__", "", "# a comment\n", {"first", "second"}),
    ],
)
def test_edited_module_executes_exactly_its_dependents(tree, module, old, new, stale):
    edit(tree / "narrowlib" / f"{module}.py", old, new)
    assert rebuilt(tree) == stale
    if module == "lower":
        assert "value 16" in page(tree, "first") and "value 6" in page(tree, "second")


def test_changed_lock_file_executes_everything(tree):
    edit(tree / "constraints.txt", "2.13.0", "2.14.0")
    assert rebuilt(tree) == set(CHAPTERS)


def test_profile_executes_what_it_changes_and_back_is_free(tree):
    assert rebuilt(tree, "paper") == {"second"}
    assert "value 6" in page(tree, "second")
    assert rebuilt(tree, "quick") == set()
    assert "value 5" in page(tree, "second")


def test_new_claim_executes_its_chapter(tree):
    (tree / "book" / "claims.yaml").write_text("X1: {chapter: third, statement: so}\n")
    assert rebuilt(tree) == {"third"}


def test_new_record_executes_its_chapter(tree):
    folder = tree / "results" / "paper" / "second"
    folder.mkdir(parents=True)
    (folder / "curves.json").write_text("{}")
    assert rebuilt(tree) == {"second"}


def test_failing_cell_fails_the_build(tree):
    edit(tree / "book" / "third.md", "print('value', n)", "print('before')\nraise RuntimeError('no such thing')")
    edit(tree / "book" / "first.md", "A sentence.", "Another sentence.")
    old_page = page(tree, "third")
    result = make_book(tree)
    assert result.returncode != 0
    assert "chapter third, cell 3 of 3: RuntimeError: no such thing" in result.stdout + result.stderr
    partial = json.loads((tree / "_build" / "failed" / "third.ipynb").read_text())
    assert any("before" in str(cell.get("outputs")) for cell in partial["cells"])
    assert page(tree, "third") == old_page  # the last good site stays
    edit(tree / "book" / "third.md", "raise RuntimeError('no such thing')", "print('value', 7)")
    assert rebuilt(tree) == {"third"}
    assert "value 7" in page(tree, "third")


def test_warning_fails_the_build_every_time(tree):
    edit(tree / "book" / "first.md", "A sentence.", "See {ref}`nowhere`.")
    for _ in range(2):  # the second build must not pass because the page was read by the first
        result = make_book(tree)
        assert result.returncode != 0 and "nowhere" in result.stdout + result.stderr


def test_link_that_leads_nowhere_fails_the_build_every_time(tree):
    edit(tree / "book" / "first.md", "A sentence.", "A sentence. <a href='lost.html'>lost</a>")
    for _ in range(2):
        result = make_book(tree)
        assert result.returncode != 0 and "a link leads nowhere: book/first.html: lost.html" in result.stderr


def test_dead_kernel_is_named(tree):
    edit(tree / "book" / "third.md", "print('value', n)", "import os; os._exit(9)")
    result = make_book(tree)
    assert result.returncode == 1
    assert "chapter third, cell 3 of 3: its kernel died" in result.stderr


def test_syntax_error_is_named(tree):
    edit(tree / "book" / "third.md", "print('value', n)", "print('value' n)")
    result = make_book(tree)
    assert result.returncode == 1 and "chapter third, cell 3 of 3: SyntaxError" in result.stderr


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("narrowlib/lower.py", "ONE = = 1", "the book cannot be planned: "),
        ("book/claims.yaml", "H1: [", "the book cannot be planned: "),
    ],
)
def test_unreadable_source_is_one_message(tree, file, content, says):
    (tree / file).write_text(content)
    result = make_book(tree)
    assert result.returncode == 1 and result.stderr.startswith(says) and "Traceback" not in result.stderr


def test_unknown_profile_is_one_sentence(tree):
    result = make_book(tree, "huge")
    assert result.returncode == 2 and result.stderr == "PROFILE is 'huge'; it must be one of quick, paper\n"


@pytest.mark.parametrize("content", [b"{}", b"", b'{"cells": ['])
def test_damaged_result_is_made_again(tree, content):
    (path,) = (tree / "_build" / "executed" / "second").glob("*.ipynb")
    path.write_bytes(content)
    result = make_book(tree)
    assert result.returncode == 0 and "is damaged; its chapter is executed again" in result.stderr
    assert "value 5" in path.read_text()


def test_lost_result_is_made_again(tree):
    (path,) = (tree / "_build" / "executed" / "second").glob("*.ipynb")
    path.unlink()
    assert rebuilt(tree) == {"second"}


@pytest.mark.parametrize("lost", ["book/first.html", "_static", "index.html", "provenance.json"])
def test_lost_part_of_the_site_is_made_again(tree, lost):
    path = tree / "_build" / "html" / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert rebuilt(tree) == set()
    assert path.exists()


def test_many_runs_do_not_push_out_the_books_own(tree):
    for n in range(10):
        run(tree, "third", f"n={n}").check_returncode()
    assert rebuilt(tree) == set()
    assert len(list((tree / "_build" / "executed" / "third").glob("*.ipynb"))) <= 9


def run(tree, chapter, parameters):
    command = [sys.executable, "-m", "companion.execute", chapter, "--set", parameters]
    return subprocess.run(command, cwd=tree, env=environment_of(tree), capture_output=True, text=True)


def test_two_runs_of_a_chapter_at_once(tree):
    edit(tree / "book" / "third.md", "print('value', n)", "import time; time.sleep(3); print('value', n)")
    command = [sys.executable, "-m", "companion.execute", "third", "--set"]
    runs = [
        subprocess.Popen([*command, f"n={n}"], cwd=tree, env=environment_of(tree), stdout=subprocess.PIPE, text=True)
        for n in (5, 6)
    ]
    for n, process in zip((5, 6), runs, strict=True):
        path = process.communicate()[0].strip()
        assert process.returncode == 0 and f"value {n}" in (tree / path).read_text()


def test_second_build_waits_for_the_first(tree):
    edit(tree / "book" / "third.md", "print('value', n)", "import time; time.sleep(4); print('value', 77)")
    command = [sys.executable, "-m", "companion.build"]
    builds = [
        subprocess.Popen(
            command, cwd=tree, env=environment_of(tree), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in "ab"
    ]
    errors = [build.communicate()[1] for build in builds]
    assert [build.returncode for build in builds] == [0, 0]
    assert sum("another build runs in this tree; waiting for it" in error for error in errors) == 1
    assert sum("[third]" in error for error in errors) == 1  # executed once


def test_killed_build_does_not_stand_in_the_way(tree):
    edit(tree / "book" / "third.md", "print('value', n)", "import time; time.sleep(5); print('value', 78)")
    command = [sys.executable, "-m", "companion.build"]
    build = subprocess.Popen(
        command, cwd=tree, env=environment_of(tree), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while "[third] cell 3" not in build.stderr.readline():
        pass
    os.killpg(build.pid, signal.SIGKILL)
    build.wait()
    assert rebuilt(tree) == {"third"}
    assert "value 78" in page(tree, "third")


def test_build_waits_for_what_a_killed_one_started(tree):
    edit(tree / "book" / "third.md", "print('value', n)", "import time; time.sleep(6); print('value', 79)")
    command = [sys.executable, "-m", "companion.build"]
    build = subprocess.Popen(command, cwd=tree, env=environment_of(tree), stderr=subprocess.PIPE, text=True)
    while "[third] cell 3" not in build.stderr.readline():
        pass
    build.kill()  # and not what it started
    build.wait()
    result = make_book(tree)
    assert result.returncode == 0 and "another build runs in this tree; waiting for it" in result.stderr
    assert "[third]" not in result.stderr  # executed by what was left, and not again
    assert "value 79" in page(tree, "third")


def test_site_of_which_a_half_was_rendered_is_rendered_anew(tree):
    edit(tree / "book" / "first.md", "A sentence.", "Another sentence.")
    (tree / "_build" / "rendering").touch()  # as a build leaves it that is killed while it renders
    half = tree / "_build" / "html" / "book" / "second.html"
    half.write_text(half.read_text()[:500])  # newer than its source, so that it looks rendered
    assert rebuilt(tree) == set()
    assert "Another sentence." in page(tree, "first") and "value 5" in page(tree, "second")
    assert not (tree / "_build" / "rendering").exists()


def test_build_that_cannot_write_is_one_sentence(tree):
    (tree / "_build").rename(tree / "elsewhere")
    (tree / "_build").write_text("a file in its place")
    result = make_book(tree)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert result.stderr.startswith("'") and "_build': File exists; nothing that was finished is lost" in result.stderr


def test_removed_page_leaves_the_stage(tree):
    (tree / "_toc.yml").write_text((tree / "_toc.yml").read_text().replace("  - file: book/third\n", ""))
    assert rebuilt(tree) == set()
    assert not list((tree / "_build" / "stage").rglob("third*"))


def test_nothing_of_the_machine_stands_in_an_executed_notebook(built):
    for path in executed(built):
        assert str(built) not in path.read_text()
