"""The square in which a reader of a notebook draws: the ipywidget of a :func:`nnbook.explore.core.Drawing`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets

from nnbook.explore.core import Control

LOOK = """
.nnbook-drawing { display: flex; flex-wrap: wrap; gap: 0.8em; align-items: flex-start; }
.nnbook-drawing { color: var(--jp-ui-font-color1, currentcolor); }
.nnbook-drawing canvas { width: 252px; height: 252px; max-width: 100%; border: 1px solid #767676; }
.nnbook-drawing canvas { touch-action: none; cursor: crosshair; }
.nnbook-drawing :focus-visible { outline: 3px solid #d55e00; outline-offset: 2px; }
.nnbook-drawing > div { display: flex; flex-direction: column; gap: 0.5em; width: 15em; }
.nnbook-drawing p { margin: 0; line-height: 1.35; }
.nnbook-drawing-said { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
"""


def _as_bytes(value: Any, widget: Any) -> bytes:
    return bytes(value)


class Canvas(anywidget.AnyWidget):
    """What is drawn: ``value`` is the name of a stored picture, or an array (size, size) of ink from 0 to 1."""

    _esm = Path(__file__).with_name("drawing.js")
    _css = LOOK
    size = traitlets.Int().tag(sync=True)
    label = traitlets.Unicode().tag(sync=True)
    help = traitlets.Unicode().tag(sync=True)
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    pictures = traitlets.Bytes().tag(sync=True)
    pixels = traitlets.Bytes().tag(sync=True, from_json=_as_bytes)
    chosen = traitlets.Unicode().tag(sync=True)
    value = traitlets.Any()

    def __init__(self, control: Control):
        self.control = control
        stored = b"".join(self._ink(name) for name in control.stops)
        about: dict[str, Any] = {"size": control.size, "label": control.label, "help": control.help}
        first = {"value": control.default, "chosen": control.default, "pixels": self._ink(control.default)}
        super().__init__(**about, **first, names=list(control.stops), pictures=stored)
        self._quiet = False
        self.observe(self._from_python, "value")
        self.observe(self._from_page, ["pixels", "chosen"])

    def _ink(self, value: Any) -> bytes:
        return np.rint(255 * self.control.meaning(value)).astype(np.uint8).tobytes()

    @traitlets.validate("value")
    def _check(self, proposal) -> Any:
        return self.control.check(proposal["value"])

    def _from_python(self, change) -> None:
        if self._quiet:
            return
        value = self.value
        self._quiet = True  # what was set is more exact than its bytes
        try:
            with self.hold_sync():
                self.pixels, self.chosen = self._ink(value), value if isinstance(value, str) else ""
        finally:
            self._quiet = False

    def _from_page(self, change) -> None:
        if self._quiet:
            return
        if len(self.pixels) != self.size**2 or (self.chosen and self.chosen not in self.names):
            return  # no page of ours sends this
        ink = np.frombuffer(self.pixels, np.uint8).reshape(self.size, self.size) / 255
        self._quiet = True
        try:
            self.value = self.chosen or ink
        finally:
            self._quiet = False
