"""Requests hidden in requests: where a message ends is read in one way, or it is refused and hung up on.

Each attack hides a logout of alice's behind what mallory sends. It must never be taken for a request.
"""

from typing import Any

import pytest

from tests.attacks import raw_http as wire
from tests.attacks.conftest import Attack, Target, of
from tests.kit import sign

CHANGES: dict[str, Any] = {"limits": {"logout": [], "status": []}}


def lines(first: str, user: str, *more: bytes) -> bytes:
    """The head of a request of this user's, without the empty line at its end."""
    fields = [f"{name}: {value}" for name, value in of(sign(user))]
    return b"\r\n".join([first.encode(), b"host: rollcall", *(field.encode() for field in fields), *more, b""])


HIDDEN = lines("GET /auth/logout HTTP/1.1", "alice") + b"\r\n"
LAST = b"GET /healthz HTTP/1.1\r\nhost: rollcall\r\nconnection: close\r\n\r\n"
CL, TE = b"content-length: %d", b"transfer-encoding: chunked"
END = b"0\r\n\r\n"


def mallory(*more: bytes, body: bytes = b"", first: str = "POST /auth/logout HTTP/1.1") -> bytes:
    """Mallory's request, with these fields and this body."""
    return lines(first, "mallory", *more) + b"\r\n" + body


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


