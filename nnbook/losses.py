"""Losses: what a network is asked to make small, and the derivative of each beside it (chapter 2).

A loss compares what the network says with what was true, row by row, and ``reduction`` says how the rows become one
number. Argument names and order are PyTorch's. All are stable for huge logits and keep float32::

    from nnbook.backprop import vjp
    from nnbook.losses import cross_entropy

    loss, pull = vjp(cross_entropy, np.array([[1.0, 2.0, 3.0]]), np.array([2]))     # 0.41 nats
    dz, _ = pull(1.0)                                       # [[0.09, 0.24, -0.33]]: probabilities minus the truth

The second half measures what a user cares about and cannot be followed downhill: accuracy, precision, recall, F1, the
confusion matrix, and the calibration of probabilities.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from nnbook._arrays import Array, Given, checked
from nnbook.backprop import keep, primitive
from nnbook.neurons import _times, sigmoid, softplus
from nnbook.regularization import _broadcasts

# ---------------------------------------------------------------------------------------------------------------------
# From many losses to one number
# ---------------------------------------------------------------------------------------------------------------------

REDUCTIONS = ("mean", "sum", "none")


def _reduce(name, losses, reduction, allowed=REDUCTIONS, size=None):
    """Mean or sum of the losses, or all of them (:eq:`eq-reduction`). A weighted mean divides by the sum of weights."""
    if reduction == "mean":
        if np.size(losses) == 0:
            raise ValueError(f"{name}: an empty batch has no mean (losses of shape {np.shape(losses)})")
        if size is not None and not size > 0:
            raise ValueError(f"{name}: every label is ignored or has weight 0, so there is nothing to take a mean of")
        return np.add.reduce(losses, axis=None) / (np.size(losses) if size is None else size)
    if reduction == "sum":
        return np.add.reduce(losses, axis=None)
    if reduction == "none":
        return losses
    raise ValueError(f"{name}: reduction must be one of {', '.join(map(repr, allowed))}, not {reduction!r}")


def _each(dy, size, reduction):
    """The derivative by each single loss: what :func:`_reduce` divided by, its VJP divides by as well."""
    return dy / size if reduction == "mean" else dy


# ---------------------------------------------------------------------------------------------------------------------
# Regression: which number stands for many
# ---------------------------------------------------------------------------------------------------------------------


def _residual(name, input, target):
    """``input - target``. Broadcasting is refused: (N, 1) against (N,) would quietly give an (N, N) loss."""
    _same_shape(name, "input", input, "target", target)
    return input - target


def _same_shape(name, one, a, other, b):
    if np.shape(a) != np.shape(b):
        raise ValueError(f"{name}: {one} has shape {np.shape(a)}, {other} has shape {np.shape(b)}; they must agree")


@primitive
def mse_loss(input, target, *, reduction="mean"):
    """Squared error ``(input - target) ** 2`` (:eq:`eq-mse_loss`). Its best constant is the mean.

    Args:
        input: (...), predictions.
        target: (...), the same shape.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or (...) for ``"none"``; the unit of the target, squared.

    Raises:
        ValueError: the shapes differ, an empty batch has no mean, or there is no such reduction.

    There is no factor 1/2, so the derivative has a factor 2. PyTorch: ``torch.nn.functional.mse_loss``, which
    broadcasts with a warning.
    """
    error = _residual("mse_loss", input, target)
    return _reduce("mse_loss", error * error, reduction), error


@mse_loss.defvjp
def mse_loss_vjp(dy, error, input, target, *, reduction="mean"):
    """:eq:`eq-mse_loss-vjp`."""
    dx = _each(dy, np.size(error), reduction) * 2 * error
    return dx, lambda: -dx


@primitive
def l1_loss(input, target, *, reduction="mean"):
    """Absolute error ``|input - target|`` (:eq:`eq-l1_loss`). Its best constant is the median.

    Args, Returns, Raises: as for :func:`mse_loss`; the unit is the target's.

    At the kink ``input = target`` the derivative is taken as 0, as PyTorch does.

    PyTorch: ``torch.nn.functional.l1_loss``, which broadcasts with a warning.
    """
    error = _residual("l1_loss", input, target)
    return _reduce("l1_loss", np.abs(error), reduction), error


@l1_loss.defvjp
def l1_loss_vjp(dy, error, input, target, *, reduction="mean"):
    """:eq:`eq-l1_loss-vjp`."""
    dx = _each(dy, np.size(error), reduction) * np.sign(error)
    return dx, lambda: -dx


@primitive
def huber_loss(input, target, *, reduction="mean", delta=1.0):
    """Quadratic up to ``delta``, linear beyond (:eq:`eq-huber_loss`): mean for large ``delta``, median for small.

    Args:
        input: (...), predictions.
        target: (...), the same shape.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        delta: where the parabola ends, in the unit of the target.

    Returns:
        A scalar, or (...) for ``"none"``.

    Raises:
        ValueError: as for :func:`mse_loss`, or ``delta`` is not positive.

    Smooth once, with a jump of the second derivative at ``delta``. PyTorch: ``torch.nn.functional.huber_loss``;
    ``smooth_l1_loss`` is this one divided by its ``beta``. Source: :cite:`huber1964`.
    """
    if not delta > 0:
        raise ValueError(f"huber_loss: delta must be positive, not {delta}")
    error = _residual("huber_loss", input, target)
    size = np.abs(error)
    clipped = np.minimum(size, delta)  # one formula for both branches: c (|e| - c / 2)
    return _reduce("huber_loss", clipped * (size - clipped / 2), reduction), error


@huber_loss.defvjp
def huber_loss_vjp(dy, error, input, target, *, reduction="mean", delta=1.0):
    """:eq:`eq-huber_loss-vjp`: the error itself, clipped."""
    dx = _each(dy, np.size(error), reduction) * np.clip(error, -delta, delta)
    return dx, lambda: -dx


@primitive
def quantile_loss(input, target, *, quantile=0.5, reduction="mean"):
    """Pinball loss (:eq:`eq-quantile_loss`): its best constant is the given quantile of the targets.

    Being too low by 1 costs ``quantile``, being too high by 1 costs ``1 - quantile``.

    Args:
        input: (...), predictions.
        target: (...), the same shape.
        quantile: between 0 and 1, both excluded. 0.5 is half the absolute error.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or (...) for ``"none"``; the unit of the target.

    Raises:
        ValueError: as for :func:`mse_loss`, or ``quantile`` is out of range.

    At the kink ``input = target`` the derivative is the mean of both sides, ``1/2 - quantile``. PyTorch has no such
    function; composed of ``torch.maximum`` it has the same derivative at the kink. Source: :cite:`koenker1978`.
    """
    if not 0 < quantile < 1:
        raise ValueError(f"quantile_loss: quantile must lie between 0 and 1, not {quantile}")
    error = _residual("quantile_loss", input, target)
    slope = np.sign(error) / 2 + (0.5 - quantile)  # 1 - quantile above the target, -quantile below
    return _reduce("quantile_loss", slope * error, reduction), slope


@quantile_loss.defvjp
def quantile_loss_vjp(dy, slope, input, target, *, quantile=0.5, reduction="mean"):
    """:eq:`eq-quantile_loss-vjp`."""
    dx = _each(dy, np.size(slope), reduction) * slope
    return dx, lambda: -dx


# ---------------------------------------------------------------------------------------------------------------------
# Classification: how surprising was the truth
# ---------------------------------------------------------------------------------------------------------------------


@primitive
def binary_cross_entropy_with_logits(input, target, weight=None, pos_weight=None, *, reduction="mean"):
    """Surprise of a yes or no, in nats, from the logit of yes (:eq:`eq-binary_cross_entropy_with_logits`).

    Args:
        input: (...), logits.
        target: (...), 0 or 1, or a probability of yes between them.
        weight: what each loss is multiplied by, >= 0, of a shape that broadcasts to that of ``input``. ``None`` for 1.
            What has weight 0 is left out, whatever its logit is.
        pos_weight: what the surprise of a yes is multiplied by, >= 0, of such a shape too: (C,) for one number a
            column. ``None`` for 1.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``. The mean divides by the number of entries, not by their weight.

    Returns:
        A scalar, or (...) for ``"none"``, in nats.

    Raises:
        ValueError: the shapes do not fit, a target lies outside [0, 1], a weight is negative or not finite, an empty
            batch has no mean, or there is no such reduction.

    For an infinite logit the value is the limit: 0 if it is right for certain, infinite otherwise. The weights have no
    derivative. PyTorch: ``torch.nn.functional.binary_cross_entropy_with_logits``, which gives nan there, takes targets
    of floats only and does not check their range.
    """
    name = "binary_cross_entropy_with_logits"
    _same_shape(name, "input", input, "target", target)
    if np.size(target) and not (np.min(target) >= 0 and np.max(target) <= 1):
        raise ValueError(f"{name}: targets must lie in [0, 1], not in [{np.min(target)}, {np.max(target)}]")
    for what, numbers in (("weight", weight), ("pos_weight", pos_weight)):
        fits = _broadcasts(np.shape(numbers), np.shape(input))
        _check_weight(name, what, numbers, fits, f"what broadcasts to the input's {np.shape(input)}")
    yes, no, both = _yes_and_no(target, weight, pos_weight)
    size = np.abs(input)
    losses = _times(size, np.where(input > 0, no, yes)) + _weighted(np.log1p(np.exp(-size)), both)
    return _reduce(name, losses, reduction), None


@binary_cross_entropy_with_logits.defvjp
def binary_cross_entropy_with_logits_vjp(dy, saved, input, target, weight=None, pos_weight=None, *, reduction="mean"):
    """:eq:`eq-binary_cross_entropy_with_logits-vjp`: the probability minus the truth."""
    dy = _each(dy, np.size(input), reduction)
    yes, _, both = _yes_and_no(target, weight, pos_weight)

    def dtarget():
        rise = -input if pos_weight is None else _weighted(softplus(-input), pos_weight) - softplus(input)
        return dy * _weighted(rise, weight)

    return lambda: dy * (_weighted(sigmoid(input), both) - yes), dtarget, None, None


def _yes_and_no(target, weight, pos_weight):
    """What the surprise of a yes is multiplied by, that of a no, and the sum of both, ``None`` for 1."""
    if weight is None and pos_weight is None:
        return target, 1 - target, None
    yes, no = _weighted(_weighted(target, pos_weight), weight), _weighted(1 - target, weight)
    return yes, no, yes + no


def _weighted(a, weight):
    """``a * weight``, where a weight of 0 leaves out whatever stands there; ``None`` is a weight of 1."""
    return a if weight is None else _times(a, weight)


def _check_weight(name, what, weight, fits, expected):
    if weight is None:
        return
    if not fits:
        raise ValueError(f"{name}: {what} has shape {np.shape(weight)}, expected {expected}")
    if not np.all((weight >= 0) & np.isfinite(weight)):
        raise ValueError(f"{name}: {what} must be finite and >= 0, not {weight}")


@primitive
def cross_entropy(
    logits, labels: Given, weight=None, *, ignore_index: int = -100, reduction="mean", label_smoothing=0.0
):
    """Surprise of the true class, in nats, from logits: softmax and its logarithm in one (:eq:`eq-cross_entropy`).

    Args:
        logits: (N, C), or (C,) for a single row, or (N, C, d1, ...) for many labels an example. C classes.
        labels: the shape of ``logits`` without C, integers from 0 to C - 1 or ``ignore_index``; or probabilities of the
            shape of ``logits``.
        weight: (C,), >= 0, what the surprise of each class is multiplied by. ``None`` for 1.
        ignore_index: the label of what is left out, whatever its logits are; it need not be the number of a class.
            Probabilities as labels leave nothing out.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``. With integer labels the mean divides by the weights of the
            labels that count, with probabilities by the number of rows.
        label_smoothing: the share of the truth, 0 to 1, that is spread evenly over all classes
            (:eq:`eq-label-smoothing`), before the weights.

    Returns:
        A scalar, or one loss a label for ``"none"``, in nats; 0 for what is left out.

    Raises:
        ValueError: a label is out of range, the shapes do not fit, a number lies outside [0, 1], a weight is negative
            or not finite, a batch in which no label counts has no mean, or there is no such reduction.

    A logit of -inf is a class ruled out; if it was the true one, the loss is infinite. Integer labels and weights have
    no derivative. PyTorch: ``torch.nn.functional.cross_entropy``, which gives nan for a mean over nothing and, in the
    gradient, for what is ignored if its logits are nan. Source of label smoothing: :cite:`szegedy2016`.
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing must lie in [0, 1], not {label_smoothing}")
    z, truth, share, size = _truth(logits, labels, weight, ignore_index, label_smoothing)
    z = z - np.maximum.reduce(z, axis=1, keepdims=True)
    e = np.exp(z)
    total = np.add.reduce(e, axis=1, keepdims=True)
    if truth.ndim == 2:
        losses = -_times(z - np.log(total), truth).sum(1)
    else:
        losses = _weighted(np.log(total[:, 0]) - z[np.arange(len(truth)), truth], share)
    losses = losses.reshape(_without_classes(logits.shape))
    return _reduce("cross_entropy", losses, reduction, size=size), (z, e, total, truth, share, size)


