"""Calls of nnbook.optimizers."""

import numpy as np

from nnbook import optimizers
from public_calls import call

OPTIONS = {
    "sgd": {"momentum": 0.5, "dampening": 0.25, "weight_decay": 0.125},
    "adagrad": {"lr_decay": 0.25, "weight_decay": 0.125, "eps": 1e-3},
    "rmsprop": {"alpha": 0.75, "eps": 1e-3, "weight_decay": 0.125, "momentum": 0.5, "centered": True},
    "adadelta": {"rho": 0.75, "eps": 1e-3, "weight_decay": 0.125},
    "adam": {"betas": (0.5, 0.75), "eps": 1e-3, "weight_decay": 0.125, "amsgrad": True},
    "adamw": {"betas": (0.5, 0.75), "eps": 1e-3, "weight_decay": 0.125, "amsgrad": True},
    "lion": {"betas": (0.5, 0.75), "weight_decay": 0.125},
}
STATE = {"lr": 0.5, "best": 1.0, "num_bad_epochs": 1, "cooldown_counter": 0}


def _tree(rng):
    return {"a": {"w": rng.normal(size=(2, 3))}, "b": rng.normal(size=3)}


def _loss(params, x, y):
    """Of parameters of any form, so that what wrong ones raise is not the loss's own error."""
    if isinstance(params, dict):
        return sum((_loss(branch, x, y) for branch in params.values()), start=0.0)
    return (params * params).mean() * x.mean() * y.mean()


def _init(name):
    keywords = {"initial_accumulator_value": 0.5} if name == "adagrad" else {}
    return lambda rng: call(_tree(rng), **keywords)


def _step(name):
    def of(rng):
        params, grads = _tree(rng), _tree(rng)
        state = getattr(optimizers, f"{name}_init")(params)
        return call(params, grads, state, lr=0.5, maximize=False, **OPTIONS[name])

    return of


CALLS = {
    **{f"{name}_init": _init(name) for name in OPTIONS},
    **{name: _step(name) for name in OPTIONS},
    "param_groups": lambda rng: call(
        (optimizers.sgd_init, optimizers.sgd), (optimizers.bias_or_scale, {"lr_scale": 0.5})
    ),
    "bias_or_scale": lambda rng: call("0.bias", rng.normal(size=3)),
    "step_lr": lambda rng: call(3, lr=0.5, step_size=2, gamma=0.5),
    "exponential_lr": lambda rng: call(3, lr=0.5, gamma=0.5),
    "cosine_annealing_lr": lambda rng: call(3, lr=0.5, T_max=5, eta_min=0.125),
    "linear_warmup": lambda rng: call(3, lr=0.5, total_iters=5, start_factor=0.25),
    "one_cycle": lambda rng: call(
        3,
        max_lr=0.5,
        total_steps=9,
        pct_start=0.5,
        anneal_strategy="linear",
        div_factor=5.0,
        final_div_factor=5.0,
        three_phase=True,
    ),
    "reduce_lr_on_plateau_init": lambda rng: call(0.5),
    "reduce_lr_on_plateau": lambda rng: call(
        0.5,
        dict(STATE),
        mode="max",
        factor=0.5,
        patience=1,
        threshold=0.25,
        threshold_mode="abs",
        cooldown=1,
        min_lr=0.125,
        eps=1e-3,
    ),
    "clip_grad_norm": lambda rng: call(_tree(rng), max_norm=0.5, norm_type=3.0, error_if_nonfinite=True),
    "clip_grad_value": lambda rng: call(_tree(rng), clip_value=0.5),
    "lr_finder": lambda rng: call(
        _tree(rng),
        _loss,
        (rng.normal(size=(6, 2)), np.arange(1, 7) / 4),
        optimizer=(optimizers.sgd_init, optimizers.sgd),
        start_lr=1e-3,
        end_lr=1.0,
        num_iter=3,
        batch_size=2,
        rng=rng,
        smoothing=0.5,
        stop_factor=4.0,
    ),
}
