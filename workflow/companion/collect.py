"""What the executed notebooks hold beside their pages: figures with their data, and assessed claims."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

CLAIMS = "application/vnd.narrowlib.claims+json"  # narrowlib.claims
DATA = "text/csv"  # narrowlib.chapters.style
VECTOR, BITMAP = "image/svg+xml", "image/png"
NOT_MIRRORED = "Not in the paper."
_MIRRORED = re.compile(r"Mirrors (?P<what>.+?),? of the paper\.")


@dataclass(frozen=True)
class Figure:
    """A figure cell with its outputs.  ``cell`` is its number among the code cells of the chapter's source."""

    chapter: str
    name: str
    caption: str
    alt: str
    cell: int
    contents: Mapping[str, bytes]  # by ending of the file: csv, svg, png
    rows: int
    every: int
    interactive: Mapping[str, Any] | None = None  # what can be moved in it, see `interactive.block`

    @property
    def files(self) -> dict[str, str]:
        """Where its files lie in the site, by ending."""
        return {ending: f"figures/{self.chapter}/{self.name}.{ending}" for ending in self.contents}


def mirrored(caption: str) -> str | None:
    """The figure of the paper that a caption names in ``Mirrors ... of the paper.``

    Returns
    -------
    str or None
        ``"nothing"`` when the caption says that there is none; None when it says neither.
    """
    found = _MIRRORED.search(caption)
    if found:
        return found["what"]
    return "nothing" if NOT_MIRRORED in caption else None


def figures(chapter: str, notebook: Any) -> list[Figure]:
    """Every figure of a chapter, in the order of its page."""
    found = []
    for number, cell in enumerate(_own_cells(notebook)):
        asked = cell.metadata.get("mystnb", {}).get("figure")
        outputs = [output for output in cell.outputs if VECTOR in output.get("data", {})]
        if not asked or not outputs:
            continue
        data, about = outputs[0]["data"], outputs[0].get("metadata", {}).get(DATA, {})
        contents = {"svg": _text(data[VECTOR]).encode()}
        if BITMAP in data:
            contents["png"] = base64.b64decode(data[BITMAP])
        if DATA in data:
            contents["csv"] = _text(data[DATA]).encode()
        found.append(
            Figure(
                chapter,
                asked["name"],
                " ".join(asked.get("caption", "").split()),
                cell.metadata["mystnb"].get("image", {}).get("alt", ""),
                number,
                contents,
                about.get("rows", 0),
                about.get("every", 1),
                cell.metadata.get("interactive"),
            )
        )
    return found


def assessments(notebook: Any) -> list[dict[str, Any]]:
    """Every claim that the notebook assesses and shows; with each the name of the figure that stands before it."""
    found, figure = [], None
    for cell in _own_cells(notebook):
        figure = cell.metadata.get("mystnb", {}).get("figure", {}).get("name", figure)
        for output in cell.outputs:
            found += [{**claim, "figure": figure} for claim in output.get("data", {}).get(CLAIMS, ())]
    return found


def strip(notebook: Any) -> None:
    """Remove the outputs that are for this module only: what renders the pages knows nothing of them."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            for kind in (CLAIMS, DATA):
                output.get("data", {}).pop(kind, None)
                output.get("metadata", {}).pop(kind, None)


def _own_cells(notebook: Any) -> Iterator[Any]:
    for cell in notebook.cells:
        if cell.cell_type == "code" and "injected-parameters" not in cell.metadata.get("tags", []):
            yield cell


def _text(data: Any) -> str:
    return data if isinstance(data, str) else "".join(data)
