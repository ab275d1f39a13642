"""What an operator's look costs with a full event stream and millions of users, and what with next to nothing.

    python -m tests.chaos.looking [--users 3000000] [--looks 300]    (make looking)

A user's page and a search that finds nothing cost at most twice as much CPU, of the service and of Redis together.
"""

import argparse
import asyncio
import sys
import urllib.parse
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis

from service.core.operator_actions import Author
from service.core.sessions import Cause
from service.store.connection.client import RedisAccess, TlsFiles
from service.store.keyspace import EVENTS_CAP, keys_of
from service.store.sessions.operator_actions import RedisOperatorActions
from tests.chaos.steady_load import serving
from tests.chaos.sweeping import fill
from tests.deployments import start_node
from tests.kit import OPERATOR, Service, wait_for

AT = "/admin/v1/tenants/acme"
LOOKS = {
    "a user's page": f"{AT}/users/somebody",
    "a user without events": f"{AT}/users/{urllib.parse.quote('nobody at all')}",
    "a search that finds nothing": f"{AT}/sessions?prefix=zzzz",
}


async def act(url: str, users: list[str]) -> None:
    """Suspend users: an event each."""
    access = RedisAccess.by_url(url, TlsFiles(), timeout_s=10)
    await RedisOperatorActions(access.client).act("acme", users, Cause.SUSPEND, Author("root"))
    await access.close()


def cpu_ms(pid: int) -> float:
    """CPU of a process, all threads, in milliseconds; to the nanosecond, unlike /proc/PID/stat."""
    return sum(int(one.read_text().split()[0]) for one in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e6


def cost_of(service: Service, node: Any, path: str, looks: int) -> tuple[float, float]:
    """CPU of the service and of Redis of one look, in milliseconds."""
    before = cpu_ms(service.process.pid), cpu_ms(node.process.pid)
    done = 0
    while done < looks:
        status = service.get(path, OPERATOR).status
        assert status in (200, 404, 503), status
        done += status != 503  # a machine under load may be late; what it costs is counted all the same
    after = cpu_ms(service.process.pid), cpu_ms(node.process.pid)
    return (after[0] - before[0]) / looks, (after[1] - before[1]) / looks


def measure(users: int, events: int, looks: int) -> dict[str, tuple[float, float]]:
    """The cost of each look, with so many users and so many events of others."""
    with ExitStack() as stack:
        node = start_node(stack, "--save", "", "--appendonly", "no")
        url = f"redis://127.0.0.1:{node.port}"
        client: Any = redis.Redis(port=node.port)
        fill(client, users, 0)
        service = stack.enter_context(serving(url, ["acme"]))
        wait_for(lambda: client.exists("rc:adopted"))  # at its first start the service reads all keys once
        asyncio.run(act(url, ["somebody", *(f"user-{number}" for number in range(events))]))
        assert client.xlen(keys_of("acme").events) >= events
        for path in LOOKS.values():
            cost_of(service, node, path, 50)
        return {name: cost_of(service, node, path, looks) for name, path in LOOKS.items()}


def main() -> int:
    """Measure it, print it, and return 1 where a look costs more than twice as much."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--users", type=int, default=3_000_000)
    parser.add_argument("--looks", type=int, default=300)
    chosen = parser.parse_args()
    little = measure(1000, 0, chosen.looks)
    much = measure(chosen.users, EVENTS_CAP, chosen.looks)
    worst = max(sum(much[name]) / sum(little[name]) for name in LOOKS)
    for name in LOOKS:
        for part, (few, many) in zip(("the service", "Redis"), zip(little[name], much[name], strict=True), strict=True):
            line = f"{name}: {few:.2f} ms of {part}'s CPU with 1,000 users and no events of others, {many:.2f} ms "
            sys.stdout.write(f"{line}with {chosen.users:,} users and a full stream ({many / few:.2f} times)\n")
    sys.stdout.write(f"at most {worst:.2f} times together\n")
    return int(worst > 2)


if __name__ == "__main__":
    sys.exit(main())
