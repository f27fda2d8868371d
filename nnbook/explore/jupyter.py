"""The Jupyter host: controls of ipywidgets beside a plotly ``FigureWidget`` that the kernel redraws.

Works wherever ipywidgets and anywidget do (JupyterLab, Notebook 7). Nothing here is seen on the static page.
"""

from __future__ import annotations

import asyncio
import html
import math
import time
from typing import Any

import ipywidgets
import numpy as np
import plotly.graph_objects as go

from nnbook.explore.canvas import Canvas
from nnbook.explore.core import Control, Explorable, exhaust
from nnbook.explore.figures import HEIGHT, at_frame
from nnbook.plots import GREY

PATIENCE = 0.1
"""Seconds after which training lets the kernel look at what the reader did meanwhile."""


class Figure(go.FigureWidget):
    """Plotly's widget, which a page that is loaded again shows as it stands, and which offers to send nothing away."""

    def __init__(self):
        super().__init__(layout=_LOOK)
        # Or the toolbar offers to upload the chart to the company that makes plotly, and links to it.
        quiet = {"showSendToCloud": False, "plotlyServerURL": "", "displaylogo": False}
        self.set_trait("_config", quiet)
        self._is_made = True

    def get_state(self, key=None, drop_defaults=False):
        """The state that a page asks for. Plotly sends changes as messages, and its own traits say how it began."""
        state = super().get_state(key, drop_defaults)
        if self._is_made:
            now = {"_widget_data": self._data, "_widget_layout": self._layout_obj._props}
            for name in now.keys() & state.keys():
                state[name] = self.trait_metadata(name, "to_json", self._trait_to_json)(now[name], self)
        return state

    _is_made = False


class Panel:
    """An explorable in Jupyter. ``controls[name].value = ...`` moves a control; ``figure`` is what is drawn."""

    def __init__(self, explorable: Explorable):
        self.explorable = explorable
        self.drawn: dict[str, Any] = {"data": [], "layout": {}, "frames": [], "text": ""}
        self.controls = {name: _control(c, explorable.trains) for name, c in explorable.controls.items()}
        self.figure = Figure()
        self.words = ipywidgets.HTML()
        self.progress = ipywidgets.FloatProgress(max=1.0, description="Training", layout={"visibility": "hidden"})
        self.moment = ipywidgets.IntSlider(
            min=0,
            max=1,
            description="Time",
            readout=False,
            layout={"width": "60%"},
            style={"description_width": "initial"},
        )
        self.when = ipywidgets.Label()
        self.play = ipywidgets.Play(min=0, max=1, interval=120, show_repeat=False)
        ipywidgets.jslink((self.play, "value"), (self.moment, "value"))
        self.back, self.forth = (
            ipywidgets.Button(icon=f"step-{way}", tooltip=f"one step {way}", layout={"width": "3em"})
            for way in ("backward", "forward")
        )
        self.back.on_click(lambda _: self.step(-1))
        self.forth.on_click(lambda _: self.step(1))
        reset = ipywidgets.Button(description="Reset", icon="undo")
        reset.on_click(lambda _: self.set())
        self.time = ipywidgets.HBox([self.play, self.back, self.forth, self.moment, self.when])
        self._quiet = False
        self._task: asyncio.Task | None = None
        for control in self.controls.values():
            control.observe(self._moved, "value")
        self.moment.observe(lambda _: None if self._quiet else self._draw(), "value")
        self._finish(explorable())  # the first drawing is there when the cell ends
        self.box = ipywidgets.VBox(self._rows(reset))

    def _rows(self, reset) -> list:
        title = ipywidgets.HTML(f"<b>{html.escape(self.explorable.title)}</b>. {html.escape(self.explorable.caption)}")
        controls = ipywidgets.HBox([*self.controls.values(), reset], layout={"flex_flow": "row wrap"})
        trials = []
        for trial in self.explorable.experiments:
            button = ipywidgets.Button(description="Try", tooltip=trial.do, layout={"width": "4em", "flex": "0 0 auto"})
            button.on_click(lambda _, chosen=trial: self.set(frame=chosen.frame, **chosen.parameters))
            told = ipywidgets.HTML(f"{html.escape(trial.do)} <i>{html.escape(trial.shows)}</i>")
            trials.append(ipywidgets.HBox([button, told]))
        bar = [self.progress] if self.explorable.trains else []
        return [title, controls, *bar, self.figure, self.time, self.words, *trials]

    def view(self) -> dict[str, Any]:
        """The part of the mimebundle that shows the widget."""
        bundle = self.box._repr_mimebundle_() or {}
        kind = "application/vnd.jupyter.widget-view+json"
        return {kind: bundle[kind]} if kind in bundle else {}

    def set(self, *, frame: int | None = None, **parameters) -> None:
        """Move controls, those not named to their defaults, and redraw once, at moment ``frame`` or the last one.

        Raises:
            ValueError: an unknown parameter or a value out of range.
        """
        wanted = self.explorable.check(**parameters)
        self._quiet = True
        for name, control in self.controls.items():
            control.value = wanted[name]
        self._quiet = False
        self._asked = math.inf if frame is None else frame
        self._moved()

    def step(self, count: int) -> None:
        """Go ``count`` moments on."""
        self.moment.value = min(max(self.moment.value + count, 0), self.moment.max)

    def _moved(self, change=None) -> None:
        if self._quiet:
            return
        if self._task is not None:
            self._task.cancel()  # what the reader asked before does not matter any more
            self._task = None
        work = self.explorable.run(**{name: self._value(name) for name in self.controls})
        try:
            loop = asyncio.get_running_loop() if self.explorable.trains else None
        except RuntimeError:
            loop = None
        if loop is None:
            self._finish(exhaust(work))
        else:
            self._task = loop.create_task(self._follow(work))

    def _value(self, name: str) -> Any:
        """What a control is set to; a slider's rounding is undone at its ends and at the stops of the page."""
        control, slider = self.explorable.controls[name], self.controls[name]
        if control.is_discrete or control.kind == "integer":
            return slider.value
        scale = math.log10 if control.kind == "log" else float
        nearest = min(control.stops, key=lambda stop: abs(scale(stop) - scale(slider.value)))
        if abs(scale(nearest) - scale(slider.value)) <= slider.step / 2:
            return nearest
        return min(max(slider.value, control.low), control.high)

    async def _follow(self, work) -> None:
        """Run the generator in pieces, so that the next move is heard while it trains."""
        self.progress.value, self.progress.layout.visibility = 0.0, "visible"
        since = time.perf_counter()
        try:
            while True:
                share = next(work)
                if time.perf_counter() - since > PATIENCE:
                    self.progress.value = share
                    await asyncio.sleep(0.005)
                    since = time.perf_counter()
        except StopIteration as done:
            self._finish(done.value)
            self.progress.layout.visibility = "hidden"
        except asyncio.CancelledError:
            work.close()  # the next run has the bar now
            raise
        except Exception as error:
            self.words.value = f"<p>{html.escape(f'{type(error).__name__}: {error}')}</p>"
            self.progress.layout.visibility = "hidden"
            raise

    def _finish(self, drawn: dict[str, Any]) -> None:
        was_at_end = self.moment.value >= self.moment.max or not self.drawn["frames"]
        self.drawn = drawn
        last = len(drawn["frames"]) - 1
        self.time.layout.display = "flex" if last > 0 else "none"
        self._quiet = True  # or the new moment would be drawn twice
        if last > 0:
            with self.moment.hold_trait_notifications():
                self.play.max = self.moment.max = last
                if self._asked is not None:
                    self.moment.value = int(min(self._asked, last))
                elif was_at_end or self.moment.value > last:
                    self.moment.value = last
        self._asked = None
        self._quiet = False
        self._draw()

    def _draw(self) -> None:
        number = min(self.moment.value, len(self.drawn["frames"]) - 1)
        traces, text = at_frame(self.drawn, number)
        layout = {key: value for key, value in self.drawn["layout"].items() if key != "meta"}
        with self.figure.batch_update():
            same = [(t["type"], t.get("name"), *t) for t in self._last] == [
                (t["type"], t.get("name"), *t) for t in traces
            ]
            if not same:
                self.figure.data = ()
                self.figure.add_traces(traces)
            for trace, new, old in zip(
                self.figure.data, traces, self._last if same else [None] * len(traces), strict=True
            ):
                if old is not None:
                    changed = {key: value for key, value in new.items() if not _equal(value, old.get(key))}
                    trace.update(changed, overwrite=True)
            if layout != self._layout:
                self.figure.layout = {**_LOOK, **layout}  # an update would keep what only the old one had
        self._last, self._layout = traces, layout
        self.when.value = self.drawn["frames"][number]["name"] if self.drawn["frames"] else ""
        self.words.value = f"<p>{html.escape(text)}</p>"

    _asked: float | None = None  # the moment to be shown when the next drawing is there
    _last: list[dict] = []  # noqa: RUF012 - replaced, never changed
    _layout: dict[str, Any] | None = None


