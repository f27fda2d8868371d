"""LeNet-5 on full MNIST, in NumPy and in PyTorch, beside two controls.

Adam under a one-cycle schedule, batches of 128, 16 epochs. How the training images are moved about is chosen among
three ways by a training on 50,000 images, validated on the last 10,000 (seed 10). The number of epochs was chosen there
as well: after ten, 99.13 % of the validation images were right at best, after sixteen 99.25 %. Then everything is
trained on all 60,000 with three seeds, and the test images are looked at, once a run. The twin starts from the same
weights as LeNet-5 and gets the same batches, moved by the same numbers. There are two controls: the same network with
its random filters left as they are, which gets these batches too (what its dense layers do without filters is measured
on the subset, by ``frozen_filters.py``), and a linear model, whose images are not moved and
come in an order of their own. NumPy and PyTorch have a process each, and take turns. Seconds are told twice, by the
clock and of processor time, which do not differ on an idle machine.

Where there is a CUDA device, a residual network four times as wide as the book's small one is trained on it.

Bars: LeNet-5 in NumPy reaches 99.2 % on average, in less than 5 minutes of one processor a run; the twin's mean
differs by less than 0.15 points; the linear model and the frozen filters stay behind.

Needs the data: from NNBOOK_DATA, a directory with the four IDX files, or downloaded once.
"""

from __future__ import annotations

import functools
import time

from _common import Bar, Worker, main, serve, spread

BATCH, RATE, EPOCHS = 128, 3e-3, 16
SELECTION, SEEDS = 10, [0, 1, 2]
AUGMENTATIONS = {"none": (0, 0), "shift": (2, 0), "shift and rotation": (2, 15)}
WIDE = (64, 128, 256)


def images_and_labels(quick):
    """``(train, validation, all that is not test, test)``."""
    from nnbook.data import mnist

    def parts(x, y):
        return x.reshape(-1, 1, 28, 28), y

    (x, y), test = mnist()
    if quick:
        x, y = x[-14000:], y[-14000:]
    return parts(x[:-10000], y[:-10000]), parts(x[-10000:], y[-10000:]), parts(x, y), parts(*test)


