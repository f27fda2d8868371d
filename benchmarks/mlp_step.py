"""One training step of R1's network (784-512-256-10, batch 128): forward, all gradients, SGD update.

Bar: at most 1.3 times PyTorch on the same CPU threads. Each framework lives in a process of its own, so that their
thread pools do not hinder each other; the two take turns, and each turn's median is compared with its neighbour's.
Where a CUDA device is present, PyTorch's time on it is printed beside them.
"""

from __future__ import annotations

import statistics
import time

from _common import Bar, Worker, main, serve

WARM_UP = 20


def numpy_worker():
    import numpy as np
    from _models import classification, r1_start

    from nnbook.backprop import value_and_grad
    from nnbook.optimizers import sgd, sgd_init

    params, rng = r1_start(0)
    x, y = rng.random((128, 784), dtype=np.float32), rng.integers(10, size=128)
    gradient = value_and_grad(classification)
    now = {"params": params, "state": sgd_init(params)}

    def step():
        _, grads = gradient(now["params"], x, y)
        now["params"], now["state"] = sgd(now["params"], grads, now["state"], lr=0.01)

    return timing(step, lambda: None)


def torch_worker(device="cpu"):
    import numpy as np
    import torch
    from _models import r1_start, torch_classification, torch_mlp

    params, rng = r1_start(0)
    if device == "cuda" and not torch.cuda.is_available():
        return lambda _: None
    x = torch.tensor(rng.random((128, 784), dtype=np.float32), device=device)
    y = torch.tensor(rng.integers(10, size=128), device=device)
    twin = torch_mlp(params).to(device)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.01)

    def step():
        optimizer.zero_grad()
        torch_classification(twin, x, y).backward()
        optimizer.step()

    return timing(step, torch.cuda.synchronize if device == "cuda" else lambda: None)


def timing(step, wait):
    def answer(count):
        for _ in range(WARM_UP):
            step()
        times = []
        for _ in range(count):
            wait()
            start = time.perf_counter()
            step()
            wait()
            times.append(time.perf_counter() - start)
        return 1e3 * statistics.median(times)

    return answer


def compare(threads, turns, count):
    """Median milliseconds of each framework, and the median of the ratios of neighbouring turns."""
    with Worker(__file__, "numpy", threads) as ours, Worker(__file__, "torch", threads) as theirs:
        pairs = []
        for _ in range(turns):
            pairs.append((ours.ask(count), theirs.ask(count)))
            time.sleep(0.2)  # idle threads of either pool stop spinning
    return {
        "threads": threads,
        "numpy_ms": statistics.median(a for a, _ in pairs),
        "torch_ms": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(a / b for a, b in pairs),
        "ratios": [a / b for a, b in pairs],
    }


def measure(quick):
    turns, count = (3, 20) if quick else (15, 150)
    results, bars = [], []
    for threads in (1, 2):
        row = compare(threads, turns, count)
        results.append(row)
        print(
            f"{threads} thread{'s'[: threads - 1]}: NumPy {row['numpy_ms']:.2f} ms, PyTorch {row['torch_ms']:.2f} ms, "
            f"ratio {row['ratio']:.2f} (from {min(row['ratios']):.2f} to {max(row['ratios']):.2f})"
        )
        bars.append(Bar(f"R1 step against PyTorch, {threads} thread{'s'[: threads - 1]}", row["ratio"], 1.3, "times"))
    with Worker(__file__, "cuda", 1) as gpu:
        milliseconds = gpu.ask(count)
    print("PyTorch on CUDA:", "no such device was seen" if milliseconds is None else f"{milliseconds:.2f} ms")
    return {"cpu": results, "cuda_ms": milliseconds}, bars


if __name__ == "__main__":
    tasks = {"numpy": numpy_worker, "torch": torch_worker, "cuda": lambda: torch_worker("cuda")}
    if not serve(tasks):
        main(__file__, measure)
