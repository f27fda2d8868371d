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
import glob
import hashlib
import inspect
import json
import math
import os
import secrets
import sys
import time
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnbook._arrays import Array, Given, Parameters, Tree, checked, numeric
from nnbook.backprop import check_parameters, flatten, like, stop_gradient, tree_map, unflatten, value_and_grad
from nnbook.optimizers import adam, adam_init, sgd, sgd_init

History = dict[str, list[float]]


@dataclass(frozen=True)
class Result:
    """What :func:`fit` returns.

    ``history`` has one entry per epoch under each key: ``train_loss`` (mean over the epoch's examples, each measured
    just before its batch was used), ``lr`` (of the epoch's last step) and, with a validation set, ``validation_loss``
    and ``validation_metric`` (after the epoch). ``best_epoch`` counts from 0 and is the one whose parameters were kept
    by early stopping, otherwise the last (-1 if there was none). ``state`` is what the loss carried along, as it was
    after that epoch; ``None`` for a loss that carries nothing. ``interrupted``: somebody pressed Ctrl-C; then
    ``history`` ends with the last whole epoch, and without ``patience`` the parameters are those of the last step.
    """

    params: Tree
    history: History
    best_epoch: int
    state: Tree = None
    interrupted: bool = False


# ---------------------------------------------------------------------------------------------------------------------
# The loop
# ---------------------------------------------------------------------------------------------------------------------


