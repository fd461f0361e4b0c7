"""Lay out what Jupyter Book renders: pages, configuration, and executed notebooks with today's prose.

To a chapter's own cells come links to the files of its figures, the data of those in which something can be moved, and
a folded block on how it was made.  A line ``% here: NAME`` of a page without code is replaced by what is made from all
chapters, a table or a figure of one of them.  What is published beside the pages, figures and their data among it, is
laid out too.
"""

from __future__ import annotations

import base64
import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import nbformat
import yaml

from companion import api, chapters, collect, differences, facts, heroes, interactive, links, myst, offered, scorecard
from narrowlib.store.files import visible_files

STAGE = chapters.BUILD / "stage"
BESIDE = chapters.BUILD / "beside"  # published beside the pages
PICTURES = ("png", "jpg", "jpeg", "gif", "svg", "webp")  # beside the pages that show them
SHARED = ("book/references.bib", "book/_static/**/*", "book/_templates/**/*", "book/_ext/*.py")  # copied
SHARED += tuple(f"book/**/*.{ending}" for ending in PICTURES)
FIGURES = heroes.FIGURES
OPEN = {"exercise", "install"}  # tags of cells whose code is not folded; nor is that of a cell with the metadatum open
_HERE = re.compile(r"^% here: (\S+(?: \S+)?)$", flags=re.M)
Files = dict[Path, str | bytes]


