"""What a page offers beside its text: the chapter as a notebook, a table of its parameters, links to the repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import yaml

from companion import chapters, notebooks


def write_downloads(chapter: str, woven: Any, stage: Path) -> set[Path]:
    """Write the notebooks that the chapter's page offers, without and with outputs, below the stage."""
    folder = stage / "downloads" / "notebooks"  # lies in the site as notebooks/
    made = {
        folder / f"{chapter}.ipynb": notebooks.clean_notebook(chapter),
        folder / "executed" / f"{chapter}.ipynb": notebooks.executed_notebook(chapter, woven),
    }
    for path, notebook in made.items():
        notebooks.write(path, notebook)
    return set(made)


def with_parameter_table(woven: Any, chapter: str) -> Any:
    """The page with a table of its parameters after the cell that declares them."""
    tagged = [number for number, cell in enumerate(woven.cells) if "parameters" in cell.metadata.get("tags", [])]
    if tagged:
        cell = nbformat.v4.new_markdown_cell(parameter_table(chapter), id="parameter-table")
        woven.cells.insert(tagged[0] + 1, cell)
    return woven


def parameter_table(chapter: str) -> str:
    """What the parameters cell declares, and the values in the profile of the paper, as a folded table."""
    paper = chapters.profile_parameters(chapter, "paper") if "paper" in chapters.profile_names() else {}
    rows = [
        f"| `{one.name}` | {one.meaning.replace('|', chr(92) + '|')} | {one.type} | {_legal(one)} | `{one.default!r}` "
        f"| `{paper.get(one.name, one.default)!r}` |"
        for one in chapters.parameters(chapter).values()
    ]
    head = ["| Name | Meaning | Type | Legal | Default | Profile paper |", "|---|---|---|---|---|---|"]
    lines = [
        ":::{admonition} The parameters: what they take, and their values in the profile `paper`",
        ":class: dropdown parameters",
    ]
    return "\n".join([*lines, "", *head, *rows, ":::"])


def _legal(parameter: chapters.Parameter) -> str:
    return f"`{parameter.legal}`" if parameter.legal else "any"


def configuration() -> str:
    """The configuration, with the repository that REPOSITORY names where it does."""
    text = (chapters.ROOT / "_config.yml").read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    if "repository" not in config:
        return text
    config["repository"]["url"] = chapters.repository()
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
