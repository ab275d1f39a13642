"""Requests that differ from earlier ones in a few fields only: they are answered as if they were read in full."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace

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
from service.web import app_keys
from service.web.server.head_reader import HeadReader
from service.web.server.http_server import HttpServer
from service.web.server.known_heads import KnownHeads
from tests.kit import TENANT_TOKEN, credentials, serving, settings, sign
from tests.web.connections import ASKED, ROUTES, Connection, about, asking, comparable

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


async def test_one_that_comes_again_is_not_read_in_full_either(proxied: Connection, parsed: list[bytes]) -> None:
    requests = [
        asking("/auth/status", credentials(f"u{number}") | {"x-forwarded-for": f"192.0.2.{number}"})
        for number in range(6)
    ]
    for visit in range(4):
        for number, request in enumerate(requests):
            answer = await proxied.ask(request)
            assert f'"userId": "u{number}"'.encode() in answer
            assert f'"status-ip";r={999 - visit};'.encode() in answer
    assert len(parsed) == 2


async def test_the_same_bytes_from_two_proxies_are_not_read_in_full_for_each(
    server: HttpServer, one: Connection, parsed: list[bytes]
) -> None:
    requests = [asking("/auth/status", credentials(f"u{number}")) for number in range(3)]
    async for other in connected(server, "127.0.0.3"):
        for visit in range(6):
            for number, request in enumerate(requests):
                for each in (one, other):
                    answer = await each.ask(request)
                    assert f'"userId": "u{number}"'.encode() in answer
                    assert f'"status-ip";r={999 - 3 * visit - number};'.encode() in answer
            if visit == 1:
                parsed.clear()
    assert not parsed


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


async def test_after_a_change_of_the_configuration_one_request_of_a_kind_is_read_in_full(
    server: HttpServer, one: Connection, parsed: list[bytes]
) -> None:
    requests = [asking("/auth/status", credentials(f"u{number}")) for number in range(6)]
    for request in requests:
        assert b" 200 OK" in await one.ask(request)
    assert len(parsed) == 2
    policy = server.runner.app[app_keys.REQUEST_SERVICES].policy
    policy.current = replace(policy.current)
    server._known_under = policy.current  # what was kept stays, as until the next look at it
    for request in requests * 2:
        assert b" 200 OK" in await one.ask(request)
    assert len(parsed) == 3


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


async def test_what_is_kept_of_a_request_is_its_own(proxied: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not what the request came to of which the template was made."""
    users = {f"user-{number}": sign(f"user-{number}", ttl_s=1000 + 1000 * number) for number in range(4)}
    ids = ["mine-0", "mine-1", TENANT_TOKEN, "with space"]  # the last two are replaced

    def request(number: int) -> bytes:
        own = {"x-token": users[f"user-{number}"], "x-request-id": ids[number]}
        return asking("/auth/status", credentials() | own | {"x-forwarded-for": f"192.0.2.{number}"})

    replaced = set()
    for visit in range(5):
        for number in range(4):
            answer = await proxied.ask(request(number))
            assert f'"userId": "user-{number}"'.encode() in answer
            assert f'"status-ip";r={999 - visit};'.encode() in answer
            request_id = answer.partition(b"x-request-id: ")[2].partition(b"\r\n")[0].decode()
            if number < 2:
                assert request_id == ids[number]
            else:
                assert request_id.startswith("req-")
                replaced.add(request_id)
    assert len(replaced) == 10
    now = time.time
    for ended in range(4):
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda ended=ended: now() + 1500 + 1000 * ended)
            for number in range(4):
                code = b"EXPIRED_USER_TOKEN" if number <= ended else b" 200 OK"
                assert code in await proxied.ask(request(number)), (ended, number)


@pytest.mark.parametrize("field", ["x-token", "Authorization"])
async def test_a_bad_token_is_refused_as_often_as_it_comes(one: Connection, field: str) -> None:
    scheme = "" if field == "x-token" else "Bearer "
    for number in range(3):
        good = {"x-tenant-token": TENANT_TOKEN, field: scheme + sign(f"user-{number}")}
        assert b" 200 OK" in await one.ask(asking("/auth/status", good))
    bad = {"x-tenant-token": TENANT_TOKEN, field: scheme + sign("alice", secret="another secret of 32 bytes or more")}
    for _ in range(5):
        assert b"INVALID_USER_TOKEN" in await one.ask(asking("/auth/status", bad))


async def test_requests_from_other_addresses_behind_a_proxy_count_for_these(proxied: Connection) -> None:
    for number in range(5):
        own = numbered(credentials(), number) | {"x-forwarded-for": f"192.0.2.{number}"}
        for left in (999, 998):
            assert f'"status-ip";r={left};'.encode() in await proxied.ask(asking("/auth/status", own))


FORWARDED = {
    "192.0.2.1": "192.0.2.1",
    "192.0.2.2:8080": "192.0.2.2",
    "203.0.113.9, 192.0.2.3": "192.0.2.3",
    "nonsense, 192.0.2.4": "192.0.2.4",
    "192.0.2.5, 127.0.0.2": "192.0.2.5",
    "127.0.0.2": "127.0.0.2",
    "192.0.2.6, nonsense": "127.0.0.2",
    "2001:db8::1": "2001:db8::/64",
    "[2001:db8::2]:443": "2001:db8::/64",
    "::ffff:192.0.2.7": "192.0.2.7",
    "fe80::1%eth0": "127.0.0.2",
    "1" * 400: "127.0.0.2",
}
"""What a proxy sends, and the client that it names."""


async def test_each_address_of_a_kind_of_request_is_read_like_that_of_the_first(
    server: HttpServer, proxied: Connection
) -> None:
    used: Counter[str] = Counter()
    problems: list[str] = []
    services = server.runner.app[app_keys.REQUEST_SERVICES]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services.metrics, "count_address_problem", problems.append)
        for number in range(2):
            await proxied.ask(asking("/auth/status", credentials() | {"x-forwarded-for": f"198.51.100.{number}"}))
        for _ in range(4):
            for line, client in FORWARDED.items():
                answer = await proxied.ask(asking("/auth/status", credentials() | {"x-forwarded-for": line}))
                used[client] += 1
                assert f'"status-ip";r={1000 - used[client]};'.encode() in answer, line
    assert problems == ["malformed"] * 4 * 3, "each is reported, as before"


async def test_an_address_that_no_proxy_forwards_decides_nothing(one: Connection) -> None:
    for number in range(6):
        own = credentials(f"u{number}") | {"x-forwarded-for": f"192.0.2.{number}"}
        assert f'"status-ip";r={999 - number};'.encode() in await one.ask(asking("/auth/status", own))


async def test_each_original_request_is_decided_by_its_own_rule(proxied: Connection, parsed: list[bytes]) -> None:
    paths = {"/api/x": b" 200 ", "/pay/x": b" 403 ", "/elsewhere": b" 403 ", "/open/x": b" 200 "}
    paths["/api/../pay/x"] = b" 403 "
    for number in range(3):
        for path, status in paths.items():
            headers = about("GET", f"{path}?{number}", credentials())
            assert status in (await proxied.ask(asking("/auth/verify/nginx", headers)))[:20], path
    assert len(parsed) == 2
