"""Widgets in a real JupyterLab: a cell shows them, dragging a slider redraws one, and drawing a digit has it read."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from built import ROOT

pytest.importorskip("jupyterlab")

SLIDER = "from nnbook.explore.losses import saturation\n\nsaturation"
DRAWING = "from nnbook.explore.cnn import draw_a_digit\n\ndraw_a_digit"
LAST = "() => Array.from(document.querySelector('.js-plotly-plot')?.data?.[2]?.y ?? []).at(-1)"


@pytest.fixture
def lab(tmp_path: Path, request: Any) -> Iterator[str]:
    """The address of a JupyterLab that shows ``widget.ipynb``, whose one cell is the fixture's parameter."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(request.param)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, tmp_path / "widget.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "ServerApp.port": port,
        "ServerApp.root_dir": tmp_path,
        "IdentityProvider.token": "",
        "LabApp.news_url": "None",
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JUPYTER_CONFIG_DIR": str(tmp_path / "config")}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, *(f"--{key}={value}" for key, value in options.items())], env=environment, stdout=log, stderr=log
        )
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(120):
                try:
                    urllib.request.urlopen(f"{address}/api", timeout=10)
                    break
                except OSError:
                    time.sleep(0.5)
            else:
                pytest.fail(f"JupyterLab did not start:\n{(tmp_path / 'log').read_text()}")
            yield f"{address}/lab/tree/widget.ipynb"
        finally:
            server.terminate()
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                server.kill()


def run_the_cell(browser: Any, lab: str) -> Any:
    """A tab in which the widget is there."""
    tab = browser.new_context(viewport={"width": 1280, "height": 1000}).new_page()
    tab.goto(lab)
    run_it(tab)
    drawn = "() => document.querySelector('.js-plotly-plot')?.data?.length > 0"  # the data come after the drawing
    tab.wait_for_function(drawn, timeout=120_000)
    return tab


def run_it(tab: Any) -> None:
    cell = tab.locator(".jp-Notebook .jp-Cell").first
    for _ in range(8):  # a key pressed while the notebook is still being loaded is lost
        cell.click(timeout=120_000)
        tab.keyboard.press("Shift+Enter")
        tab.wait_for_timeout(1000)
        if cell.locator(".jp-InputPrompt").inner_text().strip() not in ("", "[ ]:"):
            break
        tab.wait_for_timeout(4000)


def pull_the_first_slider(tab: Any, by: float) -> None:
    box = tab.locator(".noUi-handle").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.mouse.move(x, y)
    tab.mouse.down()
    tab.mouse.move(x + by, y, steps=5)
    tab.mouse.up()


@pytest.mark.parametrize("lab", [SLIDER], indirect=True, ids=["slider"])
def test_a_slider_in_jupyterlab_redraws_the_figure(lab: str, browser: Any) -> None:
    tab = run_the_cell(browser, lab)
    try:
        tab.wait_for_function(f"() => ({LAST})() !== undefined", timeout=60_000)
        before = tab.evaluate(LAST)
        pull_the_first_slider(tab, -40)
        tab.wait_for_function(f"(before) => ({LAST})() < before - 0.1", arg=before, timeout=60_000)
        assert tab.locator(".widget-html-content", has_text="After 60 steps").count() == 1
    finally:
        tab.context.close()


SHOWN = """() => Array.from(document.querySelectorAll('.js-plotly-plot')).map((plot) => ({
  lines: plot.querySelectorAll('.scatterlayer .trace').length, axes: plot.layout?.xaxis?.title?.text ?? '',
  last: Array.from(plot.data?.[2]?.y ?? []).at(-1) }))"""


