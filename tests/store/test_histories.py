"""One user's events, found by their links; on fakeredis and on a real Redis."""

import hashlib
from typing import Any

import pytest

from service.core.operator_actions import Author
from service.core.session_lists import Event, History
from service.core.sessions import Cause
from service.store.admissions.batcher import Admissions
from service.store.connection.client import RedisAccess
from service.store.events.stream import EXAMINED, Events
from service.store.keyspace import EVENTS_CAP, keys_of
from service.store.sessions.operator_actions import RedisOperatorActions
from tests.store.making import HOUR_MS, ask_about, now_ms, sweeper

BY = Author("root")
KEYS = keys_of("acme")


def of_one_bucket(number: int) -> list[str]:
    """Users whose events share a link: the first three digits of their hashes are the same."""
    found: dict[str, list[str]] = {}
    for candidate in range(100_000):
        user = f"user-{candidate}"
        together = found.setdefault(hashlib.sha1(user.encode()).hexdigest()[:3], [])
        together.append(user)
        if len(together) == number:
            return together
    raise AssertionError("there are none")


async def history(access: RedisAccess, user: str, *, most: int = 100) -> list[Event]:
    """All pages, newest first."""
    found: list[Event] = []
    begin = ""
    while True:
        page = await Events(access.client).history("acme", user, most=most, begin=begin)
        found += page.events
        if page.following is None:
            return found
        begin = page.following


async def in_the_stream(access: RedisAccess, user: str) -> list[str]:
    """The ids of the user's events, newest first, by reading the whole stream."""
    entries = await access.client.xrevrange(KEYS.events)
    return [entry_id.decode() for entry_id, fields in entries if fields.get(b"user") == user.encode()]


async def write_as_an_earlier_version(access: RedisAccess, many: int, others: str = "bob") -> None:
    """Events without links; each thousandth is of alice."""
    pipeline = access.client.pipeline(transaction=False)
    for i in range(many):
        user = "alice" if i % 1000 == 0 else others
        fields: dict[Any, Any] = {"type": "transition", "user": user, "from": "none", "to": "logged_in"}
        pipeline.xadd(KEYS.events, fields, id=f"{1000 + i}-0")
    await pipeline.execute()


async def test_every_kind_of_event_of_a_user_is_in_its_history_and_no_other_users(
    admissions: Admissions, access: RedisAccess
) -> None:
    acts, users = RedisOperatorActions(access.client), of_one_bucket(4)
    for user in users[:3]:
        await admissions.ask(ask_about(user, expires_ms=now_ms() - 1))
        await acts.restrict("acme", user, "pay", BY)
        await acts.restrict("acme", None, "fly", BY, replace=True)
        await acts.unrestrict("acme", user, "pay", BY)
        await acts.revoke("acme", user, BY, before_ms=1000)
    await sweeper(access).sweep()  # all three expire in one bite
    await acts.act("acme", users[:3], Cause.OPERATOR_LOGOUT, BY, everywhere=True)
    await acts.act("acme", users[1:3], Cause.SUSPEND, BY)
    await acts.forget("acme", users[0], BY)
    await acts.restore("acme", users[1], BY)
    kinds = [(event.fields["type"], event.fields.get("to", "")) for event in await history(access, users[0])]
    assert kinds == [
        ("forgotten", ""),
        ("revocation", ""),
        ("transition", "logged_out"),
        ("transition", "expired"),
        ("revocation", ""),
        ("restriction", ""),
        ("restriction", ""),
        ("transition", "logged_in"),
    ]
    for user in users:
        for most in (1, 3, 100):
            assert [event.id for event in await history(access, user, most=most)] == await in_the_stream(access, user)
    assert all("prev" not in event.as_dict() for event in await history(access, users[0])), "a link is no part of it"


async def test_a_history_says_how_far_the_stream_reaches_back(admissions: Admissions, access: RedisAccess) -> None:
    assert await Events(access.client).history("acme", "alice", most=1) == History((), None)
    await admissions.ask(ask_about("bob"))
    [(first, _)] = await access.client.xrange(KEYS.events)
    found = await Events(access.client).history("acme", "alice", most=1)
    assert found == History((), int(first.partition(b"-")[0]))


