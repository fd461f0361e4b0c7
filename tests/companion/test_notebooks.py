"""Plain notebooks: nothing of MyST is left, they install their release, and parameters are documented."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
from companion import chapters, myst, notebooks, offered, parameters
from trees import ROOT

MYST_LEFT = re.compile(r"\{(term|cite(:\w+)?|doc|numref|eq|ref|prf:ref)\}`|^[`:]{3,}\{", re.MULTILINE)


@pytest.fixture
def known_repository(monkeypatch):
    monkeypatch.setenv("REPOSITORY", "https://github.com/owner/book.git")


@pytest.mark.parametrize("chapter", chapters.names())
def test_nothing_of_myst_is_left(chapter):
    notebook = notebooks.clean_notebook(chapter)
    nbformat.validate(notebook)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert not MYST_LEFT.search(text), MYST_LEFT.search(text)
    ids = [cell.id for cell in notebook.cells]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("chapter", chapters.names())
def test_code_is_that_of_the_book_and_figures_keep_their_captions(chapter):
    notebook = notebooks.clean_notebook(chapter)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert code[1:] == [cell.source for cell in chapters.code_cells(chapter)]
    n_figures = sum("caption" in myst.figure_of(cell) for cell in chapters.code_cells(chapter))
    assert sum(bool(re.match(r"\*\*Figure \d+\.\*\*", cell.source)) for cell in notebook.cells) == n_figures


@pytest.mark.parametrize("chapter", chapters.names())
def test_saving_in_jupyterlab_changes_nothing(chapter):
    text = chapters.source_path(chapter).read_text(encoding="utf-8")
    opened = nbformat.reads(nbformat.writes(jupytext.reads(text, "md")), as_version=4)
    opened.metadata.kernelspec = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    opened.metadata.language_info = {"name": "python", "pygments_lexer": "ipython3", "version": "3.12.1"}
    for cell in opened.cells:
        cell.metadata.update({"jupyter": {"outputs_hidden": False}, "collapsed": True} if "outputs" in cell else {})
    assert jupytext.writes(opened, "md:myst").splitlines() == text.splitlines()


PIP = """import json, os, sys
at = sys.argv.index("--constraint") + 1
asked = {"lock": open(sys.argv[at], encoding="utf-8").read(), "last": sys.argv[-1]}
open("asked.json", "w").write(json.dumps(asked))
if "FAILS" in os.environ:
    sys.exit("looking\\nERROR: no such archive")
