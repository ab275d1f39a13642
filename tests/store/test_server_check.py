"""The start check: what is refused, what the log says to change, and that the service recovers by itself."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import structlog

from service.core.errors import StoreUnavailable
from service.store.admissions.batcher import Admissions
from service.store.connection.client import RedisAccess, TlsFiles
from service.store.connection.server_check import ServerCheck
from tests.deployments import Node, start_node
from tests.kit import redis_server
from tests.store.making import RULES, ask_about

pytestmark = pytest.mark.real_redis


@pytest.fixture
def clustered() -> Iterator[Node]:
    with ExitStack() as stack:
        yield start_node(stack, "--cluster-enabled", "yes")


@pytest.fixture
def own_redis() -> Iterator[str]:
    """A server that a test may change."""
    with redis_server() as url:
        yield url


async def test_a_server_in_cluster_mode_behind_a_single_url_is_refused_and_the_log_says_what_to_write(
    clustered: Node,
) -> None:
    access, check = RedisAccess.by_url(f"redis://127.0.0.1:{clustered.port}", TlsFiles()), ServerCheck()
    router = access.router(timeout_s=2, check=check)
    with structlog.testing.capture_logs() as logs:
        await router.open()
    assert router.is_down
    [sentence] = check.blockers()
    assert f"write redis+cluster://127.0.0.1:{clustered.port} in redis.url" in sentence
    assert [line["what"] for line in logs if line["log_level"] == "error" and "what" in line] == [sentence]
    with pytest.raises(StoreUnavailable):
        await Admissions(router, RULES).ask(ask_about("alice"))
    await router.close()
    await access.close()


async def test_a_server_that_is_as_it_should_be_is_not_remarked_on(redis_url: str) -> None:
    access, check = RedisAccess.by_url(redis_url, TlsFiles()), ServerCheck()
    router = access.router(timeout_s=2, check=check)
    await router.open()
    assert not router.is_down
    assert (check.blockers(), check.warnings()) == ([], [])
    await router.close()
    await access.close()


@pytest.mark.parametrize(
    ("policy", "allowed", "blocked", "warned"),
    [
        ("noeviction", False, False, False),
        ("allkeys-lru", False, True, False),
        ("allkeys-random", False, True, False),
        ("allkeys-lfu", True, False, True),
        ("volatile-ttl", False, False, True),
    ],
)
async def test_a_policy_that_evicts_is_refused_or_warned_about_until_it_is_changed(
    own_redis: str, policy: str, allowed: bool, blocked: bool, warned: bool
) -> None:
    access, check = RedisAccess.by_url(own_redis, TlsFiles()), ServerCheck(allow_eviction=allowed)
    await access.client.config_set("maxmemory-policy", policy)
    router = access.router(timeout_s=2, check=check)
    await router.open()
    assert router.is_down is blocked
    assert [policy in sentence for sentence in check.blockers()] == [True] * blocked
    assert [policy in sentence for sentence in check.warnings()] == [True] * warned
    if blocked:
        assert "redis.allow_eviction: true" in check.blockers()[0]
        await access.client.config_set("maxmemory-policy", "noeviction")
        async with asyncio.timeout(5):
            while router.is_down:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert check.blockers() == []
    await router.close()
    await access.close()


async def test_a_policy_that_may_not_be_asked_for_is_a_warning(own_redis: str) -> None:
    root = RedisAccess.by_url(own_redis, TlsFiles())
    await root.client.execute_command("ACL", "SETUSER", "u", "on", ">x", "~*", "&*", "+@all", "-info")
    access, check = RedisAccess.by_url(f"{own_redis}?username=u&password=x", TlsFiles()), ServerCheck()
    router = access.router(timeout_s=2, check=check)
    await router.open()
    assert (router.is_down, check.blockers()) == (False, [])
    assert "INFO is refused" in check.warnings()[0]
    await router.close()
    await access.close()
    await root.close()
