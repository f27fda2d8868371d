"""Every page of the book, opened in a real browser: light and dark, on a phone and on a desktop."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import pytest
from conftest import toc_pages

WIDTHS = {"phone": (390, 844), "desktop": (1280, 900)}
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


class Visit:
    """One page opened once: what it asked for and what it complained about."""

    def __init__(self, browser: Any, address: str, page: str, scheme: str, size: tuple[int, int]):
        self.complaints: list[str] = []
        self.host = urlsplit(address).netloc
        self.context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
        self.context.add_init_script(MEASURE)
        self.page = self.context.new_page()
        self.page.route(lambda url: urlsplit(url).scheme in ("http", "https"), self._route)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(f"script error: {error}"))
        self.page.on("requestfailed", lambda request: self.complaints.append(f"request failed: {request.url}"))
        self.page.on("response", self._response)
        self.page.goto(f"{address}/{page}.html", wait_until="load")

    def _route(self, route: Any) -> None:
        if urlsplit(route.request.url).netloc == self.host:
            route.continue_()
        else:
            self.complaints.append(f"request to another host: {route.request.url}")
            route.abort()

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.complaints.append(f"console error: {message.text}")

    def _response(self, response: Any) -> None:
        if response.status >= 400:
            self.complaints.append(f"{response.status} for {response.url}")

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


def largest_paint(browser: Any, address: str, page: str, scheme: str, size: tuple[int, int], first: float) -> float:
    best = first
    for _ in range(ATTEMPTS - 1):
        if best < MAX_PAINT_MS:
            break
        with Visit(browser, address, page, scheme, size) as again:
            again.page.wait_for_timeout(200)
            best = min(best, again.page.evaluate("window.paint"))
    return best


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", WIDTHS)
@pytest.mark.parametrize("page", PAGES)
def test_page(page: str, device: str, scheme: str, browser: Any, address: str, axe: str) -> None:
    size = WIDTHS[device]
    with Visit(browser, address, page, scheme, size) as visit:
        tab = visit.page
        paint = tab.evaluate(
            "() => new Promise((done) => requestAnimationFrame(() => setTimeout(() => done(paint), 50)))"
        )
        tab.evaluate(SCROLL_THROUGH)

        assert not visit.complaints
        assert tab.evaluate("document.documentElement.dataset.theme") == scheme
        shift = tab.evaluate("window.shift")
        assert shift < MAX_SHIFT, f"layout shift {shift:.3f}: {tab.evaluate('window.shifted')[:5]}"
        assert tab.locator(".katex-error").count() == 0
        assert not re.findall(RAW_MARKUP, tab.evaluate(PROSE))
        if device == "phone":
            wide, width = tab.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
            assert wide <= width, f"the page scrolls sideways: {wide} > {width}"
        problems = accessibility_problems(tab, axe, contrast_only=scheme == "dark")
        assert not problems, "\n".join(problems)
    assert 0 < largest_paint(browser, address, page, scheme, size, paint) < MAX_PAINT_MS


def accessibility_problems(tab: Any, axe: str, *, contrast_only: bool) -> list[str]:
    """axe-core's violations of WCAG A and AA. In the dark only colours differ, so only contrast is looked at again."""
    tab.evaluate(LIGHTEN)
    tab.evaluate(f"() => {{ if (!window.axe) {{ {axe} }} }}")
    run_only = {"type": "rule", "values": ["color-contrast"]} if contrast_only else {"type": "tag", "values": AXE_TAGS}
    result = tab.evaluate(
        "async (options) => (await axe.run(document, options)).violations.map((rule) => "
        "rule.id + ': ' + rule.help + rule.nodes.slice(0, 4).map((node) => '\\n    ' + node.html.slice(0, 160) + "
        "'\\n      ' + (node.any.concat(node.all, node.none)[0] || {message: ''}).message).join(''))",
        {"runOnly": run_only, "resultTypes": ["violations"]},
    )
    return list(result)
