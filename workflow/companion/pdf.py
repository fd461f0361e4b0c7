"""The book as one PDF: the rendered pages, put one after another, printed by a headless Chromium.

Links between pages lead to places in the PDF, headings become its outline.  Links to files beside the pages and to the
pages of the library, which are not printed, become plain text.
"""

from __future__ import annotations

import functools
import http.server
import os
import posixpath
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml

from companion import chapters

if TYPE_CHECKING:
    from bs4 import BeautifulSoup
    from playwright.sync_api import Browser

HTML = chapters.BUILD / "html"
NAME = "narrow-ai.pdf"  # in the site
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
PATIENCE = 300_000  # milliseconds for all pages to load
FOOTER = '<div style="width: 100%; font: 8px sans-serif; text-align: center"><span class="pageNumber"></span></div>'
PAPER = {
    "format": "A4",
    "margin": {"top": "18mm", "bottom": "20mm", "left": "16mm", "right": "16mm"},
    "print_background": True,
    "display_header_footer": True,
    "header_template": "<span></span>",
    "footer_template": FOOTER,
    "outline": True,
    "tagged": True,
}
STYLE = """
.printed { break-before: page; }
.printed h1, .printed h2, .printed h3 { white-space: pre-wrap; }  /* or the outline joins the words at a break */
.printed h1 { display: block !important; }  /* the theme hides it, having another one on a page of its own */
.contents ul { list-style: none; padding: 0; }
.contents li { margin: 0.35rem 0; }
"""
_LINK = re.compile(r"<!-- pdf -->.*?<!-- /pdf -->", re.DOTALL)  # its place on the first page


def browser() -> str | None:
    """The Chromium on the path, if there is one."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def joined(site: Path, pages: list[str], title: str) -> str:
    """One page of all pages, its addresses counted from the root of the site.

    Parameters
    ----------
    site : Path
        The rendered site.
    pages : list of str
        As `chapters.pages` names them.
    title : str
        Of the book.
    """
    from bs4 import BeautifulSoup

    soups = {page: BeautifulSoup((site / f"{page}.html").read_text(encoding="utf-8"), "html.parser") for page in pages}
    head = "".join({name: tag for page, soup in soups.items() for name, tag in _head(soup, page).items()}.values())
    articles = {page: _article(soup, page, pages) for page, soup in soups.items()}
    entries = "".join(f'<li><a href="#{_place(page)}">{escape(_title(soup))}</a></li>' for page, soup in soups.items())
    body = "".join(
        f'<section class="printed" id="{_place(page)}" lang="{soups[page].html.get("lang", "en")}">{article}</section>'
        for page, article in articles.items()
    )
    return (
        f'<!DOCTYPE html><html lang="en" data-theme="light" data-mode="light"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title>{head}<style>{STYLE}</style></head><body><main class='bd-main'>"
        f"<div class='bd-content'><div class='bd-article-container'><article class='bd-article'>"
        f"<nav class='contents'><p><b>{escape(title)}</b></p><ul>{entries}</ul></nav>{body}"
        f"</article></div></div></main></body></html>"
    )


def _head(soup: BeautifulSoup, page: str) -> dict[str, str]:
    """Style sheets, and the scripts that set mathematics, by address or content: twice loaded they fail."""
    kept = soup.head.select("link[rel=stylesheet]")
    kept += [tag for tag in soup.select("script") if "mathjax" in f"{tag.get('src', '')}{tag.string or ''}".lower()]
    for tag in kept:
        for name in ("href", "src"):
            if tag.get(name):
                tag[name] = _from_root(tag[name], page)
    return {urlsplit(tag.get("href") or tag.get("src") or "").path or tag.string: str(tag) for tag in kept}


def _article(soup: BeautifulSoup, page: str, pages: list[str]) -> str:
    """The text of a page, ready to stand beside the others."""
    article = soup.select_one("article")
    for tag in article.select("script, .headerlink, .toggle-button, .figure-files, .interactive-figure, .copybtn"):
        tag.decompose()
    for tag in article.select("[id]"):
        tag["id"] = f"{_place(page)}--{tag['id']}"
    for tag in article.select("[src]"):
        tag["src"] = _from_root(tag["src"], page)
    for tag in article.select("[loading]"):
        del tag["loading"]
    for tag in article.select("details"):
        tag["open"] = ""
    for tag in article.select("a[href]"):
        target = _target(tag["href"], page, pages)
        if target is None:
            tag.unwrap()
        else:
            tag["href"] = target
    return article.decode_contents()


def _target(link: str, page: str, pages: list[str]) -> str | None:
    """Where a link of a page leads in the PDF; None where that is not printed."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return link
    other = page
    if parts.path:
        other = _from_root(parts.path, page).removesuffix(".html")
    if other not in pages:
        return None
    return f"#{_place(other)}--{parts.fragment}" if parts.fragment else f"#{_place(other)}"


