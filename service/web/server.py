"""aiohttp's server with three things set straight: what is not HTTP, how long a header may take, and sizes."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import HttpVersion10, HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_protocol import RequestHandler
from yarl import URL

from service.web import keys
from service.web.answer import Answer

log = structlog.get_logger()

HEADER_DEADLINE_S = 10.0
"""How long a new connection may take for its first header. Later ones are bounded by the keep-alive."""
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


class _Handler(RequestHandler):
    """One connection."""

    __slots__ = ("_deadline",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._deadline = asyncio.get_running_loop().call_later(HEADER_DEADLINE_S, self._give_up)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._deadline.cancel()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        if self._request_count == 0:
            self.force_close()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer what is not HTTP with a bare status. aiohttp's own answer echoes what was sent."""
        if status >= 500 and exc is not None:
            log.error("a request failed", exc_info=exc)  # outside the middlewares, which tell of theirs
        if request.writer.output_size > 0:
            raise ConnectionError("the answer was already being sent")
        return _bare(status)


def _with_a_target(make: Callable[..., web.BaseRequest]) -> Callable[..., web.BaseRequest]:
    """The parser lets `CONNECT` through with nothing behind it, and then tells the target of the request before."""

    def made(message: Any, *args: Any) -> web.BaseRequest:
        return make(message if message.path is not None else message._replace(path="/", url=URL("/")), *args)

    return made


class _Server(web.Server):
    def __call__(self) -> RequestHandler:
        return _Handler(self, loop=self._loop, **self._kwargs)


_VERSIONS = (HttpVersion10, HttpVersion11)


class _InOurWords(Answer):
    """A bare status to whoever speaks another version: aiohttp's own would repeat it."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        head = f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}\r\nserver: rollcall\r\n"
        if request.transport is not None:
            lines = "cache-control: no-store\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            request.transport.write(f"{head}{lines}".encode())
        return None


def _bare(status: int) -> web.Response:
    response = web.Response(status=status, headers={"server": "rollcall", "cache-control": "no-store"})
    response.force_close()
    return response


def _entrance(app: web.Application, handler: Callable[[Any], Awaitable[web.StreamResponse]]) -> Any:
    """What every request passes first.

    Aiohttp answers an `Expect` it does not know before any middleware, and echoes it: here it gets a bare 417. And
    what has a short way takes it: the router's match for each request costs as much as a third of an answer.
    """
    short_way = app[keys.SHORT_WAY]

    async def refuse(response: web.StreamResponse) -> web.StreamResponse:
        response.force_close()
        return response

    async def the_last(answer: Awaitable[web.StreamResponse]) -> web.StreamResponse:
        response = await answer
        response.force_close()
        return response

    def handle(request: web.Request) -> Awaitable[web.StreamResponse]:
        if hdrs.EXPECT in request.headers:
            return handler(request) if request.headers[hdrs.EXPECT].lower() == "100-continue" else refuse(_bare(417))
        answer = short_way(request.method, request.raw_path)
        if answer is None and request.version not in _VERSIONS:  # aiohttp would answer in the client's words
            return refuse(_InOurWords(400, b""))
        answered = handler(request) if answer is None else answer(request)
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
            loop=made._loop,
            **made._kwargs,
        )
