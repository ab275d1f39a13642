"""Windows against a plain model, by a clock that the test sets: exact to the microsecond, large ones never over.

`WINDOW_SEQUENCES` says how many random sequences are played (`make windows`: 20,000), `WINDOW_SEED` where they begin.
"""

import os
import random
import sys
from collections.abc import Sequence

import pytest

from service.core.limits import MICRO
from service.store.keyspace import keys_of
from tests.store.making import earlier_window
from tests.store.window_model import DAY_S, START_US, Windows, limit, play, reported

pytestmark = pytest.mark.real_redis
KEY = keys_of("acme").window("some", "10.0.0.1")
SEQUENCES, SEED = int(os.environ.get("WINDOW_SEQUENCES", "300")), int(os.environ.get("WINDOW_SEED", "0"))


@pytest.fixture
def windows(redis_url: str) -> Windows:
    return Windows(redis_url)


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


@pytest.mark.timeout(7200)
def test_random_sequences_of_changes_and_clock_steps_never_admit_too_many_nor_promise_too_much(redis_url: str) -> None:
    answers = play(redis_url, range(SEED, SEED + SEQUENCES))
    sys.stdout.write(f"\n{SEQUENCES} sequences from seed {SEED}: {answers} answers held to the plain list\n")
    assert answers >= SEQUENCES


def admit(windows: Windows, now_us: int, requests: int, window_s: int) -> int:
    """How many of 300 that ask at once are admitted."""
    return sum(not over for *_, over in windows.ask(now_us, limit(requests, window_s), times=300))


def test_a_limit_that_is_lowered_to_a_short_window_counts_what_a_long_one_has_just_admitted(windows: Windows) -> None:
    windows.ask(START_US, limit(10_000, DAY_S))
    windows.ask(START_US + 1 * MICRO, limit(10_000, DAY_S), times=89)
    assert admit(windows, START_US + 2 * MICRO, 100, 60) == 10
    assert admit(windows, START_US + 60 * MICRO, 100, 60) == 1, "the others are in the window yet"
    assert admit(windows, START_US + 62 * MICRO, 100, 60) == 99
    assert admit(windows, START_US + 123 * MICRO, 100, 60) == 100


@pytest.mark.parametrize("by_override", [False, True])
def test_the_wait_after_a_long_window_became_a_short_one_is_positive_and_enough(
    windows: Windows, by_override: bool
) -> None:
    windows.ask(START_US, limit(10_000, DAY_S), times=90)
    now_us, held = START_US + MICRO, limit(10, 60)
    if by_override:
        windows.override((10, 60))
    asked = limit(10_000, DAY_S) if by_override else held
    [answer] = windows.ask(now_us, asked)
    assert answer[2]
    remaining, reset_s, retry_s = reported(held, answer)
    assert (remaining, reset_s) == (0, retry_s)
    assert 0 < retry_s <= 60
    assert windows.what_if(now_us + answer[1] - 1, asked)[0][2]
    assert not windows.ask(now_us + retry_s * MICRO, asked)[0][2]


@pytest.mark.parametrize(("used", "lowered"), [(1500, 1000), (900, 500), (900, 1)])
def test_the_wait_after_a_limit_came_below_1000_is_not_a_bucket_short(
    windows: Windows, used: int, lowered: int
) -> None:
    windows.ask(START_US, limit(5000, 3600))
    windows.ask(START_US + 10 * MICRO, limit(5000, 3600), times=used - 1)  # a bucket of 36 s, still open
    now_us, held = START_US + 20 * MICRO, limit(lowered, 3600)
    [(counted, reset_us, over)] = windows.ask(now_us, held)
    assert (counted, over) == (used, True)
    assert windows.what_if(now_us + reset_us - 1, held)[0][2]
    assert not windows.ask(now_us + reset_us, held)[0][2]


@pytest.mark.parametrize(("requests", "window_s"), [(1001, 60), (5000, 3600), (50_000, 31 * DAY_S)])
def test_the_first_answer_of_a_large_window_has_all_of_the_wait(windows: Windows, requests: int, window_s: int) -> None:
    [(used, reset_us, _)] = windows.ask(START_US, limit(requests, window_s))
    assert (used, reset_us) == (1, window_s * MICRO)
    assert windows.what_if(START_US + reset_us - 1, limit(requests, window_s))[0][0] == 2
    assert windows.what_if(START_US + reset_us, limit(requests, window_s))[0][0] == 1


