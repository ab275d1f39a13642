"""What is over ends without a TTL, and what operators set outlives a server that evicts what has one."""

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis

from service.core.limits import Limit, Per
from service.core.operator_actions import Author
from service.core.sessions import Cause
from service.core.traffic_statistics import Refused, TrafficSample
from service.store.admissions.batcher import Admissions, SessionRules
from service.store.connection.client import RedisAccess, TlsFiles
from service.store.connection.server_check import ServerCheck
from service.store.events.stream import Events
from service.store.events.traffic_statistics import TrafficStatistics
from service.store.events.webhook_state import RedisWebhookStates
from service.store.keyspace import EVENTS_TTL_MS, NAMES, keys_of
from service.store.leases import Leases
from service.store.sessions.expired_rules import Tidier
from service.store.sessions.operator_actions import RedisOperatorActions
from tests.kit import redis_server
from tests.store.making import HOUR_MS, ask_about, now_ms, sweeper

BY = Author("root")
KEYS = keys_of("acme")
LIMIT = Limit("some", Per.IP, 1000, 3600)
MAY_BE_EVICTED = ("rc:{acme}:w:", "rc:{acme}:pulse:", "rc:{acme}:refused:", "rc:{acme}:sampled:", NAMES.probe)
"""What a server with maxmemory-policy volatile-* may forget: windows, charts and samples."""


@pytest.fixture
def volatile() -> Iterator[tuple[str, Any]]:
    """A server that evicts what has a TTL, and its operator's client."""
    with (
        redis_server("--maxmemory", "0", "--maxmemory-policy", "volatile-lru") as url,
        redis.Redis(unix_socket_path=url.removeprefix("unix://")) as root,
    ):
        yield url, root


@pytest.fixture
async def evicting(volatile: tuple[str, Any]) -> AsyncIterator[RedisAccess]:
    access = RedisAccess.by_url(volatile[0], TlsFiles(), timeout_s=5)
    yield access
    await access.close()


async def everything(access: RedisAccess, admissions: Admissions) -> None:
    """All that is kept of a tenant, once."""
    acts, hooks = RedisOperatorActions(access.client), RedisWebhookStates(access.client)
    await admissions.ask(ask_about("alice", limits=[LIMIT]))
    await acts.act("acme", ["bob"], Cause.SUSPEND, BY)
    await acts.act("acme", ["alice"], Cause.OPERATOR_LOGOUT, BY, everywhere=True)
    await acts.restrict("acme", "alice", "pay", BY, until_ms=now_ms() + HOUR_MS)
    await acts.restrict("acme", None, "fly", BY, until_ms=now_ms() + HOUR_MS)
    await acts.restrict("acme", "carol", "pay", BY)
    await acts.revoke("acme", "dave", BY)
    await hooks.hold("acme", "audit")
    await hooks.delivered("acme", "audit", "1-1")
    await Leases(access.client).hold(NAMES.sweeper)
    sample = TrafficSample(transitions=1)
    sample.refusals[Refused("X", "y", "z")] = 1
    await TrafficStatistics(access.client).pour("acme", sample)
    await sweeper(access).sweep()


async def test_windows_charts_and_samples_alone_carry_a_ttl(access: RedisAccess, admissions: Admissions) -> None:
    await everything(access, admissions)
    volatile = [key.decode() async for key in access.client.scan_iter() if await access.client.pttl(key) >= 0]
    assert volatile
    assert [key for key in volatile if not key.startswith(MAY_BE_EVICTED)] == []


@pytest.mark.real_redis
async def test_a_server_that_evicts_what_has_a_ttl_still_has_what_operators_set_events_and_cursors(
    volatile: tuple[str, Any], evicting: RedisAccess
) -> None:
    check, root = ServerCheck(), volatile[1]
    router = evicting.router(timeout_s=5, check=check)
    await router.open()
    assert check.blockers() == []
    assert "maxmemory-policy volatile-lru" in check.warnings()[0]
    admissions = Admissions(router, SessionRules(60_000, 0))
    await everything(evicting, admissions)
    kept = {key: root.type(key) for key in root.scan_iter() if not key.decode().startswith(MAY_BE_EVICTED)}
    root.config_set("maxmemory", root.info("memory")["used_memory"] + 3_000_000)
    written = 0
    while root.info("stats")["evicted_keys"] < 5000:
        with root.pipeline(transaction=False) as pipeline:
            for number in range(1000):
                pipeline.set(f"rc:{{acme}}:w:some:{written + number}", "A" * 200, px=3_600_000)
            pipeline.execute()
        written += 1000
    assert root.dbsize() < written
    assert {key: root.type(key) for key in kept} == kept
    restricted = await admissions.ask(ask_about("alice", capabilities=("pay",), issued_s=time.time() + 60))
    assert restricted.restricted == "pay"
    assert (await RedisWebhookStates(evicting.client).state("acme", "audit")).cursor == "1-1"
    assert len(await Events(evicting.client).latest("acme", most=20)) >= 7
    assert not await Leases(evicting.client).hold(NAMES.sweeper), "and nobody else holds the lease"
    await admissions.close()
    await router.close()


