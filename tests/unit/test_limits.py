"""Windows in memory, and what is decided while Redis is away. The clock is passed in."""

import random

import pytest

from service.core.admission import Admission, OutagePolicy, Question, Terms, judge
from service.core.errors import (
    ExpiredUserToken,
    RestrictedCapability,
    StoreUnavailable,
    TooManyRequests,
    UserSuspended,
)
from service.core.limits import BUCKETS, Charge, Limit, LocalWindows, OnOutage, Per
from service.core.sessions import Cause, Session, Status
from service.core.tokens.claims import Identity

ALICE = Identity("acme", "alice", 2_000_000_000_000, None)


def charge(requests: int = 2, window_s: int = 10, name: str = "some", **how: object) -> Charge:
    return Charge(Limit(name, Per.IP, requests, window_s, **how), "1.2.3.4")  # type: ignore[arg-type]


def question(*charges: Charge, user: Identity | None = ALICE, cause: Cause = Cause.REQUEST, **how: object) -> Question:
    terms = Terms("acme", "some", tuple(charge.limit for charge in charges), capabilities=("some",), cause=cause)
    return Question(terms, "1.2.3.4", "req-1", user=user, **how)  # type: ignore[arg-type]


class Clock:
    now_us = 5_000_000

    def __call__(self) -> int:
        return self.now_us


def test_a_local_window_slides() -> None:
    windows = LocalWindows()

    def at(second: int) -> bool:
        return windows.decide([("acme", charge())], second * 1_000_000)[0].over

    assert [at(0), at(4), at(5), at(9), at(10), at(11), at(14)] == [False, False, True, True, False, True, False]


def test_a_local_refusal_says_how_long_to_wait() -> None:
    windows = LocalWindows()
    for second in (0, 4):
        windows.decide([("acme", charge())], second * 1_000_000)
    assert windows.decide([("acme", charge())], 5_500_000)[0].reset_s == 5


def test_local_charges_are_decided_together_and_shadows_never_refuse() -> None:
    windows = LocalWindows()
    both = [("acme", charge(9, name="wide")), ("acme", charge(1, name="tight"))]
    windows.decide(both, 0)
    assert [limit_state.used for limit_state in windows.decide(both, 1)] == [1, 1]
    shadow = [("acme", charge(1, name="shadow", shadow=True))]
    assert [windows.decide(shadow, 2)[0].refuses for _ in range(3)] == [False] * 3


def test_local_windows_are_bounded_and_per_tenant() -> None:
    windows = LocalWindows(subjects=2)
    one = charge(1)
    for tenant in ("a", "b", "c"):
        assert not windows.decide([(tenant, one)], 0)[0].over
    assert not windows.decide([("a", one)], 0)[0].over, "the one longest unused was forgotten"
    assert windows.decide([("c", one)], 0)[0].over


@pytest.mark.parametrize(
    ("on_outage", "user", "cause", "allow", "unavailable", "degraded"),
    [
        (OnOutage.DENY, ALICE, Cause.REQUEST, True, "limits", ("limits", "sessions")),
        (OnOutage.ALLOW, ALICE, Cause.REQUEST, True, None, ("limits", "sessions")),
        (OnOutage.LOCAL, ALICE, Cause.REQUEST, True, None, ("limits", "sessions")),
        (OnOutage.LOCAL, ALICE, Cause.REQUEST, False, "sessions", ("limits", "sessions")),
        (OnOutage.LOCAL, ALICE, Cause.LOGOUT, True, "sessions", ("limits", "sessions")),
        (OnOutage.LOCAL, None, Cause.LOGOUT, True, None, ("limits",)),
        (None, ALICE, Cause.REQUEST, True, None, ("sessions",)),
    ],
)
def test_an_outage_is_decided_as_each_limit_and_the_sessions_say(
    on_outage: OnOutage | None,
    user: Identity | None,
    cause: Cause,
    allow: bool,
    unavailable: str | None,
    degraded: tuple[str, ...],
) -> None:
    policy = OutagePolicy(allow_sessions=allow, clock_us=Clock())
    charges = () if on_outage is None else (charge(on_outage=on_outage),)
    admission = policy.decide(question(*charges, user=user, cause=cause))
    assert (admission.unavailable, admission.degraded) == (unavailable, degraded)
    assert len(admission.limit_states) == (1 if on_outage is OnOutage.LOCAL else 0)


