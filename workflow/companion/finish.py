"""After rendering: put what is published beside the pages, number the figures, check every internal link.

What an earlier state of the book left is removed: pages and figures that are gone, and a PDF of the pages as they were.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from companion import chapters, lighten, stage
from narrowlib.store.files import replacing

HTML = chapters.BUILD / "html"
UNNUMBERED = ("#", "#top")  # of a page itself
PDF = "narrow-ai.pdf"
SITEMAP = "sitemap.xml"
_LINK = re.compile(r"<!-- pdf -->.*?<!-- /pdf -->", re.DOTALL)  # its place on the first page


class Page(HTMLParser):
    """What a page links to, what in it can be linked to, and the numbers of its figures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.targets: set[str] = set()
        self.numbers: dict[str, str] = {}
        self.canonical = ""
        self._figure, self._in_number = "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.targets |= {given[name] for name in ("id", "name") if name in given}
        if tag == "link" and given.get("rel") == "canonical":
            self.canonical = given.get("href", "")
        self.links |= {given[name] for name in ("href", "src") if name in given and tag != "base"}
        if tag == "figure":
            self._figure = given.get("id", "")
        self._in_number = tag == "span" and given.get("class") == "caption-number"

    def handle_endtag(self, tag: str) -> None:
        if tag == "figure":
            self._figure = ""

    def handle_data(self, text: str) -> None:
        if self._in_number and self._figure:
            self.numbers[self._figure] = text.strip()
            self._in_number = False


def read_pages(site: Path = HTML) -> dict[str, Page]:
    """Every page of the site by its path; the theme's templates, among the static files, are none."""
    paths = {path.relative_to(site).as_posix(): path for path in sorted(site.rglob("*.html"))}
    return {name: Page(path.read_text(encoding="utf-8")) for name, path in paths.items() if name[:8] != "_static/"}


def broken_links(pages: dict[str, Page], site: Path = HTML) -> list[str]:
    """Every link inside the site that leads nowhere, with the page it stands on."""
    return [
        f"{name}: {link}"
        for name, page in pages.items()
        for link in sorted(page.links)
        if link not in UNNUMBERED and not _leads_somewhere(link, name, pages, site)
    ]


def _leads_somewhere(link: str, name: str, pages: dict[str, Page], site: Path) -> bool:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return True  # outside: make links asks
    path = posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(parts.path))) if parts.path else name
    place = site / path
    is_there = place.is_file() or (place / "index.html").is_file()
    return is_there and (not parts.fragment or path not in pages or unquote(parts.fragment) in pages[path].targets)


def put_beside(pages: dict[str, Page]) -> None:
    """Copy what is published beside the pages, the figures numbered."""
    for path in stage.BESIDE.rglob("*"):
        if path.is_file():
            chapters.write_if_changed(HTML / path.relative_to(stage.BESIDE), path.read_bytes())
    about = json.loads((stage.BESIDE / "provenance.json").read_text(encoding="utf-8"))
    for figure in about["figures"]:
        figure["number"] = pages[figure["page"]].numbers.get(figure["name"])
    chapters.write_if_changed(HTML / "provenance.json", json.dumps(about, indent=1, sort_keys=True) + "\n")


def remove_left() -> None:
    """Remove pages and figures that the book no longer has."""
    for path in (HTML / "book").rglob("*.html"):
        source = stage.STAGE / path.relative_to(HTML)
        if not any(source.with_suffix(ending).is_file() for ending in (".md", ".ipynb")):
            path.unlink()
    for path in (HTML / "figures").rglob("*.*"):
        if not (stage.BESIDE / path.relative_to(HTML)).is_file():
            path.unlink()


def link_pdf(site: Path = HTML) -> None:
    """Have the first page link to the PDF exactly when it is there."""
    first, file = site / f"{chapters.pages()[0]}.html", site / PDF
    link = ""
    if file.is_file():
        address, size = os.path.relpath(file, first.parent), file.stat().st_size / 1e6
        link = f'<p>For printing: <a href="{address}" download>the book as one PDF</a> ({size:.1f} MB).</p>'
    text = _LINK.sub(f"<!-- pdf -->{link}<!-- /pdf -->", first.read_text(encoding="utf-8"))
    chapters.write_if_changed(first, text)


def write_sitemap(pages: dict[str, Page], site: Path = HTML) -> None:
    """List the addresses of all pages of the book for search engines, where the address of the site is known."""
    addresses = sorted(page.canonical for name, page in pages.items() if name.startswith("book/") and page.canonical)
    (site / SITEMAP).unlink(missing_ok=True)
    if addresses:
        listed = "".join(f"<url><loc>{escape(address)}</loc></url>\n" for address in addresses)
        told = f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{listed}</urlset>\n'
        chapters.write_if_changed(site / SITEMAP, f'<?xml version="1.0" encoding="UTF-8"?>\n{told}')


@contextmanager
def new_pdf() -> Iterator[Path]:
    """A path to write the PDF at; then it is in the site, and linked."""
    with replacing(HTML / PDF) as target:
        yield target
    link_pdf()
    print(os.path.relpath(HTML / PDF))


def finish() -> list[str]:
    """Finish what was rendered; the links that lead nowhere."""
    (HTML / PDF).unlink(missing_ok=True)
    link_pdf()
    remove_left()
    lighten.lighten(HTML)
    pages = read_pages()
    put_beside(pages)
    write_sitemap(pages)
    return broken_links(pages)
