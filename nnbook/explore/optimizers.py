"""The widgets of chapter 4: optimizers in a race over surfaces, and what a schedule does where there is noise."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from nnbook.explore.backprop import number
from nnbook.explore.core import Choice, Integer, Linear, Log, experiment, explorable
from nnbook.explore.figures import band, contours, dots, figure, frame, line, panel
from nnbook.optimizers import (
    adagrad,
    adagrad_init,
    adam,
    adam_init,
    cosine_annealing_lr,
    exponential_lr,
    linear_warmup,
    lion,
    lion_init,
    one_cycle,
    reduce_lr_on_plateau,
    reduce_lr_on_plateau_init,
    rmsprop,
    rmsprop_init,
    sgd,
    sgd_init,
    step_lr,
)
from nnbook.plots import BLUE, GREEN, GREY, VERMILLION

# ---------------------------------------------------------------------------------------------------------------------
# Surfaces
# ---------------------------------------------------------------------------------------------------------------------


def bowl(degrees: float):
    """A quadratic with curvature 1 along one axis, turned by so much, and ``k`` across; and the two axes."""
    c, s = float(np.cos(np.radians(degrees))), float(np.sin(np.radians(degrees)))

    def f(x, y, k):
        u, v = c * x + s * y, c * y - s * x
        return (u * u + k * v * v) / 2, (c * u - s * k * v, s * u + c * k * v)

    return f, np.array([[c, s], [-s, c]])


def rosenbrock(x, y, k):
    u, v = 1 - x, y - x * x
    return u * u + k * v * v, (-2 * u - 4 * k * x * v, 2 * k * v)


def beale(x, y, k):
    a, b, c = 1.5 - x + x * y, 2.25 - x + x * y**2, 2.625 - x + x * y**3
    dx = 2 * (a * (y - 1) + b * (y**2 - 1) + c * (y**3 - 1))
    return a * a + b * b + c * c, (dx, 2 * x * (a + 2 * b * y + 3 * c * y**2))


def saddle(x, y, k):
    u = x * x - 1
    return u * u / 4 + k * y * y / 2, (x * u, k * y)


def himmelblau(x, y, k):
    a, b = x * x + y - 11, x + y * y - 7
    return a * a + b * b, (4 * a * x + 2 * b, 2 * a + 4 * b * y)


class Surface(NamedTuple):
    """``f(x, y, condition) -> (loss, gradient)``, where it starts, its minima, what is drawn, the powers of ten of its
    loss, and its eigenvectors if it is quadratic."""

    f: Callable[..., Any]
    start: tuple[float, float]
    minima: tuple[tuple[float, float], ...]
    x: tuple[float, float]
    y: tuple[float, float]
    powers: tuple[int, int]
    axes: np.ndarray | None = None


def _quadratic(degrees: float) -> Surface:
    """Seen along its axes, every bowl starts at the same place."""
    f, axes = bowl(degrees)
    start = np.array([-0.93, 0.57]) @ axes
    return Surface(f, (float(start[0]), float(start[1])), ((0, 0),), (-1.4, 1.4), (-1.1, 1.1), (-8, 3), axes)


SURFACES = {
    "quadratic": _quadratic(0.0),
    "turned quadratic": _quadratic(30.0),
    "Rosenbrock": Surface(rosenbrock, (-1.2, 1.0), ((1, 1),), (-1.8, 1.8), (-0.8, 2.2), (-6, 4)),
    "Beale": Surface(beale, (0.5, 1.5), ((3, 0.5),), (-1, 4), (-1.6, 2), (-6, 4)),
    "saddle": Surface(saddle, (0.01, 0.57), ((-1, 0), (1, 0)), (-1.6, 1.6), (-0.9, 0.9), (-6, 3)),
    "Himmelblau": Surface(
        himmelblau,
        (-0.5, 4.5),
        ((3, 2), (-2.805118, 3.131313), (-3.779310, -3.283186), (3.584428, -1.848127)),
        (-5, 5),
        (-5, 5.5),
        (-6, 4),
    ),
}
LINEAR = ("gradient descent", "momentum", "Nesterov")
"""A step of these is linear in position and velocity on a quadratic, so its eigenvalues tell the whole run."""

# Name -> the two functions, and the options that the slider for momentum sets.
OPTIMIZERS: dict[str, tuple[Callable, Callable, Callable[[float], dict]]] = {
    "gradient descent": (sgd_init, sgd, lambda beta: {}),
    "momentum": (sgd_init, sgd, lambda beta: {"momentum": beta}),
    "Nesterov": (sgd_init, sgd, lambda beta: {"momentum": beta, "nesterov": beta > 0}),
    "AdaGrad": (adagrad_init, adagrad, lambda beta: {}),
    "RMSProp": (rmsprop_init, rmsprop, lambda beta: {"alpha": beta}),
    "Adam": (adam_init, adam, lambda beta: {"betas": (beta, 0.999)}),
    "Lion": (lion_init, lion, lambda beta: {"betas": (beta, 0.99)}),
}
STEPS, FAR, NOTHING = 100, 1e6, 1e-12
SHOWN = (*range(25), *range(25, STEPS, 5), STEPS)
"""When a picture is taken: each step at first, when much happens."""


def descend(surface: Surface, optimizer: str, lr: float, beta: float, condition: float) -> np.ndarray:
    """Positions (K + 1, 2) after each step: STEPS of them, fewer if it went too far to go on."""
    init, step, options = OPTIMIZERS[optimizer]
    chosen = options(beta)
    p = np.array(surface.start)
    state, path = init(p), [p]
    for _ in range(STEPS):
        p, state = step(p, np.array(surface.f(*p.tolist(), condition)[1]), state, lr=lr, **chosen)
        path.append(np.clip(p, -FAR, FAR))
        if np.abs(p).max() > FAR:
            break
    return np.stack(path)


RATE_STOPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0)
TRIED = np.unique(np.concatenate([np.geomspace(1e-4, 1, 121), RATE_STOPS]))


@cache
def best_descent(name: str, condition: float) -> tuple[float, np.ndarray]:
    """Gradient descent with the constant rate that ends lowest, of many: the rate and the positions (STEPS + 1, 2).

    All rates at once: a row of gradients times its rate, and the rate 1, is a step with that rate.
    """
    surface, rates = SURFACES[name], TRIED
    if surface.axes is not None:  # what theory calls best in the long run is not far from the best here
        rates = np.linspace(1.0, 0.7, 61) * 2 / (1 + condition)
    p = np.tile(surface.start, (len(rates), 1))
    state, path = sgd_init(p), [p]
    for _ in range(STEPS):
        slopes = np.stack(surface.f(*p.T, condition)[1], axis=1)
        p, state = sgd(p, rates[:, None] * slopes, state, lr=1.0)
        p = np.clip(p, -FAR, FAR)
        path.append(p)
    losses = surface.f(*np.stack(path, axis=-1).swapaxes(0, 1), condition)[0].clip(NOTHING)  # (rates, STEPS + 1)
    best = int(np.lexsort(((losses > NOTHING).sum(axis=1), losses[:, -1]))[0])
    return float(rates[best]), np.stack(path)[:, best]


def factor(optimizer: str, lr: float, beta: float, curvature: float) -> float:
    """By what a step multiplies an eigenmode in the long run: the largest eigenvalue of (position, velocity) -> next.

    The step itself, applied to a position without velocity and to a velocity alone, says what its matrix is.
    """
    _, step, options = OPTIMIZERS[optimizer]
    chosen = options(beta)
    if not chosen.get("momentum"):
        return float(abs(1 - lr * curvature))
    p, state = step(
        np.array([1.0, 0.0]),
        curvature * np.array([1.0, 0.0]),
        {"momentum_buffer": np.array([0.0, 1.0])},
        lr=lr,
        **chosen,
    )
    return float(np.abs(np.linalg.eigvals(np.stack([p, state["momentum_buffer"]]))).max())


def limit(optimizer: str, beta: float) -> tuple[str, float]:
    """The rate beyond which it diverges, times the largest curvature: as a formula, and its value."""
    if optimizer == "Nesterov" and beta:
        return "(2 + 2β)/(1 + 2β)/λ_max", (2 + 2 * beta) / (1 + 2 * beta)
    if optimizer == "momentum" and beta:
        return "2(1 + β)/λ_max", 2 * (1 + beta)
    return "2/λ_max", 2.0


def logarithm(values, powers: tuple[int, int]) -> np.ndarray:
    """Of losses, kept within what is drawn."""
    low, high = powers
    return np.round(np.log10(np.clip(values, 10.0 ** (low - 1), 10.0 ** (high + 1))), 3)


def power_ticks(low: int, high: int) -> dict[int, str]:
    """Names for logarithms: powers of ten, every second one."""
    raised = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    return {k: "1" if k == 0 else f"10{str(k).translate(raised)}" for k in range(low, high + 1, 2)}


@explorable(
    "A race down a surface",
    caption="The thin lines are levels of the loss, a cross marks a minimum. Blue: a hundred steps of the optimizer "
    "that you set. Grey: gradient descent at its best constant rate, which is to be beaten. The second panel has the "
    "loss after each step. On the quadratics it also has the part of the loss that lies along the flat and along the "
    "steep direction, and dotted, for the first three optimizers, how theory says each part shrinks (for gradient "
    "descent the dots lie under the curves).",
    experiments=(
        experiment(
            "Take gradient descent with the rate 0.01 and κ = 100, then 0.02, then 0.03.",
            "At 0.01 the steep mode is gone after one step, and the flat one keeps 99 % of itself at each. At 0.02, "
            "which is 2/λ_max, the steep one swings for ever; at 0.03 it doubles with every step.",
            optimizer="gradient descent",
            lr=0.01,
        ),
        experiment(
            "Take momentum, nearly the best for κ = 100: β = 0.67 and the rate 0.03. Then β = 0.99.",
            "A hundred steps take the loss from 17 to about 10⁻¹²; no constant rate takes gradient descent below "
            "0.008. With too much momentum it swings past the minimum again and again.",
            optimizer="momentum",
            beta=0.67,
            lr=0.03,
        ),
        experiment(
            "Take AdaGrad with the rate 1 on the quadratic, then on the turned one.",
            "AdaGrad scales each coordinate by itself. Where the coordinates are the axes of the bowl, κ does not "
            "matter to it. Turn the same bowl by 30° and it matters; gradient descent and momentum notice nothing.",
            surface="turned quadratic",
            optimizer="AdaGrad",
            lr=1.0,
        ),
    ),
    surface=Choice(*SURFACES, label="Surface"),
    optimizer=Choice(*OPTIMIZERS, default="momentum", label="Optimizer"),
    lr=Log(0.001, 1, 0.01, label="Learning rate", stops=RATE_STOPS),
    beta=Linear(
        0,
        0.99,
        0.9,
        label="Momentum β",
        stops=(0.0, 0.67, 0.9, 0.99),
        help="β₁ of Adam and Lion, α of RMSProp; gradient descent and AdaGrad have none.",
    ),
    condition=Log(
        1,
        100,
        100,
        label="Condition number κ",
        stops=(1.0, 10.0, 100.0),
        help="The steep curvature over the flat one; Rosenbrock's factor. Beale and Himmelblau have none.",
    ),
)
def optimizer_race(surface, optimizer, lr, beta, condition):
    place = SURFACES[surface]
    path = descend(place, optimizer, lr, beta, condition)
    best, rival = best_descent(surface, condition)
    losses, rivals = (place.f(*p.T, condition)[0] for p in (path, rival))
    curves = [logarithm(values, place.powers) for values in (losses, rivals)]
    paths = [np.round(np.clip(p, *_edge(place)), 3) for p in (path, rival)]
    steps = np.arange(STEPS + 1.0)
    grid = np.linspace(*place.x, 49), np.linspace(*place.y, 49)
    heights = np.round(logarithm(place.f(*np.meshgrid(*grid), condition)[0], (-3, 4)), 2)
    modes = _modes(path @ place.axes.T, optimizer, lr, beta, condition, place.powers) if place.axes is not None else []
    data = [
        contours(*grid, heights, low=-2.5, high=3.5, count=13),
        dots(*np.array(place.minima, float).T, colour=GREEN, symbol="cross", size=10),
        line(*paths[1].T, colour=GREY, width=1.5, opacity=0.8, name="best gradient descent"),
        line(*paths[0].T, colour=BLUE, width=2, name=optimizer),
        dots(*paths[0].T, colour=BLUE, size=5),
        dots(*paths[0][-1:].T, colour=BLUE, size=12),
        line(steps, curves[1], colour=GREY, on=1),
        line(steps[: len(path)], curves[0], colour=BLUE, width=4 if modes else 2.5, on=1, name="loss"),
        *modes,
    ]
    text = _told(surface, optimizer, lr, beta, condition, path, losses, best, rivals)
    moments = []
    for k in SHOWN:
        at = min(k, len(path) - 1)  # where a run that was broken off stays
        so_far = slice(k + 1)
        mine, theirs = ({"x": p[so_far, 0], "y": p[so_far, 1]} for p in paths)
        here = {"x": paths[0][at : at + 1, 0], "y": paths[0][at : at + 1, 1]}
        mine_low, theirs_low = ({"x": steps[: len(curve)][so_far], "y": curve[so_far]} for curve in curves)
        update = [{}, {}, theirs, mine, mine, here, theirs_low, mine_low, *({} for _ in modes)]
        told = f"Step {k}: the loss is {brief(losses[at])}, that of the best gradient descent {brief(rivals[k])}."
        moments.append(frame(f"step {k}", update, text if k == STEPS else told))
    return figure(
        data,
        panel(f"{surface[0].upper()}{surface[1:]}", x=place.x, y=place.y),
        panel("Loss", x=(0, STEPS), y=place.powers, xlabel="step", yticks=power_ticks(*place.powers)),
        text=text,
        frames=moments,
    )


def brief(value: float) -> str:
    if value < NOTHING:
        return "below 10⁻¹²"
    return number(float(f"{value:.2g}"))


def _edge(place: Surface) -> tuple[np.ndarray, np.ndarray]:
    """Corners that enclose what is drawn with room to spare."""
    low, high = np.array([place.x, place.y]).T
    return low - 0.2 * (high - low), high + 0.2 * (high - low)


def _modes(along, optimizer, lr, beta, condition, powers) -> list[dict]:
    """The parts of the quadratic's loss along its eigenvectors, and what theory says of them."""
    traces = []
    for name, curvature, p, colour in (
        ("flat", 1.0, along[:, 0], GREEN),
        ("steep", condition, along[:, 1], VERMILLION),
    ):
        share = logarithm(curvature * p * p / 2, powers)
        traces.append(line(np.arange(float(len(along))), share, colour=colour, width=1.5, on=1, name=name))
        if optimizer in LINEAR:
            slope = 2 * np.log10(max(factor(optimizer, lr, beta, curvature), 1e-9))
            ends = np.array([0.0, STEPS])
            traces.append(line(ends, share[0] + slope * ends, colour=colour, width=1.5, dash="dot", on=1))
    return traces


