"""A primary that becomes a replica while connections to it stay open: whichever part notices, every part leaves it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError

from service.core.errors import StoreUnavailable
from service.core.operator_actions import Author
from service.core.sessions import Cause
from service.store.admissions.batcher import Admissions
from service.store.connection.calls import subscriber
from service.store.connection.client import RedisAccess, TlsFiles
from service.store.connection.router import NodeRouter
from service.store.events.webhook_state import RedisWebhookStates
from service.store.keyspace import NAMES
from service.store.sessions.operator_actions import RedisOperatorActions
from tests.deployments import Node, start_node
from tests.forwarder import Forwarder
from tests.kit import wait_for
from tests.store.making import RULES, ask_about

pytestmark = [pytest.mark.slow, pytest.mark.real_redis]
NUMBERS = count()
"""Each act is about a user of its own: what changes nothing writes nothing."""


@pytest.fixture
def nodes() -> Iterator[tuple[Node, Node]]:
    """A primary and its replica."""
    with ExitStack() as stack:
        primary, replica = (start_node(stack, "--unixsocket", "r.sock") for _ in range(2))
        replica.client.replicaof("127.0.0.1", primary.port)
        wait_for(lambda: replica.client.info("replication")["master_link_status"] == "up")
        yield primary, replica


@dataclass
class Deployment:
    """A service's parts over one address, and how that leads to the replica, which becomes the primary."""

    access: RedisAccess
    router: NodeRouter
    demote: Callable[[], Awaitable[None]]
    """Makes the replica the primary, while the address still leads to the server before."""
    lead: Callable[[], None]
    """Has the address lead to the new primary."""
    new_port: int

    async def fail_over(self) -> None:
        await self.demote()
        self.lead()

    async def uses_the_new_primary(self) -> bool:
        """Whether the client for everything but the admissions is led to it."""
        with suppress(RedisConnectionError):
            return int((await self.access.client.info("server"))["tcp_port"]) == self.new_port
        return False


@asynccontextmanager
async def over(url: str, lead: Callable[[], None], nodes: tuple[Node, Node]) -> AsyncIterator[Deployment]:
    old, new = nodes

    def strike() -> None:
        new.client.replicaof("NO", "ONE")
        old.client.replicaof("127.0.0.1", 1)  # cut off, so that nothing of what happens now reaches it

    async def demote() -> None:
        await asyncio.to_thread(strike)

    access = RedisAccess.by_url(url, TlsFiles())
    router = access.router(timeout_s=1)
    await router.open()
    yield Deployment(access, router, demote, lead, new.port)
    await router.close()
    await access.close()


@pytest.fixture(params=["a forwarder", "a symlink of a unix socket"])
async def deployment(
    request: pytest.FixtureRequest, nodes: tuple[Node, Node], tmp_path: Path
) -> AsyncIterator[Deployment]:
    old, new = nodes
    if request.param == "a forwarder":
        with Forwarder(old).running() as forwarder:
            url = f"redis://127.0.0.1:{forwarder.port}"
            async with over(url, lambda: setattr(forwarder, "target", new), nodes) as made:
                yield made
        return
    link = tmp_path / "redis.sock"
    link.symlink_to(old.folder / "r.sock")

    def lead() -> None:
        (tmp_path / "next.sock").symlink_to(new.folder / "r.sock")
        (tmp_path / "next.sock").replace(link)

    async with over(f"unix://{link}", lead, nodes) as made:
        yield made


async def by_an_admission(deployment: Deployment) -> None:
    await Admissions(deployment.router, RULES).ask(ask_about(f"user{next(NUMBERS)}"))


async def by_an_act(deployment: Deployment) -> None:
    acts = RedisOperatorActions(deployment.access.client)
    await acts.act("acme", [f"user{next(NUMBERS)}"], Cause.SUSPEND, Author("root"))


async def by_a_webhook(deployment: Deployment) -> None:
    await RedisWebhookStates(deployment.access.client).delivered("acme", "h", "1-0")


