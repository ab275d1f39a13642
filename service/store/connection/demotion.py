"""Demotions: all connections to a server are closed when it turns out to be no primary any more.

An address may lead to another server while connections to the one before stay open: through a forwarder, a virtual
address, or a unix socket whose symlink is replaced. What was the primary answers on as a replica. Nothing but its own
answer, READONLY, shows it: whichever part of the service gets one, every part leaves that server at once. The address
may lead there for a while longer, so a new connection is used only if the server says that it is no replica: one that
only reads and listens would meet no READONLY, and the first write over it, perhaps seconds later, would give up the
new primary.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

import structlog
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, ResponseError

from service.core.tasks import end
from service.store.connection.calls import AWAY
from service.store.connection.failures import BREAKER, READONLY
from service.store.connection.server_check import hello_fields

log = structlog.get_logger()

REPLICA = "the server answered READONLY: it is a replica now"


class PrimaryInUse:
    """All connections to the primary in use: the pool of redis-py's client, and whatever registers itself."""

    def __init__(self) -> None:
        self.generation = 0
        """How often all connections were closed. A connection of an earlier generation may lead to another server."""
        self._pools: list[ConnectionPool] = []
        self._callbacks: list[Callable[[str, str], None]] = []
        self._closing: set[asyncio.Task[None]] = set()

    def add_pool(self, pool: ConnectionPool) -> None:
        """Close the connections of `pool` too."""
        self._pools.append(pool)

    def on_given_up(self, call: Callable[[str, str], None]) -> None:
        """Register a callback for when the primary is given up. It receives a reason, and the kind of failure."""
        self._callbacks.append(call)

    def give_up(self, reason: str, kind: str = BREAKER) -> None:
        """Give up all connections, those with a command under way too."""
        for call in self._callbacks:
            call(reason, kind)
        self.close_pools()

    def close_pools(self) -> None:
        """Close the connections of redis-py's client alone: another server answers at the address."""
        self.generation += 1
        for pool in self._pools:
            self._in_background(_disconnect(pool))

    def demoted(self, generation: int) -> None:
        """Take note that a connection of this generation leads to a replica."""
        if generation == self.generation:
            self.give_up(REPLICA, READONLY)

    async def close(self) -> None:
        """Wait until what was given up is closed."""
        await end(self._closing)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _disconnect(pool: ConnectionPool) -> None:
    with suppress(*AWAY):
        await pool.disconnect(inuse_connections=True)


class _Watched:
    """A connection of redis-py's client that reports READONLY, whichever command met it."""

    def __init__(self, *, primary: PrimaryInUse, **options: Any) -> None:
        super().__init__(**options)
        self.primary = primary
        self.generation = primary.generation

    async def connect_check_health(self: Any, *args: Any, **options: Any) -> None:
        """Connect as redis-py does, and note when that began: the primary may be replaced meanwhile."""
        if not self.is_connected:
            self.generation = self.primary.generation
        await super().connect_check_health(*args, **options)  # type: ignore[misc]  # of the other base class

    async def read_response(self: Any, *args: Any, **options: Any) -> Any:
        """Read an answer as redis-py does."""
        try:
            return await super().read_response(*args, **options)  # type: ignore[misc]  # of the other base class
        except ReadOnlyError:
            self.primary.demoted(self.generation)
            raise


async def log_in(connection: Any) -> None:
    """Log in as redis-py does, for its `redis_connect_func`, to a server that is the primary in use.

    Raises:
        redis.exceptions.ReadOnlyError: the server is a replica.
        redis.exceptions.ConnectionError: the primary was given up while this connection was made.
    """
    await connection.on_connect()
    await connection.send_command("HELLO")  # like ROLE, which an ACL may forbid
    hello = None
    with suppress(ResponseError):  # a server that does not know it
        hello = await connection.read_response()
    if hello_fields(hello).get("role") == "replica":
        raise ReadOnlyError("this server is a replica")
    if connection.generation != connection.primary.generation:
        raise RedisConnectionError("the primary was given up while it was being connected to")


class WatchedConnection(_Watched, Connection):
    """Over TCP."""


class WatchedSSLConnection(_Watched, SSLConnection):
    """Over TLS."""


class WatchedUnixConnection(_Watched, UnixDomainSocketConnection):
    """Over a unix socket."""


class SentinelConnection(SentinelManagedConnection, WatchedConnection):
    """Over TCP, to the primary that the Sentinels name."""


class SentinelSSLConnection(SentinelManagedSSLConnection, WatchedSSLConnection):
    """Over TLS, to the primary that the Sentinels name."""


def connection_class_of(options: Mapping[str, Any]) -> type[Connection | UnixDomainSocketConnection]:
    """Return the class for connections with these options of redis-py's `parse_url`."""
    if "path" in options:
        return WatchedUnixConnection
    return WatchedSSLConnection if options.get("connection_class") is SSLConnection else WatchedConnection