@cross_entropy.defvjp
def cross_entropy_vjp(
    dy, saved, logits, labels, weight=None, *, ignore_index=-100, reduction="mean", label_smoothing=0.0
):
    """:eq:`eq-cross_entropy-vjp`: the probabilities minus the truth."""
    z, e, total, truth, share, size = saved
    rows = len(e)
    dy = np.reshape(_each(dy, rows if size is None else size, reduction), (-1, 1))
    p = e / total
    if truth.ndim == 1:
        p[np.arange(rows), truth] -= 1
        p *= dy if share is None else dy * share[:, None]
        return _from_rows(p, logits), None, None
    mass = truth.sum(1, keepdims=True)
    dz = dy * keep(p * mass - truth, mass > 0)
    if not _soft(logits, labels):
        return _from_rows(dz, logits), None, None
    return (
        _from_rows(dz, logits),
        lambda: _from_rows(dy * (label_smoothing - 1) * _weighted(z - np.log(total), weight), labels),
        None,
    )


def _soft(logits, labels):
    """Whether the labels are probabilities rather than class numbers."""
    return np.shape(labels) == np.shape(logits) != () and labels.dtype.kind == "f"


def _truth(logits, labels, weight, ignore_index, label_smoothing):
    """The logits as rows; the class of each row, or how much each class counts; a weight a row; their sum."""
    if _soft(logits, labels):
        z, q = _soft_rows(logits, labels, weight, ignore_index)
        return z, _weighted(_smoothed(q, label_smoothing), weight), None, None
    z, y, share = _class_rows("cross_entropy", logits, labels, weight, ignore_index)
    size = None if share is None else np.add.reduce(share)
    if not label_smoothing:
        return _left_out(z, share), y, share, size
    q = np.zeros_like(z)
    q[np.arange(len(y)), y] = 1
    q = _weighted(_smoothed(q, label_smoothing), weight)
    q[np.ravel(labels) == ignore_index] = 0
    return _left_out(z, q.sum(1)), q, None, size


