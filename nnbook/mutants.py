"""Planted errors: does the harness catch a wrong derivative when it sees one (chapter 3)?

A check that has never failed has not been tested. Here the VJP of every primitive is spoiled in many ways, each a
mistake that people make, and :mod:`nnbook.verify` must reject every result. A mutant *counts* if it moves the VJP by
more than 1e-6 relative, measured here without any code of the harness; the others are the same function in other
words (a transposed vector, the sum over an axis of size 1).

``python -m nnbook.mutants`` prints the table, beside it what the usual test would have missed: the gradient of
``op(x).sum()``, whose upstream is all ones.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnbook.backprop import Array, Primitive, vjp
from nnbook.references import Case, Reference
from nnbook.verify import primitives, reference_of, rejects

MOVED = 1e-6


@dataclass(frozen=True)
class Right:
    """A correct answer to spoil: the cotangent ``g`` of one argument, and how it came about.

    ``others`` computes the cotangents of the other arguments of the same shape; ``again`` that of this one for another
    upstream ``dy``.
    """

    g: Array
    dy: Any
    again: Callable[[Any], Array]
    others: Callable[[], list[Array]]

    @property
    def size(self) -> float:
        return float(np.max(np.abs(self.g), initial=0.0)) or 1.0


def _one_entry(right: Right, k: int) -> Array:
    g = np.array(right.g)
    if g.size:
        g.reshape(-1)[k] += right.size
    return g


def _only_first(right: Right) -> Array:
    g = np.zeros_like(right.g)
    g[:1] = right.g[:1]
    return g


def _length(right: Right) -> int:
    return max(right.g.shape[0] if right.g.ndim else 1, 1)


def _like_dy(right: Right, value: Callable[[], Array]) -> Array:
    return value() if np.shape(right.dy) == right.g.shape else right.g


MUTATIONS: dict[str, Callable[[Right], Any]] = {
    "wrong sign": lambda r: -r.g,
    "twice as large": lambda r: 2 * r.g,
    "a tenth of a percent too large": lambda r: r.g * 1.001,
    "1/N missing": lambda r: r.g * _length(r),
    "1/N too many": lambda r: r.g / _length(r),
    "transposed": lambda r: r.g.T.reshape(r.g.shape),
    "reversed": lambda r: np.flip(r.g),
    "shifted along the first axis": lambda r: np.roll(r.g, 1, 0) if r.g.ndim else r.g,
    "shifted along the last axis": lambda r: np.roll(r.g, 1, -1) if r.g.ndim else r.g,
    "first entry off": lambda r: _one_entry(r, 0),
    "last entry off": lambda r: _one_entry(r, -1),
    "constant added": lambda r: r.g + 0.01 * r.size,
    "averaged over the first axis": lambda r: np.zeros_like(r.g) + r.g.mean(0) if r.g.size and r.g.ndim else r.g,
    "averaged over the last axis": lambda r: (
        np.zeros_like(r.g) + r.g.mean(-1, keepdims=True) if r.g.size and r.g.ndim else r.g
    ),
    "mean subtracted": lambda r: r.g - r.g.mean() if r.g.size else r.g,
    "only the first sample": lambda r: _only_first(r) if r.g.ndim else r.g,
    "dropped": lambda r: np.zeros_like(r.g),
    "absolute value": lambda r: np.abs(r.g),
    "half precision": lambda r: r.g.astype(np.float16).astype(r.g.dtype),
    "swapped with another argument": lambda r: next(iter(r.others()), r.g),
    "dy ignored": lambda r: r.again(np.ones_like(r.dy)),
    "dy averaged": lambda r: r.again(np.full_like(r.dy, np.mean(r.dy) if np.size(r.dy) else 0)),
    "dy reversed": lambda r: r.again(np.flip(r.dy)),
    "derivative left out": lambda r: _like_dy(r, lambda: np.array(r.dy)),
    "derivative applied twice": lambda r: _like_dy(r, lambda: r.again(r.g)),
    "identity term dropped": lambda r: _like_dy(r, lambda: r.g - r.dy),
}
"""Each takes the right answer and returns a wrong one of the same shape, or the right one where it does not apply."""


@dataclass(frozen=True)
class Mutant:
    """A primitive with one error in its VJP, in the cotangent of argument number ``argument``."""

    kind: str
    argument: int
    op: Primitive
    moved: float

    @property
    def counts(self) -> bool:
        return not self.moved <= MOVED


def plant(op: Primitive, kind: str, argument: int) -> Primitive:
    """The primitive with the error ``kind`` in the cotangent of one argument."""
    mutant = Primitive(op.forward)
    mutant.vjp = functools.partial(_spoiled, op, MUTATIONS[kind], argument)
    return mutant


def _spoiled(op, mutate, place, dy, saved, *args, **static):
    right = op.vjp(dy, saved, *args, **static)
    if place >= len(right) or right[place] is None:
        return right

    def again(upstream):
        return _computed(op.vjp(upstream, saved, *args, **static)[place])

    def others():
        return [
            _computed(dx)
            for i, dx in enumerate(right[: len(args)])
            if i != place and dx is not None and np.shape(args[i]) == np.shape(args[place])
        ]

    def wrong():
        return mutate(Right(_computed(right[place]), dy, again, others))

    return (*right[:place], wrong, *right[place + 1 :])


def _computed(dx) -> Array:
    # np.asarray: a reduction may hand out a scalar, and a mutation wants to index.
    return np.asarray(dx() if callable(dx) else dx)


def mutants(op: Primitive, reference: Reference | None = None, *, seed: int = 0) -> list[Mutant]:
    """Every kind of error in every differentiated argument, with the relative change that it makes to the VJP."""
    reference = reference_of(op, reference)
    draws = [_draw(op, reference, case, seed) for case in reference.cases]
    places = sorted({i for args, *_ in draws for i, a in enumerate(args) if _varies(a, i, reference)})
    found = []
    for place in places:
        for kind in MUTATIONS:
            mutant = plant(op, kind, place)
            moved = max(
                _change(op, mutant, draw, place)
                for draw in draws
                if place < len(draw[0]) and _varies(draw[0][place], place, reference)
            )
            found.append(Mutant(kind, place, mutant, moved))
    return found


def _varies(a, place, reference) -> bool:
    return isinstance(a, Array) and a.dtype.kind == "f" and place not in reference.constants


def _arguments(case: Case, rng: np.random.Generator) -> tuple[Any, ...]:
    return tuple(np.asarray(a) if isinstance(a, np.generic) else a for a in case.arrays(rng))


def _draw(op: Primitive, reference: Reference, case: Case, seed: int):
    rng = np.random.default_rng(seed + 1)
    args = _arguments(case, rng)
    value, saved = op.forward(*args, **case.static)
    return args, dict(case.static), saved, rng.normal(size=np.shape(value))


def _change(op: Primitive, mutant: Primitive, draw, place: int) -> float:
    args, static, saved, dy = draw
    before, after = (_cotangent(f, place, dy, saved, args, static) for f in (op, mutant))
    largest = float(np.abs(before).max()) if before.size else 0.0
    return float(np.abs(after - before).max()) / (largest or 1.0) if before.size else 0.0


def _cotangent(f: Primitive, place, dy, saved, args, static) -> Array:
    assert f.vjp is not None
    dx = f.vjp(dy, saved, *args, **static)[place]
    return _computed(dx) if dx is not None else np.zeros_like(args[place])


def passes_with_ones(op: Callable, reference: Reference | None = None, *, seed: int = 0) -> bool:
    """The wrong way to test a gradient: that of ``op(x).sum()``, by ``np.allclose``. Published libraries do it so.

    The upstream is all ones. For softmax and every normalization the true gradient is then zero, whatever mistake the
    backward pass makes in the part that matters.
    """
    import torch

    reference = reference_of(op, reference)
    for case in reference.cases:
        args = _arguments(case, np.random.default_rng(seed + 1))
        places = [i for i, a in enumerate(args) if _varies(a, i, reference)]

        def summed(*varied, args=args, places=places, static=case.static):
            full = list(args)
            for i, a in zip(places, varied, strict=True):
                full[i] = a
            return op(*full, **static)

        y, pull = vjp(summed, *(args[i] for i in places))
        ours = pull(np.ones(np.shape(y)))
        tensors: list[Any] = [torch.tensor(a) if isinstance(a, Array) else a for a in args]
        for i in places:
            tensors[i].requires_grad_()
        total = reference.torch(torch)(*tensors, **case.static).sum()
        if total.requires_grad:
            total.backward()
        for i, mine in zip(places, ours, strict=True):
            theirs = tensors[i].grad.numpy() if tensors[i].grad is not None else np.zeros_like(args[i])
            if not np.allclose(mine, theirs):
                return False
    return True


@dataclass(frozen=True)
class Tally:
    """What became of the mutants of one primitive: ``(kind, argument)`` of those that each way of testing let pass."""

    name: str
    counted: int
    skipped: int
    survivors: tuple[tuple[str, int], ...]
    survivors_of_ones: tuple[tuple[str, int], ...]


def tally(op: Primitive, reference: Reference | None = None, *, seed: int = 0) -> Tally:
    """Put every mutant of a primitive before the harness, and before the test with an upstream of ones."""
    found = mutants(op, reference, seed=seed)
    counted = [m for m in found if m.counts]
    return Tally(
        op.__name__,
        len(counted),
        len(found) - len(counted),
        tuple((m.kind, m.argument) for m in counted if not rejects(m.op, reference, seed=seed)),
        tuple((m.kind, m.argument) for m in counted if passes_with_ones(m.op, reference, seed=seed)),
    )


class Tallies(list[Tally]):
    """Several tallies, which print as one table."""

    HEAD = ("primitive", "errors planted", "counted", "caught by verify", "missed with ones")

    def _rows(self) -> list[tuple[str, ...]]:
        rows = []
        for t in self:
            numbers = (t.counted + t.skipped, t.counted, t.counted - len(t.survivors), len(t.survivors_of_ones))
            rows.append((t.name, *map(str, numbers)))
        totals = (sum(int(row[k]) for row in rows) for k in range(1, len(self.HEAD)))
        return [*rows, ("all", *map(str, totals))]

    def __repr__(self) -> str:
        table = [self.HEAD, *self._rows()]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        pad = [str.ljust] + [str.rjust] * (len(widths) - 1)
        return "\n".join("  ".join(f(c, w) for f, c, w in zip(pad, row, widths, strict=True)) for row in table)

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col">{title}</th>' for title in self.HEAD)
        body = "".join(
            f'<tr><th scope="row">{name}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>\n"
            for name, *cells in self._rows()
        )
        caption = "Planted errors: what the harness catches, what an upstream of ones misses"
        return f"<table><caption>{caption}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"


def campaign(*ops: Primitive, seed: int = 0) -> Tallies:
    """The tallies of these primitives."""
    return Tallies(tally(op, seed=seed) for op in ops)


def main(names: Iterable[str]) -> int:
    """``python -m nnbook.mutants [name ...]``: the table, then every kind of error that a way of testing let pass."""
    wanted = list(names)
    found = campaign(*(op for name, op in primitives().items() if not wanted or name in wanted))
    print(found)
    print("\nmissed with an upstream of ones, by kind:")
    kinds = [kind for t in found for kind, _ in t.survivors_of_ones]
    for kind in sorted(set(kinds), key=lambda kind: (-kinds.count(kind), kind)):
        print(f"  {kinds.count(kind):3}  {kind}")
    survivors = [f"{t.name}, argument {place}: {kind}" for t in found for kind, place in t.survivors]
    print("\nmissed by verify:", "; ".join(survivors) or "none")
    return len(survivors)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
