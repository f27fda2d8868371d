"""Recurrent networks: the same step at every moment, with a state that remembers (chapter 7).

The layers run over all steps in one primitive, and their VJPs are backpropagation through time, derived by hand::

    import numpy as np
    from nnbook.rnn import recurrent, recurrent_init

    params = recurrent_init(np.random.default_rng(0), "lstm", 5, 16)
    output, (h, c) = recurrent(params, x)        # x (T, N, 5): T steps of N sequences; output (T, N, 16)

Time comes first, ``(T, N, D)``, as in PyTorch. A primitive of the book's engine returns one array, so :func:`rnn`,
:func:`lstm` and :func:`gru` return the outputs and, under them along the axis of time, the final states, which have the
same shape (N, H); :func:`recurrent` takes them apart.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from nnbook._arrays import SINGLE, Array, Branch, Given, Parameters, Real, Tree, as_float, checked
from nnbook.backprop import Traced, concatenate, primitive, stop_gradient, tree_map, value_and_grad, vjp
from nnbook.losses import cross_entropy
from nnbook.neurons import linear, linear_init, relu, sigmoid, softplus, tanh
from nnbook.regularization import dropout

Rng = np.random.Generator

# ---------------------------------------------------------------------------------------------------------------------
# Tokens become vectors
# ---------------------------------------------------------------------------------------------------------------------


@primitive
def embedding(tokens: Given, weight, *, padding_idx: int | None = None):
    """Row ``tokens[i]`` of ``weight`` for every token (:eq:`eq-embedding`).

    Args:
        tokens: (...) integers from 0 to K - 1.
        weight: (K, D), one vector for each of the K tokens.
        padding_idx: a token whose vector gets no gradient, so that training leaves it as it is.

    Returns:
        (..., D).

    Raises:
        ValueError: tokens that are not integers or out of range; ``weight`` is not a matrix; ``padding_idx`` out of
            range.

    PyTorch: ``torch.nn.functional.embedding``, whose negative ``padding_idx`` counts from the end; here it is refused.
    """
    if np.ndim(weight) != 2:
        raise ValueError(f"embedding: weight has shape {np.shape(weight)}, expected (K, D)")
    count = len(weight)
    tokens = _tokens("embedding", tokens, count)
    if padding_idx is not None and not 0 <= padding_idx < count:
        raise ValueError(f"embedding: padding_idx {padding_idx} is not from 0 to {count - 1}")
    return weight[tokens], None


@embedding.defvjp
def embedding_vjp(dy, saved, tokens, weight, *, padding_idx=None):
    """:eq:`eq-embedding-vjp`: every row adds up the cotangents of the places where its token stood."""
    tokens = np.ravel(tokens)
    dweight = np.zeros_like(weight)
    if tokens.size:
        order = np.argsort(tokens, kind="stable")  # equal tokens side by side, so that their rows are one sum
        rows, starts = np.unique(tokens[order], return_index=True)
        dweight[rows] = np.add.reduceat(dy.reshape(tokens.size, weight.shape[1])[order], starts, axis=0)
    if padding_idx is not None:
        dweight[padding_idx] = 0
    return None, dweight


def _tokens(name, tokens, count):
    tokens = _integers(name, "tokens have", tokens)
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < count:
        raise ValueError(f"{name}: tokens run from {tokens.min()} to {tokens.max()}, allowed is 0 to {count - 1}")
    return tokens


def _integers(name, what, x):
    x = np.asarray(x)
    if x.size == 0:
        return x.astype(np.int64)  # an empty list, which NumPy takes for floats
    if x.dtype.kind not in "iu":
        raise ValueError(f"{name}: {what} dtype {x.dtype}, expected integers")
    return x


# ---------------------------------------------------------------------------------------------------------------------
# The recurrence
# ---------------------------------------------------------------------------------------------------------------------


@primitive
def rnn(
    x,
    h0: Real | None,
    weight_ih,
    weight_hh,
    bias_ih=None,
    bias_hh=None,
    mask: Given | None = None,
    *,
    nonlinearity: Literal["tanh", "relu"] = "tanh",
    reverse=False,
):
    """``h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)`` for all t, Elman's network (:eq:`eq-rnn`).

    T steps, N sequences, D inputs, H hidden units.

    Args:
        x: (T, N, D), at least one step.
        h0: (N, H), the state before the first step; ``None`` for zeros.
        weight_ih, weight_hh: (H, D) and (H, H).
        bias_ih, bias_hh: (H,) or ``None``.
        mask: (T, N) bool, False where a sequence is padded: what stands there is not looked at, the state is
            carried on, and the output is 0.
        nonlinearity: ``"tanh"`` or ``"relu"``.
        reverse: run from the last step to the first.

    Returns:
        (T + 1, N, H): the output ``y[:-1]`` and below it the final state ``y[-1]``.

    Raises:
        ValueError: shapes that do not fit (names them), no step, a mask that is not boolean, another nonlinearity.

    At the kink 0 the derivative of ReLU is taken as 0, as PyTorch does. PyTorch: one layer of ``torch.nn.RNN``, the
    mask in place of ``pack_padded_sequence``. Source: :cite:`elman1990`; the VJP :cite:`werbos1990`.
    """
    (hs,) = _states("rnn", 1, x, {"h0": h0}, weight_ih, weight_hh, bias_ih, bias_hh, mask)
    x, mask = _in_order(x, mask, reverse)
    W = _by_gate(weight_hh, 1)[0]
    (z,) = _from_inputs(x, weight_ih, bias_ih, bias_hh, hs)
    for t in range(len(x)):
        z[t] += hs[t] @ W
        hs[t + 1] = _step(mask, t, np.tanh(z[t]) if nonlinearity == "tanh" else np.maximum(z[t], 0), hs[t])
    return _stacked(mask, reverse, hs), hs


@rnn.defvjp
def rnn_vjp(
    dy,
    hs,
    x,
    h0,
    weight_ih,
    weight_hh,
    bias_ih=None,
    bias_hh=None,
    mask=None,
    *,
    nonlinearity="tanh",
    reverse=False,
):
    """:eq:`eq-rnn-vjp`: backpropagation through time."""
    dy, dh = _flipped(dy[:-1], reverse), dy[-1]
    x, mask = _in_order(x, mask, reverse)
    dz = np.empty(hs[1:].shape, hs.dtype)
    for t in reversed(range(len(x))):
        d = _step(mask, t, dh + dy[t], 0)
        d = d * (1 - hs[t + 1] ** 2) if nonlinearity == "tanh" else np.where(hs[t + 1] > 0, d, 0)
        dz[t] = _step(mask, t, d, 0)
        dh = _step(mask, t, dz[t] @ weight_hh, dh)
    return _gradients(dz[None], dz[None], hs[:-1], x, mask, (dh,), (h0,), weight_ih, reverse)


@primitive
def lstm(
    x,
    h0: Real | None,
    c0: Real | None,
    weight_ih,
    weight_hh,
    bias_ih=None,
    bias_hh=None,
    mask: Given | None = None,
    *,
    reverse=False,
):
    """Long short-term memory over all steps (:eq:`eq-lstm`).

    ``c_t = f c_{t-1} + i g`` and ``h_t = o tanh(c_t)``, where the gates ``i, f, o = sigmoid(...)`` and the candidate
    ``g = tanh(...)`` each see ``W_ih x_t + b_ih + W_hh h_{t-1} + b_hh`` with rows of their own, in the order
    i, f, g, o. T steps, N sequences, D inputs, H hidden units.

    Args:
        x: (T, N, D), at least one step.
        h0, c0: (N, H), hidden and cell state before the first step; ``None`` for zeros.
        weight_ih, weight_hh: (4H, D) and (4H, H).
        bias_ih, bias_hh: (4H,) or ``None``.
        mask: (T, N) bool, False where a sequence is padded: what stands there is not looked at, the states are
            carried on, and the output is 0.
        reverse: run from the last step to the first.

    Returns:
        (T + 2, N, H): the output ``y[:-2]``, below it the final states, ``h_n = y[-2]`` and ``c_n = y[-1]``.

    Raises:
        ValueError: shapes that do not fit (names them), no step, a mask that is not boolean.

    PyTorch: one layer of ``torch.nn.LSTM``, the mask in place of ``pack_padded_sequence``. Source:
    :cite:`hochreiter1997`; the forget gate :cite:`gers2000`.
    """
    hs, cs = _states("lstm", 4, x, {"h0": h0, "c0": c0}, weight_ih, weight_hh, bias_ih, bias_hh, mask)
    x, mask = _in_order(x, mask, reverse)
    # sigmoid(a) = tanh(a / 2) / 2 + 1/2, so that one call of tanh serves all four gates.
    half = np.array([0.5, 0.5, 1, 0.5], hs.real.dtype)[:, None, None]
    W = _by_gate(weight_hh, 4) * half
    z = _from_inputs(x, weight_ih, bias_ih, bias_hh, hs, half)
    for t in range(len(x)):
        gates = z[:, t]
        gates += hs[t] @ W
        np.tanh(gates, out=gates)
        gates *= half
        gates += 1 - half
        i, f, g, o = gates
        cs[t + 1] = _step(mask, t, f * cs[t] + i * g, cs[t])
        hs[t + 1] = _step(mask, t, o * np.tanh(cs[t + 1]), hs[t])
    return _stacked(mask, reverse, hs, cs), (z, hs, cs)


@lstm.defvjp
def lstm_vjp(dy, saved, x, h0, c0, weight_ih, weight_hh, bias_ih=None, bias_hh=None, mask=None, *, reverse=False):
    """:eq:`eq-lstm-vjp`: two streams flow back, dh through the gates and dc along the cells."""
    z, hs, cs = saved
    dy, dh, dc = _flipped(dy[:-2], reverse), dy[-2], dy[-1]
    x, mask = _in_order(x, mask, reverse)
    W = weight_hh.reshape(4, hs.shape[2], hs.shape[2])
    dz = np.empty_like(z)
    for t in reversed(range(len(x))):
        i, f, g, o = z[:, t]
        di, df, dg, do = dz[:, t]
        tanh_c = np.tanh(cs[t + 1])
        d = _step(mask, t, dh + dy[t], 0)
        e = dc + d * o * (1 - tanh_c * tanh_c)
        di[:] = e * g * i * (1 - i)
        df[:] = e * cs[t] * f * (1 - f)
        dg[:] = e * i * (1 - g * g)
        do[:] = d * tanh_c * o * (1 - o)
        _clear(mask, t, dz)
        dc = _step(mask, t, e * f, dc)
        dh = _step(mask, t, (dz[:, t] @ W).sum(0), dh)
    return _gradients(dz, dz, hs[:-1], x, mask, (dh, dc), (h0, c0), weight_ih, reverse)


@primitive
def gru(
    x,
    h0: Real | None,
    weight_ih,
    weight_hh,
    bias_ih=None,
    bias_hh=None,
    mask: Given | None = None,
    *,
    reset_after=True,
    reverse=False,
):
    """Gated recurrent unit over all steps (:eq:`eq-gru`).

    ``h_t = (1 - z) n + z h_{t-1}`` with the gates ``r, z = sigmoid(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)`` and the
    candidate ``n = tanh(W_in x_t + b_in + r (W_hn h_{t-1} + b_hn))``; rows in the order r, z, n. T steps, N sequences,
    D inputs, H hidden units.

    Args:
        x: (T, N, D), at least one step.
        h0: (N, H), the state before the first step; ``None`` for zeros.
        weight_ih, weight_hh: (3H, D) and (3H, H).
        bias_ih, bias_hh: (3H,) or ``None``.
        mask: (T, N) bool, False where a sequence is padded: what stands there is not looked at, the state is
            carried on, and the output is 0.
        reset_after: reset after the product with ``W_hn``, as PyTorch does; otherwise before it, as the original:
            ``n = tanh(W_in x_t + b_in + W_hn (r h_{t-1}) + b_hn)``.
        reverse: run from the last step to the first.

    Returns:
        (T + 1, N, H): the output ``y[:-1]`` and below it the final state ``y[-1]``.

    Raises:
        ValueError: shapes that do not fit (names them), no step, a mask that is not boolean.

    PyTorch: one layer of ``torch.nn.GRU``, which has ``reset_after=True`` only, the mask in place of
    ``pack_padded_sequence``. As in :cite:`cho2014`, z = 1 keeps the old state; :cite:`chung2014` exchanges z and
    1 - z. Source: :cite:`cho2014`.
    """
    (hs,) = _states("gru", 3, x, {"h0": h0}, weight_ih, weight_hh, bias_ih, bias_hh, mask)
    x, mask = _in_order(x, mask, reverse)
    W = _by_gate(weight_hh, 3)
    b = np.zeros((3, 1, hs.shape[2]), hs.dtype) if bias_hh is None else bias_hh.reshape(3, 1, hs.shape[2])
    z = _from_inputs(x, weight_ih, bias_ih, None, hs)
    inner = np.empty_like(hs[1:])  # what the candidate hears of the state: after the reset, or before it
    for t in range(len(x)):
        gates, n = z[:2, t], z[2, t]
        if reset_after:
            *heard, inner[t] = hs[t] @ W + b
        else:
            heard = hs[t] @ W[:2] + b[:2]
        gates += heard
        gates *= 0.5  # sigmoid(a) = tanh(a / 2) / 2 + 1/2
        np.tanh(gates, out=gates)
        gates *= 0.5
        gates += 0.5
        r, update = gates
        if reset_after:
            n += r * inner[t]
        else:
            inner[t] = r * hs[t]
            n += inner[t] @ W[2] + b[2]
        np.tanh(n, out=n)
        hs[t + 1] = _step(mask, t, n + update * (hs[t] - n), hs[t])
    return _stacked(mask, reverse, hs), (z, inner, hs)


@gru.defvjp
def gru_vjp(
    dy,
    saved,
    x,
    h0,
    weight_ih,
    weight_hh,
    bias_ih=None,
    bias_hh=None,
    mask=None,
    *,
    reset_after=True,
    reverse=False,
):
    """:eq:`eq-gru-vjp`: the reset gate stands between the two sides of the candidate."""
    z, inner, hs = saved
    dy, dh = _flipped(dy[:-1], reverse), dy[-1]
    x, mask = _in_order(x, mask, reverse)
    W = weight_hh.reshape(3, hs.shape[2], hs.shape[2])
    dz = np.empty_like(z)  # by what comes from the input
    da = np.empty_like(z) if reset_after else dz  # by what comes from the state
    for t in reversed(range(len(x))):
        r, update, n = z[:, t]
        dr, dupdate, dn = dz[:, t]
        d = _step(mask, t, dh + dy[t], 0)
        dupdate[:] = d * (hs[t] - n) * update * (1 - update)
        dn[:] = d * (1 - update) * (1 - n * n)
        if reset_after:
            dr[:] = dn * inner[t] * r * (1 - r)
            da[:2, t], da[2, t] = dz[:2, t], dn * r
            d = d * update + (da[:, t] @ W).sum(0)
            _clear(mask, t, da)
        else:
            d_inner = dn @ W[2]
            dr[:] = d_inner * hs[t] * r * (1 - r)
            d = d * update + d_inner * r + (dz[:2, t] @ W[:2]).sum(0)
        _clear(mask, t, dz)
        dh = _step(mask, t, d, dh)
    return _gradients(dz, da, hs[:-1], x, mask, (dh,), (h0,), weight_ih, reverse, None if reset_after else inner)


def _states(name, gates, x, initial, weight_ih, weight_hh, bias_ih, bias_hh, mask) -> tuple[Array, ...]:
    """Check all shapes; one array (T + 1, N, H) for every state, its first entry filled."""
    if np.ndim(x) != 3 or len(x) == 0:
        raise ValueError(f"{name}: x has shape {np.shape(x)}, expected (T, N, D) with at least one step")
    if np.ndim(weight_hh) != 2:
        raise ValueError(f"{name}: weight_hh has shape {np.shape(weight_hh)}, expected ({gates}H, H)")
    T, N, D = x.shape
    H = weight_hh.shape[1]
    expected: dict[str, tuple[Any, tuple[int, ...]]] = {
        "weight_hh": (weight_hh, (gates * H, H)),
        "weight_ih": (weight_ih, (gates * H, D)),
        "bias_ih": (bias_ih, (gates * H,)),
        "bias_hh": (bias_hh, (gates * H,)),
        "mask": (mask, (T, N)),
        **{key: (state, (N, H)) for key, state in initial.items()},
    }
    for what, (array, shape) in expected.items():
        if array is not None and np.shape(array) != shape:
            raise ValueError(
                f"{name}: {what} has shape {np.shape(array)}, expected {shape} with x of shape {x.shape} and H = {H}"
            )
    if mask is not None and mask.dtype != bool:
        raise ValueError(f"{name}: the mask has dtype {mask.dtype}, expected bool")
    floats = (x, weight_ih, weight_hh, bias_ih, bias_hh, *initial.values())
    states = tuple(np.empty((T + 1, N, H), np.result_type(*(a for a in floats if a is not None))) for _ in initial)
    for state, first in zip(states, initial.values(), strict=True):
        state[0] = 0 if first is None else first
    return states


def _flipped(a, reverse):
    return a[::-1] if reverse else a


def _in_order(x, mask, reverse):
    """Inputs and mask in the order in which the steps are run; the mask as a column beside (N, H).

    What stands in the padding is put to 0, for a product with 0 is no way to leave out nan.
    """
    x = _flipped(x, reverse)
    if mask is None:
        return x, None
    mask = _flipped(mask, reverse)[:, :, None]
    return np.where(mask, x, x.dtype.type(0)), mask


def _step(mask, t, new, old):
    """What step t makes, but where it is masked what was there before."""
    return new if mask is None else np.where(mask[t], new, old)


def _clear(mask, t, dz):
    """No derivative at the masked places of step t."""
    if mask is not None:
        np.copyto(dz[:, t], 0, where=~mask[t])


def _by_gate(weight, gates):
    """Weights (gates H, D) as a stack of matrices (gates, D, H): a row of inputs times one of them is a gate."""
    return np.ascontiguousarray(weight.reshape(gates, len(weight) // gates, weight.shape[1]).swapaxes(1, 2))


def _from_inputs(x, weight_ih, bias_ih, bias_hh, hs, factor=1):
    """``factor (W_ih x_t + b_ih + b_hh)`` for all steps at once, gate by gate: (gates, T, N, H)."""
    T, N, D = x.shape
    gates = len(weight_ih) // hs.shape[2]
    z = np.empty((gates, T * N, hs.shape[2]), hs.dtype)
    np.matmul(x.reshape(T * N, D), _by_gate(weight_ih, gates) * factor, out=z)
    biases = [b.reshape(gates, 1, hs.shape[2]) for b in (bias_ih, bias_hh) if b is not None]
    if biases:
        z += sum(biases) * factor
    return z.reshape(gates, T, N, hs.shape[2])


def _stacked(mask, reverse, hs, *cs):
    """Outputs, 0 where masked, and under them the final states."""
    y = np.concatenate([_flipped(hs[1:], reverse), hs[-1:], *(c[-1:] for c in cs)])
    if mask is not None:
        np.copyto(y[: len(mask)], 0, where=~_flipped(mask, reverse))
    return y


def _gradients(dz, da, before, x, mask, dstates, states, weight_ih, reverse, inner=None):
    """Cotangents of all arguments from ``dz``, those of ``W_ih x + b_ih``, and ``da``, those of ``W_hh h + b_hh``."""
    T, N, D = x.shape
    gates, _, _, H = dz.shape
    rows, hidden = dz.reshape(gates, T * N, H), da.reshape(gates, T * N, H)

    def seen(states):  # of a masked step not even the state, which may be nan in a sequence without a step
        return (states if mask is None else np.where(mask, states, states.dtype.type(0))).reshape(T * N, H)

    def dweight_hh():
        dW = hidden.swapaxes(1, 2) @ seen(before)
        if inner is not None:
            dW[2] = hidden[2].T @ seen(inner)
        return dW.reshape(gates * H, H)

    return (
        lambda: _flipped((rows @ weight_ih.reshape(gates, H, D)).sum(0).reshape(T, N, D), reverse),
        *(None if state is None else d for d, state in zip(dstates, states, strict=True)),
        lambda: (rows.swapaxes(1, 2) @ x.reshape(T * N, D)).reshape(gates * H, D),
        dweight_hh,
        lambda: rows.sum(1).reshape(gates * H),
        lambda: hidden.sum(1).reshape(gates * H),
        None,
    )


@primitive
def linear_recurrence(a, b, h0=None, *, method: Literal["scan", "loop"] = "scan"):
    """``h_t = a_t h_{t-1} + b_t`` along the first axis, entry by entry (:eq:`eq-linear_recurrence`).

    Two steps ``(a, b)`` and ``(a', b')``, one after the other, are again such a step: ``(a' a, a' b + b')``. This is
    associative, so all prefixes can be had in log2 T passes over the whole array instead of T small steps.

    Args:
        a, b: (T, ...) of the same shape.
        h0: (...), the state before the first step; ``None`` for zeros.
        method: ``"scan"``, or ``"loop"`` for T steps one after the other.

    Returns:
        (T, ...).

    Raises:
        ValueError: shapes that differ (names them), another method.

    The passes take T log2 T products where the loop takes T. They multiply entries of ``a`` with each other, which the
    loop never does; where such a product could leave the range of the numbers, or a sum of some steps has left it, the
    loop runs in place of the scan. PyTorch: no counterpart. Source: :cite:`blelloch1990`.
    """
    if np.shape(a) != np.shape(b) or np.ndim(a) == 0:
        raise ValueError(f"linear_recurrence: a has shape {np.shape(a)}, b {np.shape(b)}; expected twice (T, ...)")
    if h0 is not None and np.shape(h0) != np.shape(a)[1:]:
        raise ValueError(f"linear_recurrence: h0 has shape {np.shape(h0)}, expected {np.shape(a)[1:]}")
    h = np.array(b, np.result_type(*(array for array in (a, b, h0) if array is not None)))
    if h0 is not None:
        h[:1] += a[:1] * h0
    return (h := (_scan if method == "scan" else _loop)(a, h)), h


@linear_recurrence.defvjp
def linear_recurrence_vjp(dy, h, a, b, h0=None, *, method="scan"):
    """:eq:`eq-linear_recurrence-vjp`: the cotangent obeys such a recurrence too, backwards in time."""
    later = np.concatenate([np.zeros_like(a[:1]), a[:0:-1]])  # a_{t+1}, in reversed order
    g = dy[::-1].astype(h.dtype)
    g = (_scan if method == "scan" else _loop)(later, g)[::-1]
    first = np.zeros_like(h[:1]) if h0 is None else np.broadcast_to(h0, h[:1].shape)
    before = np.concatenate([first, h[:-1]])
    return lambda: g * before, g, None if h0 is None else lambda: (g[:1] * a[:1]).sum(0)


def _scan(a, b):
    """All prefixes by doubling: after k passes an entry knows the 2^k steps that end with it."""
    if not _products_fit(a):
        return _loop(a, b)
    coefficients, a, h = a, np.array(a), np.array(b)
    a[:1] = 0  # it acts on h0 alone, and that has been seen to
    d = 1
    with np.errstate(over="ignore", invalid="ignore"):
        while d < len(h):
            h[d:] += a[d:] * h[:-d]
            a[d:] *= a[:-d].copy()
            d *= 2
    return h if np.isfinite(h).all() else _loop(coefficients, b)


def _products_fit(a):
    """Can no product of entries that follow each other overflow, nor vanish and be large again later?"""
    size = np.abs(a[1:])
    if not size.size or size.max() <= 1:
        return True  # then what vanishes stays small
    if not np.isfinite(size).all():
        return False
    power = np.log2(size, where=size > 0, out=np.zeros_like(size))
    limits = np.finfo(size.dtype)
    largest, least = np.maximum(power, 0).sum(0).max(), np.minimum(power, 0).sum(0).min()
    return largest < limits.maxexp - 1 and least > limits.minexp + 1


def _loop(a, h):
    for t in range(1, len(h)):
        h[t] += a[t] * h[t - 1]
    return h


# ---------------------------------------------------------------------------------------------------------------------
# Single steps, composed of elementary primitives
# ---------------------------------------------------------------------------------------------------------------------


@checked
def rnn_cell(x, h, weight_ih, weight_hh, bias_ih=None, bias_hh=None, *, nonlinearity: Literal["tanh", "relu"] = "tanh"):
    """One step of :func:`rnn` (:eq:`eq-rnn_cell`): x (N, D), h (N, H) to (N, H). PyTorch: ``torch.nn.RNNCell``.

    Raises:
        ValueError: shapes that do not fit (names both), another nonlinearity than ``"tanh"`` and ``"relu"``.
    """
    _check_cell("rnn_cell", 1, x, {"h": h}, weight_ih, weight_hh, bias_ih, bias_hh)
    z = linear(x, weight_ih, bias_ih) + linear(h, weight_hh, bias_hh)
    return tanh(z) if nonlinearity == "tanh" else relu(z)


@checked
def lstm_cell(x, h, c, weight_ih, weight_hh, bias_ih=None, bias_hh=None):
    """One step of :func:`lstm` (:eq:`eq-lstm_cell`): x (N, D), h and c (N, H) to the next h and c.

    PyTorch: ``torch.nn.LSTMCell``.

    Raises:
        ValueError: shapes that do not fit (names both).
    """
    _check_cell("lstm_cell", 4, x, {"h": h, "c": c}, weight_ih, weight_hh, bias_ih, bias_hh)
    i, f, g, o = _gates(linear(x, weight_ih, bias_ih) + linear(h, weight_hh, bias_hh), 4)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


@checked
def gru_cell(x, h, weight_ih, weight_hh, bias_ih=None, bias_hh=None, *, reset_after: bool = True):
    """One step of :func:`gru` (:eq:`eq-gru_cell`): x (N, D), h (N, H) to (N, H). PyTorch: ``torch.nn.GRUCell``.

    Raises:
        ValueError: shapes that do not fit (names both).
    """
    _check_cell("gru_cell", 3, x, {"h": h}, weight_ih, weight_hh, bias_ih, bias_hh)
    H = h.shape[-1]
    r, z, n = _gates(linear(x, weight_ih, bias_ih), 3)
    if reset_after:
        hr, hz, hn = _gates(linear(h, weight_hh, bias_hh), 3)
        r, z = sigmoid(r + hr), sigmoid(z + hz)
        n = tanh(n + r * hn)
    else:
        b = [None, None, None] if bias_hh is None else [bias_hh[k : k + H] for k in (0, H, 2 * H)]
        r = sigmoid(r + linear(h, weight_hh[:H], b[0]))
        z = sigmoid(z + linear(h, weight_hh[H : 2 * H], b[1]))
        n = tanh(n + linear(r * h, weight_hh[2 * H :], b[2]))
    return (1 - z) * n + z * h


def _gates(z, count):
    H = z.shape[-1] // count
    return [z[..., k : k + H] for k in range(0, count * H, H)]


def _check_cell(name, gates, x, states, weight_ih, weight_hh, bias_ih, bias_hh):
    h = states["h"]
    if len(x.shape) != 2 or len(h.shape) != 2:
        raise ValueError(f"{name}: x has shape {x.shape} and h {h.shape}, expected (N, D) and (N, H)")
    (N, D), H = x.shape, h.shape[1]
    expected: dict[str, tuple[Any, tuple[int, ...]]] = {
        **{key: (state, (N, H)) for key, state in states.items()},
        "weight_ih": (weight_ih, (gates * H, D)),
        "weight_hh": (weight_hh, (gates * H, H)),
        "bias_ih": (bias_ih, (gates * H,)),
        "bias_hh": (bias_hh, (gates * H,)),
    }
    for what, (array, shape) in expected.items():
        if array is not None and array.shape != shape:
            raise ValueError(
                f"{name}: {what} has shape {array.shape}, expected {shape} for {gates} gates with x of shape {x.shape} "
                f"and h of shape {h.shape}"
            )


# ---------------------------------------------------------------------------------------------------------------------
# Layers: stacked, in one direction or both
# ---------------------------------------------------------------------------------------------------------------------

GATES = {"rnn": 1, "gru": 3, "lstm": 4}
"""Rows of the weights for every hidden unit."""


@checked
def recurrent_init(
    rng: Rng,
    cell: str,
    input_size: int,
    hidden_size: int,
    *,
    num_layers: int = 1,
    bias: bool = True,
    bidirectional: bool = False,
    forget_bias: float | None = None,
    dtype=np.float32,
) -> dict[str, Array]:
    """Parameters of ``torch.nn.RNN``, ``GRU`` or ``LSTM`` under PyTorch's names, uniform up to ``1 / sqrt(H)``.

    Args:
        rng: source of chance.
        cell: ``"rnn"``, ``"gru"`` or ``"lstm"``.
        input_size, hidden_size: D and H.
        num_layers: layers on top of each other.
        bias: whether there are biases.
        bidirectional: two networks a layer, the second one from the end to the beginning (names end in ``_reverse``).
        forget_bias: LSTM only: the forget gate starts with this bias (:cite:`gers2000`, :cite:`jozefowicz2015`);
            without it, with a random one as in PyTorch.
        dtype: float32 or float64.

    Returns:
        ``{"weight_ih_l0": (gates H, D), "weight_hh_l0": (gates H, H), "bias_ih_l0": (gates H,), ...}``.

    Raises:
        ValueError: another cell, a size below 1, ``forget_bias`` without a forget gate or without biases.
    """
    if cell not in GATES:
        raise ValueError(f"recurrent_init: cell must be one of {', '.join(GATES)}, not {cell!r}")
    if min(input_size, hidden_size, num_layers) < 1:
        raise ValueError(f"recurrent_init: sizes must be at least 1, not {input_size}, {hidden_size}, {num_layers}")
    if forget_bias is not None and (cell != "lstm" or not bias):
        raise ValueError("recurrent_init: forget_bias needs an LSTM with biases")
    H, rows, most = hidden_size, GATES[cell] * hidden_size, 1 / math.sqrt(hidden_size)
    params = {}
    for layer in range(num_layers):
        for end in ("", "_reverse")[: 1 + bidirectional]:
            size = input_size if layer == 0 else H * (1 + bidirectional)
            shapes = {"weight_ih": (rows, size), "weight_hh": (rows, H), "bias_ih": (rows,), "bias_hh": (rows,)}
            for name, shape in shapes.items():
                if bias or name.startswith("weight"):
                    params[f"{name}_l{layer}{end}"] = rng.uniform(-most, most, shape).astype(dtype)
            if forget_bias is not None:
                params[f"bias_ih_l{layer}{end}"][H : 2 * H] = forget_bias
                params[f"bias_hh_l{layer}{end}"][H : 2 * H] = 0
    return params


@checked
def cell_of(params: Branch) -> str:
    """``"rnn"``, ``"gru"`` or ``"lstm"``, read off the shape of the weights.

    Raises:
        ValueError: the weights are those of no known cell.
    """
    return _cell_of(params)


def _cell_of(params) -> str:
    leaf = params.get("weight_hh_l0", 0)
    shape: tuple[int, ...] = () if isinstance(leaf, dict) else np.shape(leaf)
    for cell, gates in GATES.items():
        if len(shape) == 2 and shape[0] == gates * shape[1]:
            return cell
    raise ValueError(f"these are no parameters of a recurrent network: {sorted(params)}, weight_hh_l0 {shape}")


@checked
def recurrent(
    params: Branch,
    x,
    state: Any = None,
    mask: Given | None = None,
    *,
    batch_first: bool = False,
    dropout_masks: Sequence[Given] | None = None,
    p: float = 0.0,
    nonlinearity: Literal["tanh", "relu"] = "tanh",
    reset_after: bool = True,
):
    """The layers of ``torch.nn.RNN``, ``GRU`` or ``LSTM``, whatever ``params`` belong to.

    T steps, N sequences, D inputs, H hidden units, L layers, S directions (1 or 2).

    Args:
        params: as :func:`recurrent_init` makes them; cell, layers and directions are read off them.
        x: (T, N, D), or (N, T, D) with ``batch_first``.
        state: (L S, N, H), layer by layer and forward before reverse; for an LSTM the pair (h, c). ``None``: zeros.
        mask: bool, the first two axes of ``x``, False where padded.
        batch_first: whether the batch is the first axis of ``x``, of the mask and of the output. Not of the state.
        dropout_masks: L - 1 masks for the outputs (T, N, S H) of all layers but the last, see
            :func:`~nnbook.regularization.dropout_mask`; ``None``: no dropout.
        p: the probability with which they were drawn.
        nonlinearity: of :func:`rnn`.
        reset_after: of :func:`gru`.

    Returns:
        The output (T, N, S H), or (N, T, S H) with ``batch_first``, and the final state in the form of ``state``.

    Raises:
        ValueError: shapes or a number of dropout masks that do not fit; an option of another cell.

    PyTorch: ``torch.nn.RNN``, ``torch.nn.GRU``, ``torch.nn.LSTM``. These also take one sequence (T, D) without an axis
    for the batch, which is refused here, and draw their dropout masks themselves.
    """
    cell = _cell_of(params)
    if (nonlinearity != "tanh" and cell != "rnn") or (not reset_after and cell != "gru"):
        raise ValueError(f"recurrent: nonlinearity is for rnn, reset_after for gru; these are parameters of {cell}")
    layers = sum(key.startswith("weight_hh_l") and not key.endswith("_reverse") for key in params)
    ends = ("", "_reverse") if "weight_hh_l0_reverse" in params else ("",)
    if dropout_masks is not None and len(dropout_masks) != layers - 1:
        raise ValueError(f"recurrent: {len(dropout_masks)} dropout masks for {layers} layers, expected {layers - 1}")
    if len(x.shape) != 3:
        raise ValueError(f"recurrent: x has shape {x.shape}, expected three axes")
    if batch_first:
        x, mask = x.transpose(1, 0, 2), None if mask is None else np.transpose(mask)
    expected = (layers * len(ends), x.shape[1], params["weight_hh_l0"].shape[1])
    states = _initial("recurrent", cell, state, expected)
    known: dict[str, tuple[Any, dict[str, Any]]] = {
        "rnn": (rnn, {"nonlinearity": nonlinearity}),
        "gru": (gru, {"reset_after": reset_after}),
        "lstm": (lstm, {}),
    }
    layer_of, options = known[cell]
    final: list[list[Any]] = []
    for layer in range(layers):
        outputs = []
        for end in ends:
            start = [None if s is None else s[len(final)] for s in states]
            weights = [params.get(f"{name}_l{layer}{end}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            y = layer_of(x, *start, *weights, mask, reverse=end == "_reverse", **options)
            steps = x.shape[0]
            outputs.append(y[:steps])
            final.append([y[k : k + 1] for k in range(steps, steps + len(states))])
        x = outputs[0] if len(outputs) == 1 else concatenate(*outputs, axis=2)
        if dropout_masks is not None and layer < layers - 1:
            x = dropout(x, dropout_masks[layer], p=p)
    ended = tuple(concatenate(*parts) if len(parts) > 1 else parts[0] for parts in zip(*final, strict=True))
    return x.transpose(1, 0, 2) if batch_first else x, ended if cell == "lstm" else ended[0]


_recurrent = inspect.unwrap(recurrent)  # for callers that have checked their arguments


def _initial(name, cell, state, shape) -> tuple[Any, ...]:
    """The state before the first step, taken apart: one array, or hidden and cell state of an LSTM."""
    if cell == "lstm" and state is not None and (not isinstance(state, (tuple, list)) or len(state) != 2):
        raise ValueError(f"{name}: the state of an LSTM is a pair (h, c), not {_described(state)}")
    if cell != "lstm" or state is None:
        state = (state,) * (1 + (cell == "lstm"))
    parts = tuple(s if s is None or type(s) is Traced else as_float(f"{name}: the state", s) for s in state)
    if any(s is not None and s.shape != shape for s in parts):
        raise ValueError(f"{name}: states of shape {[_described(s) for s in parts]}, expected {shape}")
    return parts


def _described(x):
    return getattr(x, "shape", type(x).__name__)


@checked
def recurrent_classifier_init(
    rng: Rng,
    cell: str,
    input_size: int,
    hidden_size: int,
    outputs: int,
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    forget_bias: float | None = None,
    dtype=np.float32,
) -> Tree:
    """Parameters of :func:`recurrent_classifier`: ``{"rnn": {...}, "linear": {"weight", "bias"}}``.

    Args:
        rng: source of chance.
        outputs: classes, or numbers to predict.
        cell, input_size, hidden_size, num_layers, bidirectional, forget_bias, dtype: of :func:`recurrent_init`.

    Raises:
        ValueError: as :func:`recurrent_init`.
    """
    options: dict[str, Any] = {"num_layers": num_layers, "bidirectional": bidirectional, "forget_bias": forget_bias}
    return {
        "rnn": recurrent_init(rng, cell, input_size, hidden_size, dtype=dtype, **options),
        "linear": linear_init(rng, hidden_size * (1 + bidirectional), outputs, dtype=dtype),
    }


@checked
def recurrent_classifier(params: Branch, x, mask: Given | None = None):
    """Read a whole sequence, then answer once, from the last layer's final hidden states.

    Args:
        params: from :func:`recurrent_classifier_init`.
        x: (T, N, D).
        mask: (T, N) bool, False where padded.

    Returns:
        (N, outputs): logits, or predicted numbers.

    Raises:
        ValueError: shapes that do not fit.
    """
    _, state = _recurrent(params["rnn"], x, None, mask)
    h = state[0] if _cell_of(params["rnn"]) == "lstm" else state
    ends = 1 + ("weight_hh_l0_reverse" in params["rnn"])
    last = h[h.shape[0] - 1] if ends == 1 else concatenate(h[h.shape[0] - 2], h[h.shape[0] - 1], axis=1)
    return linear(last, params["linear"]["weight"], params["linear"]["bias"])


@checked
def length_mask(lengths: Given, steps: int | None = None) -> Array:
    """(T, N) bool: True for the first ``lengths[n]`` steps of sequence n; T is ``steps``, or the largest length.

    Raises:
        ValueError: lengths that are not integers, negative or larger than ``steps``.
    """
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or lengths.size == 0:
        raise ValueError(f"length_mask: lengths must be (N,) integers, not {lengths.dtype} of shape {lengths.shape}")
    steps = int(lengths.max()) if steps is None else steps
    if lengths.min() < 0 or lengths.max() > steps:
        raise ValueError(f"length_mask: lengths from {lengths.min()} to {lengths.max()}, allowed is 0 to {steps}")
    return np.arange(steps)[:, None] < lengths


# ---------------------------------------------------------------------------------------------------------------------
# Truncated backpropagation through time
# ---------------------------------------------------------------------------------------------------------------------


@checked
def value_and_grad_with_state(loss: Callable) -> Callable:
    """As :func:`~nnbook.backprop.value_and_grad` for a ``loss`` that returns ``(scalar, state)``.

    Returns:
        ``g(params, *args, **kwargs) -> (value, grads, state)``; the state is off the tape, ready for the next call.

    Raises:
        ValueError: from ``g``, as :func:`~nnbook.backprop.value_and_grad`, and for a loss that returns something else.
    """

    def valued(params, *args, **kwargs):
        states = []

        def scalar(params):
            result = loss(params, *args, **kwargs)
            if not isinstance(result, (tuple, list)) or len(result) != 2:
                raise ValueError(f"the loss must return a pair (value, state), not {_described(result)}")
            states.append(stop_gradient(result[1]))
            return result[0]

        value, grads = value_and_grad(scalar)(params)
        return value, grads, states[0]

    return valued


@checked
def chunks(length: int, *arrays: Given) -> Iterator[tuple[Any, ...]]:
    """Cut the axis of time, the first one, of all arrays into pieces of ``length`` steps; the last may be shorter.

    Raises:
        ValueError: ``length`` below 1, or arrays that differ in their number of steps.
    """
    steps = {len(array) if array.ndim else 0 for array in arrays}
    if length < 1 or len(steps) != 1 or not all(array.ndim for array in arrays):
        raise ValueError(f"chunks: need a length >= 1 and arrays of the same number of steps, not {length} and {steps}")
    return (tuple(array[t : t + length] for array in arrays) for t in range(0, steps.pop(), length))


@checked
def truncated_bptt(
    loss: Callable, params: Parameters, inputs: Given, targets: Given, state: Any, *, length: int
) -> tuple[Any, Tree, Any]:
    """Loss and gradient of a long sequence, chunk by chunk (:eq:`eq-truncated_bptt`).

    The state runs on from chunk to chunk, the gradient stops at every border: within a chunk it is exact, and what an
    earlier chunk could have done for a later one does not count. The tape never holds more than one chunk.

    Args:
        loss: ``loss(params, inputs, targets, state) -> (value, state)``; the value is a mean over the chunk's steps.
        params: a nested dict of arrays.
        inputs, targets: (T, ...).
        state: the first chunk's.
        length: steps in a chunk; T for the whole gradient.

    Returns:
        The mean loss over all T steps, its truncated gradient, and the last state. To update after every chunk
        instead, loop over :func:`chunks` yourself.

    Raises:
        ValueError: as :func:`chunks`; there is no step.

    PyTorch: a loop with ``detach`` on the state. Source: :cite:`williams1990`.
    """
    g = value_and_grad_with_state(loss)
    total: Any = 0.0
    gradient: Any = None
    for x, y in chunks(length, inputs, targets):
        value, grads, state = g(params, x, y, state)
        share = len(x) / len(inputs)
        total += share * value
        grads = tree_map(lambda a, share=share: share * a.astype(np.result_type(a, SINGLE)), grads)
        gradient = grads if gradient is None else tree_map(lambda a, b: a + b, gradient, grads)
    if gradient is None:
        raise ValueError(f"truncated_bptt: there is no step in inputs of shape {inputs.shape}")
    return total, tree_map(lambda leaf, a: a.astype(np.result_type(leaf), copy=False), params, gradient), state


@checked
def gradients_through_time(params: Branch, x, dh, state: Any = None) -> tuple[Array, Array | None]:
    """How far a gradient reaches: the cotangents of the states before, between and after the steps of layer 0.

    The loss is ``<dh, h_T>``, of the last state alone. Composed of single steps, so slower than the layers.

    Args:
        params: of one layer in one direction, from :func:`recurrent_init`.
        x: (T, N, D).
        dh: (N, H), the cotangent of the last hidden state.
        state: (N, H), for an LSTM a pair of them; ``None`` for zeros.

    Returns:
        (T + 1, N, H), entry t the cotangent of the hidden state after t steps; for an LSTM also that of the cell
        state, otherwise ``None``. Their norms are what vanishes or explodes (:cite:`bengio1994`).

    Raises:
        ValueError: shapes that do not fit.
    """
    cell = _cell_of(params)
    weights = [params.get(f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    if np.ndim(x) != 3 or np.shape(dh) != (x.shape[1], params["weight_hh_l0"].shape[1]):
        raise ValueError(f"gradients_through_time: dh of shape {np.shape(dh)} does not fit x of shape {np.shape(x)}")
    zeros = np.zeros_like(dh)
    initial = _initial("gradients_through_time", cell, state, dh.shape)
    start = tuple(zeros if s is None else s.astype(dh.dtype) for s in initial)

    def step(x, *state):
        if cell == "lstm":
            return concatenate(*lstm_cell(x, *state, *weights), axis=1)
        return rnn_cell(x, *state, *weights) if cell == "rnn" else gru_cell(x, *state, *weights)

    pulls = []
    for row in x:
        y, pull = vjp(lambda *state, row=row: step(row, *state), *start)
        pulls.append(pull)
        start = tuple(np.split(y, len(start), axis=1))
    d = (dh, zeros) if cell == "lstm" else (dh,)
    found = [d]
    for pull in reversed(pulls):
        d = pull(np.concatenate(d, axis=1))
        found.append(d)
    streams_back = [np.stack(parts) for parts in zip(*reversed(found), strict=True)]
    return streams_back[0], streams_back[1] if cell == "lstm" else None


# ---------------------------------------------------------------------------------------------------------------------
# Losses of sequences and figures of merit
# ---------------------------------------------------------------------------------------------------------------------


@checked
def sequence_cross_entropy(
    logits, targets: Given, mask: Given | None = None, *, reduction: Literal["mean", "sum"] = "mean"
):
    """Cross-entropy of every real token (:eq:`eq-sequence_cross_entropy`), in nats; padding does not count.

    Args:
        logits: (T, N, K), or any shape that ends in the number of tokens K.
        targets: (T, N) integers from 0 to K - 1; where the mask is False any integer will do.
        mask: (T, N) bool, False where padded; ``None``: all count.
        reduction: ``"mean"`` over the real tokens, or their ``"sum"``.

    Returns:
        A number.

    Raises:
        ValueError: shapes that do not fit, a mask that is not boolean or that leaves nothing.

    PyTorch: ``cross_entropy`` with ``ignore_index`` at the padded places.
    """
    shape = logits.shape
    if not shape:
        raise ValueError("sequence_cross_entropy: the logits are a number, expected (..., K)")
    if targets.shape != shape[:-1]:
        raise ValueError(f"sequence_cross_entropy: targets of shape {targets.shape} beside logits of shape {shape}")
    logits, targets = logits.reshape((-1, shape[-1])), targets.reshape(-1)
    if mask is not None:
        if mask.shape != shape[:-1] or mask.dtype != bool:
            raise ValueError(
                f"sequence_cross_entropy: the mask must be bool of shape {shape[:-1]}, not {mask.dtype} of {mask.shape}"
            )
        logits, targets = logits[mask.reshape(-1)], targets[mask.reshape(-1)]
    if not len(targets):
        raise ValueError("sequence_cross_entropy: the mask leaves no token")
    return cross_entropy(logits, targets, reduction=reduction)


@checked
def perplexity(nll):
    """``exp(nll)`` of a mean negative log-likelihood in nats (:eq:`eq-perplexity`): K for the uniform guess among K."""
    return np.exp(nll)


@checked
def bits_per_character(nll):
    """A mean negative log-likelihood in nats, in bits (:eq:`eq-bits_per_character`)."""
    return nll / math.log(2)


# ---------------------------------------------------------------------------------------------------------------------
# Characters
# ---------------------------------------------------------------------------------------------------------------------


@checked
def vocabulary(text: str | Sequence[str]) -> list[str]:
    """The different characters of a string, or the different words of a list, sorted."""
    return sorted(set(text))


@checked
def encode(text: str | Sequence[str], tokens: str | Sequence[str]) -> Array:
    """(n,) int64: the position of every character (or word) in the vocabulary ``tokens``.

    Raises:
        ValueError: a character that is not in the vocabulary.
    """
    number = {token: i for i, token in enumerate(tokens)}
    missing = sorted(set(text) - number.keys())
    if missing:
        raise ValueError(f"encode: not in the vocabulary: {missing[:10]}")
    return np.array([number[token] for token in text], np.int64)


@checked
def decode(indices: Given, tokens: str | Sequence[str]) -> str:
    """The inverse of :func:`encode`: characters side by side; longer tokens with a space between them.

    Raises:
        ValueError: ``indices`` are not (n,) integers, or point beyond the vocabulary.
    """
    indices = _tokens("decode", indices, len(tokens))
    if indices.ndim != 1:
        raise ValueError(f"decode: indices have shape {indices.shape}, expected (n,)")
    return ("" if all(len(token) == 1 for token in tokens) else " ").join(tokens[i] for i in indices.tolist())


@checked
def streams(tokens: Given, batch_size: int) -> Array:
    """(T, N): a long sequence cut into N contiguous columns, read side by side; what is left over is dropped.

    Raises:
        ValueError: fewer tokens than columns, ``batch_size`` below 1.
    """
    if tokens.ndim != 1:
        raise ValueError(f"streams: tokens have shape {tokens.shape}, expected (n,)")
    if batch_size < 1 or len(tokens) < batch_size:
        raise ValueError(f"streams: {len(tokens)} tokens do not fill {batch_size} columns")
    steps = len(tokens) // batch_size
    return np.ascontiguousarray(tokens[: steps * batch_size].reshape(batch_size, steps).T)


@checked
def char_rnn_init(
    rng: Rng,
    vocab_size: int,
    hidden_size: int,
    *,
    cell: str = "lstm",
    embedding_size: int | None = None,
    num_layers: int = 1,
    forget_bias: float | None = None,
    dtype=np.float32,
) -> Tree:
    """Parameters of :func:`char_rnn`: ``{"embedding": {"weight"}, "rnn": {...}, "linear": {"weight", "bias"}}``.

    The vectors of the tokens are drawn from a standard normal distribution, as in ``torch.nn.Embedding``.

    Args:
        rng: source of chance.
        vocab_size: K.
        hidden_size: H.
        cell, num_layers, forget_bias: of :func:`recurrent_init`.
        embedding_size: entries of a token's vector; H if not given.
        dtype: float32 or float64.

    Raises:
        ValueError: as :func:`recurrent_init`.
    """
    size = hidden_size if embedding_size is None else embedding_size
    return {
        **_embedded_rnn(rng, vocab_size, size, hidden_size, cell, num_layers, forget_bias, dtype),
        "linear": linear_init(rng, hidden_size, vocab_size, dtype=dtype),
    }


def _embedded_rnn(rng, count, size, hidden_size, cell, num_layers, forget_bias, dtype):
    rnn_params = recurrent_init(
        rng, cell, size, hidden_size, num_layers=num_layers, forget_bias=forget_bias, dtype=dtype
    )
    return {"embedding": {"weight": rng.normal(size=(count, size)).astype(dtype)}, "rnn": rnn_params}


@checked
def char_rnn(
    params: Branch,
    tokens: Given,
    state: Any = None,
    mask: Given | None = None,
    *,
    dropout_masks: Sequence[Given] | None = None,
    p: float = 0.0,
):
    """A language model: from the tokens so far to logits of the next one, at every step.

    Args:
        params: from :func:`char_rnn_init`.
        tokens: (T, N) integers.
        state: of :func:`recurrent`; ``None`` for zeros.
        mask: (T, N) bool.
        dropout_masks, p: of :func:`recurrent`.

    Returns:
        Logits (T, N, K) and the state after the last step.

    Raises:
        ValueError: tokens out of range, shapes that do not fit.
    """
    x = embedding(tokens, params["embedding"]["weight"])
    y, state = _recurrent(params["rnn"], x, state, mask, dropout_masks=dropout_masks, p=p)
    return linear(y, params["linear"]["weight"], params["linear"]["bias"]), state


_char_rnn = inspect.unwrap(char_rnn)


@checked
def sample(rng: Rng, logits, *, temperature: float = 1.0) -> Array:
    """Draw a token with the probabilities ``softmax(logits / temperature)`` (:eq:`eq-sample`).

    Args:
        rng: source of chance.
        logits: (..., K); one of -inf is never drawn.
        temperature: 1 for the model's own probabilities, less for the likelier tokens, 0 for the likeliest alone.

    Returns:
        (...) int64.

    Raises:
        ValueError: a temperature that is negative or infinite, no token to choose from, logits of nan or +inf, or
            -inf for all tokens.
    """
    logits = np.asarray(logits, np.float64)
    if not 0 <= temperature < math.inf:
        raise ValueError(f"sample: temperature must be >= 0 and finite, not {temperature}")
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"sample: there is no token in logits of shape {logits.shape}")
    largest = logits.max(axis=-1, keepdims=True)
    if not np.isfinite(largest).all():
        raise ValueError("sample: the largest of the logits must be a finite number, and it is nan, inf or -inf")
    if temperature == 0:
        return np.argmax(logits, axis=-1).astype(np.int64)
    with np.errstate(over="ignore"):  # to -inf, the limit of a low temperature
        below = (logits - largest) / temperature
    cumulative = np.cumsum(np.exp(below), axis=-1)
    u = rng.random((*logits.shape[:-1], 1)) * cumulative[..., -1:]
    return np.minimum((cumulative <= u).sum(axis=-1), logits.shape[-1] - 1).astype(np.int64)


@checked
def generate(
    rng: Rng,
    params: Branch,
    prompt: Given,
    length: int,
    *,
    temperature: float = 1.0,
    model: Callable = char_rnn,
    state: Any = None,
) -> Array:
    """Read the prompt, then draw token after token and feed each back in.

    Args:
        rng: source of chance.
        params: of the model.
        prompt: (P,) or (P, N) integers, at least one step.
        length: tokens to draw.
        temperature: of :func:`sample`.
        model: ``model(params, tokens, state) -> (logits, state)``, tokens (T, N).
        state: before the prompt.

    Returns:
        (length,) or (length, N) int64, without the prompt.

    Raises:
        ValueError: an empty prompt, a negative length; as :func:`sample`.
    """
    if prompt.ndim not in (1, 2) or len(prompt) == 0 or length < 0:
        raise ValueError(f"generate: need a prompt (P,) or (P, N) and a length >= 0, not {prompt.shape} and {length}")
    tokens = prompt if prompt.ndim == 2 else prompt[:, None]
    drawn = np.empty((length, tokens.shape[1]), np.int64)
    step = _char_rnn if model is char_rnn else model  # the parameters are checked once, not for every token
    for k in range(length):
        result = step(params, tokens, state)
        if not isinstance(result, tuple) or len(result) != 2:
            raise ValueError(f"generate: the model must return a pair (logits, state), not {_described(result)}")
        logits, state = result
        drawn[k] = sample(rng, logits[-1], temperature=temperature)
        tokens = drawn[k : k + 1]
    return drawn if prompt.ndim == 2 else drawn[:, 0]


# ---------------------------------------------------------------------------------------------------------------------
# Sequence to sequence, without attention
# ---------------------------------------------------------------------------------------------------------------------


@checked
def seq2seq_init(
    rng: Rng,
    source_size: int,
    target_size: int,
    hidden_size: int,
    *,
    cell: str = "gru",
    embedding_size: int | None = None,
    num_layers: int = 1,
    forget_bias: float | None = None,
    dtype=np.float32,
) -> Tree:
    """Parameters of :func:`seq2seq`: ``{"encoder": {"embedding", "rnn"}, "decoder": {"embedding", "rnn", "linear"}}``.

    Args:
        rng: source of chance.
        source_size, target_size: tokens of the two vocabularies.
        hidden_size: H.
        cell, num_layers, forget_bias: of :func:`recurrent_init`.
        embedding_size: entries of a token's vector; H if not given.
        dtype: float32 or float64.

    Raises:
        ValueError: as :func:`recurrent_init`.
    """
    size = hidden_size if embedding_size is None else embedding_size
    rest = (size, hidden_size, cell, num_layers, forget_bias, dtype)
    return {
        "encoder": _embedded_rnn(rng, source_size, *rest),
        "decoder": {
            **_embedded_rnn(rng, target_size, *rest),
            "linear": linear_init(rng, hidden_size, target_size, dtype=dtype),
        },
    }


@checked
def seq2seq(params: Branch, source: Given, target: Given, source_mask: Given | None = None):
    """Encoder and decoder joined by one state: all that the decoder knows of the source is the encoder's last state.

    :func:`nnbook.attention.seq2seq_attention` is the same with a look at all states.

    Args:
        params: from :func:`seq2seq_init`.
        source: (S, N) integers.
        target: (T, N) integers, what the decoder reads. In training that is the right answer, one step late (teacher
            forcing): the start token, then all but the last of the answer.
        source_mask: (S, N) bool, False where padded.

    Returns:
        Logits (T, N, K); compare step t with token t of the answer.

    Raises:
        ValueError: tokens out of range, shapes that do not fit.

    Source: :cite:`sutskever2014`, :cite:`cho2014`.
    """
    return char_rnn(params["decoder"], target, _encoded(params, source, source_mask))[0]


def _encoded(params, source, source_mask):
    x = embedding(source, params["encoder"]["embedding"]["weight"])
    return _recurrent(params["encoder"]["rnn"], x, None, source_mask)[1]


@checked
def greedy_decode(params: Branch, source: Given, length: int, *, start: int, source_mask: Given | None = None) -> Array:
    """The likeliest token at every step, fed back in; the decoder no longer sees the right answer.

    Args:
        params, source, source_mask: of :func:`seq2seq`.
        length: tokens to produce.
        start: the start token.

    Returns:
        (length, N) int64.

    Raises:
        ValueError: tokens out of range, shapes that do not fit, a negative length.
    """
    state = _encoded(params, source, source_mask)
    prompt = np.full((1, np.shape(source)[1]), start)
    rng = np.random.default_rng(0)  # at temperature 0 nothing is drawn
    return generate(rng, params["decoder"], prompt, length, temperature=0, state=state)


# ---------------------------------------------------------------------------------------------------------------------
# Baselines
# ---------------------------------------------------------------------------------------------------------------------


@checked
def ngram_fit(tokens: Given, *, order: int, vocab_size: int) -> dict[str, Any]:
    """Count all n-grams up to ``order`` tokens: the model that has no parameters to train.

    Args:
        tokens: (n,) integers from 0 to K - 1.
        order: length of the longest n-gram; 1 counts single tokens only.
        vocab_size: K.

    Returns:
        Sorted codes and counts, for :func:`ngram_probabilities` and :func:`ngram_nll`.

    Raises:
        ValueError: ``order`` below 1 or so large that an n-gram does not fit into 63 bits; tokens out of range.
    """
    tokens = _text_of("ngram_fit", tokens, vocab_size)
    if order < 1 or order * math.log2(max(vocab_size, 2)) > 62:
        raise ValueError(f"ngram_fit: order {order} with {vocab_size} tokens is below 1 or does not fit into 63 bits")
    grams, contexts = [], []
    for n in range(1, order + 1):
        codes, counts = np.unique(_codes(tokens, n, vocab_size), return_counts=True)
        before, starts = np.unique(codes // vocab_size, return_index=True)
        grams.append((codes, counts))
        contexts.append((before, np.add.reduceat(counts, starts) if len(codes) else counts))
    return {"order": order, "vocab_size": vocab_size, "grams": grams, "contexts": contexts}


def _codes(tokens, n, vocab_size):
    """One number for each n-gram, in the order of the text: its tokens as digits."""
    codes = np.zeros(max(len(tokens) - n + 1, 0), np.int64)
    for k in range(n):
        codes = codes * vocab_size + tokens[k : k + len(codes)]
    return codes


def _count(table, codes):
    """The counts of these codes, 0 for those that never occurred."""
    known, counts = table
    if not len(known):
        return np.zeros(codes.shape, np.int64)
    place = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    return np.where(known[place] == codes, counts[place], 0)


@checked
def ngram_probabilities(model: dict[str, Any], context: Given, *, concentration: float = 1.0) -> Array:
    """Probabilities of the next token by interpolated counts (:eq:`eq-ngram_probabilities`).

    ``p_n(c | u) = (count(u c) + m p_{n-1}(c | u')) / (count(u) + m)``, where ``u'`` is the context u without its oldest
    token, m the concentration and ``p_0 = 1 / K``.

    Args:
        model: from :func:`ngram_fit`.
        context: (m,) integers; only the last ``order - 1`` matter, fewer will do.
        concentration: m > 0; choose it on validation data (:func:`ngram_search`).

    Returns:
        (K,) float64 that add up to 1.

    Raises:
        ValueError: tokens out of range, a concentration that is not positive and finite.

    Source: :cite:`mackay1995`.
    """
    K = _vocab_size("ngram_probabilities", model)
    context = _text_of("ngram_probabilities", context, K)
    _concentration(concentration)
    p = np.full(K, 1 / K)
    for n in range(1, min(model["order"], len(context) + 1) + 1):
        code = _codes(context[len(context) - n + 1 :], n - 1, K)[:1]
        counts = _count(model["grams"][n - 1], code * K + np.arange(K))
        p = (counts + concentration * p) / (_count(model["contexts"][n - 1], code) + concentration)
    return p


def _concentration(concentration):
    if not 0 < concentration < math.inf:
        raise ValueError(f"the concentration must be positive, not {concentration}, and finite")


def _vocab_size(name, model):
    if missing := {"order", "vocab_size", "grams", "contexts"} - model.keys():
        raise ValueError(f"{name}: the model is not from ngram_fit, it has no {', '.join(sorted(missing))}")
    return model["vocab_size"]


def _text_of(name, tokens, count):
    tokens = _tokens(name, tokens, count)
    if tokens.ndim != 1:
        raise ValueError(f"{name}: tokens have shape {tokens.shape}, expected (n,)")
    return tokens.astype(np.int64)


@checked
def ngram_nll(model: dict[str, Any], tokens: Given, *, concentration: float = 1.0) -> float:
    """Mean negative log-likelihood of a text under :func:`ngram_probabilities`, in nats a token (:eq:`eq-ngram_nll`).

    Args:
        model: from :func:`ngram_fit`.
        tokens: (n,) integers, at least one; the first ones have shorter contexts.
        concentration: of :func:`ngram_probabilities`.

    Raises:
        ValueError: no token, tokens out of range, a concentration that is not positive and finite.
    """
    return _ngram_nlls(model, tokens, concentration)[-1]


def _ngram_nlls(model, tokens, concentration):
    """The same for every order from 1 on."""
    K = _vocab_size("ngram_nll", model)
    tokens = _text_of("ngram_nll", tokens, K)
    _concentration(concentration)
    if not len(tokens):
        raise ValueError("ngram_nll: there is no token")
    p = np.full(len(tokens), 1 / K)
    found = []
    for n in range(1, model["order"] + 1):
        codes = _codes(tokens, n, K)
        counts, totals = _count(model["grams"][n - 1], codes), _count(model["contexts"][n - 1], codes // K)
        p[n - 1 :] = (counts + concentration * p[n - 1 :]) / (totals + concentration)
        found.append(float(-np.log(p).mean()))
    return found


@checked
def ngram_search(
    tokens: Given,
    validation: Given,
    *,
    vocab_size: int,
    orders: Sequence[int] | None = None,
    concentrations: Sequence[float] = (0.5, 1, 2, 4, 8, 16, 32, 64, 128),
) -> dict[str, Any]:
    """Order and concentration with the least negative log-likelihood of the validation text.

    Args:
        tokens, vocab_size: of :func:`ngram_fit`.
        validation: (n,) integers, a text that was not counted.
        orders: the orders to try; ``None``: from 1 to 9, fewer if these do not fit into 63 bits.
        concentrations: those to try.

    Returns:
        ``{"order", "concentration", "nll", "table"}``; ``table[i, j]`` is that of ``orders[i]``, ``concentrations[j]``.

    Raises:
        ValueError: as :func:`ngram_fit` and :func:`ngram_nll`.
    """
    if orders is None:
        orders = range(1, min(9, int(62 / math.log2(max(vocab_size, 2)))) + 1)
    if not orders or not concentrations:
        raise ValueError(f"ngram_search: nothing to try in orders {orders} and concentrations {concentrations}")
    if min(orders) < 1:
        raise ValueError(f"ngram_search: orders must be at least 1, not {min(orders)}")
    model = ngram_fit(tokens, order=max(orders), vocab_size=vocab_size)
    columns = [_ngram_nlls(model, validation, m) for m in concentrations]
    table = np.array([[column[order - 1] for column in columns] for order in orders])
    i, j = divmod(int(np.argmin(table)), len(concentrations))
    return {
        "order": orders[i],
        "concentration": concentrations[j],
        "nll": float(table[i, j]),
        "table": table,
    }


@checked
def windows(series: Given, order: int) -> tuple[Array, Array]:
    """Every value of a series beside the ``order`` values before it.

    Returns:
        (n - p, p), the oldest value first, and (n - p,), for a series of n values and ``order`` p.

    Raises:
        ValueError: ``order`` below 1, or a series that is not longer than that.
    """
    if series.ndim != 1 or not 1 <= order < len(series):
        raise ValueError(f"windows: a series of shape {series.shape} has no {order} values before a value")
    return np.lib.stride_tricks.sliding_window_view(series, order)[:-1].copy(), series[order:].copy()


@checked
def ar_fit(series, *, order: int) -> dict[str, Any]:
    """The linear baseline: least squares for ``s_t = b + sum_k w_k s_{t-p+k}`` (:eq:`eq-ar_fit`), k = 0 to p - 1.

    Args:
        series: (n,).
        order: p, the number of values before that are used.

    Returns:
        ``{"weight": (p,), "bias": number}`` in float64, the oldest value's weight first; the shortest solution if
        there are several.

    Raises:
        ValueError: as :func:`windows`; a value is not finite.
    """
    X, y = windows(_finite("ar_fit: the series", series), order)
    solution = np.linalg.lstsq(np.column_stack([X, np.ones(len(X))]), y, rcond=None)[0]
    return {"weight": solution[:-1], "bias": solution[-1]}


@checked
def ar_predict(params: Branch, series) -> Array:
    """One step ahead: (n - p,) predictions of ``series[p:]``, each from the p true values before it.

    Raises:
        ValueError: as :func:`windows`; a value is not finite; parameters of other shapes than :func:`ar_fit` gives.
    """
    weight, bias = _ar_params("ar_predict", params)
    X, _ = windows(_finite("ar_predict: the series", series), len(weight))
    return X @ weight + bias


@checked
def ar_forecast(params: Branch, history, steps: int) -> Array:
    """(steps,): predictions fed back in, from the last p values of ``history`` on.

    Raises:
        ValueError: a history shorter than p, a value that is not finite, a negative number of steps; parameters of
            other shapes than :func:`ar_fit` gives.
    """
    weight, bias = _ar_params("ar_forecast", params)
    p = len(weight)
    if np.ndim(history) != 1 or len(history) < p:
        raise ValueError(f"ar_forecast: history of shape {np.shape(history)} is shorter than the order {p}")
    if steps < 0:
        raise ValueError(f"ar_forecast: steps must be at least 0, not {steps}")
    values = [float(v) for v in _finite("ar_forecast: the history", history)[-p:]]
    for _ in range(steps):
        values.append(float(np.dot(weight, values[-p:]) + bias))
    return np.array(values[p:])


def _ar_params(name, params):
    weight, bias = params["weight"], params["bias"]
    if np.ndim(weight) != 1 or not np.size(weight) or np.ndim(bias) != 0:
        raise ValueError(f"{name}: weight {np.shape(weight)} and bias {np.shape(bias)}, expected (p,) and a number")
    return weight, bias


def _finite(where, x):
    """``x`` in double precision."""
    x = np.asarray(x, np.result_type(x, np.float64))
    if not np.isfinite(x).all():
        raise ValueError(f"{where} must be finite, and holds nan or inf {np.size(x) - np.isfinite(x).sum()} times")
    return x


# ---------------------------------------------------------------------------------------------------------------------
# Vectors of words: skip-gram with negative sampling
# ---------------------------------------------------------------------------------------------------------------------


@checked
def skip_gram_pairs(tokens: Given, *, window: int) -> tuple[Array, Array]:
    """All pairs of a token and one of its neighbours, at most ``window`` places away.

    Returns:
        Centers and contexts, int64 of the same length.

    Raises:
        ValueError: ``window`` below 1; tokens that are not (n,) integers.
    """
    if window < 1:
        raise ValueError(f"skip_gram_pairs: window must be at least 1, not {window}")
    tokens = _integers("skip_gram_pairs", "tokens have", tokens).astype(np.int64)
    if tokens.ndim != 1:
        raise ValueError(f"skip_gram_pairs: tokens have shape {tokens.shape}, expected (n,)")
    distances = range(1, max(min(window, len(tokens) - 1), 1) + 1)
    left = [tokens[:-d] for d in distances]
    right = [tokens[d:] for d in distances]
    return np.concatenate(left + right), np.concatenate(right + left)


@checked
def negative_samples(rng: Rng, counts, shape: int | tuple[int, ...], *, power: float = 0.75) -> Array:
    """Tokens drawn with probabilities in proportion to ``counts ** power``.

    Args:
        rng: source of chance.
        counts: (K,), how often each token occurs.
        shape: of the answer.
        power: 1 for the tokens' frequencies, 0 for equal chances.

    Raises:
        ValueError: counts that are negative, not finite or all zero, or whose power is.
    """
    counts = _finite("negative_samples: the counts", counts)
    if counts.ndim != 1 or not counts.size or counts.min() < 0 or counts.max() == 0:
        raise ValueError("negative_samples: counts must be (K,), not negative and not all zero")
    weights = np.zeros_like(counts)
    with np.errstate(over="ignore"):
        weights[counts > 0] = counts[counts > 0] ** power
        total = weights.sum()
    if not 0 < total < math.inf:
        raise ValueError(f"negative_samples: counts to the power {power} add up to {total}")
    return rng.choice(len(counts), size=shape, p=weights / total)


@checked
def skip_gram_init(rng: Rng, vocab_size: int, size: int, *, dtype=np.float32) -> Tree:
    """``{"input": {"weight"}, "output": {"weight"}}``, both (K, D): uniform up to ``1 / (2 D)``, and zeros.

    Raises:
        ValueError: a size below 1.
    """
    if min(vocab_size, size) < 1:
        raise ValueError(f"skip_gram_init: sizes must be at least 1, not {vocab_size} and {size}")
    return {
        "input": {"weight": rng.uniform(-0.5 / size, 0.5 / size, (vocab_size, size)).astype(dtype)},
        "output": {"weight": np.zeros((vocab_size, size), dtype)},
    }


@checked
def skip_gram_loss(params: Branch, centers: Given, contexts: Given, negatives: Given):
    """Tell the true neighbour from drawn ones (:eq:`eq-skip_gram_loss`), in nats a pair.

    ``-log sigmoid(u_o . v_c) - sum_k log sigmoid(-u_k . v_c)``, mean over the pairs, where v are the vectors of
    ``params["input"]`` and u those of ``params["output"]``.

    Args:
        params: from :func:`skip_gram_init`.
        centers, contexts: (n,) integers, c and o.
        negatives: (n, k) integers from :func:`negative_samples`.

    Raises:
        ValueError: shapes that do not fit, tokens out of range.

    Source: :cite:`mikolov2013`.
    """
    if (
        np.ndim(centers) != 1
        or np.ndim(negatives) != 2
        or np.shape(contexts) != np.shape(centers)
        or np.shape(negatives)[:-1] != np.shape(centers)
    ):
        raise ValueError(
            f"skip_gram_loss: shapes {np.shape(centers)}, {np.shape(contexts)} and {np.shape(negatives)} do not fit"
        )
    v = embedding(centers, params["input"]["weight"])
    positive = (embedding(contexts, params["output"]["weight"]) * v).sum(axis=1)
    negative = (embedding(negatives, params["output"]["weight"]) * v[:, None]).sum(axis=2)
    return softplus(-positive).mean() + softplus(negative).sum(axis=1).mean()


@checked
def most_similar(vectors, index: int, *, count: int = 5) -> tuple[Array, Array]:
    """The rows of ``vectors`` (K, D) nearest to row ``index`` by the cosine of the angle, itself left out.

    Returns:
        ``count`` row numbers, the nearest first, and their cosines.

    Raises:
        ValueError: no such row, or fewer other rows than ``count``; an entry that is not finite.
    """
    vectors = _finite("most_similar: the vectors", vectors)
    if vectors.ndim != 2 or not vectors.shape[1]:
        raise ValueError(f"most_similar: vectors of shape {vectors.shape}, expected (K, D)")
    if not 0 <= index < len(vectors) or not 1 <= count < len(vectors):
        raise ValueError(f"most_similar: row {index} and {count} neighbours among {len(vectors)} rows")
    _, exponents = np.frexp(np.abs(vectors).max(axis=1, keepdims=True))
    vectors = np.ldexp(vectors, -exponents)  # the same angles, and squares that neither overflow nor vanish
    norms = np.linalg.norm(vectors, axis=1)
    cosines = vectors @ vectors[index] / np.maximum(norms * norms[index], np.finfo(float).tiny)
    cosines[index] = -np.inf
    nearest = np.argsort(-cosines, kind="stable")[:count]
    return nearest, cosines[nearest]


# ---------------------------------------------------------------------------------------------------------------------
# Recurrent matrices
# ---------------------------------------------------------------------------------------------------------------------


@checked
def spectral_radius(matrix) -> float:
    """The largest absolute value of an eigenvalue (:eq:`eq-spectral_radius`).

    Raises:
        ValueError: the matrix is not square, has no entry, or one that is not finite.
    """
    if np.ndim(matrix) != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(f"spectral_radius: a matrix of shape {np.shape(matrix)} is not square, or empty")
    return float(np.abs(np.linalg.eigvals(_finite("spectral_radius: the matrix", matrix))).max())


@checked
def with_spectral_radius(matrix, radius: float) -> Array:
    """The matrix times the factor that gives it this spectral radius.

    Raises:
        ValueError: as :func:`spectral_radius`; a radius that is negative or infinite, a matrix whose eigenvalues are
            all 0, or a factor between the two that no number can hold.
    """
    now = spectral_radius(matrix)
    if not 0 <= radius < math.inf or now == 0 or radius / now == math.inf:
        raise ValueError(f"with_spectral_radius: cannot go from the radius {now} to {radius}")
    return (matrix * (radius / now)).astype(matrix.dtype)
