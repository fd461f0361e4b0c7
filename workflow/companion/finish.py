"""After rendering: put what is published beside the pages, number the figures, check every internal link.

A PDF of the pages as they were before is withdrawn.
"""

from __future__ import annotations

import json
import posixpath
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from companion import chapters, pdf

HTML = chapters.BUILD / "html"
BESIDE = chapters.BUILD / "beside"
UNNUMBERED = ("#", "#top")  # of a page itself


class Page(HTMLParser):
    """What a page links to, what in it can be linked to, and the numbers of its figures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.targets: set[str] = set()
        self.numbers: dict[str, str] = {}
        self._figure, self._in_number = "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.targets |= {given[name] for name in ("id", "name") if name in given}
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
    broken = []
    for name, page in pages.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link in UNNUMBERED:
                continue
            path = (
                posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(parts.path))) if parts.path else name
            )
            place = site / path
            is_there = place.is_file() or (place.is_dir() and (place / "index.html").is_file())
            if is_there and parts.fragment and path in pages:
                is_there = unquote(parts.fragment) in pages[path].targets
            if not is_there:
                broken.append(f"{name}: {link}")
    return broken


def put_beside(pages: dict[str, Page]) -> None:
    """Copy what is published beside the pages, the figures numbered, and drop what an earlier build left of it."""
    wanted = {path.relative_to(BESIDE).as_posix(): path.read_bytes() for path in BESIDE.rglob("*") if path.is_file()}
    about: dict[str, Any] = json.loads(wanted["provenance.json"])
    for figure in about["figures"]:
        figure["number"] = pages[figure["page"]].numbers.get(figure["name"])
    wanted["provenance.json"] = (json.dumps(about, indent=1, sort_keys=True) + "\n").encode()
    for path, content in wanted.items():
        chapters.write_if_changed(HTML / path, content)
    for path in (HTML / "figures").rglob("*"):
        if path.is_file() and path.relative_to(HTML).as_posix() not in wanted:
            path.unlink()


def main() -> int:
    pdf.withdraw()
    pages = read_pages()
    put_beside(pages)
    broken = broken_links(pages)
    for link in broken:
        print(f"a link leads nowhere: {link}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
