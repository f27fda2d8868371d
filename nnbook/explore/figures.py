"""Figures as plain data: dicts as plotly spells them, whose long lists of numbers are NumPy arrays.

An explorable returns :func:`figure`, made of traces (:func:`line`, :func:`dots`, :func:`bars`, :func:`surface`,
:func:`pixels`, :func:`contours`, :func:`band`, :func:`words`) on one or several panels (:func:`panel`) side by side.
Colours are those of :mod:`nnbook.plots`, which read well on a light page and on a dark one. Everything drawn is finite
and clipped where it is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nnbook.plots import BLUE, GREY


def diverging(strength: float) -> list[list]:
    """Blue, nothing, vermillion: the neutral end is transparent, so light on a light page and dark on a dark one."""
    cold, warm = "rgba(0,114,178,{})", "rgba(213,94,0,{})"
    return [[0.0, cold.format(strength)], [0.5, cold.format(0)], [0.5, warm.format(0)], [1.0, warm.format(strength)]]


INK = "rgba(118,118,118,{})"
"""The grey of a picture, in which a bright pixel has more ink."""

HEIGHT, WIDTH = 340, 690
"""The drawing's size in pixels: height of one row of panels, and the width that it is laid out for."""

LEFT, RIGHT, TOP, BOTTOM = 50, 12, 52, 44
"""Room around a panel in pixels: tick labels and titles."""


def figure(
    data: list[dict], *panels: dict, text: str, frames: list[dict] | None = None, layout: dict | None = None
) -> dict[str, Any]:
    """A figure as every host takes it.

    Args:
        data: traces.
        *panels: the axes they stand on, from :func:`panel`.
        text: the result in words, for those who do not see the drawing too.
        frames: what changes over time, from :func:`frame`. A host shows the last one first.
        layout: further plotly settings.

    Raises:
        ValueError: no text, no panel, a trace on a panel that is not there, or a frame of another length than ``data``.
    """
    if not text or not panels:
        raise ValueError("a figure says its result in words and has at least one panel")
    for number, trace in enumerate(data):
        if (on := int(trace["xaxis"][1:] or 1)) > len(panels):
            raise ValueError(f"trace {number} stands on panel {on - 1}, there are {len(panels)}, counted from 0")
    for number, moment in enumerate(frames or []):
        if len(moment["data"]) != len(data):
            raise ValueError(f"frame {number} updates {len(moment['data'])} traces, the figure has {len(data)}")
    full: dict[str, Any] = {"meta": {"shares": [p["share"] for p in panels]}, "showlegend": True, "annotations": []}
    for i, p in enumerate(panels):
        end = "" if i == 0 else str(i + 1)
        full[f"xaxis{end}"] = {**p["x"], "anchor": f"y{end}"}
        full[f"yaxis{end}"] = {**p["y"], "anchor": f"x{end}"}
        if "scaleratio" in p["y"]:
            full[f"yaxis{end}"]["scaleanchor"] = f"x{end}"
        full[f"legend{end}"] = {"orientation": "h", "font": {"size": 11}, "xanchor": "left", "yanchor": "bottom"}
        title = {"text": p["title"], "showarrow": False, "xref": f"x{end} domain", "yref": f"y{end} domain"}
        place: dict[str, Any] = {
            "x": 0,
            "y": 1,
            "xanchor": "left",
            "yanchor": "bottom",
            "yshift": 24,
            "font": {"size": 13},
        }
        full["annotations"].append({**title, **place})
    arrange(full, WIDTH, HEIGHT)
    return {"data": data, "layout": {**full, **(layout or {})}, "frames": frames or [], "text": text}


def arrange(layout: dict[str, Any], width: float, height: float, *, stacked: bool = False) -> None:
    """Place the panels of ``layout`` in a drawing of that size, side by side or one above the other, in place."""
    shares = layout["meta"]["shares"]
    start, whole = 0.0, sum(shares)
    for i, share in enumerate(shares):
        end = "" if i == 0 else str(i + 1)
        part = 1 / len(shares) if stacked else share / whole
        low, high = start, start + part
        start = high
        x, y = ((0.0, 1.0), (1 - high, 1 - low)) if stacked else ((low, high), (0.0, 1.0))
        layout[f"xaxis{end}"]["domain"] = [x[0] + LEFT / width, x[1] - RIGHT / width]
        layout[f"yaxis{end}"]["domain"] = [y[0] + BOTTOM / height, y[1] - TOP / height]
        layout[f"legend{end}"] |= {"x": x[0] + (LEFT - 6) / width, "y": y[1] - TOP / height}
    layout.update(height=height, margin={"l": 0, "r": 0, "t": 0, "b": 0, "pad": 0})


