"""What operators must know is in the metrics: reloads, webhooks, acts, and transitions by cause."""

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from service.app import RUNTIME
from service.core.operator_actions import Author
from service.core.sessions import Cause
from service.process.reloading import Reloader
from service.store.connection.client import RedisAccess
from service.store.sessions.operator_actions import RedisOperatorActions
from tests.conftest import Client, MakeClient
from tests.kit import OPERATOR, config, credentials, free_port, tenant

pytestmark = pytest.mark.parametrize("access", ["fake"], indirect=True)
AT = "/admin/v1/tenants/acme"


async def read(client: Client, name: str) -> dict[str, float]:
    """The samples of a metric: labels → value."""
    text = await (await client.get("/metrics")).text()
    found = re.findall(rf"^rollcall_{name}(?:\{{(.*)\}})? (\S+)$", text, re.M)
    return {re.sub(r'\w+="(\w*)"', r"\1", labels): float(value) for labels, value in found}


async def until(ready: Callable[[], Any]) -> Any:
    async with asyncio.timeout(10):
        while not (found := await ready()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return found


async def test_transitions_are_counted_by_cause_operators_and_the_sweeps_too(client: Client) -> None:
    await client.get("/auth/status", headers=credentials("alice"))
    await client.get("/auth/status", headers=credentials("bob", ttl_s=1))
    await client.post("/auth/logout", headers=credentials("alice"))
    await client.post(f"{AT}/users/alice/suspend", headers=OPERATOR)
    await client.post(f"{AT}/users/alice/suspend", headers=OPERATOR)
    await client.post("/auth/terminate", headers=credentials("carol"), json={"strategy": "hard"})
    client.app[RUNTIME].count_swept("acme", 2, 0)
    assert await read(client, "transitions_total") == {
        "request,none,logged_in": 2,
        "logout,logged_in,logged_out": 1,
        "suspend,logged_out,suspended": 1,
        "own_terminate,none,terminated": 1,
        "expiry,logged_in,expired": 2,
    }


async def test_acts_are_counted_by_kind_and_refused_ones_are_not(client: Client) -> None:
    for act, status in (("suspend", 200), ("reinstate", 200), ("reinstate", 409)):
        answer = await client.post(f"{AT}/users/alice/{act}", headers=OPERATOR)
        assert answer.status == status
    await client.put(f"{AT}/restrictions/pay", headers=OPERATOR)
    await client.put(f"{AT}/limits/status-ip", headers=OPERATOR, json={"requests": 5, "window": 60})
    await client.post(f"{AT}/sessions/suspend", headers=OPERATOR, json={"users": ["a", "b"]})
    await client.get(AT, headers=OPERATOR)
    assert await read(client, "acts_total") == {"suspend": 2, "reinstate": 1, "restrict": 1, "set_limit": 1}


async def test_webhook_failures_are_counted_and_the_age_of_the_oldest_waiting_event_is_shown(
    make_client: MakeClient, access: RedisAccess
) -> None:
    hook = {"name": "audit", "url": f"http://127.0.0.1:{free_port()}/", "secret": "x" * 32}
    client = await make_client(tenants={"acme": tenant(webhooks=[hook])})
    states = client.app[RUNTIME].webhook_states

    async def begun() -> Any:
        return (await states.state("acme", "audit")).cursor

    await until(begun)
    await RedisOperatorActions(access.client).act("acme", ["alice"], Cause.SUSPEND, Author("root"))
    assert (await until(lambda: read(client, "webhook_failures_total"))).keys() == {"acme,audit"}

    async def old() -> bool:
        return (await read(client, "webhook_oldest_waiting_seconds")).get("acme,audit", 0) > 0.1

    await until(old)
    waiting = (await states.state("acme", "audit")).waiting
    assert waiting is not None
    await client.post(f"{AT}/webhooks/audit/pause", headers=OPERATOR)
    assert (await read(client, "acts_total")) == {"pause_webhook": 1}


@pytest.fixture
async def reloading(make_client: MakeClient, tmp_path: Path) -> tuple[Client, Reloader, Path]:
    client = await make_client()
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(config()))
    return client, Reloader(path, client.app[RUNTIME]), path


async def test_whether_the_last_reload_succeeded_and_when_is_shown(reloading: tuple[Client, Reloader, Path]) -> None:
    client, reloader, path = reloading
    assert await read(client, "config_last_reload_successful") == {"": 1}
    began = (await read(client, "config_last_reload_success_timestamp_seconds"))[""]
    path.write_text("tenants: {}")
    assert not await reloader.reload()
    assert await read(client, "config_last_reload_successful") == {"": 0}
    assert (await read(client, "config_last_reload_success_timestamp_seconds"))[""] == began
    path.write_text(json.dumps(config()))
    assert await reloader.reload()
    assert await read(client, "config_last_reload_successful") == {"": 1}
    assert (await read(client, "config_last_reload_success_timestamp_seconds"))[""] > began


async def test_a_reload_names_what_operators_set_over_the_change_and_what_they_set_for_nothing(
    reloading: tuple[Client, Reloader, Path],
) -> None:
    client, reloader, path = reloading
    for limit in ("status-ip", "logout-ip"):
        await client.put(f"{AT}/limits/{limit}", headers=OPERATOR, json={"requests": 5, "window": 60})
    limits = {
        "logout": [{"name": "logout-everybody", "per": "ip", "requests": 30, "window": 3600}],
        "status": [{"name": "status-ip", "per": "ip", "requests": 700, "window": 60}],
    }
    path.write_text(json.dumps(config(limits=limits)))
    with structlog.testing.capture_logs() as lines:
        assert await reloader.reload()

        async def reported() -> bool:
            return any("not configured any more" in line["event"] for line in lines)

        await until(reported)
    shown = [line["limits"] for line in lines if "operators set" in line["event"]]
    assert shown == [["acme: status-ip is 5/60 s, the file says 700/60 s"], ["acme: logout-ip"]]
    with structlog.testing.capture_logs() as again:
        assert await reloader.reload()

        async def reported_again() -> bool:
            return any("operators set" in line["event"] for line in again)

        await until(reported_again)
    assert [line["limits"] for line in again if "operators set" in line["event"]] == [["acme: logout-ip"]], (
        "nothing changed any more"
    )
