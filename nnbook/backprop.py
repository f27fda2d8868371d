"""Backpropagation: a tape of primitives and their vector-Jacobian products (chapter 3).

A *primitive* is a function from arrays to one array that carries its own derivative in the form of a vector-Jacobian
product (VJP). Called on arrays it is an ordinary function; called on :class:`Traced` values it also writes itself on a
tape. The tape is a list in the order of execution, which is already a topological order, so the backward sweep is one
loop without recursion::

    from nnbook.backprop import exp, value_and_grad

    def loss(params, x):
        return (exp(x @ params["w"]) ** 2).mean()

    value, grads = value_and_grad(loss)({"w": w}, x)        # grads["w"] has the shape and dtype of w

The engine is first order only: a gradient is an array, not a traced value, so it cannot be differentiated again.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from nnbook._arrays import (
    HALF,
    SINGLE,
    USUAL,
    Array,
    Axes,
    Given,
    OnTape,
    Tree,
    arguments,
    as_float,
    checked,
    numeric,
    to_dtype,
)
from nnbook._arrays import REAL as _REAL

__all__ = [
    "Primitive",
    "Traced",
    "absolute",
    "add",
    "astype",
    "by_number",
    "check_parameters",
    "complex_step_gradient",
    "concatenate",
    "directional_derivative",
    "divide",
    "exp",
    "flatten",
    "getitem",
    "gradient_error",
    "keep",
    "like",
    "log",
    "matmul",
    "maximum",
    "mean",
    "minimum",
    "mlp_loss_and_gradients",
    "multiply",
    "negative",
    "numerical_gradient",
    "power",
    "primitive",
    "record",
    "reshape",
    "sqrt",
    "stop_gradient",
    "subtract",
    "transpose",
    "tree_map",
    "unbroadcast",
    "unflatten",
    "value_and_grad",
    "vjp",
    "where",
]  # without sum, which would take the place of Python's own


# ---------------------------------------------------------------------------------------------------------------------
# The tape
# ---------------------------------------------------------------------------------------------------------------------


class Node:
    """One line of the tape: which primitive ran, on what, what its VJP needs, and where its traced inputs stand."""

    __slots__ = ("args", "parents", "primitive", "saved", "static", "value")

    def __init__(self, primitive, args, static, saved, parents, value):
        self.primitive = primitive
        self.args = args
        self.static = static
        self.saved = saved
        self.parents = parents  # one tape index per argument; -1 marks a constant
        self.value = value


class Tape:
    """The nodes of one trace in the order in which they ran. Closed once swept, so that no value outlives its trace."""

    __slots__ = ("nodes", "open")

    def __init__(self):
        self.nodes: list[Node | None] = []
        self.open = True

    def append(self, primitive, args, static, saved, parents, value) -> Traced:
        if isinstance(value, Array):
            value = value.view()  # a primitive may hand through an array of the caller's, which stays writeable
            value.flags.writeable = False  # a later in-place write would falsify what the VJPs saved
        elif type(value) is float:
            value = np.float64(value)  # a number with shape and dtype
        self.nodes.append(Node(primitive, args, static, saved, parents, value))
        return Traced(value, self, len(self.nodes) - 1)


class Primitive:
    """A function ``forward(*arrays, **static) -> (value, saved)`` together with its VJP. Made by :func:`primitive`."""

    __name__: str

    def __init__(self, forward: Callable[..., tuple[Any, Any]]):
        functools.update_wrapper(self, forward)
        self.forward = forward
        self.vjp: Callable[..., tuple] | None = None
        self.signature = inspect.signature(forward)
        self.static_names = frozenset(
            p.name for p in self.signature.parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY
        )
        self.arguments = arguments(forward)
        self.options = {
            name: argument.convert
            for name, argument in self.arguments.items()
            if name in self.static_names and argument.convert is not None
        }
        self.takes_many = any(p.kind is p.VAR_POSITIONAL for p in self.signature.parameters.values())
        self.places = [name for name in self.arguments if name not in self.static_names]

    def __repr__(self) -> str:
        return f"<primitive {self.__name__}>"

    def defvjp(self, vjp: Callable[..., tuple]) -> Callable[..., tuple]:
        """Register ``vjp(dy, saved, *arrays, **static)``, which returns one cotangent per array argument.

        A cotangent is an array of its argument's shape, ``None`` (no derivative, for example for integer labels), or a
        function without arguments that computes it, which the engine calls only if the cotangent is needed. A VJP must
        not write into ``dy``: the same array may be the cotangent of another value too.
        """
        self.vjp = vjp
        return vjp

    def __call__(self, *args, **static):
        if static:
            if not self.static_names.issuperset(static):  # an array argument was passed by keyword
                args, static = self._bind(args, static)
            static = {name: self._option(name, value) for name, value in static.items()}
        tape = None
        arrays, parents = [], []
        for arg in args:
            if type(arg) is Traced:
                if tape is None:
                    tape = arg.tape
                elif arg.tape is not tape:
                    raise ValueError(
                        f"{self.__name__}: the arguments come from two different traces; the engine is first order "
                        "only, so a function being differentiated cannot differentiate another one by its traced values"
                    )
                arrays.append(arg.value)
                parents.append(arg.index)
            else:
                arrays.append(arg if type(arg) is float else self._as_array(arg, len(arrays)))
                parents.append(-1)
        half = self._to_floats(arrays)
        if tape is None:
            value = self.forward(*arrays, **static)[0]
            return _rounded(value) if half else value
        if not tape.open:
            raise ValueError(f"{self.__name__}: an argument belongs to a trace that has already ended")
        value, saved = self.forward(*arrays, **static)
        return tape.append(self, arrays, static, saved, parents, _rounded(value) if half else value)

    def _option(self, name, value):
        if isinstance(value, OnTape):
            raise ValueError(f"{self.__name__}: there is no derivative with respect to the option {name}")
        convert = self.options.get(name)
        if convert is None or (value is None and self.arguments[name].optional):
            return value
        return convert(f"{self.__name__}: {name}", value)

    def as_floats(self, args) -> list:
        """The arguments as ``forward`` gets them: integers and float16 in the place of real numbers are converted."""
        arrays = list(args)
        self._to_floats(arrays)
        return arrays

    def _to_floats(self, arrays: list) -> bool:
        """Bring integers and float16 to the dtype in which to compute, in place; is the answer to be float16?"""
        for array in arrays:
            if type(array) is Array and array.dtype not in USUAL:
                break
        else:
            return False
        reals = [i for i, a in enumerate(arrays) if isinstance(a, Array) and self._argument(i).kind == _REAL]
        floats = [arrays[i].dtype for i in reals if arrays[i].dtype.kind in "fc"]
        dtype = np.result_type(*floats) if floats else np.dtype(np.float64)
        for i in reals:
            arrays[i] = to_dtype(arrays[i], _computed(dtype))
        return dtype == HALF

    def _argument(self, i: int):
        return self.arguments[self.places[min(i, len(self.places) - 1)]]

    def _bind(self, args, static):
        try:
            bound = self.signature.bind(*args, **static)
        except TypeError as error:
            raise TypeError(f"{self.__name__}: {error}") from None
        bound.apply_defaults()  # an array argument before the named one may have been left out
        return bound.args, bound.kwargs

    def _as_array(self, arg, position):
        """Numbers stay Python numbers, so that they do not promote float32; anything else must be a numeric array."""
        argument = self._argument(position)
        if isinstance(arg, (int, float)) and not isinstance(arg, np.generic):
            return float(arg) if isinstance(arg, bool) and argument.kind == _REAL else arg
        if arg is None and argument.optional:
            return arg
        if isinstance(arg, (list, tuple)) and self.takes_many:
            raise ValueError(f"{self.__name__} takes its arrays one by one, {self.__name__}(a, b), not in a list")
        return numeric(f"{self.__name__}: argument {self.places[min(position, len(self.places) - 1)]}", arg)


def _rounded(value):
    """An answer that was computed in float32 for arguments in float16."""
    with np.errstate(over="ignore"):  # beyond 65504 float16 knows infinity only
        return np.asarray(value, HALF)[()] if np.result_type(value) == SINGLE else value


@checked
def primitive(forward: Callable[..., tuple[Any, Any]]) -> Primitive:
    """Turn ``forward(*arrays, **static) -> (value, saved)`` into a primitive; attach its VJP with ``@name.defvjp``.

    ``saved`` is whatever the VJP wants to keep from the forward pass (``None`` if nothing). Array arguments are
    positional; everything that is not differentiated (an axis, a stride) is keyword-only.
    """
    return Primitive(forward)


class Traced(OnTape):
    """An array on the tape. It has operators, indexing and the methods of an array, and NumPy's functions take it.

    Which of NumPy's functions do is listed in :mod:`nnbook.numpy_api`; the others say what to use in their place.
    """

    __slots__ = ("index", "tape", "value")

    def __init__(self, value, tape: Tape, index: int):
        self.value = value
        self.tape = tape
        self.index = index

    shape = property(lambda self: self.value.shape)
    ndim = property(lambda self: self.value.ndim)
    size = property(lambda self: self.value.size)
    dtype = property(lambda self: self.value.dtype)

    @property
    def T(self):
        return transpose(self)

    def __repr__(self) -> str:
        return f"Traced({np.array2string(np.asarray(self.value), threshold=10)})"

    def __add__(self, other):
        return add(self, other)

    def __radd__(self, other):
        return add(other, self)

    def __sub__(self, other):
        return subtract(self, other)

    def __rsub__(self, other):
        return subtract(other, self)

    def __mul__(self, other):
        return multiply(self, other)

    def __rmul__(self, other):
        return multiply(other, self)

    def __truediv__(self, other):
        return divide(self, other)

    def __rtruediv__(self, other):
        return divide(other, self)

    def __pow__(self, other):
        return power(self, other)

    def __rpow__(self, other):
        return power(other, self)

    def __matmul__(self, other):
        return matmul(self, other)

    def __rmatmul__(self, other):
        return matmul(other, self)

    def __neg__(self):
        return negative(self)

    def __abs__(self):
        return absolute(self)

    # A comparison has derivative zero wherever it has one, so it leaves the tape and gives a plain boolean array.
    def __lt__(self, other):
        return self.value < _plain(other)

    def __le__(self, other):
        return self.value <= _plain(other)

    def __gt__(self, other):
        return self.value > _plain(other)

    def __ge__(self, other):
        return self.value >= _plain(other)

    def __eq__(self, other):
        return self.value == _plain(other)

    def __ne__(self, other):
        return self.value != _plain(other)

    __hash__ = None  # type: ignore[assignment]  # two traced values of equal numbers are still two values

    def __getitem__(self, index):
        return getitem(self, index=index)

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator[Traced]:
        return (self[i] for i in range(len(self)))

    def sum(self, axis=None, dtype=None, out=None, keepdims=False):
        return sum(self, axis=axis, keepdims=_no_output(out, dtype, keepdims))

    def mean(self, axis=None, dtype=None, out=None, keepdims=False):
        return mean(self, axis=axis, keepdims=_no_output(out, dtype, keepdims))

    def reshape(self, *shape):
        return reshape(self, shape=shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes):
        if len(axes) == 1 and not isinstance(axes[0], int):
            axes = axes[0]
        return transpose(self, axes=axes or None)

    def astype(self, dtype):
        return astype(self, dtype=dtype)

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        return _numpy_api()._call_ufunc(ufunc, method, inputs, kwargs)

    def __array_function__(self, function, types, args, kwargs):
        return _numpy_api()._call_function(function, args, kwargs)

    def __getattr__(self, name):
        return _numpy_api()._method_of(self, name)

    def __setitem__(self, index, value):
        raise ValueError("a traced value cannot be written in place: the VJPs need it as it was; make a new array")

    def __array__(self, *args, **kwargs):
        raise ValueError(
            "a traced value cannot become a plain array on the way to a loss, because its derivative would be lost: "
            "use operators and NumPy's functions on it"
        )

    def __float__(self):
        raise ValueError(
            "a traced value cannot become a plain number on the way to a loss, because its derivative would be lost; "
            "leave it as it is"
        )

    __int__ = __index__ = __float__

    def __bool__(self):
        raise ValueError(
            "a traced value has no truth value: the way that an if takes is not differentiated; np.where(condition, a, "
            "b) chooses entry by entry"
        )


def _numpy_api():
    """NumPy's functions on traced values, loaded when the first one is called."""
    from nnbook import numpy_api

    return numpy_api