def panel(
    title: str,
    *,
    x: tuple[float, float] | None = None,
    y: tuple[float, float] | None = None,
    xlabel: str = "",
    ylabel: str = "",
    ticks: Mapping[Any, str] | None = None,
    yticks: Mapping[Any, str] | None = None,
    log: bool = False,
    bare: bool = False,
    equal: bool = False,
    share: float = 1.0,
) -> dict[str, Any]:
    """A pair of axes.

    Args:
        title: what is drawn, above it.
        x, y: limits; for a logarithmic ``y`` its powers of ten. Give them, so that the axes stand still.
        xlabel, ylabel: names of the axes.
        ticks: place -> name on the x axis, for bars.
        yticks: place -> name on the y axis. A curve over many powers of ten keeps its small values in a bank only as a
            curve of logarithms; this names their places.
        log: logarithmic y axis.
        bare: no axes at all, for a picture.
        equal: one unit is as long across as it is up.
        share: width as against the other panels.
    """
    across: dict[str, Any] = {
        "title": {"text": xlabel},
        "zeroline": not (bare or ticks),
        "showgrid": not (bare or ticks),
    }
    up: dict[str, Any] = {"title": {"text": ylabel}, "zeroline": not bare, "showgrid": not bare}
    if x is not None:
        across["range"] = list(x)
    if y is not None:
        up["range"] = list(y)
    if ticks:
        across |= {"tickvals": list(ticks), "ticktext": list(ticks.values())}
    if yticks:
        up |= {"tickvals": list(yticks), "ticktext": list(yticks.values()), "zeroline": False}
    if log:
        up |= {"type": "log", "dtick": 1, "zeroline": False}
    if bare:
        across["visible"] = up["visible"] = False
    if equal:
        across |= {"constrain": "domain", "constraintoward": "left"}
        up |= {"constrain": "domain", "constraintoward": "top", "scaleratio": 1}
    return {"title": title, "x": across, "y": up, "share": share}


def _on(number: int) -> dict[str, str]:
    end = "" if number == 0 else str(number + 1)
    return {"xaxis": f"x{end}", "yaxis": f"y{end}", "legend": f"legend{end}"}


def _named(name: str) -> dict[str, Any]:
    return {"name": name, "showlegend": True} if name else {"showlegend": False, "hoverinfo": "skip"}


def line(
    x,
    y,
    *,
    name: str = "",
    colour: str = BLUE,
    dash: str = "solid",
    width: float = 2.5,
    opacity: float = 1.0,
    on: int = 0,
) -> dict[str, Any]:
    """A curve through (N,) ``x`` and ``y``; in the legend if it has a name. ``dash``: solid, dash or dot."""
    style = {"color": colour, "width": width, "dash": dash}
    drawn: dict[str, Any] = {"type": "scatter", "mode": "lines", "x": np.asarray(x, float), "y": np.asarray(y, float)}
    return {**drawn, "line": style, "opacity": opacity, **_named(name), **_on(on)}


def arrow(x, y, *, name: str = "", colour: str = BLUE, width: float = 2.5, on: int = 0) -> dict[str, Any]:
    """An arrow from the first of (2,) ``x``, ``y`` to the second."""
    head = {"symbol": "arrow", "angleref": "previous", "size": [0, 12], "color": colour, "line": {"width": 0}}
    shaft = line(x, y, name=name, colour=colour, width=width, on=on)
    return {**shaft, "mode": "lines+markers", "marker": head}


def dots(
    x,
    y,
    *,
    name: str = "",
    colour: str = BLUE,
    size: float = 8,
    symbol: str = "circle",
    on: int = 0,
    opacity: float = 1.0,
    edge: float = 0.0,
) -> dict[str, Any]:
    """Points at (N,) ``x`` and ``y``. ``symbol``: circle, square, diamond or cross; ``edge``: width of a white one."""
    marker = {"color": colour, "size": size, "symbol": symbol, "line": {"width": edge, "color": "white"}}
    drawn: dict[str, Any] = {"type": "scatter", "mode": "markers", "x": np.asarray(x, float), "y": np.asarray(y, float)}
    return {**drawn, "marker": marker, "opacity": opacity, **_named(name), **_on(on)}


def bars(
    x, y, *, name: str = "", colour: str = BLUE, width: float = 0.7, opacity: float = 1.0, on: int = 0
) -> dict[str, Any]:
    """Bars of height ``y`` at the places ``x``."""
    drawn: dict[str, Any] = {"type": "bar", "x": np.asarray(x, float), "y": np.asarray(y, float), "width": width}
    return {**drawn, "marker": {"color": colour, "line": {"width": 0}}, "opacity": opacity, **_named(name), **_on(on)}


def surface(x, y, z, *, low: float, high: float, strength: float = 0.85, on: int = 0) -> dict[str, Any]:
    """Colours for (H, W) ``z`` over (W,) ``x`` and (H,) ``y``: blue at ``low``, orange at ``high``, none between."""
    drawn: dict[str, Any] = {
        "type": "heatmap",
        "x": np.asarray(x, float),
        "y": np.asarray(y, float),
        "z": np.asarray(z),
    }
    look = {"zmin": low, "zmax": high, "colorscale": diverging(strength), "zsmooth": "best", "showscale": False}
    return {**drawn, **look, "hoverinfo": "skip", "showlegend": False, **_on(on)}


