"""What operators look at: pages of sessions, and histories; and who provides them.

The protocols let `web` show what `store` reads without either knowing the other.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from service.core.sessions import RECORDED, Session, Status
from service.core.text.timestamps import timestamp
from service.core.traffic_statistics import Activity


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in the list: after the session with this last-seen (ms) and user."""

    seen_ms: int
    user: str

    def __str__(self) -> str:
        """As addresses and the API spell it."""
        return f"{self.seen_ms}.{self.user}"

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Read what `str` wrote.

        Raises:
            ValueError: it is not that.
        """
        seen_ms, dot, user = text.partition(".")
        if not dot or not seen_ms.isascii() or not seen_ms.isdigit() or len(seen_ms) > 15:
            raise ValueError("not a cursor")
        return cls(int(seen_ms), user)


@dataclass(frozen=True, slots=True)
class Page:
    """Some sessions, newest first, and where the next page begins."""

    sessions: tuple[Session, ...]
    after: Cursor | None
    """None: this is the last page."""
    examined: int | None = None
    """How many newest sessions a prefix was looked for among; None where no prefix was asked for."""


EVENT_TYPES = ("transition", "restriction", "revocation", "limit", "forgotten", "refusal")
"""What an event may be."""

_NAMES = {"user": "userId", "request": "requestId"}
_NUMBERS = ("requests", "window", "previousRequests", "previousWindow", "count", "all")


@dataclass(frozen=True)
class Event:
    """One thing that happened, as its stream entry tells it."""

    id: str
    at_ms: int
    """When, by Redis's clock, in milliseconds since the epoch."""
    fields: dict[str, str]
    """`type`, and with it: for a `transition` user, from, to, cause; for a `restriction` capability, change, until; for
    a `revocation` change, before; for a `limit` limit, change, requests, window, previousRequests, previousWindow,
    subject; for `forgotten` user, from; for a `refusal` count and all, with code and operation, or limit and shadow.
    Where known user, by, ip, request, reason."""

    def as_dict(self) -> dict[str, Any]:
        """What it tells, with its moments as timestamps and its numbers as numbers."""
        shown: dict[str, Any] = {"id": self.id, "at": timestamp(self.at_ms)}
        for name, value in self.fields.items():
            if name in _NUMBERS:
                shown[name] = int(value)
            elif name == "until":
                shown[name] = timestamp(int(value))
            elif name == "before":
                shown[name] = timestamp(int(value) * 1000)
            else:
                shown[_NAMES.get(name, name)] = value
        return shown

    @cached_property
    def text(self) -> str:
        """The same as JSON: written once, however many listen."""
        return json.dumps(self.as_dict(), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Gap:
    """Events that a listener was not, or may not have been, told of."""

    after: str | None
    """The last one that it knows of."""
    dropped: bool = False
    """It was too slow, and is told no more; else the capped stream does not reach back so far."""


@dataclass(frozen=True, slots=True)
class History:
    """One user's latest events, newest first, and how far back the capped stream reaches."""

    events: tuple[Event, ...]
    reaches_back_to_ms: int | None
    """The oldest entry that was looked at; None where the stream is empty."""


class SessionLists(Protocol):
    """Reads sessions. Every method raises StoreUnavailable where Redis does not answer."""

    async def get(self, tenant: str, user: str) -> Session | None:
        """The session of exactly this user."""

    async def counts(self, tenants: Sequence[str]) -> Mapping[str, Mapping[Status, int]]:
        """How many users each tenant has in each status."""

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


class Subscription(Protocol):
    """What one listener is told."""

    since: str
    """The event that it begins after."""
    end: Callable[[], None]
    """Tell no more."""

    def __aiter__(self) -> AsyncIterator[Event | Gap]:
        """What happens, in order."""


class EventFeeds(Protocol):
    """Tells what happens as it happens."""

    def follow(self, tenant: str, after: str | None) -> AbstractAsyncContextManager[Subscription]:
        """What happens from now on, or from after the event of that id. Raises StoreUnavailable."""

    @property
    def ending(self) -> bool:
        """Whether the service is about to end."""

    async def end_session(self, session: str) -> None:
        """Note on every worker that an operator signed out in a browser, or raise StoreUnavailable: on this one alone.

        Args:
            session: identifies the login.
        """

    def has_ended(self, session: str) -> bool:
        """Whether an operator signed out of this login lately."""


class ActivityCharts(Protocol):
    """Reads the last hour. Raises StoreUnavailable where Redis does not answer."""

    async def activity(self, tenant: str) -> Activity:
        """Of one tenant."""


class Histories(Protocol):
    """Reads what happened. Raises StoreUnavailable where Redis does not answer."""

    async def latest(self, tenant: str, *, most: int) -> list[Event]:
        """What happened last to a tenant, newest first."""

    async def history(self, tenant: str, user: str, *, most: int) -> History:
        """The latest events of one user, newest first."""
