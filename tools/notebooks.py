"""Execute the chapters and bring them into their one stored form.

    .venv/bin/python tools/notebooks.py                      # the chapters whose code, or whose package, has changed
    .venv/bin/python tools/notebooks.py chapters/01*.ipynb   # these
    .venv/bin/python tools/notebooks.py --all                # every one
    .venv/bin/python tools/notebooks.py --check [files]      # change nothing; exit 1 if one is not in the stored form

The stored form: nbformat 4.5 with stable cell ids, executed from top to bottom in a fresh kernel (counts 1 to n), no
metadata but kernel, language, tags and ``mystnb``, nothing on stderr, no widget state, no path of this machine, every
picture small and with a caption and alternative text, at most one code cell in five exempt from nbval. (nbval does not
compare a code cell without a count, which is why the counts are checked.)
"""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import os
import re
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

sys.path.insert(0, str(Path(__file__).resolve().parent))
from lock import one_at_a_time

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = ROOT / "chapters"
RECORDS = ROOT / "_build" / "notebooks"
LOCK = ROOT / "_build" / "notebooks.lock"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
KEPT = {"tags", "mystnb"}
LOCAL_PATH = re.compile(r"(?:/(?:home|root|Users|tmp|work)/|[A-Z]:\\\\?Users)\S*")
ADDRESS = re.compile(r"\b0x[0-9a-f]{7,}\b")
WIDGET = "application/vnd.jupyter.widget"
EXEMPT, EXEMPT_SHARE = "nbval-ignore-output", 1 / 5
LARGEST_PICTURE = 100_000  # bytes; a page shows twenty of them
KERNEL = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"),
    "PYTHONHASHSEED": "0",
    "TQDM_DISABLE": "1",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # or the debugger inside the kernel may write to stderr
}


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


def outputs_digest(notebook: Any) -> str:
    """One number for the outputs, by which a change of them by other hands is noticed."""
    return hashlib.sha256(
        json.dumps([cell.outputs for cell in code_cells(notebook)], sort_keys=True).encode()
    ).hexdigest()


def normalize(notebook: Any) -> None:
    """Bring everything but what the outputs say into the stored form, in place."""
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    taken: set[str] = set()
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({key: value for key, value in cell.metadata.items() if key in KEPT})
        number = 0
        while not cell.get("id") or cell.id in taken:  # stable: made from the text of the cell
            cell.id = hashlib.sha256(f"{cell.source}{number or ''}".encode()).hexdigest()[:8]
            number += 1
        taken.add(cell.id)
    for cell in code_cells(notebook):
        cell.outputs = joined(cell.outputs)
        for output in cell.outputs:
            normalize_output(output)


def joined(outputs: list[Any]) -> list[Any]:
    """Neighbouring pieces of one stream as one output: where the kernel cuts them is a matter of timing."""
    whole: list[Any] = []
    for output in outputs:
        last = whole[-1] if whole else None
        if last is not None and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            whole.append(output)
    return whole


def normalize_output(output: Any) -> None:
    data = output.get("data", {})
    for kind in [kind for kind in data if kind.startswith(WIDGET)]:
        del data[kind]
    if "image/png" in data:
        data["image/png"] = base64.b64encode(bare_png(base64.b64decode(data["image/png"]))).decode() + "\n"
    if "metadata" in output:  # only the size at which a picture is shown, half of its pixels on a fine screen
        size = {key: output.metadata.get("image/png", {}).get(key) for key in ("width", "height")}
        kept = {"image/png": size} if "image/png" in data and None not in size.values() else {}
        output.metadata = nbformat.from_dict(kept)


def bare_png(picture: bytes) -> bytes:
    """The PNG without its remarks, which name the version of matplotlib."""
    chunks, at = [picture[:8]], 8
    while at < len(picture):
        (length,) = struct.unpack(">I", picture[at : at + 4])
        chunk, at = picture[at : at + length + 12], at + length + 12
        if chunk[4:8] not in (b"tEXt", b"zTXt", b"iTXt", b"tIME"):
            chunks.append(chunk)
    return b"".join(chunks)


def problems(notebook: Any) -> Iterator[str]:
    """What keeps a notebook from being in the stored form, in words."""
    if (notebook.nbformat, notebook.nbformat_minor) != (4, 5):
        yield f"its format is {notebook.nbformat}.{notebook.nbformat_minor}, not 4.5"
    if notebook.metadata != METADATA:
        yield "its metadata is more or less than kernelspec and language_info"
    for id_, count in Counter(cell.get("id") for cell in notebook.cells).items():
        if count > 1 or not id_:
            yield f"{count} cells have the id {id_}"
    code = code_cells(notebook)
    counts = [cell.execution_count for cell in code]
    if counts != list(range(1, len(counts) + 1)):
        yield f"its code cells were not executed from top to bottom: counts {counts}, not 1 to {len(counts)}"
    exempt = sum(EXEMPT in cell.metadata.get("tags", []) for cell in code)
    if exempt > EXEMPT_SHARE * len(code):
        yield f"{exempt} of {len(code)} code cells are exempt from comparison, more than one in five"
    for cell in notebook.cells:
        where = f"cell {cell.get('id')}"
        if extra := set(cell.metadata) - KEPT:
            yield f"{where} has the metadata {', '.join(sorted(extra))}"
        if found := LOCAL_PATH.search(cell.source):
            yield f"{where} names a path of this machine: {found[0]}"
        if cell.cell_type == "code":
            yield from (f"{where} {fault}" for fault in cell_problems(cell))


