"""What an admission would find for some users now: their records, and what operators have set for them."""

from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from service.core.operator_actions import Rules
from service.core.session_lists import Inspection
from service.store.connection.calls import redis_call, run
from service.store.keyspace import keys_of
from service.store.scripts import parse_record
from service.store.sessions.operator_actions import rules_of


class Inspections:
    """Reads users of a tenant together, in one round trip."""

    def __init__(self, client: Redis) -> None:
        self._client: Any = client  # redis-py's answers are typed as a union over all its modes

    @redis_call
    async def inspect(self, tenant: str, users: Sequence[str]) -> Inspection:
        """Return what Redis has for these users at one moment.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        keys = keys_of(tenant)
        theirs = [key for user in users for key in (keys.user(user), keys.user_rules(user))]
        at = [keys.rules, keys.events, *theirs]
        now, newest, tenant_rules, *found = await run(self._client, "inspect", at, [len(users)])
        now_ms = int(now)
        return Inspection(
            position=newest.decode() or "0-0",
            tenant=_rules(tenant_rules, now_ms),
            users={
                user: (parse_record(user, record), _rules(own_rules, now_ms))
                for user, record, own_rules in zip(users, found[::2], found[1::2], strict=True)
            },
        )


def _rules(entries: Sequence[bytes], now_ms: int) -> Rules:
    """Return the rules; none where the service did not write them, so that other users are read all the same."""
    try:
        return rules_of(entries, now_ms)
    except ValueError:
        return Rules()
