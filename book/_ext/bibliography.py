"""How the book cites: (Rosenblatt, 1958) in the text; entries in the list sorted by author, without labels.

Every chapter closes with the works that it cites and the bibliography lists all of them, so that a work has several
entries; a citation links to the one on its own page. That is what the suppressed warning in ``_config.yml`` is about.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import sphinxcontrib.bibtex.plugin
from pybtex.plugin import register_plugin
from pybtex.style.formatting.plain import Style as Plain
from pybtex.style.labels import BaseLabelStyle
from sphinx.application import Sphinx
from sphinxcontrib.bibtex.style.referencing import BracketStyle
from sphinxcontrib.bibtex.style.referencing.author_year import AuthorYearReferenceStyle


class KeyLabels(BaseLabelStyle):
    """The BibTeX key: unique in the whole book, and hidden by the style sheet."""

    def format_labels(self, sorted_entries):
        return (entry.key for entry in sorted_entries)


class Listed(Plain):
    default_label_style = KeyLabels


def round_brackets() -> BracketStyle:
    return BracketStyle(left="(", right=")")


@dataclass
class RoundAuthorYear(AuthorYearReferenceStyle):
    bracket_parenthetical: BracketStyle = field(default_factory=round_brackets)
    bracket_textual: BracketStyle = field(default_factory=round_brackets)
    bracket_author: BracketStyle = field(default_factory=round_brackets)
    bracket_label: BracketStyle = field(default_factory=round_brackets)
    bracket_year: BracketStyle = field(default_factory=round_brackets)


def setup(app: Sphinx) -> dict[str, Any]:
    register_plugin("pybtex.style.formatting", "nnbook", Listed)
    sphinxcontrib.bibtex.plugin.register_plugin(
        "sphinxcontrib.bibtex.style.referencing", "nnbook_author_year", RoundAuthorYear
    )
    return {"parallel_read_safe": True, "parallel_write_safe": True}
