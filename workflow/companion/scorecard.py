"""The scorecard: every claim, the paper's values, ours at every scale, and the verdict.

Nothing is typed here.  Claims come from ``book/claims.yaml``, values from what the executed notebooks assess.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from narrowlib.claims import IN_PART, NOT_REPRODUCED, NOT_SEEN, REPRODUCED, SEEN, UNDECIDED, json_value
from narrowlib.texts import counted

NOT_YET = "not yet run"
DECIDED = {REPRODUCED: "#2e7d32", IN_PART: "#9a6700", NOT_REPRODUCED: "#b3261e"}  # with the colour of the badge
VERDICTS = DECIDED | dict.fromkeys((UNDECIDED, SEEN, NOT_SEEN, NOT_YET), "#5f6368")
PAGE, RECORD = "this page", "record"  # what values come from
_MENTION = re.compile(r"\{(claim|ours|papers|in)\}`([A-Z]\d+)(?: (\w+))?`")


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
        of its records where there is one, see `_joint`, else that of the page.

    Raises
    ------
    ValueError
        When a chapter assesses a claim twice from its page, or twice from one record.
    """
    rows = []
    for name, claim in claims.items():
        chapter = claim["chapter"]
        found = [each for each in assessed.get(chapter, ()) if each["claim"] == name]
        page, records = _sorted(name, found)
        decisive = records[0] if records else page
        rows.append(
            {
                "claim": name,
                "chapter": chapter,
                "url": f"book/{chapter}.html" if chapter in assessed else None,
                "where": claim.get("where", ""),
                "statement": claim["statement"],
                "verdict": _joint(records) if records else page["verdict"] if page else NOT_YET,
                "decided_at": None if decisive is None else profile if decisive is page else _scale(records[0]),
                "reasons": decisive["reasons"] if decisive else [],
                "quantities": [_quantity(key, about, page, records) for key, about in claim["quantities"].items()],
                "page": _told(page),
                "paper_scale": _told(records[0] if records else None),
                "records": [_told(record) for record in records],
            }
        )
    counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in VERDICTS}
    return {"profile": profile, "counts": counts, "claims": rows}


def _scale(found: Mapping[str, Any]) -> str:
    """What a record is called: it has the paper's parameters, or not."""
    return "record, reduced" if found["record"].get("departures") else "record"


def _sorted(claim: str, found: list[dict[str, Any]]) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """What a page says of a claim, and what its records do: those that decide first."""
    pages, records = ([each for each in found if each["scale"] == scale] for scale in (PAGE, RECORD))
    names = [record["record"]["name"] for record in records]
    if len(pages) > 1 or len(set(names)) < len(names):
        raise ValueError(
            f"claim {claim} is assessed {len(pages)} times on its page and from the records "
            f"{', '.join(names) or 'none'}; it must be once of each, and with "
            f"assess(..., record=record) where the values come from a record"
        )
    records.sort(key=lambda each: (each["verdict"] not in DECIDED, len(each["reasons"])))
    return (pages or [None])[0], records


def _joint(records: list[dict[str, Any]]) -> str:
    """The verdict of all records of a claim: that on which those that decide agree, and else that it holds in part."""
    verdicts = {record["verdict"] for record in records if record["verdict"] in DECIDED}
    return records[0]["verdict"] if len(verdicts) < 2 else IN_PART


def _quantity(name: str, about: Mapping[str, Any], page: Any, records: list[dict[str, Any]]) -> dict[str, Any]:
    keys = ("what", "paper", "read", "count", "source", "interval", "holds", "tolerance", "only")
    told = {key: json_value(about.get(key)) for key in keys}
    told["rule"] = told.pop("holds")
    of_records = [{"name": record["record"]["name"], **record["quantities"][name]} for record in records]
    return {
        "name": name,
        **told,
        "page": (page or {"quantities": {}})["quantities"].get(name),
        "paper_scale": of_records[0] if records else None,
        "records": of_records,
    }


