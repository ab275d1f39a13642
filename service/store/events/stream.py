"""The event stream of a tenant. Lua functions append to it, this module reads it, newest first."""

from typing import Any

from redis.asyncio import Redis

from service.core.session_lists import Event, History
from service.store.connection.calls import redis_call
from service.store.keyspace import keys_of

_CHUNK = 1000


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
        newest, oldest = "+", None
        while len(found) < most:
            entries = await self._client.xrevrange(keys_of(tenant).events, max=newest, count=_CHUNK)
            for entry_id, fields in entries:
                event = event_of(entry_id, fields)
                oldest = event.at_ms
                if event.fields.get("user") == user and len(found) < most:
                    found.append(event)
            if len(entries) < _CHUNK:
                break
            newest = f"({entries[-1][0].decode()}"
        return History(tuple(found), oldest)


def event_of(entry_id: bytes, fields: dict[bytes, bytes]) -> Event:
    """Return the event of a stream entry."""
    text = entry_id.decode()
    return Event(
        id=text,
        at_ms=int(text.partition("-")[0]),
        fields={name.decode(): value.decode() for name, value in fields.items()},
    )
