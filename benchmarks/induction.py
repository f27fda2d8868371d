"""Induction heads: a GPT of two layers learns to continue what repeats, and its heads are switched off one by one.

A training sequence is a random pattern, repeated until the sequence is full; pattern and period are drawn anew each
time. From the second round on every symbol can be predicted, by looking for the last place where the present symbol
stood and copying what came after it. Only these places count in the loss. Tested is on new sequences, whose periods
are drawn from the same range.

For each head: how much weight it gives to the token before (in the random first round), how much to the tokens after
earlier occurrences of the present one (from the second round on), and loss and accuracy when the head's output is
replaced by zeros; then those of all heads of a layer at once. A network with one layer is trained as a control. The
weights of the first seed are stored beside the results.

Bars: two layers predict at least 97 % of the repeated symbols, one layer less than half (worst seeds).
"""

from __future__ import annotations

from _common import RESULTS, Bar, main, spread, timed

CONFIG = {"vocab_size": 32, "context": 36, "n_head": 2, "n_embd": 32}
PERIODS = (6, 14)
TRAINING = {"batch": 32, "steps": 1500, "max_lr": 5e-3}


def draw(rng, n, *, vocab_size=32, length=36, periods=PERIODS):
    """Patterns of different symbols, repeated: tokens (n, length + 1), and the period of each."""
    import numpy as np

    tokens, period = np.empty((n, length + 1), np.int64), rng.integers(periods[0], periods[1] + 1, size=n)
    for row, p in zip(tokens, period, strict=True):
        pattern = rng.permutation(vocab_size)[:p]
        row[:] = np.resize(pattern, length + 1)
    return tokens, period


def predictable(tokens, period):
    """Places whose next token has been seen: from the last of the first round on."""
    import numpy as np

    return np.arange(tokens.shape[1] - 1) >= period[:, None]


def loss_and_accuracy(params, tokens, period, *, n_head, ablate=()):
    import numpy as np

    from nnbook.attention import gpt
    from nnbook.losses import accuracy, cross_entropy

    logits = np.asarray(gpt(params, tokens[:, :-1], n_head=n_head, ablate=ablate))
    count = predictable(tokens, period)
    return float(cross_entropy(logits[count], tokens[:, 1:][count])), accuracy(logits[count], tokens[:, 1:][count])


def patterns(params, tokens, period, *, n_head):
    """For each layer and head: mean weight on the token before, and on what came after the present one earlier."""
    import numpy as np

    from nnbook.attention import gpt

    _, weights = gpt(params, tokens[:, :-1], n_head=n_head, need_weights=True)
    T = tokens.shape[1] - 1
    first = (np.arange(T) < period[:, None]) & (np.arange(T) > 0)
    sequence, place = np.nonzero(first)
    before = [w[sequence, :, place, place - 1].mean(0).tolist() for w in weights]
    distance = np.arange(T)[:, None] - np.arange(T)
    follows = (distance > 0) & ((distance + 1) % period[:, None, None] == 0)  # (sequence, query, key)
    sequence, place = np.nonzero(predictable(tokens, period))
    after = [(w * follows[:, None]).sum(-1)[sequence, :, place].mean(0).tolist() for w in weights]
    return before, after


def train(seed, n_layer, training, every=50):
    import numpy as np

    from nnbook.attention import gpt, gpt_init
    from nnbook.backprop import value_and_grad
    from nnbook.losses import cross_entropy
    from nnbook.optimizers import adam, adam_init, clip_grad_norm, one_cycle

    rng = np.random.default_rng(seed)
    params = gpt_init(rng, n_layer=n_layer, **CONFIG)

    def loss(params, tokens, count):
        return cross_entropy(gpt(params, tokens[:, :-1], n_head=CONFIG["n_head"])[count], tokens[:, 1:][count])

    gradient, state, losses = value_and_grad(loss), adam_init(params), []
    for step in range(training["steps"]):
        tokens, period = draw(rng, training["batch"])
        value, grads = gradient(params, tokens, predictable(tokens, period))
        grads, _ = clip_grad_norm(grads, max_norm=1.0)
        lr = one_cycle(step, max_lr=training["max_lr"], total_steps=training["steps"])
        params, state = adam(params, grads, state, lr=lr)
        losses.append(float(value))
    return params, [float(np.mean(losses[i : i + every])) for i in range(0, len(losses), every)]


def measure(quick):
    import numpy as np

    from nnbook.backprop import tree_map
    from nnbook.training import save

    training = TRAINING | ({"steps": 20} if quick else {})
    test = draw(np.random.default_rng(999), 256)
    n_head, runs = CONFIG["n_head"], {"1": [], "2": []}
    for n_layer, seeds in ((2, 3), (1, 3)):
        for seed in range(1 if quick else seeds):
            seconds, (params, curve) = timed(train, seed, n_layer, training)
            if n_layer == 2 and seed == 0:
                rounded = tree_map(lambda leaf: leaf.astype(np.float16), params)
                if not quick:
                    save(RESULTS / "induction.safetensors", rounded)
            value, right = loss_and_accuracy(params, *test, n_head=n_head)
            before, after = patterns(params, *test, n_head=n_head)
            run = {"seed": seed, "loss": value, "accuracy": right, "before": before, "after": after}
            run |= {"curve": curve, "seconds": seconds}
            run["ablated"] = [
                [loss_and_accuracy(params, *test, n_head=n_head, ablate=((layer, head),)) for head in range(n_head)]
                for layer in range(n_layer)
            ]
            whole = [tuple((layer, head) for head in range(n_head)) for layer in range(n_layer)]
            run["layer ablated"] = [loss_and_accuracy(params, *test, n_head=n_head, ablate=heads) for heads in whole]
            runs[str(n_layer)].append(run)
            print(f"{n_layer} layer(s), seed {seed}: loss {value:.3f}, {100 * right:.1f} % right, {seconds:.0f} s")
            print("   before", np.round(before, 2).tolist(), " after", np.round(after, 2).tolist(), flush=True)
            print("   ablated", np.round(np.array(run["ablated"])[..., 1], 2).tolist(), end=" ")
            print("   layers", np.round(np.array(run["layer ablated"])[..., 1], 2).tolist(), flush=True)
    right = {n: spread([run["accuracy"] for run in found]) for n, found in runs.items()}
    return {"config": CONFIG, "periods": PERIODS, "training": training, "runs": runs, "accuracy": right}, [
        Bar("two layers, worst seed", right["2"]["min"], 0.97, "", at_least=True),
        Bar("one layer, best seed", right["1"]["max"], 0.5),
    ]


if __name__ == "__main__":
    main(__file__, measure, threads=1)
