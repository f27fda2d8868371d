"""One update of R1's 535,818 parameters by each optimizer, against torch.optim: its default on the CPU, its foreach
variant and, where there is one, the GPU."""

from __future__ import annotations

import functools

from _common import Bar, alternate, main


def measure(quick):
    import numpy as np
    import torch
    from _models import r1_start

    from nnbook import optimizers
    from nnbook.backprop import tree_map

    rounds = 10 if quick else 200
    params, rng = r1_start(0)
    grads = tree_map(lambda p: rng.standard_normal(p.shape, dtype=np.float32), params)
    plain = optimizers.adamw_init, optimizers.adamw
    grouped = optimizers.param_groups(plain, (optimizers.bias_or_scale, {"weight_decay": 0.0}))
    results = {}
    for name, (init, step), torch_class, options in (
        ("SGD", (optimizers.sgd_init, optimizers.sgd), torch.optim.SGD, {}),
        ("SGD with momentum", (optimizers.sgd_init, optimizers.sgd), torch.optim.SGD, {"momentum": 0.9}),
        ("AdaGrad", (optimizers.adagrad_init, optimizers.adagrad), torch.optim.Adagrad, {}),
        ("RMSProp", (optimizers.rmsprop_init, optimizers.rmsprop), torch.optim.RMSprop, {}),
        ("Adadelta", (optimizers.adadelta_init, optimizers.adadelta), torch.optim.Adadelta, {}),
        ("Adam", (optimizers.adam_init, optimizers.adam), torch.optim.Adam, {}),
        ("Adam with AMSGrad", (optimizers.adam_init, optimizers.adam), torch.optim.Adam, {"amsgrad": True}),
        ("AdamW", plain, torch.optim.AdamW, {}),
        ("AdamW, no decay of biases", grouped, torch.optim.AdamW, {}),
        ("Lion", (optimizers.lion_init, optimizers.lion), None, {}),
    ):
        now = {"params": params, "state": init(params)}

        def ours(now=now, step=step, options=options):
            now["params"], now["state"] = step(now["params"], grads, now["state"], lr=1e-3, **options)

        functions = {"numpy": ours}
        if torch_class is not None:
            twin = functools.partial(torch_step, torch_class, params, grads, no_decay_of_biases=step is grouped[1])
            functions["torch"] = twin("cpu", **options)
            functions["torch foreach"] = twin("cpu", foreach=True, **options)
            if torch.cuda.is_available():
                functions["torch on the GPU"] = twin("cuda", **options)
        times = alternate(functions, rounds=rounds)
        row = {key: 1e3 * float(np.median(series)) for key, series in times.items()}
        print(f"{name}: " + ", ".join(f"{key} {milliseconds:.2f} ms" for key, milliseconds in row.items()))
        results[name] = {**row, "ratio": row["numpy"] / row["torch"]} if "torch" in row else row
    return results, [
        Bar(f"{name} step against PyTorch", results[name]["ratio"], 3, "times") for name in ("Adam", "AdamW")
    ]


def torch_step(torch_class, params, grads, device, *, no_decay_of_biases, **options):
    """The step of torch's optimizer on copies of the parameters, finished when the call returns."""
    import torch

    from nnbook.backprop import flatten
    from nnbook.training import to_torch

    tensors = {key: tensor.requires_grad_() for key, tensor in to_torch(params, device=device).items()}
    for key, grad in flatten(grads).items():
        tensors[key].grad = torch.tensor(grad, device=device)
    groups = [{"params": list(tensors.values())}]
    if no_decay_of_biases:
        groups = [{"params": [p for p in tensors.values() if p.ndim > 1]}]
        groups += [{"params": [p for p in tensors.values() if p.ndim <= 1], "weight_decay": 0.0}]
    optimizer = torch_class(groups, lr=1e-3, **options)

    def step():
        optimizer.step()
        if device != "cpu":
            torch.cuda.synchronize()

    return step


if __name__ == "__main__":
    main(__file__, measure)
