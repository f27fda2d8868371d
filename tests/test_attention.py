"""Chapter 8 as statements about mathematics: equations transcribed with loops, cases by hand, invariances, twins."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nnbook.attention as attention_module
import nnbook.backprop as engine
from nnbook import twins
from nnbook.attention import (
    additive_score,
    additive_score_init,
    alibi_bias,
    alibi_slopes,
    attention_weights,
    bilinear_score,
    bilinear_score_init,
    blockwise_attention,
    bpe_decode,
    bpe_encode,
    bpe_train,
    bpe_vocabulary,
    causal_mask,
    cosine_score,
    dot_score,
    generate,
    gpt,
    gpt_cache,
    gpt_flops,
    gpt_init,
    gpt_loss,
    gpt_step,
    grouped_query_attention,
    masked_softmax,
    merge_heads,
    multi_head_attention,
    multi_head_attention_init,
    padding_mask,
    rope,
    scaled_dot_product_attention,
    scaled_dot_score,
    seq2seq_attention,
    seq2seq_attention_decode,
    seq2seq_attention_init,
    sinusoidal_positions,
    split_heads,
    top_k_filter,
    top_p_filter,
    training_flops,
    transformer_decoder_layer,
    transformer_decoder_layer_init,
    transformer_encoder_layer,
    transformer_encoder_layer_init,
    translate,
    translator,
    translator_decode,
    translator_encode,
    translator_init,
)
from nnbook.backprop import flatten, gradient_error, tree_map, value_and_grad, vjp
from nnbook.cnn import parameter_count
from nnbook.neurons import softmax
from nnbook.optimizers import adamw, adamw_init
from nnbook.references import REFERENCES
from nnbook.rnn import greedy_decode, length_mask, seq2seq, seq2seq_init
from nnbook.training import from_torch, load, lockstep, save, to_torch
from nnbook.verify import error, rejects, verify

F = torch.nn.functional
PRIMITIVES = [masked_softmax, scaled_dot_product_attention, blockwise_attention, rope]
BOUND = {np.float64: 1e-12, np.float32: 2e-5}
"""Largest error of a network against its twin, relative to the largest entry."""


@pytest.fixture
def rng():
    return np.random.default_rng(8)


def pulled(f, *args, dy, **static):
    """The value and the cotangents for the upstream ``dy``."""
    y, pull = vjp(f, *args, **static)
    return y, *pull(np.asarray(dy, y.dtype))


def tensors(*arrays):
    return [torch.tensor(a, requires_grad=np.asarray(a).dtype.kind == "f") for a in arrays]


def pulled_by_torch(f, *args, dy):
    """The same by PyTorch, as arrays."""
    leaves = tensors(*args)
    y = f(*leaves)
    floats = [leaf for leaf in leaves if leaf.requires_grad]
    return [y.detach().numpy(), *(g.numpy() for g in torch.autograd.grad(y, floats, torch.tensor(dy)))]


def randomized(params, rng, scale=0.5):
    """Parameters none of which is 0 or 1, so that no bias and no scale goes untested."""
    return tree_map(lambda a: (a + scale * rng.normal(size=a.shape)).astype(a.dtype), params)


def compare_with_module(f, params, module, inputs, dtype, rng):
    """Value, and the gradient of every parameter and input, of ``f(params, *inputs)`` and a torch module."""
    module.to(torch.float64 if dtype is np.float64 else torch.float32).train()
    module.load_state_dict(to_torch(params))
    y, pull = vjp(f, params, *inputs)
    dy = rng.normal(size=y.shape).astype(dtype)
    grads, *dinputs = pull(dy)
    leaves = tensors(*inputs)
    theirs = module(*leaves)
    theirs.backward(torch.tensor(dy))
    assert error(y, theirs.detach().numpy()) < BOUND[dtype]
    named = dict(module.named_parameters())
    assert named.keys() == flatten(grads).keys()
    for name, g in flatten(grads).items():
        assert g.dtype == dtype
        assert error(g, named[name].grad.numpy()) < BOUND[dtype], name
    for g, leaf in zip(dinputs, leaves, strict=True):
        if leaf.requires_grad:
            assert error(g, leaf.grad.numpy()) < BOUND[dtype]


@pytest.mark.parametrize("op", PRIMITIVES, ids=lambda op: op.__name__)
def test_three_ways(op):
    result = verify(op)
    assert result.ok, result.details()


# Scores --------------------------------------------------------------------------------------------------------------

Q = np.array([[1.0, 0.0], [1.0, 1.0]])
K = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 4.0]])


def test_scores_by_hand():
    assert np.array_equal(dot_score(Q, K), [[2, 0, 3], [2, 1, 7]])
    assert np.allclose(scaled_dot_score(Q, K), np.array([[2, 0, 3], [2, 1, 7]]) / math.sqrt(2), rtol=1e-15)
    assert np.array_equal(scaled_dot_score(Q, K, scale=0.5), [[1, 0, 1.5], [1, 0.5, 3.5]])
    r = math.sqrt(0.5)
    assert np.allclose(cosine_score(Q, K), [[1, 0, 0.6], [r, r, 1.4 * r]], rtol=1e-15)
    assert np.array_equal(bilinear_score(Q, K, np.array([[0.0, 1.0], [2.0, 0.0]])), [[0, 1, 4], [4, 1, 10]])


def loops(score, q, k):
    return np.array([[score(a, b) for b in k] for a in q])


def test_scores_with_loops(rng):
    q, k, other = rng.normal(size=(4, 3)), rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
    weight = bilinear_score_init(rng, 3, 2, dtype=np.float64)
    params = additive_score_init(rng, 3, 2, 6, dtype=np.float64)

    def dot(a, b):
        return math.fsum(x * y for x, y in zip(a, b, strict=True))

    def bilinear(a, b):
        return math.fsum(a[i] * weight[i, j] * b[j] for i in range(3) for j in range(2))

    def additive(a, b):
        W, U, v = (params[name]["weight"] for name in ("query", "key", "score"))
        hidden = [math.tanh(dot(W[m], a) + dot(U[m], b)) for m in range(6)]
        return dot(v[0], hidden)

    assert np.allclose(dot_score(q, k), loops(dot, q, k), rtol=1e-13)
    assert np.allclose(scaled_dot_score(q, k), loops(dot, q, k) / math.sqrt(3), rtol=1e-13)
    cosines = loops(lambda a, b: dot(a, b) / math.sqrt(dot(a, a) * dot(b, b)), q, k)
    assert np.allclose(cosine_score(q, k), cosines, rtol=1e-13)
    assert np.allclose(bilinear_score(q, other, weight), loops(bilinear, q, other), rtol=1e-12)
    assert np.allclose(additive_score(q, other, params), loops(additive, q, other), rtol=1e-12)


def test_scores_have_right_gradients(rng):
    params = {
        "q": rng.normal(size=(2, 4, 3)),
        "k": rng.normal(size=(2, 5, 3)),
        "w": rng.normal(size=(3, 3)),
        "net": additive_score_init(rng, 3, 3, 4, dtype=np.float64),
    }
    dy = rng.normal(size=(2, 4, 5))
    for score in (
        lambda p: dot_score(p["q"], p["k"]),
        lambda p: scaled_dot_score(p["q"], p["k"], scale=0.7),
        lambda p: cosine_score(p["q"], p["k"]),
        lambda p: bilinear_score(p["q"], p["k"], p["w"]),
        lambda p: additive_score(p["q"], p["k"], p["net"]),
    ):
        assert gradient_error(lambda p, score=score: (dy * score(p)).sum(), params) < 1e-8


def test_cosine_is_torchs_and_takes_zero_vectors(rng):
    q, k = rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 5, 3))
    theirs = F.cosine_similarity(torch.tensor(q)[:, :, None], torch.tensor(k)[:, None], dim=-1).numpy()
    assert error(cosine_score(q, k), theirs) < 1e-14
    assert np.abs(cosine_score(50 * q, q)).max() <= 1 + 1e-15
    q[0, 1] = 0
    y, dq, dk = pulled(cosine_score, q, k, dy=np.ones((2, 4, 5)))
    assert np.array_equal(y[0, 1], np.zeros(5))
    assert np.isfinite(dq).all()
    assert np.isfinite(dk).all()


def test_the_scale_keeps_the_variance_of_scores_at_1(rng):
    for d in (4, 64, 256):
        s = dot_score(rng.normal(size=(300, d)), rng.normal(size=(300, d)))
        assert abs(s.var() / d - 1) < 0.1
        q, k = rng.normal(size=(300, d)), rng.normal(size=(300, d))
        assert abs(scaled_dot_score(q, k).var() - 1) < 0.1


def test_scores_keep_float32_and_broadcast(rng):
    q, k = rng.normal(size=(2, 1, 4, 3)).astype(np.float32), rng.normal(size=(3, 5, 3)).astype(np.float32)
    for y in (
        dot_score(q, k),
        scaled_dot_score(q, k, scale=np.float64(0.5)),
        cosine_score(q, k),
        bilinear_score(q, k, bilinear_score_init(rng, 3, 3)),
        additive_score(q, k, additive_score_init(rng, 3, 3, 4)),
    ):
        assert y.dtype == np.float32
        assert y.shape == (2, 3, 4, 5)


def test_scores_refuse_what_does_not_fit(rng):
    for score in (dot_score, scaled_dot_score, cosine_score):
        with pytest.raises(ValueError, match=r"\(4, 3\).*\(5, 2\)"):
            score(np.ones((4, 3)), np.ones((5, 2)))
        with pytest.raises(ValueError, match=r"\(3,\).*\(5, 3\)"):
            score(np.ones(3), np.ones((5, 3)))
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(4, 3\).*\(5, 2\)"):
        bilinear_score(np.ones((4, 3)), np.ones((5, 2)), np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"\(4, 2\)"):
        additive_score(np.ones((4, 2)), np.ones((5, 3)), additive_score_init(rng, 3, 3, 4))
    with pytest.raises(ValueError, match="eps must be > 0, not 0"):
        cosine_score(Q, K, eps=0)


# Masks ---------------------------------------------------------------------------------------------------------------


def test_masks_by_hand():
    assert causal_mask(3).tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    assert causal_mask(2, 4, offset=1).tolist() == [[True, True, False, False], [True, True, True, False]]
    assert np.array_equal(causal_mask(5, 7), torch.ones(5, 7, dtype=torch.bool).tril().numpy())
    assert padding_mask([2, 0, 3], 3).tolist() == [[True, True, False], [False] * 3, [True] * 3]
    for wrong in ([4], [-1], [1.5], [[1]]):
        with pytest.raises(ValueError, match="lengths must be integers from 0 to 3"):
            padding_mask(wrong, 3)


def test_masked_softmax_is_softmax_of_what_takes_part(rng):
    s = rng.normal(size=(6, 5))
    assert np.allclose(masked_softmax(s), softmax(s), rtol=1e-15)
    seen = rng.random((6, 5)) < 0.6
    p = masked_softmax(s, seen)
    for row, weights, part in zip(s, p, seen, strict=True):
        assert np.array_equal(weights[~part], np.zeros((~part).sum()))
        if part.any():
            assert np.allclose(weights[part], softmax(row[part]), rtol=1e-14)
    assert np.allclose(masked_softmax(s, np.where(seen, 0, -np.inf)), p, rtol=1e-15)
    with np.errstate(all="raise"):
        assert np.array_equal(masked_softmax(s, np.zeros((6, 5), bool)), np.zeros((6, 5)))
    assert np.allclose(masked_softmax(np.arange(3)), softmax(np.arange(3.0)), rtol=1e-15)  # integers count as floats
    assert masked_softmax(np.zeros((2, 0))).shape == (2, 0)


# Attention -----------------------------------------------------------------------------------------------------------


def test_attention_by_hand():
    """Weights 3/4 and 1/4: scores log 3 and 0."""
    q, k, v = np.array([[1.0]]), np.array([[math.log(3)], [0.0]]), np.array([[4.0], [8.0]])
    assert np.allclose(attention_weights(q, k), [[0.75, 0.25]], rtol=1e-15)
    y, dq, dk, dv = pulled(scaled_dot_product_attention, q, k, v, dy=[[1.0]])
    assert np.allclose(y, [[5]], rtol=1e-15)
    assert np.allclose(dv, [[0.75], [0.25]], rtol=1e-15)
    # dp = (4, 8), its mean under the weights is 5, ds = (3/4 (4 - 5), 1/4 (8 - 5)) = (-3/4, 3/4)
    assert np.allclose(dk, [[-0.75], [0.75]], rtol=1e-14)
    assert np.allclose(dq, [[-0.75 * math.log(3)]], rtol=1e-14)


def attention_with_loops(q, k, v, seen, scale):
    y, p = np.zeros((len(q), v.shape[1])), np.zeros((len(q), len(k)))
    for i in range(len(q)):
        keys = [j for j in range(len(k)) if seen[i, j]]
        s = {j: scale * math.fsum(q[i, c] * k[j, c] for c in range(q.shape[1])) for j in keys}
        total = math.fsum(math.exp(s[j]) for j in keys)
        for j in keys:
            p[i, j] = math.exp(s[j]) / total
            for c in range(v.shape[1]):
                y[i, c] += p[i, j] * v[j, c]
    return y, p


def attention_vjp_with_loops(dy, p, q, k, v, scale):
    """Entry by entry, with the Jacobian of softmax written out: dp_j / ds_l = p_j (delta_jl - p_l)."""
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    n, m = p.shape
    for i in range(n):
        dp = [sum(dy[i, c] * v[j, c] for c in range(v.shape[1])) for j in range(m)]
        ds = [sum(dp[j] * p[i, j] * ((j == t) - p[i, t]) for j in range(m)) for t in range(m)]
        for j in range(m):
            for c in range(v.shape[1]):
                dv[j, c] += p[i, j] * dy[i, c]
            for c in range(q.shape[1]):
                dq[i, c] += scale * ds[j] * k[j, c]
                dk[j, c] += scale * ds[j] * q[i, c]
    return dq, dk, dv


@pytest.mark.parametrize("kind", ["all", "causal", "mask", "mask and causal", "empty row"])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_and_its_vjp_with_loops(rng, kind, scale):
    q, k, v, dy = (rng.normal(size=shape) for shape in ((5, 3), (6, 3), (6, 2), (5, 2)))
    mask = rng.random((5, 6)) < 0.6 if kind in ("mask", "mask and causal", "empty row") else None
    if kind == "empty row":
        mask[2] = False
    seen = np.ones((5, 6), bool) if mask is None else mask
    is_causal = "causal" in kind
    if is_causal:
        seen = seen & np.array([[j <= i for j in range(6)] for i in range(5)])
    factor = 1 / math.sqrt(3) if scale is None else scale
    y, p = attention_with_loops(q, k, v, seen, factor)
    ours = pulled(lambda *a: scaled_dot_product_attention(*a, mask, is_causal=is_causal, scale=scale), q, k, v, dy=dy)
    for a, b in zip(ours, (y, *attention_vjp_with_loops(dy, p, q, k, v, factor)), strict=True):
        assert error(a, b) < 1e-13
    assert error(attention_weights(q, k, mask, is_causal=is_causal, scale=scale), p) < 1e-14


masks = st.sampled_from(["none", "bool", "bool of keys", "float", "float of heads", "-inf", "empty rows"])


def draw_mask(rng, kind, B, H, Tq, Tk):
    if kind == "none":
        return None
    if kind == "bool of keys":
        mask = rng.random((B, 1, 1, Tk)) < 0.6
        mask[..., 0] = True
        return mask
    if kind == "float of heads":
        return rng.normal(size=(H, Tq, Tk))
    seen = rng.random((B, H, Tq, Tk)) < 0.6
    seen[..., 0] = True
    if kind == "empty rows":
        seen[:, :, -1] = False
    if kind in ("bool", "empty rows"):
        return seen
    bias = rng.normal(size=seen.shape)
    return np.where(seen, bias, -np.inf) if kind == "-inf" else bias


@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(2, 9), st.integers(1, 5)),
    kind=masks,
    is_causal=st.booleans(),
    scale=st.sampled_from([None, 0.2, 2.0]),
    dtype=st.sampled_from([np.float64, np.float32]),
    seed=st.integers(0, 2**16),
)
def test_attention_is_torchs_with_every_mask(sizes, kind, is_causal, scale, dtype, seed):
    (B, H, Tq, Tk, d), rng = sizes, np.random.default_rng(seed)
    q, k, v = (rng.normal(size=(B, H, T, d)).astype(dtype) for T in (Tq, Tk, Tk))
    dy = rng.normal(size=q.shape).astype(dtype)
    mask = draw_mask(rng, kind, B, H, Tq, Tk)
    if mask is not None and mask.dtype != bool:
        mask = mask.astype(dtype)
    combined = None if mask is None else torch.tensor(mask)
    if mask is not None and is_causal:
        future = torch.ones(Tq, Tk, dtype=torch.bool).triu(1)
        combined = combined & ~future if mask.dtype == bool else combined.masked_fill(future, -torch.inf)
    ours = pulled(lambda *a: scaled_dot_product_attention(*a, mask, is_causal=is_causal, scale=scale), q, k, v, dy=dy)
    theirs = pulled_by_torch(
        lambda *a: F.scaled_dot_product_attention(
            *a, attn_mask=combined, is_causal=is_causal and mask is None, scale=scale
        ),
        q,
        k,
        v,
        dy=dy,
    )
    eps = np.finfo(dtype).eps
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == dtype
        assert np.abs(a - b).max() < 200 * eps * max(1, np.abs(b).max())
    weights = attention_weights(q, k, mask, is_causal=is_causal, scale=scale)
    assert weights.dtype == dtype
    assert np.abs(weights @ v - ours[0]).max() < 200 * eps * max(1, np.abs(ours[0]).max())


def test_a_query_without_keys_gets_zeros_and_sends_no_gradient(rng):
    q, k, v, dy = (rng.normal(size=shape) for shape in ((3, 2), (4, 2), (4, 5), (3, 5)))
    seen = np.ones((3, 4), bool)
    seen[1] = False
    with np.errstate(all="raise"):
        for mask in (seen, np.where(seen, 0.0, -np.inf)):
            y, dq, dk, dv, dmask = pulled(scaled_dot_product_attention, q, k, v, mask, dy=dy)
            assert np.array_equal(y[1], np.zeros(5))
            assert np.array_equal(dq[1], np.zeros(2))
            assert dmask is None or np.array_equal(dmask[1], np.zeros(4))
            rest = pulled(scaled_dot_product_attention, q[[0, 2]], k, v, dy=dy[[0, 2]])
            assert error(dk, rest[2]) < 1e-14
            assert error(dv, rest[3]) < 1e-14
    theirs = pulled_by_torch(
        lambda *a: F.scaled_dot_product_attention(*a, attn_mask=torch.tensor(seen)), q, k, v, dy=dy
    )
    assert np.array_equal(theirs[0][1], np.zeros(5))  # what the docstring says of PyTorch
    none = np.zeros((3, 4), bool)
    for g in pulled(lambda *a: scaled_dot_product_attention(*a, none), q, k, v, dy=dy):
        assert not g.any()


def test_no_key_at_all_is_a_row_without_keys():
    for f in (scaled_dot_product_attention, blockwise_attention):
        y, *grads = pulled(f, np.ones((3, 2)), np.ones((0, 2)), np.ones((0, 4)), dy=np.ones((3, 4)))
        assert np.array_equal(y, np.zeros((3, 4)))
        assert [g.shape for g in grads] == [(3, 2), (0, 2), (0, 4)]
        assert not grads[0].any()


def test_one_key_gets_all_the_weight(rng):
    q, k, v, dy = rng.normal(size=(4, 3)), rng.normal(size=(1, 3)), rng.normal(size=(1, 2)), rng.normal(size=(4, 2))
    for f in (scaled_dot_product_attention, blockwise_attention):
        y, dq, dk, dv = pulled(f, q, k, v, dy=dy)
        assert error(y, np.repeat(v, 4, 0)) < 1e-15
        assert np.abs(dq).max() < 1e-15
        assert np.abs(dk).max() < 1e-14
        assert error(dv, dy.sum(0, keepdims=True)) < 1e-15


def test_the_order_of_the_keys_does_not_matter_nor_a_constant_added_to_the_scores(rng):
    q, k, v = rng.normal(size=(4, 3)), rng.normal(size=(6, 3)), rng.normal(size=(6, 2))
    order = rng.permutation(6)
    y = scaled_dot_product_attention(q, k, v)
    assert error(scaled_dot_product_attention(q, k[order], v[order]), y) < 1e-14
    assert error(scaled_dot_product_attention(q, k, v, np.full((4, 1), 7.5)), y) < 1e-14
    assert error(scaled_dot_product_attention(q, k + rng.normal(size=3), v), y) < 1e-14


@pytest.mark.parametrize("T", [127, 128, 129, 300])
def test_blocks_of_queries_leave_no_seam(rng, T):
    q, k, v, dy = rng.normal(size=(4, 2, T, 4))
    ours = pulled(scaled_dot_product_attention, q, k, v, dy=dy, is_causal=True)
    theirs = pulled_by_torch(lambda *a: F.scaled_dot_product_attention(*a, is_causal=True), q, k, v, dy=dy)
    for a, b in zip(ours, theirs, strict=True):
        assert error(a, b) < 1e-13


@pytest.mark.parametrize("lead", [(), (5,), (2, 3), (2, 1, 3), (0, 2)])
@pytest.mark.parametrize(("rows", "scores"), [(2, 1), (3, 40), (128, 70), (128, 10**6)])
def test_the_pieces_of_the_work_make_no_difference(rng, monkeypatch, lead, rows, scores):
    q, k, v, dy = rng.normal(size=(4, *lead, 7, 4))
    mask = rng.random((*lead, 7, 7)) < 0.7
    options = {"is_causal": True}
    before = pulled(scaled_dot_product_attention, q, k, v, mask, dy=dy, **options)
    blocks = pulled(blockwise_attention, q, k, v, dy=dy, block_size=3, **options)
    monkeypatch.setattr(attention_module, "ROWS", rows)
    monkeypatch.setattr(attention_module, "SCORES", scores)
    after = pulled(scaled_dot_product_attention, q, k, v, mask, dy=dy, **options)
    again = pulled(blockwise_attention, q, k, v, dy=dy, block_size=3, **options)
    for a, b in zip((*after[:4], *again), (*before[:4], *blocks), strict=True):
        assert error(a, b) < 1e-14


def test_the_mask_is_not_upside_down(rng):
    """A boolean mask says who takes part: values that do not can be anything."""
    q, k, v = rng.normal(size=(4, 3)), rng.normal(size=(6, 3)), rng.normal(size=(6, 2))
    seen = np.array([True, True, False, True, False, True])
    y = scaled_dot_product_attention(q, k, v, seen)
    v[~seen] = 1e9
    assert error(scaled_dot_product_attention(q, k, v, seen), y) < 1e-14
    assert error(y, scaled_dot_product_attention(q, k[seen], v[seen])) < 1e-14


def test_mixed_dtypes_and_integers():
    q = np.arange(6).reshape(2, 3)
    assert scaled_dot_product_attention(q, q, q).dtype == np.float64
    one = np.ones((2, 3), np.float32)
    assert scaled_dot_product_attention(one, one, one, np.zeros((2, 2))).dtype == np.float32  # the mask has no say
    assert scaled_dot_product_attention(one, one, one.astype(float)).dtype == np.float64


def test_a_learned_bias_gets_its_gradient(rng):
    params = {"q": rng.normal(size=(3, 4, 2)), "bias": rng.normal(size=(1, 4))}
    dy = rng.normal(size=(3, 4, 2))

    def loss(p):
        return (dy * scaled_dot_product_attention(p["q"], p["q"], p["q"], p["bias"], is_causal=True)).sum()

    assert gradient_error(loss, params) < 1e-8


# Block by block ------------------------------------------------------------------------------------------------------


@given(
    lead=st.sampled_from([(), (2,), (2, 3)]),
    Tq=st.integers(1, 17),
    Tk=st.integers(1, 17),
    d=st.integers(1, 4),
    block_size=st.integers(1, 20),
    is_causal=st.booleans(),
    scale=st.sampled_from([None, 3.0]),
    dtype=st.sampled_from([np.float64, np.float32]),
    seed=st.integers(0, 2**16),
)
def test_blockwise_is_the_same_to_rounding(lead, Tq, Tk, d, block_size, is_causal, scale, dtype, seed):
    rng = np.random.default_rng(seed)
    q, k, v = (3 * rng.normal(size=(*lead, T, d)).astype(dtype) for T in (Tq, Tk, Tk))
    dy = rng.normal(size=q.shape).astype(dtype)
    options = {"is_causal": is_causal, "scale": scale}
    plain = pulled(scaled_dot_product_attention, q, k, v, dy=dy, **options)
    blocks = pulled(blockwise_attention, q, k, v, dy=dy, block_size=block_size, **options)
    for a, b in zip(blocks, plain, strict=True):
        assert a.dtype == dtype
        assert np.abs(a - b).max() < 500 * np.finfo(dtype).eps * max(1, np.abs(b).max())


def test_running_sums_by_hand():
    """Scores 0, log 2, log 4 one at a time: sums 1, 1/2 + 1, 3/4 + 1 and the value (1 + 2*2 + 4*3) / 7."""
    q, v = np.array([[1.0]]), np.array([[1.0], [2.0], [3.0]])
    k = np.log(np.array([[1.0], [2.0], [4.0]]))
    assert np.allclose(blockwise_attention(q, k, v, block_size=1), [[17 / 7]], rtol=1e-15)
    _, (_, largest, inverse) = blockwise_attention.forward(q, k, v, block_size=1)
    assert np.allclose(largest - np.log(inverse), math.log(7), rtol=1e-15)


def test_blockwise_takes_scores_that_overflow():
    q, k, v = (size * np.random.default_rng(0).normal(size=(5, 3)) for size in (1e4, 1e4, 1))
    with np.errstate(all="raise", under="ignore"):
        plain = pulled(scaled_dot_product_attention, q, k, v, dy=np.ones((5, 3)))
        blocks = pulled(blockwise_attention, q, k, v, dy=np.ones((5, 3)), block_size=2)
    assert error(blocks[0], plain[0]) < 1e-15
    for g in (*plain[1:3], *blocks[1:3]):  # all weight on one key: no derivative by the scores
        assert np.abs(g).max() < 1e-10


def peak(f, T):
    rng = np.random.default_rng(0)
    q, k, v, dy = (rng.normal(size=(1, T, 16)).astype(np.float32) for _ in range(4))
    tracemalloc.start()
    _, pull = vjp(f, q, k, v, is_causal=True)
    pull(dy)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def test_memory_of_blockwise_is_linear_in_the_length():
    small, large = peak(blockwise_attention, 512), peak(blockwise_attention, 2048)
    assert large < 4 * small
    assert large < 12 * 2048 * 16 * 4  # a dozen arrays of the size of the queries
    assert peak(scaled_dot_product_attention, 2048) > 2048**2 * 4


# Heads ---------------------------------------------------------------------------------------------------------------


def test_heads_take_neighbouring_features():
    x = np.arange(2 * 3 * 6).reshape(2, 3, 6)
    heads = split_heads(x, 3)
    for b, h, t, c in np.ndindex(2, 3, 3, 2):
        assert heads[b, h, t, c] == x[b, t, 2 * h + c]
    assert np.array_equal(merge_heads(heads), x)
    assert np.array_equal(split_heads(x[0], 3), heads[0])
    with pytest.raises(ValueError, match=r"4 heads do not divide the 6 features of shape \(2, 3, 6\)"):
        split_heads(x, 4)
    with pytest.raises(ValueError, match="0 heads"):
        split_heads(x, 0)


def test_a_reshape_without_the_transpose_would_tear_the_text_apart(rng):
    """The mistake: (T, E) read as (H, T, E / H). It runs, but the last token no longer hears of the first."""

    def right(x):
        return merge_heads(scaled_dot_product_attention(*[split_heads(x, 3)] * 3, is_causal=True))

    def wrong(x):
        return scaled_dot_product_attention(*[x.reshape(3, 4, 2)] * 3, is_causal=True).reshape(4, 6)

    x = rng.normal(size=(4, 6))
    changed = x.copy()
    changed[0] += 1
    assert (right(changed) != right(x)).all()
    assert np.array_equal(wrong(changed)[3], wrong(x)[3])
    assert error(wrong(x), right(x)) > 0.1


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("kind", ["none", "causal", "bool", "float of heads", "bool of keys"])
def test_grouped_queries_are_torchs(rng, groups, kind):
    q, k, v = rng.normal(size=(2, 6, 4, 3)), rng.normal(size=(2, groups, 5, 3)), rng.normal(size=(2, groups, 5, 2))
    dy = rng.normal(size=(2, 6, 4, 2))
    mask = None if kind == "causal" else draw_mask(rng, kind, 2, 6, 4, 5)
    theirs = pulled_by_torch(
        lambda *a: F.scaled_dot_product_attention(
            *a,
            attn_mask=None if mask is None else torch.tensor(mask),
            is_causal=kind == "causal",
            enable_gqa=True,
        ),
        q,
        k,
        v,
        dy=dy,
    )
    ours = pulled(lambda *a: grouped_query_attention(*a, mask, is_causal=kind == "causal"), q, k, v, dy=dy)
    for a, b in zip(ours, theirs, strict=True):
        assert error(a, b) < 1e-13
    if groups == 6:
        assert error(ours[0], scaled_dot_product_attention(q, k, v, mask, is_causal=kind == "causal")) < 1e-15


def test_groups_must_divide():
    with pytest.raises(ValueError, match=r"4 heads of keys.*6 heads of queries"):
        grouped_query_attention(np.ones((6, 2, 3)), np.ones((4, 2, 3)), np.ones((4, 2, 3)))
    with pytest.raises(ValueError, match=r"2 heads of keys.*3 of values"):
        grouped_query_attention(np.ones((6, 2, 3)), np.ones((2, 2, 3)), np.ones((3, 2, 3)))


def torch_heads(E, H, **options):
    """A torch.nn.MultiheadAttention that returns its output alone."""

    class Heads(torch.nn.MultiheadAttention):
        def forward(self, q, k, v):
            return super().forward(q, k, v, need_weights=False, **options)[0]

    return Heads(E, H, batch_first=True)


MHA_MASKS = {
    "no mask": lambda rng: {},
    "padding": lambda rng: {"key_padding_mask": ~padding_mask(np.array([5, 3]), 5)},
    "future": lambda rng: {"attn_mask": ~causal_mask(4, 5)},
    "of each head": lambda rng: {"attn_mask": ~draw_mask(rng, "bool", 2, 3, 4, 5).reshape(6, 4, 5)},
    "float": lambda rng: {"attn_mask": rng.normal(size=(4, 5))},
    "float of each head": lambda rng: {"attn_mask": rng.normal(size=(6, 4, 5))},
    "future and padding": lambda rng: {
        "attn_mask": ~causal_mask(4, 5),
        "key_padding_mask": ~padding_mask(np.array([5, 3]), 5),
    },
    "float and padding": lambda rng: {
        "attn_mask": rng.normal(size=(4, 5)),
        "key_padding_mask": np.where(padding_mask(np.array([5, 3]), 5), 0, -np.inf),
    },
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind", MHA_MASKS)
def test_multi_head_attention_is_torchs(rng, kind, dtype):
    options = {name: a if a.dtype == bool else a.astype(dtype) for name, a in MHA_MASKS[kind](rng).items()}
    params = randomized(multi_head_attention_init(rng, 6, dtype=dtype), rng)
    inputs = [rng.normal(size=(2, T, 6)).astype(dtype) for T in (4, 5, 5)]
    module = torch_heads(6, 3, **{name: torch.tensor(a) for name, a in options.items()})
    compare_with_module(
        lambda p, *x: multi_head_attention(p, *x, num_heads=3, **options), params, module, inputs, dtype, rng
    )


def test_multi_head_attention_returns_every_heads_weights(rng):
    params = randomized(multi_head_attention_init(rng, 6, dtype=np.float64), rng)
    x = rng.normal(size=(2, 4, 6))
    y, weights = multi_head_attention(params, x, x, x, num_heads=2, is_causal=True, need_weights=True)
    assert error(y, multi_head_attention(params, x, x, x, num_heads=2, is_causal=True)) < 1e-14
    module = torch.nn.MultiheadAttention(6, 2, batch_first=True).double()
    module.load_state_dict(to_torch(params))
    future = torch.tensor(~causal_mask(4))
    theirs, theirs_weights = module(*[torch.tensor(x)] * 3, attn_mask=future, average_attn_weights=False)
    assert error(y, theirs.detach().numpy()) < 1e-13
    assert error(weights, theirs_weights.detach().numpy()) < 1e-13
    one = multi_head_attention(params, x[0], x[0], x[0], num_heads=2, is_causal=True)
    assert error(one, y[0]) < 1e-14


def test_multi_head_attention_with_its_weights_has_the_same_gradients(rng):
    params = randomized(multi_head_attention_init(rng, 6, dtype=np.float64), rng)
    x, dy = rng.normal(size=(2, 4, 6)), rng.normal(size=(2, 4, 6))

    def loss(params, need):
        y = multi_head_attention(params, x, x, x, num_heads=2, is_causal=True, need_weights=need)
        return (dy * (y[0] if need else y)).sum()

    (_, a), (_, b) = (value_and_grad(loss)(params, need) for need in (True, False))
    for name, g in flatten(a).items():
        assert error(g, flatten(b)[name]) < 1e-12


def test_multi_head_attention_where_no_key_is_left(rng):
    params = randomized(multi_head_attention_init(rng, 6, dtype=np.float64), rng)
    x = rng.normal(size=(2, 4, 6))
    left_out = np.array([[False] * 4, [True] * 4])
    y = multi_head_attention(params, x, x, x, num_heads=2, key_padding_mask=left_out)
    assert error(y[1], np.tile(params["out_proj"]["bias"], (4, 1))) < 1e-15
    module = torch.nn.MultiheadAttention(6, 2, batch_first=True).double()
    module.load_state_dict(to_torch(params))
    theirs, _ = module(*[torch.tensor(x)] * 3, key_padding_mask=torch.tensor(left_out))
    assert np.isnan(theirs.detach().numpy()[1]).all()  # what the docstring says of PyTorch


def test_multi_head_attention_starts_as_torchs(rng):
    params = multi_head_attention_init(rng, 64)
    module = torch.nn.MultiheadAttention(64, 4)
    for name, leaf in flatten(params).items():
        theirs = module.state_dict()[name].numpy()
        assert leaf.shape == theirs.shape
        assert leaf.dtype == np.float32
        assert abs(leaf.std() - theirs.std()) < 0.05 * max(theirs.std(), 1e-9), name
        assert np.abs(leaf).max() <= 1.01 * np.abs(theirs).max()


def test_a_wrong_number_of_heads_is_named(rng):
    params = multi_head_attention_init(rng, 6)
    with pytest.raises(ValueError, match="4 heads do not divide the 6 features"):
        multi_head_attention(params, *[np.ones((2, 3, 6))] * 3, num_heads=4)


# Positions -----------------------------------------------------------------------------------------------------------


def test_sinusoids_with_loops():
    table = sinusoidal_positions(7, 6, base=100.0, offset=3, dtype=np.float64)
    for t in range(7):
        for i in range(3):
            angle = (3 + t) / 100.0 ** (2 * i / 6)
            assert math.isclose(table[t, 2 * i], math.sin(angle), abs_tol=1e-14)
            assert math.isclose(table[t, 2 * i + 1], math.cos(angle), abs_tol=1e-14)
    assert sinusoidal_positions(4, 8).dtype == np.float32
    with pytest.raises(ValueError, match="even, not 3"):
        sinusoidal_positions(4, 3)
    with pytest.raises(ValueError, match="base must be > 0, not -1"):
        sinusoidal_positions(4, 2, base=-1)


def test_a_shift_of_the_sinusoids_is_one_linear_map():
    """Five places further is the same rotation of every pair, wherever one starts."""
    table = sinusoidal_positions(50, 8, dtype=np.float64)
    shift, *_ = np.linalg.lstsq(table[:-5], table[5:], rcond=None)
    assert error(table[:-5] @ shift, table[5:]) < 1e-10
    assert error(shift @ shift.T, np.eye(8)) < 1e-6


def test_rope_with_loops(rng):
    x = rng.normal(size=(5, 4))
    y = rope(x, base=50.0, offset=2)
    for t in range(5):
        for i in range(2):
            angle = (2 + t) / 50.0 ** (2 * i / 4)
            a, b = x[t, 2 * i], x[t, 2 * i + 1]
            assert math.isclose(y[t, 2 * i], a * math.cos(angle) - b * math.sin(angle), abs_tol=1e-14)
            assert math.isclose(y[t, 2 * i + 1], a * math.sin(angle) + b * math.cos(angle), abs_tol=1e-14)


def test_rope_by_hand():
    """One pair at place 1 with angle 1: (1, 0) goes to (cos 1, sin 1), and its VJP brings it back."""
    x = np.array([[1.0, 0.0], [1.0, 0.0]])
    y, dx = pulled(rope, x, dy=[[0, 0], [math.cos(1), math.sin(1)]])
    assert np.allclose(y, [[1, 0], [math.cos(1), math.sin(1)]], rtol=1e-15)
    assert np.allclose(dx, [[0, 0], [1, 0]], atol=1e-15)


@given(distance=st.integers(0, 20), start=st.integers(0, 500), d=st.sampled_from([2, 4, 8]), seed=st.integers(0, 999))
def test_rope_depends_on_distances_only(distance, start, d, seed):
    q, k = np.random.default_rng(seed).normal(size=(2, 1, d))
    near = rope(q, offset=distance) @ rope(k).T
    far = rope(q, offset=start + distance) @ rope(k, offset=start).T
    assert np.allclose(near, far, atol=1e-10)
    assert np.allclose(np.linalg.norm(rope(q, offset=start)), np.linalg.norm(q), rtol=1e-13)


def test_rotary_scores_prefer_no_distance_of_their_own(rng):
    """The spread of a random score is the same at every distance; the largest is where the query asks for it."""
    q, k = rng.normal(size=(2, 4000, 16))
    for distance in (0, 1, 10, 100):
        score = (q * rope(k[:, None], offset=distance)[:, 0]).sum(1) / 4
        assert abs(score.mean()) < 4 / math.sqrt(4000)
        assert abs(score.var() - 1) < 0.15
    key = rng.normal(size=(1, 16))
    for asked_for in (0, 3, 40):
        query = rope(key, offset=asked_for)
        scores = [(query * rope(key, offset=distance)).sum() for distance in range(64)]
        assert int(np.argmax(scores)) == asked_for


def test_rope_row_by_row_is_rope_at_once(rng):
    x = rng.normal(size=(2, 3, 6, 4)).astype(np.float32)
    rows = [rope(x[..., t : t + 1, :], offset=t) for t in range(6)]
    assert np.array_equal(np.concatenate(rows, -2), rope(x))


def test_alibi_with_loops():
    bias = alibi_bias(4, 3, 5, offset=2, dtype=np.float64)
    for h in range(4):
        for i in range(3):
            for j in range(5):
                assert bias[h, i, j] == -(2.0 ** (-8 * (h + 1) / 4)) * abs(2 + i - j)
    assert np.allclose(alibi_slopes(8), 0.5 ** np.arange(1, 9), rtol=1e-15)  # the paper's example
    assert alibi_bias(2, 3).dtype == np.float32
    with pytest.raises(ValueError, match="at least 1, not 0"):
        alibi_slopes(0)


def test_without_positions_attention_is_equivariant_and_with_them_it_is_not(rng):
    params = randomized(transformer_encoder_layer_init(rng, 8, dtype=np.float64), rng)
    x, order = rng.normal(size=(2, 6, 8)), rng.permutation(6)

    def layer(x):
        return transformer_encoder_layer(params, x, nhead=2, norm_first=True)

    assert error(layer(x[:, order]), layer(x)[:, order]) < 1e-12
    placed = sinusoidal_positions(6, 8, dtype=np.float64)
    assert error(layer(x[:, order] + placed), layer(x + placed)[:, order]) > 1e-3
    q = rng.normal(size=(6, 8))
    turned = scaled_dot_product_attention(rope(q), rope(q), q)
    assert error(scaled_dot_product_attention(rope(q[order]), rope(q[order]), q[order]), turned[order]) > 1e-3
    bias = alibi_bias(1, 6, dtype=np.float64)[0]
    near = scaled_dot_product_attention(q, q, q, bias)
    assert error(scaled_dot_product_attention(q[order], q[order], q[order], bias), near[order]) > 1e-3


# Blocks of the transformer -------------------------------------------------------------------------------------------


def option_grid():
    return list(itertools.product((False, True), ("relu", "gelu")))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("norm_first", "activation"), option_grid())
@pytest.mark.parametrize("masked", [False, True])
def test_the_encoder_layer_is_torchs(rng, norm_first, activation, masked, dtype):
    params = randomized(transformer_encoder_layer_init(rng, 8, dim_feedforward=12, dtype=dtype), rng, 0.3)
    x = rng.normal(size=(2, 5, 8)).astype(dtype)
    masks = {"src_mask": ~causal_mask(5), "src_key_padding_mask": ~padding_mask([5, 3], 5)} if masked else {}

    class Layer(torch.nn.TransformerEncoderLayer):
        def forward(self, x):
            return super().forward(x, **{name: torch.tensor(a) for name, a in masks.items()})

    module = Layer(8, 2, 12, dropout=0.0, activation=activation, batch_first=True, norm_first=norm_first)
    options = {"nhead": 2, "norm_first": norm_first, "activation": activation, **masks}
    compare_with_module(lambda p, x: transformer_encoder_layer(p, x, **options), params, module, [x], dtype, rng)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("norm_first", "activation"), option_grid())
@pytest.mark.parametrize("masked", [False, True])
def test_the_decoder_layer_is_torchs(rng, norm_first, activation, masked, dtype):
    params = randomized(transformer_decoder_layer_init(rng, 8, dim_feedforward=12, dtype=dtype), rng, 0.3)
    x, memory = rng.normal(size=(2, 5, 8)).astype(dtype), rng.normal(size=(2, 6, 8)).astype(dtype)
    masks = {"tgt_mask": ~causal_mask(5)}
    if masked:
        masks["memory_mask"] = ~causal_mask(5, 6, offset=1)
        masks["memory_key_padding_mask"] = ~padding_mask([6, 4], 6)
        masks["tgt_key_padding_mask"] = ~padding_mask([5, 3], 5)

    class Layer(torch.nn.TransformerDecoderLayer):
        def forward(self, x, memory):
            return super().forward(x, memory, **{name: torch.tensor(a) for name, a in masks.items()})

    module = Layer(8, 2, 12, dropout=0.0, activation=activation, batch_first=True, norm_first=norm_first)
    options = {"nhead": 2, "norm_first": norm_first, "activation": activation, **masks}
    compare_with_module(
        lambda p, *x: transformer_decoder_layer(p, *x, **options), params, module, [x, memory], dtype, rng
    )
    causal = {**options, "tgt_is_causal": True}
    del causal["tgt_mask"]
    y = transformer_decoder_layer(params, x, memory, **options)
    assert error(transformer_decoder_layer(params, x, memory, **causal), y) < BOUND[dtype]


def test_layers_return_their_weights_and_refuse_unknown_activations(rng):
    params = transformer_decoder_layer_init(rng, 8, dtype=np.float64)
    assert params["linear1"]["weight"].shape == (32, 8)  # four times as wide, unless told otherwise
    x, memory = rng.normal(size=(2, 3, 8)), rng.normal(size=(2, 4, 8))
    y, weights = transformer_decoder_layer(params, x, memory, nhead=2, need_weights=True)
    assert weights.shape == (2, 2, 3, 4)
    assert np.allclose(weights.sum(-1), 1)
    assert error(transformer_decoder_layer(params, x, memory, nhead=2), y) < 1e-14
    y, weights = transformer_encoder_layer(params, x, nhead=2, is_causal=True, need_weights=True)
    assert weights.shape == (2, 2, 3, 3)
    assert np.array_equal(weights[:, :, 0, 1:], np.zeros((2, 2, 2)))
    assert error(transformer_encoder_layer(params, x, nhead=2, src_mask=~causal_mask(3)), y) < 1e-14
    for f in (
        lambda **o: transformer_encoder_layer(params, x, **o),
        lambda **o: transformer_decoder_layer(params, x, x, **o),
    ):
        with pytest.raises(ValueError, match="activation must be 'relu' or 'gelu', not 'tanh'"):
            f(nhead=2, activation="tanh")


# Between two recurrent networks --------------------------------------------------------------------------------------


def attentive(rng, size=6, **options):
    return randomized(seq2seq_attention_init(rng, 7, 5, size, embedding_size=3, dtype=np.float64, **options), rng)


@pytest.mark.parametrize("lengths", [None, [6, 2, 4]])
def test_attention_between_recurrent_networks_is_its_twin(lengths, rng):
    params, twin = attentive(rng), twins.seq2seq_attention(7, 5, 6, embedding_size=3).double()
    twin.load_state_dict(to_torch(params))
    source, target = rng.integers(0, 7, (6, 3)), rng.integers(0, 5, (4, 3))
    mask = None if lengths is None else length_mask(lengths)
    logits, weights = seq2seq_attention(params, source, target, mask, need_weights=True)
    value, pull = vjp(lambda p: seq2seq_attention(p, source, target, mask), params)
    dy = rng.normal(size=(4, 3, 5))
    theirs, looks = twin(torch.tensor(source), torch.tensor(target), None if mask is None else torch.tensor(mask))
    theirs.backward(torch.tensor(dy))
    assert np.array_equal(value, logits)
    assert error(value, theirs.detach().numpy()) < 1e-12
    assert error(weights, looks.detach().numpy()) < 1e-12
    grads = flatten(pull(dy)[0])
    assert set(grads) == {name for name, _ in twin.named_parameters()}
    for name, p in twin.named_parameters():
        assert error(grads[name], p.grad.numpy()) < 1e-10, name


def test_attention_to_a_source_is_an_average_and_padding_is_not_seen(rng):
    params = attentive(rng)
    source, target, mask = rng.integers(0, 7, (6, 3)), rng.integers(0, 5, (4, 3)), length_mask([6, 2, 4])
    logits, weights = seq2seq_attention(params, source, target, mask, need_weights=True)
    assert weights.shape == (3, 4, 6)
    assert np.allclose(weights.sum(-1), 1)
    assert not weights[1, :, 2:].any()
    other = np.where(mask, source, (source + 1) % 7)
    assert np.array_equal(seq2seq_attention(params, other, target, mask), logits)
    for n, length in enumerate([6, 2, 4]):
        alone = seq2seq_attention(params, source[:length, n : n + 1], target[:, n : n + 1])
        assert error(logits[:, n : n + 1], alone) < 1e-12


def test_without_weights_for_the_context_the_network_is_the_one_of_chapter_7(rng):
    """The control is contained in it: with zeros for the context's columns only the last state gets through."""
    params, plain = attentive(rng, size=4), seq2seq_init(rng, 7, 5, 4, embedding_size=3, dtype=np.float64)
    plain["encoder"] = params["encoder"]
    deaf = {**params["decoder"]["rnn"], "weight_ih_l0": params["decoder"]["rnn"]["weight_ih_l0"].copy()}
    deaf["weight_ih_l0"][:, 3:] = 0
    plain["decoder"] = {**params["decoder"], "rnn": {**deaf, "weight_ih_l0": deaf["weight_ih_l0"][:, :3]}}
    params["decoder"] = {**params["decoder"], "rnn": deaf}
    source, target, mask = rng.integers(0, 7, (6, 3)), rng.integers(0, 5, (4, 3)), length_mask([6, 2, 4])
    for real in (None, mask):
        assert error(seq2seq_attention(params, source, target, real), seq2seq(plain, source, target, real)) < 1e-12
        answer, _ = seq2seq_attention_decode(params, source, 5, start=0, source_mask=real)
        assert np.array_equal(answer, greedy_decode(plain, source, 5, start=0, source_mask=real))


