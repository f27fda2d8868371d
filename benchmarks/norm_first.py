"""Pre-norm against post-norm: a deep encoder learns to reverse sequences, at several constant learning rates.

Six blocks read eight symbols with sinusoidal positions and label every place with the symbol of the mirrored place.
Adam from the first step at the full rate, no warm-up, no clipping: this is what is said to separate the two. A run that
diverges counts with what it reaches. ``norm_warmup.py`` adds a warm-up.
"""

from __future__ import annotations

from _common import Bar, main, spread

SIZE = {"layers": 6, "d_model": 32, "nhead": 2, "symbols": 10, "length": 8, "batch": 16, "steps": 250}
RATES = (1e-3, 3e-3, 1e-2)


def run(seed, norm_first, lr, size, warmup=0):
    import numpy as np

    from nnbook import data
    from nnbook.attention import sinusoidal_positions, transformer_encoder_layer, transformer_encoder_layer_init
    from nnbook.backprop import value_and_grad
    from nnbook.losses import cross_entropy
    from nnbook.neurons import linear, linear_init
    from nnbook.optimizers import adam, adam_init
    from nnbook.regularization import layer_norm, layer_norm_init

    rng = np.random.default_rng(seed)
    E = size["d_model"]
    params = {
        "embedding": rng.normal(size=(size["symbols"], E)).astype(np.float32),
        "layers": {str(i): transformer_encoder_layer_init(rng, E) for i in range(size["layers"])},
        "norm": layer_norm_init(E),
        "head": linear_init(rng, E, size["symbols"]),
    }
    places = sinusoidal_positions(size["length"], E)

    def logits(params, x):
        h = params["embedding"][x] + places
        for layer in params["layers"].values():
            h = transformer_encoder_layer(layer, h, nhead=size["nhead"], norm_first=norm_first)
        return linear(layer_norm(h, **params["norm"]), **params["head"])

    def loss(params, x, y):
        return cross_entropy(logits(params, x).reshape(-1, size["symbols"]), y.reshape(-1))

    gradient, state, losses = value_and_grad(loss), adam_init(params), []
    for step in range(size["steps"]):
        value, grads = gradient(params, *data.reversal(size["batch"], size["length"], rng=rng, symbols=size["symbols"]))
        params, state = adam(params, grads, state, lr=lr * min(1.0, (step + 1) / max(warmup, 1)))
        losses.append(float(value))
    x, y = data.reversal(500, size["length"], rng=np.random.default_rng(12345), symbols=size["symbols"])
    return float((logits(params, x).argmax(-1) == y).mean()), float(np.mean(losses[-20:]))


def measure(quick):
    size = SIZE | ({"steps": 5} if quick else {})
    results, best = {"size": size, "rates": RATES, "runs": {}}, {}
    for name, norm_first in (("pre-norm", True), ("post-norm", False)):
        table = {}
        for lr in RATES[:1] if quick else RATES:
            found = [run(seed, norm_first, lr, size) for seed in range(1 if quick else 3)]
            table[f"{lr:g}"] = {"accuracy": spread([a for a, _ in found]), "loss": spread([b for _, b in found])}
            print(name, lr, [f"{a:.3f}" for a, _ in found], [f"{b:.3f}" for _, b in found], flush=True)
        results["runs"][name] = table
        best[name] = max(row["accuracy"]["mean"] for row in table.values())
    return results, [Bar("pre-norm at its best rate", best["pre-norm"], 0.99, "", at_least=True)]


if __name__ == "__main__":
    main(__file__, measure, threads=1)