def _soft_rows(logits, labels, weight, ignore_index):
    if ignore_index >= 0:
        raise ValueError(f"cross_entropy: probabilities as labels leave nothing out, so no ignore_index={ignore_index}")
    if labels.size and not (labels.min() >= 0 and labels.max() <= 1):
        raise ValueError(
            f"cross_entropy: probabilities as labels must lie in [0, 1], not in [{labels.min()}, {labels.max()}]"
        )
    z = _rows("cross_entropy", logits)
    _check_weight("cross_entropy", "weight", weight, np.shape(weight) == z.shape[1:], f"({z.shape[1]},)")
    return z, _rows("cross_entropy", labels)


def _class_rows(name, scores, labels, weight=None, ignore_index=None):
    """Scores as rows, their classes (0 for what is ignored), and the weight of each row, ``None`` for equal ones."""
    labels, shape = np.asarray(labels), np.shape(scores)
    if not shape or labels.shape != _without_classes(shape) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{name}: labels of shape {labels.shape} and dtype {labels.dtype} do not fit scores of shape {shape}: "
            "scores must be (N, C), (C,) or (N, C, d1, ...), labels integers of the same shape without C"
        )
    x, y = _rows(name, scores), labels.reshape(-1)
    classes = x.shape[1]
    ignored = np.zeros(len(y), bool) if ignore_index is None else np.equal(y, ignore_index)
    some = np.logical_or.reduce(ignored)
    y = np.where(ignored, 0, y) if some else y
    if y.size and not (np.minimum.reduce(y) >= 0 and np.maximum.reduce(y) < classes):
        raise ValueError(
            f"{name}: labels must lie in 0..{classes - 1} for {classes} classes, not in {y.min()}..{y.max()}"
        )
    _check_weight(name, "weight", weight, np.shape(weight) == (classes,), f"({classes},)")
    if weight is None and not some:
        return x, y, None
    share = (np.ones(classes, x.real.dtype) if weight is None else weight)[y]
    share[ignored] = 0
    return x, y, share


