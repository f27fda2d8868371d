"""R1 on full MNIST: 784-512-256-10, ReLU, cross-entropy, SGD lr 0.01, batch 128, 10 epochs, in NumPy and in PyTorch.

Bars: NumPy takes at most 1.3 times as long as its twin on the same threads (each in a process of its own, in turn), and
reaches the same test accuracy within the spread over seeds. Both start from the same weights and see the same batches;
after 10 epochs of float32 arithmetic they are no longer equal, so their accuracies are compared as samples.

Needs the data: from NNBOOK_DATA, a directory with the four IDX files, or downloaded once.
"""

from __future__ import annotations

import statistics
import time

from _common import Bar, Worker, main, serve, spread

BATCH, RATE = 128, 0.01


def subset(data, quick):
    return tuple(array[:2000] for array in data) if quick else data


def numpy_worker():
    from _models import classification, r1_start, test_accuracy

    from nnbook.data import mnist
    from nnbook.optimizers import sgd, sgd_init
    from nnbook.training import fit

    train, test = mnist()

    def answer(request):
        params, rng = r1_start(request["seed"])
        data = subset(train, request["quick"])
        start = time.perf_counter()
        result = fit(
            params,
            classification,
            data,
            optimizer=(sgd_init, sgd),
            lr=RATE,
            epochs=request["epochs"],
            batch_size=BATCH,
            rng=rng,
        )
        return {"s": time.perf_counter() - start, "accuracy": test_accuracy(result.params, *test)}

    return answer


def torch_worker(device="cpu"):
    """The loop of ``fit``, with the batches cut from tensors by index, as ``fit`` cuts them from arrays."""
    import torch
    from _models import r1_start, test_accuracy, torch_classification, torch_mlp

    from nnbook.data import mnist
    from nnbook.training import from_torch

    if device == "cuda" and not torch.cuda.is_available():
        return lambda _: None
    train, test = mnist()

    def answer(request):
        params, rng = r1_start(request["seed"])
        x, y = (torch.tensor(array, device=device) for array in subset(train, request["quick"]))
        twin = torch_mlp(params).to(device)
        optimizer = torch.optim.SGD(twin.parameters(), lr=RATE)
        start = time.perf_counter()
        for _ in range(request["epochs"]):
            order = torch.tensor(rng.permutation(len(x)), device=device)
            total = 0.0
            for rows in order.split(BATCH):
                optimizer.zero_grad()
                value = torch_classification(twin, x[rows], y[rows])
                value.backward()
                optimizer.step()
                total += value.item() * len(rows)
        return {"s": time.perf_counter() - start, "accuracy": test_accuracy(from_torch(twin.state_dict()), *test)}

    return answer


def measure(quick):
    import os

    threads = int(os.environ["OMP_NUM_THREADS"])
    seeds, epochs = (2, 1) if quick else (3, 10)
    runs = {"numpy": [], "torch": []}
    with Worker(__file__, "numpy", threads) as ours, Worker(__file__, "torch", threads) as theirs:
        for seed in range(seeds):
            request = {"seed": seed, "epochs": epochs, "quick": quick}
            for name, worker in (("numpy", ours), ("torch", theirs)):
                runs[name].append(worker.ask(request))
                run = runs[name][-1]
                print(f"seed {seed}, {name}: {run['s']:.1f} s, test accuracy {100 * run['accuracy']:.2f} %")
                time.sleep(0.5)
    with Worker(__file__, "cuda", 1) as gpu:
        on_gpu = gpu.ask({"seed": 0, "epochs": epochs, "quick": quick})
    print("PyTorch on CUDA:", "no such device was seen" if on_gpu is None else f"{on_gpu['s']:.1f} s")
    ratio = statistics.median(a["s"] / b["s"] for a, b in zip(runs["numpy"], runs["torch"], strict=True))
    accuracy = {name: spread(100 * run["accuracy"] for run in series) for name, series in runs.items()}
    gap = abs(accuracy["numpy"]["mean"] - accuracy["torch"]["mean"])
    sd = max(accuracy[name]["sd"] for name in accuracy)
    results = {"epochs": epochs, "seeds": list(range(seeds)), "runs": runs, "accuracy": accuracy, "cuda": on_gpu}
    return results, [
        Bar(f"R1 wall time against PyTorch, threads: {threads}", ratio, 1.3, "times"),
        Bar("R1 difference of the mean test accuracies, at most the sd over seeds", gap, round(sd, 3), "points"),
    ]


if __name__ == "__main__":
    tasks = {"numpy": numpy_worker, "torch": torch_worker, "cuda": lambda: torch_worker("cuda")}
    if not serve(tasks):
        main(__file__, measure)
