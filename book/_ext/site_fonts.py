"""Text and formula fonts, served by the site itself.

The text is set in the Source family (OFL), the formulas in KaTeX's own fonts (MIT); both come from npm. What the first
screen needs is preloaded, so that the text does not change its face after it was drawn.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import npm_packages
from docutils import nodes
from sphinx.application import Sphinx

FAMILIES = {
    "source-serif-4": ("wght-normal", "wght-italic"),
    "source-sans-3": ("wght-normal", "wght-italic"),
    "source-code-pro": ("wght-normal",),
}
SUBSETS = ("latin", "latin-ext")
PRELOADED = (
    "fonts/source-serif-4-latin-wght-normal.woff2",
    "fonts/source-sans-3-latin-wght-normal.woff2",
)
PRELOADED_WITH_ITALICS = ("fonts/source-serif-4-latin-wght-italic.woff2",)
PRELOADED_WITH_CODE = ("fonts/source-code-pro-latin-wght-normal.woff2",)
PRELOADED_WITH_MATH = ("katex/fonts/KaTeX_Main-Regular.woff2", "katex/fonts/KaTeX_Math-Italic.woff2")


def copy_fonts(app: Sphinx) -> None:
    if app.builder.format != "html":
        return
    packages = npm_packages.ensure()
    static = Path(app.outdir) / "_static"
    target = static / "fonts"
    target.mkdir(parents=True, exist_ok=True)
    for family, styles in FAMILIES.items():
        package = packages / "@fontsource-variable" / family
        shutil.copyfile(package / "LICENSE", target / f"LICENSE-{family}.txt")
        for subset in SUBSETS:
            for style in styles:
                name = f"{family}-{subset}-{style}.woff2"
                shutil.copyfile(package / "files" / name, target / name)

    katex = packages / "katex"
    target = static / "katex"
    (target / "fonts").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(katex / "LICENSE", target / "LICENSE.txt")
    for font in (katex / "dist" / "fonts").glob("*.woff2"):
        shutil.copyfile(font, target / "fonts" / font.name)
    css = (katex / "dist" / "katex.min.css").read_text(encoding="utf-8")
    css = re.sub(r',\s*url\([^)]*\)\s*format\("?(?:woff|truetype)"?\)', "", css)  # every browser of today reads WOFF2
    (target / "katex.min.css").write_text(css, encoding="utf-8")


def preload_fonts(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """What ``layout.html`` preloads on this page."""
    fonts = list(PRELOADED)
    if doctree is not None:
        kinds = {type(node) for node in doctree.findall(nodes.Element)}
        if nodes.emphasis in kinds:
            fonts += PRELOADED_WITH_ITALICS
        if kinds & {nodes.literal, nodes.literal_block}:
            fonts += PRELOADED_WITH_CODE
        if kinds & {nodes.math, nodes.math_block}:
            fonts += PRELOADED_WITH_MATH
    context["preloaded_fonts"] = fonts


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", copy_fonts)
    app.connect("html-page-context", preload_fonts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
