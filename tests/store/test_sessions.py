"""Listing sessions: pages, cursors, prefixes, counts; on fakeredis and on a real Redis."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from service.core.operator_actions import Author
from service.core.session_lists import Cursor, Page, WalkCursor
from service.core.sessions import RECORDED, Cause, Status
from service.store.admissions.batcher import Admissions
from service.store.connection.client import RedisAccess
from service.store.keyspace import KEPT, NAMES, keys_of
from service.store.scripts import LETTERS
from service.store.sessions.listing import SEARCHED, Sessions
from service.store.sessions.operator_actions import RedisOperatorActions
from tests.store.making import HOUR_MS, ask_about, now_ms, sweeper


async def record(access: RedisAccess, *users: tuple[str, Status, int], tenant: str = "acme") -> None:
    """Write users as the scripts do: (user, status, last seen ms)."""
    pipeline = access.client.pipeline(transaction=False)
    for user, status, seen_ms in users:
        pipeline.set(keys_of(tenant).user(user), f"{LETTERS[status]}- {seen_ms} {seen_ms} 0")
        pipeline.zadd(keys_of(tenant).by_status[status], {user: seen_ms})
        pipeline.zadd(keys_of(tenant).expiring, {user: seen_ms})
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
        assert isinstance(page.after, Cursor)
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
    assert isinstance(first.after, Cursor)
    second = await sessions.page("acme", after=first.after, size=4)
    assert [session.user for session in second.sessions] == ["u5", "u4", "u3", "u2"]


async def test_a_page_of_one_status_holds_no_other(access: RedisAccess) -> None:
    await record(access, ("a", Status.LOGGED_IN, 1), ("b", Status.SUSPENDED, 2))
    page = await Sessions(access.client).page("acme", statuses=[Status.SUSPENDED])
    assert [(session.user, session.status) for session in page.sessions] == [("b", Status.SUSPENDED)]
    assert page.examined is None


async def all_pages(sessions: Sessions, **how: Any) -> list[Page]:
    """Every page of a walk."""
    pages = [await sessions.walk_page("acme", **how)]
    while pages[-1].after is not None:
        assert isinstance(pages[-1].after, WalkCursor)
        after = WalkCursor.parse(str(pages[-1].after))
        pages.append(await sessions.walk_page("acme", after=after, **how))
    return pages


def names(pages: Sequence[Page]) -> list[str]:
    return [session.user for page in pages for session in page.sessions]


@pytest.mark.parametrize("count", [0, 1, 60, 1000])
@pytest.mark.parametrize("size", [1, 7, 50, 500])
async def test_a_walk_returns_every_user_of_each_status(access: RedisAccess, count: int, size: int) -> None:
    users = [(f"u{i:04d}", RECORDED[i % 5], 1000 + i) for i in range(count)]
    await record(access, *users)
    pages = await all_pages(Sessions(access.client), size=size)
    assert sorted(set(names(pages))) == [user for user, _, _ in users]
    assert max(len(page.sessions) for page in pages) <= max(size, 20), "one bucket of the index may be longer"
    suspended = await all_pages(Sessions(access.client), size=size, statuses=[Status.SUSPENDED])
    assert set(names(suspended)) == {user for user, status, _ in users if status is Status.SUSPENDED}


@pytest.mark.parametrize("count", [60, 400])
async def test_a_walk_misses_nobody_whatever_becomes_active_meanwhile(
    admissions: Admissions, access: RedisAccess, count: int
) -> None:
    users = [f"u{n:03d}" for n in range(count)]
    acts, by = RedisOperatorActions(access.client), Author("root")
    for number, user in enumerate(users):
        await admissions.ask(ask_about(user, cause=(Cause.REQUEST, Cause.LOGOUT)[number % 2]))
    await acts.act("acme", users[:20], Cause.SUSPEND, by)
    random_, found, after, pages = random.Random(count), set[str](), None, 0
    while True:
        page = await Sessions(access.client).walk_page("acme", after=after, size=20)
        found |= {session.user for session in page.sessions}
        pages += 1
        if page.after is None:
            break
        assert isinstance(page.after, WalkCursor)
        after = page.after
        for user in random_.sample(users, count // 3):
            what = random_.randrange(5)
            if what < 2:
                await admissions.ask(ask_about(user, cause=(Cause.REQUEST, Cause.LOGOUT)[what]))
            else:
                await acts.act("acme", [user], (Cause.SUSPEND, Cause.REINSTATE, Cause.OPERATOR_LOGOUT)[what - 2], by)
        await admissions.ask(ask_about(f"new{pages}"))
    assert found >= set(users)


async def test_a_page_of_a_search_that_finds_nothing_may_have_a_next_and_examines_a_bounded_number(
    access: RedisAccess,
) -> None:
    await record(access, *((f"user{i:05d}", Status.LOGGED_IN, 1000 + i) for i in range(5000)))
    await record(access, ("old?3", Status.LOGGED_OUT, 3), ("old*4", Status.SUSPENDED, 4))
    nothing = await all_pages(Sessions(access.client), prefix="nobody")
    assert names(nothing) == []
    assert 4 <= len(nothing) <= 8
    assert {page.examined for page in nothing} == {SEARCHED}
    assert names(await all_pages(Sessions(access.client), prefix="old*")) == ["old*4"], "a prefix is no pattern"
    found = names(await all_pages(Sessions(access.client), prefix="user0000", size=3))
    assert set(found) == {f"user0000{n}" for n in range(10)}


async def test_who_was_suspended_under_an_earlier_version_is_found_by_a_walk_and_who_was_logged_out_too(
    admissions: Admissions, access: RedisAccess
) -> None:
    for user in ("alice", "bob", "carol"):
        await admissions.ask(ask_about(user, expires_ms=now_ms() - 1000))
    await RedisOperatorActions(access.client).act("acme", ["alice"], Cause.SUSPEND, Author("root"))
    await admissions.ask(ask_about("bob", cause=Cause.LOGOUT, expires_ms=now_ms() + HOUR_MS))
    keys = keys_of("acme")
    # As the version before left it: the suspended in no such index, the logged out in another.
    await access.client.zrem(keys.expiring, "alice", "bob")
    await access.client.zadd(keys.ending, {"bob": now_ms() + HOUR_MS})
    await access.client.set(NAMES.adopted, "1")
    sweeping = sweeper(access, retention_ms=HOUR_MS)
    await sweeping._adopt_once()
    await sweeping.sweep()
    assert sorted(names(await all_pages(Sessions(access.client)))) == ["alice", "bob", "carol"]
    assert await access.client.zcard(keys.ending) == 0
    assert await access.client.zscore(keys.expiring, "alice") == KEPT


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
