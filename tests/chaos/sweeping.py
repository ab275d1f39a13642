"""Many users are due in the same second: how long the sweep takes, and what admissions wait meanwhile.

    python -m tests.chaos.sweeping [--users 300000] [--due 50000] [--rate 300]

The sweep has to keep the pace of 500,000 users in 60 seconds, and the p99 of admissions has to stay within twice the
usual.
"""

import argparse
import asyncio
import multiprocessing
import random
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis

from service.core.limits import Limit, Per
from service.store.admissions.batcher import Admissions, SessionRules
from service.store.connection.client import RedisAccess, TlsFiles
from service.store.keyspace import keys_of
from service.store.sessions.expiry_sweep import Sweeper, SweepRules
from tests.deployments import start_node
from tests.store.making import ask_about, now_ms

PACE = 500_000 / 60
"""Users a second."""
USUAL_S = 8.0
ACTIVE = 1000
LIMIT = Limit("some", Per.IP, 1000, 60)


def fill(client: Any, users: int, due: int) -> None:
    """Write so many logged-in users, of whom some are due; as admissions would have written them."""
    keys, now, random_ = keys_of("acme"), now_ms(), random.Random(1)
    logged_in = next(key for status, key in keys.by_status.items() if status.value == "logged_in")
    pipeline = client.pipeline(transaction=False)
    for number in range(users):
        user = f"{random_.getrandbits(100):026x}"
        seen, expires = now - random_.randrange(3_600_000), now - 1000 if number < due else now + 3_600_000 + number
        pipeline.set(keys.user(user), f"i- {seen} {seen} {expires}")
        pipeline.zadd(logged_in, {user: seen})
        pipeline.zadd(keys.expiring, {user: expires})
        if number % 5000 == 4999:
            pipeline.execute()
    pipeline.execute()


async def admit(url: str, rate: int, until_s: float) -> list[tuple[float, float]]:
    """Ask at a steady rate. Returns when each was asked, and how long it took, in seconds."""
    access = RedisAccess.by_url(url, TlsFiles())
    router = access.router(timeout_s=5)
    await router.open()
    admissions, took = Admissions(router, SessionRules(60_000, 0)), []
    ends = now_ms() + 10_000_000
    questions = [
        ask_about(f"u{n}", limits=[LIMIT], client=f"10.0.{n // 250}.{n % 250}", expires_ms=ends) for n in range(ACTIVE)
    ]

    async def ask(number: int) -> None:
        began = time.time()
        await admissions.ask(questions[number % ACTIVE])
        took.append((began, time.time() - began))

    asked, number, begins = set(), 0, time.time()
    while time.time() < until_s:
        while number < (time.time() - begins) * rate:
            asked.add(task := asyncio.create_task(ask(number)))
            task.add_done_callback(asked.discard)
            number += 1
        await asyncio.sleep(0.001)
    await asyncio.gather(*asked)
    await admissions.close()
    await router.close()
    await access.close()
    return took


def _admit(url: str, rate: int, until: Any, answers: Any) -> None:
    async def run() -> list[tuple[float, float]]:
        took: list[tuple[float, float]] = []
        while not until.is_set():
            took += await admit(url, rate, time.time() + 1)
        return took

    answers.put(asyncio.run(run()))


async def sweep(url: str) -> int:
    """Sweep all that is due; returns how many expired."""
    access = RedisAccess.by_url(url, TlsFiles())
    swept = await Sweeper(access.client, lambda: SweepRules({"acme": 0}, 86_400_000)).sweep()
    await access.close()
    return swept.expired


def p99_ms(took: list[float]) -> float:
    return sorted(took)[len(took) * 99 // 100] * 1000


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def main() -> int:
    """Measure it, print it, and return 1 where the sweep is too slow or admissions wait too long."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--users", type=int, default=300_000)
    parser.add_argument("--due", type=int, default=50_000)
    parser.add_argument("--rate", type=int, default=300, help="admissions a second meanwhile")
    chosen = parser.parse_args()
    with ExitStack() as stack:
        node = start_node(stack, "--save", "", "--appendonly", "no")
        client: Any = redis.Redis(port=node.port)
        fill(client, chosen.users, chosen.due)
        url = f"redis://127.0.0.1:{node.port}"
        done = multiprocessing.Event()
        answers: Any = multiprocessing.Queue()
        asking = multiprocessing.Process(target=_admit, args=(url, chosen.rate, done, answers))
        asking.start()
        time.sleep(2)  # until every user has been seen
        usual_from = time.time()
        time.sleep(USUAL_S)
        began, before = time.time(), cpu_s(node.process.pid)
        expired = asyncio.run(sweep(url))
        ended, after = time.time(), cpu_s(node.process.pid)
        done.set()
        took: list[tuple[float, float]] = answers.get(timeout=60)
        asking.join()
        size_mb = client.info("memory")["used_memory"] / 2**20
    usual = [one for at, one in took if usual_from <= at < began]
    meanwhile = [one for at, one in took if began <= at < ended]
    of_admissions_us = 40 * chosen.rate * (ended - began)
    each_us = ((after - before) * 1e6 - of_admissions_us) / expired
    pace = expired / (ended - began)
    lines = (
        f"{expired:,} of {chosen.users:,} users ({size_mb:,.0f} MB): {ended - began:.1f} s, {pace:,.0f} a second",
        f"about {each_us:.0f} µs of Redis's CPU each",
        f"p99 of {len(usual)} admissions: {p99_ms(usual):.2f} ms; "
        f"of {len(meanwhile)} meanwhile: {p99_ms(meanwhile):.2f} ms",
    )
    sys.stdout.write("\n".join(lines) + "\n")
    slow, waits = pace < PACE, p99_ms(meanwhile) > 2 * p99_ms(usual)
    return int(slow or waits or expired != chosen.due)


if __name__ == "__main__":
    sys.exit(main())
