"""The static picture of an explorable: the same figure data, drawn by matplotlib.

It stands on the page before the widget is loaded, in print, and where there is no JavaScript. It understands what
:mod:`nnbook.explore.figures` makes, and refuses anything else.
"""

from __future__ import annotations

import copy
import io
import re
from typing import Any

import numpy as np

from nnbook.explore.figures import arrange, at_frame
from nnbook.plots import GREY, style

DASHES = {"solid": "-", "dash": (0, (5, 2)), "dot": (0, (1, 1.8))}
MARKERS = {"circle": "o", "square": "s", "diamond": "D", "cross": "X"}
INCH = 96
"""CSS pixels."""


def picture(fig: dict[str, Any], width: float, height: float, *, stacked: bool = False) -> bytes:
    """The last moment of a figure as SVG of that many CSS pixels, its panels side by side or stacked.

    Raises:
        ValueError: the figure holds a trace that only plotly can draw.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    layout = copy.deepcopy(fig["layout"])
    arrange(layout, width, height, stacked=stacked)
    traces, _ = at_frame(fig)
    with mpl.rc_context({**style(), "figure.constrained_layout.use": False, "svg.fonttype": "path"}):
        sheet = Figure(figsize=(width / INCH, height / INCH))
        for i in range(len(layout["meta"]["shares"])):
            _panel(sheet, layout, "" if i == 0 else str(i + 1), traces, width, height)
        out = io.BytesIO()
        sheet.savefig(out, format="svg", dpi=2 * INCH, metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _panel(sheet, layout, end: str, traces, width: float, height: float) -> None:
    x, y = layout[f"xaxis{end}"], layout[f"yaxis{end}"]
    (left, right), (bottom, top) = x["domain"], y["domain"]
    ax = sheet.add_axes((left, bottom, right - left, top - bottom))
    mine = [trace for trace in traces if trace["xaxis"] == f"x{end}"]
    for depth, trace in enumerate(mine):
        _trace(ax, trace, depth)
    ax.set(xlabel=plain(x["title"]["text"]), ylabel=plain(y["title"]["text"]))
    if y.get("type") == "log":
        ax.set_yscale("log")
    if "range" in x:
        ax.set_xlim(x["range"])
    if "range" in y:
        ax.set_ylim(10.0 ** np.array(y["range"]) if y.get("type") == "log" else y["range"])
    if "tickvals" in x:
        ax.set_xticks(x["tickvals"], x["ticktext"])
    if "tickvals" in y:
        ax.set_yticks(y["tickvals"], y["ticktext"])
    if y.get("visible", True):
        ax.grid(y["showgrid"], axis="y")
        ax.grid(x["showgrid"], axis="x")
    else:
        ax.set_axis_off()
    if "scaleanchor" in y:
        ax.set_aspect("equal", anchor="NW")
    for note in layout["annotations"]:
        if note["xref"] == f"x{end} domain":
            place: dict[str, Any] = {"xy": (note["x"], note["y"]), "xytext": (0, note["yshift"] * 72 / INCH)}
            place |= {"xycoords": "axes fraction", "textcoords": "offset points", "va": "bottom"}
            ax.annotate(plain(note["text"]), **place, parse_math=False)
    handles = ax.get_legend_handles_labels()[0]
    if handles:
        spot = {"loc": "lower left", "bbox_to_anchor": (-6 / width / (right - left), 1.0), "borderaxespad": 0.2}
        look = {"ncols": len(handles), "fontsize": 8, "handlelength": 1.6, "columnspacing": 1.0, "handletextpad": 0.4}
        ax.legend(**spot, **look)


def _trace(ax, trace: dict[str, Any], depth: int) -> None:
    kind, mode = trace["type"], trace.get("mode", "")
    alpha = trace.get("opacity", 1.0)
    label = trace.get("name") if trace.get("showlegend") else None
    x, y = np.asarray(trace["x"]), np.asarray(trace["y"])
    shared = {"zorder": 2 + depth / 100, "label": label, "alpha": alpha}
    if kind == "heatmap":
        from matplotlib.colors import LinearSegmentedColormap

        stops = [(at, _rgba(colour)) for at, colour in trace["colorscale"]]
        half = tuple((at[1] - at[0]) / 2 if len(at) > 1 else 0.5 for at in (x, y))
        extent = (x[0] - half[0], x[-1] + half[0], y[0] - half[1], y[-1] + half[1])
        cmap = LinearSegmentedColormap.from_list("", stops)
        scale = {"vmin": trace["zmin"], "vmax": trace["zmax"], "cmap": cmap}
        between = "bilinear" if trace["zsmooth"] else "nearest"
        ax.imshow(trace["z"], **scale, origin="lower", extent=extent, aspect="auto", interpolation=between, zorder=1)
    elif kind == "contour":
        step = trace["contours"]
        levels = np.arange(step["start"], step["end"] + step["size"] / 2, step["size"])
        pen = {
            "colors": trace["line"]["color"],
            "linewidths": trace["line"]["width"] * 72 / INCH,
            "linestyles": "solid",
        }
        ax.contour(x, y, trace["z"], levels, **pen, alpha=alpha, zorder=1.5)
    elif kind == "bar":
        ax.bar(x, y, trace["width"], color=trace["marker"]["color"], **shared)
    elif kind == "scatter" and mode == "text":
        size, colour = trace["textfont"]["size"] * 72 / INCH, trace["textfont"].get("color", GREY)
        vertical, horizontal = trace["textposition"].split()
        sides = {"middle": "center", "top": "bottom", "bottom": "top", "left": "right", "right": "left"}
        place = {"va": sides.get(vertical, vertical), "ha": sides.get(horizontal, horizontal)}
        for a, b, text in zip(x, y, trace["text"], strict=True):
            ax.text(a, b, plain(text), fontsize=size, color=colour, **place, zorder=3, clip_on=True, parse_math=False)
    elif kind == "scatter" and trace.get("marker", {}).get("symbol") == "arrow":
        pen = trace["line"]
        shaft = {"arrowstyle": "-|>", "color": pen["color"], "lw": pen["width"] * 72 / INCH, "shrinkA": 0, "shrinkB": 0}
        ax.annotate(
            "", (x[-1], y[-1]), (x[0], y[0]), arrowprops={**shaft, "mutation_scale": 11}, zorder=shared["zorder"]
        )
        ax.plot([], [], color=pen["color"], label=label)
    elif kind == "scatter" and "fill" in trace:
        ax.fill(x, y, color=trace["fillcolor"], linewidth=0, **shared)
    elif kind == "scatter" and mode == "lines":
        pen = trace["line"]
        ax.plot(x, y, color=pen["color"], linewidth=pen["width"] * 72 / INCH, linestyle=DASHES[pen["dash"]], **shared)
    elif kind == "scatter" and mode == "markers":
        look = trace["marker"]
        shape = {"marker": MARKERS[look["symbol"]], "s": (look["size"] * 72 / INCH) ** 2}
        shape |= {"edgecolors": look["line"]["color"], "linewidths": look["line"]["width"] * 72 / INCH}
        ax.scatter(x, y, color=look["color"], **shape, **shared)
    else:
        raise ValueError(f"a trace of type {kind}, mode {mode!r} has no static picture")


def plain(text: str) -> str:
    """Text without the few tags that plotly knows."""
    return re.sub(r"</?(?:b|i|br|sub|sup|em|span)\b[^>]*>", lambda tag: "\n" if tag[0] == "<br>" else "", text)


def _rgba(colour: str) -> tuple[float, ...]:
    red, green, blue, alpha = (float(part) for part in re.findall(r"[\d.]+", colour))
    return red / 255, green / 255, blue / 255, alpha
