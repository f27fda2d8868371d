"""nnbook: a textbook on neural networks in which every formula is executable.

Each module belongs to a chapter or to the machinery around the chapters and is imported when it is first used::

    import nnbook

    nnbook.neurons.softplus(x)

torch is needed only by ``verify``, ``references``, ``twins`` and two functions of ``training``, matplotlib only by
``plots``; they are imported when a function needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "attention",
    "backprop",
    "cnn",
    "data",
    "losses",
    "mutants",
    "neurons",
    "numpy_api",
    "optimizers",
    "plots",
    "references",
    "regularization",
    "rnn",
    "training",
    "twins",
    "verify",
]

if TYPE_CHECKING:
    from nnbook import (
        attention,
        backprop,
        cnn,
        data,
        losses,
        mutants,
        neurons,
        numpy_api,
        optimizers,
        plots,
        references,
        regularization,
        rnn,
        training,
        twins,
        verify,
    )


def __getattr__(name: str):
    if name in __all__:
        return import_module(f"nnbook.{name}")
    raise AttributeError(f"nnbook has no module {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
