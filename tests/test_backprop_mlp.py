"""The multilayer perceptron by hand, and what a critical reading of the engine found."""

import itertools

import numpy as np
import pytest

from nnbook.backprop import (
    exp,
    flatten,
    gradient_error,
    matmul,
    maximum,
    mlp_loss_and_gradients,
    numerical_gradient,
    primitive,
    record,
    tree_map,
    value_and_grad,
    vjp,
    where,
)


def random_mlp(rng, sizes, dtype=np.float64):
    """Weights keyed as a PyTorch Sequential of linear layers with an activation between each two."""
    return {
        str(2 * i): {
            "weight": rng.normal(size=(fan_out, fan_in)).astype(dtype) / np.sqrt(fan_in).astype(dtype),
            "bias": rng.normal(size=fan_out).astype(dtype) / 10,
        }
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes))
    }


def composed_loss(params, x, labels):
    """The same loss out of elementary primitives, for the engine to differentiate."""
    a = x
    for name in sorted(params, key=int):
        z = matmul(a, params[name]["weight"].T) + params[name]["bias"]
        a = maximum(z, 0)
    shifted = z - z.value.max(1, keepdims=True) if hasattr(z, "value") else z - z.max(1, keepdims=True)
    log_sum = np.log(exp(shifted).sum(1))
    return (log_sum - shifted[np.arange(len(labels)), labels]).mean()


# ---------------------------------------------------------------------------------------------------------------------
# The four equations
# ---------------------------------------------------------------------------------------------------------------------


def test_the_network_worked_by_hand():
    params = {
        "0": {"weight": np.array([[1.0, -1.0], [0.0, 1.0]]), "bias": np.zeros(2)},
        "2": {"weight": np.array([[1.0, 3.0], [2.0, 1.0]]), "bias": np.array([0.0, 4.0])},
    }
    loss, grads = mlp_loss_and_gradients(params, np.array([[1.0, 2.0]]), np.array([0]))
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-15)
    np.testing.assert_allclose(grads["2"]["weight"], [[0, -1], [0, 1]], atol=1e-15)
    np.testing.assert_allclose(grads["2"]["bias"], [-0.5, 0.5], atol=1e-15)
    np.testing.assert_allclose(grads["0"]["weight"], [[0, 0], [-1, -2]], atol=1e-15)
    np.testing.assert_allclose(grads["0"]["bias"], [0, -1], atol=1e-15)


@pytest.mark.parametrize("sizes", [(5, 3), (5, 4, 3), (6, 5, 4, 3), (4, 7, 6, 5, 2)])
def test_by_hand_equals_the_engine(sizes):
    rng = np.random.default_rng(0)
    params = random_mlp(rng, sizes)
    x, labels = rng.normal(size=(9, sizes[0])), rng.integers(sizes[-1], size=9)
    loss, grads = mlp_loss_and_gradients(params, x, labels)
    expected, by_engine = value_and_grad(composed_loss)(params, x, labels)
    np.testing.assert_allclose(loss, expected, rtol=1e-14)
    assert list(flatten(grads)) == list(flatten(params))
    tree_map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15), grads, by_engine)


def test_by_hand_equals_a_loop_over_samples_and_indices():
    """A plain transcription of the index form: no matrix product anywhere."""
    rng = np.random.default_rng(1)
    params = random_mlp(rng, (4, 3, 2))
    x, labels = rng.normal(size=(5, 4)), rng.integers(2, size=5)
    _, grads = mlp_loss_and_gradients(params, x, labels)
    w1, b1, w2, b2 = (params[i][k] for i in ("0", "2") for k in ("weight", "bias"))
    expected = tree_map(np.zeros_like, params)
    for n in range(5):
        z1 = [sum(w1[j, k] * x[n, k] for k in range(4)) + b1[j] for j in range(3)]
        a1 = [max(z, 0) for z in z1]
        z2 = [sum(w2[i, j] * a1[j] for j in range(3)) + b2[i] for i in range(2)]
        p = [np.exp(z) / sum(np.exp(other) for other in z2) for z in z2]
        delta2 = [(p[i] - (i == labels[n])) / 5 for i in range(2)]
        delta1 = [sum(delta2[i] * w2[i, j] for i in range(2)) * (z1[j] > 0) for j in range(3)]
        for i in range(2):
            expected["2"]["bias"][i] += delta2[i]
            for j in range(3):
                expected["2"]["weight"][i, j] += delta2[i] * a1[j]
        for j in range(3):
            expected["0"]["bias"][j] += delta1[j]
            for k in range(4):
                expected["0"]["weight"][j, k] += delta1[j] * x[n, k]
    tree_map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-16), grads, expected)


