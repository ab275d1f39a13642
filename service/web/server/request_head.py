"""The head of a request as the front door reads it, and what the door refuses to read.

llhttp (by httptools) parses. It takes more than HTTP allows and more than the service answers. What is refused here
gets a bare status, the end of the connection, and a word in the log and the metric. Source: RFC 9110, RFC 9112.
"""

import re

import httptools
from aiohttp import web
from multidict import CIMultiDict, MultiMapping, istr
from yarl import URL

MAX_FIELDS_BYTES = 32 * 1024
"""All header fields of a request together, names and values."""
MAX_FIELD_BYTES = 16 * 1024
"""One header field, and the request target."""
MAX_HEAD_BYTES = MAX_FIELDS_BYTES + 2 * MAX_FIELD_BYTES
"""A head that is still incomplete after so many bytes is not read on: delimiters are not counted above."""
AFTER_CLOSE = "after_close"
"""The reason to refuse what is in one packet with a request that asks to close, behind it."""
VERSIONS = ("1.1", "1.0")

_HOST, _EXPECT = istr("host"), istr("expect")
_SEC_WEBSOCKET_KEY1 = istr("sec-websocket-key1")
_CONTENT_LENGTH, _TRANSFER_ENCODING = istr("content-length"), istr("transfer-encoding")
ONCE = {_HOST: "host"} | {
    istr(name): "repeated_field"
    for name in (
        *("content-length", "content-location", "content-range", "content-type", "etag", "max-forwards", "server"),
        *("transfer-encoding", "user-agent"),
    )
}
"""Fields that one request may not repeat, and the reason to give: RFC 9112, section 3.2, and what aiohttp refuses."""


class Refused(Exception):
    """The request is answered with a bare status, and the connection ends.

    Args:
        status: of the answer.
        reason: a fixed word for the log and the metric; nothing of what the client sent.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class RequestHead:
    """One request: what the steps of an admission read of it, by the names that aiohttp's `web.Request` gives them."""

    __slots__ = (
        "_fields",
        "_size",
        "_target",
        "headers",
        "is_known",
        "judged",
        "keep_alive",
        "method",
        "path",
        "raw_path",
        "remote",
        "version",
    )

    headers: MultiMapping[str]
    is_known: bool
    """Further requests of the same bytes get this very head."""
    judged: object
    """What the last of them came to; whoever judges it keeps it here."""
    keep_alive: bool
    method: str
    path: str
    raw_path: str
    version: str

    def __init__(self, remote: str | None) -> None:
        self.remote = remote
        self.is_known = False
        self.judged = None
        self._target = b""
        self._size = 0
        self._fields: list[tuple[str, str]] = []

    def add_target(self, piece: bytes) -> None:
        """Take a part of the request target: one that comes in two packets comes in two calls."""
        self._target += piece
        if len(self._target) > MAX_FIELD_BYTES:
            raise Refused(400, "target_too_long")

    def add_field(self, name: bytes, value: bytes) -> None:
        """Take a header field."""
        size = len(name) + len(value)
        self._size += size
        if size > MAX_FIELD_BYTES or self._size > MAX_FIELDS_BYTES:
            raise Refused(431, "fields_too_large")
        # llhttp keeps the white space behind a value, which is not part of it (RFC 9112, section 5).
        self._fields.append((name.decode("latin-1"), value.strip(b" \t").decode("utf-8", "surrogateescape")))

    def complete(self, parser: httptools.HttpRequestParser, received: bytes) -> None:
        """Read what the parser knows once the head is whole.

        Args:
            parser: which read it.
            received: bytes that hold the request line.

        Raises:
            Refused: it is not HTTP/1.0 or 1.1, or not well-formed by RFC 9112.
        """
        self.version = parser.get_http_version()
        self.method = parser.get_method().decode("ascii")
        self.keep_alive = parser.should_keep_alive()
        self.headers = headers = CIMultiDict(self._fields)
        if self.version not in VERSIONS:
            raise Refused(505, "version")
        if b" RTSP/" in received or b" ICE/" in received:
            self._check_protocol(received)
        if _HOST not in headers and self.version == "1.1":
            raise Refused(400, "host")
        if len(headers) != len(headers.keys()):
            self.check_repeated()
        if _SEC_WEBSOCKET_KEY1 in headers:  # of a protocol before RFC 6455; aiohttp refuses it
            raise Refused(400, "obsolete_field")
        if _EXPECT in headers and headers[_EXPECT].lower() != "100-continue":
            raise Refused(417, "expectation")
        self._read_target()

    def check_repeated(self) -> None:
        """Refuse a field that is repeated. aiohttp refuses it before the head is whole, so that may not wait."""
        headers = CIMultiDict(self._fields)
        for name, reason in ONCE.items():
            if len(headers.getall(name, ())) > 1:
                raise Refused(400, reason)

    def _check_protocol(self, received: bytes) -> None:
        """Refuse RTSP and ICE, which llhttp takes as well. It does not tell the protocol's name."""
        line = re.escape(self.method.encode()) + b" +" + re.escape(self._target) + b" +(?:RTSP|ICE)/"
        if re.search(line, received):
            raise Refused(400, "protocol")

    def _read_target(self) -> None:
        target = self._target
        if not target or (target == b"*" and self.method != "OPTIONS"):
            raise Refused(400, "target")
        self.raw_path = target.decode("utf-8", "surrogateescape")
        self.path = self.raw_path.partition("?")[0]
        if target[:1] == b"/" or target == b"*":
            return
        try:  # what aiohttp cannot read it would repeat in its answer
            is_authority = self.method == "CONNECT"
            url = URL.build(authority=self.raw_path, encoded=True) if is_authority else URL(self.raw_path, encoded=True)
            has_host = url.raw_host is not None and (is_authority or "://" in self.raw_path)
            _ = url.port  # read when it is asked for
        except ValueError:
            has_host = False
        if not has_host:
            raise Refused(400, "target")

    @property
    def can_be_hot(self) -> bool:
        """Whether the head alone is the request, and asks for nothing but its answer."""
        headers = self.headers
        return (
            self.version == "1.1"
            and headers.get(_CONTENT_LENGTH, "0") == "0"
            and _TRANSFER_ENCODING not in headers
            and _EXPECT not in headers
        )


AnyRequest = web.Request | RequestHead
"""What the steps of an admission read: the same names in both."""
