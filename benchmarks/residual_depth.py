"""Does depth hurt the *training* loss, and does a skip prevent it? Batch norm in every layer of every network.

Four networks learn all 1,797 digits of 8 x 8 pixels (nothing is held out: the question is one of optimization). They
are plain or residual, and have 8 or 40 layers of weights (a convolution, blocks of two convolutions, a dense layer),
all with eight channels and a batch norm behind each convolution. Plain and residual of one depth have the same layers,
parameters and first weights; the residual one adds the input of a block to its output, and that is the whole
difference.

Equal budgets: SGD with momentum 0.9, eight epochs in batches of 32, a one-cycle schedule, whose warm-up is there for
the deep networks. The peak of the schedule is chosen for each network from the same six rates, by the training loss of
one run with a seed of its own; then three other seeds are run. The loss that counts is that of all training images in
one batch, each norm with the statistics of that batch. A run that diverges counts as infinite.

For each run the norm of every convolution's gradient, times the norm of its weight (what a layer in front of a norm
computes does not depend on the scale of its weight, and this product does not either), is kept, before and after
training: what vanishes or explodes shows there.

Bars: each network's rate lies inside the grid, and the shallow networks fit the training images. What depth does is
reported, not required.
"""

from __future__ import annotations

import functools
import math

from _common import Bar, main, spread

RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
EPOCHS, BATCH, CHANNELS = 8, 32, 8
BLOCKS = {8: 3, 40: 19}  # layers of weights: blocks of two
CHOOSING, SEEDS = 3, (0, 1, 2)


def network(params, state, x, *, residual):
    """Logits and the new state: the package's residual network, or the same without its skips."""
    from nnbook.cnn import batch_norm2d, conv2d, global_avg_pool2d, resnet
    from nnbook.neurons import linear, relu

    if residual:
        return resnet(params, state, x, training=True)
    new = {"layer1": {}}

    def layer(conv, norm, running, x):
        y, running = batch_norm2d(norm, running, conv2d(x, **conv, padding=1), training=True)
        return relu(y), running

    x, new["bn1"] = layer(params["conv1"], params["bn1"], state["bn1"], x)
    for k, block in params["layer1"].items():
        running = state["layer1"][k]
        x, first = layer(block["conv1"], block["bn1"], running["bn1"], x)
        x, second = layer(block["conv2"], block["bn2"], running["bn2"], x)
        new["layer1"][k] = {"bn1": first, "bn2": second}
    return linear(global_avg_pool2d(x), **params["fc"]), new


def sensitivities(params, state, x, y, residual):
    """Of every convolution, from the pixels up: norm of its gradient times norm of its weight."""
    import numpy as np

    from nnbook.backprop import value_and_grad
    from nnbook.losses import cross_entropy

    def loss(params):
        return cross_entropy(network(params, state, x, residual=residual)[0], y)

    _, grads = value_and_grad(loss)(params)
    pairs = [(params["conv1"], grads["conv1"])]
    for k in sorted(params["layer1"], key=int):
        pairs += [(params["layer1"][k][name], grads["layer1"][k][name]) for name in ("conv1", "conv2")]
    return [float(np.linalg.norm(g["weight"]) * np.linalg.norm(p["weight"])) for p, g in pairs]


def trained(depth, residual, rate, seed, x, y, epochs):
    """One run."""
    import numpy as np

    from nnbook.cnn import resnet_init
    from nnbook.losses import accuracy, cross_entropy
    from nnbook.optimizers import one_cycle, sgd, sgd_init
    from nnbook.training import fit

    rng = np.random.default_rng(seed)
    params, state = resnet_init(rng, widths=(CHANNELS,), blocks=BLOCKS[depth])
    before = sensitivities(params, state, x[:256], y[:256], residual)

    def loss(params, state, x, y):
        logits, state = network(params, state, x, residual=residual)
        return cross_entropy(logits, y), state

    schedule = functools.partial(one_cycle, max_lr=rate, total_steps=epochs * -(-len(x) // BATCH))
    how = {"optimizer": (sgd_init, sgd), "momentum": 0.9, "lr": schedule, "epochs": epochs, "batch_size": BATCH}
    try:
        run = fit(params, loss, (x, y), state=state, rng=rng, **how)
    except FloatingPointError as error:
        return {"train_loss": math.inf, "error": str(error)}
    logits, _ = network(run.params, run.state, x, residual=residual)
    return {
        "train_loss": float(cross_entropy(logits, y)),
        "train_accuracy": float(accuracy(logits, y)),
        "course": [float(value) for value in run.history["train_loss"]],
        "before": before,
        "after": sensitivities(run.params, run.state, x[:256], y[:256], residual),
    }


def measure(quick):
    import numpy as np

    from nnbook.cnn import parameter_count, resnet_init
    from nnbook.data import digits

    x, y = digits()
    x = x.reshape(-1, 1, 8, 8)
    epochs, seeds = (1, SEEDS[:1]) if quick else (EPOCHS, SEEDS)
    if quick:
        x, y = x[:320], y[:320]
    rows = {}
    for depth in BLOCKS:
        for name in ("plain", "residual"):
            go = functools.partial(trained, depth, name == "residual", x=x, y=y, epochs=epochs)
            choice = {rate: go(rate, CHOOSING)["train_loss"] for rate in (RATES[1:3] if quick else RATES)}
            rate = min(choice, key=choice.__getitem__)
            runs = [go(rate, seed) for seed in seeds]
            rows[f"{name}, {depth}"] = {
                "parameters": parameter_count(
                    resnet_init(np.random.default_rng(0), widths=(CHANNELS,), blocks=BLOCKS[depth])[0]
                ),
                "choice": [{"lr": lr, "train_loss": value} for lr, value in choice.items()],
                "lr": rate,
                "train_loss": spread(run["train_loss"] for run in runs),
                "train_accuracy": spread(100 * run.get("train_accuracy", 0.1) for run in runs),
                "runs": runs,
            }
            print(name, depth, choice, rows[f"{name}, {depth}"]["train_loss"], flush=True)
    results = {
        "training_images": len(y),
        "epochs": epochs,
        "batch_size": BATCH,
        "channels": CHANNELS,
        "rates": RATES,
        "seed_of_the_choice": CHOOSING,
        "seeds": seeds,
        "networks": rows,
    }
    inside = min(min(row["lr"] / RATES[0], RATES[-1] / row["lr"]) for row in rows.values())
    return results, [
        Bar("how far the chosen rates lie from the ends of the grid, at least", inside, 1.5, "", True),
        Bar("training loss of the plain network with 8 layers", rows["plain, 8"]["train_loss"]["max"], 0.1),
        Bar("training loss of the residual network with 8 layers", rows["residual, 8"]["train_loss"]["max"], 0.1),
    ]


if __name__ == "__main__":
    main(__file__, measure)
