"""Fixtures that every folder uses."""

import asyncio
import hashlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import fakeredis
import jinja2
import pytest
import redis
from aiohttp.test_utils import TestClient
from blockbuster import BlockBuster, blockbuster_ctx

from service.app import make_app
from service.store.connection.client import RedisAccess, TlsFiles
from tests.deployments import redis_cluster, redis_sentinels
from tests.kit import OurServer, Service, redis_server, settings
from tests.proxies.versions import PROXIES

fakeredis.FakeAsyncRedis().connection_pool.make_connection()  # type: ignore[no-untyped-call]  # the first one reads files: not in a test's loop

Client = TestClient[Any, Any]
MakeClient = Callable[..., Awaitable[Client]]
Start = Callable[..., Service]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Distribute by file among the workers of pytest-xdist (`--dist loadgroup`): what a file shares starts once.

    The tests of a proxy in a file are apart from those of the others, since each starts a proxy of its own.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            proxies = [one for one in _parameters(item).values() if isinstance(one, str) and one in PROXIES]
            item.add_marker(pytest.mark.xdist_group("-".join([item.path.parent.name, item.path.stem, *proxies])))


def _parameters(item: pytest.Item) -> dict[str, Any]:
    """What a parametrised test runs with."""
    return dict(item.callspec.params) if hasattr(item, "callspec") else {}


@pytest.fixture(autouse=True)
def _nothing_blocks_the_loop(request: pytest.FixtureRequest) -> Iterator[BlockBuster | None]:
    """A blocking call of the service's inside the event loop fails the test."""
    if request.node.get_closest_marker("browser"):  # there the page's driver runs in the same loop
        yield None
        return
    if (kind := _parameters(request.node).get("access")) in REAL:
        request.getfixturevalue(REAL[kind])  # starts once, before a loop runs
    with blockbuster_ctx("service") as blockbuster:
        yield blockbuster


@pytest.fixture(scope="session", autouse=True)
def _pure_work_is_done_once() -> Iterator[None]:
    """Templates are compiled, and the key of the cookie derived, once instead of for each application: 150 ms of each.

    Both depend on their arguments alone.
    """
    with pytest.MonkeyPatch.context() as patch:
        compiled: dict[tuple[Any, ...], Any] = {}
        really = jinja2.Environment.compile

        def compile_once(environment: jinja2.Environment, *arguments: Any) -> Any:
            if arguments not in compiled:
                compiled[arguments] = really(environment, *arguments)
            return compiled[arguments]

        patch.setattr(jinja2.Environment, "compile", compile_once)
        patch.setattr(hashlib, "scrypt", cache(hashlib.scrypt))
        yield


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with redis_server() as url:
        yield url


@pytest.fixture
def empty_redis_url(redis_url: str) -> str:
    """The same server, without what other tests left in it: suspended users, revocations, used-up limits."""
    with redis.Redis(unix_socket_path=redis_url.removeprefix("unix://")) as client:
        client.flushall()
    return redis_url


@pytest.fixture(scope="session")
def cluster_url() -> Iterator[str]:
    with redis_cluster() as cluster:
        yield cluster.url


@pytest.fixture(scope="session")
def sentinel_url() -> Iterator[str]:
    with redis_sentinels() as sentinels:
        yield sentinels.url


REAL = {"real": "redis_url", "cluster": "cluster_url", "sentinel": "sentinel_url"}
"""Kind of deployment → the fixture that starts it, once."""


@pytest.fixture(params=["fake", *(pytest.param(kind, marks=pytest.mark.real_redis) for kind in REAL)])
async def access(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RedisAccess]:
    """The way to an empty Redis: fakeredis, a real server, a Cluster, Sentinels. The same tests hold for all."""
    # Before Python 3.12 a task that sends a command often loses its cancellation, and an application that lives as
    # short as a test's does little else. A round trip to these servers takes about a millisecond.
    monkeypatch.setattr("service.core.tasks.AGAIN_S", 0.005 if request.param == "fake" else 0.05)
    if request.param == "fake":
        made = RedisAccess.in_process()
    else:
        made = RedisAccess.by_url(request.getfixturevalue(REAL[request.param]), TlsFiles(), timeout_s=5)
        await made.client.flushall(**({"target_nodes": "primaries"} if request.param == "cluster" else {}))
    yield made
    await made.close()


@pytest.fixture
async def make_client(access: RedisAccess) -> AsyncIterator[MakeClient]:
    """Makes a client of an application on `access`, with changes to the tests' configuration."""
    clients: list[Client] = []

    async def make(**changes: Any) -> Client:
        client: Client = TestClient(OurServer(await asyncio.to_thread(make_app, settings(**changes), access)))
        await client.start_server()
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.close()


@pytest.fixture
async def client(make_client: MakeClient) -> Client:
    return await make_client()


@pytest.fixture
def start() -> Iterator[Callable[..., Service]]:
    """Starts services that are ended with the test; each by default in a folder with a short path (sockets)."""
    base = Path(tempfile.mkdtemp(prefix="rollcall-test-", dir="/tmp"))
    started: list[Service] = []

    def start(content: dict[str, Any], folder: Path | None = None, **environment: str) -> Service:
        place = folder or base / f"service{len(started)}"
        place.mkdir(exist_ok=True, parents=True)
        service = Service(place, content, **environment)
        started.append(service)
        return service

    yield start
    for service in started:
        service.end()
    shutil.rmtree(base, ignore_errors=True)
