"""Lists for operators: pages of sessions, events, charts; and the protocols of the stores that read them.

The protocols let `web` show what `store` reads without either knowing the other.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from service.core.operator_actions import Rules
from service.core.sessions import RECORDED, Session, Status
from service.core.text.timestamps import timestamp
from service.core.traffic_statistics import Activity


def _number_and_user(text: str, *, most_digits: int) -> tuple[int, str]:
    number, dot, user = text.partition(".")
    if not dot or not number.isascii() or not number.isdigit() or len(number) > most_digits:
        raise ValueError("not a cursor")
    return int(number), user


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position in the list: after the session with this last-seen (ms) and user."""

    seen_ms: int
    user: str

    def __str__(self) -> str:
        """Return the form that URLs and the API use."""
        return f"{self.seen_ms}.{self.user}"

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Read what `str` wrote.

        Raises:
            ValueError: it is not that.
        """
        return cls(*_number_and_user(text, most_digits=15))


@dataclass(frozen=True, slots=True)
class WalkCursor:
    """A position in a walk over all users: where the index goes on, or in a small one after this user."""

    scan: int
    user: str = ""

    def __str__(self) -> str:
        """Return the form that URLs and the API use."""
        return f"~{self.scan}.{self.user}"

    @classmethod
    def parse(cls, text: str) -> "WalkCursor":
        """Read what `str` wrote.

        Raises:
            ValueError: it is not that.
        """
        if not text.startswith("~"):
            raise ValueError("not a cursor")
        return cls(*_number_and_user(text[1:], most_digits=20))


def parse_cursor(text: str) -> Cursor | WalkCursor:
    """Read the cursor of either kind of page.

    Raises:
        ValueError: it is none.
    """
    return WalkCursor.parse(text) if text.startswith("~") else Cursor.parse(text)


@dataclass(frozen=True, slots=True)
class Page:
    """Some sessions, and where the next page begins."""

    sessions: tuple[Session, ...]
    after: Cursor | WalkCursor | None
    """None: this is the last page."""
    examined: int | None = None
    """About how many users were searched for the prefix; None: no prefix was given."""


EVENT_TYPES = ("transition", "restriction", "revocation", "limit", "forgotten", "refusal")
"""The types of events."""

_NAMES = {"user": "userId", "request": "requestId"}
_NUMBERS = ("requests", "window", "previousRequests", "previousWindow", "count", "all")


@dataclass(frozen=True)
class Event:
    """An event, as its stream entry has it."""

    id: str
    at_ms: int
    """When it happened, by Redis's clock, in milliseconds since the epoch."""
    fields: dict[str, str]
    """`type`, and with it: for a `transition` user, from, to, cause; for a `restriction` capability, change, until; for
    a `revocation` change, before; for a `limit` limit, change, requests, window, previousRequests, previousWindow,
    subject; for `forgotten` user, from; for a `refusal` count and all, with code and operation, or limit and shadow.
    Where known user, by, ip, request, reason."""

    def as_dict(self) -> dict[str, Any]:
        """Return its members, with moments as timestamps and numbers as numbers."""
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
        """The same as JSON, encoded once for all listeners."""
        return json.dumps(self.as_dict(), ensure_ascii=False)


def order_of(event_id: str) -> tuple[int, int]:
    """Return the id of an event as numbers, by which the events of a stream are ordered."""
    ms, _, number = event_id.partition("-")
    return int(ms), int(number or 0)


@dataclass(frozen=True, slots=True)
class Gap:
    """Events that a listener did not get, or may not have got."""

    after: str | None
    """The last event that the listener has."""
    dropped: bool = False
    """True: the listener was too slow, and gets no more. False: the capped stream does not reach back so far."""


@dataclass(frozen=True, slots=True)
class History:
    """Some events of one user, newest first, and how far back the capped stream reaches."""

    events: tuple[Event, ...]
    reaches_back_to_ms: int | None
    """When the oldest event of the stream happened; None: the stream is empty."""
    following: str | None = None
    """The event with which the next page begins, also of an empty page; None: this is the last."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What Redis has for some users of a tenant at one moment."""

    position: str
    """The newest event of the tenant's stream at that moment: later events are not part of it."""
    tenant: Rules
    """What operators have set for the tenant."""
    users: Mapping[str, tuple[Session | None, Rules]]
    """User → the session (None: there is none), and what operators have set for the user."""


class SessionLists(Protocol):
    """Reads sessions. Every method raises StoreUnavailable if Redis does not answer."""

    async def get(self, tenant: str, user: str) -> Session | None:
        """Return the session of exactly this user."""

    async def counts(self, tenants: Sequence[str]) -> Mapping[str, Mapping[Status, int]]:
        """Return how many users each tenant has in each status."""

    async def page(
        self,
        tenant: str,
        *,
        statuses: Sequence[Status] = RECORDED,
        after: Cursor | None = None,
        size: int = 50,
    ) -> Page:
        """Return a page of sessions by last seen, newest first.

        A user who becomes active between two pages may be on neither. `walk_page` returns every user.
        """

    async def walk_page(
        self,
        tenant: str,
        *,
        statuses: Sequence[Status] = RECORDED,
        prefix: str = "",
        after: WalkCursor | None = None,
        size: int = 50,
    ) -> Page:
        """Return a page of a walk over all users, or over those with a prefix, in no particular order.

        Following `after` until it is None returns each user at least once who is there from the walk's beginning to its
        end. A page costs the same whatever the number of users; it may be empty, and others follow all the same.
        """

    async def walk(self, tenant: str, status: str, position: int, *, size: int) -> tuple[list[str], int]:
        """Return some users of a status, and where the walk goes on (0: it is complete).

        A walk returns each user that has the status from its beginning to its end, at least once.

        Args:
            tenant: whose users.
            status: one that is recorded.
            position: 0, or where the call before said that the walk goes on.
            size: about so many users; small statuses are returned whole.
        """


class Subscription(Protocol):
    """The events for one listener."""

    since: str
    """The event after which it begins."""
    end: Callable[[], None]
    """End the subscription."""

    def __aiter__(self) -> AsyncIterator[Event | Gap]:
        """Yield events in order."""


class EventFeeds(Protocol):
    """Delivers events as they happen."""

    def follow(self, tenant: str, after: str | None) -> AbstractAsyncContextManager[Subscription]:
        """Subscribe to events from now on, or after the event with that id. Raises StoreUnavailable."""

    @property
    def ending(self) -> bool:
        """Whether the service is about to end."""

    async def end_session(self, session: str) -> None:
        """Note on every worker that an operator signed out in a browser.

        Raises StoreUnavailable if Redis does not answer: then the other workers note it when Redis is back.

        Args:
            session: identifies the login.
        """

    def has_ended(self, session: str) -> bool:
        """Whether an operator signed out of this login lately."""


class ActivityCharts(Protocol):
    """Reads the charts of the last hour. Raises StoreUnavailable if Redis does not answer."""

    async def activity(self, tenant: str) -> Activity:
        """Return the charts of one tenant."""


class Histories(Protocol):
    """Reads past events. Raises StoreUnavailable if Redis does not answer."""

    async def latest(self, tenant: str, *, most: int) -> list[Event]:
        """Return the latest events of a tenant, newest first."""

    async def history(self, tenant: str, user: str, *, most: int, begin: str = "") -> History:
        """Return a page of the events of one user, newest first. It examines a bounded number of events.

        Args:
            tenant: whose user.
            user: whose events.
            most: how many of them at most.
            begin: `following` of the page before; empty: the newest.
        """
