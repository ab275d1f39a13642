"""Leases: only one of several workers does a task. A worker that dies loses its lease after a while."""

import secrets

from redis.asyncio import Redis

from service.store.connection.calls import redis_call, run
from service.store.keyspace import LEASE_MS


class Leases:
    """The leases of one worker.

    Args:
        client: a redis-py client.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._name = secrets.token_hex(8)

    @redis_call
    async def hold(self, lease: str) -> bool:
        """Take or renew the lease."""
        return bool(await run(self._client, "lease", [lease], [self._name, LEASE_MS]))

    @redis_call
    async def release(self, lease: str) -> None:
        """Release the lease, so that the next worker need not wait for its end."""
        await run(self._client, "lease", [lease], [self._name, 0])
