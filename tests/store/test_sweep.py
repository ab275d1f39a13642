"""The sweep: expiry, removal, and counts and indexes that stay right; on fakeredis and on a real Redis."""

from collections.abc import Sequence

import pytest

from service.core.operator_actions import Author
from service.core.sessions import Cause, Status
from service.store.admissions.batcher import Admissions
from service.store.connection.client import RedisAccess
from service.store.events.stream import Events
from service.store.keyspace import ENDED, KEPT, NAMES, keys_of
from service.store.sessions.expiry_sweep import BITE, TOGETHER, Sweeper, SweepRules, Swept
from service.store.sessions.listing import Sessions
from service.store.sessions.operator_actions import RedisOperatorActions
from tests.store.making import HOUR_MS, ask_about, now_ms, sweeper


async def test_who_is_logged_in_past_the_expiry_becomes_expired_with_one_event(
    admissions: Admissions, access: RedisAccess
) -> None:
    await admissions.ask(ask_about("alice", expires_ms=now_ms() - 1))
    await admissions.ask(ask_about("bob"))
    assert await sweeper(access, retention_ms=HOUR_MS).sweep() == Swept(expired=1, removed=0)
    assert await sweeper(access, retention_ms=HOUR_MS).sweep() == Swept(expired=0, removed=0), "it is idempotent"
    session = await Sessions(access.client).get("acme", "alice")
    assert session is not None
    assert (session.status, session.previous) == (Status.EXPIRED, Status.LOGGED_IN)
    events = (await Events(access.client).history("acme", "alice", most=9)).events
    assert [(event.fields["to"], event.fields["by"]) for event in events] == [
        ("expired", "sweep"),
        ("logged_in", "user"),
    ]


async def test_the_tenants_leeway_is_waited_for(admissions: Admissions, access: RedisAccess) -> None:
    await admissions.ask(ask_about("alice", expires_ms=now_ms() - 1000))
    assert await sweeper(access, {"acme": 60_000}).sweep() == Swept(0, 0)


async def test_a_later_token_puts_the_expiry_off(admissions: Admissions, access: RedisAccess) -> None:
    await admissions.ask(ask_about("alice", expires_ms=now_ms() - 1))
    await admissions.ask(ask_about("alice", expires_ms=now_ms() + HOUR_MS))
    assert await sweeper(access).sweep() == Swept(0, 0)


@pytest.mark.parametrize("cause", [Cause.REQUEST, Cause.LOGOUT])
async def test_past_the_retention_record_and_indexes_are_gone(
    admissions: Admissions, access: RedisAccess, cause: Cause
) -> None:
    await admissions.ask(ask_about("alice", cause=cause, expires_ms=now_ms() - HOUR_MS - 1))
    first = await sweeper(access, retention_ms=0).sweep()
    second = await sweeper(access, retention_ms=0).sweep()
    assert first.removed + second.removed == 1
    keys = keys_of("acme")
    assert await access.client.exists(keys.user("alice"), keys.expiring, keys.ending, *keys.by_status.values()) == 0


@pytest.mark.parametrize("cause", [Cause.SUSPEND, Cause.TERMINATE])
async def test_what_an_operator_decided_stays(admissions: Admissions, access: RedisAccess, cause: Cause) -> None:
    await admissions.ask(ask_about("alice", expires_ms=now_ms() - 9 * HOUR_MS))
    await RedisOperatorActions(access.client).act("acme", ["alice"], cause, Author("root"))
    assert await sweeper(access, retention_ms=0).sweep() == Swept(0, 0)
    assert await Sessions(access.client).get("acme", "alice") is not None
    assert await access.client.zrange(keys_of("acme").expiring, 0, -1, withscores=True) == [(b"alice", KEPT)]


async def test_a_backlog_of_many_bites_is_worked_off_in_one_round(admissions: Admissions, access: RedisAccess) -> None:
    for i in range(250):
        await admissions.ask(ask_about(f"u{i}", expires_ms=now_ms() - 1))
    assert await sweeper(access).sweep() == Swept(expired=250, removed=0)
    counts = (await Sessions(access.client).counts(["acme"]))["acme"]
    assert (counts[Status.LOGGED_IN], counts[Status.EXPIRED]) == (0, 250)


