"""The comparison of the clock of each Redis server with the service's."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import structlog

from service.core.clocks import ClockDifferences
from service.core.tasks import round_completed
from service.store.connection.calls import AWAY, client_errors, note_failure, servers_of

log = structlog.get_logger()

EVERY_S = 5.0
"""Seconds between comparisons, in addition to those at start and after an outage: one TIME for each primary."""


class ClockComparison:
    """Compares the clocks at start, whenever Redis is back, and every few seconds.

    Args:
        client: a redis-py client; on a Cluster each primary is asked.
        differences: receives what was measured.
        clock: seconds since the epoch: the service's clock.
    """

    def __init__(self, client: Any, differences: ClockDifferences, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._differences = differences
        self._clock = clock
        self._wanted = asyncio.Event()

    def compare_now(self) -> None:
        """Compare them at once: another server may have taken over."""
        self._wanted.set()

    async def run_forever(self) -> None:
        """Compare them again and again. While Redis is away, what was measured last stays."""
        while True:
            self._wanted.clear()
            try:
                with client_errors():
                    await self.compare()
            except AWAY as error:
                note_failure(error)
            round_completed()
            waiting = asyncio.create_task(self._wanted.wait())
            try:
                await asyncio.wait([waiting], timeout=EVERY_S)
            finally:
                waiting.cancel()

    async def compare(self) -> None:
        """Ask each primary for its time, and keep the differences.

        Raises:
            redis.exceptions.RedisError, OSError, TimeoutError: no primary answers.
        """
        measured: list[tuple[str, float, float]] = []
        away: Exception | None = None
        for name, to in await servers_of(self._client):
            try:
                measured.append((name, *await self._difference(**to)))
            except AWAY as error:
                away = error
        if not measured and away is not None:
            raise away
        self._differences.update(measured)

    async def _difference(self, **to: Any) -> tuple[float, float]:
        """The difference in seconds (positive: Redis is ahead), and by how much it may be off."""
        # The round trip is timed by a clock that nobody sets.
        sent_at, began = self._clock(), time.perf_counter()
        second, microsecond = await self._client.execute_command("TIME", **to)
        half_s = (time.perf_counter() - began) / 2
        return int(second) + int(microsecond) / 1_000_000 - (sent_at + half_s), half_s