_LOOK = {
    "height": HEIGHT,
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"color": GREY},
    "template": {
        "layout": {
            axis: {"gridcolor": "rgba(118,118,118,0.25)", "zerolinecolor": "rgba(118,118,118,0.6)", "fixedrange": True}
            for axis in ("xaxis", "yaxis")
        }
    },
}


def _equal(a, b) -> bool:
    if hasattr(a, "tobytes") and hasattr(b, "tobytes"):
        return a is b or (a.shape == b.shape and bool((a == b).all()))
    return type(a) is type(b) and a == b


def _control(control: Control, trains: bool):
    """The ipywidget of a control. Where every value costs a training run, a slider speaks when it is let go."""
    shared: dict[str, Any] = {
        "value": control.default,
        "description": control.label + (f" ({control.unit})" if control.unit else ""),
        "tooltip": control.help or control.label,
        "style": {"description_width": "initial"},
    }
    ranged = {**shared, "continuous_update": not trains}
    if control.kind in ("choice", "data"):
        return ipywidgets.Dropdown(options=control.stops, **shared)
    if control.kind == "drawing":
        return Canvas(control)
    if control.kind == "toggle":
        return ipywidgets.Checkbox(**shared, indent=False)
    if control.kind == "integer":
        return ipywidgets.IntSlider(min=int(control.low), max=int(control.high), **ranged)
    if control.kind == "linear":
        gap = float(np.diff(control.stops).min())
        step = gap / max(1, round(200 * gap / (control.high - control.low)))  # about 200 steps, even stops among them
        return ipywidgets.FloatSlider(min=control.low, max=control.high, step=step, readout_format=".2f", **ranged)
    low, high = math.log10(control.low), math.log10(control.high)
    return ipywidgets.FloatLogSlider(min=low, max=high, step=(high - low) / 200, readout_format=".3g", **ranged)
