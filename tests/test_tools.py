"""The tools behind the Makefile: clear messages, nothing done twice, nothing stale passed off as fresh."""

import ast
import contextlib
import errno
import importlib.util
import itertools
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


def tool(name):
    spec = importlib.util.spec_from_file_location(f"tool_{name}", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


setup_env, pins, book, serve, run_tests = map(tool, ("setup_env", "pins", "book", "serve", "run_tests"))
lock = sys.modules["lock"]  # the one that these have imported


def make(*arguments):
    if shutil.which("make") is None:
        pytest.skip("there is no make here")
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


# Set-up


def test_an_old_python_gets_a_message_and_not_a_syntax_error():
    for name in ("setup_env.py", "lock.py"):
        ast.parse((ROOT / "tools" / name).read_text(encoding="utf-8"), feature_version=(3, 6))
    imports = re.findall(r"^\s*(?:import|from) (\w+)", (ROOT / "tools" / "lock.py").read_text(), re.MULTILINE)
    assert set(imports) <= {"contextlib", "errno", "os", "time", "fcntl", "msvcrt"}
    message = setup_env.problem(version=(3, 9, 18))
    assert "needs Python 3.11 or later" in message
    assert "make PYTHON=" in message


def test_a_python_without_venv_gets_the_name_of_the_debian_package():
    message = setup_env.problem(modules=("a_module_that_nobody_has",))
    assert "python3-venv" in message
    assert f"python{sys.version_info[0]}.{sys.version_info[1]}-venv" in message


def test_this_python_will_do():
    assert setup_env.problem() is None


def test_set_up_is_asked_again_exactly_when_its_inputs_change(tmp_path, monkeypatch):
    for name in setup_env.INPUTS:
        (tmp_path / name).write_text(name)
    (tmp_path / "node_modules").mkdir()
    monkeypatch.setattr(setup_env, "ROOT", str(tmp_path))
    monkeypatch.setattr(setup_env, "PYTHON", sys.executable)
    monkeypatch.setattr(setup_env, "READY", str(tmp_path / ".ready"))
    assert not setup_env.is_ready()
    (tmp_path / ".ready").write_text(setup_env.fingerprint() + "\n")
    assert setup_env.is_ready()
    (tmp_path / "requirements.txt").touch()
    assert setup_env.is_ready(), "a new time stamp is no change"
    (tmp_path / "requirements.txt").write_text("numpy==2.0")
    assert not setup_env.is_ready()


def test_set_up_goes_by_the_folder_in_which_it_stands(tmp_path, monkeypatch):
    """An environment that was copied along with its folder points to the old place."""
    for name in setup_env.INPUTS:
        (tmp_path / name).write_text(name)
    before = setup_env.fingerprint()
    monkeypatch.setattr(setup_env, "ROOT", str(tmp_path))
    assert setup_env.fingerprint() != before


def pretend(tmp_path, python="#!/bin/sh\necho 'Python 1'\n"):
    """A folder with what set-up looks at, and an interpreter that only says which it is."""
    if os.name == "nt":
        pytest.skip("the interpreter of this test is a shell script")
    for name in setup_env.INPUTS:
        (tmp_path / name).write_text(name)
    for folder in ("node_modules", ".venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    interpreter = tmp_path / ".venv" / "bin" / "python"
    interpreter.write_text(python)
    interpreter.chmod(0o755)
    return {
        "ROOT": str(tmp_path),
        "VENV": str(tmp_path / ".venv"),
        "PYTHON": str(interpreter),
        "READY": str(tmp_path / ".venv" / ".ready"),
        "LOCK": str(tmp_path / "_build" / "setup.lock"),
    }


@pytest.fixture
def pretended(tmp_path, monkeypatch):
    for name, value in pretend(tmp_path).items():
        monkeypatch.setattr(setup_env, name, value)
    return tmp_path


def test_set_up_is_asked_again_when_the_interpreter_is_another_one(pretended):
    Path(setup_env.READY).write_text(setup_env.fingerprint() + "\n")
    assert setup_env.is_ready()
    Path(setup_env.PYTHON).write_text("#!/bin/sh\necho 'Python 2'\n")
    assert not setup_env.is_ready()


def test_what_does_not_start_is_not_ready(pretended):
    Path(setup_env.PYTHON).write_text("#!/bin/sh\nexit 3\n")
    Path(setup_env.READY).write_text(setup_env.fingerprint() + "\n")
    assert not setup_env.is_ready()
    Path(setup_env.PYTHON).unlink()
    Path(setup_env.READY).write_text(setup_env.fingerprint() + "\n")
    assert not setup_env.is_ready()


def test_an_environment_of_an_old_python_is_made_anew(monkeypatch):
    assert setup_env.works(sys.executable)
    monkeypatch.setattr(setup_env, "OLDEST", (99, 0))
    assert not setup_env.works(sys.executable)


@pytest.mark.parametrize("step", range(3))
def test_an_interrupted_installation_is_not_taken_for_a_finished_one(step, pretended, monkeypatch):
    """Not even after its inputs are what they were before."""
    pins_before = (pretended / "requirements.txt").read_text()
    Path(setup_env.READY).write_text(setup_env.fingerprint() + "\n")
    (pretended / "requirements.txt").write_text("another version")
    commands = []

    def run(*command):
        assert not Path(setup_env.READY).exists()
        commands.append(command)
        if len(commands) > step:
            raise KeyboardInterrupt

    monkeypatch.setattr(setup_env, "run", run)
    with pytest.raises(KeyboardInterrupt):
        setup_env.main()
    (pretended / "requirements.txt").write_text(pins_before)
    assert not setup_env.is_ready()


def test_a_file_that_changes_during_the_installation_asks_for_another_one(pretended, monkeypatch):
    monkeypatch.setattr(setup_env, "run", lambda *command: (pretended / "requirements.txt").write_text("saved late"))
    assert setup_env.main() == 0
    assert not setup_env.is_ready()
    monkeypatch.setattr(setup_env, "run", lambda *command: None)
    assert setup_env.main() == 0
    assert setup_env.is_ready()


# Taking turns


def start(code, *arguments):
    """A Python process that runs a tool of the book with something of it replaced."""
    code = f"import sys\nsys.path.insert(0, {str(ROOT / 'tools')!r})\n" + code
    return subprocess.Popen(
        [sys.executable, "-u", "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


HOLD = """
from lock import one_at_a_time
with one_at_a_time(sys.argv[1], "test"):
    print("held")
    sys.stdin.readline()
print("let go")
"""


def first_line(process):
    """What a process says first, however long it takes to start; the tests around it have limits of their own."""
    return process.stdout.readline().strip()


@pytest.mark.parametrize("end", ["it ends", "it is killed", "its file is removed"])
def test_who_holds_the_lock_keeps_others_waiting_until_it_is_gone(end, tmp_path):
    path = tmp_path / "folder" / "a.lock"
    with start(HOLD, path) as first:
        assert first_line(first) == "held"
        if end == "its file is removed":
            path.unlink()
        with start(HOLD, path) as second:
            if end == "its file is removed":
                assert first_line(second) == "held"  # as others who come now would, and these are kept out:
                with start(HOLD, path) as third:
                    assert first_line(third) == "Waiting for another test in this folder to end (Ctrl-C gives up)"
                    second.communicate("\n", timeout=60)
                    assert first_line(third) == "held"
                    third.communicate("\n", timeout=60)
            else:
                assert first_line(second) == "Waiting for another test in this folder to end (Ctrl-C gives up)"
                if end == "it is killed":
                    first.kill()
                else:
                    first.stdin.write("\n")
                    first.stdin.flush()
                assert first_line(second) == "held"
                second.communicate("\n", timeout=60)
        if end != "it is killed":
            first.communicate("\n" if end == "its file is removed" else None, timeout=60)
    with lock.one_at_a_time(path, "test"):
        pass


def test_the_lock_of_windows_is_asked_in_its_way(tmp_path, monkeypatch):
    """There is no Windows here, so a stand-in for its module refuses twice."""
    calls = []

    class Msvcrt:
        LK_NBLCK = 2

        @staticmethod
        def locking(descriptor, mode, count):
            calls.append((mode, count))
            if len(calls) < 3:
                raise OSError(errno.EACCES, "taken")

    monkeypatch.setattr(lock, "fcntl", None)
    monkeypatch.setattr(lock, "msvcrt", Msvcrt, raising=False)
    monkeypatch.setattr(lock, "PAUSE", 0.0)
    with lock.one_at_a_time(tmp_path / "a.lock", "test"):
        assert calls == [(2, 1)] * 3


@pytest.mark.parametrize(("number", "works"), [(errno.ENOLCK, True), (errno.EIO, False)])
def test_a_file_system_without_locks_is_worked_on_all_the_same(number, works, tmp_path, monkeypatch):
    class Fcntl:
        LOCK_EX = LOCK_NB = 0

        @staticmethod
        def flock(descriptor, mode):
            raise OSError(number, "no")

    monkeypatch.setattr(lock, "fcntl", Fcntl)
    done = []
    with contextlib.suppress(OSError), lock.one_at_a_time(tmp_path / "a.lock", "test"):
        done.append(True)
    assert bool(done) is works


LOGGED = """
import pathlib, time
def work(*_, **__):
    for word in ("begin", "end"):
        with open(log, "a") as file:
            print(word, file=file)
        time.sleep(0.5 if word == "begin" else 0)
log, folder = sys.argv[1], pathlib.Path(sys.argv[2])
"""
SET_UP = """
import json, setup_env
vars(setup_env).update(json.loads(sys.argv[3]))
setup_env.run, setup_env.works = work, lambda python: True
sys.exit(setup_env.main())
"""
BOOK = """
import book
book.ROOT, book.BUILD, book.STAMP, book.LOCK = folder, folder / "_build", folder / "stamp", folder / "_build" / "lock"
def run(*_, **__):
    work()
    (folder / "_build" / "html").mkdir(exist_ok=True)
    (folder / "_build" / "html" / "index.html").touch()
    return type("Done", (), {"returncode": 0})
book.subprocess.run = run
sys.exit(book.main(sys.argv[3:]))
"""
NOTEBOOKS = """
import notebooks
notebooks.LOCK = folder / "_build" / "lock"
notebooks.renew = lambda path, force: work() is None
sys.exit(notebooks.main(sys.argv[3:]))
"""


def run_two(code, log, *arguments):
    """What two processes, started together, write into the log."""
    both = [start(LOGGED + code, log, *arguments) for _ in range(2)]
    for process in both:
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said
    return log.read_text().split()


def test_of_two_set_ups_at_once_the_second_waits_and_finds_it_done(tmp_path):
    facts = json.dumps(pretend(tmp_path))
    assert run_two(SET_UP, tmp_path / "log", tmp_path, facts) == ["begin", "end"] * 3  # it runs three commands


@pytest.mark.parametrize(("arguments", "builds"), [([], 1), (["--all"], 2)])
def test_of_two_builds_at_once_the_second_waits(arguments, builds, tmp_path):
    for name in ("requirements.txt", "package-lock.json"):
        (tmp_path / name).write_text("")
    assert run_two(BOOK, tmp_path / "log", tmp_path, *arguments) == ["begin", "end"] * builds


def test_of_two_runs_of_the_notebooks_the_second_waits(tmp_path):
    assert run_two(NOTEBOOKS, tmp_path / "log", tmp_path, "a.ipynb") == ["begin", "end"] * 2


def test_nothing_is_made_where_python_is_missing():
    done = make("PYTHON=/no/such/python3", "book")
    assert done.returncode != 0
    assert "No Python found under the name '/no/such/python3'" in done.stderr


def test_help_is_the_default_and_lists_every_target():
    done = make()
    assert done.returncode == 0, done.stderr
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[1].split()
    for target in set(phony) - {"help", "ready"}:
        assert f"make {target}" in done.stdout, target


# Pins


def test_requirements_pin_everything_that_the_environment_needs():
    """Run against the pinned versions this also holds the markers for other platforms."""
    lines = pins.FILE.read_text(encoding="utf-8").splitlines()
    for line in lines:
        assert not line or line.startswith("#") or pins.PIN.match(line), line
    names = [pins.canonicalize_name(pins.PIN.match(line)[1]) for line in lines if pins.PIN.match(line)]
    assert len(names) == len(set(names))
    here = pins.closure(names, pins.installed(), pins.environments()[0])
    assert here <= set(names)


def test_no_pin_names_a_local_build_or_an_address():
    text = pins.FILE.read_text(encoding="utf-8")
    assert "+" not in "".join(line for line in text.splitlines() if not line.startswith("#"))
    assert "//" not in text


def test_markers_are_as_short_as_can_be():
    everywhere = {(v, s) for v in pins.PYTHONS for s in pins.SYSTEMS}
    assert pins.marker(everywhere) == ""
    assert pins.marker({x for x in everywhere if x[1] == "win32"}) == '; sys_platform == "win32"'
    assert pins.marker({x for x in everywhere if x[1] != "win32"}) == '; sys_platform != "win32"'
    assert pins.marker({x for x in everywhere if x[0] == "3.11"}) == '; python_version < "3.12"'
    assert pins.marker({("3.11", "linux"), ("3.12", "win32")}) == ""


def test_the_newest_run_keeps_the_limits_that_are_meant():
    loose = pins.loose(pins.FILE.read_text(encoding="utf-8")).splitlines()
    assert "jupyter-book<2" in loose
    assert "numpy" in loose
    assert not any("==" in line for line in loose)


# Book


def test_the_book_is_stale_when_a_source_changes_and_not_before(tmp_path):
    for folder in ("book", "chapters", "nnbook/__pycache__"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("requirements.txt", "package-lock.json", "book/intro.md", "nnbook/a.py", "nnbook/__pycache__/a.pyc"):
        (tmp_path / name).write_text(name)
    before = book.fingerprint(tmp_path)
    (tmp_path / "nnbook/__pycache__/a.pyc").write_text("compiled again")
    (tmp_path / "book/intro.md").touch()
    assert book.fingerprint(tmp_path) == before
    (tmp_path / "book/intro.md").write_text("another text")
    assert book.fingerprint(tmp_path) != before


def test_a_build_with_a_warning_fails_now_and_the_next_time(tmp_path, monkeypatch):
    monkeypatch.setattr(book, "ROOT", tmp_path)
    monkeypatch.setattr(book, "BUILD", tmp_path / "_build")
    monkeypatch.setattr(book, "STAMP", tmp_path / "_build" / "book.sha256")
    monkeypatch.setattr(book, "COMMAND", (sys.executable, "-c", "raise SystemExit(1)"))
    remembered = tmp_path / "_build" / "html" / ".doctrees"
    remembered.mkdir(parents=True)
    for name in ("requirements.txt", "package-lock.json"):
        (tmp_path / name).write_text("")
    assert book.build(all_pages=False) == 1
    assert not remembered.exists()
    assert not book.STAMP.exists()


# Serving


def test_serving_tells_what_to_do_when_the_port_is_taken(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert serve.main([str(port)]) == 1
    assert f"make serve PORT={port + 1}" in capsys.readouterr().err


def test_a_book_that_is_not_built_is_not_announced(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(serve, "PAGES", tmp_path / "html")
    assert serve.main(["0"]) == 1
    said = capsys.readouterr()
    assert "There is no built book in _build/html to show. Build it first: make book" in said.err
    assert said.out == ""


@contextlib.contextmanager
def serving(folder):
    server = serve.Server(("127.0.0.1", 0), serve.functools.partial(serve.Handler, directory=str(folder)))
    server.daemon_threads = False  # so that closing waits for what they say
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/%00", 400),
        ("/a%00b.html", 400),
        ("/chapters%00/", 404),
        ("/%ff%fe", 404),
        ("/%ed%a0%80", 400),
        ("/" + "x" * 5000, 404),
        ("/%2e%2e/%2e%2e/etc/passwd", 404),
        ("/no/such/page.html", 404),
        ("/?%00", 200),
        ("/#%00", 200),
    ],
)
def test_an_odd_address_is_answered_without_a_traceback(target, status, tmp_path, capsys):
    (tmp_path / "index.html").write_text("a page")
    for method in ("GET", "HEAD"):
        with serving(tmp_path) as port, socket.create_connection(("127.0.0.1", port), timeout=30) as browser:
            browser.sendall(f"{method} {target} HTTP/1.0\r\n\r\n".encode())
            answer = browser.makefile("rb").readline().decode()
        assert answer.startswith(f"HTTP/1.0 {status} "), answer
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("when", ["before the request", "in the middle of it", "in the answer"])
def test_a_browser_that_goes_away_leaves_no_traceback(when, tmp_path, capsys):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(50_000_000)
    with serving(tmp_path) as port:
        browser = socket.create_connection(("127.0.0.1", port), timeout=30)
        browser.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close by a reset
        if when != "before the request":
            browser.sendall(b"GET /large HTTP/1.0\r\n" + (b"\r\n" if when == "in the answer" else b""))
        if when == "in the answer":
            assert browser.recv(1000).startswith(b"HTTP/1.0 200 ")
        browser.close()
        time.sleep(0.2)
    assert capsys.readouterr() == ("", "")


def test_another_error_of_the_server_is_still_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(serve.Handler, "end_headers", lambda self: 1 / 0)
    with serving(tmp_path) as port, socket.create_connection(("127.0.0.1", port), timeout=30) as browser:
        browser.sendall(b"GET / HTTP/1.0\r\n\r\n")
        browser.recv(1000)
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["eighty", "-1", "70000"])
def test_serving_refuses_what_is_not_a_port(port, capsys):
    assert serve.main([port]) == 1
    assert port in capsys.readouterr().err


def test_pages_are_served_to_this_machine_only(tmp_path):
    (tmp_path / "index.html").write_text("a page")
    server = serve.http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), serve.functools.partial(serve.Handler, directory=str(tmp_path))
    )
    with server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/index.html") as answer:
            assert answer.read() == b"a page"
            assert answer.headers["Cache-Control"] == "no-cache"
        server.shutdown()
        thread.join()


# The table at the end of `make test`


def test_the_table_says_what_failed_and_what_did_not_run():
    outcomes = [
        run_tests.Outcome("ruff", "passed", 1.0),
        run_tests.Outcome("pytest", "FAILED", 61.0, "1 failed, 9 passed in 60.00s"),
        run_tests.Outcome("browser", "not run", 0.0, "20 skipped in 0.10s"),
    ]
    table = run_tests.table(outcomes)
    assert "FAILED: pytest; not run: browser" in table
    assert "62 s" in table
    assert "all passed" in run_tests.table(outcomes[:1])


def test_one_failing_group_does_not_stop_the_others(monkeypatch, capfd):
    fails, passes = [[sys.executable, "-c", f"print('closing line'); raise SystemExit({s})"] for s in (3, 0)]
    monkeypatch.setattr(run_tests, "GROUPS", {"first": [fails], "second": [passes]})
    assert run_tests.main([]) == 1
    shown = capfd.readouterr().out
    assert re.search(r"first +FAILED", shown)
    assert re.search(r"second +passed", shown)
    assert run_tests.main(["second"]) == 0
    assert run_tests.main(["third"]) == 2


def test_a_command_that_hangs_is_stopped_with_what_it_started(monkeypatch, capfd):
    sleep = "import time; time.sleep(60)"
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {sleep!r}])"  # it inherits the output
    monkeypatch.setattr(run_tests, "GROUPS", {"slow": [[sys.executable, "-c", start]]})
    monkeypatch.setattr(run_tests, "LIMIT", 1.0)
    begin = time.monotonic()
    assert run_tests.main([]) == 1
    assert time.monotonic() - begin < 30
    assert "STOPPED after 1 s" in capfd.readouterr().out


