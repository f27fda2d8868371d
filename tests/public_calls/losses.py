"""Calls of nnbook.losses."""

import numpy as np

from public_calls import call

LABELS = np.array([0, 2, 1, 2])
SIGNS = np.array([1, -1, -1, 1])


def _scored(rng, **options):
    return call(rng.normal(size=(4, 3)), LABELS, **options)


def _probable(rng, **options):
    return call(np.array([[0.75, 0.25, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]), LABELS, **options)


CALLS = {
    "huber_loss": lambda rng: call(rng.normal(size=(3, 2)), rng.normal(size=(3, 2)), delta=0.5),
    "quantile_loss": lambda rng: call(rng.normal(size=(3, 2)), rng.normal(size=(3, 2)), quantile=0.9),
    "binary_cross_entropy_with_logits": lambda rng: call(
        rng.normal(size=(4, 3)), rng.integers(0, 2, (4, 3)), np.array([1.0, 2.0, 0.5]), np.array([3.0, 1.0, 2.0])
    ),
    "cross_entropy": lambda rng: _scored(rng, weight=np.array([1.0, 2.0, 0.5]), ignore_index=1, label_smoothing=0.1),
    "nll_loss": lambda rng: _scored(rng, weight=np.array([1.0, 2.0, 0.5]), ignore_index=1),
    "kl_div": lambda rng: call(rng.normal(size=(2, 3)), np.array([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0]]), log_target=False),
    "focal_loss": lambda rng: call(rng.normal(size=4), np.array([0, 1, 1, 0]), alpha=0.25, gamma=2.0),
    "hinge_loss": lambda rng: call(rng.normal(size=4), SIGNS, margin=1.0),
    "multi_margin_loss": lambda rng: _scored(rng, p=2, margin=1.0),
    "cosine_embedding_loss": lambda rng: call(rng.normal(size=(4, 3)), rng.normal(size=(4, 3)), SIGNS, margin=0.5),
    "triplet_margin_loss": lambda rng: call(*rng.normal(size=(3, 4, 2)), margin=1.0, eps=1e-6),
    "info_nce": lambda rng: call(rng.normal(size=(4, 3)), rng.normal(size=(4, 3)), temperature=0.5),
    "accuracy": _scored,
    "confusion_matrix": lambda rng: _scored(rng, classes=3),
    "precision": lambda rng: _scored(rng, average="macro", classes=3),
    "recall": lambda rng: _scored(rng, average="macro", classes=3),
    "f1_score": lambda rng: _scored(rng, average="macro", classes=3),
    "calibration_bins": lambda rng: _probable(rng, bins=5),
    "expected_calibration_error": lambda rng: _probable(rng, bins=5),
}
