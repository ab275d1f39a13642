"""An answer of the API, written to the connection in one piece.

aiohttp's own Response keeps its headers in a multidict, completes them, calls signals and serialises them:
about half of what bare aiohttp spends on a small answer. An answer of the API has a body that is known and a
handful of headers, most of them constant, so it is one string and one write.
"""

import asyncio
import time
from functools import lru_cache
from http import HTTPStatus
from wsgiref.handlers import format_date_time

from aiohttp import ClientConnectionResetError, web
from aiohttp.abc import AbstractStreamWriter

SECURITY_LINES = "server: rollcall\r\nx-content-type-options: nosniff\r\n"
"""On every answer, page and file."""

SEND_TIMEOUT_S = 10.0
"""A client that takes nothing for so long is hung up on."""

_CONSTANT = f"content-type: application/json; charset=utf-8\r\ncache-control: no-store\r\n{SECURITY_LINES}"


def line(name: str, value: str) -> str:
    """A header line, of a value that may come from outside.

    Raises:
        ValueError: it holds a line break, and would be two.
    """
    if "\r" in value or "\n" in value:
        raise ValueError("a header field holds a line break")
    return f"{name}: {value}\r\n"


class Answer(web.StreamResponse):
    """A JSON answer. What is to be added to its headers goes to `lines`, each ended; `headers` is not used."""

    def __init__(self, status: int, content: bytes) -> None:
        # Not the base's __init__: it builds what is not used here.
        self._status = status
        self._content = content
        self.lines = ""

    @property
    def text(self) -> str:
        """The body."""
        return self._content.decode()

    def change_status(self, status: int) -> None:
        """Say `status` in the status line. What the body says stays."""
        self._status = status

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write the answer. aiohttp calls this once, and `write_eof` after it."""
        if request.transport is None or request.transport.is_closing():
            raise ClientConnectionResetError("the client hung up")
        self.send(request)
        if request.protocol.writing_paused:
            await until_taken(request)
        return None

    def send(self, request: web.BaseRequest) -> bool:
        """Write the answer, unless the client has hung up; tell whether the connection may be used again."""
        transport = request.transport
        if transport is None or transport.is_closing():
            return False
        keep_alive = request.keep_alive if self._keep_alive is None else self._keep_alive
        self._keep_alive = keep_alive
        lines = self.lines
        if not keep_alive:
            lines += "connection: close\r\n"
        elif request.version < (1, 1):
            lines += "connection: keep-alive\r\n"
        head = f"{_head(self._status, int(time.time()))}content-length: {len(self._content)}\r\n{lines}\r\n"
        transport.write(head.encode() + (b"" if request.method == "HEAD" else self._content))
        return keep_alive

    async def write_eof(self, data: bytes = b"") -> None:
        """Everything was written."""
        self._eof_sent = True


async def until_taken(request: web.BaseRequest) -> None:
    """Wait for a client that asks faster than it reads: what it has not taken is kept in memory.

    Raises:
        ClientConnectionResetError: it takes nothing, and was hung up on.
    """
    try:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await request.protocol._drain_helper()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ClientConnectionResetError("the client takes no answers") from None


def complete(response: web.StreamResponse, lines: str) -> None:
    """The headers of a page, a file or a stream: what an answer of the API has by itself, where not said otherwise."""
    headers = response.headers
    for one in f"{SECURITY_LINES}{lines}".splitlines():
        name, _, value = one.partition(": ")
        headers[name] = value
    # A static file is the same for everybody, and asked for again only to hear that it has not changed.
    headers.setdefault("cache-control", "no-cache" if isinstance(response, web.FileResponse) else "no-store")


@lru_cache(maxsize=64)
def _head(status: int, second: int) -> str:
    # The date as of RFC 9110, section 5.6.7.
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{_CONSTANT}date: {format_date_time(second)}\r\n"
