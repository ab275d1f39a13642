"""The pages of one user's events, in the admin API and on the dashboard."""

import re
from typing import Any

import pytest

from service.core.operator_actions import Author
from service.store.connection.client import RedisAccess
from service.store.keyspace import keys_of
from service.store.sessions.operator_actions import RedisOperatorActions
from service.web.admin.routes import HISTORY_SIZE
from tests.conftest import Client
from tests.kit import credentials
from tests.web.admin_requests import AT, ask, refused
from tests.web.dashboard_pages import log_in, page

USER = f"{AT}/users/alice"


async def restricted_often(access: RedisAccess, times: int) -> list[str]:
    """The ids of the user's events, newest first."""
    acts = RedisOperatorActions(access.client)
    for _ in range(times):
        await acts.restrict("acme", "alice", "pay", Author("root"))
        await acts.unrestrict("acme", "alice", "pay", Author("root"))
    entries = await access.client.xrevrange(keys_of("acme").events)
    return [entry_id.decode() for entry_id, fields in entries if fields.get(b"user") == b"alice"]


@pytest.mark.parametrize("path", [USER, f"{AT}/user?user=alice"])
async def test_whoever_follows_the_next_events_gets_each_once(client: Client, access: RedisAccess, path: str) -> None:
    assert (await client.get("/auth/status", headers=credentials())).status == 200
    wanted = await restricted_often(access, HISTORY_SIZE)
    found: list[str] = []
    query, sizes = "", []
    while True:
        data: dict[str, Any] = await ask(client, "GET", path + query)
        found += [event["id"] for event in data["events"]]
        sizes.append(len(data["events"]))
        assert data["session"]["userId"] == "alice"
        if data["eventsNext"] is None:
            break
        query = f"{'&' if '?' in path else '?'}events={data['eventsNext']}"
    assert found == wanted
    assert sizes == [HISTORY_SIZE, HISTORY_SIZE, 1]
    assert data["eventsReachBackTo"] == data["events"][-1]["at"]


@pytest.mark.parametrize("position", ["x", "1", "1-", "-1-1", "1-1-1", "1" * 16 + "-1"])
async def test_a_position_that_is_none_is_refused(client: Client, position: str) -> None:
    assert (await client.get("/auth/status", headers=credentials())).status == 200
    assert await refused(client, "GET", f"{USER}?events={position}") == (400, "VALIDATION_ERROR")
    await log_in(client)
    assert (await client.get(f"/dashboard/user?tenant=acme&user=alice&events={position}")).status == 400


async def test_the_page_of_a_user_leads_to_its_older_events_and_back(client: Client, access: RedisAccess) -> None:
    assert (await client.get("/auth/status", headers=credentials())).status == 200
    await restricted_often(access, 15)
    await log_in(client)
    newest = await page(client, "/dashboard/user", tenant="acme", user="alice")
    assert 'rel="first"' not in newest
    older = re.search(r'href="([^"]+)" rel="next"', newest)
    assert older is not None
    second = await page(client, older[1].replace("&amp;", "&"))
    assert [len(re.findall(r'<li>\s*<span class="dot', one)) for one in (newest, second)] == [20, 11]
    assert "none → logged in" in second
    assert 'rel="next"' not in second
    first = re.search(r'href="([^"]+)" rel="first"', second)
    assert first is not None
    assert await page(client, first[1].replace("&amp;", "&")) == newest
