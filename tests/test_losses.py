"""Chapter 2 as statements about mathematics: equations transcribed with loops, cases worked by hand, invariances."""

import math
import re

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from nnbook.backprop import gradient_error, value_and_grad, vjp
from nnbook.losses import (
    accuracy,
    binary_cross_entropy_with_logits,
    calibration_bins,
    confusion_matrix,
    cosine_embedding_loss,
    cross_entropy,
    expected_calibration_error,
    f1_score,
    focal_loss,
    hinge_loss,
    huber_loss,
    info_nce,
    kl_div,
    l1_loss,
    mse_loss,
    multi_margin_loss,
    nll_loss,
    precision,
    quantile_loss,
    recall,
    triplet_margin_loss,
)
from nnbook.neurons import log_softmax, sigmoid, softmax, softplus
from nnbook.references import REFERENCES
from nnbook.verify import verify

OF_PAIRS = [mse_loss, l1_loss, huber_loss, quantile_loss]
OF_YES_AND_NO = [binary_cross_entropy_with_logits, focal_loss]
OF_CLASSES = [cross_entropy, nll_loss, multi_margin_loss]
OF_EMBEDDINGS = [cosine_embedding_loss, triplet_margin_loss, info_nce]
LOSSES = [*OF_PAIRS, *OF_YES_AND_NO, *OF_CLASSES, *OF_EMBEDDINGS, kl_div, hinge_loss]
INF = np.inf
LOG = math.log


@pytest.fixture
def rng():
    return np.random.default_rng(2)


def gradient(loss, *args, **static):
    """The derivative of a scalar loss by its first argument."""
    value, pull = vjp(loss, *args, **static)
    assert np.shape(value) == ()
    return pull(1.0)[0]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_three_ways(loss):
    result = verify(loss)
    assert result.ok, result.details()


# Reductions ----------------------------------------------------------------------------------------------------------


def reduced(loss, case, reduction):
    """The loss of one of the harness's cases as a function of its first argument, and that argument."""
    x, *rest = case.arrays(np.random.default_rng(0))
    static = {**case.static, "reduction": reduction}
    return (lambda x: loss(x, *rest, **static)), x


def what_a_mean_divides_by(loss, case, each):
    """The number of losses; for class numbers the weights of those that are not ignored."""
    _, labels, *weight = case.arrays(np.random.default_rng(0))
    if loss not in (cross_entropy, nll_loss) or labels.dtype.kind == "f":
        return np.size(each)
    ignored = case.static.get("ignore_index", -100)
    return sum(weight[0][y] if weight else 1.0 for y in labels.ravel() if y != ignored)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_mean_is_the_sum_divided_by_the_number_of_losses(loss):
    for case in REFERENCES[loss.__name__].cases:
        each = vjp(*reduced(loss, case, "none"))[0]
        if np.size(each) and what_a_mean_divides_by(loss, case, each):
            total, pull_total = vjp(*reduced(loss, case, "sum"))
            mean, pull_mean = vjp(*reduced(loss, case, "mean"))
            assert np.isclose(total, np.sum(each), rtol=1e-12)
            count = what_a_mean_divides_by(loss, case, each)
            assert np.isclose(mean, np.sum(each) / count, rtol=1e-12)
            assert np.allclose(pull_mean(1.0)[0] * count, pull_total(1.0)[0], rtol=1e-12)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_none_spreads_the_cotangent_over_the_losses(loss):
    """A weighted sum of the single losses has the gradient of its weights."""
    for case in REFERENCES[loss.__name__].cases[:3]:
        f, x = reduced(loss, case, "none")
        each, pull = vjp(f, x)
        dy = np.random.default_rng(1).normal(size=np.shape(each))
        one_by_one = np.zeros(np.shape(x))
        for i in np.ndindex(dy.shape):
            unit = np.zeros(dy.shape)
            unit[i] = 1
            one_by_one += dy[i] * vjp(f, x)[1](unit)[0]
        assert np.allclose(pull(dy)[0], one_by_one, rtol=1e-12, atol=1e-15)


def test_predictions_of_a_column_against_targets_in_a_row_are_refused():
    """The accident behind it: (N, 1) - (N,) has N x N entries, and the best answer to all of them is the mean."""
    with pytest.raises(ValueError, match=r"input has shape \(3, 1\), target has shape \(3,\)"):
        mse_loss(np.zeros((3, 1)), np.zeros(3))


@pytest.mark.parametrize("loss", OF_PAIRS, ids=lambda loss: loss.__name__)
def test_plain_numbers_are_losses_too(loss):
    assert np.isclose(loss(2.0, 1.0), loss(np.array(2.0), np.array(1)))
    assert np.isclose(loss(2, 1), loss(2.0, 1.0))


@pytest.mark.parametrize("loss", OF_PAIRS, ids=lambda loss: loss.__name__)
def test_integer_targets_and_numbers_do_not_promote_float32(loss):
    x = np.ones((3, 2), np.float32)
    assert loss(x, np.zeros((3, 2), int)).dtype == np.float32
    assert loss(x, np.zeros((3, 2), bool)).dtype == np.float32
    value, pull = vjp(lambda x: loss(x, 1.0), np.float32(2.0))
    assert value.dtype == pull(1.0)[0].dtype == np.float32


def test_integer_predictions_count_as_float64():
    assert mse_loss(np.array([1, 2]), np.array([0, 0])) == 2.5


# Regression ----------------------------------------------------------------------------------------------------------

PREDICTED, TRUE = np.array([2.0, 5.0, 3.0]), np.array([1.0, 3.0, 4.0])


def test_regression_by_hand():
    """The three houses of the chapter: errors 1, 2 and -1."""
    assert mse_loss(PREDICTED, TRUE) == 2
    assert mse_loss(PREDICTED, TRUE, reduction="sum") == 6
    assert np.array_equal(mse_loss(PREDICTED, TRUE, reduction="none"), [1, 4, 1])
    assert np.allclose(gradient(mse_loss, PREDICTED, TRUE), np.array([2, 4, -2]) / 3)
    assert np.isclose(l1_loss(PREDICTED, TRUE), 4 / 3)
    assert np.allclose(gradient(l1_loss, PREDICTED, TRUE), np.array([1, 1, -1]) / 3)
    assert np.allclose(huber_loss(PREDICTED, TRUE, delta=1.5, reduction="none"), [0.5, 1.875, 0.5])
    assert np.allclose(gradient(huber_loss, PREDICTED, TRUE, delta=1.5), np.array([1, 1.5, -1]) / 3)
    assert np.allclose(quantile_loss(PREDICTED, TRUE, quantile=0.9, reduction="none"), [0.1, 0.2, 0.9])
    assert np.isclose(quantile_loss(PREDICTED, TRUE, quantile=0.9), 0.4)
    assert np.allclose(gradient(quantile_loss, PREDICTED, TRUE, quantile=0.9), np.array([0.1, 0.1, -0.9]) / 3)


