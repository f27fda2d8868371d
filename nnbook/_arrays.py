"""What goes into a function of the package: one rule, stated here and kept by every public function.

An argument without an annotation is an *array of real numbers*. It may be given as an array, a list or a number, and

- integers and booleans become floats, of the dtype of the floats beside them, float64 if there are none;
- float16 is computed in float32, and the answer is rounded to float16 again;
- text, ``None``, objects, ragged lists and masked arrays raise a ``ValueError`` that names function and argument.

An annotation says that it is something else: :data:`Given` an array that stays as it is (labels, tokens, masks),
:data:`Tree` a nested dict of real arrays, ``int``, ``float``, ``bool``, ``str`` or ``Callable`` an option. Where an
option has no annotation, its default tells the kind. A float is never nan, an ``int`` never ``True``.

:func:`checked` applies the rule to a function; a primitive of the engine applies it by itself.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import operator
import os
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np

Array = np.ndarray
Real = Annotated[Any, "real"]
"""An array of real numbers, for where an annotation has to say more, as in ``Real | None``."""
Given = Annotated[Any, "given"]
"""An array whose entries keep their dtype: labels, tokens, masks."""
Tree = Annotated[Any, "tree"]
"""A float array, or a dict (of dicts ...) with string keys whose leaves are arrays."""
Branch = Annotated[Any, "branch"]
"""A :data:`Tree` that is a dict and no bare array, for networks that look for their layers by name."""
Parameters = Annotated[Any, "parameters"]
"""The same, handed on as it is: nothing is computed with it here."""
Number = Annotated[Any, "number"]
"""A number that may be infinite, but not nan."""

Size = Annotated[int, "size"]
"""An integer of 1 or more: how many units, layers, classes."""
Axes = int | tuple[int, ...] | None
"""One axis, several, or all."""

HALF, SINGLE = np.dtype(np.float16), np.dtype(np.float32)
USUAL = frozenset(map(np.dtype, (np.float64, np.float32, np.longdouble, np.complex128, np.complex64, np.clongdouble)))
"""The dtypes that need no conversion."""


class OnTape:
    """The base of the engine's traced values, which this module lets through. They have ``value`` and ``astype``."""

    __slots__ = ()
    value: Any
    astype: Callable[[Any], Any]


# ---------------------------------------------------------------------------------------------------------------------
# Arrays
# ---------------------------------------------------------------------------------------------------------------------


def numeric(where: str, x) -> Array:
    """``x`` as an array of numbers of any dtype.

    Raises:
        ValueError: there is none, with ``where`` at the head of the message.
    """
    if isinstance(x, Array):
        if isinstance(x, np.ma.MaskedArray):
            raise ValueError(f"{where} is a masked array, whose hidden entries would be computed with; fill them first")
        array = x if type(x) is Array else np.asarray(x)
    else:
        if x is None:
            raise ValueError(f"{where} is None, expected numbers")
        try:
            array = np.asarray(x)
        except Exception as problem:  # whatever an object's own conversion raises
            raise ValueError(f"{where} is no array of numbers: {problem}") from None
    if array.dtype.kind not in "biufc":
        kind = f"has dtype {array.dtype}" if isinstance(x, (Array, list, tuple)) else f"is a {type(x).__name__}"
        raise ValueError(f"{where} {kind}, expected numbers")
    return array


def as_float(where: str, x, dtype=np.float64):
    """``x`` as an array of floats: integers and booleans in ``dtype``, floats and traced values as they are."""
    if isinstance(x, OnTape):
        return x
    array = numeric(where, x)
    return array if array.dtype.kind in "fc" else array.astype(dtype)


def _find_dtypes(value, found: set) -> None:
    """Put the dtypes of an array, a traced value or a tree of them into ``found``; ``None`` stands for a number."""
    if isinstance(value, dict):
        for branch in value.values():
            _find_dtypes(branch, found)
    elif value is not None:
        found.add(getattr(value.value if isinstance(value, OnTape) else value, "dtype", None))


def _common(dtypes: set) -> np.dtype | None:
    """The dtype of the floats among several; ``None`` if there are none."""
    floats = [dtype for dtype in dtypes if dtype is not None and dtype.kind in "fc"]
    return np.result_type(*floats) if len(floats) > 1 else floats[0] if floats else None


