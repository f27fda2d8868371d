"""Train the network behind the explorable ``draw_a_digit``: LeNet-5 on the embedded 10,000 digits of MNIST.

    python tools/train_digit_reader.py [--check]

Turns, slants and stretches make new digits in every epoch, so that the network also reads what somebody draws. The
settings were chosen on 1,000 of the training images; the 2,000 test images are looked at once, at the end, and the
accuracy on them is printed. Writes nnbook/_data/digit_reader.safetensors (numbers of 16 bits) and
nnbook/_data/stored_digits.npz, the pictures that a reader can start from. ``--check`` writes nothing: it says how the
stored network does on the test images, and fails if that is not what it should be. The training takes about a minute
on one core; another machine may round otherwise and give other weights that read as well.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from nnbook import data
from nnbook.backprop import tree_map
from nnbook.cnn import lenet5, lenet5_init
from nnbook.losses import cross_entropy
from nnbook.regularization import warp
from nnbook.training import fit, load, predict, save

FOLDER = Path(__file__).resolve().parents[1] / "nnbook" / "_data"
TARGET, STORED = FOLDER / "digit_reader.safetensors", FOLDER / "stored_digits.npz"
SEED, EPOCHS, BATCH, LR = 0, 20, 64, 2e-3
EXPECTED = 0.985
"""Accuracy on the 2,000 test images that the stored network must have at least."""


def varied(rng, images):
    """Each image turned by up to 14 degrees, slanted, and up to 15 % larger or smaller along each axis."""
    i, j = np.indices(images.shape[-2:]) - 13.5
    n = len(images)
    angle, slant = np.radians(rng.uniform(-14, 14, (2, n, 1, 1)))
    tall, wide = rng.uniform(0.85, 1.15, (2, n, 1, 1))
    rows = (np.cos(angle) * i - np.sin(angle) * j) / tall
    columns = (np.sin(angle) * i + np.cos(angle) * j) / wide + np.tan(slant) * i
    return warp(images, rows + 13.5, columns + 13.5).astype(np.float32)


def train(x, y, validation=None):
    rng = np.random.default_rng(SEED)
    steps = EPOCHS * -(-len(x) // BATCH)

    def loss(params, x, y):
        return cross_entropy(lenet5(params, varied(rng, x)), y)

    options = {"lr": lambda step: LR * (1 - step / steps), "epochs": EPOCHS, "batch_size": BATCH, "rng": rng}
    return fit(lenet5_init(rng), loss, (x, y), **options, progress=True).params


def accuracy(params, x, y) -> float:
    return float((predict(params, lenet5, x).argmax(1) == y).mean())


def main() -> None:
    (x, y), (x_test, y_test) = ((images.reshape(-1, 1, 28, 28), labels) for images, labels in data.mnist_subset())
    if "--choose" in sys.argv:  # what the settings were chosen by
        params = train(x[1000:], y[1000:])
        print(f"accuracy on 1,000 validation images: {accuracy(params, x[:1000], y[:1000]):.4f}")
        return
    if "--check" not in sys.argv:
        start = time.perf_counter()
        params = tree_map(lambda a: a.astype(np.float16), train(x, y))
        save(TARGET, params)
        print(f"{TARGET.name}: {TARGET.stat().st_size} bytes after {time.perf_counter() - start:.0f} s")
    params = tree_map(lambda a: a.astype(np.float32), load(TARGET))
    right = accuracy(params, x_test, y_test)
    print(f"accuracy on the {len(x_test)} test images: {right:.4f}")
    if right < EXPECTED:
        sys.exit(f"less than {EXPECTED}")


if __name__ == "__main__":
    main()
