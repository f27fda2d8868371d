"""Calls of nnbook.data."""

import numpy as np

from public_calls import call

CALLS = {
    "split": lambda rng: call(rng.normal(size=(12, 2)), np.arange(12) % 2, rng=rng, fractions=(0.5, 0.5)),
    "split_indices": lambda rng: call(12, rng=rng, fractions=(0.5, 0.5), classes=np.arange(12) % 2),
    "moons": lambda rng: call(6, rng=rng, noise=0.1),
    "circles": lambda rng: call(6, rng=rng, noise=0.1, ratio=0.5),
    "spirals": lambda rng: call(6, rng=rng, classes=2, turns=1.0, noise=0.1),
    "xor": lambda rng: call(8, rng=rng, noise=0.1),
    "sine": lambda rng: call(6, rng=rng, noise=0.1),
    "mackey_glass": lambda rng: call(6, rng=rng, tau=17.0, start=0.9, discard=10, steps=2),
    "text_split": lambda rng: call("some words in a text that is long enough " * 20, fractions=(0.5, 0.25, 0.25)),
    "adding": lambda rng: call(3, 6, rng=rng),
    "copying": lambda rng: call(3, 6, rng=rng, items=2, symbols=4),
    "reversal": lambda rng: call(3, 6, rng=rng, symbols=4),
    "dates": lambda rng: call(3, rng=rng, first=2000, last=2010),
}
