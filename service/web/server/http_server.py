"""The HTTP server: front doors for connections, aiohttp behind them, deadlines, and an end that drains."""

import asyncio
import gc
import logging
import resource
import sys
from collections.abc import Callable, Iterable
from functools import partial
from socket import socket
from typing import Any, cast

import structlog
from aiohttp import hdrs, web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.typedefs import Handler

from service.web import app_keys
from service.web.server.front_door import FrontDoor
from service.web.server.head_limits import MAX_HEAD_BYTES, Refused
from service.web.server.hot_path import HOT_PATH
from service.web.server.known_heads import KnownHeads

log = structlog.get_logger()

BODY_DEADLINE_S = 10.0
"""Seconds that a client may take to send a body."""
HEADER_DEADLINE_S = 10.0
"""Seconds that the head of a request may take, and a new connection until its first one."""
KEEPALIVE_S = 130.0
"""Seconds that an idle connection stays open. Proxies close theirs earlier (nginx 60 s, Traefik 90 s, Caddy 120 s), so
that no proxy sends a request on a connection that is being closed."""
SEND_TIMEOUT_S = 10.0
"""Seconds after which a client that reads nothing of its answers is disconnected."""
UNDER_WAY_S = 7.5
"""Seconds that requests under way have once the server accepts no more. Their bodies are still read."""
SHUTDOWN_S = 0.25
"""Seconds that aiohttp waits after that, up to twice, for the remaining requests. Their bodies are not read."""
CLEANUP_S = 1.0
"""Seconds that the application has at least to end its background tasks."""
CLOSE_S = UNDER_WAY_S + 2 * SHUTDOWN_S + CLEANUP_S
"""The most seconds that `HttpServer.close` takes."""
CHECK_EVERY_S = 1.0
"""Seconds between two checks of these deadlines."""
BACKLOG = 1024
"""The most connections that wait in the kernel until the service accepts them."""


class SentAnswers(AbstractAccessLogger):
    """Notifies a connection when aiohttp has sent an answer completely. The middlewares write the log."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Take note of an answer."""
        if (door := _door_of(request)) is not None:
            door.answered_by_aiohttp()


OPTIONS: dict[str, Any] = {
    "auto_decompress": False,  # a bomb would be unpacked even if nothing reads it; the service expects no packed body
    "access_log_class": SentAnswers,
    "access_log": logging.getLogger(__name__),  # nothing is written to it
    "keepalive_timeout": KEEPALIVE_S,
    # Never reached: the front door is the one to refuse, and bounds what it forwards of a head that is incomplete.
    "max_line_size": 16 * MAX_HEAD_BYTES,
    "max_field_size": 16 * MAX_HEAD_BYTES,
    "max_headers": 16 * MAX_HEAD_BYTES,
    "shutdown_timeout": SHUTDOWN_S,
}
"""For aiohttp's runner. A misspelt one would make aiohttp discard all: a test holds the effective values."""

SPARE_DESCRIPTORS = 256
"""How many descriptors are kept for everything but clients (Redis, key sets, webhooks, files), if there are plenty."""


def max_connections() -> int:
    """Return how many clients may be connected.

    Without a bound the last descriptor would go to a client: uvloop closes a listening socket that cannot accept.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit - min(SPARE_DESCRIPTORS, limit // 4)


GC_EVERY = 20_000
"""Objects, net, between two garbage collections. Requests leave no cycles, and many objects belong to requests under
way."""


def spare_the_collector() -> None:
    """Exempt what exists now from garbage collection; call this once everything is set up."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_EVERY)


