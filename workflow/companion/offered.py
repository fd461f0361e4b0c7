"""What a chapter's page offers beside its text: the chapter as notebooks, and a table of its parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from companion import chapters, notebooks


def downloads_of(chapter: str, woven: Any, stage: Path) -> dict[Path, str]:
    """The notebooks that a page offers, without and with outputs, by their paths below the stage."""
    folder = stage / "downloads" / "notebooks"  # lies in the site as notebooks/
    return {
        folder / f"{chapter}.ipynb": notebooks.as_text(notebooks.clean_notebook(chapter)),
        folder / "executed" / f"{chapter}.ipynb": notebooks.as_text(notebooks.executed_notebook(chapter, woven)),
    }


def parameter_table(chapter: str) -> str:
    """What the parameters cell declares, and the values in the profile of the paper, as a folded table."""
    paper = chapters.profile_parameters(chapter, "paper") if "paper" in chapters.profile_names() else {}
    lines = [
        ":::{admonition} The parameters: what they take, and their values in the profile `paper`",
        ":class: dropdown parameters",
        "",
        "| Name | Meaning | Type | Legal | Default | Profile paper |",
        "|---|---|---|---|---|---|",
    ]
    for one in chapters.parameters(chapter).values():
        meaning, legal = one.meaning.replace("|", "\\|"), f"`{one.legal}`" if one.legal else "any"
        values = f"`{one.default!r}` | `{paper.get(one.name, one.default)!r}`"
        lines.append(f"| `{one.name}` | {meaning} | {one.type} | {legal} | {values} |")
    return "\n".join([*lines, ":::"])
