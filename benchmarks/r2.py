"""R2 on full MNIST: convolution 32@3x3, ReLU, max-pool 2, dense 64, ReLU, dense 10; Adam 1e-3, batch 64, 3 epochs.

In NumPy and in PyTorch, each in a process of its own, in turn, from the same weights and with the same batches, three
seeds. Bars: NumPy reaches 98 % on average, and its twin the same within 0.3 points.

Needs the data: from NNBOOK_DATA, a directory with the four IDX files, or downloaded once.
"""

from __future__ import annotations

import time

from _common import Bar, Worker, main, serve, spread

BATCH, RATE, EPOCHS, SEEDS = 64, 1e-3, 3, [0, 1, 2]


def images_and_labels(quick):
    from nnbook.data import mnist

    (x, y), (x_test, y_test) = mnist()
    count = 2000 if quick else len(y)
    return (x[:count].reshape(-1, 1, 28, 28), y[:count]), (x_test.reshape(-1, 1, 28, 28), y_test)


def start(seed):
    """First weights, and the generator that goes on to shuffle, both frameworks the same."""
    import numpy as np

    from nnbook.cnn import small_cnn_init

    rng = np.random.default_rng(seed)
    return small_cnn_init(rng), rng


def right(params, data):
    from nnbook.cnn import small_cnn
    from nnbook.losses import accuracy
    from nnbook.training import predict

    return float(accuracy(predict(params, small_cnn, data[0]), data[1]))


def numpy_worker():
    from nnbook.cnn import small_cnn
    from nnbook.losses import cross_entropy
    from nnbook.training import fit

    def loss(params, x, y):
        return cross_entropy(small_cnn(params, x), y)

    def answer(request):
        train, test = images_and_labels(request["quick"])
        params, rng = start(request["seed"])
        begin = time.perf_counter(), time.process_time()
        params = fit(params, loss, train, lr=RATE, epochs=request["epochs"], batch_size=BATCH, rng=rng).params
        seconds = time.perf_counter() - begin[0], time.process_time() - begin[1]
        return {"s": seconds[0], "processor_s": seconds[1], "accuracy": right(params, test)}

    return answer


def torch_worker():
    import torch
    from torch.nn.functional import cross_entropy

    from nnbook import twins
    from nnbook.training import from_torch, to_torch

    def answer(request):
        (x, y), test = images_and_labels(request["quick"])
        params, rng = start(request["seed"])
        twin = twins.small_cnn()
        twin.load_state_dict(to_torch(params))
        optimizer = torch.optim.Adam(twin.parameters(), lr=RATE)
        x, y = torch.tensor(x), torch.tensor(y)
        begin = time.perf_counter(), time.process_time()
        for _ in range(request["epochs"]):
            for rows in torch.tensor(rng.permutation(len(x))).split(BATCH):
                optimizer.zero_grad()
                cross_entropy(twin(x[rows]), y[rows]).backward()
                optimizer.step()
        seconds = time.perf_counter() - begin[0], time.process_time() - begin[1]
        return {
            "s": seconds[0],
            "processor_s": seconds[1],
            "accuracy": right(from_torch(twin.state_dict()), test),
        }

    return answer


def measure(quick):
    import os

    threads = int(os.environ["OMP_NUM_THREADS"])
    seeds, epochs = (SEEDS[:1], 1) if quick else (SEEDS, EPOCHS)
    runs: dict[str, list] = {"numpy": [], "torch": []}
    with Worker(__file__, "numpy", threads) as ours, Worker(__file__, "torch", threads) as theirs:
        for seed in seeds:
            for name, worker in (("numpy", ours), ("torch", theirs)):
                runs[name].append(worker.ask({"seed": seed, "epochs": epochs, "quick": quick}))
                print(f"seed {seed}, {name}: {runs[name][-1]}", flush=True)
    accuracy = {name: spread(100 * run["accuracy"] for run in series) for name, series in runs.items()}
    gap = abs(accuracy["numpy"]["mean"] - accuracy["torch"]["mean"])
    results = {"epochs": epochs, "seeds": seeds, "runs": runs, "accuracy": accuracy}
    return results, [
        Bar("R2, mean test accuracy", accuracy["numpy"]["mean"], 98, "%", True),
        Bar("R2, difference of the mean test accuracies", gap, 0.3, "points"),
    ]


if __name__ == "__main__":
    if not serve({"numpy": numpy_worker, "torch": torch_worker}):
        main(__file__, measure)
