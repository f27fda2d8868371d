"""Every page of the book, opened in a real browser: light and dark, on a phone and on a desktop."""

from __future__ import annotations

import re
from typing import Any

import pytest
from built import toc_pages
from visits import SIZES, Visit, accessibility_faults

PAGES = [*toc_pages(), "search", "genindex"]
MAX_SHIFT = 0.05
MAX_PAINT_MS = 1500
ATTEMPTS = 3  # paint times are wall time: on a busy machine the best of three is the page's own

SCROLL_THROUGH = """async () => {
  const step = innerHeight;
  for (let y = 0; y < document.documentElement.scrollHeight; y += step) {
    scrollTo(0, y);
    await new Promise(requestAnimationFrame);
  }
  await Promise.all([...document.images].map((image) => image.decode().catch(() => {})));
  scrollTo(0, 0);
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
}"""

# The text a reader sees outside formulas and code.
PROSE = """() => {
  const article = document.querySelector("article, .bd-search-container, main").cloneNode(true);
  for (const part of article.querySelectorAll(".katex, pre, code, script, style")) part.remove();
  return article.textContent;
}"""

RAW_MARKUP = re.compile(
    r"\$[^$\n]{1,200}\$"  # mathematics that was never parsed
    r"|\\(?:frac|sum|partial|begin|end|mathbb|mathrm|operatorname|text|left|right|sigma|log|exp)\b"
    r"|\{(?:math|eq|cite|numref|ref|doc|py:func|py:mod|term|exercise|solution|figure|bibliography)[^}\s]*\}"
    r"|:(?:eq|math|cite|func|mod|class|ref|numref|doc):`"
    r"|^:(?:label|class|name|filter):"
    r"|^```|^:::",
    re.MULTILINE,
)


READY = """async () => {
  await document.fonts.ready;
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 100)));
  return window.paint;
}"""


def faults_of(
    browser: Any, address: str, axe: str, page: str, *, scheme: str, device: str, plant: str = ""
) -> list[str]:
    """Everything that is wrong with a page, in words."""
    with Visit(browser, address, page, scheme, device, plant=plant) as visit:
        tab, faults = visit.page, visit.faults
        paint = tab.evaluate(READY)
        tab.evaluate(SCROLL_THROUGH)
        if tab.evaluate("document.documentElement.dataset.theme") != scheme:
            faults.append(f"the page is not {scheme}")
        shift = tab.evaluate("window.shift")
        if shift >= MAX_SHIFT:
            faults.append(f"layout shift {shift:.3f}: {tab.evaluate('window.shifted')[:5]}")
        if tab.locator(".katex-error").count():
            faults.append("a formula that KaTeX refused")
        faults += [f"raw markup: {match[0]}" for match in RAW_MARKUP.finditer(tab.evaluate(PROSE))]
        wide, width = tab.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        if wide > width:
            faults.append(f"the page scrolls sideways: {wide} > {width}")
        if (device, scheme) != ("phone", "dark"):  # colours do not depend on the width
            faults += accessibility_faults(tab, axe, contrast_only=scheme == "dark")
    for _ in range(ATTEMPTS - 1):
        if paint < MAX_PAINT_MS:
            break
        with Visit(browser, address, page, scheme, device, plant=plant) as again:
            paint = min(paint, again.page.evaluate(READY))
    if not 0 < paint < MAX_PAINT_MS:
        faults.append(f"largest contentful paint after {paint:.0f} ms")
    return faults


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", SIZES)
@pytest.mark.parametrize("page", PAGES)
def test_page(page: str, device: str, scheme: str, browser: Any, address: str, axe: str) -> None:
    faults = faults_of(browser, address, axe, page, scheme=scheme, device=device)
    assert not faults, "\n".join(faults)


PLANTED = {
    "another host": ('<img alt="a picture" width="9" height="9" src="http://example.org/a.png">', "another host"),
    "a missing file": ('<img alt="a picture" width="9" height="9" src="no-such.png">', "404"),
    "a console error": ("<script>console.error('planted')</script>", "console error"),
    "a script error": ("<script>planted()</script>", "script error"),
    "a formula left raw": ("<p>Let $x^2$ be given.</p>", "raw markup"),
    "a role left raw": ("<p>See {eq}`eq-softplus`.</p>", "raw markup"),
    "pale text": ('<p style="color: #bbb">Pale.</p>', "color-contrast"),
    "a picture without words": ('<img width="9" height="9" src="../_static/logo.svg">', "image-alt"),
    "a button without a name": ("<button></button>", "button-name"),
    "a name that is not the text": ('<button aria-label="Off">Go ahead</button>', "label-content-name-mismatch"),
    "a box wider than the page": ('<div style="width: 2000px; height: 9px"></div>', "sideways"),
    "text that jumps": (
        "<script>setTimeout(() => document.querySelector('h1').style.marginTop = '400px', 50)</script>",
        "layout shift",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(name: str, browser: Any, address: str, axe: str) -> None:
    plant, words = PLANTED[name]
    faults = faults_of(browser, address, axe, "book/notation", scheme="light", device="phone", plant=plant)
    assert any(words in fault for fault in faults), faults
