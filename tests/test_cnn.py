"""Chapter 6 as statements about mathematics: equations transcribed with loops, cases worked by hand, invariances."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import scipy.signal
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from nnbook import twins
from nnbook.backprop import flatten, tree_map, unflatten, value_and_grad, vjp
from nnbook.cnn import (
    Cost,
    Field,
    avg_pool2d,
    batch_norm2d,
    col2im,
    conv1d,
    conv2d,
    conv2d_cost,
    conv2d_init,
    conv2d_matrix,
    conv_output_size,
    conv_transpose2d,
    fgsm,
    flip,
    global_avg_pool2d,
    im2col,
    inception,
    inception_init,
    lenet5,
    lenet5_init,
    max_pool2d,
    parameter_count,
    receptive_field,
    residual_block,
    residual_block_init,
    resnet,
    resnet_init,
    saliency,
    separable_conv2d,
    separable_conv2d_init,
    small_cnn,
    small_cnn_init,
)
from nnbook.losses import cross_entropy
from nnbook.neurons import linear, linear_init, relu
from nnbook.optimizers import adam, adam_init
from nnbook.regularization import batch_norm_init
from nnbook.training import from_torch, load, lockstep, save, to_torch
from nnbook.verify import error, rejects, verify

F = torch.nn.functional
PRIMITIVES = [conv1d, conv2d, conv_transpose2d, max_pool2d, avg_pool2d, global_avg_pool2d]
ISSUE_SHAPES = [(128, 1, 28, 6, 5), (128, 6, 12, 16, 5), (64, 16, 28, 32, 3), (32, 64, 32, 64, 3)]
"""``(batch, channels, size, kernels, size of the kernels)`` for which speed and memory are promised."""


@pytest.fixture
def rng():
    return np.random.default_rng(6)


def pulled(f, *args, dy, **static):
    """The value and the cotangents for the upstream ``dy``."""
    y, pull = vjp(lambda *arrays: f(*arrays, **static), *args)
    return y, *pull(np.asarray(dy))


def torch_pulled(f, *args, dy, **static):
    tensors = [torch.tensor(a, requires_grad=True) for a in args]
    y = f(*tensors, **static)
    y.backward(torch.tensor(dy))
    return y.detach().numpy(), *(t.grad.numpy() for t in tensors)


@pytest.mark.parametrize("op", PRIMITIVES, ids=lambda op: op.__name__)
def test_three_ways(op):
    result = verify(op)
    assert result.ok, result.details()


# The truth: one window after the other --------------------------------------------------------------------------------


def window(options):
    """``(stride, padding, dilation)`` of both axes from options that are a number or a pair."""
    both = lambda v: v if isinstance(v, tuple) else (v, v)  # noqa: E731
    return both(options["stride"]), both(options["padding"]), both(options["dilation"])


def conv2d_loops(x, weight, bias, dy=None, *, stride=1, padding=0, dilation=1, groups=1):
    """``y``, or with ``dy`` the three gradients: each product of the sum, and each back to where it came from."""
    (sh, sw), (ph, pw), (dh, dw_) = window({"stride": stride, "padding": padding, "dilation": dilation})
    N, _, H, W = x.shape
    O, c, kh, kw = weight.shape  # noqa: E741
    P, Q = (H + 2 * ph - dh * (kh - 1) - 1) // sh + 1, (W + 2 * pw - dw_ * (kw - 1) - 1) // sw + 1
    y = np.zeros((N, O, P, Q))
    dx, dw, db = np.zeros(x.shape), np.zeros(weight.shape), np.zeros(O)
    for n, o, p, q in itertools.product(range(N), range(O), range(P), range(Q)):
        y[n, o, p, q] += bias[o]
        if dy is not None:
            db[o] += dy[n, o, p, q]
        first_channel = o // (O // groups) * c
        for k, i, j in itertools.product(range(c), range(kh), range(kw)):
            h, w = p * sh + i * dh - ph, q * sw + j * dw_ - pw
            if 0 <= h < H and 0 <= w < W:
                y[n, o, p, q] += weight[o, k, i, j] * x[n, first_channel + k, h, w]
                if dy is not None:
                    dx[n, first_channel + k, h, w] += weight[o, k, i, j] * dy[n, o, p, q]
                    dw[o, k, i, j] += x[n, first_channel + k, h, w] * dy[n, o, p, q]
    return y if dy is None else (dx, dw, db)


def conv1d_loops(x, weight, bias, dy=None, *, stride=1, padding=0, dilation=1, groups=1):
    N, _, L = x.shape
    O, c, K = weight.shape  # noqa: E741
    P = (L + 2 * padding - dilation * (K - 1) - 1) // stride + 1
    y = np.zeros((N, O, P))
    dx, dw, db = np.zeros(x.shape), np.zeros(weight.shape), np.zeros(O)
    for n, o, p in itertools.product(range(N), range(O), range(P)):
        y[n, o, p] += bias[o]
        if dy is not None:
            db[o] += dy[n, o, p]
        for k, i in itertools.product(range(c), range(K)):
            channel, place = o // (O // groups) * c + k, p * stride + i * dilation - padding
            if 0 <= place < L:
                y[n, o, p] += weight[o, k, i] * x[n, channel, place]
                if dy is not None:
                    dx[n, channel, place] += weight[o, k, i] * dy[n, o, p]
                    dw[o, k, i] += x[n, channel, place] * dy[n, o, p]
    return y if dy is None else (dx, dw, db)


def conv_transpose2d_loops(x, weight, bias, dy=None, *, stride=1, padding=0, output_padding=0, dilation=1, groups=1):
    """Every pixel paints its kernel."""
    (sh, sw), (ph, pw), (dh, dw_) = window({"stride": stride, "padding": padding, "dilation": dilation})
    mh, mw = output_padding if isinstance(output_padding, tuple) else (output_padding,) * 2
    N, C, P, Q = x.shape
    _, c, kh, kw = weight.shape
    H, W = (P - 1) * sh - 2 * ph + dh * (kh - 1) + mh + 1, (Q - 1) * sw - 2 * pw + dw_ * (kw - 1) + mw + 1
    y = np.zeros((N, c * groups, H, W)) + bias[:, None, None]
    dx, dw = np.zeros(x.shape), np.zeros(weight.shape)
    for n, k, p, q in itertools.product(range(N), range(C), range(P), range(Q)):
        for o, i, j in itertools.product(range(c), range(kh), range(kw)):
            out, h, w = k // (C // groups) * c + o, p * sh + i * dh - ph, q * sw + j * dw_ - pw
            if 0 <= h < H and 0 <= w < W:
                y[n, out, h, w] += x[n, k, p, q] * weight[k, o, i, j]
                if dy is not None:
                    dx[n, k, p, q] += dy[n, out, h, w] * weight[k, o, i, j]
                    dw[k, o, i, j] += dy[n, out, h, w] * x[n, k, p, q]
    return y if dy is None else (dx, dw, dy.sum((0, 2, 3)))


def pool_loops(x, dy, *, kernel_size, stride=None, padding=0, dilation=1, kind="max", count_include_pad=True):
    """Value and gradient of a maximum whose first one in scan order wins, or of a mean."""
    both = lambda v: v if isinstance(v, tuple) else (v, v)  # noqa: E731
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = map(both, (kernel_size, stride or kernel_size, padding, dilation))
    N, C, H, W = x.shape
    P, Q = (H + 2 * ph - dh * (kh - 1) - 1) // sh + 1, (W + 2 * pw - dw * (kw - 1) - 1) // sw + 1
    y, dx = np.zeros((N, C, P, Q)), np.zeros(x.shape)
    for n, c, p, q in itertools.product(range(N), range(C), range(P), range(Q)):
        inside = [
            (p * sh + i * dh - ph, q * sw + j * dw - pw)
            for i in range(kh)
            for j in range(kw)
            if 0 <= p * sh + i * dh - ph < H and 0 <= q * sw + j * dw - pw < W
        ]
        if kind == "max":
            best = inside[0]
            for place in inside:
                if x[n, c][place] > x[n, c][best]:
                    best = place
            y[n, c, p, q] = x[n, c][best]
            dx[n, c][best] += dy[n, c, p, q]
        else:
            count = kh * kw if count_include_pad else len(inside)
            for place in inside:
                y[n, c, p, q] += x[n, c][place] / count
                dx[n, c][place] += dy[n, c, p, q] / count
    return y, dx


def a_number_or_a_pair(low, high):
    return st.integers(low, high) | st.tuples(st.integers(low, high), st.integers(low, high))


SEEDS = st.integers(0, 2**32 - 1)
CONV = st.fixed_dictionaries(
    {
        "stride": a_number_or_a_pair(1, 3),
        "padding": a_number_or_a_pair(0, 3),
        "dilation": a_number_or_a_pair(1, 3),
        "groups": st.integers(1, 3),
    }
)
KERNEL = st.tuples(st.integers(1, 3), st.integers(1, 3))


def agree(ours, theirs, tolerance):
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        assert error(a, b) <= tolerance


def compare(op, loops, torch_op, arrays, options, rng):
    """Value and all gradients: loops and PyTorch in float64, PyTorch in float32."""
    dy = rng.normal(size=loops(*arrays, **options).shape)
    ours = pulled(op, *arrays, dy=dy, **options)
    agree(ours, (loops(*arrays, **options), *loops(*arrays, dy, **options)), 1e-13)
    agree(ours, torch_pulled(torch_op, *arrays, dy=dy, **options), 1e-13)
    single = [a.astype(np.float32) for a in (*arrays, dy)]
    in_single = pulled(op, *single[:-1], dy=single[-1], **options)
    assert {a.dtype for a in in_single} == {np.dtype(np.float32)}
    agree(in_single, ours, 2e-5)


@given(SEEDS, CONV, KERNEL, st.integers(1, 2), st.integers(1, 2))
def test_conv2d_is_its_loops_and_torch(seed, options, kernel, per_group, out_per_group):
    rng, groups = np.random.default_rng(seed), options["groups"]
    (_, padding, dilation) = window(options)
    size = rng.integers(1, 8, 2)
    assume(all(n + 2 * p >= d * (k - 1) + 1 for n, p, d, k in zip(size, padding, dilation, kernel, strict=True)))
    x = rng.normal(size=(2, groups * per_group, *size))
    weight = rng.normal(size=(groups * out_per_group, per_group, *kernel))
    compare(conv2d, conv2d_loops, F.conv2d, (x, weight, rng.normal(size=len(weight))), options, rng)


@given(SEEDS, st.integers(1, 3), st.integers(0, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4))
def test_conv1d_is_its_loops_and_torch(seed, stride, padding, dilation, groups, kernel):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 10))
    assume(size + 2 * padding >= dilation * (kernel - 1) + 1)
    x, weight = rng.normal(size=(2, 2 * groups, size)), rng.normal(size=(groups, 2, kernel))
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    compare(conv1d, conv1d_loops, F.conv1d, (x, weight, rng.normal(size=groups)), options, rng)


@given(SEEDS, CONV, KERNEL, a_number_or_a_pair(0, 2))
def test_conv_transpose2d_is_its_loops_and_torch(seed, options, kernel, more):
    rng, groups = np.random.default_rng(seed), options["groups"]
    stride, padding, dilation = window(options)
    size = rng.integers(1, 4, 2)
    extra = more if isinstance(more, tuple) else (more, more)
    for n, k, s, p, d, m in zip(size, kernel, stride, padding, dilation, extra, strict=True):
        assume(m < max(s, d) and (n - 1) * s - 2 * p + d * (k - 1) + m + 1 >= 1)
    x = rng.normal(size=(2, groups, *size))
    weight = rng.normal(size=(groups, 2, *kernel))
    options = {**options, "output_padding": more}
    arrays = (x, weight, rng.normal(size=2 * groups))
    compare(conv_transpose2d, conv_transpose2d_loops, F.conv_transpose2d, arrays, options, rng)


POOL = st.fixed_dictionaries(
    {
        "kernel_size": a_number_or_a_pair(1, 4),
        "stride": st.none() | a_number_or_a_pair(1, 3),
        "padding": a_number_or_a_pair(0, 2),
        "dilation": a_number_or_a_pair(1, 2),
    }
)


def pool_fits(size, options):
    """Whether every window fits and has a tap inside the image."""
    both = lambda v: v if isinstance(v, tuple) else (v, v)  # noqa: E731
    kernel, padding, dilation = (both(options[key]) for key in ("kernel_size", "padding", "dilation"))
    stride = both(options["stride"] or options["kernel_size"])
    for n, k, p, d, s in zip(size, kernel, padding, dilation, stride, strict=True):
        span = (k - 1) * d + 1
        if n + 2 * p < span or p > k // 2:
            return False
        for first in range(-p, n + p - span + 1, s):
            if not any(0 <= first + i * d < n for i in range(k)):
                return False
    return True


@given(SEEDS, POOL)
def test_max_pool2d_is_its_loops_and_torch_ties_included(seed, options):
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 8, 2)
    assume(pool_fits(size, options))
    x = rng.integers(0, 3, (2, 2, *size)).astype(float)  # few values: most windows have a tie
    dy = rng.normal(size=max_pool2d(x, **options).shape)
    y, dx = pulled(max_pool2d, x, dy=dy, **options)
    agree((y, dx), pool_loops(x, dy, **options), 1e-14)
    agree((y, dx), torch_pulled(F.max_pool2d, x, dy=dy, **options), 1e-14)


@given(SEEDS, POOL, st.booleans())
def test_avg_pool2d_is_its_loops_and_torch(seed, options, count_include_pad):
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 8, 2)
    options = {**options, "dilation": 1}
    assume(pool_fits(size, options))
    del options["dilation"]
    options["count_include_pad"] = count_include_pad
    x = rng.normal(size=(2, 2, *size))
    dy = rng.normal(size=avg_pool2d(x, **options).shape)
    y, dx = pulled(avg_pool2d, x, dy=dy, **options)
    agree((y, dx), pool_loops(x, dy, kind="mean", **options), 1e-13)
    agree((y, dx), torch_pulled(F.avg_pool2d, x, dy=dy, **options), 1e-13)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, (2, 5)])
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_same_keeps_the_size_as_torch_does(rng, kernel, dilation):
    x = rng.normal(size=(2, 3, 6, 7))
    shape = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    weight, bias = rng.normal(size=(4, 3, *shape)), rng.normal(size=4)
    dy = rng.normal(size=(2, 4, 6, 7))
    options = {"padding": "same", "dilation": dilation}
    agree(
        pulled(conv2d, x, weight, bias, dy=dy, **options),
        torch_pulled(F.conv2d, x, weight, bias, dy=dy, **options),
        1e-13,
    )
    if not dilation * (max(shape) - 1) >= 6:
        assert np.array_equal(
            conv2d(x, weight, padding="valid", dilation=dilation), conv2d(x, weight, dilation=dilation)
        )


@pytest.mark.parametrize(("N", "C", "H", "O", "k"), ISSUE_SHAPES)
def test_blocks_of_images_change_nothing(rng, N, C, H, O, k):  # noqa: E741
    """At these sizes a batch is worked on in several blocks; against PyTorch in float64."""
    x, weight, bias = rng.normal(size=(N, C, H, H)), rng.normal(size=(O, C, k, k)), rng.normal(size=O)
    dy = rng.normal(size=(N, O, H - k + 1, H - k + 1))
    theirs = torch_pulled(F.conv2d, x, weight, bias, dy=dy)
    agree(pulled(conv2d, x, weight, bias, dy=dy), theirs, 1e-12)
    single = [a.astype(np.float32) for a in (x, weight, bias)]
    agree(pulled(conv2d, *single, dy=dy.astype(np.float32)), theirs, 2e-5)


# By hand --------------------------------------------------------------------------------------------------------------


def test_conv1d_by_hand():
    """Two taps over three numbers: a difference of neighbours."""
    x, weight = np.array([[[1.0, 4.0, 9.0]]]), np.array([[[-1.0, 1.0]]])
    y, dx, dw = pulled(conv1d, x, weight, dy=[[[1.0, 10.0]]])
    assert np.array_equal(y, [[[3, 5]]])
    assert np.array_equal(dx, [[[-1, 1 - 10, 10]]])  # the middle one is in both windows: what comes back adds
    assert np.array_equal(dw, [[[1 * 1 + 10 * 4, 1 * 4 + 10 * 9]]])


def test_conv2d_by_hand():
    x = np.array([[[[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]]])
    weight = np.array([[[[1.0, 0], [0, -1]]]])
    y, dx, dw, db = pulled(conv2d, x, weight, np.array([10.0]), dy=[[[[1.0, 0], [0, 2]]]])
    assert np.array_equal(y, [[[[6, 6], [6, 6]]]])
    assert np.array_equal(dx, [[[[1, 0, 0], [0, -1 + 2, 0], [0, 0, -2]]]])
    assert np.array_equal(dw, [[[[1 + 10, 2 + 12], [4 + 16, 5 + 18]]]])
    assert np.array_equal(db, [3])


def test_conv_transpose2d_by_hand():
    """Two pixels paint a kernel of three, two apart; they meet in the middle."""
    x, weight = np.array([[[[1.0, 10.0]]]]), np.array([[[[1.0, 2.0, 3.0]]]])
    y, dx, dw = pulled(conv_transpose2d, x, weight, dy=[[[[1.0, 1, 1, 0, 0]]]], stride=2)
    assert np.array_equal(y, [[[[1, 2, 3 + 10, 20, 30]]]])
    assert np.array_equal(dx, [[[[6, 1]]]])
    assert np.array_equal(dw, [[[[1 + 10, 1, 1]]]])


@pytest.mark.parametrize(("padding", "last"), [(1, [101, 102, 101, 102, 101, 101]), (0, [100] * 8)])
def test_output_padding_gives_back_what_padding_took_off(padding, last):
    """The additional row meets weights if there is padding to give back, and holds the bias alone if not."""
    ones = np.ones((1, 1, 3, 3))
    y = conv_transpose2d(ones, ones, np.array([100.0]), stride=2, padding=padding, output_padding=1)
    assert np.array_equal(y[0, 0, -1], last)


def test_max_pool2d_by_hand():
    x = np.array([[[[1.0, 2, 5, 5], [3, 3, 0, 5]]]])
    y, dx = pulled(max_pool2d, x, dy=[[[[7.0, 8.0]]]], kernel_size=2)
    assert np.array_equal(y, [[[[3, 5]]]])
    assert np.array_equal(dx, [[[[0, 0, 8, 0], [7, 0, 0, 0]]]])


def test_an_entry_that_wins_twice_is_paid_twice():
    x = np.array([[[[0.0, 9.0, 0.0]]]])
    _, dx = pulled(max_pool2d, x, dy=[[[[2.0, 3.0]]]], kernel_size=(1, 2), stride=1)
    assert np.array_equal(dx, [[[[0, 5, 0]]]])


def test_a_window_of_padding_alone_is_minus_infinity():
    y = max_pool2d(np.ones((1, 1, 1, 3)), kernel_size=(1, 2), stride=1, padding=(0, 1), dilation=(1, 4))
    assert np.array_equal(y, [[[[-np.inf]]]])


def test_a_nan_wins_and_passes_no_derivative_on():
    x = np.array([[[[1.0, np.nan, 2.0, 3.0]]]])
    y, dx = pulled(max_pool2d, x, dy=[[[[5.0, 7.0]]]], kernel_size=(1, 2))
    assert np.array_equal(y, [[[[np.nan, 3]]]], equal_nan=True)
    assert np.array_equal(dx, [[[[0, 0, 0, 7]]]])
    _, theirs = torch_pulled(F.max_pool2d, x, dy=np.array([[[[5.0, 7.0]]]]), kernel_size=(1, 2))
    assert np.array_equal(theirs, [[[[0, 5, 0, 7]]]]), "the docstring says how PyTorch differs"


def test_avg_pool2d_by_hand():
    x = np.array([[[[4.0, 8.0], [0.0, 4.0]]]])
    y, dx = pulled(avg_pool2d, x, dy=[[[[8.0]]]], kernel_size=2)
    assert np.array_equal(y, [[[[4]]]])
    assert np.array_equal(dx, np.full((1, 1, 2, 2), 2))
    edge = avg_pool2d(x, kernel_size=2, padding=1)
    assert edge[0, 0, 0, 0] == 1, "three of the four are padding"
    assert avg_pool2d(x, kernel_size=2, padding=1, count_include_pad=False)[0, 0, 0, 0] == 4


def test_global_avg_pool2d_by_hand():
    y, dx = pulled(global_avg_pool2d, np.array([[[[1.0, 3.0]], [[5.0, 5.0]]]]), dy=[[2.0, 4.0]])
    assert np.array_equal(y, [[2, 5]])
    assert np.array_equal(dx, [[[[1, 1]], [[2, 2]]]])


# Sizes ----------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 4), st.integers(0, 4), st.integers(1, 3))
def test_the_size_is_the_number_of_places_where_the_window_fits(size, kernel, stride, padding, dilation):
    places = 0
    first = -padding
    while first + (kernel - 1) * dilation < size + padding:
        places += 1
        first += stride
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    if places:
        assert conv_output_size(size, kernel, **options) == places
    else:
        with pytest.raises(ValueError, match=rf"size of {size} with padding {padding}.*dilation {dilation} spans"):
            conv_output_size(size, kernel, **options)


def test_sizes_by_words():
    assert conv_output_size(28, 5) == 24
    assert conv_output_size(28, 5, padding="same") == 28
    assert conv_output_size(28, 5, padding="valid") == 24
    assert conv_output_size(7, 3, stride=2) == conv_output_size(8, 3, stride=2) == 3


# Columns and matrices -------------------------------------------------------------------------------------------------

SOME = [
    {},
    {"stride": 2, "padding": 1},
    {"stride": (1, 3), "padding": (2, 0), "dilation": (1, 2)},
    {"dilation": 2, "padding": 2},
]


@pytest.mark.parametrize("options", SOME, ids=str)
def test_im2col_and_col2im_are_unfold_and_fold(rng, options):
    x = rng.normal(size=(2, 3, 7, 8))
    columns = im2col(x, (3, 2), **options)
    assert np.array_equal(columns, F.unfold(torch.tensor(x), (3, 2), **options).numpy())
    other = rng.normal(size=columns.shape)
    back = col2im(other, (7, 8), (3, 2), **options)
    assert np.allclose(back, F.fold(torch.tensor(other), (7, 8), (3, 2), **options).numpy(), rtol=1e-13, atol=1e-14)
    assert np.isclose((columns * other).sum(), (x * back).sum(), rtol=1e-12), "each is the adjoint of the other"


def test_col2im_counts_how_many_windows_see_a_pixel():
    ones = np.ones((1, 2, 3))
    assert np.array_equal(col2im(ones, (1, 4), (1, 2)), [[[[1, 2, 2, 1]]]])


def test_a_convolution_is_a_product_with_columns(rng):
    x, weight = rng.normal(size=(2, 3, 6, 7)), rng.normal(size=(4, 3, 3, 2))
    product = weight.reshape(4, -1) @ im2col(x, (3, 2), stride=2, padding=1)
    assert np.allclose(product.reshape(2, 4, 3, 4), conv2d(x, weight, stride=2, padding=1), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("options", [*SOME, {"padding": "same", "dilation": 2}], ids=str)
def test_the_matrix_is_the_convolution_and_its_transpose_the_vjp(rng, options, groups):
    options = {**options, "groups": groups}
    x, weight = rng.normal(size=(2, 4, 6, 7)), rng.normal(size=(6, 4 // groups, 3, 2))
    matrix = conv2d_matrix(weight, (6, 7), **options)
    dy = rng.normal(size=conv2d(x, weight, **options).shape)
    y, dx, _ = pulled(conv2d, x, weight, dy=dy, **options)
    assert np.allclose(y.reshape(2, -1), x.reshape(2, -1) @ matrix.T, rtol=1e-12, atol=1e-13)
    assert np.allclose(dx.reshape(2, -1), dy.reshape(2, -1) @ matrix, rtol=1e-12, atol=1e-13)
    if not isinstance(options.get("padding"), str):
        stride, padding, dilation = window({"stride": 1, "padding": 0, "dilation": 1, **options})
        rest = tuple(
            n + 2 * p - d * (k - 1) - 1 - (m - 1) * s
            for n, p, d, k, m, s in zip((6, 7), padding, dilation, (3, 2), y.shape[2:], stride, strict=True)
        )
        back = conv_transpose2d(dy, weight, output_padding=rest, **options)
        assert np.allclose(back, dx, rtol=1e-12, atol=1e-13), "the transposed convolution is the transpose"


def test_the_matrix_by_hand():
    matrix = conv2d_matrix(np.array([[[[1.0, 2.0]]]]), (1, 4))
    assert np.array_equal(matrix, [[1, 2, 0, 0], [0, 1, 2, 0], [0, 0, 1, 2]])


def test_convolution_is_correlation_with_the_flipped_kernel(rng):
    x, weight = rng.normal(size=(6, 7)), rng.normal(size=(3, 2))
    ours = conv2d(x[None, None], flip(weight)[None, None])[0, 0]
    assert np.allclose(ours, scipy.signal.convolve2d(x, weight, mode="valid"), rtol=1e-12)
    assert np.allclose(
        conv2d(x[None, None], weight[None, None])[0, 0], scipy.signal.correlate2d(x, weight, mode="valid"), rtol=1e-12
    )
    assert np.array_equal(flip(weight), torch.flip(torch.tensor(weight), (-2, -1)).numpy())


def test_a_1_x_1_convolution_is_a_linear_layer_at_every_pixel(rng):
    x, weight, bias = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(6, 3)), rng.normal(size=6)
    everywhere = linear(x.transpose(0, 2, 3, 1), weight, bias).transpose(0, 3, 1, 2)
    assert np.allclose(conv2d(x, weight[:, :, None, None], bias), everywhere, rtol=1e-12, atol=1e-13)


def test_groups_are_convolutions_side_by_side(rng):
    x, weight = rng.normal(size=(2, 4, 5, 5)), rng.normal(size=(6, 2, 3, 3))
    halves = [conv2d(x[:, 2 * g : 2 * g + 2], weight[3 * g : 3 * g + 3]) for g in range(2)]
    assert np.allclose(conv2d(x, weight, groups=2), np.concatenate(halves, 1), rtol=1e-12, atol=1e-13)


# Equivariance ---------------------------------------------------------------------------------------------------------


def test_a_shifted_image_gives_a_shifted_map(rng):
    x, weight = np.zeros((1, 2, 12, 12)), rng.normal(size=(3, 2, 3, 3))
    x[:, :, 3:7, 4:8] = rng.normal(size=(1, 2, 4, 4))  # far from the border, so that nothing falls off
    moved = np.roll(x, (2, -1), (2, 3))
    y = conv2d(x, weight, padding=1)
    assert np.allclose(conv2d(moved, weight, padding=1), np.roll(y, (2, -1), (2, 3)), rtol=1e-13, atol=1e-15)
    assert np.allclose(global_avg_pool2d(conv2d(moved, weight, padding=1)), global_avg_pool2d(y), rtol=1e-12)


@pytest.mark.parametrize("f", ["conv", "max", "avg"])
def test_with_a_stride_only_multiples_of_it_commute(rng, f):
    x = np.zeros((1, 1, 12, 12))
    x[:, :, 4:8, 4:8] = rng.uniform(1, 2, size=(1, 1, 4, 4))
    weight = rng.normal(size=(1, 1, 3, 3))
    layer = {
        "conv": lambda x: conv2d(x, weight, stride=2, padding=1),
        "max": lambda x: max_pool2d(x, kernel_size=2),
        "avg": lambda x: avg_pool2d(x, kernel_size=2),
    }[f]
    y = layer(x)
    assert np.allclose(layer(np.roll(x, 2, 2)), np.roll(y, 1, 2), rtol=1e-13, atol=1e-15)
    by_one = layer(np.roll(x, 1, 2))
    assert min(np.abs(by_one - np.roll(y, k, 2)).max() for k in range(-2, 3)) > 1e-3


def test_the_border_breaks_equivariance_where_zeros_come_in(rng):
    x, weight = rng.uniform(1, 2, (1, 1, 6, 6)), np.ones((1, 1, 3, 3))
    y, moved = conv2d(x, weight, padding=1), conv2d(np.roll(x, 1, 2), weight, padding=1)
    assert np.allclose(moved[:, :, 2:-1], y[:, :, 1:-2])
    assert not np.allclose(moved[:, :, 0], y[:, :, -1])


# Initialization -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 4])
def test_conv2d_init_draws_as_torch_does(rng, groups):
    params = conv2d_init(rng, 8, 256, (5, 3), groups=groups)
    twin = torch.nn.Conv2d(8, 256, (5, 3), groups=groups)
    bound = 1 / math.sqrt(8 // groups * 15)
    for name, leaf in params.items():
        theirs = twin.state_dict()[name].numpy()
        assert leaf.shape == theirs.shape
        assert leaf.dtype == np.float32
        for draw in (leaf, theirs):
            assert np.abs(draw).max() <= bound * (1 + 1e-6)
            assert np.abs(draw).max() > 0.95 * bound
    assert abs(params["weight"].std() / (bound / math.sqrt(3)) - 1) < 0.05
    assert "bias" not in conv2d_init(rng, 8, 8, 1, bias=False)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0, 3, 3), {}, "numbers of channels .* at least 1"),
        ((3, 3, 0), {}, "kernel_size .* at least 1, not 0"),
        ((3, 4, 3), {"groups": 2}, "groups=2 does not divide 3 and 4"),
        ((3, 4, 3), {"dtype": int}, "dtype of floats"),
    ],
)
def test_conv2d_init_refuses(rng, arguments, options, message):
    with pytest.raises(ValueError, match=message):
        conv2d_init(rng, *arguments, **options)
    with pytest.raises(ValueError, match="must be a numpy"):
        conv2d_init(6, 1, 1, 1)


# Batch normalization of images ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
def test_batch_norm2d_is_that_of_torch_in_both_modes(rng, momentum):
    params, state = batch_norm_init(3, dtype=np.float64)
    params = {"weight": rng.uniform(0.5, 2, 3), "bias": rng.normal(size=3)}
    twin = torch.nn.BatchNorm2d(3, momentum=momentum, dtype=torch.float64)
    twin.load_state_dict(to_torch(params) | to_torch(state))
    for step in range(5):
        training = step != 3
        twin.train(training)
        x, dy = 2 + 3 * rng.normal(size=(4, 3, 5, 2)), rng.normal(size=(4, 3, 5, 2))
        tensor = torch.tensor(x, requires_grad=True)
        twin.zero_grad()
        theirs = twin(tensor)
        theirs.backward(torch.tensor(dy))
        before = state

        def layer(params, x, state=state, training=training):
            return batch_norm2d(params, state, x, training=training, momentum=momentum)[0]

        y, pull = vjp(layer, params, x)
        grads, dx = pull(dy)
        _, state = batch_norm2d(params, state, x, training=training, momentum=momentum)
        assert (state is before) == (not training)
        agree((y, dx), (theirs.detach().numpy(), tensor.grad.numpy()), 1e-12)
        agree(grads.values(), (twin.weight.grad.numpy(), twin.bias.grad.numpy()), 1e-12)
        for name, value in state.items():
            assert np.allclose(value, twin.state_dict()[name].numpy(), rtol=1e-12), name


def test_batch_norm2d_takes_images_only():
    params, state = batch_norm_init(3)
    with pytest.raises(ValueError, match=r"\(N, C, H, W\), not \(4, 3\)"):
        batch_norm2d(params, state, np.ones((4, 3)), training=True)


def test_a_bias_before_a_batch_norm_is_lost(rng):
    params, state = batch_norm_init(2, dtype=np.float64)
    x, bias = rng.normal(size=(3, 2, 4, 4)), rng.normal(size=(2, 1, 1))
    with_bias, _ = batch_norm2d(params, state, x + bias, training=True)
    without, _ = batch_norm2d(params, state, x, training=True)
    assert np.allclose(with_bias, without, atol=1e-12)


# Receptive fields and costs -------------------------------------------------------------------------------------------


def test_receptive_fields_by_hand():
    """Two 3 x 3 see 5, a pool in between doubles the jump."""
    assert receptive_field([{"kernel_size": 3}, {"kernel_size": 3}]) == [Field(3, 1, 0), Field(5, 1, 0)]
    pooled = receptive_field(
        [{"kernel_size": 3, "padding": 1}, {"kernel_size": 2, "stride": 2}, {"kernel_size": 3, "padding": 1}]
    )
    assert pooled == [Field(3, 1, -1), Field(4, 2, -1), Field(8, 2, -3)]
    assert receptive_field([]) == []


@given(
    SEEDS,
    st.lists(
        st.fixed_dictionaries(
            {
                "kernel_size": st.integers(1, 3),
                "stride": st.integers(1, 2),
                "padding": st.integers(0, 1),
                "dilation": st.integers(1, 2),
            }
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_a_unit_depends_on_its_field_and_on_nothing_else(seed, layers):
    """The gradient of one unit, with positive kernels so that nothing cancels, is nonzero on the edges of its field."""
    rng, size = np.random.default_rng(seed), 40

    def network(x):
        for layer in layers:
            options = {key: value for key, value in layer.items() if key != "kernel_size"}
            x = conv1d(x, np.ones((1, 1, layer["kernel_size"])), **options)
        return x

    y, pull = vjp(network, np.ones((1, 1, size)))
    unit = int(rng.integers(y.shape[2]))
    dy = np.zeros(y.shape)
    dy[0, 0, unit] = 1
    seen = np.flatnonzero(pull(dy)[0][0, 0])
    field = receptive_field(layers)[-1]
    first = field.start + unit * field.jump
    last = first + field.size - 1
    padded = any(layer["padding"] for layer in layers)
    if not padded or (first >= 4 and last < size - 4):
        assert (seen.min(), seen.max()) == (first, last)
    else:
        assert seen.size == 0 or (seen.min() >= max(first, 0) and seen.max() <= last)


@pytest.mark.parametrize(
    ("dilations", "size", "count"), [((2,), 5, 3), ((1, 2, 4, 8), 31, 31), ((2, 2, 2), 13, 7), ((1, 4), 11, 9)], ids=str
)
def test_a_field_is_a_span_and_may_have_gaps(dilations, size, count):
    """No gap as long as no tap reaches farther than what one tap sees."""
    stack = [{"kernel_size": 3, "dilation": d} for d in dilations]

    def network(x):
        for layer in stack:
            x = conv1d(x, np.ones((1, 1, 3)), dilation=layer["dilation"])
        return x

    y, pull = vjp(network, np.zeros((1, 1, 60)))
    dy = np.zeros(y.shape)
    dy[0, 0, 10] = 1
    seen = np.flatnonzero(pull(dy)[0][0, 0])
    fields = receptive_field(stack)
    assert (fields[-1].size, seen.max() - seen.min() + 1, len(seen)) == (size, size, count)
    before = [1, *(field.size for field in fields[:-1])]
    assert (size == count) == all(d <= field for d, field in zip(dilations, before, strict=True))


@pytest.mark.parametrize("stride", range(1, 7))
@pytest.mark.parametrize("dilation", range(1, 7))
def test_how_many_places_a_convolution_sees(stride, dilation):
    """Of `stride` neighbours in the interior, min(K, stride / gcd(stride, dilation))."""
    for kernel in range(1, 6):
        y, pull = vjp(
            lambda x, k=kernel: conv1d(x, np.ones((1, 1, k)), stride=stride, dilation=dilation), np.zeros((1, 1, 90))
        )
        seen = pull(np.ones(y.shape))[0][0, 0] != 0
        first = dilation * (kernel - 1) + stride
        assert seen[first : first + stride].sum() == min(kernel, stride // math.gcd(stride, dilation))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"stride": 2}, "layer 1 must have kernel_size"),
        ({"kernel_size": 3, "strides": 2}, "layer 1 must have kernel_size and may have.*strides"),
        ({"kernel_size": 3, "stride": 0}, "layer 1: stride must be an integer, at least 1, not 0"),
    ],
)
def test_receptive_field_refuses(layer, message):
    with pytest.raises(ValueError, match=message):
        receptive_field([{"kernel_size": 3}, layer])


@pytest.mark.parametrize("options", [*SOME, {"groups": 2, "padding": 1}], ids=str)
def test_multiply_adds_are_what_the_loops_and_torch_count(rng, options):
    weight_shape = (6, 4 // options.get("groups", 1), 3, 2)
    cost = conv2d_cost((4, 7, 8), weight_shape, **options)
    twin = torch.nn.Conv2d(4, 6, (3, 2), **options)
    assert cost.parameters == sum(p.numel() for p in twin.parameters())
    assert conv2d_cost((4, 7, 8), weight_shape, bias=False, **options).parameters == cost.parameters - 6
    with FlopCounterMode(display=False) as counter:
        y = twin(torch.ones(1, 4, 7, 8))
    assert 2 * cost.multiply_adds == counter.get_total_flops()
    assert cost.multiply_adds == y.numel() * math.prod(weight_shape[1:])


def test_a_separable_convolution_is_a_full_one_of_rank_one_per_pair_and_cheaper(rng):
    params = separable_conv2d_init(rng, 4, 6, 3, dtype=np.float64)
    x = rng.normal(size=(2, 4, 6, 6))
    full = params["pointwise"]["weight"] * params["depthwise"]["weight"].transpose(1, 0, 2, 3)
    y = separable_conv2d(params, x, stride=2, padding=1)
    assert np.allclose(y, conv2d(x, full, params["pointwise"]["bias"], stride=2, padding=1), rtol=1e-11, atol=1e-13)
    assert parameter_count(params) == 4 * 9 + 4 * 6 + 6
    assert conv2d_cost((4, 6, 6), (6, 4, 3, 3), padding=1) == Cost(6 * 4 * 9 + 6, 36 * 6 * 4 * 9)
    depthwise = conv2d_cost((4, 6, 6), (4, 1, 3, 3), padding=1, groups=4, bias=False)
    assert depthwise == Cost(36, 36 * 36)


# Networks and their twins ---------------------------------------------------------------------------------------------


def nll(model):
    return lambda params, x, labels: cross_entropy(model(params, x), labels)


NETWORKS = {
    "small_cnn": (small_cnn, small_cnn_init, twins.small_cnn),
    "lenet5": (lenet5, lenet5_init, twins.lenet5),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_their_twins_in_logits_and_in_every_gradient(rng, tmp_path, name, dtype):
    """Both ways through a file: our parameters into the twin, the twin's own back to us."""
    network, init, make = NETWORKS[name]
    tolerance = 1e-12 if dtype == np.float64 else 3e-5
    params, twin = init(rng, dtype=dtype), make().to(to_torch({"p": np.zeros(0, dtype)})["p"].dtype)
    x, labels = rng.random((5, 1, 28, 28)).astype(dtype), rng.integers(10, size=5)
    path = tmp_path / "weights.safetensors"
    for direction in ("ours", "theirs"):
        if direction == "ours":
            save(path, params)
            twin.load_state_dict(safetensors.torch.load_file(path))
        else:
            for p in twin.parameters():
                torch.nn.init.normal_(p, std=0.05, generator=torch.Generator().manual_seed(1))
            safetensors.torch.save_file(twin.state_dict(), path)
            params = load(path)
        image = torch.tensor(x, requires_grad=True)
        twin.zero_grad()
        logits = twin(image)
        F.cross_entropy(logits, torch.tensor(labels)).backward()
        assert error(network(params, x), logits.detach().numpy()) <= tolerance
        _, pull = vjp(lambda p, x: cross_entropy(network(p, x), labels), params, x)
        grads, dx = pull(np.ones((), dtype))
        assert error(dx, image.grad.numpy()) <= tolerance
        theirs = dict(twin.named_parameters())
        assert flatten(grads).keys() == theirs.keys()
        for key, g in flatten(grads).items():
            assert g.dtype == dtype
            assert error(g, theirs[key].grad.numpy()) <= tolerance, key


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_train_in_lockstep_with_their_twins(rng, name):
    network, init, make = NETWORKS[name]
    x, labels = rng.random((8, 1, 28, 28)), rng.integers(10, size=8)

    def torch_loss(twin, x, y):
        return F.cross_entropy(twin(x), y)

    differences = lockstep(
        init(rng, dtype=np.float64),
        nll(network),
        make(),
        torch_loss,
        [(x, labels)] * 4,
        optimizer=(adam_init, adam),
        lr=1e-3,
    )
    assert np.max(differences) < 1e-8


