"""Repair: what a script left half done, or a hand, is found and mended, and it is said."""

import pytest
from structlog.testing import capture_logs

from service.core.operator_actions import Author
from service.core.sessions import Cause, Status
from service.store.admissions.batcher import Admissions
from service.store.connection.client import RedisAccess
from service.store.keyspace import ENDED, NAMES, keys_of
from service.store.sessions.listing import Sessions
from service.store.sessions.operator_actions import RedisOperatorActions
from service.store.sessions.repair import Repair, report
from tests.store.making import HOUR_MS, ask_about, now_ms, sweeper

BY = Author("root")
KEYS = keys_of("acme")


async def state(access: RedisAccess) -> dict[str, dict[bytes, float]]:
    """The indexes as they are."""
    names = [*KEYS.by_status.values(), KEYS.expiring, KEYS.ending]
    return {name: dict(await access.client.zrange(name, 0, -1, withscores=True)) for name in names}


async def seed(admissions: Admissions, access: RedisAccess) -> None:
    acts = RedisOperatorActions(access.client)
    for number in range(230):
        await admissions.ask(ask_about(f"u{number}", cause=Cause.LOGOUT if number % 3 else Cause.REQUEST))
    await acts.act("acme", ["u1", "unseen"], Cause.SUSPEND, BY)
    await acts.act("acme", ["u2"], Cause.TERMINATE, BY)
    await admissions.ask(ask_about("alice", tenant="globex"))


async def test_what_agrees_is_left_as_it_is(admissions: Admissions, access: RedisAccess) -> None:
    await seed(admissions, access)
    before = await state(access)
    found = await Repair(access.client).run()
    assert await state(access) == before
    assert set(found) == {"acme", "globex"}
    assert all(not (one.mended or one.unreadable or one.rules) for one in found.values())
    assert found["acme"].looked_at >= 231
    assert report("globex", found["globex"])[0].endswith("0 users mended")


async def test_indexes_are_made_to_agree_with_the_records(admissions: Admissions, access: RedisAccess) -> None:
    await seed(admissions, access)
    before, client = await state(access), access.client
    await client.zrem(KEYS.by_status[Status.LOGGED_IN], "u0")
    await client.zrem(KEYS.expiring, "u3")
    await client.zadd(KEYS.ending, {"u4": 1})
    await client.zadd(KEYS.by_status[Status.LOGGED_OUT], {"u6": 5})
    await client.zadd(KEYS.by_status[Status.EXPIRED], {"ghost": 5})
    await client.zrem(KEYS.by_status[Status.SUSPENDED], "unseen")
    found = await Repair(client).run()
    assert await state(access) == before
    assert found["acme"].mended == {"u0", "u3", "u4", "u6", "ghost", "unseen"}
    assert "6 users mended: 'ghost', 'u0'" in report("acme", found["acme"])[0]
    assert (await Repair(client).run())["acme"].mended == set(), "it is done"


async def test_half_a_logout_is_finished(admissions: Admissions, access: RedisAccess) -> None:
    """As an earlier version left it without the right to ZADD: the record says logged out, no index holds the user."""
    await admissions.ask(ask_about("alice"))
    record = (await access.client.get(KEYS.user("alice"))).decode()
    await access.client.set(KEYS.user("alice"), f"oi{record[2:]}")
    await access.client.zrem(KEYS.by_status[Status.LOGGED_IN], "alice")
    await access.client.zrem(KEYS.expiring, "alice")
    await Repair(access.client).run()
    counts = (await Sessions(access.client).counts(["acme"]))["acme"]
    assert (counts[Status.LOGGED_OUT], counts[Status.LOGGED_IN]) == (1, 0)
    assert (await access.client.zscore(KEYS.expiring, "alice") or 0) > ENDED


async def test_a_record_that_cannot_be_read_is_named_and_left(admissions: Admissions, access: RedisAccess) -> None:
    await admissions.ask(ask_about("alice"))
    await access.client.set(KEYS.user("broken"), "no record")
    await access.client.sadd(KEYS.user("of a wrong type"), "x")
    found = await Repair(access.client).run()
    assert found["acme"].unreadable == {"broken", "of a wrong type"}
    assert await access.client.get(KEYS.user("broken")) == b"no record"
    assert "2 records cannot be read" in report("acme", found["acme"])[1]


