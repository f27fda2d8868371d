"""The engine: what it records, what it returns, what it refuses, and that each elementary VJP is its formula."""

import gc
import itertools
import math
import sys
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nnbook import backprop
from nnbook.backprop import (
    Primitive,
    Traced,
    add,
    by_number,
    complex_step_gradient,
    concatenate,
    directional_derivative,
    divide,
    exp,
    flatten,
    getitem,
    gradient_error,
    keep,
    like,
    log,
    matmul,
    maximum,
    mean,
    minimum,
    multiply,
    negative,
    numerical_gradient,
    power,
    primitive,
    record,
    reshape,
    sqrt,
    subtract,
    transpose,
    tree_map,
    unbroadcast,
    unflatten,
    value_and_grad,
    vjp,
    where,
)

X = np.array([1.0, 2.0, 3.0])


def grad(f, *args):
    """Value and gradients of the sum of ``f``."""
    y, pull = vjp(f, *args)
    return y, *pull(np.ones(np.shape(y)))


def equal(a, b):
    np.testing.assert_array_equal(a, b)
    assert np.shape(a) == np.shape(b)


def close(a, b, rtol=1e-13):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-15)
    assert np.shape(a) == np.shape(b)


# ---------------------------------------------------------------------------------------------------------------------
# vjp
# ---------------------------------------------------------------------------------------------------------------------


def test_the_pullback_of_two_numbers_worked_by_hand():
    """z = x y + exp(x) at (2, 3): dz/dx = y + exp(x), dz/dy = x."""
    z, pull = vjp(lambda x, y: x * y + exp(x), 2.0, 3.0)
    assert z == 6 + math.exp(2)
    dx, dy = pull(10.0)
    close(dx, 10 * (3 + math.exp(2)))
    close(dy, 20.0)


def test_a_primitive_called_on_arrays_is_an_ordinary_function():
    y = exp(X)
    assert type(y) is np.ndarray
    assert y.flags.writeable
    equal(y, np.exp(X))
    assert add(1.0, 2.0) == 3.0


def test_arguments_may_be_trees_and_gradients_have_their_structure():
    params = {"layer": {"weight": np.ones((2, 3)), "bias": np.zeros(2)}, "scale": np.float32(2)}
    y, pull = vjp(lambda p, x: (x @ p["layer"]["weight"].T + p["layer"]["bias"]) * p["scale"], params, X)
    grads, dx = pull(np.array([1.0, 10.0]))
    assert list(flatten(grads)) == list(flatten(params))
    equal(grads["layer"]["weight"], 2 * np.outer([1, 10], X))
    equal(grads["layer"]["bias"], [2, 20])
    equal(grads["scale"], np.float32(66))
    assert grads["scale"].dtype == np.float32
    equal(dx, [22, 22, 22])
    equal(y, [12, 12])


def test_an_unused_argument_has_a_zero_gradient_of_its_shape_and_dtype():
    _, dx, unused = grad(lambda x, unused: 2 * x, X, np.ones((2, 2), np.float32))
    equal(dx, [2, 2, 2])
    equal(unused, np.zeros((2, 2)))
    assert unused.dtype == np.float32


@pytest.mark.parametrize("constant", [np.array([0, 2]), np.array([True, False]), 1, True, None])
def test_integers_booleans_and_none_pass_through_untraced_and_have_gradient_none(constant):
    seen = []

    def f(x, c):
        seen.append(c)
        return x.sum()

    _, dx, dc = grad(f, X, constant)
    assert seen[0] is constant
    assert dc is None
    equal(dx, [1, 1, 1])


def test_none_is_a_leaf_of_a_tree():
    _, grads = value_and_grad(lambda p: p["w"].sum() if p["bias"] is None else 0)({"w": X, "bias": None})
    assert grads["bias"] is None


def test_keyword_arguments_reach_the_function_as_they_are():
    y, pull = vjp(lambda x, *, axis, note: x.sum(axis), np.ones((2, 3)), axis=1, note="kept")
    equal(y, [3, 3])
    equal(pull(np.array([1.0, 2.0]))[0], [[1, 1, 1], [2, 2, 2]])


def test_a_function_that_ignores_its_arguments_has_zero_gradients():
    for constant in (3.0, 3, True, np.float64(3), np.array(3.0)):
        value, pull = vjp(lambda p, c=constant: c, X)
        assert value == 3 or value is True
        equal(pull(1.0)[0], np.zeros(3))


def test_the_identity_returns_the_cotangent():
    y, pull = vjp(lambda x: x, X)
    equal(y, X)
    equal(pull([1, 2, 3])[0], [1, 2, 3])


def test_no_arguments_at_all():
    assert vjp(lambda: 3.0)[1](1.0) == ()
    with pytest.raises(ValueError, match="does not depend on the parameters"):
        value_and_grad(lambda p: 1.0)({})


def test_fan_out_adds():
    """x is used three times: d(x^2 + 5x)/dx = 2x + 5."""
    equal(grad(lambda x: x * x + 5 * x, X)[1], 2 * X + 5)
    equal(grad(lambda x: x + x, X)[1], [2, 2, 2])


def test_a_diamond_is_swept_once_per_node():
    calls = []

    @primitive
    def counted(x):
        return 1 * x, None

    @counted.defvjp
    def counted_vjp(dy, saved, x):
        calls.append(dy)
        return (dy,)

    def f(x):
        a = counted(x)
        return a * a + a

    equal(grad(f, X)[1], 2 * X + 1)
    assert len(calls) == 1


def test_what_does_not_lead_to_the_result_is_not_swept():
    @primitive
    def explosive(x):
        return 1 * x, None

    @explosive.defvjp
    def explosive_vjp(dy, saved, x):
        raise AssertionError("never reached")

    def f(x):
        explosive(x)
        return 2 * x

    equal(grad(f, X)[1], [2, 2, 2])


def test_a_thunk_is_called_only_if_its_cotangent_is_needed():
    calls = []

    @primitive
    def product(x, y):
        return x * y, None

    @product.defvjp
    def product_vjp(dz, saved, x, y):
        return lambda: calls.append("x") or dz * y, lambda: calls.append("y") or dz * x

    equal(grad(lambda y: product(X, y), X)[1], X)
    assert calls == ["y"]
    grad(product, X, X)
    assert calls == ["y", "x", "y"]