def test_regression_with_loops(rng):
    x, t, delta, q = rng.normal(size=(4, 3)), rng.normal(size=(4, 3)), 0.7, 0.8
    mse = mae = huber = pinball = 0.0
    for n in range(4):
        for d in range(3):
            e = x[n, d] - t[n, d]
            mse += e**2 / 12
            mae += abs(e) / 12
            huber += (e**2 / 2 if abs(e) <= delta else delta * (abs(e) - delta / 2)) / 12
            pinball += (q * -e if e < 0 else (1 - q) * e) / 12
    assert np.isclose(mse_loss(x, t), mse)
    assert np.isclose(l1_loss(x, t), mae)
    assert np.isclose(huber_loss(x, t, delta=delta), huber)
    assert np.isclose(quantile_loss(x, t, quantile=q), pinball)


def best_constant(loss, values, **static):
    """The constant prediction with the smallest loss, by bisection on the sign of the derivative."""
    low, high = values.min() - 1, values.max() + 1
    for _ in range(100):
        middle = (low + high) / 2
        slope = gradient(lambda c: loss(c * np.ones_like(values), values, **static), np.array(middle))
        low, high = (middle, high) if slope < 0 else (low, middle)
    return (low + high) / 2


def test_each_loss_estimates_its_own_statistic(rng):
    values = rng.exponential(size=101)
    assert np.isclose(best_constant(mse_loss, values), values.mean())
    assert np.isclose(best_constant(l1_loss, values), np.median(values))
    assert np.isclose(best_constant(quantile_loss, values, quantile=0.9), np.sort(values)[90])
    assert np.isclose(best_constant(huber_loss, values, delta=100.0), values.mean())
    assert np.median(values) < best_constant(huber_loss, values, delta=0.5) < values.mean()


def test_best_constants_by_hand():
    values = np.array([1.0, 2.0, 3.0, 4.0, 15.0])
    assert np.isclose(best_constant(mse_loss, values), 5)
    assert np.isclose(best_constant(l1_loss, values), 3)
    assert np.isclose(best_constant(huber_loss, values, delta=3.0), 3.25)


def test_huber_is_half_the_squared_error_inside_and_delta_times_the_absolute_error_far_outside(rng):
    x, t = rng.normal(size=20), rng.normal(size=20)
    assert np.isclose(huber_loss(x, t, delta=100.0), mse_loss(x, t) / 2)
    assert np.isclose(huber_loss(x, t, delta=1e-9) / 1e-9, l1_loss(x, t))


def test_huber_does_not_overflow_where_the_square_would():
    x = np.array([1e300, -1e300])
    with np.errstate(all="raise"):
        assert huber_loss(x, np.zeros(2)) == 1e300


def test_the_median_loss_is_half_the_absolute_error(rng):
    x, t = rng.normal(size=9), rng.normal(size=9)
    assert np.isclose(2 * quantile_loss(x, t), l1_loss(x, t))


# Yes or no -----------------------------------------------------------------------------------------------------------


def test_binary_cross_entropy_by_hand():
    """The logit log 3 means a probability of 3/4."""
    z = np.array([LOG(3)])
    assert np.isclose(sigmoid(z)[0], 0.75)
    assert np.isclose(binary_cross_entropy_with_logits(z, np.array([1])), LOG(4 / 3))
    assert np.isclose(binary_cross_entropy_with_logits(z, np.array([0])), LOG(4))
    assert np.allclose(gradient(binary_cross_entropy_with_logits, z, np.array([1])), -0.25)
    assert np.allclose(gradient(binary_cross_entropy_with_logits, z, np.array([0])), 0.75)


def test_binary_cross_entropy_with_loops(rng):
    z, t = rng.normal(size=(3, 2)), rng.uniform(size=(3, 2))
    loss, dz = 0.0, np.zeros((3, 2))
    for n in range(3):
        for d in range(2):
            p = 1 / (1 + math.exp(-z[n, d]))
            loss -= (t[n, d] * LOG(p) + (1 - t[n, d]) * LOG(1 - p)) / 6
            dz[n, d] = (p - t[n, d]) / 6
    assert np.isclose(binary_cross_entropy_with_logits(z, t), loss)
    assert np.allclose(gradient(binary_cross_entropy_with_logits, z, t), dz)


def test_binary_cross_entropy_takes_its_limits_at_infinite_logits():
    z = np.array([-INF, INF, -INF, INF, INF])
    t = np.array([0.0, 1.0, 1.0, 0.0, 0.5])
    with np.errstate(all="raise"):
        assert np.array_equal(binary_cross_entropy_with_logits(z, t, reduction="none"), [0, 0, INF, INF, INF])
        assert np.array_equal(gradient(binary_cross_entropy_with_logits, z, t, reduction="sum"), [0, 0, -1, 1, 0.5])


def test_binary_cross_entropy_keeps_tiny_losses():
    """1 - p would have been rounded to 0 long before: the loss at a logit of 50 is exp(-50), not 0."""
    assert np.isclose(binary_cross_entropy_with_logits(np.array(50.0), np.array(1)), math.exp(-50), rtol=1e-12)


def test_binary_cross_entropy_is_cross_entropy_over_two_classes(rng):
    z, t = rng.normal(size=8), rng.integers(0, 2, 8)
    logits = np.stack([np.zeros(8), z], 1)
    assert np.isclose(binary_cross_entropy_with_logits(z, t), cross_entropy(logits, t))
    assert np.allclose(gradient(binary_cross_entropy_with_logits, z, t), gradient(cross_entropy, logits, t)[:, 1])


def test_binary_cross_entropy_is_a_softplus_of_the_signed_logit(rng):
    z, t = rng.normal(size=8), rng.integers(0, 2, 8)
    assert np.allclose(binary_cross_entropy_with_logits(z, t, reduction="none"), softplus(-(2 * t - 1) * z))