def test_scores_of_zero_give_the_mean_of_all_states(rng):
    params = attentive(rng)
    params["attention"]["score"]["weight"] *= 0
    source, target, mask = rng.integers(0, 7, (6, 3)), rng.integers(0, 5, (4, 3)), length_mask([6, 2, 4])
    _, weights = seq2seq_attention(params, source, target, mask, need_weights=True)
    assert np.allclose(weights, (mask / mask.sum(0)).T[:, None])


def test_attentive_decoding_feeds_back_its_own_answers(rng):
    params, source, mask = attentive(rng), rng.integers(0, 7, (4, 3)), length_mask([4, 2, 3])
    answer, looks = seq2seq_attention_decode(params, source, 5, start=0, source_mask=mask)
    assert answer.shape == (5, 3)
    read = np.concatenate([np.zeros((1, 3), int), answer[:-1]])
    logits, again = seq2seq_attention(params, source, read, mask, need_weights=True)
    assert np.array_equal(logits.argmax(-1), answer)
    assert error(looks, again) < 1e-13
    assert len({tuple(column) for column in answer.T}) > 1


def test_attention_between_recurrent_networks_refuses_what_does_not_fit(rng):
    params, source = attentive(rng), np.zeros((4, 3), int)
    refused = [
        (lambda: seq2seq_attention(params, source, source[:0]), r"target has shape \(0, 3\)"),
        (lambda: seq2seq_attention(params, source[:, 0], source), r"source has shape \(4,\)"),
        (lambda: seq2seq_attention(params, source, source[:, :2]), "3 sequences to read, but 2 to write"),
        (lambda: seq2seq_attention(params, source, source + 5), "0 to 4"),
        (lambda: seq2seq_attention(params, source, source, length_mask([3, 3, 3])), "mask"),
        (lambda: seq2seq_attention_decode(params, source, 0, start=0), "length must be at least 1, not 0"),
        (lambda: seq2seq_attention_decode(params, source, 2, start=5), "5"),
        (lambda: seq2seq_attention_decode(params, source[0], 2, start=0), r"source has shape \(3,\)"),
        (lambda: seq2seq_attention_init(rng, 7, 5, 0), "0"),
    ]
    for call, message in refused:
        with pytest.raises(ValueError, match=message):
            call()


