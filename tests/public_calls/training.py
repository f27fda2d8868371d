"""Calls of nnbook.training."""

import tempfile
from pathlib import Path

import numpy as np
import torch

from nnbook.optimizers import sgd, sgd_init
from nnbook.training import save
from public_calls import call

W = {"weight": np.array([[0.5, -0.25]])}
X, Y = np.arange(12.0).reshape(6, 2) / 8, np.arange(6.0)[:, None] / 8


def _loss(params, *rest):
    """Of parameters of any form, so that what wrong ones raise is not the loss's own error."""
    x, y = rest[-2:]
    if isinstance(params, dict) and set(params) == {"weight"}:
        return ((x @ params["weight"].T - y) ** 2).mean()
    return 0.0 if isinstance(params, dict) else np.mean(params * params)


def _model(params, x):
    return x * 2.0


def _file():
    path = Path(tempfile.mkdtemp()) / "p.safetensors"
    save(path, W)
    return path


CALLS = {
    "fit": lambda rng: call(
        W,
        _loss,
        (X, Y),
        optimizer=(sgd_init, sgd),
        lr=0.01,
        epochs=1,
        batch_size=4,
        rng=rng,
        validation=(X, Y),
        validation_loss=_loss,
        metric=_loss,
        patience=2,
        sample_weight=np.ones(6),
        drop_last=False,
        progress=False,
    ),
    "evaluate": lambda rng: call(W, _loss, (X, Y), batch_size=4, sample_weight=np.ones(6)),
    "predict": lambda rng: call(W, _model, X, batch_size=4),
    "save": lambda rng: call(Path(tempfile.mkdtemp()) / "p.safetensors", W),
    "load": lambda rng: call(_file()),
    "to_torch": lambda rng: call(W),
    "from_torch": lambda rng: call({"weight": torch.ones(1, 2)}),
    "lockstep": lambda rng: call(
        W,
        _loss,
        torch.nn.Linear(2, 1, bias=False),
        lambda twin, x, y: ((twin(x) - y) ** 2).mean(),
        [(X, Y)],
        optimizer=(sgd_init, sgd),
        lr=0.01,
    ),
    "relative_difference": lambda rng: call(W, {"weight": W["weight"] + 1}),
}
