"""The widgets of chapter 6: a convolution one position at a time, and a network that reads a drawn digit."""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

import numpy as np

from nnbook.backprop import tree_map
from nnbook.cnn import conv2d, conv_output_size, max_pool2d, receptive_field
from nnbook.explore.core import Choice, Drawing, Integer, experiment, explorable
from nnbook.explore.figures import INK, bars, dots, figure, frame, line, panel, pixels, words
from nnbook.neurons import linear, relu, softmax
from nnbook.plots import BLUE, GREY, PURPLE
from nnbook.regularization import warp
from nnbook.training import load

MINUS = "\N{MINUS SIGN}"


def outline(left, top, wide: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """The corners of a rectangle, the first one again at the end."""
    return left + wide * np.array([0.0, 1, 1, 0, 0]), top + high * np.array([0.0, 0, 1, 1, 0])


def grid(across: int, down: int) -> tuple[np.ndarray, np.ndarray]:
    """One line along all edges of the unit squares of a grid, to and fro, then up and down."""
    x = np.resize([0.0, across, across, 0.0], 2 * (down + 1)), np.repeat(np.arange(across + 1.0), 2)
    y = np.repeat(np.arange(down + 1.0), 2), np.resize([down, 0.0, 0.0, down], 2 * (across + 1))
    return np.concatenate(x), np.concatenate(y)


# ---------------------------------------------------------------------------------------------------------------------
# A convolution, one position at a time
# ---------------------------------------------------------------------------------------------------------------------

N, K = 7, 3
"""Sides of the input and of the kernel."""

FOUR = np.array(
    [
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.7, 0.0, 0.0, 0.1, 0.4, 0.0],
        [0.0, 0.8, 0.0, 0.0, 0.3, 0.5, 0.0],
        [0.0, 0.9, 0.6, 0.7, 0.9, 0.4, 0.0],
        [0.0, 0.1, 0.1, 0.1, 0.8, 0.2, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.9, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.9, 0.1, 0.0],
    ]
)
"""A training image of the embedded digits, number 1130: means of 3 × 3 pixels, without its margin."""

IMAGES = {
    "an edge": np.where(np.arange(N) < 3, 0.2, 0.8) * np.ones((N, 1)),
    "a digit": FOUR,
    "a checkerboard": (np.add.outer(np.arange(N), np.arange(N)) % 2 == 0).astype(float),
    "one bright pixel": np.eye(N)[3] * np.eye(N)[3][:, None],
}

KERNELS = {
    "identity": np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]]),
    "blur": np.ones((K, K), int),
    "vertical edge": np.array([[-1, 0, 1]] * K),
    "horizontal edge": np.array([[-1, 0, 1]] * K).T,
    "sharpen": np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]]),
    "Laplacian": np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]]),
}
"""Whole numbers, to be divided by 9 in the case of the blur."""

WEIGHTS_AT = np.indices((K, K)).reshape(2, -1)[::-1] + np.array([[10.0], [1.0]])

BELOW = 10.0
"""Just outside the panels: here stands what is hidden for a while."""


def signed(value: float, digits: int = 1) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", MINUS)


def spelled(values: np.ndarray, weights: np.ndarray, ninths: bool, result: float) -> str:
    """A sum of products with its numbers: "0.2 × (−1) + 0.8 × 1 = 0.6"."""
    if ninths:
        return f"({' + '.join(f'{v:.1f}' for v in values)}) / 9 = {signed(result, 2)}"
    factors = [f"({MINUS}{-w})" if w < 0 else str(w) for w in weights]
    terms = [f"{v:.1f} × {f}" for v, w, f in zip(values, weights, factors, strict=True) if w]
    return f"{' + '.join(terms)} = {signed(result)}"


