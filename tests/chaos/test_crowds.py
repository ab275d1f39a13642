"""Many clients at once: some send while the service ends, some are idle or slow, some listen."""

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from service.core.webhooks import key_of, signed
from service.store.keyspace import keys_of
from tests.chaos.faults import Load, Server
from tests.conftest import Start
from tests.kit import OPERATOR, config, credentials, needs, tenant, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.real_redis, pytest.mark.alone]
IDLE = 10_000
KIB_EACH = 64
"""What an idle connection may cost, in the service's memory."""
LISTENERS = 500
HOOK_SECRET = "a-secret-of-the-webhook-in-the-tests"
LISTEN_S = float(os.environ.get("LISTEN_S", "10"))


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_under_load_leaves_no_accepted_request_unanswered(start: Start, workers: int) -> None:
    server = Server()
    limits: dict[str, Any] = {"logout": [], "status": []}
    content = config(server={"workers": workers}, redis={"url": f"unix://{server.path}"}, limits=limits)
    service = start(content).wait_until_ready()
    with Load().on(service, clients=32) as load:
        wait_for(lambda: load.count(200) > 500)
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(20) == 0
        load.stop.set()
    answered = {one.user for one in load.acknowledged()}
    users = [one.user for one in load.asked]
    records = server.client.mget([keys_of("acme").user(user) for user in users])
    recorded = {user for user, record in zip(users, records, strict=True) if record}
    assert recorded == answered, "whatever was recorded was answered, and the reverse"
    assert {one.status for one in load.asked} <= {0, 200}, "who came too late finds nobody, rather than an error"
    server.close()


