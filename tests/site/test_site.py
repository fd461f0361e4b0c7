"""The pages in a real browser: headless Chromium, light and dark, wide and narrow."""

import nbformat
import pytest
from companion import api, chapters
from trees import REPOSITORY

PAGES = [*chapters.pages(), api.page_of("narrowlib.pruning")]


OVERLAPS = """() => {
    const blocks = [...document.querySelectorAll('article section > *:not(section)')];
    const boxes = blocks.map(block => [block, block.getBoundingClientRect()])
        .filter(([block, box]) => box.width && box.height && (block.innerText.trim() || block.querySelector('img')));
    const pairs = [];
    boxes.forEach(([a, p], i) => boxes.slice(i + 1).forEach(([b, q]) => {
        if (a.contains(b) || b.contains(a)) return;
        const wide = Math.min(p.right, q.right) - Math.max(p.left, q.left);
        const high = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
        if (wide > 1 && high > 1) pairs.push([a.innerText.slice(0, 60), b.innerText.slice(0, 60)]);
    }));
    return {blocks: boxes.length, pairs};
}"""


RUN_AXE = """() => axe.run({resultTypes: ["violations"]}).then(found => ({
    passes: found.passes.length,
    violations: found.violations.map(rule => [rule.id, rule.nodes.map(node => node.target)]),
}))"""  # what passes is many times as large as the page

VISITS = [(page, *how) for page in [*PAGES, "search"] for how in (("light", 1440), ("dark", 400))]
VISITS += [(page, *how) for page in ("book/intro", "book/hierarchy") for how in (("dark", 1440), ("light", 400))]


@pytest.mark.parametrize(("page", "scheme", "width"), VISITS)
def test_page_loads_fits_and_keeps_no_one_out(visit, axe, page, scheme, width):
    """No request that fails, nothing wider than the window or on top of another block, no violation of axe's rules."""
    tab = visit(page, width=width, scheme=scheme)
    assert tab.problems == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("document.documentElement.dataset.theme") == scheme
    pictures = tab.locator("figure img:visible").evaluate_all("all => all.map(image => image.naturalWidth)")
    assert all(pictures)
    if page != "search":
        found = tab.evaluate(OVERLAPS)
        assert found["blocks"] > 1 and found["pairs"] == []
    tab.evaluate(axe)
    found = tab.evaluate(RUN_AXE)
    assert found["passes"] > 10 and found["violations"] == []


def test_axe_sees_what_is_wrong(visit, axe):
    tab = visit("book/intro")
    tab.evaluate("() => document.querySelector('article').insertAdjacentHTML('beforeend', '<img src=\"data:,\">')")
    tab.evaluate(axe)
    assert "image-alt" in dict(tab.evaluate(RUN_AXE)["violations"])


@pytest.mark.parametrize("page", ["book/intro", "book/hierarchy", "book/appendix/glossary", PAGES[-1]])
def test_on_paper_the_text_stands_alone_and_unfolded(visit, page):
    tab = visit(page, scheme="dark")
    tab.emulate_media(media="print")
    for selector in (".bd-sidebar-primary", ".bd-header-article", ".toggle-button", ".copybtn"):
        shown = tab.locator(selector)
        assert not any(shown.nth(number).is_visible() for number in range(shown.count())), selector
    folded = tab.locator(".dropdown:not(.parameters, .hint) p")
    assert all(folded.nth(number).is_visible() for number in range(folded.count()))
    tab.wait_for_function("document.documentElement.dataset.theme == 'light'", timeout=3000)
    assert tab.evaluate("getComputedStyle(document.querySelector('article')).color") == "rgb(0, 0, 0)"
    tab.emulate_media(media="screen")
    tab.wait_for_function("document.documentElement.dataset.theme == 'dark'", timeout=3000)


@pytest.mark.parametrize("chapter", chapters.names()[::4])
def test_notebooks_are_delivered_and_open_elsewhere(visit, chapter):
    tab = visit(f"book/{chapter}")
    for kind in ("clean", "executed"):
        link = tab.locator(f'a[href$="/{chapter}.ipynb"]', has_text=kind)
        answer = tab.request.get(tab.evaluate("link => link.href", link.element_handle()))
        notebook = nbformat.reads(answer.text(), as_version=4)
        nbformat.validate(notebook)
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        assert bool(outputs) == (kind == "executed")
    links = tab.evaluate("[...document.querySelectorAll('a')].map(a => a.href)")
    owner = REPOSITORY.removeprefix("https://github.com/")
    assert f"https://colab.research.google.com/github/{owner}/blob/notebooks/book/{chapter}.ipynb" in links
    assert f"https://mybinder.org/v2/gh/{owner}/notebooks?urlpath=lab/tree/book/{chapter}.ipynb" in links
    assert f"{REPOSITORY}/edit/main/book/{chapter}.md" in links


@pytest.mark.parametrize(
    ("page", "block", "inner", "says"),
    [
        ("hierarchy", ".admonition.parameters", "table", "n_task_bits"),
        ("hierarchy", ".solution.dropdown", "p >> nth=1", ""),
        ("methods", "details:has-text('How this page was made')", "li", "Peak memory"),
    ],
)
def test_what_is_folded_unfolds(visit, page, block, inner, says):
    folded = visit(f"book/{page}").locator(block).first
    content = folded.locator(inner).filter(has_text=says).first
    assert not content.is_visible()
    folded.locator("button, .toggle-button, summary").first.click()
    content.wait_for(state="visible", timeout=3000)


def test_languages_are_said(visit):
    tab = visit("book/appendix/glossary")
    assert tab.evaluate("document.documentElement.lang") == "en"
    assert tab.locator('dt[lang="ja"]').count() == tab.locator("dt:not([lang])").count() > 20


def test_mathematics_is_set(visit):
    tab = visit("book/methods")
    assert tab.locator("mjx-container").count() > 10
    assert "\\theta" not in tab.locator("article").inner_text()


def test_theme_switch(visit):
    tab = visit("book/hierarchy", scheme="light")
    assert tab.evaluate("document.documentElement.dataset.theme") == "light"
    for _ in range(3):
        if tab.evaluate("document.documentElement.dataset.theme") == "dark":
            break
        tab.locator("button.theme-switch-button:visible").first.click()
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"
    assert tab.problems == []


def test_first_page_opens_from_the_root(visit):
    tab = visit("index")
    tab.wait_for_url("**/book/intro.html", timeout=5000)
    assert "narrow" in tab.title().lower()