def test_squared_error_after_a_sigmoid_saturates_where_cross_entropy_does_not():
    """Certainly wrong, at p = 1/100: the gradients differ by 1 / (2 p (1 - p)), about 50."""
    z, t = np.array(-LOG(99)), np.array(1.0)
    by_square = gradient(lambda z: mse_loss(sigmoid(z), t), z)
    by_surprise = gradient(binary_cross_entropy_with_logits, z, t)
    assert np.isclose(by_square, 2 * (0.01 - 1) * 0.01 * 0.99)
    assert np.isclose(by_surprise, -0.99)
    assert np.isclose(by_surprise / by_square, 1 / (2 * 0.01 * 0.99))


def test_focal_loss_by_hand():
    z, t = np.array([LOG(3), -LOG(3)]), np.array([1, 1])
    easy, hard = focal_loss(z, t, alpha=None, reduction="none")
    assert np.isclose(easy, LOG(4 / 3) / 16)
    assert np.isclose(hard, LOG(4) * 9 / 16)
    slopes = gradient(focal_loss, z, t, alpha=None, reduction="sum")
    assert np.allclose(slopes, [-(1.5 * LOG(4 / 3) + 0.25) / 16, -(0.5 * LOG(4) + 0.75) * 9 / 16])
    assert np.allclose(focal_loss(z, t, reduction="none"), [easy / 4, hard / 4])


def test_focal_loss_with_loops(rng):
    z, t, alpha, gamma = rng.normal(size=6), rng.integers(0, 2, 6), 0.3, 1.7
    loss, dz = 0.0, np.zeros(6)
    for n in range(6):
        p = 1 / (1 + math.exp(-z[n]))
        p_t, a_t, sign = (p, alpha, 1) if t[n] == 1 else (1 - p, 1 - alpha, -1)
        loss -= a_t * (1 - p_t) ** gamma * LOG(p_t) / 6
        dz[n] = sign * a_t * (1 - p_t) ** gamma * (gamma * p_t * LOG(p_t) - (1 - p_t)) / 6
    assert np.isclose(focal_loss(z, t, alpha=alpha, gamma=gamma), loss)
    assert np.allclose(gradient(focal_loss, z, t, alpha=alpha, gamma=gamma), dz)


def test_focal_loss_without_focus_is_binary_cross_entropy(rng):
    z, t = rng.normal(size=6), rng.integers(0, 2, 6)
    assert np.isclose(focal_loss(z, t, alpha=None, gamma=0.0), binary_cross_entropy_with_logits(z, t))
    assert np.isclose(2 * focal_loss(z, t, alpha=0.5, gamma=0.0), binary_cross_entropy_with_logits(z, t))


def test_focal_loss_at_infinite_logits():
    with np.errstate(all="raise", under="ignore"):
        z = np.array([-INF, INF])
        assert np.array_equal(focal_loss(z, np.array([0, 1]), reduction="none"), [0, 0])
        assert np.array_equal(focal_loss(z, np.array([1, 0]), reduction="none"), [INF, INF])
        assert np.array_equal(gradient(focal_loss, z, np.array([1, 0]), alpha=None, reduction="sum"), [-1, 1])


# Many classes --------------------------------------------------------------------------------------------------------

EIGHTHS = np.array([0.0, LOG(2), LOG(5)])
"""Logits whose softmax is 1/8, 2/8, 5/8."""


def test_cross_entropy_by_hand():
    z, y = np.array([EIGHTHS, EIGHTHS]), np.array([2, 0])
    assert np.allclose(softmax(z)[0], [1 / 8, 2 / 8, 5 / 8])
    assert np.allclose(cross_entropy(z, y, reduction="none"), [LOG(8 / 5), LOG(8)])
    assert np.isclose(cross_entropy(z, y), (LOG(8 / 5) + LOG(8)) / 2)
    assert np.allclose(16 * gradient(cross_entropy, z, y), [[1, 2, -3], [-7, 2, 5]])


def test_cross_entropy_with_loops(rng):
    N, C, s = 4, 3, 0.2
    z, y = rng.normal(size=(N, C)), rng.integers(0, C, N)
    loss, dz = 0.0, np.zeros((N, C))
    for n in range(N):
        total = sum(math.exp(z[n, c]) for c in range(C))
        for c in range(C):
            q = (1 - s) * (c == y[n]) + s / C
            p = math.exp(z[n, c]) / total
            loss -= q * LOG(p) / N
            dz[n, c] = (p - q) / N
    assert np.isclose(cross_entropy(z, y, label_smoothing=s), loss)
    assert np.allclose(gradient(cross_entropy, z, y, label_smoothing=s), dz)


def test_cross_entropy_is_log_softmax_and_nll_in_one(rng):
    z, y = rng.normal(size=(5, 4)), rng.integers(0, 4, 5)
    composed = value_and_grad(lambda z: nll_loss(log_softmax(z), y))(z)
    assert np.isclose(cross_entropy(z, y), composed[0])
    assert np.allclose(gradient(cross_entropy, z, y), composed[1])


def test_the_gradient_of_cross_entropy_sums_to_zero_over_the_classes(rng):
    dz = gradient(cross_entropy, rng.normal(size=(5, 4)), rng.integers(0, 4, 5), label_smoothing=0.3)
    assert np.allclose(dz.sum(1), 0, atol=1e-16)


@given(arrays(float, (3, 4), elements=st.floats(-5, 5)), st.floats(-1e6, 1e6))
def test_cross_entropy_is_shift_invariant(z, shift):
    y = np.array([0, 3, 1])
    assert np.allclose(cross_entropy(z + shift, y), cross_entropy(z, y), rtol=1e-9, atol=1e-9)


def test_huge_offsets_change_nothing():
    z, y = np.array([[1.0, 2.0, 3.0]]), np.array([0])
    for offset in (-1e15, 1e15):
        assert np.isclose(cross_entropy(z + offset, y), cross_entropy(z, y))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("level", [-1e30, -7.0, 0.0, 7.0, 1e30])
def test_equal_logits_cost_the_logarithm_of_the_number_of_classes(dtype, level):
    z = np.full((3, 10), level, dtype)
    assert np.isclose(cross_entropy(z, np.array([0, 5, 9])), LOG(10))
    assert np.allclose(gradient(cross_entropy, z, np.array([0, 5, 9])).sum(0)[[1, 2, 3]], 0.1)


