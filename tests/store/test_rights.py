"""What happens where the service's user in Redis lacks a right: nothing is written by half, and it is said."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import redis

from service.core.errors import StoreUnavailable
from service.core.limits import Limit, Per
from service.core.operator_actions import Author
from service.core.sessions import Cause
from service.core.traffic_statistics import Refused, TrafficSample
from service.store.admissions.batcher import Admissions, SessionRules
from service.store.connection.client import RedisAccess, TlsFiles
from service.store.connection.server_check import ServerCheck
from service.store.events.traffic_statistics import TrafficStatistics
from service.store.leases import Leases
from service.store.rights import KEYLESS, commands_of, writes
from service.store.scripts import LIBRARY
from service.store.sessions.operator_actions import RedisOperatorActions
from tests.kit import redis_server
from tests.store.making import ask_about, sweeper

pytestmark = pytest.mark.real_redis
BY = Author("root")
LATER_MS = 4_000_000_000_000
LIMIT = Limit("some", Per.IP, 5, 60)
OTHER = Limit("other", Per.IP, 3, 60)
WIDE = Limit("wide", Per.IP, 5000, 60)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with redis_server() as url:
        yield url


@pytest.fixture
def root(server: str) -> Iterator[Any]:
    """The server as its operator sees it, empty."""
    with redis.Redis(unix_socket_path=server.removeprefix("unix://")) as client:
        client.flushall()
        yield client


def permit(root: Any, *rules: str) -> None:
    """The user `limited` is allowed everything but what these rules take away."""
    root.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">x", "~*", "&*", "+@all", *rules)


@asynccontextmanager
async def as_limited(server: str) -> AsyncIterator[RedisAccess]:
    access = RedisAccess.by_url(f"{server}?username=limited&password=x", TlsFiles(), timeout_s=2)
    yield access
    await access.close()


async def admit(access: RedisAccess, cause: Cause = Cause.REQUEST) -> None:
    """One admission, sent as it would be while a right was taken away: the connection was checked before."""
    check = ServerCheck()
    check.examine = _unchecked  # type: ignore[method-assign]
    router = access.router(timeout_s=2, check=check)
    admissions = Admissions(router, SessionRules(60_000, 1000))
    try:
        await admissions.ask(ask_about("alice", limits=[LIMIT, WIDE], cause=cause))
    finally:
        await admissions.close()
        await router.close()


async def _unchecked(resp: Any, node: str, *, cluster_url: str | None) -> str:
    """Nothing is asked at the start."""
    return ""


async def suspend(access: RedisAccess) -> None:
    await RedisOperatorActions(access.client).act("acme", ["alice", "bob"], Cause.SUSPEND, BY)


async def log_out_everywhere(access: RedisAccess) -> None:
    await RedisOperatorActions(access.client).act("acme", ["alice"], Cause.OPERATOR_LOGOUT, BY, everywhere=True)


async def sample(access: RedisAccess) -> None:
    await TrafficStatistics(access.client).pour("acme", TrafficSample(refusals=Counter([Refused("X", "y", "z")])))


def by(call: Callable[[RedisOperatorActions], Awaitable[Any]]) -> Callable[[RedisAccess], Awaitable[Any]]:
    return lambda access: call(RedisOperatorActions(access.client))


VERBS: dict[str, tuple[str, Callable[[RedisAccess], Awaitable[Any]]]] = {
    "a login": ("admit", admit),
    "a logout": ("admit", lambda access: admit(access, Cause.LOGOUT)),
    "a suspension": ("act", suspend),
    "a logout everywhere": ("act", log_out_everywhere),
    "a restriction": ("restrict", by(lambda acts: acts.restrict("acme", "alice", "pay", BY, until_ms=LATER_MS))),
    "a restriction lifted": ("restrict", by(lambda acts: acts.unrestrict("acme", "bob", "pay", BY))),
    "a revocation": ("revoke", by(lambda acts: acts.revoke("acme", "alice", BY))),
    "a revocation lifted": ("revoke", by(lambda acts: acts.restore("acme", "bob", BY))),
    "a limit set": ("override", by(lambda acts: acts.set_limit("acme", LIMIT, 1, 60, BY))),
    "a limit lifted": ("override", by(lambda acts: acts.unset_limit("acme", "other", OTHER, BY))),
    "a user forgotten": ("forget", by(lambda acts: acts.forget("acme", "bob", BY))),
    "a limit reset": ("reset", by(lambda acts: acts.reset_limit("acme", "some", "10.0.0.1", BY))),
    "a lease": ("lease", lambda access: Leases(access.client).hold("rc:lease")),
    "a sweep": ("sweep", lambda access: sweeper(access, retention_ms=0).sweep()),
}


@pytest.fixture
async def seeded(server: str, root: Any) -> dict[bytes, bytes]:
    """Something for each verb to change; returns what is kept, by key."""
    access = RedisAccess.by_url(server, TlsFiles(), timeout_s=2)
    acts = RedisOperatorActions(access.client)
    router = access.router(timeout_s=2)
    admissions = Admissions(router, SessionRules(60_000, 0))
    for user in ("alice", "bob"):
        await admissions.ask(ask_about(user, limits=[LIMIT]))
    await admissions.ask(ask_about("due", expires_ms=1))
    await acts.restrict("acme", "bob", "pay", BY)
    await acts.revoke("acme", "bob", BY)
    await acts.set_limit("acme", OTHER, 1, 60, BY)
    await admissions.close()
    await router.close()
    await access.close()
    return kept(root)


def kept(root: Any) -> dict[bytes, bytes]:
    return {key: root.dump(key) for key in root.scan_iter() if key != b"rc:tenants"}


@pytest.mark.parametrize(
    ("name", "command"), [(name, command) for name, (verb, _) in VERBS.items() for command in LIBRARY.commands[verb]]
)
async def test_what_cannot_be_written_whole_is_not_written_at_all(
    server: str, root: Any, seeded: dict[bytes, bytes], name: str, command: str
) -> None:
    permit(root, f"-{command.lower()}")
    async with as_limited(server) as access:
        try:
            await VERBS[name][1](access)
        except StoreUnavailable:
            whole = False
        else:
            whole = True
    changed = {key for key, value in kept(root).items() if seeded.get(key) != value}
    changed -= {key for key in changed if b":pulse:" in key or b":refused:" in key}  # the charts', beside the script
    if not whole:
        assert not changed, f"-{command} left half of {name}"


@pytest.mark.parametrize("name", VERBS)
async def test_with_all_rights_each_of_these_writes(
    server: str, root: Any, seeded: dict[bytes, bytes], name: str
) -> None:
    permit(root)
    async with as_limited(server) as access:
        await VERBS[name][1](access)
    assert kept(root) != seeded


@pytest.mark.parametrize("channel", ["rc:news", "rc:pushes"])
async def test_a_channel_that_may_not_be_published_to_is_asked_about_as_well(
    server: str, root: Any, seeded: dict[bytes, bytes], channel: str
) -> None:
    other = {"rc:news": "rc:pushes", "rc:pushes": "rc:news"}[channel]
    root.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">x", "~*", f"&{other}", "+@all")
    async with as_limited(server) as access:
        for name, (_, act) in VERBS.items():
            if name != "a lease":
                with suppress(StoreUnavailable):
                    await act(access)
    changed = {key for key, value in kept(root).items() if seeded.get(key) != value}
    assert not {key for key in changed if b":pulse:" not in key and b":refused:" not in key and key != b"rc:sweeper"}


@pytest.mark.parametrize("command", ["zadd", "hmget", "fcall", "function|load", "xrange", "function|delete"])
async def test_a_missing_right_is_found_at_the_start_and_named(server: str, root: Any, command: str) -> None:
    permit(root, f"-{command}")
    async with as_limited(server) as access:
        check = ServerCheck()
        router = access.router(timeout_s=2, check=check)
        await router.open()
        assert router.is_down
        [sentence] = check.blockers()[:1]
        assert command in sentence.lower()
        assert "docs/reference/redis-acl.md" in sentence
        permit(root)
        async with asyncio.timeout(5):
            while router.is_down:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert check.blockers() == []
        await router.close()


async def test_a_right_that_is_taken_away_while_it_runs_is_noticed_and_its_return_too(server: str, root: Any) -> None:
    permit(root)
    async with as_limited(server) as access:
        check = ServerCheck()
        router = access.router(timeout_s=2, check=check)
        await router.open()
        admissions = Admissions(router, SessionRules(60_000, 0))
        await admissions.ask(ask_about("alice"))
        before = kept(root)
        permit(root, "-zadd")
        for _ in range(10):
            with pytest.raises(StoreUnavailable) as reported:
                await admissions.ask(ask_about("alice", cause=Cause.LOGOUT))
            assert reported.value.kind in ("NOPERM", "unsuitable")
        async with asyncio.timeout(5):
            while not check.blockers():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert "+zadd" in check.blockers()[0]
        assert kept(root) == before
        permit(root)
        async with asyncio.timeout(5):
            while router.is_down:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert check.blockers() == []
        await admissions.ask(ask_about("alice", cause=Cause.LOGOUT))
        assert root.zscore("rc:{acme}:by:logged_out", "alice") is not None
        await admissions.close()
        await router.close()


READS = [name for name in LIBRARY.commands["admit"] if not writes([name]) and name not in KEYLESS]


@pytest.mark.parametrize("command", READS)
async def test_a_read_that_is_not_allowed_any_more_opens_the_breaker_at_once_and_half_writes_no_batch(
    server: str, root: Any, command: str
) -> None:
    permit(root)
    async with as_limited(server) as access:
        check = ServerCheck()
        router = access.router(timeout_s=2, check=check)
        await router.open()
        await RedisOperatorActions(access.client).restrict("acme", None, "pay", BY)
        admissions = Admissions(router, SessionRules(60_000, 0))
        before = kept(root)
        permit(root, f"-{command.lower()}")
        batch = [ask_about("bob", tenant="globex", limits=[LIMIT]), ask_about("alice", limits=[LIMIT])]
        answers = await asyncio.gather(*(admissions.ask(one) for one in batch), return_exceptions=True)
        assert all(isinstance(one, StoreUnavailable) for one in answers)
        assert router.is_down
        assert kept(root) == before
        async with asyncio.timeout(5):
            while not check.blockers():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert f"+{command.lower()}" in check.blockers()[0]
        permit(root)
        async with asyncio.timeout(5):
            while router.is_down:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert check.blockers() == []
        await asyncio.gather(*(admissions.ask(one) for one in batch))
        await admissions.close()
        await router.close()


def test_the_commands_of_a_function_are_those_that_it_leads_to() -> None:
    shared = "local function used() redis.call('SET', 'a') -- redis.call('DEL', 'a')\nend\n"
    shared += "local function not_used()\n  redis.call('HSET', 'a')\nend\n"
    shared += "local function on(x) return used(x) end\n"
    own = "local function run()\n  on(1)\n  redis.pcall('ZADD', 'a')\nend\n"
    assert commands_of([shared, own], "run") == ["SET", "TIME", "ZADD"]
