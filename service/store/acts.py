"""What operators do: to users, to what they may, to limits. Each is one script, and tells itself as an event."""

import time
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from service.core.acts import Act, Author, Rules
from service.core.limits import MICRO, Limit, Standing
from service.core.sessions import Cause, Refusal, Status
from service.store.keyspace import PUSHES, REVOKED, keys_of
from service.store.reach import reaching, run
from service.store.scripts import LETTERS, STATUSES, parse_record

BITE = 100
"""Users of one script call: Redis is not held for longer than by a full batch of admissions."""


class OperatorActs:
    """`core.acts.Acts`, over Redis."""

    def __init__(self, client: Redis) -> None:
        self._client: Any = client  # redis-py's answers are typed as a union over all its modes

    @reaching
    async def act(
        self, tenant: str, users: Sequence[str], cause: Cause, author: Author, *, everywhere: bool = False
    ) -> list[Act]:
        """Move users where the table of transitions allows it; tell each as one event."""
        keys, acts = keys_of(tenant), []
        for at in range(0, len(users), BITE):
            bite = users[at : at + BITE]
            theirs = [key for user in bite for key in (keys.user(user), keys.user_rules(user))]
            args = [cause.value, int(everywhere), *_about(author), *bite]
            answers = await run(self._client, "act", [keys.rules, *keys.shared, *theirs], args)
            for user, (before, after, record) in zip(bite, answers, strict=True):
                letter = after.decode()
                outcome = STATUSES[letter] if letter in LETTERS.values() else Refusal(letter)
                acts.append(Act(user, STATUSES[before.decode()], outcome, parse_record(user, record)))
        return acts

    @reaching
    async def forget(self, tenant: str, user: str, author: Author) -> Status:
        """Forget a user, unless it is terminated. Returns the status before."""
        keys = keys_of(tenant)
        before = await run(self._client, "forget", [*keys.shared, keys.user(user)], [user, *_about(author)])
        return STATUSES[before.decode()]

    @reaching
    async def restrict(
        self, tenant: str, user: str | None, capability: str, author: Author, *, until_ms: int | None = None
    ) -> bool:
        """Restrict a user (None: the whole tenant). It holds for the very next request."""
        return bool(await self._rule("restrict", tenant, user, author, capability, until_ms or 0))

    @reaching
    async def unrestrict(self, tenant: str, user: str | None, capability: str, author: Author) -> bool:
        """Lift a restriction. Returns whether there was one."""
        return bool(await self._rule("restrict", tenant, user, author, capability, -1))

    @reaching
    async def revoke(self, tenant: str, user: str | None, author: Author, *, before_s: int | None = None) -> int:
        """Refuse tokens issued up to a second (None: this one). Returns which."""
        return int(await self._rule("revoke", tenant, user, author, "now" if before_s is None else before_s))

    @reaching
    async def restore(self, tenant: str, user: str | None, author: Author) -> None:
        """Refuse no token for when it was issued any more."""
        await self._rule("revoke", tenant, user, author, "")

    @reaching
    async def rules(self, tenant: str, user: str | None = None) -> Rules:
        """What is set for a tenant, or for one user. What has run out is left out."""
        keys = keys_of(tenant)
        found = await self._client.hgetall(keys.rules if user is None else keys.user_rules(user))
        now_ms = time.time() * 1000  # only to leave out what has run out already
        restrictions: dict[str, int | None] = {}
        limits: dict[str, tuple[int, int]] = {}
        revoked: int | None = None
        for raw, value in found.items():
            name = raw.decode()
            if name == REVOKED:
                revoked = int(value)
            elif name.startswith("="):
                requests, window_s = map(int, value.split())
                limits[name[1:]] = requests, window_s
            elif name[0].isalnum() and (int(value) == 0 or int(value) > now_ms):
                restrictions[name] = int(value) or None
        return Rules(restrictions, revoked, limits)

    @reaching
    async def peek(self, tenant: str, charges: Sequence[tuple[Limit, str]]) -> list[Standing]:
        """Where subjects stand within limits, as they hold, without using any up."""
        keys = keys_of(tenant)
        windows = [keys.window(limit.name, subject) for limit, subject in charges]
        args: list[str | int] = [
            part for limit, _ in charges for part in (limit.name, limit.requests, limit.window_s * MICRO)
        ]
        answers = await run(self._client, "peek", [keys.rules, *windows], args)
        return [
            Standing(limit.changed(requests, window_s), used, reset_us, over == 1)
            for (limit, _), (used, reset_us, over, requests, window_s) in zip(charges, answers, strict=True)
        ]

    @reaching
    async def reset_limit(self, tenant: str, limit: str, subject: str, author: Author) -> bool:
        """Give a subject of a limit its whole quota back, on every worker."""
        keys = keys_of(tenant)
        args = [limit, subject, PUSHES, tenant, *_about(author)]
        return bool(await run(self._client, "reset", [keys.window(limit, subject), keys.events], args))

    @reaching
    async def set_limit(self, tenant: str, limit: str, requests: int, window_s: int, author: Author) -> bool:
        """Set a tenant's limit over the configuration's. It holds for the very next request."""
        return await self._override(tenant, limit, requests, window_s, author)

    @reaching
    async def unset_limit(self, tenant: str, limit: str, author: Author) -> bool:
        """Let the configuration's hold again."""
        return await self._override(tenant, limit, 0, 0, author)

    async def _override(self, tenant: str, limit: str, requests: int, window_s: int, author: Author) -> bool:
        keys = keys_of(tenant)
        args: list[str | int] = [limit, requests, window_s, PUSHES, tenant, *_about(author)]
        return bool(await run(self._client, "override", [keys.rules, keys.events], args))

    async def _rule(self, verb: str, tenant: str, user: str | None, author: Author, *args: str | int) -> Any:
        keys = keys_of(tenant)
        at = [keys.rules, keys.events, *([] if user is None else [keys.user_rules(user)])]
        return await run(self._client, verb, at, [*args, user or "", *_about(author)])


def _about(author: Author) -> tuple[str, str, str, str]:
    return author.by, author.client, author.request_id, author.reason
