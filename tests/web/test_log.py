"""The log of requests: which have a line, and what it says."""

import json
from typing import Any

import pytest
import structlog

from service.app import RUNTIME
from tests.conftest import Client, MakeClient
from tests.kit import OPERATOR_TOKEN, TENANT_TOKEN, credentials, sign, tenant


async def logged(client: Client) -> list[dict[str, Any]]:
    with structlog.testing.capture_logs() as lines:
        await client.get("/auth/status?secret=in-the-query", headers=credentials())
        await client.get("/auth/status", headers=credentials())
        await client.get("/auth/status", headers={"x-tenant-token": TENANT_TOKEN, "x-token": "a.b.c"})
    answered = [dict(line) for line in lines if line["event"] == "answered"]
    text = json.dumps(answered)
    assert TENANT_TOKEN not in text
    assert sign().partition(".")[0] not in text
    assert "in-the-query" not in text
    return answered


async def test_the_log_has_transitions_and_refusals(client: Client) -> None:
    transition, refusal = await logged(client)
    assert (transition["transition"], transition["user"]) == ("none -> logged_in", "alice")
    assert (refusal["status"], refusal["code"]) == (401, "INVALID_USER_TOKEN")
    assert refusal["request_id"].startswith("req-")


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("a.b.c", "malformed Base64url"),
        ("a.b", "no JWS in compact form"),
        ("a" * 12_289, "too long"),
        (sign(secret="s" * 32), "no key verifies the signature"),
        (sign(kid="k9"), "unknown kid"),
        (sign(nbf=253_402_300_800), "nbf is not before the year 10000; it is in seconds"),
        (sign(iat="now"), "iat is not a number"),
        (sign(""), "sub is empty"),
        (sign(tenant="globex"), "the claim tenant does not name this tenant"),
        (sign(iss="someone"), "iss is not jwt.issuer"),
        (sign(iss="me", aud="someone"), "aud holds nothing of jwt.audience"),
    ],
)
async def test_the_log_says_why_a_token_is_invalid_and_the_answer_does_not(
    make_client: MakeClient, token: str, reason: str
) -> None:
    client = await make_client(tenants={"acme": tenant(jwt={**tenant()["jwt"], "issuer": "me", "audience": ["api"]})})
    with structlog.testing.capture_logs() as lines:
        answer = await client.get("/auth/status", headers={"x-tenant-token": TENANT_TOKEN, "x-token": token})
    error = {"message": "Invalid user token", "code": "INVALID_USER_TOKEN", "status": 401}
    assert (await answer.json())["error"] == error
    assert [line["reason"] for line in lines if line["event"] == "answered"] == [reason]


@pytest.mark.parametrize(("mode", "lines"), [("all", 3), ("none", 0)])
async def test_the_log_has_as_much_as_is_configured(make_client: MakeClient, mode: str, lines: int) -> None:
    assert len(await logged(await make_client(server={"access_log": mode}))) == lines


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_a_loop_of_refused_requests_is_a_line_for_the_first_and_a_count(make_client: MakeClient) -> None:
    client = await make_client()
    client.app[RUNTIME].log_throttle.flush()
    with structlog.testing.capture_logs() as lines:
        for _ in range(200):
            await client.get("/auth/status", headers=credentials("alice", ttl_s=-10))
        await client.get("/auth/status", headers=credentials("alice", secret="x" * 32))
        await client.get("/auth/status", headers=credentials("alice"))
        client.app[RUNTIME].log_throttle.flush()
    answered = [line.get("code", "transition") for line in lines if line["event"] == "answered"]
    again = [line for line in lines if line["event"] == "refused again"]
    # The loop may last more than a second: each second has a first.
    assert answered.count("EXPIRED_USER_TOKEN") + sum(line["times"] for line in again) == 200
    assert answered.count("EXPIRED_USER_TOKEN") <= 5
    assert {"INVALID_USER_TOKEN", "transition"} <= set(answered)
    assert {(line["operation"], line["code"]) for line in again} == {("status", "EXPIRED_USER_TOKEN")}


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_each_refused_act_of_an_operator_has_its_line(make_client: MakeClient) -> None:
    client = await make_client()
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            headers = {"authorization": f"Bearer {OPERATOR_TOKEN}"}
            await client.post("/admin/v1/tenants/acme/users/nobody/reinstate", headers=headers)
    assert [line["code"] for line in lines if line["event"] == "answered"] == ["NOT_FOUND"] * 3
