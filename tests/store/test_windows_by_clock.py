"""Limits on a real server whose clock is set forward and back, changed by operators and reloads while it goes on.

`CLOCK_SEQUENCES` says how many random sequences are played (`make windows`: 500), `WINDOW_SEED` where they begin.
"""

import asyncio
import os
import random
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from service.core.admission import Admission, Question, Terms
from service.core.limits import Limit, Per
from service.core.operator_actions import Author
from service.store.admissions.batcher import Admissions, SessionRules
from service.store.connection.client import RedisAccess, TlsFiles
from service.store.sessions.operator_actions import RedisOperatorActions
from service.web.api.rate_limit_headers import limit_lines
from tests.faketime import FakeClockRedis, redis_with_a_clock

pytestmark = pytest.mark.real_redis
SEQUENCES, SEED = int(os.environ.get("CLOCK_SEQUENCES", "40")), int(os.environ.get("WINDOW_SEED", "0"))
BY = Author("root")
REQUESTS, WINDOWS_S = (1, 2, 3, 5, 1001, 10_000), (2, 10, 60, 3600, 86_400)
HEADERS = re.compile(r'RateLimit: "some";r=(-?\d+);t=(-?\d+)\r\n')
RETRY = re.compile(r"Retry-After: (-?\d+)\r\n")
SLACK_S = 0.1
"""The server's scripts may see the time of a moment ago."""


@dataclass
class Moment:
    """Between when something happened at the earliest and at the latest, by the server's clock."""

    low: float
    high: float


