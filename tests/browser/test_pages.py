"""Every page of the book, opened in a real browser: light and dark, on a phone and on a desktop."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import pytest
from built import toc_pages

SIZES = {"phone": (390, 844), "desktop": (1280, 900)}
PAGES = [*toc_pages(), "search", "genindex"]
MAX_SHIFT = 0.05
MAX_PAINT_MS = 1500
ATTEMPTS = 3  # paint times are wall time: on a busy machine the best of three is the page's own
AXE_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]

MEASURE = """
window.shift = 0;
window.paint = 0;
window.shifted = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    if (entry.hadRecentInput) continue;
    window.shift += entry.value;
    for (const { node } of entry.sources) window.shifted.push(((node && node.outerHTML) || "").slice(0, 120));
  }
}).observe({ type: "layout-shift", buffered: true });
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.paint = entry.startTime;
}).observe({ type: "largest-contentful-paint", buffered: true });
"""

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

# A chapter has 50,000 elements, nearly all of them parts of formulas and coloured words of code, which are all alike.
# So that axe-core need not look at each, formulas after the twentieth become empty boxes of the same size and coloured
# words after the fifth of their kind become plain text.
LIGHTEN = """() => {
  [...document.querySelectorAll(".katex")].slice(20).map((formula) => {
    const { width, height } = formula.getBoundingClientRect();
    return [formula, width, height];
  }).forEach(([formula, width, height]) => {
    const box = document.createElement("span");
    box.style.cssText = `display: inline-block; width: ${width}px; height: ${height}px`;
    formula.replaceWith(box);
  });
  const seen = {};
  for (const word of document.querySelectorAll(".highlight span")) {
    seen[word.className] = (seen[word.className] || 0) + 1;
    if (seen[word.className] > 5) word.replaceWith(...word.childNodes);
  }
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


class Visit:
    """One page opened once: what it asked for and what it complained about. ``plant`` is put into its article."""

    def __init__(self, browser: Any, address: str, page: str, scheme: str, device: str, plant: str = ""):
        self.faults: list[str] = []
        self.host = urlsplit(address).netloc
        width, height = SIZES[device]
        self.context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.context.add_init_script(MEASURE)
        self.page = self.context.new_page()
        self.page.route(lambda url: urlsplit(url).scheme in ("http", "https"), self._stay_at_home)
        if plant:
            self.page.route(f"{address}/{page}.html", lambda route: self._plant(route, plant))
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.faults.append(f"script error: {error}"))
        self.page.on("requestfailed", lambda request: self.faults.append(f"request failed: {request.url}"))
        self.page.on("response", self._response)
        self.page.goto(f"{address}/{page}.html", wait_until="load")

    def _stay_at_home(self, route: Any) -> None:
        if urlsplit(route.request.url).netloc == self.host:
            route.continue_()
        else:
            self.faults.append(f"request to another host: {route.request.url}")
            route.abort()

    def _plant(self, route: Any, plant: str) -> None:
        response = route.fetch()
        body = response.text()
        assert "</article>" in body
        route.fulfill(response=response, body=body.replace("</article>", f"{plant}</article>", 1))

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.faults.append(f"console error: {message.text}")

    def _response(self, response: Any) -> None:
        if response.status >= 400:
            self.faults.append(f"{response.status} for {response.url}")

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


def faults_of(
    browser: Any, address: str, axe: str, page: str, *, scheme: str, device: str, plant: str = ""
) -> list[str]:
    """Everything that is wrong with a page, in words."""
    with Visit(browser, address, page, scheme, device, plant) as visit:
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
        faults += accessibility_faults(tab, axe, contrast_only=scheme == "dark")
    for _ in range(ATTEMPTS - 1):
        if paint < MAX_PAINT_MS:
            break
        with Visit(browser, address, page, scheme, device, plant) as again:
            paint = min(paint, again.page.evaluate(READY))
    if not 0 < paint < MAX_PAINT_MS:
        faults.append(f"largest contentful paint after {paint:.0f} ms")
    return faults


def accessibility_faults(tab: Any, axe: str, *, contrast_only: bool) -> list[str]:
    """axe-core's violations of WCAG A and AA. In the dark only colours differ, so only contrast is looked at again."""
    tab.evaluate(LIGHTEN)
    tab.evaluate(f"() => {{ if (!window.axe) {{ {axe} }} }}")
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if contrast_only:
        options["runOnly"] = {"type": "rule", "values": ["color-contrast"]}
    else:
        options["runOnly"] = {"type": "tag", "values": AXE_TAGS}
        options["rules"] = {"label-content-name-mismatch": {"enabled": True}}
    result = tab.evaluate(
        "async (options) => (await axe.run(document, options)).violations.map((rule) => "
        "rule.id + ': ' + rule.help + rule.nodes.slice(0, 4).map((node) => '\\n    ' + node.html.slice(0, 160) + "
        "'\\n      ' + (node.any.concat(node.all, node.none)[0] || {message: ''}).message).join(''))",
        options,
    )
    return list(result)


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
