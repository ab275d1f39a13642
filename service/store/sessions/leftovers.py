"""What is kept of tenants that are not configured: lists and removes it, in steps that hold Redis for a moment."""

from collections.abc import Collection
from typing import Any

from redis.asyncio import Redis

from service.core.leftovers import Leftover, Removed
from service.core.sessions import RECORDED, Status
from service.store.connection.calls import owner_of, redis_call
from service.store.keyspace import NAMES, keys_of, keys_of_one, status_and_rules

STEP = 1000
"""The most members or keys of one command."""
MOST_STEPS = 50
"""Steps of one call of `remove`: about a tenth of a second, with admissions between any two steps."""
_INDEXES = "indexes"
"""The position of a removal that has only the indexes left to remove."""


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
    async def remove(self, tenant: str, after: str = "") -> Removed:
        """Remove a part of what is kept of a tenant, terminated users too, in at most `MOST_STEPS` short steps.

        First all keys but the indexes, by a SCAN of the tenant's node; then the indexes. So a tenant that is removed
        in part is still listed, and whoever begins again removes the rest.
        """
        keys = keys_of(tenant)
        # By status last: as long as it has users a tenant is listed.
        indexes = (keys.expiring, keys.ending, keys.timed, *keys.by_status.values())
        position, removed, steps = after or "0", 0, 0
        at = await owner_of(self._client, keys.rules)
        while position != _INDEXES:
            if steps >= MOST_STEPS:
                return Removed(removed, position)
            following, found = await self._client.execute_command(
                "SCAN", position, "MATCH", keys_of_one(tenant), "COUNT", STEP, **at
            )
            if other := [key for key in found if key.decode(errors="replace") not in indexes]:
                removed += await self._client.delete(*other)
            if isinstance(following, dict):  # on a Cluster redis-py returns a position for each node
                [following] = following.values()
            position = str(int(following)) if int(following) else _INDEXES
            steps += 1
        # Large indexes a step at a time: to delete one of millions of members at once would hold Redis for seconds.
        for index in indexes:
            while await self._client.zremrangebyrank(index, 0, STEP - 1) == STEP:
                steps += 1
                if steps >= MOST_STEPS:
                    return Removed(removed, _INDEXES)
        for listed in (NAMES.tenants, NAMES.configured):
            await self._client.srem(listed, tenant)
        return Removed(removed, None)

    @redis_call
    async def is_kept(self, tenant: str) -> bool:
        """Return whether anything is kept of a tenant."""
        keys = keys_of(tenant)
        if await self._client.exists(*keys.shared, keys.rules, keys.timed, keys.webhook_states):
            return True
        return tenant.encode() in await self._client.smembers(NAMES.tenants)

    @redis_call
    async def note_configured(self, configured: Collection[str]) -> list[str]:
        """Note which tenants are configured. Returns those that were not before and find rules or bans of their name.

        The first time nothing is known of before, and nothing is returned.
        """
        known = {raw.decode(errors="replace") for raw in await self._client.smembers(NAMES.configured)}
        found: list[str] = []
        new = sorted(set(configured) - known) if known else []
        for at in range(0, len(new), STEP):
            pipeline = self._client.pipeline(transaction=False)
            for tenant in new[at : at + STEP]:
                keys = keys_of(tenant)
                banned = [keys.by_status[status] for status in (Status.SUSPENDED, Status.TERMINATED)]
                pipeline.exists(keys.rules, *banned)
            answers = await pipeline.execute()
            found += [tenant for tenant, there in zip(new[at : at + STEP], answers, strict=True) if there]
        if configured:
            await self._client.sadd(NAMES.configured, *configured)
        if gone := known.difference(configured):
            await self._client.srem(NAMES.configured, *gone)
        return found