class Book:
    """The executed chapters of a plan, and what is made from all of them."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.profile = plan["profile"]
        self.notebooks = {name: collect.woven(name, chapters.ROOT / path) for name, path in plan["executed"].items()}
        self.figures = [one for name, notebook in self.notebooks.items() for one in collect.figures(name, notebook)]
        self.facts = {name: facts.page_facts(name, notebook) for name, notebook in self.notebooks.items()}

    @cached_property
    def card(self) -> dict[str, Any]:
        """The scorecard."""
        assessed = {name: collect.assessments(notebook) for name, notebook in self.notebooks.items()}
        claims = {name: claim for name, claim in chapters.claims().items() if claim["chapter"] in self.notebooks}
        return scorecard.scorecard(claims, self.profile, assessed)

    @cached_property
    def tables(self) -> dict[str, str]:
        """What pages may ask for with ``% here: NAME``."""
        return {
            "scorecard-summary": scorecard.summary(self.card),
            "scorecard-table": scorecard.table(self.card),
            "scorecard-claims": scorecard.sections(self.card),
            "scorecard-open": scorecard.open_claims(self.card),
            "differences": differences.listing(),
            "status": facts.status(self.facts),
            "modules": api.listing(),
            "tiles": heroes.tiles(self.card),
            "buttons": heroes.buttons(),
            "japanese": heroes.japanese(self.card, self.named),
            **{f"figure {figure.name}": heroes.shown_again(figure) for figure in self.figures},
        }

    @cached_property
    def named(self) -> dict[str, collect.Figure]:
        """Its figures by name."""
        return {figure.name: figure for figure in self.figures}

    @staticmethod
    def source(page: str) -> str:
        """The text of a page without code, as it is written."""
        return chapters.text_of(chapters.source_path(page.removeprefix("book/")))

    def pictures(self) -> dict[str, str]:
        """The picture that stands for a page, by page, as a path in the site; the first page has the one it shows."""
        chosen = {f"book/{name}": heroes.of(name, self.card, self.named) for name in self.notebooks}
        first = chapters.pages()[0]
        shown = re.search(r"^% here: figure (\S+)$", self.source(first), re.M)
        chosen[first] = self.named.get(shown[1]) if shown else None
        return {page: one.files["png"] for page, one in chosen.items() if one and "png" in one.files}

    def chapter(self, name: str) -> Any:
        """The page of a chapter: its cells, and between them what is known of their making."""
        own = {figure.name: figure for figure in self.figures if figure.chapter == name}
        moving = {figure: interactive.block(one) for figure, one in own.items()}
        links = {figure: facts.figure_links(one, self.facts[name]) for figure, one in own.items()}
        others = heroes.pairs(name, self.card, self.named)
        first = heroes.of(name, self.card, self.named)
        cells: list[Any] = []
        for cell in _joined(collect.stripped(self.notebooks[name]).cells):
            if cell.cell_type == "markdown":
                cell.source = scorecard.mentioned(cell.source, self.card)
            if not cells:
                cell.source = _opened(cell.source, heroes.opening(name, self.card, self.named))
            cells.append(cell)
            if cell.cell_type != "code":
                continue
            figure = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
            is_declaring = "parameters" in cell.metadata.get("tags", [])
            more = {
                "library": api.used(cell.source),
                "parameters": offered.parameter_table(name) if is_declaring else "",
                "interactive": moving.get(figure, ""),
                "files": links.get(figure, ""),
            }
            after = [_prose(text, f"{cell.id}-{what}") for what, text in more.items() if text]
            record = others.get(figure)
            if record and record != first.name:
                before, behind = heroes.around(self.named[record])
                cells[-1:] = [_prose(before, f"{cell.id}-runs"), cell]
                after.append(_prose(behind, f"{cell.id}-ran"))
            cells += after
            if figure in own:
                _lighten(cell, *heroes.shown(own[figure]))
            if figure:
                place = next(number for number, one in enumerate(cells) if one is cell)
                cells[place + 1 : place + 1] = _what_else(cell)
        made = facts.block(self.facts[name], self.profile)
        cells.append(_prose(made, chapters.cell_id(name, "made")))
        return nbformat.from_dict({**self.notebooks[name], "cells": cells})

    def page(self, name: str) -> str:
        """A page without code, with the tables and figures that it asks for, and what it mentions of the scorecard."""
        text = self.source(f"book/{name}")
        return filled(scorecard.mentioned(text, self.card), self.tables)

    def beside(self) -> Files:
        """What lies beside the pages: figures and their data, scorecard, badge, provenance."""
        about = facts.book(self.profile, self.facts, self.figures)
        files = {**scorecard.files(self.card), "provenance.json": json.dumps(about, indent=1) + "\n"}
        for figure in self.figures:
            files |= {path: figure.contents[ending] for ending, path in figure.files.items()}
        return {BESIDE / path: content for path, content in files.items()}


def _prose(text: str, cell_id: str) -> Any:
    return nbformat.v4.new_markdown_cell(text, id=cell_id)


def fold(cell: Any) -> None:
    """Have a page show the code of a cell only when it is asked for, unless the cell is to be read or filled in."""
    tags = cell.metadata.get("tags", [])
    if not OPEN & set(tags) and not cell.metadata.get("open"):
        cell.metadata["tags"] = [*tags, "hide-input"]


def _joined(cells: list[Any]) -> list[Any]:
    """The cells of a page, code folded; that of a cell without output stands with the next one's, in one box."""
    joined: list[Any] = []
    for cell in cells:
        if cell.cell_type == "code":
            fold(cell)
            before = joined[-1] if joined else cell
            if before is not cell and _is_bare(before) and "hide-input" in cell.metadata.get("tags", []):
                joined.pop()
                cell.source = f"{before.source}\n\n{cell.source}"
                cell.metadata["tags"] = [*before.metadata["tags"], *cell.metadata["tags"]]
        joined.append(cell)
    return joined


def _is_bare(cell: Any) -> bool:
    """Whether a page shows nothing of a cell but its folded code."""
    is_folded = cell.cell_type == "code" and "hide-input" in cell.metadata.get("tags", [])
    return is_folded and not any(output.get("data", True) for output in cell.outputs)


def _lighten(cell: Any, ending: str, content: bytes) -> None:
    """Have a page show a light picture in place of a heavy drawing."""
    for output in cell.outputs if ending == "jpg" else ():
        if output.get("data", {}).pop(collect.VECTOR, None):
            output["data"].pop(collect.BITMAP, None)
            output["data"]["image/jpeg"] = base64.b64encode(content).decode()


