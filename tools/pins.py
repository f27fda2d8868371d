"""Rewrite the versions in requirements.txt from the environment that runs this.

    .venv/bin/python tools/pins.py            # after upgrading packages in .venv and a green `make test`
    .venv/bin/python tools/pins.py --check    # exit 1 if the file and the environment disagree
    .venv/bin/python tools/pins.py --loose    # the packages named by hand, without versions, to try the newest

Lines above the marker are written by hand: one package each, in groups; a comment ``# <2`` beside a pin limits what
``--loose`` may take. Everything below the marker is computed: whatever those packages need on Linux, macOS or Windows
under any supported Python, with a marker where only some of these need it. What is needed elsewhere only, and so is
not installed here, keeps the version that stands in the file.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FILE = Path(__file__).resolve().parents[1] / "requirements.txt"
MARKER = "# What these need (computed by tools/pins.py)"
PYTHONS = ("3.11", "3.12", "3.13")
SYSTEMS = {
    "linux": {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"},
    "darwin": {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix", "platform_machine": "arm64"},
    "win32": {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt", "platform_machine": "AMD64"},
}
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)")
NOT_OURS = ("nvidia-", "cuda-", "triton")  # torch itself pins what its CUDA build brings


def installed() -> dict[str, importlib.metadata.Distribution]:
    return {canonicalize_name(d.metadata["Name"]): d for d in importlib.metadata.distributions()}


def environments() -> list[dict[str, str]]:
    python = {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
    unknown = {"platform_release": "", "platform_version": ""}
    return [
        {"python_version": v, "python_full_version": f"{v}.0", "implementation_version": f"{v}.0"}
        | system
        | python
        | unknown
        for v, system in itertools.product(PYTHONS, SYSTEMS.values())
    ]


def closure(names: Iterable[str], packages: dict, environment: dict[str, str]) -> set[str]:
    """Everything that ``names`` need in this environment, themselves included."""
    todo = [(canonicalize_name(name), frozenset()) for name in names]
    seen: set[tuple[str, frozenset]] = set()
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen or name.startswith(NOT_OURS):
            continue
        seen.add((name, extras))
        for text in packages[name].requires or [] if name in packages else []:
            need = Requirement(text)
            wanted = need.marker is None or any(
                need.marker.evaluate(environment | {"extra": extra}) for extra in ("", *extras)
            )
            if wanted:
                todo.append((canonicalize_name(need.name), frozenset(need.extras)))
    return {name for name, _ in seen}


def marker(where: set[tuple[str, str]]) -> str:
    """The shortest environment marker for these (Python, system) pairs; empty if they are all."""
    pythons = {v for v, _ in where}
    systems = {s for _, s in where}
    if set(itertools.product(pythons, systems)) != where:
        return ""  # no simple marker: install it everywhere
    parts = []
    if len(pythons) < len(PYTHONS):
        first_absent = min(set(PYTHONS) - pythons, key=PYTHONS.index)
        if pythons != set(PYTHONS[: PYTHONS.index(first_absent)]):
            return ""
        parts.append(f'python_version < "{first_absent}"')
    if len(systems) == 2:
        parts.append(f'sys_platform != "{(set(SYSTEMS) - systems).pop()}"')
    elif len(systems) == 1:
        parts.append(f'sys_platform == "{systems.copy().pop()}"')
    return "; " + " and ".join(parts) if parts else ""


def renewed(text: str) -> str:
    """The requirements file ``text`` with the versions of the running environment."""
    packages = installed()
    by_hand = text.partition(MARKER)[0]
    pinned = {canonicalize_name(m[1]): m[2] for m in map(PIN.match, text.splitlines()) if m}

    def version(name: str) -> str:
        if name in packages:
            return packages[name].version.partition("+")[0]  # torch's +cpu names a build, not a version
        if name in pinned:
            return pinned[name]
        raise SystemExit(f"{name} is needed on another platform; write {name}=={{version}} below the marker first")

    head = []
    for line in by_hand.rstrip().splitlines():
        found = PIN.match(line)
        head.append(f"{found[1]}=={version(canonicalize_name(found[1]))}{line[found.end() :]}" if found else line)
    names = [canonicalize_name(m[1]) for m in map(PIN.match, head) if m]

    where: dict[str, set[tuple[str, str]]] = {}
    for environment in environments():
        for name in closure(names, packages, environment):
            where.setdefault(name, set()).add((environment["python_version"], environment["sys_platform"]))
    needed = sorted(set(where) - set(names))
    return "\n".join([*head, "", MARKER, *(f"{n}=={version(n)}{marker(where[n])}" for n in needed), ""])


def loose(text: str) -> str:
    """The packages named by hand, each with the limit that its comment gives instead of its pin."""
    lines = []
    for line in text.partition(MARKER)[0].splitlines():
        if found := PIN.match(line):
            limit = re.search(r"#\s*([<>=!~][^\s]*)", line)
            lines.append(found[1] + (limit[1] if limit else ""))
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    text = FILE.read_text(encoding="utf-8")
    if arguments == ["--loose"]:
        print(loose(text), end="")
        return 0
    new = renewed(text)
    if arguments == ["--check"]:
        different = sorted(set(text.splitlines()) ^ set(new.splitlines()))
        print("\n".join(different) or "requirements.txt agrees with this environment")
        return int(text != new)
    if arguments:
        print(__doc__)
        return 2
    FILE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
