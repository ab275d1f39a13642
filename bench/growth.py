"""What more known users, and fuller windows, cost: CPU per request, Redis's memory per user and per window."""

import asyncio
import random
import string
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing import Process
from pathlib import Path
from statistics import median

import redis

from bench import load
from bench.servers import HUGE, Operator, Row, asking, cpu_s, redis_beside, rollcall, running
from service.core.admission import Question, Terms
from service.core.limits import Limit, Per
from service.core.tokens.claims import Identity
from service.store.admissions.batcher import Admissions, SessionRules
from service.store.connection.client import RedisAccess, TlsFiles
from service.store.keyspace import NAMES

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

    users: list[tuple[int, float, float, float, float]]
    """Known users, server CPU µs per request, that to the fewest users', Redis CPU µs, Redis's bytes per user."""
    pages: list[tuple[int, dict[str, float]]]
    """Known users, and for each page that an operator looks at: ms until it is answered, the median."""
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
    ways = access.router(timeout_s=30)
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


PAGES = {
    "API: newest sessions": "/admin/v1/tenants/bench/sessions",
    "API: of one status": "/admin/v1/tenants/bench/sessions?status=logged_in",
    "API: counts": "/admin/v1/tenants/bench",
    "dashboard: overview": "/dashboard?tenant=bench",
}
LOOKS = 60


def _pages(port: int) -> dict[str, float]:
    """How long each page takes, in ms."""
    ask = Operator(port)
    found = {}
    for name, path in PAGES.items():
        took = []
        for _ in range(LOOKS):
            began = time.perf_counter()
            ask(path)
            took.append((time.perf_counter() - began) * 1000)
        found[name] = median(took)
    return found


def _one_of(raws: list[bytes], number: int) -> bytes:
    return raws[number % len(raws)]


def _fill(port: int, count: int) -> None:
    """Make so many users known, in a process of its own: this one stays as lean as it was."""
    terms = Terms("bench", "status", capabilities=("status",))
    chunk = 50_000
    for start in range(0, count, chunk):
        users = (Identity("bench", user, EXPIRES_MS, None) for user in names(min(count, start + chunk), start))
        asyncio.run(_ask(port, [Question(terms, "10.0.0.1", "r", user) for user in users]))


def _wait_until_adopted(port: int) -> None:
    """Wait until the first start has looked through all keys for what an earlier version kept. No later one does."""
    while not redis.Redis(port=port).exists(NAMES.adopted):
        time.sleep(0.1)


def measure(folder: Path, port: int, most: int) -> Growth:
    """Ask about as many active users among more and more known ones, each in a Redis of its own, interleaved."""
    windows = [(entries, _windows(port, entries)) for entries in (1, 10, 30, 100)]
    steps = [one for one in STEPS if one <= most]
    with ExitStack() as stack:
        places = {}
        for step in steps:
            pid, own = stack.enter_context(redis_beside(folder))
            empty = _memory(own)
            filling = Process(target=_fill, args=(own, step))
            filling.start()
            filling.join()
            active = random.Random(step).sample(range(step), ACTIVE)
            raws = [asking("/auth/status", names(number + 1, number)[0]) for number in active]
            command = rollcall(folder, f"growth{step}", own, limits={"status": HUGE, "admin": HUGE})
            row = Row("growth", command, partial(_one_of, raws))
            places[step] = (pid, row, (_memory(own) - empty) / step)
            with running(row):
                _wait_until_adopted(own)
        pages = []
        for step, (_, row, _) in places.items():
            with running(row) as server:
                pages.append((step, _pages(server.port)))
        cpu: dict[int, list[float]] = {step: [] for step in steps}
        redis_cpu: dict[int, list[float]] = {step: [] for step in steps}
        for _ in range(ROUNDS):
            for step, (pid, row, _) in places.items():
                with running(row) as server:
                    load.run(server.port, row.requests, 3 * ACTIVE)
                    before, redis_before = cpu_s(*server.pids), cpu_s(pid)
                    load.run(server.port, row.requests, REQUESTS)
                    cpu[step].append((cpu_s(*server.pids) - before) / REQUESTS * 1e6)
                    redis_cpu[step].append((cpu_s(pid) - redis_before) / REQUESTS * 1e6)
    ratio = {step: median(one / few for one, few in zip(cpu[step], cpu[steps[0]], strict=True)) for step in steps}
    users = [(step, median(cpu[step]), ratio[step], median(redis_cpu[step]), places[step][2]) for step in steps]
    return Growth(users, pages, windows)


def table(growth: Growth) -> str:
    lines = [
        "| known users | CPU µs/request | to 1,000 | Redis µs/request | Redis bytes/user |",
        "|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {users:,} | {cpu:.1f} | {ratio:.2f} | {own:.1f} | {size:.0f} |"
        for users, cpu, ratio, own, size in growth.users
    ]
    names = list(PAGES)
    lines += ["", f"| known users | {' | '.join(f'{name}, ms' for name in names)} |", "|---:" * (len(names) + 1) + "|"]
    lines += [f"| {users:,} | {' | '.join(f'{took[name]:.1f}' for name in names)} |" for users, took in growth.pages]
    lines += ["", "| admitted in a window | Redis bytes of the window, key included |", "|---:|---:|"]
    lines += [f"| {entries} | {size:.0f} |" for entries, size in growth.windows]
    return "\n".join(lines)
