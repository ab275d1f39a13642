"""A steady load, for as long as `SOAK_S` says: memory, descriptors and Redis's keys stay what they are.

A minute in `make test`; `make soak` is an hour.
"""

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.chaos.faults import Server
from tests.chaos.test_crowds import Hearing, rss_mib
from tests.kit import OPERATOR, Service, config, credentials

SOAK_S = float(os.environ.get("SOAK_S", "60"))
pytestmark = [pytest.mark.slow, pytest.mark.real_redis, pytest.mark.timeout(SOAK_S + 120)]
USERS = 500
RATE = 250
"""Requests a second: well below what there is room for."""
ASKED = ("/auth/status", "/auth/verify", "/auth/logout", "/auth/status", "/nowhere", "/dashboard")


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def test_a_steady_load_leaves_memory_descriptors_and_keys_as_they_are(start: Callable[..., Service]) -> None:
    server = await asyncio.to_thread(Server, "everysec")
    limits: dict[str, Any] = {
        "logout": [{"name": "logout-user", "per": "user", "requests": 20, "window": 20}],
        "status": [{"name": "status-ip", "per": "ip", "requests": 1500, "window": 10}],
        "admin": [],
    }
    content = config(redis={"url": f"unix://{server.path}", "timeout": 2}, limits=limits)
    service = await asyncio.to_thread(lambda: start(content).wait_until_ready())
    pid, rng = service.process.pid, random.Random(1)
    people = [credentials(f"user-{number}", ttl_s=SOAK_S + 60) for number in range(USERS)]
    answers, hearing = Counter[int](), Hearing()

    async with aiohttp.ClientSession(f"http://127.0.0.1:{service.port}") as session:

        async def ask(path: str, headers: dict[str, str]) -> None:
            async with session.get(path, headers=headers, allow_redirects=False) as answer:
                await answer.read()
                answers[answer.status] += 1

        async def act() -> None:
            user = f"user-{rng.randrange(USERS)}"
            for name in ("suspend", "reinstate"):
                await session.post(f"/admin/v1/tenants/acme/users/{user}/{name}", headers=OPERATOR)

        listening = asyncio.create_task(hearing.listen(session))
        began = time.monotonic()
        looks: list[tuple[float, int, int]] = []
        while (passed := time.monotonic() - began) < SOAK_S:
            batch = [ask(rng.choice(ASKED), rng.choice(people)) for _ in range(RATE // 5)]
            await asyncio.gather(*batch, act())
            if passed > len(looks) * SOAK_S / 20:
                looks.append((rss_mib(pid), descriptors(pid), server.client.dbsize()))
            await asyncio.sleep(max(0, 0.2 - (time.monotonic() - began - passed)))
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    early, late = looks[len(looks) // 3 : len(looks) // 2], looks[-5:]
    memory, files, keys = ([max(look[of] for look in some) for some in (early, late)] for of in range(3))
    assert set(answers) <= {200, 303, 403, 404, 429}, answers
    assert memory[1] < memory[0] * 1.05 + 4, "resident memory, in MiB"
    assert files[1] <= files[0] + 5, "open descriptors"
    assert keys[1] <= keys[0] + 50, "keys: a window or two come and go"
    assert hearing.users, "somebody listened all the while"
    assert '"level": "error"' not in service.log_text
    await asyncio.to_thread(service.end)
    await asyncio.to_thread(server.close)