def cell_problems(cell: Any) -> Iterator[str]:
    """What is wrong with one code cell and its outputs."""
    if not cell.source.strip():
        yield "is empty"
    if re.search(r"(?m)^\s*[!%]+\s*(?:pip|conda)", cell.source):
        yield "installs packages"
    if cell.source.rstrip().endswith(";"):  # nbval runs cells without history, where IPython overlooks it
        yield "ends in a semicolon, which hides a value from Jupyter but not from nbval; write `_ = ...`"
    if cell.execution_count and not cell.outputs and must_show(cell.source):
        yield "shows something, but no output is stored"
    for output in cell.outputs:
        if output.output_type == "stream" and output.name == "stderr":
            yield f"writes to stderr: {output.text.strip()[:200]}"
        if output.output_type == "error":
            yield f"stores an error: {output.ename}: {output.evalue[:200]}"
        if found := LOCAL_PATH.search(output_text(output)):
            yield f"shows a path of this machine: {found[0]}"
        if found := ADDRESS.search(output_text(output)):
            yield f"shows an address in memory, another in each run: {found[0]}"
        if any(kind.startswith(WIDGET) for kind in output.get("data", {})):
            yield "stores a widget"
    yield from picture_problems(cell)


def picture_problems(cell: Any) -> Iterator[str]:
    """What is wrong with the picture of a cell: one a cell, small, with a caption and a description."""
    pictures = [o.data[kind] for o in cell.outputs for kind in o.get("data", {}) if kind.startswith("image/")]
    if not pictures:
        return
    if len(pictures) > 1:
        yield f"shows {len(pictures)} pictures; a caption can only serve one"
    options = cell.metadata.get("mystnb", {})
    caption = str(options.get("figure", {}).get("caption", "")).strip()
    alternative = str(options.get("image", {}).get("alt", "")).strip()
    if not caption:
        yield "shows a picture without a caption (metadata mystnb.figure.caption)"
    if not alternative:
        yield "shows a picture without alternative text (metadata mystnb.image.alt)"
    elif alternative == caption:
        yield "repeats its caption as alternative text; describe what is to be seen"
    for picture in pictures:
        if (size := len(picture) * 3 // 4) > LARGEST_PICTURE:
            yield f"shows a picture of {size} bytes; at most {LARGEST_PICTURE}: smaller, or fewer points"


def must_show(source: str) -> bool:
    """Whether running a cell certainly leaves an output: it prints, or ends in a bare name, number or the like."""
    try:
        body = ast.parse(source).body
    except SyntaxError:  # magics
        return False
    calls = [node.value for node in body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)]
    if any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls):
        return True
    last = body[-1] if body else None
    silent = (ast.Call, ast.Await, ast.Constant) if isinstance(last, ast.Expr) else ()
    return isinstance(last, ast.Expr) and not isinstance(last.value, silent) and not source.rstrip().endswith(";")


def output_text(output: Any) -> str:
    """The text of an output, in all its forms but pictures."""
    data = output.get("data", {})
    return "\n".join([output.get("text", ""), *(str(v) for k, v in data.items() if k.startswith("text/"))])


def execute(notebook: Any, directory: Path = CHAPTERS) -> None:
    """Run all cells in a fresh kernel, in the folder of the chapters, with one BLAS thread as the tests do."""
    from nbclient import NotebookClient

    # The book must not depend on files that only some readers have.
    environment = {key: value for key, value in os.environ.items() if key != "NNBOOK_DATA"} | KERNEL
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(directory)}}
    ).execute(env=environment)


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
    from nbclient.exceptions import CellExecutionError

    notebook = nbformat.read(path, as_version=4)
    record = RECORDS / f"{path.stem}.sha256"
    inputs = fingerprint(notebook)
    if not force and record.exists() and record.read_text().split() == [inputs, outputs_digest(notebook)]:
        normalize(notebook)  # captions and tags may have changed, which need no run
        if not list(problems(notebook)):
            print(f"{path.name}: {'written' if write(notebook, path) else 'nothing changed'}")
            return True
    print(f"{path.name}: executing", flush=True)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    start = time.perf_counter()
    try:
        execute(notebook)
    except CellExecutionError as error:  # the file stays as it was
        print(f"{path.name}: {error}", file=sys.stderr)
        return False
    seconds = time.perf_counter() - start
    normalize(notebook)
    faults = list(problems(notebook))
    for fault in faults:
        print(f"{path.name}: {fault}", file=sys.stderr)
    print(f"{path.name}: {'written' if write(notebook, path) else 'outputs as before'}, {seconds:.0f} s")
    if not faults:
        RECORDS.mkdir(parents=True, exist_ok=True)
        record.write_text(f"{inputs}\n{outputs_digest(notebook)}\n")
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
        with one_at_a_time(LOCK, "run of the notebooks"):  # two would write the same files
            results = [renew(path, force=bool(named) or "--all" in options) for path in paths]
    return int(not all(results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