def test_values_are_recorded_in_the_order_of_execution():
    steps = record(lambda x: exp(-x) * x, 1.0)
    assert [s.name for s in steps] == ["x", "negative", "exp", "multiply"]
    assert all(p < i for i, s in enumerate(steps) for p in s.parents)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_a_gradient_has_its_variables_dtype(dtype):
    y, dx = grad(lambda x: (2.5 * x + 1 / x - 3) / 2, X.astype(dtype))
    assert y.dtype == dx.dtype == dtype


def test_float32_and_float64_mix_as_in_numpy_and_each_gradient_keeps_its_own():
    y, da, db = grad(multiply, X.astype(np.float32), X)
    assert (y.dtype, da.dtype, db.dtype) == (np.float64, np.float32, np.float64)
    y, da = grad(lambda a: a * np.float64(2), X.astype(np.float32))  # a NumPy scalar promotes, a Python number does not
    assert (y.dtype, da.dtype) == (np.float64, np.float32)
    y, da = grad(lambda a: np.float32(2) * a, X.astype(np.float32))
    assert (y.dtype, da.dtype) == (np.float32, np.float32)


def test_arrays_of_any_layout_and_python_sequences_can_be_differentiated():
    equal(grad(lambda x: x * x, np.ones((4, 6))[::2, ::-1])[1], np.full((2, 6), 2.0))
    equal(grad(lambda x: x * x, [1.0, 2.0])[1], [2, 4])


# ---------------------------------------------------------------------------------------------------------------------
# What it refuses
# ---------------------------------------------------------------------------------------------------------------------


def test_a_pullback_can_be_called_once():
    _, pull = vjp(exp, X)
    pull(X)
    with pytest.raises(ValueError, match="already used"):
        pull(X)


@pytest.mark.parametrize("dy", [1.0, np.ones((3, 1)), np.ones(2)])
def test_a_cotangent_of_another_shape_is_refused_with_both_shapes(dy):
    _, pull = vjp(exp, X)
    with pytest.raises(ValueError, match=r"\(.*\).*\(3,\)"):
        pull(dy)
    equal(pull(np.ones(3))[0], np.exp(X))  # a refused cotangent costs nothing


@pytest.mark.parametrize("result", [(X, X), None, "text", {"a": 1}])
def test_a_function_must_return_one_array(result):
    with pytest.raises(ValueError, match=f"must return one array, not {type(result).__name__}"):
        vjp(lambda x: result, X)


@pytest.mark.parametrize("loss", [lambda p: p, lambda p: p.sum(keepdims=True)])
def test_a_loss_must_be_a_scalar(loss):
    with pytest.raises(ValueError, match=r"the loss must be a scalar, not an array of shape \((3|1),\)"):
        value_and_grad(loss)(X)


@pytest.mark.parametrize("leaf", ["text", object(), [{"a": 1}], np.array([1j])])
def test_only_real_numbers_can_be_differentiated_by(leaf):
    with pytest.raises(ValueError, match="give real numbers"):
        vjp(lambda x: x, leaf)


def test_a_complex_number_inside_is_an_error_not_a_warning():
    with pytest.raises(ValueError, match="multiply: a complex number entered"):
        grad(lambda x: (x * 1j).sum(), X)


def test_second_derivatives_are_refused():
    def inner(q):
        return (q * q).sum()

    with pytest.raises(ValueError, match="first order only"):
        value_and_grad(lambda p: value_and_grad(inner)(p)[0])(X)
    with pytest.raises(ValueError, match="two different traces"):
        value_and_grad(lambda p: value_and_grad(lambda q: (q * p).sum())(X)[0])(X)
    outer = []

    def leak(p):
        outer.append(p)
        return value_and_grad(lambda q: outer[0])(X)[0]

    with pytest.raises(ValueError, match="a value of another trace"):
        value_and_grad(leak)(X)


def test_inside_a_trace_plain_numbers_may_be_differentiated():
    """Gradient descent inside a loss: the inner gradient is a constant of the outer trace."""

    def loss(p):
        _, g = value_and_grad(lambda q: (q * q).sum())(p.value)
        return (p * g).sum()

    equal(value_and_grad(loss)(X)[1], 2 * X)


def test_a_value_cannot_outlive_its_trace():
    kept = []
    grad(lambda x: kept.append(x) or exp(x), X)
    with pytest.raises(ValueError, match="exp: an argument belongs to a trace that has already ended"):
        exp(kept[0])


def test_in_place_writes_are_refused():
    def assign(x):
        x[0] = 1.0

    def assign_value(x):
        x.value[0] = 1.0

    def accumulate_into_an_array(x):
        total = np.zeros(3)
        total += x

    def out(x):
        np.add(x, 1, out=np.zeros(3))

    def assign_into_an_array(x):
        a = np.zeros((2, 3))
        a[0] = x

    for f, message in (
        (assign, "written in place"),
        (assign_value, "read-only"),
        (accumulate_into_an_array, "numpy.add would write into an array"),
        (out, "numpy.add would write into an array"),
        (assign_into_an_array, "a traced value cannot become a plain array"),
    ):
        with pytest.raises(ValueError, match=message):
            vjp(f, X)


def test_augmented_assignment_makes_a_new_value():
    def f(x):
        y = x
        y += 1
        y *= x
        return y

    equal(grad(f, X)[1], 2 * X + 1)


def test_the_input_itself_stays_writable():
    x = X.copy()
    _, pull = vjp(exp, x)
    pull(X)
    x[0] = 5
    assert x[0] == 5


def test_a_traced_value_is_not_an_array_nor_a_truth_value():
    for f in (np.asarray, lambda x: np.array([x[0], 1.0]), np.array, np.ascontiguousarray):
        with pytest.raises(ValueError, match="a traced value cannot become a plain array"):
            vjp(f, X)
    for f in (lambda x: 1 if x.sum() > x[0] and x else 0, lambda x: max(x, 0), lambda x: not x):
        with pytest.raises(ValueError, match="truth value"):
            vjp(lambda x, f=f: f(x), X)
    with pytest.raises(TypeError, match="unhashable"):
        vjp(lambda x: {x}, X)


