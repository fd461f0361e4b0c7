"""What a reader sees first: the figure that decides, the verdicts as chips, and the tiles of the first page."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
from collections.abc import Mapping
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from companion import chapters, scorecard
from companion.collect import Figure

MOST_BYTES = 120_000  # compressed, of a drawing that a page shows as such
FIGURES = "book/_figures"  # of the stage: figures that are shown again
PAGES = f"{FIGURES}/heroes.json"  # of the stage: the picture of every page, for who links to it
CARD = "book/appendix/scorecard"
KINDS = dict(zip(scorecard.DECIDED, ("good", "part", "bad"), strict=True))
SIGNS = {"good": "✓", "part": "◐", "bad": "✗", "open": "○"}
SCALES = {"record": "from a record", "record, reduced": "from a record of reduced scale"}
VERDICTS_JA = dict(
    zip(
        scorecard.VERDICTS,
        (
            "再現した",
            "一部再現した",
            "再現しなかった",
            "この規模では判定できない",
            "傾向は見られた",
            "傾向は見られなかった",
            "未実行",
        ),
        strict=True,
    )
)
RUNS = {"paper_scale": "The record", "page": "This page's run"}
Card = Mapping[str, Any]
Figures = Mapping[str, Figure]


def kind(verdict: str) -> str:
    """The colour and sign of a verdict: ``good``, ``part``, ``bad``, or ``open`` for what decides nothing."""
    return KINDS.get(verdict, "open")


def told(verdict: str) -> str:
    """A verdict with its sign, as chips and tiles show it."""
    return f"{SIGNS[kind(verdict)]} {verdict}"


@cache
def _photograph(bitmap: bytes) -> bytes:
    from PIL import Image

    written = io.BytesIO()
    Image.open(io.BytesIO(bitmap)).convert("RGB").save(written, "JPEG", quality=60, optimize=True)
    return written.getvalue()


def shown(figure: Figure) -> tuple[str, bytes]:
    """What a page shows of a figure, ending and content: the drawing, or of a heavy one a light picture.

    The files to download hold the drawing in any case.
    """
    drawing = figure.contents["svg"]
    if "png" not in figure.contents or len(drawing) < MOST_BYTES or len(gzip.compress(drawing)) < MOST_BYTES:
        return "svg", drawing
    return "jpg", _photograph(figure.contents["png"])


def image_of(figure: Figure) -> str:
    """Where the stage holds a figure that is shown again; another name for another content."""
    ending, content = shown(figure)
    return f"{FIGURES}/{figure.name}-{hashlib.sha256(content).hexdigest()[:8]}.{ending}"


def shown_again(figure: Figure, where: bool = True) -> str:
    """A figure of a chapter at another place, in Markdown, with its caption and the way to where it stands."""
    place = f", in {{doc}}`/book/{figure.chapter}`" if where else ""
    return f""":::{{container}} shown-again
```{{image}} /{image_of(figure)}
:alt: {figure.alt}
```

{{numref}}`{figure.name}`{place}. {figure.caption}
:::"""


def pairs(chapter: str, card: Card, figures: Figures) -> dict[str, str]:
    """Figures of a chapter's records by the figure of the page that shows the same claim, in the claims' order."""
    found: dict[str, str] = {}
    for row in card["claims"]:
        page, record = ((row[where] or {}).get("figure") for where in ("page", "paper_scale"))
        is_pair = row["chapter"] == chapter and page in figures and record in figures and page != record
        if is_pair and page not in found and record not in found.values():
            found[page] = record
    return found


def of(chapter: str, card: Card, figures: Figures) -> Figure | None:
    """The figure that a chapter begins with: of the record that decides its first claim, else of its page."""
    own = [one for one in figures.values() if one.chapter == chapter]
    rows = [row for row in card["claims"] if row["chapter"] == chapter]
    named = [(row[where] or {}).get("figure") for where in RUNS for row in rows]
    return next((figures[name] for name in named if name in figures), own[0] if own else None)


def sentence(row: Mapping[str, Any]) -> str:
    """What decided on a claim, from its data: the first quantity that fails its rule, and the rule, else the first."""
    values = [(quantity, quantity["paper_scale"] or quantity["page"]) for quantity in row["quantities"]]
    known = [(quantity, found) for quantity, found in values if found and found["ours"] is not None]
    if not known:
        return ""
    quantity, found = next((one for one in known if not one[1]["holds"]), known[0])
    low, here, high = (scorecard.shown(found[name]) for name in ("low", "ours", "high"))
    interval = "" if found["low"] is None else f" [{low},\N{NO-BREAK SPACE}{high}]"
    compared = "" if quantity["paper"] is None else f", {scorecard.shown(quantity['paper'])} in the paper"
    about = [SCALES.get(row["decided_at"], "from this page's run")]
    if row["reasons"]:
        more = f", and {len(row['reasons']) - 1} more" if len(row["reasons"]) > 1 else ""
        about.append(f"the record lacks {row['reasons'][0]}{more}")
    elif not found["holds"]:
        rule = quantity["rule"].replace(">=", "≥").replace("<=", "≤")
        about.append(f"rule for the whole interval: {rule}")
    return f"{quantity['what']}: **{here}**{interval} here{compared} ({'; '.join(about)})"


def chips(chapter: str, card: Card) -> str:
    """The verdicts on a chapter's claims with a sentence each, in Markdown; empty without claims."""
    blocks = []
    for row in (row for row in card["claims"] if row["chapter"] == chapter):
        label = f"{row['claim']} {told(row['verdict'])}"
        link = f"{{ref}}`{label} <{scorecard.label(row['claim'])}>`" if CARD in chapters.pages() else f"**{label}**"
        blocks.append(f":::{{container}} verdict {kind(row['verdict'])}\n{link} {sentence(row)}\n:::")
    return "\n\n".join(blocks)


