"""The canvas of a drawing by itself, in a plain page: pointer, touch, keyboard, and what it tells its model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from built import ROOT
from visits import accessibility_faults

PAGE = """<!doctype html><html lang="en"><head><title>drawing</title><link rel="icon" href="data:,"><style>
  canvas { width: 252px; touch-action: none } .nnbook-drawing-said { position: absolute; clip-path: inset(50%) }
</style></head><body><main><h1>Drawing</h1><div id="el"></div></main><script type="module">
  import drawing from "./drawing.js";
  const size = 28, stored = new Uint8Array(2 * size * size).fill(200, size * size + 100, size * size + 150);
  const values = { size, label: "Picture", help: "", names: ["nothing", "bar"], pictures: new DataView(stored.buffer),
    pixels: new DataView(new ArrayBuffer(size * size)), chosen: "nothing" };
  const heard = {};
  window.saved = [];
  window.model = {
    get: (name) => values[name],
    set: (name, value) => { values[name] = value; for (const call of heard[`change:${name}`] ?? []) call(); },
    on: (event, call) => (heard[event] ??= []).push(call),
    off: (event, call) => heard[event] = heard[event].filter((other) => other !== call),
    save_changes: () => window.saved.push([performance.now(), values.chosen]),
  };
  window.leave = drawing.render({ model: window.model, el: document.getElementById("el") });
  window.heard = heard;
</script></body></html>"""
INK = "() => Array.from(new Uint8Array(model.get('pixels').buffer))"


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    context = browser.new_context(has_touch=True, viewport={"width": 600, "height": 500})
    page = context.new_page()
    script = (ROOT / "nnbook" / "explore" / "drawing.js").read_text(encoding="utf-8")
    page.route("**/drawing.js", lambda route: route.fulfill(content_type="text/javascript", body=script))
    page.route("**/index.html", lambda route: route.fulfill(content_type="text/html", body=PAGE))
    page.goto("http://drawing.test/index.html")
    page.locator("canvas").wait_for()
    yield page
    context.close()


def ink(tab: Any) -> np.ndarray:
    tab.wait_for_timeout(200)  # the last message is out after 60 ms
    return np.array(tab.evaluate(INK), float).reshape(28, 28) / 255


def at(tab: Any, row: float, column: float) -> tuple[float, float]:
    """The middle of a pixel of the picture, on the screen."""
    box = tab.locator("canvas").bounding_box()
    return box["x"] + (column + 0.5) / 28 * box["width"], box["y"] + (row + 0.5) / 28 * box["height"]


def assert_vertical_stroke(picture: np.ndarray) -> None:
    """From row 5 to row 20 in column 10: full in the middle, soft beside, nothing elsewhere."""
    assert (picture[5:21, 10] > 0.95).all()
    assert ((picture[7:19, [8, 12]] < 0.5) & (picture[7:19, [9, 11]] > 0.5)).all()
    assert not picture[:3].any()
    assert not picture[:, 13:].any()


def test_the_mouse_draws_a_soft_stroke_and_messages_are_throttled(tab: Any) -> None:
    tab.mouse.move(*at(tab, 5, 10))
    tab.mouse.down()
    tab.mouse.move(*at(tab, 20, 10), steps=40)
    tab.mouse.up()
    tab.mouse.move(*at(tab, 20, 25), steps=3)  # not pressed, so nothing is drawn
    assert_vertical_stroke(ink(tab))
    saved = tab.evaluate("saved")
    assert all(chosen == "" for _, chosen in saved), "what is drawn is no stored picture any more"
    assert np.diff([moment for moment, _ in saved]).min(initial=1e3) > 50


def test_a_finger_draws_and_the_page_does_not_scroll(tab: Any) -> None:
    finger = tab.context.new_cdp_session(tab)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})

    touch("touchStart", at(tab, 5, 10))
    for row in range(6, 21):
        touch("touchMove", at(tab, row, 10))
    touch("touchEnd")
    assert_vertical_stroke(ink(tab))
    assert tab.evaluate("scrollY") == 0


def test_the_keyboard_draws_tells_where_it_is_and_lets_go(tab: Any) -> None:
    tab.locator("canvas").focus()
    for key in [*["ArrowUp"] * 9, *["ArrowLeft"] * 4, "Enter", *["Shift+ArrowDown"] * 15]:
        tab.keyboard.press(key)
    assert_vertical_stroke(ink(tab))
    assert tab.get_by_role("status").text_content() == "row 21, column 11, painted"
    for _ in range(40):
        tab.keyboard.press("ArrowRight")
    assert tab.get_by_role("status").text_content() == "row 21, column 28", "it stops at the edge"
    tab.keyboard.press("Delete")
    assert not ink(tab).any()
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.tagName") != "CANVAS"


def test_a_stored_picture_is_a_start_and_clearing_an_end(tab: Any) -> None:
    start = tab.get_by_role("combobox")
    assert start.input_value() == "nothing"
    start.select_option("bar")
    assert ink(tab).sum() == pytest.approx(50 * 200 / 255)
    assert tab.evaluate("model.get('chosen')") == "bar"
    tab.get_by_role("button", name="Clear").click()
    assert not ink(tab).any()
    assert start.input_value() == tab.evaluate("model.get('chosen')") == ""
    tab.evaluate("model.set('chosen', 'bar'), model.set('pixels', new DataView(new ArrayBuffer(784)))")
    assert start.input_value() == "bar", "what Python sets is shown"
    tab.evaluate("leave()")
    assert tab.evaluate("Object.values(heard).flat().length") == 0


def test_the_canvas_has_a_name_and_no_accessibility_fault(tab: Any, axe: str) -> None:
    canvas = tab.get_by_role("application")
    assert "arrows move" in canvas.get_attribute("aria-label")
    assert not accessibility_faults(tab, axe, contrast_only=False, within="#el")
