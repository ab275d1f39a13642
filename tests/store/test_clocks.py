"""What operators and the sweep do while Redis's clock differs from the service's; a real server under libfaketime."""

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from service.core.admission import judge
from service.core.clocks import FORGIVEN_SKEW_S, ClockDifferences
from service.core.errors import InvalidRequest, InvalidUserToken
from service.core.operator_actions import Author, Restriction
from service.core.sessions import Cause, Status
from service.redis_check import check_redis
from service.store.admissions.batcher import Admissions
from service.store.clock_comparison import ClockComparison
from service.store.connection.client import RedisAccess
from service.store.events.stream import Events
from service.store.sessions.expiry_sweep import Sweeper, SweepRules, Swept
from service.store.sessions.listing import Sessions
from service.store.sessions.operator_actions import RedisOperatorActions
from tests.faketime import FakeClockRedis, emptied, redis_with_a_clock
from tests.kit import settings
from tests.store.making import HOUR_MS, ask_about, now_ms

pytestmark = pytest.mark.real_redis
BY = Author("root", "10.0.0.9", "req-7", "because")
OFFSETS_S = [-3600, -3, 0, 3, 40]


@pytest.fixture(scope="module")
def server() -> Iterator[FakeClockRedis]:
    with redis_with_a_clock() as started:
        yield started


@pytest.fixture
async def access(server: FakeClockRedis) -> AsyncIterator[RedisAccess]:
    async with emptied(server) as made:
        yield made


@pytest.fixture
def acts(access: RedisAccess) -> RedisOperatorActions:
    return RedisOperatorActions(access.client)


async def is_refused(admissions: Admissions, issued_s: float | None) -> bool:
    return (await admissions.ask(ask_about("alice", issued_s=issued_s))).revoked


@pytest.mark.parametrize("offset_s", OFFSETS_S)
@pytest.mark.parametrize("everywhere", [False, True])
async def test_a_revocation_now_covers_every_token_that_exists_whatever_redis_s_clock_says(
    server: FakeClockRedis, admissions: Admissions, acts: RedisOperatorActions, offset_s: int, everywhere: bool
) -> None:
    """`revocation {}` and "log out everywhere"; with an issuer whose clock is up to the forgiven skew ahead."""
    await admissions.ask(ask_about("alice"))
    server.set_ahead(offset_s)
    began_s = time.time()
    if everywhere:
        [done] = await acts.act("acme", ["alice"], Cause.OPERATOR_LOGOUT, BY, everywhere=True)
        before_s, applied = done.revoked_before_s or 0, done.applied
    else:
        held = await acts.revoke("acme", "alice", BY)
        before_s, applied = held.before_s, held.applied
    assert applied
    latest = max(0, offset_s) + FORGIVEN_SKEW_S
    assert int(began_s) + latest <= before_s <= int(time.time()) + latest
    for issued_s in (None, began_s - HOUR_MS, began_s, began_s + 3, began_s + FORGIVEN_SKEW_S, before_s):
        assert await is_refused(admissions, issued_s), issued_s
    assert not await is_refused(admissions, before_s + 1)


async def test_a_clock_that_is_set_back_lets_no_revoked_token_in_and_keeps_no_new_one_out(
    server: FakeClockRedis, admissions: Admissions, acts: RedisOperatorActions
) -> None:
    stolen_s = time.time()
    first = await acts.revoke("acme", "alice", BY)
    server.set_ahead(-7200)
    for _ in range(2):
        assert await is_refused(admissions, stolen_s)
        assert not await is_refused(admissions, first.before_s + 1)
        await admissions.ask(ask_about("alice", cause=Cause.LOGOUT, issued_s=first.before_s + 1))
        again = await acts.revoke("acme", "alice", BY)
        assert again.before_s >= first.before_s
        first = again  # another second may have begun
    slow = RedisOperatorActions(acts._client, clock_ms=lambda: now_ms() - HOUR_MS)
    held = await slow.revoke("acme", "alice", BY)
    assert (held.before_s, held.applied) == (again.before_s, False)


async def test_last_seen_is_kept_up_although_the_clock_was_set_back(
    server: FakeClockRedis, admissions: Admissions, access: RedisAccess
) -> None:
    server.set_ahead(7200)
    await admissions.ask(ask_about("alice"))
    server.set_ahead(0)
    await admissions.ask(ask_about("alice"))
    session = await Sessions(access.client).get("acme", "alice")
    assert abs((session.seen_ms or 0) - now_ms()) < 60_000  # type: ignore[union-attr]


