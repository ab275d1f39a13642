"""The admin API: who may use it, what each action does, and what it answers to wrong requests."""

import asyncio
import io
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import pytest

from service.core.sessions import TRANSITIONS, Refusal, Status
from service.store.connection.client import RedisAccess
from service.web.admin.routes import CAUSES
from tests.conftest import Client, MakeClient
from tests.kit import (
    OPERATOR,
    OPERATOR_TOKEN,
    OTHER_SECRET,
    OTHER_TENANT_TOKEN,
    VIEWER,
    config,
    credentials,
    tenant,
)
from tests.web.admin_requests import AT, ask, refused, seen

READS = [
    ("GET", "/admin/v1/tenants"),
    ("GET", AT),
    ("GET", f"{AT}/sessions"),
    ("GET", f"{AT}/users/alice"),
    ("GET", f"{AT}/limits"),
    ("GET", f"{AT}/limits/status-ip?subject=127.0.0.1"),
]
CHANGES = [
    ("POST", f"{AT}/users/alice/suspend", {}),
    ("POST", f"{AT}/sessions/terminate", {"users": ["alice"]}),
    ("DELETE", f"{AT}/users/alice", {}),
    ("PUT", f"{AT}/restrictions/status", {}),
    ("DELETE", f"{AT}/restrictions/status", {}),
    ("PUT", f"{AT}/users/alice/restrictions/status", {}),
    ("PUT", f"{AT}/revocation", {}),
    ("DELETE", f"{AT}/users/alice/revocation", {}),
    ("PUT", f"{AT}/limits/status-ip", {"requests": 1, "window": 60}),
    ("DELETE", f"{AT}/limits/status-ip", {}),
    ("POST", f"{AT}/limits/status-ip/reset", {"subject": "127.0.0.1"}),
]


@pytest.mark.parametrize(("method", "path", "body"), [*((*one, None) for one in READS), *CHANGES])
async def test_without_a_good_token_or_for_another_tenant_nothing_is_shown_or_changed(
    client: Client, method: str, path: str, body: Any
) -> None:
    await seen(client, "alice")
    before = await ask(client, "GET", f"{AT}/users/alice"), await ask(client, "GET", AT)
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {OPERATOR_TOKEN}"}):
        assert await refused(client, method, path, body, headers) == (401, "UNAUTHORIZED")
    if path != "/admin/v1/tenants":
        assert await refused(client, method, path, body, VIEWER) == (403, "FORBIDDEN"), "the viewer is of globex"
    if body is not None:
        assert await refused(client, method, path.replace("acme", "globex"), body, VIEWER) == (403, "FORBIDDEN")
    assert (await ask(client, "GET", f"{AT}/users/alice"), await ask(client, "GET", AT)) == before


async def test_a_viewer_sees_its_tenants_alone(client: Client) -> None:
    reported = await ask(client, "GET", "/admin/v1/tenants", **VIEWER)
    assert [one["tenant"] for one in reported["tenants"]] == ["globex"]
    both = await ask(client, "GET", "/admin/v1/tenants")
    assert [one["tenant"] for one in both["tenants"]] == ["acme", "globex"]
    assert await refused(client, "GET", "/admin/v1/tenants/nobody") == (404, "NOT_FOUND")


async def pages_of(client: Client, query: str, then: Callable[[int], Awaitable[None]]) -> list[str]:
    """Follow `next`; returns the users of all pages."""
    found: list[str] = []
    path = f"{AT}/sessions?{query}"
    while path:
        page = await ask(client, "GET", path)
        found += [one["userId"] for one in page["sessions"]]
        path = f"{AT}/sessions?{query}&after={quote(page['next'])}" if page["next"] else ""
        await then(len(found))
    return found