def batches(rng, x, y, epochs, augmentation):
    """``(rate, images, labels)`` for every step, the same in both frameworks."""
    from nnbook.optimizers import one_cycle
    from nnbook.regularization import random_rotation, random_shift

    pixels, degrees = AUGMENTATIONS[augmentation]
    steps = -(-len(x) // BATCH)
    for epoch in range(epochs):
        order = rng.permutation(len(x))
        for i in range(steps):
            rows = order[i * BATCH : (i + 1) * BATCH]
            moved = random_shift(rng, x[rows], most=pixels) if pixels else x[rows]
            moved = random_rotation(rng, moved, most=degrees) if degrees else moved
            yield one_cycle(epoch * steps + i, max_lr=RATE, total_steps=epochs * steps), moved, y[rows]


def start(name, seed):
    """``(model, trained, fixed)``: ``model({**trained, **fixed}, x)`` gives the logits."""
    import numpy as np

    from nnbook.cnn import lenet5, lenet5_init
    from nnbook.neurons import linear, linear_init

    rng = np.random.default_rng(seed)
    if name == "linear model":
        return lambda params, x: linear(x.reshape(len(x), -1), **params), linear_init(rng, 784, 10), {}, rng
    params = lenet5_init(rng)
    fixed = {key: params.pop(key) for key in ("conv1", "conv2")} if name == "frozen filters" else {}
    return lenet5, params, fixed, rng


def numpy_worker(quick):
    import numpy as np

    from nnbook.backprop import value_and_grad
    from nnbook.losses import accuracy, cross_entropy
    from nnbook.optimizers import adam, adam_init
    from nnbook.training import predict

    train, validation, everything, test = images_and_labels(quick)

    def answer(request):
        model, params, fixed, rng = start(request["model"], request["seed"])
        gradient = value_and_grad(lambda params, x, y: cross_entropy(model({**params, **fixed}, x), y))
        state = adam_init(params)
        x, y = train if request["select"] else everything
        begin = time.perf_counter(), time.process_time()
        for rate, images, labels in batches(rng, x, y, request["epochs"], request["augmentation"]):
            _, grads = gradient(params, images, labels)
            params, state = adam(params, grads, state, lr=rate)
        seconds = time.perf_counter() - begin[0], time.process_time() - begin[1]
        x, y = validation if request["select"] else test
        logits = predict({**params, **fixed}, model, x)
        assert np.isfinite(logits).all()
        return {"s": seconds[0], "processor_s": seconds[1], "accuracy": float(accuracy(logits, y))}

    return answer


def torch_worker(quick, device="cpu"):
    import numpy as np
    import torch
    from torch.nn.functional import cross_entropy

    from nnbook import twins
    from nnbook.training import to_torch

    if device == "cuda" and not torch.cuda.is_available():
        return lambda _: None
    _, _, (x, y), (x_test, y_test) = images_and_labels(quick)

    def answer(request):
        if request["model"] == "wide":
            torch.manual_seed(request["seed"])
            twin, rng = twins.resnet(widths=WIDE), np.random.default_rng(request["seed"])
        else:
            _, params, _, rng = start(request["model"], request["seed"])
            twin = twins.lenet5()
            twin.load_state_dict(to_torch(params))
        twin = twin.to(device)
        optimizer = torch.optim.Adam(twin.parameters())
        begin = time.perf_counter(), time.process_time()
        for rate, images, labels in batches(rng, x, y, request["epochs"], request["augmentation"]):
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            cross_entropy(twin(torch.tensor(images, device=device)), torch.tensor(labels, device=device)).backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begin[0], time.process_time() - begin[1]
        twin.eval()
        with torch.no_grad():
            said = torch.cat([twin(part.to(device)).argmax(1).cpu() for part in torch.tensor(x_test).split(1000)])
        return {"s": seconds[0], "processor_s": seconds[1], "accuracy": float((said.numpy() == y_test).mean())}

    return answer


def measure(quick):
    import os

    threads = int(os.environ["OMP_NUM_THREADS"])
    suffix = "-quick" if quick else ""
    epochs, seeds = (1, [0]) if quick else (EPOCHS, SEEDS)
    runs: dict[str, list] = {name: [] for name in ("LeNet-5", "PyTorch twin", "frozen filters", "linear model")}
    with Worker(__file__, f"numpy{suffix}", threads) as ours, Worker(__file__, f"torch{suffix}", threads) as theirs:
        selection = {}
        for augmentation in AUGMENTATIONS:
            request = {"model": "LeNet-5", "seed": SELECTION, "augmentation": augmentation, "select": True}
            selection[augmentation] = ours.ask({**request, "epochs": epochs})
            print(f"validation, {augmentation}: {selection[augmentation]}", flush=True)
        chosen = max(selection, key=lambda name: selection[name]["accuracy"])
        for seed in seeds:
            for name, series in runs.items():
                augmentation = "none" if name == "linear model" else chosen  # which cannot follow moving images
                request = {"seed": seed, "epochs": epochs, "augmentation": augmentation, "select": False}
                worker, model = (theirs, "LeNet-5") if name == "PyTorch twin" else (ours, name)
                series.append(worker.ask({**request, "model": model}))
                print(f"seed {seed}, {name}: {series[-1]}", flush=True)
    with Worker(__file__, f"cuda{suffix}", 1) as gpu:
        request = {"seed": 0, "epochs": epochs, "augmentation": chosen, "select": False}
        wide = gpu.ask({**request, "model": "wide"})
    print("wide residual network on CUDA:", "no such device was seen" if wide is None else wide)
    accuracy = {name: spread(100 * run["accuracy"] for run in series) for name, series in runs.items()}
    results = {
        "epochs": epochs,
        "batch_size": BATCH,
        "max_lr": RATE,
        "seeds": seeds,
        "selection": {"seed": SELECTION, "validation": selection, "chosen": chosen},
        "runs": runs,
        "accuracy": accuracy,
        "wide_on_cuda": wide,
    }
    mean = {name: row["mean"] for name, row in accuracy.items()}
    slowest = max(run["processor_s"] for run in runs["LeNet-5"])
    return results, [
        Bar("LeNet-5 in NumPy, mean test accuracy", mean["LeNet-5"], 99.2, "%", at_least=True),
        Bar(f"slowest run, threads: {threads}", slowest, 300, "s of processor time"),
        Bar("difference to the twin's mean", abs(mean["LeNet-5"] - mean["PyTorch twin"]), 0.15, "points"),
        Bar("frozen filters, mean behind LeNet-5", mean["LeNet-5"] - mean["frozen filters"], 0.2, "points", True),
        Bar("linear model, mean behind LeNet-5", mean["LeNet-5"] - mean["linear model"], 5, "points", True),
    ]


if __name__ == "__main__":
    kinds = {"numpy": numpy_worker, "torch": torch_worker, "cuda": functools.partial(torch_worker, device="cuda")}
    tasks = {
        f"{name}{suffix}": functools.partial(worker, quick)
        for name, worker in kinds.items()
        for suffix, quick in (("", False), ("-quick", True))
    }
    if not serve(tasks):
        main(__file__, measure)
