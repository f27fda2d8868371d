"""The widgets of chapter 7: gradients on their way back through time, and a character model that writes."""

from __future__ import annotations

import re
import textwrap
from functools import cache, lru_cache
from importlib import resources

import numpy as np

from nnbook import training
from nnbook.backprop import concatenate, vjp
from nnbook.data import python_topics
from nnbook.explore.core import Choice, Integer, Linear, experiment, explorable
from nnbook.explore.figures import band, bars, dots, figure, frame, line, panel, words
from nnbook.neurons import linear, softmax
from nnbook.plots import BLUE, GREEN, GREY, VERMILLION
from nnbook.regularization import orthogonal
from nnbook.rnn import (
    char_rnn,
    decode,
    encode,
    gradients_through_time,
    gru_cell,
    lstm_cell,
    rnn_cell,
    sample,
    vocabulary,
    with_spectral_radius,
)

# ---------------------------------------------------------------------------------------------------------------------
# Gradients through time
# ---------------------------------------------------------------------------------------------------------------------

UNITS, INPUTS, STEPS = 16, 4, 40
"""H, D and T of the network that is drawn."""

CELLS = {"tanh RNN": 1, "LSTM": 4, "GRU": 3}
"""How many blocks of H rows its weights have."""

FLOOR, CEILING = 10**-12.2, 10**9.2
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@lru_cache(maxsize=64)
def _network(cell: str, matrix: str, radius: float, bias: float):
    """Parameters of a layer whose recurrent blocks all have the spectral radius ``radius``."""
    rng, blocks = np.random.default_rng(2), CELLS[cell]
    draw = orthogonal if matrix == "orthogonal" else (lambda rng, shape, dtype: rng.standard_normal(shape))
    hidden = [draw(rng, (UNITS, UNITS), dtype=np.float64) for _ in range(blocks)]
    shift = np.zeros((blocks, UNITS))
    if blocks > 1:
        shift[1] = bias  # f is the second gate of the LSTM (i, f, g, o), z that of the GRU (r, z, n)
    return {
        "weight_ih_l0": rng.standard_normal((blocks * UNITS, INPUTS)) / np.sqrt(INPUTS),
        "weight_hh_l0": np.concatenate([with_spectral_radius(block, radius) for block in hidden]),
        "bias_ih_l0": shift.ravel(),
        "bias_hh_l0": np.zeros(blocks * UNITS),
    }


@cache
def _sequence():
    return np.random.default_rng(3).standard_normal((STEPS, INPUTS))


@lru_cache(maxsize=64)
def flow(cell: str, matrix: str, radius: float, bias: float, size: float):
    """Jacobians of the last h by every earlier state, and the Jacobian of one step in the middle.

    A batch of H copies of the sequence with the gradient I at the end: the row i of the gradient by h_t is the row i of
    dh_T/dh_t.

    Returns:
        dh_T/dh_t (T + 1, H, H), dh_T/dc_t (T + 1, H, H) or None, and the one-step Jacobian (S, S) of the whole state.
    """
    params = _network(cell, matrix, radius, bias)
    x = size * _sequence()
    copies = np.repeat(x[:, None], UNITS, axis=1)
    by_h, by_c = gradients_through_time(params, copies, np.eye(UNITS))
    return by_h, by_c, _one_step(cell, params, x)


