"""Calls of nnbook.cnn."""

import numpy as np

from nnbook import cnn
from public_calls import call


def images(rng, *shape):
    return rng.normal(size=shape)


def model(x):
    return cnn.linear(x.reshape(len(x), -1), np.arange(12.0).reshape(3, 4) / 10)


def residual(rng):
    return cnn.residual_block_init(rng, 2, 3, stride=2, dtype=np.float64)


def norm(rng):
    return {"weight": rng.normal(size=2), "bias": rng.normal(size=2)}, {
        "running_mean": np.zeros(2),
        "running_var": np.ones(2),
        "num_batches_tracked": np.array(0),
    }


def resnet(rng):
    return cnn.resnet_init(rng, widths=(2, 3), blocks=1, classes=3, dtype=np.float64)


CALLS = {
    "conv_output_size": lambda rng: call(7, 3, stride=2, padding=1, dilation=1),
    "im2col": lambda rng: call(images(rng, 2, 3, 4, 4), 2, stride=1, padding=1, dilation=1),
    "col2im": lambda rng: call(images(rng, 2, 12, 9), (4, 4), 2, stride=1, padding=0, dilation=1),
    "conv2d_matrix": lambda rng: call(images(rng, 2, 1, 2, 2), (3, 3), stride=1, padding=0, dilation=1, groups=2),
    "flip": lambda rng: call(images(rng, 2, 1, 2, 2)),
    "conv2d_init": lambda rng: call(rng, 2, 4, (2, 3), groups=2, bias=True, dtype=np.float32),
    "batch_norm2d": lambda rng: call(*norm(rng), images(rng, 2, 2, 2, 3), training=True, momentum=0.1, eps=1e-5),
    "receptive_field": lambda rng: call([{"kernel_size": 3, "stride": 2}, {"kernel_size": 2, "padding": 1}]),
    "conv2d_cost": lambda rng: call((2, 4, 4), (4, 1, 3, 3), bias=True, stride=1, padding=1, dilation=1, groups=2),
    "parameter_count": lambda rng: call({"a": {"weight": np.ones((2, 3))}}),
    "small_cnn_init": lambda rng: call(rng, channels=1, hidden=2, classes=3, dtype=np.float32),
    "small_cnn": lambda rng: call(
        cnn.small_cnn_init(rng, channels=1, hidden=2, classes=3, dtype=np.float64), images(rng, 2, 1, 28, 28)
    ),
    "lenet5_init": lambda rng: call(rng, classes=3, dtype=np.float32),
    "lenet5": lambda rng: call(cnn.lenet5_init(rng, classes=3, dtype=np.float64), images(rng, 2, 1, 28, 28)),
    "separable_conv2d_init": lambda rng: call(rng, 2, 3, (2, 3), dtype=np.float32),
    "separable_conv2d": lambda rng: call(
        cnn.separable_conv2d_init(rng, 2, 3, 2, dtype=np.float64),
        images(rng, 2, 2, 4, 4),
        stride=1,
        padding=1,
        dilation=1,
    ),
    "inception_init": lambda rng: call(
        rng, 2, out1=1, reduce3=1, out3=1, reduce5=1, out5=1, out_pool=1, dtype=np.float32
    ),
    "inception": lambda rng: call(
        cnn.inception_init(rng, 2, out1=1, reduce3=1, out3=1, reduce5=1, out5=1, out_pool=1, dtype=np.float64),
        images(rng, 2, 2, 4, 4),
    ),
    "residual_block_init": lambda rng: call(rng, 2, 3, stride=2, dtype=np.float32),
    "residual_block": lambda rng: call(*residual(rng), images(rng, 2, 2, 4, 4), stride=2, training=True),
    "resnet_init": lambda rng: call(rng, widths=(2, 3), blocks=1, in_channels=1, classes=3, dtype=np.float32),
    "resnet": lambda rng: call(*resnet(rng), images(rng, 2, 1, 4, 4), training=True),
    "saliency": lambda rng: call(model, images(rng, 2, 1, 2, 2), np.array([0, 2])),
    "fgsm": lambda rng: call(model, rng.random((2, 1, 2, 2)), np.array([0, 2]), epsilon=0.1, low=0.0, high=1.0),
}
