"""Watches how long the servers' last forks took: a server that forks answers nothing meanwhile."""

import asyncio
from collections.abc import Iterator
from typing import Any

import structlog
from redis.exceptions import ResponseError

from service.core.tasks import round_completed
from service.store.connection.calls import AWAY, client_errors, note_failure, servers_of

log = structlog.get_logger()

EVERY_S = 10.0


class ForkDurations:
    """The last fork of each primary, for an AOF rewrite, a snapshot or a replica's full synchronisation.

    Args:
        client: a redis-py client; on a Cluster each primary is asked.
        timeout_s: `redis.timeout`: admissions that wait for longer fail.
    """

    def __init__(self, client: Any, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._longer_s: dict[str, float] = {}
        """Server → duration of its last fork in seconds, where that was longer than the timeout."""

    def warnings(self) -> Iterator[str]:
        """Yield a sentence for each primary whose last fork took longer than admissions wait, for `/readyz`."""
        for name, took_s in self._longer_s.items():
            yield (
                f"The last fork of Redis ({name}) took {took_s * 1000:.0f} ms, longer than redis.timeout "
                f"({self._timeout_s * 1000:.0f} ms): requests failed meanwhile; see docs/explanation/outages.md"
            )

    async def run_forever(self) -> None:
        """Ask again and again. While Redis is away, what was found last stays."""
        while True:
            try:
                with client_errors():
                    await self.ask()
            except AWAY as error:
                note_failure(error)
            round_completed()
            await asyncio.sleep(EVERY_S)

    async def ask(self) -> None:
        """Ask each primary once.

        Raises:
            redis.exceptions.RedisError, OSError, TimeoutError: a primary does not answer.
        """
        found: dict[str, float] = {}
        for name, to in await servers_of(self._client):
            try:
                info = await self._client.execute_command("INFO", "stats", **to)
            except ResponseError:  # a user who may not ask; the start check warns of that
                continue
            took_s = int(info.get("latest_fork_usec", 0)) / 1_000_000
            if took_s > self._timeout_s:
                found[name] = took_s
                if self._longer_s.get(name) != took_s:
                    log.warning("redis forked for longer than redis.timeout", server=name, seconds=round(took_s, 3))
        self._longer_s = found
