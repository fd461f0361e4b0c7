"""The scorecard from claims and what notebooks assess; provenance; links: without a book being built."""

import json
import math
from xml.etree import ElementTree

import nbformat
import pandas as pd
import pytest
from companion import api, chapters, collect, facts, finish, heroes, made, parameters, scorecard, stage

from narrowlib import claims, intervals
from narrowlib.chapters import style as figures
from narrowlib.store import records

RULES = {
    "what": "share | of runs",
    "paper": 0.7,
    "source": "a table",
    "holds": ">= 0.5",
    "tolerance": 0.1,
    "read": "pixels",
}
CLAIMS = {
    name: {
        "chapter": chapter,
        "where": "Fig. 1",
        "statement": "It works.",
        "decided_by": [{"what": "runs", "least": 2, "distinct": "seed"}],
        "quantities": {"share": RULES},
    }
    for name, chapter in (("A1", "first"), ("A2", "first"), ("B1", "unwritten"))
}


def figure_cell(name, **data):
    cell = nbformat.v4.new_code_cell("draw()", id=name)
    caption = "A figure. Mirrors the left of Figure 3, and\nFigure 10, of the paper."
    cell.metadata["mystnb"] = {"figure": {"name": name, "caption": caption}, "image": {"alt": "What it shows"}}
    shown = {"image/svg+xml": "<svg/>", "image/png": "aGk=", "text/csv": "x\n1\n", **data}
    about = {"text/csv": {"rows": 1, "every": 1}}
    cell.outputs = [nbformat.v4.new_output("display_data", data=shown, metadata=about)]
    return cell


def assessing_cell(claim, value, record=None):
    ours = intervals.Interval(value, value - 0.1, value + 0.1)
    table = claims.assess(claim, {"share": ours}, record=record, claims=CLAIMS)
    data = {"text/plain": "a table", **table._repr_mimebundle_()}
    cell = nbformat.v4.new_code_cell("assess()", id=f"{claim}-{100 * value:.0f}-{record and record.name}")
    cell.outputs = [nbformat.v4.new_output("execute_result", data=json.loads(json.dumps(data)))]
    return cell


MADE = {"device": "a GPU", "commit": "abc", "departures": {}}
RUNS = pd.DataFrame({"seed": [0, 1, 2]})
RUN = records.Record("curves", RUNS, provenance=MADE)
FEWER = {**MADE, "departures": {"n_seeds": {"here": 10, "paper": 40}}}
SMALL_RUN = records.Record("fewer", RUNS, provenance=FEWER)
TOO_FEW = records.Record("too-few", RUNS.head(1), provenance=MADE)


@pytest.fixture
def notebook():
    cells = [
        figure_cell("fig-one"),
        assessing_cell("A1", 0.95),
        figure_cell("fig-two"),
        assessing_cell("A1", 0.95, RUN),
    ]
    injected = nbformat.v4.new_code_cell("n = 1", metadata={"tags": ["injected-parameters"]}, id="injected")
    return nbformat.v4.new_notebook(cells=[injected, *cells])


def card_of(*cells, profile="quick"):
    found = collect.assessments(nbformat.v4.new_notebook(cells=list(cells)))
    return scorecard.scorecard(CLAIMS, profile, {"first": found})


@pytest.mark.parametrize(
    ("value", "record", "says"),
    [
        (0.7, RUN, "share | of runs: **0.7** [0.6,\N{NO-BREAK SPACE}0.8] here, 0.7 in the paper (from a record)"),
        (0.45, RUN, "here, 0.7 in the paper (from a record; rule for the whole interval: ≥ 0.5)"),
        (0.45, TOO_FEW, "in the paper (from a record; the record lacks runs: 1 of 2)"),
        (0.7, None, "in the paper (from this page's run)"),
    ],
)
def test_a_verdict_is_told_with_its_interval_and_what_it_fails(value, record, says):
    row = card_of(assessing_cell("A1", value, record))["claims"][0]
    assert heroes.sentence(row).endswith(says)


def test_media_types_are_those_of_the_library():
    assert (collect.CLAIMS, collect.DATA) == (claims.MEDIA_TYPE, figures.MEDIA_TYPE)


def test_figures_are_collected_with_their_files(notebook):
    one, two = collect.figures("first", notebook)
    assert (one.name, one.cell, two.name, two.cell) == ("fig-one", 0, "fig-two", 2)
    assert one.contents == {"svg": b"<svg/>", "png": b"hi", "csv": b"x\n1\n"}
    assert one.files["csv"] == "figures/first/fig-one.csv" and one.alt == "What it shows"


def test_renderer_sees_no_unknown_output(notebook):
    notebook = collect.stripped(notebook)
    kinds = {kind for cell in notebook.cells for output in cell.outputs for kind in output.data}
    assert kinds == {"image/svg+xml", "image/png", "text/plain"}
    nbformat.validate(notebook)


