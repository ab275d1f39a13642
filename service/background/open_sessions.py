"""Admitted requests that are still open, such as streams and WebSockets, and the end of their sessions.

One task for each tenant with such requests follows the tenant's events, whatever the number of requests. When a request
begins to wait, and after events were missed, what Redis has for its user is read once: an act before the first event
that is heard counts, too. No event is believed that is older than that reading, so that an act which was lifted before
the request was admitted does not end it.
"""

import asyncio
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from itertools import islice

import structlog

from service.core.errors import StoreUnavailable
from service.core.operator_actions import Rules
from service.core.session_lists import Event, EventFeeds, Inspection, Subscription, order_of
from service.core.sessions import EndCause, SessionEnd, Status
from service.core.tasks import RESTART_AFTER_S, end
from service.core.tokens.claims import Identity

log = structlog.get_logger()

AGAIN_S = 0.25
"""Seconds to wait after Redis failed, or after the subscription ended."""
BATCH = 200
"""The users that are read in one round trip."""

Inspect = Callable[[str, Sequence[str]], Awaitable[Inspection]]

_BY_STATUS = {Status.SUSPENDED: EndCause.SUSPENDED, Status.TERMINATED: EndCause.TERMINATED}


class _Request:
    """An admitted request, and who waits for the end of its session; a `core.sessions.OpenSession`."""

    def __init__(self, tenant: "_Tenant", identity: Identity, capabilities: Collection[str]) -> None:
        self.user = identity.user
        self._tenant = tenant
        self._issued_s = None if identity.issued_s is None else math.floor(identity.issued_s)
        self._capabilities = capabilities
        self._end: SessionEnd | None = None
        self._closed = False
        self._waiting: set[asyncio.Future[SessionEnd]] = set()
        self._position: str | None = None
        """The event up to which what Redis has is known; None: it has to be read."""
        self._early: tuple[str, SessionEnd] | None = None
        """The latest end that was heard while it is not known whether the reading is newer."""

    def ended(self) -> asyncio.Future[SessionEnd]:
        """Return a new future of the end."""
        future: asyncio.Future[SessionEnd] = asyncio.get_running_loop().create_future()
        if self._end is not None:
            future.set_result(self._end)
        elif self._closed:
            future.cancel()
        else:
            self._waiting.add(future)
            future.add_done_callback(self._waiting.discard)
        return future

    def close(self) -> None:
        """Cancel the futures that are pending."""
        self._closed = True
        self._tenant.remove(self)
        for future in tuple(self._waiting):
            future.cancel()

    def finish(self, found: SessionEnd) -> None:
        """Set the result of all futures, those of later calls included."""
        if self._end is None:
            self._end = found
            for future in tuple(self._waiting):
                if not future.done():
                    future.set_result(found)

    def forget_reading(self) -> None:
        """Events were missed: what Redis has must be read again."""
        self._position = None

    def read(self, inspection: Inspection) -> None:
        """Judge by what Redis has, then by what was heard that is newer."""
        session, own = inspection.users[self.user]
        if session is not None and session.status in _BY_STATUS:
            self.finish(SessionEnd(_BY_STATUS[session.status], session.since_ms))
        for rules in (own, inspection.tenant):
            self._judge(rules)
        self._position = inspection.position
        if self._early is not None:
            (event_id, found), self._early = self._early, None
            self.hear(event_id, found)

    def _judge(self, rules: Rules) -> None:
        if rules.revoked_before_s is not None and self.is_revoked(rules.revoked_before_s):
            self.finish(SessionEnd(EndCause.REVOKED))
        for capability in self._capabilities:
            if capability in rules.restrictions:
                self.finish(SessionEnd(EndCause.RESTRICTED, capability=capability))

    def hear(self, event_id: str, found: SessionEnd) -> None:
        """Finish, unless the reading is newer than the event."""
        if self._position is None:
            self._early = event_id, found
        elif order_of(event_id) > order_of(self._position):
            self.finish(found)

    def is_revoked(self, before_s: int) -> bool:
        """Return whether a revocation of tokens that were issued up to this second covers the request's token."""
        return self._issued_s is None or self._issued_s <= before_s

    def needed(self, capability: str) -> bool:
        """Return whether the request needed this capability."""
        return capability in self._capabilities