@pytest.mark.parametrize("offset_s", [-60, 60])
async def test_a_restriction_is_taken_enforced_and_listed_by_one_clock(
    server: FakeClockRedis, admissions: Admissions, acts: RedisOperatorActions, offset_s: int
) -> None:
    server.set_ahead(offset_s)
    redis_ms = now_ms() + offset_s * 1000
    for user in ("alice", None):
        with pytest.raises(InvalidRequest) as caught:
            await acts.restrict("acme", user, "over", BY, until_ms=redis_ms - 1000)
        assert [field for field, _ in caught.value.validation] == ["until"]
        assert (await acts.restrict("acme", user, "status", BY, until_ms=redis_ms + 30_000)).applied
        assert list((await acts.rules("acme", user)).restrictions) == ["status"]
        assert (await admissions.ask(ask_about("alice"))).restricted == "status"
        server.set_ahead(offset_s + 31)
        assert (await acts.rules("acme", user)).restrictions == {}
        assert (await admissions.ask(ask_about("alice"))).restricted is None
        assert not await acts.unrestrict("acme", user, "status", BY), "there is none any more"
        server.set_ahead(offset_s)


async def test_a_restriction_outlives_a_clock_that_was_ahead_for_a_while(
    server: FakeClockRedis, admissions: Admissions, acts: RedisOperatorActions, access: RedisAccess
) -> None:
    """What is over by one clock alone is removed neither by the sweep nor by an act."""
    for user in ("alice", None):
        await acts.restrict("acme", user, f"of-{user}", BY, until_ms=now_ms() + HOUR_MS)
    server.set_ahead(7200)
    question = ask_about("alice", capabilities=("of-alice",))
    assert (await admissions.ask(question)).restricted is None
    sweeper = Sweeper(access.client, lambda: SweepRules({"acme": 0}, HOUR_MS))
    await sweeper.sweep()
    for user in ("alice", None):
        await acts.restrict("acme", user, "another", BY, until_ms=now_ms() + 3 * HOUR_MS)
    server.set_ahead(0)
    assert (await admissions.ask(question)).restricted == "of-alice"
    assert (await admissions.ask(ask_about("bob", capabilities=("of-None",)))).restricted == "of-None"
    for user in ("alice", None):
        assert sorted((await acts.rules("acme", user)).restrictions) == ["another", f"of-{user}"]


@pytest.mark.parametrize("offset_s", [-60, 60])
async def test_nobody_flaps_between_logged_in_and_expired_while_the_clocks_differ(
    server: FakeClockRedis, admissions: Admissions, access: RedisAccess, offset_s: int
) -> None:
    server.set_ahead(offset_s)
    expires_ms = now_ms() + 10_000
    judged_at_ms = [now_ms()]
    sweeper = Sweeper(access.client, lambda: SweepRules({"acme": 0}, HOUR_MS), clock_ms=lambda: judged_at_ms[0])
    for _ in range(3):
        await admissions.ask(ask_about("alice", expires_ms=expires_ms))
        assert await sweeper.sweep() == Swept(0, 0), "its token is still accepted"
    judged_at_ms[0] = expires_ms
    assert await sweeper.sweep() == Swept(expired=1, removed=0), "as soon as its token is refused"
    events = (await Events(access.client).history("acme", "alice", most=9)).events
    assert [event.fields["to"] for event in events] == ["expired", "logged_in"]


async def test_one_clock_that_is_far_ahead_removes_nobody(admissions: Admissions, access: RedisAccess) -> None:
    await admissions.ask(ask_about("alice", cause=Cause.LOGOUT))
    sweeper = Sweeper(
        access.client, lambda: SweepRules({"acme": 0}, HOUR_MS), clock_ms=lambda: now_ms() + 9_000_000_000
    )
    assert await sweeper.sweep() == Swept(0, 0)
    assert (await Sessions(access.client).get("acme", "alice")).status is Status.LOGGED_OUT  # type: ignore[union-attr]


