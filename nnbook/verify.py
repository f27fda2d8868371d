"""The harness: every function of the book is checked three ways before a chapter relies on it (chapter 3).

1. *Against PyTorch*: the value and every gradient, with a random cotangent, in float64 and float32.
2. *Against itself*: the adjoint identity ``<dy, J v> = <J^T dy, v>``, whose left side needs no derivative by hand.
3. *Contract*: shapes and dtypes, inputs left alone, any memory layout, broadcasting, sizes 0 and 1, extreme values,
   clear errors.

::

    from nnbook.neurons import softplus
    from nnbook.verify import verify

    verify(softplus)            # prints a table that is the same on every machine; .rows holds the measured numbers

What PyTorch calls each function, and the inputs used, stand in :mod:`nnbook.references`. ``python -m nnbook.verify``
runs everything.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import dis
import functools
import html
import importlib
import inspect
import itertools
import os
import pkgutil
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import nnbook
from nnbook.backprop import Array, Primitive, directional_derivative, vjp
from nnbook.references import REFERENCES, Case, Reference

DTYPES = ("float64", "float32")
EPS_MULTIPLE = 64
KINK_DISTANCE = 1e-3
ADJOINT_BOUND = 1e-6
CHECK_BOUND = 1e-9
ADJOINT = "<dy, Jv> = <J'dy, v>"
COMPLEX_STEP = "complex step"

LOOSER: dict[tuple[str, str], tuple[int, str]] = {}
"""``(function, dtype): (multiple of eps, reason)`` wherever the general bound of 64 eps would be wrong."""

_WITHOUT_PRIMITIVES = {"data", "explore", "plots", "references", "training", "verify", "mutants"}


# ---------------------------------------------------------------------------------------------------------------------
# Error and bound
# ---------------------------------------------------------------------------------------------------------------------


def error(a, b) -> float:
    """``max|a - b| / max|b|``, infinite if the shapes, infinities or NaNs differ, or if these are no real numbers.

    Element-wise relative error is the wrong measure: a correct gradient may differ by 1e-2 in a far tail of size 1e-20.
    If ``b`` is zero everywhere the absolute difference counts.
    """
    a, b = np.asarray(a), np.asarray(b)
    # NumPy would drop an imaginary part, read a text as a number and take None for a nan.
    if a.shape != b.shape or not {a.dtype.kind, b.dtype.kind} <= set("biuf"):
        return np.inf
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(a[finite]).all():
        return np.inf
    a, b = a[finite], b[finite]
    return float(np.max(np.abs(a - b), initial=0.0) / (np.max(np.abs(b), initial=0.0) or 1.0))


def bound(name: str, dtype: str, own: float = 0.0) -> float:
    """The largest error allowed: ``max(64 eps, 4 * own)``, where ``own`` is PyTorch's error in the same dtype."""
    multiple, _ = LOOSER.get((name, dtype), (EPS_MULTIPLE, ""))
    allowed = multiple * float(np.finfo(dtype).eps)
    return max(allowed, 4 * own) if np.isfinite(own) else allowed


# ---------------------------------------------------------------------------------------------------------------------
# Samples: arguments, a random cotangent, and what PyTorch makes of them
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """One case drawn in one dtype. ``places`` are the differentiated arguments; ``theirs`` is PyTorch in float64."""

    case: Case
    args: tuple[Any, ...]
    places: tuple[int, ...]
    dy: Array
    theirs: tuple[Array, ...]
    own: tuple[float, ...]

    @property
    def static(self) -> dict[str, Any]:
        return dict(self.case.static)

    def copy(self) -> list[Any]:
        return [a.copy() if isinstance(a, Array) else a for a in self.args]


@functools.lru_cache(maxsize=4096)
def sample(reference: Reference, case: Case, dtype: str, seed: int = 0, clear_of_kinks: bool = True) -> Sample:
    """Draw a case, at least 1e-3 away from every kink unless told otherwise, and evaluate PyTorch on it."""
    # Another random stream for each case, so that adding one leaves the others as they were.
    rng = np.random.default_rng([seed, *case.name.encode()])
    for _ in range(200):
        args = tuple(_cast(a, dtype) for a in case.arrays(rng))
        if reference.kinks is None or not clear_of_kinks:
            break
        if np.min(reference.kinks(*args, **case.static), initial=np.inf) >= KINK_DISTANCE:
            break
    else:
        raise ValueError(f"case {case.name!r}: 200 draws and none of them was {KINK_DISTANCE} away from every kink")
    places = tuple(i for i, a in enumerate(args) if _is_float(a) and i not in reference.constants)
    exact = tuple(_cast(a, "float64") for a in args)
    shape = run_torch(reference, exact, case.static, (), None)[0].shape
    dy = np.asarray(rng.normal(size=shape), case.static["dtype"] if reference.casts else dtype)
    theirs = run_torch(reference, exact, case.static, places, dy.astype("float64"))
    single = run_torch(reference, args, case.static, places, dy) if dtype != "float64" else theirs
    for array in (dy, *theirs, *args):
        if isinstance(array, Array):
            array.flags.writeable = False
    return Sample(case, args, places, dy, theirs, tuple(error(a, b) for a, b in zip(single, theirs, strict=True)))


def _is_float(a) -> bool:
    return isinstance(a, Array) and a.dtype.kind == "f"


def _cast(a, dtype):
    return np.array(a, dtype) if isinstance(a, (Array, np.generic)) and np.asarray(a).dtype.kind == "f" else a


def run_torch(reference: Reference, args, static, places, dy, device: str = "cpu") -> tuple[Array, ...]:
    """PyTorch's value and, if there is a cotangent, its gradients; as NumPy arrays, in the dtype of ``args``."""
    import torch

    tensors = [torch.tensor(a, device=device) if isinstance(a, (Array, np.generic)) else a for a in args]
    wanted = [tensors[i].requires_grad_() for i in places]
    y = reference.torch(torch)(*tensors, **static)
    grads: Sequence[Any] = ()
    if dy is not None:
        # What PyTorch calls independent of an argument has derivative zero there.
        unused = [None] * len(wanted)
        upstream = torch.tensor(dy, device=device)
        grads = torch.autograd.grad(y, wanted, upstream, allow_unused=True) if y.requires_grad else unused
        grads = [torch.zeros_like(x) if g is None else g for g, x in zip(grads, wanted, strict=True)]
    return tuple(t.detach().cpu().numpy() for t in (y, *grads))


