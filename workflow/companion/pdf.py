"""Print the book to one PDF: Sphinx joins the pages (its builder singlehtml), and headless Chromium prints the result.

The pages of the library and on how pages are made are not printed, nor are second copies of figures; links to them or
to files beside the pages become plain text.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from companion import api, chapters, finish, plainly, site, stage

if TYPE_CHECKING:
    from playwright.sync_api import Browser

JOINED = chapters.BUILD / "pdf" / "_build" / "singlehtml"
PAGE = "printed.html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
PATIENCE = 300_000  # milliseconds for all pages to load
FOOTER = '<div style="width: 100%; font: 8px sans-serif; text-align: center"><span class="pageNumber"></span></div>'
PAPER = {
    "format": "A4",
    "margin": {"top": "12mm", "bottom": "14mm", "left": "15mm", "right": "15mm"},
    "print_background": True,
    "display_header_footer": True,
    "header_template": "<span></span>",
    "footer_template": FOOTER,
    "outline": True,
    "scale": 0.73,  # text of 7.4 points
    "tagged": True,
}
STYLE = """
nav.contents + *, [id^="document-"] + section { break-before: page; }
article h1, article h2, article h3 { white-space: pre-wrap; }  /* or the outline joins the words at a break */
article h1 { display: block !important; }  /* the theme hides it, having another one on a page of its own */
.figure-files, #jb-print-docs-body { display: none !important; }
html { font-size: 13.5px !important; }
article { line-height: 1.3 !important; }
article p, article ul, article table.dataframe, article figure { margin-bottom: 0.5rem !important; }
article h1, article h2, article h3 { margin-top: 1rem !important; }
article img { max-height: 5.4cm; width: auto; }
.output.text_html, .output pre, .admonition, figure { margin-top: 0.25rem !important; }
[id="document-book/appendix/ja"] + section img,
.hero .run + .run, .runs:not(.hero .runs) > .run:has(.shown-again) { display: none !important; }  /* stand elsewhere */
.contents ul { list-style: none; padding: 0; }
.contents li { margin: 0.35rem 0; }
"""
PREPARE = """(title) => {
  const article = document.querySelector("article");
  ["api", "status"].forEach(name => {  // of the library, and of the making of the pages on screens
    const page = document.getElementById(`document-book/appendix/${name}`);
    page?.nextElementSibling.remove();
    page?.remove();
  });
  article.querySelectorAll(".headerlink, .toggle-button, .interactive-figure, .copybtn").forEach(one => one.remove());
  article.querySelectorAll("[loading]").forEach(one => one.removeAttribute("loading"));
  article.querySelectorAll("details:not(.hide)").forEach(one => { one.open = true; });
  article.querySelectorAll("a[href]").forEach(link => {
    const target = link.getAttribute("href").replace(/^book\\/[^#]*#/, "#"), there = target.startsWith("#");
    if (there ? !document.getElementById(target.slice(1)) : !/^[a-z]+:/.test(target))
      link.outerHTML = `<span class="${link.className}">${link.innerHTML}</span>`;
    else
      link.href = target;
  });
  const contents = document.createElement("nav"), list = document.createElement("ul");
  article.querySelectorAll("[id^='document-'] + section").forEach(page => {
    const link = document.createElement("a");
    link.href = "#" + page.previousElementSibling.id;
    link.textContent = page.querySelector("h1, h2").textContent;
    list.append(document.createElement("li"));
    list.lastChild.append(link);
  });
  contents.className = "contents";
  contents.innerHTML = `<p><b>${title}</b></p>`;
  contents.append(list);
  article.prepend(contents);
  return window.MathJax?.startup?.promise.then(() => {});
}"""


class NotPrintedError(plainly.Refusal):
    """A book that cannot be printed."""

    exit_code = 1


def browser() -> str | None:
    """The Chromium on the path, if there is one."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def join() -> None:
    """Have Sphinx make one page of the staged pages but for those of the library, in `JOINED`."""
    contents = chapters.BUILD / "pdf" / "_toc.yml"
    text = (stage.STAGE / "_toc.yml").read_text(encoding="utf-8")
    chapters.write_if_changed(contents, text.replace(f"glob: {api.INDEX}/*", "glob: nothing/*"))
    if site.render("--toc", str(contents), "--builder", "singlehtml", "-qq", output=str(contents.parent)):
        raise NotPrintedError(f"the book cannot be printed: see {site.LOG}")
    shutil.copy(JOINED / f"{chapters.pages()[0]}.html", JOINED / PAGE)  # its addresses are counted from there
    shutil.copy(stage.BESIDE / "badge.svg", JOINED)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address at which a folder is served."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def write(chromium: Browser, page: Path, target: Path) -> None:
    """Print a page to a file.

    Raises
    ------
    NotPrintedError
        When something that the page asks for cannot be loaded, or its mathematics is not set.
    """
    failed: set[str] = set()
    title = chapters.configuration().get("title") or ""
    with served(page.parent) as address:
        tab = chromium.new_page(color_scheme="light")
        tab.route("**/searchindex.js*", lambda route: route.fulfill(body=""))  # one page has no search
        tab.on("requestfailed", lambda request: failed.add(request.url.removeprefix(address)))
        tab.on("response", lambda answer: answer.status >= 400 and failed.add(answer.url.removeprefix(address)))
        tab.goto(f"{address}/{page.name}", wait_until="networkidle", timeout=PATIENCE)
        tab.add_style_tag(content=STYLE)
        tab.evaluate(PREPARE, title)
        tab.wait_for_load_state("networkidle", timeout=PATIENCE)
        if failed:
            raise NotPrintedError(f"the book cannot be printed: not found: {', '.join(sorted(failed))}")
        if tab.locator(".math:not(:has(mjx-container))").count():
            raise NotPrintedError("the book cannot be printed: its formulas were not typeset")
        tab.pdf(path=target, **PAPER)
        tab.close()


def main(arguments: list[str]) -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(arguments)
    executable = browser()
    if executable is None:
        print(f"no PDF is made: no Chromium is on the path ({', '.join(BROWSERS)})")
        return 0
    from playwright.sync_api import sync_playwright

    join()
    with sync_playwright() as playwright, finish.new_pdf() as target:
        chromium = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        write(chromium, JOINED / PAGE, target)
        chromium.close()
    return 0
