"""Character models of the documentation of Python: RNN, GRU and LSTM beside an n-gram model.

The text is :func:`nnbook.data.python_topics`, its first eight tenths for training, the next tenth for choosing, the
last tenth for one look. Every network has 128 units and embeddings of 32; 32 stretches of the text run side by side
in chunks of 64 characters, with the state carried across the chunks and the gradient cut there. Adam, rate 4e-3 falling
to zero along a cosine, gradients clipped at norm 1. After every epoch the loss on the validation text is measured, and
the parameters with the lowest one are kept. The n-gram model's order and concentration are chosen on the same text.

Bars: the GRU predicts the test text better than the plain network and better than trigrams.
"""

from __future__ import annotations

from _common import Bar, main, spread

HIDDEN, EMBEDDING, EPOCHS, BATCH, CHUNK, LR, CLIP = 128, 32, 4, 32, 64, 4e-3, 1.0
SEEDS = {"RNN": [0], "GRU": [0], "LSTM": [0]}
CELLS = {"RNN": "rnn", "GRU": "gru", "LSTM": "lstm"}
NGRAMS = {"orders": range(1, 10), "concentrations": (4, 8, 16, 32, 64)}


def corpus():
    """``(tokens of the vocabulary, training, validation, test)``, the parts as integers."""
    from nnbook.data import python_topics, text_split
    from nnbook.rnn import encode, vocabulary

    text = python_topics()
    tokens = vocabulary(text)
    return tokens, *(encode(part, tokens) for part in text_split(text))


def nats(params, tokens):
    """Mean loss over a text that is read from its beginning, as one sequence."""
    from nnbook.rnn import char_rnn, sequence_cross_entropy

    total, state, n = 0.0, None, len(tokens) - 1
    for start in range(0, n, 1000):
        stop = min(start + 1000, n)
        logits, state = char_rnn(params, tokens[start:stop, None], state)
        total += float(sequence_cross_entropy(logits, tokens[start + 1 : stop + 1, None], reduction="sum"))
    return total / n


def train(cell, seed, training, validation, vocab_size, epochs, steps_in_epoch=None):
    """``(parameters with the lowest validation loss, validation loss after each epoch)``."""
    import math

    import numpy as np

    from nnbook.optimizers import adam, adam_init, clip_grad_norm
    from nnbook.rnn import char_rnn, char_rnn_init, chunks, sequence_cross_entropy, streams, value_and_grad_with_state

    rng = np.random.default_rng(seed)
    options = {"cell": cell, "embedding_size": EMBEDDING, "forget_bias": 1.0 if cell == "lstm" else None}
    params = char_rnn_init(rng, vocab_size, HIDDEN, **options)

    def loss(params, x, y, state):
        logits, state = char_rnn(params, x, state)
        return sequence_cross_entropy(logits, y), state

    gradient, memory = value_and_grad_with_state(loss), adam_init(params)
    side_by_side = streams(training, BATCH)
    pieces = list(chunks(CHUNK, side_by_side[:-1], side_by_side[1:]))[:steps_in_epoch]
    step, curve, best = 0, [], params
    for _ in range(epochs):
        state = None  # every epoch begins at the beginning of the stretches
        for x, y in pieces:
            _, grads, state = gradient(params, x, y, state)
            grads, _ = clip_grad_norm(grads, max_norm=CLIP)
            lr = LR * (1 + math.cos(math.pi * step / (epochs * len(pieces)))) / 2
            params, memory = adam(params, grads, memory, lr=lr)
            step += 1
        curve.append(nats(params, validation))
        if curve[-1] == min(curve):
            best = params
    return best, curve


def measure(quick):
    from nnbook.rnn import bits_per_character, ngram_fit, ngram_nll, ngram_search, perplexity

    tokens, training, validation, test = corpus()
    size = len(tokens)
    results = {"characters": [len(training), len(validation), len(test)], "vocabulary": size, "hidden": HIDDEN}
    results |= {"embedding": EMBEDDING, "epochs": EPOCHS, "batch": BATCH, "chunk": CHUNK, "lr": LR, "seeds": SEEDS}

    def figures(of):
        return {"nats": of, "bits": float(bits_per_character(of)), "perplexity": float(perplexity(of))}

    searched = ngram_search(training, validation, vocab_size=size, **({"orders": (1, 2, 3)} if quick else NGRAMS))
    results["ngram"] = {"order": searched["order"], "concentration": searched["concentration"], "by_order": {}}
    for order in range(1, 4 if quick else 10):
        counted = ngram_fit(training, order=order, vocab_size=size)
        nll = float(ngram_nll(counted, test, concentration=searched["concentration"]))
        results["ngram"]["by_order"][str(order)] = figures(nll)
    print("n-gram", searched["order"], searched["concentration"], results["ngram"]["by_order"])

    results["networks"] = {}
    for name, seeds in SEEDS.items():
        if quick:
            runs = [train(CELLS[name], 0, training, validation[:2000], size, 1, steps_in_epoch=5)]
        else:
            runs = [train(CELLS[name], seed, training, validation, size, EPOCHS) for seed in seeds]
        losses = [nats(params, test[:2000] if quick else test) for params, _ in runs]
        results["networks"][name] = {
            "parameters": sum(leaf.size for part in runs[0][0].values() for leaf in part.values()),
            "nats": spread(losses),
            "bits": spread([bits_per_character(loss) for loss in losses]),
            "perplexity": spread([perplexity(loss) for loss in losses]),
            "validation": [curve for _, curve in runs],
        }
        print(name, results["networks"][name]["bits"], [round(value, 3) for value in runs[0][1]])
    if quick:
        return results, []
    bits = {name: row["bits"]["mean"] for name, row in results["networks"].items()}
    trigrams = results["ngram"]["by_order"]["3"]["bits"]
    return results, [
        Bar("GRU beyond the plain network, bits a character", bits["GRU"] - bits["RNN"], 0, "bits"),
        Bar("GRU beyond trigrams, bits a character", bits["GRU"] - trigrams, 0, "bits"),
    ]


if __name__ == "__main__":
    main(__file__, measure)