@pytest.mark.parametrize("lab", [SLIDER], indirect=True, ids=["slider"])
def test_a_reloaded_page_draws_what_the_live_kernel_holds(lab: str, browser: Any) -> None:
    """The kernel hands the new page the state of its widgets; the figure's must be what is shown, not how it began."""
    tab = run_the_cell(browser, lab)
    try:
        tab.wait_for_function(f"() => ({LAST})() !== undefined", timeout=60_000)
        before = tab.evaluate(LAST)
        pull_the_first_slider(tab, -40)
        tab.wait_for_function(f"(before) => ({LAST})() < before - 0.1", arg=before, timeout=60_000)
        tab.wait_for_timeout(2000)
        (moved,) = tab.evaluate(SHOWN)
        assert moved["lines"] > 0

        complaints: list[str] = []
        tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("dialog", lambda dialog: dialog.accept())  # the notebook has not been saved
        tab.reload()
        run_it(tab)
        tab.wait_for_selector(".js-plotly-plot .main-svg", timeout=120_000)
        tab.wait_for_timeout(3000)
        assert tab.evaluate(SHOWN) == [moved], complaints
        pull_the_first_slider(tab, 40)
        tab.wait_for_function(f"(moved) => ({LAST})() > moved + 0.1", arg=moved["last"], timeout=60_000)
        assert not [line for line in complaints if "indices" in line], complaints
    finally:
        tab.context.close()


@pytest.mark.parametrize("lab", [SLIDER], indirect=True, ids=["slider"])
def test_the_toolbar_in_jupyterlab_leads_to_no_other_company(lab: str, browser: Any) -> None:
    tab = run_the_cell(browser, lab)
    try:
        tab.locator(".js-plotly-plot .nsewdrag").first.hover()
        tab.wait_for_selector(".modebar-btn", timeout=60_000)
        offered = tab.locator(".modebar-btn").evaluate_all(
            "(buttons) => buttons.map((button) => `${button.dataset.title} ${button.href ?? ''}`)"
        )
        assert any("Download" in words for words in offered), offered
        assert not [words for words in offered if re.search(r"(?i)cloud|share|plotly|studio|edit|http", words)], offered
        assert not tab.evaluate("document.querySelector('.js-plotly-plot')._context.plotlyServerURL")
    finally:
        tab.context.close()


INK = """() => Array.from(document.querySelector('.js-plotly-plot')?.data?.[0]?.z ?? [])
  .map((row) => Array.from(row).reduce((a, b) => a + b, 0)).reduce((a, b) => a + b, 0)"""


@pytest.mark.parametrize("lab", [DRAWING], indirect=True, ids=["drawing"])
def test_what_is_drawn_in_jupyterlab_by_mouse_or_keyboard_is_read(lab: str, browser: Any) -> None:
    """A stroke from top to bottom is a 1, whoever draws it."""
    tab = run_the_cell(browser, lab)

    def wait_for_ink(condition: str) -> None:
        tab.wait_for_function(f"() => {{ const ink = ({INK})(); return {condition}; }}", timeout=60_000)

    try:
        canvas = tab.locator(".nnbook-drawing canvas")
        a_one = tab.locator(".widget-html-content", has_text="The network reads a 1,")
        wait_for_ink("ink > 50")
        tab.get_by_role("button", name="Clear").click()
        wait_for_ink("ink === 0")

        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        x, top, bottom = (box[side] + share * box[size] for side, size, share in PLACES)
        tab.mouse.move(x, top)
        tab.mouse.down()
        tab.mouse.move(x, bottom, steps=10)
        tab.mouse.up()
        wait_for_ink("ink > 40")
        a_one.wait_for(timeout=60_000)

        canvas.focus()
        tab.keyboard.press("Delete")
        wait_for_ink("ink === 0")
        for key in [*["ArrowUp"] * 9, "Space", *["Shift+ArrowDown"] * 18]:
            tab.keyboard.press(key)
        wait_for_ink("ink > 40")
        a_one.wait_for(timeout=60_000)
        assert canvas.evaluate("(canvas) => getComputedStyle(canvas).outlineStyle") != "none"
        assert tab.locator(".jp-Cell").count() == 2, "no key has reached the notebook's shortcuts"

        tab.locator(".nnbook-drawing select").select_option("3")
        tab.locator(".widget-html-content", has_text="The network reads a 3,").wait_for(timeout=60_000)
    finally:
        tab.context.close()


PLACES = (("x", "width", 0.5), ("y", "height", 0.2), ("y", "height", 0.8))
"""Where a stroke begins and ends, as shares of the canvas."""