def test_a_primitive_without_a_vjp_says_so_when_it_is_needed():
    @primitive
    def bare(x):
        return 1 * x, None

    equal(bare(X), X)
    _, pull = vjp(bare, X)
    with pytest.raises(ValueError, match=r"bare has no VJP; define one with @bare\.defvjp"):
        pull(X)


def test_a_vjp_of_the_wrong_shape_is_refused_with_both_shapes():
    @primitive
    def column(x):
        return 1 * x, None

    column.defvjp(lambda dy, saved, x: (dy[:, None],))
    with pytest.raises(ValueError, match=r"column: VJP gave shape \(3, 1\) for an argument of \(3,\)"):
        grad(column, X)


def test_a_vjp_may_return_more_than_there_are_arguments_but_not_less():
    """An optional argument that was left out still has its place in the VJP's answer."""

    @primitive
    def affine(x, w, b=None):
        return x * w if b is None else x * w + b, None

    affine.defvjp(lambda dy, saved, x, w, b=None: (dy * w, dy * x, dy))
    equal(grad(lambda x: affine(x, X), X)[1], X)
    equal(grad(affine, X, X, X)[3], [1, 1, 1])
    equal(grad(lambda x: affine(x, X, None), X)[1], X)


def test_numbers_returned_by_a_readers_primitive_become_numbers_with_a_shape():
    @primitive
    def total(x):
        return float(np.sum(x)), None

    @total.defvjp
    def total_vjp(dy, saved, x):
        return (np.full(x.shape, dy),)

    @primitive
    def double(x):
        return 2.0 * x, None

    double.defvjp(lambda dy, saved, x: (float(2 * dy),))
    value, g = value_and_grad(lambda x: double(total(x)))(X)
    assert value == 12
    equal(g, [2, 2, 2])
    assert vjp(lambda x: len(total(x).shape), X)[0] == 0


# ---------------------------------------------------------------------------------------------------------------------
# Calling primitives
# ---------------------------------------------------------------------------------------------------------------------


def test_array_arguments_may_be_passed_by_keyword():
    equal(grad(lambda x: subtract(y=x, x=X), X)[1], [-1, -1, -1])
    equal(backprop.sum(x=np.ones((2, 3)), axis=0), [2, 2, 2])
    with pytest.raises(TypeError, match="sum: got an unexpected keyword argument 'axs'"):
        backprop.sum(X, axs=0)
    with pytest.raises(TypeError, match="missing"):
        add(X)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: add("a", X), "add: argument x is a str, expected numbers"),
        (lambda: add(X, {}), "add: argument y is a dict"),
        (lambda: concatenate(X, X, ["a"]), "concatenate takes its arrays one by one"),
        (lambda: grad(lambda x: x + "a", X), "add: argument y"),
    ],
)
def test_arguments_must_be_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_primitive_shows_its_name_and_keeps_its_docstring():
    assert repr(exp) == "<primitive exp>"
    assert exp.__name__ == "exp"
    assert "e ** x" in exp.__doc__
    assert isinstance(exp, Primitive)


def test_traced_values_show_their_numbers():
    seen = []
    vjp(lambda x: seen.append((repr(x), x.shape, x.ndim, x.size, x.dtype, len(x))) or x, X)
    assert seen == [("Traced([1. 2. 3.])", (3,), 1, 3, np.dtype(float), 3)]


# ---------------------------------------------------------------------------------------------------------------------
# Operators, methods and NumPy functions on traced values
# ---------------------------------------------------------------------------------------------------------------------

M = np.array([[1.0, 2.0, 0.5], [-1.0, 0.25, 3.0]])


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x + M,
        lambda x: M + x,
        lambda x: x + 1,
        lambda x: 1 + x,
        lambda x: x - M,
        lambda x: M - x,
        lambda x: 2 - x,
        lambda x: x * M,
        lambda x: M * x,
        lambda x: 3 * x,
        lambda x: x / M,
        lambda x: M / x,
        lambda x: 1 / x,
        lambda x: x**2,
        lambda x: x**-1,
        lambda x: abs(x) ** M,
        lambda x: abs(M) ** x,
        lambda x: 2**x,
        lambda x: np.float64(2) ** x,
        lambda x: x @ M.T,
        lambda x: M.T @ x,
        lambda x: [[1.0, 2.0]] @ x,
        lambda x: -x,
        abs,
        lambda x: x[1],
        lambda x: x[:, ::2],
        lambda x: x[..., None],
        lambda x: x[x > 0],
        lambda x: x[M > 0],
        lambda x: x[[0, 0, 1]],
        lambda x: x[((0, 0, 1),)],
        lambda x: x.T,
        lambda x: x.sum(),
        lambda x: x.sum(0),
        lambda x: x.sum((0, 1), keepdims=True),
        lambda x: x.mean(),
        lambda x: x.mean(axis=-1, keepdims=True),
        lambda x: x.reshape(3, 2),
        lambda x: x.reshape((3, -1)),
        lambda x: x.reshape(-1),
        lambda x: x.transpose(),
        lambda x: x.transpose(1, 0),
        lambda x: x.transpose((1, 0)),
        lambda x: sum(row * row for row in x),
        lambda x: np.sum(x, axis=1),
        lambda x: np.mean(x, 0),
        np.transpose,
        lambda x: np.add(M, x) + np.subtract(M, x) * np.multiply(x, M) + np.divide(x, M) - np.negative(x),
        lambda x: np.matmul(x, M.T),
        lambda x: np.exp(x) + np.log(np.absolute(x)) + np.sqrt(np.abs(x)) + np.power(np.abs(x), 1.5),
        lambda x: np.maximum(x, 0.3) * np.minimum(0.4, x),
        lambda x: maximum(x, 0.3) * minimum(x, 0.4),
        lambda x: where(x > 0.3, x * x, -x),
        lambda x: where(x < 0.3, 0.0, x),
        lambda x: concatenate(x, M, 2 * x, axis=-2),
        lambda x: exp(log(sqrt(x * x))),
        lambda x: negative(divide(power(x, 2), 3)),
        lambda x: transpose(reshape(getitem(x, index=0), shape=(1, 3))),
        lambda x: matmul(x, mean(x, axis=0)),
    ],
)
def test_what_works_on_arrays_works_on_traced_values(f):
    x = np.array([[1.5, -2.0, 0.7], [0.5, -0.25, 3.0]])
    y, dx = grad(f, x)
    close(y, f(x))
    numbers = numerical_gradient(lambda x: np.sum(f(x)), x)
    np.testing.assert_allclose(dx, numbers, rtol=1e-7, atol=1e-8)