def _plain(x):
    return x.value if type(x) is Traced else x


def _no_output(out, dtype, keepdims):
    if out is not None or dtype is not None:
        raise ValueError("reductions of traced values take neither out nor dtype")
    return keepdims


# ---------------------------------------------------------------------------------------------------------------------
# The user interface: vjp, value_and_grad
# ---------------------------------------------------------------------------------------------------------------------


def vjp(f: Callable, *args: Tree, **static) -> tuple[Any, Callable[[Any], tuple]]:
    """Run ``f(*args, **static)`` and return its value with its pullback (:eq:`eq-pullback`).

    Args:
        f: a function composed of primitives; returns one array.
        *args: real arrays or trees of them. Integer and boolean arrays are passed through untraced.
        **static: handed to ``f`` as they are.

    Returns:
        ``(y, pull)``. ``pull(dy)`` takes a cotangent of ``y``'s shape and returns one cotangent per argument, each with
        its argument's structure, shapes and dtypes (``None`` for integers, zeros for what ``f`` did not use), in arrays
        of their own. It can be called once: the sweep frees what the forward pass saved as it goes.

    The tape holds the arrays themselves, not copies. Do not write into an argument, or into a constant that ``f`` used,
    before ``pull``: NumPy cannot notice, and the derivative would be taken at the new values.

    Raises:
        ValueError: ``dy`` has another shape than ``y``; a second call of ``pull``; values of another trace; complex
            arguments, whose VJPs would need conjugates.
    """
    if not callable(f):
        raise ValueError(f"vjp: the first argument must be a function, not {type(f).__name__}")
    tape = Tape()
    leaves: list[Any] = []

    def trace(leaf):
        if type(leaf) is Traced:
            raise ValueError("the engine is first order only: a traced value cannot be differentiated a second time")
        array = np.asarray(leaf)
        leaves.append(array)
        if leaf is None or array.dtype.kind in "iub":
            tape.nodes.append(None)  # keeps leaf number i at tape index i
            return leaf
        if array.dtype.kind != "f":
            raise ValueError(f"no derivative by a {type(leaf).__name__} of dtype {array.dtype}: give real numbers")
        return tape.append(None, (), {}, None, (), array.view())

    traced = [tree_map(trace, arg) for arg in args]
    out = f(*traced, **static)
    if type(out) is Traced and out.tape is not tape:
        raise ValueError("the function returned a value of another trace")
    y = _plain(out)
    if not isinstance(y, (Array, np.generic, float, int)):
        raise ValueError(f"the function must return one array, not {type(y).__name__}")

    def pull(dy) -> tuple:
        if not tape.open:
            raise ValueError("this pullback was already used: the sweep frees what it needs; call vjp again")
        if np.shape(dy) != np.shape(y):
            raise ValueError(f"the cotangent has shape {np.shape(dy)}, the output has shape {np.shape(y)}")
        tape.open = False
        found = _sweep(tape, out.index, np.asarray(dy, _computed(np.result_type(y)))) if type(out) is Traced else {}
        tape.nodes.clear()
        owners = {id(_owner(dy))}
        grads = iter([_own(found.get(i), leaf, owners) for i, leaf in enumerate(leaves)])
        return tuple(tree_map(lambda _: next(grads), arg) for arg in args)

    return y, pull


