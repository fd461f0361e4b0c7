"""The bibliography with the labels that citations have, authors and year, where pybtex knows initials alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pybtex.plugin import register_plugin
from pybtex.style.formatting.alpha import Style
from pybtex.style.labels import BaseLabelStyle
from sphinx.application import Sphinx
from sphinxcontrib.bibtex.style.referencing.author_year import AuthorYearReferenceStyle
from sphinxcontrib.bibtex.style.template import join, year

NAME = "author_year"


class Labels(BaseLabelStyle):
    """Labels such as ``Michaud et al., 2025``."""

    def format_labels(self, sorted_entries: Iterable[Any]) -> Iterator[str]:
        """The label of every entry."""
        style = AuthorYearReferenceStyle()
        label = join(sep=style.author_year_sep)[style.person.author_or_editor_or_title(full=False), year]
        for entry in sorted_entries:
            yield str(label.format_data({"entry": entry, "style": style}))


class Bibliography(Style):
    """Entries by author and year."""

    default_label_style = Labels


def setup(_: Sphinx) -> dict[str, Any]:
    """Make the style known to Sphinx."""
    register_plugin("pybtex.style.formatting", NAME, Bibliography)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
