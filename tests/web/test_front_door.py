"""The front door: what it refuses, on each request of a connection, and what it leaves to aiohttp."""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
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

BEFORE = {
    "first": b"",
    "second at the door": asking("/auth/status", credentials()),
    "second after the hand-over": asking("/healthz", {}),
}
"""What came before on the connection."""
CREDENTIALS = "".join(f"{name}: {value}\r\n" for name, value in credentials().items()).encode()


def hot(fields: bytes = b"", *, version: bytes = b"HTTP/1.1", target: bytes = b"/auth/status") -> bytes:
    return b"GET " + target + b" " + version + b"\r\nhost: a\r\n" + CREDENTIALS + fields + b"\r\n"


KIB = 1024
FIELDS = b"".join(b"x-%02d: %s\r\n" % (n, b"v" * (4 * KIB)) for n in range(8))
REFUSED: dict[str, tuple[bytes, int, str]] = {
    "HTTP/1.1 without Host": (b"GET /auth/status HTTP/1.1\r\nx: y\r\n\r\n", 400, "host"),
    "Host twice": (hot(b"Host: a\r\n"), 400, "host"),
    "Host twice in a head that does not end": (b"GET / HTTP/1.1\r\nhost: a\r\nhost: marker\r\nx", 400, "host"),
    "Content-Type twice": (hot(b"content-type: text/plain\r\nContent-Type: text/html\r\n"), 400, "repeated_field"),
    "target * with GET": (hot(target=b"*"), 400, "target"),
    "a target that begins with *": (hot(target=b"*?marker"), 400, "target"),
    "CONNECT without a target": (b"CONNECT \r\n\r\n", 505, "version"),
    "a target that is no URL": (hot(target=b"http://[::1]:x/marker"), 400, "target"),
    "a target over 16 KiB": (hot(target=b"/" + b"a" * 16 * KIB), 400, "target_too_long"),
    "a field over 16 KiB": (hot(b"x: " + b"marker" * 2731 + b"\r\n"), 431, "fields_too_large"),
    "a name over 16 KiB": (hot(b"x" * 16 * KIB + b": marker\r\n"), 431, "fields_too_large"),
    "fields over 32 KiB together": (hot(FIELDS), 431, "fields_too_large"),
    "a head that does not end": (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"v" * 65 * KIB, 431, "fields_too_large"),
    "HTTP/0.9": (hot(version=b"HTTP/0.9"), 505, "version"),
    "HTTP/2.0": (hot(version=b"HTTP/2.0"), 505, "version"),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "version"),
    "HTTP/9.9": (hot(version=b"HTTP/9.9"), 505, "version"),
    "a version that is none": (hot(version=b"HTTP/marker"), 400, "syntax"),
    "RTSP": (hot(version=b"RTSP/1.0"), 400, "protocol"),
    "RTSP behind white space": (hot(version=b" RTSP/1.0"), 400, "protocol"),
    "ICE": (b"SOURCE /marker ICE/1.0\r\nhost: a\r\n\r\n", 400, "protocol"),
    "an unknown expectation": (hot(b"expect: marker\r\n"), 417, "expectation"),
    "a field of an obsolete protocol": (hot(b"Sec-WebSocket-Key1: marker\r\n"), 400, "obsolete_field"),
    "no method": (b"marker / HTTP/1.1\r\nhost: a\r\n\r\n", 400, "method"),
    "a field without a colon": (hot(b"marker\r\n"), 400, "syntax"),
    "NUL in a field": (hot(b"x: mar\x00ker\r\n"), 400, "syntax"),
    "white space before a colon": (hot(b"marker : x\r\n"), 400, "syntax"),
    "two lengths": (hot(b"content-length: 1\r\ncontent-length: 2\r\n"), 400, "syntax"),
    "a coding of HTTP/1.0": (hot(b"transfer-encoding: chunked\r\n", version=b"HTTP/1.0"), 400, "syntax"),
    "length and coding": (hot(b"content-length: 1\r\ntransfer-encoding: chunked\r\n"), 400, "syntax"),
}
"""Input → status and reason."""


