"""Batch size against the steps and the time to a fixed validation accuracy: SGD on the MNIST subset, 5 seeds.

For each batch size the learning rate is tuned on its own: two further seeds train with every rate of a grid, and the
rate that needs the fewest steps on average to reach the target on the validation part wins. Then five other seeds train
with that rate until they reach it. A run is given up after ten epochs (``most_steps`` has the exceptions), or if after
a quarter of that every second example is still wrong.

Validation is looked at after every step at first and later after 4 % more steps, which is how exactly the steps are
known; it does not count as training time. The test set is looked at once a run, with the parameters that reached the
target.

The bar asks only that every run with a tuned rate gets there. Times are those of one thread; ``cpu_seconds`` leave out
what other processes of the machine took.
"""

from __future__ import annotations

import time

from _common import Bar, main, spread

NETWORK, TARGET = (784, 32, 10), 0.92
SIZES = [8, 32, 128, 512, 2048, 8000]
GRID = [3.2, 1.6, 0.8, 0.4, 0.2, 0.1, 0.05, 0.025]
SEEDS, TUNING_SEEDS = [0, 1, 2, 3, 4], [10, 11]


def most_steps(size):
    """Steps after which a run is given up: ten epochs, but neither more than 5000 steps nor fewer than 800."""
    return min(5000, max(800, 80_000 // size))


def batches(count, size, rng):
    """Rows of one batch after the other, in a new order every epoch."""
    while True:
        order = rng.permutation(count)
        yield from (order[i : i + size] for i in range(0, count - size + 1, size))


def train(data, validation, size, lr, seed, most):
    """Steps, seconds and CPU seconds of training until the target is reached, and the parameters; None if it is not."""
    import numpy as np
    from _models import classification, test_accuracy

    from nnbook.backprop import value_and_grad
    from nnbook.neurons import mlp_init
    from nnbook.optimizers import sgd, sgd_init

    x, y = data
    rng = np.random.default_rng(seed)
    params = mlp_init(rng, NETWORK)
    state, gradient = sgd_init(params), value_and_grad(classification)
    wall = cpu = 0.0
    look = 1
    for step, rows in enumerate(batches(len(x), size, rng), 1):
        begin = time.perf_counter(), time.process_time()
        value, grads = gradient(params, x[rows], y[rows])
        params, state = sgd(params, grads, state, lr=lr)
        wall, cpu = wall + time.perf_counter() - begin[0], cpu + time.process_time() - begin[1]
        if step >= look:
            accuracy = test_accuracy(params, *validation)
            if accuracy >= TARGET:
                return step, wall, cpu, params
            if step > most // 4 and accuracy < 0.5:
                break
            look = max(step + 1, int(1.04 * step))
        if not value < 100 or step >= most:
            break
    return None


def tune(data, validation, size, most):
    """Rate -> steps of each tuning seed (None: not reached), from large rates to small ones, and the best rate.

    A rate is given up where it needs twice the steps of the best so far.
    """
    import numpy as np

    table, best, lowest = {}, GRID[0], np.inf
    for lr in GRID:
        runs = [train(data, validation, size, lr, seed, int(min(most, 2 * lowest))) for seed in TUNING_SEEDS]
        table[str(lr)] = [run and run[0] for run in runs]
        if all(runs) and (mean := float(np.mean(table[str(lr)]))) < lowest:
            best, lowest = lr, mean
        elif lowest < np.inf and not any(runs):
            break  # smaller rates are slower still
    return table, best


def measure(quick):
    import numpy as np
    from _models import test_accuracy

    from nnbook.data import mnist_subset, split

    whole, test = mnist_subset()
    data, validation = split(*whole, fractions=(0.8, 0.2), rng=np.random.default_rng(0))
    rows, missed = [], 0
    for size in [128, 512] if quick else SIZES:
        table, lr = tune(data, validation, size, most_steps(size))
        runs = [train(data, validation, size, lr, seed, most_steps(size)) for seed in (SEEDS[:2] if quick else SEEDS)]
        missed += sum(run is None for run in runs)
        steps, wall, cpu = ([None if run is None else run[k] for run in runs] for k in range(3))
        row = {"batch_size": size, "lr": lr, "tuning": table, "steps": steps, "seconds": wall, "cpu_seconds": cpu}
        row["examples"] = [None if n is None else n * size for n in steps]
        row["test_accuracy"] = [None if run is None else test_accuracy(run[3], *test) for run in runs]
        rows.append(row)
        got = [run for run in runs if run is not None]
        if got:
            counted, taken = spread(run[0] for run in got), spread(run[2] for run in got)
            print(
                f"batch {size}: lr {lr:g}, {counted['mean']:.0f} steps (sd {counted['sd']:.0f}), "
                f"{taken['mean']:.2f} s (sd {taken['sd']:.2f}) of processor time",
                flush=True,
            )
    results = {
        "seeds": SEEDS,
        "tuning_seeds": TUNING_SEEDS,
        "target": TARGET,
        "grid": GRID,
        "network": NETWORK,
        "optimizer": "sgd",
        "parts": {"train": len(data[0]), "validation": len(validation[0]), "test": len(test[0])},
        "sizes": rows,
    }
    return results, [Bar("runs with a tuned rate that do not reach the target", missed, 0)]


if __name__ == "__main__":
    main(__file__, measure)
