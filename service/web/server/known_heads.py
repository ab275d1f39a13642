"""Requests that came before: a client's next request is often the same, byte for byte or apart from a few fields.

If a connection is between two requests, what is parsed depends only on the bytes of the next one. So the same bytes
need not be parsed again. What follows from them, such as whose request it is, is kept with them: see
`RequestHead.judged`.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from service.web.server.head_templates import Cut, HeadTemplate, OwnFields, cut, template_of
from service.web.server.request_head import RequestHead

MAX_BYTES = 32 * 1024 * 1024
"""The most bytes that all known heads may take, roughly. The oldest are forgotten first."""
MAX_TEMPLATE_BYTES = 8 * 1024 * 1024
"""The most bytes that all templates may take."""
MAX_KEPT_BYTES = 8 * 1024
"""The most bytes of a head that is kept."""
COST, COST_PER_BYTE = 1_500, 3
"""An estimate of the memory that a head takes: bytes for its objects, and bytes for each of its own bytes."""
MAX_SEEN = 16_384
"""The most heads and templates that are remembered as seen once."""
ONE_IN = 16
"""While the memory for heads is full: of so many repeated requests that fit a template, one is kept. Keeping each would
cost more than its template does, if there are more users than heads in memory."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class KnownHeads:
    """Heads by their bytes, and templates. Each is kept when it comes for the second time: many come only once.

    A request that fits a template is not parsed when its head is kept: the template and its own fields make the head.

    Args:
        max_bytes: the most bytes that all heads may take.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._heads: _Kept[bytes, RequestHead] = _Kept(max_bytes)
        self._templates: _Kept[Hashable, HeadTemplate] = _Kept(MAX_TEMPLATE_BYTES)
        """The client's address, and the rest of a request after the cut → its template."""
        self._seen: set[int] = set()
        self._passed_over = 0
        self._last: tuple[bytes, Cut | None] = b"", None
        """The request that was cut last. One that fits no template is cut again at once, to be learned."""
        self.get = self._heads.held.get
        """Return the head that was read of these bytes; None: it is not known."""

    def __len__(self) -> int:
        return len(self._heads.held) + len(self._templates.held)

    def forget(self) -> None:
        """Forget all of them: their judgements belong to a former configuration, and keep it in memory."""
        self._heads.clear()
        self._templates.clear()
        self._seen.clear()
        self._passed_over = 0

    def similar(self, data: bytes, remote: str | None) -> tuple[RequestHead, OwnFields | None] | None:
        """Return the head of a request that fits a template, and its own fields; see `HeadTemplate`.

        If the same bytes came before, the head is a new one, and is kept: `HotPath.enter` adds the judgement to it.

        Returns:
            None: the request fits no template.
        """
        found = self._cut(data)
        template = None if found is None else self._templates.held.get((remote, *found.rest))
        if found is None or template is None:
            return None
        own = template.own(found.values)
        if self._is_first(hash(data)) or not self._is_kept_next():
            return (template.read(found.values) if own is None else template.head), own
        head = template.read(found.values)
        self._keep(data, head)
        return head, own

    def is_due(self, data: bytes, remote: str | None) -> bool:
        """Return whether a request that was read in full is going to be kept, so that it is to be judged for others."""
        if hash(data) in self._seen:
            return True
        found = self._cut(data)
        key = None if found is None else (remote, *found.rest)
        return key is not None and (hash(key) in self._seen or key in self._templates.held)

    def learn(self, data: bytes, head: RequestHead) -> None:
        """Take note of a whole request without a body that was read in full, and of what was read of it."""
        if len(data) > MAX_KEPT_BYTES:
            return
        is_first = self._is_first(hash(data))
        if not is_first:
            before = self._heads.held.get(data)
            is_first = before is not None and before.remote != head.remote  # the same bytes came from another proxy
            self._keep(data, head)
        found = self._cut(data)
        if found is None:
            return
        key = head.remote, *found.rest
        # A request that fits a template is read in full if the template is out of date: a new one replaces it.
        if key in self._templates.held or (is_first and not self._is_first(hash(key))):
            template = template_of(found, head)
            if template is not None and (head.judged is not None or not template.is_judged_alike):
                self._templates.keep(key, template, COST + COST_PER_BYTE * len(data))

    def _keep(self, data: bytes, head: RequestHead) -> None:
        head.is_known = True
        self._heads.keep(data, head, COST + COST_PER_BYTE * len(data))

    def _cut(self, data: bytes) -> Cut | None:
        last, found = self._last
        if data is not last:
            found = cut(data) if len(data) <= MAX_KEPT_BYTES else None
            self._last = data, found
        return found

    def _is_kept_next(self) -> bool:
        """Return whether the next request that came before is to be kept as it is, although it may fit a template."""
        if self._heads.is_full:
            self._passed_over = (self._passed_over + 1) % ONE_IN
        return not self._passed_over

    def _is_first(self, mark: int) -> bool:
        """Return whether this was not seen before, and take note of it."""
        seen = self._seen
        if mark in seen:
            return False
        if len(seen) >= MAX_SEEN:
            seen.clear()
        seen.add(mark)
        return True


class _Kept(Generic[K, V]):
    """Values by their keys; the oldest are forgotten first.

    Args:
        max_bytes: a bound of what all take.
    """

    def __init__(self, max_bytes: int) -> None:
        self.held: OrderedDict[K, V] = OrderedDict()  # of a plain one the first is found behind all that were deleted
        self.is_full = False
        """Some were forgotten for others."""
        self._max_bytes = max_bytes
        self._costs: dict[K, int] = {}
        self._bytes = 0

    def keep(self, key: K, value: V, cost: int) -> None:
        """Keep a value, and forget the oldest where they become too many."""
        self._bytes += cost - self._costs.get(key, 0)
        self.held[key], self._costs[key] = value, cost
        while self._bytes > self._max_bytes:
            self.is_full = True
            oldest, _ = self.held.popitem(last=False)
            self._bytes -= self._costs.pop(oldest)

    def clear(self) -> None:
        """Forget all."""
        self.held.clear()
        self._costs.clear()
        self._bytes, self.is_full = 0, False
