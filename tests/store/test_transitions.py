"""What an admission does to the session: the table of transitions, the grace after a logout, when it is written."""

import asyncio

import pytest

from service.core.operator_actions import Author
from service.core.sessions import Cause, Refusal, Session, Status
from service.store.admissions.batcher import Admissions, SessionRules
from service.store.connection.client import RedisAccess
from service.store.events.stream import Events
from service.store.keyspace import keys_of
from service.store.sessions.listing import Sessions
from service.store.sessions.operator_actions import RedisOperatorActions
from tests.store.making import HOUR_MS, act, ask_about, now_ms, sweeper

N, I, O, E, S, T = Status  # noqa: E741  # the columns of the table
DENIED, CONFLICT, UNKNOWN, _ = Refusal


TABLE: dict[Cause, dict[Status, Status | Refusal]] = {
    # From the left: none, logged_in, logged_out, expired, suspended, terminated.
    Cause.REQUEST: dict(zip(Status, [I, I, I, I, DENIED, DENIED], strict=True)),
    Cause.LOGOUT: dict(zip(Status, [O, O, O, O, DENIED, DENIED], strict=True)),
    Cause.OPERATOR_LOGOUT: dict(zip(Status, [UNKNOWN, O, O, O, CONFLICT, CONFLICT], strict=True)),
    Cause.SUSPEND: dict(zip(Status, [S, S, S, S, S, CONFLICT], strict=True)),
    Cause.REINSTATE: dict(zip(Status, [UNKNOWN, CONFLICT, CONFLICT, CONFLICT, O, CONFLICT], strict=True)),
    Cause.TERMINATE: dict(zip(Status, [T, T, T, T, T, T], strict=True)),
}
CELLS = [(cause, start, outcome) for cause, row in TABLE.items() for start, outcome in row.items()]


@pytest.mark.parametrize(("cause", "start", "outcome"), CELLS, ids=lambda value: value.value)
async def test_the_table_of_transitions_cell_by_cell(
    admissions: Admissions, access: RedisAccess, cause: Cause, start: Status, outcome: Status | Refusal
) -> None:
    await put_into(admissions, access, start)
    reported_before = len((await Events(access.client).history("acme", "alice", most=9)).events)
    came_from, became, session = await cause_of(admissions, access, cause)
    expected = outcome if isinstance(outcome, Status) else start
    assert became == outcome
    assert came_from is start
    assert (session.status if session else N) is expected
    events = (await Events(access.client).history("acme", "alice", most=9)).events
    assert len(events) - reported_before == (1 if expected is not start else 0), "one event for a transition, else none"
    if expected is not start:
        assert session is not None
        assert session.previous is (None if start is N else start)
        assert events[0].fields["from"] == start.value
        assert events[0].fields["to"] == expected.value
        assert events[0].fields["cause"] == cause.value
    counts = (await Sessions(access.client).counts(["acme"]))["acme"]
    assert {status: count for status, count in counts.items() if count} == ({expected: 1} if expected is not N else {})


async def put_into(admissions: Admissions, access: RedisAccess, status: Status) -> None:
    """Bring alice into `status`, as it happens."""
    if status is N:
        return
    await admissions.ask(ask_about("alice", expires_ms=now_ms() - 1 if status is E else now_ms() + HOUR_MS))
    if status is O:
        await admissions.ask(ask_about("alice", cause=Cause.LOGOUT))
    elif status is E:
        await sweep(access)
    elif status is not I:
        await act(access, Cause.SUSPEND if status is S else Cause.TERMINATE)


async def cause_of(
    admissions: Admissions, access: RedisAccess, cause: Cause
) -> tuple[Status, Status | Refusal, Session | None]:
    """Let `cause` happen to alice; returns where she came from, what became of it, and her session."""
    if cause not in (Cause.REQUEST, Cause.LOGOUT):
        done = await act(access, cause)
        return done.came_from, done.outcome, done.session
    before = await Sessions(access.client).get("acme", "alice")
    session = (await admissions.ask(ask_about("alice", cause=cause))).session
    assert session is not None
    refused = session.status in (S, T)
    return before.status if before else N, DENIED if refused else session.status, session