def _one_step(cell: str, params, x):
    """Jacobian of one step by the whole state, in the middle of the sequence; of the LSTM that is (h, c)."""
    wide = 2 * UNITS if cell == "LSTM" else UNITS
    weights = [params[key] for key in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")]

    def step(state, inputs):
        if cell == "LSTM":
            h, c = lstm_cell(inputs, state[:, :UNITS], state[:, UNITS:], *weights)
            return h, c
        return ((gru_cell if cell == "GRU" else rnn_cell)(inputs, state, *weights),)

    state = np.zeros((1, wide))
    for inputs in x[: STEPS // 2]:
        state = np.concatenate(step(state, inputs[None]), axis=1)
    # A copy of the state for each entry of the one after it, and a gradient of 1 at that entry.
    copies, inputs = np.repeat(state, wide, axis=0), np.repeat(x[STEPS // 2][None], wide, axis=0)
    _, pull = vjp(lambda state: concatenate(*step(state, inputs), axis=1), copies)
    return pull(np.eye(wide))[0]


def power(value: float) -> str:
    """Two digits, with a power of ten where one is due; what is smaller than is drawn is not told."""
    if value < FLOOR:
        return "less than 10⁻¹²"
    if 1e-3 <= value < 999.5:
        return f"{float(f'{value:.2g}'):g}"
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits}·10{str(int(exponent)).translate(SUPERSCRIPT)}"


def pace(ratio: float, steps: int) -> str:
    """A change over many steps as a change a step, with its half-life or its time of doubling."""
    a_step = ratio ** (1 / steps)
    if abs(np.log(ratio)) < 0.05:
        return f"{a_step:.3f} a step, so it hardly changes"
    takes = np.log(2) / abs(np.log(a_step))
    what = "half of it is gone after" if a_step < 1 else "it doubles every"
    return f"{a_step:.2f} a step, {what} {takes:.2g} step{'' if f'{takes:.2g}' == '1' else 's'}"


def _logarithm(x, y, **look):
    """A curve of the logarithms of ``y``, so it does not tell its numbers under the mouse."""
    return {**line(x, np.round(np.log10(np.clip(y, FLOOR, CEILING)), 2), **look), "hoverinfo": "name"}


@explorable(
    "Gradients on their way back through time",
    caption="A loss stands at the end of a sequence of 40 steps. First the size of its gradient by the state that each "
    "step hands on, mean over all directions that the gradient can have at the end; in the shade all single "
    "directions. k counts the steps from the end. Then eigenvalues in the complex plane with the unit circle: those of "
    "the recurrent matrix, and those of the Jacobian of one step in the middle. Networks of 16 units with random "
    "weights; in the LSTM and the GRU every block of the recurrent matrix has the spectral radius ρ.",
    experiments=(
        experiment(
            "Set the size of the inputs to 0 and move ρ from 0.7 over 1 to 1.3; then take the orthogonal matrix.",
            "The state stays 0, where tanh is the identity, so the gradient keeps to ρᵏ: it vanishes, stays, explodes. "
            "The orthogonal matrix keeps to it exactly, in every direction; the Gaussian one of the same radius loses "
            "some directions faster, and about half of the mean is left.",
            size=0.0,
            radius=1.3,
        ),
        experiment(
            "Stay at ρ = 1.3 and raise the inputs over 0.1 and 0.5 to 1.",
            "The explosion turns into its opposite, 10⁻⁸, though ρ⁴⁰ is 3.6·10⁴. Large states lie where tanh is flat, "
            "every step multiplies by its slope as well, and the eigenvalues of a step move into the circle.",
            size=1.0,
            radius=1.3,
        ),
        experiment(
            "Take the LSTM with ρ = 0.7 and raise b from 0 over 2 to 4; then move ρ.",
            "Half of the gradient is gone after 1.2 steps, then 5.8, then 14: half of the eigenvalues move to σ(b), "
            "the factor by which the cell keeps its state. ρ now matters less: from 0.5 to 1.5 the gradient changes "
            "tenfold with inputs of 0.5, five hundredfold with inputs of 0, and ρ⁴⁰ by a factor of 10¹⁹.",
            cell="LSTM",
            radius=0.7,
            bias=4.0,
        ),
    ),
    cell=Choice(*CELLS, label="Cell"),
    matrix=Choice("Gaussian", "orthogonal", label="Recurrent matrix"),
    radius=Linear(0.5, 1.5, 1.0, stops=(0.5, 0.7, 0.9, 1.0, 1.1, 1.3, 1.5), label="Spectral radius ρ"),
    bias=Linear(
        -2,
        4,
        0,
        stops=(-2, 0, 1, 2, 4),
        label="Bias b of the gate that keeps",
        help="Forget gate of the LSTM, update gate of the GRU. The tanh RNN has none, so nothing changes there.",
    ),
    size=Linear(0, 1, 0.5, stops=(0, 0.1, 0.5, 1), label="Size of the inputs"),
)
def gradient_flow(cell, matrix, radius, bias, size):
    gated = cell != "tanh RNN"
    by_h, by_c, jacobian = flow(cell, matrix, radius, bias if gated else 0.0, size)
    norms = np.sqrt((by_h**2).sum(axis=(1, 2)) / UNITS)
    spread = np.linalg.svd(by_h, compute_uv=False)
    times = np.arange(STEPS + 1.0)
    back = STEPS - times
    low, high = (np.round(np.log10(np.clip(s, FLOOR, CEILING)), 1) for s in (spread[:, -1], spread[:, 0]))
    keep = 1 / (1 + np.exp(-bias))
    square = _network(cell, matrix, radius, bias if gated else 0.0)["weight_hh_l0"][-UNITS:]
    turn = np.linspace(0, 2 * np.pi, 61)
    whole, step = (np.linalg.eigvals(m) for m in (square, jacobian))
    data = [
        band(times, low, high, colour=BLUE, opacity=0.15),
        *(
            [_logarithm(times[:-1], np.sqrt((by_c[:-1] ** 2).sum(axis=(1, 2)) / UNITS), name="by c", colour=VERMILLION)]
            if by_c is not None
            else []
        ),
        _logarithm(times, norms, name="by h", colour=BLUE),
        _logarithm(times, radius**back, name="ρᵏ", colour=GREY, dash="dash", width=2),
        *([_logarithm(times, keep**back, name="σ(b)ᵏ", colour=GREEN, dash="dot", width=2)] if gated else []),
        line(np.cos(turn), np.sin(turn), colour=GREY, width=1, on=1),
        dots(whole.real, whole.imag, name="matrix", colour=GREY, size=9, opacity=0.6, on=1),
        dots(step.real, step.imag, name="one step", colour=BLUE, size=5, on=1),
    ]
    ticks = {k: f"10{str(k).translate(SUPERSCRIPT)}" for k in range(-12, 10, 3)}
    end = str(STEPS).translate(SUPERSCRIPT)
    compared = f"ρ{end} is {power(radius**STEPS)}"
    if gated:
        compared += f", and σ(b){end}, with σ(b) = {keep:.2g}, is {power(keep**STEPS)}"
    ratio = norms[0]
    text = f"Over {STEPS} steps the gradient by h is multiplied by {power(ratio)}"
    text += f": {pace(ratio, STEPS)}. {compared}." if ratio >= FLOOR else f". {compared}."
    return figure(
        data,
        panel(
            "Size of the gradient by the state", x=(0, STEPS), y=(-12.2, 9.2), xlabel="step t", yticks=ticks, share=1.3
        ),
        panel("Eigenvalues", x=(-1.8, 1.8), y=(-1.8, 1.8), equal=True),
        text=text,
    )


# ---------------------------------------------------------------------------------------------------------------------
# A character model that writes
# ---------------------------------------------------------------------------------------------------------------------

WEIGHTS = "char_model.safetensors"
"""Made by ``python tools/train_char_model.py``."""

WRITTEN, LIKELIEST, LINE, LINES = 80, 12, 38, 9
"""Characters that are written and bars that are shown; characters in a line, and lines."""

PROMPTS = ("This method", "The value of", "For example", "A neural network", ">>> x =")


@cache
def _model():
    """Parameters of the model, and its vocabulary."""
    with resources.as_file(resources.files("nnbook") / "_data" / WEIGHTS) as path:
        return training.load(path), vocabulary(python_topics())


@cache
def _read(prompt: str):
    """Logits of the character after a prompt, and the state."""
    params, tokens = _model()
    logits, state = char_rnn(params, encode(prompt, tokens)[:, None])
    return logits[-1], state[0]


@lru_cache(maxsize=256)
def write(prompt: str, temperature: float, seed: int):
    """What the model writes after a prompt: (WRITTEN,) characters, and the (WRITTEN, K) logits that each is drawn from.

    The numbers that decide are the same at every temperature.
    """
    params, _ = _model()
    layer = [params["rnn"][f"{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    rng = np.random.default_rng(seed)
    logits, h = _read(prompt)
    drawn, seen = [], []
    for _ in range(WRITTEN):  # as nnbook.rnn.generate does, with less to do a step
        token = sample(rng, logits, temperature=temperature)
        drawn.append(int(token[0]))
        seen.append(logits[0])
        h = gru_cell(params["embedding"]["weight"][token], h, *layer)
        logits = linear(h, **params["linear"])
    return np.array(drawn), np.array(seen, np.float64)


def bits(p):
    """Entropy over the last axis."""
    return -(p * np.log2(np.maximum(p, 1e-300))).sum(axis=-1)


def _visible(character: str) -> str:
    return {" ": "␣", "\n": "↵"}.get(character, character)


def _chance(p: float) -> str:
    return "above 0.995" if p > 0.995 else "below 0.005" if p < 0.005 else f"{p:.2f}"


def _lines(prompt: str, text: str) -> list[str]:
    """The last lines of prompt and text, the prompt bold; ends of lines and spaces in a row are made visible."""
    whole = re.sub(" {3,}", lambda run: "·" * len(run[0]), prompt + text).replace("\n", "↵\n")
    rows = [row for part in whole.split("\n") for row in textwrap.wrap(part, LINE, drop_whitespace=False)]
    rows = [_plain(row) for row in rows]
    start = len(_plain(prompt))
    rows[0] = f"<b>{rows[0][:start]}</b>{rows[0][start:]}"
    return [*rows[-LINES:], *[""] * (LINES - len(rows))]


def _plain(text: str) -> str:
    """Without what the drawing would take for its own: spaces that are dropped, tags, entities."""
    return (
        text.replace(" ", "\N{NO-BREAK SPACE}")
        .replace("<", "<\N{ZERO WIDTH SPACE}")
        .replace("&", "&\N{ZERO WIDTH SPACE}")
    )


@explorable(
    "A character model writes at a temperature",
    caption="A GRU of 208 units that was trained on help texts of the Python language, character by character. It goes "
    "on from the prompt (bold); ↵ is the end of a line, ␣ a space, and ··· are spaces in a row. The second panel shows "
    "what the last character was drawn from: the likeliest characters and the sum of the rest, at temperature 1 in "
    "grey and at the chosen one in blue; the mark is on the one that was drawn. A seed stands for the same random "
    "numbers at every temperature.",
    experiments=(
        experiment(
            "Take “For example” and the temperature 0.1, and change the seed.",
            "All three seeds write the same: nearly all the probability is on one character each time. After any "
            "prompt the model falls into its commonest phrases, and nearly every word is one of its training text.",
            prompt="For example",
            temperature=0.1,
        ),
        experiment(
            "At temperature 1 follow the entropy from character to character.",
            "Where a word begins it is about 3.4 bits, inside a word about 1: the first letter decides, the rest is "
            "spelling. Six words of seven are words of the training text.",
            frame=0,
            temperature=1.0,
        ),
        experiment(
            "Take the temperature 2.",
            "The mean entropy is three times that at temperature 1, about 4.4 bits, and one word of seven is one of "
            "the training text. The entropy of the model itself grows too, from 1.5 to 2.2 bits: it has to go on from "
            "its own misspellings.",
            temperature=2.0,
        ),
    ),
    prompt=Choice(*PROMPTS, label="Prompt"),
    temperature=Linear(0.1, 2, 0.7, stops=(0.1, 0.3, 0.5, 0.7, 1.0, 1.3, 1.6, 2.0), label="Temperature"),
    seed=Integer(1, 3, 1, label="Seed"),
)
def sampling_temperature(prompt, temperature, seed):
    _, tokens = _model()
    drawn, logits = write(prompt, temperature, seed)
    text = decode(drawn, tokens)
    own, used = softmax(logits), softmax(logits / temperature)
    order = np.argsort(-own, axis=1, kind="stable")[:, :LIKELIEST]
    before, after = (np.take_along_axis(p, order, axis=1) for p in (own, used))
    before, after = (np.column_stack([p, np.maximum(1 - p.sum(axis=1), 0)]).round(3) for p in (before, after))
    place = np.where((order == drawn[:, None]).any(axis=1), (order == drawn[:, None]).argmax(axis=1), LIKELIEST)
    entropies, chance = (bits(own), bits(used)), np.take_along_axis(used, drawn[:, None], axis=1)[:, 0]
    means = [h.mean() for h in entropies]
    slots, down = np.arange(LIKELIEST + 1.0), np.arange(LINES) + 0.5
    height = after[np.arange(WRITTEN), place] + 0.05
    written = words(np.zeros(LINES), down, [""] * LINES, size=12, place="middle right")
    data = [
        {**written, "textfont": {**written["textfont"], "family": "monospace"}},
        bars(slots, before[-1], name="temperature 1", colour=GREY, width=0.85, opacity=0.45, on=1),
        bars(slots, after[-1], name="as chosen", colour=BLUE, width=0.5, on=1),
        words(slots, np.full(LIKELIEST + 1, -0.06), [""] * (LIKELIEST + 1), size=12, on=1),
        dots(place[-1:], height[-1:], colour=VERMILLION, symbol="diamond", size=9, on=1),
    ]
    moments = []
    for k in range(WRITTEN):
        names = [_plain(_visible(tokens[i])) for i in order[k]]
        told = (
            f"“{_visible(text[k])}” was drawn, with probability {_chance(chance[k])}. The entropy was "
            f"{abs(entropies[1][k]):.2f} bits, at temperature 1 it would be {entropies[0][k]:.2f}; their means over "
            f"all {WRITTEN} characters are {means[1]:.2f} and {means[0]:.2f}."
        )
        update = [
            {"text": _lines(prompt, text[: k + 1])},
            {"y": before[k]},
            {"y": after[k]},
            {"text": [*names, "rest"]},
            {"x": place[k : k + 1].astype(float), "y": height[k : k + 1]},
        ]
        moments.append(frame(f"character {k + 1}", update, told))
    return figure(
        data,
        panel("Written so far", x=(0, LINE), y=(LINES + 0.3, 0), bare=True),
        panel(
            "Probability of the last character",
            x=(-0.6, LIKELIEST + 0.6),
            y=(-0.12, 1.12),
            ticks=dict.fromkeys(slots, ""),
            yticks={0: "0", 0.5: "0.5", 1: "1"},
        ),
        text=moments[-1]["text"],
        frames=moments,
        layout={"barmode": "overlay"},
    )
