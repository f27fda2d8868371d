"""Regularization: for now, the random initializations that keep signals and gradients at one scale through the layers.

Each function draws a weight of a given shape from ``rng``. Only the standard deviation differs: Xavier's balances the
forward and the backward pass of a linear layer, He's makes up for the half of the variance that a ReLU removes::

    W = he_normal(rng, (256, 784))                          # (out, in), float32
    K = he_uniform(rng, (32, 1, 3, 3), mode="fan_out")      # (out channels, in channels, height, width)
"""

from __future__ import annotations

import math

import numpy as np

Array = np.ndarray


def fan_in_and_fan_out(shape: tuple[int, ...]) -> tuple[int, int]:
    """How many inputs feed one output of a layer, and how many outputs one input feeds.

    Args:
        shape: (out, in) of a linear layer, or (out, in, k1, k2, ...) of a convolution whose kernel has k1 k2 ... taps.

    Returns:
        ``(in * k1 * k2 * ..., out * k1 * k2 * ...)``, as PyTorch counts them (stride and groups are ignored).

    Raises:
        ValueError: the shape has fewer than two axes, or a negative size.
    """
    if len(shape) < 2 or min(shape) < 0:
        raise ValueError(f"fan-in and fan-out need a shape (out, in, ...) with sizes >= 0, not {shape}")
    taps = math.prod(shape[2:])
    return shape[1] * taps, shape[0] * taps


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which a weight's standard deviation makes up for what the nonlinearity does to the variance.

    Args:
        nonlinearity: ``"linear"``, ``"sigmoid"``, ``"tanh"``, ``"relu"``, ``"leaky_relu"`` or ``"selu"``.
        param: the negative slope of ``leaky_relu``; 0.01 if not given. The others have none and ignore it.

    Returns:
        1 for linear and sigmoid, 5/3 for tanh, sqrt(2) for relu, sqrt(2 / (1 + slope^2)) for leaky_relu, 3/4 for selu:
        the numbers of ``torch.nn.init.calculate_gain``.

    Raises:
        ValueError: the nonlinearity is not one of these.
    """
    slope = 0.01 if param is None else param
    gains = {
        "linear": 1.0,
        "sigmoid": 1.0,
        "tanh": 5 / 3,
        "relu": math.sqrt(2),
        "leaky_relu": math.sqrt(2 / (1 + slope**2)),
        "selu": 3 / 4,
    }
    if nonlinearity not in gains:
        raise ValueError(f"nonlinearity must be one of {', '.join(gains)}, not {nonlinearity!r}")
    return gains[nonlinearity]


def xavier_uniform(rng: np.random.Generator, shape: tuple[int, ...], *, gain: float = 1.0, dtype=np.float32) -> Array:
    """Weights drawn uniformly from ``(-a, a)`` with ``a = gain * sqrt(6 / (fan_in + fan_out))``.

    Args:
        rng: the source of randomness.
        shape: (out, in) or (out, in, k1, k2, ...), see :func:`fan_in_and_fan_out`.
        gain: a factor for the nonlinearity that follows, see :func:`calculate_gain`.
        dtype: a float dtype. The draw is made in float64 and rounded, so float32 weights are the float64 ones rounded.

    Raises:
        ValueError: the shape has fewer than two axes, ``gain`` is negative, or ``dtype`` is not a float type.

    PyTorch: ``torch.nn.init.xavier_uniform_``; the same distribution, other numbers. Source: :cite:`glorot2010`.
    """
    return _uniform(rng, shape, _xavier_std(shape, gain), dtype)


def xavier_normal(rng: np.random.Generator, shape: tuple[int, ...], *, gain: float = 1.0, dtype=np.float32) -> Array:
    """Normal weights with mean 0 and standard deviation ``gain * sqrt(2 / (fan_in + fan_out))``.

    Arguments and errors are those of :func:`xavier_uniform`.

    PyTorch: ``torch.nn.init.xavier_normal_``; the same distribution, other random numbers. Source: :cite:`glorot2010`.
    """
    return _normal(rng, shape, _xavier_std(shape, gain), dtype)


def he_uniform(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    *,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    dtype=np.float32,
) -> Array:
    """Weights drawn uniformly from ``(-b, b)`` with ``b = gain * sqrt(3 / fan)``.

    Args:
        rng: the source of randomness.
        shape: (out, in) or (out, in, k1, k2, ...), see :func:`fan_in_and_fan_out`.
        a: the negative slope, used with ``leaky_relu``. The default 0 is the plain ReLU.
        mode: ``"fan_in"`` keeps the variance of the signals, ``"fan_out"`` that of the gradients.
        nonlinearity: what follows the layer, see :func:`calculate_gain`.
        dtype: a float dtype. The draw is made in float64 and rounded, so float32 weights are the float64 ones rounded.

    Raises:
        ValueError: the shape has fewer than two axes, ``mode`` or ``nonlinearity`` is unknown, or ``dtype`` is not a
            float type.

    PyTorch: ``torch.nn.init.kaiming_uniform_``; the same distribution, other random numbers. Source: :cite:`he2015`.
    """
    return _uniform(rng, shape, _he_std(shape, a, mode, nonlinearity), dtype)


def he_normal(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    *,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    dtype=np.float32,
) -> Array:
    """Normal weights with mean 0 and standard deviation ``gain / sqrt(fan)``.

    Arguments and errors are those of :func:`he_uniform`.

    PyTorch: ``torch.nn.init.kaiming_normal_``; the same distribution, other random numbers. Source: :cite:`he2015`.
    """
    return _normal(rng, shape, _he_std(shape, a, mode, nonlinearity), dtype)


def _xavier_std(shape, gain):
    if not gain >= 0:
        raise ValueError(f"gain must be >= 0, not {gain}")
    fans = sum(fan_in_and_fan_out(shape))
    return gain * math.sqrt(2 / fans) if fans else 0.0


def _he_std(shape, a, mode, nonlinearity):
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode must be 'fan_in' or 'fan_out', not {mode!r}")
    fan = fan_in_and_fan_out(shape)[mode == "fan_out"]
    gain = calculate_gain(nonlinearity, a)
    return gain / math.sqrt(fan) if fan else 0.0


def _uniform(rng, shape, std, dtype):
    bound = math.sqrt(3) * std  # the uniform distribution on (-b, b) has variance b^2 / 3
    return rng.uniform(-bound, bound, shape).astype(_float(dtype))


def _normal(rng, shape, std, dtype):
    return (std * rng.standard_normal(shape)).astype(_float(dtype))


def _float(dtype):
    dtype = np.dtype(dtype)
    if dtype.kind != "f":
        raise ValueError(f"weights need a float dtype, not {dtype}")
    return dtype
