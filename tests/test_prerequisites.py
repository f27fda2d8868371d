"""What a chapter asks of its reader stands in its introduction, or in that of a chapter before it."""

import re
from pathlib import Path

import nbformat
import pytest

CHAPTERS = sorted((Path(__file__).resolve().parents[1] / "chapters").glob("*.ipynb"))

# Mathematics that is used without being explained, and what the introduction must call it.
TOPICS = {
    r"\\int\b|\bintegra(?:l|te)\b": "integral",
    r"\\mathbb E|\bexpectations?\b|\bexpected value\b": "expectation",
    r"\bvariances?\b": "variance",
    r"\bstandard normal\b|\bnormal(?:ly)? distribut": "normal distribution",
    r"\bRolle\b": "Rolle",
    r"\b[Bb]y induction\b": "induction",
    r"\\binom\b": "binomial",
    r"\bTaylor\b|\bExpand\b": "Taylor",
    r"\bcomplex\b(?! arguments)[^.]*\broots?\b|\broots?\b[^.]*\bcomplex\b": "complex",
    r"\beigenv(?:alue|ector)s?\b": "eigen",
}


def prose(path: Path) -> str:
    return "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")


def asked(path: Path) -> str:
    """The paragraphs of the introduction that say what the reader needs."""
    introduction = nbformat.read(path, as_version=4).cells[0].source
    return "\n".join(p for p in introduction.split("\n\n") if re.search(r"\bneed\b|\bask(?:s|ed)? for\b", p))


@pytest.mark.parametrize("last", range(len(CHAPTERS)), ids=[path.stem for path in CHAPTERS])
def test_what_a_chapter_uses_is_named_in_an_introduction(last):
    named = "\n".join(asked(path) for path in CHAPTERS[: last + 1])
    assert asked(CHAPTERS[last]), "the introduction does not say what the reader needs"
    used = prose(CHAPTERS[last])
    missing = {name: re.search(pattern, used) for pattern, name in TOPICS.items() if name not in named}
    assert not [f"{name}: {found[0]!r}" for name, found in missing.items() if found]
