"""Failovers and outages under load, on every kind of deployment: nothing acknowledged after an announcement, every part
goes on. `make failovers` plays more of them, and writes docs/reference/failovers.md.
"""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from service.app import RUNTIME, Runtime, make_app
from service.store.connection.client import RedisAccess, TlsFiles
from tests.chaos.failovers import (
    CLUSTER_EVENTS,
    SENTINEL_EVENTS,
    on_a_cluster,
    pause,
    under_sentinels,
)
from tests.chaos.steady_load import SteadyLoad, serving
from tests.deployments import Node, Sentinels, redis_cluster, redis_sentinels, start_node
from tests.kit import OPERATOR, OurServer, credentials, settings, tenant, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.real_redis, pytest.mark.alone]
SECRET = "whsec_" + base64.b64encode(b"a-key-of-32-bytes-for-the-tests!").decode()
PLANNED = "`SENTINEL FAILOVER`"


# Valkey's COORDINATED is measured by `make failovers` alone: what is lost where it gives up is not the service's doing.
@pytest.mark.parametrize("server", ["Redis", "Valkey"])
def test_a_planned_failover_under_load_loses_nothing_that_was_acknowledged(server: str) -> None:
    strike, options = SENTINEL_EVENTS[PLANNED]
    outcome = under_sentinels(server, PLANNED, strike, *options, before_s=0.3, after_s=3)
    assert set(outcome.answers) <= {200, 503}
    assert outcome.heard is not None
    assert outcome.after_heard == 0
    assert outcome.lost == 0


@pytest.mark.parametrize("event", ["`CLUSTER FAILOVER`", "a primary is killed (kill -9)"])
def test_a_primary_of_a_cluster_is_followed_under_load(event: str) -> None:
    outcome = on_a_cluster("Redis", event, CLUSTER_EVENTS[event], before_s=0.3, after_s=4)
    assert set(outcome.answers) <= {200, 503}
    if event == "`CLUSTER FAILOVER`":
        assert outcome.lost == 0


@pytest.fixture(params=["one node", "sentinel", "cluster"])
def deployment(request: pytest.FixtureRequest) -> Iterator[tuple[str, list[str], list[Node]]]:
    """URL, a tenant on each primary, the nodes."""
    with ExitStack() as stack:
        if request.param == "sentinel":
            sentinels = stack.enter_context(redis_sentinels())
            yield sentinels.url, ["acme"], [sentinels.master, *sentinels.replicas]
        elif request.param == "cluster":
            cluster = stack.enter_context(redis_cluster())
            yield cluster.url, cluster.tenants(), cluster.nodes
        else:
            node = start_node(stack)
            yield f"redis://127.0.0.1:{node.port}", ["acme"], [node]


def test_every_breaker_that_opened_under_load_closes_again(deployment: tuple[str, list[str], list[Node]]) -> None:
    """All nodes fall silent for two and a half seconds, twice; under Sentinels that is a failover, too."""
    url, tenants, nodes = deployment
    with serving(url, tenants) as service:
        load = SteadyLoad(service, tenants, rate=200)
        with load.on():
            for _ in range(2):
                wait_for(lambda: len(load.acknowledged()) > 50)
                pause(nodes)
                wait_for(lambda: service.get("/readyz").status == 503)
                wait_for(lambda: service.get("/readyz").status == 200, within_s=30)
                load.writes.clear()
                wait_for(lambda: {one.tenant for one in load.acknowledged()} == set(tenants))
        assert service.get("/readyz").data["warnings"] == []
        load.writes.clear()


class Receiver:
    """A webhook's receiver, and when it received an event of which user."""

    def __init__(self) -> None:
        self.received_at: dict[str, float] = {}

    async def take(self, request: web.Request) -> web.Response:
        user = json.loads(await request.read())["data"].get("userId", "")
        self.received_at.setdefault(user, time.monotonic())
        return web.Response(status=204)