# Encoder and decoder -------------------------------------------------------------------------------------------------

TRANSLATOR = {"source_size": 9, "target_size": 7, "d_model": 8, "num_encoder_layers": 2, "num_decoder_layers": 2}


def sentences(rng):
    source, target = rng.integers(1, 9, size=(3, 6)), rng.integers(7, size=(3, 5))
    source[0, 4:] = source[2, 3:] = 0
    return source, target


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("padding", [None, 0])
def test_the_translator_is_its_twin(rng, dtype, padding):
    params = randomized(translator_init(rng, **TRANSLATOR, dtype=dtype), rng, 0.1)
    twin = twins.translator(**TRANSLATOR, nhead=2, padding=padding)
    assert twin.state_dict().keys() == flatten(params).keys()
    compare_with_module(
        lambda p, *x: translator(p, *x, nhead=2, padding=padding), params, twin, sentences(rng), dtype, rng
    )


def test_the_translator_neither_sees_the_future_nor_the_padding(rng):
    params = randomized(translator_init(rng, **TRANSLATOR, dtype=np.float64), rng, 0.1)
    source, target = sentences(rng)
    y, weights = translator(params, source, target, nhead=2, padding=0, need_weights=True)
    assert error(translator(params, source, target, nhead=2, padding=0), y) < 1e-13
    assert weights.shape == (3, 2, 5, 6)
    assert not weights[0, :, :, 4:].any()
    assert np.allclose(weights.sum(-1), 1)
    later = target.copy()
    later[:, 3] = (later[:, 3] + 1) % 7
    changed = translator(params, source, later, nhead=2, padding=0)
    assert np.array_equal(changed[:, :3], y[:, :3])
    assert np.abs(changed[:, 3:] - y[:, 3:]).min() > 0
    longer = np.pad(source, ((0, 0), (0, 3)))
    assert error(translator(params, longer, target, nhead=2, padding=0), y) < 1e-13
    assert error(translator(params, longer, target, nhead=2), y) > 1e-6