def test_comparisons_leave_the_tape_in_both_directions():
    def f(x):
        for compared in (x < 2, x <= 2, x > 2, x >= 2, x == 2, x != 2, np.full(3, 2.0) <= x, np.float64(2) == x):
            assert type(compared) is np.ndarray
            assert compared.dtype == bool
        equal(np.less(X, x), [False] * 3)
        equal(x <= X, [True] * 3)
        equal(x < x, [False] * 3)
        equal(np.not_equal(x, 2), [True, False, True])
        return x

    grad(f, X)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (np.floor, r"numpy\.floor has no vector-Jacobian product here; nearest: .*; known: absolute, add,"),
        (np.median, r"numpy\.median has no vector-Jacobian product here; nearest: np\.mean; known: absolute, add,"),
        (lambda x: np.add.outer(x, x), r"numpy\.add\.outer has no"),
        (lambda x: np.add(x, 1, dtype=float), r"numpy\.add with keywords has no"),
        (lambda x: np.sum(x, dtype=int), "astype: a derivative needs floats"),
        (lambda x: np.sum(x, out=np.zeros(())), "would write into an array"),
        (lambda x: x.sum(dtype=float), "neither out nor dtype"),
        (lambda x: x.mean(out=np.zeros(())), "neither out nor dtype"),
    ],
)
def test_what_numpy_could_do_and_the_engine_cannot_is_an_error(call, message):
    with pytest.raises(ValueError, match=message):
        vjp(call, X)


def test_a_number_has_no_length():
    with pytest.raises(TypeError):
        vjp(lambda x: len(x.sum()), X)


def test_transpose_by_one_axis_is_no_reversal():
    with pytest.raises(ValueError, match=r"shape \(2, 3\) has no permutation of axes \(0,\)"):
        vjp(lambda x: x.transpose(0), M)
    equal(grad(lambda x: x.transpose(0), X)[1], [1, 1, 1])


# ---------------------------------------------------------------------------------------------------------------------
# The elementary VJPs as plain transcriptions
# ---------------------------------------------------------------------------------------------------------------------


def shapes_that_broadcast():
    return hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3, min_side=0)


def numbers(shape, seed, positive=False):
    x = np.random.default_rng(seed).normal(size=shape)
    return np.asarray(np.abs(x) + 0.5 if positive else x)


def sum_over_repetitions(dy, shape):
    """The transcription of unbroadcast: every entry of ``dy`` is added to the entry that it was copied from."""
    total = np.zeros(shape)
    for i in np.ndindex(dy.shape):
        source = i[dy.ndim - len(shape) :]
        total[tuple(0 if n == 1 else k for n, k in zip(shape, source, strict=True))] += dy[i]
    return total


@given(shapes_that_broadcast(), st.integers(0, 9))
def test_unbroadcast_adds_what_broadcasting_repeated(shapes, seed):
    dy = numbers(shapes.result_shape, seed)
    for shape in shapes.input_shapes:
        close(unbroadcast(dy, shape), sum_over_repetitions(dy, shape), rtol=1e-12)


def test_unbroadcast_leaves_an_equal_shape_alone():
    assert unbroadcast(X, (3,)) is X


PARTIALS = {
    "add": (lambda x, y: x + y, lambda x, y: 1.0, lambda x, y: 1.0),
    "subtract": (lambda x, y: x - y, lambda x, y: 1.0, lambda x, y: -1.0),
    "multiply": (lambda x, y: x * y, lambda x, y: y, lambda x, y: x),
    "divide": (lambda x, y: x / y, lambda x, y: 1 / y, lambda x, y: -x / y**2),
    "power": (lambda x, y: x**y, lambda x, y: y * x ** (y - 1), lambda x, y: x**y * math.log(x)),
    "maximum": (max, lambda x, y: float(x > y), lambda x, y: float(y > x)),
    "minimum": (min, lambda x, y: float(x < y), lambda x, y: float(y < x)),
}


@pytest.mark.parametrize("name", PARTIALS)
@given(shapes_that_broadcast(), st.integers(0, 9))
def test_binary_primitives_are_their_partial_derivatives_entry_by_entry(name, shapes, seed):
    f, df_dx, df_dy = PARTIALS[name]
    op = getattr(backprop, name)
    x, y = (numbers(s, seed + k, positive=True) for k, s in enumerate(shapes.input_shapes))
    dz = numbers(shapes.result_shape, seed + 2)
    big_x, big_y = np.broadcast_arrays(x, y)
    z, by_x, by_y = np.zeros(dz.shape), np.zeros(dz.shape), np.zeros(dz.shape)
    for i in np.ndindex(dz.shape):
        a, b = float(big_x[i]), float(big_y[i])
        z[i], by_x[i], by_y[i] = f(a, b), dz[i] * df_dx(a, b), dz[i] * df_dy(a, b)
    value, pull = vjp(op, x, y)
    close(value, z)
    dx, dy = pull(dz)
    close(dx, sum_over_repetitions(by_x, x.shape), rtol=1e-11)
    close(dy, sum_over_repetitions(by_y, y.shape), rtol=1e-11)


@pytest.mark.parametrize(
    ("op", "f", "df"),
    [
        (negative, lambda x: -x, lambda x: -1),
        (exp, math.exp, math.exp),
        (log, math.log, lambda x: 1 / x),
        (sqrt, math.sqrt, lambda x: 1 / (2 * math.sqrt(x))),
        (backprop.absolute, abs, lambda x: 1.0),
    ],
)
@given(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3), st.integers(0, 9))
def test_unary_primitives_are_their_derivatives_entry_by_entry(op, f, df, shape, seed):
    x, dy = numbers(shape, seed, positive=True), numbers(shape, seed + 1)
    y, pull = vjp(op, x)
    (dx,) = pull(dy)
    close(y, np.array([f(a) for a in x.ravel()]).reshape(shape))
    close(dx, np.array([d * df(a) for a, d in zip(x.ravel(), dy.ravel(), strict=True)]).reshape(shape))