@checked
def fit(
    params: Parameters,
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
    sample_weight: Given | None = None,
    drop_last: bool = False,
    checkpoint: str | os.PathLike | None = None,
    progress: bool | None = None,
    **hyperparameters: Any,
) -> Result:
    """Minimize ``loss(params, x, y)`` over mini-batches.

    Every epoch goes through all examples once, in an order drawn from ``rng``; the last batch may be smaller. Ctrl-C
    ends the training, and what there is comes back.

    Args:
        params: a nested dict of arrays of floats (or one array); not modified.
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
            take ``(params, state, x, y)``. What comes back is taken off the tape.
        sample_weight: (N,), how much each example counts in ``train_loss``, the mean over an epoch. Give it where the
            loss of a batch is no plain mean over examples: for one over tokens it is their number in each example.
        drop_last: leave out the last batch of an epoch if it is smaller. A batch of one example, say, has no variance.
        checkpoint: a file written after every epoch. If it exists, training goes on from it, and the result is the one
            that an uninterrupted run would have had, bit for bit.
        progress: show a progress bar; by default only on a terminal, so that stored notebooks contain none.
        **hyperparameters: handed to the optimizer's step.

    Raises:
        ValueError: an argument outside its range, ``x`` and ``y`` of different lengths, no data, a validation set and a
            state but no ``validation_loss``, a parameter that is no float, a loss that returns nothing or does not
            depend on the parameters, or a checkpoint that is damaged or belongs to another run: other data, another
            loss, schedule or optimizer. ``rng`` is then as it was.
        FloatingPointError: the loss is NaN or infinite; names the step (from 0) and the epoch (from 0).
    """
    x, y = _examples(data, "training")
    check_parameters(params)
    _check(epochs, batch_size, rng, validation, validation_loss, metric, patience, state, optimizer, lr)
    if validation is not None:
        validation = _examples(validation, "validation")
    weights = _weights(sample_weight, len(x))
    init, step_function = optimizer
    steps_per_epoch = len(x) // batch_size if drop_last else math.ceil(len(x) / batch_size)
    if steps_per_epoch == 0:
        raise ValueError(f"drop_last leaves no batch: {len(x)} examples are fewer than batch_size {batch_size}")
    run = _Run(params, init(params), state, {"train_loss": [], "lr": []}, params, state)
    identity = {
        "optimizer": _name(step_function),
        "hyperparameters": {key: repr(value) for key, value in sorted(hyperparameters.items())},
        "loss": _code(loss),
        "lr": "a function" if callable(lr) else repr(float(lr)),
        "batch_size": batch_size,
        "drop_last": drop_last,
        "examples": len(x),
        "data": _digest(x, y, weights),
        "validation": None if validation is None else _digest(*validation),
        "validation_loss": None if validation_loss is None else _code(validation_loss),
        "metric": None if metric is None else _code(metric),
        "patience": patience,
        "state": None if state is None else sorted(_named({"state": state})),
    }
    if checkpoint is not None:
        _named(params)  # what cannot be written is refused before the work, not after
        if not Path(checkpoint).parent.is_dir():
            raise ValueError(f"checkpoint {checkpoint}: there is no directory {Path(checkpoint).parent}")
    if checkpoint is not None and Path(checkpoint).exists():
        run, random_state = _resume(checkpoint, params, state, identity, rng)
        _check_resumed(checkpoint, run, epochs, steps_per_epoch, lr)
        rng.bit_generator.state = random_state  # last of all: a run that is refused leaves it alone
    gradient = value_and_grad(functools.partial(_finite, loss if state is None else run.keep_state(loss)))

    done = len(run.history["lr"])
    try:
        with _progress_bar(progress, steps_per_epoch, epochs, done) as bar:
            for epoch in range(done, epochs):
                if patience is not None and epoch - 1 - run.best_epoch >= patience:
                    break
                order = rng.permutation(len(x))
                total = seen = 0.0
                for i in range(steps_per_epoch):
                    step = epoch * steps_per_epoch + i
                    rate = _rate(lr, step)
                    rows = order[i * batch_size : (i + 1) * batch_size]
                    value, grads = gradient(run.params, x[rows], y[rows], place=(step, epoch, rate))
                    run.params, run.state = step_function(run.params, grads, run.state, lr=rate, **hyperparameters)
                    total += float(value) * weights[rows].sum()
                    seen += weights[rows].sum()
                    bar.update()
                mean = float(total / (seen or 1))
                bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
                run.end_epoch(epoch, mean, rate, *_validate(run, epoch, validation_loss or loss, validation, metric))
                if patience is None or run.history["validation_loss"][-1] < run.lowest:
                    run.best_params, run.best_carried, run.best_epoch = run.params, run.carried, epoch
                    run.lowest = run.history["validation_loss"][-1] if validation is not None else math.inf
                if checkpoint is not None:
                    _save_run(checkpoint, run, identity, rng)
    except KeyboardInterrupt:
        done = len(run.history["lr"])
        print(f"Stopped by Ctrl-C after {done} of {epochs} epochs; fit returns what there is.", file=sys.stderr)
        if patience is None:
            run.best_params, run.best_carried = run.params, run.carried
        return Result(run.best_params, run.history, run.best_epoch, run.best_carried, interrupted=True)
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
            found = loss(params, self.carried, x, y)
            if not isinstance(found, tuple) or len(found) != 2:
                raise ValueError(f"with a state the loss returns (value, state), not {type(found).__name__}")
            value, carried = found
            self.carried = stop_gradient(carried)
            return value

        return kept

    def end_epoch(self, epoch, train_loss, rate, *measured):
        """Write an epoch into the history, all of it or, if somebody interrupts, nothing."""
        names = ("train_loss", "lr", "validation_loss", "validation_metric")
        entries = zip(names, (train_loss, rate, *measured), strict=False)
        self.history = {**self.history, **{name: [*self.history.get(name, []), value] for name, value in entries}}

    def with_state(self, function):
        """A validation loss or a metric as a function of ``(params, x, y)``."""
        if self.carried is None:
            return function
        return lambda params, x, y: function(params, self.carried, x, y)


