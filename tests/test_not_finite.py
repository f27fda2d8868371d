"""Numbers that are not finite: what is left out reaches nothing, what counts comes out again or is refused."""

from __future__ import annotations

import inspect
import itertools
import warnings

import numpy as np
import pytest

from nnbook import losses, neurons, regularization
from nnbook.backprop import Primitive, vjp
from nnbook.losses import (
    accuracy,
    binary_cross_entropy_with_logits,
    calibration_bins,
    confusion_matrix,
    cross_entropy,
    expected_calibration_error,
    f1_score,
    focal_loss,
    kl_div,
    nll_loss,
    precision,
    recall,
    triplet_margin_loss,
)
from nnbook.neurons import log_softmax, perceptron
from nnbook.references import REFERENCES
from nnbook.regularization import (
    cutout,
    dropout,
    l1_penalty,
    l2_penalty,
    min_norm,
    mixup,
    ridge,
    shift,
)

NAN, INF = np.nan, np.inf
BAD = {"nan": NAN, "inf": INF, "-inf": -INF}
X = np.random.default_rng(5).normal(size=(4, 3))
IMAGES = np.random.default_rng(5).normal(size=(2, 3, 5))  # (N, C, d1) for the cross-entropies
MASK = np.array([[True, True, False], [False, True, True], [True, False, True], [True, True, True]])
ROWS = np.broadcast_to(np.array([[True], [False], [True], [True]]), (4, 3))
LABELS, SKIPPED = np.array([0, 2, 1, 2]), np.array([0, -100, 1, 2])
STEPS = np.array([[0, -100, 2, -100, 1], [-100, 2, 2, 0, -100]])
OF_STEPS = np.broadcast_to((STEPS != -100)[:, None], IMAGES.shape)
YES = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 1]])
WEIGHT = np.array([0.5, 1.0, 2.0])
ONLY_1 = np.array([0.0, 1.0, 0.0])  # the weight of class 0 and of class 2 is 0

# What is left out: a function of x, and where in x there is something that counts.
LEFT_OUT = {
    "dropout": (lambda x: dropout(x, MASK, p=0.5), X, MASK),
    "dropout of rows": (lambda x: dropout(x, ROWS[:, :1], p=0.2), X, ROWS),
    "cross_entropy": (lambda z: cross_entropy(z, SKIPPED), X, ROWS),
    "cross_entropy, sum": (lambda z: cross_entropy(z, SKIPPED, reduction="sum"), X, ROWS),
    "cross_entropy, none": (lambda z: cross_entropy(z, SKIPPED, reduction="none"), X, ROWS),
    "cross_entropy, a class": (lambda z: cross_entropy(z, LABELS, ignore_index=0), X, (LABELS != 0)[:, None]),
    "cross_entropy, weights": (lambda z: cross_entropy(z, SKIPPED, WEIGHT), X, ROWS),
    "cross_entropy, weight 0": (lambda z: cross_entropy(z, LABELS, ONLY_1), X, (LABELS == 1)[:, None]),
    "cross_entropy, smoothed": (lambda z: cross_entropy(z, SKIPPED, label_smoothing=0.1), X, ROWS),
    "cross_entropy, smoothed, weights": (lambda z: cross_entropy(z, SKIPPED, WEIGHT, label_smoothing=0.1), X, ROWS),
    "cross_entropy of steps": (lambda z: cross_entropy(z, STEPS), IMAGES, OF_STEPS),
    "cross_entropy of steps, none": (lambda z: cross_entropy(z, STEPS, WEIGHT, reduction="none"), IMAGES, OF_STEPS),
    "cross_entropy of one row": (lambda z: cross_entropy(z, -100, reduction="sum"), X[0], np.zeros(3, bool)),
    "nll_loss": (lambda z: nll_loss(z, SKIPPED), X, ROWS),
    "nll_loss, none": (lambda z: nll_loss(z, SKIPPED, WEIGHT, reduction="none"), X, ROWS),
    "nll_loss, weight 0": (lambda z: nll_loss(z, LABELS, ONLY_1), X, (LABELS == 1)[:, None]),
    "nll_loss of steps": (lambda z: nll_loss(z, STEPS, reduction="sum"), IMAGES, OF_STEPS),
    "binary cross-entropy, weight 0": (lambda z: binary_cross_entropy_with_logits(z, YES, MASK * 2.0), X, MASK),
    "binary cross-entropy, none": (
        lambda z: binary_cross_entropy_with_logits(z, YES, MASK * 2.0, reduction="none"),
        X,
        MASK,
    ),
    "binary cross-entropy, yes of weight 0": (
        lambda z: binary_cross_entropy_with_logits(z, YES, pos_weight=0.0),
        X,
        YES == 0,
    ),
    "binary cross-entropy, both": (lambda z: binary_cross_entropy_with_logits(z, YES, MASK * 2.0, WEIGHT), X, MASK),
    "focal_loss of class 1": (lambda z: focal_loss(z, YES, alpha=1.0), X, YES == 1),
    "focal_loss of class 0": (lambda z: focal_loss(z, YES, alpha=0.0, gamma=0.0, reduction="sum"), X, YES == 0),
    "log_softmax, nll_loss": (lambda z: nll_loss(log_softmax(z), LABELS), X, np.ones((4, 3), bool)),  # the control
}


