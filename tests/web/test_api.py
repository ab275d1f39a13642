"""The documented API over real HTTP, on fakeredis and on a real Redis."""

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from cryptography.hazmat.primitives.asymmetric import ed25519

from service.app import make_app
from service.core.operator_actions import Author
from service.core.sessions import Cause
from service.store.connection.client import RedisAccess
from service.store.sessions.operator_actions import RedisOperatorActions
from service.web import app_keys
from service.web.api import session_routes
from tests.conftest import Client, MakeClient
from tests.kit import OTHER_SECRET, OTHER_TENANT_TOKEN, TENANT_TOKEN, OurServer, credentials, settings, sign, tenant

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

BY = Author("root")


async def error_of(answer: Any) -> dict[str, Any]:
    body = await answer.json()
    assert set(body) == {"meta", "error"}
    error: dict[str, Any] = body["error"]
    assert error["status"] == answer.status
    return error


async def act(access: RedisAccess, cause: Cause, user: str = "alice") -> None:
    await RedisOperatorActions(access.client).act("acme", [user], cause, Author("root"))


async def test_a_logout_answers_the_envelope_and_its_headers(client: Client) -> None:
    answer = await client.get("/auth/logout", headers=credentials() | {"x-request-id": "abc:1"})
    body = await answer.json()
    assert answer.status == 200
    assert body["data"] == {"success": True}
    assert set(body) == {"meta", "data"}
    assert body["meta"]["requestId"] == "abc:1"
    assert TIMESTAMP.fullmatch(body["meta"]["timestamp"])
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-request-id"] == "abc:1"
    assert answer.headers["RateLimit-Policy"] == '"logout-ip";q=30;w=3600'
    assert answer.headers["RateLimit"] == '"logout-ip";r=29;t=3600'
    assert answer.headers["X-RateLimit-Limit"] == "30"
    assert answer.headers["X-RateLimit-Remaining"] == "29"
    assert answer.headers["X-RateLimit-Reset"] == "3600"
    assert "Retry-After" not in answer.headers


async def test_a_token_used_after_logout_logs_in_again(client: Client) -> None:
    headers = credentials()
    first = (await (await client.get("/auth/status", headers=headers)).json())["data"]
    assert (await client.post("/auth/logout", headers=headers)).status == 200
    second = (await (await client.get("/auth/status", headers=headers)).json())["data"]
    assert (first["tenant"], first["userId"]) == ("acme", "alice")
    assert (first["status"], first["previousStatus"]) == ("logged_in", None)
    assert (second["status"], second["previousStatus"]) == ("logged_in", "logged_out")
    assert all(TIMESTAMP.fullmatch(second[name]) for name in ("since", "lastSeen", "tokenExpiresAt"))


async def test_a_bearer_token_is_accepted_in_place_of_x_token(client: Client) -> None:
    headers = {"x-tenant-token": TENANT_TOKEN, "authorization": f"bearer {sign()}"}
    assert (await client.get("/auth/status", headers=headers)).status == 200


@pytest.mark.parametrize(
    ("headers", "status", "code", "message"),
    [
        ({}, 401, "MISSING_TENANT_TOKEN", "Missing tenant token"),
        ({"x-tenant-token": ""}, 401, "MISSING_TENANT_TOKEN", "Missing tenant token"),
        ({"x-tenant-token": "nobody's"}, 401, "INVALID_TENANT_TOKEN", "Invalid tenant token"),
        ({"x-tenant-token": "b\u00fc\u00df"}, 401, "INVALID_TENANT_TOKEN", "Invalid tenant token"),
        ({"x-tenant-token": TENANT_TOKEN}, 401, "MISSING_USER_TOKEN", "Missing user token"),
        (
            {"x-tenant-token": TENANT_TOKEN, "authorization": "Basic abc"},
            401,
            "MISSING_USER_TOKEN",
            "Missing user token",
        ),
        ({"x-tenant-token": TENANT_TOKEN, "x-token": "a.b.c"}, 401, "INVALID_USER_TOKEN", "Invalid user token"),
        ({"x-tenant-token": TENANT_TOKEN, "x-token": "a" * 9000}, 401, "INVALID_USER_TOKEN", "Invalid user token"),
        (credentials(ttl_s=-5), 401, "EXPIRED_USER_TOKEN", "User token has expired"),
    ],
)
async def test_wrong_credentials_have_different_codes(
    client: Client, headers: dict[str, str], status: int, code: str, message: str
) -> None:
    answer = await client.get("/auth/logout", headers=headers)
    assert await error_of(answer) == {"message": message, "code": code, "status": status}
    assert answer.headers["RateLimit"] == '"logout-ip";r=29;t=3600', "what ends in 401 is charged"