def test_a_true_class_that_was_ruled_out_costs_infinitely_much_and_still_has_a_gradient():
    z = np.array([[0.0, -INF]])
    with np.errstate(all="raise"):
        assert cross_entropy(z, np.array([1])) == INF
        assert cross_entropy(z, np.array([0])) == 0
        assert cross_entropy(z, np.array([0]), label_smoothing=0.1) == INF
        assert np.array_equal(gradient(cross_entropy, z, np.array([1])), [[1, -1]])


def test_a_class_that_is_impossible_and_ruled_out_costs_nothing():
    z, q = np.array([[0.0, -INF, 0.0]]), np.array([[0.5, 0.0, 0.5]])
    with np.errstate(all="raise"):
        assert np.isclose(cross_entropy(z, q), LOG(2))


def test_label_smoothing_by_hand():
    z, y = EIGHTHS[None], np.array([2])
    assert np.isclose(cross_entropy(z, y, label_smoothing=0.3), 0.1 * LOG(8) + 0.1 * LOG(4) + 0.8 * LOG(8 / 5))
    assert np.allclose(gradient(cross_entropy, z, y, label_smoothing=0.3), [[0.025, 0.15, -0.175]])


def test_smoothed_labels_are_probabilities_as_labels(rng):
    z, y, s = rng.normal(size=(5, 4)), rng.integers(0, 4, 5), 0.2
    q = (1 - s) * np.eye(4)[y] + s / 4
    assert np.isclose(cross_entropy(z, y, label_smoothing=s), cross_entropy(z, q))
    assert np.allclose(gradient(cross_entropy, z, y, label_smoothing=s), gradient(cross_entropy, z, q))


def test_probabilities_that_are_one_hot_are_integer_labels(rng):
    z, y = rng.normal(size=(5, 4)), rng.integers(0, 4, 5)
    assert np.isclose(cross_entropy(z, np.eye(4)[y]), cross_entropy(z, y))
    assert np.isclose(cross_entropy(z[0], np.eye(4)[y[0]]), cross_entropy(z[0], y[0]))


def test_integer_labels_have_no_cotangent(rng):
    _, pull = vjp(cross_entropy, rng.normal(size=(3, 4)), np.array([0, 1, 2]))
    assert pull(1.0)[1] is None


def test_a_plain_integer_is_a_label():
    assert np.isclose(cross_entropy(EIGHTHS, 2), LOG(8 / 5))


def test_float32_logits_and_float64_upstream_stay_float32(rng):
    z = rng.normal(size=(3, 4)).astype(np.float32)
    value, pull = vjp(cross_entropy, z, np.array([0, 1, 2]), label_smoothing=0.1)
    assert value.dtype == pull(np.float64(1))[0].dtype == np.float32


def test_nll_by_hand():
    log_p = np.log([[1 / 8, 2 / 8, 5 / 8], [1 / 2, 1 / 4, 1 / 4]])
    assert np.isclose(nll_loss(log_p, np.array([2, 0])), (LOG(8 / 5) + LOG(2)) / 2)
    assert np.array_equal(gradient(nll_loss, log_p, np.array([2, 0])), [[0, 0, -0.5], [-0.5, 0, 0]])


# Weights, and labels that are left out --------------------------------------------------------------------------------

IGNORED = -100


def test_a_weighted_mean_by_hand():
    """Surprises log(8/5) and log 8, of classes with weights 2 and 4: the mean divides by 6."""
    z, y, weight = np.array([EIGHTHS, EIGHTHS]), np.array([2, 0]), np.array([4.0, 1.0, 2.0])
    assert np.allclose(cross_entropy(z, y, weight, reduction="none"), [2 * LOG(8 / 5), 4 * LOG(8)])
    assert np.isclose(cross_entropy(z, y, weight), (2 * LOG(8 / 5) + 4 * LOG(8)) / 6)
    assert np.allclose(gradient(cross_entropy, z, y, weight), np.array([[2, 4, -6], [-28, 8, 20]]) / 48)
    assert np.isclose(nll_loss(np.log(softmax(z)), y, weight), cross_entropy(z, y, weight))


def test_ignored_labels_by_hand():
    z, y = np.array([EIGHTHS, 7 * EIGHTHS, EIGHTHS]), np.array([2, IGNORED, 0])
    assert np.allclose(cross_entropy(z, y, reduction="none"), [LOG(8 / 5), 0, LOG(8)])
    assert np.isclose(cross_entropy(z, y), (LOG(8 / 5) + LOG(8)) / 2)
    assert np.allclose(16 * gradient(cross_entropy, z, y), [[1, 2, -3], [0, 0, 0], [-7, 2, 5]])


def test_the_weight_of_a_yes_by_hand():
    """At the logit log 3, yes has probability 3/4: three times as much weight for it, and the truth is yes or no."""
    z = np.array([LOG(3), LOG(3)])
    weighted = binary_cross_entropy_with_logits(z, np.array([1, 0]), pos_weight=3.0, reduction="none")
    assert np.allclose(weighted, [3 * LOG(4 / 3), LOG(4)])
    slopes = gradient(binary_cross_entropy_with_logits, z, np.array([1, 0]), pos_weight=3.0, reduction="sum")
    assert np.allclose(slopes, [-0.75, 0.75])
    assert np.isclose(binary_cross_entropy_with_logits(z, np.array([1, 0]), np.array([2, 4])), LOG(4 / 3) + 2 * LOG(4))


def test_class_weights_with_loops(rng):
    N, C, D, s = 3, 4, 5, 0.2
    z, weight = rng.normal(size=(N, C, D)), rng.uniform(0.5, 2, C)
    y = rng.integers(0, C, (N, D))
    y[0, 1] = y[2, 3] = IGNORED
    loss, divisor, dz = 0.0, 0.0, np.zeros((N, C, D))
    for n in range(N):
        for d in range(D):
            if y[n, d] == IGNORED:
                continue
            p = [math.exp(z[n, c, d]) for c in range(C)]
            p = [v / sum(p) for v in p]
            q = [weight[c] * ((1 - s) * (c == y[n, d]) + s / C) for c in range(C)]
            loss -= sum(q[c] * LOG(p[c]) for c in range(C))
            divisor += weight[y[n, d]]
            for c in range(C):
                dz[n, c, d] = p[c] * sum(q) - q[c]
    assert np.isclose(cross_entropy(z, y, weight, label_smoothing=s), loss / divisor)
    assert np.allclose(gradient(cross_entropy, z, y, weight, label_smoothing=s), dz / divisor)


