"""How the book cites: (Rosenblatt, 1958) in the text; entries in the list sorted by author, without labels.

Every chapter closes with the works that it cites and the bibliography lists all of them, so that a work has several
entries; a citation links to the one on its own page. That is what the suppressed warning in ``_config.yml`` is about.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import sphinxcontrib.bibtex.plugin
from docutils import nodes
from pybtex.plugin import register_plugin
from pybtex.style.formatting.plain import Style as Plain
from pybtex.style.labels import BaseLabelStyle
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator
from sphinxcontrib.bibtex.style.referencing import BracketStyle
from sphinxcontrib.bibtex.style.referencing.author_year import AuthorYearReferenceStyle


class KeyLabels(BaseLabelStyle):
    """The BibTeX key: unique in the whole book, and not printed."""

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


def visit_citation(self: HTML5Translator, node: nodes.citation) -> None:
    """A list item: docutils would give it a role that is deprecated."""
    if not isinstance(node.previous_sibling(), nodes.citation):
        self.body.append('<ul class="citation-list">\n')
    self.body.append(self.starttag(node, "li", CLASS="citation"))


def depart_citation(self: HTML5Translator, node: nodes.citation) -> None:
    self.body.append("</li>\n")
    if not isinstance(node.next_node(descend=False, siblings=True), nodes.citation):
        self.body.append("</ul>\n")


def visit_label(self: HTML5Translator, node: nodes.label) -> None:
    if isinstance(node.parent, nodes.citation):
        raise nodes.SkipNode
    HTML5Translator.visit_label(self, node)


def depart_label(self: HTML5Translator, node: nodes.label) -> None:
    HTML5Translator.depart_label(self, node)


def setup(app: Sphinx) -> dict[str, Any]:
    register_plugin("pybtex.style.formatting", "nnbook", Listed)
    sphinxcontrib.bibtex.plugin.register_plugin(
        "sphinxcontrib.bibtex.style.referencing", "nnbook_author_year", RoundAuthorYear
    )
    app.add_node(nodes.citation, override=True, html=(visit_citation, depart_citation))
    app.add_node(nodes.label, override=True, html=(visit_label, depart_label))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
