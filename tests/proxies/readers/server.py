"""Python as a reader of paths: `http.server` with `urllib` on the first port, aiohttp's router on the second."""

import posixpath
import re
import sys
import threading
from collections.abc import Awaitable, Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse, urlsplit

from aiohttp import web

UNRESERVED = re.compile(r"%(2[de]|3[0-9]|[46][1-9a-f]|[57][0-9a]|5f|7e)", re.IGNORECASE)
"""RFC 3986, section 6.2.2.2: `%61` and `a` are the same. Who takes the target as it came has to see to that."""
ZONES = {"payments": "/api/payments", "public": "/public", "static": "/static", "api": "/api"}


def zone(path: str) -> str:
    """What a server with one handler for all below each of these paths would call."""
    return next((name for name, root in ZONES.items() if path == root or path.startswith(f"{root}/")), "other")


def without_parameters(path: str) -> str:
    """As a servlet container reads it: each segment without `;…`."""
    return re.sub(r";[^/]*", "", path)


def readings(target: str) -> set[str]:
    """What programs commonly make of a target with the standard library."""
    paths = {urlsplit(target).path, urlparse(target).path}
    if target.startswith("/"):  # else it is in absolute form
        paths.add(target.partition("?")[0])
    if UNRESERVED.search(target):
        paths = {unquote(path) for path in paths}
    for read in (without_parameters, unquote, without_parameters, lambda path: urlparse(path).path):
        paths |= {read(path) for path in paths}
    return paths | {posixpath.normpath(path) for path in paths} | {re.sub("/+", "/", path) for path in paths}


class Urllib(BaseHTTPRequestHandler):
    """Answers with the zones that these readings come to."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self) -> None:
        try:
            body = " ".join(sorted(set(map(zone, readings(self.path))))).encode()
        except ValueError:  # of urllib's, of what looks like half an IPv6 address
            body = b""
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_DELETE = do_GET  # noqa: N815  # so the base class calls them

    def log_message(self, *_: object) -> None:
        """Nothing."""


def answering(name: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    """A handler that answers with its own name, and with how it reads the path."""

    async def answer(request: web.Request) -> web.Response:
        paths = {request.path} if UNRESERVED.search(request.raw_path) else {request.path, request.rel_url.raw_path}
        return web.Response(text=" ".join({name, *map(zone, paths)}))

    return answer


def make_app() -> web.Application:
    """An application with a route for each zone."""
    app = web.Application()
    for name, root in ZONES.items():
        app.router.add_route("*", root, answering(name))
        app.router.add_route("*", root + "/{tail:.*}", answering(name))
    app.router.add_route("*", "/{tail:.*}", answering("other"))
    return app


if __name__ == "__main__":
    first, second = map(int, sys.argv[1:])
    server = ThreadingHTTPServer(("127.0.0.1", first), Urllib)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    web.run_app(make_app(), host="127.0.0.1", port=second, print=None)
