"""One look for every figure of the book, and the plots that recur.

A figure has a transparent background and mid-grey text, so that it sits on a light page and on a dark one. A colour
means the same thing all through the book (:data:`COLOURS`). Call :func:`use_style` once at the top of a notebook to
draw your own figures in the same look; the functions below have it in any case and change no global setting::

    from nnbook import plots

    plots.use_style()
    plots.training_curves({"train": losses, "validation": validation_losses})

Every function draws into ``ax`` if one is given, into a new figure otherwise, and returns the axes. matplotlib is
imported when the first figure is drawn.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from nnbook._arrays import Given, checked, numeric
from nnbook.backprop import Primitive, Step, vjp

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREY = "#767676"
"""Text, axes and ticks. On white it has the contrast 4.5 that small text needs (WCAG 2.1, 1.4.3). No single colour
reaches 4.5 on white and on the dark page too (the best has 4.2 on both), so the site brightens figures in dark mode."""

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
"""Those of the eight colours of :cite:`okabe2008` that show on white and on a dark page (contrast at least 3)."""

COLOURS: dict[str, str] = {
    "train": BLUE,
    "validation": VERMILLION,
    "test": GREEN,
    "value": BLUE,
    "gradient": VERMILLION,
    "numpy": BLUE,
    "torch": VERMILLION,
    "reference": GREY,
    "right": BLUE,
    "wrong": VERMILLION,
    "accent": PURPLE,
    "blue": BLUE,
    "orange": VERMILLION,
    "green": GREEN,
    "purple": PURPLE,
    "grey": GREY,
}
"""What a colour means: the same thing has the same colour in every figure. The hues stand for all that has no meaning
of its own; there is no black and no white, because either would vanish on one of the two pages."""

CLASS_COLOURS = (
    *(BLUE, VERMILLION, GREEN, PURPLE),
    *("#8A7A00", "#7B68C8", "#2F95A8", "#B5523B", "#5C8A2E", "#A0699E"),
)
"""Colours of classes 0 to 9. Beyond four no palette survives every colour blindness, hence :data:`CLASS_MARKERS`."""

CLASS_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
"""Markers of classes 0 to 9, so that colour is never the only difference."""

STYLE: dict[Any, Any] = {
    "figure.figsize": (6.4, 3.2),
    "figure.dpi": 96,
    "figure.facecolor": "none",
    "figure.edgecolor": "none",
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "none",
    "savefig.edgecolor": "none",
    "savefig.dpi": 192,
    "svg.hashsalt": "nnbook",
    "font.family": "DejaVu Sans",  # comes with matplotlib, so the figures are the same on every machine
    "font.size": 10,
    "mathtext.fontset": "dejavusans",
    "text.color": GREY,
    "axes.facecolor": "none",
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.titlecolor": GREY,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "grid.color": GREY,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": GREY,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "patch.edgecolor": GREY,
    "hatch.color": GREY,
    "boxplot.boxprops.color": GREY,
    "boxplot.whiskerprops.color": GREY,
    "boxplot.capprops.color": GREY,
    "image.cmap": "gray",
    "image.interpolation": "nearest",
}
"""matplotlib settings of the book, apart from the colour cycle."""


def __getattr__(name: str):
    """The colour maps ``DIVERGING`` (blue, nothing, vermillion) and ``SEQUENTIAL`` (nothing, blue).

    Their neutral end is transparent, so that it is white on a white page and dark on a dark one.
    """
    from matplotlib.colors import LinearSegmentedColormap, to_rgba

    if name == "DIVERGING":
        stops = [to_rgba(BLUE), to_rgba(BLUE, 0), to_rgba(VERMILLION, 0), to_rgba(VERMILLION)]
        return LinearSegmentedColormap.from_list("diverging", list(zip((0, 0.5, 0.5, 1), stops, strict=True)))
    if name == "SEQUENTIAL":
        return LinearSegmentedColormap.from_list("sequential", [to_rgba(BLUE, 0), to_rgba(BLUE)])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def style() -> dict[Any, Any]:
    """The settings of the book for ``matplotlib.rc_context``: :data:`STYLE` and the cycle of class colours."""
    from cycler import cycler

    return {**STYLE, "axes.prop_cycle": cycler(color=CLASS_COLOURS)}


def use_style() -> None:
    """Draw all figures of this session in the style of the book; in a notebook also at twice the pixels (retina)."""
    import matplotlib as mpl

    mpl.rcParams.update(style())
    if mpl.get_backend().lower() in ("inline", "module://matplotlib_inline.backend_inline"):
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("retina")


def _styled(draw: Callable[..., Axes]) -> Callable[..., Axes]:
    """Give ``draw`` the style of the book while it runs, and no longer."""

    @functools.wraps(draw)
    def styled(*args, **kwargs):
        import matplotlib as mpl

        with mpl.rc_context(style()):
            return draw(*args, **kwargs)

    return styled


def _axes(ax: Axes | None, figsize: tuple[float, float] | None = None) -> Axes:
    if ax is not None:
        if not hasattr(ax, "get_xaxis_transform"):
            raise ValueError(f"ax must be axes of matplotlib, not a {type(ax).__name__}")
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=figsize)[1]


def _colour(label: str, position: int) -> str:
    """The fixed colour of what ``label`` begins with ("train loss" is train), else the next class colour."""
    return COLOURS.get(label.split()[0].lower() if label.split() else "", CLASS_COLOURS[position % len(CLASS_COLOURS)])


# ---------------------------------------------------------------------------------------------------------------------
# Curves
# ---------------------------------------------------------------------------------------------------------------------

_DASHES = {"validation": (0, (5, 1.5)), "test": (0, (2, 1)), "torch": (0, (5, 1.5)), "reference": (0, (1, 1.5))}


@checked
@_styled
def training_curves(
    curves: Mapping[str, Any],
    *,
    x: Given | None = None,
    xlabel: str = "epoch",
    ylabel: str = "loss",
    log: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Draw curves over training time; several seeds give their mean and a band of one standard deviation.

    Args:
        curves: label -> ``(T,)`` numbers, or ``(S, T)`` for S seeds. Seeds may stop at different times (a list of
            lists); the mean is then over those still running. A label that begins with a key of :data:`COLOURS` has
            that colour.
        x: ``(T,)`` places on the horizontal axis; 1, 2, ... if not given. It must be as long as the longest curve.
        xlabel, ylabel: names of the axes.
        log: logarithmic vertical axis.
        ax: axes to draw into.

    Raises:
        ValueError: no curves; a curve with no points or of more than two dimensions; ``x`` of another length.
    """
    if not isinstance(curves, Mapping) or not curves:
        raise ValueError("training_curves needs a dict with at least one curve")
    tables = {label: _seeds(label, values) for label, values in curves.items()}
    longest = max(table.shape[1] for table in tables.values())
    places = np.arange(1, longest + 1) if x is None else np.asarray(x)
    if places.shape != (longest,):
        raise ValueError(f"x has shape {places.shape}, the longest curve has shape {(longest,)}")
    ax = _axes(ax)
    for position, (label, table) in enumerate(tables.items()):
        running = np.sum(~np.isnan(table), axis=0)
        mean = np.nansum(table, axis=0) / running
        spread = np.sqrt(np.nansum((table - mean) ** 2, axis=0) / np.maximum(running - 1, 1))
        here, colour = places[: len(mean)], _colour(label, position)
        word = label.split()[0].lower() if label.split() else ""
        ax.plot(here, mean, label=label, color=colour, linestyle=_DASHES.get(word, "-"))
        if len(table) > 1:
            low = mean - spread
            if log:  # a band that reaches below zero has no lower edge on a logarithmic axis
                low = np.maximum(low, np.nanmin(table, axis=0))
            ax.fill_between(here, low, mean + spread, color=colour, alpha=0.2, linewidth=0)
    if log:
        ax.set_yscale("log")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(True)
    if len(curves) > 1:
        ax.legend()
    return ax