def _told(surface, optimizer, lr, beta, condition, path, losses, best, rivals) -> str:
    """How the race ended, and why."""
    rival = f"that of gradient descent at its best rate, {number(best)}, is {brief(rivals[-1])}"
    linear = SURFACES[surface].axes is not None and optimizer in LINEAR
    flat, steep = (factor(optimizer, lr, beta, c) if linear else 0.0 for c in (1.0, condition))
    worst = max(flat, steep)
    if linear and abs(worst - 1) < 1e-9:
        return (
            f"At the edge: the rate is {_limit(optimizer, beta, condition)}, where a step keeps the steep mode's size."
        )
    if linear and worst > 1:
        above = f"the rate is above {_limit(optimizer, beta, condition)}"
        return f"Diverges: {above}, and a step multiplies the steep mode by {number(worst)}; {rival}."
    if len(path) <= STEPS:
        return f"Diverges: at step {len(path) - 1} it is more than a million away; {rival}."
    end = f"After {STEPS} steps the loss is {brief(losses[-1])}; {rival}."
    if linear:
        shrinks = f"the flat mode by {number(flat)}, the steep one by {number(steep)}"
        return f"{end} In the long run a step multiplies {shrinks}."
    near = [m for m in SURFACES[surface].minima if np.hypot(*(path[-1] - m)) < 0.2]
    if near:
        return f"{end} It is near the minimum ({number(near[0][0])}, {number(near[0][1])})."
    if surface == "saddle" and np.hypot(*path[-1]) < 0.3:
        return f"{end} It is still near the saddle point."
    return f"{end} It is not near a minimum yet."