def test_options_of_the_small_networks(rng):
    params = small_cnn_init(rng, channels=4, hidden=5, classes=3)
    twin = twins.small_cnn(channels=4, hidden=5, classes=3)
    twin.load_state_dict(to_torch(params))
    assert small_cnn(params, np.ones((2, 1, 28, 28), np.float32)).shape == (2, 3)
    assert lenet5(lenet5_init(rng, classes=4), np.ones((2, 1, 28, 28), np.float32)).shape == (2, 4)
    twins.lenet5(classes=4).load_state_dict(to_torch(lenet5_init(rng, classes=4)))
    assert parameter_count(lenet5_init(rng)) == 61_706
    assert parameter_count(small_cnn_init(rng)) == 32 * 10 + 64 * (32 * 169 + 1) + 10 * 65


def test_inception_is_its_twin(rng):
    sizes = {"out1": 3, "reduce3": 2, "out3": 4, "reduce5": 2, "out5": 3, "out_pool": 2}
    params = inception_init(rng, 5, **sizes, dtype=np.float64)
    twin = twins.inception(5, **sizes).double()
    twin.load_state_dict(to_torch(params))
    x, dy = rng.normal(size=(2, 5, 7, 6)), rng.normal(size=(2, 12, 7, 6))
    image = torch.tensor(x, requires_grad=True)
    theirs = twin(image)
    theirs.backward(torch.tensor(dy))
    y, pull = vjp(inception, params, x)
    grads, dx = pull(dy)
    agree((y, dx), (theirs.detach().numpy(), image.grad.numpy()), 1e-12)
    for key, p in twin.named_parameters():
        assert error(flatten(grads)[key], p.grad.numpy()) <= 1e-12, key
    default = inception(inception_init(rng, 5), x.astype(np.float32))
    assert default.shape == (2, 16 + 24 + 8 + 8, 7, 6)
    twins.inception(5).load_state_dict(to_torch(inception_init(rng, 5)))