def _rows(name, x):
    """(N, C, d1, ...) as (N d1 ..., C), one row for each label."""
    x = x if x.ndim > 1 else x[None]
    if x.shape[1] == 0:
        raise ValueError(f"{name}: scores of shape {x.shape} have no class")
    return x if x.ndim == 2 else np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])


def _from_rows(rows, like):
    """The inverse of :func:`_rows`, for rows of the array ``like``."""
    if like.ndim < 3:
        return rows.reshape(like.shape)
    return np.moveaxis(rows.reshape(like.shape[0], *like.shape[2:], like.shape[1]), -1, 1)


def _without_classes(shape):
    return shape[:-1] if len(shape) < 3 else (shape[0], *shape[2:])


def _left_out(x, share):
    """Zeros for the rows of weight 0: whatever stands there, nan included, reaches neither value nor derivative."""
    return x if share is None else np.where((share == 0)[:, None], 0, x)


def _smoothed(q, label_smoothing):
    """Label smoothing (:eq:`eq-label-smoothing`): mix the truth with a guess that knows nothing."""
    return (1 - label_smoothing) * q + label_smoothing / q.shape[1] if label_smoothing else q


@primitive
def nll_loss(input, target: Given, weight=None, *, ignore_index: int = -100, reduction="mean"):
    """Negative log-likelihood: minus the log-probability of the true class (:eq:`eq-nll_loss`).

    After :func:`nnbook.neurons.log_softmax` it gives what :func:`cross_entropy` gives from the logits in one step.

    Args:
        input: (N, C), (C,) or (N, C, d1, ...), log-probabilities.
        target: the shape of ``input`` without C, integers from 0 to C - 1 or ``ignore_index``.
        weight: (C,), >= 0, a weight for each class, or ``None`` for 1.
        ignore_index: the label of what is left out.
        reduction: ``"mean"``, which divides by the weights of the labels that count, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or one loss a label for ``"none"``, in nats; 0 for what is left out.

    Raises:
        ValueError: as for :func:`cross_entropy`.

    It does not check that the input are log-probabilities: fed with probabilities, it is negative. The weights have no
    derivative. PyTorch: ``torch.nn.functional.nll_loss``.
    """
    log_p, y, share = _class_rows("nll_loss", input, target, weight, ignore_index)
    losses = _weighted(-log_p[np.arange(len(y)), y], share)
    size = None if share is None else np.add.reduce(share)
    losses = losses.reshape(_without_classes(input.shape))
    return _reduce("nll_loss", losses, reduction, size=size), (y, share, size)


@nll_loss.defvjp
def nll_loss_vjp(dy, saved, input, target, weight=None, *, ignore_index=-100, reduction="mean"):
    """:eq:`eq-nll_loss-vjp`."""
    y, share, size = saved
    dx = np.zeros_like(_rows("nll_loss", input))
    dy = np.reshape(_each(dy, len(y) if size is None else size, reduction), -1)
    dx[np.arange(len(y)), y] = -_weighted(dy, share)
    return _from_rows(dx, input), None, None


@primitive
def kl_div(input, target, *, reduction="mean", log_target=False):
    """Kullback-Leibler divergence, entry by entry ``target * (log target - input)`` (:eq:`eq-kl_div`).

    Args:
        input: (N, ...), **log**-probabilities of the model Q.
        target: (N, ...), probabilities P (log-probabilities with ``log_target``).
        reduction: ``"batchmean"`` for the divergence KL(P || Q) averaged over the N rows, ``"sum"``, ``"none"``, or
            ``"mean"``, which divides by the number of *entries* and so is not a divergence.
        log_target: whether ``target`` is in logarithms.

    Returns:
        A scalar, or (N, ...) for ``"none"``, in nats.

    Raises:
        ValueError: the shapes differ, a target lies outside [0, 1] (above 0 in logarithms), an empty batch has no mean,
            or there is no such reduction.

    An entry with target 0 contributes 0, even where ``input`` is -inf; the derivative by the target is -inf there.
    PyTorch: ``torch.nn.functional.kl_div``, which gives nan there and does not check the targets. As there, the first
    argument is the second of KL, and for an ``input`` of shape (C,) ``"batchmean"`` divides by C. Source:
    :cite:`kullback1951`.
    """
    _same_shape("kl_div", "input", input, "target", target)
    low, high = (-np.inf, 0) if log_target else (0, 1)
    if np.size(target) and not (np.min(target) >= low and np.max(target) <= high):
        kind = "log-probabilities" if log_target else "probabilities"
        raise ValueError(f"kl_div: target {kind} must lie in [{low}, {high}], not [{np.min(target)}, {np.max(target)}]")
    p = np.exp(target) if log_target else target
    q = np.where((p == 0) & (input == -np.inf), 0, input)  # what P rules out, Q may rule out as well
    ratio = (np.where(p == 0, 0, target) if log_target else np.log(np.where(p == 0, 1, p))) - q
    if reduction == "batchmean":
        return _reduce("kl_div", p * ratio, "sum") / _batch(input), (p, ratio)
    return _reduce("kl_div", p * ratio, reduction, (*REDUCTIONS, "batchmean")), (p, ratio)


@kl_div.defvjp
def kl_div_vjp(dy, saved, input, target, *, reduction="mean", log_target=False):
    """:eq:`eq-kl_div-vjp`."""
    p, ratio = saved
    dy = dy / _batch(input) if reduction == "batchmean" else _each(dy, np.size(input), reduction)
    if log_target:
        return lambda: -dy * p, lambda: dy * p * (ratio + 1)
    return lambda: -dy * p, lambda: dy * (np.where((p == 0) & ~np.isnan(ratio), -np.inf, ratio) + 1)