def _own(grad, leaf, owners: set[int]):
    """A gradient as an array that shares its memory with no other one, so that it can be scaled in place."""
    if leaf.dtype.kind != "f":
        return None
    if grad is None:
        return np.zeros_like(leaf)
    if grad.dtype != leaf.dtype:  # float16, whose cotangents were added up in float32
        return _rounded(grad)
    owner = _owner(grad)
    if not isinstance(grad, Array) or not grad.flags.writeable or id(owner) in owners or not owner.flags.owndata:
        return np.array(grad)  # without data of its own it may look into memory that PyTorch, say, also sees
    owners.add(id(owner))
    return grad


def _owner(array):
    """The array at the end of a chain of views."""
    while isinstance(getattr(array, "base", None), Array):
        array = array.base
    return array


def _computed(dtype):
    """The dtype of a value's cotangents: its own, and float32 for float16."""
    return SINGLE if dtype == HALF else dtype


def _sweep(tape: Tape, start: int, dy, *, free: bool = True) -> dict[int, Any]:
    """Walk the tape backwards from node ``start``, adding up cotangents by tape index.

    With ``free``, nodes and their adjoints are dropped as soon as they are used, so only the inputs' adjoints remain.
    """
    nodes = tape.nodes
    adjoints: dict[int, Any] = {start: dy}
    for i in range(start, -1, -1):
        node = nodes[i]
        if node is None or node.primitive is None:  # an input: its adjoint is a result
            continue
        if free:
            nodes[i] = None
        if i not in adjoints:
            continue
        dy = adjoints.pop(i) if free else adjoints[i]
        for parent, arg, dx in zip(node.parents, node.args, _cotangents(node, dy), strict=False):
            if parent < 0 or dx is None:
                continue
            if callable(dx):
                dx = dx()
            if type(dx) is not Array:
                dx = np.asarray(dx)
            if dx.shape != arg.shape:
                raise ValueError(f"{node.primitive.__name__}: VJP gave shape {dx.shape} for an argument of {arg.shape}")
            if dx.dtype != arg.dtype:
                dx = _cast(dx, _computed(arg.dtype), node.primitive)
            adjoints[parent] = adjoints[parent] + dx if parent in adjoints else dx
    return adjoints


def _cast(dx, dtype, primitive: Primitive):
    if dx.dtype.kind == "c" and dtype.kind != "c":
        raise ValueError(f"{primitive.__name__}: a complex number entered a real computation; the engine is for reals")
    return dx.astype(dtype)


def _cotangents(node: Node, dy) -> tuple:
    if node.primitive.vjp is None:
        raise ValueError(f"{node.primitive.__name__} has no VJP; define one with @{node.primitive.__name__}.defvjp")
    cotangents = node.primitive.vjp(dy, node.saved, *node.args, **node.static)
    if type(cotangents) is not tuple or len(cotangents) < len(node.args):
        raise ValueError(f"{node.primitive.__name__}: the VJP must return a tuple with one cotangent per argument")
    return cotangents


