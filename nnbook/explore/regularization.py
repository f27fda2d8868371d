"""The widgets of chapter 5: what overfitting is made of, and what becomes of signals in a deep network."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from nnbook import neurons
from nnbook.backprop import vjp
from nnbook.explore.core import Choice, Integer, Linear, Log, experiment, explorable
from nnbook.explore.figures import dots, figure, line, panel, surface
from nnbook.plots import BLUE, GREEN, GREY, PURPLE, VERMILLION
from nnbook.regularization import batch_norm, he_normal, layer_norm, orthogonal, xavier_normal

# ---------------------------------------------------------------------------------------------------------------------
# Overfitting
# ---------------------------------------------------------------------------------------------------------------------

NOISE, WORLDS = 0.3, 6
"""Standard deviation of the noise; how many draws of it are shown."""

PLANE = np.linspace(-1, 1, 73)
SIZES = (1, 2, 3, 4, 5, 6, 7, 9, 11, 14, 19, 24, 30, 39, 50, 60)
TICKS = (1, 2, 4, 8, 16, 32, 60)
POWERS = {-3: "0.001", -2: "0.01", -1: "0.1", 0: "1", 1: "10", 2: "100", 3: "1000"}


def truth(x):
    return np.sin(4 * x)


def _legendre(x, size):
    """(N, size): Legendre polynomials of degree 1 to ``size``."""
    return np.polynomial.legendre.legvander(x, size)[:, 1:]


def _neurons(x, size):
    """(N, size): a hidden layer of tanh neurons whose weights were drawn once; each bends at a place of its own."""
    rng = np.random.default_rng(0)
    slope, place = 4 * rng.standard_normal(SIZES[-1]), rng.uniform(-1, 1, SIZES[-1])
    return np.tanh(slope * (x[:, None] - place))[:, :size]


MODELS = {"polynomial": _legendre, "layer of random neurons": _neurons}


@cache
def _world(model: str, count: int):
    """Places of the points, (count, WORLDS) noisy values at them, and all features there and on the plane."""
    rng = np.random.default_rng(5)
    x = -1 + 2 * (np.arange(count) + rng.uniform(0.1, 0.9, count)) / count
    y = truth(x)[:, None] + NOISE * rng.standard_normal((count, WORLDS))
    return x, y, MODELS[model](x, SIZES[-1]), MODELS[model](PLANE, SIZES[-1])


def smoother(model: str, count: int, size: int, lam: float, p: float):
    """The fit is linear in the values y that it is fitted to: H y at the points, (count, count), H' y on the plane.

    It minimizes mean (y - b - phi w)^2 + lam |w|^2, the mean also over all dropout masks on phi. That mean is known:
    dropout adds the penalty p / (1 - p) mean(phi_j^2) w_j^2. The bias b is not penalized, hence the centring.
    """
    _, _, phi, plane = _world(model, count)
    phi, plane = phi[:, :size], plane[:, :size]
    penalty = lam + p / (1 - p) * (phi**2).mean(axis=0)
    middle, centred = phi.mean(axis=0), np.eye(count) - 1 / count
    # Ridge with as many unknowns as points instead of as many as features.
    back = (phi - middle).T / penalty[:, None]
    w = back @ np.linalg.solve((phi - middle) @ back + count * np.eye(count), centred)
    return (phi - middle) @ w + 1 / count, (plane - middle) @ w + 1 / count


def errors(model: str, count: int, size: int, lam: float, p: float) -> tuple[float, float, float, float]:
    """Training error, test error, squared bias and variance: means over all noise, exact because the fit is linear."""
    x = _world(model, count)[0]
    inside, outside = smoother(model, count, size, lam, p)
    missed = ((inside @ truth(x) - truth(x)) ** 2).mean()
    training = missed + NOISE**2 * ((inside - np.eye(count)) ** 2).sum(axis=1).mean()
    bias2 = ((outside @ truth(x) - truth(PLANE)) ** 2).mean()
    variance = NOISE**2 * (outside**2).sum(axis=1).mean()
    return training, bias2 + variance + NOISE**2, bias2, variance


def number(value: float) -> str:
    """Three digits, or a bound."""
    return "less than 0.001" if value < 0.001 else "more than 1000" if value > 1000 else f"{value:.3g}"


def _logarithm(x, y, low: float, high: float, **look):
    """A curve on the second panel of the logarithms of ``y``, so it does not tell its numbers under the mouse."""
    return {**line(x, np.round(np.log10(np.clip(y, low, high)), 2), on=1, **look), "hoverinfo": "name"}


@explorable(
    "Overfitting",
    caption="Points that are a sine plus noise, and the curve of the chosen model that fits them best. Thin: the "
    "curves that other noise would have given; where they part, the fit follows the noise. The second panel shows the "
    "mean errors over all noise for every size, what is off the scale at its edge: the test error is the squared bias "
    "plus the variance plus that of the noise, 0.09. Size is the degree of the polynomial, or the number of neurons; "
    "of these only the weights to the output are learned.",
    experiments=(
        experiment(
            "Raise the size from 2 over 5 to 19, where a polynomial has as many coefficients as there are points.",
            "The training error falls all the way. The test error falls as long as the bias does; then the variance "
            "takes over, and at 19 the curves swing wildly towards the ends, each its own way.",
            size=19,
        ),
        experiment(
            "Stay at 19 and raise λ to 0.01. Then take λ back and set dropout to 0.1 instead.",
            "Either way the thin curves draw together, and the test error comes near that of the best degree. The "
            "price is a little bias and a higher training error.",
            size=19,
            lam=0.01,
        ),
        experiment(
            "With the smallest λ again, go on to size 60.",
            "Past 19 many curves go through every point, and of these the one with the smallest weights is taken. The "
            "test error comes down a second time, though not to that of degree 5.",
            size=60,
        ),
    ),
    model=Choice(*MODELS, label="Model"),
    points=Choice("10", "20", "40", default="20", label="Number of points"),
    size=Integer(1, 60, 7, stops=SIZES, label="Size"),
    lam=Log(
        1e-8,
        1,
        1e-8,
        stops=(1e-8, 1e-4, 1e-3, 1e-2, 0.1, 1),
        label="λ of the L2 penalty",
        help="The smallest is as good as none.",
    ),
    p=Linear(0, 0.8, 0, stops=(0, 0.1, 0.3, 0.5), label="Dropout p"),
)
def overfitting(model, points, size, lam, p):
    count = int(points)
    x, y, _, _ = _world(model, count)
    fits = np.round(np.clip(smoother(model, count, size, lam, p)[1] @ y, -2.5, 2.5), 2)
    sizes = np.array(sorted({*SIZES, size}))
    heights = np.array([errors(model, count, s, lam, p) for s in sizes]).T
    training, test, bias2, variance = heights[:, sizes == size][:, 0]
    places, here = np.log2(sizes), np.log2([size])
    marks = np.round(np.log10(np.clip([training, test], 1e-3, 1e3)), 2)
    looks = {
        "training": (BLUE, "solid"),
        "test": (GREEN, "solid"),
        "bias²": (GREY, "dash"),
        "variance": (PURPLE, "dot"),
    }
    data = [
        *(line(PLANE, fit, colour=VERMILLION, width=1, opacity=0.45) for fit in fits.T[1:]),
        line(PLANE, truth(PLANE), name="truth", colour=GREY, dash="dash"),
        line(PLANE, fits[:, 0], name="fit", colour=VERMILLION),
        dots(x, y[:, 0], name="points", colour=BLUE, size=7),
        *(
            _logarithm(places, height, 1e-3, 1e3, name=name, colour=colour, dash=dash)
            for height, (name, (colour, dash)) in zip(heights, looks.items(), strict=True)
        ),
        dots(here, marks[:1], colour=BLUE, size=10, on=1),
        dots(here, marks[1:], colour=GREEN, size=10, on=1),
    ]
    ticks = {float(np.log2(tick)): str(tick) for tick in TICKS}
    return figure(
        data,
        panel("Curve and points", x=(-1, 1), y=(-2.2, 2.2)),
        panel("Mean squared error", x=(-0.2, 6.1), y=(-3.2, 3.2), xlabel="size", ticks=ticks, yticks=POWERS),
        text=f"Training error {number(training)}, test error {number(test)}: squared bias {number(bias2)}, "
        f"variance {number(variance)}, noise 0.09.",
    )


# ---------------------------------------------------------------------------------------------------------------------
# Signals through a deep network
# ---------------------------------------------------------------------------------------------------------------------

WIDTH, EXAMPLES, DEEPEST = 64, 64, 30
SHAPE = (WIDTH, WIDTH)
INITS = {
    "too small: σ = 0.05": lambda rng: 0.05 * rng.standard_normal(SHAPE),
    "Xavier": lambda rng: xavier_normal(rng, SHAPE, dtype=np.float64),
    "He": lambda rng: he_normal(rng, SHAPE, dtype=np.float64),
    "orthogonal": lambda rng: orthogonal(rng, SHAPE, dtype=np.float64),
    "too large: σ = 0.3": lambda rng: 0.3 * rng.standard_normal(SHAPE),
}
NORMS: dict[str, Callable] = {"none": lambda x: x, "batch norm": batch_norm, "layer norm": layer_norm}
ACTIVATIONS: dict[str, Callable] = {
    "tanh": neurons.tanh,
    "relu": neurons.relu,
    "sigmoid": neurons.sigmoid,
    "linear": lambda x: x,
}
VALUES = np.linspace(-2.5, 2.5, 51)
FLOOR, CEILING = 1e-9, 1e4
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power(value: float) -> str:
    """Two digits, with a power of ten where one is due; what is smaller than is drawn is not told."""
    if value < FLOOR:
        return f"less than 10{'-9'.translate(SUPERSCRIPT)}"
    if 1e-3 <= value < 999.5:
        return f"{float(f'{value:.2g}'):g}"
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits}·10{str(int(exponent)).translate(SUPERSCRIPT)}"


@cache
def _weights(init: str):
    rng = np.random.default_rng(0)
    return [INITS[init](rng) for _ in range(DEEPEST)]


def signals(init: str, norm: str, activation: str, depth: int):
    """Activations of the input and of each layer, and the gradients of a random linear loss by them.

    Both are (depth + 1, EXAMPLES, WIDTH). Zeros are added to every layer; the gradient by them is that by the layer.
    """
    rng = np.random.default_rng(1)
    x, dy = rng.standard_normal((2, EXAMPLES, WIDTH))
    layers = []

    def network(nudges):
        h = x + nudges["0"]
        layers.append(h.value)
        for i, weight in enumerate(_weights(init)[:depth], 1):
            h = ACTIVATIONS[activation](NORMS[norm](neurons.linear(h, weight))) + nudges[str(i)]
            layers.append(h.value)
        return h

    _, pull = vjp(network, {str(i): np.zeros_like(x) for i in range(depth + 1)})
    (gradients,) = pull(dy)
    return np.array(layers), np.array([gradients[str(i)] for i in range(depth + 1)])


@explorable(
    "Signals on their way through a deep network",
    caption="64 examples go through layers of 64 neurons, each a linear map, the norm if there is one, and the "
    "activation; layer 0 is the input. The first panel has a histogram for every layer, the darker the more neurons "
    "and examples are there; what lies outside counts at the edge. The second panel: the size of the activations, "
    "their differences (from one example to another, for the same neuron), and the gradient of a loss by them on its "
    "way back from the last layer.",
    experiments=(
        experiment(
            "Take relu and 30 layers, and compare Xavier with He.",
            "Under Xavier every relu halves the mean square. After 30 layers 2⁻¹⁵ of the size is left, some 0.00003, "
            "and the gradients lose as much on their way back. He makes the weights √2 as large, and both keep theirs.",
            activation="relu",
            init="Xavier",
            depth=30,
        ),
        experiment(
            "Take tanh, 30 layers and the weights that are too large. Then switch batch norm on, and try the others.",
            "Without it the activations crowd at −1 and 1, and the gradients grow several hundredfold on their way "
            "back. With it the size of the weights no longer matters, and they grow about tenfold.",
            activation="tanh",
            init="too large: σ = 0.3",
            depth=30,
        ),
        experiment(
            "Take sigmoid, 30 layers and layer norm; then batch norm.",
            "Under layer norm the histograms look healthy, and yet nothing arrives: the neurons differ, but each says "
            "the same for every example. Batch norm compares the examples, and so keeps them apart.",
            activation="sigmoid",
            norm="layer norm",
            depth=30,
        ),
    ),
    init=Choice(*INITS, default="Xavier", label="Initialization"),
    norm=Choice(*NORMS, label="Norm before the activation"),
    activation=Choice(*ACTIVATIONS, label="Activation"),
    depth=Integer(2, DEEPEST, 20, stops=(2, 5, 10, 15, 20, 30), label="Layers"),
)
def depth_explorer(init, norm, activation, depth):
    layers, gradients = signals(init, norm, activation, depth)
    scale, push = (np.sqrt((a**2).mean(axis=(1, 2))) for a in (layers, gradients))
    apart = np.sqrt(layers.var(axis=1).mean(axis=1))
    bins = np.rint(10 * np.clip(layers, -2.5, 2.5)).astype(int) + 25
    share = np.zeros((len(VALUES), DEEPEST + 1))
    share[:, : depth + 1] = np.array([np.bincount(b.ravel(), minlength=len(VALUES)) for b in bins]).T / bins[0].size
    places = np.arange(depth + 1.0)
    curves = {
        "activations": (scale, BLUE, "solid"),
        "differences": (apart, GREEN, "dash"),
        "gradients": (push, VERMILLION, "solid"),
    }
    data = [
        surface(np.arange(DEEPEST + 1.0), VALUES, np.round(np.sqrt(np.minimum(share, 0.25)), 2), low=-0.5, high=0.5),
        *(
            _logarithm(places, height, FLOOR, CEILING, name=name, colour=colour, dash=dash)
            for name, (height, colour, dash) in curves.items()
        ),
    ]
    ticks = {k: f"10{str(k).translate(SUPERSCRIPT)}" for k in range(-8, 5, 2)}
    return figure(
        data,
        panel("Activations of each layer", x=(-0.5, DEEPEST + 0.5), y=(-2.6, 2.6), xlabel="layer"),
        panel("Root mean square", x=(-0.5, DEEPEST + 0.5), y=(-9.2, 4.2), xlabel="layer", yticks=ticks),
        text=f"In layer {depth} the activations have a root mean square of {power(scale[-1])} and differ between "
        f"examples by {power(apart[-1])}; the gradient by the input is {power(push[0] / push[-1])} times that by the "
        f"last layer. {_verdict(scale[-1], apart[-1], push[0] / push[-1])}",
    )


def _verdict(scale: float, apart: float, ratio: float) -> str:
    if apart < 1e-2 * scale and ratio < 1e-2:
        return "The examples can no longer be told apart, and the gradients vanish."
    size, push = (
        "vanish" if r < 1e-2 else "explode" if r > 1e2 else "stay within a factor of 100" for r in (scale, ratio)
    )
    return f"Activations and gradients {size}." if size == push else f"The activations {size}, the gradients {push}."