def _told(result: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if result is None:
        return None
    return {key: result[key] for key in ("verdict", "reasons", "figure", "record")}


def sentence(card: Mapping[str, Any]) -> str:
    """How many claims have which verdict, in words."""
    if not card["claims"]:
        return "This book judges no claim of the paper."
    told = [f"{count} {verdict}" for verdict, count in card["counts"].items() if count]
    n_claims, n_decided = len(card["claims"]), sum(card["counts"][verdict] for verdict in DECIDED)
    decided = f"Of {counted(n_claims, 'claim')}: {', '.join(told)}. Records decide {n_decided}."
    if n_decided == n_claims:
        return decided
    return (
        f"{decided} For the others, the scorecard states what their records lack, or whether their pages show the "
        f"direction (profile *{card['profile']}*)."
    )


def summary(card: Mapping[str, Any]) -> str:
    """A table in Markdown with a row per claim, for the landing page."""
    rows = [
        f"| {{ref}}`{row['claim']} <{label(row['claim'])}>` | {cell(row['statement'])} | {_verdict(row)} |"
        for row in card["claims"]
    ]
    return "\n".join([sentence(card), "", "| claim | what the paper says | verdict here |", "|---|---|---|", *rows])


def table(card: Mapping[str, Any]) -> str:
    """A table in Markdown with a row per quantity."""
    head = ["claim", "quantity", "rule", "the paper", f"this page, {card['profile']}", "records"]
    lines = [f"| {' | '.join([*head, 'verdict'])} |", "|---" * (len(head) + 1) + "|"]
    for row in card["claims"]:
        for number, quantity in enumerate(row["quantities"]):
            first = number == 0
            cells = [
                f"{{ref}}`{row['claim']} <{label(row['claim'])}>`" if first else "",
                cell(quantity["what"]),
                f"`{quantity['rule']}`",
                _papers(quantity),
                _ours(quantity["page"], f"{quantity['only']} only" if quantity["only"] else "not yet run"),
                "<br>".join(map(_ours, quantity["records"])) or "none",
                _verdict(row) if first else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def open_claims(card: Mapping[str, Any]) -> str:
    """A list in Markdown of the claims that did not come out whole, each with the values that decided against it."""
    lines = []
    for row in card["claims"]:
        if row["verdict"] == REPRODUCED:
            continue
        lines.append(f"- {{ref}}`{row['claim']} <{label(row['claim'])}>`, {_verdict(row)}. {row['statement']}")
        if row["reasons"]:
            lines.append(f"  - The record lacks: {'; '.join(row['reasons'])}.")
        for quantity in row["quantities"]:
            found = quantity["paper_scale"] or quantity["page"]
            rule = quantity["rule"].replace(" ", "\u00a0")  # stays on one line
            if found and (not found["direction"] or (row["verdict"] in DECIDED and _is_against(found))):
                lines.append(
                    f"  - {quantity['what']}: {_ours(found)}; rule: `{rule}`; the paper's value: {_papers(quantity)}"
                )
    return "\n".join(lines) or "None: every claim was reproduced."


def in_share(share: float) -> str:
    """``all``, ``none`` or ``64%``, to stand before "of the networks"."""
    return {0.0: "none", 1.0: "all"}.get(share, f"{share:.0%}")


def mentioned(text: str, card: Mapping[str, Any]) -> str:
    """A text in Markdown with what it mentions of the scorecard.

    ``{claim}`H2` `` becomes a link to the claim with its verdict, ``{ours}`H2 broad_converged` `` our value of that
    quantity, at the scale that decided, ``{in}`H2 broad_converged` `` the same of a share in words that go before "of
    the networks", and ``{papers}`H2 broad_converged` `` the paper's.  A claim that the book does not judge yet is named
    without a link.

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
            return f"{claim} (not judged in this book)" if kind == "claim" else "(not known here)"
        if kind == "claim":
            return f"{{ref}}`{claim} <{label(claim)}>` ({row['verdict']})"
        quantities = {quantity["name"]: quantity for quantity in row["quantities"]}
        if name not in quantities:
            raise ValueError(f"a page mentions {name!r} of claim {claim}; it must be one of {', '.join(quantities)}")
        if kind == "papers":
            return shown(quantities[name]["paper"])
        found = quantities[name]["paper_scale"] or quantities[name]["page"]
        if not found or found["ours"] is None:
            return "(not known here)"
        return in_share(found["ours"]) if kind == "in" else shown(found["ours"])

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
        else f"- Its chapter, `{row['chapter']}`, is not written yet"
    )
    at_scale = "".join(_at(record, "; from a record: ") for record in row["records"])
    lines.append(f"{checked}{_at(row['page'], ', in ')}{at_scale}.")
    lines += [line for record in row["records"] for line in _of_record(record)]
    return "\n".join(lines)


def _of_record(found: Mapping[str, Any]) -> list[str]:
    record, lacks = found["record"], "; ".join(found["reasons"])
    told = [f"`{name}` is {value['here']} instead of {value['paper']}" for name, value in _departures(record)]
    commit = (record.get("commit") or "unknown")[:12]
    return [
        f"- The record `{record['name']}`, run on {record.get('device')}, commit `{commit}`: **{found['verdict']}**"
        + (f". To decide, it lacks: {lacks}." if lacks else "."),
        f"  - Departures from the paper's parameters: {'; '.join(told) or 'none'}.",
    ]


def _departures(record: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    return (record.get("departures") or {}).items()


def _is_against(found: Mapping[str, Any]) -> bool:
    return not found["holds"] or found["near"] is False


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


def shown(value: float | None) -> str:
    """A number as tables and sentences show it."""
    return "none" if value is None else f"{value:.3g}"


def _papers(quantity: Mapping[str, Any]) -> str:
    value, tolerance = quantity["paper"], quantity["tolerance"]
    told = shown(value) + ("" if value is None or tolerance is None else f" ± {tolerance:.3g}")
    return told + (" (in pixels)" if quantity["read"] == "pixels" else "")


def _ours(found: Mapping[str, Any] | None, without: str = "not yet run") -> str:
    if found is None:
        return without
    if found["ours"] is None:
        return "not measured"
    bounds = "" if found["low"] is None else f" [{shown(found['low'])}, {shown(found['high'])}]"
    marks = ["holds" if found["holds"] else "direction only" if found["direction"] else "fails"]
    if found["near"] is not None:
        marks.append("near" if found["near"] else "far")
    return f"{shown(found['ours'])}{bounds} ({', '.join(marks)})"


def badge(card: Mapping[str, Any]) -> dict[str, Any]:
    """The badge as data, in the form that shields.io reads from an address."""
    counts = card["counts"]
    message = f"{counts[REPRODUCED]} of {len(card['claims'])}"
    worst = next((v for v in (NOT_REPRODUCED, IN_PART, *list(VERDICTS)[3:]) if counts[v]), REPRODUCED)
    return {"schemaVersion": 1, "label": "claims reproduced", "message": message, "color": VERDICTS[worst]}


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
