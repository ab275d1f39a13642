"""One admission: its limits, its event, and the batch that it shares; on fakeredis and on a real Redis."""

import asyncio
import time

from service.core.admission import Admission, Question, Terms
from service.core.errors import StoreUnavailable
from service.core.limits import Limit, Per
from service.core.operator_actions import Author
from service.core.sessions import Cause, Status
from service.core.tokens.claims import Identity
from service.store.admissions.batcher import MAX_WAITING, Admissions, SessionRules
from service.store.connection.client import RedisAccess
from service.store.events.stream import Events
from service.store.keyspace import keys_of
from service.store.sessions.listing import Sessions
from service.store.sessions.operator_actions import RedisOperatorActions
from tests.store.making import HOUR_MS, act, ask_about, exact_window, limit, now_ms

BY = Author("root")


async def test_a_window_admits_its_requests_and_says_how_much_is_used(admissions: Admissions) -> None:
    for used in (1, 2, 3):
        limit_state = (await admissions.ask(ask_about(None, limits=[limit(3)]))).limit_states[0]
        assert (limit_state.used, limit_state.over) == (used, False)
        assert limit_state.reset_s == 3600
    refused = await admissions.ask(ask_about(None, limits=[limit(3)]))
    assert refused.refused
    assert refused.limit_states[0].used == 3, "a refusal uses up nothing"
    assert refused.retry_after_s == 3600


async def test_all_limits_of_a_request_are_decided_together(admissions: Admissions) -> None:
    wide = Limit("wide", Per.IP, 10, 60)
    tight = Limit("tight", Per.IP, 1, 60)
    await admissions.ask(ask_about(None, limits=[wide, tight]))
    refused = await admissions.ask(ask_about(None, limits=[wide, tight]))
    assert [limit_state.used for limit_state in refused.limit_states] == [1, 1]
    assert [limit_state.refuses for limit_state in refused.limit_states] == [False, True]


async def test_a_limit_with_nothing_used_has_nothing_to_wait_for(admissions: Admissions) -> None:
    tight, unused = Limit("tight", Per.IP, 1, 60), Limit("unused", Per.IP, 5, 60)
    await admissions.ask(ask_about(None, limits=[tight]))
    limit_state = (await admissions.ask(ask_about(None, limits=[tight, unused]))).limit_states[1]
    assert (limit_state.remaining, limit_state.reset_s) == (5, 0)


async def test_a_shadow_limit_is_counted_and_never_refuses(admissions: Admissions) -> None:
    for _ in range(3):
        admission = await admissions.ask(ask_about(None, limits=[limit(2, shadow=True)]))
    assert admission.limit_states[0].over
    assert not admission.refused
    assert admission.limit_states[0].used == 2


async def test_a_lowered_limit_holds_at_once_with_what_was_admitted(admissions: Admissions) -> None:
    for _ in range(5):
        await admissions.ask(ask_about(None, limits=[limit(10)]))
    refused = await admissions.ask(ask_about(None, limits=[limit(3)]))
    assert refused.refused
    assert refused.limit_states[0].remaining == 0
    assert 3590 <= refused.retry_after_s <= 3600


async def test_a_limit_that_was_lowered_and_raised_again_forgets_nothing(admissions: Admissions) -> None:
    for _ in range(5):
        await admissions.ask(ask_about(None, limits=[limit(6)]))
    await admissions.ask(ask_about(None, limits=[limit(2)]))
    assert not (await admissions.ask(ask_about(None, limits=[limit(6)]))).refused
    assert (await admissions.ask(ask_about(None, limits=[limit(6)]))).refused


async def test_whoever_waits_retry_after_is_admitted_and_not_before(admissions: Admissions) -> None:
    for _ in range(2):
        await admissions.ask(ask_about(None, limits=[limit(2, window_s=1)]))
        await asyncio.sleep(0.3)
    refused = await admissions.ask(ask_about(None, limits=[limit(2, window_s=1)]))
    assert refused.retry_after_s == 1
    wait_us = refused.limit_states[0].reset_us
    assert 0 < wait_us <= 400_000, "the first of the two leaves the window first"
    await asyncio.sleep(wait_us / 2e6)
    still = await admissions.ask(ask_about(None, limits=[limit(2, window_s=1)]))
    assert still.refused
    await asyncio.sleep(still.limit_states[0].reset_us / 1e6)
    admitted = await admissions.ask(ask_about(None, limits=[limit(2, window_s=1)]))
    assert not admitted.refused
    assert admitted.limit_states[0].used == 2, "only the one that ran out was dropped"


async def test_a_window_that_ran_out_by_hundreds_is_dropped_at_once(
    admissions: Admissions, access: RedisAccess
) -> None:
    key = keys_of("?").window("some", "10.0.0.1")
    now_us = time.time_ns() // 1000
    await access.client.set(key, exact_window([now_us - 5_000_000 + i for i in range(700)] + [now_us] * 7))
    admission = await admissions.ask(ask_about(None, limits=[limit(1000, window_s=2)]))
    assert admission.limit_states[0].used == 8
    assert len(await access.client.get(key)) == 8 + 4 * 8


async def test_every_window_ends_by_itself(admissions: Admissions, access: RedisAccess) -> None:
    await admissions.ask(ask_about(None, limits=[limit(2, window_s=10)]))
    window_ms, grace_ms = 10_000, 10_000
    assert window_ms < await access.client.pttl(keys_of("?").window("some", "10.0.0.1")) <= window_ms * 1.01 + grace_ms


async def test_1000_at_once_admit_exactly_the_limit(admissions: Admissions) -> None:
    answers = await asyncio.gather(*(admissions.ask(ask_about(None, limits=[limit(50)])) for _ in range(1000)))
    assert sum(not answer.refused for answer in answers) == 50


