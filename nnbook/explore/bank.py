"""Banks: the figures of a grid of settings in a few small files, for a page with no Python behind it.

One shard holds the figures of one setting of the discrete controls. Its bytes are gzip of::

    "NNB1"  uint32 n  n bytes of JSON  arrays

The JSON has ``pool``, for each array its shape and range, and ``templates``: figures that are alike but for some leaves
are one tree whose leaf ``{"?": c}`` stands for ``columns[c][row]``; ``rows`` says which figures they are. In a tree and
in a column, ``{"$": k}`` is array ``k``; ``{"$": k, "n": n}`` its first ``n`` entries (a curve that grows over time
costs as much as its last frame); ``{"$": k, "at": i}`` its row ``i`` (what changes over time is one array). Equal
arrays are stored once.

Arrays are quantised to 65534 steps between minimum and maximum, then differenced along the first axis on which there is
a neighbour before, and the low and the high bytes stand apart: of what changes smoothly or takes few values, few bytes
differ, and gzip finds that.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

MAGIC = b"NNB1"
STEPS = 65534


def pack(figures: Iterable[dict[str, Any]]) -> bytes:
    """Encode figures (plain data whose long number lists are NumPy arrays) as the bytes of one shard.

    Raises:
        ValueError: a figure holds a number that is not finite.
    """
    pool = _Pool()
    trees = [pool.lift(figure) for figure in figures]
    entries, payload = pool.encode()
    header = {"pool": entries, "templates": _templates(trees)}
    try:
        text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    except ValueError:
        raise ValueError(_NOT_FINITE) from None
    return gzip.compress(MAGIC + len(text).to_bytes(4, "little") + text + payload, 9, mtime=0)


_NOT_FINITE = "a figure holds numbers that are not finite; clip them where the figure is made"


def unpack(data: bytes) -> list[dict[str, Any]]:
    """Decode a shard: the reference for the page's decoder.

    Raises:
        ValueError: the bytes are not a whole shard.
    """
    try:
        raw = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"the bank is damaged: {error}") from None
    if raw[:4] != MAGIC:
        raise ValueError("not a bank: it begins with other bytes")
    at = 8 + int.from_bytes(raw[4:8], "little")
    if at > len(raw):
        raise ValueError("the bank is cut short")
    header, arrays = json.loads(raw[8:at]), []
    for entry in header["pool"]:
        size = int(np.prod(entry["shape"]))
        if at + 2 * size > len(raw):
            raise ValueError("the bank is cut short")
        low, high = (np.frombuffer(raw, np.uint8, size, at + k * size).astype(np.uint16) for k in (0, 1))
        codes = _summed(low + (high << 8), entry["shape"]) if size else low
        arrays.append((entry["min"] + codes * ((entry["max"] - entry["min"]) / STEPS)).reshape(entry["shape"]))
        at += 2 * size
    figures = {}
    for template in header["templates"]:
        for row, number in enumerate(template["rows"]):
            figures[number] = _fill(template["tree"], arrays, [column[row] for column in template["columns"]])
    return [figures[number] for number in range(len(figures))]


def _fill(tree, arrays, leaves):
    if isinstance(tree, dict):
        if "?" in tree:
            return _fill(leaves[tree["?"]], arrays, leaves)
        if "$" in tree:
            array = arrays[tree["$"]]
            return array[tree["at"]] if "at" in tree else array[: tree["n"]] if "n" in tree else array
        return {key: _fill(branch, arrays, leaves) for key, branch in tree.items()}
    return [_fill(branch, arrays, leaves) for branch in tree] if isinstance(tree, list) else tree


def _differences(codes: np.ndarray) -> np.ndarray:
    """Each code minus its neighbour before on the first axis that has one, modulo 2**16."""
    out = codes.copy()
    out[1:] = codes[1:] - codes[:-1]
    if codes.ndim > 1:
        out[0] = _differences(codes[0])
    return out


def _summed(differences: np.ndarray, shape: list[int]) -> np.ndarray:
    """The inverse of :func:`_differences`, on flat arrays."""
    codes, block = differences.copy(), 1
    for length in reversed(shape):
        codes[: block * length] = np.cumsum(codes[: block * length].reshape(length, block), 0, np.uint16).ravel()
        block *= length
    return codes


def _is_leaf(tree) -> bool:
    return not isinstance(tree, (dict, list)) or not tree or (isinstance(tree, dict) and "$" in tree)


def _leaves(tree, out: list) -> list:
    if _is_leaf(tree):
        out.append(tree)
    else:
        for branch in tree.values() if isinstance(tree, dict) else tree:
            _leaves(branch, out)
    return out


def _skeleton(tree, leaves):
    """The tree with its leaves, in order, taken from an iterator."""
    if _is_leaf(tree):
        return next(leaves)
    if isinstance(tree, dict):
        return {key: _skeleton(branch, leaves) for key, branch in tree.items()}
    return [_skeleton(branch, leaves) for branch in tree]


def _templates(trees: list) -> list[dict]:
    groups: dict[str, list[int]] = {}
    for number, tree in enumerate(trees):
        blank = iter([0] * len(_leaves(tree, [])))
        groups.setdefault(json.dumps(_skeleton(tree, blank)), []).append(number)
    templates = []
    for rows in groups.values():
        columns: list[list] = []
        leaves: list = []
        for values in zip(*(_leaves(trees[number], []) for number in rows), strict=True):
            if all(type(value) is type(values[0]) and value == values[0] for value in values):
                leaves.append(values[0])
            else:
                leaves.append({"?": len(columns)})
                columns.append(list(values))
        templates.append({"rows": rows, "tree": _skeleton(trees[rows[0]], iter(leaves)), "columns": columns})
    return templates


def _grows(moments: list) -> np.ndarray | None:
    """The longest of arrays that are each the beginning of it; None if they are not."""
    if not moments or not all(isinstance(m, np.ndarray) and m.ndim == 1 for m in moments):
        return None
    longest = max(moments, key=len)
    return longest if all(np.array_equal(m, longest[: len(m)]) for m in moments) else None


class _Pool:
    """Arrays in the order in which they were first seen, each once."""

    def __init__(self):
        self.arrays: list[np.ndarray] = []
        self.rows: list[tuple[dict, dict]] = []  # a reference, and one to a row of the same array
        self.places: dict[tuple, dict] = {}  # shape and bytes -> the reference, which :meth:`encode` completes

    def lift(self, tree):
        """Replace every NumPy array in the tree by its reference, those of the frames by rows of one over time."""
        if isinstance(tree, np.ndarray):
            return self._reference(np.ascontiguousarray(tree, float))
        if isinstance(tree, dict):
            return {key: self._over_time(b) if key == "frames" else self.lift(b) for key, b in tree.items()}
        if isinstance(tree, (list, tuple)):
            return [self.lift(branch) for branch in tree]
        return tree.item() if isinstance(tree, np.generic) else tree

    def _over_time(self, moments: list) -> list:
        first = moments[0] if moments else None
        if isinstance(first, np.ndarray) and all(isinstance(m, np.ndarray) and m.shape == first.shape for m in moments):
            if first.size == 0:
                return [self.lift(m) for m in moments]
            whole = self.lift(np.stack(moments))
            self.rows += (rows := [(whole, {"$": -1, "at": i}) for i in range(len(moments))])
            return [row for _, row in rows]
        if (longest := _grows(moments)) is not None:
            whole = self.lift(longest)
            self.rows += (rows := [(whole, {"$": -1, "n": len(m)}) for m in moments])
            return [row for _, row in rows]
        if isinstance(first, dict) and all(isinstance(m, dict) and m.keys() == first.keys() for m in moments):
            columns = {key: self._over_time([m[key] for m in moments]) for key in first}
            return [{key: column[i] for key, column in columns.items()} for i in range(len(moments))]
        if isinstance(first, list) and all(isinstance(m, list) and len(m) == len(first) for m in moments):
            places = [self._over_time([m[k] for m in moments]) for k in range(len(first))]
            return [[place[i] for place in places] for i in range(len(moments))]
        return [self.lift(moment) for moment in moments]

    def _reference(self, array):
        if not np.isfinite(array).all():
            raise ValueError(_NOT_FINITE)
        key = (array.shape, array.tobytes())
        if key not in self.places:
            self.places[key] = {"$": -1}
            self.arrays.append(array)
        return self.places[key]

    def encode(self) -> tuple[list[dict], bytes]:
        """Complete the references and return the pool's entries and bytes."""
        entries: list[dict] = []
        planes = []
        for array in self.arrays:
            reference = self.places[array.shape, array.tobytes()]
            reference["$"] = len(entries)
            low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
            if not (high == low or 1e-290 < high - low < 1e300):
                raise ValueError(f"numbers from {low:g} to {high:g} cannot be told apart in {STEPS} steps")
            codes = np.round((array - low) * (STEPS / (high - low) if high > low else 0)).astype(np.uint16)
            if codes.size:
                codes = _differences(codes)
            entries.append({"shape": list(array.shape), "min": low, "max": high})
            planes += [(codes & 255).astype(np.uint8).tobytes(), (codes >> 8).astype(np.uint8).tobytes()]
        for whole, row in self.rows:
            row["$"] = whole["$"]
        return entries, b"".join(planes)
