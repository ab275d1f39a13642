"""Users who end their own account."""

import pytest

from tests.conftest import Client, MakeClient
from tests.kit import (
    credentials,
    tenant,
)
from tests.web.admin_requests import AT, ask


@pytest.mark.parametrize(("strategy", "status"), [("soft", "suspended"), ("hard", "terminated")])
async def test_a_user_ends_its_own_account(client: Client, strategy: str, status: str) -> None:
    headers = credentials("alice")
    answer = await client.post("/auth/terminate", json={"reason": "I go", "strategy": strategy}, headers=headers)
    assert answer.status == 201
    assert (await answer.json())["data"] == {"success": True}
    assert answer.headers["RateLimit"] == '"terminate-ip";r=9;t=3600'
    reported = await ask(client, "GET", f"{AT}/users/alice")
    assert reported["session"]["status"] == status
    assert (reported["events"][0]["by"], reported["events"][0]["reason"]) == ("user", "I go")
    assert (await client.get("/auth/status", headers=headers)).status == 403


async def test_ending_an_account_asks_for_credentials_and_a_strategy(make_client: MakeClient) -> None:
    client = await make_client(
        tenants={"acme": tenant(), "strict": tenant(token="t", restricted_capabilities=["terminate"])}
    )
    assert (await client.post("/auth/terminate", json={"strategy": "hard"})).status == 401
    for body in ({}, {"strategy": "medium"}, {"reason": "x"}):
        answer = await client.post("/auth/terminate", json=body, headers=credentials())
        assert (answer.status, (await answer.json())["error"]["validation"][0]["field"]) == (400, "strategy")
    answer = await client.post("/auth/terminate", json={"strategy": "hard"}, headers=credentials(tenant_token="t"))
    assert (answer.status, (await answer.json())["error"]["code"]) == (403, "RESTRICTED_CAPABILITY")
    assert (await client.get("/auth/terminate", headers=credentials())).status == 405
