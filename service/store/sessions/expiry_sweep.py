"""The sweep: changes `logged_in` to `expired`, and removes sessions after their retention.

A round asks which users of fifty tenants are due, and processes them in small bites. A bite is one call of a short
function, which also returns who is due next. A lease lets one worker sweep at a time; two at once would do no harm,
because each bite reads the current records. The service's clock decides what is due, as it does for tokens.
"""

import asyncio
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from service.core.clocks import now_ms
from service.core.errors import StoreUnavailable
from service.core.tasks import round_completed
from service.store.connection.calls import (
    AWAY,
    Text,
    client_errors,
    failures_noted,
    is_cluster,
    note_failure,
    redis_call,
    run,
)
from service.store.connection.failures import unavailable
from service.store.keyspace import NAMES, due_keys, keys_of
from service.store.leases import Leases
from service.store.libraries import Libraries
from service.store.sessions.expired_rules import Tidier
from service.store.sessions.leftovers import RedisLeftovers
from service.store.sessions.repair import Repair

log = structlog.get_logger()

BITE = 12
"""The most users of each kind in a bite. It takes Redis half a millisecond, for which an admission may wait."""
TOGETHER = 50
"""The tenants that one call asks about: half a millisecond of Redis, too. On a Cluster it is one: slots differ."""
ROUNDS = 5
"""The rounds in which each tenant is asked about once, if one round would need more than `MOST_CALLS` calls."""
MOST_CALLS = 500
ADOPTED = b"2"
"""The data of earlier versions that were adopted: rules with a TTL (1); suspended and terminated users, into the
index of all users (2)."""
RENEW_EVERY_S = 3.0
"""How often the lease is renewed while a round lasts."""
EVERY_S = 5.0
AGAIN_S = 0.5
"""Seconds to wait after a round that failed."""


