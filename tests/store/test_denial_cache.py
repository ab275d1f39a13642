"""Refusals remembered: refused here until the time comes, and never too long."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.core.admission import Admission, Question, Terms
from service.core.limits import Limit, LimitState, Per
from service.core.operator_actions import Author
from service.store.admissions.batcher import Admissions
from service.store.admissions.denial_cache import FRESH_S, MOST, SILENT_S, DenialCache
from service.store.connection.client import RedisAccess
from service.store.sessions.operator_actions import RedisOperatorActions

TWO = Terms("acme", "some", (Limit("some", Per.IP, 2, 3600),))

BY = Author("root")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def question(terms: Terms = TWO, client: str = "10.0.0.1") -> Question:
    return Question(terms, client, "req-1")


def refused(limit: Limit = TWO.limits[0], reset_us: int = 5_000_000) -> Admission:
    return Admission([LimitState(limit, limit.requests, reset_us, over=True)])


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def refusals(clock: Clock) -> DenialCache:
    made = DenialCache(clock)
    made.heard_at = clock.now
    return made


def test_a_refusal_lasts_until_its_time_comes_and_says_how_long_that_is(refusals: DenialCache, clock: Clock) -> None:
    refusals.remember(
        question(), refused(), at=99.0
    )  # it took a second to answer, and may have been decided at its end
    found = refusals.find(question())
    assert found is not None
    assert (found.refused, found.retry_after_s) == (True, 5), "whoever waits so long is admitted"
    clock.now = refusals.heard_at = 101.0
    found = refusals.find(question())
    assert found is not None
    assert found.retry_after_s == 4
    clock.now = refusals.heard_at = 104.0
    assert refusals.find(question()) is None


def used(*limit_states: tuple[int, int, bool]) -> Admission:
    """Admitted; of limits of two requests each, `used` of them, µs until there is more, and whether in shadow."""
    limits = [Limit("some", Per.IP, 2, 3600, shadow=shadow) for *_, shadow in limit_states]
    made = [
        LimitState(one, used, reset_us, over=False)
        for one, (used, reset_us, _) in zip(limits, limit_states, strict=True)
    ]
    return Admission(made)


def test_a_used_up_quota_is_refused_and_the_first_refusal_counts_as_the_first(refusals: DenialCache) -> None:
    refusals.remember(question(), used((2, 5_000_000, False), (1, 9_000_000, False), (2, 7_000_000, True)), at=100.0)
    first, second = refusals.find(question()), refusals.find(question())
    assert first is not None
    assert second is not None
    assert (first.refused, first.retry_after_s) == (True, 5), (
        "of those that refuse: not that with room, nor the shadow's"
    )
    assert [one.over for one in first.limit_states] == [True, False, True]
    assert (first.remembered, second.remembered) == (False, True), "the log has a line for the first"


def mixed(ip: tuple[int, int], tenant: tuple[int, int]) -> tuple[Question, Admission]:
    """A refused request under a limit per address and one per tenant, of two requests each: used, µs to wait."""
    limits = (Limit("ip", Per.IP, 2, 3600), Limit("all", Per.TENANT, 2, 3600))
    limit_states = [
        LimitState(one, used, reset_us, over=used >= 2)
        for one, (used, reset_us) in zip(limits, (ip, tenant), strict=True)
    ]
    return question(Terms("acme", "some", limits)), Admission(limit_states)


def test_a_limit_with_room_is_not_reported_longer_than_a_moment_since_others_may_use_it_up(
    refusals: DenialCache, clock: Clock
) -> None:
    asked, admission = mixed(ip=(2, 50_000_000), tenant=(1, 60_000_000))
    refusals.remember(asked, admission, at=clock.now)
    assert refusals.find(asked) is not None
    clock.now = refusals.heard_at = clock.now + FRESH_S
    assert refusals.find(asked) is None


def test_a_limit_whose_time_has_come_is_asked_about_again_though_another_still_refuses(
    refusals: DenialCache, clock: Clock
) -> None:
    asked, admission = mixed(ip=(2, 50_000_000), tenant=(2, 5_000_000))
    refusals.remember(asked, admission, at=clock.now)
    clock.now = refusals.heard_at = clock.now + 4.9
    found = refusals.find(asked)
    assert found is not None
    assert found.retry_after_s == 46
    clock.now = refusals.heard_at = clock.now + 0.1
    assert refusals.find(asked) is None, "others may have used the tenant's quota up again"


def test_what_was_asked_about_again_while_it_still_refuses_is_no_new_refusal(
    refusals: DenialCache, clock: Clock
) -> None:
    asked, first = mixed(ip=(2, 50_000_000), tenant=(1, 60_000_000))
    refusals.remember(asked, first, at=clock.now)
    clock.now = refusals.heard_at = clock.now + 1
    assert refusals.find(asked) is None
    _, second = mixed(ip=(2, 49_000_000), tenant=(1, 59_000_000))
    refusals.remember(asked, second, clock.now)
    assert (first.remembered, second.remembered) == (False, True)


def test_where_there_is_room_nothing_is_foreseen(refusals: DenialCache) -> None:
    refusals.remember(question(), used((1, 5_000_000, False), (2, 5_000_000, True)), at=100.0)
    assert refusals.find(question()) is None


def test_another_address_another_tenant_and_reloaded_terms_are_asked_about(refusals: DenialCache) -> None:
    refusals.remember(question(), refused(), at=100.0)
    reloaded = Terms("acme", "some", TWO.limits)
    for other in (question(client="10.0.0.2"), question(Terms("globex", "some", TWO.limits)), question(reloaded)):
        assert refusals.find(other) is None
    assert refusals.find(question()) is not None


def test_nothing_counts_once_the_subscription_is_silent(refusals: DenialCache, clock: Clock) -> None:
    refusals.remember(question(), refused(), at=100.0)
    clock.now += SILENT_S + 0.01
    assert refusals.find(question()) is None


def test_a_push_forgets_its_tenant_alone(refusals: DenialCache) -> None:
    globex = question(Terms("globex", "some", TWO.limits))
    refusals.remember(question(), refused(), at=100.0)
    refusals.remember(globex, refused(), at=100.0)
    refusals.forget("acme")
    assert refusals.find(question()) is None
    assert refusals.find(globex) is not None


def test_what_was_asked_before_a_push_is_not_remembered_after_it(refusals: DenialCache, clock: Clock) -> None:
    asked_at = clock.now
    clock.now += 0.01
    refusals.forget("acme")
    refusals.remember(question(), refused(), at=asked_at)
    assert refusals.find(question()) is None, "it may have been decided before the limit was reset"


def test_they_are_bounded(refusals: DenialCache) -> None:
    for number in range(MOST + 1):
        refusals.remember(question(client=str(number)), refused(), at=100.0)
    assert refusals.find(question(client="0")) is None
    assert refusals.find(question(client="1")) is not None


@pytest.fixture
async def listening(admissions: Admissions, access: RedisAccess) -> AsyncIterator[DenialCache]:
    task = asyncio.create_task(admissions.denials.listen_forever(access.client))
    await heard(admissions.denials)
    yield admissions.denials
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def heard(refusals: DenialCache) -> None:
    async with asyncio.timeout(5):
        while refusals.heard_at == float("-inf"):  # noqa: ASYNC110  # only Redis can tell
            await asyncio.sleep(0.01)


async def test_a_repeated_refusal_asks_redis_nothing(
    admissions: Admissions, listening: DenialCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        admission = await admissions.ask(question())
    assert admission.refused
    monkeypatch.setattr(admissions, "_router", None)  # whoever would ask now fails
    for _ in range(3):
        again = await admissions.ask(question())
        assert again.refused
        assert admission.retry_after_s - 1 <= again.retry_after_s <= admission.retry_after_s


async def test_what_an_operator_has_set_is_known_without_redis_until_it_is_lifted(
    admissions: Admissions, listening: DenialCache, access: RedisAccess
) -> None:
    acts, limit = RedisOperatorActions(access.client), TWO.limits[0]
    await admissions.ask(question())
    assert listening.held("acme", limit) is limit
    await acts.set_limit("acme", limit, 1, 60, BY)
    assert (await admissions.ask(question(client="10.0.0.2"))).limit_states[0].limit.requests == 1
    async with asyncio.timeout(
        5
    ):  # the push of the change may come after that answer: then the next one is learned from
        while (held := listening.held("acme", limit)) is limit:
            await admissions.ask(question(client="10.0.0.3"))
    assert (held.requests, held.window_s, held.on_outage) == (1, 60, limit.on_outage)
    assert listening.held("globex", limit) is limit
    await acts.unset_limit("acme", "some", limit, BY)
    async with asyncio.timeout(1):
        while listening.held("acme", limit) is not limit:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_even_the_first_refusal_asks_redis_nothing_where_the_quota_was_used_up_here(
    admissions: Admissions, listening: DenialCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        assert not (await admissions.ask(question())).refused
    monkeypatch.setattr(admissions, "_router", None)
    assert (await admissions.ask(question())).refused


async def test_a_reset_clears_it_within_100_ms(
    admissions: Admissions, listening: DenialCache, access: RedisAccess
) -> None:
    for _ in range(3):
        admission = await admissions.ask(question())
    assert admission.refused
    assert await RedisOperatorActions(access.client).reset_limit("acme", "some", "10.0.0.1", BY)
    async with asyncio.timeout(0.1):
        while (await admissions.ask(question())).refused:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


class Broken:
    """A client whose subscription breaks at once."""

    def pubsub(self) -> Any:
        return self

    async def subscribe(self, channel: str) -> None:
        raise ConnectionError(channel)

    async def aclose(self) -> None:
        """Nothing was opened."""


async def test_without_a_subscription_every_refusal_is_redis_own(admissions: Admissions) -> None:
    task = asyncio.create_task(admissions.denials.listen_forever(Broken()))
    for _ in range(3):
        await admissions.ask(question())
    assert admissions.denials.find(question()) is None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