@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 9))
def test_matmul_is_its_index_form(n, k, m, seed):
    """dA_ij = sum_t dC_it B_jt and dB_jt = sum_i A_ij dC_it."""
    a, b, dc = numbers((n, k), seed), numbers((k, m), seed + 1), numbers((n, m), seed + 2)
    _, pull = vjp(matmul, a, b)
    da, db = np.zeros((n, k)), np.zeros((k, m))
    for i, j, t in itertools.product(range(n), range(k), range(m)):
        da[i, j] += dc[i, t] * b[j, t]
        db[j, t] += a[i, j] * dc[i, t]
    for mine, loops in zip(pull(dc), (da, db), strict=True):
        close(mine, loops, rtol=1e-11)


@given(st.data())
def test_matmul_of_stacks_is_the_sum_of_matmuls(data):
    shapes = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=2, max_side=3))
    a, b = (
        numbers((*s, *tail), k) for k, (s, tail) in enumerate(zip(shapes.input_shapes, ((2, 3), (3, 2)), strict=True))
    )
    dc = numbers((*shapes.result_shape, 2, 2), 3)
    da, db = vjp(matmul, a, b)[1](dc)
    big_a, big_b = (np.broadcast_to(m, (*shapes.result_shape, *m.shape[-2:])) for m in (a, b))
    all_a, all_b = np.zeros(big_a.shape), np.zeros(big_b.shape)
    for i in np.ndindex(shapes.result_shape):
        all_a[i], all_b[i] = dc[i] @ big_b[i].T, big_a[i].T @ dc[i]
    close(da, sum_over_repetitions(all_a, a.shape), rtol=1e-11)
    close(db, sum_over_repetitions(all_b, b.shape), rtol=1e-11)


def axes_of(ndim):
    one = st.integers(-ndim, ndim - 1)
    some = st.lists(st.integers(0, ndim - 1), unique=True, max_size=ndim).map(tuple)
    return st.one_of(st.none(), one, some) if ndim else st.one_of(st.none(), st.just(()))


@given(hnp.array_shapes(min_dims=0, max_dims=3, max_side=3), st.booleans(), st.data())
def test_reductions_give_every_entry_its_sums_cotangent(shape, keepdims, data):
    axis = data.draw(axes_of(len(shape)))
    x = numbers(shape, 0)
    kept = np.sum(x, axis=axis, keepdims=True).shape
    dy = numbers(np.sum(x, axis=axis, keepdims=keepdims).shape, 1)
    expected = np.zeros(shape)
    for i in np.ndindex(shape):
        expected[i] = dy.reshape(kept)[tuple(0 if n == 1 else k for n, k in zip(kept, i, strict=True))]
    count = x.size // max(1, math.prod(kept))
    for op, factor in ((backprop.sum, 1), (mean, 1 / count)):
        y, pull = vjp(op, x, axis=axis, keepdims=keepdims)
        close(y, getattr(np, op.__name__)(x, axis=axis, keepdims=keepdims))
        close(pull(dy)[0], factor * expected)


INDICES = [
    0,
    -1,
    np.int64(1),
    slice(1, None),
    slice(None, None, -2),
    None,
    Ellipsis,
    (0, 1),
    (slice(None), 1),
    (..., None, 0),
    [0, 0, 1],
    ((0, 0, 1),),
    np.array([[0, 1], [1, 1]]),
    (np.array([0, 0]), np.array([1, 1])),
    (slice(None), [2, 2]),
    ([1, 1], None, slice(0, 2)),
    np.array([True, False]),
    np.array([[True, False, True], [False, False, True]]),
    (slice(None), np.array([True, False, True])),
    True,
    False,
    np.array([], int),
    range(2),
    (),
]


@pytest.mark.parametrize("index", INDICES, ids=repr)
def test_indexing_scatters_and_adds(index):
    """Where the entries come from is asked of an array that holds its own positions."""
    x = numbers((2, 3), 0)
    came_from = np.arange(6).reshape(2, 3)[index]
    dy = numbers(np.shape(came_from), 1)
    expected = np.zeros(6)
    for position, d in zip(np.ravel(came_from), np.ravel(dy), strict=True):
        expected[position] += d
    y, pull = vjp(getitem, x, index=index)
    equal(y, x[index])
    close(pull(dy)[0], expected.reshape(2, 3))


def test_indexing_a_number():
    for index in ((), None, Ellipsis):
        equal(grad(lambda x, i=index: (2 * x)[i].sum(), 3.0)[1], 2.0)


def test_a_slice_of_a_large_array_is_written_not_added():
    """np.add.at would visit the entries one by one."""
    x = np.zeros((2000, 500))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backprop.np, "add", None)
        dx = getitem.vjp(np.ones((1999, 500)), None, x, index=slice(1, None))[0]
    assert dx.sum() == 1999 * 500


@pytest.mark.parametrize("index", [3, (0, 0, 0), 1.5, "text", np.array([0.5])])
def test_an_index_that_does_not_fit_is_refused_with_the_shape(index):
    with pytest.raises(ValueError, match=r"does not fit shape \(2, 3\)"):
        getitem(np.zeros((2, 3)), index=index)


@given(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=3), st.data())
def test_concatenate_hands_every_array_its_own_part(shape, data):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    sizes = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
    xs = []
    for k, n in enumerate(sizes):
        own = list(shape)
        own[axis] = n
        xs.append(numbers(tuple(own), k))
    dys = [numbers(x.shape, 10 + k) for k, x in enumerate(xs)]
    y, pull = vjp(concatenate, *xs, axis=axis)
    equal(y, np.concatenate(xs, axis))
    for dx, dy in zip(pull(np.concatenate(dys, axis)), dys, strict=True):
        equal(dx, dy)


