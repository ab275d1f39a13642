"""Health checks and metrics."""

import asyncio
import re

import pytest

from service.store.connection.client import RedisAccess
from tests.conftest import Client, MakeClient
from tests.kit import credentials, tenant


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
