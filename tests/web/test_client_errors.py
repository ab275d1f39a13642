"""A command of redis-py that fails by accident, in a failover, is an outage to operators: 503, never 500."""

import re
from typing import Any

import pytest
from redis.asyncio.connection import AbstractConnection

from tests.conftest import MakeClient
from tests.kit import OPERATOR_TOKEN, config, tenant
from tests.web.dashboard_pages import log_in

OPERATOR = {"authorization": f"Bearer {OPERATOR_TOKEN}"}
FILLED = {
    "tenant": "acme",
    "user": "alice",
    "limit": "status-ip",
    "webhook": "hook",
    "capability": "pay",
    "act": "suspend",
    "leftover": "old",
}
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/admin/v1/tenants/acme/sessions/suspend"): {"users": ["alice"]},
    ("POST", "/admin/v1/tenants/acme/limits/status-ip/reset"): {"subject": "10.0.0.1"},
    ("PUT", "/admin/v1/tenants/acme/limits/status-ip"): {"requests": 5, "window": 60},
}
QUERIES = {("GET", "/admin/v1/tenants/acme/limits/status-ip"): "?subject=10.0.0.1"}
BY_QUERY = "/admin/v1/tenants/acme/user/"
WITHOUT_REDIS = {"/admin/v1"}
"""Answers that ask Redis for nothing."""
PAGES = ("/dashboard?tenant=acme", "/dashboard/user?tenant=acme&user=alice", "/dashboard/rules?tenant=acme")
ACCIDENTS = [
    AttributeError("'NoneType' object has no attribute 'writelines'"),
    RuntimeError("read() called while another coroutine is already waiting for incoming data"),
    KeyError(3999),
]


def calls(client: Any) -> list[tuple[str, str, dict[str, Any]]]:
    """Method, path and body of each operation of the admin API, but for the event stream, which waits for Redis."""
    found = []
    for route in client.app.router.routes():
        canonical = "" if route.resource is None else str(route.resource.canonical)
        if not canonical.startswith("/admin/v1") or canonical.endswith("/events") or route.method in ("HEAD", "*"):
            continue
        path = re.sub(r"\{(\w+)\}", lambda part: FILLED[part[1]], canonical)
        query = "?user=alice" if f"{path}/".startswith(BY_QUERY) else QUERIES.get((route.method, path), "")
        found.append((route.method, path + query, BODIES.get((route.method, path), {})))
    return found


@pytest.mark.parametrize("access", [pytest.param("real", marks=pytest.mark.real_redis)], indirect=True)
@pytest.mark.parametrize("error", ACCIDENTS, ids=lambda error: type(error).__name__)
async def test_no_operation_and_no_page_is_a_500(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    webhook = {"name": "hook", "url": "http://127.0.0.1:9/", "secret": "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"}
    limits = {"admin": [], "status": config()["limits"]["status"]}
    client = await make_client(limits=limits, tenants={"acme": tenant(webhooks=[webhook])})
    cookies = (await log_in(client)).cookies

    async def failing(*_: Any, **__: Any) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(AbstractConnection, "read_response", failing)
        for method, path, body in calls(client):
            async with client.request(method, path, headers=OPERATOR, json=body) as answer:
                expected = {200} if path in WITHOUT_REDIS else {503}
                assert answer.status in expected, (method, path, await answer.text())
        for path in PAGES:
            async with client.get(path, cookies={name: one.value for name, one in cookies.items()}) as answer:
                assert answer.status in (200, 503), (path, await answer.text())
