"""Convolutions against PyTorch on the same CPU threads: value and all gradients, a training step of R2, memory.

Four convolutions (float32, value and the gradients by images, kernels and bias): each at most 5 times PyTorch, their
geometric mean at most 2; a training step of R2 (batch 64, forward, gradients, Adam) at most 3 times its twin's. Memory
beside what goes in and comes out: at most 4 times the larger of input and output. Each framework lives in a process of
its own and they take turns; each turn's fastest run is compared with its neighbour's, since whatever disturbs a run
makes it slower.
"""

from __future__ import annotations

import math
import statistics
import time

from _common import Bar, Worker, main, serve

SHAPES = {  # name: batch, channels, size, kernels, size of the kernels
    "128 x 1x28x28 -> 6, 5x5": (128, 1, 28, 6, 5),
    "128 x 6x12x12 -> 16, 5x5": (128, 6, 12, 16, 5),
    "64 x 16x28x28 -> 32, 3x3": (64, 16, 28, 32, 3),
    "32 x 64x32x32 -> 64, 3x3": (32, 64, 32, 64, 3),
}
STEP = "R2"


def arrays(name):
    """Images, kernels, bias and the upstream of one of the convolutions."""
    import numpy as np

    n, channels, size, kernels, k = SHAPES[name]
    rng = np.random.default_rng(0)
    shapes = (n, channels, size, size), (kernels, channels, k, k), (kernels,), (n, kernels, size - k + 1, size - k + 1)
    return [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]


def batch():
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.random((64, 1, 28, 28), dtype=np.float32), rng.integers(10, size=64)


def numpy_worker():
    import numpy as np

    from nnbook.backprop import value_and_grad, vjp
    from nnbook.cnn import conv2d, small_cnn, small_cnn_init
    from nnbook.losses import cross_entropy
    from nnbook.optimizers import adam, adam_init

    def convolution(name):
        x, weight, bias, dy = arrays(name)

        def run():
            y, pull = vjp(conv2d, x, weight, bias)
            return y, *pull(dy)

        return run

    def training_step():
        params = small_cnn_init(np.random.default_rng(0))
        now = {"params": params, "state": adam_init(params)}
        x, labels = batch()
        gradient = value_and_grad(lambda params, x, labels: cross_entropy(small_cnn(params, x), labels))

        def run():
            _, grads = gradient(now["params"], x, labels)
            now["params"], now["state"] = adam(now["params"], grads, now["state"], lr=1e-3)

        return run

    return answering({name: convolution(name) for name in SHAPES} | {STEP: training_step()})


def torch_worker():
    import numpy as np
    import torch

    from nnbook.cnn import small_cnn_init
    from nnbook.training import to_torch
    from nnbook.twins import small_cnn

    def convolution(name):
        x, weight, bias, dy = (torch.tensor(a) for a in arrays(name))
        leaves = [a.requires_grad_() for a in (x, weight, bias)]

        def run():
            y = torch.nn.functional.conv2d(*leaves)
            return y, *torch.autograd.grad(y, leaves, dy)

        return run

    def training_step():
        twin = small_cnn()
        twin.load_state_dict(to_torch(small_cnn_init(np.random.default_rng(0))))
        optimizer = torch.optim.Adam(twin.parameters(), lr=1e-3)
        x, labels = map(torch.tensor, batch())

        def run():
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(twin(x), labels).backward()
            optimizer.step()

        return run

    return answering({name: convolution(name) for name in SHAPES} | {STEP: training_step()})


def answering(functions):
    """Milliseconds of the fastest of the runs that fit into the seconds asked for, or the peak of the memory beside."""

    def answer(request):
        run = functions[request["name"]]
        if "seconds" not in request:
            return memory(run, request["name"])
        run()
        times = []
        end = time.perf_counter() + request["seconds"]
        while len(times) < 3 or time.perf_counter() < end:
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return 1e3 * min(times)

    return answer


def memory(run, name):
    """The largest amount of memory beside arguments and results, in units of the larger of input and output."""
    import tracemalloc

    x, _, _, dy = arrays(name)
    run()
    tracemalloc.start()
    results = run()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (peak - sum(a.nbytes for a in results)) / max(x.nbytes, dy.nbytes)


def compare(threads, turns, seconds):
    """For each task the milliseconds of both and their ratio, medians over neighbouring turns."""
    rows = {}
    with Worker(__file__, "numpy", threads) as ours, Worker(__file__, "torch", threads) as theirs:
        for name in (*SHAPES, STEP):
            pairs = []
            for _ in range(turns):
                request = {"name": name, "seconds": seconds}
                pairs.append((ours.ask(request), theirs.ask(request)))
                time.sleep(0.1)  # idle threads of either pool stop spinning
            ratios = [a / b for a, b in pairs]
            rows[name] = {
                "numpy_ms": statistics.median(a for a, _ in pairs),
                "torch_ms": statistics.median(b for _, b in pairs),
                "ratio": statistics.median(ratios),
                "ratios": ratios,
            }
        peaks = {name: ours.ask({"name": name}) for name in SHAPES}
    return rows, peaks


def measure(quick):
    turns, seconds = (3, 0.1) if quick else (9, 0.2)
    results, bars = {}, []
    for threads in (1, 2):
        rows, peaks = compare(threads, turns, seconds)
        count = f"{threads} thread{'s'[: threads - 1]}"
        for name, row in rows.items():
            print(
                f"{count}, {name}: NumPy {row['numpy_ms']:.2f} ms, PyTorch {row['torch_ms']:.2f} ms, ratio "
                f"{row['ratio']:.2f} (from {min(row['ratios']):.2f} to {max(row['ratios']):.2f})"
            )
            bars.append(Bar(f"{name}, {count}", row["ratio"], 3 if name == STEP else 5, "times PyTorch"))
        mean = math.prod(rows[name]["ratio"] for name in SHAPES) ** (1 / len(SHAPES))
        bars.append(Bar(f"geometric mean of the convolutions, {count}", mean, 2, "times PyTorch"))
        results[str(threads)] = {"tasks": rows, "geometric_mean": mean, "memory": peaks}
    bars += [Bar(f"memory of {name}", peak, 4, "activations") for name, peak in results["1"]["memory"].items()]
    return results, bars


if __name__ == "__main__":
    if not serve({"numpy": numpy_worker, "torch": torch_worker}):
        main(__file__, measure)
