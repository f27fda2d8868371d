"""Adding over 200 steps, RNN against GRU against LSTM; see ``rnn_tasks.py``, which has chosen the learning rates.

At most 1,000 steps, two seeds, because a run takes so long.

Bar: the GRU solves the task with every seed.
"""

from __future__ import annotations

from _common import Bar, main
from rnn_tasks import RATES, chosen_rates, compare, settings

LENGTHS, STEPS, SEEDS = [200], 1000, [0, 1]


def measure(quick):
    steps, seeds = (50, SEEDS[:1]) if quick else (STEPS, SEEDS)
    rates = dict.fromkeys(("RNN", "GRU", "LSTM"), RATES[-1]) if quick else chosen_rates()
    rows = compare("adding", LENGTHS, seeds, rates, steps)
    if quick:
        return {"cells": rows}, []
    solved = rows["GRU"]["lengths"][str(LENGTHS[-1])]["solved"]
    return settings("adding", steps, seeds) | {"cells": rows}, [
        Bar("seeds with which the GRU solves adding", solved, len(seeds), at_least=True)
    ]


if __name__ == "__main__":
    main(__file__, measure)