def to_dtype(x, dtype):
    """The rule for one array, once it is known in which dtype to compute."""
    if isinstance(x, OnTape):
        return x.astype(SINGLE) if x.value.dtype == HALF else x
    if isinstance(x, (float, int)) and not isinstance(x, np.generic):
        return x  # a Python number does not promote float32
    if x.dtype.kind in "biu" or x.dtype == HALF:
        return x.astype(dtype)
    return x


def _halved(result):
    """A result of single precision as float16, through tuples and dicts."""
    if isinstance(result, dict):
        return {key: _halved(value) for key, value in result.items()}
    if type(result) in (tuple, list):
        return type(result)(map(_halved, result))
    if isinstance(result, OnTape):
        return result.astype(HALF) if result.value.dtype == SINGLE else result
    if isinstance(result, (Array, np.generic)) and result.dtype == SINGLE:
        with np.errstate(over="ignore"):  # what is larger than 65504 is infinite there
            return result.astype(HALF)
    return result


def _tree(where: str, tree, path: tuple = ()):
    """Check a tree of real arrays; lists at its leaves become arrays."""
    if isinstance(tree, dict):
        return {key: _tree(where, branch, (*path, key)) for key, branch in tree.items()}
    if type(tree) is Array and tree.dtype in USUAL:
        return tree
    if (
        tree is None
        or isinstance(tree, OnTape)
        or (isinstance(tree, (float, int)) and not isinstance(tree, np.generic))
    ):
        return tree
    return numeric(where + "".join(f"[{key!r}]" for key in path), tree)


def _parameters(where: str, tree):
    if tree is None or isinstance(tree, (str, bytes, list, tuple)):
        raise ValueError(f"{where} must be a dict of arrays, not {_shown(tree)}")
    _tree(where, tree)
    return tree


def _map_leaves(f, tree):
    return {key: _map_leaves(f, branch) for key, branch in tree.items()} if isinstance(tree, dict) else f(tree)


# ---------------------------------------------------------------------------------------------------------------------
# Options
# ---------------------------------------------------------------------------------------------------------------------

Converter = Callable[[str, Any], Any]


def _flag(where, x):
    if isinstance(x, (bool, np.bool_)):
        return bool(x)
    raise ValueError(f"{where} must be True or False, not {_shown(x)}")


def _integer(where, x):
    if type(x) is int:
        return x
    if not isinstance(x, (bool, np.bool_)):
        try:
            return operator.index(x)
        except TypeError:
            pass
    raise ValueError(f"{where} must be an integer, not {_shown(x)}")


def _size(where, x):
    if (size := _integer(where, x)) < 1:
        raise ValueError(f"{where} must be 1 or more, not {size}")
    return size


def _given(where, x):
    return x if isinstance(x, OnTape) else numeric(where, x)


def _number(where, x):
    if type(x) is float and x == x:
        return x
    x = x.item() if isinstance(x, (Array, np.generic)) and np.ndim(x) == 0 else x  # which would promote float32
    if not isinstance(x, (int, float)) or isinstance(x, bool):
        raise ValueError(f"{where} must be a number, not {_shown(x)}")
    if x != x:
        raise ValueError(f"{where} must be a number, not nan")
    return x


def _text(where, x):
    if isinstance(x, str):
        return x
    raise ValueError(f"{where} must be text, not {_shown(x)}")


def _callable(where, x):
    if callable(x):
        return x
    raise ValueError(f"{where} must be a function, not {_shown(x)}")


def _generator(where, x):
    if isinstance(x, np.random.Generator):
        return x
    raise ValueError(f"{where} must be a numpy.random.Generator, not {_shown(x)}")


def _dtype(where, x):
    try:
        dtype = np.dtype(x)
    except TypeError:
        dtype = None
    if x is None or dtype is None or dtype.kind != "f":
        raise ValueError(f"{where} must be a dtype of floats, not {_shown(x) if x is None or dtype is None else dtype}")
    return x


def _iterable(where, x):
    if isinstance(x, collections.abc.Iterable) and not isinstance(x, str) and getattr(x, "ndim", 1) > 0:
        return x
    raise ValueError(f"{where} must be a sequence, not {_shown(x)}")


def _path(where, x):
    if isinstance(x, os.PathLike):
        return x
    raise ValueError(f"{where} must be a path, not {_shown(x)}")


