"""Training: one short loop with mini-batches, early stopping and checkpoints, and a comparison with a PyTorch twin.

::

    def loss(params, x, y):
        return cross_entropy(mlp(params, x), y)

    params = mlp_init(rng, (64, 32, 10))
    result = fit(params, loss, (x, y), lr=1e-3, epochs=20, batch_size=32, rng=rng)
    labels = predict(result.params, mlp, x_test).argmax(1)

All randomness comes from ``rng``, so the same seed gives the same result. Files are safetensors with the keys of a
PyTorch ``state_dict``. torch is imported only by the functions that need it: :func:`to_torch`, :func:`lockstep`.
"""

from __future__ import annotations

import functools
import json
import math
import os
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnbook._arrays import Array, Tree
from nnbook.backprop import flatten, tree_map, unflatten, value_and_grad
from nnbook.optimizers import adam, adam_init, sgd, sgd_init

History = dict[str, list[float]]


@dataclass(frozen=True)
class Result:
    """What :func:`fit` returns.

    ``history`` has one entry per epoch under each key: ``train_loss`` (mean over the epoch's examples, each measured
    just before its batch was used), ``lr`` (of the epoch's last step) and, with a validation set, ``validation_loss``
    and ``validation_metric`` (after the epoch). ``best_epoch`` counts from 0 and is the one whose parameters were kept
    by early stopping, otherwise the last (-1 if there was none). ``state`` is what the loss carried along, as it was
    after that epoch; ``None`` for a loss that carries nothing.
    """

    params: Tree
    history: History
    best_epoch: int
    state: Tree = None


# ---------------------------------------------------------------------------------------------------------------------
# The loop
# ---------------------------------------------------------------------------------------------------------------------


