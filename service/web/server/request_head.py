"""The head of a request as the front door reads it.

llhttp (by httptools) parses. It accepts more than HTTP allows and more than the service answers: `RequestHead` refuses
the rest. Source: RFC 9110, RFC 9112.
"""

import re
from collections.abc import Collection, Iterable, Sequence

import httptools
from aiohttp import web
from multidict import CIMultiDict, MultiMapping, istr
from yarl import URL

from service.web.server.head_limits import MAX_FIELD_BYTES, VERSIONS, Refused, check_repeated, check_sizes

_HOST, _EXPECT = istr("host"), istr("expect")
_SEC_WEBSOCKET_KEY1 = istr("sec-websocket-key1")
_CONTENT_LENGTH, _TRANSFER_ENCODING = istr("content-length"), istr("transfer-encoding")
_PLAIN = frozenset({_EXPECT, _SEC_WEBSOCKET_KEY1, _CONTENT_LENGTH, _TRANSFER_ENCODING})
"""A request without any of these has no body, and needs no further look."""


class RequestHead:
    """One request: what the steps of an admission read of it, by the names that aiohttp's `web.Request` gives them.

    Args:
        parser: which has read the head to its end.
        target: the request target.
        fields: names and values, as they came.
        received: bytes that hold the request line.
        remote: the client's address; None: it is not known.

    Raises:
        Refused: it is not HTTP/1.0 or 1.1, not well-formed by RFC 9112, or too large.
    """

    __slots__ = (
        "can_be_hot",
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

    def __init__(
        self,
        parser: httptools.HttpRequestParser,
        target: bytes,
        fields: Sequence[tuple[bytes, bytes]],
        received: bytes,
        remote: str | None,
    ) -> None:
        if len(received) > MAX_FIELD_BYTES:  # otherwise none of it can be too large
            check_sizes(target, fields)
        self.remote = remote
        self.version: str = parser.get_http_version()
        self.method: str = parser.get_method().decode("ascii")
        self.keep_alive: bool = parser.should_keep_alive()
        # llhttp keeps the white space behind a value, which is not part of it (RFC 9112, section 5).
        self.headers: MultiMapping[str] = CIMultiDict(
            [
                (_NAMES.get(name) or _learn(name), value.strip(b" \t").decode("utf-8", "surrogateescape"))
                for name, value in fields
            ]
        )
        headers = self.headers
        self.is_known = False
        """Further requests of the same bytes get this very head."""
        self.judged: object = None
        """What the last of them came to; whoever judges it keeps it here."""
        if self.version not in VERSIONS:
            raise Refused(505, "version")
        if b" RTSP/" in received or b" ICE/" in received:
            self._check_protocol(target, received)
        if _HOST not in headers and self.version == "1.1":
            raise Refused(400, "host")
        if self.version == "1.0" and _TRANSFER_ENCODING in headers:  # where it ends is unclear (RFC 9112, section 6.1)
            raise Refused(400, "syntax")
        if len(headers) != len(headers.keys()):
            check_repeated(fields)
        self.can_be_hot = self.version == "1.1" and (_PLAIN.isdisjoint(headers) or self._is_plain())
        """Whether the head alone is the request, and asks for nothing but its answer."""
        self._read_target(target)

    def without(self, names: Collection[str]) -> "RequestHead":
        """Return a copy without some fields, named in lower case; what was judged is kept."""
        fields = [(name, value) for name, value in self.headers.items() if name.lower() not in names]
        return self._copy(CIMultiDict(fields), self.judged)

    def with_fields(self, fields: Iterable[tuple[str, str]]) -> "RequestHead":
        """Return a copy with more fields, not judged yet."""
        headers = CIMultiDict(self.headers)
        headers.extend(fields)
        return self._copy(headers, None)

    def _copy(self, headers: MultiMapping[str], judged: object) -> "RequestHead":
        head = RequestHead.__new__(RequestHead)
        head.remote, head.version, head.method = self.remote, self.version, self.method
        head.raw_path, head.path = self.raw_path, self.path
        head.keep_alive, head.can_be_hot = self.keep_alive, self.can_be_hot
        head.headers, head.is_known, head.judged = headers, False, judged
        return head

    def _is_plain(self) -> bool:
        """Check the fields that few requests have. Returns whether the request has no body.

        Without one nothing can be continued: no `100 Continue` is needed (RFC 9110, section 10.1.1).
        """
        headers = self.headers
        if _SEC_WEBSOCKET_KEY1 in headers:  # of a protocol before RFC 6455; aiohttp refuses it
            raise Refused(400, "obsolete_field")
        if _EXPECT in headers and headers[_EXPECT].lower() != "100-continue":
            raise Refused(417, "expectation")
        return headers.get(_CONTENT_LENGTH, "0") == "0" and _TRANSFER_ENCODING not in headers

    def _check_protocol(self, target: bytes, received: bytes) -> None:
        """Refuse RTSP and ICE, which llhttp takes as well. It does not report the protocol's name."""
        line = re.escape(self.method.encode()) + b" +" + re.escape(target) + b" +(?:RTSP|ICE)/"
        if re.search(line, received):
            raise Refused(400, "protocol")

    def _read_target(self, target: bytes) -> None:
        self.raw_path = target.decode("utf-8", "surrogateescape")
        self.path = self.raw_path.partition("?")[0]
        if target[:1] == b"/":
            return
        if not target or (target == b"*" and self.method != "OPTIONS"):
            raise Refused(400, "target")
        if target == b"*":
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


def _learn(name: bytes) -> istr:
    """Return a field's name as text in lower case, and keep it; so that only a few bytes are hashed for the next."""
    text = istr(name.decode("latin-1").lower())
    if len(_NAMES) < MAX_NAMES and len(name) <= MAX_NAME_BYTES:
        _NAMES[name] = text
    return text


_NAMES: dict[bytes, istr] = {}
MAX_NAMES, MAX_NAME_BYTES = 1024, 64
"""Names that are kept, and the longest of them: most requests have the same few."""

AnyRequest = web.Request | RequestHead
"""What the steps of an admission read: the same names in both."""
