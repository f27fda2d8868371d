"""The widgets of chapter 3: a graph walked forwards and backwards, and a network that learns while you watch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from nnbook import data, neurons
from nnbook.backprop import add, exp, multiply, subtract, value_and_grad, vjp
from nnbook.explore.core import Choice, DataSet, Linear, Log, experiment, explorable
from nnbook.explore.figures import (
    bars,
    dots,
    figure,
    frame,
    line,
    panel,
    surface,
    words,
)
from nnbook.losses import binary_cross_entropy_with_logits
from nnbook.optimizers import adam, adam_init
from nnbook.plots import BLUE, GREEN, GREY, VERMILLION

# ---------------------------------------------------------------------------------------------------------------------
# A graph, step by step
# ---------------------------------------------------------------------------------------------------------------------

# Node by node: name, what makes it (an input if nothing), from which nodes, and where it is drawn.
Graph = tuple[tuple[str, Any, tuple[int, ...], tuple[float, float]], ...]
GRAPHS: dict[str, Graph] = {
    "a neuron and its squared error": (
        ("w", None, (), (0, 3)),
        ("x", None, (), (0, 2)),
        ("b", None, (), (0, 1)),
        ("y", None, (), (0, 0)),
        ("p", multiply, (0, 1), (1, 2.5)),
        ("z", add, (4, 2), (2, 2)),
        ("a", neurons.tanh, (5,), (3, 2.5)),
        ("e", subtract, (6, 3), (4, 1.5)),
        ("L", multiply, (7, 7), (5, 2)),
    ),
    "a value used three times": (
        ("w", None, (), (0, 2)),
        ("x", None, (), (0, 1)),
        ("u", multiply, (0, 1), (1, 1.5)),
        ("t", neurons.tanh, (2,), (2, 2.5)),
        ("m", multiply, (3, 2), (3, 2)),
        ("L", subtract, (4, 2), (4, 1)),
    ),
    "a chain without a fork": (
        ("w", None, (), (0, 2)),
        ("x", None, (), (0, 1)),
        ("b", None, (), (0, 0)),
        ("p", multiply, (0, 1), (1, 1.5)),
        ("a", neurons.tanh, (3,), (2, 2)),
        ("d", subtract, (4, 2), (3, 1.3)),
        ("L", exp, (5,), (4, 1.8)),
    ),
}
SIGNS = {multiply: "×", add: "+", subtract: "\N{MINUS SIGN}", neurons.tanh: "tanh", exp: "exp"}
FIXED = {"b": 0.5, "y": 1.0}
BUGS = (
    "none",
    "= in place of +=",
    "sign lost in the difference",
    "derivative of tanh left out",
    "factors of × confused",
)


def _forward(graph: Graph, inputs: dict[str, float]) -> list[float]:
    values: list[float] = []
    for name, op, parents, _ in graph:
        values.append(inputs[name] if op is None else float(op(*(np.array(values[p]) for p in parents))))
    return values


def _local(op, values: list[float], dy: float, bug: str) -> list[float]:
    """The cotangents that one node sends to its parents, by the book's VJP or with a bug in it."""
    if bug == "derivative of tanh left out" and op is neurons.tanh:
        return [dy]
    if bug == "factors of × confused" and op is multiply:
        return [dy * value for value in values]
    sent = [float(dx) for dx in vjp(op, *map(np.array, values))[1](np.array(dy))]
    if bug == "sign lost in the difference" and op is subtract:
        return [sent[0], -sent[1]]
    return sent


def number(value: float) -> str:
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}").replace("e\N{MINUS SIGN}0", "e\N{MINUS SIGN}")