def fit(
    params: Tree,
    loss: Callable[..., Any],
    data: tuple[Any, Any],
    *,
    optimizer: tuple[Callable[..., Any], Callable[..., Any]] = (adam_init, adam),
    lr: float | Callable[[int], float] = 1e-3,
    epochs: int,
    batch_size: int,
    rng: np.random.Generator,
    validation: tuple[Any, Any] | None = None,
    validation_loss: Callable[..., Any] | None = None,
    metric: Callable[..., Any] | None = None,
    patience: int | None = None,
    state: Tree = None,
    checkpoint: str | os.PathLike | None = None,
    progress: bool | None = None,
    **hyperparameters: Any,
) -> Result:
    """Minimize ``loss(params, x, y)`` over mini-batches.

    Every epoch goes through all examples once, in an order drawn from ``rng``; the last batch may be smaller.

    Args:
        params: a nested dict of arrays (or one array); not modified.
        loss: returns a scalar, the mean over the examples of a batch. If it draws random numbers, let it draw them from
            the same ``rng``: its state is part of a checkpoint.
        data: ``(x, y)``, arrays with one row per example.
        optimizer: ``(init, step)`` from :mod:`nnbook.optimizers`.
        lr: the learning rate, or a function of the step, which counts from 0 through all epochs.
        epochs: passes over the data, >= 0.
        batch_size: examples in a batch, >= 1.
        rng: shuffles the examples.
        validation: ``(x, y)`` on which the loss is measured after every epoch.
        validation_loss: what is measured there in place of ``loss``, with the same arguments: the loss in evaluation,
            without dropout, augmentation and penalty. It returns the value alone.
        metric: ``metric(params, x, y)`` is measured there as well; a mean over examples.
        patience: stop after so many epochs without a new lowest validation loss, and return the parameters that had
            the lowest one. Without it the last parameters are returned.
        state: arrays, or a nested dict of them, that the loss carries from batch to batch, such as running statistics.
            With it the loss is ``loss(params, state, x, y) -> (value, state)``, and ``validation_loss`` and ``metric``
            take ``(params, state, x, y)``.
        checkpoint: a file written after every epoch. If it exists, training goes on from it, and the result is the one
            that an uninterrupted run would have had, bit for bit.
        progress: show a progress bar; by default only on a terminal, so that stored notebooks contain none.
        **hyperparameters: handed to the optimizer's step.

    Raises:
        ValueError: an argument outside its range, ``x`` and ``y`` of different lengths, no data, a validation set and a
            state but no ``validation_loss``, or a checkpoint that is damaged or belongs to another run.
        FloatingPointError: the loss is NaN or infinite; names the step (from 0) and the epoch (from 0).
    """
    x, y = _examples(data, "training")
    _check(epochs, batch_size, rng, validation, validation_loss, metric, patience, state)
    if validation is not None:
        validation = _examples(validation, "validation")
    init, step_function = optimizer
    steps_per_epoch = math.ceil(len(x) / batch_size)
    run = _Run(params, init(params), state, {"train_loss": [], "lr": []}, params, state)
    identity = {
        "optimizer": _name(step_function),
        "hyperparameters": {key: repr(value) for key, value in sorted(hyperparameters.items())},
        "lr": "a function" if callable(lr) else repr(float(lr)),
        "batch_size": batch_size,
        "examples": len(x),
        "shapes of the data": [list(x.shape), list(y.shape)],
        "validation": None if validation is None else [list(array.shape) for array in validation],
        "validation_loss": None if validation_loss is None else _name(validation_loss),
        "metric": None if metric is None else _name(metric),
        "patience": patience,
        "state": None if state is None else sorted(_named({"state": state})),
    }
    if checkpoint is not None:
        _named(params)  # what cannot be written is refused before the work, not after
        if not Path(checkpoint).parent.is_dir():
            raise ValueError(f"checkpoint {checkpoint}: there is no directory {Path(checkpoint).parent}")
    if checkpoint is not None and Path(checkpoint).exists():
        run = _resume(checkpoint, params, identity, rng)
        if len(run.history["lr"]) > epochs:
            raise ValueError(f"{checkpoint} is at epoch {len(run.history['lr'])}, beyond the {epochs} asked for")
    gradient = value_and_grad(functools.partial(_finite, loss if state is None else run.keep_state(loss)))

    with _progress_bar(progress, steps_per_epoch, epochs, len(run.history["lr"])) as bar:
        for epoch in range(len(run.history["lr"]), epochs):
            if patience is not None and epoch - 1 - run.best_epoch >= patience:
                break
            order = rng.permutation(len(x))
            total = 0.0
            for i in range(steps_per_epoch):
                step = epoch * steps_per_epoch + i
                rate = float(lr(step) if callable(lr) else lr)
                rows = order[i * batch_size : (i + 1) * batch_size]
                value, grads = gradient(run.params, x[rows], y[rows], place=(step, epoch, rate))
                run.params, run.state = step_function(run.params, grads, run.state, lr=rate, **hyperparameters)
                total += float(value) * len(rows)
                bar.update()
            run.history["train_loss"].append(total / len(x))
            run.history["lr"].append(rate)
            bar.set_postfix(loss=f"{total / len(x):.4f}", refresh=False)
            _validate(run, epoch, validation_loss or loss, validation, metric)
            if patience is None or run.history["validation_loss"][-1] < run.lowest:
                run.best_params, run.best_carried, run.best_epoch = run.params, run.carried, epoch
                run.lowest = run.history["validation_loss"][-1] if validation is not None else math.inf
            if checkpoint is not None:
                _save_run(checkpoint, run, identity, rng)
    return Result(run.best_params, run.history, run.best_epoch, run.best_carried)


@dataclass
class _Run:
    """Everything that changes while :func:`fit` runs, apart from the random generator."""

    params: Tree
    state: dict[str, Any]
    carried: Tree
    history: History
    best_params: Tree
    best_carried: Tree
    best_epoch: int = -1
    lowest: float = math.inf

    def keep_state(self, loss):
        """The loss as a function of ``(params, x, y)``; the state that it returns is handed to the next call."""

        def kept(params, x, y):
            value, self.carried = loss(params, self.carried, x, y)
            return value

        return kept

    def with_state(self, function):
        """A validation loss or a metric as a function of ``(params, x, y)``."""
        if self.carried is None:
            return function
        return lambda params, x, y: function(params, self.carried, x, y)


def _finite(loss, params, x, y, *, place):
    value = loss(params, x, y)
    plain = getattr(value, "value", value)
    if not np.all(np.isfinite(plain)):
        step, epoch, rate = place
        raise FloatingPointError(
            f"the loss is {plain} at step {step} in epoch {epoch} (both count from 0), learning rate {rate:g}; "
            "a smaller learning rate is the first thing to try"
        )
    return value


def _validate(run, epoch, loss, validation, metric):
    if validation is None:
        return
    value = evaluate(run.params, run.with_state(loss), validation)
    if not math.isfinite(value):
        raise FloatingPointError(f"the validation loss is {value} after epoch {epoch} (counted from 0)")
    run.history.setdefault("validation_loss", []).append(value)
    if metric is not None:
        run.history.setdefault("validation_metric", []).append(evaluate(run.params, run.with_state(metric), validation))


