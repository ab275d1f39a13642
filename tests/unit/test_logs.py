"""The log in a terminal."""

import io
import logging
import sys
from pathlib import Path

import pytest
import structlog

from service import logs
from service.log_writer import LogWriter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_traceback_shows_no_local_variables_whatever_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token = "a-token-that-is-nobody-elses"
    written = (tmp_path / "log").open("w")
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(logs, "writer", LogWriter(written.fileno()))
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
    logs.drain()
    written.close()
    log = (tmp_path / "log").read_text()
    assert "ValueError: 28" in log
    assert token not in log.replace(f'token = "{token}"', "")


def test_a_line_is_rendered_as_json_dumps_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    before = structlog.get_config()
    try:
        *_, render = logs.configure_structlog()[1]
    finally:
        structlog.configure(**before)
    event = {"event": "ünï", "path": Path("/x"), "n": 1.5, "list": [None, True]}
    assert render(None, "info", event) == structlog.processors.JSONRenderer()(None, "info", event)
