"""What surrounds the operations: health, metrics, CORS, the log, outages, what is not HTTP."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog
from aiohttp.test_utils import TestClient

from service.app import RUNTIME, make_app
from service.store.connection.client import RedisAccess, TlsFiles
from service.web.server import http_server
from service.web.server.http_server import HttpServer
from tests.conftest import Client, MakeClient
from tests.kit import OPERATOR_TOKEN, TENANT_TOKEN, OurServer, credentials, serving, settings, sign, tenant
from tests.web.test_dashboard import log_in


async def test_the_process_is_alive_and_redis_answers(client: Client) -> None:
    for path in ("/healthz", "/readyz"):
        answer = await client.get(path)
        assert answer.status == 200
        assert set(await answer.json()) == {"meta", "data"}
        assert "RateLimit" not in answer.headers


async def test_metrics_are_prometheus_text_and_ask_for_their_token(make_client: MakeClient) -> None:
    client = await make_client(metrics={"token": "scrape-token"})
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic scrape-token"}):
        answer = await client.get("/metrics", headers=headers)
        assert answer.status == 401
        assert (await answer.json())["error"] == {"message": "Unauthorized", "code": "UNAUTHORIZED", "status": 401}
    answer = await client.get("/metrics", headers={"authorization": "Bearer scrape-token"})
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'rollcall_requests_total{operation="-",status="401"} 3.0' in await answer.text()


async def test_metrics_grow_by_nothing_that_a_client_sends(client: Client) -> None:
    sizes = []
    for i in range(20):
        await client.get(f"/path{i}", headers={"x-tenant-token": f"t{i}"})
        await client.get("/auth/status", headers=credentials(f"user{i}"))
        text = await (await client.get("/metrics")).text()
        # What background tasks report begins with their first rounds.
        sizes.append(sum(not re.search("_task_|_clock_|_swept_", line) for line in text.splitlines()))
    assert 'rollcall_requests_total{operation="-",status="404"} 20.0' in text
    assert "user1" not in text
    assert sizes[-1] == sizes[1]


async def test_the_sweep_runs_by_itself_and_is_counted(
    make_client: MakeClient, access: RedisAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.sessions.expiry_sweep.EVERY_S", 0.02)
    client = await make_client(tenants={"acme": tenant(jwt={**tenant()["jwt"], "leeway": 1})})
    assert (await client.get("/auth/status", headers=credentials(ttl_s=-0.9))).status == 200
    for _ in range(250):
        text = await (await client.get("/metrics")).text()
        if 'rollcall_swept_total{what="expired"} 1.0' in text:
            break
        await asyncio.sleep(0.02)
    else:
        pytest.fail("nobody expired")


# --- CORS ---------------------------------------------------------------------------------------------

ORIGIN = "https://app.example"


async def test_configured_origins_may_call_auth_from_a_browser(make_client: MakeClient) -> None:
    client = await make_client(server={"cors_origins": [ORIGIN]})
    preflight = await client.options(
        "/auth/logout", headers={"origin": ORIGIN, "access-control-request-method": "POST"}
    )
    assert preflight.status == 204
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    assert preflight.headers["access-control-allow-methods"] == "GET, POST"
    assert "x-tenant-token" in preflight.headers["access-control-allow-headers"]
    answer = await client.get("/auth/status", headers=credentials() | {"origin": ORIGIN})
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "ratelimit" in answer.headers["access-control-expose-headers"]
    assert answer.headers["vary"].endswith(", origin")
    refused = await client.get("/auth/status", headers={"origin": ORIGIN})
    assert refused.headers["access-control-allow-origin"] == ORIGIN, "errors can be read too"


async def test_other_origins_and_other_paths_get_nothing(make_client: MakeClient) -> None:
    client = await make_client(server={"cors_origins": [ORIGIN]})
    other = await client.get("/auth/status", headers=credentials() | {"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers
    outside = await client.get("/healthz", headers={"origin": ORIGIN})
    assert "access-control-allow-origin" not in outside.headers


async def test_without_origins_there_is_no_preflight(client: Client) -> None:
    answer = await client.options("/auth/logout", headers={"origin": ORIGIN})
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, POST"
    assert "origin" not in answer.headers["vary"]


# --- the client's address -----------------------------------------------------------------------------


async def test_a_limit_per_address_counts_what_a_trusted_proxy_says(make_client: MakeClient) -> None:
    one = [{"name": "one", "per": "ip", "requests": 1, "window": 60}]
    client = await make_client(server={"trusted_proxies": ["127.0.0.0/8"]}, limits={"status": one})

    async def status(forwarded: str) -> int:
        return (await client.get("/auth/status", headers=credentials() | {"x-forwarded-for": forwarded})).status

    assert [await status("1.1.1.1"), await status("1.1.1.1"), await status("9.9.9.9, 1.1.1.1")] == [200, 429, 429]
    assert [await status("2.2.2.2"), await status("2001:db8::1"), await status("2001:db8::2")] == [200, 200, 429]


async def test_nobody_else_is_believed(make_client: MakeClient) -> None:
    one = [{"name": "one", "per": "ip", "requests": 1, "window": 60}]
    client = await make_client(limits={"status": one})
    for forwarded, status in (("1.1.1.1", 200), ("2.2.2.2", 429)):
        answer = await client.get("/auth/status", headers=credentials() | {"x-forwarded-for": forwarded})
        assert answer.status == status


# --- the log ------------------------------------------------------------------------------------------


async def logged(client: Client) -> list[dict[str, Any]]:
    with structlog.testing.capture_logs() as lines:
        await client.get("/auth/status?secret=in-the-query", headers=credentials())
        await client.get("/auth/status", headers=credentials())
        await client.get("/auth/status", headers={"x-tenant-token": TENANT_TOKEN, "x-token": "a.b.c"})
    answered = [dict(line) for line in lines if line["event"] == "answered"]
    text = json.dumps(answered)
    assert TENANT_TOKEN not in text
    assert sign().partition(".")[0] not in text
    assert "in-the-query" not in text
    return answered


async def test_the_log_has_transitions_and_refusals(client: Client) -> None:
    transition, refusal = await logged(client)
    assert (transition["transition"], transition["user"]) == ("none -> logged_in", "alice")
    assert (refusal["status"], refusal["code"]) == (401, "INVALID_USER_TOKEN")
    assert refusal["request_id"].startswith("req-")


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("a.b.c", "malformed Base64url"),
        ("a.b", "no JWS in compact form"),
        ("a" * 12_289, "too long"),
        (sign(secret="s" * 32), "no key verifies the signature"),
        (sign(kid="k9"), "unknown kid"),
        (sign(nbf=253_402_300_800), "nbf is not before the year 10000; it is in seconds"),
        (sign(iat="now"), "iat is not a number"),
        (sign(""), "sub is empty"),
        (sign(tenant="globex"), "the claim tenant does not name this tenant"),
        (sign(iss="someone"), "iss is not jwt.issuer"),
        (sign(iss="me", aud="someone"), "aud holds nothing of jwt.audience"),
    ],
)
async def test_the_log_says_why_a_token_is_invalid_and_the_answer_does_not(
    make_client: MakeClient, token: str, reason: str
) -> None:
    client = await make_client(tenants={"acme": tenant(jwt={**tenant()["jwt"], "issuer": "me", "audience": ["api"]})})
    with structlog.testing.capture_logs() as lines:
        answer = await client.get("/auth/status", headers={"x-tenant-token": TENANT_TOKEN, "x-token": token})
    error = {"message": "Invalid user token", "code": "INVALID_USER_TOKEN", "status": 401}
    assert (await answer.json())["error"] == error
    assert [line["reason"] for line in lines if line["event"] == "answered"] == [reason]


@pytest.mark.parametrize(("mode", "lines"), [("all", 3), ("none", 0)])
async def test_the_log_has_as_much_as_is_configured(make_client: MakeClient, mode: str, lines: int) -> None:
    assert len(await logged(await make_client(server={"access_log": mode}))) == lines


# --- Redis is away ------------------------------------------------------------------------------------


@pytest.fixture
async def make_cut_off() -> AsyncIterator[Any]:
    """Makes a client of an application whose Redis is not there."""
    made: list[Client] = []

    async def make(**changes: Any) -> Client:
        access = RedisAccess.by_url("redis://127.0.0.1:1", TlsFiles())
        app = await asyncio.to_thread(make_app, settings(redis={"timeout": 0.05}, **changes), access)
        client: Client = TestClient(OurServer(app))
        await client.start_server()
        made.append(client)
        return client

    yield make
    for client in made:
        await client.close()


async def test_without_redis_sessions_are_503_and_say_when_to_come_back(make_cut_off: MakeClient) -> None:
    client = await make_cut_off()
    answer = await client.get("/auth/status", headers=credentials())
    assert answer.status == 503
    error = (await answer.json())["error"]
    assert error == {"message": "Service Unavailable", "code": "SERVICE_UNAVAILABLE", "status": 503}
    assert answer.headers["Retry-After"] == "1"
    assert answer.headers["x-degraded"] == "limits, sessions"
    assert "RateLimit" not in answer.headers
    assert (await client.get("/readyz")).status == 503
    assert (await client.get("/healthz")).status == 200


async def test_without_redis_bad_credentials_are_still_401_and_counted_here(make_cut_off: MakeClient) -> None:
    limits = {"status": [{"name": "status-ip", "per": "ip", "requests": 2, "window": 60}]}
    client = await make_cut_off(limits=limits)
    answers = [await client.get("/auth/status") for _ in range(3)]
    assert [answer.status for answer in answers] == [401, 401, 429]
    assert answers[0].headers["x-degraded"] == "limits"
    assert answers[2].headers["Retry-After"] == "60"


async def test_without_redis_allowed_sessions_rest_on_the_token_but_no_logout_is_claimed(
    make_cut_off: MakeClient,
) -> None:
    client = await make_cut_off(
        sessions={"on_outage": "allow"}, tenants={"acme": tenant(restricted_capabilities=["verify"])}
    )
    answer = await client.get("/auth/status", headers=credentials())
    data = (await answer.json())["data"]
    assert answer.status == 200
    assert answer.headers["x-degraded"] == "limits, sessions"
    assert (data["userId"], data["status"], data["since"]) == ("alice", None, None)
    assert data["tokenExpiresAt"] is not None
    assert (await client.get("/auth/logout", headers=credentials())).status == 503
    text = await (await client.get("/metrics")).text()
    assert 'rollcall_degraded_total{what="sessions"} 2.0' in text
    assert "rollcall_redis_up 0.0" in text


async def test_a_limit_that_denies_without_redis_is_503_before_401(make_cut_off: MakeClient) -> None:
    limits = {"status": [{"name": "s", "per": "ip", "requests": 2, "window": 60, "on_outage": "deny"}]}
    client = await make_cut_off(limits=limits)
    assert (await client.get("/auth/status")).status == 503


async def test_without_redis_the_dashboard_says_so(make_cut_off: MakeClient) -> None:
    from tests.web.test_dashboard import log_in

    client = await make_cut_off()
    assert (await log_in(client)).status == 303
    answer = await client.get("/dashboard")
    assert answer.status == 503
    assert "Redis does not answer" in await answer.text()


# --- below HTTP ---------------------------------------------------------------------------------------


@pytest.fixture
async def server(access: RedisAccess, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HttpServer]:
    monkeypatch.setattr(http_server, "CHECK_EVERY_S", 0.05)
    async with serving(await asyncio.to_thread(make_app, settings(), access)) as (server, _):
        yield server


@pytest.fixture
def port(server: HttpServer) -> int:
    return int(server.listeners[0].sockets[0].getsockname()[1])


async def exchange(port: int, raw: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw)
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize("access", ["fake"], indirect=True)
@pytest.mark.parametrize(
    "raw",
    [
        b"marker-that-is-not-http\r\n\r\n",
        b"\x16\x03\x01marker\x00\r\n\r\n",
        b"GET /marker HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: mar\x00ker\r\n\r\n",
        b"POST /auth/logout HTTP/1.1\r\nhost: a\r\ncontent-length: marker\r\n\r\n",
        b"POST /auth/logout HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        b"GET /" + b"marker" * 4000 + b" HTTP/1.1\r\nhost: a\r\n\r\n",
    ],
)
async def test_what_is_not_http_gets_a_bare_400_that_echoes_nothing(port: int, raw: bytes) -> None:
    answer = await exchange(port, raw)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert re.match(rb"HTTP/1\.[01] 400 Bad Request", head)
    assert body == b""
    assert b"marker" not in answer
    assert b"aiohttp" not in answer.lower()


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_a_loop_of_refused_requests_is_a_line_for_the_first_and_a_count(make_client: MakeClient) -> None:
    client = await make_client()
    client.app[RUNTIME].log_throttle.flush()
    with structlog.testing.capture_logs() as lines:
        for _ in range(200):
            await client.get("/auth/status", headers=credentials("alice", ttl_s=-10))
        await client.get("/auth/status", headers=credentials("alice", secret="x" * 32))
        await client.get("/auth/status", headers=credentials("alice"))
        client.app[RUNTIME].log_throttle.flush()
    answered = [line.get("code", "transition") for line in lines if line["event"] == "answered"]
    again = [line for line in lines if line["event"] == "refused again"]
    # The loop may last more than a second: each second has a first.
    assert answered.count("EXPIRED_USER_TOKEN") + sum(line["times"] for line in again) == 200
    assert answered.count("EXPIRED_USER_TOKEN") <= 5
    assert {"INVALID_USER_TOKEN", "transition"} <= set(answered)
    assert {(line["operation"], line["code"]) for line in again} == {("status", "EXPIRED_USER_TOKEN")}


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_each_refused_act_of_an_operator_has_its_line(make_client: MakeClient) -> None:
    client = await make_client()
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            headers = {"authorization": f"Bearer {OPERATOR_TOKEN}"}
            await client.post("/admin/v1/tenants/acme/users/nobody/reinstate", headers=headers)
    assert [line["code"] for line in lines if line["event"] == "answered"] == ["NOT_FOUND"] * 3


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_an_origin_that_is_no_text_is_answered_as_none(access: RedisAccess) -> None:
    app = await asyncio.to_thread(make_app, settings(server={"cors_origins": ["*"]}), access)
    raw = f"GET /auth/logout HTTP/1.1\r\nhost: a\r\nx-tenant-token: {TENANT_TOKEN}\r\nx-token: {sign()}\r\n".encode()
    async with serving(app) as (_, port):
        for more in (b"", b"content-length: 1\r\n"):  # by the hot path, and by aiohttp
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(raw + more + b"origin: h\xff\r\n\r\n" + b"x" * bool(more))
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            assert head.startswith(b"HTTP/1.1 200 OK")
            assert b"access-control-allow-origin" not in head.lower()
            writer.close()


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_a_token_of_9_kib_reaches_the_judgement(port: int) -> None:
    raw = f"GET /auth/status HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-tenant-token: {TENANT_TOKEN}\r\n"
    answer = await exchange(port, f"{raw}x-token: {'a' * 9000}\r\n\r\n".encode())
    assert b"INVALID_USER_TOKEN" in answer


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_a_header_that_never_ends_has_a_deadline(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "HEADER_DEADLINE_S", 0.05)
    assert await exchange(port, b"GET / HTTP/1.1\r\nhost: a\r\nx-slow: ") == b""


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_the_options_of_the_runner_take_effect(server: HttpServer) -> None:
    handler: Any = server.make_handler()
    assert handler._keepalive_timeout == http_server.KEEPALIVE_S
    assert isinstance(handler.access_logger, http_server.SentAnswers)
    assert server.runner._shutdown_timeout == http_server.SHUTDOWN_S


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_an_expectation_that_nobody_knows_is_not_echoed(port: int) -> None:
    answer = await exchange(port, b"GET /healthz HTTP/1.1\r\nhost: a\r\nexpect: marker\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 417 ")
    assert b"marker" not in answer


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_the_one_expectation_that_is_known_is_met(port: int) -> None:
    head = b"POST /dashboard/logout HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n"
    answer = await exchange(port, head + b"connection: close\r\n\r\nab")
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 400 ")


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_thousands_of_short_fields_are_well_within_32_kib(port: int) -> None:
    fields = b"".join(b"x%d: y\r\n" % i for i in range(4000))
    answer = await exchange(port, b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n" + fields + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("access", ["fake"], indirect=True)
@pytest.mark.parametrize("field", [b"cookie: rollcall=\xff", b"host: \xff", b"host: a:99999", b"host: a:b:c", b"host:"])
async def test_fields_that_are_no_text_or_no_host_are_no_error_of_ours(port: int, field: bytes) -> None:
    for path in (b"/dashboard", b"/dashboard/login", b"/auth/status"):
        raw = b"GET %s HTTP/1.1\r\nconnection: close\r\n%s\r\n\r\n" % (path, field)
        status = int((await exchange(port, raw)).split()[1])
        assert status in (200, 303, 400, 401)


@pytest.mark.parametrize("host", ["", "a:99999", "a:b:c"])
async def test_the_empty_dashboard_is_shown_whatever_it_was_called(client: Client, host: str) -> None:
    cookie = (await log_in(client)).headers["set-cookie"].partition(";")[0]
    answer = await client.get("/dashboard", headers={"host": host, "cookie": cookie})
    assert answer.status == 200
    assert "No users yet" in await answer.text()


async def test_a_client_that_asks_and_takes_no_answers_is_answered_no_further(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it does not take is kept in memory, so it is asked to take it before more is answered."""
    monkeypatch.setattr(http_server, "SEND_TIMEOUT_S", 0.2)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)  # else the kernel takes megabytes in its place
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
    _, writer = await asyncio.open_connection(sock=client, limit=1)
    writer.transport.set_write_buffer_limits(high=0)

    async def ask_for_ever() -> None:
        while True:
            writer.write(b"GET /auth/status HTTP/1.1\r\nhost: x\r\n\r\n" * 1000)
            await writer.drain()

    with pytest.raises(ConnectionError):  # hung up on, rather than answered into memory
        await asyncio.wait_for(ask_for_ever(), 60)
    writer.transport.abort()