async def test_events_that_left_the_stream_end_a_history(admissions: Admissions, access: RedisAccess) -> None:
    acts = RedisOperatorActions(access.client)
    for _ in range(3):
        await acts.restrict("acme", "alice", "pay", BY)
        await acts.unrestrict("acme", "alice", "pay", BY)
    await access.client.xtrim(KEYS.events, maxlen=2, approximate=False)
    assert [event.fields["change"] for event in await history(access, "alice")] == ["lifted", "set"]
    await access.client.delete(KEYS.events)
    assert await history(access, "alice") == []
    await admissions.ask(ask_about("alice"))
    assert [event.fields["type"] for event in await history(access, "alice")] == ["transition"]


async def test_events_that_an_earlier_version_wrote_are_found_behind_the_linked_ones(
    admissions: Admissions, access: RedisAccess
) -> None:
    await write_as_an_earlier_version(access, 2500)
    assert [event.at_ms for event in await history(access, "alice")] == [3000, 2000, 1000]
    await admissions.ask(ask_about("carol"))
    await admissions.ask(ask_about("alice"))
    found = await history(access, "alice")
    assert [event.at_ms for event in found[1:]] == [3000, 2000, 1000]
    assert [event.id for event in found] == await in_the_stream(access, "alice")
    assert [event.at_ms for event in await history(access, "alice", most=1)][1:] == [3000, 2000, 1000]


async def test_a_position_that_was_made_up_shows_nothing_of_others(admissions: Admissions, access: RedisAccess) -> None:
    await admissions.ask(ask_about("alice"))
    await admissions.ask(ask_about("bob"))
    [_, (bobs, _)] = await access.client.xrange(KEYS.events)
    for begin in (bobs.decode(), "0-0", "1-1", "999999999999999-9999999999999999999"):
        page = await Events(access.client).history("acme", "alice", most=9, begin=begin)
        assert [event.fields["user"] for event in page.events] in ([], ["alice"])


REAL = pytest.mark.parametrize("access", [pytest.param("real", marks=pytest.mark.real_redis)], indirect=True)


async def counts_of(access: RedisAccess) -> dict[str, int]:
    stats = await access.client.info("commandstats")
    return {name.removeprefix("cmdstat_"): int(of["calls"]) for name, of in stats.items()}


@REAL
async def test_a_look_at_a_user_reads_a_few_entries_of_a_full_stream(access: RedisAccess) -> None:
    acts = RedisOperatorActions(access.client)
    await acts.act("acme", [f"user-{number}" for number in range(EVENTS_CAP)], Cause.SUSPEND, BY)
    assert await access.client.xlen(KEYS.events) >= EVENTS_CAP
    users = ["user-9", f"user-{EVENTS_CAP - 1}", "nobody"]
    await access.client.config_resetstat()
    found = [await Events(access.client).history("acme", user, most=100) for user in users]
    assert [len(one.events) for one in found] == [1, 1, 0]
    assert all(one.following is None for one in found)
    counts = await counts_of(access)
    assert counts["fcall"] == len(users)
    assert counts["xrange"] <= 15 * len(users), "the oldest, and of 4,096 buckets the few events of this one"
    assert counts.get("xrevrange", 0) == 0
    assert await access.client.hlen(KEYS.trails) <= 4097, "whatever the number of users"


@REAL
async def test_a_look_behind_the_links_of_an_earlier_version_reads_a_bounded_part(access: RedisAccess) -> None:
    await write_as_an_earlier_version(access, 5000)
    await access.client.config_resetstat()
    page = await Events(access.client).history("acme", "alice", most=100)
    assert page.events == ()
    assert page.following == f"{1000 + 5000 - 1 - EXAMINED}-0"
    assert (await counts_of(access))["xrevrange"] <= EXAMINED // 100 + 1


@REAL
async def test_a_bucket_that_one_user_fills_is_read_in_bounded_pages(access: RedisAccess) -> None:
    acts, (busy, quiet) = RedisOperatorActions(access.client), of_one_bucket(2)
    await acts.restrict("acme", quiet, "pay", BY)
    for _ in range(EXAMINED // 2 + 50):
        await acts.restrict("acme", busy, "pay", BY)
        await acts.unrestrict("acme", busy, "pay", BY)
    first = await Events(access.client).history("acme", quiet, most=100)
    assert first.events == ()
    assert first.following is not None
    assert [event.fields["change"] for event in await history(access, quiet)] == ["set"]


async def test_the_links_go_with_the_stream(admissions: Admissions, access: RedisAccess) -> None:
    await admissions.ask(ask_about("alice", expires_ms=now_ms() - HOUR_MS))
    assert await access.client.exists(KEYS.trails) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.store.sessions.expired_rules.EVENTS_TTL_MS", -1)
        await sweeper(access).sweep()
    assert await access.client.exists(KEYS.events, KEYS.trails) == 0
