"""Regularization: to do well on examples not seen before, and to stay trainable when deep (chapter 5).

Penalties, dropout, normalizations with their derivatives, random initializations, least squares in closed form, and
augmentation of images. Nothing here hides a state or a source of randomness: dropout takes its mask, batch
normalization takes its running statistics and returns the new ones, and whatever is random takes ``rng``::

    def loss(params, state, x, y):
        h, state = batch_norm_layer(params["norm"], state, linear(x, **params["0"]), training=True)
        h = dropout(relu(h), dropout_mask(rng, h.shape, p=0.5), p=0.5)
        return cross_entropy(linear(h, **params["1"]), y) + 1e-4 * l2_penalty(params), state
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from nnbook._arrays import SINGLE, Array, Branch, Given, OnTape, Parameters, Tree, as_float, checked, to_dtype
from nnbook.backprop import absolute, flatten, like, maximum, primitive

# ---------------------------------------------------------------------------------------------------------------------
# Penalties: large weights cost something
# ---------------------------------------------------------------------------------------------------------------------


def is_weight(name: str, leaf) -> bool:
    """Whether a leaf has two axes or more, as weights have; biases and the scales of norms have one."""
    return np.ndim(getattr(leaf, "value", leaf)) >= 2


@checked
def l2_penalty(params: Tree, *, leaves: Callable[[str, Any], bool] = is_weight):
    """Half the sum of squares of the weights (:eq:`eq-l2_penalty`): minus the logarithm of a Gaussian prior.

    Args:
        params: a nested dict of arrays, plain or traced, or one array, which counts whatever its shape.
        leaves: ``leaves(name, leaf)`` says which leaves count; ``name`` is the key of the ``state_dict``. By default
            the weights, see :func:`is_weight`: a penalty on biases and norm scales serves no purpose.

    Returns:
        A scalar. Its gradient is the weights themselves, so ``loss + lam * l2_penalty(params)`` shrinks each weight by
        ``lr * lam`` of itself in a step of gradient descent.

    Raises:
        ValueError: no leaf is chosen.

    PyTorch: the option ``weight_decay=lam`` of ``torch.optim.SGD``, which also takes the biases unless told otherwise.
    Source: :cite:`krogh1991`.
    """
    return 0.5 * sum((w * w).sum() for w in _chosen("l2_penalty", params, leaves))


@checked
def l1_penalty(params: Tree, *, leaves: Callable[[str, Any], bool] = is_weight):
    """Sum of the absolute weights (:eq:`eq-l1_penalty`): minus the logarithm of a Laplace prior.

    Arguments and errors are those of :func:`l2_penalty`.

    Returns:
        A scalar. Its derivative is the sign of each weight, 0 at 0, and of the same size however small the weight is.
        Followed downhill it makes no weight exactly 0; :func:`proximal_step` does.

    PyTorch: ``sum(p.abs().sum() for p in ...)``. Source: :cite:`tibshirani1996`.
    """
    return sum(absolute(w).sum() for w in _chosen("l1_penalty", params, leaves))


def _chosen(name, params, leaves):
    if not isinstance(params, dict):
        return [np.asarray(params) if isinstance(params, (int, float)) else params]
    named = flatten(params)
    chosen = [leaf for key, leaf in named.items() if leaves(key, leaf)]
    if not chosen:
        raise ValueError(f"{name}: none of the leaves {', '.join(named)} is chosen; leaves= says which are")
    return chosen


@primitive
def soft_threshold(x, *, threshold: float):
    """Every entry moved towards 0 by ``threshold``, and no further than 0 (:eq:`eq-soft_threshold`).

    It is the minimizer ``u`` of ``(u - x)^2 / 2 + threshold |u|``.

    Args:
        x: (...).
        threshold: a number >= 0.

    Returns:
        (...), exactly 0 where ``|x| <= threshold``.

    Raises:
        ValueError: ``threshold`` is negative.

    At the kinks ``|x| = threshold`` the derivative is taken as 0, as PyTorch does. PyTorch:
    ``torch.nn.functional.softshrink``, whose ``lambd`` it is. Source: :cite:`daubechies2004`.
    """
    if not threshold >= 0:
        raise ValueError(f"soft_threshold: threshold must be >= 0, not {threshold}")
    return x - np.clip(x, -threshold, threshold), None


@soft_threshold.defvjp
def soft_threshold_vjp(dy, saved, x, *, threshold):
    """:eq:`eq-soft_threshold-vjp`: what was set to 0 does not answer."""
    return (np.where(np.abs(x) > threshold, dy, 0),)


@checked
def proximal_step(params: Parameters, *, lr: float, lam: float, leaves: Callable[[str, Any], bool] = is_weight) -> Tree:
    """What an L1 penalty adds to a step of gradient descent: a soft threshold at ``lr * lam`` (:eq:`eq-proximal_step`).

    Take a step on the loss without the penalty, then this one; weights that the loss holds too weakly become 0.

    Args:
        params: a nested dict of arrays, or one array.
        lr: the learning rate of the gradient step, >= 0.
        lam: strength of the penalty ``lam * l1_penalty(params)``, >= 0.
        leaves: as for :func:`l1_penalty`.

    Returns:
        Parameters of the same structure and dtypes. Leaves that are not chosen are the same arrays.

    Raises:
        ValueError: ``lr`` or ``lam`` is negative, or no leaf is chosen.

    PyTorch: ``torch.nn.functional.softshrink(p, lr * lam)``. Source: :cite:`daubechies2004`.
    """
    for name, number in (("lr", lr), ("lam", lam)):
        if not number >= 0:
            raise ValueError(f"proximal_step: {name} must be >= 0, not {number}")
    if not isinstance(params, dict):
        return soft_threshold(params, threshold=lr * lam)
    _chosen("proximal_step", params, leaves)
    return like(
        params,
        {
            key: soft_threshold(leaf, threshold=lr * lam) if leaves(key, leaf) else leaf
            for key, leaf in flatten(params).items()
        },
    )


# ---------------------------------------------------------------------------------------------------------------------
# Dropout
# ---------------------------------------------------------------------------------------------------------------------


@checked
def dropout_mask(rng: np.random.Generator, shape: int | tuple[int, ...], *, p: float) -> Array:
    """Which units stay: each one with probability ``1 - p``, independently (:eq:`eq-dropout_mask`).

    Args:
        rng: the source of randomness.
        shape: of the mask; for whole channels of (N, C, H, W) take (N, C, 1, 1).
        p: the probability of being dropped, 0 <= p < 1.

    Returns:
        A boolean array, true for what stays.

    Raises:
        ValueError: ``p`` is out of range.
    """
    return rng.random(shape) >= _probability("dropout_mask", p)


@primitive
def dropout(x, mask: Given | None = None, *, p=0.5):
    """What stays, divided by the probability of staying; the rest is 0 (:eq:`eq-dropout`). Its expectation is ``x``.

    Args:
        x: (...).
        mask: boolean, of a shape that broadcasts to that of ``x``: true for what stays, see :func:`dropout_mask`.
            ``None`` is evaluation: nothing is dropped and nothing scaled.
        p: the probability of being dropped with which the mask was drawn, 0 <= p < 1.

    Returns:
        (...).

    Raises:
        ValueError: ``p`` is out of range, or the mask is not boolean or does not broadcast to ``x``.

    PyTorch: ``torch.nn.functional.dropout``, which draws its own mask, and also takes ``p = 1``, where no scale could
    keep the expectation. Source: :cite:`srivastava2014`.
    """
    keep = 1 - _probability("dropout", p)
    if mask is None:
        return x, None
    if np.asarray(mask).dtype != bool:
        raise ValueError(f"dropout: the mask has dtype {np.asarray(mask).dtype}, expected bool: true for what stays")
    if not _broadcasts(np.shape(mask), np.shape(x)):
        raise ValueError(f"dropout: a mask of shape {np.shape(mask)} does not broadcast to x of shape {np.shape(x)}")
    return np.where(mask, x / keep, 0), None


@dropout.defvjp
def dropout_vjp(dy, saved, x, mask=None, *, p=0.5):
    """:eq:`eq-dropout-vjp`: the same mask and the same scale."""
    return dy if mask is None else np.where(mask, dy / (1 - p), 0), None


def _probability(name, p):
    if not 0 <= p < 1:
        raise ValueError(f"{name}: p must lie in [0, 1), not {p}")
    return p


def _broadcasts(shape, to):
    return len(shape) <= len(to) and all(n in (1, m) for n, m in zip(shape[::-1], to[::-1], strict=False))


# ---------------------------------------------------------------------------------------------------------------------
# Normalization: mean 0 and variance 1, over different sets of numbers
# ---------------------------------------------------------------------------------------------------------------------


def _standardize(x, axes, eps):
    """``x-hat = (x - mean) / sqrt(var + eps)`` along the axes, and ``1 / sqrt(var + eps)``."""
    centred, var = _centre(x, axes)
    r = 1 / np.sqrt(var + eps)
    centred *= r  # in place, here and below: at the size of images a new array costs more than the arithmetic
    return centred, r


def _standardize_vjp(g, xhat, r, axes):
    """``r (g - mean(g) - x-hat mean(g x-hat))``, where ``g`` is the cotangent of ``x-hat``."""
    along = g * xhat
    along = np.multiply(xhat, _mean(along, axes), out=along)
    dx = g - _mean(g, axes)
    dx -= along
    dx *= r
    return dx


def _centre(x, axes):
    """``x`` minus its mean, and its biased variance, in two passes: a large mean would drown ``E x^2 - mean^2``."""
    centred = x - _mean(x, axes)
    centred -= _mean(centred, axes)  # what rounding left in the mean
    return centred, _mean(centred * centred, axes)


def _mean(x, axes):
    """The mean along the axes, which are kept. Where there is nothing to average, it is 0 and belongs to no entry."""
    n = math.prod(x.shape[axis] for axis in axes)
    return np.add.reduce(x, axis=axes, keepdims=True) / max(n, 1)


def _affine(xhat, weight, bias):
    y = xhat if weight is None else xhat * weight
    if bias is None or y is xhat or np.result_type(y, bias) != y.dtype:
        return y if bias is None else y + bias
    y += bias
    return y


def _by_channel(a, x):
    """(C,) as (C, 1, ..., 1), so that it broadcasts against x of shape (N, C, ...)."""
    return None if a is None else a.reshape(-1, *[1] * (x.ndim - 2))


def _check_channels(name, x, **arrays):
    """Whether ``x`` is (N, C, ...) and each of the arrays (C,)."""
    if np.ndim(x) < 2:
        raise ValueError(f"{name}: x must have shape (N, C) or (N, C, ...), not {np.shape(x)}")
    _check_shapes(name, x, x.shape[1:2], arrays)


def _check_shapes(name, x, shape, arrays):
    for what, a in arrays.items():
        if a is not None and np.shape(a) != shape:
            raise ValueError(
                f"{name}: {what} of shape {np.shape(a)} does not fit x of shape {x.shape}; expected {shape}"
            )


def _eps(name, eps):
    if not eps >= 0:
        raise ValueError(f"{name}: eps must be >= 0, not {eps}")
    return eps


@primitive
def batch_norm(x, weight=None, bias=None, *, eps=1e-5):
    """Each channel standardized over the batch, then scaled and shifted (:eq:`eq-batch_norm`): training mode.

    The variance is the biased one, divided by the number of values. Evaluation is :func:`batch_norm_eval`, both modes
    with their running statistics are :func:`batch_norm_layer`.

    Args:
        x: (N, C) or (N, C, L, ...). N examples, C channels, over all other axes the statistics are taken.
        weight: (C,), the scales, or ``None`` for 1.
        bias: (C,), the shifts, or ``None`` for 0.
        eps: added to the variance, >= 0.

    Returns:
        The shape of ``x``.

    Raises:
        ValueError: a channel has no more than one value (it would always become 0), the shapes do not fit, or ``eps``
            is negative.

    With ``eps = 0`` a channel of equal values divides by 0. PyTorch: ``torch.nn.functional.batch_norm(...,
    training=True)``, which wants ``eps > 0``, and accepts an empty batch (the running statistics are then nan). Source:
    :cite:`ioffe2015`.
    """
    _check_channels("batch_norm", x, weight=weight, bias=bias)
    _more_than_one("batch_norm", x)
    xhat, r = _standardize(x, _all_but_channels(x), _eps("batch_norm", eps))
    return _affine(xhat, _by_channel(weight, x), _by_channel(bias, x)), (xhat, r)


@batch_norm.defvjp
def batch_norm_vjp(dy, saved, x, weight=None, bias=None, *, eps=1e-5):
    """:eq:`eq-batch_norm-vjp`."""
    xhat, r = saved
    axes = _all_but_channels(x)
    return (
        lambda: _standardize_vjp(_affine(dy, _by_channel(weight, x), None), xhat, r, axes),
        lambda: (dy * xhat).sum(axes),
        lambda: dy.sum(axes),
    )


def _all_but_channels(x):
    return (0, *range(2, x.ndim))


def _more_than_one(name, x):
    if x.shape[1] and x.size // x.shape[1] <= 1:
        raise ValueError(f"{name}: training needs more than one value a channel, not x of shape {x.shape}")


@primitive
def batch_norm_eval(x, mean, var, weight=None, bias=None, *, eps=1e-5):
    """Batch normalization with given statistics, an affine map of each channel (:eq:`eq-batch_norm_eval`).

    Args:
        x: (N, C) or (N, C, L, ...).
        mean: (C,), a constant: there is no derivative by it.
        var: (C,), >= 0, a constant as well.
        weight: (C,), or ``None`` for 1.
        bias: (C,), or ``None`` for 0.
        eps: added to the variance, >= 0.

    Returns:
        The shape of ``x``. An example's output no longer depends on the others.

    Raises:
        ValueError: the shapes do not fit, a variance or ``eps`` is negative.

    PyTorch: ``torch.nn.functional.batch_norm(..., training=False)``. Source: :cite:`ioffe2015`.
    """
    _check_channels("batch_norm_eval", x, mean=mean, var=var, weight=weight, bias=bias)
    if np.min(var, initial=0) < 0:
        raise ValueError(f"batch_norm_eval: a variance must be >= 0, not {np.min(var)}")
    r = 1 / np.sqrt(_by_channel(var, x) + _eps("batch_norm_eval", eps))
    xhat = (x - _by_channel(mean, x)) * r
    return _affine(xhat, _by_channel(weight, x), _by_channel(bias, x)), (xhat, r)


@batch_norm_eval.defvjp
def batch_norm_eval_vjp(dy, saved, x, mean, var, weight=None, bias=None, *, eps=1e-5):
    """:eq:`eq-batch_norm_eval-vjp`: no mean is taken out, since none was computed from ``x``."""
    xhat, r = saved
    axes = _all_but_channels(x)
    return (
        lambda: _affine(dy, _by_channel(weight, x), None) * r,
        None,
        None,
        lambda: (dy * xhat).sum(axes),
        lambda: dy.sum(axes),
    )


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@checked
def running_statistics(state: dict[str, Array], x: Any, *, momentum: float | None = 0.1) -> dict[str, Array]:
    """The statistics for evaluation after one more training batch (:eq:`eq-running_statistics`).

    Args:
        state: ``running_mean`` (C,), ``running_var`` (C,) and ``num_batches_tracked`` (), see :func:`batch_norm_init`.
        x: (N, C) or (N, C, L, ...), the batch; of a traced value the numbers are taken.
        momentum: the share of the new batch, 0 to 1; ``None`` for the plain average over all batches so far. (The
            momentum of an optimizer is the share of the *old* value.)

    Returns:
        A new state. The running variance is that of *unbiased* estimates, divided by one less than the number of
        values, unlike the one that training normalizes by.

    Raises:
        ValueError: a channel has no more than one value, the shapes do not fit, the state lacks an entry, or
            ``momentum`` is out of range.

    PyTorch: what ``torch.nn.BatchNorm1d`` does to its buffers. Source: :cite:`ioffe2015`.
    """
    if momentum is not None and not 0 <= momentum <= 1:
        raise ValueError(f"running_statistics: momentum must be None or lie in [0, 1], not {momentum}")
    x = to_dtype(as_float("running_statistics: x", x.value if isinstance(x, OnTape) else x), SINGLE)
    old_mean, old_var, batches = _statistics("running_statistics", state)
    _check_channels("running_statistics", x, running_mean=old_mean, running_var=old_var)
    _more_than_one("running_statistics", x)
    share = 1 / (batches + 1) if momentum is None else momentum
    axes = _all_but_channels(x)
    n = x.size // max(x.shape[1], 1)
    mean = _mean(x, axes)
    var = _centre(x, axes)[1] * (n / (n - 1))

    def mixed(old, new):
        return ((1 - share) * old + share * new.reshape(old.shape)).astype(old.dtype)

    return {
        "running_mean": mixed(old_mean, mean),
        "running_var": mixed(old_var, var),
        "num_batches_tracked": np.array(batches + 1),
    }


def _statistics(name, state):
    """The running mean and variance, as floats, and how many batches they have seen."""
    missing = [key for key in STATISTICS if key not in state]
    if missing:
        raise ValueError(f"{name}: the state has no entry {', '.join(map(repr, missing))}")
    mean, var, batches = (as_float(f"{name}: {key}", state[key]) for key in STATISTICS)
    if batches.shape != () or not batches >= 0:
        raise ValueError(f"{name}: num_batches_tracked must be a count, not {batches}")
    return mean, var, int(batches)


@checked
def batch_norm_init(
    num_features: int, *, affine: bool = True, dtype=np.float32
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Scales 1 and shifts 0, running mean 0 and running variance 1.

    Args:
        num_features: C, the number of channels.
        affine: whether there are scales and shifts to be learned.
        dtype: a float dtype.

    Returns:
        ``(params, state)``: ``weight`` and ``bias`` (without ``affine`` nothing); ``running_mean``, ``running_var`` and
        ``num_batches_tracked``. Together they are the ``state_dict`` of ``torch.nn.BatchNorm1d``.

    Raises:
        ValueError: ``num_features`` is negative or ``dtype`` is not a float type.
    """
    ones, zeros = _ones_and_zeros("batch_norm_init", num_features, dtype)
    state = {"running_mean": zeros.copy(), "running_var": ones.copy(), "num_batches_tracked": np.array(0)}
    return {"weight": ones, "bias": zeros} if affine else {}, state