def test_weights_of_whole_numbers_repeat_rows(rng):
    z, y, weight = rng.normal(size=(5, 3)), np.array([0, 1, 2, 1, 0]), np.array([1, 2, 3])
    again = np.repeat(np.arange(5), weight[y])
    assert np.isclose(cross_entropy(z, y, weight), cross_entropy(z[again], y[again]))
    t = (y > 0).astype(int)
    assert np.isclose(
        binary_cross_entropy_with_logits(z[:, 0], t, pos_weight=3, reduction="sum"),
        binary_cross_entropy_with_logits(np.repeat(z[:, 0], 1 + 2 * t), np.repeat(t, 1 + 2 * t), reduction="sum"),
    )


def test_a_mean_over_nothing_is_refused_where_pytorch_gives_nan():
    torch = pytest.importorskip("torch")
    z, y = np.zeros((2, 3)), np.array([IGNORED, IGNORED])
    assert torch.nn.functional.cross_entropy(torch.tensor(z), torch.tensor(y)).isnan()
    for loss in (cross_entropy, nll_loss):
        with pytest.raises(ValueError, match="every label is ignored or has weight 0"):
            loss(z, y)
        assert loss(z, y, reduction="sum") == 0
        assert np.array_equal(loss(z, y, reduction="none"), [0, 0])


def test_nan_of_what_is_ignored_spoils_pytorchs_gradient_and_not_ours():
    torch = pytest.importorskip("torch")
    z, y = np.array([[np.nan, 0.0], [1.0, 2.0]]), np.array([IGNORED, 1])
    theirs = torch.tensor(z, requires_grad=True)
    torch.nn.functional.cross_entropy(theirs, torch.tensor(y)).backward()
    assert theirs.grad.isnan().any()
    slopes = gradient(cross_entropy, z, y)
    assert np.array_equal(slopes[0], [0, 0])
    assert np.allclose(slopes[1], theirs.grad[1].numpy())


def test_an_ignored_label_may_be_of_any_type_of_integer():
    z = np.zeros((2, 3))
    for dtype in (np.int8, np.int16, np.int64):
        assert np.isclose(cross_entropy(z, np.array([IGNORED, 1], dtype)), LOG(3))
    assert np.isclose(cross_entropy(z, np.array([255, 1], np.uint8), ignore_index=255), LOG(3))
    with pytest.raises(ValueError, match=r"0\.\.2 for 3 classes, not in 1\.\.255"):
        cross_entropy(z, np.array([255, 1], np.uint8))


def test_no_derivative_by_weights():
    z, weight = np.zeros((2, 3)), np.ones(3)
    assert not vjp(cross_entropy, z, np.array([0, 1]), weight)[1](1.0)[2].any()


def test_weights_keep_float32(rng):
    z, weight = rng.normal(size=(4, 3)).astype(np.float32), np.array([1, 2, 3])
    y = np.array([0, 1, IGNORED, 2])
    for loss in (
        lambda z: cross_entropy(z, y, weight),
        lambda z: cross_entropy(z, y, weight, label_smoothing=0.1),
        lambda z: nll_loss(z, y, weight),
        lambda z: binary_cross_entropy_with_logits(z, z.value > 0, weight, weight),
    ):
        value, pull = vjp(loss, z)
        assert value.dtype == pull(1.0)[0].dtype == np.float32


def test_softmax_applied_twice_cannot_reach_a_small_loss():
    """Probabilities taken for logits differ by at most 1, so the loss stays above log(1 + (C - 1) / e)."""
    certain = softmax(np.array([[1e4, 0.0, 0.0]]))
    assert np.isclose(cross_entropy(certain, np.array([0])), LOG(1 + 2 / math.e))


# Divergence ----------------------------------------------------------------------------------------------------------

P, Q = np.array([[1 / 2, 1 / 2]]), np.array([[1 / 4, 3 / 4]])


def test_kl_by_hand():
    assert np.isclose(kl_div(np.log(Q), P, reduction="batchmean"), LOG(4 / 3) / 2)
    assert np.isclose(kl_div(np.log(P), Q, reduction="batchmean"), 0.75 * LOG(3) - LOG(2))
    assert np.isclose(kl_div(np.log(Q), P), LOG(4 / 3) / 4)
    assert np.allclose(gradient(kl_div, np.log(Q), P, reduction="batchmean"), -P)


def test_kl_with_loops(rng):
    N, C = 3, 4
    P, Q = rng.dirichlet(np.ones(C), N), rng.dirichlet(np.ones(C), N)
    total = sum(P[n, c] * LOG(P[n, c] / Q[n, c]) for n in range(N) for c in range(C))
    for reduction, divisor in (("sum", 1), ("batchmean", N), ("mean", N * C)):
        assert np.isclose(kl_div(np.log(Q), P, reduction=reduction), total / divisor)
        assert np.isclose(kl_div(np.log(Q), np.log(P), reduction=reduction, log_target=True), total / divisor)


@given(arrays(float, (2, 5), elements=st.floats(0.01, 1)))
def test_kl_is_never_negative(weights):
    P, Q = weights / weights.sum(1, keepdims=True)
    assert kl_div(np.log(Q), P, reduction="sum") >= -1e-12
    assert abs(kl_div(np.log(P), P, reduction="sum")) < 1e-12


def test_kl_and_cross_entropy_have_the_same_gradient_in_the_logits(rng):
    """They differ by the entropy of the labels, which the model cannot change."""
    z, q = rng.normal(size=(4, 3)), rng.dirichlet(np.ones(3), 4)
    divergence, dz = value_and_grad(lambda z: kl_div(log_softmax(z), q, reduction="batchmean"))(z)
    entropy = -(q * np.log(q)).sum(1).mean()
    assert np.isclose(divergence + entropy, cross_entropy(z, q))
    assert np.allclose(dz, gradient(cross_entropy, z, q))


def test_what_p_rules_out_costs_nothing_and_what_only_q_rules_out_costs_everything():
    with np.errstate(all="raise"):
        q = np.array([[0.0, -INF]])
        assert kl_div(q, np.array([[1.0, 0.0]]), reduction="sum") == 0
        assert kl_div(q, np.array([[0.0, -INF]]), reduction="sum", log_target=True) == 0
        assert kl_div(q, np.array([[0.5, 0.5]]), reduction="sum") == INF


