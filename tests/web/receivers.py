"""Receivers of webhooks, and the workers that deliver to them."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from service.background.webhook_delivery import Webhooks
from service.core.operator_actions import Author
from service.core.sessions import Cause
from service.core.tasks import end
from service.core.webhooks import Webhook, WebhookState, key_of
from service.store.connection.client import RedisAccess
from service.store.events.subscriber import EventSubscriber
from service.store.events.webhook_state import RedisWebhookStates
from service.store.sessions.operator_actions import RedisOperatorActions

SECRET = "whsec_" + base64.b64encode(b"a-key-of-32-bytes-for-the-tests!").decode()
BY = Author("root")


class Receiver:
    """A server that keeps what it receives, and answers with the statuses of a list."""

    def __init__(self) -> None:
        self.status = 204
        self.headers: dict[str, str] = {}
        self.refused: set[str] = set()
        """Users whose messages are answered 400."""
        self.asked = 0
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.arrived = asyncio.Event()

    async def take(self, request: web.Request) -> web.Response:
        self.asked += 1
        content = await request.read()
        status = 400 if json.loads(content)["data"].get("userId") in self.refused else self.status
        if status < 300:
            self.got.append(({name.lower(): value for name, value in request.headers.items()}, content))
        self.arrived.set()
        return web.Response(status=status, headers=self.headers)

    def types(self) -> list[str]:
        return [json.loads(content)["type"] for _, content in self.got]

    def users(self) -> list[str]:
        return [json.loads(content)["data"].get("userId", "") for _, content in self.got]

    async def until(self, ready: Callable[[], bool]) -> None:
        async with asyncio.timeout(25):  # longer than a lease that could not be released
            while not ready():
                self.arrived.clear()
                await self.arrived.wait()


def hook(name: str, url: str, *types: str, give_up_after_s: int | None = None) -> Webhook:
    return Webhook("acme", name, url, (key_of(SECRET),), frozenset(types or ("transition",)), give_up_after_s)


MakeReceiver = Callable[[], Awaitable[tuple[Receiver, str]]]


@asynccontextmanager
async def working(access: RedisAccess, *hooks: Webhook) -> AsyncIterator[Webhooks]:
    """One worker's webhooks, begun."""
    subscriber = EventSubscriber(access.client)
    made = Webhooks(RedisWebhookStates(access.client), subscriber, waits=lambda attempts: 0.01, orders_every_s=0.01)
    made.follow(hooks)
    tasks = [asyncio.create_task(subscriber.run_forever()), asyncio.create_task(made.run_forever())]
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
    """Wait until the cursor is at the last event: what arrived before that may arrive again."""
    entries = await access.client.xrevrange("rc:{acme}:events", count=1)
    async with asyncio.timeout(5):
        while (await RedisWebhookStates(access.client).state("acme", name)).cursor != entries[0][0].decode():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def until_state(access: RedisAccess, name: str, ready: Callable[[WebhookState], Any]) -> WebhookState:
    async with asyncio.timeout(25):  # longer than a lease that could not be released
        while not ready(state := await RedisWebhookStates(access.client).state("acme", name)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return state


async def suspend(access: RedisAccess, *users: str) -> None:
    await RedisOperatorActions(access.client).act("acme", users, Cause.SUSPEND, BY)