def test_translation_is_greedy_and_stops(rng):
    params = randomized(translator_init(rng, **TRANSLATOR, dtype=np.float64), rng)
    source, _ = sentences(rng)
    tokens, weights = translate(params, source, nhead=2, start=0, length=6, padding=0)
    assert tokens.shape == (3, 6)
    assert weights.shape == (3, 2, 6, 6)
    so_far = np.concatenate([np.zeros((3, 1), int), tokens[:, :-1]], 1)
    logits, again = translator(params, source, so_far, nhead=2, padding=0, need_weights=True)
    assert np.array_equal(logits.argmax(-1), tokens)  # what was written is what the whole would write
    assert error(weights, again) < 1e-13
    end = int(tokens[0, 1])
    stopped, _ = translate(params, source, nhead=2, start=0, length=6, end=end, padding=0)
    for row, free in zip(stopped, tokens, strict=True):
        first = [*row, end].index(end)
        assert np.array_equal(row[:first], free[:first])
        assert (row[first:] == end).all()
    left_out = source == 0
    memory = translator_encode(params, source, nhead=2, padding=0)
    parts = translator_decode(params, so_far, memory, nhead=2, left_out=left_out)
    assert error(parts, logits) < 1e-13
    with pytest.raises(ValueError, match="length must be at least 1, not 0"):
        translate(params, source, nhead=2, start=0, length=0)


