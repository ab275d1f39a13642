"""Live events: one reader of Redis in each worker, for all its listeners.

A script that appends to a tenant's stream publishes the tenant's name. The reader then fetches the new
events of the tenants that have listeners, once, and puts them into each listener's queue. If a push is lost, the events
arrive within a second. A listener that reconnects misses nothing: it names the last event that it has, reads on from
there by itself, and joins the others.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog
from redis.asyncio import Redis

from service.core.session_lists import Event, Gap, order_of
from service.core.tasks import round_completed
from service.store.connection.calls import AWAY, UNHEARD, note_failure, redis_call, subscriber
from service.store.events.sign_outs import PREFIX as SIGNED_OUT
from service.store.events.sign_outs import SignOuts
from service.store.events.stream import event_of
from service.store.keyspace import EVENTS_CAP, NAMES, keys_of

log = structlog.get_logger()

MOST_WAITING = 1000
"""The most events that wait for a listener. A slower listener is dropped: it gets a `dropped` event."""
POLL_EVERY_S = 1.0
"""How often tenants with listeners are read even without a push, in seconds."""
AGAIN_S = 0.5
IDLE_ROUND_S = 1.0
"""How often the reader reports that it is alive while there are no listeners, in seconds."""
MOST_SILENT = 3
"""Seconds without any message, pongs included, after which the subscription counts as lost."""
_SUBSCRIBED = ""
"""Replaces a tenant's name in a push: the subscription is confirmed, perhaps not for the first time."""
_CHUNK = 500
_BEGINNING = "0-0"


class Listener:
    """A listener of a tenant, with the events for it in order."""

    def __init__(self, last: str | None) -> None:
        self.last = last
        """The last event that it has."""
        self.dropped = False
        self._waiting: asyncio.Queue[Event | None] = asyncio.Queue()

    def hear(self, event: Event) -> None:
        """Queue it."""
        if self._waiting.qsize() >= MOST_WAITING:
            self.dropped = True
            self.end()
        elif not self.dropped:
            self._waiting.put_nowait(event)

    def end(self) -> None:
        """End the queue."""
        self._waiting.put_nowait(None)

    async def next(self) -> Event | None:
        """Return the next event; None: the queue has ended."""
        while (event := await self._waiting.get()) is not None and not self.dropped:
            if self.last is None or order_of(event.id) > order_of(self.last):
                self.last = event.id
                return event
        return None


class Subscription:
    """The events for one listener, until it is ended."""

    def __init__(self, listener: Listener, items: AsyncIterator[Event | Gap]) -> None:
        self.since = listener.last or _BEGINNING
        """The event after which it begins."""
        self.end = listener.end
        self._items = items

    def __aiter__(self) -> AsyncIterator[Event | Gap]:
        return self._items


