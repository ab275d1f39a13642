"""The pipeline of admissions: what one request costs Redis, deadlines, and the circuit breaker."""

import asyncio
import re
from contextlib import suppress

import pytest
from redis.asyncio import Redis

from service.core.errors import StoreUnavailable
from service.core.limits import Limit, Per
from service.store.admissions.batcher import Admissions
from service.store.connection.client import RedisAccess, TlsFiles
from service.store.connection.pipeline import FAILURES_TO_OPEN
from service.store.connection.router import SingleNodeRouter
from service.store.sessions.listing import Sessions
from tests.conftest import MakeClient
from tests.kit import credentials
from tests.store.making import RULES, ask_about, pipeline_of
from tests.store.servers import Distant, faulty, listening


async def commands(client: Redis) -> dict[str, int]:
    """Calls so far, by command, without our own asking."""
    stats = await client.info("commandstats")
    calls = {re.sub("^cmdstat_", "", name): values["calls"] for name, values in stats.items()}
    return {name: count for name, count in calls.items() if not name.startswith(("info", "config"))}


@pytest.mark.parametrize("access", ["real"], indirect=True)
async def test_a_request_is_one_call_and_no_other_command(make_client: MakeClient, access: RedisAccess) -> None:
    limits = [{"name": f"l{i}", "per": per, "requests": 99, "window": 60} for i, per in enumerate(Per)]
    client = await make_client(limits={"status": limits})
    headers = credentials()
    await client.get("/auth/status", headers=headers)
    await asyncio.sleep(0.1)  # the sweep's first round at start
    await access.client.config_resetstat()
    for _ in range(10):
        assert (await client.get("/auth/status", headers=headers)).status == 200
    sent = {"fcall": 10}
    inside = {"time", "get", "set", "append", "pexpire", "exists", "hmget"}
    beside = {"ping"}  # the sign of life that the subscription is asked for by the clock, whatever is requested
    calls = await commands(access.client)
    assert {name: count for name, count in calls.items() if name not in inside | beside} == sent


@pytest.mark.parametrize("mode", ["silent", "hang up", "loading", "old"])
async def test_a_redis_that_does_not_answer_opens_the_breaker(mode: str) -> None:
    async with faulty(mode) as (_, pipeline):
        admissions = Admissions(SingleNodeRouter(pipeline), RULES)
        for _ in range(FAILURES_TO_OPEN):
            assert not pipeline.is_down
            with pytest.raises(StoreUnavailable):
                await asyncio.wait_for(admissions.ask(ask_about("alice")), 1)
        assert pipeline.is_down
        with pytest.raises(StoreUnavailable, match="Service Unavailable") as reported:
            await admissions.ask(ask_about("alice"))
        assert reported.value.reason == "the circuit breaker is open"


async def test_a_redis_that_is_too_old_is_said_to_be() -> None:
    async with faulty("old") as (_, pipeline):
        with pytest.raises(StoreUnavailable) as reported:
            await Admissions(SingleNodeRouter(pipeline), RULES).ask(ask_about("alice"))
        assert "Redis 5.0 is too old; 7.0 is the oldest that is supported" in reported.value.reason


async def test_requests_that_wait_behind_a_failed_round_trip_fail_with_it() -> None:
    async with faulty("silent") as (fault, pipeline):
        pipeline.timeout_s = 0.5  # longer than a collection of garbage
        admissions = Admissions(SingleNodeRouter(pipeline), RULES)
        first = asyncio.create_task(admissions.ask(ask_about("alice")))
        await asyncio.sleep(0.02)
        answers = await asyncio.gather(
            first, *(admissions.ask(ask_about("bob")) for _ in range(99)), return_exceptions=True
        )
        assert all(isinstance(answer, StoreUnavailable) for answer in answers)
        assert fault.served == 1, "there was one trip: nobody waited for a second deadline"


@pytest.mark.parametrize("access", ["real"], indirect=True)
async def test_a_suspended_pipeline_fails_what_is_under_way_and_comes_back_by_itself(access: RedisAccess) -> None:
    ups: list[bool] = []
    pipeline = pipeline_of(access, timeout_s=2, on_change=ups.append)
    await pipeline.open()
    await access.client.client_pause(300)
    asked = asyncio.create_task(Admissions(SingleNodeRouter(pipeline), RULES).ask(ask_about("alice")))
    checked = asyncio.create_task(pipeline.takes_writes())
    await asyncio.sleep(0.05)
    pipeline.suspend("it is replaced")
    pipeline.suspend("and once more")
    assert pipeline.is_down
    with pytest.raises(StoreUnavailable):
        await asyncio.wait_for(asked, 0.1)
    assert not await asyncio.wait_for(checked, 0.1)
    async with asyncio.timeout(5):
        while pipeline.is_down:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert (await Admissions(SingleNodeRouter(pipeline), RULES).ask(ask_about("bob"))).session is not None
    assert await pipeline.takes_writes()
    assert ups == [True, False, True]
    await pipeline.close()


