"""The address of one Redis server, and the login: over TCP, TLS or a unix socket, with or without an ACL user."""

import asyncio
import math
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from service.store.connection.failures import reason_of
from service.store.connection.resp import Command, SocketConnection
from service.store.connection.url import Address

KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
"""Seconds without a packet before the kernel probes an idle peer, between its probes, and how many may be lost."""
_TLS_CLOSE_S = 1.0
"""Seconds that a server may take to answer the end of a TLS connection."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Files for `rediss://`; None: the system's defaults."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Read the files. The server's certificate and its name are checked.

        Raises:
            OSError: a file cannot be read, or does not hold what it should (ssl.SSLError).
        """
        context = ssl.create_default_context()
        if self.cert_file is not None or self.key_file is not None:
            context.load_cert_chain(self.cert_file or "", self.key_file)
        if self.ca_file is not None:
            context.load_verify_locations(self.ca_file)
        return context


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server. Its repr shows no credentials."""

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    """The path of its unix socket, which is used instead of host and port."""
    tls: TlsFiles | None = None
    """None: the connection is not encrypted."""
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    database: int = 0
    client_name: str | None = None

    @classmethod
    def of(cls, address: Address, tls: TlsFiles) -> "Endpoint":
        """Return what `redis.url` names; behind Sentinels and in a Cluster, `at` says which server of it."""
        options: dict[str, Any] = address.options
        return cls(
            options.get("host", "localhost"),
            options.get("port", 6379),
            options.get("path"),
            tls if address.tls else None,
            options.get("username"),
            options.get("password"),
            options.get("db", 0),
            options.get("client_name"),
        )

    def at(self, host: str, port: int) -> "Endpoint":
        """Return another server with the same login."""
        return replace(self, host=host, port=port)

    @property
    def place(self) -> str:
        """Its name in messages."""
        return self.path or f"{self.host}:{self.port}"

    async def connect(self) -> SocketConnection:
        """Connect and log in. The caller keeps the deadline.

        Raises:
            redis.exceptions.ConnectionError: the server cannot be reached, or refuses the credentials
                (AuthenticationError).
            redis.exceptions.ResponseError: it refuses the database or the name.
        """
        try:
            connection = await self._connected()
        except OSError as error:
            raise RedisConnectionError(f"{self.place} cannot be connected to: {reason_of(error)}") from error
        try:
            await self._log_in(connection)
        except BaseException:
            await connection.hang_up()
            raise
        return connection

    async def _connected(self) -> SocketConnection:
        loop = asyncio.get_running_loop()
        if self.path is not None:
            _, connection = await loop.create_unix_connection(SocketConnection, self.path)
            return connection
        # Read anew for each connection: certificates are renewed while the service runs.
        context = None if self.tls is None else await loop.run_in_executor(None, self.tls.context)
        transport, connection = await loop.create_connection(
            SocketConnection,
            self.host,
            self.port,
            ssl=context,
            ssl_shutdown_timeout=None if context is None else _TLS_CLOSE_S,
        )
        peer = transport.get_extra_info("socket")
        with suppress(OSError):  # not on every system, and not once the server hung up
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in KEEPALIVE:
                if (number := getattr(socket, option, None)) is not None:
                    peer.setsockopt(socket.IPPROTO_TCP, number, value)
        return connection

    async def _log_in(self, connection: SocketConnection) -> None:
        """Log in with all commands in one round trip: if one is refused, the next ones are, too."""
        commands: list[Command] = []
        if self.username or self.password:
            user = (self.username,) if self.username else ()
            commands.append(("AUTH", *user, self.password or ""))
        if self.client_name:
            commands.append(("CLIENT", "SETNAME", self.client_name))
        if self.database:
            commands.append(("SELECT", self.database))
        if not commands:
            return
        for answer in await connection.round_trip(commands, math.inf):
            if isinstance(answer, RedisError | OSError):
                raise answer