@dataclass
class Opened:
    """A connection, and the server that it is to."""

    server: HttpServer
    one: Connection

    async def ask_before(self, name: str) -> None:
        if before := BEFORE[name]:
            assert (await self.one.ask(before)).startswith(b"HTTP/1.1 200 OK")

    async def the_rest(self) -> bytes:
        return await asyncio.wait_for(self.one.reader.read(), 30)

    def counted(self, metric: str) -> float:
        text = self.server._services.metrics.text().decode()
        found = re.search(rf"^{re.escape(metric)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0


@pytest.fixture
async def opened(access: RedisAccess, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Opened]:
    monkeypatch.setattr(http_server, "CHECK_EVERY_S", 0.05)
    monkeypatch.setattr(front_door, "LINGER_S", 0.3)
    app = await asyncio.to_thread(make_app, settings(), access)
    async with serving(app) as (server, port):
        one = Connection(*await asyncio.open_connection("127.0.0.1", port))
        yield Opened(server, one)
        one.writer.close()


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("name", REFUSED)
async def test_what_the_service_does_not_read_gets_a_bare_status_on_each_request(
    opened: Opened, name: str, before: str
) -> None:
    request, status, reason = REFUSED[name]
    await opened.ask_before(before)
    with capture_logs() as logs:
        opened.one.writer.write(request)
        answer = await opened.the_rest()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert body == b""
    assert b"connection: close" in head
    assert b"marker" not in answer
    assert [(line["status"], line["reason"]) for line in logs if line["event"] == "not read as HTTP"] == [
        (status, reason)
    ]
    assert "marker" not in str(logs)
    assert opened.counted(f'rollcall_http_refusals_total{{reason="{reason}"}}') == 1


TAKEN: dict[str, tuple[list[bytes], bytes]] = {
    "white space after a value": (
        [hot().replace(b"x-token: ", b"x-token:  \t").replace(b"\r\n\r\n", b" \t\r\n\r\n")],
        b"200",
    ),
    "a target over two packets": ([b"GET /auth/st", hot()[len(b"GET /auth/st") :]], b"200"),
    "a value over two packets": ([hot()[:-30], hot()[-30:]], b"200"),
    "one byte at a time": ([bytes([byte]) for byte in hot()], b"200"),
    "fields of 31 KiB together": ([hot(FIELDS.replace(b"v" * 4 * KIB, b"v" * 3900))], b"200"),
    "a field of 15 KiB": ([hot(b"x: " + b"v" * 15 * KIB + b"\r\n")], b"200"),
    "trailer fields": (
        [hot(b"transfer-encoding: chunked\r\n") + b"0\r\nx-token: other\r\n\r\n"],
        b"200",
    ),
    "HTTP/1.0 without Host": ([b"GET /auth/status HTTP/1.0\r\n" + CREDENTIALS + b"\r\n"], b"200"),
    "an upgrade to another protocol": ([hot(b"connection: upgrade\r\nupgrade: h2c\r\n") + b"other"], b"200"),
    "CONNECT": ([b"CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n"], b"404"),
    "CONNECT with what is no request behind it": (
        [b"CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\nGET / x\r\n\r\n"],
        b"404",
    ),
    "absolute form": ([hot(target=b"http://a/auth/status")], b"200"),
    "a repeated field that is a list": ([hot(b"accept: a\r\naccept: b\r\n")], b"200"),
    "an expectation that is known": ([hot(b"expect: 100-continue\r\n")], b"200"),
    "empty lines before the request": ([b"\r\n\r\n" + hot()], b"200"),
    "HEAD": ([hot(target=b"/auth/logout").replace(b"GET", b"HEAD", 1)], b"405"),
}
"""Packets → the status of the answer."""


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("name", TAKEN)
async def test_what_is_http_is_answered_on_each_request(opened: Opened, name: str, before: str) -> None:
    packets, status = TAKEN[name]
    await opened.ask_before(before)
    opened.one.writer.transport.set_write_buffer_limits(high=0)
    for packet in packets:
        opened.one.writer.write(packet)
        await opened.one.writer.drain()
        await asyncio.sleep(0)
    head = await asyncio.wait_for(opened.one.reader.readuntil(b"\r\n\r\n"), 30)
    assert head.split()[1] == status


async def test_a_request_that_is_answered_without_its_body_is_not_told_to_send_one(access: RedisAccess) -> None:
    app = await asyncio.to_thread(make_app, settings(), access)
    targets = [b"/auth/verify", b"/auth/verify/caddy", b"/auth/verify/envoy/api", b"/auth/status", b"/auth/logout"]
    bodies = [b"", b"content-length: 9\r\n", b"transfer-encoding: chunked\r\n"]
    async with serving(app) as (_, port):
        for target, body, before in itertools.product(targets, bodies, BEFORE.values()):
            one = Connection(*await asyncio.open_connection("127.0.0.1", port))
            if before:
                await one.ask(before)
            one.writer.write(hot(b"expect: 100-continue\r\n" + body, target=target))
            head = await asyncio.wait_for(one.reader.readuntil(b"\r\n\r\n"), 30)
            one.writer.close()
            asked = f"{target!r}, {body!r} behind {before!r}"
            assert head.split()[1] in (b"200", b"400"), asked
            assert not body or b"\r\nconnection: close" in head.lower(), asked


@pytest.mark.parametrize("first", ["/auth/status", "/healthz"])
async def test_a_verify_by_head_has_no_body(access: RedisAccess, first: str) -> None:
    app = await asyncio.to_thread(make_app, settings(server={"trusted_proxies": ["127.0.0.1"]}), access)
    original = {"x-original-method": "GET", "x-original-uri": "/a"}
    async with serving(app) as (_, port):
        one = Connection(*await asyncio.open_connection("127.0.0.1", port))
        await one.ask(asking(first, credentials()))
        one.writer.write(asking("/auth/verify", credentials() | original, method="HEAD"))
        one.writer.write(asking("/healthz", {"connection": "close"}))
        head = await asyncio.wait_for(one.reader.readuntil(b"\r\n\r\n"), 30)
        assert re.search(rb"(?i)content-length: [1-9]", head)
        assert (await asyncio.wait_for(one.reader.read(8), 30)) in (b"HTTP/1.1", b"")
        one.writer.close()


@pytest.mark.parametrize("before", BEFORE)
async def test_a_head_that_is_half_sent_has_a_deadline(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    monkeypatch.setattr(http_server, "HEADER_DEADLINE_S", 0.2)
    await opened.ask_before(before)
    opened.one.writer.write(hot()[:-10])
    assert await opened.the_rest() == b""


async def test_a_client_that_says_nothing_is_disconnected(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "HEADER_DEADLINE_S", 0.2)
    assert await opened.the_rest() == b""


async def test_a_refused_client_that_goes_on_sending_reads_why_and_is_disconnected(opened: Opened) -> None:
    opened.one.writer.write(hot(FIELDS * 20) * 3)
    assert (await opened.the_rest()).startswith(b"HTTP/1.1 431 ")
    async with asyncio.timeout(30):
        while opened.server.connections:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("wrong", ["Host twice", "fields over 32 KiB together", "no method"])
async def test_a_refusal_waits_for_the_answers_that_aiohttp_owes(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    goes_on, asked = asyncio.Event(), asyncio.Event()
    decide = type(opened.server._services).decide

    async def waited(self: Any, question: Any) -> Any:
        asked.set()
        await goes_on.wait()
        return await decide(self, question)

    monkeypatch.setattr(type(opened.server._services), "decide", waited)
    opened.one.writer.write(asking("/healthz", {}) + asking("/auth/logout", credentials()))
    await opened.one.answer()
    await asked.wait()
    opened.one.writer.write(REFUSED[wrong][0])
    async with asyncio.timeout(30):
        while not any(door._pending for door in opened.server.connections):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    goes_on.set()
    answers = await opened.the_rest()
    first, _, rest = answers.partition(b'"success": true}}\n')
    assert first.startswith(b"HTTP/1.1 200 OK")
    assert rest.startswith(b"HTTP/1.1 %d " % REFUSED[wrong][1])
    assert b"connection: close\r\n" in rest
    assert b"marker" not in rest


async def test_a_body_that_is_not_well_formed_ends_the_connection(opened: Opened) -> None:
    head = b"POST /auth/terminate HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n" + CREDENTIALS
    opened.one.writer.write(head + b"content-type: application/json\r\n\r\n5\r\nhello\r\n")
    await asyncio.sleep(0.05)
    opened.one.writer.write(b"marker\r\n")
    answer = await opened.the_rest()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"marker" not in answer
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("path", ["/auth/status", "/healthz", "/auth/verify/traefik"])
async def test_a_client_that_has_closed_its_own_side_is_answered(opened: Opened, path: str) -> None:
    opened.one.writer.write(asking(path, credentials()))
    opened.one.writer.write_eof()
    assert (await opened.the_rest()).startswith(b"HTTP/1.1 ")


async def test_requests_are_counted_by_the_path_that_they_take(opened: Opened) -> None:
    for path in ("/auth/status", "/auth/status", "/healthz", "/healthz", "/auth/status"):
        await opened.one.ask(asking(path, credentials()))
    assert opened.counted('rollcall_http_requests_total{path="hot"}') == 2
    assert opened.counted('rollcall_http_requests_total{path="aiohttp"}') == 3
    assert await opened.the_rest() == b"", "a hot operation ends the connection that aiohttp has"


async def test_a_hot_operation_with_requests_behind_it_does_not_end_the_connection(opened: Opened) -> None:
    opened.one.writer.write(asking("/healthz", {}) + asking("/auth/status", credentials()) + asking("/healthz", {}))
    for _ in range(3):
        answer = await opened.one.answer()
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"connection: close" not in answer.lower()


async def test_a_request_behind_an_unauthenticated_one_is_refused_by_its_own_fault(opened: Opened) -> None:
    """The first answer is sent while its error is being handled; the next request is read within that."""
    unauthenticated = b"GET /auth/status HTTP/1.1\r\nhost: x\r\n\r\n"
    host_twice = b"GET /auth/status HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n"
    with capture_logs() as logs:
        opened.one.writer.write(unauthenticated + host_twice)
        answers = await opened.the_rest()
    assert re.findall(rb"HTTP/1\.1 (\d{3}) ", answers) == [b"401", b"400"]
    assert [line for line in logs if line["log_level"] == "error"] == []
