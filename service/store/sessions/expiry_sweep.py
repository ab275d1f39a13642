"""The sweep: changes `logged_in` to `expired`, and removes sessions after their retention.

A round works off what is due in small bites, each one short function that returns who is due next. One worker sweeps
at a time, by a lease; two at once would do no harm, since each bite reads the current records. What is due is
judged by the service's clock, as tokens are.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from service.core.clocks import now_ms
from service.core.errors import StoreUnavailable
from service.core.tasks import round_completed
from service.store.connection.calls import AWAY, failures_noted, note_failure, redis_call, run
from service.store.keyspace import NAMES, keys_of
from service.store.leases import Leases
from service.store.libraries import Libraries
from service.store.sessions.expired_rules import Tidier
from service.store.sessions.leftovers import RedisLeftovers
from service.store.sessions.repair import Repair

log = structlog.get_logger()

BITE = 12
"""Users of each kind in a bite: about half a millisecond of Redis's time, which an admission may have to wait."""
ADOPTED = b"2"
"""What was taken over: rules with a TTL (1), and who is suspended or terminated into the index of all users (2)."""
RENEW_EVERY_S = 3.0
"""How often the lease is renewed while a round lasts."""
EVERY_S = 5.0
AGAIN_S = 0.5
"""Seconds to wait after a round that Redis did not let complete."""


@dataclass(frozen=True, slots=True)
class SweepRules:
    """Each configured tenant's leeway, and the retention, in milliseconds."""

    leeways_ms: Mapping[str, int]
    retention_ms: int
    longest_ms: int = 31 * 24 * 3600 * 1000
    """From the last request: a token that ends later keeps no logged-out user for longer."""


@dataclass(frozen=True, slots=True)
class Swept:
    """The result of a round."""

    expired: int
    removed: int


