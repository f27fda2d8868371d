"""Build the book into _build/html if anything that it is made of has changed.

    .venv/bin/python tools/book.py            # if stale
    .venv/bin/python tools/book.py --all      # in any case, every page, so that every warning is seen again

A warning is an error. After one, what Sphinx remembers of the pages is thrown away: it would otherwise take the page
with the fault as read, and the next build would pass. Of two builds at once the second waits: they would delete each
other's work.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from lock import one_at_a_time

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build"
STAMP = BUILD / "book.sha256"
LOCK = BUILD / "book.lock"
SOURCES = ("book", "chapters", "nnbook", "requirements.txt", "package-lock.json")
BUILDER = shutil.which("jupyter-book", path=str(Path(sys.executable).parent)) or "jupyter-book"
COMMAND = (
    *(BUILDER, "build", ".", "--config", "book/_config.yml", "--toc", "book/_toc.yml"),
    *("--path-output", ".", "-W", "--keep-going"),
)


def fingerprint(root: Path = ROOT) -> str:
    """One number for every source file of the book, by content."""
    digest = hashlib.sha256()
    for top in SOURCES:
        path = root / top
        files = [path] if path.is_file() else sorted(path.rglob("*"))
        for file in files:
            parts = file.relative_to(root).parts
            if file.is_file() and "__pycache__" not in parts and ".ipynb_checkpoints" not in parts:
                digest.update("/".join(parts).encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def is_fresh() -> bool:
    return (
        STAMP.is_file()
        and (BUILD / "html" / "index.html").is_file()
        and STAMP.read_text(encoding="utf-8").strip() == fingerprint()
    )


def build(all_pages: bool) -> int:
    STAMP.unlink(missing_ok=True)
    now = fingerprint()  # taken first: a file saved during the build makes it stale
    status = subprocess.run([*COMMAND, *(["--all"] if all_pages else [])], cwd=ROOT, check=False).returncode
    if status:
        shutil.rmtree(BUILD / ".doctrees", ignore_errors=True)
        shutil.rmtree(BUILD / "html" / ".doctrees", ignore_errors=True)
        return status
    STAMP.write_text(now + "\n", encoding="utf-8")
    return 0


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--all"]):
        print(__doc__)
        return 2
    if not arguments and is_fresh():
        return 0
    with one_at_a_time(LOCK, "build of the book"):
        if not arguments and is_fresh():  # the one waited for has made it
            return 0
        return build(bool(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
