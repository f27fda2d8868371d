"""Every explorable on every page, in a real browser: each control changes the drawing to what Python gives for it."""

from __future__ import annotations

import importlib
import pkgutil
import re
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from conftest import SITE

import nnbook.explore
from nnbook.explore.core import Control, Explorable
from nnbook.explore.figures import at_frame

STEPS = 65534
EXPLORABLES = {
    value.name: value
    for info in pkgutil.iter_modules(nnbook.explore.__path__)
    if info.name not in ("bank", "core", "figures", "jupyter", "picture")
    for value in vars(importlib.import_module(f"nnbook.explore.{info.name}")).values()
    if isinstance(value, Explorable)
}
PLACES = sorted(
    (path.relative_to(SITE).with_suffix("").as_posix(), name)
    for path in (SITE.rglob("*.html") if SITE.is_dir() else ())
    if "_static" not in path.parts
    for name in re.findall(r'<section class="explorable" id="(\w+)"', path.read_text(encoding="utf-8"))
)
if not PLACES:
    pytest.skip("no page of the book holds an explorable yet", allow_module_level=True)

from test_pages import WIDTHS, Visit, accessibility_problems  # noqa: E402

on_every_page = pytest.mark.parametrize(("page", "name"), PLACES, ids=[name for _, name in PLACES])

DRAWN = """(name) => document.querySelector(`#${name} .explorable-plot`).data.map((trace) => Object.fromEntries(
  ["x", "y", "z"].filter((key) => trace[key]).map((key) =>
    [key, Array.from(trace[key], (entry) => typeof entry === "number" ? entry : Array.from(entry))])
  .concat([["text", trace.text ?? null]])))"""


class Widget:
    """An explorable as it stands on an open page."""

    def __init__(self, visit: Visit, name: str):
        self.tab, self.name, self.e = visit.page, name, EXPLORABLES[name]
        self.box = self.tab.locator(f"#{name}")
        self.parameters = self.e.check()

    def awake(self) -> Widget:
        self.box.scroll_into_view_if_needed()
        self.tab.wait_for_selector(f"#{self.name}[data-state]", timeout=20_000)
        assert self.box.get_attribute("data-state") == "ready", self.message()
        return self

    def message(self) -> str:
        return self.box.locator(".explorable-message").inner_text()

    def count(self) -> int:
        return int(self.box.get_attribute("data-drawn") or 0)

    def wait_for_drawing(self, before: int) -> None:
        more = "([name, before]) => Number(document.getElementById(name).dataset.drawn || 0) > before"
        self.tab.wait_for_function(more, arg=[self.name, before], timeout=20_000)

    def move(self, name: str, stop: Any) -> None:
        """Set a control as a reader does."""
        control, before = self.e.controls[name], self.count()
        place = str(control.stops.index(stop))
        field = self.box.locator(f'[name="{name}"]')
        if control.kind == "choice":
            field.select_option(value=place)
        elif control.kind == "toggle":
            field.set_checked(stop)
        elif control.kind == "data":
            self.box.locator(f'[name="{name}"][value="{place}"]').check(force=True)
        else:
            field.fill(place)
        if self.parameters[name] != stop:
            self.wait_for_drawing(before)
        self.parameters[name] = stop

    def assert_drawn_as_python_says(self, number: int = -1) -> None:
        """Another drawing may still be on its way, so the page has two seconds to come to rest."""
        for _ in range(10):
            try:
                self.compare(number)
                return
            except AssertionError:
                self.tab.wait_for_timeout(200)
        self.compare(number)

    def compare(self, number: int) -> None:
        fig = self.e(**self.parameters)
        traces, text = at_frame(fig, number)
        drawn = self.tab.evaluate(DRAWN, self.name)
        assert len(drawn) == len(traces)
        for i, (got, want) in enumerate(zip(drawn, traces, strict=True)):
            for key in ("x", "y", "z"):
                if key in want:
                    value = np.asarray(got[key], float)
                    assert value.shape == want[key].shape, (i, key, self.parameters)
                    if value.size:
                        worst = np.abs(value - want[key]).max()
                        assert worst <= step_of(fig, i, key), (i, key, worst, self.parameters)
            assert got["text"] == want.get("text"), (i, self.parameters)
        assert self.box.locator(".explorable-words").text_content() == text


