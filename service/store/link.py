"""A link: one connection for the admissions, a deadline per trip, and a circuit breaker.

It is redis-py's own `Connection` (so TLS, passwords and unix sockets are redis-py's business) used directly: no
pool, no retries, one deadline over connecting, sending and reading; `wire.py` sends and reads.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AskError, NoScriptError, ReadOnlyError, ResponseError, TryAgainError

from service.core.errors import BREAKER_IS_OPEN, StoreUnavailable, StoreUnsuitable
from service.core.tasks import end
from service.store.failures import BREAKER, kind_of, reason_of, unavailable
from service.store.keyspace import PROBE
from service.store.reach import AWAY
from service.store.scripts import SCRIPTS
from service.store.wire import Command, Wire, wire_of

log = structlog.get_logger()

FAILURES_TO_OPEN = 3
"""Failed trips in a row after which the breaker opens."""
PROBE_EVERY_S = 0.25
"""How often an open breaker asks whether Redis is back."""
_FAILED = (*AWAY, StoreUnsuitable)
"""What a trip or a connection fails with."""
_NEVER = math.inf
"""When an exchange is given up whose caller keeps a deadline of its own."""
CONNECT_S = 2.0
"""How long connecting may take where no request waits for it: at start, and for the probe."""


class Link:
    """One connection to one node.

    After a few failed trips in a row the breaker opens: callers are told at once, and probes of the link's own ask
    Redis four times a second whether it is back. While it is open the probes alone speak to Redis.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        *,
        timeout_s: float,
        examine: Callable[[Wire], Awaitable[None]],
        on_change: Callable[[bool], None] = lambda up: None,
    ) -> None:
        self._make = make
        self._examine = examine
        self.timeout_s = timeout_s
        """How long a trip may take."""
        self._on_change = on_change
        self._wire: Wire | None = None
        self._failures = 0
        self.failure = BREAKER
        """What the last trip failed with, by kind."""
        self._probe: asyncio.Task[None] | None = None

    @property
    def is_down(self) -> bool:
        """Whether the breaker is open."""
        return self._probe is not None

    async def send(self, commands: Sequence[Command], until: float) -> list[Any]:
        """Send commands together, once, and return their answers; what Redis refused is an exception among them.

        One trip at a time: a second one would take the first one's answers.

        Args:
            commands: at least one.
            until: when to give up, by the loop's clock.

        Raises:
            StoreUnavailable: Redis did not answer all of them in time; they may have taken effect.
        """
        if self.is_down:
            raise StoreUnavailable(BREAKER_IS_OPEN, self.failure)
        try:
            wire = self._wire
            if wire is None or await wire.is_broken():
                async with asyncio.timeout_at(until):
                    wire = await self._connected()
            answers = await wire.exchange(commands, until)
        except _FAILED as error:
            await self._failed(error)
            raise unavailable(error) from error
        for answer in answers:
            if isinstance(answer, Exception) and not isinstance(answer, _IN_ORDER):
                await self._failed(answer)
                return answers
        if self._failures:
            failed_before, self._failures = self._failures, 0
            log.info("redis answers again", failed_before=failed_before)
        return answers

    async def open(self) -> None:
        """Connect at start, so that the first request need not. A Redis that is away is no error here."""
        try:
            async with asyncio.timeout(max(self.timeout_s, CONNECT_S)):
                await self._connected()
        except _FAILED as error:
            self._failures = FAILURES_TO_OPEN - 1
            await self._failed(error)
        else:
            self._on_change(True)

    async def close(self) -> None:
        """Stop probing and hang up."""
        if self._probe is not None:
            await end([self._probe])
            self._probe = None
        await self._hang_up()

    async def _connected(self) -> Wire:
        if self._wire is not None and await self._wire.is_broken():
            await self._hang_up()  # Redis hung up while the connection was idle
        if self._wire is None:
            self._wire = await self._connect()
        return self._wire

    async def _connect(self) -> Wire:
        connection = cast("AbstractConnection", self._make())
        try:
            await connection.connect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
            wire = wire_of(connection)
            await self._examine(wire)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return wire

    async def _hang_up(self) -> None:
        if self._wire is not None:
            wire, self._wire = self._wire, None
            await wire.hang_up()

    async def _failed(self, error: Exception) -> None:
        self._failures += 1
        self.failure = kind_of(error)
        opens = self._failures >= FAILURES_TO_OPEN
        # After an answer the connection is still in step; but a replica is not where it should lead to.
        if opens or not isinstance(error, ResponseError) or isinstance(error, ReadOnlyError):
            await self._hang_up()
        in_a_row, opened = self._failures, opens and self._probe is None
        if opened:
            self._probe = asyncio.create_task(self._probe_until_back())
            self._on_change(False)
        log.warning("redis did not answer", reason=reason_of(error), in_a_row=in_a_row)
        if opened:
            log.error("redis is away: answering without it", reason=reason_of(error))

    async def _probe_until_back(self) -> None:
        """Ask again and again, each time on a connection of its own: one that hangs holds up no other."""
        back: asyncio.Future[Wire] = asyncio.get_running_loop().create_future()
        asking: set[asyncio.Task[None]] = set()
        try:
            while not back.done():
                asking = {one for one in asking if not one.done()}
                asking.add(asyncio.create_task(self._ask_whether_back(back)))
                await asyncio.wait([back], timeout=PROBE_EVERY_S)
        finally:
            await end(asking)
        self._wire = back.result()
        self._failures = 0
        self._probe = None
        self._on_change(True)
        log.info("redis is back")

    async def _ask_whether_back(self, back: asyncio.Future[Wire]) -> None:
        verb = SCRIPTS["probe"]
        try:
            async with asyncio.timeout(max(self.timeout_s, CONNECT_S)):
                wire = await self._connect()
                try:
                    [answer] = await wire.exchange([("EVAL", verb.text, 1, PROBE)], _NEVER)
                    if isinstance(answer, ResponseError):
                        raise answer
                except BaseException:
                    await wire.hang_up()
                    raise
        except _FAILED as error:
            log.debug("redis is still away", reason=reason_of(error))
            return
        if back.done():
            await wire.hang_up()
        else:
            back.set_result(wire)


_IN_ORDER = (NoScriptError, AskError, TryAgainError)
"""Answers that say how to ask again (MOVED is an AskError too): Redis is well."""
