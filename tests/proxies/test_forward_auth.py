"""Real proxies, configured as in `examples/`, each in front of an upstream that records what reaches it."""

import json
import re
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from service.core.sessions import Cause
from tests.kit import credentials as tokens_of
from tests.proxies.deployment import Deployment, deployed
from tests.proxies.versions import PROXIES, Proxy

pytestmark = [pytest.mark.slow, pytest.mark.real_redis]
SECRET = "demo-signing-secret-for-trying-out-only"
LIMITS = ("ratelimit", "ratelimit-policy", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")
_number = count()


def credentials(user: str | None = None, tenant: str = "demo", **how: Any) -> dict[str, str]:
    """Of a user that no other test knows, unless named."""
    named = user or f"user{next(_number)}"
    return tokens_of(named, tenant_token=f"{tenant}-tenant-token", secret=SECRET, kid="demo", **how)


def a_tenant(name: str, **values: Any) -> dict[str, Any]:
    jwt = {"keys": [{"kid": "demo", "alg": "HS256", "secret": SECRET}]}
    return {"token": f"{name}-tenant-token", "jwt": jwt, **values}


def more_tenants(content: dict[str, Any]) -> None:
    content["tenants"]["poor"] = a_tenant("poor", restricted_capabilities=["payments"])
    few = [{"name": "requests-ip", "per": "ip", "requests": 3, "window": 60}]
    content["tenants"]["small"] = a_tenant("small", limits={"verify": few})


@pytest.fixture(scope="module", params=PROXIES)
def deployment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp(request.param)
    with deployed(PROXIES[request.param], folder, more_tenants) as made:
        yield made


@pytest.fixture(autouse=True)
def _forget(request: pytest.FixtureRequest) -> None:
    if "deployment" in request.fixturenames:
        request.getfixturevalue("deployment").forget()


def refused(deployment: Deployment, answer: Any, status: int, code: str) -> None:
    """The client has the envelope, and the upstream heard nothing."""
    assert (answer.status, answer.code) == (status, code)
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert json.loads(answer.body)["meta"]["requestId"] == answer.headers["x-request-id"]
    assert answer.body.endswith(b"}\n")
    assert deployment.upstream.seen == []


def test_who_is_admitted_reaches_the_upstream_with_who_it_is(deployment: Deployment) -> None:
    answer = deployment.ask("GET", "/api/things?a=b%20c", credentials("anna b", exp=4102444800))
    assert answer.status == 200
    [seen] = deployment.upstream.seen
    reported = {name: value for name, value in seen["headers"].items() if name.startswith("x-auth-")}
    assert reported == {
        "x-auth-tenant": "demo",
        "x-auth-user": "anna%20b",
        "x-auth-status": "logged_in",
        "x-auth-expires": "2100-01-01T00:00:00.000Z",
    }
    assert seen["target"] == "/api/things?a=b%20c"
    if deployment.proxy.tells_limits:
        assert answer.headers["x-request-id"] == seen["headers"]["x-request-id"]
        assert set(LIMITS) <= answer.headers.keys()
        assert answer.headers["ratelimit-policy"] == '"requests-ip";q=600;w=60'


@pytest.mark.parametrize("user", ["🙂" * 512, "x" * 512])
def test_the_longest_token_and_the_longest_user_pass(deployment: Deployment, user: str) -> None:
    groups, exp = 0, 4102444800
    while len(credentials(user, exp=exp, groups=["g" * 36] * (groups + 1))["x-token"]) <= 12 * 1024:
        groups += 1
    answer = deployment.ask("GET", "/api/things", credentials(user, exp=exp, groups=["g" * 36] * groups))
    assert answer.status == 200
    [seen] = deployment.upstream.seen
    assert unquote(seen["headers"]["x-auth-user"]) == user


@pytest.mark.parametrize(
    ("without", "code"), [("x-token", "MISSING_USER_TOKEN"), ("x-tenant-token", "MISSING_TENANT_TOKEN")]
)
def test_without_a_token_the_answer_is_401(deployment: Deployment, without: str, code: str) -> None:
    headers = {name: value for name, value in credentials().items() if name != without}
    answer = deployment.ask("GET", "/api/things", headers)
    refused(deployment, answer, 401, code)
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert set(LIMITS) <= answer.headers.keys()


async def test_a_suspended_user_is_403(deployment: Deployment) -> None:
    await deployment.act("demo", "eve", Cause.SUSPEND)
    refused(deployment, deployment.ask("GET", "/api/things", credentials("eve")), 403, "USER_SUSPENDED")


def test_a_restricted_capability_is_403_for_its_routes_alone(deployment: Deployment) -> None:
    who = credentials(tenant="poor")
    refused(deployment, deployment.ask("POST", "/api/payments/7", who), 403, "RESTRICTED_CAPABILITY")
    assert deployment.ask("GET", "/api/payments/7", who).status == 200


def test_over_the_limit_the_client_sees_429_and_when_to_come_back(deployment: Deployment) -> None:
    who = credentials()
    assert [deployment.ask("POST", "/api/payments/7", who).status for _ in range(20)] == [200] * 20
    deployment.upstream.seen.clear()
    for _ in range(2):  # the second is refused without asking Redis
        answer = deployment.ask("POST", "/api/payments/7", who)
        refused(deployment, answer, 429, "TOO_MANY_REQUESTS")
        assert 0 < int(answer.headers["retry-after"]) <= 60
        assert '"payments-user";r=0;t=' in answer.headers["ratelimit"]
        assert answer.headers["x-ratelimit-remaining"] == "0"
    assert deployment.ask("GET", "/api/payments/7", who).status == 200, "the limit is of another rule"


def test_what_a_client_forges_gets_through_neither_to_the_service_nor_to_the_upstream(deployment: Deployment) -> None:
    forged = [
        *(("X-Auth-User", "root"), ("x-auth-status", "forged"), ("X-Auth-Tenant", "forged")),
        *(("X-Auth-Expires", "forged"), ("Forwarded", "for=9.9.9.9"), ("X-Forwarded-For", "9.9.9.9")),
        *(("X-Forwarded-Uri", "/public/forged"), ("X-Forwarded-Method", "OPTIONS")),
        *(("X-Original-URI", "/public/forged"), ("X-Original-Method", "OPTIONS"), ("X-Original-URI", "/public/forged")),
    ]  # fmt: skip
    refused(deployment, deployment.ask("POST", "/api/payments/7", forged), 401, "MISSING_TENANT_TOKEN")
    answer = deployment.ask("GET", "/api/things", [*credentials("anna").items(), *forged])
    assert answer.status == 200
    [seen] = deployment.upstream.seen
    assert seen["headers"]["x-auth-user"] == "anna"
    assert seen["headers"].get("x-forwarded-for", "127.0.0.1") == "127.0.0.1"
    assert not re.search("forged|9.9.9.9|root", json.dumps(seen))
    asked = deployment.relay.sent.decode()
    assert not re.search(r"(?i)(uri|method): *(/public/forged|OPTIONS)|9\.9\.9\.9", asked)


def test_an_open_route_lets_no_forged_identity_through(deployment: Deployment) -> None:
    forged = {"x-auth-user": "root", "x-auth-tenant": "demo", "x-auth-status": "logged_in", "x-auth-expires": "never"}
    assert deployment.ask("OPTIONS", "/api/things", forged).status == 200
    assert deployment.ask("GET", "/public/logo.svg", forged).status == 200
    for seen in deployment.upstream.seen:
        assert not {name for name in seen["headers"] if name.startswith("x-auth-")}


def test_a_forged_address_does_not_escape_a_limit_per_address(deployment: Deployment) -> None:
    def ask(number: int) -> int:
        return deployment.ask("GET", "/", credentials(tenant="small") | {"x-forwarded-for": f"9.9.9.{number}"}).status

    assert [ask(number) for number in range(5)] == [200, 200, 200, 429, 429]


def test_the_body_of_an_upload_goes_to_the_upstream_alone(deployment: Deployment) -> None:
    for headers in ({}, {"expect": "100-continue"}):
        deployment.upstream.seen.clear()
        answer = deployment.ask("PUT", "/api/upload", credentials() | headers, body=b"uploaded" * 50_000)
        assert answer.status == 200
        assert deployment.upstream.seen[0]["body_bytes"] == 400_000
    assert b"uploaded" not in deployment.relay.sent
    assert len(deployment.relay.sent) < 8000


def test_a_refused_upload_reaches_nobody(deployment: Deployment) -> None:
    refused(deployment, deployment.ask("PUT", "/api/upload", {}, body=b"uploaded" * 5000), 401, "MISSING_TENANT_TOKEN")
    assert b"uploaded" not in deployment.relay.sent


def test_after_a_logout_the_next_request_logs_in_again_and_one_event_says_so(deployment: Deployment) -> None:
    who = credentials("otto")

    def status(**headers: str) -> str:
        assert deployment.ask("GET", "/api/things", who | headers).status == 200
        return str(deployment.upstream.seen[-1]["headers"]["x-auth-status"])

    def reported() -> list[str]:
        return [to for user, to in deployment.events("demo") if user == "otto"]

    assert status() == "logged_in"
    assert deployment.ask("GET", "/auth/logout", who).status == 200
    assert reported() == ["logged_in", "logged_out"]
    assert status(**{"x-passive": "true"}) == "logged_out"
    assert reported() == ["logged_in", "logged_out"], "a passive request is no transition"
    assert [status(), status()] == ["logged_in", "logged_in"]
    assert reported() == ["logged_in", "logged_out", "logged_in"]


def test_what_cannot_be_read_as_a_path_is_refused(deployment: Deployment) -> None:
    answer = deployment.ask("GET", "/public/%2", credentials())
    assert answer.status == 400
    assert deployment.upstream.seen == []


def test_the_proxy_keeps_its_connection_to_the_service(deployment: Deployment) -> None:
    for headers in [credentials(), {}] * 20:
        deployment.ask("GET", "/api/things", headers)
    assert len(deployment.relay.connections) <= 4


@pytest.fixture(params=PROXIES)
def proxy(request: pytest.FixtureRequest) -> Proxy:
    return PROXIES[request.param]


def on_outage(sessions: str) -> Callable[[dict[str, Any]], None]:
    limit = {"name": "requests-ip", "per": "ip", "requests": 5, "window": 60, "on_outage": "local"}

    def change(content: dict[str, Any]) -> None:
        content["sessions"] = {"on_outage": sessions}
        content["limits"] = {"verify": [limit]}

    return change


def test_without_redis_the_answer_is_503_and_nothing_passes(proxy: Proxy, tmp_path: Path) -> None:
    with deployed(proxy, tmp_path, on_outage("deny")) as deployment:
        who = credentials()
        assert deployment.ask("GET", "/api/things", who).status == 200
        deployment.upstream.seen.clear()
        deployment.kill_redis()
        answer = deployment.ask("GET", "/api/things", who)
        assert (answer.status, deployment.upstream.seen) == (503, [])
        if proxy.keeps_5xx:
            refused(deployment, answer, 503, "SERVICE_UNAVAILABLE")
            assert answer.headers["retry-after"] == "1"
            assert answer.headers["x-degraded"] == "limits, sessions"


def test_without_redis_the_token_alone_decides_where_that_is_asked_for(proxy: Proxy, tmp_path: Path) -> None:
    with deployed(proxy, tmp_path, on_outage("allow")) as deployment:
        deployment.kill_redis()
        who = credentials()
        answers = [deployment.ask("GET", "/api/things", who) for _ in range(6)]
        assert [one.status for one in answers] == [200] * 5 + [429], "the worker enforces the limit by itself"
        if proxy.tells_limits:
            assert answers[0].headers["x-degraded"] == "limits, sessions"
        for seen in deployment.upstream.seen:
            assert seen["headers"]["x-auth-tenant"] == "demo"
            assert "x-auth-status" not in seen["headers"], "nothing is made up"


def test_without_the_service_nothing_passes(proxy: Proxy, tmp_path: Path) -> None:
    with deployed(proxy, tmp_path) as deployment:
        deployment.service.end()
        answer = deployment.ask("GET", "/api/things", credentials())
        assert (answer.status, deployment.upstream.seen) == (proxy.without_rollcall, [])
