"""Plain notebooks: nothing of MyST is left, they install their release, and parameters are documented."""

import re

import jupytext
import nbformat
import pytest
from companion import chapters, myst, notebooks, offered, parameters

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


def test_first_cell_installs_the_pinned_release_only_where_it_is_missing(known_repository, monkeypatch):
    source = notebooks.install_cell("hierarchy").source
    version = notebooks.version()
    wanted = f"narrowlib @ https://github.com/owner/book/archive/refs/tags/v{version}.tar.gz"
    assert f'%pip install --quiet "{wanted}"' in source
    ran = []
    plain = source.replace("%pip install", "ran.append").replace('--quiet "', '("').replace('gz"', 'gz")')
    exec(plain, {"ran": ran})
    assert ran == []  # it is installed here
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    exec(plain, {"ran": ran})
    assert ran == [wanted]


def test_without_a_repository_the_first_cell_says_what_to_do(monkeypatch):
    monkeypatch.setattr(chapters, "repository", lambda: "")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SystemExit, match=r"install narrowlib .* first"):
        exec(notebooks.install_cell("hierarchy").source, {})


def test_branch_holds_every_chapter_and_what_binder_installs(known_repository):
    files = notebooks.branch_files({})
    assert {f"book/{chapter}.ipynb" for chapter in chapters.names()} < set(files)
    assert files["binder/requirements.txt"].startswith("narrowlib[")


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
