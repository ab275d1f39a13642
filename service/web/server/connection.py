"""One connection: aiohttp's handler with a deadline for headers, bare answers to what is not HTTP, and the short way.

The short way stands beside aiohttp's own loop (`RequestHandler.start`), which waits for the next request meanwhile:
its waiter is hidden from aiohttp while a request is under way here, and woken for whatever has to go there.
"""

import asyncio
from typing import Any

import structlog
from aiohttp import HttpVersion11, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from service.web.api.authentication import MAX_HEADER_BYTES
from service.web.server.hot_path import HotPath
from service.web.server.responses import Answer, until_taken

log = structlog.get_logger()

HEADER_DEADLINE_S = 10.0
"""How long a new connection may take for its first header. Later ones are bounded by the keep-alive."""


class _Request(web.Request):
    """A request on the short way: it has no body, no writer and no task, and aiohttp need not prepare for them."""

    def __init__(self, message: RawRequestMessage, protocol: "Handler", remote: str | None) -> None:
        # Not the base's __init__: it sets three times as much.
        self._message = message
        self._protocol = protocol
        self._rel_url = message.url
        self._state = {}
        # What aiohttp works out of the message when it is first asked, each by a call.
        self._cache = {
            "headers": message.headers,
            "raw_headers": message.raw_headers,
            "method": message.method,
            "raw_path": message.path,
            "version": message.version,
            "keep_alive": not message.should_close,
            "remote": remote,
        }


class Handler(RequestHandler):
    """One connection."""

    __slots__ = ("_deadline", "_fed", "_hot_path", "_idle", "_remote", "_taking")

    def __init__(self, manager: web.Server, hot_path: HotPath, **options: Any) -> None:
        super().__init__(manager, **options)
        self._hot_path = hot_path
        self._idle: asyncio.Future[None] | None = None
        """What aiohttp's loop waits for, while a request is on the short way."""
        self._taking: asyncio.Task[None] | None = None
        self._fed = 0
        """Bytes of the packet that ended the last message, and of all since: no less than the next header has."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        super().connection_made(transport)
        peer = self.peername
        self._remote = None if peer is None else str(peer if isinstance(peer, str) else peer[0])
        self._deadline = asyncio.get_running_loop().call_later(HEADER_DEADLINE_S, self._give_up)

    def connection_lost(self, exc: BaseException | None) -> None:
        """It is gone. What it asked goes on to its end, for nobody."""
        self._deadline.cancel()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        if self._request_count == 0:
            self.force_close()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer what is not HTTP with a bare status. aiohttp's own answer echoes what was sent."""
        if status >= 500 and exc is not None and not isinstance(exc, ConnectionError):  # a client that hung up
            log.error("a request failed", exc_info=exc)  # outside the middlewares, which tell of theirs
        if request.writer.output_size > 0:
            raise ConnectionError("the answer was already being sent")
        return bare(status)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer the regular way."""
        sent = await super().finish_response(request, resp, start_time)
        if not self._messages and not self._upgraded:
            # aiohttp 3.14 loses count of what its parser may hold when a body comes in a later packet than its header:
            # what waits in the parser would wait until the client sent more.
            super().data_received(b"")
        return sent

    def data_received(self, data: bytes) -> None:
        """The socket brought something."""
        idle, parser = self._waiter, self._parser
        if idle is None or idle.done() or self._upgraded or parser is None:
            self._fed = MAX_HEADER_BYTES  # whatever of the next header is among it
            super().data_received(data)
            return
        # Nothing is under way, and aiohttp's loop waits, so nothing is queued, in the parser neither, and nothing is
        # being closed: of aiohttp's own data_received this is what is left then, and before it the short way.
        try:
            messages, upgraded, tail = parser.feed_data(data)
        except HttpProcessingError as error:
            wrong = _ErrInfo(status=400, exc=error, message=error.message)
            messages, upgraded, tail = [(wrong, EMPTY_PAYLOAD)], False, b""
        if not messages:
            self._fed += len(data)
            return
        fed, self._fed = self._fed + len(data), len(data)
        self._request_count += len(messages)
        if len(messages) == 1 and self._goes_short(*messages[0], idle, fed):
            parser.message_consumed()
            return
        self._messages.extend(messages)
        idle.set_result(None)
        if not self._buffer_paused and len(messages) >= self._max_msg_queue_size:
            self._pause_reading_for_buffer()
        self._upgraded = upgraded
        if upgraded:
            self._message_tail = tail

    def _goes_short(self, message: Any, payload: Any, idle: asyncio.Future[None], fed: int) -> bool:
        """Send the one request that came the short way, if it can go there."""
        if (
            payload is not EMPTY_PAYLOAD
            or type(message) is not RawRequestMessage  # what is not HTTP
            or message.should_close
            or message.version is not HttpVersion11
            or self._paused
        ):
            return False
        route = self._hot_path.find(message.method, message.path)
        if route is None or hdrs.EXPECT in message.headers or hdrs.UPGRADE in message.headers:
            return False
        self._idle, self._waiter, self._request_in_progress = idle, None, True
        if not self._hot_path.enter(_Request(message, self, self._remote), route, self._answered, fed):
            self._idle, self._waiter, self._request_in_progress = None, idle, False
            return False
        return True

    def _answered(self, request: web.Request, answer: web.StreamResponse | None) -> None:
        """Send the answer of a request that went the short way."""
        try:
            goes_on = isinstance(answer, Answer) and answer.send(request)
        except Exception as error:  # whatever it is, the connection may not be left waiting
            log.error("an answer was not sent", exc_info=error)
            goes_on = False
        if not goes_on:
            self._close = True
        elif self._paused:  # the client asks faster than it reads
            self._taking = self._loop.create_task(self._until_taken(request))
            return
        self._rest()

    async def _until_taken(self, request: web.Request) -> None:
        try:
            await until_taken(request)
        except ConnectionError:
            self._close = True
        self._rest()

    def _rest(self) -> None:
        """Give the connection back to aiohttp's loop: for what came meanwhile, for the next request, or to end."""
        idle, self._idle, self._taking, self._request_in_progress = self._idle, None, None, False
        if self._handler_waiter is not None and not self._handler_waiter.done():  # aiohttp shuts down
            self._handler_waiter.set_result(None)
        if idle is None or idle.done():
            return
        if self._close or self._force_close:
            if self.transport is not None:
                self.transport.close()
            idle.cancel()
            return
        self._waiter = idle
        closes_at = self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(closes_at, self._process_keepalive)
        if self._messages:
            idle.set_result(None)


def bare(status: int) -> web.Response:
    """An answer of nothing but a status; it ends the connection."""
    response = web.Response(status=status, headers={"server": "rollcall", "cache-control": "no-store"})
    response.force_close()
    return response