@pytest.mark.parametrize(("again", "result"), [(0, "passed"), (1, "FAILED")])
def test_what_fails_in_the_browser_is_looked_at_once_more_and_told(again, result, tmp_path, monkeypatch):
    """The first look fails, the second, which is told by its options, ends as ``again`` says."""
    code = f"import sys; print('1 passed'); sys.exit({again} if '--last-failed' in sys.argv else 1)"
    script = tmp_path / "pytest"
    script.write_text(code)
    monkeypatch.setattr(run_tests, "GROUPS", {"browser": [[sys.executable, str(script), "pytest"]]})
    monkeypatch.setattr(run_tests, "PAGES", script)
    outcome = run_tests.run("browser")
    assert outcome.status == result
    assert "looked at again" in outcome.remark


# Workflows and hooks


def test_workflows_and_hooks_are_valid_and_ask_no_foreign_host():
    files = [*(ROOT / ".github" / "workflows").glob("*.yml"), ROOT / ".pre-commit-config.yaml"]
    assert len(files) == 4
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert yaml.safe_load(text)
        assert not re.search(r"https?://", text), f"{file.name} names an address"
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert repository["repo"] == "local"


def test_what_is_run_on_the_machine_is_what_the_readme_says():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert script.rstrip().endswith("exec make test")
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    assert "set -euo pipefail" in script
    tested = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    assert tuple(tested["jobs"]["test"]["strategy"]["matrix"]["python-version"]) == pins.PYTHONS