async def events_after(client: TestClient[Any, Any], after: str) -> AsyncIterator[tuple[str, str]]:
    """Id and user of each transition after an event, as a browser follows the stream: again where it ends."""
    while True:
        answer = await client.get("/admin/v1/events?tenant=acme", headers=OPERATOR | {"last-event-id": after})
        fields: dict[str, str] = {}
        while answer.status == 200 and (line := (await answer.content.readline()).decode()):
            name, _, value = line.rstrip("\r\n").partition(": ")
            if name:
                fields[name] = value
                continue
            after = fields.get("id", after)
            if fields.get("event") == "transition":
                yield after, json.loads(fields["data"])["userId"]
            fields = {}
        answer.close()
        await asyncio.sleep(0.05)


@dataclass
class Parts:
    """A service whose event stream and webhook are followed."""

    client: TestClient[Any, Any]
    runtime: Runtime
    users: dict[str, float]
    """When the event stream had an event of which user."""
    received_at: dict[str, float]
    """When the webhook had."""


@asynccontextmanager
async def every_part(url: str) -> AsyncIterator[Parts]:
    """Run a service in this process, from when on its event stream and its webhook deliver."""
    receiver, hook_app = Receiver(), web.Application()
    hook_app.router.add_post("/hook", receiver.take)
    hook_server = TestServer(hook_app)
    await hook_server.start_server()
    hook = {"name": "h", "url": str(hook_server.make_url("/hook")), "secret": SECRET, "events": ["transition"]}
    access = RedisAccess.by_url(url, TlsFiles())
    configured = settings(tenants={"acme": tenant(webhooks=[hook])}, redis={"timeout": 1})
    app = await asyncio.to_thread(make_app, configured, access)
    client: TestClient[Any, Any] = TestClient(OurServer(app))
    await client.start_server()
    users: dict[str, float] = {}

    async def listen() -> None:
        async for _, user in events_after(client, "0-0"):
            users.setdefault(user, time.monotonic())

    listening = asyncio.create_task(listen())
    try:
        number = 0
        while not users.keys() & receiver.received_at.keys():  # a webhook begins with what happens once it is worked
            number += 1
            assert (await client.post("/auth/logout", headers=credentials(f"before-{number}"))).status == 200
            await asyncio.sleep(0.05)
        yield Parts(client, app[RUNTIME], users, receiver.received_at)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await client.close()
        await hook_server.close()


@pytest.fixture
def sentinels() -> Iterator[Sentinels]:
    with redis_sentinels() as made:
        yield made


async def test_every_part_follows_a_planned_failover_within_a_second(sentinels: Sentinels) -> None:
    async with every_part(sentinels.url) as parts:
        client, runtime, users, received_at = parts.client, parts.runtime, parts.users, parts.received_at
        await asyncio.to_thread(sentinels.fail_over)
        await until(lambda: runtime.router.is_down)
        swept_before = runtime.runs.at_s["sweep"]
        assert (await client.post("/auth/logout", headers=credentials("meanwhile"))).status == 503
        assert (await client.post("/admin/v1/tenants/acme/users/m/suspend", headers=OPERATOR, json={})).status == 503
        assert (await client.get("/readyz")).status == 503
        await until(lambda: not runtime.router.is_down)
        back = time.monotonic()
        assert (await client.post("/auth/logout", headers=credentials("after"))).status == 200
        assert (await client.post("/admin/v1/tenants/acme/users/s/suspend", headers=OPERATOR, json={})).status == 200
        assert (await client.get("/readyz")).status == 200
        await until(lambda: {"after", "s"} <= users.keys() & received_at.keys())
        await until(lambda: runtime.runs.at_s["sweep"] > swept_before)
        late = {part: reported["s"] - back for part, reported in (("stream", users), ("webhook", received_at))}
        assert max(late.values()) < 1, late
    assert sentinels.replica.client.exists("rc:{acme}:u:after", "rc:{acme}:u:s") == 2


async def until(ready: Callable[[], Any]) -> None:
    async with asyncio.timeout(15):
        while not ready():  # noqa: ASYNC110  # other processes' doing
            await asyncio.sleep(0.005)
