"""A rolling restart of two services behind HAProxy under steady load: `server.drain` loses no request.

HAProxy repeats nothing here (`retries 0`), and hands every request to whichever idle connection it has
(`http-reuse always`), so that a connection that closes a moment too early is a request that fails.
"""

import asyncio
import csv
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.kit import Service, config, credentials, free_port, needs, redis_server, wait_for
from tests.proxies.versions import PROXIES

pytestmark = [pytest.mark.slow, pytest.mark.real_redis, pytest.mark.alone]
RATE = int(os.environ.get("RATE", "200"))
"""Requests a second. `RATE=1000 make test-chaos ARGS='-k rolling -s'` on a quiet machine shows more."""
WORKERS = int(os.environ.get("SERVICE_WORKERS", "1"))
DRAIN_S = 2
CONNECTIONS = 48
CHECKED_EVERY_MS = 200

CONFIGURATION = """
global
    maxconn 1000
    stats socket {socket} level admin
defaults
    mode http
    timeout connect 5s
    timeout client  30s
    timeout server  30s
    timeout check   5s
    retries 0
frontend all
    bind 127.0.0.1:{port}
    default_backend services
backend services
    balance roundrobin
    http-reuse always
    option httpchk GET /readyz
    http-check expect status 200
    default-server check inter {every}ms fall 1 rise 1
    server s0 127.0.0.1:{ports[0]}
    server s1 127.0.0.1:{ports[1]}
"""


@dataclass
class Haproxy:
    """A running HAProxy, and how it sees its servers."""

    port: int
    socket: Path

    def states(self) -> dict[str, str]:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(10)
            asking.connect(str(self.socket))
            asking.sendall(b"show stat\n")
            text = b"".join(iter(lambda: asking.recv(65_536), b"")).decode()
        rows = csv.DictReader(text.removeprefix("# ").splitlines())
        return {row["svname"]: row["status"] for row in rows if row["pxname"] == "services"}


@contextmanager
def haproxy(services: list[Service], folder: Path) -> Iterator[Haproxy]:
    needs("haproxy", found=(program := PROXIES["haproxy-2.6"].find()) is not None)
    one = Haproxy(free_port(), folder / "stats")
    ports = [service.port for service in services]
    text = CONFIGURATION.format(port=one.port, ports=ports, socket=one.socket, every=CHECKED_EVERY_MS)
    (folder / "haproxy.cfg").write_text(text)
    with (folder / "haproxy.log").open("w") as log:
        process = subprocess.Popen([str(program), "-db", "-f", str(folder / "haproxy.cfg")], stdout=log, stderr=log)
        try:
            wait_for(lambda: one.socket.exists() and set(one.states().values()) == {"UP"})
            yield one
        finally:
            process.kill()
            process.wait()


def message(method: str, path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    fields = {"host": "a", **headers, **({"content-length": str(len(body))} if body else {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


KNOWN = [credentials(f"user-{number}") for number in range(100)]


def request_of(number: int) -> tuple[bytes, int]:
    """One of the load's requests, and the status of its answer: seven in ten take the hot path."""
    who, kind = KNOWN[number % len(KNOWN)], number % 10
    if kind < 5:
        return message("GET", "/auth/status", who), 200
    if kind < 7:
        return message("POST", "/auth/logout", who), 200
    if kind < 9:
        return message("GET", "/healthz", {}), 200
    body, who = b'{"strategy": "hard"}', credentials(f"leaving-{number}")
    return message("POST", "/auth/terminate", {**who, "content-type": "application/json"}, body), 201


@dataclass
class Load:
    """A steady load over connections that are kept, and how each request ended."""

    port: int
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    sent: int = 0

    async def run(self, stop: threading.Event) -> None:
        due: asyncio.Queue[int | None] = asyncio.Queue()
        clients = [asyncio.create_task(self._client(due)) for _ in range(CONNECTIONS)]
        began = time.monotonic()
        while not stop.is_set():
            for number in range(self.sent, int((time.monotonic() - began) * RATE)):
                due.put_nowait(number)
                self.sent += 1
            await asyncio.sleep(0.005)
        for _ in clients:
            due.put_nowait(None)
        await asyncio.gather(*clients)

    async def _client(self, due: "asyncio.Queue[int | None]") -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        while (number := await due.get()) is not None:
            request, wanted = request_of(number)
            began = time.monotonic()
            try:
                writer.write(request)
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
                status = int(head.split(maxsplit=2)[1])
                length = re.search(rb"(?i)content-length: (\d+)", head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                found = re.search(rb'"code": "(\w+)"', body)
                self.outcomes["as wanted" if status == wanted else f"{status} {found and found[1]!r}"] += 1
                is_over = b"connection: close" in head.lower()
            except (OSError, EOFError, TimeoutError) as error:
                self.outcomes[repr(error)] += 1
                is_over = True
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            if is_over:
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


@contextmanager
def under(load: Load) -> Iterator[None]:
    """Run a load meanwhile."""
    stop = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(load.run(stop)))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def restart(service: Service, name: str, proxy: Haproxy) -> float:
    """Restart a service as a deployment does; returns how long it took to end, in seconds."""
    began = time.monotonic()
    assert service.end(signal.SIGTERM) == 0
    ended_after_s = time.monotonic() - began
    wait_for(lambda: proxy.states()[name] != "UP")
    service.start()
    wait_for(lambda: proxy.states()[name] == "UP")
    return ended_after_s


def test_no_request_fails_while_two_services_are_restarted_one_after_the_other(
    start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # it would slow down what is measured
    with redis_server() as url:
        content = config(
            redis={"url": url, "timeout": 5},
            limits={"logout": [], "status": [], "terminate": []},
            server={"workers": WORKERS, "drain": DRAIN_S, "access_log": "none"},
        )
        services = [start(content).wait_until_ready() for _ in range(2)]
        with haproxy(services, services[0].folder) as proxy:
            load = Load(proxy.port)
            with under(load):
                took_s = [restart(service, f"s{number}", proxy) for number, service in enumerate(services)]
    report = f"{load.sent} requests: {dict(load.outcomes)}, slowest {load.slowest_s:.2f} s; ended after {took_s} s"
    with capsys.disabled():
        sys.stdout.write(f"\n{WORKERS} worker(s), {RATE} requests a second, {report}\n")
    assert load.outcomes == Counter({"as wanted": load.sent}), report
    assert load.sent > RATE, report
    assert all(DRAIN_S <= one < DRAIN_S + 10 for one in took_s), report