def test_by_hand_equals_central_differences():
    rng = np.random.default_rng(2)
    params = random_mlp(rng, (4, 6, 3))
    x, labels = rng.normal(size=(7, 4)), rng.integers(3, size=7)
    _, grads = mlp_loss_and_gradients(params, x, labels)
    numbers = numerical_gradient(lambda p: mlp_loss_and_gradients(p, x, labels)[0], params)
    tree_map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), grads, numbers)


def test_by_hand_equals_pytorch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    params = random_mlp(rng, (6, 5, 4))
    x, labels = rng.normal(size=(8, 6)), rng.integers(4, size=8)
    loss, grads = mlp_loss_and_gradients(params, x, labels)
    twin = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 4)).double()
    twin.load_state_dict({key: torch.tensor(leaf) for key, leaf in flatten(params).items()})
    expected = torch.nn.functional.cross_entropy(twin(torch.tensor(x)), torch.tensor(labels))
    expected.backward()
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-14)
    for key, parameter in twin.named_parameters():
        np.testing.assert_allclose(flatten(grads)[key], parameter.grad.numpy(), rtol=1e-11, atol=1e-15)


def test_by_hand_keeps_float32_and_the_inputs():
    rng = np.random.default_rng(4)
    params = random_mlp(rng, (4, 3, 2), np.float32)
    x, labels = rng.normal(size=(5, 4)).astype(np.float32), rng.integers(2, size=5)
    for leaf in (x, labels, *flatten(params).values()):
        leaf.flags.writeable = False
    loss, grads = mlp_loss_and_gradients(params, x, labels)
    assert loss.dtype == np.float32
    assert all(leaf.dtype == np.float32 for leaf in flatten(grads).values())


def test_by_hand_is_stable_at_extreme_logits():
    params = {"0": {"weight": np.array([[1e4], [-1e4]]), "bias": np.zeros(2)}}
    loss, grads = mlp_loss_and_gradients(params, np.ones((1, 1)), np.array([1]))
    assert loss == 2e4
    np.testing.assert_array_equal(grads["0"]["bias"], [1, -1])


def test_more_than_ten_layers_stay_in_order():
    """As strings, "10" sorts before "2"."""
    rng = np.random.default_rng(5)
    params = random_mlp(rng, (3,) * 8)
    x, labels = rng.normal(size=(4, 3)), rng.integers(3, size=4)
    shuffled = {key: params[key] for key in sorted(params)}
    assert list(shuffled) != list(params)
    assert mlp_loss_and_gradients(shuffled, x, labels)[0] == mlp_loss_and_gradients(params, x, labels)[0]


def test_by_hand_refuses_what_does_not_fit():
    params = random_mlp(np.random.default_rng(6), (4, 3, 2))
    x = np.zeros((5, 4))
    with pytest.raises(ValueError, match=r"\(5, 3\).*layer 0.*\(3, 4\)"):
        mlp_loss_and_gradients(params, x[:, :3], np.zeros(5, int))
    with pytest.raises(ValueError, match=r"labels.*\(4,\).*\(5, 4\)"):
        mlp_loss_and_gradients(params, x, np.zeros(4, int))
    with pytest.raises(ValueError, match=r"labels.*0 to 1"):
        mlp_loss_and_gradients(params, x, np.array([0, 1, 2, 0, 0]))
    with pytest.raises(ValueError, match=r"labels.*0 to 1"):
        mlp_loss_and_gradients(params, x, np.array([0, 1, -1, 0, 0]))
    with pytest.raises(ValueError, match="integers"):
        mlp_loss_and_gradients(params, x, np.zeros(5))
    with pytest.raises(ValueError, match="no sample"):
        mlp_loss_and_gradients(params, x[:0], np.zeros(0, int))


