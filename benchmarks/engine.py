"""What the engine costs: time per recorded operation, and the backward pass against the forward one.

Bar: at most 6 microseconds of overhead per recorded operation. It is measured on a chain of 1,000 additions of
arrays with one entry, forward and backward; NumPy's own time for as many additions is taken off.
"""

from __future__ import annotations

import tracemalloc

from _common import Bar, alternate, main


def measure(quick):
    import numpy as np

    from nnbook.backprop import add, value_and_grad
    from nnbook.losses import cross_entropy
    from nnbook.neurons import mlp, mlp_init

    rounds = 5 if quick else 40
    length = 1000
    one = np.ones(1)

    def chain(x):
        for _ in range(length):
            x = add(x, one)
        return x.sum()

    def operators(x):
        for _ in range(length):
            x = x + one
        return x.sum()

    def plain():
        x = one
        for _ in range(length):
            x = x + one  # forward
        for _ in range(length):
            x = x + one  # and as much work backward
        return x

    functions = {
        "engine": lambda: value_and_grad(chain)(one),
        "operators": lambda: value_and_grad(operators)(one),
        "numpy": plain,
    }
    times = alternate(functions, rounds=rounds)
    per_op = {name: 1e6 * float(np.median(series)) / length for name, series in times.items()}
    overhead = per_op["engine"] - per_op["numpy"]
    print(f"microseconds per operation, forward and backward: {per_op['engine']:.2f} with the engine,")
    print(f"  {per_op['operators']:.2f} written with operators, {per_op['numpy']:.2f} for NumPy's additions alone")

    rng = np.random.default_rng(0)
    rows = []
    for sizes, batch in (((64, 32, 10), 32), ((784, 256, 10), 128), ((784, 512, 256, 10), 128)):
        params = mlp_init(rng, sizes)
        x, y = rng.random((batch, sizes[0]), dtype=np.float32), rng.integers(10, size=batch)

        def loss(params, x=x, y=y):
            return cross_entropy(mlp(params, x), y)

        gradient = value_and_grad(loss)
        series = alternate(
            {"forward": lambda loss=loss, p=params: loss(p), "both": lambda g=gradient, p=params: g(p)}, rounds=rounds
        )
        forward, both = (1e3 * float(np.median(series[name])) for name in ("forward", "both"))
        peak_forward, peak_both = peak(loss, params), peak(gradient, params)
        rows.append(
            {
                "sizes": sizes,
                "batch": batch,
                "forward_ms": forward,
                "forward_and_backward_ms": both,
                "backward_over_forward": both / forward - 1,
                "forward_peak_kB": peak_forward,
                "forward_and_backward_peak_kB": peak_both,
            }
        )
        print(
            f"MLP {'-'.join(map(str, sizes))}, batch {batch}: forward {forward:.3f} ms, backward "
            f"{both / forward - 1:.2f} times that; peak memory {peak_forward:.0f} kB forward, {peak_both:.0f} kB both"
        )
    return {"microseconds_per_op": per_op, "mlp": rows}, [Bar("engine overhead per recorded op", overhead, 6, "us")]


def peak(function, *args) -> float:
    """Kilobytes that one call allocates at most, as NumPy reports its arrays to tracemalloc."""
    function(*args)
    tracemalloc.start()
    function(*args)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most / 1000


if __name__ == "__main__":
    main(__file__, measure)