def _limit(optimizer: str, beta: float, condition: float) -> str:
    formula, value = limit(optimizer, beta)
    return f"{formula} = {number(value / condition)}"


# ---------------------------------------------------------------------------------------------------------------------
# Schedules
# ---------------------------------------------------------------------------------------------------------------------

RUNS, LONGEST = 64, 400
FLAT, WALL, NOISE = 0.2, 0.25, 0.3
"""Curvature of the flat direction, strength of the quartic wall in the other, standard deviation of the noise."""
OUTSET = (3.0, 4.0)
CHECKS, PATIENCE = 40, 2
"""How often in a run the plateau is looked for, and how many looks without progress it takes."""
SCHEDULES = ("constant", "step", "exponential", "cosine", "one-cycle", "plateau")
DECAYING = ("step", "exponential", "plateau")
BOUNDS = (-4, 2)


def noisy_bowl(p) -> tuple[np.ndarray, np.ndarray]:
    """Loss (N,) and gradient (N, 2) of ``FLAT * x**2 / 2 + y**2 / 2 + WALL * y**4 / 4``."""
    x, y = p.T
    y2 = y * y
    return FLAT * x * x / 2 + y2 / 2 + WALL * y2 * y2 / 4, np.array([FLAT * x, y + WALL * y2 * y]).T