def _batch(input):
    """PyTorch's N of ``"batchmean"``: the size of the first axis, whatever it means."""
    shape = np.shape(input)
    if shape[:1] == (0,):
        raise ValueError(f"kl_div: an empty batch has no mean (input of shape {shape})")
    return shape[0] if shape else 1


@primitive
def focal_loss(input, target: Given, *, alpha: float | None = 0.25, gamma=2.0, reduction="mean"):
    """Binary cross-entropy times ``(1 - p_t) ** gamma``, which mutes what is easy (:eq:`eq-focal_loss`).

    Args:
        input: (...), logits.
        target: (...), 0 or 1.
        alpha: weight of the class 1, from 0 to 1; class 0 gets ``1 - alpha``. ``None`` for no weights. A class of
            weight 0 is left out.
        gamma: at least 0; 0 leaves the weighted cross-entropy.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or (...) for ``"none"``, in weighted nats.

    Raises:
        ValueError: the shapes differ, a target is neither 0 nor 1, ``alpha`` or ``gamma`` is out of range, an empty
            batch has no mean, or there is no such reduction.

    The labels have no derivative. PyTorch itself has none; torchvision's ``sigmoid_focal_loss`` is this one with
    ``reduction="none"`` unless told otherwise, ``alpha=-1`` for no weights, and targets between 0 and 1 allowed.
    Source: :cite:`lin2017focal`.
    """
    _same_shape("focal_loss", "input", input, "target", target)
    _one_of("focal_loss", target, (0, 1))
    if not (alpha is None or 0 <= alpha <= 1):
        raise ValueError(f"focal_loss: alpha must be None or lie in [0, 1], not {alpha}")
    if not gamma >= 0:
        raise ValueError(f"focal_loss: gamma must not be negative, but is {gamma}")
    s = np.where(np.equal(target, 1), input, -input)  # the logit of the true class
    of_class = None if alpha is None else np.where(np.equal(target, 1), alpha, 1 - alpha).astype(s.dtype)
    if alpha in (0, 1):
        s = np.where(of_class == 0, 0, s)  # a class without weight is left out, whatever its logits are
    wrong = sigmoid(-s)
    surprise = softplus(-s)
    weight = _weighted(wrong**gamma, of_class)
    return _reduce("focal_loss", weight * surprise, reduction), (s, wrong, surprise, weight)


@focal_loss.defvjp
def focal_loss_vjp(dy, saved, input, target, *, alpha=0.25, gamma=2.0, reduction="mean"):
    """:eq:`eq-focal_loss-vjp`."""
    s, wrong, surprise, weight = saved
    ds = -weight * (gamma * _times(surprise, sigmoid(s)) + wrong)
    return _each(dy, np.size(s), reduction) * np.where(np.equal(target, 1), ds, -ds), None


def _one_of(name, labels, allowed):
    if not np.all((np.equal(labels, allowed[0])) | np.equal(labels, allowed[1])):
        raise ValueError(f"{name}: labels must be {allowed[0]} or {allowed[1]}, not {np.unique(labels)}")


# ---------------------------------------------------------------------------------------------------------------------
# Margins: right by enough
# ---------------------------------------------------------------------------------------------------------------------


@primitive
def hinge_loss(input, target: Given, *, margin=1.0, reduction="mean"):
    """What is missing to the margin, ``max(0, margin - target * input)`` (:eq:`eq-hinge_loss`).

    Args:
        input: (...), scores, whose sign is the decision.
        target: (...), labels -1 or +1.
        margin: how far on the right side is enough.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or (...) for ``"none"``, in the unit of the scores.

    Raises:
        ValueError: the shapes differ, a label is neither -1 nor +1, an empty batch has no mean, or there is no such
            reduction.

    At the kink ``target * input = margin`` the derivative is taken as 0. The labels have no derivative. PyTorch has no
    such function (``hinge_embedding_loss`` is another one); ``torch.relu(margin - target * input)`` is the same.
    Source: :cite:`cortes1995`.
    """
    _same_shape("hinge_loss", "input", input, "target", target)
    _one_of("hinge_loss", target, (-1, 1))
    missing = margin - np.where(np.equal(target, 1), input, -input)
    return _reduce("hinge_loss", np.maximum(missing, 0), reduction), missing > 0


@hinge_loss.defvjp
def hinge_loss_vjp(dy, inside, input, target, *, margin=1.0, reduction="mean"):
    """:eq:`eq-hinge_loss-vjp`."""
    ds = _each(dy, np.size(input), reduction) * inside
    return np.where(np.equal(target, 1), -ds, ds), None


@primitive
def multi_margin_loss(input, target: Given, *, p: int = 1, margin=1.0, reduction="mean"):
    """Hinge of every wrong class against the true one, summed and divided by C (:eq:`eq-multi_margin_loss`).

    Args:
        input: (N, C) or (C,), scores.
        target: (N,) integers from 0 to C - 1, or one integer.
        p: 1, or 2 for the squared hinge.
        margin: by how much the true class must lead.
        reduction: ``"mean"`` over rows, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or one loss a row for ``"none"``.

    Raises:
        ValueError: a label is out of range, the shapes do not fit, ``p`` is neither 1 nor 2, an empty batch has no
            mean, or there is no such reduction.

    At a kink the derivative is taken as 0, as PyTorch does. PyTorch: ``torch.nn.functional.multi_margin_loss``, which
    for an empty batch returns whatever was in memory (seen in 2.13). Sources:
    Weston and Watkins :cite:`weston1999`; Crammer and Singer :cite:`crammer2001` take the worst class instead of the
    sum.
    """
    if p not in (1, 2):
        raise ValueError(f"multi_margin_loss: p must be 1 or 2, not {p}")
    if np.ndim(input) > 2:
        raise ValueError(
            f"multi_margin_loss: labels of shape {np.shape(target)} do not fit scores of shape {np.shape(input)}, "
            "expected (N, C) or (C,)"
        )
    x, y, _ = _class_rows("multi_margin_loss", input, target)
    rows = np.arange(len(y))
    missing = np.maximum(margin - x[rows, y][:, None] + x, 0)
    missing[rows, y] = 0
    losses = (missing if p == 1 else missing * missing).sum(1) / max(x.shape[1], 1)
    return _reduce("multi_margin_loss", losses.reshape(input.shape[:-1]), reduction), missing


