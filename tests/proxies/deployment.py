"""A whole deployment on loopback: proxy as in `examples/`, service, Redis, and an upstream that records."""

import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import socketserver
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import redis
import yaml

from examples.upstream import Echo
from service.core.operator_actions import Author
from service.core.sessions import Cause
from service.store.connection.client import RedisAccess, TlsFiles
from service.store.sessions.operator_actions import RedisOperatorActions
from tests.kit import ROOT, Answer, Service, free_port, redis_server, wait_for
from tests.proxies.versions import Proxy

EXAMPLES = ROOT / "examples"
ANSWER_S = 28.0
"""How long an answer may take: less than the time that Traefik and HAProxy wait where nothing else is configured."""


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """A proxy that hangs up is none."""


class Upstream:
    """The API of the example, that remembers what reached it."""

    def __init__(self) -> None:
        seen: list[dict[str, Any]] = []
        self.seen = seen

        class Recording(Echo):
            def encoded(self, received: dict[str, Any]) -> bytes:
                seen.append(received)
                return super().encoded(received)

        self._server = _Quiet(("127.0.0.1", 0), Recording)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Relay:
    """Between proxy and service: keeps what the proxy sends."""

    def __init__(self, to: int) -> None:
        self.sent = sent = bytearray()
        self.holds = holds = threading.Event()
        """Set: the service hears of nothing that is sent from now on, and so does not answer."""
        connections: list[Any] = []
        self.connections = connections

        class Passing(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                connections.append(self.client_address)
                with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", to)) as far:
                    back = threading.Thread(target=_pump, args=(far, self.request))
                    back.start()
                    _pump(self.request, far, sent, holds)
                    back.join()

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Passing)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _pump(
    source: socket.socket, sink: socket.socket, keep: bytearray | None = None, holds: threading.Event | None = None
) -> None:
    with contextlib.suppress(OSError):
        while content := source.recv(65536):
            if keep is not None:
                keep.extend(content)
            if holds is None or not holds.is_set():
                sink.sendall(content)
    for one in (source, sink):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@dataclass
class Deployment:
    """All of it, running."""

    proxy: Proxy
    port: int
    service: Service
    upstream: Upstream
    relay: Relay
    redis_url: str

    def is_up(self) -> bool:
        """Whether its configuration holds: Traefik answers 404 to everything until it has read the dynamic part."""
        return listens(self.port) and self.ask("GET", "/public/up").status != 404

    def forget(self) -> None:
        """Forget what was recorded so far."""
        self.upstream.seen.clear()
        self.relay.sent.clear()
        self.relay.connections.clear()

    def ask(
        self, method: str, target: str, headers: Mapping[str, str] | Sequence[tuple[str, str]] = (), body: bytes = b""
    ) -> Answer:
        """One request at the proxy."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_S)
        try:
            connection.putrequest(method, target, skip_accept_encoding=True)
            for name, value in headers.items() if isinstance(headers, Mapping) else headers:
                connection.putheader(name, value)
            if body:
                connection.putheader("content-length", str(len(body)))
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    async def act(self, tenant: str, user: str, cause: Cause) -> None:
        """What an operator would do."""
        access = RedisAccess.by_url(self.redis_url, TlsFiles())
        await RedisOperatorActions(access.client).act(tenant, [user], cause, Author("test"))
        await access.close()

    def events(self, tenant: str) -> list[tuple[str, str]]:
        """(user, new status) of each transition."""
        with redis.Redis(unix_socket_path=self.redis_url.removeprefix("unix://")) as client:
            events = [event for _, event in client.xrange(f"rc:{{{tenant}}}:events") if b"to" in event]
        return [(event[b"user"].decode(), event[b"to"].decode()) for event in events]

    def kill_redis(self) -> None:
        with redis.Redis(unix_socket_path=self.redis_url.removeprefix("unix://")) as client:
            os.kill(int(client.info("server")["process_id"]), signal.SIGKILL)


def rollcall_config(redis_url: str) -> dict[str, Any]:
    """`examples/rollcall.yaml`, on a test's Redis."""
    content: dict[str, Any] = yaml.safe_load((EXAMPLES / "rollcall.yaml").read_text())
    del content["server"]["port"]
    return {**content, "redis": {"url": redis_url, "timeout": 1.5}}  # less than a proxy waits


@contextmanager
def deployed(
    proxy: Proxy,
    folder: Path,
    change: Callable[[dict[str, Any]], None] = lambda _: None,
    upstream_port: int | None = None,
    edit: Callable[[str], str] = lambda text: text,
) -> Iterator[Deployment]:
    """Start all of it; end all of it.

    Args:
        proxy: the one in front of the API.
        folder: for configurations and logs.
        change: what is to be different in the configuration of the example.
        upstream_port: of another upstream than the recording one.
        edit: what is to be different in each file of the proxy's example.
    """
    port = free_port()
    proxy.command(port)  # skips where the program is missing
    with ExitStack() as stack:
        url = stack.enter_context(redis_server())
        content = rollcall_config(url)
        change(content)
        service = Service(folder, content)
        stack.callback(service.end)
        service.wait_until_ready()
        upstream = Upstream()
        stack.callback(upstream.close)
        relay = Relay(service.port)
        stack.callback(relay.close)
        process = stack.enter_context(running(proxy, folder, port, relay.port, upstream_port or upstream.port, edit))
        made = Deployment(proxy, port, service, upstream, relay, url)
        wait_for(lambda: made.is_up() or process.poll() is not None)
        assert process.poll() is None, (folder / "proxy.log").read_text()
        made.forget()
        yield made


@contextmanager
def running(
    proxy: Proxy,
    folder: Path,
    port: int,
    rollcall_port: int,
    api_port: int,
    edit: Callable[[str], str] = lambda text: text,
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start the proxy alone, with a copy of its example's files; end it.

    Args:
        proxy: which one.
        folder: for the copy and the log, `proxy.log`.
        port: where it is to listen.
        rollcall_port: whom it asks.
        api_port: where it passes on to.
        edit: what is to be different in each file of the example.
    """
    command = proxy.command(port)
    # Of its own under /tmp: a worker of nginx's that gave up root does not reach into pytest's folders.
    with tempfile.TemporaryDirectory(prefix="rc-", dir="/tmp") as scratch, (folder / "proxy.log").open("wb") as log:
        Path(scratch).chmod(0o711)
        ports = {8000: port, 8001: free_port(), 8080: rollcall_port, 9000: api_port}
        _copy(proxy, folder / proxy.name, Path(scratch), ports, edit)
        process = subprocess.Popen(
            command, cwd=folder / proxy.name, stdout=log, stderr=log, env={**os.environ, "HOME": str(folder)}
        )
        try:
            yield process
        finally:
            stop(process)


def _copy(proxy: Proxy, folder: Path, scratch: Path, ports: Mapping[int, int], edit: Callable[[str], str]) -> None:
    shutil.copytree(EXAMPLES / proxy.name, folder)
    for file in folder.iterdir():
        text = file.read_text().replace("/tmp/rollcall-example-nginx", str(scratch / "nginx"))
        text = text.replace(f"examples/{proxy.name}/", "")  # what is named from the top of the checkout
        for example, ours in ports.items():
            text = re.sub(rf"(127\.0\.0\.1:|http://:|port_value: ){example}\b", rf"\g<1>{ours}", text)
        file.write_text(edit(text))


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
