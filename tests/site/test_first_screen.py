"""What a reader sees first, what a page weighs, and what is said of it to search engines."""

import gzip
import json
import re
import xml.etree.ElementTree as ET

import pytest
from bs4 import BeautifulSoup
from companion import api, chapters, finish, heroes, myst
from trees import REPOSITORY

MOST_BYTES = 700_000  # compressed, of all that a page loads
HOME = "https://owner.github.io/book/"
assert REPOSITORY == "https://github.com/owner/book"


@pytest.fixture(scope="session")
def claims(site):
    return json.loads((site / "scorecard.json").read_text(encoding="utf-8"))["claims"]


def test_first_page_has_all_on_one_screen(visit, claims):
    tab = visit("book/intro")
    tiles = tab.locator(".tiles .tile")
    told = [(tile.get_attribute("data-claim"), tile.get_attribute("data-verdict")) for tile in tiles.all()]
    assert told == [(row["claim"], row["verdict"]) for row in claims]
    for tile, row in zip(tiles.all(), claims, strict=True):
        assert heroes.told(row["verdict"]) in tile.inner_text()
        assert tile.locator("small").bounding_box()["height"] > 10  # the claim is told beside its verdict
        assert tile.evaluate("tile => tile.href").endswith(f"/{row['url']}")
    for part in (*tiles.all(), *tab.locator(".ways a, .landing img").all()):
        box = part.bounding_box()
        assert box["y"] + box["height"] <= 900
    links = tab.evaluate("[...document.querySelectorAll('.ways a')].map(link => link.href)")
    assert REPOSITORY in links and "https://arxiv.org/abs/2505.15811" in links


@pytest.mark.parametrize("chapter", [name for name in chapters.names() if myst.numbers(name).figures])
def test_chapter_begins_with_its_picture_and_verdicts(visit, claims, chapter):
    tab = visit(f"book/{chapter}")
    own = [row for row in claims if row["chapter"] == chapter]
    chips = tab.locator(".hero .verdict").all()
    for chip, row in zip(chips, own, strict=True):
        assert chip.locator("a").first.inner_text() == f"{row['claim']} {heroes.told(row['verdict'])}"
        assert heroes.kind(row["verdict"]) in chip.get_attribute("class").split()
        assert re.search(r": (-?[\d.e+-]+|none)( \[\S+,\s\S+\])? here", chip.inner_text())
    for width, height, screens in ((1440, 900, 1), (400, 800, 2)):
        tab.set_viewport_size({"width": width, "height": height})
        box = tab.locator(".hero img:visible").first.bounding_box()
        assert box["y"] < screens * height
        assert width < 1000 or box["y"] + box["height"] <= height
    folded = tab.locator("details.hide.above-input")
    assert folded.count() and not tab.locator("details.hide.above-input[open]").count()
    library = tab.locator(".library").first
    imports = library.locator("xpath=preceding-sibling::div[1]//details")
    assert not library.is_visible()
    imports.locator("summary").click()
    assert imports.locator("pre").is_visible() and library.is_visible()


def test_tabs_by_mouse_and_keyboard(visit):
    tab = visit("book/hierarchy")
    tabs, panels = tab.locator(".hero [role=tab]"), tab.locator(".hero .run")
    assert [panel.is_visible() for panel in panels.all()] == [True, False]
    pictures = [panel.locator("img") for panel in panels.all()]
    assert pictures[1].get_attribute("loading") == "lazy" and pictures[0].get_attribute("loading") is None
    tabs.nth(1).click()
    assert [panel.is_visible() for panel in panels.all()] == [False, True]
    tab.wait_for_function("image => image.naturalWidth > 0", arg=pictures[1].element_handle())
    tab.keyboard.press("ArrowRight")
    assert [panel.is_visible() for panel in panels.all()] == [True, False]
    assert tabs.first.get_attribute("aria-selected") == "true"


@pytest.mark.parametrize("chapter", chapters.names())
def test_without_scripts_record_and_run_are_both_shown(visit, chapter):
    tab = visit(f"book/{chapter}", scripts=False)
    for runs in tab.locator(".runs").all():
        panels = runs.locator(".run")
        assert panels.locator(".run-name:visible").all_inner_texts() == list(heroes.RUNS.values())
        assert all(panel.locator("img").first.is_visible() for panel in panels.all())
    assert chapter != "hierarchy" or tab.locator(".hero .runs").count()


