"""Explorables: how soon the page is there, how soon it answers, what it weighs, and what it adds to the build.

Needs a built book in ``_build/html`` and Chromium. ``python benchmarks/explorables.py``.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

from _common import ROOT, Bar, main

SITE = ROOT / "_build" / "html"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OBSERVE = """
window.shift = 0; window.paint = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value;
}).observe({ type: "layout-shift", buffered: true });
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.paint = entry.startTime;
}).observe({ type: "largest-contentful-paint", buffered: true });
"""
# Moves a control as its own event does and waits for the drawing; the clock is the page's.
MOVE = """([name, field, place]) => new Promise((done) => {
  const section = document.getElementById(name), before = section.dataset.drawn;
  const input = section.querySelector(`[name="${field}"]`);
  const start = performance.now();
  new MutationObserver((_, observer) => {
    if (section.dataset.drawn === before) return;
    observer.disconnect();
    done(performance.now() - start);
  }).observe(section, { attributeFilter: ["data-drawn"] });
  input.value = place;
  input.dispatchEvent(new Event("input", { bubbles: true }));
})"""
# The controls whose every setting can be reached by a value: sliders (within a bank) and lists (another bank).
FIELDS = """(name) => [...document.getElementById(name).querySelectorAll(
    ".explorable-control :is(input[type=range], select)")]
  .map((field) => [field.name, field.localName, Number(field.max ?? field.length - 1), field.value])"""


def serve() -> tuple[http.server.ThreadingHTTPServer, str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def pages() -> dict[str, list[str]]:
    """Page -> the explorables on it."""
    found = {}
    for path in SITE.rglob("*.html"):
        names = re.findall(r'<section class="explorable" id="(\w+)"', path.read_text(encoding="utf-8"))
        if names:
            found[path.relative_to(SITE).as_posix()] = names
    return found


def look(address: str, repeats: int) -> tuple[dict[str, Any], list[Bar]]:
    from playwright.sync_api import sync_playwright

    executable = os.environ.get("NNBOOK_CHROMIUM") or next(p for n in CHROMIUM if (p := shutil.which(n)))
    paints: dict[str, list[float]] = {}
    shifts: dict[str, list[float]] = {}
    ready: dict[str, list[float]] = {}
    moves: dict[str, dict[str, list[float]]] = {"input": {}, "select": {}}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        for page, names in pages().items():
            for _ in range(repeats):
                context = browser.new_context(viewport={"width": 1280, "height": 900})  # nothing is cached in it
                context.add_init_script(OBSERVE)
                tab = context.new_page()
                tab.goto(f"{address}/{page}", wait_until="load")
                tab.wait_for_timeout(300)
                paints.setdefault(page, []).append(tab.evaluate("paint"))
                for name in names:
                    start = time.perf_counter()
                    tab.locator(f"#{name}").scroll_into_view_if_needed()
                    tab.wait_for_selector(f"#{name}[data-state=ready]", timeout=30_000)
                    ready.setdefault(name, []).append(time.perf_counter() - start)
                shifts.setdefault(page, []).append(tab.evaluate("shift"))
                for name in names:
                    for field, kind, last, default in tab.evaluate(FIELDS, name):
                        for place in [*range(last + 1), int(default)]:
                            if tab.locator(f'#{name} [name="{field}"]').input_value() != str(place):
                                took = tab.evaluate(MOVE, [name, field, str(place)])
                                moves[kind].setdefault(name, []).append(took)
                context.close()
        browser.close()
    within = [value for values in moves["input"].values() for value in values]
    bars = [
        Bar("largest contentful paint, cold, worst page (median of its loads)", _worst(paints), 1500, "ms"),
        Bar("layout shift, worst page", _worst(shifts), 0.05),
        Bar("scrolled into view to operable, worst widget (median)", _worst(ready), 2.0, "s"),
        Bar("control to redrawn, median", median(within), 50, "ms"),
        Bar("control to redrawn, 95th percentile", quantile(within, 0.95), 100, "ms"),
    ]
    medians = {kind: {name: median(values) for name, values in found.items()} for kind, found in moves.items()}
    found = {"paint_ms": paints, "shift": shifts, "operable_s": ready, "moves": len(within)}
    return found | {"redraw_slider_ms": medians["input"], "redraw_list_with_its_bank_ms": medians["select"]}, bars


def _worst(found: dict[str, list[float]]) -> float:
    return max(median(values) for values in found.values())


def weigh() -> tuple[dict[str, Any], list[Bar]]:
    sizes = {
        folder.name.rsplit("-", 1)[0]: sorted(path.stat().st_size for path in folder.glob("*.bank"))
        for folder in sorted((SITE / "_static" / "explorables").iterdir())
    }
    for name, found in sizes.items():
        print(f"{name:<24} {len(found):3d} banks, largest {max(found):>8,} bytes, together {sum(found):>10,}")
    bars = [
        Bar("largest bank", max(max(found) for found in sizes.values()) / 1e3, 300, "kB"),
        Bar("banks of an explorable, largest", max(map(sum, sizes.values())) / 1e6, 4, "MB"),
    ]
    return {name: {"banks": len(found), "bytes": sum(found)} for name, found in sizes.items()}, bars


BUILD = """
import sys, time
sys.path[:0] = [{root!r}, {ext!r}]
if __name__ == "__main__":
    import explorables
    from pathlib import Path
    start = time.perf_counter()
    explorables.build({wanted!r}, Path({store!r}))
    print(time.perf_counter() - start)