@explorable(
    "A convolution, one position at a time",
    caption="First the input; the dashed frame is its padding of zeros. The window (purple) shows the numbers that the "
    "kernel beside it multiplies, each with the weight at the same place: the kernel is not flipped, as in conv2d. "
    "Then the output, filled position by position, row by row. Orange is positive, blue is negative. Time moves the "
    "window.",
    experiments=(
        experiment(
            "Take the edge and the kernel “vertical edge”, and let the window go from the first position to the last.",
            "Where the window lies in an even area the sum is 0; across the edge it is 1.8. Now take padding 1: at the "
            "border of the picture the kernel finds edges to the zeros outside that nobody drew.",
            frame=0,
            image="an edge",
            kernel="vertical edge",
        ),
        experiment(
            "Take one bright pixel and again “vertical edge”.",
            "The output shows the kernel, but turned by half a turn: the window that comes first meets the pixel with "
            "its last weight. A convolution in the sense of mathematics flips the kernel to undo this; conv2d does "
            "not.",
            image="one bright pixel",
            kernel="vertical edge",
        ),
        experiment(
            "Blur the digit with stride 2 and padding 1, then also take dilation 2.",
            "Every other position is left out, and 4 × 4 numbers remain. With dilation 2 the same nine weights reach "
            "over 5 × 5 pixels, so only 3 × 3 windows fit. They all look at the same rows and columns, every other "
            "one: stride and dilation share the divisor 2, and the pixels in between are never seen.",
            image="a digit",
            kernel="blur",
            stride=2,
            padding=1,
        ),
    ),
    image=Choice(*IMAGES, default="a digit", label="Input"),
    kernel=Choice(*KERNELS, default="vertical edge", label="Kernel"),
    stride=Integer(1, 3, 1, label="Stride"),
    padding=Integer(0, 2, 0, label="Padding"),
    dilation=Integer(1, 2, 1, label="Dilation"),
)
def convolution_stepper(image, kernel, stride, padding, dilation):
    """The window at every position of the output, with its sum in numbers."""
    x, weights, ninths = IMAGES[image], KERNELS[kernel], kernel == "blur"
    w = weights / 9 if ninths else weights.astype(float)
    y = conv2d(x[None, None], w[None, None], stride=stride, padding=padding, dilation=dilation)[0, 0].round(9)
    n, span = conv_output_size(N, K, stride=stride, padding=padding, dilation=dilation), dilation * (K - 1) + 1
    padded, side = np.pad(x, padding), N + 2 * padding
    scale = {"identity": 1.0, "blur": 1.0}.get(kernel, 3.0)
    row, column = (index.ravel() for index in np.indices((side, side)))
    out_row, out_column = (index.ravel() for index in np.indices((n, n)))
    taps = dilation * np.indices((K, K)).reshape(2, -1).T
    squares = np.concatenate([np.pad(outline(b, a, 1, 1), ((0, 0), (1, 1))) for a, b in taps], axis=1)
    size = (
        f"Output size: ⌊({N} + 2·{padding} {MINUS} {dilation}·({K} {MINUS} 1) {MINUS} 1) / {stride}⌋ + 1 = {n}, "
        f"so {n} × {n}."
    )
    omitted = " (weights of 0 left out)" if (weights == 0).any() else ""

    moments = []
    for k, (i, j) in enumerate(zip(out_row, out_column, strict=True)):
        top, left = stride * i, stride * j  # in the padded input
        covered = np.zeros((side, side), bool)
        covered[top : top + span : dilation, left : left + span : dilation] = True
        done = np.arange(n * n) <= k
        result = signed(y[i, j], 2 if ninths else 1)
        update = {
            "window": {"x": squares[0] + left - padding, "y": squares[1] + top - padding},
            "frame": dict(zip("xy", outline(left - padding, top - padding, span, span), strict=True)),
            "numbers": {"y": np.where(covered.ravel(), row - padding + 0.5, BELOW)},
            "result": {"text": [f"sum {result}"]},
            "output": {"z": np.where(done.reshape(n, n), y, 0.0)},
            "here": dict(zip("xy", outline(j, i, 1, 1), strict=True)),
            "filled": {"y": np.where(done, out_row + 0.5, BELOW)},
        }
        told = spelled(padded[covered], weights.ravel(), ninths, y[i, j])
        told = f"Row {i + 1}, column {j + 1}: {told}{omitted}. {size}"
        moments.append((f"{k + 1} of {n * n}", update, told))

    traces = {
        "input": pixels(x, strength=0.5),
        "grid": line(*grid(N, N), colour=GREY, width=0.5, opacity=0.4),
        "padding": line(*outline(-padding, -padding, side, side), colour=GREY, dash="dash", width=1.5),
        "edge": line(*outline(0, 0, N, N), colour=GREY, width=1.5),
        "window": line(*squares, colour=PURPLE, width=0, opacity=0.15) | {"fill": "toself", "fillcolor": PURPLE},
        "frame": line(*outline(0, 0, span, span), colour=PURPLE, width=3),
        "numbers": words(column - padding + 0.5, row + 0.5, [f"{v:.1f}" for v in padded.ravel()], size=10),
        "kernel": pixels(w, low=-scale, high=scale, at=(9.5, 0.5), strength=0.6),
        "kernel's edge": line(*outline(9.5, 0.5, K, K), colour=PURPLE, width=2),
        "weights": words(
            WEIGHTS_AT[0], WEIGHTS_AT[1], [f"{v}/9" if ninths else signed(v, 0) for v in weights.ravel()], size=10
        ),
        "name": words([11.0], [-0.1], ["kernel"], size=11),
        "result": words([11.0], [4.3], [""], size=12),
        "output": pixels(y, low=-scale, high=scale, strength=0.6, on=1),
        "output's grid": line(*grid(n, n), colour=GREY, width=0.5, opacity=0.4, on=1),
        "output's edge": line(*outline(0, 0, n, n), colour=GREY, width=1.5, on=1),
        "here": line(*outline(0, 0, 1, 1), colour=PURPLE, width=3, on=1),
        "filled": words(
            out_column + 0.5, out_row + 0.5, [signed(v, 2 if ninths else 1) for v in y.ravel()], size=10, on=1
        ),
    }
    return figure(
        list(traces.values()),
        panel("Input and window", x=(-2.2, 12.7), y=(9.2, -2.2), bare=True, equal=True),
        panel("Output", x=(-0.2, 9.2), y=(9.2, -0.2), bare=True, equal=True),
        text=moments[-1][2],
        frames=[frame(name, [update.get(key, {}) for key in traces], told) for name, update, told in moments],
    )


