"""Reading and listing sessions, and what an operator does to one.

A page is cut from the sorted sets of the statuses, newest first, by a cursor (last seen, user): it costs
the same at a thousand and at ten million users, and stays right while sessions change. Nothing scans.
"""

import heapq
from collections.abc import AsyncIterator, Sequence
from typing import Any

from redis.asyncio import Redis

from service.core.listing import Act, Cursor, Page
from service.core.sessions import RECORDED, Cause, Refusal, Session, Status
from service.store.keyspace import PUSHES, keys_of
from service.store.reach import reaching, run
from service.store.scripts import LETTERS, STATUSES, parse_record

PREFIX_REACH = 10_000
"""A prefix is looked for among this many newest sessions."""
_CHUNK = 1000


class Sessions:
    """The sessions in Redis."""

    def __init__(self, client: Redis) -> None:
        self._client: Any = client  # redis-py's answers are typed as a union over all its modes

    @reaching
    async def get(self, tenant: str, user: str) -> Session | None:
        """The session of exactly this user."""
        return parse_record(user, await self._client.get(keys_of(tenant).user(user)) or b"")

    @reaching
    async def counts(self, tenants: Sequence[str]) -> dict[str, dict[Status, int]]:
        """How many users each tenant has in each status."""
        pipeline = self._client.pipeline(transaction=False)
        for tenant in tenants:
            for key in keys_of(tenant).by_status.values():
                pipeline.zcard(key)
        numbers = iter(await pipeline.execute())
        return {tenant: {status: next(numbers) for status in RECORDED} for tenant in tenants}

    @reaching
    async def page(
        self,
        tenant: str,
        *,
        statuses: Sequence[Status] = RECORDED,
        prefix: str = "",
        after: Cursor | None = None,
        size: int = 50,
    ) -> Page:
        """A page of sessions by last seen, newest first; with a prefix, among the newest 10,000."""
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

    @reaching
    async def act(
        self,
        tenant: str,
        user: str,
        cause: Cause,
        *,
        by: str,
        client: str = "",
        request_id: str = "",
        reason: str = "",
    ) -> Act:
        """Do what an operator asks, where the table of transitions allows it; tell it as one event."""
        keys = keys_of(tenant)
        before, after, record = await run(
            self._client,
            "act",
            [keys.user(user), *keys.shared],
            [cause.value, user, by, client, request_id, reason],
        )
        letter = after.decode()
        outcome = STATUSES[letter] if letter in LETTERS.values() else Refusal(letter)
        return Act(STATUSES[before.decode()], outcome, parse_record(user, record))

    @reaching
    async def restrict(self, tenant: str, user: str | None, capability: str, *, until_ms: int | None = None) -> bool:
        """Restrict a user (None: the whole tenant) from `capability`, for good or until a moment.

        Returns whether that changed anything. It holds for the very next request.
        """
        return await self._restriction(tenant, user, capability, until_ms or 0)

    @reaching
    async def unrestrict(self, tenant: str, user: str | None, capability: str) -> bool:
        """Lift a restriction. Returns whether there was one."""
        return await self._restriction(tenant, user, capability, -1)

    @reaching
    async def reset_limit(self, tenant: str, limit: str, subject: str) -> bool:
        """Give a subject of a limit its whole quota back, on every worker. Returns whether any was used.

        Args:
            tenant: whose limit it is.
            limit: its name.
            subject: the client's address as limits count it, the user, or `-` for a limit per tenant.
        """
        return bool(await run(self._client, "reset", [keys_of(tenant).window(limit, subject)], [PUSHES, tenant]))

    async def _restriction(self, tenant: str, user: str | None, capability: str, until_ms: int) -> bool:
        keys = keys_of(tenant)
        at = [keys.restrictions] if user is None else [keys.restrictions, keys.user_restrictions(user)]
        return bool(await run(self._client, "restrict", at, [capability, until_ms]))

    async def _newest(
        self, tenant: str, statuses: Sequence[Status], after: Cursor | None, chunk: int
    ) -> AsyncIterator[Cursor]:
        """All sessions of these statuses, newest first: a lazy merge of their sorted sets."""
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
            following = await anext(streams[number], None)
            if following is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (-following.seen_ms, _Backwards(following.user), number, following))

    async def _indexed(self, tenant: str, status: Status, after: Cursor | None, chunk: int) -> AsyncIterator[Cursor]:
        """One status's sessions, newest first, read in chunks; users of one millisecond by name, last first."""
        key = keys_of(tenant).by_status[status]
        while True:
            top = "+inf" if after is None else after.seen_ms
            offset = 0
            entries: list[Cursor] = []
            # Those of the cursor's own millisecond were partly told already: skip them, however many.
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
        sessions = (parse_record(user, raw or b"") for user, raw in zip(users, records, strict=True))
        return tuple(session for session in sessions if session is not None)


class _Backwards:
    """Orders users as ZREVRANGE does within one score: bytes, last first."""

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
