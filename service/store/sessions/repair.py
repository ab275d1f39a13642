"""Repair of records and indexes that disagree, in steps of a hundred users.

They disagree where an earlier version lacked a right in the middle of a script, or by hand. The record is right. The
service may run meanwhile: each step is one call, and reads the current records.
"""

import re
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from redis.asyncio import Redis

from service.core.sessions import Status
from service.store.connection.calls import redis_call, run
from service.store.keyspace import indexes_by_status, keys_of, keys_of_tenants, rules_of_users

log = structlog.get_logger()

BITE = 100
SCANNED_AT_ONCE = 1000
NAMED = 20
"""How many users of each kind a report names."""
_OF_A_USER = re.compile(r"[^{]*\{([^}]+)\}:(u|rules):(.*)", re.DOTALL)


@dataclass(slots=True)
class Repaired:
    """What was found and repaired at one tenant."""

    looked_at: int = 0
    """Records, entries of indexes and users' rules."""
    mended: set[str] = field(default_factory=set)
    """Users whose indexes did not agree with their record."""
    unreadable: set[str] = field(default_factory=set)
    """Users whose record cannot be read: left as it is."""
    rules: set[str] = field(default_factory=set)
    """Users whose restrictions or revocation were not read by admissions, or would not have ended."""
    unreadable_rules: set[str] = field(default_factory=set)
    """Users with a restriction or a revocation that cannot be read: left as it is."""


class Repair:
    """Repairs everything in Redis, also of tenants that are not configured.

    Args:
        client: a redis-py client.
    """

    def __init__(self, client: Redis) -> None:
        self._client: Any = client  # redis-py's answers are typed as a union over all its modes

    @redis_call
    async def run(self) -> dict[str, Repaired]:
        """Check everything once. Returns what was found, by tenant."""
        found: dict[str, Repaired] = defaultdict(Repaired)
        records: dict[str, list[str]] = defaultdict(list)
        rules: dict[str, list[str]] = defaultdict(list)
        indexed: set[str] = set()
        async for raw in self._client.scan_iter(match=keys_of_tenants(), count=SCANNED_AT_ONCE):
            key = raw.decode(errors="replace")
            tenant = key[key.find("{") + 1 : key.find("}")]
            if key in _indexes(tenant):
                indexed.add(tenant)
            of_a_user = _OF_A_USER.fullmatch(key)
            if of_a_user is None:
                continue
            _, kind, user = of_a_user.groups()
            waiting = (records if kind == "u" else rules)[tenant]
            waiting.append(user)
            if len(waiting) >= BITE:
                await (self._mend if kind == "u" else self._mend_rules)(tenant, waiting, found[tenant])
                waiting.clear()
        for tenant, users in records.items():
            await self._mend(tenant, users, found[tenant])
        for tenant, users in rules.items():
            await self._mend_rules(tenant, users, found[tenant])
        for tenant in indexed:
            async for users in self._indexed(tenant):
                await self._mend(tenant, users, found[tenant])
        return dict(found)

    @redis_call
    async def adopt(self) -> int:
        """Take over the rules of users that an earlier version kept with a TTL. Returns of how many users."""
        found: dict[str, Repaired] = defaultdict(Repaired)
        async for raw in self._client.scan_iter(match=rules_of_users(), count=SCANNED_AT_ONCE):
            of_a_user = _OF_A_USER.fullmatch(raw.decode(errors="replace"))
            if of_a_user is not None and of_a_user[2] == "rules":
                await self._mend_rules(of_a_user[1], [of_a_user[3]], found[of_a_user[1]])
        async for raw in self._client.scan_iter(match=indexes_by_status(), count=SCANNED_AT_ONCE):
            index = raw.decode(errors="replace")
            tenant = index[index.find("{") + 1 : index.find("}")]
            by_status = keys_of(tenant).by_status
            if index in (by_status[Status.SUSPENDED], by_status[Status.TERMINATED]):
                async for users in self._users_in(index):
                    await self._mend(tenant, users, found[tenant])
        for tenant, one in found.items():
            if one.unreadable_rules:
                users = sorted(one.unreadable_rules)
                log.warning(
                    "rules that cannot be read are left as they are",
                    tenant=tenant,
                    users=users[:NAMED],
                    count=len(users),
                )
        return sum(len(one.rules) for one in found.values())

    async def _indexed(self, tenant: str) -> AsyncIterator[list[str]]:
        """Yield the users in a tenant's indexes, a step at a time, also those without a record."""
        for index in _indexes(tenant):
            async for bite in self._users_in(index):
                yield bite

    async def _users_in(self, index: str) -> AsyncIterator[list[str]]:
        """Yield the users in one index, a bite at a time."""
        bite: list[str] = []
        async for user, _ in self._client.zscan_iter(index, count=BITE):
            bite.append(user.decode())
            if len(bite) >= BITE:
                yield bite
                bite = []
        if bite:
            yield bite

    async def _mend(self, tenant: str, users: Sequence[str], found: Repaired) -> None:
        if not users:
            return
        keys = keys_of(tenant)
        at = [*keys.shared, *(keys.user(user) for user in users)]
        mended, unreadable = await run(self._client, "mend", at, users)
        found.looked_at += len(users)
        found.mended |= {user.decode() for user in mended}
        found.unreadable |= {user.decode() for user in unreadable}

    async def _mend_rules(self, tenant: str, users: Sequence[str], found: Repaired) -> None:
        if not users:
            return
        keys = keys_of(tenant)
        at = [keys.rules, *(keys.user_rules(user) for user in users), keys.timed]
        mended, unreadable = await run(self._client, "mend_rules", at, users)
        found.looked_at += len(users)
        found.rules |= {user.decode() for user in mended}
        found.unreadable_rules |= {user.decode(errors="replace") for user in unreadable}


def report(tenant: str, repaired: Repaired) -> list[str]:
    """Return what was done at a tenant, in sentences."""
    lines = [f"{tenant}: {repaired.looked_at} looked at, {_counted(repaired.mended, 'users mended')}"]
    if repaired.rules:
        lines.append(f"{tenant}: {_counted(repaired.rules, 'users whose restrictions or revocation were put right')}")
    if repaired.unreadable_rules:
        what = "users of whom rules cannot be read and are left as they are"
        lines.append(f"{tenant}: {_counted(repaired.unreadable_rules, what)}")
    if repaired.unreadable:
        lines.append(f"{tenant}: {_counted(repaired.unreadable, 'records cannot be read and are left as they are')}")
        lines.append(f"{tenant}: remove their keys, {keys_of(tenant).user('USER')}, by hand")
    return lines


def _counted(users: set[str], what: str) -> str:
    """Return how many, of what, and the first of them by name."""
    if not users:
        return f"0 {what}"
    names = ", ".join(repr(user) for user in sorted(users)[:NAMED])
    return f"{len(users)} {what}: {names}" + (", …" if len(users) > NAMED else "")


def _indexes(tenant: str) -> tuple[str, ...]:
    keys = keys_of(tenant)
    return (*keys.by_status.values(), keys.expiring, keys.ending)