def _strict() -> contextlib.AbstractContextManager:
    return np.errstate(all="raise", under="ignore")


def run(op: Callable, args, static, places, dy) -> tuple[Any, ...]:
    """Our value and gradients. A floating-point warning (overflow, division by zero, invalid) counts as an error."""
    with _strict():
        y, pull = _trace(op, args, static, places)
        return y, *pull(dy)


def _trace(op: Callable, args, static, places) -> tuple[Any, Callable]:
    return vjp(_function_of(op, args, static, places), *(args[i] for i in places))


def _function_of(op: Callable, args, static, places) -> Callable:
    """``op`` as a function of the differentiated arguments alone."""

    def f(*varied):
        full = list(args)
        for i, a in zip(places, varied, strict=True):
            full[i] = a
        return op(*full, **static)

    return f


# ---------------------------------------------------------------------------------------------------------------------
# The result
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """One check. ``measured`` is the worst error of the check, ``allowed`` its bound there; they vary with the machine
    and so stay out of the printed table unless the check fails."""

    way: str
    check: str
    dtype: str
    bound: str
    cases: int = 0
    measured: float = 0.0
    allowed: float = np.inf
    failures: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.cases > 0 and not self.failures

    def compare(self, measured: float, allowed: float, what: str, ours=None, theirs=None) -> None:
        """Count one comparison; keep the one that comes nearest to its bound, and describe it if it fails."""
        if measured / allowed >= self.measured / self.allowed:
            self.measured, self.allowed = float(measured), float(allowed)
        if not measured <= allowed:
            shapes = "" if np.shape(ours) == np.shape(theirs) else f"; shape {np.shape(ours)}, not {np.shape(theirs)}"
            self.failures.append(f"{what}: error {measured:.1e}, allowed {allowed:.1e}{shapes}")

    @contextlib.contextmanager
    def case(self, name: str, counts: bool = True) -> Iterator[None]:
        """Count one case; an exception in it is a failure, not a crash."""
        self.cases += counts
        try:
            yield
        except Exception as problem:
            self.failures.append(f"{name}: {type(problem).__name__}: {problem}")


class Result:
    """What :func:`verify` found: ``ok`` and ``rows``. Prints as a short table; :meth:`details` adds the numbers."""

    def __init__(self, name: str, rows: list[Row], note: str = "", numbers: bool = False):
        self.name = name
        self.rows = rows
        self.note = note
        self.numbers = numbers

    @property
    def ok(self) -> bool:
        return all(row.ok for row in self.rows)

    @property
    def verdict(self) -> str:
        failed = [row for row in self.rows if not row.ok]
        return f"{self.name}: " + (
            f"{len(failed)} of {len(self.rows)} checks FAILED" if failed else "all checks passed"
        )

    def _short(self) -> list[list[str]]:
        """One line for each dtype against PyTorch, one for each check against itself, one for the contract."""
        lines = [["way", "check", "dtype", "cases", "bound", "result"]]
        previous = ""
        for _, group in itertools.groupby(self.rows, lambda row: (row.way, row.way != "contract" and row.bound)):
            rows = list(group)
            way, dtype, limit = rows[0].way, rows[0].dtype, rows[0].bound
            if way == "contract":
                dtype, limit = "both", ""
            checks = ", ".join(row.check for row in rows)
            cases = max(row.cases for row in rows) if way != "contract" else sum(row.cases for row in rows)
            verdict = "ok" if all(row.ok for row in rows) else "FAIL"
            lines.append([way if way != previous else "", checks, dtype, str(cases), limit, verdict])
            previous = way
        return lines

    def _long(self) -> list[list[str]]:
        lines = [["way", "check", "dtype", "cases", "bound", "worst", "allowed", "result"]]
        for row in self.rows:
            numbers = [f"{row.measured:.1e}", f"{row.allowed:.1e}"] if np.isfinite(row.allowed) else ["", ""]
            verdict = "ok" if row.ok else "FAIL"
            lines.append([row.way, row.check, row.dtype, str(row.cases), row.bound, *numbers, verdict])
        return lines

    def _notes(self) -> list[str]:
        lines = []
        for row in self.rows:
            if not row.ok:
                lines += [f"FAIL {row.check}: {line}" for line in row.failures[:3] or ["no case at all"]]
                if len(row.failures) > 3:
                    lines.append(f"     and {len(row.failures) - 3} more")
        return [*lines, self.note] if self.note else lines

    def details(self) -> str:
        """Every check with the measured error that came nearest to its bound; these numbers vary with the machine."""
        return _text(self.verdict, self._long(), self._notes())

    def _table(self) -> list[list[str]]:
        return self._long() if self.numbers else self._short()

    def __repr__(self) -> str:
        return _text(self.verdict, self._table(), self._notes()) if self.rows else self.note

    def _repr_html_(self) -> str:
        return _html(self.verdict, self._table(), self._notes()) if self.rows else f"<p>{html.escape(self.note)}</p>"


