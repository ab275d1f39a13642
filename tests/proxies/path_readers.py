"""Servers and libraries as readers of paths: each answers which of a few zones a request target is in.

Each runs once, as a process; it is asked over a connection that is kept, so that thousands of targets take seconds.
The zones are places of an API: `/api/payments`, `/api`, `/public` and `/static`, each with all below it, and `other`.
"""

import contextlib
import http.client
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.kit import find_node, free_port, wait_for
from tests.proxies.deployment import listens, stop
from tests.proxies.versions import PROXIES

FILES = Path(__file__).parent / "readers"
TIMEOUT_S = 10
RAW = ", raw"


class Reader:
    """One way in which a server reads targets."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.is_raw = name.endswith(RAW)
        """It distinguishes `%61` and `a`, which are the same (RFC 3986, section 6.2.2.2)."""
        self._port = port
        self._connection: socket.socket | None = None

    def zones(self, method: str, target: str) -> frozenset[str]:
        """What the target reaches, in each of the reader's readings; nothing where it refuses or redirects."""
        head = f"{method} {target} HTTP/1.1\r\nhost: api.example\r\ncontent-length: 0\r\n\r\n"
        with contextlib.suppress(OSError, http.client.HTTPException):  # it has closed the kept connection
            if self._connection is not None:
                return self._ask(self._connection, head)
        self.close()
        self._connection = socket.create_connection(("127.0.0.1", self._port), timeout=TIMEOUT_S)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionResetError, http.client.BadStatusLine):  # so it refuses
            return self._ask(self._connection, head)
        self.close()
        return frozenset()

    def _ask(self, connection: socket.socket, head: str) -> frozenset[str]:
        connection.sendall(head.encode("utf-8", "surrogateescape"))
        with http.client.HTTPResponse(connection) as answer:
            answer.begin()
            body = answer.read().decode()
            if answer.will_close:
                self.close()
            return frozenset(body.split()) if answer.status == 200 else frozenset()

    def close(self) -> None:
        """Close its connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@dataclass(frozen=True)
class Program:
    """A process that is one reader, or several on a port each."""

    name: str
    readers: tuple[str, ...]
    command: Callable[[Path, list[int]], list[str] | None]
    """From a folder of its own and its ports: what starts it. None: it is not on this machine."""


def _configured(id_: str, file: str, arguments: Callable[[str], tuple[str, ...]]) -> Callable[..., list[str] | None]:
    """The command of one of the proxies, with a configuration whose ports are filled in."""

    def command(folder: Path, ports: list[int]) -> list[str] | None:
        program = PROXIES[id_].program()
        text = (FILES / file).read_text().replace("{folder}", str(folder))
        for name, port in zip(("{port}", "{second}", "{third}"), ports, strict=False):
            text = text.replace(name, str(port))
        written = folder / file
        written.write_text(text.replace("{{", "{").replace("}}", "}") if file == "nginx.conf" else text)
        return None if program is None else [program, *arguments(str(written))]

    return command


def _go(folder: Path, ports: list[int]) -> list[str] | None:
    go = shutil.which("go")
    if go is None:
        return None
    built = folder / "reader"
    environment = {"HOME": str(folder), "GOCACHE": str(folder / "cache"), "GO111MODULE": "off", "PATH": "/usr/bin:/bin"}
    subprocess.run([go, "build", "-o", str(built), str(FILES / "server.go")], check=True, env=environment, timeout=300)
    return [str(built), *map(str, ports)]


def _node(_: Path, ports: list[int]) -> list[str] | None:
    node = find_node()
    return None if node is None else [node, str(FILES / "server.js"), *map(str, ports)]


def _python(_: Path, ports: list[int]) -> list[str]:
    return [sys.executable, str(FILES / "server.py"), *map(str, ports)]


def _programs() -> Iterator[Program]:
    for one in ("nginx-1.22", "nginx-1.31"):
        readers = (one, f"{one}, slashes kept", f"{one}, decoded and read again")
        yield Program(one, readers, _configured(one, "nginx.conf", lambda file: ("-c", file)))
    for one in ("haproxy-2.6", "haproxy-2.8"):
        readers = (one + RAW, f"{one}, decoded", f"{one}, normalised")
        yield Program(one, readers, _configured(one, "haproxy.cfg", lambda file: ("-f", file)))
    for one in ("caddy-2.6", "caddy-2.11"):
        caddy = _configured(one, "Caddyfile", lambda file: ("run", "--adapter", "caddyfile", "--config", file))
        yield Program(one, (one, f"{one}, slashes merged"), caddy)
    base = str(free_port())
    envoy = _configured("envoy-1.40", "envoy.yaml", lambda file: ("-c", file, "--base-id", base, "-l", "error"))
    yield Program("envoy-1.40", ("envoy-1.40" + RAW, "envoy-1.40, normalised"), envoy)
    yield Program("go", ("Go's ServeMux", "Go's URL.Path and path.Clean"), _go)
    yield Program("node", ("Node's http, URL and posix.normalize",), _node)
    yield Program("python", ("Python's http.server and urllib", "aiohttp's router"), _python)


def _wait_until_listening(process: "subprocess.Popen[bytes]", ports: list[int]) -> None:
    wait_for(lambda: process.poll() is not None or all(map(listens, ports)))


@contextmanager
def path_readers(folder: Path) -> Iterator[Mapping[str, list[Reader]]]:
    """Start all that this machine has; end all of them.

    Args:
        folder: for configurations and logs, such that nginx's workers reach into it.

    Yields:
        The readers of each program; none where the program is missing.
    """
    with ExitStack() as stack:
        made: dict[str, list[Reader]] = {}
        for program in _programs():
            own = folder / program.name
            own.mkdir()
            ports = [free_port() for _ in program.readers]
            command = program.command(own, ports)
            made[program.name] = []
            if command is None:
                continue
            log = stack.enter_context((own / "log").open("wb"))
            process = subprocess.Popen(command, stdout=log, stderr=log, env={"HOME": str(own), "PATH": "/usr/bin:/bin"})
            stack.callback(stop, process)
            _wait_until_listening(process, ports)
            assert process.poll() is None, (own / "log").read_text()
            made[program.name] = [Reader(name, port) for name, port in zip(program.readers, ports, strict=True)]
            for reader in made[program.name]:
                stack.callback(reader.close)
        yield made
