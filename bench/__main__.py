"""What a request costs, beside bare aiohttp, on this machine: `make bench`.

Server CPU microseconds per request (user + system, of the server's process alone) in interleaved rounds, the
median told. That is steadier than requests per second, which depend on what else the machine does. Further
rows (other stacks, growth, a refused request) come with the issue that makes the path short.
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jwt

from service.store import embedded

ROOT = Path(__file__).parent.parent
SECRET = "a-secret-of-32-bytes-for-the-bench!!"
TENANT_TOKEN = "bench-tenant-token"
CONNECTIONS = 64
TICK_S = 1 / os.sysconf("SC_CLK_TCK")

BARE = """
import sys, uvloop
from aiohttp import web
async def answer(request): return web.json_response({"ok": True})
app = web.Application(); app.router.add_get("/auth/status", answer)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None, loop=uvloop.new_event_loop())
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


@contextmanager
def running(command: list[str], port: int) -> Iterator[int]:
    """A server process, pinned to the first core; yields its process id once it listens."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})
    deadline = time.monotonic() + 20
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"does not listen: {command}")
        time.sleep(0.05)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(20)


async def load(port: int, requests: int) -> None:
    """Ask over keep-alive connections, one request at a time each; every answer must be 200."""
    claims = {"sub": "user", "exp": int(time.time()) + 3600}
    token = jwt.encode(claims, SECRET, algorithm="HS256", headers={"kid": "k"})
    headers = f"host: bench\r\nx-tenant-token: {TENANT_TOKEN}\r\nx-token: {token}\r\n"
    raw = f"GET /auth/status HTTP/1.1\r\n{headers}\r\n".encode()

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(requests // CONNECTIONS):
            writer.write(raw)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(head.decode())
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
        writer.close()

    await asyncio.gather(*(one() for _ in range(CONNECTIONS)))


def measure(pid: int, port: int, requests: int) -> tuple[float, float]:
    """Server CPU µs per request, and requests per second."""
    asyncio.run(load(port, CONNECTIONS * 10))  # warm
    before, began = cpu_s(pid), time.perf_counter()
    asyncio.run(load(port, requests))
    return (cpu_s(pid) - before) / requests * 1e6, requests / (time.perf_counter() - began)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=20_000)
    options = parser.parse_args()
    if embedded.find_server() is None:
        print("a Redis server is needed: install redis-server")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        bare_port, own_port = free_port(), free_port()
        config = {
            "server": {"port": own_port},
            # An exact window that never refuses here.
            "limits": {"status": [{"name": "status-ip", "per": "ip", "requests": 10_000_000, "window": 1}]},
            "tenants": {
                "bench": {"token": TENANT_TOKEN, "jwt": {"keys": [{"kid": "k", "alg": "HS256", "secret": SECRET}]}}
            },
        }
        path = Path(folder) / "config.yaml"
        path.write_text(json.dumps(config))
        commands = {
            "bare aiohttp, a constant answer": ([sys.executable, "-c", BARE, str(bare_port)], bare_port),
            "Rollcall, /auth/status": ([sys.executable, "-m", "service", "--config", str(path)], own_port),
        }
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(options.rounds):
            for name, (command, port) in commands.items():
                with running(command, port) as pid:
                    results[name].append(measure(pid, port, options.requests))
        base = statistics.median(cpu for cpu, _ in results["bare aiohttp, a constant answer"])
        print(f"{'':36}{'CPU µs/request':>16}{'against bare':>14}{'requests/s':>12}")
        for name, rounds in results.items():
            cpu = statistics.median(cpu for cpu, _ in rounds)
            rate = statistics.median(rate for _, rate in rounds)
            print(f"{name:36}{cpu:16.1f}{cpu / base:14.2f}{rate:12.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