class Results(list[Result]):
    """The results of several functions, which print as one table with a line for each."""

    @property
    def ok(self) -> bool:
        return all(result.ok for result in self)

    @property
    def verdict(self) -> str:
        failed = [result.name for result in self if not result.ok]
        return f"FAILED: {', '.join(failed)}" if failed else f"{len(self)} functions: all checks passed"

    def _table(self) -> list[list[str]]:
        columns = {
            "PyTorch float64": ("against PyTorch", "float64", ""),
            "PyTorch float32": ("against PyTorch", "float32", ""),
            "adjoint identity": ("against itself", "float64", ADJOINT),
            "complex step": ("against itself", "float64", COMPLEX_STEP),
            "contract": ("contract", "", ""),
        }
        lines = [["function", "cases", *columns]]
        for result in self:
            cells = []
            for way, dtype, check in columns.values():
                rows = [r for r in result.rows if r.way == way and dtype in ("", r.dtype) and check in ("", r.check)]
                cells.append("-" if not rows else "ok" if all(row.ok for row in rows) else "FAIL")
            lines.append([result.name, str(result.rows[0].cases), *cells])
        return lines

    def _notes(self) -> list[str]:
        return [f"{result.name}: {line}" for result in self for line in result._notes()]

    def details(self) -> str:
        """The long table of every function."""
        return "\n\n".join(result.details() for result in self)

    def __repr__(self) -> str:
        return _text(self.verdict, self._table(), self._notes())

    def _repr_html_(self) -> str:
        return _html(self.verdict, self._table(), self._notes())


def _text(title: str, table: list[list[str]], notes: list[str]) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([title, *lines, *notes])


def _html(title: str, table: list[list[str]], notes: list[str]) -> str:
    """A table without colours of its own, so that it sits well on light and on dark pages."""
    head, *body = table
    row_header = 1 if head[0] == "way" else 0
    lines = [f"<table><caption>{html.escape(title)}</caption>", "<thead><tr>"]
    lines += [f'<th scope="col">{html.escape(cell)}</th>' for cell in head]
    lines.append("</tr></thead><tbody>")
    for row in body:
        cells = [f"<strong>{cell}</strong>" if cell == "FAIL" else html.escape(cell) for cell in row]
        tags = [f'<th scope="row">{c}</th>' if i == row_header else f"<td>{c}</td>" for i, c in enumerate(cells)]
        lines.append(f"<tr>{''.join(tags)}</tr>")
    lines.append("</tbody></table>")
    return "\n".join([*lines, *(f"<p>{html.escape(note)}</p>" for note in notes)])


# ---------------------------------------------------------------------------------------------------------------------
# verify
# ---------------------------------------------------------------------------------------------------------------------


def verify(op: Callable, *more: Callable, reference: Reference | None = None, seed: int = 0) -> Any:
    """Check a function and its derivative three ways: against PyTorch, against itself, and its contract.

    Args:
        op: a primitive, or any function composed of primitives.
        *more: further functions; then the answer is a :class:`Results`, one table with a line for each.
        reference: the PyTorch counterpart and the inputs; ``REFERENCES[op.__name__]`` if not given.
        seed: of the inputs, cotangents and directions.

    Returns:
        A :class:`Result` that prints as a table, the same on every machine unless something fails. ``result.ok`` says
        whether all is well, ``result.rows`` holds what was measured, ``result.details()`` prints it.

    Raises:
        ValueError: there is no reference of that name, or one is given for several functions.
    """
    if more:
        if reference is not None:
            raise ValueError("one reference cannot serve several functions: verify them one by one")
        return Results(verify(f, seed=seed) for f in (op, *more))
    name = getattr(op, "__name__", repr(op))
    reference = reference_of(op, reference)
    reasons = [f"{dtype}: {n} eps, because {why}" for (of, dtype), (n, why) in LOOSER.items() if of == name]
    return Result(name, list(_rows(op, name, reference, seed)), "; ".join(reasons))


def _rows(op: Callable, name: str, reference: Reference, seed: int) -> Iterator[Row]:
    for dtype in DTYPES:
        yield from _against_torch(op, name, reference, dtype, seed)
    yield _adjoint(op, reference, seed)
    if reference.analytic:
        yield _complex_step(op, reference, seed)
    yield _shapes_and_dtypes(op, reference, seed)
    yield _untouched(op, reference, seed)
    yield _layouts(op, reference, seed)
    if reference.broadcasts:
        yield _broadcasting(op, name, reference, seed)
    yield _sizes(reference, seed)
    if reference.extremes != ():
        yield _extremes(op, name, reference, seed)
    if reference.bad or isinstance(op, Primitive):
        yield _bad_input(op, reference, seed)
    if isinstance(op, Primitive):
        yield _vjp_alone(op, reference, seed)


def rejects(op: Callable, reference: Reference | None = None, *, seed: int = 0) -> str:
    """The name of the first check that fails, or "" if none does: :func:`verify` for those in a hurry."""
    name = getattr(op, "__name__", repr(op))
    rows = _rows(op, name, reference_of(op, reference), seed)
    return next((row.check for row in rows if not row.ok), "")


def reference_of(op: Callable, reference: Reference | None = None) -> Reference:
    """The reference given, or the one that stands in ``REFERENCES`` under the function's name.

    Raises:
        ValueError: there is none.
    """
    if reference is None:
        name = getattr(op, "__name__", repr(op))
        if name not in REFERENCES:
            raise ValueError(f"{name} has no entry in nnbook.references.REFERENCES; pass reference=Reference(...)")
        reference = REFERENCES[name]
    return reference


def _bound_text(name: str, dtype: str) -> str:
    multiple, _ = LOOSER.get((name, dtype), (EPS_MULTIPLE, ""))
    return f"{multiple} eps" if dtype == "float64" else f"{multiple} eps or 4x PyTorch"


def _against_torch(op, name, reference, dtype, seed) -> list[Row]:
    way, limit = "against PyTorch", _bound_text(name, dtype)
    value, gradients = (Row(way, check, dtype, limit) for check in ("value", "gradients"))
    rows = [value, gradients]
    cases = [(case, True) for case in reference.cases]
    if reference.at_kinks:
        rows.append(Row(way, "at kinks", dtype, limit))
        cases += [(case, False) for case in reference.at_kinks]
    for case, clear in cases:
        s = sample(reference, case, dtype, seed, clear)
        of_value, of_gradients = (value, gradients) if clear else (rows[-1], rows[-1])
        pull: Callable | None = None
        with of_value.case(case.name), _strict():
            y, pull = _trace(op, s.copy(), s.static, s.places)
            _compare(of_value, name, s, 0, y, dtype)
        with of_gradients.case(case.name, counts=clear), _strict():
            for k, g in enumerate(pull(s.dy) if pull is not None else (), 1):
                _compare(of_gradients, name, s, k, g, dtype)
    return rows


