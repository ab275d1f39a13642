"""What is kept of tenants that are not configured: lists and removes it, in steps that hold Redis for a moment."""

from collections.abc import Collection
from typing import Any

from redis.asyncio import Redis

from service.core.leftovers import Leftover
from service.core.sessions import RECORDED, Status
from service.store.connection.calls import redis_call
from service.store.keyspace import NAMES, keys_of, keys_of_one, status_and_rules

STEP = 1000
"""Members, or keys, of one command."""


class RedisLeftovers:
    """`core.leftovers.Leftovers`, over Redis.

    Args:
        client: a redis-py client.
    """

    def __init__(self, client: Redis) -> None:
        self._client: Any = client  # redis-py's answers are typed as a union over all its modes

    @redis_call
    async def of(self, configured: Collection[str]) -> list[Leftover]:
        """Return what is kept of tenants other than these, by name."""
        listed = {raw.decode(errors="replace") for raw in await self._client.smembers(NAMES.tenants)}
        found = [await self._leftover(tenant) for tenant in sorted(listed.difference(configured))]
        return [one for one in found if one.has_rules or any(one.counts.values())]

    async def _leftover(self, tenant: str) -> Leftover:
        keys = keys_of(tenant)
        counts: dict[Status, int] = {
            status: int(await self._client.zcard(keys.by_status[status])) for status in RECORDED
        }
        return Leftover(tenant, counts, bool(await self._client.exists(keys.rules)))

    @redis_call
    async def note_all(self) -> None:
        """Note every tenant that has users or rules, so that `of` finds it. Reads through all keys."""
        async for raw in self._client.scan_iter(match=status_and_rules(), count=STEP):
            key = raw.decode(errors="replace")
            await self._client.sadd(NAMES.tenants, key[key.find("{") + 1 : key.find("}")])

    @redis_call
    async def remove(self, tenant: str) -> int:
        """Remove everything that is kept of a tenant, terminated users too. Returns how many keys."""
        keys = keys_of(tenant)
        # Large indexes a step at a time: to delete one of millions of members at once would hold Redis for seconds.
        for index in (*keys.by_status.values(), keys.expiring, keys.ending, keys.timed):
            while await self._client.zremrangebyrank(index, 0, STEP - 1):
                pass
        removed, waiting = 0, []
        async for key in self._client.scan_iter(match=keys_of_one(tenant), count=STEP):
            waiting.append(key)
            if len(waiting) >= STEP:
                removed += await self._client.delete(*waiting)
                waiting = []
        if waiting:
            removed += await self._client.delete(*waiting)
        await self._client.srem(NAMES.tenants, tenant)
        await self._client.srem(NAMES.configured, tenant)
        return removed

    @redis_call
    async def note_configured(self, configured: Collection[str]) -> list[str]:
        """Note which tenants are configured. Returns those that were not before and find rules or bans of their name.

        The first time nothing is known of before, and nothing is returned.
        """
        known = {raw.decode(errors="replace") for raw in await self._client.smembers(NAMES.configured)}
        found = []
        for tenant in sorted(set(configured) - known) if known else []:
            keys = keys_of(tenant)
            banned = [keys.by_status[status] for status in (Status.SUSPENDED, Status.TERMINATED)]
            if await self._client.exists(keys.rules, *banned):
                found.append(tenant)
        if configured:
            await self._client.sadd(NAMES.configured, *configured)
        if gone := known.difference(configured):
            await self._client.srem(NAMES.configured, *gone)
        return found