async def test_sessions_are_paged_newest_first_or_walked_and_none_is_missed_while_they_change(client: Client) -> None:
    users = [f"u{n}" for n in range(7)]
    for user in users:
        await seen(client, user)
        await asyncio.sleep(0.002)

    async def newer(number: int) -> None:
        await seen(client, f"newer{number}")

    assert await pages_of(client, "limit=3&order=lastSeen", newer) == users[::-1]

    async def logs_out_and_in(number: int) -> None:
        await ask(client, "POST", f"{AT}/users/u{number % 7}/logout", {})
        await seen(client, f"u{(number + 3) % 7}")

    assert set(await pages_of(client, "limit=2", logs_out_and_in)) >= set(users)
    for user in users:
        await seen(client, user)
    for query, field in (("prefix=u&order=lastSeen", "order"), ("order=lastSeen&after=~0.u1", "after")):
        async with client.get(f"{AT}/sessions?{query}", headers=OPERATOR) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]["validation"][0]["field"] == field
    only = await ask(client, "GET", f"{AT}/sessions?status=logged_out")
    assert only == {"sessions": [], "next": None, "examined": None}
    one = await ask(client, "GET", f"{AT}/sessions?user=u3")
    assert [(it["userId"], it["tenant"], it["status"]) for it in one["sessions"]] == [("u3", "acme", "logged_in")]
    begun = await ask(client, "GET", f"{AT}/sessions?prefix=u")
    assert (len(begun["sessions"]), begun["examined"]) == (7, 10)


@pytest.mark.parametrize("name", CAUSES)
@pytest.mark.parametrize("start", [one for one in Status if one is not Status.EXPIRED])  # which only the sweep makes
async def test_acts_follow_the_table_of_transitions(client: Client, name: str, start: Status) -> None:
    """What the table refuses is 409 or 404, and leaves the status."""
    if start is not Status.NONE:
        await seen(client, "alice")
    if start in (Status.LOGGED_OUT, Status.SUSPENDED, Status.TERMINATED):
        act = {Status.LOGGED_OUT: "logout", Status.SUSPENDED: "suspend", Status.TERMINATED: "terminate"}[start]
        await ask(client, "POST", f"{AT}/users/alice/{act}", {"reason": "first"})
    expected = TRANSITIONS[CAUSES[name]][start]
    path = f"{AT}/users/alice/{name}"
    if isinstance(expected, Status):
        assert (await ask(client, "POST", path, {"reason": "then"}))["status"] == expected
    else:
        code = {Refusal.UNKNOWN: (404, "NOT_FOUND"), Refusal.CONFLICT: (409, "CONFLICT")}[expected]
        assert await refused(client, "POST", path, {"reason": "then"}) == code
        page = await ask(client, "GET", f"{AT}/sessions?user=alice")
        assert [one["status"] for one in page["sessions"]] == ([] if start is Status.NONE else [start])


async def test_a_suspended_user_is_refused_at_once_and_well_again_once_reinstated(client: Client) -> None:
    await seen(client, "alice")
    await ask(client, "POST", f"{AT}/users/alice/suspend", {"reason": "looks odd"})
    answer = await client.get("/auth/status", headers=credentials("alice"))
    assert (answer.status, (await answer.json())["error"]["code"]) == (403, "USER_SUSPENDED")
    reported = await ask(client, "GET", f"{AT}/users/alice")
    event = reported["events"][0]
    assert {name: event[name] for name in ("type", "userId", "from", "to", "cause", "by", "reason", "ip")} == {
        "type": "transition",
        "userId": "alice",
        "from": "logged_in",
        "to": "suspended",
        "cause": "suspend",
        "by": "root",
        "reason": "looks odd",
        "ip": "127.0.0.1",
    }
    await ask(client, "POST", f"{AT}/users/alice/reinstate")
    assert (await client.get("/auth/status", headers=credentials("alice"))).status == 200


async def test_an_action_on_many_users_has_a_result_for_each(client: Client) -> None:
    await seen(client, "a", "b")
    await ask(client, "POST", f"{AT}/users/b/terminate")
    reported = await ask(
        client, "POST", f"{AT}/sessions/suspend", {"users": ["a", "b", "c", "a"], "reason": "all of you"}
    )
    conflict = "suspend conflicts with the status terminated"
    assert reported["results"] == [
        {"userId": "a", "done": True, "applied": True, "status": "suspended", "previousStatus": "logged_in"},
        {
            "userId": "b",
            "done": False,
            "status": "terminated",
            "message": conflict,
        },
        {"userId": "c", "done": True, "applied": True, "status": "suspended", "previousStatus": "none"},
    ]
    users = [f"{n:0>512}" for n in range(1000)]
    reported = await ask(client, "POST", f"{AT}/sessions/logout", {"users": users})
    assert {one["message"] for one in reported["results"]} == {"Nothing is recorded of this user"}
    assert await refused(client, "POST", f"{AT}/sessions/logout", {"users": [*users, "x"]}) == (400, "VALIDATION_ERROR")


