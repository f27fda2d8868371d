"""Where the built book is (``NNBOOK_SITE`` names another folder than ``_build/html``) and which pages it has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
SITE = Path(os.environ.get("NNBOOK_SITE", ROOT / "_build" / "html"))


def toc_pages() -> list[str]:
    """Every page of the table of contents, as in ``chapters/01_neurons``, the root first."""
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text(encoding="utf-8"))
    pages = [toc["root"]]

    def collect(entries: list[dict[str, Any]]) -> None:
        for entry in entries:
            if "file" in entry:
                pages.append(entry["file"])
            for key in ("chapters", "sections"):
                collect(entry.get(key, []))

    collect(toc.get("parts", []) + toc.get("chapters", []))
    return pages