class HttpServer:
    """Serves one application. It is the protocol factory for `loop.create_server`.

    Args:
        app: the application; its hot path is under `HOT_PATH`.
        options: over `OPTIONS`, for tests.
    """

    def __init__(self, app: web.Application, **options: Any) -> None:
        self.hot_path = app[HOT_PATH]
        self.connections: set[FrontDoor] = set()
        self.is_closing = False
        self._services = app[app_keys.REQUEST_SERVICES]
        self.known_heads = KnownHeads()
        self._known_under = self._services.policy.current
        self.count_hot: Callable[[], None] = partial(self._services.metrics.count_path, "hot")
        app.middlewares.insert(0, self._through_aiohttp)
        self.runner = web.AppRunner(app, **{**OPTIONS, **options})
        self._keepalive_s = float(options.get("keepalive_timeout", KEEPALIVE_S))
        self.listeners: list[asyncio.Server] = []
        self._checking: asyncio.TimerHandle | None = None
        self._through = 0
        """Requests that aiohttp answers now, also those whose client is gone."""
        self._turned_away = 0
        """Clients since the log was written last."""
        self.max_connections = max_connections()
        self._services.readiness.add_blocker(self._ending)
        self._loop: asyncio.AbstractEventLoop | None = None

    def count_turned_away(self) -> None:
        """Count a client for which there is no room; the log has the number once a second."""
        self._turned_away += 1
        self._services.metrics.count_turned_away()

    def __call__(self) -> FrontDoor:
        """Return the protocol of a new connection."""
        return FrontDoor(self, self._running_loop.time)

    @property
    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise RuntimeError("the server is not started")
        return self._loop

    def make_handler(self) -> asyncio.Protocol:
        """Return aiohttp's handler for one connection, by its public protocol factory."""
        return cast("asyncio.Protocol", cast("web.Server", self.runner.server)())

    def report_refused(self, client: str | None, refused: Refused) -> None:
        """Count and log a request that is not read as HTTP."""
        self._services.metrics.count_not_http(refused.reason)
        if self._services.policy.current.access_log != "none":
            log.info("not read as HTTP", client=client, status=refused.status, reason=refused.reason)

    @web.middleware
    async def _through_aiohttp(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request that a front door handed over, and end it where the next one should use the door."""
        self._services.metrics.count_path("aiohttp")
        self._through += 1
        try:
            return await self._answered(request, handler)
        finally:
            self._through -= 1

    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        # By the raw path: aiohttp's router would resolve the dots of a path that is another server's.
        route = self.hot_path.find(request.method, request.raw_path)
        response = await (handler(request) if route is None else route.through_aiohttp(request))
        door = _door_of(request)
        if door is None:
            return response
        # Of what follows an upgrade in its packet aiohttp drops all; the body of CONNECT it takes for a request.
        asks_for_another_protocol = hdrs.UPGRADE in request.headers or request.method == hdrs.METH_CONNECT
        is_last = door.is_last_known and (self.is_closing or route is not None or door.is_body_broken)
        if is_last or asks_for_another_protocol:
            response.force_close()
        door.is_answering = True
        return response

    async def start(self) -> None:
        """Start the application."""
        self._loop = asyncio.get_running_loop()
        await self.runner.setup()
        self._check()

    async def listen(self, listener: socket) -> None:
        """Take connections from a bound socket."""
        self.listeners.append(await self._running_loop.create_server(self, sock=listener, backlog=BACKLOG))

    def announce_end(self) -> None:
        """Go on taking requests, but say that the server ends.

        `/readyz` is 503, so that a load balancer sends its requests elsewhere, and the last answer on each connection
        says `Connection: close`.
        """
        self.is_closing = True

    async def close(self) -> None:
        """Accept no more connections, answer the requests under way, and stop the application, within `CLOSE_S`."""
        self.announce_end()
        await asyncio.sleep(0)  # what has arrived is read before connections count as idle
        for listener in self.listeners:
            listener.close()
        loop = self._running_loop
        began = loop.time()
        until = began + UNDER_WAY_S
        await self.runner.app.shutdown()  # streams end: they would be under way for ever
        # Counting the requests under way would cost each of them on the hot path.
        while (self.connections or self._through) and (now := loop.time()) < until:
            for door in list(self.connections):
                door.close_if_idle(now)
            await asyncio.sleep(0.01)
        if left := len(self.connections):
            log.warning("connections are cut: their requests were not answered in time", connections=left)
        if self._checking is not None:
            self._checking.cancel()
        try:
            async with asyncio.timeout_at(began + CLOSE_S):
                await self.runner.cleanup()
        except TimeoutError:
            log.warning("background tasks were cut: they did not end in time")
        for door in list(self.connections):
            door.abort()

    def _ending(self) -> Iterable[str]:
        """Return why `/readyz` is 503 while the service ends."""
        return ("the service is about to end",) if self.is_closing else ()

    def _check(self) -> None:
        """Close connections whose time is over, and forget what an earlier configuration came to."""
        if self._known_under is not (policy := self._services.policy.current):
            self._known_under = policy
            self.known_heads.forget()
        if self._turned_away:
            log.error(
                "no room for more clients: raise the limit of open files (LimitNOFILE=, ulimit -n)",
                turned_away=self._turned_away,
                connections=self.max_connections,
            )
            self._turned_away = 0
        now = self._running_loop.time()
        for door in list(self.connections):
            door.check(now, head_s=HEADER_DEADLINE_S, idle_s=self._keepalive_s, send_s=SEND_TIMEOUT_S)
        self._checking = self._running_loop.call_later(CHECK_EVERY_S, self._check)


def _door_of(request: web.BaseRequest) -> FrontDoor | None:
    door = request.transport.get_protocol() if request.transport is not None else None
    return door if isinstance(door, FrontDoor) else None
