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
        casts: the dtype of the answer is the option ``dtype``, not that of the arguments.
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
    casts: bool = False


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

# Positive, because a single number near a zero of the derivative has no largest entry to measure an error by.
SIZES = (Case("size 1", uniform(0.5, 2, (1,))), Case("size 0", normal((0, 3))))
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


def _gap_to_bounds(x, low=None, high=None):
    """How far ``x`` is from its bounds, and these from each other."""
    pairs = [(a, b) for a, b in ((x, low), (x, high), (low, high)) if a is not None and b is not None]
    return np.concatenate([np.ravel(np.abs(np.subtract(a, b))) for a, b in pairs] or [np.ones(1)])


def _gap_of_extremes(sign):
    """How far the best entry of each slice is ahead of the second."""

    def gap(x, *, axis=None, keepdims=False):
        axes = tuple(range(x.ndim)) if axis is None else tuple(np.atleast_1d(axis) % x.ndim)
        rest = tuple(i for i in range(x.ndim) if i not in axes)
        rows = np.sort(-sign * x.transpose(rest + axes).reshape(*(x.shape[i] for i in rest), -1), -1)
        return rows[..., 1] - rows[..., 0] if rows.shape[-1] > 1 else np.ones(1)

    return gap


def _torch_prod(torch):
    def prod(x, axis=None, keepdims=False):
        axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
        for i in sorted((a % x.ndim for a in axes), reverse=True):
            x = torch.prod(x, dim=i, keepdim=keepdims)
        return x

    return prod


def _torch_clip(torch):
    def clip(x, low=None, high=None):
        return x * 1 if low is None and high is None else torch.clamp(x, low, high)

    return clip


def _torch_cumsum(torch):
    return lambda x, axis=None: torch.cumsum(x.reshape(-1) if axis is None else x, 0 if axis is None else axis)


EMPTY = (Case("nothing to choose from", normal((0, 3))), r"nothing to choose from in shape \(0, 3\)")
OVER_AXES = tuple(case for case in REDUCTIONS if not case.name.startswith("size 0"))
NO_ROWS = Case("size 0", normal((0, 3)))

