"""Reads the requests of one connection by httptools (llhttp): their heads, and where each ends.

The reader refuses what is not HTTP, and what exceeds the limits (`head_limits.py`). It keeps no body.
"""

import httptools
from multidict import istr

from service.web.server.head_limits import AFTER_CLOSE, MAX_HEAD_BYTES, Refused, check_repeated, check_sizes
from service.web.server.request_head import RequestHead

_CONTENT_LENGTH = istr("content-length")
_END = b"\r\n\r\n"
_REASONS: dict[type[Exception], str] = {
    httptools.HttpParserInvalidMethodError: "method",
    httptools.HttpParserInvalidURLError: "target",
}


class HeadReader:
    """The requests of one connection, as they come.

    Args:
        remote: the client's address; None: it is not known.
    """

    def __init__(self, remote: str | None) -> None:
        self._remote = remote
        self._parser = httptools.HttpRequestParser(self)
        self.head: RequestHead | None = None
        """The head that was read last."""
        self.begun = self.heads = self.completed = 0
        """The number of requests since `forget`: begun, with a complete head, and complete."""
        self.is_head_begun = False
        """Whether a part of a head has arrived."""
        self._refused: Refused | None = None
        """Why the parser was stopped."""
        self.is_raw = False
        """The client asks for another protocol. The service speaks none, so it does not read what follows."""
        self._pieces: list[bytes] = []
        """The packets that may contain the request line of the present head."""
        self._head_bytes = 0
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._tail = b""
        """The last bytes of the head or the body that is being read."""
        self._body_left: int | None = None
        """Bytes of the body that are to come; None: its chunks say where it ends."""

    @property
    def is_in_body(self) -> bool:
        """Whether the body of a request is not whole."""
        return self.completed < self.heads

    def forget(self) -> None:
        """Reset the counts: every request is answered."""
        self.begun = self.heads = self.completed = 0
        self.head = None
        self._pieces, self._head_bytes = [], 0
        self._target, self._fields, self._tail = b"", [], b""

    def end_of_piece(self, data: bytes, at: int = 0) -> int:
        """Return where the next piece of `data` ends: behind a head or a body at the latest."""
        if self._body_left and self.is_in_body:
            return min(at + self._body_left, len(data))
        # The end of a head, or of chunks with their trailer fields; it may have begun in the packet before.
        if self._tail:
            for length in (3, 2, 1):
                if self._tail.endswith(_END[:length]) and data.startswith(_END[length:], at):
                    return at + len(_END) - length
        end = data.find(_END, at) + len(_END)
        return end if end >= len(_END) else len(data)

    def read_up_to_refusal(self, data: bytes) -> tuple[bytes, Refused | None]:
        """Read what came next piece by piece. Return what of it is HTTP, and why the rest is refused, if it is."""
        taken, at = [], 0
        try:
            while at < len(data) and not self.is_raw:
                end = self.end_of_piece(data, at)
                taken.append(self.read(data[at:end]))
                at = end
        except Refused as refused:
            return b"".join(taken), refused
        return b"".join(taken), None

    def read(self, data: bytes) -> bytes:
        """Read the next bytes, and return those that are HTTP.

        Raises:
            Refused: they are malformed, or exceed a limit.
        """
        if self.begun and not self.is_head_begun:
            self._pieces, self._head_bytes = [], 0
        self._pieces.append(data)
        was_in_body, heads = self.completed < self.heads, self.heads
        data = self._parse(data)
        if was_in_body or self.heads > heads:
            # The packet may hold the end of a body, or whole requests, before the head that it leaves incomplete.
            self._head_bytes = 0
        else:
            self._head_bytes += len(data)
        if self.is_head_begun or self.is_in_body:
            self._tail = (self._tail + data[-3:])[-3:]
        elif self._tail:
            self._tail = b""
        if self.is_head_begun or not self.begun:
            if self._head_bytes > MAX_HEAD_BYTES:
                raise Refused(431, "fields_too_large")
            check_sizes(self._target, self._fields)
            check_repeated(self._fields)
        return data

    def _parse(self, data: bytes) -> bytes:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            self.is_raw = True
            return data[: error.args[0]]
        except httptools.HttpParserCallbackError as error:
            # Not `error.__context__`: that is the error being handled, such as that of an earlier request.
            if self._refused is not None:
                raise self._refused from None
            raise error
        except httptools.HttpParserError as error:
            head = self.head
            if head is not None and self.begun == self.completed and not head.keep_alive:
                raise Refused(400, AFTER_CLOSE) from None
            # "Invalid": two numbers, of which llhttp knows 0.9, 1.0, 1.1 and 2.0. 2.0 is also that of HTTP/2's preface.
            if "Invalid HTTP version" in str(error) or self._parser.get_http_version() == "2.0":
                raise Refused(505, "version") from None
            raise Refused(400, _REASONS.get(type(error), "syntax")) from None
        return data

    # The parser's calls

    def on_message_begin(self) -> None:
        """A request begins."""
        self.begun += 1
        self.is_head_begun = True
        self._target, self._fields = b"", []

    def on_url(self, url: bytes) -> None:
        """Take a part of the request target: one that comes in two packets comes in two calls."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header field, or a trailer field, which aiohttp drops."""
        self._fields.append((name, value))
        if not self.is_head_begun:
            try:
                check_sizes(b"", self._fields)
            except Refused as refused:
                self._refused = refused
                raise

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self.is_head_begun = False
        received = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        try:
            self.head = RequestHead(self._parser, self._target, self._fields, received, self._remote)
        except Refused as refused:
            self._refused = refused
            raise
        self.heads += 1
        length = self.head.headers.get(_CONTENT_LENGTH)
        self._body_left = None if length is None else int(length)

    def on_body(self, part: bytes) -> None:
        """Take note that a part of the body has come."""
        if self._body_left is not None:
            self._body_left -= len(part)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self.completed += 1
