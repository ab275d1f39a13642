"""What is sent to the server's port: what is not HTTP, large and slow heads, unread answers."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.app import make_app
from service.store.connection.client import RedisAccess
from service.web.server import http_server
from service.web.server.http_server import HttpServer
from tests.kit import TENANT_TOKEN, serving, settings


@pytest.fixture
async def server(access: RedisAccess, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HttpServer]:
    monkeypatch.setattr(http_server, "CHECK_EVERY_S", 0.05)
    async with serving(await asyncio.to_thread(make_app, settings(), access)) as (server, _):
        yield server


@pytest.fixture
def port(server: HttpServer) -> int:
    return int(server.listeners[0].sockets[0].getsockname()[1])


async def exchange(port: int, raw: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw)
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize("access", ["fake"], indirect=True)
@pytest.mark.parametrize(
    "raw",
    [
        b"marker-that-is-not-http\r\n\r\n",
        b"\x16\x03\x01marker\x00\r\n\r\n",
        b"GET /marker HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: mar\x00ker\r\n\r\n",
        b"POST /auth/logout HTTP/1.1\r\nhost: a\r\ncontent-length: marker\r\n\r\n",
        b"POST /auth/logout HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        b"GET /" + b"marker" * 4000 + b" HTTP/1.1\r\nhost: a\r\n\r\n",
    ],
)
async def test_what_is_not_http_gets_a_bare_400_that_echoes_nothing(port: int, raw: bytes) -> None:
    answer = await exchange(port, raw)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert re.match(rb"HTTP/1\.[01] 400 Bad Request", head)
    assert body == b""
    assert b"marker" not in answer
    assert b"aiohttp" not in answer.lower()


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_a_token_of_9_kib_reaches_the_judgement(port: int) -> None:
    raw = f"GET /auth/status HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-tenant-token: {TENANT_TOKEN}\r\n"
    answer = await exchange(port, f"{raw}x-token: {'a' * 9000}\r\n\r\n".encode())
    assert b"INVALID_USER_TOKEN" in answer


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_a_header_that_never_ends_has_a_deadline(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "HEADER_DEADLINE_S", 0.05)
    assert await exchange(port, b"GET / HTTP/1.1\r\nhost: a\r\nx-slow: ") == b""


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_the_options_of_the_runner_take_effect(server: HttpServer) -> None:
    handler: Any = server.make_handler()
    assert handler._keepalive_timeout == http_server.KEEPALIVE_S
    assert isinstance(handler.access_logger, http_server.SentAnswers)
    assert server.runner._shutdown_timeout == http_server.SHUTDOWN_S


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_an_expectation_that_nobody_knows_is_not_echoed(port: int) -> None:
    answer = await exchange(port, b"GET /healthz HTTP/1.1\r\nhost: a\r\nexpect: marker\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 417 ")
    assert b"marker" not in answer


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_the_one_expectation_that_is_known_is_met(port: int) -> None:
    head = b"POST /dashboard/logout HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n"
    answer = await exchange(port, head + b"connection: close\r\n\r\nab")
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 400 ")


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_thousands_of_short_fields_are_well_within_32_kib(port: int) -> None:
    fields = b"".join(b"x%d: y\r\n" % i for i in range(4000))
    answer = await exchange(port, b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n" + fields + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("access", ["fake"], indirect=True)
@pytest.mark.parametrize("field", [b"cookie: rollcall=\xff", b"host: \xff", b"host: a:99999", b"host: a:b:c", b"host:"])
async def test_fields_that_are_no_text_or_no_host_are_no_error_of_ours(port: int, field: bytes) -> None:
    for path in (b"/dashboard", b"/dashboard/login", b"/auth/status"):
        raw = b"GET %s HTTP/1.1\r\nconnection: close\r\n%s\r\n\r\n" % (path, field)
        status = int((await exchange(port, raw)).split()[1])
        assert status in (200, 303, 400, 401)


async def test_a_client_that_asks_and_takes_no_answers_is_answered_no_further(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it does not take is kept in memory, so it is asked to take it before more is answered."""
    monkeypatch.setattr(http_server, "SEND_TIMEOUT_S", 0.2)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)  # else the kernel takes megabytes in its place
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
    _, writer = await asyncio.open_connection(sock=client, limit=1)
    writer.transport.set_write_buffer_limits(high=0)

    async def ask_for_ever() -> None:
        while True:
            writer.write(b"GET /auth/status HTTP/1.1\r\nhost: x\r\n\r\n" * 1000)
            await writer.drain()

    with pytest.raises(ConnectionError):  # hung up on, rather than answered into memory
        await asyncio.wait_for(ask_for_ever(), 60)
    writer.transport.abort()
