"""Chapter 1 as statements about mathematics: equations transcribed with loops, cases worked by hand, kinks, limits."""

import math

import numpy as np
import pytest

from nnbook.backprop import gradient_error, value_and_grad, vjp
from nnbook.neurons import (
    SELU_ALPHA,
    SELU_SCALE,
    elu,
    gelu,
    leaky_relu,
    linear,
    linear_init,
    linear_vjp,
    log_softmax,
    mlp,
    mlp_init,
    perceptron,
    prelu,
    relu,
    selu,
    sigmoid,
    silu,
    softmax,
    softplus,
    step,
    tanh,
)
from nnbook.references import REFERENCES
from nnbook.verify import verify

ACTIVATIONS = [step, sigmoid, tanh, relu, leaky_relu, elu, selu, softplus, silu, gelu]
CHAPTER = [*ACTIVATIONS, prelu, linear, softmax, log_softmax]
INF = np.inf


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def gradients(f, *args, dy=None, **static):
    """Cotangents of all arguments of ``f``, for an upstream of ``dy`` (ones if not given)."""
    y, pull = vjp(f, *args, **static)
    return pull(np.ones(np.shape(y)) if dy is None else dy)


@pytest.mark.parametrize("f", CHAPTER, ids=lambda f: f.__name__)
def test_three_ways(f):
    result = verify(f)
    assert result.ok, result.details()


# The affine part -----------------------------------------------------------------------------------------------------


def test_linear_by_hand():
    """The layer of the chapter: two neurons, two inputs, one row."""
    x, W, b = np.array([[2.0, -1.0]]), np.array([[1.0, 3.0], [-2.0, 1.0]]), np.array([0.5, 1.0])
    assert np.array_equal(linear(x, W, b), [[-0.5, -4.0]])
    dx, dW, db = gradients(linear, x, W, b, dy=np.array([[1.0, 10.0]]))
    assert np.array_equal(dx, [[-19.0, 13.0]])
    assert np.array_equal(dW, [[2.0, -1.0], [20.0, -10.0]])
    assert np.array_equal(db, [1.0, 10.0])


def test_linear_with_loops(rng):
    N, D, M = 5, 3, 4
    X, W, b, dY = (rng.normal(size=s) for s in ((N, D), (M, D), (M,), (N, M)))
    Y = np.zeros((N, M))
    dX, dW, db = np.zeros((N, D)), np.zeros((M, D)), np.zeros(M)
    for n in range(N):
        for m in range(M):
            Y[n, m] = b[m]
            for d in range(D):
                Y[n, m] += W[m, d] * X[n, d]
                dX[n, d] += dY[n, m] * W[m, d]
                dW[m, d] += dY[n, m] * X[n, d]
            db[m] += dY[n, m]
    assert np.allclose(linear(X, W, b), Y, rtol=1e-14)
    for ours, loops in zip(gradients(linear, X, W, b, dy=dY), (dX, dW, db), strict=True):
        assert np.allclose(ours, loops, rtol=1e-13)


def test_linear_computes_the_input_gradient_only_if_asked(rng):
    X, W, dY = rng.normal(size=(5, 3)), rng.normal(size=(4, 3)), rng.normal(size=(5, 4))
    dX, dW, db = linear_vjp(dY, None, X, W, None)
    assert callable(dX)
    assert callable(dW)
    assert callable(db)


def test_distance_to_the_hyperplane_by_hand():
    """w = (3, 4), b = -5: the origin lies 5/5 = 1 behind the line, (3, 4) lies 20/5 = 4 in front."""
    w, b = np.array([3.0, 4.0]), -5.0
    assert (0 + b) / np.linalg.norm(w) == -1
    assert (linear(np.array([3.0, 4.0]), w[None], np.array([b])) / np.linalg.norm(w)).item() == 4


def test_linear_layers_without_activation_are_one_linear_layer(rng):
    params = mlp_init(rng, (3, 5, 4, 2), dtype=np.float64)
    x = rng.normal(size=(6, 3))
    for layer in params.values():
        layer["bias"] = rng.normal(size=layer["bias"].shape)
    W, b = np.eye(3), np.zeros(3)
    for layer in params.values():
        W, b = layer["weight"] @ W, layer["weight"] @ b + layer["bias"]
    assert np.allclose(mlp(params, x, activation=lambda z: z), linear(x, W, b), rtol=1e-13)


