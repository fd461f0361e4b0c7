"""Chapters as plain notebooks: MyST, which few tools render, turned into Markdown that any viewer shows.

A notebook's text is cut into prose, code blocks and directives, and each is written in the Markdown of Jupyter, Colab
and GitHub: references become words and links, captions stand below their figures, equations carry their numbers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import Any

import nbformat
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.colon_fence import colon_fence_plugin

from companion import chapters

_PARSER = MarkdownIt("commonmark").use(colon_fence_plugin)
_DIRECTIVE = re.compile(r"^\{(?P<name>[\w:-]+)\}\s*(?P<argument>.*)$")
_OPTION = re.compile(r"^:(?P<name>[\w-]+):\s*(?P<value>.*)$")
_ROLE = re.compile(r"\{(?P<role>[\w:-]+)\}`(?P<text>[^`]+)`")
_TARGET = re.compile(r"^(.*?)\s*<([^<>]+)>$", re.DOTALL)
_LABELLED = re.compile(r"\$\$\s*\((?P<label>[\w:-]+)\)[ \t]*$", re.MULTILINE)
_MARK = re.compile(r"^(\([\w:-]+\)=|%.*|\+\+\+.*)$\n?", re.MULTILINE)  # targets, comments, breaks of cells


@dataclass(frozen=True)
class Prose:
    """Text between directives."""

    text: str


@dataclass(frozen=True)
class Block:
    """A block of code within text, fences included."""

    text: str
    language: str
    code: str


@dataclass(frozen=True)
class Directive:
    """````{name} argument``` with its options and body."""

    name: str
    argument: str
    options: dict[str, str]
    body: str


Piece = Prose | Block | Directive


def fences(text: str) -> Iterator[Token]:
    """The fenced blocks of a text that stand in no other block, as tokens: ``info``, ``content``, ``map``."""
    for token in _PARSER.parse(text):
        if token.level == 0 and token.type in ("fence", "colon_fence"):
            yield token


def pieces(text: str) -> Iterator[Piece]:
    """Cut MyST text into prose, code blocks and directives, in order."""
    lines, begin = text.splitlines(), 0
    for token in fences(text):
        directive = _DIRECTIVE.match(token.info.strip())
        if token.type == "colon_fence" and not directive:
            continue
        first, last = token.map or (0, 0)
        yield from _prose(lines[begin:first])
        begin = last
        if directive:
            yield _directive(directive["name"], directive["argument"].strip(), token.content.splitlines())
        else:
            yield Block("\n".join(lines[first:last]), token.info.strip(), token.content.rstrip("\n"))
    yield from _prose(lines[begin:])


def _prose(lines: list[str]) -> Iterator[Prose]:
    text = "\n".join(lines).strip("\n")
    if text.strip():
        yield Prose(text)


def _directive(name: str, argument: str, body: list[str]) -> Directive:
    options: dict[str, str] = {}
    while body and (option := _OPTION.match(body[0])):
        options[option["name"]] = option["value"]
        body = body[1:]
    return Directive(name, argument, options, "\n".join(body).strip("\n"))


@dataclass(frozen=True)
class Numbers:
    """What a chapter numbers: labels of figures, equations and exercises, each in reading order."""

    figures: tuple[str, ...]
    equations: tuple[str, ...]
    exercises: tuple[str, ...]

    def find(self, label: str) -> str | None:
        """``Figure 2``, ``(3)`` or ``Exercise 1``; None for what is not of this chapter."""
        for labels, form in ((self.figures, "Figure {}"), (self.equations, "({})"), (self.exercises, "Exercise {}")):
            if label in labels:
                return form.format(labels.index(label) + 1)
        return None


@cache
def numbers(chapter: str) -> Numbers:
    """The numbers of a chapter's figures, equations and exercises."""
    figures, equations, exercises = [], [], []
    for cell in chapters.read_notebook(chapter).cells:
        if cell.cell_type == "code":
            name = figure_of(cell).get("name")
            figures += [name] if name else []
            continue
        equations += [match["label"] for match in _LABELLED.finditer(cell.source)]
        found = [piece for piece in pieces(cell.source) if isinstance(piece, Directive) and piece.name == "exercise"]
        exercises += [piece.options.get("label", "") for piece in found]
    return Numbers(tuple(figures), tuple(equations), tuple(exercises))


def figure_of(cell: Any) -> dict[str, str]:
    """What the book says of a cell's figure: name and caption; empty when it has none."""
    return cell.metadata.get("mystnb", {}).get("figure", {})


@cache
def title(page: str) -> str:
    """The heading of a page, by name without the folder ``book``."""
    path = chapters.source_path(page)
    found = re.search(r"^# (.+)$", chapters.text_of(path), re.MULTILINE) if path.is_file() else None
    return found.group(1).strip() if found else page


@cache
def _bibliography() -> Any:
    from pybtex.database import parse_string

    path = chapters.BOOK / "references.bib"
    return parse_string(chapters.text_of(path), "bibtex").entries if path.is_file() else {}


def _cited(key: str, textual: bool) -> str:
    """``Michaud et al. (2025)`` or ``Michaud et al. 2025``, linked where the bibliography has an address."""
    entry = _bibliography().get(key)
    if entry is None:
        return key
    names = [" ".join(person.last_names) for person in entry.persons.get("author", [])]
    plain = [re.sub(r"[{}]", "", name) for name in names] or [key]
    who = plain[0] if len(plain) == 1 else " and ".join(plain) if len(plain) == 2 else f"{plain[0]} et al."
    year = entry.fields.get("year", "")
    words = f"{who} ({year})" if textual else f"{who} {year}"
    doi = entry.fields.get("doi")
    address = entry.fields.get("url") or (f"https://doi.org/{doi}" if doi else "")
    return f"[{words}]({address})" if address else words


def citation(role: str, keys: str) -> str:
    """A citation as text, linked where the bibliography has an address."""
    cited = [_cited(key.strip(), role == "cite:t") for key in keys.split(",")]
    return " and ".join(cited) if role == "cite:t" else f"({'; '.join(cited)})"


def plain_text(text: str, chapter: str) -> str:
    """Prose in plain Markdown: roles as words and links, labels of equations as their numbers."""

    def reference(match: re.Match[str]) -> str:
        role, content = match["role"], " ".join(match["text"].split())
        named = _TARGET.match(content)
        words, target = (named[1], named[2]) if named else ("", content)
        if role.startswith("cite"):
            return citation(role, target)
        if role == "doc":
            return _link(words, target, chapter)
        if role in ("numref", "eq", "ref", "prf:ref"):
            return words if words and "{" not in words else numbers(chapter).find(target) or _elsewhere(target)
        if role == "math":
            return f"${content}$"
        return words or content  # a term of the glossary, an abbreviation

    def numbered(match: re.Match[str]) -> str:
        return rf"\tag{{{numbers(chapter).equations.index(match['label']) + 1}}}" + "\n$$"

    text = _MARK.sub("", _LABELLED.sub(numbered, text))
    return _ROLE.sub(reference, text)


def _link(words: str, target: str, chapter: str) -> str:
    page = os.path.normpath(PurePosixPath(chapter).parent / target)
    words = words or title(page)
    if page not in chapters.names():
        return f"*{words}*"
    return f"[{words}]({os.path.relpath(f'{page}.ipynb', PurePosixPath(chapter).parent)})"


def _elsewhere(label: str) -> str:
    for other in chapters.names():
        found = numbers(other).find(label)
        if found:
            return f"{found} of *{title(other)}*"
    return f"*{label}*"


def quoted(text: str) -> str:
    """Text as a block quotation."""
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())


def is_hint(piece: Piece) -> bool:
    """Whether a piece is a hint to an exercise."""
    return isinstance(piece, Directive) and "hint" in piece.options.get("class", "").split()


def folded(heading: str, body: str) -> str:
    """Text that is shown when its heading is clicked."""
    return f"<details>\n<summary>{heading}</summary>\n\n{body}\n\n</details>"


def plain(piece: Piece, chapter: str) -> str:
    """One piece in plain Markdown."""
    if isinstance(piece, Block):
        return piece.text
    if isinstance(piece, Prose):
        return plain_text(piece.text, chapter)
    body = plain_all(piece.body, chapter)
    if piece.name == "exercise":
        return exercise_heading(piece, chapter) + body
    if piece.name == "solution":
        return folded("Solution", body)
    if is_hint(piece):
        return folded(piece.argument, body)
    if piece.name == "math":
        return f"$$\n{piece.body}\n$$"
    if piece.name in ("raw", "bibliography"):
        return ""
    heading = plain_text(piece.argument, chapter) if piece.name == "admonition" else piece.name.capitalize()
    return quoted(f"**{heading}**\n\n{body}")


def exercise_heading(exercise: Directive, chapter: str) -> str:
    """``### Exercise 2: its title``, and an empty line."""
    number = numbers(chapter).find(exercise.options.get("label", "")) or "Exercise"
    return f"### {number}: {plain_text(exercise.argument, chapter)}\n\n"


def plain_all(text: str, chapter: str) -> str:
    """Any MyST text in plain Markdown."""
    return "\n\n".join(filter(None, (plain(piece, chapter) for piece in pieces(text))))


def caption(cell: Any, chapter: str) -> Any | None:
    """The caption of a cell's figure as a Markdown cell; None when it has no figure."""
    figure = figure_of(cell)
    if "caption" not in figure:
        return None
    number = numbers(chapter).find(figure.get("name", "")) or "Figure"
    return markdown_cell(f"**{number}.** {plain_text(figure['caption'].strip(), chapter)}", f"{cell['id']}-caption")


def markdown_cell(text: str, cell_id: str) -> Any:
    """A Markdown cell with an id of its own."""
    return nbformat.v4.new_markdown_cell(text, id=cell_id[:64])


def code_cell(source: str, cell_id: str, **metadata: Any) -> Any:
    """A code cell that has not run."""
    return nbformat.v4.new_code_cell(source, id=cell_id[:64], metadata=metadata)


def plain_cells(cells: list[Any], chapter: str) -> list[Any]:
    """Cells in plain Markdown, outputs kept."""
    done = []
    for cell in cells:
        if cell.cell_type != "code":
            text = plain_all(cell.source, chapter)
            done += [markdown_cell(text, cell["id"])] if text.strip() else []
            continue
        shown = {name: value for name, value in cell.metadata.items() if name == "tags"}
        done.append(nbformat.from_dict({**cell, "metadata": shown}))
        below = caption(cell, chapter)
        done += [below] if below else []
    return done