def test_a_translator_needs_layers_and_tokens(rng):
    with pytest.raises(ValueError, match="at least one layer each, not 0 and 1"):
        translator_init(rng, source_size=3, target_size=3, num_encoder_layers=0)
    params = translator_init(rng, **TRANSLATOR)
    with pytest.raises(ValueError, match="0 to 8"):
        translator(params, np.array([[9]]), np.array([[0]]), nhead=2)


# GPT -----------------------------------------------------------------------------------------------------------------

SMALL = {"vocab_size": 11, "context": 8, "n_layer": 2, "n_head": 2, "n_embd": 12}
HEADS = SMALL["n_head"]


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def small(request, rng):
    return randomized(gpt_init(rng, **SMALL, tie_weights=request.param, dtype=np.float64), rng, 0.2)


def tied(params):
    return "lm_head" not in params


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_gpt_is_its_twin(small, dtype, rng):
    params = tree_map(lambda a: a.astype(dtype), small)
    twin = twins.gpt(**SMALL, tie_weights=tied(params))
    assert list(twin.state_dict()) == list(flatten(params))
    compare_with_module(lambda p, x: gpt(p, x, n_head=HEADS), params, twin, [rng.integers(11, size=(3, 8))], dtype, rng)


def test_a_gpts_loss_and_gradients_are_its_twins(small, rng):
    x, y = rng.integers(11, size=(2, 3, 8))
    value, grads = value_and_grad(gpt_loss)(small, x, y, n_head=HEADS)
    twin = twins.gpt(**SMALL, tie_weights=tied(small)).double()
    twin.load_state_dict(to_torch(small))
    loss = F.cross_entropy(twin(torch.tensor(x)).flatten(0, 1), torch.tensor(y).flatten())
    loss.backward()
    assert math.isclose(value, loss.item(), rel_tol=1e-13)
    for name, p in twin.named_parameters():
        assert error(flatten(grads)[name], p.grad.numpy()) < 1e-11, name
    with pytest.raises(ValueError, match=r"\(3, 8\).*\(3, 7\)"):
        gpt_loss(small, x, y[:, :7], n_head=HEADS)


def test_weights_go_either_way_through_safetensors(small, tmp_path, rng):
    from safetensors.torch import load_file, save_file

    x = rng.integers(11, size=(2, 8))
    twin = twins.gpt(**SMALL, tie_weights=tied(small)).double()
    save(tmp_path / "ours.safetensors", small)
    twin.load_state_dict(load_file(tmp_path / "ours.safetensors"))
    ours = gpt(small, x, n_head=HEADS)
    assert error(ours, twin(torch.tensor(x)).detach().numpy()) < 1e-13
    other = twins.gpt(**SMALL, tie_weights=tied(small))
    save_file(other.state_dict(), tmp_path / "theirs.safetensors")
    back = load(tmp_path / "theirs.safetensors")
    assert error(gpt(back, x, n_head=HEADS), other(torch.tensor(x)).detach().numpy()) < 1e-5
    assert flatten(back).keys() == flatten(from_torch(other.state_dict())).keys() == flatten(small).keys()


def test_a_gpt_and_its_twin_train_in_lockstep(rng):
    params = gpt_init(rng, **SMALL, dtype=np.float64)
    batches = [tuple(rng.integers(11, size=(2, 4, 8))) for _ in range(6)]
    apart = lockstep(
        params,
        lambda p, x, y: gpt_loss(p, x, y, n_head=HEADS),
        twins.gpt(**SMALL),
        lambda twin, x, y: F.cross_entropy(twin(x).flatten(0, 1), y.flatten()),
        batches,
        optimizer=(adamw_init, adamw),
        torch_optimizer=torch.optim.AdamW,
        lr=1e-3,
    )
    assert np.max(apart) < 1e-9


def test_the_future_must_not_change_the_past(small, rng):
    x = rng.integers(11, size=(2, 8))
    y = gpt(small, x, n_head=HEADS)
    for t in range(8):
        later = x.copy()
        later[:, t] = (later[:, t] + 1 + rng.integers(10)) % 11
        changed = gpt(small, later, n_head=HEADS)
        assert error(changed[:, :t], y[:, :t]) < 1e-13
        assert np.abs(changed[:, t:] - y[:, t:]).max(-1).min() > 1e-6  # and it does change what comes after


def test_the_gradient_of_the_past_does_not_reach_the_future(rng):
    q, k, v = rng.normal(size=(3, 6, 4))
    dy = np.zeros((6, 4))
    dy[2] = 1
    _, dq, dk, dv = pulled(scaled_dot_product_attention, q, k, v, dy=dy, is_causal=True)
    assert not dk[3:].any()
    assert not dv[3:].any()
    assert not dq[[0, 1, 3, 4, 5]].any()


@pytest.mark.parametrize("parts", [[8], [1] * 8, [3, 1, 4], [5, 3]])
def test_cached_is_uncached(small, rng, parts):
    x = rng.integers(11, size=(3, 8))
    cache = gpt_cache(small, 3, n_head=HEADS)
    steps, seen = [], 0
    for n in parts:
        before = tree_map(np.copy, cache["h"])
        logits, new = gpt_step(small, x[:, seen : seen + n], cache, n_head=HEADS)
        tree_map(np.testing.assert_array_equal, cache["h"], before)  # the old cache is left as it was
        cache, seen = new, seen + n
        assert cache["length"] == seen
        assert cache["h"]["0"]["k"].shape == (3, 2, seen, 6)
        steps.append(logits)
    assert error(np.concatenate(steps, 1), gpt(small, x, n_head=HEADS)) < 1e-13
    with pytest.raises(ValueError, match="9 tokens are more than the context of 8"):
        gpt_step(small, x[:, :1], cache, n_head=HEADS)


@pytest.mark.parametrize("length", [4, 12])
@pytest.mark.parametrize("options", [{}, {"temperature": 0}, {"temperature": 0.5, "top_k": 4}, {"top_p": 0.8}])
def test_generation_is_the_same_with_and_without_a_cache(small, rng, length, options):
    x = rng.integers(11, size=(2, 3))
    runs = [
        generate(small, x, n_head=HEADS, length=length, rng=np.random.default_rng(3), cache=cache, **options)
        for cache in (True, False)
    ]
    assert np.array_equal(*runs)
    assert runs[0].shape == (2, 3 + length)
    assert np.array_equal(runs[0][:, :3], x)
    if options.get("temperature") == 0:
        alone = generate(small, x[1], n_head=HEADS, length=length, temperature=0)
        assert np.array_equal(alone, runs[0][1])
        seen = runs[0]
        for t in range(3, 3 + length):
            window = seen[:, max(0, t - 8) : t]
            assert np.array_equal(gpt(small, window, n_head=HEADS)[:, -1].argmax(-1), seen[:, t])


def test_generation_draws_from_the_models_distribution(small):
    """The first new token, 5000 times: its frequencies are the probabilities, at any temperature, filtered or not."""
    x = np.tile([1, 2, 3], (5000, 1))
    logits = gpt(small, x[0], n_head=HEADS)[-1]
    for options, expected in (
        ({}, softmax(logits)),
        ({"temperature": 2.0}, softmax(logits / 2)),
        ({"top_k": 3}, softmax(top_k_filter(logits, 3))),
        ({"temperature": 0.5, "top_p": 0.7}, softmax(top_p_filter(logits / 0.5, 0.7))),
    ):
        new = generate(small, x, n_head=HEADS, length=1, rng=np.random.default_rng(0), **options)[:, -1]
        counts = np.bincount(new, minlength=11)
        assert not counts[expected == 0].any()
        sd = np.sqrt(5000 * expected * (1 - expected))
        assert (np.abs(counts - 5000 * expected) <= 5 * sd + 1e-9).all()


def test_generation_refuses_what_it_cannot_do(small, rng):
    with pytest.raises(ValueError, match=r"T >= 1, not \(0,\)"):
        generate(small, np.zeros(0, int), n_head=HEADS, length=1, rng=rng)
    with pytest.raises(ValueError, match="temperature must be >= 0, not -1"):
        generate(small, [1], n_head=HEADS, length=1, rng=rng, temperature=-1)
    with pytest.raises(ValueError, match=r"rng must be a numpy\.random\.Generator, not None"):
        generate(small, [1], n_head=HEADS, length=1)


def test_one_text_is_a_row_of_a_batch_and_weights_are_returned(small, rng):
    x = rng.integers(11, size=(2, 5))
    y, weights = gpt(small, x, n_head=HEADS, need_weights=True)
    assert error(gpt(small, x, n_head=HEADS), y) < 1e-13
    assert error(gpt(small, x[0], n_head=HEADS), y[0]) < 1e-13
    assert [w.shape for w in weights] == [(2, 2, 5, 5)] * 2
    for w in weights:
        assert np.allclose(w.sum(-1), 1)
        assert not w[..., ~causal_mask(5)].any()


def test_an_ablated_head_puts_out_nothing(small, rng):
    """The same as weights of ``c_proj`` set to zero in the columns that read this head."""
    x = rng.integers(11, size=(2, 5))
    cut = tree_map(np.copy, small)
    cut["h"]["1"]["attn"]["c_proj"]["weight"][:, 6:12] = 0
    assert error(gpt(small, x, n_head=HEADS, ablate=((1, 1),)), gpt(cut, x, n_head=HEADS)) < 1e-13
    cut["h"]["1"]["attn"]["c_proj"]["weight"][:, :6] = 0
    assert error(gpt(small, x, n_head=HEADS, ablate=((1, 0), (1, 1))), gpt(cut, x, n_head=HEADS)) < 1e-13
    for wrong in ((2, 0), (0, 2), (-1, 0)):
        with pytest.raises(ValueError, match=f"no head {wrong[1]} in layer {wrong[0]}"):
            gpt(small, x, n_head=HEADS, ablate=(wrong,))


