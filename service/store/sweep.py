"""The sweep: turns `logged_in` into `expired`, and removes what is past its retention.

A round works off what is due in bites of a hundred users, each one short script. One worker sweeps at a
time, by a lease; two at once would do no harm, since each bite judges the records as they stand. What is due is judged
by the service's clock, as tokens are.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from redis.asyncio import Redis

from service.core.clocks import now_ms
from service.core.errors import StoreUnavailable
from service.core.tasks import round_completed
from service.store.keyspace import SWEEPER, TENANTS, keys_of
from service.store.lease import Leases
from service.store.reach import AWAY, reaching, run
from service.store.tidy import Tidier

log = structlog.get_logger()

BITE = 100
EVERY_S = 5.0
MOST_FAILED = 3
"""Tenants that could not be swept before a round is given up: Redis is away then."""


@dataclass(frozen=True, slots=True)
class SweepRules:
    """Each configured tenant's leeway, and the retention, in milliseconds."""

    leeways_ms: Mapping[str, int]
    retention_ms: int


@dataclass(frozen=True, slots=True)
class Swept:
    """What a round came to."""

    expired: int
    removed: int


class Sweeper:
    """Sweeps all tenants, those that left the configuration included, until nothing is due.

    Args:
        client: a redis-py client.
        rules: what holds now.
        on_swept: receives a tenant, and how many of its users a round expired and removed.
        clock_ms: milliseconds since the epoch, by the clock that judges tokens.
    """

    def __init__(
        self,
        client: Redis,
        rules: Callable[[], SweepRules],
        on_swept: Callable[[str, int, int], None] = lambda tenant, expired, removed: None,
        clock_ms: Callable[[], int] = now_ms,
    ) -> None:
        self._client: Any = client  # redis-py's answers are typed as a union over all its modes
        self._rules = rules
        self._on_swept = on_swept
        self._leases = Leases(client)
        self._clock_ms = clock_ms
        self._tidier = Tidier(client)

    async def run_forever(self) -> None:
        """Sweep every few seconds. Redis being away is waited out."""
        while True:
            try:
                if await self.hold_lease():
                    swept = await self.sweep()
                    if swept.expired or swept.removed:
                        log.info("swept", expired=swept.expired, removed=swept.removed)
            except StoreUnavailable as error:
                log.debug("the sweep waits for redis", reason=error.reason)
            round_completed()
            await asyncio.sleep(EVERY_S)

    async def hold_lease(self) -> bool:
        """Take or keep the lease."""
        return await self._leases.hold(SWEEPER)

    async def release(self) -> None:
        """Give the lease up."""
        await self._leases.release(SWEEPER)

    @reaching
    async def sweep(self) -> Swept:
        """One round over all tenants. What is wrong with one of them keeps no other from being swept."""
        rules = self._rules()
        expired = removed = failed = 0
        if rules.leeways_ms:
            await self._client.sadd(TENANTS, *rules.leeways_ms)
        for raw in await self._client.smembers(TENANTS):
            tenant = raw.decode(errors="replace")
            try:
                swept = await self._sweep_tenant(tenant, rules)
                await self._tidier.tidy(tenant)
                if tenant not in rules.leeways_ms:
                    await self._leave_if_swept(tenant, raw)
            except AWAY as error:
                failed += 1
                log.warning("a tenant is not swept", tenant=tenant, reason=f"{type(error).__name__}: {error}")
                if failed >= MOST_FAILED:
                    raise
                continue
            self._on_swept(tenant, swept.expired, swept.removed)
            expired += swept.expired
            removed += swept.removed
        return Swept(expired, removed)

    async def _leave_if_swept(self, tenant: str, raw: bytes) -> None:
        """A tenant that left the configuration is looked at until nothing of it is due any more."""
        keys = keys_of(tenant)
        if not await self._client.exists(keys.expiring, keys.ending, keys.timed, keys.events, keys.hooks):
            await self._client.srem(TENANTS, raw)
            self._tidier.forget(tenant)

    async def _sweep_tenant(self, tenant: str, rules: SweepRules) -> Swept:
        keys = keys_of(tenant)
        lifetimes = [rules.leeways_ms.get(tenant, 0), rules.retention_ms]
        expired = removed = 0
        while True:
            # Once for both: what the first finds due, the second must find due as well, or this would not end.
            judged_at = [self._clock_ms(), *lifetimes]
            found = await run(self._client, "due", [keys.expiring, keys.ending], [*judged_at, BITE])
            due = [user.decode() for user in found]
            if due:
                records = [keys.user(user) for user in due]
                bite = await run(self._client, "sweep", [*keys.shared, *records], [*judged_at, *due])
                expired += bite[0]
                removed += bite[1]
            if len(due) < BITE:
                return Swept(expired, removed)
            await self._leases.hold(SWEEPER)