AMBIGUOUS: dict[str, bytes] = {
    "length and chunks": mallory(CL % 5, TE, body=END),
    "chunks and length": mallory(TE, CL % 5, body=END),
    "chunks and length 0": mallory(TE, CL % 0, body=END),
    "two lengths": mallory(CL % 3, CL % 5, body=b"abc"),
    "the same length twice": mallory(CL % 3, CL % 3, body=b"abc"),
    "a list of lengths": mallory(b"content-length: 3, 3", body=b"abc"),
    "a list of other lengths": mallory(b"content-length: 3, 300", body=b"abc"),
    "a negative length": mallory(CL % -3, body=b"abc"),
    "a signed length": mallory(b"content-length: +3", body=b"abc"),
    "a length in hexadecimal": mallory(b"content-length: 0x3", body=b"abc"),
    "a length in full width": mallory("content-length: \uff13".encode(), body=b"abc"),
    "a length with a blank": mallory(b"content-length: 3 3", body=b"abc"),
    "a length with an underscore": mallory(b"content-length: 1_0", body=b"abc"),
    "a length with a point": mallory(b"content-length: 3.0", body=b"abc"),
    "a length of nothing": mallory(b"content-length:"),
    "a length of 2**64 + 3": mallory(CL % (2**64 + 3), body=b"abc"),
    "a length of 10**30": mallory(CL % 10**30, body=b"abc"),
    "a length in quotes": mallory(b'content-length: "3"', body=b"abc"),
    "a length with a blank before its colon": mallory(b"content-length : 3", body=b"abc"),
    "a length with a null": mallory(b"content-length: 3\0", body=b"abc"),
    "xchunked": mallory(b"transfer-encoding: xchunked", body=END),
    "chunked, then another": mallory(b"transfer-encoding: chunked, x", body=END),
    "chunked, then identity": mallory(b"transfer-encoding: chunked, identity", body=END),
    "identity": mallory(b"transfer-encoding: identity"),
    "identity and a length": mallory(b"transfer-encoding: identity", CL % 3, body=b"abc"),
    "chunked twice": mallory(TE, TE, body=END),
    "chunked, chunked": mallory(b"transfer-encoding: chunked, chunked", body=END),
    "chunked and identity": mallory(TE, b"transfer-encoding: identity", body=END),
    "identity and chunked": mallory(b"transfer-encoding: identity", TE, body=END),
    "chunked with a blank before its colon": mallory(b"transfer-encoding : chunked", body=END),
    "chunked with a vertical tab": mallory(b"transfer-encoding:\x0bchunked", body=END),
    "chunked with a null": mallory(b"transfer-encoding: chunked\0", body=END),
    "chunked in quotes": mallory(b'transfer-encoding: "chunked"', body=END),
    "chunked with a parameter": mallory(b"transfer-encoding: chunked;q=1", body=END),
    "chunked with a comma": mallory(b"transfer-encoding: chunked,", body=END),
    "chunked in other letters": mallory("transfer-encoding: chun\u212aed".encode(), body=END),
    "chunked after a blank": mallory(b" transfer-encoding: chunked", body=END),
    "chunked on a folded line": mallory(b"transfer-encoding:", b" chunked", body=END),
    "chunked on another field's line": mallory(b"x: y", b"\ttransfer-encoding: chunked", body=END),
    "chunked behind a carriage return": mallory(b"x: y\rtransfer-encoding: chunked", body=END),
    "chunked behind a line feed": mallory(b"x: y\ntransfer-encoding: chunked", body=END),
    "chunked of HTTP/1.0": mallory(TE, body=END, first="POST /auth/logout HTTP/1.0"),
    "a chunk of negative size": mallory(TE, body=b"-3\r\nabc\r\n" + END),
    "a chunk of size 0x3": mallory(TE, body=b"0x3\r\nabc\r\n" + END),
    "a chunk of no size": mallory(TE, body=b"\r\nabc\r\n" + END),
    "a chunk of size 2**64 + 3": mallory(TE, body=b"10000000000000003\r\nabc\r\n" + END),
    "a chunk with a blank": mallory(TE, body=b"3 \r\nabc\r\n" + END),
    "a chunk with more than its size": mallory(TE, body=b"3\r\nabcde\r\n" + END),
    "chunks with line feeds alone": mallory(TE, body=b"3\nabc\n0\n\n"),
    "a chunk's extension with a line feed": mallory(TE, body=b"3;a\nb\r\nabc\r\n" + END),
    "a chunk's extension with a carriage return": mallory(TE, body=b"3;a\rb\r\nabc\r\n" + END),
    "a length behind the chunks": mallory(TE, body=b"0\r\ncontent-length: 500\r\n\r\n"),
    "chunks behind the chunks": mallory(TE, body=b"0\r\ntransfer-encoding: chunked\r\n\r\n"),
    "line feeds alone": mallory(CL % 3, body=b"abc").replace(b"\r\n", b"\n"),
    "a line feed alone at the end of the head": mallory(CL % 0)[:-2] + b"\n",
    "carriage returns alone": mallory(CL % 3).replace(b"\r\n", b"\r"),
    "a line without a colon": mallory(b"content-length 3"),
    "a field without a name": mallory(b": 3"),
    "a field's name with a null": mallory(b"content\0-length: 3"),
    "a field's name with a blank": mallory(b"content length: 3"),
    "a field's name in brackets": mallory(b"content(length): 3"),
    "two hosts": mallory(b"host: other"),
    "no host": mallory().replace(b"host: rollcall\r\n", b""),
    "a null in the address": mallory(first="POST /auth/logout\0 HTTP/1.1"),
    "a line break in the address": mallory(first="POST /auth/logout\r\n HTTP/1.1"),
    "a tab for a blank": mallory(first="POST\t/auth/logout\tHTTP/1.1"),
    "HTTP/1.2": mallory(first="POST /auth/logout HTTP/1.2"),
    "HTTP/2.0": mallory(first="POST /auth/logout HTTP/2.0"),
    "HTTP/1.1 and more": mallory(first="POST /auth/logout HTTP/1.1 x"),
    "a method that nobody knows": mallory(CL % len(HIDDEN), body=HIDDEN, first="BREW /auth/logout HTTP/1.1"),
    "a method in small letters": mallory(CL % 3, body=b"abc", first="post /auth/logout HTTP/1.1"),
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "6,000 fields": mallory(*(b"x%d: y" % number for number in range(6000))),
}  # fmt: skip

OTHER_THAN_400 = {"HTTP/1.2": 505, "HTTP/2.0": 505, "the preface of HTTP/2": 505, "6,000 fields": 431}