def _from_root(link: str, page: str) -> str:
    if urlsplit(link).scheme:
        return link
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def _place(page: str) -> str:
    return page.replace("/", "-")


def _title(soup: BeautifulSoup) -> str:
    return soup.select_one("article h1").get_text().rstrip("#").strip()


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


def write(chromium: Browser, site: Path, target: Path, pages: list[str]) -> None:
    """Print pages of a rendered site to a file.

    Raises
    ------
    RuntimeError
        When something that a page asks for cannot be loaded.
    """
    text, failed, temporary = joined(site, pages, _book_title()), set(), target.with_suffix(".part")
    with served(site) as address:
        tab = chromium.new_page(color_scheme="light")
        tab.route(f"{address}/printed.html", lambda route: route.fulfill(body=text, content_type="text/html"))
        tab.on("requestfailed", lambda request: failed.add(request.url.removeprefix(address)))
        tab.on("response", lambda answer: answer.status >= 400 and failed.add(answer.url.removeprefix(address)))
        tab.goto(f"{address}/printed.html", wait_until="networkidle", timeout=PATIENCE)
        tab.evaluate("() => window.MathJax?.startup?.promise")
        if failed:
            raise RuntimeError(f"the book cannot be printed: not found: {', '.join(sorted(failed))}")
        if tab.locator(".math:not(:has(mjx-container))").count():
            raise RuntimeError("the book cannot be printed: its mathematics was not set")
        tab.pdf(path=temporary, **PAPER)
        tab.close()
    temporary.replace(target)


def _book_title() -> str:
    return yaml.safe_load((chapters.ROOT / "_config.yml").read_text(encoding="utf-8"))["title"]


def with_link(text: str, size: int) -> str:
    """The first page with a link to the PDF of so many bytes."""
    up = "../" * chapters.pages()[0].count("/")
    link = f'<a href="{up}{NAME}" download>the book as one PDF</a> ({size / 1e6:.1f} MB)'
    return _LINK.sub(f"<!-- pdf --><p>To read on paper: {link}.</p><!-- /pdf -->", text)


def withdraw(site: Path = HTML) -> None:
    """Remove the PDF of an earlier state of the site, and the link to it."""
    first = site / f"{chapters.pages()[0]}.html"
    chapters.write_if_changed(first, _LINK.sub("<!-- pdf --><!-- /pdf -->", first.read_text(encoding="utf-8")))
    (site / NAME).unlink(missing_ok=True)


def main() -> int:
    executable = browser()
    if executable is None:
        print(f"no PDF is made: no Chromium is on the path ({', '.join(BROWSERS)})")
        return 0
    from playwright.sync_api import sync_playwright

    try:
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=executable, args=FLAGS)
            write(chromium, HTML, HTML / NAME, chapters.pages())
            chromium.close()
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    first = HTML / f"{chapters.pages()[0]}.html"
    text = with_link(first.read_text(encoding="utf-8"), (HTML / NAME).stat().st_size)
    chapters.write_if_changed(first, text)
    print(os.path.relpath(HTML / NAME))
    return 0


if __name__ == "__main__":
    sys.exit(main())
