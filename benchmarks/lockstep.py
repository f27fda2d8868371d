"""NumPy and PyTorch from the same weights on the same batches: how far do they part in 500 steps?

Bar: 1e-8 relative, in float64, on every device present. In float32 the same runs part; how far, and when they do so
visibly, is printed. One run has a learning rate so large that training is unstable: there a rounding error grows by
orders of magnitude in either precision, because the map from one step to the next stretches differences. It has no bar.
"""

from __future__ import annotations

from _common import Bar, main

STEPS = 500
UNSTABLE = "the same with five times the learning rate"


def measure(quick):
    import numpy as np
    import torch
    from _models import R1, R3, classification, torch_classification, torch_mlp

    from nnbook.data import digits, mnist_subset
    from nnbook.losses import mse_loss
    from nnbook.neurons import mlp, mlp_init
    from nnbook.optimizers import adam, adam_init, sgd, sgd_init
    from nnbook.training import lockstep

    steps = 50 if quick else STEPS
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    print("devices:", ", ".join(devices), "" if len(devices) > 1 else "(no CUDA device was seen)")
    images, labels = digits()
    (many, their_labels), _ = mnist_subset()
    noise = np.random.default_rng(3)
    experiments = {
        "R1 on the MNIST subset, SGD": (
            R1,
            classification,
            torch_classification,
            lambda i: (many[128 * i % 9984 :][:128], their_labels[128 * i % 9984 :][:128]),
            {"optimizer": (sgd_init, sgd), "lr": 0.01},
        ),
        "digits 64-64-32-10, SGD with momentum": (
            (64, 64, 32, 10),
            classification,
            torch_classification,
            lambda i: (images[32 * i % 1760 :][:32], labels[32 * i % 1760 :][:32]),
            {"optimizer": (sgd_init, sgd), "lr": 0.02, "momentum": 0.9},
        ),
        UNSTABLE: (
            (64, 64, 32, 10),
            classification,
            torch_classification,
            lambda i: (images[32 * i % 1760 :][:32], labels[32 * i % 1760 :][:32]),
            {"optimizer": (sgd_init, sgd), "lr": 0.1, "momentum": 0.9},
        ),
        "R3 10-64-1 on noise, Adam": (
            R3,
            lambda params, x, y: mse_loss(mlp(params, x), y),
            lambda twin, x, y: torch.nn.functional.mse_loss(twin(x), y),
            lambda i: (noise.standard_normal((32, 10)), noise.standard_normal((32, 1))),
            {"optimizer": (adam_init, adam), "lr": 1e-3},
        ),
    }
    results, bars = [], []
    for name, (sizes, loss, torch_loss, batch, options) in experiments.items():
        batches = [batch(i) for i in range(steps)]
        for device in devices:
            for dtype in (np.float64, np.float32):
                params = mlp_init(np.random.default_rng(0), sizes, dtype=dtype)
                differences = lockstep(params, loss, torch_mlp(params), torch_loss, batches, device=device, **options)
                at = {step: float(differences[step - 1]) for step in (1, 10, 50, 100, 200, 500) if step <= steps}
                row = {"experiment": name, "device": device, "dtype": dtype.__name__, "max": float(differences.max())}
                over = np.flatnonzero(differences > 1e-3)
                row |= {"after_steps": at, "first_step_over_1e-3": int(over[0]) + 1 if len(over) else None}
                results.append(row)
                shown = ", ".join(f"{value:.0e} after {step}" for step, value in at.items())
                print(f"{name}, {device}, {dtype.__name__}: {shown}")
                if dtype is np.float64 and name != UNSTABLE:
                    bars.append(Bar(f"lockstep, {name}, {device}", row["max"], 1e-8))
    return results, bars


if __name__ == "__main__":
    main(__file__, measure)
