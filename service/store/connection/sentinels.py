"""Sentinels: subscriptions to their announcements of failovers, and the primary that most of them name.

A Sentinel's planned failover leaves the old primary running. It answers, and takes writes, for about ten seconds more,
until it is made a replica and drops what it took. Open connections notice nothing. So every Sentinel is subscribed to,
and from the first announcement of a failover on no connection is used until the Sentinels have agreed on a primary.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, cast

import structlog
from redis.asyncio import Redis, Sentinel
from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import ResponseError

from service.core.tasks import end, keep_running, round_completed, work_failed
from service.store.connection.calls import AWAY, UNHEARD
from service.store.connection.demotion import PrimaryInUse, log_in
from service.store.connection.endpoint import Endpoint
from service.store.connection.failovers import CHANNELS, Failovers, PrimaryAddress
from service.store.connection.failures import kind_of, reason_of
from service.store.connection.resp import SocketConnection

log = structlog.get_logger()

CHECK_EVERY_S = 1.0
"""How often the Sentinels are asked for the primary, in case an announcement was missed, in seconds."""
DISCOVER_EVERY = 10
"""Every how many of these checks they are asked for Sentinels that the configuration does not name."""
AGAIN_S = 0.5
MOST_SILENT = 3
"""Seconds without any message, pongs included, after which a subscription counts as lost."""
GRACE_S = 0.25
"""Seconds to wait for the other Sentinels once one has named a primary."""
SUBSCRIBE_S = 1.0
"""Seconds that the start waits for a first subscription."""


class Discovery(Sentinel):
    """Finds the primary by asking all Sentinels; redis-py's pools ask this before they connect.

    Args:
        addresses: the Sentinels that the configuration names.
        name: what they call the primary.
        sentinel_options: how they are connected to.
        options: how the primary is connected to.
    """

    def __init__(
        self,
        addresses: Sequence[PrimaryAddress],
        name: str,
        sentinel_options: dict[str, Any],
        options: dict[str, Any],
    ) -> None:
        super().__init__(addresses, sentinel_kwargs=sentinel_options, **options)  # type: ignore[no-untyped-call]
        self.name = name
        self.failovers = Failovers(name)
        self.current: PrimaryAddress | None = None
        """The primary in use."""
        self.heard: set[Redis] = set()
        """The Sentinels with a live subscription."""
        self.on_moved: Callable[[str], None] = lambda reason: None
        """Is called with a reason when they name another primary than the one in use."""

    async def discover_master(self, service_name: str) -> PrimaryAddress:
        """Return the primary that most Sentinels name.

        Raises:
            MasterNotFoundError: a failover is under way, or they do not agree yet, or none answers.
        """
        self._refuse_while_failing_over()
        address = await self.named_by_most()
        if address is None:
            raise MasterNotFoundError(f"no primary is named {service_name!r} by the Sentinels now")
        self._refuse_while_failing_over()  # announced in the meantime
        if self.current not in (None, address):
            self.on_moved(f"the Sentinels name {address[0]}:{address[1]} as the primary now")
        self.current = address
        return address

    def confirm(self, address: PrimaryAddress) -> None:
        """Raise where `address` is no longer to be used: it was being connected to when that was announced."""
        self._refuse_while_failing_over()
        if address != self.current:
            raise MasterNotFoundError("the primary was replaced while it was being connected to")

    async def connect(self, endpoint: Endpoint) -> SocketConnection:
        """Connect to the primary that most Sentinels name, which the caller examines.

        Args:
            endpoint: how the primary is logged in to; its host and port do not matter.

        Raises:
            MasterNotFoundError: a failover is under way or was announced meanwhile, or no primary is named.
            redis.exceptions.RedisError: as `Endpoint.connect`.
        """
        address = await self.discover_master(self.name)
        connection = await endpoint.at(*address).connect()
        try:
            self.confirm(address)
        except BaseException:
            await connection.hang_up()
            raise
        return connection

    async def log_in(self, connection: Any) -> None:
        """Log in to the primary that the Sentinels name, if its answer to HELLO confirms that.

        Args:
            connection: of redis-py's pool, for its `redis_connect_func`.
        """
        try:
            await log_in(connection)
            self.confirm((connection.host, connection.port))
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

    async def named_by_most(self, *, strictly: bool = False) -> PrimaryAddress | None:
        """Ask the Sentinels for the primary's address. None: they name none, or do not agree after a failover.

        Args:
            strictly: whether more than half of them must name it, at other times too.
        """
        asked = [one for one in self.sentinels if one in self.heard] or list(self.sentinels)
        replaced = self.failovers.replaced(_now())
        votes: Counter[PrimaryAddress] = Counter()
        async for named in _answers([self._ask(one) for one in asked]):
            if named is not None and named not in replaced:
                votes[named] += 1
                if votes[named] * 2 > len(asked):
                    return named
        # After a failover all of them name the new primary in a moment. At other times those that answer decide.
        return votes.most_common(1)[0][0] if votes and not replaced and not strictly else None

    async def _ask(self, sentinel: Any) -> PrimaryAddress | None:
        try:
            named = await sentinel.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", self.name)
        except AWAY:
            return None
        return (_text(named[0]), int(named[1])) if named else None

    def _refuse_while_failing_over(self) -> None:
        if self.failovers.is_under_way(_now()):
            raise MasterNotFoundError("a Sentinel has announced a failover")


class SentinelMonitor:
    """Subscribes to all Sentinels, and gives up every connection to a primary that is being replaced.

    Args:
        discovery: knows the Sentinels.
        primary: the connections.
    """

    def __init__(self, discovery: Discovery, primary: PrimaryInUse) -> None:
        self._discovery = discovery
        self._configured = tuple(discovery.sentinels)
        self._primary = primary
        discovery.on_moved = self._replace
        self._by_id: dict[str, Redis] = {}
        self._changed = asyncio.Event()
        self._subscribed = asyncio.Event()

    def warnings(self) -> Iterator[str]:
        """Yield a sentence for each Sentinel that is not heard, for `/readyz`."""
        for sentinel in self._discovery.sentinels:
            if sentinel not in self._discovery.heard:
                yield f"The Sentinel {_address(sentinel)} is not heard: a failover that it leads is noticed late."

    async def wait_until_subscribed(self) -> None:
        """Wait a moment for the first subscription."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SUBSCRIBE_S):
                await self._subscribed.wait()

    async def run_forever(self) -> None:
        """Follow the Sentinels, until cancelled."""
        subscription: dict[Redis, asyncio.Task[None]] = {}
        checks = 0
        try:
            while True:
                sentinels = list(self._discovery.sentinels)
                await end([subscription.pop(one) for one in set(subscription) - set(sentinels)])
                for one in sentinels:
                    if one not in subscription:
                        work = partial(self._follow_forever, one)
                        subscription[one] = asyncio.create_task(keep_running(f"sentinel {_address(one)}", work))
                with suppress(TimeoutError):
                    async with asyncio.timeout(CHECK_EVERY_S):
                        await self._changed.wait()
                self._changed.clear()
                await self._check()
                if checks % DISCOVER_EVERY == 0:
                    await self._discover()
                checks += 1
                round_completed()
        finally:
            await end(subscription.values())

    async def _check(self) -> None:
        """Notice a primary that was replaced, or a failover that is over, although no announcement of it was heard."""
        current, failovers = self._discovery.current, self._discovery.failovers
        if current is None and not failovers.is_under_way(_now()):
            return
        named = await self._discovery.named_by_most(strictly=True)
        if named is None:
            return
        if failovers.is_under_way(_now()):
            failovers.settle(named, _now())
        elif named != current == self._discovery.current:
            self._replace(f"the Sentinels name {named[0]}:{named[1]} as the primary now")

    async def _follow_forever(self, sentinel: Any) -> None:
        write = log.warning
        while True:
            pubsub = sentinel.pubsub()
            try:
                if not await self._is_another(sentinel):
                    return
                await pubsub.psubscribe(*CHANNELS)
                write = log.warning
                await self._hear(sentinel, pubsub)
            except UNHEARD as error:
                write("a sentinel is not heard", sentinel=_address(sentinel), reason=reason_of(error))
                work_failed(f"the Sentinel {_address(sentinel)} is not heard: {reason_of(error)}", kind_of(error))
                write = log.debug  # once, until it is heard again
            finally:
                self._discovery.heard.discard(sentinel)
                await pubsub.aclose()
            await asyncio.sleep(AGAIN_S)

    async def _hear(self, sentinel: Any, pubsub: Any) -> None:
        silent = 0
        while silent <= MOST_SILENT:
            message = await pubsub.get_message(timeout=1.0)
            if message is None:
                silent += 1
                await pubsub.ping()  # the answer shows that the subscription is alive
                continue
            silent = 0
            if message["type"] == "pmessage":
                self._take(sentinel, _text(message["channel"]), _text(message["data"]))
            elif message["type"] == "psubscribe" and sentinel not in self._discovery.heard:
                self._discovery.heard.add(sentinel)
                self._subscribed.set()
                self._changed.set()  # a check finds what was announced before
        raise TimeoutError("the subscription fell silent")

    def _take(self, sentinel: Any, channel: str, text: str) -> None:
        failovers = self._discovery.failovers
        was_under_way = failovers.is_under_way(_now())
        failovers.hear(_address(sentinel), channel, text, _now())
        if failovers.is_under_way(_now()):
            if not was_under_way:
                self._replace(f"the Sentinel {_address(sentinel)} announced a failover: {channel} {text}")
        elif self._discovery.current in failovers.replaced(_now()):
            self._replace(f"the Sentinel {_address(sentinel)} announced another primary: {channel} {text}")
        elif was_under_way:
            log.info("a failover is over", sentinel=_address(sentinel), announced=f"{channel} {text}")

    def _replace(self, reason: str) -> None:
        self._discovery.current = None
        self._primary.give_up(reason)

    async def _is_another(self, sentinel: Any) -> bool:
        """Return whether this Sentinel is not subscribed to already under another address."""
        try:
            name = _text(await sentinel.execute_command("SENTINEL MYID"))
        except ResponseError:  # the user may not ask
            return True
        other, sentinels = self._by_id.get(name), self._discovery.sentinels
        if other is not None and other is not sentinel and other in sentinels:
            if sentinel not in self._configured:
                sentinels.remove(sentinel)
                self._changed.set()
                return False
            if other not in self._configured:
                sentinels.remove(other)
                self._changed.set()
        self._by_id[name] = sentinel
        return True

    async def _discover(self) -> None:
        """Add the Sentinels that the others know and the configuration does not name."""
        for sentinel in [one for one in self._discovery.sentinels if one in self._discovery.heard]:
            try:
                for row in await cast("Any", sentinel).execute_command("SENTINEL SENTINELS", self._discovery.name):
                    self._add(str(row["runid"]), str(row["ip"]), int(row["port"]))
            except AWAY as error:
                work_failed(f"the Sentinel {_address(sentinel)} names no others: {reason_of(error)}", kind_of(error))
            else:
                return

    def _add(self, name: str, host: str, port: int) -> None:
        sentinels, known = self._discovery.sentinels, self._by_id.get(name)
        if f"{host}:{port}" in {_address(one) for one in sentinels}:
            return
        if known in sentinels:
            if known in self._discovery.heard:
                return  # another address of the same Sentinel
            if known not in self._configured:
                sentinels.remove(known)  # it came back at another address
        options = self._discovery.sentinel_kwargs
        self._by_id[name] = Redis(host=host, port=port, **options)
        sentinels.append(self._by_id[name])
        self._changed.set()


async def _answers(asking: Sequence[Any]) -> AsyncIterator[PrimaryAddress | None]:
    """Yield each answer as it comes. After the first one, do not wait for slow ones."""
    pending = {asyncio.ensure_future(one) for one in asking}
    try:
        timeout = None
        while pending:
            done, pending = await asyncio.wait(pending, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                return
            for one in done:
                yield one.result()
                if one.result() is not None:
                    timeout = GRACE_S
    finally:
        for one in pending:
            one.cancel()


def _address(sentinel: Any) -> str:
    options = sentinel.get_connection_kwargs()
    return f"{options['host']}:{options['port']}"


def _text(raw: str | bytes) -> str:
    return raw.decode(errors="replace") if isinstance(raw, bytes) else raw


def _now() -> float:
    return asyncio.get_running_loop().time()
