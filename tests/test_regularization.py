"""The initializations: their standard deviations are torch.nn.init's, and nothing else decides the draw."""

import math

import numpy as np
import pytest
import torch

from nnbook.regularization import (
    calculate_gain,
    fan_in_and_fan_out,
    he_normal,
    he_uniform,
    xavier_normal,
    xavier_uniform,
)

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
        (lambda rng: xavier_uniform(rng, (3, 2), gain=-1), "gain must be >= 0, not -1"),
        (lambda rng: he_uniform(rng, (3, 2), dtype=int), "float dtype, not int64"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.random.default_rng(0))
