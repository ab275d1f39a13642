"""Listing sessions: pages, cursors, prefixes, counts; on fakeredis and on a real Redis."""

from collections.abc import Sequence
from typing import Any

import pytest

from service.core.session_lists import Cursor, History
from service.core.sessions import RECORDED, Status
from service.store.connection.client import RedisAccess
from service.store.events.stream import Events
from service.store.keyspace import keys_of
from service.store.scripts import LETTERS
from service.store.sessions.listing import PREFIX_REACH, Sessions


async def record(access: RedisAccess, *users: tuple[str, Status, int], tenant: str = "acme") -> None:
    """Write users as the scripts do: (user, status, last seen ms)."""
    pipeline = access.client.pipeline(transaction=False)
    for user, status, seen_ms in users:
        pipeline.set(keys_of(tenant).user(user), f"{LETTERS[status]}- {seen_ms} {seen_ms} 0")
        pipeline.zadd(keys_of(tenant).by_status[status], {user: seen_ms})
    await pipeline.execute()


async def walk(sessions: Sessions, *, size: int, statuses: Sequence[Status] = RECORDED) -> list[str]:
    """Every user, page by page."""
    found: list[str] = []
    after: Cursor | None = None
    while True:
        page = await sessions.page("acme", statuses=statuses, after=after, size=size)
        found += [session.user for session in page.sessions]
        if page.after is None:
            return found
        after = page.after


@pytest.mark.parametrize("size", [1, 3, 7, 50])
async def test_pages_cut_the_list_by_last_seen_whatever_their_size(access: RedisAccess, size: int) -> None:
    statuses = [RECORDED[i % 5] for i in range(23)]
    await record(access, *((f"u{i:02d}", status, 1000 + i // 2) for i, status in enumerate(statuses)))
    found = await walk(Sessions(access.client), size=size)
    assert found == [f"u{i:02d}" for i in sorted(range(23), key=lambda i: (1000 + i // 2, f"u{i:02d}"), reverse=True)]


async def test_hundreds_seen_in_one_millisecond_are_each_listed_once(access: RedisAccess) -> None:
    await record(access, *((f"u{i:04d}", Status.LOGGED_IN, 5) for i in range(120)))
    assert await walk(Sessions(access.client), size=7) == [f"u{i:04d}" for i in reversed(range(120))]


async def test_a_cursor_stays_right_while_sessions_change(access: RedisAccess) -> None:
    await record(access, *((f"u{i}", Status.LOGGED_IN, 100 + i) for i in range(10)))
    sessions = Sessions(access.client)
    first = await sessions.page("acme", size=4)
    assert [session.user for session in first.sessions] == ["u9", "u8", "u7", "u6"]
    await record(access, ("new", Status.LOGGED_IN, 999), ("u6", Status.LOGGED_IN, 1000))
    second = await sessions.page("acme", after=first.after, size=4)
    assert [session.user for session in second.sessions] == ["u5", "u4", "u3", "u2"]


async def test_a_page_of_one_status_holds_no_other(access: RedisAccess) -> None:
    await record(access, ("a", Status.LOGGED_IN, 1), ("b", Status.SUSPENDED, 2))
    page = await Sessions(access.client).page("acme", statuses=[Status.SUSPENDED])
    assert [(session.user, session.status) for session in page.sessions] == [("b", Status.SUSPENDED)]
    assert page.examined is None


async def test_a_prefix_is_looked_for_among_the_newest_10000_and_says_so(access: RedisAccess) -> None:
    old = [(f"old{i}", Status.LOGGED_OUT, i) for i in range(5)]
    await record(access, *old, *((f"user{i:05d}", Status.LOGGED_IN, 1000 + i) for i in range(PREFIX_REACH)))
    sessions = Sessions(access.client)
    page = await sessions.page("acme", prefix="user0000", size=4)
    assert [session.user for session in page.sessions] == ["user00009", "user00008", "user00007", "user00006"]
    rest = await sessions.page("acme", prefix="user0000", after=page.after, size=50)
    assert [session.user for session in rest.sessions][-1] == "user00000"
    too_old = await sessions.page("acme", prefix="old")
    assert too_old.sessions == ()
    assert too_old.examined == PREFIX_REACH
    exact = await sessions.get("acme", "old3")
    assert exact is not None
    assert exact.status is Status.LOGGED_OUT


async def test_counts_are_per_tenant_and_status(access: RedisAccess) -> None:
    await record(access, ("a", Status.LOGGED_IN, 1), ("b", Status.LOGGED_IN, 2), ("c", Status.EXPIRED, 3))
    await record(access, ("a", Status.TERMINATED, 1), tenant="globex")
    counts = await Sessions(access.client).counts(["acme", "globex"])
    assert counts["acme"] == dict(zip(RECORDED, [2, 0, 1, 0, 0], strict=True))
    assert counts["globex"] == dict(zip(RECORDED, [0, 0, 0, 0, 1], strict=True))


async def test_a_user_without_a_record_is_not_made_up(access: RedisAccess) -> None:
    sessions = Sessions(access.client)
    assert await sessions.get("acme", "nobody") is None
    assert (await sessions.page("acme")).sessions == ()


async def test_a_history_is_looked_for_in_the_whole_stream_and_says_how_far_that_reaches(access: RedisAccess) -> None:
    pipeline = access.client.pipeline(transaction=False)
    for i in range(2500):
        user = "alice" if i % 1000 == 0 else "bob"
        fields: dict[Any, Any] = {"type": "transition", "user": user, "from": "none", "to": "logged_in"}
        pipeline.xadd(keys_of("acme").events, fields, id=f"{1000 + i}-0")
    await pipeline.execute()
    history = await Events(access.client).history("acme", "alice", most=9)
    assert [event.at_ms for event in history.events] == [3000, 2000, 1000]
    assert history.reaches_back_to_ms == 1000
    latest = await Events(access.client).history("acme", "alice", most=1)
    assert [event.id for event in latest.events] == ["3000-0"]
    assert await Events(access.client).history("globex", "alice", most=1) == History((), None)
