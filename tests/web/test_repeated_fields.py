"""One credential a request, and every field that decides something once: sent twice or in two places it is refused."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from multidict import CIMultiDict, CIMultiDictProxy

from service.integrations.aiohttp import logout, session_middleware, user_of
from service.web.api.credentials import repeated_fields
from service.web.api.forward_auth import PROFILES
from tests.conftest import Client, MakeClient
from tests.kit import OPERATOR_TOKEN, OTHER_TENANT_TOKEN, TENANT_TOKEN, VIEWER_TOKEN, config, sign

A, B = sign("alice"), sign("bob")
TENANT = ("x-tenant-token", TENANT_TOKEN)
Fields = list[tuple[str, str]]
WAYS = pytest.mark.parametrize("way", ["keep-alive", "close"], ids=["hot path", "aiohttp's path"])
FAKE = pytest.mark.parametrize("access", ["fake"], indirect=True)
TRUSTED = {"trusted_proxies": ["127.0.0.0/8"]}
ROUTES = [{"path": "/open/*", "open": True}, {"path": "/api/*"}]

CREDENTIALS: dict[str, tuple[Fields, str]] = {
    # fields → the user who is admitted, or the code of the refusal
    "x-token": ([TENANT, ("x-token", A)], "alice"),
    "a bearer token": ([TENANT, ("authorization", f"Bearer {A}")], "alice"),
    "x-token twice": ([TENANT, ("x-token", A), ("x-token", B)], "INVALID_USER_TOKEN"),
    "x-token twice, the same": ([TENANT, ("x-token", A), ("x-token", A)], "INVALID_USER_TOKEN"),
    "x-token twice, in another case": ([TENANT, ("x-token", A), ("X-TOKEN", B)], "INVALID_USER_TOKEN"),
    "x-token twice, apart": ([("x-token", A), TENANT, ("x-token", B)], "INVALID_USER_TOKEN"),
    "x-token twice, one empty": ([TENANT, ("x-token", ""), ("x-token", A)], "INVALID_USER_TOKEN"),
    "x-token and another bearer": ([TENANT, ("x-token", A), ("authorization", f"Bearer {B}")], "INVALID_USER_TOKEN"),
    "another bearer first": ([("authorization", f"bearer {B}"), TENANT, ("x-token", A)], "INVALID_USER_TOKEN"),
    "x-token and the same bearer": ([TENANT, ("x-token", A), ("authorization", f"Bearer {A}")], "alice"),
    "x-token and a bearer that is no token": (
        [TENANT, ("x-token", A), ("authorization", "Bearer junk")], "INVALID_USER_TOKEN",
    ),
    "x-token and an empty bearer": ([TENANT, ("x-token", A), ("authorization", "Bearer")], "INVALID_USER_TOKEN"),
    "x-token and a bearer by a tab": (
        [TENANT, ("x-token", A), ("authorization", f"Bearer\t{B}")], "INVALID_USER_TOKEN",
    ),
    "x-token and what is no scheme": ([TENANT, ("x-token", A), ("authorization", f"Bearer:{B}")], "INVALID_USER_TOKEN"),
    "x-token and Basic": ([TENANT, ("x-token", A), ("authorization", "Basic dTpw")], "alice"),
    "x-token and DPoP": ([TENANT, ("x-token", A), ("authorization", f"DPoP {B}")], "alice"),
    "x-token and an empty authorization": ([TENANT, ("x-token", A), ("authorization", "")], "alice"),
    "x-token and Basic twice": (
        [TENANT, ("x-token", A), ("authorization", "Basic dTpw"), ("authorization", "Basic dTpw")],
        "INVALID_USER_TOKEN",
    ),
    "an empty x-token and a bearer": ([TENANT, ("x-token", ""), ("authorization", f"Bearer {A}")], "alice"),
    "a bearer twice": (
        [TENANT, ("authorization", f"Bearer {A}"), ("authorization", f"Bearer {B}")], "INVALID_USER_TOKEN",
    ),
    "a bearer and Basic": (
        [TENANT, ("authorization", f"Bearer {A}"), ("authorization", "Basic eA==")], "INVALID_USER_TOKEN",
    ),
    "DPoP": ([TENANT, ("authorization", f"DPoP {A}")], "INVALID_USER_TOKEN"),
    "dpop": ([TENANT, ("authorization", f"dpop {A}")], "INVALID_USER_TOKEN"),
    "Basic": ([TENANT, ("authorization", "Basic dTpw")], "MISSING_USER_TOKEN"),
    "another scheme": ([TENANT, ("authorization", f"Token {A}")], "MISSING_USER_TOKEN"),
    "no scheme": ([TENANT, ("authorization", A)], "MISSING_USER_TOKEN"),
    "what is no scheme": ([TENANT, ("authorization", f"Bearer:{A}")], "MISSING_USER_TOKEN"),
    "an empty x-token": ([TENANT, ("x-token", "")], "MISSING_USER_TOKEN"),
    "the tenant's token twice": ([TENANT, TENANT, ("x-token", A)], "INVALID_TENANT_TOKEN"),
    "two tenants' tokens": (
        [TENANT, ("x-tenant-token", OTHER_TENANT_TOKEN), ("x-token", A)], "INVALID_TENANT_TOKEN",
    ),
    "the tenant's token twice, one empty": ([("X-Tenant-Token", ""), TENANT, ("x-token", A)], "INVALID_TENANT_TOKEN"),
    "both twice": ([TENANT, TENANT, ("x-token", A), ("x-token", B)], "INVALID_TENANT_TOKEN"),
    "what decides nothing twice": ([TENANT, ("x-token", A), ("x-a", "1"), ("x-a", "2"), ("accept", "a")], "alice"),
}  # fmt: skip


async def send(client: Client, path: str, fields: Fields, way: str = "close", method: str = "GET") -> tuple[str, bytes]:
    """Head and body of the answer to a request of these very fields: clients join or replace what is repeated."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    try:
        lines = "".join(f"{name}: {value}\r\n" for name, value in [("host", "a"), *fields, ("connection", way)])
        writer.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode())
        async with asyncio.timeout(30):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
            return head, await reader.readexactly(int(length[1])) if length else b""
    finally:
        writer.close()


