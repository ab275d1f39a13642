"""Webhooks in Redis: how far each has been told, how it goes, and which worker tells it."""

import time
from typing import Any

from redis.asyncio import Redis

from service.core.webhooks import HookState
from service.store.connection.calls import reaching
from service.store.keyspace import keys_of
from service.store.leases import Leases


class Hooks:
    """The cursors and leases of webhooks. One of these is one worker.

    Args:
        client: a redis-py client.
    """

    def __init__(self, client: Redis) -> None:
        self._client: Any = client  # redis-py's answers are typed as a union over all its modes
        self._leases = Leases(client)

    async def hold(self, tenant: str, hook: str) -> bool:
        """Take or keep the lease."""
        return await self._leases.hold(keys_of(tenant).hook_lease(hook))

    async def release(self, tenant: str, hook: str) -> None:
        """Give the lease up."""
        await self._leases.release(keys_of(tenant).hook_lease(hook))

    @reaching
    async def state(self, tenant: str, hook: str) -> HookState:
        """How far it has been told, and how it goes."""
        found = await self._client.hgetall(keys_of(tenant).hook(hook))
        told = {name.decode(): value.decode() for name, value in found.items()}
        return HookState(told.get("cursor"), int(told.get("attempts", 0)), told.get("error", ""))

    @reaching
    async def begin(self, tenant: str, hook: str) -> str:
        """Where a new webhook begins: behind what has happened so far."""
        entries = await self._client.xrevrange(keys_of(tenant).events, count=1)
        cursor = entries[0][0].decode() if entries else "0-0"
        await self._keep(tenant, hook, {"cursor": cursor, "attempts": 0, "error": ""})
        return cursor

    @reaching
    async def told(self, tenant: str, hook: str, cursor: str) -> None:
        """All up to this event has arrived."""
        await self._keep(tenant, hook, {"cursor": cursor, "attempts": 0, "error": ""})

    @reaching
    async def failed(self, tenant: str, hook: str, attempts: int, error: str) -> None:
        """An attempt did not arrive."""
        await self._keep(tenant, hook, {"attempts": attempts, "error": error})

    async def _keep(self, tenant: str, hook: str, told: dict[str, str | int]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        keys = keys_of(tenant)
        pipeline.hset(keys.hook(hook), mapping=told)
        pipeline.persist(keys.hook(hook))  # an earlier version let it run out
        pipeline.zadd(keys.hooks, {hook: int(time.time() * 1000)})
        await pipeline.execute()
