"""The data sets: shapes, ranges, provenance, and what happens when a file is missing, cut off or wrong."""

import datetime
import gzip
import hashlib
import http.server
import io
import os
import struct
import threading

import numpy as np
import pytest
import scipy.integrate
from hypothesis import given
from hypothesis import strategies as st

from nnbook import data


def rng(seed=0):
    return np.random.default_rng(seed)


# ---------------------------------------------------------------------------------------------------------------------
# Images
# ---------------------------------------------------------------------------------------------------------------------


def assert_images(x, y, count, pixels):
    assert x.shape == (count, pixels)
    assert y.shape == (count,)
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
    assert (x.min(), x.max()) == (0, 1)
    assert set(y.tolist()) == set(range(10))


def test_digits_are_scikit_learns_in_sixteenths():
    from sklearn.datasets import load_digits

    x, y = data.digits()
    assert_images(x, y, 1797, 64)
    assert np.array_equal(x * 16, load_digits().data)


def test_mnist_subset_keeps_the_proportions_of_mnist():
    (x, y), (x_test, y_test) = data.mnist_subset()
    assert_images(x, y, 10000, 784)
    assert_images(x_test, y_test, 2000, 784)
    # The counts of the classes in MNIST's 60,000 and 10,000 images
    whole = np.array([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949])
    whole_test = np.array([980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009])
    assert np.abs(np.bincount(y) - whole / 6).max() < 1
    assert np.abs(np.bincount(y_test) - whole_test / 5).max() < 1


def test_no_image_of_the_subset_occurs_twice():
    (x, _), (x_test, _) = data.mnist_subset()
    packed = np.load(data._embedded() / "mnist_subset.npz")
    for index, count, below in ((packed["train_index"], 10000, 60000), (packed["test_index"], 2000, 10000)):
        assert len(set(index.tolist())) == count
        assert 0 <= index.min() <= index.max() < below
    assert not {row.tobytes() for row in x} & {row.tobytes() for row in x_test}


def test_the_subset_carries_its_licence():
    text = (data._embedded() / "LICENSE-mnist.txt").read_text(encoding="utf-8")
    for name in ("Yann LeCun", "Corinna Cortes", "CC BY-SA 3.0", "creativecommons.org/licenses/by-sa/3.0", "Changes"):
        assert name in text
    assert (data._embedded() / "mnist_subset.npz").stat().st_size < 2.1e6


def test_every_call_gives_arrays_of_its_own():
    (x, _), _ = data.mnist_subset()
    x[:] = 2
    assert data.mnist_subset()[0][0].max() == 1


def repacked(whole, drop=None):
    packed = np.load(io.BytesIO(whole))
    arrays = {name: packed[name].copy() for name in packed.files if name != drop}
    arrays["x_train"][0, 0] ^= 1
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: None, "missing from the package; install nnbook again"),
        (lambda whole: whole[: len(whole) // 2], "is damaged .*install nnbook again"),
        (lambda whole: b"", "is damaged .*install nnbook again"),
        (lambda whole: b"version https://git-lfs.github.com/spec/v1", "is damaged .*install nnbook again"),
        (lambda whole: whole[:5000] + bytes([whole[5000] ^ 255]) + whole[5001:], "is damaged .*install nnbook again"),
        (lambda whole: repacked(whole, drop="y_test"), "is damaged .*install nnbook again"),
        (repacked, "holds other data .*install nnbook again"),
    ],
    ids=["missing", "half", "empty", "pointer", "flipped bit", "lacking an array", "other pixels"],
)
def test_a_damaged_subset_says_what_to_do(damage, message, tmp_path, monkeypatch):
    content = damage((data._embedded() / "mnist_subset.npz").read_bytes())
    if content is not None:
        (tmp_path / "mnist_subset.npz").write_bytes(content)
    monkeypatch.setattr(data, "_embedded", lambda: tmp_path)
    with pytest.raises(OSError, match=message):
        data.mnist_subset()


