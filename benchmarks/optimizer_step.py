"""One update of R1's 535,818 parameters by each optimizer, against torch.optim with its default settings."""

from __future__ import annotations

from _common import Bar, alternate, main


def measure(quick):
    import numpy as np
    import torch
    from _models import r1_start

    from nnbook.backprop import flatten, tree_map
    from nnbook.optimizers import adam, adam_init, adamw, adamw_init, sgd, sgd_init
    from nnbook.training import to_torch

    rounds = 10 if quick else 200
    params, rng = r1_start(0)
    grads = tree_map(lambda p: rng.standard_normal(p.shape, dtype=np.float32), params)
    results = {}
    for name, init, step, torch_class, options in (
        ("SGD", sgd_init, sgd, torch.optim.SGD, {}),
        ("SGD with momentum", sgd_init, sgd, torch.optim.SGD, {"momentum": 0.9}),
        ("Adam", adam_init, adam, torch.optim.Adam, {}),
        ("AdamW", adamw_init, adamw, torch.optim.AdamW, {}),
    ):
        now = {"params": params, "state": init(params)}

        def ours(now=now, step=step, options=options):
            now["params"], now["state"] = step(now["params"], grads, now["state"], lr=1e-3, **options)

        tensors = {key: tensor.requires_grad_() for key, tensor in to_torch(params).items()}
        for key, grad in flatten(grads).items():
            tensors[key].grad = torch.tensor(grad)
        optimizer = torch_class(list(tensors.values()), lr=1e-3, **options)
        times = alternate({"numpy": ours, "torch": optimizer.step}, rounds=rounds)
        milliseconds = {key: 1e3 * float(np.median(series)) for key, series in times.items()}
        results[name] = {**milliseconds, "ratio": milliseconds["numpy"] / milliseconds["torch"]}
        print(f"{name}: NumPy {milliseconds['numpy']:.2f} ms, PyTorch {milliseconds['torch']:.2f} ms")
    return results, [
        Bar(f"{name} step against PyTorch", results[name]["ratio"], 3, "times") for name in ("Adam", "AdamW")
    ]


if __name__ == "__main__":
    main(__file__, measure)