async def ask(client: Client, path: str, fields: Fields, way: str = "close", method: str = "GET") -> tuple[int, Any]:
    """Status and body of an answer; for nginx the real status from `x-deny-status`."""
    head, body = await send(client, path, fields, way, method)
    status = re.search(r"^x-deny-status: (\d+)", head, re.MULTILINE) or re.match(r"HTTP/1.1 (\d+)", head)
    assert status is not None
    return int(status[1]), json.loads(body)


def outcome(status: int, body: Any) -> str:
    return str(body["data"].get("userId", "admitted") if status == 200 else body["error"]["code"])


@FAKE
@WAYS
async def test_a_request_has_one_credential(client: Client, way: str) -> None:
    for name, (fields, expected) in CREDENTIALS.items():
        status, body = await ask(client, "/auth/status", fields, way)
        assert (status, outcome(status, body)) == (200 if expected == "alice" else 401, expected), name


@FAKE
@WAYS
@pytest.mark.parametrize("path", ["/auth/logout", *PROFILES])
async def test_every_operation_of_users_judges_credentials_alike(make_client: MakeClient, path: str, way: str) -> None:
    client = await make_client(server=TRUSTED, limits={"logout": []})
    for fields, expected in CREDENTIALS.values():
        status, body = await ask(client, path, fields, way)
        assert outcome(status, body) == ("admitted" if expected == "alice" else expected)


@FAKE
async def test_terminate_judges_credentials_alike(make_client: MakeClient) -> None:
    client = await make_client(limits={"terminate": []})
    for fields, expected in CREDENTIALS.values():
        if expected != "alice":
            status, body = await ask(client, "/auth/terminate", fields, method="POST")
            assert outcome(status, body) == expected


@FAKE
@WAYS
async def test_more_than_one_credential_is_charged_and_leaves_no_trace(make_client: MakeClient, way: str) -> None:
    limits = {"status": [{"name": "status-ip", "per": "ip", "requests": 2, "window": 60}]}
    client = await make_client(limits=limits)
    twice: Fields = [TENANT, ("x-token", A), ("x-token", B)]
    outcomes = [outcome(*await ask(client, "/auth/status", twice, way)) for _ in range(3)]
    assert outcomes == ["INVALID_USER_TOKEN", "INVALID_USER_TOKEN", "TOO_MANY_REQUESTS"]
    operator = {"authorization": f"Bearer {OPERATOR_TOKEN}"}
    listed = await client.get("/admin/v1/tenants/acme/sessions", headers=operator)
    assert (await listed.json())["data"]["sessions"] == []


