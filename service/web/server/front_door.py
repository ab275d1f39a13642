"""The front door: one connection of a client. It answers hot operations itself and hands the rest to aiohttp.

The door is the transport's protocol for as long as the connection lives. It reads heads by httptools (llhttp). A hot
operation that comes alone, without a body, takes the hot path (`hot_path.py`): no task, no `web.Request`. With the
first request that is anything else, aiohttp gets the connection: a handler by its public protocol factory
(`web.Server`), all bytes that are not yet answered, and whatever follows. From then on the door forwards, and goes on
checking heads, so that sizes, versions and repeated fields hold for each request. Nothing is taken back from aiohttp:
it answers a hot operation with `Connection: close`, so that the client's next connection begins at the door again.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

import httptools
import structlog

from service.web.server.hot_path import HotPath
from service.web.server.request_head import AFTER_CLOSE, MAX_HEAD_BYTES, Refused, RequestHead
from service.web.server.responses import ApiResponse, bare_response

log = structlog.get_logger()

MAX_UNREAD_BYTES = 64 * 1024
"""What a client may send ahead while its request waits; beyond it the socket is not read."""
LINGER_S = 2.0
"""How long a refused client may take to read why. To close at once would reset the connection, and lose the answer."""


class Owner(Protocol):
    """What a connection needs of the server that it belongs to."""

    hot_path: HotPath
    connections: set["FrontDoor"]
    is_closing: bool
    """The service is about to end: answers say `Connection: close`."""

    def make_handler(self) -> asyncio.Protocol:
        """Return aiohttp's handler for one connection."""

    def count_hot(self) -> None:
        """Count a request that takes the hot path."""

    def report_refused(self, client: str | None, refused: Refused) -> None:
        """Count and log a request that is not read as HTTP."""


