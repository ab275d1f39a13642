"""The load: raw keep-alive connections on uvloop, one request at a time each, every answer checked and timed."""

import asyncio
import http.client
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import uvloop


@dataclass
class Outcome:
    """What a round of load came to."""

    requests: int
    seconds: float
    wrong: Counter[str]
    """Answers with another status than was expected, by status."""
    latencies_us: list[float] = field(repr=False)

    def percentile(self, share: float) -> float:
        """The latency (µs) that this share of the requests stayed under."""
        ordered = sorted(self.latencies_us)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class _Client(asyncio.Protocol):
    def __init__(self, turn: Callable[[], bytes | None], status: bytes, outcome: Outcome) -> None:
        self._turn, self._status, self._outcome = turn, status, outcome
        self._buffer = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._next()

    def _next(self) -> None:
        request = self._turn()
        if request is None:
            self._transport.close()
            self.done.set_result(None)
            return
        self._sent = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        head = data.find(b"\r\n\r\n")
        if head >= 0:
            at = data.lower().find(b"content-length: ", 0, head)
            length = int(data[at + 16 : data.find(b"\r\n", at)]) if at >= 0 else 0
            if len(data) >= head + 4 + length:
                self._buffer = b""
                self._outcome.latencies_us.append((time.perf_counter() - self._sent) * 1e6)
                if data[9:12] != self._status:
                    self._outcome.wrong[data[9:12].decode()] += 1
                self._next()
                return
        self._buffer = data

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server hung up"))


def body_of(port: int, request: bytes, status: int) -> bytes:
    """Send one request on a connection of its own; the body of its answer, which must have this status."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        body = answer.read()
    if answer.status != status:
        raise RuntimeError(f"{answer.status} where {status} was expected: {body!r}")
    return body


def run(
    port: int, requests: Callable[[int], bytes], count: int, *, connections: int = 64, status: int = 200, start: int = 0
) -> Outcome:
    """Send `requests(start)` … `requests(start + count - 1)` to a port of this machine."""

    async def go() -> Outcome:
        outcome = Outcome(count, 0, Counter(), [])
        numbers = iter(range(start, start + count))

        def turn() -> bytes | None:
            number = next(numbers, None)
            return None if number is None else requests(number)

        loop = asyncio.get_running_loop()
        began = time.perf_counter()
        clients = [_Client(turn, str(status).encode(), outcome) for _ in range(connections)]
        for client in clients:
            await loop.create_connection(lambda client=client: client, "127.0.0.1", port)  # type: ignore[misc]
        await asyncio.gather(*(client.done for client in clients))
        outcome.seconds = time.perf_counter() - began
        return outcome

    return uvloop.run(go())
