"""`/auth/verify`: the requests and answers of each profile."""

import json

import pytest

from service.core.operator_actions import Author
from service.core.sessions import Cause
from service.store.connection.client import RedisAccess
from service.store.events.stream import Events
from service.store.sessions.operator_actions import RedisOperatorActions
from service.web.api.forward_auth import PROFILES, escaped
from tests.conftest import Client, MakeClient
from tests.kit import OPERATOR_TOKEN, OTHER_TENANT_TOKEN, credentials, tenant
from tests.web.verifying import ALL, ROUTES, TRUSTED, ask, asking

BY = Author("root")


@pytest.mark.parametrize("profile", ALL)
async def test_the_backend_receives_the_identity_of_an_admitted_request(guarded: Client, profile: str) -> None:
    answer = await ask(guarded, profile, "GET", "/api/things?x=1", credentials(exp=1893456000.5))
    assert answer.status == 200
    assert (await answer.json())["data"] == {"success": True}
    reported = {name: value for name, value in answer.headers.items() if name.startswith("x-auth-")}
    assert reported == {
        "x-auth-admitted": "1",
        "x-auth-tenant": "acme",
        "x-auth-user": "alice",
        "x-auth-status": "logged_in",
        "x-auth-expires": "2030-01-01T00:00:00.500Z",
    }


@pytest.mark.parametrize("profile", ALL)
async def test_the_first_rule_that_matches_the_original_request_holds(guarded: Client, profile: str) -> None:
    headers = credentials()
    payment = await ask(guarded, profile, "POST", "/api/payments/7", headers)
    assert payment.headers["RateLimit"].startswith('"payments-user";r=1')
    assert "RateLimit" not in (await ask(guarded, profile, "GET", "/api/payments/7", headers)).headers
    assert (await ask(guarded, profile, "GET", "/public/logo", {})).status == 200
    assert (await ask(guarded, profile, "OPTIONS", "/api/payments/7", {})).status == 200
    elsewhere = await ask(guarded, profile, "GET", "/elsewhere", headers)
    assert elsewhere.headers.get("x-deny-status", "403") == "403"
    assert (elsewhere.status, (await elsewhere.json())["error"]["code"]) == (403, "FORBIDDEN")
    assert (await ask(guarded, profile, "GET", "/elsewhere", {})).status == 401


async def test_an_open_route_checks_no_credentials_and_sends_no_identity(guarded: Client, access: RedisAccess) -> None:
    await RedisOperatorActions(access.client).act("acme", ["alice"], Cause.SUSPEND, Author("root"))
    for headers in ({}, credentials(), {"x-tenant-token": "wrong", "x-token": "wrong"}):
        answer = await ask(guarded, "", "GET", "/public/x", headers)
        assert answer.status == 200
        assert [name for name in answer.headers if name.startswith("x-auth-")] == ["x-auth-admitted"]


@pytest.mark.parametrize("profile", ALL)
@pytest.mark.parametrize("minimal", [{}, {"prefer": "return=minimal"}], ids=["whole", "minimal"])
async def test_every_admission_is_marked_on_open_routes_too(
    guarded: Client, profile: str, minimal: dict[str, str]
) -> None:
    for method, target, who in [
        ("GET", "/api/things", credentials()),
        ("GET", "/api/things", credentials() | {"x-passive": "true"}),
        ("POST", "/api/payments/7", credentials()),
        ("GET", "/public/logo", {}),
        ("OPTIONS", "/api/things", {}),
    ]:
        answer = await ask(guarded, profile, method, target, who | minimal)
        assert (answer.status, answer.headers.getall("x-auth-admitted")) == (200, ["1"]), (method, target)


