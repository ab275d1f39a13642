"""The cache of denials: a subject that has used up a quota is refused without asking Redis, until there is more.

No subject is refused too long. When an operator resets or changes a limit, every worker gets a push and forgets the
tenant's denials. The cache counts only while the subscription for these pushes is alive. A reloaded configuration makes
new terms, for which nothing is cached.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from service.core.admission import Admission, Question, Terms
from service.core.limits import MICRO, Limit, LimitState
from service.core.tasks import round_completed
from service.store.connection.calls import UNHEARD, note_failure, subscriber
from service.store.keyspace import NAMES

log = structlog.get_logger()

MOST = 10_000
"""The most denials that are cached for a tenant; the oldest is dropped first."""
PING_EVERY_S = 0.03
"""How often the subscription is pinged, in seconds."""
SILENT_S = 0.1
"""Seconds without an answer after which the cache is not used."""
FRESH_S = 0.1
"""Seconds for which a denial may report a limit that has room. Other requests may use that limit up meanwhile."""
AGAIN_S = 0.5
"""Seconds until a broken subscription is tried again."""


_Key = tuple[Terms, float | None, tuple[str, ...]]


@dataclass(slots=True)
class _Refusal:
    limit_states: list[LimitState]
    """The states of the limits; the full ones are over."""
    foreseen: bool
    """The request that used up the quota was admitted, so the next denial is the first one."""
    answered_at: float
    """When the answer came, in seconds of the clock. Its waits count from a moment before."""
    until: float
    """The moment from which Redis is asked again. It is counted from when the question was sent, so it comes early
    rather than late."""
    over_at: float
    """When the last of its limits has room again."""


class DenialCache:
    """Caches recent denials, by tenant.

    Args:
        clock: seconds of a clock that does not go back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._tenants: dict[str | None, dict[_Key, _Refusal]] = {}
        self.heard_at = float("-inf")
        """When the subscription last answered."""
        self._set_limits: dict[tuple[str | None, str], Limit] = {}
        """Tenant and name → the limit that an operator has set, as last read from Redis."""
        self._forgotten_at = float("-inf")
        """When something was last forgotten: an earlier question may be about the limit as it was."""

    def now(self) -> float:
        """Return the time by the cache's clock."""
        return self._clock()

    def find(self, question: Question) -> Admission | None:
        """Return the cached denial of this question, if it still applies; None: ask Redis."""
        refusals = self._tenants.get(question.terms.tenant)
        if not refusals:
            return None
        key = _key(question)
        refusal = refusals.get(key)
        if refusal is None:
            return None
        now = self._clock()
        if now - self.heard_at > SILENT_S:
            return None
        if now >= refusal.until:
            if now >= refusal.over_at:
                del refusals[key]
            return None
        remembered = not refusal.foreseen
        refusal.foreseen = False
        passed_us = int((now - refusal.answered_at) * MICRO)
        limit_states = [
            LimitState(one.limit, one.used, max(0, one.reset_us - passed_us), one.over) for one in refusal.limit_states
        ]
        return Admission(limit_states, remembered=remembered)

    def remember(self, question: Question, admission: Admission, at: float) -> None:
        """Cache that requests like `question`, asked at `at` and answered with this admission, are refused from now on.

        It has been refused, or was admitted and used up a quota. Where every limit has room, nothing is remembered.
        Where it was refused before and only asked about again, `admission` says so.
        """
        limit_states = [
            LimitState(one.limit, one.used, one.reset_us, one.used >= one.limit.requests)
            for one in admission.limit_states
        ]
        waits_us = [one.reset_us for one in limit_states if one.refuses]
        if not waits_us or at <= self._forgotten_at:
            return
        # A limit that refuses does not change until its own time: it admits nothing.
        until, over_at = at + min(waits_us) / MICRO, at + max(waits_us) / MICRO
        if any(not one.over and not one.limit.shadow for one in limit_states):
            until = min(until, at + FRESH_S)
        refusals, key = self._tenants.setdefault(question.terms.tenant, {}), _key(question)
        before = refusals.get(key)
        if before is not None and admission.refused and not before.foreseen and at < before.over_at:
            admission.remembered = True
        elif before is None and len(refusals) >= MOST:
            del refusals[next(iter(refusals))]
        refusals[key] = _Refusal(limit_states, not admission.refused, self._clock(), until, over_at)

    def learn(self, tenant: str | None, limit: Limit) -> None:
        """Store what an operator has set in place of a limit, for outages of Redis."""
        self._set_limits[tenant, limit.name] = limit

    def held(self, tenant: str | None, limit: Limit) -> Limit:
        """Return the limit that applies to a tenant, as far as this worker knows without Redis."""
        return self._set_limits.get((tenant, limit.name), limit) if self._set_limits else limit

    def forget(self, tenant: str | None = None) -> None:
        """Forget the denials of a tenant and what was set for it; None: of all tenants."""
        self._forgotten_at = self._clock()
        if tenant is None:
            self._tenants.clear()
            self._set_limits.clear()
            return
        self._tenants.pop(tenant, None)
        for key in [key for key in self._set_limits if key[0] == tenant]:
            del self._set_limits[key]

    async def listen_forever(self, client: Any) -> None:
        """Listen for pushes, by a redis-py client. While Redis is away, the cache does not count."""
        while True:
            pubsub = subscriber(client)
            try:
                await self._listen(pubsub)
            except UNHEARD as error:
                note_failure(error)
            finally:
                self.heard_at = float("-inf")
                await pubsub.aclose()
            round_completed()
            await asyncio.sleep(AGAIN_S)

    async def _listen(self, pubsub: Any) -> None:
        await pubsub.subscribe(NAMES.cache_channel)
        silent = 0
        while silent * PING_EVERY_S < 1.0:
            message = await pubsub.get_message(timeout=PING_EVERY_S)
            round_completed()
            if message is None:
                silent += 1
                await pubsub.ping()
                continue
            if message["type"] == "subscribe":
                self.forget()  # pushes may have been missed meanwhile
            elif message["type"] == "message":
                self.forget(message["data"].decode())
            silent, self.heard_at = 0, self._clock()
        raise TimeoutError("the subscription fell silent")


def _key(question: Question) -> _Key:
    """Return the key of what is denied alike. Revoked tokens of a user do not count against its limits."""
    user = question.user
    issued_s = user.issued_s if user is not None and question.terms.counts_users else None
    return question.terms, issued_s, tuple([question.subject(limit) for limit in question.terms.limits])
