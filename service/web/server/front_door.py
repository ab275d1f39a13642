"""The front door: one connection of a client. It answers hot operations itself and hands the rest to aiohttp.

The door is the transport's protocol for as long as the connection lives. It reads one request at a time
(`head_reader.py`). A hot operation without a body takes the hot path (`hot_path.py`): no task, no `web.Request`. With
the first request that is anything else, aiohttp gets the connection: a handler by its public protocol factory
(`web.Server`), all bytes that are not yet answered, and whatever follows. From then on the door forwards, and goes on
checking heads, so that sizes, versions and repeated fields hold for each request. Nothing is taken back from aiohttp:
it answers a hot operation with `Connection: close`, so that the client's next connection begins at the door again.
"""

import asyncio
from collections.abc import Callable
from typing import cast

import structlog

from service.web.server.head_limits import AFTER_CLOSE, Refused
from service.web.server.head_reader import HeadReader
from service.web.server.head_templates import OwnFields
from service.web.server.owner import Owner
from service.web.server.request_head import RequestHead
from service.web.server.responses import ApiResponse, bare_response

log = structlog.get_logger()

MAX_UNREAD_BYTES = 64 * 1024
"""The most bytes that are read ahead while a request waits. The socket is not read beyond that."""
MAX_AT_ONCE = 32
"""The most requests of one connection that are answered in a row, if no answer waits for Redis."""
NEW_S = 0.5
"""Seconds that a new connection is kept open for its first request when the server ends."""
LINGER_S = 2.0
"""Seconds that a refused client has to read the answer. Closing at once would reset the connection and lose it."""