def _finite(loss, params, x, y, *, place):
    value = loss(params, x, y)
    if value is None:
        raise ValueError(f"the loss {_name(loss)} returned None; does it end without a return?")
    plain = numeric(f"what the loss {_name(loss)} returned", stop_gradient(value))
    if not np.all(np.isfinite(plain)):
        step, epoch, rate = place
        raise FloatingPointError(
            f"the loss is {plain} at step {step} in epoch {epoch} (both count from 0), learning rate {rate:g}; "
            "a smaller learning rate is the first thing to try"
        )
    return value


def _validate(run, epoch, loss, validation, metric):
    if validation is None:
        return ()
    value = evaluate(run.params, run.with_state(loss), validation)
    if not math.isfinite(value):
        raise FloatingPointError(f"the validation loss is {value} after epoch {epoch} (counted from 0)")
    return (value,) if metric is None else (value, evaluate(run.params, run.with_state(metric), validation))


def _examples(data, name):
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise ValueError(f"{name} data must be a pair of arrays (x, y), not {type(data).__name__}")
    x, y = (numeric(f"{name} data: {which}", array) for which, array in zip("xy", data, strict=True))
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise ValueError(f"{name} data: x has shape {x.shape} and y {y.shape}; they need the same number of rows")
    if len(x) == 0:
        raise ValueError(f"{name} data: there are no examples, x has shape {x.shape}")
    return x, y


def _weights(sample_weight, count):
    weights = np.ones(count) if sample_weight is None else numeric("sample_weight", sample_weight).astype(np.float64)
    if weights.shape != (count,) or not (np.isfinite(weights) & (weights >= 0)).all() or not weights.sum() > 0:
        raise ValueError(
            f"sample_weight must be {count} finite numbers >= 0, one for each example and not all 0; its shape is "
            f"{weights.shape}"
        )
    return weights


def _rate(lr, step):
    rate = lr(step) if callable(lr) else lr
    try:
        rate = float(rate)
    except (TypeError, ValueError):
        raise ValueError(f"the learning rate of step {step} is no number: {type(rate).__name__}") from None
    if not math.isfinite(rate):
        raise ValueError(f"the learning rate of step {step} is {rate}")
    return rate


def _check(epochs, batch_size, rng, validation, validation_loss, metric, patience, state, optimizer, lr):
    if not all(map(callable, optimizer)):
        raise ValueError("optimizer must be a pair of functions (init, step), such as (adam_init, adam)")
    if not callable(lr):
        _rate(lr, 0)
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, not {batch_size}")
    if epochs < 0:
        raise ValueError(f"epochs must be >= 0, not {epochs}")
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


def _code(function) -> str:
    """A function's name and what it does: its instructions, constants, defaults and what it closes over, as a number.

    Instructions belong to a version of Python, and so does the number.
    """
    digest = hashlib.sha256()

    def add(value, depth=0):
        if isinstance(value, types.CodeType):
            digest.update(value.co_code)
            for constant in (*value.co_consts[bool(value.co_consts and isinstance(value.co_consts[0], str)) :],):
                add(constant, depth)
            digest.update(repr(value.co_names).encode())
        elif isinstance(value, functools.partial):
            add((value.func, *value.args, *sorted(value.keywords.items())), depth + 1)
        elif isinstance(value, types.FunctionType) and depth < 5:
            value = inspect.unwrap(value)  # a wrapper by functools.wraps does not make it another function
            cells = [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]
            defaults = (*(value.__defaults__ or ()), *sorted((value.__kwdefaults__ or {}).items()))
            add((value.__code__, *defaults, *cells), depth + 1)
        elif isinstance(value, (tuple, list)):
            for item in value:
                add(item, depth)
        elif isinstance(value, (bool, int, float, str, bytes, type(None))):
            digest.update(repr(value).encode())
        else:
            digest.update(_name(value).encode())

    add(function)
    return f"{_name(function)} ({digest.hexdigest()[:12]})"