def test_every_page_is_described_and_in_the_sitemap(site):
    listed = {place.text for place in ET.parse(site / finish.SITEMAP).iter() if place.tag.endswith("}loc")}
    pages = {f"{page}.html" for page in [*chapters.pages(), *api.pages()]}
    assert listed == {HOME + page for page in pages}
    for page in sorted(pages):
        text = (site / page).read_text(encoding="utf-8")
        about = re.findall(r'<meta name="description" content="([^"]+)"', text)
        assert len(about) == 1 and len(about[0]) >= 40, page
        assert re.findall(r'<link rel="canonical" href="([^"]+)"', text) == [HOME + page]
        (picture,) = re.findall(r'<meta property="og:image" content="([^"]+)"', text)
        assert (site / picture.removeprefix(HOME)).is_file()


def test_missing_page_leads_back(site):
    text = (site / "404.html").read_text(encoding="utf-8")
    assert f'<base href="{HOME}" />' in text and 'href="book/intro.html"' in text


@pytest.mark.parametrize("word", ["pruning", "group lasso", "distillation", "recovery"])
def test_search_names_chapters_before_the_library(visit, word):
    tab = visit("search")
    tab.goto(f"{tab.url}?q={word}", wait_until="networkidle")
    tab.wait_for_function("document.querySelectorAll('ul.search li').length > 8", timeout=10_000)
    tab.wait_for_timeout(500)
    links = tab.evaluate("[...document.querySelectorAll('ul.search li > a')].map(link => link.href)")
    is_library = ["/appendix/api" in link for link in links]
    assert is_library == sorted(is_library) and not is_library[0]
    assert tab.locator("input[type=search]:visible").count() == 1


@pytest.mark.parametrize("chapter", [*chapters.names(), "intro"])
def test_page_loads_little(browser, address, chapter):
    context = browser.new_context()
    tab, loaded = context.new_page(), []
    tab.on("response", lambda answer: loaded.append(answer))
    tab.goto(f"{address}/book/{chapter}.html", wait_until="networkidle")
    sizes = {answer.url: len(gzip.compress(answer.body())) for answer in loaded}
    assert sum(sizes.values()) < MOST_BYTES, sorted(sizes.items(), key=lambda one: -one[1])[:5]
    assert not any("fontawesome.js" in url or "fa-solid-900" in url for url in sizes)
    context.close()


def test_references_have_the_labels_of_citations_and_links_to_arxiv(site):
    page = BeautifulSoup((site / "book" / "appendix" / "references.html").read_text(encoding="utf-8"), "html.parser")
    labels = [label.get_text().strip("[]") for label in page.select(".citation .label")]
    assert len(labels) > 20 and all(re.fullmatch(r"\S.*, (19|20)\d\d", label) for label in labels)
    assert "Michaud et al., 2025" in labels and "Yuan and Lin, 2006" in labels
    assert page.select('.citation a[href="https://arxiv.org/abs/2505.15811"]')


def test_dark_is_dark_before_the_scripts_of_the_theme(browser, address):
    context = browser.new_context(color_scheme="dark")
    tab = context.new_page()
    tab.route("**/scripts/*.js*", lambda route: route.abort())
    tab.goto(f"{address}/book/hierarchy.html")
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"
    context.close()


def test_verdicts_of_the_scorecard_are_seen_on_a_telephone(visit):
    tab = visit("book/appendix/scorecard", width=400)
    box = tab.locator(".scorecard-values td:last-child").first.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 400


def test_japanese_page_is_a_short_edition(visit, claims):
    tab = visit("book/appendix/ja")
    assert tab.evaluate("document.documentElement.lang") == "ja"
    text = tab.locator("article").inner_text()
    told = chapters.claims()
    for row in claims:
        assert (
            f"{row['claim']} {heroes.SIGNS[heroes.kind(row['verdict'])]} {heroes.VERDICTS_JA[row['verdict']]}" in text
        )
        assert told[row["claim"]]["ja"] in text
    pictures = tab.locator(".shown-again img").all()
    shown = [name for name in chapters.names() if myst.numbers(name).figures]
    assert len(pictures) == len(shown) == text.count("まとめ。")
    listed = tab.locator("dt a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert {f"../{name}.html" for name in shown} <= set(listed)
    assert all(re.search("[ぁ-ん]", picture.get_attribute("alt")) for picture in pictures)
