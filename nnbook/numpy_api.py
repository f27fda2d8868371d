"""NumPy's functions on traced values, so that a loss of your own is written as you would write it anyway (chapter 3).

A call such as ``np.where(x > 0, x, 0)`` asks its arguments whether they want to answer themselves. Traced values do:
here stands what they answer with. Each function is a primitive or a composition of primitives; the others say which of
these comes nearest::

    def loss(params, x, y):
        errors = np.clip(x @ params["w"] - y, -1, 1)
        return np.linalg.norm(errors) + np.var(params["w"])

Ties and kinks are PyTorch's. Where NumPy and PyTorch differ otherwise (``ddof`` of a variance), NumPy's function does
what NumPy's documentation says.
"""

from __future__ import annotations

import inspect
import math
import string
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from nnbook._arrays import Axes, OnTape
from nnbook.backprop import (
    Array,
    Traced,
    absolute,
    add,
    astype,
    concatenate,
    divide,
    exp,
    keep,
    log,
    matmul,
    maximum,
    mean,
    minimum,
    multiply,
    negative,
    power,
    primitive,
    reshape,
    sqrt,
    subtract,
    transpose,
    unbroadcast,
    where,
)
from nnbook.backprop import sum as sum_
from nnbook.neurons import tanh

# ---------------------------------------------------------------------------------------------------------------------
# Entry by entry
# ---------------------------------------------------------------------------------------------------------------------


@primitive
def sin(x):
    """Sine of ``x`` in radians (:eq:`eq-sin`). PyTorch: ``torch.sin``."""
    return np.sin(x), None


@sin.defvjp
def sin_vjp(dy, saved, x):
    """:eq:`eq-sin-vjp`."""
    return (dy * np.cos(x),)


@primitive
def cos(x):
    """Cosine of ``x`` in radians (:eq:`eq-cos`). PyTorch: ``torch.cos``."""
    return np.cos(x), None


@cos.defvjp
def cos_vjp(dy, saved, x):
    """:eq:`eq-cos-vjp`."""
    return (-dy * np.sin(x),)


@primitive
def log1p(x):
    """``log(1 + x)``, exact where ``x`` is tiny (:eq:`eq-log1p`). At -1 it is -inf with NumPy's warning.

    PyTorch: ``torch.log1p``.
    """
    return np.log1p(x), None


@log1p.defvjp
def log1p_vjp(dy, saved, x):
    """:eq:`eq-log1p-vjp`."""
    return (dy / (1 + x),)


@primitive
def expm1(x):
    """``exp(x) - 1``, exact where ``x`` is tiny (:eq:`eq-expm1`). PyTorch: ``torch.expm1``."""
    y = np.expm1(x)
    return y, y


@expm1.defvjp
def expm1_vjp(dy, y, x):
    """:eq:`eq-expm1-vjp`."""
    return (dy * (y + 1),)


@primitive
def sign(x):
    """-1, 0 or 1 (:eq:`eq-sign`). Its derivative is 0 wherever there is one, and 0 is used at the jump as well.

    PyTorch: ``torch.sign``.
    """
    return np.sign(x), None


@sign.defvjp
def sign_vjp(dy, saved, x):
    """:eq:`eq-sign-vjp`."""
    return (np.zeros_like(dy),)


@primitive
def clip(x, low=None, high=None):
    """``x`` held between two bounds, with broadcasting (:eq:`eq-clip`).

    Args:
        x: (...).
        low, high: broadcast to the shape of ``x``; ``None`` for no bound. Where ``low`` exceeds ``high``, the answer is
            ``high``.

    Raises:
        ValueError: the shapes do not broadcast, or the bounds would enlarge ``x`` (names all).

    At a bound, ``x = low`` or ``x = high``, the cotangent goes to ``x``, as PyTorch does. PyTorch: ``torch.clamp``.
    """
    shapes = [np.shape(a) for a in (x, low, high) if a is not None]
    try:
        fits = np.broadcast_shapes(*shapes) == np.shape(x)
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"clip: bounds of shapes {shapes[1:]} do not broadcast to x of shape {np.shape(x)}")
    y = x if low is None else np.maximum(x, low)
    return (y if high is None else np.minimum(y, high)) + 0.0, None