def test_the_stored_pictures_are_those_that_the_digit_reader_names() -> None:
    from nnbook.data import mnist_subset
    from nnbook.explore.cnn import STORED, stored

    reader = tool("train_digit_reader")
    assert (*reader.CHOSEN, "the letter A", "nothing") == STORED
    _, (x, y) = mnist_subset()
    for name, place in reader.CHOSEN.items():
        np.testing.assert_allclose(stored(name), x[place].reshape(28, 28), atol=1e-6)
        assert name.endswith(str(y[place]))
    np.testing.assert_allclose(stored("the letter A"), reader.drawn(reader.LETTER), atol=1 / 255)
    assert not stored("nothing").any()


def test_a_digit_is_varied_a_little_each_time_and_keeps_its_ink() -> None:
    from nnbook.data import mnist_subset

    reader = tool("train_digit_reader")
    images = mnist_subset()[0][0][:64].reshape(-1, 1, 28, 28)
    once, again = (reader.varied(np.random.default_rng(seed), images) for seed in (0, 1))
    assert once.dtype == images.dtype
    assert once.shape == images.shape
    assert np.abs(once - again).max() > 0.5
    assert 0 <= once.min() <= once.max() <= 1
    np.testing.assert_allclose(once.sum((1, 2, 3)), images.sum((1, 2, 3)), rtol=0.5)


