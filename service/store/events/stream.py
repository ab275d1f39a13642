"""The event stream of a tenant. Lua functions append to it, this module reads it, newest first."""

from typing import Any

from redis.asyncio import Redis

from service.core.session_lists import Event, History
from service.store.connection.calls import redis_call, run
from service.store.keyspace import keys_of

EXAMINED = 200
"""Events that a page of a user's history examines at most: about a millisecond of Redis's time."""
LINK = b"prev"
"""A field of an event that links it to another (`lua/record.lua`); not a part of what happened."""


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
    async def history(self, tenant: str, user: str, *, most: int, begin: str = "") -> History:
        """Return the latest events of one user, by their links: the cost does not depend on the stream's length."""
        keys = keys_of(tenant)
        args: list[str | int] = [user, begin, most, EXAMINED]
        oldest, following, *entries = await run(self._client, "trail", [keys.events, keys.trails], args)
        found = [event_of(entry_id, dict(zip(parts[::2], parts[1::2], strict=True))) for entry_id, parts in entries]
        reaches_back_to_ms = int(oldest.partition(b"-")[0]) if oldest else None
        return History(tuple(found), reaches_back_to_ms, following.decode() or None)


def event_of(entry_id: bytes, fields: dict[bytes, bytes]) -> Event:
    """Return the event of a stream entry."""
    text = entry_id.decode()
    return Event(
        id=text,
        at_ms=int(text.partition("-")[0]),
        fields={name.decode(): value.decode() for name, value in fields.items() if name != LINK},
    )
