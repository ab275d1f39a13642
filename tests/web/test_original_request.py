"""The request that a proxy asks about: where it is read, who may report it, and what cannot be read."""

import asyncio

import pytest
from multidict import CIMultiDict

from tests.conftest import Client, MakeClient
from tests.kit import credentials
from tests.web.verifying import ALL, ROUTES, TRUSTED, ask, asking


@pytest.mark.parametrize("profile", [one for one in ALL if one not in ("nginx", "envoy")])
async def test_a_missing_original_request_is_a_bad_request(guarded: Client, profile: str) -> None:
    _, path, reported = asking(profile, "GET", "/public/x")
    for name in reported:
        answer = await guarded.get(path, headers=credentials() | {n: v for n, v in reported.items() if n != name})
        assert answer.status == 400, f"without {name}"
        assert (await answer.json())["error"] == {"message": "Bad Request", "code": "BAD_REQUEST", "status": 400}
    assert (await guarded.get(path, headers=reported | {next(iter(reported)): "get"})).status == 400


async def test_an_original_request_that_is_sent_twice_is_refused(guarded: Client) -> None:
    twice = [("x-original-method", "GET"), ("x-original-uri", "/api/x"), ("x-original-uri", "/public/x")]
    assert (await guarded.get("/auth/verify", headers=twice)).status == 400
    both = {"x-original-method": "GET", "x-original-uri": "/public/x", "x-forwarded-method": "GET"}
    assert (await guarded.get("/auth/verify", headers=both)).status == 400
    differ = both | {"x-forwarded-uri": "/api/x"}
    assert (await guarded.get("/auth/verify", headers=differ)).status == 400
    assert (await guarded.get("/auth/verify", headers=both | {"x-forwarded-uri": "/public/x"})).status == 200


@pytest.mark.parametrize("profile", ALL)
async def test_who_is_not_a_trusted_proxy_is_not_believed(make_client: MakeClient, profile: str) -> None:
    client = await make_client(server={"trusted_proxies": ["10.0.0.0/8"]}, routes=ROUTES)
    answer = await ask(client, profile, "GET", "/public/x", credentials())
    assert answer.status == (403 if profile == "nginx" else 400)
    assert (await answer.json())["error"]["code"] == "BAD_REQUEST"


async def test_where_no_routes_are_configured_no_original_request_is_needed(client: Client) -> None:
    answer = await client.get("/auth/verify", headers=credentials())
    assert (answer.status, answer.headers["x-auth-user"]) == (200, "alice")
    assert (await client.get("/auth/verify")).status == 401


async def test_a_path_behind_envoys_prefix_leads_nowhere_else(guarded: Client) -> None:
    """The router would resolve the dots and answer with our own health or dashboard, as 200."""
    reader, writer = await asyncio.open_connection(guarded.host, guarded.port)
    for target in ("/../../../healthz", "/%2e%2e/%2e%2e/%2e%2e/healthz", "//healthz", "/public/../healthz"):
        writer.write(f"GET /auth/verify/envoy{target} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.split()[1] == b"400", target
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        await reader.readexactly(int(length.split()[1]))
    writer.close()


@pytest.mark.parametrize(
    "target",
    [
        "http://x/auth/verify/envoy",
        "http://x/auth/verify/envoy/public/x",
        "/auth/verify/%65nvoy",
        "/auth/verify/envoy?x",
    ],
)
async def test_a_target_that_does_not_follow_envoys_prefix_as_it_is_written_is_admitted_by_no_rule(
    make_client: MakeClient, target: str
) -> None:
    client = await make_client(server=TRUSTED, routes=[{"path": "/*", "open": True}])
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(f"GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    assert (await reader.read()).split()[1] in (b"400", b"404")
    writer.close()


@pytest.mark.parametrize("profile", ALL)
@pytest.mark.parametrize(
    "target", ["/public/../api/x", "//public/x", "/public/%2e%2e/x", "/public/..;/x", "/public/%2525"]
)
async def test_a_target_in_which_servers_resolve_something_is_400_before_the_credentials_are_judged(
    guarded: Client, profile: str, target: str
) -> None:
    method, path, reported = asking(profile, "GET", target)
    lines = [f"{method} {path} HTTP/1.1", "host: x", "connection: close", *(f"{k}: {v}" for k, v in reported.items())]
    for who in ({}, credentials()):
        reader, writer = await asyncio.open_connection(guarded.host, guarded.port)
        head = "\r\n".join([*lines, *(f"{name}: {value}" for name, value in who.items()), "", ""])
        writer.write(head.encode())
        answer = await reader.read()
        assert answer.split()[1] == (b"403" if profile == "nginx" else b"400")
        assert (b"x-deny-status: 400" in answer) is (profile == "nginx")
        assert b'"code":"BAD_REQUEST"' in answer.replace(b": ", b":").split(b"\r\n\r\n")[1]
        writer.close()


@pytest.mark.parametrize("upgrade", ["websocket", "WebSocket"])
async def test_a_websocket_handshake_that_caddy_reports_as_connect_is_judged_as_get(
    make_client: MakeClient, upgrade: str
) -> None:
    routes = [{"path": "/live/*", "methods": ["GET"], "capability": "live"}, {"path": "/*", "open": True}]
    client = await make_client(server=TRUSTED, routes=routes)
    handshake = {"connection": "upgrade", "upgrade": upgrade}
    answer = await ask(client, "caddy", "CONNECT", "/live/7", credentials() | handshake)
    assert (answer.status, answer.headers["x-auth-user"]) == (200, "alice")
    answer = await ask(client, "caddy", "CONNECT", "/live/7", handshake)
    assert (answer.status, (await answer.json())["error"]["code"]) == (401, "MISSING_TENANT_TOKEN")


@pytest.mark.parametrize(
    "upgrade", [[], [("upgrade", "h2c")], [("upgrade", "websocket, h2c")], [("upgrade", "websocket")] * 2], ids=str
)
async def test_any_other_connect_stays_one(make_client: MakeClient, upgrade: list[tuple[str, str]]) -> None:
    routes = [{"path": "/live/*", "methods": ["GET"], "capability": "live"}]
    client = await make_client(server=TRUSTED, routes=routes)
    _, path, original = asking("caddy", "CONNECT", "/live/7")
    headers = CIMultiDict([*credentials().items(), *original.items(), *upgrade])
    answer = await client.get(path, headers=headers)
    assert (answer.status, (await answer.json())["error"]["code"]) == (403, "FORBIDDEN")


@pytest.mark.parametrize("profile", ["", "nginx", "haproxy", "traefik"])
async def test_connect_is_not_judged_as_get_where_the_proxy_is_not_caddy(make_client: MakeClient, profile: str) -> None:
    routes = [{"path": "/live/*", "methods": ["GET"], "capability": "live"}]
    client = await make_client(server=TRUSTED, routes=routes)
    answer = await ask(client, profile, "CONNECT", "/live/7", credentials() | {"upgrade": "websocket"})
    assert answer.status == 403
