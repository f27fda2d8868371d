"""Attention: retrieval by a weighted average, and the networks built of it (chapter 8).

Scores, masks, attention in one piece and block by block, many heads, positions, the blocks of the transformer, a GPT
with its cache and its sampling, and byte-pair encoding. Batches are rows: (B, T, E) is B sequences of T tokens with E
features, and with its heads apart (B, H, T, d)::

    from nnbook.attention import generate, gpt, gpt_init, gpt_loss

    params = gpt_init(rng, vocab_size=65, context=128, n_layer=4, n_head=4, n_embd=128)
    value, grads = value_and_grad(gpt_loss)(params, tokens[:, :-1], tokens[:, 1:], n_head=4)
    more = generate(params, tokens[0], n_head=4, length=100, rng=rng, temperature=0.8)

Two conventions meet here, and both are PyTorch's. Where a boolean mask stands beside queries and keys, *true means:
takes part*. Where it is an argument of :func:`multi_head_attention` or of a transformer layer, *true means: left out*.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from nnbook._arrays import Array, Branch, Given, Size, Tree, checked
from nnbook.backprop import (
    by_number,
    concatenate,
    flatten,
    matmul,
    primitive,
    sqrt,
    stop_gradient,
    transpose,
    unbroadcast,
    where,
)
from nnbook.losses import cross_entropy
from nnbook.neurons import gelu, linear, linear_init, relu, softmax, tanh
from nnbook.regularization import layer_norm, layer_norm_init, xavier_uniform
from nnbook.rnn import embedding, recurrent, recurrent_init, sample, seq2seq_init

# ---------------------------------------------------------------------------------------------------------------------
# Scores: how well a key answers a query
# ---------------------------------------------------------------------------------------------------------------------


@checked
def dot_score(q, k):
    """The inner product of every query with every key (:eq:`eq-dot_score`).

    Args:
        q: (..., Tq, d), queries as rows.
        k: (..., Tk, d), keys as rows. Leading axes broadcast.

    Returns:
        (..., Tq, Tk).

    Raises:
        ValueError: queries and keys have different widths (names both shapes).

    PyTorch: ``q @ k.mT``. Source: :cite:`luong2015`.
    """
    _same_width("dot_score", q, k)
    return matmul(q, _swap(k))


@checked
def scaled_dot_score(q, k, *, scale: float | None = None):
    """:func:`dot_score` times ``scale``, by default ``1 / sqrt(d)`` (:eq:`eq-scaled_dot_score`).

    The inner product of two vectors of d independent entries of variance 1 has variance d; so scaled it has variance 1
    whatever d is, and softmax stays where it has a slope.

    Arguments, shapes and errors are those of :func:`dot_score`. Source: :cite:`vaswani2017`.
    """
    _same_width("scaled_dot_score", q, k)
    return matmul(q * _scale(scale, q), _swap(k))


_scaled_dot_score = inspect.unwrap(
    scaled_dot_score
)  # the function without its checks, for callers whose own arguments were checked


@checked
def cosine_score(q, k, *, eps: float = 1e-8):
    """The cosine of the angle between every query and every key (:eq:`eq-cosine_score`), between -1 and 1.

    Args:
        q: (..., Tq, d).
        k: (..., Tk, d).
        eps: > 0; a vector shorter than this is divided by ``eps``, so that the zero vector scores 0.

    Returns:
        (..., Tq, Tk).

    Raises:
        ValueError: queries and keys have different widths, or ``eps`` is not positive.

    PyTorch: ``torch.nn.functional.cosine_similarity(q[..., :, None, :], k[..., None, :, :], dim=-1)``.
    Source: :cite:`graves2014`.
    """
    _same_width("cosine_score", q, k)
    if not eps > 0:
        raise ValueError(f"cosine_score: eps must be > 0, not {eps}")
    return matmul(_unit(q, eps), _swap(_unit(k, eps)))


def _unit(x, eps):
    """``x / max(|x|, eps)``, by way of entries of at most 1, whose squares neither overflow nor vanish."""
    largest = np.max(np.abs(stop_gradient(x)), axis=-1, keepdims=True, initial=eps)
    x = x / largest
    return x / sqrt(np.maximum((x * x).sum(axis=-1, keepdims=True), (eps / largest) ** 2))


@checked
def bilinear_score_init(rng: np.random.Generator, query_size: int, key_size: int, *, dtype=np.float32) -> Array:
    """The matrix of :func:`bilinear_score`, (query_size, key_size): Xavier-uniform."""
    return xavier_uniform(rng, (query_size, key_size), dtype=dtype)


@checked
def bilinear_score(q, k, weight):
    """``q W k``, an inner product that is learned (:eq:`eq-bilinear_score`); it compares vectors of different widths.

    Args:
        q: (..., Tq, dq).
        k: (..., Tk, dk).
        weight: (dq, dk).

    Returns:
        (..., Tq, Tk).

    Raises:
        ValueError: the shapes do not fit (names them).

    Source: :cite:`luong2015`, whose *general* score it is.
    """
    if min(q.ndim, k.ndim) < 2 or weight.shape != (q.shape[-1], k.shape[-1]):
        raise ValueError(
            f"bilinear_score: a weight of shape {weight.shape} does not fit queries of shape {q.shape} "
            f"and keys of shape {k.shape}"
        )
    return matmul(matmul(q, weight), _swap(k))


@checked
def additive_score_init(
    rng: np.random.Generator, query_size: int, key_size: int, hidden_size: int, *, dtype=np.float32
) -> dict[str, dict[str, Array]]:
    """Parameters of :func:`additive_score`: three linear layers without biases.

    Returns:
        ``{"query": {"weight": (M, query_size)}, "key": {"weight": (M, key_size)}, "score": {"weight": (1, M)}}``,
        M = hidden_size.
    """
    sizes = {"query": (query_size, hidden_size), "key": (key_size, hidden_size), "score": (hidden_size, 1)}
    return {name: {"weight": linear_init(rng, *size, dtype=dtype)["weight"]} for name, size in sizes.items()}


@checked
def additive_score(q, k, params: Branch):
    """A network with one hidden layer for every pair, ``v tanh(W_q q + W_k k)`` (:eq:`eq-additive_score`).

    Args:
        q: (..., Tq, dq).
        k: (..., Tk, dk).
        params: see :func:`additive_score_init`; M hidden units.

    Returns:
        (..., Tq, Tk). It holds (..., Tq, Tk, M) numbers on the way.

    Raises:
        ValueError: the shapes do not fit (names both).

    Source: :cite:`bahdanau2015`.
    """
    if min(q.ndim, k.ndim) < 2:
        raise ValueError(
            f"additive_score: queries of shape {q.shape} and keys of shape {k.shape} need two axes at least"
        )
    a, b = linear(q, params["query"]["weight"]), linear(k, params["key"]["weight"])
    pairs = tanh(a.reshape(*a.shape[:-1], 1, a.shape[-1]) + b.reshape(*b.shape[:-2], 1, *b.shape[-2:]))
    scores = linear(pairs, params["score"]["weight"])
    return scores.reshape(scores.shape[:-1])


_additive_score = inspect.unwrap(additive_score)


def _swap(x):
    """The last two axes exchanged."""
    return transpose(x, axes=(*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


def _scale(scale, q):
    return scale if scale is not None else 1 / math.sqrt(max(q.shape[-1], 1))


def _same_width(name, q, k):
    if min(q.ndim, k.ndim) < 2 or q.shape[-1] != k.shape[-1]:
        raise ValueError(f"{name}: queries of shape {q.shape} and keys of shape {k.shape} do not fit")


# ---------------------------------------------------------------------------------------------------------------------
# Masks: who may look at whom
# ---------------------------------------------------------------------------------------------------------------------


@checked
def causal_mask(Tq: int, Tk: int | None = None, *, offset: int = 0) -> Array:
    """Nobody sees the future: query i stands at place ``offset + i`` and sees the keys up to it (:eq:`eq-causal_mask`).

    Args:
        Tq: how many queries.
        Tk: how many keys; as many as queries if not given.
        offset: the place of the first query, such as the number of keys in a cache.

    Returns:
        (Tq, Tk), boolean: true where the key takes part.

    Raises:
        ValueError: a number of queries or keys is negative.
    """
    Tk = Tq if Tk is None else Tk
    _at_least(0, "causal_mask", Tq=Tq, Tk=Tk)
    return _causal(Tq, Tk, offset)


def _causal(Tq, Tk, offset=0):
    return np.arange(Tk) <= offset + np.arange(Tq)[:, None]


def _at_least(least: int, function: str, **sizes: int) -> None:
    for name, size in sizes.items():
        if size < least:
            raise ValueError(f"{function}: {name} must be at least {least}, not {size}")


@checked
def padding_mask(lengths: Given, T: int) -> Array:
    """Which tokens of a batch are real: the first ``lengths[b]`` of sequence b (:eq:`eq-padding_mask`).

    Args:
        lengths: (B,), integers from 0 to T.
        T: the length to which all were padded.

    Returns:
        (B, T), boolean: true for real tokens. As a mask for (B, H, Tq, T) it is ``[:, None, None, :]``; the
        ``key_padding_mask`` of :func:`multi_head_attention` is its opposite.

    Raises:
        ValueError: a length is no integer, or out of range.
    """
    if lengths.dtype.kind not in "iu" or lengths.ndim != 1 or ((lengths < 0) | (lengths > T)).any():
        raise ValueError(f"padding_mask: lengths must be integers from 0 to {T}, not {lengths}")
    return np.arange(T) < lengths[:, None]


# ---------------------------------------------------------------------------------------------------------------------
# Attention: a softmax over the keys, and the average of the values under it
# ---------------------------------------------------------------------------------------------------------------------


@primitive
def masked_softmax(scores, mask: Given | None = None):
    """Softmax over the keys that the mask admits (:eq:`eq-masked_softmax`). A row without any key is zeros.

    Args:
        scores: (..., Tk).
        mask: broadcasts to ``scores``. Boolean: true for what takes part. Float: added to the scores, -inf for what
            does not take part.

    Returns:
        The shape of ``scores``; each row sums to 1, or to 0 where no key is left.

    Raises:
        ValueError: the mask does not broadcast to the scores, or is neither boolean nor float.

    PyTorch has no such function; ``torch.softmax`` of scores set to -inf gives nan in a row without keys.
    """
    _check_mask("masked_softmax", mask, np.shape(scores))
    if np.ndim(scores) == 0:
        raise ValueError("masked_softmax: scores must have shape (..., Tk), not ()")
    p = np.array(scores, order="C")
    _softmax_rows(p, mask)
    return p, p


@masked_softmax.defvjp
def masked_softmax_vjp(dy, p, scores, mask=None):
    """:eq:`eq-masked_softmax-vjp`; a float mask was added, so it gets the same cotangent as the scores."""
    if mask is not None and not np.isfinite(dy).all():  # 0 times infinity is nan, and a masked key has no part in it
        dy = np.where(_seen(mask, p.shape), dy, 0)
    ds = dy - (dy * p).sum(-1, keepdims=True)
    ds *= p
    return ds, None if mask is None else lambda: unbroadcast(ds, np.shape(mask))


def _softmax_rows(s, mask=None):
    """Scores become weights, in place: at the size of scores a new array costs more than the arithmetic."""
    if mask is not None:
        if mask.dtype == bool:
            np.copyto(s, -np.inf, where=~mask)
        else:
            with np.errstate(invalid="ignore"):
                s += mask
            np.copyto(s, -np.inf, where=mask == -np.inf)  # whatever was there
    if s.shape[-1] == 0:
        return
    s -= _zero_point(s.max(-1, keepdims=True))
    np.exp(s, out=s)
    total = np.einsum("...j->...", s)[..., None]
    s *= np.divide(1, total, out=np.zeros_like(total), where=total != 0)
    if mask is not None and np.isnan(total).any():
        np.copyto(s, 0, where=~_seen(mask, s.shape))  # a nan spoils the keys of its row that are seen, and no other


def _seen(mask, shape, is_causal=False):
    """Boolean, of the shape of the scores: which keys does which query see?"""
    seen = (
        np.ones(shape, bool)
        if mask is None
        else np.broadcast_to(mask if mask.dtype == bool else mask != -np.inf, shape)
    )
    return seen & _causal(shape[-2], shape[-1]) if is_causal else seen


@checked
def attention_weights(q, k, mask: Given | None = None, *, is_causal: bool = False, scale: float | None = None):
    """The weights by which :func:`scaled_dot_product_attention` averages, to look at.

    Arguments and errors are as there.

    Returns:
        (..., Tq, Tk).
    """
    _same_width("attention_weights", q, k)
    if (is_causal or mask is not None) and not _finite(stop_gradient(q), stop_gradient(k)):
        values = np.eye(k.shape[-2], dtype=k.dtype)  # whose average under the weights is the weights
        return scaled_dot_product_attention(q, k, values, mask, is_causal=is_causal, scale=scale)
    scores = _scaled_dot_score(q, k, scale=scale)
    if is_causal:
        mask = _and_causal(mask, *scores.shape[-2:])
    return masked_softmax(scores, mask)


_attention_weights = inspect.unwrap(attention_weights)


def _and_causal(mask, Tq, Tk):
    seen = _causal(Tq, Tk)
    if mask is None or mask.dtype == bool:
        return seen if mask is None else mask & seen
    return mask + np.where(seen, 0, -np.inf).astype(mask.dtype)


@primitive
def scaled_dot_product_attention(q, k, v, mask: Given | None = None, *, is_causal=False, scale: float | None = None):
    """``softmax(scale q k^T) v``: every query's average of the values (:eq:`eq-scaled_dot_product_attention`).

    Args:
        q: (..., Tq, d), queries.
        k: (..., Tk, d), keys. Leading axes broadcast.
        v: (..., Tk, dv), a value for each key.
        mask: broadcasts to (..., Tq, Tk). Boolean: true for what takes part. Float: added to the scores.
        is_causal: query i sees the keys 0 to i only, beside what the mask says.
        scale: ``1 / sqrt(d)`` if not given.

    Returns:
        (..., Tq, dv). A query that sees no key gets zeros, and sends no gradient. What a mask leaves out may be nan or
        infinite: neither the value nor a gradient feels it.

    Raises:
        ValueError: the shapes do not fit (names them), or the mask is neither boolean nor float.

    PyTorch: ``torch.nn.functional.scaled_dot_product_attention``, whose documentation forbids a mask together with
    ``is_causal``; some of its kernels apply both, some refuse. It also gives zeros where there is no key;
    ``torch.nn.MultiheadAttention`` gives nan there, if asked for weights or in its fast path. Source:
    :cite:`vaswani2017`.
    """
    lead, scale = _fit("scaled_dot_product_attention", q, k, v, mask), _scale(scale, q)
    Tq, Tk = q.shape[-2], k.shape[-2]
    if (is_causal or mask is not None) and not _finite(q, k, v):
        return _apart(q, k, v, mask, is_causal, scale, lead)
    dtype = np.result_type(q, k, v)
    y, weights = np.zeros((*lead, Tq, v.shape[-1]), dtype), np.zeros((*lead, Tq, Tk), dtype)
    q, k, v = (_broadcast(a, lead) for a in (q, k, v))
    mask = None if mask is None else np.broadcast_to(mask, weights.shape)
    for i, rows, n in _pieces(lead, Tq, Tk, is_causal):  # whose scores stay in the cache between the two products
        p = weights[i][..., rows, :n]
        np.matmul(q[i][..., rows, :] * scale, k[i][..., :n, :].swapaxes(-1, -2), out=p)
        if is_causal:
            _hide_future(p, rows)
        _softmax_rows(p, None if mask is None else mask[i][..., rows, :n])
        np.matmul(p, v[i][..., :n, :], out=y[i][..., rows, :])
    return y, weights


@scaled_dot_product_attention.defvjp
def scaled_dot_product_attention_vjp(dy, saved, q, k, v, mask=None, *, is_causal=False, scale=None):
    """:eq:`eq-scaled_dot_product_attention-vjp`: through the average, the softmax and the two products."""
    weights = saved
    lead, scale = weights.shape[:-2], _scale(scale, q)
    if (is_causal or mask is not None) and not _finite(dy, q, k, v):
        return _apart_vjp(dy, weights, q, k, v, mask, is_causal, scale)
    shapes = q.shape, k.shape, v.shape
    q, k, v = (_broadcast(a, lead) for a in (q, k, v))
    dq, dk, dv = (np.zeros(a.shape, weights.dtype) for a in (q, k, v))
    for i, rows, n in _pieces(lead, q.shape[-2], k.shape[-2], is_causal):
        p, g = weights[i][..., rows, :n], np.ascontiguousarray(dy[i][..., rows, :])
        dv[i][..., :n, :] += p.swapaxes(-1, -2) @ g
        ds = g @ v[i][..., :n, :].swapaxes(-1, -2)
        ds -= np.einsum("...j,...j->...", ds, p)[..., None]
        ds *= p
        np.matmul(ds, k[i][..., :n, :], out=dq[i][..., rows, :])
        dk[i][..., :n, :] += ds.swapaxes(-1, -2) @ q[i][..., rows, :]
    dq *= scale
    dk *= scale

    def dmask():
        ds, _ = masked_softmax_vjp(dy @ v.swapaxes(-1, -2), weights, None)
        return unbroadcast(ds, mask.shape)

    return *map(unbroadcast, (dq, dk, dv), shapes), None if mask is None else dmask


def _finite(*arrays) -> bool:
    return all(np.isfinite(a).all() for a in arrays)


def _product(a, b, seen):
    """``a @ b`` without the terms that are not seen, whatever stands in ``b``: 0 times nan is nan."""
    bad = ~np.isfinite(b)
    y = np.where(seen, a, 0) @ np.where(bad, 0, b)
    for j in np.flatnonzero(bad.any(axis=(*range(b.ndim - 2), b.ndim - 1))):
        terms = a[..., j, None] * b[..., j, None, :]
        y += np.where(seen[..., j, None] & bad[..., j, None, :], terms, 0)
    return y


def _apart(q, k, v, mask, is_causal, scale, lead):
    """Attention among numbers that are not finite, of which nothing may reach a query that does not see them."""
    seen = _seen(mask, (*lead, q.shape[-2], k.shape[-2]), is_causal)
    with np.errstate(invalid="ignore", over="ignore"):
        s = np.array(np.broadcast_to(q * scale @ k.swapaxes(-1, -2), seen.shape))
        if mask is not None and mask.dtype != bool:
            s += mask
        _softmax_rows(s, seen)
        return _product(s, v, seen), s


def _apart_vjp(dy, weights, q, k, v, mask, is_causal, scale):
    seen = _seen(mask, weights.shape, is_causal) & dy.any(-1, keepdims=True)  # an answer that nobody uses pulls nothing
    shapes = q.shape, k.shape, v.shape
    q, k, v = (_broadcast(a, weights.shape[:-2]) for a in (q, k, v))
    with np.errstate(invalid="ignore", over="ignore"):
        ds = np.where(seen, dy @ v.swapaxes(-1, -2), 0)
        ds -= (ds * weights).sum(-1, keepdims=True)
        ds = np.where(seen, ds * weights, 0)
        across, back = ds.swapaxes(-1, -2), seen.swapaxes(-1, -2)
        dq, dk = scale * _product(ds, k, seen), scale * _product(across, q, back)
        dv = _product(weights.swapaxes(-1, -2), dy, back)
    dmask = None if mask is None else lambda: unbroadcast(ds, mask.shape)
    return *map(unbroadcast, (dq, dk, dv), shapes), dmask


ROWS, SCORES = 128, 2**16  # of a piece: measured, not derived


def _pieces(lead, Tq: int, Tk: int, is_causal: bool) -> Iterator[tuple[tuple, slice, int]]:
    """Some heads and some queries at a time, with the number of keys that the last of these queries sees."""
    for heads in _heads(lead, min(Tq, ROWS) * Tk):
        for rows in _slices(Tq, ROWS):
            yield heads, rows, min(rows.stop, Tk) if is_causal else Tk


def _heads(lead: tuple[int, ...], scores: int) -> Iterator[tuple]:
    """Indices into the leading axes, each of as many heads as have together about 2^16 scores, or of one."""
    whole = len(lead)
    while whole and scores * lead[whole - 1] <= SCORES:
        whole -= 1
        scores *= lead[whole]
    if not whole:
        yield ()
        return
    for outer in np.ndindex(lead[: whole - 1]):
        for some in _slices(lead[whole - 1], max(SCORES // scores, 1)):
            yield *outer, some


def _slices(T: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, T)) for start in range(0, T, size))


def _hide_future(s, rows, first=0):
    """-inf where the key, the first of which is number ``first``, comes after the query."""
    seen = _causal(s.shape[-2], s.shape[-1], rows.start - first)
    np.copyto(s, -np.inf, where=~seen)


def _broadcast(a, lead):
    return np.broadcast_to(a, (*lead, *a.shape[-2:]))


def _fit(name, q, k, v, mask=None) -> tuple[int, ...]:
    """The leading axes, once everything fits."""
    shapes = "queries of shape {}, keys of shape {} and values of shape {}".format(*map(np.shape, (q, k, v)))
    if min(map(np.ndim, (q, k, v))) < 2 or q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise ValueError(f"{name}: {shapes} do not fit; expected (..., Tq, d), (..., Tk, d) and (..., Tk, dv)")
    try:
        lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    except ValueError:
        raise ValueError(f"{name}: the leading axes of {shapes} do not broadcast") from None
    _check_mask(name, mask, (*lead, q.shape[-2], k.shape[-2]))
    return lead


def _check_mask(name, mask, scores):
    if mask is None:
        return
    if mask.dtype.kind not in "bf":
        raise ValueError(f"{name}: the mask has dtype {mask.dtype}, expected bool (true: takes part) or a float")
    fits = mask.ndim <= len(scores) and all(n in (1, m) for n, m in zip(mask.shape[::-1], scores[::-1], strict=False))
    if not fits:
        raise ValueError(f"{name}: a mask of shape {mask.shape} does not broadcast to scores of shape {scores}")


@primitive
def blockwise_attention(q, k, v, *, is_causal=False, scale: float | None = None, block_size: int = 128):
    """Attention without its matrix of weights: the softmax is computed along the way (:eq:`eq-blockwise_attention`).

    A block of keys at a time, it carries the largest score so far, the sum of the exponentials and the weighted sum of
    the values; when a larger score comes, the two sums are scaled down. The VJP computes each block of weights again
    from the largest score and the sum. Beside inputs and outputs there are two numbers for each query: their logarithm
    in one, largest score + log(sum), would lose the sum where the scores are large.

    Args:
        q: (..., Tq, d).
        k: (..., Tk, d). Leading axes broadcast.
        v: (..., Tk, dv).
        is_causal: query i sees the keys 0 to i only; blocks that lie wholly in the future are skipped.
        scale: ``1 / sqrt(d)`` if not given.
        block_size: queries and keys in a block, >= 1.

    Returns:
        (..., Tq, dv): :func:`scaled_dot_product_attention` to rounding. Among numbers that are not finite it is that
        function, in one piece.

    Raises:
        ValueError: the shapes do not fit (names them), or ``block_size`` is below 1.

    Source: the running sums are :cite:`milakov2018`'s, the blocks and the VJP :cite:`dao2022`'s.
    """
    lead, scale = _fit("blockwise_attention", q, k, v), _scale(scale, q)
    if block_size < 1:
        raise ValueError(f"blockwise_attention: block_size must be at least 1, not {block_size}")
    if is_causal and not _finite(q, k, v):
        y, weights = _apart(q, k, v, None, is_causal, scale, lead)
        return y, (y, weights, None)
    q, k, v = (_broadcast(a, lead) for a in (q, k, v))
    y = np.zeros((*q.shape[:-1], v.shape[-1]), np.result_type(q, k, v))
    largest, inverse = np.zeros((*q.shape[:-1], 1), y.dtype), np.zeros((*q.shape[:-1], 1), y.dtype)
    for i, rows in _blocks(lead, q.shape[-2], block_size):
        highest = np.full((*y[i][..., rows, :].shape[:-1], 1), -np.inf, y.dtype)
        total, mixed = np.zeros_like(highest), np.zeros_like(y[i][..., rows, :])
        for keys in _keys_before(rows, k.shape[-2], block_size, is_causal):
            s = _block_scores(q[i], k[i], rows, keys, scale, is_causal)
            higher = np.maximum(highest, s.max(-1, keepdims=True))
            zero = _zero_point(higher)
            shrink = np.exp(highest - zero)
            s -= zero
            np.exp(s, out=s)
            total = shrink * total + s.sum(-1, keepdims=True)
            mixed = shrink * mixed + s @ v[i][..., keys, :]
            highest = higher
        # A query without keys, or whose scores are all -inf, gets zeros.
        np.divide(1, total, out=inverse[i][..., rows, :], where=total != 0)
        y[i][..., rows, :] = mixed * inverse[i][..., rows, :]
        largest[i][..., rows, :] = _zero_point(highest)
    return y, (y, largest, inverse)


@blockwise_attention.defvjp
def blockwise_attention_vjp(dy, saved, q, k, v, *, is_causal=False, scale=None, block_size=128):
    """:eq:`eq-blockwise_attention-vjp`: the weights once more, block by block, then the VJP of attention.

    The sum over all keys in the VJP of softmax is the inner product of ``dy`` and ``y``, row by row.
    """
    y, largest, inverse = saved
    lead, scale = y.shape[:-2], _scale(scale, q)
    if is_causal and not _finite(dy, q, k, v):
        weights = _apart(q, k, v, None, is_causal, scale, lead)[1] if inverse is not None else largest
        return _apart_vjp(dy, weights, q, k, v, None, is_causal, scale)[:3]
    shapes = q.shape, k.shape, v.shape
    q, k, v = (_broadcast(a, lead) for a in (q, k, v))
    dq, dk, dv = (np.zeros(a.shape, y.dtype) for a in (q, k, v))
    for i, rows in _blocks(lead, q.shape[-2], block_size):
        g = dy[i][..., rows, :]
        along = (g * y[i][..., rows, :]).sum(-1, keepdims=True)
        for keys in _keys_before(rows, k.shape[-2], block_size, is_causal):
            p = _block_scores(q[i], k[i], rows, keys, scale, is_causal)
            p -= largest[i][..., rows, :]
            np.exp(p, out=p)
            p *= inverse[i][..., rows, :]
            dv[i][..., keys, :] += p.swapaxes(-1, -2) @ g
            ds = g @ v[i][..., keys, :].swapaxes(-1, -2)
            ds -= along
            ds *= p
            dq[i][..., rows, :] += ds @ k[i][..., keys, :]
            dk[i][..., keys, :] += ds.swapaxes(-1, -2) @ q[i][..., rows, :]
    dq *= scale
    dk *= scale
    return tuple(map(unbroadcast, (dq, dk, dv), shapes))


def _zero_point(highest):
    """What to subtract from scores: the highest; 0 if they are all -inf, because -inf + inf is nan."""
    return np.where(highest == -np.inf, 0, highest)


def _blocks(lead, Tq: int, size: int) -> Iterator[tuple[tuple, slice]]:
    return ((heads, rows) for heads in _heads(lead, size * size) for rows in _slices(Tq, size))


def _keys_before(rows: slice, Tk: int, size: int, is_causal: bool) -> Iterator[slice]:
    return _slices(min(rows.stop, Tk) if is_causal else Tk, size)


def _block_scores(q, k, rows, keys, scale, is_causal):
    s = (q[..., rows, :] * scale) @ k[..., keys, :].swapaxes(-1, -2)
    if is_causal and keys.stop > rows.start + 1:
        _hide_future(s, rows, keys.start)
    return s


# ---------------------------------------------------------------------------------------------------------------------
# Heads: several averages side by side
# ---------------------------------------------------------------------------------------------------------------------


@checked
def split_heads(x, num_heads: int):
    """(..., T, E) -> (..., H, T, E / H): head h takes the features h E/H to (h + 1) E/H - 1 (:eq:`eq-split_heads`).

    Raises:
        ValueError: the heads do not divide the features.
    """
    if x.ndim < 2:
        raise ValueError(f"split_heads: x must have shape (..., T, E), not {x.shape}")
    *lead, T, E = x.shape
    if num_heads < 1 or E % num_heads:
        raise ValueError(f"split_heads: {num_heads} heads do not divide the {E} features of shape {tuple(x.shape)}")
    n = len(lead)
    return transpose(x.reshape(*lead, T, num_heads, E // num_heads), axes=(*range(n), n + 1, n, n + 2))


_split_heads = inspect.unwrap(split_heads)


@checked
def merge_heads(x):
    """(..., H, T, d) -> (..., T, H d): the inverse of :func:`split_heads`.

    Raises:
        ValueError: x has fewer than three axes.
    """
    if x.ndim < 3:
        raise ValueError(f"merge_heads: x must have shape (..., H, T, d), not {x.shape}")
    *lead, H, T, d = x.shape
    n = len(lead)
    return transpose(x, axes=(*range(n), n + 1, n, n + 2)).reshape(*lead, T, H * d)


_merge_heads = inspect.unwrap(merge_heads)


@checked
def grouped_query_attention(q, k, v, mask: Given | None = None, *, is_causal: bool = False, scale: float | None = None):
    """Attention in which several heads of queries share one head of keys (:eq:`eq-grouped_query_attention`).

    Args:
        q: (..., H, Tq, d).
        k: (..., G, Tk, d), where G divides H: query head h uses key head ``h // (H / G)``. G = 1 is multi-query
            attention, G = H the ordinary one.
        v: (..., G, Tk, dv).
        mask: broadcasts to (..., H, Tq, Tk), as for :func:`scaled_dot_product_attention`.
        is_causal, scale: as there.

    Returns:
        (..., H, Tq, dv). A cache of keys and values is H / G times smaller.

    Raises:
        ValueError: the shapes do not fit, or G does not divide H.

    PyTorch: ``torch.nn.functional.scaled_dot_product_attention(..., enable_gqa=True)``. Source: :cite:`ainslie2023`.
    """
    if min(q.ndim, k.ndim, v.ndim) < 3:
        raise ValueError(
            f"grouped_query_attention: queries of shape {q.shape}, keys of shape {k.shape} and values of shape "
            f"{v.shape} need an axis of heads"
        )
    H, G = q.shape[-3], k.shape[-3]
    if G == 0 or H % G or v.shape[-3] != G:
        raise ValueError(
            f"grouped_query_attention: {G} heads of keys (shape {k.shape}) and {v.shape[-3]} of values do not serve "
            f"{H} heads of queries (shape {q.shape})"
        )
    if mask is not None and mask.ndim > 2:
        if mask.shape[-3] not in (1, H):
            raise ValueError(f"grouped_query_attention: a mask of shape {mask.shape} does not fit {H} heads of queries")
        heads = (G, H // G) if mask.shape[-3] == H else (1, 1)
        mask = mask.reshape(*mask.shape[:-3], *heads, *mask.shape[-2:])
    y = scaled_dot_product_attention(
        q.reshape(*q.shape[:-3], G, H // G, *q.shape[-2:]),
        k.reshape(*k.shape[:-2], 1, *k.shape[-2:]),
        v.reshape(*v.shape[:-2], 1, *v.shape[-2:]),
        mask,
        is_causal=is_causal,
        scale=scale,
    )
    return y.reshape(*q.shape[:-1], v.shape[-1])


@checked
def multi_head_attention_init(rng: np.random.Generator, embed_dim: int, *, dtype=np.float32) -> Tree:
    """Parameters of :func:`multi_head_attention`, drawn as PyTorch draws them: biases are 0.

    Returns:
        ``{"in_proj_weight": (3 E, E), "in_proj_bias": (3 E,), "out_proj": {"weight": (E, E), "bias": (E,)}}``, the
        names of ``torch.nn.MultiheadAttention(E, num_heads)``. The rows of ``in_proj_weight`` make queries, keys and
        values, in this order.
    """
    return {
        "in_proj_weight": xavier_uniform(rng, (3 * embed_dim, embed_dim), dtype=dtype),
        "in_proj_bias": np.zeros(3 * embed_dim, dtype),
        "out_proj": {**linear_init(rng, embed_dim, embed_dim, dtype=dtype), "bias": np.zeros(embed_dim, dtype)},
    }


@checked
def multi_head_attention(
    params: Branch,
    query,
    key,
    value,
    *,
    num_heads: int,
    key_padding_mask: Given | None = None,
    attn_mask: Given | None = None,
    is_causal: bool = False,
    need_weights: bool = False,
):
    """Attention of several heads between learned projections (:eq:`eq-multi_head_attention`).

    Args:
        params: see :func:`multi_head_attention_init`.
        query: (B, Tq, E), or (Tq, E) without a batch.
        key: (B, Tk, E).
        value: (B, Tk, E). Self-attention passes the same array three times.
        num_heads: H, a divisor of E.
        key_padding_mask: (B, Tk), boolean: *true for keys that are left out*; or float, added to the scores.
        attn_mask: (Tq, Tk), (B H, Tq, Tk) or (B, H, Tq, Tk); boolean: *true for what is left out*; or float. A mask for
            each sequence, (B, Tq, Tk), is none of these: write it ``np.repeat(mask, H, 0)``.
        is_causal: query i sees the keys 0 to i only.
        need_weights: whether to return the weights as well.

    Returns:
        (B, Tq, E), or ``(output, weights)`` with weights (B, H, Tq, Tk), each head by itself. A key that no query sees
        may be nan or infinite.

    Raises:
        ValueError: the shapes do not fit, those of the masks included (names them), or the heads do not divide E.

    PyTorch: ``torch.nn.MultiheadAttention(E, H, batch_first=True)``, whose masks these are; it always returns a pair,
    averages the weights over the heads unless told otherwise, gives nan to a query that sees no key (here: the bias of
    the output), and takes ``is_causal`` only as a hint beside ``attn_mask``. Source: :cite:`vaswani2017`.
    """
    shapes = f"query of shape {query.shape}, key of shape {key.shape} and value of shape {value.shape}"
    if query.ndim < 2 or query.shape[:-2] != key.shape[:-2] or key.shape[:-1] != value.shape[:-1]:
        raise ValueError(f"multi_head_attention: {shapes} do not fit; expected (B, Tq, E), (B, Tk, E) and (B, Tk, E)")
    mask = _takes_part(key_padding_mask, attn_mask, query.shape[:-2], num_heads, query.shape[-2], key.shape[-2])
    if mask is not None and not _finite(*map(stop_gradient, (query, key, value))):
        seen = _seen(stop_gradient(mask), (*query.shape[:-2], num_heads, query.shape[-2], key.shape[-2]), is_causal)
        unseen = ~seen.any((-3, -2))
        itself = query is key
        key, value = _emptied(key, unseen), _emptied(value, unseen)
        query = key if itself else query
    q, k, v = _projected(params, query, key, value, num_heads)
    y, weights = _attend(q, k, v, mask, is_causal, need_weights)
    y = linear(_merge_heads(y), params["out_proj"]["weight"], params["out_proj"]["bias"])
    return (y, weights) if need_weights else y


_multi_head_attention = inspect.unwrap(multi_head_attention)


def _projected(params, query, key, value, num_heads):
    """Queries, keys and values of all heads, from one third of the weights each."""
    weight, bias = params["in_proj_weight"], params["in_proj_bias"]
    if weight.ndim != 2 or weight.shape[0] != 3 * weight.shape[1]:
        raise ValueError(f"the weights of queries, keys and values must have shape (3 E, E), not {weight.shape}")
    E = weight.shape[1]
    thirds = (slice(0, E), slice(E, 2 * E), slice(2 * E, 3 * E))
    inputs = zip((query, key, value), thirds, strict=True)
    return tuple(_split_heads(linear(x, weight[rows], bias[rows]), num_heads) for x, rows in inputs)


def _attend(q, k, v, mask, is_causal, need_weights):
    y = scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal)
    return y, _attention_weights(q, k, mask, is_causal=is_causal) if need_weights else None


def _emptied(x, left_out):
    """``x``, (B, T, E), with 0 for what is not finite where ``left_out``, (B, T), so that no product with it is nan."""
    bad = left_out[..., None] & ~np.isfinite(stop_gradient(x))
    return where(bad, 0.0, x) if bad.any() else x


def _takes_part(key_padding_mask, attn_mask, lead, num_heads, Tq, Tk):
    """The two masks of ``torch.nn``, in which true means left out, as one in which true means takes part."""
    masks = []
    if key_padding_mask is not None:
        _check_shape("key_padding_mask", key_padding_mask, ((*lead, Tk),))
        masks.append(key_padding_mask.reshape(*lead, 1, 1, Tk))
    if attn_mask is not None:
        whole = (*lead, num_heads, Tq, Tk)
        _check_shape("attn_mask", attn_mask, ((Tq, Tk), (math.prod(lead) * num_heads, Tq, Tk), whole))
        masks.append(attn_mask if attn_mask.ndim == 2 else attn_mask.reshape(*whole))
    if not masks:
        return None
    if all(a.dtype == bool for a in masks):
        return ~masks[0] if len(masks) == 1 else ~(masks[0] | masks[1])
    dtype = np.result_type(*(a.dtype for a in masks if a.dtype != bool))
    masks = [np.where(a, -np.inf, 0).astype(dtype) if a.dtype == bool else a for a in masks]
    return masks[0] if len(masks) == 1 else masks[0] + masks[1]


def _check_shape(name, mask, allowed):
    if mask.dtype.kind not in "bf":
        raise ValueError(f"{name} has dtype {mask.dtype}, expected bool (true: left out) or a float")
    if mask.shape not in allowed:
        raise ValueError(f"{name} has shape {mask.shape}, expected {' or '.join(map(str, dict.fromkeys(allowed)))}")


# ---------------------------------------------------------------------------------------------------------------------
# Positions: without them attention does not know the order
# ---------------------------------------------------------------------------------------------------------------------


def _angles(T, d, base, offset, name):
    """(T, d/2): place times frequency, the frequencies falling geometrically from 1 to nearly 1 / base."""
    _at_least(0, name, T=T, d=d)
    if d % 2:
        raise ValueError(f"{name}: the width must be even, not {d}")
    if not base > 0:
        raise ValueError(f"{name}: base must be > 0, not {base}")
    return (offset + np.arange(T))[:, None] * base ** (-np.arange(0, d, 2) / max(d, 1))


@checked
def sinusoidal_positions(T: int, d: int, *, base: float = 10000.0, offset: int = 0, dtype=np.float32) -> Array:
    """Sines and cosines of falling frequency, one row a place, to be added to embeddings
    (:eq:`eq-sinusoidal_positions`).

    Args:
        T: how many places.
        d: the width, even.
        base: the ratio of the largest wavelength to the smallest, nearly.
        offset: the first place.
        dtype: a float dtype.

    Returns:
        (T, d): column 2i is ``sin(t / base^(2i/d))``, column 2i + 1 the cosine.

    Raises:
        ValueError: the width is odd, or ``base`` is not positive.

    Source: :cite:`vaswani2017`.
    """
    angles = _angles(T, d, base, offset, "sinusoidal_positions")
    return np.stack([np.sin(angles), np.cos(angles)], -1).reshape(T, d).astype(dtype)


_sinusoidal_positions = inspect.unwrap(sinusoidal_positions)


@primitive
def rope(x, *, base=10000.0, offset: int = 0):
    """Rotary positions: each pair of features is turned by an angle that grows with the place (:eq:`eq-rope`).

    Queries and keys so turned have inner products that depend on the distance of their places only.

    Args:
        x: (..., T, d), d even. Features 2i and 2i + 1 are a pair, turned by ``t / base^(2i/d)`` at place t.
        base: as for :func:`sinusoidal_positions`.
        offset: the place of the first row, such as the number of keys in a cache.

    Returns:
        The shape of ``x``. Lengths are kept.

    Raises:
        ValueError: x has fewer than two axes, an odd width, or ``base`` is not positive.

    PyTorch has none. The pairs are the paper's; some published weights pair feature i with i + d/2 instead, which is
    the same after a permutation of the features. Source: :cite:`su2024`.
    """
    if np.ndim(x) < 2:
        raise ValueError(f"rope: x must have shape (..., T, d), not {np.shape(x)}")
    T, d = x.shape[-2:]
    angles = _angles(T, d, base, offset, "rope")
    turn = np.cos(angles).astype(x.dtype), np.sin(angles).astype(x.dtype)
    return _turned(x, *turn), turn


@rope.defvjp
def rope_vjp(dy, turn, x, *, base=10000.0, offset=0):
    """:eq:`eq-rope-vjp`: turned back, because the transpose of a rotation is its inverse."""
    cos, sin = turn
    return (_turned(dy, cos, -sin),)


def _turned(x, cos, sin):
    y = np.empty(x.shape, x.dtype)
    first, second = x[..., 0::2], x[..., 1::2]
    y[..., 0::2] = first * cos - second * sin
    y[..., 1::2] = first * sin + second * cos
    return y


@checked
def alibi_slopes(num_heads: int) -> Array:
    """A slope for each head, ``2^(-8 h / H)`` for h = 1 to H (:eq:`eq-alibi_slopes`).

    Where H is no power of two, the paper's program interleaves two such series; this is the formula of its text.

    Raises:
        ValueError: there is no head.

    Source: :cite:`press2022`.
    """
    _at_least(1, "alibi_slopes", num_heads=num_heads)
    return 2.0 ** (-8 * np.arange(1, num_heads + 1) / num_heads)


@checked
def alibi_bias(num_heads: int, Tq: int, Tk: int | None = None, *, offset: int = 0, dtype=np.float32) -> Array:
    """What to add to the scores so that far keys count less: minus slope times distance (:eq:`eq-alibi_bias`).

    Args:
        num_heads: H heads, each with a slope of its own, see :func:`alibi_slopes`.
        Tq, Tk, offset: as for :func:`causal_mask`.
        dtype: a float dtype.

    Returns:
        (H, Tq, Tk), a float mask for :func:`scaled_dot_product_attention`.

    Raises:
        ValueError: there is no head, or a number of queries or keys is negative.

    Source: :cite:`press2022`.
    """
    Tk = Tq if Tk is None else Tk
    _at_least(0, "alibi_bias", Tq=Tq, Tk=Tk)
    distance = np.abs(np.arange(Tk) - (offset + np.arange(Tq)[:, None]))
    return (-alibi_slopes(num_heads)[:, None, None] * distance).astype(dtype)


# ---------------------------------------------------------------------------------------------------------------------
# The blocks of the transformer
# ---------------------------------------------------------------------------------------------------------------------

ACTIVATIONS = {"relu": relu, "gelu": gelu}


@checked
def transformer_encoder_layer_init(
    rng: np.random.Generator, d_model: int, *, dim_feedforward: int | None = None, dtype=np.float32
) -> Tree:
    """Parameters of :func:`transformer_encoder_layer`, with the names of ``torch.nn.TransformerEncoderLayer``.

    Args:
        rng: the source of randomness.
        d_model: E features of a token.
        dim_feedforward: hidden units of the network for each token; 4 E if not given.
        dtype: a float dtype.

    Returns:
        ``self_attn`` (see :func:`multi_head_attention_init`), ``linear1``, ``linear2``, ``norm1``, ``norm2``.
    """
    hidden = 4 * d_model if dim_feedforward is None else dim_feedforward
    return {
        "self_attn": multi_head_attention_init(rng, d_model, dtype=dtype),
        "linear1": linear_init(rng, d_model, hidden, dtype=dtype),
        "linear2": linear_init(rng, hidden, d_model, dtype=dtype),
        "norm1": layer_norm_init(d_model, dtype=dtype),
        "norm2": layer_norm_init(d_model, dtype=dtype),
    }


@checked
def transformer_encoder_layer(
    params: Branch,
    src,
    *,
    nhead: int,
    src_mask: Given | None = None,
    src_key_padding_mask: Given | None = None,
    is_causal: bool = False,
    norm_first: bool = False,
    activation: Literal["relu", "gelu"] = "relu",
    layer_norm_eps: float = 1e-5,
    need_weights: bool = False,
):
    """Tokens look at one another, then each thinks for itself (:eq:`eq-transformer_encoder_layer`).

    Two residual branches, self-attention and a network with one hidden layer. Post-norm normalizes each sum, pre-norm
    (``norm_first``) what enters each branch.

    Args:
        params: see :func:`transformer_encoder_layer_init`.
        src: (B, T, E) or (T, E).
        nhead: H heads, a divisor of E.
        src_mask, src_key_padding_mask: the ``attn_mask`` and ``key_padding_mask`` of :func:`multi_head_attention`: true
            means left out.
        is_causal: token i sees the tokens 0 to i only.
        norm_first: pre-norm instead of post-norm.
        activation: ``"relu"`` or ``"gelu"`` (the exact one).
        layer_norm_eps: of the norms.
        need_weights: whether to return the attention weights (B, H, T, T) as well.

    Returns:
        The shape of ``src``, or ``(output, weights)``.

    Raises:
        ValueError: the shapes do not fit, or the activation is unknown.

    PyTorch: ``torch.nn.TransformerEncoderLayer(..., batch_first=True, dropout=0)``. Sources: :cite:`vaswani2017`;
    pre-norm: :cite:`xiong2020`.
    """

    def self_attention(x):
        return _multi_head_attention(
            params["self_attn"],
            x,
            x,
            x,
            num_heads=nhead,
            key_padding_mask=src_key_padding_mask,
            attn_mask=src_mask,
            is_causal=is_causal,
            need_weights=need_weights,
        )

    feed_forward, branch = _parts(params, norm_first, activation, layer_norm_eps)
    src = _padding_emptied(src, src_key_padding_mask)
    x, weights = branch(src, "norm1", self_attention, need_weights)
    x, _ = branch(x, "norm2", feed_forward)
    return (x, weights) if need_weights else x


_transformer_encoder_layer = inspect.unwrap(transformer_encoder_layer)


def _padding_emptied(x, mask):
    """Tokens that are padding may be nan or infinite: as 0 they go through the layer without harm to its gradients."""
    mask = stop_gradient(mask)
    if mask is None or mask.shape != x.shape[:-1]:  # which the attention refuses
        return x
    return _emptied(x, mask if mask.dtype == bool else mask == -np.inf)


def _parts(params, norm_first, activation, eps):
    """The feed-forward network, and a function that runs one residual branch with its norm before or after."""

    def feed_forward(x):
        return linear(ACTIVATIONS[activation](linear(x, **params["linear1"])), **params["linear2"])

    def branch(x, norm, f, need_weights=False):
        y = f(layer_norm(x, **params[norm], eps=eps) if norm_first else x)
        y, weights = y if need_weights else (y, None)
        return (x + y if norm_first else layer_norm(x + y, **params[norm], eps=eps)), weights

    return feed_forward, branch


@checked
def transformer_decoder_layer_init(
    rng: np.random.Generator, d_model: int, *, dim_feedforward: int | None = None, dtype=np.float32
) -> Tree:
    """Parameters of :func:`transformer_decoder_layer`, with the names of ``torch.nn.TransformerDecoderLayer``.

    Arguments are those of :func:`transformer_encoder_layer_init`; beside its keys there are ``multihead_attn``, the
    attention to the encoder, and ``norm3``.
    """
    params = transformer_encoder_layer_init(rng, d_model, dim_feedforward=dim_feedforward, dtype=dtype)
    params["multihead_attn"] = multi_head_attention_init(rng, d_model, dtype=dtype)
    return {**params, "norm3": layer_norm_init(d_model, dtype=dtype)}


@checked
def transformer_decoder_layer(
    params: Branch,
    tgt,
    memory,
    *,
    nhead: int,
    tgt_mask: Given | None = None,
    memory_mask: Given | None = None,
    tgt_key_padding_mask: Given | None = None,
    memory_key_padding_mask: Given | None = None,
    tgt_is_causal: bool = False,
    norm_first: bool = False,
    activation: Literal["relu", "gelu"] = "relu",
    layer_norm_eps: float = 1e-5,
    need_weights: bool = False,
):
    """As the encoder's, with a branch between that looks at the encoder's output (:eq:`eq-transformer_decoder_layer`).

    Args:
        params: see :func:`transformer_decoder_layer_init`.
        tgt: (B, Tt, E) or (Tt, E): gives the queries.
        memory: (B, Ts, E) or (Ts, E), the output of the encoder: gives keys and values.
        nhead: H heads.
        tgt_mask, tgt_key_padding_mask, tgt_is_causal: of the self-attention; true means left out.
        memory_mask, memory_key_padding_mask: of the attention to the encoder; true means left out.
        norm_first, activation, layer_norm_eps: as for :func:`transformer_encoder_layer`.
        need_weights: whether to return the weights of the attention to the encoder, (B, H, Tt, Ts), as well.

    Returns:
        The shape of ``tgt``, or ``(output, weights)``.

    Raises:
        ValueError: the shapes do not fit, or the activation is unknown.

    PyTorch: ``torch.nn.TransformerDecoderLayer(..., batch_first=True, dropout=0)``. Source: :cite:`vaswani2017`.
    """

    def self_attention(x):
        return _multi_head_attention(
            params["self_attn"],
            x,
            x,
            x,
            num_heads=nhead,
            key_padding_mask=tgt_key_padding_mask,
            attn_mask=tgt_mask,
            is_causal=tgt_is_causal,
        )

    def cross_attention(x):
        return _multi_head_attention(
            params["multihead_attn"],
            x,
            memory,
            memory,
            num_heads=nhead,
            key_padding_mask=memory_key_padding_mask,
            attn_mask=memory_mask,
            need_weights=need_weights,
        )

    feed_forward, branch = _parts(params, norm_first, activation, layer_norm_eps)
    tgt, memory = _padding_emptied(tgt, tgt_key_padding_mask), _padding_emptied(memory, memory_key_padding_mask)
    x, _ = branch(tgt, "norm1", self_attention)
    x, weights = branch(x, "norm2", cross_attention, need_weights)
    x, _ = branch(x, "norm3", feed_forward)
    return (x, weights) if need_weights else x


_transformer_decoder_layer = inspect.unwrap(transformer_decoder_layer)


# ---------------------------------------------------------------------------------------------------------------------
# Attention between two recurrent networks
# ---------------------------------------------------------------------------------------------------------------------


@checked
def seq2seq_attention_init(
    rng: np.random.Generator,
    source_size: Size,
    target_size: Size,
    hidden_size: Size,
    *,
    embedding_size: Size | None = None,
    dtype=np.float32,
) -> Tree:
    """Parameters of :func:`seq2seq_attention`: those of :func:`~nnbook.rnn.seq2seq_init`, and an additive score.

    Args:
        rng: the source of randomness.
        source_size, target_size: tokens of the two vocabularies.
        hidden_size: H, of both GRUs and of the score.
        embedding_size: D entries of a token's vector; H if not given.
        dtype: float32 or float64.

    Returns:
        ``{"encoder": {"embedding", "rnn"}, "attention": {"query", "key", "score"}, "decoder": {"embedding", "rnn",
        "linear"}}``; the decoder's GRU has D + H inputs.

    Raises:
        ValueError: as :func:`~nnbook.rnn.recurrent_init`.
    """
    size = hidden_size if embedding_size is None else embedding_size
    params = seq2seq_init(rng, source_size, target_size, hidden_size, cell="gru", embedding_size=size, dtype=dtype)
    params["decoder"]["rnn"] = recurrent_init(rng, "gru", size + hidden_size, hidden_size, dtype=dtype)
    return {**params, "attention": additive_score_init(rng, hidden_size, hidden_size, hidden_size, dtype=dtype)}


@checked
def seq2seq_attention(
    params: Branch, source: Given, target: Given, source_mask: Given | None = None, *, need_weights: bool = False
):
    """:func:`~nnbook.rnn.seq2seq` of two GRUs, whose decoder looks at all states of the encoder at every step
    (:eq:`eq-seq2seq_attention`).

    The steps come first, as for recurrent networks.

    Args:
        params: see :func:`seq2seq_attention_init`.
        source: (S, N) integers.
        target: (T, N) integers, T >= 1, what the decoder reads: the start token, then all but the last of the answer.
        source_mask: (S, N) bool, False where padded: there nobody looks.
        need_weights: whether to return where each step looked, (N, T, S), as well.

    Returns:
        Logits (T, N, K), or ``(logits, weights)``.

    Raises:
        ValueError: tokens out of range, shapes that do not fit.

    PyTorch: :func:`nnbook.twins.seq2seq_attention`. Source: :cite:`bahdanau2015`, whose encoder reads in both
    directions; this one reads forwards only.
    """
    if np.ndim(target) != 2 or len(target) == 0:
        raise ValueError(f"seq2seq_attention: target has shape {np.shape(target)}, expected (T, N) with T >= 1")
    memory, state = _read(params, source, source_mask)
    if np.shape(target)[1] != memory.shape[0]:
        raise ValueError(f"seq2seq_attention: {memory.shape[0]} sequences to read, but {np.shape(target)[1]} to write")
    read = embedding(target, params["decoder"]["embedding"]["weight"])
    states, looks = [], []
    for t in range(len(target)):
        state, weights = _look_and_step(params, read[t : t + 1], state, memory, source_mask)
        states.append(state)
        looks.append(weights)
    logits = linear(concatenate(*states), **params["decoder"]["linear"])
    return (logits, concatenate(*looks, axis=1)) if need_weights else logits


def _read(params, source, source_mask):
    """All states of the encoder, (N, S, H), and its last one, (1, N, H)."""
    if np.ndim(source) != 2:
        raise ValueError(f"seq2seq_attention: source has shape {np.shape(source)}, expected (S, N)")
    if source_mask is not None and (source_mask.dtype != bool or source_mask.shape != source.shape):
        raise ValueError(
            f"seq2seq_attention: source_mask must be {source.shape} bool, not {source_mask.dtype} {source_mask.shape}"
        )
    x = embedding(source, params["encoder"]["embedding"]["weight"])
    states, last = recurrent(params["encoder"]["rnn"], x, None, source_mask)
    return states.transpose(1, 0, 2), last


def _look_and_step(params, x, state, memory, source_mask):
    """One step of the decoder from x (1, N, D) and its state (1, N, H): the new state, and the weights (N, 1, S)."""
    scores = _additive_score(state.transpose(1, 0, 2), memory, params["attention"])
    weights = masked_softmax(scores, None if source_mask is None else np.transpose(source_mask)[:, None])
    context = (weights @ memory).transpose(1, 0, 2)
    return recurrent(params["decoder"]["rnn"], concatenate(x, context, axis=2), state)[1], weights


@checked
def seq2seq_attention_decode(
    params: Branch, source: Given, length: int, *, start: int, source_mask: Given | None = None
) -> tuple[Array, Array]:
    """The likeliest token at every step, fed back in: :func:`~nnbook.rnn.greedy_decode` with attention.

    Args:
        params, source, source_mask: of :func:`seq2seq_attention`.
        length: tokens to produce, >= 1.
        start: the start token.

    Returns:
        ``(tokens, weights)``: (length, N) int64, and (N, length, S), where each written token looked.

    Raises:
        ValueError: as for :func:`seq2seq_attention`, or ``length`` is below 1.
    """
    _at_least(1, "seq2seq_attention_decode", length=length)
    memory, state = _read(params, source, source_mask)
    tokens, looks = np.full((1, len(memory)), start), []
    written = np.empty((length, len(memory)), np.int64)
    for t in range(length):
        x = embedding(tokens, params["decoder"]["embedding"]["weight"])
        state, weights = _look_and_step(params, x, state, memory, source_mask)
        tokens = written[t : t + 1] = linear(state, **params["decoder"]["linear"]).argmax(-1)
        looks.append(weights)
    return written, np.concatenate(looks, axis=1)


# ---------------------------------------------------------------------------------------------------------------------
# Encoder and decoder: from one sequence to another
# ---------------------------------------------------------------------------------------------------------------------


@checked
def translator_init(
    rng: np.random.Generator,
    *,
    source_size: int,
    target_size: int,
    d_model: int = 64,
    num_encoder_layers: int = 1,
    num_decoder_layers: int = 1,
    dim_feedforward: int | None = None,
    dtype=np.float32,
) -> Tree:
    """Parameters of :func:`translator`.

    Args:
        rng: the source of randomness.
        source_size, target_size: how many tokens the two languages have.
        d_model: E features of a token, even.
        num_encoder_layers, num_decoder_layers: at least 1.
        dim_feedforward: as for :func:`transformer_encoder_layer_init`.
        dtype: a float dtype.

    Returns:
        ``source_embedding.weight`` (Vs, E), ``target_embedding.weight`` (Vt, E), ``encoder.layers.0``, ...,
        ``encoder.norm``, ``decoder.layers.0``, ..., ``decoder.norm``, ``head.weight`` (Vt, E), ``head.bias`` (Vt,).

    Raises:
        ValueError: a number of layers, tokens or features is below 1.
    """
    _at_least(1, "translator_init", source_size=source_size, target_size=target_size, d_model=d_model)
    if min(num_encoder_layers, num_decoder_layers) < 1:
        raise ValueError(f"translator_init: at least one layer each, not {num_encoder_layers} and {num_decoder_layers}")

    def stack(init, n):
        layers = {str(i): init(rng, d_model, dim_feedforward=dim_feedforward, dtype=dtype) for i in range(n)}
        return {"layers": layers, "norm": layer_norm_init(d_model, dtype=dtype)}

    return {
        "source_embedding": {"weight": rng.normal(size=(source_size, d_model)).astype(dtype)},
        "target_embedding": {"weight": rng.normal(size=(target_size, d_model)).astype(dtype)},
        "encoder": stack(transformer_encoder_layer_init, num_encoder_layers),
        "decoder": stack(transformer_decoder_layer_init, num_decoder_layers),
        "head": linear_init(rng, d_model, target_size, dtype=dtype),
    }


@checked
def translator(
    params: Branch, source: Given, target: Given, *, nhead: int, padding: int | None = None, need_weights: bool = False
):
    """The transformer with encoder and decoder, pre-norm, with sinusoidal positions (:eq:`eq-translator`).

    Args:
        params: see :func:`translator_init`.
        source: (B, Ts), tokens to read.
        target: (B, Tt), tokens written so far: a start token and then the text. Position t predicts the token after it.
        nhead: H heads, a divisor of E.
        padding: the source token that nobody looks at, if there is one.
        need_weights: whether to return the last decoder layer's attention to the source, (B, H, Tt, Ts), as well.

    Returns:
        Logits (B, Tt, Vt), or ``(logits, weights)``.

    Raises:
        ValueError: a token is no integer or out of range, or the heads do not divide E.

    PyTorch: :func:`nnbook.twins.translator`. Source: :cite:`vaswani2017`, whose norms came after.
    """
    memory = _translator_encode(params, source, nhead=nhead, padding=padding)
    left_out = None if padding is None else source == padding
    return _translator_decode(params, target, memory, nhead=nhead, left_out=left_out, need_weights=need_weights)


@checked
def translator_encode(params: Branch, source: Given, *, nhead: int, padding: int | None = None):
    """The first half of :func:`translator`: tokens (B, Ts) to the memory (B, Ts, E) that the decoder looks at."""
    left_out = None if padding is None else source == padding
    x = _with_positions(params["source_embedding"]["weight"], source)
    for i in by_number(params["encoder"]["layers"]):
        layer = params["encoder"]["layers"][i]
        x = _transformer_encoder_layer(layer, x, nhead=nhead, src_key_padding_mask=left_out, norm_first=True)
    return layer_norm(x, **params["encoder"]["norm"])


_translator_encode = inspect.unwrap(translator_encode)


@checked
def translator_decode(
    params: Branch, target: Given, memory, *, nhead: int, left_out: Given | None = None, need_weights: bool = False
):
    """The second half of :func:`translator`; ``left_out`` (B, Ts) is true for places of the memory that nobody sees."""
    x = _with_positions(params["target_embedding"]["weight"], target)
    weights = None
    for i in by_number(params["decoder"]["layers"]):
        layer = params["decoder"]["layers"][i]
        x = _transformer_decoder_layer(
            layer,
            x,
            memory,
            nhead=nhead,
            memory_key_padding_mask=left_out,
            tgt_is_causal=True,
            norm_first=True,
            need_weights=need_weights,
        )
        x, weights = x if need_weights else (x, None)
    logits = linear(layer_norm(x, **params["decoder"]["norm"]), **params["head"])
    return (logits, weights) if need_weights else logits


_translator_decode = inspect.unwrap(translator_decode)


def _with_positions(weight, tokens):
    if np.ndim(tokens) == 0:
        raise ValueError("tokens must have shape (B, T), not ()")
    return embedding(tokens, weight) + _sinusoidal_positions(np.shape(tokens)[-1], weight.shape[1], dtype=weight.dtype)


@checked
def translate(
    params: Branch,
    source: Given,
    *,
    nhead: int,
    start: int,
    length: int,
    end: int | None = None,
    padding: int | None = None,
) -> tuple[Array, Array]:
    """Write the most probable next token, again and again (greedy decoding; :eq:`eq-translate`).

    Args:
        params, source, nhead, padding: as for :func:`translator`.
        start: the token with which every target begins; it is not part of the answer.
        length: how many tokens to write, >= 1.
        end: after this token a sequence is finished: whatever follows is ``end`` as well.

    Returns:
        ``(tokens, weights)``: (B, length), and (B, H, length, Ts), where each written token looked.

    Raises:
        ValueError: as for :func:`translator`, or ``length`` is below 1.
    """
    _at_least(1, "translate", length=length)
    if source.ndim != 2:
        raise ValueError(f"translate: source must have shape (B, Ts), not {source.shape}")
    memory = _translator_encode(params, source, nhead=nhead, padding=padding)
    left_out = None if padding is None else source == padding
    tokens = np.full((len(memory), 1), start)
    for _ in range(length):
        logits, weights = _translator_decode(params, tokens, memory, nhead=nhead, left_out=left_out, need_weights=True)
        best = logits[:, -1].argmax(-1)
        if end is not None and tokens.shape[1] > 1:
            best = np.where(tokens[:, -1] == end, end, best)
        tokens = np.concatenate([tokens, best[:, None]], 1)
    return tokens[:, 1:], weights


# ---------------------------------------------------------------------------------------------------------------------
# A GPT: the decoder alone
# ---------------------------------------------------------------------------------------------------------------------


@checked
def gpt_init(
    rng: np.random.Generator,
    *,
    vocab_size: int,
    context: int,
    n_layer: int,
    n_head: int,
    n_embd: int,
    tie_weights: bool = True,
    dtype=np.float32,
) -> Tree:
    """Parameters of :func:`gpt`, named and drawn as GPT-2's: normal of standard deviation 0.02, biases 0.

    The weights that write into the residual stream (``c_proj``) are smaller by ``sqrt(2 n_layer)``, the number of
    branches that add up in it.

    Args:
        rng: the source of randomness.
        vocab_size: V tokens.
        context: the longest text, in tokens.
        n_layer: blocks, >= 1.
        n_head: H heads, a divisor of ``n_embd``.
        n_embd: E features of a token.
        tie_weights: whether the embedding also serves as the matrix of the output.
        dtype: a float dtype.

    Returns:
        ``wte.weight`` (V, E), ``wpe.weight`` (context, E), for each block ``h.0.ln_1``, ``h.0.attn.c_attn`` (3 E, E),
        ``h.0.attn.c_proj`` (E, E), ``h.0.ln_2``, ``h.0.mlp.c_fc`` (4 E, E), ``h.0.mlp.c_proj`` (E, 4 E), then ``ln_f``
        and, unless tied, ``lm_head.weight`` (V, E). Weights are (out, in).

    Raises:
        ValueError: the heads do not divide the features, or a number is below 1.

    The published weights of GPT-2 have these names too, but their linear maps are stored as (in, out). Source:
    :cite:`radford2019`.
    """
    _at_least(1, "gpt_init", vocab_size=vocab_size, context=context, n_layer=n_layer, n_head=n_head, n_embd=n_embd)
    if n_embd % n_head:
        raise ValueError(f"gpt_init: {n_head} heads do not divide {n_embd} features")

    def normal(*shape, std=0.02):
        return (std * rng.standard_normal(shape)).astype(dtype)

    def affine(out, into, std=0.02):
        return {"weight": normal(out, into, std=std), "bias": np.zeros(out, dtype)}

    small = 0.02 / math.sqrt(2 * n_layer)
    E = n_embd
    params = {
        "wte": {"weight": normal(vocab_size, E)},
        "wpe": {"weight": normal(context, E)},
        "h": {
            str(i): {
                "ln_1": layer_norm_init(E, dtype=dtype),
                "attn": {"c_attn": affine(3 * E, E), "c_proj": affine(E, E, small)},
                "ln_2": layer_norm_init(E, dtype=dtype),
                "mlp": {"c_fc": affine(4 * E, E), "c_proj": affine(E, 4 * E, small)},
            }
            for i in range(n_layer)
        },
        "ln_f": layer_norm_init(E, dtype=dtype),
    }
    return params if tie_weights else {**params, "lm_head": {"weight": normal(vocab_size, E)}}


@checked
def gpt(
    params: Branch,
    tokens: Given,
    *,
    n_head: int,
    need_weights: bool = False,
    ablate: tuple[tuple[int, int], ...] = (),
):
    """A decoder-only transformer: logits of the next token at every place (:eq:`eq-gpt`).

    Args:
        params: see :func:`gpt_init`.
        tokens: (B, T) or (T,), integers; T at most the context.
        n_head: H heads.
        need_weights: whether to return the attention weights as well.
        ablate: pairs ``(layer, head)``; what these heads put out is replaced by zeros.

    Returns:
        Logits (..., T, V), or ``(logits, weights)`` with a list of (..., H, T, T), one for each block.

    Raises:
        ValueError: the text is longer than the context, a token is no integer or out of range, or there is no such
            head to ablate.

    Pre-norm, learned positions, GELU by its tanh formula, as in GPT-2. PyTorch: :func:`nnbook.twins.gpt`. Source:
    :cite:`radford2019`.
    """
    logits, _, weights = _gpt(params, tokens, None, n_head, need_weights, ablate)
    return (logits, weights) if need_weights else logits


def _gpt(params, tokens, cache, n_head, need_weights=False, ablate=()):
    """Logits, the keys and values of every block with the cached ones before them, and the attention weights."""
    context, seen = len(params["wpe"]["weight"]), int(cache["length"]) if cache else 0
    if np.ndim(tokens) == 0:
        raise ValueError("gpt: tokens must have shape (B, T) or (T,), not ()")
    T = np.shape(tokens)[-1]
    if seen + T > context:
        raise ValueError(f"gpt: {seen + T} tokens are more than the context of {context}")
    _check_heads(ablate, len(params["h"]), n_head)
    x = embedding(tokens, params["wte"]["weight"]) + params["wpe"]["weight"][seen : seen + T]
    blocks, all_weights = {}, []
    for i in by_number(params["h"]):
        block = params["h"][i]
        silent = [head for layer, head in ablate if layer == int(i)]
        past = cache["h"][i] if cache else None
        attended, blocks[i], weights = _causal_attention(
            block["attn"], layer_norm(x, **block["ln_1"]), n_head, past, need_weights, silent
        )
        x = x + attended
        hidden = gelu(linear(layer_norm(x, **block["ln_2"]), **block["mlp"]["c_fc"]), approximate="tanh")
        x = x + linear(hidden, **block["mlp"]["c_proj"])
        all_weights.append(weights)
    head = params["lm_head"] if "lm_head" in params else params["wte"]
    logits = linear(layer_norm(x, **params["ln_f"]), head["weight"])
    return logits, {"length": seen + T, "h": blocks}, all_weights


def _causal_attention(params, x, n_head, past, need_weights, silent):
    """Multi-head self-attention under GPT-2's names, with the keys and values of earlier tokens before the new ones."""
    names = {"in_proj_weight": params["c_attn"]["weight"], "in_proj_bias": params["c_attn"]["bias"]}
    q, k, v = _projected(names, x, x, x, n_head)
    mask = None
    if past is not None:
        k, v = concatenate(past["k"], k, axis=-2), concatenate(past["v"], v, axis=-2)
        if q.shape[-2] > 1:  # a single new token sees all
            mask = _causal(q.shape[-2], k.shape[-2], k.shape[-2] - q.shape[-2])
    y, weights = _attend(q, k, v, mask, past is None, need_weights)
    if silent:
        y = where(np.isin(np.arange(n_head), silent)[:, None, None], 0.0, y)
    return linear(_merge_heads(y), **params["c_proj"]), {"k": k, "v": v}, weights