def test_arrays_to_join_come_one_by_one():
    """A list of two arrays of length 2 would else be one array of shape (2, 2), and nothing would be joined."""
    for wrong in ([X, X], (X, X)):
        with pytest.raises(ValueError, match=r"concatenate takes its arrays one by one, concatenate\(a, b\)"):
            concatenate(wrong)
    equal(np.concatenate([X, X]), concatenate(X, X))


def test_concatenate_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"\[\(3,\), \(\)\] do not fit along axis 0"):
        concatenate(X, 1.0)
    with pytest.raises(ValueError, match="axis must be an integer, not None"):
        concatenate(X, X, axis=None)


@given(st.permutations(range(3)), st.booleans())
def test_transpose_is_undone_by_the_inverse_permutation(axes, from_the_end):
    axes = tuple(a - 3 for a in axes) if from_the_end else tuple(axes)
    x = numbers((2, 3, 4), 0)
    dy = numbers(x.transpose(axes).shape, 1)
    dx = vjp(transpose, x, axes=axes)[1](dy)[0]
    for i in np.ndindex(x.shape):
        assert dx[i] == dy[tuple(i[a] for a in axes)]


# ---------------------------------------------------------------------------------------------------------------------
# Values chosen at kinks and ends
# ---------------------------------------------------------------------------------------------------------------------


def test_at_a_tie_maximum_and_minimum_give_half_to_each():
    for op in (maximum, minimum):
        _, dx, dy = grad(op, np.zeros(2), np.zeros(2))
        equal(dx, [0.5, 0.5])
        equal(dy, [0.5, 0.5])


def test_absolute_has_derivative_zero_at_zero():
    equal(grad(abs, np.array([-2.0, 0.0, 2.0]))[1], [-1, 0, 1])


def test_where_passes_the_cotangent_to_the_branch_taken_and_stops_a_nan():
    """The branch not taken receives zero, not 0 * inf."""
    x = np.array([-1.0, 4.0])
    _, dx = grad(lambda x: where(x > 0, x, 0.0), x)
    equal(dx, [0, 1])
    _, dx = grad(lambda x: where(x > 0, sqrt(maximum(x, 1e-9)), 0.0), x)
    equal(dx, [0, 0.25])
    with pytest.raises(ValueError, match="float64, expected bool"):
        where(X, X, X)


def test_powers_at_zero():
    zeros = np.zeros(3)
    equal(grad(lambda x: x**0, zeros)[1], [0, 0, 0])
    equal(grad(lambda x: x**1, zeros)[1], [1, 1, 1])
    equal(grad(lambda x: x**2, zeros)[1], [0, 0, 0])
    equal(grad(power, zeros, np.array([0.0, 1.0, 2.0]))[1:], [[0, 1, 0], [0, 0, 0]])
    equal(grad(lambda p: 0.0**p, np.array([1.0, 2.0]))[1], [0, 0])


def test_powers_of_negative_numbers():
    equal(grad(lambda x: x**2, -X)[1], -2 * X)
    equal(grad(lambda x: x**3.0, -X)[1], 3 * X**2)
    close(grad(lambda x: x**-2, -X)[1], 2 / X**3)
    with pytest.warns(RuntimeWarning, match="invalid value"):
        _, _, dp = grad(power, np.array([-1.0]), np.array([2.0]))
    assert np.isnan(dp).all()  # log(-1) is not a real number


def test_integer_arrays_as_exponents_and_bases():
    equal(grad(lambda x: x ** np.array([0, 1, 2]), X)[1], [0, 1, 6])
    y, dx = grad(lambda x: x ** np.array([0, 1, 2]), X.astype(np.float32))
    assert (y.dtype, dx.dtype) == (np.float32, np.float32)  # integers take the dtype of the floats beside them
    close(grad(lambda p: np.array([2, 3, 4]) ** p, X)[1], np.array([2, 9, 64]) * np.log([2, 3, 4]))


def test_a_mean_over_nothing_is_refused():
    for shape, axis in (((0,), None), ((0, 3), 0), ((2, 0), (0, 1))):
        with pytest.raises(ValueError, match="nothing to average"):
            mean(np.zeros(shape), axis=axis)
    equal(mean(np.zeros((0, 3)), axis=1), np.zeros(0))
    with pytest.raises(ValueError, match="axis 2 is out of bounds"):
        mean(M, axis=2)


def test_matmul_refuses_shapes_that_do_not_fit():
    for other in (3.0, np.ones(2), np.ones((2, 2))):
        with pytest.raises(ValueError, match=r"\(3,\)"):
            vjp(lambda x, other=other: x @ other, X)


# ---------------------------------------------------------------------------------------------------------------------
# Depth and memory
# ---------------------------------------------------------------------------------------------------------------------


def test_100_000_operations_do_not_hit_a_recursion_limit():
    depth = 100_000
    assert sys.getrecursionlimit() < depth

    def f(x):
        for _ in range(depth):
            x = x + 1e-5
        return x

    value, pull = vjp(f, 1.0)
    assert float(value) == pytest.approx(2)
    equal(pull(1.0)[0], 1.0)


def test_a_deep_graph_that_is_never_swept_is_freed_without_recursion():
    def f(x):
        for _ in range(100_000):
            x = -x
        return x

    vjp(f, 1.0)
    gc.collect()


class Watched:
    """Stands for something large that a VJP keeps."""


def test_saved_values_are_freed_as_the_sweep_goes():
    alive = []
    watched = []

    @primitive
    def layer(x):
        saved = Watched()
        watched.append(weakref.ref(saved))
        return 1 * x, saved

    @layer.defvjp
    def layer_vjp(dy, saved, x):
        alive.append(sum(ref() is not None for ref in watched))
        return (dy,)

    def f(x):
        for _ in range(5):
            x = layer(x)
        return x

    _, pull = vjp(f, X)
    pull(X)
    assert alive == [5, 4, 3, 2, 1]
    assert all(ref() is None for ref in watched)


def test_without_a_pull_the_tape_goes_with_the_pullback():
    watched = []

    @primitive
    def layer(x):
        saved = Watched()
        watched.append(weakref.ref(saved))
        return 1 * x, saved

    _, pull = vjp(layer, X)
    assert watched[0]() is not None
    del pull
    assert watched[0]() is None