@checked
def value_and_grad(loss: Callable) -> Callable:
    """Return ``g(params, *args, **kwargs) -> (value, grads)``: a loss and its gradient (:eq:`eq-gradient`).

    ``params`` is an array or a nested dict of arrays; ``grads`` has the same keys, shapes and dtypes. The other
    arguments are constants.

    Raises:
        ValueError: the loss is not a scalar (names its shape); a parameter is an integer, which cannot follow a
            gradient (names it); the loss does not depend on the parameters, or left the tape on the way.
    """

    @functools.wraps(loss)
    def valued(params, *args, **kwargs):
        check_parameters(params)
        on_tape = []

        def traced_loss(p):
            value = loss(p, *args, **kwargs)
            on_tape.append(type(value) is Traced)
            return value

        value, pull = vjp(traced_loss, params)
        if np.shape(value) != ():
            raise ValueError(
                f"the loss must be a scalar, not an array of shape {np.shape(value)}; take .mean() or .sum()"
            )
        if not on_tape[0]:
            raise ValueError(
                "the loss does not depend on the parameters, so its gradient would be zero: either it never uses them, "
                "or on the way they became plain numbers, by .value, a comparison or a count; build it from operators, "
                "NumPy's functions and the functions of nnbook on the parameters themselves"
            )
        return value, pull(1.0)[0]

    return valued


def stop_gradient(tree):
    """The same numbers off the tape: what comes after depends on them as on constants.

    Takes an array, a traced value, ``None``, or dicts, tuples and lists of them, in any depth. PyTorch: ``detach``.
    """
    if isinstance(tree, dict):
        return {key: stop_gradient(branch) for key, branch in tree.items()}
    if isinstance(tree, (tuple, list)):
        parts = map(stop_gradient, tree)
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return tree.value if type(tree) is Traced else tree


def check_parameters(params: Tree, path: str = "") -> None:
    """Refuse what cannot follow a gradient.

    Raises:
        ValueError: a leaf is an integer, a list or no number; names it and says what to do.
    """
    if isinstance(params, dict):
        for key, branch in params.items():
            check_parameters(branch, f"{path}.{key}" if path else str(key))
        return
    name = f"the parameter {path!r}" if path else "the parameter"
    if isinstance(params, (list, tuple)):
        raise ValueError(
            f"{name} is a {type(params).__name__}; give an array, or a dict of arrays such as "
            "{str(i): array for i, array in enumerate(...)}"
        )
    if params is None or type(params) is Traced:
        return
    dtype = numeric(name, params).dtype
    if dtype.kind in "iub":
        raise ValueError(
            f"{name} has dtype {dtype}, and only floats can follow a gradient: write 0.0 for 0, or .astype(float)"
        )


class Step(NamedTuple):
    """One node of a recorded graph: ``parents`` are positions in the list of steps."""

    name: str
    parents: tuple[int, ...]
    value: Any
    adjoint: Any


