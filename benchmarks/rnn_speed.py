"""Recurrent layers against PyTorch on the CPU: T 64, batch 32, 64 inputs, 128 hidden units, float32, all gradients.

Bar: the LSTM, forward and backward, at most 2.5 times PyTorch on the same threads. Each framework lives in a process of
its own, so that their thread pools do not hinder each other; the two take turns, and the best of all turns counts. With
one thread, CPU time is measured, which other processes disturb less than time by the clock.
Beside them: the diagonal recurrence as a scan and as a loop, and how the memory of the tape grows with T.
"""

from __future__ import annotations

import os
import time

from _common import Bar, Worker, main, serve

T, N, D, H = 64, 32, 64, 128
CELLS = ("lstm", "gru", "rnn")


def problem(cell):
    import numpy as np

    from nnbook.rnn import recurrent_init

    rng = np.random.default_rng(0)
    params = recurrent_init(rng, cell, D, H)
    states = 2 if cell == "lstm" else 1
    x = rng.normal(size=(T, N, D)).astype(np.float32)
    start = [rng.normal(size=(N, H)).astype(np.float32) for _ in range(states)]
    return params, x, start, rng.normal(size=(T + states, N, H)).astype(np.float32)


def best(function, count):
    """Milliseconds of the fastest of ``count`` calls."""
    clock = time.process_time if os.environ.get("OMP_NUM_THREADS") == "1" else time.perf_counter
    function()
    times = []
    for _ in range(count):
        start = clock()
        function()
        times.append(clock() - start)
    return 1e3 * min(times)


def numpy_worker():
    from nnbook import rnn
    from nnbook.backprop import vjp

    def answer(request):
        cell, backward, count = request
        params, x, start, dy = problem(cell)
        layer, arguments = getattr(rnn, cell), (x, *start, *params.values())

        def both():
            _, pull = vjp(layer, *arguments)
            pull(dy)

        return best(both if backward else lambda: layer(*arguments), count)

    return answer


def torch_worker():
    import torch

    from nnbook.training import to_torch

    def answer(request):
        cell, backward, count = request
        params, x, start, dy = problem(cell)
        layer = getattr(torch.nn, cell.upper())(D, H)
        layer.load_state_dict(to_torch(params))
        xt = torch.tensor(x, requires_grad=True)
        hx = [torch.tensor(s[None], requires_grad=True) for s in start]
        upstream = torch.tensor(dy)
        wanted = [xt, *hx, *layer.parameters()]

        def forward():
            y, state = layer(xt, tuple(hx) if cell == "lstm" else hx[0])
            return [y, *(state if cell == "lstm" else (state,))]

        def both():
            torch.autograd.grad(forward(), wanted, [upstream[:T], *(s[None] for s in upstream[T:])])

        def without_tape():
            with torch.no_grad():
                forward()

        return best(both if backward else without_tape, count)

    return answer


def compare(threads, turns, count):
    """The best milliseconds of each framework over all turns."""
    found = {}
    with Worker(__file__, "numpy", threads) as ours, Worker(__file__, "torch", threads) as theirs:
        for cell in CELLS:
            for backward in (False, True):
                request = (cell, backward, count)
                pairs = [(ours.ask(request), theirs.ask(request)) for _ in range(turns)]
                a, b = (min(side) for side in zip(*pairs, strict=True))
                what = "forward and backward" if backward else "forward"
                found[f"{cell}, {what}"] = {"numpy_ms": a, "torch_ms": b, "ratio": a / b}
                print(f"{cell}, {what}: NumPy {a:.2f} ms, PyTorch {b:.2f} ms, ratio {a / b:.2f}")
    return found


def scan(count):
    """Milliseconds of the diagonal recurrence, forward and backward, T 1024, 16 channels."""
    import numpy as np

    from nnbook.backprop import vjp
    from nnbook.rnn import linear_recurrence

    rng = np.random.default_rng(0)
    a, b, dy = (rng.uniform(-1, 1, (1024, 16)).astype(np.float32) for _ in range(3))
    found = {
        method: best(lambda method=method: vjp(linear_recurrence, a, b, method=method)[1](dy), count)
        for method in ("scan", "loop")
    }
    print(f"diagonal recurrence: scan {found['scan']:.2f} ms, loop {found['loop']:.2f} ms")
    return found


def memory():
    """Megabytes that the tape of an LSTM holds, by the number of steps."""
    import tracemalloc

    import numpy as np

    from nnbook.backprop import vjp
    from nnbook.rnn import lstm, recurrent_init

    rng = np.random.default_rng(0)
    params = list(recurrent_init(rng, "lstm", D, H).values())
    found = {}
    for steps in (64, 128, 256, 512):
        x = rng.normal(size=(steps, N, D)).astype(np.float32)
        tracemalloc.start()
        y, pull = vjp(lstm, x, None, None, *params)
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        pull(np.zeros_like(y))
        found[steps] = {"held_mb": held / 1e6, "peak_mb": tracemalloc.get_traced_memory()[1] / 1e6}
        tracemalloc.stop()
        print(f"T {steps}: held {found[steps]['held_mb']:.1f} MB, peak {found[steps]['peak_mb']:.1f} MB")
    return found


def measure(quick):
    threads = int(os.environ["OMP_NUM_THREADS"])
    speed = compare(threads, *((3, 5) if quick else (12, 12)))
    held = memory()
    bars = [
        Bar("LSTM forward and backward against PyTorch", speed["lstm, forward and backward"]["ratio"], 2.5, "times"),
        Bar("memory of 512 steps against 64", held[512]["peak_mb"] / held[64]["peak_mb"], 8.1, "times"),
    ]
    return {"speed": speed, "memory": held, "scan": scan(5 if quick else 30)}, bars


if __name__ == "__main__":
    if not serve({"numpy": numpy_worker, "torch": torch_worker}):
        main(__file__, measure)
