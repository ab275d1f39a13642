"""What more known users, and fuller windows, cost: CPU per request, Redis's memory per user and per window."""

import asyncio
import random
import string
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import redis

from bench import load
from bench.servers import HUGE, Row, asking, cpu_s, rollcall, running
from service.core.admission import Question, Terms
from service.core.limits import Limit, Per
from service.core.tokens import Identity
from service.store.admissions import Admissions, SessionRules
from service.store.connection import RedisAccess, TlsFiles

STEPS = (1_000, 100_000, 1_000_000)
ACTIVE = 1_000
"""So many of the known users are asked about in each round."""
ROUNDS = 5
REQUESTS = 12_000
EXPIRES_MS = 4_000_000_000_000
WINDOWS = 2_000


@dataclass
class Growth:
    """What was measured at each step, and for windows of each size."""

    users: list[tuple[int, float, float, float]]
    """Known users, server CPU µs and Redis CPU µs per request, Redis's bytes per user."""
    windows: list[tuple[int, float]]
    """Admitted requests in an exact window, Redis's bytes of the window, its key included."""


def flush(port: int) -> None:
    redis.Redis(port=port).flushall()


def _memory(port: int) -> int:
    return int(redis.Redis(port=port).info("memory")["used_memory"])


def names(count: int, start: int = 0) -> list[str]:
    """User ids of 26 characters, the same each time."""
    return [
        "".join(random.Random(n).choices(string.ascii_uppercase + string.digits, k=26)) for n in range(start, count)
    ]


async def _ask(port: int, questions: list[Question]) -> None:
    access = RedisAccess.by_url(f"redis://127.0.0.1:{port}", TlsFiles())
    ways = access.ways(timeout_s=30)
    admissions = Admissions(ways, SessionRules(60_000, 0))
    for at in range(0, len(questions), 2000):
        await asyncio.gather(*(admissions.ask(one) for one in questions[at : at + 2000]))
    await admissions.close()
    await ways.close()
    await access.close()


def _windows(port: int, entries: int) -> float:
    """Bytes of a window with so many entries, its key included."""
    flush(port)
    before = _memory(port)
    terms = Terms("bench", "status", (Limit("status-ip", Per.IP, 1000, 3600),))
    one = [Question(terms, f"10.0.{n >> 8}.{n & 255}", "r") for n in range(WINDOWS)]
    for _ in range(entries):
        asyncio.run(_ask(port, one))
    return (_memory(port) - before) / WINDOWS


def _one_of(raws: list[bytes], number: int) -> bytes:
    return raws[number % len(raws)]


def measure(folder: Path, redis_pid: int, port: int, most: int) -> Growth:
    """Fill Redis step by step, asking about the same number of active users at each."""
    windows = [(entries, _windows(port, entries)) for entries in (1, 10, 30, 100)]
    flush(port)
    empty, known, found = _memory(port), 0, []
    terms = Terms("bench", "status", capabilities=("status",))
    for step in (one for one in STEPS if one <= most):
        more = [
            Question(terms, "10.0.0.1", "r", Identity("bench", user, EXPIRES_MS, None)) for user in names(step, known)
        ]
        asyncio.run(_ask(port, more))
        known = step
        per_user = (_memory(port) - empty) / step
        chosen = random.Random(step).sample(range(step), ACTIVE)
        raws = [asking("/auth/status", names(n + 1, n)[0]) for n in chosen]
        row = Row(
            "growth", rollcall(folder, "growth", port, limits={"status": HUGE}), lambda n, raws=raws: raws[n % ACTIVE]
        )  # type: ignore[misc]
        cpu, redis_cpu = [], []
        with running(row) as server:
            load.run(server.port, row.requests, 3 * ACTIVE)
            for _ in range(ROUNDS):
                before, redis_before = cpu_s(*server.pids), cpu_s(redis_pid)
                load.run(server.port, row.requests, REQUESTS)
                cpu.append((cpu_s(*server.pids) - before) / REQUESTS * 1e6)
                redis_cpu.append((cpu_s(redis_pid) - redis_before) / REQUESTS * 1e6)
        found.append((step, median(cpu), median(redis_cpu), per_user))
    return Growth(found, windows)


def table(growth: Growth) -> str:
    lines = ["| known users | CPU µs/request | Redis µs/request | Redis bytes/user |", "|---:|---:|---:|---:|"]
    lines += [f"| {users:,} | {cpu:.1f} | {own:.1f} | {size:.0f} |" for users, cpu, own, size in growth.users]
    lines += ["", "| admitted in a window | Redis bytes of the window, key included |", "|---:|---:|"]
    lines += [f"| {entries} | {size:.0f} |" for entries, size in growth.windows]
    return "\n".join(lines)