@checked
def record(f: Callable, *args, names: tuple[str, ...] | None = None) -> list[Step]:
    """Run ``f`` on arrays, then backwards from a scalar result; return every node with its value and adjoint.

    Meant for looking at small graphs: :func:`nnbook.plots.graph` draws it. Adjoints that the sweep never reached are
    ``None``; constants do not appear.

    Args:
        f: a function composed of primitives that returns a scalar.
        *args: float arrays.
        names: labels for the inputs; the parameter names of ``f`` if not given.

    Raises:
        ValueError: the result is not a scalar, or does not depend on the arguments.
    """
    names = names or tuple(inspect.signature(f).parameters)
    if len(names) != len(args):
        raise ValueError(f"{len(names)} names for {len(args)} inputs")
    tape = Tape()
    out = f(*(tape.append(None, (), {}, None, (), np.array(a, float)) for a in args))
    if type(out) is not Traced or out.shape != ():
        raise ValueError(
            f"record needs a scalar that depends on its arguments, not one of shape {np.shape(_plain(out))}"
        )
    adjoints = _sweep(tape, out.index, np.ones(()), free=False)
    tape.open = False
    return [
        Step(
            names[i] if node.primitive is None else node.primitive.__name__,
            tuple(p for p in node.parents if p >= 0),
            node.value,
            adjoints.get(i),
        )
        for i, node in enumerate(tape.nodes)
        if node is not None
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Trees of parameters
# ---------------------------------------------------------------------------------------------------------------------


def tree_map(f: Callable, tree: Tree, *rest: Tree) -> Tree:
    """Apply ``f`` leaf by leaf to trees of equal structure.

    Raises:
        ValueError: the trees have different keys, or ``f`` is no function.
    """
    if not callable(f):
        raise ValueError(f"tree_map: the first argument must be a function, not {type(f).__name__}")
    if not isinstance(tree, dict):
        if any(isinstance(other, dict) for other in rest):
            raise ValueError(f"trees differ: a {type(tree).__name__} against a dict")
        return f(tree, *rest)
    for other in rest:
        if not isinstance(other, dict) or other.keys() != tree.keys():
            keys = sorted(other) if isinstance(other, dict) else type(other).__name__
            raise ValueError(f"trees differ: {sorted(tree)} against {keys}")
    return {key: tree_map(f, branch, *(other[key] for other in rest)) for key, branch in tree.items()}


def flatten(tree: Tree) -> dict[str, Any]:
    """``{"0": {"weight": W}}`` -> ``{"0.weight": W}``, the keys of a PyTorch ``state_dict``.

    A branch without leaves, such as the parameters of a normalization that has none, has no key, as in PyTorch;
    :func:`like` puts it back.

    Raises:
        ValueError: ``tree`` is no dict; a key is not a non-empty string, or contains a dot.
    """
    if not isinstance(tree, dict):
        raise ValueError(f"flatten: the tree must be a dict, not {type(tree).__name__}")
    flat: dict[str, Any] = {}
    for key, branch in tree.items():
        if not isinstance(key, str) or not key or "." in key:
            raise ValueError(f"the key {key!r} must be a non-empty string without dots")
        if isinstance(branch, dict):
            flat.update({f"{key}.{inner}": leaf for inner, leaf in flatten(branch).items()})
        else:
            flat[key] = branch
    return flat


def unflatten(flat: dict[str, Any]) -> Tree:
    """The inverse of :func:`flatten`, but for branches without leaves.

    Raises:
        ValueError: ``flat`` is no dict with text as keys; one key is a prefix of another, so that a leaf would also be
            a branch.
    """
    if not isinstance(flat, dict) or not all(isinstance(key, str) for key in flat):
        raise ValueError("unflatten: expected a dict whose keys are text")
    tree: dict[str, Any] = {}
    for key, leaf in flat.items():
        *path, last = key.split(".")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
            if not isinstance(branch, dict):
                raise ValueError(f"{key!r} runs through a leaf")
        if last in branch:
            raise ValueError(f"{key!r} is both a leaf and a branch")
        branch[last] = leaf
    return tree


def like(tree: Tree, flat: dict[str, Any]) -> Tree:
    """The leaves of ``flat``, found by their dotted names, in the branches of ``tree`` and in its order.

    Raises:
        ValueError: a name of one is not in the other.
    """
    names = flatten(tree).keys()
    if not isinstance(flat, dict):
        raise ValueError(f"like: the leaves must be a dict, not {type(flat).__name__}")
    if names != flat.keys():
        raise ValueError(f"the names differ: {sorted(names ^ flat.keys())} stand on one side only")

    def fill(branch, path):
        return {
            key: fill(inner, f"{path}{key}.") if isinstance(inner, dict) else flat[f"{path}{key}"]
            for key, inner in branch.items()
        }

    return fill(tree, "")


def by_number(branch: dict[str, Any]) -> list[str]:
    """The keys ``"0"``, ``"1"``, ... ``"10"`` of a stack of layers in the order of their numbers.

    A network takes its order from the names: the order of a dict is lost in files, which sort ``"10"`` before ``"2"``.

    Raises:
        ValueError: ``branch`` is no dict, or a key is no number.
    """
    if not isinstance(branch, dict):
        raise ValueError(f"a stack of layers must be a dict, not {type(branch).__name__}")
    for key in branch:
        if not (isinstance(key, str) and key.isascii() and key.isdigit()):
            raise ValueError(f"the layers of a stack are named by numbers, and one is called {key!r}")
    return sorted(branch, key=int)


# ---------------------------------------------------------------------------------------------------------------------
# Elementary primitives
# ---------------------------------------------------------------------------------------------------------------------


def unbroadcast(dy, shape: tuple[int, ...]):
    """Sum ``dy`` down to ``shape``: the VJP of broadcasting (:eq:`eq-unbroadcast`).

    What broadcasting repeated, its VJP adds: axes that were prepended or stretched from size 1 are summed.

    Raises:
        ValueError: ``shape`` does not broadcast to the shape of ``dy`` (names both).
    """
    if type(dy) is not Array:
        dy = as_float("unbroadcast: dy", dy)
    if dy.shape == shape:
        return dy
    if not _broadcasts(shape, dy.shape):
        raise ValueError(f"unbroadcast: shape {shape} does not broadcast to {dy.shape}")
    dy = dy.sum(tuple(range(dy.ndim - len(shape))))
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 and dy.shape[i] != 1)
    return dy.sum(stretched, keepdims=True) if stretched else dy


def _broadcasts(shape, to) -> bool:
    try:
        return np.broadcast_shapes(shape, to) == to
    except (TypeError, ValueError):
        return False


def keep(dy, mask):
    """``np.where(mask, dy, 0)``, which takes several times as long where the mask follows no pattern.

    There a processor guesses wrongly which way to go. Products of integers have no ways: the bits of a number times 1
    are the number, infinite and nan included, and times 0 they are those of 0.

    Args:
        dy: (...) of floats.
        mask: (...) bool.

    Returns:
        (...), the dtype of ``dy``.
    """
    if type(dy) is not Array:
        dy = as_float("keep: dy", dy)
    mask = numeric("keep: mask", mask)
    if mask.dtype.kind != "b":
        raise ValueError(f"keep: the mask has dtype {mask.dtype}, expected bool")
    if dy.dtype.kind != "f" or dy.itemsize > 8:  # no integers as wide as that
        return np.where(mask, dy, dy.dtype.type(0))
    return (dy.view(f"i{dy.itemsize}") * mask).view(dy.dtype)


@primitive
def add(x, y):
    """Sum ``x + y`` with broadcasting (:eq:`eq-add`)."""
    return x + y, None


@add.defvjp
def add_vjp(dz, saved, x, y):
    """:eq:`eq-add-vjp`."""
    return lambda: unbroadcast(dz, np.shape(x)), lambda: unbroadcast(dz, np.shape(y))


@primitive
def subtract(x, y):
    """Difference ``x - y`` with broadcasting (:eq:`eq-subtract`)."""
    return x - y, None


@subtract.defvjp
def subtract_vjp(dz, saved, x, y):
    """:eq:`eq-subtract-vjp`."""
    return lambda: unbroadcast(dz, np.shape(x)), lambda: unbroadcast(-dz, np.shape(y))


@primitive
def multiply(x, y):
    """Element-wise product ``x * y`` with broadcasting (:eq:`eq-multiply`)."""
    return x * y, None


@multiply.defvjp
def multiply_vjp(dz, saved, x, y):
    """:eq:`eq-multiply-vjp`."""
    return lambda: unbroadcast(dz * y, np.shape(x)), lambda: unbroadcast(dz * x, np.shape(y))


@primitive
def divide(x, y):
    """Element-wise quotient ``x / y`` with broadcasting (:eq:`eq-divide`). Division by zero is NumPy's: inf or nan."""
    return x / y, None


@divide.defvjp
def divide_vjp(dz, saved, x, y):
    """:eq:`eq-divide-vjp`."""
    return lambda: unbroadcast(dz / y, np.shape(x)), lambda: unbroadcast(-dz * (x / y / y), np.shape(y))


@primitive
def negative(x):
    """``-x`` (:eq:`eq-negative`)."""
    return -x, None


@negative.defvjp
def negative_vjp(dy, saved, x):
    """:eq:`eq-negative-vjp`."""
    return (-dy,)


