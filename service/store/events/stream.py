"""The event stream of a tenant. Lua functions append to it, this module reads it, newest first."""

from typing import Any

from redis.asyncio import Redis

from service.core.session_lists import Event, History
from service.store.connection.calls import redis_call
from service.store.keyspace import keys_of

CHUNK = 100
"""Entries that a search reads at once: what the worker and Redis do at a time stays below a millisecond, and admissions
are answered in between.
"""


class Events:
    """The event streams in Redis."""

    def __init__(self, client: Redis) -> None:
        self._client: Any = client  # redis-py's answers are typed as a union over all its modes

    @redis_call
    async def latest(self, tenant: str, *, most: int) -> list[Event]:
        """Return the latest events, newest first."""
        entries = await self._client.xrevrange(keys_of(tenant).events, count=most)
        return [event_of(entry_id, fields) for entry_id, fields in entries]

    @redis_call
    async def history(self, tenant: str, user: str, *, most: int) -> History:
        """Return the latest events of one user, from the tenant's stream."""
        found: list[Event] = []
        newest, oldest, name = "+", None, user.encode()
        while len(found) < most:
            entries = await self._client.xrevrange(keys_of(tenant).events, max=newest, count=CHUNK)
            mine = [event_of(entry_id, fields) for entry_id, fields in entries if fields.get(b"user") == name]
            found += mine[: most - len(found)]
            if entries:
                last = entries[-1][0].decode()
                oldest, newest = int(last.partition("-")[0]), f"({last}"
            if len(entries) < CHUNK:
                break
        return History(tuple(found), oldest)


def event_of(entry_id: bytes, fields: dict[bytes, bytes]) -> Event:
    """Return the event of a stream entry."""
    text = entry_id.decode()
    return Event(
        id=text,
        at_ms=int(text.partition("-")[0]),
        fields={name.decode(): value.decode() for name, value in fields.items()},
    )