ORIGINAL: Fields = [("x-original-method", "GET"), ("x-original-uri", "/api/x")]
ONCE = [
    *("x-original-method", "x-original-uri", "x-original-url", "x-original-host", "x-original-anything"),
    *("x-forwarded-method", "x-forwarded-uri", "x-forwarded-host", "x-forwarded-proto"),
]


def about(path: str, fields: Fields) -> tuple[str, Fields]:
    """How the proxy of this profile asks about `GET /api/x`."""
    if path.endswith("envoy"):
        return f"{path}/api/x", fields
    kind = "forwarded" if path.endswith(("traefik", "caddy")) else "original"
    return path, [*fields, (f"x-{kind}-method", "GET"), (f"x-{kind}-uri", "/api/x")]


@FAKE
@WAYS
@pytest.mark.parametrize("routes", [ROUTES, []], ids=["routes", "no routes"])
@pytest.mark.parametrize("profile", PROFILES)
async def test_what_describes_the_original_request_is_sent_once(
    make_client: MakeClient, profile: str, routes: list[Any], way: str
) -> None:
    client = await make_client(server=TRUSTED, routes=routes)
    path, fields = about(profile, [TENANT, ("x-token", A)])
    assert (await ask(client, path, fields, way))[0] == 200
    for name in ONCE:
        others = [(other, value) for other, value in fields if other != name]
        for first, second in ((name, name), (name.upper(), name.title())):
            status, body = await ask(client, path, [*others, (first, "GET"), (second, "/open/x")], way)
            assert (status, body["error"]["code"]) == (400, "VALIDATION_ERROR"), name
            assert body["error"]["validation"] == [{"field": name, "message": "is sent more than once"}]


@FAKE
async def test_a_repeated_description_is_charged_and_comes_before_the_tenants_token(make_client: MakeClient) -> None:
    limits = {"verify": [{"name": "verify-ip", "per": "ip", "requests": 2, "window": 60}]}
    client = await make_client(server=TRUSTED, routes=ROUTES, limits=limits)
    for who in ([("x-tenant-token", "nobody's"), ("x-token", "junk")], []):
        status, body = await ask(client, "/auth/verify", [*who, *ORIGINAL, ("x-original-uri", "/open/x")])
        assert (status, outcome(status, body)) == (400, "VALIDATION_ERROR")
    status, body = await ask(client, "/auth/verify", [*ORIGINAL, ("x-original-uri", "/open/x")])
    assert outcome(status, body) == "TOO_MANY_REQUESTS"


@FAKE
@WAYS
async def test_a_repeated_forwarded_proto_decides_nothing_elsewhere(client: Client, way: str) -> None:
    fields: Fields = [TENANT, ("x-token", A), ("x-forwarded-proto", "https"), ("x-forwarded-proto", "http")]
    for path in ("/auth/status", "/auth/logout"):
        assert (await ask(client, path, [*fields, ("x-original-uri", "/"), ("x-original-uri", "/")], way))[0] == 200


PASSIVE: Fields = [("x-passive", "true"), ("x-passive", "true")]


@FAKE
@WAYS
@pytest.mark.parametrize("path", ["/auth/status", *PROFILES])
async def test_a_repeated_x_passive_is_400_before_the_credentials_are_judged(
    make_client: MakeClient, path: str, way: str
) -> None:
    client = await make_client(server=TRUSTED, routes=ROUTES)
    for who in ([TENANT, ("x-token", A)], [TENANT, ("x-token", "junk")], [("x-tenant-token", "nobody's")], []):
        asked, fields = about(path, [*who, *PASSIVE]) if "verify" in path else (path, [*who, *PASSIVE])
        status, body = await ask(client, asked, fields, way)
        assert (status, body["error"]["code"]) == (400, "VALIDATION_ERROR")
        assert body["error"]["validation"] == [{"field": "x-passive", "message": "is sent more than once"}]


