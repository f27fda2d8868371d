"""A widget in a real JupyterLab: a cell shows it, and dragging a slider redraws it."""

from __future__ import annotations

import os
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

CODE = "from nnbook.explore.losses import saturation\n\nsaturation"
LAST = "() => Array.from(document.querySelector('.js-plotly-plot')?.data?.[2]?.y ?? []).at(-1)"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """The address of a JupyterLab that shows ``widget.ipynb``."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CODE)])
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


def test_a_slider_in_jupyterlab_redraws_the_figure(lab: str, browser: Any) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    try:
        tab = context.new_page()
        tab.goto(lab)
        tab.locator(".jp-Notebook .jp-Cell").first.click(timeout=120_000)
        tab.keyboard.press("Shift+Enter")
        tab.wait_for_function(f"() => ({LAST})() !== undefined", timeout=120_000)  # the data come after the drawing
        before = tab.evaluate(LAST)
        handle = tab.locator(".noUi-handle").first
        box = handle.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        tab.mouse.move(x, y)
        tab.mouse.down()
        tab.mouse.move(x - 40, y, steps=5)
        tab.mouse.up()
        tab.wait_for_function(f"(before) => ({LAST})() < before - 0.1", arg=before, timeout=60_000)
        assert tab.locator(".widget-html-content", has_text="After 60 steps").count() == 1
    finally:
        context.close()
