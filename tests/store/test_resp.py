"""The admissions' connection: reading, order, back-pressure, and its end in the middle of an answer."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from redis.asyncio.connection import Connection
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    InvalidResponse,
    MaxConnectionsError,
    MovedError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from service.core.limits import Limit, Per
from service.core.tasks import end
from service.store.admissions.batcher import Admissions, SessionRules
from service.store.connection.client import RedisAccess, TlsFiles
from service.store.connection.endpoint import Endpoint
from service.store.connection.failures import error_of, kind_of
from service.store.connection.resp import Command, SocketConnection
from service.store.connection.router import SingleNodeRouter
from tests.store.making import ask_about, pipeline_of
from tests.store.servers import PING, Scripted, served, soon

AUTH_WITHOUT_PASSWORD = (
    "ERR AUTH <password> called without any password configured for the default user. "
    "Are you sure your configuration is correct?"
)


@asynccontextmanager
async def connected(server: Scripted) -> AsyncIterator[SocketConnection]:
    async with served(server.serve) as port:
        connection = await Endpoint("127.0.0.1", port).connect()
        yield connection
        await connection.hang_up()
        server.ended.set()


async def test_an_answer_that_comes_in_many_packets_is_one_answer() -> None:
    large = b"x" * 1_000_000
    text = b"*2\r\n$1000000\r\n" + large + b"\r\n:7\r\n"
    packets = [text[at : at + 60_000] for at in range(0, len(text), 60_000)]
    async with connected(Scripted(*packets)) as connection:
        assert await connection.round_trip([PING], soon()) == [[large, 7]]


async def test_answers_that_share_a_packet_are_separated() -> None:
    async with connected(Scripted(b"+one\r\n:2\r\n$-1\r\n*0\r\n")) as connection:
        assert await connection.round_trip([PING] * 4, soon()) == [b"one", 2, None, []]


async def test_answers_of_resp3_are_read_and_a_push_among_them_answers_no_command() -> None:
    push = b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n"
    async with connected(Scripted(push, b"%1\r\n$4\r\nrole\r\n$6\r\nmaster\r\n", push, b"_\r\n#t\r\n")) as connection:
        assert await connection.round_trip([PING] * 3, soon()) == [{b"role": b"master"}, None, True]
        assert not connection.is_broken


async def test_a_push_while_nothing_is_asked_leaves_the_connection_in_step() -> None:
    server = Scripted(b"+PONG\r\n", b">1\r\n+news\r\n")
    async with connected(server) as connection:
        assert await connection.round_trip([PING], soon()) == [b"PONG"]
        for _ in range(5):
            await asyncio.sleep(0)
        assert not connection.is_broken


async def test_an_error_among_answers_is_the_answer_to_its_command_alone() -> None:
    async with connected(Scripted(b"+a\r\n-MOVED 1 10.0.0.1:7000\r\n*1\r\n-OOM full\r\n+b\r\n")) as connection:
        first, moved, inner, last = await connection.round_trip([PING] * 4, soon())
        assert (first, last) == (b"a", b"b")
        assert isinstance(moved, MovedError)
        assert (moved.host, moved.port) == ("10.0.0.1", 7000)
        assert kind_of(inner[0]) == "OOM"
        assert not connection.is_broken


async def test_an_answer_to_no_command_means_that_the_connection_is_out_of_step() -> None:
    async with connected(Scripted(b"+PONG\r\n", b"+surplus\r\n")) as connection:
        with suppress(RedisConnectionError):  # it came in the same packet
            await connection.round_trip([PING], soon())
        async with asyncio.timeout(5):
            while not connection.is_broken:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        with pytest.raises(RedisConnectionError):
            await connection.round_trip([PING], soon())


async def test_what_is_not_resp_ends_the_connection() -> None:
    async with connected(Scripted(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as connection:
        with pytest.raises(InvalidResponse):
            await connection.round_trip([PING], soon())
        assert connection.is_broken


async def test_a_server_that_loads_its_data_fails_the_whole_round_trip() -> None:
    async with connected(Scripted(b"-LOADING Redis is loading the dataset in memory\r\n")) as connection:
        with pytest.raises(BusyLoadingError):
            await connection.round_trip([PING, PING], soon())


async def test_the_answers_that_came_before_a_connection_was_lost_are_kept() -> None:
    async with connected(Scripted(b"+first\r\n+sec", hangs_up=True)) as connection:
        first, second, third = await connection.round_trip([PING] * 3, soon())
        assert first == b"first"
        assert isinstance(second, RedisConnectionError)
        assert isinstance(third, RedisConnectionError)
        assert connection.is_broken


async def test_the_answers_that_came_before_the_deadline_are_kept() -> None:
    async with connected(Scripted(b"+first\r\n")) as connection:
        first, second = await connection.round_trip([PING] * 2, soon(0.1))
        assert (first, type(second)) == (b"first", TimeoutError)
        assert connection.is_broken, "the second answer may still come"


async def test_no_answer_by_the_deadline_is_a_time_out() -> None:
    async with connected(Scripted()) as connection:
        with pytest.raises(TimeoutError):
            await connection.round_trip([PING], soon(0.05))


async def test_a_connection_that_is_given_up_keeps_no_answer() -> None:
    async with connected(Scripted(b"+first\r\n")) as connection:
        asked = asyncio.create_task(connection.round_trip([PING] * 2, soon()))
        await asyncio.sleep(0.05)
        connection.abort()
        with pytest.raises(RedisConnectionError, match="given up"):
            await asked


async def test_what_a_server_has_not_read_by_the_deadline_is_never_sent() -> None:
    server = Scripted(reads=False)
    async with connected(server) as connection:
        command: Command = ("SET", "key", "x" * 50_000_000)
        with pytest.raises(TimeoutError):
            await connection.round_trip([command], soon(0.2))
        await connection.hang_up()
        server.ended.set()
        await asyncio.sleep(0.1)
    assert len(server.received) < 50_000_000


class Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def abort(self) -> None: ...


async def test_nothing_is_written_while_the_transport_is_full() -> None:
    connection, transport = SocketConnection(), Transport()
    anything: Any = transport
    connection.connection_made(anything)
    connection.pause_writing()
    asked = asyncio.create_task(connection.round_trip([PING], math.inf))
    await asyncio.sleep(0)
    assert transport.written == []
    connection.resume_writing()
    assert transport.written == [b"*1\r\n$4\r\nPING\r\n"]
    connection.data_received(b"+PONG\r\n")
    assert await asked == [b"PONG"]


async def test_what_was_not_written_by_the_deadline_is_not_written_later() -> None:
    connection, transport = SocketConnection(), Transport()
    anything: Any = transport
    connection.connection_made(anything)
    connection.pause_writing()
    with pytest.raises(TimeoutError):
        await connection.round_trip([PING], soon(0.01))
    connection.resume_writing()
    assert transport.written == []


LOST_AT: dict[str, tuple[int, bool]] = {"before": (0, False), "between": (1, False), "within": (1, True)}


@pytest.mark.parametrize("lost", LOST_AT)
async def test_each_request_of_a_batch_gets_its_own_outcome_where_the_connection_is_lost_and_none_is_sent_again(
    redis_url: str, lost: str
) -> None:
    """The batch has two calls: one for the tenant's users, one for requests without a tenant."""
    passed, cut = LOST_AT[lost]
    calls = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        from_redis, to_redis = await asyncio.open_unix_connection(redis_url.removeprefix("unix://"))

        async def back() -> None:
            while True:
                writer.write(await from_redis.read(2**20))

        checking = asyncio.create_task(back())
        while b"zz-limit" not in (raw := await reader.read(2**20)):  # all that the start check asks
            to_redis.write(raw)
        await end([checking])
        calls += 1
        to_redis.write(raw)
        await asyncio.sleep(0.05)
        answers = await from_redis.read(2**20)
        at = answers.rindex(b"*") if passed else 0  # where the second call's answer begins
        writer.write(answers[: at + (3 if cut else 0)])
        to_redis.close()

    async with served(serve) as port:
        access = RedisAccess.by_url(f"redis://127.0.0.1:{port}", TlsFiles())
        link = pipeline_of(access, timeout_s=1)
        await link.open()
        admissions = Admissions(SingleNodeRouter(link), SessionRules(60_000, 0))
        with_user, without = await asyncio.gather(
            admissions.ask(ask_about("alice")),
            admissions.ask(ask_about(None, limits=[Limit("zz-limit", Per.IP, 9, 60)])),
            return_exceptions=True,
        )
        assert isinstance(with_user, BaseException) == (lost == "before")
        assert isinstance(without, BaseException)
        assert calls == 1
        await link.close()
        await access.close()