def _examples(data, name):
    x, y = (np.asarray(array) for array in data)
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise ValueError(f"{name} data: x has shape {x.shape} and y {y.shape}; they need the same number of rows")
    if len(x) == 0:
        raise ValueError(f"{name} data: there are no examples, x has shape {x.shape}")
    return x, y


def _check(epochs, batch_size, rng, validation, validation_loss, metric, patience, state):
    for name, number in (("batch_size", batch_size), ("epochs", epochs)):
        if not isinstance(number, (int, np.integer)):
            raise ValueError(f"{name} must be an integer, not {number!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, not {batch_size}")
    if epochs < 0:
        raise ValueError(f"epochs must be >= 0, not {epochs}")
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"rng must be a numpy.random.Generator, not {type(rng).__name__}")
    if patience is not None and patience < 1:
        raise ValueError(f"patience must be >= 1, not {patience}")
    if validation is None and not (validation_loss is None and metric is None and patience is None):
        raise ValueError("validation_loss, metric and patience need a validation set: pass validation=(x, y)")
    if validation is not None and state is not None and validation_loss is None:
        raise ValueError(
            "a loss with a state is one of training; the validation set needs validation_loss(params, state, x, y)"
        )


def _name(function):
    return getattr(function, "__name__", type(function).__name__)


def _progress_bar(progress, steps_per_epoch, epochs, done):
    from tqdm import tqdm  # here, because it would be a third of this module's import time

    disable = None if progress is None else not progress  # None: tqdm itself looks for a terminal
    return tqdm(total=epochs * steps_per_epoch, initial=done * steps_per_epoch, disable=disable, unit="step")


def evaluate(params: Tree, function: Callable[..., Any], data: tuple[Any, Any], *, batch_size: int = 1024) -> float:
    """Mean of ``function(params, x, y)`` over all examples, computed in batches so that memory stays bounded.

    Args:
        params: handed to ``function``.
        function: a loss or a metric that is a mean over the examples it gets (an F1 score is not: use :func:`predict`).
        data: ``(x, y)``, arrays with one row per example.
        batch_size: examples at a time, >= 1.

    Raises:
        ValueError: no data, different lengths, or a batch size below 1.
    """
    x, y = _examples(data, "evaluation")
    total = 0.0
    for rows in _slices(len(x), batch_size):
        total += float(function(params, x[rows], y[rows])) * len(x[rows])
    return total / len(x)


def predict(params: Tree, model: Callable[..., Any], x, *, batch_size: int = 1024) -> Array:
    """``model(params, x)``, computed in batches of rows and joined.

    Raises:
        ValueError: ``x`` has no rows, or the batch size is below 1.
    """
    x = np.asarray(x)
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(f"there are no examples, x has shape {x.shape}")
    return np.concatenate([model(params, x[rows]) for rows in _slices(len(x), batch_size)])


def _slices(n, batch_size):
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, not {batch_size}")
    return [slice(start, start + batch_size) for start in range(0, n, batch_size)]


# ---------------------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------------------

PREFIX = "training/"
"""Begins the names of a checkpoint's tensors that are no parameters. No ``state_dict`` key contains a slash."""


def save(path: str | os.PathLike, params: Tree) -> None:
    """Write parameters as safetensors with the keys of a ``state_dict``.

    PyTorch reads it by ``twin.load_state_dict(safetensors.torch.load_file(path))``. The file is written under another
    name and then renamed: whatever happens, ``path`` holds either the old content or the new one.

    Raises:
        ValueError: ``params`` is not a dict of arrays, or a name begins with ``"training/"``, which checkpoints use.
    """
    _write(path, _named(params), {})


def load(path: str | os.PathLike) -> Tree:
    """Read the parameters from a file written by :func:`save`, by :func:`fit` as a checkpoint, or by PyTorch.

    Raises:
        ValueError: the file is damaged or no safetensors file.
        FileNotFoundError: there is no such file.
    """
    tensors, _ = _read(path)
    return unflatten({key: array for key, array in tensors.items() if not key.startswith(PREFIX)})