def value_and_gradient(f, x):
    y, pull = vjp(f, x)
    return np.asarray(y), pull(np.random.default_rng(1).normal(size=np.shape(y)))[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_left_out_reaches_nothing(name, bad, dtype):
    """Neither the value nor any gradient, whose entries at what is left out are 0. No warning either."""
    f, x, counts = LEFT_OUT[name]
    x, counts = x.astype(dtype), np.broadcast_to(counts, x.shape)
    value, gradient = value_and_gradient(f, x)
    with np.errstate(all="raise"):
        found, slope = value_and_gradient(f, np.where(counts, x, dtype(BAD[bad])))
    assert np.array_equal(found, value)
    assert np.array_equal(slope, gradient)
    assert not slope[~counts].any()


@pytest.mark.parametrize("bad", BAD)
def test_a_label_left_out_does_not_reach_the_gradient_by_the_targets_of_others(bad):
    """Nor do probabilities of classes without weight, of which there is nothing to say."""
    weight = MASK * 2.0
    z = np.where(MASK, X, BAD[bad])
    targets = np.random.default_rng(2).random((4, 3))
    for pos_weight in (None, WEIGHT):
        for gradient in (
            vjp(lambda z, t: binary_cross_entropy_with_logits(z, t, weight, pos_weight), z, targets)[1](1.0)  # noqa: B023
        ):
            assert np.isfinite(gradient).all()
            assert not gradient[~MASK].any()


def test_a_row_whose_probabilities_are_all_zero_costs_nothing():
    q = np.array([[0.2, 0.3, 0.5], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
    f = lambda z: cross_entropy(z, q)  # noqa: E731
    value, gradient = value_and_gradient(f, X)
    found, slope = value_and_gradient(f, np.where(ROWS, X, NAN))
    assert found == value
    assert np.array_equal(slope, gradient)
    assert not slope[1].any()


def test_a_negative_that_is_infinitely_far_pushes_nothing():
    a, p, n = np.zeros((2, 2)), np.array([[1.0, 0.0], [2.0, 0.0]]), np.array([[0.0, 1.0], [INF, 0.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has no direction
        value, pull = vjp(triplet_margin_loss, a, p, n, reduction="sum")
    assert value == pytest.approx(1)
    for gradient in pull(1.0):
        assert np.isfinite(gradient).all()
        assert not gradient[1].any()


@pytest.mark.parametrize("bad", BAD)
def test_a_pixel_without_a_share_stays_where_it_is(bad):
    """A shift by whole pixels moves it; elsewhere it reaches its neighbours only, and a fill stays outside."""
    image = np.zeros((1, 5, 6))
    image[0, 2, 3] = BAD[bad]
    with np.errstate(all="raise"):
        moved = shift(image, (1, -2))
        halfway = shift(image, (0.5, 0))
        filled = shift(np.ones((1, 5, 6)), (0, 2), fill=0.0 if bad == "nan" else BAD[bad])
    assert np.argwhere(~np.isfinite(moved)).tolist() == [[0, 3, 1]]
    assert np.argwhere(~np.isfinite(halfway)).tolist() == [[0, 2, 3], [0, 3, 3]]
    assert np.array_equal(filled[0, :, 2:], np.ones((5, 4)))


def test_mixup_leaves_out_a_partner_without_a_share():
    """With a tiny alpha the shares are 0 or 1 to the last bit, and a mixed example is one or the other."""
    x = np.array([[1.0], [NAN], [3.0], [INF], [5.0], [6.0]])
    rng = np.random.default_rng(0)
    mixed, labels = mixup(rng, x, np.arange(6), alpha=1e-5, classes=6)
    assert np.all((labels == 0) | (labels == 1))
    assert np.array_equal(mixed, x[labels.argmax(1)], equal_nan=True)


def test_cutout_paints_over_what_is_not_finite():
    assert np.array_equal(cutout(np.random.default_rng(0), np.full((1, 3, 3), NAN), size=9), np.zeros((1, 3, 3)))


# What counts comes out again ------------------------------------------------------------------------------------------

PRIMITIVES = [
    f
    for module in (neurons, losses, regularization)
    for f in vars(module).values()
    if isinstance(f, Primitive) and f.__module__ == module.__name__
]
# With one class there is no wrong one, and here every answer is a yes.
NOTHING_COUNTS = ("all ignored", "one row ignored", "one class", "size 1", "yes of weight 0")


@pytest.mark.parametrize("f", PRIMITIVES, ids=lambda f: f.__name__)
def test_nan_comes_out_or_is_refused(f, record_property):
    """Every float argument of every case in turn, all of it nan: a nan in the value, or a ValueError."""
    count, hidden = 0, []
    for case in REFERENCES[f.__name__].cases:
        args = case.arrays(np.random.default_rng(0))
        for i, a in enumerate(args):
            if not (isinstance(a, np.ndarray) and a.dtype.kind == "f" and a.size):
                continue
            spoiled = [np.full_like(a, NAN) if k == i else b for k, b in enumerate(args)]
            count += 1
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    value = f(*spoiled, **case.static)
            except ValueError:
                continue
            if np.size(value) and not np.isnan(value).any() and not case.name.startswith(NOTHING_COUNTS):
                hidden.append(f"{case.name}: argument {i}")
    record_property("cases x arguments", count)
    assert count
    assert not hidden


@pytest.mark.parametrize("log_target", [False, True])
def test_kl_div_hides_no_nan_where_the_target_is_0(log_target):
    target = np.array([[0.0, 1.0]])
    if log_target:
        target = np.array([[-INF, 0.0]])
    each = kl_div(np.array([[NAN, -1.0]]), target, reduction="none", log_target=log_target)
    assert np.isnan(each[0, 0])
    assert each[0, 1] == 1
    value, pull = vjp(kl_div, np.array([[NAN, -1.0]]), target, log_target=log_target)
    assert np.isnan(value)
    assert np.isnan(pull(1.0)[1][0, 0])


@pytest.mark.parametrize("penalty", [l1_penalty, l2_penalty])
@pytest.mark.parametrize("bad", BAD)
def test_a_penalty_on_what_is_not_finite_is_not_finite(penalty, bad):
    assert not np.isfinite(penalty({"w": np.array([[1.0, BAD[bad]]]), "norm": {}}))


# What cannot mean anything is refused ---------------------------------------------------------------------------------

SCORES, CLASSES = np.array([[0.5, 0.5], [1.0, 0.0], [0.25, 0.75]]), np.array([0, 1, 1])
REFUSED = {
    "ridge, x": lambda bad: ridge(np.array([[1.0, bad], [2.0, 1.0]]), np.ones(2), lam=1.0),
    "ridge, y": lambda bad: ridge(np.eye(2), np.array([1.0, bad]), lam=1.0),
    "ridge, y of two columns": lambda bad: ridge(np.eye(2), np.array([[1.0, bad], [0.0, 0.0]]), lam=0.0),
    "min_norm, x": lambda bad: min_norm(np.array([[1.0, bad]]), np.ones(1)),
    "min_norm, y": lambda bad: min_norm(np.ones((1, 2)), np.array([bad])),
    "perceptron": lambda bad: perceptron(np.array([[bad], [1.0]]), np.array([0, 1])),
    "cross_entropy, weight": lambda bad: cross_entropy(X, LABELS, np.array([1.0, bad, 1.0])),
    "nll_loss, weight": lambda bad: nll_loss(X, LABELS, np.array([1.0, bad, 1.0])),
    "binary cross-entropy, weight": lambda bad: binary_cross_entropy_with_logits(X, YES, np.array([1.0, bad, 1.0])),
    "binary cross-entropy, pos_weight": lambda bad: binary_cross_entropy_with_logits(X, YES, pos_weight=bad),
    "binary cross-entropy, target": lambda bad: binary_cross_entropy_with_logits(X, np.full((4, 3), bad)),
    "cross_entropy, target": lambda bad: cross_entropy(X, np.full((4, 3), bad)),
    "kl_div, target": lambda bad: kl_div(X, np.full((4, 3), bad)),
    "calibration_bins": lambda bad: calibration_bins(np.where(SCORES == 1, bad, SCORES), CLASSES),
    "expected_calibration_error": lambda bad: expected_calibration_error(np.where(SCORES == 1, bad, SCORES), CLASSES),
    "shift": lambda bad: shift(IMAGES, (0.0, bad)),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_mean_anything_is_refused(name, bad):
    with pytest.raises(ValueError, match=r"nan|inf|finite|must lie in"):
        REFUSED[name](BAD[bad])


@pytest.mark.parametrize("metric", [accuracy, confusion_matrix, precision, recall, f1_score])
@pytest.mark.parametrize("columns", [1, 2])
def test_a_score_may_be_infinite_but_not_nan(metric, columns):
    """An infinite score has its place in an order."""
    metric(np.full((3, columns), INF), CLASSES)
    with pytest.raises(ValueError, match="input contains nan"):
        metric(np.full((3, columns), NAN), CLASSES)


def test_the_tables_of_this_file_are_about_functions_of_the_three_modules():
    """Printed, so that the counts can be quoted."""
    signatures = [inspect.signature(f) for f in PRIMITIVES]
    print(
        f"{len(PRIMITIVES)} primitives with {sum(len(s.parameters) for s in signatures)} arguments; left out: "
        f"{len(LEFT_OUT)} calls x {len(BAD)} x 2 dtypes = {len(list(itertools.product(LEFT_OUT, BAD, range(2))))}; "
        f"refused: {len(REFUSED)} x {len(BAD)} = {len(REFUSED) * len(BAD)}"
    )
    assert len(PRIMITIVES) > 30
