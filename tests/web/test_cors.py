"""CORS: which pages may send what, and what a refused preflight leaves in log and metrics."""

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import pytest
import structlog

from service.app import make_app
from service.store.connection.client import RedisAccess
from service.web.api.cors import MOST_ECHOED_CHARS, MOST_ECHOED_FIELDS
from service.web.monitoring import log_throttling
from tests.conftest import Client, MakeClient
from tests.kit import TENANT_TOKEN, credentials, serving, settings, sign

pytestmark = pytest.mark.parametrize("access", ["fake"], indirect=True)
ORIGIN, OTHER = "https://app.example", "https://other.example"


async def preflight(client: Client, fields: str = "", origin: str = ORIGIN, method: str = "POST") -> Mapping[str, str]:
    headers = {"origin": origin, "access-control-request-method": method}
    if fields:
        headers["access-control-request-headers"] = fields
    async with client.options("/auth/logout", headers=headers) as answer:
        return answer.headers


async def refused(client: Client) -> dict[str, float]:
    text = await (await client.get("/metrics")).text()
    found = re.findall(r'^rollcall_refused_preflights_total\{reason="(\w+)"\} (\S+)$', text, re.M)
    return {reason: float(number) for reason, number in found}


async def test_a_page_with_tracing_may_call(make_client: MakeClient) -> None:
    client = await make_client(server={"cors_origins": [ORIGIN]})
    asked = "baggage,traceparent,tracestate,x-requested-with,x-tenant-token,x-token"
    allowed = (await preflight(client, asked))["access-control-allow-headers"].split(", ")
    assert set(asked.split(",")) <= set(allowed)
    assert await refused(client) == {}


async def test_an_origin_that_is_listed_by_name_may_send_credentials_and_one_of_the_star_may_not(
    make_client: MakeClient,
) -> None:
    client = await make_client(server={"cors_origins": [ORIGIN, "*"]})
    for origin, expected in ((ORIGIN, "true"), (OTHER, None)):
        reported = await preflight(client, origin=origin)
        assert (reported["access-control-allow-origin"], reported.get("access-control-allow-credentials")) == (
            origin,
            expected,
        )
        async with client.get("/auth/status", headers=credentials() | {"origin": origin}) as answer:
            assert answer.headers.get("access-control-allow-credentials") == expected


@pytest.mark.parametrize("origins", [[], [ORIGIN]])
@pytest.mark.parametrize(("path", "methods"), [("logout", "GET, POST"), ("status", "GET, HEAD"), ("terminate", "POST")])
async def test_a_405_allows_options_only_where_a_preflight_is_answered(
    make_client: MakeClient, origins: list[str], path: str, methods: str
) -> None:
    client = await make_client(server={"cors_origins": origins})
    async with client.delete(f"/auth/{path}") as answer:
        allowed = answer.headers["allow"].split(", ")
    async with client.options(f"/auth/{path}") as preflight:
        assert (preflight.status, "OPTIONS" in allowed) == ((204, True) if origins else (405, False))
    assert [method for method in allowed if method != "OPTIONS"] == methods.split(", ")


async def test_the_fields_that_a_page_may_send_are_those_of_the_configuration(make_client: MakeClient) -> None:
    client = await make_client(server={"cors_origins": [ORIGIN], "cors_headers": ["X-Token", "x-tenant-token"]})
    reported = await preflight(client, "x-token,x-request-id")
    assert reported["access-control-allow-headers"] == "x-token, x-tenant-token"
    assert await refused(client) == {"field": 1}


async def test_a_star_allows_what_is_asked_for_and_bounds_it(make_client: MakeClient) -> None:
    client = await make_client(server={"cors_origins": ["*"], "cors_headers": ["*"]})
    reported = await preflight(client, "X-One, authorization,x-one, ,no name,\u00e9,<x>,x-two")
    assert reported["access-control-allow-headers"] == "x-one, authorization, x-two"
    many = await preflight(client, ",".join(f"x-{number}" for number in range(200)))
    assert len(many["access-control-allow-headers"].split(", ")) == MOST_ECHOED_FIELDS
    long = await preflight(client, ",".join(f"x-{number}-{'a' * 100}" for number in range(60)))
    assert 0 < len(long["access-control-allow-headers"]) <= MOST_ECHOED_CHARS


CASES: list[tuple[dict[str, Any], dict[str, str], str, str]] = [
    ({"cors_origins": [ORIGIN]}, {"origin": OTHER}, "origin", OTHER),
    ({"cors_origins": []}, {"origin": OTHER}, "origin", OTHER),
    ({"cors_origins": [ORIGIN]}, {"fields": "x-mine,x-token"}, "field", "x-mine"),
    ({"cors_origins": [ORIGIN]}, {"method": "DELETE"}, "method", "DELETE"),
    ({"cors_origins": [ORIGIN]}, {"fields": TENANT_TOKEN}, "field", "[token]"),
]


@pytest.mark.parametrize(("server", "how", "reason", "value"), CASES)
async def test_what_a_preflight_is_refused_is_logged_once_and_counted(
    make_client: MakeClient, server: dict[str, Any], how: dict[str, str], reason: str, value: str
) -> None:
    client = await make_client(server=server)
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            await preflight(client, **how)
    reported = [line for line in lines if line["event"] == "a preflight is refused"]
    assert [line[reason] for line in reported] == [value]
    assert await refused(client) == {reason: 3}


async def test_what_is_no_preflight_is_not_counted(make_client: MakeClient) -> None:
    client = await make_client(server={"cors_origins": [ORIGIN]})
    await client.options("/auth/logout", headers={"origin": OTHER})
    await client.options("/auth/logout", headers={"access-control-request-method": "POST"})
    assert await refused(client) == {}


async def test_the_lines_on_refused_preflights_are_bounded(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_throttling, "MOST_ONCE", 5)
    client = await make_client(server={"cors_origins": [ORIGIN]})
    with structlog.testing.capture_logs() as lines:
        for number in range(20):
            await preflight(client, origin=f"https://{number}.example")
    assert sum(line["event"] == "a preflight is refused" for line in lines) == 5
    assert await refused(client) == {"origin": 20}


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
