"""Every explorable on every page, in a real browser: each control changes the drawing to what Python gives for it."""

from __future__ import annotations

import gzip
import itertools
import re
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from built import SITE
from visits import SIZES, Visit, accessibility_faults

from nnbook.explore import explorables
from nnbook.explore.core import Control
from nnbook.explore.figures import at_frame

EXPLORABLES = explorables()
PLACES = {
    path.relative_to(SITE).with_suffix("").as_posix(): names
    for path in (sorted(SITE.rglob("*.html")) if SITE.is_dir() else ())
    if "_static" not in path.parts
    if (names := re.findall(r'<section class="explorable" id="(\w+)"', path.read_text(encoding="utf-8")))
}
"""Page -> the names of the widgets on it. A chapter takes long to open, so each visit looks at all of its widgets."""

on_every_page = pytest.mark.parametrize("page", PLACES)

STEPS = 65534  # into which a bank divides the range of an array
PATIENCE = 20_000  # milliseconds for a drawing to appear on a busy machine

DRAWN = """(name) => document.querySelector(`#${name} .explorable-plot`).data.map((trace) => Object.fromEntries(
  ["x", "y", "z"].filter((key) => trace[key]).map((key) =>
    [key, Array.from(trace[key], (entry) => typeof entry === "number" ? entry : Array.from(entry))])
  .concat([["text", trace.text ?? null], ["axes", [trace.xaxis ?? "x", trace.yaxis ?? "y"]]])))"""
AXES = """(name) => Object.fromEntries(Object.entries(document.querySelector(`#${name} .explorable-plot`).layout)
  .filter(([key]) => /^[xy]axis/.test(key))
  .map(([key, { range, type, tickvals, title, domain }]) =>
    [key, { range, type, tickvals: tickvals && Array.from(tickvals), title: title?.text, domain }]))"""


def test_every_explorable_stands_on_one_page(site: Any) -> None:
    assert sorted(name for names in PLACES.values() for name in names) == sorted(EXPLORABLES)


class Widget:
    """An explorable as it stands on an open page."""

    def __init__(self, visit: Visit, name: str):
        self.tab, self.name, self.e = visit.page, name, EXPLORABLES[name]
        self.box = self.tab.locator(f"#{name}")
        self.parameters = self.e.check()

    def wait_for_state(self, state: str) -> Widget:
        self.box.scroll_into_view_if_needed()
        self.tab.wait_for_selector(f"#{self.name}[data-state]", timeout=PATIENCE)
        assert self.box.get_attribute("data-state") == state, self.message()
        return self

    def message(self) -> str:
        return self.box.locator(".explorable-message").inner_text()

    def count(self) -> int:
        return int(self.box.get_attribute("data-drawn") or 0)

    def wait_for_drawing(self, before: int) -> None:
        more = "([name, before]) => Number(document.getElementById(name).dataset.drawn || 0) > before"
        self.tab.wait_for_function(more, arg=[self.name, before], timeout=PATIENCE)

    def move(self, name: str, stop: Any) -> None:
        """Set a control as a reader does."""
        control, before = self.e.controls[name], self.count()
        place = str(control.stops.index(stop))
        field = self.box.locator(f'[name="{name}"]')
        if control.kind == "choice":
            field.select_option(index=int(place))  # a value would be compared with labels too
        elif control.kind == "toggle":
            field.set_checked(stop)
        elif control.kind in ("data", "drawing"):
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
            assert got["axes"] == [want["xaxis"], want["yaxis"]], i
        for name, axis in self.tab.evaluate(AXES, self.name).items():
            wanted = fig["layout"][name]
            assert axis["title"] == wanted["title"]["text"], name
            for key in ("range", "tickvals"):
                if key in wanted and "scaleanchor" not in fig["layout"].get("y" + name[1:], {}):
                    np.testing.assert_allclose(axis[key], wanted[key], rtol=1e-9, atol=1e-12, err_msg=name)
        assert self.box.locator(".explorable-words").text_content() == text


def step_of(fig: dict[str, Any], trace: int, key: str) -> float:
    """The bank's quantisation step, (max - min) / 65534, of an array or of one that changes over time."""
    versions = [moment["data"][trace][key] for moment in fig["frames"] if key in moment["data"][trace]]
    whole = np.concatenate([np.ravel(v) for v in [*versions, fig["data"][trace][key]]])
    return float(whole.max() - whole.min()) / STEPS + 1e-9