async def test_the_difference_between_the_clocks_is_measured(server: FakeClockRedis, access: RedisAccess) -> None:
    reported: list[float] = []
    differences = ClockDifferences(reported.append)
    comparison = ClockComparison(access.client, differences)
    for offset_s, warning in [
        (0, []),
        (-3, ["The clock of Redis (primary) is 3.0 s behind the clock of the service"]),
        (40, ["The clock of Redis (primary) is 40.0 s ahead of the clock of the service"]),
        (0, []),
    ]:
        server.set_ahead(offset_s)
        await comparison.compare()
        assert abs(reported[-1] - offset_s) < 0.5
        assert differences.warnings() == warning


def test_check_redis_reports_the_difference_as_well(server: FakeClockRedis, tmp_path: Path) -> None:
    configured = settings(redis={"url": server.url})
    for offset_s, warning in [
        (0, []),
        (30, ["The clock of Redis (primary) is 30.0 s ahead of the clock of the service"]),
    ]:
        server.set_ahead(offset_s)
        assert check_redis(configured, tmp_path / "config.yaml") == ([], warning)


async def test_a_revocation_that_an_earlier_version_wrote_holds(
    admissions: Admissions, acts: RedisOperatorActions, access: RedisAccess
) -> None:
    """It is a second without a note of the skew; and it moves forward as any other."""
    old_s = now_ms() // 1000 - 100
    await access.client.hset("rc:{acme}:rules:alice", "<", old_s)
    await access.client.hset("rc:{acme}:rules", "<*", 1)
    assert await is_refused(admissions, old_s)
    assert not await is_refused(admissions, old_s + 1)
    assert (await acts.rules("acme", "alice")).revoked_before_s == old_s
    assert (await acts.revoke("acme", "alice", BY)).before_s > old_s
    assert await acts.restore("acme", "alice", BY)
    assert not await access.client.exists("rc:{acme}:rules:alice")


async def test_a_restriction_that_an_earlier_version_wrote_is_not_shortened(
    acts: RedisOperatorActions, access: RedisAccess
) -> None:
    until_ms = now_ms() + HOUR_MS
    await access.client.hset("rc:{acme}:rules:alice", mapping={"status": until_ms, "pay": 0})
    assert await acts.restrict("acme", "alice", "status", BY, until_ms=until_ms - 1) == Restriction(until_ms, False)
    assert await acts.restrict("acme", "alice", "pay", BY, until_ms=until_ms) == Restriction(None, False)


@pytest.mark.parametrize("user", ["alice", None])
async def test_a_revocation_that_a_clock_hours_ahead_has_set_is_told_when_it_refuses_a_login(
    server: FakeClockRedis, admissions: Admissions, acts: RedisOperatorActions, user: str | None
) -> None:
    """It has to cover every token that exists, so it holds; but nobody would know why logins are refused."""
    noted: list[tuple[str, int]] = []
    admissions.note_ahead = lambda tenant, accepted_from_s: noted.append((tenant, accepted_from_s))
    server.set_ahead(3 * 3600)
    held = await acts.revoke("acme", user, BY)
    assert abs(held.clocks_apart_s - 3 * 3600) <= 5
    server.set_ahead(0)
    refused = await admissions.ask(ask_about("alice", issued_s=time.time()))
    assert (refused.revoked, refused.revoked_ahead) == (True, True)
    assert refused.accepted_from_s == held.before_s + 1
    assert noted == [("acme", held.before_s + 1)]
    with pytest.raises(InvalidUserToken) as caught:
        judge(ask_about("alice", issued_s=time.time()), refused)
    assert "lies ahead of the clock" in caught.value.reason
    assert "lift it" in caught.value.reason
    assert await acts.restore("acme", user, BY)
    again = await acts.revoke("acme", user, BY)
    assert again.clocks_apart_s <= 1
    refused = await admissions.ask(ask_about("alice", issued_s=time.time()))
    assert (refused.revoked, refused.revoked_ahead) == (True, False), "as every revocation refuses the next seconds"
    assert not await is_refused(admissions, again.before_s + 1)
    assert len(noted) == 1


async def test_an_ordinary_revocation_is_not_taken_for_one_ahead(
    admissions: Admissions, acts: RedisOperatorActions
) -> None:
    await acts.revoke("acme", "alice", BY, skew_ms=300_000)
    refused = await admissions.ask(ask_about("alice", issued_s=time.time() - 60))
    assert (refused.revoked, refused.revoked_ahead) == (True, False)
