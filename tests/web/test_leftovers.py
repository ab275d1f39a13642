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
from tests.web.test_admin import ask, refused

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
    assert await RedisLeftovers(access.client).remove("initech") >= users
    assert [key async for key in access.client.scan_iter(match=keys_of_one("initech"))] == []