async def sweep(access: RedisAccess) -> None:
    await sweeper(access).sweep()


async def test_a_busy_user_costs_no_writes_until_seen_every_has_passed(
    admissions: Admissions, access: RedisAccess
) -> None:
    expires_ms = now_ms() + HOUR_MS
    first = (await admissions.ask(ask_about("alice", expires_ms=expires_ms))).session
    again = (await admissions.ask(ask_about("alice", expires_ms=expires_ms))).session
    assert again == first
    admissions.rules = SessionRules(0, 0)
    later = (await admissions.ask(ask_about("alice", expires_ms=expires_ms))).session
    assert later is not None
    assert first is not None
    assert (later.seen_ms or 0) >= (first.seen_ms or 0)
    score = await access.client.zscore(keys_of("acme").by_status[I], "alice")
    assert score == later.seen_ms


async def test_the_first_token_without_iat_is_noted_at_once_and_written_once(
    admissions: Admissions, access: RedisAccess
) -> None:
    """The answer to a revocation says that such tokens stay refused."""
    expires_ms = now_ms() + HOUR_MS
    with_iat, without = (ask_about("alice", expires_ms=expires_ms, issued_s=issued_s) for issued_s in (1.0, None))
    carry, texts = [], []
    for question in (with_iat, without, with_iat, without):
        session = (await admissions.ask(question)).session
        assert session is not None
        carry.append(session.tokens_carry_iat)
        texts.append(await access.client.get(keys_of("acme").user("alice")))
    assert carry == [True, False, False, False], "until the next write, after seen_every"
    assert texts[1] == texts[2] == texts[3]


async def test_the_latest_expiry_seen_is_kept(admissions: Admissions) -> None:
    late, early = now_ms() + 2 * HOUR_MS, now_ms() + HOUR_MS
    for expires_ms in (early, late, early):
        session = (await admissions.ask(ask_about("alice", expires_ms=expires_ms))).session
    assert session is not None
    assert session.expires_ms == late


async def test_passive_requests_change_nothing_but_are_refused_like_others(
    admissions: Admissions, access: RedisAccess
) -> None:
    await admissions.ask(ask_about("alice", cause=Cause.LOGOUT))
    passive = await admissions.ask(ask_about("alice", passive=True, expires_ms=now_ms() + 9 * HOUR_MS))
    assert passive.session is not None
    assert (passive.session.status, passive.came_from) == (O, None)
    await act(access, Cause.SUSPEND)
    refused = await admissions.ask(ask_about("alice", passive=True))
    assert refused.session is not None
    assert refused.session.status is S


async def test_the_grace_holds_after_a_logout_but_not_after_a_reinstatement(
    admissions: Admissions, access: RedisAccess
) -> None:
    admissions.rules = SessionRules(60_000, logout_grace_ms=60_000)
    await admissions.ask(ask_about("alice", cause=Cause.LOGOUT))
    assert (await admissions.ask(ask_about("alice"))).came_from is None
    await act(access, Cause.SUSPEND)
    await act(access, Cause.REINSTATE)
    assert (await admissions.ask(ask_about("alice"))).came_from is O


@pytest.mark.parametrize(("issued_after_s", "came_from"), [(None, None), (-60, None), (0, None), (2, O), (30, O)])
async def test_within_the_grace_a_token_that_was_issued_after_the_logout_is_a_login(
    admissions: Admissions, issued_after_s: float | None, came_from: Status | None
) -> None:
    admissions.rules = SessionRules(60_000, logout_grace_ms=60_000)
    out = await admissions.ask(ask_about("alice", cause=Cause.LOGOUT))
    assert out.session is not None
    assert out.session.since_ms is not None
    issued_s = None if issued_after_s is None else out.session.since_ms // 1000 + issued_after_s
    assert (await admissions.ask(ask_about("alice", issued_s=issued_s))).came_from is came_from