@explorable(
    "A graph, forwards and backwards",
    caption="Blue, above a node: its value, computed on the way forwards. Orange, below: its adjoint, the derivative "
    "of L by it, computed on the way back. The bars are the adjoints of the inputs; the diamonds are what finite "
    "differences say, which know nothing of the rules.",
    experiments=(
        experiment(
            "Go through it from the first moment, step by step, with “a value used three times”.",
            "The adjoint of u is complete only when all three of its uses have sent their part. The parts add up.",
            graph="a value used three times",
        ),
        experiment(
            "Now plant “= in place of +=”.",
            "Only the part that came last survives at u, and the check by differences finds it at both inputs.",
            graph="a value used three times",
            bug="= in place of +=",
        ),
        experiment(
            "Keep the bug and take the chain without a fork.",
            "The check passes: where nothing is used twice, that bug cannot show. Test with a graph that has a fork.",
            graph="a chain without a fork",
            bug="= in place of +=",
        ),
    ),
    graph=Choice(*GRAPHS, label="Graph"),
    bug=Choice(*BUGS, label="Planted bug"),
    w=Linear(-2, 2, 1, label="w"),
    x=Linear(-2, 2, 0.5, label="x"),
)
def graph_step_by_step(graph, bug, w, x):
    nodes = GRAPHS[graph]
    inputs = {name: {"w": w, "x": x, **FIXED}[name] for name, op, _, _ in nodes if op is None}
    values = _forward(nodes, inputs)
    last, count = len(nodes) - 1, len(inputs)
    names = [name for name, *_ in nodes]
    places = np.array([place for *_, place in nodes])
    tiny = 1e-6
    true = [
        (_forward(nodes, {**inputs, k: v + tiny})[last] - _forward(nodes, {**inputs, k: v - tiny})[last]) / (2 * tiny)
        for k, v in inputs.items()
    ]

    # Moments: which node is at work, which values and adjoints are known, and what is told.
    told: list[tuple[str, int, int, dict[int, float], str]] = [
        ("inputs", 0, count, {}, "The inputs have their values; nothing is computed yet.")
    ]
    for i in range(count, last + 1):
        _, op, parents, _ = nodes[i]
        made = (
            f" {SIGNS[op]} ".join(names[p] for p in parents)
            if len(parents) > 1
            else f"{SIGNS[op]}({names[parents[0]]})"
        )
        told.append((f"forward {names[i]}", i, i + 1, {}, f"Forwards: {names[i]} = {made} = {number(values[i])}."))
    adjoints = {last: 1.0}
    told.append(("backward: start", last, last + 1, dict(adjoints), "Backwards: the adjoint of L is 1, for dL/dL = 1."))
    for i in range(last, count - 1, -1):
        _, op, parents, _ = nodes[i]
        parts = []
        for p, sent in zip(parents, _local(op, [values[p] for p in parents], adjoints.get(i, 0.0), bug), strict=True):
            parts.append(f"{number(sent)} to {names[p]}")
            adjoints[p] = sent if bug == "= in place of +=" else adjoints.get(p, 0.0) + sent
        text = f"Backwards through {names[i]} ({SIGNS[op]}): it sends {' and '.join(parts)}."
        told.append((f"backward {names[i]}", i, last + 1, dict(adjoints), text))
    wrong = [k for k in range(count) if abs(adjoints[k] - true[k]) > 1e-5 * max(1.0, abs(true[k]))]
    if wrong:
        found = "; ".join(f"dL/d{names[k]} is {number(adjoints[k])}, differences say {number(true[k])}" for k in wrong)
        verdict = f"The check finds a fault: {found}."
    else:
        verdict = "The check passes: every adjoint of an input is what finite differences say." + (
            "" if bug == "none" else " The bug does not show here."
        )
    told.append(("check", last, last + 1, dict(adjoints), verdict))

    edges = [
        line(*_short(places[p], places[i], bend), colour=GREY, width=1.5)
        for i, (*_, parents, _) in enumerate(nodes)
        for bend, p in zip(((0.12, -0.12) if len(set(parents)) < len(parents) else (0, 0)), parents, strict=False)
    ]
    labels = [name if op is None else SIGNS[op] for name, op, *_ in nodes]
    ticks = np.arange(count, dtype=float)
    top = 1.15 * max(1.0, *(abs(v) for v in true), *(abs(adjoints[k]) for k in range(count)))
    moments = []
    for name, at, known, back, text in told:
        above = [_told(node, values[i] if i < known else None) for i, node in enumerate(nodes)]
        below = [number(back[i]) if i in back else "" for i in range(last + 1)]
        heights = np.array([back.get(k, 0.0) for k in range(count)])
        update: list[dict] = [{} for _ in edges]
        update += [{}, {"x": places[at : at + 1, 0], "y": places[at : at + 1, 1]}, {}]
        update += [
            {"text": above},
            {"text": below},
            {"y": heights},
            {"y": np.array(true) if back else np.full(count, 9e3)},
        ]
        moments.append(frame(name, update, text))
    drawn = [
        *edges,
        dots(*places.T, colour=GREY, opacity=0.3, size=28),
        dots(*places[:1].T, colour=GREEN, opacity=0.55, size=34),
        words(places[:, 0], places[:, 1], labels, size=12),
        words(places[:, 0], places[:, 1] + 0.36, [""] * len(nodes), colour=BLUE, size=12),
        words(places[:, 0], places[:, 1] - 0.37, [""] * len(nodes), colour=VERMILLION, size=12),
        bars(ticks, np.zeros(count), name="adjoint", colour=VERMILLION, width=0.5, on=1),
        dots(ticks, np.array(true), name="differences", colour=BLUE, size=10, symbol="diamond", on=1),
    ]
    rows = places[:, 1].max()
    return figure(
        drawn,
        panel("Graph", x=(-0.5, places[:, 0].max() + 0.5), y=(-0.6, rows + 0.6), bare=True, share=1.9),
        panel("Derivative of L by", x=(-0.6, count - 0.4), y=(-top, top), ticks=dict(enumerate(inputs))),
        text=verdict,
        frames=moments,
    )


