"""A steady load of writes on a service, each counted: when it was sent, and what was acknowledged."""

import asyncio
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.kit import OPERATOR_TOKEN, Service, config, credentials, tenant

RATE = 500
"""Requests a second, all of them writes: nine logouts to one suspension by an operator."""
TIMEOUT_S = 0.25
"""`redis.timeout`, as shipped."""


@contextmanager
def in_background(run: Callable[[], Coroutine[Any, Any, None]], stop: threading.Event) -> Iterator[None]:
    """Run a load in a thread and a loop of its own; at the end `stop` is set, and its last answers are awaited."""
    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@dataclass(slots=True)
class Write:
    """One write: a logout, or an operator's suspension, each of a user of its own."""

    tenant: str
    user: str
    suspends: bool
    at: float
    """When it was sent, in seconds since the epoch."""
    until: float = 0.0
    """When the answer was there."""
    status: int = 0
    """0: no answer."""


@dataclass
class SteadyLoad:
    """Writes at a steady rate, however long the answers take.

    Args:
        service: whom to ask.
        tenants: whose users.
        rate: writes a second.
    """

    service: Service
    tenants: Sequence[str]
    rate: int = RATE
    writes: list[Write] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def on(self) -> Iterator["SteadyLoad"]:
        with in_background(self._run, self.stop):
            yield self

    async def _run(self) -> None:
        connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            began, sent = time.monotonic(), 0
            writing: set[asyncio.Task[None]] = set()
            while not self.stop.is_set():
                due = int((time.monotonic() - began) * self.rate)
                for number in range(sent, due):
                    task = asyncio.create_task(self._write(session, number))
                    writing.add(task)
                    task.add_done_callback(writing.discard)
                sent = max(sent, due)
                await asyncio.sleep(0.002)
            await asyncio.gather(*writing)

    async def _write(self, session: aiohttp.ClientSession, number: int) -> None:
        name = self.tenants[number % len(self.tenants)]
        write = Write(name, f"user-{number}", suspends=number % 10 == 0, at=0)
        root = f"http://127.0.0.1:{self.service.port}"
        if write.suspends:
            url = f"{root}/admin/v1/tenants/{name}/users/{write.user}/suspend"
            how: dict[str, Any] = {"headers": {"authorization": f"Bearer {OPERATOR_TOKEN}"}, "json": {}}
        else:
            url, how = f"{root}/auth/logout", {"headers": credentials(write.user, tenant_token=token_of(name))}
        write.at = time.time()
        try:
            async with session.post(url, **how) as answer:
                await answer.read()
                write.status = answer.status
        except (aiohttp.ClientError, TimeoutError):
            write.status = 0
        write.until = time.time()
        self.writes.append(write)

    def acknowledged(self) -> list[Write]:
        return [one for one in self.writes if one.status == 200]


def token_of(name: str) -> str:
    return f"tenant-token-of-{name}"


@contextmanager
def serving(url: str, tenants: Sequence[str]) -> Iterator[Service]:
    content = config(
        redis={"url": url, "timeout": TIMEOUT_S},
        limits={"logout": [], "status": [], "admin": []},
        tenants={name: tenant(token=token_of(name)) for name in tenants},
    )
    content["tenants"] = {name: content["tenants"][name] for name in tenants}
    content["admin"]["tokens"] = content["admin"]["tokens"][:1]
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder), content)
        try:
            yield service.wait_until_ready()
        finally:
            service.end()
