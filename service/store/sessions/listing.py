"""Reading and listing of sessions.

A page is cut from the sorted sets of the statuses, newest first, by a cursor (last seen, user): it costs
the same at a thousand and at ten million users, and stays right while sessions change. Nothing scans.
"""

import heapq
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis

from service.core.session_lists import Cursor, Page
from service.core.sessions import RECORDED, Session, Status
from service.store.connection.calls import redis_call
from service.store.keyspace import keys_of
from service.store.scripts import parse_record

PREFIX_REACH = 10_000
"""How many of the newest sessions are searched for a prefix."""
_CHUNK = 1000


class Sessions:
    """The sessions in Redis."""

    def __init__(self, client: Redis) -> None:
        self._client: Any = client  # redis-py's answers are typed as a union over all its modes

    @redis_call
    async def get(self, tenant: str, user: str) -> Session | None:
        """Return the session of exactly this user."""
        return parse_record(user, await self._client.get(keys_of(tenant).user(user)) or b"")

    @redis_call
    async def counts(self, tenants: Sequence[str]) -> dict[str, dict[Status, int]]:
        """Return how many users each tenant has in each status."""
        pipeline = self._client.pipeline(transaction=False)
        for tenant in tenants:
            for key in keys_of(tenant).by_status.values():
                pipeline.zcard(key)
        numbers = iter(await pipeline.execute())
        return {tenant: {status: next(numbers) for status in RECORDED} for tenant in tenants}

    @redis_call
    async def page(
        self,
        tenant: str,
        *,
        statuses: Sequence[Status] = RECORDED,
        prefix: str = "",
        after: Cursor | None = None,
        size: int = 50,
    ) -> Page:
        """Return a page of sessions by last seen, newest first; with a prefix, among the newest 10,000."""
        found: list[Cursor] = []
        examined = 0
        async for entry in self._newest(tenant, statuses, None if prefix else after, size + 1):
            examined += 1
            if entry.user.startswith(prefix) and (after is None or not prefix or _is_after(entry, after)):
                found.append(entry)
            if len(found) > size or (prefix and examined >= PREFIX_REACH):
                break
        shown = found[:size]
        return Page(
            sessions=await self._records(tenant, [entry.user for entry in shown]),
            after=shown[-1] if len(found) > size else None,
            examined=examined if prefix else None,
        )

    @redis_call
    async def walk(self, tenant: str, status: str, position: int, *, size: int) -> tuple[list[str], int]:
        """Return some users of a status, and where the walk goes on (0: it is complete)."""
        index = keys_of(tenant).by_status[Status(status)]
        following, found = await self._client.zscan(index, position, count=size)
        return list(dict.fromkeys(user.decode() for user, _ in found)), int(following)

    async def _newest(
        self, tenant: str, statuses: Sequence[Status], after: Cursor | None, chunk: int
    ) -> AsyncIterator[Cursor]:
        """Yield all sessions of these statuses, newest first: a lazy merge of their sorted sets."""
        streams = [self._indexed(tenant, status, after, min(chunk, _CHUNK)) for status in statuses]
        heads: list[tuple[int, _Backwards, int, Cursor]] = []
        for number, stream in enumerate(streams):
            async for entry in stream:
                heads.append((-entry.seen_ms, _Backwards(entry.user), number, entry))
                break
        heapq.heapify(heads)
        while heads:
            *_, number, entry = heads[0]
            yield entry
            subscription = await anext(streams[number], None)
            if subscription is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (-subscription.seen_ms, _Backwards(subscription.user), number, subscription))

    async def _indexed(self, tenant: str, status: Status, after: Cursor | None, chunk: int) -> AsyncIterator[Cursor]:
        """Yield the sessions of one status, newest first, in chunks; users of one millisecond by name, last first."""
        key = keys_of(tenant).by_status[status]
        while True:
            top = "+inf" if after is None else after.seen_ms
            offset = 0
            entries: list[Cursor] = []
            # Some of the cursor's own millisecond were on the page before: skip them, however many.
            while not entries:
                raw = await self._client.zrevrangebyscore(key, top, "-inf", offset, chunk, withscores=True)
                if not raw:
                    return
                entries = [Cursor(int(score), user.decode()) for user, score in raw]
                entries = [entry for entry in entries if after is None or _is_after(entry, after)]
                offset += len(raw)
            for entry in entries:
                yield entry
            after = entries[-1]
            chunk = _CHUNK

    async def _records(self, tenant: str, users: Sequence[str]) -> tuple[Session, ...]:
        if not users:
            return ()
        keys = keys_of(tenant)
        records = await self._client.mget([keys.user(user) for user in users])
        sessions = []
        for user, raw in zip(users, records, strict=True):
            with suppress(KeyError, ValueError):  # a record that the service did not write does not hide the others
                sessions.append(parse_record(user, raw or b""))
        return tuple(session for session in sessions if session is not None)


class _Backwards:
    """Orders users as ZREVRANGE does within one score: by bytes, last first."""

    __slots__ = ("raw",)

    def __init__(self, user: str) -> None:
        self.raw = user.encode()

    def __lt__(self, other: "_Backwards") -> bool:
        return self.raw > other.raw

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Backwards) and self.raw == other.raw

    __hash__ = None  # type: ignore[assignment]  # compared, never a key


def _is_after(entry: Cursor, cursor: Cursor) -> bool:
    return (entry.seen_ms, entry.user.encode()) < (cursor.seen_ms, cursor.user.encode())
