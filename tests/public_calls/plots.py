"""Calls of nnbook.plots."""

import matplotlib as mpl
import numpy as np

from nnbook.backprop import record
from public_calls import call

mpl.use("agg")
mpl.rcParams["figure.max_open_warning"] = 0

CALLS = {
    "training_curves": lambda rng: call(
        {"train": [3.0, 2.0, 1.0]}, x=np.arange(3), xlabel="epoch", ylabel="loss", log=True
    ),
    "function_and_derivative": lambda rng: call(np.sin, np.cos, x=np.linspace(0, 1, 5), kinks=(0.5,), name="sine"),
    "broken": lambda rng: call(np.linspace(0, 1, 5), np.linspace(0, 1, 5) ** 2, (0.3,)),
    "decision_regions": lambda rng: call(
        lambda points: points[:, 0] > 0, rng.normal(size=(6, 2)), np.arange(6) % 2, resolution=8, margin=0.1
    ),
    "confusion_matrix": lambda rng: call(np.array([[3, 1], [0, 2]]), names=["a", "b"]),
    "mix": lambda rng: call("#000000", "#FFFFFF", 0.5),
    "image_grid": lambda rng: call(rng.random((3, 4, 4)), labels=[1, 2, 3], columns=2, wrong=[True, False, False]),
    "layer_histograms": lambda rng: call({"first": rng.normal(size=20)}, bins=5, limits=(-1.0, 1.0)),
    "graph": lambda rng: call(record(lambda x, y: x * y + x, 2.0, 3.0), digits=3),
}