class FrontDoor(asyncio.Protocol):
    """One connection.

    Args:
        owner: the server.
        clock: the loop's time, in seconds.
    """

    def __init__(self, owner: Owner, clock: Callable[[], float]) -> None:
        self._owner = owner
        self._clock = clock
        self._transport: asyncio.Transport | None = None
        self._remote: str | None = None
        self._reader: HeadReader
        self._handler: asyncio.Protocol | None = None
        """The handler of aiohttp, once it has the connection."""
        self._held: list[bytes] = []
        """The bytes of requests that are not answered. aiohttp gets them with the connection."""
        self._came, self._at = b"", 0
        """The received bytes, and how many of them were read."""
        self._unlike = b""
        """The bytes that came last, if no known head matches them: they have to be read."""
        self._unread: list[bytes] = []
        """The bytes that arrived while a request waits."""
        self._unread_bytes = 0
        self.is_busy = False
        """A request is on the hot path."""
        self._is_reading = self._is_put_off = False
        """Whether requests are being read now, and whether they will be in the next iteration of the loop."""
        self._forwarded = self._answered_by_aiohttp = 0
        """The number of heads that aiohttp got, and of requests that it has answered."""
        self._is_eof = False
        """The client sends no more."""
        self._pending: Refused | None = None
        """The refusal to send once aiohttp has answered the requests before it."""
        self.is_body_broken = False
        """The last request that aiohttp got has a malformed body. Its answer ends the connection."""
        self.is_answering = False
        """aiohttp has begun to answer the oldest request that it has not answered."""
        self._is_refused = False
        """A bare status was sent; the connection lingers."""
        self._paused_at: float | None = None
        """When the client began to read too slowly; None: it reads fast enough."""
        self._pauses_reading = False
        self._since = clock()
        """When the present wait began: for a head, or for the next request."""
        self._is_used = False
        """Whether a whole head has arrived."""

    # The transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has another base class
        peer = transport.get_extra_info("peername")
        self._remote = None if not peer else str(peer if isinstance(peer, str) else peer[0])
        self._reader = HeadReader(self._remote)
        if len(self._owner.connections) < self._owner.max_connections:
            self._owner.connections.add(self)
        else:
            self._owner.count_turned_away()
            self._send_refusal(Refused(503, "no_room"))
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone. Its requests are still processed to their end."""
        self._transport = None
        self._owner.connections.discard(self)
        if self._handler is not None:
            self._handler.connection_lost(exc)

    def eof_received(self) -> bool:
        """The client sends no more. Returns whether an answer is still to be sent; else the transport closes."""
        self._is_eof = True
        if self._handler is None:
            return self.is_busy or self._is_put_off
        self._handler.eof_received()
        return self._forwarded > self._answered_by_aiohttp and not self._reader.is_in_body

    def pause_writing(self) -> None:
        """Stop reading requests: the client does not read its answers fast enough."""
        self._paused_at = self._clock()
        transport = self._transport
        if transport is not None and not transport.is_closing() and transport.is_reading():
            transport.pause_reading()  # no more requests than it takes answers
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
        else:
            self._read_on()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self._handler is not None:
            self._forward(data)
        elif self.is_busy or self._is_put_off or self._paused_at is not None:
            self._unread.append(data)
            self._unread_bytes += len(data)
            if self._unread_bytes > MAX_UNREAD_BYTES and self._transport is not None:
                self._transport.pause_reading()
        elif not self._is_refused and (self._held or not self._enter_known(data)):
            self._came = self._unlike = data
            self._at = 0
            self._read_on()
            self._unlike = b""  # it would be kept for as long as the connection lives

    # The server's calls

    def check(self, now_s: float, *, head_s: float, idle_s: float, send_s: float) -> None:
        """Close the connection where it has waited too long: for a head, for the next request, for a reader."""
        transport = self._transport
        if transport is None or self.is_busy:
            return
        waited_s = now_s - self._since
        if self._is_refused:
            is_over = waited_s > LINGER_S
        elif self._paused_at is not None:
            is_over = now_s - self._paused_at > send_s
        elif self._pending is not None or self._reader.is_head_begun or not self._is_used:
            is_over = waited_s > head_s and transport.is_reading()  # aiohttp may have stopped that
        else:
            is_over = self._handler is None and waited_s > idle_s
        if is_over:
            transport.abort()

    def close_if_idle(self, now_s: float) -> None:
        """Close the connection unless a request on it is being received or answered, or is about to come."""
        if self._transport is None or self.is_busy or self._is_put_off or self._is_refused:
            return
        if self._paused_at is not None and now_s - self._paused_at > LINGER_S:
            self._transport.abort()  # the client does not take what it was sent
            return
        is_new = not self._is_used and now_s - self._since < NEW_S
        is_owed = self._forwarded > self._answered_by_aiohttp or self._pending is not None
        if not (is_new or is_owed or self._held or self._reader.is_head_begun):
            self._transport.close()

    def abort(self) -> None:
        """Close the connection now."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def is_last_known(self) -> bool:
        """Whether nothing was received behind the request that aiohttp answers now."""
        is_refusal_due = self._pending is not None and not self.is_body_broken
        return not is_refusal_due and self._reader.begun <= self._answered_by_aiohttp + 1

    def answered_by_aiohttp(self) -> None:
        """Take note that aiohttp has sent an answer to its end."""
        self._answered_by_aiohttp += 1
        self.is_answering = False
        if self._handler is not None and self._forwarded > self._answered_by_aiohttp:
            # aiohttp 3.14 loses count of what its parser holds when a body comes in a later packet than its head: the
            # next request would wait until the client sent more.
            self._handler.data_received(b"")
        self._end_if_answered()

    # The door

    def _read_on(self) -> None:
        """Read and answer the requests that have arrived, one after the other, until one has to wait."""
        if self._is_reading:
            return
        self._is_reading = True
        try:
            for _ in range(MAX_AT_ONCE):
                if not self._read_next():
                    return
        finally:
            self._is_reading = False
        self._is_put_off = True
        asyncio.get_running_loop().call_soon(self._read_later)

    def _read_later(self) -> None:
        self._is_put_off = False
        self._read_on()

    def _read_next(self) -> bool:
        """Read up to the end of a head, and answer, hand over or wait for more. Returns whether to go on."""
        transport = self._transport
        if self.is_busy or self._handler is not None or self._is_refused or self._paused_at is not None:
            return False
        if transport is None or transport.is_closing():
            return False
        came, at = self._came, self._at
        if at >= len(came):
            self._came, self._at = b"", 0
            if not self._unread:
                if self._is_eof:
                    transport.close()
                return False
            if self._unread_bytes > MAX_UNREAD_BYTES:
                self._resume_reading()
            came, at = b"".join(self._unread), 0
            self._came, self._unread, self._unread_bytes = came, [], 0
        # The parser does not stop behind a request, so it gets no more than that. It decides where a head ends.
        self._at = self._reader.end_of_piece(came, at)
        self._take(came if at == 0 and self._at == len(came) else came[at : self._at])
        return True

    def _take(self, data: bytes) -> None:
        """Read `data`, which no more than one head ends in."""
        is_first = not self._held
        if is_first and data is not self._unlike and self._enter_known(data):
            return
        reader = self._reader
        self._held.append(data)
        try:
            self._held[-1] = reader.read(data)
            head = reader.head
            if not reader.heads or head is None:
                if is_first:
                    self._since = self._clock()
                return  # more of the head is to come
            self._is_used = True
            is_alone = reader.begun == reader.completed == 1 and not reader.is_raw
            if is_alone and head.can_be_hot:
                heads = self._owner.known_heads if is_first and head.keep_alive else None
                if heads is not None:
                    head.is_known = heads.is_due(data, self._remote)
                if self._enter(head):
                    if heads is not None:
                        heads.learn(data, head)
                    return
            self._hand_over()
        except Refused as refused:
            self._owner.report_refused(self._remote, refused)
            self._send_refusal(refused)

    def _enter_known(self, data: bytes) -> bool:
        """Send a request that came before, or one like it, the hot path. Returns False where it is to be read."""
        heads = self._owner.known_heads
        known = heads.get(data)
        if known is not None and known.remote == self._remote:
            return self._enter(known)
        similar = heads.similar(data, self._remote)
        return similar is not None and self._enter(*similar)

    def _enter(self, head: RequestHead, own: OwnFields | None = None) -> bool:
        """Send the request the hot path. Returns False where it is no hot operation, or to be read in full."""
        self.is_busy = True
        if not self._owner.hot_path.enter(head, self._answered, own):
            self.is_busy = False
            return False
        self._is_used = True
        self._owner.count_hot()
        return True

    def _answered(self, head: RequestHead, answer: ApiResponse | None) -> None:
        """Send the answer of a request that took the hot path; None: there is none, and the log says why."""
        self.is_busy, self._since = False, self._clock()
        if self._held:
            self._held.clear()
            self._reader.forget()
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if answer is None:
            transport.close()
            return
        has_more = self._at < len(self._came) or bool(self._unread)
        is_last = not has_more and (self._is_eof or self._owner.is_closing)
        goes_on = head.keep_alive and not answer.closes and not is_last
        try:
            transport.write(answer.to_bytes(keep_alive=goes_on, has_body=head.method != "HEAD"))
        except Exception as error:  # of any kind: the connection may not be left waiting
            log.error("an answer was not sent", exc_info=error)
            goes_on = False
        if not goes_on:
            transport.close()
        elif has_more:
            self._read_on()

    def _resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

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
        """Give the connection to aiohttp, with all that is not answered.

        Raises:
            Refused: the body of the request is not well-formed, as far as it has come.
        """
        if self._transport is None:
            return
        reader = self._reader
        behind = b"".join((self._came[self._at :], *self._unread))
        while reader.is_in_body and not reader.is_raw and behind:
            end = reader.end_of_piece(behind)
            self._held.append(reader.read(behind[:end]))
            behind = behind[end:]
        if self._unread_bytes > MAX_UNREAD_BYTES:
            self._resume_reading()
        data = b"".join(self._held)
        self._held, self._unread, self._unread_bytes, self._came, self._at = [], [], 0, b"", 0
        self._since = self._clock()
        self._handler = self._owner.make_handler()
        self._handler.connection_made(self._transport)
        if self._paused_at is not None:
            self._handler.pause_writing()
        self._forwarded = reader.heads
        self._handler.data_received(data)
        self._forward(behind)

    def _forward(self, data: bytes) -> None:
        """Check the heads in what came, and give it to aiohttp, up to a request that is refused."""
        reader = self._reader
        if self._handler is None or reader.is_raw or self._pending is not None or self._is_refused:
            return
        begun = reader.begun
        data, refused = reader.read_up_to_refusal(data)
        if reader.begun > begun:
            self._since = self._clock()
        self._forwarded = reader.heads
        if data:
            self._handler.data_received(data)
        # What follows a request that asks to close is not read (RFC 9112, section 9.6).
        if refused is None or refused.reason == AFTER_CLOSE:
            return
        self._owner.report_refused(self._remote, refused)
        self._pending, self._since = refused, self._clock()
        self.is_body_broken = reader.is_in_body and self._forwarded > self._answered_by_aiohttp
        self._end_if_answered()

    def _end_if_answered(self) -> None:
        """Refuse, or close, once aiohttp has answered what came before; a broken body's request it cannot answer."""
        owed = self._forwarded - self._answered_by_aiohttp
        if self._pending is not None and owed == int(self.is_body_broken and not self.is_answering):
            if self.is_body_broken and not owed:  # it was answered all the same
                self._close()
            else:
                self._send_refusal(self._pending)
        elif owed == 0 and (self._is_eof or self._reader.is_raw):
            self._close()