def _compare(row: Row, name: str, s: Sample, k: int, ours, dtype: str) -> None:
    theirs = s.theirs[k]
    what = f"{s.case.name}, " + (f"gradient of argument {s.places[k - 1]}" if k else "value")
    row.compare(error(ours, theirs), bound(name, dtype, s.own[k]), what, ours, theirs)


def _adjoint(op, reference, seed) -> Row:
    """``<dy, J v> = <J^T dy, v>``: the left side by central differences, the right side by the VJP."""
    row = Row("against itself", ADJOINT, "float64", f"{ADJOINT_BOUND:.0e}")
    rng = np.random.default_rng([seed, 1])
    h = 1e-5
    for case in reference.cases:
        s = sample(reference, case, "float64", seed)
        if not s.places:
            continue
        with row.case(case.name):
            tangents = tuple(rng.normal(size=s.args[i].shape) for i in s.places)
            f = _function_of(op, s.copy(), s.static, s.places)
            with _strict():
                Jv = directional_derivative(f, tuple(s.args[i] for i in s.places), tangents, h=h)
            y, *grads = run(op, s.copy(), s.static, s.places, s.dy)
            left, right = s.dy * Jv, [g * v for g, v in zip(grads, tangents, strict=True)]
            scale = max(np.abs(left).sum(), sum(np.abs(r).sum() for r in right))
            # The difference quotient cannot be better than the rounding of y divided by the step.
            rounding = 4 * np.finfo(float).eps * np.abs(s.dy * y).sum() / h
            difference = abs(left.sum() - sum(r.sum() for r in right))
            row.compare(difference, ADJOINT_BOUND * scale + rounding or ADJOINT_BOUND, case.name)
    return row


def _complex_step(op, reference, seed) -> Row:
    """For analytic functions ``J v`` is the imaginary part of ``f(x + i h v) / h``, exact to rounding."""
    row = Row("against itself", COMPLEX_STEP, "float64", f"{EPS_MULTIPLE} eps")
    rng = np.random.default_rng([seed, 2])
    h = 1e-30
    for case in reference.cases:
        s = sample(reference, case, "float64", seed)
        with row.case(case.name):
            tangents = tuple(rng.normal(size=s.args[i].shape) for i in s.places)
            shifted = (s.args[i] + 1j * h * v for i, v in zip(s.places, tangents, strict=True))
            Jv = np.imag(_function_of(op, s.copy(), s.static, s.places)(*shifted)) / h
            _, *grads = run(op, s.copy(), s.static, s.places, s.dy)
            left, right = s.dy * Jv, [g * v for g, v in zip(grads, tangents, strict=True)]
            scale = max(np.abs(left).sum(), sum(np.abs(r).sum() for r in right)) or 1.0
            row.compare(abs(left.sum() - sum(r.sum() for r in right)) / scale, bound("", "float64"), case.name)
    return row


# ---------------------------------------------------------------------------------------------------------------------
# The contract
# ---------------------------------------------------------------------------------------------------------------------


def _contract(check: str, dtype: str = "both", limit: str = "") -> Row:
    return Row("contract", check, dtype, limit)


def _samples(reference: Reference, seed: int, dtypes: Iterable[str] = DTYPES) -> Iterator[tuple[str, Sample]]:
    for dtype in dtypes:
        for case in reference.cases:
            yield dtype, sample(reference, case, dtype, seed)


def _shapes_and_dtypes(op, reference, seed) -> Row:
    row = _contract("shapes and dtypes")
    for dtype, s in _samples(reference, seed):
        with row.case(f"{s.case.name} {dtype}"):
            y, *grads = run(op, s.copy(), s.static, s.places, s.dy)
            _expect(row, s, "value", y, s.dy)
            plain = op(*s.copy(), **s.static)
            _expect(row, s, "value outside a trace", plain, s.dy)
            for i, g in zip(s.places, grads, strict=True):
                _expect(row, s, f"gradient of argument {i}", g, s.args[i])
            if isinstance(op, Primitive):  # the tape would mend a wrong dtype, at the price of a slow backward pass
                for i, dx in enumerate(_raw_vjp(op, s.copy(), s)):
                    if dx is not None:
                        _expect(row, s, f"cotangent of argument {i}", dx, s.args[i])
    return row


def _expect(row: Row, s: Sample, what: str, ours, like) -> None:
    if not (np.shape(ours) == np.shape(like) and np.result_type(ours) == np.result_type(like)):
        row.failures.append(
            f"{s.case.name}, {what}: shape {np.shape(ours)} {np.result_type(ours)}, "
            f"expected {np.shape(like)} {np.result_type(like)}"
        )


def _raw_vjp(op: Primitive, args, s: Sample, saved=None, dy=None) -> list[Any]:
    """The VJP without the tape: cotangents of the differentiated arguments, ``None`` for the others."""
    assert op.vjp is not None
    args = op.as_floats(args)
    with _strict():
        if saved is None:
            _, saved = op.forward(*args, **s.static)
        cotangents = op.vjp(s.dy if dy is None else dy, saved, *args, **s.static)
        return [
            None if i not in s.places or dx is None else dx() if callable(dx) else dx for i, dx in enumerate(cotangents)
        ]


def _untouched(op, reference, seed) -> Row:
    row = _contract("inputs untouched")
    for dtype, s in _samples(reference, seed):
        with row.case(f"{s.case.name} {dtype}"):
            args, dy = s.copy(), s.dy.copy()
            run(op, args, s.static, s.places, dy)
            op(*args, **s.static)
            for i, (before, after) in enumerate(zip((*s.args, s.dy), (*args, dy), strict=True)):
                if isinstance(before, Array) and before.tobytes() != after.tobytes():
                    row.failures.append(f"{s.case.name}: argument {i} was written to")
            run(op, list(s.args), s.static, s.places, s.dy)  # the sample's own arrays are read-only
            op(*s.args, **s.static)
    return row


