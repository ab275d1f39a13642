"""Requests that came before, by their bytes: a client's next request is often the same, byte for byte.

What is read of a request depends on its bytes alone, where the connection is between two requests. So these bytes need
not be parsed again; and what follows from them (whose request it is) is kept with them, see `RequestHead.judged`.
"""

from service.web.server.request_head import RequestHead

MAX_BYTES = 32 * 1024 * 1024
"""What all known heads may take, about; the oldest are forgotten first."""
MAX_HEAD_BYTES = 8 * 1024
"""A longer head is not kept."""
COST, COST_PER_BYTE = 1_500, 3
"""What a head takes beside its bytes, and for each of them: its fields are kept twice, and objects around them."""
MAX_SEEN = 16_384
"""Heads that were seen once."""


class KnownHeads:
    """Heads by their bytes. A head is kept from the second time on: many carry a number of their own, and never return.

    Args:
        max_bytes: a bound of what all of them take.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._heads: dict[bytes, RequestHead] = {}
        self._seen: set[int] = set()
        self.get = self._heads.get
        """Return the head that was read of these bytes; None: it is not known."""

    def __len__(self) -> int:
        return len(self._heads)

    def forget(self) -> None:
        """Forget all: what they came to refers to a configuration that holds no more, and keeps it in memory."""
        self._heads.clear()
        self._seen.clear()
        self._bytes = 0

    def learn(self, data: bytes, head: RequestHead) -> None:
        """Take note of a whole request without a body, and of what was read of it."""
        if len(data) > MAX_HEAD_BYTES:
            return
        seen, mark = self._seen, hash(data)
        if mark not in seen:
            if len(seen) >= MAX_SEEN:
                seen.clear()
            seen.add(mark)
            return
        if data not in self._heads:
            self._bytes += _cost(data)
        self._heads[data] = head
        head.is_known = True
        while self._bytes > self._max_bytes:
            oldest = next(iter(self._heads))
            del self._heads[oldest]
            self._bytes -= _cost(oldest)


def _cost(data: bytes) -> int:
    return COST + COST_PER_BYTE * len(data)
