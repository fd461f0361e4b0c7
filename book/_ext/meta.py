"""What search engines and those who link to a page read: description, picture, canonical address; and the search.

The address of the site is that of GitHub Pages for the repository; without a repository there is none.
"""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

LEAST, MOST = 60, 160  # characters of a description
HEROES = "book/_figures/heroes.json"  # written when the pages are laid out


def home_of(repository: str) -> str:
    """Where GitHub publishes a repository's site; empty for another address."""
    parts = urlsplit(repository or "")
    owner, _, name = parts.path.strip("/").partition("/")
    if parts.netloc != "github.com" or not name:
        return ""
    host = f"{owner.lower()}.github.io"
    return f"https://{host}/" if name.lower() == host else f"https://{host}/{name}/"


def settle(app: Sphinx, config: Config) -> None:
    """The address of the site, and how the search counts."""
    config.html_baseurl = config.html_baseurl or home_of(config.html_theme_options.get("repository_url", ""))
    config.html_search_scorer = str(Path(app.srcdir) / "book" / "_static" / "scorer.js")


def described(doctree: nodes.document | None, title: str) -> str:
    """The first paragraph of a page that says enough, cut at a word; else what its title says."""
    for paragraph in doctree.findall(nodes.paragraph) if doctree else ():
        text = re.sub(r"\s+", " ", paragraph.astext()).strip()
        if len(text) >= LEAST and not isinstance(paragraph.parent, nodes.caption):
            return text if len(text) <= MOST else text[: MOST - 1].rsplit(" ", 1)[0].rstrip(",;:.") + "…"
    return f"{title}: a page of the executable companion to “On the creation of narrow AI” (arXiv 2505.15811)."


def tell(app: Sphinx, page: str, _: str, context: dict[str, Any], doctree: Any) -> None:
    """Write a page's meta tags."""
    home, file = app.config.html_baseurl, Path(app.srcdir) / HEROES
    heroes = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    title = re.sub(r"<[^>]*>", "", context.get("title") or page)
    about = described(doctree, title)
    picture = heroes.get(page) or next(iter(heroes.values()), "")
    tags = {"og:title": title, "og:description": about, "og:type": "article", "og:site_name": app.config.html_title}
    tags |= {"og:url": context.get("pageurl") or ""}
    tags |= {"og:image": f"{home}{picture}" if home and picture else ""}
    written = [f'<meta name="description" content="{html.escape(about)}" />']
    written += [f'<meta property="{name}" content="{html.escape(told)}" />' for name, told in tags.items() if told]
    if home and picture:
        written.append('<meta name="twitter:card" content="summary_large_image" />')
    context["metatags"] = context.get("metatags", "") + "\n".join(written)
    context["site_home"] = home


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx."""
    app.connect("config-inited", settle)
    app.connect("html-page-context", tell)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