def _strided(a):
    """The same entries on every second place of a larger array, walked backwards."""
    wide = np.zeros(tuple(2 * n for n in a.shape), a.dtype)
    view = wide[(slice(None, None, -2),) * a.ndim]
    view[...] = a
    return view


def _layouts(op, reference, seed) -> Row:
    row = _contract("memory layouts", limit=f"{EPS_MULTIPLE} eps")
    for dtype, s in _samples(reference, seed):
        plain = None
        for layout in (np.asfortranarray, _strided):
            with row.case(f"{s.case.name} {dtype}"):
                plain = plain or run(op, s.copy(), s.static, s.places, s.dy)
                args = [layout(a) if isinstance(a, Array) and a.ndim else a for a in s.args]
                ours = run(op, args, s.static, s.places, layout(s.dy) if s.dy.ndim else s.dy)
                for a, b in zip(ours, plain, strict=True):
                    row.compare(error(a, b), bound("", dtype), s.case.name, a, b)
    return row


def _broadcasting(op, name, reference, seed) -> Row:
    """Each argument in turn is replaced by a smaller one that broadcasts to the same shape."""
    row = _contract("broadcasting", limit=_bound_text(name, "float32"))
    for dtype, s in _samples(reference, seed):
        arrays = [i for i, a in enumerate(s.args) if isinstance(a, Array)]
        if len(arrays) < 2 or len({s.args[i].shape for i in arrays}) > 1 or not s.args[arrays[0]].size:
            continue
        for i in arrays:
            for kind, smaller in _smaller(s.args[i]):
                with row.case(f"{s.case.name} {dtype}, argument {i} {kind}"):
                    args = s.copy()
                    args[i] = smaller
                    exact = [_cast(a, "float64") for a in args]
                    theirs = run_torch(reference, exact, s.static, s.places, s.dy.astype("float64"))
                    own = run_torch(reference, args, s.static, s.places, s.dy)
                    ours = run(op, args, s.static, s.places, s.dy)
                    for a, b, c in zip(ours, theirs, own, strict=True):
                        row.compare(error(a, b), bound(name, dtype, error(c, b)), f"argument {i} {kind}", a, b)
    return row


def _smaller(a: Array) -> Iterator[tuple[str, Array]]:
    if a.ndim > 1:
        yield "without its first axis", a[0].copy()
    for axis in range(a.ndim):
        yield f"of size 1 on axis {axis}", a.take([0], axis)
    yield "0-d", np.array(a[(0,) * a.ndim])


def _sizes(reference, seed) -> Row:
    """Whether the cases include size 0 and size 1; that they are right is what all other rows check."""
    row = _contract("sizes 0 and 1")
    declared = [a for _, s in _samples(reference, seed, ["float64"]) for a in s.args]
    rng = np.random.default_rng(seed)
    refused = [a for case, _ in reference.bad for a in case.arrays(rng)]
    for size in (0, 1):
        with row.case(f"size {size}"):
            if not any(isinstance(a, Array) and a.size == size for a in (*declared, *refused)):
                row.failures.append(f"no case has an array of size {size}, and none of that size is refused")
    return row


def _extremes(op, name, reference, seed) -> Row:
    row = _contract("extreme values", limit=_bound_text(name, "float32"))
    for dtype in DTYPES:
        for case in _extreme_cases(reference):
            with row.case(f"{case.name} {dtype}"):
                s = sample(reference, case, dtype, seed, False)
                ours = run(op, s.copy(), s.static, s.places, s.dy)
                for k, a in enumerate(ours):
                    _compare(row, name, s, k, a, dtype)
    return row


@functools.lru_cache(maxsize=4096)
def _extreme_cases(reference: Reference) -> tuple[Case, ...]:
    if reference.extremes is not None:
        return reference.extremes
    first = reference.cases[0]

    def arrays(rng):
        """The first case with entries of size up to 1e4."""
        return tuple(
            rng.choice([-1e4, 1e4], a.shape) * rng.uniform(0.5, 1, a.shape)
            if _is_float(a) and i not in reference.constants
            else a
            for i, a in enumerate(first.arrays(rng))
        )

    return (Case(f"{first.name}, 1e4", arrays, first.static),)


def _bad_input(op, reference, seed) -> Row:
    row = _contract("bad input", dtype="")
    rng = np.random.default_rng(seed)
    first = reference.cases[0]
    bad = list(reference.bad)
    for i, a in enumerate(first.arrays(rng)):
        if isinstance(a, Array) and isinstance(op, Primitive):
            bad.append((Case(f"text as argument {i}", _with_text(first, i), first.static), "dtype"))
    for case, message in bad:
        row.cases += 1
        try:
            op(*case.arrays(rng), **case.static)
        except ValueError as problem:
            if not re.search(message, str(problem)):
                row.failures.append(f"{case.name}: the message {str(problem)!r} does not match {message!r}")
        except Exception as problem:
            row.failures.append(f"{case.name}: raised {type(problem).__name__}, not ValueError: {problem}")
        else:
            row.failures.append(f"{case.name}: raised nothing")
    return row


def _with_text(case: Case, i: int) -> Callable:
    return lambda rng: tuple(np.full(a.shape, "a") if k == i else a for k, a in enumerate(case.arrays(rng)))


def _vjp_alone(op, reference, seed) -> Row:
    """The VJP as a plain function, twice on the same saved values and after another call, against the tape's."""
    row = _contract("VJP alone", limit=f"{EPS_MULTIPLE} eps")
    for dtype, s in _samples(reference, seed):
        with row.case(f"{s.case.name} {dtype}"):
            _, *grads = run(op, s.copy(), s.static, s.places, s.dy)
            args = op.as_floats(s.copy())
            _, saved = op.forward(*args, **s.static)
            with contextlib.suppress(ValueError):  # a VJP that reads a global instead of saved now reads the wrong one
                op.forward(*(a / 2 if i in s.places else a for i, a in enumerate(s.copy())), **s.static)
            for _ in range(2):
                alone = _raw_vjp(op, args, s, saved if saved is not None else ())
                for i, g in zip(s.places, grads, strict=True):
                    dx = np.zeros_like(s.args[i]) if alone[i] is None else alone[i]
                    row.compare(error(dx, g), bound("", dtype), f"{s.case.name}, argument {i}", dx, g)
    return row


