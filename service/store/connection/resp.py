"""The thin way to Redis: replies go from the socket straight to hiredis's parser.

redis-py's `Connection` connects: TLS, passwords, unix sockets and Sentinels are its business. From then on its stream
reader and writer only stand between: they cost a third of a trip. The one place that reaches into redis-py.
"""

import asyncio
import math
from collections.abc import Sequence
from typing import Any, Protocol, cast

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ResponseError

Command = tuple[str | int, ...]


class RespConnection(Protocol):
    """Sends commands over one connection, and reads their answers."""

    async def is_broken(self) -> bool:
        """Whether Redis hung up, or sent what nobody asked for."""

    async def round_trip(self, commands: Sequence[Command], until: float) -> list[Any]:
        """Send all commands, and return an answer for each; what Redis refused is a ResponseError among them.

        Args:
            commands: at least one.
            until: when to give up, by the loop's clock.

        Raises:
            TimeoutError: by then Redis had not answered all of them.
            redis.exceptions.ConnectionError: the connection ended, or Redis is not ready to answer at all.
        """

    def abort(self) -> None:
        """Fail the exchange that is under way now: whatever still arrives is not an answer any more."""

    async def hang_up(self) -> None:
        """End the connection."""


def resp_connection_of(connection: AbstractConnection) -> RespConnection:
    """The thin way over a connection that is connected; fakeredis has no socket, and goes redis-py's way."""
    writer = getattr(connection, "_writer", None)
    transport = getattr(writer, "transport", None)
    return _Plain(connection) if transport is None else _Thin(connection, transport)


def packed(commands: Sequence[Command]) -> bytes:
    """Commands as they are sent. redis-py packs in Python on its asyncio side; hiredis does it in C."""
    return b"".join([hiredis.pack_command(command) for command in commands])  # type: ignore[arg-type]  # its stub knows tuples of one


class _Plain:
    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection

    async def is_broken(self) -> bool:
        return not self._connection.is_connected or bool(await self._connection.can_read())

    async def round_trip(self, commands: Sequence[Command], until: float) -> list[Any]:
        answers: list[Any] = []
        async with asyncio.timeout_at(None if until == math.inf else until):
            await self._connection.send_packed_command(packed(commands), check_health=False)
            for _ in commands:
                try:
                    answers.append(await self._connection.read_response())
                except ResponseError as error:
                    answers.append(error)
        return answers

    def abort(self) -> None:
        pass  # fakeredis answers within the call: nothing is ever under way

    async def hang_up(self) -> None:
        await self._connection.disconnect(nowait=True)


class _Thin(asyncio.Protocol):
    def __init__(self, connection: AbstractConnection, transport: asyncio.Transport) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._transport = transport
        self._before = cast("asyncio.Protocol", transport.get_protocol())
        # A marker of hiredis's own for "more to come": any other value may be an answer.
        self._more = object()
        self._parser = hiredis.Reader(
            protocolError=InvalidResponse,
            replyError=connection._parser.parse_error,
            notEnoughData=self._more,
        )
        self._answers: list[Any] = []
        self._wanted = 0
        self._arrived: asyncio.Future[list[Any]] | None = None
        self._broken = False
        transport.set_protocol(self)

    async def is_broken(self) -> bool:
        return self._broken

    async def round_trip(self, commands: Sequence[Command], until: float) -> list[Any]:
        if self._arrived is not None:
            self._broken = True
            raise RedisConnectionError("answers to another trip are still awaited here")
        sent = packed(commands)  # first: what cannot be packed leaves the connection as it was
        self._answers, self._wanted = [], len(commands)
        self._arrived = self._loop.create_future()
        self._transport.write(sent)
        # A timer of one's own costs a quarter of `asyncio.timeout`, and there is one per trip.
        timer = None if until == math.inf else self._loop.call_at(until, self._end, TimeoutError())
        try:
            return await self._arrived
        finally:
            if timer is not None:
                timer.cancel()

    def abort(self) -> None:
        self._end(RedisConnectionError("The connection was given up."))

    async def hang_up(self) -> None:
        await self._connection.disconnect(nowait=True)

    def data_received(self, data: bytes) -> None:
        """The socket brought some of the answers."""
        self._parser.feed(data)
        try:
            while (answer := self._parser.gets()) is not self._more:
                if isinstance(answer, RedisConnectionError):  # LOADING and its like
                    raise answer
                self._answers.append(answer)
        except Exception as error:
            self._end(error)
            return
        if self._arrived is None or len(self._answers) > self._wanted:
            self._broken = True  # nobody asked for it: out of step
        elif len(self._answers) == self._wanted:
            arrived, self._arrived = self._arrived, None
            if not arrived.done():
                arrived.set_result(self._answers)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._before.connection_lost(exc)  # whom redis-py waits for when it disconnects
        self._end(exc or RedisConnectionError("Connection closed by server."))

    def _end(self, error: Exception) -> None:
        self._broken = True
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_exception(error)
        self._arrived = None