class Client:
    """One client's requests under one limit."""

    def __init__(self, server: FakeClockRedis, admissions: Admissions, acts: RedisOperatorActions, seed: int) -> None:
        self.server, self.admissions, self.actions = server, admissions, acts
        self.rng, self.client, self.tenant = random.Random(seed), f"10.0.{seed}", f"t{seed}"
        self.offset_s = 0.0
        self.override: tuple[int, int] | None = None
        self.admitted: list[Moment] = []
        self.answers = 0
        self.log = [f"seed {seed}"]
        self.configure()

    @property
    def held(self) -> tuple[int, int]:
        return self.override or (self.configured.requests, self.configured.window_s)

    @property
    def kept_s(self) -> int:
        return max(self.held[1], self.configured.window_s)

    def _now(self) -> float:
        return time.time() + self.offset_s

    def _forget(self) -> None:
        now, kept_s = self._now(), self.kept_s
        self.admitted = [one for one in self.admitted if one.low + kept_s > now]

    def configure(self) -> None:
        self.configured = Limit("some", Per.IP, self.rng.choice(REQUESTS), self.rng.choice(WINDOWS_S))
        self.terms = Terms(self.tenant, "some", (self.configured,))

    async def play(self, steps: int) -> None:
        for _ in range(steps):
            acts = [self.ask, self.advance, self.step_back, self.reload, self.set, self.lift]
            await self.rng.choices(acts, [45, 20, 8, 8, 12, 7])[0]()
        if self.override:
            await self.lift()

    async def ask(self) -> None:
        self._forget()
        began = self._now() - SLACK_S
        asked = [Question(self.terms, self.client, "r") for _ in range(self.rng.choice([1, 1, 2, 4]))]
        answers = await asyncio.gather(*map(self.admissions.ask, asked))
        at = Moment(began, self._now())
        requests, window_s = self.held
        reported = [(one.limit_states[0].used, one.limit_states[0].reset_us, one.refused) for one in answers]
        self.log.append(f"{began:.3f}: {requests} in {window_s} s: {reported}")
        self.admitted = [Moment(min(one.low, at.low), min(one.high, at.high)) for one in self.admitted]
        self.answers += len(answers)
        for answer in answers:
            counting = sum(one.low + window_s > at.high for one in self.admitted)
            if not answer.refused:
                assert counting < requests, self._told("over")
                self.admitted.append(at)
                counting += 1
            self._hold_headers(answer, counting)
        if answers[-1].refused and self.rng.random() < 0.5:
            await self._wait_as_announced(answers[-1])

    def _hold_headers(self, answer: Admission, counting: int) -> None:
        requests, window_s = self.held
        lines = limit_lines(answer, 429 if answer.refused else 200)
        found = HEADERS.search(lines)
        assert found is not None
        remaining, reset_s = map(int, found.groups())
        assert 0 <= remaining <= max(0, requests - counting), self._told(lines)
        assert 0 < reset_s <= window_s * 1.02 + 2, self._told(lines)

    async def _wait_as_announced(self, answer: Admission) -> None:
        reported = RETRY.search(limit_lines(answer, 429))
        assert reported is not None
        self._set_clock(self.offset_s + int(reported[1]))
        self._forget()
        began = self._now() - SLACK_S
        again = await self.admissions.ask(Question(self.terms, self.client, "r"))
        assert not again.refused, self._told(f"refused after {reported[1]} s")
        self.admitted.append(Moment(began, self._now()))

    def _told(self, what: str) -> str:
        return "\n".join([*self.log, what])

    def _set_clock(self, offset_s: float) -> None:
        self.log.append(f"{self._now():.3f}: the clock is set by {offset_s - self.offset_s} s")
        self.server.set_ahead(offset_s)
        self.offset_s = offset_s

    async def advance(self) -> None:
        window_s = self.held[1]
        self._set_clock(
            self.offset_s + self.rng.choice([1, window_s // 2, window_s + 1, 2 * window_s, self.kept_s + 30])
        )
        self._forget()

    async def step_back(self) -> None:
        window_s = self.held[1]
        self._set_clock(self.offset_s - self.rng.choice([1, window_s // 2, window_s, 4000, 20 * 86_400]))

    async def reload(self) -> None:
        self._forget()
        kept_s = self.kept_s
        self.configure()
        self.log.append(f"{self._now():.3f}: configured {self.configured}")
        if self.kept_s > kept_s:
            await self.actions.retention.extend({(self.tenant, "some"): self.kept_s})

    async def set(self) -> None:
        self._forget()
        to = self.rng.choice(REQUESTS), self.rng.choice(WINDOWS_S)
        await self.actions.set_limit(self.tenant, self.configured, *to, BY)
        self.override = to
        self.log.append(f"{self._now():.3f}: set {to}")

    async def lift(self) -> None:
        self._forget()
        kept_s = self.kept_s
        await self.actions.unset_limit(self.tenant, "some", self.configured, BY)
        self.override = None
        assert self.kept_s <= kept_s


@pytest.fixture(scope="module")
def server() -> Iterator[FakeClockRedis]:
    with redis_with_a_clock() as started:
        yield started


async def play(server: FakeClockRedis, seeds: Sequence[int]) -> int:
    """Play sequences one after the other. Returns how many answers were held to the plain list."""
    access = RedisAccess.by_url(server.url, TlsFiles(), timeout_s=5)
    router = access.router(timeout_s=5)
    await router.open()
    admissions = Admissions(router, SessionRules(seen_every_ms=60_000, logout_grace_ms=0))
    answers = 0
    for seed in seeds:
        server.set_ahead(0)
        await access.client.flushall()
        one = Client(server, admissions, RedisOperatorActions(access.client), seed)
        await one.play(steps=18)
        answers += one.answers
    await admissions.close()
    await router.close()
    await access.close()
    return answers


@pytest.mark.timeout(3600)
async def test_a_server_whose_clock_is_set_never_admits_too_many_and_admits_after_the_announced_wait(
    server: FakeClockRedis,
) -> None:
    answers = await play(server, range(SEED, SEED + SEQUENCES))
    sys.stdout.write(f"\n{SEQUENCES} sequences from seed {SEED}: {answers} answers held to the plain list\n")
    assert answers >= SEQUENCES
