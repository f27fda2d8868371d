"""The data of the book: handwritten digits, synthetic sets, one natural time series and one text.

Three sizes of digits: :func:`digits` (1,797 images of 8x8, runs in seconds), :func:`mnist_subset` (12,000 images that
come with the package) and :func:`mnist` (70,000 images, downloaded once or read from a directory of yours). Images are
float32 in [0, 1], one row per image, labels are int64. Everything that is drawn by chance takes ``rng``, a
``numpy.random.Generator``::

    import numpy as np
    from nnbook import data

    x, y = data.digits()
    train, validation, test = data.split(x, y, fractions=(0.6, 0.2, 0.2), rng=np.random.default_rng(0))
"""

from __future__ import annotations

import datetime
import gzip
import hashlib
import io
import itertools
import math
import os
import zipfile
import zlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from nnbook._arrays import Array, checked

Rng = np.random.Generator

# ---------------------------------------------------------------------------------------------------------------------
# Images of digits
# ---------------------------------------------------------------------------------------------------------------------


def digits() -> tuple[Array, Array]:
    """Handwritten digits of 8x8 pixels :cite:`alpaydin1998`, from scikit-learn :cite:`pedregosa2011`.

    Returns:
        ``x`` (1797, 64) float32 in [0, 1], an image is ``x[i].reshape(8, 8)``; ``y`` (1797,) int64 in 0 to 9.
    """
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return (x / 16).astype(np.float32), y.astype(np.int64)


SUBSET_SHA256 = "409f6a9edb86b8458dab2cc7830629696c10197401a19966b9c140e4a26d78fd"
"""Of the bytes of the four arrays behind :func:`mnist_subset`: training images and labels, test images and labels."""


def mnist_subset() -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """10,000 training and 2,000 test images of MNIST :cite:`lecun1998`, which come with the package.

    They were drawn from MNIST's own training and test set with the classes in proportion, once and for all, by
    ``tools/make_mnist_subset.py``. MNIST is the work of Y. LeCun, C. Cortes and C. Burges, under the licence Creative
    Commons Attribution-Share Alike 3.0, and so is this part of it.

    Returns:
        ``(x, y), (x_test, y_test)``: (10000, 784) float32 in [0, 1] and (10000,) int64 in 0 to 9; (2000, 784) and
        (2000,). For a CNN: ``x.reshape(-1, 1, 28, 28)``.

    Raises:
        OSError: the file is missing or damaged.
    """
    advice = "install nnbook again (or check out nnbook/_data again)"
    try:
        packed = np.load(io.BytesIO((_embedded() / "mnist_subset.npz").read_bytes()))
        arrays = [packed[name] for name in ("x_train", "y_train", "x_test", "y_test")]
    except FileNotFoundError:
        raise FileNotFoundError(f"mnist_subset.npz is missing from the package; {advice}") from None
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise OSError(f"mnist_subset.npz is damaged ({error}); {advice}") from None
    if _sha256(*(array.tobytes() for array in arrays)) != SUBSET_SHA256:
        raise OSError(f"mnist_subset.npz holds other data than it should; {advice}")
    x, y, x_test, y_test = arrays
    return (_scaled(x), y.astype(np.int64)), (_scaled(x_test), y_test.astype(np.int64))


MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
"""Where :func:`mnist` looks, in this order, for the four files compressed by gzip."""

MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""SHA-256 of the four files after decompression, so that any way of compressing them will do."""


def mnist() -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """All of MNIST :cite:`lecun1998`: 60,000 training and 10,000 test images of handwritten digits.

    The four files are downloaded once (11 MB, by pooch) into the user's cache directory. On a machine without a network
    put them into a directory, plain or with ``.gz``, and let the environment variable ``NNBOOK_DATA`` name it; then
    nothing is downloaded. Either way their contents are checked against :data:`MNIST_SHA256`.

    Returns:
        ``(x, y), (x_test, y_test)``: (60000, 784) float32 in [0, 1] and (60000,) int64 in 0 to 9; (10000, 784) and
        (10000,). For a CNN: ``x.reshape(-1, 1, 28, 28)``.

    Raises:
        OSError: a file is missing, damaged or cannot be downloaded; the message says what to do.
    """
    directory = os.environ.get("NNBOOK_DATA")
    contents = [_local(Path(directory), name) if directory else _downloaded(name) for name in MNIST_SHA256]
    x, y, x_test, y_test = (_idx(name, content) for name, content in zip(MNIST_SHA256, contents, strict=True))
    return (_scaled(x), y.astype(np.int64)), (_scaled(x_test), y_test.astype(np.int64))


def _local(directory: Path, name: str) -> bytes:
    """The contents of one file below ``NNBOOK_DATA``; also found in the subdirectories that torchvision makes."""
    advice = f"The environment variable NNBOOK_DATA names {directory}; put {name} or {name}.gz there, or unset it."
    for place in (directory, directory / "mnist", directory / "MNIST" / "raw"):
        for path in (place / name, place / f"{name}.gz"):
            if path.is_file():
                try:
                    content = _decompressed(path.read_bytes())
                except ValueError as error:
                    raise OSError(f"{path} is damaged: {error}. {advice}") from None
                if _sha256(content) != MNIST_SHA256[name]:
                    raise OSError(f"{path} is damaged: its SHA-256 is not that of MNIST's {name}. {advice}")
                return content
    raise FileNotFoundError(f"{name} was not found. {advice}")


def _downloaded(name: str) -> bytes:
    """The contents of one file from the cache, which is filled from the first mirror that gives the right bytes."""
    import pooch
    import requests

    def fetch(url, output, _):
        """Decompress before pooch checks the hash and moves the file to its place, so neither can be half done."""
        received = io.BytesIO()
        pooch.HTTPDownloader()(url, received, None)
        Path(output).write_bytes(_decompressed(received.getvalue()))

    failures = []
    for mirror in MIRRORS:
        url = f"{mirror}{name}.gz"
        try:
            path = pooch.retrieve(url, f"sha256:{MNIST_SHA256[name]}", name, cache_directory(), downloader=fetch)
            return Path(path).read_bytes()
        except (ValueError, OSError, requests.RequestException) as error:
            failures.append(f"  {url}: {error}")
    raise OSError(
        f"{name} could not be downloaded:\n"
        + "\n".join(failures)
        + "\nTry again later; or put the four files of MNIST "
        "into a directory and let the environment variable NNBOOK_DATA name it; or use mnist_subset(), which needs no "
        "download."
    )


def cache_directory() -> Path:
    """Where :func:`mnist` keeps what it downloaded."""
    import pooch

    return Path(pooch.os_cache("nnbook")) / "mnist"


def _decompressed(content: bytes) -> bytes:
    """Undo gzip if it was applied (a server may have undone it already).

    Raises:
        ValueError: the compressed data is damaged or ends too early.
    """
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"not a whole gzip file ({error})") from None


def _idx(name: str, content: bytes) -> Array:
    """The array in a file of MNIST's format: two zeros, type 8 (uint8), number of axes, sizes (big-endian), entries."""
    axes = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    sizes = np.frombuffer(content, ">u4", axes, offset=4).tolist() if len(content) >= 4 + 4 * axes else []
    if not sizes or math.prod(sizes) != len(content) - 4 - 4 * axes:
        raise OSError(f"{name} is not an IDX file of bytes: {len(content)} bytes, sizes {sizes}")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(sizes)


def _scaled(images: Array) -> Array:
    return np.divide(images.reshape(len(images), -1), 255, dtype=np.float32)


def _sha256(*contents: bytes) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


def _embedded():
    return resources.files("nnbook") / "_data"


# ---------------------------------------------------------------------------------------------------------------------
# Splitting
# ---------------------------------------------------------------------------------------------------------------------


