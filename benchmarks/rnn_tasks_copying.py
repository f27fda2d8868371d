"""Copying three symbols after a delay, RNN against GRU against LSTM; see ``rnn_tasks.py`` for how they are trained.

The task (:func:`nnbook.data.copying`) shows three symbols of eight and asks for them after a delay. Whoever says blank
until the sign and guesses afterwards has a cross-entropy of 3 log 8 / (delay + 6) nats a step, and one symbol in eight
right. At most 800 steps.

Bars: at every delay the GRU has more symbols right than the plain network.
"""

from __future__ import annotations

from _common import Bar, main
from rnn_tasks import RATES, SEEDS, chosen_rates, compare, settings

DELAYS, STEPS = [5, 20], 800


def measure(quick):
    steps, seeds = (50, SEEDS[:1]) if quick else (STEPS, SEEDS)
    rates = dict.fromkeys(("RNN", "GRU", "LSTM"), RATES[-1]) if quick else chosen_rates()
    rows = compare("copying", DELAYS[:1] if quick else DELAYS, seeds, rates, steps)
    if quick:
        return {"cells": rows}, []
    ahead = [
        rows["GRU"]["lengths"][str(d)]["score"]["min"] - rows["RNN"]["lengths"][str(d)]["score"]["max"] for d in DELAYS
    ]
    return settings("copying", steps, seeds) | {"cells": rows}, [
        Bar("worst GRU ahead of the best plain network, share of symbols", min(ahead), 0, at_least=True)
    ]


if __name__ == "__main__":
    main(__file__, measure)
