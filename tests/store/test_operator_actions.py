"""Operators' actions on each kind of Redis: what they change, their events, and that they apply at once."""

from typing import Any

import pytest

from service.core.clocks import FORGIVEN_SKEW_S
from service.core.errors import StoreUnavailable
from service.core.limits import Limit, Per
from service.core.operator_actions import Author, Override, Revocation, Rules
from service.core.sessions import RECORDED, Cause, Refusal, Status
from service.store.admissions.batcher import Admissions
from service.store.connection.client import RedisAccess
from service.store.events.stream import Events
from service.store.keyspace import keys_of
from service.store.sessions.listing import Sessions
from service.store.sessions.operator_actions import TOGETHER, RedisOperatorActions
from tests.store.making import HOUR_MS, ask_about, now_ms

BY = Author("root", "10.0.0.9", "req-7", "because")
LIMIT = Limit("some", Per.IP, 3, 60)


@pytest.fixture
def acts(access: RedisAccess) -> RedisOperatorActions:
    return RedisOperatorActions(access.client)


async def reported(access: RedisAccess, user: str = "alice") -> list[dict[str, str]]:
    """The user's events, newest first, without who and why."""
    events = (await Events(access.client).history("acme", user, most=50)).events
    for event in events:
        if event.fields["type"] != "transition" or event.fields["cause"] not in ("request", "logout"):
            about = [event.fields.pop(name) for name in ("by", "ip", "request", "reason")]
            assert about == ["root", "10.0.0.9", "req-7", "because"]
    return [event.fields for event in events]


async def test_an_action_on_many_reports_the_result_for_each(
    admissions: Admissions, acts: RedisOperatorActions, access: RedisAccess
) -> None:
    users = [f"u{n}" for n in range(230)]
    for user in users[:3]:
        await admissions.ask(ask_about(user))
    await acts.act("acme", ["u1"], Cause.TERMINATE, BY)
    done = await acts.act("acme", users, Cause.OPERATOR_LOGOUT, BY)
    assert [one.user for one in done] == users
    assert [(one.came_from, one.outcome) for one in done[:4]] == [
        (Status.LOGGED_IN, Status.LOGGED_OUT),
        (Status.TERMINATED, Refusal.CONFLICT),
        (Status.LOGGED_IN, Status.LOGGED_OUT),
        (Status.NONE, Refusal.UNKNOWN),
    ]
    assert {one.outcome for one in done[3:]} == {Refusal.UNKNOWN}
    counts = (await Sessions(access.client).counts(["acme"]))["acme"]
    assert (counts[Status.LOGGED_OUT], counts[Status.TERMINATED]) == (2, 1)


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("kept", ["a text", "another type", "rules that are no hash"])
async def test_what_cannot_be_read_of_one_user_keeps_no_other_from_being_acted_on(
    admissions: Admissions, acts: RedisOperatorActions, access: RedisAccess, kept: str, everywhere: bool
) -> None:
    users = ["alice", "broken", "carol"]
    for user in users:
        await admissions.ask(ask_about(user))
    keys = keys_of("acme")
    if kept == "a text":
        await access.client.set(keys.user("broken"), "garbage")
    elif kept == "another type":
        await access.client.delete(keys.user("broken"))
        await access.client.sadd(keys.user("broken"), "x")
    else:
        await access.client.set(keys.user_rules("broken"), "no hash")
    before = await access.client.dump(keys.user("broken"))
    done = await acts.act("acme", users, Cause.OPERATOR_LOGOUT, BY, everywhere=everywhere)
    readable = kept == "rules that are no hash" and not everywhere
    assert [one.outcome for one in done] == [
        Status.LOGGED_OUT,
        Status.LOGGED_OUT if readable else Refusal.UNREADABLE,
        Status.LOGGED_OUT,
    ]
    assert [one.revokes for one in done] == [everywhere, False, everywhere]
    assert (await access.client.dump(keys.user("broken")) == before) is not readable
    for user in ("alice", "carol"):
        assert (await Sessions(access.client).get("acme", user)).status is Status.LOGGED_OUT  # type: ignore[union-attr]


async def test_a_logout_everywhere_refuses_the_tokens_issued_until_now(
    admissions: Admissions, acts: RedisOperatorActions, access: RedisAccess
) -> None:
    await admissions.ask(ask_about("alice", issued_s=now_ms() / 1000))
    [done] = await acts.act("acme", ["alice"], Cause.OPERATOR_LOGOUT, BY, everywhere=True)
    assert done.outcome is Status.LOGGED_OUT
    for issued_s in (now_ms() / 1000 - 5, None):
        refused = await admissions.ask(ask_about("alice", issued_s=issued_s))
        assert refused.revoked
        assert refused.came_from is None
    assert (await Sessions(access.client).get("acme", "alice")).status is Status.LOGGED_OUT  # type: ignore[union-attr]
    assert not (await admissions.ask(ask_about("bob"))).revoked, "it is about one user"
    fresh = await admissions.ask(ask_about("alice", issued_s=now_ms() / 1000 + FORGIVEN_SKEW_S + 2))
    assert (fresh.revoked, fresh.came_from) == (False, Status.LOGGED_OUT)
    assert [event["type"] for event in await reported(access)] == [
        "transition",
        "revocation",
        "transition",
        "transition",
    ]


