"""The service under attack, and the table of all attacks that a run ends with.

Each file of this folder has a service of its own, as its `CHANGES` configure it, on a real Redis.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
import redis
from aiohttp import web
from pytest_asyncio import is_async_test

from service.app import make_app
from service.store.connection.client import RedisAccess, TlsFiles
from tests.attacks import raw_http as wire
from tests.kit import OTHER_TENANT_TOKEN, TENANT_TOKEN, Answer, OurServer, config, cookie_name, settings

OPERATORS = [
    *config()["admin"]["tokens"],
    {"name": "watcher", "token": "viewer-token-of-all", "role": "viewer", "tenants": ["*"]},
    {"name": "half", "token": "operator-token-of-globex", "role": "operator", "tenants": ["globex"]},
]
COOKIE = cookie_name(admin={"tokens": OPERATORS})
_OF_USERS = re.compile(r"rc:\{[^}]*\}:(u:|by:|rules|expiring|ending)")


@dataclass
class Target:
    """A service that is attacked."""

    app: web.Application
    port: int
    redis: Any

    async def ask(
        self, method: str = "GET", target: str = "/auth/status", fields: wire.Fields = (), body: bytes = b""
    ) -> Answer:
        """The answer to one request, sent byte for byte. A refusal is never to be kept, whatever it is of."""
        answer = await wire.ask(self.port, method, target, fields, body)
        assert answer.status < 400 or not answer.body or answer.headers["cache-control"] == "no-store"
        return answer

    async def exchange(self, raw: bytes) -> bytes:
        """All that is answered to these bytes."""
        return await wire.send(self.port, raw)

    async def keys(self) -> set[str]:
        """All keys in Redis."""
        return {key.decode() for key in await self.redis.keys("*")}

    async def kept(self) -> dict[str, Any]:
        """What Redis keeps of users. That somebody was charged or refused names no user, and is not of it."""
        keys = await self.keys()
        found: dict[str, Any] = {key: await self.redis.dump(key) for key in keys if _OF_USERS.match(key)}
        for stream in [key for key in keys if key.endswith("}:events")]:
            entries = [fields for _, fields in await self.redis.xrange(stream)]
            if reported := [fields for fields in entries if fields[b"type"] != b"refusal" or b"user" in fields]:
                found[stream] = reported
        return found


Launch = Callable[..., Awaitable[Target]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def launch(redis_url: str) -> AsyncIterator[Launch]:
    """Starts services with changes to the tests' configuration; they end with their file."""
    with redis.Redis(unix_socket_path=redis_url.removeprefix("unix://")) as client:
        client.flushall()
    async with AsyncExitStack() as stack:

        async def launched(**changes: Any) -> Target:
            access = RedisAccess.by_url(redis_url, TlsFiles())
            changed = settings(**{"admin": {"tokens": OPERATORS}, "redis": {"timeout": 5}, **changes})
            server = OurServer(await asyncio.to_thread(make_app, changed, access))
            await server.start_server()
            stack.push_async_callback(server.close)
            return Target(server.app, int(server.port or 0), access.client)

        yield launched
    # Closing the loop would cancel once what is left, and wait for it: before Python 3.12 a task may lose that.
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for _ in range(200):
        if left:
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=0.1)
    assert not left, "the service left tasks that do not end"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(request: pytest.FixtureRequest, launch: Launch) -> Target:
    """The service of a file, with what earlier tests left in Redis."""
    return await launch(**request.module.CHANGES)


@pytest_asyncio.fixture(loop_scope="module")
async def target(running: Target) -> Target:
    """The service of a file, with an empty Redis."""
    await running.redis.flushall()
    return running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of this folder need a real Redis, and share their file's loop with its service."""
    for item in items:
        if item.path.parent.name == "attacks":
            item.add_marker(pytest.mark.real_redis)
            if is_async_test(item):
                item.add_marker(pytest.mark.asyncio(loop_scope="module"), append=False)


def of(user_token: str, tenant_token: str = TENANT_TOKEN) -> list[tuple[str, str]]:
    """The fields of a request with these tokens."""
    return [("x-tenant-token", tenant_token), ("x-token", user_token)]


def of_globex(user_token: str) -> list[tuple[str, str]]:
    """The same, of the other tenant."""
    return of(user_token, OTHER_TENANT_TOKEN)


# --- the table ----------------------------------------------------------------------------------------


COLUMNS, WIDTH = 3, 38
"""How the table is set: characters of an attack's name."""
ATTACK = "attack"
"""The name of the property of a test's report that holds an attack: area, what was tried, what was answered."""


class Attack:
    """Notes attacks of one test for the table."""

    def __init__(self, item: pytest.Item) -> None:
        self._properties = item.user_properties  # a worker of pytest-xdist sends them to the process that prints
        self._area = item.path.stem.removeprefix("test_")

    def __call__(self, attack: str, answered: Answer | str) -> None:
        """Note one, before it is judged."""
        text = answered if isinstance(answered, str) else wire.described(answered)
        # A worker cannot send what UTF-8 cannot hold.
        sendable = [one.encode(errors="backslashreplace").decode() for one in (attack, text)]
        self._properties.append((ATTACK, [self._area, *sendable]))


@pytest.fixture
def attack(request: pytest.FixtureRequest) -> Attack:
    """Notes an attack: what was tried, and what was answered."""
    return Attack(request.node)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of all attacks by area and answer, so that an unusual answer is easy to see."""
    ended = [
        report
        for outcome in ("passed", "failed", "skipped")
        for report in terminalreporter.getreports(outcome)
        if report.when == "call"
    ]
    noted = [value for report in ended for name, value in report.user_properties if name == ATTACK]
    if not noted:
        return
    terminalreporter.section("attacks: area, what was answered, to what")
    grouped: dict[tuple[str, str], list[str]] = {}
    for area, attack, answered in noted:
        grouped.setdefault((area, answered), []).append(_short(attack))
    for (area, answered), attacks in grouped.items():
        terminalreporter.line(f"{area}  {answered}  ({len(attacks)})", bold=True)
        for row in (attacks[at : at + COLUMNS] for at in range(0, len(attacks), COLUMNS)):
            terminalreporter.line("  ".join(["", *(f"{name:{WIDTH}}" for name in row)]).rstrip())
    reports = [*terminalreporter.getreports("failed"), *terminalreporter.getreports("error")]
    failed = sum("tests/attacks/" in report.nodeid for report in reports)
    outcome = f"{failed} tests say that one was not refused" if failed else "all refused"
    terminalreporter.line(f"{len(noted)} attacks, {outcome}", red=bool(failed), green=not failed)


def _short(text: str) -> str:
    text = "".join(one if " " <= one <= "~" else ascii(one)[1:-1] for one in text)
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..."
