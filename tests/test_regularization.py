"""Chapter 5 as statements about mathematics: equations transcribed with loops, cases worked by hand, invariances."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from nnbook.backprop import Primitive, flatten, value_and_grad, vjp
from nnbook.losses import cross_entropy, mse_loss
from nnbook.neurons import linear, mlp, mlp_init, relu
from nnbook.optimizers import sgd, sgd_init
from nnbook.regularization import (
    batch_norm,
    batch_norm_eval,
    batch_norm_init,
    batch_norm_layer,
    bias_variance,
    calculate_gain,
    cutout,
    dropout,
    dropout_mask,
    fan_in_and_fan_out,
    gaussian_noise,
    group_norm,
    group_norm_init,
    he_normal,
    he_uniform,
    is_weight,
    l1_penalty,
    l2_penalty,
    layer_norm,
    layer_norm_init,
    min_norm,
    mixup,
    orthogonal,
    proximal_step,
    random_elastic,
    random_features,
    random_features_init,
    random_rotation,
    random_shift,
    ridge,
    rms_norm,
    rms_norm_init,
    rotate,
    running_statistics,
    shift,
    soft_threshold,
    warp,
    xavier_normal,
    xavier_uniform,
)
from nnbook.training import evaluate, fit, from_torch, to_torch
from nnbook.verify import rejects, verify

F = torch.nn.functional
NORMS = [batch_norm, layer_norm, group_norm, rms_norm]
PRIMITIVES = [soft_threshold, dropout, batch_norm, batch_norm_eval, layer_norm, group_norm, rms_norm]
FALSE_ALARM = 1e-9
"""The chance that a statistical test of this file fails although all is right, were its seed not fixed."""


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def pulled(f, *args, dy, **static):
    """The value and the cotangents for the upstream ``dy``."""
    y, pull = vjp(f, *args, **static)
    return y, *pull(np.asarray(dy, float))


@pytest.mark.parametrize("op", PRIMITIVES, ids=lambda op: op.__name__)
def test_three_ways(op):
    result = verify(op)
    assert result.ok, result.details()


# Penalties -----------------------------------------------------------------------------------------------------------

SMALL = {"0": {"weight": np.array([[3.0, -4.0]]), "bias": np.array([100.0])}, "norm": {"weight": np.array([1.0, 1.0])}}


def test_penalties_by_hand():
    """Weights 3 and -4; bias and scales do not count."""
    assert l2_penalty(SMALL) == (9 + 16) / 2
    assert l1_penalty(SMALL) == 7
    _, grads = value_and_grad(l2_penalty)(SMALL)
    assert np.array_equal(grads["0"]["weight"], [[3, -4]])
    _, grads_l1 = value_and_grad(l1_penalty)(SMALL)
    assert np.array_equal(grads_l1["0"]["weight"], [[1, -1]])
    for g in (grads, grads_l1):
        assert np.array_equal(g["0"]["bias"], [0])
        assert np.array_equal(g["norm"]["weight"], [0, 0])


def test_penalties_with_loops(rng):
    params = mlp_init(rng, (4, 3, 2), dtype=np.float64)
    squares = absolutes = 0.0
    for name, leaf in flatten(params).items():
        if name.endswith("weight"):
            for i in range(leaf.shape[0]):
                for j in range(leaf.shape[1]):
                    squares += leaf[i, j] ** 2 / 2
                    absolutes += abs(leaf[i, j])
    assert np.isclose(l2_penalty(params), squares, rtol=1e-14)
    assert np.isclose(l1_penalty(params), absolutes, rtol=1e-14)


def test_an_array_alone_counts_whatever_its_shape():
    assert l2_penalty(np.array([3.0, 4.0])) == 12.5
    assert l1_penalty(np.array([3.0, -4.0])) == 7


def test_the_choice_of_leaves_is_yours():
    assert l2_penalty(SMALL, leaves=lambda name, leaf: name == "norm.weight") == 1
    assert l1_penalty(SMALL, leaves=lambda name, leaf: True) == 7 + 100 + 2
    assert is_weight("0.weight", np.zeros((2, 3)))
    assert not is_weight("0.weight", np.zeros(3))


def test_penalties_keep_float32(rng):
    params = mlp_init(rng, (4, 3, 2))
    for penalty in (l2_penalty, l1_penalty):
        value, grads = value_and_grad(penalty)(params)
        assert value.dtype == np.float32
        assert {g.dtype for g in flatten(grads).values()} == {np.dtype(np.float32)}


def test_the_l1_penalty_has_slope_zero_at_zero():
    _, g = value_and_grad(l1_penalty)(np.array([-2.0, 0.0, 3.0]))
    assert np.array_equal(g, [-1, 0, 1])


def test_an_l2_penalty_is_the_weight_decay_of_sgd(rng):
    """The same numbers as the optimizer's option, and as PyTorch's, if every leaf counts."""
    lam, lr = 0.3, 0.1
    params = mlp_init(rng, (4, 3, 2), dtype=np.float64)
    x, y = rng.normal(size=(5, 4)), rng.normal(size=(5, 2))

    def loss(params):
        return mse_loss(mlp(params, x), y)

    _, plain = value_and_grad(loss)(params)
    _, penalized = value_and_grad(lambda p: loss(p) + lam * l2_penalty(p, leaves=lambda name, leaf: True))(params)
    by_penalty, _ = sgd(params, penalized, sgd_init(params), lr=lr)
    by_option, _ = sgd(params, plain, sgd_init(params), lr=lr, weight_decay=lam)
    tensors = {key: t.requires_grad_() for key, t in to_torch(params).items()}
    for key, g in flatten(plain).items():
        tensors[key].grad = torch.tensor(g)
    torch.optim.SGD(tensors.values(), lr=lr, weight_decay=lam).step()
    for key, leaf in flatten(by_penalty).items():
        assert np.allclose(leaf, flatten(by_option)[key], rtol=1e-12, atol=1e-15)
        assert np.allclose(leaf, tensors[key].detach().numpy(), rtol=1e-12, atol=1e-15)


# Soft thresholding ---------------------------------------------------------------------------------------------------


def test_soft_threshold_by_hand():
    x = np.array([3.0, -0.5, -2.0])
    y, dx = pulled(lambda x: soft_threshold(x, threshold=1.0), x, dy=[10, 20, 30])
    assert np.array_equal(y, [2, 0, -1])
    assert np.array_equal(dx, [10, 0, 30])


def test_soft_threshold_with_loops(rng):
    x, dy, t = rng.normal(size=20), rng.normal(size=20), 0.7
    value, slope = np.zeros(20), np.zeros(20)
    for i in range(20):
        size = max(abs(x[i]) - t, 0)
        value[i] = math.copysign(size, x[i])
        slope[i] = dy[i] if size > 0 else 0
    y, dx = pulled(lambda x: soft_threshold(x, threshold=t), x, dy=dy)
    assert np.allclose(y, value, rtol=1e-14, atol=1e-16)
    assert np.array_equal(dx, slope)


@given(st.floats(-4, 4), st.floats(0, 3))
def test_soft_threshold_is_the_argmin_by_brute_force(x, threshold):
    u = np.linspace(-5, 5, 20001)
    best = u[np.argmin((u - x) ** 2 / 2 + threshold * np.abs(u))]
    assert abs(soft_threshold(np.array(x), threshold=threshold) - best) <= 5.1e-4


def test_a_threshold_of_numpy_keeps_float32():
    x = np.array([1.0, -2.0], np.float32)
    assert soft_threshold(x, threshold=np.float64(0.5)).dtype == np.float32


def test_proximal_step_thresholds_the_weights_and_nothing_else(rng):
    params = mlp_init(rng, (6, 5, 3))
    stepped = proximal_step(params, lr=0.5, lam=0.4)
    for name, leaf in flatten(stepped).items():
        before = flatten(params)[name]
        assert leaf.dtype == np.float32
        if name.endswith("weight"):
            assert np.allclose(leaf, F.softshrink(torch.tensor(before), 0.2).numpy(), rtol=1e-6)
            assert np.any(leaf == 0)
        else:
            assert leaf is before
    assert np.array_equal(proximal_step(np.array([1.0, 0.1]), lr=1.0, lam=0.25), [0.75, 0])


def test_proximal_gradient_descent_ends_where_lasso_has_its_minimum(rng):
    """At the minimum each weight is either 0 or its gradient balances the penalty; a plain gradient makes no zeros."""
    x = rng.normal(size=(40, 10))
    y = x[:, :3] @ np.array([2.0, -1.0, 0.5]) + 0.1 * rng.normal(size=40)
    lam, lr = 0.3, 0.1
    smooth = value_and_grad(lambda w: mse_loss(x @ w, y) / 2)
    w = v = np.zeros(10)
    for _ in range(1000):
        w = proximal_step(w - lr * smooth(w)[1], lr=lr, lam=lam)
        v = v - lr * (smooth(v)[1] + lam * np.sign(v))
    g = smooth(w)[1]
    assert 0 < np.sum(w == 0) < 10
    assert np.allclose(g[w != 0], -lam * np.sign(w[w != 0]), atol=1e-10)
    assert np.all(np.abs(g[w == 0]) <= lam)
    assert np.sum(v == 0) == 0


# Dropout -------------------------------------------------------------------------------------------------------------


def test_dropout_by_hand():
    """Half is dropped, so what stays counts twice."""
    x, mask = np.array([1.0, 2.0, 3.0]), np.array([True, False, True])
    y, dx = pulled(lambda x: dropout(x, mask, p=0.5), x, dy=[1, 1, 1])
    assert np.array_equal(y, [2, 0, 6])
    assert np.array_equal(dx, [2, 0, 2])


def test_dropout_with_loops(rng):
    x, dy, p = rng.normal(size=(4, 3)), rng.normal(size=(4, 3)), 0.3
    mask = dropout_mask(rng, (4, 3), p=p)
    value, slope = np.zeros((4, 3)), np.zeros((4, 3))
    for n in range(4):
        for d in range(3):
            if mask[n, d]:
                value[n, d] = x[n, d] / (1 - p)
                slope[n, d] = dy[n, d] / (1 - p)
    y, dx = pulled(lambda x: dropout(x, mask, p=p), x, dy=dy)
    assert np.allclose(y, value, rtol=1e-15, atol=0)
    assert np.allclose(dx, slope, rtol=1e-15, atol=0)


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 0.9])
def test_dropout_is_that_of_torch_given_its_mask(rng, p):
    """torch draws its mask itself; the same seed on an array of ones brings it to light."""
    x, dy = rng.normal(size=(50, 20)), rng.normal(size=(50, 20))
    torch.manual_seed(3)
    mask = F.dropout(torch.ones(50, 20, dtype=torch.float64), p).numpy() > 0
    tensor = torch.tensor(x, requires_grad=True)
    torch.manual_seed(3)
    theirs = F.dropout(tensor, p)
    theirs.backward(torch.tensor(dy))
    y, dx = pulled(lambda x: dropout(x, mask, p=p), x, dy=dy)
    assert np.allclose(y, theirs.detach().numpy(), rtol=1e-14, atol=0)
    assert np.allclose(dx, tensor.grad.numpy(), rtol=1e-14, atol=0)


def test_evaluation_drops_and_scales_nothing(rng):
    x = rng.normal(size=(3, 2))
    assert np.array_equal(dropout(x, p=0.5), x)
    assert np.array_equal(dropout(x, None, p=0.9), F.dropout(torch.tensor(x), 0.9, training=False).numpy())


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_dropout_keeps_the_expectation_and_adds_the_variance_of_the_formula(rng, p):
    """E = x and Var = x^2 p / (1 - p). How many units stay is binomial, and decides both moments."""
    x, trials = 3.0, 20_000
    kept = np.array(scipy.stats.binom.interval(1 - FALSE_ALARM, trials, 1 - p))
    off = np.abs(kept / trials - (1 - p)).max()  # how far chance carries the share that stays
    assert off < 0.05
    y = dropout(np.full(trials, x), dropout_mask(rng, trials, p=p), p=p)
    assert abs(y.mean() - x) <= x * off / (1 - p)
    assert abs(y.var() - x * x * p / (1 - p)) <= (x / (1 - p)) ** 2 * off * (abs(1 - 2 * p) + off)


def test_without_the_scale_the_expectation_would_be_caught(rng):
    """The test above can fail: (1 - p) x is far outside of its interval."""
    x, p, trials = 3.0, 0.5, 20_000
    kept = np.array(scipy.stats.binom.interval(1 - FALSE_ALARM, trials, 1 - p))
    y = np.where(dropout_mask(rng, trials, p=p), x, 0)
    assert abs(y.mean() - x) > 10 * x * np.abs(kept / trials - (1 - p)).max() / (1 - p)


def test_units_are_dropped_independently(rng):
    """Neighbours agree as often as chance says, along both axes."""
    mask = dropout_mask(rng, (400, 400), p=0.3)
    for a, b in ((mask[1::2], mask[::2]), (mask[:, 1::2], mask[:, ::2])):
        low, high = scipy.stats.binom.interval(1 - FALSE_ALARM, a.size, 0.7**2 + 0.3**2)
        assert low <= np.sum(a == b) <= high


def test_whole_channels_are_dropped_by_a_mask_with_axes_of_size_one(rng):
    x = rng.normal(size=(4, 3, 2, 2))
    mask = dropout_mask(rng, (4, 3, 1, 1), p=0.5)
    y = dropout(x, mask, p=0.5)
    assert np.array_equal((y != 0).all((2, 3)), mask[..., 0, 0])
    assert np.array_equal((y == 0).all((2, 3)), ~mask[..., 0, 0])


def test_what_was_dropped_is_zero_even_if_it_was_infinite():
    assert np.array_equal(dropout(np.array([np.inf, 1.0]), np.array([False, True]), p=0.5), [0, 2])


# Normalization -------------------------------------------------------------------------------------------------------


def options(norm):
    """What a norm of an array (N, C, ...) needs besides."""
    return {"num_groups": 2} if norm is group_norm else {}


def test_a_norm_of_three_numbers_by_hand():
    """1, 2, 3: mean 2, biased variance 2/3, so x-hat is sqrt(3/2) times -1, 0, 1.

    Of the upstream (1, 0, 0) goes the mean 1/3, and along x-hat another 1/2 of (1, 0, -1): left is (1, -2, 1) / 6,
    divided by the standard deviation.
    """
    s = math.sqrt(3 / 2)
    x, dy = np.array([1.0, 2.0, 3.0]), np.array([1.0, 0.0, 0.0])
    y, dx = pulled(lambda x: layer_norm(x, eps=0.0), x, dy=dy)
    assert np.allclose(y, [-s, 0, s], rtol=1e-14)
    assert np.allclose(dx, s * np.array([1, -2, 1]) / 6, rtol=1e-14)
    column, dcolumn = pulled(lambda x: batch_norm(x, eps=0.0), x[:, None], dy=dy[:, None])
    assert np.allclose(column[:, 0], y, rtol=1e-15)
    assert np.allclose(dcolumn[:, 0], dx, rtol=1e-15)


def test_of_two_numbers_a_norm_leaves_only_their_order():
    """x-hat is -1 and 1 whatever they are, so nothing can be learned from it."""
    y, dx = pulled(lambda x: layer_norm(x, eps=0.0), np.array([[3.0, 7.0]]), dy=[[1, 5]])
    assert np.allclose(y, [[-1, 1]])
    assert np.allclose(dx, 0, atol=1e-15)


def test_rms_norm_by_hand():
    """3 and 4: the mean square is 25/2. The upstream (1, 0) loses its part along x."""
    y, dx, dw = pulled(lambda x, w: rms_norm(x, w, eps=0.0), np.array([3.0, 4.0]), np.array([1.0, 2.0]), dy=[1, 0])
    r = math.sqrt(2) / 5
    assert np.allclose(y, [3 * r, 8 * r])
    assert np.allclose(dx, r * np.array([16, -12]) / 25)
    assert np.allclose(dw, [3 * r, 0])


def transcribed(x, dy, weight, bias, members, eps, centre=True):
    """A norm entry by entry. ``members[i]`` are the entries over which entry ``i`` is normalized; the derivative is
    the sum over all outputs of the quotient rule, not the compact form."""
    size = x.size
    y, xhat, dx = np.zeros(size), np.zeros(size), np.zeros(size)
    for i in range(size):
        m = len(members[i])
        mean = sum(x[j] for j in members[i]) / m if centre else 0.0
        var = sum((x[j] - mean) ** 2 for j in members[i]) / m
        xhat[i] = (x[i] - mean) / math.sqrt(var + eps)
        y[i] = weight[i] * xhat[i] + bias[i]
        for k in members[i]:  # how output i answers to input k
            dmean = 1 / m if centre else 0.0
            dvar = 2 * (x[k] - mean) / m
            d = ((i == k) - dmean) / math.sqrt(var + eps) - (x[i] - mean) * dvar / 2 / math.sqrt(var + eps) ** 3
            dx[k] += dy[i] * weight[i] * d
    return y, dx, xhat


SHAPE = (3, 4, 2)


def axis_members(same):
    """For every entry of an array of SHAPE the flat numbers of the entries with which it is normalized."""
    places = list(np.ndindex(SHAPE))
    return [[j for j, b in enumerate(places) if same(a, b)] for a in places]


@pytest.mark.parametrize(
    ("norm", "static", "same"),
    [
        (batch_norm, {}, lambda a, b: a[1] == b[1]),
        (layer_norm, {"normalized_shape": (4, 2)}, lambda a, b: a[0] == b[0]),
        (group_norm, {"num_groups": 2}, lambda a, b: a[0] == b[0] and a[1] // 2 == b[1] // 2),
        (rms_norm, {"normalized_shape": (4, 2)}, lambda a, b: a[0] == b[0]),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_norms_with_loops(rng, norm, static, same):
    x, dy = 2 + rng.normal(size=SHAPE), rng.normal(size=SHAPE)
    of_features = norm in (layer_norm, rms_norm)
    affine = [rng.normal(size=SHAPE[1:] if of_features else SHAPE[1]) for _ in range(1 if norm is rms_norm else 2)]
    spread = [np.broadcast_to(a if of_features else a[:, None], SHAPE).ravel() for a in affine]
    weight, bias = (*spread, np.zeros(x.size))[:2]
    value, slope, xhat = transcribed(
        x.ravel(), dy.ravel(), weight, bias, axis_members(same), 1e-3, centre=norm is not rms_norm
    )
    y, dx, *daffine = pulled(lambda x, *a: norm(x, *a, eps=1e-3, **static), x, *affine, dy=dy)
    assert np.allclose(y.ravel(), value, rtol=1e-12, atol=1e-13)
    assert np.allclose(dx.ravel(), slope, rtol=1e-11, atol=1e-13)
    expected = [np.zeros(a.shape) for a in affine]
    for k, place in enumerate(np.ndindex(SHAPE)):
        at = place[1:] if of_features else place[1]
        expected[0][at] += dy[place] * xhat[k]
        if len(expected) == 2:
            expected[1][at] += dy[place]
    for ours, theirs in zip(daffine, expected, strict=True):
        assert np.allclose(ours, theirs, rtol=1e-12, atol=1e-13)


def test_batch_norm_eval_with_loops(rng):
    x, dy = rng.normal(size=SHAPE), rng.normal(size=SHAPE)
    mean, weight, bias = rng.normal(size=(3, 4))
    var = rng.uniform(0.5, 2, 4)
    y, dx, dw, db = pulled(lambda x, w, b: batch_norm_eval(x, mean, var, w, b, eps=1e-3), x, weight, bias, dy=dy)
    expected, slope, of_weight, of_bias = np.zeros(SHAPE), np.zeros(SHAPE), np.zeros(4), np.zeros(4)
    for n, c, i in np.ndindex(SHAPE):
        xhat = (x[n, c, i] - mean[c]) / math.sqrt(var[c] + 1e-3)
        expected[n, c, i] = weight[c] * xhat + bias[c]
        slope[n, c, i] = dy[n, c, i] * weight[c] / math.sqrt(var[c] + 1e-3)
        of_weight[c] += dy[n, c, i] * xhat
        of_bias[c] += dy[n, c, i]
    for ours, theirs in ((y, expected), (dx, slope), (dw, of_weight), (db, of_bias)):
        assert np.allclose(ours, theirs, rtol=1e-13, atol=1e-14)


def test_the_statistics_are_constants_of_evaluation(rng):
    """No derivative flows into them, though they are floats."""
    x, mean, var = rng.normal(size=(4, 3)), rng.normal(size=3), rng.uniform(0.5, 2, 3)
    _, dx, dmean, dvar = pulled(batch_norm_eval, x, mean, var, dy=np.ones((4, 3)))
    assert np.all(dx != 0)
    assert not dmean.any()
    assert not dvar.any()


@pytest.mark.parametrize("norm", [batch_norm, layer_norm, group_norm], ids=lambda norm: norm.__name__)
def test_norms_are_invariant_under_shift_and_scale(rng, norm):
    x = rng.normal(size=(6, 8))
    y = norm(x, eps=0.0, **options(norm))
    assert np.allclose(norm(3.7 * x + 11, eps=0.0, **options(norm)), y, rtol=1e-10, atol=1e-12)
    assert np.allclose(norm(-x, eps=0.0, **options(norm)), -y, rtol=1e-12)


def test_rms_norm_is_invariant_under_scale_and_not_under_shift(rng):
    x = rng.normal(size=(6, 8))
    y = rms_norm(x, eps=0.0)
    assert np.allclose(rms_norm(3.7 * x, eps=0.0), y, rtol=1e-12)
    assert not np.allclose(rms_norm(x + 1, eps=0.0), y, atol=0.1)


def groups_of(norm, a):
    """The array with one row for each set of numbers that is normalized together."""
    return {
        batch_norm: lambda: a.T,
        layer_norm: lambda: a,
        rms_norm: lambda: a,
        group_norm: lambda: a.reshape(2 * len(a), -1),
    }[norm]()


@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: norm.__name__)
def test_the_output_has_mean_zero_and_mean_square_one(rng, norm):
    y = groups_of(norm, norm(5 + 2 * rng.normal(size=(6, 8)), eps=0.0, **options(norm)))
    assert np.allclose((y * y).mean(1), 1)
    if norm is not rms_norm:
        assert np.allclose(y.mean(1), 0, atol=1e-14)


@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: norm.__name__)
def test_the_gradient_of_a_norm_is_orthogonal_to_what_the_norm_ignores(rng, norm):
    """Moving along 1, or along x-hat, changes nothing: the derivative in these directions is 0."""
    x, dy = 5 + 2 * rng.normal(size=(6, 8)), rng.normal(size=(6, 8))
    y, dx = pulled(lambda x: norm(x, eps=0.0, **options(norm)), x, dy=dy)
    dx, y = groups_of(norm, dx), groups_of(norm, y)
    assert np.allclose((dx * y).sum(1), 0, atol=1e-13)
    if norm is not rms_norm:
        assert np.allclose(dx.sum(1), 0, atol=1e-13)


@pytest.mark.parametrize("norm", [batch_norm, layer_norm, group_norm], ids=lambda norm: norm.__name__)
def test_an_upstream_of_ones_sees_nothing_of_a_norm(rng, norm):
    """Why derivatives are checked with a random one."""
    x = rng.normal(size=(6, 8))
    _, dx = pulled(lambda x: norm(x, **options(norm)), x, dy=np.ones((6, 8)))
    assert np.allclose(dx, 0, atol=1e-14)


def without(norm, term):
    """The norm with one term of its compact derivative left out."""

    def spoiled(dy, saved, x, *rest, **static):
        xhat, r = saved[:2]
        right = norm.vjp(dy, saved, x, *rest, **static)
        if norm is group_norm:
            axes, shape = (2,), (len(x), static["num_groups"], -1 if x.size else 0)
        else:
            axes, shape = ((0, *range(2, x.ndim)), x.shape) if norm is batch_norm else (saved[2], x.shape)
        weight = rest[0] if rest else None
        if weight is not None and norm in (batch_norm, group_norm):
            weight = weight.reshape(-1, *[1] * (x.ndim - 2))
        g = (dy if weight is None else dy * weight).reshape(shape)
        xhat = xhat.reshape(shape)
        lost = g.mean(axes, keepdims=True) if term == "mean" else xhat * (g * xhat).mean(axes, keepdims=True)
        return lambda: right[0]() + (r * lost).reshape(x.shape), *right[1:]

    mutant = Primitive(norm.forward)
    mutant.vjp = spoiled
    return mutant


@pytest.mark.parametrize(
    ("norm", "term"),
    [(norm, term) for norm in NORMS for term in ("mean", "variance") if (norm, term) != (rms_norm, "mean")],
    ids=lambda item: getattr(item, "__name__", item),
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_derivative_without_its_mean_or_variance_path_is_caught(norm, term):
    assert rejects(without(norm, term)) == "gradients"


def test_group_norm_is_layer_norm_for_one_group_and_instance_norm_for_as_many_as_channels(rng):
    x, weight, bias = rng.normal(size=(3, 4, 5, 2)), rng.normal(size=4), rng.normal(size=4)
    dy = rng.normal(size=x.shape)
    one = pulled(lambda x: group_norm(x, num_groups=1), x, dy=dy)
    layer = pulled(lambda x: layer_norm(x, normalized_shape=x.shape[1:]), x, dy=dy)
    assert all(np.allclose(a, b, rtol=1e-12, atol=1e-14) for a, b in zip(one, layer, strict=True))
    theirs = F.instance_norm(torch.tensor(x), weight=torch.tensor(weight), bias=torch.tensor(bias)).numpy()
    assert np.allclose(group_norm(x, weight, bias, num_groups=4), theirs, rtol=1e-12, atol=1e-14)
    rows = layer_norm(x.reshape(12, 10)).reshape(x.shape) * weight[:, None, None] + bias[:, None, None]
    assert np.allclose(group_norm(x, weight, bias, num_groups=4), rows, rtol=1e-12, atol=1e-14)


def test_batch_norm_is_layer_norm_of_the_transposed_batch(rng):
    x, dy = rng.normal(size=(6, 4)), rng.normal(size=(6, 4))
    y, dx = pulled(batch_norm, x, dy=dy)
    z, dz = pulled(layer_norm, x.T.copy(), dy=dy.T)
    assert np.allclose(y, z.T, rtol=1e-13)
    assert np.allclose(dx, dz.T, rtol=1e-12, atol=1e-15)


def test_a_single_value_becomes_the_bias():
    x = np.array([[3.0], [7.0]])
    assert np.array_equal(layer_norm(x, np.array([5.0]), np.array([2.0])), [[2], [2]])
    assert np.array_equal(group_norm(x, np.array([5.0]), np.array([2.0]), num_groups=1), [[2], [2]])
    bias = np.array([1.0, 2.0, 3.0, 4.0])
    y, dx, dbias = pulled(
        lambda x, b: group_norm(x, None, b, num_groups=4), np.ones((2, 4)), bias, dy=[[1, 2, 3, 4], [5, 6, 7, 8]]
    )
    assert np.array_equal(y, np.stack([bias, bias]))
    assert not dx.any()
    assert np.array_equal(dbias, [6, 8, 10, 12])


@pytest.mark.parametrize("norm", [batch_norm, layer_norm, group_norm], ids=lambda norm: norm.__name__)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_mean_of_ten_thousand_costs_no_digit(rng, norm, dtype):
    """Against the same numbers in long double. E x^2 - mean^2 in float32 would have no digit left: x^2 is 1e8."""
    x = (1e4 + rng.normal(size=(64, 64))).astype(dtype)
    exact = norm(x.astype(np.longdouble), **options(norm))
    assert exact.dtype == np.longdouble
    y = norm(x, **options(norm))
    assert y.dtype == dtype
    assert np.max(np.abs(y - exact)) / np.max(np.abs(exact)) < 16 * np.finfo(dtype).eps
    naive = (x * x).mean(dtype=dtype) - x.mean(dtype=dtype) ** 2
    if dtype == np.float32:
        assert abs(naive - 1) > 0.1


def test_norms_of_integers_are_those_of_floats():
    x = np.array([[1, 2, 3, 6], [9, 7, 5, 1]], np.uint8)
    for norm in NORMS:
        assert np.array_equal(norm(x, **options(norm)), norm(x.astype(float), **options(norm)))
    assert np.array_equal(
        batch_norm_eval(x, np.zeros(4), np.ones(4)), batch_norm_eval(x.astype(float), np.zeros(4), np.ones(4))
    )
    assert np.array_equal(soft_threshold(x, threshold=2), [[0, 0, 1, 4], [7, 5, 3, 0]])
    assert np.array_equal(dropout(x, x > 2, p=0.5), np.where(x > 2, 2.0 * x, 0))


def test_an_eps_of_numpy_keeps_float32(rng):
    x = rng.normal(size=(4, 6)).astype(np.float32)
    for norm in NORMS:
        assert norm(x, eps=np.float64(1e-5), **options(norm)).dtype == np.float32
    assert batch_norm_eval(x, x[0], x[0] ** 2, eps=np.float64(1e-5)).dtype == np.float32


# Batch norm as a layer: two modes, running statistics ----------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.1, 0.7, None, 0.0, 1.0])
@pytest.mark.parametrize("shape", [(8, 3), (4, 3, 5), (4, 3, 5, 2), (2, 3)], ids=str)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_both_modes_and_the_statistics_are_those_of_torch(rng, momentum, shape, dtype):
    """Over several steps of training, then in evaluation: values, all gradients and the whole state_dict."""
    module = {2: torch.nn.BatchNorm1d, 3: torch.nn.BatchNorm1d, 4: torch.nn.BatchNorm2d}[len(shape)]
    twin = module(3, momentum=momentum).to(torch.float64 if dtype == np.float64 else torch.float32)
    params, state = batch_norm_init(3, dtype=dtype)
    assert set({**params, **state}) == set(twin.state_dict())
    params = {"weight": rng.normal(size=3).astype(dtype), "bias": rng.normal(size=3).astype(dtype)}
    twin.load_state_dict(to_torch({**params, **state}))
    tolerance = {"rtol": 1e-10, "atol": 1e-12} if dtype == np.float64 else {"rtol": 2e-4, "atol": 2e-5}

    def step(training):
        nonlocal state
        x, dy = (2 + 3 * rng.normal(size=shape)).astype(dtype), rng.normal(size=shape).astype(dtype)
        before = {key: a.copy() for key, a in state.items()}

        def layer(x, params):
            y, layer.state = batch_norm_layer(params, state, x, training=training, momentum=momentum)
            return y

        y, pull = vjp(layer, x, params)
        dx, grads = pull(dy)
        assert all(np.array_equal(before[key], state[key]) for key in state), "the state that went in was changed"
        state = layer.state
        twin.train(training)
        twin.zero_grad()
        tensor = torch.tensor(x, requires_grad=True)
        theirs = twin(tensor)
        theirs.backward(torch.tensor(dy))
        assert np.allclose(y, theirs.detach().numpy(), **tolerance)
        assert np.allclose(dx, tensor.grad.numpy(), **tolerance)
        assert np.allclose(grads["weight"], twin.weight.grad.numpy(), **tolerance)
        assert np.allclose(grads["bias"], twin.bias.grad.numpy(), **tolerance)
        for key, theirs in from_torch(twin.state_dict()).items():
            ours = {**params, **state}[key]
            assert ours.dtype == theirs.dtype, key
            assert ours.shape == theirs.shape, key
            same = {"rtol": 1e-13, "atol": 1e-14} if dtype == np.float64 else {"rtol": 1e-5, "atol": 1e-6}
            assert np.allclose(ours, theirs, **same), key

    for _ in range(5):
        step(True)
    assert state["num_batches_tracked"] == 5
    for _ in range(2):
        step(False)
    step(True)


def test_running_statistics_by_hand():
    """1 and 3: mean 2, biased variance 1, unbiased 2. A tenth of them joins mean 0 and variance 1."""
    _, state = batch_norm_init(1, dtype=np.float64)
    new = running_statistics(state, np.array([[1.0], [3.0]]))
    assert np.allclose(new["running_mean"], 0.2, rtol=1e-15)
    assert np.allclose(new["running_var"], 0.9 + 0.2, rtol=1e-15)
    assert new["num_batches_tracked"] == 1
    assert np.array_equal(state["running_var"], [1])
    first = running_statistics(state, np.array([[1.0], [3.0]]), momentum=None)
    assert (first["running_mean"], first["running_var"]) == (2, 2)


def test_running_statistics_with_loops(rng):
    _, state = batch_norm_init(2, dtype=np.float64)
    batches = rng.normal(size=(4, 5, 2, 3))
    mean, var = [0.0, 0.0], [1.0, 1.0]
    for x in batches:
        for c in range(2):
            values = [x[n, c, i] for n in range(5) for i in range(3)]
            m = sum(values) / 15
            v = sum((a - m) ** 2 for a in values) / 14
            mean[c] = 0.75 * mean[c] + 0.25 * m
            var[c] = 0.75 * var[c] + 0.25 * v
        state = running_statistics(state, x, momentum=0.25)
    assert np.allclose(state["running_mean"], mean, rtol=1e-13)
    assert np.allclose(state["running_var"], var, rtol=1e-13)


def test_without_momentum_the_statistics_are_plain_averages(rng):
    batches = rng.normal(size=(7, 6, 2))
    _, state = batch_norm_init(2, dtype=np.float64)
    for x in batches:
        state = running_statistics(state, x, momentum=None)
    assert np.allclose(state["running_mean"], batches.mean((0, 1)), rtol=1e-12)
    assert np.allclose(state["running_var"], batches.var(1, ddof=1).mean(0), rtol=1e-12)


def test_a_batch_of_one_has_no_statistics():
    """As in torch: each number would be its own mean. Places count as values, so one image is enough."""
    params, state = batch_norm_init(3)
    x = np.ones((1, 3), np.float32)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        torch.nn.BatchNorm1d(3)(torch.tensor(x))
    for call in (
        lambda: batch_norm_layer(params, state, x, training=True),
        lambda: running_statistics(state, x),
        lambda: running_statistics(state, np.ones((0, 3))),
        lambda: batch_norm(np.ones((1, 3, 1))),
    ):
        with pytest.raises(ValueError, match=r"more than one value a channel, not x of shape \([01], 3"):
            call()
    assert batch_norm_layer(params, state, x, training=False)[0].shape == (1, 3)
    assert batch_norm(np.ones((1, 3, 2))).shape == (1, 3, 2)


def test_in_evaluation_an_example_does_not_see_the_others(rng):
    params, state = batch_norm_init(3)
    x = rng.normal(size=(6, 3))
    state = running_statistics(state, x)
    whole, same = batch_norm_layer(params, state, x, training=False)
    assert same is state
    alone = [batch_norm_layer(params, state, x[i : i + 1], training=False)[0] for i in range(6)]
    assert np.allclose(whole, np.concatenate(alone), rtol=1e-14)
    training, _ = batch_norm_layer(params, state, x, training=True)
    shorter, _ = batch_norm_layer(params, state, x[:3], training=True)
    assert not np.allclose(training[:3], shorter, atol=0.01)


def test_a_layer_without_affine_part(rng):
    params, state = batch_norm_init(3, affine=False)
    assert params == {}
    x = rng.normal(size=(6, 3)).astype(np.float32)
    y, new = batch_norm_layer(params, state, x, training=True)
    assert np.allclose(y, torch.nn.BatchNorm1d(3, affine=False)(torch.tensor(x)).numpy(), atol=1e-6)
    assert new["num_batches_tracked"] == 1


def test_norms_start_as_those_of_torch_do():
    pairs = [
        (layer_norm_init((3, 2)), torch.nn.LayerNorm((3, 2))),
        (layer_norm_init(4), torch.nn.LayerNorm(4)),
        (group_norm_init(4), torch.nn.GroupNorm(2, 4)),
        (rms_norm_init(4), torch.nn.RMSNorm(4)),
        ({k: a for part in batch_norm_init(4) for k, a in part.items()}, torch.nn.BatchNorm1d(4)),
    ]
    for ours, module in pairs:
        theirs = from_torch(module.state_dict())
        assert list(ours) == list(theirs)
        for key, a in ours.items():
            assert np.array_equal(a, theirs[key])
            assert a.dtype == theirs[key].dtype
    assert layer_norm_init(4, dtype=np.float64)["bias"].dtype == np.float64


def test_weights_before_a_norm_have_no_gradient_along_themselves(rng):
    """Scale invariance: the loss does not see the length of such a weight, and at twice the length its gradient is
    half as large. Weight decay there sets the effective learning rate, not the function."""
    x, y = rng.normal(size=(20, 5)), rng.integers(0, 3, 20)
    w = rng.normal(size=(3, 5))

    def loss(w):
        return cross_entropy(batch_norm(linear(x, w), eps=0.0), y)

    value, g = value_and_grad(loss)(w)
    double, of_double = value_and_grad(loss)(2 * w)
    assert np.isclose(value, double, rtol=1e-13)
    assert np.allclose(of_double, g / 2, rtol=1e-10)
    assert np.allclose((g * w).sum(1), 0, atol=1e-14)


# Initialization ------------------------------------------------------------------------------------------------------

SHAPES = [(300, 200), (64, 32, 3, 5)]


def same_distribution(ours, theirs, uniform):
    """Equal spread within what chance allows (0.5 % here), and for a uniform law the same largest entry."""
    assert ours.shape == tuple(theirs.shape)
    assert ours.dtype == np.float32
    assert ours.std() == pytest.approx(theirs.std().item(), rel=0.03)
    assert abs(ours.mean()) < 6 * ours.std() / math.sqrt(ours.size)
    if uniform:
        assert np.abs(ours).max() == pytest.approx(theirs.abs().max().item(), rel=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gain", [1.0, 5 / 3])
def test_xavier_has_the_spread_of_torch(shape, gain):
    generator = torch.Generator().manual_seed(1)
    rng = np.random.default_rng(1)
    uniform = torch.nn.init.xavier_uniform_(torch.empty(shape), gain, generator)
    same_distribution(xavier_uniform(rng, shape, gain=gain), uniform, True)
    normal = torch.nn.init.xavier_normal_(torch.empty(shape), gain, generator)
    same_distribution(xavier_normal(rng, shape, gain=gain), normal, False)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"a": 0.2},
        {"mode": "fan_out"},
        {"nonlinearity": "relu"},
        {"nonlinearity": "tanh", "mode": "fan_out"},
    ],
)
def test_he_has_the_spread_of_torch(shape, options):
    generator = torch.Generator().manual_seed(1)
    rng = np.random.default_rng(1)
    uniform = torch.nn.init.kaiming_uniform_(torch.empty(shape), generator=generator, **options)
    same_distribution(he_uniform(rng, shape, **options), uniform, True)
    normal = torch.nn.init.kaiming_normal_(torch.empty(shape), generator=generator, **options)
    same_distribution(he_normal(rng, shape, **options), normal, False)


def test_he_normal_by_hand():
    """A layer with 8 inputs: sqrt(2 / 8) = 1/2 times the standard normal draw."""
    draw = np.random.default_rng(5).standard_normal((3, 8))
    assert np.array_equal(he_normal(np.random.default_rng(5), (3, 8), dtype=np.float64), draw / 2)


def test_xavier_uniform_by_hand():
    """2 inputs and 4 outputs: the bound is sqrt(6 / 6) = 1."""
    draw = np.random.default_rng(5).uniform(-1, 1, (4, 2))
    weights = xavier_uniform(np.random.default_rng(5), (4, 2), dtype=np.float64)
    assert np.allclose(weights, draw, rtol=1e-14, atol=0)


@pytest.mark.parametrize("init", [xavier_uniform, xavier_normal, he_uniform, he_normal])
def test_float32_weights_are_the_float64_ones_rounded(init):
    single = init(np.random.default_rng(2), (5, 7))
    double = init(np.random.default_rng(2), (5, 7), dtype=np.float64)
    assert single.dtype == np.float32
    assert np.array_equal(single, double.astype(np.float32))


@pytest.mark.parametrize("init", [xavier_uniform, xavier_normal, he_uniform, he_normal])
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (3, 2, 0)])
def test_empty_weights_are_empty(init, shape):
    assert init(np.random.default_rng(0), shape).shape == shape


@pytest.mark.parametrize("nonlinearity", ["linear", "sigmoid", "tanh", "relu", "leaky_relu", "selu"])
@pytest.mark.parametrize("param", [None, 0.0, 0.3])
def test_gains_are_those_of_torch(nonlinearity, param):
    assert calculate_gain(nonlinearity, param) == torch.nn.init.calculate_gain(nonlinearity, param)


def test_fans_count_the_taps_of_a_kernel():
    assert fan_in_and_fan_out((4, 3)) == (3, 4)
    assert fan_in_and_fan_out((32, 16, 3, 5)) == (16 * 15, 32 * 15)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rng: he_normal(rng, (3,)), r"\(3,\)"),
        (lambda rng: xavier_normal(rng, (3, -1)), r"\(3, -1\)"),
        (lambda rng: he_normal(rng, (3, 2), mode="in"), "'fan_in' or 'fan_out', not 'in'"),
        (lambda rng: he_normal(rng, (3, 2), nonlinearity="gelu"), "'gelu'"),
        (lambda rng: xavier_uniform(rng, (3, 2), gain=-1), "gain must be >= 0 and finite, not -1"),
        (lambda rng: he_uniform(rng, (3, 2), dtype=int), "dtype of floats, not int64"),
        (lambda rng: orthogonal(rng, (3,)), r"\(out, in, \.\.\.\).*\(3,\)"),
        (lambda rng: orthogonal(rng, (3, -1)), r"\(3, -1\)"),
        (lambda rng: orthogonal(rng, (3, 2), gain=-1.0), "gain must be >= 0 and finite, not -1.0"),
        (lambda rng: orthogonal(rng, (3, 2), dtype=int), "dtype of floats, not int64"),
        (lambda rng: batch_norm_init(-1), "batch_norm_init: sizes must be >= 0, not -1"),
        (lambda rng: layer_norm_init((3, -1)), r"layer_norm_init: sizes must be >= 0, not \(3, -1\)"),
        (lambda rng: group_norm_init(3, dtype=int), "dtype of floats, not int64"),
        (lambda rng: rms_norm_init(3, dtype=int), "dtype of floats, not int64"),
        (lambda rng: l2_penalty({"w": np.ones(3)}), "l2_penalty: none of the leaves w is chosen"),
        (lambda rng: l1_penalty({"w": np.ones(3)}), "l1_penalty: none of the leaves w is chosen"),
        (lambda rng: proximal_step({"w": np.ones(3)}, lr=0.1, lam=1.0), "proximal_step: none of the leaves w"),
        (lambda rng: proximal_step(SMALL, lr=-0.1, lam=1.0), "lr must be >= 0, not -0.1"),
        (lambda rng: proximal_step(SMALL, lr=0.1, lam=-1.0), "lam must be >= 0, not -1.0"),
        (lambda rng: dropout_mask(rng, 3, p=1.0), r"p must lie in \[0, 1\), not 1.0"),
        (lambda rng: dropout_mask(np.random, 3, p=0.5), "Generator, not module"),
        (lambda rng: running_statistics(batch_norm_init(3)[1], np.ones((4, 3)), momentum=1.5), "not 1.5"),
        (
            lambda rng: running_statistics(batch_norm_init(2)[1], np.ones((4, 3))),
            r"running_mean of shape \(2,\).*\(4, 3\)",
        ),
        (lambda rng: ridge(np.ones((3, 2)), np.ones(3), lam=-1.0), "lam must be >= 0, not -1.0"),
        (lambda rng: ridge(np.ones((3, 2)), np.ones(2), lam=1.0), r"\(3, 2\).*\(2,\)"),
        (lambda rng: min_norm(np.ones(3), np.ones(3)), r"x has shape \(3,\)"),
        (lambda rng: random_features_init(rng, 0, 3), "not 0 and 3"),
        (lambda rng: random_features(random_features_init(rng, 2, 3), np.ones((4, 3))), r"\(4, 3\).*\(3, 2\)"),
        (lambda rng: bias_variance(np.ones((3, 2)), np.ones(3)), r"\(3, 2\).*\(3,\)"),
        (lambda rng: bias_variance(np.ones((0, 2)), np.ones(2)), r"\(0, 2\).*not empty"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.random.default_rng(0))


def test_orthogonal_weights_are_orthonormal(rng):
    for shape in [(5, 5), (3, 7), (7, 3), (4, 3, 2, 2), (20, 3, 2, 2)]:
        w = orthogonal(rng, shape, gain=2.0, dtype=np.float64).reshape(shape[0], -1) / 2
        product = w @ w.T if len(w) <= w.shape[1] else w.T @ w
        assert np.allclose(product, np.eye(len(product)), atol=1e-14)
    assert orthogonal(rng, (3, 4)).dtype == np.float32
    assert orthogonal(rng, (0, 4)).shape == (0, 4)
    assert orthogonal(rng, (4, 3, 0)).shape == (4, 3, 0)


def draws(rng, n, make, count=3000):
    return np.array([make(rng, (n, n)) for _ in range(count)])


def test_orthogonal_matrices_favour_no_direction(rng):
    """In three dimensions each entry of a uniform Q is uniform in (-1, 1), and det Q is 1 as often as -1."""
    q = draws(rng, 3, lambda rng, shape: orthogonal(rng, shape, dtype=np.float64))
    uniform = scipy.stats.uniform(-1, 2)
    turned = np.linalg.qr(np.arange(9.0).reshape(3, 3) + np.eye(3))[0] @ q  # uniform means: turned, it is the same
    for entries in (q.reshape(-1, 9).T, turned.reshape(-1, 9).T):
        assert min(scipy.stats.kstest(e, uniform.cdf).pvalue for e in entries) > FALSE_ALARM / 18
    low, high = scipy.stats.binom.interval(1 - FALSE_ALARM, len(q), 0.5)
    assert low <= np.sum(np.linalg.det(q) > 0) <= high


def test_without_the_signs_q_would_not_be_uniform(rng):
    """The test above can fail: the Q of LAPACK has a first entry of one sign."""
    q = draws(rng, 3, lambda rng, shape: np.linalg.qr(rng.standard_normal(shape))[0])
    assert scipy.stats.kstest(q[:, 0, 0], scipy.stats.uniform(-1, 2).cdf).pvalue < FALSE_ALARM


def test_orthogonal_by_hand():
    """One row: the direction of a normal vector, whose sign is not lost."""
    draw = np.random.default_rng(5).standard_normal(4)
    row = orthogonal(np.random.default_rng(5), (1, 4), dtype=np.float64)
    assert np.allclose(row, draw / np.linalg.norm(draw), rtol=1e-13)


def mean_squares(rng, init, activation, depth=20, width=256):
    """The mean square of the signal after, and of the gradient before, all layers; 1 at the other end."""
    x, dy = rng.normal(size=(16, width)), rng.normal(size=(16, width))

    def deep(x):
        for w in [init(rng, (width, width), dtype=np.float64) for _ in range(depth)]:
            x = activation(linear(x, w))
        return x

    y, pull = vjp(deep, x)
    return np.mean(y**2), np.mean(pull(dy)[0] ** 2)


def test_he_keeps_signal_and_gradient_through_relus_where_xavier_halves_them(rng):
    """Twenty layers of width 256: the logarithm of the mean square wanders by about sqrt(5 * 20 / 256), that is 0.6."""
    signal, gradient = mean_squares(rng, he_normal, relu)
    assert 1 / 30 < signal < 30
    assert 1 / 30 < gradient < 30
    signal, gradient = mean_squares(rng, xavier_normal, relu)
    assert signal < 30 / 2**20
    assert gradient < 30 / 2**20


def test_orthogonal_layers_keep_every_length_exactly(rng):
    signal, gradient = mean_squares(np.random.default_rng(0), orthogonal, lambda x: x)
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(16, 256)), rng.normal(size=(16, 256))
    assert np.isclose(signal, np.mean(x**2), rtol=1e-12)
    assert np.isclose(gradient, np.mean(dy**2), rtol=1e-12)


# Least squares -------------------------------------------------------------------------------------------------------


def test_least_squares_by_hand():
    """x = (1, 2), y = (1, 3): 7 / (5 + lam). And 3 a + 4 b = 5 has its shortest solution along (3, 4)."""
    x, y = np.array([[1.0], [2.0]]), np.array([1.0, 3.0])
    assert np.allclose(ridge(x, y, lam=2.0), 1)
    assert np.allclose(min_norm(x, y), 7 / 5)
    assert np.allclose(min_norm(np.array([[3.0, 4.0]]), np.array([5.0])), [0.6, 0.8])


@pytest.mark.parametrize("shape", [(20, 5), (5, 20), (6, 6)])
def test_ridge_solves_the_normal_equations_in_both_forms(rng, shape):
    x, y, lam = rng.normal(size=shape), rng.normal(size=(shape[0], 2)), 0.7
    w = ridge(x, y, lam=lam)
    assert np.allclose(x.T @ (x @ w - y) + lam * w, 0, atol=1e-12)
    assert np.allclose(w, x.T @ np.linalg.solve(x @ x.T + lam * np.eye(shape[0]), y), rtol=1e-9)
    assert np.allclose(w.T, Ridge(alpha=lam, fit_intercept=False).fit(x, y).coef_, rtol=1e-9)
    assert np.allclose(ridge(x, y[:, 0], lam=lam), w[:, 0], rtol=1e-12)


@pytest.mark.parametrize("shape", [(20, 5), (5, 20), (6, 6)])
def test_the_minimum_norm_solution_is_the_limit_of_ridge_and_that_of_the_pseudoinverse(rng, shape):
    x, y = rng.normal(size=shape), rng.normal(size=shape[0])
    w = min_norm(x, y)
    assert np.allclose(w, torch.linalg.pinv(torch.tensor(x)).numpy() @ y, rtol=1e-9)
    assert np.allclose(ridge(x, y, lam=1e-12), w, rtol=1e-6)


def test_of_all_interpolating_weights_it_is_the_shortest_and_gradient_descent_finds_it(rng):
    x, y = rng.normal(size=(4, 12)), rng.normal(size=4)
    w = min_norm(x, y)
    assert np.allclose(x @ w, y)
    noise = rng.normal(size=12)
    other = w + noise - min_norm(x, x @ noise)  # plus a vector that x does not see
    assert np.allclose(x @ other, y)
    assert np.linalg.norm(other) > np.linalg.norm(w)
    found = np.zeros(12)
    for _ in range(5000):
        found -= 0.02 * x.T @ (x @ found - y)
    assert np.allclose(found, w, rtol=1e-9)


def test_directions_that_the_data_do_not_have_get_no_weight():
    """Two equal columns share the work; rounding is not mistaken for a third direction."""
    a = np.array([1.0, 2.0, 3.0])
    w = min_norm(np.stack([a, a, 0.1 + 0 * a], 1), 2 * a + 1)
    assert np.allclose(w, [1, 1, 10])
    assert np.allclose(min_norm(np.stack([a, a], 1), 2 * a), [1, 1])
    assert np.array_equal(min_norm(np.zeros((3, 2)), a), [0, 0])
    assert np.array_equal(min_norm(np.zeros((0, 2)), np.zeros(0)), [0, 0])
    assert ridge(np.ones((3, 2), np.float32), np.ones(3, np.float32), lam=1.0).dtype == np.float32
    assert np.allclose(ridge(np.array([[1], [2]], np.uint8), np.array([1, 3], np.uint8), lam=2), 1)


def test_random_features_with_loops(rng):
    params = random_features_init(rng, 3, 5)
    x = rng.normal(size=(4, 3))
    features = random_features(params, x)
    for n in range(4):
        for k in range(5):
            a = sum(params["weight"][k, d] * x[n, d] for d in range(3)) + params["bias"][k]
            assert np.isclose(features[n, k], max(a, 0) / math.sqrt(5), rtol=1e-13, atol=1e-16)
    assert random_features(random_features_init(rng, 3, 0), x).shape == (4, 0)
    wide = random_features_init(rng, 50, 4000)
    assert wide["weight"].std() == pytest.approx(1 / math.sqrt(50), rel=0.02)
    assert wide["bias"].std() == pytest.approx(1, rel=0.1)


def test_bias_and_variance_by_hand():
    """Two models say 1 and 3, then 0 and 0; the truth is 1 and 1: mean predictions 2 and 0."""
    bias2, variance = bias_variance([[1, 0], [3, 0]], [1, 1])
    assert (bias2, variance) == (1, 0.5)


def test_bias_and_variance_add_up_to_the_error(rng):
    predictions, truth = rng.normal(size=(7, 11)), rng.normal(size=11)
    total = sum((predictions[r, n] - truth[n]) ** 2 for r in range(7) for n in range(11)) / 77
    assert np.isclose(sum(bias_variance(predictions, truth)), total, rtol=1e-14)


def test_ridge_trades_variance_for_bias(rng):
    """The same design, 200 draws of the noise: the more penalty, the more bias and the less variance."""
    x, w = rng.normal(size=(20, 10)), rng.normal(size=10)
    noise = rng.normal(size=(200, 20))
    parts = np.array(
        [bias_variance([x @ ridge(x, x @ w + e, lam=lam) for e in noise], x @ w) for lam in (0.0, 1.0, 10.0, 100.0)]
    )
    assert np.all(np.diff(parts[:, 0]) > 0)
    assert np.all(np.diff(parts[:, 1]) < 0)
    assert parts[0, 1] == pytest.approx(10 / 20, rel=0.15)  # without penalty D / N of the noise gets in


# Augmentation --------------------------------------------------------------------------------------------------------

AUGMENTATIONS = [
    random_shift,
    random_rotation,
    random_elastic,
    lambda rng, x: gaussian_noise(rng, x, std=0.1),
    lambda rng, x: cutout(rng, x, size=3),
    lambda rng, x: mixup(rng, x, np.arange(len(x)) % 3, classes=3)[0],
]


@pytest.mark.parametrize("augment", AUGMENTATIONS)
@pytest.mark.parametrize("shape", [(6, 9, 7), (6, 2, 9, 7), (0, 9, 7)])
def test_augmentation_takes_its_randomness_and_leaves_its_input_alone(rng, augment, shape):
    x = rng.uniform(size=shape).astype(np.float32)
    before = x.copy()
    x.flags.writeable = False
    y = augment(np.random.default_rng(3), x)
    assert y.shape == x.shape
    assert y.dtype == np.float32
    assert not np.shares_memory(x, y)
    assert np.array_equal(x, before)
    assert np.array_equal(y, augment(np.random.default_rng(3), x))
    if x.size:
        assert not np.array_equal(y, x)
        assert not np.array_equal(y, augment(np.random.default_rng(4), x))
        assert augment(np.random.default_rng(3), (255 * x).astype(np.uint8)).dtype == np.float64


def test_augmentation_of_strength_zero_is_the_identity(rng):
    x = rng.uniform(size=(3, 8, 6))
    assert np.array_equal(shift(x, (0, 0)), x)
    assert np.array_equal(rotate(x, 0), x)
    assert np.array_equal(random_shift(rng, x, most=0), x)
    assert np.array_equal(random_rotation(rng, x, most=0.0), x)
    assert np.array_equal(random_elastic(rng, x, alpha=0.0), x)
    assert np.array_equal(gaussian_noise(rng, x, std=0.0), x)
    assert np.array_equal(cutout(rng, x, size=0), x)
    i, j = np.indices((8, 6))
    assert np.array_equal(warp(x, i, j), x)


def test_shift_by_hand():
    image = np.array([[[1.0, 2.0], [3.0, 4.0]]])
    assert np.array_equal(shift(image, (1, 0)), [[[0, 0], [1, 2]]])
    assert np.array_equal(shift(image, (0, 1), fill=9.0), [[[9, 1], [9, 3]]])
    assert np.allclose(shift(image, (0, 0.5)), [[[0.5, 1.5], [1.5, 3.5]]])
    both = shift(np.concatenate([image, image]), [[1, 0], [0, -1]])
    assert np.array_equal(both, [[[0, 0], [1, 2]], [[2, 0], [4, 0]]])


def test_warp_with_loops(rng):
    x, fill = rng.normal(size=(2, 4, 5)), 0.3
    rows, columns = rng.uniform(-1.5, 5, (2, 4, 5)), rng.uniform(-1.5, 6, (2, 4, 5))

    def pixel(n, i, j):
        return x[n, i, j] if 0 <= i < 4 and 0 <= j < 5 else fill

    y = warp(x, rows, columns, fill=fill)
    for n, i, j in np.ndindex(2, 4, 5):
        r, c = math.floor(rows[n, i, j]), math.floor(columns[n, i, j])
        a, b = rows[n, i, j] - r, columns[n, i, j] - c
        expected = (
            (1 - a) * (1 - b) * pixel(n, r, c)
            + (1 - a) * b * pixel(n, r, c + 1)
            + a * (1 - b) * pixel(n, r + 1, c)
            + a * b * pixel(n, r + 1, c + 1)
        )
        assert np.isclose(y[n, i, j], expected, rtol=1e-12, atol=1e-14)


def test_warp_is_grid_sample_of_torch(rng):
    x = rng.normal(size=(2, 3, 5, 7))
    rows, columns = rng.uniform(-1, 5, (2, 5, 7)), rng.uniform(-1, 7, (2, 5, 7))
    grid = np.stack([2 * columns / 6 - 1, 2 * rows / 4 - 1], -1)
    theirs = F.grid_sample(torch.tensor(x), torch.tensor(grid), align_corners=True).numpy()
    assert np.allclose(warp(x, rows, columns), theirs, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize("quarters", [1, 2, 3, -1])
def test_rotation_by_a_right_angle_is_rot90(rng, size, quarters):
    x = rng.normal(size=(3, size, size))
    assert np.allclose(rotate(x, 90 * quarters, fill=99.0), np.rot90(x, quarters, (1, 2)), atol=1e-11)


def test_every_image_turns_by_its_own_angle_and_back(rng):
    x = rng.normal(size=(3, 5, 5))
    y = rotate(x, [0, 90, 180])
    for n in range(3):
        assert np.allclose(y[n], np.rot90(x[n], n), atol=1e-12)
    i, j = np.indices((21, 21)) - 10
    bump = np.exp(-(i**2 + (j - 3) ** 2) / 30)[None]
    assert np.allclose(rotate(rotate(bump, 33), -33)[0, 6:-6, 6:-6], bump[0, 6:-6, 6:-6], atol=0.03)
    assert rotate(bump, 90)[0].argmax() == np.ravel_multi_index((7, 10), (21, 21))  # from the right to the top


def test_random_shifts_and_angles_fill_their_range(rng):
    x = np.zeros((2000, 5, 5))
    x[:, 2, 2] = 1
    places = np.array(np.unravel_index(random_shift(rng, x, most=1).reshape(2000, -1).argmax(1), (5, 5)))
    counts = np.array([[np.sum((places[0] == i) & (places[1] == j)) for j in (1, 2, 3)] for i in (1, 2, 3)])
    assert counts.sum() == 2000
    low, high = scipy.stats.binom.interval(1 - FALSE_ALARM / 9, 2000, 1 / 9)
    assert low <= counts.min()
    assert counts.max() <= high
    # A picture of its own columns, turned, shows the sine of the angle along the middle column.
    ramp = np.broadcast_to(np.arange(9.0) - 4, (2000, 9, 9))
    sines = -random_rotation(rng, ramp, most=20.0)[:, 5, 4]
    angles = np.degrees(np.arcsin(sines))
    assert scipy.stats.kstest(angles, scipy.stats.uniform(-20, 40).cdf).pvalue > FALSE_ALARM


def test_elastic_displacements_have_their_size_and_are_smooth(rng):
    """A picture of its own columns shows how far each pixel was fetched from."""
    ramp = np.broadcast_to(np.arange(64.0), (50, 64, 64))
    field = (random_elastic(rng, ramp, alpha=1.5, sigma=4.0) - ramp)[:, 8:-8, 8:-8]
    assert math.sqrt(np.mean(field**2)) == pytest.approx(1.5, rel=0.1)
    steps = np.diff(field, axis=2)
    assert math.sqrt(np.mean(steps**2)) == pytest.approx(1.5 / (math.sqrt(2) * 4), rel=0.1)
    rough = (random_elastic(rng, ramp, alpha=1.5, sigma=1.5) - ramp)[:, 8:-8, 8:-8]
    assert np.mean(np.diff(rough, axis=2) ** 2) > 4 * np.mean(steps**2)


def test_channels_of_an_image_move_together(rng):
    x = rng.uniform(size=(4, 1, 8, 8))
    x = np.concatenate([x, 2 * x], 1)
    for move in (random_shift, random_rotation, random_elastic, lambda rng, x: cutout(rng, x, size=3)):
        y = move(rng, x)
        assert np.allclose(y[:, 1], 2 * y[:, 0], rtol=1e-12)


def test_noise_has_its_spread(rng):
    y = gaussian_noise(rng, np.full((200, 100), 3.0), std=0.5)
    assert scipy.stats.kstest(y.ravel(), scipy.stats.norm(3, 0.5).cdf).pvalue > FALSE_ALARM


def test_cutout_paints_one_square_that_the_border_may_cut(rng):
    y = cutout(rng, np.ones((500, 10, 12)), size=4, fill=-1.0)
    painted = y == -1
    assert set(np.unique(y)) == {-1, 1}
    for p in painted:
        rows, columns = np.flatnonzero(p.any(1)), np.flatnonzero(p.any(0))
        assert np.array_equal(np.outer(p.any(1), p.any(0)), p)
        assert len(rows) == rows[-1] - rows[0] + 1 <= 4
        assert len(columns) == columns[-1] - columns[0] + 1 <= 4
        assert min(len(rows), len(columns)) >= 2
    assert painted.sum((1, 2)).max() == 16
    assert painted.any(0).all()


def test_mixup_mixes_labels_as_it_mixes_images(rng):
    """If the picture is the one-hot label, both come out the same; no probability is lost on the way."""
    labels = rng.integers(0, 4, 30)
    images = np.eye(4)[labels]
    x, y = mixup(rng, images, labels, alpha=1.0, classes=4)
    assert np.array_equal(x, y)
    assert np.allclose(y.sum(1), 1)
    assert y.min() >= 0
    again, soft = mixup(rng, images, y, alpha=1.0)
    assert np.allclose(soft.sum(1), 1)
    assert again.shape == (30, 4)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_the_proportions_of_mixup_have_a_beta_distribution(rng, alpha):
    n = 600
    _, y = mixup(rng, np.zeros((n, 1)), np.arange(n), alpha=alpha, classes=n)
    shares, partners = y.diagonal(), (y > 0).sum(1)
    assert partners.max() <= 2
    alone = np.isclose(shares, 1) & (partners == 1)
    assert np.sum(alone) <= 60  # partners of themselves, and shares that round to 1
    if alpha >= 1:
        assert scipy.stats.kstest(shares[~alone], scipy.stats.beta(alpha, alpha).cdf).pvalue > FALSE_ALARM
    assert shares[partners == 2].var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.25)


def test_mixed_labels_are_labels_for_cross_entropy(rng):
    """The loss of mixed labels is the mixture of the losses, and stays in float32."""
    logits = rng.normal(size=(6, 3)).astype(np.float32)
    images = rng.normal(size=(6, 2)).astype(np.float32)
    labels = rng.integers(0, 3, 6)
    _, soft = mixup(rng, images, labels, classes=3)
    loss = cross_entropy(logits, soft, reduction="none")
    assert loss.dtype == np.float32
    each = np.stack([cross_entropy(logits, np.full(6, c), reduction="none") for c in range(3)], 1)
    assert np.allclose(loss, (soft * each).sum(1), rtol=1e-5)


IMAGES = np.zeros((4, 5, 6))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rng: shift(np.zeros((5, 6)), (0, 0)), r"\(N, \.\.\., H, W\), not \(5, 6\)"),
        (lambda rng: shift(IMAGES, (1, 2, 3)), r"offset of shape \(3,\).*\(4, 5, 6\)"),
        (lambda rng: shift(IMAGES, np.zeros((3, 2))), r"\(3, 2\).*\(4, 5, 6\)"),
        (lambda rng: shift(IMAGES, (np.nan, 0)), "rows must be finite"),
        (lambda rng: rotate(IMAGES, [1, 2]), r"degrees of shape \(2,\).*\(4, 5, 6\)"),
        (lambda rng: rotate(IMAGES, np.inf), "degrees must be finite"),
        (lambda rng: warp(IMAGES, np.zeros((6, 5)), np.zeros((5, 6))), r"rows of shape \(6, 5\).*\(4, 5, 6\)"),
        (lambda rng: warp(IMAGES, np.zeros((5, 6)), np.zeros((3, 5, 6))), r"columns of shape \(3, 5, 6\).*\(4, 5, 6\)"),
        (lambda rng: random_shift(rng, IMAGES, most=-1), "most must be >= 0 pixels, not -1"),
        (lambda rng: random_shift(rng, IMAGES, most=1.5), "most must be an integer, not 1.5"),
        (lambda rng: random_rotation(rng, IMAGES, most=-1.0), "most must be >= 0 degrees and finite, not -1.0"),
        (
            lambda rng: random_elastic(rng, IMAGES, alpha=-1.0),
            "sigma > 0, both finite, not -1.0 and 4.0",
        ),
        (
            lambda rng: random_elastic(rng, IMAGES, sigma=0.0),
            "sigma > 0, both finite, not 2.0 and 0.0",
        ),
        (lambda rng: gaussian_noise(rng, IMAGES, std=-1.0), "std must be >= 0 and finite, not -1.0"),
        (lambda rng: cutout(rng, IMAGES, size=-1), "size must be >= 0 pixels, not -1"),
        (lambda rng: cutout(rng, np.zeros((5, 6)), size=1), r"\(5, 6\)"),
        (lambda rng: mixup(rng, IMAGES, np.zeros(4, int)), "with classes=C"),
        (lambda rng: mixup(rng, IMAGES, np.zeros(4), classes=3), "must be integers.*float64"),
        (lambda rng: mixup(rng, IMAGES, np.zeros(3, int), classes=3), r"\(4, 5, 6\).*\(3,\)"),
        (lambda rng: mixup(rng, IMAGES, np.full(4, 3), classes=3), r"0\.\.2 for 3 classes, not in 3\.\.3"),
        (
            lambda rng: mixup(rng, IMAGES, np.zeros(4, int), classes=3, alpha=0.0),
            "must be positive and finite, not 0.0",
        ),
        (lambda rng: random_shift(0, IMAGES), "rng must be a numpy.random.Generator, not 0"),
    ],
)
def test_augmentation_names_what_was_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.random.default_rng(0))


# Early stopping and a state in the training loop ---------------------------------------------------------------------


def normalized_run(path=None, epochs=8, **options):
    """A small classifier with batch norm and dropout that carries its running statistics, on pure noise."""
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(2, 40, 6)), rng.integers(0, 2, (2, 40))
    norm, statistics = batch_norm_init(16)
    params = {**mlp_init(rng, (6, 16, 2)), "norm": norm}

    def logits(params, state, x, training):
        h, new = batch_norm_layer(params["norm"], state["norm"], linear(x, **params["0"]), training=training)
        h = relu(h)
        h = dropout(h, dropout_mask(rng, h.shape, p=0.2) if training else None, p=0.2)
        return linear(h, **params["2"]), {"norm": new}

    def loss(params, state, x, y):
        z, state = logits(params, state, x, True)
        return cross_entropy(z, y) + 1e-3 * l2_penalty(params), state

    def validation_loss(params, state, x, y):
        return cross_entropy(logits(params, state, x, False)[0], y)

    result = fit(
        params,
        loss,
        (x[0], y[0]),
        lr=0.05,
        epochs=epochs,
        batch_size=10,
        rng=rng,
        validation=(x[1], y[1]),
        validation_loss=validation_loss,
        state={"norm": statistics},
        checkpoint=path,
        **options,
    )
    return result, lambda p, s: evaluate(p, lambda p, x, y: validation_loss(p, s, x, y), (x[1], y[1]))


def test_early_stopping_returns_the_state_that_belongs_to_the_best_parameters():
    result, measured = normalized_run(patience=3, epochs=30)
    losses = result.history["validation_loss"]
    assert result.best_epoch == int(np.argmin(losses)) == len(losses) - 1 - 3
    assert result.state["norm"]["num_batches_tracked"] == 4 * (result.best_epoch + 1)
    assert measured(result.params, result.state) == losses[result.best_epoch]
    last, _ = normalized_run(epochs=len(losses))
    assert last.history["validation_loss"] == losses
    assert last.state["norm"]["num_batches_tracked"] == 4 * len(losses)
    assert measured(last.params, last.state) == losses[-1]


@pytest.mark.parametrize("options", [{}, {"patience": 3}])
def test_an_interrupted_run_goes_on_with_its_state(tmp_path, options):
    whole, _ = normalized_run(epochs=6, **options)
    path = tmp_path / "run.safetensors"
    normalized_run(path, epochs=2, **options)
    resumed, _ = normalized_run(path, epochs=6, **options)
    assert resumed.history == whole.history
    assert resumed.best_epoch == whole.best_epoch
    for ours, theirs in ((resumed.params, whole.params), (resumed.state, whole.state)):
        assert all(np.array_equal(a, flatten(theirs)[key]) for key, a in flatten(ours).items())


def test_the_validation_loss_has_neither_penalty_nor_dropout():
    """Without a state too: what is measured is what was asked for."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 3)), rng.normal(size=20)

    def loss(w, x, y):
        return mse_loss(x @ w, y) + 10 * l2_penalty(w)

    def plain(w, x, y):
        return mse_loss(x @ w, y)

    result = fit(
        np.ones(3), loss, (x, y), lr=0.01, epochs=3, batch_size=5, rng=rng, validation=(x, y), validation_loss=plain
    )
    assert result.history["validation_loss"][-1] == evaluate(result.params, plain, (x, y))
    assert result.state is None


