"""Acts of operators that come late or twice: none weakens an earlier one, and the answer says what holds."""

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from structlog.testing import capture_logs

from service.app import RUNTIME
from service.core.clocks import FORGIVEN_SKEW_S
from tests.conftest import Client, MakeClient
from tests.kit import OPERATOR, SECRET, credentials, tenant
from tests.web.admin_requests import AT, ask, refused, seen

USER = f"{AT}/users/alice"
WHOSE = [AT, USER, f"{AT}/user?user=alice"]
LATE, LATER = "2100-01-01T00:00:00.000Z", "2100-01-02T00:00:00.000Z"


def at(path: str, end: str, replace: bool = False) -> str:
    """`end` below `path`, whose query stays behind it."""
    path, _, query = path.partition("?")
    query = "&".join(filter(None, [query, "replace=true" if replace else ""]))
    return f"{path}/{end}{'?' if query else ''}{query}"


def moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


async def status(client: Client, **claims: Any) -> int:
    return (await client.get("/auth/status", headers=credentials("alice", **claims))).status


@pytest.mark.parametrize("whose", WHOSE)
async def test_a_revocation_that_comes_late_does_not_take_an_earlier_one_back(client: Client, whose: str) -> None:
    stolen = {"iat": int(time.time())}
    assert await status(client, **stolen) == 200
    path, replacing = at(whose, "revocation"), at(whose, "revocation", replace=True)
    first = await ask(client, "PUT", path, {})
    assert first["applied"] is True
    assert await status(client, **stolen) == 401
    hour_ago = time.time() // 1 - 3600
    late = await ask(client, "PUT", path, {"before": moment(hour_ago)})
    assert late == {**first, "applied": False}, "the answer has what applies, which is the first one"
    assert await status(client, **stolen) == 401
    back = await ask(client, "PUT", replacing, {"before": moment(hour_ago)})
    assert (back["applied"], seconds(back["revokedBefore"]), seconds(back["newTokensFrom"])) == (
        True,
        hour_ago,
        hour_ago + 1,
    )
    assert await status(client, **stolen) == 200
    assert (await ask(client, "PUT", replacing, {"before": moment(hour_ago)}))["applied"] is False, "nothing new"
    for applied in (True, False):
        assert await ask(client, "DELETE", path) == {"success": True, "applied": applied}


@pytest.mark.parametrize("whose", WHOSE)
async def test_a_restriction_that_comes_late_does_not_shorten_an_earlier_one(client: Client, whose: str) -> None:
    path, replacing = at(whose, "restrictions/status"), at(whose, "restrictions/status", replace=True)

    async def put(where: str, until: str | None) -> tuple[bool, str | None]:
        reported = await ask(client, "PUT", where, {} if until is None else {"until": until})
        assert reported["success"] is True
        return reported["applied"], reported["until"]

    assert await put(path, LATE) == (True, LATE)
    assert await put(path, LATE) == (False, LATE)
    assert await put(path, "2099-01-01T00:00:00Z") == (False, LATE)
    assert await put(path, LATER) == (True, LATER)
    assert await put(path, None) == (True, None)
    assert await put(path, LATER) == (False, None), "for good is longer than any end"
    assert await put(path, None) == (False, None)
    assert await put(replacing, LATE) == (True, LATE)
    assert await put(replacing, LATE) == (False, LATE)
    assert await status(client) == 403
    await ask(client, "DELETE", path)
    assert await status(client) == 200