def test_the_divergence_falls_infinitely_fast_when_p_leaves_zero():
    value, pull = vjp(kl_div, np.log(Q), np.array([[1.0, 0.0]]), reduction="sum")
    assert np.isclose(value, LOG(4))
    assert np.allclose(pull(1.0)[1], [[LOG(4) + 1, -INF]])


def test_target_in_logs_that_is_ruled_out_has_no_derivative():
    _, pull = vjp(kl_div, np.log(Q), np.array([[0.0, -INF]]), reduction="sum", log_target=True)
    assert np.allclose(pull(1.0)[1], [[LOG(4) + 1, 0]])


# Margins -------------------------------------------------------------------------------------------------------------


def test_hinge_by_hand():
    x, y = np.array([0.4, 2.0, 0.5]), np.array([1, 1, -1])
    assert np.allclose(hinge_loss(x, y, reduction="none"), [0.6, 0, 1.5])
    assert np.array_equal(gradient(hinge_loss, x, y, reduction="sum"), [-1, 0, 1])


def test_hinge_with_loops_and_scikit_learn(rng):
    x, y = rng.normal(size=9), rng.choice([-1, 1], 9)
    assert np.isclose(hinge_loss(x, y), sum(max(0.0, 1 - y[n] * x[n]) for n in range(9)) / 9)
    assert np.isclose(hinge_loss(x, y), sklearn.metrics.hinge_loss(y, x))


def test_multi_margin_by_hand():
    x, y = np.array([[1.0, 3.0, 2.5]]), np.array([1])
    assert np.isclose(multi_margin_loss(x, y), 1 / 6)
    assert np.allclose(gradient(multi_margin_loss, x, y), [[0, -1 / 3, 1 / 3]])
    assert np.isclose(multi_margin_loss(x, y, p=2), 1 / 12)


def test_multi_margin_with_loops(rng):
    N, C, margin = 4, 3, 0.8
    x, y = rng.normal(size=(N, C)), rng.integers(0, C, N)
    for p in (1, 2):
        loss = 0.0
        for n in range(N):
            for c in range(C):
                if c != y[n]:
                    loss += max(0.0, margin - x[n, y[n]] + x[n, c]) ** p / C / N
        assert np.isclose(multi_margin_loss(x, y, p=p, margin=margin), loss)


def test_multi_margin_of_an_empty_batch_sums_to_zero():
    """Not compared with PyTorch, which returns uninitialised memory here."""
    assert multi_margin_loss(np.zeros((0, 3)), np.zeros(0, int), reduction="sum") == 0


def test_margin_losses_bound_the_number_of_errors(rng):
    """Hinge, squared hinge, and cross-entropy in bits lie above the step that counts errors."""
    s = rng.normal(size=200) * 3
    errors, ones = s <= 0, np.ones(200, int)
    assert np.all(hinge_loss(s, ones, reduction="none") >= errors)
    assert np.all(binary_cross_entropy_with_logits(s, ones, reduction="none") / LOG(2) >= errors)


# Embeddings ----------------------------------------------------------------------------------------------------------


def test_cosine_embedding_by_hand():
    a, b = np.array([[3.0, 4.0]]), np.array([[4.0, 3.0]])
    assert np.isclose(cosine_embedding_loss(a, b, np.array([1])), 0.04)
    assert np.isclose(cosine_embedding_loss(a, b, np.array([-1]), margin=0.5), 0.46)
    assert np.allclose(gradient(cosine_embedding_loss, a, b, np.array([1])), [[-0.0448, 0.0336]])


def test_cosine_embedding_with_loops(rng):
    N, D, margin = 5, 3, 0.1
    a, b, y = rng.normal(size=(N, D)), rng.normal(size=(N, D)), np.array([1, -1, -1, 1, -1])
    loss = 0.0
    for n in range(N):
        dot = sum(a[n, d] * b[n, d] for d in range(D))
        cos = dot / math.sqrt(sum(v**2 for v in a[n])) / math.sqrt(sum(v**2 for v in b[n]))
        loss += (1 - cos if y[n] == 1 else max(0.0, cos - margin)) / N
    assert np.isclose(cosine_embedding_loss(a, b, y, margin=margin), loss)


def test_the_cosine_gradient_turns_and_lengthens_to_second_order_only(rng):
    a, b, y = rng.normal(size=(6, 4)), rng.normal(size=(6, 4)), np.array([1, 1, 1, -1, -1, -1])
    da = gradient(cosine_embedding_loss, a, b, y, margin=-1.0)
    assert np.allclose((a * da).sum(1), 0, atol=1e-12)
    length, push = np.linalg.norm(a, axis=1), np.linalg.norm(da, axis=1)
    for lr in (1e-3, 1.0, 10.0):
        assert np.allclose(np.linalg.norm(a - lr * da, axis=1), np.hypot(length, lr * push), rtol=1e-12)
    assert np.isclose(cosine_embedding_loss(7 * a, b, y), cosine_embedding_loss(a, b, y))


def test_a_vector_of_zeros_has_cosine_zero():
    assert cosine_embedding_loss(np.zeros((1, 2)), np.ones((1, 2)), np.array([1])) == 1


def test_triplet_by_hand():
    a, p, n = np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]]), np.array([[6.0, 0.0]])
    loss, pull = vjp(triplet_margin_loss, a, p, n, margin=2.0, eps=0.0)
    assert np.isclose(loss, 1)
    da, dp, dn = pull(1.0)
    assert np.allclose(da, [[0.4, -0.8]])
    assert np.allclose(dp, [[0.6, 0.8]])
    assert np.allclose(dn, [[-1, 0]])


def test_triplet_with_loops(rng):
    a, p, n = rng.normal(size=(3, 5, 4))
    loss = sum(max(0.0, 1.0 + math.dist(a[i] + 1e-6, p[i]) - math.dist(a[i] + 1e-6, n[i])) for i in range(5)) / 5
    assert np.isclose(triplet_margin_loss(a, p, n), loss)


def test_moving_all_three_points_together_changes_nothing(rng):
    a, p, n = rng.normal(size=(3, 5, 4))
    _, pull = vjp(triplet_margin_loss, a, p, n, margin=3.0)
    assert np.allclose(sum(pull(1.0)), 0, atol=1e-15)


def test_info_nce_by_hand():
    """Two orthogonal pairs; at this temperature the logits are log 3 and 0, so the right key has probability 3/4."""
    loss, pull = vjp(info_nce, np.eye(2), np.eye(2), temperature=1 / LOG(3))
    assert np.isclose(loss, LOG(4 / 3))
    assert np.allclose(pull(1.0)[0], LOG(3) / 2 * np.array([[-0.25, 0.25], [0.25, -0.25]]))