@cache
def noise() -> np.ndarray:
    """(LONGEST, 2 RUNS, 2), the second half of the rows like the first."""
    return np.tile(NOISE * np.random.default_rng(0).standard_normal((LONGEST, RUNS, 2)), (1, 2, 1))


def rate_of(schedule: str, lr: float, total: int, warmup: float, decay: float) -> Callable[[int], float]:
    """The learning rate as a function of the step; for the plateau, as far as it has no plateau to tell of."""
    rise = round(warmup * total)
    if schedule == "one-cycle":
        return partial(one_cycle, max_lr=lr, total_steps=total, pct_start=warmup)
    after: Any = {
        "step": partial(step_lr, lr=lr, step_size=max(total // 4, 1), gamma=decay),
        "exponential": partial(exponential_lr, lr=lr, gamma=decay ** (4 / total)),
        "cosine": partial(cosine_annealing_lr, lr=lr, T_max=max(total - rise, 1)),
    }.get(schedule, lr)
    return partial(linear_warmup, lr=after, total_iters=rise, start_factor=0.04)


def floor(lr: float) -> float:
    """The mean loss at which a constant rate comes to rest, from the curvatures at the minimum."""
    return sum(lr * NOISE**2 / (2 * (2 - lr * curvature)) for curvature in (FLAT, 1.0))


@lru_cache(maxsize=4)  # the page's grid asks for most runs several times, one after the other
def noisy_descent(schedule: str, lr: float, total: int, warmup: float, decay: float) -> tuple[np.ndarray, np.ndarray]:
    """Rates (total,), and losses (total + 1, 2 RUNS): under the schedule, then under the constant rate, same noise."""
    rate = rate_of(schedule, lr, total, warmup, decay)
    watch, shrunk = reduce_lr_on_plateau_init(lr), 1.0
    p = np.tile(OUTSET, (2 * RUNS, 1))
    state = sgd_init(p)
    loss, slope = noisy_bowl(p)
    rates, losses, disturbance = [], [loss], noise()
    shares = np.full((2 * RUNS, 1), lr)  # a gradient times its rate, at the rate 1, is a step with that rate
    for k in range(total):
        if schedule == "plateau" and k and k % max(total // CHECKS, 1) == 0 and k >= warmup * total:
            now, watch = reduce_lr_on_plateau(float(loss[:RUNS].mean()), watch, factor=decay, patience=PATIENCE)
            shrunk = now / lr
        rates.append(rate(k) * shrunk)
        shares[:RUNS] = rates[-1]
        p, state = sgd(p, shares * (slope + disturbance[k]), state, lr=1.0)
        p = np.clip(p, -1e3, 1e3)
        loss, slope = noisy_bowl(p)
        losses.append(loss)
    return np.array(rates), np.stack(losses)


@explorable(
    "What a schedule is good for",
    caption="The first panel is the schedule, as a share of its highest rate. The second is what stochastic gradient "
    "descent makes of it in a bowl with noise in the gradient, a flat direction, and walls that get steeper outside: "
    "the mean loss of 64 runs, and the band that holds four fifths of them. Grey: the highest rate all the time; "
    "dotted, the floor at which noise holds it up.",
    experiments=(
        experiment(
            "Keep the rate constant: 0.3, then 0.1.",
            "The loss falls to a floor and stays there: each step adds new noise. A third of the rate has a third of "
            "the floor, and takes three times as long to reach it.",
            schedule="constant",
        ),
        experiment(
            "With the highest rate 0.3, take cosine; then exponential with γ = 0.1.",
            "Cosine begins as fast and ends about six times lower: small steps average the noise away. The exponential "
            "one has spent its rate before it arrives, and ends higher than the constant rate does.",
            schedule="exponential",
            decay=0.1,
        ),
        experiment(
            "Raise the highest rate to 1, without and with a warm-up over a tenth of the steps.",
            "Where the run starts, the walls bear no rate above 0.4, and without warm-up it is thrown out. In the "
            "valley, where it is by the time the rate is high, they bear nearly 2.",
            lr=1.0,
            warmup=0.1,
        ),
    ),
    schedule=Choice(*SCHEDULES, default="cosine", label="Schedule"),
    lr=Log(0.03, 1, 0.3, label="Highest rate", stops=(0.03, 0.1, 0.3, 0.5, 1.0)),
    steps=Integer(50, LONGEST, 200, label="Steps", stops=(50, 100, 200, 400)),
    warmup=Linear(0, 0.5, 0, label="Warm-up, share of the steps", stops=(0.0, 0.1, 0.25, 0.5)),
    decay=Linear(
        0.1,
        0.9,
        0.3,
        label="Decay factor γ",
        stops=(0.1, 0.3, 0.6, 0.9),
        help="For a quarter of the steps (step, exponential), or for a plateau; the others have none.",
    ),
)
def schedules(schedule, lr, steps, warmup, decay):
    rates, losses = noisy_descent(schedule, lr, steps, warmup, decay if schedule in DECAYING else 1.0)
    shown = np.unique(np.linspace(0, steps, 81).round().astype(int))
    ours, constant = losses[:, :RUNS], losses[:, RUNS:]
    low, high = (logarithm(np.sort(ours[shown], axis=1)[:, k], BOUNDS) for k in (RUNS // 10, RUNS - 1 - RUNS // 10))
    means = [logarithm(part[shown].mean(axis=1), BOUNDS) for part in (ours, constant)]
    at = np.minimum(shown, steps - 1)
    rest = np.log10(floor(lr))
    data = [
        line(at, np.ones(len(at)), colour=GREY, width=1.5, name="constant"),
        line(at, np.round(rates[at] / lr, 3), colour=BLUE, name=schedule),
        band(shown, low, high, colour=BLUE, on=1),
        line(shown, means[1], colour=GREY, width=1.5, on=1, name="constant"),
        line([0, steps], [rest, rest], colour=GREY, width=1.5, dash="dot", on=1, name="its floor"),
        line(shown, means[0], colour=BLUE, on=1, name=schedule),
    ]
    return figure(
        data,
        panel("Learning rate over its highest", x=(0, steps), y=(-0.02, 1.08), xlabel="step"),
        panel("Mean loss", x=(0, steps), y=BOUNDS, xlabel="step", yticks=power_ticks(*BOUNDS)),
        text=_judged(lr, steps, ours, constant, alone=schedule == "constant" and warmup == 0),
    )


def _judged(lr, steps, ours, constant, alone) -> str:
    """How the schedule ended beside the constant rate."""
    thrown, thrown_constant = (bool((part > 1e3).any()) for part in (ours, constant))
    if thrown:
        return (
            f"It is thrown out: the walls where it starts bear a rate of {number(wall_limit())}, and it has more there."
        )
    end = f"After {steps} steps the mean loss is {brief(ours[-1].mean())}"
    if alone:
        return f"{end}; the floor of this rate is {brief(floor(lr))}."
    if thrown_constant:
        return f"{end}. The constant rate is thrown out at once: the walls where it starts bear {number(wall_limit())}."
    return f"{end}, under the constant rate {brief(constant[-1].mean())}, whose floor is {brief(floor(lr))}."


def wall_limit() -> float:
    """The largest rate at which the first step does not lead further out."""
    return 2 / (1 + WALL * OUTSET[1] ** 2)
