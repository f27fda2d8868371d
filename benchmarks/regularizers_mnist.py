"""Regularizers with fifty times as many images: the comparison of ``regularizers.py`` on full MNIST.

The network, 784-100-10, is the same. The last 10,000 training images are put aside to choose strength and learning rate
(seed 10) and for early stopping; every network is trained on the other 50,000, five with each regularizer (seeds 0 to
4), and the 10,000 test images are looked at, once. Every run has 10 epochs of Adam under the same schedule.

Bars: the control reaches 97 %; no regularizer gains more than 1.5 %, where on 1,000 images some gain more.
"""

from __future__ import annotations

from _common import Bar, main
from regularizers import CONTROL, HIDDEN, compare

EPOCHS, BATCH, ASIDE = 10, 128, 10000
RATES = [3e-3, 1e-2]
SELECTION, SEEDS = [10], [0, 1, 2, 3, 4]
GRIDS: dict[str, list] = {
    CONTROL: [0.0],
    "L2 penalty": [1e-5, 1e-4],
    "dropout": [0.2],
    "early stopping, watching other images": [2],
    "batch norm": [0.1],
    "mixup": [0.2],
    "shift": [1],
}


def measure(quick):
    from nnbook.data import mnist

    (images, labels), test = mnist()
    parts = ((images[:-ASIDE], labels[:-ASIDE]), (images[-ASIDE:], labels[-ASIDE:]))
    seeds, epochs = ([0], 1) if quick else (SEEDS, EPOCHS)
    grids = {name: grid[:1] for name, grid in GRIDS.items()} if quick else GRIDS
    how = {"epochs": epochs, "batch_size": BATCH}
    rows = compare(grids, RATES[:1] if quick else RATES, SELECTION, seeds, lambda seed: parts, test, **how)
    results = {
        "training_images": len(parts[0][1]),
        "validation_images": ASIDE,
        "test_images": len(test[1]),
        "network": [784, HIDDEN, 10],
        "epochs": EPOCHS,
        "rates": RATES,
        "batch_size": BATCH,
        "selection_seeds": SELECTION,
        "seeds": SEEDS,
        "regularizers": rows,
    }
    gains = [row["gain"]["mean"] for name, row in rows.items() if name != CONTROL]
    return results, [
        Bar("control, mean test accuracy", 100 * rows[CONTROL]["test"]["mean"], 97, "%", at_least=True),
        Bar("largest mean gain", 100 * max(gains), 1.5, "%"),
    ]


if __name__ == "__main__":
    main(__file__, measure)
