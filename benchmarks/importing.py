"""How long `import nnbook` takes, in fresh interpreters, and that it brings in neither torch, matplotlib nor plotly.

Bar: 0.25 s. The package imports its modules when they are first used, so the time for importing all the modules is
printed as well; NumPy's own import is most of it.
"""

from __future__ import annotations

import subprocess
import sys

from _common import ROOT, Bar, main

PROGRAM = """
import time; start = time.perf_counter()
{statement}
seconds = time.perf_counter() - start
import sys
print(seconds, *sorted({{"torch", "matplotlib", "plotly"}} & set(sys.modules)))
"""
STATEMENTS = {
    "import numpy": "import numpy",
    "import nnbook": "import nnbook",
    "the modules that a training script uses": "from nnbook import losses, neurons, optimizers, training",
    "all modules": "import nnbook\nfor name in nnbook.__all__: getattr(nnbook, name)",
}


def measure(quick):
    results, forbidden = {}, set()
    for name, statement in STATEMENTS.items():
        seconds = []
        for _ in range(3 if quick else 15):
            command = [sys.executable, "-c", PROGRAM.format(statement=statement)]
            output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
            seconds.append(float(output[0]))
            forbidden.update(output[1:])
        results[name] = sorted(seconds)[len(seconds) // 2]
        print(f"{name}: {results[name]:.3f} s (median of {len(seconds)})")
    print("torch, matplotlib or plotly imported:", ", ".join(sorted(forbidden)) or "none")
    return results, [
        Bar("import nnbook", results["import nnbook"], 0.25, "s"),
        Bar("heavy packages imported", len(forbidden), 0),
    ]


if __name__ == "__main__":
    main(__file__, measure)
