"""The hot path: the same answers as through aiohttp, and a connection that leaves nothing behind."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from service.app import make_app
from service.core.limits import LocalWindows
from service.core.operator_actions import Author
from service.core.sessions import Cause
from service.store.admissions import batcher
from service.store.admissions.batcher import Admissions
from service.store.connection.client import RedisAccess
from service.store.sessions.operator_actions import RedisOperatorActions
from service.web.api.authentication import Middlewares
from service.web.server import http_server
from service.web.server.front_door import FrontDoor
from service.web.server.hot_path import HotPath
from service.web.server.http_server import HttpServer
from service.web.server.request_head import RequestHead
from tests.kit import credentials, serving, settings
from tests.web.connections import ASKED, ROUTES, Connect, Connection, asking, comparable

pytestmark = pytest.mark.parametrize("access", ["fake", "real"], indirect=True)


@pytest.fixture
async def server(access: RedisAccess) -> AsyncIterator[HttpServer]:
    async with serving(await asyncio.to_thread(make_app, settings(**ROUTES), access)) as (server, _):
        yield server


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What took the hot path."""
    paths: list[str] = []
    enter = HotPath.enter

    def noted(self: HotPath, request: RequestHead, *rest: Any) -> bool:
        went = enter(self, request, *rest)
        if went:
            paths.append(request.raw_path)
        return went

    monkeypatch.setattr(HotPath, "enter", noted)
    return paths


@pytest.mark.parametrize("name", ASKED)
async def test_the_hot_path_and_aiohttp_answer_alike(
    connect: Connect, access: RedisAccess, taken: list[str], name: str
) -> None:
    await RedisOperatorActions(access.client).act("acme", ["eve"], Cause.SUSPEND, Author("root"))
    path, headers = ASKED[name]
    for _ in range(3 if name == "too many" else 1):
        await (await connect()).ask(asking("/auth/status", credentials("greedy")))
    taken.clear()
    hot = await (await connect()).ask(asking(path, headers))
    assert taken == [path]
    handed_over = await connect()
    await handed_over.ask(asking("/healthz", {}))
    through_aiohttp = await handed_over.ask(asking(path, headers))
    assert taken == [path], "aiohttp keeps a connection that it has"
    assert b"connection: close\r\n" in through_aiohttp.lower(), "the client's next connection begins at the door"

    assert comparable(hot) == comparable(through_aiohttp)


async def test_what_may_have_to_wait_for_more_than_redis_goes_through_aiohttp(
    connect: Connect, taken: list[str]
) -> None:
    who = credentials()
    for request in (
        asking("/auth/logout", who, version="1.0"),
        asking("/auth/logout", who | {"connection": "upgrade", "upgrade": "h2c"}),
        asking("/auth/logout", who | {"transfer-encoding": "chunked"}, method="POST") + b"0\r\n\r\n",
        asking("/auth/logout", who | {"content-length": "2"}, method="POST") + b"{}",
        asking("/healthz", {}),
        asking("/auth/logout?a=b", who),
    ):
        assert b" 200 OK" in (await (await connect()).ask(request))[:15], request[:40]
    assert taken == []


async def test_requests_of_one_packet_are_answered_in_their_order(connect: Connect) -> None:
    one = await connect()
    many = [asking("/auth/logout", credentials(f"u{n}") | {"x-request-id": f"id-{n}"}) for n in range(10)]
    many[5:5] = [asking("/healthz", {"x-request-id": "id-health"})]
    first = await one.ask(*many)
    rest = [await one.answer() for _ in range(10)]
    reported = [re.search(rb"x-request-id: (\S+)", answer, re.IGNORECASE)[1].decode() for answer in (first, *rest)]  # type: ignore[index]
    assert reported == [*(f"id-{n}" for n in range(5)), "id-health", *(f"id-{n}" for n in range(5, 10))]