async def test_a_logout_everywhere_makes_the_present_tokens_invalid(client: Client) -> None:
    old = credentials("alice", iat=int(time.time()) - 1)
    assert (await client.get("/auth/status", headers=old)).status == 200
    await ask(client, "POST", f"{AT}/users/alice/logout", {"everywhere": True})
    answer = await client.get("/auth/status", headers=old)
    assert (answer.status, (await answer.json())["error"]["code"]) == (401, "INVALID_USER_TOKEN")
    assert await refused(client, "POST", f"{AT}/users/alice/suspend", {"everywhere": True}) == (400, "VALIDATION_ERROR")
    assert (await ask(client, "GET", f"{AT}/users/alice"))["revokedBefore"] is not None
    await ask(client, "DELETE", f"{AT}/users/alice/revocation")
    assert (await client.get("/auth/status", headers=old)).status == 200


async def test_a_revocation_names_a_moment(client: Client) -> None:
    reported = await ask(client, "PUT", f"{AT}/revocation", {"before": "2026-01-02T03:04:05.678+01:00"})
    moments = {"revokedBefore": "2026-01-02T02:04:05.000Z", "newTokensFrom": "2026-01-02T02:04:06.000Z"}
    assert reported == {"applied": True, **moments, "tokensCarryIat": None}
    assert (await ask(client, "GET", AT))["revokedBefore"] == "2026-01-02T02:04:05.000Z"
    assert (await client.get("/auth/status", headers=credentials(iat=1_700_000_000))).status == 401
    assert (await client.get("/auth/status", headers=credentials(iat=1_770_000_000))).status == 200


async def test_restrictions_of_a_tenant_and_of_a_user_hold_for_the_next_request(client: Client) -> None:
    await seen(client, "alice")
    for whose in (AT, f"{AT}/users/alice"):
        await ask(client, "PUT", f"{whose}/restrictions/status", {"reason": "why", "until": "2100-01-01T00:00:00Z"})
        answer = await client.get("/auth/status", headers=credentials("alice"))
        assert (answer.status, (await answer.json())["error"]["code"]) == (403, "RESTRICTED_CAPABILITY")
        reported = (await ask(client, "GET", whose))["restrictions"]
        assert reported == [{"capability": "status", "until": "2100-01-01T00:00:00.000Z"}]
        await ask(client, "DELETE", f"{whose}/restrictions/status")
        assert await refused(client, "DELETE", f"{whose}/restrictions/status") == (404, "NOT_FOUND")
        assert (await client.get("/auth/status", headers=credentials("alice"))).status == 200
    assert await refused(client, "PUT", f"{AT}/restrictions/what%20is%20this") == (404, "NOT_FOUND")


async def test_a_limit_is_looked_at_changed_and_reset(client: Client) -> None:
    await seen(client, "alice")
    path = f"{AT}/limits/status-ip"
    looked = {"limit": "status-ip", "requests": 600, "window": 60, "used": 1, "remaining": 599}
    for _ in range(2):
        reported = await ask(client, "GET", f"{path}?subject=127.0.0.1")
        assert reported.pop("reset") <= 60
        assert reported == looked, "looking uses nothing up"
    await ask(client, "PUT", path, {"requests": 1, "window": 30})
    answer = await client.get("/auth/status", headers=credentials("alice"))
    assert (answer.status, answer.headers["RateLimit-Policy"]) == (429, '"status-ip";q=1;w=30')
    [limit] = [one for one in (await ask(client, "GET", f"{AT}/limits"))["limits"] if one["limit"] == "status-ip"]
    assert (limit["requests"], limit["configured"]) == (1, {"requests": 600, "window": 60})
    other = credentials("alice", tenant_token=OTHER_TENANT_TOKEN, secret=OTHER_SECRET)
    assert (await client.get("/auth/status", headers=other)).headers["RateLimit-Policy"] == '"status-ip";q=600;w=60'
    assert await ask(client, "POST", f"{path}/reset", {"subject": "127.0.0.1"}) == {"success": True, "wasUsed": True}
    async with asyncio.timeout(0.5):
        while (await client.get("/auth/status", headers=credentials("alice"))).status != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await ask(client, "DELETE", path)
    assert await refused(client, "DELETE", path) == (404, "NOT_FOUND")
    assert await refused(client, "GET", f"{AT}/limits/nothing?subject=x") == (404, "NOT_FOUND")