@checked
def split(
    x: Array, y: Array, *, rng: Rng, fractions: Sequence[float] = (0.6, 0.2, 0.2), stratify: bool = True
) -> list[tuple[Array, Array]]:
    """Deal the examples out into parts at random: training, validation and test set, for example.

    No example lands in two parts, none is lost. With ``stratify`` every part has the classes in the proportions of the
    whole, up to less than two examples of a class.

    Args:
        x: ``(N, ...)`` inputs.
        y: ``(N, ...)`` targets; ``(N,)`` integers to stratify by.
        rng: source of chance.
        fractions: size of each part; they add up to 1.
        stratify: keep the proportions of the classes.

    Returns:
        One ``(x, y)`` for every fraction.

    Raises:
        ValueError: ``x`` and ``y`` differ in length; fractions that are not positive or do not add up to 1; a part or
            (with ``stratify``) a class too small to be dealt out; targets that are not classes.
    """
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise ValueError(f"x and y must have the same length; their shapes are {x.shape} and {y.shape}")
    if stratify and (y.ndim != 1 or y.dtype.kind not in "biu"):
        raise ValueError(f"to stratify, y must be (N,) integers, not {y.dtype} of shape {y.shape}; else stratify=False")
    parts = split_indices(len(x), fractions=fractions, rng=rng, classes=y if stratify else None)
    return [(x[part], y[part]) for part in parts]


@checked
def split_indices(
    count: int, *, rng: Rng, fractions: Sequence[float] = (0.6, 0.2, 0.2), classes: Array | None = None
) -> list[Array]:
    """The indices behind :func:`split`: 0 to ``count - 1`` dealt out at random, stratified by ``classes`` if given.

    Args:
        count: number of examples, N.
        rng: source of chance.
        fractions: size of each part; they add up to 1.
        classes: ``(N,)`` integers.

    Returns:
        One int64 array for every fraction, in random order.

    Raises:
        ValueError: as :func:`split`.
    """
    _check_fractions(fractions)
    labels = np.zeros(count, int) if classes is None else np.asarray(classes)
    if labels.shape != (count,):
        raise ValueError(f"classes have shape {labels.shape}, expected {(count,)}")
    names, sizes = np.unique(labels, return_counts=True)
    if count == 0 or sizes.min() < len(fractions):
        raise ValueError(f"{len(fractions)} parts need as many examples of each class; there are {sizes.tolist()}")
    members = [rng.permutation(np.flatnonzero(labels == name)) for name in names]
    parts = []
    for k, fraction in enumerate(fractions):
        left = np.array([len(indices) for indices in members])
        # Of what is left, this part's share of each class, rounded so that the part has the right size as a whole.
        share = left * min(1.0, fraction / math.fsum(fractions[k:]))
        take = np.floor(share + 1e-9).astype(int)
        missing = round(float(share.sum())) - take.sum()
        take[np.argsort(take - share, kind="stable")[: max(missing, 0)]] += 1
        if take.sum() == 0:
            raise ValueError(f"{count} examples are too few for the fractions {tuple(fractions)}: part {k} is empty")
        parts.append(rng.permutation(np.concatenate([m[:t] for m, t in zip(members, take, strict=True)])))
        members = [m[t:] for m, t in zip(members, take, strict=True)]
    return parts


def _check_fractions(fractions: Sequence[float]) -> None:
    if len(fractions) == 0 or min(fractions) <= 0 or not math.isclose(sum(fractions), 1, abs_tol=1e-9):
        raise ValueError(f"fractions must be positive and add up to 1, not {tuple(fractions)}")


# ---------------------------------------------------------------------------------------------------------------------
# Points in the plane, with classes
# ---------------------------------------------------------------------------------------------------------------------