async def by_a_command_in_a_pipeline(deployment: Deployment) -> None:
    pipeline = deployment.access.client.pipeline(transaction=False)
    pipeline.get("rc:x").set("rc:x", 1)
    try:
        await pipeline.execute()
    except (ReadOnlyError, RedisConnectionError) as error:
        raise StoreUnavailable(str(error)) from error


async def by_readiness(deployment: Deployment) -> None:
    if await deployment.router.not_writable() is None:
        raise StoreUnavailable("not ready")


NOTICED = (by_an_admission, by_an_act, by_a_webhook, by_a_command_in_a_pipeline, by_readiness)


async def until_back(deployment: Deployment) -> None:
    async with asyncio.timeout(1):  # "within a second"
        while deployment.router.is_down or not await deployment.uses_the_new_primary():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    for ask in NOTICED:
        await ask(deployment)


@pytest.mark.parametrize("first", NOTICED, ids=lambda ask: str(ask.__name__))
async def test_whichever_part_meets_a_replica_every_part_leaves_it(
    deployment: Deployment, first: Callable[[Deployment], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.connection.router.WATCH_EVERY_S", 3600)  # nothing else may notice
    for ask in NOTICED:
        await ask(deployment)
    await deployment.fail_over()
    with pytest.raises(StoreUnavailable):
        await first(deployment)
    await until_back(deployment)


async def test_a_demotion_is_noticed_though_nothing_is_written(
    deployment: Deployment, nodes: tuple[Node, Node]
) -> None:
    """The replica answers whoever only listens and reads, too; but what happens is at the new primary."""
    pubsub: Any = subscriber(deployment.access.client)
    await pubsub.subscribe(NAMES.event_channel)
    assert await pubsub.get_message(timeout=1)
    await deployment.fail_over()
    async with asyncio.timeout(1.5):
        while True:
            await asyncio.to_thread(nodes[1].client.publish, NAMES.event_channel, "acme")
            with suppress(RedisConnectionError, RuntimeError):
                message = await pubsub.get_message(timeout=0.05)
                if message is not None and message["type"] == "message":
                    break
    await pubsub.aclose()
    await until_back(deployment)


@pytest.mark.parametrize("first", [by_an_admission, by_an_act], ids=lambda ask: str(ask.__name__))
async def test_what_connects_before_the_address_leads_to_the_new_primary_does_not_give_it_up_later(
    deployment: Deployment, first: Callable[[Deployment], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replica answers reads and subscriptions: a connection that is kept for them would meet READONLY with the
    next act, and everything would be refused once more.
    """
    monkeypatch.setattr("service.store.connection.router.WATCH_EVERY_S", 3600)  # nothing else may notice
    access, router = deployment.access, deployment.router
    for ask in NOTICED:
        await ask(deployment)
    await deployment.demote()
    with pytest.raises(StoreUnavailable):
        await first(deployment)
    pubsub: Any = subscriber(access.client)
    with suppress(RedisError):
        await pubsub.subscribe(NAMES.event_channel)
    await pubsub.aclose()
    for _ in range(2):  # the first ones may find connections that are just being closed
        await asyncio.gather(*(access.client.get("rc:x") for _ in range(5)), return_exceptions=True)
    assert router.is_down
    await asyncio.to_thread(deployment.lead)
    async with asyncio.timeout(30):
        while router.is_down:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    for ask in (*NOTICED, *NOTICED):
        await ask(deployment)
        assert not router.is_down
    assert await deployment.uses_the_new_primary()


async def test_a_demotion_that_no_primary_replaces_is_an_outage_and_readiness_says_so(
    deployment: Deployment, nodes: tuple[Node, Node]
) -> None:
    await by_an_admission(deployment)
    server = nodes[0].client
    await asyncio.to_thread(server.replicaof, "127.0.0.1", 1)
    with pytest.raises(StoreUnavailable):
        await by_an_admission(deployment)
    for _ in range(3):
        assert deployment.router.is_down
        assert await deployment.router.not_writable() is None
        await asyncio.sleep(0.1)
    await asyncio.to_thread(server.replicaof, "NO", "ONE")
    async with asyncio.timeout(1):
        while deployment.router.is_down:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await by_an_admission(deployment)