def _digest(*arrays) -> str:
    """Shapes, dtypes and a short number for the content."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    shapes = ", ".join(f"{array.shape} {array.dtype}" for array in arrays)
    return f"{shapes} ({digest.hexdigest()[:12]})"


def _check_resumed(path, run, epochs, steps_per_epoch, lr):
    done = run.history["lr"]
    if len(done) > epochs:
        raise ValueError(f"{path} is at epoch {len(done)}, beyond the {epochs} asked for")
    for epoch, rate in enumerate(done):
        now = _rate(lr, (epoch + 1) * steps_per_epoch - 1)
        if now != rate:
            raise ValueError(
                f"{path} belongs to another run: epoch {epoch} ended with the learning rate {rate}, and the schedule "
                f"here gives {now}"
            )


def _progress_bar(progress, steps_per_epoch, epochs, done):
    from tqdm import tqdm  # here, because it would be a third of this module's import time

    disable = None if progress is None else not progress  # None: tqdm itself looks for a terminal
    return tqdm(total=epochs * steps_per_epoch, initial=done * steps_per_epoch, disable=disable, unit="step")


@checked
def evaluate(
    params: Parameters,
    function: Callable[..., Any],
    data: tuple[Any, Any],
    *,
    batch_size: int = 1024,
    sample_weight: Given | None = None,
) -> float:
    """Mean of ``function(params, x, y)`` over all examples, computed in batches so that memory stays bounded.

    Args:
        params: handed to ``function``.
        function: a loss or a metric that is a mean over the examples it gets (an F1 score is not: use :func:`predict`).
        data: ``(x, y)``, arrays with one row per example.
        batch_size: examples at a time, >= 1.
        sample_weight: (N,), how much each example counts; for a mean over tokens, the number of tokens in it.

    Raises:
        ValueError: no data, different lengths, a batch size below 1, weights that do not fit, or a function that
            returns no number.
    """
    x, y = _examples(data, "evaluation")
    weights = _weights(sample_weight, len(x))
    total = 0.0
    for rows in _slices(len(x), batch_size):
        total += _number(function, params, x[rows], y[rows]) * weights[rows].sum()
    return float(total / weights.sum())


def _number(function, *args) -> float:
    value = numeric(f"what {_name(function)} returned", function(*args))
    if value.size != 1:
        raise ValueError(f"{_name(function)} must return one number, not an array of shape {value.shape}")
    return float(value.item())


@checked
def predict(params: Parameters, model: Callable[..., Any], x: Given, *, batch_size: int = 1024) -> Array:
    """``model(params, x)``, computed in batches of rows and joined.

    Raises:
        ValueError: ``x`` has no rows, or the batch size is below 1.
    """
    x = numeric("predict: x", x)
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(f"there are no examples, x has shape {x.shape}")
    return np.concatenate(
        [numeric("what the model returned", model(params, x[rows])) for rows in _slices(len(x), batch_size)]
    )


def _slices(n, batch_size):
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, not {batch_size!r}")
    return [slice(start, start + batch_size) for start in range(0, n, batch_size)]


# ---------------------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------------------

PREFIX = "training/"
"""Begins the names of a checkpoint's tensors that are no parameters. No ``state_dict`` key contains a slash."""


@checked
def save(path: str | os.PathLike, params: Parameters) -> None:
    """Write parameters as safetensors with the keys of a ``state_dict``.

    PyTorch reads it by ``twin.load_state_dict(safetensors.torch.load_file(path))``. The file is written under another
    name and then renamed: whatever happens, ``path`` holds either the old content or the new one. A checksum goes into
    it, and a note of branches without leaves, which have no key.

    Raises:
        ValueError: ``params`` is not a dict of arrays, or a name begins with ``"training/"``, which checkpoints use.
    """
    _write(path, _named(params), {"branches": _bare_branches(params)})


