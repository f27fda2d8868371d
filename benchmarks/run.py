"""Run benchmarks one after the other: ``python benchmarks/run.py [--quick] [names]``, all of them without names.

Prints what each prints and in the end every bar with its measured value. Ends with code 1 if one was missed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    names = sorted(path.stem for path in HERE.glob("[a-z]*.py") if path.stem != "run")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="short rehearsals; nothing is written")
    options = parser.parse_args()
    unknown = set(options.names) - set(names)
    if unknown:
        parser.error(f"no benchmark named {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    bars, failed = [], []
    for name in options.names or names:
        print(f"===== {name} =====", flush=True)
        command = [sys.executable, "-u", str(HERE / f"{name}.py"), *(["--quick"] if options.quick else [])]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout or ():
                print(line, end="", flush=True)
                if line.startswith(("met ", "MISSED ")):
                    bars.append(f"{name}: {line.rstrip()}")
        if process.returncode != 0:
            failed.append(name)
    print("===== all bars =====", *bars, sep="\n")
    if failed:
        print("missed or broken:", ", ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
