"""Train the network behind the explorable ``draw_a_digit``: LeNet-5 on the embedded 10,000 digits of MNIST.

    python tools/train_digit_reader.py [--choose | --check]

Turns, slants and stretches make new digits in every epoch, so that the network also reads what somebody draws. The
settings were chosen on 1,000 of the training images; the 2,000 test images are looked at once, at the end, and the
accuracy on them is printed. Writes nnbook/_data/digit_reader.safetensors (numbers of 16 bits) and
nnbook/_data/stored_digits.npz, the pictures that a reader can start from. ``--choose`` is how the settings were
chosen: it writes nothing, trains on 9,000 images and prints the accuracy on the other 1,000. ``--check`` writes nothing
either: it says how the stored network does on the test images, and fails if that is not what it should be. The training
takes about a minute on one core. Another machine may round otherwise and give other weights that read as well; what the
explorable says of single pictures is then to be looked at again, which ``tests/test_explore.py`` does.
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
"""Accuracy on the 2,000 test images that the stored network must have at least. It has 0.9915."""


CHOSEN = {
    **dict(zip("0123456789", (28, 21, 44, 33, 107, 181, 46, 144, 123, 55), strict=True)),
    "a round 5": 281,
    "a square 7": 577,
    "an open 9": 517,
}
"""Test images that a reader can start from; the last three the network reads wrong or cannot tell."""

LETTER = (((14, 4), (6, 24)), ((14, 4), (22, 24)), ((9, 17), (19, 17)))
"""Strokes of an A, from (x, y) to (x, y)."""


def drawn(strokes):
    """Strokes of the brush of nnbook/explore/drawing.js: full ink within a pixel of the line, none beyond two."""
    j, i = np.meshgrid(np.arange(28) + 0.5, np.arange(28) + 0.5)
    picture = np.zeros((28, 28))
    for (x0, y0), (x1, y1) in strokes:
        along = np.clip(((j - x0) * (x1 - x0) + (i - y0) * (y1 - y0)) / np.hypot(x1 - x0, y1 - y0) ** 2, 0, 1)
        distance = np.hypot(j - x0 - along * (x1 - x0), i - y0 - along * (y1 - y0))
        picture = np.maximum(picture, np.clip(2 - distance, 0, 1))
    return picture


def varied(rng, images):
    """Each image turned by up to 14 degrees, slanted, and up to 15 % larger or smaller along each axis."""
    i, j = np.indices(images.shape[-2:]) - 13.5
    n = len(images)
    angle, slant = np.radians(rng.uniform(-14, 14, (2, n, 1, 1)))
    tall, wide = rng.uniform(0.85, 1.15, (2, n, 1, 1))
    rows = (np.cos(angle) * i - np.sin(angle) * j) / tall
    columns = (np.sin(angle) * i + np.cos(angle) * j) / wide + np.tan(slant) * i
    return warp(images, rows + 13.5, columns + 13.5).astype(np.float32)


def train(x, y):
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
    if "--choose" in sys.argv:
        params = train(x[1000:], y[1000:])
        print(f"accuracy on 1,000 validation images: {accuracy(params, x[:1000], y[:1000]):.4f}")
        return
    if "--check" not in sys.argv:
        start = time.perf_counter()
        params = tree_map(lambda a: a.astype(np.float16), train(x, y))
        save(TARGET, params)
        print(f"{TARGET.name}: {TARGET.stat().st_size} bytes after {time.perf_counter() - start:.0f} s")
        pictures = {name: x_test[i, 0] for name, i in CHOSEN.items()}
        pictures |= {"the letter A": drawn(LETTER), "nothing": drawn(())}
        np.savez_compressed(STORED, **{name: np.rint(255 * ink).astype(np.uint8) for name, ink in pictures.items()})
    params = tree_map(lambda a: a.astype(np.float32), load(TARGET))
    right = accuracy(params, x_test, y_test)
    print(f"accuracy on the {len(x_test)} test images: {right:.4f}")
    if right < EXPECTED:
        sys.exit(f"less than {EXPECTED}")


if __name__ == "__main__":
    main()