@pytest.mark.parametrize("options", [{}, {"widths": (4, 6), "blocks": 2, "in_channels": 3, "classes": 5}], ids=str)
def test_the_residual_network_is_its_twin_in_both_modes(rng, tmp_path, options):
    params, state = resnet_init(rng, **options, dtype=np.float64)
    twin = twins.resnet(**options).double()
    assert (flatten(params) | flatten(state)).keys() == twin.state_dict().keys()
    twin.load_state_dict(to_torch(params) | to_torch(state))
    shape = (4, options.get("in_channels", 1), 9, 8)
    for training in (True, True, False):
        twin.train(training)
        x = rng.normal(size=shape)
        image = torch.tensor(x, requires_grad=True)
        twin.zero_grad()
        theirs = twin(image)
        dy = rng.normal(size=theirs.shape)
        theirs.backward(torch.tensor(dy))
        y, pull = vjp(lambda p, x: resnet(p, state, x, training=training)[0], params, x)  # noqa: B023
        grads, dx = pull(dy)
        new = resnet(params, state, x, training=training)[1]
        agree((y, dx), (theirs.detach().numpy(), image.grad.numpy()), 1e-11)
        for key, p in twin.named_parameters():
            assert error(flatten(grads)[key], p.grad.numpy()) <= 1e-10, key
        for key, value in flatten(new).items():
            assert np.allclose(value, twin.state_dict()[key].numpy(), rtol=1e-11, atol=1e-13), key
            assert training != np.array_equal(value, flatten(state)[key]), "evaluation leaves the statistics alone"
        state = new
    path = tmp_path / "resnet.safetensors"
    save(path, unflatten(flatten(params) | flatten(state)))
    twins.resnet(**options).double().load_state_dict(safetensors.torch.load_file(path))
    both = flatten(from_torch(twin.state_dict()))
    assert np.array_equal(both["conv1.weight"], params["conv1"]["weight"])


