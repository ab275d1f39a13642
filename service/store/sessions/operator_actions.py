"""Operators' actions on users, restrictions, revocations and limits. Each is one function call with its event."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from redis.asyncio import Redis

from service.core.clocks import FORGIVEN_SKEW_S, now_ms
from service.core.errors import InvalidRequest
from service.core.limits import MICRO, Limit, LimitState
from service.core.operator_actions import ActionResult, Author, Override, Restriction, Revocation, Rules
from service.core.sessions import Cause, Refusal, Status
from service.core.text.timestamps import timestamp
from service.store.admissions.window_retention import Retention
from service.store.connection.calls import redis_call, run
from service.store.keyspace import ANY_REVOKED, ANY_USER, NAMES, REVOKED, REVOKED_SKEW, keys_of
from service.store.scripts import LETTERS, STATUSES, parse_record

BITE = 100
"""The users of one call: it keeps Redis busy no longer than a full batch of admissions."""
TOGETHER = 50
"""The tenants that one round trip reads."""


class RedisOperatorActions:
    """`core.operator_actions.OperatorActions`, over Redis.

    Args:
        client: a redis-py client.
        clock_ms: milliseconds since the epoch, by the clock that judges tokens.
        forget_denials: is called with a tenant whose limits changed. Other workers get a push.
    """

    def __init__(
        self,
        client: Redis,
        clock_ms: Callable[[], int] = now_ms,
        forget_denials: Callable[[str], None] = lambda tenant: None,
    ) -> None:
        self._client: Any = client  # redis-py's answers are typed as a union over all its modes
        self._clock_ms = clock_ms
        self._forget_denials = forget_denials
        self.retention = Retention(client)

    @redis_call
    async def act(
        self,
        tenant: str,
        users: Sequence[str],
        cause: Cause,
        author: Author,
        *,
        everywhere: bool = False,
        skew_ms: int = FORGIVEN_SKEW_S * 1000,
    ) -> list[ActionResult]:
        """Change the status of users as the table of transitions allows, with an event for each."""
        keys, actions = keys_of(tenant), []
        for at in range(0, len(users), BITE):
            bite = users[at : at + BITE]
            theirs = [key for user in bite for key in (keys.user(user), keys.user_rules(user))]
            args = [cause.value, int(everywhere), self._clock_ms(), skew_ms, *_about(author), *bite]
            answers = await run(self._client, "act", [keys.rules, *keys.shared, *theirs], args)
            for user, (before, after, record, revoked_s, revokes, apart_s) in zip(bite, answers, strict=True):
                letter = after.decode()
                outcome = STATUSES[letter] if letter in LETTERS.values() else Refusal(letter)
                session, revoked = parse_record(user, record), None if revoked_s < 0 else revoked_s
                came_from = STATUSES[before.decode()]
                actions.append(ActionResult(user, came_from, outcome, session, revoked, revokes == 1, apart_s))
        return actions

    @redis_call
    async def forget(self, tenant: str, user: str, author: Author) -> Status:
        """Forget a user, unless it is terminated. Returns the status before."""
        keys = keys_of(tenant)
        before = await run(self._client, "forget", [*keys.shared, keys.user(user)], [user, *_about(author)])
        return STATUSES[before.decode()]

    @redis_call
    async def restrict(
        self,
        tenant: str,
        user: str | None,
        capability: str,
        author: Author,
        *,
        until_ms: int | None = None,
        replace: bool = False,
    ) -> Restriction:
        """Restrict a user (None: the whole tenant). It applies to the next request."""
        changed, until = await self._rule("restrict", tenant, user, author, capability, until_ms or 0, int(replace))
        if until == _OVER:
            raise InvalidRequest([("until", "has passed already; leave it out to restrict until it is lifted")])
        return Restriction(until or None, changed == 1)

    @redis_call
    async def unrestrict(self, tenant: str, user: str | None, capability: str, author: Author) -> bool:
        """Lift a restriction. Returns whether there was one."""
        changed, _ = await self._rule("restrict", tenant, user, author, capability, -1, 0)
        return bool(changed)

    @redis_call
    async def revoke(
        self,
        tenant: str,
        user: str | None,
        author: Author,
        *,
        before_ms: int | None = None,
        skew_ms: int = FORGIVEN_SKEW_S * 1000,
        replace: bool = False,
    ) -> Revocation:
        """Refuse the tokens that were issued up to the second of a moment (None: every token that exists)."""
        before = "now" if before_ms is None else before_ms
        args = [before, self._clock_ms(), skew_ms, int(replace)]
        changed, held_s, latest_ms, apart_s = await self._rule("revoke", tenant, user, author, *args)
        if latest_ms:
            latest = f"must not be after {timestamp(latest_ms)}; leave it out to revoke every token that exists now"
            raise InvalidRequest([("before", latest)])
        return Revocation(held_s, changed == 1, apart_s)

    @redis_call
    async def restore(self, tenant: str, user: str | None, author: Author) -> bool:
        """Lift a revocation."""
        changed, *_ = await self._rule("revoke", tenant, user, author, "", 0, 0, 0)
        return bool(changed)

    @redis_call
    async def rules(self, tenant: str, user: str | None = None) -> Rules:
        """Return what is set for a tenant, or for one user, without what has ended by its clock."""
        keys = keys_of(tenant)
        now, *found = await run(self._client, "look", [keys.rules if user is None else keys.user_rules(user)], [])
        return rules_of(found, int(now))

    @redis_call
    async def limits_set(self, tenants: Iterable[str]) -> Mapping[str, Mapping[str, tuple[int, int]]]:
        """Return the limits that are set of each of these tenants that has any, by one round trip for each fifty."""
        names, found = list(tenants), {}
        for at in range(0, len(names), TOGETHER):
            pipeline = self._client.pipeline(transaction=False)
            for tenant in names[at : at + TOGETHER]:
                pipeline.hgetall(keys_of(tenant).rules)
            for tenant, fields in zip(names[at : at + TOGETHER], await pipeline.execute(), strict=True):
                if limits := dict(_limits_of(fields.items())):
                    found[tenant] = limits
        return found

    @redis_call
    async def peek(self, tenant: str, charges: Sequence[tuple[Limit, str]]) -> list[LimitState]:
        """Return how much subjects have used of limits, without using any."""
        keys = keys_of(tenant)
        windows = [keys.window(limit.name, subject) for limit, subject in charges]
        args: list[str | int] = [
            part for limit, _ in charges for part in (limit.name, limit.requests, limit.window_s * MICRO)
        ]
        answers = await run(self._client, "peek", [keys.rules, *windows], args)
        return [
            LimitState(limit.changed(requests, window_s), used, reset_us, over == 1)
            for (limit, _), (used, reset_us, over, requests, window_s) in zip(charges, answers, strict=True)
        ]

    @redis_call
    async def reset_limit(self, tenant: str, limit: str, subject: str, author: Author) -> bool:
        """Restore the whole quota of a subject, on every worker."""
        keys = keys_of(tenant)
        args = [limit, subject, NAMES.cache_channel, tenant, *_about(author)]
        used = bool(await run(self._client, "reset", [keys.window(limit, subject), keys.events], args))
        self._forget_denials(tenant)
        return used

    @redis_call
    async def set_limit(self, tenant: str, limit: Limit, requests: int, window_s: int, author: Author) -> Override:
        """Set a tenant's limit in place of the configured one. It applies to the next request.

        Where its window is longer than before, the limit's windows are extended: what counts now counts on.
        """
        held = await self._override(tenant, limit.name, limit, requests, window_s, author)
        # Where nothing changed it is extended again: the first time that may have failed.
        before_s = held.previous[1] if held.applied else 0
        if window_s > max(limit.window_s, before_s):
            await self.retention.extend({(tenant, limit.name): window_s})
        return held

    @redis_call
    async def unset_limit(self, tenant: str, name: str, limit: Limit | None, author: Author) -> bool:
        """Return to the configured limit."""
        return (await self._override(tenant, name, limit, 0, 0, author)).applied

    async def _override(
        self, tenant: str, name: str, limit: Limit | None, requests: int, window_s: int, author: Author
    ) -> Override:
        keys = keys_of(tenant)
        configured = (0, 0) if limit is None else (limit.requests, limit.window_s)
        args: list[str | int] = [name, requests, window_s, *configured, NAMES.cache_channel, tenant, *_about(author)]
        changed, before, before_s = await run(self._client, "override", [keys.rules, keys.events, keys.timed], args)
        self._forget_denials(tenant)
        return Override(changed == 1, (before, before_s) if before else configured)

    async def _rule(self, verb: str, tenant: str, user: str | None, author: Author, *args: str | int) -> Any:
        keys = keys_of(tenant)
        at = [keys.rules, keys.events, keys.trails, *([] if user is None else [keys.user_rules(user)]), keys.timed]
        return await run(self._client, verb, at, [*args, user or "", *_about(author)])


def rules_of(entries: Sequence[bytes], now_ms: int) -> Rules:
    """Return the rules that a hash holds, without what has ended.

    Args:
        entries: each field and its value (`lua/rules.lua`).
        now_ms: the time, by Redis's clock, in milliseconds since the epoch.
    """
    fields = list(zip(entries[::2], entries[1::2], strict=True))
    restrictions: dict[str, int | None] = {}
    revoked: int | None = None
    for raw, value in fields:
        name = raw.decode()
        if name == REVOKED:
            revoked = int(value)
        elif name not in _FLAGS and not name.startswith("=") and (int(value) == 0 or int(value) > now_ms):
            restrictions[name] = int(value) or None
    return Rules(restrictions, revoked, dict(_limits_of(fields)))


def _limits_of(fields: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield each limit that is set among the fields of a hash of rules."""
    for raw, value in fields:
        name = raw.decode()
        if name.startswith("="):
            requests, window_s = map(int, value.split())
            yield name[1:], (requests, window_s)


_OVER = -2
"""The answer of `lua/restrict.lua` if the restriction would have ended already."""
_FLAGS = frozenset({ANY_USER, REVOKED_SKEW, ANY_REVOKED})


def _about(author: Author) -> tuple[str, str, str, str]:
    return author.by, author.client, author.request_id, author.reason