@checked
def load(path: str | os.PathLike) -> Tree:
    """Read the parameters from a file written by :func:`save`, by :func:`fit` as a checkpoint, or by PyTorch.

    Raises:
        ValueError: the file is damaged, as its checksum tells if it has one, or no safetensors file.
        FileNotFoundError: there is no such file.
    """
    tensors, rest = _read(path)
    params = unflatten({key: array for key, array in tensors.items() if not key.startswith(PREFIX)})
    for branch in rest.get("branches", []):
        *path_to, last = branch.split(".")
        functools.reduce(lambda tree, key: tree.setdefault(key, {}), path_to, params)[last] = {}
    return params


def _bare_branches(tree, path="") -> list[str]:
    """The dotted names of the branches without leaves."""
    if not isinstance(tree, dict):
        return []
    if not tree and path:
        return [path]
    return [name for key, branch in tree.items() for name in _bare_branches(branch, f"{path}.{key}" if path else key)]


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


STALE = 3600.0
"""Seconds after which a file under a temporary name belongs to nobody: its writer was killed."""


def _write(path, tensors, rest):
    from safetensors.numpy import save as serialize

    path = Path(path)
    arrays = {key: np.asarray(array, order="C") for key, array in tensors.items()}
    text = json.dumps(rest, default=_array_to_json)
    content = serialize(arrays, {"nnbook": text, "sha256": _checksum(arrays, text)})
    for left_over in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if time.time() - left_over.stat().st_mtime > STALE:
            left_over.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")  # a name that nobody else's file has
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # the content must reach the disk before the name does
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _checksum(arrays, text: str) -> str:
    """Of everything in a file: names, dtypes, shapes, numbers and the text beside them."""
    digest = hashlib.sha256(text.encode())
    for key, array in sorted(arrays.items()):
        digest.update(f"{key} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def _read(path):
    """The arrays of a file and, if nnbook wrote it, what stands beside them."""
    from safetensors import SafetensorError, safe_open

    if Path(path).is_dir():
        raise ValueError(f"{path} is a directory, not a file")
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error}); delete it to start afresh") from None
    except TypeError as error:  # bfloat16 and the 8-bit floats
        raise ValueError(f"{path} holds a dtype that NumPy lacks ({error}); convert it to float32 first") from None
    if not {"nnbook", "sha256"} & metadata.keys():  # PyTorch wrote it, say
        return arrays, {}
    if metadata.get("sha256") != _checksum(arrays, metadata.get("nnbook", "")):
        raise ValueError(f"{path} is damaged: its content does not have the checksum that stands in it")
    return arrays, json.loads(metadata["nnbook"], object_hook=_array_from_json)


def _save_run(path, run, identity, rng):
    state = flatten(run.state)
    tensors = _named(run.params)
    tensors |= {f"{PREFIX}best/{key}": array for key, array in _named(run.best_params).items()}
    if run.carried is not None:
        carried = {"now": run.carried, "best": run.best_carried}
        tensors |= {f"{PREFIX}state/{key}": array for key, array in _named(carried).items()}
    tensors |= {f"{PREFIX}optimizer/{key}": leaf for key, leaf in state.items() if isinstance(leaf, Array)}
    rest = {
        "branches": _bare_branches(run.params),
        "identity": identity,
        "history": run.history,
        "best_epoch": run.best_epoch,
        "lowest": run.lowest,
        "optimizer": {key: leaf for key, leaf in state.items() if not isinstance(leaf, Array)},
        "rng": rng.bit_generator.state,
    }
    _write(path, tensors, rest)


def _resume(path, params, carried, identity, rng):
    tensors, rest = _read(path)
    if "identity" not in rest:
        raise ValueError(f"{path} holds parameters but no training state: load() it, or choose another checkpoint")
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
    state = {**part(f"{PREFIX}optimizer/"), **rest["optimizer"]}
    carried = {
        when: carried if carried is None else like(carried, part(f"{PREFIX}state/{when}.")) for when in ("now", "best")
    }
    run = _Run(
        like(params, own),
        _optimizer_state(state, params),
        carried["now"],
        rest["history"],
        like(params, part(f"{PREFIX}best/")),
        carried["best"],
        rest["best_epoch"],
        rest["lowest"],
    )
    return run, rest["rng"]


