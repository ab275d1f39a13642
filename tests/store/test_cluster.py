"""A Cluster whose nodes go away and come back: each node's breaker, probe and check ask that node."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from service.core.errors import StoreUnavailable
from service.core.session_lists import Event
from service.store.admissions.batcher import Admissions
from service.store.connection.client import RedisAccess, TlsFiles
from service.store.connection.cluster_topology import SLOTS, ClusterTopology
from service.store.connection.pipeline import CONNECT_S
from service.store.connection.router import NodeRouter
from service.store.events.subscriber import EventSubscriber
from service.store.keyspace import NAMES
from service.store.sessions.expiry_sweep import Sweeper, SweepRules
from tests.deployments import Cluster, redis_cluster
from tests.store.making import RULES, ask_about, now_ms

pytestmark = [pytest.mark.slow, pytest.mark.real_redis]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with redis_cluster("--cluster-require-full-coverage", "no") as made:
        yield made


@pytest.fixture
async def access(cluster: Cluster) -> AsyncIterator[RedisAccess]:
    made = RedisAccess.by_url(cluster.url, TlsFiles())
    yield made
    await made.close()


@pytest.fixture
async def router(access: RedisAccess) -> AsyncIterator[NodeRouter]:
    made = access.router(timeout_s=0.25)
    await made.open()
    yield made
    await made.close()


@pytest.fixture
def one_is_full(cluster: Cluster) -> Iterator[int]:
    """The number of a master that answers, and takes no writes."""
    cluster.nodes[1].client.config_set("maxmemory", 1)
    yield 1
    cluster.nodes[1].client.config_set("maxmemory", 0)


async def until_open(admissions: Admissions, router: NodeRouter, tenants: list[str]) -> None:
    async with asyncio.timeout(10):
        while not all(router.pipeline_to(tenant).is_down for tenant in tenants):
            await asyncio.gather(
                *(admissions.ask(ask_about("alice", tenant=tenant)) for tenant in tenants), return_exceptions=True
            )
            await asyncio.sleep(0.02)


async def test_every_master_whose_breaker_opened_is_used_again(
    cluster: Cluster, access: RedisAccess, router: NodeRouter
) -> None:
    admissions, tenants = Admissions(router, RULES), cluster.tenants()
    for node in cluster.nodes:
        node.client.client_pause(2500)
    await until_open(admissions, router, tenants)
    async with asyncio.timeout(2.5 + CONNECT_S):
        while any(router.pipeline_to(tenant).is_down for tenant in tenants):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    for tenant in tenants:
        assert (await admissions.ask(ask_about("alice", tenant=tenant))).session is not None
    assert await router.not_writable() == []
    await admissions.close()


async def test_a_primary_that_takes_no_writes_is_named_and_the_others_serve_on(
    cluster: Cluster, router: NodeRouter, one_is_full: int
) -> None:
    tenants = cluster.tenants()
    admissions = Admissions(router, RULES)
    assert await router.not_writable() == [f"127.0.0.1:{cluster.nodes[one_is_full].port}"], "asked before any request"
    await until_open(admissions, router, [tenants[one_is_full]])
    await asyncio.sleep(0.6)
    assert router.pipeline_to(tenants[one_is_full]).is_down, "it answers the probes of its breaker, but takes no writes"
    assert await router.not_writable() == [f"127.0.0.1:{cluster.nodes[one_is_full].port}"]
    assert (await admissions.ask(ask_about("alice", tenant=tenants[0]))).session is not None
    with pytest.raises(StoreUnavailable):
        await admissions.ask(ask_about("alice", tenant=tenants[one_is_full]))
    cluster.nodes[one_is_full].client.config_set("maxmemory", 0)
    async with asyncio.timeout(5):
        while router.pipeline_to(tenants[one_is_full]).is_down:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert await router.not_writable() == []
    await admissions.close()


async def test_each_node_is_probed_by_a_key_of_a_slot_that_it_owns(cluster: Cluster, access: RedisAccess) -> None:
    assert access.topology is not None
    assert await access.topology.refresh()
    assert len(access.topology.primaries) == 3
    for host, port in access.topology.primaries:
        key = access.topology.probe_key((host, port))
        assert cluster.owner_of(key).port == port
        assert access.topology.owner_of(key) == (host, port)


def slots(*spans: tuple[int, int, int]) -> list[object]:
    """An answer to CLUSTER SLOTS: first slot, last slot, port."""
    return [[first, last, [b"10.0.0.1", port, b"id"]] for first, last, port in spans]


def test_a_node_with_a_single_slot_is_probed_by_a_key_of_it_and_follows_the_map(access: RedisAccess) -> None:
    topology = access.topology
    assert isinstance(topology, ClusterTopology)
    topology.take(("10.0.0.9", 7000), slots((0, 6, 7001), (7, 7, 7002), (8, SLOTS - 1, 7003)))
    alone = topology.probe_key(("10.0.0.1", 7002))
    assert topology.owner_of(alone) == ("10.0.0.1", 7002)
    topology.take(("10.0.0.9", 7000), slots((0, 100, 7002), (101, SLOTS - 1, 7001)))
    assert topology.owner_of(topology.probe_key(("10.0.0.1", 7002))) == ("10.0.0.1", 7002)
    assert topology.probe_key(("10.0.0.1", 7003)), "it owns nothing any more, and is asked by some key"


async def test_a_cluster_that_covers_only_some_slots_is_used_as_far_as_it_goes(access: RedisAccess) -> None:
    assert access.topology is not None
    access.topology.take(("10.0.0.9", 7000), [[0, 5, [b"", 7001, b"id"]]])
    owners = {access.topology.probe_key(("10.0.0.9", 7001))}
    assert [access.topology.owner_of(one) for one in owners] == [("10.0.0.9", 7001)], "who knows no host was asked"
    with pytest.raises(StoreUnavailable):
        access.topology.owner_of("rc:{acme}:")
    with pytest.raises(ValueError, match="no slots"):
        access.topology.take(("10.0.0.9", 7000), [])


class Breaking:
    """A Cluster that is going to lose the master that owns a key, for good; with the tenants of the others."""

    def __init__(self, cluster: Cluster, key: str) -> None:
        self.master = cluster.owner_of(key)
        tenants = dict(zip(cluster.tenants(), cluster.nodes, strict=False))
        self.tenants = [name for name, node in tenants.items() if node is not self.master]
        [self.lost] = tenants.keys() - self.tenants
        self.url = cluster.url


@pytest.fixture
def breaking(request: pytest.FixtureRequest) -> Iterator[Breaking]:
    with redis_cluster("--cluster-require-full-coverage", "no") as made:
        yield Breaking(made, request.param)


@pytest.mark.parametrize("breaking", [NAMES.sweeper], indirect=True)
async def test_tenants_are_swept_although_the_node_with_the_sweeps_lease_is_away(breaking: Breaking) -> None:
    access = RedisAccess.by_url(breaking.url, TlsFiles())
    router = access.router(timeout_s=0.25)
    await router.open()
    await access.client.initialize()
    breaking.master.kill()
    admissions = Admissions(router, RULES)
    for tenant in breaking.tenants:
        await admissions.ask(ask_about("alice", tenant=tenant, expires_ms=now_ms() - 1))
    rules = SweepRules(dict.fromkeys([breaking.lost, *breaking.tenants], 0), 86_400_000)
    swept: set[str] = set()

    def count(tenant: str, expired: int, removed: int) -> None:
        swept.update([tenant] * expired)

    sweeper = Sweeper(access.client, lambda: rules, count, node_of=router.pipeline_to)
    sweeping = asyncio.create_task(sweeper.run_forever())
    async with asyncio.timeout(20):
        while swept != set(breaking.tenants):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    sweeping.cancel()
    await asyncio.gather(sweeping, return_exceptions=True)
    await admissions.close()
    await router.close()
    await access.close()


@pytest.mark.parametrize("breaking", [NAMES.event_channel], indirect=True)
async def test_events_arrive_although_the_node_with_the_channels_slot_is_away(breaking: Breaking) -> None:
    access = RedisAccess.by_url(breaking.url, TlsFiles())
    router = access.router(timeout_s=0.25)
    await router.open()
    await access.client.initialize()
    breaking.master.kill()
    admissions, subscriber = Admissions(router, RULES), EventSubscriber(access.client)
    reading = asyncio.create_task(subscriber.run_forever())
    for tenant in breaking.tenants:
        async with subscriber.follow(tenant, None) as following:
            await admissions.ask(ask_about("alice", tenant=tenant))
            async with asyncio.timeout(15):
                async for item in following:
                    assert isinstance(item, Event)
                    break
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await admissions.close()
    await router.close()
    await access.close()
