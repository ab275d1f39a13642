"""Whatever is sent to the port: no 500, no hang, nothing echoed, nothing left behind.

A real process, its own Redis, and raw bytes. `FUZZ_REQUESTS` says how many requests (20,000), `FUZZ_SEED` which; each
connection has its own chance, so one that failed is made again by its seed and number, whatever came before it.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from service.web.server.http_server import HEADER_DEADLINE_S
from tests.fuzz.bounds import REQUESTS, SEED
from tests.fuzz.conftest import complaints
from tests.fuzz.making import Known, Maker
from tests.fuzz.raw_http import NotHttp, Outcome, Plan, answers_in, converse
from tests.kit import OTHER_SECRET, OTHER_TENANT_TOKEN, Service, credentials, wait_for

AT_ONCE = 48
"""Connections."""
TOGETHER = 8
"""Pipelined requests."""
PATIENCE_S = HEADER_DEADLINE_S + 3
WARM = 8_000
"""Requests, before what the service holds is looked at the first time: by then its caches have begun to fill."""
MOST_GROWTH_MIB = 64
"""Of its memory, from warm to the end. What is bounded may still grow to its bound: verified tokens (32 MiB), addresses
as they were sent, refusals; and the allocator keeps what the largest bodies took. A leak of 1 KiB a request is 100 MiB
in 100,000, and fails."""
MOST_WAYS = AT_ONCE
"""More descriptors than when it was warm: what listens and lists takes ways to Redis from a pool, which keeps as many
as were ever needed at once."""
LAST = b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
OVER = {"06", "0A"}
"""States of sockets in the kernel's files: TIME_WAIT, and LISTEN."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.real_redis,
    pytest.mark.alone,
    pytest.mark.timeout(120 + REQUESTS / 300),
]


def planned(number: int, known: Known) -> tuple[Plan, int]:
    """What the connection of this number does, and how many requests that is."""
    random = Random(f"{SEED}/{number}")
    maker = Maker(random, known, f"f{number}")
    kind = random.random()
    requests = [maker.gentle() for _ in range(random.randrange(8, 40) if kind < 0.9 else random.randrange(3))]
    fierce = [maker.fierce() for _ in range(random.choice((0, 1, 1, 1, 2)))]
    if kind > 0.98:
        return Plan([b"".join([*requests[:2], maker.listening()])], "listen"), 1 + len(requests[:2])
    many = max(1, len(requests) + len(fierce))
    ending = random.choice(("half", "abort", "abort")) if 0.85 < kind < 0.93 else "wait"
    end = b"".join([*fierce, LAST] if random.random() < 0.9 else fierce)
    patience_s = PATIENCE_S if random.random() < 0.1 else None
    if random.random() < 0.1:
        sent = b"".join(requests) + end
        cuts = sorted(random.randrange(len(sent) + 1) for _ in range(random.randrange(1, 60)))
        pieces = [sent[one:other] for one, other in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
        return Plan(pieces, ending, patience_s=patience_s), many
    groups = [b"".join(requests[at : at + TOGETHER]) for at in range(0, len(requests), TOGETHER)]
    return Plan([*groups, end], ending, paced=True, patience_s=patience_s), many


@dataclass
class Tally:
    """What came back so far."""

    sent: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    stuck: int = 0
    failures: list[str] = field(default_factory=list)

    def take(self, number: int, plan: Plan, reported: Outcome) -> None:
        """Count a connection, or keep what was wrong with it."""
        try:
            answers = answers_in(reported.data, whole=not reported.reset)
        except NotHttp as error:
            self.fail(number, plan, str(error))
            return
        self.answers.update(answer.status for answer in answers)
        self.stuck += reported.stuck
        if reported.left_open and (plan.patience_s is None or not answers):
            self.fail(number, plan, f"it was left open, after {len(answers)} answers")

    def fail(self, number: int, plan: Plan, why: str) -> None:
        """Return what was wrong, with all that is needed to repeat it."""
        whose = re.search(r"x-request-id: (f\d+-\d+)", why)
        sent = b"".join(plan.pieces)
        at = max(0, sent.find(whose[1].encode() + b"\r\n") - 300) if whose else max(0, len(sent) - 3000)
        self.failures.append(f"FUZZ_SEED={SEED} connection {number}: {why}\n  of {sent[at : at + 3000]!r}")

    def __str__(self) -> str:
        return f"seed {SEED}: {self.sent} requests, {dict(self.answers)}, {self.stuck} stuck"


async def send(port: int, known: Known, numbers: Iterator[int], tally: Tally, upto: int) -> None:
    """Keep so many connections busy until `upto` requests were sent."""

    async def work() -> None:
        while tally.sent < upto and len(tally.failures) < 20:
            number = next(numbers)
            plan, many = planned(number, known)
            tally.sent += many
            tally.take(number, plan, await converse(port, plan))

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


def held_by(service: Service) -> tuple[float, int]:
    """Memory (MiB) and descriptors of the process."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    resident = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert resident is not None
    return int(resident[1]) / 1024, len(list(Path(f"/proc/{service.process.pid}/fd").iterdir()))


def connections_to(service: Service) -> list[str]:
    """Those that are not over, from either end."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ours = f":{service.port:04X}"
    return [one[3] for one in lines if (one[1].endswith(ours) or one[2].endswith(ours)) and one[3] not in OVER]


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="without /proc there is no telling what a process holds")
def test_whatever_is_sent_the_service_answers_in_http_and_is_as_well_as_before(service: Service, known: Known) -> None:
    tally, numbers = Tally(), iter(range(10**9))
    asyncio.run(send(service.port, known, numbers, tally, min(WARM, REQUESTS // 2)))
    warm_mib, warm_descriptors = held_by(service)
    asyncio.run(send(service.port, known, numbers, tally, REQUESTS))
    assert not tally.failures, "\n".join([f"{len(tally.failures)} connections, among them:", *tally.failures[:5]])
    assert service.process.poll() is None, f"it ended; {tally}\n{service.log_text[-5000:]}"
    # A connection that aiohttp has closes with the first hot operation on it; what came behind is not read.
    assert tally.answers.total() > tally.sent * 0.5, f"most of what is sent should be read; {tally}"
    assert tally.answers[200] > tally.sent * 0.1, f"much of it should get past the doors; {tally}"

    asked_at = time.monotonic()
    headers = credentials("good", secret=OTHER_SECRET, tenant_token=OTHER_TENANT_TOKEN)
    assert service.get("/auth/status", headers).status == 200
    assert time.monotonic() - asked_at < 1
    wait_for(lambda: not connections_to(service))
    mib, descriptors = held_by(service)
    assert descriptors <= warm_descriptors + MOST_WAYS, f"{warm_descriptors} when warm; {tally}"
    assert mib < warm_mib + MOST_GROWTH_MIB, f"{warm_mib:.0f} MiB when warm; {tally}"
    assert not complaints(service), f"{tally}"
