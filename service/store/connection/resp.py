"""One connection to a Redis server: sends commands, reads their answers, knows when it is out of step.

An `asyncio.Protocol` of the service's own. hiredis reads (RESP2 and RESP3) and packs. A round trip of redis-py costs a
third more, since its stream reader and writer, its time-outs and its retries are made for every command. `endpoint.py`
connects and logs in.
"""

import asyncio
import math
from collections.abc import Sequence
from typing import Any, Protocol, cast

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ResponseError

from service.store.connection.failures import error_of

Command = tuple[str | int, ...]


class RespConnection(Protocol):
    """Sends commands over one connection, and reads their answers."""

    @property
    def is_broken(self) -> bool:
        """Whether the server hung up, or the answers are out of step with the commands."""

    async def round_trip(self, commands: Sequence[Command], until: float) -> list[Any]:
        """Send all commands once, and return an answer for each.

        An answer that the server refused is a ResponseError in the list. Where the connection ends after some of the
        answers have arrived, each missing answer is the error that ended it.

        Args:
            commands: at least one.
            until: when to give up, by the loop's clock.

        Raises:
            TimeoutError: no answer arrived by then.
            redis.exceptions.ConnectionError, OSError: the connection ended before the first answer, or the server is
                not ready to answer at all.
            redis.exceptions.InvalidResponse: what the server sent is not RESP.
        """

    def abort(self) -> None:
        """Fail the round trip that is under way now: whatever still arrives is not an answer any more."""

    async def hang_up(self) -> None:
        """Close the connection. What was not sent yet is not sent any more."""


def packed(commands: Sequence[Command]) -> bytes:
    """Commands as they are sent. redis-py packs in Python on its asyncio side; hiredis does it in C."""
    return b"".join([hiredis.pack_command(command) for command in commands])  # type: ignore[arg-type]  # its stub knows tuples of one


class SocketConnection(asyncio.Protocol):
    """A connection over TCP, TLS or a unix socket. One round trip at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        # A marker of its own for "more to come": any other value may be an answer.
        self._more: Any = object()
        self._reader = hiredis.Reader(protocolError=InvalidResponse, replyError=error_of, notEnoughData=self._more)
        self._answers: list[Any] = []
        self._wanted = 0
        self._arrived: asyncio.Future[list[Any]] | None = None
        self._is_paused = False
        self._unsent = b""
        """What waits until the transport takes bytes again."""
        self.is_broken = False
        """Whether the server hung up, or the answers are out of step with the commands."""

    async def round_trip(self, commands: Sequence[Command], until: float) -> list[Any]:
        """Send all commands once, and return an answer for each; see `RespConnection`."""
        if self._arrived is not None:
            self.is_broken = True
            raise RedisConnectionError("The answers to another round trip have not arrived yet.")
        if self.is_broken or self._transport is None:
            raise RedisConnectionError("The connection is closed.")
        sent = packed(commands)  # first: what cannot be packed leaves the connection as it was
        self._answers, self._wanted = [], len(commands)
        arrived: asyncio.Future[list[Any]] = self._loop.create_future()
        self._arrived = arrived
        if self._is_paused:
            self._unsent = sent
        else:
            self._transport.write(sent)
        # A timer costs a quarter of `asyncio.timeout`, and each round trip needs one.
        timer = None if until == math.inf else self._loop.call_at(until, self._end, TimeoutError())
        try:
            return await arrived
        finally:
            if timer is not None:
                timer.cancel()

    def abort(self) -> None:
        """Fail the round trip that is under way now."""
        self._answers = []  # the node is not to be used any more: what it answered so far does not count either
        self._end(RedisConnectionError("The connection was given up."))

    async def hang_up(self) -> None:
        """Close the connection."""
        is_under_way, is_broken = self._arrived is not None, self.is_broken
        self.abort()
        if self._transport is None:
            return
        if is_under_way or is_broken:
            self._transport.abort()  # `close` would send what is still in the buffer
        else:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there; nothing was sent yet."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Read the answers that are complete by now."""
        self._reader.feed(data)
        try:
            while (answer := self._reader.gets()) is not self._more:
                if isinstance(answer, hiredis.PushNotification):
                    continue  # RESP3: it answers no command
                if isinstance(answer, RedisConnectionError):  # LOADING and its like
                    raise answer
                self._answers.append(answer)
        except Exception as error:
            self._end(error)
            return
        arrived = self._arrived
        if arrived is None:
            self.is_broken = self.is_broken or bool(self._answers)  # an answer to no command: out of step
        elif len(self._answers) > self._wanted:
            self.abort()
        elif len(self._answers) == self._wanted:
            self._arrived = None
            if not arrived.done():
                arrived.set_result(self._answers)

    def pause_writing(self) -> None:
        """The server does not read as fast as commands are sent."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """The transport takes bytes again."""
        self._is_paused = False
        if self._unsent and self._transport is not None:
            sent, self._unsent = self._unsent, b""
            self._transport.write(sent)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended."""
        self._end(exc or RedisConnectionError("Connection closed by server."))

    def _end(self, error: Exception) -> None:
        """Deliver the answers that arrived; those that are missing end with the error."""
        self.is_broken = True
        self._unsent = b""
        arrived, self._arrived = self._arrived, None
        if arrived is None or arrived.done():
            return
        if self._answers and len(self._answers) <= self._wanted:
            arrived.set_result([*self._answers, *[error] * (self._wanted - len(self._answers))])
        else:
            arrived.set_exception(error)


class InProcessConnection:
    """The same over a redis-py connection, for a server inside this process, which has no socket.

    Args:
        connection: of redis-py's; connected.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @property
    def is_broken(self) -> bool:
        """Whether the connection ended."""
        return not self._connection.is_connected

    async def round_trip(self, commands: Sequence[Command], until: float) -> list[Any]:
        """Send all commands once, and return an answer for each; see `RespConnection`."""
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
        """Nothing is ever under way: the server answers within the call."""

    async def hang_up(self) -> None:
        """Close the connection."""
        await self._connection.disconnect(nowait=True)
