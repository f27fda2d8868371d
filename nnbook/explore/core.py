"""What an explorable is: a pure function from parameters to a figure, plus the controls that set its parameters.

::

    @explorable(
        "Gradient descent on a parabola",
        caption="How far gradient descent on x**2/2 is from the minimum after each step, starting at 1.",
        experiments=(
            experiment("Take a small step.", "The error shrinks slowly.", rate=0.1),
            experiment("Take the step 1.", "One step is enough: the parabola is its own Newton model.", rate=1.0),
            experiment("Go beyond 2.", "The error grows.", rate=2.2),
        ),
        rate=Linear(0.1, 2.5, 0.1, stops=25, label="Learning rate"),
    )
    def descent(rate):
        steps = np.arange(21)
        error = (1 - rate) ** steps
        axes = panel("Error", x=(0, 20), y=(-3, 3), xlabel="step")
        return figure([line(steps, error)], axes, text=f"At the end it is {error[-1]:.2g}.")

Every host (Jupyter, the static page, Python inside the page) knows only this: parameters in, a figure out. Nothing
here imports plotly or a widget library.
"""

from __future__ import annotations

import html
import inspect
import math
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np

DISCRETE = ("choice", "toggle", "data", "drawing")
"""Kinds of controls whose settings have a shard of their own on the page."""

RESERVED = {"frame", "title", "try", "words"}
"""Names that a control cannot have, because addresses and the page's elements use them."""


@dataclass(frozen=True)
class Control:
    """One parameter that a reader can set; made by :func:`Choice`, :func:`Linear` and their kin.

    ``stops`` are the values that the static page offers; Jupyter offers everything in the range.
    """

    kind: str
    default: Any
    stops: tuple
    label: str
    unit: str = ""
    help: str = ""
    low: float = -math.inf
    high: float = math.inf
    samples: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    size: int = 0

    @property
    def is_discrete(self) -> bool:
        return self.kind in DISCRETE

    @property
    def is_coarse(self) -> bool:
        """Whether the page offers fewer values than Jupyter."""
        return not self.is_discrete and (self.kind != "integer" or len(self.stops) <= self.high - self.low)

    def check(self, value: Any) -> Any:
        """Return ``value`` in the control's own type.

        Raises:
            ValueError: the value is not allowed (names the allowed values or range).
        """
        if self.kind == "drawing" and not isinstance(value, str):
            return self._picture(value)
        if self.is_discrete:
            if any(type(value) is type(stop) and value == stop for stop in self.stops):
                return value
            raise ValueError(f"{self.label}: {value!r} is not one of {', '.join(map(repr, self.stops))}")
        number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
        if not number or not self.low <= value <= self.high or (self.kind == "integer" and value != int(value)):
            what = "a whole number" if self.kind == "integer" else "a number"
            raise ValueError(f"{self.label}: {value!r} is not {what} from {self.low:g} to {self.high:g}")
        return int(value) if self.kind == "integer" else float(value)

    def _picture(self, value: Any) -> np.ndarray:
        try:
            picture = np.array(value, float)  # a copy, because who draws goes on drawing
        except (TypeError, ValueError):
            picture = np.zeros(0)
        if picture.shape != (self.size, self.size):
            what = f"an array of shape {np.shape(value)}" if isinstance(value, np.ndarray) else repr(value)[:60]
            raise ValueError(f"{self.label}: {what} is not a picture of shape ({self.size}, {self.size}), nor a name")
        if not ((picture >= 0) & (picture <= 1)).all():  # nan is refused too
            low, high = picture.min(), picture.max()
            raise ValueError(f"{self.label}: ink goes from 0 to 1, this picture's is not there: {low:g} to {high:g}")
        return picture

    def meaning(self, value: Any) -> Any:
        """What a function gets for a checked ``value``: of a stored drawing the picture, else the value itself."""
        return self._picture(self.samples[value]()) if self.kind == "drawing" and isinstance(value, str) else value

    def show(self, value: Any) -> str:
        """``value`` as a reader sees it."""
        if self.kind == "drawing" and not isinstance(value, str):
            return "drawn"
        if self.is_discrete:
            return ("on" if value else "off") if self.kind == "toggle" else value
        text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
        text = text.replace("-", "\N{MINUS SIGN}")
        return f"{text} {self.unit}".strip()


def Choice(*options: str, default: str = "", label: str, help: str = "") -> Control:
    """One of several names; the first is the default unless ``default`` says otherwise."""
    if len(options) < 2 or len(set(options)) != len(options) or not all(isinstance(o, str) and o for o in options):
        raise ValueError(f"{label}: a choice needs at least two different names, not {options}")
    return _checked(Control("choice", default or options[0], options, label, help=help))


