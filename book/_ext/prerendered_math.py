"""Mathematics as finished HTML: KaTeX runs at build time, and the page needs no script for it.

sphinxcontrib-katex brings the render server; this extension points it to the Node and the KaTeX of
:mod:`npm_packages`, copies style sheet and fonts into the site, hands every formula the macros of ``nnbook_macros``,
and turns a formula that KaTeX refuses into a warning at its source line, where sphinxcontrib-katex would print it red.
"""

from __future__ import annotations

import functools
import re
import shutil
from pathlib import Path
from typing import Any

import npm_packages
import sphinxcontrib.katex as katex
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

logger = logging.getLogger(__name__)

FONTS_OF_EVERY_FORMULA = ("KaTeX_Main-Regular", "KaTeX_Math-Italic")


def configure(app: Sphinx, config: Config) -> None:
    """Point sphinxcontrib-katex to the packages, before it reads its own settings."""
    try:
        dist = npm_packages.ensure() / "katex" / "dist"
        katex.NODEJS_BINARY = str(npm_packages.node())
    except npm_packages.NpmError as error:
        raise ExtensionError(str(error)) from None
    config.katex_js_path = str(dist / "katex.min.js")
    katex.STARTUP_TIMEOUT = 60.0
    katex.RENDER_TIMEOUT = 60.0
    katex.KATEX_DEFAULT_OPTIONS = {
        "throwOnError": True,
        "strict": "error",
        "trust": False,
        "macros": dict(config.nnbook_macros),
    }
    render.cache_clear()


def copy_katex(app: Sphinx) -> None:
    """Style sheet and WOFF2 fonts of KaTeX into the site."""
    if app.builder.format != "html":
        return
    source = npm_packages.NODE_MODULES / "katex" / "dist"
    target = Path(app.outdir) / "_static" / "katex"
    (target / "fonts").mkdir(parents=True, exist_ok=True)
    for font in source.glob("fonts/*.woff2"):
        shutil.copyfile(font, target / "fonts" / font.name)
    css = (source / "katex.min.css").read_text(encoding="utf-8")
    css = re.sub(r',\s*url\([^)]*\)\s*format\("?(?:woff|truetype)"?\)', "", css)  # every browser of today reads WOFF2
    (target / "katex.min.css").write_text(css, encoding="utf-8")


def add_fonts_to_context(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree) -> None:
    """Name the fonts to preload on a page with formulas (see ``layout.html``)."""
    has_math = doctree is not None and any(
        isinstance(node, nodes.math | nodes.math_block) for node in doctree.findall(nodes.Element)
    )
    context["katex_fonts"] = FONTS_OF_EVERY_FORMULA if has_math else ()


@functools.cache
def render(latex: str, display: bool) -> str:
    return katex.render_latex(latex, {"displayMode": display})


def render_or_warn(latex: str, display: bool, node: nodes.Node) -> str:
    try:
        return render(latex, display)
    except katex.KaTeXError as error:
        logger.warning("KaTeX: %s in %r", error, latex, location=node, type="katex")
        return f"<code>{nodes.unescape(latex)}</code>"


def with_lines(latex: str) -> str:
    r"""Put an ``aligned`` around a formula that uses ``\\`` or ``&`` outside every environment, as Sphinx does."""
    outside = re.sub(r"\\[&{}%]", "", latex)
    environment = re.compile(r"\\begin\{(\w+\*?)\}(?:(?!\\begin\{).)*?\\end\{\1\}", re.DOTALL)
    while environment.search(outside):
        outside = environment.sub("", outside)
    if "&" in outside or r"\\" in outside:
        return rf"\begin{{aligned}}{latex}\end{{aligned}}"
    return latex


def visit_math(self, node: nodes.math) -> None:
    self.body.append(self.starttag(node, "span", "", CLASS="math notranslate nohighlight"))
    self.body.append(render_or_warn(node.astext(), False, node))
    self.body.append("</span>")
    raise nodes.SkipNode


def visit_math_block(self, node: nodes.math_block) -> None:
    self.body.append(self.starttag(node, "div", "", CLASS="math notranslate nohighlight"))
    self.body.append('<div class="math-scroll">')
    self.body.append(render_or_warn(with_lines(node.astext()), True, node))
    self.body.append("</div>")
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    self.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    app.setup_extension("sphinxcontrib.katex")
    app.add_config_value("nnbook_macros", {}, "html", dict)
    app.registry.html_inline_math_renderers["katex"] = (visit_math, None)
    app.registry.html_block_math_renderers["katex"] = (visit_math_block, None)
    app.connect("config-inited", configure)
    app.connect("builder-inited", copy_katex)
    app.connect("html-page-context", add_fonts_to_context)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
