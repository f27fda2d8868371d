"""Execute the chapters and bring them into their one stored form.

    .venv/bin/python tools/notebooks.py                      # the chapters whose code, or whose package, has changed
    .venv/bin/python tools/notebooks.py chapters/01*.ipynb   # these
    .venv/bin/python tools/notebooks.py --all                # every one
    .venv/bin/python tools/notebooks.py --check [files]      # change nothing; exit 1 if one is not in the stored form

The stored form: nbformat 4.5 with stable cell ids, executed from top to bottom in a fresh kernel (counts 1 to n), no
metadata but kernel, language, tags and ``mystnb``, nothing on stderr, no widget state, no path of this machine. nbval
passes over a code cell without a count and over one without outputs, which is why the counts are checked.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = ROOT / "chapters"
RECORDS = ROOT / "_build" / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
KEPT = {"tags", "mystnb"}
LOCAL_PATH = re.compile(r"(?:/home/|/root/|/Users/|/tmp/|[A-Z]:\\\\?Users)\S*")


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def fingerprint(notebook: Any, root: Path = ROOT) -> str:
    """One number for what the outputs depend on: the code cells, the package with its data, and the pinned versions."""
    digest = hashlib.sha256()
    for cell in code_cells(notebook):
        digest.update(cell.source.encode() + b"\0")
    for file in sorted((root / "nnbook").rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    digest.update((root / "requirements.txt").read_bytes())
    return digest.hexdigest()


def normalize(notebook: Any) -> None:
    """Bring everything but the outputs' contents into the stored form, in place."""
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        for key in set(cell.metadata) - KEPT:
            del cell.metadata[key]
        for output in cell.get("outputs", []):
            if "metadata" in output:
                output.metadata.clear()


def problems(notebook: Any) -> Iterator[str]:
    """What keeps a notebook from being in the stored form, in words."""
    if (notebook.nbformat, notebook.nbformat_minor) != (4, 5):
        yield f"its format is {notebook.nbformat}.{notebook.nbformat_minor}, not 4.5"
    if notebook.metadata != METADATA:
        yield "its metadata is more or less than kernelspec and language_info"
    for id_, count in Counter(cell.get("id") for cell in notebook.cells).items():
        if count > 1:
            yield f"{count} cells have the id {id_}"
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"its code cells were not executed from top to bottom: counts {counts}, not 1 to {len(counts)}"
    for cell in notebook.cells:
        where = f"cell {cell.get('id')}"
        if extra := set(cell.metadata) - KEPT:
            yield f"{where} has the metadata {', '.join(sorted(extra))}"
        if cell.cell_type == "code" and re.search(r"(?m)^\s*[!%]\s*(?:pip|conda)", cell.source):
            yield f"{where} installs packages"
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stderr":
                yield f"{where} writes to stderr: {output.text.strip()[:200]}"
            if output.output_type == "error":
                yield f"{where} stores an error: {output.ename}: {output.evalue[:200]}"
            if found := LOCAL_PATH.search(output_text(output)):
                yield f"{where} shows a path of this machine: {found[0]}"


def output_text(output: Any) -> str:
    """The text of an output, in all its forms but pictures."""
    data = output.get("data", {})
    return "\n".join([output.get("text", ""), *(str(v) for k, v in data.items() if k.startswith("text/"))])


def execute(notebook: Any) -> None:
    """Run all cells in a fresh kernel, in the folder of the chapters, with one BLAS thread as the tests do."""
    from nbclient import NotebookClient

    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(CHAPTERS)}}
    ).execute()


def write(notebook: Any, path: Path) -> bool:
    """Write the notebook unless the file says the same already, in one step, so that no half of it is ever there."""
    text = nbformat.writes(notebook) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    half = path.with_suffix(".ipynb.part")
    half.write_text(text, encoding="utf-8")
    half.replace(path)
    return True


def renew(path: Path, force: bool) -> bool:
    """Execute and normalize one chapter if its inputs changed. False if something keeps it from the stored form."""
    notebook = nbformat.read(path, as_version=4)
    record = RECORDS / f"{path.stem}.sha256"
    now = fingerprint(notebook)
    if not force and record.exists() and record.read_text() == now and not list(problems(notebook)):
        print(f"{path.name}: nothing changed")
        return True
    print(f"{path.name}: executing", flush=True)
    execute(notebook)
    normalize(notebook)
    faults = list(problems(notebook))
    for fault in faults:
        print(f"{path.name}: {fault}", file=sys.stderr)
    print(f"{path.name}: {'written' if write(notebook, path) else 'outputs as before'}")
    if not faults:
        RECORDS.mkdir(parents=True, exist_ok=True)
        record.write_text(now)
    return not faults


def check(path: Path) -> bool:
    faults = list(problems(nbformat.read(path, as_version=4)))
    for fault in faults:
        print(f"{path.name}: {fault}", file=sys.stderr)
    return not faults


def main(arguments: list[str]) -> int:
    options = {a for a in arguments if a.startswith("-")}
    if options - {"--check", "--all"}:
        print(__doc__)
        return 2
    named = [Path(a) for a in arguments if a not in options]
    paths = named or sorted(CHAPTERS.glob("*.ipynb"))
    if "--check" in options:
        results = [check(path) for path in paths]
        print(f"{sum(results)} of {len(results)} notebooks are in the stored form")
    else:
        results = [renew(path, force=bool(named) or "--all" in options) for path in paths]
    return int(not all(results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
