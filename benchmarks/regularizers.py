"""A multilayer perceptron, 784-100-10, on 1,000 images of MNIST, without and with each regularizer of chapter 5.

Every regularizer's strength and learning rate are chosen together on validation data, the control's learning rate just
so: for each setting two networks are trained (seeds 10 and 11, each with 1,000 training images and weights of its own),
and the best mean accuracy on 1,000 other images wins, the earlier setting at a tie. Then five networks (seeds 0 to 4)
are trained with each, from the same images and weights for every regularizer, and the 2,000 test images are looked at,
once. Every run has 40 epochs of Adam under a one-cycle schedule whose maximum is the chosen rate, or, with early
stopping, up to 40 epochs at that rate: a schedule that ends in small steps is no place to stop early. So that stopping
and schedule are not confused there is a second control, "constant rate": nothing, for 40 epochs at a constant rate.

Early stopping watches 200 of the 1,000 images and learns from the other 800; a second row watches the 1,000 validation
images instead, as one often does, and so knows of more images than the other rows do.

Bars: the control reaches 85 %; the best gain is at least three times its standard deviation over the seeds.
"""

from __future__ import annotations

import functools
import itertools

from _common import Bar, main, spread, timed

IMAGES, EPOCHS, BATCH, HIDDEN = 1000, 40, 50, 100
CONTROL = "none"
RATES = [3e-3, 1e-2, 3e-2, 1e-1]
SELECTION, SEEDS = [10, 11], [0, 1, 2, 3, 4]
GRIDS: dict[str, list] = {
    CONTROL: [0.0],
    "constant rate": [0.0],
    "L2 penalty": [1e-4, 1e-3, 1e-2],
    "weight decay": [0.1, 0.3, 1.0],
    "L1 penalty": [1e-5, 1e-4, 1e-3],
    "dropout": [0.2, 0.5, 0.7],
    "early stopping": [5],
    "early stopping, watching other images": [5],
    "batch norm": [0.1],
    "label smoothing": [0.1, 0.3],
    "noise": [0.2, 0.4, 0.6],
    "shift": [1, 2],
    "rotation": [10, 20],
    "elastic": [1.0, 2.0],
    "cutout": [6, 10],
    "mixup": [0.2, 1.0],
    "shift and dropout": [0.2],
}
MEANING = {
    CONTROL: "nothing",
    "constant rate": "nothing, and no schedule",
    "L2 penalty": "lam in lam / 2 * sum w^2, in the loss",
    "weight decay": "weight_decay of AdamW, on weights only",
    "L1 penalty": "lam in lam * sum |w|, in the loss",
    "dropout": "p, on the hidden layer",
    "early stopping": "patience in epochs",
    "early stopping, watching other images": "patience in epochs",
    "batch norm": "momentum of the running statistics",
    "label smoothing": "label_smoothing of the cross-entropy",
    "noise": "standard deviation, pixels from 0 to 1",
    "shift": "most pixels",
    "rotation": "most degrees",
    "elastic": "root mean square of the displacement in pixels, sigma 4",
    "cutout": "side of the square in pixels",
    "mixup": "alpha of the Beta distribution",
    "shift and dropout": "p, with shifts of at most 1 pixel",
}


def augmentation(name, value, rng):
    """Images and labels of a batch as the network gets them to see."""
    from nnbook import regularization as r

    square = {
        "shift": lambda x: r.random_shift(rng, x, most=value),
        "rotation": lambda x: r.random_rotation(rng, x, most=value),
        "elastic": lambda x: r.random_elastic(rng, x, alpha=value),
        "cutout": lambda x: r.cutout(rng, x, size=value),
        "shift and dropout": lambda x: r.random_shift(rng, x, most=1),
    }
    if name in square:
        return lambda x, y: (square[name](x.reshape(-1, 28, 28)).reshape(-1, 784), y)
    if name == "noise":
        return lambda x, y: (r.gaussian_noise(rng, x, std=value), y)
    if name == "mixup":
        return lambda x, y: r.mixup(rng, x, y, alpha=value, classes=10)
    return lambda x, y: (x, y)


