"""Requests that came before, byte for byte: they are not read again, and are judged by what holds now."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

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
from service.web.server.http_server import HttpServer
from service.web.server.known_heads import COST, COST_PER_BYTE, KnownHeads
from service.web.server.request_head import RequestHead
from tests.kit import credentials, serving, settings
from tests.web.connections import ASKED, ROUTES, Connection, asking, comparable

pytestmark = pytest.mark.parametrize("access", ["fake"], indirect=True)

REPEATED = [name for name, (path, _) in ASKED.items() if path != "/auth/status"]
"""Those that no limit refuses after a few."""
PER_ADDRESS = {"status": [{"name": "status-ip", "per": "ip", "requests": 100, "window": 3600}]}


@pytest.fixture
async def server(access: RedisAccess) -> AsyncIterator[HttpServer]:
    app = await asyncio.to_thread(make_app, settings(**{**ROUTES, "limits": PER_ADDRESS}), access)
    async with serving(app) as (server, _):
        yield server


async def connected(server: HttpServer, **how: Any) -> Connection:
    port = server.listeners[0].sockets[0].getsockname()[1]
    return Connection(*await asyncio.open_connection("127.0.0.1", port, **how))


async def known(server: HttpServer, request: bytes) -> Connection:
    """A connection on which the request came so often that it is known, and judged."""
    one = await connected(server)
    for _ in range(4):
        assert b" 200 OK" in await one.ask(request)
    assert len(server.known_heads) == 1
    return one


@pytest.mark.parametrize("name", REPEATED)
async def test_each_of_the_same_requests_is_answered_like_the_first(
    server: HttpServer, access: RedisAccess, name: str
) -> None:
    await RedisOperatorActions(access.client).act("acme", ["eve"], Cause.SUSPEND, Author("root"))
    path, headers = ASKED[name]
    one = await connected(server)
    answers = [comparable(await one.ask(asking(path, headers))) for _ in range(6)]
    assert answers[1:] == answers[:1] * 5
    one.writer.close()


async def test_each_request_gets_an_id_of_its_own_or_the_one_that_it_sends(server: HttpServer) -> None:
    one = await connected(server)
    request = asking("/auth/status", credentials())
    ids = {(await one.ask(request)).partition(b"x-request-id: ")[2].partition(b"\r\n")[0] for _ in range(5)}
    assert len(ids) == 5
    mine = asking("/auth/status", credentials() | {"x-request-id": "mine"})
    for _ in range(5):
        assert b"x-request-id: mine\r\n" in await one.ask(mine)
    one.writer.close()


async def test_a_known_request_ends_with_its_token(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    request = asking("/auth/status", credentials())
    one = await known(server, request)
    now = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: now() + 3700)
        for _ in range(3):
            assert b"EXPIRED_USER_TOKEN" in await one.ask(request)
    assert b" 200 OK" in await one.ask(request)
    one.writer.close()


async def test_a_known_request_is_judged_by_the_configuration_of_now(server: HttpServer) -> None:
    request = asking("/auth/status", credentials())
    one = await known(server, request)
    policy = server.runner.app[app_keys.REQUEST_SERVICES].policy
    before = policy.current
    policy.current = replace(before, directory=Directory([], before.directory.terms))
    assert b"INVALID_TENANT_TOKEN" in await one.ask(request)
    policy.current = before
    assert b" 200 OK" in await one.ask(request)
    one.writer.close()


async def test_a_new_configuration_leaves_nothing_of_the_old_one_in_memory(server: HttpServer) -> None:
    one = await known(server, asking("/auth/status", credentials()))
    policy = server.runner.app[app_keys.REQUEST_SERVICES].policy
    policy.current = replace(policy.current)
    async with asyncio.timeout(30):
        while len(server.known_heads):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert b" 200 OK" in await one.ask(asking("/auth/status", credentials()))
    one.writer.close()


async def test_a_known_request_is_judged_by_the_keys_of_now(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asking("/auth/status", credentials())
    one = await known(server, request)
    ring = server.runner.app[app_keys.REQUEST_SERVICES].policy.current.directory.tenants["acme"].ring
    monkeypatch.setattr(Key, "verifies", lambda *_: False)  # as if the key that verified the token were gone
    assert b" 200 OK" in await one.ask(request)
    assert isinstance(ring, KeyRing)
    ring.replace_remote([Key("new", "EdDSA", Ed25519PrivateKey.generate().public_key())])
    assert b"INVALID_USER_TOKEN" in await one.ask(request)
    one.writer.close()


async def test_a_known_request_of_a_user_who_is_suspended_is_refused(server: HttpServer, access: RedisAccess) -> None:
    request = asking("/auth/status", credentials())
    one = await known(server, request)
    await RedisOperatorActions(access.client).act("acme", ["alice"], Cause.SUSPEND, Author("root"))
    assert b"USER_SUSPENDED" in await one.ask(request)
    one.writer.close()


async def test_the_same_request_from_another_address_counts_for_that_address(server: HttpServer) -> None:
    request = asking("/auth/status", credentials())
    one = await known(server, request)
    assert b'"status-ip";r=95;' in await one.ask(request)
    other = await connected(server, local_addr=("127.0.0.2", 0))
    assert b'"status-ip";r=99;' in await other.ask(request)
    assert b'"status-ip";r=94;' in await one.ask(request)
    one.writer.close()
    other.writer.close()


async def test_what_completes_a_head_that_has_begun_is_no_request_of_its_own(server: HttpServer) -> None:
    """Although the same bytes were a request before: here they are a field's value."""
    request = asking("/auth/status", credentials())
    one = await known(server, request)
    one.writer.write(b"GET /auth/status HTTP/1.1\r\nhost: a\r\nx-passive: true\r\nx: ")
    await one.writer.drain()
    async with asyncio.timeout(30):
        while not any(door._held for door in server.connections):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    answer = await one.ask(request)
    assert b" 400 " in answer
    assert b"connection: close" in answer
    one.writer.close()


def test_heads_are_kept_from_the_second_time_on_and_the_oldest_are_forgotten_first(access: RedisAccess) -> None:
    head = RequestHead.__new__(RequestHead)
    head.remote = "127.0.0.1"
    heads = KnownHeads(3 * (COST + COST_PER_BYTE))
    for data in (b"a", b"b", b"c", b"d"):
        heads.learn(data, head)
        assert heads.get(data) is None
        heads.learn(data, head)
        heads.learn(data, head)
    assert [heads.get(data) is head for data in (b"a", b"b", b"c", b"d")] == [False, True, True, True]
    assert len(heads) == 3
