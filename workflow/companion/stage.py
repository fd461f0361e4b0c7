"""Lay out what Jupyter Book renders: pages, configuration, and executed notebooks with today's prose.

To a chapter's own cells come links to the files of its figures, the data of those in which something can be moved, and
a folded block on how it was made.  A line ``% here: NAME`` of a page without code is replaced by what is made from all
chapters, a table or a figure of one of them.  What is published beside the pages, figures and their data among it, is
laid out too.  Only files that changed are written, so that rendering touches only their pages.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import nbformat
import yaml

from companion import api, chapters, collect, differences, downloads, interactive, plainly, provenance, scorecard

STAGE = chapters.BUILD / "stage"
BESIDE = chapters.BUILD / "beside"  # published beside the pages
STATIC = ("book/references.bib", "book/claims.yaml")
FOLDERS = ("_static", "_templates", "_ext")  # of the book, copied as they are
SHOWN_AGAIN = "book/_figures"  # of the stage: figures that a page without code shows
_HERE = re.compile(r"^% here: (\S+(?: \S+)?)$", flags=re.M)


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
            raise ValueError(f"the executed notebook is of another source: {done.source[:60]!r}")
        cells.append(nbformat.from_dict({**cell, "outputs": done.outputs, "execution_count": done.execution_count}))
    return nbformat.from_dict({**source, "cells": cells, "metadata": {**executed.metadata, **source.metadata}})


def read_chapters(plan: dict[str, Any]) -> dict[str, Any]:
    """Every executed chapter, woven."""
    return {
        chapter: weave(chapters.read_notebook(chapter), nbformat.read(chapters.ROOT / path, as_version=4))
        for chapter, path in plan["executed"].items()
    }


def with_facts(chapter: str, notebook: Any, profile: str) -> Any:
    """The notebook with what is known of its making: links under figures, the library's functions, the folded block."""
    facts = provenance.page_facts(chapter, notebook)
    figures = {figure.name: figure for figure in collect.figures(chapter, notebook)}
    collect.strip(notebook)
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        if cell.cell_type == "code":
            name = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
            if name in figures:
                moved = interactive.block(figures[name])
                cells += [_prose(moved, cell.id, "interactive")] if moved else []
                cells.append(_prose(provenance.figure_links(figures[name], facts), cell.id, "files"))
            library = api.used(cell.source)
            if library:
                cells.append(_prose(library, cell.id, "library"))
    cells.append(_prose(provenance.block(facts, profile), chapter.replace("/", "-"), "made"))
    return nbformat.from_dict({**notebook, "cells": cells})


def _prose(text: str, cell: str, what: str) -> Any:
    return nbformat.v4.new_markdown_cell(text, id=f"{cell}-{what}")


def all_figures(notebooks: dict[str, Any]) -> list[collect.Figure]:
    """The figures of all chapters, in the order of the book."""
    return [figure for chapter, notebook in notebooks.items() for figure in collect.figures(chapter, notebook)]


def publish(plan: dict[str, Any], notebooks: dict[str, Any], card: dict[str, Any]) -> set[Path]:
    """Write what lies beside the pages: figures and their data, scorecard, badge, provenance."""
    facts = {chapter: provenance.page_facts(chapter, notebook) for chapter, notebook in notebooks.items()}
    figures = all_figures(notebooks)
    about = provenance.book(plan["profile"], facts, [(figure, facts[figure.chapter]) for figure in figures])
    files: dict[str, str | bytes] = {**scorecard.files(card), "provenance.json": json.dumps(about, indent=1) + "\n"}
    for figure in figures:
        files |= {path: figure.contents[ending] for ending, path in figure.files.items()}
    for path, content in files.items():
        chapters.write_if_changed(BESIDE / path, content)
    return {BESIDE / path for path in files}


def shown_again(figure: collect.Figure) -> str:
    """A figure of a chapter on a page without code, in Markdown, with its caption and the way to where it stands."""
    return f""":::{{container}} shown-again
```{{image}} /{SHOWN_AGAIN}/{figure.name}.svg
:alt: {figure.alt}
```

{{numref}}`{figure.name}`, in {{doc}}`/book/{figure.chapter}`. {figure.caption}
:::"""