def _dict(where, x):
    if isinstance(x, dict):
        return x
    raise ValueError(f"{where} must be a dict, not {_shown(x)}")


def _sequence(where, x, each: Converter | tuple[Converter | None, ...] | None, length: int | None = None):
    if isinstance(x, (str, bytes, dict)) or not isinstance(x, collections.abc.Iterable):
        raise ValueError(f"{where} must be a sequence, not {_shown(x)}")
    if isinstance(x, Array) and x.ndim == 0:
        raise ValueError(f"{where} must be a sequence, not {_shown(x)}")
    items = list(x)
    if length is not None and len(items) != length:
        raise ValueError(f"{where} must have {length} entries, not {len(items)}")
    converters = each if isinstance(each, tuple) else (each,) * len(items)
    pairs = zip(items, converters, strict=True)
    return tuple(x if f is None else f(f"{where}[{i}]", x) for i, (x, f) in enumerate(pairs))


def _shown(x) -> str:
    text = repr(x) if isinstance(x, (str, int, float, bool, tuple, list, type(None))) else type(x).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def _either(where, x, branches: tuple[Converter, ...]):
    problems = []
    for branch in branches:
        try:
            return branch(where, x)
        except ValueError as problem:
            problems.append(str(problem))
    expected = " or ".join(dict.fromkeys(p.removeprefix(f"{where} must be ").split(", not ")[0] for p in problems))
    raise ValueError(f"{where} must be {expected}, not {_shown(x)}")


def _nothing(where, x):
    if x is None:
        return
    raise ValueError(f"{where} must be None, not {_shown(x)}")


def _one_of(where, x, allowed):
    if isinstance(x, str) and x in allowed:
        return x
    raise ValueError(f"{where} must be {' or '.join(map(repr, allowed))}, not {_shown(x)}")


_BY_TYPE: dict[Any, Converter] = {
    bool: _flag,
    int: _integer,
    float: _number,
    str: _text,
    type(None): _nothing,
    np.random.Generator: _generator,
    dict: _dict,
    os.PathLike: _path,
    Array: numeric,
}


def converter(annotation) -> Converter | None:
    """The check that an annotation stands for; ``None`` where nothing can be checked."""
    if isinstance(annotation, type) and annotation in _BY_TYPE:
        return _BY_TYPE[annotation]
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return {"given": _given, "number": _number, "parameters": _parameters, "size": _size}.get(parts[1])
    if origin in (typing.Union, types.UnionType):
        branches = [converter(part) for part in parts]
        known = tuple(branch for branch in branches if branch is not None)
        return functools.partial(_either, branches=known) if len(known) == len(branches) else None
    if origin is typing.Literal:
        return functools.partial(_one_of, allowed=parts)
    if origin is collections.abc.Callable or annotation is collections.abc.Callable:
        return _callable
    if origin is dict:
        return _dict
    if origin is tuple and parts and parts[-1] is not Ellipsis:
        return functools.partial(_sequence, each=tuple(map(converter, parts)), length=len(parts))
    if origin is collections.abc.Iterable:
        return _iterable
    if origin in (tuple, list, collections.abc.Sequence) or annotation in (tuple, collections.abc.Sequence):
        return functools.partial(_sequence, each=converter(parts[0]) if parts else None)
    return None


def converter_of_default(default) -> Converter | None:
    """The same for an option without an annotation, whose default shows the kind."""
    if isinstance(default, (bool, float, str)):
        return _BY_TYPE[type(default)]
    if isinstance(default, int):
        return functools.partial(_either, branches=(_integer, functools.partial(_sequence, each=_integer)))
    if isinstance(default, type) and issubclass(default, np.generic):
        return _dtype
    return None


# ---------------------------------------------------------------------------------------------------------------------
# A function's arguments
# ---------------------------------------------------------------------------------------------------------------------

REAL, TREE, OPTION = "real", "tree", "option"


class Argument(typing.NamedTuple):
    """What the signature says about one argument."""

    kind: str  # REAL, TREE or OPTION
    optional: bool  # None is allowed
    convert: Converter | None  # of an option; of a tree, what checks its form


def arguments(function: Callable) -> dict[str, Argument]:
    """What the signature of ``function`` says about each of its arguments, by name."""
    return {p.name: _argument(p, function) for p in inspect.signature(function).parameters.values()}


