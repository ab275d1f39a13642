"""The end of open requests' sessions: which acts end which, whatever is missed, early, late or away."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from service.background import open_sessions
from service.background.open_sessions import BATCH, OpenSessions
from service.core.errors import StoreUnavailable
from service.core.operator_actions import Rules
from service.core.session_lists import Event, Gap, Inspection
from service.core.sessions import EndCause, Session, SessionEnd, Status
from service.core.tokens.claims import Identity

NOTHING = Rules()


class Feed:
    """An event feed and what Redis has, as a test says."""

    def __init__(self) -> None:
        self.newest = 0
        self.followed: list[str | None] = []
        self.inspected: list[list[str]] = []
        self.may_inspect = asyncio.Event()
        self.may_inspect.set()
        self.is_down = False
        self.failing: list[Exception] = []
        self.tenant = NOTHING
        self.sessions: dict[str, Session] = {}
        self.rules: dict[str, Rules] = {}
        self._queues: set[asyncio.Queue[Event | Gap | None]] = set()
        self._kept: list[Event] = []
        self.ending = False

    def happen(self, **fields: str) -> None:
        """Append an event to the stream."""
        self.newest += 1
        event = Event(f"{self.newest}-0", self.newest, fields)
        self._kept.append(event)
        self.send(event)

    def send(self, item: Event | Gap | None) -> None:
        for queue in self._queues:
            queue.put_nowait(item)

    def lose_all(self) -> None:
        self._kept.clear()

    @property
    def listeners(self) -> int:
        return len(self._queues)

    @asynccontextmanager
    async def follow(self, tenant: str, after: str | None) -> AsyncIterator[Any]:
        self.followed.append(after)
        if self.failing:
            raise self.failing.pop()
        queue: asyncio.Queue[Event | Gap | None] = asyncio.Queue()
        since = f"{self.newest}-0" if after is None else after
        for event in self._kept:
            if event.at_ms > int(since.partition("-")[0]):
                queue.put_nowait(event)
        self._queues.add(queue)

        class Subscription:
            def __init__(self) -> None:
                self.since = since
                self.end = lambda: queue.put_nowait(None)

            async def __aiter__(self) -> AsyncIterator[Event | Gap]:
                while (item := await queue.get()) is not None:
                    yield item

        try:
            yield Subscription()
        finally:
            self._queues.discard(queue)

    async def end_session(self, session: str) -> None:
        raise NotImplementedError

    def has_ended(self, session: str) -> bool:
        raise NotImplementedError

    async def inspect(self, tenant: str, users: Sequence[str]) -> Inspection:
        self.inspected.append(list(users))
        found = Inspection(
            f"{self.newest}-0",
            self.tenant,
            {user: (self.sessions.get(user), self.rules.get(user, NOTHING)) for user in users},
        )
        await self.may_inspect.wait()
        return found


@pytest.fixture
def feed(monkeypatch: pytest.MonkeyPatch) -> Feed:
    monkeypatch.setattr(open_sessions, "AGAIN_S", 0.001)
    monkeypatch.setattr(open_sessions, "RESTART_AFTER_S", 0.001)
    return Feed()


@pytest.fixture
async def sessions(feed: Feed) -> AsyncIterator[OpenSessions]:
    made = OpenSessions(feed, feed.inspect, lambda: feed.is_down)
    yield made
    feed.may_inspect.set()
    await made.close()


def identity(user: str = "alice", issued_s: float | None = 100.5, tenant: str = "acme") -> Identity:
    return Identity(tenant, user, 10**13, issued_s)


def session(status: Status, since_ms: int = 7) -> Session:
    return Session("alice", status, None, since_ms, None, None)


async def settle(feed: Feed, reads: int = 1) -> None:
    """Wait until the feed is followed, and so many readings are done."""
    async with asyncio.timeout(30):
        while not (feed.listeners and len(feed.inspected) >= reads):  # noqa: ASYNC110
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)


async def result(future: asyncio.Future[SessionEnd]) -> SessionEnd:
    async with asyncio.timeout(30):
        return await future


SUSPENDED = {"type": "transition", "user": "alice", "from": "logged_in", "to": "suspended", "by": "root", "reason": "x"}
ENDING: list[tuple[dict[str, str], EndCause]] = [
    (SUSPENDED, EndCause.SUSPENDED),
    (SUSPENDED | {"to": "terminated"}, EndCause.TERMINATED),
    ({"type": "revocation", "change": "set", "user": "alice", "before": "100"}, EndCause.REVOKED),
    ({"type": "revocation", "change": "set", "before": "100"}, EndCause.REVOKED),
    ({"type": "restriction", "change": "set", "user": "alice", "capability": "pay"}, EndCause.RESTRICTED),
    ({"type": "restriction", "change": "set", "capability": "verify", "until": "99"}, EndCause.RESTRICTED),
]
NOT_ENDING: list[dict[str, str]] = [
    SUSPENDED | {"user": "bob"},
    SUSPENDED | {"to": "logged_out", "cause": "logout"},
    SUSPENDED | {"to": "logged_out", "cause": "operator_logout"},
    SUSPENDED | {"to": "expired"},
    {"type": "revocation", "change": "set", "user": "alice", "before": "99"},
    {"type": "revocation", "change": "set", "user": "bob", "before": "200"},
    {"type": "revocation", "change": "lifted", "user": "alice"},
    {"type": "restriction", "change": "set", "user": "alice", "capability": "other"},
    {"type": "restriction", "change": "set", "user": "bob", "capability": "pay"},
    {"type": "restriction", "change": "lifted", "user": "alice", "capability": "pay"},
    {"type": "limit", "change": "set", "limit": "pay", "requests": "1", "window": "1"},
    {"type": "forgotten", "user": "alice", "from": "logged_in"},
    {"type": "refusal", "count": "1", "all": "1", "code": "FORBIDDEN", "operation": "verify"},
    {"type": "of a later version"},
]


@pytest.mark.parametrize(("event", "cause"), ENDING)
async def test_an_act_on_the_user_or_the_tenant_ends_the_session_and_says_which_and_when(
    feed: Feed, sessions: OpenSessions, event: dict[str, str], cause: EndCause
) -> None:
    opened = sessions.open(identity(), ("verify", "pay"))
    ended = opened.ended()
    await settle(feed)
    feed.happen(**event)
    end = await result(ended)
    assert (end.cause, end.at_ms, end.capability) == (cause, 1, event.get("capability", ""))
    assert (end.by, end.reason) == (event.get("by", ""), event.get("reason", ""))
    assert await opened.ended() == end, "a later access has it at once"


async def test_other_acts_and_those_on_others_do_not_end_the_session(feed: Feed, sessions: OpenSessions) -> None:
    ended = sessions.open(identity(), ("verify", "pay")).ended()
    await settle(feed)
    for event in NOT_ENDING:
        feed.happen(**event)
    feed.happen(**SUSPENDED)
    assert (await result(ended)).at_ms == len(NOT_ENDING) + 1


@pytest.mark.parametrize("issued_s", [None, 100.0, 100.9, 5.0])
async def test_a_revocation_ends_what_was_opened_with_a_token_of_its_second_or_without_iat(
    feed: Feed, sessions: OpenSessions, issued_s: float | None
) -> None:
    ended = sessions.open(identity(issued_s=issued_s), ()).ended()
    await settle(feed)
    feed.happen(type="revocation", change="set", before="100")
    assert (await result(ended)).cause == "revoked"


FOUND: list[tuple[Session | None, Rules, Rules, SessionEnd]] = [
    (session(Status.SUSPENDED), NOTHING, NOTHING, SessionEnd(EndCause.SUSPENDED, 7)),
    (session(Status.TERMINATED), NOTHING, NOTHING, SessionEnd(EndCause.TERMINATED, 7)),
    (session(Status.LOGGED_IN), Rules(revoked_before_s=100), NOTHING, SessionEnd(EndCause.REVOKED)),
    (None, NOTHING, Rules(revoked_before_s=100), SessionEnd(EndCause.REVOKED)),
    (None, Rules({"pay": None}), NOTHING, SessionEnd(EndCause.RESTRICTED, capability="pay")),
    (None, NOTHING, Rules({"pay": 5}), SessionEnd(EndCause.RESTRICTED, capability="pay")),
]


@pytest.mark.parametrize(("record", "own", "tenant", "end"), FOUND)
async def test_an_act_before_anything_is_heard_ends_the_session_too(
    feed: Feed, sessions: OpenSessions, record: Session | None, own: Rules, tenant: Rules, end: SessionEnd
) -> None:
    feed.rules["alice"], feed.tenant = own, tenant
    if record is not None:
        feed.sessions["alice"] = record
    assert await result(sessions.open(identity(), ("pay",)).ended()) == end


@pytest.mark.parametrize(("record", "own", "tenant", "end"), FOUND)
async def test_after_a_gap_what_redis_has_is_read_again_and_ends_the_session(
    feed: Feed, sessions: OpenSessions, record: Session | None, own: Rules, tenant: Rules, end: SessionEnd
) -> None:
    ended = sessions.open(identity(), ("pay",)).ended()
    await settle(feed)
    feed.rules["alice"], feed.tenant = own, tenant
    if record is not None:
        feed.sessions["alice"] = record
    feed.send(Gap("0-0"))
    assert await result(ended) == end


async def test_a_logged_out_user_or_an_older_revocation_found_in_redis_ends_nothing(
    feed: Feed, sessions: OpenSessions
) -> None:
    feed.sessions["alice"] = session(Status.LOGGED_OUT)
    feed.rules["alice"] = Rules({"other": None}, 99, {"verify-ip": (1, 1)})
    ended = sessions.open(identity(), ("verify",)).ended()
    await settle(feed)
    feed.happen(**SUSPENDED)
    assert (await result(ended)).at_ms == 1


async def test_an_act_that_was_lifted_before_the_request_does_not_end_it_however_late_it_is_heard(
    feed: Feed, sessions: OpenSessions
) -> None:
    first = sessions.open(identity("bob"), ())
    await settle(feed)
    feed.newest = 2  # suspended and reinstated; the events are on their way
    ended = sessions.open(identity(), ()).ended()
    await settle(feed, reads=2)
    feed.send(Event("1-0", 1, SUSPENDED))
    feed.send(Event("2-0", 2, SUSPENDED | {"from": "suspended", "to": "logged_out"}))
    feed.happen(**SUSPENDED | {"reason": "again"})
    assert (await result(ended)).reason == "again"
    first.close()


async def test_an_act_that_is_heard_while_redis_is_still_read_counts_only_if_it_is_newer(
    feed: Feed, sessions: OpenSessions
) -> None:
    feed.may_inspect.clear()
    feed.newest = 5
    ended = sessions.open(identity(), ()).ended()
    await settle(feed)  # what Redis had at event 5 is on its way
    feed.send(Event("5-0", 5, SUSPENDED))
    await settle(feed)
    feed.may_inspect.set()
    await settle(feed)
    assert not ended.done()
    feed.happen(**SUSPENDED)
    assert (await result(ended)).at_ms == 6

    feed.may_inspect.clear()
    other = sessions.open(identity(), ()).ended()
    await settle(feed, reads=2)
    feed.happen(**SUSPENDED)
    await settle(feed, reads=2)
    assert not other.done()
    feed.may_inspect.set()
    assert (await result(other)).at_ms == 7


async def test_what_was_read_before_a_gap_is_read_again(feed: Feed, sessions: OpenSessions) -> None:
    feed.may_inspect.clear()
    ended = sessions.open(identity(), ()).ended()
    await settle(feed)
    feed.sessions["alice"] = session(Status.SUSPENDED)
    feed.send(Gap("0-0"))
    await settle(feed)
    feed.may_inspect.set()
    assert (await result(ended)).cause == "suspended"
    assert len(feed.inspected) == 2


async def test_after_an_outage_the_events_go_on_where_they_ended(feed: Feed, sessions: OpenSessions) -> None:
    ended = sessions.open(identity(), ()).ended()
    await settle(feed)
    feed.happen(type="limit", change="reset", limit="x")
    await settle(feed)
    feed.is_down = True
    feed.failing = [StoreUnavailable("away"), RuntimeError("of any kind")]
    feed.send(None)
    feed.happen(**SUSPENDED)
    feed.is_down = False
    assert (await result(ended)).at_ms == 2
    assert feed.followed == [None, "1-0", "1-0", "1-0"]


async def test_a_listener_that_was_dropped_goes_on_after_the_last_event(feed: Feed, sessions: OpenSessions) -> None:
    ended = sessions.open(identity(), ()).ended()
    await settle(feed)
    feed.happen(type="limit", change="reset", limit="x")
    feed.send(Gap("1-0", dropped=True))
    feed.send(None)
    feed.happen(**SUSPENDED)
    assert (await result(ended)).at_ms == 2
    assert feed.followed == [None, "1-0"]
    assert len(feed.inspected) == 1


async def test_while_redis_is_away_nothing_is_asked_and_nothing_ends(feed: Feed, sessions: OpenSessions) -> None:
    feed.is_down = True
    ended = sessions.open(identity(), ()).ended()
    for _ in range(50):
        await asyncio.sleep(0.001)
    assert (feed.followed, feed.inspected, ended.done()) == ([], [], False)
    feed.sessions["alice"] = session(Status.SUSPENDED)
    feed.is_down = False
    assert (await result(ended)).cause == "suspended"


async def test_requests_that_ask_together_share_their_readings_and_one_subscription(
    feed: Feed, sessions: OpenSessions
) -> None:
    opened = [sessions.open(identity(f"user{number % 300}"), ()) for number in range(600)]
    await settle(feed, reads=2)
    assert [user for users in feed.inspected for user in users].count("user7") <= 2
    assert max(map(len, feed.inspected)) <= BATCH
    assert len(feed.inspected) <= 4
    assert feed.followed == [None]
    waiting = [one.ended() for one in opened]
    feed.happen(type="revocation", change="set", before="200")
    async with asyncio.timeout(30):
        assert {end.cause for end in await asyncio.gather(*waiting)} == {"revoked"}


async def test_each_tenant_is_followed_by_itself(feed: Feed, sessions: OpenSessions) -> None:
    ours, theirs = sessions.open(identity(), ()), sessions.open(identity(tenant="globex"), ())
    await settle(feed, reads=2)
    assert feed.listeners == 2
    ours.close()
    async with asyncio.timeout(30):
        while feed.listeners > 1:  # noqa: ASYNC110
            await asyncio.sleep(0)
    theirs.close()


async def test_with_the_last_request_the_subscription_ends_and_with_the_next_one_begins(
    feed: Feed, sessions: OpenSessions
) -> None:
    one, other = sessions.open(identity(), ()), sessions.open(identity(), ())
    ended = one.ended()
    await settle(feed)
    one.close()
    assert ended.cancelled()
    assert one.ended().cancelled()
    assert feed.listeners == 1
    other.close()
    other.close()
    async with asyncio.timeout(30):
        while feed.listeners:  # noqa: ASYNC110
            await asyncio.sleep(0)
    again = sessions.open(identity(), ()).ended()
    await settle(feed)
    feed.happen(**SUSPENDED)
    assert (await result(again)).cause == "suspended"


async def test_a_future_that_is_cancelled_affects_no_other(feed: Feed, sessions: OpenSessions) -> None:
    opened = sessions.open(identity(), ())
    one, other = opened.ended(), opened.ended()
    one.cancel()
    await settle(feed)
    feed.happen(**SUSPENDED)
    assert (await result(other)).cause == "suspended"


async def test_at_shutdown_all_of_them_end_the_later_ones_too(feed: Feed, sessions: OpenSessions) -> None:
    ended = sessions.open(identity(), ()).ended()
    sessions.shut_down()
    assert (await result(ended)).cause == "shutdown"
    later = sessions.open(identity("bob"), ())
    assert (await result(later.ended())).cause == "shutdown"
    later.close()
