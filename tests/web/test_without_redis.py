"""Answers while Redis is away."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from service.app import make_app
from service.store.connection.client import RedisAccess, TlsFiles
from tests.conftest import Client, MakeClient
from tests.kit import OurServer, credentials, settings, tenant
from tests.web.dashboard_pages import log_in


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

    client = await make_cut_off()
    assert (await log_in(client)).status == 303
    answer = await client.get("/dashboard")
    assert answer.status == 503
    assert "Redis does not answer" in await answer.text()
