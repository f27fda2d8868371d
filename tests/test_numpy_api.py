"""NumPy's functions on traced values: the value, the gradient by central differences and by PyTorch, the kinks."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nnbook import numpy_api
from nnbook.backprop import gradient_error, value_and_grad, vjp

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 4))
Y = RNG.normal(size=(3, 4))
V = RNG.normal(size=4)

# A loss of a course as it is written in NumPy; the same line serves as value, as traced function and for differences.
LOSSES = {
    "where": lambda x: (np.where(x > 0, x, 2 * x) * Y).sum(),
    "where both": lambda x: (np.where(Y > 0, x, x * x) * Y).sum(),
    "clip": lambda x: (np.clip(x, -0.5, 0.6) * Y).sum(),
    "clip by keyword": lambda x: (np.clip(x, a_min=-0.5, a_max=None) * Y).sum(),
    "clip arrays": lambda x: (np.clip(Y, -np.abs(x), np.abs(x)) * Y).sum(),
    "sum": lambda x: (np.sum(x, axis=0) * V).sum(),
    "sum keepdims": lambda x: (np.sum(x, axis=1, keepdims=True) * Y).sum(),
    "mean": lambda x: (np.mean(x, axis=0) * V).sum(),
    "max": lambda x: (np.max(x, axis=0) * V).sum(),
    "min": lambda x: (np.min(x, axis=0) * V).sum(),
    "amax of all": lambda x: np.amax(x) - np.amin(x),
    "prod": lambda x: (np.prod(x, axis=0) * V).sum(),
    "cumsum": lambda x: (np.cumsum(x, axis=1) * Y).sum(),
    "cumsum of all": lambda x: (np.cumsum(x) * Y.ravel()).sum(),
    "var": lambda x: (np.var(x, axis=0) * V).sum(),
    "var ddof": lambda x: np.var(x, ddof=1),
    "std": lambda x: (np.std(x, axis=0) * V).sum(),
    "std ddof": lambda x: np.std(x, axis=0, ddof=1, keepdims=True).sum(),
    "norm": np.linalg.norm,
    "norm axis": lambda x: (np.linalg.norm(x, axis=0) * V).sum(),
    "norm 1": lambda x: (np.linalg.norm(x, 1, axis=0) * V).sum(),
    "norm inf": lambda x: (np.linalg.norm(x, np.inf, axis=0) * V).sum(),
    "norm fro": lambda x: np.linalg.norm(x, "fro"),
    "dot": lambda x: (np.dot(x, Y.T) ** 2).sum(),
    "dot vector": lambda x: np.dot(x[0], Y[0]),
    "dot number": lambda x: (np.dot(x, 3.0) * Y).sum(),
    "einsum": lambda x: np.einsum("ij,kj->ik", x, Y).sum() ** 2,
    "einsum dots": lambda x: (np.einsum("...j,j->...", x, V) ** 2).sum(),
    "einsum twice": lambda x: np.einsum("ij,ij->", x, x),
    "outer": lambda x: (np.outer(x[0], x[1]) ** 2).sum(),
    "concatenate": lambda x: (np.concatenate([x, Y, x * x], axis=1) ** 2).sum(),
    "concatenate flat": lambda x: (np.concatenate((x, Y), axis=None) ** 2).sum(),
    "stack": lambda x: (np.stack([x, Y, x], axis=1) ** 3).sum(),
    "stack last": lambda x: (np.stack([x, Y], axis=-1) ** 3).sum(),
    "vstack": lambda x: (np.vstack([x, Y[0]]) ** 3).sum(),
    "hstack": lambda x: (np.hstack([x[0], Y[0]]) ** 3).sum(),
    "reshape": lambda x: (np.reshape(x, (4, 3)) @ Y).sum() ** 2,
    "ravel": lambda x: (np.ravel(x) * Y.ravel()).sum() ** 2,
    "transpose": lambda x: ((np.transpose(x) @ Y) ** 2).sum(),
    "swapaxes": lambda x: ((np.swapaxes(x, 0, 1) @ Y) ** 2).sum(),
    "moveaxis": lambda x: (np.moveaxis(x[:, None], (0, 2), (2, 0)) * Y.T[:, None] ** 2).sum(),
    "expand_dims": lambda x: (np.expand_dims(x, (0, -1)) * Y[None, :, :, None]).sum() ** 2,
    "squeeze": lambda x: (np.squeeze(x[:, None], axis=1) * Y).sum() ** 2,
    "broadcast_to": lambda x: (np.broadcast_to(x[0], (3, 4)) * Y).sum(),
    "square": lambda x: (np.square(x) * Y).sum(),
    "sin": lambda x: (np.sin(x) * Y).sum(),
    "cos": lambda x: (np.cos(x) * Y).sum(),
    "exp": lambda x: (np.exp(x) * Y).sum(),
    "expm1": lambda x: (np.expm1(x) * Y).sum(),
    "log": lambda x: (np.log(x * x) * Y).sum(),
    "log1p": lambda x: (np.log1p(x * x) * Y).sum(),
    "log2": lambda x: (np.log2(x * x) * Y).sum(),
    "log10": lambda x: (np.log10(x * x) * Y).sum(),
    "logaddexp": lambda x: (np.logaddexp(x, Y) * Y).sum(),
    "sqrt": lambda x: (np.sqrt(x * x + 1) * Y).sum(),
    "sign": lambda x: (np.sign(x) * x * Y).sum(),
    "abs": lambda x: (np.abs(x) * Y).sum(),
    "fabs": lambda x: (np.fabs(x) * Y).sum(),
    "tanh": lambda x: (np.tanh(x) * Y).sum(),
    "maximum": lambda x: (np.maximum(x, Y) * V).sum(),
    "minimum": lambda x: (np.minimum(x, 0.3) * Y).sum(),
    "power": lambda x: (np.power(x, 2) * Y).sum(),
    "matmul": lambda x: (np.matmul(x, Y.T) ** 2).sum(),
    "arithmetic": lambda x: (np.divide(np.subtract(np.multiply(x, 2), np.negative(Y)), np.add(x * x, 1)) * V).sum(),
    "zeros_like": lambda x: (np.zeros_like(x) + x * np.ones_like(x) * np.full_like(x, 2.0) * Y).sum(),
    "argmax": lambda x: (x[np.arange(3), np.argmax(x, axis=1)] * V[:3]).sum(),
    "isfinite": lambda x: np.where(np.isfinite(x), x, 0).sum() ** 2,
    "x.max()": lambda x: x.max() * x.min() + x.max(axis=0).sum(),
    "x.std()": lambda x: x.std() + x.var(axis=0).sum() + x.var(ddof=1),
    "x.clip()": lambda x: (x.clip(-0.5, 0.6) * Y).sum() + x.prod() + (x.cumsum(axis=0) * Y).sum(),
    "x.ravel()": lambda x: (x.ravel() * Y.flatten()).sum() + x.flatten().sum() + x.swapaxes(0, 1).dot(Y).sum(),
    "x.squeeze()": lambda x: (x[None].squeeze() * Y).sum() ** 2,
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_written_in_numpy_is_differentiated(name):
    loss = LOSSES[name]
    value, grad = value_and_grad(loss)(X)
    np.testing.assert_allclose(value, loss(X), rtol=1e-14)
    assert grad.shape == X.shape
    assert gradient_error(loss, X) < 1e-7


def test_every_function_that_is_listed_is_tried_above():
    text = Path(__file__).read_text(encoding="utf-8")
    names = {f.__name__ for f in (*numpy_api.UFUNCS, *numpy_api.FUNCTIONS)} | numpy_api.METHODS.keys()
    aliases = {"absolute": "np.abs(", "max": "np.max(", "min": "np.min(", "norm": "np.linalg.norm("}
    missing = [
        n for n in names if aliases.get(n, f"np.{n}(") not in text and f"x.{n}(" not in text and n not in "astype"
    ]
    assert not [n for n in missing if f".{n}(" not in text], missing


# Ties and kinks, as PyTorch has them


def torch_grad(f, x):
    x = torch.tensor(x, requires_grad=True)
    f(x).backward()
    return x.grad.numpy()


@pytest.mark.parametrize(
    ("ours", "theirs", "at"),
    [
        (np.linalg.norm, torch.linalg.vector_norm, [0.0, 0.0, 0.0]),
        (lambda x: np.linalg.norm(x, axis=1).sum(), lambda x: x.norm(dim=1).sum(), [[0.0, 0.0], [3.0, 4.0]]),
        (np.std, lambda x: x.std(correction=0), [2.0, 2.0, 2.0]),
        (lambda x: np.std(x, ddof=1), torch.std, [2.0, 2.0, 2.0]),
        (np.max, torch.amax, [1.0, 3.0, 3.0, 2.0]),
        (np.max, torch.max, [1.0, 3.0, 3.0, 2.0]),
        (np.min, torch.min, [1.0, 1.0, 3.0, 2.0]),
        (lambda x: np.clip(x, 0, 1).sum(), lambda x: x.clamp(0, 1).sum(), [0.0, 1.0, 0.5, 2.0]),
        (lambda x: np.sign(x).sum() + x.sum(), lambda x: x.sign().sum() + x.sum(), [0.0, 1.0]),
        (lambda x: np.abs(x).sum(), lambda x: x.abs().sum(), [0.0, -1.0]),
        (np.prod, torch.prod, [0.0, 2.0, 3.0]),
        (np.prod, torch.prod, [0.0, 0.0, 3.0]),
    ],
)
def test_at_ties_and_kinks_the_gradient_is_pytorchs(ours, theirs, at):
    x = np.array(at)
    np.testing.assert_allclose(value_and_grad(ours)(x)[1], torch_grad(theirs, x), rtol=0, atol=1e-15)


def test_a_gradient_at_zero_of_a_norm_is_zero_without_a_warning():
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(value_and_grad(np.linalg.norm)(np.zeros(3))[1], np.zeros(3))
        np.testing.assert_array_equal(value_and_grad(np.std)(np.full(3, 7.0))[1], np.zeros(3))


def test_float32_stays_float32():
    for name, loss in LOSSES.items():
        if not any(word in name for word in ("full", "zeros_like")):
            value, grad = value_and_grad(lambda x, loss=loss: loss(x).astype(np.float32))(X.astype(np.float32))
            assert (value.dtype, grad.dtype) == (np.float32, np.float32), name


# What cannot be done


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (np.median, r"numpy\.median has no vector-Jacobian product here; nearest: np\.mean; known: absolute"),
        (np.linalg.inv, r"numpy\.linalg\.inv has no .*nearest: no inverse"),
        (np.sort, r"numpy\.sort has no .*argsort"),
        (np.arctan, r"numpy\.arctan has no"),
        (np.floor, r"numpy\.floor has no .*np\.where"),
        (np.add.reduce, r"numpy\.add\.reduce has no"),
        (lambda x: np.linalg.norm(x, "nuc"), "order nuc"),
        (lambda x: np.linalg.norm(x, 2), "order 2"),
        (lambda x: np.sum(x, where=x > 0), r"numpy\.sum of a traced value: .*where"),
        (lambda x: np.var(x[:1, :1], ddof=1), "1 numbers have no variance with ddof 1"),
        (lambda x: np.stack([x, x[0]]), r"stack: shapes \[\(3, 4\), \(4,\)\] differ"),
        (lambda x: np.stack([]) if x is None else np.stack([x], axis=5), "axis 5 is out of bounds"),
        (lambda x: np.squeeze(x, axis=0), r"squeeze: shape \(3, 4\)"),
        (lambda x: np.reshape(x, (4, 3), order="F"), "order 'F'"),
        (lambda x: np.clip(x, 0, 1, out=np.zeros((3, 4))), "would write into an array"),
        (lambda x: np.dot(x, np.zeros((2, 4, 3))), "use matmul"),
        (lambda x: float(x.sum()), "cannot become a plain number"),
        (lambda x: int(x.sum()), "cannot become a plain number"),
        (np.asarray, "cannot become a plain array"),
    ],
)
def test_the_message_names_what_comes_nearest(call, message):
    with pytest.raises(ValueError, match=message):
        vjp(call, X)


def test_a_method_that_is_missing_is_an_attribute_error_with_the_list():
    with pytest.raises(AttributeError, match=r"no argpartition; of an array's methods it has astype, clip"):
        vjp(lambda x: x.argpartition(2), X)
    with pytest.raises(AttributeError, match="a traced value has no colour"):
        vjp(lambda x: x.colour, X)


def test_a_loss_off_the_tape_is_an_error():
    for loss in (
        lambda w: np.array_equal(w, X),
        lambda w: float(np.argmax(w.value)),
        lambda w: (w.value**2).sum(),
        lambda w: (w > 0).sum(),
        np.count_nonzero,
        lambda w: 1.0,
    ):
        with pytest.raises(ValueError, match="does not depend on the parameters"):
            value_and_grad(loss)(X)


def test_an_integer_parameter_is_an_error_that_says_what_to_do():
    for params, name in ((3, "the parameter has dtype int64"), ({"w": X, "b": 0}, "the parameter 'b'"), (True, "bool")):
        with pytest.raises(ValueError, match=name):
            value_and_grad(lambda p: (p["w"] * p["b"]).sum() if isinstance(p, dict) else p * p)(params)
    with pytest.raises(ValueError, match=r"'a\.b' has dtype int64.*astype\(float\)"):
        value_and_grad(lambda p: (p["a"]["b"] * 1.0).sum())({"a": {"b": np.array([1, 2])}})
    with pytest.raises(ValueError, match="is a list; give an array, or a dict of arrays"):
        value_and_grad(lambda p: p[0].sum())([X])


def test_tanh_does_not_depend_on_which_module_was_imported():
    code = (
        "import numpy as np\nfrom nnbook.backprop import value_and_grad\n"
        "print(value_and_grad(lambda x: np.tanh(x).sum())(np.zeros(2))[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[1. 1.]"


def test_star_import_leaves_pythons_own_names_alone():
    names: dict = {}
    exec("from nnbook.backprop import *", names)
    assert "vjp" in names
    assert not {"sum", "abs", "max", "min", "pow"} & names.keys()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_gradient_never_aliases_the_callers_cotangent(dtype):
    """Whoever owns the memory: an array, a view, a PyTorch tensor."""
    for make in (
        lambda: np.ones(3, dtype),
        lambda: np.ones((2, 3), dtype)[0],
        lambda: torch.ones(3, dtype=getattr(torch, np.dtype(dtype).name)).numpy(),
        lambda: torch.ones(2, 3, dtype=getattr(torch, np.dtype(dtype).name)).numpy()[1],
    ):
        for f in (lambda x: x, lambda x: x + 0, lambda x: x.reshape(3), lambda x: np.concatenate([x]), lambda x: x[:]):
            dy = make()
            _, pull = vjp(f, np.arange(3, dtype=dtype))
            (grad,) = pull(dy)
            grad *= 10
            np.testing.assert_array_equal(dy, 1)


def test_two_gradients_never_share_memory():
    shared = torch.ones(3, dtype=torch.float64)
    _, pull = vjp(lambda a, b: a + b, np.zeros(3), np.zeros(3))
    a, b = pull(shared.numpy())
    a *= 10
    np.testing.assert_array_equal(b, 1)


def test_float16_gradients_are_added_up_in_float32():
    """A hundred cotangents of 1 beside one of 2048, at which float16 goes in steps of 2."""
    x = np.ones((), np.float16)
    _, grad = value_and_grad(lambda w: sum((w * 1.0 for _ in range(100)), start=w * 2048.0))(x)
    assert grad.dtype == np.float16
    assert grad == np.float16(2148)