class _Tenant:
    """The open requests of one tenant."""

    def __init__(self, name: str, feeds: EventFeeds, inspect: Inspect, is_down: Callable[[], bool]) -> None:
        self._name = name
        self._feeds = feeds
        self._inspect = inspect
        self._is_down = is_down
        self.requests: defaultdict[str, set[_Request]] = defaultdict(set)
        self._unread: set[_Request] = set()
        self._to_read = asyncio.Event()
        self._gaps = 0
        self._position: str | None = None
        """The last event that was heard; None: none is awaited yet."""
        self._subscription: Subscription | None = None

    def add(self, request: _Request) -> None:
        """Add a request; what Redis has for its user is read soon."""
        self.requests[request.user].add(request)
        self._unread.add(request)
        self._to_read.set()

    def remove(self, request: _Request) -> None:
        """Remove it. Without requests the task ends."""
        self._unread.discard(request)
        of_user = self.requests[request.user]
        of_user.discard(request)
        if not of_user:
            del self.requests[request.user]
        if not self.requests and self._subscription is not None:
            self._subscription.end()

    def finish(self, found: SessionEnd) -> None:
        """Finish all of them."""
        for request in self._all():
            request.finish(found)

    def _all(self) -> list[_Request]:
        return [request for requests in self.requests.values() for request in requests]

    async def run(self) -> None:
        """Follow the events while there are requests."""
        reading = asyncio.create_task(self._read_forever())
        try:
            while self.requests:
                await self._attempt(self._follow)
                if self.requests:
                    await asyncio.sleep(AGAIN_S)
        finally:
            await end([reading])

    async def _attempt(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Return whether `work` succeeded. Whatever fails, later acts must end the requests that are open."""
        if self._is_down():
            return False
        try:
            await work()
        except StoreUnavailable:  # the log and the metrics have it from the admissions
            return False
        except Exception as error:
            log.error("open sessions are followed anew", tenant=self._name, exc_info=error)
            await asyncio.sleep(RESTART_AFTER_S)
            return False
        return True

    async def _follow(self) -> None:
        async with self._feeds.follow(self._name, self._position) as subscription:
            self._subscription = subscription
            if self._position is None:
                self._position = subscription.since
                self._to_read.set()
            try:
                if not self.requests:
                    return
                async for item in subscription:
                    if isinstance(item, Event):
                        self._hear(item)
                        self._position = item.id
                    elif not item.dropped:  # after a drop the next subscription goes on from the last event
                        self._missed()
            finally:
                self._subscription = None

    def _missed(self) -> None:
        self._gaps += 1
        self._unread.update(self._all())
        for request in self._unread:
            request.forget_reading()
        self._to_read.set()

    def _hear(self, event: Event) -> None:
        """Pass an event on to the requests that it concerns."""
        fields = event.fields
        user = fields.get("user")
        concerned = self._all() if user is None else list(self.requests.get(user, ()))
        match fields.get("type"), fields.get("change"):
            case "transition", _ if fields["to"] in _BY_STATUS:
                cause, capability = _BY_STATUS[Status(fields["to"])], ""
            case "revocation", "set":
                cause, capability = EndCause.REVOKED, ""
                concerned = [request for request in concerned if request.is_revoked(int(fields["before"]))]
            case "restriction", "set":
                cause, capability = EndCause.RESTRICTED, fields["capability"]
                concerned = [request for request in concerned if request.needed(capability)]
            case _:
                return
        found = SessionEnd(cause, event.at_ms, fields.get("by", ""), fields.get("reason", ""), capability)
        for request in concerned:
            request.hear(event.id, found)

    async def _read_forever(self) -> None:
        while True:
            await self._to_read.wait()
            self._to_read.clear()
            # Before the position is known, an event between the reading and the subscription would be missed.
            while self._unread and self._position is not None:
                if not await self._attempt(self._read):
                    await asyncio.sleep(AGAIN_S)

    async def _read(self) -> None:
        """Read what Redis has for some requests that wait for it."""
        batch, gaps = list(islice(self._unread, BATCH)), self._gaps
        inspection = await self._inspect(self._name, list({request.user for request in batch}))
        if gaps == self._gaps:  # otherwise what was missed may be newer
            for request in batch:
                self._unread.discard(request)
                request.read(inspection)


class OpenSessions:
    """All open requests of an application.

    Args:
        feeds: the events.
        inspect: reads what Redis has for users of a tenant.
        is_down: whether Redis is known to be away, so that it need not be asked.
    """

    def __init__(self, feeds: EventFeeds, inspect: Inspect, is_down: Callable[[], bool]) -> None:
        self._feeds = feeds
        self._inspect = inspect
        self._is_down = is_down
        self._tenants: dict[str, _Tenant] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: SessionEnd | None = None

    def open(self, identity: Identity, capabilities: Collection[str]) -> _Request:
        """Return an open request, which must be closed.

        Args:
            identity: the caller of the admitted request.
            capabilities: what the request needed.
        """
        tenant = self._tenants.get(identity.tenant)
        if tenant is None or not tenant.requests:  # the task of one without requests is about to end
            tenant = self._tenants[identity.tenant] = _Tenant(
                identity.tenant, self._feeds, self._inspect, self._is_down
            )
        request = _Request(tenant, identity, capabilities)
        if self._ended is not None:
            request.finish(self._ended)
            return request
        starts = not tenant.requests
        tenant.add(request)
        if starts:
            task = asyncio.create_task(tenant.run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return request

    def shut_down(self) -> None:
        """Finish all requests, those of later calls included: the application shuts down."""
        self._ended = SessionEnd(EndCause.SHUTDOWN)
        for tenant in self._tenants.values():
            tenant.finish(self._ended)

    async def close(self) -> None:
        """End the tasks."""
        await end(self._tasks)
