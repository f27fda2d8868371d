"""R3: a 10-64-1 network (MSE, Adam, batch 32) on pure noise. It can only memorise: train against test error.

1,000 training and 1,000 test examples, inputs and targets independent standard normal. No predictor can have a mean
squared error below 1 on the test set; the constant 0 has it. There is no bar here, only the two curves.
"""

from __future__ import annotations

from _common import main, spread


def measure(quick):
    import numpy as np
    from _models import R3

    from nnbook.losses import mse_loss
    from nnbook.neurons import mlp, mlp_init
    from nnbook.training import fit

    def loss(params, x, y):
        return mse_loss(mlp(params, x), y)

    epochs, seeds = (20, 2) if quick else (200, 5)
    runs = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        (x, y), test = ((rng.standard_normal((1000, 10)), rng.standard_normal((1000, 1))) for _ in range(2))
        params = mlp_init(rng, R3, dtype=np.float64)
        result = fit(params, loss, (x, y), lr=1e-3, epochs=epochs, batch_size=32, rng=rng, validation=test)
        runs.append(result.history)
    results = {"seeds": list(range(seeds)), "epochs": epochs}
    for name in ("train_loss", "validation_loss"):
        results[name] = {
            f"after epoch {epoch}": spread(run[name][epoch - 1] for run in runs) for epoch in (1, epochs // 4, epochs)
        }
        label = "train" if name == "train_loss" else "test"
        shown = "; ".join(f"{value['mean']:.3f} {when}" for when, value in results[name].items())
        print(f"{label} error, mean of {seeds} seeds: {shown}")
    return results, []


if __name__ == "__main__":
    main(__file__, measure)
