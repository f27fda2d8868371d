"""The Jupyter host: moving a control changes the figure, in this process and in a kernel of its own."""

from __future__ import annotations

import asyncio
import html
import os
import queue
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("anywidget")
from nnbook.explore.backprop import network_learns
from nnbook.explore.cnn import convolution_stepper, draw_a_digit
from nnbook.explore.core import Choice, Integer, experiment, explorable
from nnbook.explore.figures import at_frame, figure, line, panel
from nnbook.explore.jupyter import Panel
from nnbook.explore.losses import logits_and_loss, saturation
from nnbook.explore.neurons import hinges_add_up, neuron_on_the_plane

ROOT = Path(__file__).resolve().parents[1]


def shown(panel: Panel) -> list[dict[str, Any]]:
    return [trace.to_plotly_json() for trace in panel.figure.data]


def assert_shows(panel: Panel, fig: dict[str, Any], number: int = -1) -> None:
    traces, text = at_frame(fig, number)
    for got, want in zip(shown(panel), traces, strict=True):
        for key in {"x", "y", "z"} & want.keys():
            np.testing.assert_array_equal(np.asarray(got[key]), want[key])
        assert list(got.get("text", ())) == want.get("text", [])
    assert html.escape(text) in panel.words.value


@pytest.mark.parametrize(
    "e",
    [neuron_on_the_plane, hinges_add_up, logits_and_loss, saturation, convolution_stepper, draw_a_digit],
    ids=lambda e: e.name,
)
def test_moving_each_control_draws_what_the_function_gives(e: Any) -> None:
    panel = Panel(e)
    assert_shows(panel, e())
    for name, control in e.controls.items():
        panel.controls[name].value = control.stops[-1]
        assert_shows(panel, e(**{n: c.value for n, c in panel.controls.items()}))
    panel.set()
    assert_shows(panel, e())


def test_time_goes_step_by_step_and_stays_at_the_end_when_a_control_moves() -> None:
    panel = Panel(hinges_add_up)
    last = panel.moment.max
    assert panel.moment.value == last == 6
    panel.step(-2)
    assert_shows(panel, hinges_add_up(), last - 2)
    panel.step(99)
    panel.controls["hinges"].value = 4
    assert panel.moment.value == panel.moment.max == 4
    assert_shows(panel, hinges_add_up(hinges=4))


def test_an_experiment_shows_its_moment_and_the_next_one_the_last() -> None:
    panel = Panel(hinges_add_up)
    panel.set(frame=0, hinges=4)
    assert_shows(panel, hinges_add_up(hinges=4), 0)
    panel.controls["hinges"].value = 8
    assert panel.moment.value == 0
    panel.set(frame=99, hinges=4)
    assert panel.moment.value == 4
    panel.step(-2)
    panel.set(hinges=4)
    assert_shows(panel, hinges_add_up(hinges=4))


def test_an_experiment_sets_what_it_names_and_refuses_what_there_is_not() -> None:
    panel = Panel(neuron_on_the_plane)
    panel.set(w1=-2.0, w2=1.0)
    assert_shows(panel, neuron_on_the_plane(w1=-2.0, w2=1.0))
    with pytest.raises(ValueError, match="Weight w₁: 9 is not a number from -2 to 2"):
        panel.set(w1=9)


@pytest.mark.parametrize(("e", "name"), [(saturation, "start"), (saturation, "lr"), (network_learns, "lr")])
def test_a_slider_reaches_every_stop_of_the_page_and_both_ends(e: Any, name: str) -> None:
    """Whatever the slider rounds to, the function gets the stop itself."""
    panel = Panel(e)
    slider, control = panel.controls[name], e.controls[name]
    exponent = control.kind == "log"
    for stop in (*control.stops, control.low, control.high):
        place = np.log10(stop) if exponent else stop
        rounded = slider.min + slider.step * np.round((place - slider.min) / slider.step)
        panel._quiet = True
        slider.value = min(max(10**rounded if exponent else rounded, 10**slider.min if exponent else slider.min), 1e9)
        assert panel._value(name) == stop