def test_a_residual_block_of_zeros_passes_its_input_through(rng):
    """And so does the gradient: what the two convolutions learn is added to 1."""
    params, state = residual_block_init(rng, 3, 3, dtype=np.float64)
    assert "downsample" not in params
    params["bn2"]["weight"][:] = 0
    x = rng.uniform(0.5, 2, (2, 3, 5, 5))
    y, pull = vjp(lambda x: residual_block(params, state, x, training=True)[0], x)
    dy = rng.normal(size=x.shape)
    assert np.allclose(y, x)
    assert np.allclose(pull(dy)[0], dy)


def test_a_residual_block_with_a_stride_needs_a_shortcut_that_fits(rng):
    params, state = residual_block_init(rng, 3, 4, stride=2)
    y, new = residual_block(params, state, np.ones((2, 3, 5, 6), np.float32), stride=2, training=True)
    assert y.shape == (2, 4, 3, 3)
    assert y.dtype == np.float32
    assert flatten(new).keys() == flatten(state).keys()
    assert set(params["downsample"]) == {"0", "1"}


def test_networks_start_as_torchs_layers_do(rng):
    """The spread of every leaf, ours and a twin's own."""
    params, _ = resnet_init(rng, widths=(16, 32))
    pairs = (
        (params, twins.resnet(widths=(16, 32))),
        (lenet5_init(rng), twins.lenet5()),
        (small_cnn_init(rng), twins.small_cnn()),
    )
    for tree, twin in pairs:
        for key, p in twin.named_parameters():
            leaf, theirs = flatten(tree)[key], p.detach().numpy()
            if leaf.size >= 1000:
                assert abs(leaf.std() / theirs.std() - 1) < 0.1, key
            elif leaf.size > 1 and theirs.std() == 0:
                assert np.array_equal(leaf, theirs), key


