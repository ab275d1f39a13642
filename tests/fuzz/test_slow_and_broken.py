"""Requests that never come whole, and some that were once answered wrongly: at the port of a real process."""

import asyncio
import gzip

import pytest

from service.web.server.http_server import HEADER_DEADLINE_S
from tests.fuzz.conftest import OPERATORS, complaints
from tests.fuzz.making import Known
from tests.fuzz.raw_http import NotHttp, Plan, answers_in, converse
from tests.kit import TENANT_TOKEN, Service

pytestmark = [pytest.mark.slow, pytest.mark.real_redis]
PATIENCE_S = HEADER_DEADLINE_S + 3
OPERATOR = f"host: a\r\nauthorization: Bearer {OPERATORS[0]}\r\n".encode()
REVOKE = b"PUT /admin/v1/tenants/acme/users/u1/revocation HTTP/1.1\r\n" + OPERATOR
LISTEN = b"GET /admin/v1/events?tenant=acme HTTP/1.1\r\n" + OPERATOR
PACKED = gzip.compress(b"a" * 300_000)


def login(known: Known, how: bytes, body: bytes = b"", charset: bytes = b"utf-8") -> bytes:
    """A form from the login page, with the header lines of `how`."""
    about = b"content-type: application/x-www-form-urlencoded; charset=" + charset
    head = f"POST /dashboard/login HTTP/1.1\r\nhost: a\r\ncookie: {known.cookie}\r\n".encode()
    return b"%s%s\r\n%s\r\n\r\n%s" % (head, about, how, body)


def user(known: Known) -> bytes:
    return f"host: a\r\nx-tenant-token: {TENANT_TOKEN}\r\nx-token: {known.user_tokens[0]}\r\n".encode()


def unfinished(known: Known) -> dict[str, list[bytes]]:
    """What is sent, piece by piece, and then no more."""
    terminate = b"POST /auth/terminate HTTP/1.1\r\n" + user(known)
    logout = b"POST /auth/logout HTTP/1.1\r\n" + user(known)
    return {
        "nothing": [b""],
        "half a line": [b"GET / HT"],
        "half a header": [b"GET / HTTP/1.1\r\nhost: a\r\nx: "],
        "a body that never comes": [REVOKE + b"content-length: 100\r\n\r\n"],
        "half a body": [REVOKE + b"content-length: 100\r\n\r\n{"],
        "a body that was waited with": [REVOKE + b"expect: 100-continue\r\ncontent-length: 100\r\n\r\n"],
        "half a chunk": [REVOKE + b"transfer-encoding: chunked\r\n\r\n5\r\nab"],
        "half a trailer": [REVOKE + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"],
        "a chunk that goes wrong": [REVOKE + b"transfer-encoding: chunked\r\n\r\n5\r\nhel", b"loXXzz\r\n\r\n"],
        "half a form": [login(known, b"content-length: 100", b"csrf=")],
        "half a chunk of a form": [login(known, b"transfer-encoding: chunked", b"5\r\nab")],
        "a way to nowhere": [b"CONNECT \r\n\r\n"],
        "a user's half": [terminate + b"content-length: 100\r\n\r\n{"],
        "half of what nobody reads": [logout + b"content-length: 100\r\n\r\n{"],
        "half a packed body": [REVOKE + b"content-encoding: gzip\r\ncontent-length: 99999\r\n\r\n" + PACKED[:50]],
    }


async def test_what_never_comes_whole_is_answered_or_hung_up_on_within_the_deadline(
    service: Service, known: Known
) -> None:
    cases = unfinished(known)
    plans = [Plan(pieces, paced=True, patience_s=PATIENCE_S) for pieces in cases.values()]
    reported = await asyncio.gather(*(converse(service.port, plan) for plan in plans))
    final = [[one for one in answers_in(it.data, whole=not it.reset) if one.status != 100] for it in reported]
    hang = [what for what, it, answers in zip(cases, reported, final, strict=True) if it.left_open and not answers]
    assert not hang
    assert not complaints(service)


async def test_what_was_once_answered_500_or_in_pieces_is_answered(service: Service, known: Known) -> None:
    """And nothing of it is a failure to the log."""
    csrf = f"csrf={known.csrf}&token=".encode()
    form = b"content-length: %d" % (len(csrf) + 5)
    packed = b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n%s"
    cases = {
        "a body that is not packed as it says": REVOKE + packed % (10, b"0123456789"),
        "one that nobody reads": b"GET /auth/status HTTP/1.1\r\n" + user(known) + packed % (10, b"0123456789"),
        "one that is packed, and long": REVOKE + packed % (len(PACKED), PACKED),
        "a form in UTF-7": login(known, form, csrf + b"+2AA-", b"utf-7"),
        "a form in escapes": login(
            known, b"content-length: %d" % (len(form) + 6), form + rb"\ud800", b"unicode_escape"
        ),
        "an event by digits of another script": LISTEN + "last-event-id: \u0661-\u0661\r\n\r\n".encode(),
        "a version that is not ours": b"GET /dashboard HTTP/2.0\r\nhost: a\r\n\r\n",
        "no version": b"GET /dashboard\r\n\r\n",
        "a way to nowhere, behind another request": b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\nCONNECT \r\n\r\n",
    }
    reported = await asyncio.gather(*(converse(service.port, Plan([raw], "listen")) for raw in cases.values()))
    wrong = {}
    for what, it in zip(cases, reported, strict=True):
        try:
            answers_in(it.data, whole=False)
        except NotHttp as error:
            wrong[what] = str(error)
    assert not wrong
    assert not complaints(service)


async def test_whoever_hangs_up_while_sending_is_no_failure(service: Service, known: Known) -> None:
    plans = []
    for raw in (
        REVOKE + b"content-length: 100\r\n\r\n{",
        login(known, b"content-length: 100", b"csrf="),
        LISTEN + b"\r\n",
    ):
        plans += [Plan([raw, b""], "abort", paced=True), Plan([raw], "abort")] * 20
    await asyncio.gather(*(converse(service.port, plan) for plan in plans))
    assert not complaints(service)


async def test_a_stream_says_who_serves_it_as_every_answer_does(service: Service) -> None:
    reported = await converse(service.port, Plan([LISTEN + b"\r\n"], "listen"))
    answers_in(reported.data, whole=False)
    assert b"\r\nevent: ready\r\n" in reported.data