async def test_what_the_index_says_wrongly_is_put_right(admissions: Admissions, access: RedisAccess) -> None:
    keys = keys_of("acme")
    await admissions.ask(ask_about("alice"))
    await access.client.zadd(keys.expiring, {"alice": 1, "ghost": 1, "frozen": 1})
    await access.client.zadd(keys.ending, {"alice": 1})
    await access.client.zadd(keys.by_status[Status.EXPIRED], {"ghost": 1})
    await access.client.set(keys.user("frozen"), "s- 1 1 0")
    assert await sweeper(access).sweep() == Swept(0, 0)
    assert (await access.client.zscore(keys.expiring, "alice") or 0) > now_ms()
    assert await access.client.zrange(keys.expiring, 0, -1) == [b"alice", b"frozen"]
    assert await access.client.zscore(keys.expiring, "frozen") == KEPT
    assert await access.client.zcard(keys.ending) == 0
    assert await access.client.zcard(keys.by_status[Status.EXPIRED]) == 0


async def test_one_worker_sweeps_at_a_time(access: RedisAccess) -> None:
    first, second = sweeper(access), sweeper(access)
    assert await first.hold_lease()
    assert await first.hold_lease()
    assert not await second.hold_lease()
    until_ms = int((await access.client.get(NAMES.sweeper)).split()[1])
    assert 0 < until_ms - now_ms() <= 15_000, "whoever dies loses it"
    await second.release()
    assert not await second.hold_lease(), "nobody gives up another's lease"
    await first.release()
    assert await second.hold_lease()


@pytest.mark.parametrize("value", ["another", "another 1", "another 99999999999999"])
async def test_a_lease_that_ran_out_or_that_a_clock_set_back_left_behind_is_taken(
    access: RedisAccess, value: str
) -> None:
    await access.client.set(NAMES.sweeper, value)
    assert await sweeper(access).hold_lease()
    assert not await sweeper(access).hold_lease()