@multi_margin_loss.defvjp
def multi_margin_loss_vjp(dy, missing, input, target, *, p=1, margin=1.0, reduction="mean"):
    """:eq:`eq-multi_margin_loss-vjp`."""
    rows, classes = missing.shape
    dx = (missing > 0).astype(missing.dtype) if p == 1 else 2 * missing
    dx *= np.reshape(_each(dy, rows, reduction), (-1, 1)) / max(classes, 1)
    dx[np.arange(rows), target] = -dx.sum(1)  # what pushes the wrong classes down pulls the true one up
    return dx.reshape(input.shape), None


# ---------------------------------------------------------------------------------------------------------------------
# Embeddings: who is near whom
# ---------------------------------------------------------------------------------------------------------------------

COSINE_EPS = 1e-12


@primitive
def cosine_embedding_loss(input1, input2, target: Given, *, margin=0.0, reduction="mean"):
    """Pull pairs to cosine 1, push others below ``margin`` (:eq:`eq-cosine_embedding_loss`).

    Args:
        input1: (N, D) or (D,), embeddings.
        input2: the same shape.
        target: (N,) or (), +1 for pairs that belong together, -1 for others.
        margin: from -1 to 1.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or one loss a pair for ``"none"``; ``1 - cos``, or ``max(0, cos - margin)``.

    Raises:
        ValueError: the shapes do not fit, a label is neither -1 nor +1, ``margin`` is out of range, an empty batch has
            no mean, or there is no such reduction.

    At the kink ``cos = margin`` the derivative is that of the side above, as PyTorch does. A vector of zeros has cosine
    0 with everything: 1e-12 is added to the squared lengths. PyTorch: ``torch.nn.functional.cosine_embedding_loss``.
    """
    if not -1 <= margin <= 1:
        raise ValueError(f"cosine_embedding_loss: margin must lie in [-1, 1], not {margin}")
    _same_shape("cosine_embedding_loss", "input1", input1, "input2", input2)
    if np.ndim(input1) not in (1, 2) or np.shape(target) != np.shape(input1)[:-1]:
        raise ValueError(
            f"cosine_embedding_loss: inputs of shape {np.shape(input1)} and target of shape {np.shape(target)} do not "
            "fit; expected (N, D) and (N,), or (D,) and ()"
        )
    _one_of("cosine_embedding_loss", target, (-1, 1))
    u, length1 = _unit(input1)
    v, length2 = _unit(input2)
    cos = (u * v).sum(-1)
    together = np.equal(target, 1)
    losses = np.where(together, 1 - cos, np.maximum(cos - margin, 0))
    slope = np.where(together, -1, cos >= margin).astype(cos.dtype)
    return _reduce("cosine_embedding_loss", losses, reduction), (u, length1, v, length2, cos, slope)


@cosine_embedding_loss.defvjp
def cosine_embedding_loss_vjp(dy, saved, input1, input2, target, *, margin=0.0, reduction="mean"):
    """:eq:`eq-cosine_embedding_loss-vjp`: at right angles to each input, so to first order lengths stay."""
    u, length1, v, length2, cos, slope = saved
    dcos = (_each(dy, np.size(cos), reduction) * slope)[..., None]
    cos = cos[..., None]
    return lambda: dcos * (v - cos * u) / length1, lambda: dcos * (u - cos * v) / length2, None


def _unit(x):
    """Rows over their lengths, and the lengths, kept away from 0. Scaled first, so that no square overflows."""
    scale = np.max(np.abs(x), -1, keepdims=True, initial=1.0)
    scaled = x / scale
    length = scale * np.sqrt((scaled * scaled).sum(-1, keepdims=True) + COSINE_EPS / scale / scale)
    return x / length, length


@primitive
def triplet_margin_loss(anchor, positive, negative, *, margin=1.0, eps=1e-6, reduction="mean"):
    """The positive must be nearer than the negative by ``margin`` (:eq:`eq-triplet_margin_loss`).

    Args:
        anchor, positive, negative: (N, D) or (D,), embeddings of one shape.
        margin: positive, in the unit of the distances, which are Euclidean.
        eps: added to every difference of coordinates, so that equal points have a distance and a derivative.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or one loss a triplet for ``"none"``.

    Raises:
        ValueError: the shapes differ, ``margin`` is not positive, an empty batch has no mean, or there is no such
            reduction.

    At the kink, where the margin is met exactly, the derivative is that of the side where it is not, and the derivative
    of a distance 0 is 0, both as PyTorch does. PyTorch: ``torch.nn.functional.triplet_margin_loss`` with ``p=2`` and
    ``swap=False``. Source: :cite:`schroff2015facenet`, with squared distances there.
    """
    if not margin > 0:
        raise ValueError(f"triplet_margin_loss: margin must be positive, not {margin}")
    _same_shape("triplet_margin_loss", "anchor", anchor, "positive", positive)
    _same_shape("triplet_margin_loss", "anchor", anchor, "negative", negative)
    if np.ndim(anchor) not in (1, 2):
        raise ValueError(f"triplet_margin_loss: expected shape (N, D) or (D,), not {np.shape(anchor)}")
    to_positive, near = _direction(anchor - positive + eps)
    to_negative, far = _direction(anchor - negative + eps)
    missing = margin + near - far
    losses = np.maximum(missing, 0)
    return _reduce("triplet_margin_loss", losses, reduction), (to_positive, to_negative, missing >= 0)