@checked
def moons(n: int, *, rng: Rng, noise: float = 0.1) -> tuple[Array, Array]:
    """Two interleaved half circles of radius 1, around (0, 0) and (1, 1/2).

    Args:
        n: number of points, as equal in the two classes as can be.
        rng: source of chance.
        noise: standard deviation of the normal noise on both coordinates.

    Returns:
        ``x`` (n, 2) float32, ``y`` (n,) int64 in {0, 1}, in random order.

    Raises:
        ValueError: n below 1, negative noise.
    """
    y = _classes(n, 2, rng)
    angle = np.pi * rng.random(n)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return _noisy(np.where(y[:, None] == 0, upper, [1.0, 0.5] - upper), noise, rng), y


@checked
def circles(n: int, *, rng: Rng, noise: float = 0.05, ratio: float = 0.5) -> tuple[Array, Array]:
    """Two circles around the origin: class 0 of radius 1, class 1 of radius ``ratio``.

    Args:
        n: number of points, as equal in the two classes as can be.
        rng: source of chance.
        noise: standard deviation of the normal noise on both coordinates.
        ratio: radius of the inner circle, between 0 and 1.

    Returns:
        ``x`` (n, 2) float32, ``y`` (n,) int64 in {0, 1}, in random order.

    Raises:
        ValueError: n below 1, negative noise, ratio not between 0 and 1.
    """
    if not 0 < ratio < 1:
        raise ValueError(f"ratio must be between 0 and 1, not {ratio}")
    y = _classes(n, 2, rng)
    return _noisy(_polar(np.where(y == 0, 1.0, ratio), 2 * np.pi * rng.random(n)), noise, rng), y


@checked
def spirals(n: int, *, rng: Rng, classes: int = 2, turns: float = 1.0, noise: float = 0.02) -> tuple[Array, Array]:
    """Intertwined spirals from the origin to the unit circle; the more turns, the harder.

    Args:
        n: number of points, as equal in the classes as can be.
        rng: source of chance.
        classes: number of arms, K.
        turns: how often an arm winds around the origin.
        noise: standard deviation of the normal noise on both coordinates.

    Returns:
        ``x`` (n, 2) float32, ``y`` (n,) int64 in 0 to K - 1, in random order.

    Raises:
        ValueError: n or classes below 1, negative noise, turns not positive.
    """
    if turns <= 0:
        raise ValueError(f"turns must be positive, not {turns}")
    y = _classes(n, classes, rng)
    radius = np.sqrt(rng.random(n))  # as many points per length of the arm far out as near the origin
    return _noisy(_polar(radius, 2 * np.pi * (turns * radius + y / classes)), noise, rng), y


