"""The end of the server: what is under way is read and answered, and answers meanwhile announce that it ends."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from structlog.testing import capture_logs

from service.app import make_app
from service.store.connection.client import RedisAccess
from service.web.server import front_door, http_server
from service.web.server.http_server import HttpServer
from tests.kit import credentials, serving, settings
from tests.web.connections import Connection, asking

pytestmark = pytest.mark.parametrize("access", ["fake"], indirect=True)

Connect = Callable[[], Coroutine[Any, Any, Connection]]
HOT = asking("/auth/status", credentials())
AIOHTTP = asking("/healthz", {})
BODY = b'{"strategy": "soft"}'
JSON = {"content-type": "application/json"}
LENGTH = asking("/auth/terminate", credentials() | JSON | {"content-length": str(len(BODY))}, method="POST")
CHUNKED = asking("/auth/terminate", credentials() | JSON | {"transfer-encoding": "chunked"}, method="POST")
BEFORE = {"first": b"", "second at the door": HOT, "second after the hand-over": AIOHTTP}
"""What came before on the connection."""


@pytest.fixture
async def server(access: RedisAccess) -> AsyncIterator[HttpServer]:
    async with serving(await asyncio.to_thread(make_app, settings(), access)) as (server, _):
        yield server


@pytest.fixture
async def draining(server: HttpServer) -> None:
    """The server has announced its end."""
    server.announce_end()


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def begin_to_end(server: HttpServer) -> "asyncio.Task[None]":
    """Begin to close the server, and return once it takes no more connections."""
    closing = asyncio.create_task(server.close())
    await until(lambda: not any(listener.is_serving() for listener in server.listeners))
    await asyncio.sleep(0.05)  # a few rounds in which it closes what is idle
    return closing


def received(server: HttpServer) -> bool:
    """Whether a head, or a part of one, has come."""
    return any(door._held or door._forwarded > door._answered_by_aiohttp for door in server.connections)


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("head", [LENGTH, CHUNKED], ids=["by its length", "in chunks"])
async def test_a_request_whose_body_still_comes_is_read_and_answered_before_the_end(
    server: HttpServer, connect: Connect, head: bytes, before: str
) -> None:
    one = await connect()
    if BEFORE[before]:
        await one.ask(BEFORE[before])
    pieces = [b"5\r\n" + BODY[:5] + b"\r\n", b"%x\r\n" % len(BODY[5:]) + BODY[5:] + b"\r\n0\r\n\r\n"]
    first, rest = (BODY[:5], BODY[5:]) if head is LENGTH else pieces
    one.writer.write(head + first)
    await until(lambda: received(server))
    closing = await begin_to_end(server)
    answer = await one.ask(rest)
    assert answer.startswith(b"HTTP/1.1 201 ")
    assert b"connection: close" in answer.lower()
    assert await one.reader.read() == b""
    await closing


@pytest.mark.parametrize("request_", [HOT, AIOHTTP], ids=["at the door", "by aiohttp"])
async def test_a_head_that_still_comes_is_read_and_answered_before_the_end(
    server: HttpServer, connect: Connect, request_: bytes
) -> None:
    one = await connect()
    one.writer.write(request_[:30])
    await until(lambda: received(server))
    closing = await begin_to_end(server)
    assert (await one.ask(request_[30:])).startswith(b"HTTP/1.1 200 ")
    await closing


async def test_a_client_that_has_just_connected_is_answered_before_the_end(
    server: HttpServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_door, "NEW_S", 30)
    one = await connect()
    await until(lambda: server.connections)
    closing = await begin_to_end(server)
    assert (await one.ask(HOT)).startswith(b"HTTP/1.1 200 ")
    await closing


@pytest.mark.parametrize("request_", [HOT, AIOHTTP], ids=["at the door", "by aiohttp"])
async def test_connections_that_are_idle_do_not_delay_the_end(
    server: HttpServer, connect: Connect, monkeypatch: pytest.MonkeyPatch, request_: bytes
) -> None:
    monkeypatch.setattr(http_server, "UNDER_WAY_S", 600)
    one = await connect()
    await one.ask(request_)
    await asyncio.wait_for(server.close(), 30)
    assert await one.reader.read() == b""


@pytest.mark.usefixtures("draining")
@pytest.mark.parametrize("request_", [HOT, AIOHTTP], ids=["at the door", "by aiohttp"])
async def test_while_it_drains_it_takes_requests_and_its_answer_ends_the_connection(
    connect: Connect, request_: bytes
) -> None:
    one = await connect()
    answer = await one.ask(request_)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in answer.lower()
    assert await one.reader.read() == b""


@pytest.mark.parametrize("request_", [HOT, AIOHTTP], ids=["at the door", "by aiohttp"])
async def test_a_connection_of_a_pool_is_still_answered_while_the_server_drains(
    server: HttpServer, connect: Connect, request_: bytes
) -> None:
    one = await connect()
    assert b"connection: close" not in (await one.ask(request_)).lower()
    server.announce_end()
    answer = await one.ask(request_)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in answer.lower()


@pytest.mark.usefixtures("draining")
@pytest.mark.parametrize("request_", [HOT, AIOHTTP], ids=["at the door", "by aiohttp"])
async def test_requests_that_were_sent_together_are_all_answered_while_it_drains(
    connect: Connect, request_: bytes
) -> None:
    one = await connect()
    one.writer.write(request_ * 3)
    ends = [b"connection: close" in (await one.answer()).lower() for _ in range(3)]
    assert ends == [False, False, True]


@pytest.mark.usefixtures("draining")
async def test_while_it_drains_it_is_alive_and_not_ready(connect: Connect) -> None:
    alive, ready = [await (await connect()).ask(asking(path, {})) for path in ("/healthz", "/readyz")]
    assert alive.startswith(b"HTTP/1.1 200 ")
    assert ready.startswith(b"HTTP/1.1 503 ")


async def test_a_request_whose_client_is_gone_is_processed_before_the_end(
    server: HttpServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on, asked, done = asyncio.Event(), asyncio.Event(), asyncio.Event()
    services = type(server._services)
    decide = services.decide

    async def waited(self: Any, question: Any) -> Any:
        asked.set()
        await goes_on.wait()
        decided = await decide(self, question)
        done.set()
        return decided

    monkeypatch.setattr(services, "decide", waited)
    one = await connect()
    one.writer.write(LENGTH + BODY)
    await asked.wait()
    # Reset: a client that only closes its side is still answered.
    one.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.writer.transport.abort()
    await until(lambda: not server.connections)
    closing = await begin_to_end(server)
    goes_on.set()
    await closing
    assert done.is_set()


async def test_what_does_not_end_in_time_is_cut_and_logged(
    server: HttpServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "UNDER_WAY_S", 0.1)
    one = await connect()
    one.writer.write(LENGTH + BODY[:5])
    await until(lambda: received(server))
    with capture_logs() as logs:
        await asyncio.wait_for(server.close(), 30)
    await until(lambda: not server.connections)
    assert [line["connections"] for line in logs if line["event"].startswith("connections are cut")] == [1]
