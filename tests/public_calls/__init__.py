"""One valid call of every public function of ``MODULES``, from which ``test_contract.py`` makes invalid ones.

``CALLS["rope"](rng)`` is ``(args, keywords)``. A primitive needs no entry: its first case in ``REFERENCES`` serves.
Write real arrays as float64 with entries of moderate size, so that they can be rounded to integers and to float16, and
give every option that has a range, so that a wrong one can be put in its place.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from nnbook.backprop import Primitive
from nnbook.references import REFERENCES

Call = tuple[tuple, dict[str, Any]]
MODULES = (
    "backprop",
    "numpy_api",
    "neurons",
    "losses",
    "optimizers",
    "regularization",
    "cnn",
    "rnn",
    "attention",
    "training",
    "data",
    "plots",
    "twins",
)


def call(*args, **keywords) -> Call:
    return args, keywords


def public_functions(module: str) -> dict[str, Callable]:
    """The functions and primitives with arguments that a module defines, by name, without VJPs."""
    found = importlib.import_module(f"nnbook.{module}")
    return {
        name: value
        for name, value in vars(found).items()
        if not name.startswith("_")
        and not name.endswith("_vjp")
        and (inspect.isfunction(value) or isinstance(value, Primitive))
        and value.__module__ == found.__name__
        and (isinstance(value, Primitive) or inspect.signature(value).parameters)
    }


def calls_of(module: str) -> dict[str, Callable[[np.random.Generator], Call]]:
    """By name, those written down and those that the references give."""
    try:
        found = dict(importlib.import_module(f"public_calls.{module}").CALLS)
    except ModuleNotFoundError:
        found = {}
    for name, function in public_functions(module).items():
        if isinstance(function, Primitive) and name not in found and name in REFERENCES:
            case = REFERENCES[name].cases[0]
            found[name] = lambda rng, case=case: (case.arrays(rng), dict(case.static))
    return found
