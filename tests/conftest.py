"""What all tests share: reproducible examples, a reason beside a skipped GPU test, counts at the end of the run."""

import pytest
from hypothesis import settings

settings.register_profile("book", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("book")


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu"):
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("PyTorch sees no CUDA device here")


def pytest_terminal_summary(terminalreporter):
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    lines = [text for report in reports for key, text in report.user_properties if key == "planted errors"]
    if lines:
        terminalreporter.section("planted errors in every VJP")
        terminalreporter.write_line("\n".join(lines))
    counts = {}
    for report in reports:
        for key, number in report.user_properties:
            if key.startswith("tried: "):
                functions, inputs = counts.get(key, (0, 0))
                counts[key] = functions + 1, inputs + number
    if counts:
        terminalreporter.section("what goes into a function")
        for key, (functions, inputs) in sorted(counts.items()):
            terminalreporter.write_line(f"{key.removeprefix('tried: ')}: {functions} functions, {inputs} inputs")
