"""Random sequences of admissions, changed limits and clock steps, held to a plain list of every admission.

The list is what a limit promises, and no more: what counted when a limit was changed goes on counting under the new
one. What had left the window before that is forgotten, also where the new window is longer. When the clock is set back,
admissions that are later than now become now.
"""

import math
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import redis

from service.core.admission import Admission, Question, Terms
from service.core.limits import MICRO, Limit, LimitState, Per
from service.store.admissions.encoding import encode
from service.store.keyspace import keys_of
from service.store.scripts import build
from service.web.api.rate_limit_headers import limit_lines
from tests.store.making import earlier_window

START_US = 1_800_000_000 * MICRO
DAY_S = 86_400
HEADERS = re.compile(r'RateLimit: "some";r=(-?\d+);t=(-?\d+)\r\n.*?Retry-After: (-?\d+)\r\n', re.DOTALL)


def limit(requests: int, window_s: int) -> Limit:
    return Limit("some", Per.IP, requests, window_s)


class Windows:
    """The admission's own function on a real Redis; its clock and the keys' ends are the test's.

    Args:
        url: of a Redis that is the test's alone.
        thresholds: up to how many requests a limit is exact, and the number of buckets, where not the service's.
    """

    def __init__(self, url: str, thresholds: tuple[int, int] | None = None) -> None:
        self.client: Any = redis.Redis.from_url(url)
        self.client.flushall()
        self.subject = "10.0.0.1"
        self.thresholds = thresholds
        library = build(partial(_by_our_clock, thresholds=thresholds))
        self.client.function_load(library.text, replace=True)
        self._functions = library.functions
        self.ends_us: float = 0
        """When the window's key ends, by the test's clock."""

    @property
    def key(self) -> str:
        return keys_of("acme").window("some", self.subject)

    def ask(self, now_us: int, *limits: Limit, times: int = 1) -> list[tuple[int, int, bool]]:
        """Ask so often about each limit, all in one batch; returns used, µs until there is more, and over."""
        keys: list[str] = []
        args: list[str | int] = []
        for one in limits:
            terms = Terms("acme", "some", (one,))
            encode(keys_of("acme"), [[Question(terms, self.subject, "r")] * times], "0 0", "", keys, args)
        pipe = self.client.pipeline(transaction=False)
        self._set_clock(pipe, now_us)
        if self.ends_us > now_us:  # what is written of a window may leave the end of its key as it is
            pipe.pexpire(self.key, math.ceil((self.ends_us - now_us) / 1000))
        pipe.execute_command("FCALL", self._functions["admit"], len(keys), *keys, *args)
        pipe.pttl(self.key)
        *_, answers, ttl_ms = pipe.execute()
        self.ends_us = now_us + ttl_ms * 1000
        reported = iter(answers)
        return [_answered(used, reset_us) for used, reset_us in zip(reported, reported, strict=True)]

    def tick(self, now_us: int) -> None:
        """Let the key end that has ended by now."""
        if now_us >= self.ends_us:
            self.client.delete(self.key)

    def what_if(self, now_us: int, one: Limit, times: int = 1) -> list[tuple[int, int, bool]]:
        """Ask, and undo it."""
        text, ends_us = self.client.get(self.key), self.ends_us
        self.tick(now_us)
        answers = self.ask(now_us, one, times=times)
        self.client.delete(self.key)
        if text is not None:
            self.client.set(self.key, text)
        self.ends_us = ends_us
        return answers

    def override(self, to: tuple[int, int] | None) -> None:
        """As an operator does, without the event."""
        rules = keys_of("acme").rules
        if to is None:
            self.client.hdel(rules, "=some")
        else:
            self.client.hset(rules, "=some", f"{to[0]} {to[1]}")

    def retain(self, now_us: int, window_s: int) -> None:
        """As the service does where a limit's window has become longer."""
        self._set_clock(self.client, now_us)
        self.client.fcall(self._functions["retain"], 1, self.key, window_s * MICRO)
        self.ends_us = now_us + self.client.pttl(self.key) * 1000

    def _set_clock(self, client: Any, now_us: int) -> None:
        client.mset({"second": now_us // MICRO, "microsecond": now_us % MICRO})
        client.pexpire(self.key, math.ceil(max(1, self.ends_us - now_us) / 1000))


def _by_our_clock(text: str, thresholds: tuple[int, int] | None) -> str:
    text = text.replace("call('TIME')", "{call('GET', 'second'), call('GET', 'microsecond')}")
    if thresholds is None:
        return text
    scaled = text.replace("EXACT_UP_TO, BUCKETS = 1000, 100", "EXACT_UP_TO, BUCKETS = {}, {}".format(*thresholds))
    assert scaled != text
    return scaled


def _answered(used: int | bytes, reset_us: int) -> tuple[int, int, bool]:
    if isinstance(used, int):
        return used >> 1, reset_us, used % 2 == 1
    used_by_set_limit, over, *_ = map(int, used.split())
    return used_by_set_limit, reset_us, over == 1


def reported(one: Limit, answer: tuple[int, int, bool]) -> tuple[int, int, int]:
    """Remaining, seconds until there is more, and Retry-After, as the headers of a refusal say them."""
    used, reset_us, _ = answer
    found = HEADERS.search(limit_lines(Admission([LimitState(one, used, reset_us, over=True)]), 429))
    assert found is not None
    remaining, reset_s, retry_s = map(int, found.groups())
    return remaining, reset_s, retry_s


@dataclass
class Plain:
    """What has to count, and what may: lists of moments."""

    surely: list[int] = field(default_factory=list)
    perhaps: list[int] = field(default_factory=list)

    def forget(self, now_us: int, kept_us: int) -> None:
        """What has left the window that is kept need not count again."""
        self.surely = [at for at in self.surely if at + kept_us > now_us]

    def back_to(self, now_us: int) -> None:
        self.surely = [min(at, now_us) for at in self.surely]

    def counting(self, now_us: int, length_us: int) -> int:
        return sum(at + length_us > now_us for at in self.surely)

    def may_count(self, now_us: int, length_us: int) -> int:
        return sum(at + length_us > now_us for at in self.perhaps)

    def admit(self, now_us: int) -> None:
        self.surely.append(now_us)
        self.perhaps.append(now_us)


SMALL = ((1, 2, 3, 5, 8, 9, 12, 20, 40), (8, 4), (1, 1, 1, 2, 3, 7))
"""Requests, thresholds, and how many ask at once: all forms, with few admissions."""
LARGE = ((3, 900, 1000, 1001, 1500, 5000), None, (1, 50, 400, 1000))
WINDOWS_S = (1, 2, 10, 60, 600, 1073, 1074, 3600, DAY_S, 31 * DAY_S)


class Play:
    """One random sequence against `windows`."""

    def __init__(self, windows: Windows, seed: int, requests: Sequence[int], at_once: Sequence[int]) -> None:
        self.seed, self.rng = seed, random.Random(seed)
        self.windows = windows
        self.exact_up_to, self.buckets = windows.thresholds or (1000, 100)
        windows.subject = f"10.0.{seed}"
        windows.ends_us = 0
        windows.override(None)
        self.requests, self.at_once = requests, at_once
        self.now_us = START_US + self.rng.randrange(90 * 60 * MICRO)
        self.plain = Plain()
        self.configured = self._any_limit()
        self.override: tuple[int, int] | None = None
        self.late_us = 0
        """So much longer than its window something may count: it was in a bucket, under each limit in another."""
        self.went_back = False
        self.answers = 0
        self.log: list[str] = []
        self._widen()
        if self.rng.random() < 0.2:
            self._begin_with_what_an_earlier_version_wrote()

    def _any_limit(self) -> Limit:
        return limit(self.rng.choice(self.requests), self.rng.choice(WINDOWS_S))

    def _begin_with_what_an_earlier_version_wrote(self) -> None:
        one = self.configured
        times = sorted(self.now_us - self.rng.randrange(one.window_s * MICRO) for _ in range(min(one.requests, 30)))
        buckets = None if one.requests <= self.exact_up_to else self.buckets
        text = earlier_window(times, one.window_s, self.now_us, buckets)
        self.windows.client.set(self.windows.key, text)
        self.windows.ends_us = self.now_us + one.window_s * MICRO
        self.plain.surely, self.plain.perhaps = list(times), list(times)
        self.ask()  # its times are modulo 71 minutes: a clock set back meanwhile looks like a long time

    @property
    def held(self) -> Limit:
        return limit(*self.override) if self.override else self.configured

    @property
    def kept_us(self) -> int:
        return max(self.held.window_s, self.configured.window_s) * MICRO

    def _widen(self) -> None:
        self.late_us += 2 * self.kept_us // self.buckets + 10_000

    def _set_clock(self, now_us: int) -> None:
        self.went_back |= now_us < self.now_us
        self.now_us = now_us
        self.windows.tick(now_us)
        self.plain.forget(now_us, self.kept_us)

    def play(self, steps: int) -> None:
        for _ in range(steps):
            act = self.rng.choices(
                [self.ask, self.advance, self.wait, self.step_back, self.configure, self.set, self.lift],
                [40, 20, 8, 8, 8, 10, 6],
            )[0]
            try:
                act()
            except (AssertionError, redis.ResponseError) as error:
                raise AssertionError("\n".join([f"seed {self.seed}", *self.log, str(error)])) from error

    # --- what may happen --------------------------------------------------------------------------------

    def ask(self) -> None:
        held, times = self.held, self.rng.choice(self.at_once)
        length_us = held.window_s * MICRO
        self.plain.forget(self.now_us, self.kept_us)
        self.plain.back_to(self.now_us)
        answers = self.windows.ask(self.now_us, self.configured, times=times)
        self.log.append(
            f"{self.now_us}: {times} ask, {held.requests} in {held.window_s} s: {answers[0]} … {answers[-1]}"
        )
        self.answers += len(answers)
        for used, reset_us, over in answers:
            counting = self.plain.counting(self.now_us, length_us)
            if over:
                # It is refused too long by a bucket at most; where the clock was set back, by the step at most.
                may = self.plain.may_count(self.now_us, length_us + self.late_us)
                assert self.went_back or may >= held.requests, f"refused with {may} at most"
            else:
                assert counting < held.requests, f"over: {counting} were admitted already"
                self.plain.admit(self.now_us)
                counting += 1
            assert used >= counting, f"{counting} were admitted, but only {used} counted"
            assert used >= held.requests or not over
            assert 0 < reset_us <= length_us + self.late_us, f"announced a wait of {reset_us} µs"
        self.hold_to(answers[-1])

    def hold_to(self, answer: tuple[int, int, bool]) -> None:
        """Whoever does what the headers say finds what they say."""
        used, reset_us, _ = answer
        remaining, reset_s, retry_s = reported(self.held, answer)
        assert 0 <= remaining <= self.held.requests
        assert min(reset_s, retry_s) > 0
        what_if, later_us = self.windows.what_if, self.now_us + reset_us
        if remaining > 2000:
            assert what_if(later_us, self.configured)[0][0] <= used, "t is too short"
        elif remaining:
            assert not any(over for *_, over in what_if(self.now_us, self.configured, times=remaining)), "r is too high"
            assert what_if(self.now_us, self.configured, times=remaining + 1)[-1][2], "r is too low"
            assert what_if(later_us, self.configured)[0][0] <= used, "t is too short"
        else:
            assert what_if(later_us - 1, self.configured)[0][2], "more quota came earlier than announced"
        for at_us in (later_us, self.now_us + reset_s * MICRO, self.now_us + retry_s * MICRO):
            assert not what_if(at_us, self.configured)[0][2], "who waited is refused"

    def advance(self) -> None:
        window_us = self.held.window_s * MICRO
        by_us = self.rng.choice(
            [0, 1, self.rng.randrange(window_us), window_us // self.buckets, window_us, 2 * window_us, self.kept_us,
             2**32, 2**33 + 7]
        )  # fmt: skip
        self.log.append(f"{self.now_us}: {by_us} µs pass")
        self._set_clock(self.now_us + by_us)

    def wait(self) -> None:
        """Do what the headers say."""
        [answer] = self.windows.what_if(self.now_us, self.configured)
        self.log.append(f"{self.now_us}: waits {answer[1]} µs")
        self._set_clock(self.now_us + answer[1])

    def step_back(self) -> None:
        window_us = self.held.window_s * MICRO
        by_us = self.rng.choice(
            [1, window_us // self.buckets, window_us // 2, window_us, 3600 * MICRO, 40 * DAY_S * MICRO]
        )
        self.log.append(f"{self.now_us}: the clock is set back by {by_us} µs")
        self._set_clock(self.now_us - by_us)

    def configure(self) -> None:
        self._change(self._any_limit(), self.override)

    def set(self) -> None:
        self._change(self.configured, (self.rng.choice(self.requests), self.rng.choice(WINDOWS_S)))

    def lift(self) -> None:
        self._change(self.configured, None)

    def _change(self, configured: Limit, override: tuple[int, int] | None) -> None:
        kept_us = self.kept_us
        self.plain.forget(self.now_us, kept_us)
        self.configured, self.override = configured, override
        self.windows.override(override)
        if self.kept_us > kept_us:
            self.windows.retain(self.now_us, self.kept_us // MICRO)
        self._widen()
        held = self.held
        self.log.append(f"{self.now_us}: {held.requests} in {held.window_s} s, configured {configured.window_s} s")


def play(url: str, seeds: Iterable[int], steps: int = 18) -> int:
    """Play a sequence for each seed; every fiftieth with the service's own thresholds.

    Returns:
        How many answers were held to the plain list, and their headers to what came of them.
    """
    scaled, real, answers = Windows(url, SMALL[1]), Windows(url), 0
    for seed in seeds:
        requests, thresholds, at_once = LARGE if seed % 50 == 49 else SMALL
        one = Play(scaled if thresholds else real, seed, requests, at_once)
        one.play(steps)
        answers += one.answers
    return answers