def test_linear_mixed_dtypes_promote_as_numpy_does():
    x, W = np.ones((2, 3), np.float32), np.ones((4, 3), np.float32)
    assert linear(x, W, np.zeros(4)).dtype == np.float64
    assert linear(np.ones((2, 3), int), np.ones((4, 3), int), np.full(4, 0.5)).dtype == np.float64
    assert linear(x, W, np.zeros(4, np.float32)).dtype == np.float32


# Values and derivatives by hand --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("f", "x", "value", "slope"),
    [
        (sigmoid, 0.0, 0.5, 0.25),
        (sigmoid, math.log(3), 0.75, 0.1875),
        (tanh, math.log(2), 0.6, 0.64),
        (softplus, math.log(3), math.log(4), 0.75),
        (silu, math.log(3), 0.75 * math.log(3), 0.75 + 0.1875 * math.log(3)),
        (elu, -math.log(2), -0.5, 0.5),
        (selu, -math.log(2), -0.5 * SELU_SCALE * SELU_ALPHA, 0.5 * SELU_SCALE * SELU_ALPHA),
        (relu, -2.0, 0.0, 0.0),
        (relu, 2.0, 2.0, 1.0),
        (leaky_relu, -2.0, -0.02, 0.01),
        (gelu, 0.0, 0.0, 0.5),
        (gelu, 1.0, 0.8413447460685429, 0.8413447460685429 + 0.24197072451914337),
        (step, -2.0, 0.0, 0.0),
        (step, 2.0, 1.0, 0.0),
    ],
)
def test_activations_by_hand(f, x, value, slope):
    assert f(np.array(x)) == pytest.approx(value, rel=1e-14)
    assert gradients(f, np.array(x))[0] == pytest.approx(slope, rel=1e-14)


def test_activations_with_loops(rng):
    """Each definition of the chapter for one number, with the functions of the math module."""

    def phi(t):
        return math.exp(-t * t / 2) / math.sqrt(2 * math.pi)

    def Phi(t):
        return (1 + math.erf(t / math.sqrt(2))) / 2

    def logistic(t):
        return 1 / (1 + math.exp(-t))

    s, a = SELU_SCALE, SELU_ALPHA
    c, k = math.sqrt(2 / math.pi), 0.044715
    definitions = [
        (step, {}, lambda t: float(t > 0), lambda t: 0.0),
        (sigmoid, {}, logistic, lambda t: logistic(t) * (1 - logistic(t))),
        (tanh, {}, lambda t: (math.exp(t) - math.exp(-t)) / (math.exp(t) + math.exp(-t)), lambda t: math.cosh(t) ** -2),
        (relu, {}, lambda t: max(t, 0.0), lambda t: float(t > 0)),
        (leaky_relu, {"negative_slope": 0.3}, lambda t: t if t > 0 else 0.3 * t, lambda t: 1.0 if t > 0 else 0.3),
        (
            elu,
            {"alpha": 2.0},
            lambda t: t if t > 0 else 2 * (math.exp(t) - 1),
            lambda t: 1 if t > 0 else 2 * math.exp(t),
        ),
        (
            selu,
            {},
            lambda t: s * (t if t > 0 else a * (math.exp(t) - 1)),
            lambda t: s * (1 if t > 0 else a * math.exp(t)),
        ),
        (softplus, {"beta": 3.0}, lambda t: math.log(1 + math.exp(3 * t)) / 3, lambda t: logistic(3 * t)),
        (silu, {}, lambda t: t * logistic(t), lambda t: logistic(t) * (1 + t * (1 - logistic(t)))),
        (gelu, {}, lambda t: t * Phi(t), lambda t: Phi(t) + t * phi(t)),
        (
            gelu,
            {"approximate": "tanh"},
            lambda t: t / 2 * (1 + math.tanh(c * (t + k * t**3))),
            lambda t: (
                (1 + math.tanh(c * (t + k * t**3))) / 2
                + t / 2 * math.cosh(c * (t + k * t**3)) ** -2 * c * (1 + 3 * k * t**2)
            ),
        ),
    ]
    x, dy = 2 * rng.normal(size=20), rng.normal(size=20)
    for f, static, value, slope in definitions:
        assert np.allclose(f(x, **static), [value(t) for t in x], rtol=1e-13, atol=1e-15), f.__name__
        (dx,) = gradients(lambda z, f=f, static=static: f(z, **static), x, dy=dy)
        assert np.allclose(dx, [d * slope(t) for d, t in zip(dy, x, strict=True)], rtol=1e-12, atol=1e-15), f.__name__