def _argument(p: inspect.Parameter, function: Callable) -> Argument:
    optional = p.default is None
    if p.annotation is inspect.Parameter.empty:
        positional = p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)
        if positional and (p.default is p.empty or optional):
            return Argument(REAL, optional, None)
        return Argument(OPTION, optional, converter_of_default(p.default))
    annotation = p.annotation
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, inspect.unwrap(function).__globals__)
        except NameError:  # known to the type checker only
            return Argument(OPTION, optional, None)
    parts = typing.get_args(annotation) if annotation not in (Real, Tree, Branch) else ()
    for alias, kind, convert in ((Real, REAL, None), (Tree, TREE, _parameters), (Branch, TREE, _dict)):
        if annotation is alias or alias in parts:
            return Argument(kind, optional or type(None) in parts, convert)
    return Argument(OPTION, optional, converter(annotation))


def checked(function: Callable) -> Callable:
    """Apply the rule of this module to every call of ``function``, whose arguments keep their names and places.

    Raises:
        ValueError: from the decorated function, for an argument that is not what its annotation says, and for a name
            that a tree of parameters lacks.
    """
    known = arguments(function)
    names = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    rest = next((p.name for p in inspect.signature(function).parameters.values() if p.kind is p.VAR_POSITIONAL), "")
    name = function.__name__
    checks = {key: _check(f"{name}: {key}", argument) for key, argument in known.items()}
    computes = {key for key, argument in known.items() if argument.kind != OPTION}
    with_trees = any(argument.kind == TREE for argument in known.values())

    @functools.wraps(function)
    def with_options(*args, **kwargs):
        places = names if len(args) <= len(names) else [*names, *[rest] * (len(args) - len(names))]
        values = [check(x) if (check := checks.get(key)) else x for key, x in zip(places, args, strict=False)]
        for key, x in kwargs.items():
            if check := checks.get(key):
                kwargs[key] = check(x)
        return function(*values, **kwargs)

    @functools.wraps(function)
    def with_arrays(*args, **kwargs):
        places = [*names[: len(args)], *[rest] * (len(args) - len(names))]
        given = [*zip(places, args, strict=True), *kwargs.items()]
        values: list[Any] = []
        voting: set = set()
        following: set = set()
        for place, x in given:
            value = check(x) if (check := checks.get(place)) else x
            values.append(value)
            if place in computes:
                _find_dtypes(value, voting if isinstance(x, VOTERS) else following)
        dtype = _common(voting)
        if following or not voting <= USUAL:
            compute = np.dtype(np.float64) if dtype is None else SINGLE if dtype == HALF else dtype
            values = [
                _second(known[place], value, compute) if place in computes else value
                for (place, _), value in zip(given, values, strict=True)
            ]
        try:
            result = function(*values[: len(args)], **dict(zip(kwargs, values[len(args) :], strict=True)))
        except KeyError as missing:
            if not with_trees:
                raise
            raise ValueError(f"{name}: the parameters have no entry {missing}") from missing
        return _halved(result) if dtype == HALF else result

    return with_arrays if computes else with_options


VOTERS = (Array, np.generic, OnTape, dict)
"""Whose dtype decides in which one to compute; lists and numbers follow."""


def _second(argument: Argument, value, dtype):
    """Now that the dtype is known in which to compute, bring reals and trees to it."""
    if value is None:
        return value
    if argument.kind == TREE:
        return _map_leaves(lambda leaf: leaf if leaf is None else to_dtype(leaf, dtype), value)
    return np.asarray(value, dtype) if isinstance(value, (int, float)) else to_dtype(value, dtype)


def _check(where: str, argument: Argument) -> Callable[[Any], Any] | None:
    """What can be said of an argument by itself: is it numbers, is it the right kind of option?"""
    convert = argument.convert
    optional = argument.optional
    if argument.kind == REAL:

        def check(value):
            usual = isinstance(value, OnTape) or type(value) in (int, float) or (value is None and optional)
            return value if usual else numeric(where, value)

    elif argument.kind == TREE:

        def check(value):
            return None if value is None and optional else _tree(where, convert(where, value) if convert else value)

    elif convert is not None:

        def check(value):
            return None if value is None and optional else convert(where, value)

    else:
        return None
    return check