async def test_a_revocation_outlives_the_record_and_is_lifted_by_an_operator_alone(
    admissions: Admissions, acts: RedisOperatorActions, access: RedisAccess
) -> None:
    await admissions.ask(ask_about("alice"))
    before_s = (await acts.revoke("acme", "alice", BY)).before_s
    assert 0 <= before_s - now_ms() // 1000 <= FORGIVEN_SKEW_S
    assert await acts.forget("acme", "alice", BY) is Status.LOGGED_IN
    assert (await admissions.ask(ask_about("alice"))).revoked
    assert (await acts.rules("acme", "alice")).revoked_before_s == before_s
    assert await access.client.pttl("rc:{acme}:rules:alice") == -1
    await acts.restore("acme", "alice", BY)
    assert not (await admissions.ask(ask_about("alice"))).revoked
    changes = [(event["type"], event.get("change")) for event in await reported(access)]
    assert changes[1:4] == [("revocation", "lifted"), ("forgotten", None), ("revocation", "set")]


async def test_a_revocation_of_a_tenant_is_about_all_of_its_users(
    admissions: Admissions, acts: RedisOperatorActions
) -> None:
    moment_s = now_ms() // 1000 - 100
    assert await acts.revoke("acme", None, BY, before_ms=moment_s * 1000 + 999) == Revocation(moment_s, applied=True)
    for user, issued_s, revoked in [("a", None, True), ("b", moment_s + 0.9, True), ("c", moment_s + 1, False)]:
        assert (await admissions.ask(ask_about(user, issued_s=issued_s))).revoked is revoked, user
    await acts.revoke("acme", "c", BY, before_ms=(moment_s + 50) * 1000)
    assert (await admissions.ask(ask_about("c", issued_s=moment_s + 50))).revoked, "the later of the two holds"
    assert (await admissions.ask(ask_about("b", issued_s=moment_s))).revoked
    assert not (await admissions.ask(ask_about("a", tenant="globex"))).revoked
    await acts.restore("acme", None, BY)
    assert not (await admissions.ask(ask_about("a"))).revoked
    assert (await admissions.ask(ask_about("c", issued_s=moment_s + 50))).revoked, "its own stays"


async def test_a_restriction_survives_a_revocation_and_the_reverse(
    admissions: Admissions, acts: RedisOperatorActions, access: RedisAccess
) -> None:
    await acts.revoke("acme", "alice", BY)
    await acts.restrict("acme", "alice", "status", BY, until_ms=now_ms() + HOUR_MS)
    await access.client.hset("rc:{acme}:rules", "past", now_ms() - HOUR_MS)
    rules = await acts.rules("acme", "alice")
    assert rules.revoked_before_s is not None
    assert list(rules.restrictions) == ["status"]
    await acts.restore("acme", "alice", BY)
    assert (await admissions.ask(ask_about("alice"))).restricted == "status"
    assert await acts.unrestrict("acme", "alice", "status", BY)
    assert await acts.rules("acme", "alice") == Rules()


async def test_who_is_forgotten_is_in_no_index(
    admissions: Admissions, acts: RedisOperatorActions, access: RedisAccess
) -> None:
    for cause in (Cause.REQUEST, Cause.LOGOUT):
        await admissions.ask(ask_about("alice", cause=cause))
        assert await acts.forget("acme", "alice", BY) in RECORDED
        assert await Sessions(access.client).get("acme", "alice") is None
        assert sum((await Sessions(access.client).counts(["acme"]))["acme"].values()) == 0
        assert await access.client.exists("rc:{acme}:expiring", "rc:{acme}:ending") == 0
    assert await acts.forget("acme", "alice", BY) is Status.NONE
    await acts.act("acme", ["alice"], Cause.TERMINATE, BY)
    assert await acts.forget("acme", "alice", BY) is Status.TERMINATED
    assert await Sessions(access.client).get("acme", "alice") is not None


async def test_a_changed_limit_holds_for_the_next_request_with_what_was_admitted_counted(
    admissions: Admissions, acts: RedisOperatorActions, access: RedisAccess
) -> None:
    question = ask_about("alice", limits=[LIMIT])
    for _ in range(2):
        assert not (await admissions.ask(question)).refused
    assert await acts.set_limit("acme", LIMIT, 2, 120, BY) == Override(applied=True, previous=(3, 60))
    assert await acts.set_limit("acme", LIMIT, 2, 120, BY) == Override(applied=False, previous=(2, 120))
    refused = await admissions.ask(question)
    assert refused.refused
    assert [(one.limit.requests, one.limit.window_s, one.used) for one in refused.limit_states] == [(2, 120, 2)]
    anonymous = ask_about("alice", limits=[LIMIT])
    anonymous.terms, anonymous.user = anonymous.terms.anonymous, None
    assert (await admissions.ask(anonymous)).refused, "it holds without a good token, too"
    assert (await admissions.ask(ask_about("a", tenant="globex", limits=[LIMIT]))).limit_states[0].limit is LIMIT
    assert (await acts.rules("acme")).limits == {"some": (2, 120)}
    await acts.set_limit("acme", LIMIT, 5000, 60, BY)
    limit_state = (await RedisOperatorActions(access.client).peek("acme", [(LIMIT, "10.0.0.1")]))[0]
    assert (limit_state.limit.requests, limit_state.used) == (5000, 2)
    assert await acts.unset_limit("acme", "some", LIMIT, BY)
    assert not await acts.unset_limit("acme", "some", LIMIT, BY)
    assert (await acts.rules("acme")).limits == {}
    assert await access.client.exists("rc:{acme}:rules") == 0