def test_info_nce_with_loops(rng):
    N, D, tau = 4, 3, 0.5
    q, k = rng.normal(size=(2, N, D))
    loss = 0.0
    for n in range(N):
        s = [sum(q[n, d] * k[m, d] for d in range(D)) / tau for m in range(N)]
        loss -= LOG(math.exp(s[n]) / sum(math.exp(v) for v in s)) / N
    assert np.isclose(info_nce(q, k, temperature=tau), loss)


def test_info_nce_of_equal_embeddings_costs_the_logarithm_of_the_batch():
    assert np.isclose(info_nce(np.ones((8, 3)), np.ones((8, 3))), LOG(8))


def test_a_reader_can_build_a_loss_from_losses(rng):
    """Losses are primitives like any other: they add, and multiply, and sit inside other functions."""
    y = rng.integers(0, 3, 4)

    def loss(params):
        return cross_entropy(params["z"], y) * 2.0 + mse_loss(params["z"], np.zeros((4, 3))) ** 2

    assert gradient_error(loss, {"z": rng.normal(size=(4, 3))}) < 1e-8


# Metrics -------------------------------------------------------------------------------------------------------------

TRUTH, CALLED = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 2, 2])


def test_metrics_by_hand():
    assert accuracy(CALLED, TRUTH) == 4 / 6
    assert np.array_equal(confusion_matrix(CALLED, TRUTH), [[2, 1, 0], [0, 1, 1], [0, 0, 1]])
    assert np.allclose(precision(CALLED, TRUTH), [1, 1 / 2, 1 / 2])
    assert np.allclose(recall(CALLED, TRUTH), [2 / 3, 1 / 2, 1])
    assert np.allclose(f1_score(CALLED, TRUTH), [4 / 5, 1 / 2, 2 / 3])
    assert np.isclose(f1_score(CALLED, TRUTH, average="macro"), (4 / 5 + 1 / 2 + 2 / 3) / 3)


LABELLED = st.integers(2, 5).flatmap(
    lambda classes: array_shapes(min_dims=1, max_dims=1, max_side=30).flatmap(
        lambda shape: st.tuples(
            st.just(classes),
            arrays(int, shape, elements=st.integers(0, classes - 1)),
            arrays(int, shape, elements=st.integers(0, classes - 1)),
        )
    )
)


@given(LABELLED)
def test_metrics_agree_with_scikit_learn(drawn):
    classes, called, truth = drawn
    labels = list(range(classes))
    assert accuracy(called, truth) == sklearn.metrics.accuracy_score(truth, called)
    assert np.array_equal(
        confusion_matrix(called, truth, classes=classes), sklearn.metrics.confusion_matrix(truth, called, labels=labels)
    )
    theirs = {
        precision: sklearn.metrics.precision_score,
        recall: sklearn.metrics.recall_score,
        f1_score: sklearn.metrics.f1_score,
    }
    for ours, other in theirs.items():
        for average in (None, "macro", "micro"):
            expected = other(truth, called, labels=labels, average=average, zero_division=0)
            assert np.allclose(ours(called, truth, average=average, classes=classes), expected)


@given(LABELLED)
def test_micro_averages_all_equal_accuracy(drawn):
    classes, called, truth = drawn
    for metric in (precision, recall, f1_score):
        assert np.isclose(metric(called, truth, average="micro", classes=classes), accuracy(called, truth))


def test_metrics_take_scores_and_the_first_of_equal_ones_wins():
    scores = np.array([[0.1, 0.9], [0.5, 0.5], [2.0, -1.0]])
    assert accuracy(scores, np.array([1, 0, 0])) == 1
    assert confusion_matrix(scores, np.array([1, 0, 0])).shape == (2, 2)


@pytest.mark.parametrize("metric", [accuracy, precision, recall, f1_score, confusion_matrix])
def test_a_column_of_scores_is_a_yes_or_a_no(metric):
    """Not the argmax of a single column, which is 0 in every row."""
    z, y = np.array([[2.0], [0.5], [-1.0], [3.0]]), np.array([1, 1, 0, 1])
    assert accuracy(z, y) == 1
    assert np.array_equal(confusion_matrix(z, y), [[1, 0], [0, 3]])
    called = np.array([0, 1, 0, 1])
    assert np.array_equal(metric(z, called), metric((z[:, 0] > 0).astype(int), called))
    assert np.array_equal(metric(z, called), metric(np.stack([0 * z[:, 0], z[:, 0]], 1), called))
    p = sigmoid(z)
    assert np.array_equal(metric(p, called, threshold=0.5), metric(z, called))


def test_labels_without_a_score_are_named():
    for scores, classes in ((np.zeros((2, 3)), "0..2"), (np.zeros((2, 1)), "0..1")):
        for label in (3, -100):
            with pytest.raises(ValueError, match=f"accuracy: labels must lie in {re.escape(classes)}"):
                accuracy(scores, np.array([0, label]))


def test_a_single_column_of_probabilities_has_no_confidence_in_a_no():
    with pytest.raises(ValueError, match=r"C of 2 or more, not \(3, 1\).*give 1 - p and p"):
        calibration_bins(np.array([[0.9], [0.2], [0.4]]), np.array([1, 0, 0]))


def test_a_table_of_too_many_classes_is_refused():
    with pytest.raises(ValueError, match="100000 classes are too many"):
        confusion_matrix(np.array([0, 1]), np.array([0, 99_999]))


def test_a_class_that_is_neither_there_nor_called_scores_zero():
    for metric in (precision, recall, f1_score):
        assert np.array_equal(metric(np.array([0, 0]), np.array([0, 0]), classes=2), [1, 0])


def calibration_error_with_loops(probabilities, target, bins):
    """The definition: bins from the left, open on the left and closed on the right."""
    N, error = len(target), 0.0
    for b in range(bins):
        inside = []
        for n in range(N):
            confidence = max(probabilities[n])
            if b / bins < confidence <= (b + 1) / bins or (b == 0 and confidence == 0):
                inside.append((confidence, list(probabilities[n]).index(confidence) == target[n]))
        if inside:
            mean_confidence = sum(c for c, _ in inside) / len(inside)
            share_right = sum(right for _, right in inside) / len(inside)
            error += len(inside) / N * abs(share_right - mean_confidence)
    return error


