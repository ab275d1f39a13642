"""Probes: a node is used again once it takes writes."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress

import pytest
from redis.asyncio import Redis

from service.core.errors import StoreUnavailable
from service.store.admissions.batcher import Admissions
from service.store.connection.client import RedisAccess, TlsFiles
from service.store.connection.pipeline import CONNECT_S, FAILURES_TO_OPEN
from service.store.connection.router import SingleNodeRouter
from tests.kit import redis_server
from tests.store.making import RULES, ask_about, pipeline_of
from tests.store.servers import Distant, Elsewhere, Faulty, listening


async def probes_refused(client: Redis) -> int:
    stats = await client.info("commandstats")
    return int(stats["cmdstat_set"]["rejected_calls"]) if "cmdstat_set" in stats else 0


@pytest.mark.parametrize("access", ["real"], indirect=True)
async def test_the_breaker_closes_by_itself_once_redis_answers(access: RedisAccess) -> None:
    ups: list[bool] = []
    pipeline = pipeline_of(access, timeout_s=1, on_change=ups.append)
    await access.client.client_pause(1500)
    admissions = Admissions(SingleNodeRouter(pipeline), RULES)
    pipeline.timeout_s = 0.05
    for _ in range(FAILURES_TO_OPEN):
        with pytest.raises(StoreUnavailable):
            await admissions.ask(ask_about("alice"))
    assert pipeline.is_down
    for _ in range(100):
        if not pipeline.is_down:
            break
        await asyncio.sleep(0.05)
    assert (await admissions.ask(ask_about("alice"))).session is not None
    assert ups == [False, True]
    await pipeline.close()


async def test_moved_shows_the_probe_that_a_node_is_well(redis_url: str) -> None:
    proxy = Elsewhere(redis_url.removeprefix("unix://"))
    async with listening(proxy.serve) as access:
        pipeline = pipeline_of(access, timeout_s=1)
        await pipeline.open()
        proxy.is_away = True
        for _ in range(FAILURES_TO_OPEN):
            with suppress(StoreUnavailable):
                await pipeline.send([("PING",)], asyncio.get_running_loop().time() + 1)
        assert pipeline.is_down
        assert not await pipeline.takes_writes()
        proxy.is_away = False
        async with asyncio.timeout(5):
            while pipeline.is_down:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert await pipeline.takes_writes()
        await pipeline.close()


@pytest.fixture
def own_redis() -> Iterator[str]:
    """A Redis that a test may spoil."""
    with redis_server("--maxmemory-policy", "noeviction") as url:
        yield url


async def test_a_redis_that_is_full_stays_away_until_it_takes_writes(own_redis: str) -> None:
    access = RedisAccess.by_url(own_redis, TlsFiles())
    pipeline = pipeline_of(access, timeout_s=1)
    admissions = Admissions(SingleNodeRouter(pipeline), RULES)
    await pipeline.open()
    await access.client.config_set("maxmemory", "1")
    for _ in range(FAILURES_TO_OPEN):
        with pytest.raises(StoreUnavailable, match="Service Unavailable"):
            await admissions.ask(ask_about("alice"))
    assert pipeline.is_down
    async with asyncio.timeout(5):
        while await probes_refused(access.client) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert pipeline.is_down, "it answers, but takes no writes"
    await access.client.config_set("maxmemory", "0")
    async with asyncio.timeout(5):
        while pipeline.is_down:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert (await admissions.ask(ask_about("alice"))).session is not None
    await pipeline.close()
    await access.close()


async def test_a_redis_is_writable_where_it_takes_writes_not_where_it_answers(own_redis: str) -> None:
    access = RedisAccess.by_url(own_redis, TlsFiles())
    router = access.router(timeout_s=1)
    await router.open()
    assert await router.not_writable() == ()
    await access.client.config_set("maxmemory", "1")
    assert await access.client.ping()
    assert await router.not_writable() is None
    await access.client.config_set("maxmemory", "0")
    assert await router.not_writable() == ()
    await router.close()
    await access.close()


async def test_a_probe_that_hangs_holds_up_no_later_one(redis_url: str) -> None:
    """Whoever took the first connections will never answer; the one after them does."""
    fault, well = Faulty(), Distant(redis_url.removeprefix("unix://"), 0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hangs = fault.served <= FAILURES_TO_OPEN
        await (fault.serve(reader, writer) if hangs else well.serve(reader, writer))

    async with listening(serve) as access:
        pipeline = pipeline_of(access, timeout_s=0.05)
        admissions = Admissions(SingleNodeRouter(pipeline), RULES)
        for _ in range(FAILURES_TO_OPEN):
            with pytest.raises(StoreUnavailable):
                await admissions.ask(ask_about("alice"))
        async with asyncio.timeout(CONNECT_S / 2):
            while pipeline.is_down:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert (await admissions.ask(ask_about("alice"))).session is not None
        await pipeline.close()