# Looking back ---------------------------------------------------------------------------------------------------------


def test_saliency_of_a_linear_model_is_its_weights(rng):
    params = linear_init(rng, 6, 4, dtype=np.float64)

    def model(x):
        return linear(x.reshape(len(x), -1), **params)

    x, labels = rng.normal(size=(3, 1, 2, 3)), np.array([2, 0, 2])
    assert np.allclose(saliency(model, x, labels), params["weight"][labels].reshape(3, 1, 2, 3), rtol=1e-14)


def test_saliency_and_fgsm_are_torchs(rng):
    params = small_cnn_init(rng, dtype=np.float64)
    twin = twins.small_cnn().double()
    twin.load_state_dict(to_torch(params))
    x, labels = rng.random((4, 1, 28, 28)), rng.integers(10, size=4)

    def model(x):
        return small_cnn(params, x)

    image = torch.tensor(x, requires_grad=True)
    (theirs,) = torch.autograd.grad(twin(image)[range(4), labels].sum(), image)
    assert error(saliency(model, x, labels), theirs.numpy()) <= 1e-12
    (g,) = torch.autograd.grad(F.cross_entropy(twin(image), torch.tensor(labels)), image)
    moved = fgsm(model, x, labels, epsilon=0.1)
    assert np.allclose(moved, (image + 0.1 * g.sign()).clamp(0, 1).detach().numpy(), atol=1e-12)
    assert np.abs(moved - x).max() <= 0.1 + 1e-12
    assert (moved.min(), moved.max()) >= (0, 0)
    assert moved.max() <= 1
    assert cross_entropy(model(moved), labels) > cross_entropy(model(x), labels)
    assert np.array_equal(fgsm(model, x, labels, epsilon=0.0), x)
    single = tree_map(lambda leaf: leaf.astype(np.float32), params)
    assert fgsm(lambda x: small_cnn(single, x), x.astype(np.float32), labels, epsilon=0.1).dtype == np.float32