@pytest.mark.parametrize(
    ("cause", "code", "message"),
    [
        (Cause.SUSPEND, "USER_SUSPENDED", "User is suspended"),
        (Cause.TERMINATE, "USER_TERMINATED", "User is terminated"),
    ],
)
@pytest.mark.parametrize("path", ["/auth/status", "/auth/logout"])
async def test_suspended_and_terminated_users_are_refused(
    client: Client, access: RedisAccess, cause: Cause, code: str, message: str, path: str
) -> None:
    await act(access, cause)
    answer = await client.get(path, headers=credentials())
    assert await error_of(answer) == {"message": message, "code": code, "status": 403}
    assert "RateLimit" in answer.headers


async def test_a_capability_restricted_for_the_tenant_is_refused_but_counts(make_client: MakeClient) -> None:
    client = await make_client(tenants={"acme": tenant(restricted_capabilities=["logout"])})
    answer = await client.get("/auth/logout", headers=credentials())
    expected = {"message": "Capability logout is restricted", "code": "RESTRICTED_CAPABILITY", "status": 403}
    assert await error_of(answer) == expected
    assert answer.headers["RateLimit"] == '"logout-ip";r=29;t=3600'
    after = await client.get("/auth/status", headers=credentials() | {"x-passive": "true"})
    assert (await after.json())["data"]["status"] == "logged_in", "the token was valid, so the request counts"


async def test_a_capability_restricted_for_one_user_in_redis_holds_for_the_next_request(
    client: Client, access: RedisAccess
) -> None:
    assert (await client.get("/auth/logout", headers=credentials())).status == 200
    acts = RedisOperatorActions(access.client)
    assert (await acts.restrict("acme", "alice", "logout", BY)).applied
    answer = await client.get("/auth/logout", headers=credentials())
    expected = {"message": "Capability logout is restricted", "code": "RESTRICTED_CAPABILITY", "status": 403}
    assert await error_of(answer) == expected
    assert (await client.get("/auth/logout", headers=credentials("bob"))).status == 200, "only hers"
    assert await acts.unrestrict("acme", "alice", "logout", BY)
    assert (await client.get("/auth/logout", headers=credentials())).status == 200


async def test_a_capability_restricted_for_a_tenant_in_redis_holds_for_it_alone(
    client: Client, access: RedisAccess
) -> None:
    await RedisOperatorActions(access.client).restrict("acme", None, "status", BY)
    assert (await client.get("/auth/status", headers=credentials())).status == 403
    other = credentials(tenant_token=OTHER_TENANT_TOKEN, secret=OTHER_SECRET)
    assert (await client.get("/auth/status", headers=other)).status == 200


async def test_the_31st_logout_within_an_hour_is_refused_and_changes_nothing(client: Client) -> None:
    headers = credentials()
    for _ in range(30):
        assert (await client.get("/auth/logout", headers=headers)).status == 200
    await client.get("/auth/status", headers=headers)
    answer = await client.get("/auth/logout", headers=headers)
    assert await error_of(answer) == {"message": "Too many requests", "code": "TOO_MANY_REQUESTS", "status": 429}
    retry_after = int(answer.headers["Retry-After"])
    assert 3590 <= retry_after <= 3600
    assert answer.headers["RateLimit-Policy"] == '"logout-ip";q=30;w=3600'
    assert answer.headers["RateLimit"] == f'"logout-ip";r=0;t={retry_after}'
    assert answer.headers["X-RateLimit-Remaining"] == "0"
    assert answer.headers["X-RateLimit-Reset"] == str(retry_after)
    after = await client.get("/auth/status", headers=headers | {"x-passive": "true"})
    assert (await after.json())["data"]["status"] == "logged_in"


async def test_a_refused_limit_wins_over_bad_credentials(make_client: MakeClient) -> None:
    one = [{"name": "logout-ip", "per": "ip", "requests": 1, "window": 60}]
    client = await make_client(limits={"logout": one})
    assert (await client.get("/auth/logout", headers={})).status == 401
    assert (await client.get("/auth/logout", headers={})).status == 429
    bad = {"x-tenant-token": TENANT_TOKEN, "x-token": "x"}
    assert (await client.get("/auth/logout", headers=bad)).status == 401, "a tenant's counters are its own"
    assert (await client.get("/auth/logout", headers=bad)).status == 429


