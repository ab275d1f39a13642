"""The function library is there when it is called: after a flush, a failover, beside others, in a full server."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from redis.asyncio import RedisCluster

from service.core.errors import StoreUnavailable
from service.core.limits import Limit, Per
from service.core.operator_actions import Author
from service.core.sessions import Cause, Status
from service.store.admissions.batcher import Admissions
from service.store.connection.calls import run
from service.store.connection.client import RedisAccess, TlsFiles
from service.store.keyspace import NAMES, keys_of
from service.store.libraries import EVERY_S, UNUSED_MS, Libraries, name_of
from service.store.scripts import LIBRARY, build
from service.store.sessions.operator_actions import RedisOperatorActions
from tests.deployments import Sentinels, redis_sentinels
from tests.kit import redis_server, wait_for
from tests.store.making import HOUR_MS, RULES, ask_about, now_ms, sweeper

LIMIT = Limit("some", Per.IP, 5, 60)
BY = Author("root")
OTHER = build(lambda text: f"{text}local another_version = 1\n")


async def everywhere(access: RedisAccess, *command: str) -> list[Any]:
    """Send a command to every primary, and return their answers."""
    if not isinstance(access.client, RedisCluster):
        return [await access.client.execute_command(*command)]
    await access.client.initialize()
    return [await access.client.execute_command(*command, target_nodes=one) for one in access.client.get_primaries()]


async def libraries(access: RedisAccess) -> set[str]:
    """The names of the libraries that every primary has."""
    found = [{name_of(one) for one in held} for held in await everywhere(access, "FUNCTION LIST")]
    return set.intersection(*found)


async def test_a_library_that_is_flushed_while_the_service_runs_is_loaded_again_and_nothing_is_charged_twice(
    admissions: Admissions, access: RedisAccess
) -> None:
    for used in range(1, 5):
        await everywhere(access, "FUNCTION FLUSH")
        reported = await admissions.ask(ask_about("alice", limits=[LIMIT]))
        assert [one.used for one in reported.limit_states] == [used]
    await everywhere(access, "FUNCTION FLUSH")
    await RedisOperatorActions(access.client).act("acme", ["alice"], Cause.SUSPEND, BY)
    await everywhere(access, "FUNCTION FLUSH")
    assert (await sweeper(access).sweep()).expired == 0
    reported = await admissions.ask(ask_about("alice"))
    assert reported.session is not None
    assert reported.session.status is Status.SUSPENDED


async def test_many_who_ask_at_the_moment_of_a_flush_are_each_answered_once(
    admissions: Admissions, access: RedisAccess
) -> None:
    wide = Limit("wide", Per.IP, 900, 60)
    asked = [admissions.ask(ask_about(f"user-{n}", limits=[wide])) for n in range(300)]
    answers = asyncio.gather(*asked)
    await everywhere(access, "FUNCTION FLUSH")
    used = sorted(one.limit_states[0].used for one in await answers)
    assert used == list(range(1, 301))


async def test_two_versions_of_the_service_share_a_server(admissions: Admissions, access: RedisAccess) -> None:
    await everywhere(access, "FUNCTION LOAD", OTHER.text)
    await admissions.ask(ask_about("alice"))
    assert {LIBRARY.name, OTHER.name} <= await libraries(access)
    owner = keys_of("acme")
    call = ("FCALL", OTHER.functions["look"], 1, owner.rules)
    node = {"target_nodes": access.client.get_node_from_key(owner.rules)} if access.topology is not None else {}
    assert await access.client.execute_command(*call, **node)
    await everywhere(access, "FUNCTION DELETE", OTHER.name)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def test_a_library_that_no_worker_has_used_for_a_day_is_deleted_and_a_live_one_is_not(
    admissions: Admissions, access: RedisAccess
) -> None:
    await admissions.ask(ask_about("alice"))
    await everywhere(access, "FUNCTION LOAD", OTHER.text)
    strangers = "#!lua name=a_strangers\nredis.register_function('theirs', function() end)"
    await everywhere(access, "FUNCTION LOAD", strangers)
    clock = Clock()
    ours = Libraries(access.client, clock)
    await ours.keep()
    noted = dict(await access.client.zrange(NAMES.libraries, 0, -1, withscores=True))
    assert set(noted) == {LIBRARY.name.encode(), OTHER.name.encode()}, "a stranger's is nothing to us"
    # A day less an hour later the other version says that it is in use; another day, and it does not.
    for age_ms, kept in ((UNUSED_MS - HOUR_MS, True), (UNUSED_MS, False)):
        await access.client.zadd(NAMES.libraries, {OTHER.name: now_ms() - age_ms, LIBRARY.name: 1})
        await ours.keep()
        assert OTHER.name in await libraries(access), "not asked more than once an hour"
        clock.now_s += EVERY_S
        await ours.keep()
        assert (OTHER.name in await libraries(access)) is kept
        assert LIBRARY.name in await libraries(access), "however long ago it was noted: it is the worker's own"
    assert "a_strangers" in await libraries(access)
    await everywhere(access, "FUNCTION DELETE", "a_strangers")


async def test_a_version_whose_library_was_deleted_loads_it_again(admissions: Admissions, access: RedisAccess) -> None:
    await admissions.ask(ask_about("alice"))
    await everywhere(access, "FUNCTION DELETE", LIBRARY.name)
    assert (await admissions.ask(ask_about("alice"))).session is not None
    await everywhere(access, "FUNCTION FLUSH")
    assert await run(access.client, "look", [keys_of("acme").rules], [])


@pytest.fixture
def server() -> Iterator[str]:
    with redis_server() as url:
        yield url


@pytest.fixture
async def on_own_server(server: str) -> AsyncIterator[tuple[RedisAccess, Admissions]]:
    access = RedisAccess.by_url(server, TlsFiles())
    router = access.router(timeout_s=2)
    await router.open()
    made = Admissions(router, RULES)
    yield access, made
    await made.close()
    await router.close()
    await access.close()


REFUSES_WRITES: dict[str, Callable[[Any, bool], Any]] = {
    "OOM": lambda client, on: client.config_set("maxmemory", int(on)),
    "NOREPLICAS": lambda client, on: client.config_set("min-replicas-to-write", int(on)),
}


@pytest.mark.real_redis
@pytest.mark.parametrize("kind", REFUSES_WRITES)
async def test_a_server_that_takes_no_writes_still_decides_what_needs_none(
    on_own_server: tuple[RedisAccess, Admissions], kind: str
) -> None:
    access, admissions = on_own_server
    acts = RedisOperatorActions(access.client)
    until_ms = now_ms() + HOUR_MS
    for user in ("alice", "mallory"):
        await admissions.ask(ask_about(user, limits=[LIMIT], expires_ms=until_ms))
    await acts.act("acme", ["mallory"], Cause.SUSPEND, BY)
    await REFUSES_WRITES[kind](access.client, True)
    for _ in range(10):
        reported = [await admissions.ask(ask_about(user, expires_ms=until_ms)) for user in ("alice", "mallory")]
        statuses = [one.session.status for one in reported if one.session is not None]
        assert statuses == [Status.LOGGED_IN, Status.SUSPENDED]
    [state] = await acts.peek("acme", [(LIMIT, "10.0.0.1")])
    assert state.used == 2
    with pytest.raises(StoreUnavailable) as refused:
        await admissions.ask(ask_about("alice", limits=[LIMIT], expires_ms=until_ms))
    assert refused.value.kind == kind
    with pytest.raises(StoreUnavailable) as refused:
        await admissions.ask(ask_about("carol"))
    assert refused.value.kind == kind
    assert await access.client.exists("rc:{acme}:u:carol") == 0
    await REFUSES_WRITES[kind](access.client, False)
    reported_now = await admissions.ask(ask_about("alice", limits=[LIMIT]))
    assert [one.used for one in reported_now.limit_states] == [3], "what was refused was not charged"


@pytest.mark.real_redis
async def test_a_batch_of_reads_and_a_write_on_a_full_server_charges_nobody(
    on_own_server: tuple[RedisAccess, Admissions],
) -> None:
    access, admissions = on_own_server
    await admissions.ask(ask_about("alice", limits=[LIMIT]))
    await REFUSES_WRITES["OOM"](access.client, True)
    asked = [ask_about("alice"), ask_about("alice", limits=[LIMIT]), ask_about("alice")]
    answers = await asyncio.gather(*(admissions.ask(one) for one in asked), return_exceptions=True)
    assert isinstance(answers[1], StoreUnavailable)
    await REFUSES_WRITES["OOM"](access.client, False)
    reported = await admissions.ask(ask_about("alice", limits=[LIMIT]))
    assert reported.limit_states[0].used == 2


@pytest.mark.real_redis
async def test_the_sweep_frees_memory_on_a_full_server(on_own_server: tuple[RedisAccess, Admissions]) -> None:
    access, admissions = on_own_server
    for number in range(5):
        await admissions.ask(ask_about(f"user-{number}", expires_ms=1000))
        await admissions.ask(ask_about(f"user-{number}", expires_ms=1000, cause=Cause.LOGOUT))
    await REFUSES_WRITES["OOM"](access.client, True)
    assert (await sweeper(access, retention_ms=0).sweep()).removed == 5
    assert await access.client.dbsize() < 5


@pytest.fixture
def sentinels() -> Iterator[Sentinels]:
    with redis_sentinels() as made:
        yield made


@pytest.mark.slow
@pytest.mark.real_redis
async def test_replicas_have_the_library_and_a_promoted_one_runs_it(sentinels: Sentinels) -> None:
    access = RedisAccess.by_url(sentinels.url, TlsFiles())
    router = access.router(timeout_s=1)
    await router.open()
    admissions = Admissions(router, RULES)
    await admissions.ask(ask_about("alice"))
    at_replica = sentinels.replica.client.execute_command("FUNCTION LIST", "LIBRARYNAME", LIBRARY.name)
    assert len(at_replica) == 1
    await asyncio.to_thread(sentinels.fail_over)
    await asyncio.to_thread(wait_for, lambda: sentinels.current() is sentinels.replica)
    async with asyncio.timeout(10):
        while True:
            try:
                await admissions.ask(ask_about("alice"))
                break
            except StoreUnavailable:
                await asyncio.sleep(0.05)
    assert sentinels.replica.client.info("commandstats")["cmdstat_fcall"]["calls"] > 0
    await admissions.close()
    await router.close()
    await access.close()


@pytest.mark.real_redis
@pytest.mark.parametrize("access", ["cluster"], indirect=True)
async def test_every_master_of_a_cluster_has_the_library_and_one_that_lost_it_gets_it_back(access: RedisAccess) -> None:
    await everywhere(access, "FUNCTION FLUSH")
    router = access.router(timeout_s=1)
    await router.open()
    assert await libraries(access) == {LIBRARY.name}
    admissions = Admissions(router, RULES)
    owners = {access.client.get_node_from_key(keys_of(f"t{n}").rules).port: f"t{n}" for n in range(100)}
    assert len(owners) == 3
    await everywhere(access, "FUNCTION FLUSH")
    asked = [admissions.ask(ask_about("alice", tenant=one, limits=[LIMIT])) for one in owners.values()]
    assert [one.limit_states[0].used for one in await asyncio.gather(*asked)] == [1, 1, 1]
    assert await libraries(access) == {LIBRARY.name}
    await admissions.close()
    await router.close()