@primitive
def power(x, p):
    """``x ** p`` with broadcasting (:eq:`eq-power`).

    The derivative in ``p`` needs ``x >= 0`` (it contains ``log x``) and is taken as 0 where ``x`` is 0, as PyTorch
    does; the one in ``x`` is taken as 0 where ``p`` is 0.
    """
    return x**p, None


@power.defvjp
def power_vjp(dy, saved, x, p):
    """:eq:`eq-power-vjp`."""

    def dx():
        # Where p = 0 the function is constant, also at 0 and inf, where p x^(p-1) would read 0 * inf.
        if np.ndim(p) == 0:
            return unbroadcast(dy * p * x ** (p - 1) if p else np.zeros_like(dy), np.shape(x))
        base, below = np.where(np.equal(p, 0), 1, x), np.where(np.equal(p, 0), 0, p - 1)
        return unbroadcast(dy * p * base**below, np.shape(x))

    def dp():
        # 0^p is 0 for all p > 0, so its derivative is 0 there, where x^p log x would read 0 * -inf.
        base = np.where(np.equal(x, 0) & np.greater_equal(p, 0), 1, x)
        return unbroadcast(dy * x**p * np.log(base).astype(dy.dtype), np.shape(p))

    return dx, dp


@primitive
def matmul(a, b):
    """Matrix product with NumPy's rules for vectors and stacks (:eq:`eq-matmul`).

    Args:
        a: (..., n, k) or (k,).
        b: (..., k, m) or (k,).

    Raises:
        ValueError: the inner sizes differ (names both shapes), or an argument is a scalar.
    """
    inner = np.shape(b)[-2] if np.ndim(b) > 1 else np.size(b)
    if np.ndim(a) == 0 or np.ndim(b) == 0 or np.shape(a)[-1] != inner:
        raise ValueError(f"matmul: shapes {np.shape(a)} and {np.shape(b)} do not fit")
    return a @ b, None


@matmul.defvjp
def matmul_vjp(dy, saved, a, b):
    """:eq:`eq-matmul-vjp`."""
    # A vector is a matrix with one row (left) or one column (right) whose extra axis NumPy drops from the result.
    rows = a[None, :] if a.ndim == 1 else a
    columns = b[:, None] if b.ndim == 1 else b
    dy = np.expand_dims(dy, tuple(ax for ax, v in ((-2, a), (-1, b)) if v.ndim == 1))
    return (
        lambda: unbroadcast(dy @ columns.swapaxes(-1, -2), rows.shape).reshape(a.shape),
        lambda: unbroadcast(rows.swapaxes(-1, -2) @ dy, columns.shape).reshape(b.shape),
    )


@primitive
def exp(x):
    """``e ** x`` (:eq:`eq-exp`)."""
    y = np.exp(x)
    return y, y


@exp.defvjp
def exp_vjp(dy, y, x):
    """:eq:`eq-exp-vjp`."""
    return (dy * y,)


@primitive
def log(x):
    """Natural logarithm (:eq:`eq-log`). At 0 it is -inf with NumPy's warning, below 0 nan."""
    return np.log(x), None


@log.defvjp
def log_vjp(dy, saved, x):
    """:eq:`eq-log-vjp`."""
    return (dy / x,)


@primitive
def sqrt(x):
    """Square root (:eq:`eq-sqrt`). The derivative at 0 is infinite."""
    y = np.sqrt(x)
    return y, y


@sqrt.defvjp
def sqrt_vjp(dy, y, x):
    """:eq:`eq-sqrt-vjp`."""
    return (dy / (2 * y),)


@primitive
def astype(x: Given, *, dtype):
    """The same numbers in another floating dtype (:eq:`eq-astype`).

    Raises:
        ValueError: ``dtype`` is not one of floats.

    PyTorch: ``x.to(dtype)``.
    """
    try:
        dtype = np.dtype(dtype)
    except TypeError:
        raise ValueError(f"astype: {dtype!r} is no dtype") from None
    if dtype.kind not in "fc":
        raise ValueError(f"astype: a derivative needs floats, and {dtype} holds none")
    return np.asarray(x, dtype), None


@astype.defvjp
def astype_vjp(dy, saved, x, *, dtype):
    """:eq:`eq-astype-vjp`."""
    return (np.asarray(dy, _computed(np.result_type(x))),)


@primitive
def absolute(x):
    """``|x|`` (:eq:`eq-absolute`). At the kink ``x = 0`` the derivative is taken as 0, as PyTorch does."""
    return np.abs(x), None


@absolute.defvjp
def absolute_vjp(dy, saved, x):
    """:eq:`eq-absolute-vjp`."""
    return (dy * np.sign(x),)


@primitive
def maximum(x, y):
    """Element-wise maximum with broadcasting (:eq:`eq-maximum`). At a tie each argument gets half, as PyTorch does."""
    return np.maximum(x, y), None


@maximum.defvjp
def maximum_vjp(dz, saved, x, y):
    """:eq:`eq-maximum-vjp`."""
    return (
        lambda: unbroadcast(_share(dz, np.greater(x, y), np.equal(x, y)), np.shape(x)),
        lambda: unbroadcast(_share(dz, np.less(x, y), np.equal(x, y)), np.shape(y)),
    )


@primitive
def minimum(x, y):
    """Element-wise minimum with broadcasting (:eq:`eq-minimum`). At a tie each argument gets half, as PyTorch does."""
    return np.minimum(x, y), None


@minimum.defvjp
def minimum_vjp(dz, saved, x, y):
    """:eq:`eq-minimum-vjp`."""
    return (
        lambda: unbroadcast(_share(dz, np.less(x, y), np.equal(x, y)), np.shape(x)),
        lambda: unbroadcast(_share(dz, np.greater(x, y), np.equal(x, y)), np.shape(y)),
    )


def _share(dz, wins, ties):
    # Chosen, not multiplied: a factor 0 would turn an infinite cotangent of the other side into nan.
    return np.where(wins, dz, np.where(ties, dz / 2, 0))