@checked
def batch_norm_layer(
    params: dict[str, Any],
    state: dict[str, Array],
    x: Any,
    *,
    training: bool,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
) -> tuple[Any, dict[str, Array]]:
    """Batch normalization in both modes; the running statistics go in and come out.

    In training it is :func:`batch_norm`, and the state that comes out has seen the batch. In evaluation it is
    :func:`batch_norm_eval` with the statistics of the state, which comes out as it went in.

    Args:
        params: ``weight`` and ``bias`` (C,), or an empty dict, see :func:`batch_norm_init`.
        state: the running statistics.
        x: (N, C) or (N, C, L, ...).
        training: the mode.
        momentum: as for :func:`running_statistics`.
        eps: added to the variance, >= 0.

    Returns:
        ``(y, state)``. Inside a trace ``y`` is traced, the state never: it is plain numbers.

    Raises:
        ValueError: as for :func:`batch_norm`, :func:`batch_norm_eval` and :func:`running_statistics`.

    PyTorch: ``torch.nn.BatchNorm1d``, ``torch.nn.BatchNorm2d``. Source: :cite:`ioffe2015`.
    """
    weight, bias = params.get("weight"), params.get("bias")
    if not training:
        mean, var, _ = _statistics("batch_norm_layer", state)
        return batch_norm_eval(x, mean, var, weight, bias, eps=eps), state
    return batch_norm(x, weight, bias, eps=eps), running_statistics(state, x, momentum=momentum)


