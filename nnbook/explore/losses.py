"""The widgets of chapter 2: what a loss says about a prediction, and how hard it pushes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nnbook.backprop import concatenate, vjp
from nnbook.explore.core import Choice, Linear, Log, Toggle, experiment, explorable
from nnbook.explore.figures import (
    arrow,
    bars,
    dots,
    figure,
    frame,
    line,
    panel,
    words,
)
from nnbook.losses import (
    binary_cross_entropy_with_logits,
    cosine_embedding_loss,
    cross_entropy,
    focal_loss,
    hinge_loss,
    huber_loss,
    info_nce,
    kl_div,
    l1_loss,
    mse_loss,
    multi_margin_loss,
    nll_loss,
    quantile_loss,
    triplet_margin_loss,
)
from nnbook.neurons import log_softmax, sigmoid, softmax
from nnbook.plots import BLUE, GREEN, GREY, PURPLE, VERMILLION

Loss = Callable[..., float]


def number(value: float, digits: int = 2) -> str:
    return f"{round(float(value), digits) + 0.0:.{digits}f}".replace("-", "\N{MINUS SIGN}")


# ---------------------------------------------------------------------------------------------------------------------
# Three classes
# ---------------------------------------------------------------------------------------------------------------------

SOFT = np.array([[0.7, 0.2, 0.1], [0.15, 0.7, 0.15], [0.1, 0.2, 0.7]])
"""For each true class what somebody who is not quite sure would say."""


def _one_hot(k):
    return np.eye(3)[k]


# The loss, and the probabilities at which it is smallest; the hinge wants no particular ones.
CLASS_LOSSES: dict[str, tuple[Loss, Callable[[int], np.ndarray]]] = {
    "cross-entropy": (lambda z, k: cross_entropy(z, np.array(k)), _one_hot),
    "cross-entropy, labels smoothed by 0.3": (
        lambda z, k: cross_entropy(z, np.array(k), label_smoothing=0.3),
        lambda k: 0.7 * _one_hot(k) + 0.1,
    ),
    "log-softmax, then negative log-likelihood": (lambda z, k: nll_loss(log_softmax(z), np.array(k)), _one_hot),
    "KL divergence from a soft target": (
        lambda z, k: kl_div(log_softmax(z), SOFT[k], reduction="sum"),
        lambda k: SOFT[k],
    ),
    "multi-class hinge": (lambda z, k: multi_margin_loss(z, np.array(k)), lambda k: np.zeros(3)),
    "squared error after softmax": (lambda z, k: mse_loss(softmax(z), _one_hot(k)), _one_hot),
}


@explorable(
    "From logits to probabilities, loss and gradient",
    caption="Three classes. The logits are yours to set; softmax makes probabilities of them; the last panel is the "
    "gradient of the loss by each logit: a step of gradient descent moves every logit against its bar. Grey: what the "
    "loss wants the probabilities to be; the hinge looks at the logits alone and has no grey bars. Hinge and squared "
    "error are means over the three classes, so their gradients hold a factor 1/3.",
    experiments=(
        experiment(
            "Look at cross-entropy with the logits 1, 2, 0 and the true class A.",
            "Each bar of the gradient is the probability minus the target. They add up to zero: what one logit gains, "
            "the others lose.",
            z1=1.0,
            z2=2.0,
            z3=0.0,
        ),
        experiment(
            "Make the network surely wrong: logits −4, 4, 0. Then change the loss to squared error after softmax.",
            "Under cross-entropy the derivatives by A and B are nearly −1 and 1. Those of the squared error are at "
            "most 0.012, and it pushes C, also wrong, up more than twenty times as hard as A.",
            loss="squared error after softmax",
            z1=-4.0,
            z2=4.0,
            z3=0.0,
        ),
        experiment(
            "Take the hinge with logits 3, 1, −1.",
            "The true class leads by more than the margin, so the loss and the gradient are exactly zero, though the "
            "probability is not one.",
            loss="multi-class hinge",
            z1=3.0,
            z2=1.0,
            z3=-1.0,
        ),
    ),
    loss=Choice(*CLASS_LOSSES, label="Loss"),
    truth=Choice("A", "B", "C", label="True class"),
    z1=Linear(-4, 4, 1, label="Logit of A"),
    z2=Linear(-4, 4, 2, label="Logit of B"),
    z3=Linear(-4, 4, 0, label="Logit of C"),
)
def logits_and_loss(loss, truth, z1, z2, z3):
    f, target = CLASS_LOSSES[loss]
    k, z = "ABC".index(truth), np.array([z1, z2, z3])
    p = softmax(z)
    value, pull = vjp(lambda z: f(z, k), z)
    (dz,) = pull(1.0)
    places = np.arange(3.0)
    ticks = dict(enumerate("ABC"))
    data = [
        bars(places, z, colour=BLUE),
        bars(places, target(k), name="wanted", colour=GREY, opacity=0.5, width=0.85, on=1),
        bars(places, p, name="probability", colour=BLUE, width=0.5, on=1),
        words(places, p + 0.07, [number(v) for v in p], on=1),
        bars(places, dz, colour=VERMILLION, on=2),
        words(places, dz + np.where(dz < 0, -0.1, 0.1), [number(v) for v in dz], on=2),
    ]
    steepest = int(np.abs(dz).argmax())
    text = f"The true class {truth} has probability {number(p[k])}; the loss is {number(value)}. " + (
        f"The largest derivative is by {'ABC'[steepest]}: {number(dz[steepest])}; descent "
        f"{'raises' if dz[steepest] < 0 else 'lowers'} it."
        if abs(dz[steepest]) >= 0.005
        else "There is next to no gradient."
    )
    return figure(
        data,
        panel("Logits", x=(-0.6, 2.6), y=(-4.4, 4.4), ticks=ticks),
        panel("Probabilities", x=(-0.6, 2.6), y=(0, 1.15), ticks=ticks),
        panel("Gradient by the logits", x=(-0.6, 2.6), y=(-1.25, 1.25), ticks=ticks),
        text=text,
        layout={"barmode": "overlay"},
    )


# ---------------------------------------------------------------------------------------------------------------------
# One output
# ---------------------------------------------------------------------------------------------------------------------

NUMBER, YES, SCORE = "output", "logit", "score"
LOSS_TOP, SLOPE_TOP = 10.0, 7.0
"""Where the panels end; a mark that lies beyond stands there."""

OUTPUT_LOSSES: dict[str, tuple[Loss, str]] = {
    "squared error": (mse_loss, NUMBER),
    "absolute error": (l1_loss, NUMBER),
    "Huber, δ = 1": (huber_loss, NUMBER),
    "quantile 0.9": (lambda x, t, **how: quantile_loss(x, t, quantile=0.9, **how), NUMBER),
    "binary cross-entropy": (binary_cross_entropy_with_logits, YES),
    "focal, γ = 2": (lambda x, t, **how: focal_loss(x, t, alpha=None, gamma=2.0, **how), YES),
    "hinge": (lambda x, t, **how: hinge_loss(x, 2 * t - 1, **how), SCORE),
}


@explorable(
    "Loss and gradient of a single output",
    caption="The loss for every value of the output, and its derivative. The first four compare the output with a "
    "number. Binary cross-entropy and focal loss take it as the logit of yes, with target 1 for yes and 0 for no; the "
    "hinge takes it as a score, and its target for no is −1. A mark at the edge of a panel stands further out; the "
    "line below has the values.",
    experiments=(
        experiment(
            "Compare the squared with the absolute error at output 3 and target 0.",
            "The push of the squared error grows with the distance, so one outlier can outweigh many points; that of "
            "the absolute error is 1 wherever you are.",
            loss="squared error",
            output=3.0,
        ),
        experiment(
            "Take the quantile loss with target 0 and go from output −2 to 2.",
            "Being too low costs nine times as much as being too high: the gradient is −0.9 on the one side and 0.1 "
            "on the other, and they balance where nine tenths of the targets lie below.",
            loss="quantile 0.9",
            output=-2.0,
        ),
        experiment(
            "Take the focal loss with target yes and output 2, and compare binary cross-entropy.",
            "What is already right is muted: the focal loss hardly pushes, so the hard examples are heard.",
            loss="focal, γ = 2",
            yes=True,
            output=2.0,
        ),
    ),
    loss=Choice(*OUTPUT_LOSSES, label="Loss"),
    yes=Toggle(label="target 1 (otherwise 0)"),
    output=Linear(-5, 5, 2, stops=21, label="Output"),
)
def one_output(loss, yes, output):
    f, kind = OUTPUT_LOSSES[loss]
    grid = np.append(np.linspace(-5, 5, 201), output)
    target = np.full_like(grid, float(yes))
    value, pull = vjp(lambda x: f(x, target, reduction="none"), grid)
    (slope,) = pull(np.ones_like(grid))
    exact, push = float(value[-1]), float(slope[-1])
    value, slope = np.clip(value, -9, 40), np.clip(slope, -14, 14)
    mark = np.minimum(value[-1:], LOSS_TOP), np.clip(slope[-1:], -SLOPE_TOP, SLOPE_TOP)
    here = np.array([output, output])
    data = [
        line(grid[:-1], value[:-1], name="loss", colour=BLUE),
        dots(grid[-1:], mark[0], colour=PURPLE, size=11),
        line(grid[:-1], slope[:-1], name="derivative", colour=VERMILLION, on=1),
        line(here, [0.0, mark[1][0]], colour=PURPLE, width=2, on=1),
        dots(grid[-1:], mark[1], colour=PURPLE, size=11, on=1),
    ]
    answer = "yes" if yes else "no"
    start = {
        NUMBER: f"Output {number(output)}, target {int(yes)}",
        YES: f"Output {number(output)} (probability of yes {number(sigmoid(output))}), target {answer}",
        SCORE: f"Score {number(output)}, target {number(1 if yes else -1, 0)} ({answer})",
    }[kind]
    beside = np.array([output - 1e-6, output + 1e-6])
    left, right = vjp(lambda x: f(x, np.full(2, float(yes)), reduction="none"), beside)[1](np.ones(2))[0]
    digits = 3 if loss.startswith("focal") else 2
    way = "lower" if push > 0.5 * 10**-digits else "raise" if push < -0.5 * 10**-digits else ""
    if abs(right - left) > 0.01:
        end = f"at this corner, where the slope jumps from {number(float(left))} to {number(float(right))}."
    else:
        end = f"descent will {way} the {kind}." if way else "there is next to nothing to gain."
    between = " " if abs(right - left) > 0.01 else "; "
    return figure(
        data,
        panel("Loss", x=(-5, 5), y=(-0.4, LOSS_TOP), xlabel="output"),
        panel("Derivative by the output", x=(-5, 5), y=(-SLOPE_TOP, SLOPE_TOP), xlabel="output"),
        text=f"{start}: the loss is {number(exact, digits)} and its derivative {number(push, digits)}{between}{end}",
    )


# ---------------------------------------------------------------------------------------------------------------------
# Saturation
# ---------------------------------------------------------------------------------------------------------------------

STEPS = 60


@explorable(
    "Saturation: squared error against cross-entropy",
    caption="One sigmoid neuron must say yes (target 1) and starts at the logit that you set. Gradient descent moves "
    "the logit, once under the squared error of the probability and once under cross-entropy, with the same learning "
    "rate. First the gradients of both at every logit, with a dot where each now stands; then the probabilities after "
    "each step.",
    experiments=(
        experiment(
            "Start at 0 and press play.",
            "Near the middle both learn. Cross-entropy is faster: the gradient of the squared error is the same times "
            "2p(1 − p), twice the slope of the sigmoid, which is at most one half.",
            start=0.0,
        ),
        experiment(
            "Start at −6: surely wrong.",
            "The squared error hardly moves. Its gradient holds the factor 2p(1 − p), which is tiny exactly when the "
            "neuron is sure, right or wrong.",
            start=-6.0,
        ),
        experiment(
            "Help the squared error with a learning rate of 10, from the first logit −4.",
            "It waits; then one step carries the logit from about −1.1 to 1.8. Here that does no harm. With other "
            "examples such a step undoes what they have learned.",
            start=-4.0,
            lr=10.0,
        ),
    ),
    start=Linear(-8, 4, -4, stops=13, label="First logit"),
    lr=Log(0.1, 10, 1, label="Learning rate", stops=(0.1, 0.3, 1.0, 3.0, 10.0)),
)
def saturation(start, lr):
    losses = {
        "squared error": lambda z: mse_loss(sigmoid(z), np.ones_like(z.value), reduction="none"),
        "cross-entropy": lambda z: binary_cross_entropy_with_logits(z, np.ones_like(z.value), reduction="none"),
    }
    z = np.linspace(-8, 8, 161)
    slopes, paths = {}, {}
    for name, loss in losses.items():
        slopes[name] = _slope(loss, z)
        path = [np.array([start])]
        for _ in range(STEPS):
            path.append(path[-1] - lr * _slope(loss, path[-1]))
        paths[name] = np.concatenate(path)
    steps = np.arange(STEPS + 1.0)
    colours = {"squared error": VERMILLION, "cross-entropy": BLUE}
    pushes = {name: np.interp(path, z, slopes[name]) for name, path in paths.items()}
    chances = {name: sigmoid(path) for name, path in paths.items()}
    data = []
    for name, colour in colours.items():
        data += [
            line(z, slopes[name], name=name, colour=colour),
            dots(np.clip(paths[name][-1:], -8, 8), pushes[name][-1:], colour=colour, size=11),
            line(steps, chances[name], name=name, colour=colour, on=1),
        ]
    moments = []
    for k in range(STEPS + 1):
        update = []
        for name in colours:
            moving = {"x": np.clip(paths[name][k : k + 1], -8, 8), "y": pushes[name][k : k + 1]}
            update += [{}, moving, {"x": steps[: k + 1], "y": chances[name][: k + 1]}]
        told = " and ".join(f"{number(chances[name][k])} under {name}" for name in colours)
        moments.append(frame(f"step {k}", update, f"After {k} steps the probability of yes is {told}."))
    return figure(
        data,
        panel("Gradient by the logit", x=(-8, 8), y=(-1.1, 0.1), xlabel="logit"),
        panel("Probability of yes", x=(0, STEPS), y=(0, 1.05), xlabel="step"),
        text=moments[-1]["text"],
        frames=moments,
    )


def _slope(loss, z):
    return vjp(loss, z)[1](np.ones_like(z))[0]


# ---------------------------------------------------------------------------------------------------------------------
# Embeddings
# ---------------------------------------------------------------------------------------------------------------------


def _nce(a, p, n):
    """The anchor's part of InfoNCE: its key is the friend, and the stranger is the other query's."""
    queries = (concatenate(a[i : i + 1], n[i : i + 1]) for i in range(len(p)))
    keys = zip(p, n, strict=True)
    return concatenate(
        *(
            info_nce(two, np.stack(pair), temperature=0.5, reduction="none")[:1]
            for two, pair in zip(queries, keys, strict=True)
        )
    )


PAIRS: dict[str, Callable] = {
    "cosine embedding, together": lambda a, p, n: cosine_embedding_loss(a, p, np.ones(len(p)), reduction="none"),
    "cosine embedding, apart": lambda a, p, n: cosine_embedding_loss(a, n, -np.ones(len(n)), reduction="none"),
    "triplet, margin 1": lambda a, p, n: triplet_margin_loss(a, p, n, eps=0.0, reduction="none"),
    "InfoNCE, temperature 0.5": _nce,
}
"""Each takes three (N, 2) arrays, anchors, friends and strangers, and gives (N,) losses."""


@explorable(
    "Losses that compare directions",
    caption="Three embeddings of length one: an anchor, a friend that belongs to it and a stranger that does not. The "
    "orange arrow is where gradient descent pushes the anchor, 0.6 times the gradient long; for triplet and InfoNCE a "
    "part of it points along the anchor. The curve is the loss when the anchor points in another direction.",
    experiments=(
        experiment(
            "Take the triplet loss with the friend at 60° and the stranger at 150°, then move the stranger to 300°.",
            "Once the friend is nearer by the margin, the loss is zero and the arrow vanishes: such a triplet teaches "
            "nothing more.",
            loss="triplet, margin 1",
            friend=60.0,
            stranger=150.0,
        ),
        experiment(
            "Take InfoNCE with the friend at 60° and the stranger at 300°, then at 150°.",
            "As long as friend and stranger differ, its push never ends; it is the smaller, the more the friend stands "
            "out from the stranger.",
            loss="InfoNCE, temperature 0.5",
            friend=60.0,
            stranger=300.0,
        ),
        experiment(
            "Choose cosine embedding, apart, and put the stranger at 270°.",
            "Their cosine is below the margin 0, so nothing pushes: strangers need only be no closer than a right "
            "angle.",
            loss="cosine embedding, apart",
            stranger=270.0,
        ),
    ),
    loss=Choice(*PAIRS, label="Loss"),
    anchor=Linear(0, 180, 90, stops=(0, 45, 90, 135, 180), unit="°", label="Anchor"),
    friend=Linear(0, 330, 60, stops=12, unit="°", label="Friend"),
    stranger=Linear(0, 330, 150, stops=12, unit="°", label="Stranger"),
)
def embeddings(loss, anchor, friend, stranger):
    f = PAIRS[loss]
    a, p, n = (np.round([np.cos(t), np.sin(t)], 12) + 0.0 for t in np.radians([anchor, friend, stranger]))
    (value,), pull = vjp(lambda a: f(a, p[None], n[None]), a[None])
    da = pull(np.ones(1))[0][0]
    degrees = np.linspace(0, 360, 61)
    turned = np.radians(degrees)
    ring = np.stack([np.cos(turned), np.sin(turned)], axis=1)
    curve = f(ring, np.tile(p, (61, 1)), np.tile(n, (61, 1)))
    push = np.stack([a, a - 0.6 * da])
    if 0.6 * np.hypot(*da) < 0.02:
        push = np.array([[2.5, 2.5], [2.5, 2.6]])  # an arrow of no length would still have a head
    data = [
        line(*ring.T, colour=GREY, width=1),
        arrow(*np.stack([0 * a, a]).T, name="anchor", colour=PURPLE),
        arrow(*np.stack([0 * p, p]).T, name="friend", colour=GREEN),
        arrow(*np.stack([0 * n, n]).T, name="stranger", colour=BLUE),
        arrow(*push.T, name="push", colour=VERMILLION, width=4),
        line(degrees, curve, colour=BLUE, on=1),
        dots([anchor], [value], colour=PURPLE, size=11, on=1),
    ]
    strength, near, far = float(np.hypot(*da)), number(float(a @ p)), number(float(a @ n))
    text = (
        f"The cosine of anchor and friend is {near}, that of anchor and stranger {far}; "
        f"the loss is {number(value)}, and its gradient by the anchor has length {number(strength)}"
        f"{', at a corner of the loss' if value < 1e-9 < strength else ''}."
    )
    return figure(
        data,
        panel("Embeddings", x=(-1.9, 1.9), y=(-1.9, 1.9), bare=True, equal=True),
        panel("Loss by the anchor's direction", x=(0, 360), y=(-0.1, 4.2), xlabel="degrees"),
        text=text,
    )
