"""The reference experiments' networks, in NumPy and as PyTorch twins that start from the same weights."""

from __future__ import annotations

import numpy as np

from nnbook.losses import accuracy, cross_entropy
from nnbook.neurons import mlp, mlp_init
from nnbook.training import predict, to_torch

R1 = (784, 512, 256, 10)
R3 = (10, 64, 1)


def classification(params, x, y):
    return cross_entropy(mlp(params, x), y)


def test_accuracy(params, x, y):
    return float(accuracy(predict(params, mlp, x, batch_size=2000), y))


def torch_mlp(params):
    """``torch.nn.Sequential`` with the weights of ``params``, on the CPU."""
    import torch

    layers = []
    for key in sorted(params, key=int):
        out, into = params[key]["weight"].shape
        layers += [torch.nn.Linear(into, out), torch.nn.ReLU()]
    twin = torch.nn.Sequential(*layers[:-1])
    first = next(iter(params.values()))["weight"]
    twin.to(torch.float64 if first.dtype == np.float64 else torch.float32)
    twin.load_state_dict(to_torch(params))
    return twin


def torch_classification(twin, x, y):
    import torch

    return torch.nn.functional.cross_entropy(twin(x), y)


def r1_start(seed: int):
    """Weights of R1 and the generator that goes on to shuffle, both frameworks the same."""
    rng = np.random.default_rng(seed)
    return mlp_init(rng, R1), rng