def _told(node, value: float | None) -> str:
    """What stands above a node: its value, after its name if that is not written inside."""
    shown = "" if value is None else number(value)
    return shown if node[1] is None else f"{node[0]} = {shown}" if shown else node[0]


def _short(a, b, bend: float) -> tuple[np.ndarray, np.ndarray]:
    """A line from ``a`` to ``b`` that leaves room for the nodes, bent to one side."""
    gap = 0.36 / np.hypot(*(b - a))
    share = np.linspace(gap, 1 - gap, 9)[:, None]
    normal = np.array([a[1] - b[1], b[0] - a[0]])
    path = a + share * (b - a) + bend * 4 * share * (1 - share) * normal
    return path[:, 0], path[:, 1]


# ---------------------------------------------------------------------------------------------------------------------
# The network playground
# ---------------------------------------------------------------------------------------------------------------------

TRAIN, TEST = 160, 80
EPOCHS = (*range(10), *range(10, 30, 2), *range(30, 60, 5), *range(60, 120, 10), *range(120, 401, 20))
"""When a picture is taken: often at first, when much happens."""

PIXELS = 27
PLANE = np.linspace(-1.5, 1.5, PIXELS)
LAYERS = {"none": (), "3": (3,), "8": (8,), "8 and 8": (8, 8)}
ACTIVATIONS = {"tanh": neurons.tanh, "relu": neurons.relu, "sigmoid": neurons.sigmoid}


def _centred(points, classes):
    """Into the square from -1.5 to 1.5, as float64: the same numbers on every machine to within what is drawn."""
    points = np.asarray(points, float)
    low, high = points.min(axis=0), points.max(axis=0)
    return 1.15 * (2 * (points - low) / (high - low) - 1), classes


SETS: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
    "moons": lambda: _centred(*data.moons(TRAIN + TEST, rng=np.random.default_rng(1), noise=0.15)),
    "circles": lambda: _centred(*data.circles(TRAIN + TEST, rng=np.random.default_rng(2), noise=0.1)),
    "corners": lambda: _centred(*data.xor(TRAIN + TEST, rng=np.random.default_rng(3), noise=0.17)),
    "spirals": lambda: _centred(*data.spirals(TRAIN + TEST, rng=np.random.default_rng(4), turns=1.25, noise=0.03)),
}


@cache
def _sample(name: str) -> tuple[np.ndarray, np.ndarray]:
    return SETS[name]()


def _loss(activation):
    return lambda params, x, y: binary_cross_entropy_with_logits(neurons.mlp(params, x, activation), y)


