"""One address that leads to a server of choice, and keeps the connections that are open when the choice changes."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import redis

from tests.deployments import Node


class Forwarder:
    """Listens on a port of its own, in a thread of its own.

    Args:
        target: where new connections lead.
    """

    def __init__(self, target: Node) -> None:
        self.target = target
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._passing: set[asyncio.Task[None]] = set()
        self._ready, self._ended = threading.Event(), asyncio.Event()

    @contextmanager
    def running(self) -> Iterator["Forwarder"]:
        thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._run()))
        thread.start()
        self._ready.wait()
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._ended.set)
            thread.join()
            self._loop.close()

    async def _run(self) -> None:
        async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._pass(reader, writer))
            self._passing.add(task)
            task.add_done_callback(self._passing.discard)

        server = await asyncio.start_server(begin, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._ended.wait()
        server.close()
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            from_redis, to_redis = await asyncio.open_connection("127.0.0.1", self.target.port)
            writers.append(to_redis)
            await asyncio.gather(_copied(reader, to_redis), _copied(from_redis, writer))
        finally:  # also where the task is cancelled: a connection that is left open is found later, in another test
            for one in writers:
                one.transport.abort()
            for one in writers:
                with suppress(OSError):
                    await one.wait_closed()


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while raw := await reader.read(65536):
            writer.write(raw)
            await writer.drain()
    writer.close()


def fail_over(primary: Node, replica: Node, forwarder: Forwarder) -> None:
    """Let the replica become the primary without a loss (FAILOVER waits for it), and lead new connections to it."""
    command: Any = primary.client
    command.execute_command("FAILOVER", "TO", "127.0.0.1", replica.port)
    while replica.client.info("replication")["role"] != "master":
        pass
    forwarder.target = replica


def follow(replica: Node, primary: Node) -> bool:
    """Whether the replica has all that the primary had."""
    with suppress(redis.ConnectionError):
        return bool(replica.client.info("replication").get("master_link_status") == "up")
    return False