def DataSet(
    samples: Mapping[str, Callable[[], tuple[np.ndarray, np.ndarray]]], *, default: str = "", label: str, help: str = ""
) -> Control:
    """One of several data sets in the plane; the page shows each as a small picture.

    Args:
        samples: name -> function without arguments that returns points (N, 2) and integer classes (N,).
        default: name of the first to be shown; the first one if not given.
        label: name of the control.
        help: one sentence more.
    """
    if len(samples) < 2 or not all(callable(sample) for sample in samples.values()):
        raise ValueError(f"{label}: a choice of data sets needs at least two, and each a function, not {samples}")
    names = tuple(samples)
    return _checked(Control("data", default or names[0], names, label, help=help, samples=dict(samples)))


def Drawing(
    stored: Mapping[str, Callable[[], np.ndarray]], *, size: int = 28, default: str = "", label: str, help: str = ""
) -> Control:
    """A square picture that a reader draws; the page offers stored ones.

    A value is the name of a stored picture, or an array (size, size) of ink from 0 to 1. The function gets the array in
    either case.

    Args:
        stored: name -> function without arguments that returns a picture.
        size: pixels along a side.
        default: name of the first to be shown; the first one if not given.
        label: name of the control.
        help: one sentence more.
    """
    if len(stored) < 2 or not all(callable(picture) for picture in stored.values()) or size < 2:
        raise ValueError(f"{label}: a drawing needs a side and at least two stored pictures, and each a function")
    names = tuple(stored)
    return _checked(Control("drawing", default or names[0], names, label, help=help, samples=dict(stored), size=size))


def Toggle(default: bool = False, *, label: str, help: str = "") -> Control:
    """On or off."""
    return _checked(Control("toggle", default, (False, True), label, help=help))


def Linear(
    low: float, high: float, default: float, *, label: str, stops: int | tuple = 9, unit: str = "", help: str = ""
) -> Control:
    """A number on a linear scale; ``stops`` says how many evenly spaced values, or which ones, the page offers."""
    return _range("linear", low, high, default, label, stops, np.linspace, unit, help)


def Log(
    low: float, high: float, default: float, *, label: str, stops: int | tuple = 7, unit: str = "", help: str = ""
) -> Control:
    """A positive number on a logarithmic scale; ``stops`` as in :func:`Linear`, evenly spaced in the logarithm."""
    if not low > 0:
        raise ValueError(f"{label}: a logarithmic scale begins above 0, not at {low}")
    return _range("log", low, high, default, label, stops, np.geomspace, unit, help)


def Integer(
    low: int, high: int, default: int, *, label: str, stops: tuple | None = None, unit: str = "", help: str = ""
) -> Control:
    """A whole number; the page offers all of them unless ``stops`` says otherwise."""
    return _range("integer", low, high, default, label, stops or tuple(range(low, high + 1)), None, unit, help)


def _range(kind, low, high, default, label, stops, spaced, unit, help):
    if not (low < high and math.isfinite(high - low)):
        raise ValueError(f"{label}: the range must be finite and go up, not from {low} to {high}")
    if isinstance(stops, int):
        if spaced is None or stops < 2:
            raise ValueError(f"{label}: stops must be a tuple of values or, of a slider, at least 2, not {stops}")
        # 12 significant digits, so that the same stops are written on every machine.
        stops = tuple(min(max(float(f"{v:.12g}"), low), high) + 0.0 for v in spaced(low, high, stops))
    control = Control(kind, default, (), label, unit, help, low, high)
    tiny = 1e-9 * (high - low)  # a computed stop beside the default gives way to it
    others = (control.check(stop) for stop in stops if abs(stop - default) > tiny)
    stops = tuple(sorted({*others, control.check(default)}))
    return _checked(replace(control, default=control.check(default), stops=stops))


def _checked(control: Control) -> Control:
    if not control.label:
        raise ValueError("a control needs a label")
    for value in (control.default, *control.stops):
        control.check(value)
    return control


@dataclass(frozen=True)
class Experiment:
    """Something to try: what to do, what it shows, the parameters that do it, and at which moment it begins."""

    do: str
    shows: str
    parameters: dict[str, Any]
    frame: int | None = None


def experiment(do: str, shows: str, *, frame: int | None = None, **parameters) -> Experiment:
    """One entry of "what to try"; parameters that are not named have their defaults.

    ``frame`` is the moment that is shown first, counted from 0; the last one if it is not given.
    """
    if frame is not None and not (type(frame) is int and frame >= 0):
        raise ValueError(f"{do}: frame is the number of a moment, counted from 0, not {frame!r}")
    return Experiment(do, shows, parameters, frame)


