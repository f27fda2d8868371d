"""Calls of nnbook.backprop."""

import numpy as np

from nnbook import backprop
from public_calls import call

TREE = {"a": {"w": np.array([1.0, 2.0])}, "b": np.array(3.0)}


def _loss(p):
    """Of a tree of any form, so that what a wrong one raises is not the loss's own error."""
    return sum((_loss(branch) for branch in p.values()), start=0.0) if isinstance(p, dict) else (p * p).sum()


CALLS = {
    "primitive": lambda rng: call(lambda x: (x, None)),
    "vjp": lambda rng: call(backprop.exp, rng.normal(size=3)),
    "value_and_grad": lambda rng: call(_loss),
    "record": lambda rng: call(lambda x: (x * x).sum(), rng.normal(size=3)),
    "tree_map": lambda rng: call(lambda x, y: y, TREE, TREE),
    "flatten": lambda rng: call(TREE),
    "unflatten": lambda rng: call({"a.w": np.ones(2)}),
    "like": lambda rng: call(TREE, {"a.w": np.ones(2), "b": np.ones(())}),
    "by_number": lambda rng: call({"0": {}, "1": {}}),
    "stop_gradient": lambda rng: call(TREE),
    "check_parameters": lambda rng: call(TREE),
    "unbroadcast": lambda rng: call(rng.normal(size=(3, 4)), shape=(1, 4)),
    "keep": lambda rng: call(rng.normal(size=(3, 4)), rng.random((3, 4)) < 0.5),
    "directional_derivative": lambda rng: call(np.sin, (rng.normal(size=3),), (rng.normal(size=3),), h=1e-5),
    "numerical_gradient": lambda rng: call(_loss, TREE, h=1e-5),
    "complex_step_gradient": lambda rng: call(_loss, TREE, h=1e-30),
    "gradient_error": lambda rng: call(_loss, TREE, h=1e-5),
    "mlp_loss_and_gradients": lambda rng: call(
        {"0": {"weight": rng.normal(size=(3, 2)), "bias": np.zeros(3)}}, rng.normal(size=(4, 2)), np.array([0, 1, 2, 1])
    ),
}