def pixels(
    z,
    *,
    low: float = -1.0,
    high: float = 1.0,
    at: tuple[float, float] = (0.0, 0.0),
    size: float = 1.0,
    strength: float = 0.85,
    grey: bool = False,
    on: int = 0,
) -> dict[str, Any]:
    """Sharp squares for (H, W) ``z``, row 0 on top: give the panel a ``y`` that goes down, as in ``(28, 0)``.

    Args:
        z: orange where positive, blue where negative, nothing at 0.
        low, high: what has the full colour; the middle between them is nothing.
        at: left and upper edge of the picture.
        size: side of a square.
        strength: the opacity of the full colour.
        grey: as ink on paper instead, nothing at ``low``.
    """
    z = np.asarray(z, float)
    x, y = (edge + size * (np.arange(n) + 0.5) for edge, n in zip(at, z.shape[::-1], strict=True))
    drawn = surface(x, y, z, low=low, high=high, strength=strength, on=on) | {"zsmooth": False}
    return drawn | {"colorscale": [[0.0, INK.format(0)], [1.0, INK.format(strength)]]} if grey else drawn


def contours(
    x, y, z, *, low: float, high: float, count: int = 10, colour: str = GREY, opacity: float = 0.6, on: int = 0
) -> dict[str, Any]:
    """Thin level lines of (H, W) ``z`` over (W,) ``x`` and (H,) ``y``: ``count``, evenly from ``low`` to ``high``."""
    drawn: dict[str, Any] = {
        "type": "contour",
        "x": np.asarray(x, float),
        "y": np.asarray(y, float),
        "z": np.asarray(z),
    }
    levels = {"coloring": "none", "start": low, "end": high, "size": (high - low) / (count - 1)}
    look = {"contours": levels, "autocontour": False, "line": {"color": colour, "width": 1}, "showscale": False}
    return {**drawn, **look, "opacity": opacity, "hoverinfo": "skip", "showlegend": False, **_on(on)}


def band(x, low, high, *, name: str = "", colour: str = BLUE, opacity: float = 0.25, on: int = 0) -> dict[str, Any]:
    """What lies between the curves (N,) ``low`` and ``high``, filled."""
    around = line(
        np.concatenate([x, x[::-1]]), np.concatenate([high, low[::-1]]), name=name, colour=colour, width=0, on=on
    )
    return {**around, "fill": "toself", "fillcolor": colour, "opacity": opacity}


def words(
    x, y, text: list[str], *, colour: str = "", size: float = 12, place: str = "middle center", on: int = 0
) -> dict[str, Any]:
    """Short texts at (N,) ``x`` and ``y``, in the colour of the page's text unless another is given."""
    drawn: dict[str, Any] = {"type": "scatter", "mode": "text", "x": np.asarray(x, float), "y": np.asarray(y, float)}
    font: dict[str, Any] = {"size": size, **({"color": colour} if colour else {})}
    return {**drawn, "text": list(text), "textposition": place, "textfont": font, **_named(""), **_on(on)}


def frame(name: str, data: list[dict], text: str = "") -> dict[str, Any]:
    """One moment: for each trace what changes (``{}`` where nothing does), and the result in words if it differs."""
    return {"name": name, "data": data, **({"text": text} if text else {})}


def at_frame(fig: dict[str, Any], number: int = -1) -> tuple[list[dict], str]:
    """The traces of ``fig`` and its words as they stand at frame ``number``; the last one by default."""
    if not fig["frames"]:
        return fig["data"], fig["text"]
    moment = fig["frames"][number]
    traces = [{**trace, **update} for trace, update in zip(fig["data"], moment["data"], strict=True)]
    return traces, moment.get("text", fig["text"])


def check(fig: dict[str, Any]) -> None:
    """Raise a ValueError if a figure cannot be drawn as it stands, at one of its moments or before.

    Raises:
        ValueError: numbers that are not finite, a trace whose arrays do not fit each other, or a frame that sets what
            its trace does not have (each is named).
    """
    if not isinstance(fig, dict) or not {"data", "layout", "frames", "text"} <= fig.keys():
        raise ValueError(f"a function of an explorable returns figure(...), not {type(fig).__name__}")
    for number in range(max(len(fig["frames"]), 1)):
        updates = fig["frames"][number]["data"] if fig["frames"] else [{}] * len(fig["data"])
        for i, (trace, update) in enumerate(zip(fig["data"], updates, strict=True)):
            where = f"trace {i}" + (f" of frame {number}" if fig["frames"] else "")
            if unknown := update.keys() - trace.keys():
                raise ValueError(f"{where} sets {', '.join(sorted(unknown))}, which the trace does not have")
            if not update and number:
                continue
            now = {**trace, **update}
            for key in ("x", "y", "z"):
                if key in now and not np.isfinite(now[key]).all():
                    raise ValueError(f"{where}: {key} holds numbers that are not finite; clip them")
            shape = (len(now["y"]), len(now["x"])) if "z" in now else (len(now["x"]),)
            found = np.shape(now["z"] if "z" in now else now["y"])
            if found != shape or len(now.get("text", now["x"])) != len(now["x"]):
                raise ValueError(f"{where} has x of length {len(now['x'])} and values of shape {found}")
