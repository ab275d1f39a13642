"""The clock of each kind of deployment is compared with the service's."""

import asyncio

import pytest

from service.core.clocks import ClockDifferences
from service.store.clock_comparison import ClockComparison
from service.store.connection.client import RedisAccess


async def test_every_primary_is_asked_and_none_of_the_tests_own_is_off(access: RedisAccess) -> None:
    reported: list[float] = []
    differences = ClockDifferences(reported.append)
    comparison = ClockComparison(access.client, differences)
    await comparison.compare()
    assert abs(reported[0]) < 0.5
    assert differences.warnings() == []
    late = ClockComparison(access.client, differences, clock=lambda: 1000.0)
    await late.compare()
    assert len(differences.warnings()) == (3 if access.topology is not None else 1)


async def test_they_are_compared_at_start_and_at_once_when_redis_is_back(
    access: RedisAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.clock_comparison.EVERY_S", 3600)
    reported = asyncio.Queue[float]()
    comparison = ClockComparison(access.client, ClockDifferences(reported.put_nowait))
    running = asyncio.create_task(comparison.run_forever())
    async with asyncio.timeout(10):
        await reported.get()
        comparison.compare_now()
        await reported.get()
    assert reported.empty()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