async def test_1000_logouts_at_once_admit_exactly_30(client: Client) -> None:
    headers = credentials()

    async def one() -> int:
        return (await client.get("/auth/logout", headers=headers)).status

    answers = await asyncio.gather(*(one() for _ in range(1000)))
    assert (answers.count(200), answers.count(429)) == (30, 970)


async def test_structured_headers_name_each_limit_and_x_headers_the_tightest(make_client: MakeClient) -> None:
    limits = [
        {"name": "wide", "per": "tenant", "requests": 100, "window": 60},
        {"name": "tight", "per": "user", "requests": 3, "window": 10},
        {"name": "hidden", "per": "ip", "requests": 1, "window": 60, "shadow": True},
    ]
    client = await make_client(limits={"status": limits})
    for remaining in (2, 1, 0):
        answer = await client.get("/auth/status", headers=credentials())
        assert answer.status == 200, "a shadow limit never refuses"
        assert answer.headers["RateLimit-Policy"] == '"wide";q=100;w=60, "tight";q=3;w=10'
        assert answer.headers["X-RateLimit-Limit"] == "3"
        assert answer.headers["X-RateLimit-Remaining"] == str(remaining)
    refused = await client.get("/auth/status", headers=credentials())
    assert refused.status == 429
    assert '"wide";r=97' in refused.headers["RateLimit"], "if one refuses, none is charged"
    unknown = await client.get("/auth/status", headers={"x-tenant-token": TENANT_TOKEN})
    assert unknown.headers["RateLimit-Policy"] == '"wide";q=100;w=60', "no user, no per: user limit"
    text = await (await client.get("/metrics")).text()
    assert 'rollcall_limit_refusals_total{limit="hidden",shadow="true"} 4.0' in text


async def test_a_tenant_overrides_a_limit_by_name(make_client: MakeClient) -> None:
    own = {"logout": [{"name": "logout-ip", "per": "ip", "requests": 5, "window": 60}]}
    client = await make_client(tenants={"acme": tenant(limits=own)})
    answer = await client.get("/auth/logout", headers=credentials())
    assert answer.headers["RateLimit-Policy"] == '"logout-ip";q=5;w=60'


async def test_passive_requests_leave_no_trace_and_logout_ignores_it(client: Client) -> None:
    passive = credentials() | {"x-passive": "true"}
    answer = await client.get("/auth/status", headers=passive)
    data = (await answer.json())["data"]
    assert data == {
        "tenant": "acme",
        "userId": "alice",
        "status": "none",
        "previousStatus": None,
        "since": None,
        "lastSeen": None,
        "tokenExpiresAt": None,
    }
    assert "RateLimit" in answer.headers, "limits are charged all the same"
    await client.get("/auth/logout", headers=passive)
    data = (await (await client.get("/auth/status", headers=passive)).json())["data"]
    assert data["status"] == "logged_out"


async def test_within_the_logout_grace_requests_do_not_log_in_again(make_client: MakeClient) -> None:
    client = await make_client(sessions={"logout_grace": 3600})
    await client.get("/auth/logout", headers=credentials())
    data = (await (await client.get("/auth/status", headers=credentials())).json())["data"]
    assert data["status"] == "logged_out"


@pytest.mark.parametrize("path", ["/nothing", "/auth", "/auth/", "/auth/nothing", "/auth/logout/"])
async def test_what_is_not_there_is_404_in_the_envelope(client: Client, path: str) -> None:
    answer = await client.get(path)
    assert await error_of(answer) == {"message": "Not Found", "code": "NOT_FOUND", "status": 404}
    assert answer.headers["x-request-id"].startswith("req-")


@pytest.mark.parametrize(("method", "allow"), [("PUT", "GET, POST"), ("HEAD", "GET, POST"), ("OPTIONS", "GET, POST")])
async def test_a_method_that_is_not_allowed_is_405_and_uncharged(client: Client, method: str, allow: str) -> None:
    answer = await client.request(method, "/auth/logout")
    assert answer.status == 405
    assert answer.headers["allow"] == allow
    assert "RateLimit" not in answer.headers
    if method != "HEAD":
        expected = {"message": "Method Not Allowed", "code": "METHOD_NOT_ALLOWED", "status": 405}
        assert await error_of(answer) == expected


