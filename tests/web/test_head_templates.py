"""Requests that differ from earlier ones in a few fields only: they are answered as if they were read in full."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from service.app import make_app
from service.core.operator_actions import Author
from service.core.sessions import Cause
from service.core.tenants import Directory
from service.core.tokens.keys import Key
from service.core.tokens.verification import KeyRing
from service.store.connection.client import RedisAccess
from service.store.sessions.operator_actions import RedisOperatorActions
from service.web import api, app_keys
from service.web.server import known_heads
from service.web.server.head_reader import HeadReader
from service.web.server.head_templates import UNREAD, cut, template_of
from service.web.server.http_server import HttpServer
from service.web.server.known_heads import COST, COST_PER_BYTE, KnownHeads
from service.web.server.request_head import RequestHead
from tests.kit import TENANT_TOKEN, credentials, serving, settings, sign
from tests.web.test_hot_path import ASKED, ROUTES, Connection, about, asking, comparable

pytestmark = pytest.mark.parametrize("access", ["fake"], indirect=True)

PER_ADDRESS = {"status": [{"name": "status-ip", "per": "ip", "requests": 1000, "window": 3600}]}


@pytest.fixture
async def server(access: RedisAccess) -> AsyncIterator[HttpServer]:
    changed = {"limits": PER_ADDRESS, "server": {"trusted_proxies": ["127.0.0.2"]}}
    app = await asyncio.to_thread(make_app, settings(**ROUTES | changed), access)
    async with serving(app) as (server, _):
        yield server


async def connected(server: HttpServer, address: str) -> AsyncIterator[Connection]:
    port = server.listeners[0].sockets[0].getsockname()[1]
    made = Connection(*await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0)))
    yield made
    made.writer.close()


@pytest.fixture
async def one(server: HttpServer) -> AsyncIterator[Connection]:
    async for made in connected(server, "127.0.0.1"):
        yield made


@pytest.fixture
async def proxied(server: HttpServer) -> AsyncIterator[Connection]:
    """From a trusted proxy."""
    async for made in connected(server, "127.0.0.2"):
        yield made


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What was read in full."""
    found: list[bytes] = []
    read = HeadReader.read

    def noted(self: HeadReader, data: bytes) -> bytes:
        found.append(data)
        return read(self, data)

    monkeypatch.setattr(HeadReader, "read", noted)
    return found


def numbered(headers: dict[str, str], number: int) -> dict[str, str]:
    return headers | {"x-request-id": f"id-{number}", "traceparent": f"00-{number:032x}-{number:016x}-01"}


async def learned(one: Connection, path: str, headers: dict[str, str]) -> None:
    for number in range(2):
        await one.ask(asking(path, numbered(headers, number)))