@pytest.mark.parametrize("back_s", [1, 30, 500, 3600, 40 * DAY_S])
@pytest.mark.parametrize(("requests", "window_s"), [(3, 60), (3, 3600), (1200, 60)])
def test_after_a_step_of_the_clock_back_nobody_waits_longer_than_a_window_and_than_announced(
    windows: Windows, back_s: int, requests: int, window_s: int
) -> None:
    held = limit(requests, window_s)
    windows.ask(START_US, held, times=requests)
    now_us = START_US - back_s * MICRO
    [(_, reset_us, over)] = windows.ask(now_us, held)
    assert over
    assert reset_us <= window_s * MICRO * 1.01
    [(_, later_us, over)] = windows.ask(now_us + reset_us // 2, held)
    assert over
    assert later_us == reset_us - reset_us // 2, "not the whole wait again"
    assert windows.what_if(now_us + reset_us - 1, held)[0][2]
    assert not windows.ask(now_us + reset_us, held)[0][2]


def test_a_clock_that_goes_back_between_two_admissions_loses_none_of_them(windows: Windows) -> None:
    windows.ask(START_US, limit(10, 60), times=3)
    windows.ask(START_US + 10 * MICRO, limit(10, 60), times=3)
    windows.ask(START_US - 5 * MICRO, limit(10, 60), times=3)
    assert windows.what_if(START_US + 54 * MICRO, limit(10, 60))[0][0] == 10
    assert windows.what_if(START_US + 55 * MICRO, limit(10, 60))[0][0] == 1


def test_an_operators_short_window_does_not_forget_what_the_configurations_has_admitted(windows: Windows) -> None:
    configured = limit(10_000, DAY_S)
    windows.ask(START_US, configured, times=9000)
    windows.override((100, 60))
    now_us = START_US
    for _ in range(20):
        now_us += 61 * MICRO
        windows.ask(now_us, configured, times=20)
    windows.override(None)
    assert windows.ask(now_us, configured)[0][0] == 9000 + 20 * 20 + 1


def test_an_operators_short_window_is_exact_and_what_is_kept_of_the_long_one_bounded(windows: Windows) -> None:
    configured, now_us = limit(100_000, DAY_S), START_US
    windows.override((1000, 60))
    for step in range(2000):  # a day and a half
        now_us += 61 * MICRO
        answers = windows.ask(now_us, configured, times=20 if step % 50 else 1100)
        assert sum(not over for *_, over in answers) == (20 if step % 50 else 1000)
        assert answers[0][1] <= 60 * MICRO + 128, "within a tick of the day's window"
    assert windows.client.strlen(KEY) <= 12 + 8 * 1000


def test_what_counts_when_a_window_becomes_longer_counts_on(windows: Windows) -> None:
    windows.ask(START_US, limit(2, 1), times=2)
    windows.retain(START_US, 3600)
    later_us = START_US + 100 * MICRO
    windows.tick(later_us)
    assert windows.ask(later_us, limit(2, 3600))[0] == (2, 3500 * MICRO, True)


@pytest.mark.parametrize("window_s", [60, 1073, 3600, DAY_S, 31 * DAY_S])
@pytest.mark.parametrize("buckets", [None, 100])
def test_what_the_version_before_wrote_counts(windows: Windows, window_s: int, buckets: int | None) -> None:
    requests = 40 if buckets is None else 5000
    times = [START_US - window_s * MICRO + i * window_s * MICRO // 40 for i in range(1, 40)]
    windows.client.set(KEY, earlier_window(times, window_s, START_US, buckets))
    windows.ends_us = START_US + window_s * MICRO
    [(used, reset_us, _)] = windows.ask(START_US, limit(requests, window_s))
    assert used == 40
    assert 0 <= reset_us - (times[0] + window_s * MICRO - START_US) <= window_s * MICRO // 99
    assert windows.client.get(KEY)[0] < ord("A"), "written anew"
    windows.client.set(KEY, earlier_window(times, window_s, START_US, buckets))
    [(used, reset_us, over)] = windows.ask(START_US, limit(1, 60))
    assert over or times[-1] <= START_US - 60 * MICRO
    assert 0 <= reset_us <= 60 * MICRO


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
