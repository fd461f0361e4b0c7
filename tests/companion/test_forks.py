"""Books that others make of this one: what they change is built as they mean it, or refused in one sentence."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import pytest
import yaml
from companion import chapters, course, differences, links, made, notebooks, parameters, scorecard, stage, surroundings
from companion.plainly import Refusal
from test_links import DOC, LABEL, drawn
from trees import SOURCE

TOC = "format: jb-book\nroot: book/welcome\nchapters:\n- file: book/one\n"
CACHED = (chapters.read_notebook, differences.differences)


@pytest.fixture
def fork(tmp_path, monkeypatch):
    """A book of a page and a chapter."""
    monkeypatch.delenv("REPOSITORY", raising=False)
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    monkeypatch.setattr(chapters, "BOOK", tmp_path / "book")
    monkeypatch.setattr(differences, "FILE", tmp_path / "book" / "differences.yaml")
    (tmp_path / "book").mkdir()
    (tmp_path / "_toc.yml").write_text(TOC)
    (tmp_path / "_config.yml").write_text("title: Mine\n")
    (tmp_path / "book" / "welcome.md").write_text("# Welcome\n")
    (tmp_path / "book" / "one.md").write_text(SOURCE.format(name="One", code="print(n)"))
    for function in CACHED:
        function.cache_clear()
    yield tmp_path
    for function in CACHED:
        function.cache_clear()


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("_toc.yml", f"{TOC}root: book/one\n", r"'_toc.yml' cannot be read: it holds 'root' more than once \(line 5\)"),
        ("_toc.yml", f"{TOC}\t- file: book/two\n", r"'_toc.yml' cannot be read: .*\(line 5\)"),
        ("_toc.yml", "", "'_toc.yml' holds nothing; it must hold lines"),
        ("_toc.yml", "- file: book/one\n", "'_toc.yml' holds a list"),
        ("_toc.yml", "chapters: []\n", "_toc.yml is not a table of contents: 'root' key not found"),
        ("_toc.yml", "root: book/welcome\nformat: [1]\n", "_toc.yml is not a table of contents"),
        ("_toc.yml", TOC.replace("- file: ", "- "), "_toc.yml is not a table of contents: entry not a mapping"),
        ("_toc.yml", f"{TOC}- file: book/one\n", "_toc.yml is not a table of contents: .* multiple times: 'book/one'"),
        ("_toc.yml", TOC.replace("book/one", "one"), "_toc.yml names 'one'; it must begin with book/"),
        ("_toc.yml", f"{TOC}- file: book/one.ipynb\n", r"names 'book/one.ipynb'; there is no book/one.ipynb\.md"),
        ("_toc.yml", f"{TOC}- glob: book/*\n", r"_toc.yml holds glob: book/\*; it must name pages one by one"),
        ("_config.yml", "", "'_config.yml' holds nothing"),
        ("_config.yml", "title: a\ntitle: b\n", r"'_config.yml' cannot be read: it holds 'title' .*\(line 2\)"),
        ("_config.yml", "repository: https://github.com/a/b\n", "it must hold url and branch"),
        ("book/claims.yaml", "X1: [\n", r"'book/claims.yaml' cannot be read: .*\(line 2\)"),
        ("book/claims.yaml", "- X1\n", "'book/claims.yaml' holds a list"),
        ("book/claims.yaml", "X1: {chapter: one}\n", "claim 'X1' in book/claims.yaml has no where"),
        ("book/differences.yaml", "what: so\n", "'book/differences.yaml' holds a mapping; it must hold a list"),
        ("book/differences.yaml", "- so\n", "difference 1 in differences.yaml has no chapters; they must be a list"),
        ("book/differences.yaml", "- {chapters: one}\n", "difference 1 in differences.yaml has no chapters"),
    ],
)
def test_a_fault_of_a_file_of_the_book_is_one_sentence(fork, file, content, says):
    (fork / file).write_text(content)
    with pytest.raises(Refusal, match=says) as error:
        chapters.pages(), chapters.repository(), chapters.claims(), differences.differences()
    assert "\n" not in str(error.value) and str(fork) not in str(error.value)


def test_contents_may_lead_to_other_sites_and_keep_what_the_format_allows(fork, monkeypatch):
    monkeypatch.setenv("CHAPTERS", "one")
    part = {"caption": "More", "entries": [{"url": "https://example.org", "title": "Out"}]}
    (fork / "_toc.yml").write_text(yaml.safe_dump({"root": "book/welcome", "subtrees": [part]}))
    with pytest.raises(Refusal, match="CHAPTERS holds 'one'"):
        chapters.pages()
    part["entries"].append({"file": "book/one"})
    (fork / "_toc.yml").write_text(yaml.safe_dump({"root": "book/welcome", "subtrees": [part]}))
    assert chapters.pages() == ["book/welcome", "book/one"] and chapters.contents()["subtrees"] == [part]


@pytest.mark.parametrize("nothing", ["", " []"])
def test_a_part_of_which_a_fork_has_removed_every_line_is_left_out(fork, nothing):
    parts = [f"- caption: Gone\n  chapters:{nothing}\n", "- caption: Kept\n  chapters:\n  - file: book/one\n"]
    parts[1] += f"    sections:{nothing}\n"
    (fork / "_toc.yml").write_text("format: jb-book\nroot: book/welcome\nparts:\n" + "".join(parts))
    assert chapters.contents()["parts"] == [{"caption": "Kept", "chapters": [{"file": "book/one"}]}]
    assert chapters.pages() == ["book/welcome", "book/one"]


@pytest.mark.parametrize(
    "address",
    [
        "https://github.com/Owner/my.book",
        "https://github.com/Owner/my.book/",
        "https://github.com/Owner/my.book.git",
        "https://github.com/Owner/my.book.git/",
        " http://www.GitHub.com/Owner/my.book//",
        "https://me:secret@github.com/Owner/my.book.git",
        "git@github.com:Owner/my.book.git",
        "ssh://git@github.com/Owner/my.book",
        "ssh://git@github.com:22/Owner/my.book.git",
        "git://github.com/Owner/my.book.git",
        "github.com/Owner/my.book",
        "git@example.org:Owner/my.book.git",
    ],
)
def test_every_form_of_an_address_is_the_same(fork, monkeypatch, address):
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://example.org")
    expected = f"https://{'example.org' if 'example' in address else 'github.com'}/Owner/my.book"
    (fork / "_config.yml").write_text(f"repository: {{url: '{address}', branch: trunk}}\n")
    assert chapters.repository() == expected
    monkeypatch.setenv("REPOSITORY", address)
    (fork / "_config.yml").write_text("use: yes\nbook-title: 010\n")
    config = yaml.safe_load(stage.configuration())
    assert config == {"use": True, "book-title": "010", "repository": {"url": expected}}


@pytest.mark.parametrize(
    "address",
    [
        "https://gitlab.com/owner/book",
        "git@gitlab.com:owner/book.git",
        "https://github.com/owner",
        "https://github.com/owner/book/tree/main",
        "../book",
        "owner/book",
        "https://me:secret@codeberg.org/owner/book",
    ],
)
def test_another_address_is_refused_and_no_password_is_told(fork, monkeypatch, address):
    monkeypatch.setenv("REPOSITORY", address)
    with pytest.raises(Refusal, match=r"^REPOSITORY is '[^']+'; it must be on GitHub, such as") as error:
        chapters.repository()
    assert "secret" not in str(error.value)
    monkeypatch.delenv("REPOSITORY")
    (fork / "_config.yml").write_text(f"repository: {{url: '{address}'}}\n")
    with pytest.raises(Refusal, match=r"the url of repository in _config\.yml is"):
        chapters.repository()


def as_saved(fork, encoding, ends="\n"):
    text = (fork / "book" / "one.md").read_text().replace("A sentence.", "Für uns.")
    (fork / "book" / "one.md").write_bytes(text.replace("\n", ends).encode(encoding))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_page_is_the_same_however_it_was_saved(fork, encoding, ends):
    as_saved(fork, encoding, ends)
    notebook = chapters.read_notebook("one")
    assert chapters.names() == ["one"] and notebook.metadata["jupytext"]["text_representation"]["extension"] == ".md"
    assert notebook.cells[0].source == "# One\n\nFür uns."
    assert parameters.quick("one") == {"n": 4} and notebook.cells[-1].source == "print(n)"


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16-le"])
def test_a_page_in_another_encoding_is_named(fork, encoding):
    as_saved(fork, encoding)
    with pytest.raises(Refusal, match=r"'book/one.md' cannot be read: it is not in UTF-8 \(line \d+\)"):
        chapters.names()


@pytest.mark.parametrize("name", ["My.Chapter v2", "deep/er/Übung", "it's mine", "x" * 80])
def test_a_chapter_may_be_called_as_its_author_likes(fork, name, monkeypatch):
    monkeypatch.setattr(notebooks, "version", lambda: "1")
    path = fork / "book" / f"{name}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(SOURCE.format(name=name, code="print(n)"))
    (fork / "_toc.yml").write_text(yaml.safe_dump({"root": "book/welcome", "entries": [{"file": f"book/{name}"}]}))
    assert chapters.names() == [name] and parameters.chosen(name, "quick", "n=5") == {"n": 5}
    for notebook in (
        chapters.read_notebook(name),
        notebooks.clean_notebook(name),
        course.teachers_notebook(name, "quick"),
    ):
        nbformat.validate(notebook)


PYTHON = "{display_name: Python 3, language: python, name: python3}"


@pytest.mark.parametrize(
    ("kernel", "cell", "says"),
    [
        ("{display_name: My, language: python, name: conda-env-my-py}", "ipython3", None),
        ("{display_name: My, name: my}", "python", None),
        ("{display_name: My, name: my}", "", None),
        ("{display_name: R, language: R, name: ir}", "python", "holds code in 'R'"),
        ("{display_name: R, name: ir}", "r", "holds code in 'r'"),
        ("{display_name: Julia 1.9, language: julia, name: julia-1.9}", "julia", "holds code in 'julia'"),
        ("{display_name: [}", "python", "cannot be read as a MyST notebook"),
    ],
)
def test_a_kernel_of_python_is_that_of_the_book_and_another_is_refused(fork, kernel, cell, says):
    text = (
        (fork / "book" / "one.md")
        .read_text()
        .replace(PYTHON, kernel)
        .replace("{code-cell} python", f"{{code-cell}} {cell}")
    )
    (fork / "book" / "one.md").write_text(text)
    if says is None:
        assert chapters.read_notebook("one").metadata["kernelspec"] == chapters.KERNEL
    else:
        with pytest.raises(Refusal, match=rf"^book/one.md {says}"):
            chapters.read_notebook("one")


DROPPED = [
    {"scorecard"},
    {"references", "glossary"},
    {"discussion", "related", "differences", "ja"},
    {"scorecard", "references", "status", "api", "coursework"},
]


@pytest.fixture
def without(tmp_path, monkeypatch):
    """The pages of this book when some are left out, by name, as they are laid out."""

    def without(dropped):
        found = yaml.safe_load((chapters.ROOT / "_toc.yml").read_text())
        left_out = {page for page in chapters.pages() if page.rpartition("/")[2] in dropped}
        monkeypatch.setattr(chapters, "contents", lambda: chapters._without(found, left_out))
        stage.api.pages.cache_clear()
        paths = {name: tmp_path / f"{name.replace('/', '-')}.ipynb" for name in chapters.names()}
        for name, path in paths.items():
            nbformat.write(drawn(name), path)
        executed = {name: str(path) for name, path in paths.items()}
        files = stage.pages(stage.Book({"profile": "quick", "executed": executed}))
        return {
            path.relative_to(stage.STAGE).with_suffix("").as_posix(): "\n".join(links._texts(json.loads(text)))
            if path.suffix == ".ipynb"
            else text
            for path, text in files.items()
            if links._is_page(path)
        }

    yield without
    stage.api.pages.cache_clear()


@pytest.mark.parametrize("dropped", DROPPED, ids=lambda dropped: "-".join(sorted(dropped)))
def test_no_link_leads_to_a_page_that_a_fork_drops(without, dropped):
    texts = without(dropped)
    every = "\n".join(texts.values())
    assert not [page for page in texts if page.rpartition("/")[2] in dropped]
    for name, text in texts.items():
        for target in DOC.findall(text):
            page = target[1:] if target[0] == "/" else f"{name.rpartition('/')[0]}/{target}"
            while re.search(r"[^/]+/\.\./", page):
                page = re.sub(r"[^/]+/\.\./", "", page, count=1)
            assert page in texts, (name, target)
    claims = {label for label in LABEL.findall(every) if label.startswith("claim-")}
    assert bool(claims) == ("scorecard" not in dropped)
    assert ("{cite" in every) == ("references" not in dropped)
    assert ("{term}" in every) == ("glossary" not in dropped)
    if "references" in dropped:
        assert "companion to Michaud et al. (2025)," in texts["book/intro"]


def test_a_book_without_claims_says_so():
    card = scorecard.scorecard({}, "quick", {})
    assert scorecard.sentence(card) == "This book judges no claim of the paper." and scorecard.badge_svg(card)


def test_a_picture_beside_a_page_is_laid_out(fork):
    (fork / "book" / "pictures").mkdir()
    for name in ("drawn.svg", ".hidden.png", "drawn.svg~"):
        (fork / "book" / "pictures" / name).write_text("<svg/>")
    assert [path.name for path in stage.shared() if "pictures" in path.parts] == ["drawn.svg"]


def test_a_kernel_without_the_module_resource_reports_its_memory(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "resource", None)
    memory = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=123))
    monkeypatch.setitem(sys.modules, "psutil", SimpleNamespace(Process=lambda: memory))
    exec(made.REPORT, {})
    assert json.loads(capsys.readouterr().out)["peak_memory_bytes"] == 123


@pytest.mark.parametrize(("sep", "read"), [("\\", r"C:\my\runs"), ("/", "C:myruns")])
def test_a_backslash_is_part_of_a_path_where_paths_have_some(fork, monkeypatch, sep, read):
    text = (fork / "book" / "one.md").read_text().replace("n: int = 4", 'n: str = "4"')
    (fork / "book" / "one.md").write_text(text)
    parameters.cell.cache_clear()
    monkeypatch.setattr(parameters, "os", SimpleNamespace(sep=sep))
    assert parameters.chosen("one", "quick", r"n=C:\my\runs") == {"n": read}
    assert parameters.chosen("one", "quick", "n='a b'") == {"n": "a b"}
    parameters.cell.cache_clear()


def test_on_windows_a_command_waits_for_the_process_that_stands_in_for_it(monkeypatch):
    monkeypatch.setattr(
        surroundings, "sys", SimpleNamespace(platform="win32", executable="py", argv=["c", "run"], exit=sys.exit)
    )
    monkeypatch.setenv("PYTHONOPTIMIZE", "1")
    done = subprocess.CompletedProcess([], 3)
    monkeypatch.setattr(
        surroundings.subprocess, "run", lambda command, env: done if "PYTHONOPTIMIZE" not in env else None
    )
    with pytest.raises(SystemExit) as ended:
        surroundings.start_anew()
    assert ended.value.code == 3