def test_prelu_with_loops(rng):
    x, a, dy = rng.normal(size=(2, 3, 4)), rng.normal(size=3), rng.normal(size=(2, 3, 4))
    y, dx, da = np.zeros_like(x), np.zeros_like(x), np.zeros_like(a)
    for n, c, i in np.ndindex(x.shape):
        t = x[n, c, i]
        y[n, c, i] = t if t > 0 else a[c] * t
        dx[n, c, i] = dy[n, c, i] * (1 if t > 0 else a[c])
        da[c] += 0 if t > 0 else dy[n, c, i] * t
    assert np.allclose(prelu(x, a), y, rtol=1e-14)
    ours = gradients(prelu, x, a, dy=dy)
    assert np.allclose(ours[0], dx, rtol=1e-14)
    assert np.allclose(ours[1], da, rtol=1e-13)


# Identities ----------------------------------------------------------------------------------------------------------


def test_sigmoid_of_minus_x_is_one_minus_sigmoid(rng):
    x = 5 * rng.normal(size=100)
    assert np.allclose(sigmoid(-x), 1 - sigmoid(x), atol=1e-16, rtol=1e-13)


def test_tanh_is_a_stretched_sigmoid(rng):
    x = 5 * rng.normal(size=100)
    assert np.allclose(tanh(x), 2 * sigmoid(2 * x) - 1, atol=4e-16)


def test_softplus_has_the_sigmoid_as_its_derivative(rng):
    x = 5 * rng.normal(size=100)
    assert np.allclose(gradients(softplus, x)[0], sigmoid(x), rtol=1e-15)


def test_softplus_lies_above_relu_by_at_most_log_2_over_beta():
    x = np.linspace(-10, 10, 2001)
    for beta in (0.5, 1.0, 4.0, 50.0):
        gap = softplus(x, beta=beta) - relu(x)
        assert gap.min() > -1e-14
        assert gap.max() == pytest.approx(math.log(2) / beta, rel=1e-13)
        assert x[np.argmax(gap)] == 0


def test_relu_has_the_step_as_its_derivative():
    x = np.array([-2.0, -0.0, 0.0, 3.0])
    assert np.array_equal(gradients(relu, x)[0], step(x))


def test_leaky_relu_prelu_and_relu_are_one_family(rng):
    x = rng.normal(size=(4, 3))
    assert np.array_equal(leaky_relu(x, negative_slope=0.0), relu(x))
    assert np.array_equal(prelu(x, np.array([0.2])), leaky_relu(x, negative_slope=0.2))
    assert np.array_equal(prelu(x, 0.2), leaky_relu(x, negative_slope=0.2))


def test_relu_passes_positive_factors_through(rng):
    x = rng.normal(size=50)
    assert np.allclose(relu(3 * x), 3 * relu(x), rtol=1e-15)


def test_silu_and_gelu_dip_below_zero_once():
    x = np.linspace(-10, 10, 200_001)
    for f, lowest, at in ((silu, -0.27846, -1.27846), (gelu, -0.16997, -0.75179)):
        y = f(x)
        assert y.min() == pytest.approx(lowest, abs=1e-5)
        assert x[y.argmin()] == pytest.approx(at, abs=1e-4)
        assert (np.diff(np.sign(np.diff(y)), prepend=0) > 0).sum() == 1


def test_tanh_gelu_is_within_5e_4_of_the_exact_one_but_not_equal():
    x = np.linspace(-6, 6, 12_001)
    gap = np.abs(gelu(x, approximate="tanh") - gelu(x))
    assert 4e-4 < gap.max() < 5e-4


def test_selu_constants_are_the_fixed_point_of_mean_and_variance():
    """Closed form: E selu(z) = 0 and E selu(z)^2 = 1 for a standard normal z."""
    erfc = math.erfc
    alpha = -math.sqrt(2 / math.pi) / (math.exp(0.5) * erfc(math.sqrt(0.5)) - 1)
    below = math.exp(2) * erfc(math.sqrt(2)) / 2 - math.exp(0.5) * erfc(math.sqrt(0.5)) + 0.5
    assert alpha == pytest.approx(SELU_ALPHA, rel=1e-14)
    assert (0.5 + alpha**2 * below) ** -0.5 == pytest.approx(SELU_SCALE, rel=1e-14)


