"""Reading and listing of sessions.

A page is cut from the sorted sets of the statuses, newest first, by a cursor (last seen, user): it costs
the same at a thousand and at ten million users, and stays right while sessions change. A walk over all users follows
the order of an index (ZSCAN), and a search for a prefix is such a walk: each page examines a bounded number of users.
"""

import heapq
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis

from service.core.session_lists import Cursor, Page, WalkCursor
from service.core.sessions import RECORDED, Session, Status
from service.store.connection.calls import redis_call
from service.store.keyspace import keys_of, literally
from service.store.scripts import parse_record

SEARCHED = 1000
"""About how many users one page searches for a prefix."""
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
        after: Cursor | None = None,
        size: int = 50,
    ) -> Page:
        """Return a page of sessions by last seen, newest first."""
        found: list[Cursor] = []
        async for entry in self._newest(tenant, statuses, after, size + 1):
            found.append(entry)
            if len(found) > size:
                break
        shown = found[:size]
        sessions = await self._records(tenant, [entry.user for entry in shown])
        return Page(sessions, shown[-1] if len(found) > size else None)

    @redis_call
    async def walk_page(
        self,
        tenant: str,
        *,
        statuses: Sequence[Status] = RECORDED,
        prefix: str = "",
        after: WalkCursor | None = None,
        size: int = 50,
    ) -> Page:
        """Return a page of a walk over all users, or over those with a prefix, in the order of an index."""
        keys = keys_of(tenant)
        # Every user is in `expiring`, whatever its status becomes. Who keeps a status is in the index of that status.
        index = keys.by_status[statuses[0]] if len(statuses) == 1 else keys.expiring
        begins = after or WalkCursor(0)
        match = f"{literally(prefix)}*" if prefix else None
        # Redis returns about so many, or a small index as a whole. The last attempt is one bucket of its table.
        for count in (SEARCHED if prefix else size, size, 1):
            following, entries = await self._client.zscan(index, begins.scan, match=match, count=count)
            users = sorted({user.decode() for user, _ in entries})
            is_whole = begins.scan == 0 and int(following) == 0
            if is_whole or len(users) <= size:
                break
        onward = WalkCursor(int(following)) if int(following) else None
        if is_whole:
            users = [user for user in users if user > begins.user or not begins.user]
            onward = WalkCursor(0, users[size - 1]) if len(users) > size else None
            users = users[:size]
        examined = min(SEARCHED, await self._client.zcard(index)) if prefix else None
        sessions = await self._records(tenant, users)
        return Page(tuple(one for one in sessions if one.status in statuses), onward, examined)

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
