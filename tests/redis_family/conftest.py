"""What `make test-stores` runs: servers of PyPI, which .ci/run does not install."""

import os

import pytest

if "REDIS_FAMILY" not in os.environ:
    collect_ignore_glob = ["test_*.py"]


def pytest_report_header(config: pytest.Config) -> str | None:
    return None if "REDIS_FAMILY" in os.environ else "tests/redis_family: left out; `make test-stores` runs them"