def test_a_gpt_starts_as_gpt2_does(rng):
    params = gpt_init(rng, vocab_size=300, context=64, n_layer=8, n_head=4, n_embd=64)
    for name, leaf in flatten(params).items():
        assert leaf.dtype == np.float32
        if name.endswith("bias"):
            assert not leaf.any()
        elif ".ln" in name or name.startswith("ln"):
            assert (leaf == 1).all()
        else:
            expected = 0.02 / math.sqrt(16) if "c_proj" in name else 0.02
            assert abs(leaf.std() / expected - 1) < 0.08, name
    loss = gpt_loss(params, *rng.integers(300, size=(2, 4, 64)), n_head=4)
    assert abs(loss - math.log(300)) < 0.1  # knowing nothing
    for wrong, message in (
        ({"n_head": 5}, "5 heads do not divide 12 features"),
        ({"n_layer": 0}, "n_layer must be at least 1, not 0"),
    ):
        with pytest.raises(ValueError, match=message):
            gpt_init(rng, **{**SMALL, **wrong})


def test_a_gpt_refuses_what_it_cannot_read(small):
    with pytest.raises(ValueError, match="9 tokens are more than the context of 8"):
        gpt(small, np.zeros((1, 9), int), n_head=HEADS)
    with pytest.raises(ValueError, match="0 to 10"):
        gpt(small, np.array([11]), n_head=HEADS)
    with pytest.raises(ValueError, match="integers"):
        gpt(small, np.array([1.0]), n_head=HEADS)


# Filters -------------------------------------------------------------------------------------------------------------

logits_lists = st.lists(st.integers(-4, 4), min_size=1, max_size=8)


@given(values=logits_lists, k=st.integers(1, 9))
def test_top_k_by_its_definition(values, k):
    logits = np.array(values, float)
    kth = sorted(values, reverse=True)[min(k, len(values)) - 1]
    expected = [x if x >= kth else -math.inf for x in values]
    assert top_k_filter(logits, k).tolist() == expected
    assert np.array_equal(top_k_filter(logits[None, None], k)[0, 0], expected)


@given(values=logits_lists, p=st.sampled_from([0.05, 0.3, 0.5, 0.77, 0.9, 0.99, 1.0]))
def test_top_p_by_its_definition(values, p):
    """No smaller set of tokens reaches p, and this one does; what stays is never less probable than what goes."""
    logits = np.array(values, float)
    kept = np.isfinite(top_p_filter(logits, p))
    probabilities = softmax(logits)
    assert np.array_equal(top_p_filter(logits, p)[kept], logits[kept])
    assert kept.any()
    assert probabilities[kept].sum() >= p - 1e-12
    fewest = min(n for n in range(1, len(values) + 1) if np.sort(probabilities)[::-1][:n].sum() >= p - 1e-12)
    assert abs(int(kept.sum()) - fewest) <= (p == 1.0)  # at p = 1 rounding may ask for one more or less
    if not kept.all():
        assert probabilities[kept].min() >= probabilities[~kept].max()


def test_filters_by_hand():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    for p, n in ((0.4, 1), (0.6, 2), (0.79, 2), (0.81, 3), (0.99, 4)):
        assert np.isfinite(top_p_filter(logits, p)).sum() == n
    assert top_p_filter(logits, 0.5).dtype == np.float32
    assert top_k_filter(logits, 2).dtype == np.float32
    assert np.isfinite(top_k_filter(np.array([1.0, 2.0, 2.0, 2.0]), 2)).sum() == 3  # a tie with the second stays
    assert np.isfinite(top_p_filter(np.zeros(4), 0.5)).tolist() == [True, True, False, False]
    for wrong in (0, -0.5, 1.5):
        with pytest.raises(ValueError, match=r"p must lie in \(0, 1\]"):
            top_p_filter(logits, wrong)
    with pytest.raises(ValueError, match="k must be at least 1, not 0"):
        top_k_filter(logits, 0)


# Counts --------------------------------------------------------------------------------------------------------------


def counted_flops(params, x, n_head):
    """Twice the multiplications of every matrix product that runs, read off the tape."""
    tape = engine.Tape()
    traced = tree_map(lambda leaf: tape.append(None, (), {}, None, (), leaf), params)
    gpt(traced, x, n_head=n_head)
    total = 0
    for node in tape.nodes:
        if node.primitive is None:
            continue
        if node.primitive.__name__ == "linear":
            total += 2 * node.value.size * node.args[1].shape[1]
        elif node.primitive.__name__ == "scaled_dot_product_attention":
            q, k, _ = node.args[:3]
            total += 2 * q.size * k.shape[-2] + 2 * k.shape[-2] * node.value.size
        else:
            assert node.primitive.__name__ != "matmul"
    return total


@pytest.mark.parametrize("T", [1, 5, 8])
def test_operations_are_counted_right(small, rng, T):
    x = rng.integers(11, size=(1, T))
    assert gpt_flops(small, T) == counted_flops(small, x, HEADS)


def test_six_operations_for_each_parameter_and_token(rng):
    """The rule of thumb against the exact count, three forward passes' worth, where the width is large."""
    params = gpt_init(rng, vocab_size=64, context=32, n_layer=4, n_head=4, n_embd=128)
    n = parameter_count(params)
    assert n == sum(
        p.numel() for p in twins.gpt(vocab_size=64, context=32, n_layer=4, n_head=4, n_embd=128).parameters()
    )
    E, layers = 128, 4
    assert n == 64 * E + 32 * E + layers * (12 * E**2 + 13 * E) + 2 * E
    assert training_flops(n, 32) == 6 * n * 32
    assert abs(3 * gpt_flops(params, 32) / training_flops(n, 32) - 1) < 0.05


# Byte-pair encoding --------------------------------------------------------------------------------------------------


def merged(tokens, pair, new):
    """One merge, transcribed: from left to right."""
    out, i = [], 0
    while i < len(tokens):
        if tuple(tokens[i : i + 2]) == pair:
            out.append(new)
            i += 2
        else:
            out.append(tokens[i])
            i += 1
    return out


def bpe_with_loops(text, vocab_size):
    tokens, merges = list(text), []
    for new in range(256, vocab_size):
        counts = {}
        for pair in itertools.pairwise(tokens):
            counts[pair] = counts.get(pair, 0) + 1
        if not counts or max(counts.values()) < 2:
            break
        best = min(pair for pair, n in counts.items() if n == max(counts.values()))
        merges.append(best)
        tokens = merged(tokens, best, new)
    return merges, tokens


def encoded_by_rank(text, merges):
    """GPT-2's procedure: as long as a pair is known, merge the one that was learned first."""
    ranks = {pair: i for i, pair in enumerate(merges)}
    tokens = list(text)
    while True:
        known = [ranks[pair] for pair in itertools.pairwise(tokens) if pair in ranks]
        if not known:
            return tokens
        tokens = merged(tokens, merges[min(known)], 256 + min(known))


def test_bpe_by_hand():
    """aaabdaaabac: aa is the most frequent pair, then (ab with aa before it) ..., the textbook's example."""
    merges = bpe_train("aaabdaaabac", 259)
    a, b = ord("a"), ord("b")
    assert merges == [(a, a), (a, b), (256, 257)]
    assert bpe_encode("aaabdaaabac", merges).tolist() == [258, ord("d"), 258, a, ord("c")]
    assert bpe_vocabulary(merges)[256:] == [b"aa", b"ab", b"aaab"]
    assert bpe_encode("aaaaa", merges).tolist() == [256, 256, a]
    assert bpe_train("abc", 300) == []
    assert bpe_train("", 300) == []
    assert bpe_encode("", merges).size == 0
    assert bpe_decode([], merges) == b""


@given(text=st.binary(max_size=60), small_alphabet=st.booleans(), extra=st.integers(0, 12))
def test_bpe_with_loops(text, small_alphabet, extra):
    if small_alphabet:
        text = bytes(97 + b % 3 for b in text)
    merges, tokens = bpe_with_loops(text, 256 + extra)
    assert bpe_train(text, 256 + extra) == merges
    assert bpe_encode(text, merges).tolist() == tokens


@given(
    taught=st.lists(st.sampled_from([b"a", b"b", b"ab", b"aa", b"cab"]), max_size=30),
    text=st.one_of(st.binary(max_size=50), st.text(alphabet="abc", max_size=50)),
)
def test_bpe_goes_round_and_is_gpt2s_procedure(taught, text):
    merges = bpe_train(b"".join(taught), 270)
    raw = text.encode() if isinstance(text, str) else text
    tokens = bpe_encode(text, merges)
    assert bpe_decode(tokens, merges) == raw
    assert tokens.tolist() == encoded_by_rank(raw, merges)
    assert len(tokens) <= len(raw)


def test_bpe_refuses():
    with pytest.raises(ValueError, match="at least 256, the number of bytes, not 100"):
        bpe_train("abc", 100)
    with pytest.raises(ValueError, match="from 0 to 255"):
        bpe_decode([256], [])
    assert bpe_decode(bpe_encode("naïve – 注意", []), []).decode() == "naïve – 注意"


# The harness would see these mistakes --------------------------------------------------------------------------------


def spoiled(op, forward=None, backward=None):
    broken = engine.Primitive(forward or op.forward)
    broken.defvjp(backward or op.vjp)
    return broken


def test_common_mistakes_are_caught():
    attention = scaled_dot_product_attention

    def no_scale(q, k, v, mask=None, *, is_causal=False, scale=None):
        return attention.forward(q, k, v, mask, is_causal=is_causal, scale=1.0)

    def upside_down(q, k, v, mask=None, *, is_causal=False, scale=None):
        flipped = ~mask if mask is not None and mask.dtype == bool else mask
        return attention.forward(q, k, v, flipped, is_causal=is_causal, scale=scale)

    def without_its_mean(dy, p, scores, mask=None):
        return dy * p, None

    def over_the_queries(scores, mask=None):
        p = softmax(scores, axis=-2) if scores.ndim > 1 and scores.shape[0] else scores * 1
        return p, p

    def unscaled_vjp(dy, weights, q, k, v, mask=None, *, is_causal=False, scale=None):
        return attention.vjp(dy, weights, q, k, v, mask, is_causal=is_causal, scale=1.0)

    def turned_twice(dy, turn, x, *, base=10000.0, offset=0):
        return (rope.vjp(dy, (turn[0], -turn[1]), x)[0],)

    for op, broken in (
        (attention, spoiled(attention, forward=no_scale)),
        (attention, spoiled(attention, forward=upside_down)),
        (masked_softmax, spoiled(masked_softmax, backward=without_its_mean)),
        (masked_softmax, spoiled(masked_softmax, forward=over_the_queries)),
        (attention, spoiled(attention, backward=unscaled_vjp)),
        (rope, spoiled(rope, backward=turned_twice)),
    ):
        assert rejects(broken, REFERENCES[op.__name__])
        assert not rejects(spoiled(op), REFERENCES[op.__name__])


# The order of a dict, masks, and what is offered in two ways ---------------------------------------------------------


def shuffled(tree, rng):
    """The same tree, with the keys of every branch in another order."""
    if not isinstance(tree, dict):
        return tree
    return {key: shuffled(tree[key], rng) for key in rng.permutation(list(tree)).tolist()}


def deep_gpt(rng):
    return randomized(gpt_init(rng, vocab_size=7, context=6, n_layer=12, n_head=2, n_embd=4), rng, 0.2)


def deep_translator(rng):
    sizes = {"source_size": 7, "target_size": 7, "d_model": 4, "dim_feedforward": 3}
    return randomized(translator_init(rng, num_encoder_layers=12, num_decoder_layers=11, **sizes), rng, 0.2)


READ, WRITTEN = np.array([[1, 2, 3, 0], [4, 5, 6, 1]]), np.array([[2, 1, 6], [3, 3, 0]])
MEMORY = np.random.default_rng(1).normal(size=(2, 4, 4)).astype(np.float32)


def stepped(params):
    logits, cache = gpt_step(params, READ[:, :2], gpt_cache(params, 2, n_head=2), n_head=2)
    return [logits, *gpt_step(params, READ[:, 2:], cache, n_head=2)]


STACKS = {  # every network with a stack of layers in it, and everything that loops over one
    "gpt": (deep_gpt, lambda p: gpt(p, READ, n_head=2)),
    "gpt, its weights": (deep_gpt, lambda p: gpt(p, READ, n_head=2, need_weights=True)),
    "gpt without some heads": (deep_gpt, lambda p: gpt(p, READ, n_head=2, ablate=((1, 0), (10, 1)))),
    "gpt_loss and its gradient": (deep_gpt, lambda p: value_and_grad(gpt_loss)(p, READ[:, :-1], READ[:, 1:], n_head=2)),
    "gpt_step": (deep_gpt, stepped),
    "gpt_cache": (deep_gpt, lambda p: gpt_cache(p, 2, n_head=2)),
    "gpt_flops": (deep_gpt, lambda p: gpt_flops(p, 5)),
    "generate": (deep_gpt, lambda p: generate(p, READ, n_head=2, length=4, rng=np.random.default_rng(0))),
    "translator": (deep_translator, lambda p: translator(p, READ, WRITTEN, nhead=2, padding=0, need_weights=True)),
    "translator_encode": (deep_translator, lambda p: translator_encode(p, READ, nhead=2)),
    "translator_decode": (deep_translator, lambda p: translator_decode(p, WRITTEN, MEMORY, nhead=2)),
    "translate": (deep_translator, lambda p: translate(p, READ, nhead=2, start=1, length=3)),
}


