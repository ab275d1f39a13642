"""A real Redis whose clock a test sets: a server process under libfaketime."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import redis

from service.store.connection.client import RedisAccess, TlsFiles
from tests.kit import needs, wait_for


@dataclass
class FakeClockRedis:
    """A running server, and the file that says how far its clock is from the true one."""

    url: str
    offset: Path
    client: Any

    def set_ahead(self, seconds: float) -> None:
        """Set the server's clock this far ahead of the true one (negative: behind); returns once scripts see it."""
        new = self.offset.with_suffix(".new")
        new.write_text(f"{seconds:+f}s")
        new.replace(self.offset)  # the server reads the file at each call: never a half-written one

        def is_set() -> bool:
            second, microsecond = self.client.eval("return redis.call('TIME')", 0)
            return abs(int(second) + int(microsecond) / 1e6 - time.time() - seconds) < 0.5

        wait_for(is_set)  # Valkey keeps the time of a moment ago for the next script


@cache
def _library() -> Path | None:
    found = [*Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), *Path("/usr/lib").glob("faketime/libfaketime.so.1")]
    return found[0] if found else None


@cache
def _servers() -> list[Path]:
    """The servers of wheels. Debian's own does not start under libfaketime: its jemalloc is a shared library."""
    first = Path(shutil.which("redis-server") or "/").resolve()  # where PATH names one of them, that one
    names = ("valkey-server", "redis-server")
    found = [one for name in names for one in sorted(Path(sys.prefix).rglob(name)) if os.access(one, os.X_OK)]
    return sorted((one for one in found if one.is_file()), key=lambda one: one.resolve() != first)


@contextmanager
def redis_with_a_clock() -> Iterator[FakeClockRedis]:
    """A real server on a unix socket, its clock the true one until a test sets it."""
    library = _library()
    needs("libfaketime (Debian's package faketime)", found=library is not None)
    needs("a Redis or Valkey server from a wheel", found=bool(_servers()))
    folder = Path(tempfile.mkdtemp(prefix="rc-", dir="/tmp"))
    path, offset = folder / "r.sock", folder / "offset"
    offset.write_text("+0s")
    fake = {"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(offset), "FAKETIME_NO_CACHE": "1"}
    # Only the time of day is another: with the monotonic clock faked too, a step would stop the server's event loop.
    environment = {**os.environ, **fake, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    command = [str(_servers()[0]), "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    try:
        wait_for(path.exists)
        with redis.Redis(unix_socket_path=str(path)) as client:
            yield FakeClockRedis(f"unix://{path}", offset, client)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


@asynccontextmanager
async def emptied(server: FakeClockRedis) -> AsyncIterator[RedisAccess]:
    """Access to `server`, empty and with the true clock."""
    server.set_ahead(0)
    made = RedisAccess.by_url(server.url, TlsFiles(), timeout_s=5)
    await made.client.flushall()
    yield made
    await made.close()