def _seeds(label: str, values) -> np.ndarray:
    """``(S, T)``, one row a seed, short rows filled up with nan."""
    if isinstance(values, str) or not hasattr(values, "__len__") or not hasattr(values, "__getitem__"):
        raise ValueError(f"the curve {label!r} must be (T,) or (S, T) numbers, not a {type(values).__name__}")
    rows = [values] if len(values) and np.ndim(values[0]) == 0 else list(values)
    rows = [np.asarray(row, float) for row in rows]
    if not rows or any(row.ndim != 1 or row.size == 0 for row in rows):
        raise ValueError(f"the curve {label!r} must be (T,) or (S, T) numbers, not {[row.shape for row in rows]}")
    table = np.full((len(rows), max(map(len, rows))), np.nan)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table


@checked
@_styled
def function_and_derivative(
    f: Callable,
    derivative: Callable | None = None,
    *,
    x: Given | None = None,
    kinks: Sequence[float] = (),
    name: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a function of one variable (solid) and its derivative (dashed).

    Args:
        f: an element-wise function of an array, for example a primitive of :mod:`nnbook.neurons`.
        derivative: its derivative, also element-wise; found by :func:`nnbook.backprop.vjp` if not given.
        x: ``(N,)`` places; 401 from -5 to 5 if not given.
        kinks: where the derivative jumps; the curves are broken there, not joined by a steep line.
        name: how the legend calls it; the name of ``f`` if not given.
        ax: axes to draw into.

    Raises:
        ValueError: ``x`` is not one-dimensional, or ``f`` or its derivative does not keep its shape.
    """
    x = np.linspace(-5, 5, 401) if x is None else np.asarray(x, float)
    if x.ndim != 1 or x.size < 2:
        raise ValueError(f"x must be (N,) with N > 1, not of shape {x.shape}")
    if derivative is None:
        value, pull = vjp(f, x)
        if np.shape(value) != x.shape:
            raise ValueError(f"f maps shape {x.shape} to {np.shape(value)}; it must be element-wise")
        slope = pull(np.ones_like(x))[0]
    else:
        value, slope = f(x), derivative(x)
    for what, array in (("f", value), ("the derivative", slope)):
        if np.shape(array) != x.shape:
            raise ValueError(f"{what} maps shape {x.shape} to {np.shape(array)}; it must be element-wise")
    name = name or (f.__name__ if isinstance(f, Primitive) else getattr(f, "__name__", "f"))
    ax = _axes(ax)
    ax.axhline(0, color=GREY, linewidth=0.6)
    ax.axvline(0, color=GREY, linewidth=0.6)
    ax.plot(*broken(x, value, kinks), color=COLOURS["value"], label=name)
    ax.plot(*broken(x, slope, kinks), color=COLOURS["gradient"], linestyle=(0, (5, 1.5)), label="derivative")
    ax.set(xlabel="x")
    ax.legend()
    return ax


@checked
def broken(x, y, kinks: Sequence[float]):
    """Break a curve at its kinks: ``(x, y)`` with nan in ``y`` there, so that no steep line joins the two sides.

    Args:
        x: ``(N,)`` places in ascending order.
        y: ``(N,)`` values.
        kinks: where to break; places that are missing in ``x`` are inserted.

    Raises:
        ValueError: ``x`` and ``y`` are not of one length.
    """
    if np.ndim(x) != 1 or np.shape(x) != np.shape(y):
        raise ValueError(f"broken: x of shape {np.shape(x)} and y of shape {np.shape(y)} are no curve")
    y = np.array(y, float)
    for kink in kinks:
        near = np.isclose(x, kink, rtol=0, atol=1e-9)
        y[near] = np.nan
        if not near.any():
            i = np.searchsorted(x, kink)
            x, y = np.insert(x, i, kink), np.insert(y, i, np.nan)
    return x, y


# ---------------------------------------------------------------------------------------------------------------------
# Classification
# ---------------------------------------------------------------------------------------------------------------------


@checked
@_styled
def decision_regions(
    predict: Callable,
    x,
    y: Given,
    *,
    resolution: int = 240,
    margin: float = 0.1,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Colour the plane by what ``predict`` says, and draw the points with their true classes.

    Args:
        predict: ``(M, 2)`` points -> ``(M,)`` integer or boolean classes, or ``(M, C)`` scores, of which the largest
            counts. For one logit z per point write ``lambda p: z(p) > 0``.
        x: ``(N, 2)`` points.
        y: ``(N,)`` integer classes.
        resolution: number of grid points along each axis.
        margin: room around the points, as a part of their extent.
        names: names of the classes in ascending order, for the legend; none if not given.
        ax: axes to draw into.

    Raises:
        ValueError: shapes other than these, or one real number per point from ``predict``.
    """
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim != 2 or x.shape[1] != 2 or y.shape != x.shape[:1] or len(x) == 0:
        raise ValueError(f"decision_regions needs points (N, 2) and classes (N,), not {x.shape} and {y.shape}")
    if y.dtype.kind not in "biu":
        raise ValueError(f"the classes must be integers, not {y.dtype}")
    x = x if x.dtype.kind == "f" else x.astype(float)  # integer grid points would leave holes
    low, high = x.min(axis=0), x.max(axis=0)
    room = margin * np.maximum(high - low, 1e-6)
    low, high = low - room, high + room
    across, up = (np.linspace(low[i], high[i], resolution, dtype=x.dtype) for i in range(2))
    points = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2)
    found = np.asarray(predict(points))
    if found.ndim == 2 and len(found) == len(points) and found.shape[1] > 1:
        found = found.argmax(axis=1)
    if found.shape != (len(points),) or found.dtype.kind not in "biu":
        raise ValueError(
            f"predict gave {found.dtype} of shape {found.shape} for points {points.shape}; "
            "it must give integer or boolean classes (M,), or scores (M, C) with C > 1"
        )
    classes = np.union1d(found.astype(int), y.astype(int))
    if names is not None and len(names) != len(classes):
        raise ValueError(f"{len(names)} names for the classes {classes.tolist()}")
    from matplotlib.colors import to_rgb

    ax = _axes(ax, (4.2, 4.2))
    region = np.searchsorted(classes, found.astype(int)).reshape(resolution, resolution)
    palette = np.array([(*to_rgb(_class(CLASS_COLOURS, i)), 0.22) for i in range(len(classes))])
    extent = (low[0], high[0], low[1], high[1])
    ax.imshow(palette[region], origin="lower", extent=extent, aspect="auto", zorder=0)
    for i in range(len(classes)):
        if 0 < np.mean(region == i) < 1:
            ax.contour(across, up, region == i, levels=[0.5], colors=[GREY], linewidths=0.8, zorder=1)
    for i, label in enumerate(classes):
        ax.scatter(
            x[y == label, 0],
            x[y == label, 1],
            s=18,
            color=_class(CLASS_COLOURS, i),
            marker=_class(CLASS_MARKERS, i),
            linewidths=0,
            label=None if names is None else names[i],
            zorder=2,
        )
    ax.set(xlim=extent[:2], ylim=extent[2:], xlabel="$x_1$", ylabel="$x_2$")
    if names is not None:
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def _class(palette: Sequence[str], i: int) -> str:
    return palette[i % len(palette)]


