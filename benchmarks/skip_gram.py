"""Word vectors of the documentation of Python, by skip-gram with negative sampling.

Words are runs of letters and underscores, in lower case, that occur at least five times in
:func:`nnbook.data.python_topics`. Centre and context stand at most four words apart; five false contexts for each true
one, drawn from the frequencies to the power 3/4; 32 numbers a vector; Adam. What is kept: the ten nearest neighbours of
some words by the cosine, and, as a control, the same with the vectors before training.

Bar: with every seed, in three of four pairs that a reader would make, the two are nearer than nine of ten random words.
"""

from __future__ import annotations

from _common import Bar, main, spread

WINDOW, NEGATIVES, SIZE, FEWEST = 4, 5, 32, 5
EPOCHS, BATCH, LR = 8, 1024, 1e-2
SEEDS = [0, 1, 2]
SHOWN = ["integer", "class", "import", "list", "error", "if", "first", "float"]
PAIRS = [  # written down before anything was trained
    ("list", "tuple"),
    ("integer", "float"),
    ("function", "method"),
    ("if", "else"),
    ("try", "except"),
    ("class", "instance"),
    ("import", "module"),
    ("string", "bytes"),
    ("key", "dictionary"),
    ("global", "local"),
    ("left", "right"),
    ("true", "false"),
    ("raise", "exception"),
    ("first", "second"),
    ("keyword", "argument"),
    ("with", "enter"),
    ("yield", "generator"),
    ("await", "async"),
    ("addition", "subtraction"),
    ("start", "end"),
]


def words():
    """``(vocabulary, text as integers, counts)`` without the rare words."""
    import re

    import numpy as np

    from nnbook.data import python_topics
    from nnbook.rnn import encode, vocabulary

    text = re.findall(r"[a-z_]+", python_topics().lower())
    names, counts = np.unique(text, return_counts=True)
    frequent = set(names[counts >= FEWEST].tolist())
    text = [word for word in text if word in frequent]
    tokens = vocabulary(text)
    numbers = encode(text, tokens)
    return tokens, numbers, np.bincount(numbers, minlength=len(tokens))


def train(seed, numbers, counts, epochs, batches=None):
    """``(vectors before, vectors after, mean loss of each epoch)``."""
    import numpy as np

    from nnbook.backprop import value_and_grad
    from nnbook.optimizers import adam, adam_init
    from nnbook.rnn import negative_samples, skip_gram_init, skip_gram_loss, skip_gram_pairs

    rng = np.random.default_rng(seed)
    centers, contexts = skip_gram_pairs(numbers, window=WINDOW)
    params = skip_gram_init(rng, len(counts), SIZE)
    before = params["input"]["weight"].copy()
    gradient, state, curve = value_and_grad(skip_gram_loss), adam_init(params), []
    steps = len(centers) // BATCH
    for epoch in range(epochs):
        order, total = rng.permutation(len(centers)), 0.0
        for i in range(steps if batches is None else batches):
            rows = order[i * BATCH : (i + 1) * BATCH]
            false = negative_samples(rng, counts, (len(rows), NEGATIVES))
            value, grads = gradient(params, centers[rows], contexts[rows], false)
            lr = LR * (1 - (epoch + i / steps) / epochs)
            params, state = adam(params, grads, state, lr=lr)
            total += float(value)
        curve.append(total / (i + 1))
    return before, params["input"]["weight"], curve


def neighbours(vectors, tokens, word, count=10):
    from nnbook.rnn import most_similar

    indices, cosines = most_similar(vectors, tokens.index(word), count=count)
    return [[tokens[i], round(float(c), 3)] for i, c in zip(indices, cosines, strict=True)]


def paired(vectors, tokens, rng):
    """In which share of PAIRS the two are nearer than the first one and a random word are (mean over 1,000 words)."""
    import numpy as np

    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    known = [(tokens.index(a), tokens.index(b)) for a, b in PAIRS if a in tokens and b in tokens]
    others = rng.integers(len(tokens), size=1000)
    beaten = [float(np.mean(unit[others] @ unit[a] < unit[a] @ unit[b])) for a, b in known]
    return {
        "pairs": len(known),
        "median_percentile": float(np.median(beaten)),
        "above_0.9": float(np.mean(np.array(beaten) > 0.9)),
    }


def measure(quick):
    import numpy as np

    tokens, numbers, counts = words()
    results = {"words": len(numbers), "vocabulary": len(tokens), "window": WINDOW, "negatives": NEGATIVES, "size": SIZE}
    results |= {"epochs": EPOCHS, "batch": BATCH, "lr": LR, "seeds": SEEDS, "pairs": PAIRS, "runs": []}
    for seed in SEEDS[: 1 if quick else None]:
        before, after, curve = train(seed, numbers, counts, 1 if quick else EPOCHS, 5 if quick else None)
        results["runs"].append(
            {
                "loss": curve,
                "before": paired(before, tokens, np.random.default_rng(0)),
                "after": paired(after, tokens, np.random.default_rng(0)),
            }
        )
        print(seed, np.round(curve, 3), results["runs"][-1]["before"], results["runs"][-1]["after"])
        if seed == SEEDS[0]:
            results["neighbours"] = {word: neighbours(after, tokens, word) for word in SHOWN}
            results["neighbours_before"] = {word: neighbours(before, tokens, word, 5) for word in SHOWN}
            shown = sorted({w for word in SHOWN for w, _ in [[word, 1.0], *results["neighbours"][word][:5]]})
            rows = after[[tokens.index(word) for word in shown]]
            rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            rows = rows - rows.mean(0)
            plane = rows @ np.linalg.svd(rows, full_matrices=False)[2][:2].T
            results["map"] = {
                word: [round(float(v), 4) for v in place] for word, place in zip(shown, plane, strict=True)
            }
    results["percentile"] = spread([run["after"]["median_percentile"] for run in results["runs"]])
    for word, row in results["neighbours"].items():
        print(f"{word:10}", " ".join(w for w, _ in row))
    worst = min(run["after"]["above_0.9"] for run in results["runs"])
    return results, [] if quick else [Bar("pairs nearer than nine of ten random words", worst, 0.75, at_least=True)]


if __name__ == "__main__":
    main(__file__, measure)
