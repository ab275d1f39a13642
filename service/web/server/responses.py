"""Answers of the API: on the hot path one string and one write, through aiohttp an ordinary response.

aiohttp's own Response keeps its headers in a multidict, completes them, calls signals and serialises them: about half
of what bare aiohttp spends on a small answer. An answer of the API has a body that is known and a handful of headers,
most of them constant.
"""

import time
from functools import lru_cache
from http import HTTPStatus
from wsgiref.handlers import format_date_time

from aiohttp import web

SECURITY_LINES = "server: rollcall\r\nx-content-type-options: nosniff\r\n"
"""On every answer, page and file."""

_CONSTANT = f"content-type: application/json; charset=utf-8\r\ncache-control: no-store\r\n{SECURITY_LINES}"


def line(name: str, value: str) -> str:
    """Return a header line, of a value that may come from outside.

    Raises:
        ValueError: it holds a line break, and would be two.
    """
    if "\r" in value or "\n" in value:
        raise ValueError("a header field holds a line break")
    return f"{name}: {value}\r\n"


class ApiResponse:
    """A JSON answer.

    Args:
        status: HTTP's.
        content: the body.
    """

    __slots__ = ("closes", "content", "lines", "status")

    def __init__(self, status: int, content: bytes) -> None:
        self.status = status
        self.content = content
        self.lines = ""
        """Further header lines, each with its line end."""
        self.closes = False
        """The connection ends with this answer."""

    @property
    def text(self) -> str:
        """The body as text."""
        return self.content.decode()

    def to_bytes(self, *, keep_alive: bool, has_body: bool = True) -> bytes:
        """Return the whole answer as HTTP/1.1 sends it; the answer to HEAD has no body."""
        close = "" if keep_alive else "connection: close\r\n"
        head = f"{_head(self.status, int(time.time()))}content-length: {len(self.content)}\r\n{self.lines}{close}\r\n"
        return head.encode() + self.content if has_body else head.encode()

    def to_aiohttp(self) -> web.Response:
        """Return the same as aiohttp's response."""
        response = web.Response(status=self.status, body=self.content)
        for one in _CONSTANT.splitlines():
            name, _, value = one.partition(": ")
            response.headers[name] = value
        for one in self.lines.splitlines():
            name, _, value = one.partition(": ")
            response.headers.add(name, value)
        if self.closes:
            response.force_close()
        return response


AnyResponse = ApiResponse | web.StreamResponse


def complete(response: web.StreamResponse, lines: str) -> None:
    """Add the headers to a page, a file or a stream that an answer of the API has by itself."""
    headers = response.headers
    for one in f"{SECURITY_LINES}{lines}".splitlines():
        name, _, value = one.partition(": ")
        headers[name] = value
    # A static file is the same for everybody, and asked for again only to hear that it has not changed.
    headers.setdefault("cache-control", "no-cache" if isinstance(response, web.FileResponse) else "no-store")


def bare_response(status: int) -> bytes:
    """Return an answer of nothing but a status, for what is not read as HTTP; the connection ends with it."""
    phrase = HTTPStatus(status).phrase
    lines = "server: rollcall\r\ncache-control: no-store\r\ncontent-length: 0\r\nconnection: close\r\n"
    lines += f"date: {format_date_time(int(time.time()))}\r\n"
    return f"HTTP/1.1 {status} {phrase}\r\n{lines}\r\n".encode()


@lru_cache(maxsize=64)
def _head(status: int, second: int) -> str:
    # The date as of RFC 9110, section 5.6.7.
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{_CONSTANT}date: {format_date_time(second)}\r\n"