async def test_a_user_is_forgotten_but_not_a_terminated_one(client: Client) -> None:
    await seen(client, "alice", "eve")
    await ask(client, "DELETE", f"{AT}/users/alice")
    assert (await ask(client, "GET", f"{AT}/users/alice"))["session"] is None
    assert await refused(client, "DELETE", f"{AT}/users/alice") == (404, "NOT_FOUND")
    await ask(client, "POST", f"{AT}/users/eve/terminate")
    assert await refused(client, "DELETE", f"{AT}/users/eve") == (409, "CONFLICT")
    assert await refused(client, "GET", f"{AT}/users/nobody") == (404, "NOT_FOUND")


ODD = ["a/b", "ä ö", "..", "%2e", "a?b#c", "'><script>", "{acme}:x", "日本", "a" * 512, "+", "a.b"]


@pytest.mark.parametrize("user", ODD)
async def test_a_user_may_be_called_anything(client: Client, user: str) -> None:
    await seen(client, user)
    path = f"{AT}/users/{quote(user, safe='')}"
    if user != "..":  # whoever sends a request resolves that first: by list, and in a body, it is reached
        assert (await ask(client, "GET", path))["session"]["userId"] == user
        assert (await ask(client, "POST", f"{path}/suspend"))["userId"] == user
        await ask(client, "POST", f"{path}/reinstate")
    reported = await ask(client, "POST", f"{AT}/sessions/suspend", {"users": [user]})
    assert reported["results"][0]["userId"] == user
    listed = await ask(client, "GET", f"{AT}/sessions?user={quote(user, safe='')}")
    assert [one["status"] for one in listed["sessions"]] == ["suspended"]


NONSENSE = [
    ("POST", f"{AT}/users/alice/suspend", {"reason": 7}, "reason"),
    ("POST", f"{AT}/users/alice/suspend", {"reason": "x" * 501}, "reason"),
    ("POST", f"{AT}/users/alice/suspend", {"raeson": "x"}, "raeson"),
    ("POST", f"{AT}/users/alice/suspend", [], "body"),
    ("POST", f"{AT}/users/{'a' * 513}/suspend", {}, "user"),
    ("POST", f"{AT}/users/a%00b/suspend", {}, "user"),
    ("POST", f"{AT}/sessions/logout", {}, "users"),
    ("POST", f"{AT}/sessions/logout", {"users": []}, "users"),
    ("POST", f"{AT}/sessions/logout", {"users": ["a", ""]}, "users.1"),
    ("POST", f"{AT}/sessions/logout", {"users": ["a\nb"]}, "users.0"),
    ("PUT", f"{AT}/limits/status-ip", {"requests": 0, "window": 60}, "requests"),
    ("PUT", f"{AT}/limits/status-ip", {"requests": "1", "window": 60}, "requests"),
    ("PUT", f"{AT}/limits/status-ip", {"requests": 1}, "window"),
    ("PUT", f"{AT}/restrictions/status", {"until": "soon"}, "until"),
    ("PUT", f"{AT}/restrictions/status", {"until": "2100-01-01T00:00:00"}, "until"),
    ("PUT", f"{AT}/revocation", {"before": {}}, "before"),
    ("POST", f"{AT}/limits/status-ip/reset", {}, "subject"),
    ("GET", f"{AT}/limits/status-ip", None, "subject"),
    ("GET", f"{AT}/sessions?limit=0", None, "limit"),
    ("GET", f"{AT}/sessions?limit=many", None, "limit"),
    ("GET", f"{AT}/sessions?status=asleep", None, "status"),
    ("GET", f"{AT}/sessions?status=none", None, "status"),
    ("GET", f"{AT}/sessions?after=x", None, "after"),
    ("GET", f"{AT}/sessions?limit=1&limit=2", None, "limit"),
    ("GET", f"{AT}/sessions?page=2", None, "page"),
]