@pytest.mark.parametrize("profile", ALL)
async def test_a_refusal_is_never_marked(guarded: Client, access: RedisAccess, profile: str) -> None:
    await RedisOperatorActions(access.client).act("acme", ["eve"], Cause.SUSPEND, BY)
    # A marker of the client's own is not handed back.
    forged = {"x-auth-admitted": "1"}
    for _ in range(2):
        await ask(guarded, profile, "POST", "/api/payments/7", credentials("otto"))
    for method, target, who in [
        ("GET", "/api/things", {}),
        ("GET", "/api/things", credentials() | {"x-token": "wrong"}),
        ("GET", "/api/things", credentials() | {"x-tenant-token": "wrong"}),
        ("GET", "/api/things", credentials("eve")),
        ("GET", "/elsewhere", credentials()),
        ("GET", "/public/%00", credentials()),
        ("GET", "/api/things", credentials() | {"x-long": "x" * 16_380}),
        ("POST", "/api/payments/7", credentials("otto")),
    ]:
        answer = await ask(guarded, profile, method, target, who | forged)
        assert answer.status >= 400
        assert "x-auth-admitted" not in answer.headers, (method, target)


async def test_what_is_not_an_answer_of_verify_is_never_marked(make_client: MakeClient) -> None:
    client = await make_client(server={**TRUSTED, "cors_origins": ["https://app.example"]}, routes=ROUTES)
    who = credentials() | {"authorization": f"Bearer {OPERATOR_TOKEN}", "x-auth-admitted": "1"}
    pages = ["/auth/logout", "/auth/status", "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/dashboard"]
    for path in [*pages, "/admin/v1/tenants", "/dashboard/static/rollcall.css", "/nowhere", "/auth/verify/nowhere"]:
        for method in ("GET", "HEAD", "OPTIONS"):
            answer = await client.request(method, path, headers=who)
            assert "x-auth-admitted" not in answer.headers, (method, path)
    asks = {"origin": "https://app.example", "access-control-request-method": "GET"}
    for path in PROFILES.keys() - {"/auth/verify/envoy"}:  # which takes an OPTIONS for the original's
        answer = await client.options(path, headers=asks)
        assert "x-auth-admitted" not in answer.headers, "a preflight is no admission"
    answer = await client.post("/auth/terminate", json={"strategy": "soft"}, headers=credentials())
    assert (answer.status, "x-auth-admitted" in answer.headers) == (201, False)


@pytest.mark.parametrize("profile", ALL)
async def test_every_method_is_judged_and_a_head_has_no_body(guarded: Client, profile: str) -> None:
    for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "POST", "PROPFIND"):
        answer = await ask(guarded, profile, method, "/api/x", credentials())
        assert answer.status == 200, method
        body = await answer.read()
        assert bool(body) is not (profile == "envoy" and method == "HEAD")


@pytest.mark.parametrize("profile", ALL)
async def test_a_proxy_that_prefers_little_hears_of_an_admission_without_a_body(guarded: Client, profile: str) -> None:
    minimal = {"prefer": "return=minimal"}
    admitted = await ask(guarded, profile, "GET", "/api/x", credentials() | minimal)
    assert (admitted.status, await admitted.read()) == (200, b"")
    assert admitted.headers["x-auth-user"] == "alice"
    refused = await ask(guarded, profile, "GET", "/api/x", minimal)
    assert (await refused.json())["error"]["code"] == "MISSING_TENANT_TOKEN", "a refusal has its body"


async def test_nginx_may_ask_with_head_and_hears_all_there_is(guarded: Client) -> None:
    _, path, reported = asking("nginx", "GET", "/api/x")
    answer = await guarded.head(path, headers=reported)
    assert (answer.status, answer.headers["x-deny-status"]) == (401, "401")
    assert json.loads(answer.headers["x-deny-body"])["error"]["code"] == "MISSING_TENANT_TOKEN"
    assert await answer.read() == b""


@pytest.mark.parametrize("profile", [one for one in ALL if one != "nginx"])
async def test_a_refusal_is_the_envelope_with_its_real_status(guarded: Client, profile: str) -> None:
    headers = credentials()
    for _ in range(2):
        assert (await ask(guarded, profile, "POST", "/api/payments/1", headers)).status == 200
    refused = await ask(guarded, profile, "POST", "/api/payments/1", headers)
    assert refused.status == 429
    assert refused.headers["Retry-After"] == "60"
    assert (await refused.json())["error"]["code"] == "TOO_MANY_REQUESTS"
    assert "x-deny-status" not in refused.headers
    assert not [name for name in refused.headers if name.startswith("x-auth-")]


