"""What chapters 1, 2 and 5 offer in two ways gives the same result, over the whole range that one of them covers."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nnbook.backprop import vjp
from nnbook.losses import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    focal_loss,
    huber_loss,
    info_nce,
    kl_div,
    l1_loss,
    mse_loss,
    nll_loss,
    quantile_loss,
)
from nnbook.neurons import (
    elu,
    leaky_relu,
    log_softmax,
    prelu,
    relu,
    selu,
    sigmoid,
    silu,
    softmax,
    softplus,
    tanh,
)
from nnbook.regularization import (
    batch_norm,
    batch_norm_eval,
    dropout,
    group_norm,
    l2_penalty,
    layer_norm,
    min_norm,
    proximal_step,
    ridge,
    rms_norm,
    soft_threshold,
)

LABELS, MORE = np.array([0, 3, 1]), np.array([[0, 1], [2, 3], [3, -100]])
YES = np.array([[0, 1, 1, 0], [1, 0, 0, 1], [0, 0, 1, 1]])
ONE_HOT = np.eye(4)[LABELS]
WEIGHT = np.array([0.5, 2.0, 1.0, 0.25])


def with_a_zero_for_no(z):
    """Logits of no and of yes, (N, 2, 4): no has logit 0."""
    return np.stack([np.zeros(z.shape, z.dtype) if isinstance(z, np.ndarray) else z * 0.0, z], axis=1)


def rows_of_steps(z):
    """(N, C, 2) made of the rows of z and of the same rows doubled, and the same as rows (N 2, C)."""
    steps = np.stack([z, 0.5 * z], axis=2)
    return steps, steps.transpose(0, 2, 1).reshape(6, 4)


# Functions of x (3, 4), by twos: the first is what the package offers, the second another way to it.
TWO_WAYS = {
    "softmax": (softmax, lambda x: np.exp(log_softmax(x))),
    "tanh": (tanh, lambda x: 2 * sigmoid(2 * x) - 1),
    "relu": (relu, lambda x: leaky_relu(x, negative_slope=0.0)),
    "leaky_relu": (lambda x: leaky_relu(x, negative_slope=0.25), lambda x: prelu(x, np.float32(0.25))),
    "selu": (selu, lambda x: 1.0507009873554805 * elu(x, alpha=1.6732632423543772)),
    "silu": (silu, lambda x: x * sigmoid(x)),
    "softplus": (lambda x: softplus(x, beta=2.0), lambda x: softplus(2 * x) / 2),
    "cross_entropy, nll_loss": (
        lambda x: cross_entropy(x, LABELS, WEIGHT.astype(x.dtype)),
        lambda x: nll_loss(log_softmax(x), LABELS, WEIGHT.astype(x.dtype)),
    ),
    "labels, probabilities": (
        lambda x: cross_entropy(x, LABELS, reduction="none"),
        lambda x: cross_entropy(x, ONE_HOT.astype(x.dtype), reduction="none"),
    ),
    "labels, probabilities, weights": (
        lambda x: cross_entropy(x, LABELS, WEIGHT.astype(x.dtype), reduction="sum", label_smoothing=0.25),
        lambda x: cross_entropy(x, (0.75 * ONE_HOT + 0.0625).astype(x.dtype), WEIGHT.astype(x.dtype), reduction="sum"),
    ),
    "ignored, without them": (
        lambda x: cross_entropy(x, np.array([0, -100, 1])),
        lambda x: cross_entropy(x[np.array([0, 2])], np.array([0, 1])),
    ),
    "steps, rows": (
        lambda x: cross_entropy(rows_of_steps(x)[0], MORE),
        lambda x: cross_entropy(rows_of_steps(x)[1], MORE.reshape(-1)),
    ),
    "binary, softplus": (
        lambda x: binary_cross_entropy_with_logits(x, YES, reduction="none"),
        lambda x: softplus(x * (1.0 - 2 * YES).astype(x.dtype)),
    ),
    "binary, two classes": (
        lambda x: binary_cross_entropy_with_logits(x, YES),
        lambda x: cross_entropy(with_a_zero_for_no(x), YES),
    ),
    "pos_weight, weights": (
        lambda x: binary_cross_entropy_with_logits(x, YES, pos_weight=3.0),
        lambda x: binary_cross_entropy_with_logits(x, YES, (1.0 + 2 * YES).astype(x.dtype)),
    ),
    "focal_loss, binary": (
        lambda x: focal_loss(x, YES, alpha=None, gamma=0.0),
        lambda x: binary_cross_entropy_with_logits(x, YES),
    ),
    "median, absolute error": (lambda x: 2 * quantile_loss(x, YES), lambda x: l1_loss(x, YES)),
    "huber_loss, mse_loss": (
        lambda x: 2 * huber_loss(x, YES, delta=float("inf"), reduction="none"),
        lambda x: mse_loss(x, YES, reduction="none"),
    ),
    "kl_div": (
        lambda x: kl_div(x, ONE_HOT.astype(x.dtype), reduction="none"),
        lambda x: kl_div(x, np.where(ONE_HOT == 1, 0.0, -np.inf).astype(x.dtype), log_target=True, reduction="none"),
    ),
    "info_nce": (lambda x: info_nce(x, x), lambda x: cross_entropy(x @ x.T, np.arange(3))),
    "dropout": (lambda x: dropout(x, YES == 1, p=0.5), lambda x: np.where(YES == 1, 2 * x, 0.0)),
    "group_norm, layer_norm": (lambda x: group_norm(x, num_groups=1), layer_norm),
    "layer_norm, batch_norm": (layer_norm, lambda x: batch_norm(x.T).T),
    "rms_norm": (lambda x: rms_norm(x, eps=1e-5), lambda x: x / ((x * x).mean(-1, keepdims=True) + 1e-5) ** 0.5),
    "soft_threshold": (
        lambda x: soft_threshold(x, threshold=0.5),
        lambda x: relu(x - np.float32(0.5)) - relu(-x - np.float32(0.5)),
    ),
    "l2_penalty": (lambda x: l2_penalty({"a": x, "norm": {}}), lambda x: 0.5 * (x * x).sum()),
}
EVERYWHERE = [0.0, 1e-30, 1e-6, 0.5, 1.0, 2.0, 10.0, 30.0, 90.0, 110.0, 750.0, 1e4, 1e15, 1e30, 3e38]
ENTRIES = st.sampled_from([*EVERYWHERE, *(-x for x in EVERYWHERE)]) | st.floats(-50, 50, width=32)


def agree(ours, other, dtype):
    """Value and gradient; where the other way is finite, ours is, and they agree."""
    tolerance = 2e-5 if dtype == np.float32 else 1e-9

    @settings(max_examples=40, deadline=None)
    @given(arrays(dtype, (3, 4), elements=ENTRIES))
    def holds(x):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where the other way overflows
            (a, pull), (b, pull_other) = vjp(ours, x), vjp(other, x)
            dy = np.random.default_rng(0).normal(size=np.shape(a)).astype(dtype)
            pairs = [(a, b), (pull(dy)[0], pull_other(dy)[0])]
        for found, expected in pairs:
            found, expected = np.asarray(found), np.asarray(expected)
            assert found.dtype == expected.dtype == dtype
            finite = np.isfinite(expected)
            assert np.isfinite(found[finite]).all()
            scale = np.max(np.abs(expected[finite]), initial=1.0)
            np.testing.assert_allclose(found[finite] / scale, expected[finite] / scale, rtol=0, atol=tolerance)

    holds()


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("name", TWO_WAYS)
def test_two_ways_to_the_same(name, dtype):
    agree(*TWO_WAYS[name], dtype)


PLANTED = {
    "a softmax that overflows": (lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True), softmax),
    "a softplus that overflows": (lambda x: np.log1p(np.exp(x)), softplus),
    "a mean over what is ignored too": (
        lambda x: cross_entropy(x, np.array([0, -100, 1]), reduction="sum") / 3,
        lambda x: cross_entropy(x, np.array([0, -100, 1])),
    ),
    "a mean that forgets the weights": (
        lambda x: cross_entropy(x, LABELS, WEIGHT.astype(x.dtype), reduction="none").mean(),
        lambda x: cross_entropy(x, LABELS, WEIGHT.astype(x.dtype)),
    ),
    "a kink of another sign": (lambda x: relu(x - np.float32(0.5)), lambda x: soft_threshold(x, threshold=0.5)),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_way_that_is_wrong_is_caught(name):
    with pytest.raises(AssertionError):
        agree(*PLANTED[name], np.float32)


@settings(max_examples=50, deadline=None)
@given(arrays(float, (4, 3), elements=st.floats(-3, 3)), st.sampled_from([1e-3, 0.1, 10.0, 1e4]))
def test_ridge_by_singular_values_is_ridge_by_the_normal_equations(x, lam):
    y = np.array([1.0, -2.0, 0.5, 3.0])
    normal = np.linalg.solve(x.T @ x + lam * np.eye(3), x.T @ y)
    assert np.allclose(ridge(x, y, lam=lam), normal, rtol=1e-6, atol=1e-9)
    assert np.array_equal(min_norm(x, y), ridge(x, y, lam=0.0))


@given(arrays(np.float32, (5, 2), elements=st.floats(-100, 100, width=32)))
def test_evaluation_with_the_statistics_of_the_batch_is_training(x):
    if np.ptp(x, axis=0).min() > 1e-2:
        eval_ = batch_norm_eval(x, x.mean(0), x.var(0))
        np.testing.assert_allclose(batch_norm(x), eval_, atol=1e-3)


def test_a_tree_of_one_leaf_is_the_leaf():
    w = np.random.default_rng(0).normal(size=(3, 4))
    stepped = proximal_step({"0": {"weight": w}, "norm": {}}, lr=0.5, lam=0.5)
    assert np.array_equal(stepped["0"]["weight"], proximal_step(w, lr=0.5, lam=0.5))
    assert stepped["norm"] == {}
