"""What a chapter's page offers beside its text: the chapter as notebooks, and a table of its parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from companion import notebooks, parameters


def downloads_of(chapter: str, woven: Any, stage: Path) -> dict[Path, str]:
    """The notebooks that a page offers, without and with outputs, by their paths below the stage."""
    folder = stage / "downloads" / "notebooks"  # lies in the site as notebooks/
    return {
        folder / f"{chapter}.ipynb": notebooks.as_text(notebooks.clean_notebook(chapter)),
        folder / "executed" / f"{chapter}.ipynb": notebooks.as_text(notebooks.executed_notebook(chapter, woven)),
    }


def parameter_table(chapter: str) -> str:
    """What a page's parameters mean and take, their values here and the paper's, as a folded table."""
    quick = parameters.quick(chapter)
    lines = [
        ":::{admonition} The parameters, with their values on this page and in the profile `paper`",
        ":class: dropdown parameters",
        "",
        "| Name | Meaning | Type | Legal values | This page | Profile paper |",
        "|---|---|---|---|---|---|",
    ]
    rows = {row.name: row for row in parameters.model(chapter).parameters_table()}
    for row in map(rows.get, quick):
        meaning, legal = (text.replace("|", "\\|") for text in (row.meaning, row.legal))
        lines.append(f"| `{row.name}` | {meaning} | {row.type} | {legal} | `{quick[row.name]!r}` | `{row.default!r}` |")
    return "\n".join([*lines, ":::"])