async def test_nginx_hears_403_and_the_real_status_and_body_in_fields(guarded: Client) -> None:
    headers = credentials()
    for _ in range(2):
        await ask(guarded, "nginx", "POST", "/api/payments/1", headers)
    refused = await ask(guarded, "nginx", "POST", "/api/payments/1", headers)
    assert refused.status == 403
    assert refused.headers["x-deny-status"] == "429"
    assert refused.headers["Retry-After"] == "60"
    assert f"{refused.headers['x-deny-body']}\n" == await refused.text(), "a header field holds no newline"
    unknown = await ask(guarded, "nginx", "GET", "/api/x", {})
    assert (unknown.status, unknown.headers["x-deny-status"]) == (401, "401")
    unreadable = await ask(guarded, "nginx", "GET", "/%00", headers)
    assert (unreadable.status, unreadable.headers["x-deny-status"]) == (403, "400")
    too_long = await ask(guarded, "nginx", "GET", "/api/x", headers | {"x-long": "x" * 16_380})
    assert (too_long.status, await too_long.read()) == (431, b"")  # below HTTP: nginx's own limit is smaller


async def test_a_tenants_own_routes_come_before_those_for_all(make_client: MakeClient) -> None:
    own = tenant(routes=[{"path": "/public/*", "capability": "api"}, {"path": "/own/*"}])
    client = await make_client(server=TRUSTED, routes=ROUTES, tenants={"acme": own})
    assert (await ask(client, "", "GET", "/public/x", {})).status == 200
    assert (await ask(client, "", "GET", "/public/x", {"x-tenant-token": own["token"]})).status == 401
    assert (await ask(client, "", "GET", "/own/x", credentials())).status == 200
    globex = credentials(tenant_token=OTHER_TENANT_TOKEN, secret="another-secret-of-32-bytes-for-tests")
    assert (await ask(client, "", "GET", "/own/x", globex)).status == 403


async def test_limits_of_verify_and_of_the_route_both_hold(make_client: MakeClient) -> None:
    limits = {"verify": [{"name": "verify-ip", "per": "ip", "requests": 3, "window": 60}]}
    client = await make_client(server=TRUSTED, routes=ROUTES, limits=limits)
    headers = credentials()
    first = await ask(client, "", "POST", "/api/payments/1", headers)
    assert first.headers["RateLimit"] == '"verify-ip";r=2;t=60, "payments-user";r=1;t=60'
    assert (await ask(client, "", "POST", "/api/payments/1", headers)).status == 200
    assert (await ask(client, "", "POST", "/api/payments/1", headers)).status == 429
    free = await ask(client, "", "GET", "/api/x", headers)
    assert free.headers["RateLimit"].startswith('"verify-ip";r=0'), "the refused one used up nothing"
    assert (await ask(client, "", "GET", "/api/x", headers)).status == 429
    unreadable = await ask(client, "", "GET", "/%00", headers)
    assert unreadable.status == 429, "a limit wins over everything below"
    assert (await ask(client, "", "GET", "/nowhere", {})).status != 404


async def test_a_bad_request_and_a_forbidden_one_are_charged(make_client: MakeClient) -> None:
    limits = {"verify": [{"name": "verify-ip", "per": "ip", "requests": 3, "window": 60}]}
    client = await make_client(server=TRUSTED, routes=ROUTES, limits=limits)
    unreadable = await ask(client, "", "GET", "/%00", credentials())
    assert (unreadable.status, unreadable.headers["RateLimit"]) == (400, '"verify-ip";r=2;t=60')
    nowhere = await ask(client, "", "GET", "/nowhere", credentials())
    assert nowhere.status == 403
    assert nowhere.headers["RateLimit"].startswith('"verify-ip";r=1')