async def test_header_fields_of_more_than_32_kib_are_refused_with_a_bare_431(client: Client) -> None:
    headers = {f"x-{i}": "v" * 1000 for i in range(33)}
    answer = await client.get("/auth/status", headers=headers)
    assert (answer.status, await answer.read()) == (431, b"")


@pytest.mark.parametrize("given", ["a b", "x" * 129, "é", "", "a/b", 'a"b'])
async def test_a_request_id_that_is_not_well_formed_is_replaced(client: Client, given: str) -> None:
    answer = await client.get("/healthz", headers={"x-request-id": given})
    assert re.fullmatch(r"req-[0-9a-f]{24}", answer.headers["x-request-id"])
    assert (await answer.json())["meta"]["requestId"] == answer.headers["x-request-id"]


async def raising(_: web.Request) -> web.Response:
    raise RuntimeError("postgres://user:password@host")


@pytest.mark.parametrize(
    ("handler", "code", "message"),
    [
        (session_routes.logout, "UNEXPECTED_STATE", "Missing user context"),
        (raising, "INTERNAL_SERVER", "Something went wrong on our side."),
    ],
)
async def test_an_error_of_the_service_is_reported_without_its_text(
    access: RedisAccess, handler: Callable[..., Any], code: str, message: str
) -> None:
    app = await asyncio.to_thread(make_app, settings(), access)
    app[
        app_keys.REQUEST_SERVICES
    ].operations.clear()  # so that the authentication lets it pass, as a forgotten entry would
    app.router.add_get("/mistake", handler)
    async with TestClient(OurServer(app)) as client:
        answer = await client.get("/mistake")
        assert await error_of(answer) == {"message": message, "code": code, "status": 500}


async def test_tenants_never_see_each_other(client: Client) -> None:
    acme = credentials("carol")
    assert (await client.get("/auth/status", headers=acme)).status == 200
    crossed = {"x-tenant-token": OTHER_TENANT_TOKEN, "x-token": acme["x-token"]}
    assert (await error_of(await client.get("/auth/status", headers=crossed)))["code"] == "INVALID_USER_TOKEN"
    other = credentials("carol", tenant_token=OTHER_TENANT_TOKEN, secret=OTHER_SECRET)
    data = (await (await client.get("/auth/status", headers=other | {"x-passive": "true"})).json())["data"]
    assert (data["tenant"], data["status"]) == ("globex", "none"), "the same name is another user there"


async def test_a_token_that_names_its_tenant_is_good_there_alone(make_client: MakeClient) -> None:
    both = {"acme": tenant(), "globex": tenant(token=OTHER_TENANT_TOKEN)}
    client = await make_client(tenants=both)
    named = sign(tenant="acme")
    at_home = {"x-tenant-token": TENANT_TOKEN, "x-token": named}
    abroad = {"x-tenant-token": OTHER_TENANT_TOKEN, "x-token": named}
    assert (await client.get("/auth/status", headers=at_home)).status == 200
    assert (await client.get("/auth/status", headers=abroad)).status == 401


async def test_a_key_that_the_jwks_url_has_since_rotated_is_fetched_for_the_request(make_client: MakeClient) -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    before = ed25519.Ed25519PrivateKey.generate()
    held = [jwt.algorithms.OKPAlgorithm.to_jwk(before.public_key(), as_dict=True)]

    async def key_set(_: web.Request) -> web.Response:
        return web.json_response({"keys": [{**key, "kid": f"k{i}", "alg": "EdDSA"} for i, key in enumerate(held)]})

    issuer = web.Application()
    issuer.router.add_get("/jwks", key_set)
    async with TestServer(issuer) as server:
        section = {"token": TENANT_TOKEN, "jwt": {"jwks_url": str(server.make_url("/jwks"))}}
        client = await make_client(tenants={"acme": section})
        held.append(jwt.algorithms.OKPAlgorithm.to_jwk(private.public_key(), as_dict=True))
        claims = {"sub": "alice", "exp": time.time() + 60}
        token = jwt.encode(claims, private, algorithm="EdDSA", headers={"kid": "k1"})
        answer = await client.get("/auth/status", headers={"x-tenant-token": TENANT_TOKEN, "x-token": token})
        assert answer.status == 200
        made_up = jwt.encode(claims, private, algorithm="EdDSA", headers={"kid": "k9"})
        answer = await client.get("/auth/status", headers={"x-tenant-token": TENANT_TOKEN, "x-token": made_up})
        assert (await error_of(answer))["code"] == "INVALID_USER_TOKEN"