def _named(params):
    if not isinstance(params, dict):
        raise ValueError(f"a file needs names: params must be a dict of arrays, not {type(params).__name__}")
    named = flatten(params)
    for key, leaf in named.items():
        if key.startswith(PREFIX):
            raise ValueError(f"the name {key} is taken: names that begin with {PREFIX!r} belong to checkpoints")
        if np.asarray(leaf).dtype.kind not in "biufc":
            raise ValueError(f"a file holds arrays of numbers, but {key} is {type(leaf).__name__}: {leaf!r}")
    return named


def _write(path, tensors, metadata):
    from safetensors.numpy import save as serialize

    path = Path(path)
    content = serialize({key: np.asarray(array, order="C") for key, array in tensors.items()}, metadata)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")  # a name that nobody else's file has
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # the content must reach the disk before the name does
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path):
    from safetensors import SafetensorError, safe_open

    if Path(path).is_dir():
        raise ValueError(f"{path} is a directory, not a file")
    try:
        with safe_open(path, framework="numpy") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error}); delete it to start afresh") from None
    except TypeError as error:  # bfloat16 and the 8-bit floats
        raise ValueError(f"{path} holds a dtype that NumPy lacks ({error}); convert it to float32 first") from None


def _save_run(path, run, identity, rng):
    state = flatten(run.state)
    tensors = _named(run.params)
    tensors |= {f"{PREFIX}best/{key}": array for key, array in _named(run.best_params).items()}
    if run.carried is not None:
        carried = {"now": run.carried, "best": run.best_carried}
        tensors |= {f"{PREFIX}state/{key}": array for key, array in _named(carried).items()}
    tensors |= {f"{PREFIX}optimizer/{key}": leaf for key, leaf in state.items() if isinstance(leaf, Array)}
    rest = {
        "identity": identity,
        "history": run.history,
        "best_epoch": run.best_epoch,
        "lowest": run.lowest,
        "optimizer": {key: leaf for key, leaf in state.items() if not isinstance(leaf, Array)},
        "rng": rng.bit_generator.state,
    }
    _write(path, tensors, {"nnbook": json.dumps(rest, default=_array_to_json)})


def _resume(path, params, identity, rng):
    tensors, metadata = _read(path)
    if "nnbook" not in metadata:
        raise ValueError(f"{path} holds parameters but no training state: load() it, or choose another checkpoint")
    rest = json.loads(metadata["nnbook"], object_hook=_array_from_json)
    identity = {**identity, "random generator": rng.bit_generator.state["bit_generator"]}
    found = {**rest["identity"], "random generator": rest["rng"]["bit_generator"]}
    for key, value in identity.items():
        if found.get(key) != value:
            raise ValueError(f"{path} belongs to another run: {key} was {found.get(key)}, here it is {value}")

    def part(prefix):
        return {key.removeprefix(prefix): array for key, array in tensors.items() if key.startswith(prefix)}

    own = {key: array for key, array in tensors.items() if not key.startswith(PREFIX)}
    kinds = {key: (np.shape(leaf), np.asarray(leaf).dtype) for key, leaf in _named(params).items()}
    if {key: (array.shape, array.dtype) for key, array in own.items()} != kinds:
        raise ValueError(f"{path} belongs to another run: the parameters' names, shapes or dtypes differ")
    rng.bit_generator.state = rest["rng"]
    state = unflatten({**part(f"{PREFIX}optimizer/"), **rest["optimizer"]})
    best = unflatten(part(f"{PREFIX}best/"))
    own = {key: own[key] for key in kinds}  # in the order of the caller
    carried = unflatten(part(f"{PREFIX}state/")) or {"now": None, "best": None}
    return _Run(
        unflatten(own),
        state,
        carried["now"],
        rest["history"],
        best,
        carried["best"],
        rest["best_epoch"],
        rest["lowest"],
    )


def _array_to_json(array):
    return {"array": array.tolist(), "dtype": str(array.dtype)}  # some generators keep arrays in their state


def _array_from_json(item):
    return np.array(item["array"], item["dtype"]) if item.keys() == {"array", "dtype"} else item


# ---------------------------------------------------------------------------------------------------------------------
# The PyTorch twin
# ---------------------------------------------------------------------------------------------------------------------


def to_torch(params: Tree, *, device: Any = "cpu") -> dict[str, Any]:
    """A ``state_dict``: the parameters copied into tensors on ``device`` under their dotted names."""
    import torch

    return {key: torch.tensor(np.asarray(leaf), device=device) for key, leaf in _named(params).items()}


