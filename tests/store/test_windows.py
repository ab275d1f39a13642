"""Windows against a plain model, by a clock that the test sets: exact to the microsecond, large ones never over."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
import redis

from service.core.admission import Question, Terms
from service.core.limits import MICRO, Limit, Per
from service.store.admissions import encode
from service.store.keyspace import keys_of
from service.store.scripts import SCRIPTS

pytestmark = pytest.mark.real_redis
START_US = 1_800_000_000 * MICRO
KEY = keys_of("acme").window("some", "10.0.0.1")
DAY_S = 86_400


class Windows:
    """The admission's own script; only its clock is another."""

    def __init__(self, url: str) -> None:
        self.client: Any = redis.Redis.from_url(url)
        self.client.flushall()
        clock = "{redis.call('GET', 'second'), redis.call('GET', 'microsecond')}"
        text = SCRIPTS["admit"].text.replace("redis.call('TIME')", clock)
        self._run = self.client.register_script(text)

    def ask(self, now_us: int, *limits: Limit, times: int = 1) -> list[tuple[int, int, bool]]:
        """Ask so often about each limit, all in one batch; returns used, µs until there is more, and over."""
        self.client.mset({"second": now_us // MICRO, "microsecond": now_us % MICRO})
        keys: list[str] = []
        args: list[str | int] = [0, 0]
        for one in limits:
            terms = Terms("acme", "some", (one,))
            encode(keys_of("acme"), [[Question(terms, "10.0.0.1", "r")] * times], keys, args)
        told = iter(self._run(keys=keys, args=args))
        return [(used, reset, over == 1) for used, reset, over in zip(told, told, told, strict=True)]


@pytest.fixture
def windows(redis_url: str) -> Windows:
    return Windows(redis_url)


def limit(requests: int, window_s: int) -> Limit:
    return Limit("some", Per.IP, requests, window_s)


def most_in_any_window(times_us: Sequence[int], window_us: int) -> int:
    most, first = 0, 0
    for last, at in enumerate(times_us):
        while at - times_us[first] >= window_us:
            first += 1
        most = max(most, last - first + 1)
    return most


@pytest.mark.parametrize("window_s", [1, 60, 1073])
@pytest.mark.parametrize("seed", range(4))
def test_an_exact_window_agrees_with_a_plain_list_to_the_microsecond(
    windows: Windows, window_s: int, seed: int
) -> None:
    rng = random.Random(seed)
    admitted: list[int] = []
    now_us = START_US
    for _ in range(300):
        now_us += rng.choice([0, 1, rng.randrange(window_s * MICRO // 10), window_s * MICRO // 7, window_s * MICRO])
        requests = rng.choice([3, 3, 3, 1, 20])  # raised and lowered meanwhile
        alive = [at for at in admitted if now_us - at < window_s * MICRO]
        for used, reset_us, over in windows.ask(now_us, limit(requests, window_s), times=rng.choice([1, 1, 5])):
            assert over == (len(alive) >= requests)
            if not over:
                alive.append(now_us)
                admitted.append(now_us)
            assert used == len(alive)
            frees = alive[max(0, len(alive) - requests)]
            assert reset_us == frees + window_s * MICRO - now_us


@pytest.mark.parametrize("window_s", [1074, 3600, DAY_S, 31 * DAY_S])
def test_an_exact_window_of_longer_ticks_is_never_over_and_late_by_less_than_two(
    windows: Windows, window_s: int
) -> None:
    rng = random.Random(window_s)
    window_us, tick_us = window_s * MICRO, 1
    while window_us / tick_us > 2**30:
        tick_us *= 2
    admitted: list[int] = []
    now_us = START_US
    for _ in range(400):
        now_us += rng.randrange(window_us // 12)
        alive = [at for at in admitted if now_us - at < window_us]
        surely = [at for at in admitted if now_us - at < window_us + 2 * tick_us]
        [(_, reset_us, over)] = windows.ask(now_us, limit(5, window_s))
        assert over or len(alive) < 5
        assert not over or len(surely) >= 5
        assert 0 < reset_us <= window_us
        if not over:
            admitted.append(now_us)
    assert most_in_any_window(admitted, window_us) <= 5


@pytest.mark.parametrize(("requests", "window_s"), [(1001, 1), (2000, 10), (5000, 3600), (50_000, 31 * DAY_S)])
def test_a_large_window_is_never_over_and_admits_98_percent_in_constant_memory(
    windows: Windows, requests: int, window_s: int
) -> None:
    window_us = window_s * MICRO
    step_us, batch = window_us // 200, requests // 100  # steady, twice as many as the limit
    admitted: list[int] = []
    for step in range(200 * 6):
        now_us = START_US + step * step_us
        answers = windows.ask(now_us, limit(requests, window_s), times=batch)
        admitted += [now_us] * sum(not over for *_, over in answers)
    assert most_in_any_window(admitted, window_us) <= requests
    settled = [at for at in admitted if at >= START_US + window_us]
    assert len(settled) >= 0.98 * requests * 5
    assert windows.client.strlen(KEY) <= 6 + 8 * 140
    assert windows.client.pttl(KEY) > 0


def test_whoever_waits_for_a_large_window_is_admitted(windows: Windows) -> None:
    now_us = START_US
    for _ in range(12):
        windows.ask(now_us, limit(1200, 60), times=100)
        now_us += 100_000
    [(used, reset_us, over)] = windows.ask(now_us, limit(1200, 60))
    assert (used, over) == (1200, True)
    assert windows.ask(now_us + reset_us - 1, limit(1200, 60))[0][2]
    assert not windows.ask(now_us + reset_us, limit(1200, 60))[0][2]


def test_a_limit_raised_above_1000_and_lowered_again_forgets_nothing(windows: Windows) -> None:
    for second in range(9):
        windows.ask(START_US + second * MICRO, limit(1000, 60), times=100)
    now_us = START_US + 9 * MICRO
    assert windows.ask(now_us, limit(5000, 60))[0][0] == 901
    assert windows.ask(now_us, limit(5000, 60), times=1099)[-1][0] == 2000
    assert windows.ask(now_us, limit(500, 60))[0][::2] == (2000, True), "lowered: all of it still counts"
    assert windows.ask(now_us, limit(5000, 60))[0][0] == 2001, "and raised again"
    later_us = START_US + 66 * MICRO + MICRO // 2
    used = windows.ask(later_us, limit(1000, 60))[0][0]
    assert 200 <= used - 1101 <= 300, "what ran out is gone, by bucket"


def test_another_length_of_the_window_counts_what_is_still_within_it(windows: Windows) -> None:
    for second in range(0, 100, 10):
        windows.ask(START_US + second * MICRO, limit(50, 3600))
    now_us = START_US + 95 * MICRO
    assert windows.ask(now_us, limit(50, 60))[0][0] == 6 + 1, "of 10 a minute's worth"
    assert windows.ask(now_us, limit(50, 3600))[0][0] == 8
    assert windows.ask(now_us, limit(2000, 7200))[0][0] == 9
    assert windows.ask(now_us, limit(2000, 60))[0][0] == 10


def test_two_configurations_in_one_batch_see_each_others_charges(windows: Windows) -> None:
    answers = windows.ask(START_US, limit(3, 60), limit(5, 60), limit(2000, 60), times=4)
    assert [over for *_, over in answers] == [False, False, False, True, False, False, True, True, *[False] * 4]
    assert windows.ask(START_US, limit(10, 60))[0][0] == 10


@pytest.mark.parametrize("back_s", [1, 30, 500])
def test_a_clock_set_back_never_admits_more(windows: Windows, back_s: int) -> None:
    windows.ask(START_US, limit(3, 60), times=3)
    assert windows.ask(START_US - back_s * MICRO, limit(3, 60))[0][2]


@pytest.mark.parametrize(("requests", "most_each"), [(1000, 10), (600, 10), (300, 10), (100, 10), (30, 10)])
def test_an_exact_window_takes_at_most_10_bytes_an_entry_and_150_a_key(
    windows: Windows, requests: int, most_each: int
) -> None:
    for number in range(requests):
        windows.ask(START_US + number, limit(1000, 60))
    assert windows.client.memory_usage(KEY) <= 150 + most_each * requests
