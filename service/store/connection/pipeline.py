"""The admissions' connection to one node: a deadline for each round trip, and a circuit breaker.

No pool, no retries, one deadline over connecting, sending and reading. `endpoint.py` connects, `resp.py` sends and
reads.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import structlog
from redis.exceptions import AskError, NoPermissionError, ReadOnlyError, ResponseError, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError

from service.core.errors import BREAKER_IS_OPEN, StoreUnavailable, StoreUnsuitable
from service.core.tasks import LastRuns, end, run_to_end
from service.store.connection.calls import AWAY
from service.store.connection.demotion import REPLICA, PrimaryInUse
from service.store.connection.failures import (
    BREAKER,
    READONLY,
    kind_of,
    ran_nothing,
    reason_of,
    unavailable,
    write_refusal,
)
from service.store.connection.resp import Command, RespConnection
from service.store.connection.server_check import hello_fields
from service.store.keyspace import NAMES, PROBE_MS

log = structlog.get_logger()

FAILURES_TO_OPEN = 3
"""Failed trips in a row after which the breaker opens."""
PROBE_EVERY_S = 0.25
"""How often an open breaker probes whether Redis is back, in seconds."""
_FAILED = (*AWAY, StoreUnsuitable)
"""The exceptions of a round trip or a connection."""
_NEVER = math.inf
"""The deadline of an exchange whose caller has a deadline of its own."""
CONNECT_S = 2.0
"""Seconds that connecting may take while no request waits for it: at start, and for the probe."""


class AdmissionPipeline:
    """One connection to one node.

    After a few failed round trips in a row, or one missing right, the breaker opens: callers fail at once. While it is
    open, only probes are sent to Redis, four times a second, until one succeeds.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[RespConnection]],
        *,
        timeout_s: float,
        examine: Callable[[RespConnection], Awaitable[str]],
        on_change: Callable[[bool], None] = lambda up: None,
        probe_key: Callable[[], str] = lambda: NAMES.probe,
        runs: LastRuns | None = None,
    ) -> None:
        self._connect_to_node = connect
        self._examine = examine
        self.timeout_s = timeout_s
        """How long a round trip may take, in seconds."""
        self._on_change = on_change
        self._probe_key = probe_key
        self._runs = runs
        self._on_demoted: Callable[[str, str], None] = self.suspend
        self._on_replaced: Callable[[], None] = lambda: None
        self._server = ""
        """The server that the connections lead to, as `examine` names it."""
        self._resp: RespConnection | None = None
        self._failures = 0
        self.failure = BREAKER
        """The kind of the last failure."""
        self._probe: asyncio.Task[None] | None = None
        self._checked: RespConnection | None = None
        self._check: asyncio.Task[bool] | None = None
        self._checking = asyncio.Lock()
        """Allows one check at a time on their connection."""
        self._suspensions = 0
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    def follow(self, primary: PrimaryInUse) -> None:
        """Leave the node together with all other parts of the service when one notices that it is a replica."""
        primary.on_given_up(self.suspend)
        self._on_demoted, self._on_replaced = primary.give_up, primary.close_pools

    @property
    def is_closed(self) -> bool:
        """Whether it is not used any more."""
        return self._closed

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
        if self.is_down or self._closed:
            raise StoreUnavailable(BREAKER_IS_OPEN, self.failure)
        try:
            resp = self._resp
            if resp is None or resp.is_broken:
                async with asyncio.timeout_at(until):
                    resp = await self._connected()
            answers = await resp.round_trip(commands, until)
        except _FAILED as error:
            await self._failed(error)
            raise unavailable(error) from error
        for answer in answers:
            if isinstance(answer, Exception) and not ran_nothing(answer):
                await self._failed(answer)
                return answers
        if any(isinstance(answer, Exception) and write_refusal(answer) for answer in answers):
            return answers  # the next question, without writes, decides whether that counts
        if self._failures:
            failed_before, self._failures = self._failures, 0
            log.info("redis answers again", failed_before=failed_before)
        return answers

    async def open(self) -> None:
        """Connect at start, so that the first request need not. A Redis that is away is no error here."""
        try:
            async with asyncio.timeout(max(self.timeout_s, CONNECT_S)):
                await self._connected()
        except Exception as error:  # of any kind, also of an answer that no server should give: the service starts
            self._failures = FAILURES_TO_OPEN - 1
            await self._failed(error)
        else:
            self._on_change(True)

    async def close(self) -> None:
        """Stop probing and hang up. Requests that still wait for this node fail, and start nothing anew."""
        self._closed = True
        if self._check is not None:
            await end([self._check])
        if self._probe is not None:
            await end([self._probe])
            self._probe = None
        await self._hang_up()
        if self._checked is not None:
            await self._checked.hang_up()
            self._checked = None
        if self._ending:
            await asyncio.wait(self._ending)

    def suspend(self, reason: str, kind: str = BREAKER) -> None:
        """Open the breaker at once, although the node answers: what is under way fails, and no answer counts any more.

        The breaker closes as it always does, once a probe on a new connection succeeds.

        Args:
            reason: for the log.
            kind: what requests fail with meanwhile, for the metric.
        """
        if self._closed:
            return
        was_down = self.is_down
        self._suspensions += 1
        self._failures, self.failure = FAILURES_TO_OPEN, kind
        self._server = ""
        # What they asked may be answered by the node that is not to be used any more. Cancelled now: none of them must
        # adopt a connection in the meantime.
        asking: list[asyncio.Task[Any]] = [one for one in (self._probe, self._check) if one is not None]
        for one in asking:
            one.cancel()
        self._in_background(end(asking))
        self._check, self._probe = None, self._begin_probe()
        self._leave()
        if not was_down:
            self._on_change(False)
            log.error("redis is away: answering without it", reason=reason)

    def _leave(self) -> None:
        """Give up the open connections; what is under way on them fails."""
        connections, self._resp, self._checked = (self._resp, self._checked), None, None
        for resp in filter(None, connections):
            resp.abort()
            self._in_background(resp.hang_up())

    async def takes_writes(self) -> bool:
        """Return whether the node takes writes now, asked by a probe on a connection of its own.

        Waits no longer than a trip may take. All callers at the same moment share one probe.
        """
        if self.is_down or self._closed:
            return False
        if self._check is None or self._check.done():
            self._check = asyncio.create_task(self._check_once())
        check = self._check
        await asyncio.wait([check], timeout=self.timeout_s)
        return check.done() and not check.cancelled() and check.result()

    async def check_role(self) -> Exception | None:
        """Give up all connections to the node where it says that it is a replica. Return why it could not be asked."""
        return None if self.is_down or self._closed else await self._check_by(self._ask_role)

    async def _check_once(self) -> bool:
        return await self._check_by(self._ask_probe) is None

    async def _check_by(self, ask: Callable[[RespConnection], Awaitable[None]]) -> Exception | None:
        suspensions = self._suspensions
        try:
            async with asyncio.timeout(max(self.timeout_s, CONNECT_S)), self._checking:
                if self._checked is None or self._checked.is_broken:
                    await self._drop_checked()
                    self._checked = await self._connect()
                await ask(self._checked)
            if suspensions != self._suspensions:
                raise RedisConnectionError("the node was given up while it was asked")
        except Exception as error:  # of any kind: `/readyz` answers
            if suspensions == self._suspensions:
                await self._drop_checked()
                if isinstance(error, ReadOnlyError):
                    self._on_demoted(REPLICA, READONLY)
            return error
        return None

    async def _drop_checked(self) -> None:
        resp, self._checked = self._checked, None
        if resp is not None:
            await resp.hang_up()

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _connected(self) -> RespConnection:
        if self._resp is not None and self._resp.is_broken:
            await self._hang_up()  # Redis hung up while the connection was idle
        if self._resp is None:
            suspensions = self._suspensions
            resp = await self._connect()
            if suspensions != self._suspensions or self._closed:
                await resp.hang_up()
                raise RedisConnectionError("the node was given up while it was being connected to")
            self._resp = resp
        return self._resp

    async def _connect(self) -> RespConnection:
        suspensions = self._suspensions
        resp = await self._connect_to_node()
        try:
            server = await self._examine(resp)
        except BaseException:
            await resp.hang_up()
            raise
        if suspensions != self._suspensions:
            return resp  # to the server that was given up meanwhile; the caller sees that, too
        if server and self._server and server != self._server:
            log.info("another server answers at the address of redis")
            self._leave()
            self._on_replaced()
        self._server = server or self._server
        return resp

    async def _hang_up(self) -> None:
        if self._resp is not None:
            resp, self._resp = self._resp, None
            await resp.hang_up()

    async def _failed(self, error: Exception) -> None:
        self._failures += 1
        self.failure = kind_of(error)
        if isinstance(error, ReadOnlyError) and not self.is_down and not self._closed:
            # Open connections lead to what is a replica now. New ones may lead to the primary: that is asked at once.
            log.warning("redis did not answer", reason=reason_of(error), in_a_row=self._failures)
            self._on_demoted(REPLICA, READONLY)
            return
        # A missing right is no passing fault: the probe's check names it, and sees when it is granted again.
        opens = self._failures >= FAILURES_TO_OPEN or isinstance(error, NoPermissionError)
        if opens or not isinstance(error, ResponseError):  # after an answer the connection is still in step
            await self._hang_up()
        in_a_row, opened = self._failures, opens and self._probe is None and not self._closed
        if opened:
            self._probe = self._begin_probe()
            self._on_change(False)
        log.warning("redis did not answer", reason=reason_of(error), in_a_row=in_a_row)
        if opened:
            log.error("redis is away: answering without it", reason=reason_of(error))

    def _begin_probe(self) -> asyncio.Task[None]:
        return asyncio.create_task(run_to_end("redis probe", self._probe_until_back, self._runs))

    async def _probe_until_back(self) -> None:
        """Probe again and again, each time on a connection of its own, so that one that hangs does not delay others."""
        back: asyncio.Future[RespConnection] = asyncio.get_running_loop().create_future()
        asking: set[asyncio.Task[None]] = set()
        try:
            while not back.done():
                asking = {one for one in asking if not one.done()}
                asking.add(asyncio.create_task(self._ask_whether_back(back)))
                await asyncio.wait([back], timeout=PROBE_EVERY_S)
            await end(asking)
        except asyncio.CancelledError:  # suspended again, or closed
            await end(asking)
            if back.done():
                await back.result().hang_up()
            raise
        self._resp = back.result()
        self._failures = 0
        self._probe = None
        self._on_change(True)
        log.info("redis is back")

    async def _ask_whether_back(self, back: asyncio.Future[RespConnection]) -> None:
        try:
            async with asyncio.timeout(max(self.timeout_s, CONNECT_S)):
                resp = await self._connect()
                try:
                    await self._ask_probe(resp)
                except BaseException:
                    await resp.hang_up()
                    raise
        except Exception as error:  # of any kind: the next probe asks again
            self.failure = kind_of(error)
            if self._runs is not None:
                self._runs.fail("redis probe", self.failure, reason_of(error))
            return
        if back.done():
            await resp.hang_up()
        else:
            back.set_result(resp)

    async def _ask_role(self, resp: RespConnection) -> None:
        [hello] = await resp.round_trip([("HELLO",)], _NEVER)
        if hello_fields(hello).get("role") == "replica":
            raise ReadOnlyError("this server is a replica")

    async def _ask_probe(self, resp: RespConnection) -> None:
        """Return if the node takes writes; otherwise raise its answer.

        On a Cluster the key's slot may just have moved to another node. MOVED and ASK say so, and that this node is
        well: that it is a primary was seen when the connection was made.
        """
        [answer] = await resp.round_trip([("SET", self._probe_key(), "1", "PX", PROBE_MS)], _NEVER)
        if isinstance(answer, Exception) and not isinstance(answer, AskError | TryAgainError):
            raise answer
