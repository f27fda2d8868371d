"""Make .venv and node_modules what the pinned files say; do nothing, quickly, when they are already.

    python3 tools/setup_env.py        # what every `make` target does first; works where there is no make

Two at once take turns, and one that is interrupted leaves nothing that looks like a finished environment. This file and
lock.py run under any Python from 3.6 on, so that an old one gets a message and not a syntax error.
"""

import hashlib
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lock import one_at_a_time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "Scripts", "python.exe") if os.name == "nt" else os.path.join(VENV, "bin", "python")
READY = os.path.join(VENV, ".ready")
LOCK = os.path.join(ROOT, "_build", "setup.lock")  # not in .venv, which may be made anew
INPUTS = ["requirements.txt", "pyproject.toml", "package.json", "package-lock.json"]
OLDEST = (3, 11)
WHICH = "import sys; print(sys.version, sys.executable, sys.base_prefix, sep='|')"


def problem(version=sys.version_info, modules=("venv", "ensurepip")):
    """What keeps this Python from making the environment, as a message; None if nothing does."""
    if tuple(version[:2]) < OLDEST:
        return (
            f"nnbook needs Python {OLDEST[0]}.{OLDEST[1]} or later, and {sys.executable} is Python "
            f"{version[0]}.{version[1]}.\nName another one: make PYTHON=/path/to/python3.12 ..."
        )
    for module in modules:
        try:
            __import__(module)
        except ImportError:
            return (
                f"{sys.executable} has no {module} module, which makes virtual environments.\n"
                "On Debian and Ubuntu it is a package of its own: apt-get install python3-venv (as root),\n"
                f"or python{version[0]}.{version[1]}-venv for another version than the system's. Then try again."
            )
    return None


def interpreter(python):
    """Version and places of the environment's Python, as it says itself; nothing if it does not start."""
    try:
        done = subprocess.run(
            [python, "-I", "-S", "-c", WHICH], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
        )
    except OSError:
        return b""
    return done.stdout if done.returncode == 0 else b""


def fingerprint():
    """One line for everything that the environment depends on: the pinned files, where it stands, which Python."""
    digest = hashlib.sha256(ROOT.encode() + b"\0" + interpreter(PYTHON))
    for name in INPUTS:
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(name.encode() + b"\0" + file.read())
    return digest.hexdigest()


def is_ready():
    try:
        with open(READY) as file:
            ready = file.read().strip() == fingerprint()
    except OSError:
        return False
    return ready and interpreter(PYTHON) != b"" and os.path.isdir(os.path.join(ROOT, "node_modules"))


def run(*command):
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    if status:
        raise SystemExit(f"set-up stopped: status {status} from {' '.join(command)}")


def works(python):
    """Whether the environment's interpreter still starts (its base may have been removed), is new and has pip."""
    code = f"import pip, sys; sys.exit(sys.version_info < {OLDEST!r})"
    try:
        done = subprocess.run([python, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        return done.returncode == 0
    except OSError:
        return False


def main():
    if is_ready():
        return 0
    with one_at_a_time(LOCK, "set-up"):
        return 0 if is_ready() else set_up()  # the one waited for may have done it all


def set_up():
    try:
        os.remove(READY)  # first, or what is interrupted below would be taken for finished once its inputs fit again
    except OSError:
        if os.path.exists(READY):
            raise
    # An environment that exists is kept whatever made it; only a new one asks something of this Python.
    if not works(PYTHON):
        message = problem()
        if message:
            print(message, file=sys.stderr)
            return 1
        print(f"Making .venv with {sys.executable} (Python {sys.version_info[0]}.{sys.version_info[1]})", flush=True)
        run(sys.executable, "-m", "venv", "--clear", VENV)
    start = time.time()
    now = fingerprint()  # taken first: a file that is changed during the installation asks for another one
    print("Installing the pinned packages into .venv; the first time takes minutes", flush=True)
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(*pip, "--requirement", "requirements.txt")
    run(*pip, "--no-deps", "--no-build-isolation", "--editable", ".")
    run(PYTHON, os.path.join("book", "_ext", "npm_packages.py"))
    with open(READY, "w") as file:
        file.write(now + "\n")
    print(f"Ready after {time.time() - start:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("set-up stopped; the next `make` goes on with it")
