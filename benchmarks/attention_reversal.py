"""What attention is worth for saying a sequence backwards, and what this network does not learn: other lengths.

The network is the translator of chapter 8, an encoder and a decoder of one block each, trained on sequences of twelve
symbols. Its control is the same network whose decoder sees the *mean* of the encoder's tokens, one vector, in place of
all of them; it gets ten times as many steps, and its curve is stored.

Then the length changes. The trained network writes sequences of other lengths, none of which it has seen; and another
one, of the same size, is trained on lengths from 1 to 20, one length a batch, and tested on lengths up to 24.

(The recurrent networks with attention of ``seq2seq_attention.py``, trained on the same lengths, go on beyond them.)

Bars: at the length of the training every sequence is right, five seeds of five; trained on all lengths, at least 95 %
of the sequences of length 12, worst of three seeds.
"""

from __future__ import annotations

from _common import Bar, main, spread, timed
from attention_tasks import train, written

SETTING = {"symbols": 10, "length": 12, "d_model": 32, "nhead": 2, "batch": 32, "steps": 400, "max_lr": 5e-3}
CONTROL = SETTING | {"steps": 4000}
MIXED = SETTING | {"steps": 2000, "longest": 20}
LENGTHS = (4, 8, 10, 11, 12, 13, 14, 16, 20, 21, 24)
TEST = 1000


def right(params, setting, length, bottleneck=False):
    """Shares of whole sequences and of single symbols."""
    import numpy as np

    from nnbook import data

    symbols = setting["symbols"]
    x, y = data.reversal(TEST, length, rng=np.random.default_rng(12345 + length), symbols=symbols)
    said = written(params, x, setting, symbols, length, None, bottleneck)
    return float((said == y).all(1).mean()), float((said == y).mean())


def runs(name, seeds, setting, lengths, bottleneck=False):
    from nnbook import data

    symbols = setting["symbols"]

    def draw(rng, n):
        length = rng.integers(1, setting["longest"] + 1) if "longest" in setting else setting["length"]
        return data.reversal(n, int(length), rng=rng, symbols=symbols)

    found, curves, seconds = [], [], []
    for seed in range(seeds):
        duration, (params, curve) = timed(
            lambda seed=seed: train(draw, (symbols, symbols + 1), setting, seed, symbols, bottleneck=bottleneck)
        )
        found.append([right(params, setting, length, bottleneck) for length in lengths])
        curves.append(curve)
        seconds.append(duration)
        print(f"{name}, seed {seed}, {duration:.0f} s:", end=" ")
        print(dict(zip(lengths, found[-1], strict=True)), flush=True)
    return {
        "lengths": lengths,
        "sequences": [spread([run[i][0] for run in found]) for i in range(len(lengths))],
        "symbols": [spread([run[i][1] for run in found]) for i in range(len(lengths))],
        "curves": curves,
        "seconds": spread(seconds),
    }


def measure(quick):
    shorter = {"steps": 20} if quick else {}
    only = (SETTING["length"],)
    results = {
        "settings": {"attention": SETTING, "one vector": CONTROL, "all lengths": MIXED},
        "attention": runs("attention", 1 if quick else 5, SETTING | shorter, LENGTHS),
        "all lengths": runs("all lengths", 1 if quick else 3, MIXED | shorter, LENGTHS),
        "one vector": runs("one vector", 1 if quick else 3, CONTROL | shorter, only, bottleneck=True),
    }
    at_twelve = LENGTHS.index(12)
    return results, [
        Bar("attention, worst seed", results["attention"]["sequences"][at_twelve]["min"], 1.0, "", at_least=True),
        Bar("all lengths, worst seed", results["all lengths"]["sequences"][at_twelve]["min"], 0.95, "", at_least=True),
    ]


if __name__ == "__main__":
    main(__file__, measure, threads=1)
