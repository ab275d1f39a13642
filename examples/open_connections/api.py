"""An API behind a proxy that asks Rollcall, whose open connections end with the session of their user.

    python examples/open_connections/api.py --port 9000 --tenant demo

Rollcall decided when a connection was opened. `Sessions` reads Rollcall's event stream, and ends the connections of a
user who is suspended, terminated, restricted or revoked. It needs an operator's token; the role `viewer` is enough.
"""

import argparse
import asyncio
import json
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import suppress
from urllib.parse import unquote

import aiohttp
from aiohttp import WSCloseCode, web
from aiohttp_sse import sse_response

log = logging.getLogger("open connections")

EVERY_S = 0.2
GRACE_S = 2.0
"""How long a client may take to read what it is sent, and to answer a close. Then it is disconnected."""
AGAIN_S = 1.0
PING_S = 4
REMEMBERED_S = 5.0
"""For how long an end is remembered: a request that was admitted before it may open its connection after it."""


class Sessions:
    """The users of one tenant who have open connections, and the client of the event stream that ends them.

    Args:
        url: Rollcall's own address, such as `http://127.0.0.1:8080`.
        token: of an operator; `viewer` is enough.
        tenant: whose events it reads.
    """

    def __init__(self, url: str, token: str, tenant: str) -> None:
        self._url = f"{url}/admin/v1/events"
        self._query = {"tenant": tenant, "ping": str(PING_S)}
        self._token = token
        self._open: defaultdict[str, set[asyncio.Future[str]]] = defaultdict(set)
        self._lately: dict[str | None, tuple[float, str]] = {}
        """User (None: all) → when and why connections ended, in the order of time."""
        self._last = ""
        self.ready = asyncio.Event()
        """Is set once the events are read."""

    def open(self, user: str) -> asyncio.Future[str]:
        """Return a future of why the user's connections end. Cancel it when the connection is closed."""
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._open[user].add(future)
        future.add_done_callback(lambda _: self._closed(user, future))
        self._forget_old_ends()
        for ended in (user, None):
            if ended in self._lately and not future.done():
                future.set_result(self._lately[ended][1])
        return future

    def _closed(self, user: str, future: asyncio.Future[str]) -> None:
        self._open[user].discard(future)
        if not self._open[user]:
            del self._open[user]

    def _end(self, user: str | None, cause: str) -> None:
        self._forget_old_ends()
        self._lately.pop(user, None)
        self._lately[user] = time.monotonic(), cause
        self.end_open(user, cause)

    def end_open(self, user: str | None, cause: str) -> None:
        """End what is open now, of a user or (None) of all."""
        for one in [user] if user is not None else list(self._open):
            for future in list(self._open.get(one, ())):
                if not future.done():
                    future.set_result(cause)

    def _forget_old_ends(self) -> None:
        oldest = time.monotonic() - REMEMBERED_S
        while self._lately and next(iter(self._lately.values()))[0] < oldest:
            del self._lately[next(iter(self._lately))]

    def hear(self, kind: str, event: dict[str, str]) -> None:
        """Do what an event of the stream asks for. Whoever is not concerned connects again, and is admitted."""
        if kind == "transition" and event["to"] in ("suspended", "terminated"):
            self._end(event["userId"], event["to"])
        elif kind in ("revocation", "restriction") and event["change"] == "set":
            self._end(event.get("userId"), kind)
        elif kind == "gap":  # every client connects again, and Rollcall decides anew
            self._end(None, "events were missed")
        elif kind == "ready" and not self.ready.is_set():  # what is open already may be older than an act
            self.end_open(None, "events were missed")
            self.ready.set()

    async def follow(self) -> None:
        """Read the stream for ever. On a lost connection, go on after the last event."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=3 * PING_S)
        headers = {"authorization": f"Bearer {self._token}"}
        async with aiohttp.ClientSession(headers=headers, timeout=timeout) as client:
            while True:
                try:
                    await self._read(client)
                except Exception as error:  # of any kind: without this task, connections do not end
                    log.warning("the event stream is read anew: %r", error)
                await asyncio.sleep(AGAIN_S)

    async def _read(self, client: aiohttp.ClientSession) -> None:
        after = {"last-event-id": self._last} if self._last else {}
        async with client.get(self._url, params=self._query, headers=after) as stream:
            stream.raise_for_status()
            block: dict[str, str] = {}
            async for line in stream.content:
                name, _, value = line.decode().rstrip("\r\n").partition(": ")
                if name:
                    block[name] = value
                elif not value and block:  # an empty line ends an event; a comment has a value
                    if "data" in block:
                        self.hear(block.get("event", ""), json.loads(block["data"]))
                    self._last = block.get("id", self._last)
                    block = {}


SESSIONS = web.AppKey("SESSIONS", dict[str, Sessions])
"""Tenant → its sessions."""


def ended_of(request: web.Request) -> asyncio.Future[str]:
    """Return the future of the end of the session. The fields come from the proxy, which removes those of clients."""
    tenant, user = request.headers["x-auth-tenant"], unquote(request.headers["x-auth-user"])
    return request.app[SESSIONS][tenant].open(user)


async def events(request: web.Request) -> web.StreamResponse:
    """Send numbers for as long as the session lasts, then the cause of its end."""
    ended, number = ended_of(request), 0
    try:
        with suppress(ConnectionError, TimeoutError):  # the client is gone, or reads too slowly
            async with sse_response(request, send_timeout=GRACE_S) as response:
                while not ended.done() and response.is_connected():
                    number += 1
                    await response.send(json.dumps({"number": number}))
                    await asyncio.wait([ended], timeout=EVERY_S)
                if ended.done():
                    await response.send(json.dumps({"cause": ended.result()}), event="ended")
    finally:
        ended.cancel()
    return response


async def socket(request: web.Request) -> web.StreamResponse:
    """Echo messages for as long as the session lasts, then close with the cause."""
    opened = web.WebSocketResponse(heartbeat=20)
    await opened.prepare(request)
    ended = ended_of(request)

    async def close_with_session() -> None:
        cause = await ended
        code = WSCloseCode.GOING_AWAY if cause == "shutdown" else WSCloseCode.POLICY_VIOLATION
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await opened.close(code=code, message=cause.encode())
        if request.transport is not None:
            request.transport.abort()

    closing = asyncio.create_task(close_with_session())
    with suppress(ConnectionError):
        async for message in opened:
            await opened.send_str(f"you said {message.data}")
    ended.cancel()
    await asyncio.wait([closing])
    return opened


def make_app(sessions: dict[str, Sessions]) -> web.Application:
    """Return the application."""

    async def follow(_: web.Application) -> AsyncIterator[None]:
        following = [asyncio.create_task(one.follow()) for one in sessions.values()]
        for one in sessions.values():
            await one.ready.wait()  # requests are served from here on; without Rollcall none would be admitted
        yield
        for task in following:
            task.cancel()
        await asyncio.wait(following)

    async def end_all(_: web.Application) -> None:
        for one in sessions.values():
            one.end_open(None, "shutdown")

    app = web.Application()
    app[SESSIONS] = sessions
    app.on_shutdown.append(end_all)
    app.cleanup_ctx.append(follow)
    app.router.add_get("/api/events", events)
    app.router.add_get("/api/socket", socket)
    return app


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--port", type=int, default=9000)
    arguments.add_argument("--rollcall", default="http://127.0.0.1:8080")
    arguments.add_argument("--operator-token", default="demo-operator-token")
    arguments.add_argument("--tenant", action="append", help="may be repeated; by default demo")
    given = arguments.parse_args()
    read = {name: Sessions(given.rollcall, given.operator_token, name) for name in given.tenant or ["demo"]}
    web.run_app(make_app(read), host="127.0.0.1", port=given.port)
