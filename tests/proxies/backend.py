"""An API as Python's frameworks run one: a WSGI server in a process of its own, that answers with what it received.

The server is the standard library's. As CGI does (RFC 3875, section 4.1.18), it makes `HTTP_X_AUTH_USER` of
`X-Auth-User`, `X_Auth_User` and `X-Auth_User` alike, and joins the values of a field that is sent more than once. The
answer also holds the field lines as they came over the wire.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from itertools import count
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from tests.kit import ROOT, Answer, free_port, wait_for

_LINES = "test.lines"
_numbers = count(1)


@dataclass(frozen=True)
class Received:
    """A request, as the API received it."""

    number: int
    """How many requests the API has received, this one included."""
    environ: dict[str, str]
    """What WSGI makes of its header fields."""
    lines: tuple[tuple[str, str], ...]
    """Its header fields in their order, names in lower case."""
    trailer: tuple[tuple[str, str], ...]
    """The fields after its body."""

    @classmethod
    def of(cls, answer: Answer) -> "Received":
        """What an answer of the API says."""
        content = json.loads(answer.body)
        lines, trailer = (tuple((name, value) for name, value in content[part]) for part in ("lines", "trailer"))
        return cls(content["number"], content["environ"], lines, trailer)

    def all(self, name: str) -> list[str]:
        """Each value of a field."""
        return [value for other, value in self.lines if other == name]


class _Kept(BufferedIOBase):
    """A stream that keeps each line that is read."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.lines: list[bytes] = []

    def readline(self, size: int | None = -1, /) -> bytes:
        line: bytes = self._stream.readline(size)
        self.lines.append(line)
        return line


class _Handler(WSGIRequestHandler):
    """wsgiref's handler, which also hands the head's lines to the application."""

    def setup(self) -> None:
        super().setup()
        self.rfile = _Kept(self.rfile)

    def get_environ(self) -> dict[str, Any]:
        lines = [line.decode("latin-1").rstrip("\r\n") for line in self.rfile.lines[1:]]  # type: ignore[attr-defined]
        return super().get_environ() | {_LINES: [_field(line) for line in lines if line]}

    def log_message(self, *_: Any) -> None:
        """Write nothing."""


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.lower(), value.strip()


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with what was received."""
    seen = {name: value for name, value in environ.items() if name.startswith("HTTP_") or name == "REMOTE_USER"}
    reported = {"number": next(_numbers), "environ": seen, "lines": environ[_LINES], "trailer": list(_trailer(environ))}
    content = json.dumps(reported).encode()
    start_response("200 OK", [("content-type", "application/json"), ("content-length", str(len(content)))])
    return [content]


def _trailer(environ: WSGIEnvironment) -> Iterator[tuple[str, str]]:
    """The fields behind the last chunk, of a body whose chunks are lines."""
    if environ.get("HTTP_TRANSFER_ENCODING") != "chunked":
        return
    lines = iter(environ["wsgi.input"].readline, b"\r\n")
    for line in lines:
        if line == b"0\r\n":
            break
    yield from (_field(line.decode("latin-1")) for line in lines)


@contextmanager
def wsgi_backend() -> Iterator[int]:
    """Start the API; yields its port, and ends it."""
    port = free_port()
    command = [sys.executable, "-m", "tests.proxies.backend", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        wait_for(process.stdout.readline)
        yield port
    finally:
        process.terminate()
        process.communicate()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("port", type=int)
    with make_server("127.0.0.1", arguments.parse_args().port, application, handler_class=_Handler) as server:
        sys.stdout.write("listening\n")
        sys.stdout.flush()
        server.serve_forever()
