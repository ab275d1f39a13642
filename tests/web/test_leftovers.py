"""What is kept of tenants that are not configured: listed, removed, and a warning where a name is given again."""

import pytest
from structlog.testing import capture_logs

from service.core.operator_actions import Author
from service.core.sessions import Cause
from service.store.connection.client import RedisAccess
from service.store.keyspace import NAMES, keys_of_one
from service.store.sessions.leftovers import RedisLeftovers
from service.store.sessions.operator_actions import RedisOperatorActions
from tests.conftest import Client
from tests.kit import VIEWER_TOKEN, credentials
from tests.store.making import sweeper
from tests.web.admin_requests import ask, refused

AT = "/admin/v1/leftovers"
ROOT = Author("root")


async def customer_of_yore(access: RedisAccess, users: int = 3) -> None:
    """A tenant, initech, that was configured once: users who are terminated or suspended, and a restriction."""
    actions = RedisOperatorActions(access.client)
    names = [f"user-{number}" for number in range(users)]
    await actions.act("initech", names, Cause.TERMINATE, ROOT)
    await actions.act("initech", ["milton"], Cause.SUSPEND, ROOT)
    await actions.restrict("initech", None, "logout", ROOT)
    await actions.restrict("initech", "nobody-else-knows", "logout", ROOT)
    await sweeper(access, {"initech": 0}).sweep()


async def test_what_is_kept_of_a_tenant_that_is_gone_is_listed_and_removed_whole(
    client: Client, access: RedisAccess
) -> None:
    assert (await client.get("/auth/status", headers=credentials())).status == 200
    await customer_of_yore(access)
    await sweeper(access, {"acme": 0, "globex": 0}).sweep()
    [found] = (await ask(client, "GET", AT))["tenants"]
    assert (found["tenant"], found["hasRules"]) == ("initech", True)
    assert (found["counts"]["terminated"], found["counts"]["suspended"]) == (3, 1)
    assert (await ask(client, "DELETE", f"{AT}/initech"))["removed"] >= 6
    assert [key async for key in access.client.scan_iter(match=keys_of_one("initech"))] == []
    assert (await ask(client, "GET", AT))["tenants"] == []
    assert await refused(client, "DELETE", f"{AT}/initech") == (404, "NOT_FOUND")
    assert len((await ask(client, "GET", "/admin/v1/tenants/acme/sessions"))["sessions"]) == 1, "others keep theirs"


async def test_a_configured_tenant_is_not_removed_and_only_operators_of_all_tenants_may(client: Client) -> None:
    assert await refused(client, "DELETE", f"{AT}/acme") == (409, "CONFLICT")
    viewer = {"authorization": f"Bearer {VIEWER_TOKEN}"}
    assert (await refused(client, "GET", AT, headers=viewer))[0] == 403
    assert (await refused(client, "DELETE", f"{AT}/initech", headers=viewer))[0] == 403


async def test_what_an_earlier_version_no_longer_listed_is_found_again(access: RedisAccess) -> None:
    await customer_of_yore(access)
    await access.client.srem(NAMES.tenants, "initech")
    leftovers = RedisLeftovers(access.client)
    assert await leftovers.of(["acme"]) == []
    await leftovers.note_all()
    assert [one.tenant for one in await leftovers.of(["acme"])] == ["initech"]


async def test_a_tenant_that_is_new_in_the_configuration_and_finds_older_bans_is_a_warning(access: RedisAccess) -> None:
    await customer_of_yore(access)
    with capture_logs() as lines:
        await sweeper(access, {"acme": 0}).warn_of_older_rules()
        assert lines == [], "nothing is known of before"
        reloaded = sweeper(access, {"acme": 0, "initech": 0, "clean": 0})
        await reloaded.warn_of_older_rules()
        await reloaded.warn_of_older_rules()
        await sweeper(access, {"acme": 0, "initech": 0, "clean": 0}).warn_of_older_rules()
    assert [line["tenant"] for line in lines] == ["initech"]
    assert "rollcall forget" in lines[0]["event"]


@pytest.mark.parametrize("users", [1500])
async def test_many_users_are_removed_in_steps(access: RedisAccess, users: int) -> None:
    await customer_of_yore(access, users)
    leftovers, removed, after = RedisLeftovers(access.client), 0, ""
    while True:
        part = await leftovers.remove("initech", after)
        removed += part.keys
        if part.following is None:
            break
        after = part.following
    assert removed >= users
    assert [key async for key in access.client.scan_iter(match=keys_of_one("initech"))] == []


@pytest.mark.parametrize(
    "access",
    [pytest.param(kind, marks=pytest.mark.real_redis) for kind in ("real", "cluster")],  # fakeredis has no true SCAN
    indirect=True,
)
async def test_one_call_removes_a_bounded_part_and_the_next_ones_the_rest(
    client: Client, access: RedisAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The removal was one call, as long as it took: minutes with millions of users."""
    monkeypatch.setattr("service.store.sessions.leftovers.STEP", 50)
    monkeypatch.setattr("service.store.sessions.leftovers.MOST_STEPS", 3)
    await customer_of_yore(access, 510)
    removed, calls, query = 0, 0, ""
    while True:
        part = await ask(client, "DELETE", f"{AT}/initech{query}")
        removed, calls = removed + part["removed"], calls + 1
        assert part["removed"] <= 3 * 2 * 50, "SCAN returns about as many as it is asked for"
        if part["next"] is None:
            break
        assert [one["tenant"] for one in (await ask(client, "GET", AT))["tenants"]] == ["initech"], "it is not done yet"
        query = f"?after={part['next']}"
    assert removed >= 510
    assert calls > 4
    assert [key async for key in access.client.scan_iter(match=keys_of_one("initech"))] == []
    assert (await ask(client, "GET", AT))["tenants"] == []
    assert await refused(client, "DELETE", f"{AT}/initech?after=x") == (400, "VALIDATION_ERROR")


async def test_a_removal_that_was_left_halfway_is_begun_again(
    client: Client, access: RedisAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    await customer_of_yore(access, 510)
    with monkeypatch.context() as patch:
        patch.setattr("service.store.sessions.leftovers.STEP", 50)
        patch.setattr("service.store.sessions.leftovers.MOST_STEPS", 3)
        assert (await ask(client, "DELETE", f"{AT}/initech"))["next"] is not None
    assert (await ask(client, "DELETE", f"{AT}/initech"))["next"] is None
    assert [key async for key in access.client.scan_iter(match=keys_of_one("initech"))] == []