def test_selu_keeps_mean_0_and_variance_1_of_normal_inputs_and_not_of_others():
    half = np.linspace(0, 12, 200_001)
    density = np.exp(-(half**2) / 2) / math.sqrt(2 * math.pi)
    mean = np.trapezoid((selu(half) + selu(-half)) * density, half)
    square = np.trapezoid((selu(half) ** 2 + selu(-half) ** 2) * density, half)
    assert mean == pytest.approx(0, abs=1e-9)
    assert square == pytest.approx(1, rel=1e-9)
    coin = selu(np.array([-1.0, 1.0]))  # mean 0 and variance 1, but not normal
    assert coin.mean() == pytest.approx(-0.0303, abs=1e-4)
    assert coin.var() == pytest.approx(1.1686, abs=1e-4)


# Kinks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("f", "static", "slope"),
    [
        (step, {}, 0.0),
        (relu, {}, 0.0),
        (leaky_relu, {"negative_slope": 0.2}, 0.2),
        (elu, {"alpha": 2.0}, 2.0),
        (selu, {}, SELU_SCALE * SELU_ALPHA),
    ],
)
def test_derivative_at_the_kink_is_the_one_from_below(f, static, slope):
    for zero in (0.0, -0.0):
        x = np.array([zero])
        assert f(x, **static) == 0
        assert gradients(lambda z: f(z, **static), x)[0] == pytest.approx(slope, rel=1e-15)


def test_prelu_at_the_kink():
    dx, da = gradients(prelu, np.array([0.0, 1.0, -1.0]), np.array([0.25]))
    assert np.array_equal(dx, [0.25, 1.0, 0.25])
    assert np.array_equal(da, [-1.0])


# Extremes ------------------------------------------------------------------------------------------------------------

LIMITS = [
    (step, 0, 1, 0, 0),
    (sigmoid, 0, 1, 0, 0),
    (tanh, -1, 1, 0, 0),
    (relu, 0, INF, 0, 1),
    (leaky_relu, -INF, INF, 0.01, 1),
    (elu, -1, INF, 0, 1),
    (selu, -SELU_SCALE * SELU_ALPHA, INF, 0, SELU_SCALE),
    (softplus, 0, INF, 0, 1),
    (silu, 0, INF, 0, 1),
    (gelu, 0, INF, 0, 1),
    (lambda x: gelu(x, approximate="tanh"), 0, INF, 0, 1),
]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("f", "low", "high", "slope_low", "slope_high"), LIMITS)
def test_limits_at_the_ends_of_the_line(f, low, high, slope_low, slope_high, dtype):
    largest = np.finfo(dtype).max
    with np.errstate(all="raise", under="ignore"):
        x = np.array([-INF, INF], dtype)
        assert np.array_equal(f(x), np.array([low, high], dtype))
        assert np.array_equal(gradients(f, x, dy=np.ones(2, dtype))[0], np.array([slope_low, slope_high], dtype))
        for size in (1e4, 1e30, largest / 2):
            x = np.array([-size, size], dtype)
            y = f(x)
            (dx,) = gradients(f, x, dy=np.ones(2, dtype))
            assert y.dtype == dx.dtype == dtype
            assert np.isfinite(y).all()
            assert np.allclose(dx, [slope_low, slope_high], rtol=1e-6, atol=0)


@pytest.mark.parametrize("f", ACTIVATIONS, ids=lambda f: f.__name__)
def test_nan_is_passed_on(f):
    if f is not step:  # a comparison with nan is false
        assert np.isnan(f(np.array([np.nan]))).all()


def test_tails_keep_their_relative_accuracy():
    """Where 1 - sigmoid(40) or 1 + erf would round to nothing, the stable forms are right to the last digits."""
    assert sigmoid(-40.0) == pytest.approx(math.exp(-40), rel=1e-15)
    assert softplus(-40.0) == pytest.approx(math.exp(-40), rel=1e-15)
    assert elu(-1e-12) == pytest.approx(-1e-12 + 0.5e-24, rel=1e-15)
    assert gelu(-10.0) == pytest.approx(-5 * math.erfc(10 / math.sqrt(2)), rel=1e-13)
    assert log_softmax(np.array([0.0, -1000.0]))[1] == -1000
    assert softmax(np.array([0.0, -700.0]))[1] == pytest.approx(math.exp(-700), rel=1e-12)