@primitive
def layer_norm(x, weight=None, bias=None, *, normalized_shape: int | tuple[int, ...] | None = None, eps=1e-5):
    """Each example standardized over its own features, then scaled and shifted (:eq:`eq-layer_norm`).

    Args:
        x: (..., S), where S may be several axes. The statistics are taken over these.
        weight: S, the scales, or ``None`` for 1.
        bias: S, the shifts, or ``None`` for 0.
        normalized_shape: S, a number or a tuple. By default the shape of ``weight``, or of ``bias``, or else the last
            axis alone.
        eps: added to the (biased) variance, >= 0.

    Returns:
        The shape of ``x``. It is the same in training and in evaluation.

    Raises:
        ValueError: the shapes do not fit, or ``eps`` is negative.

    PyTorch: ``torch.nn.functional.layer_norm``, which demands ``normalized_shape``. Source: :cite:`ba2016`.
    """
    axes = _last_axes("layer_norm", x, normalized_shape, weight=weight, bias=bias)
    xhat, r = _standardize(x, axes, _eps("layer_norm", eps))
    return _affine(xhat, weight, bias), (xhat, r, axes)


@layer_norm.defvjp
def layer_norm_vjp(dy, saved, x, weight=None, bias=None, *, normalized_shape=None, eps=1e-5):
    """:eq:`eq-layer_norm-vjp`."""
    xhat, r, axes = saved
    others = tuple(range(x.ndim - len(axes)))
    return (
        lambda: _standardize_vjp(_affine(dy, weight, None), xhat, r, axes),
        lambda: (dy * xhat).sum(others),
        lambda: dy.sum(others),
    )