# ---------------------------------------------------------------------------------------------------------------------
# value_and_grad, record
# ---------------------------------------------------------------------------------------------------------------------


def test_value_and_grad_differentiates_the_first_argument_only():
    def loss(params, x, *, power):
        """Some loss."""
        return ((x * params["w"]) ** power).sum()

    g = value_and_grad(loss)
    assert g.__doc__ == "Some loss."
    value, grads = g({"w": np.float64(2)}, X, power=2)
    assert value == 56
    equal(grads["w"], 56.0)


def test_record_gives_every_node_its_value_and_adjoint():
    """f = (a + b) a at (2, 3): df/da = 2a + b = 7, df/db = a = 2."""
    steps = record(lambda a, b: (a + b) * a, 2, 3)
    assert [(s.name, s.parents, float(s.value), float(s.adjoint)) for s in steps] == [
        ("a", (), 2, 7),
        ("b", (), 3, 2),
        ("add", (0, 1), 5, 2),
        ("multiply", (2, 0), 10, 1),
    ]


def test_record_leaves_constants_out_and_marks_what_the_sweep_never_reached():
    steps = record(lambda x: (exp(x), 3 * x)[1].sum(), X, names=("input",))
    assert [(s.name, s.parents) for s in steps] == [("input", ()), ("exp", (0,)), ("multiply", (0,)), ("sum", (2,))]
    assert steps[1].adjoint is None
    equal(steps[0].adjoint, [3, 3, 3])


@pytest.mark.parametrize("f", [lambda x: x, lambda x: 1.0])
def test_record_needs_a_scalar_that_depends_on_its_arguments(f):
    with pytest.raises(ValueError, match="record needs a scalar"):
        record(f, X)


# ---------------------------------------------------------------------------------------------------------------------
# Trees
# ---------------------------------------------------------------------------------------------------------------------

TREES = st.recursive(
    st.integers(),
    lambda inner: st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, min_size=1, max_size=3),
    max_leaves=8,
).filter(lambda tree: isinstance(tree, dict))


@given(TREES)
def test_unflatten_undoes_flatten(tree):
    assert unflatten(flatten(tree)) == tree


@given(TREES)
def test_tree_map_keeps_the_structure(tree):
    doubled = tree_map(lambda a, b: a + b, tree, tree)
    assert flatten(doubled) == {key: 2 * leaf for key, leaf in flatten(tree).items()}


def test_flatten_gives_the_keys_of_a_state_dict():
    torch = pytest.importorskip("torch")
    twin = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    params = {"0": {"weight": 0, "bias": 0}, "2": {"weight": 0, "bias": 0}}
    assert list(flatten(params)) == list(twin.state_dict())
    assert unflatten(dict.fromkeys(twin.state_dict(), 0)) == params


@pytest.mark.parametrize("key", ["", "a.b", 1, None])
def test_keys_are_non_empty_strings_without_dots(key):
    with pytest.raises(ValueError, match="must be a non-empty string without dots"):
        flatten({"outer": {key: 1}})


def test_unflatten_refuses_a_leaf_that_is_also_a_branch():
    with pytest.raises(ValueError, match=r"'a\.b' runs through a leaf"):
        unflatten({"a": 1, "a.b": 2})
    with pytest.raises(ValueError, match="'a' is both a leaf and a branch"):
        unflatten({"a.b": 2, "a": 1})


@pytest.mark.parametrize(("other", "keys"), [({"b": 1}, r"\['a'\] against \['b'\]"), (3, r"\['a'\] against int")])
def test_tree_map_refuses_trees_that_differ(other, keys):
    with pytest.raises(ValueError, match=keys):
        tree_map(lambda a, b: a, {"a": 1}, other)


# ---------------------------------------------------------------------------------------------------------------------
# Derivatives by numbers
# ---------------------------------------------------------------------------------------------------------------------


def test_central_differences_are_exact_for_a_parabola_up_to_rounding():
    equal(numerical_gradient(lambda x: (x * x).sum(), X, h=0.5), 2 * X)


def test_numerical_gradient_works_on_trees_numbers_and_float32():
    params = {"a": {"b": np.array([1, 2], np.float32)}, "c": 3.0}
    g = numerical_gradient(lambda p: (p["a"]["b"] ** 2).sum() * p["c"], params)
    assert g["a"]["b"].dtype == np.float64
    np.testing.assert_allclose(g["a"]["b"], [6, 12], rtol=1e-9)
    np.testing.assert_allclose(g["c"], 5, rtol=1e-9)
    np.testing.assert_allclose(numerical_gradient(lambda x: x**2, 3.0), 6, rtol=1e-9)
    equal(params["a"]["b"], np.array([1, 2], np.float32))


def test_the_error_of_central_differences_is_v_shaped():
    """Truncation falls as h^2 from the right, rounding rises as eps / h to the left; the best h is near eps^(1/3)."""
    error = {h: abs(numerical_gradient(np.exp, 1.0, h=h) - math.e) for h in (1e-1, 1e-2, 1e-3, 1e-5, 1e-9, 1e-12)}
    assert error[1e-1] / error[1e-2] == pytest.approx(100, rel=0.01)
    assert error[1e-2] / error[1e-3] == pytest.approx(100, rel=0.01)
    assert error[1e-5] < 1e-9
    assert error[1e-9] > 10 * error[1e-5]
    assert error[1e-12] > 10 * error[1e-9]
    assert error[1e-1] == pytest.approx(math.e * 0.1**2 / 6, rel=0.01)  # h^2 f''' / 6


def test_the_complex_step_has_no_such_trouble():
    assert complex_step_gradient(np.exp, 1.0) == pytest.approx(math.e, rel=1e-15)
    assert complex_step_gradient(np.exp, 1.0, h=1e-200) == pytest.approx(math.e, rel=1e-15)
    params = {"w": M, "x": X}
    by_complex = complex_step_gradient(lambda p: np.sum(np.exp(p["w"] @ p["x"])), params)
    _, by_tape = value_and_grad(lambda p: exp(p["w"] @ p["x"]).sum())(params)
    tree_map(close, by_complex, by_tape)


