"""Failovers under Sentinels: what they announce counts at once, and the new primary is used by every part."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import hiredis
import pytest

from service.core.errors import StoreUnavailable
from service.core.operator_actions import Author
from service.core.sessions import Cause
from service.core.tasks import end
from service.store.admissions.batcher import Admissions, SessionRules
from service.store.connection.client import RedisAccess, TlsFiles
from service.store.connection.failovers import LONGEST_S, Failovers
from service.store.connection.resp import packed
from service.store.connection.router import NodeRouter
from service.store.sessions.operator_actions import RedisOperatorActions
from tests.deployments import Sentinels, redis_sentinels
from tests.store.making import ask_about

OLD, NEW = ("10.0.0.1", 6379), ("10.0.0.2", 6379)
ANNOUNCED = "master main 10.0.0.1 6379"
PROMOTED = "slave 10.0.0.2:6379 10.0.0.2 6379 @ main 10.0.0.1 6379"
SWITCHED = "main 10.0.0.1 6379 10.0.0.2 6379"
BY = Author("root")


@pytest.fixture
def failovers() -> Failovers:
    return Failovers("main")


@pytest.mark.parametrize(
    ("channel", "text"),
    [
        ("+try-failover", ANNOUNCED),
        ("+failover-state-select-slave", ANNOUNCED),
        ("+failover-state-send-slaveof-noone", PROMOTED),
    ],
)
def test_a_failover_is_under_way_from_the_first_announcement_of_it(
    failovers: Failovers, channel: str, text: str
) -> None:
    failovers.hear("a", channel, text, 100)
    assert failovers.is_under_way(100)
    assert failovers.is_under_way(100 + LONGEST_S - 0.1)
    assert not failovers.is_under_way(100 + LONGEST_S)


@pytest.mark.parametrize(("channel", "text"), [("+promoted-slave", PROMOTED), ("+switch-master", SWITCHED)])
def test_it_is_over_once_a_replica_is_promoted_and_the_old_primary_is_not_believed_in_for_a_while(
    failovers: Failovers, channel: str, text: str
) -> None:
    failovers.hear("a", "+try-failover", ANNOUNCED, 100)
    failovers.hear("b", channel, text, 101)
    assert not failovers.is_under_way(101)
    assert failovers.replaced(101) == {OLD}
    assert failovers.replaced(101 + LONGEST_S) == set()


def test_what_follows_a_promotion_is_no_other_failover(failovers: Failovers) -> None:
    failovers.hear("a", "+promoted-slave", PROMOTED, 100)
    failovers.hear("a", "+failover-state-reconf-slaves", ANNOUNCED, 100)
    assert not failovers.is_under_way(100)


def test_only_the_sentinel_that_announced_a_failover_can_abort_it(failovers: Failovers) -> None:
    failovers.hear("a", "+try-failover", ANNOUNCED, 100)
    failovers.hear("b", "-failover-abort-not-elected", ANNOUNCED, 101)
    assert failovers.is_under_way(101)
    failovers.hear("a", "-failover-abort-no-good-slave", ANNOUNCED, 102)
    assert not failovers.is_under_way(102)
    assert failovers.replaced(102) == set(), "the old primary goes on"


def test_of_two_that_announce_one_may_abort(failovers: Failovers) -> None:
    failovers.hear("a", "+try-failover", ANNOUNCED, 100)
    failovers.hear("b", "+try-failover", ANNOUNCED, 101)
    failovers.hear("a", "-failover-abort-not-elected", ANNOUNCED, 102)
    assert failovers.is_under_way(102)


def test_a_primary_that_takes_over_again_is_believed_in_again(failovers: Failovers) -> None:
    failovers.hear("a", "+switch-master", SWITCHED, 100)
    failovers.hear("a", "+switch-master", "main 10.0.0.2 6379 10.0.0.1 6379", 103)
    assert failovers.replaced(103) == {NEW}


def test_an_end_that_was_not_heard_is_seen_by_what_the_sentinels_name(failovers: Failovers) -> None:
    failovers.hear("a", "+try-failover", ANNOUNCED, 100)
    failovers.settle(OLD, 101)
    assert failovers.is_under_way(101)
    failovers.settle(NEW, 102)
    assert not failovers.is_under_way(102)
    assert failovers.replaced(102) == {OLD}


@pytest.mark.parametrize(
    ("channel", "text"),
    [
        ("+try-failover", "master other 10.0.0.1 6379"),
        ("+try-failover", ""),
        ("+try-failover", "something else"),
        ("+switch-master", "main 10.0.0.1"),
        ("+promoted-slave", "slave x y z @ main"),
    ],
)
def test_what_is_about_another_primary_or_not_understood_changes_nothing(
    failovers: Failovers, channel: str, text: str
) -> None:
    failovers.hear("a", channel, text, 100)
    assert not failovers.is_under_way(100)
    assert failovers.replaced(100) == set()


@pytest.fixture
def sentinels() -> Iterator[Sentinels]:
    with redis_sentinels() as made:
        yield made


@pytest.fixture
async def access(sentinels: Sentinels) -> AsyncIterator[RedisAccess]:
    """Access by two of the three Sentinels: the service finds the third."""
    url = sentinels.url.replace(f",127.0.0.1:{sentinels.sentinels[2].port}", "")
    made = RedisAccess.by_url(url, TlsFiles())
    yield made
    await made.close()


@pytest.fixture
async def router(access: RedisAccess) -> AsyncIterator[NodeRouter]:
    made = access.router(timeout_s=1)
    await made.open()
    yield made
    await made.close()


async def until_back(router: NodeRouter) -> None:
    async with asyncio.timeout(10):
        while router.is_down:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def until_heard(access: RedisAccess, count: int) -> None:
    assert access.sentinels is not None
    async with asyncio.timeout(5):
        while len(access.sentinels.heard) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@pytest.mark.slow
@pytest.mark.real_redis
@pytest.mark.parametrize("leader", [0, 2], ids=["a configured Sentinel", "a Sentinel that was found"])
async def test_nothing_is_acknowledged_between_the_announcement_and_the_promotion(
    sentinels: Sentinels, access: RedisAccess, router: NodeRouter, leader: int
) -> None:
    admissions, acts = Admissions(router, SessionRules(60_000, 0)), RedisOperatorActions(access.client)
    await until_heard(access, 3)
    await admissions.ask(ask_about("alice"))
    await acts.act("acme", ["bob"], Cause.SUSPEND, BY)
    sentinels.fail_over(sentinel=leader)
    async with asyncio.timeout(5):
        while not router.is_down:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    with pytest.raises(StoreUnavailable):
        await admissions.ask(ask_about("carol", cause=Cause.LOGOUT))
    with pytest.raises(StoreUnavailable):
        await acts.act("acme", ["dave"], Cause.SUSPEND, BY)
    assert await router.not_writable() is None
    await until_back(router)
    assert (await admissions.ask(ask_about("erin", cause=Cause.LOGOUT))).session is not None
    await acts.act("acme", ["frank"], Cause.SUSPEND, BY)
    acknowledged = {f"rc:{{acme}}:u:{name}" for name in ("alice", "bob", "erin", "frank")}
    assert sentinels.current() is sentinels.replica
    assert acknowledged <= set(sentinels.replica.client.keys("rc:{acme}:u:*")), "both parts use the new primary"
    assert acknowledged <= {name.decode() for name in await access.client.keys("rc:{acme}:u:*")}
    await admissions.close()


@pytest.mark.slow
@pytest.mark.real_redis
async def test_a_failover_whose_announcement_was_missed_is_noticed_by_asking(
    sentinels: Sentinels, access: RedisAccess, router: NodeRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.connection.failovers.Failovers.hear", lambda *_: None)
    admissions = Admissions(router, SessionRules(60_000, 0))
    await admissions.ask(ask_about("alice"))
    assert access.sentinels is not None
    sentinels.fail_over()
    async with asyncio.timeout(8):
        while access.sentinels.current != ("127.0.0.1", sentinels.replica.port):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await until_back(router)
    await admissions.ask(ask_about("bob"))
    assert sentinels.replica.client.exists("rc:{acme}:u:bob")
    await admissions.close()


@pytest.mark.slow
@pytest.mark.real_redis
async def test_a_sentinel_that_is_not_heard_is_a_warning(
    sentinels: Sentinels, access: RedisAccess, router: NodeRouter
) -> None:
    assert access.monitor is not None
    await until_heard(access, 3)
    assert list(access.monitor.warnings()) == []
    sentinels.sentinels[1].kill()
    async with asyncio.timeout(8):
        while not (reported := list(access.monitor.warnings())):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    address = f"127.0.0.1:{sentinels.sentinels[1].port}"
    assert reported == [f"The Sentinel {address} is not heard: a failover that it leads is noticed late."]
    assert (await Admissions(router, SessionRules(60_000, 0)).ask(ask_about("alice"))).session is not None


def test_a_sentinel_that_went_away_in_the_middle_does_not_hold_up_a_later_failover_that_is_aborted() -> None:
    failovers = Failovers("main")
    announced = "master main 10.0.0.1 6379"
    failovers.hear("first", "+try-failover", announced, 0)
    assert failovers.is_under_way(1)
    failovers.hear("second", "+try-failover", announced, 100)
    failovers.hear("second", "-failover-abort-no-good-slave", announced, 100.1)
    assert not failovers.is_under_way(100.2)


class ScriptedSentinel:
    """Answers as a Sentinel that knows one other."""

    def __init__(self, run_id: str, other: tuple[str, int]) -> None:
        self.run_id = run_id
        self.other = other
        """Run id and port."""
        self.port = 0
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "ScriptedSentinel":
        def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._serving.add(asyncio.create_task(self._serve(reader, writer)))

        self._server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await end(self._serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests, subscribed = hiredis.Reader(), False
        try:
            while raw := await reader.read(65536):
                requests.feed(raw)
                while request := requests.gets():
                    command, *rest = (part.decode() for part in request)
                    if command == "PSUBSCRIBE":
                        subscribed = True
                        for number, channel in enumerate(rest, 1):
                            writer.write(b"*3" + packed([("psubscribe", channel)])[2:] + b":%d\r\n" % number)
                    elif command == "PING":
                        writer.write(packed([("pong", "")]) if subscribed else b"+PONG\r\n")
                    elif rest[0] == "MYID":
                        writer.write(packed([(self.run_id,)])[4:])
                    elif rest[0] == "SENTINELS":
                        run_id, port = self.other
                        fields = ("name", run_id, "ip", "127.0.0.1", "port", port, "runid", run_id, "flags", "sentinel")
                        writer.write(b"*1\r\n" + packed([fields]))
                    else:
                        writer.write(packed([("127.0.0.1", 1)]))
        finally:
            writer.close()


def heard_ports(access: RedisAccess) -> set[int]:
    assert access.sentinels is not None
    heard: set[Any] = set(access.sentinels.heard)
    return {int(one.get_connection_kwargs()["port"]) for one in heard}


async def test_a_sentinel_that_returns_at_another_address_is_followed_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("CHECK_EVERY_S", 0.02), ("DISCOVER_EVERY", 1), ("AGAIN_S", 0.02)):
        monkeypatch.setattr(f"service.store.connection.sentinels.{name}", value)
    async with ScriptedSentinel("a", ("b", 0)) as configured:
        access = RedisAccess.by_url(f"redis+sentinel://127.0.0.1:{configured.port}/main", TlsFiles())
        assert access.monitor is not None
        following = asyncio.create_task(access.monitor.run_forever())
        async with ScriptedSentinel("b", ("a", configured.port)) as other:
            configured.other = "b", other.port
            await until_heard(access, 2)
        async with ScriptedSentinel("b", ("a", configured.port)) as returned:
            configured.other = "b", returned.port
            async with asyncio.timeout(5):
                while returned.port not in heard_ports(access):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert other.port not in heard_ports(access)
            assert list(access.monitor.warnings()) == []
        await end([following])
        await access.close()