"""
PYTHONS = [
    name
    for name in (f"python3.{minor}" for minor in range(11, 20))
    if shutil.which(name) and not subprocess.run([name, "-c", ""], capture_output=True).returncode
]


@pytest.fixture(params=PYTHONS or [sys.executable])
def bare(request, tmp_path, known_repository):
    """Runs the first cell of the chapter mnist in an environment that holds nothing but what a test puts there."""
    subprocess.run([request.param, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip())
    lock = f"{chapters.repository()}/raw/{notebooks.commit()}/constraints.txt"
    source = notebooks.install_cell("mnist").source
    assert lock in source
    (tmp_path / "cell.py").write_text(source.replace(lock, (ROOT / "constraints.txt").as_uri()))

    def run(torch="", narrowlib="", others=(), **own):
        for name, text in {"pip/__main__": PIP, "narrowlib/__init__": narrowlib, **dict.fromkeys(others, "")}.items():
            path = packages / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        if torch:
            (packages / f"torch-{torch}.dist-info").mkdir()
            (packages / f"torch-{torch}.dist-info" / "METADATA").write_text(f"Name: torch\nVersion: {torch}\n")
        own = {"PATH": os.environ["PATH"], **own}
        done = subprocess.run([python, "cell.py"], cwd=tmp_path, env=own, capture_output=True, text=True)
        asked = tmp_path / "asked.json"
        return json.loads(asked.read_text()) if asked.is_file() else None, done

    return run


THIS = f'__version__ = "{notebooks.version()}"'


@pytest.mark.parametrize(
    ("torch", "locked"),
    [("", "2.13.0"), ("2.6.0", "2.13.0"), ("2.11.0", "2.11.0"), ("2.12.1+cu130", "2.12.1+cu130"), ("3.0", "3.0")],
)
def test_first_cell_installs_the_notebooks_commit_with_the_lock_and_leaves_a_torch_that_is_new_enough(
    bare, torch, locked
):
    asked, done = bare(torch)
    assert done.returncode == 0, done.stderr
    assert asked["last"] == f"narrowlib[mnist] @ https://github.com/owner/book/archive/{notebooks.commit()}.tar.gz"
    pins = dict(line.split("==") for line in asked["lock"].splitlines() if line and line[0] != "#")
    assert pins["torch"] == locked and ("torchvision" in pins) == (locked == "2.13.0") and "numpy" in pins


@pytest.mark.parametrize(
    ("narrowlib", "others", "missing"),
    [(THIS, ["torchvision"], False), (THIS, [], True), ('__version__ = "0.0.1"', ["torchvision"], True)],
)
def test_first_cell_installs_where_the_version_or_a_package_of_the_chapter_is_missing(bare, narrowlib, others, missing):
    asked, done = bare("2.13.0", narrowlib, others)
    assert done.returncode == 0 and (asked is not None) == missing, done.stderr


def test_an_installation_that_fails_stops_in_a_sentence(bare):
    _, done = bare(FAILS="1")
    assert done.returncode == 1
    assert done.stderr == f"narrowlib {notebooks.version()} could not be installed: ERROR: no such archive\n"


def test_without_a_repository_the_first_cell_says_what_to_do(monkeypatch):
    monkeypatch.setattr(chapters, "repository", lambda: "")
    exec(notebooks.install_cell("mnist").source, {})  # all is here
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SystemExit, match=r"get the folder of the book .* constraints.txt -e '\.\[mnist\]'"):
        exec(notebooks.install_cell("mnist").source, {})


def test_branch_holds_every_chapter_and_what_binder_installs(known_repository):
    files = notebooks.branch_files({})
    assert {f"book/{chapter}.ipynb" for chapter in chapters.names()} < set(files)
    assert "uv" in files["binder/requirements.txt"].splitlines()
    *options, requirement = shlex.split(files["binder/postBuild"].splitlines()[-1])
    assert options[-1].endswith("/constraints.txt") and options[options.index("--torch-backend") + 1] == "cpu"
    assert requirement.startswith("narrowlib[llm,mnist,recipe] @ https://github.com/owner/book/archive/")


def test_other_values_replace_defaults_and_nothing_else():
    source = 'n: int = 10  # how many\nwhere: str = "auto"  # on what'
    changed = notebooks.with_values(source, {"n": 3, "where": "cpu"})
    values = {}
    exec(changed, values)
    assert (values["n"], values["where"]) == (3, "cpu") and "# how many" in changed
    assert notebooks.with_values(source, {}) == source


def test_executed_notebook_keeps_one_form_of_a_picture():
    picture = {"image/png": "cG5n", "image/svg+xml": "<svg/>", "text/plain": "Axes", "application/x-own": "own"}
    kept = notebooks._shown(nbformat.v4.new_output("display_data", data=picture))
    assert set(kept.data) == {"image/png", "text/plain"}
    assert notebooks._shown(nbformat.v4.new_output("display_data", data={"application/x-own": "own"})) is None


@pytest.mark.parametrize("chapter", [name for name in chapters.names() if parameters.quick(name)])
def test_table_documents_every_parameter(chapter):
    rows = offered.parameter_table(chapter).splitlines()
    for one in parameters.model(chapter).parameters_table():
        (row,) = [row for row in rows if row.startswith(f"| `{one.name}` |")]
        assert (
            f"| {one.type} |" in row and one.meaning.replace("|", "\\|") in row and one.legal.replace("|", "\\|") in row
        )
        assert row.endswith(f"`{parameters.quick(chapter)[one.name]!r}` | `{one.default!r}` |")


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("a {term}`units <unit>` b {term}`CMSP`", "a units b CMSP"),
        ("see {doc}`hierarchy`", f"see [{myst.title('hierarchy')}](hierarchy.ipynb)"),
        ("see {doc}`appendix/glossary`", "see *Glossary*"),
        ("by {eq}`eq-cmsp`", "by (1)"),
        ("in {numref}`fig-cmsp-samples`", "in Figure 1"),
        ("in {numref}`fig-hierarchy-order`", f"in Figure 1 of *{myst.title('hierarchy')}*"),
        ("{cite:t}`michaud2025narrow` say", "Michaud et al. (2025) say"),
        ("(label)=\n## Heading", "## Heading"),
    ],
)
def test_roles(text, plain):
    assert re.sub(r"\[(Michaud[^]]*)\]\([^)]*\)", r"\1", myst.plain_text(text, "methods")) == plain


def test_hints_are_folded():
    text = "```{admonition} First hint\n:class: dropdown hint\nSee {doc}`mnist`.\n```"
    folded = "<details>\n<summary>First hint</summary>\n\nSee [" + myst.title("mnist") + "](mnist.ipynb).\n\n</details>"
    assert myst.plain_all(text, "methods") == folded


def test_nested_fences():
    (piece,) = myst.pieces("````{solution} a\n:class: dropdown\n\n```python\nx = 1\n```\nwords\n````")
    assert (piece.name, piece.argument, piece.options) == ("solution", "a", {"class": "dropdown"})
    code, prose = myst.pieces(piece.body)
    assert (code.language, code.code, prose.text) == ("python", "x = 1", "words")