@pytest.mark.skipif("NNBOOK_DATA" not in os.environ, reason="NNBOOK_DATA names no directory with the whole of MNIST")
def test_the_whole_of_mnist():
    (x, y), (x_test, y_test) = data.mnist()
    assert_images(x, y, 60000, 784)
    assert_images(x_test, y_test, 10000, 784)
    # Mean and standard deviation of the training pixels, as commonly quoted
    assert (round(float(x.mean(dtype=float)), 4), round(float(x.std(dtype=float)), 4)) == (0.1307, 0.3081)
    (part, labels), (part_test, labels_test) = data.mnist_subset()
    packed = np.load(data._embedded() / "mnist_subset.npz")
    assert np.array_equal(x[packed["train_index"]], part)
    assert np.array_equal(y[packed["train_index"]], labels)
    assert np.array_equal(x_test[packed["test_index"]], part_test)
    assert np.array_equal(y_test[packed["test_index"]], labels_test)


# ---------------------------------------------------------------------------------------------------------------------
# MNIST from a directory and from the network, with four tiny files in its place
# ---------------------------------------------------------------------------------------------------------------------


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def tiny(monkeypatch):
    """Contents of the four files of a tiny MNIST, whose checksums stand in place of the real ones."""
    draw = rng(1)
    arrays = [draw.integers(0, 256, (5, 28, 28)), draw.integers(0, 10, 5)]
    arrays += [draw.integers(0, 256, (3, 28, 28)), draw.integers(0, 10, 3)]
    files = {name: idx(a.astype(np.uint8)) for name, a in zip(data.MNIST_SHA256, arrays, strict=True)}
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(data, "MNIST_SHA256", checksums)
    monkeypatch.delenv("NNBOOK_DATA", raising=False)
    return files


def assert_tiny(result):
    (x, y), (x_test, y_test) = result
    assert (x.shape, y.shape, x_test.shape, y_test.shape) == ((5, 784), (5,), (3, 784), (3,))
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
    assert 0 <= x.min() <= x.max() <= 1