@pytest.mark.parametrize(
    ("caption", "what"),
    [
        ("So. Mirrors Figure 2, bottom, and Figure 7 of the paper.", "Figure 2, bottom, and Figure 7"),
        ("Mirrors the left of Figure 3, and Figure 10, of the paper. More.", "the left of Figure 3, and Figure 10"),
        ("So. Not in the paper.", "nothing"),
        ("So.", None),
    ],
)
def test_captions_say_what_they_mirror(caption, what):
    assert collect.mirrored(caption) == what


def test_claims_stand_at_the_figure_before_them(notebook):
    found = collect.assessments(notebook)
    assert [(c["claim"], c["scale"], c["figure"]) for c in found] == [
        ("A1", "this page", "fig-one"),
        ("A1", "record", "fig-two"),
    ]


@pytest.mark.parametrize(
    ("cells", "profile", "verdict", "decided_at"),
    [
        ([assessing_cell("A1", 0.9)], "quick", "direction seen", "quick"),
        ([assessing_cell("A1", 0.1)], "paper", "direction not seen", "paper"),
        ([assessing_cell("A1", 0.1), assessing_cell("A1", 0.7, RUN)], "quick", "reproduced", "record"),
        ([assessing_cell("A1", 0.1), assessing_cell("A1", 0.1, RUN)], "quick", "not reproduced", "record"),
        ([assessing_cell("A1", 0.95), assessing_cell("A1", 0.95, RUN)], "quick", "in part", "record"),
        ([assessing_cell("A1", 0.7, SMALL_RUN)], "quick", "reproduced", "record, reduced"),
        ([assessing_cell("A1", 0.7, TOO_FEW)], "quick", "undecided at this scale", "record"),
        ([assessing_cell("A1", 0.7, TOO_FEW), assessing_cell("A1", 0.1, RUN)], "quick", "not reproduced", "record"),
        ([assessing_cell("A1", 0.7, SMALL_RUN), assessing_cell("A1", 0.1, RUN)], "quick", "in part", "record, reduced"),
        ([assessing_cell("A2", 0.9)], "quick", "not yet run", None),
    ],
)
def test_verdicts(cells, profile, verdict, decided_at):
    row = card_of(*cells, profile=profile)["claims"][0]
    assert (row["claim"], row["verdict"], row["decided_at"]) == ("A1", verdict, decided_at)


def test_values_of_a_record_do_not_pass_for_those_of_the_page():
    with pytest.raises(ValueError, match=r"claim A1 is assessed 2 times on its page .*record=record"):
        card_of(assessing_cell("A1", 0.9), assessing_cell("A1", 0.7))
    with pytest.raises(ValueError, match=r"from the records curves, curves"):
        card_of(assessing_cell("A1", 0.9, RUN), assessing_cell("A1", 0.7, RUN))


def test_every_record_of_a_claim_is_shown():
    card = card_of(assessing_cell("A1", 0.7, TOO_FEW), assessing_cell("A1", 0.7, SMALL_RUN))
    names = [each["name"] for each in card["claims"][0]["quantities"][0]["records"]]
    assert names == ["fewer", "too-few"]  # what decides first
    told = scorecard.sections(card)
    assert "`n_seeds` is 10 instead of 40" in told and "To decide, it lacks: runs: 1 of 2." in told
    assert scorecard.table(card).count("0.7 [0.6, 0.8] (holds, near)") == 2
    assert "Records decide 1. For the others" in scorecard.sentence(card)
    decided = {**card, "claims": card["claims"][:1], "counts": {**dict.fromkeys(scorecard.VERDICTS, 0), "in part": 1}}
    assert scorecard.sentence(decided) == "Of 1 claim: 1 in part. Records decide 1."


def test_scorecard_as_data(notebook):
    card = card_of(*notebook.cells)
    assert {verdict: n for verdict, n in card["counts"].items() if n} == {"in part": 1, "not yet run": 2}
    row, _, unwritten = card["claims"]
    (quantity,) = row["quantities"]
    assert quantity["paper"] == 0.7 and quantity["rule"] == ">= 0.5" and quantity["tolerance"] == 0.1
    assert quantity["page"]["ours"] == 0.95 and quantity["page"]["holds"] is True
    assert quantity["paper_scale"]["near"] is False and quantity["read"] == "pixels"
    assert row["paper_scale"]["record"]["device"] == "a GPU"
    assert unwritten["url"] is None and unwritten["page"] is None


def test_values_the_paper_does_not_have():
    told = {"Z": {**CLAIMS["A1"], "quantities": {"share": {**RULES, "paper": math.nan, "tolerance": math.nan}}}}
    card = scorecard.scorecard(told, "quick", {})
    assert json.loads(json.dumps(card, allow_nan=False))["claims"][0]["quantities"][0]["paper"] is None
    assert "| none |" in scorecard.table(card)


