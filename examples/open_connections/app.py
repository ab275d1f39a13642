"""An aiohttp application with the middleware, whose open connections end with the session of their user.

    python examples/open_connections/app.py --port 8081

`/events` is a stream of server-sent events, `/socket` a WebSocket. Both end when an operator suspends, terminates or
revokes the user, at whichever service or application that has the same Redis. The configuration is in the same folder.
"""

import argparse
import asyncio
import json
from contextlib import suppress
from pathlib import Path

from aiohttp import WSCloseCode, web
from aiohttp_sse import sse_response

from service.integrations.aiohttp import SessionEnd, session_middleware, session_of

HERE = Path(__file__).parent
EVERY_S = 0.2
GRACE_S = 2.0
"""How long a client may take to read what it is sent, and to answer a close. Then it is disconnected."""


def ended_of(request: web.Request) -> asyncio.Future[SessionEnd]:
    """Return the future of the session's end. On an open route nobody is known, and it never ends."""
    session = session_of(request)
    return session.ended if session is not None else asyncio.get_running_loop().create_future()


async def events(request: web.Request) -> web.StreamResponse:
    """Send numbers for as long as the session lasts, then the cause of its end."""
    ended, number = ended_of(request), 0
    with suppress(ConnectionError, TimeoutError):  # the client is gone, or reads too slowly
        async with sse_response(request, send_timeout=GRACE_S) as response:
            while not ended.done() and response.is_connected():
                number += 1
                await response.send(json.dumps({"number": number}))
                await asyncio.wait([ended], timeout=EVERY_S)
            if ended.done():
                await response.send(json.dumps({"cause": ended.result().cause}), event="ended")
    return response


async def socket(request: web.Request) -> web.StreamResponse:
    """Echo messages for as long as the session lasts, then close with the cause."""
    opened = web.WebSocketResponse(heartbeat=20)
    await opened.prepare(request)
    ended = ended_of(request)

    async def close_with_session() -> None:
        end = await ended
        code = WSCloseCode.GOING_AWAY if end.cause == "shutdown" else WSCloseCode.POLICY_VIOLATION
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await opened.close(code=code, message=end.cause.encode())
        if request.transport is not None:
            request.transport.abort()

    closing = asyncio.create_task(close_with_session())
    with suppress(ConnectionError):
        async for message in opened:
            await opened.send_str(f"you said {message.data}")
    if not ended.done():
        closing.cancel()
    await asyncio.wait([closing])
    return opened


def make_app(config: Path) -> web.Application:
    """Return the application."""
    app = web.Application()
    app.middlewares.append(session_middleware(app, config))
    app.router.add_get("/events", events)
    app.router.add_get("/socket", socket)
    return app


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--port", type=int, default=8081)
    arguments.add_argument("--config", type=Path, default=HERE / "config.yaml")
    given = arguments.parse_args()
    web.run_app(make_app(given.config), host="127.0.0.1", port=given.port)
