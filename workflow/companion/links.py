"""Links of a book from which chapters were left out: what leads to an absent page or figure becomes text."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from companion import chapters, myst, scorecard
from narrowlib.store.files import visible_files

_ROLE = re.compile(r"\{(?P<role>doc|numref|eq|ref|term|cite(?::[tp])?)\}`(?P<text>[^`]+)`")
_LINK = re.compile(r"\[(?P<words>[^\]]*)\]\((?P<target>[^()\s#]+)\.(?:md|ipynb|html)(?:#[^()\s]*)?\)")
_LABELS = re.compile(
    r"^\s*\((?P<target>[\w:-]+)\)=|^\s*:(?:label|name): *(?P<option>\S+)|\$\$\s*\((?P<equation>[\w:-]+)\)", re.M
)
_FIGURE_NAME = re.compile(r"^\s+name: (\S+)$", re.M)
_EMPTY = re.compile(r"^(:{3,})\{container\}[^\n]*\n\s*\1\n", re.M)
_FIGURE = re.compile(r"^% here: figure (\S+)$")
KINDS = {"numref": "a figure", "eq": "an equation", "ref": "a place"}
LISTS = ("glossary", "bibliography")  # directives that terms and citations are linked to
LEFT_OUT = "of a chapter that this book omits"


def without_absent_figures(text: str, made: Mapping[str, str]) -> str:
    """A page without the figures, and the paragraphs that introduce them, whose chapters the book leaves out."""
    kept: list[str] = []
    for line in text.splitlines():
        asked = _FIGURE.match(line)
        if not asked or f"figure {asked[1]}" in made or not _is_of_absent_chapter(asked[1]):
            kept.append(line)
            continue
        while kept and not kept[-1].strip():
            kept.pop()
        while kept and kept[-1].strip() and not kept[-1].startswith((":::", "#", "%", "```")):
            kept.pop()
    return _EMPTY.sub("", "\n".join(kept) + "\n")


def _is_of_absent_chapter(figure: str) -> bool:
    """Whether a chapter that is there, and not in the book, has a figure of this name."""
    return any(figure in _FIGURE_NAME.findall(text) for text in _absent().values())


def _absent() -> dict[str, str]:
    """Pages that are there and not in the book, ``book/mnist`` and so on, with their text."""
    pages = set(chapters.pages())
    paths = {
        path.relative_to(chapters.ROOT).with_suffix("").as_posix(): path
        for path in visible_files(chapters.BOOK, "**/*.md")
    }
    return {
        page: path.read_text(encoding="utf-8", errors="replace") for page, path in paths.items() if page not in pages
    }


def left_out() -> tuple[set[str], set[str]]:
    """Pages that the book leaves out, those of claims whose chapter is gone too, and labels that stand on them.

    Labels of all claims are among them, which stand on the scorecard, if on any page.
    """
    absent, present = _absent(), set(chapters.names())
    labels = {scorecard.label(name) for name in chapters.claims()}
    for text in absent.values():
        labels |= {*_FIGURE_NAME.findall(text), *_labels(text)}
    of_claims = {claim["chapter"] for claim in chapters.claims().values()}
    return {*absent, *(f"book/{chapter}" for chapter in of_claims - present)}, labels


def _labels(text: str) -> set[str]:
    return {next(filter(None, found.groups())) for found in _LABELS.finditer(text)}


def make_whole(files: dict[Path, Any], figures: Iterable[str]) -> None:
    """Rewrite the laid out pages so that no link leads to a page, figure or label that the book leaves out.

    What leads to a page or label that never was stays as it is, for Sphinx to refuse.
    """
    absent, gone = left_out()
    pages = {
        path: json.loads(text) if path.suffix == ".ipynb" else text for path, text in files.items() if _is_page(path)
    }
    every = [text for page in pages.values() for text in _texts(page)]
    gone -= set(figures).union(*map(_labels, every))
    lacks = {kind for kind in LISTS if not any(f"{{{kind}}}" in text for text in every)}
    for path, page in pages.items():
        name = path.with_suffix("").relative_to(chapters.BUILD / "stage").as_posix()

        def mended(text: str, name: str = name) -> str:
            return whole(text, name, absent, gone, lacks)

        if isinstance(page, str):
            files[path] = mended(page)
        elif _rewrite(page, mended):
            files[path] = json.dumps(page, ensure_ascii=False, indent=1) + "\n"


def _is_page(path: Path) -> bool:
    return path.suffix == ".md" or (path.suffix == ".ipynb" and "downloads" not in path.parts)


def _texts(page: Any) -> Iterator[str]:
    if isinstance(page, str):
        yield page
    else:
        yield from ("".join(cell["source"]) for cell in page["cells"] if cell["cell_type"] == "markdown")


def _rewrite(page: dict[str, Any], mended: Callable[[str], str]) -> bool:
    """Mend the prose and the captions of a notebook; whether anything changed."""
    before = json.dumps(page)
    for cell in page["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = mended("".join(cell["source"]))
        elif caption := cell["metadata"].get("mystnb", {}).get("figure", {}).get("caption"):
            cell["metadata"]["mystnb"]["figure"]["caption"] = mended(caption)
    return json.dumps(page) != before


def whole(text: str, page: str, absent: set[str], gone: set[str], lacks: Collection[str] = ()) -> str:
    """A text in which nothing that the book leaves out is linked.

    Parameters
    ----------
    text : str
    page : str
        Where it stands, such as ``book/hierarchy``; links are relative to it, or begin with a slash.
    absent, gone : set of str
        Pages and labels that the book leaves out.
    lacks : collection of str
        Which of the ``LISTS`` stands on no page of the book.
    """

    def place(target: str) -> str:
        return os.path.normpath(
            PurePosixPath(target.lstrip("/")) if target[:1] == "/" else PurePosixPath(page).parent / target
        )

    def reference(found: re.Match[str]) -> str:
        content = " ".join(found["text"].split())
        named = re.match(r"^(.*?)\s*<([^<>]+)>$", content)
        words, target = (named[1], named[2]) if named else ("", content)
        if found["role"] == "doc":
            is_there = place(target) not in absent
            return found[0] if is_there else f"*{words or myst.title(place(target).removeprefix('book/'))}*"
        if found["role"] == "term":
            return found[0] if "glossary" not in lacks else words or target
        if found["role"].startswith("cite"):
            return found[0] if "bibliography" not in lacks else myst.citation(found["role"], target)
        if target not in gone:
            return found[0]
        return words if words and "%s" not in words and "{" not in words else f"{KINDS[found['role']]} {LEFT_OUT}"

    def link(found: re.Match[str]) -> str:
        target = found["target"]
        return found["words"] if ":" not in target and place(target) in absent else found[0]

    return _LINK.sub(link, _ROLE.sub(reference, text))