async def test_the_limits_that_are_set_for_many_tenants_are_read_by_a_round_trip_for_each_fifty(
    acts: RedisOperatorActions, access: RedisAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenants = [f"t{number}" for number in range(3 * TOGETHER - 1)]
    await acts.set_limit("t7", LIMIT, 7, 30, BY)
    await acts.restrict("t7", None, "pay", BY)
    await acts.revoke("t8", None, BY)
    await acts.set_limit("t149", LIMIT, 9, 40, BY)
    await acts.set_limit("t148", LIMIT, 9, 40, BY)
    trips = 0
    kind = type(access.client.pipeline(transaction=False))
    really = kind.execute

    async def counted(*args: Any, **options: Any) -> Any:
        nonlocal trips
        trips += 1
        return await really(*args, **options)

    async def never(*args: Any, **options: Any) -> Any:
        raise AssertionError("asked about one by one")

    monkeypatch.setattr(kind, "execute", counted)
    monkeypatch.setattr(access.client, "execute_command", never)
    assert await acts.limits_set(tenants) == {"t7": {"some": (7, 30)}, "t148": {"some": (9, 40)}}
    assert trips == 3


async def test_looking_at_a_limit_uses_nothing_up(admissions: Admissions, acts: RedisOperatorActions) -> None:
    question = ask_about("alice", limits=[LIMIT])
    await admissions.ask(question)
    for _ in range(5):
        [limit_state] = await acts.peek("acme", [(LIMIT, "10.0.0.1")])
        assert (limit_state.used, limit_state.remaining, limit_state.over) == (1, 2, False)
        assert 0 < limit_state.reset_s <= 60
    [unused] = await acts.peek("acme", [(LIMIT, "10.0.0.2")])
    assert (unused.used, unused.reset_us) == (0, 0)
    for _ in range(2):
        await admissions.ask(question)
    [full] = await acts.peek("acme", [(LIMIT, "10.0.0.1")])
    assert full.over
    assert await acts.reset_limit("acme", "some", "10.0.0.1", BY)
    assert not await acts.reset_limit("acme", "some", "10.0.0.1", BY)
    assert (await acts.peek("acme", [(LIMIT, "10.0.0.1")]))[0].used == 0


async def test_what_operators_set_is_reported_as_events(acts: RedisOperatorActions, access: RedisAccess) -> None:
    await acts.restrict("acme", "alice", "pay", BY)
    await acts.restrict("acme", "alice", "pay", BY)
    await acts.restrict("acme", "alice", "fly", BY, until_ms=4_000_000_000_000)
    await acts.unrestrict("acme", "alice", "pay", BY)
    assert await reported(access) == [
        {"type": "restriction", "capability": "pay", "change": "lifted", "user": "alice"},
        {"type": "restriction", "capability": "fly", "change": "set", "user": "alice", "until": "4000000000000"},
        {"type": "restriction", "capability": "pay", "change": "set", "user": "alice"},
    ]


async def test_the_event_of_a_limit_has_the_values_before_and_after(
    acts: RedisOperatorActions, access: RedisAccess
) -> None:
    await acts.set_limit("acme", LIMIT, 7, 30, BY)
    await acts.set_limit("acme", LIMIT, 9, 40, BY)
    await acts.set_limit("acme", LIMIT, 9, 40, BY)
    await acts.unset_limit("acme", "some", LIMIT, BY)
    await acts.set_limit("acme", LIMIT, 5, 50, BY)
    await acts.unset_limit("acme", "some", None, BY)
    events = await Events(access.client).latest("acme", most=9)
    found = [
        (event["change"], *(event.get(name) for name in ("requests", "window", "previousRequests", "previousWindow")))
        for event in [one.as_dict() for one in events]
    ]
    assert found[::-1] == [
        ("set", 7, 30, 3, 60),
        ("set", 9, 40, 7, 30),
        ("lifted", 3, 60, 9, 40),
        ("set", 5, 50, 3, 60),
        ("lifted", None, None, 5, 50),
    ]


async def test_a_broken_key_of_rules_is_its_tenants_error_alone(admissions: Admissions, access: RedisAccess) -> None:
    await access.client.set("rc:{acme}:rules", "what is this")
    with pytest.raises(StoreUnavailable):
        await admissions.ask(ask_about("alice"))
    assert (await admissions.ask(ask_about("bob", tenant="globex"))).session is not None