# ---------------------------------------------------------------------------------------------------------------------
# The engine read critically
# ---------------------------------------------------------------------------------------------------------------------


@primitive
def product(x, y):
    return x * y, None


@pytest.mark.parametrize("forgetful", [lambda dy, saved, x, y: (dy * y,), lambda dy, saved, x, y: dy * y])
def test_a_vjp_that_forgets_an_argument_is_an_error_not_a_zero_gradient(forgetful):
    product.defvjp(forgetful)
    with pytest.raises(ValueError, match=r"product: .* one cotangent per argument"):
        value_and_grad(lambda p: product(p["a"], p["b"]).sum())({"a": np.ones(2), "b": np.ones(2)})


def test_gradient_error_does_not_lose_a_nan():
    @primitive
    def broken(x):
        return 1 * x, None

    broken.defvjp(lambda dy, saved, x: (dy * np.nan,))
    params = {"a": np.ones(2), "b": np.ones(2)}
    assert np.isnan(gradient_error(lambda p: (p["a"] * p["a"]).sum() + broken(p["b"]).sum(), params))
    assert np.isnan(gradient_error(lambda p: (p["b"] * p["b"]).sum() + broken(p["a"]).sum(), params))


def test_equality_of_traced_values_compares_numbers():
    """Python's default would compare identities: one silent False for the whole array."""
    x = np.array([0.0, 1.0])
    _, grad = value_and_grad(lambda x: where(x == 0, x, 5 * x).sum())(x)
    np.testing.assert_array_equal(grad, [1, 5])
    _, grad = value_and_grad(lambda x: where(x != 0, x, 5 * x).sum())(x)
    np.testing.assert_array_equal(grad, [5, 1])


def test_gradients_are_arrays_of_their_own():
    """Clipping one gradient in place must neither fail nor change another one."""
    params = {"a": np.ones(3), "b": np.ones(3), "c": np.ones((3, 2))}
    _, grads = value_and_grad(lambda p: ((p["a"] + p["b"]) * 3).sum() + p["c"].sum() + p["c"][0].sum())(params)
    for leaf in grads.values():
        leaf *= 2
    np.testing.assert_array_equal(grads["a"], [6, 6, 6])
    np.testing.assert_array_equal(grads["b"], [6, 6, 6])
    np.testing.assert_array_equal(grads["c"], [[4, 4], [2, 2], [2, 2]])
    dy = np.ones(3)
    (dx,) = vjp(lambda x: x, np.ones(3))[1](dy)
    dx *= 2
    np.testing.assert_array_equal(dy, 1)


def test_complex_inputs_are_refused():
    """Their VJP would need conjugates; without them the gradient is wrong and looks right."""
    with pytest.raises(ValueError, match="complex"):
        vjp(lambda z: (z * z).sum(), np.array([1 + 2j]))


def test_record_asks_for_as_many_names_as_inputs():
    with pytest.raises(ValueError, match="1 names for 2 inputs"):
        record(lambda *xs: (xs[0] * xs[1]).sum(), np.ones(2), np.ones(2))
    steps = record(lambda *xs: (xs[0] * xs[1]).sum(), np.ones(2), np.ones(2), names=("a", "b"))
    assert [step.name for step in steps] == ["a", "b", "multiply", "sum"]


def test_gradients_have_the_dtype_of_the_parameters():
    rng = np.random.default_rng(0)
    params = tree_map(lambda leaf: leaf.astype(np.float32), random_mlp(rng, (3, 4, 2)))
    _, grads = mlp_loss_and_gradients(params, rng.normal(size=(5, 3)), np.array([0, 1, 0, 1, 1]))
    assert {leaf.dtype for leaf in flatten(grads).values()} == {np.dtype(np.float32)}


def test_a_bias_that_does_not_fit_and_a_network_without_layers_are_refused():
    rng = np.random.default_rng(0)
    params = random_mlp(rng, (3, 2))
    params["0"]["bias"] = np.zeros(1)
    with pytest.raises(ValueError, match=r"weights \(2, 3\), biases \(1,\)"):
        mlp_loss_and_gradients(params, np.ones((1, 3)), np.array([0]))
    with pytest.raises(ValueError, match="no layer"):
        mlp_loss_and_gradients({}, np.ones((1, 3)), np.array([0]))