def _what_else(cell: Any) -> list[Any]:
    """Take out of a figure's cell all results but the first picture, since each would become a figure of that name.

    What Python prints of a last expression, such as a list of lines, is not shown; tables and other pictures stand in
    a cell of their own.
    """
    results = [output for output in cell.outputs if "data" in output]
    pictures = [output for output in results if any(kind.startswith("image/") for kind in output["data"])]
    if not pictures:
        return []
    picture = pictures[0]
    cell.outputs = [output for output in cell.outputs if output is picture or output not in results]
    left = [output for output in results if output is not picture and set(output["data"]) != {"text/plain"}]
    more = {"outputs": left, "metadata": {"tags": ["remove-input"]}}
    return [nbformat.v4.new_code_cell("", id=f"{cell.id}-more", **more)] if left else []


def _opened(text: str, opening: str) -> str:
    """The first text of a chapter with what it opens with, below its claim or, without one, below its title."""
    lines = text.splitlines()
    ends = [token.map[1] for token in myst.fences(text) if token.map and "{admonition}" in token.info]
    place = ends[0] if ends else next((number + 1 for number, line in enumerate(lines) if line[:2] == "# "), 0)
    return "\n".join([*lines[:place], "", opening, "", *lines[place:]])


def filled(text: str, made: dict[str, str]) -> str:
    """A page with the tables that it asks for."""

    def table(asked: re.Match[str]) -> str:
        if asked[1] not in made:
            raise ValueError(f"a page asks for {asked[1]!r}; it must be one of {', '.join(made)}")
        return made[asked[1]]

    return _HERE.sub(table, links.without_absent_figures(text, made))


def configuration() -> str:
    """The configuration, with the repository that REPOSITORY names where it does."""
    return yaml.safe_dump(chapters.configuration(), sort_keys=False, allow_unicode=True)


def pages(book: Book) -> Files:
    """Every page, the notebooks that chapters offer, and the figures that pages without code show."""
    files: Files = {STAGE / f"{page}.md": text for page, text in api.pages().items()}
    for page in chapters.pages():
        name = page.removeprefix("book/")
        if name in book.notebooks:
            text = files[STAGE / f"{page}.ipynb"] = nbformat.writes(book.chapter(name))
            files |= offered.downloads_of(name, book.notebooks[name], STAGE)
        else:
            text = files[STAGE / f"{page}.md"] = book.page(name)
        shown = {heroes.image_of(one): one for one in book.figures}
        files |= {STAGE / path: heroes.shown(one)[1] for path, one in shown.items() if path in text}
    links.make_whole(files, book.named)
    files[STAGE / heroes.PAGES] = json.dumps(book.pictures(), indent=1) + "\n"
    return files


def shared() -> Files:
    """Configuration, table of contents, bibliography, style sheets, scripts and extensions."""
    found = {path for pattern in SHARED for path in visible_files(chapters.ROOT, pattern)}
    files: Files = {STAGE / path.relative_to(chapters.ROOT): path.read_bytes() for path in sorted(found)}
    contents = yaml.safe_dump(chapters.contents(), sort_keys=False, allow_unicode=True)
    return {**files, STAGE / "_config.yml": configuration(), STAGE / "_toc.yml": contents}


def lay_out(plan: dict[str, Any]) -> set[Path]:
    """Write the stage and what lies beside it, and remove what an earlier plan left; the changed files of the stage."""
    book = Book(plan)
    stage = pages(book) | shared()
    _write(BESIDE, book.beside())
    return _write(STAGE, stage)


def _write(folder: Path, files: Files) -> set[Path]:
    for path in sorted(folder.rglob("*"), reverse=True):  # what a folder holds before the folder itself
        if path.is_file() and path not in files:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    return {path for path, content in files.items() if chapters.write_if_changed(path, content)}
