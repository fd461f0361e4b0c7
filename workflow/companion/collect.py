"""What the executed notebooks hold beside their pages: figures with their data, and assessed claims."""

from __future__ import annotations

import base64
import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from companion import chapters

CLAIMS = "application/vnd.narrowlib.claims+json"  # narrowlib.claims
DATA = "text/csv"  # narrowlib.chapters.style
VECTOR, BITMAP = "image/svg+xml", "image/png"
PENDING = ["status"]  # the columns of a figure that waits for its record
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
    japanese: str = ""  # its caption, where it stands at the head of a chapter

    @property
    def files(self) -> dict[str, str]:
        """Where its files lie in the site, by ending."""
        return {ending: f"figures/{self.chapter}/{self.name}.{ending}" for ending in self.contents}


def woven(chapter: str, executed: Path) -> Any:
    """A chapter with the prose of today and the outputs of its executed notebook."""
    return weave(chapters.read_notebook(chapter), nbformat.read(executed, as_version=4))


def weave(source: Any, executed: Any) -> Any:
    """The source's cells with the executed outputs.

    Code cells agree in both but for the one that papermill injects, which is kept.
    """
    queue = [cell for cell in executed.cells if cell.cell_type == "code"]
    cells = []
    for cell in source.cells:
        if cell.cell_type != "code":
            cells.append(cell)
            continue
        if "injected-parameters" in queue[0].metadata.get("tags", []):
            cells.append(queue.pop(0))
        done = queue.pop(0)
        if done.source != cell.source:
            raise ValueError(f"the executed notebook has another source: {done.source[:60]!r}")
        cells.append(nbformat.from_dict({**cell, "outputs": done.outputs, "execution_count": done.execution_count}))
    return nbformat.from_dict({**source, "cells": cells, "metadata": {**executed.metadata, **source.metadata}})


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
        if not asked or "name" not in asked or not outputs:
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
                cell.metadata.get("ja", ""),
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


def stripped(notebook: Any) -> Any:
    """The notebook without the outputs that are for this module only: what renders the pages knows nothing of them."""
    copied = copy.deepcopy(notebook)
    for cell in copied.cells:
        for output in cell.get("outputs", ()):
            for kind in (CLAIMS, DATA):
                output.get("data", {}).pop(kind, None)
                output.get("metadata", {}).pop(kind, None)
    return copied


def _own_cells(notebook: Any) -> Iterator[Any]:
    for cell in notebook.cells:
        if cell.cell_type == "code" and "injected-parameters" not in cell.metadata.get("tags", []):
            yield cell


def _text(data: Any) -> str:
    return data if isinstance(data, str) else "".join(data)