def test_the_complex_step_is_wrong_for_a_function_that_is_not_analytic():
    """np.abs of a complex number is its modulus, whose imaginary part is zero."""
    equal(complex_step_gradient(lambda x: np.sum(np.abs(x)), X), [0, 0, 0])


def test_directional_derivative_is_the_jacobian_times_a_vector():
    a, v = numbers((2, 3), 0), numbers((2, 3), 1)
    close(directional_derivative(lambda a, b: a * b, (a, 3.0), (v, None)), 3 * v, rtol=1e-9)
    close(directional_derivative(lambda a, b: a * b, (a, a), (v, v)), 2 * a * v, rtol=1e-9)
    with pytest.raises(ValueError, match="1 arguments and 2 tangents"):
        directional_derivative(lambda a: a, (a,), (v, v))


def test_the_adjoint_identity():
    """<dy, J v> = <J^T dy, v>."""
    x, v, dy = numbers((3, 4), 0), numbers((3, 4), 1), numbers((3, 3), 2)

    def f(x):
        return exp(x @ transpose(x) / 4)

    Jv = directional_derivative(f, (x,), (v,))
    (dx,) = vjp(f, x)[1](dy)
    assert np.sum(dy * Jv) == pytest.approx(np.sum(dx * v), rel=1e-8)


def test_gradient_error_is_small_for_a_right_gradient_and_large_for_a_wrong_one():
    params = {"w": M.astype(np.float32), "b": np.zeros(2)}
    assert gradient_error(lambda p: (exp(p["w"] @ X) * p["b"]).sum() + p["w"].sum(), params) < 1e-7

    @primitive
    def wrong(x):
        return np.exp(x), None

    wrong.defvjp(lambda dy, saved, x: (-dy * np.exp(x),))
    assert gradient_error(lambda x: wrong(x).sum(), X) == pytest.approx(2)
    assert gradient_error(lambda x: (x * 0).sum(), X) == 0


def test_traced_is_what_a_function_being_differentiated_sees():
    seen = []
    vjp(lambda x: seen.append(type(x)) or x, X)
    assert seen == [Traced]


def test_an_infinite_cotangent_stays_on_its_own_side():
    x = np.array([-1.0, 2.0])
    for f in (lambda x: np.log(np.maximum(x, 0.0)).sum(), lambda x: np.log(-np.minimum(-x, 0.0)).sum()):
        with np.errstate(divide="ignore"):
            (dx,) = vjp(f, x)[1](1.0)
        np.testing.assert_array_equal(dx, [0.0, 0.5])


def test_a_quotient_of_huge_numbers_has_the_right_derivative():
    (dy,) = vjp(lambda y: divide(1e200, y), np.array(1e200))[1](1e200)
    assert dy == -1.0


def test_power_zero_is_constant_everywhere():
    for p in (0.0, np.zeros(3)):
        (dx,) = vjp(lambda x, p=p: power(x, p), np.array([0.0, 2.0, np.inf]))[1](np.ones(3))
        np.testing.assert_array_equal(dx, np.zeros(3))


def test_numerical_gradient_of_the_identity():
    assert numerical_gradient(lambda p: p, np.array(2.0)) == pytest.approx(1.0)
    assert gradient_error(lambda p: p * 1.0, np.array(2.0)) < 1e-9


def test_a_primitive_that_hands_an_array_through_leaves_it_writeable():
    @primitive
    def first(constant, x):
        return constant, None

    constant = np.ones(2)
    vjp(lambda x: first(constant, x), np.ones(2))
    assert constant.flags.writeable


def test_a_traced_option_is_refused_by_name():
    with pytest.raises(ValueError, match="no derivative with respect to the option axis"):
        value_and_grad(lambda x: backprop.sum(x, axis=x))(np.ones(2))


def test_an_array_argument_may_follow_one_that_is_left_out():
    @primitive
    def shifted(x, scale=2.0, shift=0.0):
        return x * scale + shift, None

    @shifted.defvjp
    def shifted_vjp(dy, saved, x, scale=2.0, shift=0.0):
        return dy * scale, None, dy

    (dx,) = vjp(lambda b: shifted(np.ones(2), shift=b), np.ones(2))[1](np.ones(2))
    np.testing.assert_array_equal(dx, np.ones(2))


def test_a_branch_without_leaves_has_no_key_and_comes_back():
    tree = {"b": {}, "a": {"w": 1, "c": {"d": {}}}}
    assert flatten(tree) == {"a.w": 1}
    assert like(tree, {"a.w": 2}) == {"b": {}, "a": {"w": 2, "c": {"d": {}}}}
    with pytest.raises(ValueError, match=r"a\.w.*b\.w"):
        like(tree, {"b.w": 2})


def test_layers_come_in_the_order_of_their_numbers():
    assert by_number({str(i): i for i in (10, 2, 1, 0)}) == ["0", "1", "2", "10"]
    for wrong, message in ((["0"], "must be a dict, not list"), ({"0": 1, "a": 2}, "one is called 'a'")):
        with pytest.raises(ValueError, match=message):
            by_number(wrong)


# What is kept and what is not


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble", "complex128"])
def test_keep_is_where(dtype):
    rng = np.random.default_rng(0)
    dy, mask = rng.normal(size=(4, 5)).astype(dtype), rng.random((4, 5)) < 0.5
    dy[0, :3] = np.inf, np.nan, -0.0
    mask[0, :3] = False, False, True
    for kept, plain in (
        (keep(dy, mask), np.where(mask, dy, 0)),
        (keep(dy.T[::2], mask.T[::2]), np.where(mask.T[::2], dy.T[::2], 0)),
        (keep(dy[:, :0], mask[:, :0]), dy[:, :0]),
        (keep(dy[1, 1], mask[1, 1]), np.where(mask[1, 1], dy[1, 1], 0)),
    ):
        assert kept.dtype == dtype
        np.testing.assert_array_equal(kept, plain)
    assert np.signbit(keep(dy, mask).real[0, 2])
    assert not np.signbit(keep(dy, mask).real[0, :2]).any()