@pytest.mark.parametrize("whose", WHOSE)
@pytest.mark.parametrize("replace", [False, True])
async def test_a_moment_in_the_future_locks_nobody_out(client: Client, whose: str, replace: bool) -> None:
    path = at(whose, "revocation", replace)
    for before in ("2099-01-01T00:00:00Z", moment(time.time() + FORGIVEN_SKEW_S + 2)):
        answer = await client.put(path, json={"before": before}, headers=OPERATOR)
        assert answer.status == 400
        [wrong] = (await answer.json())["error"]["validation"]
        assert wrong["field"] == "before"
        assert wrong["message"].startswith("must not be after 2")
    assert await status(client, iat=int(time.time())) == 200, "nothing was set"
    ahead_s = time.time() // 1 + 3
    reported = await ask(client, "PUT", path, {"before": moment(ahead_s)})
    assert (reported["applied"], seconds(reported["revokedBefore"])) == (True, ahead_s), (
        "within the forgiven skew, without more"
    )


async def test_the_tenants_leeway_is_forgiven_where_it_is_more(make_client: MakeClient) -> None:
    jwt = {"keys": [{"kid": "k1", "alg": "HS256", "secret": SECRET}], "leeway": 30}
    client = await make_client(tenants={"acme": {**tenant(), "jwt": jwt}})
    ahead = {"iat": int(time.time()) + 25}
    assert await status(client, **ahead) == 200
    assert await refused(client, "PUT", f"{AT}/revocation", {"before": moment(time.time() + 33)}) == (
        400,
        "VALIDATION_ERROR",
    )
    reported = await ask(client, "POST", f"{USER}/logout", {"everywhere": True})
    assert 29 <= seconds(reported["newTokensFrom"]) - time.time() <= 31
    assert await status(client, **ahead) == 401, "it would have lived on"


async def test_a_login_within_the_skew_is_refused_and_the_log_says_from_when_on_it_is_not(client: Client) -> None:
    await seen(client, "alice")
    reported = await ask(client, "PUT", f"{USER}/revocation", {})
    login_s = int(time.time())
    within = (
        "revoked; issued within the clock skew after a revocation: "
        f"tokens issued from {reported['newTokensFrom']} on are accepted"
    )
    undated = "revoked; without iat: refused until the revocation is lifted"
    for issued_s, reason in [(login_s - 60, "revoked"), (None, undated), (login_s, within)]:
        with capture_logs() as lines:
            assert await status(client, iat=issued_s) == 401
        assert [line["reason"] for line in lines if line["event"] == "answered"] == [reason]
    await ask(client, "PUT", f"{USER}/revocation?replace=true", {"before": moment(login_s)})
    client.app[RUNTIME].log_throttle.flush()  # a second later
    with capture_logs() as lines:
        assert await status(client, iat=login_s) == 401
    reasons = [line["reason"] for line in lines if line["event"] == "answered"]
    assert reasons == ["revoked"], "an explicit moment has no skew"


async def test_a_logout_everywhere_says_from_when_on_new_tokens_are_accepted(client: Client) -> None:
    await seen(client, "alice", "bob")
    await ask(client, "POST", f"{AT}/users/bob/suspend")
    reported = await ask(client, "POST", f"{USER}/logout", {"everywhere": True})
    assert (reported["status"], reported["applied"]) == ("logged_out", True)
    assert seconds(reported["newTokensFrom"]) - seconds(reported["revokedBefore"]) == 1
    assert 4 <= seconds(reported["newTokensFrom"]) - time.time() <= FORGIVEN_SKEW_S + 1
    users = {"users": ["alice", "bob", "nobody"], "everywhere": True}
    late, suspended, unknown = (await ask(client, "POST", f"{AT}/sessions/logout", users))["results"]
    assert seconds(late["revokedBefore"]) >= seconds(reported["revokedBefore"])
    assert late["applied"] is (late["revokedBefore"] != reported["revokedBefore"])
    assert not {"revokedBefore", "newTokensFrom", "applied"} & {*suspended, *unknown}, "nothing was done to them"


