"""The one rule for what goes into a function (nnbook/_arrays.py), tried on every public function of MODULES."""

from __future__ import annotations

import inspect
import re
import warnings

import numpy as np
import pytest
from public_calls import MODULES, calls_of, public_functions

from nnbook.backprop import Primitive

FUNCTIONS = [(module, name) for module in MODULES for name in public_functions(module)]
KNOWN = {module: calls_of(module) for module in MODULES}
TRIED = [(module, name) for module, name in FUNCTIONS if name in KNOWN[module]]

BAD = {
    "None": None,
    "a number": 0.5,
    "a large number": 10**3,
    "a negative number": -1,
    "text": "text",
    "an empty list": [],
    "a ragged list": [[1.0], [1.0, 2.0]],
    "a list of text": ["a", "b"],
    "a short list": [1.0],
    "a dict": {"a": 1.0},
    "an object": object(),
    "a function": lambda *args, **keywords: None,
    "an empty array": np.zeros((0,)),
    "an array of objects": np.array([None, "a"], dtype=object),
    "an array of text": np.array(["a", "b"]),
    "a 0-d array": np.array(0.5),
}
HOW_MUCH = re.compile("length|steps|size|layers|blocks|channels|hidden|classes|out|reduce|padding|stride|dilation")
"""Names of options that say how much to make; a million is a valid wish there, which takes minutes or all memory."""
NOT_NUMBERS = {"nan": float("nan"), "minus infinity": float("-inf")}


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path, monkeypatch):
    """Text in the place of a path is a path, so what is written there is written in a directory of its own."""
    monkeypatch.chdir(tmp_path)


def ids(pair):
    return ".".join(pair)


def function_of(module, name):
    return public_functions(module)[name]


def fresh(module, name):
    """The valid call, and its generator of random numbers in a state that is always the same."""
    args, keywords = KNOWN[module][name](np.random.default_rng(0))
    return list(args), dict(keywords)


def run(module, name, args, keywords):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = function_of(module, name)(*args, **keywords)
        return list(result) if inspect.isgenerator(result) else result


def places(args, keywords):
    return [*range(len(args)), *keywords]


def replaced(args, keywords, place, value):
    args, keywords = list(args), dict(keywords)
    (args if isinstance(place, int) else keywords)[place] = value
    return args, keywords


def at(args, keywords, place):
    return args[place] if isinstance(place, int) else keywords[place]


def test_every_public_function_has_a_call():
    """And the table of calls has no name that is gone."""
    missing = [ids(pair) for pair in FUNCTIONS if pair not in TRIED]
    assert not missing, f"{len(missing)} functions have no entry in tests/public_calls: {', '.join(missing)}"
    gone = [f"{module}.{name}" for module in MODULES for name in KNOWN[module].keys() - public_functions(module).keys()]
    assert not gone


@pytest.mark.parametrize("pair", TRIED, ids=ids)
def test_the_calls_are_valid(pair):
    run(*pair, *fresh(*pair))


@pytest.mark.parametrize("pair", TRIED, ids=ids)
def test_bad_arguments_raise_a_value_error_or_work(pair, record_property):
    """Lists, numbers and the like may be valid in a place. What is not must say so by a ValueError with words in it."""
    module, name = pair
    args, keywords = fresh(module, name)
    function = function_of(module, name)
    options = {
        p.name: p.default
        for p in inspect.signature(function).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.default is not p.empty
    }
    wrong, count = [], 0
    for place in [*places(args, keywords), *(o for o in options if o not in keywords)]:
        named = place if isinstance(place, str) else ([*inspect.signature(function).parameters] + ["rest"] * 9)[place]
        for what, bad in BAD.items():
            if what == "a large number" and HOW_MUCH.search(named):
                bad = 100
            args, keywords = fresh(module, name)
            args, keywords = replaced(args, keywords, place, bad)
            count += 1
            try:
                run(module, name, args, keywords)
            except ValueError as problem:
                if not re.search("[a-z]{3}", str(problem)):
                    wrong.append(f"{what} as {place}: the message is {str(problem)!r}")
            except FileNotFoundError:
                continue
            except BaseException as problem:
                wrong.append(f"{what} as {place}: {type(problem).__name__}: {problem}")
    record_property("tried: bad arguments", count)
    assert not wrong, f"{len(wrong)} of {count}\n" + "\n".join(wrong)