def test_fit_names_what_a_state_needs():
    data = (np.ones((4, 2)), np.ones(4))
    options = {"lr": 0.1, "epochs": 1, "batch_size": 2, "rng": np.random.default_rng(0)}
    with pytest.raises(ValueError, match=r"needs validation_loss\(params, state, x, y\)"):
        fit(np.ones(2), lambda w, s, x, y: None, data, validation=data, state={"a": np.zeros(1)}, **options)
    with pytest.raises(ValueError, match="validation_loss, metric and patience need a validation set"):
        fit(np.ones(2), lambda w, x, y: None, data, validation_loss=lambda w, x, y: 0.0, **options)


def test_training_with_norms_and_dropout_is_that_of_torch_step_for_step(rng):
    """Thirty steps of SGD with weight decay, batch and layer norm, and one mask for both: every parameter, every
    running statistic, and what the trained model says in evaluation."""
    norm, statistics = batch_norm_init(8, dtype=np.float64)
    params = {**mlp_init(rng, (5, 8, 8, 3), dtype=np.float64), "1": norm, "3": layer_norm_init(8, dtype=np.float64)}
    state = {"1": statistics}
    p, lam, lr = 0.4, 0.01, 0.1
    modules = {
        "0": torch.nn.Linear(5, 8),
        "1": torch.nn.BatchNorm1d(8),
        "2": torch.nn.Linear(8, 8),
        "3": torch.nn.LayerNorm(8),
        "4": torch.nn.Linear(8, 3),
    }
    twin = torch.nn.ModuleDict(modules).double()
    twin.load_state_dict({**to_torch(params), **to_torch(state)})
    sgd_of_torch = torch.optim.SGD(twin.parameters(), lr=lr, weight_decay=lam)

    def logits(params, x, mask, training):
        h, new = batch_norm_layer(params["1"], state["1"], linear(x, **params["0"]), training=training)
        h = dropout(relu(layer_norm(linear(relu(h), **params["2"]), **params["3"])), mask, p=p)
        logits.state = {"1": new}
        return linear(h, **params["4"])

    def logits_of_torch(x, mask):
        h = torch.relu(twin["1"](twin["0"](torch.tensor(x))))
        h = torch.relu(twin["3"](twin["2"](h)))
        return twin["4"](h if mask is None else h * torch.tensor(mask) / (1 - p))

    for _ in range(30):
        x, y, mask = rng.normal(size=(6, 5)), rng.integers(0, 3, 6), dropout_mask(rng, (6, 8), p=p)

        def loss(params, x, y, mask):
            return cross_entropy(logits(params, x, mask, True), y) + lam * l2_penalty(params, leaves=lambda *_: True)

        _, grads = value_and_grad(loss)(params, x, y, mask)
        params, _ = sgd(params, grads, {}, lr=lr)
        state = logits.state
        sgd_of_torch.zero_grad()
        F.cross_entropy(logits_of_torch(x, mask), torch.tensor(y)).backward()
        sgd_of_torch.step()
    theirs = from_torch(twin.state_dict())
    ours = {**flatten(params), **flatten(state)}
    assert set(ours) == set(flatten(theirs))
    for key, leaf in flatten(theirs).items():
        assert np.allclose(ours[key], leaf, rtol=1e-9, atol=1e-11), key
    twin.eval()
    x = rng.normal(size=(4, 5))
    assert np.allclose(logits(params, x, None, False), logits_of_torch(x, None).detach().numpy(), rtol=1e-9)


