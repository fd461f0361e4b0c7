"""A book from which chapters were left out: refused when it cannot be, else without a link that leads nowhere."""

import re

import nbformat
import pytest
from companion import chapters, collect, differences, interactive, links, stage
from companion.plainly import Refusal
from test_chapters import figure_cells

PENDING = "\n".join([",".join(interactive.PENDING), "pending"])
LEFT_OUT = {"mnist", "llm-frontier", "unlearning"}
DOC, LABEL = (
    re.compile(r"\{doc\}`(?:[^`<]*<)?([^`>]+)>?`"),
    re.compile(r"\{(?:numref|eq|ref)\}`(?:[^`<]*<)?([^`>]+)>?`"),
)


@pytest.fixture
def left_out(monkeypatch):
    """The book without three chapters."""
    monkeypatch.setenv("CHAPTERS", " ".join(name for name in chapters.names() if name not in LEFT_OUT))
    differences.differences.cache_clear()
    yield
    differences.differences.cache_clear()


def test_chapters_that_are_left_out_are_no_pages(left_out):
    assert not LEFT_OUT & set(chapters.names())
    assert {"book/discussion", "book/appendix/scorecard", "book/hierarchy"} <= set(chapters.pages())
    assert "mnist" not in differences.listing() and "hierarchy" in differences.listing()


def test_parts_without_a_chapter_are_no_parts(monkeypatch):
    monkeypatch.setenv("CHAPTERS", "hierarchy")
    captions = [part["caption"] for part in chapters.contents()["parts"]]
    assert captions == ["The paper", "Looking back", "Appendix"]


def test_what_there_is_not_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("CHAPTERS", "hierarchy mnits")
    with pytest.raises(Refusal, match="CHAPTERS holds 'mnits'; it must hold some of methods, hierarchy, "):
        chapters.pages()
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/intro\nchapters:\n- file: book/gone\n")
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "intro.md").write_text("# Here\n")
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    with pytest.raises(Refusal, match=r"_toc.yml names 'book/gone'; there is no book/gone\.md"):
        chapters.pages()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{doc}`hierarchy` {doc}`so </book/hierarchy>`", None),
        ("see {doc}`mnist`", "see *MNIST: four ways to a narrow classifier*"),
        ("{doc}`the digits <../book/mnist>`", "*the digits*"),
        ("{numref}`fig-here`, {eq}`eq-here`, {ref}`H1 <claim-h1>`", None),
        ("{numref}`fig-gone`", f"a figure {links.LEFT_OUT}"),
        ("{numref}`Figure %s <fig-gone>`", f"a figure {links.LEFT_OUT}"),
        ("{ref}`M1 <claim-m1>`", "M1"),
        ("[digits](mnist.md) [both](mnist.html#exercises) [here](hierarchy.md)", "digits both [here](hierarchy.md)"),
        ("[out](https://example.org/mnist.html) {term}`CMSP`", None),
    ],
)
def test_a_link_to_what_is_absent_becomes_text(text, told):
    absent, gone = {"book/mnist"}, {"fig-gone", "claim-m1"}
    assert links.whole(text, "book/intro", absent, gone) == (text if told is None else told)


def test_what_is_left_out_is_known_and_what_never_was_is_not(left_out):
    absent, gone = links.left_out()
    assert {f"book/{name}" for name in LEFT_OUT} <= absent and "book/hierarchy" not in absent
    assert {"fig-mnist-fronts", "claim-m1", "ex-mnist-bill"} <= gone
    assert not {"fig-hierarchy-curves", "nowhere"} & gone


def test_a_figure_of_an_absent_chapter_goes_with_its_paragraph(left_out):
    text = "One.\n\n:::{container} landing\nThis is\nshown:\n\n% here: figure fig-mnist-fronts\n:::\n\nTwo.\n"
    assert links.without_absent_figures(text, {}) == "One.\n\n\nTwo.\n"
    with pytest.raises(ValueError, match="a page asks for 'figure fig-mnist-frunts'"):
        stage.filled(text.replace("fronts", "frunts"), {})


def drawn(chapter):
    """A chapter as if it had been executed, every figure an empty drawing."""
    notebook = nbformat.from_dict(chapters.read_notebook(chapter))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            data = (
                {collect.VECTOR: "<svg></svg>", collect.DATA: PENDING}
                if "figure" in cell.metadata.get("mystnb", {})
                else None
            )
            cell.outputs = [nbformat.v4.new_output("display_data", data=data)] if data else []
    return notebook


def test_every_link_of_the_pages_leads_to_a_page_or_label_of_the_book(left_out, tmp_path):
    paths = {name: tmp_path / f"{name.replace('/', '-')}.ipynb" for name in chapters.names()}
    for name, path in paths.items():
        nbformat.write(drawn(name), path)
    files = stage.pages(stage.Book({"profile": "quick", "executed": {name: str(path) for name, path in paths.items()}}))
    texts = {}
    for path, text in files.items():
        if links._is_page(path):
            page = nbformat.reads(text, as_version=4) if path.suffix == ".ipynb" else None
            name = path.relative_to(stage.STAGE).with_suffix("").as_posix()
            texts[name] = text if page is None else "\n".join(c.source for c in page.cells if c.cell_type == "markdown")
    found = {label for text in texts.values() for label in LABEL.findall(text)}
    every = "\n".join(texts.values())
    figures = {cell.metadata["mystnb"]["figure"]["name"] for name in paths for cell in figure_cells(name)}
    assert not [label for label in found - figures if f"({label})" not in every and f": {label}" not in every]
    assert found & figures and "claim-h1" in found and "claim-m1" not in found
    for name, text in texts.items():
        for target in DOC.findall(text):
            page = (tmp_path / name).parent.joinpath(target.strip()).resolve() if target[0] != "/" else None
            page = page.relative_to(tmp_path.resolve()).as_posix() if page else target[1:]
            assert page in texts, (name, target)


def test_a_cell_that_ends_in_plot_shows_one_figure():
    outputs = [
        nbformat.v4.new_output("execute_result", data={"text/plain": "[<Line2D>]"}),
        nbformat.v4.new_output("stream", text="said"),
        nbformat.v4.new_output("display_data", data={"image/png": "", "text/plain": "<Figure>"}),
        nbformat.v4.new_output("display_data", data={"text/html": "<table>", "text/plain": "x"}),
    ]
    cell = nbformat.v4.new_code_cell("ax.plot(x)", outputs=outputs, id="one")
    (more,) = stage._what_else(cell)
    assert [output.output_type for output in cell.outputs] == ["stream", "display_data"]
    assert more.outputs[0].data["text/html"] == "<table>" and more.metadata["tags"] == ["remove-input"]
    assert stage._what_else(cell) == []


def test_code_without_output_stands_in_the_box_of_the_next_cell():
    def code(name, tags=(), text=None):
        outputs = [nbformat.v4.new_output("stream", text=text)] if text else []
        return nbformat.v4.new_code_cell(name, id=name, metadata={"tags": list(tags)}, outputs=outputs)

    prose = nbformat.v4.new_markdown_cell("words", id="words")
    cells = [code("a", ["parameters"]), code("b"), code("c", text="1"), code("d"), prose]
    cells += [code("e"), code("f", ["exercise"]), code("g"), code("h")]
    joined = stage._joined(cells)
    assert [cell.source for cell in joined] == ["a\n\nb\n\nc", "d", "words", "e", "f", "g\n\nh"]
    assert joined[0].outputs and "parameters" in joined[0].metadata["tags"]
    assert joined[4].metadata["tags"] == ["exercise"]