@pytest.mark.parametrize("name", ASKED)
async def test_a_request_with_an_id_of_its_own_is_answered_like_one_that_is_read_in_full(
    server: HttpServer, access: RedisAccess, proxied: Connection, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    await RedisOperatorActions(access.client).act("acme", ["eve"], Cause.SUSPEND, Author("root"))
    path, headers = ASKED[name]
    answers = [await proxied.ask(asking(path, numbered(headers, number))) for number in range(5)]
    monkeypatch.setattr(KnownHeads, "similar", lambda *_: None)
    in_full = await proxied.ask(asking(path, numbered(headers, 5)))
    for number, answer in enumerate([*answers, in_full]):
        assert f"x-request-id: id-{number}\r\n".encode() in answer
        assert comparable(answer.replace(b"id-%d" % number, b"id")) == comparable(in_full.replace(b"id-5", b"id"))


async def test_only_the_first_two_of_a_kind_are_read_in_full(one: Connection, parsed: list[bytes]) -> None:
    for number in range(6):
        assert b" 200 OK" in await one.ask(asking("/auth/status", numbered(credentials(f"u{number}"), number)))
    assert len(parsed) == 2


async def test_another_spelling_is_another_kind(one: Connection, parsed: list[bytes]) -> None:
    for spelling in ("x-request-id", "X-Request-ID", "X-Request-Id"):
        parsed.clear()
        for number in range(4):
            assert b"x-request-id: id-" in await one.ask(
                asking("/auth/status", credentials() | {spelling: f"id-{spelling}-{number}"})
            )
        assert len(parsed) == 2, spelling


@pytest.mark.parametrize("field", ["x-token", "Authorization"])
async def test_each_request_is_the_one_of_the_user_whose_token_it_brings(one: Connection, field: str) -> None:
    scheme = "" if field == "x-token" else "Bearer "
    for number in range(6):
        token = scheme + sign(f"user-{number}")
        answer = await one.ask(asking("/auth/status", {"x-tenant-token": TENANT_TOKEN, field: token}))
        assert f'"userId": "user-{number}"'.encode() in answer


@pytest.mark.parametrize(
    ("token", "code"),
    [
        (sign("alice", exp=1000), b"EXPIRED_USER_TOKEN"),
        (sign("alice", secret="another secret of more than 32 bytes"), b"INVALID_USER_TOKEN"),
        (sign("alice")[:-4] + "AAAA", b"INVALID_USER_TOKEN"),
        (f"{sign('alice')} {sign('alice')}", b"INVALID_USER_TOKEN"),
        ("no.token.atall", b"INVALID_USER_TOKEN"),
        (sign("alice", tenant="globex"), b"INVALID_USER_TOKEN"),
    ],
)
async def test_a_bad_token_is_refused_in_the_place_of_a_good_one(one: Connection, token: str, code: bytes) -> None:
    await learned(one, "/auth/status", credentials())
    for _ in range(3):
        answer = await one.ask(asking("/auth/status", numbered(credentials() | {"x-token": token}, 7)))
        assert b" 401 " in answer
        assert code in answer


async def test_two_credentials_are_never_judged_apart(one: Connection) -> None:
    """A template with one of them would take the other for granted."""
    alice, bob = sign("alice"), sign("bob")
    for spelling in ("Authorization: Bearer ", "authorization:Bearer ", "AUTHORIZATION:  Bearer "):
        for number in range(4):
            lines = f"host: a\r\nx-request-id: {number}\r\nx-tenant-token: {TENANT_TOKEN}\r\n{spelling}{alice}\r\n"
            same = f"GET /auth/status HTTP/1.1\r\n{lines}x-token: {alice}\r\n\r\n".encode()
            other = f"GET /auth/status HTTP/1.1\r\n{lines}x-token: {bob}\r\n\r\n".encode()
            assert b" 200 OK" in await one.ask(same)
            assert b"INVALID_USER_TOKEN" in await one.ask(other)


@pytest.mark.parametrize(
    "bad", [sign("alice"), "a" * 129, "with space", 'q"uote', TENANT_TOKEN, f"x-{sign('bob')}"], ids=range(6)
)
async def test_an_id_that_is_not_well_formed_or_a_token_is_replaced(one: Connection, bad: str) -> None:
    await learned(one, "/auth/status", credentials())
    answer = await one.ask(asking("/auth/status", numbered(credentials(), 3) | {"x-request-id": bad}))
    assert b" 200 OK" in answer
    assert b"x-request-id: req-" in answer
    assert bad.encode() not in answer


async def test_an_id_that_is_sent_twice_is_replaced(one: Connection) -> None:
    for second in ("x-request-id: two", "x-request-id:two", "X-REQUEST-ID:  two"):
        for number in range(4):
            request = asking("/auth/status", credentials() | {"x-request-id": f"id-{number}"})
            answer = await one.ask(request[:-2] + f"{second}\r\n\r\n".encode())
            assert b"x-request-id: req-" in answer


async def test_a_kind_of_request_ends_with_the_configuration_that_it_was_judged_by(
    server: HttpServer, one: Connection
) -> None:
    await learned(one, "/auth/status", credentials())
    policy = server.runner.app[app_keys.REQUEST_SERVICES].policy
    before = policy.current
    policy.current = replace(before, directory=Directory([], before.directory.terms))
    assert b"INVALID_TENANT_TOKEN" in await one.ask(asking("/auth/status", numbered(credentials(), 2)))
    policy.current = before
    for number in range(3, 7):
        assert b" 200 OK" in await one.ask(asking("/auth/status", numbered(credentials(), number)))


async def test_a_new_configuration_leaves_no_template_in_memory(server: HttpServer, one: Connection) -> None:
    await learned(one, "/auth/status", credentials())
    assert len(server.known_heads) == 1
    policy = server.runner.app[app_keys.REQUEST_SERVICES].policy
    policy.current = replace(policy.current)
    async with asyncio.timeout(30):
        while len(server.known_heads):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_kind_of_request_is_judged_by_the_keys_of_now(server: HttpServer, one: Connection) -> None:
    await learned(one, "/auth/status", credentials())
    ring = server.runner.app[app_keys.REQUEST_SERVICES].policy.current.directory.tenants["acme"].ring
    assert isinstance(ring, KeyRing)
    own = ring._configured
    ring._configured = ()
    ring.replace_remote([Key("new", "EdDSA", Ed25519PrivateKey.generate().public_key())])
    for number in range(2, 5):
        assert b"INVALID_USER_TOKEN" in await one.ask(asking("/auth/status", numbered(credentials(), number)))
    ring._configured = own
    ring.replace_remote([])
    for number in range(5, 8):
        assert b" 200 OK" in await one.ask(asking("/auth/status", numbered(credentials(), number)))


async def test_a_token_that_ends_is_refused(one: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    who = credentials()
    await learned(one, "/auth/status", who)
    now = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: now() + 3700)
        for number in range(2, 5):
            assert b"EXPIRED_USER_TOKEN" in await one.ask(asking("/auth/status", numbered(who, number)))
    assert b" 200 OK" in await one.ask(asking("/auth/status", numbered(who, 5)))


async def test_requests_from_other_addresses_behind_a_proxy_count_for_these(proxied: Connection) -> None:
    for number in range(5):
        own = numbered(credentials(), number) | {"x-forwarded-for": f"192.0.2.{number}"}
        for left in (999, 998):
            assert f'"status-ip";r={left};'.encode() in await proxied.ask(asking("/auth/status", own))


async def test_each_original_request_is_decided_by_its_own_rule(proxied: Connection, parsed: list[bytes]) -> None:
    paths = {"/api/x": b" 200 ", "/pay/x": b" 403 ", "/elsewhere": b" 403 ", "/open/x": b" 200 "}
    paths["/api/../pay/x"] = b" 403 "
    for number in range(3):
        for path, status in paths.items():
            headers = about("GET", f"{path}?{number}", credentials())
            assert status in (await proxied.ask(asking("/auth/verify/nginx", headers)))[:20], path
    assert len(parsed) == 2


@pytest.mark.parametrize(
    "fields",
    [
        "x-request-id: a\r\n b",  # folded (RFC 9112, section 5.2)
        "x-request-id: a \tb",
        "x-request-id:  a",
        "x-request-id : a",
        "x-request-id: a\r\nX-Request-Id: b",
        "x-request-id: \xe4",
        "x-request-id: ",
    ],
)
def test_a_field_that_is_not_read_as_it_was_cut_makes_no_template(access: RedisAccess, fields: str) -> None:
    data = f"GET /auth/status HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n".encode("latin-1")
    reader = HeadReader("127.0.0.1")
    try:
        reader.read(data)
    except Exception:
        return  # it is refused
    found = cut(data)
    assert reader.head is not None
    template = None if found is None else template_of(found, reader.head)
    assert template is None or template.head.headers.getall("x-request-id", []) == []


def test_what_a_template_fills_in_is_what_the_parser_reads(access: RedisAccess) -> None:
    fields = ["x-token", "X-Request-ID", "x-forwarded-for", "X-Original-URI", "Authorization", "traceparent", "x"]

    def head_of(data: bytes) -> RequestHead:
        reader = HeadReader("127.0.0.1")
        reader.read(data)
        assert reader.head is not None
        return reader.head

    def request(tag: str, names: list[str]) -> bytes:
        values = {name: f"{tag} {name}, {tag}" for name in names} | {"x": "x"}
        if "Authorization" in names:
            values["Authorization"] = f"Bearer {tag}"
        lines = "".join(f"{name}: {values[name]}\r\n" for name in names)
        return f"GET /auth/status HTTP/1.1\r\nhost: a\r\n{lines}\r\n".encode()

    for first in range(len(fields)):
        names = fields[first:] + fields[:first]
        for left_out in ("x-token", "Authorization"):
            own = [name for name in names if name != left_out]
            one, other = request("one", own), request("other, longer", own)
            found, again = cut(one), cut(other)
            assert found is not None
            assert again is not None
            assert found.rest == again.rest
            template = template_of(found, head_of(one))
            assert template is not None
            filled, _ = template.fill(again.values)
            in_full = head_of(other)
            assert sorted(filled.headers.items()) == sorted((n.lower(), v) for n, v in in_full.headers.items())
            for name in ("method", "raw_path", "path", "keep_alive", "version", "remote", "can_be_hot"):
                assert getattr(filled, name) == getattr(in_full, name)


def test_no_step_of_a_request_reads_a_field_that_is_said_to_be_unread(access: RedisAccess) -> None:
    texts = [path.read_text().lower() for path in Path(api.__file__).parent.glob("*.py")]
    assert len(texts) > 10
    for name in UNREAD:
        assert not [text for text in texts if f'"{name.lower()}"' in text], name


def test_a_head_is_not_cut_where_a_value_might_end_it(access: RedisAccess) -> None:
    """Two requests of one packet, or a body that looks like a field, are not one head."""
    one = b"GET /a HTTP/1.1\r\nhost: a\r\nx-request-id: 1\r\n\r\n"
    found = cut(one)
    assert found is not None
    for other in (one + one, one + b"x", one[:-2], one.replace(b"1\r\n\r\n", b"1\n\r\n"), b"\r\n" + one):
        again = cut(other)
        assert again is None or again.rest != found.rest


def test_templates_are_bounded_and_the_oldest_are_forgotten_first(
    access: RedisAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def request(kind: int, number: int) -> bytes:
        return f"GET /{kind} HTTP/1.1\r\nhost: a\r\nx-request-id: {number}\r\n\r\n".encode()

    monkeypatch.setattr(known_heads, "MAX_TEMPLATE_BYTES", 3 * (COST + COST_PER_BYTE * len(request(1, 1))))
    heads = KnownHeads()
    for kind in range(4):
        for number in range(3):
            data = request(kind, number)
            reader = HeadReader("127.0.0.1")
            reader.read(data)
            assert reader.head is not None
            reader.head.judged = "judged"
            heads.learn(data, reader.head)
    assert [heads.similar(request(kind, 9), "127.0.0.1") is not None for kind in range(4)] == [False, True, True, True]
    assert heads.similar(request(3, 8), "127.0.0.2") is None


def test_with_more_users_than_heads_their_template_is_used_and_heads_are_renewed(access: RedisAccess) -> None:
    requests = [f"GET / HTTP/1.1\r\nhost: a\r\nx-token: {number}\r\n\r\n".encode() for number in range(40)]
    heads = KnownHeads(10 * (COST + COST_PER_BYTE * len(requests[-1])))
    read_in_full = []

    def ask(data: bytes) -> None:
        if heads.get(data) is not None or heads.similar(data, "127.0.0.1") is not None:
            return
        reader = HeadReader("127.0.0.1")
        reader.read(data)
        assert reader.head is not None
        reader.head.judged = "judged"
        heads.learn(data, reader.head)
        read_in_full.append(data)

    for _ in range(3):
        for data in requests:
            ask(data)
    assert all(heads.get(data) is None for data in requests[:2]), "the oldest have gone"
    read_in_full.clear()
    known = {data for data in requests if heads.get(data) is not None}
    for _ in range(40):
        for data in requests:
            ask(data)
    assert 0 < len(read_in_full) < 40 * len(requests) / 10
    assert {data for data in requests if heads.get(data) is not None} != known, "no head is kept for ever"