# ---------------------------------------------------------------------------------------------------------------------
# Devices
# ---------------------------------------------------------------------------------------------------------------------


def devices() -> tuple[str, ...]:
    """The accelerators that PyTorch sees: every CUDA device, or ``mps``. ``NNBOOK_DEVICE`` names one to use instead.

    Raises:
        ValueError: ``NNBOOK_DEVICE`` names a device that PyTorch cannot use.
    """
    import torch

    wanted = os.environ.get("NNBOOK_DEVICE")
    if wanted:
        try:
            torch.zeros(1, device=wanted)
        except (RuntimeError, AssertionError) as problem:
            raise ValueError(f"NNBOOK_DEVICE={wanted}: PyTorch cannot use it: {str(problem).splitlines()[0]}") from None
        return (wanted,) if wanted != "cpu" else ()
    if torch.cuda.is_available():
        return tuple(f"cuda:{i}" for i in range(torch.cuda.device_count()))
    return ("mps",) if torch.backends.mps.is_available() else ()


def verify_devices(op: Callable, reference: Reference | None = None, *, seed: int = 0) -> Result:
    """Compare with PyTorch on every GPU present: value and every gradient, TF32 off, float32 only on MPS.

    The error is the difference from what the device computes in the same dtype; the bound is 64 eps or 4 times the
    device's own distance from PyTorch in float64 on the CPU. What it prints depends on the machine, so a notebook cell
    that calls it carries the tag ``nbval-ignore-output``. Without a GPU it says so and shows no row.
    """
    name = getattr(op, "__name__", repr(op))
    reference = reference_of(op, reference)
    rows = []
    for device in devices():
        for dtype in DTYPES if not device.startswith("mps") else ("float32",):
            row = Row(
                f"against PyTorch on {_device_name(device)}", "value and gradients", dtype, _bound_text(name, dtype)
            )
            rows.append(row)
            for case in reference.cases:
                with row.case(case.name), _full_precision():
                    s = sample(reference, case, dtype, seed)
                    theirs = run_torch(reference, s.args, s.static, s.places, s.dy, device)
                    ours = run(op, s.copy(), s.static, s.places, s.dy)
                    for a, b, exact in zip(ours, theirs, s.theirs, strict=True):
                        row.compare(error(a, b), bound(name, dtype, error(b, exact)), case.name, a, b)
    if not rows:
        return Result(name, [], f"{name}: PyTorch sees no GPU here, so nothing was compared on one")
    return Result(name, rows, numbers=True)