def step_of(fig: dict[str, Any], trace: int, key: str) -> float:
    """The bank's quantisation step, (max - min) / 65534, of an array or of one that changes over time."""
    versions = [moment["data"][trace][key] for moment in fig["frames"] if key in moment["data"][trace]]
    whole = np.concatenate([np.ravel(v) for v in [*versions, fig["data"][trace][key]]])
    return float(whole.max() - whole.min()) / STEPS + 1e-9


def other_stops(control: Control) -> list[Any]:
    """What a control is moved to: every name, or both ends and the middle, and back to the default."""
    stops = control.stops if control.is_discrete else (control.stops[0], control.stops[len(control.stops) // 2])
    return [*(stop for stop in stops if stop != control.default), control.stops[-1], control.default]


@on_every_page
@pytest.mark.parametrize("device", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_control_draws_what_python_gives(
    page: str, name: str, device: str, scheme: str, browser: Any, address: str
) -> None:
    with Visit(browser, address, page, scheme, WIDTHS[device]) as visit:
        widget = Widget(visit, name).awake()
        widget.assert_drawn_as_python_says()
        for key, control in widget.e.controls.items():
            for stop in other_stops(control) if (device, scheme) == ("desktop", "light") else control.stops[-1:]:
                widget.move(key, stop)
                widget.assert_drawn_as_python_says()
        box = widget.box.locator(".explorable-plot").bounding_box()
        svg = widget.box.locator(".explorable-plot .main-svg").first.bounding_box()
        assert box is not None
        assert svg is not None
        assert abs(svg["width"] - box["width"]) <= 1
        assert svg["height"] <= box["height"] + 1
        assert not visit.complaints


@on_every_page
def test_experiments_reset_and_time(page: str, name: str, browser: Any, address: str) -> None:
    with Visit(browser, address, page, "light", WIDTHS["desktop"]) as visit:
        widget = Widget(visit, name).awake()
        for i, trial in enumerate(widget.e.experiments):
            before = widget.count()
            widget.box.locator(".explorable-trials a").nth(i).click()
            widget.wait_for_drawing(before)
            widget.parameters = widget.e.check(**trial.parameters)
            widget.assert_drawn_as_python_says()
        before = widget.count()
        widget.box.locator("button[type=reset]").click()
        widget.wait_for_drawing(before)
        widget.parameters = widget.e.check()
        widget.assert_drawn_as_python_says()
        visit.page.wait_for_function("(name) => !location.search.includes(`${name}.`)", arg=name)
        frames = widget.e()["frames"]
        if frames:
            widget.box.get_by_role("button", name="One step back").click()
            widget.wait_for_drawing(before + 1)
            widget.assert_drawn_as_python_says(len(frames) - 2)
            said = f"{name}.frame={len(frames) - 2}"
            visit.page.wait_for_function("(said) => location.search.includes(said)", arg=said)
            widget.box.get_by_role("slider", name="Time").fill("1")
            widget.wait_for_drawing(before + 2)
            widget.assert_drawn_as_python_says(1)
            widget.box.get_by_role("button", name="Play").click()
            widget.box.get_by_role("button", name="Pause").wait_for()
            widget.box.get_by_role("button", name="Play").wait_for(timeout=60_000)
            widget.assert_drawn_as_python_says(-1)
        assert not visit.complaints


@on_every_page
def test_an_address_sets_the_widget(page: str, name: str, browser: Any, address: str) -> None:
    e = EXPLORABLES[name]
    words = {True: "true", False: "false"}
    last = {key: control.stops[-1] for key, control in e.controls.items()}
    query = urlencode({f"{name}.{k}": words.get(v, v) if isinstance(v, bool) else v for k, v in last.items()})
    with Visit(browser, address, page, "light", WIDTHS["desktop"], query=f"?{query}#{name}") as visit:
        widget = Widget(visit, name).awake()
        widget.parameters = last
        widget.assert_drawn_as_python_says()
        assert not widget.message()
        assert not visit.complaints


MARKUP = "<img src=x onerror=window.hurt=1><b>bold</b>"


@on_every_page
def test_a_hostile_address_leaves_the_defaults_and_is_told(page: str, name: str, browser: Any, address: str) -> None:
    e = EXPLORABLES[name]
    for evil in (MARKUP, "1e999", "-1e9", "NaN", "", "__proto__", "%", "0x10", "1" * 5000):
        query = urlencode({f"{name}.{key}": evil for key in [*e.controls, "nothing", "constructor", "frame", MARKUP]})
        with Visit(browser, address, page, "light", WIDTHS["desktop"], query=f"?{query}") as visit:
            widget = Widget(visit, name).awake()
            widget.assert_drawn_as_python_says()
            assert "a parameter that this widget does not have" in widget.message()
            assert "that there is not" in widget.message()
            html = visit.page.evaluate("(name) => document.getElementById(name).outerHTML", name)
            assert "onerror" not in html
            assert "<b>bold" not in html
            assert visit.page.evaluate("window.hurt") is None
            visit.page.wait_for_function(
                "(name) => document.querySelector(`#${name} [role=status]`).textContent.includes('address')", arg=name
            )
            assert not visit.complaints
        if evil != MARKUP and len(e.controls) > 2:
            break  # the decoder of addresses is one for all widgets; the smaller ones try every value


def test_a_damaged_percent_sign_is_no_error(browser: Any, address: str) -> None:
    if not PLACES:
        pytest.skip("no page has an explorable")
    page, name = PLACES[0]
    with Visit(browser, address, page, "light", WIDTHS["desktop"], query=f"?{name}.%E0%A4%A=1&%=2&&&=#%") as visit:
        Widget(visit, name).awake().assert_drawn_as_python_says()
        assert not visit.complaints


@pytest.mark.parametrize("damage", ["missing", "truncated", "cut raw", "page instead"])
def test_without_its_bank_the_picture_stays_and_a_message_says_so(damage: str, browser: Any, address: str) -> None:
    if not PLACES:
        pytest.skip("no page has an explorable")
    page, name = PLACES[0]

    def spoil(route: Any) -> None:
        if damage == "missing":
            route.fulfill(status=404, body="")
            return
        if damage == "page instead":
            route.fulfill(status=200, content_type="text/html", body="<html>moved</html>")
            return
        import gzip

        body = route.fetch().body()
        body = gzip.decompress(body)[:-9] if damage == "cut raw" else body[: len(body) // 2]
        route.fulfill(status=200, content_type="application/octet-stream", body=body)

    with Visit(browser, address, page, "light", WIDTHS["desktop"]) as visit:
        visit.page.route("**/*.bank", spoil)
        visit.page.goto(f"{address}/{page}.html")
        widget = Widget(visit, name)
        widget.box.scroll_into_view_if_needed()
        visit.page.wait_for_selector(f"#{name}[data-state=failed]", timeout=20_000)
        assert "could not be loaded" in widget.message()
        picture = widget.box.locator("picture img")
        assert picture.is_visible()
        assert picture.evaluate("async (image) => (await image.decode(), image.naturalWidth)") > 100
        visit.page.unroute("**/*.bank")
        key, control = next(iter(widget.e.controls.items()))
        widget.move(key, control.stops[-1])  # and once the bank is there, the widget lives
        widget.assert_drawn_as_python_says()


def test_a_server_that_unpacks_the_banks_does_no_harm(browser: Any, address: str) -> None:
    if not PLACES:
        pytest.skip("no page has an explorable")
    import gzip

    page, name = PLACES[0]
    with Visit(browser, address, page, "light", WIDTHS["desktop"]) as visit:
        visit.page.route("**/*.bank", lambda route: route.fulfill(body=gzip.decompress(route.fetch().body())))
        visit.page.goto(f"{address}/{page}.html")
        Widget(visit, name).awake().assert_drawn_as_python_says()


@on_every_page
@pytest.mark.parametrize("device", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_awake_widget_is_accessible_and_nothing_jumps(
    page: str, name: str, device: str, scheme: str, browser: Any, address: str, axe: str
) -> None:
    with Visit(browser, address, page, scheme, WIDTHS[device]) as visit:
        before = visit.page.locator(f"#{name}").bounding_box()
        widget = Widget(visit, name).awake()
        assert not accessibility_problems(visit.page, axe, contrast_only=False)
        after = widget.box.bounding_box()
        assert before is not None
        assert after is not None
        assert after["height"] == before["height"]
        assert visit.page.evaluate("window.shift") < 0.05
        wide, width = visit.page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert wide <= width


@on_every_page
def test_the_drawing_follows_light_and_dark(page: str, name: str, browser: Any, address: str) -> None:
    colour = "(name) => getComputedStyle(document.querySelector(`#${name} .xtick text`)).fill"
    with Visit(browser, address, page, "light", WIDTHS["desktop"]) as visit:
        widget = Widget(visit, name).awake()
        if not widget.box.locator(".xtick text").count():
            pytest.skip("draws no axis")
        light, count = visit.page.evaluate(colour, name), widget.count()
        visit.page.evaluate("document.documentElement.dataset.theme = 'dark'")
        widget.wait_for_drawing(count)
        assert visit.page.evaluate(colour, name) != light
        assert not visit.complaints


@on_every_page
def test_without_a_script_there_is_a_picture_with_its_words(page: str, name: str, browser: Any, address: str) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 1280, "height": 900})
    try:
        tab = context.new_page()
        tab.goto(f"{address}/{page}.html")
        box = tab.locator(f"#{name}")
        box.scroll_into_view_if_needed()
        assert box.locator("picture img").is_visible()
        assert box.locator(".explorable-words").inner_text()
        assert "JavaScript" in box.inner_text()
        assert all(box.locator("input, select, button").nth(i).is_disabled() for i in range(2))
    finally:
        context.close()


def test_with_reduced_motion_play_goes_to_the_end_at_once(browser: Any, address: str) -> None:
    timed = [(page, name) for page, name in PLACES if EXPLORABLES[name]()["frames"]]
    if not timed:
        pytest.skip("no page has an explorable with time")
    page, name = timed[0]
    with Visit(browser, address, page, "light", WIDTHS["desktop"]) as visit:
        visit.page.emulate_media(reduced_motion="reduce")
        widget = Widget(visit, name).awake()
        widget.box.get_by_role("slider", name="Time").fill("0")
        widget.wait_for_drawing(1)
        count = widget.count()
        widget.box.get_by_role("button", name="Play").click()
        widget.wait_for_drawing(count)
        visit.page.wait_for_timeout(300)
        assert widget.count() == count + 1
        widget.assert_drawn_as_python_says(-1)


@on_every_page
def test_the_keyboard_moves_the_controls(page: str, name: str, browser: Any, address: str) -> None:
    with Visit(browser, address, page, "light", WIDTHS["desktop"]) as visit:
        widget = Widget(visit, name).awake()
        slider = next((k for k, c in widget.e.controls.items() if not c.is_discrete), None)
        if slider is None:
            pytest.skip("has no slider")
        control, before = widget.e.controls[slider], widget.count()
        widget.box.locator(f'[name="{slider}"]').focus()
        visit.page.keyboard.press("ArrowLeft")
        widget.wait_for_drawing(before)
        widget.parameters[slider] = control.stops[control.stops.index(control.default) - 1]
        widget.assert_drawn_as_python_says()
        visit.page.keyboard.press("Tab")
        assert visit.page.evaluate("document.activeElement !== document.body")
