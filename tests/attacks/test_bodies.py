"""Bodies that are bombs, lies or nonsense: refused with 400 or 413, in bounded memory, and nothing is done."""

import asyncio
import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from service.web.server import http_server
from tests.attacks import raw_http as wire
from tests.attacks.conftest import Attack, Target, of
from tests.attacks.operating import FORM, bearer, log_in, stranger
from tests.kit import OPERATOR_TOKEN, Answer, sign

CHANGES: dict[str, Any] = {"limits": {"admin": [], "login": [], "terminate": []}}
ALICE = sign("alice")
AT = "/admin/v1/tenants/acme"
MUCH = 16 * 1024 * 1024
BOUND = 4 * 1024 * 1024
"""Bytes that an attack may cost, the attacker's own included."""


def deflated(content: bytes, window_bits: int = zlib.MAX_WBITS) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, window_bits)
    return packer.compress(content) + packer.flush()


@dataclass(frozen=True)
class Body:
    """What is sent, and as what."""

    content: bytes
    encoding: str = ""

    @property
    def fields(self) -> list[tuple[str, str]]:
        """The field that says what it is packed by."""
        return [("content-encoding", self.encoding)] if self.encoding else []


GOOD = json.dumps({"users": ["alice"]}).encode()
BODIES: dict[str, Callable[[], Body]] = {
    "gzip bomb": lambda: Body(gzip.compress(bytes(MUCH)), "gzip"),
    "gzip bomb of JSON": lambda: Body(gzip.compress(b"[" * MUCH), "gzip"),
    "deflate bomb": lambda: Body(deflated(bytes(MUCH)), "deflate"),
    "raw deflate bomb": lambda: Body(deflated(bytes(MUCH), -zlib.MAX_WBITS), "deflate"),
    "gzip bomb in gzip": lambda: Body(gzip.compress(gzip.compress(bytes(MUCH))), "gzip"),
    "gzip bomb, packed twice": lambda: Body(gzip.compress(gzip.compress(bytes(MUCH))), "gzip, gzip"),
    "gzip bomb in 1,000 pieces": lambda: Body(gzip.compress(bytes(64 * 1024)) * 1000, "gzip"),
    "gzip bomb as GZIP": lambda: Body(gzip.compress(bytes(MUCH)), "GZIP"),
    "gzip bomb as x-gzip": lambda: Body(gzip.compress(bytes(MUCH)), "x-gzip"),
    "gzip bomb as itself": lambda: Body(gzip.compress(bytes(MUCH)), "identity"),
    "no gzip": lambda: Body(b"nothing of the kind", "gzip"),
    "no deflate": lambda: Body(b"nothing of the kind", "deflate"),
    "gzip with a wrong checksum": lambda: Body(gzip.compress(GOOD)[:-8] + bytes(8), "gzip"),
    "gzip's first bytes": lambda: Body(gzip.compress(GOOD)[:10], "gzip"),
    "no brotli": lambda: Body(b"nothing of the kind", "br"),
    "no zstd": lambda: Body(b"nothing of the kind", "zstd"),
    "100,000 lists": lambda: Body(b"[" * 100_000),
    "100,000 closed lists": lambda: Body(b"[" * 50_000 + b"]" * 50_000),
    "40,000 objects": lambda: Body(b'{"a":' * 40_000),
    "a reason of 40,000 lists": lambda: Body(b'{"reason":' + b"[" * 40_000),
    "a reason of 200 kB": lambda: Body(b'{"reason":"' + b"x" * 200_000 + b'"}'),
    "a reason of 300 kB": lambda: Body(b'{"reason":"' + b"x" * 300_000 + b'"}'),
    "a name of 200 kB": lambda: Body(b'{"' + b"x" * 200_000 + b'":1}'),
    "100,000 users": lambda: Body(b'{"users":[' + b'"a",' * 60_000 + b'"a"]}'),
    "20,000 members": lambda: Body(b"{" + b",".join(b'"a%d":1' % n for n in range(20_000)) + b"}"),
    "a number of 100,000 digits": lambda: Body(b'{"requests":' + b"9" * 100_000 + b',"window":60}'),
    "a number of 1e400": lambda: Body(b'{"requests":1e400,"window":60}'),
    "NaN": lambda: Body(b'{"requests":NaN,"window":60}'),
    "half a surrogate": lambda: Body(b'{"users":["\\ud800"],"reason":"\\udfff"}'),
    "no UTF-8": lambda: Body(b'{"reason":"\xff\xfe"}'),
    "overlong UTF-8": lambda: Body(b'{"reason":"\xc0\xae"}'),
    "UTF-16": lambda: Body('{"reason":"x"}'.encode("utf-16")),
    "NUL": lambda: Body(b'{"reason":"x\0"}'),
    "nothing but NULs": lambda: Body(bytes(1000)),
    "a prototype": lambda: Body(b'{"__proto__":{"mayChange":true},"constructor":1}'),
    "XML": lambda: Body(b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>'),
    "YAML": lambda: Body(b"!!python/object/apply:os.system ['true']"),
    "pickle": lambda: Body(b"cos\nsystem\n(S'true'\ntR."),
}


async def everywhere(target: Target) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Method, path and fields of whatever reads a body."""
    operator, browser, anonymous = (
        bearer(OPERATOR_TOKEN),
        await log_in(target, OPERATOR_TOKEN),
        await stranger(target),
    )
    return [
        ("POST", f"{AT}/users/alice/suspend", operator),
        ("POST", f"{AT}/sessions/terminate", operator),
        ("PUT", f"{AT}/limits/status-ip", operator),
        ("PUT", f"{AT}/revocation", operator),
        ("DELETE", f"{AT}/users/alice", operator),
        ("POST", "/dashboard/api/tenants/acme/users/alice/suspend", browser.acting()),
        ("POST", "/dashboard/login", [*anonymous.fields, FORM]),
        ("POST", "/dashboard/logout", [*browser.fields, FORM]),
        ("POST", "/auth/terminate", of(ALICE)),
    ]


@pytest.mark.parametrize("name", BODIES)
async def test_a_hostile_body_is_refused_in_bounded_memory_wherever_one_is_read(
    target: Target, attack: Attack, name: str
) -> None:
    assert (await target.ask(fields=of(ALICE))).status == 200
    before, body = await target.kept(), BODIES[name]()
    asked = await everywhere(target)
    answers = []
    tracemalloc.start()
    for method, path, fields in asked:
        answer = await wire.first(target.port, wire.request(method, path, [*fields, *body.fields], body.content))
        answers.append((path, answer.status))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    attack(name, " ".join(str(status) for status in sorted({status for _, status in answers})))
    assert {status for path, status in answers} <= {400, 403, 413}, answers
    assert [status for path, status in answers if status == 403 and "/log" not in path] == [], "a form has its token"
    assert peak < BOUND
    assert await target.kept() == before


@pytest.mark.parametrize("method_path", ["POST /admin/v1/tenants/acme/users/alice/suspend", "POST /dashboard/login"])
async def test_a_body_that_is_announced_larger_than_any_is_refused_once_it_is(
    target: Target, attack: Attack, method_path: str
) -> None:
    method, path = method_path.split()
    head = wire.request(method, path, [*bearer(OPERATOR_TOKEN), FORM, ("content-length", "10000000000")])
    chunked = wire.request(method, path, [*bearer(OPERATOR_TOKEN), FORM, ("transfer-encoding", "chunked")])
    for name, raw in {
        "10 GB announced": head + bytes(1_100_000),
        "chunks without end": chunked + (b"10000\r\n" + bytes(65_536) + b"\r\n") * 20,
    }.items():
        answer = await wire.first(target.port, raw)
        attack(f"{name}, {path.rpartition('/')[2]}", answer)
        assert answer.status == 413


async def test_a_body_that_never_comes_has_a_deadline(
    target: Target, attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "BODY_DEADLINE_S", 0.2, raising=False)

    async def waiting(path: str, announced: tuple[str, str], fields: wire.Fields) -> tuple[str, Answer | str]:
        raw = wire.request("POST", path, [*fields, announced])
        try:
            return path, await wire.first(target.port, raw + b"3\r\n{ ")
        except TimeoutError:
            return path, "waited for without end"

    asked = [one for one in await everywhere(target) if one[0] == "POST"]
    announced = [("content-length", "30"), ("transfer-encoding", "chunked")]
    answers = await asyncio.gather(*(waiting(path, how, fields) for _, path, fields in asked for how in announced))
    for path, answer in answers:
        attack(f"no body for {path.rpartition('/')[2]}", answer)
    assert {answer if isinstance(answer, str) else answer.status for _, answer in answers} <= {400, 408}


CHARSETS = ["unicode_escape", "raw_unicode_escape", "utf-7", "utf-16", "utf-32", "cp037", "hex", "zip", "idna", "rot13"]
CHARSETS += [
    "punycode",
    "undefined",
    "mbcs",
    "os.system",
    "../../etc/passwd",
    "utf-8\\0",
    "x" * 5000,
    "utf_8_sig",
    "uu",
]


@pytest.mark.parametrize("charset", CHARSETS)
@pytest.mark.parametrize("field", ["token", "next", "csrf", "x"])
async def test_a_form_in_a_charset_of_its_own_choice_is_no_error_of_ours(
    target: Target, attack: Attack, charset: str, field: str
) -> None:
    browser = await stranger(target)
    form = {"csrf": browser.csrf, "token": "guess", "next": "/dashboard", field: "\\ud800\\udfff\\x00"}
    if field == "csrf":
        form["csrf"] = f"{browser.csrf}\\ud800"
    body = "&".join(f"{name}={value}" for name, value in form.items()).encode()
    kind = ("content-type", f"application/x-www-form-urlencoded; charset={charset}")
    answer = await target.ask("POST", "/dashboard/login", [*browser.fields, kind], body)
    attack(f"{field} in {charset}", answer)
    assert answer.status in (400, 401, 403)