async def test_a_tenant_that_left_the_configuration_is_swept_until_nothing_is_left(
    admissions: Admissions, access: RedisAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sweeper(access).sweep()
    await admissions.ask(ask_about("alice", expires_ms=now_ms() - HOUR_MS - 1))
    gone = sweeper(access, {"globex": 0}, retention_ms=0)
    await gone.sweep()
    await gone.sweep()
    assert await Sessions(access.client).get("acme", "alice") is None
    assert await access.client.smembers(NAMES.tenants) == {b"acme", b"globex"}, "its events are kept for a month"
    monkeypatch.setattr("service.store.sessions.expired_rules.EVENTS_TTL_MS", -1)
    await sweeper(access, {"globex": 0}, retention_ms=HOUR_MS).sweep()
    assert await access.client.smembers(NAMES.tenants) == {b"globex"}
    assert await access.client.exists(keys_of("acme").events) == 0


async def test_a_retention_or_leeway_that_was_lowered_holds_for_those_already_there(
    admissions: Admissions, access: RedisAccess
) -> None:
    await admissions.ask(ask_about("alice", cause=Cause.LOGOUT, expires_ms=now_ms() - 10_000))
    await admissions.ask(ask_about("bob", expires_ms=now_ms() - 10_000))
    assert await sweeper(access, {"acme": 60_000}, retention_ms=HOUR_MS).sweep() == Swept(0, 0)
    assert await sweeper(access, {"acme": 5_000}, retention_ms=0).sweep() == Swept(expired=1, removed=1)


async def test_what_is_wrong_with_one_tenant_keeps_no_other_from_being_swept(
    access: RedisAccess, admissions: Admissions
) -> None:
    await admissions.ask(ask_about("alice", expires_ms=now_ms() - 1000))
    for broken in ("aaa", "zzz"):
        await access.client.set(f"rc:{{{broken}}}:expiring", "no sorted set")
    await access.client.sadd("rc:tenants", b"\xff not a name")
    assert (await sweeper(access, {"aaa": 0, "acme": 0, "zzz": 0}).sweep()).expired == 1


async def count_of(access: RedisAccess, command: str) -> int:
    stats = await access.client.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


@pytest.mark.parametrize("access", [pytest.param("real", marks=pytest.mark.real_redis)], indirect=True)
async def test_a_bite_is_one_call_that_publishes_once(admissions: Admissions, access: RedisAccess) -> None:
    for number in range(4 * BITE):
        await admissions.ask(ask_about(f"u{number}", expires_ms=now_ms() - 1))
    await access.client.config_resetstat()
    assert (await sweeper(access, retention_ms=HOUR_MS).sweep()).expired == 4 * BITE
    assert await count_of(access, "publish") == 4
    assert await count_of(access, "zrem") <= 2 * 4 + 1, "each index is written once a bite, the rules once"
    assert await count_of(access, "fcall") <= 4 + 2, "the first look, the bites, and the rules of the tenant"
    assert len(await access.client.xrange(keys_of("acme").events)) == 2 * 4 * BITE


async def test_who_is_due_by_two_indexes_is_expired_once(admissions: Admissions, access: RedisAccess) -> None:
    await admissions.ask(ask_about("alice", expires_ms=now_ms() - 1000))
    await access.client.zadd(keys_of("acme").ending, {"alice": 1})
    assert await sweeper(access, retention_ms=HOUR_MS).sweep() == Swept(expired=1, removed=0)
    events = await access.client.xrange(keys_of("acme").events)
    assert [fields[b"to"] for _, fields in events] == [b"logged_in", b"expired"]


async def test_the_sweep_writes_a_record_as_an_admission_would(admissions: Admissions, access: RedisAccess) -> None:
    expires_ms = now_ms() - 1000
    for user, issued_s in (("dated", 1.0), ("undated", None)):
        await admissions.ask(ask_about(user, expires_ms=expires_ms, issued_s=issued_s))
    before = {user: await Sessions(access.client).get("acme", user) for user in ("dated", "undated")}
    await sweeper(access, retention_ms=HOUR_MS).sweep()
    for user, was in before.items():
        session = await Sessions(access.client).get("acme", user)
        assert was is not None
        assert session is not None
        assert (session.status, session.previous) == (Status.EXPIRED, Status.LOGGED_IN)
        assert (session.seen_ms, session.expires_ms) == (was.seen_ms, was.expires_ms)
        assert session.undated is (user == "undated")
        assert await access.client.zscore(keys_of("acme").expiring, user) == ENDED + (session.since_ms or 0)
        assert await access.client.zscore(keys_of("acme").by_status[Status.EXPIRED], user) == was.seen_ms


CENTURY_MS = 100 * 365 * 24 * HOUR_MS


async def test_a_token_of_a_hundred_years_keeps_a_logged_out_user_no_longer_than_the_longest_lifetime(
    admissions: Admissions, access: RedisAccess
) -> None:
    for number in range(BITE + 5):
        await admissions.ask(ask_about(f"user-{number}", cause=Cause.LOGOUT, expires_ms=now_ms() + CENTURY_MS))
    keys = keys_of("acme")
    assert await sweeper(access, longest_ms=HOUR_MS).sweep() == Swept(0, 0), "an hour is not over"
    ends_ms = [score - ENDED for _, score in await access.client.zrange(keys.expiring, 0, -1, withscores=True)]
    assert len(ends_ms) == BITE + 5
    assert all(abs(end_ms - now_ms() - HOUR_MS) < 60_000 for end_ms in ends_ms)
    session = await Sessions(access.client).get("acme", "user-0")
    assert session is not None
    assert (session.expires_ms or 0) > now_ms() + CENTURY_MS // 2, "what is known of the token stays"
    removed = 0
    for _ in range(3):
        removed += (await sweeper(access, retention_ms=-HOUR_MS - 1000, longest_ms=HOUR_MS).sweep()).removed
    assert removed == BITE + 5


async def test_the_longest_lifetime_ends_no_login_whose_token_is_still_valid(
    admissions: Admissions, access: RedisAccess
) -> None:
    await admissions.ask(ask_about("alice", expires_ms=now_ms() + CENTURY_MS))
    assert await sweeper(access, retention_ms=0, longest_ms=1).sweep() == Swept(0, 0)
    session = await Sessions(access.client).get("acme", "alice")
    assert session is not None
    assert session.status is Status.LOGGED_IN


@pytest.mark.parametrize("listed_by_an_earlier_version", [False, True])
async def test_the_retention_begins_with_the_last_transition_where_that_is_after_the_expiry(
    admissions: Admissions, access: RedisAccess, listed_by_an_earlier_version: bool
) -> None:
    keys, expired_ms = keys_of("acme"), now_ms() - 2 * HOUR_MS
    await admissions.ask(ask_about("alice", expires_ms=expired_ms))
    await RedisOperatorActions(access.client).act("acme", ["alice"], Cause.OPERATOR_LOGOUT, Author("root"))
    if listed_by_an_earlier_version:
        await access.client.zadd(keys.expiring, {"alice": ENDED + expired_ms})
    assert await sweeper(access, retention_ms=HOUR_MS).sweep() == Swept(0, 0), "it was logged out a moment ago"
    session = await Sessions(access.client).get("acme", "alice")
    assert session is not None
    assert await access.client.zscore(keys.expiring, "alice") == ENDED + (session.since_ms or 0)
    assert await sweeper(access, retention_ms=0).sweep() == Swept(0, 1)


async def test_the_retention_begins_with_the_expiry_where_that_is_after_the_last_transition(
    admissions: Admissions, access: RedisAccess
) -> None:
    await admissions.ask(ask_about("alice", cause=Cause.LOGOUT, expires_ms=now_ms() + HOUR_MS))
    assert await sweeper(access, retention_ms=0).sweep() == Swept(0, 0)


async def test_a_transition_that_a_clock_far_ahead_dated_keeps_no_record(access: RedisAccess) -> None:
    """Logged out by a clock a century ahead, which was set right since; the token expired two hours ago."""
    keys, expired_ms = keys_of("acme"), now_ms() - 2 * HOUR_MS
    ahead_ms = now_ms() + CENTURY_MS
    await access.client.set(keys.user("alice"), f"oi {ahead_ms} {expired_ms} {expired_ms}")
    await access.client.zadd(keys.expiring, {"alice": ENDED + ahead_ms})
    await access.client.zadd(keys.by_status[Status.LOGGED_OUT], {"alice": expired_ms})
    removed = 0
    for _ in range(2):
        removed += (await sweeper(access, retention_ms=HOUR_MS).sweep()).removed
    assert removed == 1


@pytest.mark.parametrize("access", [pytest.param("real", marks=pytest.mark.real_redis)], indirect=True)
async def test_a_round_over_thousands_of_idle_tenants_is_a_call_for_each_fifty(access: RedisAccess) -> None:
    """Each tenant was asked about by two calls, which took a worker some seconds of each minute with 10,000 of them."""
    tenants = {f"t{number}": 0 for number in range(3000)}
    sweeping = sweeper(access, tenants)
    await sweeping.sweep()
    for rules_too in (False, True):
        if rules_too:
            sweeping = sweeper(access, tenants)
        await access.client.config_resetstat()
        assert await sweeping.sweep() == Swept(0, 0)
        calls = await count_of(access, "fcall")
        assert calls <= (2 if rules_too else 1) * 3000 // TOGETHER


async def test_who_is_due_among_thousands_of_tenants_is_swept_in_the_first_round(
    admissions: Admissions, access: RedisAccess
) -> None:
    tenants = {f"t{number}": 0 for number in range(250)} | {"acme": 0}
    await admissions.ask(ask_about("alice", expires_ms=now_ms() - 1000))
    await admissions.ask(ask_about("bob", tenant="t77", expires_ms=now_ms() - 1000))
    await access.client.hset(keys_of("t200").rules, mapping={"pay": 1})
    await access.client.zadd(keys_of("t200").timed, {"": 1})
    swept: list[tuple[str, int, int]] = []
    rules = SweepRules(tenants, HOUR_MS)
    await Sweeper(access.client, lambda: rules, lambda *of: swept.append(of)).sweep()
    assert [one for one in swept if one[1]] == [("acme", 1, 0), ("t77", 1, 0)]
    assert await access.client.exists(keys_of("t200").rules) == 0, "a rule that has ended is removed"


async def test_where_a_round_is_too_long_the_next_one_goes_on_behind_it(
    access: RedisAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a Cluster, where each tenant is a call of its own."""
    monkeypatch.setattr("service.store.sessions.expiry_sweep.TOGETHER", 1)
    monkeypatch.setattr("service.store.sessions.expiry_sweep.MOST_CALLS", 4)
    monkeypatch.setattr("service.store.sessions.expiry_sweep.ROUNDS", 9)
    tenants = {f"t{number}": 0 for number in range(10)}
    sweeping, asked = sweeper(access, tenants), []
    due_of = sweeping._due_of

    async def noting(together: Sequence[str], rules: SweepRules) -> list[list[bytes]]:
        asked.append(list(together))
        return await due_of(together, rules)

    monkeypatch.setattr(sweeping, "_due_of", noting)
    for _ in range(3):
        await sweeping.sweep()
    assert [one for [one] in asked] == [f"t{number % 10}" for number in range(12)]