def test_a_setting_does_not_keep_what_another_one_drew() -> None:
    def changing(kind):
        options = {"log": True, "ticks": {1: "one"}} if kind == "logarithm" else {}
        trace = line([1.0, 2.0], [1.0, 10.0], name="a") | ({"fill": "toself"} if kind == "logarithm" else {})
        return figure([trace], panel("p", x=(0, 3), **options), text=kind)

    trials = (experiment("a", "b"),) * 3
    kinds = Choice("plain", "logarithm", label="Kind")
    shown_ = Panel(explorable("T", caption="c", experiments=trials, kind=kinds)(changing))
    for kind in ("logarithm", "plain"):
        shown_.controls["kind"].value = kind
    assert shown_.figure.layout.yaxis.type is None
    assert shown_.figure.layout.xaxis.tickvals is None
    assert shown_.figure.data[0].fill is None


def test_what_goes_wrong_while_training_is_told() -> None:
    def failing(n):
        yield 0.0
        if n > 1:
            raise RuntimeError("it broke")
        return figure([line([0.0], [0.0])], panel("p"), text="fine")

    trials = (experiment("a", "b"),) * 3
    e = explorable("T", caption="c", experiments=trials, n=Integer(1, 3, 1, label="n"))(failing)
    box = Panel(e)

    async def session() -> None:
        box.controls["n"].value = 2
        assert box._task is not None
        with pytest.raises(RuntimeError, match="it broke"):
            await box._task

    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, session()).result()
    assert "it broke" in box.words.value
    assert box.progress.layout.visibility == "hidden"


def test_the_next_move_cancels_training_and_progress_is_shown(monkeypatch: Any) -> None:
    monkeypatch.setattr("nnbook.explore.jupyter.PATIENCE", 0.02)  # less than any machine needs for the training

    async def session() -> None:
        panel.controls["hidden"].value = "8 and 8"
        await asyncio.sleep(0)  # until the training lets go for the first time
        assert panel.progress.layout.visibility == "visible"
        first = panel._task
        panel.controls["lr"].value = 0.3
        assert first is not None
        assert first.cancelling() or first.cancelled() or first.done()
        assert panel._task is not None
        await panel._task

    panel = Panel(network_learns)
    with ThreadPoolExecutor(1) as pool:  # the browser tests, run before in the same process, hold a loop in this thread
        pool.submit(asyncio.run, session()).result()
    assert panel.progress.layout.visibility == "hidden"
    assert_shows(panel, network_learns(hidden="8 and 8", lr=0.3))


@pytest.mark.parametrize("e", [saturation, hinges_add_up, draw_a_digit], ids=lambda e: e.name)
def test_a_page_that_asks_for_the_state_gets_the_figure_as_it_is(e: Any) -> None:
    """Plotly's own widget would tell how it began, with nothing drawn."""

    def numbers(value: Any) -> Any:
        return np.asarray(value["buffer"]) if "buffer" in value else value

    panel = Panel(e)
    for stop in (0, -1):
        for name, control in e.controls.items():
            panel.controls[name].value = control.stops[stop]
        figure = e(**{n: c.value for n, c in panel.controls.items()})
        traces, _ = at_frame(figure)
        state = panel.figure.get_state()
        assert state.keys() == set(panel.figure.keys)
        for got, want in zip(state["_widget_data"], traces, strict=True):
            assert got["type"] == want["type"]
            for key in {"x", "y", "z"} & want.keys():
                np.testing.assert_array_equal(numbers(got[key]), want[key])
        assert state["_widget_layout"]["xaxis"]["title"] == figure["layout"]["xaxis"]["title"]
        assert panel.figure.get_state(key="_widget_data")["_widget_data"] == state["_widget_data"]


def test_the_toolbar_offers_to_send_nothing_to_another_company() -> None:
    """In Jupyter here; the browser tests look at the buttons themselves, there and on the page."""
    config = Panel(saturation).figure.get_state()["_config"]
    assert config["showSendToCloud"] is False
    assert config["displaylogo"] is False
    assert config["plotlyServerURL"] == ""
    files = (ROOT / "nnbook").rglob("*.py")
    made = [file.name for file in files if "go.Figure" in file.read_text(encoding="utf-8")]
    assert made == ["jupyter.py"], "no other widget of plotly's, which would have its own toolbar"


def a_stroke() -> np.ndarray:
    """From top to bottom, in the middle."""
    picture = np.zeros((28, 28))
    picture[4:24, 13:16] = 0.5, 1.0, 0.5
    return picture


