"""Everything that `make test` runs, one group after another, with a table of results and times at the end.

    .venv/bin/python tools/run_tests.py                  # all groups
    .venv/bin/python tools/run_tests.py pytest nbval     # some of them

A failing group does not stop the ones after it, so that one run shows everything; the exit status is 1 if any failed.
Nothing waits for ever: a test in the browser has four minutes, a command twenty-five.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

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
    # A browser that hangs answers no exception, so the whole worker goes, and xdist starts another.
    "browser": [pytest("tests/browser", "-rs", "-n", "2", "--timeout=240", "--timeout-method=thread")],
}
SECOND_LOOK = ("--last-failed", "--last-failed-no-failures=none")  # whose failures are tried again, once: see `run`
LIMIT = 1500.0  # seconds for a command


@dataclass
class Outcome:
    name: str
    status: str
    seconds: float
    remark: str = ""


def stop(process: subprocess.Popen) -> None:
    """Kill a command with all that it has started, which would else hold its output open."""
    print(f"\nSTOPPED after {LIMIT:.0f} s", flush=True)
    try:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue


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
        watch = threading.Timer(LIMIT, stop, [process])
        watch.start()
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
        watch.cancel()
    return process.returncode, re.sub(r"\x1b\[[0-9;]*m", "", last).strip("= ")


def run(name: str) -> Outcome:
    """Run a group's commands.

    A browser on a busy machine stalls now and then, and pages have limits of time, so what fails there is looked at a
    second time. The table says so: a test that needs it often is a defect.
    """
    print(f"\n===== {name} =====", flush=True)
    start = time.perf_counter()
    if name == "browser" and not PAGES.exists():
        return Outcome(name, "FAILED", 0.0, "there is no built book to look at")
    remark = ""
    failed = False
    for command in GROUPS[name]:
        status, last = stream(command)
        if name == "browser" and status == 1:
            print("\nWhat failed is looked at once more.", flush=True)
            first = last
            status, last = stream([*command, *SECOND_LOOK])
            last = f"{first}; looked at again: {last}"
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