def tabs(panels: Mapping[str, str]) -> str:
    """Blocks in Markdown under their names; a script makes tabs of them, and without it all are shown."""
    parts = [
        f'<div class="run"><p class="run-name">{escape(name)}</p>\n\n{text}\n\n</div>' for name, text in panels.items()
    ]
    return '<div class="runs">\n\n' + "\n\n".join(parts) + "\n\n</div>"


def around(record: Figure) -> list[str]:
    """What stands before and after the figure of a page's run, so that it is a tab beside the one of the record."""
    here = "% here"
    return tabs(dict(zip(RUNS.values(), (shown_again(record, where=False), here), strict=True))).split(here)


def opening(chapter: str, card: Card, figures: Figures) -> str:
    """What stands below the claim of a chapter: verdicts, and the figure that decides, in Markdown."""
    first = of(chapter, card, figures)
    if first is None:
        return ""
    record_of = {record: page for page, record in pairs(chapter, card, figures).items()}
    picture = shown_again(first, where=False)
    if first.name in record_of:
        other = shown_again(figures[record_of[first.name]], where=False)
        picture = tabs(dict(zip(RUNS.values(), (picture, other), strict=True)))
    return f"::::{{container}} hero\n{chips(chapter, card)}\n\n{picture}\n::::"


def japanese(card: Card, figures: Figures) -> str:
    """Every chapter in short for Japanese readers: claims with verdicts, the figure it begins with, its takeaway."""
    claims, parts = chapters.claims(), []
    for chapter in (name for name in chapters.names() if (name in {one.chapter for one in figures.values()})):
        parts.append(f"### {{doc}}`/book/{chapter}`")
        for row in (row for row in card["claims"] if row["chapter"] == chapter):
            verdict = f"{SIGNS[kind(row['verdict'])]} {VERDICTS_JA[row['verdict']]}"
            link = f"{{ref}}`{row['claim']} {verdict} <{scorecard.label(row['claim'])}>`"
            parts.append(
                f":::{{container}} verdict {kind(row['verdict'])}\n{link} {claims[row['claim']].get('ja', '')}\n:::"
            )
        first = of(chapter, card, figures)
        if first and first.japanese:
            picture = f"```{{image}} /{image_of(first)}\n:alt: {first.japanese}\n```"
            parts.append(f":::{{container}} shown-again\n{picture}\n\n{{numref}}`{first.name}`。{first.japanese}\n:::")
        source = chapters.text_of(chapters.source_path(chapter))
        parts += [f"**まとめ。** {text}" for text in re.findall(r"^% ja: (.+)$", source, re.MULTILINE)]
    return "\n\n".join(parts)


def tiles(card: Card) -> str:
    """The claims of the book with their verdicts as links, in html, for the first page."""
    home = Path(chapters.pages()[0]).parent
    links = []
    for row in card["claims"]:
        address = os.path.relpath(row["url"] or f"{CARD}.html#{scorecard.label(row['claim'])}", home)
        links.append(
            f'<a class="tile {kind(row["verdict"])}" href="{escape(address)}" data-claim="{row["claim"]}" '
            f'data-verdict="{escape(row["verdict"])}"><b>{row["claim"]}</b> <span class="says">'
            f"{escape(told(row['verdict']))}</span> <small>{escape(row['statement'])}</small></a>"
        )
    return f'<nav class="tiles" aria-label="Claims and verdicts">{"".join(links)}</nav>'


def buttons() -> str:
    """Links of the first page that a reader looks for first, in html."""
    links = {"The paper on arXiv": "https://arxiv.org/abs/2505.15811"}
    if chapters.repository():
        links["The code of this book"] = chapters.repository()
    links |= {"Run it": "#how-to-run-it", "Narrow your own model": "recipe.html"}
    if "book/recipe" not in chapters.pages():
        del links["Narrow your own model"]
    return '<p class="ways">' + " ".join(f'<a href="{escape(to)}">{name}</a>' for name, to in links.items()) + "</p>"