@checked
def xor(n: int = 4, *, rng: Rng, noise: float = 0.0) -> tuple[Array, Array]:
    """Exclusive or: points around the corners of the unit square, class 1 where exactly one coordinate is 1.

    No line separates the classes :cite:`minsky1969`. ``n=4`` without noise gives the four corners.

    Args:
        n: number of points, as equal at the four corners as can be.
        rng: source of chance.
        noise: standard deviation of the normal noise on both coordinates.

    Returns:
        ``x`` (n, 2) float32, ``y`` (n,) int64 in {0, 1}, in random order.

    Raises:
        ValueError: n below 1, negative noise.
    """
    corner = _classes(n, 4, rng)
    x = np.stack([corner // 2, corner % 2], axis=1)
    return _noisy(x, noise, rng), x[:, 0] ^ x[:, 1]


def _classes(n: int, classes: int, rng: Rng) -> Array:
    """``(n,)`` int64, every class as often as the others, up to one, in random order."""
    if n < 1 or classes < 1:
        raise ValueError(f"n and the number of classes must be at least 1, not {n} and {classes}")
    return rng.permutation(np.arange(n, dtype=np.int64) % classes)


def _polar(radius: Array, angle: Array) -> Array:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _noisy(x: Array, noise: float, rng: Rng) -> Array:
    if not noise >= 0:  # nan is refused too
        raise ValueError(f"noise is a standard deviation, so not negative: {noise}")
    return (x + noise * rng.standard_normal(x.shape)).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------------------
# Curves and time series
# ---------------------------------------------------------------------------------------------------------------------


@checked
def sine(n: int, *, rng: Rng, noise: float = 0.1) -> tuple[Array, Array]:
    """One period of a sine, ``y = sin(x) + noise``, at uniformly drawn places.

    Args:
        n: number of points.
        rng: source of chance.
        noise: standard deviation of the normal noise on ``y``.

    Returns:
        ``x`` (n, 1) float32 in [-pi, pi], ``y`` (n, 1) float32.

    Raises:
        ValueError: n below 1, negative noise.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    x = rng.uniform(-np.pi, np.pi, (n, 1)).astype(np.float32)
    return x, _noisy(np.sin(x), noise, rng)


@checked
def mackey_glass(
    n: int,
    *,
    rng: Rng,
    tau: float = 17.0,
    beta: float = 0.2,
    gamma: float = 0.1,
    exponent: float = 10.0,
    start: float | None = None,
    discard: int = 250,
    steps: int = 10,
) -> Array:
    """The delay equation of Mackey and Glass :cite:`mackey1977`, chaotic for ``tau`` above about 16.8.

    ``dx/dt = beta x(t - tau) / (1 + x(t - tau)^exponent) - gamma x(t)``, integrated by the classical Runge-Kutta method
    and sampled at every unit of time. Halfway between its steps the delayed value is the mean of its neighbours, which
    leaves an error of order ``steps**-2``, relative to the value below 1e-4 in the first four delays.

    Args:
        n: number of samples.
        rng: source of chance.
        tau: delay; a multiple of ``1 / steps``.
        beta, gamma, exponent: coefficients of the equation.
        start: constant value of x up to time 0; drawn uniformly from [0.5, 1.5] if not given.
        discard: samples thrown away at the beginning.
        steps: steps of integration per unit of time.

    Returns:
        ``(n,)`` float32.

    Raises:
        ValueError: n or steps below 1, discard negative, tau not a positive multiple of ``1 / steps``.
    """
    delay = round(tau * steps)
    if n < 1 or steps < 1 or discard < 0:
        raise ValueError(f"need n >= 1, steps >= 1, discard >= 0, not {n}, {steps}, {discard}")
    if delay < 1 or not math.isclose(delay, tau * steps):
        raise ValueError(f"tau must be a positive multiple of 1/{steps}, not {tau}")
    h = 1 / steps
    x = [float(rng.uniform(0.5, 1.5) if start is None else start)] * (delay + 1)  # x[i] is at time (i - delay) h

    def gain(delayed):
        return beta * delayed / (1 + delayed**exponent)

    for i in range((discard + n) * steps):
        first, last, now = x[i], x[i + 1], x[-1]
        middle = (first + last) / 2
        k1 = gain(first) - gamma * now
        k2 = gain(middle) - gamma * (now + h / 2 * k1)
        k3 = gain(middle) - gamma * (now + h / 2 * k2)
        k4 = gain(last) - gamma * (now + h * k3)
        x.append(now + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4))
    return np.array(x[delay + steps * (discard + 1) :: steps], np.float32)


def sunspots() -> tuple[Array, Array]:
    """Mean number of sunspots in each year from 1700 to 2008 (Wolf's relative number).

    The series of the National Geophysical Data Center, in the copy of statsmodels :cite:`seabold2010`; public domain.

    Returns:
        ``years`` (309,) int64, ``numbers`` (309,) float32 from 0 to 190.2.
    """
    lines = (_embedded() / "sunspots.csv").read_text(encoding="ascii").splitlines()
    rows = [line.split(",") for line in lines if not line.startswith("#")][1:]
    return np.array([int(year) for year, _ in rows], np.int64), np.array([float(s) for _, s in rows], np.float32)


# ---------------------------------------------------------------------------------------------------------------------
# Text
# ---------------------------------------------------------------------------------------------------------------------

TOPICS_SHA256 = "30bc2a12cc71a71baf9507b100f0b804c23ddaf3f72c8c4ac47e11f3b9b6566e"
"""Of the bytes of the text behind :func:`python_topics`, in UTF-8."""


def python_topics() -> str:
    """Help texts of the Python language, 377,090 characters of English and of code, which come with the package.

    They are the topics of ``pydoc_data`` of Python 3.11.7, frozen by ``tools/make_python_topics.py``, because every
    version of Python has others. The topics repeat each other; a paragraph that occurs in several of them is kept only
    once, so that :func:`text_split` does not put into the test set what the training set has. Take the vocabulary
    from the whole: one character, the degree sign, occurs in the test part alone. The text belongs to the
    Python Software Foundation, under the PSF License Version 2, which stands beside it.

    Raises:
        OSError: the file is missing or damaged.
    """
    advice = "install nnbook again (or check out nnbook/_data again)"
    try:
        content = gzip.decompress((_embedded() / "python_topics.txt.gz").read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"python_topics.txt.gz is missing from the package; {advice}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise OSError(f"python_topics.txt.gz is damaged ({error}); {advice}") from None
    if _sha256(content) != TOPICS_SHA256:
        raise OSError(f"python_topics.txt.gz holds another text than it should; {advice}")
    return content.decode("utf-8")


@checked
def text_split(text: str | Array, *, fractions: Sequence[float] = (0.8, 0.1, 0.1)) -> list[Any]:
    """Cut a text into contiguous parts, in this order: training, validation and test text, for example.

    Characters dealt out at random would put the neighbours of every test character into the training set.

    Args:
        text: a string, or any sequence that can be sliced, such as an array of tokens.
        fractions: size of each part; they add up to 1.

    Returns:
        One part for every fraction; put together they are the whole.

    Raises:
        ValueError: fractions that are not positive or do not add up to 1; a part that would be empty; a number.
    """
    _check_fractions(fractions)
    if np.ndim(text) == 0 and not isinstance(text, str):
        raise ValueError("text_split: expected a sequence, not a number")
    cuts = [round(math.fsum(fractions[:k]) * len(text)) for k in range(len(fractions) + 1)]
    if any(start == end for start, end in itertools.pairwise(cuts)):
        raise ValueError(f"a text of {len(text)} is too short for the fractions {tuple(fractions)}")
    return [text[start:end] for start, end in itertools.pairwise(cuts)]


# ---------------------------------------------------------------------------------------------------------------------
# Sequences
# ---------------------------------------------------------------------------------------------------------------------


@checked
def adding(n: int, length: int, *, rng: Rng) -> tuple[Array, Array]:
    """The adding problem :cite:`hochreiter1997`: remember two marked numbers and give their sum.

    One mark stands in the first half of the sequence, one in the second. Always answering 1 has the mean squared error
    1/6, the variance of the sum.

    Args:
        n: number of sequences.
        length: numbers in a sequence, T.
        rng: source of chance.

    Returns:
        ``x`` (n, T, 2) float32: in column 0 numbers from [0, 1), in column 1 the marks, 0 or 1; ``y`` (n, 1) float32.

    Raises:
        ValueError: n below 1, length below 2.
    """
    _check_sequences(n, length, 2, rng)
    x = np.zeros((n, length, 2), np.float32)
    x[:, :, 0] = rng.random((n, length), np.float32)
    rows = np.arange(n)
    x[rows, rng.integers(0, length // 2, n), 1] = 1
    x[rows, rng.integers(length // 2, length, n), 1] = 1
    return x, (x[:, :, 0] * x[:, :, 1]).sum(axis=1, keepdims=True)


@checked
def copying(n: int, delay: int, *, rng: Rng, items: int = 10, symbols: int = 8) -> tuple[Array, Array]:
    """The copying problem :cite:`hochreiter1997`, in the form of :cite:`arjovsky2016`: repeat what was said long ago.

    A sequence shows ``items`` symbols, ``delay - 1`` blanks, the sign "go" and again blanks; the target is blank up to
    and including "go", then shows the symbols in their order.

    Args:
        n: number of sequences.
        delay: steps from the last symbol to the sign "go", at least 1.
        rng: source of chance.
        items: symbols to remember, I.
        symbols: number of different symbols, S.

    Returns:
        ``x`` (n, delay + 2 I) int64 in 0 to S + 1: 0 is the blank, 1 to S the symbols, S + 1 the sign "go"; ``y``
        (n, delay + 2 I) int64 in 0 to S.

    Raises:
        ValueError: a size below 1.
    """
    _check_sequences(n, delay, 1, rng)
    if items < 1 or symbols < 1:
        raise ValueError(f"items and symbols must be at least 1, not {items} and {symbols}")
    message = rng.integers(1, symbols + 1, (n, items))
    x = np.zeros((n, delay + 2 * items), np.int64)
    y = np.zeros_like(x)
    x[:, :items] = message
    x[:, items + delay - 1] = symbols + 1
    y[:, items + delay :] = message
    return x, y


@checked
def reversal(n: int, length: int, *, rng: Rng, symbols: int = 10) -> tuple[Array, Array]:
    """Sequences to be said backwards.

    Args:
        n: number of sequences.
        length: symbols in a sequence, T.
        rng: source of chance.
        symbols: number of different symbols, S.

    Returns:
        ``x`` (n, T) int64 in 0 to S - 1; ``y`` (n, T) int64, each row of ``x`` from its end to its beginning.

    Raises:
        ValueError: a size below 1.
    """
    _check_sequences(n, length, 1, rng)
    if symbols < 1:
        raise ValueError(f"symbols must be at least 1, not {symbols}")
    x = rng.integers(0, symbols, (n, length))
    return x, x[:, ::-1].copy()


def _check_sequences(n: int, length: int, shortest: int, rng: Rng) -> None:
    if n < 1 or length < shortest:
        raise ValueError(f"need at least 1 sequence of at least {shortest}, not {n} of {length}")


MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]

DATE_FORMATS = (
    "{day} {month} {year}",
    "{month} {day}, {year}",
    "{weekday}, {day} {month} {year}",
    "{weekday} {month} {day} {year}",
    "{day} {short} {year}",
    "{short} {day}, {year}",
    "{day:02d}/{number:02d}/{year}",
    "{day}.{number}.{year}",
    "{year}/{number:02d}/{day:02d}",
    "{day}-{short}-{century:02d}",
)
"""How :func:`dates` writes a date. Figures alone are in the order day, month, year, or year, month, day."""


@checked
def dates(n: int, *, rng: Rng, first: int = 1950, last: int = 2049) -> tuple[list[str], list[str]]:
    """Dates as people write them and as ISO 8601 wants them: "14 Feb 2009" and "2009-02-14".

    Args:
        n: number of dates.
        rng: source of chance.
        first, last: first and last year; every day between is equally likely.

    Returns:
        n strings in one of the :data:`DATE_FORMATS`, all lower case in about half of the cases, and n strings
        ``YYYY-MM-DD``. A year written with two figures means the one from 1950 to 2049.

    Raises:
        ValueError: n below 1; years not in order or outside 1950 to 2049.
    """
    _check_sequences(n, 1, 1, rng)
    if not 1950 <= first <= last <= 2049:
        raise ValueError(f"years must be in order and from 1950 to 2049, not {first} to {last}")
    earliest, latest = (datetime.date(year, *rest).toordinal() for year, *rest in ((first, 1, 1), (last, 12, 31)))
    written, wanted = [], []
    for ordinal in rng.integers(earliest, latest + 1, n).tolist():
        date = datetime.date.fromordinal(ordinal)
        month = MONTHS[date.month - 1]
        text = DATE_FORMATS[rng.integers(len(DATE_FORMATS))].format(
            day=date.day,
            number=date.month,
            month=month,
            short=month[:3],
            weekday=WEEKDAYS[date.weekday()],
            year=date.year,
            century=date.year % 100,
        )
        written.append(text.lower() if rng.random() < 0.5 else text)
        wanted.append(date.isoformat())
    return written, wanted
