"""Convolutional networks: the same small filter at every place (chapter 6).

Convolutions with their adjoints, pooling, and four networks as plain functions on trees of parameters. Images are
(N, C, H, W), as in PyTorch; what PyTorch calls convolution is a correlation, and so it is here::

    params = lenet5_init(np.random.default_rng(0))
    logits = lenet5(params, images)                                       # (N, 1, 28, 28) -> (N, 10)

    def loss(params, x, labels):
        return cross_entropy(lenet5(params, x), labels)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from nnbook._arrays import Array, Branch, Given, Tree, checked
from nnbook.backprop import by_number, concatenate, flatten, keep, primitive, value_and_grad, vjp
from nnbook.losses import cross_entropy
from nnbook.neurons import linear, linear_init, relu
from nnbook.regularization import batch_norm_init, batch_norm_layer

Pair = int | tuple[int, int]


# ---------------------------------------------------------------------------------------------------------------------
# Where a window stands: sizes along one axis
# ---------------------------------------------------------------------------------------------------------------------


class _Axis(NamedTuple):
    """One axis over which a window moves. Tap ``k`` of output ``i`` reads input ``i stride + k dilation - before``."""

    size: int
    out: int
    kernel: int
    stride: int
    before: int
    after: int
    dilation: int

    @property
    def span(self) -> int:
        return (self.kernel - 1) * self.dilation + 1

    @property
    def padded(self) -> int:
        return self.before + self.size + self.after

    @property
    def steps(self) -> int:
        """How many strides the padded axis is long, a started one counted."""
        return -(-self.padded // self.stride)


@checked
def conv_output_size(size: int, kernel_size: int, *, stride: int = 1, padding: int | str = 0, dilation: int = 1) -> int:
    """How often a window fits along one axis: ``(size + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1``.

    That is :eq:`eq-conv_output_size`. Not every place need meet a window: of ``stride`` neighbours in the interior
    ``min(kernel_size, stride // gcd(stride, dilation))`` do.

    Args:
        size: of the input along the axis.
        kernel_size: taps of the window.
        stride: step from one window to the next.
        padding: zeros added at either end, ``"valid"`` for none, ``"same"`` for as many as keep the size.
        dilation: step from one tap to the next.

    Returns:
        The size of the output, at least 1.

    Raises:
        ValueError: a number is out of range, or the window does not fit even once.

    PyTorch: the formula below ``torch.nn.Conv2d``.
    """
    return _axes("conv_output_size", (size,), (kernel_size,), stride, padding, dilation)[0].out


def _axes(name, sizes, kernel, stride, padding, dilation) -> list[_Axis]:
    """The axes of a window, after all checks. ``sizes`` are those of the input along them."""
    n = len(sizes)
    kernel, stride, dilation = (
        _integers(name, what, number, n, 1)
        for what, number in (("kernel_size", kernel), ("stride", stride), ("dilation", dilation))
    )
    if padding == "same" and max(stride) > 1:
        raise ValueError(f'{name}: padding="same" needs stride 1, not stride {stride}')
    if isinstance(padding, str) and padding not in ("same", "valid"):
        raise ValueError(f'{name}: padding must be integers, "same" or "valid", not {padding!r}')
    pads = (0,) * n if isinstance(padding, str) else _integers(name, "padding", padding, n, 0)
    axes = []
    for size, k, s, p, d in zip(sizes, kernel, stride, pads, dilation, strict=True):
        span = (k - 1) * d + 1
        both = span - 1 if padding == "same" else 2 * p  # an odd "same" adds the extra zero at the end
        if size + both < span:
            raise ValueError(
                f"{name}: a size of {size} with padding {padding} is {size + both} wide, but a kernel of {k} taps with "
                f"dilation {d} spans {span}; expected a size of at least {span - both}, or more padding"
            )
        axes.append(_Axis(size, (size + both - span) // s + 1, k, s, both // 2, both - both // 2, d))
    return axes


def _integers(name, what, value, n, least) -> tuple[int, ...]:
    numbers = tuple(value) if isinstance(value, (tuple, list)) else (value,) * n
    whole = all(isinstance(v, (int, np.integer)) and type(v) is not bool for v in numbers)
    if len(numbers) != n or not whole or min(numbers) < least:
        how_many = "an integer" if n == 1 else f"an integer or {n} of them"
        raise ValueError(f"{name}: {what} must be {how_many}, at least {least}, not {value!r}")
    return tuple(int(v) for v in numbers)


def _reach(axis: _Axis, k: int) -> tuple[slice, slice]:
    """The outputs whose tap ``k`` lies inside the input, not in the padding, and the inputs that they read there."""
    offset = k * axis.dilation - axis.before
    first = max(0, -(offset // axis.stride))
    stop = min(axis.out, (axis.size - 1 - offset) // axis.stride + 1)
    if stop <= first:
        return slice(0, 0), slice(0, 0)
    return slice(first, stop), slice(offset + first * axis.stride, offset + (stop - 1) * axis.stride + 1, axis.stride)


def _taps(rows: _Axis, columns: _Axis) -> Iterator[tuple[int, int, tuple, tuple]]:
    """For every tap in scan order ``(i, j, outputs, inputs)``: indices that pair what it reads with where it goes."""
    for i in range(rows.kernel):
        p, h = _reach(rows, i)
        for j in range(columns.kernel):
            q, w = _reach(columns, j)
            yield i, j, (..., p, q), (..., h, w)


# ---------------------------------------------------------------------------------------------------------------------
# Columns and matrices: convolution as a product
# ---------------------------------------------------------------------------------------------------------------------


@checked
def im2col(x, kernel_size: Pair, *, stride: Pair = 1, padding: Pair | str = 0, dilation: Pair = 1) -> Array:
    """What each window sees, written as a column (:eq:`eq-im2col`).

    Args:
        x: (N, C, H, W).
        kernel_size: (kh, kw), or one number for both, as for the other three.
        stride, padding, dilation: as for :func:`conv2d`.

    Returns:
        (N, C kh kw, P Q): a row for each tap, channel by channel, a column for each of the P Q places of the window.

    Raises:
        ValueError: ``x`` has not four axes, or the window does not fit.

    PyTorch: ``torch.nn.functional.unfold``, which knows no ``"same"``.
    """
    _check_images("im2col", x)
    rows, columns = _axes("im2col", x.shape[2:], kernel_size, stride, padding, dilation)
    cols = np.zeros((*x.shape[:2], rows.kernel, columns.kernel, rows.out, columns.out), x.dtype)
    for i, j, outputs, inputs in _taps(rows, columns):
        cols[:, :, i, j][outputs] = x[inputs]
    return cols.reshape(len(x), x.shape[1] * rows.kernel * columns.kernel, rows.out * columns.out)


@checked
def col2im(
    columns, size: tuple[int, int], kernel_size: Pair, *, stride: Pair = 1, padding: Pair | str = 0, dilation: Pair = 1
) -> Array:
    """The adjoint of :func:`im2col`: every entry goes back to its pixel, and those that meet there *add* up.

    That is :eq:`eq-col2im`.

    Args:
        columns: (N, C kh kw, P Q).
        size: (H, W) of the images.
        kernel_size, stride, padding, dilation: as for :func:`im2col`.

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: the columns do not fit the size and the window.

    PyTorch: ``torch.nn.functional.fold``.
    """
    cols = columns
    across, along = _axes("col2im", _integers("col2im", "size", size, 2, 1), kernel_size, stride, padding, dilation)
    taps, places = across.kernel * along.kernel, across.out * along.out
    if cols.ndim != 3 or cols.shape[1] % taps or cols.shape[2] != places:
        raise ValueError(
            f"col2im: columns of shape {cols.shape} do not fit; expected (N, C * {taps}, {places}) for images of size "
            f"{size}, kernel_size={kernel_size}, stride={stride}, padding={padding}, dilation={dilation}"
        )
    n, channels = len(cols), cols.shape[1] // taps
    cols = cols.reshape(n, channels, across.kernel, along.kernel, across.out, along.out)
    x = np.zeros((n, channels, across.size, along.size), cols.dtype)
    for i, j, outputs, inputs in _taps(across, along):
        x[inputs] += cols[:, :, i, j][outputs]
    return x


@checked
def conv2d_matrix(
    weight, size: tuple[int, int], *, stride: Pair = 1, padding: Pair | str = 0, dilation: Pair = 1, groups: int = 1
) -> Array:
    """A convolution without bias as the matrix that it is (:eq:`eq-conv2d_matrix`): few weights, each of them often.

    Args:
        weight: (O, C / groups, kh, kw).
        size: (H, W) of the images.
        stride, padding, dilation, groups: as for :func:`conv2d`.

    Returns:
        (O P Q, C H W), dense, for small examples: ``conv2d(x, weight)`` is this matrix times ``x``, both flattened.

    Raises:
        ValueError: as for :func:`conv2d`.

    PyTorch: none.
    """
    H, W = _integers("conv2d_matrix", "size", size, 2, 1)
    C = weight.shape[1] * groups if weight.ndim == 4 and isinstance(groups, int) else 0
    rows, columns = _check_conv("conv2d_matrix", (1, C, H, W), weight, None, stride, padding, dilation, groups)
    out, c = weight.shape[:2]
    full = np.zeros((out, C, *weight.shape[2:]), weight.dtype)  # with the zeros between the groups
    for g, outs in enumerate(np.split(np.arange(out), groups)):
        full[outs, g * c : (g + 1) * c] = weight[outs]
    matrix = np.zeros((out, rows.out, columns.out, C, H, W), weight.dtype)
    for i, j, outputs, inputs in _taps(rows, columns):
        p, q = (np.arange(n)[along] for n, along in zip((rows.out, columns.out), outputs[1:], strict=True))
        h, w = (np.arange(n)[along] for n, along in zip((H, W), inputs[1:], strict=True))
        matrix[:, p[:, None], q, :, h[:, None], w] = full[:, :, i, j]
    return matrix.reshape(out * rows.out * columns.out, C * H * W)


@checked
def flip(weight) -> Array:
    """Every kernel turned by 180 degrees.

    Correlation with a flipped kernel is what mathematics calls convolution.

    Args:
        weight: (..., kh, kw).

    Returns:
        The same shape, a view.

    Raises:
        ValueError: there are fewer than two axes.

    PyTorch: ``torch.flip(weight, (-2, -1))``.
    """
    if np.ndim(weight) < 2:
        raise ValueError(f"flip: weight must have shape (..., kh, kw), not {np.shape(weight)}")
    return weight[..., ::-1, ::-1]


# ---------------------------------------------------------------------------------------------------------------------
# The three products behind every convolution
#
# Full columns repeat each pixel kh kw times, and building them costs as much as the product. Here only the kw taps of
# a kernel's row are written out ("bands"); its kh rows are then kh products with slices of the same memory. The bands
# of a few images at a time stay in the processor's cache.
# ---------------------------------------------------------------------------------------------------------------------

BLOCK = 100_000
"""How many numbers the bands of a block of images may have; one image there is at least."""


def _blocks(n: int, rows: _Axis, columns: _Axis, channels: int) -> Iterator[slice]:
    numbers = channels * rows.padded * columns.kernel * columns.out
    step = max(1, BLOCK // max(numbers, 1))
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def _bands(x, rows: _Axis, columns: _Axis, groups: int):
    """Rows of images, once for each column of the kernel: (G, C/G kw, stride, steps N Q).

    The rows are sorted by their remainder modulo the stride, so that those read by one row of the kernel are
    neighbours.
    """
    n, channels = x.shape[:2]
    height, width = rows.steps * rows.stride, columns.padded
    if x.shape[2:] != (height, width):
        padded = np.zeros((n, channels, height, width), x.dtype)
        padded[:, :, rows.before : rows.before + rows.size, columns.before : columns.before + columns.size] = x
        x = padded
    x = x.reshape(n, channels, rows.steps, rows.stride, width)
    windows = sliding_window_view(x, columns.span, axis=4)[..., :: columns.stride, :: columns.dilation]
    windows = windows[..., : columns.out, :].transpose(1, 5, 3, 2, 0, 4)
    return windows.reshape(groups, channels // groups * columns.kernel, rows.stride, rows.steps * n * columns.out)


def _bands_adjoint(bands, n: int, rows: _Axis, columns: _Axis):
    """(G, C/G kw, stride, steps N Q) back to (N, C, H, W): what came from one pixel adds up."""
    channels = bands.shape[0] * bands.shape[1] // columns.kernel
    bands = bands.reshape(channels, columns.kernel, rows.stride, rows.steps, n, columns.out)
    bands = bands.transpose(1, 4, 0, 3, 2, 5)
    x = np.zeros((n, channels, rows.steps, rows.stride, columns.padded), bands.dtype)
    for j in range(columns.kernel):
        first = j * columns.dilation
        x[..., first : first + (columns.out - 1) * columns.stride + 1 : columns.stride] += bands[j]
    x = x.reshape(n, channels, rows.steps * rows.stride, columns.padded)
    return x[:, :, rows.before : rows.before + rows.size, columns.before : columns.before + columns.size]


def _band(bands, rows: _Axis, i: int):
    """What row ``i`` of the kernel reads: (G, C/G kw, P N Q), a view."""
    first, remainder = divmod(i * rows.dilation, rows.stride)
    in_a_row = bands.shape[3] // rows.steps
    return bands[:, :, remainder, first * in_a_row : (first + rows.out) * in_a_row]


def _by_rows(weight, groups: int):
    """(O, C/G, kh, kw) as one matrix for each row of the kernel: (kh, G, O/G, C/G kw)."""
    out, c, kh, kw = weight.shape
    return weight.reshape(groups, out // groups, c, kh, kw).transpose(3, 0, 1, 2, 4).reshape(kh, groups, -1, c * kw)


def _channels_first(y, groups: int):
    """(N, O, P, Q) as (G, O/G, P N Q)."""
    n, out, P, Q = y.shape
    return y.transpose(1, 2, 0, 3).reshape(groups, out // groups, P * n * Q)


def _correlate(x, weight, axes: Sequence[_Axis], groups: int):
    """``y[n, o, p, q] = sum over c, i, j of weight[o, c, i, j] x[n, c, p s + i d - before, ...]``."""
    rows, columns = axes
    first, *others = _by_rows(weight, groups)
    y = np.empty((len(x), len(weight), rows.out, columns.out), np.result_type(x, weight))
    for block in _blocks(len(x), rows, columns, x.shape[1]):
        bands = _bands(x[block], rows, columns, groups)
        total = first @ _band(bands, rows, 0)
        for i, kernel_row in enumerate(others, 1):
            total += kernel_row @ _band(bands, rows, i)
        y[block] = total.reshape(len(weight), rows.out, -1, columns.out).transpose(2, 0, 1, 3)
    return y


def _correlate_adjoint(dy, weight, axes: Sequence[_Axis], groups: int):
    """The transpose of :func:`_correlate` as a map of ``x``: (N, O, P, Q) to (N, C, H, W)."""
    rows, columns = axes
    kernel_rows = _by_rows(weight, groups).swapaxes(2, 3)
    channels = weight.shape[1] * groups
    dx = np.empty((len(dy), channels, rows.size, columns.size), np.result_type(dy, weight))
    for block in _blocks(len(dy), rows, columns, channels):
        d, n = _channels_first(dy[block], groups), len(dy[block])
        bands = np.zeros((*kernel_rows.shape[1:3], rows.stride, rows.steps * n * columns.out), dx.dtype)
        for i, kernel_row in enumerate(kernel_rows):
            band = _band(bands, rows, i)
            band += kernel_row @ d
        dx[block] = _bands_adjoint(bands, n, rows, columns)
    return dx


def _correlate_weight(dy, x, weight, axes: Sequence[_Axis], groups: int):
    """The transpose of :func:`_correlate` as a map of ``weight``: each tap collects ``dy`` times what it saw."""
    rows, columns = axes
    out, c, kh, kw = weight.shape
    dw = np.zeros((kh, groups, out // groups, c * kw), np.result_type(dy, x))
    for block in _blocks(len(x), rows, columns, x.shape[1]):
        bands = _bands(x[block], rows, columns, groups)
        d = _channels_first(dy[block], groups)
        for i in range(kh):
            dw[i] += d @ _band(bands, rows, i).swapaxes(1, 2)
    return dw.reshape(kh, groups, out // groups, c, kw).transpose(1, 2, 3, 0, 4).reshape(weight.shape)


def _check_conv(name, shape, weight, bias, stride, padding, dilation, groups) -> list[_Axis]:
    """The axes of a convolution of x of that shape, after all checks."""
    n = len(shape) - 2
    sizes, taps = ("L", "K") if n == 1 else ("H, W", "kh, kw")
    if np.ndim(weight) != n + 2 or 0 in weight.shape:
        raise ValueError(
            f"{name}: weight must have shape (O, C / groups, {taps}), none of them 0, not {np.shape(weight)}"
        )
    if not isinstance(groups, (int, np.integer)) or groups < 1 or shape[1] % groups or len(weight) % groups:
        raise ValueError(
            f"{name}: groups must divide the channels of x, of shape {shape}, and those of weight, of shape "
            f"{weight.shape}, on its axis 0; groups={groups} does not"
        )
    if weight.shape[1] != shape[1] // groups:
        raise ValueError(
            f"{name}: with groups={groups} x of shape (N, C, {sizes}) = {shape} needs a weight of shape "
            f"(O, {shape[1] // groups}, {taps}), not {weight.shape}"
        )
    _check_bias(name, bias, len(weight), weight)
    return _axes(f"{name}: x of shape {shape}", shape[2:], weight.shape[2:], stride, padding, dilation)


def _check_bias(name, bias, channels, weight):
    if bias is not None and np.shape(bias) != (channels,):
        raise ValueError(
            f"{name}: bias of shape {np.shape(bias)} does not fit weight of shape {weight.shape}; expected "
            f"({channels},)"
        )


def _check_images(name, x):
    if np.ndim(x) != 4:
        raise ValueError(f"{name}: x must have shape (N, C, H, W), not {np.shape(x)}")


def _add_bias(y, bias):
    if bias is None:
        return y
    bias = bias.reshape(-1, *[1] * (y.ndim - 2))
    if np.result_type(y, bias) != y.dtype:
        return y + bias
    y += bias  # in place: y is new
    return y


# ---------------------------------------------------------------------------------------------------------------------
# Convolutions
# ---------------------------------------------------------------------------------------------------------------------


@primitive
def conv2d(x, weight, bias=None, *, stride=1, padding: Pair | str = 0, dilation=1, groups=1):
    """Every window of the images times the same kernels (:eq:`eq-conv2d`). The kernels are not flipped.

    Args:
        x: (N, C, H, W). N images of C channels.
        weight: (O, C / groups, kh, kw), a kernel for each of O output channels.
        bias: (O,), or ``None`` for none.
        stride: step from window to window, in pixels.
        padding: zeros around the image; ``"valid"`` for none, ``"same"`` for as many as keep the size (stride 1 only;
            if the number is odd, the extra zeros come below and to the right).
        dilation: step from tap to tap.
        groups: into how many groups the channels are split; kernels of one group see only its channels. C groups make
            a depthwise convolution.

    Stride, padding and dilation are a number for both axes or a pair (down, right).

    Returns:
        (N, O, P, Q), see :func:`conv_output_size`.

    Raises:
        ValueError: the shapes do not fit (names them, and which of the options does not fit).

    Beside its arguments and results it needs memory for kw copies of a few images. PyTorch:
    ``torch.nn.functional.conv2d``, which also takes a single image (C, H, W). Source: :cite:`lecun1998`.
    """
    _check_images("conv2d", x)
    axes = _check_conv("conv2d", x.shape, weight, bias, stride, padding, dilation, groups)
    return _add_bias(_correlate(x, weight, axes, groups), bias), axes


@conv2d.defvjp
def conv2d_vjp(dy, axes, x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
    """:eq:`eq-conv2d-vjp`: the transposed convolution of ``dy``, its correlation with ``x``, its sums."""
    return (
        lambda: _correlate_adjoint(dy, weight, axes, groups),
        lambda: _correlate_weight(dy, x, weight, axes, groups),
        lambda: dy.sum((0, 2, 3)),
    )


@primitive
def conv1d(x, weight, bias=None, *, stride=1, padding: Pair | str = 0, dilation=1, groups=1):
    """Every window of the sequences times the same kernels (:eq:`eq-conv1d`).

    Args:
        x: (N, C, L). N sequences of C channels.
        weight: (O, C / groups, K).
        bias: (O,), or ``None`` for none.
        stride, padding, dilation, groups: as for :func:`conv2d`, along the one axis.

    Returns:
        (N, O, P), see :func:`conv_output_size`.

    Raises:
        ValueError: the shapes do not fit (names them, and which of the options does not fit).

    PyTorch: ``torch.nn.functional.conv1d``, which also takes a single sequence (C, L).
    """
    if np.ndim(x) != 3:
        raise ValueError(f"conv1d: x must have shape (N, C, L), not {np.shape(x)}")
    (axis,) = _check_conv("conv1d", x.shape, weight, bias, stride, padding, dilation, groups)
    axes = [_Axis(1, 1, 1, 1, 0, 0, 1), axis]
    y = _correlate(x[:, :, None], weight[:, :, None], axes, groups)
    return _add_bias(y[:, :, 0], bias), axes


@conv1d.defvjp
def conv1d_vjp(dy, axes, x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
    """:eq:`eq-conv1d-vjp`: that of an image one pixel high."""
    x, weight = x[:, :, None], weight[:, :, None]
    return (
        lambda: _correlate_adjoint(dy[:, :, None], weight, axes, groups)[:, :, 0],
        lambda: _correlate_weight(dy[:, :, None], x, weight, axes, groups)[:, :, 0],
        lambda: dy.sum((0, 2)),
    )


@primitive
def conv_transpose2d(x, weight, bias=None, *, stride=1, padding=0, output_padding=0, dilation=1, groups=1):
    """Every pixel paints the kernel, times its value, onto the output (:eq:`eq-conv_transpose2d`).

    As a map of ``x`` it is the transpose of :func:`conv2d` with the same weight and options, not its inverse.

    Args:
        x: (N, C, P, Q).
        weight: (C, O / groups, kh, kw).
        bias: (O,), or ``None`` for none.
        stride: step from painted kernel to painted kernel.
        padding: rows and columns *taken off* the output at each end.
        output_padding: rows and columns added at the lower and right end, since with a stride several sizes of image
            lead to the same output of :func:`conv2d`; less than the stride or than the dilation. They first
            give back what ``padding`` has taken off; only those beyond hold the bias alone.
        dilation: step from tap to tap.
        groups: as for :func:`conv2d`.

    Returns:
        (N, O, H, W) with ``H = (P - 1) stride - 2 padding + dilation (kh - 1) + output_padding + 1``.

    Raises:
        ValueError: the shapes do not fit (names them, and which of the options does not fit).

    PyTorch: ``torch.nn.functional.conv_transpose2d``. Source: :cite:`dumoulin2016`.
    """
    name = "conv_transpose2d"
    _check_images(name, x)
    axes = _check_transpose(name, x, weight, bias, stride, padding, output_padding, dilation, groups)
    return _add_bias(_correlate_adjoint(x, weight, axes, groups), bias), axes


@conv_transpose2d.defvjp
def conv_transpose2d_vjp(
    dy, axes, x, weight, bias=None, *, stride=1, padding=0, output_padding=0, dilation=1, groups=1
):
    """:eq:`eq-conv_transpose2d-vjp`: those of :func:`conv2d` with ``x`` and ``dy`` in each other's place."""
    return (
        lambda: _correlate(dy, weight, axes, groups),
        lambda: _correlate_weight(x, dy, weight, axes, groups),
        lambda: dy.sum((0, 2, 3)),
    )


def _check_transpose(name, x, weight, bias, stride, padding, output_padding, dilation, groups) -> list[_Axis]:
    """The axes of the convolution of which this is the transpose, after all checks."""
    if np.ndim(weight) != 4 or 0 in weight.shape:
        raise ValueError(
            f"{name}: weight must have shape (C, O / groups, kh, kw), none of them 0, not {np.shape(weight)}"
        )
    if not isinstance(groups, (int, np.integer)) or groups < 1 or x.shape[1] % groups:
        raise ValueError(f"{name}: groups={groups} does not divide the channels of x, of shape {x.shape}")
    if len(weight) != x.shape[1]:
        raise ValueError(
            f"{name}: x of shape (N, C, P, Q) = {x.shape} needs a weight of shape ({x.shape[1]}, O / groups, kh, kw), "
            f"not {weight.shape}"
        )
    _check_bias(name, bias, weight.shape[1] * groups, weight)
    stride, padding, more, dilation = (
        _integers(name, what, value, 2, least)
        for what, value, least in (
            ("stride", stride, 1),
            ("padding", padding, 0),
            ("output_padding", output_padding, 0),
            ("dilation", dilation, 1),
        )
    )
    axes = []
    for out, k, s, p, m, d in zip(x.shape[2:], weight.shape[2:], stride, padding, more, dilation, strict=True):
        size = (out - 1) * s - 2 * p + (k - 1) * d + m + 1
        if m >= max(s, d):
            raise ValueError(f"{name}: output_padding {m} must be less than stride {s} or dilation {d}")
        if size < 1 or out < 1:
            raise ValueError(
                f"{name}: x of shape {x.shape} with stride {s}, padding {p} and dilation {d} gives a size of {size} to "
                f"a kernel of {k} taps; expected at least 1, with less padding"
            )
        axes.append(_Axis(size, out, k, s, p, p, d))
    return axes


@checked
def conv2d_init(
    rng: np.random.Generator,
    in_channels: int,
    out_channels: int,
    kernel_size: Pair,
    *,
    groups: int = 1,
    bias: bool = True,
    dtype=np.float32,
) -> dict[str, Array]:
    """Parameters of :func:`conv2d`, uniform within ``1 / sqrt(C / groups kh kw)`` of 0, the inputs of a unit counted.

    Args:
        rng: the source of randomness.
        in_channels, out_channels: C and O.
        kernel_size: (kh, kw), or one number for both.
        groups: a divisor of both numbers of channels.
        bias: whether there is one.
        dtype: a float dtype. The draw is made in float64 and rounded.

    Returns:
        ``{"weight": (O, C / groups, kh, kw), "bias": (O,)}``.

    Raises:
        ValueError: a size is below 1, ``groups`` is no divisor, ``dtype`` is no float, or ``rng`` no generator.

    PyTorch: ``torch.nn.Conv2d(in_channels, out_channels, kernel_size)``; the same distribution, other random numbers.
    """
    kernel = _integers("conv2d_init", "kernel_size", kernel_size, 2, 1)
    _integers("conv2d_init", "the numbers of channels", (in_channels, out_channels), 2, 1)
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError(f"conv2d_init: groups={groups} does not divide {in_channels} and {out_channels} channels")
    shape = (out_channels, in_channels // groups, *kernel)
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    params = {"weight": rng.uniform(-bound, bound, shape).astype(dtype)}
    if bias:
        params["bias"] = rng.uniform(-bound, bound, out_channels).astype(dtype)
    return params


# ---------------------------------------------------------------------------------------------------------------------
# Pooling
# ---------------------------------------------------------------------------------------------------------------------


@primitive
def max_pool2d(x, *, kernel_size, stride=None, padding=0, dilation=1):
    """The largest entry of each window, channel by channel (:eq:`eq-max_pool2d`).

    Args:
        x: (N, C, H, W).
        kernel_size: of the window, a number or a pair (down, right), as for the others.
        stride: ``None`` for ``kernel_size``: windows side by side.
        padding: a border that never wins, at most half of ``kernel_size``.
        dilation: step from tap to tap.

    Returns:
        (N, C, P, Q).

    Raises:
        ValueError: the window does not fit, or the padding is too wide.

    Of equal entries the first in scan order (row by row) gets the whole derivative, as in PyTorch. A nan wins; its
    window then passes no derivative on (PyTorch gives it to the last nan). A window whose taps all lie in the padding,
    which takes a dilation, gives -inf. PyTorch: ``torch.nn.functional.max_pool2d``,
    with ``ceil_mode=False``.
    """
    _check_images("max_pool2d", x)
    axes = _pool_axes("max_pool2d", x, kernel_size, stride, padding, dilation)
    y = np.full((*x.shape[:2], *(axis.out for axis in axes)), -np.inf, x.dtype)
    for _, _, outputs, inputs in _taps(*axes):
        np.maximum(y[outputs], x[inputs], out=y[outputs])
    return y, (y, axes)


@max_pool2d.defvjp
def max_pool2d_vjp(dy, saved, x, *, kernel_size, stride=None, padding=0, dilation=1):
    """:eq:`eq-max_pool2d-vjp`: to the first entry that equals the maximum. An entry may win in several windows."""
    y, axes = saved
    dx = np.zeros(x.shape, dy.dtype)
    open_ = np.ones(y.shape, bool)  # windows whose winner has not come yet
    for _, _, outputs, inputs in _taps(*axes):
        wins = x[inputs] == y[outputs]
        wins &= open_[outputs]
        open_[outputs] ^= wins
        dx[inputs] += keep(dy[outputs], wins)
    return (dx,)


@primitive
def avg_pool2d(x, *, kernel_size, stride=None, padding=0, count_include_pad=True):
    """The mean of each window, channel by channel (:eq:`eq-avg_pool2d`).

    Args:
        x: (N, C, H, W).
        kernel_size: of the window, a number or a pair (down, right), as for the others.
        stride: ``None`` for ``kernel_size``: windows side by side.
        padding: zeros around the image, at most half of ``kernel_size``.
        count_include_pad: whether these zeros count among what is averaged.

    Returns:
        (N, C, P, Q).

    Raises:
        ValueError: the window does not fit, or the padding is too wide.

    PyTorch: ``torch.nn.functional.avg_pool2d``, with ``ceil_mode=False``.
    """
    _check_images("avg_pool2d", x)
    axes = _pool_axes("avg_pool2d", x, kernel_size, stride, padding, 1)
    y = np.zeros((*x.shape[:2], *(axis.out for axis in axes)), x.dtype)
    for _, _, outputs, inputs in _taps(*axes):
        y[outputs] += x[inputs]
    count = _count(axes, count_include_pad).astype(x.real.dtype)
    y /= count
    return y, (count, axes)


@avg_pool2d.defvjp
def avg_pool2d_vjp(dy, saved, x, *, kernel_size, stride=None, padding=0, count_include_pad=True):
    """:eq:`eq-avg_pool2d-vjp`: every entry of a window gets the same share."""
    count, axes = saved
    share = dy / count
    dx = np.zeros(x.shape, share.dtype)
    for _, _, outputs, inputs in _taps(*axes):
        dx[inputs] += share[outputs]
    return (dx,)


def _count(axes, count_include_pad):
    """(P, Q): how many entries of each window are averaged."""
    if count_include_pad:
        return np.full([axis.out for axis in axes], math.prod(axis.kernel for axis in axes))
    inside = []
    for axis in axes:
        n = np.zeros(axis.out, int)
        for k in range(axis.kernel):
            n[_reach(axis, k)[0]] += 1
        inside.append(n)
    return np.outer(*inside)


def _pool_axes(name, x, kernel_size, stride, padding, dilation):
    stride = kernel_size if stride is None else stride
    padding = _integers(name, "padding", padding, 2, 0)
    kernel_size = _integers(name, "kernel_size", kernel_size, 2, 1)
    axes = _axes(f"{name}: x of shape {x.shape}", x.shape[2:], kernel_size, stride, padding, dilation)
    if any(axis.before > axis.kernel // 2 for axis in axes):
        raise ValueError(f"{name}: padding {padding} must be at most half of kernel_size {kernel_size}")
    return axes


@primitive
def global_avg_pool2d(x):
    """The mean of each channel over all of the image (:eq:`eq-global_avg_pool2d`): where no longer matters.

    Args:
        x: (N, C, H, W).

    Returns:
        (N, C).

    Raises:
        ValueError: ``x`` has not four axes, or its images are empty.

    PyTorch: ``torch.nn.functional.adaptive_avg_pool2d(x, 1)``, which keeps the two axes. Source: :cite:`lin2014`.
    """
    _check_images("global_avg_pool2d", x)
    if 0 in x.shape[2:]:
        raise ValueError(f"global_avg_pool2d: there is nothing to average in images of shape {x.shape}")
    return x.mean((2, 3)), None


@global_avg_pool2d.defvjp
def global_avg_pool2d_vjp(dy, saved, x):
    """:eq:`eq-global_avg_pool2d-vjp`: every pixel gets the same share."""
    share = dy / (x.shape[2] * x.shape[3])
    return (np.broadcast_to(share[:, :, None, None], x.shape),)


@checked
def batch_norm2d(
    params: Branch,
    state: dict[str, Array],
    x,
    *,
    training: bool,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
) -> tuple[Any, dict[str, Array]]:
    """Batch normalization of images: statistics of a channel over the batch and all places (:eq:`eq-batch_norm2d`).

    It is :func:`nnbook.regularization.batch_norm_layer`, for (N, C, H, W) only;
    :func:`nnbook.regularization.batch_norm_init` makes its parameters and its state. A convolution just before it
    needs no bias: the mean that is subtracted would take it along.

    Returns:
        ``(y, state)``: (N, C, H, W) and the running statistics.

    Raises:
        ValueError: ``x`` has not four axes, or does not fit.

    PyTorch: ``torch.nn.BatchNorm2d``. Source: :cite:`ioffe2015`.
    """
    if len(x.shape) != 4:
        raise ValueError(f"batch_norm2d: x must have shape (N, C, H, W), not {x.shape}")
    return batch_norm_layer(params, state, x, training=training, momentum=momentum, eps=eps)


# ---------------------------------------------------------------------------------------------------------------------
# What a network sees and what it costs
# ---------------------------------------------------------------------------------------------------------------------


class Field(NamedTuple):
    """The span of what a unit sees: for unit ``i`` from pixel ``start + i jump`` to ``start + i jump + size - 1``.

    The first and the last are seen. Those in between all are, unless a tap reaches farther than what it sees, which
    takes a dilation or a stride larger than the kernel.
    """

    size: int
    jump: int
    start: int


@checked
def receptive_field(layers: Sequence[dict[str, int]]) -> list[Field]:
    """The span of the input that the units after each layer see, along one axis (:eq:`eq-receptive_field`).

    Args:
        layers: for each convolution or pool ``{"kernel_size": ..., "stride": 1, "padding": 0, "dilation": 1}``, the
            last three if they differ from these.

    Returns:
        A :class:`Field` for each layer. Pixels below 0 or beyond the input are padding.

    Raises:
        ValueError: a layer lacks ``kernel_size``, has an unknown key, or a number is out of range.

    PyTorch: none.
    """
    size, jump, start, fields = 1, 1, 0, []
    for number, layer in enumerate(layers):
        name = f"receptive_field: layer {number}"
        if "kernel_size" not in layer or not layer.keys() <= {"kernel_size", "stride", "padding", "dilation"}:
            raise ValueError(f"{name} must have kernel_size and may have stride, padding, dilation; it is {layer}")
        (k,), (s,), (p,), (d,) = (
            _integers(name, what, layer.get(what, default), 1, least)
            for what, default, least in (("kernel_size", 1, 1), ("stride", 1, 1), ("padding", 0, 0), ("dilation", 1, 1))
        )
        size += (k - 1) * d * jump
        start -= p * jump
        jump *= s
        fields.append(Field(size, jump, start))
    return fields


class Cost(NamedTuple):
    """Numbers that a layer stores, and multiplications with an addition that it makes for one example."""

    parameters: int
    multiply_adds: int


@checked
def conv2d_cost(
    shape: tuple[int, int, int],
    weight_shape: tuple[int, int, int, int],
    *,
    bias: bool = True,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Cost:
    """Parameters of :func:`conv2d` and its multiply-adds for one example (:eq:`eq-conv2d_cost`).

    Args:
        shape: (C, H, W) of one example.
        weight_shape: (O, C / groups, kh, kw).
        bias: whether there is one. Its additions are not counted.
        stride, padding, dilation, groups: as for :func:`conv2d`. A tap in the padding counts as any other.

    Returns:
        A :class:`Cost`. Counted in floating-point operations (FLOPs) a multiply-add is two.

    Raises:
        ValueError: as for :func:`conv2d`.

    PyTorch: ``torch.utils.flop_counter.FlopCounterMode`` counts the FLOPs of a run.
    """
    weight = np.broadcast_to(np.float32(0), weight_shape)  # a shape without its numbers
    rows, columns = _check_conv("conv2d_cost", (1, *shape), weight, None, stride, padding, dilation, groups)
    return Cost(weight.size + bool(bias) * len(weight), weight.size * rows.out * columns.out)


@checked
def parameter_count(params: Branch) -> int:
    """How many numbers a tree of parameters holds; for a GPT :eq:`eq-parameter_count`.

    PyTorch: ``sum(p.numel() for p in module.parameters())``.
    """
    return sum(int(np.size(leaf)) for leaf in flatten(params).values() if leaf is not None)


# ---------------------------------------------------------------------------------------------------------------------
# Networks: plain functions on trees whose keys are PyTorch's
# ---------------------------------------------------------------------------------------------------------------------


@checked
def small_cnn_init(
    rng: np.random.Generator, *, channels: int = 32, hidden: int = 64, classes: int = 10, dtype=np.float32
) -> Tree:
    """Parameters of :func:`small_cnn`, as PyTorch's layers draw them.

    Returns:
        ``conv`` (channels, 1, 3, 3), ``fc1`` (hidden, channels * 13 * 13), ``fc2`` (classes, hidden): each a dict of
        ``weight`` and ``bias``.
    """
    return {
        "conv": conv2d_init(rng, 1, channels, 3, dtype=dtype),
        "fc1": linear_init(rng, channels * 13 * 13, hidden, dtype=dtype),
        "fc2": linear_init(rng, hidden, classes, dtype=dtype),
    }


@checked
def small_cnn(params: Branch, x):
    """The book's smallest convolutional network: one convolution, one pool, two dense layers.

    Args:
        params: from :func:`small_cnn_init`.
        x: (N, 1, 28, 28).

    Returns:
        (N, classes), the logits.

    PyTorch: :func:`nnbook.twins.small_cnn`.
    """
    x = max_pool2d(relu(conv2d(x, **params["conv"])), kernel_size=2)
    x = relu(linear(x.reshape(len(x), -1), **params["fc1"]))
    return linear(x, **params["fc2"])


@checked
def lenet5_init(rng: np.random.Generator, *, classes: int = 10, dtype=np.float32) -> Tree:
    """Parameters of :func:`lenet5`, as PyTorch's layers draw them.

    Returns:
        ``conv1`` (6, 1, 5, 5), ``conv2`` (16, 6, 5, 5), ``fc1`` (120, 400), ``fc2`` (84, 120), ``fc3`` (classes, 84):
        each a dict of ``weight`` and ``bias``.
    """
    return {
        "conv1": conv2d_init(rng, 1, 6, 5, dtype=dtype),
        "conv2": conv2d_init(rng, 6, 16, 5, dtype=dtype),
        "fc1": linear_init(rng, 16 * 5 * 5, 120, dtype=dtype),
        "fc2": linear_init(rng, 120, 84, dtype=dtype),
        "fc3": linear_init(rng, 84, classes, dtype=dtype),
    }


@checked
def lenet5(params: Branch, x):
    """LeNet-5 as it is built today: ReLU for its scaled tanh, max-pooling for its trainable means.

    Each map of the second convolution looks at all six maps below; in the original, by a table, at three to six of
    them. The output is a linear layer where the original measured distances to fixed codes.

    Args:
        params: from :func:`lenet5_init`.
        x: (N, 1, 28, 28); the first convolution pads by 2, in place of the original's images of 32 x 32.

    Returns:
        (N, classes), the logits.

    PyTorch: :func:`nnbook.twins.lenet5`. Source: :cite:`lecun1998`.
    """
    x = max_pool2d(relu(conv2d(x, **params["conv1"], padding=2)), kernel_size=2)
    x = max_pool2d(relu(conv2d(x, **params["conv2"])), kernel_size=2)
    x = relu(linear(x.reshape(len(x), -1), **params["fc1"]))
    x = relu(linear(x, **params["fc2"]))
    return linear(x, **params["fc3"])


@checked
def separable_conv2d_init(
    rng: np.random.Generator, in_channels: int, out_channels: int, kernel_size: Pair, *, dtype=np.float32
) -> Tree:
    """Parameters of :func:`separable_conv2d`.

    Returns:
        ``depthwise`` with ``weight`` (C, 1, kh, kw), and ``pointwise`` with ``weight`` (O, C, 1, 1) and ``bias`` (O,).
    """
    return {
        "depthwise": conv2d_init(
            rng, in_channels, in_channels, kernel_size, groups=in_channels, bias=False, dtype=dtype
        ),
        "pointwise": conv2d_init(rng, in_channels, out_channels, 1, dtype=dtype),
    }


@checked
def separable_conv2d(params: Branch, x, *, stride: Pair = 1, padding: Pair | str = 0, dilation: Pair = 1):
    """A kernel for each channel, then a 1 x 1 convolution that mixes the channels (:eq:`eq-separable_conv2d`).

    Args:
        params: from :func:`separable_conv2d_init`.
        x: (N, C, H, W).
        stride, padding, dilation: of the first of the two.

    Returns:
        (N, O, P, Q).

    PyTorch: two ``torch.nn.Conv2d``, the first with ``groups=C``. Source: :cite:`howard2017`.
    """
    if len(x.shape) != 4:
        raise ValueError(f"separable_conv2d: x must have shape (N, C, H, W), not {x.shape}")
    groups = x.shape[1]
    x = conv2d(x, **params["depthwise"], stride=stride, padding=padding, dilation=dilation, groups=groups)
    return conv2d(x, **params["pointwise"])


@checked
def inception_init(
    rng: np.random.Generator,
    in_channels: int,
    *,
    out1: int = 16,
    reduce3: int = 16,
    out3: int = 24,
    reduce5: int = 4,
    out5: int = 8,
    out_pool: int = 8,
    dtype=np.float32,
) -> Tree:
    """Parameters of :func:`inception`, as PyTorch's layers draw them.

    Args:
        rng: the source of randomness.
        in_channels: C.
        out1, out3, out5, out_pool: channels that the four branches give.
        reduce3, reduce5: channels to which 1 x 1 convolutions reduce before the larger kernels.
        dtype: a float dtype.

    Returns:
        ``branch1``, ``reduce3``, ``branch3``, ``reduce5``, ``branch5``, ``branch_pool``: each a dict of ``weight`` and
        ``bias``.
    """
    sizes = {
        "branch1": (in_channels, out1, 1),
        "reduce3": (in_channels, reduce3, 1),
        "branch3": (reduce3, out3, 3),
        "reduce5": (in_channels, reduce5, 1),
        "branch5": (reduce5, out5, 5),
        "branch_pool": (in_channels, out_pool, 1),
    }
    return {name: conv2d_init(rng, *size, dtype=dtype) for name, size in sizes.items()}


@checked
def inception(params: Branch, x):
    """Four views of the same place beside each other: kernels of 1, 3 and 5, and a pool.

    Args:
        params: from :func:`inception_init`.
        x: (N, C, H, W).

    Returns:
        (N, out1 + out3 + out5 + out_pool, H, W), in this order.

    PyTorch: :func:`nnbook.twins.inception`. Source: :cite:`szegedy2015`.
    """

    def layer(name, x, padding=0):
        return relu(conv2d(x, **params[name], padding=padding))

    one = layer("branch1", x)
    three = layer("branch3", layer("reduce3", x), padding=1)
    five = layer("branch5", layer("reduce5", x), padding=2)
    pool = layer("branch_pool", max_pool2d(x, kernel_size=3, stride=1, padding=1))
    return concatenate(one, three, five, pool, axis=1)


@checked
def residual_block_init(
    rng: np.random.Generator, in_channels: int, out_channels: int, *, stride: int = 1, dtype=np.float32
) -> tuple[Tree, Tree]:
    """Parameters and state of :func:`residual_block`, as PyTorch's layers make them.

    Returns:
        ``(params, state)``: ``conv1``, ``bn1``, ``conv2``, ``bn2``, and, where the shape changes, ``downsample`` with
        the 1 x 1 convolution ``0`` and its norm ``1``. The state has the running statistics of the norms.
    """
    bn1, running1 = batch_norm_init(out_channels, dtype=dtype)
    bn2, running2 = batch_norm_init(out_channels, dtype=dtype)
    params: Tree = {
        "conv1": conv2d_init(rng, in_channels, out_channels, 3, bias=False, dtype=dtype),
        "bn1": bn1,
        "conv2": conv2d_init(rng, out_channels, out_channels, 3, bias=False, dtype=dtype),
        "bn2": bn2,
    }
    state: Tree = {"bn1": running1, "bn2": running2}
    if stride != 1 or in_channels != out_channels:
        bn, running = batch_norm_init(out_channels, dtype=dtype)
        params["downsample"] = {"0": conv2d_init(rng, in_channels, out_channels, 1, bias=False, dtype=dtype), "1": bn}
        state["downsample"] = {"1": running}
    return params, state


@checked
def residual_block(params: Branch, state: dict, x, *, stride: int = 1, training: bool) -> tuple[Any, Tree]:
    """Two convolutions learn what to add to their input (:eq:`eq-residual_block`).

    Args:
        params, state: from :func:`residual_block_init`.
        x: (N, C, H, W).
        stride: of the first convolution and of the shortcut.
        training: the mode of the norms.

    Returns:
        ``(y, state)``: (N, O, H / stride, W / stride), rounded up, and the new running statistics.

    PyTorch: a block of :func:`nnbook.twins.resnet`. Source: :cite:`he2016`.
    """
    new: Tree = {}
    h, new["bn1"] = batch_norm2d(
        params["bn1"], state["bn1"], conv2d(x, **params["conv1"], stride=stride, padding=1), training=training
    )
    h, new["bn2"] = batch_norm2d(
        params["bn2"], state["bn2"], conv2d(relu(h), **params["conv2"], padding=1), training=training
    )
    if "downsample" in params:
        x = conv2d(x, **params["downsample"]["0"], stride=stride)
        x, running = batch_norm2d(params["downsample"]["1"], state["downsample"]["1"], x, training=training)
        new["downsample"] = {"1": running}
    return relu(h + x), new


@checked
def resnet_init(
    rng: np.random.Generator,
    *,
    widths: Sequence[int] = (16, 32, 64),
    blocks: int = 1,
    in_channels: int = 1,
    classes: int = 10,
    dtype=np.float32,
) -> tuple[Tree, Tree]:
    """Parameters and state of :func:`resnet`, as PyTorch's layers make them.

    Args:
        rng: the source of randomness.
        widths: channels of the stages. The first keeps the size of the image, each later one halves it.
        blocks: residual blocks of each stage.
        in_channels: of the images.
        classes: how many logits.
        dtype: a float dtype.

    Returns:
        ``(params, state)``: ``conv1``, ``bn1``, ``layer1`` to ``layer...`` with blocks ``0`` to ``...``, ``fc``; and
        the running statistics under the same names. Together they are the ``state_dict`` of the twin.

    Raises:
        ValueError: a number is below 1.
    """
    _integers("resnet_init", "blocks", blocks, 1, 1)
    if not widths:
        raise ValueError("resnet_init: widths must have an entry for each stage, at least one")
    bn, running = batch_norm_init(widths[0], dtype=dtype)
    params: Tree = {"conv1": conv2d_init(rng, in_channels, widths[0], 3, bias=False, dtype=dtype), "bn1": bn}
    state: Tree = {"bn1": running}
    into = widths[0]
    for number, width in enumerate(widths, 1):
        stage: Tree = {}
        stage_state: Tree = {}
        for k in range(blocks):
            stage[str(k)], stage_state[str(k)] = residual_block_init(
                rng, into, width, stride=_stride(number, k), dtype=dtype
            )
            into = width
        params[f"layer{number}"], state[f"layer{number}"] = stage, stage_state
    params["fc"] = linear_init(rng, into, classes, dtype=dtype)
    return params, state


def _stride(stage: int, block: int) -> int:
    return 2 if stage > 1 and block == 0 else 1


@checked
def resnet(params: Branch, state: dict, x, *, training: bool) -> tuple[Any, Tree]:
    """A small residual network: a convolution, stages of residual blocks, a global mean, a dense layer.

    Args:
        params, state: from :func:`resnet_init`.
        x: (N, C, H, W).
        training: the mode of the norms.

    Returns:
        ``(logits, state)``: (N, classes) and the new running statistics.

    PyTorch: :func:`nnbook.twins.resnet`. Source: :cite:`he2016`.
    """
    new: Tree = {}
    x, new["bn1"] = batch_norm2d(
        params["bn1"], state["bn1"], conv2d(x, **params["conv1"], padding=1), training=training
    )
    x = relu(x)
    stages = by_number({name.removeprefix("layer"): None for name in params if name.startswith("layer")})
    for number, name in enumerate((f"layer{n}" for n in stages), 1):
        new[name] = {}
        for k in by_number(params[name]):
            x, new[name][k] = residual_block(
                params[name][k], state[name][k], x, stride=_stride(number, int(k)), training=training
            )
    return linear(global_avg_pool2d(x), **params["fc"]), new


# ---------------------------------------------------------------------------------------------------------------------
# Looking back at the image
# ---------------------------------------------------------------------------------------------------------------------


@checked
def saliency(model: Callable[[Any], Any], x, labels: Given) -> Array:
    """How each pixel moves the logit of its example's label (:eq:`eq-saliency`).

    Args:
        model: ``model(x)``, from (N, ...) to logits (N, K). Examples must not influence each other: batch norms in
            evaluation mode.
        x: (N, ...).
        labels: (N,) integers from 0 to K - 1.

    Returns:
        The shape of ``x``: derivatives, with their sign.

    Raises:
        ValueError: the labels do not fit the logits.

    PyTorch: ``torch.autograd.grad(logits[range(N), labels].sum(), x)``. Source: :cite:`simonyan2014`.
    """
    if not np.ndim(x):
        raise ValueError("saliency: x is a number, expected (N, ...)")
    logits, pull = vjp(model, x)
    if np.ndim(logits) != 2:
        raise ValueError(f"saliency: the model gives shape {np.shape(logits)}, expected logits (N, K)")
    if labels.shape != logits.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(f"saliency: labels must be {logits.shape[:1]} integers, not {labels.dtype} of {labels.shape}")
    if labels.size and not (labels.min() >= 0 and labels.max() < logits.shape[1]):
        raise ValueError(f"saliency: labels must lie in 0..{logits.shape[1] - 1}, not {labels.min()}..{labels.max()}")
    dy = np.zeros_like(logits)
    dy[np.arange(len(labels)), labels] = 1
    return pull(dy)[0]


@checked
def fgsm(
    model: Callable[[Any], Any], x, labels: Given, *, epsilon: float, low: float = 0.0, high: float = 1.0
) -> Array:
    """Every pixel moved by ``epsilon`` to where the loss grows (:eq:`eq-fgsm`): the fast gradient sign method.

    Args:
        model: as for :func:`saliency`.
        x: (N, ...), pixels between ``low`` and ``high``.
        labels: (N,) integers.
        epsilon: how far, >= 0.
        low, high: where the moved pixels are clipped.

    Returns:
        The shape of ``x``, new. A pixel whose derivative is 0 stays.

    Raises:
        ValueError: ``epsilon`` is negative or infinite, ``low`` is above ``high``, or the labels do not fit.

    PyTorch: ``(x + epsilon * x.grad.sign()).clamp(low, high)``. Source: :cite:`goodfellow2015`.
    """
    if not 0 <= epsilon < math.inf:
        raise ValueError(f"fgsm: epsilon must be >= 0 and finite, not {epsilon}")
    if not np.ndim(x):
        raise ValueError("fgsm: x is a number, expected (N, ...)")
    if low > high:
        raise ValueError(f"fgsm: low must be at most high, not {low} and {high}")
    _, g = value_and_grad(lambda x: cross_entropy(model(x), labels))(x)
    return np.clip(x + epsilon * np.sign(g), low, high)
