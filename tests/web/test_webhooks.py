"""Webhooks: each event is signed and arrives in order, at least once; a dead receiver delays no other."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from service import __version__
from service.core.webhooks import Pause
from service.store.connection.client import RedisAccess
from service.store.events.webhook_state import RedisWebhookStates
from service.store.sessions.operator_actions import RedisOperatorActions
from tests.conftest import MakeClient
from tests.kit import OPERATOR_TOKEN, ROOT, tenant
from tests.web.receivers import BY, SECRET, MakeReceiver, Receiver, begun, hook, kept, suspend, working


async def test_each_event_arrives_signed_as_the_documentation_verifies_it(
    access: RedisAccess, make_receiver: Callable[[], Awaitable[tuple[Receiver, str]]]
) -> None:
    receiver, url = await make_receiver()
    guide = (ROOT / "docs" / "how-to" / "receive-webhooks.md").read_text()
    [shown] = re.findall(r"```python\n(def verify.*?)```", guide, re.DOTALL)
    documented: dict[str, Any] = {}
    exec("import base64, hashlib, hmac, time\n" + shown, documented)
    async with working(access, hook("one", url)):
        await begun(access, "one")
        await suspend(access, "alice", "bob")
        await receiver.until(lambda: len(receiver.got) == 2)
    assert receiver.users() == ["alice", "bob"]
    for headers, content in receiver.got:
        assert documented["verify"](SECRET, headers, content)
        assert not documented["verify"](SECRET, headers, content + b" ")
        assert not documented["verify"](SECRET, headers | {"webhook-timestamp": "1"}, content)
        reported = json.loads(content)
        assert (reported["type"], reported["data"]["tenant"], reported["data"]["to"]) == (
            "transition",
            "acme",
            "suspended",
        )
        assert reported["timestamp"] == reported["data"]["at"]
        assert headers["webhook-id"] == f"acme.{reported['data']['id']}"


async def test_a_receiver_that_fails_is_asked_again_in_order_and_holds_up_nobody_else(
    access: RedisAccess, make_receiver: Callable[[], Awaitable[tuple[Receiver, str]]]
) -> None:
    (well, well_url), (ill, ill_url) = await make_receiver(), await make_receiver()
    ill.status = 500
    async with working(access, hook("well", well_url), hook("ill", ill_url)):
        await begun(access, "well", "ill")
        users = [f"u{number}" for number in range(20)]
        await suspend(access, *users)
        await well.until(lambda: len(well.got) == 20)
        await ill.until(lambda: ill.asked >= 3)
        state = await RedisWebhookStates(access.client).state("acme", "ill")
        assert (state.attempts >= 2, state.error) == (True, "the receiver answered 500")
        ill.status = 200
        await ill.until(lambda: len(ill.got) == 20)
    assert well.users() == ill.users() == users
    after = await RedisWebhookStates(access.client).state("acme", "ill")
    assert (after.attempts, after.error) == (0, "")


async def test_who_takes_over_goes_on_where_the_last_one_was(
    access: RedisAccess, make_receiver: Callable[[], Awaitable[tuple[Receiver, str]]]
) -> None:
    receiver, url = await make_receiver()
    async with working(access, hook("one", url)):
        await begun(access, "one")
        await suspend(access, "a")
        await kept(access, "one")
    await suspend(access, "b", "c")
    async with working(access, hook("one", url)):
        await receiver.until(lambda: len(receiver.got) == 3)
    assert receiver.users() == ["a", "b", "c"]


@pytest.mark.parametrize("access", ["real"], indirect=True)
async def test_only_one_of_two_workers_delivers_it(
    access: RedisAccess, make_receiver: Callable[[], Awaitable[tuple[Receiver, str]]]
) -> None:
    receiver, url = await make_receiver()
    async with working(access, hook("one", url)), working(access, hook("one", url)):
        await begun(access, "one")
        await suspend(access, *(f"u{number}" for number in range(30)))
        await receiver.until(lambda: len(receiver.got) >= 30)
        await asyncio.sleep(0.2)
    assert receiver.users() == [f"u{number}" for number in range(30)]


async def test_what_left_the_stream_meanwhile_is_reported_as_a_gap(
    access: RedisAccess, make_receiver: Callable[[], Awaitable[tuple[Receiver, str]]]
) -> None:
    receiver, url = await make_receiver()
    await RedisWebhookStates(access.client).delivered("acme", "one", "1000-0")
    await suspend(access, "a")
    async with working(access, hook("one", url)):
        await receiver.until(lambda: len(receiver.got) == 2)
    assert receiver.types() == ["gap", "transition"]
    assert json.loads(receiver.got[0][1])["data"] == {"tenant": "acme", "after": "1000-0", "cause": "lost"}


async def test_it_receives_only_the_types_that_it_asked_for(
    access: RedisAccess, make_receiver: Callable[[], Awaitable[tuple[Receiver, str]]]
) -> None:
    receiver, url = await make_receiver()
    async with working(access, hook("one", url, "restriction")):
        await begun(access, "one")
        await suspend(access, "a")
        await RedisOperatorActions(access.client).restrict("acme", "a", "pay", BY)
        await receiver.until(lambda: len(receiver.got) == 1)
    assert json.loads(receiver.got[0][1])["type"] == "restriction"


async def test_the_service_works_those_of_its_configuration_and_shows_how_they_go(
    make_client: MakeClient, access: RedisAccess, make_receiver: Callable[[], Awaitable[tuple[Receiver, str]]]
) -> None:
    receiver, url = await make_receiver()
    webhooks = [{"name": "audit", "url": url, "secret": SECRET}]
    client = await make_client(tenants={"acme": tenant(webhooks=webhooks), "globex": tenant(token="g")})
    await begun(access, "audit")
    receiver.status = 404
    await suspend(access, "alice")
    await receiver.until(lambda: receiver.asked >= 1)
    headers = {"authorization": f"Bearer {OPERATOR_TOKEN}"}
    async with asyncio.timeout(5):
        while True:
            answer = await client.get("/admin/v1/tenants/acme/webhooks", headers=headers)
            [reported] = (await answer.json())["data"]["webhooks"]
            if reported["failedAttempts"]:
                break
            await asyncio.sleep(0.02)
    assert (reported["webhook"], reported["error"]) == ("audit", "the receiver answered 404")
    assert SECRET not in json.dumps(reported)
    receiver.status = 200
    await receiver.until(lambda: len(receiver.got) == 1)


async def test_a_message_is_minified_json_with_a_timestamp_and_names_the_service(
    access: RedisAccess, make_receiver: MakeReceiver
) -> None:
    receiver, url = await make_receiver()
    await RedisWebhookStates(access.client).delivered("acme", "one", "1000-0")
    await suspend(access, "zoë, the first: a")
    async with working(access, hook("one", url)):
        await receiver.until(lambda: len(receiver.got) == 2)
    for headers, content in receiver.got:
        message = json.loads(content)
        assert content == json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", message["timestamp"]), message["type"]
        assert headers["user-agent"] == f"rollcall/{__version__}"
        assert headers["content-type"] == "application/json"


@pytest.mark.parametrize("access", ["fake"], indirect=True)
async def test_the_state_that_an_earlier_version_kept_is_taken_over_and_no_longer_runs_out(
    access: RedisAccess, make_receiver: MakeReceiver
) -> None:
    _, url = await make_receiver()
    await suspend(access, "a", "b")
    entries = await access.client.xrange("rc:{acme}:events")
    key = "rc:{acme}:hook:one"
    await access.client.hset(key, mapping={"cursor": entries[0][0], "attempts": 3, "error": "it answered 500"})
    await access.client.expire(key, 1000)
    async with working(access, hook("one", url, "limit")):  # nothing is delivered
        async with asyncio.timeout(5):
            while await access.client.ttl(key) != -1:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    async with working(access, hook("one", url)):
        await RedisWebhookStates(access.client).pause("acme", "one", Pause("root", "", 1))
    assert (await RedisWebhookStates(access.client).state("acme", "one")).name == "paused"
