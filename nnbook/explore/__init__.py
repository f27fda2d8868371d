"""Explorables: widgets that are alive in Jupyter and on the static page, one module a chapter.

An explorable is a pure function from parameters to a figure, with the controls that set its parameters
(:mod:`nnbook.explore.core`). In a notebook its name at the end of a cell shows it. The page about explorables says how
to add one.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

FRAMEWORK = ("bank", "canvas", "core", "figures", "jupyter", "picture")
"""The modules of this package that hold no explorables."""


def explorables() -> dict[str, Any]:
    """Every explorable of the book: name -> :class:`~nnbook.explore.core.Explorable`."""
    from nnbook.explore.core import Explorable

    modules = [m.name for m in pkgutil.iter_modules(__path__) if m.name not in FRAMEWORK]
    members = [vars(importlib.import_module(f"{__name__}.{name}")) for name in modules]
    return {e.name: e for found in members for e in found.values() if isinstance(e, Explorable)}