def _check_heads(ablate, n_layer, n_head):
    for layer, head in ablate:
        if not (0 <= layer < n_layer and 0 <= head < n_head):
            raise ValueError(f"gpt: there is no head {head} in layer {layer} of {n_layer} layers of {n_head} heads")


@checked
def gpt_loss(params: Branch, x: Given, y: Given, *, n_head: int):
    """Mean cross-entropy in nats of the next token (:eq:`eq-gpt_loss`).

    Args:
        params: see :func:`gpt_init`.
        x: (B, T), tokens.
        y: (B, T), at each place the token after it: ``x`` one further.
        n_head: H heads.

    Returns:
        A scalar; ``exp`` of it is the perplexity.

    Raises:
        ValueError: x and y differ in shape, and as for :func:`gpt`.
    """
    if np.shape(x) != np.shape(y):
        raise ValueError(f"gpt_loss: x of shape {np.shape(x)} and y of shape {np.shape(y)} differ")
    logits, _, _ = _gpt(params, x, None, n_head)
    return cross_entropy(logits.reshape(-1, logits.shape[-1]), np.reshape(y, -1))


@checked
def gpt_cache(params: Branch, batch: int | None = None, *, n_head: int) -> Tree:
    """An empty cache for :func:`gpt_step`: ``length`` 0 and, for each block, no keys ``k`` and no values ``v``.

    Args:
        params: see :func:`gpt_init`.
        batch: B sequences; ``None`` for one without an axis of its own.
        n_head: H heads.

    Returns:
        ``{"length": 0, "h": {"0": {"k": (B, H, 0, d), "v": (B, H, 0, d)}, ...}}``.
    """
    weight = params["wte"]["weight"]
    _at_least(1, "gpt_cache", n_head=n_head)
    if weight.ndim != 2 or weight.shape[1] % n_head or (batch is not None and batch < 0):
        raise ValueError(f"gpt_cache: no cache of {n_head} heads for {batch} sequences and embeddings {weight.shape}")
    lead = () if batch is None else (batch,)
    empty = np.zeros((*lead, n_head, 0, weight.shape[1] // n_head), weight.dtype)
    return {"length": 0, "h": {i: {"k": empty, "v": empty} for i in by_number(params["h"])}}


@checked
def gpt_step(params: Branch, tokens: Given, cache: dict, *, n_head: int) -> tuple[Any, Tree]:
    """:func:`gpt` for the tokens that are new; what it needs of the earlier ones stands in the cache.

    A token's keys and values depend on nothing after it, so they need not be computed twice (:eq:`eq-gpt_step`).

    Args:
        params: see :func:`gpt_init`.
        tokens: (B, t) or (t,), the new tokens.
        cache: from :func:`gpt_cache` or from the step before; it is left as it is.
        n_head: H heads.

    Returns:
        ``(logits, cache)``: (..., t, V), and the longer cache.

    Raises:
        ValueError: as for :func:`gpt`.
    """
    logits, cache, _ = _gpt(params, tokens, cache, n_head)
    return logits, cache


# ---------------------------------------------------------------------------------------------------------------------
# Writing: which token next
# ---------------------------------------------------------------------------------------------------------------------


@checked
def top_k_filter(logits, k: int) -> Array:
    """The k largest logits; the others become -inf (:eq:`eq-top_k_filter`). What ties with the k-th stays.

    Args:
        logits: (..., V).
        k: >= 1; more than V keeps all.

    Raises:
        ValueError: ``k`` is below 1, there is no token, or a logit is nan or infinitely large.

    Source: :cite:`fan2018`.
    """
    _at_least(1, "top_k_filter", k=k)
    _check_logits("top_k_filter", logits)
    if k >= logits.shape[-1]:
        return logits.copy()
    kth = np.partition(logits, -k, axis=-1)[..., -k, None]
    return np.where(logits >= kth, logits, -np.inf).astype(logits.dtype)


@checked
def top_p_filter(logits, p: float) -> Array:
    """The fewest tokens whose probabilities sum to at least p; the other logits become -inf (:eq:`eq-top_p_filter`).

    Args:
        logits: (..., V).
        p: 0 < p <= 1. The most probable token always stays; of equal ones the first.

    Raises:
        ValueError: ``p`` is out of range, there is no token, or a logit is nan or infinitely large.

    Also called nucleus sampling. Source: :cite:`holtzman2020`.
    """
    if not 0 < p <= 1:
        raise ValueError(f"top_p_filter: p must lie in (0, 1], not {p}")
    _check_logits("top_p_filter", logits)
    if p == 1:  # all of them; a sum that is rounded to 1 too early would lose the least probable
        return logits.copy()
    order = np.argsort(-logits, axis=-1, kind="stable")
    falling = np.take_along_axis(softmax(logits.astype(np.float64)), order, -1)
    before = np.cumsum(falling, -1) - falling  # the probability of all that are more probable
    keep = np.empty(logits.shape, bool)
    np.put_along_axis(keep, order, before < p, -1)
    return np.where(keep, logits, -np.inf).astype(logits.dtype)


def _check_logits(name, logits):
    highest = np.max(logits, axis=-1) if np.ndim(logits) and logits.shape[-1] else np.array(np.nan)
    if not np.isfinite(highest).all():
        raise ValueError(f"{name}: of logits of shape {np.shape(logits)} the largest must be finite, not {highest}")


@checked
def generate(
    params: Branch,
    tokens: Given,
    *,
    n_head: int,
    length: int,
    rng: np.random.Generator | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    cache: bool = True,
) -> Array:
    """Continue a text, token by token (:eq:`eq-generate`).

    Args:
        params: see :func:`gpt_init`.
        tokens: (B, T) or (T,), the text so far, T >= 1. The model sees the last ``context`` tokens.
        n_head: H heads.
        length: how many tokens to add.
        rng: the source of randomness; not needed at temperature 0.
        temperature: >= 0. The logits are divided by it; 0 takes the most probable token.
        top_k: see :func:`top_k_filter`; applied after the temperature.
        top_p: see :func:`top_p_filter`; applied last.
        cache: whether to keep keys and values; the tokens are the same. Once the text is longer than the context all
            places move with every token, and it is computed anew in any case.

    Returns:
        (B, T + length) or (T + length,).

    Raises:
        ValueError: there is no token to begin with, ``temperature`` is negative, or no ``rng`` where one is needed.
    """
    if tokens.ndim not in (1, 2) or tokens.shape[-1] == 0:
        raise ValueError(f"generate: begin with tokens of shape (T,) or (B, T), T >= 1, not {tokens.shape}")
    if not temperature >= 0:
        raise ValueError(f"generate: temperature must be >= 0, not {temperature}")
    if temperature > 0 and rng is None:
        raise ValueError("generate: rng must be a numpy.random.Generator, not None, unless the temperature is 0")
    _at_least(0, "generate", length=length)
    context = len(params["wpe"]["weight"])
    state = gpt_cache(params, None if tokens.ndim == 1 else len(tokens), n_head=n_head)
    for _ in range(length):
        if cache and tokens.shape[-1] <= context:
            logits, state, _ = _gpt(params, tokens[..., state["length"] :], state, n_head)
        else:
            logits, _, _ = _gpt(params, tokens[..., -context:], None, n_head)
        new = _draw(rng, logits[..., -1, :], temperature, top_k, top_p)
        tokens = np.concatenate([tokens, new[..., None]], -1)
    return tokens


def _draw(rng, logits, temperature, top_k, top_p):
    if temperature > 0:
        logits = logits.astype(np.float64)
        with np.errstate(over="ignore"):  # near temperature 0 all but the largest are -inf
            logits, temperature = (logits - logits.max(-1, keepdims=True)) / temperature, 1.0
        if top_k is not None:
            logits = top_k_filter(logits, top_k)
        if top_p is not None:
            logits = top_p_filter(logits, top_p)
    return sample(rng, logits, temperature=temperature)


# ---------------------------------------------------------------------------------------------------------------------
# How many parameters, how many operations
# ---------------------------------------------------------------------------------------------------------------------


@checked
def gpt_flops(params: Branch, T: int) -> int:
    """Operations of the matrix products in one forward pass of :func:`gpt` over T tokens (:eq:`eq-gpt_flops`).

    Two for each weight of a matrix and each token, one multiplication and one addition, and ``4 T^2 E`` for the scores
    and averages of each block, counted in full as if nothing were masked, as PyTorch's counter does. (For T > 128 the
    causal attention here computes less.) Norms, softmax and activations are left out: they grow only linearly with the
    width.

    Args:
        params: see :func:`gpt_init`.
        T: tokens.

    Raises:
        ValueError: T is negative.
    """
    _at_least(0, "gpt_flops", T=T)
    V, E = params["wte"]["weight"].shape
    matrices = np.sum([np.size(leaf) for name, leaf in flatten(params["h"]).items() if np.ndim(leaf) == 2])
    return int(2 * T * (matrices + V * E) + 4 * T**2 * E * len(params["h"]))


@checked
def training_flops(N: float, D: float) -> float:
    """``6 N D``: about so many operations train N parameters on D tokens (:eq:`eq-training_flops`).

    Two forward for each parameter and token, and four backward: a product for the weights and one for the inputs.
    Source: :cite:`kaplan2020`.
    """
    return 6 * N * D


# ---------------------------------------------------------------------------------------------------------------------
# Byte-pair encoding: tokens between characters and words
# ---------------------------------------------------------------------------------------------------------------------


@checked
def bpe_train(text: str | bytes, vocab_size: int) -> list[tuple[int, int]]:
    """Merge the most frequent pair of neighbouring tokens into a new token, again and again (:eq:`eq-bpe_train`).

    Args:
        text: bytes, or a string, which counts as its UTF-8 bytes.
        vocab_size: how many tokens to have in the end, >= 256. Tokens 0 to 255 are the bytes.

    Returns:
        The merges in their order: merge i makes token 256 + i of two earlier ones. Of equally frequent pairs the
        smallest is taken. It stops early when no pair occurs twice.

    Raises:
        ValueError: ``vocab_size`` is below 256.

    Nothing keeps a token from running across words; GPT-2 splits the text into words before. Sources:
    :cite:`gage1994`, :cite:`sennrich2016`.
    """
    if vocab_size < 256:
        raise ValueError(f"bpe_train: vocab_size must be at least 256, the number of bytes, not {vocab_size}")
    tokens, merges = _bytes(text), []
    for new in range(256, vocab_size):
        pairs, counts = np.unique(tokens[:-1] * vocab_size + tokens[1:], return_counts=True)
        if not counts.size or counts.max() < 2:
            break
        left, right = divmod(int(pairs[counts.argmax()]), vocab_size)
        merges.append((left, right))
        tokens = _merge(tokens, left, right, new)
    return merges


def _bytes(text) -> Array:
    if not isinstance(text, (str, bytes, bytearray, memoryview)):
        raise ValueError(f"the text must be a string or bytes, not {type(text).__name__}")
    return np.frombuffer(text.encode() if isinstance(text, str) else bytes(text), np.uint8).astype(np.int64)


def _merge(tokens, left, right, new):
    """Every pair (left, right) becomes one token, from left to right, so that of three equal ones the first two do."""
    places = np.flatnonzero((tokens[:-1] == left) & (tokens[1:] == right))
    if left == right and places.size:
        starts = np.flatnonzero(np.diff(places, prepend=-2) != 1)  # where a run of overlapping pairs begins
        places = places[(np.arange(places.size) - np.repeat(starts, np.diff(starts, append=places.size))) % 2 == 0]
    tokens = tokens.copy()
    tokens[places] = new
    return np.delete(tokens, places + 1)


@checked
def bpe_encode(text: str | bytes, merges: list[tuple[int, int]]) -> Array:
    """Text to tokens: the merges, in the order in which they were learned.

    Args:
        text: bytes or a string.
        merges: see :func:`bpe_train`.

    Returns:
        (n,), integers from 0 to 255 + the number of merges.
    """
    tokens = _bytes(text)
    for i, (left, right) in enumerate(merges):
        tokens = _merge(tokens, left, right, 256 + i)
    return tokens


@checked
def bpe_vocabulary(merges: list[tuple[int, int]]) -> list[bytes]:
    """The bytes that each token stands for, the 256 single ones first.

    Raises:
        ValueError: a merge is not of two earlier tokens.
    """
    words = [bytes([i]) for i in range(256)]
    for left, right in merges:
        if not (0 <= left < len(words) and 0 <= right < len(words)):
            raise ValueError(f"bpe_vocabulary: {left} and {right} cannot be merged into token {len(words)}")
        words.append(words[left] + words[right])
    return words


@checked
def bpe_decode(tokens: Given, merges: list[tuple[int, int]]) -> bytes:
    """Tokens to bytes, the inverse of :func:`bpe_encode`.

    The bytes of a sequence of tokens need not be valid UTF-8: ``.decode(errors="replace")`` makes a string of any.

    Raises:
        ValueError: a token is no integer or out of range.
    """
    words = bpe_vocabulary(merges)
    if tokens.ndim != 1 or (tokens.size and tokens.dtype.kind not in "iu"):
        raise ValueError(f"bpe_decode: tokens must be (n,) integers, not {tokens.dtype} of shape {tokens.shape}")
    if ((tokens < 0) | (tokens >= len(words))).any():
        raise ValueError(f"bpe_decode: tokens must be from 0 to {len(words) - 1}, not {tokens}")
    return b"".join(words[t] for t in tokens)
