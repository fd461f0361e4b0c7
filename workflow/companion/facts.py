"""How every page and every figure was made: the folded block at a page's end, links to a figure's files, the status."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from companion import chapters
from companion.collect import Figure, mirrored

DARK = "the same file; the style sheet turns its lightness over and keeps its hues"
Facts = Mapping[str, Any]


def page_facts(chapter: str, notebook: Any) -> dict[str, Any]:
    """What an executed notebook says of its making, see `made.take_report`, with start and duration."""
    papermill = notebook.metadata.get("papermill", {})
    return {
        "page": f"book/{chapter}.html",
        "start": papermill.get("start_time"),
        "seconds": papermill.get("duration"),
        **notebook.metadata.get("narrowlib", {}),
    }


def block(facts: Facts, profile: str) -> str:
    """The folded block at the end of a page, in Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items())
    parameters = ", ".join(f"`{name} = {value!r}`" for name, value in facts.get("parameters", {}).items())
    n_threads = facts.get("n_threads")
    threads = f", {n_threads} thread{'' if n_threads == 1 else 's'}" if n_threads else ""
    lines = {
        "Executed": f"{_time(facts)}, in {_seconds(facts)}, with the profile *{profile}*",
        "Commit": _commit(facts),
        "Device": f"{facts.get('device', 'unknown')}{threads}, {facts.get('platform', '')}",
        "Versions": versions or "unknown",
        "Peak memory": _memory(facts),
        "Parameters": parameters or "none",
    }
    items = "\n".join(f"- **{name}:** {value}" for name, value in lines.items())
    return f"```{{dropdown}} How this page was made\n{items}\n```"


def status(pages: Mapping[str, Facts]) -> str:
    """A table in Markdown of how every page was made."""
    lines = ["| page | executed | duration | commit | device | peak memory |", "|---|---|---|---|---|---|"]
    for chapter, facts in pages.items():
        cells = [_time(facts), _seconds(facts), _commit(facts), str(facts.get("device", "unknown")), _memory(facts)]
        lines.append(f"| {{doc}}`/book/{chapter}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def figure_links(figure: Figure, facts: Facts) -> str:
    """Under a figure: its data, itself, and the source of its cell, in html."""
    up = "../" * (figure.chapter.count("/") + 1)
    links = {
        ending: f'<a href="{up}{escape(path)}" download aria-label="{escape(figure.name)} as {ending}">{ending}</a>'
        for ending, path in figure.files.items()
    }
    left_out = "" if figure.every == 1 else f", one in {figure.every} of {figure.rows:,} rows"
    told = [f"data ({links['csv']}{left_out})"] if "csv" in links else []
    told.append("figure (" + ", ".join(links[ending] for ending in ("svg", "png") if ending in links) + ")")
    url = source_of(figure, facts)["url"]
    told += [f'<a href="{escape(url)}">source</a>'] if url else []
    return f'<p class="figure-files">Download: {", ".join(told)}</p>'


def source_of(figure: Figure, facts: Facts) -> dict[str, Any]:
    """Where the cell of a figure stood when it was executed; linked where commit and repository are known."""
    lines = (facts.get("lines") or [])[figure.cell : figure.cell + 1]
    first, last = lines[0] if lines else (None, None)
    file, commit, address = facts.get("source"), facts.get("commit"), chapters.repository()
    is_known = address and commit and lines
    url = f"{address}/blob/{commit}/{file}?plain=1#L{first}-L{last}" if is_known else None
    where = {"file": file, "first_line": first, "last_line": last, "commit": commit, "url": url}
    return {**where, "dirty": facts.get("dirty")}


def book(profile: str, pages: Mapping[str, Facts], figures: Iterable[Figure]) -> dict[str, Any]:
    """Provenance of the whole book; the numbers of its figures come when their pages are rendered."""
    about = [
        {
            "name": figure.name,
            "page": f"book/{figure.chapter}.html",
            "caption": figure.caption,
            "alt": figure.alt,
            "mirrors": mirrored(figure.caption),
            "files": figure.files,
            "data": {"rows": figure.rows, "every": figure.every},
            "dark": DARK,
            "source": source_of(figure, pages[figure.chapter]),
        }
        for figure in figures
    ]
    return {"profile": profile, "pages": dict(pages), "figures": about}


def _time(facts: Facts) -> str:
    start = facts.get("start")
    return f"{start[:10]} {start[11:19]} UTC" if start else "unknown"


def _seconds(facts: Facts) -> str:
    return "unknown" if facts.get("seconds") is None else f"{facts['seconds']:.1f} s"


def _commit(facts: Facts) -> str:
    if not facts.get("commit"):
        return "unknown"
    return f"`{facts['commit'][:12]}`" + (" with uncommitted changes" if facts.get("dirty") else "")


def _memory(facts: Facts) -> str:
    kinds = (("peak_memory_bytes", ""), ("peak_gpu_memory_bytes", " on the GPU"))
    told = [f"{facts[key] / 1e6:,.0f} MB{where}" for key, where in kinds if facts.get(key)]
    return " and ".join(told) or "unknown"