@pytest.mark.parametrize("f", [*ACTIVATIONS], ids=lambda f: f.__name__)
def test_numbers_in_lists_and_plain_numbers_are_taken(f):
    assert np.allclose(f([1, -2]), [f(1.0), f(-2.0)], rtol=1e-15)
    assert f(np.float32(0.5)).dtype == np.float32


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("f", ACTIVATIONS, ids=lambda f: f.__name__)
def test_sizes_0_and_1(f, size):
    x = np.ones((2, size), np.float32)
    assert f(x).shape == x.shape
    assert gradients(f, x, dy=x)[0].shape == x.shape


def test_softplus_goes_on_where_pytorch_cuts():
    torch = pytest.importorskip("torch")
    x = np.array([20.5])
    theirs = torch.nn.functional.softplus(torch.tensor(x)).numpy()
    assert theirs == 20.5
    assert softplus(x) - 20.5 == pytest.approx(math.exp(-20.5), rel=1e-5)


@pytest.mark.parametrize(("f", "name"), [(gelu, "gelu"), (silu, "silu")])
def test_pytorch_gives_nan_at_minus_infinity_where_the_limit_is_0(f, name):
    torch = pytest.importorskip("torch")
    assert torch.isnan(getattr(torch.nn.functional, name)(torch.tensor([-INF]))).all()
    assert f(np.array([-INF])) == 0


# Softmax -------------------------------------------------------------------------------------------------------------


def test_softmax_by_hand():
    """The logits of the chapter, log 1, log 2, log 5: probabilities 1/8, 2/8, 5/8."""
    x = np.log([1.0, 2.0, 5.0])
    p = np.array([1, 2, 5]) / 8
    assert np.allclose(softmax(x), p, rtol=1e-15)
    assert np.allclose(log_softmax(x), np.log(p), rtol=1e-14)
    jacobian = np.array([[7, -2, -5], [-2, 12, -10], [-5, -10, 15]]) / 64
    assert np.allclose([gradients(softmax, x, dy=e)[0] for e in np.eye(3)], jacobian, rtol=1e-13)
    dx = gradients(softmax, x, dy=np.array([0.0, 0.0, 1.0]))[0]
    assert np.allclose(dx, np.array([-5, -10, 15]) / 64, rtol=1e-13)


def test_softmax_with_loops(rng):
    N, C = 3, 4
    x, dy = rng.normal(size=(N, C)), rng.normal(size=(N, C))
    p, dx, dx_log = np.zeros((N, C)), np.zeros((N, C)), np.zeros((N, C))
    for n in range(N):
        total = sum(math.exp(t) for t in x[n])
        for j in range(C):
            p[n, j] = math.exp(x[n, j]) / total
        for i in range(C):
            for j in range(C):
                dx[n, i] += dy[n, j] * p[n, j] * ((i == j) - p[n, i])
                dx_log[n, i] += dy[n, j] * ((i == j) - p[n, i])
    assert np.allclose(softmax(x), p, rtol=1e-14)
    assert np.allclose(log_softmax(x), np.log(p), rtol=1e-13)
    assert np.allclose(gradients(softmax, x, dy=dy)[0], dx, rtol=1e-12, atol=1e-16)
    assert np.allclose(gradients(log_softmax, x, dy=dy)[0], dx_log, rtol=1e-12, atol=1e-15)


def test_softmax_is_shift_invariant(rng):
    x = rng.normal(size=(5, 3))
    for shift in (1.0, -7.0, 1e4, rng.normal(size=(5, 1))):
        assert np.allclose(softmax(x + shift), softmax(x), rtol=1e-11)
        assert np.allclose(log_softmax(x + shift), log_softmax(x), rtol=1e-10, atol=1e-11)


def test_softmax_is_a_distribution(rng):
    p = softmax(10 * rng.normal(size=(50, 6)))
    assert (p > 0).all()
    assert np.allclose(p.sum(-1), 1, rtol=1e-15)


def test_softmax_jacobian_is_symmetric_and_has_ones_in_its_kernel(rng):
    x = rng.normal(size=6)
    J = np.array([gradients(softmax, x, dy=e)[0] for e in np.eye(6)])
    assert np.allclose(J, J.T, atol=1e-16)
    assert np.allclose(J @ np.ones(6), 0, atol=1e-16)
    assert np.linalg.eigvalsh(J).min() > -1e-16


