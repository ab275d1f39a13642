"""Requests that are sent ahead: each is answered in turn, up to the first that the service does not read."""

import asyncio
import json
import re

import pytest

from tests.kit import credentials
from tests.web.connections import Connection, asking
from tests.web.test_front_door import CREDENTIALS, REFUSED, Opened, hot
from tests.web.test_front_door import opened as opened

pytestmark = pytest.mark.parametrize("access", ["fake"], indirect=True)

BODY = json.dumps({"strategy": "soft"}).encode()
TERMINATE = b"POST /auth/terminate HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n" + CREDENTIALS
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
WITH_A_LENGTH = TERMINATE + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
IN_CHUNKS = TERMINATE + b"transfer-encoding: chunked\r\n\r\n" + CHUNKS
HEALTHZ, STATUS = asking("/healthz", {}), asking("/auth/status", credentials())

IN_FRONT: dict[str, tuple[bytes, list[int]]] = {
    "a hot operation": (STATUS, [200]),
    "another route": (HEALTHZ, [200]),
    "both": (HEALTHZ + STATUS + HEALTHZ, [200, 200, 200]),
    "both, the hot one last": (HEALTHZ + STATUS, [200, 200]),
    "a body with a length": (WITH_A_LENGTH, [201]),
    "a body in chunks": (IN_CHUNKS, [201]),
    "a body of a hot operation": (hot(b"content-length: 3\r\n") + b"abc", [200]),
    "bodies behind another route": (HEALTHZ + IN_CHUNKS + HEALTHZ, [200, 201, 200]),
}
"""Requests → the statuses of their answers."""
WRONG = ("Host twice", "fields over 32 KiB together", "HTTP/2.0", "no method")


def statuses(answers: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"(?:^|\n|})HTTP/1\.1 (\d{3}) ", answers)]


@pytest.mark.parametrize("before", ["", "/healthz"])
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", IN_FRONT)
async def test_the_requests_in_front_of_one_that_is_refused_are_answered_first(
    opened: Opened, name: str, wrong: str, before: str
) -> None:
    requests, expected = IN_FRONT[name]
    request, status, reason = REFUSED[wrong]
    if before:
        await opened.one.ask(asking(before, {}))
    opened.one.writer.write(requests + request)
    answers = await opened.the_rest()
    assert statuses(answers) == [*expected, status]
    assert b"marker" not in answers
    assert opened.counted(f'rollcall_http_refusals_total{{reason="{reason}"}}') == 1


@pytest.mark.parametrize("before", ["", "/healthz"])
@pytest.mark.parametrize("name", ["another route", "a body with a length", "a body in chunks", "a hot operation"])
async def test_a_request_that_asks_to_close_is_answered_and_what_follows_is_not_read(
    opened: Opened, name: str, before: str
) -> None:
    requests, expected = IN_FRONT[name]
    closing = requests.replace(b"\r\n", b"\r\nconnection: close\r\n", 1)
    if before:
        await opened.one.ask(asking(before, {}))
    opened.one.writer.write(closing + STATUS + b"marker / HTTP/1.1\r\nhost: a\r\n\r\n")
    assert statuses(await opened.the_rest()) == expected
    assert b"http_refusals_total{" not in opened.server._services.metrics.text()


async def test_a_request_in_front_of_a_broken_body_is_answered_first(opened: Opened) -> None:
    broken = TERMINATE + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\nmarker\r\n"
    opened.one.writer.write(HEALTHZ + broken)
    answers = await opened.the_rest()
    assert statuses(answers) == [200, 400]
    assert b"marker" not in answers


async def test_a_request_whose_body_is_broken_has_no_effect(opened: Opened) -> None:
    opened.one.writer.write(TERMINATE + b"transfer-encoding: chunked\r\n\r\n%x\r\n%bmarker" % (len(BODY), BODY))
    assert statuses(await opened.the_rest()) == [400]
    another = Connection(*await asyncio.open_connection(*opened.server.listeners[0].sockets[0].getsockname()))
    answer = await another.ask(asking("/auth/status", credentials() | {"x-passive": "true"}))
    another.writer.close()
    assert b'"status": "none"' in answer


@pytest.mark.parametrize("name", ["a hot operation", "another route", "a body with a length", "a body in chunks"])
@pytest.mark.parametrize("left", [1, 2, 3, 4, 5])
async def test_a_request_that_ends_in_the_packet_of_one_that_is_refused_is_answered_first(
    opened: Opened, name: str, left: int
) -> None:
    requests, expected = IN_FRONT[name]
    request, status, _ = REFUSED["Host twice"]
    opened.one.writer.write(requests[:-left])
    async with asyncio.timeout(30):
        while not any(door._reader.begun for door in opened.server.connections):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    opened.one.writer.write(requests[-left:] + request)
    assert statuses(await opened.the_rest()) == [*expected, status]
