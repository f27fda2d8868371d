"""The widgets of chapter 1: one neuron on the plane, and hinge functions that add up to a curve."""

from __future__ import annotations

import re

import numpy as np

from nnbook import neurons
from nnbook.backprop import vjp
from nnbook.explore.core import Choice, Integer, Linear, experiment, explorable
from nnbook.explore.figures import arrow, figure, frame, line, panel, surface
from nnbook.plots import BLUE, GREY, PURPLE, VERMILLION

PLANE = np.linspace(-3, 3, 37)
"""Places at which a surface is computed, along each axis."""

CELLS = (np.arange(120) - 59.5) / 20
"""Middles of small cells that fill the same square; with them areas are counted."""

ACTIVATIONS = {
    name: getattr(neurons, name)
    for name in ("sigmoid", "tanh", "relu", "leaky_relu", "softplus", "gelu", "silu", "step")
}


def _slope(f, z):
    value, pull = vjp(f, z)
    return value, pull(np.ones_like(z))[0]


@explorable(
    "One neuron on the plane",
    caption="First the output of a neuron for every input: orange where it is high, blue where it is low, without "
    "colour where it is in the middle (½ for sigmoid and step, 0 for the others). The dashed line is where its "
    "pre-activation is zero; the arrow is the weight vector, at a right angle to it. Then the activation and its "
    "derivative. The thick part of the axis, “in use”, is what the pre-activation takes on this square, as far as "
    "the axis reaches; the line below gives the full range.",
    experiments=(
        experiment(
            "Turn the weight vector: first weight −2, second 1.",
            "The dashed line turns with it and stays at a right angle. It is the weights alone that set the direction.",
            w1=-2.0,
            w2=1.0,
        ),
        experiment(
            "Make the weights small: 0.5 and 0.",
            "The surface becomes nearly a plane: the neuron uses only the middle of the sigmoid, where it is almost a "
            "straight line. A neuron with small weights is nearly affine.",
            w1=0.5,
            w2=0.0,
        ),
        experiment(
            "Take relu with the weights 1 and 1 and the bias −2.",
            "The line moves away from the origin along the arrow. On one side the neuron is exactly zero, and so is "
            "its derivative: from those points it learns nothing.",
            w1=1.0,
            w2=1.0,
            b=-2.0,
            activation="relu",
        ),
    ),
    activation=Choice(*ACTIVATIONS, label="Activation"),
    w1=Linear(-2, 2, 1, label="Weight w₁"),
    w2=Linear(-2, 2, 1, label="Weight w₂"),
    b=Linear(-4, 4, 0, label="Bias b"),
)
def neuron_on_the_plane(activation, w1, w2, b):
    f = ACTIVATIONS[activation]
    x = np.stack(np.meshgrid(PLANE, PLANE), axis=-1)
    y = f(neurons.linear(x, np.array([[w1, w2]]), np.array([b]))[..., 0])
    bounded = activation in ("sigmoid", "tanh", "step")
    span = (-1.3, 1.3) if bounded else (-1.3, 3)
    low, high = (-1.0, 1.0) if activation == "tanh" else (0.0, 1.0) if bounded else (-3.0, 3.0)
    size = np.hypot(w1, w2)
    reach = 3 * (abs(w1) + abs(w2))
    z = np.linspace(-6, 6, 241)
    value, slope = _slope(f, z)
    place = -b / size**2 * np.array([w1, w2]) if size else np.full(2, 9.0)  # the point of the line next to the origin
    along = 9 * np.array([-w2, w1]) / size if size else np.zeros(2)
    border = place + np.outer([-1, 1], along)
    tip = place + np.array([w1, w2])
    used = np.clip([b - reach, b + reach], -6, 6)
    data = [
        surface(PLANE, PLANE, np.round(np.clip(y, low, high), 2), low=low, high=high),
        line(*border.T, name="pre-activation zero", colour=GREY, dash="dash", width=2),
        arrow(*np.stack([place, tip]).T, name="weights", colour=PURPLE),
        line(used, [0, 0], name="in use", colour=GREY, width=7, opacity=0.5, on=1),
        line(z, np.clip(value, -1.5, 3), name=activation, colour=BLUE, on=1),
        line(z, np.clip(slope, -1.5, 3), name="derivative", colour=VERMILLION, dash="dash", on=1),
    ]
    over = np.round(w1 * CELLS + w2 * CELLS[:, None] + b, 9)
    positive = np.mean(over > 0) + np.mean(over == 0) / 2
    if size == 0:
        text = f"Both weights are zero: the output is {y[0, 0]:.2f} everywhere, and there is no line."
    else:
        text = (
            f"On this square the pre-activation goes from {b - reach:.1f} to {b + reach:.1f} and the output from "
            f"{y.min():.2f} to {y.max():.2f}. The pre-activation is positive on "
            f"{100 * positive:.0f} % of the square."
        )
    return figure(
        data,
        panel("Output over the inputs", x=(-3, 3), y=(-3, 3), xlabel="x₁", ylabel="x₂", equal=True),
        panel("Activation", x=(-6, 6), y=span, xlabel="pre-activation z"),
        text=re.sub(r"-(?=\d)", "\N{MINUS SIGN}", text),
    )