@primitive
def where(condition: Given, x, y):
    """``x`` where ``condition`` holds, else ``y``, with broadcasting (:eq:`eq-where`).

    Raises:
        ValueError: ``condition`` is not boolean.
    """
    if np.result_type(condition).kind != "b":
        raise ValueError(f"where: the condition has dtype {np.result_type(condition)}, expected bool")
    return np.where(condition, x, y), None


@where.defvjp
def where_vjp(dz, saved, condition, x, y):
    """:eq:`eq-where-vjp`."""
    return (
        None,
        lambda: unbroadcast(keep(dz, condition), np.shape(x)),
        lambda: unbroadcast(keep(dz, np.logical_not(condition)), np.shape(y)),
    )


@primitive
def sum(x, *, axis: Axes = None, keepdims=False):
    """Sum over ``axis``, an int, a tuple or all axes (:eq:`eq-sum`)."""
    return np.sum(x, axis=axis, keepdims=keepdims), None


@sum.defvjp
def sum_vjp(dy, saved, x, *, axis=None, keepdims=False):
    """:eq:`eq-sum-vjp`."""
    return (np.broadcast_to(_keep_axes(dy, x, axis, keepdims), x.shape),)


@primitive
def mean(x, *, axis: Axes = None, keepdims=False):
    """Mean over ``axis``, an int, a tuple or all axes (:eq:`eq-mean`).

    Raises:
        ValueError: there is nothing to average.
    """
    axes = range(np.ndim(x)) if axis is None else normalize_axis_tuple(axis, np.ndim(x))
    count = math.prod(np.shape(x)[i] for i in axes)
    if count == 0:
        raise ValueError(f"mean: nothing to average in shape {np.shape(x)} over axis {axis}")
    return np.mean(x, axis=axis, keepdims=keepdims), count


@mean.defvjp
def mean_vjp(dy, count, x, *, axis=None, keepdims=False):
    """:eq:`eq-mean-vjp`."""
    return (np.broadcast_to(_keep_axes(dy, x, axis, keepdims) / count, x.shape),)


def _keep_axes(dy, x, axis, keepdims):
    """Give a reduction's cotangent back the axes that the reduction dropped, with size 1."""
    if keepdims:
        return dy
    if axis is None:
        return np.reshape(dy, (1,) * np.ndim(x))
    return np.expand_dims(dy, axis)


@primitive
def reshape(x: Given, *, shape: int | tuple[int, ...]):
    """The same entries in another shape, in C order (:eq:`eq-reshape`); one size may be -1.

    Raises:
        ValueError: the sizes do not fit (names both shapes).
    """
    try:
        return np.reshape(x, shape), None
    except ValueError:
        raise ValueError(f"reshape: shape {np.shape(x)} does not fit into {shape}") from None


@reshape.defvjp
def reshape_vjp(dy, saved, x, *, shape):
    """:eq:`eq-reshape-vjp`."""
    return (dy.reshape(x.shape),)


@primitive
def transpose(x: Given, *, axes: tuple[int, ...] | None = None):
    """Permute axes; reverse them if ``axes`` is None (:eq:`eq-transpose`).

    Raises:
        ValueError: ``axes`` is not a permutation of the axes (names it and the shape).
    """
    try:
        return np.transpose(x, axes), None
    except ValueError:
        raise ValueError(f"transpose: shape {np.shape(x)} has no permutation of axes {axes}") from None


@transpose.defvjp
def transpose_vjp(dy, saved, x, *, axes=None):
    """:eq:`eq-transpose-vjp`."""
    return (np.transpose(dy, None if axes is None else np.argsort(np.mod(axes, x.ndim))),)


@primitive
def getitem(x: Given, *, index):
    """``x[index]``, any NumPy index (:eq:`eq-getitem`). An entry picked twice receives both cotangents.

    Raises:
        ValueError: the index does not fit (names it and the shape).
    """
    try:
        return np.asarray(x)[index], None
    except IndexError as problem:
        raise ValueError(f"getitem: index {index} does not fit shape {np.shape(x)}: {problem}") from None


@getitem.defvjp
def getitem_vjp(dy, saved, x, *, index):
    """:eq:`eq-getitem-vjp`."""
    dx = np.zeros(x.shape, dy.dtype)
    if all(map(_picks_once, index if isinstance(index, tuple) else (index,))):
        dx[index] = dy
    else:
        np.add.at(dx, index, dy)  # much slower, but dx[index] += dy would count a repeated index once
    return (dx,)


def _picks_once(part) -> bool:
    mask = isinstance(part, Array) and part.dtype == bool
    return mask or part is None or part is Ellipsis or isinstance(part, (int, np.integer, slice))


@primitive
def concatenate(*xs: Given, axis: int = 0):
    """Join arrays along ``axis`` (:eq:`eq-concatenate`).

    Raises:
        ValueError: the arrays are fewer than one, numbers, or differ in another size (names all shapes).
    """
    try:
        return np.concatenate(xs, axis), None
    except ValueError:
        raise ValueError(f"concatenate: shapes {[np.shape(x) for x in xs]} do not fit along axis {axis}") from None


@concatenate.defvjp
def concatenate_vjp(dy, saved, *xs, axis=0):
    """:eq:`eq-concatenate-vjp`."""
    return tuple(np.split(dy, np.cumsum([x.shape[axis] for x in xs[:-1]]), axis))


# ---------------------------------------------------------------------------------------------------------------------
# Derivatives by numbers, to check the ones by hand
# ---------------------------------------------------------------------------------------------------------------------


@checked
def directional_derivative(f: Callable, args: Sequence, tangents: Sequence, *, h: float = 1e-5):
    """``J v`` by central differences (:eq:`eq-central-difference`): the change of ``f`` along ``tangents``.

    Args:
        f: a function of float64 arrays.
        args, tangents: arrays of pairwise equal shape, made float64; ``None`` as a tangent keeps that argument fixed.
        h: the step. The error is of order ``h**2`` from truncation and ``eps / h`` from rounding.

    Raises:
        ValueError: not one tangent for each argument, or the value of ``f`` is no array.
    """
    if len(args) != len(tangents):
        raise ValueError(f"directional_derivative: {len(args)} arguments and {len(tangents)} tangents")
    name = "directional_derivative"

    def in_double(where, x):  # a step of 1e-5 is lost in float16, and nearly so in float32
        return numeric(where, x).astype(np.result_type(x, np.float64))

    pairs = [
        (a, v) if v is None else (in_double(f"{name}: args[{i}]", a), in_double(f"{name}: tangents[{i}]", v))
        for i, (a, v) in enumerate(zip(args, tangents, strict=True))
    ]

    def shifted(step):
        return numeric(f"{name}: the value of f", f(*(a if v is None else a + step * v for a, v in pairs)))

    return (shifted(h) - shifted(-h)) / (2 * h)