# What goes in --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "norm",
    [
        rms_norm,
        lambda x: layer_norm(np.concatenate([x, -x], 1)),
        lambda x: group_norm(np.concatenate([x, -x], 1), num_groups=1),
        lambda x: batch_norm(np.concatenate([x, -x])),
    ],
    ids=["rms_norm", "layer_norm", "group_norm", "batch_norm"],
)
@pytest.mark.parametrize("dtype", [np.float16, np.int16])
def test_a_norm_of_numbers_whose_squares_overflow(norm, dtype):
    """300 squared is more than float16 holds, and 200 squared more than int16 does."""
    y = norm(np.full((1, 4), 300 if dtype == np.float16 else 200, dtype))
    assert np.allclose(np.abs(y.astype(float)), 1, atol=2e-3)
    assert y.dtype == (np.float16 if dtype == np.float16 else np.float64)


def test_running_statistics_of_float16_do_not_overflow_and_keep_their_dtype():
    _, state = batch_norm_init(2)
    x = np.array([[300.0, 1.0], [-300.0, 3.0]], np.float16)
    state = running_statistics(state, x, momentum=1.0)
    assert np.allclose(state["running_var"], [180_000, 2])
    assert state["running_var"].dtype == np.float32
    y, after = batch_norm_layer({}, state, x, training=True)
    assert y.dtype == np.float16
    assert after["running_mean"].dtype == np.float32


