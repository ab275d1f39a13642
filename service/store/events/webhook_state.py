"""Webhooks in Redis: how far each has been told, how it goes, and which worker tells it."""

import time
from typing import Any

from redis.asyncio import Redis

from service.core.webhooks import WebhookState
from service.store.connection.calls import redis_call
from service.store.keyspace import keys_of
from service.store.leases import Leases


class RedisWebhookStates:
    """The cursors and leases of webhooks. One of these is one worker.

    Args:
        client: a redis-py client.
    """

    def __init__(self, client: Redis) -> None:
        self._client: Any = client  # redis-py's answers are typed as a union over all its modes
        self._leases = Leases(client)

    async def hold(self, tenant: str, webhook: str) -> bool:
        """Take or keep the lease."""
        return await self._leases.hold(keys_of(tenant).webhook_lease(webhook))

    async def release(self, tenant: str, webhook: str) -> None:
        """Give the lease up."""
        await self._leases.release(keys_of(tenant).webhook_lease(webhook))

    @redis_call
    async def state(self, tenant: str, webhook: str) -> WebhookState:
        """How far it has been told, and how it goes."""
        found = await self._client.hgetall(keys_of(tenant).webhook(webhook))
        found_fields = {name.decode(): value.decode() for name, value in found.items()}
        return WebhookState(
            found_fields.get("cursor"), int(found_fields.get("attempts", 0)), found_fields.get("error", "")
        )

    @redis_call
    async def begin(self, tenant: str, webhook: str) -> str:
        """Where a new webhook begins: behind what has happened so far."""
        entries = await self._client.xrevrange(keys_of(tenant).events, count=1)
        cursor = entries[0][0].decode() if entries else "0-0"
        await self._keep(tenant, webhook, {"cursor": cursor, "attempts": 0, "error": ""})
        return cursor

    @redis_call
    async def delivered(self, tenant: str, webhook: str, cursor: str) -> None:
        """All up to this event has arrived."""
        await self._keep(tenant, webhook, {"cursor": cursor, "attempts": 0, "error": ""})

    @redis_call
    async def failed(self, tenant: str, webhook: str, attempts: int, error: str) -> None:
        """An attempt did not arrive."""
        await self._keep(tenant, webhook, {"attempts": attempts, "error": error})

    async def _keep(self, tenant: str, webhook: str, found_fields: dict[str, str | int]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        keys = keys_of(tenant)
        pipeline.hset(keys.webhook(webhook), mapping=found_fields)
        pipeline.persist(keys.webhook(webhook))  # an earlier version let it run out
        pipeline.zadd(keys.webhook_states, {webhook: int(time.time() * 1000)})
        await pipeline.execute()
