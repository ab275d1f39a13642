"""The log in a terminal."""

import io
import logging
import sys

import pytest
import structlog

from service import logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_traceback_shows_no_local_variables_whatever_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, token = Terminal(), "a-token-that-is-nobody-elses"
    monkeypatch.setattr(sys, "stderr", terminal)
    before, root, handlers = structlog.get_config(), logging.getLogger(), logging.getLogger().handlers[:]
    try:
        logs.configure()
        try:
            raise ValueError(len(token))
        except ValueError as error:
            structlog.get_logger().error("a request failed", exc_info=error)
    finally:
        structlog.configure(**before)
        root.handlers[:] = handlers
    assert "ValueError: 28" in terminal.getvalue()
    assert token not in terminal.getvalue().replace('token = Terminal(), "a-token-that-is-nobody-elses"', "")
