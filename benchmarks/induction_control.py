"""One layer with as many heads as the two layers of ``induction.py`` have together, on the same task.

Bar: less than half of the repeated symbols are right, best seed.
"""

from __future__ import annotations

import induction
from _common import Bar, main, spread

CONFIG = induction.CONFIG | {"n_head": 4}


def measure(quick):
    import numpy as np

    induction.CONFIG = CONFIG
    training = induction.TRAINING | ({"steps": 20} if quick else {})
    test, right = induction.draw(np.random.default_rng(999), 256), []
    for seed in range(1 if quick else 3):
        params, curve = induction.train(seed, 1, training)
        right.append(induction.loss_and_accuracy(params, *test, n_head=CONFIG["n_head"])[1])
        print(
            f"1 layer, {CONFIG['n_head']} heads, seed {seed}: {100 * right[-1]:.1f} % right, loss {curve[-1]:.2f}",
            flush=True,
        )
    return {"config": CONFIG, "training": training, "accuracy": spread(right)}, [
        Bar("one layer, four heads, best seed", max(right), 0.5)
    ]


if __name__ == "__main__":
    main(__file__, measure, threads=1)