def test_looking_back_refuses(rng):
    def model(x):
        return x.reshape(len(x), -1)

    x = np.ones((2, 3))
    with pytest.raises(ValueError, match=r"\(2,\) integers, not int64 of \(3,\)"):
        saliency(model, x, np.array([0, 1, 2]))
    with pytest.raises(ValueError, match=r"0\.\.2, not 0\.\.3"):
        saliency(model, x, np.array([0, 3]))
    with pytest.raises(ValueError, match="epsilon must be >= 0 and finite, not -1"):
        fgsm(model, x, np.array([0, 1]), epsilon=-1)


# Errors that the harness does not see -------------------------------------------------------------------------------


def test_plain_functions_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match=r"im2col: x must have shape \(N, C, H, W\), not \(3, 4\)"):
        im2col(np.ones((3, 4)), 2)
    with pytest.raises(ValueError, match=r"\(1, 4, 5\).*\(N, C \* 4, 9\).*\(4, 4\)"):
        col2im(np.ones((1, 4, 5)), (4, 4), 2)
    with pytest.raises(ValueError, match=r"\(1, 5, 9\) do not fit"):
        col2im(np.ones((1, 5, 9)), (4, 4), 2)
    with pytest.raises(ValueError, match="size must be"):
        col2im(np.ones((1, 4, 9)), (4, 0), 2)
    with pytest.raises(ValueError, match=r"conv2d_matrix: weight must have shape .* not \(2, 2\)"):
        conv2d_matrix(np.ones((2, 2)), (4, 4))
    with pytest.raises(ValueError, match="groups=2 does not"):
        conv2d_matrix(np.ones((3, 2, 1, 1)), (4, 4), groups=2)
    with pytest.raises(ValueError, match=r"flip: .*\(3,\)"):
        flip(np.ones(3))
    with pytest.raises(ValueError, match=r"conv2d_cost.*\(O, 3, kh, kw\), not \(4, 2, 3, 3\)"):
        conv2d_cost((3, 8, 8), (4, 2, 3, 3))
    with pytest.raises(ValueError, match="blocks must be"):
        resnet_init(np.random.default_rng(0), blocks=0)