@FAKE
async def test_x_passive_is_not_read_on_logout_and_terminate(client: Client) -> None:
    fields: Fields = [TENANT, ("x-token", A), *PASSIVE]
    for way in ("keep-alive", "close"):
        assert (await ask(client, "/auth/logout", fields, way))[0] == 200
    answer = await client.post("/auth/terminate", headers=fields, json={"strategy": "soft"})
    assert answer.status == 201
    answer = await client.post("/auth/terminate", headers=[TENANT, ("x-token", "junk"), *PASSIVE], json={})
    assert (await answer.json())["error"]["code"] == "INVALID_USER_TOKEN"


@FAKE
@WAYS
@pytest.mark.parametrize("profile", PROFILES)
async def test_on_an_open_route_no_credential_is_judged(make_client: MakeClient, profile: str, way: str) -> None:
    client = await make_client(server=TRUSTED, routes=[{"path": "/api/*", "open": True}])
    for credentials, _ in CREDENTIALS.values():
        path, fields = about(profile, credentials)
        head, _ = await send(client, path, fields, way)
        assert head.startswith("HTTP/1.1 200 ")
        assert re.findall(r"^x-auth-[a-z]+", head, re.MULTILINE) == ["x-auth-admitted"]


@FAKE
@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded"])
async def test_lines_of_a_list_are_joined_in_their_order(make_client: MakeClient, header: str) -> None:
    limits = {"status": [{"name": "status-ip", "per": "ip", "requests": 1, "window": 60}]}
    client = await make_client(server={**TRUSTED, "client_address": header}, limits=limits)
    written = "{}" if header == "x-forwarded-for" else "for={}"

    async def status(*lines: str) -> int:
        sent = [(header, ", ".join(written.format(node) for node in line.split())) for line in lines]
        return (await ask(client, "/auth/status", [TENANT, ("x-token", A), *sent]))[0]

    assert await status("192.0.2.1", "192.0.2.2") == 200
    assert await status("192.0.2.2") == 429, "the last line's address was charged"
    assert await status("192.0.2.2", "192.0.2.1") == 200
    assert await status("192.0.2.3 192.0.2.4", "192.0.2.5 192.0.2.6") == 200
    assert await status("192.0.2.6") == 429
    assert await status("192.0.2.7", "127.0.0.9", "127.0.0.8") == 200
    assert await status("192.0.2.7 127.0.0.1") == 429


@FAKE
@pytest.mark.parametrize("path", ["/auth/status", "/auth/verify/envoy/x", "/healthz", "/admin/v1/tenants"])
async def test_a_repeated_host_is_a_bare_400(client: Client, path: str) -> None:
    for way in ("keep-alive", "close"):
        head, body = await send(client, path, [TENANT, ("x-token", A), ("Host", "b")], way)
        assert re.match(r"HTTP/1\.[01] 400 ", head)
        assert body == b""


@FAKE
@WAYS
async def test_a_request_id_that_is_sent_twice_is_replaced(client: Client, way: str) -> None:
    fields: Fields = [TENANT, ("x-token", A), ("x-request-id", "one"), ("X-Request-Id", "two")]
    _, body = await ask(client, "/auth/status", fields, way)
    assert body["meta"]["requestId"].startswith("req-")


@FAKE
async def test_an_operators_token_is_sent_once(make_client: MakeClient) -> None:
    client = await make_client(metrics={"token": "token-of-the-metrics"})
    for path, token in (("/admin/v1/tenants", OPERATOR_TOKEN), ("/metrics", "token-of-the-metrics")):
        good = ("authorization", f"Bearer {token}")
        assert (await send(client, path, [good]))[0].startswith("HTTP/1.1 200 ")
        for other in (good, ("authorization", f"Bearer {VIEWER_TOKEN}"), ("Authorization", "Basic dTpw")):
            for fields in ([good, other], [other, good]):
                status, body = await ask(client, path, fields)
                assert (status, body["error"]["code"]) == (401, "UNAUTHORIZED")