DRAWN = {
    0: [(14, 4), (8, 8), (7, 15), (9, 22), (14, 25), (19, 22), (21, 15), (20, 8), (14, 4)],
    1: [(14, 4), (14, 24)],
    2: [(8, 8), (11, 4), (17, 4), (20, 8), (18, 13), (8, 24), (21, 24)],
    3: [(8, 5), (15, 4), (19, 8), (13, 13), (20, 18), (16, 24), (8, 23)],
    5: [(20, 4), (10, 4), (9, 12), (16, 12), (20, 17), (16, 23), (8, 23)],
    6: [(17, 4), (10, 11), (8, 19), (12, 24), (18, 22), (18, 16), (12, 15), (9, 18)],
    7: [(7, 5), (20, 5), (12, 25)],
    8: [(14, 13), (9, 9), (12, 4), (17, 5), (18, 9), (14, 13), (9, 18), (11, 24), (17, 24), (19, 18), (14, 13)],
    9: [(18, 10), (13, 13), (9, 9), (12, 5), (17, 5), (18, 10), (17, 24)],
}
"""Corners of digits as somebody draws them by the brush of the canvas, each in one stroke."""


@pytest.mark.parametrize(("scale", "moved"), [(1.0, 0), (0.6, 8), (1.1, -2)])
def test_what_is_drawn_by_the_brush_is_read_wherever_it_stands_thanks_to_centring(scale: float, moved: int) -> None:
    from nnbook.explore.cnn import centred, look

    reader = tool("train_digit_reader")
    read, without = [], []
    for corners in DRAWN.values():
        places = [tuple(scale * (at - 14) + 14 + moved for at in corner) for corner in corners]
        picture = reader.drawn(itertools.pairwise(places))
        read.append(int(look(centred(picture))[1].argmax()))
        without.append(int(look(picture)[1].argmax()))
    assert sum(a == b for a, b in zip(read, DRAWN, strict=True)) >= 8
    if moved == 8:
        assert sum(a == b for a, b in zip(without, DRAWN, strict=True)) <= 3