def test_integers_count_as_floats():
    x = np.arange(9).reshape(1, 1, 3, 3)
    assert conv2d(x, np.ones((1, 1, 2, 2), int)).dtype == np.float64
    assert np.array_equal(max_pool2d(x, kernel_size=3), [[[[8.0]]]])
    assert avg_pool2d(x, kernel_size=3).dtype == np.float64


def test_a_bias_of_another_precision_promotes(rng):
    x, weight = np.ones((1, 1, 3, 3), np.float32), np.ones((1, 1, 2, 2), np.float32)
    assert conv2d(x, weight, np.zeros(1)).dtype == np.float64
    assert conv2d(x, weight, np.zeros(1, np.float32)).dtype == np.float32


# A wrong VJP is caught ------------------------------------------------------------------------------------------------


def test_overwriting_where_col2im_must_add_is_caught():
    @conv_like
    def overwriting(dy, x, weight):
        dx = np.zeros_like(x)
        for p, q in itertools.product(range(dy.shape[2]), range(dy.shape[3])):
            kh, kw = weight.shape[2:]
            dx[:, :, p : p + kh, q : q + kw] = np.einsum("no,ocij->ncij", dy[:, :, p, q], weight)
        return dx

    assert rejects(*overwriting)


def test_a_kernel_that_is_not_flipped_is_caught():
    @conv_like
    def unflipped(dy, x, weight):
        kh, kw = weight.shape[2:]
        padded = np.pad(dy, ((0, 0), (0, 0), (kh - 1, kh - 1), (kw - 1, kw - 1)))
        return conv2d(padded, np.ascontiguousarray(weight.transpose(1, 0, 2, 3)))

    assert rejects(*unflipped)


def test_the_flipped_one_is_accepted():
    @conv_like
    def flipped(dy, x, weight):
        kh, kw = weight.shape[2:]
        padded = np.pad(dy, ((0, 0), (0, 0), (kh - 1, kh - 1), (kw - 1, kw - 1)))
        return conv2d(padded, np.ascontiguousarray(flip(weight).transpose(1, 0, 2, 3)))

    assert not rejects(*flipped)


def conv_like(dx):
    """A convolution without options whose cotangent of ``x`` is the given one, and what it must equal."""
    from nnbook.backprop import primitive
    from nnbook.references import Case, Reference, normal

    @primitive
    def candidate(x, weight):
        return conv2d(x, weight), None

    @candidate.defvjp
    def candidate_vjp(dy, saved, x, weight):
        _, pull = vjp(lambda weight: conv2d(x, weight), weight)
        return dx(dy, x, weight), pull(dy)[0]

    sizes = Case("size 1", normal((1, 1, 1, 1), (1, 1, 1, 1))), Case("no image", normal((0, 2, 3, 3), (2, 2, 2, 2)))
    cases = (Case("images", normal((2, 3, 5, 5), (4, 3, 3, 3))), *sizes)
    return candidate, Reference(lambda torch: torch.nn.functional.conv2d, cases, analytic=True)


# Memory ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("N", "C", "H", "O", "k"), ISSUE_SHAPES)
def test_memory_stays_below_four_activations(rng, N, C, H, O, k):  # noqa: E741
    """Beside what goes in and comes out; full columns would take k * k activations."""
    x, weight = (rng.random(shape, dtype=np.float32) for shape in ((N, C, H, H), (O, C, k, k)))
    dy = rng.random((N, O, H - k + 1, H - k + 1), dtype=np.float32)
    bias = np.zeros(O, np.float32)
    pulled(conv2d, x, weight, bias, dy=dy)
    tracemalloc.start()
    results = pulled(conv2d, x, weight, bias, dy=dy)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    beside = peak - sum(a.nbytes for a in results)
    assert beside <= 4 * max(x.nbytes, dy.nbytes), beside / max(x.nbytes, dy.nbytes)


