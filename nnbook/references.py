"""What PyTorch calls each primitive, and the inputs on which the two are compared.

``REFERENCES["softplus"]`` says: this torch function, these sample inputs. :mod:`nnbook.verify` runs the comparison; the
book's tests insist that every primitive stands here. torch is imported only when a reference is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Rng = np.random.Generator


@dataclass(frozen=True, eq=False)
class Case:
    """One set of arguments: ``arrays(rng)`` gives the positional ones (floats as float64), ``static`` the keywords.

    Integer and boolean arrays, Python numbers and ``None`` are constants: they are neither cast nor differentiated.
    The case's name must be unique within its reference; it also seeds the draw.
    """

    name: str
    arrays: Callable[[Rng], tuple[Any, ...]]
    static: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Reference:
    """The counterpart of one primitive.

    Attributes:
        torch: ``torch(torch_module)`` returns the PyTorch function, called as ``f(*tensors, **static)``.
        cases: the sample inputs, from which every check draws. Somewhere in them (or in ``bad``) an array of size 0
            and an array of size 1 must occur; of a broadcasting function at least one case must have all its arrays of
            the same shape, with two axes or more.
        analytic: allows the complex step: the function works on complex arrays and is analytic in all arguments.
        kinks: ``kinks(*arrays, **static)`` returns the distance of every place that matters to its nearest kink or
            tie, so that the harness can draw inputs at least 1e-3 away.
        bad: arguments that must raise a ``ValueError`` matching the regular expression beside them.
        broadcasts: the array arguments broadcast against each other as NumPy's do; the harness then replaces each
            argument in turn by smaller ones.
        at_kinks: inputs that lie on a kink or tie, where only the agreement with PyTorch's convention is checked.
        extremes: inputs that must pass without a floating-point warning and agree with PyTorch (infinities included).
            ``None``: the first case with entries of size up to 1e4 in every float argument. ``()``: none.
        constants: positions of float arguments that are not differentiated, such as a mask.
    """

    torch: Callable[[Any], Callable[..., Any]]
    cases: tuple[Case, ...]
    analytic: bool = False
    kinks: Callable[..., Any] | None = None
    bad: tuple[tuple[Case, str], ...] = ()
    broadcasts: bool = False
    at_kinks: tuple[Case, ...] = ()
    extremes: tuple[Case, ...] | None = None
    constants: tuple[int, ...] = ()


REFERENCES: dict[str, Reference] = {}


def normal(*shapes: tuple[int, ...]) -> Callable[[Rng], tuple[Any, ...]]:
    """Standard normal arrays of the given shapes."""
    return lambda rng: tuple(rng.normal(size=shape) for shape in shapes)


def uniform(low: float, high: float, *shapes: tuple[int, ...]) -> Callable[[Rng], tuple[Any, ...]]:
    """Arrays of the given shapes with entries uniform between two bounds."""
    return lambda rng: tuple(rng.uniform(low, high, size=shape) for shape in shapes)


def fixed(*arrays: Any) -> Callable[[Rng], tuple[Any, ...]]:
    """The same arrays every time; lists become arrays, numbers and ``None`` stay as they are."""
    return lambda rng: tuple(np.array(a) if isinstance(a, (list, np.ndarray)) else a for a in arrays)


# Chapter 3: the elementary primitives of nnbook.backprop

SIZES = (Case("size 1", normal((1,))), Case("size 0", normal((0, 3))))
SIZES_OF_TWO = (
    Case("size 1", normal((1,), (1,))),
    Case("size 0", normal((0, 3), (0, 3))),
    Case("size 0 broadcast", normal((0, 3), (1,))),
)
PAIRS = (Case("matrices", normal((3, 4), (3, 4))), Case("row and column", normal((1, 4), (3, 1))), *SIZES_OF_TWO)
DO_NOT_FIT = (Case("shapes that do not broadcast", normal((2, 3), (4,))), r"\(2, ?3\).*\(4,\)")


def away_from_zero(*shapes: tuple[int, ...]) -> Callable[[Rng], tuple[Any, ...]]:
    """Entries of both signs with absolute values between 0.5 and 2."""
    return lambda rng: tuple(rng.uniform(0.5, 2, size=s) * rng.choice([-1, 1], size=s) for s in shapes)


def where_case(name: str, condition: tuple[int, ...], x: tuple[int, ...], y: tuple[int, ...]) -> Case:
    """A random condition and two arrays."""
    return Case(name, lambda rng: (rng.random(condition) < 0.5, rng.normal(size=x), rng.normal(size=y)))


def _torch_sum(torch):
    # torch.sum(x, dim=()) sums everything, NumPy's sum over no axis sums nothing.
    return lambda x, axis=None, keepdims=False: x * 1 if axis == () else torch.sum(x, dim=axis, keepdim=keepdims)


REDUCTIONS = (
    Case("everything", normal((3, 4))),
    Case("first axis", normal((3, 4)), {"axis": 0}),
    Case("last axis kept", normal((2, 3, 4)), {"axis": -1, "keepdims": True}),
    Case("two axes", normal((2, 3, 4)), {"axis": (0, -1)}),
    Case("everything kept", normal((2, 3)), {"keepdims": True}),
    Case("0-d", normal(())),
    Case("size 1", normal((1,))),
    Case("size 0 along another axis", normal((0, 3)), {"axis": 1}),
)

REFERENCES.update(
    add=Reference(lambda torch: torch.add, PAIRS, analytic=True, bad=(DO_NOT_FIT,), broadcasts=True),
    subtract=Reference(lambda torch: torch.subtract, PAIRS, analytic=True, bad=(DO_NOT_FIT,), broadcasts=True),
    multiply=Reference(lambda torch: torch.multiply, PAIRS, analytic=True, bad=(DO_NOT_FIT,), broadcasts=True),
    divide=Reference(
        lambda torch: torch.divide,
        (
            Case("matrices", away_from_zero((3, 4), (3, 4))),
            Case("row and column", away_from_zero((1, 4), (3, 1))),
            Case("size 1", away_from_zero((1,), (1,))),
            Case("size 0", away_from_zero((0, 3), (0, 3))),
        ),
        analytic=True,
        bad=(DO_NOT_FIT,),
        broadcasts=True,
        extremes=(
            Case("large by large", fixed([1e4, -1e4, 1e4], [1e4, 1e4, -1e4])),
            Case("small by large", fixed([1e-4, -1e-4], [1e4, 1e4])),
            Case("finite by infinite", fixed([1.0, -1.0], [np.inf, -np.inf])),
        ),
    ),
    negative=Reference(
        lambda torch: torch.negative,
        (Case("matrix", normal((3, 4))), *SIZES),
        analytic=True,
        extremes=(Case("infinities", fixed([1e4, -1e4, np.inf, -np.inf])),),
    ),
    power=Reference(
        lambda torch: torch.pow,
        (
            Case("matrices", lambda rng: (rng.uniform(0.5, 2, (3, 4)), rng.normal(size=(3, 4)))),
            Case("row and column", lambda rng: (rng.uniform(0.5, 2, (1, 4)), rng.normal(size=(3, 1)))),
            Case("square of both signs", lambda rng: (rng.normal(size=(3, 4)), 2)),
            Case("cube of both signs", lambda rng: (rng.normal(size=5), 3.0)),
            Case("reciprocal", lambda rng: (rng.uniform(0.5, 2, 5), -1.0)),
            Case("exponential", lambda rng: (2.0, rng.normal(size=5))),
            Case("size 1", uniform(0.5, 2, (1,), (1,))),
            Case("size 0", uniform(0.5, 2, (0, 3), (0, 3))),
        ),
        analytic=True,
        bad=(DO_NOT_FIT,),
        broadcasts=True,
        at_kinks=(
            Case("powers of zero", lambda rng: (np.zeros(3), 2.0)),
            Case("zeroth power", lambda rng: (np.array([-1.0, 0.0, 2.0]), 0.0)),
            Case("first power of zero", lambda rng: (np.zeros(2), 1.0)),
            Case("zero to positive powers", fixed([0.0, 0.0], [1.0, 2.5])),
        ),
        extremes=(Case("large", fixed([1e4, 1e4, 1e4], [2.0, -2.0, 0.5])),),
    ),
    matmul=Reference(
        lambda torch: torch.matmul,
        (
            Case("matrices", normal((3, 4), (4, 2))),
            Case("matrix and vector", normal((3, 4), (4,))),
            Case("vector and matrix", normal((4,), (4, 3))),
            Case("vectors", normal((5,), (5,))),
            Case("stacks", normal((2, 3, 4), (2, 4, 5))),
            Case("stack and matrix", normal((2, 3, 4), (4, 5))),
            Case("stacks that broadcast", normal((2, 1, 3, 4), (5, 4, 2))),
            Case("stack and vector", normal((2, 3, 4), (4,))),
            Case("vector and stack", normal((3,), (2, 3, 4))),
            Case("size 1", normal((1, 1), (1, 1))),
            Case("no row", normal((0, 3), (3, 2))),
            Case("empty inner axis", normal((2, 0), (0, 3))),
        ),
        analytic=True,
        bad=(
            (Case("inner sizes differ", normal((2, 3), (4, 5))), r"\(2, 3\).*\(4, 5\)"),
            (Case("vector too short", normal((2, 3), (2,))), r"\(2, 3\).*\(2,\)"),
            (Case("a scalar", normal((), (2, 2))), r"\(\).*\(2, 2\)"),
            (Case("stacks do not broadcast", normal((2, 3, 4), (3, 4, 5))), r"\(2, ?3, ?4\).*\(3, ?4, ?5\)"),
        ),
    ),
    exp=Reference(
        lambda torch: torch.exp,
        (Case("matrix", normal((3, 4))), *SIZES),
        analytic=True,
        extremes=(Case("down to -inf", fixed([0.0, -1e4, -np.inf])),),
    ),
    log=Reference(
        lambda torch: torch.log,
        (
            Case("matrix", uniform(0.1, 3, (3, 4))),
            Case("size 1", uniform(0.1, 3, (1,))),
            Case("size 0", uniform(0.1, 3, (0, 3))),
        ),
        analytic=True,
        extremes=(Case("from tiny to infinite", fixed([1e-30, 1e-4, 1.0, 1e4, np.inf])),),
    ),
    sqrt=Reference(
        lambda torch: torch.sqrt,
        (
            Case("matrix", uniform(0.1, 3, (3, 4))),
            Case("size 1", uniform(0.1, 3, (1,))),
            Case("size 0", uniform(0.1, 3, (0, 3))),
        ),
        analytic=True,
        extremes=(Case("from tiny to infinite", fixed([1e-8, 1.0, 1e4, np.inf])),),
    ),
    absolute=Reference(
        lambda torch: torch.abs,
        (Case("matrix", normal((3, 4))), *SIZES),
        kinks=np.abs,
        at_kinks=(Case("zero", fixed([0.0, -1.0, 2.0])),),
        extremes=(Case("infinities", fixed([1e4, -1e4, np.inf, -np.inf])),),
    ),
    maximum=Reference(
        lambda torch: torch.maximum,
        PAIRS,
        kinks=lambda x, y: np.abs(x - y),
        bad=(DO_NOT_FIT,),
        broadcasts=True,
        at_kinks=(Case("ties", fixed([0.0, 1.0, -1.0], [0.0, 1.0, 2.0])),),
        extremes=(Case("infinities", fixed([1e4, -1e4, np.inf, -np.inf], [-1e4, 1e4, 0.0, 0.0])),),
    ),
    minimum=Reference(
        lambda torch: torch.minimum,
        PAIRS,
        kinks=lambda x, y: np.abs(x - y),
        bad=(DO_NOT_FIT,),
        broadcasts=True,
        at_kinks=(Case("ties", fixed([0.0, 1.0, -1.0], [0.0, 1.0, 2.0])),),
        extremes=(Case("infinities", fixed([1e4, -1e4, np.inf, -np.inf], [-1e4, 1e4, 0.0, 0.0])),),
    ),
    where=Reference(
        lambda torch: torch.where,
        (
            where_case("matrices", (3, 4), (3, 4), (3, 4)),
            where_case("row and column", (1, 4), (3, 1), (3, 4)),
            where_case("size 1", (1,), (1,), (1,)),
            where_case("size 0", (0, 3), (0, 3), (1,)),
        ),
        bad=(
            (Case("condition of numbers", normal((3,), (3,), (3,))), "float64, expected bool"),
            (where_case("shapes that do not broadcast", (2, 3), (4,), (2, 3)), r"\(2, ?3\).*\(4,\)"),
        ),
        broadcasts=True,
        extremes=(Case("infinities", fixed([True, False], [np.inf, 1e4], [1e4, -np.inf])),),
    ),
    sum=Reference(
        _torch_sum,
        (
            *REDUCTIONS,
            Case("no axis", normal((2, 3)), {"axis": ()}),
            Case("size 0", normal((0,))),
        ),
        analytic=True,
        bad=((Case("no such axis", normal((2, 3)), {"axis": 2}), "axis 2 is out of bounds"),),
    ),
    mean=Reference(
        lambda torch: lambda x, axis=None, keepdims=False: torch.mean(x, dim=axis, keepdim=keepdims),
        REDUCTIONS,
        analytic=True,
        bad=(
            (Case("nothing to average", normal((0, 3))), r"\(0, 3\)"),
            (Case("nothing along the axis", normal((0, 3)), {"axis": 0}), r"\(0, 3\)"),
            (Case("no such axis", normal((2, 3)), {"axis": 2}), "axis 2 is out of bounds"),
        ),
    ),
    reshape=Reference(
        lambda torch: lambda x, shape: torch.reshape(x, shape if isinstance(shape, tuple) else (shape,)),
        (
            Case("matrix to matrix", normal((3, 4)), {"shape": (2, 6)}),
            Case("one size left open", normal((2, 3, 4)), {"shape": (4, -1)}),
            Case("flattened", normal((2, 3)), {"shape": -1}),
            Case("to 0-d", normal((1, 1)), {"shape": ()}),
            Case("size 0", normal((0, 4)), {"shape": (2, 0)}),
        ),
        analytic=True,
        bad=((Case("sizes do not fit", normal((2, 3)), {"shape": (4, 2)}), r"\(2, 3\).*\(4, 2\)"),),
    ),
    transpose=Reference(
        lambda torch: lambda x, axes=None: torch.permute(x, axes if axes is not None else tuple(range(x.ndim))[::-1]),
        (
            Case("matrix", normal((3, 4))),
            Case("cycle", normal((2, 3, 4)), {"axes": (1, 2, 0)}),
            Case("negative axes", normal((2, 3, 4)), {"axes": (-1, 0, -2)}),
            Case("vector", normal((3,))),
            Case("size 1", normal((1, 1))),
            Case("size 0", normal((0, 3))),
        ),
        analytic=True,
        bad=(
            (Case("axes of another array", normal((2, 3)), {"axes": (0, 1, 2)}), r"\(2, 3\).*\(0, 1, 2\)"),
            (Case("an axis twice", normal((2, 3)), {"axes": (0, 0)}), r"\(2, 3\).*\(0, 0\)"),
        ),
    ),
    getitem=Reference(
        lambda torch: lambda x, index: x[_torch_index(torch, index)],
        (
            Case("row", normal((3, 4)), {"index": 1}),
            Case("from the end", normal((3, 4)), {"index": -1}),
            Case("slice", normal((5, 4)), {"index": np.s_[1:4:2, ::3]}),
            Case("ellipsis", normal((2, 3, 4)), {"index": np.s_[..., 1]}),
            Case("new axis", normal((3, 4)), {"index": np.s_[:, None]}),
            Case("entries picked twice", normal((4, 2)), {"index": np.array([0, 2, 2, 2, -4])}),
            Case("pairs of indices", normal((4, 3)), {"index": (np.array([0, 1, 1]), np.array([2, 0, 0]))}),
            Case("mask", normal((2, 3)), {"index": np.array([[True, False, True], [False, True, False]])}),
            Case("slice and indices", normal((3, 4)), {"index": (slice(1, None), np.array([3, 3, 0]))}),
            Case("one entry", normal((2, 2)), {"index": (0, 1)}),
            Case("size 1", normal((1,)), {"index": 0}),
            Case("size 0", normal((0, 3)), {"index": np.s_[:, 1]}),
            Case("nothing picked", normal((3,)), {"index": np.array([], int)}),
        ),
        analytic=True,
        bad=(
            (Case("index too large", normal((3, 4)), {"index": 3}), r"3.*\(3, 4\)"),
            (Case("too many indices", normal((3,)), {"index": (0, 0)}), r"\(0, 0\).*\(3,\)"),
            (Case("index by numbers", normal((3,)), {"index": 1.5}), r"1\.5.*\(3,\)"),
        ),
    ),
    concatenate=Reference(
        lambda torch: lambda *xs, axis=0: torch.cat(xs, axis),
        (
            Case("rows", normal((2, 3), (1, 3), (4, 3))),
            Case("columns", normal((2, 3), (2, 1)), {"axis": 1}),
            Case("last axis", normal((2, 3, 1), (2, 3, 2)), {"axis": -1}),
            Case("only one", normal((2, 3))),
            Case("size 1", normal((1,), (1,))),
            Case("size 0", normal((0, 3), (2, 3))),
        ),
        analytic=True,
        bad=(
            (Case("other sizes differ", normal((2, 3), (2, 4))), r"\(2, 3\).*\(2, 4\)"),
            (Case("no such axis", normal((2,), (3,)), {"axis": 1}), r"\(2,\).*\(3,\).*axis 1"),
            (Case("nothing to join", lambda rng: ()), r"shapes \[\]"),
        ),
    ),
)


def _torch_index(torch, index):
    if isinstance(index, tuple):
        return tuple(_torch_index(torch, i) for i in index)
    return torch.tensor(index) if isinstance(index, np.ndarray) else index


# Chapter 1: nnbook.neurons

ACTIVATION_CASES = (
    Case("matrix", normal((4, 5))),
    Case("vector", lambda rng: (3 * rng.normal(size=7),)),
    Case("stack", normal((2, 3, 4))),
    Case("0-d", normal(())),
    *SIZES,
)
FAR = Case("both ends", fixed([-np.inf, -1e4, -30.0, 30.0, 1e4, np.inf]))
FAR_BUT_FINITE = Case("far on both sides", fixed([-1e4, -30.0, 30.0, 1e4]))
AT_ZERO = Case("at 0", fixed([-1.0, 0.0, 2.0, 0.0]))
SOFTMAX_CASES = (
    Case("matrix", normal((4, 5))),
    Case("vector", lambda rng: (3 * rng.normal(size=7),)),
    Case("first axis", normal((4, 5)), {"axis": 0}),
    Case("middle axis", normal((2, 3, 4)), {"axis": 1}),
    Case("axis from the end", normal((2, 3, 4)), {"axis": -2}),
    Case("one class", normal((3, 1))),
    Case("size 1", normal((1,))),
    Case("no row", normal((0, 3))),
    Case("no class", normal((3, 0))),
)
SOFTMAX_EXTREMES = (
    Case("far apart", fixed([[1e4, 0.0, -1e4], [1e4, 1e4, 1e4], [-1e4, -1e4, -1e4]])),
    Case("impossible classes", fixed([[0.0, -np.inf, 1.0], [-np.inf, 2.0, -np.inf]])),
)
NO_SUCH_AXIS = (
    (Case("no such axis", normal((2, 3)), {"axis": 2}), r"axis 2.*\(2, 3\)"),
    (Case("two axes", normal((2, 3)), {"axis": (0, 1)}), r"axis \(0, 1\).*\(2, 3\)"),
    (Case("0-d", normal(())), r"axis -1.*\(\)"),
)


def distance_to_zero(x, **static):
    """How far each entry is from a kink at 0."""
    return np.abs(x)


def _with_static(cases: tuple[Case, ...], **static: Any) -> tuple[Case, ...]:
    named = ", ".join(f"{key}={value}" for key, value in static.items())
    return tuple(Case(f"{case.name}, {named}", case.arrays, {**case.static, **static}) for case in cases)


def _torch_softplus(torch):
    # Its threshold (20 unless told otherwise) replaces the function by its asymptote; 700 is as far as exp reaches.
    return lambda x, beta=1.0: torch.nn.functional.softplus(
        x, beta=beta, threshold=700 if x.dtype == torch.float64 else 80
    )


REFERENCES.update(
    linear=Reference(
        lambda torch: torch.nn.functional.linear,
        (
            Case("batch", normal((5, 3), (4, 3), (4,))),
            Case("one input", normal((3,), (4, 3), (4,))),
            Case("sequence", normal((2, 5, 3), (4, 3), (4,))),
            Case("four axes", normal((2, 3, 2, 3), (2, 3), (2,))),
            Case("no bias", normal((5, 3), (4, 3))),
            Case("bias None", lambda rng: (rng.normal(size=(5, 3)), rng.normal(size=(4, 3)), None)),
            Case("one neuron", normal((5, 3), (1, 3), (1,))),
            Case("size 1", normal((1, 1), (1, 1), (1,))),
            Case("no row", normal((0, 3), (4, 3), (4,))),
            Case("no input", normal((5, 0), (4, 0), (4,))),
            Case("no neuron", normal((5, 3), (0, 3), (0,))),
        ),
        analytic=True,
        bad=(
            (Case("weight transposed", normal((5, 3), (3, 4))), r"\(5, 3\).*\(3, 4\)"),
            (Case("weight a vector", normal((5, 3), (3,))), r"\(5, 3\).*\(3,\)"),
            (Case("x a number", normal((), (4, 3))), r"\(\).*\(4, 3\)"),
            (Case("bias too long", normal((5, 3), (4, 3), (5,))), r"\(5,\).*\(4, 3\)"),
            (Case("bias that would broadcast", normal((5, 3), (4, 3), (1,))), r"\(1,\).*\(4, 3\)"),
        ),
    ),
    step=Reference(
        lambda torch: lambda x: torch.heaviside(x.detach(), torch.zeros((), dtype=x.dtype, device=x.device)),
        ACTIVATION_CASES,
        kinks=distance_to_zero,
        at_kinks=(AT_ZERO,),
        extremes=(FAR,),
    ),
    sigmoid=Reference(lambda torch: torch.sigmoid, ACTIVATION_CASES, analytic=True, extremes=(FAR,)),
    tanh=Reference(lambda torch: torch.tanh, ACTIVATION_CASES, analytic=True, extremes=(FAR,)),
    relu=Reference(
        lambda torch: torch.relu, ACTIVATION_CASES, kinks=distance_to_zero, at_kinks=(AT_ZERO,), extremes=(FAR,)
    ),
    leaky_relu=Reference(
        lambda torch: torch.nn.functional.leaky_relu,
        (*ACTIVATION_CASES, *_with_static(ACTIVATION_CASES[:2], negative_slope=0.2)),
        kinks=distance_to_zero,
        at_kinks=(AT_ZERO, *_with_static((AT_ZERO,), negative_slope=0.2)),
        extremes=(FAR,),
    ),
    prelu=Reference(
        lambda torch: torch.nn.functional.prelu,
        (
            Case("one slope", normal((4, 5), (1,))),
            Case("a slope for each channel", normal((4, 5), (5,))),
            Case("images", normal((2, 3, 4, 2), (3,))),
            Case("images, one slope", normal((2, 3, 4, 2), (1,))),
            Case("vector", normal((7,), (1,))),
            Case("slope without an axis", normal((4, 5), ())),
            Case("0-d", normal((), (1,))),
            Case("size 1", normal((1,), (1,))),
            Case("size 0", normal((0, 3), (3,))),
        ),
        kinks=lambda x, weight: np.abs(x),
        at_kinks=(Case("at 0", fixed([-1.0, 0.0, 2.0, 0.0], [0.25])),),
        extremes=(Case("both ends", fixed([-np.inf, -1e4, 1e4, np.inf], [0.25])),),
        bad=(
            (Case("too few slopes", normal((2, 3), (2,))), r"\(2,\).*\(2, 3\)"),
            (Case("slopes for a vector", normal((3,), (3,))), r"\(3,\).*\(3,\)"),
            (Case("slopes as a matrix", normal((2, 3), (1, 3))), r"\(1, 3\).*\(2, 3\)"),
        ),
    ),
    elu=Reference(
        lambda torch: torch.nn.functional.elu,
        (*ACTIVATION_CASES, *_with_static(ACTIVATION_CASES[:2], alpha=2.0)),
        kinks=distance_to_zero,
        at_kinks=(AT_ZERO, *_with_static((AT_ZERO,), alpha=2.0)),
        extremes=(FAR,),
    ),
    selu=Reference(
        lambda torch: torch.selu, ACTIVATION_CASES, kinks=distance_to_zero, at_kinks=(AT_ZERO,), extremes=(FAR,)
    ),
    softplus=Reference(
        _torch_softplus,
        (*ACTIVATION_CASES, *_with_static(ACTIVATION_CASES[:2], beta=2.5)),
        analytic=True,
        bad=((Case("beta 0", normal((3,)), {"beta": 0.0}), "beta must be positive, not 0.0"),),
        extremes=(FAR,),
    ),
    silu=Reference(lambda torch: torch.nn.functional.silu, ACTIVATION_CASES, analytic=True, extremes=(FAR_BUT_FINITE,)),
    gelu=Reference(
        lambda torch: torch.nn.functional.gelu,
        (*ACTIVATION_CASES, *_with_static(ACTIVATION_CASES, approximate="tanh")),
        analytic=True,
        bad=((Case("unknown approximation", normal((3,)), {"approximate": "erf"}), "'none' or 'tanh', not 'erf'"),),
        extremes=(FAR_BUT_FINITE, *_with_static((FAR_BUT_FINITE,), approximate="tanh")),
    ),
    softmax=Reference(
        lambda torch: lambda x, axis=-1: torch.softmax(x, axis),
        SOFTMAX_CASES,
        analytic=True,
        bad=NO_SUCH_AXIS,
        extremes=SOFTMAX_EXTREMES,
    ),
    log_softmax=Reference(
        lambda torch: lambda x, axis=-1: torch.log_softmax(x, axis),
        SOFTMAX_CASES,
        analytic=True,
        bad=NO_SUCH_AXIS,
        extremes=SOFTMAX_EXTREMES,
    ),
)


# Chapter 2: nnbook.losses
