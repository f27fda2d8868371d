"""Reversal by an encoder and a decoder without attention: accuracy against length.

A GRU reads digits, a second GRU starts from its final state and has to say them backwards. Training lengths are drawn
uniformly from 1 to 20, 64 sequences a step, Adam with a rate that falls linearly from 5e-3 to zero in 1,500 steps,
teacher forcing, gradients clipped at norm 1. The test decodes greedily, without a teacher, 500 new sequences of each
length from 1 to 24; the last four were never seen in training.

Bars: the widest network is right at length 5, and fails at length 20; guessing is right once in ten.
"""

from __future__ import annotations

from _common import Bar, main, spread

SYMBOLS, START, LONGEST = 10, 10, 20
TEST_LENGTHS = list(range(1, 25))
WIDTHS = [16, 32, 64]
STEPS, BATCH, LR = 1500, 64, 5e-3
SEEDS = [0, 1, 2]


def batch(rng, n, length):
    """``(source, decoder inputs, targets)``, each ``(length, n)``; the inputs are the targets behind a start token."""
    import numpy as np

    from nnbook import data

    x, y = data.reversal(n, length, rng=rng, symbols=SYMBOLS)
    source, target = np.ascontiguousarray(x.T), np.ascontiguousarray(y.T)
    return source, np.concatenate([np.full((1, n), START), target[:-1]]), target


def train(seed, width, steps):
    import numpy as np

    from nnbook.backprop import value_and_grad
    from nnbook.optimizers import adam, adam_init, clip_grad_norm
    from nnbook.rnn import seq2seq, seq2seq_init, sequence_cross_entropy

    rng = np.random.default_rng(seed)
    params = seq2seq_init(rng, SYMBOLS, SYMBOLS + 1, width, cell="gru", embedding_size=16)
    gradient = value_and_grad(
        lambda p, source, given, target: sequence_cross_entropy(seq2seq(p, source, given), target)
    )
    state = adam_init(params)
    for step in range(steps):
        _, grads = gradient(params, *batch(rng, BATCH, int(rng.integers(1, LONGEST + 1))))
        grads, _ = clip_grad_norm(grads, max_norm=1.0)
        params, state = adam(params, grads, state, lr=LR * (1 - step / steps))
    return params


def accuracies(params, lengths, *, n=500, seed=1234):
    """``{length: (share of symbols, share of whole sequences)}`` that are right, decoded greedily."""
    import numpy as np

    from nnbook.rnn import greedy_decode

    rng, table = np.random.default_rng(seed), {}
    for length in lengths:
        source, _, target = batch(rng, n, length)
        right = greedy_decode(params, source, length, start=START) == target
        table[length] = float(right.mean()), float(right.all(0).mean())
    return table


def measure(quick):
    steps, widths, seeds = (100, WIDTHS[:1], SEEDS[:1]) if quick else (STEPS, WIDTHS, SEEDS)
    results = {"longest_in_training": LONGEST, "steps": STEPS, "batch_size": BATCH, "seeds": SEEDS, "symbols": SYMBOLS}
    results |= {"test_lengths": TEST_LENGTHS, "lr": LR, "widths": {}}
    for width in widths:
        tables = [accuracies(train(seed, width, steps), TEST_LENGTHS) for seed in seeds]
        results["widths"][str(width)] = {
            "symbols": [spread([table[length][0] for table in tables]) for length in TEST_LENGTHS],
            "sequences": [spread([table[length][1] for table in tables]) for length in TEST_LENGTHS],
        }
        means = [row["mean"] for row in results["widths"][str(width)]["sequences"]]
        print(f"width {width}:", [round(value, 2) for value in means])
    if quick:
        return results, []
    widest = results["widths"][str(WIDTHS[-1])]["sequences"]
    return results, [
        Bar("whole sequences right at length 5, 64 units", widest[4]["mean"], 0.95, at_least=True),
        Bar("whole sequences right at length 20, 64 units", widest[19]["mean"], 0.5),
    ]


if __name__ == "__main__":
    main(__file__, measure)
