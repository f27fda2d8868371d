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


@dataclass(frozen=True)
class Case:
    """One set of arguments: ``arrays(rng)`` gives the positional ones (floats as float64), ``static`` the keywords."""

    name: str
    arrays: Callable[[Rng], tuple[Any, ...]]
    static: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reference:
    """The counterpart of one primitive.

    ``torch(torch_module)`` returns the PyTorch function, called as ``f(*tensors, **static)``. ``kinks(*arrays,
    **static)`` returns the distance of every place that matters to its nearest kink or tie, so that the harness can
    draw inputs at least 1e-3 away. ``analytic`` allows the complex step. ``bad`` are arguments that must raise a
    ``ValueError`` matching the regular expression beside them.
    """

    torch: Callable[[Any], Callable[..., Any]]
    cases: tuple[Case, ...]
    analytic: bool = False
    kinks: Callable[..., Any] | None = None
    bad: tuple[tuple[Case, str], ...] = ()


REFERENCES: dict[str, Reference] = {}


def normal(*shapes: tuple[int, ...]) -> Callable[[Rng], tuple[Any, ...]]:
    """Standard normal arrays of the given shapes."""
    return lambda rng: tuple(rng.normal(size=shape) for shape in shapes)


# Chapter 3: the elementary primitives of nnbook.backprop


# Chapter 1: nnbook.neurons


# Chapter 2: nnbook.losses