"""


def build_time() -> tuple[dict[str, float], list[Bar]]:
    """Seconds to evaluate everything from nothing, and when nothing has changed."""
    from nnbook.explore import explorables

    wanted = sorted(f"{e.function.__module__}:{name}" for name, e in explorables().items())
    with tempfile.TemporaryDirectory() as place:
        script = Path(place) / "build_explorables.py"
        values = {"root": str(ROOT), "ext": str(ROOT / "book" / "_ext"), "wanted": wanted, "store": place + "/store"}
        script.write_text(BUILD.format(**values), encoding="utf-8")
        cold, warm = (
            float(
                subprocess.run(
                    [sys.executable, str(script)], capture_output=True, text=True, check=True
                ).stdout.split()[-1]
            )
            for _ in range(2)
        )
    bars = [Bar("build, from nothing", cold, 90, "s"), Bar("build, cached", warm, 3, "s")]
    return {"cold_s": cold, "warm_s": warm}, bars


def kernel(repeats: int) -> tuple[dict[str, float], list[Bar]]:
    """Milliseconds from a control's new value to the figure's, in the kernel."""
    from nnbook.explore import explorables

    found: dict[str, list[float]] = {}
    for name, e in explorables().items():
        if e.trains:
            continue
        panel = e.panel
        for _ in range(repeats):
            for key, control in e.controls.items():
                for stop in (*control.stops, control.default):
                    start = time.perf_counter()
                    panel.controls[key].value = stop
                    found.setdefault(name, []).append(1e3 * (time.perf_counter() - start))
    medians = {name: median(values) for name, values in found.items()}
    return medians, [Bar("kernel time of a move, slowest explorable's median", max(medians.values()), 20, "ms")]


def measure(quick: bool) -> tuple[dict[str, Any], list[Bar]]:
    if not (SITE / "_static" / "explorables").is_dir():
        raise SystemExit("there is no built book with explorables: run `make book` first")
    server, address = serve()
    results: dict[str, Any] = {}
    bars: list[Bar] = []
    for name, part in (
        ("page", lambda: look(address, 1 if quick else 3)),
        ("banks", weigh),
        ("kernel", lambda: kernel(1 if quick else 3)),
        *(() if quick else (("build", build_time),)),
    ):
        results[name], more = part()
        bars += more
    server.shutdown()
    print(json.dumps(results.get("kernel"), indent=1))
    return results, bars


if __name__ == "__main__":
    main(__file__, measure)