async def test_a_closed_pipeline_starts_nothing_anew() -> None:
    async with faulty("silent") as (_, pipeline):
        await pipeline.close()
        pipeline.suspend("it is replaced")
        with pytest.raises(StoreUnavailable):
            await pipeline.send([("PING",)], asyncio.get_running_loop().time() + 1)
        assert not await pipeline.takes_writes()
        assert not pipeline.is_down


@pytest.mark.parametrize("access", ["real"], indirect=True)
async def test_a_connection_that_redis_closed_while_idle_costs_no_request(access: RedisAccess) -> None:
    pipeline = pipeline_of(access, timeout_s=1)
    admissions = Admissions(SingleNodeRouter(pipeline), RULES)
    await admissions.ask(ask_about("alice"))
    await access.client.client_kill_filter(_type="normal", skipme=True)
    await asyncio.sleep(0.05)
    assert (await admissions.ask(ask_about("alice"))).session is not None
    await admissions.close()
    await pipeline.close()


@pytest.mark.parametrize("access", ["real"], indirect=True)
async def test_an_admission_whose_answer_was_lost_is_not_sent_again(access: RedisAccess) -> None:
    pipeline = pipeline_of(access, timeout_s=0.1)
    admissions = Admissions(SingleNodeRouter(pipeline), RULES)
    limits = [Limit("some", Per.IP, 100, 60)]
    await admissions.ask(ask_about(None, limits=limits))
    await access.client.client_pause(300)
    with pytest.raises(StoreUnavailable):
        await admissions.ask(ask_about(None, limits=limits))
    await asyncio.sleep(0.4)
    admission = await admissions.ask(ask_about(None, limits=limits))
    assert admission.limit_states[0].used in (2, 3), "once at most, though its answer was lost"
    await pipeline.close()


async def test_pages_show_an_error_when_redis_is_away() -> None:
    access = RedisAccess.by_url("redis://127.0.0.1:1", TlsFiles())
    with pytest.raises(StoreUnavailable):
        await Sessions(access.client).get("acme", "alice")
    await access.close()


async def test_a_redis_that_is_away_at_start_is_no_error() -> None:
    access = RedisAccess.by_url("redis://127.0.0.1:1", TlsFiles())
    pipeline = pipeline_of(access, timeout_s=0.1)
    await pipeline.open()
    assert pipeline.is_down
    await pipeline.close()
    await access.close()


async def test_a_distant_redis_is_slow_but_not_away(redis_url: str) -> None:
    async with listening(Distant(redis_url.removeprefix("unix://"), 0.2).serve) as distant:
        pipeline = pipeline_of(distant, timeout_s=0.6)
        await pipeline.open()
        assert not pipeline.is_down
        admissions = Admissions(SingleNodeRouter(pipeline), RULES)
        assert (await admissions.ask(ask_about("alice"))).session is not None
        await admissions.close()
        await pipeline.close()


async def test_nobody_waits_for_a_turn_longer_than_for_redis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.store.admissions.batcher.MAX_BATCH", 1)
    async with listening(Distant(redis_url.removeprefix("unix://"), 0.05).serve) as distant:
        pipeline = pipeline_of(distant, timeout_s=1)
        await pipeline.open()
        admissions = Admissions(SingleNodeRouter(pipeline), RULES)
        answers = await asyncio.gather(*(admissions.ask(ask_about("alice")) for _ in range(60)), return_exceptions=True)
        refused = {answer.reason for answer in answers if isinstance(answer, StoreUnavailable)}
        assert refused
        assert refused <= {"it waited too long for its turn", "redis did not answer in time"}
        assert not pipeline.is_down, "Redis did nothing wrong"
        await admissions.close()
        await pipeline.close()


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_a_mistake_of_ours_in_a_trip_leaves_nobody_waiting(
    access: RedisAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = pipeline_of(access, timeout_s=1)
    monkeypatch.setattr("service.store.admissions.batcher.encode", lambda *_: 1 / 0)
    with pytest.raises(StoreUnavailable):
        await asyncio.wait_for(Admissions(SingleNodeRouter(pipeline), RULES).ask(ask_about("alice")), 1)


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_an_answer_that_is_not_understood_leaves_nobody_waiting(
    access: RedisAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    admissions = Admissions(SingleNodeRouter(pipeline_of(access, timeout_s=1)), RULES)
    monkeypatch.setattr("service.store.admissions.batcher.decode", lambda *_: [][1])
    for _ in range(2):  # nor is the queue stuck after it
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(admissions.ask(ask_about("alice")), 1)


@pytest.mark.parametrize("access", ["real"], indirect=True)
async def test_on_one_connection_there_is_one_trip_at_a_time(access: RedisAccess) -> None:
    pipeline = pipeline_of(access, timeout_s=1)
    await pipeline.open()
    until = asyncio.get_running_loop().time() + 1
    first = asyncio.create_task(pipeline.send([("PING",)], until))
    await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable):
        await pipeline.send([("PING",)], until)
    with suppress(StoreUnavailable):
        await first
    await pipeline.close()