class Sweeper:
    """Sweeps all tenants, those that left the configuration included, until nothing is due.

    Args:
        client: a redis-py client.
        rules: what holds now.
        on_swept: receives a tenant, and how many of its users a round expired and removed.
        clock_ms: milliseconds since the epoch, by the clock that judges tokens.
        node_of: returns an object for the node that has a tenant; raises StoreUnavailable while it is away.
    """

    def __init__(
        self,
        client: Redis,
        rules: Callable[[], SweepRules],
        on_swept: Callable[[str, int, int], None] = lambda tenant, expired, removed: None,
        clock_ms: Callable[[], int] = now_ms,
        node_of: Callable[[str], object] = lambda tenant: None,
    ) -> None:
        self._client: Any = client  # redis-py's answers are typed as a union over all its modes
        self._rules = rules
        self._on_swept = on_swept
        self._node_of = node_of
        self._leases = Leases(client)
        self._adopted = False
        self._leftovers = RedisLeftovers(client)
        self._noted: frozenset[str] | None = None
        self._clock_ms = clock_ms
        self._tidier = Tidier(client, clock_ms=clock_ms)
        self._libraries = Libraries(client)

    async def run_forever(self) -> None:
        """Sweep every few seconds. While Redis is away, wait."""
        while True:
            wait_s = EVERY_S
            try:
                with failures_noted():  # while a node is away, its libraries can wait
                    await self._libraries.keep()
                if await self._may_sweep():
                    with failures_noted():  # the other nodes are swept while one is away
                        await self._adopt_once()
                        await self.warn_of_older_rules()
                    swept = await self.sweep()
                    if swept.expired or swept.removed:
                        log.info("swept", expired=swept.expired, removed=swept.removed)
            except StoreUnavailable as error:
                note_failure(error)
                wait_s = AGAIN_S
            round_completed()
            await asyncio.sleep(wait_s)

    async def _may_sweep(self) -> bool:
        """Take or keep the lease. If its node is away, sweep the other nodes without it: that does no harm."""
        try:
            return await self.hold_lease()
        except StoreUnavailable:
            return True

    @redis_call
    async def _adopt_once(self) -> None:
        """Take over what an earlier version kept otherwise. This reads all keys, only at the first start."""
        if self._adopted:
            return
        if await self._client.get(NAMES.adopted) != ADOPTED:
            users = await Repair(self._client).adopt()
            await self._leftovers.note_all()
            await self._client.set(NAMES.adopted, ADOPTED)
            log.info("what an earlier version kept is taken over", rules_of_users=users)
        self._adopted = True

    async def warn_of_older_rules(self) -> None:
        """Warn of each tenant that is new in the configuration and finds bans or restrictions of its name."""
        configured = frozenset(self._rules().leeways_ms)
        if configured == self._noted:
            return
        for tenant in await self._leftovers.note_configured(configured):
            log.warning(
                "a tenant that is new in the configuration finds older suspensions, terminations or restrictions of "
                "the same name, which apply to it; remove the tenant and run `rollcall forget` to begin without them",
                tenant=tenant,
            )
        self._noted = configured

    async def hold_lease(self) -> bool:
        """Take or keep the lease."""
        return await self._leases.hold(NAMES.sweeper)

    async def release(self) -> None:
        """Release the lease."""
        await self._leases.release(NAMES.sweeper)

    async def sweep(self) -> Swept:
        """Sweep all tenants once. An error of one tenant or node does not keep others from being swept.

        Raises:
            StoreUnavailable: no tenant could be swept.
        """
        rules = self._rules()
        expired = removed = 0
        away: set[object] = set()
        completed, reason = False, ""
        for raw in await self._tenants(rules):
            tenant = raw.decode(errors="replace")
            try:
                node = self._node_of(tenant)
            except StoreUnavailable as error:
                reason = error.reason
                continue
            if node in away:
                continue
            try:
                swept = await self._sweep_tenant(tenant, rules)
                await self._tidier.tidy(tenant)
                if tenant not in rules.leeways_ms:
                    await self._leave_if_swept(tenant, raw)
            except AWAY as error:
                reason = f"{type(error).__name__}: {error}"
                log.warning("a tenant is not swept", tenant=tenant, reason=reason)
                if not _is_of_one_tenant(error):
                    away.add(node)
                continue
            completed = True
            self._on_swept(tenant, swept.expired, swept.removed)
            expired += swept.expired
            removed += swept.removed
        if reason and not completed:
            raise StoreUnavailable(reason)
        return Swept(expired, removed)

    async def _tenants(self, rules: SweepRules) -> Collection[bytes]:
        """Return the tenants that may have something to sweep; while their list is away, the configured ones."""
        try:
            if rules.leeways_ms:
                await self._client.sadd(NAMES.tenants, *rules.leeways_ms)
            return frozenset(await self._client.smembers(NAMES.tenants))
        except AWAY as error:
            note_failure(error)
            return [name.encode() for name in rules.leeways_ms]

    async def _leave_if_swept(self, tenant: str, raw: bytes) -> None:
        """Forget a tenant that is not configured any more, once nothing of it is due."""
        keys = keys_of(tenant)
        if await self._client.zcard(keys.expiring):  # all users are in it
            return
        if not await self._client.exists(keys.ending, keys.timed, keys.events, keys.webhook_states, keys.rules):
            await self._client.srem(NAMES.tenants, raw)
            self._tidier.forget(tenant)

    async def _sweep_tenant(self, tenant: str, rules: SweepRules) -> Swept:
        keys = keys_of(tenant)
        lifetimes = [rules.leeways_ms.get(tenant, 0), rules.retention_ms, rules.longest_ms]
        expired = removed = 0
        renewed_s = time.monotonic()
        found = await run(self._client, "due", [keys.expiring, keys.ending], [self._clock_ms(), *lifetimes, BITE])
        record = keys.user("").encode()
        while due := found:
            at = [*keys.shared, *(record + user for user in due)]
            judged_at = [self._clock_ms(), *lifetimes, BITE, *due]
            expired_now, removed_now, _, found = await run(self._client, "sweep", at, judged_at)
            expired += expired_now
            removed += removed_now
            if len(due) < BITE:
                break
            if time.monotonic() - renewed_s > RENEW_EVERY_S:
                await self._may_sweep()
                renewed_s = time.monotonic()
            await asyncio.sleep(0)
        return Swept(expired, removed)


def _is_of_one_tenant(error: Exception) -> bool:
    """Return whether the error concerns only this tenant: a key of a wrong type, a record that is not one."""
    return type(error) is ResponseError and not str(error).startswith(("MISCONF", "NOREPLICAS", "NOPERM"))