def test_softmax_of_two_logits_is_the_sigmoid_of_their_difference(rng):
    x = rng.normal(size=(20, 2))
    assert np.allclose(softmax(x)[:, 1], sigmoid(x[:, 1] - x[:, 0]), rtol=1e-14)


def test_softmax_of_equal_logits_is_uniform():
    for value in (0.0, 1e4, -1e4):
        assert np.array_equal(softmax(np.full(4, value)), np.full(4, 0.25))


def test_softmax_of_one_class_is_1_and_has_no_slope(rng):
    x = rng.normal(size=(3, 1))
    assert np.array_equal(softmax(x), np.ones((3, 1)))
    assert np.array_equal(gradients(softmax, x, dy=rng.normal(size=(3, 1)))[0], np.zeros((3, 1)))


def test_softmax_of_hot_and_cold_logits():
    x = np.array([1.0, 2.0, 3.0])
    assert np.allclose(softmax(x / 1e6), 1 / 3, rtol=1e-5)
    assert np.allclose(softmax(x * 1e6), [0, 0, 1])


@pytest.mark.parametrize("f", [softmax, log_softmax])
def test_softmax_without_classes_is_empty(f):
    for shape in ((3, 0), (0,), (0, 0), (0, 3)):
        assert f(np.zeros(shape, np.float32)).shape == shape
        assert f(np.zeros(shape, np.float32)).dtype == np.float32
    assert f([]).shape == (0,)


@pytest.mark.parametrize("f", [softmax, log_softmax])
def test_softmax_of_a_fully_impossible_row_is_nan_as_in_pytorch(f):
    with pytest.warns(RuntimeWarning, match="invalid value"):
        assert np.isnan(f(np.array([-INF, -INF]))).all()


def test_log_softmax_of_integers():
    assert np.allclose(log_softmax([1, 2]), [-1.3132616875182228, -0.3132616875182228])


# The perceptron ------------------------------------------------------------------------------------------------------

OR = (np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), np.array([0, 1, 1, 1]))


def test_perceptron_by_hand():
    """OR in the order of the chapter's table: 1, 2, 1 and 0 mistakes in four passes, and the line x1 + x2 = 0."""
    weight, bias, mistakes = perceptron(*OR)
    assert np.array_equal(weight, [1, 1])
    assert bias == 0
    assert np.array_equal(mistakes, [1, 2, 1, 0])


@pytest.mark.parametrize("seed", range(10))
def test_perceptron_makes_at_most_r_squared_over_gamma_squared_mistakes(seed):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (200, 3))
    w, b = rng.normal(size=3), 0.2
    x = x[np.abs(x @ w + b) > 0.1 * np.linalg.norm(w)]
    labels = (x @ w + b > 0).astype(int)
    weight, bias, mistakes = perceptron(x, labels, epochs=10_000)
    assert mistakes[-1] == 0
    assert np.array_equal(step(x @ weight + bias), labels)
    # The bias is the weight of a constant input 1, so both R and gamma are those of the extended rows.
    extended, unit = np.column_stack([x, np.ones(len(x))]), np.append(w, b) / np.linalg.norm(np.append(w, b))
    R, gamma = np.linalg.norm(extended, axis=1).max(), np.abs(extended @ unit).min()
    assert mistakes.sum() <= (R / gamma) ** 2


def test_perceptron_never_settles_on_xor():
    x, _ = OR
    _, _, mistakes = perceptron(x, np.array([0, 1, 1, 0]), epochs=200)
    assert len(mistakes) == 200
    assert (mistakes > 0).all()


def test_no_linear_unit_gets_more_than_three_of_four_xor_points():
    """Over a grid of directions and thresholds; the chapter proves it for all."""
    x, xor = OR[0], np.array([0, 1, 1, 0])
    best = 0
    for angle in np.linspace(0, 2 * np.pi, 361):
        z = x @ [np.cos(angle), np.sin(angle)]
        for b in np.linspace(-2, 2, 81):
            best = max(best, int((step(z + b) == xor).sum()))
    assert best == 3


