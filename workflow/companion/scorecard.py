"""The scorecard: every claim, the paper's values, ours at every scale, and the verdict.

Nothing is typed here.  Claims come from ``book/claims.yaml``, values from what the executed notebooks assess.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

VERDICTS = ("reproduced", "partly", "not", "not yet run")
COLOURS = {"reproduced": "#2e7d32", "partly": "#9a6700", "not": "#b3261e", "not yet run": "#5f6368"}
IN_TEXT = {"reproduced": "reproduced", "partly": "in part", "not": "not reproduced", "not yet run": "not yet run"}
PAPER = "paper"  # the scale of a record, and the name of the profile
REDUCED = "paper, reduced"  # of a record that departs from the paper in some parameter
_MENTION = re.compile(r"\{(claim|ours|papers)\}`([A-Z]\d+)(?: (\w+))?`")


def scorecard(claims: Mapping[str, Any], profile: str, assessed: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Every claim with what was found.

    Parameters
    ----------
    claims : mapping
        What ``claims.yaml`` holds.
    profile : str
        With which the pages were executed.
    assessed : mapping
        By chapter, see `collect.assessments`.

    Returns
    -------
    dict
        ``profile``; ``counts``, how many claims have which verdict; ``claims``, a list.  The verdict of a claim is that
        of the record where there is one, else that of the page.

    Raises
    ------
    ValueError
        When a chapter assesses a claim twice at one scale.
    """
    rows = []
    for name, claim in claims.items():
        chapter = claim["chapter"]
        page, paper = (_found(assessed.get(chapter, ()), name, scale) for scale in ("this page", PAPER))
        if profile == PAPER and paper is None:
            paper = page
        decisive = paper or page
        rows.append(
            {
                "claim": name,
                "chapter": chapter,
                "url": f"book/{chapter}.html" if chapter in assessed else None,
                "where": claim.get("where", ""),
                "statement": claim["statement"],
                "verdict": decisive["verdict"] if decisive else "not yet run",
                "decided_at": None if decisive is None else _scale(paper) if decisive is paper else profile,
                "quantities": [
                    _quantity(key, about, page, paper) for key, about in claim.get("quantities", {}).items()
                ],
                "page": _told(page),
                "paper_scale": _told(paper),
            }
        )
    counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in VERDICTS}
    return {"profile": profile, "counts": counts, "claims": rows}


def _scale(found: Mapping[str, Any]) -> str:
    """Of what a record or, in the profile of that name, a page at the paper's scale says."""
    return REDUCED if (found["record"] or {}).get("departures") else PAPER


def _found(assessed: Iterable[dict[str, Any]], claim: str, scale: str) -> dict[str, Any] | None:
    results = [result for result in assessed if (result["claim"], result["scale"]) == (claim, scale)]
    if len(results) > 1:
        raise ValueError(
            f"claim {claim} is assessed {len(results)} times at the scale {scale!r}; it must be once, and with "
            f"assess(..., record=record) where the values come from a record"
        )
    return results[0] if results else None


def _quantity(name: str, about: Mapping[str, Any], page: Any, paper: Any) -> dict[str, Any]:
    told = {key: _json_value(about.get(key)) for key in ("what", "paper", "count", "source", "holds", "tolerance")}
    told["rule"] = told.pop("holds")
    ours = {
        where: dict(result["quantities"][name]) if result else None
        for where, result in (("page", page), ("paper_scale", paper))
    }
    return {"name": name, **told, **ours}


