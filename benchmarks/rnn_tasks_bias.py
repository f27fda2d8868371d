"""Adding with the forget bias that the length asks for; see ``rnn_tasks.py`` and ``rnn_tasks_long.py``.

The LSTM of those files starts with a forget bias of one. This one starts with ``log(T - 1)``, a memory of T steps.
All else is the same: learning rate, steps, seeds.

Bar: with 50 numbers every seed solves the task, as it does with the bias of one.
"""

from __future__ import annotations

import math

import rnn_tasks
import rnn_tasks_long
from _common import Bar, main
from rnn_tasks import RATES, chosen_rates, compare, settings

RUNS = {50: (rnn_tasks.STEPS, rnn_tasks.SEEDS), 200: (rnn_tasks_long.STEPS, rnn_tasks_long.SEEDS)}


def measure(quick):
    rate = RATES[-1] if quick else chosen_rates()["LSTM"]
    lengths = {}
    for length, (steps, seeds) in RUNS.items():
        rnn_tasks.CELLS = {"LSTM": ("lstm", math.log(length - 1))}
        rows = compare("adding", [length], seeds[:1] if quick else seeds, {"LSTM": rate}, 50 if quick else steps)
        lengths |= rows["LSTM"]["lengths"]
    if quick:
        return {"lengths": lengths}, []
    return settings("adding", *RUNS[50]) | {"lr": rate, "lengths": lengths}, [
        Bar("seeds that solve adding with 50 numbers", lengths["50"]["solved"], len(RUNS[50][1]), at_least=True)
    ]


if __name__ == "__main__":
    main(__file__, measure)
