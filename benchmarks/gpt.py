"""A small GPT on characters, in NumPy: the validation loss that five minutes of one core buy, beside an n-gram model.

The text is ``nnbook.data.python_topics``: nine tenths of it for training, a twentieth each for validation and test. The
budget is 300 seconds of *processor time* of a single thread, so that a busy machine does not change what is measured;
the learning rate falls with the part of the budget that is used. Order and concentration of the n-gram model are chosen
on the validation text. The trained weights are stored in half precision beside the results.

Bars: the validation loss is below the n-gram model's by 0.03 nats a character or more, and the weights take less than a
megabyte.
"""

from __future__ import annotations

import math
import time

from _common import RESULTS, Bar, main

CONFIG = {"context": 128, "n_layer": 3, "n_head": 4, "n_embd": 96}
TRAINING = {"batch": 8, "max_lr": 4e-3, "warmup": 100, "weight_decay": 0.1, "betas": (0.9, 0.99), "max_norm": 1.0}
BUDGET = 300.0


def texts():
    """Tokens of the three parts, and the vocabulary of the whole text."""
    from nnbook import data
    from nnbook.rnn import encode, vocabulary

    whole = data.python_topics()
    tokens = vocabulary(whole)
    return tokens, [encode(part, tokens) for part in data.text_split(whole, fractions=(0.9, 0.05, 0.05))]


def mean_loss(params, tokens, *, n_head, context, batch=32):
    """Nats a character over consecutive windows of the context's length; the first character of each has no past."""
    import numpy as np

    from nnbook.attention import gpt_loss

    windows = (len(tokens) - 1) // context
    x, y = (tokens[i : i + windows * context].reshape(windows, context) for i in (0, 1))
    parts = [
        (len(x[i : i + batch]), float(gpt_loss(params, x[i : i + batch], y[i : i + batch], n_head=n_head)))
        for i in range(0, windows, batch)
    ]
    return float(np.average([value for _, value in parts], weights=[n for n, _ in parts]))


def train(train_tokens, validation, size, config, training, budget, *, seed=0, checks=12):
    import numpy as np

    from nnbook.attention import gpt_init, gpt_loss
    from nnbook.backprop import value_and_grad
    from nnbook.optimizers import adamw, adamw_init, clip_grad_norm, param_groups
    from nnbook.regularization import is_weight

    rng = np.random.default_rng(seed)
    params = gpt_init(rng, vocab_size=size, **config)
    gradient = value_and_grad(lambda p, x, y: gpt_loss(p, x, y, n_head=config["n_head"]))
    optimizer = param_groups((adamw_init, adamw), (is_weight, {"weight_decay": training["weight_decay"]}))
    state, T, curve, losses = optimizer[0](params), config["context"], [], []
    start, checking, steps, used = time.process_time(), 0.0, 0, 0.0
    while used < 1:
        places = rng.integers(len(train_tokens) - T, size=training["batch"])[:, None] + np.arange(T)
        value, grads = gradient(params, train_tokens[places], train_tokens[places + 1])
        grads, _ = clip_grad_norm(grads, max_norm=training["max_norm"])
        rise = min(1.0, (steps + 1) / training["warmup"])
        lr = training["max_lr"] * rise * (0.5 + 0.5 * math.cos(math.pi * used))
        params, state = optimizer[1](params, grads, state, lr=lr, betas=training["betas"], weight_decay=0.0)
        losses.append(float(value))
        steps += 1
        used = min((time.process_time() - start - checking) / budget, 1.0)
        if used * checks >= len(curve) + 1:
            before = time.process_time()
            loss = mean_loss(params, validation, n_head=config["n_head"], context=T)
            curve.append(
                {"seconds": used * budget, "steps": steps, "train": float(np.mean(losses[-50:])), "validation": loss}
            )
            checking += time.process_time() - before
            print(curve[-1], flush=True)
    return params, curve, steps


def measure(quick):
    import numpy as np

    from nnbook.attention import generate, gpt_flops, training_flops
    from nnbook.backprop import tree_map
    from nnbook.cnn import parameter_count
    from nnbook.rnn import decode, ngram_fit, ngram_nll, ngram_search
    from nnbook.training import save

    vocabulary, (training_text, validation, test) = texts()
    size = len(vocabulary)
    started = time.process_time()
    chosen = ngram_search(training_text, validation, vocab_size=size)
    order, m = chosen["order"], chosen["concentration"]
    models = [ngram_fit(training_text, order=n, vocab_size=size) for n in range(1, len(chosen["table"]) + 1)]
    ngram = {
        "order": order,
        "concentration": m,
        "validation": chosen["nll"],
        "test": ngram_nll(models[order - 1], test, concentration=m),
        "seconds": time.process_time() - started,
        "by order": {str(n + 1): ngram_nll(model, validation, concentration=m) for n, model in enumerate(models)},
    }
    print("n-gram:", ngram, flush=True)
    wall = time.perf_counter()
    params, curve, steps = train(training_text, validation, size, CONFIG, TRAINING, 10.0 if quick else BUDGET)
    wall = time.perf_counter() - wall
    rounded = tree_map(lambda leaf: leaf.astype(np.float16), params)
    params = tree_map(lambda leaf: leaf.astype(np.float32), rounded)
    n_head, T = CONFIG["n_head"], CONFIG["context"]
    N, D = parameter_count(params) - params["wpe"]["weight"].size, steps * TRAINING["batch"] * T
    prompt = np.array([vocabulary.index(c) for c in "The "])

    def write(**options):
        return generate(params, prompt, n_head=n_head, length=120, rng=np.random.default_rng(0), **options)

    results = {
        "config": CONFIG,
        "training": TRAINING,
        "characters": {
            "training": len(training_text),
            "validation": len(validation),
            "test": len(test),
            "different": size,
        },
        "parameters": parameter_count(params),
        "ngram": ngram,
        "curve": curve,
        "steps": steps,
        "characters read": D,
        "seconds of processor time": BUDGET,
        "seconds on the clock": wall,
        "validation": mean_loss(params, validation, n_head=n_head, context=T),
        "test": mean_loss(params, test, n_head=n_head, context=T),
        "flops": {"6ND": training_flops(N, D), "counted": 3 * gpt_flops(params, T) * steps * TRAINING["batch"]},
        "samples": {
            name: decode(write(**options), vocabulary)
            for name, options in (
                ("greedy", {"temperature": 0.0}),
                ("temperature 1", {}),
                ("top-p 0.9", {"top_p": 0.9}),
                ("temperature 2", {"temperature": 2.0}),
            )
        },
    }
    for name, text in results["samples"].items():
        print(f"--- {name}\n{text}")
    weights = RESULTS / "gpt.safetensors"
    if not quick:
        save(weights, rounded)
    return results, [
        Bar("validation loss minus the n-gram model's", results["validation"] - ngram["validation"], -0.03, "nats"),
        Bar("bytes of the weights", sum(2 * leaf.size for leaf in _leaves(rounded)), 1e6),
    ]


def _leaves(params):
    from nnbook.backprop import flatten

    return flatten(params).values()


if __name__ == "__main__":
    main(__file__, measure, threads=1)