def from_torch(state_dict: dict[str, Any]) -> Tree:
    """The inverse of :func:`to_torch`: tensors, on whatever device, copied into a nested dict of arrays."""
    return unflatten({key: tensor.detach().cpu().numpy().copy() for key, tensor in state_dict.items()})


def lockstep(
    params: Tree,
    loss: Callable[..., Any],
    twin: Any,
    torch_loss: Callable[..., Any],
    batches: Iterable[tuple[Any, Any]],
    *,
    optimizer: tuple[Callable[..., Any], Callable[..., Any]] = (sgd_init, sgd),
    torch_optimizer: Callable[..., Any] | None = None,
    lr: float | Callable[[int], float] = 0.01,
    device: Any = "cpu",
    **hyperparameters: Any,
) -> Array:
    """Train in NumPy and in PyTorch from the same weights on the same batches; how far do they part?

    Args:
        params: where both start; a copy goes into ``twin``. Their dtype is that of the whole comparison.
        loss: ``loss(params, x, y)``, composed of primitives.
        twin: a ``torch.nn.Module`` whose ``state_dict`` has the keys of ``params``. It is converted to the parameters'
            dtype, moved to ``device`` and trained.
        torch_loss: ``torch_loss(twin, x, y)``, a scalar tensor.
        batches: pairs of arrays, one pair a step. Float arrays are converted to the parameters' dtype.
        optimizer: ``(init, step)`` from :mod:`nnbook.optimizers`.
        torch_optimizer: its counterpart; by default the one in ``torch.optim`` of the same name.
        lr: the learning rate, or a function of the step, which counts from 0.
        device: where PyTorch computes.
        **hyperparameters: handed to both optimizers.

    Returns:
        (steps,): :func:`relative_difference` of NumPy's parameters from PyTorch's after each step.

    Raises:
        ValueError: the keys or shapes of ``params`` and ``twin`` differ, the parameters have several dtypes or one that
            ``device`` lacks, or the optimizer has no counterpart of its name.
    """
    import torch

    init, step_function = optimizer
    dtypes = {leaf.dtype for leaf in _named(params).values()}
    if len(dtypes) != 1:
        raise ValueError(f"lockstep needs parameters of one dtype, not {sorted(map(str, dtypes))}")
    dtype = dtypes.pop()
    try:
        twin.to(device=device, dtype=to_torch({"p": np.zeros(0, dtype)})["p"].dtype)
        twin.load_state_dict(to_torch(params))
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"params and twin do not fit: {error}") from None
    twins = ("SGD", "Adagrad", "RMSprop", "Adadelta", "Adam", "AdamW")
    by_name = {name.lower(): getattr(torch.optim, name) for name in twins}
    make = torch_optimizer or by_name.get(_name(step_function))
    if make is None:
        raise ValueError(f"torch.optim has no {_name(step_function)!r} that is known here: pass torch_optimizer")
    twin_optimizer = make(twin.parameters(), lr=0.0, **hyperparameters)
    state = init(params)
    gradient = value_and_grad(loss)
    differences = []

    def like_params(array):
        array = np.asarray(array)
        return array.astype(dtype) if array.dtype.kind == "f" else array

    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # TF32 keeps 10 bits; off for matmul by default
        for i, batch in enumerate(batches):
            x, y = (like_params(array) for array in batch)
            rate = float(lr(i) if callable(lr) else lr)
            _, grads = gradient(params, x, y)
            params, state = step_function(params, grads, state, lr=rate, **hyperparameters)

            for group in twin_optimizer.param_groups:
                group["lr"] = rate
            twin_optimizer.zero_grad()
            torch_loss(twin, torch.tensor(x, device=device), torch.tensor(y, device=device)).backward()
            twin_optimizer.step()
            differences.append(relative_difference(params, from_torch(twin.state_dict())))
    return np.array(differences)


def relative_difference(params: Tree, others: Tree) -> float:
    """The largest ``max|a - b| / max|b|`` over the leaves ``a`` of ``params`` and ``b`` of ``others``.

    Raises:
        ValueError: the trees have different keys or shapes.
    """
    found = [0.0]

    def compare(a, b):
        if np.shape(a) != np.shape(b):
            raise ValueError(f"relative_difference: a leaf has shape {np.shape(a)} here and {np.shape(b)} there")
        distance = np.max(np.abs(a - b), initial=0.0)
        found.append(float(distance / (np.max(np.abs(b), initial=0.0) or 1.0)))

    tree_map(compare, params, others)
    return float(np.max(found))  # np.max keeps a nan, max would lose it