async def test_a_timed_restriction_ends_by_itself(admissions: Admissions, access: RedisAccess) -> None:
    acts = RedisOperatorActions(access.client)
    await access.client.hset(keys_of("acme").rules, "past", now_ms() - 1000)
    await acts.restrict("acme", "alice", "soon", BY, until_ms=now_ms() + HOUR_MS)
    question = ask_about("alice", capabilities=("past", "soon"))
    assert (await admissions.ask(question)).restricted == "soon"
    assert await access.client.pttl(keys_of("acme").user_rules("alice")) == -1, "a server that evicts leaves it alone"
    assert 0 < await access.client.zscore(keys_of("acme").timed, "alice") - now_ms() <= HOUR_MS
    assert (await acts.restrict("acme", "alice", "soon", BY)).applied
    assert await access.client.zscore(keys_of("acme").timed, "alice") is None, "untimed now: it stays"
    assert not (await acts.restrict("acme", "alice", "soon", BY)).applied, "nothing changed"
    assert await acts.unrestrict("acme", "alice", "soon", BY)
    assert not await acts.unrestrict("acme", "alice", "soon", BY)
    assert (await admissions.ask(question)).restricted is None


async def test_an_event_has_the_user_the_change_the_address_and_the_request(
    admissions: Admissions, access: RedisAccess
) -> None:
    await admissions.ask(ask_about("alice", cause=Cause.LOGOUT))
    await act(access, Cause.SUSPEND)
    history = await Events(access.client).history("acme", "alice", most=5)
    assert [event.fields for event in history.events] == [
        {
            "type": "transition",
            "user": "alice",
            "from": "logged_out",
            "to": "suspended",
            "cause": "suspend",
            "by": "root",
            "reason": "because",
        },
        {
            "type": "transition",
            "user": "alice",
            "from": "none",
            "to": "logged_out",
            "cause": "logout",
            "by": "user",
            "ip": "10.0.0.1",
            "request": "req-1",
        },
    ]
    assert history.reaches_back_to_ms == history.events[-1].at_ms
    assert await access.client.pttl(keys_of("acme").events) == -1, "a server that evicts leaves it alone"


async def test_users_that_look_like_keys_stay_users(admissions: Admissions, access: RedisAccess) -> None:
    for user in ("by:logged_in", "{globex}:u:bob", "a b", "*", "ünï", "x" * 512):
        session = (await admissions.ask(ask_about(user))).session
        assert session is not None
        assert session.user == user
    assert (await Sessions(access.client).counts(["acme", "globex"]))["acme"][Status.LOGGED_IN] == 6
    keys: list[bytes] = await access.client.keys("*")
    assert all(key.startswith(b"rc:{acme}:") for key in keys)


async def test_a_question_without_user_and_limit_asks_nothing(access: RedisAccess) -> None:
    assert await Admissions(access.router(timeout_s=1), SessionRules(1, 1)).ask(ask_about(None)) == Admission()


async def test_one_questions_error_is_its_own(admissions: Admissions, access: RedisAccess) -> None:
    await access.client.sadd(keys_of("?").window("some", "10.0.0.1"), "not a window")
    answers = await asyncio.gather(
        admissions.ask(ask_about(None, limits=[limit(5)])),
        admissions.ask(ask_about("alice")),
        return_exceptions=True,
    )
    assert isinstance(answers[0], StoreUnavailable)
    assert "WRONGTYPE" in answers[0].reason
    assert isinstance(answers[1], Admission)


async def test_an_error_amid_a_batch_shifts_nobodys_answer_and_charges_nobody(
    admissions: Admissions, access: RedisAccess
) -> None:
    await access.client.sadd(keys_of("acme").user("broken"), "not a record")
    one = limit(5)
    users = ("alice", "broken", "bob", "carol", "broken", "dave")
    answers = await asyncio.gather(
        *(admissions.ask(ask_about(user, limits=[one])) for user in users), return_exceptions=True
    )
    found = [
        (answer.session.user, answer.limit_states[0].used)
        if isinstance(answer, Admission) and answer.session is not None
        else type(answer)
        for answer in answers
    ]
    wrong = StoreUnavailable
    assert found == [("alice", 1), wrong, ("bob", 2), ("carol", 3), wrong, ("dave", 4)]


async def test_a_caller_that_hangs_up_harms_no_other(admissions: Admissions) -> None:
    asking = [asyncio.create_task(admissions.ask(ask_about(None, limits=[limit(100)]))) for _ in range(200)]
    await asyncio.sleep(0)
    for task in asking[::2]:
        task.cancel()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    reported = [answer for answer in answers if isinstance(answer, Admission)]
    assert len(reported) == 100
    assert not any(answer.refused for answer in reported), "who hung up before being sent was not charged"
    assert not (await admissions.ask(ask_about("alice"))).refused


async def test_beyond_the_bound_nobody_waits(admissions: Admissions) -> None:
    asking = [asyncio.create_task(admissions.ask(ask_about(None, limits=[limit(1)]))) for _ in range(MAX_WAITING + 5)]
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert sum(isinstance(answer, StoreUnavailable) for answer in answers) == 5


def test_a_limit_whose_subject_is_unknown_is_skipped() -> None:
    limits = [Limit("a", Per.USER, 1, 1), Limit("b", Per.IP, 1, 1), Limit("c", Per.TENANT, 1, 1)]
    terms = Terms("acme", "some", tuple(limits), capabilities=("some",))
    assert [limit.name for limit in terms.anonymous.limits] == ["b", "c"]
    question = Question(terms, "x", "req-1", user=Identity("acme", "u", 0, None))
    assert [question.subject(limit) for limit in terms.limits] == ["u", "x", "-"]