@pytest.mark.parametrize(("issued_after_ms", "came_from"), [(-500, None), (-1, None), (1, O), (500, O)])
async def test_within_the_grace_a_token_whose_iat_has_fractions_is_compared_with_the_moment_of_the_logout(
    admissions: Admissions, access: RedisAccess, issued_after_ms: int, came_from: Status | None
) -> None:
    admissions.rules = SessionRules(60_000, logout_grace_ms=60_000)
    out = await admissions.ask(ask_about("alice", cause=Cause.LOGOUT, issued_s=1.5))
    assert out.session is not None
    assert out.session.since_ms is not None
    question = ask_about("alice", issued_s=(out.session.since_ms + issued_after_ms) / 1000)
    answer = await admissions.ask(question)
    assert (answer.came_from, answer.revoked) == (came_from, False)
    assert answer.session is not None
    assert answer.session.tokens_carry_iat
    await RedisOperatorActions(access.client).revoke("acme", "alice", Author("root"))
    assert (await admissions.ask(question)).revoked, "a fraction does not lift a token over a revocation"


async def test_within_the_grace_a_token_that_was_issued_before_a_later_logout_is_no_login(
    admissions: Admissions, access: RedisAccess
) -> None:
    admissions.rules = SessionRules(60_000, logout_grace_ms=60_000)
    await admissions.ask(ask_about("alice", cause=Cause.LOGOUT))
    issued_s = now_ms() / 1000 + 2
    await admissions.ask(ask_about("alice", issued_s=issued_s))
    await act(access, Cause.LOGOUT)
    assert (await admissions.ask(ask_about("alice", issued_s=issued_s - 60))).came_from is None


def logged_out_in_an_hour() -> str:
    later = now_ms() + HOUR_MS
    return f"oi {later} {later} {later + HOUR_MS}"


async def test_who_logged_out_before_the_clock_was_set_back_is_logged_in_by_the_next_request(
    admissions: Admissions, access: RedisAccess
) -> None:
    await access.client.set(keys_of("acme").user("alice"), logged_out_in_an_hour())
    admission = await admissions.ask(ask_about("alice"))
    assert (admission.came_from, admission.session.status) == (Status.LOGGED_OUT, Status.LOGGED_IN)  # type: ignore[union-attr]


async def test_a_grace_counts_from_the_first_request_after_the_clock_was_set_back(
    admissions: Admissions, access: RedisAccess
) -> None:
    key, asked = keys_of("acme").user("alice"), ask_about("alice")
    await access.client.set(key, logged_out_in_an_hour())
    admissions.rules = SessionRules(seen_every_ms=60_000, logout_grace_ms=5000)
    assert (await admissions.ask(asked)).session.status is Status.LOGGED_OUT  # type: ignore[union-attr]
    status, _, _, _, again = (await access.client.get(key)).decode().split()
    assert status.lower() == "oi"
    assert abs(int(again) - now_ms()) < 5000
    await asyncio.sleep(0.01)
    admissions.rules = SessionRules(seen_every_ms=60_000, logout_grace_ms=1)
    assert (await admissions.ask(asked)).session.status is Status.LOGGED_IN  # type: ignore[union-attr]


async def test_last_seen_is_not_left_ahead_of_a_clock_that_was_set_back(
    admissions: Admissions, access: RedisAccess
) -> None:
    later = now_ms() + HOUR_MS
    await access.client.set(keys_of("acme").user("alice"), f"i- {now_ms()} {later} {later + HOUR_MS}")
    session = (await admissions.ask(ask_about("alice"))).session
    assert session is not None
    assert (session.seen_ms or 0) <= now_ms() + 1000
