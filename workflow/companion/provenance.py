"""How every page and every figure was made: the folded block at a page's end, links to a figure's files, the status."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

import yaml

from companion import chapters
from companion.collect import Figure, mirrored

DARK = "the same file; the style sheet turns its lightness over and keeps its hues"


def page_facts(chapter: str, notebook: Any) -> dict[str, Any]:
    """What an executed notebook says of its making, see `made.take_report`, with start and duration."""
    papermill = notebook.metadata.get("papermill", {})
    facts = dict(notebook.metadata.get("narrowlib", {}))
    return {
        "page": f"book/{chapter}.html",
        "start": papermill.get("start_time"),
        "seconds": papermill.get("duration"),
        **facts,
    }


def block(facts: Mapping[str, Any], profile: str) -> str:
    """The folded block at the end of a page, in Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items())
    parameters = ", ".join(f"`{name} = {value!r}`" for name, value in facts.get("parameters", {}).items())
    threads = f", {facts['n_threads']} threads" if facts.get("n_threads") else ""
    lines = {
        "Executed": f"{_time(facts)}, in {_seconds(facts)}, profile *{profile}*",
        "Commit": _commit(facts),
        "Device": f"{facts.get('device', 'unknown')}{threads}, {facts.get('platform', '')}",
        "Versions": versions or "unknown",
        "Peak memory": _memory(facts),
        "Parameters": parameters or "none",
    }
    items = "\n".join(f"- **{name}:** {value}" for name, value in lines.items())
    return f"```{{dropdown}} How this page was made\n{items}\n```"


def status(pages: Mapping[str, Mapping[str, Any]]) -> str:
    """A table in Markdown of how every page was made."""
    lines = ["| page | executed | took | commit | device | peak memory |", "|---|---|---|---|---|---|"]
    for chapter, facts in pages.items():
        cells = [_time(facts), _seconds(facts), _commit(facts), str(facts.get("device", "unknown")), _memory(facts)]
        lines.append(f"| {{doc}}`/book/{chapter}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def figure_links(figure: Figure, facts: Mapping[str, Any]) -> str:
    """Under a figure: its data, itself, and the source of its cell, in html."""
    up = "../" * (figure.chapter.count("/") + 1)
    links = {
        ending: f'<a href="{up}{escape(path)}" download aria-label="{escape(figure.name)} as {ending}">{ending}</a>'
        for ending, path in figure.files.items()
    }
    said = []
    if "csv" in links:
        said.append(f"data ({links['csv']}{_left_out(figure)})")
    said.append("figure (" + ", ".join(links[ending] for ending in ("svg", "png") if ending in links) + ")")
    source = source_of(figure, facts)
    if source["url"]:
        said.append(f'<a href="{escape(source["url"])}">source</a>')
    return f'<p class="figure-files">Download: {", ".join(said)}</p>'


def _left_out(figure: Figure) -> str:
    return "" if figure.every == 1 else f", one row in {figure.every} of {figure.rows:,}"


def figure_facts(figure: Figure, facts: Mapping[str, Any]) -> dict[str, Any]:
    """All that is to be known of a figure but its number, which it gets when its page is rendered."""
    return {
        "name": figure.name,
        "page": f"book/{figure.chapter}.html",
        "caption": figure.caption,
        "alt": figure.alt,
        "mirrors": mirrored(figure.caption),
        "files": figure.files,
        "data": {"rows": figure.rows, "every": figure.every},
        "dark": DARK,
        "source": source_of(figure, facts),
    }


def source_of(figure: Figure, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Where the cell of a figure stands, as it was when it was executed."""
    lines = (facts.get("lines") or [])[figure.cell : figure.cell + 1]
    first, last = lines[0] if lines else (None, None)
    commit, file, url = facts.get("commit"), facts.get("source"), None
    if repository() and commit and lines:
        url = f"{repository()}/blob/{commit}/{file}?plain=1#L{first}-L{last}"
    return {
        "file": file,
        "first_line": first,
        "last_line": last,
        "commit": commit,
        "dirty": facts.get("dirty"),
        "url": url,
    }


def repository() -> str:
    """Address of the repository, where ``_config.yml`` names it."""
    config = yaml.safe_load((chapters.ROOT / "_config.yml").read_text(encoding="utf-8"))
    return ((config.get("repository") or {}).get("url") or "").rstrip("/")


def book(profile: str, pages: Mapping[str, Any], figures: Iterable[tuple[Figure, Mapping[str, Any]]]) -> dict[str, Any]:
    """Provenance of the whole book, the numbers of its figures not yet known."""
    return {
        "profile": profile,
        "pages": dict(pages),
        "figures": [figure_facts(figure, facts) for figure, facts in figures],
    }


def _time(facts: Mapping[str, Any]) -> str:
    start = facts.get("start")
    return f"{start[:10]} {start[11:19]} UTC" if start else "unknown"


def _seconds(facts: Mapping[str, Any]) -> str:
    return "unknown" if facts.get("seconds") is None else f"{facts['seconds']:.1f} s"


def _commit(facts: Mapping[str, Any]) -> str:
    if not facts.get("commit"):
        return "unknown"
    return f"`{facts['commit'][:12]}`" + (" with changes" if facts.get("dirty") else "")


def _memory(facts: Mapping[str, Any]) -> str:
    told = [
        f"{facts[key] / 1e6:,.0f} MB{where}"
        for key, where in (("peak_memory_bytes", ""), ("peak_gpu_memory_bytes", " on the GPU"))
        if facts.get(key)
    ]
    return " and ".join(told) or "unknown"
