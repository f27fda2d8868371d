"""A page of the book, opened once in a browser: what it asked for, what it complained about, what axe-core finds."""

from __future__ import annotations

import functools
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlsplit

SIZES = {"phone": (390, 844), "desktop": (1280, 900)}
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

# A chapter has 50,000 elements, nearly all of them parts of formulas and coloured words of code, which are all alike.
# So that axe-core need not look at each, formulas after the twentieth become empty boxes of the same size, coloured
# words after the fifth of their kind become plain text, and of the API's entries twenty remain.
LIGHTEN = """() => {
  [...document.querySelectorAll(".katex")].slice(20).map((formula) => {
    const { width, height } = formula.getBoundingClientRect();
    return [formula, width, height];
  }).forEach(([formula, width, height]) => {
    const box = document.createElement("span");
    box.style.cssText = `display: inline-block; width: ${width}px; height: ${height}px`;
    formula.replaceWith(box);
  });
  for (const entry of [...document.querySelectorAll("dl.py.function, dl.py.class, dl.py.data")].slice(20)) {
    entry.remove();
  }
  const seen = {};
  for (const word of document.querySelectorAll(".highlight span")) {
    seen[word.className] = (seen[word.className] || 0) + 1;
    if (seen[word.className] > 5) word.replaceWith(...word.childNodes);
  }
}"""


class _Lighter(HTMLParser):
    """A page without its formulas and its code, which are nearly all of a chapter's elements."""

    VOID = frozenset(
        {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
    )

    def __init__(self, page: str):
        super().__init__(convert_charrefs=False)
        self.kept: list[str] = []
        self.depth = 0  # of elements inside one that is left out
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        left_out = {"katex", "highlight"} & set((dict(attrs).get("class") or "").split())
        if self.depth or left_out:
            self.depth += tag not in self.VOID
        else:
            self.keep(self.get_starttag_text() or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.keep(self.get_starttag_text() or "")

    def handle_endtag(self, tag: str) -> None:
        self.keep(f"</{tag}>")
        self.depth -= bool(self.depth)

    def handle_data(self, data: str) -> None:
        self.keep(data)

    def handle_entityref(self, name: str) -> None:
        self.keep(f"&{name};")

    def handle_charref(self, name: str) -> None:
        self.keep(f"&#{name};")

    def handle_comment(self, data: str) -> None:
        pass

    def handle_decl(self, decl: str) -> None:
        self.keep(f"<!{decl}>")

    def keep(self, text: str) -> None:
        if not self.depth:
            self.kept.append(text)


@functools.cache
def _lightened(page: str) -> str:
    return "".join(_Lighter(page).kept)


class Visit:
    """One page opened once; ``plant`` is put into its article, ``query`` behind its address.

    A ``light`` page comes without its formulas and code, for tests of what else stands there: it opens in a fraction of
    the time.
    """

    def __init__(
        self,
        browser: Any,
        address: str,
        page: str,
        scheme: str,
        device: str,
        *,
        plant: str = "",
        query: str = "",
        light: bool = False,
    ):
        self.faults: list[str] = []
        self.host = urlsplit(address).netloc
        width, height = SIZES[device]
        self.context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.context.add_init_script(MEASURE)
        self.page = self.context.new_page()
        self.page.route(lambda url: urlsplit(url).scheme in ("http", "https"), self._stay_at_home)
        if plant:
            self.page.route(f"{address}/{page}.html", lambda route: self._plant(route, plant))
        if light:
            self.page.route(f"{address}/{page}.html*", self._lighten)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.faults.append(f"script error: {error}"))
        self.page.on("requestfailed", lambda request: self.faults.append(f"request failed: {request.url}"))
        self.page.on("response", self._response)
        self.page.goto(f"{address}/{page}.html{query}", wait_until="load")

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

    def _lighten(self, route: Any) -> None:
        response = route.fetch()
        route.fulfill(response=response, body=_lightened(response.text()))

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


def accessibility_faults(tab: Any, axe: str, *, contrast_only: bool, within: str = "html") -> list[str]:
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
        "async ([within, options]) => (await axe.run(within, options)).violations.map((rule) => "
        "rule.id + ': ' + rule.help + rule.nodes.slice(0, 4).map((node) => '\\n    ' + node.html.slice(0, 160) + "
        "'\\n      ' + (node.any.concat(node.all, node.none)[0] || {message: ''}).message).join(''))",
        [within, options],
    )
    return list(result)