async def test_hot_operations_of_one_packet_take_the_hot_path(connect: Connect, taken: list[str]) -> None:
    one = await connect()
    many = [asking("/auth/logout", credentials(f"u{n}") | {"x-request-id": f"id-{n}"}) for n in range(100)]
    sent = b"".join(many)
    one.writer.write(sent[:7000])
    await asyncio.sleep(0)
    one.writer.write(sent[7000:])
    for n in range(100):
        assert f"x-request-id: id-{n}\r\n".encode() in (await one.answer()).lower()
    assert len(taken) == 100


async def test_thousands_of_requests_that_need_no_redis_hold_up_nobody_else(
    access: RedisAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are answered one after the other, without recursion, and others have their turn in between."""
    async with serving(await asyncio.to_thread(make_app, settings(limits={}), access)) as (_, port):
        one, other = [Connection(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(2)]
        one.writer.write(asking("/auth/status", {}) * 3000)
        assert b" 401 " in await one.answer()
        assert b" 200 " in await other.ask(asking("/healthz", {}))
        for _ in range(2999):
            assert (await one.answer()).startswith((b"HTTP/1.1 401 ", b"HTTP/1.1 429 "))
        one.writer.close()
        other.writer.close()


async def test_nothing_behind_a_request_that_asks_to_close_is_answered(connect: Connect) -> None:
    one = await connect()
    last = asking("/auth/logout", credentials() | {"connection": "close"})
    one.writer.write(last + asking("/auth/logout", credentials("marker")))
    answers = await asyncio.wait_for(one.reader.read(), 30)
    assert answers.count(b"HTTP/1.1 200 OK") == answers.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answers


async def test_many_requests_behind_a_body_that_came_late_are_all_answered(connect: Connect) -> None:
    one = await connect()
    one.writer.write(asking("/healthz", {"content-length": "5"}, method="POST"))
    await one.answer()  # it does not wait for the body
    many = [asking("/auth/logout", credentials(f"u{n}") | {"x-request-id": f"id-{n}"}) for n in range(70)]
    one.writer.write(b"12345" + b"".join(many))
    for n in range(70):
        assert f"x-request-id: id-{n}\r\n".encode() in (await one.answer()).lower()


async def test_what_arrives_while_a_request_waits_is_answered_after_it(
    connect: Connect, server: HttpServer, taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, waits, goes_on = await connect(), asyncio.Event(), asyncio.Event()
    land = HotPath._land

    def landed(self: HotPath, *about: Any) -> None:
        waits.set()
        asyncio.ensure_future(goes_on.wait()).add_done_callback(lambda _: land(self, *about))

    monkeypatch.setattr(HotPath, "_land", landed)
    one.writer.write(asking("/auth/logout", credentials() | {"x-request-id": "first"}))
    await waits.wait()
    one.writer.write(asking("/auth/logout", credentials() | {"x-request-id": "second"}))
    one.writer.write(asking("/healthz", {"x-request-id": "third"}))
    async with asyncio.timeout(30):
        while not any(len(b"".join(door._unread).split(b" HTTP/1.1\r\n")) == 3 for door in server.connections):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    goes_on.set()
    for name in (b"first", b"second", b"third"):
        assert b"x-request-id: " + name in (await one.answer()).lower()
    assert taken == ["/auth/logout", "/auth/logout"]


def handlers() -> list[Any]:
    return [task for task in asyncio.all_tasks() if "RequestHandler" in str(task.get_coro())]


async def test_clients_that_hang_up_leave_nothing_behind(connect: Connect, server: HttpServer) -> None:
    for n in range(20):
        one = await connect()
        one.writer.write(asking("/auth/logout", credentials(f"u{n}")))
        if n % 2:
            await one.writer.drain()
        one.writer.transport.abort()
    async with asyncio.timeout(30):
        while handlers() or server.connections:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert b" 200 OK" in await (await connect()).ask(asking("/auth/logout", credentials()))


async def test_a_client_that_takes_no_answers_is_not_read_on(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "SEND_TIMEOUT_S", 0.05)
    one = await connect()
    real = FrontDoor._answered

    def paused(self: FrontDoor, *about: Any) -> None:
        real(self, *about)
        self.pause_writing()  # as the transport does when too much is unsent

    monkeypatch.setattr(FrontDoor, "_answered", paused)
    one.writer.write(asking("/auth/logout", credentials()))
    await one.answer()
    one.writer.write(asking("/auth/logout", credentials()))
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await one.answer()


@pytest.mark.parametrize("path", ["/auth/logout", "/healthz"])
async def test_a_connection_that_falls_silent_is_closed(
    access: RedisAccess, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(http_server, "CHECK_EVERY_S", 0.05)
    app = await asyncio.to_thread(make_app, settings(**ROUTES), access)
    async with serving(app, keepalive_timeout=0.2) as (_, port):
        one = Connection(*await asyncio.open_connection("127.0.0.1", port))
        for _ in range(3):
            assert b" 200 OK" in await one.ask(asking(path, credentials()))
        assert await asyncio.wait_for(one.reader.read(), 30) == b""
        one.writer.close()


async def test_a_mistake_of_ours_is_a_500_and_the_connection_goes_on(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await connect()
    with monkeypatch.context() as patch:
        patch.setattr(Middlewares, "settle", lambda *_: 1 / 0)
        assert b"INTERNAL_SERVER" in await one.ask(asking("/auth/logout", credentials()))
    assert b" 200 OK" in await one.ask(asking("/auth/logout", credentials()))


@pytest.mark.parametrize("step", ["begin", "question"])
async def test_a_mistake_before_redis_is_asked_is_answered_or_ends_the_connection(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    one = await connect()
    monkeypatch.setattr(Middlewares, step, lambda *_, **__: 1 / 0)
    one.writer.write(asking("/auth/logout", credentials()))
    answer = await asyncio.wait_for(one.reader.read(30 if step == "question" else -1), 30)
    assert answer.startswith(b"HTTP/1.1 500") if step == "question" else answer == b""


async def test_a_mistake_of_the_admission_is_a_500(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    one = await connect()
    with monkeypatch.context() as patch:
        patch.setattr(Admissions, "_queue_of", lambda *_: 1 / 0)
        assert b"INTERNAL_SERVER" in await one.ask(asking("/auth/logout", credentials()))
    with monkeypatch.context() as patch:
        patch.setattr(LocalWindows, "decide", lambda *_: 1 / 0)
        patch.setattr(batcher, "decode", lambda *_: 1 / 0)
        assert b"INTERNAL_SERVER" in await one.ask(asking("/auth/logout", credentials()))
    assert b" 200 OK" in await one.ask(asking("/auth/logout", credentials()))


async def test_an_error_while_answering_an_error_is_logged_and_ends_the_connection(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await connect()
    monkeypatch.setattr(Middlewares, "finish", lambda *_, **__: 1 / 0)
    with capture_logs() as logs:
        one.writer.write(asking("/auth/logout", credentials()))
        assert await asyncio.wait_for(one.reader.read(), 30) == b""
    assert [line["event"] for line in logs if line["log_level"] == "error"][-1] == "a request failed"


async def test_a_request_on_the_hot_path_is_answered_before_the_server_stops(
    connect: Connect, server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await connect()
    await one.ask(asking("/auth/logout", credentials()))
    stopping: list[asyncio.Task[None]] = []
    land = HotPath._land

    def landed(self: HotPath, *about: Any) -> None:
        if not stopping:  # the server begins to stop while the request waits for Redis
            stopping.append(asyncio.ensure_future(server.close()))
            asyncio.get_running_loop().call_later(0.05, land, self, *about)
        else:
            land(self, *about)

    monkeypatch.setattr(HotPath, "_land", landed)
    answer = await one.ask(asking("/auth/logout", credentials()))
    assert b" 200 OK" in answer
    assert b"connection: close\r\n" in answer
    await asyncio.wait_for(stopping[0], 30)
    assert not server.connections
