"""How much each optimizer depends on its learning rate: digits and the MNIST subset, a grid of rates, 5 seeds.

Every optimizer trains the same network from the same weights on the same batches, once for each rate of one grid and
each seed; two of them once more with a cosine schedule down to zero. Kept are the loss on the whole training part and
the accuracy on the validation part after the last step. The rate with the best mean validation accuracy is chosen, and
only for that one is the test set looked at, once a seed.

The split is the same for all seeds, which differ in the weights and in the order of the examples. A run whose loss or
weights are no longer finite is kept as null. The bar asks only whether every optimizer has a rate at which all its
seeds come through: what the curves say is for the chapter.
"""

from __future__ import annotations

import functools

from _common import Bar, main, spread

GRID = [3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0]
SEEDS = [0, 1, 2, 3, 4]
CURVES = {
    "sgd": ("sgd", {}, "constant"),
    "momentum": ("sgd", {"momentum": 0.9}, "constant"),
    "nesterov": ("sgd", {"momentum": 0.9, "nesterov": True}, "constant"),
    "adagrad": ("adagrad", {}, "constant"),
    "rmsprop": ("rmsprop", {}, "constant"),
    "adadelta": ("adadelta", {}, "constant"),
    "adam": ("adam", {}, "constant"),
    "amsgrad": ("adam", {"amsgrad": True}, "constant"),
    "adamw": ("adamw", {}, "constant"),
    "lion": ("lion", {}, "constant"),
    "momentum, cosine": ("sgd", {"momentum": 0.9}, "cosine"),
    "adam, cosine": ("adam", {}, "cosine"),
}
PROBLEMS = {
    "digits": {"network": (64, 32, 10), "epochs": 15, "batch_size": 64},
    "mnist": {"network": (784, 32, 10), "epochs": 3, "batch_size": 128},
}


def parts(name):
    """Training, validation and test part."""
    import numpy as np

    from nnbook.data import digits, mnist_subset, split

    rng = np.random.default_rng(0)
    if name == "digits":
        return split(*digits(), fractions=(0.6, 0.2, 0.2), rng=rng)
    whole, test = mnist_subset()
    return [*split(*whole, fractions=(0.8, 0.2), rng=rng), test]


def train(data, problem, curve, lr, seed):
    """The parameters after the last step; None if the run diverged."""
    import numpy as np
    from _models import classification

    from nnbook import optimizers
    from nnbook.backprop import flatten
    from nnbook.neurons import mlp_init
    from nnbook.training import fit

    name, options, schedule = CURVES[curve]
    steps = problem["epochs"] * -(-len(data[0]) // problem["batch_size"])
    if schedule == "cosine":
        lr = functools.partial(optimizers.cosine_annealing_lr, lr=lr, T_max=steps)
    rng = np.random.default_rng(seed)
    try:
        with np.errstate(all="ignore"):  # a rate that is too large overflows: that is what is looked for
            result = fit(
                mlp_init(rng, problem["network"]),
                classification,
                data,
                optimizer=(getattr(optimizers, f"{name}_init"), getattr(optimizers, name)),
                lr=lr,
                epochs=problem["epochs"],
                batch_size=problem["batch_size"],
                rng=rng,
                **options,
            )
    except FloatingPointError:
        return None
    finite = all(np.isfinite(leaf).all() for leaf in flatten(result.params).values())
    return result.params if finite else None


def curve(problem, name, train_part, validation, test, seeds, grid):
    import numpy as np
    from _models import classification, test_accuracy

    from nnbook.training import evaluate

    losses, accuracies, kept = [], [], []
    for lr in grid:
        runs = [train(train_part, problem, name, lr, seed) for seed in seeds]
        with np.errstate(all="ignore"):
            loss = [None if p is None else evaluate(p, classification, train_part, batch_size=2000) for p in runs]
            losses.append([None if value is None or not np.isfinite(value) else float(value) for value in loss])
        accuracies.append([None if p is None else test_accuracy(p, *validation) for p in runs])
        kept.append(runs)
    score = [-1.0 if None in row else float(np.mean(row)) for row in accuracies]
    best = int(np.argmax(score))
    return {
        "options": CURVES[name][1],
        "schedule": CURVES[name][2],
        "train_loss": losses,
        "validation_accuracy": accuracies,
        "chosen": best,
        "test_accuracy": [] if score[best] < 0 else [test_accuracy(p, *test) for p in kept[best]],
    }


def measure(quick):
    seeds, grid = (SEEDS[:2], GRID[4:8]) if quick else (SEEDS, GRID)
    results = {"seeds": seeds, "grid": grid}
    without = 0
    for name, problem in PROBLEMS.items():
        problem = {**problem, "epochs": 1} if quick else problem
        train_part, validation, test = parts(name)
        sizes = {"train": len(train_part[0]), "validation": len(validation[0]), "test": len(test[0])}
        steps = problem["epochs"] * -(-sizes["train"] // problem["batch_size"])
        curves = {}
        for label in CURVES:
            curves[label] = row = curve(problem, label, train_part, validation, test, seeds, grid)
            without += not row["test_accuracy"]
            valid = spread(100 * a for a in row["validation_accuracy"][row["chosen"]])
            seen = spread(100 * a for a in row["test_accuracy"])
            print(
                f"{name}, {label}: lr {grid[row['chosen']]:g}, "
                f"validation {valid['mean']:.2f} % (sd {valid['sd']:.2f}), "
                f"test {seen['mean']:.2f} % (sd {seen['sd']:.2f})",
                flush=True,
            )
        results[name] = {**problem, "steps": steps, "sizes": sizes, "curves": curves}
    return results, [Bar("optimizers without a rate at which every seed comes through", without, 0)]


if __name__ == "__main__":
    main(__file__, measure)