def test_memory_of_a_training_step(rng):
    """R2: two activations of the largest size are kept, two of their gradients live at once, and masks beside them."""
    params = small_cnn_init(rng)
    x, labels = rng.random((64, 1, 28, 28), dtype=np.float32), rng.integers(10, size=64)
    step = value_and_grad(nll(small_cnn))
    step(params, x, labels)
    tracemalloc.start()
    step(params, x, labels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    largest = 64 * 32 * 26 * 26 * 4
    assert peak <= 4.5 * largest + 2 * 4 * parameter_count(params), peak / largest


def test_relu_keeps_what_pools_need(rng):
    """The composition of the networks, once without a network: max-pool after ReLU, ties of zeros included."""
    x = rng.normal(size=(2, 2, 6, 6)) - 1
    dy = rng.normal(size=(2, 2, 3, 3))
    ours = pulled(lambda x: max_pool2d(relu(x), kernel_size=2), x, dy=dy)
    agree(ours, torch_pulled(lambda x: F.max_pool2d(torch.relu(x), 2), x, dy=dy), 1e-14)


# The order of a dict means nothing ------------------------------------------------------------------------------------


def shuffled(tree, rng):
    """The same tree with its keys in another order, at every level."""
    if not isinstance(tree, dict):
        return tree
    keys = list(tree)
    return {keys[i]: shuffled(tree[keys[i]], rng) for i in rng.permutation(len(keys))}


def through_a_file(tree, path):
    """As safetensors gives it back: by its own order of the names."""
    safetensors.numpy.save_file({name: np.array(leaf) for name, leaf in flatten(tree).items()}, path)
    return unflatten(safetensors.numpy.load_file(path))


RESNETS = {"12 blocks": {"widths": (2, 3), "blocks": 12}, "11 stages": {"widths": (2,) * 11}}
PLAIN = {
    "small_cnn": (small_cnn_init, small_cnn, (2, 1, 28, 28)),
    "lenet5": (lenet5_init, lenet5, (2, 1, 28, 28)),
    "inception": (lambda r: inception_init(r, 2), inception, (2, 2, 5, 5)),
    "separable_conv2d": (lambda r: separable_conv2d_init(r, 2, 3, 2), separable_conv2d, (2, 2, 5, 5)),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", RESNETS)
def test_a_residual_network_takes_its_order_from_the_names(name, training, rng, tmp_path):
    """Parameters and state from a file, or with their keys in any order: logits and new state are the same bits."""
    params, state = resnet_init(rng, **RESNETS[name])
    x = rng.normal(size=(3, 1, 6, 6)).astype(np.float32)
    _, state = resnet(params, state, x, training=True)  # statistics that differ from layer to layer
    right, after = resnet(params, state, x, training=training)
    pairs = [(through_a_file(params, tmp_path / "params"), through_a_file(state, tmp_path / "state"))]
    pairs += [(shuffled(params, np.random.default_rng(s)), shuffled(state, np.random.default_rng(s))) for s in range(3)]
    for p, q in pairs:
        assert list(flatten(p)) != list(flatten(params))
        logits, new = resnet(p, q, x, training=training)
        assert np.array_equal(logits, right)
        assert flatten(new).keys() == flatten(after).keys()
        assert all(np.array_equal(leaf, flatten(after)[key]) for key, leaf in flatten(new).items())


@pytest.mark.parametrize("name", PLAIN)
def test_plain_networks_take_their_order_from_the_names(name, rng, tmp_path):
    init, network, shape = PLAIN[name]
    params, x = init(rng), rng.normal(size=shape).astype(np.float32)
    right = network(params, x)
    for other in (
        through_a_file(params, tmp_path / "file"),
        *(shuffled(params, np.random.default_rng(s)) for s in range(3)),
    ):
        assert np.array_equal(network(other, x), right)


# Two ways, one result, also for numbers that are not finite ----------------------------------------------------------


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 2),
    st.integers(0, 2),
    st.integers(1, 2),
    st.sampled_from([np.nan, np.inf, -np.inf, 1e30, 1e300, 0.0]),
    st.sampled_from(["x", "weight"]),
    st.sampled_from([1, 2]),
)
def test_the_fast_convolution_is_the_product_with_columns(seed, stride, padding, dilation, special, where, groups):
    """One number that is not finite reaches the same outputs by both ways, the zeros of the padding included."""
    rng = np.random.default_rng(seed)
    x, weight = rng.normal(size=(3, 4, 5, 6)), rng.normal(size=(2, 4 // groups, 2, 3))
    into = x if where == "x" else weight
    into[tuple(rng.integers(0, n) for n in into.shape)] = special
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    with np.errstate(invalid="ignore", over="ignore"):
        fast = conv2d(x, weight, groups=groups, **options)
        halves = [
            w.reshape(len(w), -1) @ im2col(part, (2, 3), **options)
            for part, w in zip(np.split(x, groups, 1), np.split(weight, groups), strict=True)
        ]
    plain = np.concatenate(halves, 1).reshape(fast.shape)
    assert np.array_equal(np.isnan(fast), np.isnan(plain))
    assert np.array_equal(np.isinf(fast), np.isinf(plain))
    good = np.isfinite(plain)
    assert np.allclose(fast[good], plain[good], rtol=1e-12, atol=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(1, 2), st.integers(0, 1), st.sampled_from([np.nan, np.inf, 1e300]))
def test_a_cotangent_that_is_not_finite_reaches_what_its_window_saw(seed, stride, padding, special):
    """Every gradient of x but for those pixels is that of the cotangent with a 0 in its place."""
    rng = np.random.default_rng(seed)
    x, weight = rng.normal(size=(2, 2, 5, 5)), rng.normal(size=(2, 2, 2, 3))
    options = {"stride": stride, "padding": padding}
    dy = rng.normal(size=conv2d(x, weight, **options).shape)
    place = tuple(rng.integers(0, n) for n in dy.shape)
    one = np.zeros_like(dy)
    one[place] = 1
    seen = pulled(conv2d, x, np.ones_like(weight), dy=one, **options)[1] != 0
    dy[place] = 0
    right = pulled(conv2d, x, weight, dy=dy, **options)[1]
    dy[place] = special
    with np.errstate(invalid="ignore", over="ignore"):
        found = pulled(conv2d, x, weight, dy=dy, **options)[1]
    assert np.array_equal(found[~seen], right[~seen])
    assert (found[seen] != right[seen]).all()


POOLS = [
    (max_pool2d, {"kernel_size": 3, "stride": 1, "padding": 1}),
    (max_pool2d, {"kernel_size": 2, "dilation": 2, "stride": 1, "padding": 1}),
    (avg_pool2d, {"kernel_size": 3, "stride": 2, "padding": 1}),
    (avg_pool2d, {"kernel_size": 3, "stride": 1, "padding": 1, "count_include_pad": False}),
    (global_avg_pool2d, {}),
]


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf, -1e300])
@pytest.mark.parametrize(("pool", "options"), POOLS)
def test_a_pool_passes_on_what_is_not_finite_to_its_windows_alone(pool, options, special, rng):
    """As PyTorch: a number outside of a window has no say in it, nor has a cotangent of another window."""
    x = rng.normal(size=(2, 2, 6, 6))
    torch_pool = getattr(torch.nn.functional, pool.__name__, lambda x: x.mean((2, 3)))
    x[0, 1, 2, 3] = x[1, 0, 0, 0] = special
    with np.errstate(invalid="ignore"):
        y = pool(x, **options)
    assert np.array_equal(np.isfinite(y), torch.isfinite(torch_pool(torch.tensor(x), **options)).numpy())
    x = rng.normal(size=(2, 2, 6, 6))
    dy = rng.normal(size=y.shape)
    dy[(0, 1, 2, 2)[: y.ndim]] = special
    t = torch.tensor(x, requires_grad=True)
    torch_pool(t, **options).backward(torch.tensor(dy))
    with np.errstate(invalid="ignore"):
        dx = pulled(pool, x, dy=dy, **options)[1]
    theirs = t.grad.numpy()
    assert np.array_equal(np.isfinite(dx), np.isfinite(theirs))
    good = np.isfinite(theirs) & (np.abs(theirs) < 1e200)
    assert np.allclose(dx[good], theirs[good], rtol=1e-12, atol=1e-12)


# What is not finite is refused where it means nothing -----------------------------------------------------------------


def test_an_attack_of_infinite_size_is_refused(rng):
    def model(x):
        return x.reshape(len(x), -1)

    x = np.ones((2, 3))
    for epsilon in (np.inf, np.nan):
        with pytest.raises(ValueError, match="epsilon must be"):
            fgsm(model, x, np.array([0, 1]), epsilon=epsilon)
    with pytest.raises(ValueError, match="low must be at most high"):
        fgsm(model, x, np.array([0, 1]), epsilon=0.1, low=1.0, high=0.0)