def test_calibration_by_hand():
    p = np.array([[0.9, 0.1], [0.1, 0.9], [0.55, 0.45], [0.45, 0.55]])
    y = np.array([0, 0, 0, 1])
    counts, confidence, right = calibration_bins(p, y, bins=5)
    assert np.array_equal(counts, [0, 0, 2, 0, 2])
    assert np.allclose(confidence, [0, 0, 0.55, 0, 0.9])
    assert np.allclose(right, [0, 0, 1, 0, 0.5])
    assert np.isclose(expected_calibration_error(p, y, bins=5), 0.425)


def test_calibration_error_with_loops(rng):
    for bins in (1, 7, 15):
        p, y = rng.dirichlet(np.ones(4), 60), rng.integers(0, 4, 60)
        assert np.isclose(expected_calibration_error(p, y, bins=bins), calibration_error_with_loops(p, y, bins))


def test_a_forecaster_who_knows_the_probabilities_is_calibrated_up_to_sampling(rng):
    p = rng.dirichlet(np.ones(3), 40_000)
    y = (rng.uniform(size=(40_000, 1)) > p.cumsum(1)).sum(1)
    assert expected_calibration_error(p, y) < 0.015
    assert expected_calibration_error(softmax(3 * np.log(p)), y) > 0.1


def test_certain_and_always_right_is_calibrated():
    assert expected_calibration_error(np.eye(3), np.arange(3)) == 0
    assert expected_calibration_error(np.zeros((2, 3)), np.array([0, 1])) == 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: accuracy(np.zeros((2, 3)), np.zeros(3, int)), r"\(2, 3\).*\(3,\)"),
        (lambda: accuracy(np.zeros((2, 3, 4)), np.zeros(2, int)), r"\(2, 3, 4\).*\(2,\)"),
        (lambda: accuracy(np.zeros(3), np.zeros(3, int)), "must be integers.*float64"),
        (lambda: accuracy(np.zeros(3, int), np.zeros(3)), "must be integers, not float64"),
        (lambda: accuracy(np.zeros(0, int), np.zeros(0, int)), r"nothing to score.*\(0,\)"),
        (lambda: confusion_matrix(np.array([0, 3]), np.array([0, 1]), classes=3), r"predictions.*0\.\.2.*0\.\.3"),
        (lambda: confusion_matrix(np.array([0, 1]), np.array([0, -1])), r"labels must lie in 0\.\.1.*-1\.\.0"),
        (lambda: f1_score(CALLED, TRUTH, average="weighted"), "None or 'macro' or 'micro', not 'weighted'"),
        (lambda: expected_calibration_error(np.zeros(3), np.zeros(3, int)), r"\(N, C\).*not \(3,\)"),
        (lambda: expected_calibration_error(np.eye(2) * 3, np.zeros(2, int)), r"\[0, 1\], not in \[0\.0, 3\.0\]"),
        (lambda: expected_calibration_error(np.eye(2), np.zeros(2, int), bins=0), "at least 1, not 0"),
    ],
)
def test_metrics_refuse_what_they_cannot_score(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_small_integers_do_not_wrap_around(dtype):
    u, v, w = (np.array(rows) for rows in ([[100, 2, 3]], [[1, 90, 100]], [[5, 120, 7]]))
    losses = [
        lambda u, v, w: cross_entropy(u, np.array([1])),
        lambda u, v, w: nll_loss(u, np.array([1])),
        lambda u, v, w: multi_margin_loss(u, np.array([1])),
        triplet_margin_loss,
        lambda u, v, w: cosine_embedding_loss(u, v, np.array([1])),
        lambda u, v, w: info_nce(np.concatenate([u, w]), np.concatenate([v, u])),
        lambda u, v, w: focal_loss(u, np.array([[0, 1, 0]])),
        lambda u, v, w: hinge_loss(u, np.array([[-1, 1, -1]])),
        lambda u, v, w: mse_loss(u, v),
    ]
    for loss in losses:
        expected = loss(u.astype(float), v.astype(float), w.astype(float))
        assert loss(u.astype(dtype), v.astype(dtype), w.astype(dtype)) == pytest.approx(expected, rel=1e-14)


def test_a_numpy_number_as_option_keeps_float32():
    x, y, z = np.random.default_rng(0).standard_normal((3, 2, 3)).astype(np.float32)
    signs, classes, number = np.array([1, -1]), np.array([0, 2]), np.float64(0.3)
    losses = [
        lambda x: huber_loss(x, y, delta=number),
        lambda x: quantile_loss(x, y, quantile=number),
        lambda x: cross_entropy(x, classes, label_smoothing=number),
        lambda x: cross_entropy(x, softmax(y), label_smoothing=number),
        lambda x: focal_loss(x, (y > 0).astype(int), alpha=number, gamma=number),
        lambda x: hinge_loss(x, np.sign(y), margin=number),
        lambda x: multi_margin_loss(x, classes, margin=number),
        lambda x: cosine_embedding_loss(x, y, signs, margin=number),
        lambda x: triplet_margin_loss(x, y, z, margin=number, eps=np.float64(1e-6)),
        lambda x: info_nce(x, y, temperature=number),
    ]
    for i, loss in enumerate(losses):
        value, pull = vjp(loss, x)
        assert value.dtype == pull(np.float32(1))[0].dtype == np.float32, i


def test_a_cosine_survives_lengths_whose_squares_overflow():
    u = np.full((1, 3), 1e20, np.float32)
    loss, pull = vjp(lambda u, v: cosine_embedding_loss(u, v, np.array([1])), u, -u)
    assert loss == pytest.approx(2)
    assert cosine_embedding_loss(u, u, np.array([1])) == pytest.approx(0, abs=1e-6)
    assert np.all(np.isfinite(pull(np.float32(1))[0]))


@pytest.mark.parametrize("bins", [10, 15, 25, 49])
def test_a_confidence_on_an_edge_belongs_to_the_bin_below(bins):
    edges = np.arange(1, bins + 1) / bins
    probabilities = np.stack([edges, np.zeros(bins)], axis=1)
    assert calibration_bins(probabilities, np.zeros(bins, int), bins=bins)[0].tolist() == [1] * bins
    assert calibration_bins(np.array([[0.28, 0.2]]), np.array([0]), bins=25)[0].argmax() == 6


def test_nan_scores_name_no_winner():
    with pytest.raises(ValueError, match="accuracy: input contains nan"):
        accuracy([[np.nan, 1.0]], [0])