@pytest.mark.parametrize("act", ["revocation", "everywhere"])
async def test_the_answer_says_whether_new_tokens_of_this_user_differ_from_the_present_ones(
    client: Client, act: str
) -> None:
    """A token without `iat` stays refused until the revocation is lifted, however new it is."""

    async def revoke(user: str) -> Any:
        if act == "revocation":
            return (await ask(client, "PUT", f"{AT}/users/{user}/revocation", {}))["tokensCarryIat"]
        reported = await ask(client, "POST", f"{AT}/users/{user}/logout", {"everywhere": True})
        body = {"users": [user], "everywhere": True}
        [one] = (await ask(client, "POST", f"{AT}/sessions/logout", body))["results"]
        assert one["tokensCarryIat"] is reported["tokensCarryIat"]
        return reported["tokensCarryIat"]

    now_s = int(time.time())
    for user, issued in [("dated", [None, now_s]), ("undated", [now_s, None])]:
        for lasts, iat in enumerate(issued, 1):  # the token that was seen last says it
            headers = credentials(user, iat=iat, ttl_s=lasts * 1000)
            content = (await (await client.get("/auth/status", headers=headers)).json())["data"]
            assert (content["status"], content["previousStatus"]) == ("logged_in", None)
        assert await revoke(user) is (user == "dated")
        found = (await ask(client, "GET", f"{AT}/users/{user}"))["session"]
        assert found["previousStatus"] == (None if act == "revocation" else "logged_in")
    if act == "revocation":
        assert await revoke("nobody") is None
        await ask(client, "POST", f"{AT}/users/unseen/suspend")
        assert await revoke("unseen") is None


async def test_a_logout_everywhere_does_not_take_a_later_revocation_back(client: Client) -> None:
    await seen(client, "alice")
    ahead_s = time.time() // 1 + FORGIVEN_SKEW_S
    first = await ask(client, "PUT", f"{USER}/revocation", {"before": moment(ahead_s)})
    reported = await ask(client, "POST", f"{USER}/logout", {"everywhere": True})
    assert seconds(reported["revokedBefore"]) >= seconds(first["revokedBefore"]) == ahead_s


async def test_an_act_that_is_repeated_says_that_it_changed_nothing(client: Client) -> None:
    await seen(client, "alice")
    for act in ("logout", "suspend", "terminate"):
        for applied in (True, False):
            assert (await ask(client, "POST", f"{USER}/{act}"))["applied"] is applied
            [one] = (await ask(client, "POST", f"{AT}/sessions/{act}", {"users": ["alice"]}))["results"]
            assert (one["done"], one["applied"]) == (True, False)


async def test_setting_a_limit_returns_the_values_before(client: Client) -> None:
    path = f"{AT}/limits/status-ip"
    for sent, applied, previous in [((5, 60), True, (600, 60)), ((5, 60), False, (5, 60)), ((7, 30), True, (5, 60))]:
        assert await ask(client, "PUT", path, {"requests": sent[0], "window": sent[1]}) == {
            "success": True,
            "applied": applied,
            "requests": sent[0],
            "window": sent[1],
            "previous": {"requests": previous[0], "window": previous[1]},
        }
    await ask(client, "DELETE", path)
    events = (await ask(client, "GET", AT))["limits"]
    assert events == {}


@pytest.mark.parametrize("path", ["revocation?repalce=true", "revocation?user=alice", "restrictions/status?replace=x"])
async def test_a_query_that_is_not_understood_is_refused_and_not_passed_over(client: Client, path: str) -> None:
    for whose in (AT, USER):
        assert await refused(client, "PUT", f"{whose}/{path}", {}) == (400, "VALIDATION_ERROR")
    assert (await ask(client, "GET", AT))["revokedBefore"] is None
    assert await refused(client, "PUT", f"{AT}/user/revocation?replace=true", {}) == (400, "VALIDATION_ERROR")


async def test_a_restriction_whose_name_begins_with_a_sign_is_listed(client: Client) -> None:
    """It was enforced, and neither the API nor the dashboard showed it."""
    await ask(client, "PUT", f"{USER}/restrictions/_internal", {})
    assert (await ask(client, "GET", USER))["restrictions"] == [{"capability": "_internal", "until": None}]
