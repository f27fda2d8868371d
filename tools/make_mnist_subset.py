"""Make nnbook/_data/mnist_subset.npz from all of MNIST: 10,000 training and 2,000 test images, classes in proportion.

    NNBOOK_DATA=directory/with/mnist python tools/make_mnist_subset.py [--check]

``--check`` writes nothing; it fails if the file does not hold these images. The positions of the chosen images in MNIST
are stored beside them (``train_index``, ``test_index``), because NumPy may one day draw others from the same seed.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np

from nnbook import data

TARGET = Path(__file__).resolve().parents[1] / "nnbook" / "_data" / "mnist_subset.npz"
SEED = 0


def main() -> None:
    (x, y), (x_test, y_test) = data.mnist()
    if "--check" in sys.argv:
        packed = np.load(TARGET)
        train, test = packed["train_index"], packed["test_index"]
    else:
        rng = np.random.default_rng(SEED)
        train = data.split_indices(len(x), fractions=(1 / 6, 5 / 6), rng=rng, classes=y)[0].astype(np.int32)
        test = data.split_indices(len(x_test), fractions=(1 / 5, 4 / 5), rng=rng, classes=y_test)[0].astype(np.int32)
    arrays = {
        "x_train": np.rint(x[train] * 255).astype(np.uint8),
        "y_train": y[train].astype(np.uint8),
        "x_test": np.rint(x_test[test] * 255).astype(np.uint8),
        "y_test": y_test[test].astype(np.uint8),
    }
    digest = hashlib.sha256(b"".join(array.tobytes() for array in arrays.values())).hexdigest()
    if "--check" in sys.argv:
        same = all(np.array_equal(packed[name], array) for name, array in arrays.items())
        if not same or digest != data.SUBSET_SHA256:
            sys.exit("mnist_subset.npz is not what it should be")
        print("mnist_subset.npz holds the images it should")
        return
    np.savez_compressed(TARGET, **arrays, train_index=train, test_index=test)
    print(f"{TARGET.name}: {TARGET.stat().st_size} bytes; SUBSET_SHA256 = {digest!r}")


if __name__ == "__main__":
    main()