@clip.defvjp
def clip_vjp(dy, saved, x, low=None, high=None):
    """:eq:`eq-clip-vjp`: each place has one of the three as its value, and that one gets the cotangent."""
    below = np.zeros(np.shape(x), bool) if low is None else np.less(x, low)
    above = np.zeros(np.shape(x), bool) if high is None else np.greater(x, high)
    if low is not None and high is not None:
        crossed = np.greater(low, high)  # there the answer is the upper bound whatever x is
        above = above | crossed
        below = below & ~crossed
    return (
        lambda: keep(dy, ~(below | above)),
        lambda: unbroadcast(keep(dy, below), np.shape(low)),
        lambda: unbroadcast(keep(dy, above), np.shape(high)),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Along an axis
# ---------------------------------------------------------------------------------------------------------------------


@primitive
def amax(x, *, axis: Axes = None, keepdims=False):
    """The largest entry over ``axis``, an int, a tuple or all axes (:eq:`eq-amax`).

    Entries that tie share the cotangent equally, as ``torch.amax`` does; ``torch.max`` along one axis gives it to one.

    Raises:
        ValueError: there is no entry to choose from.
    """
    return _extreme("amax", np.max, x, axis, keepdims)


@amax.defvjp
def amax_vjp(dy, best, x, *, axis=None, keepdims=False):
    """:eq:`eq-amax-vjp`."""
    return (_to_the_best(dy, best, x, axis),)


@primitive
def amin(x, *, axis: Axes = None, keepdims=False):
    """The smallest entry over ``axis`` (:eq:`eq-amin`); ties and errors as :func:`amax`. PyTorch: ``torch.amin``."""
    return _extreme("amin", np.min, x, axis, keepdims)


@amin.defvjp
def amin_vjp(dy, best, x, *, axis=None, keepdims=False):
    """:eq:`eq-amin-vjp`."""
    return (_to_the_best(dy, best, x, axis),)


def _extreme(name, choose, x, axis, keepdims):
    if np.size(x) == 0:
        raise ValueError(f"{name}: nothing to choose from in shape {np.shape(x)}")
    best = choose(x, axis=axis, keepdims=True)
    return (best if keepdims else choose(x, axis=axis)), best


def _to_the_best(dy, best, x, axis):
    chosen = np.equal(x, best)
    share = np.reshape(dy, best.shape) / chosen.sum(axis=_axes(axis, np.ndim(x)), keepdims=True).astype(dy.dtype)
    return keep(np.broadcast_to(share, x.shape), chosen)


def _axes(axis, ndim):
    return tuple(range(ndim)) if axis is None else normalize_axis_tuple(axis, ndim)


@primitive
def prod(x, *, axis: Axes = None, keepdims=False):
    """The product over ``axis``, an int, a tuple or all axes (:eq:`eq-prod`). Of nothing it is 1.

    PyTorch: ``torch.prod``, which takes one axis or all.
    """
    return np.prod(x, axis=axis, keepdims=keepdims), None


@prod.defvjp
def prod_vjp(dy, saved, x, *, axis=None, keepdims=False):
    """:eq:`eq-prod-vjp`: the product of the others, from the left and from the right, which divides by no zero."""
    axes = _axes(axis, x.ndim)
    rest = tuple(i for i in range(x.ndim) if i not in axes)
    order = rest + axes
    rows = x.transpose(order).reshape(*(x.shape[i] for i in rest), math.prod(x.shape[i] for i in axes))
    ones = np.ones((*rows.shape[:-1], 1), x.dtype)
    left = np.cumprod(np.concatenate([ones, rows[..., :-1]], -1), -1) if rows.shape[-1] else rows
    right = np.cumprod(np.concatenate([ones, rows[..., :0:-1]], -1), -1)[..., ::-1] if rows.shape[-1] else rows
    others = (left * right).reshape([x.shape[i] for i in order]).transpose(np.argsort(order))
    kept = [1 if i in axes else n for i, n in enumerate(x.shape)]
    return (np.reshape(dy, kept) * others,)


@primitive
def cumsum(x, *, axis: int | None = None):
    """Sums of the first 1, 2, ... entries along ``axis``, or of all entries in C order (:eq:`eq-cumsum`).

    PyTorch: ``torch.cumsum``, which asks for an axis.
    """
    if axis is not None and not -np.ndim(x) <= axis < np.ndim(x):
        raise ValueError(f"cumsum: there is no axis {axis} in shape {np.shape(x)}")
    return np.cumsum(x, axis=axis), None


@cumsum.defvjp
def cumsum_vjp(dy, saved, x, *, axis=None):
    """:eq:`eq-cumsum-vjp`: an entry counts in all sums from its own on, so its cotangent is a sum from behind."""
    along = 0 if axis is None else axis
    return (np.flip(np.cumsum(np.flip(dy, along), along), along).reshape(x.shape),)


@primitive
def norm(x, *, axis: Axes = None, keepdims=False):
    """The Euclidean length over ``axis``, an int, a tuple or all axes (:eq:`eq-norm`).

    The derivative at the zero vector, where there is none, is taken as 0, as PyTorch does. No overflow: the entries are
    divided by the largest before they are squared.

    PyTorch: ``torch.linalg.vector_norm``.
    """
    scale = np.max(np.abs(x), axis=axis, keepdims=True, initial=0)
    scale = np.where(np.isfinite(scale) & (scale > 0), scale, 1)
    length = scale * np.sqrt(np.sum((x / scale) ** 2, axis=axis, keepdims=True))
    return length if keepdims else np.squeeze(length, _axes(axis, np.ndim(x))), length


@norm.defvjp
def norm_vjp(dy, length, x, *, axis=None, keepdims=False):
    """:eq:`eq-norm-vjp`."""
    return (np.reshape(dy, length.shape) * (x / np.where(length == 0, 1, length)),)


# ---------------------------------------------------------------------------------------------------------------------
# Sums of products
# ---------------------------------------------------------------------------------------------------------------------


@primitive
def einsum(*operands, subscripts: str):
    """Sum of products by Einstein's notation (:eq:`eq-einsum`), such as ``"ij,jk->ik"`` for a matrix product.

    Args:
        *operands: arrays, one for each group of letters.
        subscripts: letters for the axes, ``...`` for leading axes that broadcast.

    Raises:
        ValueError: subscripts that do not fit the shapes (names them); a letter twice in one operand, whose diagonal
            has to be taken first.

    PyTorch: ``torch.einsum``.
    """
    inputs, output = _subscripts(subscripts, operands)
    try:
        return np.einsum(f"{','.join(inputs)}->{output}", *operands), (inputs, output)
    except ValueError as problem:
        shapes = [np.shape(a) for a in operands]
        raise ValueError(f"einsum: {subscripts!r} does not fit shapes {shapes}: {problem}") from None


@einsum.defvjp
def einsum_vjp(dy, saved, *operands, subscripts):
    """:eq:`eq-einsum-vjp`: the answer and the operand change places; an axis only the operand has is repeated."""
    inputs, output = saved

    def cotangent(i):
        others = [(letters, a) for j, (letters, a) in enumerate(zip(inputs, operands, strict=True)) if j != i]
        x, own = operands[i], inputs[i]
        seen = "".join(letter for letter in own if letter in output or any(letter in o for o, _ in others))
        spec = ",".join([output, *(letters for letters, _ in others)]) + "->" + seen
        dx = np.einsum(spec, dy, *(a for _, a in others))
        dx = np.reshape(dx, [dx.shape[seen.index(c)] if c in seen else 1 for c in own])
        return unbroadcast(np.broadcast_to(dx, np.broadcast_shapes(dx.shape, x.shape)), x.shape)

    return tuple(lambda i=i: cotangent(i) for i in range(len(operands)))


def _subscripts(subscripts: str, operands) -> tuple[list[str], str]:
    """The letters of every operand and of the answer, with letters in place of the three dots."""
    text = subscripts.replace(" ", "")
    left, arrow, output = text.partition("->")
    inputs = left.split(",")
    if len(inputs) != len(operands) or not set(text) <= set(string.ascii_letters + ".,->"):
        raise ValueError(f"einsum: {subscripts!r} does not fit {len(operands)} operands")
    free = [c for c in string.ascii_letters if c not in text]
    most = max((np.ndim(a) - len(s) + 3 for s, a in zip(inputs, operands, strict=True) if "..." in s), default=0)
    if not 0 <= most <= len(free):
        raise ValueError(f"einsum: {subscripts!r} does not fit shapes {[np.shape(a) for a in operands]}")
    dots = "".join(free[:most])
    for i, (letters, a) in enumerate(zip(inputs, operands, strict=True)):
        count = np.ndim(a) - len(letters) + 3
        inputs[i] = letters.replace("...", dots[most - count :] if count > 0 else "")
        if len(set(inputs[i])) != len(inputs[i]):
            raise ValueError(f"einsum: {letters!r} has a letter twice; take the diagonal first")
        if len(inputs[i]) != np.ndim(a):
            raise ValueError(f"einsum: {letters!r} does not fit an operand of shape {np.shape(a)}")
    if arrow:
        return inputs, output.replace("...", dots)
    once = sorted(c for c in set(left) - set(".,") if left.count(c) == 1)
    return inputs, dots + "".join(once)


# ---------------------------------------------------------------------------------------------------------------------
# Compositions, under NumPy's own signatures
# ---------------------------------------------------------------------------------------------------------------------


def _clip(a, a_min=None, a_max=None, *, min=None, max=None):
    return clip(a, a_min if min is None else min, a_max if max is None else max)


def _sum(a, axis=None, dtype=None, *, keepdims=False):
    return sum_(_in(a, dtype), axis=axis, keepdims=keepdims)


def _mean(a, axis=None, dtype=None, *, keepdims=False):
    return mean(_in(a, dtype), axis=axis, keepdims=keepdims)


def _in(a, dtype):
    return a if dtype is None else astype(a, dtype=dtype)


def _max(a, axis=None, *, keepdims=False):
    return amax(a, axis=axis, keepdims=keepdims)


def _min(a, axis=None, *, keepdims=False):
    return amin(a, axis=axis, keepdims=keepdims)


def _prod(a, axis=None, dtype=None, *, keepdims=False):
    return prod(_in(a, dtype), axis=axis, keepdims=keepdims)


def _cumsum(a, axis=None, dtype=None):
    return cumsum(_in(a, dtype), axis=axis)


def _var(a, axis=None, *, ddof=0, correction=None, keepdims=False):
    """Mean squared distance from the mean; the sum is divided by ``n - ddof``."""
    ddof = ddof if correction is None else correction
    count = math.prod(a.shape[i] for i in _axes(axis, a.ndim))
    if count - ddof <= 0:
        raise ValueError(f"var: {count} numbers have no variance with ddof {ddof}")
    centred = a - mean(a, axis=axis, keepdims=True)
    return sum_(centred * centred, axis=axis, keepdims=keepdims) / (count - ddof)


def _std(a, axis=None, *, ddof=0, correction=None, keepdims=False):
    """The root of the variance; its derivative where all numbers are equal is taken as 0, as PyTorch does."""
    ddof = ddof if correction is None else correction
    count = math.prod(a.shape[i] for i in _axes(axis, a.ndim))
    if count - ddof <= 0:
        raise ValueError(f"std: {count} numbers have no standard deviation with ddof {ddof}")
    centred = a - mean(a, axis=axis, keepdims=True)
    return norm(centred, axis=axis, keepdims=keepdims) / math.sqrt(count - ddof)


def _norm(x, ord=None, axis=None, keepdims=False):
    """Vector norms of order 1, 2 and infinity, and Frobenius' of a matrix."""
    vectors = axis is not None and not isinstance(axis, tuple)
    if ord is None or (ord == 2 and (vectors or x.ndim == 1)) or (ord == "fro" and not vectors):
        return norm(x, axis=axis, keepdims=keepdims)
    if ord == 1 and (vectors or x.ndim == 1):
        return sum_(absolute(x), axis=axis, keepdims=keepdims)
    if ord == np.inf and (vectors or x.ndim == 1):
        return amax(absolute(x), axis=axis, keepdims=keepdims)
    raise ValueError(
        f"numpy.linalg.norm of order {ord} has no vector-Jacobian product here: vectors have orders 1, 2 and inf, "
        "matrices have Frobenius' norm"
    )


def _dot(a, b):
    """NumPy's rule: inner product of vectors, product of matrices, product with a number."""
    if np.ndim(a) == 0 or np.ndim(b) == 0:
        return multiply(a, b)
    if np.ndim(b) <= 2:
        return matmul(a, b)
    raise ValueError("numpy.dot of more than two axes on the right: use matmul, whose rule for stacks is PyTorch's")


def _stack(arrays, axis=0):
    arrays = list(arrays)
    if not arrays or len({np.shape(a) for a in arrays}) > 1:
        raise ValueError(f"stack: shapes {[np.shape(a) for a in arrays]} differ, or there is no array")
    ndim = np.ndim(arrays[0])
    axis = normalize_axis_index(axis, ndim + 1)
    return concatenate(*(_expand_dims(a, axis) for a in arrays), axis=axis)


def _concatenate(arrays, axis=0):
    if axis is None:
        return concatenate(*(reshape(a, shape=(-1,)) for a in arrays))
    return concatenate(*arrays, axis=axis)


def _hstack(tup):
    arrays = [a if np.ndim(a) else reshape(a, shape=(1,)) for a in tup]
    return concatenate(*arrays, axis=0 if np.ndim(arrays[0]) == 1 else 1)


def _vstack(tup):
    return concatenate(*(a if np.ndim(a) > 1 else reshape(a, shape=(1, -1)) for a in tup), axis=0)


def _expand_dims(a, axis):
    axes = axis if isinstance(axis, tuple) else (axis,)
    ndim = np.ndim(a) + len(axes)
    new = normalize_axis_tuple(axes, ndim)
    old = iter(np.shape(a))
    return reshape(a, shape=tuple(1 if i in new else next(old) for i in range(ndim)))


def _squeeze(a, axis=None):
    axes = tuple(i for i, n in enumerate(a.shape) if n == 1) if axis is None else normalize_axis_tuple(axis, a.ndim)
    if any(a.shape[i] != 1 for i in axes):
        raise ValueError(f"squeeze: shape {a.shape} is longer than 1 along axis {axis}")
    return reshape(a, shape=tuple(n for i, n in enumerate(a.shape) if i not in axes))


def _reshape(a, shape, order="C"):
    if order != "C":
        raise ValueError(f"reshape: order {order!r} has no vector-Jacobian product here, transpose first")
    return reshape(a, shape=shape)


def _ravel(a, order="C"):
    return _reshape(a, (-1,), order)


def _swapaxes(a, axis1, axis2):
    axes = list(range(a.ndim))
    i, j = normalize_axis_index(axis1, a.ndim), normalize_axis_index(axis2, a.ndim)
    axes[i], axes[j] = axes[j], axes[i]
    return transpose(a, axes=tuple(axes))


def _moveaxis(a, source, destination):
    places = np.moveaxis(np.empty((0,) * a.ndim), source, destination)  # checks the axes, with NumPy's message
    del places
    order = np.arange(a.ndim)
    source, destination = normalize_axis_tuple(source, a.ndim), normalize_axis_tuple(destination, a.ndim)
    rest = [i for i in order if i not in source]
    for to, axis in sorted(zip(destination, source, strict=True)):
        rest.insert(to, axis)
    return transpose(a, axes=tuple(int(i) for i in rest))


def _transpose(a, axes=None):
    return transpose(a, axes=axes)


def _broadcast_to(array, shape):
    return multiply(array, np.ones(shape, array.dtype))


def _outer(a, b):
    return multiply(reshape(a, shape=(-1, 1)), reshape(b, shape=(1, -1)))


def _einsum(subscripts, *operands):
    return einsum(*operands, subscripts=subscripts)


def _log2(x):
    return log(x) / math.log(2)


def _log10(x):
    return log(x) / math.log(10)


def _square(x):
    return multiply(x, x)


def _logaddexp(x, y):
    high = maximum(x, y)
    return high + log1p(exp(negative(absolute(subtract(x, y)))))


UFUNCS: dict[np.ufunc, Callable] = {
    np.add: add,
    np.subtract: subtract,
    np.multiply: multiply,
    np.divide: divide,
    np.negative: negative,
    np.power: power,
    np.matmul: matmul,
    np.exp: exp,
    np.expm1: expm1,
    np.log: log,
    np.log1p: log1p,
    np.log2: _log2,
    np.log10: _log10,
    np.sqrt: sqrt,
    np.square: _square,
    np.absolute: absolute,
    np.fabs: absolute,
    np.sign: sign,
    np.sin: sin,
    np.cos: cos,
    np.tanh: tanh,
    np.maximum: maximum,
    np.minimum: minimum,
}
"""NumPy's functions of single entries."""

FUNCTIONS: dict[Any, Callable] = {
    np.where: where,
    np.clip: _clip,
    np.sum: _sum,
    np.mean: _mean,
    np.max: _max,
    np.amax: _max,
    np.min: _min,
    np.amin: _min,
    np.prod: _prod,
    np.cumsum: _cumsum,
    np.var: _var,
    np.std: _std,
    np.linalg.norm: _norm,
    np.dot: _dot,
    np.einsum: _einsum,
    np.outer: _outer,
    np.concatenate: _concatenate,
    np.stack: _stack,
    np.hstack: _hstack,
    np.vstack: _vstack,
    np.reshape: _reshape,
    np.ravel: _ravel,
    np.transpose: _transpose,
    np.swapaxes: _swapaxes,
    np.moveaxis: _moveaxis,
    np.expand_dims: _expand_dims,
    np.squeeze: _squeeze,
    np.broadcast_to: _broadcast_to,
}
"""NumPy's other functions."""

PLAIN = {
    *(np.less, np.less_equal, np.greater, np.greater_equal, np.equal, np.not_equal),
    *(np.isfinite, np.isinf, np.isnan, np.signbit),
    *(np.zeros_like, np.ones_like, np.full_like, np.empty_like),
    *(np.shape, np.ndim, np.size, np.argmax, np.argmin, np.argsort, np.any, np.all, np.array_equal, np.allclose),
    *(np.isclose, np.count_nonzero, np.result_type, np.array2string, np.array_repr, np.array_str),
}
"""Functions whose answer has no derivative, or the derivative 0 wherever it has one: it is a plain array."""

NEAREST = {
    "average": "np.mean of a product with the weights",
    "block": "np.concatenate",
    "column_stack": "np.stack with axis=1",
    "dstack": "np.stack",
    "median": "np.mean",
    "quantile": "np.mean",
    "percentile": "np.mean",
    "sort": "indexing, x[np.argsort(x)]",
    "diag": "indexing, x[i, i] with i = np.arange(n)",
    "diagonal": "indexing, x[i, i] with i = np.arange(n)",
    "trace": "indexing, x[i, i].sum() with i = np.arange(n)",
    "tensordot": "np.einsum",
    "inner": "np.einsum",
    "vdot": "np.einsum",
    "kron": "np.einsum and np.reshape",
    "tile": "np.concatenate",
    "repeat": "indexing, x[np.repeat(np.arange(n), k)]",
    "roll": "indexing, x[np.roll(np.arange(n), k)]",
    "flip": "indexing, x[::-1]",
    "take": "indexing, x[indices]",
    "take_along_axis": "indexing with arrays",
    "diff": "indexing, x[1:] - x[:-1]",
    "ptp": "np.max less np.min",
    "nansum": "np.sum of np.where",
    "nanmean": "np.mean of np.where",
    "cumprod": "np.exp of np.cumsum of np.log",
    "arctan": "np.tanh",
    "tan": "np.sin divided by np.cos",
    "sinh": "np.exp",
    "cosh": "np.exp",
    "exp2": "2.0 ** x",
    "cbrt": "x ** (1 / 3)",
    "reciprocal": "1 / x",
    "float_power": "the operator **",
    "floor": "np.where of a comparison",
    "round": "np.where of a comparison",
    "heaviside": "np.where of a comparison",
    "hypot": "np.sqrt",
    "inv": "no inverse: formulate with products, or derive a primitive of your own",
    "solve": "no solver: formulate with products, or derive a primitive of your own",
}
"""What comes nearest to a function that has no vector-Jacobian product here."""


# ---------------------------------------------------------------------------------------------------------------------
# The protocol
# ---------------------------------------------------------------------------------------------------------------------


def _plain(x):
    """Traced values replaced by their arrays, in lists and tuples too."""
    if isinstance(x, OnTape):
        return x.value
    return type(x)(map(_plain, x)) if type(x) in (list, tuple) else x


def _call_ufunc(ufunc: np.ufunc, method: str, inputs: tuple, keywords: dict):
    """What ``np.exp(traced)`` does."""
    if "out" in keywords:
        raise ValueError(f"numpy.{ufunc.__name__} would write into an array that is being traced; make a new array")
    if ufunc in PLAIN and method == "__call__":
        return ufunc(*map(_plain, inputs), **keywords)
    if method == "__call__" and not keywords:
        if ufunc in UFUNCS:
            return UFUNCS[ufunc](*inputs)
        if ufunc is np.logaddexp:
            return _logaddexp(*inputs)
    how = f".{method}" if method != "__call__" else " with keywords" if keywords else ""
    raise _unknown(f"{ufunc.__name__}{how}", ufunc.__name__)


def _call_function(function: Callable, args: tuple, keywords: dict):
    """What ``np.where(condition, traced, 0)`` does."""
    if function in PLAIN:
        return function(*map(_plain, args), **{key: _plain(value) for key, value in keywords.items()})
    if function not in FUNCTIONS:
        raise _unknown(f"{_module(function)}{function.__name__}", function.__name__)
    if keywords.get("out") is not None:
        raise ValueError(f"numpy.{function.__name__} would write into an array; make a new one")
    ours = FUNCTIONS[function]
    keywords = {key: value for key, value in keywords.items() if key != "out" and value is not np._NoValue}
    try:
        inspect.signature(ours).bind(*args, **keywords)
    except TypeError as problem:
        raise ValueError(f"numpy.{function.__name__} of a traced value: {problem}") from None
    return ours(*args, **keywords)


def _module(function) -> str:
    return "linalg." if "linalg" in (getattr(function, "__module__", "") or "") else ""


def _unknown(shown: str, name: str) -> ValueError:
    known = sorted({f.__name__ for f in UFUNCS} | {f"{_module(f)}{f.__name__}" for f in FUNCTIONS})
    nearest = f"; nearest: {NEAREST[name]}" if name in NEAREST else ""
    return ValueError(f"numpy.{shown} has no vector-Jacobian product here{nearest}; known: {', '.join(known)}")


METHODS: dict[str, Callable] = {
    "max": _max,
    "min": _min,
    "prod": _prod,
    "cumsum": _cumsum,
    "var": _var,
    "std": _std,
    "dot": _dot,
    "clip": _clip,
    "ravel": _ravel,
    "flatten": _ravel,
    "squeeze": _squeeze,
    "swapaxes": _swapaxes,
}


def _method_of(x: Traced, name: str):
    """What ``traced.max`` is: an array's method."""
    if name in METHODS:
        return lambda *args, **keywords: METHODS[name](x, *args, **keywords)
    if name in ("argmax", "argmin", "argsort", "any", "all"):
        return getattr(x.value, name)
    if name.startswith("__") or not hasattr(Array, name):
        raise AttributeError(f"a traced value has no {name}")
    raise AttributeError(
        f"a traced value has no {name}; of an array's methods it has "
        f"{', '.join(sorted([*METHODS, 'astype', 'mean', 'reshape', 'sum', 'transpose']))}"
    )
