"""Mathematics as finished HTML: KaTeX runs at build time, and the page needs no script for it.

sphinxcontrib-katex brings the render server; this extension points it to the Node and the KaTeX of
:mod:`npm_packages`, hands every formula the macros of ``nnbook_macros``, and turns a formula that KaTeX refuses into a
warning at its source line, where sphinxcontrib-katex would print it in red. Style sheet and fonts: :mod:`site_fonts`.
"""

from __future__ import annotations

import functools
import re
import socket
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


class RenderServer(katex.KaTeXServer):
    """The render server, reached over a local port.

    Over a socket file its start is a race: the file exists a moment before the server listens, and the connection is
    refused. It also outlives a build that ends without clean-up, unless it watches its standard input.
    """

    @classmethod
    def build_command(cls, *place, **options) -> list[str]:
        node, *rest = super().build_command(*place, **options)
        return [node, "--require", str(Path(__file__).with_name("render_server.js")), *rest]

    @classmethod
    def start_server_process(cls, rundir: Path, timeout: float):
        return cls.start_network_socket(rundir, timeout)

    @classmethod
    def start_network_socket(cls, rundir: Path, timeout: float):
        process, connection = super().start_network_socket(rundir, timeout)
        # Length and text of a request are two writes; the second must not wait for the first one's acknowledgement.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return process, connection


def configure(app: Sphinx, config: Config) -> None:
    """Point sphinxcontrib-katex to the packages, before it reads its own settings."""
    try:
        dist = npm_packages.ensure() / "katex" / "dist"
        katex.NODEJS_BINARY = str(npm_packages.node())
    except npm_packages.NpmError as error:
        raise ExtensionError(str(error)) from None
    config.katex_js_path = str(dist / "katex.min.js")
    katex.KaTeXServer = RenderServer
    katex.STARTUP_TIMEOUT = 60.0
    katex.RENDER_TIMEOUT = 60.0
    katex.KATEX_DEFAULT_OPTIONS = {
        "throwOnError": True,
        "strict": "error",
        "trust": False,
        "macros": dict(config.nnbook_macros),
    }
    render.cache_clear()


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
    return {"parallel_read_safe": True, "parallel_write_safe": True}