def leaves(result):
    if isinstance(result, dict):
        return {f"{key}.{inner}": leaf for key in result for inner, leaf in leaves(result[key]).items()}
    if isinstance(result, (tuple, list)):
        return leaves({str(i): item for i, item in enumerate(result)})
    return {"": np.asarray(result)}


@pytest.mark.parametrize("name", STACKS)
def test_networks_take_their_order_from_the_names(name, rng, tmp_path):
    """Twelve layers from a file come back as 0, 1, 10, 11, 2; the answer is the same to the last bit."""
    init, f = STACKS[name]
    params = init(rng)
    save(tmp_path / "p.safetensors", params)
    read = load(tmp_path / "p.safetensors")
    assert list(read.get("h", read.get("encoder", {}).get("layers")))[:3] == ["0", "1", "10"]  # as they come back
    expected = leaves(f(params))
    for other in (read, shuffled(params, rng), shuffled(params, rng)):
        found = leaves(f(other))
        assert found.keys() == expected.keys()
        for key, array in expected.items():
            assert np.array_equal(found[key], array), key


def test_layers_without_numbers_are_refused(rng):
    params = deep_gpt(rng)
    params["h"]["last"] = params["h"].pop("11")
    with pytest.raises(ValueError, match="named by numbers, and one is called 'last'"):
        gpt(params, READ, n_head=2)


# Masks leave out


SEEN = np.array([[True, True, False, True], [False, True, True, False]])  # (B, Tk)
FLOAT = np.where(SEEN, 0.3, -np.inf)


def left_out(*arrays):
    """Where the second axis from behind stands for keys that SEEN leaves out."""
    return [np.broadcast_to(~SEEN.reshape(2, *(1,) * (a.ndim - 3), 4, 1), a.shape) for a in arrays]


def heads_of(rng, *sizes):
    return [rng.normal(size=(2, *size)) for size in sizes]


def attention_cases(rng):
    """Per name: a function of arrays, the arrays, and per array which entries a mask leaves out (None: none)."""
    q, k, v = heads_of(rng, (3, 5), (4, 5), (4, 2))
    k4, v4, q4 = k[:, None], v[:, None], rng.normal(size=(2, 2, 3, 5))
    s = rng.normal(size=(2, 3, 4))
    dead = np.broadcast_to(~SEEN[:, None], s.shape)
    cases = {
        "masked_softmax, bool": (lambda s: masked_softmax(s, SEEN[:, None]), [s], [dead]),
        "masked_softmax, float": (lambda s: masked_softmax(s, FLOAT[:, None]), [s], [dead]),
        "softmax times values": (
            lambda s, v: scaled_dot_product_attention(s, np.eye(4), v, SEEN[:, None]), [s, v], [None, *left_out(v)],
        ),
        "attention_weights": (lambda q, k: attention_weights(q, k, SEEN[:, None]), [q, k], [None, *left_out(k)]),
        "rows without a key": (
            lambda q, k, v: scaled_dot_product_attention(q, k, v, np.array([[True], [False], [True]])),
            [q, k, v],
            [np.broadcast_to(np.array([[False], [True], [False]]), q.shape), None, None],
        ),
        "grouped": (
            lambda q, k, v: grouped_query_attention(q, k, v, SEEN[:, None, None]),
            [q4, k4, v4],
            [None, *left_out(k4, v4)],
        ),
    }  # fmt: skip
    for mask, kind in ((SEEN, "bool"), (FLOAT, "float")):
        cases[f"attention, {kind}"] = (
            lambda q, k, v, mask=mask: scaled_dot_product_attention(q, k, v, mask[:, None]),
            [q, k, v],
            [None, *left_out(k, v)],
        )
    x, p = rng.normal(size=(2, 4, 4)), randomized(multi_head_attention_init(rng, 4, dtype=np.float64), rng)
    key_padding = {"bool": ~SEEN, "float": FLOAT}
    columns = np.array([False, True, False, False])  # no query sees key 1
    unseen = np.broadcast_to(columns[:, None], x.shape)
    for weights in (False, True):
        for kind, mask in key_padding.items():
            cases[f"heads, {kind}, weights {weights}"] = (
                lambda p, q, k, v, mask=mask, weights=weights: total(
                    multi_head_attention(p, q, k, v, num_heads=2, key_padding_mask=mask, need_weights=weights)
                ),
                [p, rng.normal(size=(2, 3, 4)), x, x + 1],
                [None, None, *left_out(x, x)],
            )
        cases[f"heads, a column of the mask, weights {weights}"] = (
            lambda p, q, k, v, weights=weights: total(
                multi_head_attention(
                    p, q, k, v, num_heads=2, attn_mask=np.broadcast_to(columns, (3, 4)), need_weights=weights
                )
            ),
            [p, rng.normal(size=(2, 3, 4)), x, x + 1],
            [None, None, unseen, unseen],
        )
    encoder = randomized(transformer_encoder_layer_init(rng, 4, dim_feedforward=3, dtype=np.float64), rng)
    decoder = randomized(transformer_decoder_layer_init(rng, 4, dim_feedforward=3, dtype=np.float64), rng)
    for first in (False, True):
        cases[f"encoder layer, norm_first {first}"] = (
            lambda p, x, first=first: real(
                transformer_encoder_layer(p, x, nhead=2, src_key_padding_mask=~SEEN, norm_first=first)
            ),
            [encoder, x],
            [None, *left_out(x)],
        )
        cases[f"decoder layer, norm_first {first}"] = (
            lambda p, x, memory, first=first: real(
                transformer_decoder_layer(
                    p, x, memory, nhead=2, norm_first=first, tgt_key_padding_mask=~SEEN, memory_key_padding_mask=~SEEN
                )
            ),
            [decoder, x, x - 1],
            [None, *left_out(x, x)],
        )
    network = randomized(
        translator_init(rng, source_size=7, target_size=7, d_model=4, dim_feedforward=3, dtype=np.float64), rng
    )
    padding = tree_map(lambda a: np.zeros(a.shape, bool), network)
    padding["source_embedding"]["weight"][0] = True
    cases["translator, the embedding of padding"] = (
        lambda p: translator(p, READ, WRITTEN, nhead=2, padding=0),
        [network],
        [padding],
    )
    reader = randomized(seq2seq_attention_init(rng, 7, 7, 3, dtype=np.float64), rng)
    padding = tree_map(lambda a: np.zeros(a.shape, bool), reader)
    padding["encoder"]["embedding"]["weight"][0] = True
    cases["recurrent networks with attention, the embedding of padding"] = (
        lambda p: seq2seq_attention(p, READ.T, WRITTEN.T, READ.T != 0),
        [reader],
        [padding],
    )
    return cases


def test_a_silent_head_may_be_anything(rng):
    """What is replaced by zeros is not multiplied by them."""
    params = gpt_init(rng, vocab_size=7, context=6, n_layer=2, n_head=2, n_embd=4)
    expected = gpt(params, READ, n_head=2, ablate=((1, 0),))
    params["h"]["1"]["attn"]["c_attn"]["bias"][8:10] = np.nan  # the values of head 0
    assert np.array_equal(gpt(params, READ, n_head=2, ablate=((1, 0),)), expected)


def test_numbers_that_are_not_finite_do_not_change_the_dtype(rng):
    for dtype in (np.float16, np.float32, np.float64):
        q, k, v = (rng.normal(size=(3, 2)).astype(dtype) for _ in range(3))
        k[2], v[2] = np.nan, np.inf
        for f in (scaled_dot_product_attention, blockwise_attention):
            y, *grads = pulled(lambda *a, f=f: f(*a, is_causal=True)[:2], q, k, v, dy=np.ones((2, 2)))
            assert {a.dtype for a in (y, *grads)} == {np.dtype(dtype)}


def total(y):
    return y[0] if isinstance(y, tuple) else y


def real(y):
    """The rows of real tokens, which are what a loss is made of."""
    return y[SEEN]