TARGETS = {
    "sine": lambda x: np.sin(2 * np.pi * x),
    "parabola": lambda x: 4 * (x - 0.5) ** 2 - 0.5,
    "bump": lambda x: 1.6 * np.exp(-80 * (x - 0.4) ** 2) - 0.6,
    "root": lambda x: 2 * np.sqrt(x) - 1,
    "saw": lambda x: 2 * np.abs(2 * x - np.floor(2 * x) - 0.5) - 0.5,
}


@explorable(
    "Hinge functions that add up to a curve",
    caption="First a target (grey) and a hidden layer of ReLU units, added one after the other. Then the weighted "
    "hinges; the sum of those drawn so far, and of the bias f(0), is the broken line in the first panel.",
    experiments=(
        experiment(
            "Take 4 hinges for the sine, then 8, then 16.",
            "The largest error falls from 0.211 to 0.0704 and on to 0.0188: twice the hinges leave a third of it, then "
            "nearly a quarter, as in the bound by the second derivative.",
            hinges=8,
        ),
        experiment(
            "Choose the root with 16 hinges.",
            "The error is largest on the first piece, where the curve is vertical: the bound by the second derivative "
            "does not hold there, and twice the hinges divide the error only by about 1.4.",
            target="root",
            hinges=16,
        ),
        experiment(
            "Choose the saw with 4 hinges, then with 5.",
            "Four hinges are enough for an exact copy, because the kinks of the target are where hinges sit; five "
            "miss them.",
            target="saw",
            hinges=4,
        ),
    ),
    target=Choice(*TARGETS, label="Target"),
    hinges=Integer(1, 24, 6, stops=(1, 2, 3, 4, 5, 6, 8, 12, 16, 24), label="Hinges"),
)
def hinges_add_up(target, hinges):
    f = TARGETS[target]
    x = np.linspace(0, 1, 961)
    knots = np.linspace(0, 1, hinges + 1)
    heights = f(knots)
    weights = np.diff(np.diff(heights) * hinges, prepend=0.0)
    parts = weights[:, None] * neurons.relu(x - knots[:-1, None])
    sums = heights[0] + np.concatenate([np.zeros((1, len(x))), np.cumsum(parts, axis=0)])
    errors = np.abs(sums - f(x)).max(axis=1)
    x, parts, sums = x[::4], np.clip(parts[:, ::4], -20, 20), np.clip(sums[:, ::4], -3, 3)
    data = [
        line(x, f(x), name="target", colour=GREY, width=5, opacity=0.5),
        line(x, sums[-1], name="sum", colour=BLUE),
        line([knots[-2], knots[-2]], [-1.6, 1.6], name="kink", colour=PURPLE, dash="dot", width=1.5),
        *(line(x, part, colour=VERMILLION, width=1.2, opacity=0.6, on=1) for part in parts),
        line(x, parts[-1], name="last hinge", colour=PURPLE, on=1),
    ]
    hidden = np.full(len(x), -9.0)
    moments = []
    for k in range(hinges + 1):
        drawn = [{"y": part if i < k else hidden} for i, part in enumerate(parts)]
        newest = parts[k - 1] if k else hidden
        kink = knots[k - 1] if k else -1.0
        told = (
            f"With {k} of {hinges} hinges"
            if k < hinges
            else f"With all {hinges} hinges"
            if hinges > 1
            else "With one hinge"
        )
        name = f"{k} hinge" + ("s" if k != 1 else "")
        update = [{}, {"y": sums[k]}, {"x": np.array([kink, kink])}, *drawn, {"y": newest}]
        moments.append(frame(name, update, f"{told} the largest error is {errors[k] if errors[k] > 1e-12 else 0:.3g}."))
    return figure(
        data,
        panel("Target and sum", x=(0, 1), y=(-1.6, 1.6), xlabel="x"),
        panel("Hinges", x=(0, 1), y=(-6, 6), xlabel="x"),
        text=moments[-1]["text"],
        frames=moments,
    )