def _device_name(device: str) -> str:
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else device


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Switch off TF32, which rounds the factors of a float32 product to 10 bits on recent NVIDIA GPUs."""
    import torch

    settings: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [s.allow_tf32 for s in settings]
    try:
        for s in settings:
            s.allow_tf32 = False
        yield
    finally:
        for s, allowed in zip(settings, before, strict=True):
            s.allow_tf32 = allowed


# ---------------------------------------------------------------------------------------------------------------------
# For readers: check one's own function, look at a function's source
# ---------------------------------------------------------------------------------------------------------------------


class Check:
    """What :func:`check` found. ``ok`` is True, False, or None for something not attempted."""

    def __init__(self, ok: bool | None, text: str):
        self.ok = ok
        self.text = text

    def __repr__(self) -> str:
        return self.text


def check(candidate: Callable, name: str | Reference, vjp: Callable | None = None, *, seed: int = 0) -> Check:
    """Compare your own function with the reference of that name, in float64 on every case that it can take.

    Args:
        candidate: a function of arrays that returns an array of real numbers (a list or a PyTorch tensor will do) and
            leaves its arguments as they are. ``...``, as an answer, as its first entry or as the whole body, counts as
            not attempted. If it is a primitive with a VJP, its gradients are compared too.
        name: an entry of ``REFERENCES``, for example ``"softplus"``; or a :class:`~nnbook.references.Reference`.
        vjp: your derivative, ``vjp(dy, *arrays, **static)``, returning one cotangent per array (or the only one).

    Returns:
        A result that prints one line: what agrees, or the first case that does not with both shapes and values. What
        goes wrong in your function, ``sys.exit`` included, is told there and not raised; Ctrl-C stops the check.

    Raises:
        ValueError: there is no function of that name to compare with, or what is to be checked is no function.
    """
    title = name if isinstance(name, str) else getattr(candidate, "__name__", "function")
    if not isinstance(name, (str, Reference)):
        raise ValueError(f"name must be one of REFERENCES or a Reference, not {type(name).__name__}")
    if isinstance(name, str) and name not in REFERENCES:
        raise ValueError(f"{name!r} is not among the functions that can be checked: {', '.join(REFERENCES)}")
    for what, f in (("candidate", candidate), ("VJP", ... if vjp is None else vjp)):
        if not (callable(f) or f is ...):
            raise ValueError(f"the {what} must be a function, not {type(f).__name__}")
    if candidate is ...:
        return Check(None, f"{title}: not attempted")
    reference = REFERENCES[name] if isinstance(name, str) else name
    passed, gradients = 0, 0
    for case in reference.cases:
        if not _accepts(candidate, case):
            continue
        s = sample(reference, case, "float64", seed)
        where = f"{title}: case {case.name!r}"
        try:
            value = _answer(_watched(candidate), candidate, s, f"{where}: your function", f"{where} raised")
            if message := _difference(where, value, s.theirs[0]):
                return Check(False, message)
        except _Unfinished:
            return Check(None, f"{title}: not attempted")
        except _Wrong as problem:
            return Check(False, str(problem))
        passed += 1
        try:
            found = _candidate_gradients(candidate, vjp, s, where)
        except _Unfinished:
            return Check(None, f"{title}: the value agrees with PyTorch; the VJP is not attempted")
        except _Wrong as problem:
            return Check(False, str(problem))
        if found is None:
            continue
        if len(found) != len(s.args):
            return Check(False, f"{title}: the VJP returned {len(found)} cotangents for {len(s.args)} arguments")
        for i, theirs in zip(s.places, s.theirs[1:], strict=True):
            if message := _difference(f"{where}, gradient of argument {i}", found[i], theirs):
                return Check(False, message)
        gradients += 1
    if not passed:
        return Check(False, f"{title}: your function's arguments fit none of the {len(reference.cases)} cases")
    what = "value and gradients agree" if gradients else "the values agree"
    skipped = "" if passed == len(reference.cases) else f" ({len(reference.cases) - passed} need arguments it lacks)"
    return Check(True, f"{title}: {what} with PyTorch in {passed} cases{skipped}")


class _Unfinished(Exception):
    """``...`` stands where something has still to be written."""


class _Wrong(Exception):
    """What is wrong with a candidate, in words."""


def _accepts(candidate, case) -> bool:
    try:
        signature = inspect.signature(candidate)
    except (TypeError, ValueError):  # some functions in C have none
        return True
    try:
        signature.bind(*case.arrays(np.random.default_rng(0)), **case.static)
    except TypeError:
        return False
    return True


def _answer(f: Callable, candidate: Callable, s: Sample, who: str, raised: str, dy: tuple[Array, ...] = ()) -> Any:
    """What ``f`` makes of copies of the arguments; raises if it fails, overwrites one, or has still to be written.

    ``candidate`` is what the reader has written, from which the arguments have their names.
    """
    args, static = copy.deepcopy((*dy, *s.args)), copy.deepcopy(s.static)
    instead = "work on a copy, or return a new array"
    try:
        answer = f(*args, **static)
        if _is_unfinished(candidate, answer):
            raise _Unfinished
        changed = [
            _name_of_argument(candidate, i, len(dy)) for i, a in enumerate((*dy, *s.args)) if _differ(a, args[i])
        ]
        changed += [key for key, a in s.static.items() if _differ(a, static[key])]
        if changed:
            raise _Wrong(f"{who} overwrites its argument {changed[0]}; {instead}")
        return answer
    except (_Unfinished, _Wrong):
        raise
    except (Exception, SystemExit) as problem:
        told = _told(problem)
        if isinstance(problem, (TypeError, AttributeError)) and re.search("'ellipsis'|of type ellipsis", told):
            raise _Unfinished from None
        if isinstance(problem, ValueError) and "read-only" in told:  # as the arrays on a tape are
            raise _Wrong(f"{who} overwrites an argument; {instead} ({told})") from problem
        raise _Wrong(f"{raised} {told}") from problem


def _differ(before, after) -> bool:
    """Whether an array is no longer what it was; compared by bits, because nan is not equal to itself."""
    if not isinstance(before, Array):
        return False
    return (before.shape, before.dtype) != (after.shape, after.dtype) or before.tobytes() != after.tobytes()


def _name_of_argument(f: Callable, position: int, ahead: int) -> str:
    """The argument's name where the reader has given it one, else its number, not counting ``dy`` before it."""
    own = f.vjp if ahead and isinstance(f, Primitive) and f.vjp is not None else f
    try:
        parameters = list(inspect.signature(own).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    if own is not f and position >= ahead:
        position += 1  # between dy and the arguments stands what was saved
    if position < len(parameters) and parameters[position].kind is not inspect.Parameter.VAR_POSITIONAL:
        return parameters[position].name
    return str(position - ahead) if position >= ahead else "dy"


def _told(problem: BaseException) -> str:
    try:
        return f"{type(problem).__name__}: {problem}"
    except Exception:
        return type(problem).__name__


def _is_unfinished(f: Callable, answer) -> bool:
    """``...`` returned, alone or with others, or nothing returned by a function whose body does nothing."""
    if isinstance(answer, (tuple, list)):
        return any(part is ... for part in answer)
    return answer is ... or (answer is None and _does_nothing(f))


def _does_nothing(f: Callable) -> bool:
    """Whether the body of a ``def`` is ``...``, ``pass`` or a docstring, which all compile to the same."""
    code = getattr(f, "__code__", None)
    idle = {"RESUME", "NOP", "CACHE", "LOAD_CONST", "RETURN_CONST", "RETURN_VALUE"}
    if code is None or code.co_name == "<lambda>":
        return False
    return all(step.opname in idle for step in dis.get_instructions(code))


def _watched(candidate: Callable) -> Callable:
    """The candidate; of a primitive, a copy whose two functions say when they are unfinished or return too little."""
    if not isinstance(candidate, Primitive):
        return candidate

    def forward(*args, **static):
        found = candidate.forward(*args, **static)
        if _is_unfinished(candidate.forward, found[0] if isinstance(found, tuple) and found else found):
            raise _Unfinished
        if not (isinstance(found, tuple) and len(found) == 2):
            got = f"a tuple of {len(found)}" if isinstance(found, tuple) else type(found).__name__
            raise ValueError(
                f"the function returned {got}; a primitive returns two things, its value and what its derivative needs"
            )
        return found

    def backward(*args, **static):
        assert candidate.vjp is not None
        found = candidate.vjp(*args, **static)
        if _is_unfinished(candidate.vjp, found):
            raise _Unfinished
        return tuple(_watched_later(dx) if callable(dx) else dx for dx in found)

    watched = copy.copy(candidate)
    watched.forward, watched.vjp = forward, backward if candidate.vjp is not None else None
    return watched


def _watched_later(cotangent: Callable) -> Callable:
    def later():
        dx = cotangent()
        if _is_unfinished(cotangent, dx):
            raise _Unfinished
        return dx

    return later


def _candidate_gradients(candidate, derivative, s: Sample, where: str):
    """A cotangent for each argument by the reader's VJP; None if there is none."""
    who, raised = f"{where}: the VJP", f"{where}, the VJP raised"
    if derivative is ...:
        raise _Unfinished
    if derivative is not None:
        found = _answer(derivative, derivative, s, who, raised, (s.dy,))
        return found if isinstance(found, (tuple, list)) else (found,)
    if not isinstance(candidate, Primitive) or candidate.vjp is None:
        return None

    def gradients(dy, *args, **static):
        return run(_watched(candidate), args, static, s.places, dy)[1:]

    grads = iter(_answer(gradients, candidate, s, who, raised, (s.dy,)))
    return [next(grads) if i in s.places else None for i in range(len(s.args))]


def _difference(where: str, ours, theirs: Array) -> str:
    """What is wrong with an answer, in words; nothing if it is right."""
    try:
        ours = _real_numbers(ours, theirs.shape)
    except _Wrong as problem:
        return f"{where}: {problem}"
    if ours.shape != theirs.shape:
        return f"{where}: expected shape {theirs.shape}, got {ours.shape}"
    with np.errstate(all="ignore"):  # numbers too large for float64 are wrong, which the comparison finds
        double = ours.astype(np.float64)
        off = error(double, theirs)
    if off <= CHECK_BOUND:
        return ""
    expected, got = (
        np.array2string(a, precision=4, threshold=8, edgeitems=2, separator=", ") for a in (theirs, double)
    )
    why = ""
    bad = np.argwhere(~np.isfinite(double) & np.isfinite(theirs))
    if len(bad):
        first = tuple(bad[0].tolist())
        why = f": {len(bad)} of {ours.size} " + ("is" if len(bad) == 1 else "are") + " infinite or nan, "
        why += f"{'at' if len(bad) == 1 else 'the first at'} {first}"
    elif ours.dtype.kind == "f" and ours.dtype.itemsize < 8 and off <= EPS_MULTIPLE * float(np.finfo(ours.dtype).eps):
        why = f", by {off:.1e} of the largest, as little as {ours.dtype} rounds; compute in the float64 that comes in"
    elif expected == got:
        why = f", by {off:.1e} of the largest"
    return f"{where}: the numbers differ{why}\nexpected {expected}\ngot      {got}"


def _real_numbers(value, shape: tuple[int, ...]) -> Array:
    """An answer as an array of real numbers, taken for nothing that it is not: see the comment in :func:`error`."""
    expected, kind = f"expected an array of shape {shape}, got", type(value).__name__
    if isinstance(value, tuple):  # often (value, saved); NumPy would stack its parts
        raise _Wrong(f"{expected} a tuple of {len(value)}; return the array alone")
    if np.ma.is_masked(value):
        raise _Wrong(f"{np.ma.count_masked(value)} of the {value.size} numbers of a masked array are hidden")
    try:
        if hasattr(value, "detach"):  # a PyTorch tensor, which may be on a tape of its own or on a GPU
            value = value.detach().cpu()
        array = np.asarray(value)
    except (Exception, SystemExit) as problem:
        raise _Wrong(f"{expected} {kind}, which NumPy cannot convert: {_told(problem)}") from problem
    if array.ndim == 0 and array.dtype.kind in "OUS" and not isinstance(value, Array):
        raise _Wrong(f"{expected} {kind}")
    if array.dtype.kind == "c":
        raise _Wrong(f"expected real numbers, got {array.dtype}")
    if array.dtype.kind == "b":
        raise _Wrong("expected numbers, got booleans")
    if array.dtype.kind not in "iuf":
        raise _Wrong(f"expected numbers, got an array of dtype {array.dtype}")
    return array


class Source:
    """Source code that prints as text and, in a notebook or on the page, as highlighted Python."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text

    def _repr_markdown_(self) -> str:
        return f"```python\n{self.text}\n```"


def source(*functions, docstrings: bool = True) -> Source:
    """The code of functions as it stands in the package, so that the page shows what runs; a primitive brings its VJP.

    Args:
        *functions: primitives, functions, methods or classes.
        docstrings: whether to keep them.
    """
    parts = []
    for f in functions:
        for part in (f.forward, f.vjp) if isinstance(f, Primitive) else (f,):
            if part is not None:
                text = textwrap.dedent(inspect.getsource(part)).strip("\n")
                parts.append(text if docstrings else _without_docstrings(text))
    return Source("\n\n\n".join(parts))


def _without_docstrings(text: str) -> str:
    lines: list[str | None] = list(text.splitlines())
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) is not None:
            last = node.body[0].end_lineno or 0
            if len(node.body) > 1:  # a body that is only a docstring keeps it
                following = node.body[1].lineno - 1
                for i in range(node.body[0].lineno - 1, last):
                    lines[i] = None
                for i in range(last, following):
                    if lines[i] == "":
                        lines[i] = None
    return "\n".join(line for line in lines if line is not None)


# ---------------------------------------------------------------------------------------------------------------------
# Everything at once
# ---------------------------------------------------------------------------------------------------------------------


def primitives() -> dict[str, Primitive]:
    """Every primitive of the package by name, module by module in alphabetical order.

    Raises:
        ValueError: two modules define different primitives of the same name.
    """
    found: dict[str, Primitive] = {}
    for name in sorted(m.name for m in pkgutil.iter_modules(nnbook.__path__)):
        if name in _WITHOUT_PRIMITIVES or name.startswith("_"):
            continue
        module = importlib.import_module(f"nnbook.{name}")
        for value in vars(module).values():
            # A module also sees the primitives that it imports; they count where they are defined.
            own = isinstance(value, Primitive) and value.__module__ == module.__name__
            if own and found.setdefault(value.__name__, value) is not value:
                raise ValueError(f"two primitives are called {value.__name__}")
    return found


def main(arguments: Sequence[str]) -> int:
    """``python -m nnbook.verify [--details] [name ...]``: verify these primitives, or all; return how many failed."""
    names = [a for a in arguments if not a.startswith("-")]
    failed = 0
    for name, op in primitives().items():
        if names and name not in names:
            continue
        result = verify(op)
        failed += not result.ok
        print(result.details() if "--details" in arguments else result, end="\n\n")
    print("looser bounds:", "none" if not LOOSER else "")
    for (name, dtype), (multiple, reason) in LOOSER.items():
        print(f"  {name} {dtype}: {multiple} eps, because {reason}")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
