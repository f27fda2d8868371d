"""Calls of nnbook.neurons."""

import numpy as np

from nnbook import neurons
from public_calls import call

CALLS = {
    "leaky_relu": lambda rng: call(rng.normal(size=(3, 4)), negative_slope=0.01),
    "elu": lambda rng: call(rng.normal(size=(3, 4)), alpha=1.0),
    "softplus": lambda rng: call(rng.normal(size=(3, 4)), beta=1.0),
    "gelu": lambda rng: call(rng.normal(size=(3, 4)), approximate="tanh"),
    "perceptron": lambda rng: call(np.array([[1.0, 2.0], [-2.0, -1.0], [2.0, 0.5]]), np.array([1, 0, 1]), epochs=5),
    "linear_init": lambda rng: call(rng, 3, 2),
    "mlp_init": lambda rng: call(rng, (3, 4, 2)),
    "mlp": lambda rng: call(
        {
            "0": {"weight": rng.normal(size=(4, 3)), "bias": rng.normal(size=4)},
            "2": {"weight": rng.normal(size=(2, 4)), "bias": rng.normal(size=2)},
        },
        rng.normal(size=(5, 3)),
        neurons.tanh,
    ),
}