def decaying(params, grads, state, *, lr, weight_decay):
    """AdamW, but for the biases, which do not decay."""
    from nnbook.backprop import tree_map
    from nnbook.optimizers import adam

    params, state = adam(params, grads, state, lr=lr)
    return tree_map(lambda w: w * (1 - lr * weight_decay) if w.ndim > 1 else w, params), state


def train(name, value, data, validation, seed, *, lr, watch, hidden=HIDDEN, epochs=EPOCHS, batch_size=BATCH):
    """A trained network as ``(model, history, small)``: ``model(x)`` are its logits in evaluation mode.

    ``small`` is the share of weights below 0.001. ``watch`` asks for the validation images in the history; early
    stopping needs them in any case.
    """
    import numpy as np

    from nnbook.losses import accuracy, cross_entropy
    from nnbook.neurons import linear, mlp_init, relu
    from nnbook.optimizers import adam, adam_init, one_cycle
    from nnbook.regularization import batch_norm_init, batch_norm_layer, dropout, dropout_mask, l1_penalty, l2_penalty
    from nnbook.training import fit

    rng, own = np.random.default_rng(seed), np.random.default_rng([seed, 1])  # so that all see the same batches
    params = mlp_init(rng, (784, hidden, 10))
    normed, state = batch_norm_init(hidden)
    if name == "batch norm":
        params["norm"] = normed
    p = value if "dropout" in name else 0.0
    smoothing = value if name == "label smoothing" else 0.0
    seen = augmentation(name, value, own)
    penalties = {"L2 penalty": l2_penalty, "L1 penalty": l1_penalty}

    def network(params, state, x, *, training):
        h = linear(x, **params["0"])
        if name == "batch norm":
            h, state = batch_norm_layer(params["norm"], state, h, training=training, momentum=value)
        h = relu(h)
        if training and p:
            h = dropout(h, dropout_mask(own, h.shape, p=p), p=p)
        return linear(h, **params["2"]), state

    def loss(params, state, x, y):
        x, y = seen(x, y)
        logits, state = network(params, state, x, training=True)
        total = cross_entropy(logits, y, label_smoothing=smoothing)
        if name in penalties:
            total = total + value * penalties[name](params)
        return total, state

    stops = name.startswith("early stopping")
    constant = stops or name == "constant rate"
    if name == "early stopping":
        validation = tuple(part[-len(data[0]) // 5 :] for part in data)
        data = tuple(part[: -len(data[0]) // 5] for part in data)
    steps = epochs * -(-len(data[0]) // batch_size)
    schedule = functools.partial(one_cycle, max_lr=lr, total_steps=steps)
    checks = {
        "validation": validation,
        "validation_loss": lambda params, state, x, y: cross_entropy(network(params, state, x, training=False)[0], y),
        "metric": lambda params, state, x, y: accuracy(network(params, state, x, training=False)[0], y),
    }
    result = fit(
        params,
        loss,
        data,
        optimizer=(adam_init, decaying if name == "weight decay" else adam),
        lr=lr if constant else schedule,
        epochs=epochs,
        batch_size=batch_size,
        rng=rng,
        patience=value if stops else None,
        state=state,
        progress=False,
        **(checks if watch or stops else {}),
        **({"weight_decay": value} if name == "weight decay" else {}),
    )
    weights = np.concatenate([result.params[key]["weight"].ravel() for key in ("0", "2")])
    small = float((np.abs(weights) < 1e-3).mean())
    return lambda x: network(result.params, result.state, x, training=False)[0], result.history, small


def draw(seed):
    """Training and validation images of one seed."""
    import numpy as np

    from nnbook.data import mnist_subset, split

    (images, labels), _ = mnist_subset()
    part, aside, _ = split(images, labels, fractions=(0.1, 0.1, 0.8), rng=np.random.default_rng(100 + seed))
    assert len(part[1]) == len(aside[1]) == IMAGES
    return part, aside


def scores(model, x, y):
    """Accuracy, and mean cross-entropy in nats."""
    from nnbook.losses import accuracy, cross_entropy

    logits = model(x)
    return float(accuracy(logits, y)), float(cross_entropy(logits, y))


def choose(name, grid, rates, seeds, draw, **how):
    """Strength and learning rate of the best mean accuracy on validation images, and that mean for each setting."""
    import numpy as np

    means = []
    for lr, value in itertools.product(rates, grid):
        made = ((train(name, value, *draw(seed), seed, lr=lr, watch=False, **how)[0], draw(seed)[1]) for seed in seeds)
        accuracy = float(np.mean([scores(model, *aside)[0] for model, aside in made]))
        means.append({"lr": lr, "value": value, "accuracy": accuracy})
    return max(means, key=lambda row: row["accuracy"]), means


def judge(name, value, seeds, draw, test, **how):
    """Train with one regularizer from every seed and look at the test images."""
    import numpy as np

    runs, curves, seconds = [], [], []
    for seed in seeds:
        part, aside = draw(seed)
        duration, (model, history, small) = timed(lambda: train(name, value, part, aside, seed, watch=True, **how))  # noqa: B023
        (accuracy, loss), (known, known_loss) = scores(model, *test), scores(model, *part)
        run = {"test": accuracy, "test_loss": loss, "training": known, "training_loss": known_loss, "small": small}
        runs.append(run)
        curves.append(history)
        seconds.append(duration)
    epochs = min(len(curve["train_loss"]) for curve in curves)  # early stopping ends each run at another one
    means = {
        key: [round(float(np.mean([curve[key][i] for curve in curves])), 5) for i in range(epochs)]
        for key in ("train_loss", "validation_loss", "validation_metric")
    }
    return {"runs": runs, **{key: spread(run[key] for run in runs) for key in runs[0]}, "curves": means, "s": seconds}


def compare(grids, rates, selection, seeds, draw, test, **how):
    """The control and every regularizer of ``grids``: what was chosen, and how it did on the test images."""
    rows = {}
    for name, grid in grids.items():
        best, means = choose(name, grid, rates, selection, draw, **how)
        row = {"grid": grid, "meaning": MEANING[name], "validation": means, "chosen": best["value"], "lr": best["lr"]}
        rows[name] = row = row | judge(name, best["value"], seeds, draw, test, lr=best["lr"], **how)
        pairs = zip(row["runs"], rows[CONTROL]["runs"], strict=True)
        row["gain"] = spread(run["test"] - control["test"] for run, control in pairs)
        print(
            f"{name} {best['value']:g}, lr {best['lr']:g} (validation {100 * best['accuracy']:.2f} %): "
            f"test {100 * row['test']['mean']:.2f} % (sd {100 * row['test']['sd']:.2f}), "
            f"gain {100 * row['gain']['mean']:.2f} (sd {100 * row['gain']['sd']:.2f}), "
            f"training {100 * row['training']['mean']:.2f} %, test loss {row['test_loss']['mean']:.3f}, "
            f"small {100 * row['small']['mean']:.1f} %, {sum(row['s']) / len(seeds):.1f} s a run",
            flush=True,
        )
    return rows


def measure(quick):
    from nnbook.data import mnist_subset

    _, test = mnist_subset()
    grids = {name: grid[:1] for name, grid in GRIDS.items()} if quick else GRIDS
    seeds = ([10], [0], 3) if quick else (SELECTION, SEEDS, EPOCHS)
    rows = compare(grids, RATES[:1] if quick else RATES, *seeds[:2], draw, test, epochs=seeds[2])
    results = {
        "training_images": IMAGES,
        "validation_images": IMAGES,
        "test_images": len(test[1]),
        "network": [784, HIDDEN, 10],
        "epochs": EPOCHS,
        "rates": RATES,
        "batch_size": BATCH,
        "selection_seeds": SELECTION,
        "seeds": SEEDS,
        "regularizers": rows,
    }
    best = max((row["gain"] for row in rows.values()), key=lambda gain: gain["mean"])
    return results, [
        Bar("control, mean test accuracy", 100 * rows[CONTROL]["test"]["mean"], 85, "%", at_least=True),
        Bar("best mean gain, in standard deviations", best["mean"] / max(best["sd"], 1e-9), 3, at_least=True),
    ]


if __name__ == "__main__":
    main(__file__, measure)