def tables(notebooks: dict[str, Any], card: dict[str, Any]) -> dict[str, str]:
    """What pages may ask for with ``% here: NAME``."""
    facts = {chapter: provenance.page_facts(chapter, notebook) for chapter, notebook in notebooks.items()}
    return {
        "scorecard-summary": scorecard.summary(card),
        "scorecard-table": scorecard.table(card),
        "scorecard-claims": scorecard.sections(card),
        "scorecard-open": scorecard.open_claims(card),
        "differences": differences.listing(),
        "status": provenance.status(facts),
        "modules": api.listing(),
        **{f"figure {figure.name}": shown_again(figure) for figure in all_figures(notebooks)},
    }


def filled(text: str, made: dict[str, str]) -> str:
    """A page with the tables that it asks for."""

    def table(asked: re.Match[str]) -> str:
        if asked[1] not in made:
            raise ValueError(f"a page asks for {asked[1]!r}; it must be one of {', '.join(made)}")
        return made[asked[1]]

    return _HERE.sub(table, text)


def stage_pages(notebooks: dict[str, Any], card: dict[str, Any], profile: str) -> set[Path]:
    """Write every page; returns what belongs to the stage."""
    made = tables(notebooks, card)
    written: dict[Path, str | bytes] = {}
    offered: set[Path] = set()
    for page in chapters.pages():
        chapter = page.removeprefix("book/")
        if chapter in notebooks:
            shown = with_facts(chapter, notebooks[chapter], profile)
            shown = downloads.with_parameter_table(shown, chapter)
            offered |= downloads.write_downloads(chapter, notebooks[chapter], STAGE)
            written[STAGE / f"{page}.ipynb"] = nbformat.writes(shown)
        else:
            text = scorecard.mentioned(chapters.source_path(chapter).read_text(encoding="utf-8"), card)
            text = filled(text, made)
            written[STAGE / f"{page}.md"] = text
            written |= {
                STAGE / SHOWN_AGAIN / f"{figure.name}.svg": figure.contents["svg"]
                for figure in all_figures(notebooks)
                if f"{SHOWN_AGAIN}/{figure.name}.svg" in text
            }
    written |= {STAGE / f"{page}.md": content for page, content in api.pages().items()}
    for path, content in written.items():
        chapters.write_if_changed(path, content)
    return set(written) | offered


def stage_static() -> set[Path]:
    """Copy configuration, bibliography and static files."""
    files = [chapters.ROOT / name for name in STATIC]
    files += [
        path for folder in FOLDERS for path in (chapters.BOOK / folder).rglob("*") if path.suffix != ".pyc"
    ]  # no caches
    written = set()
    for path in files:
        if path.is_file():
            target = STAGE / path.relative_to(chapters.ROOT)
            chapters.write_if_changed(target, path.read_bytes())
            written.add(target)
    chapters.write_if_changed(STAGE / "_config.yml", downloads.configuration())
    contents = yaml.safe_load((chapters.ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters.write_if_changed(STAGE / "_toc.yml", yaml.safe_dump(api.with_pages(contents), sort_keys=False))
    return {*written, STAGE / "_config.yml", STAGE / "_toc.yml"}


def remove_others(folder: Path, wanted: set[Path]) -> None:
    """Remove the files of an earlier stage, and folders that are empty then."""
    for path in list(folder.rglob("*")):
        if path.is_file() and path not in wanted:
            path.unlink()
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            shutil.rmtree(path)


def main() -> int:
    plan = json.loads((chapters.BUILD / "plan.json").read_text(encoding="utf-8"))
    notebooks = read_chapters(plan)
    assessed = {chapter: collect.assessments(notebook) for chapter, notebook in notebooks.items()}
    card = scorecard.scorecard(chapters.claims(), plan["profile"], assessed)
    remove_others(BESIDE, publish(plan, notebooks, card))
    remove_others(STAGE, stage_pages(notebooks, card, plan["profile"]) | stage_static())
    return 0


if __name__ == "__main__":
    sys.exit(plainly.run(main))