def _told(result: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if result is None:
        return None
    return {key: result[key] for key in ("verdict", "figure", "record")}


def _json_value(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sentence(card: Mapping[str, Any]) -> str:
    """How many claims have which verdict, in words."""
    told = [f"{count} {verdict}" for verdict, count in card["counts"].items() if count]
    at_scale, reduced = (sum(row["decided_at"] == scale for row in card["claims"]) for scale in (PAPER, REDUCED))
    return (
        f"Of {len(card['claims'])} claims: {', '.join(told)}. Decided at the paper's scale: {at_scale}; by a "
        f"record that comes nearer to it than these pages: {reduced}; the others by these pages, executed in the "
        f"profile *{card['profile']}*."
    )


def summary(card: Mapping[str, Any]) -> str:
    """A table in Markdown with a row per claim, for the landing page."""
    rows = [
        f"| {{ref}}`{row['claim']} <{label(row['claim'])}>` | {cell(row['statement'])} | {_verdict(row)} |"
        for row in card["claims"]
    ]
    return "\n".join([sentence(card), "", "| claim | what the paper says | here |", "|---|---|---|", *rows])


def table(card: Mapping[str, Any]) -> str:
    """A table in Markdown with a row per quantity."""
    head = ["claim", "quantity", "rule", "the paper", f"ours, {card['profile']}", "ours, recorded"]
    lines = [f"| {' | '.join([*head, 'verdict'])} |", "|---" * (len(head) + 1) + "|"]
    for row in card["claims"]:
        for number, quantity in enumerate(row["quantities"]):
            first = number == 0
            cells = [
                f"{{ref}}`{row['claim']} <{label(row['claim'])}>`" if first else "",
                cell(quantity["what"]),
                f"`{quantity['rule']}`",
                _papers(quantity),
                _ours(quantity["page"]),
                _ours(quantity["paper_scale"]),
                _verdict(row) if first else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def open_claims(card: Mapping[str, Any]) -> str:
    """A list in Markdown of the claims that did not come out whole, each with the values that decided against it."""
    lines = []
    for row in card["claims"]:
        if row["verdict"] == "reproduced":
            continue
        lines.append(f"- {{ref}}`{row['claim']} <{label(row['claim'])}>`, {_verdict(row)}. {row['statement']}")
        for quantity in row["quantities"]:
            found = quantity["paper_scale"] or quantity["page"]
            rule = quantity["rule"].replace(" ", "\u00a0")  # stays on one line
            if found and (not found["holds"] or found.get("near") is False):
                lines.append(
                    f"  - {quantity['what']}: {_ours(found)}; the rule is `{rule}`, the paper's value "
                    f"{_papers(quantity)}"
                )
    return "\n".join(lines) or "None: every claim was reproduced at the scale that decided on it."


def mentioned(text: str, card: Mapping[str, Any]) -> str:
    """A text in Markdown with what it mentions of the scorecard.

    ``{claim}`H2` `` becomes a link to the claim with its verdict, ``{ours}`H2 broad_converged` `` our value of that
    quantity, at the scale that decided, and ``{papers}`H2 broad_converged` `` the paper's.  A claim that the book does
    not judge yet is named without a link.

    Raises
    ------
    ValueError
        When a claim has no such quantity.
    """
    rows = {row["claim"]: row for row in card["claims"]}

    def told(mention: re.Match[str]) -> str:
        kind, claim, name = mention.groups()
        row = rows.get(claim)
        if row is None:
            return f"{claim} (not yet judged)" if kind == "claim" else "(not known here)"
        if kind == "claim":
            return f"{{ref}}`{claim} <{label(claim)}>` ({IN_TEXT[row['verdict']]})"
        quantities = {quantity["name"]: quantity for quantity in row["quantities"]}
        if name not in quantities:
            raise ValueError(f"a page mentions {name!r} of claim {claim}; it must be one of {', '.join(quantities)}")
        if kind == "papers":
            return _value(quantities[name]["paper"])
        found = quantities[name]["paper_scale"] or quantities[name]["page"]
        return "(not known here)" if not found or found["ours"] is None else _value(found["ours"])

    return _MENTION.sub(told, text)


def sections(card: Mapping[str, Any]) -> str:
    """A section in Markdown per claim: what the paper says, where this book checks it, and with what."""
    return "\n\n".join(_section(row) for row in card["claims"])


def _section(row: Mapping[str, Any]) -> str:
    lines = [f"({label(row['claim'])})=", f"### {row['claim']}: {row['verdict']}", "", row["statement"], ""]
    if row["where"]:
        lines.append(f"- In the paper: {row['where']}.")
    lines += [f"- The paper's value for *{q['what']}*: {q['source']}." for q in row["quantities"] if q["source"]]
    checked = (
        f"- Checked in {{doc}}`/book/{row['chapter']}`"
        if row["url"]
        else f"- Its chapter, {row['chapter']}, is not written yet"
    )
    at_scale = _at(row["paper_scale"], "; from a record, ")
    lines.append(f"{checked}{_at(row['page'], ', at ')}{at_scale}.")
    record = (row["paper_scale"] or {}).get("record")
    if record:
        commit = (record.get("commit") or "unknown")[:12]
        lines.append(f"- The record: run on {record.get('device')}, commit `{commit}`.")
        departures = record.get("departures") or {}
        told = [f"`{name}` {value['here']} in place of {value['paper']}" for name, value in departures.items()]
        lines.append(f"- Where that run departs from the paper: {'; '.join(told) or 'nowhere'}.")
    return "\n".join(lines)


def _at(result: Mapping[str, Any] | None, words: str) -> str:
    return f"{words}{{numref}}`{result['figure']}`" if result and result["figure"] else ""


def label(claim: str) -> str:
    """The target of links to a claim's section."""
    return f"claim-{claim.lower()}"


def cell(text: str) -> str:
    """A text in a cell of a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def _verdict(row: Mapping[str, Any]) -> str:
    return f"**{row['verdict']}**" + (f" ({row['decided_at']})" if row["decided_at"] else "")


def _value(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"


def _papers(quantity: Mapping[str, Any]) -> str:
    value, tolerance = quantity["paper"], quantity["tolerance"]
    return _value(value) + ("" if value is None or tolerance is None else f" ± {tolerance:.3g}")


def _ours(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "not yet run"
    marks = ["holds" if found["holds"] else "fails"]
    if found.get("near") is not None:
        marks.append("near" if found["near"] else "far")
    return f"{_value(found['ours'])} ({', '.join(marks)})"


def badge(card: Mapping[str, Any]) -> dict[str, Any]:
    """The badge as data, in the form that shields.io reads from an address."""
    counts = card["counts"]
    message = f"{counts['reproduced']} of {len(card['claims'])}"
    worst = next((v for v in ("not", "partly", "not yet run") if counts[v]), "reproduced")
    return {"schemaVersion": 1, "label": "claims reproduced", "message": message, "color": COLOURS[worst]}


def badge_svg(card: Mapping[str, Any]) -> str:
    """The badge as a picture."""
    told = badge(card)
    left, right = (12 + 6.6 * len(told[key]) for key in ("label", "message"))
    name = escape(f"{told['label']}: {told['message']}")
    text = 'fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right:g}" height="20" role="img" aria-label="{name}">'
        f'<title>{name}</title><rect width="{left + right:g}" height="20" rx="3" fill="#3c4043"/>'
        f'<rect x="{left:g}" width="{right:g}" height="20" rx="3" fill="{told["color"]}"/><g {text}>'
        f'<text x="{left / 2:g}" y="14">{escape(told["label"])}</text>'
        f'<text x="{left + right / 2:g}" y="14">{escape(told["message"])}</text></g></svg>\n'
    )


def files(card: Mapping[str, Any]) -> dict[str, str]:
    """What is written beside the pages."""
    return {
        "scorecard.json": json.dumps(card, indent=1) + "\n",
        "badge.json": json.dumps(badge(card)) + "\n",
        "badge.svg": badge_svg(card),
    }