def test_integer_statistics_are_not_truncated():
    state = {"running_mean": np.array([0]), "running_var": np.array([1]), "num_batches_tracked": np.array(0)}
    state = running_statistics(state, np.array([[0], [1]]), momentum=0.5)
    assert np.allclose([state["running_mean"], state["running_var"]], [[0.25], [0.75]])


def test_a_network_whose_norm_has_no_parameters_can_be_penalized():
    """Its branch is empty, and stays where it is."""
    params = {"0": {"weight": np.array([[3.0, -0.25]])}, "1": batch_norm_init(2, affine=False)[0]}
    assert l2_penalty(params) == 4.53125
    assert l1_penalty(params) == 3.25
    _, grads = value_and_grad(lambda p: l2_penalty(p) + l1_penalty(p))(params)
    assert grads["1"] == {}
    assert np.allclose(grads["0"]["weight"], [[4, -1.25]])
    stepped = proximal_step(params, lr=1.0, lam=0.5)
    assert list(stepped) == ["0", "1"]
    assert stepped["1"] == {}
    assert np.array_equal(stepped["0"]["weight"], [[2.5, 0]])


def test_a_proximal_step_leaves_dtypes_and_other_leaves_alone():
    params = {"a": np.ones((2, 2), np.float16), "b": np.ones(2, np.float32), "count": np.array(3)}
    stepped = proximal_step(params, lr=1.0, lam=0.25)
    assert stepped["a"].dtype == np.float16
    assert stepped["b"] is params["b"]
    assert stepped["count"] is params["count"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: random_features({"weight": np.ones((4, 3)), "bias": np.ones(1)}, np.ones((2, 3))), r"bias.*\(1,\)"),
        (lambda: random_features({"weight": np.ones((4, 3)), "bias": 1.0}, np.ones((2, 3))), r"bias of shape \(\)"),
        (lambda: random_features({"weight": np.ones((4, 3))}, np.ones((2, 3))), "no entry 'bias'"),
        (
            lambda: random_features({"weight": np.ones(3), "bias": np.ones(3)}, np.ones((2, 3))),
            r"weight of shape \(3,\)",
        ),
        (
            lambda: mixup(np.random.default_rng(0), np.ones((2, 3)), np.ones((2, 4)), classes=3),
            r"\(2, 4\) are not those of 3 classes",
        ),
        (lambda: running_statistics({"running_mean": np.zeros(3)}, np.ones((2, 3))), "no entry 'running_var'"),
        (lambda: batch_norm_layer({}, {}, np.ones((2, 3)), training=False), "no entry 'running_mean'"),
        (lambda: batch_norm_layer({}, {}, np.ones((2, 3)), training="no"), "training must be True or False, not 'no'"),
        (lambda: xavier_normal(np.random.default_rng(0), (2, 3), gain=np.inf), "gain must be >= 0 and finite, not inf"),
        (lambda: gaussian_noise(np.random.default_rng(0), np.ones(3), std=np.inf), "finite, not inf"),
        (lambda: l2_penalty([np.ones((2, 2))]), "must be a dict of arrays"),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
