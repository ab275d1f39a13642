"""A lease: of several workers one does what is to be done once; whoever dies loses it after a while."""

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
        """Take or keep it."""
        return bool(await run(self._client, "lease", [lease], [self._name, LEASE_MS]))

    @redis_call
    async def release(self, lease: str) -> None:
        """Give it up, so that the next worker need not wait for it to run out."""
        await run(self._client, "lease", [lease], [self._name, 0])
