"""Removal of what has ended of a tenant beside its users: timed rules, old streams, the state of removed webhooks.

None of it has a TTL: a server with a `maxmemory-policy` of volatile-* would evict it first, and with it what operators
have set. An admission checks the end of a timed rule itself, so the rule may be removed a minute late.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import Redis

from service.core.clocks import now_ms
from service.store.connection.calls import run
from service.store.keyspace import EVENTS_TTL_MS, keys_of, untidy_keys

BITE = 100
EVERY_S = 60.0


class Tidier:
    """Tidies tenants, each at most once a minute.

    Args:
        client: a redis-py client.
        clock_s: seconds of a clock that does not go back.
        clock_ms: milliseconds since the epoch, by the service's clock; what is over by one clock alone is kept.
    """

    def __init__(
        self, client: Redis, clock_s: Callable[[], float] = time.monotonic, clock_ms: Callable[[], int] = now_ms
    ) -> None:
        self._client: Any = client  # redis-py's answers are typed as a union over all its modes
        self._clock_s = clock_s
        self._clock_ms = clock_ms
        self._tidied: dict[str, float] = {}

    async def untidy(self, tenants: Sequence[str]) -> list[str]:
        """Return those tenants that have something to tidy, by one call. Leave out who was asked about lately.

        Args:
            tenants: on a Cluster, one.
        """
        now_s = self._clock_s()
        asked = [one for one in tenants if now_s - self._tidied.get(one, float("-inf")) >= EVERY_S]
        if not asked:
            return []
        keys = [key for tenant in asked for key in untidy_keys(tenant)]
        places = await run(self._client, "untidy", keys, [self._clock_ms(), EVENTS_TTL_MS])
        found = [asked[place - 1] for place in places]
        self._tidied |= dict.fromkeys(set(asked).difference(found), now_s)
        return found

    async def tidy(self, tenant: str) -> None:
        """Tidy `tenant`, unless that was done within the last minute."""
        now_s = self._clock_s()
        if now_s - self._tidied.get(tenant, float("-inf")) < EVERY_S:
            return
        keys = keys_of(tenant)
        while True:
            judged_at_ms = self._clock_ms()
            at = [keys.rules, keys.events, keys.trails, keys.webhook_states, keys.timed]
            users, webhook_states = await run(self._client, "tidy", at, [judged_at_ms, EVENTS_TTL_MS, BITE])
            if users:
                theirs = [_rules_of(tenant, user) for user in users]
                await run(self._client, "settle", [*theirs, keys.timed], [judged_at_ms])
            if webhook_states:
                names = [name.decode() for name in webhook_states]
                states = [key for name in names for key in (keys.webhook(name), keys.webhook_lease(name))]
                await run(self._client, "retire", [keys.webhook_states, *states], [EVENTS_TTL_MS, *names])
            if len(users) < BITE and len(webhook_states) < BITE:
                break
        self._tidied[tenant] = now_s

    def forget(self, tenant: str) -> None:
        """Forget when a removed tenant was tidied."""
        self._tidied.pop(tenant, None)


def _rules_of(tenant: str, user: bytes) -> str:
    keys = keys_of(tenant)
    return keys.user_rules(user.decode()) if user else keys.rules