def test_two_hidden_units_compute_xor():
    params = {
        "0": {"weight": np.array([[1.0, 1.0], [1.0, 1.0]]), "bias": np.array([0.0, -1.0])},
        "2": {"weight": np.array([[1.0, -2.0]]), "bias": np.array([0.0])},
    }
    assert np.array_equal(mlp(params, OR[0])[:, 0], [0, 1, 1, 0])


@pytest.mark.parametrize(
    ("args", "static", "message"),
    [
        ((np.zeros(3), np.zeros(3)), {}, r"\(3,\).*\(3,\)"),
        ((np.zeros((3, 2)), np.zeros(4)), {}, r"\(3, 2\).*\(4,\)"),
        ((np.zeros((2, 2)), np.array([-1, 1])), {}, "labels must be 0 or 1"),
        ((np.zeros((2, 2)), np.array([0, 1])), {"epochs": 0}, "epochs must be at least 1, not 0"),
    ],
)
def test_perceptron_says_what_is_wrong(args, static, message):
    with pytest.raises(ValueError, match=message):
        perceptron(*args, **static)


# Layers --------------------------------------------------------------------------------------------------------------


def test_linear_init_draws_from_pytorchs_distribution():
    torch = pytest.importorskip("torch")
    layer = linear_init(np.random.default_rng(0), 50, 400)
    theirs = torch.nn.Linear(50, 400)
    for name in ("weight", "bias"):
        ours = layer[name]
        assert ours.shape == tuple(getattr(theirs, name).shape)
        assert ours.dtype == np.float32
        bound = np.float32(1 / math.sqrt(50))
        assert np.abs(ours).max() <= bound
        assert np.abs(ours).max() > 0.95 * bound
        assert getattr(theirs, name).abs().max().item() <= bound
        assert ours.std() == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_linear_init_without_inputs_has_bias_0():
    layer = linear_init(np.random.default_rng(0), 0, 3, dtype=np.float64)
    assert layer["weight"].shape == (3, 0)
    assert np.array_equal(layer["bias"], np.zeros(3))
    with pytest.raises(ValueError, match="-1 and 3"):
        linear_init(np.random.default_rng(0), -1, 3)


def test_mlp_init_has_he_variance_and_the_keys_of_sequential():
    torch = pytest.importorskip("torch")
    params = mlp_init(np.random.default_rng(0), (300, 200, 100, 10))
    nn = torch.nn
    twin = nn.Sequential(nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 100), nn.ReLU(), nn.Linear(100, 10))
    shapes = {f"{k}.{n}": a.shape for k, layer in params.items() for n, a in layer.items()}
    assert shapes == {k: tuple(v.shape) for k, v in twin.state_dict().items()}
    assert params["0"]["weight"].std() == pytest.approx(math.sqrt(2 / 300), rel=0.02)
    assert not params["2"]["bias"].any()
    assert mlp_init(np.random.default_rng(0), (2, 1), dtype=np.float64)["0"]["weight"].dtype == np.float64
    with pytest.raises(ValueError, match=r"at least an input and an output.* not \(3,\)"):
        mlp_init(np.random.default_rng(0), (3,))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_mlp_equals_its_pytorch_twin(rng, dtype):
    torch = pytest.importorskip("torch")
    nn = torch.nn
    params = mlp_init(rng, (4, 6, 5, 3), dtype=dtype)
    twin = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    twin = twin.to(getattr(torch, dtype))
    twin.load_state_dict({f"{k}.{n}": torch.tensor(a) for k, layer in params.items() for n, a in layer.items()})
    x = rng.normal(size=(7, 4)).astype(dtype)
    _, grads = value_and_grad(lambda p: (mlp(p, x) ** 2).sum())(params)
    (twin(torch.tensor(x)) ** 2).sum().backward()
    for name, p in twin.named_parameters():
        key, kind = name.split(".")
        assert grads[key][kind].dtype == dtype
        assert np.allclose(
            grads[key][kind], p.grad.numpy(), rtol=1e3 * np.finfo(dtype).eps, atol=1e2 * np.finfo(dtype).eps
        )


def test_mlp_with_more_than_five_layers_runs_in_order(rng):
    params = {str(2 * i): {"weight": np.array([[1.0 + i]])} for i in range(7)}
    params = dict(reversed(params.items()))
    assert mlp(params, np.ones((1, 1))) == math.factorial(7)


