"""Logins that operators signed out of: every worker ends the event streams of their browsers.

The sign-out is kept in Redis, then published. A worker reads what is kept once its subscription is confirmed, so it
misses none that was published before. While Redis is away, the worker of the sign-out keeps it until Redis is back.
"""

from contextlib import suppress
from typing import Any

from redis.asyncio import Redis

from service.core.clocks import now_ms
from service.core.errors import StoreUnavailable
from service.store.connection.calls import redis_call
from service.store.keyspace import NAMES, SIGN_OUTS_CAP

PREFIX = "signed-out:"
"""The beginning of a message that reports a sign-out; no tenant can have this name."""


class SignOuts:
    """The latest sign-outs. Each is needed only until the streams of its browser have ended."""

    def __init__(self, client: Redis) -> None:
        self._client: Any = client  # redis-py's answers are typed as a union over all its modes
        self._known: dict[str, None] = {}
        self._unreported: dict[str, int] = {}
        """Login → when its operator signed out, in ms."""

    def __contains__(self, session: str) -> bool:
        return session in self._known

    def note(self, session: str) -> None:
        """Note a sign-out on this worker."""
        self._known[session] = None
        if len(self._known) > SIGN_OUTS_CAP:
            del self._known[next(iter(self._known))]

    async def add(self, session: str) -> None:
        """Note a sign-out, and report it to the other workers.

        Raises:
            StoreUnavailable: Redis does not answer. The other workers hear of it when it is back.
        """
        self.note(session)
        self._unreported[session] = now_ms()
        await self._report()

    async def report_again(self) -> None:
        """Report what could not be reported before."""
        with suppress(StoreUnavailable):
            await self._report()

    @redis_call
    async def _report(self) -> None:
        for session, at_ms in tuple(self._unreported.items()):
            await self._client.zadd(NAMES.sign_outs, {session: at_ms})
            await self._client.zremrangebyrank(NAMES.sign_outs, 0, -SIGN_OUTS_CAP - 1)
            await self._client.publish(NAMES.event_channel, PREFIX + session)
            self._unreported.pop(session, None)

    async def read(self) -> None:
        """Note what other workers reported, oldest first. Raises what redis-py raises."""
        for session in reversed(await self._client.zrevrange(NAMES.sign_outs, 0, SIGN_OUTS_CAP - 1)):
            self.note(session.decode())