# ---------------------------------------------------------------------------------------------------------------------
# A network reads a drawn digit
# ---------------------------------------------------------------------------------------------------------------------

SIDE = 28

STORED = (*"0123456789", "a round 5", "a square 7", "an open 9", "the letter A", "nothing")
"""Names of the stored pictures, in the order in which they are offered."""

LAYERS = {
    "first convolution": {"kernel_size": 5, "padding": 2},
    "first pooling": {"kernel_size": 2, "stride": 2},
    "second convolution": {"kernel_size": 5},
    "second pooling": {"kernel_size": 2, "stride": 2},
}

FULL = (2.5, 2.5, 6.0, 6.0)
"""What has the full colour in the maps of each layer."""

EMPTY = 0.03
"""What a map has where it answers nothing; between the maps is 0."""

WARM = ([0.2, "rgba(213,94,0,0.35)"], [1.0, "rgba(213,94,0,1)"])
"""The colours of a map above its grey; a small answer is orange already."""

PLACES = 5
"""Places along each side of a map among which a unit is chosen; the last layer has no more units than that."""


def _embedded(name: str):
    return resources.files("nnbook") / "_data" / name


@functools.cache
def reader() -> dict[str, Any]:
    """LeNet-5 as ``python tools/train_digit_reader.py`` trained it, in float32."""
    with resources.as_file(_embedded("digit_reader.safetensors")) as path:
        return tree_map(lambda a: a.astype(np.float32), load(path))


@functools.cache
def stored(name: str) -> np.ndarray:
    """A stored picture, (28, 28) from 0 to 1."""
    with resources.as_file(_embedded("stored_digits.npz")) as path, np.load(path) as pictures:
        return pictures[name] / 255