@explorable(
    "A network that learns",
    caption="The plane is coloured by what the network answers: orange for the orange class, blue for the blue one, "
    "nothing where it is undecided; crosses are the test points, which it never learns from. Thin lines: where a "
    "neuron of the first hidden layer has a pre-activation of zero. It learns by Adam; the curves are the mean "
    "cross-entropy over the training and the test points.",
    experiments=(
        experiment(
            "Take circles without a hidden layer, and press play.",
            "A single neuron has one straight line. It never gets better than chance, at any learning rate.",
            points="circles",
            hidden="none",
        ),
        experiment(
            "Give it a hidden layer of 3 neurons with tanh.",
            "Three lines are enough to fence in the inner circle; watch them turn until they do. With relu these "
            "three do not manage from this start, eight do.",
            points="circles",
            hidden="3",
            activation="tanh",
        ),
        experiment(
            "Choose spirals, two hidden layers of 8 and the learning rate 0.03; then the smallest rate.",
            "The arms are wound up well before the end; with 0.001 hardly anything has happened by then.",
            points="spirals",
            hidden="8 and 8",
            lr=0.03,
        ),
    ),
    points=DataSet(SETS, label="Data set"),
    hidden=Choice(*LAYERS, default="8", label="Neurons in hidden layers"),
    activation=Choice(*ACTIVATIONS, label="Activation"),
    lr=Log(0.001, 0.3, 0.03, label="Learning rate", stops=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3)),
)
def network_learns(points, hidden, activation, lr):
    x, classes = _sample(points)
    y = classes.astype(float)[:, None]
    f, sizes = ACTIVATIONS[activation], (2, *LAYERS[hidden], 1)
    params = neurons.mlp_init(np.random.default_rng(0), sizes, dtype=np.float64)
    loss = _loss(f)
    gradient = value_and_grad(loss)
    state = adam_init(params)
    grid = np.stack(np.meshgrid(PLANE, PLANE), axis=-1).reshape(-1, 2)
    pictures, borders, curves, rights = [], [], [], []
    for epoch in range(EPOCHS[-1] + 1):
        if epoch in EPOCHS:
            logits = neurons.mlp(params, np.concatenate([grid, x]), f)[:, 0]
            sure = np.round(24 * neurons.sigmoid(logits[: len(grid)])) / 24  # what an eye can tell apart
            pictures.append(sure.reshape(PIXELS, PIXELS))
            borders.append([_border(w, b) for w, b in zip(params["0"]["weight"], params["0"]["bias"], strict=True)])
            parts = (slice(0, TRAIN), slice(TRAIN, None))
            curves.append([float(loss(params, x[part], y[part])) for part in parts])
            right = (logits[len(grid) :] > 0) == (classes == 1)
            rights.append([right[part].mean() for part in parts])
            yield epoch / EPOCHS[-1]
        _, grads = gradient(params, x[:TRAIN], y[:TRAIN])
        params, state = adam(params, grads, state, lr=lr)
    curve = np.round(np.clip(np.array(curves), 0, 1.2), 4)  # the last bits depend on the machine
    epochs = np.array(EPOCHS, float)
    marks = [
        dots(*x[:TRAIN][classes[:TRAIN] == c].T, colour=colour, size=7, edge=1, name=f"class {c}")
        for c, colour in ((0, BLUE), (1, VERMILLION))
    ] + [
        dots(
            *x[TRAIN:][classes[TRAIN:] == c].T, colour=colour, size=9, edge=1, symbol="cross", name="test" if c else ""
        )
        for c, colour in ((0, BLUE), (1, VERMILLION))
    ]
    drawn = [
        surface(PLANE, PLANE, pictures[-1], low=0.0, high=1.0, strength=0.5),
        *(line(*border.T, colour=GREY, width=1, opacity=0.8) for border in borders[-1]),
        *marks,
        line(epochs, curve[:, 0], name="training", colour=BLUE, on=1),
        line(epochs, curve[:, 1], name="test", colour=GREEN, dash="dash", on=1),
        dots(epochs[-1:], curve[-1:, 1], colour=GREEN, size=7, on=1),
    ]
    moments = [
        frame(
            f"epoch {epoch}",
            [
                {"z": pictures[k]},
                *({"x": border[:, 0], "y": border[:, 1]} for border in borders[k]),
                *({} for _ in marks),
                {"x": epochs[: k + 1], "y": curve[: k + 1, 0]},
                {"x": epochs[: k + 1], "y": curve[: k + 1, 1]},
                {"x": epochs[k : k + 1], "y": curve[k : k + 1, 1]},
            ],
            f"After {epoch} epochs: training loss {curves[k][0]:.2f}, test loss {curves[k][1]:.2f}; "
            f"{100 * rights[k][0]:.0f} % of the training and {100 * rights[k][1]:.0f} % of the test points are right.",
        )
        for k, epoch in enumerate(EPOCHS)
    ]
    return figure(
        drawn,
        panel("What the network answers", x=(-1.5, 1.5), y=(-1.5, 1.5), bare=True),
        panel("Loss", x=(0, EPOCHS[-1]), y=(0, 1.2), xlabel="epoch"),
        text=moments[-1]["text"],
        frames=moments,
    )


def _border(weight, bias) -> np.ndarray:
    """(2, 2): two points, outside the square, of the line where a neuron's pre-activation is zero."""
    size = max(np.hypot(*weight), 1e-9)
    across, along = weight / size, np.array([-weight[1], weight[0]]) / size
    return np.round(np.clip(-bias / size, -9, 9) * across + np.outer([-1, 1], 9 * along), 3)
