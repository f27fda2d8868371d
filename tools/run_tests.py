"""Everything that `make test` runs, one group after another, with a table of results and times at the end.

    .venv/bin/python tools/run_tests.py                  # all groups
    .venv/bin/python tools/run_tests.py pytest nbval     # some of them

A failing group does not stop the ones after it, so that one run shows everything; the exit status is 1 if any failed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "_build" / "html" / "index.html"
SANITIZER = "chapters/nbval_sanitize.cfg"

# One BLAS thread a process: results do not depend on the number of cores, and two workers do not fight over them.
ENVIRONMENT = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
) | {"PYTHONHASHSEED": "0", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


def pytest(*arguments: str) -> list[str]:
    colour = "--color=yes" if sys.stdout.isatty() else "--color=no"
    return [sys.executable, "-m", "pytest", colour, "-q", *arguments]


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


GROUPS: dict[str, list[list[str]]] = {
    "ruff": [python("-m", "ruff", "check", "."), python("-m", "ruff", "format", "--check", ".")],
    "notebooks": [python("tools/notebooks.py", "--check")],
    "mypy": [python("-m", "mypy")],
    "tsc": [python("book/_ext/npm_packages.py", "tsc")],
    "book": [python("tools/book.py", "--all")],
    "pytest": [pytest("tests", "--ignore=tests/browser", "-n", "2", "--cov", "--cov-branch", "--cov-report=term")],
    "nbval": [
        # loadscope keeps the cells of one notebook together, on one worker and one kernel
        pytest("chapters", "--nbval", f"--nbval-sanitize-with={SANITIZER}", "-n", "2", "--dist=loadscope"),
    ],
    "browser": [pytest("tests/browser", "-rs", "-n", "2")],
}


@dataclass
class Outcome:
    name: str
    status: str
    seconds: float
    remark: str = ""


def stream(command: list[str]) -> tuple[int, str]:
    """Run a command, show its output as it comes, and return its status and its last line."""
    print("$", " ".join(["python" if part == sys.executable else part for part in command]), flush=True)
    last = ""
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    return process.returncode, re.sub(r"\x1b\[[0-9;]*m", "", last).strip("= ")


def run(name: str) -> Outcome:
    print(f"\n===== {name} =====", flush=True)
    start = time.perf_counter()
    if name == "browser" and not PAGES.exists():
        return Outcome(name, "FAILED", 0.0, "there is no built book to look at")
    remark = ""
    failed = False
    for command in GROUPS[name]:
        status, last = stream(command)
        if "pytest" in command:
            remark = last
        failed |= status != 0
    result = "FAILED" if failed else "passed"
    if name == "browser" and not failed and "passed" not in remark:
        result = "not run"
        print("The pages were NOT looked at: the reason stands above. Debian: apt-get install chromium", flush=True)
    return Outcome(name, result, time.perf_counter() - start, remark)


def table(outcomes: list[Outcome]) -> str:
    lines = [f"{'group':<10} {'result':<8} {'time':>7}"]
    lines += [f"{o.name:<10} {o.status:<8} {o.seconds:5.0f} s  {o.remark}".rstrip() for o in outcomes]
    total = sum(o.seconds for o in outcomes)
    bad = [o.name for o in outcomes if o.status == "FAILED"]
    absent = [o.name for o in outcomes if o.status == "not run"]
    verdict = f"FAILED: {', '.join(bad)}" if bad else "all passed"
    if absent:
        verdict += f"; not run: {', '.join(absent)}"
    return "\n".join([*lines, f"{'together':<10} {'':<8} {total:5.0f} s  {verdict}"])


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in GROUPS]
    if unknown:
        print(f"no group named {', '.join(unknown)}; there are {', '.join(GROUPS)}", file=sys.stderr)
        return 2
    outcomes = [run(name) for name in names or GROUPS]
    print("\n" + table(outcomes), flush=True)
    return int(any(outcome.status == "FAILED" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
