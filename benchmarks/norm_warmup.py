"""Whether a warm-up rescues post-norm: the largest rate of ``norm_first.py``, reached linearly in the first steps.

Network, task, seeds and number of steps are those of ``norm_first.py``.
"""

from __future__ import annotations

from _common import main, spread
from norm_first import RATES, SIZE, run

WARMUPS = (50, 100)


def measure(quick):
    size = SIZE | ({"steps": 5} if quick else {})
    results = {"size": size, "rate": RATES[-1], "runs": {}}
    for warmup in WARMUPS:
        found = [run(seed, False, RATES[-1], size, warmup) for seed in range(1 if quick else 3)]
        results["runs"][str(warmup)] = {
            "accuracy": spread([a for a, _ in found]),
            "loss": spread([b for _, b in found]),
        }
        print(warmup, [f"{a:.3f}" for a, _ in found], [f"{b:.3f}" for _, b in found], flush=True)
    return results, []


if __name__ == "__main__":
    main(__file__, measure, threads=1)