@checked
@_styled
def confusion_matrix(matrix: Given, names: Sequence[str] | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw counts of true class (row) against predicted class (column); empty cells stay empty.

    Args:
        matrix: ``(C, C)`` counts, as :func:`nnbook.losses.confusion_matrix` gives them.
        names: names of the classes; 0, 1, ... if not given.
        ax: axes to draw into.

    Raises:
        ValueError: not square, negative, or another number of names.
    """
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
        raise ValueError(f"a confusion matrix is (C, C), not {matrix.shape}")
    if matrix.min() < 0:
        raise ValueError("a confusion matrix holds counts; this one has a negative entry")
    count = len(matrix)
    names = [str(i) for i in range(count)] if names is None else list(names)
    if len(names) != count:
        raise ValueError(f"{len(names)} names for {count} classes")
    size = 0.42 * count + 0.9
    ax = _axes(ax, (size, size))
    right = np.eye(count, dtype=bool)
    for diagonal, (faint, full) in ((True, CELL_RIGHT), (False, CELL_WRONG)):
        highest = matrix[right == diagonal].max(initial=0)
        for row, column in zip(*np.nonzero((right == diagonal) & (matrix > 0)), strict=True):
            entry = matrix[row, column]
            colour = mix(faint, full, entry / highest)
            ax.fill_between([column - 0.5, column + 0.5], row - 0.5, row + 0.5, color=colour, linewidth=0)
            text = f"{entry:d}" if matrix.dtype.kind in "biu" else f"{entry:.2g}"
            ax.text(column, row, text, ha="center", va="center", color="white", fontsize=8.5)
    ax.set_xticks(range(count), names)
    ax.set_yticks(range(count), names)
    ax.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    ax.grid(True, which="minor")
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)
    ax.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5), aspect="equal", xlabel="predicted", ylabel="true")
    return ax


CELL_RIGHT = ("#4C6373", "#0060A0")
CELL_WRONG = ("#6A594C", "#9C4400")
"""Cells of a confusion matrix, smallest to largest count; white text has contrast 4.5 on them, brightened or not."""


@checked
def mix(start: str, end: str, share: float) -> tuple[float, float, float]:
    """The colour a part ``share`` of the way from ``start`` to ``end``, as red, green, blue in [0, 1]."""
    from matplotlib.colors import to_rgb

    first, last = np.array(to_rgb(start)), np.array(to_rgb(end))
    red, green, blue = (first + np.clip(share, 0, 1) * (last - first)).tolist()
    return red, green, blue


# ---------------------------------------------------------------------------------------------------------------------
# Arrays
# ---------------------------------------------------------------------------------------------------------------------


@checked
@_styled
def image_grid(
    images,
    labels: Sequence[Any] | None = None,
    *,
    columns: int = 10,
    signed: bool = False,
    wrong: Sequence[Any] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw images side by side, each with its label above it.

    Args:
        images: ``(N, H, W)``, or ``(N, H * W)`` if the images are square, or ``(N, 1, H, W)``. They are drawn from
            black (0, or the smallest value of all if one is below 0) to white (1, or the largest if above).
        labels: N labels.
        columns: images in a row.
        signed: for weights and the like: blue below zero, light grey at zero, vermillion above, one scale for all.
        wrong: N flags; labels with a true flag stand in vermillion.
        ax: axes to draw into.

    Raises:
        ValueError: images of other shapes, not square, none at all; another number of labels or flags.
    """
    images = np.asarray(images, float)
    given = images.shape
    if images.ndim == 4 and given[1] == 1:
        images = images[:, 0]
    if images.ndim == 2 and int(np.sqrt(given[1]) + 0.5) ** 2 == given[1]:
        images = images.reshape(len(images), int(np.sqrt(given[1]) + 0.5), -1)
    if images.ndim != 3 or images.size == 0:
        raise ValueError(f"images must be (N, H, W), (N, 1, H, W) or square (N, H * W), not {given}")
    for what, sequence in (("labels", labels), ("flags", wrong)):
        if sequence is not None and len(sequence) != len(images):
            raise ValueError(f"{len(sequence)} {what} for {len(images)} images")
    if columns < 1:
        raise ValueError(f"columns must be at least 1, not {columns}")
    count, height, width = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    gap = max(1, round(0.1 * width))
    head = gap if labels is None else round(0.38 * height) + gap  # room for the label, in pixels of the images
    mosaic = np.zeros((rows * (height + head), columns * (width + gap) - gap, 4))
    coloured = _signed(images) if signed else _grey(images)
    ax = _axes(ax, (0.64 * columns, 0.64 * rows * (height + head) / (width + gap)))
    for i in range(count):
        top, left = (i // columns) * (height + head) + head, (i % columns) * (width + gap)
        mosaic[top : top + height, left : left + width] = coloured[i]
        if labels is not None:
            colour = COLOURS["wrong"] if wrong is not None and wrong[i] else GREY
            place = (left + width / 2 - 0.5, top - 0.6)
            ax.text(*place, str(labels[i]), ha="center", va="bottom", fontsize=9, color=colour)
    ax.imshow(mosaic)
    ax.set_axis_off()
    return ax


def _grey(images):
    low, high = min(images.min(), 0.0), max(images.max(), 1.0)
    grey = (images - low) / (high - low)
    return np.stack([grey, grey, grey, np.ones_like(grey)], axis=-1)


def _signed(images):
    """Blue for negative, light grey for zero, vermillion for positive, in RGBA."""
    from matplotlib.colors import to_rgb

    share = images / (np.abs(images).max() or 1.0)
    ends = np.where(share[..., None] < 0, to_rgb(BLUE), to_rgb(VERMILLION))
    zero = 0.83  # the site's brightening makes this white; above it small values would be lost on the dark page
    colours = zero + np.abs(share)[..., None] * (ends - zero)
    return np.concatenate([colours, np.ones_like(colours[..., :1])], axis=-1)


@checked
@_styled
def layer_histograms(
    layers: Mapping[str, Any] | Sequence[Any],
    *,
    bins: int = 60,
    limits: tuple[float, float] | None = None,
    xlabel: str = "value",
    colour: str = "value",
    ax: Axes | None = None,
) -> Axes:
    """Draw how values are distributed in each layer, first layer on top, with mean and standard deviation.

    Args:
        layers: name -> array of any shape (activations, weights, gradients), or a sequence of arrays.
        bins: number of bins over the common range.
        limits: common range; by default that of all values. Values outside are counted in the outermost bins.
        xlabel: what the values are.
        colour: key of :data:`COLOURS`, "value" or "gradient" for example.
        ax: axes to draw into.

    Raises:
        ValueError: no layers, an empty layer, or values that are not finite.
    """
    if not isinstance(layers, (Mapping, Sequence)):
        raise ValueError(f"layer_histograms needs a dict or a list of arrays, not a {type(layers).__name__}")
    if not isinstance(layers, Mapping):
        layers = {str(i): layer for i, layer in enumerate(layers, start=1)}
    arrays = {name: numeric(f"layer {name!r}", layer).astype(float).ravel() for name, layer in layers.items()}
    if not arrays:
        raise ValueError("layer_histograms needs at least one layer")
    for name, array in arrays.items():
        if array.size == 0 or not np.isfinite(array).all():
            raise ValueError(f"layer {name!r} is empty or holds values that are not finite")
    if limits is None:
        low, high = min(map(np.min, arrays.values())), max(map(np.max, arrays.values()))
        limits = (low, high) if low < high else (low - 0.5, low + 0.5)
    if not limits[0] < limits[1]:
        raise ValueError(f"limits must ascend, not {limits}")
    if colour not in COLOURS:
        raise ValueError(f"unknown colour {colour!r}; known: {', '.join(COLOURS)}")
    edges = np.linspace(*limits, bins + 1)
    ax = _axes(ax, (6.4, 0.9 + 0.5 * len(arrays)))
    for row, array in enumerate(arrays.values()):
        counts, _ = np.histogram(np.clip(array, *limits), edges)
        base = len(arrays) - 1 - row
        heights = base + 0.85 * counts / counts.max()
        ax.stairs(heights, edges, baseline=base, fill=True, color=COLOURS[colour], alpha=0.75)
        ax.axhline(base, color=GREY, linewidth=0.6)
        ax.text(
            1.01,
            base + 0.32,
            f"mean {array.mean():.2g}\nsd {array.std():.2g}",
            transform=ax.get_yaxis_transform(),
            va="center",
            fontsize=8,
        )
    ax.set_yticks(np.arange(len(arrays)) + 0.35, list(arrays)[::-1])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set(xlim=limits, ylim=(0, len(arrays)), xlabel=xlabel)
    return ax


# ---------------------------------------------------------------------------------------------------------------------
# The recorded graph
# ---------------------------------------------------------------------------------------------------------------------

SYMBOLS = {
    "add": "+",
    "subtract": "−",
    "multiply": "×",
    "divide": "÷",
    "negative": "−x",
    "power": "^",
    "matmul": "@",
    "sqrt": "√",
    "sum": "Σ",
    "absolute": "|x|",
}
"""How :func:`graph` writes the elementary primitives."""


@checked
@_styled
def graph(steps: Sequence[Step], *, digits: int = 3, adjoints: bool = True, ax: Axes | None = None) -> Axes:
    """Draw what :func:`nnbook.backprop.record` returns: values above the nodes, adjoints below them.

    Time runs from left to right: an arrow leads from an argument to the operation that used it. The adjoints, the
    derivatives of the last value, were found from right to left. Arrays too long to be written show their shape.

    Args:
        steps: nodes in the order in which they ran; ``parents`` are positions in the list.
        digits: significant digits.
        adjoints: draw the adjoints as well.
        ax: axes to draw into.

    Raises:
        ValueError: no steps, or a parent that does not come before its child.
    """
    if not steps or not all(isinstance(step, Step) for step in steps):
        raise ValueError("graph needs at least one step, of those that nnbook.backprop.record returns")
    for i, step in enumerate(steps):
        if any(not 0 <= parent < i for parent in step.parents):
            raise ValueError(f"step {i} ({step.name}) has parents {step.parents}; they must come before it")
    places, routes = _layout([step.parents for step in steps])
    columns = 1 + max(column for column, _ in places)
    heights = [row for _, row in places] + [row for route in routes for _, row in route]
    ax = _axes(ax, (max(2.2, 0.98 * columns + 0.2), 0.55 + 0.95 * (max(heights) - min(heights) + 1)))

    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    titles = [SYMBOLS.get(step.name, step.name) if step.parents else step.name for step in steps]
    halves = [_half_width(title) for title in titles]
    edges = [(parent, i) for i, step in enumerate(steps) for parent in step.parents]
    for (start, end), route in zip(edges, routes, strict=True):
        points = [(places[start][0] + halves[start], places[start][1]), *route]
        points.append((places[end][0] - halves[end] - 0.02, places[end][1]))
        twins = [k for k, edge in enumerate(edges) if edge == (start, end)]
        bend = 0.0  # the same argument twice, as in x * x: two arrows that part in the middle
        if len(twins) > 1:
            bend = 0.28 * (2 * next(k for k, t in enumerate(twins) if routes[t] is route) / (len(twins) - 1) - 1)
        corners, codes = [points[0]], [Path.MOVETO]
        for (x0, y0), (x1, y1) in pairwise(points):
            reach = (x1 - x0) / 2
            corners += [(x0 + reach, y0 + bend), (x1 - reach, y1 + bend), (x1, y1)]
            codes += [Path.CURVE4] * 3
        arrow = FancyArrowPatch(
            path=Path(corners, codes),
            arrowstyle="-|>",
            mutation_scale=9,
            color=GREY,
            linewidth=1.0,
            shrinkA=0,
            shrinkB=0,
            zorder=1,
        )
        ax.add_patch(arrow)
    for (column, row), step, title, half in zip(places, steps, titles, halves, strict=True):
        _draw_node(ax, column, row, step, title, half, digits, adjoints)
    ax.set(xlim=(-0.6, columns - 0.4), ylim=(min(heights) - 0.6, max(heights) + 0.6), aspect="equal")
    ax.set_axis_off()
    return ax


def _half_width(title: str) -> float:
    return max(0.17, min(0.46, 0.052 * len(title) + 0.06))


def _draw_node(ax, column, row, step, title, half, digits, adjoints):
    from matplotlib.patches import FancyBboxPatch

    box = FancyBboxPatch(
        (column - half, row - 0.15),
        2 * half,
        0.3,
        boxstyle=f"round,pad=0,rounding_size={0.15 if step.parents else 0.03}",
        facecolor=(*mix(GREY, GREY, 0), 0.12),
        edgecolor=GREY,
        linewidth=1.0,
        zorder=2,
    )
    ax.add_patch(box)
    size = 10 if len(title) <= 6 else 8.5 if len(title) <= 8 else 7
    ax.text(column, row - 0.008, title, ha="center", va="center", fontsize=size, zorder=3)
    ax.text(
        column,
        row + 0.18,
        _number(step.value, digits),
        ha="center",
        va="bottom",
        fontsize=8.5,
        color=COLOURS["value"],
        zorder=3,
    )
    if adjoints and step.adjoint is not None:
        ax.text(
            column,
            row - 0.19,
            _number(step.adjoint, digits),
            ha="center",
            va="top",
            fontsize=8.5,
            color=COLOURS["gradient"],
            zorder=3,
        )


def _number(value, digits: int) -> str:
    """The value in short: a number, or a vector if it fits beside its neighbours, or else the shape."""
    array = np.asarray(value)
    for precision in range(digits, 0, -1) if array.ndim < 2 and array.size <= 4 else ():
        # Adding 0 turns -0.0 into 0.0.
        entries = [f"{entry + 0:.{precision}g}".replace("-", "−") for entry in array.ravel().tolist()]
        if array.ndim == 0:
            return entries[0]
        if len(" ".join(entries)) <= 13:
            return "[" + " ".join(entries) + "]"
    return str(array.shape)


Place = tuple[float, float]


def _layout(parents: Sequence[Sequence[int]]) -> tuple[list[Place], list[list[Place]]]:
    """Columns by depth, rows so that arrows cross little :cite:`sugiyama1981`.

    Returns the place of every node, and for every edge (child by child, in the order of its parents) the places that
    it passes through in the columns between.
    """
    count = len(parents)
    column = [0] * count
    for i in range(count):
        column[i] = max((column[p] + 1 for p in parents[i]), default=0)
    for i in range(count):  # an input stands just before its first use
        uses = [column[j] for j in range(count) if i in parents[j]]
        if not parents[i] and uses:
            column[i] = min(uses) - 1
    # Edges over several columns get a stopover in each, so that they are given room like nodes.
    layers: list[list[int]] = [[] for _ in range(max(column) + 1)]
    for i in range(count):
        layers[column[i]].append(i)
    neighbours: dict[int, list[int]] = {i: [] for i in range(count)}
    at = list(column)
    chains: list[list[int]] = []
    for i in range(count):
        for parent in parents[i]:
            chain = [parent]
            for between in range(column[parent] + 1, column[i]):
                stop = len(at)
                at.append(between)
                layers[between].append(stop)
                neighbours[stop] = []
                chain.append(stop)
            chain.append(i)
            for a, b in pairwise(chain):
                neighbours[a].append(b)
                neighbours[b].append(a)
            chains.append(chain[1:-1])
    row = _rows(layers, neighbours, at)
    return [(at[i], row[i]) for i in range(count)], [[(at[s], row[s]) for s in chain] for chain in chains]


def _rows(layers: list[list[int]], neighbours: dict[int, list[int]], at: list[int]) -> dict[int, float]:
    """Order each column by the mean row of its neighbours, to and fro; keep the order with fewest crossings."""
    best: tuple[int, list[list[int]]] = (_crossings(layers, neighbours, at), [list(layer) for layer in layers])
    for sweep in range(12):
        step = 1 if sweep % 2 == 0 else -1
        row = {i: k - (len(layer) - 1) / 2 for layer in layers for k, i in enumerate(layer)}
        for layer in layers[::step]:
            toward = {i: [row[j] for j in neighbours[i] if (at[i] - at[j]) * step > 0] for i in layer}
            layer.sort(key=lambda i: sum(toward[i]) / len(toward[i]) if toward[i] else row[i])
            row.update({i: k - (len(layer) - 1) / 2 for k, i in enumerate(layer)})
        crossings = _crossings(layers, neighbours, at)
        if crossings < best[0]:
            best = crossings, [list(layer) for layer in layers]
    layers = best[1]
    row = {i: -(k - (len(layer) - 1) / 2) for layer in layers for k, i in enumerate(layer)}
    for sweep in range(20, -1, -1):  # pull every node towards its neighbours on one side, the last time on the left
        step = 1 if sweep % 2 == 0 else -1
        for layer in layers[::step]:
            for i in layer:
                beside = [row[j] for j in neighbours[i] if (at[i] - at[j]) * step > 0]
                row[i] = sum(beside) / len(beside) if beside else row[i]
            overlap = [max(0.0, 1 - (row[a] - row[b])) for a, b in pairwise(layer)]
            pushed = np.cumsum([0.0, *overlap])
            for i, push in zip(layer, pushed, strict=True):
                row[i] -= push - pushed[-1] / 2
    for layer in layers:  # and end with the distance kept exactly
        for a, b in pairwise(layer):
            row[b] = min(row[b], row[a] - 1)
    return row


def _crossings(layers, neighbours, at) -> int:
    total = 0
    for layer, following in pairwise(layers):
        order = {i: k for k, i in enumerate(following)}
        ends = [[order[j] for j in neighbours[i] if at[j] > at[i]] for i in layer]
        for a in range(len(ends)):
            for b in range(a + 1, len(ends)):
                total += sum(first > second for first in ends[a] for second in ends[b])
    return total
