"""What happens, as it happens: one reader of Redis for each worker, however many listen.

A script that appends to a tenant's stream publishes the tenant's name. The reader is woken by that, fetches what is
new of the tenants that somebody listens to, once, and hands it to each listener's queue. A push that is lost is made
up for within a second. Nothing is missed across a reconnect: a listener says which event it saw last, reads on from
there by itself, and joins the others.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.core.listing import Event, Gap
from service.core.tasks import end
from service.store.events import event_of
from service.store.keyspace import NEWS, keys_of
from service.store.reach import reaching

log = structlog.get_logger()

MOST_WAITING = 1000
"""Events that a listener may be behind; whoever is slower is dropped, and told."""
POLL_EVERY_S = 1.0
"""Tenants that are listened to are looked at so often even without a push."""
AGAIN_S = 0.5
_CHUNK = 500
_BEGINNING = "0-0"


class Listener:
    """One who listens to a tenant: what there is to tell it, in order."""

    def __init__(self, last: str | None) -> None:
        self.last = last
        """The last event that it was told of."""
        self.dropped = False
        self._waiting: asyncio.Queue[Event | None] = asyncio.Queue()

    def hear(self, event: Event) -> None:
        """Keep it until it is asked for."""
        if self._waiting.qsize() >= MOST_WAITING:
            self.dropped = True
            self.end()
        elif not self.dropped:
            self._waiting.put_nowait(event)

    def end(self) -> None:
        """Tell no more."""
        self._waiting.put_nowait(None)

    async def next(self) -> Event | None:
        """The next event that it was not told of; None: there will be none."""
        while (event := await self._waiting.get()) is not None and not self.dropped:
            if self.last is None or _order(event.id) > _order(self.last):
                self.last = event.id
                return event
        return None


class Following:
    """What one listener is told, until it is ended."""

    def __init__(self, listener: Listener, items: AsyncIterator[Event | Gap]) -> None:
        self.since = listener.last or _BEGINNING
        """The event that it begins after."""
        self.end = listener.end
        self._items = items

    def __aiter__(self) -> AsyncIterator[Event | Gap]:
        return self._items


class News:
    """The streams that somebody listens to.

    Args:
        client: a redis-py client.
    """

    def __init__(self, client: Redis) -> None:
        self._client: Any = client  # redis-py's answers are typed as a union over all its modes
        self._listeners: dict[str, set[Listener]] = {}
        self._read_to: dict[str, str] = {}
        self._grown: set[str] = set()
        self._woken = asyncio.Event()

    @asynccontextmanager
    async def follow(self, tenant: str, after: str | None) -> AsyncIterator["Following"]:
        """What happens from now on, or from after an event; what was lost meanwhile is told as a gap.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        if tenant not in self._listeners:
            self._read_to[tenant] = await self._newest(tenant)
        listener = Listener(after if after is not None else self._read_to[tenant])
        self._listeners.setdefault(tenant, set()).add(listener)
        self._woken.set()
        try:
            yield Following(listener, self._tell(tenant, listener, catch_up=after is not None))
        finally:
            self._listeners[tenant].discard(listener)
            if not self._listeners[tenant]:
                del self._listeners[tenant], self._read_to[tenant]

    async def _tell(self, tenant: str, listener: Listener, *, catch_up: bool) -> AsyncIterator[Event | Gap]:
        if catch_up and listener.last is not None:
            if gap := await self._gap(tenant, listener.last):
                yield gap
            while events := await self._after(tenant, listener.last):
                for event in events:
                    listener.last = event.id
                    yield event
        while (live := await listener.next()) is not None:
            yield live
        if listener.dropped:
            yield Gap(listener.last, dropped=True)

    def close(self) -> None:
        """End all listeners: the service is about to."""
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.end()

    async def run_forever(self) -> None:
        """Read what is new. While nobody listens there is no subscription, and nothing is asked."""
        while True:
            await self._woken.wait()
            pubsub = self._client.pubsub()
            try:
                await pubsub.subscribe(NEWS)
                hearing = asyncio.create_task(self._hear(pubsub))
                try:
                    while self._listeners:
                        await self._read()
                finally:
                    await end([hearing])
                self._woken.clear()
            except (RedisError, OSError, TimeoutError) as error:
                log.debug("no news", reason=f"{type(error).__name__}: {error}")
                await asyncio.sleep(AGAIN_S)
            finally:
                await pubsub.aclose()

    async def _hear(self, pubsub: Any) -> None:
        while True:
            message = await pubsub.get_message(timeout=POLL_EVERY_S)
            if message is not None and message["type"] == "message":
                self._grown.add(message["data"].decode())
                self._woken.set()

    async def _read(self) -> None:
        """Wait for a push, or a second; then read on wherever there may be something."""
        self._woken.clear()
        if not self._grown & self._listeners.keys():
            try:
                async with asyncio.timeout(POLL_EVERY_S):
                    await self._woken.wait()
                tenants = [tenant for tenant in self._grown if tenant in self._listeners]
            except TimeoutError:
                tenants = list(self._listeners)
        else:
            tenants = [tenant for tenant in self._grown if tenant in self._listeners]
        self._grown.clear()
        for tenant in tenants:
            while events := await self._fetch(tenant, self._read_to.get(tenant)):
                if tenant not in self._listeners:
                    break
                self._read_to[tenant] = events[-1].id
                for listener in tuple(self._listeners[tenant]):
                    for event in events:
                        listener.hear(event)

    @reaching
    async def _newest(self, tenant: str) -> str:
        entries = await self._client.xrevrange(keys_of(tenant).events, count=1)
        return entries[0][0].decode() if entries else _BEGINNING

    @reaching
    async def _gap(self, tenant: str, last: str) -> Gap | None:
        """Whether events may have been lost behind `last`: it is no more, and neither may be what followed."""
        if last == _BEGINNING:
            return None
        key = keys_of(tenant).events
        if await self._client.xrange(key, min=last, max=last, count=1):
            return None
        return Gap(last)

    @reaching
    async def _after(self, tenant: str, last: str) -> list[Event]:
        return await self._fetch(tenant, last)

    async def _fetch(self, tenant: str, last: str | None) -> list[Event]:
        if last is None:
            return []
        entries = await self._client.xrange(keys_of(tenant).events, min=f"({last}", count=_CHUNK)
        return [event_of(entry_id, fields) for entry_id, fields in entries]


def _order(event_id: str) -> tuple[int, int]:
    ms, _, number = event_id.partition("-")
    return int(ms), int(number or 0)
