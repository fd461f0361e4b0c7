"""What is published beside the pages: every figure with its files and provenance, every claim with its verdict."""

import json
import re
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from companion import api, chapters, finish, parameters
from test_chapters import MIN_ALT_TEXT, figure_cells, page_of

MOST_BYTES = 2_500_000  # of a file of a figure


@pytest.fixture(scope="module")
def about(site):
    return json.loads((site / "provenance.json").read_text())


@pytest.fixture(scope="module")
def card(site):
    return json.loads((site / "scorecard.json").read_text())


@pytest.mark.parametrize("chapter", chapters.names())
def test_every_figure_has_its_provenance(about, site, chapter):
    """Number, caption, alt text, data, vectors, bitmap, what it mirrors, and where its source is: nothing may lack."""
    found = [figure for figure in about["figures"] if figure["page"] == f"book/{chapter}.html"]
    assert [figure["name"] for figure in found] == [
        cell.metadata["mystnb"]["figure"]["name"] for cell in figure_cells(chapter)
    ]
    for figure in found:
        name = figure["name"]
        assert figure["number"].startswith("Fig. "), name
        assert figure["caption"] and len(figure["alt"]) >= MIN_ALT_TEXT, name
        assert figure["mirrors"] == "nothing" or re.search("Figure|table", figure["mirrors"]), name
        assert set(figure["files"]) == {"csv", "svg", "png"}, f"{name}: does its function of the library keep_data?"
        files = {ending: site / path for ending, path in figure["files"].items()}
        assert all(0 < file.stat().st_size < MOST_BYTES for file in files.values()), name
        data = pd.read_csv(files["csv"])
        assert len(data) and len(data) == -(-figure["data"]["rows"] // figure["data"]["every"]), name
        assert ElementTree.parse(files["svg"]).getroot().tag.endswith("svg")
        assert files["png"].read_bytes().startswith(b"\x89PNG")
        source = figure["source"]
        lines = (
            (chapters.ROOT / source["file"]).read_text().splitlines()[source["first_line"] - 1 : source["last_line"]]
        )
        assert lines[0].startswith("```{code-cell}") and any(name in line for line in lines)


def test_numbers_count_through_the_book(about):
    assert [figure["number"] for figure in about["figures"]] == [f"Fig. {n + 1}" for n in range(len(about["figures"]))]


@pytest.mark.parametrize("chapter", chapters.names())
def test_every_page_says_how_it_was_made(about, smoke_book, chapter):
    facts = about["pages"][chapter]
    assert facts["start"] and facts["seconds"] > 0 and facts["device"]
    assert facts["versions"]["torch"] and facts["versions"]["python"]
    assert 50e6 < facts["peak_memory_bytes"] < 64e9
    assert {"commit", "dirty"} <= set(facts)  # both null here: the tree is a copy without git
    assert facts["parameters"] == {**parameters.quick(chapter), **parameters.of_profile(chapter, "smoke")}
    text = page_of(smoke_book, chapter).get_text(" ")
    for words in ("How this page was made", "Peak memory", "Versions", f"torch {facts['versions']['torch']}", "smoke"):
        assert words in text


@pytest.mark.parametrize("chapter", chapters.names())
def test_downloads_stand_under_every_figure(smoke_book, site, chapter):
    page = page_of(smoke_book, chapter)
    lines = page.select("p.figure-files")
    assert len(lines) == len(figure_cells(chapter))
    for line in lines:
        links = line.select("a[download]")
        assert [link.get_text() for link in links] == ["csv", "svg", "png"]
        assert all((site / "book" / link["href"]).is_file() for link in links)


@pytest.mark.parametrize("name", chapters.claims())
def test_every_claim_is_assessed_on_its_page(card, about, name):
    """A chapter has to show the table of `assess`, not only print the verdict: from it comes the scorecard."""
    (row,) = [row for row in card["claims"] if row["claim"] == name]
    claim = chapters.claims()[name]
    assert row["page"], f"chapter {claim['chapter']} shows no table of assess({name!r}, ...)"
    assert row["page"]["figure"] in {figure["name"] for figure in about["figures"]}
    assert {q["name"]: q["paper"] for q in row["quantities"]}.keys() == claim["quantities"].keys()
    assert all(q["page"] is not None or q["only"] for q in row["quantities"])


@pytest.mark.parametrize("chapter", chapters.names())
def test_recorded_chapters_are_assessed_at_the_papers_scale(card, chapter):
    if not list((chapters.ROOT / "results" / "paper" / chapter).glob("*.json")):
        pytest.skip("nothing is recorded of this chapter")
    rows = [row for row in card["claims"] if row["chapter"] == chapter]
    assert all(row["paper_scale"] for row in rows), "show assess(claim, values, record=record) for every claim"


def test_scorecard_page_shows_every_claim(smoke_book, card):
    page = page_of(smoke_book, "appendix/scorecard")
    titles = [title.get_text() for title in page.select("h3")]
    for row in card["claims"]:
        assert any(title.startswith(f"{row['claim']}: {row['verdict']}") for title in titles)
        assert page.find(id=f"claim-{row['claim'].lower()}")
    landing = page_of(smoke_book, "intro")
    assert f"Of {len(card['claims'])} claims: " in landing.get_text(" ")
    links = {urlsplit(link["href"]).fragment for link in landing.select("a[href*='scorecard.html#']")}
    assert links == {f"claim-{row['claim'].lower()}" for row in card["claims"]}


def test_status_page_lists_every_chapter(smoke_book):
    rows = page_of(smoke_book, "appendix/status").select("table tbody tr")
    assert len(rows) == len(chapters.names()) and all(" s" in row.get_text(" ") for row in rows)


@pytest.mark.parametrize("module", api.modules())
def test_public_names_of_the_library_have_a_place(site, module):
    page = BeautifulSoup((site / f"{api.page_of(module)}.html").read_text(), "html.parser")
    assert page.find("h1") and len(page.select("section p")) > 0
    for name in api.defined(module):
        assert page.find(id=f"{module}.{name}"), name


@pytest.mark.parametrize("chapter", chapters.names())
def test_chapters_link_to_the_library(smoke_book, chapter):
    links = page_of(smoke_book, chapter).select("a[href*='api/']")
    assert any("#narrowlib." in link["href"] for link in links)


def test_internal_links_lead_somewhere(site):
    pages = finish.read_pages(site)
    assert len(pages) > len(chapters.pages()) and sum(len(page.links) for page in pages.values()) > 500
    assert finish.broken_links(pages, site) == []


def test_site_is_of_moderate_size(site):
    figures = sum(path.stat().st_size for path in (site / "figures").rglob("*") if path.is_file())
    assert figures < 15e6
