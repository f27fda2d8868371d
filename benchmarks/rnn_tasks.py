"""A task that needs memory, adding, at two lengths: RNN against GRU against LSTM; and what the other two files share.

Adding (:func:`nnbook.data.adding`) asks for the sum of two marked numbers among T. Whoever says 1 has a mean squared
error of 1/6. ``rnn_tasks_long.py`` has the same for 200 steps, ``rnn_tasks_copying.py`` the copying task.

Every network has 32 units, is trained by Adam on fresh sequences, 32 a step, with gradients clipped at norm 1, for at
most 1,500 steps, and stops early when it has solved the task on 500 sequences of its own. The learning rate of each
cell is chosen here, at length 50 with seed 10, and serves all three files. Then come seeds 0 to 4, and one look at
1,000 new sequences each.

Bars: at both lengths the GRU and the LSTM solve the task with every seed.
"""

from __future__ import annotations

import math

from _common import Bar, main, spread

CELLS = {  # name: (cell, forget bias)
    "RNN": ("rnn", None),
    "GRU": ("gru", None),
    "LSTM": ("lstm", 1.0),
}
RATES = [3e-3, 1e-2]
LENGTHS = [10, 50]
UNITS, STEPS = 32, 1500
BATCH, EVERY, ITEMS, SYMBOLS = 32, 50, 3, 8
SELECTION, SEEDS = 10, [0, 1, 2, 3, 4]
SOLVED = {"adding": 0.01, "copying": 0.99}  # mean squared error below; share of symbols right above


def setup(task, length, seed, cell, forget_bias):
    """``(params, loss, score, draw)``: ``score`` is the mean squared error, or the share of symbols that are right."""
    import numpy as np

    from nnbook import data
    from nnbook.losses import mse_loss
    from nnbook.neurons import linear, linear_init
    from nnbook.rnn import char_rnn, char_rnn_init, recurrent, recurrent_init, sequence_cross_entropy

    rng = np.random.default_rng(seed)
    hidden = UNITS
    if task == "adding":

        def draw(n):
            x, y = data.adding(n, length, rng=rng)
            return np.ascontiguousarray(x.transpose(1, 0, 2)), y

        params = {"rnn": recurrent_init(rng, cell, 2, hidden, forget_bias=forget_bias)}
        params["linear"] = linear_init(rng, hidden, 1)

        def model(params, x):
            output, _ = recurrent(params["rnn"], x)
            return linear(output[-1], **params["linear"])

        def loss(params, x, y):
            return mse_loss(model(params, x), y)

        return params, loss, loss, draw

    def draw(n):
        x, y = data.copying(n, length, rng=rng, items=ITEMS, symbols=SYMBOLS)
        return np.ascontiguousarray(x.T), np.ascontiguousarray(y.T)

    options = {"cell": cell, "embedding_size": 16, "forget_bias": forget_bias}
    params = char_rnn_init(rng, SYMBOLS + 2, hidden, **options)

    def loss(params, x, y):
        return sequence_cross_entropy(char_rnn(params, x)[0], y)

    def score(params, x, y):
        return np.mean(char_rnn(params, x)[0][-ITEMS:].argmax(-1) == y[-ITEMS:])

    return params, loss, score, draw


def train(task, length, seed, name, lr, steps):
    from nnbook.backprop import value_and_grad
    from nnbook.optimizers import adam, adam_init, clip_grad_norm

    params, loss, score, draw = setup(task, length, seed, *CELLS[name])
    gradient, state, watched, curve = value_and_grad(loss), adam_init(params), draw(500), []
    for step in range(1, steps + 1):
        _, grads = gradient(params, *draw(BATCH))
        grads, _ = clip_grad_norm(grads, max_norm=1.0)
        params, state = adam(params, grads, state, lr=lr)
        if step % EVERY == 0:
            curve.append(float(score(params, *watched)))
            if solved(task, curve[-1]):
                break
    fresh = draw(1000)
    return {
        "steps": step,
        "curve": [round(value, 5) for value in curve],
        "score": float(score(params, *fresh)),
        "loss": float(loss(params, *fresh)),
    }


def solved(task, score):
    return score < SOLVED[task] if task == "adding" else score > SOLVED[task]


def baseline(task, length):
    """Mean squared error, or nats a step, of the best answer without a memory."""
    return 1 / 6 if task == "adding" else ITEMS * math.log(SYMBOLS) / (length + 2 * ITEMS)


def choose(task, length, name, steps):
    runs = {lr: train(task, length, SELECTION, name, lr, steps) for lr in RATES}
    # The fewest steps to the solution; among those that have none, the lowest loss.
    ranking = {lr: (not solved(task, r["curve"][-1]), r["steps"], r["loss"]) for lr, r in runs.items()}
    return min(ranking, key=ranking.get)


def chosen_rates():
    """The learning rate of each cell, as :func:`measure` chose it."""
    import json

    from _common import RESULTS

    stored = json.loads((RESULTS / "rnn_tasks.json").read_text(encoding="utf-8"))
    return {name: row["lr"] for name, row in stored["results"]["cells"].items()}


def compare(task, lengths, seeds, rates, steps):
    """``{name of the cell: {"lr", "lengths": {length: scores of all seeds and their spread}}}``."""
    rows = {}
    for name in CELLS:
        rows[name] = {"lr": rates[name], "lengths": {}}
        for length in lengths:
            runs = [train(task, length, seed, name, rates[name], steps) for seed in seeds]
            rows[name]["lengths"][str(length)] = {
                "score": spread([run["score"] for run in runs]),
                "loss": spread([run["loss"] for run in runs]),
                "baseline": baseline(task, length),
                "solved": sum(solved(task, run["curve"][-1]) for run in runs),
                "runs": runs,
            }
            print(f"{task} {length:3} {name:4} lr {rates[name]:g}", [(r["steps"], round(r["score"], 4)) for r in runs])
    return rows


def settings(task, steps, seeds):
    shared = {"task": task, "units": UNITS, "steps": steps, "batch_size": BATCH, "rates": RATES, "seeds": seeds}
    return shared | {"items": ITEMS, "symbols": SYMBOLS, "selection_seed": SELECTION}


def measure(quick):
    steps, seeds = (100, SEEDS[:1]) if quick else (STEPS, SEEDS)
    rates = {name: RATES[-1] if quick else choose("adding", LENGTHS[-1], name, steps) for name in CELLS}
    rows = compare("adding", LENGTHS[:1] if quick else LENGTHS, seeds, rates, steps)
    if quick:
        return {"cells": rows}, []
    gated = [rows[name]["lengths"][str(length)]["solved"] for name in ("GRU", "LSTM") for length in LENGTHS]
    return settings("adding", steps, seeds) | {"cells": rows}, [
        Bar("seeds that solve adding, worse gated cell and length", min(gated), len(SEEDS), at_least=True)
    ]


if __name__ == "__main__":
    main(__file__, measure)
