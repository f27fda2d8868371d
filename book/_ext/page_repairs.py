"""What the theme and the extensions leave to be desired in the HTML, mended at build time.

* Pictures get their size in CSS pixels, so that nothing moves while they load.
* Admonitions and solutions of class ``dropdown`` become ``<details>``: no script, and closed from the start.
* Hidden cells and task lists get the names that assistive technology needs.
* Files that no page asks for are left out.
* A build with warnings forgets its environment, or the next one would find nothing to do and pass.
"""

from __future__ import annotations

import html
import re
import shutil
import struct
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.writers.html5 import HTML5Translator
from sphinx_exercise.nodes import solution_node
from sphinx_proof.nodes import proof_node

CSS_PIXELS_PER_INCH = 96


class details(nodes.Element):
    """A block that the reader opens; the first child is its :class:`summary`."""


class summary(nodes.TextElement):
    """The line of a :class:`details` that is always visible."""


def png_size(path: Path) -> tuple[int, int] | None:
    """Width and height of a PNG in CSS pixels: a figure of 6 inches is 576 wide, whatever its resolution."""
    with path.open("rb") as file:
        if file.read(8) != b"\x89PNG\r\n\x1a\n":
            return None
        width = height = 0
        per_inch = float(CSS_PIXELS_PER_INCH)
        while header := file.read(8):
            length, kind = struct.unpack(">I4s", header)
            data = file.read(length)
            file.read(4)
            if kind == b"IHDR":
                width, height = struct.unpack(">II", data[:8])
            elif kind == b"pHYs":
                per_metre, _, unit = struct.unpack(">IIB", data)
                if unit == 1:
                    per_inch = per_metre * 0.0254
            elif kind == b"IDAT":
                break
    scale = CSS_PIXELS_PER_INCH / per_inch
    return round(width * scale), round(height * scale)


def image_path(app: Sphinx, uri: str) -> Path:
    """The file of an image node: outputs of notebooks lie outside the source tree and are named from the root."""
    path = Path(uri)
    return path if path.is_absolute() else Path(app.srcdir) / path


