"""Webhooks: signed, in order, at least once; a dead receiver is shown and holds up nobody else."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from service.background.webhook_delivery import Webhooks, _wait_s
from service.core.operator_actions import Author
from service.core.sessions import Cause
from service.core.tasks import end
from service.core.webhooks import Webhook, key_of
from service.store.connection.client import RedisAccess
from service.store.events.subscriber import EventSubscriber
from service.store.events.webhook_state import RedisWebhookStates
from service.store.sessions.operator_actions import RedisOperatorActions
from tests.conftest import MakeClient
from tests.kit import OPERATOR_TOKEN, ROOT, tenant

SECRET = "whsec_" + base64.b64encode(b"a-key-of-32-bytes-for-the-tests!").decode()
BY = Author("root")


class Receiver:
    """A server that keeps what it is sent, and answers as told."""

    def __init__(self) -> None:
        self.status = 204
        self.asked = 0
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.arrived = asyncio.Event()

    async def take(self, request: web.Request) -> web.Response:
        self.asked += 1
        content = await request.read()
        if self.status < 300:
            self.got.append(({name.lower(): value for name, value in request.headers.items()}, content))
        self.arrived.set()
        return web.Response(status=self.status)

    def users(self) -> list[str]:
        return [json.loads(content)["data"].get("userId", "") for _, content in self.got]

    async def until(self, ready: Callable[[], bool]) -> None:
        async with asyncio.timeout(8):
            while not ready():
                self.arrived.clear()
                await self.arrived.wait()


@pytest.fixture
async def make_receiver() -> AsyncIterator[Callable[[], Awaitable[tuple[Receiver, str]]]]:
    servers = []

    async def make() -> tuple[Receiver, str]:
        receiver, app = Receiver(), web.Application()
        app.router.add_post("/hook", receiver.take)
        server = TestServer(app)
        await server.start_server()
        servers.append(server)
        return receiver, str(server.make_url("/hook"))

    yield make
    for server in servers:
        await server.close()


def hook(name: str, url: str, *types: str) -> Webhook:
    return Webhook("acme", name, url, (key_of(SECRET),), frozenset(types or ("transition",)))


@asynccontextmanager
async def working(access: RedisAccess, *hooks: Webhook) -> AsyncIterator[Webhooks]:
    """One worker's webhooks, begun."""
    news = EventSubscriber(access.client)
    made = Webhooks(RedisWebhookStates(access.client), news, waits=lambda attempts: 0.01)
    made.follow(hooks)
    tasks = [asyncio.create_task(news.run_forever()), asyncio.create_task(made.run_forever())]
    try:
        yield made
    finally:
        await end(tasks)


async def begun(access: RedisAccess, *names: str) -> None:
    async with asyncio.timeout(5):
        for name in names:
            while (await RedisWebhookStates(access.client).state("acme", name)).cursor is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def kept(access: RedisAccess, name: str) -> None:
    """Wait until the cursor stands at the last event: what arrived before that may arrive again."""
    entries = await access.client.xrevrange("rc:{acme}:events", count=1)
    async with asyncio.timeout(5):
        while (await RedisWebhookStates(access.client).state("acme", name)).cursor != entries[0][0].decode():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def suspend(access: RedisAccess, *users: str) -> None:
    await RedisOperatorActions(access.client).act("acme", users, Cause.SUSPEND, BY)


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
        told = json.loads(content)
        assert (told["type"], told["data"]["tenant"], told["data"]["to"]) == ("transition", "acme", "suspended")
        assert told["timestamp"] == told["data"]["at"]
        assert headers["webhook-id"] == f"acme.{told['data']['id']}"


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
        assert (state.attempts >= 2, state.error) == (True, "it answered 500")
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
async def test_of_two_workers_one_tells_it(
    access: RedisAccess, make_receiver: Callable[[], Awaitable[tuple[Receiver, str]]]
) -> None:
    receiver, url = await make_receiver()
    async with working(access, hook("one", url)), working(access, hook("one", url)):
        await begun(access, "one")
        await suspend(access, *(f"u{number}" for number in range(30)))
        await receiver.until(lambda: len(receiver.got) >= 30)
        await asyncio.sleep(0.2)
    assert receiver.users() == [f"u{number}" for number in range(30)]


async def test_what_fell_out_of_the_stream_meanwhile_is_told_as_a_gap(
    access: RedisAccess, make_receiver: Callable[[], Awaitable[tuple[Receiver, str]]]
) -> None:
    receiver, url = await make_receiver()
    await RedisWebhookStates(access.client).delivered("acme", "one", "1000-0")
    await suspend(access, "a")
    async with working(access, hook("one", url)):
        await receiver.until(lambda: len(receiver.got) == 2)
    kinds = [json.loads(content)["type"] for _, content in receiver.got]
    assert kinds == ["gap", "transition"]
    assert json.loads(receiver.got[0][1])["data"] == {"tenant": "acme", "after": "1000-0"}


async def test_it_is_told_what_it_asked_for_alone(
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
            [told] = (await answer.json())["data"]["webhooks"]
            if told["failedAttempts"]:
                break
            await asyncio.sleep(0.02)
    assert (told["webhook"], told["error"]) == ("audit", "it answered 404")
    assert SECRET not in json.dumps(told)
    receiver.status = 200
    await receiver.until(lambda: len(receiver.got) == 1)


def test_waits_grow_and_are_bounded() -> None:
    assert 0.5 <= _wait_s(1) <= 1
    assert 4 <= _wait_s(4) <= 8
    assert 150 <= _wait_s(10_000) <= 300


def test_a_secret_is_text_or_base64() -> None:
    assert key_of(SECRET) == b"a-key-of-32-bytes-for-the-tests!"
    assert key_of("x" * 24) == b"x" * 24
    for wrong in ("short", "whsec_short", "whsec_????", "whsec_" + base64.b64encode(b"x" * 23).decode()):
        with pytest.raises(ValueError, match=r"base64|24 bytes"):
            key_of(wrong)
