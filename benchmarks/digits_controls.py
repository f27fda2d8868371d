"""What does a trained hidden layer add on scikit-learn's digits? A network against two controls, each tuned alike.

Three models: softmax regression ("linear"), the network 64-48-10 whose hidden layer keeps its random start and only the
output layer learns ("random features"), and the same network trained as a whole ("network"). All use Adam in batches
of 64.

For each of five splits (60 % training, 20 % validation, 20 % test, stratified) and each model, every rate of a grid in
quarter decades is tried with 25 and with 100 epochs, three seeds each, and the setting with the best mean validation
accuracy is chosen (the earlier one at a tie). Then the validation part joins the training part, five other seeds train
with the chosen setting, and the test part is looked at once a seed. Splits are what the models have in common, so the
differences are taken split by split.

The bars ask that no chosen rate lies at an end of the grid and that the network is ahead of both controls by more than
twice the standard error over the splits.
"""

from __future__ import annotations

from _common import Bar, main, spread

RATES = [10 ** (k / 4) for k in range(-12, -1)]
EPOCHS = [25, 100]
SPLITS, TUNING_SEEDS, SEEDS = [0, 1, 2, 3, 4], [10, 11, 12], [0, 1, 2, 3, 4]
MODELS = {"linear": (64, 10), "random features": (64, 48, 10), "network": (64, 48, 10)}


def accuracy(model, lr, epochs, part, held_out, seed):
    """Train a model on one part, and the share of another part that it gets right."""
    import numpy as np
    from _models import classification, test_accuracy

    from nnbook.neurons import linear, mlp_init, relu
    from nnbook.training import fit

    rng = np.random.default_rng(seed)
    start = mlp_init(rng, MODELS[model])
    if model == "random features":
        hidden, start = start["0"], {"0": start["2"]}
        part, held_out = ((relu(linear(x, **hidden)), y) for x, y in (part, held_out))
    trained = fit(start, classification, part, lr=lr, rng=rng, epochs=epochs, batch_size=64).params
    return test_accuracy(trained, *held_out)


def tune(model, part, validation, quick):
    """The settings with the validation accuracy of each tuning seed, and the best."""
    import numpy as np

    rows = []
    for epochs in EPOCHS[:1] if quick else EPOCHS:
        for lr in RATES[::4] if quick else RATES:
            scores = [accuracy(model, lr, epochs, part, validation, seed) for seed in TUNING_SEEDS]
            rows.append({"lr": lr, "epochs": epochs, "validation": scores})
    return rows, max(rows, key=lambda row: float(np.mean(row["validation"])))


def measure(quick):
    import numpy as np

    from nnbook.data import digits, split

    images, labels = digits()
    splits, at_the_end = [], 0
    for number in SPLITS[:1] if quick else SPLITS:
        part, validation, test = split(images, labels, rng=np.random.default_rng(number))
        both = tuple(np.concatenate(pair) for pair in zip(part, validation, strict=True))
        row = {"split": number, "models": {}}
        for model in MODELS:
            table, best = tune(model, part, validation, quick)
            chosen = {key: best[key] for key in ("lr", "epochs")}
            at_the_end += best["lr"] in (RATES[0], RATES[-1])
            scores = [accuracy(model, best["lr"], best["epochs"], both, test, seed) for seed in SEEDS]
            row["models"][model] = {"chosen": chosen, "tuning": table, "test": scores}
            print(f"split {number}, {model}: chosen {chosen}, test {100 * np.mean(scores):.2f} %", flush=True)
        splits.append(row)
    means = {model: np.array([np.mean(row["models"][model]["test"]) for row in splits]) for model in MODELS}
    ahead = {model: spread(100 * (means["network"] - means[model])) for model in ("linear", "random features")}
    for model, points in ahead.items():
        print(f"network minus {model}: {points['mean']:.2f} points (sd over splits {points['sd']:.2f})")
    bars = [Bar("chosen rates at an end of the grid", at_the_end, 0)]
    for model, points in ahead.items():
        error = points["sd"] / np.sqrt(points["runs"])
        lead = f"network minus {model}, less twice its standard error"
        bars.append(Bar(lead, points["mean"] - 2 * error, 0, "points", at_least=True))
    results = {
        "grid": RATES,
        "epochs": EPOCHS,
        "tuning_seeds": TUNING_SEEDS,
        "seeds": SEEDS,
        "splits": splits,
        "test": {model: spread(values) for model, values in means.items()},
        "network_ahead_by_points": ahead,
    }
    return results, bars


if __name__ == "__main__":
    main(__file__, measure)