def _last_axes(name, x, shape, **arrays):
    """The axes to normalize over, once everything fits."""
    if shape is None:
        shape = next((np.shape(a) for a in arrays.values() if a is not None), np.shape(x)[-1:])
    shape = (shape,) if isinstance(shape, int) else shape
    if not shape or np.shape(x)[-len(shape) :] != shape:
        raise ValueError(f"{name}: x of shape {np.shape(x)} does not end in the normalized shape {shape}")
    _check_shapes(name, x, shape, arrays)
    return tuple(range(x.ndim - len(shape), x.ndim))


@primitive
def group_norm(x, weight=None, bias=None, *, num_groups: int, eps=1e-5):
    """Each example standardized over groups of channels, then scaled and shifted by channel (:eq:`eq-group_norm`).

    One group is a layer norm over all of an example, a group for each channel is instance normalization.

    Args:
        x: (N, C) or (N, C, L, ...). N examples, C channels.
        weight: (C,), the scales, or ``None`` for 1.
        bias: (C,), the shifts, or ``None`` for 0.
        num_groups: a divisor of C; a group has C / num_groups neighbouring channels.
        eps: added to the (biased) variance, >= 0.

    Returns:
        The shape of ``x``.

    Raises:
        ValueError: the groups do not divide the channels, the shapes do not fit, or ``eps`` is negative.

    A group with a single value becomes the bias. PyTorch: ``torch.nn.functional.group_norm``, which refuses single
    values where they are the only ones. Source: :cite:`wu2018`.
    """
    _check_channels("group_norm", x, weight=weight, bias=bias)
    if num_groups < 1 or x.shape[1] % num_groups:
        raise ValueError(f"group_norm: {num_groups} groups do not divide the {x.shape[1]} channels of shape {x.shape}")
    xhat, r = _standardize(_groups(x, num_groups), (2,), _eps("group_norm", eps))
    xhat = xhat.reshape(x.shape)
    return _affine(xhat, _by_channel(weight, x), _by_channel(bias, x)), (xhat, r)


@group_norm.defvjp
def group_norm_vjp(dy, saved, x, weight=None, bias=None, *, num_groups, eps=1e-5):
    """:eq:`eq-group_norm-vjp`."""
    xhat, r = saved
    axes = _all_but_channels(x)

    def dx():
        g = _affine(dy, _by_channel(weight, x), None)
        return _standardize_vjp(_groups(g, num_groups), _groups(xhat, num_groups), r, (2,)).reshape(x.shape)

    return dx, lambda: (dy * xhat).sum(axes), lambda: dy.sum(axes)