@checked
def numerical_gradient(loss: Callable[[Tree], Any], params: Tree, *, h: float = 1e-5) -> Tree:
    """Gradient of a scalar ``loss(params)`` by central differences, entry by entry (:eq:`eq-central-difference`).

    It costs two evaluations per entry, which is why backpropagation exists. Works in float64 whatever ``params`` are.
    """
    return _entrywise(loss, params, np.float64, lambda plus, minus: (plus() - minus()) / (2 * h), h)


@checked
def complex_step_gradient(loss: Callable[[Tree], Any], params: Tree, *, h: float = 1e-30) -> Tree:
    """Gradient of an analytic scalar loss by the complex step (:eq:`eq-complex-step`), exact to rounding.

    It needs a loss that is analytic along the whole way: no ``abs``, ``max``, comparison or conjugate.
    """
    return _entrywise(loss, params, np.complex128, lambda plus, _: np.imag(plus()) / h, 1j * h)


def _entrywise(loss, params, dtype, quotient, step):
    base = tree_map(lambda leaf: np.array(leaf, dtype), params)
    leaves = flatten(base) if isinstance(base, dict) else {"": base}
    gradients = {}
    for key, leaf in leaves.items():
        gradient = np.zeros(leaf.shape)
        for i in np.ndindex(leaf.shape):
            centre = leaf[i]

            def at(shift, leaf=leaf, i=i, centre=centre):
                leaf[i] = centre + shift
                value = numeric("the loss", loss(base)).copy()  # it may be the very entry that is put back below
                leaf[i] = centre
                if value.shape != ():
                    raise ValueError(f"the loss must be a scalar, not an array of shape {value.shape}")
                return value

            gradient[i] = quotient(lambda at=at: at(step), lambda at=at: at(-step))
        gradients[key] = gradient
    return unflatten(gradients) if isinstance(base, dict) else gradients[""]


@checked
def gradient_error(loss: Callable[[Tree], Any], params: Tree, *, h: float = 1e-5) -> float:
    """Largest difference between backpropagation and central differences, relative to the largest entry.

    About 1e-9 for a right gradient in float64 at a smooth point; of order 1 for a wrong one.
    """
    params = tree_map(lambda leaf: np.asarray(leaf, np.float64), params)
    _, by_tape = value_and_grad(loss)(params)
    by_numbers = numerical_gradient(loss, params, h=h)
    pairs: list[tuple[Any, Any]] = []
    tree_map(lambda a, b: pairs.append((a, b)), by_tape, by_numbers)
    scale = np.max([np.max(np.abs(b), initial=0.0) for _, b in pairs])  # np.max keeps a nan, max would lose it
    return float(np.max([np.max(np.abs(a - b), initial=0.0) for a, b in pairs]) / (scale or 1.0))


# ---------------------------------------------------------------------------------------------------------------------
# The same by hand, for one network: the four equations of backpropagation
# ---------------------------------------------------------------------------------------------------------------------


@checked
def mlp_loss_and_gradients(params: Tree, x, labels: Given) -> tuple[Any, Tree]:
    """Mean cross-entropy of a ReLU network and all its gradients, without the engine (:eq:`eq-mlp_loss_and_gradients`).

    Args:
        params: ``{"0": {"weight", "bias"}, "2": ...}`` as :func:`nnbook.neurons.mlp_init` makes them; weights
            (fan_out, fan_in), biases (fan_out,). ReLU after every layer but the last.
        x: (N, D), one sample a row.
        labels: (N,), integers from 0 to the number of classes less one.

    Returns:
        The loss in nats, and gradients with the keys, shapes and dtypes of ``params``.

    Raises:
        ValueError: shapes that do not fit (names both), no sample, labels that are not integers or out of range.

    The derivative of ReLU at 0 is taken as 0, as PyTorch does. Source: :cite:`rumelhart1986`, :cite:`nielsen2015`.
    """
    names = by_number(params)
    if not names:
        raise ValueError("the network has no layer")
    if np.ndim(x) != 2:
        raise ValueError(f"x has shape {np.shape(x)}, expected (N, D)")
    inputs, a = [], np.asarray(x)
    for name in names:
        weight, bias = params[name]["weight"], params[name]["bias"]
        if a.shape[1:] != weight.shape[1:] or bias.shape != weight.shape[:1]:
            raise ValueError(
                f"input of shape {a.shape} does not fit layer {name}: weights {weight.shape}, biases {bias.shape}"
            )
        inputs.append(a)
        z = a @ weight.T + bias
        a = np.maximum(z, 0)
    _check_labels(labels, np.shape(x), z.shape[1])
    z = z - z.max(1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    rows = np.arange(len(x))
    loss = -log_p[rows, labels].mean()

    delta = np.exp(log_p)
    delta[rows, labels] -= 1
    delta /= len(x)
    grads = {}
    for name, below in zip(reversed(names), reversed(inputs), strict=True):
        grads[name] = {"weight": delta.T @ below, "bias": delta.sum(0)}
        if name != names[0]:
            delta = (delta @ params[name]["weight"]) * (below > 0)
    return loss, tree_map(lambda leaf, grad: grad.astype(leaf.dtype, copy=False), params, grads)


def _check_labels(labels, shape, classes):
    if shape[0] == 0:
        raise ValueError(f"there is no sample in x of shape {shape}")
    if np.shape(labels) != shape[:1]:
        raise ValueError(f"labels of shape {np.shape(labels)} do not fit x of shape {shape}")
    if np.asarray(labels).dtype.kind not in "iu":
        raise ValueError(f"labels have dtype {np.asarray(labels).dtype}, expected integers")
    if np.min(labels) < 0 or np.max(labels) >= classes:
        raise ValueError(f"labels run from {np.min(labels)} to {np.max(labels)}, allowed is 0 to {classes - 1}")