@pytest.mark.parametrize("pair", TRIED, ids=ids)
def test_options_are_never_nan(pair, record_property):
    module, name = pair
    args, keywords = fresh(module, name)
    function = function_of(module, name)
    numbers = {
        p.name
        for p in inspect.signature(function).parameters.values()
        if isinstance(p.default, float) or "float" in str(p.annotation)
    }
    numbers |= {key for key, value in keywords.items() if isinstance(value, float)}
    wrong = []
    for option in sorted(numbers & inspect.signature(function).parameters.keys()):
        position = list(inspect.signature(function).parameters).index(option)
        place = position if position < len(args) else option
        try:
            run(module, name, *replaced(*fresh(module, name), place, float("nan")))
        except ValueError:
            continue
        except Exception as problem:
            wrong.append(f"{option}: {type(problem).__name__}: {problem}")
        else:
            wrong.append(f"{option}: nan is taken without a word")
    record_property("tried: options that are nan", len(numbers & inspect.signature(function).parameters.keys()))
    assert not wrong, "\n".join(wrong)


# Integers and half precision


def map_arrays(f, value):
    if isinstance(value, dict):
        return {key: map_arrays(f, inner) for key, inner in value.items()}
    if type(value) in (tuple, list):
        return type(value)(map_arrays(f, inner) for inner in value)
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return f(value)
    return value


def floats_in(value) -> list[np.ndarray]:
    found: list[np.ndarray] = []

    def look(x):
        if isinstance(x, dict):
            for inner in x.values():
                look(inner)
        elif isinstance(x, (tuple, list)):
            for inner in x:
                look(inner)
        elif isinstance(x, (np.ndarray, np.generic, float)):
            found.append(np.asarray(x))
        elif hasattr(x, "__dataclass_fields__"):
            for field in x.__dataclass_fields__:
                look(getattr(x, field))

    look(value)
    return found


WITH_FLOATS = [pair for pair in TRIED if floats_in(map_arrays(lambda a: a, fresh(*pair)))]


def same(ours, theirs, tolerance):
    ours, theirs = floats_in(ours), floats_in(theirs)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        if b.dtype.kind not in "fc":
            continue
        finite = np.isfinite(b)
        scale = np.max(np.abs(b[finite]), initial=1.0)
        assert np.array_equal(np.isfinite(a), finite) or np.abs(b[finite]).max() > 6e4
        np.testing.assert_allclose(a[finite], b[finite], rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("dtype", ["int64", "int8"])
@pytest.mark.parametrize("pair", WITH_FLOATS, ids=ids)
def test_integers_are_the_floats_of_the_same_value(pair, dtype, record_property):
    """An integer array in the place of a real one: the answer of the same numbers as floats, or an error in words."""
    record_property(f"tried: {dtype} for floats", 1)

    def whole(a):
        return np.clip(np.round(3 * a), -100, 100)

    floats = [map_arrays(whole, part) for part in fresh(*pair)]
    integers = [map_arrays(lambda a: whole(a).astype(dtype), part) for part in fresh(*pair)]
    try:
        expected = run(*pair, *floats)
    except ValueError:
        with pytest.raises(ValueError, match=r"[a-z]{3}"):
            run(*pair, *integers)
        return
    refused = ""
    try:
        found = run(*pair, *integers)
    except ValueError as problem:
        refused = str(problem)
    if refused:
        assert re.search("integer|float|dtype", refused), refused  # the message says why
    else:
        same(found, expected, 1e-12)


@pytest.mark.parametrize("pair", WITH_FLOATS, ids=ids)
def test_float16_is_computed_in_float32(pair, record_property):
    """The answer in float16 is the one that float32 gives for the same numbers, rounded."""
    record_property("tried: float16 for floats", 1)
    half = [map_arrays(lambda a: a.astype(np.float16), part) for part in fresh(*pair)]
    single = [map_arrays(lambda a: a.astype(np.float16).astype(np.float32), part) for part in fresh(*pair)]
    try:
        expected = run(*pair, *single)
    except ValueError:
        with pytest.raises(ValueError, match=r"[a-z]{3}"):
            run(*pair, *half)
        return
    found = run(*pair, *half)
    same(found, expected, 2e-3)
    function = function_of(*pair)
    if isinstance(function, Primitive) and function.__name__ != "astype":
        assert all(a.dtype == np.float16 for a in floats_in(found))