def _groups(x, num_groups):
    """(N, C, ...) as (N, G, size of a group): a reshape, because the channels of a group are neighbours."""
    return x.reshape(len(x), num_groups, math.prod(x.shape[1:]) // num_groups)


@primitive
def rms_norm(x, weight=None, *, normalized_shape: int | tuple[int, ...] | None = None, eps: float | None = None):
    """Each example divided by the root mean square of its features, then scaled (:eq:`eq-rms_norm`).

    Args:
        x: (..., S), where S may be several axes. The mean square is taken over these.
        weight: S, the scales, or ``None`` for 1.
        normalized_shape: S, a number or a tuple. By default the shape of ``weight``, or else the last axis alone.
        eps: added to the mean square, >= 0. ``None`` is the machine epsilon of the dtype of ``x``, as in PyTorch, and
            for float16 that of float32, in which it is computed.

    Returns:
        The shape of ``x``. Unlike :func:`layer_norm` it takes no mean out and adds no shift.

    Raises:
        ValueError: the shapes do not fit, or ``eps`` is negative.

    PyTorch: ``torch.nn.functional.rms_norm``, which demands ``normalized_shape``. Source: :cite:`zhang2019rms`.
    """
    axes = _last_axes("rms_norm", x, normalized_shape, weight=weight)
    r = 1 / np.sqrt(_mean(x * x, axes) + _eps("rms_norm", np.finfo(x.dtype).eps if eps is None else eps))
    xhat = x * r
    return _affine(xhat, weight, None), (xhat, r, axes)


@rms_norm.defvjp
def rms_norm_vjp(dy, saved, x, weight=None, *, normalized_shape=None, eps=None):
    """:eq:`eq-rms_norm-vjp`: one mean is taken out, the one along ``x-hat``."""
    xhat, r, axes = saved

    def dx():
        g = _affine(dy, weight, None)
        return r * (g - xhat * _mean(g * xhat, axes))

    return dx, lambda: (dy * xhat).sum(tuple(range(x.ndim - len(axes))))


@checked
def layer_norm_init(normalized_shape: int | tuple[int, ...], *, dtype=np.float32) -> dict[str, Array]:
    """Scales 1 and shifts 0 of that shape: ``weight`` and ``bias``, as in ``torch.nn.LayerNorm``.

    Raises:
        ValueError: a size is negative or ``dtype`` is not a float type.
    """
    return dict(zip(("weight", "bias"), _ones_and_zeros("layer_norm_init", normalized_shape, dtype), strict=True))


@checked
def group_norm_init(num_channels: int, *, dtype=np.float32) -> dict[str, Array]:
    """A scale 1 and a shift 0 for each channel: ``weight`` and ``bias``, as in ``torch.nn.GroupNorm``.

    Raises:
        ValueError: the number is negative or ``dtype`` is not a float type.
    """
    return dict(zip(("weight", "bias"), _ones_and_zeros("group_norm_init", num_channels, dtype), strict=True))


@checked
def rms_norm_init(normalized_shape: int | tuple[int, ...], *, dtype=np.float32) -> dict[str, Array]:
    """Scales 1 of that shape: ``weight``, as in ``torch.nn.RMSNorm``.

    Raises:
        ValueError: a size is negative or ``dtype`` is not a float type.
    """
    return {"weight": _ones_and_zeros("rms_norm_init", normalized_shape, dtype)[0]}


def _ones_and_zeros(name, shape, dtype):
    if np.min(shape, initial=0) < 0:
        raise ValueError(f"{name}: sizes must be >= 0, not {shape}")
    return np.ones(shape, dtype), np.zeros(shape, dtype)


# ---------------------------------------------------------------------------------------------------------------------
# Initialization: signals and gradients that neither die nor explode
# ---------------------------------------------------------------------------------------------------------------------


@checked
def fan_in_and_fan_out(shape: tuple[int, ...]) -> tuple[int, int]:
    """How many inputs feed one output of a layer, and how many outputs one input feeds.

    Args:
        shape: (out, in) of a linear layer, or (out, in, k1, k2, ...) of a convolution whose kernel has k1 k2 ... taps.

    Returns:
        ``(in * k1 * k2 * ..., out * k1 * k2 * ...)``, as PyTorch counts them (stride and groups are ignored).

    Raises:
        ValueError: the shape has fewer than two axes, or a negative size.
    """
    if len(shape) < 2 or min(shape) < 0:
        raise ValueError(f"fan-in and fan-out need a shape (out, in, ...) with sizes >= 0, not {shape}")
    taps = math.prod(shape[2:])
    return shape[1] * taps, shape[0] * taps


@checked
def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which a weight's standard deviation makes up for what the nonlinearity does to the variance.

    Args:
        nonlinearity: ``"linear"``, ``"sigmoid"``, ``"tanh"``, ``"relu"``, ``"leaky_relu"`` or ``"selu"``.
        param: the negative slope of ``leaky_relu``; 0.01 if not given. The others have none and ignore it.

    Returns:
        1 for linear and sigmoid, 5/3 for tanh, sqrt(2) for relu, sqrt(2 / (1 + slope^2)) for leaky_relu, 3/4 for selu:
        the numbers of ``torch.nn.init.calculate_gain``.

    Raises:
        ValueError: the nonlinearity is not one of these.
    """
    slope = 0.01 if param is None else param
    gains = {
        "linear": 1.0,
        "sigmoid": 1.0,
        "tanh": 5 / 3,
        "relu": math.sqrt(2),
        "leaky_relu": math.sqrt(2 / (1 + slope**2)),
        "selu": 3 / 4,
    }
    if nonlinearity not in gains:
        raise ValueError(f"nonlinearity must be one of {', '.join(gains)}, not {nonlinearity!r}")
    return gains[nonlinearity]


@checked
def xavier_uniform(rng: np.random.Generator, shape: tuple[int, ...], *, gain: float = 1.0, dtype=np.float32) -> Array:
    """Weights drawn uniformly from ``(-a, a)`` with ``a = gain * sqrt(6 / (fan_in + fan_out))``.

    Args:
        rng: the source of randomness.
        shape: (out, in) or (out, in, k1, k2, ...), see :func:`fan_in_and_fan_out`.
        gain: a factor for the nonlinearity that follows, see :func:`calculate_gain`.
        dtype: a float dtype. The draw is made in float64 and rounded, so float32 weights are the float64 ones rounded.

    Raises:
        ValueError: the shape has fewer than two axes, ``gain`` is negative, or ``dtype`` is not a float type.

    PyTorch: ``torch.nn.init.xavier_uniform_``; the same distribution, other numbers. Source: :cite:`glorot2010`.
    """
    return _uniform(rng, shape, _xavier_std(shape, gain), dtype)


@checked
def xavier_normal(rng: np.random.Generator, shape: tuple[int, ...], *, gain: float = 1.0, dtype=np.float32) -> Array:
    """Normal weights of mean 0 and standard deviation ``gain * sqrt(2 / (fan_in + fan_out))`` (:eq:`eq-xavier_normal`).

    Arguments and errors are those of :func:`xavier_uniform`.

    PyTorch: ``torch.nn.init.xavier_normal_``; the same distribution, other random numbers. Source: :cite:`glorot2010`.
    """
    return _normal(rng, shape, _xavier_std(shape, gain), dtype)


@checked
def he_uniform(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    *,
    a: float = 0.0,
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    nonlinearity: str = "leaky_relu",
    dtype=np.float32,
) -> Array:
    """Weights drawn uniformly from ``(-b, b)`` with ``b = gain * sqrt(3 / fan)``.

    Args:
        rng: the source of randomness.
        shape: (out, in) or (out, in, k1, k2, ...), see :func:`fan_in_and_fan_out`.
        a: the negative slope, used with ``leaky_relu``. The default 0 is the plain ReLU.
        mode: ``"fan_in"`` keeps the variance of the signals, ``"fan_out"`` that of the gradients.
        nonlinearity: what follows the layer, see :func:`calculate_gain`.
        dtype: a float dtype. The draw is made in float64 and rounded, so float32 weights are the float64 ones rounded.

    Raises:
        ValueError: the shape has fewer than two axes, ``mode`` or ``nonlinearity`` is unknown, or ``dtype`` is not a
            float type.

    PyTorch: ``torch.nn.init.kaiming_uniform_``; the same distribution, other random numbers. Source: :cite:`he2015`.
    """
    return _uniform(rng, shape, _he_std(shape, a, mode, nonlinearity), dtype)


@checked
def he_normal(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    *,
    a: float = 0.0,
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    nonlinearity: str = "leaky_relu",
    dtype=np.float32,
) -> Array:
    """Normal weights with mean 0 and standard deviation ``gain / sqrt(fan)`` (:eq:`eq-he_normal`).

    Arguments and errors are those of :func:`he_uniform`.

    PyTorch: ``torch.nn.init.kaiming_normal_``; the same distribution, other random numbers. Source: :cite:`he2015`.
    """
    return _normal(rng, shape, _he_std(shape, a, mode, nonlinearity), dtype)


@checked
def orthogonal(rng: np.random.Generator, shape: tuple[int, ...], *, gain: float = 1.0, dtype=np.float32) -> Array:
    """A random orthogonal matrix, every one as likely as any other, times ``gain`` (:eq:`eq-orthogonal`).

    It keeps the length of a signal and of a gradient exactly, not only on average.

    Args:
        rng: the source of randomness.
        shape: (out, in) or (out, in, k1, k2, ...), read as a matrix of ``out`` rows.
        gain: a factor for the nonlinearity that follows, see :func:`calculate_gain`.
        dtype: a float dtype. The draw is made in float64 and rounded.

    Returns:
        An array whose rows are orthonormal, or whose columns are if there are more rows than columns.

    Raises:
        ValueError: the shape has fewer than two axes or a negative size, ``gain`` is negative, or ``dtype`` is not a
            float type.

    QR decomposition of a normal matrix favours no direction but fixes the signs; those of the diagonal of R are moved
    into Q, or Q would not be uniform. PyTorch: ``torch.nn.init.orthogonal_``; the same distribution, other numbers.
    Source: :cite:`saxe2014`; the signs: :cite:`mezzadri2007`.
    """
    _check_gain(gain)
    if len(shape) < 2 or min(shape) < 0:
        raise ValueError(f"an orthogonal weight needs a shape (out, in, ...) with sizes >= 0, not {shape}")
    rows, columns = shape[0], math.prod(shape[1:])
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q *= np.sign(np.diag(r))
    return (gain * (q if rows >= columns else q.T)).reshape(shape).astype(dtype)


def _xavier_std(shape, gain):
    _check_gain(gain)
    fans = sum(fan_in_and_fan_out(shape))
    return gain * math.sqrt(2 / fans) if fans else 0.0


def _check_gain(gain):
    if not 0 <= gain < math.inf:
        raise ValueError(f"gain must be >= 0 and finite, not {gain}")


def _he_std(shape, a, mode, nonlinearity):
    fan = fan_in_and_fan_out(shape)[mode == "fan_out"]
    gain = calculate_gain(nonlinearity, a)
    return gain / math.sqrt(fan) if fan else 0.0


def _uniform(rng, shape, std, dtype):
    bound = math.sqrt(3) * std  # the uniform distribution on (-b, b) has variance b^2 / 3
    return rng.uniform(-bound, bound, shape).astype(dtype)


def _normal(rng, shape, std, dtype):
    return (std * rng.standard_normal(shape)).astype(dtype)


# ---------------------------------------------------------------------------------------------------------------------
# Least squares in closed form: where bias, variance and the second descent can be computed
# ---------------------------------------------------------------------------------------------------------------------


@checked
def ridge(x, y, *, lam: float) -> Array:
    """The ``w`` that minimizes ``|x w - y|^2 + lam |w|^2`` (:eq:`eq-ridge`), by the singular values of ``x``.

    Args:
        x: (N, D), one example a row. D may be larger than N.
        y: (N,) or (N, K).
        lam: strength of the penalty, >= 0. The squares are summed, not averaged. 0 gives :func:`min_norm`.

    Returns:
        (D,) or (D, K).

    Raises:
        ValueError: the shapes do not fit, a number is not finite, or ``lam`` is negative.

    Singular values that rounding cannot tell from 0, below ``max(N, D) * eps`` of the largest, count as 0. PyTorch has
    no such function; scikit-learn: ``Ridge(alpha=lam, fit_intercept=False)``. Source: :cite:`hoerl1970`.
    """
    if not lam >= 0:
        raise ValueError(f"ridge: lam must be >= 0, not {lam}")
    if x.ndim != 2 or y.ndim not in (1, 2) or len(x) != len(y):
        raise ValueError(f"ridge: x has shape {x.shape}, y has shape {y.shape}; expected (N, D), and (N,) or (N, K)")
    for name, a in (("x", x), ("y", y)):
        if not np.isfinite(a).all():
            raise ValueError(f"ridge: {name} contains nan or an infinity, for which there is no best fit")
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    keep = s > max(x.shape) * np.finfo(s.dtype).eps * s.max(initial=0)
    u, s, vt = u[:, keep], s[keep], vt[keep]
    with np.errstate(over="ignore"):
        shrunk = 1 / (s + lam / s)  # s / (s^2 + lam), whose square would vanish for a tiny s
    return vt.T @ ((u.T @ y).T * shrunk).T


def min_norm(x, y) -> Array:
    """Of all ``w`` with the least ``|x w - y|^2``, the shortest (:eq:`eq-min_norm`): the limit of ridge regression.

    It is where gradient descent from 0 ends. Arguments and errors are those of :func:`ridge`.

    PyTorch: ``torch.linalg.pinv(x) @ y``.
    """
    return ridge(x, y, lam=0.0)


@checked
def random_features_init(
    rng: np.random.Generator, in_features: int, count: int, *, dtype=np.float64
) -> dict[str, Array]:
    """A hidden layer that stays as it was drawn: ``weight`` (count, D) of variance 1 / D and ``bias`` (count,) of 1.

    Raises:
        ValueError: ``in_features`` is below 1, ``count`` negative, or ``dtype`` is not a float type.
    """
    if in_features < 1 or count < 0:
        raise ValueError(f"random features need in_features >= 1 and count >= 0, not {in_features} and {count}")
    return {
        "weight": _normal(rng, (count, in_features), 1 / math.sqrt(in_features), dtype),
        "bias": _normal(rng, (count,), 1.0, dtype),
    }


@checked
def random_features(params: Branch, x):
    """``relu(x W^T + b) / sqrt(count)`` with frozen ``W`` and ``b`` (:eq:`eq-random_features`).

    Args:
        params: from :func:`random_features_init`.
        x: (N, D).

    Returns:
        (N, count). Thanks to the root, the length of a row hardly depends on ``count``.

    Raises:
        ValueError: the sizes do not fit.

    Source: :cite:`rahimi2007`.
    """
    weight, bias = params["weight"], params["bias"]
    if np.ndim(weight) != 2 or np.ndim(x) != 2 or x.shape[1] != weight.shape[1]:
        raise ValueError(f"random_features: x of shape {np.shape(x)} does not fit weight of shape {np.shape(weight)}")
    if np.shape(bias) != np.shape(weight)[:1]:
        raise ValueError(f"random_features: bias of shape {np.shape(bias)} does not fit weight of shape {weight.shape}")
    return maximum(x @ weight.T + bias, 0.0) / math.sqrt(max(len(weight), 1))


@checked
def bias_variance(predictions, truth) -> tuple[float, float]:
    """Two parts of the squared error: of the mean prediction, and of the scatter about it (:eq:`eq-bias_variance`).

    Args:
        predictions: (R, ...), what R models say that were trained on R draws of the data.
        truth: (...), what is right, without noise.

    Returns:
        ``(bias2, variance)``, means over all points. Their sum is ``mean((predictions - truth) ** 2)`` to rounding.
        With R trainings the squared bias is too large by about ``variance / R``, and the variance too small by as much.

    Raises:
        ValueError: the shapes do not fit, or there is nothing to average.

    Source: :cite:`geman1992`.
    """
    if predictions.shape[1:] != truth.shape or predictions.ndim == 0 or predictions.size == 0:
        raise ValueError(
            f"bias_variance: predictions have shape {predictions.shape}, truth has shape {truth.shape}; expected "
            "(R, ...) and (...), not empty"
        )
    centre = predictions.mean(0)
    return float(np.mean((centre - truth) ** 2)), float(np.mean((predictions - centre) ** 2))


# ---------------------------------------------------------------------------------------------------------------------
# Augmentation: examples that we know to mean the same
# ---------------------------------------------------------------------------------------------------------------------


@checked
def warp(images, rows: Given, columns: Given, *, fill: float = 0.0) -> Array:
    """Each pixel fetched from another place of its image, with linear interpolation (:eq:`eq-warp`).

    Args:
        images: (N, ..., H, W). N images; what lies between (channels, say) moves together.
        rows: (H, W) or (N, H, W): the row from which pixel (i, j) is fetched, fractions allowed.
        columns: the same for the column.
        fill: what lies outside of an image.

    Returns:
        The shape of ``images``, new. Floats keep their dtype, integers become float64.

    Raises:
        ValueError: the shapes do not fit, or a place is not finite.

    PyTorch: ``torch.nn.functional.grid_sample(..., align_corners=True)``, whose places run from -1 to 1 and start with
    the column.
    """
    _check_images("warp", images)
    shape = (len(images), *images.shape[-2:])
    for name, where in (("rows", rows), ("columns", columns)):
        if np.shape(where) not in (shape, shape[1:]):
            raise ValueError(
                f"warp: {name} of shape {np.shape(where)} do not fit images of shape {images.shape}; expected "
                f"{shape[1:]} or {shape}"
            )
        if not np.all(np.isfinite(where)):
            raise ValueError(f"warp: {name} must be finite numbers")
    H, W = shape[1:]
    around = ((0, 0),) * (images.ndim - 2) + ((1, 1), (1, 1))
    padded = np.pad(images, around, constant_values=fill)
    padded = padded.reshape(len(images), math.prod(images.shape[1:-2]), (H + 2) * (W + 2))
    i, a = _whole_and_rest(np.broadcast_to(rows, shape), H, images.dtype)
    j, b = _whole_and_rest(np.broadcast_to(columns, shape), W, images.dtype)
    corner = (i * (W + 2) + j).reshape(len(images), 1, H * W)

    def pixel(down, right):
        return np.take_along_axis(padded, corner + (down * (W + 2) + right), axis=2).reshape(images.shape)

    a, b = (rest.reshape(len(images), *[1] * (images.ndim - 3), H, W) for rest in (a, b))
    return _between(_between(pixel(0, 0), pixel(0, 1), b), _between(pixel(1, 0), pixel(1, 1), b), a)


def _between(p, q, share):
    """``(1 - share) p + share q``; what has a share of 0 is left out, nan and infinities too."""
    return (1 - share) * np.where(share == 1, 0, p) + share * np.where(share == 0, 0, q)


def _whole_and_rest(where, size, dtype):
    """A place among ``size`` pixels as the number of the pixel before it, in the padded image, and a rest in [0, 1]."""
    where = np.clip(where.astype(float), -1, size) + 1.0  # from one pixel beyond the edge on, all is fill
    whole = np.minimum(where.astype(np.intp), size)
    return whole, (where - whole).astype(dtype)


@checked
def shift(images, offset: Given, *, fill: float = 0.0) -> Array:
    """Images moved by ``offset`` pixels, down and to the right.

    Args:
        images: (N, ..., H, W).
        offset: (2,) for all images, or (N, 2): rows down, columns to the right. Fractions interpolate, whole numbers
            are exact.
        fill: what comes in from outside.

    Returns:
        The shape of ``images``, new.

    Raises:
        ValueError: the shapes do not fit, or an offset is not finite.
    """
    _check_images("shift", images)
    offset = offset.astype(float)
    if offset.shape not in ((2,), (len(images), 2)):
        raise ValueError(
            f"shift: offset of shape {offset.shape} does not fit images of shape {images.shape}; expected (2,) or "
            f"({len(images)}, 2)"
        )
    i, j = _pixels(images)
    offset = np.broadcast_to(offset, (len(images), 2))[..., None, None]
    return warp(images, i - offset[:, 0], j - offset[:, 1], fill=fill)


@checked
def rotate(images, degrees: Given, *, fill: float = 0.0) -> Array:
    """Images turned counter-clockwise about their centre (:eq:`eq-rotate`).

    Args:
        images: (N, ..., H, W).
        degrees: one angle for all images, or (N,).
        fill: what comes in from outside.

    Returns:
        The shape of ``images``, new. By 90 degrees a square image becomes ``numpy.rot90`` of itself.

    Raises:
        ValueError: the shapes do not fit, or an angle is not finite.
    """
    _check_images("rotate", images)
    degrees = degrees.astype(float)
    if degrees.shape not in ((), (len(images),)):
        raise ValueError(
            f"rotate: degrees of shape {degrees.shape} do not fit images of shape {images.shape}; expected a number or "
            f"({len(images)},)"
        )
    if not np.all(np.isfinite(degrees)):
        raise ValueError("rotate: degrees must be finite numbers")
    angle = np.radians(np.broadcast_to(degrees, len(images)))[:, None, None]
    i, j = _pixels(images)
    middle_i, middle_j = (images.shape[-2] - 1) / 2, (images.shape[-1] - 1) / 2
    down, right = i - middle_i, j - middle_j
    # Rows count downwards: seen so, the place that turns onto (down, right) lies clockwise of it.
    rows = middle_i + down * np.cos(angle) + right * np.sin(angle)
    columns = middle_j - down * np.sin(angle) + right * np.cos(angle)
    return warp(images, rows, columns, fill=fill)


@checked
def random_shift(rng: np.random.Generator, images, *, most: int = 2, fill: float = 0.0) -> Array:
    """Every image moved by whole pixels, each direction uniform in ``-most ... most``.

    Raises:
        ValueError: the images have no two axes after the first, or ``most`` is negative or not an integer.
    """
    if most < 0:
        raise ValueError(f"random_shift: most must be >= 0 pixels, not {most}")
    _check_images("random_shift", images)
    return shift(images, rng.integers(-most, most, (len(images), 2), endpoint=True), fill=fill)


@checked
def random_rotation(rng: np.random.Generator, images, *, most: float = 15.0, fill: float = 0.0) -> Array:
    """Every image turned about its centre by an angle uniform in ``[-most, most]`` degrees.

    Raises:
        ValueError: the images have no two axes after the first, or ``most`` is negative.
    """
    if not 0 <= most < math.inf:
        raise ValueError(f"random_rotation: most must be >= 0 degrees and finite, not {most}")
    _check_images("random_rotation", images)
    return rotate(images, rng.uniform(-most, most, len(images)), fill=fill)


@checked
def random_elastic(
    rng: np.random.Generator, images, *, alpha: float = 2.0, sigma: float = 4.0, fill: float = 0.0
) -> Array:
    """Every image bent by a smooth random field of displacements (:eq:`eq-random_elastic`).

    Noise, uniform in (-1, 1) at each pixel, is smoothed by a Gaussian and brought to the wanted size.

    Args:
        rng: the source of randomness.
        images: (N, ..., H, W).
        alpha: root mean square of the displacement along each axis, in pixels, >= 0.
        sigma: standard deviation of the Gaussian in pixels, > 0: small is a shiver, large is a shift.
        fill: what comes in from outside.

    Returns:
        The shape of ``images``, new.

    Raises:
        ValueError: the images have no two axes after the first, or ``alpha`` or ``sigma`` is out of range.

    Source: :cite:`simard2003`, whose ``alpha`` multiplies the smoothed noise without measuring it.
    """
    from scipy.ndimage import gaussian_filter1d  # here, because importing it takes longer than the rest of nnbook

    if not (0 <= alpha < math.inf and 0 < sigma < math.inf):
        raise ValueError(f"random_elastic: alpha must be >= 0 and sigma > 0, both finite, not {alpha} and {sigma}")
    _check_images("random_elastic", images)
    noise = rng.uniform(-1, 1, (len(images), 2, *images.shape[-2:]))
    down, right = (gaussian_filter1d(np.eye(n), sigma, axis=0, mode="reflect") for n in images.shape[-2:])
    field = down @ noise @ right.T  # the filter of the unit vectors is the filter as a matrix, and faster so
    size = np.sqrt(_mean(field * field, (2, 3)))
    field *= alpha / np.where(size > 0, size, 1)
    i, j = _pixels(images)
    return warp(images, i + field[:, 0], j + field[:, 1], fill=fill)


@checked
def gaussian_noise(rng: np.random.Generator, x, *, std: float) -> Array:
    """``x`` plus independent normal noise of standard deviation ``std``; floats keep their dtype. Nothing is clipped.

    For least squares it amounts, on average, to an L2 penalty :cite:`bishop1995`.

    Raises:
        ValueError: ``std`` is negative.
    """
    if not 0 <= std < math.inf:
        raise ValueError(f"gaussian_noise: std must be >= 0 and finite, not {std}")
    return x + (std * rng.standard_normal(x.shape)).astype(x.dtype)


@checked
def cutout(rng: np.random.Generator, images, *, size: int, fill: float = 0.0) -> Array:
    """A square of ``size`` pixels about a random pixel painted over in every image; the border may cut it.

    Args:
        rng: the source of randomness.
        images: (N, ..., H, W).
        size: the side of the square in pixels, an integer >= 0.
        fill: what is painted.

    Returns:
        The shape of ``images``, new.

    Raises:
        ValueError: the images have no two axes after the first, or ``size`` is negative or not an integer.

    Source: :cite:`devries2017`.
    """
    if size < 0:
        raise ValueError(f"cutout: size must be >= 0 pixels, not {size}")
    _check_images("cutout", images)
    inside = []
    for n in images.shape[-2:]:
        first = rng.integers(0, max(n, 1), len(images))[:, None] - size // 2
        inside.append((np.arange(n) >= first) & (np.arange(n) < first + size))
    square = inside[0][:, :, None] & inside[1][:, None, :]
    return np.where(square.reshape(len(images), *[1] * (images.ndim - 3), *images.shape[-2:]), fill, images)


@checked
def mixup(
    rng: np.random.Generator, x, labels: Given, *, alpha: float = 0.2, classes: int | None = None
) -> tuple[Array, Array]:
    """Every example mixed with another one, and their labels in the same proportion (:eq:`eq-mixup`).

    The proportion is drawn for each example from a Beta distribution, the partners are a permutation of the batch.

    Args:
        rng: the source of randomness.
        x: (N, ...), floats keep their dtype.
        labels: (N,) integers from 0 to C - 1, or (N, C) probabilities.
        alpha: both parameters of the Beta distribution, > 0; small values mix little.
        classes: C, needed for integer labels.

    Returns:
        ``(x, labels)``, new: (N, ...) and (N, C) probabilities of the dtype of ``x``, which
        :func:`nnbook.losses.cross_entropy` takes.

    Raises:
        ValueError: the shapes do not fit, a label is out of range, ``classes`` is missing, or ``alpha`` is not
            positive.

    Source: :cite:`zhang2018mixup`, whose program draws one proportion for a whole batch.
    """
    if not 0 < alpha < math.inf:
        raise ValueError(f"mixup: alpha must be positive and finite, not {alpha}")
    y = _probabilities(x, labels, classes)
    share = rng.beta(alpha, alpha, len(x)).astype(x.dtype)
    partner = rng.permutation(len(x))

    def mixed(a):
        return _between(a[partner], a, share.reshape(-1, *[1] * (a.ndim - 1)))

    return mixed(x), mixed(y)


def _probabilities(x, labels, classes):
    if x.ndim == 0 or labels.ndim not in (1, 2) or len(labels) != len(x):
        raise ValueError(f"mixup: x has shape {x.shape}, labels have shape {labels.shape}; expected (N, ...) and (N,)")
    if labels.ndim == 2:
        if classes not in (None, labels.shape[1]):
            raise ValueError(f"mixup: labels of shape {labels.shape} are not those of {classes} classes")
        return labels.astype(x.dtype)
    if classes is None or labels.dtype.kind not in "iu":
        raise ValueError(f"mixup: labels of shape (N,) must be integers, with classes=C, not {labels.dtype}, {classes}")
    if labels.size and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(
            f"mixup: labels must lie in 0..{classes - 1} for {classes} classes, not in {labels.min()}..{labels.max()}"
        )
    one_hot = np.zeros((len(labels), classes), x.dtype)
    one_hot[np.arange(len(labels)), labels] = 1
    return one_hot


def _check_images(name, images):
    if images.ndim < 3:
        raise ValueError(f"{name}: images must have shape (N, ..., H, W), not {images.shape}")


def _pixels(images):
    return np.indices(images.shape[-2:], dtype=float)
