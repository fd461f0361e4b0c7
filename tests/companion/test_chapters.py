"""Every chapter: executed at smoke scale, built strictly, and the same twice."""

import json
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from bs4 import BeautifulSoup
from companion import chapters, myst
from trees import ROOT, environment_of

MAX_CODE_WIDTH = 85  # columns that a page shows without scrolling
MAX_CELL_LINES = 16
MAX_LIST_LINES = 24  # of a cell with a name per line: imports, parameters
MIN_ALT_TEXT = 30


def normalised(path):
    """An executed notebook without what may differ between equal runs: times, and the cell that reports cost."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("papermill")
    notebook.metadata.pop("narrowlib")  # when, where and from which commit
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if "cost" in cell.metadata.get("tags", []):
            cell.outputs = []
    return nbformat.writes(notebook)


def page_of(tree, chapter):
    return BeautifulSoup((tree / "_build" / "html" / "book" / f"{chapter}.html").read_text(), "html.parser")


def figure_cells(chapter):
    return [cell for cell in chapters.code_cells(chapter) if myst.figure_of(cell)]


@pytest.mark.parametrize("chapter", chapters.names())
def test_every_cell_ran(smoke_book, chapter):
    (path,) = (smoke_book / "_build" / "executed" / chapter).glob("*.ipynb")
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


def test_two_runs_give_the_same_bytes(smoke_book, tmp_path):
    tree = tmp_path / "tree"
    shutil.copytree(smoke_book, tree, ignore=shutil.ignore_patterns("html", "stage"))
    (path,) = (tree / "_build" / "executed" / "hierarchy").glob("*.ipynb")
    before = normalised(path)
    times = nbformat.read(path, as_version=4).metadata["papermill"]["start_time"]
    command = [sys.executable, "-m", "companion", "run", "hierarchy", "--profile", "smoke", "--again"]
    subprocess.run(command, cwd=tree, env=environment_of(tree), check=True, capture_output=True)
    assert nbformat.read(path, as_version=4).metadata["papermill"]["start_time"] != times
    assert normalised(path) == before


@pytest.mark.parametrize("chapter", chapters.names())
def test_pages_show_their_figures(smoke_book, chapter):
    page = page_of(smoke_book, chapter)
    figures = page.select("figure:has(img)")
    assert len(figures) == len(figure_cells(chapter)) and (figures or chapter.startswith("appendix/"))
    for figure in figures:
        image = figure.find("img")
        assert len(image["alt"]) >= MIN_ALT_TEXT and figure.find("figcaption").get_text(strip=True)
        file = smoke_book / "_build" / "html" / "book" / image["src"]
        assert file.suffix in (".svg", ".jpg") and file.stat().st_size > 1000
    assert "Traceback" not in page.get_text()


def test_hierarchy_shows_its_numbers_beside_the_papers(smoke_book):
    text = page_of(smoke_book, "hierarchy").get_text(" ")
    for words in ("H1 on this page", "H2 on this page", "H3 by the record", "27 of 40", "0 of 40", "16 of 40"):
        assert words in text


def test_site_asks_no_other_host(smoke_book):
    for file in (smoke_book / "_build" / "html").glob("**/*.html"):
        page = BeautifulSoup(file.read_text(), "html.parser")
        loaded = [tag.get("src") for tag in page.select("script[src], img[src], iframe[src]")]
        loaded += [tag.get("href") for tag in page.select("link[href]:not([rel~=canonical])")]
        assert not [url for url in loaded if url.startswith(("http:", "https:", "//"))], file.name


@pytest.mark.parametrize("chapter", chapters.names())
def test_cells_are_short(chapter):
    """Beside the one statement that imports from the library, a name per line."""
    for cell in chapters.code_cells(chapter):
        is_list = "parameters" in cell.metadata.get("tags", [])
        lines = re.sub(r"^from narrowlib\S* import (\([^)]*\)|.*)$\n?", "", cell.source, flags=re.M).splitlines()
        assert len(lines) <= (MAX_LIST_LINES if is_list else MAX_CELL_LINES), cell.source
        assert is_list or max(map(len, cell.source.splitlines())) <= MAX_CODE_WIDTH, cell.source


@pytest.mark.parametrize("chapter", chapters.names())
def test_few_cells_one_import_statement_no_path_and_no_function(chapter):
    cells = [cell.source for cell in chapters.code_cells(chapter)]
    own = [cell.source for cell in chapters.code_cells(chapter) if "check" not in cell.metadata.get("tags", [])]
    n_imports = sum(len(re.findall(r"^from narrowlib", source, flags=re.M)) for source in own)
    assert n_imports <= 1 and len(cells) <= 30
    source = "\n".join(cells)
    assert not any(word in source for word in ("def ", "class ", "/home", "../", "pip install", "open("))


def test_plain_papermill_runs_a_chapter(tmp_path):
    """The commands of the README, word for word but for the numbers."""
    notebook = tmp_path / "hierarchy.ipynb"
    convert = [sys.executable, "-m", "jupytext", "--to", "ipynb", "--output", notebook, ROOT / "book" / "hierarchy.md"]
    subprocess.run(convert, check=True, capture_output=True)
    given = {"n_seeds": 1, "n_steps": 5, "batch_size": 8, "width": 8}
    values = [word for name, value in given.items() for word in ("-p", name, str(value))]
    command = [sys.executable, "-m", "papermill", notebook, tmp_path / "mine.ipynb", *values]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "mine.ipynb").read_text())["metadata"]["papermill"]["parameters"] == given