def size_images(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    first = True
    for node in doctree.findall(nodes.image):
        path = image_path(app, node["uri"])
        given = [node[key] for key in ("width", "height") if node.get(key)]
        # A retina picture of a notebook comes with both, as a style, and would be distorted on a narrow screen.
        if path.suffix.lower() == ".png" and path.is_file() and (not given or len(given) == 2):
            for key in ("width", "height"):
                node.attributes.pop(key, None)
            node["css_size"] = png_size(path)
        node["lazy"] = not first
        first = False


def visit_image(self: HTML5Translator, node: nodes.image) -> None:
    before = len(self.body)
    HTML5Translator.visit_image(self, node)
    attributes = ' loading="lazy"' if node.get("lazy") else ""
    if node.get("css_size"):
        width, height = node["css_size"]
        attributes += f' width="{width}" height="{height}"'
    self.body[before:] = [re.sub(r"<img\b", f"<img{attributes}", part, count=1) for part in self.body[before:]]


def depart_image(self: HTML5Translator, node: nodes.image) -> None:
    HTML5Translator.depart_image(self, node)


def fold_dropdowns(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    if app.builder.format != "html":
        return
    for node in list(doctree.findall(nodes.Admonition)):
        classes = node.get("classes", []) if isinstance(node, nodes.Element) else []
        if "dropdown" not in classes:
            continue
        title = node.children[0] if node.children and isinstance(node.children[0], nodes.title) else None
        kind = "Solution" if isinstance(node, solution_node) else type(node).__name__.capitalize()
        folded = details(ids=list(node["ids"]), names=list(node["names"]), classes=["admonition", *classes])
        folded += summary("", *plain_title(title, kind))
        folded.extend(node.children[1:] if title is not None else node.children)
        node.replace_self(folded)


def plain_title(title: nodes.title | None, fallback: str) -> list[nodes.Node]:
    """The title's children without links: a summary is a control and may not hold another one."""
    if title is None:
        return [nodes.Text(fallback)]
    title = title.deepcopy()
    for link in list(title.findall(nodes.reference)):
        link.replace_self(link.children)
    return list(title.children)


def visit_details(self: HTML5Translator, node: details) -> None:
    self.body.append(self.starttag(node, "details"))


def depart_details(self: HTML5Translator, node: details) -> None:
    self.body.append("</details>\n")


def visit_summary(self: HTML5Translator, node: summary) -> None:
    self.body.append('<summary class="admonition-title">')


def depart_summary(self: HTML5Translator, node: summary) -> None:
    self.body.append("</summary>\n")


def visit_hidden_cell(self: HTML5Translator, node: nodes.Element) -> None:
    name = re.sub(r"^(show|hide) code cell ", "", node["prompt_show"], flags=re.IGNORECASE)
    label = {"source": "Code", "output": "Output", "outputs": "Outputs", "content": "Code and output"}.get(name, name)
    self.body.append(f'<details class="hide {" ".join(node["classes"])}"><summary>{html.escape(label)}</summary>\n')


def depart_hidden_cell(self: HTML5Translator, node: nodes.Element) -> None:
    self.body.append("</details>\n")


def name_task_boxes(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    for item in doctree.findall(nodes.list_item):
        if "task-list-item" not in item["classes"]:
            continue
        for raw in item.findall(nodes.raw):
            if raw.astext().startswith("<input"):
                label = html.escape(item.astext().replace(raw.astext(), "").strip(), quote=True)
                text = raw.astext().replace("<input", f'<input aria-label="{label}"', 1)
                raw.children = [nodes.Text(text)]
                raw.rawsource = text


def single_brackets(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """An equation's number brings its brackets along: a reference in brackets must not show two pairs."""
    for link in list(doctree.findall(nodes.reference)):
        if not re.fullmatch(r"\(\d+(\.\d+)*\)", link.astext()) or not isinstance(link.parent, nodes.TextElement):
            continue
        siblings = link.parent.children
        place = siblings.index(link)
        before = siblings[place - 1] if place else None
        after = siblings[place + 1] if place + 1 < len(siblings) else None
        if isinstance(before, nodes.Text) and isinstance(after, nodes.Text) and before[-1:] == "(" and after[:1] == ")":
            link.parent.replace(before, nodes.Text(before[:-1]))
            link.parent.replace(after, nodes.Text(after[1:]))


def set_off_proofs(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """The first word of a proof in italics, as mathematicians print it."""
    for node in doctree.findall(proof_node):
        first = next(iter(node.findall(nodes.Text)), None)
        if first is not None and first.startswith("Proof. "):
            first.parent.replace(first, [nodes.emphasis("", "Proof."), nodes.Text(first[len("Proof.") :])])


def forget_failed_build(app: Sphinx, exception: Exception | None) -> None:
    if app._warncount or exception is not None:
        (Path(app.doctreedir) / "environment.pickle").unlink(missing_ok=True)


def forget_module_pages(app: Sphinx, env: BuildEnvironment, docnames: list[str]) -> None:
    """Have viewcode write its pages anew: it compares dates only and would keep one that lacks new anchors."""
    if docnames and app.builder.format == "html":
        shutil.rmtree(Path(app.outdir) / "_modules", ignore_errors=True)


def trim_site(app: Sphinx, exception: Exception | None) -> None:
    """Leave out what the theme copies and no page asks for: 7 MB of icon scripts, source maps and templates."""
    if exception is not None or app.builder.format != "html":
        return
    static = Path(app.outdir) / "_static"
    for pattern in ("scripts/fontawesome.js*", "**/*.map", "**/*.ttf", "*webpack-macros.html"):
        for path in static.glob(pattern):
            path.unlink()


def setup(app: Sphinx) -> dict[str, Any]:
    from myst_nb.sphinx_ext import HideCodeCellNode

    app.setup_extension("myst_nb")
    app.setup_extension("sphinx_exercise")
    app.setup_extension("sphinx_proof")
    app.add_config_value("comments_config", {}, "", dict)  # Jupyter Book sets it for an extension we do not load
    app.add_node(details, html=(visit_details, depart_details))
    app.add_node(summary, html=(visit_summary, depart_summary))
    app.add_node(nodes.image, override=True, html=(visit_image, depart_image))
    app.add_node(HideCodeCellNode, override=True, html=(visit_hidden_cell, depart_hidden_cell))
    app.connect("env-before-read-docs", forget_module_pages)
    app.connect("build-finished", trim_site)
    app.connect("build-finished", forget_failed_build)
    app.connect("doctree-resolved", size_images)
    app.connect("doctree-resolved", fold_dropdowns)
    app.connect("doctree-resolved", single_brackets)
    app.connect("doctree-resolved", set_off_proofs)
    app.connect("doctree-resolved", name_task_boxes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