def other_stops(control: Control) -> list[Any]:
    """What a control is moved to: every name, or both ends and the middle, and back to the default."""
    every = control.is_discrete and control.kind != "drawing"
    stops = control.stops if every else (control.stops[0], control.stops[len(control.stops) // 2])
    return [*(stop for stop in stops if stop != control.default), control.stops[-1], control.default]


@on_every_page
@pytest.mark.parametrize("device", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_control_draws_what_python_gives_and_nothing_jumps(
    page: str, device: str, scheme: str, browser: Any, address: str, axe: str
) -> None:
    with Visit(browser, address, page, scheme, device, light=(device, scheme) != ("desktop", "light")) as visit:
        for name in PLACES[page]:
            before = visit.page.locator(f"#{name}").bounding_box()
            widget = Widget(visit, name).wait_for_state("ready")
            widget.assert_drawn_as_python_says()
            for key, control in widget.e.controls.items():
                for stop in other_stops(control) if (device, scheme) == ("desktop", "light") else control.stops[-1:]:
                    widget.move(key, stop)
                    widget.assert_drawn_as_python_says()
            box = widget.box.locator(".explorable-plot").bounding_box()
            svg = widget.box.locator(".explorable-plot .main-svg").first.bounding_box()
            domains = [axis["domain"] for key, axis in visit.page.evaluate(AXES, name).items() if key[0] == "y"]
            stacked = device == "phone"
            assert all((above[0] > below[1]) == stacked for above, below in itertools.pairwise(domains)), name
            assert abs(svg["width"] - box["width"]) <= 1, name
            assert svg["height"] <= box["height"] + 1, name
            assert widget.box.bounding_box()["height"] == before["height"], name
        assert visit.page.evaluate("window.shift") < 0.05
        wide, width = visit.page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert wide <= width
        assert not visit.faults
        for name in PLACES[page]:  # last, because it changes the page
            assert not accessibility_faults(visit.page, axe, contrast_only=False, within=f"#{name}")


@on_every_page
def test_experiments_reset_and_time(page: str, browser: Any, address: str) -> None:
    with Visit(browser, address, page, "light", "desktop", light=True) as visit:
        for name in PLACES[page]:
            widget = Widget(visit, name).wait_for_state("ready")
            assert_no_toolbar(widget)
            try_experiments_and_reset(widget)
            if frames := widget.e()["frames"]:
                go_through_time(widget, len(frames) - 1)
        assert not visit.faults


def assert_no_toolbar(widget: Widget) -> None:
    """Nothing offers to upload the chart to another company or links to it, seen or unseen."""
    plot = widget.box.locator(".explorable-plot")
    assert plot.locator(".modebar-btn, .modebar a, .plotlyjsicon").count() == 0, widget.name
    allowed = plot.evaluate("({_context: c}) => [c.showSendToCloud, c.displaylogo, c.plotlyServerURL, c.showLink]")
    assert not any(allowed), (widget.name, allowed)


def try_experiments_and_reset(widget: Widget) -> None:
    for i, trial in enumerate(widget.e.experiments):
        before = widget.count()
        widget.box.locator(".explorable-trials a").nth(i).click()
        widget.wait_for_drawing(before)
        widget.parameters = widget.e.check(**trial.parameters)
        widget.assert_drawn_as_python_says(-1 if trial.frame is None else trial.frame)
    before = widget.count()
    widget.box.locator("button[type=reset]").click()
    widget.wait_for_drawing(before)
    widget.parameters = widget.e.check()
    widget.assert_drawn_as_python_says()
    widget.tab.wait_for_function("(name) => !location.search.includes(`${name}.`)", arg=widget.name)


def go_through_time(widget: Widget, last: int) -> None:
    before = widget.count()
    widget.box.get_by_role("button", name="One step back").click()
    widget.wait_for_drawing(before)
    widget.assert_drawn_as_python_says(last - 1)
    said = f"{widget.name}.frame={last - 1}"
    widget.tab.wait_for_function("(said) => location.search.includes(said)", arg=said)
    before = widget.count()
    widget.box.get_by_role("slider", name="Time").fill("1")
    widget.wait_for_drawing(before)
    widget.assert_drawn_as_python_says(1)
    widget.box.get_by_role("button", name="Play").click()
    widget.box.get_by_role("button", name="Pause").wait_for()
    widget.box.get_by_role("button", name="Play").wait_for(timeout=60_000)
    widget.assert_drawn_as_python_says(-1)


@on_every_page
def test_an_address_sets_the_widgets(page: str, browser: Any, address: str) -> None:
    last = {name: {key: c.stops[-1] for key, c in EXPLORABLES[name].controls.items()} for name in PLACES[page]}
    words = {
        f"{name}.{key}": str(stop).lower() if isinstance(stop, bool) else stop
        for name, stops in last.items()
        for key, stop in stops.items()
    }
    with Visit(
        browser, address, page, "light", "desktop", light=True, query=f"?{urlencode(words)}#{PLACES[page][0]}"
    ) as visit:
        for name in PLACES[page]:
            widget = Widget(visit, name).wait_for_state("ready")
            widget.parameters = last[name]
            widget.assert_drawn_as_python_says()
            assert not widget.message()
        assert not visit.faults


MARKUP = "<img src=x onerror=window.hurt=1><b>bold</b>"
EVIL = ("1e999", "-1e9", "NaN", "", "__proto__", "%", "0x10", "1" * 500)


def hostile(page: str, evil: str) -> str:
    """A query that sets everything to ``evil``, and more."""
    keys = [
        f"{name}.{key}"
        for name in PLACES[page]
        for key in [*EXPLORABLES[name].controls, "nothing", "constructor", "frame", MARKUP]
    ]
    return "?" + urlencode(dict.fromkeys(keys, evil))


def assert_defaults_and_told(visit: Visit, name: str) -> None:
    widget = Widget(visit, name).wait_for_state("ready")
    widget.assert_drawn_as_python_says()
    assert "a parameter that this widget does not have" in widget.message()
    assert "that there is not" in widget.message()
    html = visit.page.evaluate("(name) => document.getElementById(name).outerHTML", name)
    assert "onerror" not in html
    assert "<b>bold" not in html
    assert visit.page.evaluate("window.hurt") is None
    told = "(name) => document.querySelector(`#${name} [role=status]`).textContent.includes('address')"
    visit.page.wait_for_function(told, arg=name)
    assert not [fault for fault in visit.faults if "favicon" not in fault]  # it may be cut off by the next page


@on_every_page
def test_a_hostile_address_leaves_the_defaults_and_is_told(page: str, browser: Any, address: str) -> None:
    with Visit(browser, address, page, "light", "desktop", light=True, query=hostile(page, MARKUP)) as visit:
        for name in PLACES[page]:
            assert_defaults_and_told(visit, name)


def test_a_moment_that_there_is_not_is_told(browser: Any, address: str) -> None:
    page, name = next((page, n) for page, names in PLACES.items() for n in names if EXPLORABLES[n]()["frames"])
    with Visit(browser, address, page, "light", "desktop", light=True, query=f"?{name}.frame=999999") as visit:
        widget = Widget(visit, name).wait_for_state("ready")
        assert "a moment that there is not" in widget.message()
        widget.assert_drawn_as_python_says(-1)


def test_a_late_answer_and_an_early_play_do_no_harm(browser: Any, address: str) -> None:
    page, name = next((page, n) for page, names in PLACES.items() for n in names if EXPLORABLES[n]()["frames"])
    with Visit(browser, address, page, "light", "desktop", light=True) as visit:
        waiting: list[Any] = []
        banks = f"**/{name}-*/*.bank"
        visit.page.route(banks, lambda route: waiting.append(route))  # noqa: PLW0108 - a bound method is refused
        visit.page.goto(f"{address}/{page}.html")
        widget = Widget(visit, name)
        with visit.page.expect_request(banks):
            widget.box.scroll_into_view_if_needed()
        assert widget.box.get_by_role("button", name="Play").is_disabled()
        choice = next(key for key, control in widget.e.controls.items() if control.kind == "choice")
        stop = widget.e.controls[choice].stops[-1]
        with visit.page.expect_request(banks):
            widget.box.locator(f'[name="{choice}"]').select_option(index=len(widget.e.controls[choice].stops) - 1)
        visit.page.wait_for_timeout(200)  # in which the second route is handed over
        assert len(waiting) == 2
        for route in reversed(waiting):  # what was asked last comes first
            route.continue_()
        widget.wait_for_state("ready")
        widget.parameters[choice] = stop
        visit.page.wait_for_timeout(500)
        widget.assert_drawn_as_python_says(-1)


def test_on_paper_the_words_are_those_of_the_picture(browser: Any, address: str) -> None:
    page, name = first()
    with Visit(browser, address, page, "light", "desktop", light=True) as visit:
        widget = Widget(visit, name).wait_for_state("ready")
        defaults = widget.box.locator(".explorable-words").text_content()
        widget.move("w1", -2.0)
        widget.assert_drawn_as_python_says()
        visit.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        visit.page.emulate_media(media="print")
        assert widget.box.locator(".explorable-words").text_content() == defaults
        assert widget.box.locator("picture img").is_visible()
        assert not widget.box.locator(".explorable-plot").is_visible()
        visit.page.emulate_media(media="screen")
        visit.page.evaluate("dispatchEvent(new Event('afterprint'))")
        widget.assert_drawn_as_python_says()


def first() -> tuple[str, str]:
    """A page and a widget, for what all widgets share."""
    page = next(iter(PLACES))
    return page, PLACES[page][0]


def test_no_value_of_an_address_does_harm(browser: Any, address: str) -> None:
    page, name = first()
    with Visit(browser, address, page, "light", "desktop", light=True) as visit:
        for evil in EVIL:
            visit.page.goto(f"{address}/{page}.html{hostile(page, evil)}")
            assert_defaults_and_told(visit, name)


@pytest.mark.parametrize("query", ["%E0%A4%A=1&%=2&&&=#%", "w1=-1.4"], ids=["damaged", "between"])
def test_an_odd_address_is_no_error(query: str, browser: Any, address: str) -> None:
    page, name = first()
    assert name == "neuron_on_the_plane"
    with Visit(browser, address, page, "light", "desktop", light=True, query=f"?{name}.{query}") as visit:
        widget = Widget(visit, name).wait_for_state("ready")
        if query.startswith("w1"):
            widget.parameters["w1"] = -1.5
            assert "between two steps, so the nearest is shown" in widget.message()
        widget.assert_drawn_as_python_says()
        assert not visit.faults


@pytest.mark.parametrize("damage", ["missing", "truncated", "cut raw", "page instead", "no library"])
def test_what_cannot_be_loaded_leaves_the_picture_and_a_message(damage: str, browser: Any, address: str) -> None:
    page, name = first()

    def spoil(route: Any) -> None:
        if damage == "missing":
            route.fulfill(status=404, body="")
        elif damage == "no library":
            route.abort()
        elif damage == "page instead":
            route.fulfill(status=200, content_type="text/html", body="<html>moved</html>")
        else:
            body = route.fetch().body()
            body = gzip.decompress(body)[:-9] if damage == "cut raw" else body[: len(body) // 2]
            route.fulfill(status=200, content_type="application/octet-stream", body=body)

    with Visit(browser, address, page, "light", "desktop", light=True) as visit:
        what = "**/plotly*.js" if damage == "no library" else "**/*.bank"
        visit.page.route(what, spoil)
        visit.page.goto(f"{address}/{page}.html")
        widget = Widget(visit, name).wait_for_state("failed")
        assert "could not be loaded" in widget.message()
        assert widget.box.locator(".explorable-words").text_content() == widget.e()["text"]
        picture = widget.box.locator("picture img")
        assert picture.is_visible()
        assert picture.evaluate("async (image) => (await image.decode(), image.naturalWidth)") > 100
        visit.page.unroute(what)
        key, control = next(iter(widget.e.controls.items()))
        widget.move(key, control.stops[-1])  # and once it can be had, the widget lives
        widget.assert_drawn_as_python_says()
        assert not widget.message()


def test_a_server_that_unpacks_the_banks_does_no_harm(browser: Any, address: str) -> None:
    page, name = first()
    with Visit(browser, address, page, "light", "desktop", light=True) as visit:
        visit.page.route("**/*.bank", lambda route: route.fulfill(body=gzip.decompress(route.fetch().body())))
        visit.page.goto(f"{address}/{page}.html")
        Widget(visit, name).wait_for_state("ready").assert_drawn_as_python_says()


def look_at_dead_widgets(tab: Any, page: str, words: str) -> None:
    """Every widget tells its reader why it stands still, where it stands, beside its picture."""
    tab.wait_for_selector(".explorable-message:not([hidden])", timeout=PATIENCE)
    for name in PLACES[page]:
        box = tab.locator(f"#{name}")
        box.scroll_into_view_if_needed()
        message = box.locator(".explorable-message")
        assert message.is_visible(), name
        assert words in message.inner_text(), name
        assert message.bounding_box()["y"] < box.locator(".explorable-controls").bounding_box()["y"], name
        assert box.get_attribute("data-state") == "failed"
        assert box.locator("picture img").is_visible(), name
        assert all(field.is_disabled() for field in box.locator("input, select, button").all()), name


@on_every_page
def test_a_page_opened_as_a_file_says_why_nothing_moves(page: str, browser: Any, axe: str) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    try:
        tab = context.new_page()
        tab.goto((SITE / f"{page}.html").as_uri())
        look_at_dead_widgets(tab, page, "opened as a file, and a browser loads no data from files. Run “make serve”")
        if page == first()[0]:
            assert not accessibility_faults(tab, axe, contrast_only=False, within=f"#{PLACES[page][0]}")
    finally:
        context.close()


def test_a_page_whose_script_is_missing_says_that_nothing_moves(browser: Any, address: str) -> None:
    page, _ = first()
    with Visit(browser, address, page, "light", "desktop", light=True) as visit:
        visit.page.route("**/explorables.js*", lambda route: route.abort())
        visit.page.goto(f"{address}/{page}.html")
        look_at_dead_widgets(visit.page, page, "its script could not be loaded")


@on_every_page
def test_the_drawing_follows_light_and_dark_and_the_keyboard(page: str, browser: Any, address: str) -> None:
    title = "(name) => getComputedStyle(document.querySelector(`#${name} .annotation-text`)).fill"
    inside = "(name) => document.getElementById(name).contains(document.activeElement)"
    with Visit(browser, address, page, "light", "desktop", light=True) as visit:
        for name in PLACES[page]:
            visit.page.evaluate("document.documentElement.dataset.theme = 'light'")
            widget = Widget(visit, name).wait_for_state("ready")
            light, count = visit.page.evaluate(title, name), widget.count()
            visit.page.evaluate("document.documentElement.dataset.theme = 'dark'")
            widget.wait_for_drawing(count)
            assert visit.page.evaluate(title, name) != light, name

            slider = next(key for key, control in widget.e.controls.items() if not control.is_discrete)
            control, count = widget.e.controls[slider], widget.count()
            place = control.stops.index(control.default)
            widget.box.locator(f'[name="{slider}"]').focus()
            visit.page.keyboard.press("ArrowLeft" if place else "ArrowRight")
            widget.wait_for_drawing(count)
            widget.parameters[slider] = control.stops[place - 1 if place else 1]
            widget.assert_drawn_as_python_says()
            assert visit.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", name
            visit.page.keyboard.press("Tab")
            assert visit.page.evaluate(inside, name), name
        assert not visit.faults


@on_every_page
def test_without_a_script_there_is_a_picture_with_its_words(page: str, browser: Any, address: str) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 1280, "height": 900})
    try:
        tab = context.new_page()
        tab.goto(f"{address}/{page}.html")
        for name in PLACES[page]:
            box = tab.locator(f"#{name}")
            box.scroll_into_view_if_needed()
            assert box.locator("picture img").is_visible(), name
            assert box.locator(".explorable-words").inner_text(), name
            assert "JavaScript" in box.inner_text(), name
            assert all(field.is_disabled() for field in box.locator("input, select, button").all()), name
    finally:
        context.close()


def test_with_reduced_motion_play_goes_to_the_end_at_once(browser: Any, address: str) -> None:
    page, name = next((page, n) for page, names in PLACES.items() for n in names if EXPLORABLES[n]()["frames"])
    with Visit(browser, address, page, "light", "desktop", light=True) as visit:
        visit.page.emulate_media(reduced_motion="reduce")
        widget = Widget(visit, name).wait_for_state("ready")
        before = widget.count()
        widget.box.get_by_role("slider", name="Time").fill("0")
        widget.wait_for_drawing(before)
        before = widget.count()
        widget.box.get_by_role("button", name="Play").click()
        widget.wait_for_drawing(before)
        visit.page.wait_for_timeout(300)
        assert widget.count() == before + 1
        widget.assert_drawn_as_python_says(-1)
