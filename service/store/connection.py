"""The way to Redis: one client for people, one link for admissions, and the breaker between.

The link is redis-py's own `Connection` (so TLS, passwords and unix sockets are redis-py's business) used
directly: no pool, no retries, one deadline over connecting, sending and reading.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import hiredis
import structlog
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from service.core.errors import StoreOutdated, StoreUnavailable
from service.store.scripts import SCRIPTS

log = structlog.get_logger()

OLDEST = (6, 2)
"""The oldest Redis that is supported: below it lack ZRANGE … REV BYSCORE and what else the listing uses."""
FAILURES_TO_OPEN = 3
"""Failed trips in a row after which the breaker opens."""
PROBE_EVERY_S = 0.25
"""How often an open breaker asks whether Redis is back."""
CONNECT_S = 2.0
"""How long connecting may take where no request waits for it: at start, and for the probe."""
PEOPLE_TIMEOUT_S = 1.0
"""What an operator may wait for one command; a request of the deployment waits `redis.timeout`."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Files for `rediss://`; None where the system's defaults hold."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class RedisAccess:
    """The two ways to one Redis. Nothing is connected yet, and nothing is ever sent twice."""

    client: Redis
    """For people: pages, acts, the sweep."""
    pool: ConnectionPool
    """Makes the connection of the admissions, which keeps its own deadline."""

    @classmethod
    def by_url(cls, url: str, tls: TlsFiles) -> "RedisAccess":
        """`redis://`, `rediss://` or `unix://`."""
        # Without driver_info=None redis-py reads its own version from disk, in the event loop, at every connection.
        options: dict[str, Any] = {"protocol": 2, "retry": Retry(NoBackoff(), 0), "driver_info": None}
        if url.startswith("rediss://"):
            files = {"ssl_ca_certs": tls.ca_file, "ssl_certfile": tls.cert_file, "ssl_keyfile": tls.key_file}
            options |= {name: str(path) for name, path in files.items() if path is not None}
        people = {"socket_timeout": PEOPLE_TIMEOUT_S, "socket_connect_timeout": PEOPLE_TIMEOUT_S}
        return cls(
            client=Redis(connection_pool=ConnectionPool.from_url(url, **options, **people)),
            pool=ConnectionPool.from_url(url, **options, socket_timeout=None, socket_connect_timeout=None),
        )

    @classmethod
    def in_process(cls) -> "RedisAccess":
        """fakeredis: where no server is to be had, and in unit tests. Nothing is kept."""
        import fakeredis  # takes a while to import, and is seldom needed

        client = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer(), protocol=2)
        return cls(client=client, pool=client.connection_pool)

    async def close(self) -> None:
        """Hang up."""
        await self.client.aclose(close_connection_pool=True)
        await self.pool.aclose()


class Link:
    """One connection for the admissions, with a deadline per trip and a circuit breaker.

    After a few failed trips in a row the breaker opens: callers are told at once, and a probe of the
    link's own asks Redis four times a second whether it is back.
    """

    def __init__(
        self, pool: ConnectionPool, *, timeout_s: float, on_change: Callable[[bool], None] = lambda up: None
    ) -> None:
        self._make: Callable[[], Any] = pool.make_connection
        self._timeout_s = timeout_s
        self._on_change = on_change
        self._connection: AbstractConnection | None = None
        self._failures = 0
        self._probe: asyncio.Task[None] | None = None

    @property
    def timeout_s(self) -> float:
        """How long a trip may take."""
        return self._timeout_s

    @property
    def is_down(self) -> bool:
        """Whether the breaker is open."""
        return self._probe is not None

    async def call(self, *command: str | int) -> Any:
        """Send one command, once, and return its answer.

        Raises:
            NoScriptError: Redis does not know the script, and ran nothing.
            StoreUnavailable: anything else went wrong; the command may have taken effect.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._send(await self._connected(), *command)
        except NoScriptError:
            raise
        except (RedisError, OSError, TimeoutError, StoreOutdated) as error:
            await self._failed(error)
            raise StoreUnavailable(_reason(error)) from error
        if self._failures:
            log.info("redis answers again", failed_before=self._failures)
            self._failures = 0
        return answer

    async def open(self) -> None:
        """Connect at start, so that the first request need not. A Redis that is away is no error here."""
        try:
            async with asyncio.timeout(max(self._timeout_s, CONNECT_S)):
                await self._connected()
        except (RedisError, OSError, TimeoutError, StoreOutdated) as error:
            self._failures = FAILURES_TO_OPEN - 1
            await self._failed(error)
        else:
            self._on_change(True)

    async def close(self) -> None:
        """Stop probing and hang up."""
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.gather(self._probe, return_exceptions=True)
            self._probe = None
        if self._connection is not None:
            await self._connection.disconnect()

    async def _connected(self) -> AbstractConnection:
        connection = self._connection
        if connection is not None and (not connection.is_connected or await connection.can_read()):
            # Nothing was asked, so what can be read is the end of the stream: Redis hung up while it was idle.
            await self._hang_up()
            connection = None
        if connection is None:
            connection = self._connection = cast("AbstractConnection", self._make())
            await connection.connect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
            await _prepare(connection)
        return connection

    async def _send(self, connection: AbstractConnection, *command: str | int) -> Any:
        # redis-py packs in Python on its asyncio side; hiredis does it in C.
        await connection.send_packed_command(hiredis.pack_command(command), check_health=False)  # type: ignore[arg-type]  # its stub knows tuples of one
        return await connection.read_response()

    async def _hang_up(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.disconnect(nowait=True)

    async def _failed(self, error: Exception) -> None:
        if not isinstance(error, ResponseError):  # after those the connection is still in step
            await self._hang_up()
        self._failures += 1
        log.warning("redis did not answer", reason=_reason(error), in_a_row=self._failures)
        if self._failures >= FAILURES_TO_OPEN and self._probe is None:
            self._on_change(False)
            log.error("redis is away: answering without it", reason=_reason(error))
            self._probe = asyncio.create_task(self._probe_until_back())

    async def _probe_until_back(self) -> None:
        last = ""
        while True:
            try:
                async with asyncio.timeout(max(self._timeout_s, CONNECT_S)):
                    await self._send(await self._connected(), "PING")
                break
            except (RedisError, OSError, TimeoutError, StoreOutdated) as error:
                if _reason(error) != last:
                    last = _reason(error)
                    log.warning("redis is still away", reason=last)
                await self._hang_up()
                await asyncio.sleep(PROBE_EVERY_S)
        self._failures = 0
        self._probe = None
        self._on_change(True)
        log.info("redis is back")


async def _prepare(connection: AbstractConnection) -> None:
    """Learn the version and load every script, in one round trip: a distant Redis is slow, not away."""
    loads = [("SCRIPT", "LOAD", verb.text) for verb in SCRIPTS.values()]
    await connection.send_packed_command(connection.pack_commands([("INFO", "server"), *loads]), check_health=False)
    answers: list[Any] = []
    for _ in range(len(loads) + 1):
        try:
            answers.append(await connection.read_response())
        except ResponseError as error:
            answers.append(error)
    info, *loaded = answers
    for answer in loaded:
        if isinstance(answer, ResponseError):
            raise answer
    if isinstance(info, ResponseError):
        return  # not every user may ask (ACL), and fakeredis cannot tell
    found = re.search(rb"redis_version:(\d+)\.(\d+)", info)
    if found and (int(found[1]), int(found[2])) < OLDEST:
        told = ".".join(part.decode() for part in found.groups())
        raise StoreOutdated(f"Redis {told} is too old; {OLDEST[0]}.{OLDEST[1]} is the oldest that is supported")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
