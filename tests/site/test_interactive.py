"""Figures in which something can be moved, the figures of the first page, and the book as one PDF."""

import gzip
import re
import shutil

import pytest
from companion import chapters, finish
from companion.interactive import INK
from moving import ASKED, KINDS
from trees import command

from narrowlib.chapters import style

CHARTS = [name for name, kind in KINDS.items() if kind == "chart"]
POINTED = {"chart": "svg.chart path.mark", "network": "circle.unit"}  # what tells a value, by kind
TOLD = {"chart": "text.tip", "network": "output"}
MOST_BYTES = 500_000  # compressed, of what the first page loads of the book's own
SCRIPT_LINES = 600
MOST_PAGES = 110  # of the printed book


@pytest.fixture
def look_at(visit):
    """A page, and a figure on it that moves."""

    def look(name, **how):
        tab = visit(f"book/{ASKED[name][0]}", **how)
        return tab, tab.locator(f"figure#{name}")

    return look


@pytest.fixture(params=CHARTS)
def moved(request, look_at):
    return look_at(request.param)


@pytest.mark.parametrize("way", ["mouse", "keyboard", "touch"])
@pytest.mark.parametrize("name", ASKED)
def test_each_control_changes_what_is_shown(look_at, name, way):
    """On a telephone by touch; the words change with the drawing, and nothing fails."""
    tab, figure = look_at(name, touch=True, width=400) if way == "touch" else look_at(name)
    controls = figure.locator("input[type=range], .bits button.owned").all()
    assert controls
    for control in controls:
        before = figure.locator(".stage").inner_html(), figure.locator("output").inner_text()
        box, is_button = control.bounding_box(), control.get_attribute("type") == "button"
        end = {"x": box["width"] * (0.5 if is_button else 0.98), "y": box["height"] / 2}
        if way == "keyboard":
            control.press("Space" if is_button else "End")
        else:
            (control.tap if way == "touch" else control.click)(position=end)
        after = figure.locator(".stage").inner_html(), figure.locator("output").inner_text()
        assert all(a != b for a, b in zip(before, after, strict=True)), control.get_attribute("id")
    assert tab.problems == []


@pytest.mark.parametrize("way", ["mouse", "touch"])
@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind in POINTED])
def test_values_are_told_under_mouse_and_finger(look_at, name, way):
    tab, figure = look_at(name, touch=True, width=400) if way == "touch" else look_at(name)
    target = figure.locator(POINTED[KINDS[name]]).last
    (target.tap if way == "touch" else target.hover)(force=True)
    assert re.search(r"\S: .+, .+", figure.locator(TOLD[KINDS[name]]).text_content())
    if way == "mouse":
        tab.mouse.move(0, 0)
        assert not figure.locator(".tip").count() and "lit:" not in figure.locator("output").inner_text()


def test_keys_move_the_slider_and_the_words_follow(moved):
    tab, figure = moved
    slider = figure.get_by_role("slider")
    assert tab.problems == [] and slider.count() == 1
    assert figure.locator("label").get_attribute("for") == slider.get_attribute("id")
    output, drawing = figure.locator("output"), figure.locator("svg.chart")
    slider.focus()
    tab.keyboard.press("Home")
    first = output.inner_text(), drawing.get_attribute("aria-label"), slider.get_attribute("aria-valuetext")
    tab.keyboard.press("End")
    last = output.inner_text(), drawing.get_attribute("aria-label"), slider.get_attribute("aria-valuetext")
    assert all(a != b for a, b in zip(first, last, strict=True))
    told = tab.evaluate(
        "id => JSON.parse(document.querySelector(`#${id} script`).textContent)", figure.get_attribute("id")
    )
    for place, name in zip(told["places"], told["series"], strict=True):
        assert name in last[0] and drawing.locator(f"g.s{place} path.line").count() >= 1


def test_drawing_fills_its_page_and_says_all_values(moved):
    """Every point of the data at the slider's value is a mark within the drawing."""
    tab, figure = moved
    for width in (400, 1440):
        tab.set_viewport_size({"width": width, "height": 900})
        tab.wait_for_timeout(100)
        drawing = figure.locator("svg.chart")
        box, around = drawing.bounding_box(), figure.bounding_box()
        assert box["width"] > 0.8 * around["width"] and box["x"] + box["width"] <= width
        outside = drawing.evaluate(
            """svg => [...svg.querySelectorAll("path.mark")].map(mark => mark.getBoundingClientRect()).filter(mark => {
                const box = svg.getBoundingClientRect();
                const isWithin = box.left <= mark.left && mark.right <= box.right + 1;
                return !isWithin || mark.top < box.top || mark.bottom > box.bottom;
            })"""
        )
        assert outside == []


def test_pointer_moves_the_slider_along_a_chart(look_at):
    _, figure = look_at("fig-mnist-paper")
    drawing, slider = figure.locator("svg.chart"), figure.get_by_role("slider")
    for share, end in ((0.98, "max"), (0.1, "min")):
        box = drawing.bounding_box()
        drawing.click(position={"x": share * box["width"], "y": 100})
        assert slider.input_value() == slider.get_attribute(end)