@pytest.mark.parametrize(
    "text",
    [
        "WRONGPASS invalid username-password pair or user is disabled.",
        "NOAUTH Authentication required.",
        "NOPERM this user has no permissions to run the 'get' command",
        "READONLY You can't write against a read only replica.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "LOADING Redis is loading the dataset in memory",
        "CLUSTERDOWN Hash slot not served",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "CROSSSLOT Keys in request don't hash to the same slot",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "ERR Function not found",
        "MISCONF Redis is configured to save RDB snapshots",
        "ERR max number of clients reached",
        "ERR wrong number of arguments for 'auth' command",
        "ERR unknown command 'X'",
        AUTH_WITHOUT_PASSWORD,
    ],
)
async def test_an_error_reads_as_the_one_that_redis_py_raises(text: str) -> None:
    """The clients for everything but the admissions are redis-py's: an error must not depend on who met it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(f"-{text}\r\n".encode())

    async with served(serve) as port:
        theirs = Connection(port=port, host="127.0.0.1", protocol=2, driver_info=None)
        await theirs.connect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        await theirs.send_command("PING")
        with pytest.raises((ResponseError, RedisConnectionError)) as raised:
            await theirs.read_response()
        await theirs.disconnect()
    ours = error_of(text)
    assert isinstance(ours, type(raised.value))
    assert str(ours) == str(raised.value)


async def test_where_a_slot_is_being_moved_the_error_names_the_node() -> None:
    error = error_of("ASK 3999 10.0.0.2:6381")
    assert isinstance(error, AskError)
    assert not isinstance(error, MovedError)
    assert (error.host, int(error.port)) == ("10.0.0.2", 6381)
    assert isinstance(error_of("ERR max number of clients reached"), MaxConnectionsError)
