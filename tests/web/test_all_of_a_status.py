"""Acts on all users of a status, and restrictions that nothing asks for."""

from typing import Any

import pytest

from tests.conftest import Client, MakeClient
from tests.web.admin_requests import AT, ask, refused, seen


async def everybody(client: Client, act: str, status: str) -> list[dict[str, Any]]:
    """Act on all users of a status, call after call."""
    results: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        data = await ask(client, "POST", f"{AT}/sessions/{act}", {"status": status, **after})
        results += data["results"]
        if data["next"] is None:
            return results
        after = {"after": data["next"]}


async def test_an_act_reaches_all_users_of_a_status_and_no_other(client: Client) -> None:
    for number in range(150):
        await seen(client, f"user-{number}")
    await ask(client, "POST", f"{AT}/users/user-0/suspend", {})
    results = await everybody(client, "logout", "logged_in")
    assert {one["userId"] for one in results} == {f"user-{number}" for number in range(1, 150)}
    assert all(one["done"] for one in results)
    counts = (await ask(client, "GET", AT))["counts"]
    assert (counts["logged_in"], counts["logged_out"], counts["suspended"]) == (0, 149, 1)


async def test_an_act_on_a_status_that_nobody_has_is_done_with_no_results(client: Client) -> None:
    assert await everybody(client, "reinstate", "suspended") == []


@pytest.mark.parametrize(
    "body", [{}, {"users": ["a"], "status": "logged_in"}, {"users": ["a"], "after": "1"}, {"status": "none"}]
)
async def test_users_and_status_exclude_each_other(client: Client, body: dict[str, Any]) -> None:
    assert await refused(client, "POST", f"{AT}/sessions/logout", body) == (400, "VALIDATION_ERROR")


@pytest.mark.parametrize(("capability", "known"), [("logout", True), ("pay", True), ("pya", False)])
async def test_a_restriction_that_nothing_asks_for_has_a_note(
    make_client: MakeClient, capability: str, known: bool
) -> None:
    routes = [{"path": "/api/*", "capability": "pay"}]
    client = await make_client(routes=routes, server={"trusted_proxies": ["127.0.0.1"]})
    for path in (f"{AT}/restrictions/{capability}", f"{AT}/users/alice/restrictions/{capability}"):
        data = await ask(client, "PUT", path, {})
        assert data["success"] is True
        assert ("note" in data) is not known