def test_flipped_bit_changes_three_labels_and_back(look_at):
    tab, figure = look_at("fig-cmsp-samples")
    bits, output = figure.locator(".bits button"), figure.locator("output")
    place = next(n for n, bit in enumerate(bits.all()) if "owned" in bit.get_attribute("class"))
    before = bits.nth(place).inner_text()
    bits.nth(place - 1).press("ArrowRight")
    tab.keyboard.press("Space")
    assert {before, bits.nth(place).inner_text()} == {"0", "1"}
    changed = [entry.inner_text() for entry in output.locator(".changed").all()]
    assert len(changed) == 3 and all(text.endswith("changed") for text in changed)  # its sub-task, all, this sample
    figure.get_by_role("button", name="as at first").click()
    assert output.locator(".changed").count() == 0


def test_network_is_pruned_and_a_neuron_lights_up(look_at):
    _, figure = look_at("fig-group-lasso-paper-networks")
    slider, one = figure.get_by_role("slider").all()
    units, lines = figure.locator("circle.unit"), figure.locator("line.positive, line.negative")
    whole = units.count()
    slider.press("End")
    assert 0 < units.count() < whole / 2
    n_lines = lines.count()
    one.press("ArrowRight")
    assert lines.count() < n_lines and "lit: one unit of the inputs" in figure.locator("output").inner_text()
    one.press("End")
    assert "lit: one unit of the labels" in figure.locator("output").inner_text()
    figure.get_by_role("combobox").select_option("1")
    assert "after group lasso" in figure.locator("output").inner_text()


def test_digits_by_size(look_at):
    _, figure = look_at("fig-mnist-mistakes")
    figure.get_by_role("slider").press("End")
    names = [picture.get_attribute("aria-label") for picture in figure.locator(".digit svg").all()]
    assert names and all(re.fullmatch(r"\d, read as \d", name) for name in names)
    assert "neurons kept" in figure.locator("output").inner_text()


def test_run_in_time_fills_its_tree(look_at):
    _, figure = look_at("fig-hierarchy-order")
    figure.get_by_role("slider").press("Home")
    assert figure.locator("svg.tree").get_attribute("aria-label") == "learned so far: nothing"
    assert figure.locator("circle.node").count() == len(figure.locator("output .entry").all())


def test_the_figure_itself_is_a_press_away_and_alone_on_paper(moved):
    tab, figure = moved
    image, drawing = figure.locator("img"), figure.locator("svg.chart")
    assert drawing.is_visible() and not image.is_visible()
    figure.get_by_role("button", name="the figure as printed").click()
    image.wait_for()  # it is loaded now
    assert not drawing.is_visible()
    tab.reload(wait_until="networkidle")
    tab.emulate_media(media="print")
    image.wait_for()
    assert not drawing.is_visible()


@pytest.mark.parametrize("name", ASKED)
def test_without_scripts_the_figure_itself_is_shown(look_at, name):
    tab, figure = look_at(name, scripts=False)
    assert figure.locator("img").is_visible()
    assert not tab.locator(f"[data-figure={name}]").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_lines_stand_out_from_the_page(visit, scheme):
    """Contrast of 3 and more, which graphics need (WCAG 1.4.11)."""
    tab = visit("book/llm-frontier", scheme=scheme)
    found = tab.evaluate(
        """() => [getComputedStyle(document.body).backgroundColor,
        ...[...document.querySelectorAll('.interactive-figure path.mark')].map(getComputedStyle)
            .map(style => style.fill === "none" ? style.stroke : style.fill)]"""
    )
    ground, *marks = ([int(part) for part in re.findall(r"\d+", colour)[:3]] for colour in found)
    assert len(marks) > 3 and min(contrast(mark, ground) for mark in marks) >= 3


@pytest.mark.parametrize("name", CHARTS)
def test_moving_and_still_figure_have_the_same_colours(look_at, name):
    _, figure = look_at(name)
    shown = figure.locator("svg.chart g.series").evaluate_all(
        "all => all.map(one => [one.getAttribute('class'), getComputedStyle(one.querySelector('path.line')).stroke])"
    )
    assert shown
    for kind, stroke in shown:
        place = int(kind.split(" s")[-1])
        parts = [int(part) / 255 for part in re.findall(r"\d+", stroke)]
        assert place == INK or parts == pytest.approx(style.PALETTE[place], abs=0.01)


def contrast(one, other):
    shares = [[part / 255 for part in colour] for colour in (one, other)]
    linear = [[p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in colour] for colour in shares]
    dark, light = sorted(0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in linear)
    return (light + 0.05) / (dark + 0.05)


def test_script_is_small(smoke_book):
    script = smoke_book / "book" / "_static" / "interactive.js"
    assert len(script.read_text(encoding="utf-8").splitlines()) < SCRIPT_LINES


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
    assert content.startswith(b"%PDF-")
    assert len(chapters.pages()) < len(re.findall(rb"/Type\s*/Page\b", content)) <= MOST_PAGES
    assert b"/Outlines" in content and b"/StructTreeRoot" in content and b"/Lang" in content
    assert b"127.0.0.1" not in content and b"file:" not in content
    assert f'href="../{finish.PDF}"' in (tree / "_build" / "html" / "book" / "intro.html").read_text()
