"""An API behind the proxies that speaks WebSocket, and takes large requests: aiohttp's server, in a thread."""

import asyncio
import socket
import threading
from dataclasses import dataclass
from typing import Any

from aiohttp import web


@dataclass
class Seen:
    """A request, as it reached the API."""

    method: str
    target: str
    lines: list[tuple[str, str]]
    """Its header fields in their order, names in lower case."""
    body_bytes: int = 0

    def all(self, name: str) -> list[str]:
        """Each value of a field."""
        return [value for other, value in self.lines if other == name]


class EchoApi:
    """Echoes the messages of a WebSocket at `…/live`; answers any other request with the length of its body.

    The query `?fields=N` makes it answer with a field of N bytes.
    """

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        """What reached it, in the order of arrival."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(listener.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(listener,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it, and wait for that."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, listener: socket.socket) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        sizes: dict[str, Any] = {"max_field_size": 65536, "max_line_size": 65536}
        runner = web.AppRunner(app, shutdown_timeout=0.1, **sizes)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.SockSite(runner, listener).start())
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        lines = [(name.decode().lower(), value.decode("latin-1")) for name, value in request.raw_headers]
        seen = Seen(request.method, request.raw_path, lines)
        self.seen.append(seen)
        if request.path.endswith("/live") and request.headers.get("upgrade", "").lower() == "websocket":
            opened = web.WebSocketResponse()
            await opened.prepare(request)
            async for message in opened:
                await opened.send_str(f"echo {message.data}")
            return opened
        async for part in request.content.iter_any():
            seen.body_bytes += len(part)
        fields = {"x-large": "x" * int(request.query.get("fields", 0))}
        return web.Response(text=str(seen.body_bytes), headers=fields)