def test_what_is_drawn_is_read_by_the_network() -> None:
    panel = Panel(draw_a_digit)
    drawing = panel.controls["drawing"]
    assert "reads a 4" in panel.words.value
    drawing.set_state({"pixels": memoryview(np.rint(255 * a_stroke()).astype(np.uint8).tobytes()), "chosen": ""})
    assert_shows(panel, draw_a_digit(drawing=np.rint(255 * a_stroke()) / 255))
    assert "reads a 1," in panel.words.value
    panel.controls["layer"].value = "first pooling"
    assert "reads a 1," in panel.words.value, "another control keeps the drawing"
    drawing.value = a_stroke()
    assert_shows(panel, draw_a_digit(drawing=a_stroke(), layer="first pooling"))
    assert drawing.pixels == np.rint(255 * a_stroke()).astype(np.uint8).tobytes()
    assert drawing.chosen == ""
    panel.set(drawing="8")
    assert_shows(panel, draw_a_digit(drawing="8"))
    assert drawing.chosen == "8"
    size = drawing.size**2
    place = drawing.names.index("8")
    assert drawing.pixels == drawing.pictures[place * size : (place + 1) * size]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.zeros((28, 27)), r"shape \(28, 27\) is not a picture of shape \(28, 28\)"),
        (np.full((28, 28), np.nan), "goes from 0 to 1"),
        (np.full((28, 28), 1.1), "goes from 0 to 1"),
        ("no such thing", "is not one of"),
    ],
)
def test_a_drawing_that_is_none_is_refused_and_what_was_there_stays(value: Any, said: str) -> None:
    panel = Panel(draw_a_digit)
    with pytest.raises(ValueError, match=said):
        panel.set(drawing=value)
    with pytest.raises(ValueError, match=said):
        panel.controls["drawing"].value = value
    assert_shows(panel, draw_a_digit())
    assert panel.controls["drawing"].value == "4"
    with pytest.raises(ValueError, match=said):
        draw_a_digit(drawing=value)


def test_a_message_that_is_no_drawing_changes_nothing() -> None:
    panel = Panel(draw_a_digit)
    for state in ({"pixels": memoryview(b"123")}, {"chosen": "no such thing"}):
        panel.controls["drawing"].set_state(state)
        assert_shows(panel, draw_a_digit())


CODE = """
import json, time
from nnbook.explore.neurons import neuron_on_the_plane
panel = neuron_on_the_plane.panel
before = panel.figure.data[0].z.copy()
print(panel.controls["b"].model_id)
neuron_on_the_plane
"""
AFTER = "print(float(abs(panel.figure.data[0].z - before).max()), panel.controls['b'].value)"

DRAWN = """
from nnbook.explore.cnn import draw_a_digit
drawn = draw_a_digit.panel
before = drawn.figure.data[0].z.copy()
print(drawn.controls["drawing"].model_id)
"""
READ = "print(float(abs(drawn.figure.data[0].z - before).max()), drawn.words.value)"


def test_in_a_kernel_a_message_from_a_slider_or_a_canvas_changes_the_figure() -> None:
    from jupyter_client.manager import start_new_kernel

    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    manager, client = start_new_kernel(kernel_name="python3")

    def run(code: str) -> tuple[str, list[dict[str, Any]]]:
        identity = client.execute(code)
        text, displayed = "", []
        end = time.monotonic() + 120
        while time.monotonic() < end:
            try:
                message = client.get_iopub_msg(timeout=5)
            except queue.Empty:
                continue
            if message["parent_header"].get("msg_id") != identity:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                text += content["text"]
            elif kind == "error":
                raise AssertionError("\n".join(content["traceback"]))
            elif kind == "execute_result":
                displayed.append(content["data"])
            elif kind == "status" and content["execution_state"] == "idle":
                return text, displayed
        raise AssertionError("the kernel did not answer")

    try:
        model, (bundle,) = run(CODE)
        assert bundle["text/plain"] == "<explorable neuron_on_the_plane>"
        assert "application/vnd.jupyter.widget-view+json" in bundle
        content = {"comm_id": model.strip(), "data": {"method": "update", "state": {"value": 3.0}, "buffer_paths": []}}
        client.shell_channel.send(client.session.msg("comm_msg", content))
        moved, value = run(AFTER)[0].split()
        assert float(moved) > 0.1
        assert float(value) == 3.0
        model = run(DRAWN)[0].strip()
        state = {"method": "update", "state": {"chosen": ""}, "buffer_paths": [["pixels"]]}
        ink = np.rint(255 * a_stroke()).astype(np.uint8).tobytes()
        client.session.send(
            client.shell_channel.socket, "comm_msg", content={"comm_id": model, "data": state}, buffers=[ink]
        )
        moved, read = run(READ)[0].split(maxsplit=1)
        assert float(moved) > 0.5
        assert "reads a 1," in read
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