class EventSubscriber:
    """Reads the streams that have listeners.

    Args:
        client: a redis-py client.
    """

    def __init__(self, client: Redis) -> None:
        self._client: Any = client  # redis-py's answers are typed as a union over all its modes
        self._listeners: dict[str, set[Listener]] = {}
        self._read_to: dict[str, str] = {}
        self._asking: dict[str, asyncio.Future[str]] = {}
        self._wanted = asyncio.Event()
        """Is set while there are listeners."""
        self._sign_outs = SignOuts(client)
        self.ending = False
        """Whether the service is about to end."""

    @asynccontextmanager
    async def follow(self, tenant: str, after: str | None) -> AsyncIterator["Subscription"]:
        """Subscribe to events from now on, or after an event; lost events are reported as a gap.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        if tenant not in self._listeners:
            newest = await self._begin(tenant)
            if tenant not in self._listeners:  # another listener may have been faster
                self._read_to[tenant] = newest
        listener = Listener(after if after is not None else self._read_to[tenant])
        self._listeners.setdefault(tenant, set()).add(listener)
        self._wanted.set()
        try:
            yield Subscription(listener, self._events_for(tenant, listener, catch_up=after is not None))
        finally:
            self._listeners[tenant].discard(listener)
            if not self._listeners[tenant]:
                del self._listeners[tenant], self._read_to[tenant]

    async def _begin(self, tenant: str) -> str:
        """Return the newest event, read once for all listeners that begin at the same moment."""
        asking = self._asking.get(tenant)
        if asking is None:
            asking = self._asking[tenant] = asyncio.ensure_future(self._newest(tenant))
            asking.add_done_callback(lambda _: self._asking.pop(tenant))
            asking.add_done_callback(_nobody_may_care)
        return await asyncio.shield(asking)

    async def _events_for(self, tenant: str, listener: Listener, *, catch_up: bool) -> AsyncIterator[Event | Gap]:
        if catch_up and listener.last is not None:
            if await self._may_have_lost(tenant, listener.last):
                yield Gap(listener.last)
                listener.last = min(listener.last, await self._newest(tenant), key=order_of)
            while events := await self._after(tenant, listener.last):
                for event in events:
                    listener.last = event.id
                    yield event
        while (live := await listener.next()) is not None:
            yield live
        if listener.dropped:
            yield Gap(listener.last, dropped=True)

    def shut_down(self) -> None:
        """End all listeners, also those that begin later."""
        self.ending = True
        self.close()

    async def end_session(self, session: str) -> None:
        """Note on every worker that an operator signed out in a browser.

        Raises:
            StoreUnavailable: Redis does not answer. The other workers note it when it is back.
        """
        await self._sign_outs.add(session)

    def has_ended(self, session: str) -> bool:
        """Return whether an operator signed out of this login lately."""
        return session in self._sign_outs

    def close(self) -> None:
        """End the current listeners: Redis is away."""
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.end()

    async def run_forever(self) -> None:
        """Read new events. Without listeners there is no subscription."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(IDLE_ROUND_S):
                    await self._wanted.wait()
            round_completed()
            await self._sign_outs.report_again()
            if not self._wanted.is_set():
                continue
            pubsub = subscriber(self._client)
            try:
                await pubsub.subscribe(NAMES.event_channel)
                await self._read_while_wanted(pubsub)
            except UNHEARD as error:
                note_failure(error)
                await asyncio.sleep(AGAIN_S)
            finally:
                await pubsub.aclose()

    async def _read_while_wanted(self, pubsub: Any) -> None:
        loop = asyncio.get_running_loop()
        silent, looked_at = 0, loop.time()
        while self._listeners:
            grown = await _pushed(pubsub)
            if grown is None:
                silent += 1
                if silent > MOST_SILENT:
                    raise TimeoutError("the subscription fell silent")
                await pubsub.ping()  # the answer shows that the subscription is alive
            else:
                silent = 0
            for message in grown or ():
                if message == _SUBSCRIBED:  # what was published before is not heard, and may be kept
                    await self._sign_outs.read()
                elif message.startswith(SIGNED_OUT):
                    self._sign_outs.note(message.removeprefix(SIGNED_OUT))
            await self._sign_outs.report_again()
            tenants = self._listeners.keys() & (grown or ())
            if loop.time() - looked_at >= POLL_EVERY_S:  # all of them: a push may have been lost
                tenants, looked_at = set(self._listeners), loop.time()
            await asyncio.gather(*(self._read_on(tenant) for tenant in tenants))
            round_completed()
        self._wanted.clear()

    async def _read_on(self, tenant: str) -> None:
        """Queue the new events of one tenant. An error does not affect other tenants."""
        try:
            while tenant in self._listeners and (events := await self._fetch(tenant, self._read_to[tenant])):
                if tenant not in self._listeners:
                    return
                self._read_to[tenant] = events[-1].id
                for listener in tuple(self._listeners[tenant]):
                    for event in events:
                        listener.hear(event)
        except AWAY as error:
            note_failure(error)

    @redis_call
    async def _newest(self, tenant: str) -> str:
        entries = await self._client.xrevrange(keys_of(tenant).events, count=1)
        return entries[0][0].decode() if entries else _BEGINNING

    @redis_call
    async def _may_have_lost(self, tenant: str, last: str) -> bool:
        """Return whether events after `last` may have left the stream."""
        key = keys_of(tenant).events
        if last != _BEGINNING:
            return not await self._client.xrange(key, min=last, max=last, count=1)
        if not await self._client.exists(key):
            return False
        found = await self._client.xinfo_stream(key)
        if "entries-added" in found:
            return bool(found["length"] < found["entries-added"])
        return bool(found["length"] >= EVENTS_CAP)

    @redis_call
    async def _after(self, tenant: str, last: str) -> list[Event]:
        return await self._fetch(tenant, last)

    async def _fetch(self, tenant: str, last: str) -> list[Event]:
        entries = await self._client.xrange(keys_of(tenant).events, min=f"({last}", count=_CHUNK)
        return [event_of(entry_id, fields) for entry_id, fields in entries]


def _nobody_may_care(asked: asyncio.Future[str]) -> None:
    """Retrieve an error that nobody awaits any more, so that asyncio does not log it."""
    if not asked.cancelled():
        asked.exception()


async def _pushed(pubsub: Any) -> set[str] | None:
    """Return the tenants that pushes have named since the last call.

    `_SUBSCRIBED` is among them if the subscription was confirmed. The result is empty if only a pong came, and None if
    nothing came for a second.
    """
    message = await pubsub.get_message(timeout=POLL_EVERY_S)
    if message is None:
        return None
    grown = set()
    while message is not None:
        if message["type"] == "message":
            grown.add(message["data"].decode())
        elif message["type"] == "subscribe":
            grown.add(_SUBSCRIBED)
        message = await pubsub.get_message(timeout=0)
    return grown
