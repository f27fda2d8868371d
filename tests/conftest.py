"""What all tests share: reproducible examples, a reason beside a skipped GPU test, the count of planted errors."""

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