async def test_rules_are_looked_at_again_and_end_when_they_should(admissions: Admissions, access: RedisAccess) -> None:
    client, later_ms = access.client, now_ms() + HOUR_MS
    await client.hset(KEYS.user_rules("alice"), "status", later_ms)
    await client.pexpireat(KEYS.user_rules("alice"), later_ms)  # as an earlier version kept it
    await client.hset(KEYS.user_rules("bob"), "<", now_ms() // 1000)
    await client.hset(KEYS.user_rules("carol"), "status", 0)
    await client.set(KEYS.user_rules("broken"), "no hash")
    assert (await admissions.ask(ask_about("alice"))).restricted is None, "nothing says that there are such rules"
    found = await Repair(client).run()
    assert found["acme"].rules == {"alice", "bob", "carol"}
    assert (await admissions.ask(ask_about("alice"))).restricted == "status"
    assert (await admissions.ask(ask_about("bob", issued_s=1))).revoked
    assert await client.pttl(KEYS.user_rules("alice")) == -1
    assert await client.zscore(KEYS.timed, "alice") == later_ms
    assert (await Repair(client).run())["acme"].rules == set()


async def test_what_an_earlier_version_kept_is_taken_over_at_the_first_start_alone(access: RedisAccess) -> None:
    client, later_ms = access.client, now_ms() + HOUR_MS
    await client.hset(KEYS.user_rules("alice"), "status", later_ms)
    await client.pexpireat(KEYS.user_rules("alice"), later_ms)
    first = sweeper(access)
    await first._adopt_once()
    assert await client.pttl(KEYS.user_rules("alice")) == -1
    assert await client.zscore(KEYS.timed, "alice") == later_ms
    await client.pexpireat(KEYS.user_rules("alice"), later_ms)
    await sweeper(access)._adopt_once()
    assert await client.pttl(KEYS.user_rules("alice")) > 0, "it was done before"


@pytest.mark.parametrize("whose", ["user", "tenant"])
async def test_an_entry_that_is_no_number_keeps_nobody_elses_rules_from_being_taken_over(
    access: RedisAccess, whose: str
) -> None:
    client, later_ms = access.client, now_ms() + HOUR_MS
    users = ("alice", "broken", "carol")
    for user in users:
        await client.hset(KEYS.user_rules(user), "status", later_ms)
        await client.pexpireat(KEYS.user_rules(user), later_ms)
    await client.hset(KEYS.user_rules("broken") if whose == "user" else KEYS.rules, "pay", "garbage")
    await client.set(KEYS.user_rules("wrong type"), "no hash")
    with capture_logs() as logs:
        await sweeper(access)._adopt_once()
    for user in users:
        assert await client.pttl(KEYS.user_rules(user)) == -1
        assert await client.zscore(KEYS.timed, user) == later_ms
    assert await client.exists(NAMES.adopted)
    [line] = [line for line in logs if line["event"] == "rules that cannot be read are left as they are"]
    assert line["users"] == (["broken", "wrong type"] if whose == "user" else ["wrong type"])


@pytest.mark.parametrize("record", ["no record", "zz 1 2 3"])
async def test_a_record_that_cannot_be_read_keeps_nobody_else_from_being_swept_or_listed(
    admissions: Admissions, access: RedisAccess, record: str
) -> None:
    await admissions.ask(ask_about("alice", expires_ms=now_ms() - 1))
    await admissions.ask(ask_about("broken", expires_ms=now_ms() - 2))
    await access.client.set(KEYS.user("broken"), record)
    listed = await Sessions(access.client).page("acme")
    assert [session.user for session in listed.sessions] == ["alice"]
    assert (await sweeper(access, retention_ms=HOUR_MS).sweep()).expired == 1
    assert await access.client.get(KEYS.user("broken")) == record.encode()