@pytest.mark.parametrize(("method", "path", "body", "field"), NONSENSE)
async def test_wrong_fields_are_reported_one_by_one(
    client: Client, method: str, path: str, body: Any, field: str
) -> None:
    answer = await client.request(method, path, json=body, headers=OPERATOR)
    error = (await answer.json())["error"]
    assert (answer.status, error["code"]) == (400, "VALIDATION_ERROR")
    assert error["message"] == "The request could not be processed"
    assert field in [one["field"] for one in error["validation"]]
    assert all(one["message"] for one in error["validation"])


async def test_a_body_that_is_no_json_or_too_long_is_refused(client: Client) -> None:
    path = f"{AT}/users/alice/suspend"
    answer = await client.post(path, data=b"{", headers=OPERATOR)
    assert (answer.status, (await answer.json())["error"]["code"]) == (400, "VALIDATION_ERROR")
    answer = await client.post(path, data=b"\xff\xfe", headers=OPERATOR)
    assert (answer.status, (await answer.json())["error"]["code"]) == (400, "VALIDATION_ERROR")
    answer = await client.post(path, data=io.BytesIO(b" " * 1_100_000), headers=OPERATOR)
    assert (answer.status, (await answer.json())["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")


async def test_the_admin_api_is_limited_like_all_else(make_client: MakeClient) -> None:
    limits = config()["limits"] | {"admin": [{"name": "admin-ip", "per": "ip", "requests": 2, "window": 60}]}
    client = await make_client(limits=limits)
    for _ in range(2):
        assert await refused(client, "GET", AT, headers={"authorization": "Bearer guess"}) == (401, "UNAUTHORIZED")
    assert await refused(client, "GET", AT) == (429, "TOO_MANY_REQUESTS")


@pytest.mark.parametrize("user", ["..", ".", "../alice", "revocation", "a/b", "ünï", "%2e%2e"])
async def test_a_user_that_a_path_cannot_name_is_named_by_the_query(client: Client, user: str) -> None:
    about: Any = {"params": {"user": user}, "headers": OPERATOR}
    at = "/admin/v1/tenants/acme/user"
    assert (await client.get("/auth/status", headers=credentials(user))).status == 200
    assert (await client.put(f"{at}/restrictions/status", json={}, **about)).status == 200
    assert (await client.get("/auth/status", headers=credentials(user))).status == 403
    assert (await client.get("/auth/status", headers=credentials("another"))).status == 200, "nobody else is meant"
    assert (await client.delete(f"{at}/restrictions/status", json={}, **about)).status == 200
    assert (await client.put(f"{at}/revocation", json={}, **about)).status == 200
    assert (await client.get("/auth/status", headers=credentials(user))).status == 401
    assert (await client.get("/auth/status", headers=credentials("another"))).status == 200
    assert (await (await client.post(f"{at}/suspend", json={}, **about)).json())["data"]["userId"] == user
    assert (await (await client.get(at, **about)).json())["data"]["session"]["status"] == "suspended"
    assert (await client.delete(at, json={}, **about)).status == 200
    assert (await client.get(at, headers=OPERATOR)).status == 400, "nobody is named"


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("PUT", "users/alice/restrictions/status", {"until": "2001-01-01T00:00:00Z"}, "until"),
        ("POST", "limits/logout-ip/reset", {"subject": "nonsense"}, "subject"),
        ("POST", "limits/logout-ip/reset", {"subject": "10.0.0.999"}, "subject"),
    ],
)
async def test_what_cannot_have_been_meant_is_an_error_and_changes_nothing(
    client: Client, access: RedisAccess, method: str, path: str, body: Any, field: str
) -> None:
    answer = await client.request(method, f"/admin/v1/tenants/acme/{path}", json=body, headers=OPERATOR)
    assert answer.status == 400
    assert [one["field"] for one in (await answer.json())["error"]["validation"]] == [field]
    assert not await access.client.exists("rc:{acme}:events")


async def test_what_the_configuration_restricts_is_shown(make_client: MakeClient) -> None:
    client = await make_client(tenants={"acme": tenant(restricted_capabilities=["logout"])})
    reported = await (await client.get("/admin/v1/tenants/acme", headers=OPERATOR)).json()
    assert reported["data"]["restrictedByConfiguration"] == ["logout"]