@pytest.mark.parametrize("where", [".", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("compress", [False, True])
def test_mnist_from_a_directory(where, compress, tiny, tmp_path, monkeypatch):
    place = tmp_path / where
    place.mkdir(parents=True, exist_ok=True)
    for name, content in tiny.items():
        (place / (f"{name}.gz" if compress else name)).write_bytes(gzip.compress(content) if compress else content)
    monkeypatch.setenv("NNBOOK_DATA", str(tmp_path))
    assert_tiny(data.mnist())


@pytest.mark.parametrize(
    ("damage", "suffix", "error", "message"),
    [
        (lambda c: None, "", FileNotFoundError, "was not found"),
        (lambda c: c[:-1], "", OSError, "SHA-256"),
        (lambda c: gzip.compress(c)[:-20], ".gz", OSError, "not a whole gzip file"),
        (lambda c: gzip.compress(c)[:15] + b"xxxxxx" + gzip.compress(c)[21:], ".gz", OSError, "damaged"),
        (lambda c: gzip.compress(c + b"more"), ".gz", OSError, "SHA-256"),
    ],
    ids=["missing", "cut", "cut gzip", "garbled gzip", "other data"],
)
def test_a_bad_file_in_the_directory_says_what_to_do(damage, suffix, error, message, tiny, tmp_path, monkeypatch):
    for name, content in tiny.items():
        (tmp_path / name).write_bytes(content)
    name = "t10k-images-idx3-ubyte"
    content = damage(tiny[name])
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / (name + suffix)).write_bytes(content)
    monkeypatch.setenv("NNBOOK_DATA", str(tmp_path))
    with pytest.raises(error, match=f"(?s){message}.*NNBOOK_DATA names .*put {name} or {name}.gz there"):
        data.mnist()


@pytest.mark.parametrize(
    "content", [b"", b"\0\0\x08", b"\0\0\x08\x03\0\0", b"<html>", idx(np.zeros((2, 2), "u1")) + b"x"]
)
def test_what_is_not_idx_is_refused(content):
    with pytest.raises(OSError, match="labels is not an IDX file"):
        data._idx("labels", content)


@pytest.fixture
def server():
    """A server on this machine; ``answers[path]`` is (status, headers, body), and ``asked`` lists the paths."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.asked.append(self.path)
            status, headers, body = self.answers.get(self.path, (404, {}, b"not here"))
            self.send_response(status)
            for key, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    Handler.answers, Handler.asked = {}, []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        Handler.base = f"http://127.0.0.1:{running.server_port}"
        yield Handler
        running.shutdown()
        thread.join()


@pytest.fixture
def network(server, tiny, tmp_path, monkeypatch):
    """Two mirrors on this machine, both with all files, and an empty cache."""
    monkeypatch.setattr(data, "MIRRORS", (f"{server.base}/one/", f"{server.base}/two/"))
    monkeypatch.setattr(data, "cache_directory", lambda: tmp_path / "cache")
    for name, content in tiny.items():
        for mirror in ("one", "two"):
            server.answers[f"/{mirror}/{name}.gz"] = (200, {}, gzip.compress(content))
    return server


NAME = "train-labels-idx1-ubyte"


def in_cache(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").glob("*"))


def test_mnist_is_downloaded_once(network, tiny, tmp_path):
    assert_tiny(data.mnist())
    assert network.asked == [f"/one/{name}.gz" for name in tiny]
    assert {name: (tmp_path / "cache" / name).read_bytes() for name in in_cache(tmp_path)} == tiny
    assert_tiny(data.mnist())
    assert len(network.asked) == 4


def test_a_damaged_file_in_the_cache_is_fetched_again(network, tiny, tmp_path):
    data.mnist()
    (tmp_path / "cache" / NAME).write_bytes(tiny[NAME][:-1])
    assert_tiny(data.mnist())
    assert network.asked[4:] == [f"/one/{NAME}.gz"]
    assert (tmp_path / "cache" / NAME).read_bytes() == tiny[NAME]


def test_a_server_that_decompresses_is_welcome(network, tiny):
    network.answers[f"/one/{NAME}.gz"] = (200, {"Content-Encoding": "gzip"}, gzip.compress(tiny[NAME]))
    assert_tiny(data.mnist())
    assert f"/two/{NAME}.gz" not in network.asked


BAD = {
    "absent": lambda c: (404, {}, b""),
    "failing": lambda c: (500, {}, b"oops"),
    "a page": lambda c: (200, {}, b"<html>sign in</html>"),
    "cut gzip": lambda c: (200, {}, gzip.compress(c)[:-9]),
    "garbled": lambda c: (200, {}, b"\x1f\x8b" + b"x" * 50),
    "other data": lambda c: (200, {}, gzip.compress(c[:-1] + b"\xff")),
    "connection lost": lambda c: (200, {"Content-Length": "10000"}, gzip.compress(c)),
}


@pytest.mark.parametrize("kind", BAD)
def test_the_second_mirror_helps_out(kind, network, tiny, tmp_path):
    network.answers[f"/one/{NAME}.gz"] = BAD[kind](tiny[NAME])
    assert_tiny(data.mnist())
    assert f"/two/{NAME}.gz" in network.asked
    assert in_cache(tmp_path) == sorted(tiny)


@pytest.mark.parametrize("kind", BAD)
def test_a_failed_download_says_what_to_do_and_leaves_nothing_half_written(kind, network, tiny, tmp_path):
    for mirror in ("one", "two"):
        network.answers[f"/{mirror}/{NAME}.gz"] = BAD[kind](tiny[NAME])
    advice = f"(?s){NAME} could not be downloaded.*/one/.*/two/.*NNBOOK_DATA.*mnist_subset"
    with pytest.raises(OSError, match=advice):
        data.mnist()
    assert in_cache(tmp_path) == ["train-images-idx3-ubyte"]
    assert (tmp_path / "cache" / "train-images-idx3-ubyte").read_bytes() == tiny["train-images-idx3-ubyte"]


def test_without_a_network_the_error_says_what_to_do(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "MIRRORS", ("http://127.0.0.1:9/",))
    monkeypatch.setattr(data, "cache_directory", lambda: tmp_path / "cache")
    with pytest.raises(OSError, match="NNBOOK_DATA"):
        data.mnist()
    assert in_cache(tmp_path) == []


def test_mirrors_and_checksums_are_well_formed():
    assert all(mirror.startswith("https://") and mirror.endswith("/") for mirror in data.MIRRORS)
    assert [len(bytes.fromhex(checksum)) for checksum in data.MNIST_SHA256.values()] == [32] * 4
    assert data.cache_directory().parts[-2:] == ("nnbook", "mnist")


# ---------------------------------------------------------------------------------------------------------------------
# Splitting
# ---------------------------------------------------------------------------------------------------------------------

sizes = st.lists(st.integers(4, 60), min_size=1, max_size=8)
weights = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@given(sizes, weights, st.integers(0, 5), st.booleans())
def test_parts_are_disjoint_whole_and_in_proportion(sizes, weights, seed, stratify):
    classes = rng(seed).permutation(np.repeat(np.arange(len(sizes)) * 3 - 2, sizes))
    fractions = [w / sum(weights) for w in weights]
    parts = data.split_indices(len(classes), fractions=fractions, rng=rng(seed), classes=classes if stratify else None)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(classes)))
    for part, fraction in zip(parts, fractions, strict=True):
        assert abs(len(part) - fraction * len(classes)) < 2
        if stratify:
            for name, size in zip(np.unique(classes), sizes, strict=True):
                assert abs(np.sum(classes[part] == name) - fraction * size) < 2


def test_split_takes_the_rows_of_both():
    x, y = np.arange(60).reshape(30, 2), np.repeat([0, 1, 2], 10)
    (a, b), (c, d) = data.split(x, y, fractions=(0.8, 0.2), rng=rng())
    assert (a.shape, b.shape, c.shape, d.shape) == ((24, 2), (24,), (6, 2), (6,))
    for rows, labels in ((a, b), (c, d)):
        assert np.array_equal(rows[:, 0] // 20, labels)
    assert np.array_equal(np.bincount(d), [2, 2, 2])
    assert not np.array_equal(d, np.sort(d))


def test_split_of_the_digits_has_five_different_test_sets():
    x, y = data.digits()
    held_out = [data.split(x, y, fractions=(0.8, 0.2), rng=rng(seed))[1] for seed in range(5)]
    assert all(len(labels) == 359 for _, labels in held_out)
    assert len({images.tobytes() for images, _ in held_out}) == 5
    again = data.split(x, y, fractions=(0.8, 0.2), rng=rng(0))[1]
    assert np.array_equal(again[0], held_out[0][0])


def test_split_without_classes():
    x, y = data.sine(50, rng=rng())
    parts = data.split(x, y, rng=rng(), stratify=False)
    assert [len(part) for part, _ in parts] == [30, 10, 10]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.split(np.zeros(3), np.zeros(4, int), rng=rng()), r"\(3,\) and \(4,\)"),
        (lambda: data.split(np.zeros(()), np.zeros(4, int), rng=rng()), r"\(\) and \(4,\)"),
        (lambda: data.split(np.zeros(4), np.zeros(4), rng=rng()), "to stratify, y must be .* not float64"),
        (lambda: data.split(np.zeros(4), np.zeros((4, 1), int), rng=rng()), r"not int64 of shape \(4, 1\)"),
        (lambda: data.split_indices(9, fractions=(0.5, 0.6), rng=rng()), "add up to 1"),
        (lambda: data.split_indices(9, fractions=(1.5, -0.5), rng=rng()), "must be positive"),
        (lambda: data.split_indices(9, fractions=(), rng=rng()), "must be positive"),
        (lambda: data.split_indices(9, rng=rng(), classes=np.zeros(8, int)), r"\(8,\), expected \(9,\)"),
        (lambda: data.split_indices(9, rng=rng(), classes=np.arange(9)), "as many examples of each class"),
        (lambda: data.split_indices(0, rng=rng()), "as many examples"),
        (lambda: data.split_indices(9, fractions=(0.01, 0.99), rng=rng()), "part 0 is empty"),
        (lambda: data.split_indices(9, rng=3), "must be a numpy.random.Generator.*not 3"),
        (lambda: data.split_indices(9, rng=np.random.RandomState(0)), "must be a numpy.random.Generator"),
    ],
)
def test_impossible_splits_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---------------------------------------------------------------------------------------------------------------------
# Synthetic sets
# ---------------------------------------------------------------------------------------------------------------------

PLANES = [data.moons, data.circles, data.spirals, data.xor]


@given(st.integers(1, 50), st.sampled_from(PLANES), st.integers(0, 3))
def test_classes_are_balanced_and_draws_are_reproducible(n, draw, seed):
    x, y = draw(n, rng=rng(seed))
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((n, 2), np.float32, (n,), np.int64)
    if draw is not data.xor:
        assert abs(np.sum(y == 0) - np.sum(y == 1)) <= 1
    again = draw(n, rng=rng(seed))
    assert np.array_equal(x, again[0])
    assert np.array_equal(y, again[1])


def test_moons_are_half_circles():
    x, y = data.moons(200, rng=rng(), noise=0)
    upper, lower = x[y == 0], x[y == 1] - [1, 0.5]
    for half in (upper, lower):
        assert np.allclose(np.hypot(*half.T), 1, atol=1e-6)
    assert upper[:, 1].min() >= 0 >= lower[:, 1].max()


def test_circles_have_their_radii():
    x, y = data.circles(100, rng=rng(), noise=0, ratio=0.3)
    assert np.allclose(np.hypot(*x.T), np.where(y == 0, 1, 0.3), atol=1e-6)


def test_spirals_wind_outward():
    x, y = data.spirals(300, rng=rng(), classes=3, turns=1.5, noise=0)
    radius = np.hypot(*x.T)
    assert radius.max() <= 1
    turned = radius * 1.5 + y / 3
    assert np.allclose(
        x, np.stack([radius * np.cos(2 * np.pi * turned), radius * np.sin(2 * np.pi * turned)], 1), atol=1e-5
    )
    assert np.array_equal(np.bincount(y), [100, 100, 100])


def test_xor_of_four_points_is_the_truth_table():
    x, y = data.xor(rng=rng())
    assert {(*point, label) for point, label in zip(x.tolist(), y.tolist(), strict=True)} == {
        (0, 0, 0),
        (0, 1, 1),
        (1, 0, 1),
        (1, 1, 0),
    }


def test_noise_has_the_standard_deviation_it_says():
    clean, noisy = (data.moons(4000, rng=rng(), noise=noise)[0] for noise in (0, 0.2))
    assert abs(np.std(noisy - clean) - 0.2) < 0.01


def test_sine():
    x, y = data.sine(500, rng=rng(), noise=0)
    assert (x.shape, y.shape, x.dtype, y.dtype) == ((500, 1), (500, 1), np.float32, np.float32)
    assert np.array_equal(y, np.sin(x))
    assert -np.pi <= x.min() < -3 < 3 < x.max() <= np.pi


def test_mackey_glass_rests_at_its_fixed_point():
    # beta / (1 + x^n) = gamma at x = 1 for beta = 2 gamma
    assert np.array_equal(data.mackey_glass(50, rng=rng(), start=1.0), np.ones(50, np.float32))


def test_mackey_glass_decays_as_an_exponential_without_gain():
    x = data.mackey_glass(20, rng=rng(), start=1.2, beta=0.0, discard=0)
    assert np.allclose(x, 1.2 * np.exp(-0.1 * np.arange(1, 21)), rtol=1e-6)


def test_mackey_glass_agrees_with_scipy_by_the_method_of_steps():
    """On each interval of length tau the delayed value is known, so the equation is an ordinary one."""
    tau, start = 17, 1.2
    solutions = [lambda t: start]
    for k in range(4):
        before = solutions[-1]

        def slope(t, x, before=before):
            delayed = np.squeeze(before(t - tau))
            return 0.2 * delayed / (1 + delayed**10) - 0.1 * x

        value = start if k == 0 else solutions[-1](k * tau)[0]
        step = scipy.integrate.solve_ivp(
            slope, (k * tau, (k + 1) * tau), [value], rtol=1e-10, atol=1e-12, dense_output=True, max_step=0.5
        )
        solutions.append(step.sol)
    expected = np.array([solutions[1 + min((t - 1) // tau, 3)](t)[0] for t in range(1, 4 * tau + 1)])

    def error(steps):
        found = data.mackey_glass(4 * tau, rng=rng(), start=start, discard=0, steps=steps)
        return np.max(np.abs(found / expected - 1))

    assert error(10) < 1e-4
    assert 3.5 < error(10) / error(20) < 4.5  # second order


def test_mackey_glass_is_irregular_but_bounded():
    x = data.mackey_glass(1000, rng=rng())
    assert (x.shape, x.dtype) == ((1000,), np.float32)
    assert 0.2 < x.min() < 0.6
    assert 1.1 < x.max() < 1.5
    assert not np.array_equal(x, data.mackey_glass(1000, rng=rng(1)))
    assert np.array_equal(
        data.mackey_glass(100, rng=rng(), discard=0)[30:], data.mackey_glass(70, rng=rng(), discard=30)
    )


def test_sunspots_are_the_copy_of_statsmodels():
    years, numbers = data.sunspots()
    assert (years.dtype, numbers.dtype) == (np.int64, np.float32)
    assert np.array_equal(years, np.arange(1700, 2009))
    assert numbers.min() == 0
    assert numbers.argmax() == 1957 - 1700  # the strongest maximum on record
    assert numbers.max() == np.float32(190.2)
    datasets = pytest.importorskip("statsmodels.datasets", exc_type=ImportError)
    assert np.array_equal(numbers, datasets.sunspots.load_pandas().endog.to_numpy(np.float32))


def test_python_topics_are_frozen():
    text = data.python_topics()
    assert len(text) == 377090
    assert hashlib.sha256(text.encode()).hexdigest() == data.TOPICS_SHA256
    assert len(set(text)) == 103
    assert 'The "assert" statement\n' in text
    assert (data._embedded() / "python_topics.txt.gz").stat().st_size < 120e3


def test_no_paragraph_of_the_topics_occurs_twice():
    words = [" ".join(paragraph.split()) for paragraph in data.python_topics().split("\n\n")]
    long = [w for w in words if len(w) >= 40]
    assert len(long) == len(set(long)) > 1000


def test_the_test_part_of_the_topics_is_not_in_the_training_part():
    train, _, test = data.text_split(data.python_topics())
    places = range(0, len(test) - 80, 40)
    assert sum(test[i : i + 80] in train for i in places) < 0.01 * len(places)
    assert set(test) - set(train) == {chr(176)}  # the degree sign


def test_the_topics_carry_their_licence():
    text = (data._embedded() / "LICENSE-python-topics.txt").read_text(encoding="utf-8")
    for name in ("PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2", "2023 Python Software Foundation", "Changes", "AS IS"):
        assert name in text


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: None, "missing from the package; install nnbook again"),
        (lambda whole: whole[: len(whole) // 2], "is damaged .*install nnbook again"),
        (lambda whole: b"", "holds another text .*install nnbook again"),
        (lambda whole: whole[:5000] + bytes([whole[5000] ^ 255]) + whole[5001:], "is damaged .*install nnbook again"),
        (lambda whole: gzip.compress(gzip.decompress(whole)[:-1]), "holds another text .*install nnbook again"),
    ],
    ids=["missing", "half", "empty", "flipped bit", "a character less"],
)
def test_a_damaged_text_says_what_to_do(damage, message, tmp_path, monkeypatch):
    content = damage((data._embedded() / "python_topics.txt.gz").read_bytes())
    if content is not None:
        (tmp_path / "python_topics.txt.gz").write_bytes(content)
    monkeypatch.setattr(data, "_embedded", lambda: tmp_path)
    with pytest.raises(OSError, match=message):
        data.python_topics()


@given(st.integers(20, 400), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_a_text_is_cut_into_contiguous_parts(length, weights):
    fractions = [w / sum(weights) for w in weights]
    text = "".join(chr(65 + i % 26) for i in range(length))
    parts = data.text_split(text, fractions=fractions)
    assert "".join(parts) == text
    assert all(abs(len(p) - f * length) <= 1 for p, f in zip(parts, fractions, strict=True))


def test_the_parts_of_the_topics():
    train, validation, test = data.text_split(data.python_topics())
    assert (len(train), len(validation), len(test)) == (301672, 37709, 37709)
    tokens = np.arange(10)
    assert [part.tolist() for part in data.text_split(tokens, fractions=(0.5, 0.5))] == [
        [0, 1, 2, 3, 4],
        [5, 6, 7, 8, 9],
    ]


@given(st.integers(1, 20), st.integers(2, 40), st.integers(0, 3))
def test_adding_marks_one_number_in_each_half(n, length, seed):
    x, y = data.adding(n, length, rng=rng(seed))
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((n, length, 2), np.float32, (n, 1), np.float32)
    numbers, marks = x[:, :, 0], x[:, :, 1]
    assert 0 <= numbers.min() <= numbers.max() < 1
    assert np.all(marks[:, : length // 2].sum(1) == 1)
    assert np.all(marks[:, length // 2 :].sum(1) == 1)
    assert np.allclose(y[:, 0], [row[mark > 0].sum() for row, mark in zip(numbers, marks, strict=True)])


def test_the_error_of_always_answering_one_is_a_sixth():
    _, y = data.adding(20000, 10, rng=rng())
    assert abs(np.mean((y - 1) ** 2) - 1 / 6) < 0.005


@given(st.integers(1, 9), st.integers(1, 30), st.integers(1, 12), st.integers(1, 9))
def test_copying_asks_for_what_was_shown(n, delay, items, symbols):
    x, y = data.copying(n, delay, rng=rng(), items=items, symbols=symbols)
    assert x.shape == y.shape == (n, delay + 2 * items)
    assert x.dtype == y.dtype == np.int64
    assert np.array_equal(y[:, -items:], x[:, :items])
    assert 1 <= x[:, :items].min() <= x[:, :items].max() <= symbols
    assert np.all(x[:, -items - 1] == symbols + 1)
    assert np.all(np.count_nonzero(x, axis=1) == items + 1)
    assert np.all(np.count_nonzero(y, axis=1) == items)


@given(st.integers(1, 9), st.integers(1, 30), st.integers(1, 9))
def test_reversal_reverses(n, length, symbols):
    x, y = data.reversal(n, length, rng=rng(), symbols=symbols)
    assert x.shape == (n, length)
    assert 0 <= x.min() <= x.max() < symbols
    assert np.array_equal(y[:, ::-1], x)
    assert not np.shares_memory(x, y)


STRPTIME = [
    *("%d %B %Y", "%B %d, %Y", "%A, %d %B %Y", "%A %B %d %Y", "%d %b %Y", "%b %d, %Y"),
    *("%d/%m/%Y", "%d.%m.%Y", "%Y/%m/%d", "%d-%b-%y"),
]


def test_dates_can_be_read_back():
    written, wanted = data.dates(3000, rng=rng())
    assert len(written) == len(wanted) == 3000
    found = set()
    for text, iso in zip(written, wanted, strict=True):
        for form in STRPTIME:
            try:
                date = datetime.datetime.strptime(text, form)
            except ValueError:
                continue
            found.add(form)
            # strptime takes two figures for a year from 1969 to 2068, the book for one from 1950 to 2049
            year = date.year - 100 if date.year > 2049 else date.year
            assert f"{year}{date:-%m-%d}" == iso
    assert found == set(STRPTIME)
    assert {text == text.lower() for text in written} == {True, False}
    assert min(wanted)[:3] == "195"
    assert max(wanted)[:3] == "204"


def test_dates_keep_to_their_years():
    _, wanted = data.dates(200, rng=rng(), first=1999, last=1999)
    assert {iso[:4] for iso in wanted} == {"1999"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        *[(lambda draw=draw: draw(0, rng=rng()), "at least 1") for draw in [*PLANES, data.sine, data.dates]],
        *[
            (lambda draw=draw: draw(4, rng=0), "rng must be")
            for draw in [*PLANES, data.sine, data.mackey_glass, data.dates]
        ],
        *[(lambda draw=draw: draw(4, rng=rng(), noise=-1), "not negative: -1") for draw in [*PLANES, data.sine]],
        (lambda: data.circles(4, rng=rng(), ratio=1), "ratio must be between 0 and 1, not 1"),
        (lambda: data.spirals(4, rng=rng(), turns=0), "turns must be positive, not 0"),
        (lambda: data.spirals(4, rng=rng(), classes=0), "not 4 and 0"),
        (lambda: data.mackey_glass(0, rng=rng()), "n >= 1"),
        (lambda: data.mackey_glass(5, rng=rng(), discard=-1), "discard >= 0"),
        (lambda: data.mackey_glass(5, rng=rng(), tau=0.15), "positive multiple of 1/10, not 0.15"),
        (lambda: data.mackey_glass(5, rng=rng(), tau=0), "positive multiple"),
        (lambda: data.adding(3, 1, rng=rng()), "at least 2, not 3 of 1"),
        (lambda: data.copying(3, 0, rng=rng()), "not 3 of 0"),
        (lambda: data.copying(3, 1, rng=rng(), items=0), "items and symbols"),
        (lambda: data.reversal(3, 1, rng=rng(), symbols=0), "symbols must be at least 1"),
        (lambda: data.reversal(3, 1, rng=None), "rng must be"),
        (lambda: data.text_split("ab"), "too short for the fractions"),
        (lambda: data.text_split("abcdef", fractions=(0.5, 0.6)), "add up to 1"),
        (lambda: data.dates(3, rng=rng(), first=1900), "1950 to 2049, not 1900 to 2049"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_noise_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="not nan"):
        data.moons(4, rng=np.random.default_rng(0), noise=float("nan"))