def allow_descriptors(count: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needs(f"{count} file descriptors (ulimit -n)", found=hard == resource.RLIM_INFINITY or hard >= count)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


@pytest.fixture
def descriptors() -> Any:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    allow_descriptors(IDLE + 2000)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("descriptors")
def test_ten_thousand_idle_connections_cost_bounded_memory_and_slow_down_nobody(start: Start) -> None:
    service = start(config()).wait_until_ready()
    before = rss_mib(service.process.pid)
    with contextlib.ExitStack() as stack:
        for _ in range(IDLE // 100):
            some = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(100)]
            for one in some:
                stack.enter_context(one)
                one.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            for one in some:
                assert one.recv(64).startswith(b"HTTP/1.1 200")
        each_kib = (rss_mib(service.process.pid) - before) * 1024 / IDLE
        assert each_kib < KIB_EACH
        assert {service.get("/auth/status", credentials(f"u{number}")).status for number in range(20)} == {200}
    assert '"level": "error"' not in service.log_text


async def dribble(port: int, stop: asyncio.Event) -> bool:
    """A client that sends a byte of its header now and then; whether it was hung up on in the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = b"GET /auth/status HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * 10_000
    with contextlib.suppress(OSError):
        for byte in head:
            writer.write(bytes([byte]))
            await writer.drain()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1), 1)
                writer.close()
                return True
            if stop.is_set():
                break
    writer.close()
    return False


async def test_clients_that_send_a_byte_a_second_are_hung_up_on_and_hold_up_nobody(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await asyncio.to_thread(lambda: start(config()).wait_until_ready())
    stop = asyncio.Event()
    slow = [asyncio.create_task(dribble(service.port, stop)) for _ in range(300)]
    answers = set()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{service.port}") as session:
        for number in range(100):
            async with session.get("/auth/status", headers=credentials(f"u{number}")) as answer:
                answers.add(answer.status)
    assert answers == {200}
    assert all(await asyncio.gather(*slow)), "the deadline for a header"


# --- listeners ----------------------------------------------------------------------------------------


class Hearing:
    """A listener that counts its events."""

    def __init__(self) -> None:
        self.users: list[str] = []
        self.last = ""
        self.dropped = False

    async def listen(self, session: aiohttp.ClientSession) -> None:
        headers = OPERATOR | ({"last-event-id": self.last} if self.last else {})
        event: dict[str, str] = {}
        async with session.get("/admin/v1/events?tenant=acme", headers=headers) as answer:
            answer.raise_for_status()
            async for line in answer.content:
                name, _, value = line.decode().rstrip("\r\n").partition(": ")
                event[name] = value
                if not name:  # a blank line: the event is whole
                    self._hear(event)
                    event = {}

    def _hear(self, event: dict[str, str]) -> None:
        self.last = event.get("id", self.last)
        if event.get("event") == "transition":
            self.users.append(event["data"].partition('"userId": "')[2].partition('"')[0])
        self.dropped = self.dropped or event.get("event") == "dropped"


@asynccontextmanager
async def many_listening(port: int, count: int) -> AsyncIterator[list[Hearing]]:
    everybody = [Hearing() for _ in range(count)]
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=connector, timeout=timeout) as session:
        tasks = [asyncio.create_task(one.listen(session)) for one in everybody]
        async with asyncio.timeout(30):
            while not all(one.last for one in everybody):  # noqa: ASYNC110  # only the service can tell
                await asyncio.sleep(0.05)
        yield everybody
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def deaf(port: int) -> socket.socket:
    """A client that requests the stream and reads nothing of it."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    one.connect(("127.0.0.1", port))
    lines = "".join(f"{name}: {value}\r\n" for name, value in OPERATOR.items())
    one.sendall(f"GET /admin/v1/events?tenant=acme HTTP/1.1\r\nhost: x\r\n{lines}\r\n".encode())
    return one


async def logouts(session: aiohttp.ClientSession, users: list[str]) -> None:
    for user in users:
        async with session.get("/auth/logout", headers=credentials(user)) as answer:
            assert answer.status == 200


async def test_500_listeners_share_one_reader_and_a_deaf_one_holds_up_nobody(start: Start) -> None:
    server = await asyncio.to_thread(Server)
    unlimited: dict[str, Any] = {"logout": [], "admin": []}
    content = config(redis={"url": f"unix://{server.path}", "timeout": 2}, limits=unlimited)
    service = await asyncio.to_thread(lambda: start(content).wait_until_ready())
    async with (
        many_listening(service.port, LISTENERS) as everybody,
        aiohttp.ClientSession(f"http://127.0.0.1:{service.port}") as session,
    ):
        with deaf(service.port):
            server.client.config_resetstat()
            sent: list[str] = []
            sizes = []
            ends = time.monotonic() + LISTEN_S
            while time.monotonic() < ends:
                users = [f"user-{len(sent) + number}" for number in range(10)]
                await logouts(session, users)
                sent += users
                sizes.append(rss_mib(service.process.pid))
                async with asyncio.timeout(20):
                    while any(len(one.users) < len(sent) for one in everybody):  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
        assert all(one.users == sent for one in everybody), "each got each event, in order"
        assert not any(one.dropped for one in everybody)
        readers: Any = server.client.client_list(_type="pubsub")
        assert len(readers) == 2, "of the refusals, and of the events"
        reads = server.client.info("commandstats")["cmdstat_xrange"]["calls"]
        assert reads < 4 * len(sent), "the stream is read once, however many listen"
    settled = sizes[len(sizes) // 3 :]
    assert max(settled) - settled[0] < 0.1 * settled[0] + 8, "memory is flat"
    await asyncio.to_thread(service.end)
    await asyncio.to_thread(server.close)


class Receiver:
    """A webhook's receiver: it checks signatures, and notes the users."""

    def __init__(self) -> None:
        self.users: list[str] = []
        self.forged = 0

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        wanted = signed([key_of(HOOK_SECRET)], headers["webhook-id"], int(headers["webhook-timestamp"]), body)
        self.forged += headers["webhook-signature"] != wanted["webhook-signature"]
        self.users.append(json.loads(body)["data"]["userId"])
        return web.Response()


async def test_listeners_and_webhooks_miss_nothing_when_the_service_is_killed(start: Start) -> None:
    server = await asyncio.to_thread(Server)
    receiver, app = Receiver(), web.Application()
    app.router.add_post("/hook", receiver.take)
    async with TestServer(app) as receiving:
        hooks = [{"name": "audit", "url": str(receiving.make_url("/hook")), "secret": HOOK_SECRET}]
        content = config(
            redis={"url": f"unix://{server.path}", "timeout": 2},
            limits={"logout": [], "admin": []},
            tenants={"acme": tenant(webhooks=[{**hooks[0], "events": ["transition"]}])},
        )
        await _kill_while_delivering(start, content, server, receiver)
    await asyncio.to_thread(server.close)


async def _kill_while_delivering(start: Start, content: dict[str, Any], server: Server, receiver: Receiver) -> None:
    service = await asyncio.to_thread(lambda: start(content).wait_until_ready())
    hearing = Hearing()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{service.port}") as session:

        async def listen() -> None:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    await hearing.listen(session)
                await asyncio.sleep(0.05)

        listening = asyncio.create_task(listen())
        async with asyncio.timeout(10):
            while not hearing.last or not server.client.exists("rc:{acme}:hook:audit"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        acknowledged: list[str] = []
        for round_ in range(3):
            for number in range(200):
                user = f"user-{round_}-{number}"
                if number == 100:
                    await asyncio.to_thread(service.end, signal.SIGKILL)
                with contextlib.suppress(aiohttp.ClientError):
                    await logouts(session, [user])
                    acknowledged.append(user)
            service.start()
            await asyncio.to_thread(service.wait_until_ready)
        async with asyncio.timeout(10):
            while not set(acknowledged) <= set(hearing.users):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    reported = [event[b"user"].decode() for _, event in server.client.xrange("rc:{acme}:events")]
    assert hearing.users == reported, "every one, once, in order"
    async with asyncio.timeout(40):  # the lease of the worker that was killed runs out first
        while not set(reported) <= set(receiver.users):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert list(dict.fromkeys(receiver.users)) == reported, "each at least once, and in order"
    assert receiver.forged == 0
    await asyncio.to_thread(service.end)