@dataclass(frozen=True, slots=True)
class SweepRules:
    """Each configured tenant's leeway, and the retention, in milliseconds."""

    leeways_ms: Mapping[str, int]
    retention_ms: int
    longest_ms: int = 31 * 24 * 3600 * 1000
    """Counted from the last request. A token that expires later does not keep a logged-out user for longer."""


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
        self._together = 1 if is_cluster(client) else TOGETHER
        self._round = _Round()
        self._renewed_s = 0.0
        """When the lease was renewed last, by the monotonic clock."""
        self._listed: dict[str, bytes] = {}
        """The tenants in Redis's list, as they are spelled there."""
        self._asked_to = ""
        """The tenant that was asked about last, where one round did not ask about all."""
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

        Where there are very many on a Cluster, each call sweeps a part of them.

        Raises:
            StoreUnavailable: no tenant could be swept.
        """
        rules = self._rules()
        self._round, self._renewed_s = _Round(), time.monotonic()
        for tenants in self._of_this_round(await self._tenants(rules)):
            await self._sweep_together(tenants, rules)
            await self._renew()
        if self._round.error is not None:
            if not self._round.completed:
                raise unavailable(self._round.error)
            note_failure(self._round.error)
        return Swept(self._round.expired, self._round.removed)

    def _of_this_round(self, tenants: Sequence[str]) -> list[Sequence[str]]:
        """Return the tenants to ask about, those of one call together, after those of the round before."""
        most = max(MOST_CALLS, len(tenants) // (ROUNDS * self._together) + 1) * self._together
        begin = 0
        if len(tenants) > most:
            begin = bisect_right(tenants, self._asked_to)
            tenants = [*tenants[begin:], *tenants[:begin]][:most]
            self._asked_to = tenants[-1]
        return [tenants[at : at + self._together] for at in range(0, len(tenants), self._together)]

    async def _sweep_together(self, tenants: Sequence[str], rules: SweepRules) -> None:
        """Sweep tenants of one node. Where they cannot be asked about together, sweep one after the other."""
        this = self._round
        try:
            node = self._node_of(tenants[0])
        except StoreUnavailable as error:
            this.error = error
            return
        if node in this.away:
            return
        try:
            found = await self._due_of(tenants, rules)
            untidy = await self._tidier.untidy(tenants)
        except AWAY as error:
            if len(tenants) > 1 and _is_of_one_tenant(error):
                for tenant in tenants:
                    await self._sweep_together([tenant], rules)
            else:
                this.failed(tenants, node, error)
            return
        for tenant, due in zip(tenants, found, strict=True):
            if not due and tenant not in untidy and tenant in rules.leeways_ms:
                this.completed = True
                continue
            try:
                swept = await self._sweep_tenant(tenant, due, rules)
                if tenant in untidy:
                    await self._tidier.tidy(tenant)
                if tenant not in rules.leeways_ms:
                    with client_errors():
                        await self._leave_if_swept(tenant)
            except AWAY as error:
                this.failed([tenant], node, error)
                if node in this.away:
                    return
                continue
            this.completed = True
            self._on_swept(tenant, swept.expired, swept.removed)
            this.expired += swept.expired
            this.removed += swept.removed

    async def _due_of(self, tenants: Sequence[str], rules: SweepRules) -> list[list[bytes]]:
        """Return who is due of each tenant, at most a bite of each kind."""
        keys = [key for tenant in tenants for key in due_keys(tenant)]
        leeways = [rules.leeways_ms.get(tenant, 0) for tenant in tenants]
        args = [self._clock_ms(), rules.retention_ms, rules.longest_ms, BITE, *leeways]
        return list(await run(self._client, "due", keys, args))

    async def _tenants(self, rules: SweepRules) -> list[str]:
        """Return the tenants that may have something to sweep; while their list is away, the configured ones."""
        configured = rules.leeways_ms.keys()
        try:
            with client_errors():
                members = await self._client.smembers(NAMES.tenants)
                self._listed = {raw.decode(errors="replace"): raw for raw in members}
                if missing := configured - self._listed.keys():
                    await self._client.sadd(NAMES.tenants, *missing)
        except AWAY as error:
            note_failure(error)
            self._listed = {}
        return sorted(configured | self._listed.keys())

    async def _leave_if_swept(self, tenant: str) -> None:
        """Forget a tenant that is not configured any more, once nothing of it is due."""
        keys = keys_of(tenant)
        if await self._client.zcard(keys.expiring):  # all users are in it
            return
        if not await self._client.exists(keys.ending, keys.timed, keys.events, keys.webhook_states, keys.rules):
            await self._client.srem(NAMES.tenants, self._listed.get(tenant, tenant))
            self._tidier.forget(tenant)

    async def _sweep_tenant(self, tenant: str, due: Sequence[bytes], rules: SweepRules) -> Swept:
        if not due:
            return Swept(0, 0)
        keys = keys_of(tenant)
        lifetimes = [rules.leeways_ms.get(tenant, 0), rules.retention_ms, rules.longest_ms]
        expired = removed = 0
        record = keys.user("").encode()
        while due:
            at: list[Text] = [*keys.shared, *(record + user for user in due)]
            judged_at: list[Text | int] = [self._clock_ms(), *lifetimes, BITE, *due]
            asked = len(due)
            expired_now, removed_now, _, due = await run(self._client, "sweep", at, judged_at)
            expired += expired_now
            removed += removed_now
            if asked < BITE:
                break
            await self._renew()
        return Swept(expired, removed)

    async def _renew(self) -> None:
        """Let others run between two calls, and renew the lease while a round lasts."""
        if time.monotonic() - self._renewed_s > RENEW_EVERY_S:
            self._renewed_s = time.monotonic()
            await self._may_sweep()
        await asyncio.sleep(0)


@dataclass(slots=True)
class _Round:
    """What a round has done so far."""

    expired: int = 0
    removed: int = 0
    completed: bool = False
    """Some tenant could be swept."""
    error: Exception | None = None
    """The last failure."""
    away: set[object] = field(default_factory=set)
    """The nodes that do not answer, or refuse everybody."""

    def failed(self, tenants: Sequence[str], node: object, error: Exception) -> None:
        """Note that some tenants of a node are not swept."""
        self.error = error
        reason = f"{type(error).__name__}: {error}"
        more = {"more": len(tenants) - 1} if len(tenants) > 1 else {}
        log.warning("a tenant is not swept", tenant=tenants[0], reason=reason, **more)
        if not _is_of_one_tenant(error):
            self.away.add(node)


def _is_of_one_tenant(error: Exception) -> bool:
    """Return whether the error concerns only this tenant: a key of a wrong type, a record that is not one."""
    return type(error) is ResponseError and not str(error).startswith(("MISCONF", "NOREPLICAS", "NOPERM"))