@pytest.mark.parametrize("named", ["payments", "verify"])
async def test_a_restricted_capability_is_refused(make_client: MakeClient, named: str) -> None:
    acme = tenant(restricted_capabilities=[named])
    client = await make_client(server=TRUSTED, routes=ROUTES, tenants={"acme": acme})
    answer = await ask(client, "", "POST", "/api/payments/1", credentials())
    assert answer.status == 403
    assert (await answer.json())["error"]["message"] == f"Capability {named} is restricted"
    assert (await ask(client, "", "GET", "/api/x", credentials())).status == (200 if named == "payments" else 403)


async def test_a_capability_restricted_in_redis_holds_for_the_very_next_request(
    guarded: Client, access: RedisAccess
) -> None:
    acts = RedisOperatorActions(access.client)
    headers = credentials()
    assert (await ask(guarded, "", "GET", "/api/x", headers)).status == 200
    await acts.restrict("acme", "alice", "api", BY)
    assert (await ask(guarded, "", "GET", "/api/x", headers)).status == 403
    assert (await ask(guarded, "", "POST", "/api/payments/1", headers)).status == 200
    await acts.unrestrict("acme", "alice", "api", BY)
    assert (await ask(guarded, "", "GET", "/api/x", headers)).status == 200


async def test_a_request_after_logout_logs_in_again_with_one_event_unless_passive(
    guarded: Client, access: RedisAccess
) -> None:
    headers = credentials()
    await ask(guarded, "", "GET", "/api/x", headers)
    await guarded.get("/auth/logout", headers=headers)
    passive = await ask(guarded, "", "GET", "/api/x", headers | {"x-passive": "true"})
    assert (passive.status, passive.headers["x-auth-status"]) == (200, "logged_out")
    for _ in range(3):
        assert (await ask(guarded, "", "GET", "/api/x", headers)).headers["x-auth-status"] == "logged_in"
    history = await Events(access.client).history("acme", "alice", most=10)
    assert [event.fields["to"] for event in history.events][::-1] == ["logged_in", "logged_out", "logged_in"]


async def test_a_user_nobody_saw_yet_is_none_to_a_passive_request(guarded: Client) -> None:
    answer = await ask(guarded, "", "GET", "/api/x", credentials() | {"x-passive": "true"})
    assert answer.headers["x-auth-status"] == "none"


@pytest.mark.parametrize(
    ("user", "field"),
    [
        ("alice@example.com", "alice@example.com"),
        (" alice ", "%20alice%20"),
        ("100%", "100%25"),
        ("søren", "s%C3%B8ren"),
        ('a"b,c;d=e', 'a"b,c;d=e'),
    ],
)
async def test_no_two_user_ids_have_the_same_encoding(client: Client, user: str, field: str) -> None:
    assert escaped(user) == field
    answer = await client.get("/auth/verify", headers=credentials(user))
    assert answer.headers["x-auth-user"] == field


@pytest.mark.parametrize("path", ["/auth/verify/", "/auth/verify/other", "/auth/verify/nginx/x", "/auth/verifyx"])
async def test_a_profile_that_is_not_there_is_404(client: Client, path: str) -> None:
    assert (await client.get(path, headers=credentials())).status == 404


async def test_a_query_of_our_own_changes_nothing(guarded: Client) -> None:
    """Aiohttp's router answers it, with the same middlewares."""
    reported = {"x-original-method": "GET", "x-original-uri": "/api/x"}
    answer = await guarded.get("/auth/verify/nginx?x=1", headers=credentials() | reported)
    assert answer.status == 200
    refused = await guarded.get("/auth/verify/nginx?x=1", headers=reported)
    assert refused.headers["x-deny-status"] == "401"


def test_there_is_a_profile_for_each_proxy() -> None:
    assert set(PROFILES) == {f"/auth/verify{name and '/'}{name}" for name in ALL}