@triplet_margin_loss.defvjp
def triplet_margin_loss_vjp(dy, saved, anchor, positive, negative, *, margin=1.0, eps=1e-6, reduction="mean"):
    """:eq:`eq-triplet_margin_loss-vjp`: along the two unit vectors."""
    to_positive, to_negative, inside = saved
    dy = (_each(dy, np.size(inside), reduction) * inside)[..., None]
    return (
        lambda: _times(to_positive - to_negative, dy),
        lambda: _times(to_positive, -dy),
        lambda: _times(to_negative, dy),
    )


def _direction(difference):
    """Unit vectors along the rows, and their lengths; no direction for a length of 0."""
    length = np.sqrt((difference * difference).sum(-1))
    return difference / np.where(length == 0, 1, length)[..., None], length


@primitive
def info_nce(queries, keys, *, temperature=1.0, reduction="mean"):
    """Which key belongs to which query: cross-entropy of their similarities (:eq:`eq-info_nce`).

    Args:
        queries: (N, D), embeddings.
        keys: (N, D); key ``n`` belongs to query ``n``, the others of the batch are its negatives.
        temperature: positive; the similarities are dot products divided by it. Give rows of unit length for cosines.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or (N,) for ``"none"``, in nats. Guessing costs log N.

    Raises:
        ValueError: the shapes differ or are not (N, D), ``temperature`` is not positive, an empty batch has no mean, or
            there is no such reduction.

    PyTorch: ``cross_entropy(queries @ keys.T / temperature, torch.arange(N))``. Source: :cite:`oord2018cpc`.
    """
    if not temperature > 0:
        raise ValueError(f"info_nce: temperature must be positive, not {temperature}")
    _same_shape("info_nce", "queries", queries, "keys", keys)
    if np.ndim(queries) != 2:
        raise ValueError(f"info_nce: expected shape (N, D), not {np.shape(queries)}")
    if not len(queries):
        raise ValueError(f"info_nce: an empty batch, of shape {np.shape(queries)}, has nothing to tell apart")
    similarities = queries @ keys.T / temperature
    losses, saved = cross_entropy.forward(similarities, np.arange(len(keys)), reduction="none")
    return _reduce("info_nce", losses, reduction), (similarities, saved)


@info_nce.defvjp
def info_nce_vjp(dy, saved, queries, keys, *, temperature=1.0, reduction="mean"):
    """:eq:`eq-info_nce-vjp`: that of the cross-entropy, taken on to both factors of the similarities."""
    similarities, saved = saved
    dy = _each(dy, len(keys), reduction)
    ds = cross_entropy_vjp(dy, saved, similarities, np.arange(len(keys)), reduction="none")[0] / temperature
    return lambda: ds @ keys, lambda: ds.T @ queries


# ---------------------------------------------------------------------------------------------------------------------
# Metrics: what the user asked for
# ---------------------------------------------------------------------------------------------------------------------


@checked
def accuracy(input: Given, target: Given, *, threshold=0.0) -> float:
    """Share of right answers (:eq:`eq-accuracy`).

    Args:
        input: (N, C) scores, of which the largest wins (the first at a tie), or (N,) integer predictions. (N, 1) is a
            single score of yes, class 1, which wins above the threshold.
        target: (N,), integer labels, 0 or 1 for (N, 1).
        threshold: for (N, 1) only: 0 for logits, 0.5 for probabilities.

    Raises:
        ValueError: the shapes do not fit, a label has no score, a score is nan, or there is nothing to score.

    scikit-learn: ``accuracy_score(target, predictions)``, arguments in the other order.
    """
    predictions, target = _predictions("accuracy", input, target, threshold)
    return float(np.mean(predictions == target))


@checked
def confusion_matrix(input: Given, target: Given, *, classes: int | None = None, threshold=0.0) -> Array:
    """Counts by true class (row) and predicted class (column) (:eq:`eq-confusion_matrix`).

    Args:
        input: (N, C) scores, (N, 1) scores of yes, or (N,) integer predictions.
        target: (N,), integer labels.
        classes: how many there are, C, up to 10,000; if not given, C of the scores, 2 for scores of yes, or one more
            than the largest number that occurs.
        threshold: as for :func:`accuracy`.

    Returns:
        (C, C) integers.

    Raises:
        ValueError: as for :func:`accuracy`, a label is out of range, or there are too many classes for a table.

    scikit-learn: ``confusion_matrix(target, predictions, labels=range(classes))``.
    """
    predictions, labels = _predictions("confusion_matrix", input, target, threshold)
    if classes is None:
        classes = max(input.shape[1], 2) if input.ndim == 2 else int(max(predictions.max(), labels.max())) + 1
    if classes > 10_000:
        raise ValueError(f"confusion_matrix: {classes} classes are too many for a table")
    for what, numbers in (("predictions", predictions), ("labels", labels)):
        if numbers.min() < 0 or numbers.max() >= classes:
            raise ValueError(
                f"confusion_matrix: {what} must lie in 0..{classes - 1} for {classes} classes, not in "
                f"{numbers.min()}..{numbers.max()}"
            )
    cells = labels.astype(np.intp) * classes + predictions
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


@checked
def precision(
    input: Given,
    target: Given,
    *,
    average: Literal[None, "macro", "micro"] = None,
    classes: int | None = None,
    threshold=0.0,
):
    """Of what was called class c, the share that is (:eq:`eq-precision`).

    Args:
        input: (N, C) scores, (N, 1) scores of yes, or (N,) integer predictions.
        target: (N,), integer labels.
        average: ``None`` for one number a class, ``"macro"`` for their plain mean, ``"micro"`` to pool all counts.
        classes, threshold: as for :func:`confusion_matrix`.

    Returns:
        (C,) for ``None``, else a float. A class that was never predicted has precision 0.

    Raises:
        ValueError: as for :func:`confusion_matrix`, or ``average`` is none of these.

    scikit-learn: ``precision_score(target, predictions, labels=range(classes), average=..., zero_division=0)``.
    """
    counts = confusion_matrix(input, target, classes=classes, threshold=threshold)
    return _score(counts, average, lambda hits, called, true: (hits, called))


