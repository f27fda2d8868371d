"""Calls of nnbook.regularization."""

import numpy as np

from nnbook.regularization import is_weight
from public_calls import call


def _params(rng):
    return {"0": {"weight": rng.normal(size=(3, 2)), "bias": rng.normal(size=3)}, "norm": {}}


def _channels(rng):
    return {"weight": rng.uniform(0.5, 2, 3), "bias": rng.normal(size=3)}


def _state():
    return {"running_mean": np.zeros(3), "running_var": np.ones(3), "num_batches_tracked": np.array(2)}


def _images(rng):
    return rng.uniform(0, 2, (2, 1, 4, 5))


CALLS = {
    "is_weight": lambda rng: call("0.weight", rng.normal(size=(3, 2))),
    "l2_penalty": lambda rng: call(_params(rng), leaves=is_weight),
    "l1_penalty": lambda rng: call(_params(rng), leaves=is_weight),
    "soft_threshold": lambda rng: call(rng.normal(size=(3, 4)), threshold=0.5),
    "proximal_step": lambda rng: call(_params(rng), lr=0.5, lam=0.5, leaves=is_weight),
    "dropout_mask": lambda rng: call(rng, (3, 2), p=0.5),
    "dropout": lambda rng: call(rng.normal(size=(3, 4)), rng.random((3, 4)) < 0.5, p=0.5),
    "batch_norm": lambda rng: call(rng.normal(size=(5, 3)), np.ones(3), np.zeros(3), eps=1e-5),
    "batch_norm_eval": lambda rng: call(
        rng.normal(size=(5, 3)), rng.normal(size=3), rng.uniform(1, 2, 3), np.ones(3), np.zeros(3), eps=1e-5
    ),
    "running_statistics": lambda rng: call(_state(), rng.normal(size=(5, 3)), momentum=0.1),
    "batch_norm_init": lambda rng: call(3, affine=True),
    "batch_norm_layer": lambda rng: call(
        _channels(rng), _state(), rng.normal(size=(5, 3)), training=True, momentum=0.1, eps=1e-5
    ),
    "layer_norm": lambda rng: call(rng.normal(size=(5, 3)), np.ones(3), np.zeros(3), normalized_shape=(3,), eps=1e-5),
    "group_norm": lambda rng: call(rng.normal(size=(5, 4)), np.ones(4), np.zeros(4), num_groups=2, eps=1e-5),
    "rms_norm": lambda rng: call(rng.normal(size=(5, 3)), np.ones(3), normalized_shape=(3,), eps=1e-5),
    "layer_norm_init": lambda rng: call((3,)),
    "group_norm_init": lambda rng: call(4),
    "rms_norm_init": lambda rng: call((3,)),
    "fan_in_and_fan_out": lambda rng: call((3, 2)),
    "calculate_gain": lambda rng: call("leaky_relu", 0.2),
    "xavier_uniform": lambda rng: call(rng, (3, 2), gain=1.0),
    "xavier_normal": lambda rng: call(rng, (3, 2), gain=1.0),
    "he_uniform": lambda rng: call(rng, (3, 2), a=0.1, mode="fan_in", nonlinearity="leaky_relu"),
    "he_normal": lambda rng: call(rng, (3, 2), a=0.1, mode="fan_in", nonlinearity="leaky_relu"),
    "orthogonal": lambda rng: call(rng, (3, 2), gain=1.0),
    "ridge": lambda rng: call(rng.normal(size=(5, 2)), rng.normal(size=5), lam=0.5),
    "min_norm": lambda rng: call(rng.normal(size=(5, 2)), rng.normal(size=5)),
    "random_features_init": lambda rng: call(rng, 3, 4),
    "random_features": lambda rng: call(
        {"weight": rng.normal(size=(4, 3)), "bias": rng.normal(size=4)}, rng.normal(size=(5, 3))
    ),
    "bias_variance": lambda rng: call(rng.normal(size=(3, 5)), rng.normal(size=5)),
    "warp": lambda rng: call(_images(rng), rng.uniform(0, 3, (4, 5)), rng.uniform(0, 4, (4, 5)), fill=0.5),
    "shift": lambda rng: call(_images(rng), np.array([1.0, -2.0]), fill=0.5),
    "rotate": lambda rng: call(_images(rng), np.array([30.0, -15.0]), fill=0.5),
    "random_shift": lambda rng: call(rng, _images(rng), most=2, fill=0.5),
    "random_rotation": lambda rng: call(rng, _images(rng), most=15.0, fill=0.5),
    "random_elastic": lambda rng: call(rng, _images(rng), alpha=2.0, sigma=4.0, fill=0.5),
    "gaussian_noise": lambda rng: call(rng, rng.normal(size=(3, 4)), std=0.1),
    "cutout": lambda rng: call(rng, _images(rng), size=2, fill=0.5),
    "mixup": lambda rng: call(rng, rng.normal(size=(4, 3)), np.array([0, 2, 1, 2]), alpha=0.2, classes=3),
}
