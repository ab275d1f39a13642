"""The servers that are measured: each a process of its own, pinned to a core; and Redis beside them."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, Request, build_opener

import jwt

from service.store.embedded import server

ROOT = Path(__file__).parent.parent
STACKS = Path(__file__).parent / "stacks"
SECRET = "a-secret-of-32-bytes-for-the-bench!!"
TENANT_TOKEN = "bench-tenant-token"
OPERATOR_TOKEN = "bench-operator-token"
CORES = sorted(os.sched_getaffinity(0))
ADDRESSES = 8000
"""The number of client addresses, where each request comes from another."""
USERS = 5000
"""Users who take turns, each with a token that the server has verified before."""
TURNS_WARM = 4 * USERS
"""Requests before these rows are measured: what a server keeps of a user it keeps, and uses, within a few requests."""
PATHS = 1000
"""What a proxy asks about."""
HUGE = [{"per": "ip", "requests": 1_000_000, "window": 60}]
ROUTES = [{"path": f"/api/part{n}/*", "capability": f"part{n}"} for n in range(99)] + [{"path": "/*"}]
TRUSTING: dict[str, Any] = {"trusted_proxies": ["127.0.0.1"]}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_s(*pids: int) -> float:
    """CPU seconds, user and system, that these processes have used, to the nanosecond."""
    # A process's own clock (clock_getcpuclockid(3)): the ticks of /proc are 10 ms, 1 µs of a request in 10,000.
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@dataclass
class Server:
    """A process that answers on a port."""

    pids: list[int]
    port: int


Requests = Callable[[int], bytes]
"""The request of each number, as bytes."""


@dataclass
class Row:
    """One line of the table: what runs, and what it is asked."""

    name: str
    command: list[str]
    requests: Requests
    status: int = 200
    workers: int = 1
    first: bool = False
    """Each address is measured once, when it has used up its quota."""
    connections: int = 64
    """Connections of the load to each worker: as many wait at once whether there is one worker or two."""
    holds: bytes = b""
    """What the body of an answer holds; one answer is compared in each round."""
    directory: Path = ROOT
    """The checkout that the server runs from."""
    environment: dict[str, str] = field(default_factory=dict)
    share: float = 1
    """Of the requests that other rows are sent in each round: those of slow rows are fewer."""
    warm: int = ADDRESSES
    """Requests before it is measured."""
    front: Callable[[int], AbstractContextManager[int]] | None = None
    """A proxy before the server: takes the server's port, gives the load's. Its CPU is not counted."""
    name_before: str = ""
    """The row of the present code that this one, of an older commit, is compared with."""

    @property
    def ours(self) -> bool:
        return self.command[1:3] == ["-m", "service"]


@contextmanager
def process(
    command: list[str],
    port: int,
    cores: set[int],
    environment: dict[str, str] | None = None,
    directory: Path = ROOT,
) -> Iterator[int]:
    """A process on these cores; yields its id once it listens."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    made = subprocess.Popen(command, cwd=directory, env={**os.environ, **(environment or {})}, **quiet)  # type: ignore[call-overload]
    os.sched_setaffinity(made.pid, cores)
    try:
        deadline = time.monotonic() + 20
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if made.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"does not listen: {command}")
            time.sleep(0.05)
        yield made.pid
    finally:
        made.terminate()
        made.wait(30)


@contextmanager
def redis_beside(folder: Path) -> Iterator[tuple[int, int]]:
    """A Redis on the load's core; yields its process id and port."""
    binary = server.find_server()
    if binary is None:
        raise SystemExit("a Redis server is needed: install redis-server")
    port = free_port()
    command = [str(binary), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with process(command, port, {CORES[-1]}) as pid:
        yield pid, port


def token_of(user: str) -> str:
    claims = {"sub": user, "exp": int(time.time()) + 86_400}
    return jwt.encode(claims, SECRET, algorithm="HS256", headers={"kid": "k"})


def asking(path: str, user: str = "user", **headers: str) -> bytes:
    """A request as bytes."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    own = {"host": "bench", "x-tenant-token": TENANT_TOKEN, **given}
    if "x-token" not in own:
        own["x-token"] = token_of(user)
    lines = "".join(f"{name}: {value}\r\n" for name, value in own.items())
    return f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode()


class Operator:
    """Looks at pages, as a program and as a browser that is logged in."""

    def __init__(self, port: int) -> None:
        self._at = f"http://127.0.0.1:{port}"
        self._open = build_opener(HTTPCookieProcessor(CookieJar())).open
        form = self("/dashboard/login")
        [csrf] = re.findall(r'name="csrf" value="([^"]+)"', form)
        self("/dashboard/login", urlencode({"csrf": csrf, "token": OPERATOR_TOKEN, "next": ""}).encode())

    def __call__(self, path: str, form: bytes | None = None) -> str:
        headers = {"authorization": f"Bearer {OPERATOR_TOKEN}"}
        with self._open(Request(self._at + path, form, headers), timeout=30) as answer:
            return str(answer.read().decode())


def constant(raw: bytes) -> Requests:
    return lambda number: raw


def rollcall(
    folder: Path,
    name: str,
    redis_port: int,
    *,
    limits: dict[str, Any],
    routes: Sequence[Any] = (),
    keys: Sequence[dict[str, str]] = (),
    **server: Any,
) -> list[str]:
    """The command of a Rollcall of our own."""
    key = {"kid": "k", "alg": "HS256", "secret": SECRET}
    keys = [key, *keys]
    named = {operation: [{"name": f"{operation}-ip", **one} for one in own] for operation, own in limits.items()}
    content = {
        "server": {"port": 0, **server},
        # Longer than as shipped: on a busy machine an answer that is late is measured, not refused.
        "redis": {"url": f"redis://127.0.0.1:{redis_port}", "timeout": 5},
        "limits": named,
        "routes": routes,
        "tenants": {"bench": {"token": TENANT_TOKEN, "jwt": {"keys": keys}}},
        "admin": {"tokens": [{"name": "bench", "token": OPERATOR_TOKEN, "role": "operator", "tenants": ["*"]}]},
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(content))
    return [sys.executable, "-m", "service", "--config", str(path)]


def in_turn(name: str, connections: int) -> str:
    """The name of a row in which many users take turns."""
    at = {64: "", 1: ", 1 connection"}.get(connections, f", {connections} connections")
    return f"{name}, {USERS:,} users in turn{at}"


@contextmanager
def running(row: Row) -> Iterator[Server]:
    """The row's server, on the first core; several workers on all of them."""
    port = free_port()
    command = [word.replace("{port}", str(port)) for word in row.command]
    cores = {CORES[0]} if row.workers == 1 else set(CORES)
    with ExitStack() as stack:
        environment = {"SERVICE__SERVER__PORT": str(port), "PYTHONPATH": str(row.directory), **row.environment}
        pid = stack.enter_context(process(command, port, cores, environment, row.directory))
        if row.workers == 1:
            yield Server([pid], stack.enter_context(row.front(port)) if row.front else port)
            return
        while len(workers := children(pid)) < row.workers:
            time.sleep(0.05)
        time.sleep(1)  # until they serve
        for worker, core in zip(workers, CORES, strict=False):
            os.sched_setaffinity(worker, {core})
        yield Server(workers, port)
