"""Requests without the user's doing: a prefetched logout is refused without effect, `x-passive` takes two values."""

from typing import Any

import pytest

from tests.conftest import Client, MakeClient
from tests.kit import OPERATOR_TOKEN, credentials

LIMITS = ("RateLimit", "RateLimit-Policy", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
PATHS = pytest.mark.parametrize("path_to_it", [{}, {"connection": "close"}], ids=["the hot path", "aiohttp"])
FAKE = pytest.mark.parametrize("access", ["fake"], indirect=True)


async def status_of(client: Client, user: str = "alice") -> Any:
    answer = await client.get("/auth/status", headers=credentials(user) | {"x-passive": "TRUE"})
    return (await answer.json())["data"]


@FAKE
@PATHS
@pytest.mark.parametrize("purpose", ["prefetch", "prefetch;prerender", 'prefetch;anonymous-client-ip, "x"', "Prefetch"])
async def test_a_prefetched_logout_is_403_without_effect_or_charge(
    make_client: MakeClient, path_to_it: dict[str, str], purpose: str
) -> None:
    client = await make_client(sessions={"seen_every": 0})
    await client.get("/auth/status", headers=credentials())
    before = await status_of(client)
    for _ in range(40):  # more than the limit of 30
        sent = credentials() | path_to_it | {"sec-purpose": purpose}
        answer = await client.get("/auth/logout", headers=sent)
        assert answer.status == 403
        assert (await answer.json())["error"] == {"message": "Forbidden", "code": "FORBIDDEN", "status": 403}
        assert not [name for name in LIMITS if name in answer.headers]
        assert "x-degraded" not in answer.headers
    assert await status_of(client) == before, "neither the status nor last-seen changes"
    answer = await client.post("/auth/logout", headers=credentials())
    assert (answer.status, answer.headers["X-RateLimit-Remaining"]) == (200, "29"), "nothing was charged"


@FAKE
@PATHS
async def test_a_prefetch_is_refused_before_the_credentials_are_looked_at(
    client: Client, path_to_it: dict[str, str]
) -> None:
    answer = await client.get("/auth/logout", headers={"sec-purpose": "prefetch"} | path_to_it)
    assert answer.status == 403


@FAKE
@PATHS
async def test_of_several_lines_of_sec_purpose_one_is_enough(client: Client, path_to_it: dict[str, str]) -> None:
    fields = [*credentials().items(), *path_to_it.items(), ("sec-purpose", "other"), ("sec-purpose", "prefetch")]
    assert (await client.get("/auth/logout", headers=fields)).status == 403


@FAKE
@PATHS
async def test_any_other_logout_and_any_other_prefetch_is_answered(client: Client, path_to_it: dict[str, str]) -> None:
    prefetch = {"sec-purpose": "prefetch"} | path_to_it
    assert (await client.get("/auth/status", headers=credentials() | prefetch)).status == 200
    assert (await client.get("/auth/verify", headers=credentials() | prefetch)).status == 200
    assert (await client.post("/auth/logout", headers=credentials() | prefetch)).status == 200
    assert (await client.get("/auth/logout", headers=credentials() | {"sec-purpose": "navigate"})).status == 200
    assert (await client.head("/auth/logout", headers=credentials() | prefetch)).status == 405


@FAKE
@PATHS
@pytest.mark.parametrize("path", ["/auth/status", "/auth/verify", "/auth/verify/nginx"])
@pytest.mark.parametrize("value", ["1", "yes", "0", "on", "", "true,true", "truely", "true\u00a0", "\u3000false"])
async def test_x_passive_is_true_or_false_and_anything_else_is_400(
    client: Client, path_to_it: dict[str, str], path: str, value: str
) -> None:
    answer = await client.get(path, headers=credentials() | path_to_it | {"x-passive": value})
    status = answer.headers.get("x-deny-status", str(answer.status))
    error = (await answer.json())["error"]
    assert (status, error["code"]) == ("400", "VALIDATION_ERROR")
    assert error["validation"] == [{"field": "x-passive", "message": "must be true or false"}]
    assert (await status_of(client))["status"] == "none", "the user is not logged in by a request that is refused"


@FAKE
async def test_a_value_that_x_passive_does_not_take_is_charged(client: Client) -> None:
    for left in (599, 598):
        answer = await client.get("/auth/status", headers=credentials() | {"x-passive": "yes"})
        assert answer.headers["X-RateLimit-Remaining"] == str(left)


@FAKE
@PATHS
async def test_x_passive_is_read_in_any_case(client: Client, path_to_it: dict[str, str]) -> None:
    for value, status in (("True", "none"), ("TRUE", "none"), ("FALSE", "logged_in"), ("true", "logged_in")):
        answer = await client.get("/auth/status", headers=credentials() | path_to_it | {"x-passive": value})
        assert (await answer.json())["data"]["status"] == status


@FAKE
@PATHS
async def test_no_value_of_x_passive_matters_to_logout_and_terminate(
    client: Client, path_to_it: dict[str, str]
) -> None:
    odd = credentials() | path_to_it | {"x-passive": "yes"}
    assert (await client.post("/auth/logout", headers=odd)).status == 200
    assert (await client.post("/auth/terminate", headers=odd, json={"strategy": "soft"})).status == 201
    operator = {"authorization": f"Bearer {OPERATOR_TOKEN}", "x-passive": "yes"}
    assert (await client.get("/admin/v1/tenants", headers=operator)).status == 200


@PATHS
async def test_with_status_is_passive_no_status_query_changes_the_status_or_last_seen(
    make_client: MakeClient, path_to_it: dict[str, str]
) -> None:
    client = await make_client(sessions={"status_is_passive": True, "seen_every": 0})
    who = credentials() | path_to_it
    for said in ({}, {"x-passive": "false"}, {"x-passive": "true"}):
        answer = await client.get("/auth/status", headers=who | said)
        assert (answer.status, (await answer.json())["data"]["status"]) == (200, "none")
    assert (await client.get("/auth/verify", headers=who)).status == 200, "a use of the token, as before"
    logged_in = await status_of(client)
    assert logged_in["status"] == "logged_in"
    assert await status_of(client) == logged_in
    assert (await client.post("/auth/logout", headers=who)).status == 200
    answer = await client.get("/auth/status", headers=who)
    assert (await answer.json())["data"]["status"] == "logged_out"
    assert answer.headers["X-RateLimit-Remaining"] == "594", "limits are charged as ever"
    assert (await client.get("/auth/status", headers=who | {"x-passive": "yes"})).status == 400


@FAKE
@PATHS
async def test_with_status_is_passive_a_verified_request_still_logs_in_again(
    make_client: MakeClient, path_to_it: dict[str, str]
) -> None:
    client = await make_client(sessions={"status_is_passive": True})
    who = credentials() | path_to_it
    await client.post("/auth/logout", headers=who)
    assert (await client.get("/auth/verify", headers=who | {"x-passive": "true"})).status == 200
    assert (await status_of(client))["status"] == "logged_out"
    assert (await client.get("/auth/verify", headers=who)).status == 200
    assert (await status_of(client))["status"] == "logged_in"


@FAKE
async def test_as_shipped_a_status_query_is_a_use_of_the_token(client: Client) -> None:
    await client.post("/auth/logout", headers=credentials())
    answer = await client.get("/auth/status", headers=credentials())
    assert (await answer.json())["data"]["status"] == "logged_in"
