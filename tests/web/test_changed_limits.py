"""Limits that an operator or a reload changes while requests come: over HTTP, and for whoever has asked before."""

import asyncio

import pytest

from service.app import RUNTIME
from service.policy_factory import make_policy
from service.store.admissions.window_retention import Retention
from service.store.connection.client import RedisAccess
from service.store.keyspace import keys_of, limit_of_window
from service.store.sessions.operator_actions import RedisOperatorActions
from tests.conftest import Client, MakeClient
from tests.kit import OPERATOR, credentials, settings

LIMIT = "/admin/v1/tenants/acme/limits/status-ip"
WINDOW = keys_of("acme").window("status-ip", "127.0.0.1")


def with_limit(requests: int, window: int) -> dict[str, object]:
    return {"limits": {"status": [{"name": "status-ip", "per": "ip", "requests": requests, "window": window}]}}


async def ask(client: Client) -> tuple[int, dict[str, str]]:
    answer = await client.get("/auth/status", headers=credentials())
    return answer.status, dict(answer.headers)


@pytest.mark.parametrize("access", ["fake", "real"], indirect=True)
async def test_a_limit_that_is_lowered_in_an_incident_holds_with_what_was_admitted_counted(
    make_client: MakeClient,
) -> None:
    client = await make_client(**with_limit(10_000, 86_400))
    for _ in range(9):
        assert (await ask(client))[0] == 200
    await client.put(LIMIT, json={"requests": 10, "window": 60}, headers=OPERATOR)
    status, headers = await ask(client)
    assert (status, headers["RateLimit"]) == (200, '"status-ip";r=0;t=60')
    status, headers = await ask(client)
    assert (status, headers["RateLimit-Policy"]) == (429, '"status-ip";q=10;w=60')
    assert 0 < int(headers["Retry-After"]) <= 60
    assert headers["RateLimit"] == f'"status-ip";r=0;t={headers["Retry-After"]}'
    assert headers["X-RateLimit-Reset"] == headers["Retry-After"]


async def test_a_longer_window_keeps_what_counts_of_that_limit_alone(
    make_client: MakeClient, access: RedisAccess
) -> None:
    client = await make_client(**with_limit(2, 1))
    other = keys_of("globex").window("status-ip", "127.0.0.1")
    await access.client.set(other, "x", px=11_000)
    for _ in range(2):
        assert (await ask(client))[0] == 200
    await client.put(LIMIT, json={"requests": 2, "window": 3600}, headers=OPERATOR)
    assert await access.client.pttl(WINDOW) > 3_600_000, "nobody needs to ask for that"
    assert await access.client.pttl(other) <= 11_000
    status, headers = await ask(client)
    assert (status, int(headers["Retry-After"]) > 3500) == (429, True)


async def test_a_reload_to_a_longer_window_keeps_what_counts(make_client: MakeClient, access: RedisAccess) -> None:
    client = await make_client(**with_limit(2, 1))
    for _ in range(2):
        assert (await ask(client))[0] == 200
    changed = settings(**with_limit(2, 3600))
    client.app[RUNTIME].apply(changed, await asyncio.to_thread(make_policy, changed))
    async with asyncio.timeout(5):
        while await access.client.pttl(WINDOW) < 3_600_000:  # noqa: ASYNC110  # only Redis can tell
            await asyncio.sleep(0.01)
    assert (await ask(client))[0] == 429


async def test_a_restart_with_a_longer_window_keeps_what_counts_and_the_next_one_reads_no_keys(
    make_client: MakeClient, access: RedisAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await make_client(**with_limit(2, 1))
    for _ in range(2):
        assert (await ask(client))[0] == 200
    again = await make_client(**with_limit(2, 3600))
    async with asyncio.timeout(5):
        while await access.client.pttl(WINDOW) < 3_600_000:  # noqa: ASYNC110  # only Redis can tell
            await asyncio.sleep(0.01)
    assert (await ask(again))[0] == 429
    ran = []
    monkeypatch.setattr(Retention, "extend", lambda *how: ran.append(how))
    await make_client(**with_limit(2, 3600))
    await asyncio.sleep(0.2)
    assert ran == []


async def test_windows_are_extended_once_redis_is_back(
    make_client: MakeClient, access: RedisAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await make_client(**with_limit(2, 1))
    assert (await ask(client))[0] == 200
    acts, asked = client.app[RUNTIME].actions, 0
    scan_iter = acts.retention._client.scan_iter

    def away_at_first(**how: object) -> object:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise ConnectionError("away")
        return scan_iter(**how)

    monkeypatch.setattr("service.store.admissions.window_retention.AGAIN_S", 0.01)
    monkeypatch.setattr(acts.retention._client, "scan_iter", away_at_first)
    acts.retention.want({("acme", "status-ip"): 3600})
    async with asyncio.timeout(5):
        while await access.client.pttl(WINDOW) < 3_600_000:  # noqa: ASYNC110  # only Redis can tell
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_a_shorter_window_and_one_that_is_set_twice_read_no_keys(
    access: RedisAccess, monkeypatch: pytest.MonkeyPatch, make_client: MakeClient
) -> None:
    client = await make_client(**with_limit(5, 3600))
    monkeypatch.setattr(client.app[RUNTIME].actions.retention, "_client", None)  # whoever would ask now fails
    for requests, window in ((3, 60), (3, 3600), (2, 3600)):
        answer = await client.put(LIMIT, json={"requests": requests, "window": window}, headers=OPERATOR)
        assert answer.status == 200


def test_a_key_says_whose_window_it_is() -> None:
    assert limit_of_window(keys_of("acme").window("status-ip", "2001:db8::1")) == ("acme", "status-ip")
    assert limit_of_window(keys_of("?").window("a.b", "x:w:y:z")) == ("?", "a.b")
    for key in (keys_of("acme").rules, keys_of("acme").user("w:x:y"), keys_of("acme").events):
        assert limit_of_window(key) is None


async def test_a_limit_that_is_lifted_counts_what_was_admitted_before_it_was_set(
    make_client: MakeClient, access: RedisAccess
) -> None:
    client = await make_client(**with_limit(4, 3600))
    for _ in range(3):
        await ask(client)
    await client.put(LIMIT, json={"requests": 5, "window": 1}, headers=OPERATOR)
    await asyncio.sleep(1.1)
    status, headers = await ask(client)
    assert (status, headers["RateLimit"]) == (200, '"status-ip";r=4;t=1')
    assert await RedisOperatorActions(access.client).peek("acme", []) == []
    await client.delete(LIMIT, headers=OPERATOR, json={})
    assert (await ask(client))[0] == 429
