"""Figures in which something can be moved, the figures of the first page, and the book as one PDF."""

import gzip
import re
import shutil

import pytest
from companion import chapters, finish
from trees import command

MOVED = {"llm-scores": "fig-llm-skills", "group-lasso": "fig-group-lasso-strength-curves"}
MOST_BYTES = 500_000  # compressed, of what the first page loads of the book's own
SCRIPT_BYTES = 15_000


@pytest.fixture(params=MOVED)
def moved(request, visit):
    """A page, and the figure on it that moves."""
    tab = visit(f"book/{request.param}")
    return tab, tab.locator(f"figure#{MOVED[request.param]}")


def test_keys_move_the_slider_and_the_words_follow(moved):
    tab, figure = moved
    slider = figure.get_by_role("slider")
    assert tab.problems == [] and slider.count() == 1
    assert figure.locator("label").get_attribute("for") == slider.get_attribute("id")
    output, drawing = figure.locator("output"), figure.locator("svg[role=img]")
    slider.focus()
    tab.keyboard.press("Home")
    first = output.inner_text(), drawing.get_attribute("aria-label"), slider.get_attribute("aria-valuetext")
    tab.keyboard.press("End")
    last = output.inner_text(), drawing.get_attribute("aria-label"), slider.get_attribute("aria-valuetext")
    assert all(a != b for a, b in zip(first, last, strict=True))
    names = tab.evaluate(
        "id => JSON.parse(document.querySelector(`#${id} script`).textContent).series", figure.get_attribute("id")
    )
    for number, name in enumerate(names):
        assert name in last[0] and drawing.locator(f"g.s{number} path.line").count() >= 1


def test_drawing_fills_its_page_and_says_all_values(moved):
    """Every point of the data at the slider's value is a mark within the drawing."""
    tab, figure = moved
    for width in (400, 1440):
        tab.set_viewport_size({"width": width, "height": 900})
        tab.wait_for_timeout(100)
        drawing = figure.locator("svg[role=img]")
        box, around = drawing.bounding_box(), figure.bounding_box()
        assert box["width"] > 0.8 * around["width"] and box["x"] + box["width"] <= width
        for mark in figure.locator("svg[role=img] path.mark").all():
            inner = mark.bounding_box()
            assert box["x"] <= inner["x"] and inner["x"] + inner["width"] <= box["x"] + box["width"] + 1
            assert box["y"] <= inner["y"] and inner["y"] + inner["height"] <= box["y"] + box["height"]


def test_the_figure_itself_is_a_press_away_and_alone_on_paper(moved):
    tab, figure = moved
    image, drawing = figure.locator("img"), figure.locator("svg[role=img]")
    assert drawing.is_visible() and not image.is_visible()
    figure.get_by_role("button", name="the figure as printed").click()
    assert image.is_visible() and not drawing.is_visible()
    tab.reload(wait_until="networkidle")
    tab.emulate_media(media="print")
    assert image.is_visible() and not drawing.is_visible()


@pytest.mark.parametrize("page", MOVED)
def test_without_scripts_the_figure_itself_is_shown(browser, address, page):
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(f"{address}/book/{page}.html")
    assert tab.locator(f"figure#{MOVED[page]} img").is_visible()
    assert not tab.locator(".interactive-figure").first.is_visible()
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_lines_stand_out_from_the_page(visit, scheme):
    """Contrast of 3 and more, which graphics need (WCAG 1.4.11)."""
    tab = visit("book/llm-scores", scheme=scheme)
    found = tab.evaluate(
        """() => [getComputedStyle(document.body).backgroundColor,
        ...[...document.querySelectorAll('.interactive-figure path.mark')].map(mark => getComputedStyle(mark).fill)]"""
    )
    ground, *marks = ([int(part) for part in re.findall(r"\d+", colour)[:3]] for colour in found)
    assert len(marks) > 3 and min(contrast(mark, ground) for mark in marks) >= 3


def contrast(one, other):
    shares = [[part / 255 for part in colour] for colour in (one, other)]
    linear = [[p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in colour] for colour in shares]
    dark, light = sorted(0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in linear)
    return (light + 0.05) / (dark + 0.05)


def test_script_is_small(smoke_book):
    assert (smoke_book / "book" / "_static" / "interactive.js").stat().st_size < SCRIPT_BYTES


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_first_page_shows_three_figures_with_their_ways(visit, scheme):
    tab = visit("book/intro", scheme=scheme)
    figures = tab.locator(".shown-again")
    assert figures.count() == 3
    for figure in figures.all():
        image = figure.locator("img")
        assert image.is_visible() and len(image.get_attribute("alt")) >= 30
        filters = image.evaluate("image => getComputedStyle(image).filter")
        assert ("invert" in filters) == (scheme == "dark")
        assert re.match(r"Fig\. \d+, in ", figure.inner_text().strip())
        assert "#fig-" in figure.locator("a").first.get_attribute("href")


def test_first_page_is_light(browser, address):
    """The page, its style sheet, scripts and pictures; the theme and the fonts are shared by all pages."""
    context = browser.new_context()
    tab = context.new_page()
    loaded = []
    tab.on("response", lambda answer: loaded.append(answer))
    tab.goto(f"{address}/book/intro.html", wait_until="networkidle")
    own = [answer for answer in loaded if re.search(r"/book/|/_images/|/_static/(book|page|interactive)", answer.url)]
    sizes = {answer.url.removeprefix(address): len(gzip.compress(answer.body())) for answer in own}
    assert {"/book/intro.html", "/_static/book.css", "/_static/interactive.js"} <= {url.split("?")[0] for url in sizes}
    assert sum("/_images/" in url for url in sizes) == 3
    assert not any("mathjax" in answer.url for answer in loaded)  # there is no mathematics on it
    assert sum(sizes.values()) < MOST_BYTES, sizes
    context.close()


def test_book_is_printed_as_one_pdf(browser, smoke_book, tmp_path):
    """Tagged, with an outline, every page of the book in it, and no link to the place where it was made."""
    tree = shutil.copytree(smoke_book, tmp_path / "tree", ignore=shutil.ignore_patterns("executed"))
    done = command(tree, "pdf")
    assert done.returncode == 0, done.stdout + done.stderr
    content = (tree / "_build" / "html" / finish.PDF).read_bytes()
    assert content.startswith(b"%PDF-") and len(re.findall(rb"/Type\s*/Page\b", content)) > len(chapters.pages())
    assert b"/Outlines" in content and b"/StructTreeRoot" in content and b"/Lang" in content
    assert b"127.0.0.1" not in content and b"file:" not in content
    assert f'href="../{finish.PDF}"' in (tree / "_build" / "html" / "book" / "intro.html").read_text()
