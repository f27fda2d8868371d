"""What the benchmarks share: threads, the machine's description, bars, results as data.

A benchmark is a file with ``measure(quick) -> (results, bars)`` and, at its end, ``main(__file__, measure)``. Run one
by hand (``python benchmarks/engine.py``), or several by ``python benchmarks/run.py``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

RESULTS = Path(__file__).with_name("results")
ROOT = Path(__file__).resolve().parents[1]
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass
class Bar:
    """One requirement: ``measured`` must be at most (or, with ``at_least``, at least) ``bound``."""

    name: str
    measured: float
    bound: float
    unit: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound

    def __str__(self) -> str:
        verdict, relation = "met   " if self.met else "MISSED", ">=" if self.at_least else "<="
        return f"{verdict}  {self.name}: {self.measured:.4g} {relation} {self.bound:g} {self.unit}".rstrip()


def main(file: str, measure, *, threads: int = 1) -> None:
    """Run ``measure`` with the given number of threads, print its bars, and write the results beside this file."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--quick", action="store_true", help="a short rehearsal: fewer repeats, nothing is written")
    parser.add_argument(
        "--threads", type=int, default=threads, help="threads for NumPy and PyTorch (default %(default)s)"
    )
    options = parser.parse_args()
    if any(os.environ.get(name) != str(options.threads) for name in THREAD_VARIABLES):
        # The libraries read these when they are loaded, so this process starts again with them set.
        sys.exit(subprocess.run([sys.executable, *sys.argv], env=environment(options.threads), check=False).returncode)
    sys.path.insert(0, str(ROOT))  # runs from the tree as well
    start = time.perf_counter()
    results, bars = measure(options.quick)
    for bar in bars:
        print(bar)
    name = Path(file).stem
    if not options.quick:
        record = {
            "benchmark": name,
            "command": " ".join(["python", f"benchmarks/{name}.py", *sys.argv[1:]]),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "machine": machine(),
            "threads": options.threads,
            "seconds": round(time.perf_counter() - start, 1),
            "results": results,
            "bars": [{**asdict(bar), "met": bar.met} for bar in bars],
        }
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1, default=float) + "\n", encoding="utf-8")
    sys.exit(0 if all(bar.met for bar in bars) else 1)


def environment(threads: int) -> dict[str, str]:
    return {**os.environ, **{name: str(threads) for name in THREAD_VARIABLES}}


def machine() -> dict[str, object]:
    """What a reader needs to judge a timing."""
    import numpy as np
    import torch

    import nnbook

    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    gpu = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "nnbook": nnbook.__version__,
        "numpy": np.__version__,
        "blas": f"{blas['name']} {blas['version']}",
        "torch": torch.__version__,
        "gpu": gpu or "none was seen",
    }


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def timed(function, *args):
    """``(seconds, result)`` of one call."""
    start = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - start, result


def alternate(functions: dict, *, rounds: int, repeat: int = 1) -> dict[str, list[float]]:
    """Seconds per call, ``rounds`` times each, the functions taking turns so that a disturbance hits all alike."""
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            for _ in range(repeat):
                function()
            times[name].append((time.perf_counter() - start) / repeat)
    return times


def spread(values) -> dict[str, float]:
    """Mean, standard deviation and extremes of several runs."""
    values = [float(value) for value in values]
    return {
        "mean": mean(values),
        "sd": stdev(values) if len(values) > 1 else 0.0,
        "min": min(values),
        "max": max(values),
        "runs": len(values),
    }


class Worker:
    """Another process, with its own threads, that runs one function of a benchmark file whenever it is told to.

    NumPy's and PyTorch's thread pools hinder each other when they live in one process, so each framework gets its own
    process and they take turns.
    """

    def __init__(self, file: str, task: str, threads: int):
        command = [sys.executable, "-u", str(Path(file).resolve()), "--worker", task]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(threads)
        )

    def ask(self, request):
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the worker {self.process.args} ended with code {self.process.wait()}")
        return json.loads(answer)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def serve(tasks: dict) -> bool:
    """In a worker process: answer requests until the input ends. False if this process is no worker."""
    if sys.argv[1:2] != ["--worker"]:
        return False
    sys.path.insert(0, str(ROOT))
    answer = tasks[sys.argv[2]]()
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line)), default=float))
    return True