@FAKE
async def test_a_member_of_a_body_is_sent_once(client: Client) -> None:
    operator = {"authorization": f"Bearer {OPERATOR_TOKEN}"}
    for method, path, body in (
        ("PUT", "/admin/v1/tenants/acme/limits/status-ip", '{"requests": 1, "window": 60, "requests": 9}'),
        ("PUT", "/admin/v1/tenants/acme/revocation", '{"before": "2020-01-01T00:00:00Z", "before": null}'),
        ("POST", "/admin/v1/tenants/acme/sessions/suspend", '{"users": ["a"], "users": ["b"]}'),
    ):
        answer = await client.request(method, path, headers=operator, data=body)
        assert (answer.status, (await answer.json())["error"]["code"]) == (400, "VALIDATION_ERROR"), path
    soft_or_hard = '{"strategy": "soft", "strategy": "hard"}'
    answer = await client.post("/auth/terminate", headers=[TENANT, ("x-token", A)], data=soft_or_hard)
    assert (await answer.json())["error"]["validation"] == [{"field": "strategy", "message": "appears more than once"}]


@FAKE
async def test_a_place_in_the_event_stream_is_sent_once(client: Client) -> None:
    places = [("last-event-id", "1-1"), ("last-event-id", "2-1")]
    fields = [("authorization", f"Bearer {OPERATOR_TOKEN}"), *places]
    status, body = await ask(client, "/admin/v1/events?tenant=acme", fields)
    assert (status, body["error"]["code"]) == (400, "VALIDATION_ERROR")


@FAKE
async def test_an_origin_that_is_sent_twice_is_answered_as_none(make_client: MakeClient) -> None:
    client = await make_client(server={"cors_origins": ["https://a.example"]})
    origin = ("origin", "https://a.example")
    fields = [TENANT, ("x-token", A), origin]
    assert "Access-Control-Allow-Origin" in (await send(client, "/auth/status", fields))[0]
    for other in (origin, ("Origin", "https://b.example")):
        assert "Access-Control-Allow-Origin" not in (await send(client, "/auth/status", [*fields, other]))[0]


def test_a_field_is_repeated_in_whatever_case_it_is_written() -> None:
    fields = [("Host", "a"), ("X-A", "1"), ("x-b", "1"), ("x-a", "2"), ("X-B", "1"), ("x-c", "1")]
    assert repeated_fields(CIMultiDictProxy(CIMultiDict(fields))) == {"x-a", "x-b"}
    assert not repeated_fields(CIMultiDictProxy(CIMultiDict(fields[:3])))


# --- the middleware of aiohttp applications ---------------------------------------------------------------


@pytest.fixture
async def application(empty_redis_url: str, tmp_path: Path) -> AsyncIterator[Client]:
    """An application with the middleware, whose handler says which user it was given, and what it was sent."""
    path = tmp_path / "config.yaml"
    content = config(redis={"url": empty_redis_url, "timeout": 30}, routes=ROUTES, limits={"logout": []})
    path.write_text(json.dumps(content))

    async def handler(request: web.Request) -> web.Response:
        context = user_of(request)
        who = None if context is None else context.identity.user
        return web.json_response({"data": {"userId": who}})

    app = web.Application()
    app.middlewares.append(await asyncio.to_thread(session_middleware, app, path))
    app.router.add_get("/api/x", handler)
    app.router.add_get("/open/x", handler)
    app.router.add_post("/logout", logout)
    async with TestClient(TestServer(app)) as client:
        yield client


@pytest.mark.real_redis
async def test_the_middleware_takes_one_credential_and_every_field_once(application: Client) -> None:
    for fields, expected in CREDENTIALS.values():
        status, body = await ask(application, "/api/x", fields)
        assert outcome(status, body) == expected
        status, body = await ask(application, "/open/x", fields)
        assert (status, body["data"]["userId"]) == (200, None), "an open route judges none"
        if expected != "alice":
            status, body = await ask(application, "/logout", fields, method="POST")
            assert outcome(status, body) == expected
    status, body = await ask(application, "/api/x", [TENANT, ("x-token", A), *PASSIVE])
    assert (status, body["error"]["code"]) == (400, "VALIDATION_ERROR")
    own = [(name, "x") for name in ONCE for _ in range(2)]  # of the application: the middleware reads none of these
    assert (await ask(application, "/api/x", [TENANT, ("x-token", A), *own]))[0] == 200
