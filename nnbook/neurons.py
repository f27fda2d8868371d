"""Neurons: an affine map, a nonlinearity, and the derivative of each beside it (chapter 1).

A layer of neurons is ``activation(linear(x, weight, bias))``. Every function here is two plain functions, the value and
its vector-Jacobian product (VJP), which takes ``dy``, the derivative of a loss by the output, to the derivatives by the
inputs. All are stable at the ends of the number line and keep float32::

    from nnbook.backprop import vjp
    from nnbook.neurons import softmax

    p, pull = vjp(softmax, np.array([1.0, 2.0, 3.0]))       # p = [0.09, 0.24, 0.67]
    (dx,) = pull(np.array([0.0, 0.0, 1.0]))                 # how the third probability answers to each logit
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from nnbook._arrays import Array, Branch, Given, checked
from nnbook.backprop import by_number, keep, primitive, unbroadcast
from nnbook.regularization import he_normal

# ---------------------------------------------------------------------------------------------------------------------
# The affine part
# ---------------------------------------------------------------------------------------------------------------------


@primitive
def linear(x, weight, bias=None):
    """A layer of affine neurons, ``x @ weight.T + bias`` (:eq:`eq-linear`).

    Args:
        x: (..., D), inputs as rows. D inputs, M neurons.
        weight: (M, D), one neuron a row.
        bias: (M,), or ``None`` for neurons without one.

    Returns:
        (..., M).

    Raises:
        ValueError: the sizes do not fit (names both shapes).

    PyTorch: ``torch.nn.functional.linear``, which also takes a weight of shape (D,).
    """
    if np.ndim(weight) != 2 or np.ndim(x) == 0 or np.shape(x)[-1] != np.shape(weight)[1]:
        raise ValueError(f"linear: x of shape {np.shape(x)} does not fit weight of shape {np.shape(weight)}, (out, in)")
    if bias is not None and np.shape(bias) != np.shape(weight)[:1]:
        raise ValueError(f"linear: bias of shape {np.shape(bias)} does not fit weight of shape {np.shape(weight)}")
    y = (_rows(x) @ weight.T).reshape(*x.shape[:-1], len(weight))
    if bias is None:
        return y, None
    if np.result_type(y, bias) != y.dtype:
        return y + bias, None
    y += bias  # in place: y is new, and at this size a second array costs as much as the sum
    return y, None


@linear.defvjp
def linear_vjp(dy, saved, x, weight, bias=None):
    """:eq:`eq-linear-vjp`. The cotangent of ``x``, the dearest of the three, is computed only if it is asked for."""
    return (
        lambda: (_rows(dy) @ weight).reshape(x.shape),
        lambda: _rows(dy).T @ _rows(x),
        lambda: _rows(dy).sum(0),
    )


def _rows(x):
    """Leading axes folded into one, so that a stack of batches costs one matrix product."""
    return x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


# ---------------------------------------------------------------------------------------------------------------------
# Activations that squash
# ---------------------------------------------------------------------------------------------------------------------


@primitive
def step(x):
    """1 where ``x > 0``, else 0: the perceptron's output (:eq:`eq-step`).

    At the jump ``x = 0`` the value is 0. The derivative is 0 wherever there is one, and 0 is used at the jump as well,
    so nothing can be learned through a step by following gradients.

    PyTorch: ``torch.heaviside(x, torch.zeros(()))``, which refuses to be differentiated. Source:
    :cite:`rosenblatt1958`.
    """
    return np.heaviside(x, 0.0), None


@step.defvjp
def step_vjp(dy, saved, x):
    """:eq:`eq-step-vjp`."""
    return (np.zeros_like(dy),)


@primitive
def sigmoid(x):
    """The logistic function ``1 / (1 + exp(-x))`` (:eq:`eq-sigmoid`). Limits: 0 at -inf, 1 at +inf.

    PyTorch: ``torch.sigmoid``.
    """
    e = np.exp(-_modulus(x))  # never above 1, whatever the sign of x
    y = np.where(np.real(x) >= 0, 1, e) / (1 + e)
    return y, y


@sigmoid.defvjp
def sigmoid_vjp(dy, y, x):
    """:eq:`eq-sigmoid-vjp`, from the output ``y``."""
    return (dy * y * (1 - y),)


@primitive
def tanh(x):
    """Hyperbolic tangent, ``2 sigmoid(2 x) - 1`` (:eq:`eq-tanh`). Limits: -1 at -inf, 1 at +inf.

    PyTorch: ``torch.tanh``.
    """
    y = np.tanh(x)
    return y, y


@tanh.defvjp
def tanh_vjp(dy, y, x):
    """:eq:`eq-tanh-vjp`, from the output ``y``."""
    return (dy * (1 - y * y),)


# ---------------------------------------------------------------------------------------------------------------------
# Activations with a hinge
# ---------------------------------------------------------------------------------------------------------------------


@primitive
def relu(x):
    """Rectified linear unit ``max(x, 0)`` (:eq:`eq-relu`).

    At the kink ``x = 0`` the derivative is taken as 0, as PyTorch does.

    PyTorch: ``torch.relu``. Source: :cite:`nair2010`.
    """
    return np.maximum(x, 0.0), None


@relu.defvjp
def relu_vjp(dy, saved, x):
    """:eq:`eq-relu-vjp`."""
    return (keep(dy, x > 0),)


@primitive
def leaky_relu(x, *, negative_slope=0.01):
    """``x`` above 0, ``negative_slope * x`` below (:eq:`eq-leaky_relu`).

    At the kink ``x = 0`` the derivative is taken as ``negative_slope``, as PyTorch does.

    PyTorch: ``torch.nn.functional.leaky_relu``. Source: :cite:`maas2013`.
    """
    return np.maximum(x, 0) + negative_slope * np.minimum(x, 0), None


@leaky_relu.defvjp
def leaky_relu_vjp(dy, saved, x, *, negative_slope=0.01):
    """:eq:`eq-leaky_relu-vjp`."""
    return (np.where(x > 0, dy, negative_slope * dy),)


@primitive
def prelu(x, weight):
    """A leaky ReLU whose negative slope is learned (:eq:`eq-prelu`).

    Args:
        x: (...), or (N, C, ...) with C channels on axis 1.
        weight: the slope: one for all, of shape () or (1,), or one per channel, (C,).

    Raises:
        ValueError: the number of slopes is neither 1 nor the number of channels (names both shapes).

    At the kink ``x = 0`` the derivative by ``x`` is taken as the slope, as PyTorch does.

    PyTorch: ``torch.nn.functional.prelu``. Source: :cite:`he2015`.
    """
    return np.maximum(x, 0) + _by_channel(weight, x) * np.minimum(x, 0), None


@prelu.defvjp
def prelu_vjp(dy, saved, x, weight):
    """:eq:`eq-prelu-vjp`. A slope shared by many entries collects the sum of their cotangents."""
    slope = _by_channel(weight, x)
    return (
        lambda: np.where(x > 0, dy, slope * dy),
        lambda: unbroadcast(dy * np.minimum(x, 0), np.shape(slope)).reshape(np.shape(weight)),
    )


def _by_channel(weight, x):
    """The slopes in a shape that lines them up with axis 1 of ``x``."""
    channels = np.shape(x)[1] if np.ndim(x) > 1 else 1
    if np.ndim(weight) > 1 or np.size(weight) not in (1, channels):
        raise ValueError(
            f"prelu: weight of shape {np.shape(weight)} must hold 1 slope, or one for each of the channels on axis 1 "
            f"of x, which has shape {np.shape(x)}"
        )
    if np.ndim(weight) == 0:
        return weight
    return weight.reshape(() if np.ndim(x) == 0 else (weight.size,) + (1,) * (np.ndim(x) - 2))


# ---------------------------------------------------------------------------------------------------------------------
# Smooth relatives of the ReLU
# ---------------------------------------------------------------------------------------------------------------------


@primitive
def elu(x, *, alpha=1.0):
    """Exponential linear unit: ``x`` above 0, ``alpha (exp(x) - 1)`` below (:eq:`eq-elu`). Limit ``-alpha`` at -inf.

    At ``x = 0`` the derivative is taken as ``alpha``, as PyTorch does; for ``alpha = 1`` there is no kink.

    PyTorch: ``torch.nn.functional.elu``. Source: :cite:`clevert2016`.
    """
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))), None


@elu.defvjp
def elu_vjp(dy, saved, x, *, alpha=1.0):
    """:eq:`eq-elu-vjp`."""
    return (np.where(x > 0, dy, dy * (alpha * np.exp(np.minimum(x, 0)))),)


SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946


@primitive
def selu(x):
    """``scale * elu(x, alpha)``, which keeps mean 0 and variance 1 of *normal* inputs (:eq:`eq-selu`).

    At the kink ``x = 0`` the derivative is taken as ``scale * alpha``, as PyTorch does.

    PyTorch: ``torch.selu``. Source: :cite:`klambauer2017`.
    """
    return SELU_SCALE * elu(x, alpha=SELU_ALPHA), None


@selu.defvjp
def selu_vjp(dy, saved, x):
    """:eq:`eq-selu-vjp`."""
    return elu_vjp(SELU_SCALE * dy, None, x, alpha=SELU_ALPHA)


@primitive
def softplus(x, *, beta=1.0):
    """Smooth ReLU ``log(1 + exp(beta x)) / beta`` (:eq:`eq-softplus`). Limits: 0 at -inf, the line ``x`` at +inf.

    Raises:
        ValueError: ``beta`` is not positive.

    PyTorch: ``torch.nn.functional.softplus``, which cuts over to ``x`` itself where ``beta x > 20`` and so is wrong
    there by up to 2e-9. Source: :cite:`dugas2001`.
    """
    if not beta > 0:
        raise ValueError(f"softplus: beta must be positive, not {beta}")
    z = beta * x
    return np.maximum(x, 0) + np.log1p(np.exp(-_modulus(z))) / beta, None


@softplus.defvjp
def softplus_vjp(dy, saved, x, *, beta=1.0):
    """:eq:`eq-softplus-vjp`."""
    return (dy * sigmoid(beta * x),)


@primitive
def silu(x):
    """``x * sigmoid(x)``, also called swish (:eq:`eq-silu`). Limits: 0 at -inf, the line ``x`` at +inf.

    PyTorch: ``torch.nn.functional.silu``, which gives nan at -inf. Sources: :cite:`elfwing2018`,
    :cite:`ramachandran2017`.
    """
    gate = sigmoid(x)
    return _times(x, gate), gate


@silu.defvjp
def silu_vjp(dy, gate, x):
    """:eq:`eq-silu-vjp`."""
    return (dy * (gate + _times(x, gate * (1 - gate))),)


@primitive
def gelu(x, *, approximate: Literal["none", "tanh"] = "none"):
    """``x * Phi(x)`` with the normal distribution function ``Phi`` (:eq:`eq-gelu`). Limits: 0 at -inf, ``x`` at +inf.

    Args:
        x: (...).
        approximate: ``"none"`` for ``Phi`` itself, ``"tanh"`` for the sigmoid that stands in for it.

    Raises:
        ValueError: ``approximate`` is neither.

    PyTorch: ``torch.nn.functional.gelu``, which gives nan at -inf. Source: :cite:`hendrycks2016`.
    """
    gate = _gate(x, approximate)
    return _times(x, gate), gate


@gelu.defvjp
def gelu_vjp(dy, gate, x, *, approximate="none"):
    """:eq:`eq-gelu-vjp`."""
    with np.errstate(over="ignore"):  # x * x may overflow to inf, whose exponential 0 is right
        if approximate == "none":
            slope = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
            return (dy * (gate + _times(x, slope)),)
        slope = gate * (1 - gate)
        inner = GELU_SCALE * (1 + 3 * GELU_CUBIC * _times(x, slope > 0) ** 2)
    return (dy * (gate + _times(x, slope * inner)),)


GELU_SCALE = 2 * math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715


def _gate(x, approximate):
    if approximate == "none":
        from scipy.special import erfc  # here, because importing it takes longer than the rest of nnbook

        return erfc(-math.sqrt(0.5) * x) / 2
    with np.errstate(over="ignore"):
        return sigmoid(GELU_SCALE * (x + GELU_CUBIC * x * x * x))


def _times(x, gate):
    """``x * gate`` where a gate that is shut wins over an infinite ``x``: the limit, where the product would be nan."""
    return np.where(gate == 0, 0, x) * gate


def _modulus(x):
    """``|x|``; for complex ``x`` the continuation that is analytic off the imaginary axis, for the complex step."""
    return np.where(x.real < 0, -x, x) if np.iscomplexobj(x) else np.abs(x)


# ---------------------------------------------------------------------------------------------------------------------
# The output neuron of many classes
# ---------------------------------------------------------------------------------------------------------------------


@primitive
def softmax(x, *, axis: int = -1):
    """``exp(x)`` divided by its sum along ``axis``: logits to probabilities (:eq:`eq-softmax`).

    Args:
        x: (..., C, ...), logits, C classes on ``axis``. An entry of -inf gets probability 0.
        axis: an int.

    Returns:
        The shape of ``x``; an empty array where there are no classes.

    Raises:
        ValueError: there is no such axis.

    Where all entries along the axis are -inf, or one is +inf, the result is nan, with NumPy's warning.

    PyTorch: ``torch.softmax``, whose ``dim`` is ``axis``. Source: :cite:`bridle1990`.
    """
    e = np.exp(_below_maximum(x, axis, "softmax"))
    y = e / e.sum(axis, keepdims=True)
    return y, y


@softmax.defvjp
def softmax_vjp(dy, y, x, *, axis=-1):
    """:eq:`eq-softmax-vjp`, from the output ``y``."""
    return (y * (dy - (dy * y).sum(axis, keepdims=True)),)


@primitive
def log_softmax(x, *, axis: int = -1):
    """The logarithm of :func:`softmax`, without the underflow (:eq:`eq-log_softmax`). In nats, at most 0.

    Arguments, empty arrays, errors and infinities are as for :func:`softmax`.

    PyTorch: ``torch.log_softmax``.
    """
    z = _below_maximum(x, axis, "log_softmax")
    y = z - np.log(np.exp(z).sum(axis, keepdims=True)) if np.size(z) else np.exp(z)
    return y, y


@log_softmax.defvjp
def log_softmax_vjp(dy, y, x, *, axis=-1):
    """:eq:`eq-log_softmax-vjp`, from the output ``y``."""
    return (dy - np.exp(y) * dy.sum(axis, keepdims=True),)


def _below_maximum(x, axis, name):
    """``x`` minus its maximum along ``axis``, so that the largest exponential is 1."""
    if axis not in range(-np.ndim(x), np.ndim(x)):
        raise ValueError(f"{name}: no axis {axis} in an array of shape {np.shape(x)}")
    return x - np.max(x, axis, keepdims=True) if np.size(x) else x


# ---------------------------------------------------------------------------------------------------------------------
# The perceptron
# ---------------------------------------------------------------------------------------------------------------------


@checked
def perceptron(x, labels: Given, *, epochs: int = 100) -> tuple[Array, float, Array]:
    """Train one neuron with a step: at each mistake, add or subtract the input (:eq:`eq-perceptron`).

    Starts from zero, visits the rows in their order, and stops after the first pass without a mistake. If the classes
    can be separated by a hyperplane with margin ``gamma``, there are at most ``(R / gamma)**2`` mistakes in all.

    Args:
        x: (N, D), inputs.
        labels: (N,), 0 or 1.
        epochs: at most so many passes.

    Returns:
        ``(weight, bias, mistakes)``: (D,), a number, and the count of mistakes in each pass. The rule has converged if
        the last count is 0.

    Raises:
        ValueError: the shapes do not fit, an input is not finite, a label is neither 0 nor 1, or ``epochs`` is below 1.

    Source: :cite:`rosenblatt1958`; the bound is Novikoff's :cite:`novikoff1962`.
    """
    if x.ndim != 2 or labels.shape != x.shape[:1]:
        raise ValueError(f"perceptron: x of shape {x.shape} and labels of shape {labels.shape} are not (N, D) and (N,)")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"perceptron: labels must be 0 or 1, not {np.unique(labels)}")
    if not np.isfinite(x).all():
        raise ValueError("perceptron: x contains nan or an infinity, on which no side of a hyperplane is right")
    if epochs < 1:
        raise ValueError(f"perceptron: epochs must be at least 1, not {epochs}")
    weight, bias = np.zeros(x.shape[1]), 0.0
    mistakes: list[int] = []
    while len(mistakes) < epochs:
        mistakes.append(0)
        for row, label in zip(x, labels, strict=True):
            error = float(label) - step(row @ weight + bias)
            if error:
                weight += error * row
                bias += float(error)
                mistakes[-1] += 1
        if mistakes[-1] == 0:
            break
    return weight, bias, np.array(mistakes)


# ---------------------------------------------------------------------------------------------------------------------
# Layers of neurons
# ---------------------------------------------------------------------------------------------------------------------


@checked
def linear_init(rng: np.random.Generator, in_features: int, out_features: int, *, dtype=np.float32) -> dict[str, Array]:
    """Parameters of :func:`linear`, uniform within ``1 / sqrt(in_features)`` of 0 (:eq:`eq-linear_init`).

    Args:
        rng: the source of randomness.
        in_features, out_features: D inputs and M neurons.
        dtype: a float dtype. The draw is made in float64 and rounded.

    Returns:
        ``{"weight": (M, D), "bias": (M,)}``.

    Raises:
        ValueError: a size is negative, ``dtype`` is no float, or ``rng`` no generator.

    PyTorch: ``torch.nn.Linear(in_features, out_features)``; the same distribution, other random numbers.
    """
    if in_features < 0 or out_features < 0:
        raise ValueError(f"linear_init: sizes must be at least 0, not {in_features} and {out_features}")
    bound = 1 / math.sqrt(in_features) if in_features else 0.0
    return {
        "weight": rng.uniform(-bound, bound, (out_features, in_features)).astype(dtype),
        "bias": rng.uniform(-bound, bound, out_features).astype(dtype),
    }


@checked
def mlp_init(rng: np.random.Generator, sizes: Sequence[int], *, dtype=np.float32) -> dict[str, dict[str, Array]]:
    """Parameters of a multilayer perceptron: He-normal weights, biases zero.

    Args:
        rng: the source of randomness.
        sizes: numbers of units from the input to the output, such as ``(784, 512, 256, 10)``.
        dtype: a float dtype.

    Returns:
        ``{"0": {"weight", "bias"}, "2": {...}, ...}``, keyed as ``torch.nn.Sequential(Linear, ReLU, Linear, ...)``
        keys its linear layers.

    Raises:
        ValueError: there are fewer than two sizes, one is negative, ``dtype`` is no float, or ``rng`` no generator.

    Source of the variance: :cite:`he2015`.
    """
    if len(sizes) < 2 or min(sizes) < 0:
        raise ValueError(f"mlp_init: sizes must name at least an input and an output, all >= 0, not {tuple(sizes)}")
    return {
        str(2 * i): {"weight": he_normal(rng, (out, into), dtype=dtype), "bias": np.zeros(out, dtype)}
        for i, (into, out) in enumerate(itertools.pairwise(sizes))
    }


@checked
def mlp(params: Branch, x, activation: Callable = relu):
    """A multilayer perceptron: linear layers with an activation between each two (:eq:`eq-mlp`).

    Args:
        params: as :func:`mlp_init` returns them; a layer may lack its ``"bias"``.
        x: (..., D).
        activation: a function of one array.

    Returns:
        (..., K), the output of the last linear layer: logits, or predictions.

    Raises:
        ValueError: there is no layer, a layer has no number as its name or no weight, or the sizes do not fit.
    """
    if not params:
        raise ValueError("mlp: the parameters have no layer")
    *hidden, last = by_number(params)
    for key in hidden:
        x = activation(linear(x, params[key]["weight"], params[key].get("bias")))
    return linear(x, params[last]["weight"], params[last].get("bias"))