REFERENCES.update(
    astype=Reference(
        lambda torch: lambda x, dtype: x.to(torch.float64 if dtype == "float64" else torch.float32),
        (
            Case("to double precision", normal((3, 4)), {"dtype": "float64"}),
            Case("size 1", normal((1,)), {"dtype": "float64"}),
            Case("size 0", normal((0, 3)), {"dtype": "float64"}),
        ),
        bad=(
            (Case("integers", normal((3,)), {"dtype": "int64"}), "needs floats, and int64"),
            (Case("no dtype", normal((3,)), {"dtype": "number"}), "'number' is no dtype"),
        ),
        casts=True,
    ),
    sin=Reference(
        lambda torch: torch.sin,
        (Case("matrix", normal((3, 4))), *SIZES),
        analytic=True,
        extremes=(Case("turns", fixed([0.0, 1e2, -1e2])),),
    ),
    cos=Reference(
        lambda torch: torch.cos,
        (Case("matrix", normal((3, 4))), *SIZES),
        analytic=True,
        extremes=(Case("turns", fixed([0.0, 1e2, -1e2])),),
    ),
    log1p=Reference(
        lambda torch: torch.log1p,
        (Case("matrix", uniform(-0.5, 3, (3, 4))), Case("tiny", uniform(1e-9, 2e-9, (5,))), *SIZES),
        analytic=True,
        extremes=(Case("large", fixed([0.0, 1e-12, 1e30, np.inf])),),
    ),
    expm1=Reference(
        lambda torch: torch.expm1,
        (Case("matrix", normal((3, 4))), Case("tiny", uniform(1e-9, 2e-9, (5,))), *SIZES),
        analytic=True,
        extremes=(Case("down to -inf", fixed([0.0, -1e4, -np.inf])),),
    ),
    sign=Reference(
        lambda torch: torch.sign,
        (Case("matrix", normal((3, 4))), *SIZES),
        kinks=np.abs,
        at_kinks=(Case("zero", fixed([0.0, -0.0])),),
        extremes=(Case("infinities", fixed([np.inf, -np.inf, 1e4])),),
    ),
    clip=Reference(
        _torch_clip,
        (
            Case(
                "bounds for each", lambda rng: (rng.normal(size=(3, 4)), rng.normal(size=(3, 4)) - 1, np.ones((3, 4)))
            ),
            Case("bounds for rows", lambda rng: (rng.normal(size=(3, 4)), rng.normal(size=4) - 0.5, np.ones((3, 1)))),
            Case("low above high", normal((5, 4), (4,), (4,))),
            Case("numbers", lambda rng: (rng.normal(size=(5, 4)), -0.5, 0.5)),
            Case("only from below", lambda rng: (rng.normal(size=(5, 4)), rng.normal(size=(5, 1)))),
            Case("only from above", lambda rng: (rng.normal(size=(5, 4)), None, rng.normal(size=(5, 1)))),
            Case("no bound", normal((2, 3))),
            Case("size 1", normal((1,), (1,), (1,))),
            Case("size 0", normal((0, 3), (3,))),
        ),
        kinks=_gap_to_bounds,
        at_kinks=(Case("at the bounds", fixed([1.0, 2.0, 1.5], [1.0, 1.0, 1.0], [2.0, 2.0, 2.0])),),
        extremes=(Case("infinities", fixed([np.inf, -np.inf, 1e4], [-1.0, -1.0, -1.0], [1.0, 1.0, 1.0])),),
        bad=(
            (Case("bounds that do not broadcast", normal((2, 3), (4,))), r"\(4,\).*\(2, 3\)"),
            (Case("bounds larger than x", normal((3,), (2, 3))), r"\(2, 3\).*\(3,\)"),
        ),
    ),
    amax=Reference(
        lambda torch: lambda x, axis=None, keepdims=False: torch.amax(x, () if axis is None else axis, keepdims),
        OVER_AXES,
        kinks=_gap_of_extremes(1),
        at_kinks=(Case("ties", fixed([[2.0, 1.0, 2.0], [0.0, 0.0, 0.0]]), {"axis": 1}),),
        extremes=(Case("infinities", fixed([1e4, -np.inf, np.inf])),),
        bad=(EMPTY,),
    ),
    amin=Reference(
        lambda torch: lambda x, axis=None, keepdims=False: torch.amin(x, () if axis is None else axis, keepdims),
        OVER_AXES,
        kinks=_gap_of_extremes(-1),
        at_kinks=(Case("ties", fixed([[2.0, 1.0, 1.0], [0.0, 0.0, 0.0]]), {"axis": 1}),),
        extremes=(Case("infinities", fixed([1e4, -np.inf, np.inf])),),
        bad=(EMPTY,),
    ),
    prod=Reference(
        _torch_prod,
        (
            *REDUCTIONS,
            NO_ROWS,
            Case("one zero", lambda rng: (rng.normal(size=(3, 4)) * (np.arange(4) != 2),), {"axis": 1}),
        ),
        analytic=True,
        extremes=(Case("large", fixed([1e4, -1e4, 1e-4, 1.0])),),
    ),
    cumsum=Reference(
        _torch_cumsum,
        (
            Case("everything", normal((3, 4))),
            Case("first axis", normal((3, 4)), {"axis": 0}),
            Case("last axis", normal((2, 3, 4)), {"axis": -1}),
            Case("size 1", uniform(0.5, 2, (1,))),
            Case("size 0", normal((0, 3)), {"axis": 0}),
        ),
        analytic=True,
        bad=((Case("no such axis", normal((3,)), {"axis": 1}), "axis 1"),),
    ),
    norm=Reference(
        lambda torch: lambda x, axis=None, keepdims=False: torch.linalg.vector_norm(x, dim=axis, keepdim=keepdims),
        (*(case for case in REDUCTIONS if case.name != "0-d"), Case("0-d", uniform(0.5, 2, ())), NO_ROWS),
        at_kinks=(Case("zero vectors", fixed([[0.0, 0.0], [3.0, 4.0]]), {"axis": 1}),),
        extremes=(Case("large", fixed([3e4, -4e4])), Case("tiny", fixed([3e-30, 4e-30]))),
    ),
    einsum=Reference(
        lambda torch: lambda *xs, subscripts: torch.einsum(subscripts, *xs),
        (
            Case("matrix product", normal((3, 4), (4, 5)), {"subscripts": "ij,jk->ik"}),
            Case("stack", normal((2, 3, 4), (2, 4, 5)), {"subscripts": "bij,bjk->bik"}),
            Case("broadcast dots", normal((2, 3, 4), (4, 5)), {"subscripts": "...ij,jk->...ik"}),
            Case("dots of size 1", normal((1, 2, 3), (4, 1, 3)), {"subscripts": "...i,...i->..."}),
            Case("implicit", normal((3, 4), (4, 2)), {"subscripts": "ij,jk"}),
            Case("three operands", normal((3,), (3, 4), (4,)), {"subscripts": "i,ij,j->"}),
            Case("summed alone", normal((3, 4), (5,)), {"subscripts": "ij,k->i"}),
            Case("transpose", normal((3, 4)), {"subscripts": "ij->ji"}),
            Case("size 1", normal((1,), (1,)), {"subscripts": "i,i->"}),
            Case("size 0", normal((0, 3), (3,)), {"subscripts": "ij,j->i"}),
        ),
        analytic=True,
        bad=(
            (Case("sizes differ", normal((2, 3), (4,)), {"subscripts": "ij,j->i"}), r"\(2, 3\).*\(4,\)"),
            (Case("too few letters", normal((2, 3)), {"subscripts": "i->i"}), r"\(2, 3\)"),
            (Case("a diagonal", normal((3, 3)), {"subscripts": "ii->i"}), "letter twice"),
            (Case("another count", normal((3,)), {"subscripts": "i,i->"}), "1 operands"),
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
    Case("0-d", uniform(0.5, 2, ())),
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
    (Case("two axes", normal((2, 3)), {"axis": (0, 1)}), r"axis must be an integer, not \(0, 1\)"),
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

UNKNOWN_REDUCTION = {"reduction": "average"}
NO_SUCH_REDUCTION = "'mean', 'sum', 'none', not 'average'"
PAIR_CASES = (
    Case("matrix", normal((4, 5), (4, 5))),
    Case("vector, sum", lambda rng: (3 * rng.normal(size=7), 3 * rng.normal(size=7)), {"reduction": "sum"}),
    Case("stack, none", normal((2, 3, 4), (2, 3, 4)), {"reduction": "none"}),
    Case("integer targets", lambda rng: (2 * rng.normal(size=(3, 2)), rng.integers(-3, 4, (3, 2)))),
    Case("0-d", normal((), ())),
    Case("size 1", normal((1,), (1,))),
    Case("size 0, sum", normal((0, 3), (0, 3)), {"reduction": "sum"}),
    Case("size 0, none", normal((0, 3), (0, 3)), {"reduction": "none"}),
)
PAIR_BAD = (
    (Case("a column against a row", normal((4, 1), (4,))), r"input has shape \(4, 1\), target has shape \(4,\)"),
    (Case("a batch against a number", normal((4,), ())), r"\(4,\).*\(\)"),
    (Case("empty batch", normal((0, 3), (0, 3))), r"empty batch has no mean.*\(0, 3\)"),
    (Case("no such reduction", normal((3,), (3,)), UNKNOWN_REDUCTION), NO_SUCH_REDUCTION),
)
ON_TARGET = Case("on the target", fixed([0.0, 1.0, 2.0, -3.0], [0.0, 1.0, 2.5, -3.0]))


def scores(rows: int, classes: int, scale: float = 2.0) -> Callable[[Rng], tuple[Any, ...]]:
    """Scores of shape (N, C) and integer labels of shape (N,)."""
    return lambda rng: (scale * rng.normal(size=(rows, classes)), rng.integers(0, classes, rows))


def signed(*shape: int) -> Callable[[Rng], tuple[Any, ...]]:
    """Scores and labels -1 or +1 of one shape."""
    return lambda rng: (rng.normal(0, 2, size=shape), np.asarray(rng.choice([-1, 1], shape)))


def yes_no(*shape: int) -> Callable[[Rng], tuple[Any, ...]]:
    """Logits and labels 0 or 1 of one shape."""
    return lambda rng: (rng.normal(0, 2, size=shape), np.asarray(rng.integers(0, 2, shape)))


def weighted_yes_no(shape, weight, pos_weight, probabilities: bool = False) -> Callable[[Rng], tuple[Any, ...]]:
    """Logits and labels 0 or 1, with weights and weights of yes of the given shapes."""

    def draw(rng):
        x, target = yes_no(*shape)(rng)
        weights = (None if size is None else np.asarray(rng.uniform(0.5, 2, size)) for size in (weight, pos_weight))
        return x, rng.uniform(0.1, 0.9, shape) if probabilities else target, *weights

    return draw


def distributions(rows: int, classes: int, logs: tuple[bool, ...]) -> Callable[[Rng], tuple[Any, ...]]:
    """Random distributions in rows of shape (N, C), in logarithms where asked."""

    def draw(rng):
        return tuple(np.log(q) if log else q for log in logs for q in [rng.dirichlet(np.full(classes, 2.0), rows)])

    return draw


def logits_and_probabilities(rows: int, classes: int) -> Callable[[Rng], tuple[Any, ...]]:
    """Logits, and labels that are distributions, both of shape (N, C)."""
    return lambda rng: (2 * rng.normal(size=(rows, classes)), rng.dirichlet(np.full(classes, 2.0), rows))


def soft_labelled(*shape: int) -> Callable[[Rng], tuple[Any, ...]]:
    """Logits of shape (N, C, d1, ...), labels between 0 and 1 of that shape, and weights of the classes."""
    return lambda rng: (2 * rng.normal(size=shape), rng.uniform(0.1, 0.4, shape), rng.uniform(0.5, 2, shape[1]))


def embeddings(rows: int, width: int) -> Callable[[Rng], tuple[Any, ...]]:
    """Two batches of embeddings of shape (N, D), and labels -1 or +1."""
    return lambda rng: (rng.normal(size=(rows, width)), rng.normal(size=(rows, width)), rng.choice([-1, 1], rows))


CLASS_CASES = (
    Case("batch", scores(6, 4)),
    Case("batch, sum", scores(5, 3), {"reduction": "sum"}),
    Case("batch, none", scores(5, 3), {"reduction": "none"}),
    Case("one row", lambda rng: (rng.normal(size=5), np.array(3))),
    Case("one row, none", lambda rng: (rng.normal(size=5), np.array(0)), {"reduction": "none"}),
    Case("the same label everywhere", lambda rng: (rng.normal(size=(4, 3)), np.full(4, 2))),
    Case("small integers", lambda rng: (rng.normal(size=(4, 3)), np.array([0, 2, 1, 1], np.uint8))),
    Case("one class", scores(3, 1)),
    Case("size 1", scores(1, 1)),
    Case("no row, sum", scores(0, 3), {"reduction": "sum"}),
    Case("no row, none", scores(0, 3), {"reduction": "none"}),
)
CLASS_BAD = (
    (Case("a label too large", fixed(np.zeros((2, 3)), [0, 3])), r"0\.\.2 for 3 classes, not in 0\.\.3"),
    (Case("a negative label", fixed(np.zeros((2, 3)), [-1, 2])), r"0\.\.2 for 3 classes, not in -1\.\.2"),
    (Case("labels that are not integers", fixed(np.zeros((2, 3)), [0.0, 1.0])), r"\(2,\) and dtype float64.*\(2, 3\)"),
    (Case("too few labels", fixed(np.zeros((2, 3)), [0])), r"\(1,\).*\(2, 3\)"),
    (Case("one-hot integers", fixed(np.zeros((2, 3)), np.eye(3, dtype=int)[:2])), r"\(2, 3\).*\(2, 3\)"),
    (Case("classes on the last axis", fixed(np.zeros((2, 4, 3)), np.zeros((2, 4), int))), r"\(2, 4\).*\(2, 4, 3\)"),
    (Case("empty batch", scores(0, 3)), r"empty batch has no mean.*\(0,\)"),
    (Case("no such reduction", scores(2, 3), UNKNOWN_REDUCTION), NO_SUCH_REDUCTION),
)


def labelled(*shape: int, ignored: int | None = None, weight: bool = False) -> Callable[[Rng], tuple[Any, ...]]:
    """Scores of shape (N, C, d1, ...), integer labels, every third one ``ignored``, and perhaps weights of classes."""

    def draw(rng):
        labels = rng.integers(0, shape[1], (shape[0], *shape[2:]))
        if ignored is not None:
            labels.flat[1::3] = ignored
        x = 2 * rng.normal(size=shape)
        return (x, labels, rng.uniform(0.5, 2, shape[1])) if weight else (x, labels)

    return draw


SECOND = {"ignore_index": 1}
WEIGHT_CASES = (
    Case("weights", labelled(6, 4, weight=True)),
    Case("weights, sum", labelled(6, 4, weight=True), {"reduction": "sum"}),
    Case("weights, none", labelled(6, 4, weight=True), {"reduction": "none"}),
    Case(
        "weights, one row", lambda rng: (rng.normal(size=4), np.array(2), rng.uniform(0.5, 2, 4)), {"reduction": "sum"}
    ),
    Case("a class of weight 0", lambda rng: (rng.normal(size=(4, 3)), np.array([0, 1, 2, 1]), np.array([0.5, 0, 2]))),
    Case("some ignored", labelled(7, 4, ignored=-100)),
    Case("some ignored, sum", labelled(7, 4, ignored=-100), {"reduction": "sum"}),
    Case("some ignored, none", labelled(7, 4, ignored=-100), {"reduction": "none"}),
    Case("a class ignored", labelled(9, 3), SECOND),
    Case("weights, a class ignored", labelled(9, 3, weight=True), SECOND),
    Case(
        "weights, some ignored, none",
        labelled(7, 3, ignored=-1, weight=True),
        {"ignore_index": -1, "reduction": "none"},
    ),
    Case("all ignored, sum", lambda rng: (rng.normal(size=(2, 3)), np.array([-100, -100])), {"reduction": "sum"}),
    Case("one row ignored, none", lambda rng: (rng.normal(size=3), np.array(-100)), {"reduction": "none"}),
    Case("sequences", labelled(3, 4, 5)),
    Case("sequences, none", labelled(3, 4, 5), {"reduction": "none"}),
    Case("images, weights, some ignored", labelled(2, 3, 2, 4, ignored=-100, weight=True)),
    Case("images, weights, a class ignored, none", labelled(2, 3, 2, 4, weight=True), {**SECOND, "reduction": "none"}),
    Case("no sequence, sum", labelled(0, 3, 5), {"reduction": "sum"}),
    Case("sequences of no step, none", labelled(2, 3, 0), {"reduction": "none"}),
)
WEIGHT_BAD = (
    (
        Case("too few weights", lambda rng: (*scores(2, 3)(rng), np.ones(2))),
        r"weight has shape \(2,\), expected \(3,\)",
    ),
    (Case("a weight a row", lambda rng: (*scores(3, 3)(rng), np.ones((3, 1)))), r"weight has shape \(3, 1\)"),
    (Case("one weight for all", lambda rng: (*scores(2, 3)(rng), 1.0)), r"weight has shape \(\), expected \(3,\)"),
    (Case("a negative weight", lambda rng: (*scores(2, 3)(rng), np.array([1.0, -1, 1]))), "finite and >= 0, not"),
    (Case("a weight nan", lambda rng: (*scores(2, 3)(rng), np.array([1.0, np.nan, 1]))), "finite and >= 0, not"),
    (Case("an infinite weight", lambda rng: (*scores(2, 3)(rng), np.array([1.0, np.inf, 1]))), "finite and >= 0, not"),
    (Case("all ignored", fixed(np.zeros((2, 3)), [-100, -100])), "every label is ignored or has weight 0"),
    (Case("all of weight 0", fixed(np.zeros((2, 2)), [0, 0], [0.0, 1.0])), "every label is ignored or has weight 0"),
    (Case("another number is ignored", fixed(np.zeros((2, 3)), [-100, 1]), {"ignore_index": -1}), "not in -100"),
    (Case("ignore_index a float", scores(2, 3), {"ignore_index": 1.0}), "ignore_index must be an integer, not 1.0"),
    (Case("labels of other sequences", fixed(np.zeros((2, 3, 4)), np.zeros((2, 5), int))), r"\(2, 5\).*\(2, 3, 4\)"),
)


def _long(f):
    """PyTorch takes class numbers as int64 only."""
    return lambda x, y, *weight, **static: f(x, y if y.is_floating_point() else y.long(), *weight, **static)


def _float_target(f):
    """PyTorch's Huber loss and cross-entropy from logits fail on integer targets."""
    return lambda x, target, *weight, **static: f(x, target.to(x.dtype), *weight, **static)


def _torch_binary_cross_entropy(torch):
    def loss(x, target, weight=None, pos_weight=None, reduction="mean"):
        return torch.nn.functional.binary_cross_entropy_with_logits(
            x, target, weight, pos_weight=pos_weight, reduction=reduction
        )

    return _float_target(loss)


def _mean_or(losses, reduction):
    return losses.mean() if reduction == "mean" else losses.sum() if reduction == "sum" else losses


def _torch_focal(torch):
    """torchvision.ops.sigmoid_focal_loss, as its documentation and source state it."""

    def focal(x, target, alpha=0.25, gamma=2.0, reduction="mean"):
        t = target.to(x.dtype)
        p = torch.sigmoid(x)
        p_t = p * t + (1 - p) * (1 - t)
        losses = torch.nn.functional.binary_cross_entropy_with_logits(x, t, reduction="none") * (1 - p_t) ** gamma
        if alpha is not None:
            losses = (alpha * t + (1 - alpha) * (1 - t)) * losses
        return _mean_or(losses, reduction)

    return focal


def _torch_quantile(torch):
    def pinball(x, target, quantile=0.5, reduction="mean"):
        below = target - x
        return _mean_or(torch.maximum(quantile * below, (quantile - 1) * below), reduction)

    return pinball


def _torch_kl_div(torch):
    """PyTorch warns of its own ``"mean"``, which is the plain mean of ``"none"``."""

    def kl_div(x, target, reduction="mean", log_target=False):
        one = torch.nn.functional.kl_div(
            x, target.to(x.dtype), reduction="none" if reduction == "mean" else reduction, log_target=log_target
        )
        return one.mean() if reduction == "mean" else one

    return kl_div


def _torch_hinge(torch):
    return lambda x, target, margin=1.0, reduction="mean": _mean_or(torch.relu(margin - target * x), reduction)


def _torch_info_nce(torch):
    def info_nce(queries, keys, temperature=1.0, reduction="mean"):
        labels = torch.arange(len(keys), device=keys.device)
        return torch.nn.functional.cross_entropy(queries @ keys.T / temperature, labels, reduction=reduction)

    return info_nce


def _multi_margin_kinks(x, y, margin=1.0, **static):
    x, y = (x, y) if x.ndim == 2 else (x[None], y[None])
    missing = margin - np.take_along_axis(x, y[:, None].astype(int), 1) + x
    np.put_along_axis(missing, y[:, None].astype(int), np.inf, 1)
    return np.abs(missing)


def _cosine_kinks(a, b, target, margin=0.0, **static):
    cos = (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.where(target == 1, np.inf, np.abs(cos - margin))


def _triplet_kinks(a, p, n, margin=1.0, eps=1e-6, **static):
    return np.abs(margin + np.linalg.norm(a - p + eps, axis=-1) - np.linalg.norm(a - n + eps, axis=-1))


REFERENCES.update(
    mse_loss=Reference(lambda torch: torch.nn.functional.mse_loss, PAIR_CASES, analytic=True, bad=PAIR_BAD),
    l1_loss=Reference(
        lambda torch: torch.nn.functional.l1_loss,
        PAIR_CASES,
        kinks=lambda x, target, **static: np.abs(x - target),
        at_kinks=(ON_TARGET,),
        bad=PAIR_BAD,
    ),
    huber_loss=Reference(
        lambda torch: _float_target(torch.nn.functional.huber_loss),
        (*PAIR_CASES, *_with_static(PAIR_CASES[:3], delta=0.4)),
        kinks=lambda x, target, delta=1.0, **static: np.abs(np.abs(x - target) - delta),
        at_kinks=(ON_TARGET, Case("at delta", fixed([0.5, -0.5, 0.25], [0.0, 0.0, 0.0]), {"delta": 0.5})),
        bad=(*PAIR_BAD, (Case("delta 0", normal((3,), (3,)), {"delta": 0.0}), "delta must be positive, not 0.0")),
    ),
    quantile_loss=Reference(
        _torch_quantile,
        (*PAIR_CASES, *_with_static(PAIR_CASES[:3], quantile=0.9)),
        kinks=lambda x, target, **static: np.abs(x - target),
        at_kinks=(ON_TARGET, *_with_static((ON_TARGET,), quantile=0.9)),
        bad=(
            *PAIR_BAD,
            (Case("quantile 1", normal((3,), (3,)), {"quantile": 1.0}), "between 0 and 1, not 1.0"),
            (Case("quantile in per cent", normal((3,), (3,)), {"quantile": 90}), "between 0 and 1, not 90"),
        ),
    ),
    binary_cross_entropy_with_logits=Reference(
        _torch_binary_cross_entropy,
        (
            Case("matrix", yes_no(4, 5)),
            Case("vector, sum", yes_no(7), {"reduction": "sum"}),
            Case("stack, none", yes_no(2, 3, 4), {"reduction": "none"}),
            Case("probabilities", lambda rng: (2 * rng.normal(size=(4, 3)), rng.uniform(0.1, 0.9, (4, 3)))),
            Case(
                "probabilities, none",
                lambda rng: (2 * rng.normal(size=6), rng.uniform(0.1, 0.9, 6)),
                {"reduction": "none"},
            ),
            Case("0-d", yes_no()),
            Case("size 1", yes_no(1)),
            Case("size 0, sum", yes_no(0, 3), {"reduction": "sum"}),
            Case("weights", weighted_yes_no((4, 3), (4, 3), None)),
            Case("weights, sum", weighted_yes_no((4, 3), (4, 1), None), {"reduction": "sum"}),
            Case("one weight", weighted_yes_no((4, 3), (), None)),
            Case("weights of yes", weighted_yes_no((4, 3), None, (3,))),
            Case("weights of yes, none", weighted_yes_no((4, 3), None, (3,)), {"reduction": "none"}),
            Case("one weight of yes", weighted_yes_no((6,), None, ())),
            Case("both weights", weighted_yes_no((4, 3), (3,), (4, 3)), {"reduction": "sum"}),
            Case("both weights, probabilities", weighted_yes_no((2, 3, 4), (3, 1), (4,), probabilities=True)),
            Case("some of weight 0", lambda rng: (*yes_no(4)(rng), np.array([0, 1.5, 0, 2]), np.array([2.0]))),
            Case("yes of weight 0", lambda rng: (*yes_no(6)(rng), None, np.array(0.0)), {"reduction": "none"}),
        ),
        constants=(2, 3),
        extremes=(
            Case("sure, weights", fixed([-1e4, 1e4, -1e4, 1e4], [0, 0, 1, 1], [2.0, 1, 0.5, 3], [0.5, 2, 2, 1])),
            Case("sure", fixed([[-1e4, 1e4, -50.0, 50.0], [0.0, 1e4, -1e4, -50.0]], [[0, 1, 0, 1], [1, 0, 1, 1]])),
            Case("sure, none", fixed([-1e4, 1e4, -1e4, 1e4], [0, 0, 1, 1]), {"reduction": "none"}),
            Case("sure against probabilities", fixed([-1e4, 1e4, -1e4], [0.25, 0.5, 1.0])),
        ),
        bad=(
            *PAIR_BAD[:2],
            (Case("empty batch", yes_no(0, 3)), r"empty batch has no mean.*\(0, 3\)"),
            (Case("labels of a hinge", signed(9)), r"targets must lie in \[0, 1\], not in \[-1\.0, 1\.0\]"),
            (Case("a weight too many", lambda rng: (*yes_no(2, 3)(rng), np.ones(2))), r"weight has.*\(2,\).*\(2, 3\)"),
            (
                Case("a weight for more rows", lambda rng: (*yes_no(1, 3)(rng), np.ones((2, 3)))),
                r"weight has shape \(2, 3\), expected what broadcasts to the input's \(1, 3\)",
            ),
            (
                Case("weights of yes, too many", lambda rng: (*yes_no(2, 3)(rng), None, np.ones(4))),
                r"pos_weight.*\(4,\)",
            ),
            (Case("a negative weight", lambda rng: (*yes_no(3)(rng), -np.ones(3))), "weight must be finite and >= 0"),
            (Case("nan for yes", lambda rng: (*yes_no(3)(rng), None, np.nan)), "pos_weight must be finite and >= 0"),
            (Case("no such reduction", yes_no(3), UNKNOWN_REDUCTION), NO_SUCH_REDUCTION),
        ),
    ),
    cross_entropy=Reference(
        lambda torch: _long(torch.nn.functional.cross_entropy),
        (
            *CLASS_CASES,
            *_with_static(CLASS_CASES[:4], label_smoothing=0.1),
            Case("nothing but smoothing", scores(4, 3), {"label_smoothing": 1.0}),
            Case("probabilities", logits_and_probabilities(4, 3)),
            Case("probabilities, sum", logits_and_probabilities(4, 3), {"reduction": "sum"}),
            Case("probabilities, none", logits_and_probabilities(4, 3), {"reduction": "none"}),
            Case("probabilities, smoothed", logits_and_probabilities(4, 3), {"label_smoothing": 0.2}),
            Case("weights that do not add to 1", uniform(0.1, 0.9, (4, 3), (4, 3))),
            Case("probabilities, one row", uniform(0.1, 0.4, (3,), (3,)), {"label_smoothing": 0.2}),
            *WEIGHT_CASES,
            *_with_static(WEIGHT_CASES, label_smoothing=0.3),
            Case("probabilities, weights", soft_labelled(4, 3)),
            Case("probabilities, weights, sum", soft_labelled(4, 3), {"reduction": "sum"}),
            Case("probabilities, weights, smoothed", soft_labelled(4, 3), {"label_smoothing": 0.2}),
            Case("probabilities of sequences", lambda rng: soft_labelled(3, 4, 5)(rng)[:2]),
            Case("probabilities of images, weights", soft_labelled(2, 3, 2, 2), {"label_smoothing": 0.2}),
            Case("probabilities of images, none", soft_labelled(2, 3, 2, 2), {"reduction": "none"}),
        ),
        constants=(2,),
        extremes=(
            Case("far apart", fixed([[1e4, 0.0, -1e4], [1e4, 0.0, -1e4], [-1e4, -1e4, -1e4]], [0, 2, 1])),
            Case("far apart, none", fixed([[1e4, 0.0, -1e4], [1e4, 1e4, 0.0]], [1, 1]), {"reduction": "none"}),
            Case("far apart, smoothed", fixed([[1e4, 0.0, -1e4], [9e3, 1e4, 0.0]], [0, 2]), {"label_smoothing": 0.1}),
            Case("a class ruled out", fixed([[0.0, -np.inf, 1.0], [-np.inf, 2.0, -np.inf]], [2, 1])),
            Case("the true class ruled out", fixed([[0.0, -np.inf, 1.0], [1.0, 2.0, 3.0]], [1, 1])),
            Case("far apart, probabilities", fixed([[1e4, 0.0, -1e4]], [[0.2, 0.3, 0.5]])),
        ),
        bad=(
            *CLASS_BAD,
            (Case("no class", normal((0, 0), (0, 0))), r"\(0, 0\) have no class"),
            (Case("probabilities above 1", fixed(np.zeros((1, 2)), [[1.5, 0.5]])), r"\[0, 1\], not in \[0\.5, 1\.5\]"),
            *WEIGHT_BAD,
            (
                Case("probabilities, ignored", logits_and_probabilities(2, 3), SECOND),
                "leave nothing out, so no ignore_index=1",
            ),
            (
                Case("probabilities, too few weights", lambda rng: (*logits_and_probabilities(2, 3)(rng), np.ones(2))),
                r"weight has shape \(2,\), expected \(3,\)",
            ),
            (Case("smoothing above 1", scores(2, 3), {"label_smoothing": 1.5}), r"\[0, 1\], not 1\.5"),
        ),
    ),
    nll_loss=Reference(
        lambda torch: _long(torch.nn.functional.nll_loss),
        (
            *CLASS_CASES,
            Case("log-probabilities", lambda rng: (np.log(rng.dirichlet([1, 1, 1], 4)), np.arange(4) % 3)),
            *WEIGHT_CASES,
        ),
        analytic=True,
        constants=(2,),
        extremes=(
            Case("impossible", fixed([[-np.inf, 0.0], [-1e4, 0.0]], [0, 0])),
            Case("impossible and ignored", fixed([[-np.inf, 0.0], [-1e4, 0.0]], [-100, 0])),
        ),
        bad=(*CLASS_BAD, *WEIGHT_BAD),
    ),
    kl_div=Reference(
        _torch_kl_div,
        (
            Case("mean", distributions(4, 3, (True, False))),
            Case("batchmean", distributions(4, 3, (True, False)), {"reduction": "batchmean"}),
            Case("sum", distributions(4, 3, (True, False)), {"reduction": "sum"}),
            Case("none", distributions(4, 3, (True, False)), {"reduction": "none"}),
            Case("logs", distributions(4, 3, (True, True)), {"log_target": True}),
            Case("logs, batchmean", distributions(4, 3, (True, True)), {"log_target": True, "reduction": "batchmean"}),
            Case("logs, none", distributions(4, 3, (True, True)), {"log_target": True, "reduction": "none"}),
            Case("vector, batchmean", uniform(0.1, 0.4, (3,), (3,)), {"reduction": "batchmean"}),
            Case("0-d, batchmean", uniform(0.1, 0.4, (), ()), {"reduction": "batchmean"}),
            Case("integers", fixed([[-0.5, -1.5], [-3.0, -0.1]], [[0, 1], [1, 0]])),
            Case("size 1", uniform(0.1, 0.4, (1,), (1,))),
            Case("size 0, sum", normal((0, 3), (0, 3)), {"reduction": "sum"}),
        ),
        extremes=(
            Case("unlikely", fixed([[-1e4, 0.0], [-50.0, -1e4]], [[0.5, 0.5], [1.0, 1e-30]]), {"reduction": "sum"}),
            Case(
                "unlikely, logs", fixed([[-1e4, 0.0], [-1.0, -1.0]], [[0.0, -1e4], [-50.0, 0.0]]), {"log_target": True}
            ),
            Case("ruled out by Q alone", fixed([[-np.inf, 0.0]], [[0.5, 0.5]])),
        ),
        bad=(
            *PAIR_BAD[:3],
            (Case("empty batch, batchmean", normal((0, 3), (0, 3)), {"reduction": "batchmean"}), r"empty.*\(0, 3\)"),
            (Case("logs as probabilities", distributions(2, 3, (True, True))), r"probabilities must lie in \[0, 1\]"),
            (
                Case("probabilities as logs", distributions(2, 3, (True, False)), {"log_target": True}),
                r"log-probabilities must lie in \[-inf, 0\]",
            ),
            (
                Case("no such reduction", distributions(2, 3, (True, False)), UNKNOWN_REDUCTION),
                "'none', 'batchmean', not 'average'",
            ),
        ),
    ),
    focal_loss=Reference(
        _torch_focal,
        (
            Case("matrix", yes_no(4, 5)),
            Case("vector, sum", yes_no(7), {"reduction": "sum"}),
            Case("stack, none", yes_no(2, 3, 4), {"reduction": "none"}),
            Case("no weights", yes_no(6), {"alpha": None}),
            Case("gamma 0", yes_no(6), {"gamma": 0.0}),
            Case("gamma between", yes_no(6), {"gamma": 1.5, "alpha": 0.6, "reduction": "none"}),
            Case("labels as floats", lambda rng: (rng.normal(size=4), np.array([0.0, 1.0, 1.0, 0.0]))),
            Case("0-d", yes_no()),
            Case("size 1", yes_no(1)),
            Case("size 0, sum", yes_no(0, 3), {"reduction": "sum"}),
        ),
        constants=(1,),
        extremes=(
            Case("sure", fixed([-1e4, 1e4, -1e4, 1e4, -50.0, 50.0], [0, 0, 1, 1, 1, 1])),
            Case("sure, gamma 1", fixed([-1e4, 1e4, -1e4, 1e4], [0, 0, 1, 1]), {"gamma": 1.0, "reduction": "none"}),
        ),
        bad=(
            *PAIR_BAD[:2],
            (Case("empty batch", yes_no(0, 3)), r"empty batch has no mean.*\(0, 3\)"),
            (Case("labels of a hinge", signed(9)), r"labels must be 0 or 1, not \[-1 +1\]"),
            (Case("alpha above 1", yes_no(3), {"alpha": 2.0}), r"alpha.*\[0, 1\], not 2\.0"),
            (Case("gamma negative", yes_no(3), {"gamma": -1.0}), r"gamma must not be negative, but is -1\.0"),
            (Case("no such reduction", yes_no(3), UNKNOWN_REDUCTION), NO_SUCH_REDUCTION),
        ),
    ),
    hinge_loss=Reference(
        _torch_hinge,
        (
            Case("matrix", signed(4, 5)),
            Case("vector, sum", signed(7), {"reduction": "sum"}),
            Case("stack, none", signed(2, 3, 4), {"reduction": "none"}),
            Case("wide margin", signed(6), {"margin": 2.5}),
            Case("labels as floats", lambda rng: (rng.normal(size=4), np.array([-1.0, 1.0, 1.0, -1.0]))),
            Case("0-d", signed()),
            Case("size 1", signed(1)),
            Case("size 0, sum", signed(0, 3), {"reduction": "sum"}),
        ),
        kinks=lambda x, target, margin=1.0, **static: np.abs(margin - target * x),
        at_kinks=(Case("on the margin", fixed([1.0, -1.0, 0.5], [1, -1, 1])),),
        constants=(1,),
        bad=(
            *PAIR_BAD[:2],
            (Case("empty batch", signed(0, 3)), r"empty batch has no mean.*\(0, 3\)"),
            (Case("labels 0 and 1", yes_no(9)), r"labels must be -1 or 1, not \[0 1\]"),
            (Case("no such reduction", signed(3), UNKNOWN_REDUCTION), NO_SUCH_REDUCTION),
        ),
    ),
    multi_margin_loss=Reference(
        lambda torch: _long(torch.nn.functional.multi_margin_loss),
        (
            *(case for case in CLASS_CASES if case.name != "no row, sum"),  # PyTorch returns what was in memory
            *_with_static(CLASS_CASES[:4], p=2),
            *_with_static(CLASS_CASES[:3], margin=2.5),
        ),
        kinks=_multi_margin_kinks,
        at_kinks=(Case("on the margin", fixed([[2.0, 1.0, 0.0], [0.0, -1.0, 3.0]], [0, 0])),),
        bad=(*CLASS_BAD, (Case("p 3", scores(2, 3), {"p": 3}), "p must be 1 or 2, not 3")),
    ),
    cosine_embedding_loss=Reference(
        lambda torch: torch.nn.functional.cosine_embedding_loss,
        (
            Case("batch", embeddings(6, 4)),
            Case("batch, sum", embeddings(5, 3), {"reduction": "sum"}),
            Case("batch, none", embeddings(5, 3), {"reduction": "none"}),
            Case("margin", embeddings(6, 4), {"margin": 0.3}),
            Case("margin below 0", embeddings(6, 4), {"margin": -0.5, "reduction": "none"}),
            Case("one pair", lambda rng: (rng.normal(size=4), rng.normal(size=4), np.array(1))),
            Case(
                "one pair apart", lambda rng: (rng.normal(size=2), rng.normal(size=2), np.array(-1)), {"margin": -0.9}
            ),
            Case("size 1", embeddings(1, 3)),
            Case("no row, sum", embeddings(0, 3), {"reduction": "sum"}),
        ),
        kinks=_cosine_kinks,
        at_kinks=(Case("at right angles", fixed([[1.0, 0.0], [0.0, 2.0]], [[0.0, 3.0], [1.0, 0.0]], [-1, -1])),),
        bad=(
            (Case("other widths", fixed(np.ones((2, 3)), np.ones((2, 4)), [1, 1])), r"\(2, 3\).*\(2, 4\)"),
            (Case("too few labels", fixed(np.ones((2, 3)), np.ones((2, 3)), [1])), r"\(2, 3\).*\(1,\)"),
            (Case("labels 0 and 1", fixed(np.ones((2, 3)), np.ones((2, 3)), [0, 1])), r"-1 or 1, not \[0 1\]"),
            (Case("margin 2", embeddings(2, 3), {"margin": 2.0}), r"\[-1, 1\], not 2\.0"),
            (Case("empty batch", embeddings(0, 3)), r"empty batch has no mean.*\(0,\)"),
            (Case("no such reduction", embeddings(2, 3), UNKNOWN_REDUCTION), NO_SUCH_REDUCTION),
        ),
    ),
    triplet_margin_loss=Reference(
        lambda torch: torch.nn.functional.triplet_margin_loss,
        (
            Case("batch", normal((6, 4), (6, 4), (6, 4))),
            Case("batch, sum", normal((5, 3), (5, 3), (5, 3)), {"reduction": "sum"}),
            Case("batch, none", normal((5, 3), (5, 3), (5, 3)), {"reduction": "none"}),
            Case("margin", normal((5, 3), (5, 3), (5, 3)), {"margin": 0.2}),
            Case("eps", normal((5, 3), (5, 3), (5, 3)), {"eps": 0.1, "reduction": "none"}),
            Case("one triplet", normal((4,), (4,), (4,)), {"margin": 3.0}),
            Case("size 1", normal((1, 1), (1, 1), (1, 1))),
            Case("no row, sum", normal((0, 3), (0, 3), (0, 3)), {"reduction": "sum"}),
        ),
        kinks=_triplet_kinks,
        at_kinks=(
            Case(
                "on the margin",
                fixed([[0.0, 0.0]], [[3.0, 4.0]], [[6.0, 0.0]]),
                {"margin": 1.0, "eps": 0.0},
            ),
            Case("anchor = positive", fixed([[1.0, 2.0]], [[1.0, 2.0]], [[1.5, 2.0]])),
            Case("anchor = positive, eps 0", fixed([[1.0, 2.0]], [[1.0, 2.0]], [[1.5, 2.0]]), {"eps": 0.0}),
        ),
        bad=(
            (Case("positive of another shape", normal((2, 3), (2, 4), (2, 3))), r"\(2, 3\), positive.*\(2, 4\)"),
            (Case("negative of another shape", normal((2, 3), (2, 3), (1, 3))), r"\(2, 3\), negative.*\(1, 3\)"),
            (Case("three axes", normal((2, 3, 4), (2, 3, 4), (2, 3, 4))), r"not \(2, 3, 4\)"),
            (Case("margin 0", normal((2, 3), (2, 3), (2, 3)), {"margin": 0.0}), "margin must be positive, not 0.0"),
            (Case("empty batch", normal((0, 3), (0, 3), (0, 3))), r"empty batch has no mean.*\(0,\)"),
            (Case("no such reduction", normal((2, 3), (2, 3), (2, 3)), UNKNOWN_REDUCTION), NO_SUCH_REDUCTION),
        ),
    ),
    info_nce=Reference(
        _torch_info_nce,
        (
            Case("batch", normal((5, 3), (5, 3))),
            Case("batch, sum", normal((4, 3), (4, 3)), {"reduction": "sum"}),
            Case("batch, none", normal((4, 3), (4, 3)), {"reduction": "none"}),
            Case("cold", normal((4, 3), (4, 3)), {"temperature": 0.2}),
            Case("size 1", normal((1, 1), (1, 1))),
        ),
        bad=(
            (Case("another number of keys", normal((2, 3), (4, 3))), r"\(2, 3\).*\(4, 3\)"),
            (Case("one query", normal((3,), (3,))), r"\(N, D\), not \(3,\)"),
            (Case("temperature 0", normal((2, 3), (2, 3)), {"temperature": 0.0}), "must be positive, not 0.0"),
            (Case("empty batch", normal((0, 3), (0, 3))), r"empty batch, of shape \(0, 3\)"),
            (Case("no such reduction", normal((2, 3), (2, 3)), UNKNOWN_REDUCTION), NO_SUCH_REDUCTION),
        ),
    ),
)


# Chapter 5: nnbook.regularization


def masked(p: float, *shape: int, mask: tuple[int, ...] | None = None) -> Callable[[Rng], tuple[Any, ...]]:
    """Normal numbers and a mask that keeps each with probability ``1 - p``."""
    return lambda rng: (rng.normal(size=shape), np.asarray(rng.random(shape if mask is None else mask) >= p))


def statistics(*shape: int) -> Callable[[Rng], tuple[Any, ...]]:
    """Numbers of that shape; a mean, a variance, a scale and a shift for each channel on axis 1."""

    def draw(rng):
        C = shape[1]
        return 2 + 3 * rng.normal(size=shape), rng.normal(size=C), rng.uniform(0.5, 2, C), *rng.normal(size=(2, C))

    return draw


def _torch_dropout(torch):
    # torch draws its own mask, so this is its formula; the tests compare with F.dropout itself, mask recovered.
    return lambda x, mask=None, p=0.5: x * 1 if mask is None else x * mask / (1 - p)


def _torch_batch_norm(torch):
    def batch_norm(x, weight=None, bias=None, eps=1e-5):
        return torch.nn.functional.batch_norm(x, None, None, weight, bias, training=True, eps=eps)

    return batch_norm


def _torch_batch_norm_eval(torch):
    def batch_norm_eval(x, mean, var, weight=None, bias=None, eps=1e-5):
        return torch.nn.functional.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    return batch_norm_eval


def _torch_layer_norm(torch):
    def layer_norm(x, weight=None, bias=None, normalized_shape=None, eps=1e-5):
        return torch.nn.functional.layer_norm(
            x, _normalized_shape(x, normalized_shape, weight, bias), weight, bias, eps
        )

    return layer_norm


def _torch_rms_norm(torch):
    def rms_norm(x, weight=None, normalized_shape=None, eps=None):
        return torch.nn.functional.rms_norm(x, _normalized_shape(x, normalized_shape, weight), weight, eps)

    return rms_norm


def _normalized_shape(x, shape, *arrays):
    if shape is None:
        shape = next((a.shape for a in arrays if a is not None), x.shape[-1:])
    return (shape,) if isinstance(shape, int) else tuple(shape)


def _torch_group_norm(torch):
    def group_norm(x, weight=None, bias=None, *, num_groups, eps=1e-5):
        return torch.nn.functional.group_norm(x, num_groups, weight, bias, eps)

    return group_norm


def _without_weight(*shape: int) -> Callable[[Rng], tuple[Any, ...]]:
    return lambda rng: (rng.normal(size=shape), None, rng.normal(size=shape[1]))


NEGATIVE_EPS = {"eps": -1e-5}
EPS_RANGE = "eps must be >= 0, not -1e-05"
BATCH_BAD = (
    (Case("one axis", normal((4,), (4,), (4,))), r"\(N, C\) or \(N, C, \.\.\.\), not \(4,\)"),
    (Case("weight too long", normal((5, 3), (5,), (3,))), r"weight of shape \(5,\).*\(5, 3\)"),
    (Case("bias that would broadcast", normal((5, 3), (3,), (1,))), r"bias of shape \(1,\).*\(5, 3\)"),
)

REFERENCES.update(
    soft_threshold=Reference(
        lambda torch: lambda x, threshold: torch.nn.functional.softshrink(x, lambd=threshold),
        (
            Case("matrix", normal((4, 5)), {"threshold": 0.5}),
            Case("vector", lambda rng: (3 * rng.normal(size=9),), {"threshold": 1.5}),
            Case("no threshold", normal((2, 3, 4)), {"threshold": 0.0}),
            Case("0-d", uniform(1, 2, ()), {"threshold": 0.5}),
            Case("size 1", uniform(1, 2, (1,)), {"threshold": 0.5}),
            Case("size 0", normal((0, 3)), {"threshold": 0.5}),
        ),
        kinks=lambda x, threshold: np.abs(np.abs(x) - threshold),
        at_kinks=(Case("at the threshold", fixed([-0.5, 0.5, 0.0, 1.0]), {"threshold": 0.5}),),
        extremes=(Case("both ends", fixed([-np.inf, -1e4, 1e4, np.inf]), {"threshold": 0.5}),),
        bad=((Case("negative threshold", normal((3,)), {"threshold": -0.5}), "threshold must be >= 0, not -0.5"),),
    ),
    dropout=Reference(
        _torch_dropout,
        (
            Case("matrix", masked(0.5, 4, 5)),
            Case("few dropped", masked(0.2, 6, 5), {"p": 0.2}),
            Case("most dropped", masked(0.9, 6, 5), {"p": 0.9}),
            Case("whole channels", masked(0.5, 4, 3, 2, 2, mask=(4, 3, 1, 1))),
            Case("the same for every row", masked(0.5, 4, 9, mask=(9,))),
            Case("evaluation", normal((4, 5))),
            Case("mask None", lambda rng: (rng.normal(size=(4, 5)), None), {"p": 0.3}),
            Case("size 1", lambda rng: (rng.normal(size=(1,)), np.array([True]))),
            Case("size 0", masked(0.5, 0, 3)),
        ),
        analytic=True,
        bad=(
            (Case("p of 1", masked(0.5, 2, 3), {"p": 1.0}), r"p must lie in \[0, 1\), not 1.0"),
            (Case("negative p", masked(0.5, 2, 3), {"p": -0.1}), r"p must lie in \[0, 1\), not -0.1"),
            (Case("p in per cent", masked(0.5, 2, 3), {"p": 50}), r"p must lie in \[0, 1\), not 50"),
            (Case("mask of numbers", normal((2, 3), (2, 3))), "mask has dtype float64, expected bool"),
            (Case("another shape", masked(0.5, 2, 3, mask=(2,))), r"mask of shape \(2,\).*\(2, 3\)"),
            (Case("mask larger than x", masked(0.5, 1, 3, mask=(4, 3))), r"mask of shape \(4, 3\).*\(1, 3\)"),
        ),
    ),
    batch_norm=Reference(
        _torch_batch_norm,
        (
            Case("batch", normal((6, 4), (4,), (4,))),
            Case("another scale", lambda rng: (5 + 3 * rng.normal(size=(7, 3)), *rng.normal(size=(2, 3)))),
            Case("sequences", normal((3, 2, 5), (2,), (2,))),
            Case("images", normal((2, 3, 4, 2), (3,), (3,))),
            Case("no weight, no bias", normal((6, 4))),
            Case("weight alone", normal((6, 4), (4,))),
            Case("bias alone", _without_weight(6, 4)),
            Case("large eps", normal((5, 3), (3,), (3,)), {"eps": 0.5}),
            Case("tiny eps", normal((5, 3), (3,), (3,)), {"eps": 1e-12}),
            Case("one example, many places", normal((1, 2, 6), (2,), (2,))),
            Case("size 1", lambda rng: (rng.normal(size=(5, 1)), np.array([1.5]), np.array([0.5]))),
            Case("no channel", normal((3, 0))),
        ),
        analytic=True,
        bad=(
            *BATCH_BAD,
            (Case("batch of one", normal((1, 3), (3,), (3,))), r"more than one value a channel.*\(1, 3\)"),
            (Case("batch of none", normal((0, 3), (3,), (3,))), r"more than one value a channel.*\(0, 3\)"),
            (Case("negative eps", normal((5, 3), (3,), (3,)), NEGATIVE_EPS), EPS_RANGE),
        ),
        extremes=(
            Case("both ends", uniform(-1e4, 1e4, (6, 4), (4,), (4,))),
            Case("channels of zeros", lambda rng: (np.zeros((4, 3)), *rng.normal(size=(2, 3)))),
        ),
    ),
    batch_norm_eval=Reference(
        _torch_batch_norm_eval,
        (
            Case("batch", statistics(6, 4)),
            Case("one example", statistics(1, 4)),
            Case("images", statistics(2, 3, 4, 2)),
            Case("no weight, no bias", lambda rng: statistics(5, 3)(rng)[:3]),
            Case("weight alone", lambda rng: statistics(5, 3)(rng)[:4]),
            Case("large eps", statistics(5, 3), {"eps": 0.5}),
            Case("size 1", statistics(1, 1)),
            Case("no row", statistics(0, 3)),
        ),
        analytic=True,
        constants=(1, 2),
        bad=(
            (Case("one axis", lambda rng: (np.ones(4), *np.ones((2, 4)))), r"\(N, C, \.\.\.\), not \(4,\)"),
            (Case("mean too short", fixed(np.ones((2, 3)), np.ones(2), np.ones(3))), r"mean of shape \(2,\).*\(2, 3\)"),
            (Case("var too short", fixed(np.ones((2, 3)), np.ones(3), np.ones(2))), r"var of shape \(2,\).*\(2, 3\)"),
            (Case("negative var", fixed(np.ones((2, 3)), np.ones(3), -np.ones(3))), r"variance must be >= 0, not -1.0"),
            (Case("weight too long", lambda rng: (*statistics(5, 3)(rng)[:3], np.ones(5))), r"\(5,\).*\(5, 3\)"),
            (Case("negative eps", statistics(5, 3), NEGATIVE_EPS), EPS_RANGE),
        ),
    ),
    layer_norm=Reference(
        _torch_layer_norm,
        (
            Case("batch", normal((5, 6), (6,), (6,))),
            Case("another scale", lambda rng: (5 + 3 * rng.normal(size=(4, 7)), *rng.normal(size=(2, 7)))),
            Case("sequences", normal((2, 3, 5), (5,), (5,))),
            Case("two axes", normal((4, 3, 2), (3, 2), (3, 2))),
            Case("all axes", normal((3, 4), (3, 4), (3, 4))),
            Case("one example", normal((6,), (6,), (6,))),
            Case("no weight, no bias", normal((5, 6))),
            Case("normalized shape", normal((2, 3, 4)), {"normalized_shape": (3, 4)}),
            Case("normalized size", normal((2, 3, 4), (4,)), {"normalized_shape": 4}),
            Case("bias alone", lambda rng: (rng.normal(size=(2, 3, 4)), None, rng.normal(size=(3, 4)))),
            Case("large eps", normal((5, 6), (6,), (6,)), {"eps": 0.5}),
            Case("no row", normal((0, 3), (3,), (3,))),
            Case("no feature", normal((3, 0), (0,), (0,))),
        ),
        analytic=True,
        bad=(
            (Case("weight too long", normal((5, 3), (4,), (4,))), r"\(5, 3\).*\(4,\)"),
            (Case("weight that would broadcast", normal((5, 3), (1,), (1,))), r"\(5, 3\).*\(1,\)"),
            (Case("bias of another shape", normal((5, 3), (3,), (5, 3))), r"bias of shape \(5, 3\).*\(5, 3\)"),
            (Case("shape of another x", normal((5, 3)), {"normalized_shape": (4, 3)}), r"\(5, 3\).*\(4, 3\)"),
            (Case("weight against shape", normal((5, 3), (3,)), {"normalized_shape": (5, 3)}), r"\(3,\).*\(5, 3\)"),
            (Case("0-d", normal(())), r"\(\) does not end in"),
            (Case("no axis", normal((5, 3)), {"normalized_shape": ()}), r"\(5, 3\) does not end in.*\(\)"),
            (Case("negative eps", normal((5, 3)), NEGATIVE_EPS), EPS_RANGE),
        ),
        extremes=(
            Case("both ends", uniform(-1e4, 1e4, (4, 6), (6,), (6,))),
            Case("rows of zeros", lambda rng: (np.zeros((3, 4)), *rng.normal(size=(2, 4)))),
        ),
    ),
    group_norm=Reference(
        _torch_group_norm,
        (
            Case("two groups", normal((3, 6), (6,), (6,)), {"num_groups": 2}),
            Case("images", normal((2, 6, 3, 2), (6,), (6,)), {"num_groups": 3}),
            Case("sequences", normal((3, 4, 5), (4,), (4,)), {"num_groups": 2}),
            Case("one group", normal((3, 4, 2), (4,), (4,)), {"num_groups": 1}),
            Case("a group for each channel", normal((3, 4, 5), (4,), (4,)), {"num_groups": 4}),
            Case("no weight, no bias", normal((3, 6)), {"num_groups": 2}),
            Case("weight alone", normal((3, 6), (6,)), {"num_groups": 2}),
            Case("large eps", normal((3, 6), (6,), (6,)), {"num_groups": 2, "eps": 0.5}),
            Case(
                "size 1", lambda rng: (rng.normal(size=(3, 1, 4)), np.array([1.5]), np.array([0.5])), {"num_groups": 1}
            ),
            Case("no row", normal((0, 4), (4,), (4,)), {"num_groups": 2}),
        ),
        analytic=True,
        bad=(
            *((Case(case.name, case.arrays, {"num_groups": 1}), message) for case, message in BATCH_BAD),
            (Case("4 groups of 6", normal((3, 6)), {"num_groups": 4}), r"4 groups.*6 channels.*\(3, 6\)"),
            (Case("no group", normal((3, 6)), {"num_groups": 0}), r"0 groups.*6 channels"),
            (Case("negative eps", normal((3, 6)), {"num_groups": 2, **NEGATIVE_EPS}), EPS_RANGE),
        ),
        extremes=(Case("both ends", uniform(-1e4, 1e4, (3, 6), (6,), (6,)), {"num_groups": 2}),),
    ),
    rms_norm=Reference(
        _torch_rms_norm,
        (
            Case("batch", normal((5, 6), (6,))),
            Case("another scale", lambda rng: (5 + 3 * rng.normal(size=(4, 7)), rng.normal(size=7))),
            Case("sequences", normal((2, 3, 5), (5,))),
            Case("two axes", normal((4, 3, 2), (3, 2))),
            Case("one example", normal((6,), (6,))),
            Case("no weight", normal((5, 6))),
            Case("normalized shape", normal((2, 3, 4)), {"normalized_shape": (3, 4)}),
            Case("large eps", normal((5, 6), (6,)), {"eps": 0.5}),
            Case("size 1", lambda rng: (rng.uniform(0.5, 2, (3, 1)), np.array([1.5])), {"eps": 0.5}),
            Case("no row", normal((0, 3), (3,))),
            Case("no feature", normal((3, 0), (0,))),
        ),
        analytic=True,
        bad=(
            (Case("weight too long", normal((5, 3), (4,))), r"\(5, 3\).*\(4,\)"),
            (Case("shape of another x", normal((5, 3)), {"normalized_shape": (4, 3)}), r"\(5, 3\).*\(4, 3\)"),
            (Case("weight against shape", normal((5, 3), (3,)), {"normalized_shape": (5, 3)}), r"\(3,\).*\(5, 3\)"),
            (Case("0-d", normal(())), r"\(\) does not end in"),
            (Case("negative eps", normal((5, 3)), NEGATIVE_EPS), EPS_RANGE),
        ),
        extremes=(
            Case("both ends", uniform(-1e4, 1e4, (4, 6), (6,))),
            Case("rows of zeros", lambda rng: (np.zeros((3, 4)), rng.normal(size=4)), {"eps": 1e-5}),
        ),
    ),
)


# Chapter 6: convolutions and pooling, nnbook.cnn


def pool_gaps(x, *, kernel_size, stride=None, padding=0, dilation=1):
    """By how much the largest entry of each window exceeds the second largest."""
    kernel, step, pad, gap = (
        v if isinstance(v, tuple) else (v, v) for v in (kernel_size, stride or kernel_size, padding, dilation)
    )
    sizes = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(x.shape[2:], kernel, step, pad, gap, strict=True)
    ]
    found = []
    for p in range(sizes[0]):
        for q in range(sizes[1]):
            rows = [h for i in range(kernel[0]) if 0 <= (h := p * step[0] + i * gap[0] - pad[0]) < x.shape[2]]
            columns = [w for j in range(kernel[1]) if 0 <= (w := q * step[1] + j * gap[1] - pad[1]) < x.shape[3]]
            window = np.sort(x[:, :, rows][..., columns].reshape(*x.shape[:2], len(rows) * len(columns)), axis=-1)
            if window.shape[-1] > 1:
                found.append(window[..., -1] - window[..., -2])
    return np.array(found)


POOL_BAD = (
    (Case("three axes", normal((3, 4, 4)), {"kernel_size": 2}), r"\(N, C, H, W\), not \(3, 4, 4\)"),
    (Case("window too large", normal((1, 1, 2, 5)), {"kernel_size": 3}), r"\(1, 1, 2, 5\).*3 taps.*spans 3"),
    (Case("no stride", normal((1, 1, 4, 4)), {"kernel_size": 2, "stride": 0}), "stride must be .* at least 1, not 0"),
    (Case("three numbers", normal((1, 1, 4, 4)), {"kernel_size": (2, 2, 2)}), r"kernel_size must be .*\(2, 2, 2\)"),
    (Case("wide padding", normal((1, 1, 4, 4)), {"kernel_size": 2, "padding": 2}), r"padding \(2, 2\).*at most half"),
)

REFERENCES.update(
    conv1d=Reference(
        lambda torch: torch.nn.functional.conv1d,
        (
            Case("sequences", normal((2, 3, 7), (4, 3, 3), (4,))),
            Case("no bias", normal((2, 3, 7), (4, 3, 2))),
            Case("stride", normal((2, 2, 8), (3, 2, 3), (3,)), {"stride": 2}),
            Case("padding and dilation", normal((2, 2, 6), (3, 2, 3), (3,)), {"padding": 2, "dilation": 2}),
            Case("same", normal((2, 2, 6), (3, 2, 3), (3,)), {"padding": "same", "dilation": 2}),
            Case("groups", normal((2, 4, 6), (6, 2, 3), (6,)), {"groups": 2}),
            Case("all options", normal((2, 4, 9), (4, 2, 2), (4,)), {"stride": 3, "padding": 1, "groups": 2}),
            Case("size 1", uniform(0.5, 2, (1, 1, 1), (1, 1, 1), (1,))),
            Case("no sequence", normal((0, 2, 5), (3, 2, 3), (3,))),
        ),
        analytic=True,
        bad=(
            (Case("two axes", normal((2, 7), (4, 3, 3))), r"\(N, C, L\), not \(2, 7\)"),
            (Case("channels differ", normal((2, 3, 7), (4, 2, 3))), r"groups=1.*\(2, 3, 7\).*\(O, 3, K\).*\(4, 2, 3\)"),
            (Case("kernel too long", normal((2, 3, 7), (4, 3, 8))), r"\(2, 3, 7\).*padding 0 is 7.*8 taps.*at least 8"),
            (Case("bias too long", normal((2, 3, 7), (4, 3, 3), (3,))), r"bias of shape \(3,\).*\(4, 3, 3\).*\(4,\)"),
        ),
    ),
    conv2d=Reference(
        lambda torch: torch.nn.functional.conv2d,
        (
            Case("images", normal((2, 3, 6, 5), (4, 3, 3, 2), (4,))),
            Case("no bias", normal((2, 3, 5, 5), (2, 3, 3, 3))),
            Case("stride", normal((2, 2, 7, 8), (3, 2, 3, 3), (3,)), {"stride": 2}),
            Case("padding", normal((2, 2, 5, 4), (3, 2, 3, 3), (3,)), {"padding": (2, 1)}),
            Case("same", normal((2, 2, 5, 4), (3, 2, 3, 3), (3,)), {"padding": "same"}),
            Case("dilation", normal((2, 2, 7, 6), (3, 2, 3, 2), (3,)), {"dilation": (2, 3)}),
            Case("groups", normal((2, 4, 5, 5), (6, 2, 3, 3), (6,)), {"groups": 2}),
            Case("depthwise", normal((2, 3, 5, 5), (3, 1, 3, 3), (3,)), {"groups": 3, "padding": 1}),
            Case(
                "all options",
                normal((2, 4, 9, 8), (4, 2, 3, 2), (4,)),
                {"stride": (2, 3), "padding": (1, 2), "dilation": (2, 1), "groups": 2},
            ),
            Case("1 x 1", normal((2, 3, 4, 4), (5, 3, 1, 1), (5,))),
            Case("size 1", uniform(0.5, 2, (1, 1, 1, 1), (1, 1, 1, 1), (1,))),
            Case("no image", normal((0, 2, 5, 5), (3, 2, 3, 3), (3,))),
        ),
        analytic=True,
        bad=(
            (Case("one image", normal((3, 5, 5), (4, 3, 3, 3))), r"\(N, C, H, W\), not \(3, 5, 5\)"),
            (Case("weight of a line", normal((2, 3, 5, 5), (4, 3, 3))), r"\(O, C / groups, kh, kw\).*\(4, 3, 3\)"),
            (
                Case("channels differ", normal((2, 3, 5, 5), (4, 2, 3, 3))),
                r"groups=1.*\(2, 3, 5, 5\).*\(O, 3, kh, kw\), not \(4, 2, 3, 3\)",
            ),
            (
                Case("groups do not divide", normal((2, 4, 5, 5), (6, 2, 3, 3)), {"groups": 3}),
                r"\(2, 4, 5, 5\).*\(6, 2, 3, 3\).*groups=3 does not",
            ),
            (
                Case("kernel too large", normal((2, 3, 5, 2), (4, 3, 3, 3))),
                r"\(2, 3, 5, 2\).*size of 2 with padding 0 is 2 wide.*3 taps with dilation 1 spans 3.*at least 3",
            ),
            (
                Case("dilation too large", normal((2, 3, 5, 5), (4, 3, 3, 3)), {"dilation": 3, "padding": 0}),
                r"dilation 3 spans 7; expected a size of at least 7",
            ),
            (Case("same with stride", normal((1, 1, 5, 5), (1, 1, 3, 3)), {"padding": "same", "stride": 2}), "stride"),
            (Case("another word", normal((1, 1, 5, 5), (1, 1, 3, 3)), {"padding": "full"}), "not 'full'"),
            (Case("negative", normal((1, 1, 5, 5), (1, 1, 3, 3)), {"padding": -1}), "padding .* at least 0, not -1"),
            (Case("half", normal((1, 1, 5, 5), (1, 1, 3, 3)), {"stride": 1.5}), "stride must be an integer .*1.5"),
            (Case("bias too short", normal((2, 3, 5, 5), (4, 3, 3, 3), (1,))), r"bias of shape \(1,\).*\(4,\)"),
        ),
    ),
    conv_transpose2d=Reference(
        lambda torch: torch.nn.functional.conv_transpose2d,
        (
            Case("images", normal((2, 3, 4, 3), (3, 4, 3, 2), (4,))),
            Case("no bias", normal((2, 3, 3, 3), (3, 2, 3, 3))),
            Case("stride", normal((2, 2, 3, 4), (2, 3, 3, 3), (3,)), {"stride": 2}),
            Case("padding", normal((2, 2, 5, 4), (2, 3, 3, 3), (3,)), {"padding": (2, 1)}),
            Case("larger output", normal((2, 2, 3, 3), (2, 3, 3, 3), (3,)), {"stride": 3, "output_padding": (1, 2)}),
            Case("dilation", normal((2, 2, 3, 3), (2, 3, 3, 2), (3,)), {"dilation": (2, 3), "output_padding": 1}),
            Case("groups", normal((2, 4, 3, 3), (4, 3, 3, 3), (6,)), {"groups": 2}),
            Case(
                "all options",
                normal((2, 4, 3, 4), (4, 2, 3, 2), (4,)),
                {"stride": (2, 3), "padding": 1, "output_padding": (1, 0), "dilation": (2, 1), "groups": 2},
            ),
            Case("size 1", uniform(0.5, 2, (1, 1, 1, 1), (1, 1, 1, 1), (1,))),
            Case("no image", normal((0, 2, 3, 3), (2, 3, 3, 3), (3,))),
        ),
        analytic=True,
        bad=(
            (Case("one image", normal((3, 5, 5), (3, 4, 3, 3))), r"\(N, C, H, W\), not \(3, 5, 5\)"),
            (Case("weight of a line", normal((2, 3, 5, 5), (3, 4, 3))), r"\(C, O / groups, kh, kw\).*\(3, 4, 3\)"),
            (Case("channels differ", normal((2, 3, 5, 5), (4, 3, 3, 3))), r"\(2, 3, 5, 5\).*\(3, O.*\(4, 3, 3, 3\)"),
            (Case("groups", normal((2, 3, 5, 5), (3, 4, 3, 3)), {"groups": 2}), r"groups=2.*\(2, 3, 5, 5\)"),
            (Case("bias too short", normal((2, 3, 5, 5), (3, 4, 3, 3), (3,))), r"bias of shape \(3,\).*\(4,\)"),
            (Case("all cut off", normal((1, 1, 1, 1), (1, 1, 3, 3)), {"padding": 2}), "padding 2 .*size of -1"),
            (
                Case("more than the stride", normal((1, 1, 3, 3), (1, 1, 3, 3)), {"stride": 2, "output_padding": 2}),
                "output_padding 2 must be less than stride 2",
            ),
        ),
    ),
    max_pool2d=Reference(
        lambda torch: torch.nn.functional.max_pool2d,
        (
            Case("side by side", normal((2, 2, 4, 6)), {"kernel_size": 2}),
            Case("a rest left over", normal((2, 2, 5, 5)), {"kernel_size": 2}),
            Case("overlapping", normal((2, 2, 5, 5)), {"kernel_size": 3, "stride": 1}),
            Case("padding", normal((2, 2, 4, 4)), {"kernel_size": 3, "stride": 2, "padding": 1}),
            Case("pairs", normal((2, 1, 6, 7)), {"kernel_size": (2, 3), "stride": (1, 2), "padding": (0, 1)}),
            Case("dilation", normal((1, 2, 6, 6)), {"kernel_size": 2, "stride": 1, "dilation": (2, 3)}),
            Case("size 1", uniform(0.5, 2, (1, 1, 1, 1)), {"kernel_size": 1}),
            Case("no image", normal((0, 2, 4, 4)), {"kernel_size": 2}),
        ),
        kinks=pool_gaps,
        bad=POOL_BAD,
        at_kinks=(
            Case("all equal", lambda rng: (np.zeros((1, 2, 4, 4)),), {"kernel_size": 2}),
            Case("few values", lambda rng: (rng.integers(0, 2, (2, 2, 6, 6)).astype(float),), {"kernel_size": 3}),
            Case(
                "few values, overlapping",
                lambda rng: (rng.integers(0, 2, (2, 2, 5, 5)).astype(float),),
                {"kernel_size": 3, "stride": 1, "padding": 1},
            ),
            Case(
                "few values, dilation",
                lambda rng: (rng.integers(0, 2, (1, 1, 7, 6)).astype(float),),
                {"kernel_size": 2, "stride": 1, "padding": 1, "dilation": 2},
            ),
        ),
        extremes=(
            Case("both ends", uniform(-1e4, 1e4, (2, 2, 4, 4)), {"kernel_size": 2}),
            Case(
                "infinities",
                lambda rng: (rng.choice([-np.inf, -1e4, 1e4, np.inf], (2, 2, 5, 5)),),
                {"kernel_size": 3, "stride": 1, "padding": 1},
            ),
            Case(
                "nothing but -inf",
                lambda rng: (np.full((1, 1, 3, 3), -np.inf),),
                {"kernel_size": 3, "stride": 1, "padding": 1},
            ),
        ),
    ),
    avg_pool2d=Reference(
        lambda torch: torch.nn.functional.avg_pool2d,
        (
            Case("side by side", normal((2, 2, 4, 6)), {"kernel_size": 2}),
            Case("a rest left over", normal((2, 2, 5, 5)), {"kernel_size": 2}),
            Case("overlapping", normal((2, 2, 5, 5)), {"kernel_size": 3, "stride": 1}),
            Case("padding", normal((2, 2, 4, 4)), {"kernel_size": 3, "stride": 2, "padding": 1}),
            Case(
                "padding that does not count",
                normal((2, 2, 5, 4)),
                {"kernel_size": (3, 2), "stride": (1, 2), "padding": 1, "count_include_pad": False},
            ),
            Case("size 1", uniform(0.5, 2, (1, 1, 1, 1)), {"kernel_size": 1}),
            Case("no image", normal((0, 2, 4, 4)), {"kernel_size": 2}),
        ),
        analytic=True,
        bad=POOL_BAD,
    ),
    global_avg_pool2d=Reference(
        lambda torch: lambda x: torch.nn.functional.adaptive_avg_pool2d(x, 1).flatten(1),
        (
            Case("images", normal((2, 3, 4, 5))),
            Case("one pixel", normal((2, 3, 1, 1))),
            Case("size 1", uniform(0.5, 2, (1, 1, 1, 1))),
            Case("no image", normal((0, 2, 3, 3))),
        ),
        analytic=True,
        bad=(
            (Case("three axes", normal((3, 4, 4))), r"\(N, C, H, W\), not \(3, 4, 4\)"),
            (Case("no pixel", normal((2, 3, 0, 4))), r"\(2, 3, 0, 4\)"),
        ),
    ),
)


# Chapter 7: recurrent networks


def recurrent_arrays(
    gates: int,
    T: int,
    N: int,
    D: int,
    H: int,
    *,
    states: int = 1,
    bias: bool = True,
    mask: str = "",
    start: bool = True,
) -> Callable[[Rng], tuple[Any, ...]]:
    """Inputs, initial states, weights and biases of a recurrent layer; ``mask``: none, ``"ends"`` or ``"gaps"``."""

    def arrays(rng: Rng) -> tuple[Any, ...]:
        initial = rng.normal(size=(states, N, H))
        padding = {
            "": (),
            "ends": (np.arange(T)[:, None] < rng.integers(1, T + 1, N),),
            "gaps": (rng.random((T, N)) < 0.6,),
        }[mask]
        return (
            rng.normal(size=(T, N, D)),
            *(initial if start else [None] * states),
            rng.normal(size=(gates * H, D)) / np.sqrt(D),
            rng.normal(size=(gates * H, H)) / np.sqrt(H),
            *(0.5 * rng.normal(size=(2, gates * H)) if bias else [None, None]),
            *padding,
        )

    return arrays


def recurrent_cases(gates: int, states: int) -> tuple[Case, ...]:
    """What all recurrent layers are compared on."""

    def arrays(*sizes, **options):
        return recurrent_arrays(gates, *sizes, states=states, **options)

    return (
        Case("five steps", arrays(5, 3, 2, 4)),
        Case("reverse", arrays(5, 3, 2, 4), {"reverse": True}),
        Case("padded", arrays(6, 4, 3, 2, mask="ends")),
        Case("padded, reverse", arrays(6, 4, 3, 2, mask="ends"), {"reverse": True}),
        Case("gaps in the mask", arrays(6, 3, 2, 3, mask="gaps")),
        Case("no bias", arrays(4, 2, 3, 3, bias=False)),
        Case("no initial state", arrays(4, 2, 3, 3, start=False)),
        Case("one step", arrays(1, 2, 3, 2)),
        Case("size 1", arrays(2, 1, 1, 1)),
        Case("no sequence", arrays(3, 0, 2, 2)),
    )


def recurrent_bad(gates: int, states: int) -> tuple[tuple[Case, str], ...]:
    """Arguments that every recurrent layer refuses."""
    good = recurrent_arrays(gates, 4, 3, 2, 5, states=states)

    def spoiled(place: int, *shape: int) -> Callable[[Rng], tuple[Any, ...]]:
        def arrays(rng: Rng) -> tuple[Any, ...]:
            args = [*good(rng), np.ones((4, 3), bool)]
            args[place] = np.ones(shape, bool if place == len(args) - 1 else float)
            return tuple(args)

        return arrays

    def of_numbers(rng: Rng) -> tuple[Any, ...]:
        return (*good(rng), np.ones((4, 3)))

    w = states + 1
    return (
        (Case("no axis of time", spoiled(0, 3, 2)), r"x has shape \(3, 2\), expected \(T, N, D\)"),
        (Case("no step", spoiled(0, 0, 3, 2)), r"x has shape \(0, 3, 2\).*at least one step"),
        (Case("other batch", spoiled(1, 2, 5)), r"h0 has shape \(2, 5\), expected \(3, 5\)"),
        (Case("batch of the last state", spoiled(states, 2, 5)), r"0 has shape \(2, 5\), expected \(3, 5\)"),
        (Case("inputs", spoiled(w, gates * 5, 3)), rf"weight_ih has shape \({gates * 5}, 3\).*\({gates * 5}, 2\)"),
        (Case("rows", spoiled(w + 1, 5, 4)), rf"weight_hh has shape \(5, 4\), expected \({gates * 4}, 4\)"),
        (Case("no matrix", spoiled(w + 1, 5)), r"weight_hh has shape \(5,\), expected"),
        (Case("short bias_ih", spoiled(w + 2, 1)), rf"bias_ih has shape \(1,\), expected \({gates * 5},\)"),
        (Case("short bias_hh", spoiled(w + 3, 1)), rf"bias_hh has shape \(1,\), expected \({gates * 5},\)"),
        (Case("mask transposed", spoiled(w + 4, 3, 4)), r"mask has shape \(3, 4\), expected \(4, 3\)"),
        (Case("mask of numbers", of_numbers), "mask has dtype float64, expected bool"),
    )


def _torch_recurrent(kind: str, torch, x, states, weights, mask, reverse, step=None):
    """PyTorch's own layer; where there is a mask (or a step it lacks), its cell in a loop that carries the states."""
    w_ih, w_hh, b_ih, b_hh = weights
    zeros = x.new_zeros(x.shape[1], w_hh.shape[1])
    states = [zeros if s is None else s for s in states]
    if mask is None and step is None and x.shape[1]:
        x = x.flip(0) if reverse else x
        hx = tuple(s[None] for s in states) if kind == "lstm" else states[0][None]
        flat = [w_ih, w_hh] if b_ih is None else [w_ih, w_hh, b_ih, b_hh]
        layer = getattr(torch, kind)
        y, *final = layer(x, hx, flat, b_ih is not None, 1, 0.0, False, False, False)
        return torch.cat([y.flip(0) if reverse else y, *final])
    cell = step or getattr(torch, {"lstm": "lstm_cell", "gru": "gru_cell"}.get(kind, f"{kind}_cell"))
    outputs = [None] * len(x)
    for t in reversed(range(len(x))) if reverse else range(len(x)):
        new = cell(x[t], tuple(states) if kind == "lstm" else states[0], w_ih, w_hh, b_ih, b_hh)
        new = list(new) if kind == "lstm" else [new]
        here = x.new_ones(x.shape[1], 1, dtype=bool) if mask is None else mask[t][:, None]
        outputs[t] = torch.where(here, new[0], 0)
        states = [torch.where(here, a, b) for a, b in zip(new, states, strict=True)]
    return torch.cat([torch.stack(outputs), *(s[None] for s in states)])


def _torch_rnn(torch):
    def f(x, h0, w_ih, w_hh, b_ih=None, b_hh=None, mask=None, nonlinearity="tanh", reverse=False):
        return _torch_recurrent(f"rnn_{nonlinearity}", torch, x, [h0], (w_ih, w_hh, b_ih, b_hh), mask, reverse)

    return f


def _torch_lstm(torch):
    def f(x, h0, c0, w_ih, w_hh, b_ih=None, b_hh=None, mask=None, reverse=False):
        return _torch_recurrent("lstm", torch, x, [h0, c0], (w_ih, w_hh, b_ih, b_hh), mask, reverse)

    return f


def _torch_gru(torch):
    def reset_before(x, h, w_ih, w_hh, b_ih, b_hh):
        linear, H = torch.nn.functional.linear, h.shape[1]
        b = w_hh.new_zeros(len(w_hh)) if b_hh is None else b_hh
        from_x = linear(x, w_ih, b_ih)
        gates = torch.sigmoid(from_x[:, : 2 * H] + linear(h, w_hh[: 2 * H], b[: 2 * H]))
        n = torch.tanh(from_x[:, 2 * H :] + linear(gates[:, :H] * h, w_hh[2 * H :], b[2 * H :]))
        return (1 - gates[:, H:]) * n + gates[:, H:] * h

    def f(x, h0, w_ih, w_hh, b_ih=None, b_hh=None, mask=None, reset_after=True, reverse=False):
        step = None if reset_after else reset_before
        return _torch_recurrent("gru", torch, x, [h0], (w_ih, w_hh, b_ih, b_hh), mask, reverse, step)

    return f


def _relu_kinks(x, h0, w_ih, w_hh, b_ih, b_hh, mask=None, *, nonlinearity="tanh", reverse=False):
    if nonlinearity != "relu":
        return np.array(np.inf)
    z = []
    for t in range(len(x))[:: -1 if reverse else 1]:
        z.append(np.abs(x[t] @ w_ih.T + h0 @ w_hh.T + b_ih + b_hh))
        h0 = np.maximum(x[t] @ w_ih.T + h0 @ w_hh.T + b_ih + b_hh, 0)
    return np.array(z)


def _torch_linear_recurrence(torch):
    def f(a, b, h0=None, method="scan"):
        h = torch.zeros_like(a[0]) if h0 is None else h0
        outputs = []
        for a_t, b_t in zip(a, b, strict=True):
            h = a_t * h + b_t
            outputs.append(h)
        return torch.stack(outputs)

    return f


def recurrence(T: int, *shape: int, start: bool = True) -> Callable[[Rng], tuple[Any, ...]]:
    """Factors between -1 and 1, terms, and (with ``start``) an initial state."""
    return lambda rng: (
        rng.uniform(-1, 1, (T, *shape)),
        rng.normal(size=(T, *shape)),
        *((rng.normal(size=shape),) if start else ()),
    )


def token_case(name: str, tokens: Any, count: int, size: int, **static: Any) -> Case:
    """Fixed tokens and a random matrix of vectors."""
    return Case(name, lambda rng: (np.array(tokens, int), rng.normal(size=(count, size))), static)


REFERENCES.update(
    embedding=Reference(
        lambda torch: torch.nn.functional.embedding,
        (
            token_case("sequences", [[0, 2], [2, 1], [2, 4]], 5, 3),
            token_case("one token", 3, 4, 2),
            token_case("one after the other", [3, 0, 3, 3], 4, 3),
            token_case("size 1", [0], 1, 1),
            token_case("no token", [], 3, 2),
        ),
        analytic=True,
        at_kinks=(token_case("padding", [[0, 1, 1], [2, 0, 0]], 4, 3, padding_idx=0),),  # a rule, not a derivative
        bad=(
            (token_case("token too large", [0, 5], 5, 3), "tokens run from 0 to 5, allowed is 0 to 4"),
            (token_case("negative token", [-1], 5, 3), "tokens run from -1 to -1"),
            (
                Case("tokens that are no integers", fixed([0.0, 1.0], [[1.0], [2.0]])),
                "dtype float64, expected integers",
            ),
            (Case("one vector only", fixed([0, 1], [1.0, 2.0])), r"weight has shape \(2,\), expected \(K, D\)"),
            (token_case("padding out of range", [0], 3, 2, padding_idx=3), "padding_idx 3 is not from 0 to 2"),
        ),
    ),
    rnn=Reference(
        _torch_rnn,
        (
            *recurrent_cases(1, 1),
            Case("relu", recurrent_arrays(1, 5, 3, 2, 4), {"nonlinearity": "relu"}),
            Case("relu, reverse", recurrent_arrays(1, 5, 3, 2, 4), {"nonlinearity": "relu", "reverse": True}),
        ),
        kinks=_relu_kinks,
        bad=(
            *recurrent_bad(1, 1),
            (Case("sigmoid", recurrent_arrays(1, 3, 2, 2, 2), {"nonlinearity": "sigmoid"}), "'relu', not 'sigmoid'"),
        ),
        at_kinks=(
            Case(
                "relu of zero",
                fixed([[[1.0]], [[-2.0]]], [[1.0]], [[1.0]], [[1.0]], [0.0], [0.0]),
                {"nonlinearity": "relu"},
            ),
        ),
    ),
    lstm=Reference(_torch_lstm, recurrent_cases(4, 2), analytic=True, bad=recurrent_bad(4, 2)),
    gru=Reference(
        _torch_gru,
        (
            *recurrent_cases(3, 1),
            Case("reset before", recurrent_arrays(3, 5, 3, 2, 4), {"reset_after": False}),
            Case("reset before, padded", recurrent_arrays(3, 5, 3, 2, 4, mask="ends"), {"reset_after": False}),
            Case(
                "reset before, reverse, no bias",
                recurrent_arrays(3, 4, 3, 2, 3, bias=False),
                {"reset_after": False, "reverse": True},
            ),
        ),
        analytic=True,
        bad=recurrent_bad(3, 1),
    ),
    linear_recurrence=Reference(
        _torch_linear_recurrence,
        (
            Case("vectors", recurrence(7, 3)),
            Case("no initial state", recurrence(5, 2, start=False)),
            Case("batches", recurrence(8, 2, 3)),
            Case("numbers", recurrence(6)),
            Case("loop", recurrence(7, 3), {"method": "loop"}),
            Case("loop, no initial state", recurrence(5, 2, start=False), {"method": "loop"}),
            Case("one step", recurrence(1, 2)),
            Case("size 1", recurrence(2, 1)),
            Case("no entry", recurrence(3, 0)),
        ),
        analytic=True,
        bad=(
            (Case("other length", normal((4, 2), (3, 2))), r"a has shape \(4, 2\), b \(3, 2\)"),
            (Case("a factor that would broadcast", normal((4, 1), (4, 2))), r"a has shape \(4, 1\), b \(4, 2\)"),
            (Case("0-d", normal((), ())), r"expected twice \(T, \.\.\.\)"),
            (Case("state of two rows", normal((4, 2), (4, 2), (2, 2))), r"h0 has shape \(2, 2\), expected \(2,\)"),
            (Case("unknown method", recurrence(3, 2), {"method": "tree"}), "'scan' or 'loop', not 'tree'"),
        ),
        extremes=(Case("both ends", lambda rng: (rng.choice([-1e4, 1e4], (4, 2)), 1e4 * rng.normal(size=(4, 2)))),),
    ),
)


# Chapter 8: nnbook.attention


def with_mask(*shapes: tuple[int, ...], mask: tuple[int, ...], kind: str = "bool") -> Callable[[Rng], tuple[Any, ...]]:
    """Normal arrays and a mask: boolean, "float", "-inf" (a float one that also excludes) or "rows" (one row empty)."""

    def draw(rng):
        arrays = normal(*shapes)(rng)
        seen = np.asarray(rng.random(mask) < 0.7)
        seen[..., 0] = True
        if kind == "rows":
            seen[..., -1, :] = False
        if kind in ("bool", "rows"):
            return *arrays, seen
        bias = rng.normal(size=mask)
        return *arrays, np.where(seen, bias, -np.inf) if kind == "-inf" else bias

    return draw


def qkv(*lead: int, Tq: int = 4, Tk: int = 5, d: int = 3, dv: int = 2) -> tuple[tuple[int, ...], ...]:
    """Shapes of queries, keys and values."""
    return (*lead, Tq, d), (*lead, Tk, d), (*lead, Tk, dv)


def _torch_masked_softmax(torch):
    def masked_softmax(scores, mask=None):
        if mask is None:
            return torch.softmax(scores, -1)
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        empty = torch.isneginf(scores).all(-1, keepdim=True)
        return torch.softmax(scores.masked_fill(empty, 0), -1) * ~empty

    return masked_softmax


def _torch_attention(torch):
    def attention(q, k, v, mask=None, *, is_causal=False, scale=None, block_size=None):
        if mask is not None and is_causal:  # which PyTorch's own function refuses together
            seen = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
            mask = mask & seen if mask.dtype == torch.bool else mask.masked_fill(~seen, -torch.inf)
            is_causal = False
        return torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=is_causal, scale=scale
        )

    return attention


def _torch_rope(torch):
    def rope(x, *, base=10000.0, offset=0):
        T, d = x.shape[-2:]
        places = torch.arange(offset, offset + T, dtype=torch.float64)
        angles = torch.outer(places, base ** (-torch.arange(0, d, 2, dtype=torch.float64) / d))
        turn = torch.polar(torch.ones_like(angles), angles).to(x.device, x.dtype.to_complex())
        pairs = torch.view_as_complex(x.unflatten(-1, (d // 2, 2)).contiguous())
        return torch.view_as_real(pairs * turn).flatten(-2)

    return rope


def large_by_small(rng: Rng) -> tuple[Any, ...]:
    """Large queries and values, small keys, so that the scores are neither."""
    return tuple(a * size for a, size in zip(normal(*qkv(2))(rng), (1e4, 1e-4, 1e4), strict=True))


CAUSAL = {"is_causal": True}
ATTENTION_CASES = (
    Case("one sequence", normal(*qkv())),
    Case("batch", normal(*qkv(2))),
    Case("batch and heads", normal(*qkv(2, 3))),
    Case("causal", normal(*qkv(2, Tq=5)), CAUSAL),
    Case("causal, more keys", normal(*qkv(Tk=7)), CAUSAL),
    Case("causal, more queries", normal(*qkv(Tq=7, Tk=4)), CAUSAL),
    Case("scale", normal(*qkv(2)), {"scale": 0.3}),
    Case("leading axes that broadcast", normal((2, 3, 4, 3), (3, 5, 3), (2, 1, 5, 2))),
    Case("size 1", normal((1, 1), (1, 1), (1, 1))),
    Case("no query", normal(*qkv(2, Tq=0))),
    Case("no sequence", normal(*qkv(0))),
)
ATTENTION_BAD = (
    (Case("widths differ", normal((4, 3), (5, 2), (5, 2))), r"\(4, 3\).*\(5, 2\)"),
    (Case("a value too few", normal((4, 3), (5, 3), (4, 2))), r"\(5, 3\).*\(4, 2\)"),
    (Case("one axis", normal((3,), (5, 3), (5, 2))), r"\(3,\).*\(\.\.\., Tq, d\)"),
    (Case("batches that do not fit", normal((2, 4, 3), (3, 5, 3), (3, 5, 2))), r"\(2, 4, 3\).*do not broadcast"),
)
LARGE = Case("scores of 1e8", lambda rng: tuple(1e4 * a for a in normal(*qkv(2))(rng)))

REFERENCES.update(
    masked_softmax=Reference(
        _torch_masked_softmax,
        (
            Case("no mask", normal((4, 5))),
            Case("mask", with_mask((4, 5), mask=(4, 5))),
            Case("the same for every row", with_mask((2, 3, 4), mask=(4,))),
            Case("the same for every head", with_mask((2, 3, 4, 5), mask=(2, 1, 4, 5))),
            Case("empty rows", with_mask((3, 4, 5), mask=(4, 5), kind="rows")),
            Case("float mask", with_mask((3, 4, 5), mask=(3, 4, 5), kind="float")),
            Case("float mask that broadcasts", with_mask((3, 4, 5), mask=(1, 5), kind="float")),
            Case("float mask that excludes", with_mask((3, 4, 5), mask=(4, 5), kind="-inf")),
            Case("mask None", lambda rng: (rng.normal(size=(2, 3)), None)),
            Case("size 1", normal((1, 1))),
            Case("no row", normal((0, 3))),
        ),
        bad=(
            (Case("mask of integers", fixed([[1.0, 2.0]], [[0, 1]])), "dtype int64, expected bool"),
            (Case("another shape", with_mask((2, 3), mask=(2,))), r"shape \(2,\).*\(2, 3\)"),
            (Case("mask larger than scores", with_mask((1, 3), mask=(4, 3))), r"shape \(4, 3\).*\(1, 3\)"),
        ),
        extremes=(
            Case("both ends", lambda rng: (rng.choice([-1e4, 1e4], (4, 5)) * rng.uniform(0.5, 1, (4, 5)),)),
            Case("-inf", fixed([[0.0, -np.inf, 1.0], [-1e4, 1e4, -np.inf]])),
            Case("nothing but -inf", fixed([[-np.inf, -np.inf], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]])),
        ),
    ),
    scaled_dot_product_attention=Reference(
        _torch_attention,
        (
            *ATTENTION_CASES,
            Case("mask", with_mask(*qkv(2, 3), mask=(4, 5))),
            Case("mask of each sequence", with_mask(*qkv(2, 3), mask=(2, 1, 1, 5))),
            Case("mask with an empty row", with_mask(*qkv(2), mask=(4, 5), kind="rows")),
            Case("float mask", with_mask(*qkv(2, 3), mask=(2, 3, 4, 5), kind="float")),
            Case("float mask of each head", with_mask(*qkv(2, 3), mask=(3, 4, 5), kind="float")),
            Case("float mask that excludes", with_mask(*qkv(2), mask=(4, 5), kind="-inf")),
            Case("mask and causal", with_mask(*qkv(2), mask=(2, 4, 5)), CAUSAL),
            Case("float mask and causal", with_mask(*qkv(2), mask=(4, 5), kind="float"), CAUSAL),
            Case("more rows than a block", normal(*qkv(Tq=130, Tk=3))),
            Case("causal, more rows than a block", normal(*qkv(Tq=131, Tk=130, d=2)), CAUSAL),
        ),
        bad=(
            *ATTENTION_BAD,
            (Case("mask of integers", lambda rng: (*normal(*qkv())(rng), np.ones((4, 5), int))), "dtype int64"),
            (Case("mask transposed", with_mask(*qkv(), mask=(5, 4))), r"mask of shape \(5, 4\).*\(4, 5\)"),
        ),
        extremes=(LARGE,),
    ),
    blockwise_attention=Reference(
        _torch_attention,
        (
            *ATTENTION_CASES,
            *(
                Case(f"{case.name}, blocks of {size}", case.arrays, {**case.static, "block_size": size})
                for case in ATTENTION_CASES[2:6]
                for size in (1, 2, 3)
            ),
        ),
        bad=(
            *ATTENTION_BAD,
            (Case("blocks of 0", normal(*qkv()), {"block_size": 0}), "block_size must be at least 1, not 0"),
        ),
        # Not scores of 1e8: the gradients vanish then, and what the running sums leave of them is rounding.
        extremes=(Case("large by small", large_by_small), Case("blocks of 2", large_by_small, {"block_size": 2})),
    ),
    rope=Reference(
        _torch_rope,
        (
            Case("one sequence", normal((5, 4))),
            Case("batch and heads", normal((2, 3, 4, 6))),
            Case("offset", normal((3, 4)), {"offset": 7}),
            Case("base", normal((6, 4)), {"base": 100.0}),
            Case("one pair", normal((5, 2))),
            Case("one place", normal((1, 4)), {"offset": 3}),
            Case("no place", normal((0, 4))),
        ),
        bad=(
            (Case("odd width", normal((5, 3))), "width must be even, not 3"),
            (Case("size 1", normal((1, 1))), "width must be even, not 1"),
            (Case("one axis", normal((4,))), r"not \(4,\)"),
            (Case("base 0", normal((5, 4)), {"base": 0.0}), "base must be > 0, not 0.0"),
        ),
    ),
)