@checked
def recall(
    input: Given,
    target: Given,
    *,
    average: Literal[None, "macro", "micro"] = None,
    classes: int | None = None,
    threshold=0.0,
):
    """Of what is class c, the share that was found (:eq:`eq-recall`).

    Arguments and errors are as for :func:`precision`. A class that does not occur has recall 0.

    scikit-learn: ``recall_score(target, predictions, labels=range(classes), average=..., zero_division=0)``.
    """
    counts = confusion_matrix(input, target, classes=classes, threshold=threshold)
    return _score(counts, average, lambda hits, called, true: (hits, true))


@checked
def f1_score(
    input: Given,
    target: Given,
    *,
    average: Literal[None, "macro", "micro"] = None,
    classes: int | None = None,
    threshold=0.0,
):
    """Harmonic mean of precision and recall (:eq:`eq-f1_score`).

    Arguments and errors are as for :func:`precision`. A class that neither occurs nor was predicted has F1 0. The macro
    average is the mean of the classes' F1, not the F1 of the mean precision and the mean recall.

    scikit-learn: ``f1_score(target, predictions, labels=range(classes), average=..., zero_division=0)``.
    """
    counts = confusion_matrix(input, target, classes=classes, threshold=threshold)
    return _score(counts, average, lambda hits, called, true: (2 * hits, called + true))


def _score(counts, average, ratio):
    """A ratio of counts by class: ``hits`` on the diagonal, ``called`` down the columns, ``true`` along the rows."""
    above, below = ratio(np.diag(counts), counts.sum(0), counts.sum(1))
    if average == "micro":
        return float(above.sum() / below.sum())
    scores = above / np.maximum(below, 1)
    return scores if average is None else float(scores.mean())


def _predictions(name, input, target, threshold):
    """Predicted and true classes, both (N,)."""
    if input.ndim not in (1, 2) or target.shape != input.shape[:1]:
        raise ValueError(
            f"{name}: input has shape {input.shape}, target has shape {target.shape}; expected (N, C) or (N,), and (N,)"
        )
    if target.dtype.kind not in "iub" or (input.ndim == 1 and input.dtype.kind not in "iub"):
        raise ValueError(
            f"{name}: labels must be integers, not {target.dtype} (scores of shape (N, C) may be floats; input has "
            f"dtype {input.dtype})"
        )
    if input.size == 0:
        raise ValueError(f"{name}: nothing to score in input of shape {input.shape}")
    if input.ndim == 1:
        return input, target
    if np.isnan(input).any():
        raise ValueError(f"{name}: input contains nan, which has no place in an order")
    classes = max(input.shape[1], 2)
    if target.min() < 0 or target.max() >= classes:
        raise ValueError(
            f"{name}: labels must lie in 0..{classes - 1} for scores of shape {input.shape}, not in "
            f"{target.min()}..{target.max()}"
        )
    return (input.argmax(1) if input.shape[1] > 1 else (input[:, 0] > threshold).astype(np.intp)), target


@checked
def calibration_bins(probabilities, target: Given, *, bins: int = 15) -> tuple[Array, Array, Array]:
    """Confidence against accuracy, bin by bin (:eq:`eq-calibration_bins`): the reliability diagram as numbers.

    The confidence of a row is its largest probability; bin ``b`` of B takes those in ``(b / B, (b + 1) / B]``, and the
    first one 0 as well.

    Args:
        probabilities: (N, C), of all classes: for yes and no C is 2.
        target: (N,), integer labels.
        bins: B, at least 1.

    Returns:
        ``(counts, confidence, accuracy)``, each (B,): how many rows, their mean confidence and the share of them that
        is right. Both means are 0 for an empty bin.

    Raises:
        ValueError: the shapes do not fit, there is nothing to score, ``bins`` is below 1, or a number is no
            probability.
    """
    if bins < 1:
        raise ValueError(f"calibration_bins: bins must be at least 1, not {bins}")
    if probabilities.ndim != 2 or probabilities.shape[1] == 1:
        raise ValueError(
            f"calibration_bins: probabilities must have shape (N, C), with C of 2 or more, not {probabilities.shape}; "
            "for a probability p of yes give 1 - p and p"
        )
    predictions, target = _predictions("calibration_bins", probabilities, target, 0)
    if not (probabilities.min() >= 0 and probabilities.max() <= 1):
        raise ValueError(
            f"calibration_bins: probabilities must lie in [0, 1], not in [{probabilities.min()}, {probabilities.max()}]"
        )
    confidence = probabilities.max(1).astype(float)
    which = np.searchsorted(np.arange(1, bins) / bins, confidence)  # side "left": an edge b / B closes bin b - 1
    counts = np.bincount(which, minlength=bins)
    share = np.maximum(counts, 1)
    return (
        counts,
        np.bincount(which, confidence, bins) / share,
        np.bincount(which, predictions == target, bins) / share,
    )


@checked
def expected_calibration_error(probabilities, target: Given, *, bins: int = 15) -> float:
    """Mean distance of confidence and accuracy over the bins, weighted by count (:eq:`eq-expected_calibration_error`).

    Arguments and errors are as for :func:`calibration_bins`.

    Returns:
        From 0 to 1. It depends on the number of bins, and is above 0 for a finite sample even of a perfect forecaster.

    Source: :cite:`naeini2015`; 15 bins as in :cite:`guo2017calibration`.
    """
    counts, confidence, right = calibration_bins(probabilities, target, bins=bins)
    return float(counts @ np.abs(confidence - right) / counts.sum())