def centred(picture: np.ndarray) -> np.ndarray:
    """A drawing as MNIST has its digits: 20 pixels long, its centre of mass in the middle.

    A drawing of 16 to 22 pixels is only moved, and by whole pixels, so a picture of MNIST stays as it is.
    """
    down, across = np.nonzero(picture > 0.2)
    if not len(down):
        return picture
    longest = 1 + max(np.ptp(down), np.ptp(across))
    zoom = 1.0 if 16 <= longest <= 22 else min(20 / longest, 2.0)
    i, j = np.indices(picture.shape)
    middle = np.array([(i * picture).sum(), (j * picture).sum()]) / picture.sum()
    middle = MIDDLE + (np.round(middle - MIDDLE) if zoom == 1 else middle - MIDDLE)
    return warp(picture[None], middle[0] + (i - MIDDLE) / zoom, middle[1] + (j - MIDDLE) / zoom)[0]


MIDDLE = 14.0
"""Row and column at which the digits of MNIST have their centre of mass."""


def look(picture: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """The maps (C, H, W) after each of the four layers, and the ten probabilities."""
    params, maps = reader(), []
    h = picture.astype(np.float32)[None, None]
    for name, padding in (("conv1", 2), ("conv2", 0)):
        maps.append(h := relu(conv2d(h, **params[name], padding=padding)))
        maps.append(h := max_pool2d(h, kernel_size=2))
    h = h.reshape(1, -1)
    h = relu(linear(relu(linear(h, **params["fc1"])), **params["fc2"]))
    return [m[0].astype(float) for m in maps], softmax(linear(h, **params["fc3"]))[0].astype(float)


TOPS = (0.3, 1.65, 3.0, 4.9)
"""Upper edges of the maps of each layer, in widths of a map of the first one."""


def _sheet(layer: int) -> tuple[int, int, float]:
    """How the maps of a layer lie: so many in a row, squares between two of them, and the side of a square."""
    return (6, 2, 1 / 28) if layer < 2 else (8, 1, (6 + 10 / 28) / (8 * 20 + 7))


def sheet(maps: np.ndarray, layer: int) -> dict[str, Any]:
    """The maps of a layer as one picture; a map is 28 squares wide in the first two layers and 20 in the others."""
    columns, gap, size = _sheet(layer)
    times = (28 if layer < 2 else 20) // maps.shape[1]
    shades = EMPTY + (1 - EMPTY) * np.clip(maps / FULL[layer], 0, 1)
    squares = np.pad(shades.repeat(times, axis=1).repeat(times, axis=2), ((0, 0), (0, gap), (0, gap)))
    rows = squares.reshape(-1, columns, *squares.shape[1:]).transpose(0, 2, 1, 3)
    whole = rows.reshape(-1, columns * squares.shape[2])[:-gap, :-gap]
    scale = [[0.0, INK.format(0)], [EMPTY / 2, INK.format(0)], [EMPTY / 2, INK.format(0.12)], *WARM]
    return pixels(whole.round(2), low=0, high=1, at=(0, TOPS[layer]), size=size, on=1) | {"colorscale": scale}


def spot(layer: int, side: int, channel: int, row: float, column: float) -> tuple[float, float]:
    """Where row and column of a map (its corner is 0, 0) are drawn."""
    columns, gap, square = _sheet(layer)
    wide = 28 if layer < 2 else 20
    down, across = divmod(channel, columns)
    x, y = across * (wide + gap) + column / side * wide, down * (wide + gap) + row / side * wide
    return x * square, TOPS[layer] + y * square


def chance(p: float) -> str:
    return "more than 0.999" if p > 0.9995 else "less than 0.001" if p < 0.0005 else f"{p:.3f}"


@explorable(
    "A network reads your digit",
    caption="First the picture as the network gets it: moved so that its centre of mass is in the middle, and brought "
    "to the usual size if it is much larger or smaller, because the digits that it learned from were prepared so. The "
    "purple frame is what one unit can see of it. Then the maps of the four layers, with the map of that unit framed: "
    "the stronger the orange, the stronger the answer; pooling keeps the largest of every 2 × 2 numbers, and the blue "
    "dot is the one that it kept. Then the probabilities of the ten digits.",
    experiments=(
        experiment(
            "Keep the picture and go through the four layers.",
            "The frame grows from 5 to 6, 14 and 16 pixels: a unit of the last maps sees a third of the picture, "
            "though no kernel is larger than 5 × 5.",
            layer="second pooling",
        ),
        experiment(
            "Choose “a round 5”, then “an open 9”.",
            "The 5 is read as a 6, with a probability above 0.99: sure is not the same as right. The 9 divides the "
            "network: 8 and 9 get nearly one half each.",
            drawing="a round 5",
        ),
        experiment(
            "Choose the letter A.",
            "It is no digit, and yet the 4 gets more than 0.99. The ten probabilities add up to 1, and none of the "
            "answers is “I do not know”.",
            drawing="the letter A",
        ),
    ),
    drawing=Drawing({name: functools.partial(stored, name) for name in STORED}, default="4", label="Picture"),
    layer=Choice(*LAYERS, default="second convolution", label="Layer of the unit"),
    row=Integer(1, PLACES, 3, label="Unit, from the top"),
    column=Integer(1, PLACES, 3, label="Unit, from the left"),
)
def draw_a_digit(drawing, layer, row, column):
    """What LeNet-5 makes of a picture, layer by layer."""
    picture = centred(drawing)
    maps, chances = look(picture)
    chosen = list(LAYERS).index(layer)
    side = maps[chosen].shape[1]
    i, j = ((2 * place - 1) * side // (2 * PLACES) for place in (row, column))
    channel = int(maps[chosen][:, i, j].argmax())
    value = maps[chosen][channel, i, j]
    field = receptive_field(list(LAYERS.values()))[chosen]
    top, left = (field.start + field.jump * place for place in (i, j))
    at = spot(chosen, side, channel, i + 0.5, j + 0.5)
    kept = at
    if "pooling" in layer:
        before = maps[chosen - 1][channel, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        down, across = divmod(int(before.argmax()), 2)
        kept = spot(chosen - 1, 2 * side, channel, 2 * i + down + 0.5, 2 * j + across + 0.5)
    wide = spot(chosen, side, 0, 0, side)[0]
    names = [f"{name}, {len(m)} maps of {m.shape[1]} × {m.shape[1]}" for name, m in zip(LAYERS, maps, strict=True)]
    data = [
        pixels(picture, low=0, high=1, strength=1.0, grey=True),
        line(*outline(0, 0, SIDE, SIDE), colour=GREY, width=1),
        line(*outline(left, top, field.size, field.size), colour=PURPLE, width=3),
        *(sheet(m, k) for k, m in enumerate(maps)),
        words([0] * 4, [top - 0.15 for top in TOPS], names, size=10, place="middle right", on=1),
        line(*outline(*spot(chosen, side, channel, 0, 0), wide, wide), colour=PURPLE, width=2, on=1),
        dots([kept[0]], [kept[1]], colour=BLUE, size=7, edge=1, on=1),
        dots([at[0]], [at[1]], colour=PURPLE, size=7, edge=1, on=1),
        bars(np.arange(10), chances, on=2),
    ]
    first, second = chances.argsort()[::-1][:2]
    answers = f"map {channel + 1} answers most strongly, with {value:.2f}" if value > 0 else "no map answers"
    text = (
        f"The network reads {'an' if first == 8 else 'a'} {first}, with probability {chance(chances[first])}; next "
        f"comes {second} with {chance(chances[second])}. In row {i + 1} and column {j + 1} of the {layer} {answers}. "
        f"A unit there sees {field.size} × {field.size} pixels of the picture."
    )
    return figure(
        data,
        panel("Picture", x=(-2.5, 30.5), y=(30.5, -2.5), bare=True, equal=True, share=1.05),
        panel("What the layers answer", x=(-0.05, 6.42), y=(6.55, -0.05), bare=True, equal=True, share=1.45),
        panel("Probability", x=(-0.6, 9.6), y=(0, 1), ticks={d: str(d) for d in range(10)}, xlabel="digit", share=0.9),
        text=text,
    )