MASKED = list(attention_cases(np.random.default_rng(0)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", MASKED)
def test_masks_leave_out_whatever_stands_there(name, bad, rng):
    """Value and gradients are those for ordinary numbers in its place; what is left out itself has gradient 0."""
    f, args, places = attention_cases(rng)[name]

    def put(number):
        return [
            arg if place is None else tree_map(lambda a, out: np.where(out, number, a), arg, place)
            for arg, place in zip(args, places, strict=True)
        ]

    expected, pull = vjp(f, *put(0.5))
    dy = rng.normal(size=expected.shape)
    gradients = pull(dy)
    y, pull = vjp(f, *put(bad))
    assert np.isfinite(y).all()
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs, place in zip(pull(dy), gradients, places, strict=True):
        ours, theirs = leaves(ours), leaves(theirs)
        for key, g in ours.items():
            np.testing.assert_allclose(g, theirs[key], rtol=1e-9, atol=1e-11)
            if place is not None:
                assert not g[leaves(place)[key]].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("way", ["attention", "blockwise", "grouped", "weights"])
def test_the_future_may_be_anything(way, bad, rng):
    """A token that is not finite spoils its own row and later ones, and neither value nor gradient of earlier rows."""
    q, k, v = (rng.normal(size=(1, 6, 4)) for _ in range(3))
    f = {
        "attention": lambda *a: scaled_dot_product_attention(*a, is_causal=True),
        "blockwise": lambda *a: blockwise_attention(*a, is_causal=True, block_size=2),
        "grouped": lambda *a: grouped_query_attention(*a, is_causal=True),
        "weights": lambda q, k, v: attention_weights(q, k, is_causal=True),
    }[way]
    expected, pull = vjp(lambda *a: f(*a)[..., :4, :], q, k, v)
    dy = rng.normal(size=expected.shape)
    gradients = pull(dy)
    later = [a.copy() for a in (q, k, v)]
    for a in later[1:]:
        a[..., 4, 1] = bad
    with np.errstate(invalid="ignore"):
        y, pull = vjp(lambda *a: f(*a)[..., :4, :], *later)
        whole = f(*later)
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    if way != "weights" or np.isnan(bad):  # a weight of 0 is a right answer to a score of minus infinity
        assert not np.isfinite(whole[..., 4:, :]).all()
    for ours, theirs in zip(pull(dy), gradients, strict=True):
        np.testing.assert_allclose(ours[..., :4, :], theirs[..., :4, :], rtol=1e-9, atol=1e-12)


def test_what_is_seen_is_never_hidden(rng):
    """The other way round: a nan that a query does see is in its answer, and in no other one."""
    q, k, v = (rng.normal(size=(6, 4)) for _ in range(3))
    mask = rng.random((6, 6)) < 0.5
    for which in (k, v):
        keep, which[2, 1] = which[2, 1].copy(), np.nan
        y = scaled_dot_product_attention(q, k, v, mask)
        assert np.array_equal(np.isnan(y).any(-1), mask[:, 2])
        which[2, 1] = keep


# Two ways, one result


@given(
    seed=st.integers(0, 999),
    power=st.integers(-20, 100),
    T=st.tuples(st.integers(0, 7), st.integers(0, 9)),
    block=st.integers(1, 4),
    is_causal=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float64]),
    lost=st.sampled_from([None, "first keys", "last keys", "all keys"]),
)
@settings(max_examples=200, deadline=None)
def test_block_by_block_is_in_one_piece_over_the_whole_range(seed, power, T, block, is_causal, dtype, lost):
    """Scores up to 2^100, ties among them, and keys whose scores overflow to minus infinity: value and gradients.

    The numbers are whole times a power of two, so that no score is rounded, and both ways have the same ones.
    """
    rng = np.random.default_rng(seed)
    Tq, Tk = T
    q, k = (rng.integers(-3, 4, size=(2, n, 3)).astype(dtype) for n in T)
    v, dy = rng.normal(size=(2, Tk, 3)).astype(dtype), rng.normal(size=(2, Tq, 3)).astype(dtype)
    q *= dtype(2.0**power)
    if lost is not None:
        large = dtype(2.0 ** (100 if dtype is np.float32 else 600))
        q[:], k = large, 256 * k / large  # scores from -2304 to 2304, but for
        k[:, {"first keys": slice(Tk // 2), "last keys": slice(Tk // 2, None), "all keys": slice(None)}[lost]] = -large
    with np.errstate(over="ignore"):
        one, pull = vjp(scaled_dot_product_attention, q, k, v, is_causal=is_causal, scale=1.0)
        one_gradients = pull(dy)
        blocks, pull = vjp(blockwise_attention, q, k, v, is_causal=is_causal, scale=1.0, block_size=block)
        block_gradients = pull(dy)
    tolerance = 1e-5 if dtype is np.float32 else 1e-13
    assert np.isfinite(one).all()
    np.testing.assert_allclose(blocks, one, rtol=tolerance, atol=tolerance)
    sizes = np.max(np.abs(k), initial=1), np.max(np.abs(q), initial=1), 1
    for ours, theirs, size in zip(block_gradients, one_gradients, sizes, strict=True):
        np.testing.assert_allclose(ours / size, theirs / size, rtol=0, atol=20 * tolerance)


@given(
    seed=st.integers(0, 999),
    density=st.sampled_from([0.0, 0.3, 0.8, 1.0]),
    kind=st.sampled_from(["bool", "float"]),
    is_causal=st.booleans(),
    bad=st.sampled_from([None, np.nan, np.inf]),
)
@settings(max_examples=100, deadline=None)
def test_weights_and_values_are_the_attention(seed, density, kind, is_causal, bad):
    """The weights that are shown, times the values, are the answer; also with rows without keys, and nan unseen."""
    rng = np.random.default_rng(seed)
    q, k, v = rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 4, 5)), rng.normal(size=(2, 4, 2))
    mask = rng.random((2, 3, 4)) < density
    if bad is not None:
        mask[..., 1] = False
    seen = mask & causal_mask(3, 4) if is_causal else mask
    given_mask = mask if kind == "bool" else np.where(mask, rng.normal(size=mask.shape), -np.inf)
    weights = attention_weights(q, k, given_mask, is_causal=is_causal)
    expected = weights @ v
    if bad is not None:
        k[:, 1], v[:, 1] = bad, bad
        np.testing.assert_allclose(attention_weights(q, k, given_mask, is_causal=is_causal), weights, atol=1e-15)
    y = scaled_dot_product_attention(q, k, v, given_mask, is_causal=is_causal)
    np.testing.assert_allclose(y, expected, atol=1e-13)
    np.testing.assert_allclose(weights.sum(-1), seen.any(-1), atol=1e-13)
    grouped = grouped_query_attention(q[:, None], k[:, None], v[:, None], given_mask[:, None], is_causal=is_causal)
    np.testing.assert_allclose(grouped[:, 0], expected, atol=1e-13)


@given(
    seed=st.integers(0, 999),
    cuts=st.lists(st.integers(1, 3), min_size=1, max_size=6),
    batch=st.sampled_from([None, 1, 3]),
    scale=st.sampled_from([0.02, 1.0, 30.0]),
)
@settings(max_examples=40, deadline=None)
def test_steps_of_any_length_are_the_whole(seed, cuts, batch, scale):
    """gpt_step piece by piece, with a cache that was written to a dict in any order, is gpt in one piece."""
    rng = np.random.default_rng(seed)
    T = sum(cuts)
    params = gpt_init(rng, vocab_size=5, context=T, n_layer=2, n_head=2, n_embd=4, dtype=np.float64)
    params = randomized(params, rng, scale)
    tokens = rng.integers(0, 5, size=(T,) if batch is None else (batch, T))
    whole = gpt(params, tokens, n_head=2)
    cache, start, pieces = gpt_cache(params, batch, n_head=2), 0, []
    for n in cuts:
        logits, cache = gpt_step(params, tokens[..., start : start + n], shuffled(cache, rng), n_head=2)
        pieces.append(logits)
        start += n
    np.testing.assert_allclose(np.concatenate(pieces, -2), whole, rtol=1e-9, atol=1e-9 * np.abs(whole).max())
    options = {"n_head": 2, "length": 3, "temperature": 0.7, "top_k": 4, "top_p": 0.9}
    begin = tokens[..., : max(T - 2, 1)]
    with_cache, without = (
        generate(params, begin, rng=np.random.default_rng(seed), cache=cache, **options) for cache in (True, False)
    )
    assert np.array_equal(with_cache, without)


def test_a_cache_from_a_file_goes_on(rng, tmp_path):
    """Its length comes back as an array of one integer."""
    params = deep_gpt(rng)
    _, cache = gpt_step(params, READ[:, :2], gpt_cache(params, 2, n_head=2), n_head=2)
    save(tmp_path / "c.safetensors", cache)
    logits, longer = gpt_step(params, READ[:, 2:], load(tmp_path / "c.safetensors"), n_head=2)
    assert np.array_equal(logits, gpt_step(params, READ[:, 2:], cache, n_head=2)[0])
    assert longer["length"] == 4


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("is_causal", [False, True])
def test_asking_for_weights_changes_nothing_else(need_weights, is_causal, rng):
    params = randomized(multi_head_attention_init(rng, 4, dtype=np.float64), rng)
    x = rng.normal(size=(2, 3, 4))
    x[0, 2] = np.nan
    mask = np.array([[False, False, True], [False, True, False]])
    y = total(
        multi_head_attention(
            params, x, x, x, num_heads=2, key_padding_mask=mask, is_causal=is_causal, need_weights=need_weights
        )
    )
    x[0, 2] = 0
    expected = multi_head_attention(params, x, x, x, num_heads=2, key_padding_mask=mask, is_causal=is_causal)
    np.testing.assert_allclose(y, expected, rtol=1e-12)


# Integers, half precision, and numbers without a square


def test_rope_of_integers_by_hand():
    turned = rope(np.array([[1, 0]] * 3))
    np.testing.assert_allclose(turned, [[1, 0], [0.540302, 0.841471], [-0.416147, 0.909297]], atol=1e-6)


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.float16, np.float32, np.float64])
def test_a_vector_is_at_angle_zero_to_itself(dtype):
    x = np.array([[100, 50]], dtype)
    assert cosine_score(x, x) == pytest.approx(1, rel=1e-3)


@given(power=st.floats(-6, 37), seed=st.integers(0, 99), dtype=st.sampled_from([np.float32, np.float64]))
@settings(max_examples=50, deadline=None)
def test_a_cosine_does_not_depend_on_the_length(power, seed, dtype):
    """Vectors from eps to the largest numbers: the squares of most of them are no float32."""
    rng = np.random.default_rng(seed)
    q, k = rng.normal(size=(2, 3, 4)).astype(dtype)
    long = q * dtype(10.0**power)
    np.testing.assert_allclose(cosine_score(long, k), cosine_score(q, k), atol=1e-6)
    _, dlong, dk = pulled(cosine_score, long, k, dy=np.ones((3, 3)))
    _, dq, dk_short = pulled(cosine_score, q, k, dy=np.ones((3, 3)))
    np.testing.assert_allclose(dk, dk_short, atol=1e-5)
    np.testing.assert_allclose(dlong * 10.0**power, dq, atol=1e-4)


def test_a_vector_shorter_than_eps_is_divided_by_eps():
    q, k = np.array([[3e-9, 4e-9]]), np.array([[0.6, 0.8]])
    assert cosine_score(q, k) == pytest.approx(0.5)
    _, dq, dk = pulled(cosine_score, np.zeros((1, 2)), k, dy=[[1.0]])
    np.testing.assert_allclose(dq, k / 1e-8)
    assert not dk.any()


# Shapes of masks are listed, not guessed


@pytest.mark.parametrize("kind", [bool, np.float64])
def test_masks_of_other_shapes_are_refused(kind, rng):
    """B = H = 2: (B, T, T) would broadcast as one mask for each head. PyTorch refuses what is refused here."""
    B, H, T, S, E = 2, 2, 3, 4, 4
    params = randomized(multi_head_attention_init(rng, E, dtype=np.float64), rng)
    module = torch.nn.MultiheadAttention(E, H, batch_first=True, dtype=torch.float64)
    x, memory = rng.normal(size=(B, T, E)), rng.normal(size=(B, S, E))
    tried = 0
    for option, allowed, ours_alone, refused in (
        (
            "attn_mask",
            [(T, S), (B * H, T, S)],
            [(B, H, T, S)],
            [(B, T, S), (1, T, S), (H, T, S), (S,), (1, S), (T, 1), (1, 1), (), (S, T), (B, 1, T, S), (1, H, T, S),
             (1, 1, T, S), (B, H, 1, S), (B * H, T, 1), (B * H, 1, S), (1, B, H, T, S)],
        ),
        (
            "key_padding_mask",
            [(B, S)],
            [],
            [(S,), (1, S), (B, 1), (B, T), (B, 1, S), (B, 1, 1, S), (), (B * H, S), (1, 1)],
        ),
    ):  # fmt: skip
        for shape in allowed + ours_alone:
            multi_head_attention(params, x, memory, memory, num_heads=H, **{option: np.zeros(shape, kind)})
            tried += 1
        for shape in allowed:
            module(*map(torch.tensor, (x, memory, memory)), **{option: torch.tensor(np.zeros(shape, kind))})
        for shape in refused:
            with pytest.raises(ValueError, match=f"{option} has shape .* expected"):
                multi_head_attention(params, x, memory, memory, num_heads=H, **{option: np.zeros(shape, kind)})
            tried += 1
    assert tried == 29
    for option in ("attn_mask", "key_padding_mask"):
        mask = np.zeros((T, S) if option == "attn_mask" else (B, S), int)
        with pytest.raises(ValueError, match=f"{option} has dtype int64, expected bool"):
            multi_head_attention(params, x, memory, memory, num_heads=H, **{option: mask})


def test_a_mask_for_every_head_is_repeated_as_documented(rng):
    params = randomized(multi_head_attention_init(rng, 4, dtype=np.float64), rng)
    x, mask = rng.normal(size=(3, 4, 4)), rng.random((3, 4, 4)) < 0.3
    y = multi_head_attention(params, x, x, x, num_heads=2, attn_mask=np.repeat(mask, 2, 0))
    for i in range(3):
        alone = multi_head_attention(params, x[i], x[i], x[i], num_heads=2, attn_mask=mask[i])
        np.testing.assert_allclose(y[i], alone, rtol=1e-12)


def test_inputs_of_other_shapes_are_refused(rng):
    params = randomized(multi_head_attention_init(rng, 4, dtype=np.float64), rng)
    x = rng.normal(size=(2, 3, 4))
    for shapes in (((2, 3, 4), (1, 3, 4), (1, 3, 4)), ((2, 3, 4), (3, 4), (3, 4)), ((2, 3, 4), (2, 3, 4), (2, 5, 4))):
        with pytest.raises(ValueError, match="multi_head_attention: query of shape"):
            multi_head_attention(params, *(np.ones(shape) for shape in shapes), num_heads=2)
    with pytest.raises(ValueError, match=r"a mask of shape \(3, 3, 3\) does not fit 2 heads"):
        grouped_query_attention(x[:, None][:1].repeat(2, 1)[0], x[:1], x[:1], np.ones((3, 3, 3), bool))


# Numbers that mean nothing


@pytest.mark.parametrize("bad", [[np.nan, 1.0, 2.0], [np.inf, 1.0, 2.0], [-np.inf, -np.inf, -np.inf]])
def test_filters_refuse_logits_without_a_largest(bad):
    for f in (lambda x: top_k_filter(x, 2), lambda x: top_k_filter(x, 5), lambda x: top_p_filter(x, 0.5)):
        with pytest.raises(ValueError, match="the largest must be finite"):
            f(np.array([[0.0, 1.0, 2.0], bad]))


def test_a_temperature_near_zero_takes_the_most_probable_token(rng):
    params = randomized(gpt_init(rng, vocab_size=7, context=6, n_layer=1, n_head=2, n_embd=4), rng, 0.2)
    cold = generate(params, READ, n_head=2, length=5, rng=rng, temperature=1e-320, top_k=3, top_p=0.9)
    assert np.array_equal(cold, generate(params, READ, n_head=2, length=5, temperature=0))


def test_probability_one_takes_all_tokens():
    """The first token alone has probability 1 to sixteen digits; the others are possible all the same."""
    assert np.array_equal(top_p_filter(np.array([0.0, -50.0, -60.0]), 1.0), [0, -50, -60])


@pytest.mark.parametrize("way", ["attention", "grouped", "weights", "heads"])
def test_a_learned_bias_has_a_gradient_in_every_way(way, rng):
    """A float mask is a constant or a parameter; where it is -inf over a nan, its gradient is 0."""
    params = randomized(multi_head_attention_init(rng, 4, dtype=np.float64), rng)
    x, bias = rng.normal(size=(1, 3, 4)), rng.normal(size=(3, 3))
    bias[:, 1] = -np.inf
    f = {
        "attention": lambda x, b: scaled_dot_product_attention(x, x, x, b),
        "grouped": lambda x, b: grouped_query_attention(x[:, None], x[:, None], x[:, None], b),
        "weights": lambda x, b: attention_weights(x, x, b),
        "heads": lambda x, b: multi_head_attention(params, x, x, x, num_heads=2, attn_mask=b),
    }[way]
    y, pull = vjp(f, x, bias)
    dy = rng.normal(size=y.shape)
    dy[..., 1, :] = 0  # the answer to the token that will be nan is not used
    expected = pull(dy)[1]
    x[:, 1] = np.nan
    with np.errstate(invalid="ignore"):
        db = vjp(f, x, bias)[1](dy)[1]
    assert np.abs(db).max() > 1e-3
    assert not db[:, 1].any()
    np.testing.assert_allclose(db, expected, atol=1e-12)
