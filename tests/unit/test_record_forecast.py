"""The forecast whether an admission changes a record: it is wrong only where it may be."""

from collections.abc import Sequence

import pytest

from service.core.admission import Question, Terms
from service.core.sessions import MOST_SESSIONS, Cause, Session, Status
from service.core.tokens.claims import Identity
from service.store.admissions.record_forecast import RULED_S, RecordForecast

SEEN_EVERY_MS = 60_000
EXPIRES_MS = 1_800_003_600_000


class Clocks:
    """Redis's clock in milliseconds, and one in seconds that does not go back."""

    def __init__(self) -> None:
        self.now_ms = 1_800_000_000_000.0
        self.passed_s = 0.0

    def forecast(self) -> RecordForecast:
        return RecordForecast(lambda: self.now_ms, lambda: self.passed_s)


def question(
    cause: Cause = Cause.REQUEST,
    *,
    passive: bool = False,
    expires_ms: int = EXPIRES_MS,
    issued_s: float | None = 1.0,
    user: str = "alice",
) -> Question:
    terms = Terms("acme", "status", capabilities=("status",), cause=cause)
    return Question(terms, "10.0.0.1", "r", Identity("acme", user, expires_ms, issued_s), passive)


def session(status: Status = Status.LOGGED_IN, *, seen_ms: int | None = 1_800_000_000_000) -> Session:
    return Session("alice", status, None, 1_800_000_000_000, seen_ms, EXPIRES_MS)


def changes(clocks: Clocks, asked: Question, known: Sequence[Session] = ()) -> bool:
    forecast = clocks.forecast()
    for one in known:
        forecast.learn(asked, one)
    return forecast.changes_record(asked, SEEN_EVERY_MS)


def test_a_user_who_was_not_met_before_is_expected_to_be_written() -> None:
    assert changes(Clocks(), question())


@pytest.mark.parametrize("cause", [one for one in Cause if one is not Cause.REQUEST])
def test_anything_but_a_request_is_expected_to_change_the_record(cause: Cause) -> None:
    assert changes(Clocks(), question(cause), [session()])


@pytest.mark.parametrize(("passed_ms", "expected"), [(0, False), (59_999, False), (60_000, True), (-1, True)])
def test_a_request_of_a_known_user_changes_the_record_once_in_seen_every(passed_ms: int, expected: bool) -> None:
    clocks = Clocks()
    clocks.now_ms += passed_ms
    assert changes(clocks, question(), [session()]) is expected


def test_a_token_that_ends_later_changes_the_record() -> None:
    assert changes(Clocks(), question(expires_ms=EXPIRES_MS + 1), [session()])
    assert not changes(Clocks(), question(expires_ms=EXPIRES_MS - 1), [session()])


def test_the_first_token_without_iat_changes_the_record() -> None:
    known = session()
    assert changes(Clocks(), question(issued_s=None), [known])
    known.undated = True
    assert not changes(Clocks(), question(issued_s=None), [known])
    assert not changes(Clocks(), question(), [known]), "noted with the next write"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (Status.LOGGED_IN, False),
        (Status.LOGGED_OUT, True),
        (Status.EXPIRED, True),
        (Status.SUSPENDED, False),
        (Status.TERMINATED, False),
    ],
)
def test_a_request_changes_the_record_of_whom_it_logs_in(status: Status, expected: bool) -> None:
    assert changes(Clocks(), question(), [session(status)]) is expected


def test_a_passive_request_changes_no_record() -> None:
    assert not changes(Clocks(), question(passive=True))


def test_the_last_record_is_the_one_that_counts_and_users_do_not_share_it() -> None:
    forecast = Clocks().forecast()
    forecast.learn(question(), session(Status.LOGGED_OUT))
    forecast.learn(question(), session())
    assert not forecast.changes_record(question(), SEEN_EVERY_MS)
    assert forecast.changes_record(question(user="bob"), SEEN_EVERY_MS)


def test_no_more_users_are_remembered_than_records_are_cached() -> None:
    forecast = Clocks().forecast()
    for number in range(MOST_SESSIONS + 1):
        forecast.learn(question(user=f"user-{number}"), session())
    assert forecast.changes_record(question(user="user-0"), SEEN_EVERY_MS), "forgotten, so everything is sent"
    assert not forecast.changes_record(question(user=f"user-{MOST_SESSIONS}"), SEEN_EVERY_MS)


def test_the_rules_of_a_tenants_users_are_sent_for_a_minute_after_they_were_needed() -> None:
    clocks = Clocks()
    forecast = clocks.forecast()
    assert not forecast.reads_rules("acme")
    forecast.learn_ruled("acme")
    assert forecast.reads_rules("acme")
    assert not forecast.reads_rules("globex")
    clocks.passed_s = RULED_S
    assert not forecast.reads_rules("acme")