class FrontDoor(asyncio.Protocol):
    """One connection.

    Args:
        owner: the server.
        clock: the loop's time, in seconds.
    """

    def __init__(self, owner: Owner, clock: Callable[[], float]) -> None:
        self._owner = owner
        self._clock = clock
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._remote: str | None = None
        self._handler: asyncio.Protocol | None = None
        """aiohttp's, once it has the connection."""
        self._head: RequestHead | None = None
        """The head that is being read, or was read last."""
        self._begun = self._heads = self._completed = 0
        """Requests that have begun, whose head is whole, that are whole: since the last answer of the hot path."""
        self._forwarded = self._answered_by_aiohttp = 0
        """Heads that aiohttp got, and requests that it has answered."""
        self._fed: list[bytes] = []
        """What was parsed: until aiohttp has the connection all that is not answered, then what may hold the head."""
        self._fed_bytes = 0
        self._unread: list[bytes] = []
        """What came while a request waits; it is not parsed yet."""
        self._unread_bytes = 0
        self.is_busy = False
        """A request is on the hot path."""
        self._is_raw = False
        """The client asks for another protocol, which nothing here speaks: what follows is not read."""
        self._is_eof = False
        """The client sends no more."""
        self._pending: Refused | None = None
        """To be sent when aiohttp has answered what came before."""
        self.is_body_broken = False
        """The body of the request that aiohttp got last is not well-formed: an answer to it is the last."""
        self.is_answering = False
        """aiohttp has begun to answer the oldest request that it has not answered."""
        self._is_refused = False
        """A bare status was sent; the connection lingers."""
        self._paused_at: float | None = None
        """When the client began to read slower than it is answered; None: it does not."""
        self._pauses_reading = False
        self._since = clock()
        """When the connection began to wait for what it waits for now."""
        self._is_head_begun = False
        """Part of a head has come."""
        self._is_used = False
        """A whole head has come."""

    # The transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has another base class
        peer = transport.get_extra_info("peername")
        self._remote = None if not peer else str(peer if isinstance(peer, str) else peer[0])
        self._owner.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone. What it asked goes on to its end, for nobody."""
        self._transport = None
        self._owner.connections.discard(self)
        if self._handler is not None:
            self._handler.connection_lost(exc)

    def eof_received(self) -> bool:
        """The client sends no more. Returns whether an answer is still to be sent; else the transport closes."""
        self._is_eof = True
        if self._handler is None:
            return self.is_busy
        self._handler.eof_received()
        return self._forwarded > self._answered_by_aiohttp and self._completed >= self._heads

    def pause_writing(self) -> None:
        """The client reads slower than it is answered."""
        self._paused_at = self._clock()
        transport = self._transport
        if transport is not None and not transport.is_closing() and transport.is_reading():
            transport.pause_reading()  # it may not ask for more than it takes
            self._pauses_reading = True
        if self._handler is not None:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        """The client has read."""
        self._paused_at, self._since = None, self._clock()
        if self._pauses_reading:
            self._pauses_reading = False
            self._resume_reading()
        if self._handler is not None:
            self._handler.resume_writing()
        elif not self.is_busy:
            self._go_on()

    def data_received(self, data: bytes) -> None:
        """The socket brought something."""
        if self._is_refused:
            return
        if self._handler is not None:
            self._forward(data)
        elif self.is_busy or self._paused_at is not None:
            self._unread.append(data)
            self._unread_bytes += len(data)
            if self._unread_bytes > MAX_UNREAD_BYTES and self._transport is not None:
                self._transport.pause_reading()
        else:
            self._take(data)

    # The server's calls

    def check(self, now: float, *, head_s: float, idle_s: float, send_s: float) -> None:
        """Close the connection where it has waited too long: for a head, for the next request, for a reader."""
        transport = self._transport
        if transport is None or self.is_busy:
            return
        waited_s = now - self._since
        if self._is_refused:
            is_over = waited_s > LINGER_S
        elif self._paused_at is not None:
            is_over = now - self._paused_at > send_s
        elif self._pending is not None or self._is_head_begun or not self._is_used:
            is_over = waited_s > head_s and transport.is_reading()  # aiohttp may have stopped that
        else:
            is_over = self._handler is None and waited_s > idle_s
        if is_over:
            transport.abort()

    def close_if_idle(self) -> None:
        """Close the connection unless a request is under way; aiohttp closes what it has."""
        if self._transport is not None and self._handler is None and not self.is_busy:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection now."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def is_last_known(self) -> bool:
        """Whether nothing was received behind the request that aiohttp answers now."""
        return self._begun <= self._answered_by_aiohttp + 1

    def answered_by_aiohttp(self) -> None:
        """Take note that aiohttp has sent an answer to its end."""
        self._answered_by_aiohttp += 1
        self.is_answering = False
        if self._handler is not None and self._forwarded > self._answered_by_aiohttp and self._pending is None:
            # aiohttp 3.14 loses count of what its parser holds when a body comes in a later packet than its head: the
            # next request would wait until the client sent more.
            self._handler.data_received(b"")
        self._end_if_answered()

    # The parser's calls

    def on_message_begin(self) -> None:
        """A request begins."""
        self._begun += 1
        self._is_head_begun, self._since = True, self._clock()
        self._head = RequestHead(self._remote)

    def on_url(self, url: bytes) -> None:
        """Part of the request target."""
        if self._head is not None:
            self._head.add_target(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field, or a trailer field, which aiohttp drops."""
        if self._head is not None:
            self._head.add_field(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._is_head_begun, self._is_used = False, True
        if self._head is not None:
            self._head.complete(self._parser, self._fed[0] if len(self._fed) == 1 else b"".join(self._fed))
        self._heads += 1

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._completed += 1

    # The door

    def _take(self, data: bytes) -> None:
        """Parse `data`, and answer, hand over or wait for more."""
        self._fed.append(data)
        try:
            self._fed[-1] = self._parse(data)
            self._fed_bytes = 0 if self._heads else self._fed_bytes + len(data)
            self._check_incomplete_head()
        except Refused as refused:
            self._owner.report_refused(self._remote, refused)
            self._send_refusal(refused)
            return
        head = self._head
        if head is None or not self._heads:
            return  # more of the head is to come
        is_alone = self._begun == self._completed == 1 and not self._is_raw
        if not is_alone or not head.can_be_hot or not self._enter(head):
            self._hand_over()

    def _parse(self, data: bytes) -> bytes:
        """Parse `data`, and return what of it is HTTP.

        Raises:
            Refused: it is not well-formed, or not what the service reads.
        """
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            self._is_raw = True
            return data[: error.args[0]]
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, Refused):
                raise error.__context__ from None
            raise
        except httptools.HttpParserError as error:
            head = self._head
            if head is not None and self._begun == self._completed and not head.keep_alive:
                raise Refused(400, AFTER_CLOSE) from None
            if "Invalid HTTP version" in str(error):  # two numbers; llhttp knows 0.9, 1.0, 1.1 and 2.0
                raise Refused(505, "version") from None
            raise Refused(400, _REASONS.get(type(error), "syntax")) from None
        return data

    def _check_incomplete_head(self) -> None:
        if self._head is None or self._is_head_begun:
            if self._fed_bytes > MAX_HEAD_BYTES:
                raise Refused(431, "fields_too_large")
            if self._head is not None:
                self._head.check_repeated()

    def _enter(self, head: RequestHead) -> bool:
        """Send the request the hot path, if it can go there."""
        route = self._owner.hot_path.find(head.method, head.raw_path)
        if route is None:
            return False
        self.is_busy = True
        if not self._owner.hot_path.enter(head, route, self._answered):
            self.is_busy = False
            return False
        self._owner.count_hot()
        return True

    def _answered(self, head: RequestHead, answer: ApiResponse | None) -> None:
        """Send the answer of a request that took the hot path; None: there is none, and the log says why."""
        self.is_busy, self._since = False, self._clock()
        self._begun = self._heads = self._completed = self._fed_bytes = 0
        self._head = None
        self._fed.clear()
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if answer is None:
            transport.close()
            return
        goes_on = head.keep_alive and not answer.closes and not self._owner.is_closing
        goes_on = goes_on and (not self._is_eof or bool(self._unread))
        try:
            transport.write(answer.to_bytes(keep_alive=goes_on, has_body=head.method != "HEAD"))
        except Exception as error:  # whatever it is, the connection may not be left waiting
            log.error("an answer was not sent", exc_info=error)
            goes_on = False
        if not goes_on:
            transport.close()
        elif self._unread and self._paused_at is None:
            self._go_on()

    def _go_on(self) -> None:
        """Read what came meanwhile."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._unread_bytes > MAX_UNREAD_BYTES:
            self._resume_reading()
        data, self._unread, self._unread_bytes = b"".join(self._unread), [], 0
        if data:
            self._take(data)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _send_refusal(self, refused: Refused) -> None:
        """Answer with a bare status, and read no more. The connection closes when the client has read, or soon."""
        self._is_refused, self._since = True, self._clock()
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(bare_response(refused.status))
        if self.is_body_broken or self._is_eof or not transport.can_write_eof():
            transport.close()
        else:
            transport.write_eof()

    def _hand_over(self) -> None:
        """Give the connection to aiohttp, with all that is not answered."""
        if self._transport is None:
            return
        data = b"".join(self._fed)
        self._handler = self._owner.make_handler()
        self._handler.connection_made(self._transport)
        if self._paused_at is not None:
            self._handler.pause_writing()
        self._forwarded = self._heads
        self._handler.data_received(data)

    def _forward(self, data: bytes) -> None:
        """Check the heads in what came, and give it to aiohttp."""
        if self._handler is None or self._is_raw or self._pending is not None:
            return
        if not self._is_head_begun:
            self._fed, self._fed_bytes = [], 0
        self._fed.append(data)
        in_body, heads, completed = self._completed < self._heads, self._heads, self._completed
        try:
            data = self._parse(data)
            # A packet may hold the end of a body, or whole requests, before the head that it leaves incomplete.
            self._fed_bytes = 0 if in_body or self._heads > heads else self._fed_bytes + len(data)
            self._check_incomplete_head()
        except Refused as refused:
            if refused.reason == AFTER_CLOSE and self._completed == completed:
                return  # what follows a request that asks to close is not read (RFC 9112, section 9.6)
            self._owner.report_refused(self._remote, refused)
            self._pending, self._since = refused, self._clock()
            self.is_body_broken = in_body and self._forwarded > self._answered_by_aiohttp
            self._end_if_answered()
            return
        self._forwarded = self._heads
        self._handler.data_received(data)

    def _end_if_answered(self) -> None:
        """Refuse, or close, once aiohttp has answered what came before; a broken body's request it cannot answer."""
        owed = self._forwarded - self._answered_by_aiohttp
        if self._pending is not None and owed == int(self.is_body_broken and not self.is_answering):
            if self.is_body_broken and not owed:  # it was answered all the same
                self._close()
            else:
                self._send_refusal(self._pending)
        elif owed == 0 and (self._is_eof or self._is_raw):
            self._close()


_REASONS: dict[type[Exception], str] = {
    httptools.HttpParserInvalidMethodError: "method",
    httptools.HttpParserInvalidURLError: "target",
}