def test_a_shadow_limit_denies_nobody_in_an_outage() -> None:
    policy = OutagePolicy(allow_sessions=True, clock_us=Clock())
    assert policy.decide(question(charge(on_outage=OnOutage.DENY, shadow=True))).unavailable is None


def test_a_local_limit_refuses_during_an_outage() -> None:
    policy = OutagePolicy(allow_sessions=True, clock_us=Clock())
    for _ in range(2):
        judge(question(), policy.decide(question(charge())))
    with pytest.raises(TooManyRequests) as reported:
        judge(question(), policy.decide(question(charge())))
    assert reported.value.retry_after_s == 10


def test_a_limit_that_an_operator_lowered_holds_during_an_outage_too() -> None:
    lowered: list[str | None] = []

    def held(tenant: str | None, limit: Limit) -> Limit:
        lowered.append(tenant)
        return limit.changed(1, 60)

    policy = OutagePolicy(allow_sessions=True, clock_us=Clock(), held=held)
    first, second = (policy.decide(question(charge(requests=10_000, window_s=86_400))) for _ in range(2))
    assert (first.refused, second.refused, second.retry_after_s) == (False, True, 60)
    assert set(lowered) == {"acme"}


def test_a_large_local_window_is_never_over_and_takes_constant_memory() -> None:
    windows, large = LocalWindows(), charge(requests=50_000, window_s=60)
    admitted: list[int] = []
    for step in range(200_000):
        now_us = step * 1000  # a thousand a second
        [state] = windows.decide([("acme", large)], now_us)
        if not state.over:
            admitted.append(now_us)
    [kept] = windows._windows.values()
    assert len(kept.entries) <= BUCKETS + 2
    first = 0
    for last, now_us in enumerate(admitted):
        while admitted[first] <= now_us - 60_000_000:
            first += 1
        assert last - first < 50_000
    assert len(admitted) >= 0.98 * 50_000 * 200 / 60


@pytest.mark.parametrize("seed", range(20))
def test_local_windows_agree_with_a_plain_list_whatever_changes(seed: int) -> None:
    rng, windows, now_us = random.Random(seed), LocalWindows(), 0
    admitted: list[int] = []
    for _ in range(200):
        now_us += rng.choice([0, 1, 700_000, 5_000_000, 60_000_000])
        limit = Limit("some", Per.IP, rng.choice([1, 2, 3, 5, 9]), rng.choice([1, 10, 60, 3600]))
        length_us = limit.window_s * 1_000_000
        [limit_state] = windows.decide([("acme", Charge(limit, "1.2.3.4"))], now_us)
        admitted = [at for at in admitted if at + length_us > now_us]
        assert limit_state.over == (len(admitted) >= limit.requests)
        if not limit_state.over:
            admitted.append(now_us)
        assert limit_state.used == len(admitted)
        frees = admitted[max(0, len(admitted) - limit.requests)]
        assert limit_state.reset_us == frees + length_us - now_us
        assert 0 < limit_state.reset_us <= length_us


def test_the_order_of_judgement() -> None:
    """429, 503 of limits, 401, 503 of sessions, 403 suspended, 403 capability."""
    over = LocalWindows().decide([("acme", charge(0))], 0)
    suspended = Session("alice", Status.SUSPENDED, None, None, None, None)
    wrong = question(failure=ExpiredUserToken())
    good = question()
    ladder: list[tuple[type[Exception], Question, Admission]] = [
        (TooManyRequests, wrong, Admission(tuple(over), suspended, restricted="x", unavailable="limits")),
        (StoreUnavailable, wrong, Admission((), suspended, restricted="x", unavailable="limits")),
        (ExpiredUserToken, wrong, Admission((), suspended, restricted="x", unavailable="sessions")),
        (StoreUnavailable, good, Admission((), suspended, restricted="x", unavailable="sessions")),
        (UserSuspended, good, Admission((), suspended, restricted="x")),
        (RestrictedCapability, good, Admission((), restricted="x")),
    ]
    for error, asked, admission in ladder:
        with pytest.raises(error):
            judge(asked, admission)
    judge(good, Admission())
