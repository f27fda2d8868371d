"""Reversal by the encoder and the decoder of chapter 7, which may now look back: accuracy against length.

Networks, task and training are those of ``seq2seq.py``: two GRUs, lengths from 1 to 20 drawn uniformly, 64 sequences a
step, 1,500 steps of Adam with a rate that falls linearly from 5e-3, gradients clipped at norm 1, greedy decoding of 500
new sequences of each length from 1 to 24. New is additive attention to the states of the encoder. Four kinds of runs:

- ``attention``, at three widths;
- ``one state``, the control of chapter 7, 64 units;
- ``one state, more``: the same control with at least the parameters and at least the processor time of attention;
- ``equal weights``: the network with attention whose weights are all 1/S, in training as well. It has the additional
  inputs and the average of all states at every step, and cannot choose.

Stored as well: how much weight lies how far from the place that holds the answer, and what is left of a trained network
when its weights are made equal afterwards.

Bars: with attention at 64 units whole sequences of length 20 are right, worst seed; it beats all controls there.
"""

from __future__ import annotations

import time

from _common import Bar, main, spread
from seq2seq import BATCH, LONGEST, LR, START, STEPS, SYMBOLS, TEST_LENGTHS, batch

RUNS = {
    "attention, 64 units": {"width": 64, "steps": STEPS, "seeds": 5},
    "attention, 32 units": {"width": 32, "steps": STEPS, "seeds": 3},
    "attention, 16 units": {"width": 16, "steps": STEPS, "seeds": 3},
    "one state, 64 units": {"width": 64, "steps": STEPS, "seeds": 5},
    "one state, more": {"width": 88, "steps": 4 * STEPS, "seeds": 5},
    "equal weights, 64 units": {"width": 64, "steps": STEPS, "seeds": 5},
}
PICTURED = (8, 20)  # lengths of which the weights for one sequence are stored
OFFSETS = range(-3, 4)


def equal(params):
    """The same parameters with scores of 0, and so with equal weights for all states of the encoder."""
    score = 0 * params["attention"]["score"]["weight"]
    return {**params, "attention": {**params["attention"], "score": {"weight": score}}}


def train(kind, seed, width, steps):
    """``(params, decode)``, where ``decode(params, source, length)`` gives tokens and weights (or ``None``)."""
    import numpy as np

    from nnbook.attention import seq2seq_attention, seq2seq_attention_decode, seq2seq_attention_init
    from nnbook.backprop import value_and_grad
    from nnbook.optimizers import adam, adam_init, clip_grad_norm
    from nnbook.rnn import greedy_decode, seq2seq, seq2seq_init, sequence_cross_entropy

    init, model, prepare = {
        "attention": (seq2seq_attention_init, seq2seq_attention, lambda p: p),
        "equal weights": (seq2seq_attention_init, seq2seq_attention, equal),
        "one state": (seq2seq_init, seq2seq, lambda p: p),
    }[kind]
    rng = np.random.default_rng(seed)
    params = init(rng, SYMBOLS, SYMBOLS + 1, width, embedding_size=16)
    gradient = value_and_grad(
        lambda p, source, given, target: sequence_cross_entropy(model(prepare(p), source, given), target)
    )
    state = adam_init(params)
    for step in range(steps):
        _, grads = gradient(params, *batch(rng, BATCH, int(rng.integers(1, LONGEST + 1))))
        grads, _ = clip_grad_norm(grads, max_norm=1.0)
        params, state = adam(params, grads, state, lr=LR * (1 - step / steps))

    def decode(params, source, length):
        if kind == "one state":
            return greedy_decode(params, source, length, start=START), None
        return seq2seq_attention_decode(prepare(params), source, length, start=START)

    return params, decode


def scores(params, decode, lengths):
    """A table: for each length the shares of sequences and symbols that are right, and the weight at each offset.

    The answer's symbol t stands at place ``length - 1 - t`` of the source; an offset of 1 is the place after it.
    """
    import numpy as np

    rng, table = np.random.default_rng(1234), {}
    for length in lengths:
        source, _, target = batch(rng, 500, length)
        tokens, weights = decode(params, source, length)
        right = tokens == target
        row = {"sequences": float(right.all(0).mean()), "symbols": float(right.mean())}
        if weights is not None:
            mean = weights.mean(0)[:, ::-1]  # answer t against place length - 1 - t: now the diagonal
            row["weight_at"] = {str(k): float(np.trace(mean, -k) / length) for k in OFFSETS}
        table[length] = row
    return table


def picture(params, decode, length, seed=7):
    import numpy as np

    source, _, target = batch(np.random.default_rng(seed), 1, length)
    tokens, weights = decode(params, source, length)
    return {
        "source": source[:, 0].tolist(),
        "written": tokens[:, 0].tolist(),
        "right": bool((tokens == target).all()),
        "weights": np.round(weights[0].astype(float), 3).tolist(),
    }


def measure(quick):
    from nnbook.cnn import parameter_count

    results = {"longest_in_training": LONGEST, "batch_size": BATCH, "symbols": SYMBOLS, "lr": LR}
    results |= {"test_lengths": TEST_LENGTHS, "settings": RUNS, "runs": {}}
    for name, setting in RUNS.items():
        kind, seeds, steps = name.split(",")[0], setting["seeds"], setting["steps"]
        tables, seconds, without = [], [], []
        for seed in range(1 if quick else seeds):
            start = time.process_time()
            params, decode = train(kind, seed, setting["width"], 30 if quick else steps)
            seconds.append(time.process_time() - start)
            tables.append(scores(params, decode, TEST_LENGTHS))
            if kind == "attention":
                without.append(scores(equal(params), decode, (5, 10, 20)))
            if name == "attention, 64 units" and seed == 0:
                results["pictures"] = [picture(params, decode, length) for length in PICTURED]
        run = {
            "parameters": parameter_count(params),
            "seconds": spread(seconds),
            "symbols": [spread([table[length]["symbols"] for table in tables]) for length in TEST_LENGTHS],
            "sequences": [spread([table[length]["sequences"] for table in tables]) for length in TEST_LENGTHS],
        }
        if kind == "attention":
            at = {length: [table[length]["weight_at"] for table in tables] for length in (5, 10, 20, 24)}
            run["weight_at"] = {
                str(n): {k: spread([one[k] for one in rows]) for k in rows[0]} for n, rows in at.items()
            }
            run["made_equal_afterwards"] = {
                str(n): spread([table[n]["sequences"] for table in without]) for n in (5, 10, 20)
            }
        results["runs"][name] = run
        means = [round(row["mean"], 2) for row in run["sequences"]]
        print(f"{name}: {run['parameters']} parameters, {run['seconds']['mean']:.0f} s each, {means}", flush=True)
    if quick:
        return results, []
    at_twenty = {name: run["sequences"][TEST_LENGTHS.index(20)] for name, run in results["runs"].items()}
    controls = max(row["max"] for name, row in at_twenty.items() if not name.startswith("attention"))
    lead = at_twenty["attention, 64 units"]["min"] - controls
    return results, [
        Bar("length 20, attention, worst seed", at_twenty["attention, 64 units"]["min"], 0.9, at_least=True),
        Bar("lead of its worst seed over the best of all controls", lead, 0.5, at_least=True),
        Bar(
            "processor time of the longer control over that of attention",
            results["runs"]["one state, more"]["seconds"]["mean"]
            / results["runs"]["attention, 64 units"]["seconds"]["mean"],
            1.0,
            at_least=True,
        ),
    ]


if __name__ == "__main__":
    main(__file__, measure)