class Explorable:
    """A function from parameters to a figure with its controls; called, it checks the parameters first.

    A function that trains something is a generator: it yields the share done, 0 to 1, now and then, and returns the
    figure. Called here it runs to the end; Jupyter draws the share as a bar and drops it when a control moves.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        title: str,
        caption: str,
        experiments: tuple[Experiment, ...],
        controls: Mapping[str, Control],
    ):
        self.function, self.title, self.caption = function, title, caption
        self.controls, self.experiments = dict(controls), experiments
        self.name, self.__doc__ = function.__name__, function.__doc__
        self.trains = inspect.isgeneratorfunction(function)
        self._panel: Any = None
        names = tuple(inspect.signature(function).parameters)
        if names != tuple(controls):
            raise ValueError(f"{self.name} takes {names}, its controls are {tuple(controls)}")
        if taken := set(names) & RESERVED:
            raise ValueError(f"{self.name}: the page uses the name {', '.join(sorted(taken))} itself")
        if not (title and caption and len(experiments) == 3):
            raise ValueError(f"{self.name} needs a title, a caption and three experiments, not {len(experiments)}")
        for trial in experiments:
            for name, value in self.check(**trial.parameters).items():
                if isinstance(value, np.ndarray) or value not in self.controls[name].stops:
                    raise ValueError(f"{self.name}: the page cannot show {name}={value!r}, it is not among the stops")

    def check(self, **parameters) -> dict[str, Any]:
        """Fill in the defaults and check every value.

        Raises:
            ValueError: an unknown parameter, or a value outside its control's range.
        """
        if unknown := parameters.keys() - self.controls.keys():
            has = ", ".join(self.controls)
            raise ValueError(f"{self.name} has no parameter {', '.join(sorted(unknown))}; it has {has}")
        return {name: c.check(parameters.get(name, c.default)) for name, c in self.controls.items()}

    def run(self, **parameters) -> Generator[float, None, dict[str, Any]]:
        """Evaluate in pieces: yields the share done, returns the figure."""
        checked = self.check(**parameters)
        result = self.function(**{name: control.meaning(checked[name]) for name, control in self.controls.items()})
        return (yield from result) if self.trains else result

    def __call__(self, **parameters) -> dict[str, Any]:
        return exhaust(self.run(**parameters))

    def shards(self) -> Iterator[dict[str, Any]]:
        """Every setting of the discrete controls, the last one running fastest."""
        return _settings({name: c.stops for name, c in self.controls.items() if c.is_discrete})

    def settings(self, shard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Every setting that the page offers within a shard, the last control running fastest."""
        return _settings({name: (shard[name],) if c.is_discrete else c.stops for name, c in self.controls.items()})

    @property
    def panel(self):
        """The widget that Jupyter shows; its ``controls``, ``figure`` and ``words`` can be reached from the kernel."""
        if self._panel is None:
            from nnbook.explore.jupyter import Panel

            self._panel = Panel(self)
        return self._panel

    @property
    def placeholder(self) -> str:
        """What a stored notebook holds in place of the widget; the book puts the page's widget there."""
        where = f"{self.function.__module__}:{self.name}"
        return f'<div data-explorable="{where}">{html.escape(self.title)}: run this cell to move the controls.</div>'

    def __repr__(self) -> str:
        return f"<explorable {self.name}>"

    def _repr_mimebundle_(self, **kwargs) -> dict[str, Any]:
        # The text and the HTML are the same on every machine: notebooks are stored and compared with these.
        bundle = {"text/plain": repr(self), "text/html": self.placeholder}
        try:
            import anywidget  # noqa: F401
            import ipywidgets  # noqa: F401
            import plotly  # noqa: F401
        except ImportError:
            return bundle
        return {**self.panel.view(), **bundle}


def exhaust(work: Generator[float, None, dict[str, Any]]) -> dict[str, Any]:
    """What a generator returns in the end."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            return done.value


def _settings(values: Mapping[str, tuple]) -> Iterator[dict[str, Any]]:
    for chosen in product(*values.values()):
        yield dict(zip(values, chosen, strict=True))


def explorable(
    title: str, /, *, caption: str, experiments: tuple[Experiment, ...], **controls: Control
) -> Callable[[Callable[..., Any]], Explorable]:
    """Declare the controls of a function, one for each of its parameters, and make it an :class:`Explorable`.

    Args:
        title: the name that a reader sees.
        caption: one or two sentences on what is drawn; stands under the static picture and under the widget.
        experiments: what to try, three of them.
        **controls: parameter name -> control, in the order of the parameters.
    """
    return lambda function: Explorable(function, title, caption, experiments, controls)