SWALLOWED: dict[str, bytes] = {
    "in a body": mallory(CL % len(HIDDEN), body=HIDDEN),
    "in a chunk": mallory(TE, body=chunk(HIDDEN) + END),
    "in many chunks": mallory(TE, body=b"".join(chunk(HIDDEN[at : at + 7]) for at in range(0, len(HIDDEN), 7)) + END),
    "in a chunk's extension": mallory(TE, body=b"1;" + b"x" * 100 + b"\r\na\r\n" + END),
    "in the body of GET": mallory(CL % len(HIDDEN), body=HIDDEN, first="GET /auth/status HTTP/1.1"),
    "in the chunks of GET": mallory(TE, body=chunk(HIDDEN) + END, first="GET /auth/status HTTP/1.1"),
    "in the body of HEAD": mallory(CL % len(HIDDEN), body=HIDDEN, first="HEAD /auth/status HTTP/1.1"),
    "in the body of DELETE": mallory(CL % len(HIDDEN), body=HIDDEN, first="DELETE /auth/status HTTP/1.1"),
    "in the body of CONNECT": mallory(CL % len(HIDDEN), body=HIDDEN, first="CONNECT rollcall:80 HTTP/1.1"),
    "in the body of what is not there": mallory(CL % len(HIDDEN), body=HIDDEN, first="POST /nothing HTTP/1.1"),
    "in a body that was asked for": mallory(b"expect: 100-continue", CL % len(HIDDEN), body=HIDDEN),
    "in a body whose length is a connection option": mallory(
        b"connection: content-length", CL % len(HIDDEN), body=HIDDEN
    ),
    "in a body of another coding": mallory(b"content-encoding: chunked", CL % len(HIDDEN), body=HIDDEN),
    "in a body, the length in capitals": mallory(b"CONTENT-LENGTH:\t%d\t" % len(HIDDEN), body=HIDDEN),
    "in a body, the chunks underscored": mallory(b"transfer_encoding: chunked", CL % len(HIDDEN), body=HIDDEN),
    "in chunks of another coding first": mallory(b"transfer-encoding: x, chunked", body=chunk(HIDDEN) + END),
    "in a body of an upgrade": mallory(b"connection: upgrade", b"upgrade: websocket", CL % len(HIDDEN), body=HIDDEN),
    "behind the last field of the chunks": mallory(TE, body=b"0\r\nx-tenant-token: other\r\n\r\n"),
}


HUNG_UP_ON = ("in the body of CONNECT", "in a body of an upgrade")
"""What comes after these may as well not be read."""


@pytest.mark.parametrize("name", AMBIGUOUS)
async def test_what_may_be_read_in_two_ways_is_refused_and_the_rest_is_not_read(
    target: Target, attack: Attack, name: str
) -> None:
    answers = await target.exchange(AMBIGUOUS[name] + HIDDEN + LAST)
    attack(name, " ".join(map(str, wire.statuses(answers))))
    assert wire.statuses(answers) == [OTHER_THAN_400.get(name, 400)], "one answer, and hung up"
    assert answers.partition(b"\r\n\r\n")[2] == b"", "nothing is echoed"
    assert not any("alice" in key for key in await target.keys())


@pytest.mark.parametrize("name", SWALLOWED)
async def test_a_body_is_swallowed_whatever_it_looks_like_and_the_next_request_is_the_next(
    target: Target, attack: Attack, name: str
) -> None:
    answers = await target.exchange(SWALLOWED[name] + LAST)
    statuses = [status for status in wire.statuses(answers) if status != 100]
    attack(name, " ".join(map(str, statuses)))
    assert statuses[0] in (200, 404, 405)
    assert statuses[1:] == ([] if name in HUNG_UP_ON and len(statuses) == 1 else [200])
    assert answers.count(b'{"status": "ok"}') == len(statuses) - 1, "the last answer is the last request's"
    assert not any("alice" in key for key in await target.keys())


async def test_a_hidden_request_that_is_none_is_answered(target: Target) -> None:
    """Otherwise the tests above would prove nothing: two requests on one connection are two."""
    answers = await target.exchange(mallory(CL % 3, body=b"abc") + HIDDEN + LAST)
    assert wire.statuses(answers) == [200, 200, 200]
    assert "rc:{acme}:u:alice" in await target.keys()


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
async def test_an_upgrade_is_not_made_and_what_follows_is_answered_or_hung_up_on(
    target: Target, attack: Attack, protocol: str
) -> None:
    fields = [b"connection: upgrade, http2-settings", b"upgrade: " + protocol.encode(), b"http2-settings: AAMAAABkAAQ"]
    answers = await target.exchange(mallory(*fields, first="GET /auth/status HTTP/1.1") + LAST)
    statuses = wire.statuses(answers)
    attack(f"upgrade to {protocol}", " ".join(map(str, statuses)))
    assert statuses in ([200], [200, 200])
    assert b"101" not in answers.partition(b"\r\n")[0]