def _optimizer_state(flat, params):
    """The state of an optimizer from its flat form: each of its entries has the branches of ``params``."""
    entries: dict[str, dict[str, Any]] = {}
    for key, leaf in flat.items():
        name, _, inner = key.partition(".")
        entries.setdefault(name, {})[inner] = leaf
    names = flatten(params).keys()
    return {
        name: leaves[""] if "" in leaves else like(params, leaves) if leaves.keys() == names else unflatten(leaves)
        for name, leaves in entries.items()
    }


def _array_to_json(array):
    return {"array": array.tolist(), "dtype": str(array.dtype)}  # some generators keep arrays in their state


def _array_from_json(item):
    return np.array(item["array"], item["dtype"]) if item.keys() == {"array", "dtype"} else item


# ---------------------------------------------------------------------------------------------------------------------
# The PyTorch twin
# ---------------------------------------------------------------------------------------------------------------------


@checked
def to_torch(params: Parameters, *, device: Any = "cpu") -> dict[str, Any]:
    """A ``state_dict``: the parameters copied into tensors on ``device`` under their dotted names."""
    import torch

    device = _device(device)
    return {key: torch.tensor(np.asarray(leaf), device=device) for key, leaf in _named(params).items()}


def _device(device):
    import torch

    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, TypeError, AssertionError) as problem:
        raise ValueError(f"PyTorch cannot use the device {device!r}: {str(problem).splitlines()[0]}") from None


@checked
def from_torch(state_dict: dict[str, Any]) -> Tree:
    """The inverse of :func:`to_torch`: tensors, on whatever device, copied into a nested dict of arrays."""
    for key, tensor in state_dict.items():
        if not hasattr(tensor, "detach"):
            raise ValueError(f"from_torch: {key!r} must be a tensor, not {type(tensor).__name__}")
    return unflatten({key: tensor.detach().cpu().numpy().copy() for key, tensor in state_dict.items()})


@checked
def lockstep(
    params: Parameters,
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

    if not all(map(callable, optimizer)):
        raise ValueError("optimizer must be a pair of functions (init, step), such as (sgd_init, sgd)")
    if not (hasattr(twin, "load_state_dict") and hasattr(twin, "parameters")):
        raise ValueError(f"the twin must be a torch.nn.Module, not {type(twin).__name__}")
    init, step_function = optimizer
    dtypes = {np.asarray(leaf).dtype for leaf in _named(params).values()}
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
    if not hasattr(twin_optimizer, "param_groups"):
        raise ValueError(f"torch_optimizer made a {type(twin_optimizer).__name__}, no optimizer of torch.optim")
    state = init(params)
    gradient = value_and_grad(loss)
    differences = []

    def like_params(array):
        array = np.asarray(array)
        return array.astype(dtype) if array.dtype.kind == "f" else array

    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # TF32 keeps 10 bits; off for matmul by default
        for i, batch in enumerate(batches):
            x, y = (like_params(array) for array in _examples(batch, "lockstep"))
            rate = _rate(lr, i)
            _, grads = gradient(params, x, y)
            params, state = step_function(params, grads, state, lr=rate, **hyperparameters)

            for group in twin_optimizer.param_groups:
                group["lr"] = rate
            twin_optimizer.zero_grad()
            value = torch_loss(twin, torch.tensor(x, device=device), torch.tensor(y, device=device))
            if not hasattr(value, "backward"):
                raise ValueError(f"torch_loss must return a tensor, not {type(value).__name__}")
            value.backward()
            twin_optimizer.step()
            differences.append(relative_difference(params, from_torch(twin.state_dict())))
    return np.array(differences)


@checked
def relative_difference(params: Parameters, others: Parameters) -> float:
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