async def test_rules_that_have_ended_are_taken_out_and_others_stay(access: RedisAccess) -> None:
    acts, client = RedisOperatorActions(access.client), access.client
    for user in ("alice", None):
        await acts.restrict("acme", user, "first", BY, until_ms=now_ms() + HOUR_MS)
        await acts.restrict("acme", user, "second", BY, until_ms=now_ms() + 2 * HOUR_MS)
    await acts.restrict("acme", "bob", "only", BY, until_ms=now_ms() + HOUR_MS)
    assert await client.zcard(KEYS.timed) == 3
    # An hour later: the first of each is over.
    for key, field in ((KEYS.user_rules("alice"), "first"), (KEYS.rules, "first"), (KEYS.user_rules("bob"), "only")):
        await client.hset(key, field, now_ms() - 1)
    await client.zadd(KEYS.timed, {"alice": 1, "bob": 1, "": 1})
    await Tidier(client).tidy("acme")
    assert list(await client.hgetall(KEYS.user_rules("alice"))) == [b"second"]
    assert b"first" not in await client.hgetall(KEYS.rules)
    assert await client.exists(KEYS.user_rules("bob")) == 0
    assert set(await client.zrange(KEYS.timed, 0, -1)) == {b"alice", b""}
    assert await client.zscore(KEYS.timed, "alice") > now_ms() + HOUR_MS


async def test_many_rules_that_have_ended_are_taken_out_in_one_round(access: RedisAccess) -> None:
    client = access.client
    for number in range(230):
        await client.hset(KEYS.user_rules(f"u{number}"), "pay", 1)
        await client.zadd(KEYS.timed, {f"u{number}": 1})
    await Tidier(client).tidy("acme")
    assert await client.zcard(KEYS.timed) == 0
    assert [key async for key in client.scan_iter("*rules:*")] == []


async def test_a_stream_ends_a_month_after_its_last_event(access: RedisAccess) -> None:
    client, month_ago = access.client, now_ms() - EVENTS_TTL_MS
    await client.xadd(keys_of("old").events, {"type": "x"}, id=f"{month_ago - 60_000}-0")
    await client.xadd(keys_of("young").events, {"type": "x"}, id=f"{month_ago + 60_000}-0")
    for tenant in ("old", "young"):
        await Tidier(client).tidy(tenant)
    assert await client.exists(keys_of("old").events) == 0
    assert await client.exists(keys_of("young").events) == 1


async def test_the_state_of_a_webhook_ends_a_month_after_its_last_delivery(access: RedisAccess) -> None:
    client, hooks = access.client, RedisWebhookStates(access.client)
    for name in ("gone", "here"):
        await hooks.hold("acme", name)
        await hooks.delivered("acme", name, "5-0")
    await client.zadd(KEYS.webhook_states, {"gone": now_ms() - EVENTS_TTL_MS - 1})
    await Tidier(client).tidy("acme")
    assert await client.exists(KEYS.webhook("gone"), KEYS.webhook_lease("gone")) == 0
    assert (await hooks.state("acme", "here")).cursor == "5-0"
    assert await client.zrange(KEYS.webhook_states, 0, -1) == [b"here"]


async def test_what_an_earlier_version_let_run_out_is_kept(access: RedisAccess) -> None:
    client, later_ms = access.client, now_ms() + HOUR_MS
    await client.hset(KEYS.rules, "pay", later_ms)
    await client.pexpireat(KEYS.rules, later_ms)
    await client.xadd(KEYS.events, {"type": "x"})
    await client.pexpire(KEYS.events, HOUR_MS)
    await Tidier(client).tidy("acme")
    assert [await client.pttl(key) for key in (KEYS.rules, KEYS.events)] == [-1, -1]
    assert await client.zscore(KEYS.timed, "") == later_ms


async def test_a_tenant_is_tidied_once_a_minute(access: RedisAccess) -> None:
    client, clock = access.client, [0.0]
    tidier = Tidier(client, lambda: clock[0])
    for at, tidied in ((0.0, True), (59.0, False), (61.0, True)):
        clock[0] = at
        await client.zadd(KEYS.timed, {"alice": 1})
        await tidier.tidy("acme")
        assert (await client.zcard(KEYS.timed) == 0) is tidied
