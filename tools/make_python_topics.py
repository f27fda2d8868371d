"""Make nnbook/_data/python_topics.txt.gz from the help texts that Python 3.11.7 carries in pydoc_data.topics.

    python tools/make_python_topics.py [--check]

The topics repeat each other: "compound" holds all of "for", "if", "while", "try" and "with". A model tested on a text
that it was trained on would look better than it is, so every paragraph of 40 characters or more is kept only where it
comes first. Sorted by their names the topics would put nearly all built-in types into the last part; they stand in the
order of the SHA-256 of their names instead, which is as good as chance and needs no generator. ``--check`` writes
nothing; it fails if the file does not hold this text.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import sys
from pathlib import Path
from pydoc_data.topics import topics

from nnbook import data

TARGET = Path(__file__).resolve().parents[1] / "nnbook" / "_data" / "python_topics.txt.gz"
SHORTEST = 40


def text_of(topics: dict[str, str]) -> str:
    """All topics, two blank lines between them, without the paragraphs that occurred before."""
    seen: set[str] = set()
    kept = []
    for name in sorted(topics, key=lambda name: hashlib.sha256(name.encode()).digest()):
        paragraphs = []
        for paragraph in re.split(r"\n\n+", topics[name].strip("\n")):
            words = " ".join(paragraph.split())
            if len(words) < SHORTEST or words not in seen:
                paragraphs.append(paragraph)
            seen.add(words)
        kept.append("\n\n".join(paragraphs))
    return "\n\n\n".join(kept) + "\n"


def main() -> None:
    content = text_of(topics).encode()
    digest = hashlib.sha256(content).hexdigest()
    if "--check" in sys.argv:
        if digest != data.TOPICS_SHA256 or gzip.decompress(TARGET.read_bytes()) != content:
            sys.exit("python_topics.txt.gz is not what this Python would make (it was made by Python 3.11.7)")
        print("python_topics.txt.gz holds the text it should")
        return
    TARGET.write_bytes(gzip.compress(content, 9, mtime=0))
    print(f"{TARGET.name}: {len(content)} bytes, {TARGET.stat().st_size} compressed; TOPICS_SHA256 = {digest!r}")


if __name__ == "__main__":
    main()
