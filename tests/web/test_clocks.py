"""What answers, metrics and `/readyz` say while Redis's clock differs from the service's."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any

import pytest

from service.store.connection.client import RedisAccess
from tests.conftest import Client, MakeClient
from tests.faketime import FakeClockRedis, emptied, redis_with_a_clock
from tests.kit import OPERATOR, credentials
from tests.web.admin_requests import AT, ask

pytestmark = pytest.mark.real_redis


@pytest.fixture(scope="module")
def server() -> Iterator[FakeClockRedis]:
    with redis_with_a_clock() as started:
        yield started


@pytest.fixture
async def access(server: FakeClockRedis) -> AsyncIterator[RedisAccess]:
    async with emptied(server) as made:
        yield made


async def ready(client: Client) -> list[str]:
    found: list[str] = (await (await client.get("/readyz")).json())["data"]["warnings"]
    return [one for one in found if "clock" in one]


async def gauge(client: Client) -> float:
    lines = (await (await client.get("/metrics")).text()).splitlines()
    [line] = [line for line in lines if line.startswith("rollcall_redis_clock_difference_seconds ")]
    return float(line.split()[1])


async def until(found: Any) -> None:
    async with asyncio.timeout(10):
        while not await found():  # noqa: ASYNC110  # another process's clock
            await asyncio.sleep(0.02)


async def test_the_difference_is_measured_repeatedly_and_shown_by_readyz_and_a_gauge(
    server: FakeClockRedis, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.clock_comparison.EVERY_S", 0.05)
    server.set_ahead(-3)
    client = await make_client()
    await until(lambda: ready(client))
    assert await ready(client) == ["The clock of Redis (primary) is 3.0 s behind the clock of the service"]
    assert abs(await gauge(client) + 3) < 0.5
    server.set_ahead(0.1)

    async def is_well() -> bool:
        return await ready(client) == []

    await until(is_well)
    assert abs(await gauge(client) - 0.1) < 0.5


@pytest.mark.parametrize("offset_s", [-3, 3, 3600])
async def test_no_answer_is_older_than_what_it_says_has_happened(
    server: FakeClockRedis, client: Client, offset_s: int
) -> None:
    server.set_ahead(offset_s)
    headers = credentials("alice")

    def is_in_order(content: Any, *moments: str) -> bool:
        return all(
            datetime.fromisoformat(one) <= datetime.fromisoformat(content["meta"]["timestamp"]) for one in moments
        )

    for path in ("/auth/status", "/auth/logout", "/auth/status"):
        content = await (await client.get(path, headers=headers)).json()
        assert path == "/auth/logout" or is_in_order(content, content["data"]["since"], content["data"]["lastSeen"])
    for method, path in [
        ("GET", f"{AT}/users/alice"),
        ("GET", f"{AT}/sessions"),
        ("POST", f"{AT}/users/alice/suspend"),
    ]:
        content = await (await client.request(method, path, headers=OPERATOR)).json()
        data = content["data"]
        sessions = data["sessions"] if "sessions" in data else [data.get("session", data)]
        moments = [one[name] for one in sessions for name in ("since", "lastSeen")]
        assert is_in_order(content, *moments, *[event["at"] for event in data.get("events", ())])


@pytest.mark.parametrize("offset_s", [-3, -600, 600])
async def test_a_thief_is_out_at_once_whatever_redis_s_clock_says(
    server: FakeClockRedis, client: Client, offset_s: int
) -> None:
    stolen = credentials("alice", iat=int(time.time()))
    assert (await client.get("/auth/status", headers=stolen)).status == 200
    server.set_ahead(offset_s)
    await ask(client, "PUT", f"{AT}/users/alice/revocation", {})
    assert (await client.get("/auth/status", headers=stolen)).status == 401
    await ask(client, "DELETE", f"{AT}/users/alice/revocation", {})
    assert (await client.get("/auth/status", headers=stolen)).status == 200
    await ask(client, "POST", f"{AT}/users/alice/logout", {"everywhere": True})
    assert (await client.get("/auth/status", headers=stolen)).status == 401


@pytest.mark.parametrize("everywhere", [False, True])
async def test_answers_and_readyz_say_that_a_revocation_was_set_by_a_clock_hours_ahead_and_how_to_end_it(
    server: FakeClockRedis, client: Client, everywhere: bool
) -> None:
    login = credentials("alice", iat=int(time.time()))
    assert (await client.get("/auth/status", headers=login)).status == 200
    server.set_ahead(3 * 3600)
    revocation, act = f"{AT}/users/alice/revocation", f"{AT}/users/alice/logout"
    if everywhere:
        answer = await ask(client, "POST", act, {"everywhere": True})
    else:
        answer = await ask(client, "PUT", revocation, {})
    assert "differ by 10" in answer["note"]
    assert "lift the revocation" in answer["note"]
    server.set_ahead(0)
    login = credentials("alice", iat=int(time.time()))
    assert (await client.get("/auth/status", headers=login)).status == 401
    assert "it lies ahead" in (await ask(client, "GET", f"{AT}/users/alice"))["note"]
    [warning] = [one for one in await ready(client) if "revocation" in one]
    assert "Tenant acme has a revocation that lies ahead of the clock" in warning
    assert "lift it" in warning
    await ask(client, "DELETE", revocation, {})
    assert (await client.get("/auth/status", headers=login)).status == 200
    assert "note" not in await ask(client, "GET", f"{AT}/users/alice")
    assert "note" not in await ask(client, "PUT", revocation, {})