def test_mlp_gradient_by_numbers(rng):
    params = mlp_init(rng, (3, 4, 2), dtype=np.float64)
    x = rng.normal(size=(5, 3))
    assert gradient_error(lambda p: (mlp(p, x, activation=np.tanh) ** 2).mean(), params) < 1e-8


# Regions and depth ---------------------------------------------------------------------------------------------------


def tent(x):
    """The triangle of the chapter: 2 relu(x) - 4 relu(x - 1/2), which on [0, 1] goes 0, 1, 0."""
    return 2 * relu(x) - 4 * relu(x - 0.5)


def test_composed_tents_have_two_to_the_depth_pieces():
    x = np.linspace(0, 1, 2**12 + 1)
    y = x
    for depth in range(1, 9):
        y = tent(y)
        slopes = np.diff(y) / np.diff(x)
        assert np.allclose(np.abs(slopes), 2.0**depth)
        assert (np.diff(slopes) != 0).sum() + 1 == 2**depth


def test_relu_layer_cuts_the_line_once_per_unit(rng):
    """A hidden layer of M units is piecewise linear with at most M + 1 pieces."""
    M = 10
    w, b = rng.normal(size=M), rng.normal(size=M)
    kinks = np.sort(-b / w)
    inside = np.concatenate([kinks[:1] - 1, kinks[:-1] + np.diff(kinks) / 2, kinks[-1:] + 1])
    x = np.concatenate([inside, kinks - 1e-9, kinks + 1e-9])[:, None]
    active = linear(x, w[:, None], b) > 0
    assert len(np.unique(active, axis=0)) == M + 1


def test_every_primitive_of_the_chapter_has_a_reference():
    assert {f.__name__ for f in CHAPTER} <= REFERENCES.keys()


@pytest.mark.parametrize("f", [sigmoid, tanh, elu, selu, softplus, silu, gelu, softmax, log_softmax], ids=repr)
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64, bool])
def test_small_integers_do_not_wrap_around(f, dtype):
    x = np.array([0, 1, 1]) if dtype is bool else np.array([1, 2, 100])
    np.testing.assert_allclose(f(x.astype(dtype)), f(x.astype(float)), rtol=1e-15)


def test_the_most_negative_integer_has_a_modulus():
    assert sigmoid(np.array([-128], np.int8)) == sigmoid(np.array([-128.0]))
    assert gelu(np.array([200], np.uint8), approximate="tanh") == 200


@pytest.mark.parametrize(("f", "name"), [(leaky_relu, "negative_slope"), (elu, "alpha"), (softplus, "beta")])
def test_a_numpy_number_as_option_keeps_float32(f, name):
    y, pull = vjp(lambda x: f(x, **{name: np.float64(0.3)}), np.array([-1.0, 2.0], np.float32))
    assert y.dtype == pull(np.ones(2, np.float32))[0].dtype == np.float32


def test_what_cannot_start_a_network_is_named():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="dtype of floats, not int64"):
        linear_init(rng, 3, 2, dtype=int)
    with pytest.raises(ValueError, match=r"rng must be a numpy\.random\.Generator"):
        mlp_init(np.random, (3, 2))
    with pytest.raises(ValueError, match=r"axis must be an integer, not 1\.0"):
        softmax(np.ones((2, 2)), axis=1.0)
    for number in (np.nan, INF):
        with pytest.raises(ValueError, match="contains nan or an infinity"):
            perceptron([[number]], [1])
    with pytest.raises(ValueError, match="all >= 0"):
        mlp_init(rng, (3, -2))
    with pytest.raises(ValueError, match="the parameters have no layer"):
        mlp({}, np.ones((2, 3)))
    with pytest.raises(ValueError, match="one is called 'norm'"):
        mlp({"norm": {"weight": np.ones((2, 3))}}, np.ones((2, 3)))
    with pytest.raises(ValueError, match="no entry 'weight'"):
        mlp({"0": {"bias": np.ones(2)}}, np.ones((2, 3)))


@pytest.mark.parametrize("f", [step, sigmoid, tanh, relu, leaky_relu, elu, selu, softplus, silu, gelu], ids=repr)
@pytest.mark.parametrize("number", [3, True, np.int64(3), np.bool_(True), np.array(3)], ids=lambda x: type(x).__name__)
def test_a_whole_number_counts_as_a_float(f, number):
    y = f(number)
    assert np.result_type(y) == np.float64
    assert np.isclose(y, f(float(number)), rtol=1e-15)
