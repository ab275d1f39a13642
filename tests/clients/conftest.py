"""What `make clients` runs: libraries of npm, which .ci/run does not install."""

import os

import pytest

if os.environ.get("CLIENTS") != "1":
    collect_ignore_glob = ["test_*.py"]


def pytest_report_header(config: pytest.Config) -> str | None:
    return None if os.environ.get("CLIENTS") == "1" else "tests/clients: left out; `make clients` runs them"
