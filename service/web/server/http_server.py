"""aiohttp's server with our connections (`connection.py`), sizes and deadlines."""

import gc
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from service.web.server.connection import Handler, bare
from service.web.server.hot_path import HOT_PATH, HotPath
from service.web.server.responses import Answer

BODY_DEADLINE_S = 10.0
"""How long a body that is read may take."""
KEEPALIVE_S = 130.0
"""Longer than the usual proxy keeps its idle connections (nginx 60 s, Traefik 90 s, Caddy 120 s), so that it is the
one to close."""
SHUTDOWN_S = 10.0
"""How long requests that are under way may take at SIGTERM; aiohttp waits it up to twice."""
MAX_LINE_BYTES = 16 * 1024
"""A request line or one header field. All fields together are bounded by the problems middleware."""

MAX_HEADERS = MAX_LINE_BYTES // 4
"""How many header fields: as many as all of them together may hold, so that the middleware is the one to refuse."""

OPTIONS: dict[str, Any] = {
    "auto_decompress": False,  # a bomb would be unpacked even where nobody reads it; no body of ours is packed
    "access_log": None,  # the problems middleware writes it
    "keepalive_timeout": KEEPALIVE_S,
    "max_line_size": MAX_LINE_BYTES,
    "max_field_size": MAX_LINE_BYTES,
    "max_headers": MAX_HEADERS,
    "shutdown_timeout": SHUTDOWN_S,
}
"""For `Runner`. A misspelt one would make aiohttp discard all: a test holds the effective values."""


GC_EVERY = 20_000
"""Objects, net, between collections: requests leave no cycles behind, and those under way are many."""


def spare_the_collector() -> None:
    """To be called once all is set up: what was made so far stays until the end, no collection need look at it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_EVERY)


def _with_a_target(make: Callable[..., web.BaseRequest]) -> Callable[..., web.BaseRequest]:
    """The parser lets `CONNECT` through with nothing behind it, and then tells the target of the request before."""

    def made(message: Any, *args: Any) -> web.BaseRequest:
        return make(message if message.path is not None else message._replace(path="/", url=URL("/")), *args)

    return made


class _Server(web.Server):
    def __init__(self, *args: Any, hot_path: HotPath, **options: Any) -> None:
        super().__init__(*args, **options)
        self._hot_path = hot_path

    def __call__(self) -> Handler:
        return Handler(self, self._hot_path, loop=self._loop, **self._kwargs)


_VERSIONS = (HttpVersion10, HttpVersion11)


class _BareAnswer(Answer):
    """A bare status to whoever speaks another version: aiohttp's own would repeat it."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        head = f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}\r\nserver: rollcall\r\n"
        if request.transport is not None:
            lines = "cache-control: no-store\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            request.transport.write(f"{head}{lines}".encode())
        return None


def _entrance(app: web.Application, handler: Callable[[Any], Awaitable[web.StreamResponse]]) -> Any:
    """What every request passes first.

    Aiohttp answers an `Expect` it does not know before any middleware, and echoes it: here it gets a bare 417. And
    what has a short way and cannot take it goes past the router all the same.
    """
    find = app[HOT_PATH].find

    async def refuse(response: web.StreamResponse) -> web.StreamResponse:
        response.force_close()
        return response

    async def the_last(answer: Awaitable[web.StreamResponse]) -> web.StreamResponse:
        response = await answer
        response.force_close()
        return response

    def handle(request: web.Request) -> Awaitable[web.StreamResponse]:
        if hdrs.EXPECT in request.headers:
            return handler(request) if request.headers[hdrs.EXPECT].lower() == "100-continue" else refuse(bare(417))
        route = find(request.method, request.raw_path)
        if route is None and request.version not in _VERSIONS:  # aiohttp would answer in the client's words
            return refuse(_BareAnswer(400, b""))
        answered = handler(request) if route is None else route.regular(request)
        # Of what follows an upgrade in its packet the parser drops all; the body of CONNECT it takes for a request.
        if hdrs.UPGRADE in request.headers or request.method == hdrs.METH_CONNECT:
            return the_last(answered)
        return answered

    return handle


class Runner(web.AppRunner):
    """Runs the application with our connection handler."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(
            _entrance(self.app, made.request_handler),
            request_factory=_with_a_target(made.request_factory),
            handler_cancellation=made.handler_cancellation,
            hot_path=self.app[HOT_PATH],
            loop=made._loop,
            **made._kwargs,
        )
