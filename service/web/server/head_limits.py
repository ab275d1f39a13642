"""The limits of a request's head: sizes, versions, and fields that may not be repeated.

They hold on the hot path and on aiohttp's path. A request beyond them gets a bare status and the end of its connection,
and the log and the metric get the reason. The deadlines are in `http_server.py`.
"""

from collections import Counter
from collections.abc import Sequence

MAX_FIELDS_BYTES = 32 * 1024
"""The most bytes of all header fields of a request together, names and values."""
MAX_FIELD_BYTES = 16 * 1024
"""The most bytes of one header field, and of the request target."""
MAX_HEAD_BYTES = MAX_FIELDS_BYTES + 2 * MAX_FIELD_BYTES
"""The most bytes that are read of an incomplete head. The limits above do not count delimiters."""
AFTER_CLOSE = "after_close"
"""What comes behind a request that asks to close is not read; the log and the metrics do not have this reason."""
VERSIONS = ("1.1", "1.0")
ONCE = {b"host": "host"} | {
    name.encode(): "repeated_field"
    for name in (
        *("content-length", "content-location", "content-range", "content-type", "etag", "max-forwards", "server"),
        *("transfer-encoding", "user-agent"),
    )
}
"""Fields that a request may not repeat → the reason. Source: RFC 9112, section 3.2, and aiohttp's parser."""


class Refused(Exception):
    """The request gets a bare status, and its connection ends.

    Args:
        status: of the answer.
        reason: a fixed word for the log and the metric. It contains nothing that the client sent.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


def check_sizes(target: bytes, fields: Sequence[tuple[bytes, bytes]]) -> None:
    """Raise Refused if the target or a field is too large. The head may be incomplete."""
    if len(target) > MAX_FIELD_BYTES:
        raise Refused(400, "target_too_long")
    sizes = [len(name) + len(value) for name, value in fields]
    if sizes and (sum(sizes) > MAX_FIELDS_BYTES or max(sizes) > MAX_FIELD_BYTES):
        raise Refused(431, "fields_too_large")


def check_repeated(fields: Sequence[tuple[bytes, bytes]]) -> None:
    """Raise Refused if a field is repeated. The head may be incomplete: aiohttp refuses such a one as well."""
    times = Counter(name.lower() for name, _ in fields)
    for name, reason in ONCE.items():
        if times[name] > 1:
            raise Refused(400, reason)