def test_scorecard_as_markdown(notebook):
    card = card_of(*notebook.cells)
    table = scorecard.table(card).splitlines()
    assert len(table) == 2 + 3 and len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert (
        "{ref}`A1 <claim-a1>`" in table[2]
        and "0.95 [0.85, 1.05] (holds, far)" in table[2]
        and "**in part** (record)" in table[2]
    )
    assert "0.7 ± 0.1 (in pixels)" in table[2]
    sections = scorecard.sections(card)
    assert "(claim-a1)=\n### A1: in part" in sections and "{numref}`fig-two`" in sections
    assert "from the paper's parameters: none" in sections and "`unwritten`, is not written yet" in sections
    assert "Of 3 claims: 1 in part, 2 not yet run." in scorecard.summary(card)


def test_badge(notebook):
    card = card_of(assessing_cell("A1", 0.7, RUN))
    told = scorecard.badge(card)
    assert (told["message"], told["color"]) == ("1 of 3", scorecard.VERDICTS["not yet run"])
    picture = ElementTree.fromstring(scorecard.badge_svg(card))
    assert picture.get("aria-label") == "claims reproduced: 1 of 3"


def test_code_cells_are_found_in_the_source():
    source = "# A\n```{code-cell} python\nx\n```\n\n```python\ny\n```\n"
    source += "````{solution} z\n```{code-cell}\n```\n````\n```{code-cell}\n```\n"
    assert made.code_lines(source) == [(2, 4), (13, 14)]


def test_report_is_taken_out_again(monkeypatch):
    chapter = chapters.names()[0]
    notebook = made.with_report(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", id="one")]))
    assert len(notebook.cells) == 2
    notebook.cells[-1].outputs = [nbformat.v4.new_output("stream", name="stdout", text='{"device": "a processor"}\n')]
    found = made.take_report(notebook, chapter, {})
    assert [cell.id for cell in notebook.cells] == ["one"]
    assert found["device"] == "a processor" and found["source"] == f"book/{chapter}.md"
    assert set(found["parameters"]) == set(parameters.quick(chapter))


def test_sources_of_figures_are_linked_where_the_repository_is_known(notebook, monkeypatch):
    figure = collect.figures("first", notebook)[1]
    made_from = {"commit": "c0ffee", "dirty": False, "source": "book/first.md", "lines": [(1, 2), (3, 4), (5, 9)]}
    monkeypatch.setattr(chapters, "repository", lambda: "")
    assert facts.source_of(figure, made_from)["url"] is None
    assert "source" not in facts.figure_links(figure, made_from)
    monkeypatch.undo()
    monkeypatch.setenv("REPOSITORY", "https://github.com/owner/book.git")  # as the workflow that publishes sets it
    url = "https://github.com/owner/book/blob/c0ffee/book/first.md?plain=1#L5-L9"
    assert facts.source_of(figure, made_from)["url"] == url and url in facts.figure_links(figure, made_from)
    assert 'href="../figures/first/fig-two.csv" download' in facts.figure_links(figure, made_from)


def test_a_page_with_an_unknown_table_is_refused():
    assert stage.filled("a\n% here: status\n% a comment\n", {"status": "TABLE"}) == "a\nTABLE\n% a comment\n"
    with pytest.raises(ValueError, match="a page asks for 'nothing'; it must be one of status"):
        stage.filled("% here: nothing\n", {"status": ""})


def test_imports_are_linked_but_for_values():
    told = api.used("import torch\nfrom narrowlib.claims import MEDIA_TYPE, assess\nfrom torch import nn\nx = 1")
    assert told == ":::{container} library\nFrom the library: {py:obj}`~narrowlib.claims.assess`.\n:::"
    assert api.used("x = 1") == api.used("%magic (") == ""


def test_broken_links_are_found(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "data.csv").write_text("")
    (tmp_path / "index.html").write_text("<a href='book/one.html#there'>1</a><a href='https://example.org/x'>2</a>")
    (tmp_path / "book" / "one.html").write_text(
        "<h1 id=there></h1><a href='../data.csv'></a><a href='#there'></a><a href='#'></a>"
        "<img src='../lost.svg'><a href='#not-there'></a><a href='../index.html#x'></a>"
    )
    broken = finish.broken_links(finish.read_pages(tmp_path), tmp_path)
    assert broken == ["book/one.html: #not-there", "book/one.html: ../index.html#x", "book/one.html: ../lost.svg"]


def test_numbers_of_figures_are_read():
    text = '<figure id="fig-a"><img src="a.svg"><span class="caption-number">Fig. 3 </span><span>x</span></figure>'
    text += '<div><span class="caption-number">Exercise 1</span></div>'  # of something else
    assert finish.Page(text).numbers == {"fig-a": "Fig. 3"}
