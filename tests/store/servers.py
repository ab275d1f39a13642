"""Servers that answer as a test needs it: wrongly, late, from a list, or from elsewhere."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from service.store.connection.client import RedisAccess, TlsFiles
from service.store.connection.pipeline import AdmissionPipeline
from service.store.connection.resp import Command
from tests.store.making import pipeline_of

PING: Command = ("PING",)


class Faulty:
    """A server that accepts connections, answers the first commands from a list, and then falls silent or hangs up."""

    def __init__(self) -> None:
        self.mode = "silent"
        self.served = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.served += 1
        answered, seen = 0, b""
        while raw := await reader.read(65536):
            if self.mode == "hang up":
                break
            if self.mode == "loading":
                writer.write(b"-LOADING Redis is loading the dataset in memory\r\n")
            elif self.mode == "old":
                seen += raw  # the library is long: it comes in several pieces
                commands = len(re.findall(rb"(?:^|\r\n)\*[0-9]+\r\n\$", seen))
                for number in range(answered, commands):
                    writer.write(b"+OK\r\n" if number else b"*2\r\n$7\r\nversion\r\n$6\r\n5.0.14\r\n")
                answered = commands
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def served(serve: Serve) -> AsyncIterator[int]:
    """Yield the port of a server. Its end waits until every client has gone."""
    serving: list[asyncio.Task[None]] = []

    async def tracked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.append(task)
        try:
            await serve(reader, writer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    listener = await asyncio.start_server(tracked, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        await asyncio.gather(*serving, return_exceptions=True)


@asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[RedisAccess]:
    """Yield access to a server that `serve` answers for."""
    async with served(serve) as port:
        access = RedisAccess.by_url(f"redis://127.0.0.1:{port}", TlsFiles())
        try:
            yield access
        finally:
            await access.close()


@asynccontextmanager
async def faulty(mode: str) -> AsyncIterator[tuple[Faulty, AdmissionPipeline]]:
    fault = Faulty()
    fault.mode = mode
    async with listening(fault.serve) as access:
        pipeline = pipeline_of(access, timeout_s=0.05)
        yield fault, pipeline
        await pipeline.close()


class Elsewhere:
    """A proxy before a Redis that is well; a probe is answered MOVED, as where another node has its key's slot."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.is_away = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_redis, to_redis = await asyncio.open_unix_connection(self.path)

        async def back() -> None:
            while raw := await from_redis.read(65536):
                writer.write(raw)

        going = asyncio.create_task(back())
        while (raw := await reader.read(65536)) and not self.is_away:
            if raw.endswith(b"\r\nrc:probe\r\n"):
                writer.write(b"-MOVED 1 127.0.0.1:1\r\n")
            else:
                to_redis.write(raw)
        for end in (to_redis, writer):
            end.close()
        await going


class Distant:
    """A proxy that lets every answer travel for a while."""

    def __init__(self, path: str, delay_s: float) -> None:
        self.path = path
        self.delay_s = delay_s

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_redis, to_redis = await asyncio.open_unix_connection(self.path)

        async def there() -> None:
            while raw := await reader.read(65536):
                to_redis.write(raw)
            to_redis.close()

        going = asyncio.create_task(there())
        while raw := await from_redis.read(65536):
            await asyncio.sleep(self.delay_s)
            writer.write(raw)
        writer.close()
        await going


class Scripted:
    """A server that answers from a list, and keeps what it received."""

    def __init__(self, *answers: bytes, hangs_up: bool = False, reads: bool = True) -> None:
        self.answers = answers
        """What is sent once something has arrived, each in a packet of its own."""
        self.hangs_up = hangs_up
        self.reads = reads
        self.received = b""
        self.ended = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while self.reads and (raw := await reader.read(65536)):
            self.received += raw
            for answer in self.answers:
                writer.write(answer)
                await writer.drain()
                await asyncio.sleep(0)  # a packet each
            self.answers = ()
            if self.hangs_up:
                break
        if not self.reads:
            await self.ended.wait()
            while raw := await reader.read(65536):
                self.received += raw


def soon(seconds: float = 5) -> float:
    return asyncio.get_running_loop().time() + seconds
